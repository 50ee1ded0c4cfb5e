import { randomUUID } from 'node:crypto'
import http, { type ClientRequest, type IncomingMessage, validateHeaderName, validateHeaderValue } from 'node:http'
import https from 'node:https'
import { TLSSocket } from 'node:tls'
import { promisify } from 'node:util'
import { brotliDecompress, constants, gunzip, inflate, inflateRaw } from 'node:zlib'
import { redact } from './config.js'
import { type Duration, milliseconds } from './duration.js'
import { ConfigError, FatalError, SpillwayError } from './errors.js'
import { fullJitter, onAbort, retryAfter, retrying } from './pace.js'

/** One request, beside its address and method. */
export interface HttpRequest {
  /** Sent as they are. `accept`, and with `json` the `content-type`, say JSON unless given here. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /**
   * The body, as JSON. A bigint becomes a number with all its digits (an API that reads numbers as doubles wants a string:
   * `String(id)`), a `Date` its ISO text; what is `undefined` is left out. As ever in JSON, NaN and infinity become null.
   */
  readonly json?: unknown
  /** The body, byte for byte; not together with `json`. */
  readonly body?: string | Uint8Array | undefined
  /** Added to the address; replaces parameters of the same name. What is `undefined` is left out. */
  readonly query?: Readonly<Record<string, string | number | bigint | boolean | undefined>> | undefined
  /** How long request and answer may take together. Default: the timeout of the destination or source. */
  readonly timeout?: Duration | undefined
  /**
   * Asked for the IP address of the connection before anything is sent over it, of one that was kept open too: `false` refuses it, and
   * the call rejects with a {@link FatalError}. A name that is looked up before may have another address by then.
   */
  readonly accepts?: ((address: string) => boolean) | undefined
  /** This request only reads, whatever its method (a search, a token): it does not count as a write. GET and HEAD never do. */
  readonly read?: boolean | undefined
}

/**
 * `fetch` for handlers and sources: with a timeout, paced, counted, and strict about what counts as success.
 *
 * A status outside 2xx throws an {@link HttpError}, redirects too: they are never followed, because a token must not travel
 * to another address. No answer throws a {@link NetworkError} or a {@link TimeoutError}; when the run is stopped, the reason
 * of its signal is thrown.
 *
 * The verbs give the parsed JSON of the answer, `undefined` for an empty one, and throw when it is not JSON: a sign-in page
 * with status 200 is no success. Integers beyond 2^53 are rounded, as `JSON.parse` does. Called itself, it gives the
 * `Response`, for its headers or for other formats; its body has arrived in full (larger than memory: use `fetch` and `signal`).
 *
 * It asks over Node's global agents (`http.globalAgent`, `https.globalAgent`), which keep connections, and use the proxy that is set for them.
 *
 * @example
 * ```ts
 * const { results } = await http.post<Reply>('https://api.example/contacts/batch', { headers: { authorization: `Bearer ${token}` }, json: batch })
 * const page = await http('https://api.example/contacts', { query: { page: 2 } })
 * const next = page.headers.get('link')
 * ```
 */
export interface Http {
  /** The method is GET unless `init` names another. */
  (url: string, init?: HttpRequest & { readonly method?: string | undefined }): Promise<Response>
  get<T = unknown>(url: string, init?: HttpRequest): Promise<T>
  post<T = unknown>(url: string, init?: HttpRequest): Promise<T>
  put<T = unknown>(url: string, init?: HttpRequest): Promise<T>
  patch<T = unknown>(url: string, init?: HttpRequest): Promise<T>
  delete<T = unknown>(url: string, init?: HttpRequest): Promise<T>
}

/** The server answered, but not with what was asked for: a status outside 2xx, or 2xx and a body that is not JSON. */
export class HttpError extends SpillwayError {
  readonly status: number
  readonly method: string
  /** Origin and path of the request; the query is left out. */
  readonly url: string
  /** Milliseconds, when the answer had a `Retry-After` header. */
  readonly retryAfter: number | undefined
  /** What the vendor says is wrong, on one line and without what the request sent as credentials. May quote the data sent. */
  readonly detail: string | undefined
  readonly #body: string | undefined

