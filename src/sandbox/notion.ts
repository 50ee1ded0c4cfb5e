import { randomUUID } from 'node:crypto'
import type {
  DatabaseObjectResponse,
  DataSourceObjectResponse,
  PageObjectResponse,
  QueryDataSourceResponse,
  UserObjectResponse,
} from '@notionhq/client'
import { html } from './page.js'
import { Recent } from './recent.js'
import type { ApiRequest, Reply, Tenant } from './server.js'

/** The types of properties that the sandbox knows. Those from `formula` on are computed, and cannot be written. */
export type NotionType =
  | 'title'
  | 'rich_text'
  | 'number'
  | 'select'
  | 'multi_select'
  | 'status'
  | 'date'
  | 'checkbox'
  | 'url'
  | 'email'
  | 'phone_number'
  | 'relation'
  | 'people'
  | 'files'
  | 'formula'
  | 'rollup'
  | 'unique_id'
  | 'created_time'
  | 'created_by'
  | 'last_edited_time'
  | 'last_edited_by'

/** A property by its type; where it has options, with those that there are. */
export type NotionProperty = NotionType | { readonly [T in 'select' | 'multi_select' | 'status']?: readonly string[] }

/** A value as a person reads it: dates as ISO text, options by name, relations and people by id; `null` is blank. */
export type NotionValue = string | number | boolean | null | readonly string[]

/** What {@link Notion.createDatabase} makes. */
export interface NotionDatabaseOptions {
  /** @default 'Untitled' */
  readonly title?: string
  /** The properties of its pages by name, one of type `title` among them. @default one, `Name` */
  readonly properties?: Readonly<Record<string, NotionProperty>>
  /** The names of its data sources, which begin with the same properties. @default one, named as the database */
  readonly dataSources?: readonly string[]
  /** Whether the connection may see it. @default true */
  readonly shared?: boolean
}

/** A page as a test reads it. */
export interface NotionPage {
  readonly id: string
  readonly inTrash: boolean
  readonly values: Readonly<Record<string, NotionValue>>
}

/** Limits and delays of a sandbox's Notion. */
export interface NotionSandboxOptions {
  /** Most requests in any second. Notion grants three on average: https://developers.notion.com/reference/request-limits. @default no limit */
  readonly perSecond?: number | undefined
  /** Most requests in any minute. @default no limit */
  readonly perMinute?: number | undefined
  /** How many queries of its data source do not find a page yet that was made through the API. @default 0 */
  readonly lag?: number | undefined
}

/** The Notion of a sandbox: one workspace, one connection. */
export interface Notion {
  /** The connection's token. */
  readonly token: string
  createDatabase(options?: NotionDatabaseOptions): {
    readonly id: string
    readonly url: string
    readonly dataSources: readonly string[]
  }
  /** The pages of a data source, those in the trash too, oldest first. */
  pages(dataSource: string): NotionPage[]
  /** The values of its pages, without those in the trash. */
  rows(dataSource: string): NotionPage['values'][]
  /** Makes a page as a person would: it is found at once, and was not made by the connection. */
  addPage(dataSource: string, values: Readonly<Record<string, NotionValue>>): { readonly id: string }
  /** Changes a page as a person would. */
  editPage(page: string, values: Readonly<Record<string, NotionValue>>): void
  trashPage(page: string): void
  /** Adds a property, or takes it away (`null`). */
  setProperty(dataSource: string, name: string, property: NotionProperty | null): void
}

interface Database {
  readonly id: string
  readonly title: string
  readonly shared: boolean
  readonly created: string
  readonly sources: DataSource[]
}
interface DataSource {
  readonly id: string
  readonly name: string
  readonly database: Database
  readonly properties: Map<string, Property>
  readonly pages: Page[]
}
interface Property {
  readonly id: string
  readonly type: NotionType
  readonly options: Option[]
}
interface Option {
  readonly id: string
  readonly name: string
  readonly color: 'default'
}
interface Page {
  readonly id: string
  readonly source: DataSource
  readonly number: number
  readonly created: string
  readonly by: string
  edited: string
  inTrash: boolean
  /** Queries that do not find it yet. */
  lag: number
  /** In the form in which the API gives them. */
  readonly values: Map<string, unknown>
}

// biome-ignore lint/suspicious/noExplicitAny: a request's body is whatever the client sent; it is checked where it is used
type Body = any

