import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openDuckdb, rowsOf } from '../../src/duckdb.js'
import {
  type Context,
  destination,
  FatalError,
  GuardError,
  type Outcome,
  type Outcomes,
  RejectedError,
  type Run,
  reject,
  retry,
  sync,
  unknown,
} from '../../src/index.js'
import { loadSnapshot } from '../../src/snapshot.js'
import { openEmbedded } from '../../src/state/embedded.js'
import { fakeClock, passTime } from '../support/clock.js'
import { type Death, dieAt, immortal } from '../support/death.js'
import { failAtOnce } from '../support/model.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// Histories of the modes that send only what has changed: a source whose rows come, go, change and change back, a destination
// that holds an object for each key and whose answers are lost or come to nothing, and runs that are stopped, fail or die. After
// each run, what the snapshot says of the destination must be so, but for keys that it says are dirty. histories.test.ts is about
// the rows of one source; here it is about what is at the destination.

const soak = process.env['SOAK'] !== undefined
const settings = (numRuns: number) => ({
  numRuns: soak ? numRuns * 20 : numRuns,
  ...(process.env['SEED'] && { seed: Number(process.env['SEED']) }),
})

type Mode = 'upsert' | 'mirror' | 'insert'

/** What each key holds, by its place; undefined: the key is not there. */
type Table = readonly (number | undefined)[]

interface Row {
  readonly id: number
  readonly value: number
}

/** `by` is what the map that made it adds. */
interface Entry extends Row {
  readonly by: string
}

/** What the destination does with one call. */
type Behaviour =
  | { readonly kind: 'ok' | 'retryable' | 'fatal' | 'malformed, applied' | 'malformed' }
  | { readonly kind: 'busy'; readonly after: number | undefined }
  | { readonly kind: 'breaks'; readonly status: number | undefined; readonly applied: boolean }
  /** No answer. It takes effect when so many further calls have, if that is soon enough; or never. */
  | { readonly kind: 'silent'; readonly lands: number | undefined }
  /** An answer after the time is up. */
  | { readonly kind: 'late' }
  | { readonly kind: 'rows'; readonly says: readonly Said[] }
  | { readonly kind: 'refuses the batch' }

/** What is said of one row. */
type Said = 'ok' | 'retry' | 'refused' | 'unknown' | 'unknown, applied'

/** One run, as it is meant to go. */
interface Session {
  readonly table: Table
  readonly batchSize: number
  readonly concurrency: number
  readonly calls: readonly Behaviour[]
  /** Two maps make the same records, the third makes others. */
  readonly map: 'a' | 'the same' | 'b'
  readonly allowRejections: boolean
  readonly allowDeletes: boolean
  readonly full: boolean
  /** Dies when so many named points have been passed. */
  readonly dies: number | undefined
  /** Is told to stop at that call of the destination, counted from 1. */
  readonly stops: number | undefined
  /** Milliseconds from the end of this run to the beginning of the next. */
  readonly pause: number
}

interface History {
  readonly runs: readonly Session[]
  /** How this value is refused wherever it comes. */
  readonly poison: { readonly value: number; readonly refuses: 'batch' | 'rows' }
  readonly random: number
}

const keys = 6
const timing = { latency: 10, timeout: 1_000, settle: 10_000, retryFor: 15_000 } as const

const lost: fc.Arbitrary<Behaviour> = fc.oneof(
  fc.record({
    kind: fc.constant('breaks' as const),
    status: fc.constantFrom(undefined, 408, 500, 503),
    applied: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('silent' as const), lands: fc.constantFrom(undefined, 0, 1, 2, 4) }),
  fc.constant({ kind: 'late' as const }),
)
const rowByRow = (...says: Said[]): fc.Arbitrary<Behaviour> =>
  fc.record({
    kind: fc.constant('rows' as const),
    says: fc.array(fc.constantFrom(...says), { minLength: 1, maxLength: 3 }),
  })
