import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { type Context, destination, RejectedError, type Run, sync } from '../../src/index.js'
import { fakeClock, passTime } from '../support/clock.js'
import { quiet } from '../support/quiet.js'
import { openLedger, stateFolder } from '../support/state-folder.js'

// Rows in doubt that may be sent again go in batches of their own, after the time in which a lost request may still land.

type Row = { readonly id: number; readonly value: number }
type Call = { readonly operation: string; readonly rows: readonly Row[]; readonly at: number; readonly sent: number }

const settle = 10_000
const rows = (count: number, value: number): Row[] => Array.from({ length: count }, (_, id) => ({ id, value }))

beforeEach(fakeClock)
afterEach(() => void vi.useRealTimers())

/** Leaves the first 30 rows of 60 in doubt, three batches of ten, and has the run after it send `next`. */
async function doubtful(
  next: readonly Row[],
  options: { batchBytes?: number; replaySafe?: boolean; onUnknown?: 'resend'; bad?: number } = {},
) {
  const { bad, ...policy } = options
  const folder = await stateFolder()
  const held = new Map<number, number>()
  let calls: Call[] = []
  let underWay = new Set<number>()
  const go = (from: readonly Row[], lost: boolean, more = {}): Promise<Run> => {
    const write = async (batch: Row[], { operation, signal }: Context): Promise<void> => {
      const ledger = openLedger(folder)
      const sent = ledger.batches().filter(({ state }) => state === 'sent').length
      ledger.close()
      calls.push({ operation, rows: batch, at: performance.now(), sent })
      if (lost) await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      for (const { id } of batch) expect(underWay.has(id)).toBe(false)
      underWay = new Set([...underWay, ...batch.map(({ id }) => id)])
      await new Promise((resolve) => setTimeout(resolve, 5))
      for (const { id } of batch) underWay.delete(id)
      if (batch.some(({ id }) => id === bad)) throw new RejectedError('bad row')
      for (const { id, value } of batch) held.set(id, value)
    }
    const remove = async (batch: Pick<Row, 'id'>[], { operation }: Context): Promise<void> => {
      calls.push({ operation, rows: batch as Row[], at: performance.now(), sent: 0 })
      for (const { id } of batch) held.delete(id)
    }
    const limits = lost ? ({ timeout: '30ms', retryFor: '1ms' } as const) : policy
    const place = { name: 'store', batchSize: 10, concurrency: 3, settle: `${settle}ms` } as const
    const to = destination({ ...place, ...limits })({ upsert: write, delete: remove })
    const syncing = sync({ name: 'rows', from: () => from, to, key: 'id', mode: 'mirror', state: folder, log: quiet })
    return passTime(syncing.run(more))
  }
  const first = await go(rows(60, 1), true)
  expect(first).toMatchObject({ unknown: 30, pending: 30 })
  calls = []
  const begun = performance.now()
  const run = await go(next, false, { allowDeletes: true })
  return { run, held, calls, begun, go }
}

it('they are sent in full batches of their own, and no earlier than a lost request could land', async () => {
  const { run, held, calls, begun } = await doubtful(rows(60, 2))
  expect(run).toMatchObject({ status: 'done', delivered: 60, resumed: { superseded: 60 } })
  expect([...held.values()]).toEqual(rows(60, 2).map(({ value }) => value))
  expect(calls.map((call) => call.rows.length)).toEqual([10, 10, 10, 10, 10, 10])
  const doubted = calls.filter((call) => call.rows.some(({ id }) => id < 30))
  expect(doubted.map((call) => call.rows.filter(({ id }) => id < 30).length)).toEqual([10, 10, 10])
  for (const { at } of doubted) expect(at - begun).toBeGreaterThanOrEqual(settle)
})

it('no more batches than there are lanes are in doubt at any time, and each key goes once, with its newest value', async () => {
  const changed = rows(60, 2).map((row) => ({ ...row, value: row.id % 2 ? 3 : 2 }))
  const { calls, held } = await doubtful(changed)
  expect(Math.max(...calls.map(({ sent }) => sent))).toBe(3)
  const ids = calls.flatMap((call) => call.rows.map(({ id }) => id))
  expect(ids.toSorted((a, b) => a - b)).toEqual(changed.map(({ id }) => id))
  expect([...held].map(([id, value]) => ({ id, value })).toSorted((a, b) => a.id - b.id)).toEqual(changed)
})

it('deletes of what may have been written go together too', async () => {
  const { run, calls, held } = await doubtful(rows(60, 1).slice(20))
  expect(run).toMatchObject({ status: 'done', deletes: { delivered: 20 } })
  expect(calls.filter(({ operation }) => operation === 'delete').map((call) => call.rows.length)).toEqual([10, 10])
  expect(held.size).toBe(40)
})

it('their batches keep to the most bytes', async () => {
  // five of `{"id":…,"value":…}`
  const { calls, run } = await doubtful(rows(60, 2), { batchBytes: 100 })
  expect(run).toMatchObject({ status: 'done', delivered: 60 })
  for (const call of calls) expect(JSON.stringify(call.rows).length).toBeLessThanOrEqual(110)
  expect(calls.length).toBeLessThan(25)
})

it('of a batch in doubt that is refused, one bad row is found, and stays in doubt alone', async () => {
  const { run, held, go, calls } = await doubtful(rows(60, 2), { bad: 7 })
  expect(run).toMatchObject({ status: 'done', delivered: 59, rejected: 1 })
  expect(held.size).toBe(59)
  // it may be there: when it leaves the source, it is deleted
  calls.length = 0
  expect(
    await go(
      rows(60, 2).filter(({ id }) => id !== 7),
      false,
    ),
  ).toMatchObject({ deletes: { delivered: 1 } })
})

it('where a repeat may do harm, each goes by itself', async () => {
  const { calls, run } = await doubtful(rows(60, 2), { replaySafe: false, onUnknown: 'resend' })
  expect(run).toMatchObject({ status: 'done', delivered: 60, resent: 30 })
  const alone = calls.filter((call) => call.rows.some(({ id }) => id < 30))
  expect(alone.map((call) => call.rows.length)).toEqual(Array.from({ length: 30 }, () => 1))
})
