import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { z } from 'zod'
import {
  type Context,
  type CursorValue,
  destination,
  FatalError,
  type Outcomes,
  RejectedError,
  RetryableError,
  type Run,
  reject,
  retry,
  sync,
} from '../../src/index.js'
import { dieAt, immortal } from '../support/death.js'
import { quiet } from '../support/quiet.js'
import { afterDeath, type BatchRow, openLedger, stateFolder } from '../support/state-folder.js'

// The invariants of the delivery protocol, each under its own sentence. Number 10 is in damage.test.ts; any mixture of failures is
// in histories.test.ts; real kills are in test/crash.

const soak = process.env['SOAK'] !== undefined

type Row = { readonly id: number; readonly value?: string }
type Call = { readonly ids: readonly number[]; readonly values: string; readonly key: string; readonly run: number }

const source = (count: number): Row[] => Array.from({ length: count }, (_, id) => ({ id }))

afterEach(() => {
  immortal()
  vi.restoreAllMocks()
})

/** A way of delivering, and the promise that goes with it. */
interface Kind {
  readonly name: string
  readonly mode: 'append' | 'insert' | 'upsert'
  readonly unknowns: 'resend' | 'hold' | 'verify' | 'idempotent'
}

/** What a destination got from a sender that dies at the n-th named point of its first run, of its second …, and then finishes. */
async function delivered(kind: Kind, nths: readonly number[], rows = 12) {
  const home = await stateFolder()
  const calls: Call[] = []
  const there: number[] = []
  const keys = new Set<string>()
  const runs: Run[] = []
  /** In which state the ledger had each call's batch when the call arrived. */
  const marks: (string | undefined)[] = []
  let open: readonly BatchRow[] = []

  const go = async (number: number, folder: string, next: string, dies: number | undefined): Promise<boolean> => {
    const death = dieAt(dies, folder, next)
    const write = async (batch: Row[], { idempotencyKey: key }: Context): Promise<void> => {
      if (death.at !== undefined) throw new FatalError('the process is dead')
      const ledger = openLedger(folder)
      marks.push(ledger.batch(key)?.state)
      ledger.close()
      const ids = batch.map(({ id }) => id)
      calls.push({ ids, values: batch.map(({ value }) => value).join(), key, run: number })
      await new Promise((resolve) => setImmediate(resolve))
      if (kind.unknowns !== 'idempotent' || !keys.has(key)) there.push(...ids)
      keys.add(key)
    }
    const options = {
      batchSize: number === 0 ? 4 : 3,
      concurrency: number === 0 ? 2 : 1,
      settle: '1ms',
      idempotent: kind.unknowns === 'idempotent' ? '1h' : undefined,
      onUnknown: kind.unknowns === 'hold' ? 'hold' : 'resend',
    } as const
    const verify = (batch: Row[]) => batch.filter(({ id }) => there.includes(id))
    const running = sync({
      name: 'people',
      from: () => source(rows),
      to: kind.unknowns === 'verify' ? destination(options)({ insert: write, verify }) : destination(options)(write),
      mode: kind.mode as 'insert',
      key: (kind.mode === 'append' ? undefined : 'id') as 'id',
      state: folder,
      log: quiet,
    })
      .run()
      .then(
        (run) => void (death.at === undefined && runs.push(run)),
        (error: unknown) => {
          if (death.at === undefined) throw error
        },
      )
    await Promise.race([running, death.came])
    onTestFinished(() => running)
    return death.at !== undefined
  }

  let deaths = 0
  for (const nth of [...nths, undefined]) {
    const next = join(home, String(deaths + 1))
    const died = await go(deaths, join(home, String(deaths)), next, nth)
    if (!died) break
    deaths++
    const left = afterDeath(next, (ledger) => ({ batches: ledger.batches(), run: ledger.lastRun() }))
    open = left?.batches.filter(({ state }) => state !== 'settled') ?? []
    // killed when all was over and recorded, but for telling its caller: to run again would be another run
    if (left?.run?.status === 'done' || left?.run?.status === 'incomplete') break
  }
  const ledger = afterDeath(join(home, String(deaths)), (ledger) => ledger.batches()) ?? []
  const unknown = ledger.reduce((sum, { state, rows }) => sum + (state === 'settled' ? 0 : rows), 0)
  return { calls, marks, there, runs, open, unknown, deaths }
}

type Story = Awaited<ReturnType<typeof delivered>>
const told = new Map<Kind, Promise<Story[]>>()

