import type { WebAPICallResult, WebClient } from '@slack/web-api'
import { ConfigError, type Context, FatalError, HttpError, RejectedError, RetryableError } from 'spillway'
import { z } from 'zod'

const me = 'slack'

/** How to sign in. */
export interface SlackConfig {
  /** A bot's token, `xoxb-…`, with the scope `chat:write`; for what else it needs see {@link slack}. */
  readonly token: string
  /** Where Slack's API is found, for the sandbox or a proxy. @default Slack's own address */
  readonly endpoint?: string | undefined
}

export const config = z.object({
  token: z.string().trim().min(1, 'must be a token, such as xoxb-…'),
  endpoint: z.url('must be the address of a server, such as http://127.0.0.1:4010').optional(),
})

export type Config = z.output<typeof config>
/** What a request needs of a handler's context. */
export type Asking = Pick<Context<Config>, 'config' | 'http' | 'log'>
/** Asks Slack, over `context.http`. `undefined`: it refused with `expected`. */
export async function ask<T extends WebAPICallResult>(
  context: Asking,
  call: (api: WebClient) => Promise<T>,
  expected?: string,
  Refused: new (message: string) => Error = RejectedError,
): Promise<T | undefined> {
  const api = await connect(context)
  try {
    return await call(api)
  } catch (error) {
    const { original, data } = error as { original?: unknown; data?: Refusal }
    if (original !== undefined) throw original // what `http` threw
    if (typeof data?.error === 'string' && data.error === expected) return undefined
    throw data ? failure(data, Refused) : error
  }
}

/** Whoever only reads is refused for a reason that somebody has to see to. */
export function read<T extends WebAPICallResult>(
  context: Asking,
  call: (api: WebClient) => Promise<T>,
): Promise<T | undefined> {
  return ask(context, call, 'thread_not_found', FatalError)
}

type Page = { readonly limit: number; readonly cursor?: string }

export async function* pagesOf<T extends WebAPICallResult>(
  context: Asking,
  call: (api: WebClient, page: Page) => Promise<T>,
): AsyncGenerator<T> {
  let cursor: string | undefined
  do {
    const page: T | undefined = await read(context, (api) => call(api, { limit: 999, ...(cursor && { cursor }) }))
    if (!page) return
    yield page
    cursor = page.response_metadata?.next_cursor
  } while (cursor)
}

async function connect({ config: { token, endpoint }, http }: Asking): Promise<WebClient> {
  const { WebClient, LogLevel } = await import('@slack/web-api').catch((cause: unknown) => {
    throw new ConfigError(
      `${me}: the package @slack/web-api cannot be loaded; install it: npm install @slack/web-api@8`,
      { cause },
    )
  })
  const silent = () => {} // it would log rows
  return new WebClient(token, {
    ...(endpoint && { slackApiUrl: `${endpoint.replace(/\/$/, '')}/api/` }),
    allowAbsoluteUrls: false,
    retryConfig: { retries: 0 },
    rejectRateLimitedCalls: true,
    logger: {
      ...{ debug: silent, info: silent, warn: silent, error: silent, setLevel: silent, setName: silent },
      getLevel: () => LogLevel.ERROR,
    },
    async fetch(url, init) {
      const { method, headers, body } = init as { method: string; headers: Record<string, string>; body: string }
      const reply = await http(String(url), { method, headers, body, read: /\/conversations\.\w+$/.test(String(url)) })
      if (!reply.headers.get('content-type')?.includes('json')) throw webPage(reply)
      return reply
    },
  })
}

export function webPage({ status, url }: Response): HttpError {
  const says = `${me}: ${status}, but not from Slack: a web page such as a sign-in form; check the network and endpoint`
  return new HttpError(says, { status, method: 'POST', url: new URL(url).origin }) // a webhook's path is a secret
}

type Refusal = {
  readonly error?: unknown
  readonly needed?: unknown
  readonly response_metadata?: { readonly messages?: readonly string[] }
}

/** https://docs.slack.dev/reference/methods/chat.postMessage#errors */
const needsSomebody =
  /^(invalid_auth|not_authed|token_revoked|token_expired|account_inactive|missing_scope|no_permission|org_login_required|ekm_access_denied|team_access_not_granted|not_allowed_token_type|two_factor_setup_required|access_denied|accesslimited)$/
const passes = /^(rate_?limited|service_unavailable|request_timeout|message_limit_exceeded)$/
/** "It's possible some aspect of the operation succeeded before the error was raised." */
const ambiguous = /^(fatal_error|internal_error)$/

const remedies: { readonly [code: string]: string } = {
  channel_not_found: 'check the channel, and that the app may see it',
  not_in_channel: 'invite the app to the channel: /invite @app',
  is_archived: 'the channel is archived: give another',
}

/** What a refusal proves. */
function failure({ error, needed, response_metadata }: Refusal, Refused: new (message: string) => Error): Error {
  const code = typeof error === 'string' ? error : ''
  if (!/^[a-z_]{2,60}$/.test(code))
    return new Error(`${me}: Slack's answer is neither a success nor an error of its own`)
  const [detail] = response_metadata?.messages ?? []
  const says = [me, code, detail].filter(Boolean).join(': ')
  if (ambiguous.test(code)) return new Error(`${says}: it may have been applied`)
  if (passes.test(code)) return new RetryableError(says)
  if (needsSomebody.test(code)) {
    return new FatalError(`${says}; ${needed ? `give the token the scope ${needed}` : 'check the token'}`)
  }
  return new Refused([says, remedies[code]].filter(Boolean).join('; '))
}
