import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  type Change,
  type Context,
  destination,
  GuardError,
  type Outcome,
  type Outcomes,
  type Plan,
  type Run,
  sync,
} from '../../src/index.js'
import { createSource, NotModified, type SourceDefinition } from '../../src/source.js'
import { fingerprinted } from '../../src/sources/sql.js'
import { fakeClock, passTime } from '../support/clock.js'
import { type Death, dieAt, immortal } from '../support/death.js'
import {
  type Behaviour,
  behaviours,
  type Entry,
  type Poison,
  policy,
  type Sender,
  sleep,
  store,
  text,
} from '../support/objects.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// Histories as a user sees them: before each run a plan, after it the counts that it tells, and between them what was sent.
// Whatever went before (lost answers, refusals, guards, a source that broke off, a death), the plan knows of everything that the
// destination should get, the run sends what the plan showed, and all of it was a change. changes.test.ts is about what the
// state says of the destination.

const soak = process.env['SOAK'] !== undefined
// first what must be among them; in the quick form always the same. One that fails is told as it is: smaller ones would take too
// long to find
const settings = (histories: readonly History[], numRuns: number, seed: number) => ({
  endOnFailure: true,
  examples: histories.map((history): [History] => [history]),
  ...(soak ? { numRuns: numRuns * 20 } : { numRuns, seed }),
  ...(process.env['SEED'] && { seed: Number(process.env['SEED']) }),
})

/** What a sync is throughout its history. */
interface Job {
  readonly mode: 'insert' | 'update' | 'upsert' | 'mirror'
  /** By which field the destination finds its object. */
  readonly match: 'id' | 'email'
  /** How far a read goes back behind where the last one ended; undefined: the source shows everything, without a cursor. */
  readonly lag: number | undefined
  /** A source that shows everything is read at once, and can tell when it shows what it showed before. */
  readonly tells: boolean
}

interface Row {
  readonly id: number
  readonly email: number | null
  readonly value: number
  readonly at: number
}

/** One run, as it is meant to go. */
interface Session {
  /** What the source shows then, where it shows everything; by the place of the key. */
  readonly table: readonly ({ readonly email: number | null; readonly value: number } | undefined)[]
  /** Whether it shows the keys from the last to the first. */
  readonly reversed: boolean
  /** Or the same as at the run before. */
  readonly stays: boolean
  /** Rows that come to a source with a cursor: so much further on, or so much late. */
  readonly added: readonly {
    readonly id: number
    readonly value: number
    readonly step: number
    readonly late: number
  }[]
  readonly batchSize: number
  readonly concurrency: number
  readonly calls: readonly Behaviour[]
  /** Two maps make the same records, the third makes others. */
  readonly map: 'a' | 'the same' | 'b'
  readonly allowRejections: boolean
  readonly allowDeletes: boolean
  readonly maxRejected: number | undefined
  readonly full: boolean
  /** The source breaks off after so many rows. */
  readonly breaks: number | undefined
  /** Dies when so many named points have been passed. */
  readonly dies: number | undefined
  /** Is told to stop at that call of the destination, counted from 1. */
  readonly stops: number | undefined
  /** Milliseconds from the end of this run to the beginning of the next. */
  readonly pause: number
}

interface History {
  readonly job: Job
  readonly runs: readonly Session[]
  readonly poison: Poison
  readonly random: number
}

const keys = 6
/** Keys, and emails, whose objects are there before an update. */
const there = [0, 1, 2, 3]
const deleteCeiling = 2

const seldom = <T>(arbitrary: fc.Arbitrary<T>, freq = 3) => fc.option(arbitrary, { nil: undefined, freq })

