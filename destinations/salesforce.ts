import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  destination,
  FatalError,
  HttpError,
  type HttpRequest,
  type Injected,
  NetworkError,
  type Outcome,
  RejectedError,
  RetryableError,
  receipt,
  reject,
  retry,
  TimeoutError,
  unknown,
} from 'spillway'
import type { z } from 'zod'
import { answers, isGone, isUnknown, shown } from './salesforce/answers.js'
import { csvOf, endJob, runJob, type Surroundings } from './salesforce/bulk.js'
import { type Asking, type Config, config, Org, passing } from './salesforce/org.js'
import { identifier, inQueries, type Line, literal, type RecordError, read } from './salesforce/records.js'

/**
 * How to sign in: `clientId` with `clientSecret` (client credentials; `loginUrl` is your My Domain), with `username` and `privateKey`
 * (JWT bearer), or with `refreshToken`; or `accessToken` with `instanceUrl`.
 */
export type SalesforceConfig = z.input<typeof config>

/** What {@link salesforce} is told. The config's fields may be left out; they are then injected. */
export interface SalesforceOptions extends Injected<SalesforceConfig> {
  /** The API name of the object, such as `Account` or `Invoice__c`. */
  readonly object: string
  /**
   * The External ID field by which records are found; it should be unique. `'Id'` updates and deletes by record id.
   *
   * @default none: only `insert` works, and rows whose answer was lost are held
   */
  readonly externalId?: string | undefined
  /** From how many records in a batch on they go as one job of Bulk API 2.0; `Infinity` for never. @default 2000 */
  readonly bulkFrom?: number | undefined
  /** The share of the org's requests of 24 hours, whoever made them, at which a run stops: above 0, at most 1. @default 0.8 */
  readonly dailyShare?: number | undefined
  /** @default '65.0' */
  readonly apiVersion?: string | undefined
}

const me = 'salesforce'

/** https://developer.salesforce.com/docs/platform/api-rest/guide/resources-composite-sobjects-collections.html */
const mostRecords = 200

/**
 * Records of one Salesforce object: `insert`, and with an External ID also `update`, `upsert` and `delete`.
 *
 * `null` and the empty text clear a field, an absent one is left alone. A lookup is filled by the other object's External ID:
 * `{ Owner__r: { Ext__c: 'A-7' } }`. Instants are sent to the millisecond (Salesforce keeps seconds), bytes as base64. A record with
 * a list, with `attributes` or an `Id` of its own, or with an empty External ID is rejected, alone. Salesforce takes no number for a
 * text field: let `map` make it text.
 *
 * Up to `bulkFrom` records go 200 a request. More are one job of Bulk API 2.0 (deletes are not), whose id is noted before its rows
 * leave: after a crash or a lost answer that job is waited for, and none of its rows goes into another as long as it may still take
 * them. An `insert` is not repeated by guess: with an External ID, what is there is looked up.
 *
 * Locked rows are sent again; what the org's rules refuse becomes a dead letter with Salesforce's code, message and fields. A run
 * stops when `dailyShare` of the org's requests are used.
 *
 * Signing in needs `npm install jsforce@3` (an `accessToken` alone does not).
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * await sync({
 *   name: 'accounts',
 *   from: accounts,
 *   to: salesforce({ object: 'Account', externalId: 'Ext__c', loginUrl: 'https://acme.my.salesforce.com' }),
 *   key: 'id',
 *   map: ({ id, name }) => ({ Ext__c: String(id), Name: name }),
 *   mode: 'mirror',
 * }).run()
 * ```
 */