  constructor(message: string, answer: HttpAnswer) {
    super(message, answer.cause === undefined ? {} : { cause: answer.cause })
    this.status = answer.status
    this.method = answer.method
    this.url = answer.url
    this.retryAfter = answer.retryAfter
    this.detail = answer.detail
    this.#body = answer.body
  }

  /** The whole answer as text, for handlers that read it. It may quote rows, so it never shows up in a log. */
  get body(): string | undefined {
    return this.#body
  }
}

/** The parts of an {@link HttpError}. */
export interface HttpAnswer {
  readonly status: number
  readonly method: string
  readonly url: string
  readonly retryAfter?: number | undefined
  readonly detail?: string | undefined
  readonly body?: string | undefined
  readonly cause?: unknown
}

/** No answer, or half of one: the network failed. */
export class NetworkError extends SpillwayError {
  /** Node's code, such as `ECONNREFUSED` or `ECONNRESET`. */
  readonly code: string | undefined
  /** False only when it is certain that no connection came about. Then nothing was sent, and nothing can have been applied. */
  readonly connected: boolean

  constructor(
    message: string,
    { code, connected }: { readonly code: string | undefined; readonly connected: boolean },
  ) {
    super(message)
    this.code = code
    this.connected = connected
  }
}

/** No whole answer within the timeout. What was asked may have been applied, and may still be. */
export class TimeoutError extends SpillwayError {}

/** Who asks, and who is told about each request. */
export interface HttpOptions {
  /** Names the destination or source in errors. */
  readonly actor: string
  /** Ends every request under way, and every wait. */
  readonly signal: AbortSignal
  /** Milliseconds for one request and its whole answer. */
  readonly timeout: number
  /** Awaited before each request leaves, each retry included; when it rejects, nothing leaves and the call rejects with the same. */
  readonly onRequest?: ((writes: boolean) => void | Promise<void>) | undefined
  /** Called once for each `onRequest` that resolved: the whole answer is there, or the request has failed. */
  readonly onEnd?: (() => void) | undefined
  /** For sources: what only reads is sent again after 408, 425, 429, 5xx, a network error or a timeout, for `budget` milliseconds. */
  readonly retryReads?: { readonly budget: number } | undefined
}

/** The client for one destination or source, over Node's own HTTP: for each request, `fetch` takes four times as long. */
export function createHttp(options: HttpOptions): Http {
  const { signal, onRequest, onEnd, retryReads } = options

  const send = async (url: string, method: string, init: HttpRequest): Promise<Answer> => {
    const request = prepare(url, method, init, options)
    const attempt = async () => {
      signal.throwIfAborted()
      await onRequest?.(request.writes)
      try {
        return await exchange(request, options)
      } finally {
        onEnd?.()
      }
    }
    if (!retryReads || request.writes) return attempt()
    return retrying(attempt, { budget: retryReads.budget, signal, wait: waitToReadAgain })
  }

  const verb =
    (method: string) =>
    async <T>(url: string, init: HttpRequest = {}): Promise<T> =>
      parse(await send(url, method, init), options.actor) as T

  const call = async (
    url: string,
    { method = 'GET', ...init }: HttpRequest & { readonly method?: string | undefined } = {},
  ) => responseOf(await send(url, method.toUpperCase(), init))

  return Object.assign(call, {
    get: verb('GET'),
    post: verb('POST'),
    put: verb('PUT'),
    patch: verb('PATCH'),
    delete: verb('DELETE'),
  })
}

interface Prepared {
  readonly method: string
  readonly url: URL
  /** Origin and path, as errors may show them. */
  readonly place: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | undefined
  readonly timeout: number
  readonly writes: boolean
  readonly accepts: HttpRequest['accepts']
}

interface Answer {
  readonly request: Prepared
  readonly head: IncomingMessage
  readonly bytes: Buffer
}