/** What happened when the sender died at each named point that a run passes; at some of them, where they are many and time is short. */
function deaths(kind: Kind): Promise<Story[]> {
  const stories = told.get(kind) ?? tell(kind)
  told.set(kind, stories)
  return stories
}

async function tell(kind: Kind): Promise<Story[]> {
  const stories: Story[] = []
  for (let nth = 1; ; nth += soak || kind.mode === 'append' ? 1 : 5) {
    const story = await delivered(kind, [nth])
    if (story.deaths === 0) return stories
    stories.push(story)
  }
}

const times = (values: readonly number[]): Map<number, number> => {
  const found = new Map<number, number>()
  for (const value of values) found.set(value, (found.get(value) ?? 0) + 1)
  return found
}
const twice = (values: readonly number[]): number[] =>
  [...times(values)].flatMap(([id, count]) => (count > 1 ? id : []))

const resend: Kind[] = [
  { name: 'append', mode: 'append', unknowns: 'resend' },
  { name: 'insert', mode: 'insert', unknowns: 'resend' },
]
const once: Kind[] = [
  { name: 'append, with idempotency keys', mode: 'append', unknowns: 'idempotent' },
  { name: 'append, with verify', mode: 'append', unknowns: 'verify' },
  { name: 'insert, with verify', mode: 'insert', unknowns: 'verify' },
]
const held: Kind[] = [
  { name: 'append, held', mode: 'append', unknowns: 'hold' },
  { name: 'insert, held', mode: 'insert', unknowns: 'hold' },
]
const upsert: Kind = { name: 'upsert', mode: 'upsert', unknowns: 'resend' }

