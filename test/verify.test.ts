import { existsSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  type AnyRow,
  ConfigError,
  destination,
  FatalError,
  Instant,
  type ListContext,
  type Mode,
  type Policy,
  RetryableError,
  sync,
} from '../src/index.js'
import { quiet } from './support/quiet.js'
import { contentOf, stateFolder } from './support/state-folder.js'

const people = (count: number): AnyRow[] =>
  Array.from({ length: count }, (_, id) => ({ id, email: `p${id}@example.com`, score: id / 10 }))

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

interface Options {
  readonly mode?: Exclude<Mode, 'append'>
  readonly rows?: AnyRow[]
  readonly policy?: Policy
  readonly cursor?: string
  /** Instead of all objects, in two pages. */
  readonly list?: (context: ListContext) => unknown
  readonly held?: (record: AnyRow) => AnyRow
}

/** A CRM that holds objects by their email, which somebody may change by hand. */
async function crm({ mode = 'mirror', rows = people(4), policy, cursor, list, held }: Options = {}) {
  const source = { rows }
  const objects = new Map<unknown, AnyRow>()
  const sent: string[] = []
  const lost = { answer: false }
  const write = (batch: AnyRow[]) => {
    for (const record of batch) objects.set(record['email'], { ...objects.get(record['email']), ...record })
    sent.push(...batch.map((record) => `write ${record['email']}`))
    if (lost.answer) throw new FatalError('crm: cut off')
  }
  const make = destination({ name: 'crm', match: 'email', settle: '1ms', atomic: false })
  const handlers = {
    insert: write,
    update: write,
    upsert: write,
    delete(batch: AnyRow[]) {
      sent.push(...batch.map((record) => `delete ${record['email']}`))
      for (const record of batch) objects.delete(record['email'])
    },
    async replace(batches: AsyncIterable<AnyRow[]>) {
      objects.clear()
      for await (const batch of batches) write(batch)
    },
    list: (list as () => AnyRow[][]) ?? (() => [[...objects.values()].slice(0, 2), [...objects.values()].slice(2)]),
  }
  const to = (held ? make({ ...handlers, held }) : make(handlers)).with(policy ?? {})
  const state = await stateFolder()
  const from = () => source.rows
  const one = sync({
    name: 'people',
    from,
    to,
    key: 'id',
    mode,
    state,
    log: quiet,
    ...(cursor && ({ cursor } as object)),
  })
  return { source, objects, sent, lost, state, one }
}

