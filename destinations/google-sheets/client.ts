import { createPrivateKey } from 'node:crypto'
import type { sheets_v4 } from '@googleapis/sheets'
import { ConfigError, FatalError, type ListContext, RejectedError, RetryableError, retryAfter } from 'spillway'
import { z } from 'zod'
import { type Area, range, type Value } from './cells.js'

/** Signing in, sending, and what a failure proves. */

export const me = 'google-sheets'

export type Request = sheets_v4.Schema$Request
export type Sheet = sheets_v4.Schema$Sheet

const keyFile = z.object({ client_email: z.string(), private_key: z.string() })

const keyFileWanted =
  "must be the content of a service account's key file (not its path), with client_email and private_key"

export const config = z
  .object({
    credentials: z.union([z.string(), keyFile], { error: keyFileWanted }).optional(),
    token: z.string().min(1, 'must be an OAuth access token').optional(),
    endpoint: z
      .url({ protocol: /^https?$/, error: 'must be the address of a server, such as http://127.0.0.1:4010' })
      .optional(),
  })
  .transform(({ credentials, ...given }, { addIssue }) => {
    if ((credentials === undefined) === (given.token === undefined)) {
      addIssue("it needs credentials (a service account's key file) or token (an OAuth access token), one of the two")
    }
    const file = credentials === undefined ? undefined : readKeyFile(credentials)
    if (typeof file === 'string') addIssue({ code: 'custom', path: ['credentials'], message: file })
    return { ...given, credentials: typeof file === 'string' ? undefined : file }
  })

export type Config = z.output<typeof config>

/** On whose behalf a request is sent. */
export type Asking = Pick<ListContext<Config>, 'config' | 'attempt' | 'signal' | 'sync'>

/** How far a call has come, when a request is sent. */
interface Stage {
  readonly writes: boolean
  /** What is known of the tab is from an earlier call, and may have changed since. */
  readonly cached: boolean
  /** How many of the request's parts are about the tab rather than about its rows; they come first. */
  readonly structure?: number
}

/** The requests that are made to a spreadsheet. Reads change nothing, so that a failure of one proves that nothing was applied. */
export interface Spreadsheet {
  sheets(context: Asking): Promise<readonly Sheet[]>
  /** The cells of areas of a tab, without the blank ones at the end of each row and of the whole. */
  values(context: Asking, tab: Grid, areas: readonly Area[], cached: boolean): Promise<readonly Value[][][]>
  /** All of the requests, or none. */
  change(context: Asking, requests: Request[], at: Omit<Stage, 'writes'>): Promise<void>
  /** Cells as if somebody typed them. */
  type(context: Asking, title: string, cells: readonly Typed[], cached: boolean): Promise<void>
}

interface Grid {
  readonly title: string
  readonly columns: number
}

interface Typed extends Area {
  readonly right: number
  readonly values: Value[][]
}