describe('killed at any named point (K)', { timeout: 600_000 }, () => {
  it.each([...resend, upsert])(
    '1. every row in the log is in a `sent` mark committed before the request; rows logged twice were `unknown` in between: $name',
    async (kind) => {
      let deadly = 0
      for (const { calls, marks, open } of await deaths(kind)) {
        deadly++
        expect(new Set(marks)).toEqual(new Set(['sent']))
        for (const [index, { ids, run }] of calls.entries()) {
          const before = calls.slice(0, index).filter((call) => call.ids.some((id) => ids.includes(id)))
          // an upsert without the comparison with what is there sends everything anew
          for (const earlier of kind.mode === 'upsert' ? [] : before) {
            expect(run).toBe(earlier.run + 1)
            expect(open.map(({ key }) => key)).toContain(earlier.key)
          }
        }
      }
      expect(deadly).toBeGreaterThan(8)
    },
  )

  it.each(once)('5. no duplicate where there is `verify` or an idempotency key: $name', async (kind) => {
    for (const { there } of await deaths(kind)) {
      expect(twice(there)).toEqual([])
      expect(times(there).size).toBe(12)
    }
  })

  it.each(resend)(
    '5. without, at most concurrency × batchSize rows are repeated, under the same key, and all are counted as resent: $name',
    async (kind) => {
      let most = 0
      for (const { there, calls, runs, open } of await deaths(kind)) {
        expect(times(there).size).toBe(12)
        const repeated = twice(there)
        most = Math.max(most, repeated.length)
        expect(repeated.length).toBeLessThanOrEqual(2 * 4)
        for (const id of repeated) {
          expect(new Set(calls.filter(({ ids }) => ids.includes(id)).map(({ key }) => key)).size).toBe(1)
        }
        const atRisk = open.reduce((sum, { rows }) => sum + rows, 0)
        expect(repeated.length).toBeLessThanOrEqual(atRisk)
        expect(runs.at(-1)?.resent ?? 0).toBe(atRisk)
      }
      expect(most).toBe(8)
    },
  )

  it.each(held)(
    '5. where the unknown is held, nothing is repeated, and what is not there is unknown: $name',
    async (kind) => {
      for (const { there, unknown } of await deaths(kind)) {
        expect(twice(there)).toEqual([])
        expect(12 - times(there).size).toBeLessThanOrEqual(unknown)
      }
    },
  )

  it('5. all that holds too when the next run is killed as well, anywhere', async () => {
    const [nth = 0] = (await deaths(resend[0]!)).flatMap(({ open }, index) => (open.length === 2 ? index + 1 : []))
    for (const kind of [resend[0]!, held[0]!]) {
      for (let second = 1; soak || second < 15; second++) {
        const { there, runs, open, unknown, deaths } = await delivered(kind, [nth, second])
        if (deaths < 2) break
        if (kind.unknowns === 'hold') {
          expect(twice(there)).toEqual([])
          expect(12 - times(there).size).toBeLessThanOrEqual(unknown)
        } else {
          expect(times(there).size).toBe(12)
          expect(runs.at(-1)?.resent ?? 0).toBe(open.reduce((sum, { rows }) => sum + rows, 0))
        }
      }
    }
  })

  it('5. a redrive killed anywhere sends each dead letter once, and nothing else', async () => {
    for (let nth = 1; ; nth++) {
      const home = await stateFolder()
      const there: number[] = []
      const behave = { refuses: true }
      const people = (folder: string, dead = () => false) =>
        sync({
          name: 'people',
          from: source(4),
          to: destination({ batchSize: 1, settle: '1ms' })({
            insert([row]: Row[]) {
              if (dead()) throw new FatalError('the process is dead')
              if (behave.refuses && row!.id % 2 === 0) return [reject(row!, 'no')]
              there.push(row!.id)
              return undefined
            },
            verify: (batch: Row[]) => batch.filter(({ id }) => there.includes(id)),
          }),
          mode: 'append',
          state: join(home, folder),
          log: quiet,
        })
      expect(await people('1').run()).toMatchObject({ delivered: 2, rejected: 2 })
      behave.refuses = false
      const death = dieAt(nth, join(home, '1'), join(home, '2'))
      await people('1', () => death.at !== undefined)
        .redrive()
        .catch(() => {})
      immortal()
      if (death.at === undefined) break
      expect(await people('2').redrive()).toMatchObject({ status: 'done' })
      expect(there.toSorted()).toEqual([0, 1, 2, 3])
      expect(await people('2').status()).toMatchObject({ deadLetters: 0, pending: 0, unknown: 0 })
    }
  })

  it('4. after a run without failure the destination is the source, whatever happened before: upsert', async () => {
    for (const { there } of await deaths(upsert))
      expect([...times(there).keys()].sort((a, b) => a - b)).toEqual(source(12).map(({ id }) => id))
  })

  it('6. no idempotency key is ever seen with two bodies', async () => {
    for (const kind of [...resend, upsert]) {
      for (const { calls } of await deaths(kind)) {
        const bodies = new Map<string, string>()
        for (const { key, ids } of calls) {
          expect(bodies.get(key) ?? ids.join()).toBe(ids.join())
          bodies.set(key, ids.join())
        }
      }
    }
  })

  it('8. what was delivered stays known, wherever the snapshot was being folded', async () => {
    // a keyed insert sends only what it does not know, so what it sends after a death shows what the snapshot says
    for (const { calls, open, there } of await deaths(held[1]!)) {
      const known = there.filter(
        (id) => !open.some(({ key }) => calls.find((call) => call.ids.includes(id))?.key === key),
      )
      for (const id of known) expect(calls.filter(({ ids }) => ids.includes(id))).toHaveLength(1)
    }
  })
})

