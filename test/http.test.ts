import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { Worker } from 'node:worker_threads'
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { resolveSecret, secret } from '../src/config.js'
import { ConfigError, FatalError, SpillwayError } from '../src/errors.js'
import {
  createHttp,
  HttpError,
  type HttpOptions,
  type HttpRequest,
  NetworkError,
  neverConnected,
  TimeoutError,
} from '../src/http.js'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** Listens on a free port until the test ends; the address. */
async function listening(server: Server, scheme = 'http'): Promise<string> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => sockets.add(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise((resolve) => server.close(resolve))
  })
  return `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const serving = (answer: RequestListener) => listening(createServer(answer))

const tcp = (serve: (socket: Socket) => unknown, scheme?: string) =>
  listening(
    createTcpServer((socket) => {
      socket.on('error', () => undefined) // the client may reset what this side still writes
      serve(socket)
    }),
    scheme,
  )

/** A server that answers each request with the next of `answers`, and keeps to the last; with the bodies it was sent. */
async function answering(...answers: ((response: ServerResponse, request: IncomingMessage) => unknown)[]) {
  const requests: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[] = []
  const url = await serving(async (request, response) => {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    requests.push({ method: request.method!, url: request.url!, headers: request.headers, body })
    const answer = answers[Math.min(requests.length, answers.length) - 1]!
    answer(response, request)
  })
  return { url, requests }
}

const status =
  (code: number, body: unknown = {}, headers: Record<string, string> = {}) =>
  (response: ServerResponse) => {
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    response.writeHead(code, { 'content-type': 'application/json', ...headers }).end(text)
  }
const ok = status(200, { ok: true })

function client(options: Partial<HttpOptions> = {}) {
  return createHttp({ actor: 'crm', signal: new AbortController().signal, timeout: 10_000, ...options })
}

/** What the promise rejects with. */
async function failure<E>(promise: Promise<unknown>): Promise<E> {
  return promise.then(
    (value) => {
      throw new Error(`expected a rejection, got ${inspect(value)}`)
    },
    (error: E) => error,
  )
}

describe('requests', () => {
  test.each(['get', 'post', 'put', 'patch', 'delete'] as const)(
    '%s sends its method and gives the JSON back',
    async (verb) => {
      const { url, requests } = await answering(ok)
      expect(await client()[verb](`${url}/contacts`)).toEqual({ ok: true })
      expect(requests[0]).toMatchObject({
        method: verb.toUpperCase(),
        url: '/contacts',
        headers: { accept: 'application/json' },
      })
    },
  )

  test('json is sent as JSON, and says so unless a header says otherwise', async () => {
    const { url, requests } = await answering(ok)
    await client().post(url, { json: { name: 'Åsa 🌊', none: null, zero: 0, no: false, absent: undefined } })
    await client().post(url, { json: [], headers: { 'Content-Type': 'application/vnd.api+json', Accept: '*/*' } })
    expect(requests[0]).toMatchObject({
      body: '{"name":"Åsa 🌊","none":null,"zero":0,"no":false}',
      headers: { 'content-type': 'application/json' },
    })
    expect(requests[1]!.headers).toMatchObject({ 'content-type': 'application/vnd.api+json', accept: '*/*' })
  })

  test('a bigint is sent as a number with all its digits, a date as its ISO text', async () => {
    const { url, requests } = await answering(ok)
    const json = {
      ids: [9007199254740993n, -1n],
      text: '"123"',
      at: new Date(0),
      nested: { '7': 18446744073709551615n },
    }
    await client().post(url, { json })
    expect(requests[0]!.body).toBe(
      '{"ids":[9007199254740993,-1],"text":"\\"123\\"","at":"1970-01-01T00:00:00.000Z","nested":{"7":18446744073709551615}}',
    )
  })

  test('what has no JSON form throws before anything is sent', async () => {
    const onRequest = vi.fn()
    const circle: { self?: unknown } = {}
    circle.self = circle
    await expect(client({ onRequest }).post('https://x.test', { json: circle })).rejects.toThrow(/circular/)
    expect(onRequest).not.toHaveBeenCalled()
  })

  test('a body goes out byte for byte', async () => {
    const { url, requests } = await answering(ok)
    await client().put(url, { body: 'a,b\n1,2\n', headers: { 'content-type': 'text/csv' } })
    await client().put(url, { body: new TextEncoder().encode('bytes') })
    expect(requests.map(({ body }) => body)).toEqual(['a,b\n1,2\n', 'bytes'])
    expect(requests[0]!.headers['content-type']).toBe('text/csv')
    expect(requests[1]!.headers).not.toHaveProperty('content-type')
  })

  test('a text without a type of its own says that it is one', async () => {
    const { url, requests } = await answering(ok)
    await client().post(url, { body: 'a' })
    expect(requests[0]!.headers['content-type']).toBe('text/plain;charset=UTF-8')
  })

  test.each(['post', 'put', 'patch', 'delete'] as const)('%s tells the length of its body', async (verb) => {
    const { url, requests } = await answering(ok)
    await client()[verb](url, { json: { name: 'Åsa' } })
    await client()[verb](url, { body: 'Åsa', headers: { 'Content-Length': '4' } })
    expect(
      requests.map(({ headers, body }) => [headers['content-length'], headers['transfer-encoding'], body]),
    ).toEqual([
      ['15', undefined, '{"name":"Åsa"}'],
      ['4', undefined, 'Åsa'],
    ])
  })

  test('what surrounds the value of a header is left out, such as the line break at the end of a file', async () => {
    const { url, requests } = await answering(ok)
    await client().get(url, { headers: { Authorization: ' Bearer abc\r\n', 'x-latin': 'é' } })
    expect(requests[0]!.headers).toMatchObject({ authorization: 'Bearer abc', 'x-latin': 'é' })
  })

  test('connections are kept and used again', async () => {
    const connected = vi.fn()
    const url = await listening(createServer((_, response) => ok(response)).on('connection', connected))
    for (let times = 0; times < 3; times++) await client().post(url, { json: {} })
    expect(connected).toHaveBeenCalledTimes(1)
  })

  test('query is added to the address, escaped, without what is undefined', async () => {
    const { url, requests } = await answering(ok)
    await client().get(`${url}/list?page=1&sort=id`, {
      query: { page: 2, q: 'a&b=c', after: undefined, big: 2n ** 60n },
    })
    expect(requests[0]!.url).toBe('/list?page=2&sort=id&q=a%26b%3Dc&big=1152921504606846976')
  })

  test.each<[string, string, string, HttpRequest]>([
    ['a relative address', '/contacts?token=hush-hush', 'needs a whole address', {}],
    ['another scheme', 'ftp://x.test/', 'must begin with https://', {}],
    ['a password in the address', 'https://ann:hush-hush@x.test/', 'send them in the authorization header', {}],
    ['json and a body', 'https://x.test/', 'give one', { json: 1, body: '1' }],
    [
      'a line break in a token',
      'https://x.test/?q=hush-hush',
      'header "authorization"',
      { headers: { authorization: 'Bearer hush\nhush-hush' } },
    ],
    ['a header that is none', 'https://x.test/', 'header "x y"', { headers: { 'x y': 'hush-hush' } }],
    [
      'a header of the connection',
      'https://x.test/',
      'header "Transfer-Encoding" is set by the connection',
      { headers: { 'Transfer-Encoding': 'chunked' } },
    ],
    [
      'the length of another body',
      'https://x.test/',
      'header "content-length" is set by the connection',
      { headers: { 'content-length': '7' }, json: {} },
    ],
    ['a wrong timeout', 'https://x.test/', 'crm: timeout', { timeout: '5 parsecs' as '5s' }],
  ])('%s is a configuration error that quotes no secret, and nothing is sent', async (_, address, says, init) => {
    const onRequest = vi.fn()
    const error = await failure<Error>(client({ onRequest }).post(address, init))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toContain(says)
    expect(error.message).toMatch(/^crm/)
    expect(inspect(error)).not.toContain('hush-hush')
    expect(onRequest).not.toHaveBeenCalled()
  })

  test.each(['CONNECT', 'GET /', ''])(
    'a method that cannot be sent, such as %j, is a configuration error',
    async (method) => {
      const error = await failure<Error>(client()('https://x.test/', { method }))
      expect(error).toBeInstanceOf(ConfigError)
      expect(error.message).toContain('there is no such method to send')
    },
  )

  test('a GET with a body is a configuration error', async () => {
    await expect(client().get('https://x.test/', { json: {} })).rejects.toThrow(
      /cannot have a body: use query, or POST/,
    )
  })
})

describe('answers', () => {
  test.each([
    ['204', status(204, '')],
    ['an empty body', status(200, '')],
    ['white space', status(201, ' \n')],
  ])('a verb gives undefined for %s', async (_, answer) => {
    const { url } = await answering(answer)
    expect(await client().post(url, { json: {} })).toBeUndefined()
  })

  test('a byte order mark does not disturb', async () => {
    const { url } = await answering(status(200, '\uFEFF[1]'))
    expect(await client().get(url)).toEqual([1])
  })

  test('a sign-in page with status 200 is an error that says so and quotes none of it', async () => {
    const { url } = await answering(
      status(200, '<!doctype html><p>Sign in, Ann Miller', { 'content-type': 'text/html' }),
    )
    const error = await failure<HttpError>(client().post(`${url}/upsert?token=hush-hush`, { json: [] }))
    expect(error).toBeInstanceOf(HttpError)
    expect(error.message).toBe(
      `crm: 200 from POST ${url}/upsert: the answer is not JSON (text/html): a web page such as a sign-in form; check the address and the credentials`,
    )
    expect(error.status).toBe(200)
    expect(error.body).toContain('Sign in')
    expect(inspect(error)).not.toContain('Ann Miller')
  })

  test('any other text with status 200 is an error that says how to read it', async () => {
    const { url } = await answering((response) => response.end('ok'))
    await expect(client().post(url, { json: {} })).rejects.toThrow(
      `the answer is not JSON (no content type): check the address; where it is meant to be so, call http(url, { method: 'POST' }) and read the Response`,
    )
  })

  test('called itself, it gives the whole Response', async () => {
    const { url, requests } = await answering(
      status(201, 'ok', { 'content-type': 'text/plain', link: '<x>; rel="next"' }),
    )
    const response = await client()(`${url}/hook`, { method: 'patch', json: { text: 'hello' } })
    expect([response.status, response.url, response.headers.get('link')]).toEqual([
      201,
      `${url}/hook`,
      '<x>; rel="next"',
    ])
    expect(await response.text()).toBe('ok')
    expect(requests[0]).toMatchObject({ method: 'PATCH', body: '{"text":"hello"}' })
  })

  test('called itself, it gives each header as it came', async () => {
    const { url } = await answering((response) => {
      response.writeHead(200, [
        ['set-cookie', 'a=1'],
        ['set-cookie', 'b=2'],
        ['x-latin', 'é'],
      ])
      response.end('x')
    })
    const { headers, url: place } = await client()(`${url}/#part`)
    expect([headers.getSetCookie(), headers.get('x-latin'), place]).toEqual([['a=1', 'b=2'], 'é', `${url}/`])
  })

  test.each([204, 205])('called itself, it gives a %i without a body, even when the server sent one', async (code) => {
    const url = await tcp((socket) =>
      socket.once('data', () => socket.end(`HTTP/1.1 ${code} Fine\r\ncontent-length: 2\r\n\r\nhi`)),
    )
    const response = await client()(url)
    expect([response.status, response.statusText, response.body]).toEqual([code, 'Fine', null])
  })

  test('called itself with HEAD, it gives the headers alone', async () => {
    const { url } = await answering((response) =>
      response.writeHead(200, { 'content-length': '99', 'content-encoding': 'gzip' }).end(),
    )
    const response = await client()(url, { method: 'head' })
    expect([response.headers.get('content-length'), await response.text()]).toEqual(['99', ''])
  })

  test.each<[string, (text: string) => Uint8Array]>([
    ['gzip', gzipSync],
    ['x-gzip', gzipSync],
    ['deflate', deflateSync],
    ['deflate', deflateRawSync],
    ['br', brotliCompressSync],
    ['GZIP, br', (text) => brotliCompressSync(gzipSync(text))],
    // some servers leave the end out
    ['gzip', (text) => gzipSync(text).subarray(0, -8)],
  ])('an answer compressed with %s is unpacked', async (coding, compress) => {
    const { url, requests } = await answering((response) =>
      response.writeHead(200, { 'content-encoding': coding }).end(compress('{"name":"Åsa"}')),
    )
    expect(await client().get(url)).toEqual({ name: 'Åsa' })
    expect(await (await client()(url)).json()).toEqual({ name: 'Åsa' })
    expect(requests[0]!.headers['accept-encoding']).toBe('gzip, deflate, br')
  })

  test('an answer in a coding that is not known is left as it is', async () => {
    const { url } = await answering((response) =>
      response.writeHead(200, { 'content-encoding': 'own, gzip' }).end('{}'),
    )
    expect(await client().get(url)).toEqual({})
  })

  test('an answer that cannot be unpacked may have been applied', async () => {
    const { url } = await answering((response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end('Ann Miller'),
    )
    const error = await failure<NetworkError>(client().post(url))
    expect(error).toBeInstanceOf(NetworkError)
    expect(error).toMatchObject({ code: 'Z_DATA_ERROR', connected: true })
    expect(inspect(error)).not.toContain('Ann Miller')
  })

  test('what a server says before its answer is passed over', async () => {
    const { url } = await answering((response) => {
      response.writeEarlyHints({ link: '</style.css>; rel=preload' })
      ok(response)
    })
    expect(await client().get(url)).toEqual({ ok: true })
  })

  test('bytes that are no UTF-8 become replacement characters', async () => {
    const { url } = await answering((response) => response.end(Buffer.from([0x22, 0xff, 0x22])))
    expect(await client().get(url)).toBe('\ufffd')
  })

  test('called itself, it asks with GET and copes with an empty answer', async () => {
    const { url, requests } = await answering(status(204, ''))
    const response = await client()(url)
    expect([response.status, await response.text(), requests[0]!.method]).toEqual([204, '', 'GET'])
  })
})