const refused = fc.oneof(fc.constant({ kind: 'refuses the batch' as const }), rowByRow('ok', 'refused'))
const once: fc.Arbitrary<Behaviour> = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ kind: 'ok' as const }) },
  { weight: 3, arbitrary: lost },
  { weight: 2, arbitrary: refused },
  { weight: 2, arbitrary: rowByRow('ok', 'retry', 'refused', 'unknown', 'unknown, applied') },
  fc.record({ kind: fc.constant('busy' as const), after: fc.constantFrom(undefined, 1, 2) }),
  fc.constantFrom({ kind: 'retryable' as const }, { kind: 'fatal' as const }),
  fc.constantFrom({ kind: 'malformed' as const }, { kind: 'malformed, applied' as const }),
)
const calls: fc.Arbitrary<Behaviour[]> = fc
  .array(
    fc.oneof(
      once.map((one) => [one]),
      // what chance would seldom put together
      fc.tuple(lost, refused),
      fc.tuple(lost, fc.constant({ kind: 'fatal' as const })),
      lost.map((one) => Array.from({ length: 12 }, () => one)),
    ),
    { maxLength: 5 },
  )
  .map((some) => some.flat())

const tables: fc.Arbitrary<Table> = fc.array(
  fc.oneof({ weight: 1, arbitrary: fc.constant(undefined) }, { weight: 3, arbitrary: fc.constantFrom(0, 0, 1, 1, 2) }),
  { minLength: keys, maxLength: keys },
)

const calm = { dies: undefined, stops: undefined, pause: 0, full: false } as const
const healthy = {
  ...calm,
  batchSize: 4,
  concurrency: 2,
  calls: [],
  map: 'a',
  allowRejections: true,
  allowDeletes: true,
} as const

const sessions: fc.Arbitrary<Session> = fc.record({
  table: tables,
  batchSize: fc.integer({ min: 1, max: 4 }),
  concurrency: fc.integer({ min: 1, max: 3 }),
  calls,
  map: fc.constantFrom('a', 'a', 'the same', 'b'),
  allowRejections: fc.boolean(),
  allowDeletes: fc.constantFrom(true, true, true, false),
  full: fc.constantFrom(false, false, false, true),
  dies: fc.option(fc.integer({ min: 1, max: 70 }), { nil: undefined, freq: 2 }),
  stops: fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined, freq: 4 }),
  pause: fc.constantFrom(0, 0, 60_000),
})

const histories: fc.Arbitrary<History> = fc.record({
  runs: fc.array(sessions, { minLength: 1, maxLength: 5 }),
  poison: fc.record({
    value: fc.constantFrom(2, 99),
    refuses: fc.constantFrom('batch' as const, 'rows' as const),
  }),
  random: fc.nat(),
})

/** A process that sends. What it has asked for may land when it is dead; beyond that, the dead have no effect. */
interface Sender {
  readonly mode: Mode
  readonly session: Session
  readonly death: Death
  readonly calls: Behaviour[]
  readonly stop: AbortController
  readonly batchLimit: number
  begun: number
}