describe('2. the numbers add up', () => {
  const sum = ({ delivered, unchanged, rejected, pending, unknown, superseded }: Outcomes): number =>
    delivered + unchanged + rejected + pending + unknown + superseded

  it('with every outcome in one run, and again in the next one', async () => {
    const state = await stateFolder()
    const table = [{ at: 1, id: 'known' }]
    const refuses = { on: true }
    const people = sync({
      name: 'people',
      from: ({ since = 0 }: { since: CursorValue | undefined }) => table.filter(({ at }) => at >= (since as number)),
      to: destination({ batchSize: 1, retryFor: '1ms' })({
        insert([row]: { id: string }[]) {
          if (!refuses.on) return undefined
          if (row!.id === 'poison') return [reject(row!, 'no')]
          if (row!.id === 'lost') throw new Error('socket hang up')
          if (row!.id === 'late') throw new RetryableError('not now')
          return undefined
        },
      }),
      key: 'id',
      mode: 'insert',
      cursor: 'at',
      state,
      log: quiet,
    })
    expect(await people.run()).toMatchObject({ status: 'done', rows: 1, delivered: 1 })
    table.push(
      { at: 2, id: 'known' },
      { at: 3, id: 'twice' },
      { at: 4, id: 'twice' },
      { at: 5, id: 'poison' },
      { at: 6, id: 'lost' },
      { at: 7, id: 'late' },
    )
    const run = await people.run()
    expect(run).toMatchObject({
      status: 'incomplete',
      rows: 6,
      delivered: 1,
      unchanged: 1,
      rejected: 1,
      pending: 1,
      unknown: 1,
      superseded: 1,
    })
    expect(sum(run)).toBe(run.rows)
    refuses.on = false
    const next = await people.run()
    expect(next).toMatchObject({ rows: 0, resumed: { rows: 2, delivered: 1, unknown: 1 } })
    expect(sum(next.resumed)).toBe(2)
    expect(await people.status()).toMatchObject({ pending: 0, unknown: 1, deadLetters: 1 })
  })

  it('with refusals that are believed only when something was delivered, however long their dead letters take', async () => {
    let slow = false
    const record = z.object({ id: z.number() }).refine(async () => {
      if (slow) await new Promise((resolve) => setTimeout(resolve, 50))
      return true
    })
    const to = destination({ batchSize: 1, record })(([row]) => {
      if (row!.id === 0) throw new RejectedError('no')
      slow = true
    })
    const people = sync({ name: 'people', from: source(3), to, state: await stateFolder(), log: quiet })
    expect(await people.run()).toMatchObject({ status: 'done', delivered: 2, rejected: 1, pending: 0 })
    expect(await people.status()).toMatchObject({ deadLetters: 1, pending: 0 })
  })

  it('and a newer reading of the whole source takes the place of what an older one left', async () => {
    const state = await stateFolder()
    const down = { on: true }
    const to = destination({ batchSize: 4, retryFor: '1ms' })(() => {
      if (down.on) throw new RetryableError('down')
    })
    const people = sync({ name: 'people', from: source(10), to, key: 'id', state, log: quiet })
    expect(await people.run()).toMatchObject({ rows: 10, pending: 10 })
    down.on = false
    const run = await people.run()
    expect(run).toMatchObject({ status: 'done', rows: 10, delivered: 10, resumed: { rows: 10, superseded: 10 } })
  })
})

describe('4. a second run sends nothing', () => {
  it.each([
    ['in insert', { mode: 'insert', key: 'id' }, { rows: 30, unchanged: 30, delivered: 0 }],
    ['in insert with a cursor', { mode: 'insert', key: 'id', cursor: 'id' }, { rows: 0 }],
    ['in append with a cursor', { mode: 'append', cursor: 'id' }, { rows: 0 }],
    ['in upsert with a cursor', { mode: 'upsert', key: 'id', cursor: 'id' }, { rows: 0 }],
  ])('%s', async (_, options, second) => {
    const seen: number[] = []
    const people = sync({
      name: 'people',
      from: source(30),
      to: destination(7)((batch: Row[]) => void seen.push(...batch.map(({ id }) => id))),
      ...(options as { mode: 'insert'; key: 'id' }),
      state: await stateFolder(),
      log: quiet,
    })
    expect(await people.run()).toMatchObject({ status: 'done', rows: 30, delivered: 30 })
    expect(await people.run()).toMatchObject({ status: 'done', ...second })
    expect(seen).toHaveLength(30)
  })

  it('of rows that it has read before, where the cursor column has ties and rows are committed late', async () => {
    const table = [
      { id: 1, at: 1 },
      { id: 2, at: 5 },
      { id: 3, at: 5 },
    ]
    const seen: number[] = []
    const people = sync({
      name: 'people',
      from: ({ since = 0 }: { since: CursorValue | undefined }) => table.filter(({ at }) => at >= (since as number)),
      to: destination(2)((batch: Row[]) => void seen.push(...batch.map(({ id }) => id))),
      mode: 'append',
      cursor: { column: 'at', lag: 2 },
      state: await stateFolder(),
      log: quiet,
    })
    await people.run()
    table.push({ id: 4, at: 5 }, { id: 5, at: 3 }, { id: 6, at: 2 }, { id: 7, at: 9 }, { id: 3, at: 5 })
    await people.run()
    await people.run()
    // 6 came later than the lag allows; a row equal to one seen before is another row all the same
    expect(seen).toEqual([1, 2, 3, 4, 5, 7, 3])
  })
})