describe('refusals', () => {
  async function refused(
    code: number,
    body: unknown = {},
    headers: Record<string, string> = {},
    init: HttpRequest = {},
  ) {
    const { url } = await answering(status(code, body, headers))
    const error = await failure<HttpError>(
      client().post(`${url}/crm/v3/upsert?hapikey=hush-hush`, { json: [1], ...init }),
    )
    expect(error).toBeInstanceOf(HttpError)
    expect(error).toBeInstanceOf(SpillwayError)
    return { error, url: `${url}/crm/v3/upsert`, says: error.message.replace(`${url}/crm/v3/upsert`, 'URL') }
  }

  test('an HttpError holds status, method, place, what the vendor said and the whole answer', async () => {
    const { error, url } = await refused(400, { message: 'email is wrong', category: 'VALIDATION_ERROR' })
    expect(error).toMatchObject({
      name: 'HttpError',
      status: 400,
      method: 'POST',
      url,
      detail: 'email is wrong',
      retryAfter: undefined,
    })
    expect(JSON.parse(error.body!)).toEqual({ message: 'email is wrong', category: 'VALIDATION_ERROR' })
  })

  test.each([
    [400, 'crm: 400 from POST URL: no: correct what is sent; not retried'],
    [401, 'crm: 401 from POST URL: no: check the credentials; not retried'],
    [403, 'crm: 403 from POST URL: no: check the credentials and what they may do; not retried'],
    [404, 'crm: 404 from POST URL: no: check the address, and that the credentials may see what it names; not retried'],
    [410, 'crm: 410 from POST URL: no: check the address, and that the credentials may see what it names; not retried'],
    [408, 'crm: 408 from POST URL: no: the server is in trouble or busy; retried'],
    [409, 'crm: 409 from POST URL: no: correct what is sent; not retried'],
    [413, 'crm: 413 from POST URL: no: lower batchSize or batchBytes; not retried'],
    [425, 'crm: 425 from POST URL: no: the server is in trouble or busy; retried'],
    [429, 'crm: 429 from POST URL: no: lower rate or concurrency if this goes on; retried'],
    [500, 'crm: 500 from POST URL: no: the server is in trouble or busy; retried'],
    [503, 'crm: 503 from POST URL: no: the server is in trouble or busy; retried'],
  ])('the message of a %i names the actor, the place and the next step', async (code, message) => {
    expect((await refused(code, { message: 'no' })).says).toBe(message)
  })

  test('Retry-After in seconds is told in milliseconds', async () => {
    const { error, says } = await refused(429, {}, { 'retry-after': '30' })
    expect(error.retryAfter).toBe(30_000)
    expect(says).toBe('crm: 429 from POST URL: lower rate or concurrency if this goes on; retried after 30 s')
  })

  test('Retry-After as a date is told in milliseconds from now', async () => {
    const { error } = await refused(503, {}, { 'retry-after': new Date(Date.now() + 60_000).toUTCString() })
    expect(error.retryAfter).toBeGreaterThan(50_000)
    expect(error.retryAfter).toBeLessThanOrEqual(60_000)
  })

  test('an address that is not accepted is sent nothing, on a connection that was kept open neither', async () => {
    const bytes: Buffer[] = []
    const url = await tcp((socket) => socket.on('data', (data) => bytes.push(data)))
    const seen: string[] = []
    const accepts = (address: string) => {
      seen.push(address)
      return false
    }
    const asks = createHttp({ actor: 'crm', signal: new AbortController().signal, timeout: 5_000 })
    await expect(asks.post(url, { json: {}, accepts })).rejects.toThrow(
      /^crm: POST .*: its host has an address that is not accepted, so nothing was sent$/,
    )
    expect(seen).toEqual(['127.0.0.1'])
    const kept = await serving((_, response) => response.end('{}'))
    expect(await asks.post(kept, { json: {} })).toEqual({})
    await expect(asks.post(kept, { json: {}, accepts })).rejects.toThrow(FatalError)
    expect(await asks.post(kept, { json: {}, accepts: () => true })).toEqual({})
    expect(bytes).toEqual([])
  })

  test('a redirect is not followed, so that no token travels, and the message says where it points', async () => {
    const elsewhere = await answering(ok)
    const { error, says } = await refused(307, '', { location: `${elsewhere.url}/login?session=hush-hush` })
    expect(elsewhere.requests).toEqual([])
    expect(error.status).toBe(307)
    expect(says).toBe(
      `crm: 307 from POST URL: redirects are not followed; if you trust ${elsewhere.url}/login, use that address; not retried`,
    )
  })

  test.each([
    ['without a Location', {}],
    ['with a Location that is none', { location: 'http://[' }],
  ])('a redirect %s is an error too', async (_, headers) => {
    expect((await refused(302, '', headers)).says).toBe(
      'crm: 302 from POST URL: redirects are not followed; not retried',
    )
  })

  test('a relative redirect is told as a whole address', async () => {
    const { error, url } = await refused(301, '', { location: '/v2' })
    expect(error.message).toContain(new URL('/v2', url).href)
  })

  test.each<[string, unknown, string | undefined]>([
    ['HubSpot', { status: 'error', message: 'a' }, 'a'],
    ['Google', { error: { code: 400, message: 'a', status: 'INVALID_ARGUMENT' } }, 'a'],
    ['Salesforce', [{ errorCode: 'X', message: 'a' }], 'a'],
    ['Slack', { ok: false, error: 'a' }, 'a'],
    ['OAuth', { error: 'invalid_grant', error_description: 'a' }, 'a'],
    ['RFC 9457', { title: 'b', detail: 'a' }, 'a'],
    ['a list of errors', { errors: [{ message: 'a' }, { message: 'b' }] }, 'a'],
    ['a list of texts', { errors: ['a', 'b'] }, 'a'],
    ['a bare JSON text', JSON.stringify('a'), 'a'],
    ['an object that says nothing', { code: 7 }, undefined],
    ['deep nesting', '['.repeat(50_000) + ']'.repeat(50_000), undefined],
    ['no JSON', '<h1>Bad gateway</h1>', undefined],
    ['null', 'null', undefined],
  ])("finds the vendor's words: %s", async (_, body, detail) => {
    const { error, says } = await refused(502, body)
    expect(error.detail).toBe(detail)
    expect(says).toBe(`crm: 502 from POST URL: ${detail ? `${detail}: ` : ''}the server is in trouble or busy; retried`)
  })

  test('plain text is the words of a vendor, too', async () => {
    expect((await refused(400, 'no_text', { 'content-type': 'text/plain; charset=utf-8' })).error.detail).toBe(
      'no_text',
    )
  })

  test("the message has at most 200 characters of the vendor's words, on one line; detail has all", async () => {
    const words = `two\nlines\u001b[31m and ${'x'.repeat(1_000)}`
    const { error, says } = await refused(400, { message: words })
    expect(error.detail).toBe(`two lines [31m and ${'x'.repeat(1_000)}`)
    expect(says).toBe(`crm: 400 from POST URL: ${error.detail!.slice(0, 199)}…: correct what is sent; not retried`)
  })

  test('no header, no query and no body of the answer shows, whatever way the error is printed', async () => {
    const { error } = await refused(
      400,
      { message: 'wrong', row: 'Ann Miller' },
      {},
      { headers: { authorization: 'Bearer hush-hush' } },
    )
    for (const printed of [
      String(error),
      error.stack!,
      inspect(error, { depth: 9, showHidden: true }),
      JSON.stringify(error),
    ]) {
      expect(printed).not.toContain('hush-hush')
      expect(printed).not.toContain('Ann Miller')
    }
  })

  test('credentials that the vendor quotes are taken out of its words', async () => {
    const init = {
      headers: { authorization: 'Bearer ya29.fetched-at-run-time', 'x-api-key': 'key-key-key' },
      query: { sig: 'abc/def=', hint: 'ya29.f' },
    }
    const { error } = await refused(
      401,
      { message: 'bad ya29.fetched-at-run-time, key-key-key, abc/def= or Bearer ya29.fetched-at-run-time' },
      {},
      init,
    )
    expect(error.detail).toBe('bad [redacted], [redacted], [redacted] or [redacted]')
    expect(error.message).not.toMatch(/ya29|key-key|abc.def/)
  })

  test('secrets of the configuration are taken out of the address and of the words', async () => {
    vi.stubEnv('HOOK', 'T0123-B4567-xyzzyxyzzy')
    cleanups.push(() => vi.unstubAllEnvs())
    const token = resolveSecret(secret('HOOK'), 'url')
    const { url } = await answering(status(404, { error: `no hook ${token}` }))
    const error = await failure<HttpError>(client().post(`${url}/services/${token}`, { json: {} }))
    expect(error.url).toBe(`${url}/services/[redacted]`)
    expect(error.detail).toBe('no hook [redacted]')
    expect(inspect(error)).not.toContain(token)
  })

  test('the status counts even when the text that explains it breaks off', async () => {
    const url = await serving((_, response) => {
      response.writeHead(429, { 'content-length': '1000', 'retry-after': '7' })
      response.write('{"mess', () => response.destroy())
    })
    const error = await failure<HttpError>(client().post(url))
    expect(error).toMatchObject({ status: 429, retryAfter: 7_000, body: undefined, detail: undefined })
    expect(error.cause).toBeInstanceOf(NetworkError)
  })
})

