import type { Client, QueryDataSourceParameters } from '@notionhq/client'
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
  RejectedError,
  RetryableError,
  receipt,
  reject,
  retry,
  unknown,
} from 'spillway'
import { z } from 'zod'
import { type Answers, answers, Unanswered } from './notion/answers.js'
import { hasOption, idOf, together } from './notion/look-up.js'
import {
  holds,
  isLine,
  keyTypes,
  type Line,
  most,
  type Page,
  readRecords,
  type Schema,
  type Values,
  valueIn,
} from './notion/properties.js'

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
  const place = { [dataSource ? 'dataSource' : 'database']: idOf((dataSource ?? database)!) }
  const secretName =
    typeof given.token === 'object' ? `secret ${given.token.name}` : 'token (DESTINATION__NOTION__TOKEN)'

  /** The data source as it is in this run. */
  let memory: Source | undefined
  /** Until then Notion has asked to be left alone. */
  let quietUntil = 0

  return destination({
    name: me,
    batchSize: 125, // one look-up finds them all
    concurrency: 1,
    rate: '3/s', // https://developers.notion.com/reference/request-limits
    timeout: '5min', // of a whole batch; each request has a minute
    settle: '30s',
    replaySafe: false, // a page must be looked for before it is made again
    match,
    config,
    target: ({ endpoint }: Config) => ({ endpoint, ...place }),
  })({
    insert: (batch, context) => answers(batch, write(batch, context)),
    update: (batch, context) => answers(batch, write(batch, context)),
    upsert: (batch, context) => answers(batch, write(batch, context)),
    delete: (batch, context) => answers(batch, write(batch, context)),
    verify,
  })(given)

  // ---- handlers ------------------------------------------------------------------------------------------------------

  async function* write(batch: AnyRow[], context: Context<Config>): Answers {
    const { operation } = context
    const [source, client] = await open(context)
    const create = async ({ record, properties }: Line): Promise<Outcome> => {
      const parent = { type: 'data_source_id', data_source_id: source.id } as const
      const outcome = await attempt(record, client.pages.create({ parent, properties }))
      if (!outcome) throw new FatalError(notShared)
      return outcome
    }
    const change = ({ record, properties }: Line, page_id: string) =>
      attempt(
        record,
        client.pages.update(operation === 'delete' ? { page_id, in_trash: true } : { page_id, properties }),
      )

    const lines: Line[] = []
    for (const line of readRecords(batch, source.properties, operation === 'insert' ? [] : context.match)) {
      const id = context.remoteId(line.record)
      if (!isLine(line)) yield [line.record, line]
      else if (operation === 'insert') yield [line.record, await create(line)]
      else {
        const outcome = id && (await change(line, id))
        if (outcome || (id && operation === 'delete')) yield [line.record, outcome || undefined]
        else lines.push(line)
      }
    }
    const found = await find(source, client, lines, context.match)
    for (const line of lines) {
      const { record, key } = line
      const pages = found.get(key) ?? []
      const id = pages[0]?.id
      if (pages.length > 1) {
        const urls = pages.map(({ url }) => url).join(' ')
        yield [record, reject(record, `its key stands in ${pages.length} pages: keep one of ${urls}`)]
      } else if (id === undefined && operation === 'upsert') yield [record, await create(line)]
      else if (id === undefined)
        yield [record, operation === 'delete' ? undefined : reject(record, 'no page has its key')]
      else {
        const outcome = await change(line, id)
        yield [record, outcome ?? (operation === 'delete' ? undefined : retry(record))] // gone just now: look again
      }
    }
  }

  /** Which records are there as they should be. Of `insert`: in a page that this connection made. */
  async function verify(batch: AnyRow[], context: Context<Config>): Promise<Outcome[]> {
    const [source, client] = await open(context)
    const { match, operation } = context
    const inserts = operation === 'insert'
    const canTell = match.length > 0 && match.every((name) => keyTypes.includes(source.properties[name]?.type ?? ''))
    if (inserts && !canTell) return batch.map((record) => unknown(record))
    const lines = [...readRecords(batch, source.properties, match)]
    const found = await find(source, client, lines.filter(isLine), match)
    const bot = inserts && found.size > 0 ? (await asked(client.users.me({}), 'user')).id : undefined
    return lines.flatMap((line) => {
      if (!isLine(line)) return unknown(line.record)
      const isIt = (page: Page) => (inserts ? page.created_by.id === bot : holds(page, line.properties))
      const [page, ...others] = (found.get(line.key) ?? []).filter(isIt)
      return page && (inserts || others.length === 0) ? receipt(line.record, page.id) : []
    })
  }

  // ---- the data source -------------------------------------------------------------------------------------------------

  async function open(context: Context<Config>): Promise<[Source, Client]> {
    const wait = quietUntil - Date.now()
    if (wait > 0) throw new RetryableError(`${me}: Notion asked to be left alone`, { after: `${wait}ms` })
    const client = await connect(context)
    if (memory?.run !== context.run) {
      const id = place['dataSource'] ?? (await onlyDataSource(client, place['database']!))
      memory = { run: context.run, id, properties: await schema(client, id) }
    }
    return [memory, client]
  }

  async function onlyDataSource(client: Client, database_id: string): Promise<string> {
    const answer = await asked(client.databases.retrieve({ database_id }), 'database')
    const sources = 'data_sources' in answer ? answer.data_sources : []
    if (sources.length === 1) return sources[0]!.id
    const which = sources.map(({ id, name }) => `${name} (${id})`).join(', ')
    throw new FatalError(`${me}: the database has ${sources.length} data sources: give dataSource instead: ${which}`)
  }

  async function schema(client: Client, data_source_id: string): Promise<Schema> {
    return (await asked(client.dataSources.retrieve({ data_source_id }), 'data_source')).properties
  }

  /** The pages of each key. */
  async function find(source: Source, client: Client, lines: readonly Line[], match: readonly string[]) {
    const found = new Map<string, Page[]>()
    const keys = [...new Map(lines.map(({ key, values }) => [key, values])).values()]
    // a filter by an option that does not exist is refused, and no page can have it
    const isThere = (values: Values) => match.every((name, at) => hasOption(source.properties[name]!, values[at]))
    if (!keys.every(isThere)) source.properties = await schema(client, source.id)
    const conditions = keys.filter(isThere).map((values) => {
      const all = match.map((name, at) => ({ property: name, [source.properties[name]!.type]: { equals: values[at] } }))
      return all.length === 1 ? all[0]! : { and: all }
    })
    for (const filter of together(conditions, match.length === 1)) {
      let start_cursor: string | undefined
      do {
        const query = { data_source_id: source.id, filter, page_size: most, start_cursor } as QueryDataSourceParameters
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
      const next = 'install it: npm install @notionhq/client'
      throw new ConfigError(`${me}: the package @notionhq/client cannot be loaded; ${next}`, { cause })
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
  async function asked<T extends { object: string }>(request: Promise<T>, object: T['object']): Promise<T> {
    const answer = await request.catch((error: unknown) => {
      if (error instanceof SyntaxError) throw new FatalError(notNotion)
      throw proof(error) ?? busy(error)
    })
    if (answer.object !== object) throw new FatalError(notNotion)
    return answer
  }

  /** What becomes of a record by a request that writes; `undefined` when its page is not there, or in the trash. */
  async function attempt(record: AnyRow, request: Promise<object>): Promise<Outcome | undefined> {
    try {
      const { object, id, in_trash } = (await request) as Partial<Page>
      if (object !== 'page' || !id) throw new SyntaxError()
      return in_trash ? undefined : receipt(record, id)
    } catch (error) {
      if (error instanceof HttpError && isGone(error)) return undefined
      const known = proof(error)
      if (!known) throw new Unanswered(record, error instanceof SyntaxError ? notNotion : busy(error).message)
      if (!(known instanceof RejectedError)) throw known
      if (!/is not a property that exists|is expected to be/.test(known.message)) return reject(record, known.message)
      memory = undefined // the properties are not what they were when the run began: look at them again
      throw new RetryableError(`${me}: ${known.message}`)
    }
  }

  function busy(error: unknown): RetryableError {
    const after = error instanceof HttpError ? error.retryAfter : undefined
    quietUntil = Date.now() + (after ?? 0)
    return new RetryableError(messageOf(error), { after: after === undefined ? after : `${after}ms` })
  }

  /** The error that says why nothing was applied; `undefined` when it may have been. */
  function proof(error: unknown): Error | undefined {
    if (error instanceof NetworkError && !error.connected) return new RetryableError(error.message)
    if (error instanceof ConfigError) return error
    if (!(error instanceof HttpError) || [408, 409].includes(error.status) || error.status >= 500) return undefined
    const { status, detail = error.message } = error
    if (status === 429) return busy(error)
    if (status === 401) return new FatalError(`${me}: 401: ${detail} Check ${secretName}: it is wrong, or was revoked`)
    if (status === 403) return new FatalError(`${me}: 403: ${detail} ${mayNot}`)
    if (status === 404) return new FatalError(notShared)
    return status < 400 ? new FatalError(error.message) : new RejectedError(detail)
  }
}

const notNotion = `${me}: the answer is not Notion's, a web page perhaps: check endpoint, and whether a proxy asks for a sign-in`
const notShared = `${me}: 404: Notion finds no such database or data source: check the id, and that it is shared with the connection (in Notion: the menu •••, Connections)`
const mayNot = 'Give the connection the capabilities to read, insert and update content'

/** A page in the trash cannot be changed: `Can't edit block that is archived.` */
function isGone({ status, detail = '' }: HttpError): boolean {
  return status === 404 || (status === 400 && /archived|in (the )?trash/.test(detail))
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** A data source as it is in a run. */
interface Source {
  readonly run: string
  readonly id: string
  properties: Schema
}
