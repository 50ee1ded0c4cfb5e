import type {
  Client,
  CreatePageParameters,
  DataSourceObjectResponse,
  QueryDataSourceParameters,
} from '@notionhq/client'
import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  destination,
  FatalError,
  HttpError,
  type Injected,
  NetworkError,
  type Outcome,
  type Receipt,
  RejectedError,
  RetryableError,
  receipt,
  reject,
  retry,
  type Unknown,
  unknown,
} from 'spillway'
import { z } from 'zod'

/** How to sign in. */
export interface NotionConfig {
  /** The token of a connection (https://www.notion.so/profile/integrations) with which the database is shared. */
  readonly token: string
  /** Where the API is found, for the sandbox or a proxy. @default 'https://api.notion.com' */
  readonly endpoint?: string | undefined
}

/** What {@link notion} is told: `dataSource` or `database`. The config's fields may be left out; they are then injected. */
export interface NotionOptions extends Injected<NotionConfig> {
  /** The data source's id: in Notion, the database's settings, Manage data sources, Copy data source ID. */
  readonly dataSource?: string | undefined
  /** The id or the address in the browser of a database that has one data source. */
  readonly database?: string | undefined
  /**
   * The properties by which a page is found: of type title, text, number, select, status, e-mail, URL or phone number.
   *
   * @default the sync's key
   */
  readonly match?: string | readonly string[] | undefined
}

const me = 'notion'
const config = z.object({ token: z.string().trim().min(1), endpoint: z.url().default('https://api.notion.com') })
type Config = z.output<typeof config>

/**
 * The pages of a Notion data source, each a record: added, updated, found again by key, and moved to the trash.
 *
 * A field is written to the property of its name, in the form that the property's type asks for. Select, multi-select, relation and
 * people take names and ids, several as lists; new options come to exist, but for `status`. `null` clears (a checkbox is then not
 * ticked), an absent field leaves alone, `0` and `false` are values. A date stays a date, a `Date` is written as an instant. A number
 * that a double cannot hold to its last digit is rejected: make that property a text, which takes any. Text may have 200,000
 * characters. A field without a property, or with one that Notion computes, stops the run before anything is sent.
 *
 * **What is guaranteed.** Notion knows no idempotency key, so a page whose creation nobody answered is looked for by its key before it
 * is sent again, and once more after `settle`, because queries lag behind: it is never made twice. That includes `insert` and
 * `append` where `match` or a key names properties; without them such a row is held, unless `onUnknown` says otherwise. A key that
 * several pages have is rejected with their ids.
 *
 * **What is not.** Notion has no locks: if somebody adds a page between look and write, there are two. Give a data source one sync at a time.
 *
 * It needs `npm install @notionhq/client`. Notion takes one page a request, and three requests a second on average.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * const to = notion({ database: 'https://www.notion.so/acme/0a1b2c3d4e5f60718293a4b5c6d7e8f9', token: secret('NOTION_TOKEN') })
 * await sync({ name: 'accounts', from: accounts, map: ({ name, arr }) => ({ Name: name, ARR: arr }), to, key: 'name' }).run()
 * ```
 */