export function spreadsheet(spreadsheetId: string): Spreadsheet {
  return {
    async sheets(context) {
      const fields =
        'spreadsheetId,sheets(properties(sheetId,title,sheetType,gridProperties(rowCount,columnCount)),developerMetadata(metadataId,metadataKey,metadataValue))'
      const at = { writes: false, cached: false }
      const { sheets = [] } = await ask(context, 'spreadsheets.get', at, (api, options) =>
        api.spreadsheets.get({ spreadsheetId, fields }, options),
      )
      return sheets
    },
    async values(context, { title, columns }, areas, cached) {
      const ranges = areas.map((area) => range(title, { right: columns - 1, ...area }))
      const at = { writes: false, cached }
      const { valueRanges = [] } = await ask(context, 'values.batchGet', at, (api, options) =>
        api.spreadsheets.values.batchGet({ spreadsheetId, ranges, valueRenderOption: 'UNFORMATTED_VALUE' }, options),
      )
      return valueRanges.map(({ values }) => values ?? [])
    },
    async change(context, requests, at) {
      const method = 'spreadsheets.batchUpdate'
      const { replies = [] } = await ask(context, method, { ...at, writes: true }, (api, options) =>
        api.spreadsheets.batchUpdate({ spreadsheetId, requestBody: { requests } }, options),
      )
      if (replies.length !== requests.length) throw unconfirmed(method)
    },
    async type(context, title, cells, cached) {
      const method = 'values.batchUpdate'
      const data = cells.map(({ values, ...area }) => ({ range: range(title, area), values }))
      const requestBody = { valueInputOption: 'USER_ENTERED', data }
      const { responses = [] } = await ask(context, method, { writes: true, cached }, (api, options) =>
        api.spreadsheets.values.batchUpdate({ spreadsheetId, requestBody }, options),
      )
      const cellsIn = (text?: string | null) => text?.slice(text.lastIndexOf('!') + 1).replace(/^(.+):\1$/, '$1')
      const written = responses.map(({ updatedRange }) => cellsIn(updatedRange))
      if (written.join() !== data.map(({ range }) => cellsIn(range)).join()) throw unconfirmed(method)
    },
  }

  /** Sends a request and checks that it was Google who answered. */
  async function ask<T extends { spreadsheetId?: string | null }>(
    context: Asking,
    method: string,
    at: Stage,
    send: (
      api: sheets_v4.Sheets,
      options: { signal: AbortSignal; timeout: number; retry: false },
    ) => Promise<{ data: T }>,
  ): Promise<T> {
    const api = await connect(context.config)
    let data: T
    try {
      data = (await send(api, { signal: context.signal, timeout: requestTimeout, retry: false })).data
    } catch (error) {
      throw failure(error, context, method, at)
    }
    if (data?.spreadsheetId === spreadsheetId) return data
    if (at.writes) throw unconfirmed(method)
    throw new RetryableError(
      `${me}: ${method} was answered, but not by Google: a proxy or a sign-in page may stand in between; open ${context.config.endpoint ?? 'https://sheets.googleapis.com'} in a browser`,
    )
  }

  /** What a failure proves depends on whether the request writes. */
  function failure(
    error: unknown,
    { config, attempt }: Asking,
    method: string,
    { writes, cached, structure = 0 }: Stage,
  ): Error {
    const { credentials } = config
    const { status, code, signingIn, reasons, after, detail } = factsOf(error)
    const about = (pattern: RegExp) => reasons.some((reason) => pattern.test(reason))
    const says = `${me}: ${status ?? code ?? 'no answer'} from ${signingIn ? 'the token endpoint' : method}${detail && `: ${detail}`}`
    const refused = status !== undefined && status >= 400 && status < 500 && status !== 408 && status !== 409
    if (status === 429 || (status === 403 && about(/^(user)?rate_?limit_?exceeded$/i))) {
      return new RetryableError(says, { after })
    }
    if (signingIn) {
      return refused
        ? new FatalError(`${says}; check the config field credentials`)
        : new RetryableError(says, { after })
    }
    if (status === 401 && credentials && attempt === 1) {
      clients.delete(config) // the next attempt signs in anew
      return new RetryableError(says)
    }
    const account = credentials?.client_email ?? "the token's account"
    const remedy = {
      401: `the config field ${credentials ? 'credentials is refused' : 'token is wrong or has expired'}: renew it`,
      403: about(/service_?disabled|accessNotConfigured/i)
        ? 'enable the API there and wait a few minutes'
        : about(/scope/i)
          ? `the token lacks the scope ${scope}`
          : `share the spreadsheet with ${account} as an editor`,
      404: `check the id ${spreadsheetId}, and that the spreadsheet is shared with ${account}`,
    }[status ?? 0]
    if (remedy) return new FatalError(`${says}; ${remedy}`)
    if (refused) {
      // planned from what the last call left behind: somebody may have changed the tab since
      if (cached) return new RetryableError(says)
      // an earlier attempt has been applied just now: the next one finds its note
      if (/createDeveloperMetadata/.test(detail)) return new RetryableError(says)
      if (/limit of \d+ cells/.test(detail)) return new FatalError(`${says}; archive rows, or take blank columns away`)
      const part = /^Invalid requests\[(\d+)\]/.exec(detail)?.[1]
      const blameless = !writes || (part !== undefined && Number(part) < structure)
      return blameless ? new FatalError(says) : new RejectedError(says)
    }
    if (!writes || unconnected.test(code ?? '')) return new RetryableError(says, { after })
    return Object.assign(
      new Error(`${says}; whether the rows were written is not known`),
      status === undefined ? {} : { status },
    )
  }
}

