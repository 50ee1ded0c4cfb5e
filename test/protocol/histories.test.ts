import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type Context, destination, type Outcomes, type Run, sync } from '../../src/index.js'
import { fakeClock, passTime } from '../support/clock.js'
import { type Behaviour, type Item, leftBehind, modelDestination, type Sender, timing } from '../support/model.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// Histories: a source, a destination that fails in every way that it can, and runs that are stopped, fail, or die at any named
// point between two of their steps. What must hold, holds after each run and at the end. Death is imitated here (the state folder
// as it is at that instant goes on, the process only seems to); test/crash kills for real.

const hook = Symbol.for('spillway.checkpoint')
const soak = process.env['SOAK'] !== undefined
const settings = { numRuns: soak ? 1_000 : 60, ...(process.env['SEED'] && { seed: Number(process.env['SEED']) }) }

interface History {
  readonly rows: number
  /** How many keys the rows share; undefined: no key. */
  readonly keys: number | undefined
  readonly poison: readonly number[]
  readonly refuses: 'batch' | 'rows'
  readonly unknowns: 'resend' | 'hold' | 'verify' | 'idempotent'
  readonly runs: readonly {
    readonly batchSize: number
    readonly concurrency: number
    readonly allowRejections: boolean
    readonly calls: readonly Behaviour[]
    /** Dies when so many named points have been passed. */
    readonly dies: number | undefined
    /** Is told to stop after so many milliseconds. */
    readonly stops: number | undefined
  }[]
}

const behaviour: fc.Arbitrary<Behaviour> = fc.oneof(
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
  fc.record({ kind: fc.constant('silent' as const), lands: fc.constantFrom(undefined, 0) }),
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

const histories: fc.Arbitrary<History> = fc.record({
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
      calls: fc.array(behaviour, { maxLength: 12 }),
      dies: fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined }),
      stops: fc.option(fc.integer({ min: 0, max: 3_000 }), { nil: undefined, freq: 4 }),
    }),
    { maxLength: 4 },
  ),
})

beforeEach(fakeClock)
afterEach(() => {
  Reflect.deleteProperty(globalThis, hook)
  vi.useRealTimers()
})

describe('append, whatever happens', () => {
  it('every row has exactly one outcome, the numbers add up, the order of each key is kept, and all is delivered in the end', {
    timeout: 600_000,
  }, async () => {
    const home = await stateFolder()
    let number = 0
    if (process.env['HISTORY']) return passTime(append(JSON.parse(process.env['HISTORY']!), home))
    await fc.assert(
      fc.asyncProperty(histories, (history) => passTime(append(history, join(home, String(number++))))),
      settings,
    )
  })
})