/** A destination that holds an object for each key, and complains about what must never happen. */
function store({ poison }: Pick<History, 'poison'>) {
  const objects = new Map<number, Entry>()
  const complaints: string[] = []
  /** Every value that was ever asked for, by key. */
  const asked = new Map<number, Set<string>>()
  const bodies = new Map<string, string>()
  const busy = new Map<Sender, Set<number>>()
  let landings: { readonly batch: readonly Row[]; readonly until: number; calls: number; land(): void }[] = []

  const apply = (operation: string, batch: readonly Entry[]): void => {
    for (const entry of batch) {
      if (operation === 'insert' && objects.has(entry.id)) complaints.push(`a second object for key ${entry.id}`)
      if (operation === 'delete') objects.delete(entry.id)
      else objects.set(entry.id, entry)
    }
  }

  const call = async (sender: Sender, batch: readonly Entry[], context: Context): Promise<undefined | Outcome[]> => {
    const { death, session, mode } = sender
    const { operation, idempotencyKey, signal } = context
    if (death.at !== undefined) throw new FatalError('the process is dead')
    if (++sender.begun === session.stops) sender.stop.abort()
    const body = `${operation} ${JSON.stringify(batch)}`
    if ((bodies.get(idempotencyKey) ?? body) !== body) complaints.push(`one idempotency key, two bodies: ${body}`)
    bodies.set(idempotencyKey, body)
    if (batch.length > sender.batchLimit) complaints.push(`${batch.length} records in one call`)
    const under = busy.get(sender) ?? new Set()
    busy.set(sender, under)
    for (const { id } of batch) {
      if (under.has(id)) complaints.push(`two calls at once for key ${id}`)
      if (operation === 'delete' && mode !== 'mirror') complaints.push(`a delete in ${mode}`)
      if (operation === 'delete' && session.table[id] !== undefined) complaints.push(`a delete of the live key ${id}`)
      if (operation === 'upsert' && session.table[id] === undefined) complaints.push(`key ${id} is not in the source`)
    }
    for (const entry of batch) {
      under.add(entry.id)
      if (operation !== 'delete') asked.set(entry.id, (asked.get(entry.id) ?? new Set()).add(text(entry)))
    }
    const behaviour = sender.calls.shift() ?? { kind: 'ok' }
    try {
      await sleep(timing.latency)
      const refused = operation === 'delete' ? [] : batch.filter(({ value }) => value === poison.value)
      return await answer(behaviour, operation, batch, refused, signal)
    } finally {
      for (const { id } of batch) under.delete(id)
      const due = landings.filter((landing) => landing.calls-- <= 0)
      landings = landings.filter((landing) => !due.includes(landing))
      for (const { until, land } of due) if (Date.now() < until) land()
    }
  }

  const answer = async (
    behaviour: Behaviour,
    operation: string,
    batch: readonly Entry[],
    poisoned: readonly Entry[],
    signal: AbortSignal,
  ): Promise<undefined | Outcome[]> => {
    failAtOnce(behaviour)
    if (behaviour.kind === 'refuses the batch') throw new RejectedError('refused')
    // whatever else goes wrong, poison is never applied
    if (poisoned.length > 0 && poison.refuses === 'batch') throw new RejectedError('poison')
    const good = batch.filter((entry) => !poisoned.includes(entry))
    const refusals = poisoned.map((entry) => reject(entry, 'poison'))
    const takesEffect = (some = good): void => apply(operation, some)
    switch (behaviour.kind) {
      case 'breaks':
        if (behaviour.applied) takesEffect()
        throw Object.assign(new Error('broken'), behaviour.status === undefined ? {} : { status: behaviour.status })
      case 'silent': {
        await aborted(signal)
        const { lands } = behaviour
        // one call more, for this one is about to be counted
        if (lands !== undefined) {
          const until = Date.now() + timing.settle
          landings.push({ batch: good, until, calls: lands + 1, land: () => takesEffect() })
        }
        throw signal.reason
      }
      case 'late':
        await aborted(signal)
        await sleep(timing.latency)
        takesEffect()
        return refusals
      case 'malformed, applied':
        takesEffect()
        return 'fine' as never
      case 'malformed':
        return 'fine' as never
      case 'rows': {
        const says = (index: number) => behaviour.says[index % behaviour.says.length]!
        takesEffect(good.filter((_, index) => says(index) === 'ok' || says(index) === 'unknown, applied'))
        const said = good.flatMap((entry, index) => {
          if (says(index) === 'ok') return []
          if (says(index) === 'refused') return reject(entry, 'refused')
          return says(index) === 'retry' ? retry(entry) : unknown(entry)
        })
        return [...refusals, ...said]
      }
      default:
        takesEffect()
        return refusals
    }
  }

  return {
    objects: objects as ReadonlyMap<number, Entry>,
    asked: asked as ReadonlyMap<number, ReadonlySet<string>>,
    complaints,
    call,
    /** Keys that a request which nobody waits for may still change. */
    inFlight(): Set<number> {
      const open = landings.filter(({ until }) => Date.now() < until).flatMap(({ batch }) => batch)
      return new Set([...open.map(({ id }) => id), ...[...busy.values()].flatMap((under) => [...under])])
    },
  }
}

const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))
const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
const text = ({ value, by }: Entry): string => `${value} by ${by}`