/** A refusal in Notion's words: https://developers.notion.com/reference/status-codes. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message)
  }
}

const invalid = (message: string) => new Refusal(400, 'validation_error', message)
const misfit = (where: string, should: string, instead: unknown) =>
  invalid(`body failed validation: ${where} should be ${should}, instead was \`${JSON.stringify(instead)}\`.`)

const codes: Readonly<Record<number, string>> = {
  400: 'validation_error',
  401: 'unauthorized',
  403: 'restricted_resource',
  404: 'object_not_found',
  409: 'conflict_error',
  429: 'rate_limited',
  500: 'internal_server_error',
  503: 'service_unavailable',
  504: 'gateway_timeout',
  529: 'service_overload',
}

/** Since when there are data sources. */
const oldestVersion = '2025-09-03'
const mostInList = 100
const mostCharacters = 2000
const mostBytes = 500_000

/** The tenant, and the controls that a test or a demo has over it. */
export function notion(options: NotionSandboxOptions): { tenant: Tenant; controls: Notion } {
  const databases = new Map<string, Database>()
  const token = 'ntn_sandbox'
  const bot = randomUUID()
  const person = randomUUID()
  const [second, minute] = [new Recent(1000), new Recent(60_000)]

  const sources = () => [...databases.values()].flatMap((database) => database.sources)
  const pages = () => sources().flatMap((source) => source.pages)

  // ---- requests --------------------------------------------------------------------------------------------------

  function api({ method, path, headers, body, bytes, query }: ApiRequest): unknown {
    if (headers.authorization !== `Bearer ${token}`) throw new Refusal(401, 'unauthorized', 'API token is invalid.')
    const version = headers['notion-version']
    if (version === undefined) {
      const message =
        'Notion-Version failed validation: Notion-Version header should be defined, instead was `undefined`.'
      throw new Refusal(400, 'missing_version', message)
    }
    if (String(version) < oldestVersion) throw invalid(`The sandbox speaks Notion-Version ${oldestVersion} and later.`)
    limit()
    if (bytes > mostBytes) throw new Refusal(413, 'validation_error', 'Request body too large.')
    if (method !== 'GET' && (body === null || typeof body !== 'object')) {
      throw new Refusal(400, 'invalid_json', 'Error parsing JSON body.')
    }
    const [, kind = '', id = '', verb = ''] = /^\/v1\/(\w+)(?:\/([^/]+))?(?:\/(\w+))?$/.exec(path) ?? []
    switch (`${method} ${kind}${id && (kind === 'users' ? `/${id}` : '/*')}${verb && `/${verb}`}`) {
      case 'GET users/me':
        return {
          object: 'user',
          id: bot,
          name: 'Spillway',
          avatar_url: null,
          type: 'bot',
          bot: {},
        } satisfies UserObjectResponse
      case 'GET databases/*':
        return databaseObject(visible('database', id, databases.get(uuid('database_id', id)), (found) => found))
      case 'GET data_sources/*':
        return sourceObject(sourceOf(id))
      case 'POST data_sources/*/query':
        return find(sourceOf(id), body, query)
      case 'POST pages':
        return create(body)
      case 'GET pages/*':
        return pageObject(pageOf(id))
      case 'PATCH pages/*':
        return update(pageOf(id), body)
    }
    throw new Refusal(400, 'invalid_request_url', 'Invalid request URL.')
  }

  function limit(): void {
    const { perSecond = Number.POSITIVE_INFINITY, perMinute = Number.POSITIVE_INFINITY } = options
    const wait = second.wait(perSecond) || minute.wait(perMinute)
    if (wait > 0) {
      throw new Refusal(429, 'rate_limited', 'You have been rate limited. Please try again in a few minutes.', {
        'retry-after': String(Math.max(1, Math.ceil(wait / 1000))),
      })
    }
    second.add()
    minute.add()
  }

  function visible<T>(kind: string, id: string, found: T | undefined, database: (found: T) => Database): T {
    if (found && database(found).shared) return found
    throw new Refusal(
      404,
      'object_not_found',
      `Could not find ${kind} with ID: ${dashed(id)}. Make sure the relevant pages and databases are shared with your integration "Spillway".`,
    )
  }

  function sourceOf(id: string): DataSource {
    const wanted = uuid('data_source_id', id)
    const found = sources().find((source) => source.id === wanted)
    return visible('data_source', id, found, ({ database }) => database)
  }

  function pageOf(id: string): Page {
    const wanted = uuid('page_id', id)
    const found = pages().find((page) => page.id === wanted)
    return visible('page', id, found, ({ source }) => source.database)
  }

  function create(body: Body): PageObjectResponse {
    onlyKnown(body, ['parent', 'properties', 'icon', 'cover'])
    const { parent } = body
    if (!parent) throw misfit('body.parent', 'defined', undefined)
    if (parent.data_source_id === undefined) throw misfit('body.parent.data_source_id', 'defined', undefined)
    const source = sourceOf(String(parent.data_source_id))
    const page = blank(source, bot, options.lag ?? 0)
    write(page, body.properties ?? {})
    source.pages.push(page)
    return pageObject(page)
  }

  function update(page: Page, body: Body): PageObjectResponse {
    onlyKnown(body, ['properties', 'in_trash', 'archived', 'icon', 'cover'])
    const trash = body.in_trash ?? body.archived
    if (trash !== undefined && typeof trash !== 'boolean')
      throw misfit('body.in_trash', 'a boolean or `undefined`', trash)
    if (page.inTrash && trash === undefined) {
      throw invalid("Can't edit block that is archived. You must unarchive the block before editing.")
    }
    write(page, body.properties ?? {})
    page.inTrash = trash ?? page.inTrash
    page.edited = new Date().toISOString()
    return pageObject(page)
  }

  /** Writes all of the properties, or none. */
  function write(page: Page, properties: Body): void {
    if (typeof properties !== 'object') throw misfit('body.properties', 'an object', properties)
    const entries = Object.entries(properties).map(([name, given]) => {
      // by its name or by its id
      const [known, property] = [...page.source.properties].find(([one, { id }]) => one === name || id === name) ?? []
      if (!known || !property) throw invalid(`${name} is not a property that exists.`)
      return [known, stored(property, known, given as Body)] as const
    })
    for (const [name, { value, options }] of entries) {
      page.values.set(name, value)
      page.source.properties.get(name)!.options.push(...options)
    }
  }

  function find(source: DataSource, body: Body, query: URLSearchParams): QueryDataSourceResponse {
    onlyKnown(body, ['filter', 'start_cursor', 'page_size', 'result_type'])
    if (query.size > 0) throw invalid('The sandbox does not speak filter_properties.')
    const { page_size = mostInList, start_cursor, filter } = body
    if (!Number.isInteger(page_size) || page_size > mostInList)
      throw misfit('body.page_size', `≤ \`${mostInList}\``, page_size)
    const matches = filter === undefined ? () => true : condition(source, filter, 'body.filter', 0)
    const hits = source.pages.filter((page) => !page.inTrash && page.lag === 0 && matches(page))
    for (const page of source.pages) page.lag = Math.max(0, page.lag - 1)
    const from = start_cursor === undefined ? 0 : hits.findIndex(({ id }) => id === start_cursor)
    if (from < 0) throw invalid(`The start_cursor provided is invalid: ${start_cursor}`)
    const next = hits[from + page_size]
    return {
      object: 'list',
      results: hits.slice(from, from + page_size).map(pageObject),
      next_cursor: next?.id ?? null,
      has_more: next !== undefined,
      type: 'page_or_data_source',
      page_or_data_source: {},
    }
  }

  function blank(source: DataSource, by: string, lag: number): Page {
    const now = new Date().toISOString()
    const values = new Map([...source.properties].map(([name, { type }]) => [name, blankValue(type)]))
    return {
      id: randomUUID(),
      source,
      number: source.pages.length + 1,
      created: now,
      edited: now,
      by,
      inTrash: false,
      lag,
      values,
    }
  }

  const tenant: Tenant = {
    owns: (path) => path === '/v1' || path.startsWith('/v1/'),
    answer(request) {
      const request_id = randomUUID()
      const headers = { 'x-notion-request-id': request_id }
      try {
        return { status: 200, body: { ...(api(request) as object), request_id }, headers }
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        const { status, code, message } = error
        return {
          status,
          body: { object: 'error', status, code, message, request_id },
          headers: { ...headers, ...error.headers },
        } satisfies Reply
      }
    },
    // a web page where the edge in front of the API answers, which it does for 502, or when a test asks for it
    refusal: (status, reason) =>
      codes[status] === undefined || reason === 'html'
        ? `<html><head><title>${status}</title></head><body><h1>${status}</h1><p>cloudflare</p></body></html>`
        : {
            object: 'error',
            status,
            code: codes[status],
            message: 'Asked for by the sandbox.',
            request_id: randomUUID(),
          },
    page: () => sources().map(section).join('\n') || '<p class="note">No Notion database yet.</p>',
    style,
  }

  // ---- controls --------------------------------------------------------------------------------------------------

  function at(dataSource: string): DataSource {
    const found = sources().find(({ id }) => id === dataSource)
    if (!found) throw new RangeError(`the sandbox's Notion has no data source ${dataSource}`)
    return found
  }

  function byHand(page: Page, values: Readonly<Record<string, NotionValue>>): void {
    const entries = Object.entries(values).map(([name, value]) => {
      const type = page.source.properties.get(name)?.type
      if (!type) throw new RangeError(`the sandbox's data source has no property ${name}`)
      return [name, { [type]: typed(type, value) }]
    })
    write(page, Object.fromEntries(entries))
    page.edited = new Date().toISOString()
  }

  function pageAt(id: string): Page {
    const found = pages().find((page) => page.id === id)
    if (!found) throw new RangeError(`the sandbox's Notion has no page ${id}`)
    return found
  }

  const controls: Notion = {
    token,
    createDatabase({ title = 'Untitled', properties = { Name: 'title' }, dataSources = [title], shared = true } = {}) {
      const id = randomUUID()
      const database: Database = { id, title, shared, created: new Date().toISOString(), sources: [] }
      for (const name of dataSources) {
        const known = Object.entries(properties).map(([name, property]) => [name, propertyOf(property)] as const)
        database.sources.push({ id: randomUUID(), name, database, properties: new Map(known), pages: [] })
      }
      databases.set(id, database)
      return { id, url: urlOf(title, id), dataSources: database.sources.map(({ id }) => id) }
    },
    pages: (id) =>
      at(id).pages.map((page) => ({
        id: page.id,
        inTrash: page.inTrash,
        values: Object.fromEntries([...page.source.properties.keys()].map((name) => [name, shownValue(page, name)])),
      })),
    rows: (id) =>
      controls
        .pages(id)
        .filter(({ inTrash }) => !inTrash)
        .map(({ values }) => values),
    addPage(id, values) {
      const source = at(id)
      const page = blank(source, person, 0)
      byHand(page, values)
      source.pages.push(page)
      return { id: page.id }
    },
    editPage: (id, values) => byHand(pageAt(id), values),
    trashPage(id) {
      pageAt(id).inTrash = true
    },
    setProperty(id, name, property) {
      const { properties, pages } = at(id)
      if (property) properties.set(name, propertyOf(property))
      else properties.delete(name)
      for (const { values } of pages) {
        if (property) values.set(name, blankValue(properties.get(name)!.type))
        else values.delete(name)
      }
    },
  }
  return { tenant, controls }
}