describe('6. per key', () => {
  it('a row waits for the one before it, also when the batch of that one was split', async () => {
    const underWay = new Set<number>()
    const seen: number[] = []
    const to = destination({ batchSize: 3, concurrency: 3 })(async (batch: { id: number; key: number }[]) => {
      for (const { key } of batch) {
        expect(underWay).not.toContain(key)
        underWay.add(key)
      }
      await new Promise((resolve) => setTimeout(resolve, 1 + ((batch[0]!.id * 7) % 5)))
      for (const { key } of batch) underWay.delete(key)
      if (batch.some(({ id }) => id % 11 === 0)) throw new RejectedError('no')
      seen.push(...batch.map(({ id }) => id))
    })
    const from = Array.from({ length: 60 }, (_, id) => ({ id, key: id % 4 }))
    const run = await sync({
      name: 'a',
      from,
      to,
      key: 'key',
      mode: 'append',
      state: await stateFolder(),
      log: quiet,
    }).run()
    expect(run).toMatchObject({ delivered: 54, rejected: 6 })
    for (let key = 0; key < 4; key++) {
      const ids = seen.filter((id) => id % 4 === key)
      expect(ids).toEqual(ids.toSorted((a, b) => a - b))
    }
  })

  it.each([1, 2])('a row is not sent while the one before it is held: concurrency %d', async (concurrency) => {
    const seen: string[] = []
    const to = destination({ batchSize: 1, concurrency })({
      insert([row]: { id: string; key: string }[]) {
        seen.push(row!.id)
        if (row!.id === 'a1') throw new Error('socket hang up')
      },
    })
    const from = ['a1', 'b1', 'a2', 'b2'].map((id) => ({ id, key: id[0]! }))
    const state = await stateFolder()
    const run = await sync({ name: 'a', from, to, key: 'key', mode: 'append', state, log: quiet }).run()
    expect(run).toMatchObject({ delivered: 2, unknown: 1, pending: 1 })
    expect(seen.toSorted()).toEqual(['a1', 'b1', 'b2'])
  })

  it('in append every refused row is a dead letter, and stays one when a later row of its key is delivered', async () => {
    const to = destination(1)((batch: { id: number; key: number }[]) =>
      batch.filter(({ id }) => id < 4).map((row) => reject(row, 'no')),
    )
    const from = Array.from({ length: 8 }, (_, id) => ({ id, key: id % 2 }))
    const events = sync({
      name: 'events',
      from,
      to,
      key: 'key',
      mode: 'append',
      state: await stateFolder(),
      log: quiet,
    })
    expect(await events.run()).toMatchObject({ delivered: 4, rejected: 4 })
    const letters: number[] = []
    for await (const { row } of events.deadLetters()) letters.push(row.id)
    expect(letters).toEqual([0, 1, 2, 3])
  })

  it.each([
    [
      'another `map`',
      (name: string) =>
        name === 'a' ? ({ id }: Row) => ({ value: `a${id}` }) : ({ id }: Row) => ({ value: `b${id}` }),
    ],
    [
      'what `map` finds outside itself',
      (name: string) =>
        ({ id }: Row) => ({ value: `${name}${id}` }),
    ],
  ])('%s means other bodies, and so another idempotency key', async (_, mapOf) => {
    const state = await stateFolder()
    const seen = new Map<string, string>()
    const behave = { breaks: true }
    const to = destination({ batchSize: 5, retryFor: '1ms', idempotent: '1h' })(
      (batch: { value: string }[], { idempotencyKey }) => {
        const body = batch.map(({ value }) => value).join()
        expect(seen.get(idempotencyKey) ?? body).toBe(body)
        seen.set(idempotencyKey, body)
        if (behave.breaks) throw new Error('socket hang up')
      },
    )
    const into = (name: string) => sync({ name: 'people', from: source(5), to, map: mapOf(name), state, log: quiet })
    expect(await into('a').run()).toMatchObject({ unknown: 5 })
    behave.breaks = false
    expect(await into('b').run()).toMatchObject({ status: 'done', resent: 5 })
    expect([...seen.values()]).toEqual(['a0,a1,a2,a3,a4', 'b0,b1,b2,b3,b4'])
  })
})