describe('verify()', () => {
  it.each(['insert', 'update', 'upsert', 'mirror', 'replace'] as const)(
    'after a run in %s finds everything as it was delivered',
    async (mode) => {
      const { one } = await crm({ mode })
      await one.run()
      const drift = await one.verify()
      expect(drift).toMatchObject({
        sync: 'people',
        known: 4,
        same: 4,
        missing: 0,
        different: 0,
        unexpected: 0,
        dirty: 0,
      })
      expect(drift.remedy).toBeUndefined()
      expect(await all(drift.differences)).toEqual([])
    },
  )

  it('reports what was deleted, changed and added by hand, with the fields that differ', async () => {
    const { one, objects } = await crm()
    await one.run()
    objects.delete('p0@example.com')
    objects.set('p2@example.com', { id: 2, email: 'p2@example.com', score: 9, note: 'mine' })
    objects.set('p9@example.com', { id: 9, email: 'p9@example.com' })
    const drift = await one.verify()
    expect(drift).toMatchObject({ known: 4, same: 2, missing: 1, different: 1, unexpected: 1, dirty: 0 })
    expect(await all(drift.differences)).toEqual([
      {
        kind: 'missing',
        match: 'p0@example.com',
        expected: { id: 0, email: 'p0@example.com', score: 0 },
        found: undefined,
        fields: [],
        reason: undefined,
      },
      {
        kind: 'different',
        match: 'p2@example.com',
        expected: { id: 2, email: 'p2@example.com', score: 0.2 },
        found: { id: 2, email: 'p2@example.com', score: 9, note: 'mine' },
        fields: ['score'],
        reason: undefined,
      },
      {
        kind: 'unexpected',
        match: 'p9@example.com',
        expected: undefined,
        found: { id: 9, email: 'p9@example.com' },
        fields: [],
        reason: undefined,
      },
    ])
    expect(drift.remedy).toBe(
      'send everything again with full (spillway run people --full); no run takes away what is unexpected: look at it there',
    )
    await one.run({ full: true })
    objects.delete('p9@example.com')
    expect(await one.verify()).toMatchObject({ same: 4, missing: 0, different: 0, unexpected: 0, remedy: undefined })
  })

  it('counts only the fields that were delivered; null is a value, an absent field is none', async () => {
    const rows = [
      { id: 1, email: 'a', score: null, tags: ['x', { y: 1 }] },
      { id: 2, email: 'b' },
      { id: 3, email: 'c', score: undefined },
      { id: 4, email: 'd', score: 0 },
    ]
    const { one, objects } = await crm({ rows })
    await one.run()
    objects.set('a', { tags: ['x', { y: 1 }], id: 1, score: null, owner: 'somebody', email: 'a' })
    objects.set('b', { id: 2, email: 'b', score: 7 })
    objects.set('c', { id: 3, email: 'c', score: null })
    expect(await one.verify()).toMatchObject({ same: 4, different: 0 })
    objects.set('a', { id: 1, email: 'a', tags: ['x', { y: 2 }] })
    for (const score of [false, '', '0', null, undefined]) {
      objects.set('d', { id: 4, email: 'd', score })
      const { differences } = await one.verify()
      expect((await all(differences)).map(({ match, fields }) => [match, fields])).toEqual([
        ['a', ['score', 'tags']],
        ['d', ['score']],
      ])
    }
  })

  it('tells apart values that JSON would take for the same, and no others', async () => {
    const value = {
      big: 9_007_199_254_740_993n,
      small: 5n,
      decimal: '0.10',
      day: '2026-11-21',
      instant: Instant.of('2026-11-21T10:00:00.123456Z'),
      binary: new Uint8Array([1, 2]),
      infinite: Number.POSITIVE_INFINITY,
    }
    const { one, objects } = await crm({ rows: [{ id: 1, email: 'a', ...value }] })
    await one.run()
    objects.set('a', {
      ...value,
      small: 5,
      email: 'a',
      id: 1n,
      instant: Instant.of('2026-11-21T11:00:00.123456+01:00'),
    })
    expect(await one.verify()).toMatchObject({ same: 1, different: 0 })
    objects.set('a', {
      ...{ id: 1, email: 'a', small: '5', decimal: '0.1', day: new Date('2026-11-21'), infinite: null },
      big: 9_007_199_254_740_992n,
      instant: new Date('2026-11-21T10:00:00.123Z'),
      binary: new Uint8Array([1, 3]),
    })
    const [difference, ...others] = await all((await one.verify()).differences)
    expect(difference?.fields).toEqual(Object.keys(value))
    expect(difference?.expected).toEqual({ id: 1, email: 'a', ...value })
    expect(others).toEqual([])
  })

  it('compares a record in the form in which the destination gives it back; what that leaves out is not compared', async () => {
    const rows = [1, 2].map((id) => ({ id, email: `P${id}@Example.com`, since: new Date(0), secret: 's' }))
    const { one, objects } = await crm({
      rows,
      held: ({ secret, ...record }) => ({
        ...record,
        email: record['email'].toLowerCase(),
        since: record['since'].toJSON(),
      }),
    })
    await one.run()
    const since = '1970-01-01T00:00:00.000Z'
    objects.clear()
    objects.set(1, { id: 1, email: 'p1@example.com', since })
    objects.set(2, { id: 2, email: 'p2@example.com', since: null })
    const drift = await one.verify()
    expect(drift).toMatchObject({ known: 2, same: 1, different: 1, missing: 0, unexpected: 0 })
    expect(await all(drift.differences)).toMatchObject([
      { match: 'P2@Example.com', fields: ['since'], expected: rows[1], found: { since: null } },
    ])
  })

  it('counts an object that is there twice once, and the other as unexpected; the one that is as delivered stands for both', async () => {
    const { one, objects } = await crm({ mode: 'upsert' })
    await one.run()
    objects.set('again', { id: 1, email: 'p1@example.com', score: 5 })
    objects.set('x', { email: 'x@example.com' })
    objects.set('x again', { email: 'x@example.com' })
    objects.set('nobody', { id: 77, email: null })
    const first = objects.get('p1@example.com')!
    objects.delete('p1@example.com')
    objects.set('p1@example.com', first) // it comes after the other
    const drift = await one.verify()
    expect(drift).toMatchObject({ known: 4, same: 4, unexpected: 4 })
    expect((await all(drift.differences)).map(({ match, reason }) => [match, reason])).toEqual([
      ['p1@example.com', 'another object has the same email'],
      ['x@example.com', undefined],
      ['x@example.com', 'another object has the same email'],
      [null, 'it has no email, by which objects are found'],
    ])
    expect(drift.remedy).toBe('no run takes away what is unexpected: look at it there')
  })

  it.each([
    ['insert', undefined],
    ['update', undefined],
    ['upsert', undefined],
    ['mirror', 'no run takes away what is unexpected: look at it there'],
    ['replace', 'send everything again with full (spillway run people --full)'],
  ] as const)('in %s shows objects of others, and takes them for drift where none should be', async (mode, remedy) => {
    const { one, objects } = await crm({ mode })
    await one.run()
    objects.set('x', { id: 77, email: 'x@example.com' })
    expect(await one.verify()).toMatchObject({ same: 4, unexpected: 1, remedy })
  })

  it('follows the deletes of a mirror', async () => {
    const { one, objects, source } = await crm({ rows: people(10) })
    await one.run()
    const [first] = objects.values()
    source.rows = people(10).slice(1)
    await one.run()
    expect(await one.verify()).toMatchObject({ known: 9, same: 9, missing: 0, unexpected: 0 })
    objects.set('back', first!)
    expect(await one.verify()).toMatchObject({ known: 9, same: 9, unexpected: 1 })
  })

  it('does not compare what nobody is certain of, until a run has settled it', async () => {
    const { one, objects, source, lost } = await crm()
    await one.run()
    source.rows = people(5).with(1, { ...people(2)[1]!, score: 99 })
    lost.answer = true
    await expect(one.run()).rejects.toThrow('cut off')
    expect(objects.get('p1@example.com')).toMatchObject({ score: 99 })
    const drift = await one.verify()
    expect(drift).toMatchObject({
      known: 3,
      same: 3,
      missing: 0,
      different: 0,
      unexpected: 0,
      dirty: 2,
      remedy: undefined,
    })
    objects.delete('p1@example.com')
    expect(await one.verify()).toMatchObject({ known: 3, same: 3, missing: 0, dirty: 2 })
    lost.answer = false
    await one.run()
    expect(await one.verify()).toMatchObject({ known: 5, same: 5, dirty: 0 })
  })

  it('sends nothing and changes nothing of the state, and the next run sends nothing either', async () => {
    const { one, objects, sent, state } = await crm()
    await one.run()
    const before = await contentOf(state)
    sent.length = 0
    objects.clear()
    expect(await one.verify()).toMatchObject({ missing: 4 })
    expect(await contentOf(state)).toEqual(before)
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 4 })
    expect(sent).toEqual([])
  })

  it('before the first run knows of nothing, and leaves no state behind', async () => {
    const { one, objects, state } = await crm()
    objects.set('a', { email: 'a' })
    expect(await one.verify()).toMatchObject({ known: 0, missing: 0, unexpected: 1 })
    expect(existsSync(join(state, 'state.db'))).toBe(false)
  })

  it('after adopt() shows whether that was true', async () => {
    const { one, objects } = await crm({ mode: 'upsert' })
    for (const row of people(3)) objects.set(row['email'], row)
    await one.adopt()
    expect(await one.verify()).toMatchObject({ known: 4, same: 3, missing: 1 })
  })

  it('says how to put right what a full run would not', async () => {
    const inserted = await crm({ mode: 'insert' })
    await inserted.one.run()
    inserted.objects.clear()
    expect((await inserted.one.verify()).remedy).toBe('insert sends nothing twice: put it right by hand')
    const followed = await crm({ mode: 'upsert', cursor: 'id' })
    await followed.one.run()
    followed.objects.clear()
    expect((await followed.one.verify()).remedy).toBe(
      'forget what was delivered with reset (spillway reset people) and run it again',
    )
  })

  it('its differences can be read again and again, and by part', async () => {
    const { one, objects } = await crm()
    await one.run()
    objects.clear()
    const { differences } = await one.verify()
    for await (const { match } of differences) {
      expect(match).toBe('p0@example.com')
      break
    }
    expect(await all(differences)).toHaveLength(4)
    expect(await all(differences)).toHaveLength(4)
  })

  it('is refused while a run goes on, and for the time that it takes no run begins', async () => {
    let listing = (): void => {}
    const begun = new Promise<void>((resolve) => {
      listing = resolve
    })
    let end = (): void => {}
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    const { one } = await crm({
      async list() {
        listing()
        await ended
        return []
      },
    })
    await one.run()
    const verifying = one.verify()
    await begun
    await expect(one.run()).rejects.toThrow('another run of this sync is under way')
    end()
    expect(await verifying).toMatchObject({ missing: 4 })
  })
})

