import { createHash, createHmac } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { BlockList, isIP, isIPv6 } from 'node:net'
import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  type Duration,
  destination,
  FatalError,
  HttpError,
  type Injected,
  type Outcome,
  RejectedError,
} from 'spillway'
import { z } from 'zod'
import { jsonOf, Unfit } from './tables/text.js'

/** Where requests go and how they are signed in; each field may be a `secret()`, or is injected. */
export interface HttpConfig {
  /** The address, when it is the same for all. A webhook's address is often its only credential: then pass it as a `secret()`. */
  readonly url?: string | undefined
  /** One way to sign in. */
  readonly auth?:
    | {
        /** `authorization: Bearer …` */
        readonly bearer?: string | undefined
        /** `authorization: Basic …` */
        readonly basic?: { readonly username: string; readonly password: string } | undefined
        /** Any header, such as `x-api-key`. */
        readonly header?: { readonly name: string; readonly value: string } | undefined
        /**
         * `x-timestamp`: seconds since 1970, and `x-signature`: `sha256=` and the HMAC of `<timestamp>.<body>` under the secret, in
         * hexadecimal digits.
         */
        readonly hmac?: { readonly secret: string } | undefined
      }
    | undefined
}

/** What {@link http} is told of the request that `T`, a batch or a record, makes. */
export interface HttpOptions<T> {
  /** Names the destination in errors, in its config and in the state. @default 'http' */
  readonly name?: string | undefined
  /** The address; where records differ in it, a function. */
  readonly url?: Injected<HttpConfig>['url'] | ((given: T) => string) | undefined
  readonly auth?: Injected<HttpConfig>['auth']
  /** @default 'POST' */
  readonly method?: 'POST' | 'PUT' | 'PATCH' | 'DELETE' | undefined
  readonly headers?: Readonly<Record<string, string>> | ((given: T) => Readonly<Record<string, string>>) | undefined
  /** What is sent: text or bytes as they are, anything else as JSON, with all digits of its integers. @default the batch or the record */
  readonly body?: ((given: T) => unknown) | undefined
  /** The header for the batch's idempotency key, the same at every attempt; `false`: none. @default 'idempotency-key' */
  readonly idempotencyHeader?: string | false | undefined
  /** The API drops a second request with the same key, for this long. @default it does not */
  readonly idempotent?: Duration | undefined
  /** A repeated `upsert` or `update` does no harm. @default for the method PUT */
  readonly replaySafe?: boolean | undefined
  /**
   * What a 2xx answer says of the records, as `reject()`, `retry()`, `unknown()` and `receipt()`; those not named are delivered. Throw a
   * `RejectedError` or `RetryableError` for the whole. `reply` is the answer's JSON, its text when it is none, or `undefined`.
   *
   * @default all are delivered
   */
  readonly errors?: ((reply: unknown, given: T) => Iterable<Outcome>) | undefined
  /** Lets requests go to loopback, link-local and private addresses, and through a proxy there. @default false */
  readonly allowPrivate?: boolean | undefined
}

/**
 * Any HTTP API: a request for each batch, or with `each` for each record. Batch size, rate and concurrency are set by `.with()`.
 *
 * A status outside 2xx, timeouts and `Retry-After` are judged as everywhere: 4xx refuses and is tried by halves, 429 waits, after 5xx or
 * no answer it is not known whether the request was applied. Then it is sent again where `idempotent` or `replaySafe` says that
 * it may be; otherwise the rows are held, or sent again with `.with({ onUnknown: 'resend' })`. A web page is no answer, whatever its status.
 *
 * Redirects are not followed. Addresses that are not public are refused: the host is looked up before, and the address of the
 * connection itself is looked at before anything is sent over it.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * const crm = http<Contact>({
 *   url: 'https://api.example/contacts/batch',
 *   auth: { bearer: secret('CRM_TOKEN') },
 *   body: (contacts) => ({ contacts }),
 *   errors: (reply, contacts) => (reply as Reply).errors.map((e) => reject(contacts[e.index]!, e.message)),
 * })
 * ```
 */
export function http<R extends object = AnyRow>(
  options: HttpOptions<R[]> & { readonly each?: false | undefined },
): Destination<R, 'insert' | 'update' | 'upsert'>
export function http<R extends object = AnyRow>(
  options: HttpOptions<R> & { readonly each: true },
): Destination<R, 'insert' | 'update' | 'upsert'>
export function http<R extends object>(
  options: HttpOptions<R[] & R> & { readonly each?: boolean | undefined },
): Destination<R, 'insert' | 'update' | 'upsert'> {
  const { name = 'http', url, auth, method = 'POST', headers = {}, body = (given) => given, each = false } = options
  const { idempotencyHeader = 'idempotency-key', idempotent, errors, allowPrivate = false } = options
  if (!['POST', 'PUT', 'PATCH', 'DELETE'].includes(method)) {
    throw new ConfigError(`${name}: method is ${JSON.stringify(method)}; it must be POST, PUT, PATCH or DELETE`)
  }

  async function send(batch: R[], context: Context<HttpConfig>): Promise<Iterable<Outcome> | undefined> {
    const { config } = context
    const given = (each ? batch[0] : batch) as R[] & R
    const address = typeof url === 'function' ? url(given) : config.url
    if (!address) throw new ConfigError(`${name}: url is missing: pass it, or set ${name.toUpperCase()}__URL`)
    if (!allowPrivate) await refusePrivate(address, name)
    const bytes = bytesOf(body(given))
    const sent: Record<string, string> = { 'content-type': 'application/json' }
    if (idempotencyHeader) sent[idempotencyHeader.toLowerCase()] = context.idempotencyKey
    for (const [header, value] of Object.entries(typeof headers === 'function' ? headers(given) : headers)) {
      sent[header.toLowerCase()] = value
    }
    const response = await context.http(address, {
      method,
      headers: { ...sent, ...signed(config.auth, bytes) },
      body: bytes,
      ...(allowPrivate ? {} : { accepts: isPublic }),
    })
    const reply = await readReply(response, `${name}: ${response.status} from ${method}`)
    return errors?.(reply, given)
  }

  return destination({
    name,
    ...(each ? { maxBatchSize: 1 } : {}),
    idempotent,
    replaySafe: options.replaySafe ?? method === 'PUT',
    config,
    target: (known: HttpConfig) => ({ method, url: typeof url === 'function' ? 'by record' : placeOf(known.url) }),
  })({ insert: send, update: send, upsert: send })({
    ...(typeof url === 'function' ? {} : { url }),
    auth,
  } as Injected<HttpConfig>) as Destination<R, 'insert' | 'update' | 'upsert'>
}