// `map` is known by its text, so each is written out
const maps = {
  a: ({ id, value }: Row): Entry => ({ id, value, by: 'a' }),
  'the same': (row: Row): Entry => ({ id: row.id, value: row.value, by: 'a' }),
  b: ({ id, value }: Row): Entry => ({ id, value, by: 'b' }),
} as const

const rowsOfTable = (table: Table): Row[] => table.flatMap((value, id) => (value === undefined ? [] : { id, value }))

function job(
  mode: Mode,
  session: Session,
  state: string,
  call: (batch: Entry[], context: Context) => Promise<undefined | Outcome[]>,
  verify?: (batch: Entry[]) => Entry[],
) {
  const to = destination({
    name: 'store',
    batchSize: session.batchSize,
    concurrency: session.concurrency,
    timeout: `${timing.timeout}ms`,
    settle: `${timing.settle}ms`,
    retryFor: `${timing.retryFor}ms`,
  })
  const common = {
    name: 'job',
    from: rowsOfTable(session.table),
    map: maps[session.map],
    key: 'id',
    state,
    log: quiet,
  } as const
  if (mode === 'insert') return sync({ ...common, to: to({ insert: call, verify: verify! }), mode })
  // what cannot be asked for must not be asked for: a delete in upsert would be a call all the same
  return sync({
    ...common,
    to: to({ upsert: call, delete: (batch: Row[], context) => call(batch as Entry[], context) }),
    mode,
    ...(mode === 'mirror' && { deleteCeiling: 3 }),
  })
}

/** Plays a history, and then healthy runs until nothing is left to send; what must hold after each run is checked on the way. */
async function play(mode: Mode, history: History, home: string) {
  let random = history.random % 2147483646
  vi.spyOn(Math, 'random').mockImplementation(() => {
    random = (random * 48271 + 11) % 2147483647
    return random / 2147483647
  })
  const there = store(history)
  const { objects, complaints } = there
  const ghosts: Promise<unknown>[] = []
  const table = history.runs.at(-1)!.table
  const rest = Array.from({ length: 8 }, () => ({ ...healthy, table }))
  let folder = join(home, '0')
  let batchLimit = 0
  let last: Run | undefined
  for (const [index, session] of [...history.runs, ...rest].entries()) {
    const next = join(home, String(index + 1))
    // an insert that may have been applied is sent again as it was
    batchLimit = Math.max(mode === 'insert' ? batchLimit : 0, session.batchSize)
    const sender: Sender = {
      mode,
      session,
      death: dieAt(session.dies, folder, next),
      calls: [...session.calls],
      stop: new AbortController(),
      batchLimit,
      begun: 0,
    }
    const current = job(
      mode,
      session,
      folder,
      (batch, context) => there.call(sender, batch, context),
      (batch) => {
        if (sender.death.at !== undefined) throw new FatalError('the process is dead')
        return batch.filter(({ id }) => objects.has(id))
      },
    )
    const before = await current.status()
    const { allowRejections, allowDeletes, full } = session
    const options = { signal: sender.stop.signal, allowRejections, allowDeletes, full: full && mode !== 'insert' }
    // what waits because it was refused so often is tried again
    const again = index === history.runs.length && before.deadLetters > 0
    const running = (again ? current.redrive(options) : current.run(options)).catch((error: unknown) => error)
    ghosts.push(running)
    const result = (await Promise.race([running, sender.death.came])) as Run | Error | undefined
    const dead = sender.death.at !== undefined
    if (dead) folder = next
    else if (result instanceof Error) {
      if (result instanceof GuardError) expect(sender.begun).toBe(0)
      else if (session.calls.length === 0) throw result
    } else {
      const { deletes, resumed, ...run } = result!
      for (const outcomes of [run, deletes, resumed]) addsUp(outcomes)
      // stopped, or without hope, before the source was read
      if (run.rows > 0 || run.status === 'done') expect(run.rows).toBe(rowsOfTable(session.table).length)
      expect(resumed.rows).toBe(before.pending + before.unknown)
      if (mode !== 'mirror') expect(deletes.rows).toBe(0)
      const { pending, unknown } = await current.status()
      expect(pending + unknown).toBe(
        run.pending + run.unknown + deletes.pending + deletes.unknown + resumed.pending + resumed.unknown,
      )
    }
    await compareWithSnapshot(mode, folder, there)
    expect(complaints).toEqual([])
    if (index >= history.runs.length && sender.begun === 0 && !again && (result as Run).status === 'done') {
      last = result as Run
      break
    }
    if (session.pause > 0) await sleep(session.pause)
  }
  await Promise.all(ghosts)
  expect(complaints).toEqual([])
  return { ...there, table, last }
}

