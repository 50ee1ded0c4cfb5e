import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type Context, type CursorValue, destination, type Outcomes, type Run, sync } from '../../src/index.js'
import { fakeClock, passTime } from '../support/clock.js'
import { dieAt, immortal } from '../support/death.js'
import { type Behaviour, type Item, modelDestination, type Sender, timing } from '../support/model.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// Histories: a source, a destination that fails in every way that it can, and runs that are stopped, fail, or die at any named
// point between two of their steps. What must hold, holds after each run and at the end. Death is imitated here (the state folder
// as it is at that instant goes on, the process only seems to); test/crash kills for real.

const soak = process.env['SOAK'] !== undefined
const settings = (numRuns: number) => ({
  numRuns: Math.ceil(numRuns * (soak ? 20 : 0.4)),
  ...(process.env['SEED'] && { seed: Number(process.env['SEED']) }),
})

interface History {
  readonly rows: number
  /** How many keys the rows share; undefined: each row has its own. */
  readonly keys: number | undefined
  /** Rows that the destination refuses, by id. */
  readonly poison: readonly number[]
  readonly refuses: 'batch' | 'rows'
  readonly unknowns: 'resend' | 'hold' | 'verify' | 'idempotent'
  readonly runs: readonly Session[]
}

/** One run, as it is meant to go. */
interface Session {
  readonly batchSize: number
  readonly concurrency: number
  readonly allowRejections: boolean
  readonly calls: readonly Behaviour[]
  /** Its rows are mapped by another function. */
  readonly remaps: boolean
  /** Dies when so many named points have been passed. */
  readonly dies: number | undefined
  /** Is told to stop after so many milliseconds. */
  readonly stops: number | undefined
}

/** What all runs of a history have in common. */
interface Job {
  readonly mode: 'append' | 'insert' | 'upsert'
  readonly key: 'id' | 'key' | undefined
  readonly cursor: 'id' | 'version' | undefined
  /** The source as the n-th run of so many finds it. */
  rows(run: number, runs: number): readonly Item[]
}

const behaviours: fc.Arbitrary<Behaviour> = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ kind: 'ok' as const }) },
  fc.record({ kind: fc.constant('busy' as const), after: fc.constantFrom(undefined, 1, 2) }),
  fc.constant({ kind: 'retryable' as const }),
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('breaks' as const),
      status: fc.constantFrom(undefined, 408, 500, 503),
      applied: fc.boolean(),
    }),
  },
  fc.record({ kind: fc.constant('silent' as const), lands: fc.constantFrom(undefined, 0, 200) }),
  fc.constant({ kind: 'late' as const }),
  fc.record({
    kind: fc.constant('partly' as const),
    says: fc.array(fc.constantFrom('ok' as const, 'retry' as const, 'unknown' as const, 'unknown, applied' as const), {
      minLength: 1,
      maxLength: 4,
    }),
  }),
  fc.record({ kind: fc.constant('malformed' as const), applied: fc.boolean() }),
  fc.constant({ kind: 'fatal' as const }),
)

const histories = (points: number): fc.Arbitrary<History> =>
  fc.record({
    rows: fc.integer({ min: 0, max: 40 }),
    keys: fc.constantFrom(undefined, undefined, 3, 12),
    poison: fc.array(fc.integer({ min: 0, max: 39 }), { maxLength: 3 }),
    refuses: fc.constantFrom('batch' as const, 'rows' as const),
    unknowns: fc.constantFrom('resend' as const, 'hold' as const, 'verify' as const, 'idempotent' as const),
    runs: fc.array(
      fc.record({
        batchSize: fc.integer({ min: 1, max: 12 }),
        concurrency: fc.integer({ min: 1, max: 4 }),
        allowRejections: fc.boolean(),
        calls: fc.array(behaviours, { maxLength: 12 }),
        remaps: fc.boolean(),
        dies: fc.option(fc.integer({ min: 1, max: points }), { nil: undefined }),
        stops: fc.option(fc.integer({ min: 0, max: 3_000 }), { nil: undefined, freq: 4 }),
      }),
      { maxLength: 4 },
    ),
  })