function propertyOf(property: NotionProperty): Property {
  const [[type, names] = []] = typeof property === 'string' ? [[property, []] as const] : Object.entries(property)
  return { id: randomUUID().slice(0, 4), type: type as NotionType, options: (names ?? []).map(optionOf) }
}

const optionOf = (name: string): Option => ({ id: randomUUID(), name, color: 'default' })

// ---- ids ---------------------------------------------------------------------------------------------------------

const dashed = (id: string) =>
  id
    .replaceAll('-', '')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
    .toLowerCase()
const isUuid = (id: unknown) => typeof id === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(dashed(id))

function uuid(name: string, id: string): string {
  if (isUuid(id)) return dashed(id)
  throw invalid(`path failed validation: path.${name} should be a valid uuid, instead was \`"${id}"\`.`)
}

const urlOf = (title: string, id: string) =>
  `https://www.notion.so/${[...title.matchAll(/\w+/g), id.replaceAll('-', '')].join('-')}`

function onlyKnown(body: Body, known: readonly string[]): void {
  for (const name of Object.keys(body)) {
    if (!known.includes(name)) throw misfit(`body.${name}`, 'not present', body[name])
  }
}

// ---- values in ---------------------------------------------------------------------------------------------------

const lists: ReadonlySet<string> = new Set(['title', 'rich_text', 'multi_select', 'relation', 'people', 'files'])
const computed: ReadonlySet<string> = new Set([
  'formula',
  'rollup',
  'unique_id',
  'created_time',
  'created_by',
  'last_edited_time',
  'last_edited_by',
])