const sessions: fc.Arbitrary<Session> = fc.record({
  table: fc.array(
    fc.oneof(
      { weight: 1, arbitrary: fc.constant(undefined) },
      {
        weight: 3,
        arbitrary: fc.record({ email: fc.constantFrom(0, 1, 2, 3, 4, null), value: fc.constantFrom(0, 0, 1, 1, 2) }),
      },
    ),
    { minLength: keys, maxLength: keys },
  ),
  reversed: fc.boolean(),
  stays: fc.boolean(),
  added: fc.array(
    fc.record({
      id: fc.nat({ max: keys - 1 }),
      value: fc.constantFrom(0, 0, 1, 2),
      step: fc.constantFrom(0, 0, 1, 3),
      late: fc.constantFrom(0, 0, 0, 1, 2),
    }),
    { maxLength: 6 },
  ),
  batchSize: fc.integer({ min: 1, max: 4 }),
  concurrency: fc.integer({ min: 1, max: 3 }),
  calls: fc.oneof(fc.constant([]), behaviours),
  map: fc.constantFrom('a', 'a', 'the same', 'b'),
  allowRejections: fc.boolean(),
  allowDeletes: fc.boolean(),
  maxRejected: fc.constantFrom(undefined, undefined, 0, 1),
  full: fc.constantFrom(false, false, false, true),
  breaks: fc.constantFrom(undefined, undefined, undefined, undefined, 0, 3),
  dies: seldom(fc.integer({ min: 1, max: 70 }), 2),
  stops: seldom(fc.integer({ min: 1, max: 5 }), 4),
  pause: fc.constantFrom(0, 0, 60_000),
})

const historiesOf = (jobs: fc.Arbitrary<Job>): fc.Arbitrary<History> =>
  fc.record({
    job: jobs,
    runs: fc.array(sessions, { minLength: 2, maxLength: 3 }),
    poison: fc.record({
      value: fc.constantFrom(2, 99),
      refuses: fc.constantFrom('batch' as const, 'rows' as const),
    }),
    random: fc.nat(),
  })

const healthy = {
  reversed: false,
  stays: false,
  batchSize: 4,
  concurrency: 2,
  calls: [],
  map: 'a',
  allowRejections: true,
  allowDeletes: true,
  maxRejected: undefined,
  full: false,
  breaks: undefined,
  dies: undefined,
  stops: undefined,
  pause: 0,
} as const

const everybody: Session['table'] = Array.from({ length: keys }, (_, id) => ({ email: id, value: 0 }))
const changed: Session['table'] = everybody.map((_, id) => ({ email: id, value: 1 }))
const lost = Array.from({ length: 20 }, () => ({ kind: 'breaks', status: 500, applied: true }) as const)
const never = lost.map((one) => ({ ...one, applied: false }))

/** A history with what chance would seldom bring. */
const history = (job: Job, ...runs: readonly Partial<Session>[]): History => ({
  job,
  runs: runs.map((run) => ({ ...healthy, table: everybody, added: [], ...run })),
  poison: { value: 99, refuses: 'rows' },
  random: 1,
})

/** Too many are gone; one takes what another was found by while all answers are lost; all is as it was, but for that. */
const passedOn = history(
  { mode: 'mirror', match: 'email', lag: undefined, tells: false },
  {},
  {
    table: everybody.with(0, undefined).with(1, undefined).with(2, undefined),
    allowDeletes: false,
  },
  { table: changed.with(0, undefined).with(1, { email: 0, value: 0 }), calls: lost },
  { table: everybody.with(0, undefined).with(1, { email: 0, value: 0 }) },
)
/** Answers are lost, and the source goes back to what was there, or stays as it is. */
const backAgain = history(
  { mode: 'update', match: 'id', lag: undefined, tells: false },
  {},
  { table: changed, calls: lost },
  {},
  { table: changed, calls: never },
  { table: changed },
)
/** What the source tells to be as it was is delivered, refused, taken back and made anew in between. */
const toldBefore = history(
  { mode: 'mirror', match: 'id', lag: undefined, tells: true },
  { table: changed.with(0, { email: 0, value: 99 }) },
  { stays: true },
  {},
  { stays: true },
  { stays: true, map: 'b' },
  { stays: true, map: 'b' },
  { table: changed.map((row, id) => (id < 3 ? undefined : row)), map: 'b', allowDeletes: false },
  { map: 'b' },
  { stays: true, map: 'b', full: true, calls: lost },
  { stays: true, map: 'b', calls: never },
  { stays: true, map: 'b' },
  { table: changed },
  { table: changed.with(0, undefined), calls: [{ kind: 'fatal' }] },
  { stays: true },
)
const added = (...ids: number[]) => ids.map((id) => ({ id, value: ids.length % 3, step: 0, late: 0 }))
/** Rows come to where the last read ended; some are left open, and newer ones of the same keys come. */
const ties = history(
  { mode: 'upsert', match: 'id', lag: 0, tells: false },
  { added: [...added(0, 1), { id: 2, value: 0, step: 3, late: 0 }] },
  { added: added(3, 0, 4, 4) },
  { added: added(1, 5), calls: [{ kind: 'fatal' }] },
  { added: added(1, 2, 2) },
)

