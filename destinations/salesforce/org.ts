import { createSign } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  ConfigError,
  type Context,
  FatalError,
  HttpError,
  type HttpRequest,
  RejectedError,
  RetryableError,
} from 'spillway'
import { z } from 'zod'

// Signing in to an org and asking it, a part of the destination in salesforce.ts.

const local = /^http:\/\/(localhost|127\.0\.0\.1|\[::1\])([:/]|$)/
const address = z.url().refine((url) => url.startsWith('https://') || local.test(url), 'it must begin with https://')
const text = z.string().min(1).optional()

export const config = z
  .object({
    /** Where to sign in: My Domain for client credentials. @default https://login.salesforce.com */
    loginUrl: address.optional(),
    /** The org's own address, beside `accessToken`; signing in tells it otherwise. */
    instanceUrl: address.optional(),
    clientId: text,
    /** With `clientId`: the client credentials flow. */
    clientSecret: text,
    /** With `clientId` and `privateKey`: the JWT bearer flow. */
    username: text,
    /** The key that belongs to the connected app's certificate, as PEM. */
    privateKey: text,
    /** With `clientId`, and `clientSecret` where the app wants it. */
    refreshToken: text,
    /** A session that exists. When it ends, and nothing else is given to sign in with, the run stops. */
    accessToken: text,
  })
  .refine(({ accessToken, instanceUrl }) => accessToken === undefined || instanceUrl !== undefined, {
    message: 'accessToken needs instanceUrl, the address of its org',
  })
  .refine((given) => given.accessToken !== undefined || grantOf(given) !== undefined, {
    message:
      'to sign in, give clientId with clientSecret, with username and privateKey, or with refreshToken; or accessToken with instanceUrl',
  })
export type Config = z.output<typeof config>

/** What a handler's context gives to ask with. */
export type Asking = Pick<Context, 'http' | 'signal'>

/** Salesforce refused a request: nothing of it was applied. */
export class Refused extends RejectedError {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message)
  }
}

/** Codes of what may work when it is tried again. */
export const passing: ReadonlySet<string> = new Set([
  'ALL_OR_NONE_OPERATION_ROLLED_BACK',
  'QUERY_TIMEOUT',
  'SERVER_UNAVAILABLE',
  'UNABLE_TO_LOCK_ROW',
])

const requestTimeout = '2min'

interface Session {
  readonly token: string
  readonly url: string
}

/**
 * An org during one run. It is asked over `context.http`: jsforce's errors have no status and no Retry-After, its calls cannot be cut
 * off, and the engine must see how many requests write. jsforce signs in.
 */
export class Org {
  readonly #config: Config
  readonly #base: string
  readonly #share: number
  #session: Promise<Session> | undefined
  /** Requests of the last 24 hours, as the last answer told. */
  #usage: { readonly used: number; readonly limit: number } | undefined

  /** `base`: the path of the API's version; `share`: of the daily requests, at which nothing more is asked. */
  constructor(config: Config, base: string, share: number) {
    this.#config = config
    this.#base = base
    this.#share = share
    const { accessToken: token, instanceUrl: url } = config
    if (token && url) this.#session = Promise.resolve({ token, url: new URL(url).origin })
  }

