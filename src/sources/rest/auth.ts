import { resolveSecret, type Secret } from '../../config.js'
import { SourceError } from '../../errors.js'
import { type Http, HttpError } from '../../http.js'
import { type Checked, httpUrl } from './options.js'

/**
 * How requests are signed; each value may be a `secret()`, looked up when a read starts. Nothing of it is sent to another
 * origin than that of `url` and `origins`.
 *
 * - `{ bearer }`: `Authorization: Bearer …`.
 * - `{ header, value }`, `{ query, value }`: an API key in a header, or in a parameter of the address.
 * - `{ basic: { username, password } }`: `Authorization: Basic …` (RFC 7617).
 * - `{ oauth2 }`: client credentials (RFC 6749 §4.4).
 */
export type RestAuth =
  | { readonly bearer: string | Secret }
  | { readonly header: string; readonly value: string | Secret }
  | { readonly query: string; readonly value: string | Secret }
  | { readonly basic: { readonly username: string | Secret; readonly password: string | Secret } }
  | { readonly oauth2: OAuth2 }

/** Client credentials, for a token that is kept until shortly before it expires, and got anew once when it is refused with 401. */
export interface OAuth2 {
  /** Where tokens are had; the only address to which the client's secret is sent. */
  readonly tokenUrl: string
  readonly clientId: string | Secret
  readonly clientSecret: string | Secret
  readonly scope?: string | undefined
  /** Further parameters of the request for a token, such as `audience`. */
  readonly parameters?: Readonly<Record<string, string>> | undefined
  /** Where the client's id and secret stand: in the header (basic), or in the form. @default 'header' */
  readonly credentials?: 'header' | 'form' | undefined
}

/** What signs one request. */
export interface Signature {
  readonly headers: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string>>
  /** Forgets the token that was refused; there is nothing to forget in other kinds. */
  readonly renew?: () => void
}

/** Signs the requests of one read, over its client. */
export type Signing = (http: Http) => () => Promise<Signature>

/** @throws ConfigError when `auth` is of no kind, or of two. */
export function signing(auth: RestAuth | undefined, { name, wrong, refuseOthers }: Checked): Signing {
  if (auth === undefined) return () => async () => ({ headers: {}, query: {} })
  const kinds = ['bearer', 'header', 'query', 'basic', 'oauth2'].filter((kind) => Object.hasOwn(auth, kind))
  if (kinds.length !== 1)
    throw wrong('auth must be one of { bearer }, { header, value }, { query, value }, { basic } and { oauth2 }')
  // the words in brackets have what is found redacted, also where it is no `secret()`
  const reveal = (value: string | Secret, option: string) => resolveSecret(value, `${name}: auth.${option}`)
  const fixed = (make: () => Partial<Signature>): Signing => {
    return () => {
      let made: Signature | undefined
      return async () => (made ??= { headers: {}, query: {}, ...make() })
    }
  }

  if ('bearer' in auth) {
    refuseOthers(auth, ['bearer'], 'auth')
    return fixed(() => ({ headers: { authorization: `Bearer ${reveal(auth.bearer, 'bearer (token)').trim()}` } }))
  }
  if ('header' in auth || 'query' in auth) {
    refuseOthers(auth, [kinds[0]!, 'value'], 'auth')
    return fixed(() => {
      const value = reveal(auth.value, 'value (key)').trim()
      return 'header' in auth ? { headers: { [auth.header.toLowerCase()]: value } } : { query: { [auth.query]: value } }
    })
  }
  if ('basic' in auth) {
    refuseOthers(auth, ['basic'], 'auth')
    refuseOthers(auth.basic, ['username', 'password'], 'auth.basic')
    return fixed(() => {
      const { username, password } = auth.basic
      const pair = [reveal(username, 'basic.username'), reveal(password, 'basic.password')]
      return { headers: { authorization: basic(pair) } }
    })
  }
  refuseOthers(auth, ['oauth2'], 'auth')
  refuseOthers(
    auth.oauth2,
    ['tokenUrl', 'clientId', 'clientSecret', 'scope', 'parameters', 'credentials'],
    'auth.oauth2',
  )
  const tokenUrl = httpUrl(auth.oauth2.tokenUrl, 'auth.oauth2.tokenUrl', wrong)
  return clientCredentials(auth.oauth2, tokenUrl.href, name, reveal)
}

const basic = (pair: readonly string[]) => `Basic ${Buffer.from(pair.join(':')).toString('base64')}`

/** Milliseconds before its end at which a token counts as expired: it is still under way then, and clocks differ. */
const margin = 30_000

interface TokenAnswer {
  readonly access_token?: unknown
  readonly expires_in?: unknown
  readonly token_type?: unknown
}

function clientCredentials(
  { clientId, clientSecret, scope, parameters, credentials = 'header' }: OAuth2,
  tokenUrl: string,
  name: string,
  reveal: (value: string | Secret, option: string) => string,
): Signing {
  // outlives a read; what is asked for does not, for it ends with the read's signal
  let token: { readonly text: string; readonly until: number } | undefined

  const ask = async (http: Http): Promise<NonNullable<typeof token>> => {
    const id = reveal(clientId, 'oauth2.clientId')
    const password = reveal(clientSecret, 'oauth2.clientSecret').trim()
    const form = new URLSearchParams({ grant_type: 'client_credentials', ...(scope && { scope }), ...parameters })
    const headers: Record<string, string> = { 'content-type': 'application/x-www-form-urlencoded' }
    if (credentials === 'form') {
      form.set('client_id', id)
      form.set('client_secret', password)
    } else {
      // encoded first (RFC 6749 §2.3.1)
      headers['authorization'] = basic([id, password].map(encodeURIComponent))
    }
    const begun = performance.now()
    const answer = await http
      .post<TokenAnswer | undefined>(tokenUrl, { headers, body: form.toString(), read: true })
      .catch((error) => {
        // not as what it is: a 404 here says nothing of the list that the token is for
        throw error instanceof HttpError ? new SourceError(`${error.message} (asking for a token, auth.oauth2)`) : error
      })
    const { access_token: text, expires_in: seconds, token_type: type = 'Bearer' } = answer ?? {}
    const { origin, pathname } = new URL(tokenUrl)
    if (typeof text !== 'string' || text === '' || String(type).toLowerCase() !== 'bearer') {
      throw new SourceError(
        `${name}: the answer of POST ${origin}${pathname} holds no bearer token (access_token, token_type): check auth.oauth2`,
      )
    }
    resolveSecret(text, `${name}: token`) // has it redacted
    const lifetime = Number(seconds) * 1000
    // a token of a minute is used for half of it
    const until = lifetime > 0 ? begun + Math.max(lifetime - margin, lifetime / 2) : Number.POSITIVE_INFINITY
    return { text, until }
  }

  return (http) => {
    let asking: Promise<NonNullable<typeof token>> | undefined
    return async () => {
      let used = token
      if (!used || performance.now() >= used.until) {
        asking ??= ask(http).finally(() => {
          asking = undefined
        })
        used = await asking
        token = used
      }
      return {
        headers: { authorization: `Bearer ${used.text}` },
        query: {},
        renew: () => {
          if (token === used) token = undefined
        },
      }
    }
  }
}