describe('the network', () => {
  async function broken(url: string) {
    const error = await failure<NetworkError>(client().post(`${url}/upsert?token=hush-hush`, { json: ['Ann Miller'] }))
    expect(error).toBeInstanceOf(NetworkError)
    expect(error.message).toContain(`crm: POST ${url}/upsert failed (`)
    expect(inspect(error, { showHidden: true, depth: 9 })).not.toMatch(/hush-hush|Ann Miller/)
    // a handler may as well ask with a fetch of its own, and its error has to prove the same
    expect(
      neverConnected(await failure(fetch(url, { method: 'POST', body: '[]' }).then((response) => response.text()))),
    ).toBe(!error.connected)
    return error
  }
  test('a refused connection proves that nothing was sent', async () => {
    const url = await serving(() => undefined)
    await cleanups.pop()!()
    const error = await broken(url)
    expect(error).toMatchObject({ name: 'NetworkError', code: 'ECONNREFUSED', connected: false })
    expect(error.message).toContain('no connection, so nothing was sent: check the address and the network')
  })

  test('a refused connection by name, to each address of it, too', async () => {
    const url = await serving(() => undefined)
    await cleanups.pop()!()
    expect(await broken(url.replace('127.0.0.1', 'localhost'))).toMatchObject({
      code: 'ECONNREFUSED',
      connected: false,
    })
  })

  test('a host that is not known proves that nothing was sent', async () => {
    const error = await broken('http://no-such-host.invalid')
    expect(error.code).toMatch(/^(ENOTFOUND|EAI_AGAIN)$/)
    expect(error.connected).toBe(false)
  })

  test.runIf(process.platform === 'linux')(
    'a connection that does not come about in time proves that nothing was sent',
    async () => {
      // A server that never accepts: once its queue is full, Linux drops whoever else wants to connect.
      const worker = new Worker(
        `const { workerData, parentPort } = require('node:worker_threads')
       const server = require('node:net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
         parentPort.postMessage(server.address().port)
         setTimeout(() => Atomics.wait(workerData, 0, 0), 50)
       })`,
        { eval: true, workerData: new Int32Array(new SharedArrayBuffer(4)) },
      )
      cleanups.push(() => worker.terminate())
      const port = await new Promise<number>((resolve) => worker.once('message', resolve))
      await new Promise((resolve) => setTimeout(resolve, 200))
      const { connect } = await import('node:net')
      for (let socket = 0; socket < 4; socket++) {
        const waiting = connect(port, '127.0.0.1').on('error', () => undefined)
        cleanups.push(() => waiting.destroy())
      }
      const error = await failure<NetworkError>(client({ timeout: 500 }).post(`http://127.0.0.1:${port}`))
      expect(error).toMatchObject({ name: 'NetworkError', code: 'ETIMEDOUT', connected: false })
      const cause = Object.assign(new Error('Connect Timeout Error'), { code: 'UND_ERR_CONNECT_TIMEOUT' })
      expect(neverConnected(new TypeError('fetch failed', { cause }))).toBe(true)
    },
  )

  test('a certificate that is not trusted proves that nothing was sent', async () => {
    const seen = vi.fn()
    const url = await listening(createTlsServer({ key, cert }, seen), 'https')
    const error = await broken(url)
    expect(error.code).toMatch(/CERT/)
    expect(error.connected).toBe(false)
    expect(error.message).toContain('check the address and the certificate')
    expect(seen).not.toHaveBeenCalled()
  })

  test('a connection cut off during the TLS handshake proves that nothing was sent', async () => {
    const url = await tcp((socket) => socket.once('data', () => socket.end()), 'https')
    expect(await broken(url)).toMatchObject({ code: 'ECONNRESET', connected: false })
  })

  test('a TLS handshake that does not come to its end in time proves that nothing was sent', async () => {
    const url = await tcp(() => undefined, 'https')
    expect(await failure(client({ timeout: 300 }).post(url))).toMatchObject({
      name: 'NetworkError',
      code: 'ETIMEDOUT',
      connected: false,
    })
  })

  test('silence after a TLS handshake proves nothing', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0')
    cleanups.push(() => vi.unstubAllEnvs())
    vi.spyOn(process, 'emitWarning').mockReturnValue()
    const url = await listening(
      createTlsServer({ key, cert }, () => undefined),
      'https',
    )
    expect(await failure(client({ timeout: 300 }).post(url))).toBeInstanceOf(TimeoutError)
  })

  test('a refusal by each address of a host proves that nothing was sent', () => {
    const refused = () => Object.assign(new Error('connect ECONNREFUSED'), { syscall: 'connect' })
    const failed = (...errors: Error[]) => new TypeError('fetch failed', { cause: new AggregateError(errors) })
    expect(neverConnected(failed(refused(), refused()))).toBe(true)
    expect(neverConnected(failed(refused(), new Error('socket hang up')))).toBe(false)
  })

  test('a port that the fetch of a handler refuses proves that nothing was sent', async () => {
    expect(neverConnected(await failure(fetch('http://127.0.0.1:6000')))).toBe(true)
  })

  test.each<[string, string | undefined, (socket: Socket) => unknown]>([
    ['closed instead of an answer', 'ECONNRESET', (socket) => socket.end()],
    ['reset instead of an answer', 'ECONNRESET', (socket) => socket.resetAndDestroy()],
    ['answered with something that is not HTTP', 'HPE_INVALID_CONSTANT', (socket) => socket.end('Ann Miller\r\n\r\n')],
    [
      'closed in the middle of a 200',
      'ECONNRESET',
      (socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"resu'),
    ],
    [
      'closed in the middle of a 200 in chunks',
      'ECONNRESET',
      (socket) => socket.end('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"res\r\n'),
    ],
    [
      'answered with chunks that are none',
      'ECONNRESET',
      (socket) => socket.end('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nAnn Miller\r\n'),
    ],
    [
      'switched to another protocol',
      undefined,
      (socket) => socket.end('HTTP/1.1 101 Switching Protocols\r\nupgrade: own\r\nconnection: upgrade\r\n\r\n'),
    ],
  ])('a connection %s may have been applied', async (_, code, answer) => {
    const url = await tcp((socket) => socket.once('data', () => answer(socket)))
    const error = await broken(url)
    expect(error).toMatchObject({ code, connected: true })
    expect(error.message).toContain('what was asked may have been applied')
  })
})