function blankValue(type: NotionType): unknown {
  if (lists.has(type)) return []
  return type === 'checkbox' ? false : null
}

/** A value as the API gives it back, and the options that come to exist with it. */
function stored(property: Property, name: string, given: Body): { value: unknown; options: Option[] } {
  const { type } = property
  if (given === null || typeof given !== 'object' || !(type in given))
    throw invalid(`${name} is expected to be ${type}.`)
  const where = `body.properties.${name}.${type}`
  const value = given[type]
  if (computed.has(type)) throw misfit(where, 'not present', value)
  if (lists.has(type)) {
    if (!Array.isArray(value)) throw misfit(where, 'an array', value)
    if (value.length > mostInList) throw tooLong(where, mostInList, value.length)
  }
  const plainly = (value: unknown) => ({ value, options: [] })
  switch (type) {
    case 'title':
    case 'rich_text':
      return plainly(value.map((item: Body, index: number) => textItem(item, `${where}[${index}]`)))
    case 'number':
      if (value !== null && typeof value !== 'number') throw misfit(where, 'a number', value)
      return plainly(value)
    case 'checkbox':
      if (typeof value !== 'boolean') throw misfit(where, 'a boolean', value)
      return plainly(value)
    case 'url':
      return plainly(shortText(where, value, mostCharacters))
    case 'email':
    case 'phone_number':
      return plainly(shortText(where, value, 200))
    case 'date':
      return plainly(value === null ? null : dateValue(value, where))
    case 'relation':
      return plainly(value.map(({ id }: Body, index: number) => ({ id: idIn(id, `${where}[${index}].id`) })))
    case 'people':
      return plainly(
        value.map(({ id }: Body, index: number) => ({ object: 'user', id: idIn(id, `${where}[${index}].id`) })),
      )
    case 'select':
    case 'status':
    case 'multi_select': {
      const known: Option[] = [...property.options]
      const chosen = (type === 'multi_select' ? value : [value]).map(
        (item: Body) => item && choose(item, type, where, known),
      )
      return { value: type === 'multi_select' ? chosen : chosen[0], options: known.slice(property.options.length) }
    }
  }
  throw invalid(`The sandbox does not write ${type}.`)
}