export function notion(options: NotionOptions): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete'> {
  const { dataSource, database, match, ...given } = options
  if ((dataSource === undefined) === (database === undefined)) {
    throw new ConfigError(`${me}: give either dataSource or database: where the pages are to go`)
  }
  const place =
    dataSource === undefined
      ? { database: idOf('database', database!) }
      : { dataSource: idOf('dataSource', dataSource) }
  const { token: signIn } = given
  const secretName = typeof signIn === 'object' ? `secret ${signIn.name}` : 'token (DESTINATION__NOTION__TOKEN)'

  /** What is known of the data source in this run, and the pages made in it, of which queries may not know yet. */
  let memory:
    | { readonly run: string; readonly id: string; properties: Schema; readonly made: Map<string, string> }
    | undefined

  return destination({
    name: me,
    batchSize: 125, // one look-up for the whole batch
    concurrency: 1,
    rate: '3/s', // https://developers.notion.com/reference/request-limits
    timeout: '5min', // of a whole batch; each request has a minute
    settle: '30s',
    replaySafe: false, // a page must be looked for before it is made again
    match,
    config,
    target: ({ endpoint }: Config) => ({ endpoint, ...place }),
  })({
    insert: (batch, context) => answers(batch, insert(batch, context)),
    update: (batch, context) => answers(batch, write(batch, context)),
    upsert: (batch, context) => answers(batch, write(batch, context)),
    delete: (batch, context) => answers(batch, remove(batch, context)),
    verify,
  })(given)

  // ---- handlers ------------------------------------------------------------------------------------------------------

  async function* insert(batch: AnyRow[], context: Context<Config>): Answers {
    const source = await open(context)
    for (const line of readRecords(batch, source.properties, [])) {
      yield [line.record, isLine(line) ? await create(source, line) : line]
    }
  }

  async function* write(batch: AnyRow[], context: Context<Config>): Answers {
    const source = await open(context)
    const lines: Line[] = []
    for (const line of readRecords(batch, source.properties, context.match)) {
      const id = context.remoteId(line.record)
      const outcome = isLine(line) ? id && (await change(source, line, id)) : line
      if (outcome) yield [line.record, outcome]
      else if (isLine(line)) lines.push(line)
    }
    const found = await find(source, lines, context)
    for (const line of lines) {
      const pages = found.get(line.key) ?? []
      const id = pages[0]?.id ?? source.made.get(line.key)
      if (pages.length > 1) yield [line.record, reject(line.record, several(pages))]
      else if (id !== undefined) {
        const outcome = await change(source, line, id)
        if (!outcome) source.made.delete(line.key)
        yield [line.record, outcome ?? retry(line.record)] // it went away just now: look again
      } else if (context.operation === 'update') yield [line.record, reject(line.record, 'no page has its key')]
      else {
        const outcome = await create(source, line)
        if ('remoteId' in outcome) source.made.set(line.key, outcome.remoteId)
        yield [line.record, outcome]
      }
    }
  }

  async function* remove(batch: AnyRow[], context: Context<Config>): Answers {
    const source = await open(context)
    const trash = async (record: AnyRow, id: string): Promise<[AnyRow, Outcome | undefined]> => {
      const outcome = await attempt(record, source.client.pages.update({ page_id: id, in_trash: true }))
      return [record, outcome]
    }
    const lines: Line[] = []
    for (const line of readRecords(batch, source.properties, context.match)) {
      const id = context.remoteId(line.record)
      if (id !== undefined) yield await trash(line.record, id)
      else if (isLine(line)) lines.push(line)
      else yield [line.record, line]
    }
    const found = await find(source, lines, context)
    for (const { record, key } of lines) {
      const pages = found.get(key) ?? []
      if (pages.length > 1) yield [record, reject(record, several(pages))]
      else yield pages[0] ? await trash(record, pages[0].id) : [record, undefined]
    }
  }

  /** Which records are there as they should be. Of `insert`: in a page that this connection made. */
  async function verify(batch: AnyRow[], context: Context<Config>): Promise<(Receipt | Unknown)[]> {
    const source = await open(context)
    const inserts = context.operation === 'insert'
    const { match } = context
    if (inserts && (match.length === 0 || !match.every((name) => keyTypes.has(source.properties[name]?.type ?? '')))) {
      return batch.map((record) => unknown(record))
    }
    const lines = [...readRecords(batch, source.properties, match)]
    const found = await find(source, lines.filter(isLine), context)
    const bot = inserts && found.size > 0 ? (await asked(source.client.users.me({}), 'user')).id : undefined
    return lines.flatMap((line) => {
      if (!isLine(line)) return unknown(line.record)
      const isIt = (page: Page) => (inserts ? page.created_by.id === bot : holds(page, line.properties))
      const [page, ...others] = (found.get(line.key) ?? []).filter(isIt)
      return page && (inserts || others.length === 0) ? receipt(line.record, page.id) : []
    })
  }

  // ---- the data source -------------------------------------------------------------------------------------------------

  async function open(context: Context<Config>): Promise<Source> {
    const client = await connect(context)
    if (memory?.run !== context.run) {
      const id = place.dataSource ?? (await onlyDataSource(client, place.database!))
      memory = { run: context.run, id, properties: await schema(client, id), made: new Map() }
    }
    return { client, ...memory }
  }

  async function onlyDataSource(client: Client, database_id: string): Promise<string> {
    const answer = await asked(client.databases.retrieve({ database_id }), 'database')
    const sources = 'data_sources' in answer ? answer.data_sources : []
    if (sources.length === 1) return sources[0]!.id
    const which = sources.map(({ id, name }) => `${name} (${id})`).join(', ')
    throw new FatalError(
      `${me}: the database has ${sources.length} data sources: give dataSource instead${which && `, one of ${which}`}`,
    )
  }

  async function schema(client: Client, data_source_id: string): Promise<Schema> {
    return (await asked(client.dataSources.retrieve({ data_source_id }), 'data_source')).properties
  }

  /** The pages of each key. */
  async function find(
    source: Source,
    lines: readonly Line[],
    { match }: Context<Config>,
  ): Promise<Map<string, Page[]>> {
    const found = new Map<string, Page[]>()
    const { client, id: data_source_id } = source
    const keys = [...new Map(lines.map(({ key, values }) => [key, values])).values()]
    // a filter by an option that does not exist is refused, and no page can have it
    const isThere = (values: Values) => match.every((name, at) => hasOption(source.properties[name]!, values[at]))
    if (!keys.every(isThere)) source.properties = memory!.properties = await schema(client, data_source_id)
    const wanted = keys.filter(isThere).map((values) => filterOf(source.properties, match, values))
    for (const filter of together(wanted, match.length === 1)) {
      let start_cursor: string | undefined
      do {
        const query = { data_source_id, filter, page_size: 100, start_cursor } as QueryDataSourceParameters
        const { results, next_cursor } = await asked(client.dataSources.query(query), 'list')
        for (const page of results) {
          if (page.object !== 'page' || !('properties' in page)) continue
          const key = JSON.stringify(match.map((name) => valueIn(page, name)))
          found.set(key, [...(found.get(key) ?? []), page])
        }
        start_cursor = next_cursor ?? undefined
      } while (start_cursor !== undefined)
    }
    return found
  }

  // ---- requests --------------------------------------------------------------------------------------------------------

  async function connect({ config: { token, endpoint }, http }: Context<Config>): Promise<Client> {
    const sdk = await import('@notionhq/client').catch((cause: unknown) => {
      throw new ConfigError(
        `${me}: the package @notionhq/client cannot be loaded; install it: npm install @notionhq/client`,
        { cause },
      )
    })
    return new sdk.Client({
      auth: token,
      baseUrl: endpoint.replace(/\/+$/, ''),
      retry: false,
      timeoutMs: 2 ** 31 - 1, // it would leave the request running; `http` ends it
      logLevel: sdk.LogLevel.ERROR,
      // paced, and cut off with the call; what it throws says what is proven, and passes through the client as it is
      fetch: (url, { method, headers, body } = {}) =>
        http(url, { method, headers, body: body as string | undefined, read: url.endsWith('/query'), timeout: '60s' }),
    })
  }

  /** The answer to a request that only reads. Whatever is thrown, nothing was applied. */
  async function asked<T extends { object: string }, K extends T['object']>(
    request: Promise<T>,
    object: K,
  ): Promise<T & { object: K }> {
    const answer = await request.catch((error: unknown) => {
      const after = error instanceof HttpError ? afterOf(error) : undefined
      if (error instanceof SyntaxError) throw new FatalError(notNotion)
      throw proof(error) ?? new RetryableError(`${messageOf(error)}`, { after })
    })
    if (answer.object === object) return answer as T & { object: K }
    throw new FatalError(notNotion)
  }

  function change({ client }: Source, { record, properties }: Line, page_id: string): Promise<Outcome | undefined> {
    return attempt(record, client.pages.update({ page_id, properties }))
  }

  async function create({ client, id }: Source, { record, properties }: Line): Promise<Outcome> {
    const parent = { type: 'data_source_id', data_source_id: id } as const
    const outcome = await attempt(record, client.pages.create({ parent, properties }))
    if (outcome) return outcome
    throw new FatalError(notShared)
  }

  /** What becomes of a record in a request that writes; `undefined` when its page is not there or in the trash. */
  async function attempt(
    record: AnyRow,
    request: Promise<{ object: string; id: string; in_trash?: boolean }>,
  ): Promise<Outcome | undefined> {
    try {
      const { object, id, in_trash } = await request
      if (object !== 'page' || !id) throw new TypeError(notNotion)
      return in_trash ? undefined : receipt(record, id)
    } catch (error) {
      const isGone =
        error instanceof HttpError &&
        (error.status === 404 || (error.status === 400 && /archived|in (the )?trash/.test(error.detail ?? '')))
      if (isGone) return undefined
      const known = proof(error)
      // the properties are not what they were when the run began: look at them again
      const moved =
        known instanceof RejectedError && /is not a property that exists|is expected to be/.test(known.message)
      if (moved) memory = undefined
      if (known instanceof RejectedError && !moved) return reject(record, known.message)
      throw moved ? new RetryableError(`${me}: ${known.message}`) : (known ?? new Unanswered(record, error))
    }
  }

  /** The error that says why nothing was applied; `undefined` when it may have been. */
  function proof(error: unknown): Error | undefined {
    if (error instanceof NetworkError && !error.connected) return new RetryableError(error.message)
    if (error instanceof ConfigError || error instanceof FatalError) return error
    if (!(error instanceof HttpError) || error.status === 408 || error.status === 409 || error.status >= 500)
      return undefined
    const { status, detail = error.message } = error
    if (status === 429) return new RetryableError(error.message, { after: afterOf(error) })
    if (status === 401) return new FatalError(`${me}: 401: ${detail} Check ${secretName}: it is wrong, or was revoked`)
    if (status === 403)
      return new FatalError(
        `${me}: 403: ${detail} Give the connection the capabilities to read, insert and update content`,
      )
    if (status === 404) return new FatalError(notShared)
    if (status >= 400) return new RejectedError(detail)
    return new FatalError(error.message)
  }
}

