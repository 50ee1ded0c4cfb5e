import { createHmac } from 'node:crypto'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type AnyRow, type Destination, type Mode, type Policy, receipt, reject, retry, secret, sync } from 'spillway'
import { http } from 'spillway/destinations/http'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { definitionOf } from '../../src/destination.js'
import { createHttp } from '../../src/http.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

interface Arrived {
  readonly method: string
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

let arrived: Arrived[] = []
let answer: (response: ServerResponse, request: Arrived) => void
const server = createServer(async (request, response) => {
  let body = ''
  for await (const piece of request) body += piece
  const told = { method: request.method!, path: request.url!, headers: request.headers, body }
  arrived.push(told)
  answer(response, told)
})
let origin: string
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
beforeEach(() => {
  arrived = []
  answer = (response) => response.end('{}')
})
afterAll(() => {
  server.close()
  server.closeAllConnections()
})

const rows = (count: number): AnyRow[] => Array.from({ length: count }, (_, id) => ({ id }))

async function send(
  to: Destination<AnyRow, 'insert' | 'update' | 'upsert'>,
  from: AnyRow[],
  { mode = 'append', policy = {} }: { mode?: Mode; policy?: Policy } = {},
) {
  const given = {
    name: 'it',
    from,
    to: to.with({ retryFor: '2s', settle: '1ms', ...policy }),
    state: await stateFolder(),
    log: quiet,
  }
  // biome-ignore lint/suspicious/noExplicitAny: the mode is a variable here
  const it = sync({ ...given, mode, ...(mode === 'append' ? {} : { key: 'id' }) } as any)
  const run = await it.run({ allowRejections: true })
  const reasons: string[] = []
  for await (const { reason } of it.deadLetters()) reasons.push(reason)
  return { ...run, reasons }
}

// ---- what is sent ------------------------------------------------------------------------------------------------------

test('a batch goes as one JSON request, with all digits of its integers and an idempotency key', async () => {
  const batch = [{ id: 2n ** 63n, at: new Date(0), gone: undefined, none: null, no: false }]
  expect(await send(http({ url: `${origin}/rows?a=1`, allowPrivate: true }), batch)).toMatchObject({ delivered: 1 })
  expect(arrived).toMatchObject([
    { method: 'POST', path: '/rows?a=1', headers: { 'content-type': 'application/json' } },
  ])
  expect(arrived[0]!.body).toBe('[{"id":9223372036854775808,"at":"1970-01-01T00:00:00.000Z","none":null,"no":false}]')
  expect(arrived[0]!.headers['idempotency-key']).toMatch(/^[0-9a-f]{32}$/)
})

test('with each, address, headers and body are made from a record, and each record has a key of its own', async () => {
  const to = http<{ id: number }>({
    each: true,
    method: 'PUT',
    url: ({ id }) => `${origin}/rows/${id}`,
    headers: ({ id }) => ({ 'X-Row': String(id) }),
    body: ({ id }) => ({ only: id }),
    allowPrivate: true,
  })
  expect(await send(to as never, rows(3))).toMatchObject({ delivered: 3 })
  expect(arrived.map(({ method, path, headers, body }) => [method, path, headers['x-row'], body])).toEqual(
    [0, 1, 2].map((id) => ['PUT', `/rows/${id}`, String(id), `{"only":${id}}`]),
  )
  expect(new Set(arrived.map(({ headers }) => headers['idempotency-key'])).size).toBe(3)
  expect(() => to.with({ batchSize: 2 })).toThrow('http: batchSize is 2; it must be at most 1')
})

test('text and bytes are sent as they are, and a header of the caller wins', async () => {
  const to = http({
    url: origin,
    body: () => 'a\n✓',
    headers: { 'Content-Type': 'text/csv' },
    idempotencyHeader: false,
    allowPrivate: true,
  })
  await send(to, rows(1))
  expect(arrived).toMatchObject([{ body: 'a\n✓', headers: { 'content-type': 'text/csv' } }])
  expect(arrived[0]!.headers).not.toHaveProperty('idempotency-key')
})

test('credentials are injected, and stand in their header', async () => {
  vi.stubEnv('HTTP__AUTH__BEARER', 'sesame-1')
  vi.stubEnv('TOKEN_OF_OURS', 'sesame-2')
  await send(http({ url: origin, allowPrivate: true }), rows(1))
  await send(
    http({
      name: 'other',
      url: origin,
      auth: { header: { name: 'X-Api-Key', value: secret('TOKEN_OF_OURS') } },
      allowPrivate: true,
    }),
    rows(1),
  )
  await send(
    http({ name: 'third', url: origin, auth: { basic: { username: 'ada', password: 'x:y' } }, allowPrivate: true }),
    rows(1),
  )
  vi.unstubAllEnvs()
  expect(arrived[0]!.headers.authorization).toBe('Bearer sesame-1')
  expect(arrived[1]!.headers['x-api-key']).toBe('sesame-2')
  expect(arrived[2]!.headers.authorization).toBe(`Basic ${Buffer.from('ada:x:y').toString('base64')}`)
  const two = http({ url: origin, auth: { bearer: 'a', header: { name: 'b', value: 'c' } }, allowPrivate: true })
  await expect(send(two, rows(1))).rejects.toThrow(/must be one of bearer/)
  await expect(send(http({ name: 'none' }), rows(1))).rejects.toThrow(/url is missing/)
})

test('a signature covers the timestamp and the very bytes that arrive', async () => {
  await send(http({ url: origin, auth: { hmac: { secret: 'sesame' } }, allowPrivate: true }), [{ name: '✓' }])
  const [{ headers, body } = {} as Arrived] = arrived
  const timestamp = String(headers['x-timestamp'])
  expect(Math.abs(Number(timestamp) - Date.now() / 1000)).toBeLessThan(60)
  const expected = createHmac('sha256', 'sesame').update(`${timestamp}.${body}`).digest('hex')
  expect(headers['x-signature']).toBe(`sha256=${expected}`)
})

// ---- what is answered --------------------------------------------------------------------------------------------------

test('errors picks from a 2xx answer what became of each record', async () => {
  let calls = 0
  answer = (response) =>
    response.writeHead(207).end(JSON.stringify({ bad: calls++ === 0 ? [1] : [], again: calls === 1 ? [2] : [] }))
  const to = http({
    url: origin,
    allowPrivate: true,
    errors: (reply, batch) => {
      const { bad, again } = reply as { bad: number[]; again: number[] }
      return [
        ...bad.map((index) => reject(batch[index]!, 'it is bad')),
        ...again.map((index) => retry(batch[index]!)),
        ...(bad.length > 0 ? [receipt(batch[0]!, 'r0')] : []),
      ]
    },
  })
  expect(await send(to, rows(4))).toMatchObject({ delivered: 3, rejected: 1, reasons: ['it is bad'] })
  expect(arrived.map(({ body }) => JSON.parse(body).length)).toEqual([4, 1])
})

test('one bad row in a batch that is refused as a whole is found, and the rest delivered', async () => {
  answer = (response, { body }) => response.writeHead(body.includes('{"id":5}') ? 422 : 200).end('{}')
  expect(await send(http({ url: origin, allowPrivate: true }), rows(8))).toMatchObject({ delivered: 7, rejected: 1 })
  const halves = [{ id: 'a' }, { id: '\uD83D' }, { id: 'b' }]
  answer = (response) => response.end()
  const run = await send(http({ name: 'b', url: origin, allowPrivate: true }), halves)
  expect(run).toMatchObject({ delivered: 2, rejected: 1 })
  expect(run.reasons[0]).toMatch(/half of a character/)
})

test('a web page with status 200 is no success, and a plain text is', async () => {
  answer = (response) => response.end('ok')
  expect(await send(http({ url: origin, allowPrivate: true }), rows(1))).toMatchObject({ delivered: 1 })
  answer = (response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Sign in</html>')
  await expect(send(http({ url: origin, allowPrivate: true }), rows(1))).rejects.toThrow(
    /a web page, such as a sign-in form/,
  )
})

test('a redirect is not followed', async () => {
  answer = (response) => response.writeHead(302, { location: `${origin}/elsewhere` }).end()
  await expect(send(http({ url: `${origin}/here`, allowPrivate: true }), rows(1))).rejects.toThrow(
    /redirects are not followed/,
  )
  expect(arrived.map(({ path }) => path)).toEqual(['/here'])
})

test('after an answer that was lost, rows are held, unless the key or the method makes another request harmless', async () => {
  let lost = 1
  answer = (response) => (lost-- > 0 ? response.destroy() : response.end())
  expect(await send(http({ url: origin, allowPrivate: true }), rows(2))).toMatchObject({ delivered: 0, unknown: 2 })
  expect(arrived).toHaveLength(1)

  arrived = []
  lost = 1
  expect(await send(http({ url: origin, idempotent: '24h', allowPrivate: true }), rows(2))).toMatchObject({
    delivered: 2,
  })
  expect(arrived).toHaveLength(2)
  expect(arrived[1]!.headers['idempotency-key']).toBe(arrived[0]!.headers['idempotency-key'])
  expect(arrived[1]!.body).toBe(arrived[0]!.body)

  lost = 1
  const upsert = { mode: 'upsert' } as const
  expect(await send(http({ url: origin, allowPrivate: true }), rows(2), upsert)).toMatchObject({ unknown: 2 })
  lost = 1
  expect(await send(http({ url: origin, method: 'PUT', allowPrivate: true }), rows(2), upsert)).toMatchObject({
    delivered: 2,
  })
})

// ---- addresses that are not public -------------------------------------------------------------------------------------

const closed = [
  '127.0.0.1',
  '127.1',
  '2130706433',
  '0x7f.1',
  '017700000001',
  '0.0.0.0',
  '10.1.2.3',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '169.254.169.254',
  '100.64.0.1',
  '100.127.255.254',
  '192.0.0.8',
  '198.18.0.1',
  '224.0.0.1',
  '255.255.255.255',
  '[::]',
  '[::1]',
  '[::ffff:127.0.0.1]',
  '[::ffff:a9fe:a9fe]',
  '[::ffff:10.0.0.1]',
  '[fe80::1]',
  '[fc00::1]',
  '[fd12::1]',
  '[ff02::1]',
  '[64:ff9b::a00:1]',
  '[2002:a00:1::]',
  '[::10.0.0.1]',
  'localhost',
]
test('addresses that are not public are refused before anything is sent, however they are written', async () => {
  const spy = vi.fn()
  for (const host of closed) {
    const { port } = server.address() as AddressInfo
    const context = { config: { url: `http://${host}:${port}/` }, idempotencyKey: 'k', http: spy }
    await expect(handlersOf(http({}))['insert']!([{ id: 1 }], context), host).rejects.toThrow(/not public/)
  }
  expect(spy).not.toHaveBeenCalled()
  await expect(send(http({ url: origin }), rows(1))).rejects.toThrow(/127\.0\.0\.1.*allowPrivate/)
  expect(arrived).toEqual([])
})

test('public addresses are let through, next to those that are not', async () => {
  const hosts = [
    '8.8.8.8',
    '172.15.255.255',
    '172.32.0.1',
    '100.63.255.255',
    '100.128.0.1',
    '11.0.0.1',
    '169.253.1.1',
    '192.167.1.1',
    '223.255.255.255',
    '[2606:4700::1111]',
    '[::ffff:8.8.8.8]',
    '[2a00::1]',
  ]
  for (const host of hosts) {
    const asked: string[] = []
    const client = async (url: string) => {
      asked.push(url)
      return new Response('')
    }
    await handlersOf(http({}))['insert']!([{ id: 1 }], {
      config: { url: `http://${host}/` },
      idempotencyKey: 'k',
      http: client,
    })
    expect(asked, host).toHaveLength(1)
  }
})

test('a name that leads elsewhere by the time of the connection is refused there, on a connection kept open too', async () => {
  // the check before is passed by what is no name of this machine; the connection is made to it all the same
  const { port } = server.address() as AddressInfo
  const asks = createHttp({ actor: 'it', signal: new AbortController().signal, timeout: 5_000 })
  const { accepts } = await initOf()
  await asks(`http://localhost:${port}/`, { method: 'POST', body: 'warm' })
  expect(arrived).toHaveLength(1)
  await expect(asks(`http://localhost:${port}/`, { method: 'POST', body: 'x', accepts })).rejects.toThrow(
    /address that is not accepted/,
  )
  await expect(asks(`${origin}/`, { method: 'POST', body: 'x', accepts })).rejects.toThrow(/nothing was sent/)
  expect(arrived).toHaveLength(1)
  await asks(`${origin}/`, { method: 'POST', body: 'x', accepts: (address) => address === '127.0.0.1' })
  expect(arrived).toHaveLength(2)
})

// biome-ignore lint/suspicious/noExplicitAny: handlers as the engine calls them
function handlersOf(to: Destination<any, any>): Record<string, (...given: any[]) => Promise<unknown>> {
  return definitionOf(to, 'it').handlers as never
}

/** What the destination asks its client for. */
async function initOf(): Promise<{ accepts: (address: string) => boolean }> {
  // biome-ignore lint/suspicious/noExplicitAny: as given
  let given: any
  const client = async (_: string, init: unknown) => {
    given = init
    return new Response('')
  }
  await handlersOf(http({}))['insert']!([{ id: 1 }], {
    config: { url: 'http://8.8.8.8/' },
    idempotencyKey: 'k',
    http: client,
  })
  return given
}