/** A key that is not dirty has at the destination exactly the snapshot's value. */
async function compareWithSnapshot(
  mode: Mode,
  folder: string,
  { objects, inFlight }: ReturnType<typeof store>,
): Promise<void> {
  const embedded = await openEmbedded(folder)
  const state = await embedded.open('job', { mode, key: 'id', match: 'the key', destination: 'store' })
  const database = await openDuckdb(join(folder, 'looking'))
  try {
    await loadSnapshot(database.connection, state)
    const snapshot = await rowsOf<{ key: string; known: boolean; dirty: boolean; record: string | null }>(
      database.connection,
      'select key, known, dirty, record from snapshot',
    )
    const skipped = inFlight()
    const said = new Map<number, string>()
    for (const { key, known, dirty, record } of snapshot) {
      const id = Number(key.slice(1))
      if (dirty) skipped.add(id)
      else if (known) said.set(id, mode === 'insert' ? 'there' : text(JSON.parse(record!)))
    }
    const found = [...objects].map(([id, entry]) => [id, mode === 'insert' ? 'there' : text(entry)] as const)
    const sure = (entries: Iterable<readonly [number, string]>) =>
      [...entries].filter(([id]) => !skipped.has(id)).sort(([a], [b]) => a - b)
    expect(sure(found)).toEqual(sure(said))
  } finally {
    await database.close()
    await state.close()
    await embedded.close()
  }
}

function addsUp({ rows, delivered, unchanged, rejected, pending, unknown, superseded }: Outcomes): void {
  const counts = [delivered, unchanged, rejected, pending, unknown, superseded]
  expect(Math.min(rows, ...counts)).toBeGreaterThanOrEqual(0)
  expect(counts.reduce((sum, count) => sum + count)).toBe(rows)
}

beforeEach(fakeClock)
afterEach(() => {
  immortal()
  vi.restoreAllMocks()
  vi.useRealTimers()
})

describe('whatever happened, what the snapshot says of a key that is not dirty is so, and in the end', {
  timeout: 3_600_000,
}, () => {
  const check = async (numRuns: number, history: (history: History, home: string) => Promise<void>): Promise<void> => {
    const home = await stateFolder()
    let number = 0
    const one = (given: History) => passTime(history(given, join(home, String(number++))))
    await fc.assert(fc.asyncProperty(histories, one), settings(numRuns))
  }

  /** The source, as far as the destination takes it. */
  const wanted = (table: Table, { poison }: History): [number, string][] =>
    rowsOfTable(table).flatMap(({ id, value }) => (value === poison.value ? [] : [[id, `${value} by a`]]))

  it('the destination is the source, in mirror', () =>
    check(10, async (history, home) => {
      const { objects, asked, table, last } = await play('mirror', history, home)
      const refused = rowsOfTable(table).filter(({ value }) => value === history.poison.value)
      const odd = new Set(refused.map(({ id }) => id))
      const found = [...objects].map(([id, entry]) => [id, text(entry)] as const)
      expect(found.filter(([id]) => !odd.has(id)).sort(([a], [b]) => a - b)).toEqual(wanted(table, history))
      for (const [id, value] of found) expect(asked.get(id)).toContain(value)
      expect(last).toMatchObject({ status: 'done', rejected: refused.length, deletes: { rows: 0 } })
      expect(last!.unchanged).toBe(last!.rows - refused.length)
    }))

  it('the destination is what the source shows, and what it showed before of keys that are gone, in upsert', () =>
    check(8, async (history, home) => {
      const { objects, asked, table, last } = await play('upsert', history, home)
      const refused = rowsOfTable(table).filter(({ value }) => value === history.poison.value)
      for (const [id, value] of wanted(table, history)) expect(text(objects.get(id)!)).toBe(value)
      for (const [id, entry] of objects) expect(asked.get(id)).toContain(text(entry))
      expect(last).toMatchObject({ status: 'done', rejected: refused.length, deletes: { rows: 0 } })
      expect(last!.unchanged).toBe(last!.rows - refused.length)
    }))

  it('the destination has one object for each key, in insert with verify', () =>
    check(6, async (history, home) => {
      const { objects, table, last } = await play('insert', history, home)
      for (const [id] of wanted(table, history)) expect(objects.has(id)).toBe(true)
      expect(last).toMatchObject({ status: 'done' })
    }))
})