const notNotion = `${me}: the answer is not Notion's, a web page perhaps: check endpoint, and whether a proxy asks for a sign-in`
const notShared = `${me}: 404: Notion finds no such database or data source: check the id, and that it is shared with the connection (in Notion: the menu •••, Connections)`

/** Nobody knows whether this record was written. */
class Unanswered extends Error {
  constructor(
    readonly record: AnyRow,
    cause: unknown,
  ) {
    super(cause instanceof SyntaxError ? notNotion : messageOf(cause))
  }
}

/** Records with what became of them; nothing more to say means done. */
type Answers = AsyncGenerator<readonly [record: AnyRow, outcome: Outcome | undefined]>

/** A failure ends a batch early: what was not sent by then can be sent again, and of one record nothing is known. */
async function answers(batch: AnyRow[], work: Answers): Promise<Outcome[]> {
  const answered = new Map<AnyRow, Outcome | undefined>()
  try {
    for await (const [record, outcome] of work) answered.set(record, outcome)
  } catch (error) {
    const lost = error instanceof Unanswered ? error.record : undefined
    if (answered.size === 0 && (!lost || batch.length === 1)) throw error // it holds for the whole batch
    const after = error instanceof RetryableError ? error.after : undefined
    for (const record of batch) {
      if (!answered.has(record))
        answered.set(record, record === lost ? unknown(record) : retry(record, { ...(after && { after }) }))
    }
  }
  return [...answered.values()].filter((outcome) => outcome !== undefined)
}

