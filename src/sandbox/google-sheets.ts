import { generateKeyPairSync, randomBytes, verify } from 'node:crypto'
import { type Content, extent, letters, type NumberFormat, put, read, shown, widest } from './grid.js'
import { html, cell as htmlCell } from './page.js'
import { Recent } from './recent.js'
import type { ApiRequest, Reply, Tenant } from './server.js'
import {
  ApiError,
  addTab,
  type Body,
  type Book,
  batchUpdate,
  copy,
  formatOf,
  inputOption,
  list,
  spreadsheet,
  type Tab,
  values,
  valuesAppend,
  valuesBatchUpdate,
  valuesClear,
  valuesUpdate,
} from './spreadsheet.js'

/** A cell as a test reads it: `null` is blank; a formula stands out, because one was executed. */
export type Cell = string | number | boolean | null | { readonly formula: string }

/** What {@link GoogleSheets.create} makes. */
export interface SpreadsheetOptions {
  /** @default a random one */
  readonly id?: string
  /** @default 'Untitled spreadsheet' */
  readonly title?: string
  /** The tabs by title, with their rows from the top. @default one blank tab, `Sheet1` */
  readonly tabs?: Readonly<Record<string, readonly (readonly (string | number | boolean | null)[])[]>>
  /** Who may open it, by the e-mail address of their service account. @default everyone */
  readonly sharedWith?: readonly string[]
}

/** The part of a service account's key file that clients need. */
export interface ServiceAccount {
  readonly type: 'service_account'
  readonly client_email: string
  readonly private_key: string
}

/** Requests per minute and user. Google grants 60 reads and 60 writes: https://developers.google.com/workspace/sheets/api/limits. */
export interface GoogleSheetsQuota {
  readonly reads?: number | undefined
  readonly writes?: number | undefined
}

/** The Google Sheets of a sandbox. A spreadsheet exists once it is created, here or through the API. */
export interface GoogleSheets {
  /** An OAuth access token that opens every spreadsheet and never expires. */
  readonly token: string
  /** A key file for a service account of that address, which the token endpoint then knows. */
  serviceAccount(email?: string): ServiceAccount
  create(options?: SpreadsheetOptions): { readonly id: string }
  /** A tab's rows from the top, without the blank cells at the end of a row and the blank rows at the end. */
  rows(spreadsheet: string, tab: string): Cell[][]
  /** The titles of a spreadsheet's tabs, in their order. */
  tabs(spreadsheet: string): string[]
}

const maxBytes = 10 * 1024 * 1024
const tokenLife = 3_599
const audience = 'https://oauth2.googleapis.com/token'

