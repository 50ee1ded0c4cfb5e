import { createHmac, hash, timingSafeEqual } from 'node:crypto'
import { resolveSecret, type Secret } from '../../config.js'
import { type Duration, milliseconds } from '../../duration.js'
import { ConfigError } from '../../errors.js'
import { type AnyRow, describe } from '../../values.js'

/** One key, or several: while keys are changed, what was signed by any of them is genuine. */
export type Keys = string | Secret | readonly (string | Secret)[]

/** A request as a verifier sees it. */
export interface SignedRequest {
  readonly method: string
  readonly url: string
  /** The value of a header, whatever the case of its name. */
  header(name: string): string | undefined
  /** Exactly as it came. */
  readonly body: Buffer
}

interface Fresh {
  readonly secret: Keys
  /** How far the time that was signed may be from now: what somebody has recorded is worth nothing later. @default '5min' */
  readonly tolerance?: Duration | undefined
}

/**
 * How a request proves that it comes from whom it says:
 *
 * - `standard`: Standard Webhooks, also under the header names of Svix (Clerk, Resend, OpenAI, …). The secret begins with `whsec_`.
 * - `stripe`, `slack` (the signing secret; Slack's test of the address is answered), `github`, `typeform`.
 * - `hubspot`: signature v3, by the app's client secret. It covers the address: say `url` where a proxy changes that.
 * - `hmac`: of the body, or with `timestamp`, the name of a header, of the time in it, a dot and the body.
 * - a function that answers whether the request is genuine.
 */
export type Verify =
  | (Fresh & { readonly scheme: 'standard' | 'stripe' | 'slack' })
  | { readonly scheme: 'github' | 'typeform'; readonly secret: Keys }
  | (Fresh & {
      readonly scheme: 'hubspot'
      /** The address that HubSpot was told, with its query. @default the one of the request */
      readonly url?: string | undefined
    })
  | (Fresh & {
      readonly scheme: 'hmac'
      /** The header with the signature. */
      readonly header: string
      /** @default 'sha256' */
      readonly algorithm?: 'sha1' | 'sha256' | 'sha512' | undefined
      /** @default 'hex' */
      readonly encoding?: 'hex' | 'base64' | undefined
      /** What stands before the signature, such as `sha256=`. @default nothing */
      readonly prefix?: string | undefined
      /** The header with the time, in seconds since 1970, that is signed too. @default the body alone is signed */
      readonly timestamp?: string | undefined
    })
  | ((request: SignedRequest) => boolean | Promise<boolean>)

/** What is known of a vendor's events. */
export interface Scheme {
  verify(request: SignedRequest): boolean | Promise<boolean>
  /** By which a repeat of the event is known again. */
  id(event: AnyRow, header: SignedRequest['header']): string | undefined
  type(event: AnyRow, header: SignedRequest['header']): string | undefined
  /** The text to answer an event with that is only a test of the address, and nothing to keep. */
  challenge?(event: AnyRow): string | undefined
}

type Digest = (algorithm: string, encoding: 'hex' | 'base64', ...parts: readonly (string | Buffer)[]) => string[]