/** What came back does not say that the rows were written. They may have been. */
function unconfirmed(method: string): Error {
  return new Error(
    `${me}: ${method} was answered, but the answer does not confirm what was sent; whether the rows were written is not known`,
  )
}

// ---- config and client -------------------------------------------------------------------------------------------------

/** The key file, or what is wrong with it. */
function readKeyFile(given: string | z.output<typeof keyFile>): z.output<typeof keyFile> | string {
  const { data } = keyFile.safeParse(typeof given === 'string' ? parsed(given) : given)
  if (!data) return keyFileWanted
  // in an environment variable the key's line ends are often written as two characters
  const private_key = data.private_key.replaceAll('\\n', '\n')
  return isKey(private_key) ? { ...data, private_key } : 'private_key is not a private key in PEM form'
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // the caller says what it should have been
  }
}

function isKey(pem: string): boolean {
  try {
    return createPrivateKey(pem).type === 'private'
  } catch {
    return false // the reason may quote the key
  }
}

const scope = 'https://www.googleapis.com/auth/spreadsheets'
/** Google gives up on a request after this time: https://developers.google.com/workspace/sheets/api/limits. */
const requestTimeout = 180_000
/** The client does not take a signal along when it signs in. */
const signInTimeout = 30_000

const clients = new WeakMap<Config, Promise<sheets_v4.Sheets>>()

function connect(config: Config): Promise<sheets_v4.Sheets> {
  const client = clients.get(config) ?? makeClient(config)
  clients.set(config, client)
  return client
}

async function makeClient({ credentials, token, endpoint }: Config): Promise<sheets_v4.Sheets> {
  const google = await import('@googleapis/sheets').catch((cause: unknown) => {
    throw new ConfigError(
      `${me}: the package @googleapis/sheets cannot be loaded; install it: npm install @googleapis/sheets@14`,
      { cause },
    )
  })
  // the client would send a request for a token four times, whatever `retry` says
  const transporterOptions = { timeout: signInTimeout, retryConfig: { retry: 0, noResponseRetries: 0 } }
  const auth = credentials
    ? new google.auth.JWT({
        email: credentials.client_email,
        key: credentials.private_key,
        scopes: [scope],
        transporterOptions,
      })
    : new google.auth.OAuth2({ transporterOptions })
  if (token !== undefined) auth.setCredentials({ access_token: token })
  if (endpoint !== undefined) {
    // `rootUrl` would not move the token endpoint, whose address is a constant in the client
    auth.transporter.interceptors.request.add({
      async resolved(request) {
        request.url = new URL(endpoint.replace(/\/$/, '') + request.url.pathname + request.url.search)
        delete request.agent // the proxy of HTTPS_PROXY, meant for Google
        return request
      },
    })
  }
  return google.sheets({ version: 'v4', auth })
}

// ---- the client's errors -----------------------------------------------------------------------------------------------

/** With these no connection came about, so that nothing was sent. */
const unconnected = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)$/

interface Facts {
  readonly status: number | undefined
  readonly code: string | undefined
  /** The request was for an access token. */
  readonly signingIn: boolean
  readonly reasons: readonly string[]
  readonly after: `${number}ms` | undefined
  readonly detail: string
}

/** The few parts of the client's error that are safe to tell: the rest of it holds tokens and rows. */
function factsOf(error: unknown): Facts {
  const { response, config, code, cause } = Object(error)
  const told = response?.data?.error
  const reasons = [told?.errors, told?.details].flat().map((entry) => String(entry?.reason))
  const wait = retryAfter(response?.headers?.get?.('retry-after'))
  const text = typeof told === 'string' ? `${told} ${response.data.error_description ?? ''}` : (told?.message ?? '')
  return {
    status: response?.status,
    code: [code, cause?.code].find((code) => typeof code === 'string'),
    signingIn: String(config?.url).endsWith('/token'),
    reasons,
    after: wait === undefined ? undefined : `${wait}ms`,
    detail: String(text).replace(/\s+/g, ' ').trim().slice(0, 300),
  }
}