export function salesforce(options: SalesforceOptions): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete'> {
  const { object, externalId, bulkFrom = 2000, dailyShare = 0.8, apiVersion = '65.0', ...given } = options
  for (const [option, name] of Object.entries({ object, externalId: externalId ?? 'Id' })) {
    if (identifier.test(name)) continue
    throw new ConfigError(`${me}: ${option} is ${JSON.stringify(name)}; it must be an API name, such as Invoice__c`)
  }
  if (!(bulkFrom >= 1)) throw new ConfigError(`${me}: bulkFrom is ${bulkFrom}; it must be at least 1`)
  if (!(dailyShare > 0 && dailyShare <= 1)) {
    throw new ConfigError(`${me}: dailyShare is ${dailyShare}; it must be above 0 and at most 1`)
  }
  if (!/^\d{2,3}\.0$/.test(apiVersion)) {
    throw new ConfigError(`${me}: apiVersion is ${JSON.stringify(apiVersion)}; it must be like '65.0'`)
  }
  const key = externalId?.toLowerCase() === 'id' ? 'Id' : externalId

  /** Each run has a config of its own, and learns anew what is used of the day. */
  const orgs = new WeakMap<Config, Org>()
  const callsOf = (context: Asking & { readonly config: Config }) => {
    const org = orgs.get(context.config) ?? new Org(context.config, `/services/data/v${apiVersion}`, dailyShare)
    orgs.set(context.config, org)
    return (method: string, path: string, init?: HttpRequest) => org.call(context, method, path, init)
  }

  const handlers = {
    insert: (batch: AnyRow[], context: Context<Config>) => write('insert', batch, context),
    update: (batch: AnyRow[], context: Context<Config>) => write('update', batch, context),
    upsert: (batch: AnyRow[], context: Context<Config>) => write('upsert', batch, context),
    delete: (batch: AnyRow[], context: Context<Config>) => write('delete', batch, context),
    verify,
  }
  const { insert, update, delete: remove } = handlers
  // https://developer.salesforce.com/docs/platform/api-rest/guide/resources-composite-sobjects-collections-upsert.html: no record ids
  const able = key === undefined ? { insert } : key === 'Id' ? { update, delete: remove } : handlers
  return destination({
    name: me,
    batchSize: 10_000, // as many as Salesforce takes from a job at once, of which it counts 15,000 in 24 hours
    batchBytes: 50_000_000, // of JSON; the file of a job may have 100 MB
    timeout: '1h', // a job may take that long; a request of ours may not
    settle: '2min',
    match: key,
    config,
    target: ({ loginUrl, instanceUrl }: Config) => ({ org: loginUrl ?? instanceUrl, object, externalId: key }),
  })(able as typeof handlers)(given)

  // ---- handlers ------------------------------------------------------------------------------------------------------

  async function write(
    operation: 'insert' | 'update' | 'upsert' | 'delete',
    batch: AnyRow[],
    context: Context<Config>,
  ): Promise<Outcome[]> {
    const { lines, rejected } = read(batch, key)
    const around = surroundings(context, operation)
    const earlier = context.remembered && (await endJob(context.remembered, lines, around))
    if (earlier) return [...rejected, ...earlier]
    const jobs = key !== undefined && operation !== 'delete' && lines.length >= bulkFrom
    const there = jobs && operation === 'update' ? await locate(operation, lines, context, around) : undefined
    const rows = there?.found.map((line) => ({ ...line, fields: { ...line.fields, Id: line.id } })) ?? lines
    const csv = jobs && rows.length > 0 ? csvOf(rows) : undefined
    if (csv === undefined) return [...rejected, ...(await inRequests(operation, lines, context, around))]
    const description = { object, operation, ...(operation === 'upsert' && { externalIdFieldName: key! }) }
    return [...rejected, ...(there?.refused ?? []), ...(await runJob(description, rows, csv, around))]
  }

  /** Of inserts whose answer was lost: what their job tells, or whether records have their External IDs. */
  async function verify(batch: AnyRow[], context: Context<Config>): Promise<Outcome[]> {
    const { lines } = read(batch, key)
    const around = surroundings(context, 'insert')
    const earlier = context.remembered && (await endJob(context.remembered, lines, around))
    const told = earlier || lines.map(({ record }) => unknown(record))
    const open = lines.filter((_, at) => isUnknown(told[at]!))
    const idsOf = await lookUp(open, around)
    const found = open.flatMap((line) => idsOf(line).map((id) => receipt(line.record, id)))
    return [...told.filter((outcome) => 'remoteId' in outcome), ...found]
  }

  function surroundings(context: Context<Config>, operation: string): Surroundings {
    const judge = (record: object, errors: readonly RecordError[]): Outcome => {
      const again = errors.some(
        (error) => passing.has(error.statusCode) || (operation === 'upsert' && context.attempt === 1 && isRace(error)),
      )
      return again ? retry(record) : reject(record, errors.map((error) => shown(error, record)).join('; '))
    }
    return { call: callsOf(context), externalId: key ?? '', context, judge }
  }

  /** Somebody else made a record with this External ID while Salesforce looked for one: it finds it the next time. */
  function isRace({ statusCode, message, fields = [] }: RecordError): boolean {
    return statusCode === 'DUPLICATE_VALUE' && (fields.includes(key!) || message.includes(key!))
  }

  /** Sends records 200 a request. What it throws says that nothing at all was applied, or is about one request alone. */
  async function inRequests(
    operation: 'insert' | 'update' | 'upsert' | 'delete',
    lines: readonly Line[],
    context: Context<Config>,
    around: Surroundings,
  ): Promise<Outcome[]> {
    const outcomes: Outcome[] = []
    for (let at = 0; at < lines.length; at += mostRecords) {
      const some = lines.slice(at, at + mostRecords)
      try {
        outcomes.push(...(await save(operation, some, context, around)))
      } catch (error) {
        const nothing = appliedNothing(error)
        if (at === 0 && (nothing || some.length === lines.length)) throw error
        const rest = lines.slice(nothing ? at : at + mostRecords)
        if (!nothing) outcomes.push(...some.map(({ record }) => unknown(record)))
        return [...outcomes, ...rest.map(({ record }) => retry(record))]
      }
    }
    return outcomes
  }

  async function save(
    operation: 'insert' | 'update' | 'upsert' | 'delete',
    lines: readonly Line[],
    context: Context<Config>,
    around: Surroundings,
  ): Promise<Outcome[]> {
    const path = '/composite/sobjects'
    const send = async (method: string, to: string, records: readonly object[]) => {
      // the object is ours to say, whatever a record is called
      const typed = records.map((fields) => ({ attributes: { type: object }, ...fields }))
      return (await around.call(method, to, { json: { allOrNone: false, records: typed } })).json()
    }
    const fields = lines.map((line) => line.fields)
    if (operation === 'insert') return answers(lines, await send('POST', path, fields), around)
    if (operation === 'upsert') return answers(lines, await send('PATCH', `${path}/${object}/${key}`, fields), around)

    const { found, refused } = await locate(operation, lines, context, around)
    if (found.length === 0) return refused
    if (operation === 'update') {
      const records = found.map(({ fields: { [key!]: _, ...others }, id }) => ({ id, ...others }))
      return [...refused, ...answers(found, await send('PATCH', path, records), around)]
    }
    const query = { ids: found.map(({ id }) => id).join(), allOrNone: false }
    const told: unknown = await (await around.call('DELETE', path, { query })).json()
    const done = Array.isArray(told)
      ? told.map((one) => (one?.success === true || isGone(one) ? { success: true } : one))
      : told
    return [...refused, ...answers(found, done, around)]
  }

  /** Ids, from receipts or else by External ID. To delete what is not there is done. */
  async function locate(
    operation: 'update' | 'delete',
    lines: readonly Line[],
    context: Context<Config>,
    around: Surroundings,
  ): Promise<{ readonly found: readonly (Line & { readonly id: string })[]; readonly refused: Outcome[] }> {
    const known = lines.map((line) => (key === 'Id' ? line.key : context.remoteId(line.record)))
    const idsOf = await lookUp(
      lines.filter((_, at) => known[at] === undefined),
      around,
    )
    const all = lines.map((line, at) => ({ line, ids: known[at] === undefined ? idsOf(line) : [known[at]] }))
    return {
      found: all.flatMap(({ line, ids: [id, another] }) => (id && another === undefined ? { ...line, id } : [])),
      refused: all.flatMap(({ line: { record }, ids }) => {
        if (ids.length > 1) return reject(record, `${ids.length} records have its ${key}: make it unique`)
        return ids.length === 0 && operation === 'update' ? reject(record, `no ${object} has its ${key}`) : []
      }),
    }
  }

  /** The ids of the records that have the External IDs of these. */
  async function lookUp(lines: readonly Line[], { call }: Surroundings): Promise<(line: Line) => readonly string[]> {
    const ids = new Map<string, string[]>()
    for (const literals of inQueries(lines.map(({ fields }) => literal(fields[key!])))) {
      const q = `SELECT Id, ${key} FROM ${object} WHERE ${key} IN (${literals})`
      for (let next: string | undefined = '/query'; next !== undefined; ) {
        const page: Page = await reading(call('GET', next, next === '/query' ? { query: { q } } : {}))
        for (const { Id, ...found } of page.records) {
          // text is compared without case, as Salesforce does
          const value = String(found[key!]).toLowerCase()
          ids.set(value, [...(ids.get(value) ?? []), String(Id)])
        }
        next = page.done ? undefined : page.nextRecordsUrl.replace(/^\/services\/data\/v[\d.]+/, '')
      }
    }
    return (line) => ids.get(line.key.toLowerCase()) ?? []
  }
}

interface Page {
  readonly records: readonly AnyRow[]
  readonly done: boolean
  readonly nextRecordsUrl: string
}

/** Whether an error proves that its request was not carried out. */
function appliedNothing(error: unknown): boolean {
  if (error instanceof RetryableError || error instanceof RejectedError || error instanceof FatalError) return true
  if (error instanceof NetworkError) return !error.connected
  return error instanceof HttpError && error.status === 429
}

/** What fails here has changed nothing. */
async function reading(answer: Promise<Response>): Promise<Page> {
  try {
    const page = (await (await answer).json()) as Partial<Page>
    if (Array.isArray(page.records)) return page as Page
  } catch (error) {
    if (
      !(
        error instanceof NetworkError ||
        error instanceof TimeoutError ||
        (error instanceof HttpError && error.status >= 429)
      )
    )
      throw error
    throw new RetryableError(`${me}: records could not be looked up: ${error.message}`)
  }
  throw new FatalError(`${me}: the answer to a query holds no records: check instanceUrl`)
}