// `map` is known by its text, so each is written out
const maps = {
  a: ({ id, email, value }: Row): Entry => ({ id, email, value, by: 'a' }),
  'the same': (row: Row): Entry => ({ id: row.id, email: row.email, value: row.value, by: 'a' }),
  b: ({ id, email, value }: Row): Entry => ({ id, email, value, by: 'b' }),
} as const

/** What the source of a cursor holds after some more has come to it. */
function grown(log: readonly Row[], { added }: Session, { lag = 0 }: Job): Row[] {
  const rows = [...log]
  for (const { id, value, step, late } of added) {
    const newest = rows.reduce((max, { at }) => Math.max(max, at), 0)
    rows.push({ id, email: id, value, at: late > 0 ? newest - Math.min(late, lag) : newest + step })
  }
  return rows
}

const rowsOfTable = ({ table, reversed }: Session): Row[] => {
  const rows = table.flatMap((row, id) => (row === undefined ? [] : { id, ...row, at: 0 }))
  return reversed ? rows.reverse() : rows
}

/** Brings all rows at once, unless they are those that it brought before. */
function told(rows: readonly Row[]): SourceDefinition['bulk'] {
  return async ({ etag, version, describe }) => {
    const columns = ['id', 'email', 'value', 'at'].map((name) => ({ name, type: 'double', nullable: true }) as const)
    describe(columns)
    const now = JSON.stringify(rows)
    if (etag === now) return new NotModified(rows.length)
    const lines = rows.map((row) => `('i${row.id}', '${JSON.stringify(row)}')`)
    const nothing = `select '' as key, '' as line where false`
    const select = rows.length > 0 ? `select * from (values ${lines.join()}) t (key, line)` : nothing
    return {
      relation: fingerprinted(select, 'line', version),
      content: { text: 'line' },
      place: 'row_number() over ()',
      etag: now,
    }
  }
}

async function* breakingOff(rows: readonly Row[], after: number | undefined): AsyncGenerator<Row[]> {
  for (const [index, row] of rows.entries()) {
    if (index === after) throw new Error('the connection was reset')
    yield [row]
  }
  if (after !== undefined) throw new Error('the connection was reset')
}