/** The tenant, and the controls that a test or a demo has over it. */
export function googleSheets(quota: GoogleSheetsQuota): { tenant: Tenant; controls: GoogleSheets } {
  const books = new Map<string, Book>()
  const accounts = new Map<string, { file: ServiceAccount; publicKey: string }>()
  const tokens = new Map<string, { email: string; until: number }>()
  const spent = new Map<string, Recent>()
  const ownToken = 'sandbox-token'

  // ---- who is asking ---------------------------------------------------------------------------------------------

  function tokenEndpoint({ body }: ApiRequest): Reply {
    const refuse = (error: string, error_description: string) => ({ status: 400, body: { error, error_description } })
    const { grant_type, assertion } = (body ?? {}) as Record<string, unknown>
    if (grant_type !== 'urn:ietf:params:oauth:grant-type:jwt-bearer') {
      return refuse('unsupported_grant_type', `Invalid grant_type: ${grant_type}`)
    }
    const [header = '', payload = '', signature = ''] = String(assertion).split('.')
    const [{ alg }, claims] = [decode(header), decode(payload)]
    if (alg !== 'RS256' || signature === '') {
      return refuse('invalid_grant', 'Invalid JWT: a signed RS256 assertion is needed')
    }
    const account = accounts.get(String(claims['iss']))
    if (!account) return refuse('invalid_grant', 'Invalid grant: account not found')
    if (
      !verify('sha256', Buffer.from(`${header}.${payload}`), account.publicKey, Buffer.from(signature, 'base64url'))
    ) {
      return refuse('invalid_grant', 'Invalid JWT Signature.')
    }
    if (claims['aud'] !== audience) return refuse('invalid_grant', 'Invalid JWT: Failed audience check.')
    const [issued, expires, now] = [Number(claims['iat']), Number(claims['exp']), Date.now() / 1000]
    if (!(expires > now && issued < now + 300 && expires - issued <= 3600)) {
      return refuse(
        'invalid_grant',
        'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.',
      )
    }
    const scopes = String(claims['scope'] ?? '').split(' ')
    if (
      !scopes.some((scope) => /^https:\/\/www\.googleapis\.com\/auth\/(spreadsheets|drive|drive\.file)$/.test(scope))
    ) {
      return refuse('invalid_scope', 'Invalid OAuth scope or ID token audience provided.')
    }
    const token = `ya29.${randomBytes(24).toString('base64url')}`
    tokens.set(token, { email: account.file.client_email, until: Date.now() + tokenLife * 1000 })
    return { status: 200, body: { access_token: token, expires_in: tokenLife, token_type: 'Bearer' } }
  }

  /** The caller's address; `undefined` for the sandbox's own token, which may do everything. */
  function caller({ headers }: ApiRequest): string | undefined {
    const [, token] = /^Bearer (.+)$/.exec(headers.authorization ?? '') ?? []
    if (token === undefined) {
      throw new ApiError(
        403,
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.",
      )
    }
    if (token === ownToken) return undefined
    const known = tokens.get(token)
    if (known && known.until > Date.now()) return known.email
    throw new ApiError(
      401,
      'Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.',
    )
  }

  function spend(user: string, kind: 'Read' | 'Write'): void {
    const limit = kind === 'Read' ? quota.reads : quota.writes
    const recent = spent.get(user + kind) ?? new Recent(60_000)
    spent.set(user + kind, recent)
    if (recent.count >= (limit ?? Number.POSITIVE_INFINITY)) {
      throw new ApiError(
        429,
        `Quota exceeded for quota metric '${kind} requests' and limit '${kind} requests per minute per user' of service 'sheets.googleapis.com' for consumer 'project_number:1'.`,
        'RATE_LIMIT_EXCEEDED',
      )
    }
    recent.add()
  }

  // ---- spreadsheets ----------------------------------------------------------------------------------------------

  function create({ id, title, tabs, sharedWith }: SpreadsheetOptions): string {
    const book = blank(title, id, sharedWith)
    for (const [title, rows] of Object.entries(tabs ?? { Sheet1: [] })) {
      const columnCount = Math.max(26, widest(rows))
      const tab = addTab(book, { title, gridProperties: { rowCount: Math.max(1000, rows.length), columnCount } })
      const cells = rows.map((row) => row.map((value) => (value === null || value === '' ? undefined : { value })))
      put(tab, 0, 0, cells)
    }
    books.set(book.id, book)
    return book.id
  }

  function open(id: string, email: string | undefined): Book {
    const book = books.get(id)
    if (!book) throw new ApiError(404, 'Requested entity was not found.')
    if (email !== undefined && book.sharedWith && !book.sharedWith.includes(email)) {
      throw new ApiError(403, 'The caller does not have permission')
    }
    return book
  }

  /** Runs `change` on a copy that becomes the spreadsheet only when nothing was refused: all of a request, or none. */
  function atomically<T>(book: Book, change: (draft: Book) => T): T {
    const draft = copy(book)
    const result = change(draft)
    books.set(book.id, draft)
    return result
  }

  // ---- requests --------------------------------------------------------------------------------------------------

  function api(request: ApiRequest): unknown {
    const email = caller(request)
    const { method, path, query } = request
    if (request.bytes > maxBytes) throw new ApiError(400, `Request payload size exceeds the limit: ${maxBytes} bytes.`)
    spend(email ?? ownToken, method === 'GET' ? 'Read' : 'Write')
    const body: Body = request.body ?? {}
    if (typeof body !== 'object') throw new ApiError(400, 'Invalid JSON payload received. Unexpected token.')

    const [, id, verb, rest] = /^\/v4\/spreadsheets(?:\/([^/:]+)(?::(\w+))?(?:\/(.+))?)?$/.exec(path) ?? []
    if (id === undefined) {
      if (path !== '/v4/spreadsheets' || method !== 'POST') throw unimplemented(method, path)
      return createFrom(body)
    }
    const book = open(decodeURIComponent(id), email)
    switch (`${method} ${verb ?? ''}${(rest ?? '').replace(/^values\/.+?(:append|:clear)?$/, 'values/*$1')}`) {
      case 'GET ':
        return spreadsheet(book, query)
      case 'POST batchUpdate':
        return atomically(book, (draft) => batchUpdate(draft, body))
      case 'GET values:batchGet': {
        const valueRanges = query.getAll('ranges').map((range) => values(book, range, query))
        return { spreadsheetId: book.id, valueRanges }
      }
      case 'POST values:batchUpdate':
        return atomically(book, (draft) => valuesBatchUpdate(draft, body))
      case 'POST values:batchClear':
        return atomically(book, (draft) => ({
          spreadsheetId: book.id,
          clearedRanges: list(body.ranges).map((range: string) => valuesClear(draft, range)),
        }))
      case 'GET values/*':
        return values(book, rangeOf(rest), query)
      case 'PUT values/*':
        return atomically(book, (draft) =>
          valuesUpdate(draft, rangeOf(rest), body, inputOption(query.get('valueInputOption'))),
        )
      case 'POST values/*:append':
        return atomically(book, (draft) => valuesAppend(draft, rangeOf(rest), body, query))
      case 'POST values/*:clear':
        return atomically(book, (draft) => ({
          spreadsheetId: book.id,
          clearedRange: valuesClear(draft, rangeOf(rest)),
        }))
    }
    throw unimplemented(method, path)
  }

  function createFrom(body: Body): unknown {
    const book = blank(body.properties?.title)
    const wanted = list(body.sheets)
    if (wanted.length === 0) addTab(book, { title: 'Sheet1', sheetId: 0 })
    for (const { properties } of wanted) addTab(book, properties ?? {})
    books.set(book.id, book)
    return spreadsheet(book, new URLSearchParams())
  }

  const tenant: Tenant = {
    owns: (path) => path === '/token' || path === '/v4' || path.startsWith('/v4/'),
    answer(request) {
      if (request.path === '/token') return tokenEndpoint(request)
      try {
        const mask = request.query.get('fields') ?? request.query.get('$fields')
        const body = api(request)
        return { status: 200, body: mask === null ? body : pick(body, mask) }
      } catch (error) {
        if (!(error instanceof ApiError)) throw error
        return { status: error.code, body: errorBody(error.code, error.message, error.reason) }
      }
    },
    refusal: (status, reason) =>
      errorBody(status, `${names[status] ?? 'Error'}: asked for by the sandbox's caller.`, reason),
    page: () => [...books.values()].map(section).join('\n') || '<p class="note">No spreadsheet yet.</p>',
  }

  const controls: GoogleSheets = {
    token: ownToken,
    serviceAccount(email = 'spillway@sandbox.iam.gserviceaccount.com') {
      const known = accounts.get(email)
      if (known) return known.file
      const { privateKey, publicKey } = generateKeyPairSync('rsa', {
        modulusLength: 2048,
        privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
        publicKeyEncoding: { type: 'spki', format: 'pem' },
      })
      const file: ServiceAccount = { type: 'service_account', client_email: email, private_key: privateKey }
      accounts.set(email, { file, publicKey })
      return file
    },
    create: (options = {}) => ({ id: create(options) }),
    rows(id, title) {
      const tab = open(id, undefined).tabs.find((tab) => tab.properties.title === title)
      if (!tab) throw new RangeError(`the sandbox's spreadsheet ${id} has no tab ${title}`)
      return read(tab, { top: 0, left: 0 }).map((row) =>
        Array.from(row, (cell) => (cell?.formula ? { formula: cell.formula } : (cell?.value ?? null))),
      )
    },
    tabs: (id) => open(id, undefined).tabs.map((tab) => tab.properties.title),
  }
  return { tenant, controls }
}