const healthy: Session = {
  batchSize: 4,
  concurrency: 2,
  allowRejections: true,
  calls: [],
  remaps: false,
  dies: undefined,
  stops: undefined,
}

beforeEach(fakeClock)
afterEach(() => {
  immortal()
  vi.useRealTimers()
})

describe('every row has exactly one outcome, the numbers add up, and all is delivered in the end', () => {
  const check = async (
    numRuns: number,
    points: number,
    history: (history: History, home: string) => Promise<void>,
  ): Promise<void> => {
    const home = await stateFolder()
    let number = 0
    const one = (given: History) => passTime(history(given, join(home, String(number++))))
    await fc.assert(fc.asyncProperty(histories(points), one), settings(numRuns))
  }
  const timeout = 3_600_000

  it('in append, in the order of each key', { timeout }, () =>
    check(60, 60, async (history, home) => {
      const { rows, keys, unknowns, runs } = history
      const source = rowsOf(rows, keys)
      const { applied, letters, open, poison } = await play(history, home, {
        mode: 'append',
        key: keys === undefined ? undefined : 'key',
        cursor: undefined,
        rows: () => source,
      })
      const times = counted(applied.map(({ id }) => id))
      expect(letters.filter((id) => !poison.has(id) || times.has(id))).toEqual([])
      const missing = source.filter(({ id }) => !times.has(id) && !letters.includes(id))
      expect(missing.length).toBeLessThanOrEqual(open.pending + open.unknown)
      // only a refusal after an unanswered attempt, or the wish to hold, leaves a row in doubt, and with it later ones of its key
      if (unknowns !== 'hold' && poison.size === 0) expect(open.unknown).toBe(0)
      if (keys === undefined || open.unknown === 0) expect(open.pending).toBe(0)
      const sameBodies = unknowns === 'idempotent' && !runs.some(({ remaps }) => remaps)
      if (unknowns === 'hold' || unknowns === 'verify' || sameBodies) expect(repeated(times)).toEqual([])
      if (keys === undefined) return
      const latest = new Map<number, number>()
      for (const { id, key, late } of applied) {
        if (late) continue // nobody waits for what was given up
        expect(id).toBeGreaterThanOrEqual(latest.get(key) ?? 0)
        latest.set(key, id)
      }
    }),
  )

  it('in append with a cursor, of which some rows have the same value', { timeout }, () =>
    check(30, 60, async (history, home) => {
      const { rows, unknowns } = history
      const source = rowsOf(rows, undefined).map((row) => ({ ...row, version: Math.floor(row.id / 5) }))
      const { applied, letters, open, poison } = await play(history, home, {
        mode: 'append',
        key: undefined,
        cursor: 'version',
        rows: (run, runs) => source.slice(0, Math.ceil((rows * (run + 1)) / runs)),
      })
      const times = counted(applied.map(({ id }) => id))
      expect(letters.filter((id) => !poison.has(id) || times.has(id))).toEqual([])
      const missing = source.filter(({ id }) => !times.has(id) && !letters.includes(id))
      expect(missing.length).toBeLessThanOrEqual(open.unknown)
      expect(open.pending).toBe(0)
      if (unknowns !== 'hold' && poison.size === 0) expect(open.unknown).toBe(0)
      if (unknowns === 'hold' || unknowns === 'verify') expect(repeated(times)).toEqual([])
    }),
  )

  it('in insert, of a source that shows everything', { timeout }, () =>
    check(20, 90, async (history, home) => {
      const { rows, unknowns } = history
      const source = rowsOf(rows, undefined)
      const { applied, open, poison } = await play(history, home, {
        mode: 'insert',
        key: 'id',
        cursor: undefined,
        rows: () => source,
      })
      const times = counted(applied.map(({ id }) => id))
      const missing = source.filter(({ id }) => !times.has(id) && !poison.has(id))
      expect(missing.length).toBeLessThanOrEqual(open.unknown)
      expect(open.pending).toBe(0)
      if (unknowns !== 'hold' && poison.size === 0) expect(open.unknown).toBe(0)
      if (unknowns === 'hold' || unknowns === 'verify') expect(repeated(times)).toEqual([])
    }),
  )

  it('in insert, with a cursor', { timeout }, () =>
    check(20, 90, async (history, home) => {
      const { rows, keys, unknowns } = history
      const source = rowsOf(rows, keys)
      const { applied, open, poison } = await play(history, home, {
        mode: 'insert',
        key: 'key',
        cursor: 'id',
        rows: (run, runs) => source.slice(0, Math.ceil((rows * (run + 1)) / runs)),
      })
      const times = counted(applied.map(({ key }) => key))
      const missing = new Set(source.filter(({ key }) => !times.has(key)).map(({ key }) => key))
      if (poison.size === 0) expect(missing.size).toBeLessThanOrEqual(open.unknown)
      if (unknowns !== 'hold' && poison.size === 0) expect(open).toEqual({ pending: 0, unknown: 0 })
      if (unknowns === 'hold' || unknowns === 'verify') expect(repeated(times)).toEqual([])
    }),
  )

  it('in upsert, where the destination is the source then', { timeout }, () =>
    check(20, 90, async (history, home) => {
      const { applied, open, poison, last } = await play({ ...history, unknowns: 'resend' }, home, {
        mode: 'upsert',
        key: 'id',
        cursor: undefined,
        rows: (run) => rowsOf(history.rows, undefined, run),
      })
      const found = new Map(applied.map(({ id, version }) => [id, version]))
      expect(open).toEqual({ pending: 0, unknown: 0 })
      for (const { id } of rowsOf(history.rows, undefined)) if (!poison.has(id)) expect(found.get(id)).toBe(last)
    }),
  )

  it('in upsert with a cursor, where the newest row of each key is the one at the destination then', { timeout }, () =>
    check(20, 90, async (history, home) => {
      const { rows, keys } = history
      const source = rowsOf(rows, keys)
      const { applied, open, poison } = await play({ ...history, unknowns: 'resend' }, home, {
        mode: 'upsert',
        key: 'key',
        cursor: 'id',
        rows: (run, runs) => source.slice(0, Math.ceil((rows * (run + 1)) / runs)),
      })
      expect(open).toEqual({ pending: 0, unknown: 0 })
      const found = new Map(applied.map(({ key, id }) => [key, id]))
      const newest = new Map(source.map(({ key, id }) => [key, id]))
      for (const [key, id] of newest) if (!poison.has(id)) expect(found.get(key)).toBe(id)
    }),
  )
})

