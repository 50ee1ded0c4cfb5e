import { createServer, request as httpRequest, type RequestListener } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { z } from 'zod'
import { ConfigError } from '../../src/index.js'
import { nodeHandler, webhook } from '../../src/sources/webhook.js'
import { openLedger } from '../support/state-folder.js'
import { hook, rowsOf } from './support.js'

const checkpoint = Symbol.for('spillway.checkpoint')
afterEach(() => {
  Reflect.deleteProperty(globalThis, checkpoint)
  vi.useRealTimers()
})

const post = (body: string, type = 'application/json', headers: Record<string, string> = {}) => ({
  headers: { 'content-type': type, ...headers },
  body,
})

describe('a body', () => {
  const bodies: [string, string, string, object[]][] = [
    [
      'JSON',
      'application/json; charset=utf-8',
      '{"id":1,"name":"Zoë","none":null}',
      [{ id: 1, name: 'Zoë', none: null }],
    ],
    ['JSON of a vendor', 'application/cloudevents+json', '{"id":1}', [{ id: 1 }]],
    ['an array', 'application/json', '[{"id":1},{"id":2}]', [{ id: 1 }, { id: 2 }]],
    ['an empty array', 'application/json', '[]', []],
    ['JSON lines', 'application/x-ndjson', '{"id":1}\r\n\n{"id":2}\n', [{ id: 1 }, { id: 2 }]],
    ['a form', 'application/x-www-form-urlencoded', 'a=1&b=x+y&b=z%26', [{ a: '1', b: ['x y', 'z&'] }]],
    ['an integer beyond 2^53', 'application/json', '{"id":9007199254740993}', [{ id: 9007199254740993n }]],
    [
      'keys that mean something to JavaScript',
      'application/json',
      '{"__proto__":1,"$":"bigint"}',
      [JSON.parse('{"__proto__":1,"$":"bigint"}')],
    ],
  ]
  it('of JSON, JSON lines or a form is read as its events', async () => {
    const { receive, source } = await hook()
    for (const [what, type, body, rows] of bodies) {
      const before = (await rowsOf(source)).length
      const response = await receive(post(body, type))
      expect([response.status, await response.json()], what).toEqual([200, { received: rows.length }])
      expect((await rowsOf(source)).slice(before), what).toEqual(rows)
    }
  })

  const refusals: [string, number, string, ReturnType<typeof post>][] = [
    [
      'of another kind',
      415,
      'the body must be JSON, JSON lines or a form, in UTF-8 and not compressed',
      post('a,b', 'text/csv'),
    ],
    ['in another alphabet', 415, 'the body must be', post('{}', 'application/json; charset=latin1')],
    ['that is compressed', 415, 'the body must be', post('{}', 'application/json', { 'content-encoding': 'gzip' })],
    ['that is no JSON', 400, 'the body is not JSON', post('{"a":')],
    ['that is empty', 400, 'the body is not JSON', post('')],
    ['with a line that is no JSON', 400, 'line 3 is not JSON', post('{}\n\n{"a"', 'application/jsonl')],
    ['that is no object', 422, 'the body is not an object, which an event must be', post('"text"')],
    ['with an event that is no object', 422, 'event 2 is not an object', post('[{},[]]')],
    ['too deep to be kept', 422, 'the event cannot be kept', post(`{"a":${'['.repeat(50_000)}${']'.repeat(50_000)}}`)],
    ['that is too long', 413, 'the body has more than 200000 bytes', post(`{"a":"${'x'.repeat(200_000)}"}`)],
  ]
  it('of another kind, or with something else in it, is refused, and nothing of it kept', async () => {
    const { receive, source } = await hook({ bodyLimit: 200_000 })
    for (const [what, status, error, signed] of refusals) {
      const response = await receive(signed)
      const told = { error: expect.stringContaining(error) }
      expect([response.status, await response.json()], what).toEqual([status, told])
    }
    expect(await rowsOf(source)).toEqual([])
  })

  it('that is not UTF-8 is refused', async () => {
    const { source } = await hook()
    const headers = { 'content-type': 'application/json' }
    const body = new Uint8Array([0x22, 0xff, 0x22])
    expect((await source.fetch(new Request('http://localhost/', { method: 'POST', headers, body }))).status).toBe(400)
  })

  it('that breaks off is refused', async () => {
    const { source } = await hook()
    const body = new ReadableStream({ pull: (controller) => controller.error(new Error('reset')) })
    const init = { method: 'POST', body, duplex: 'half' } as RequestInit
    const response = await source.fetch(new Request('http://localhost/', init))
    expect([response.status, await response.json()]).toEqual([400, { error: 'the body broke off' }])
  })
})