describe('8. between two runs', () => {
  it('batches may become smaller, but rows whose outcome is unknown are sent again as they were, under the same key', async () => {
    const state = await stateFolder()
    const sizes: number[] = []
    const keys = new Set<string>()
    const behave = { breaks: true }
    const into = (batchSize: number) =>
      sync({
        name: 'a',
        from: source(20),
        to: destination({ batchSize, retryFor: '1ms' })((batch: Row[], { idempotencyKey }) => {
          sizes.push(batch.length)
          keys.add(idempotencyKey)
          if (behave.breaks) throw new Error('socket hang up')
        }),
        state,
        log: quiet,
      })
    expect(await into(20).run()).toMatchObject({ unknown: 20 })
    behave.breaks = false
    sizes.length = 0
    expect(await into(6).run()).toMatchObject({ status: 'done', resent: 20, resumed: { rows: 20, delivered: 20 } })
    expect(sizes).toEqual([20])
    expect(keys.size).toBe(1)
  })

  it('killed before it could tell that it was done, a run is not run again, even when the next one is stopped at once', async () => {
    const home = await stateFolder()
    const seen: number[] = []
    const to = destination(4)((batch: Row[]) => void seen.push(...batch.map(({ id }) => id)))
    const people = (folder: string) =>
      sync({ name: 'people', from: source(10), to, state: join(home, folder), log: quiet })
    const { passed: commits } = await (async () => {
      const never = dieAt(undefined, '', '', 'before commit')
      await people('rehearsal').run()
      return never
    })()
    seen.length = 0
    dieAt(commits, join(home, '1'), join(home, '2'), 'before commit')
    await people('1').run()
    immortal()
    expect(await people('2').status()).toMatchObject({ pending: 0, lastRun: { state: 'killed' } })
    expect(await people('2').run({ signal: AbortSignal.abort() })).toMatchObject({ status: 'incomplete', rows: 0 })
    expect(await people('2').run()).toMatchObject({ status: 'done', rows: 0 })
    expect(seen).toHaveLength(10)
    // what it says now was said: this one reads the source anew
    expect(await people('2').run()).toMatchObject({ status: 'done', rows: 10, delivered: 10 })
  })

  it('killed when a plan was written that is of the same rows as the one before, what is open is still there', async () => {
    const home = await stateFolder()
    const behave = { down: true }
    const seen: number[] = []
    const to = destination({ batchSize: 2, retryFor: '1ms', settle: '1ms' })((batch: Row[]) => {
      if (behave.down) return batch.map((row) => retry(row, { after: '1min' }))
      seen.push(...batch.map(({ id }) => id))
      return undefined
    })
    const people = (state: string) =>
      sync({ name: 'people', from: source(5), to, key: 'id', mode: 'upsert', cursor: 'id', state, log: quiet })
    const [first, second, third] = ['1', '2', '3'].map((name) => join(home, name)) as [string, string, string]
    await people(first).run()
    await people(first).run()
    // two rows are unknown now, so the next plan says something else of the same rows
    dieAt(1, first, second, 'sent')
    await people(first).run()
    for (const nth of [1, 2]) {
      const death = dieAt(nth, second, third, 'file renamed')
      await people(second).run()
      immortal()
      expect(death.at).toBeDefined()
      behave.down = false
      seen.length = 0
      expect(await people(third).run()).toMatchObject({ status: 'done', resumed: { delivered: 5 } })
      expect(seen.toSorted()).toEqual([0, 1, 2, 3, 4])
      behave.down = true
      await rm(third, { recursive: true })
    }
  })

  it('a value in doubt is not overtaken by a lost request that lands late, even of the same run', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0) // no backoff
    const state = await stateFolder()
    const table = [
      { at: 1, id: 1 },
      { at: 1, id: 2 },
    ]
    const found = new Map<number, number>()
    const behave = { down: true }
    let landing: Promise<void> | undefined
    const sleep = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))
    const to = destination({ batchSize: 1, concurrency: 2, timeout: '60ms', settle: '700ms', retryFor: '500ms' })(
      async ([row]: { id: number; at: number }[], { signal }) => {
        if (behave.down) throw new RetryableError('down')
        if (row!.id === 2 || row!.at > 1) {
          // slow, so that something is delivered after the silence has begun, and the run goes on
          await sleep(row!.id === 2 ? 250 : 0)
          found.set(row!.id, row!.at)
          return
        }
        // no answer; and when it has been given up, it lands all the same
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        landing = sleep(500).then(() => void found.set(row!.id, row!.at))
        throw signal.reason
      },
    )
    const people = sync({
      name: 'people',
      from: ({ since = 0 }: { since: CursorValue | undefined }) => table.filter(({ at }) => at >= (since as number)),
      to,
      key: 'id',
      mode: 'upsert',
      cursor: 'at',
      state,
      log: quiet,
    })
    expect(await people.run()).toMatchObject({ status: 'incomplete', pending: 2 })
    behave.down = false
    table.push({ at: 2, id: 1 })
    expect(await people.run()).toMatchObject({ status: 'done', delivered: 1, resumed: { delivered: 1, superseded: 1 } })
    await landing
    expect(found.get(1)).toBe(2)
  })
})