describe('time', () => {
  test('no answer within the timeout is a TimeoutError that names actor, method, place and duration', async () => {
    const url = await serving(() => undefined)
    const error = await failure<Error>(client({ timeout: 40 }).post(`${url}/upsert?token=hush-hush`, { json: [] }))
    expect(error).toBeInstanceOf(TimeoutError)
    expect(error.name).toBe('TimeoutError')
    expect(error.message).toBe(
      `crm: POST ${url}/upsert had no whole answer within 0.04 s: it may have been applied; if the server needs longer, raise timeout`,
    )
  })

  test('a request may have a timeout of its own', async () => {
    const url = await serving(() => undefined)
    await expect(client({ timeout: 60_000 }).get(url, { timeout: '30ms' })).rejects.toThrow('within 0.03 s')
  })

  test('the timeout covers the body', async () => {
    const url = await serving((_, response) => {
      response.writeHead(200).write('{"half":')
    })
    await expect(client({ timeout: 100 }).get(url)).rejects.toThrow(TimeoutError)
    await expect(client({ timeout: 100 })(url)).rejects.toThrow(TimeoutError)
  })

  test.each([
    ['while the event loop was blocked beyond the timeout', false],
    ['while it was blocked a second time, right after', true],
  ])('an answer that arrived %s is an answer', async (_, again) => {
    // [a request came, answer it, the answer is out]; the server runs beside this thread, which is going to stand still
    const marks = new Int32Array(new SharedArrayBuffer(12))
    const worker = new Worker(
      `const { workerData: marks, parentPort } = require('node:worker_threads')
       const set = (mark) => { Atomics.store(marks, mark, 1); Atomics.notify(marks, mark) }
       const server = require('node:http').createServer((request, response) => {
         set(0)
         const asking = setInterval(() => {
           if (Atomics.load(marks, 1) === 0) return
           clearInterval(asking)
           response.end(JSON.stringify('x'.repeat(10_000)), () => set(2))
         }, 2)
       }).listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))`,
      { eval: true, workerData: marks },
    )
    cleanups.push(() => worker.terminate())
    const port = await new Promise<number>((resolve) => worker.once('message', resolve))
    const block = (until: number) => Atomics.wait(marks, 0, 1, Math.max(0, until - performance.now()))
    const letAnswer = () => {
      Atomics.store(marks, 1, 1)
      Atomics.wait(marks, 2, 0, 5_000)
    }

    const timeout = 2_000
    const due = performance.now() + timeout
    const answer = client({ timeout }).post<string>(`http://127.0.0.1:${port}/`, { json: [] })
    const settled = vi.fn()
    answer.then(settled, settled)
    if (again) {
      const second = () => {
        letAnswer()
        block(performance.now() + 100)
      }
      setTimeout(() => setImmediate(second), timeout + 20)
    }
    while (Atomics.load(marks, 0) === 0) await new Promise((resolve) => setImmediate(resolve))
    if (!again) letAnswer()
    block(due + 100)
    expect(performance.now()).toBeGreaterThan(due)
    expect(settled).not.toHaveBeenCalled()
    expect(await answer).toHaveLength(10_000)
  })

  test('stopping ends requests under way with the reason of the signal', async () => {
    const controller = new AbortController()
    const reason = new Error('stopped')
    const url = await serving((request, response) => {
      if (request.url === '/body') response.writeHead(200).write('{')
      setTimeout(() => controller.abort(reason), 50)
    })
    const http = client({ signal: controller.signal })
    const errors = await Promise.all([
      failure(http.post(url)),
      failure(http.get(`${url}/body`)),
      failure(http(`${url}/body`)),
    ])
    for (const error of errors) expect(error).toBe(reason)
  })

  test('nothing is sent once the signal has aborted', async () => {
    const { url, requests } = await answering(ok)
    const reason = new Error('stopped')
    const onRequest = vi.fn()
    expect(await failure(client({ signal: AbortSignal.abort(reason), onRequest }).post(url))).toBe(reason)
    expect(onRequest).not.toHaveBeenCalled()

    const controller = new AbortController()
    const stopping = client({ signal: controller.signal, onRequest: () => controller.abort(reason) })
    expect(await failure(stopping.post(url))).toBe(reason)
    expect(requests).toEqual([])
  })

  test('many requests on one signal leave nothing on it, and no warning', async () => {
    const { url } = await answering(ok)
    const { signal } = new AbortController()
    const warned = vi.spyOn(process, 'emitWarning')
    const add = vi.spyOn(signal, 'addEventListener')
    const remove = vi.spyOn(signal, 'removeEventListener')
    const http = client({ signal })
    await Promise.all(Array.from({ length: 20 }, () => http.get(url)))
    expect(add).toHaveBeenCalledTimes(20)
    expect(remove).toHaveBeenCalledTimes(20)
    expect(warned).not.toHaveBeenCalled()
  })
})

