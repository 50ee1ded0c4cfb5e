import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Duration, milliseconds } from '../duration.js'
import { ConfigError } from '../errors.js'
import { page } from './page.js'

/** A request, read to its end. */
export interface ApiRequest {
  readonly method: string
  /** The path as it was sent, still percent-encoded, without the query. */
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  /** The body: JSON parsed, a form as an object, anything else as text; `undefined` when there was none. */
  readonly body: unknown
  /** The body's length in bytes. */
  readonly bytes: number
}

/** What a tenant answers. A string is sent as HTML, anything else as JSON. */
export interface Reply {
  readonly status: number
  readonly body: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/**
 * One vendor's API, as {@link serve} asks it. Tenants share a server because their paths differ. What it holds lives in
 * variables beside it, so that a test can look at it without a request.
 */
export interface Tenant {
  /** Whether a request to this path is this vendor's. */
  owns(path: string): boolean
  /** Carries the request out. Synchronous, so that no two requests ever see each other half done. */
  answer(request: ApiRequest): Reply
  /** The vendor's way to say this status, for a fault that a test asks for. */
  refusal(status: number, reason: string | undefined): unknown
  /** What the page at `/` shows of it, as HTML. */
  page(): string
  /** The CSS that only its part of the page needs. */
  readonly style?: string
}

/** A request as it was received and answered. Headers are left out: they hold tokens. */
export interface LoggedRequest {
  readonly time: Date
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly body: unknown
  /** The status that was answered; `undefined` while there is none, and for ever when the connection was cut. */
  readonly status: number | undefined
  /** Whether the tenant carried it out, whatever the caller was told. */
  readonly applied: boolean
}

/** Which requests a fault meets. */
interface Aim {
  /** @default every request */
  readonly when?: (request: ApiRequest) => boolean
  /** How many requests it meets; `Infinity` for all to come. @default 1 */
  readonly times?: number
  /**
   * Whether the request takes effect although its answer does not say so. For `delay`: whether it takes effect before
   * the wait or after it.
   *
   * @default false
   */
  readonly applied?: boolean
}

/**
 * Something that goes wrong on demand:
 *
 * - `status`: the vendor's own error of that status, with `Retry-After` in seconds (a number) or as an HTTP-date.
 * - `cut`: the connection is closed, no answer.
 * - `html`: a 200 that holds a web page, as proxies and sign-in walls send.
 * - `delay`: the right answer, late.
 */
export type Fault = Aim &
  (
    | {
        readonly kind: 'status'
        readonly status: number
        readonly retryAfter?: number | Date
        readonly reason?: string
      }
    | { readonly kind: 'cut' }
    | { readonly kind: 'html' }
    | { readonly kind: 'delay'; readonly delay: Duration }
  )

/** The faults to come. */
export interface Faults {
  /**
   * Makes the next matching request go wrong. Faults are tried in the order in which they were asked for.
   *
   * @example
   * ```ts
   * box.faults.next({ kind: 'status', status: 429, retryAfter: 30 })
   * box.faults.next({ kind: 'cut', applied: true, when: (request) => request.path.endsWith(':batchUpdate') })
   * ```
   */
  next(fault: Fault): void
  /** Forgets those that have not happened. */
  clear(): void
}

/** A running server, without its tenants' own names. */
export interface Server {
  /** `http://127.0.0.1:4010`, no slash at the end. */
  readonly url: string
  readonly faults: Faults
  /** The newest requests, oldest first. */
  readonly requests: readonly LoggedRequest[]
  close(): Promise<void>
}

/** Where {@link serve} listens, and how it answers. */
export interface ServerOptions {
  /** @default a free one */
  readonly port?: number | undefined
  /** The address to listen on. The sandbox has no protection: leave it on loopback. @default '127.0.0.1' */
  readonly host?: string | undefined
  /** Time that every request takes. @default none */
  readonly latency?: Duration | undefined
  /** How many requests {@link Server.requests} keeps. @default 1000 */
  readonly log?: number | undefined
}

/**
 * Starts a local server for stand-ins of your own: it reads each request to its end, hands it to the tenant that owns its path, and
 * lets faults happen on the way. Its page at `/` shows what the tenants show.
 *
 * @throws ConfigError when the port cannot be had.
 *
 * @example
 * ```ts
 * const names: string[] = []
 * const crm: Tenant = {
 *   owns: (path) => path === '/names',
 *   answer({ method, body }) {
 *     if (method === 'POST') names.push(...(body as string[]))
 *     return { status: 200, body: { names } }
 *   },
 *   refusal: (status, reason) => ({ error: reason ?? `status ${status}` }),
 *   page: () => `<h2>Names</h2><p>${html(names.join(', '))}</p>`,
 * }
 * const server = await serve([crm])
 * server.faults.next({ kind: 'cut', applied: true })
 * ```
 */
export async function serve(tenants: readonly Tenant[], options: ServerOptions = {}): Promise<Server> {
  const latency = options.latency === undefined ? 0 : milliseconds(options.latency, 'sandbox(): latency')
  const keep = options.log ?? 1000
  const requests: LoggedRequest[] = []
  const planned: { readonly fault: Fault; left: number }[] = []
  const closing = new AbortController()

  const server = createServer((message, response) => {
    exchange(message, response).catch((error) => {
      if (closing.signal.aborted || message.destroyed) response.destroy()
      else send(response, { status: 500, body: { error: `sandbox: ${String(error?.stack ?? error)}` } })
    })
  })

  async function exchange(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const request = await receive(message)
    const tenant = tenants.find((tenant) => tenant.owns(request.path))
    if (!tenant) return send(response, index(request))

    const { method, path, query, body } = request
    const logged = { time: new Date(), method, path, query, body, applied: false }
    const entry: LoggedRequest & { status: number | undefined; applied: boolean } = { ...logged, status: undefined }
    requests.push(entry)
    if (requests.length > keep) requests.shift()
    const apply = () => {
      entry.applied = true
      return tenant.answer(request)
    }
    const answer = (reply: Reply) => {
      entry.status = reply.status
      send(response, reply)
    }

    if (latency > 0) await sleep(latency, undefined, { signal: closing.signal })
    const fault = take(request)
    if (!fault) return answer(apply())
    const done = fault.applied ? apply() : undefined
    switch (fault.kind) {
      case 'status':
        return answer({
          status: fault.status,
          body: tenant.refusal(fault.status, fault.reason),
          headers: fault.retryAfter === undefined ? {} : { 'retry-after': retryAfter(fault.retryAfter) },
        })
      case 'cut':
        return void response.destroy()
      case 'html':
        return answer({ status: 200, body: '<!doctype html><title>Sign in</title><h1>Sign in to continue</h1>' })
      case 'delay':
        await sleep(milliseconds(fault.delay, 'faults.next(): delay'), undefined, { signal: closing.signal })
        return answer(done ?? apply())
    }
  }

  function take(request: ApiRequest): Fault | undefined {
    const found = planned.find(({ fault }) => fault.when?.(request) ?? true)
    if (found && --found.left <= 0) planned.splice(planned.indexOf(found), 1)
    return found?.fault
  }

  function index({ method, path, query }: ApiRequest): Reply {
    if (path !== '/' || method !== 'GET') {
      return { status: 404, body: { error: `sandbox: no vendor here has a path ${path}` } }
    }
    const refresh = Number(query.get('refresh'))
    return { status: 200, body: page(tenants, refresh) }
  }

  const host = options.host ?? '127.0.0.1'
  server.listen(options.port ?? 0, host)
  await once(server, 'listening').catch((error) => {
    throw new ConfigError(`sandbox: cannot listen on ${host}:${options.port}: ${error.message}; choose another port`)
  })
  const { port } = server.address() as AddressInfo

  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    requests,
    faults: {
      next: (fault) => void planned.push({ fault, left: fault.times ?? 1 }),
      clear: () => void planned.splice(0),
    },
    async close() {
      if (!server.listening) return
      closing.abort()
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

async function receive(message: IncomingMessage): Promise<ApiRequest> {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(chunk)
  const raw = Buffer.concat(chunks)
  const [path = '/', query = ''] = (message.url ?? '/').split(/\?(.*)/s)
  return {
    method: message.method ?? 'GET',
    path,
    query: new URLSearchParams(query),
    headers: message.headers,
    body: parse(raw.toString(), message.headers['content-type'] ?? ''),
    bytes: raw.length,
  }
}

function parse(text: string, type: string): unknown {
  if (text === '') return undefined
  if (type.startsWith('application/x-www-form-urlencoded')) return Object.fromEntries(new URLSearchParams(text))
  if (!type.startsWith('application/json')) return text
  try {
    return JSON.parse(text)
  } catch {
    return text // the tenant refuses what should have been an object, in its own words
  }
}

function send(response: ServerResponse, { status, body, headers = {} }: Reply): void {
  const html = typeof body === 'string'
  const type = html ? 'text/html; charset=utf-8' : 'application/json; charset=UTF-8'
  response.writeHead(status, { 'content-type': type, ...headers })
  response.end(html ? body : JSON.stringify(body))
}

function retryAfter(value: number | Date): string {
  return value instanceof Date ? value.toUTCString() : String(value)
}