function syncOf(
  { mode, match, lag, tells }: Job,
  session: Session,
  rows: readonly Row[],
  state: string,
  call: (batch: Entry[], context: Context) => Promise<Outcome[] | undefined>,
  verify: (batch: Entry[]) => Entry[] = () => [],
) {
  const { batchSize, concurrency } = session
  const to = destination({ name: 'store', batchSize, concurrency, match, ...policy })
  const common = {
    name: 'job',
    from: createSource<Row>({
      name: 'source',
      read: ({ since = Number.NEGATIVE_INFINITY }) =>
        breakingOff(
          rows.filter(({ at }) => at >= (since as number)),
          session.breaks,
        ),
      bulk: tells && session.breaks === undefined ? told(rows) : undefined,
    }),
    map: maps[session.map],
    key: 'id',
    maxRejected: session.maxRejected,
    state,
    log: quiet,
  } as const
  const cursor = lag === undefined ? undefined : lag === 0 ? 'at' : { column: 'at' as const, lag }
  if (mode === 'insert') return sync({ ...common, cursor, to: to({ insert: call, verify }), mode })
  if (mode === 'update') return sync({ ...common, cursor, to: to({ update: call }), mode })
  // what cannot be asked for must not be asked for: a delete in upsert would be a call all the same
  const writes = to({ upsert: call, delete: (batch: Pick<Entry, 'id'>[], context) => call(batch as Entry[], context) })
  if (mode === 'upsert') return sync({ ...common, cursor, to: writes, mode })
  return sync({ ...common, to: writes, mode, deleteCeiling })
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

function addsUp({ rows, delivered, unchanged, rejected, pending, unknown, superseded }: Outcomes): void {
  const counts = [delivered, unchanged, rejected, pending, unknown, superseded]
  expect(Math.min(rows, ...counts)).toBeGreaterThanOrEqual(0)
  expect(counts.reduce((sum, count) => sum + count)).toBe(rows)
}

/** One thing that is sent or shown, in a form in which two of them compare. */
const said = (operation: string, entry: Entry, match: Job['match']): string =>
  operation === 'delete' ? `delete ${match} ${entry[match]}` : `${operation} ${entry.id}: ${text(entry)}`

/** Why this should not be sent in that run. */
function unwanted(job: Job, session: Session, rows: readonly Row[], operation: string, entry: Entry) {
  const { mode, match, lag } = job
  if (operation === 'delete') {
    if (mode !== 'mirror') return `a delete in ${mode}`
    if (session.breaks !== undefined) return 'a delete from a read that broke off'
    const live = rows.some((row) => row[match] === entry[match])
    return live ? `a delete of the live ${match} ${entry[match]}` : undefined
  }
  // what an insert is asked for a second time, or what a cursor had read before, may be another value
  if (mode === 'insert' || lag !== undefined) return undefined
  const row = rows.find(({ id }) => id === entry.id)
  const shown = row && text(maps[session.map](row))
  return shown === text(entry) ? undefined : `${text(entry)} for key ${entry.id}, of which the source says ${shown}`
}

/** The numbers of a plan are those of what it shows. */
function sums(plan: Plan, changes: readonly Change<Entry>[], rows: number, complete: boolean): void {
  const fit = changes.filter(({ problem }) => problem === undefined)
  const writes = fit.filter(({ operation }) => operation !== 'delete')
  const known = writes.filter(({ before }) => before !== undefined)
  expect(plan).toMatchObject({
    insert: writes.length - known.length,
    update: known.length,
    delete: fit.length - writes.length,
    unfit: changes.length - fit.length,
  })
  expect(Math.min(plan.unchanged, plan.waiting)).toBeGreaterThanOrEqual(0)
  if (!complete) return
  const waiting = rows - plan.insert - plan.update - plan.unchanged - plan.unfit
  expect(plan.rows).toBe(rows)
  expect(waiting).toBeGreaterThanOrEqual(0)
  expect(waiting).toBeLessThanOrEqual(plan.waiting)
}

/** What a run tells is what its plan said. */
function agrees(plan: Plan, run: Run, where: string): void {
  const { delivered, rejected, pending, unknown, deletes } = run
  expect(run.rows, where).toBe(plan.rows)
  expect(run.unchanged, where).toBe(plan.unchanged)
  expect(delivered + rejected + pending + unknown + deletes.rows, where).toBe(
    plan.insert + plan.update + plan.unfit + plan.delete + plan.waiting,
  )
  expect(deletes.rows, where).toBeGreaterThanOrEqual(plan.delete)
}

/** Plays a history, and then healthy runs until nothing is left to send; what must hold at each step is checked on the way. */
async function play({ job, runs, poison, random: seed }: History, home: string) {
  let random = seed % 2147483646
  vi.spyOn(Math, 'random').mockImplementation(() => {
    random = (random * 48271 + 11) % 2147483647
    return random / 2147483647
  })
  const { mode, match } = job
  const complete = job.lag === undefined
  const byHand = there.map((id): Entry => ({ id, email: id, value: -1, by: 'hand' }))
  const at = store({ poison, place: match, there: mode === 'update' ? byHand : [] })
  const ghosts: Promise<unknown>[] = []
  /** Keys of which an attempt may have been applied though nothing said so. */
  const shaky = new Set<number>()
  /** The keys that were ever sent to a place. */
  const senders = new Map<number, Set<number>>()
  const { table, reversed } = runs.at(-1)!
  const rest = Array.from({ length: 9 }, (): Session => ({ ...healthy, table, reversed, stays: true, added: [] }))
  let folder = join(home, '0')
  let batchLimit = 0
  let rows: Row[] = []
  let last: Plan | undefined

  /** Places where the destination does not have what it should, and the plan shows nothing of it. */
  const overlooked = (changes: readonly Change<Entry>[], letters: ReadonlySet<unknown>, session: Session) => {
    const planned = new Set(changes.map(({ operation, record }) => operation !== 'delete' && record.id))
    const deleted = new Set(changes.flatMap(({ operation, record }) => (operation === 'delete' ? record[match] : [])))
    const newest = new Map(rows.map((row) => [row.id, row]))
    const wrong = [...newest.values()].filter((row) => {
      if (planned.has(row.id) || letters.has(row.id)) return false
      const found = at.objects.get(row[match]!)
      if (!found || mode === 'insert') return !found
      // a map that makes other records is seen in rows that are read
      return complete ? text(found) !== text(maps[session.map](row)) : found.value !== row.value
    })
    const gone = [...at.objects].filter(([place, { id }]) => {
      if (mode !== 'mirror' || deleted.has(place) || letters.has(id)) return false
      // a key that is found elsewhere now leaves what it was where it is
      return !rows.some((row) => row[match] === place || row.id === id) && !isLeftBehind(place, senders)
    })
    return [...wrong, ...gone]
  }

  /** What would be refused once more. */
  const isHopeless = ({ operation, problem, record }: Change<Entry>) =>
    problem !== undefined ||
    record.value === poison.value ||
    (operation === 'update' && !at.objects.has(record[match]!))

  for (const [index, session] of [...runs, ...rest].entries()) {
    const where = `run ${index + 1} of ${runs.length}`
    const stays = session.stays && index > 0
    rows = complete ? (stays ? rows : rowsOfTable(session)) : grown(rows, session, job)
    batchLimit = Math.max(mode === 'insert' ? batchLimit : 0, session.batchSize)

    immortal()
    const look = syncOf(job, { ...session, breaks: undefined }, rows, folder, () => expect.fail('a plan sends'))
    const plan = await look.plan()
    const changes = await collect(plan.changes)
    const letters = new Set((await collect(look.deadLetters())).map(({ key }) => key))
    const before = await look.status()
    const open = before.pending + before.unknown
    sums(plan, changes, rows.length, complete)
    expect(overlooked(changes, letters, session), where).toEqual([])
    // what waits because it was refused so often is tried again
    const again = index === runs.length + 1 && before.deadLetters > 0
    if (index > runs.length && !again && open === 0 && changes.every(isHopeless)) {
      last = plan
      break
    }

    const next = join(home, String(index + 1))
    const death = dieAt(session.dies, folder, next)
    const sender = senderOf(job, session, rows, death, batchLimit)
    const current = syncOf(
      job,
      session,
      rows,
      folder,
      (batch, context) => at.call(sender, batch, context),
      (batch) => at.verify(sender, batch),
    )
    const { allowRejections, allowDeletes } = session
    const full = session.full && mode !== 'insert'
    const options = { signal: sender.stop.signal, allowRejections, allowDeletes, full }
    const running = (again ? current.redrive(options) : current.run(options)).catch((error: unknown) => error)
    ghosts.push(running)
    const result = (await Promise.race([running, death.came])) as Run | Error | undefined
    const dead = death.at !== undefined
    if (dead) folder = next
    const after = await look.status()

    // what was left open may be sent as it was before the source is read, and of a read that broke off only a part;
    // `full` and a redrive send more than a plan shows
    const exact =
      !full && !again && (complete ? open === 0 || mode !== 'insert' : open === 0 && session.breaks === undefined)
    const shown = changes
      .filter(({ problem }) => !problem)
      .map(({ operation, record }) => said(operation, record, match))
    const sent = new Set(sender.sent.map(({ operation, entry }) => said(operation, entry, match)))
    if (exact) expect(shown, where).toEqual(expect.arrayContaining([...sent]))
    const calm = session.calls.length === 0 && !dead && !(result instanceof Error)
    if (!full && match === 'id' && mode !== 'insert') expect(needless(sender, shaky, calm), where).toEqual([])
    for (const { operation, entry } of sender.sent) {
      const place = entry[match]!
      if (operation !== 'delete') senders.set(place, (senders.get(place) ?? new Set()).add(entry.id))
      const now = at.objects.get(place)
      const done = operation === 'delete' ? !now : now && text(now) === text(entry)
      if (calm && done) shaky.delete(entry.id)
      else shaky.add(entry.id)
    }
    // whoever dies may have been about to send any of them
    if (dead) for (const { record } of changes) shaky.add(record.id)

    if (!dead && after.lastRun?.rows !== undefined) {
      const { lastRun } = after
      for (const outcomes of [lastRun as Outcomes, lastRun.deletes!, lastRun.resumed!]) addsUp(outcomes)
    }
    const guarded = plan.stopped !== undefined && !allowDeletes
    if (guarded && !dead && session.breaks === undefined) expect(result, where).toBeInstanceOf(GuardError)
    if (result instanceof Error) {
      const early = guarded || (session.breaks !== undefined && complete && (mode !== 'insert' || open === 0))
      if (early) {
        expect(sender.begun, where).toBe(0)
        expect(await look.plan(), where).toMatchObject(countsOf(plan))
        // the rows that it read are there still, until the next read takes their place
        const read = after.lastRun?.rows ?? 0
        expect(after, where).toMatchObject({ pending: before.pending + read, unknown: before.unknown })
      } else if (session.calls.length === 0 && session.breaks === undefined && !(result instanceof GuardError)) {
        throw result
      }
    } else if (result !== undefined && !dead) {
      const { deletes, resumed } = result
      const all = [result, deletes, resumed]
      for (const outcomes of all) addsUp(outcomes)
      if (mode !== 'mirror') expect(deletes.rows).toBe(0)
      expect(resumed.rows, where).toBe(open)
      const left = all.reduce((sum, { pending, unknown }) => sum + pending + unknown, 0)
      expect(after.pending + after.unknown, where).toBe(left)
      // stopped, or without hope, before the source was read
      const planned = result.rows > 0 || result.status === 'done'
      if (planned && exact) agrees(plan, result, where)
      if (planned && exact && left === 0) expect([...sent].sort(), where).toEqual(shown.toSorted())
    }
    expect(at.complaints, where).toEqual([])
    if (session.pause > 0) await sleep(session.pause)
  }
  await Promise.all(ghosts)
  expect(at.complaints).toEqual([])
  expect(last).toBeDefined()
  return { ...at, rows, last: last!, senders }
}

function senderOf(job: Job, session: Session, rows: readonly Row[], death: Death, batchLimit: number): Sender {
  return {
    death,
    calls: [...session.calls],
    batchLimit,
    stops: session.stops,
    stop: new AbortController(),
    unwanted: (operation, entry) => unwanted(job, session, rows, operation, entry),
    begun: 0,
    sent: [],
  }
}

/** What was sent although it was there already, and nothing had left a doubt of it. */
function needless({ sent }: Sender, shaky: ReadonlySet<number>, calm: boolean): string[] {
  const before = new Set<number>()
  return sent.flatMap(({ operation, entry, found }) => {
    const repeated = !calm && before.has(entry.id)
    before.add(entry.id)
    const change = operation === 'delete' ? found !== undefined : !found || text(found) !== text(entry)
    return change || repeated || shaky.has(entry.id) ? [] : said(operation, entry, 'id')
  })
}

/** Whether a key that was sent to this place was sent to another as well: what it leaves behind stays where it is. */
function isLeftBehind(place: number, senders: ReadonlyMap<number, ReadonlySet<number>>): boolean {
  const keys = [...(senders.get(place) ?? [])]
  return [...senders].some(([other, ids]) => other !== place && keys.some((key) => ids.has(key)))
}

/** What must be the same in two plans that find the same to do. */
const countsOf = ({ digest, rows, insert, update, delete: gone, unchanged, unfit, waiting }: Plan) => ({
  ...{ digest, rows, insert, update, delete: gone, unchanged, unfit, waiting },
})

beforeEach(fakeClock)
afterEach(() => {
  immortal()
  vi.restoreAllMocks()
  vi.useRealTimers()
})

describe('whatever happened before, a run sends what its plan showed, its counts add up, and in the end', {
  timeout: 3_600_000,
}, () => {
  const check = async (
    given: readonly History[],
    numRuns: number,
    seed: number,
    jobs: fc.Arbitrary<Job>,
    ends: (played: Awaited<ReturnType<typeof play>>, history: History) => void,
  ): Promise<void> => {
    const home = await stateFolder()
    let number = 0
    const one = (given: History) =>
      passTime(play(given, join(home, String(number++))).then((played) => ends(played, given)))
    await fc.assert(fc.asyncProperty(historiesOf(jobs), one), settings(given, numRuns, seed))
  }
  const found = fc.constantFrom('id' as const, 'email' as const)

  /** Places for which the destination has nothing to say against what the source shows, with what it shows for them. */
  const wanted = (rows: readonly Row[], { job: { match }, poison }: History): Map<number, string[]> => {
    const places = new Map<number, string[]>()
    const spoilt = new Set(rows.flatMap((row) => (row.value === poison.value ? (row[match] ?? []) : [])))
    for (const row of rows) {
      const place = row[match]
      if (place === null || spoilt.has(place)) continue
      places.set(place, [...(places.get(place) ?? []), text(maps.a(row))])
    }
    return places
  }

  it('the destination is the source, in mirror', () =>
    check(
      [passedOn, toldBefore],
      2,
      1,
      fc.record({ mode: fc.constant('mirror'), match: found, lag: fc.constant(undefined), tells: fc.boolean() }),
      (played, history) => {
        const { objects, rows, last, senders } = played
        const { match } = history.job
        const places = wanted(rows, history)
        for (const [place, values] of places) expect(values).toContain(text(objects.get(place)!))
        for (const [place, { id }] of objects) {
          const live = rows.some((row) => row[match] === place || row.id === id)
          expect(live || isLeftBehind(place, senders)).toBe(true)
        }
        expect(last.unchanged).toBeGreaterThanOrEqual(places.size)
      },
    ))

  it('it has what the source shows and what it showed before of keys that are gone, in upsert', () =>
    check(
      [],
      1,
      2,
      fc.record({ mode: fc.constant('upsert'), match: found, lag: fc.constant(undefined), tells: fc.boolean() }),
      (played, history) => {
        const { objects, asked, rows, last } = played
        const places = wanted(rows, history)
        for (const [place, values] of places) expect(values).toContain(text(objects.get(place)!))
        for (const [place, entry] of objects) expect(asked.get(place)).toContain(text(entry))
        expect(last.unchanged).toBeGreaterThanOrEqual(places.size)
      },
    ))

  it('what was there says what the source says, and nothing else has come to be there, in update', () =>
    check(
      [backAgain],
      1,
      3,
      fc.record({ mode: fc.constant('update'), match: found, lag: fc.constant(undefined), tells: fc.boolean() }),
      (played, history) => {
        const { objects, rows, last } = played
        const places = [...wanted(rows, history)].filter(([place]) => there.includes(place))
        expect([...objects.keys()]).toEqual(there)
        for (const [place, values] of places) expect(values).toContain(text(objects.get(place)!))
        expect(last.unchanged).toBeGreaterThanOrEqual(places.length)
      },
    ))

  it('it has an object for each key, in insert', () =>
    check(
      [],
      1,
      4,
      fc.record({
        mode: fc.constant('insert'),
        match: fc.constant('id'),
        lag: fc.constant(undefined),
        tells: fc.boolean(),
      }),
      (played, history) => {
        for (const place of wanted(played.rows, history).keys()) expect(played.objects.has(place)).toBe(true)
      },
    ))

  it('it has the newest row of each key, with a cursor whose rows share a value and come late', () =>
    check(
      [ties],
      1,
      21,
      fc.record({
        mode: fc.constantFrom('upsert', 'update', 'insert'),
        match: fc.constant('id'),
        lag: fc.constantFrom(0, 2),
        tells: fc.constant(false),
      }),
      ({ objects, rows, asked }, { job, poison }) => {
        const newest = new Map(rows.map((row) => [row.id, row]))
        for (const { id, value } of newest.values()) {
          if (value === poison.value || (job.mode === 'update' && !there.includes(id))) continue
          if (job.mode === 'insert') expect(objects.has(id)).toBe(true)
          else expect(objects.get(id)).toMatchObject({ id, value })
        }
        for (const [id, entry] of objects) if (entry.by !== 'hand') expect(asked.get(id)).toContain(text(entry))
      },
    ))
})