describe('what cannot be verified', () => {
  const nowhere = destination({ name: 'nowhere' })({ insert() {}, upsert() {}, replace() {} })
  const listing = destination({ name: 'crm' })({ insert() {}, upsert() {}, replace() {}, list: () => [] })

  it('is refused for append, which knows no objects', async () => {
    const one = sync({ name: 'a', from: [{ id: 1 }], to: listing, state: await stateFolder() })
    await expect(one.verify()).rejects.toThrow(ConfigError)
    await expect(one.verify()).rejects.toThrow('a: append knows no objects, so there is nothing to verify')
  })

  it('is refused without a key', async () => {
    const one = sync({ name: 'a', from: [{ id: 1 }], to: listing, mode: 'replace', state: await stateFolder() })
    await expect(one.verify()).rejects.toThrow('a: without a key no object is told from another; give a key')
  })

  it('is refused for a destination without list, with what can be done instead', async () => {
    const from = [{ id: 1 }]
    const one = sync({ name: 'a', from, to: nowhere, key: 'id', mode: 'upsert', state: await stateFolder() })
    await expect(one.verify()).rejects.toThrow(
      'a: nowhere cannot list what it holds: give it the handler list, or send everything again with full (spillway run a --full) without looking',
    )
    const two = sync({ name: 'a', from, to: nowhere, key: 'id', mode: 'insert', state: await stateFolder() })
    await expect(two.verify()).rejects.toThrow(/give it the handler list$/)
  })

  it('are records without the match field, or that share it', async () => {
    const state = await stateFolder()
    const map = ({ id }: { id: number }) => ({ name: `n${id}` })
    const one = sync({ name: 'a', from: [{ id: 1 }], to: listing, map, key: 'id', mode: 'upsert', state, log: quiet })
    await one.run()
    await expect(one.verify()).rejects.toThrow(
      'a: 1 of the records delivered have no id at crm, so that they cannot be found there: have map keep it',
    )
    const shared = await crm({ rows: people(3), held: (record) => ({ ...record, email: 'one' }) })
    await shared.one.run()
    await expect(shared.one.verify()).rejects.toThrow(
      'people: 3 of the records delivered share their email with another, so that one cannot be told from the other',
    )
  })

  it('list and held are no operations, and alone make no destination', () => {
    expect(listing.operations).toEqual(['insert', 'upsert', 'replace'])
    expect(() => destination(1)({ list: () => [], held: (record) => record })).toThrow(
      'no handler: give at least one of',
    )
  })
})