function afterOf({ retryAfter }: HttpError): `${number}ms` | undefined {
  return retryAfter === undefined ? undefined : `${retryAfter}ms`
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function several(pages: readonly Page[]): string {
  return `its key stands in ${pages.length} pages: keep one of ${pages.map(({ url }) => url).join(' ')}`
}

/** The id in an address, or an id, as UUID. The view's id, which may follow in the query, is not it. */
function idOf(option: string, text: string): string {
  const [, id] =
    /([0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12})$/i.exec(text.trim().replace(/[?#].*$/s, '')) ??
    []
  if (id)
    return id
      .replaceAll('-', '')
      .toLowerCase()
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
  throw new ConfigError(
    `${me}: ${option} holds no id: give the 32 digits at the end of the address in the browser, or the address`,
  )
}

// ---- look-ups --------------------------------------------------------------------------------------------------------

type Page = Extract<Awaited<ReturnType<Client['pages']['retrieve']>>, { properties: unknown }>
type Schema = DataSourceObjectResponse['properties']
type Properties = NonNullable<CreatePageParameters['properties']>
type Values = readonly unknown[]

interface Source {
  readonly client: Client
  readonly id: string
  properties: Schema
  readonly made: Map<string, string>
}

/** Types of properties that can be a key: those that `equals` compares with a text or a number. */
const keyTypes: ReadonlySet<string> = new Set([
  'title',
  'rich_text',
  'number',
  'select',
  'status',
  'email',
  'url',
  'phone_number',
])

/** Most conditions in one list, and most pages in one answer. */
const most = 100

function filterOf(schema: Schema, match: readonly string[], values: Values): object {
  const conditions = match.map((property, at) => ({ property, [schema[property]!.type]: { equals: values[at] } }))
  return conditions.length === 1 ? conditions[0]! : { and: conditions }
}

/** As few filters as find all of these: lists stand in lists, but not deeper than Notion allows. */
function together(filters: readonly object[], nest: boolean): readonly object[] {
  const lists: object[] = []
  for (let at = 0; at < filters.length; at += most) lists.push({ or: filters.slice(at, at + most) })
  return nest && lists.length > 1 ? [{ or: lists }] : lists
}

function hasOption(property: Schema[string], value: unknown): boolean {
  const options =
    property.type === 'select'
      ? property.select.options
      : property.type === 'status'
        ? property.status.options
        : undefined
  return !options || options.some(({ name }) => name === value)
}

/** A property of a page as plain value, so that it can be compared with what was sent. */
function valueIn(page: Page, name: string): unknown {
  const property = page.properties[name] as { type: string } & Record<string, unknown>
  return property && plain(property.type, property[property.type])
}

function plain(type: string, value: unknown): unknown {
  const list = Array.isArray(value) ? value : []
  if (type === 'title' || type === 'rich_text')
    return list.map(({ text, plain_text = text.content }) => plain_text).join('')
  if (type === 'select' || type === 'status') return (value as { name: string } | null)?.name
  if (type === 'date') return value && instantOf((value as { start: string }).start)
  return Array.isArray(value) ? value.map(({ name, id }) => name ?? id) : value
}

const instantOf = (start: string) =>
  start.length === 10 ? start : new Date(/T.*(Z|[+-]\d\d:?\d\d)$/.test(start) ? start : `${start}Z`).getTime()

function holds(page: Page, properties: Properties): boolean {
  return Object.entries(properties).every(([name, sent]) => {
    const [[type, value] = []] = Object.entries(sent)
    return JSON.stringify(plain(type!, value)) === JSON.stringify(valueIn(page, name))
  })
}

// ---- records ---------------------------------------------------------------------------------------------------------

interface Line {
  readonly record: AnyRow
  readonly properties: Properties
  readonly values: Values
  readonly key: string
}

const isLine = (line: Line | ReturnType<typeof reject>): line is Line => 'properties' in line

/** Records as Notion's properties, and rejections of those that do not fit. */
function* readRecords(
  batch: readonly AnyRow[],
  schema: Schema,
  match: readonly string[],
): Generator<Line | ReturnType<typeof reject>> {
  const names = new Set(batch.flatMap((record) => Object.keys(record).filter((name) => record[name] !== undefined)))
  for (const name of names) writerOf(schema, name)
  for (const name of match) {
    const { type = 'missing' } = schema[name] ?? {}
    if (!keyTypes.has(type))
      throw new FatalError(
        `${me}: pages cannot be found by ${JSON.stringify(name)}, which is ${type}: give match, properties of type ${[...keyTypes].join(', ')}`,
      )
  }
  for (const record of batch) {
    try {
      const entries = Object.entries(record).filter(([, value]) => value !== undefined)
      const properties = Object.fromEntries(
        entries.map(([name, value]) => [name, propertyOf(schema, name, value)]),
      ) as Properties
      const values = match.map((name) =>
        plain(schema[name]!.type, (properties[name] as AnyRow | undefined)?.[schema[name]!.type]),
      )
      const blank = match.find((_, at) => values[at] === undefined || values[at] === null || values[at] === '')
      if (blank !== undefined) throw new RejectedError(`${blank}, by which its page is to be found, is blank`)
      yield { record, properties, values, key: JSON.stringify(values) }
    } catch (error) {
      if (!(error instanceof RejectedError)) throw error
      yield reject(record, error.message)
    }
  }
}

function propertyOf(schema: Schema, name: string, value: unknown): object {
  const { type, write } = writerOf(schema, name)
  try {
    return { [type]: value === null ? (blanks[type] ?? null) : write(value) }
  } catch (error) {
    throw new RejectedError(`${name}: ${messageOf(error)}`)
  }
}

function writerOf(
  schema: Schema,
  name: string,
): { readonly type: string; readonly write: (value: unknown) => unknown } {
  const type = Object.hasOwn(schema, name) ? schema[name]!.type : undefined
  const write = type && writers[type]
  if (write) return { type, write }
  const what = type
    ? `is of type ${type}, which cannot be written`
    : `is not a property; there are ${Object.keys(schema).join(', ')}`
  throw new FatalError(
    `${me}: the field ${JSON.stringify(name)} ${what}: leave it out in map, or ${type ? 'give it to another property' : 'add it in Notion'}`,
  )
}

const blanks: Readonly<Record<string, unknown>> = {
  title: [],
  rich_text: [],
  multi_select: [],
  relation: [],
  people: [],
  checkbox: false,
}

/** The value of a property in the form of its type: https://developers.notion.com/reference/page-property-values. */
const writers: Readonly<Record<string, (value: unknown) => unknown>> = {
  title: richText,
  rich_text: richText,
  number: numberOf,
  select: (value) => ({ name: textOf(value) }),
  status: (value) => ({ name: textOf(value) }),
  multi_select: (value) => listOf(value).map((name) => ({ name })),
  relation: (value) => listOf(value).map((id) => ({ id })),
  people: (value) => listOf(value).map((id) => ({ object: 'user', id })),
  date: (value) => ({ start: dateOf(value) }),
  checkbox: (value) => (typeof value === 'boolean' ? value : unfit('true or false', value)),
  url: (value) => textOf(value, 2000),
  email: (value) => textOf(value, 200),
  phone_number: (value) => textOf(value, 200),
}

function unfit(wanted: string, value: unknown): never {
  throw new RejectedError(
    `it takes ${wanted}, not ${Array.isArray(value) ? 'a list' : value instanceof Date ? 'a date' : `a value of type ${typeof value}`}`,
  )
}

function textOf(value: unknown, longest = 200_000): string {
  const text =
    value instanceof Date
      ? dateOf(value)
      : ['string', 'number', 'bigint', 'boolean'].includes(typeof value)
        ? String(value)
        : unfit('a text', value)
  if (text.length > longest)
    throw new RejectedError(`a text of ${text.length} characters, where Notion takes ${longest}`)
  return text
}

/** Runs of at most 2,000 UTF-16 units, which is how Notion counts, that break no character in two. */
function richText(value: unknown): object[] {
  const text = textOf(value)
  if (/\p{Surrogate}/u.test(text)) throw new RejectedError('a text with half a character in it')
  const runs = text.match(/[\s\S]{1,2000}(?![\udc00-\udfff])/g) ?? []
  if (runs.length > most) throw new RejectedError(`a text of ${runs.length} runs, where Notion takes ${most}`)
  return runs.map((content) => ({ type: 'text', text: { content } }))
}

function listOf(value: unknown): string[] {
  const items = Array.isArray(value) ? value.map((item) => textOf(item)) : unfit('a list', value)
  if (items.length > most) throw new RejectedError(`${items.length} entries, where Notion takes ${most}`)
  return items
}

function dateOf(value: unknown): string {
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value.toISOString()
  if (typeof value === 'string' && /^\d{4}-\d\d-\d\d(T[\d:.]+(Z|[+-]\d\d:?\d\d)?)?$/.test(value)) return value
  return unfit('a Date or a text such as 2026-11-21', value)
}

/** Notion keeps numbers as doubles; a text or a bigint must come through that with all its digits. */
function numberOf(value: unknown): number {
  const text = ['number', 'bigint', 'string'].includes(typeof value) ? String(value) : unfit('a number', value)
  const number = Number(text)
  if (text.trim() === '' || !Number.isFinite(number)) return unfit('a number', value)
  if (typeof value === 'number' || digits(text) === digits(String(number))) return number
  throw new RejectedError('a number with more digits than Notion keeps: make the property a text')
}

/** The digits of a decimal number and where its point stands, without zeros that say nothing. */
function digits(text: string): string {
  const [, sign, whole = '', part = '', power = '0'] = /^([+-]?)(\d*)\.?(\d*)(?:e([+-]?\d+))?$/i.exec(text.trim()) ?? []
  const significant = `${whole}${part}`.replace(/^0+/, '')
  const kept = significant.replace(/0+$/, '')
  return `${sign === '-' ? '-' : ''}${kept}e${kept && Number(power) - part.length + significant.length - kept.length}`
}