/** The scheme, its keys looked up. @throws ConfigError when a key is missing, or the options name no scheme. */
export function schemeOf(verify: Verify | undefined, where: string, folder: string): Scheme {
  const from = (name: string) => (event: AnyRow) => text(event[name])
  const plain: Omit<Scheme, 'verify'> = {
    id: (_, header) => header('webhook-id') ?? header('idempotency-key'),
    type: from('type'),
  }
  if (verify === undefined) return { ...plain, verify: () => true }
  if (typeof verify === 'function') return { ...plain, verify }
  const { scheme, secret } = verify
  const keys = [secret ?? []].flat().map((one) => keyOf(one, scheme, where, folder))
  if (keys.length === 0) throw new ConfigError(`${where}: verify.secret is missing; give secret('NAME'), or several`)
  const digest: Digest = (algorithm, encoding, ...parts) =>
    keys.map((key) => {
      const hmac = createHmac(algorithm, key)
      for (const part of parts) hmac.update(part)
      return hmac.digest(encoding)
    })
  const tolerance = milliseconds(('tolerance' in verify && verify.tolerance) || '5min', `${where}: verify.tolerance`)
  const fresh = (time: string | undefined, unit = 1000): boolean =>
    time !== undefined && /^\d{1,15}$/.test(time) && Math.abs(Date.now() - Number(time) * unit) <= tolerance

  switch (scheme) {
    case 'standard': {
      const of = (header: SignedRequest['header'], name: string) => header(`webhook-${name}`) ?? header(`svix-${name}`)
      return {
        ...plain,
        // https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
        verify({ header, body }) {
          const [id, time] = [of(header, 'id'), of(header, 'timestamp')]
          if (!id || !fresh(time)) return false
          const given = of(header, 'signature')?.split(' ') ?? []
          return matches(digest('sha256', 'base64', `${id}.${time}.`, body), given, 'v1,')
        },
        id: (_, header) => of(header, 'id'),
      }
    }
    case 'stripe':
      return {
        ...plain,
        // https://docs.stripe.com/webhooks#verify-manually
        verify({ header, body }) {
          const parts = header('stripe-signature')?.split(',') ?? []
          const time = parts.find((part) => part.startsWith('t='))?.slice(2)
          return fresh(time) && matches(digest('sha256', 'hex', `${time}.`, body), parts, 'v1=')
        },
        id: from('id'),
      }
    case 'github':
      return {
        // https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
        verify: ({ header, body }) =>
          matches(digest('sha256', 'hex', body), [header('x-hub-signature-256')], 'sha256='),
        id: (_, header) => header('x-github-delivery'),
        type(event, header) {
          const action = text(event['action'])
          const name = header('x-github-event')
          return name !== undefined && action !== undefined ? `${name}.${action}` : name
        },
      }
    case 'slack':
      return {
        // https://docs.slack.dev/authentication/verifying-requests-from-slack
        verify({ header, body }) {
          const time = header('x-slack-request-timestamp')
          return (
            fresh(time) && matches(digest('sha256', 'hex', `v0:${time}:`, body), [header('x-slack-signature')], 'v0=')
          )
        },
        id: (event) => text(event['event_id']) ?? text(event['trigger_id']),
        type: ({ type, command, event }) =>
          text((event as AnyRow | undefined)?.['type']) ?? text(type) ?? text(command),
        challenge: ({ type, challenge }) => (type === 'url_verification' ? text(challenge) : undefined),
      }
    case 'hubspot':
      return {
        // https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation
        verify({ method, url, header, body }) {
          const time = header('x-hubspot-request-timestamp')
          const address = unescaped(verify.url ?? url)
          return (
            fresh(time, 1) &&
            matches(
              digest('sha256', 'base64', `${method}${address}`, body, time!),
              [header('x-hubspot-signature-v3')],
              '',
            )
          )
        },
        // an eventId alone is not unique, as they say; each attempt to deliver has its own number
        id: ({ attemptNumber: _, ...event }) => hash('sha256', JSON.stringify(event, digits), 'base64url'),
        type: from('subscriptionType'),
      }
    case 'typeform':
      return {
        // https://www.typeform.com/developers/webhooks/secure-your-webhooks/
        verify: ({ header, body }) =>
          matches(digest('sha256', 'base64', body), [header('typeform-signature')], 'sha256='),
        id: from('event_id'),
        type: from('event_type'),
      }
    case 'hmac': {
      const { header: name, algorithm = 'sha256', encoding = 'hex', prefix = '', timestamp } = verify
      if (!name) throw new ConfigError(`${where}: verify.header is missing; name the header that holds the signature`)
      return {
        ...plain,
        verify({ header, body }) {
          const time = timestamp === undefined ? undefined : header(timestamp)
          if (timestamp !== undefined && !fresh(time)) return false
          const signed = timestamp === undefined ? [body] : [`${time}.`, body]
          return matches(digest(algorithm, encoding, ...signed), [header(name)], prefix)
        },
      }
    }
    default:
      throw new ConfigError(
        `${where}: ${JSON.stringify(scheme)} is not a scheme; the schemes are standard, stripe, github, slack, hubspot, typeform and hmac`,
      )
  }
}

/** Whether one of the signatures given, each behind a prefix, is one of those expected. It takes as long whichever byte is wrong. */
function matches(expected: readonly string[], given: readonly (string | undefined)[], prefix: string): boolean {
  let found = false
  for (const one of given) {
    if (!one?.startsWith(prefix)) continue
    const signature = Buffer.from(one.slice(prefix.length))
    for (const right of expected.map((text) => Buffer.from(text))) {
      if (signature.length === right.length && timingSafeEqual(signature, right)) found = true
    }
  }
  return found
}

function keyOf(secret: string | Secret, scheme: string, where: string, folder: string): Buffer {
  const value = resolveSecret(secret, `${where}: verify.secret`, { folder })
  const key = scheme === 'standard' ? Buffer.from(value.replace(/^whsec_/, ''), 'base64') : Buffer.from(value)
  // anybody can sign with an empty one
  if (key.length === 0) {
    throw new ConfigError(
      `${where}: verify.secret is ${value === '' ? 'empty' : `${describe(value)} that is no base64, as a secret of this scheme is`}`,
    )
  }
  return key
}

/** HubSpot signs the address with these characters as they are, whatever the request escapes. */
function unescaped(address: string): string {
  return address.replace(/%(3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)/gi, (escaped) => decodeURIComponent(escaped))
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : typeof value === 'number' ? String(value) : undefined
}

function digits(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value
}