describe('list', () => {
  const page = (from: number) => people(from + 2).slice(from)

  it.each<[string, () => unknown]>([
    ['an array', () => people(4)],
    ['arrays in an array', () => [page(0), [], page(2)]],
    ['a promise of one', async () => people(4)],
    [
      'a generator',
      function* () {
        yield page(0)
        yield* page(2)
      },
    ],
    [
      'an async generator',
      async function* () {
        yield* page(0)
        yield page(2)
      },
    ],
    ['a promise of a set', async () => new Set(people(4))],
  ])('may give %s', async (_, list) => {
    const { one } = await crm({ list })
    await one.run()
    expect(await one.verify()).toMatchObject({ same: 4, unexpected: 0 })
  })

  it('is told the config, the match fields, the sync and the attempt', async () => {
    const seen: unknown[] = []
    const { one } = await crm({
      list({ config, match, sync: name, attempt, http, log, signal }) {
        seen.push(config, match, name, attempt, typeof http.get, log.info, signal.aborted)
        return []
      },
    })
    await one.verify()
    expect(seen).toEqual([undefined, ['email'], 'people', 1, 'function', expect.any(Function), false])
  })

  it.each<[unknown, string]>([
    [undefined, 'crm: list gave undefined; it must give objects, or arrays of them, in any iterable'],
    ['text', 'crm: list gave a string; it must give objects'],
    [[page(0), [1]], 'crm: list gave a number where an object with the fields of its records was expected'],
    [[null], 'crm: list gave null where an object'],
    [[[[1]]], 'crm: list gave an array where an object'],
    [[{ email: 'a', fetch }], 'crm: list gave an object that holds a function in column "fetch", which cannot be kept'],
  ])('that gives %j is told what it must give', async (given, message) => {
    const { one } = await crm({ list: () => given })
    await one.run()
    await expect(one.verify()).rejects.toThrow(FatalError)
    await expect(one.verify()).rejects.toThrow(message)
  })

  it('that fails half-way fails the whole, says so, and shows no secret', async () => {
    const { one } = await crm({
      async *list() {
        yield page(0)
        throw new Error('the page was bad: Bearer abcdef123456789')
      },
    })
    await one.run()
    await expect(one.verify()).rejects.toThrow(
      'people: crm could not be listed: the page was bad: Bearer [redacted]. Nothing was changed',
    )
    expect(await one.run()).toMatchObject({ unchanged: 4 })
  })

  it('that says it may work later begins again, from its start', async () => {
    const attempts: number[] = []
    const { one } = await crm({
      rows: people(5_000),
      async *list({ attempt }) {
        attempts.push(attempt)
        yield people(3_000)
        if (attempt < 3) throw new RetryableError('busy', { after: '1ms' })
        yield people(5_000).slice(3_000)
      },
    })
    await one.run()
    expect(await one.verify()).toMatchObject({ same: 5_000, unexpected: 0 })
    expect(attempts).toEqual([1, 2, 3])
  })

  it('is given up when the time for retries is over', async () => {
    const policy = { retryFor: '1ms' } as const
    const { one } = await crm({ policy, list: () => Promise.reject(new RetryableError('crm: busy', { after: '1s' })) })
    await one.run()
    await expect(one.verify()).rejects.toThrow('crm: busy')
  })

  it('is ended by the signal, even where it is silent, and the next run goes on', async () => {
    const controller = new AbortController()
    const reason = new Error('that will do')
    const { one } = await crm({
      async *list() {
        yield page(0)
        controller.abort(reason)
        await new Promise(() => {})
      },
    })
    await one.run()
    await expect(one.verify({ signal: controller.signal })).rejects.toBe(reason)
    await expect(one.verify({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(await one.run()).toMatchObject({ unchanged: 4 })
  })

  it('reads pages at the rate of the destination, each under its timeout, again when the server stumbles, and writes nothing', async () => {
    const requests: { url: string; at: number }[] = []
    const server = createServer((request, response) => {
      requests.push({ url: request.url!, at: performance.now() })
      if (requests.length === 2) return void response.writeHead(503).end()
      const from = Number(new URL(request.url!, 'http://x').searchParams.get('from'))
      setTimeout(() => response.end(JSON.stringify(page(from))), 150)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    const { one } = await crm({
      rows: people(8),
      policy: { rate: '1/100ms', timeout: '400ms' }, // all four pages take longer
      async *list({ http }) {
        for (let from = 0; from < 8; from += 2) yield http.get(url, { query: { from } })
      },
    })
    await one.run()
    expect(await one.verify()).toMatchObject({ same: 8 })
    expect(requests).toHaveLength(5)
    const gaps = requests.slice(1).map(({ at }, index) => at - requests[index]!.at)
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(95)

    const slow = await crm({ policy: { timeout: '50ms', retryFor: '1ms' }, list: ({ http }) => http.get(url) })
    await expect(slow.one.verify()).rejects.toThrow('had no whole answer within 0.05 s')
    const writing = await crm({ list: ({ http }) => http.post(url, { json: {} }) })
    await expect(writing.one.verify()).rejects.toThrow('crm: list made a request that may write')
  })

  it('of 50,000 objects, and as many differences, is never held in memory as a whole', async () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const used = () => {
      collect()
      return process.memoryUsage().heapUsed
    }
    const text = 'x'.repeat(300)
    const heap: number[] = []
    const count = 50_000
    const { one } = await crm({
      rows: Array.from({ length: count }, (_, id) => ({ id, email: `p${id}`, text: `${id} ${text}` })),
      policy: { batchSize: 10_000 },
      async *list() {
        for (let from = 0; from < count; from += 1_000) {
          if (from % 20_000 === 0) heap.push(used())
          yield Array.from({ length: 1_000 }, (_, index) => {
            const id = from + index
            return { email: `p${id}`, text: id % 2 === 0 ? `${id} ${text}` : `${id} ${text}!` }
          })
        }
      },
    })
    await one.run()
    const drift = await one.verify()
    expect(drift).toMatchObject({ known: count, same: 0, different: count })
    let seen = 0
    for await (const { fields, match } of drift.differences) {
      if (match !== `p${seen}` || fields.length !== (seen % 2 === 0 ? 1 : 2)) throw new Error(`${match}: ${fields}`)
      if (seen++ % 20_000 === 0) heap.push(used())
    }
    expect(seen).toBe(count)
    // the texts alone are 16 MB
    expect(Math.max(...heap) - heap[0]!).toBeLessThan(8_000_000)
  }, 120_000)
})