describe('the count of requests', () => {
  test('each request waits for leave, and says whether it writes', async () => {
    const { url, requests } = await answering(ok)
    const writes: boolean[] = []
    const http = client({
      async onRequest(write) {
        await new Promise((resolve) => setTimeout(resolve, 5))
        expect(requests).toHaveLength(writes.length)
        writes.push(write)
      },
    })
    await http.get(url)
    await http(url, { method: 'HEAD' })
    await http.post(`${url}/search`, { read: true, json: {} })
    await http.post(url, { json: {} })
    await http.put(url)
    await http.patch(url)
    await http.delete(url)
    await http(url, { method: 'post' })
    expect(writes).toEqual([false, false, false, true, true, true, true, true])
  })

  test('when leave is refused nothing is sent, the call rejects with the reason and no end is told', async () => {
    const { url, requests } = await answering(ok)
    const reason = new Error('no slot')
    const onEnd = vi.fn()
    expect(await failure(client({ onRequest: () => Promise.reject(reason), onEnd }).post(url))).toBe(reason)
    expect(requests).toEqual([])
    expect(onEnd).not.toHaveBeenCalled()
  })

  test('the end is told once for each request, however it ends', async () => {
    const url = await serving((request, response) => {
      if (request.url === '/cut') request.socket.destroy()
      else if (request.url !== '/hang') status(Number(request.url!.slice(1)), {})(response)
    })
    const open = { now: 0, most: 0 }
    const http = client({
      timeout: 300,
      onRequest() {
        open.now += 1
        open.most = Math.max(open.most, open.now)
      },
      onEnd() {
        open.now -= 1
      },
    })
    await Promise.allSettled(['200', '404', 'cut', 'hang'].map((path) => http.post(`${url}/${path}`)))
    await http(`${url}/200`)
    expect(open).toEqual({ now: 0, most: 4 })
  })
})