/** Plays a history, and then healthy runs until all is done; what must hold after each run is checked on the way. */
async function play(history: History, home: string, job: Job) {
  const { unknowns } = history
  const poison = new Set(history.poison.filter((id) => id < history.rows))
  const model = modelDestination({
    poison,
    refuses: history.refuses,
    honoursKeys: unknowns === 'idempotent',
    identify: job.key === 'key' && job.mode !== 'append' ? ({ key }) => key : ({ id }) => id,
  })
  const sessions = [...history.runs, ...Array.from({ length: 6 }, () => healthy)]
  const ghosts: Promise<unknown>[] = []
  let folder = join(home, '0')
  let batchLimit = 0
  let open = { pending: 0, unknown: 0 }
  let last = 0
  for (const [index, session] of sessions.entries()) {
    last = index
    // what may have been applied is sent again as it was
    batchLimit = Math.max(batchLimit, session.batchSize)
    const options = {
      name: 'model',
      batchSize: session.batchSize,
      concurrency: session.concurrency,
      timeout: `${timing.timeout}ms`,
      settle: `${timing.settle}ms`,
      retryFor: `${timing.retryFor}ms`,
      idempotent: unknowns === 'idempotent' ? '24h' : undefined,
      onUnknown: unknowns === 'hold' ? 'hold' : 'resend',
    } as const
    const write = (batch: Item[], context: Context) => model.write(sender, batch, context)
    const verify = (batch: Item[]) => model.verify(sender, batch)
    const { mode, key, cursor } = job
    const rows = job.rows(index, history.runs.length + 1)
    const state = (of: string) =>
      sync({
        name: 'job',
        from: ({ since = -1 }: { since: CursorValue | undefined }) =>
          rows.filter((row) => row[cursor ?? 'id'] >= (since as number)),
        to: unknowns === 'verify' ? destination(options)({ insert: write, verify }) : destination(options)(write),
        mode: mode as 'insert',
        map: session.remaps ? (row: Item) => ({ ...row, key: row.key }) : (row: Item) => row,
        key: key as 'id',
        cursor,
        state: of,
        log: quiet,
      })

    const before = await state(folder).status()
    const next = join(home, String(index + 1))
    const death = dieAt(session.dies, folder, next)
    const sender: Sender = { death, calls: [...session.calls], batchLimit }
    const stop = new AbortController()
    if (session.stops !== undefined) setTimeout(() => stop.abort(), session.stops)
    const { allowRejections } = session
    const running = state(folder)
      .run({ signal: stop.signal, allowRejections })
      .catch((error: unknown) => error)
    ghosts.push(running)
    const result = await Promise.race([running, death.came])
    const dead = death.at !== undefined
    if (dead) folder = next

    const after = await state(folder).status()
    const done = after.lastRun?.state === 'done'
    open = { pending: after.pending, unknown: after.unknown }
    if (!dead) {
      if (result instanceof Error) expect(after.lastRun?.state).toBe('failed')
      else {
        const run = result as Run
        addsUp(run)
        addsUp(run.resumed)
        expect(run.resumed.rows).toBe(before.pending + before.unknown)
        expect(run.status).toBe(open.pending + open.unknown === 0 && !run.reason ? 'done' : 'incomplete')
      }
      const { pending = 0, unknown = 0, resumed } = (after.lastRun ?? {}) as Partial<Run>
      expect(open).toEqual({
        pending: pending + (resumed?.pending ?? 0),
        unknown: unknown + (resumed?.unknown ?? 0),
      })
    }
    // in append, the next run would read the source anew, and send every row a second time
    const ended = after.lastRun?.state !== 'killed'
    const stuck = ended && open.pending === 0 && open.unknown > 0 && (unknowns === 'hold' || poison.size > 0)
    const readsOnce = job.mode === 'append' && job.cursor === undefined
    if ((readsOnce || index > history.runs.length) && (done || stuck)) break
  }
  await Promise.all(ghosts)
  expect(model.complaints).toEqual([])
  const ended = sync({ name: 'job', from: [], to: destination(1)(() => {}), mode: 'append', state: folder })
  const letters = (await collect(ended.deadLetters())).map(({ row }) => (row as Item).id)
  expect(repeated(counted(letters))).toEqual([])
  return { applied: model.applied, letters, open, poison, last }
}

function rowsOf(rows: number, keys: number | undefined, version = 0): Item[] {
  return Array.from({ length: rows }, (_, id) => ({ id, key: keys ? id % keys : id, version }))
}

function addsUp({ rows, delivered, unchanged, rejected, pending, unknown, superseded }: Outcomes): void {
  const counts = [delivered, unchanged, rejected, pending, unknown, superseded]
  expect(Math.min(rows, ...counts)).toBeGreaterThanOrEqual(0)
  expect(counts.reduce((sum, count) => sum + count)).toBe(rows)
}

function counted(values: readonly number[]): Map<number, number> {
  const times = new Map<number, number>()
  for (const value of values) times.set(value, (times.get(value) ?? 0) + 1)
  return times
}

function repeated(times: ReadonlyMap<number, number>): number[] {
  return [...times].filter(([, count]) => count > 1).map(([value]) => value)
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