function blank(
  title = 'Untitled spreadsheet',
  id = randomBytes(33).toString('base64url'),
  sharedWith?: readonly string[],
): Book {
  return { id, title, sharedWith, tabs: [] }
}

/** The range in the last part of a path, `values/…:append`. */
function rangeOf(rest: string | undefined): string {
  return decodeURIComponent((rest ?? '').replace(/^values\//, '').replace(/:(append|clear)$/, ''))
}

// ---- answers -----------------------------------------------------------------------------------------------------

const names: Record<number, string> = {
  400: 'INVALID_ARGUMENT',
  401: 'UNAUTHENTICATED',
  403: 'PERMISSION_DENIED',
  404: 'NOT_FOUND',
  409: 'ABORTED',
  429: 'RESOURCE_EXHAUSTED',
  500: 'INTERNAL',
  501: 'UNIMPLEMENTED',
  503: 'UNAVAILABLE',
  504: 'DEADLINE_EXCEEDED',
}

/** https://cloud.google.com/apis/design/errors#http_mapping */
function errorBody(code: number, message: string, reason?: string): unknown {
  const info = { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason, domain: 'googleapis.com' }
  return { error: { code, message, status: names[code] ?? 'UNKNOWN', ...(reason && { details: [info] }) } }
}

function unimplemented(method: string, path: string): ApiError {
  return new ApiError(501, `The sandbox does not speak ${method} ${path}.`)
}

/** The parts of an answer that a field mask names: `sheets(properties(title),data/rowData)`, `sheets.properties`. */
function pick(value: Body, mask: string): unknown {
  if (Array.isArray(value)) return value.map((entry) => pick(entry, mask))
  if (value === null || typeof value !== 'object') return value
  const picked: Record<string, unknown> = {}
  for (const field of split(mask)) {
    const [, name = '', rest = ''] = /^([^./(]+)[./]?(.*)$/s.exec(field) ?? []
    if (name === '*') return value
    if (!(name in value)) continue
    const inner = rest.startsWith('(') ? rest.slice(1, -1) : rest
    const part = inner === '' ? value[name] : pick(value[name], inner)
    picked[name] = name in picked ? merge(picked[name], part) : part
  }
  return picked
}

/** Cuts at the commas that stand outside parentheses. */
function split(mask: string): string[] {
  const parts = ['']
  let depth = 0
  for (const character of mask) {
    depth += Number(character === '(') - Number(character === ')')
    if (character === ',' && depth === 0) parts.push('')
    else parts[parts.length - 1] += character
  }
  return parts.map((part) => part.trim()).filter((part) => part !== '')
}

function merge(a: Body, b: Body): unknown {
  if (Array.isArray(a)) return a.map((entry, index) => merge(entry, b[index]))
  if (a === null || typeof a !== 'object') return b
  const both = { ...a, ...b }
  for (const name of Object.keys(a)) if (name in b) both[name] = merge(a[name], b[name])
  return both
}

function decode(part: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(Buffer.from(part, 'base64url').toString()))
  } catch {
    return {} // refused by whoever looks for a claim in it
  }
}

// ---- the page ----------------------------------------------------------------------------------------------------

/** Rows of a tab that the page shows: a browser would choke on all of a large one. */
const pageRows = 1000

function section(book: Book): string {
  return `<h2>${html(book.title)}<code>${html(book.id)}</code></h2>\n<p class="note">Google Sheets</p>\n${book.tabs.map(table).join('\n')}`
}

function table(tab: Tab): string {
  const used = extent(tab)
  const rows = read(tab, { top: 0, left: 0, bottom: pageRows })
  const columns = Array.from({ length: Math.max(used.columns, 3) }, (_, column) => column)
  const head = columns.map((column) => `<th>${letters(column)}</th>`).join('')
  const body = rows.map((row, index) => {
    const cells = columns.map((column) => cell(row[column], formatOf(tab, index, column))).join('')
    return `<tr${index === 0 ? ' class="head"' : ''}><th>${index + 1}</th>${cells}</tr>`
  })
  const size = `${used.rows.toLocaleString('en')} rows in use of ${tab.rowCount.toLocaleString('en')} × ${tab.columnCount}`
  const more =
    used.rows > pageRows
      ? `<p class="note">The first ${pageRows.toLocaleString('en')} rows of ${used.rows.toLocaleString('en')}.</p>`
      : ''
  if (rows.length === 0) body.push(`<tr><th>1</th>${columns.map(() => cell(undefined)).join('')}</tr>`)
  return `<h3>${html(tab.properties.title)}<small>${size}</small></h3>
<div class="grid"><table><thead><tr><th></th>${head}</tr></thead><tbody>
${body.join('\n')}
</tbody></table></div>${more}`
}

function cell(content: Content | undefined, format?: NumberFormat): string {
  if (!content) return '<td class="blank"></td>'
  if (content.formula) return `<td class="formula" title="formula">${html(content.formula)}</td>`
  return htmlCell(shown(content, format), typeof content.value)
}