describe('reading again', () => {
  const retryReads = { budget: 5_000 }
  const atOnce = () => vi.spyOn(Math, 'random').mockReturnValue(0)

  test.each([408, 425, 429, 500, 502, 503, 504])('what only reads is asked again after a %i', async (code) => {
    atOnce()
    const onRequest = vi.fn()
    const { url, requests } = await answering(status(code), status(code), ok)
    expect(await client({ retryReads, onRequest }).get(url)).toEqual({ ok: true })
    expect(await client({ retryReads }).post(url, { read: true })).toEqual({ ok: true })
    expect(requests).toHaveLength(4)
    expect(onRequest).toHaveBeenCalledTimes(3)
  })

  test('and after the network failed, or the answer did not come in time', async () => {
    atOnce()
    const { url, requests } = await answering(
      (_, request) => request.socket.destroy(),
      () => undefined,
      ok,
    )
    expect(await client({ retryReads, timeout: 200 }).get(url)).toEqual({ ok: true })
    expect(requests).toHaveLength(3)
  })

  test('Retry-After is waited for', async () => {
    atOnce()
    const { url } = await answering(status(429, {}, { 'retry-after': '0.3' }), ok)
    const begun = performance.now()
    await client({ retryReads }).get(url)
    expect(performance.now() - begun).toBeGreaterThan(290)
  })

  test('a Retry-After of zero does not switch off the backoff', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5)
    const { url } = await answering(status(503, {}, { 'retry-after': '0' }), ok)
    const begun = performance.now()
    await client({ retryReads }).get(url)
    expect(performance.now() - begun).toBeGreaterThan(240)
  })

  test('not beyond the budget: the last error is thrown', async () => {
    const { url, requests } = await answering(status(503, {}, { 'retry-after': '60' }))
    expect(await failure(client({ retryReads }).get(url))).toMatchObject({ status: 503, retryAfter: 60_000 })
    expect(requests).toHaveLength(1)
  })

  test('stopping ends the wait', async () => {
    const controller = new AbortController()
    const reason = new Error('stopped')
    const { url } = await answering((response) => {
      status(503, {}, { 'retry-after': '4' })(response)
      setTimeout(() => controller.abort(reason), 50)
    })
    expect(await failure(client({ retryReads, signal: controller.signal }).get(url))).toBe(reason)
  })

  test.each([400, 401, 404, 302])('not after a %i, which would come again', async (code) => {
    const { url, requests } = await answering(status(code), ok)
    expect(await failure(client({ retryReads }).get(url))).toMatchObject({ status: code })
    expect(requests).toHaveLength(1)
  })

  test('not after an answer that is no JSON', async () => {
    const { url, requests } = await answering(status(200, '<html>'), ok)
    await expect(client({ retryReads }).get(url)).rejects.toThrow('not JSON')
    expect(requests).toHaveLength(1)
  })

  test('what writes is never sent again here', async () => {
    const { url, requests } = await answering(status(503), ok)
    expect(await failure(client({ retryReads }).post(url, { json: [] }))).toMatchObject({ status: 503 })
    expect(requests).toHaveLength(1)
  })

  test('nor is anything without retryReads', async () => {
    const { url, requests } = await answering(status(503), ok)
    expect(await failure(client().get(url))).toMatchObject({ status: 503 })
    expect(requests).toHaveLength(1)
  })
})