describe('where nothing fails', () => {
  it.each(['upsert', 'mirror'] as const)(
    'only real changes are sent, each once, in %s',
    { timeout: 3_600_000 },
    async (mode) => {
      const home = await stateFolder()
      let number = 0
      await fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({
              table: tables,
              map: fc.constantFrom('a', 'the same', 'b'),
              batchSize: fc.integer({ min: 1, max: 4 }),
              full: fc.constantFrom(false, false, false, true),
            }),
            { minLength: 1, maxLength: 5 },
          ),
          (runs) =>
            passTime(
              (async () => {
                const folder = join(home, String(number++))
                const objects = new Map<number, string>()
                for (const { full, ...given } of runs) {
                  const before = new Map(objects)
                  const sent: [number, string][] = []
                  const session = { ...healthy, ...given }
                  const run = await job(mode, session, folder, async (batch, { operation }) => {
                    for (const entry of batch) {
                      sent.push([entry.id, operation === 'delete' ? 'deleted' : text(entry)])
                      if (operation === 'delete') objects.delete(entry.id)
                      else objects.set(entry.id, text(entry))
                    }
                  }).run({ allowDeletes: true, full })
                  const rows = rowsOfTable(session.table).map((row): [number, string] => [
                    row.id,
                    text(maps[session.map](row)),
                  ])
                  const changes = rows.filter(([id, value]) => full || before.get(id) !== value)
                  const gone =
                    mode === 'mirror' ? [...before.keys()].filter((id) => session.table[id] === undefined) : []
                  const deletes = gone.map((id): [number, string] => [id, 'deleted'])
                  expect(sent.sort(([a], [b]) => a - b)).toEqual([...changes, ...deletes].sort(([a], [b]) => a - b))
                  expect(run).toMatchObject({
                    status: 'done',
                    rows: rows.length,
                    delivered: changes.length,
                    unchanged: rows.length - changes.length,
                    deletes: { rows: gone.length, delivered: gone.length },
                    resumed: { rows: 0 },
                  })
                }
              })(),
            ),
        ),
        settings(6),
      )
    },
  )
})

describe('a lost request that lands late', () => {
  const calmSession = (...values: Table): Session => ({ ...healthy, table: values, batchSize: 1, concurrency: 1 })

  it.each<[string, Session]>([
    ['is not overtaken by another value', calmSession(1, 0)],
    ['is not overtaken by a delete', calmSession(undefined, 0)],
  ])('%s, even when it was repeated and answered in between', async (_, then) => {
    const home = await stateFolder()
    const there = store({ poison: { value: 99, refuses: 'rows' } })
    vi.spyOn(Math, 'random').mockReturnValue(0) // no backoff
    const run = async (session: Session, ...behaviours: Behaviour[]): Promise<Run> => {
      const death = dieAt(undefined, home, '')
      const calls = [...behaviours]
      const stop = new AbortController()
      const sender: Sender = { mode: 'mirror', session, death, calls, stop, batchLimit: 1, begun: 0 }
      return job('mirror', session, home, (batch, context) => there.call(sender, batch, context)).run(session)
    }
    const result = await passTime(
      (async () => {
        await run(calmSession(0, 0), { kind: 'silent', lands: 2 })
        const result = await run(then)
        // whatever is still to land does so now
        await sleep(timing.settle)
        await run(calmSession(then.table[0], 0, 0))
        return result
      })(),
    )
    expect(result.status).toBe('done')
    expect(there.objects.get(0)?.value).toBe(then.table[0])
  })
})