it('only POST is answered', async () => {
  const { source } = await hook()
  for (const method of ['GET', 'PUT', 'DELETE']) {
    const response = await source.fetch(new Request('http://localhost/', { method }))
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST'])
  }
})

it('what does not fit `record` is refused with the name of the field, and what fits is kept as the schema gives it out', async () => {
  const { state } = await hook()
  const record = z.object({ email: z.email(), at: z.string().transform((text) => new Date(text)) })
  const source = webhook({ name: 'signups', state, record })
  onTestFinished(() => source.close())
  const send = (body: unknown) =>
    source.fetch(
      new Request('http://localhost/', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      }),
    )
  const good = { email: 'ada@example.com', at: '2026-01-31T00:00:00Z', more: 1 }
  const refused = await send([good, { email: 'nobody', at: '' }])
  expect([refused.status, await refused.json()]).toEqual([
    422,
    { error: 'event 2 does not fit: email: Invalid email address' },
  ])
  expect((await send(good)).status).toBe(200)
  expect(await rowsOf(source)).toEqual([{ email: 'ada@example.com', at: new Date('2026-01-31') }])
})

describe('a delivery that is repeated', () => {
  it('is acknowledged and not stored again, for thirty days', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    const { receive, source, reader } = await hook()
    const signed = post('[{"n":1},{"n":2}]', 'application/json', { 'webhook-id': 'd1' })
    const other = reader('other')
    const answer = async () => (await receive(signed)).json()
    expect(await answer()).toEqual({ received: 2 })
    expect(await answer()).toEqual({ received: 0, repeated: 2 })
    await other.run()
    // read, staged and no longer kept, it is known still
    vi.setSystemTime(Date.now() + 29 * 86_400_000)
    await other.run()
    expect(await rowsOf(source)).toEqual([])
    expect(await answer()).toEqual({ received: 0, repeated: 2 })
    vi.setSystemTime(Date.now() + 2 * 86_400_000)
    await other.run()
    expect(await answer()).toEqual({ received: 2 })
  })

  it('is one event when both arrive in the same moment, in one process or through two webhooks of one name', async () => {
    const { receive, source, state } = await hook()
    const twin = webhook({ name: 'hook', state })
    onTestFinished(() => twin.close())
    const signed = post('{"n":1}', 'application/json', { 'idempotency-key': 'same' })
    const request = () => new Request('http://localhost/', { method: 'POST', ...signed })
    const answers = await Promise.all([receive(signed), receive(signed), twin.fetch(request())])
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(await rowsOf(source)).toEqual([{ n: 1 }])
  })

  it('is known by what you say', async () => {
    const { receive, source } = await hook({ id: (event) => event['key'], type: (_, header) => header('x-kind') })
    await receive(post('{"key":"a","n":1}', 'application/json', { 'x-kind': 'first' }))
    await receive(post('{"key":"a","n":2}', 'application/json', { 'x-kind': 'first' }))
    await receive(post('{"n":3}', 'application/json', { 'x-kind': 'second' }))
    await receive(post('{"n":3}', 'application/json', { 'x-kind': 'second' }))
    expect(await rowsOf(source.on('first'))).toEqual([{ key: 'a', n: 1 }])
    expect(await rowsOf(source.on('second'))).toEqual([{ n: 3 }, { n: 3 }])
  })
})