/** Made for these tests, trusted by nobody. */
const key = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgc3eERUi8jU6fghJX
viZT44HSEvEQyW3JFChkPhqeFW6hRANCAAQlF/gWOpAJZdO5lbjtX92cnvCsaYs7
yHvzjEsKxMY4uzjP1GB1yb6GuWqVuX83vEluWwTGhk6Xxx3tvCK27G8b
-----END PRIVATE KEY-----`
const cert = `-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUJEPL+WthAMg3UJxCRJ58CrliQrUwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTAxMTMzMFoYDzIxMjYxMDI4
MDExMzMwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQlF/gWOpAJZdO5lbjtX92cnvCsaYs7yHvzjEsKxMY4uzjP1GB1yb6G
uWqVuX83vEluWwTGhk6Xxx3tvCK27G8bo1MwUTAdBgNVHQ4EFgQU1tx7HOpXC6JH
DNa6xHsSJeK/QCYwHwYDVR0jBBgwFoAU1tx7HOpXC6JHDNa6xHsSJeK/QCYwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAzuhyKUKBeYehTeqS7JpU5
RG0twdTY4x5L2p19gqQkmwIgKUMVr9Yw3D5MIwpMbWFVMWoguJia9FeJGescWGuy
Iq0=
-----END CERTIFICATE-----`
