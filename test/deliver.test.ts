import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { z } from 'zod'
import {
  type Context,
  destination,
  FatalError,
  type Outcome,
  type Policy,
  RejectedError,
  RetryableError,
  receipt,
  reject,
  retry,
  sync,
  unknown,
} from '../src/index.js'
import { fakeClock, passTime } from './support/clock.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

type Row = { id: number; [column: string]: unknown }

const rows = (count: number): Row[] => Array.from({ length: count }, (_, id) => ({ id }))
async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

const fast = { timeout: '40ms', settle: '1ms', retryFor: '2s' } as const

/** A local server; answers what `answer` says. */
async function server(
  answer: (request: IncomingMessage, response: ServerResponse, body: string) => void,
): Promise<string> {
  const listening = createServer(async (request, response) => {
    let body = ''
    for await (const piece of request) body += piece
    answer(request, response, body)
  })
  await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    listening.closeAllConnections()
    listening.close()
  })
  return `http://127.0.0.1:${(listening.address() as AddressInfo).port}`
}

afterEach(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

describe('a refused batch', () => {
  it('is halved until the poison row stands alone; the rest is delivered, and a redrive sends it after the mend', async () => {
    let mended = false
    const delivered: number[] = []
    let calls = 0
    const to = destination({ name: 'crm', batchSize: 1_000 })((batch: Row[]) => {
      calls++
      if (!mended && batch.some(({ id }) => id === 333)) throw new RejectedError('crm: field score is not a number')
      delivered.push(...batch.map(({ id }) => id))
    })
    const one = sync({ name: 'leads', from: rows(1_000), to, state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ status: 'done', rows: 1_000, delivered: 999, rejected: 1, pending: 0 })
    expect(calls).toBeLessThan(25)
    expect(new Set(delivered).size).toBe(999)

    const letters = await all(one.deadLetters())
    expect(letters).toMatchObject([
      { row: { id: 333 }, reason: 'crm: field score is not a number', operation: 'insert' },
    ])
    mended = true
    expect(await one.redrive()).toMatchObject({ rows: 1, delivered: 1, rejected: 0 })
    expect(delivered).toContain(333)
    expect(delivered).toHaveLength(1_000)
    expect(await all(one.deadLetters())).toEqual([])
  })

  it('that is nothing but refusals, before anything was delivered, stops the run and leaves its rows pending', async () => {
    let calls = 0
    const to = destination({ batchSize: 100 })(() => {
      calls++
      throw Object.assign(new Error('missing permission contacts.write'), { status: 403 })
    })
    const one = sync({ name: 'leads', from: rows(500), to, state: await stateFolder(), log: quiet })
    const run = await one.run()
    expect(run).toMatchObject({ status: 'incomplete', rows: 500, delivered: 0, rejected: 0, pending: 500 })
    expect(run.reason).toMatch(/refused every row .* missing permission contacts.write.*allowRejections/)
    expect(calls).toBeLessThan(60)
    expect(await one.run({ allowRejections: true })).toMatchObject({
      status: 'done',
      resumed: { rows: 500, rejected: 500 },
    })
  })

  it('of a few rows, each of which is refused alone too, stops the run as well', async () => {
    const to = destination({ batchSize: 3 })(() => {
      throw new RejectedError('no permission')
    })
    const run = await sync({ name: 'a', from: rows(3), to, state: await stateFolder(), log: quiet }).run()
    expect(run).toMatchObject({ status: 'incomplete', pending: 3, rejected: 0 })
    expect(run.reason).toContain('refused every row it was sent (3)')
  })

  it('of one row is a dead letter even when it comes first', async () => {
    const to = destination({ batchSize: 1 })((batch: Row[]) => {
      if (batch[0]!.id === 0) throw new RejectedError('no')
    })
    const one = sync({ name: 'a', from: rows(3), to, state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ status: 'done', delivered: 2, rejected: 1 })
    const none = destination({ batchSize: 1 })(() => {
      throw new RejectedError('no')
    })
    const two = sync({ name: 'b', from: rows(3), to: none, key: 'id', state: await stateFolder(), log: quiet })
    expect(await two.run()).toMatchObject({ status: 'done', delivered: 0, rejected: 3 })
  })

  it('is sent again by a redrive as the source has the row now, where the source can show it', async () => {
    const from = [
      { id: 1, email: 'nonsense' },
      { id: 2, email: 'b@c.de' },
    ]
    const seen: unknown[] = []
    const to = destination(10)((batch: typeof from) => {
      seen.push(...batch)
      return batch.filter(({ email }) => !email.includes('@')).map((record) => reject(record, 'email is not valid'))
    })
    const one = sync({ name: 'a', from, to, key: 'id', mode: 'upsert', state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ delivered: 1, rejected: 1 })
    from[0]!.email = 'a@b.cd'
    seen.length = 0
    expect(await one.redrive({ where: ({ reason }) => reason === 'something else' })).toMatchObject({ rows: 0 })
    expect(seen).toEqual([])
    expect(await one.redrive({ where: ({ key }) => key === 1 })).toMatchObject({
      delivered: 1,
      unchanged: 1,
      rejected: 0,
    })
    expect(seen).toEqual([{ id: 1, email: 'a@b.cd' }])
    expect(await all(one.deadLetters())).toEqual([])
  })

  it('of which no record can be made count against a share only with the rows before them', async () => {
    const sent: number[] = []
    const to = destination({ batchSize: 1_000 })((batch: Row[]) => void sent.push(...batch.map(({ id }) => id)))
    const map = (row: Row): Row => {
      if (row.id % 8 === 0) throw new Error('no score')
      return row
    }
    const from = rows(1_500)
    const one = sync({ name: 'a', from, to, map, maxRejected: '20%', state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ status: 'done', delivered: 1_312, rejected: 188 })
    const strict = sync({ name: 'b', from, to, map, maxRejected: '10%', state: await stateFolder(), log: quiet })
    await expect(strict.run()).rejects.toThrow('maxRejected allows 10 %')
  })

  it.each([
    ['a number', 3, 4],
    ['a share, once a hundred rows were answered', '2%' as const, 10],
  ])('more than maxRejected, %s, end the run; what was not sent stays pending', async (_, maxRejected, rejected) => {
    let calls = 0
    const to = destination(10)((batch: Row[]) => {
      calls++
      return batch.filter(({ id }) => id % 10 === 9).map((record) => reject(record, 'no'))
    })
    const one = sync({ name: 'a', from: rows(300), to, maxRejected, state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow(
      `refused ${rejected} of the ${rejected * 10} rows answered in this run, and maxRejected allows ${maxRejected === 3 ? '3' : '2 %'}`,
    )
    expect(calls).toBe(rejected)
    expect(await one.status()).toMatchObject({ pending: 300 - rejected * 10, deadLetters: rejected })
  })

  it('keeps the row as the source gave it, whatever the handler did to its records', async () => {
    const to = destination(10)((batch: Row[]) => {
      for (const record of batch) record['id'] = -1
      return batch.slice(0, 1).map((record) => reject(record, 'no'))
    })
    const one = sync({ name: 'a', from: rows(3), to, state: await stateFolder(), log: quiet })
    await one.run()
    expect(await all(one.deadLetters())).toMatchObject([{ row: { id: 0 }, record: { id: 0 } }])
  })
})

describe('a handler', () => {
  it.each([
    ['plain', (batch: Row[], seen: Row[]) => void seen.push(...batch)],
    [
      'async',
      async (batch: Row[], seen: Row[]) => {
        await new Promise((resolve) => setImmediate(resolve))
        seen.push(...batch)
      },
    ],
  ])('may be %s', async (_, handle) => {
    const seen: Row[] = []
    const to = destination(10)((batch: Row[]) => handle(batch, seen))
    expect(await sync({ name: 'a', from: rows(25), to, state: await stateFolder() }).run()).toMatchObject({
      delivered: 25,
    })
    expect(seen).toEqual(rows(25))
  })

  it('gets what the source gave: null as null, absent as absent, bigint, Date and bytes as they were', async () => {
    const row = {
      id: 1,
      empty: null,
      absent: undefined,
      zero: 0,
      no: false,
      text: '',
      big: 2n ** 60n,
      at: new Date(7),
      raw: new Uint8Array([1]),
    }
    const seen: object[] = []
    const to = destination(1)((batch: object[]) => void seen.push(...batch))
    await sync({ name: 'a', from: [row], to, state: await stateFolder() }).run()
    const { absent, ...kept } = row
    expect(seen).toStrictEqual([kept])
  })

  it('that answers nonsense makes its batch unknown, and the run fails with what it returned', async () => {
    const to = destination(10)((() => ({ ok: true })) as never)
    const one = sync({ name: 'a', from: rows(25), to, state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow('the handler returned a Object; it must return nothing, or reject()')
    expect(await one.status()).toMatchObject({ unknown: 10, pending: 15, lastRun: { state: 'failed', delivered: 0 } })
  })

  it('that returns while its requests are still under way makes its batch unknown', async () => {
    const url = await server((_, response) => setTimeout(() => response.end('{}'), 20))
    const to = destination({ name: 'crm', batchSize: 10 })((batch, { http }) => {
      void http.post(url, { json: batch }).catch(() => {})
    })
    const one = sync({ name: 'a', from: rows(10), to, state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow('returned while 1 of its requests were still under way')
    expect(await one.status()).toMatchObject({ unknown: 10 })
  })

  it('that has a bug stops the run at once, rather than being called again', async () => {
    let calls = 0
    const to = destination(10)(() => {
      calls++
      ;(undefined as never as { x: () => void }).x()
    })
    await expect(sync({ name: 'a', from: rows(25), to, state: await stateFolder(), log: quiet }).run()).rejects.toThrow(
      TypeError,
    )
    expect(calls).toBe(1)
  })

  it('is told of a receipt at each later change, also after one that brought none', async () => {
    const seen: (string | undefined)[] = []
    const to = destination({ batchSize: 1, match: 'id' })({
      upsert([record]: Row[], { remoteId }) {
        seen.push(remoteId(record!))
        return seen.length === 1 ? [receipt(record!, 'object-0')] : undefined
      },
    })
    const from = rows(1)
    const one = sync({ name: 'a', from, to, key: 'id', mode: 'upsert', state: await stateFolder(), log: quiet })
    for (const change of [1, 2, 3]) {
      from[0]!['change'] = change
      await one.run()
    }
    expect(seen).toEqual([undefined, 'object-0', 'object-0'])
  })

  it('says more than yes or no: retry, unknown, receipt', async () => {
    const attempts = new Map<number, number>()
    const remote = new Map<number, string | undefined>()
    const to = destination({ ...fast, batchSize: 4, match: 'id' })({
      upsert(batch: Row[], { remoteId }) {
        return batch.flatMap((record): Outcome[] => {
          const { id } = record
          const attempt = (attempts.get(id) ?? 0) + 1
          attempts.set(id, attempt)
          remote.set(id, remoteId(record))
          if (id === 0 && attempt === 1) return [retry(record, { after: '5ms' })]
          if (id === 1 && attempt === 1) return [unknown(record)]
          if (id === 2) return [receipt(record, 'object-2')]
          return []
        })
      },
    })
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const from = rows(4)
    const one = sync({
      name: 'a',
      from,
      to,
      key: 'id',
      mode: 'upsert',
      state: await stateFolder(),
      log: quiet,
    })
    expect(await one.run()).toMatchObject({ status: 'done', delivered: 4, unknown: 0 })
    expect([...attempts.values()]).toEqual([2, 2, 1, 1])
    for (const row of from) row['changed'] = true
    await one.run()
    expect(remote.get(2)).toBe('object-2')
    expect(remote.get(3)).toBeUndefined()
  })

  it('tells the key of the row behind a record, which is the same in every run, and for what is gone too', async () => {
    const keys: (string | undefined)[] = []
    const record = z.object({ name: z.string() })
    const to = destination({ ...fast, name: 'crm', batchSize: 2, record, match: [] })({
      upsert: (batch, { key }) => void keys.push(...batch.map(key)),
      delete: (batch, { key }) => void keys.push(...batch.map(key)),
    })
    const from = rows(3).map(({ id }) => ({ id, name: `n${id}` }))
    const options = { name: 'a', to, key: 'id', mode: 'mirror', state: await stateFolder(), log: quiet } as const
    await sync({ ...options, from }).run()
    const before = keys.splice(0)
    expect(new Set(before).size).toBe(3)
    await sync({ ...options, from: [{ id: 0, name: 'other' }, from[2]!] }).run({ allowDeletes: true })
    expect(keys).toEqual([before[0], before[1]])
  })

  it('is told what it needs to know', async () => {
    let context: Context<object> | undefined
    const to = destination({ name: 'crm', match: 'id', batchSize: 2 })((_: Row[], given) => {
      context = given
      expect(given.table.columns.map(({ name, type }) => [name, type])).toEqual([
        ['id', 'integer'],
        ['at', 'instant'],
      ])
    })
    const from = [{ id: 1, at: new Date(1) }]
    const run = await sync({ name: 'people', from, to, key: 'id', state: await stateFolder() }).run()
    expect(context).toMatchObject({
      attempt: 1,
      operation: 'upsert',
      match: ['id'],
      sync: 'people',
      run: run.id,
      config: undefined,
    })
    expect(context!.idempotencyKey).toMatch(/^[0-9a-f]{32}$/)
  })

  it('sees records as the schema makes them, and rows that do not fit are rejected unsent', async () => {
    const record = z.object({ email: z.email(), score: z.number().default(0) })
    const seen: object[] = []
    const to = destination({ record, match: 'email' })((batch) => void seen.push(...batch))
    const from = [
      { id: 1, mail: 'a@b.co' },
      { id: 2, mail: 'nonsense' },
      { id: 3, mail: 'c@d.co' },
    ]
    const map = ({ id, mail }: { id: number; mail: string }) => {
      if (id === 3) throw new Error('cannot map 3')
      return { email: mail }
    }
    const one = sync({ name: 'a', from, to, map, key: 'id', mode: 'upsert', state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ delivered: 1, rejected: 2 })
    expect(seen).toEqual([{ email: 'a@b.co', score: 0 }])
    const reasons = (await all(one.deadLetters())).map(({ key, reason }) => [key, reason])
    expect(reasons).toEqual([
      [2, expect.stringMatching(/^the record does not fit destination: email: /)],
      [3, 'map failed: cannot map 3'],
    ])
  })
})

describe('an outage', () => {
  it('of a minute is survived', async () => {
    fakeClock()
    const start = Date.now()
    let refused = 0
    const seen: number[] = []
    const to = destination({ batchSize: 10, retryFor: '10min' })((batch: Row[]) => {
      if (Date.now() - start < 60_000) {
        refused++
        throw new RetryableError('down for maintenance')
      }
      seen.push(...batch.map(({ id }) => id))
    })
    const run = passTime(sync({ name: 'a', from: rows(30), to, state: await stateFolder(), log: quiet }).run())
    expect(await run).toMatchObject({ status: 'done', delivered: 30 })
    expect(seen).toEqual(rows(30).map(({ id }) => id))
    expect(refused).toBeGreaterThan(2)
    expect(Date.now() - start).toBeGreaterThanOrEqual(60_000)
  })

  it('that does not end leaves the rest pending, and the run says so', async () => {
    let calls = 0
    const to = destination({ name: 'crm', batchSize: 10, retryFor: '50ms' })(() => {
      calls++
      throw new RetryableError('no route')
    })
    vi.spyOn(Math, 'random').mockReturnValue(0.02)
    const one = sync({ name: 'a', from: rows(100), to, state: await stateFolder(), log: quiet })
    const run = await one.run()
    expect(run).toMatchObject({ status: 'incomplete', rows: 100, delivered: 0, pending: 100, unknown: 0 })
    expect(run.reason).toMatch(/^crm looks down: .*no route/)
    expect(calls).toBeGreaterThan(1)
    expect(calls).toBeLessThan(20)
  })

  it.each([
    ['seconds', () => '30'],
    ['an HTTP date', () => new Date(Date.now() + 30_000).toUTCString()],
  ])('with Retry-After in %s pauses all lanes, and is survived', async (_, header) => {
    fakeClock()
    vi.setSystemTime(new Date('2026-01-01T00:00:00Z'))
    const start = Date.now()
    const calls: number[] = []
    const to = destination({ batchSize: 10, concurrency: 4 })(async (_batch: Row[]) => {
      calls.push(Date.now() - start)
      if (calls.length !== 1) return
      const headers = new Headers({ 'retry-after': header() })
      throw Object.assign(new Error('slow down'), { response: { status: 429, headers } })
    })
    const one = sync({ name: 'a', from: rows(100), to, state: await stateFolder(), log: quiet })
    expect(await passTime(one.run())).toMatchObject({ status: 'done', delivered: 100 })
    expect(calls).toHaveLength(11)
    // what was under way when the answer came is let end; nothing else begins for half a minute
    expect(calls.filter((at) => at < 29_000).length).toBeLessThanOrEqual(4)
  })

  it('of a revoked token stops the run; what is left stays pending', async () => {
    const to = destination(10)((batch: Row[]) => {
      if (batch[0]!.id >= 20) throw new FatalError('token revoked')
    })
    const one = sync({ name: 'a', from: rows(50), to, state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow('token revoked')
    expect(await one.status()).toMatchObject({ pending: 30, unknown: 0, lastRun: { state: 'failed', delivered: 20 } })
  })
})

describe('a lost answer', () => {
  const lossy = (policy: Policy = {}) => {
    const seen: { ids: number[]; key: string; attempt: number }[] = []
    const behave = { lose: 1 }
    const write = (batch: Row[], { idempotencyKey, attempt }: { idempotencyKey: string; attempt: number }) => {
      seen.push({ ids: batch.map(({ id }) => id), key: idempotencyKey, attempt })
      if (behave.lose-- > 0) throw new Error('socket hang up')
    }
    return { seen, behave, write, policy: { ...fast, batchSize: 5, ...policy } }
  }

  it('from a plain function is sent again, under the same key, and counted as resent', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const { seen, write, policy } = lossy()
    const run = await sync({
      name: 'a',
      from: rows(5),
      to: destination(policy)(write),
      state: await stateFolder(),
      log: quiet,
    }).run()
    expect(run).toMatchObject({ status: 'done', delivered: 5, unknown: 0, resent: 5 })
    expect(seen.map(({ attempt }) => attempt)).toEqual([1, 2])
    expect(new Set(seen.map(({ key }) => key)).size).toBe(1)
  })

  it('from handlers is held, and the rest goes on', async () => {
    const { seen, write, policy } = lossy()
    const one = sync({
      name: 'a',
      from: rows(15),
      to: destination(policy)({ insert: write }),
      state: await stateFolder(),
      log: quiet,
    })
    expect(await one.run()).toMatchObject({ status: 'incomplete', delivered: 10, unknown: 5, pending: 0, resent: 0 })
    expect(await one.run()).toMatchObject({ resumed: { rows: 5, unknown: 5 } })
    expect(seen.filter(({ ids }) => ids[0] === 0)).toHaveLength(2) // the second run read the source anew
  })

  it('of an upsert is sent again, and is not called resent', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const { write, policy } = lossy()
    const to = destination(policy)({ upsert: write })
    const run = await sync({
      name: 'a',
      from: rows(5),
      to,
      key: 'id',
      mode: 'upsert',
      state: await stateFolder(),
      log: quiet,
    }).run()
    expect(run).toMatchObject({ status: 'done', delivered: 5, resent: 0 })
  })

  it.each([
    ['all there', [0, 1, 2, 3, 4], [], 1],
    ['some there', [0, 1], [2, 3, 4], 2],
    ['none there', [], [0, 1, 2, 3, 4], 2],
  ])('is looked up where there is a verify: %s', async (_, there, sentAgain, calls) => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const { seen, write, policy } = lossy()
    const to = destination(policy)({
      insert: write,
      verify: (batch: Row[]) => batch.filter(({ id }) => (there as number[]).includes(id)),
    })
    const run = await sync({ name: 'a', from: rows(5), to, state: await stateFolder(), log: quiet }).run()
    expect(run).toMatchObject({ status: 'done', delivered: 5, resent: 0 })
    expect(seen).toHaveLength(calls)
    expect(seen[1]?.ids ?? []).toEqual(sentAgain)
  })

  it('is not believed to be absent while its request may still land', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0) // it is asked at once
    const there: number[] = []
    let lost = false
    const to = destination({ ...fast, settle: '150ms', batchSize: 5 })({
      insert(batch: Row[]) {
        const ids = batch.map(({ id }) => id)
        if (lost) return void there.push(...ids)
        lost = true
        setTimeout(() => there.push(...ids), 60)
        throw new Error('socket hang up')
      },
      verify: (batch: Row[]) => batch.filter(({ id }) => there.includes(id)),
    })
    const run = await sync({ name: 'a', from: rows(5), to, state: await stateFolder(), log: quiet }).run()
    expect(run).toMatchObject({ status: 'done', delivered: 5, resent: 0 })
    expect(there).toEqual([0, 1, 2, 3, 4])
  })

  it('that verify cannot tell is left to onUnknown', async () => {
    const { write, policy } = lossy()
    const to = destination(policy)({ insert: write, verify: (batch: Row[]) => batch.map((record) => unknown(record)) })
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const run = await sync({ name: 'a', from: rows(5), to, state: await stateFolder(), log: quiet }).run()
    expect(run).toMatchObject({ status: 'incomplete', delivered: 0, unknown: 5 })
  })

  it('is sent again under its key where the API knows the key', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const { seen, write, policy } = lossy()
    const to = destination({ ...policy, idempotent: '1h' })({ insert: write })
    const run = await sync({ name: 'a', from: rows(5), to, state: await stateFolder(), log: quiet }).run()
    expect(run).toMatchObject({ status: 'done', delivered: 5, resent: 0 })
    expect(seen[0]!.key).toBe(seen[1]!.key)
  })

  it('followed by a refusal proves nothing about the lost attempt', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    let calls = 0
    const to = destination({ ...fast, batchSize: 5 })((_: Row[]) => {
      if (++calls === 1) throw new Error('socket hang up')
      throw Object.assign(new Error('duplicate'), { status: 422 })
    })
    const one = sync({ name: 'a', from: rows(1), to, state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ status: 'incomplete', rejected: 0, unknown: 1 })
  })

  it('followed by a refusal of one row proves nothing about that row', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    let calls = 0
    const to = destination({ ...fast, batchSize: 5 })((batch: Row[]) => {
      if (++calls === 1) throw new Error('socket hang up')
      return [reject(batch[0]!, 'duplicate')]
    })
    const one = sync({ name: 'a', from: rows(3), to, state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ status: 'incomplete', delivered: 2, rejected: 0, unknown: 1 })
  })

  it('is not sent again under a key that the API has forgotten', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    const { seen, write, policy } = lossy()
    const to = destination({ ...policy, retryFor: '1ms', idempotent: '1h' })({ insert: write })
    const one = sync({ name: 'a', from: rows(5), to, state: await stateFolder(), log: quiet })
    expect(await one.run()).toMatchObject({ unknown: 5 })
    vi.setSystemTime(Date.now() + 2 * 3_600_000)
    expect(await one.run()).toMatchObject({ resumed: { rows: 5, unknown: 5 } })
    expect(seen.filter(({ ids }) => ids[0] === 0).map(({ key }) => key)).toHaveLength(2)
  })

  it('is one that comes after the timeout; it still counts when it comes at last', async () => {
    let calls = 0
    const to = destination({ ...fast, batchSize: 5 })(async () => {
      calls++
      await new Promise((resolve) => setTimeout(resolve, 120))
    })
    expect(await sync({ name: 'a', from: rows(5), to, state: await stateFolder(), log: quiet }).run()).toMatchObject({
      delivered: 5,
    })
    expect(calls).toBe(1)
  })

  it('that never comes, from a handler that ignores its signal, stops the run', async () => {
    const to = destination({ timeout: '20ms', retryFor: '40ms', batchSize: 5 })(() => new Promise<void>(() => {}))
    const one = sync({ name: 'a', from: rows(10), to, state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow('the handler went on for 0.04 s after its signal had aborted')
    expect(await one.status()).toMatchObject({ unknown: 5, pending: 5 })
  })

  it('of a call that made two writes, or is not atomic, leaves a refusal unproven', async () => {
    let calls = 0
    const url = await server((_, response) => {
      response.writeHead(++calls % 2 === 0 ? 422 : 200).end('{}')
    })
    const twoWrites = destination({ ...fast, batchSize: 5, onUnknown: 'hold' })(async (batch: Row[], { http }) => {
      await http.post(url, { json: batch[0] })
      await http.post(url, { json: batch[1] })
    })
    const state = await stateFolder()
    expect(await sync({ name: 'a', from: rows(5), to: twoWrites, state, log: quiet }).run()).toMatchObject({
      unknown: 5,
      rejected: 0,
    })
    const loop = destination({ ...fast, batchSize: 5, onUnknown: 'hold', atomic: false })(() => {
      throw new RejectedError('row 3')
    })
    expect(await sync({ name: 'b', from: rows(5), to: loop, state, log: quiet }).run()).toMatchObject({
      unknown: 5,
      rejected: 0,
    })
  })
})

describe('a run that must end', () => {
  it('stops at the batch boundary when its signal aborts; the next run goes on', async () => {
    const controller = new AbortController()
    const seen: number[] = []
    const to = destination(10)(async (batch: Row[]) => {
      if (batch[0]!.id === 20) controller.abort()
      await new Promise((resolve) => setImmediate(resolve))
      seen.push(...batch.map(({ id }) => id))
    })
    const one = sync({ name: 'a', from: rows(100), to, state: await stateFolder(), log: quiet })
    const run = await one.run({ signal: controller.signal })
    expect(run).toMatchObject({ status: 'incomplete', delivered: 30, unknown: 0 })
    expect(run.delivered + run.pending).toBe(run.rows)
    await one.run()
    await one.run({ brokenOff: 'done' })
    expect(seen.slice(0, 100)).toEqual(rows(100).map(({ id }) => id))
  })

  it('a batch that was marked as sent and then had to wait is pending, not unknown, when the run stops before it left', async () => {
    const controller = new AbortController()
    let marks = 0
    const hook = Symbol.for('spillway.checkpoint')
    onTestFinished(() => void Reflect.deleteProperty(globalThis, hook))
    Reflect.set(globalThis, hook, (name: string) => {
      if (name !== 'sent' || ++marks !== 2) return
      // the disk took so long that the slot is past, and the next is an hour away
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200)
      setTimeout(() => controller.abort(), 20)
    })
    const seen: number[] = []
    const to = destination({ batchSize: 10, concurrency: 2, rate: '2/10s' })(
      (batch: Row[]) => void seen.push(...batch.map(({ id }) => id)),
    )
    const one = sync({ name: 'a', from: rows(20), to, state: await stateFolder(), log: quiet })
    expect(await one.run({ signal: controller.signal })).toMatchObject({ delivered: 10, pending: 10, unknown: 0 })
    expect(seen).toHaveLength(10)
    expect(await one.status()).toMatchObject({ pending: 10, unknown: 0 })
  })

  it('is over at its deadline', async () => {
    const to = destination({ batchSize: 1, onUnknown: 'hold' })(async (_: Row[], { signal }) => {
      await new Promise((resolve, rejectNow) => {
        const timer = setTimeout(resolve, 30)
        signal.addEventListener('abort', () => {
          clearTimeout(timer)
          rejectNow(signal.reason)
        })
      })
    })
    const start = Date.now()
    const one = sync({ name: 'a', from: rows(1_000), to, state: await stateFolder(), log: quiet })
    const run = await one.run({ deadline: new Date(start + 500) })
    expect(run).toMatchObject({ status: 'incomplete', rows: 1_000 })
    expect(run.delivered).toBeGreaterThan(0)
    expect(run.delivered + run.pending + run.unknown).toBe(1_000)
    expect(Date.now() - start).toBeLessThan(2_000)
  })
})

describe('batches', () => {
  it('are cut by bytes too; a larger record goes alone', async () => {
    const sizes: number[] = []
    const to = destination({ batchSize: 100, batchBytes: 100 })((batch: Row[]) => void sizes.push(batch.length))
    const from = [...rows(9), { id: 9, text: 'x'.repeat(500) }, { id: 10 }]
    await sync({ name: 'a', from, to, state: await stateFolder() }).run()
    expect(sizes.reduce((a, b) => a + b)).toBe(11)
    expect(sizes).toContain(1)
    expect(Math.max(...sizes)).toBeLessThan(11)
  })

  it('keep the order of each key: a row waits for the one before it', async () => {
    const underWay = new Set<unknown>()
    const seen: Row[] = []
    const to = destination({ batchSize: 3, concurrency: 4 })({
      async insert(batch: Row[]) {
        for (const { key } of batch) {
          expect(underWay.has(key)).toBe(false)
          underWay.add(key)
        }
        await new Promise((resolve) => setTimeout(resolve, 1 + (batch[0]!.id % 3)))
        for (const row of batch) underWay.delete(row['key'])
        seen.push(...batch)
      },
    })
    const from = Array.from({ length: 60 }, (_, id) => ({ id, key: id % 7 }))
    const run = await sync({ name: 'a', from, to, key: 'key', mode: 'append', state: await stateFolder() }).run()
    expect(run).toMatchObject({ delivered: 60 })
    for (let key = 0; key < 7; key++) {
      const ids = seen.filter((row) => row['key'] === key).map(({ id }) => id)
      expect(ids).toEqual([...ids].sort((a, b) => a - b))
    }
  })

  it('run no more at once than concurrency allows', async () => {
    let now = 0
    let most = 0
    const to = destination({ batchSize: 5, concurrency: 3 })(async () => {
      most = Math.max(most, ++now)
      await new Promise((resolve) => setTimeout(resolve, 2))
      now--
    })
    await sync({ name: 'a', from: rows(100), to, state: await stateFolder() }).run()
    expect(most).toBe(3)
  })
})