  /** One request. @throws Refused, RetryableError, FatalError when nothing was applied; other errors tell by their status. */
  async call({ http, signal }: Asking, method: string, path: string, init: HttpRequest = {}): Promise<Response> {
    for (let again = false; ; again = true) {
      this.#spare()
      const session = this.#signedIn(signal)
      const { token, url } = await session
      try {
        const headers = { ...init.headers, authorization: `Bearer ${token}` }
        const response = await http(url + this.#base + path, { timeout: requestTimeout, ...init, method, headers })
        this.#note(response.headers.get('sforce-limit-info'))
        return refuseHtml(response, method, path)
      } catch (error) {
        if (!(error instanceof HttpError)) throw error
        if (error.status !== 401) throw meaning(error)
        this.#drop(session)
        if (again || grantOf(this.#config) === undefined) {
          throw new FatalError(
            `salesforce: ${said(error).code ?? 401}: ${again ? 'a session was refused right after signing in: check what the user and the connected app may do' : 'the session has ended: give a new accessToken, or what to sign in with'}`,
          )
        }
      }
    }
  }

  #signedIn(signal: AbortSignal): Promise<Session> {
    if (this.#session) return this.#session
    const session = signIn(this.#config, signal)
    session.catch(() => this.#drop(session)) // whoever awaits it is told
    this.#session = session
    return session
  }

  #drop(session: Promise<Session>): void {
    if (this.#session === session) this.#session = undefined
  }

  #note(header: string | null): void {
    const [, used, limit] = /(?:^|[ ,;])api-usage=(\d+)\/(\d+)/.exec(header ?? '') ?? []
    if (limit !== undefined) this.#usage = { used: Number(used), limit: Number(limit) }
  }

  #spare(): void {
    if (!this.#usage || this.#usage.used < this.#usage.limit * this.#share) return
    const { used, limit } = this.#usage
    throw new FatalError(
      `salesforce: ${used} of the org's ${limit} requests of 24 hours are used, and dailyShare ${this.#share} leaves the others to whoever else needs them: run again later, or raise dailyShare`,
    )
  }
}

/** What Salesforce says in an error: `[{ errorCode, message }]`. */
function said(error: HttpError): { readonly code?: string; readonly message?: string } {
  try {
    const [first] = [JSON.parse(error.body ?? '')].flat()
    return { code: first?.errorCode, message: String(first?.message ?? '').slice(0, 500) }
  } catch {
    return {} // a page of some proxy; its status speaks
  }
}

function meaning(error: HttpError): Error {
  const { status } = error
  const { code, message } = said(error)
  const what = `salesforce: ${status} ${code}: ${message}`
  // with 429 it says when to come back, which the day's limit does not
  if (code === 'REQUEST_LIMIT_EXCEEDED' && status !== 429) {
    // the same code tells of too many requests at once, which is over soon
    if (/concurrent/i.test(message ?? '')) return new RetryableError(what, { after: '30s' })
    return new FatalError(
      `${what}: the org's requests of 24 hours are used up; run again later, or have the allocation raised`,
    )
  }
  if (code === undefined || status < 400 || status >= 500 || [408, 409, 425, 429].includes(status)) return error
  return passing.has(code) ? new RetryableError(what) : new Refused(status, what)
}

/** A sign-in page with status 200 is no answer, and what was asked may have been applied. */
function refuseHtml(response: Response, method: string, path: string): Response {
  if (!response.headers.get('content-type')?.includes('html')) return response
  const message = `salesforce: ${response.status} from ${method} ${path} is a web page, such as a sign-in form; check loginUrl and instanceUrl`
  throw new HttpError(message, { status: response.status, method, url: path })
}

// ---- signing in ----------------------------------------------------------------------------------------------------

type SignIn = {
  readonly [field in
    | 'loginUrl'
    | 'instanceUrl'
    | 'clientId'
    | 'clientSecret'
    | 'username'
    | 'privateKey'
    | 'refreshToken']?: string | undefined
}
type Grant = Record<string, string> & { readonly grant_type: string }

/** What is asked of the token endpoint; `undefined` when there is nothing to sign in with. */
function grantOf(config: SignIn): (() => Grant) | undefined {
  const { clientId, clientSecret, username, privateKey, refreshToken } = config
  if (!clientId) return undefined
  if (refreshToken) return () => ({ grant_type: 'refresh_token', refresh_token: refreshToken })
  if (username && privateKey) {
    const grant_type = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
    return () => ({ grant_type, assertion: assertion(clientId, username, privateKey, loginUrlOf(config)) })
  }
  return clientSecret ? () => ({ grant_type: 'client_credentials' }) : undefined
}

function loginUrlOf({ loginUrl, instanceUrl }: SignIn): string {
  return new URL(loginUrl ?? instanceUrl ?? 'https://login.salesforce.com').origin
}

/** https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_jwt_flow.htm */
function assertion(clientId: string, username: string, privateKey: string, audience: string): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const exp = Math.floor(Date.now() / 1000) + 180
  const signed = `${part({ alg: 'RS256' })}.${part({ iss: clientId, sub: username, aud: audience, exp })}`
  try {
    // in an environment variable, line ends are often written out
    const key = privateKey.replaceAll('\\n', '\n')
    return `${signed}.${createSign('sha256').update(signed).sign(key, 'base64url')}`
  } catch {
    throw new ConfigError('salesforce: privateKey is no RSA key in PEM: give the text of the key file')
  }
}

async function signIn(config: Config, signal: AbortSignal): Promise<Session> {
  const { OAuth2 } = await import('jsforce').catch((cause: unknown) => {
    throw new ConfigError('salesforce: the package jsforce cannot be loaded; install it: npm install jsforce@3', {
      cause,
    })
  })
  const loginUrl = loginUrlOf(config)
  const { clientId, clientSecret } = config
  const oauth2 = new OAuth2({ loginUrl, clientId: clientId!, ...(clientSecret && { clientSecret }) })
  const grant = grantOf(config)!()
  const over = new AbortController()
  try {
    // jsforce itself waits for half an hour, and for ever where it is redirected
    const late = sleep(30_000, undefined, { signal: AbortSignal.any([signal, over.signal]) }).then(() => {
      throw new Error('no answer within 30 s')
    })
    late.catch(() => {}) // it has lost the race
    const told = (await Promise.race([oauth2.requestToken(grant), late])) as
      | Partial<Record<string, unknown>>
      | undefined
    const { access_token: token, instance_url: url } = told ?? {}
    if (typeof token !== 'string' || typeof url !== 'string' || !address.safeParse(url).success) {
      throw new Error('the answer is no token with the address of an org')
    }
    return { token, url: new URL(url).origin }
  } catch (error) {
    signal.throwIfAborted()
    const { name, message, code } = error as Error & { code?: string }
    // an error of OAuth has its code for a name, and a text of its own
    if (/^[a-z]+(_[a-z]+)+$/.test(name) && name !== 'temporarily_unavailable' && name !== 'server_error') {
      throw new FatalError(
        `salesforce: signing in at ${loginUrl} was refused: ${name}: ${message.slice(0, 200)}: check the credentials, and what the connected app allows`,
      )
    }
    throw new RetryableError(
      `salesforce: could not sign in at ${loginUrl}: ${code ?? (name === 'Error' ? message : name)}`,
    )
  } finally {
    over.abort()
  }
}
