import type { StandardSchemaV1 } from '@standard-schema/spec'
import { SourceError } from '../errors.js'
import { type Http, HttpError } from '../http.js'
import type { Out, Schema } from '../schema.js'
import { type CursorValue, createSource, type Reading, type Source } from '../source.js'
import type { AnyRow } from '../values.js'
import { at } from './rest/body.js'
import { checkList, prepare, type RestApi, type RestClient, type RestList } from './rest/client.js'
import { type Checked, checked } from './rest/options.js'
import type { Query } from './rest/paginate.js'
import { conforming } from './sql.js'

export type { OAuth2, RestAuth } from './rest/auth.js'
export type { Data } from './rest/body.js'
export { type RestApi, type RestClient, type RestList, restClient } from './rest/client.js'
export type { Paginate, Query, RestPage } from './rest/paginate.js'

/** What makes rows of a list. */
export interface RestRows {
  /**
   * The parameter that asks for rows from the sync's cursor value on, that value included; without it all are asked for, and
   * those read before are dropped. `format` writes the value. Not sent in a read without a cursor value.
   *
   * @default format: a Date in ISO 8601, anything else as it is
   */
  readonly since?:
    | string
    | { readonly parameter: string; readonly format?: (since: CursorValue) => string | number | bigint }
    | undefined
  /** Validates each row (Standard Schema), `include` included; what it gives out is the row. */
  readonly record?: Schema | undefined
}

/** One list of an API. */
export interface RestResource extends RestList, RestRows {
  /** Put behind `url`. With `parent`, `{number}` in it stands for that column of the parent's row. */
  readonly path: string
  /** The resource whose rows it is asked for once each. The parent is read in full for it, as the API gives it. */
  readonly parent?: string | undefined
  /** Columns of the parent's row to be added, by the names that they get: `{ issue: 'number' }`. */
  readonly include?: Readonly<Record<string, string>> | undefined
  /** A parent that has no such list (404), because it was deleted in between: an error, or no rows. @default 'error' */
  readonly notFound?: 'error' | 'no rows' | undefined
  /** Options of `sync` that go with this list, such as `{ key: 'id', mode: 'upsert' }`: they come back as `defaults` of its source. */
  readonly defaults?: object | undefined
}

/** What {@link rest} reads: an API whose `url` is one list. */
export type RestOptions = RestApi & Omit<RestRows, 'record'>

/** What {@link rest} reads: several lists of one API. */
export interface RestResources<R> extends RestApi {
  readonly resources: R
  /** Lists of a parent's rows that are asked for at once. @default 4 */
  readonly concurrency?: number | undefined
}

/** A source for each resource. */
export type RestSources<R> = {
  readonly [K in keyof R]: Source<RowOfResource<R[K]>> & {
    /** What the resource said; to be spread into `sync`. */
    readonly defaults: R[K] extends { readonly defaults: infer D extends object } ? D : object
  }
}

type RowOfResource<R> = R extends { readonly record: infer S extends StandardSchemaV1 } ? Out<S> & object : AnyRow

/**
 * The rows of a REST API: of the list at `url`, or with `resources` of several, each of them a source.
 *
 * An answer is JSON: an integer beyond 2^53 is a `bigint`, a fraction a double, dates are the text that the API writes. What fails in
 * passing (408, 425, 429, 5xx, the network) is asked again for five minutes, after `Retry-After` where it is given. Redirects are not
 * followed, and credentials go to no other origin.
 *
 * A list by page or offset shifts while rows are added or removed, so that one may be missed: a cursor or a `Link` is to be preferred
 * for `mirror` and `replace`.
 *
 * Many lists that are alike are made by a program: `resources` from `Object.fromEntries`. To read several as one, put
 * {@link restClient} in a source function.
 *
 * @example
 * ```ts
 * const api = rest({
 *   url: 'https://api.github.com/repos/nodejs/node',
 *   auth: { bearer: secret('GITHUB_TOKEN') },
 *   query: { per_page: 100 },
 *   resources: {
 *     issues: { path: '/issues', since: 'since', query: { state: 'all' }, defaults: { key: 'number', cursor: 'updated_at' } },
 *     comments: { path: '/issues/{number}/comments', parent: 'issues', include: { issue: 'number' }, defaults: { key: 'id' } },
 *   },
 * })
 * sync({ name: 'issues', from: api.issues, to: crm, ...api.issues.defaults })
 * ```
 *
 * @throws ConfigError when an option cannot work, or is none; when a read begins, naming a secret that is missing.
 * @throws SourceError while it is read, as {@link RestClient.pages} says, or a row does not fit `record`. It names the address
 * without its parameters, and the page.
 */