/** Checks all that can be wrong before anything is sent: what Node says about it would quote the token or the query. */
function prepare(address: string, method: string, init: HttpRequest, { actor, timeout }: HttpOptions): Prepared {
  if (!URL.canParse(address)) {
    throw new ConfigError(
      `${actor}: ${method} needs a whole address, such as 'https://api.example/contacts'; this one is not`,
    )
  }
  const url = new URL(address)
  for (const [name, value] of Object.entries(init.query ?? {})) {
    if (value !== undefined) url.searchParams.set(name, String(value))
  }
  const place = redact(url.origin + url.pathname)
  const wrong = (what: string) => new ConfigError(`${actor}: ${method} ${place}: ${what}`)

  if (!/^https?:$/.test(url.protocol)) throw wrong(`the address must begin with https:// or http://`)
  if (url.username || url.password)
    throw wrong('the address holds a user or password: send them in the authorization header')
  if (init.json !== undefined && init.body !== undefined) throw wrong('json and body are both given: give one')
  const text = init.json === undefined ? init.body : stringify(init.json)
  if (text !== undefined && (method === 'GET' || method === 'HEAD'))
    throw wrong('it cannot have a body: use query, or POST')
  if (!/^[A-Z]+(-[A-Z]+)*$/.test(method) || method === 'CONNECT') throw wrong('there is no such method to send')
  const body = typeof text === 'string' ? Buffer.from(text) : text
  return {
    method,
    url,
    place,
    headers: headersOf(init, body, wrong),
    body,
    timeout: init.timeout === undefined ? timeout : milliseconds(init.timeout, `${actor}: timeout`),
    writes: !init.read && method !== 'GET' && method !== 'HEAD',
    accepts: init.accepts,
  }
}

/** Headers that belong to the connection rather than to what is asked. */
const hopByHop = new Set(['expect', 'keep-alive', 'transfer-encoding', 'upgrade'])

function headersOf(
  init: HttpRequest,
  body: Uint8Array | undefined,
  wrong: (what: string) => ConfigError,
): Record<string, string> {
  const headers: Record<string, string> = {
    accept: 'application/json',
    'accept-encoding': 'gzip, deflate, br',
    'user-agent': 'spillway',
  }
  if (init.json !== undefined) headers['content-type'] = 'application/json'
  else if (typeof init.body === 'string') headers['content-type'] = 'text/plain;charset=UTF-8'
  const length = String(body?.byteLength ?? 0)
  for (const [name, given] of Object.entries(init.headers ?? {})) {
    const lower = name.toLowerCase()
    const value = String(given).trim() // a token read from a file ends with a line break
    try {
      validateHeaderName(name)
      validateHeaderValue(name, value)
    } catch {
      throw wrong(
        `header ${JSON.stringify(name)} has a character that HTTP does not allow, such as a line break within a token`,
      )
    }
    if (hopByHop.has(lower) || (lower === 'content-length' && value !== length)) {
      throw wrong(`header ${JSON.stringify(name)} is set by the connection: leave it out`)
    }
    headers[lower] = value
  }
  if (body !== undefined) headers['content-length'] = length
  return headers
}

/** One request and its whole answer. */
async function exchange(request: Prepared, { actor, signal }: HttpOptions): Promise<Answer> {
  signal.throwIfAborted()
  const { method, place, timeout } = request
  const asking = ask(request)
  let cut!: (reason: unknown) => void
  const cutOff = new Promise<never>((_, reject) => {
    cut = (reason) => {
      reject(reason)
      asking.destroy()
    }
  })
  const ignore = onAbort(signal, () => cut(signal.reason))
  const disarm = afterTurn(timeout, () => {
    cut(
      isConnecting(asking)
        ? networkError(noConnection(), request, actor)
        : new TimeoutError(
            `${actor}: ${method} ${place} had no whole answer within ${timeout / 1000} s: it may have been applied; if the server needs longer, raise timeout`,
          ),
    )
  })
  const learn = <T>(answer: Promise<T>): Promise<T> => {
    const told = answer.catch((error) => {
      throw networkError(error, request, actor)
    })
    return Promise.race([told, cutOff])
  }

  try {
    const head = await learn(headOf(asking))
    if (isSuccess(head)) return { request, head, bytes: await learn(bodyOf(head)) }
    // The status is the answer: it counts even when the text that explains it breaks off.
    throw await learn(bodyOf(head)).then(
      (bytes) => refusal(request, head, actor, { body: utf8.decode(bytes) }),
      (cause) => refusal(request, head, actor, { cause }),
    )
  } finally {
    disarm()
    ignore()
  }
}