async function append(history: History, home: string): Promise<void> {
  const { rows, keys, unknowns } = history
  const poison = new Set(history.poison.filter((id) => id < rows))
  const model = modelDestination({ poison, refuses: history.refuses, honoursKeys: unknowns === 'idempotent' })
  const source = Array.from({ length: rows }, (_, id): Item => ({ id, key: keys ? id % keys : id, version: 0 }))
  const healthy = { batchSize: 4, concurrency: 2, allowRejections: true, calls: [], dies: undefined, stops: undefined }
  const runs = [...history.runs, ...Array.from({ length: 6 }, () => healthy)]

  const common = {
    name: 'job',
    from: source,
    mode: 'append',
    log: quiet,
    key: keys === undefined ? undefined : 'key',
  } as const
  let folder = join(home, '0')
  const ghosts: Promise<unknown>[] = []
  let batchLimit = 0
  let open = { pending: 0, unknown: 0 }
  for (const [index, { batchSize, concurrency, allowRejections, calls, dies, stops }] of runs.entries()) {
    batchLimit = Math.max(batchLimit, batchSize)
    const sender: Sender = { dead: false, calls: [...calls], batchLimit }
    const options = {
      name: 'model',
      batchSize,
      concurrency,
      timeout: `${timing.timeout}ms`,
      settle: `${timing.settle}ms`,
      retryFor: `${timing.retryFor}ms`,
      idempotent: unknowns === 'idempotent' ? '24h' : undefined,
      onUnknown: unknowns === 'hold' ? 'hold' : 'resend',
    } as const
    const insert = (batch: Item[], context: Context) => model.write(sender, batch, context)
    const verify = (batch: Item[]) => model.verify(sender, batch)
    const to = unknowns === 'verify' ? destination(options)({ insert, verify }) : destination(options)(insert)
    const job = sync({ ...common, to, state: folder })

    const before = await job.status()
    const stop = new AbortController()
    if (stops !== undefined) setTimeout(() => stop.abort(), stops)
    const next = join(home, String(index + 1))
    const died = mortal(sender, dies, () => leftBehind(folder, next))
    const ended = job.run({ signal: stop.signal, allowRejections }).catch((error: unknown) => error)
    ghosts.push(ended)
    const result = await Promise.race([ended, died])
    if (sender.dead) folder = next
    const after = await sync({ ...common, to, state: folder }).status()
    open = { pending: after.pending, unknown: after.unknown }
    if (process.env['HISTORY']) console.log(index, before, result, after)
    if (sender.dead) {
      if (after.lastRun?.state === 'done') break
      continue
    }
    const counts = (after.lastRun ?? {}) as Partial<Run>
    if (result instanceof Error) expect(after.lastRun?.state).toBe('failed')
    else {
      const run = result as Run
      addsUp(run)
      addsUp(run.resumed)
      expect(run.resumed.rows).toBe(before.pending + before.unknown)
      expect(run.status).toBe(open.pending + open.unknown === 0 && !run.reason ? 'done' : 'incomplete')
    }
    expect(after.pending).toBe((counts.pending ?? 0) + (counts.resumed?.pending ?? 0))
    expect(after.unknown).toBe((counts.unknown ?? 0) + (counts.resumed?.unknown ?? 0))
    // the next run would read the source anew, and send every row a second time
    const stuck = open.pending === 0 && open.unknown > 0 && (unknowns === 'hold' || poison.size > 0)
    if (after.lastRun?.state === 'done' || stuck) break
  }

  await Promise.all(ghosts)
  expect(model.complaints).toEqual([])
  const refused = (await collect(sync({ ...common, to: destination(1)(() => {}), state: folder }).deadLetters())).map(
    ({ row }) => row.id,
  )
  const times = new Map<number, number>()
  for (const { id } of model.applied) times.set(id, (times.get(id) ?? 0) + 1)
  // refused rows: each once, none of them applied
  expect(new Set(refused).size).toBe(refused.length)
  expect(refused.filter((id) => !poison.has(id) || times.has(id))).toEqual([])
  const missing = source.filter(({ id }) => !times.has(id) && !refused.includes(id))
  expect(missing.length).toBeLessThanOrEqual(open.pending + open.unknown)
  // only a refusal after an unanswered attempt, or the wish to hold, leaves a row in doubt; only a row in doubt keeps others of its key
  if (unknowns !== 'hold' && poison.size === 0) expect(open.unknown).toBe(0)
  if (keys === undefined || open.unknown === 0) expect(open.pending).toBe(0)
  if (unknowns === 'hold' || unknowns === 'verify') expect([...times].filter(([, count]) => count > 1)).toEqual([])
  if (keys !== undefined) {
    const latest = new Map<number, number>()
    for (const { id, key } of model.applied) {
      expect(id).toBeGreaterThanOrEqual(latest.get(key) ?? 0)
      latest.set(key, id)
    }
  }
}

/** Resolves when the process dies: at the n-th named point, its folder as it is then is taken and nothing it does counts any more. */
function mortal(sender: Sender, dies: number | undefined, take: () => void): Promise<void> {
  return new Promise((resolve) => {
    let passed = 0
    Reflect.set(globalThis, hook, () => {
      if (sender.dead || ++passed !== dies) return
      sender.dead = true
      take()
      resolve()
    })
  })
}

function addsUp({ rows, delivered, unchanged, rejected, pending, unknown, superseded }: Outcomes): void {
  for (const count of [rows, delivered, unchanged, rejected, pending, unknown, superseded])
    expect(count).toBeGreaterThanOrEqual(0)
  expect(delivered + unchanged + rejected + pending + unknown + superseded).toBe(rows)
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