describe('what cannot be stored', () => {
  const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' })

  it('because the disk is full is answered with 503, and taken once there is room', async () => {
    const { receive, source, lines } = await hook()
    await receive(post('{"n":1}'))
    Reflect.set(globalThis, checkpoint, (point: string) => {
      if (point === 'before commit') throw full
    })
    const signed = post('{"n":2}', 'application/json', { 'webhook-id': 'd2' })
    const refused = await receive(signed)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '30'])
    expect(await refused.text()).not.toContain('space')
    expect(lines.join()).toContain('the disk is full')
    Reflect.deleteProperty(globalThis, checkpoint)
    expect(await rowsOf(source)).toEqual([{ n: 1 }])
    expect(await (await receive(signed)).json()).toEqual({ received: 1 })
    expect(await rowsOf(source)).toEqual([{ n: 1 }, { n: 2 }])
  })

  it('because too much waits is answered with 503, which tells the owner for whom, until that one has read it', async () => {
    const { receive, source, reader, lines } = await hook({ backlog: 100 })
    const [fast, slow] = [reader('fast'), reader('slow')]
    const event = post(`{"pad":"${'x'.repeat(20)}"}`)
    for (let n = 0; n < 3; n++) expect((await receive(event)).status).toBe(200)
    await fast.run()
    const refused = await receive(event)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '30'])
    expect(await refused.json()).toEqual({ error: 'too many events wait; send it again later' })
    expect(lines).toEqual([
      'webhook hook: its backlog of 100 bytes is full, and senders are told to try again: its events wait for slow to read them. Run it; if it is gone for good, forget it with reset()',
    ])
    await slow.run()
    // nobody reads again, and yet there is room
    expect((await receive(event)).status).toBe(200)
    expect(await rowsOf(source)).toHaveLength(1)
    await fast.run()
    expect([fast.seen, slow.seen].map(({ length }) => length)).toEqual([4, 3])
  })

  it('because another program holds the database is answered with 503 after a minute, and taken once that is over', async () => {
    const { receive, source, state } = await hook()
    await receive(post('{"n":1}'))
    const { default: Sqlite } = await import('libsql')
    const other = new Sqlite(`${state}/state.db`)
    onTestFinished(() => void other.close())
    other.exec('begin immediate')
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] })
    const refused = receive(post('{"n":2}'))
    let status: number | undefined
    void refused.then((response) => {
      status = response.status
    })
    while (status === undefined) {
      vi.setSystemTime(Date.now() + 30_000)
      await vi.advanceTimersByTimeAsync(2)
      await new Promise(setImmediate)
    }
    expect(status).toBe(503)
    other.exec('rollback')
    vi.useRealTimers()
    expect((await receive(post('{"n":3}'))).status).toBe(200)
    expect(await rowsOf(source)).toEqual([{ n: 1 }, { n: 3 }])
  })

  it('because the state is no folder is answered with 503', async () => {
    const { receive, lines } = await hook({ state: '/dev/null/state' })
    expect((await receive(post('{}'))).status).toBe(503)
    expect(lines.join()).toContain('/dev/null/state cannot be written')
  })
})

it('an event is in the database of another process before it is acknowledged', async () => {
  const { receive, state } = await hook()
  await receive(post('{"n":0}'))
  const ledger = openLedger(state)
  onTestFinished(() => ledger.close())
  const { default: Sqlite } = await import('libsql')
  const other = new Sqlite(`${state}/state.db`)
  onTestFinished(() => void other.close())
  const count = other.prepare('select count(*) as n from event')
  const seen = await Promise.all(
    Array.from({ length: 50 }, async (_, n) => {
      await receive(post(`{"n":${n}}`, 'application/json', { 'webhook-id': `d${n}` }))
      return (count.get() as { n: number }).n
    }),
  )
  // those that arrived together were committed together, all before the first of them was answered
  expect(Math.min(...seen)).toBe(51)
})