const config = z.object({
  url: z
    .url({ protocol: /^https?$/, error: 'must be a whole address, such as https://api.example/contacts' })
    .optional(),
  auth: z
    .object({
      bearer: z.string().min(1).optional(),
      basic: z.object({ username: z.string(), password: z.string() }).optional(),
      header: z.object({ name: z.string().min(1), value: z.string().min(1) }).optional(),
      hmac: z.object({ secret: z.string().min(1) }).optional(),
    })
    .refine((auth) => Object.values(auth).filter(Boolean).length === 1, 'must be one of bearer, basic, header and hmac')
    .optional(),
})

/** Where the state may know it: what follows the host can be a credential. */
function placeOf(url = ''): string {
  const { origin, pathname } = URL.canParse(url) ? new URL(url) : { origin: '', pathname: '' }
  return `${origin} ${createHash('sha256').update(pathname).digest('hex').slice(0, 16)}`
}

/** Data that UTF-8 cannot hold refuses the batch, of which the engine then finds the record. */
function bytesOf(body: unknown): Uint8Array {
  if (body instanceof Uint8Array) return body
  try {
    return Buffer.from(typeof body === 'string' ? body : jsonOf(body))
  } catch (error) {
    throw error instanceof Unfit ? new RejectedError(`the record ${error.message}`) : error
  }
}

function signed(auth: HttpConfig['auth'], body: Uint8Array): Record<string, string> {
  if (auth?.bearer) return { authorization: `Bearer ${auth.bearer}` }
  if (auth?.basic) {
    const { username, password } = auth.basic
    return { authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` }
  }
  if (auth?.header) return { [auth.header.name.toLowerCase()]: auth.header.value }
  if (!auth?.hmac) return {}
  const timestamp = String(Math.floor(Date.now() / 1000))
  const signature = createHmac('sha256', auth.hmac.secret).update(`${timestamp}.`).update(body).digest('hex')
  return { 'x-timestamp': timestamp, 'x-signature': `sha256=${signature}` }
}

async function readReply(response: Response, what: string): Promise<unknown> {
  const text = await response.text()
  if (text.trim() === '') return undefined
  try {
    return JSON.parse(text)
  } catch {
    if (!text.trimStart().startsWith('<')) return text
    const { origin, pathname } = new URL(response.url)
    throw new HttpError(
      `${what} ${origin}: the answer is a web page, such as a sign-in form: check the address and the credentials`,
      { status: response.status, method: what, url: origin + pathname },
    )
  }
}

// ---- addresses ---------------------------------------------------------------------------------------------------------

/** What is not globally reachable, or may lead there: https://www.iana.org/assignments/iana-ipv4-special-registry and …ipv6-… */
const closed = new BlockList()
for (const subnet of [
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24'],
  ...['192.0.2.0/24', '192.168.0.0/16', '198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/3'],
  // the third line: addresses that hold one of version 4
  ...['::/96', 'fc00::/7', 'fe80::/10', 'fec0::/10', 'ff00::/8', '100::/64', '2001:db8::/32', '3fff::/20'],
  ...['64:ff9b::/96', '64:ff9b:1::/48', '2001::/32', '2002::/16'],
]) {
  const [address, bits] = subnet.split('/')
  closed.addSubnet(address!, Number(bits), isIPv6(address!) ? 'ipv6' : 'ipv4')
}

/** Addresses of version 4 in those of version 6 (`::ffff:10.0.0.1`) are looked at as what they are. */
function isPublic(address: string): boolean {
  const family = isIP(address)
  return family !== 0 && !closed.check(address, family === 6 ? 'ipv6' : 'ipv4')
}

async function refusePrivate(url: string, name: string): Promise<void> {
  if (!URL.canParse(url)) return // told by the client
  const host = new URL(url).hostname.replace(/^\[|\]$/g, '')
  // a name that is not found is told by the connection, which is made after this
  const addresses = isIP(host)
    ? [host]
    : await lookup(host, { all: true }).then(
        (all) => all.map((one) => one.address),
        () => [],
      )
  if (addresses.every(isPublic)) return
  throw new FatalError(
    `${name}: ${host} is, or has, an address that is not public, and nothing was sent: if it is meant, pass allowPrivate: true`,
  )
}
