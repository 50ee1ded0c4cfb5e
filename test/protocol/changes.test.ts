import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openDuckdb, rowsOf } from '../../src/duckdb.js'
import { type Context, destination, GuardError, type Outcome, type Outcomes, type Run, sync } from '../../src/index.js'
import { loadSnapshot } from '../../src/snapshot.js'
import { openEmbedded } from '../../src/state/embedded.js'
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
  timing,
} from '../support/objects.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// Histories of the modes that send only what has changed: a source whose rows come, go, change and change back, a destination
// that holds an object for each key and whose answers are lost or come to nothing, and runs that are stopped, fail or die. After
// each run, what the snapshot says of the destination must be so, but for keys that it says are dirty. histories.test.ts is about
// the rows of one source; here it is about what is at the destination.

const soak = process.env['SOAK'] !== undefined
const settings = (numRuns: number) => ({
  numRuns: Math.ceil(numRuns * (soak ? 20 : 0.4)),
  ...(process.env['SEED'] && { seed: Number(process.env['SEED']) }),
})

type Mode = 'upsert' | 'mirror' | 'insert'

/** What each key holds, by its place; undefined: the key is not there. */
type Table = readonly (number | undefined)[]

interface Row {
  readonly id: number
  readonly value: number
}

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
  readonly poison: Poison
  readonly random: number
}

const keys = 6

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
  calls: behaviours,
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

/** Why this should not be sent in that run. */
function unwanted(mode: Mode, { table }: Session, operation: string, { id }: Entry): string | undefined {
  if (operation === 'delete' && mode !== 'mirror') return `a delete in ${mode}`
  if (operation === 'delete' && table[id] !== undefined) return `a delete of the live key ${id}`
  if (operation === 'upsert' && table[id] === undefined) return `key ${id} is not in the source`
  return undefined
}

function senderOf(mode: Mode, session: Session, death: Death, batchLimit: number): Sender {
  return {
    death,
    calls: [...session.calls],
    batchLimit,
    stops: session.stops,
    stop: new AbortController(),
    unwanted: (operation, entry) => unwanted(mode, session, operation, entry),
    begun: 0,
    sent: [],
  }
}

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
    ...policy,
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
  const { complaints } = there
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
    const sender = senderOf(mode, session, dieAt(session.dies, folder, next), batchLimit)
    const current = job(
      mode,
      session,
      folder,
      (batch, context) => there.call(sender, batch, context),
      (batch) => there.verify(sender, batch),
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
    rowsOfTable(table).flatMap(({ id, value }) => (value === poison.value ? [] : [[id, text({ id, value, by: 'a' })]]))

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
    const run = async (session: Session, ...calls: Behaviour[]): Promise<Run> => {
      const sender = senderOf('mirror', { ...session, calls }, dieAt(undefined, home, ''), 1)
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