describe('behind node:http', () => {
  async function served(listener: RequestListener): Promise<number> {
    const server = createServer(listener)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    return (server.address() as AddressInfo).port
  }

  it('requests are taken and answered', async () => {
    const { source } = await hook({ verify: ({ url, method }) => url.endsWith('/in?a=1') && method === 'POST' })
    const port = await served(nodeHandler(source))
    const send = (path: string) => fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', ...post('{"n":1}') })
    const taken = await send('/in?a=1')
    expect([taken.status, taken.headers.get('content-type'), await taken.json()]).toEqual([
      200,
      'application/json',
      { received: 1 },
    ])
    expect((await send('/in')).status).toBe(401)
    expect(await rowsOf(source)).toEqual([{ n: 1 }])
  })

  it('a body that never ends is answered once it is too long, and its connection closed', async () => {
    const { source } = await hook({ bodyLimit: 1_000 })
    const port = await served(nodeHandler(source))
    const status = await new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/json', 'transfer-encoding': 'chunked' }
      const call = httpRequest({ port, method: 'POST', headers }, (response) => {
        resolve([response.statusCode, response.headers.connection])
        call.destroy()
      })
      call.on('error', reject)
      call.write('x'.repeat(2_000)) // and no end
    })
    expect(status).toEqual([413, 'close'])
    expect(await rowsOf(source)).toEqual([])
  })

  it('a sender that hangs up in the middle leaves nothing behind, and the next one is served', async () => {
    const { source } = await hook()
    const answered: number[] = []
    const handler = nodeHandler(source)
    let begun = 0
    const port = await served(async (request, response) => {
      begun++
      await handler(request, response)
      answered.push(response.statusCode)
    })
    const socket = connect(port, '127.0.0.1')
    socket.write('POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"n":')
    await vi.waitFor(() => expect(begun).toBe(1), 20_000)
    socket.destroy()
    await vi.waitFor(() => expect(answered).toEqual([400]), 20_000)
    const response = await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', ...post('{"n":1}') })
    expect(response.status).toBe(200)
    expect(await rowsOf(source)).toEqual([{ n: 1 }])
  })

  it('the bytes that a framework has kept are taken, and where it has kept none, the error says what to do', async () => {
    const { source } = await hook()
    const handler = nodeHandler(source)
    const read: RequestListener = async (request, response) => {
      const pieces: Buffer[] = []
      for await (const piece of request) pieces.push(piece)
      if (request.url === '/raw') Object.assign(request, { body: Buffer.concat(pieces) })
      else Object.assign(request, { body: JSON.parse(String(Buffer.concat(pieces))) })
      await handler(request, response)
    }
    const port = await served(read)
    const send = (path: string) => fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', ...post('{"n":1}') })
    expect((await send('/raw')).status).toBe(200)
    const lost = await send('/parsed')
    expect([lost.status, await lost.json()]).toEqual([
      500,
      { error: 'the body was read before the webhook could see it: mount the webhook before what parses bodies' },
    ])
  })

  it('nothing but a webhook is taken', () => {
    expect(() => nodeHandler({} as never)).toThrow(ConfigError)
  })
})

it.each<[string, object, string]>([
  ['no name', { name: '' }, 'webhook: name is'],
  [
    'an unknown option',
    { name: 'a', secret: 'x' },
    'webhook a: there is no option secret; the options are name, verify',
  ],
  ['a limit of nothing', { name: 'a', bodyLimit: 0 }, 'webhook a: bodyLimit is'],
  ['a backlog that is no number', { name: 'a', backlog: '1GB' }, 'webhook a: backlog is'],
  ['rows that are no number', { name: 'a', flush: { rows: 1.5 } }, 'webhook a: flush.rows is'],
  ['a time that is none', { name: 'a', flush: { after: '5m' } }, 'webhook a: flush.after: "5m" is not a duration'],
  ['a path without a slash', { name: 'a', path: 'hook' }, 'webhook a: path must begin with /'],
])('a webhook with %s is refused', (_, options, message) => {
  const make = () => webhook(options as never)
  expect(make).toThrow(ConfigError)
  expect(make).toThrow(message)
})