export function rest<const R extends Readonly<Record<string, RestResource>>>(options: RestResources<R>): RestSources<R>
export function rest<S extends Schema>(options: RestOptions & { readonly record: S }): Source<Out<S> & object>
export function rest<R extends object = AnyRow>(options: RestOptions): Source<R>
export function rest(
  options: RestApi &
    RestRows & {
      readonly resources?: Readonly<Record<string, RestResource>>
      readonly concurrency?: number | undefined
    },
): Source<object> | Readonly<Record<string, Source<object>>> {
  const { resources, concurrency = 4, since, record, ...api } = options
  const check = checked(api.name ?? 'rest')
  const { wrong } = check
  const client = prepare(api)
  if (!resources) {
    if ('concurrency' in options) throw wrong('concurrency is for resources with a parent')
    checkSince(since, 'since', check)
    return sourceOf(check.name, client, { list: { path: '', since, record } }, concurrency)
  }
  if (since !== undefined || record !== undefined)
    throw wrong('since and record belong to each resource: say them there')
  if (!Number.isInteger(concurrency) || concurrency < 1) throw wrong('concurrency must be a whole number above 0')
  const chain = chains(resources, check)
  return Object.fromEntries(
    Object.entries(resources).map(([name, { defaults = {} }]) => [
      name,
      Object.assign(sourceOf(`${check.name}.${name}`, client, chain(name), concurrency), { defaults }),
    ]),
  )
}

/** A list, and the one whose rows it is asked for. */
interface Chain {
  readonly list: RestResource
  readonly parent?: (Chain & { readonly name: string }) | undefined
}

const known = ['path', 'query', 'paginate', 'data', 'since', 'record', 'parent', 'include', 'notFound', 'defaults']

/** Checks the resources, and finds each one's parents. */
function chains(resources: Readonly<Record<string, RestResource>>, check: Checked): (name: string) => Chain {
  const { wrong, refuseOthers } = check
  for (const [name, list] of Object.entries(resources)) {
    const where = `resources.${name}`
    refuseOthers(list, known, where)
    checkList(list, `${where}.`, check)
    checkSince(list.since, `${where}.since`, check)
    if (typeof list.path !== 'string') throw wrong(`${where}: path is missing`)
    const places = placesIn(list.path)
    if (list.parent !== undefined && !Object.hasOwn(resources, list.parent)) {
      throw wrong(
        `${where}: there is no resource ${list.parent}; the resources are ${Object.keys(resources).join(', ')}`,
      )
    }
    if (list.parent !== undefined && places.length === 0) {
      throw wrong(
        `${where}: its path names no column of ${list.parent}, such as {id}, so every row of it would be asked the same`,
      )
    }
    if (list.parent === undefined && places.length > 0) {
      throw wrong(`${where}: name the \`parent\` whose row has ${places.join(', ')}`)
    }
    if (list.parent === undefined && (list.include ?? list.notFound) !== undefined) {
      throw wrong(`${where}: include and notFound are for resources with a parent`)
    }
  }
  const chain = (name: string, below: readonly string[] = []): Chain => {
    if (below.includes(name)) throw wrong(`resources.${name} is a parent of itself: ${[...below, name].join(', ')}`)
    const list = resources[name]!
    const { parent } = list
    return { list, parent: parent === undefined ? undefined : { name: parent, ...chain(parent, [...below, name]) } }
  }
  return chain
}

const place = /\{([^{}]*)\}/g
const placesIn = (path: string): string[] => Array.from(path.matchAll(place), ([, column]) => column!)

function sourceOf(
  name: string,
  client: (http: Http, name: string) => RestClient,
  chain: Chain,
  concurrency: number,
): Source<object> {
  const { record, since } = chain.list
  return createSource({
    name,
    async *read(reading) {
      const api = client(reading.http, name)
      const rows = lists(api, chain, sinceQuery(since, reading), { name, concurrency })
      yield* conforming(rows, record, reading.signal, name)
    },
  })
}