/** Milliseconds within which a connection has to come about. */
const connectTimeout = 10_000

function ask({ method, url, headers, body, accepts }: Prepared): ClientRequest {
  const { request } = url.protocol === 'https:' ? https : http
  const asking = request(url, { method, headers, timeout: connectTimeout })
  // Node tells of any silence that long; only the one before there is a connection proves something
  asking.on('timeout', () => {
    if (isConnecting(asking)) asking.destroy(noConnection())
  })
  if (accepts) {
    asking.on('socket', (socket) => {
      const look = () => {
        if (!accepts(socket.remoteAddress ?? '')) asking.destroy(new NotAccepted())
      }
      // what is to be sent waits for the connection as well, but began to later
      if (socket.connecting) socket.once('connect', look)
      else look()
    })
  }
  asking.end(body)
  return asking
}

/** Whether it still waits for its connection, of which a TLS handshake is a part. */
function isConnecting({ socket }: ClientRequest): boolean {
  return !socket || socket.connecting || (socket instanceof TLSSocket && socket.alpnProtocol === null)
}

/** A connection was made, but not to an address that the caller accepts. */
class NotAccepted extends Error {}

function noConnection(): Error {
  return Object.assign(new Error('no connection in time'), { code: 'ETIMEDOUT', syscall: 'connect' })
}

function headOf(asking: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    asking.on('response', resolve)
    asking.on('error', reject)
    asking.on('upgrade', (_, socket) => {
      socket.destroy()
      reject(new Error('the server wants another protocol'))
    })
  })
}

function isSuccess({ statusCode = 0 }: IncomingMessage): boolean {
  return statusCode >= 200 && statusCode < 300
}

async function bodyOf(head: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = []
  await new Promise<void>((resolve, reject) => {
    head.on('data', (part: Buffer) => parts.push(part))
    head.on('end', resolve)
    head.on('error', reject)
  })
  return decoded(Buffer.concat(parts), head.headers['content-encoding'])
}

/** Takes what a compressed answer holds even where its end is missing, as `fetch` does: some servers leave it out. */
const lenient = { finishFlush: constants.Z_SYNC_FLUSH }
const decoders: ReadonlyMap<string, (bytes: Buffer) => Promise<Buffer>> = new Map([
  ['gzip', (bytes) => promisify(gunzip)(bytes, lenient)],
  ['x-gzip', (bytes) => promisify(gunzip)(bytes, lenient)],
  // meant is the form with a header (RFC 9110 section 8.4.1.2), but not all servers send it
  ['deflate', (bytes) => promisify((bytes[0]! & 15) === 8 ? inflate : inflateRaw)(bytes, lenient)],
  ['br', (bytes) => promisify(brotliDecompress)(bytes, { finishFlush: constants.BROTLI_OPERATION_FLUSH })],
])

/** Undoes the codings of an answer, the last one first; as it came when there is one that is not known. */
async function decoded(bytes: Buffer, codings: string | undefined): Promise<Buffer> {
  if (codings === undefined || bytes.byteLength === 0) return bytes
  const steps = codings.split(',').map((coding) => decoders.get(coding.trim().toLowerCase()))
  if (steps.includes(undefined)) return bytes
  let whole = bytes
  for (const step of steps.reverse()) whole = await step!(whole)
  return whole
}