const tooLong = (where: string, most: number, length: number) =>
  invalid(`body failed validation: ${where}.length should be ≤ \`${most}\`, instead was \`${length}\`.`)

function textItem(item: Body, where: string): unknown {
  const content = item?.text?.content
  if (typeof content !== 'string') throw misfit(`${where}.text.content`, 'a string', content)
  if (content.length > mostCharacters) throw tooLong(`${where}.text.content`, mostCharacters, content.length)
  const plain = { bold: false, italic: false, strikethrough: false, underline: false, code: false, color: 'default' }
  return { type: 'text', text: { content, link: null }, annotations: plain, plain_text: content, href: null }
}

function shortText(where: string, value: Body, most: number): string | null {
  if (value !== null && typeof value !== 'string') throw misfit(where, 'a string', value)
  if (value !== null && value.length > most) throw tooLong(where, most, value.length)
  return value
}

function idIn(id: Body, where: string): string {
  if (!isUuid(id)) throw misfit(where, 'a valid uuid', id)
  return dashed(id)
}

/** Instants come back in UTC with milliseconds; a time without a zone is one of UTC. */
function dateValue({ start, end = null }: Body, where: string): unknown {
  const read = (text: Body, part: string) => {
    if (/^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(Date.parse(text))) return text
    const zoned = /T.*(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`
    if (typeof text !== 'string' || !text.includes('T') || Number.isNaN(Date.parse(zoned))) {
      throw misfit(`${where}.${part}`, 'a valid ISO 8601 date string', text)
    }
    return new Date(zoned).toISOString().replace('Z', '+00:00')
  }
  return { start: read(start, 'start'), end: end === null ? null : read(end, 'end'), time_zone: null }
}

function choose(item: Body, type: string, where: string, known: Option[]): Option {
  const found = known.find(({ id, name }) => (item.id === undefined ? name === item.name : id === item.id))
  if (found) return found
  const name = item.name ?? item.id
  if (type === 'status') throw invalid(`Invalid status option. Status option "${name}" does not exist.`)
  if (typeof name !== 'string') throw misfit(`${where}.name`, 'defined', name)
  if (name.includes(',')) throw invalid(`Invalid select option, commas not allowed: ${name}`)
  if (name.length > mostInList) throw tooLong(`${where}.name`, mostInList, name.length)
  const option = optionOf(name)
  known.push(option)
  return option
}

/** What a person typed, as the API would be sent it. */
function typed(type: NotionType, value: NotionValue): unknown {
  const list = Array.isArray(value) ? value : []
  switch (type) {
    case 'title':
    case 'rich_text':
      return value === null
        ? []
        : (String(value).match(/[\s\S]{1,2000}/g) ?? []).map((content) => ({ text: { content } }))
    case 'select':
    case 'status':
      return value === null ? null : { name: value }
    case 'multi_select':
      return list.map((name) => ({ name }))
    case 'relation':
    case 'people':
      return list.map((id) => ({ id }))
    case 'date':
      return value === null ? null : { start: value }
  }
  return value
}

// ---- filters -----------------------------------------------------------------------------------------------------

/** https://developers.notion.com/reference/filter-data-source-entries, as far as `equals` and `is_empty`. */
function condition(source: DataSource, filter: Body, where: string, depth: number): (page: Page) => boolean {
  for (const word of ['or', 'and'] as const) {
    const parts = filter?.[word]
    if (parts === undefined) continue
    if (!Array.isArray(parts)) throw misfit(`${where}.${word}`, 'an array', parts)
    if (parts.length > mostInList) throw tooLong(`${where}.${word}`, mostInList, parts.length)
    if (depth > 1) throw misfit(`${where}.${word}`, 'not present', parts)
    const all = parts.map((part, index) => condition(source, part, `${where}.${word}[${index}]`, depth + 1))
    return (page) => (word === 'or' ? all.some((one) => one(page)) : all.every((one) => one(page)))
  }
  const name = filter?.property
  const [known, property] = [...source.properties].find(([one, { id }]) => one === name || id === name) ?? []
  if (!known || !property) throw invalid(`Could not find property with name or id: ${name}`)
  const { type, options } = property
  const [kind = 'undefined'] = Object.keys(filter).filter((key) => key !== 'property' && key !== 'type')
  if (kind !== type && !(kind === 'rich_text' && ['title', 'url', 'email', 'phone_number'].includes(type))) {
    throw invalid(`database property ${type} does not match filter ${kind}`)
  }
  const test = filter[kind]
  if (test?.is_empty === true) return (page) => [null, ''].includes(shownValue(page, known) as null)
  if (test?.equals === undefined) throw invalid('The sandbox filters by equals and is_empty.')
  const { equals } = test
  if (typeof equals !== (type === 'number' ? 'number' : type === 'checkbox' ? 'boolean' : 'string')) {
    throw misfit(`${where}.${kind}.equals`, `a ${type === 'number' ? 'number' : 'string'}`, equals)
  }
  if ((type === 'select' || type === 'status') && !options.some((option) => option.name === equals)) {
    throw invalid(`${type} option "${equals}" not found for property "${known}".`)
  }
  return (page) => shownValue(page, known) === equals
}

// ---- objects -----------------------------------------------------------------------------------------------------

const shared = { icon: null, cover: null, public_url: null } as const
const by = (id: string) => ({ object: 'user' as const, id })
const titled = (title: string) => [textItem({ text: { content: title } }, '')] as DatabaseObjectResponse['title']

function databaseObject({ id, title, created, sources }: Database): DatabaseObjectResponse {
  return {
    object: 'database',
    id,
    title: titled(title),
    description: [],
    parent: { type: 'workspace', workspace: true },
    is_inline: false,
    in_trash: false,
    archived: false,
    is_locked: false,
    created_time: created,
    last_edited_time: created,
    data_sources: sources.map(({ id, name }) => ({ id, name })),
    url: urlOf(title, id),
    ...shared,
  }
}

function sourceObject({ id, name, database, properties }: DataSource): DataSourceObjectResponse {
  return {
    object: 'data_source',
    id,
    title: titled(name),
    description: [],
    parent: { type: 'database_id', database_id: database.id },
    database_parent: { type: 'workspace', workspace: true },
    is_inline: false,
    in_trash: false,
    archived: false,
    created_time: database.created,
    last_edited_time: database.created,
    created_by: by(database.id),
    last_edited_by: by(database.id),
    properties: Object.fromEntries(
      [...properties].map(([name, { id, type, options }]) => [
        name,
        { id, name, description: null, type, [type]: configOf(type, options) },
      ]),
    ) as DataSourceObjectResponse['properties'],
    url: urlOf(name, id),
    ...shared,
  }
}

function configOf(type: NotionType, options: readonly Option[]): object {
  switch (type) {
    case 'select':
    case 'multi_select':
      return { options: options.map((option) => ({ ...option, description: null })) }
    case 'status':
      return { options: options.map((option) => ({ ...option, description: null })), groups: [] }
    case 'number':
      return { format: 'number' }
    case 'formula':
      return { expression: '' }
    case 'unique_id':
      return { prefix: null }
  }
  return {}
}

function pageObject(page: Page): PageObjectResponse {
  const { id, source, created, edited, inTrash, by: author } = page
  return {
    object: 'page',
    id,
    created_time: created,
    last_edited_time: edited,
    created_by: by(author),
    last_edited_by: by(author),
    in_trash: inTrash,
    archived: inTrash,
    is_archived: inTrash,
    is_locked: false,
    parent: { type: 'data_source_id', data_source_id: source.id, database_id: source.database.id },
    properties: Object.fromEntries(
      [...source.properties].map(([name, { id, type }]) => [name, { id, type, [type]: valueIn(page, name, type) }]),
    ) as PageObjectResponse['properties'],
    url: urlOf('', id),
    ...shared,
  }
}

function valueIn(page: Page, name: string, type: NotionType): unknown {
  switch (type) {
    case 'formula':
      return { type: 'string', string: null }
    case 'rollup':
      return { type: 'number', number: null, function: 'count' }
    case 'unique_id':
      return { prefix: null, number: page.number }
    case 'created_time':
      return page.created
    case 'last_edited_time':
      return page.edited
    case 'created_by':
    case 'last_edited_by':
      return by(page.by)
  }
  return page.values.get(name)
}

/** A value as a person reads it. */
function shownValue(page: Page, name: string): NotionValue {
  const { type } = page.source.properties.get(name)!
  const value = valueIn(page, name, type) as Body
  switch (type) {
    case 'title':
    case 'rich_text':
      return value.map(({ plain_text }: { plain_text: string }) => plain_text).join('')
    case 'select':
    case 'status':
      return value?.name ?? null
    case 'date':
      return value?.start ?? null
    case 'unique_id':
      return value.number
    case 'formula':
    case 'rollup':
      return null
    case 'created_by':
    case 'last_edited_by':
      return value.id
  }
  return Array.isArray(value) ? value.map((item) => item.name ?? item.id) : value
}

// ---- the page ----------------------------------------------------------------------------------------------------

/** Pages of a data source that the sandbox's page shows. */
const shownPages = 1000

function section(source: DataSource): string {
  const live = source.pages.filter(({ inTrash }) => !inTrash)
  const names = [...source.properties.keys()]
  const rows = live.slice(0, shownPages).map((page) => `<tr>${names.map((name) => cell(page, name)).join('')}</tr>`)
  const trash = source.pages.length - live.length
  const size = `${live.length.toLocaleString('en')} pages${trash > 0 ? `, ${trash.toLocaleString('en')} in the trash` : ''}`
  return `<section class="notion"><h2>${html(source.name)}<code>${html(source.id)}</code></h2>
<p class="note">Notion, ${size}</p>
<div class="grid"><table><thead><tr>${names.map((name) => `<th title="${source.properties.get(name)!.type}">${html(name)}</th>`).join('')}</tr></thead><tbody>
${rows.join('\n')}
</tbody></table></div></section>`
}

function cell(page: Page, name: string): string {
  const { type } = page.source.properties.get(name)!
  const value = shownValue(page, name)
  if (type === 'checkbox') return `<td class="check">${value ? '☑' : '☐'}</td>`
  const pills = type === 'select' || type === 'status' || Array.isArray(value)
  const texts = (Array.isArray(value) ? value : value === null ? [] : [value]).map((text) => html(String(text)))
  if (pills) return `<td>${texts.map((text) => `<span class="pill">${text}</span>`).join(' ')}</td>`
  return `<td class="${type === 'number' ? 'number' : type}" title="${texts[0] ?? ''}">${texts[0] ?? ''}</td>`
}

const style = `
.notion th { text-align: left; }
.notion td.title { font-weight: 600; }
.notion td.check { color: var(--blue); text-align: center; }
.notion td.url, .notion td.email { color: var(--faint); text-decoration: underline; }
.notion .pill { display: inline-block; padding: 0 7px; border-radius: 4px; background: var(--line); }
`