function checkSince(since: RestRows['since'], where: string, { wrong, refuseOthers }: Checked): void {
  if (since === undefined) return
  if (since !== null && typeof since === 'object') refuseOthers(since, ['parameter', 'format'], where)
  const parameter = typeof since === 'string' ? since : since?.parameter
  if (typeof parameter !== 'string' || parameter === '') {
    throw wrong(`${where} must be the name of a parameter, or { parameter, format }`)
  }
}

function sinceQuery(asked: RestRows['since'], { since }: Reading): Query {
  if (asked === undefined || since === undefined) return {}
  const { parameter, format = iso } = typeof asked === 'string' ? { parameter: asked } : asked
  return { [parameter]: format(since) }
}

const iso = (since: CursorValue) => (since instanceof Date ? since.toISOString() : since)

interface Reads {
  readonly name: string
  readonly concurrency: number
}

/** The rows of a list, or of those of all its parent's rows, page by page. */
async function* lists(api: RestClient, chain: Chain, since: Query, reads: Reads): AsyncGenerator<readonly AnyRow[]> {
  const { list, parent } = chain
  const pagesOf = (path: string) => api.pages(path, { ...list, query: { ...list.query, ...since } })
  if (!parent) {
    for await (const { rows } of pagesOf(list.path)) if (rows.length > 0) yield rows
    return
  }
  async function* of(row: AnyRow): AsyncGenerator<readonly AnyRow[]> {
    const path = filled(list.path, row, parent!.name, reads.name)
    const added = Object.entries(list.include ?? {}).map(([column, from]) => [column, at(row, from) ?? null] as const)
    let pages = 0
    try {
      for await (const { rows, number } of pagesOf(path)) {
        pages = number
        if (rows.length > 0) yield rows.map((one) => joined(one, added, reads.name))
      }
    } catch (error) {
      const missing = pages === 0 && error instanceof SourceError && error.cause instanceof HttpError
      if (!missing || (error.cause as HttpError).status !== 404) throw error
      if (list.notFound === 'no rows') return
      throw new SourceError(`${error.message}. If it may be gone by then, say notFound: 'no rows'`, {
        cause: error.cause,
      })
    }
  }
  yield* inOrder(each(lists(api, parent, {}, reads)), reads.concurrency, of)
}

/** A child's path for a row of its parent. */
function filled(path: string, row: AnyRow, parent: string, name: string): string {
  return path.replace(place, (_, column: string) => {
    const value = at(row, column)
    const text = ['string', 'number', 'bigint', 'boolean'].includes(typeof value) ? String(value) : ''
    // two of these would lead to another address, even when they are encoded
    if (text === '' || text === '.' || text === '..') {
      throw new SourceError(
        `${name}: a row of ${parent} has no ${column} that could stand in ${path}: check the path, or \`data\` of ${parent}`,
      )
    }
    return encodeURIComponent(text)
  })
}

function joined(row: AnyRow, added: readonly (readonly [column: string, value: unknown])[], name: string): AnyRow {
  const taken = added.find(([column]) => Object.hasOwn(row, column))
  if (taken)
    throw new SourceError(`${name}: the rows have a column ${taken[0]} themselves: choose another name in \`include\``)
  return { ...row, ...Object.fromEntries(added) }
}

async function* each<T>(arrays: AsyncIterable<readonly T[]>): AsyncGenerator<T> {
  for await (const array of arrays) yield* array
}

/** What `open` gives for each item, in the order of the items. Up to `most` are open: the first part of each is awaited at once. */
async function* inOrder<I, T>(
  items: AsyncIterable<I>,
  most: number,
  open: (item: I) => AsyncGenerator<T>,
): AsyncGenerator<T> {
  const begun: { readonly parts: AsyncGenerator<T>; readonly first: Promise<IteratorResult<T>> }[] = []
  async function* oldest(): AsyncGenerator<T> {
    const { parts, first } = begun.shift()!
    const { done, value } = await first
    if (done) return
    yield value
    yield* parts
  }
  try {
    for await (const item of items) {
      if (begun.length >= most) yield* oldest()
      const parts = open(item)
      const first = parts.next()
      first.catch(() => {}) // seen when its turn comes; until then it must not count as unhandled
      begun.push({ parts, first })
    }
    while (begun.length > 0) yield* oldest()
  } finally {
    // not awaited: what was asked for ends with the run
    for (const { parts } of begun) void parts.return(undefined).catch(() => {})
  }
}