/** The answer in the form in which `fetch` gives it. */
function responseOf({ request, head, bytes }: Answer): Response {
  const { statusCode: status = 0, statusMessage: statusText = '', rawHeaders } = head
  const headers = new Headers()
  for (let at = 0; at < rawHeaders.length; at += 2) headers.append(rawHeaders[at]!, rawHeaders[at + 1]!)
  const response = new Response(bytes.byteLength > 0 && status !== 205 ? bytes : null, { status, statusText, headers })
  return Object.defineProperty(response, 'url', { value: request.url.href.replace(/#.*/, '') })
}

/**
 * Calls `late` after so many milliseconds, but only once the event loop has had time to take in what has arrived by then:
 * a loop that was blocked runs its timers first, and would turn an answer that is there into an unknown outcome.
 */
export function afterTurn(milliseconds: number, late: () => void): () => void {
  let immediate: ReturnType<typeof setImmediate> | undefined
  let timer = setTimeout(
    () => {
      timer = setTimeout(() => {
        immediate = setImmediate(late)
      }, 20)
    },
    Math.min(milliseconds, 2 ** 31 - 1),
  )
  return () => {
    clearTimeout(timer)
    clearImmediate(immediate)
  }
}

const utf8 = new TextDecoder()

/** The value of a JSON answer. */
function parse({ request, head, bytes }: Answer, actor: string): unknown {
  const body = utf8.decode(bytes)
  if (body.trim() === '') return undefined
  try {
    return JSON.parse(body)
  } catch {
    const { method, place: url } = request
    throw notJson(actor, { status: head.statusCode!, method, url, body }, head.headers['content-type'])
  }
}

/** Says that an answer is not JSON; its text is not quoted, for it may be rows. */
export function notJson(
  actor: string,
  answer: HttpAnswer & { readonly body: string },
  type?: string | null,
): HttpError {
  const { status, method, url, body } = answer
  return new HttpError(
    `${actor}: ${status} from ${method} ${url}: the answer is not JSON (${type ?? 'no content type'}): ` +
      (body.trimStart().startsWith('<')
        ? 'a web page such as a sign-in form; check the address and the credentials'
        : `check the address; where it is meant to be so, call http(url, { method: '${method}' }) and read the Response`),
    answer,
  )
}

/** JSON in which a bigint stands as an exact number. `JSON.rawJSON` would do that, from Node 22 on. */
function stringify(value: unknown): string {
  try {
    return JSON.stringify(value)
  } catch {
    // A bigint, most likely: looked for only now, because a replacer makes every stringify several times slower.
    const mark = randomUUID()
    const text = JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${mark}${part}` : part))
    return text.replace(new RegExp(`"${mark}(-?\\d+)"`, 'g'), '$1')
  }
}

/** How long a source waits before it asks again; not at all when asking again would not help. */
function waitToReadAgain(error: unknown, attempt: number): number | undefined {
  const passing = error instanceof NetworkError || error instanceof TimeoutError
  if (!passing && !(error instanceof HttpError && isTransient(error.status))) return undefined
  // Not Retry-After alone: a server that keeps saying 0 would be asked as fast as it answers.
  return Math.max(fullJitter(attempt), error instanceof HttpError ? (error.retryAfter ?? 0) : 0)
}

function isTransient(status: number): boolean {
  return status === 408 || status === 425 || status === 429 || status >= 500
}

function refusal(
  request: Prepared,
  { statusCode: status = 0, headers }: IncomingMessage,
  actor: string,
  { body, cause }: { body?: string; cause?: unknown },
): HttpError {
  const { method, place, url } = request
  const said = body === undefined ? undefined : vendorMessage(body, headers['content-type'] ?? '')
  const detail = said && oneLine(redact(withoutCredentials(said, request)))
  const after = retryAfter(headers['retry-after'])
  const parts = [
    `${actor}: ${status} from ${method} ${place}`,
    detail && shortened(detail),
    nextStep(status, after, location(url, headers.location)),
  ]
  return new HttpError(parts.filter(Boolean).join(': '), {
    status,
    method,
    url: place,
    retryAfter: after,
    detail,
    body,
    cause,
  })
}

function nextStep(status: number, after: number | undefined, location: string | undefined): string {
  const retried = after === undefined ? 'retried' : `retried after ${after / 1000} s`
  if (status < 400)
    return `redirects are not followed${location ? `; if you trust ${location}, use that address` : ''}; not retried`
  if (status === 401) return 'check the credentials; not retried'
  if (status === 403) return 'check the credentials and what they may do; not retried'
  if (status === 404 || status === 410)
    return 'check the address, and that the credentials may see what it names; not retried'
  if (status === 413) return 'lower batchSize or batchBytes; not retried'
  if (status === 429) return `lower rate or concurrency if this goes on; ${retried}`
  if (isTransient(status)) return `the server is in trouble or busy; ${retried}`
  return 'correct what is sent; not retried'
}

/** Where a redirect points to, as errors may show it. */
function location(url: URL, to: string | undefined): string | undefined {
  if (to === undefined || !URL.canParse(to, url.href)) return undefined
  const { origin, pathname } = new URL(to, url)
  return redact(origin + pathname)
}

/** Names under which APIs put the sentence that says what is wrong. */
const sentences = ['message', 'error_description', 'detail', 'error', 'errors', 'title']

/**
 * The vendor's own words: `{ message }` (HubSpot, Notion), `{ error: { message } }` (Google), `[{ message }]` (Salesforce),
 * `{ error }` (Slack), `{ error_description }` (RFC 6749), `{ detail, title }` (RFC 9457), `{ errors: [{ message }] }`, or plain text.
 */
function vendorMessage(body: string, type: string): string | undefined {
  if (type.startsWith('text/plain')) return body
  const find = (value: unknown, depth: number): string | undefined => {
    if (typeof value === 'string') return value
    if (typeof value !== 'object' || value === null || depth === 0) return undefined
    if (Array.isArray(value)) return find(value[0], depth - 1)
    for (const name of sentences) {
      const found = find((value as Record<string, unknown>)[name], depth - 1)
      if (found) return found
    }
    return undefined
  }
  let answer: unknown
  try {
    answer = JSON.parse(body)
  } catch {
    return undefined // a web page explains nothing
  }
  return find(answer, 4)
}

/** Headers whose values are no credentials and may well be quoted. */
const harmless = new Set(['accept', 'accept-encoding', 'content-length', 'content-type', 'user-agent'])

function withoutCredentials(text: string, { url, headers }: Prepared): string {
  const sent = [...url.searchParams.values()]
  for (const [name, value] of Object.entries(headers)) {
    if (!harmless.has(name)) sent.push(value, ...value.split(' ').slice(1))
  }
  return sent
    .filter((value) => value.length >= 6)
    .sort((a, b) => b.length - a.length)
    .reduce((rest, value) => rest.replaceAll(value, '[redacted]'), text)
}

/** Whether an error of a handler's own `fetch` is certain to mean that no connection came about. */
export function neverConnected(error: unknown): boolean {
  return error instanceof TypeError && error.cause instanceof Error && provesNoConnection(error.cause)
}

/** Whether an error of Node's `net` or `tls`, or of undici, is one of those that come before there is a connection. */
function provesNoConnection(error: Error): boolean {
  const { code, syscall, message } = error as NodeJS.ErrnoException
  return (
    (code !== undefined && certificate.test(code)) ||
    syscall === 'connect' ||
    syscall === 'getaddrinfo' ||
    code === 'UND_ERR_CONNECT_TIMEOUT' ||
    message === noHandshake ||
    message === 'bad port' ||
    // one for each address of a host
    (error instanceof AggregateError && error.errors.every(provesNoConnection))
  )
}

const oneLine = (text: string) => text.replace(/[\p{Cc}\p{Zs}\p{Zl}\p{Zp}]+/gu, ' ').trim()

/** At most 200 characters. */
const shortened = (text: string) => (text.length > 200 ? `${text.slice(0, 199)}…` : text)

/** Node's words for a TLS handshake that was cut off, which has the code of any reset. */
const noHandshake = 'Client network socket disconnected before secure TLS connection was established'
/** Codes by which Node refuses a certificate, before it sends anything; `ERR_SSL_…` may come later than that. */
const certificate = /^(?!ERR_SSL_).*(CERT|UNABLE_TO_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH)/

/** The error of Node is not kept: that of its parser holds the bytes it stumbled over. */
function networkError(error: Error, { method, place }: Prepared, actor: string): SpillwayError {
  if (error instanceof NotAccepted) {
    return new FatalError(
      `${actor}: ${method} ${place}: its host has an address that is not accepted, so nothing was sent`,
    )
  }
  const { code, message } = error as NodeJS.ErrnoException
  const connected = !provesNoConnection(error)
  const refused = code !== undefined && certificate.test(code)
  const next = connected
    ? 'the connection broke before the whole answer was there: what was asked may have been applied'
    : `no connection, so nothing was sent: check the address${refused ? ' and the certificate' : ' and the network'}`
  const what = [code, message].filter(Boolean).join(', ')
  return new NetworkError(`${actor}: ${method} ${place} failed (${oneLine(what)}): ${next}`, { code, connected })
}
