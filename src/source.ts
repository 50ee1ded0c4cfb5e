import type { MaybePromise } from './destination.js'
import { ConfigError, SourceError } from './errors.js'
import { createHttp, type Http } from './http.js'
import type { Log } from './log.js'
import { type AnyRow, type Column, describe, type Encoded } from './values.js'

/** A value of a cursor column. */
export type CursorValue = string | number | bigint | Date

/** What a function used as a source is given. */
export interface Read {
  /** Rows whose cursor column is less than this were read before; `undefined` on the first read and without a cursor. */
  readonly since: CursorValue | undefined
  readonly signal: AbortSignal
  readonly http: Http
  readonly log: Log
}

/** What a bundled source is given besides. */
export interface Reading extends Read {
  /** The sync's cursor column, when it has one. */
  readonly cursor: string | undefined
  /** Tells the columns and their types, once they are known. */
  describe(columns: readonly Column[]): void
  /** Tells the place behind the rows that are yielded next, where the source has an {@link Inbox}: the next read's `since`. */
  reaches(place: string): void
}

type Rows<E> = Iterable<E> | AsyncIterable<E>

/** Rows, one by one or in arrays; or a function that gives them, which can be read again. */
export type Readable<E> = Rows<E> | ((read: Read) => MaybePromise<Rows<E>>)

/** The row in what a source yields: an item, or an item of an array. */
export type RowOf<E> = E extends readonly (infer R)[] ? R : E

const definition: unique symbol = Symbol.for('spillway.source') as never

/** How a source is read; what {@link Source} hides. */
export interface SourceDefinition {
  readonly name: string
  /** Whether it can be read again. A generator object or a stream cannot. */
  readonly repeatable: boolean
  /** Whether rows come in the order of the cursor column. */
  readonly ordered: boolean
  read(reading: Reading): AsyncIterable<readonly object[]>
  /**
   * Brings all rows to where DuckDB can compare them, without making objects of them; `undefined`: that cannot be done, and they
   * are to be read one by one.
   */
  readonly bulk?: ((reading: BulkReading) => Promise<Bulk | NotModified | undefined>) | undefined
  /** The same as `read`, for who keeps rows and does not look at them: no objects are made of those that can be kept without. */
  readonly encodable?: ((reading: Reading) => AsyncIterable<readonly object[] | Encodable>) | undefined
  /** To be called by who reads it together with others, when it does not read, or not soon: they need not wait for it then. */
  readonly pass?: (() => void) | undefined
  /** Yields whenever there may be something to read, until the signal: once when it has begun to listen, then at each arrival. */
  readonly arrivals?: ((signal: AbortSignal) => AsyncIterable<void>) | undefined
  /** Where it keeps its rows itself until each sync has read them: every read begins at the place that the one before reached. */
  readonly inbox?: Inbox | undefined
}

/** What keeps rows that cannot be asked for twice. */
export interface Inbox {
  /** Which kind of thing, and its name: `webhook signups`. */
  readonly where: string
  /** Keeps rows for this sync too from now on. @throws ConfigError when the sync's state is in another folder. */
  join(sync: string, folder: string): void
}

/** What a source is given to read everything at once. */
export interface BulkReading extends Reading {
  /** For its files, which are removed when the comparison is done. */
  readonly folder: string
  readonly key: readonly string[]
  /** What fingerprints must differ by. */
  readonly version: string
  /** A select over Parquet files of fingerprints, `hi` and `lo`, whose rows need not be brought. */
  readonly known: string | undefined
  /** What {@link Bulk.etag} was when everything was delivered: if the rows are still those, {@link NotModified} will do. */
  readonly etag: string | undefined
  /**
   * Brings into a folder what is the same for all syncs that read together, once for all of them: it must not depend on `key`,
   * `version`, `known` or `etag`. Who has no use for it answers `undefined`, and another may try.
   */
  gather<T>(bring: (folder: string, signal: AbortSignal) => Promise<T>): Promise<T>
}

/** Rows that DuckDB reads from files. */
export interface Bulk {
  /** A select: `key` (the canonical text, or null), `hi` and `lo` (the fingerprint), and the columns of `content`. */
  readonly relation: string
  readonly content: Content
  /** By which rows are in their order. */
  readonly place: string
  /** Where rows with known fingerprints were left out: what was counted, and a select of the fingerprints that no row has. */
  readonly sifted?: { readonly counts: Sifted; readonly missed: string } | undefined
  /** By which the source can tell later whether its rows are still the same. */
  readonly etag?: string | undefined
}

/** What rows hold: an expression in SQL of their lossless texts, or columns of which `rows` makes them, a chunk at a time. */
export type Content =
  | { readonly text: string }
  | {
      readonly columns: readonly string[]
      rows(columns: readonly (readonly unknown[])[], count: number): AnyRow[]
    }

/** The source has the rows that it had, so many. */
export class NotModified {
  constructor(readonly rows: number) {}
}

/** Rows of described columns, of which the stage keeps what `encode` writes of those from `start` to before `end`. */
export class Encodable {
  constructor(
    readonly length: number,
    readonly encode: (start: number, end: number) => Encoded,
  ) {}
}

/** Rows held against the fingerprints that are known. */
export interface Sifted {
  /** All rows, and those that have a fingerprint that was not known. */
  readonly rows: number
  readonly news: number
  /** All fingerprints that were known, and those that no row has. */
  readonly known: number
  readonly missed: number
}

/** Where rows come from, with transforms that are applied before anything is staged. Made by {@link source} and the bundled sources. */
export interface Source<out R> {
  readonly name: string
  /** Each row replaced by what `change` makes of it. */
  map<T extends object>(change: (row: R) => T): Source<T>
  /** Only the rows for which `keep` holds. */
  filter<T extends R>(keep: (row: R) => row is T): Source<T>
  filter(keep: (row: R) => unknown): Source<R>
  /** Each row replaced by any number of rows. */
  flatMap<T extends object>(change: (row: R) => Iterable<T>): Source<T>
  /** At most that many rows of a read. */
  limit(rows: number): Source<R>
  /**
   * Rows replaced batch by batch, for look-ups: `add` gets up to `batchSize` rows (default 100) and returns what they
   * become; up to `concurrency` calls (default 1) are under way at once. The order of the rows stays.
   */
  enrich<T extends object>(
    add: (rows: R[], read: Read) => MaybePromise<T[]>,
    options?: { batchSize?: number; concurrency?: number },
  ): Source<T>
  [Symbol.asyncIterator](): AsyncIterator<R>
  readonly [definition]: SourceDefinition
}

/**
 * Any iterable of rows or of arrays of rows, or a function that returns one, as a source with transforms.
 *
 * @example
 * ```ts
 * const hot = source(leads).filter((lead) => lead.score > 0.8).map((lead) => ({ ...lead, tier: 'A' }))
 * ```
 *
 * @throws ConfigError when `rows` is not iterable.
 */
export function source<E extends object>(rows: Readable<E>): Source<RowOf<E>> {
  return make(sourceOf(rows, 'source()')) as Source<RowOf<E>>
}

/** A bundled source: `read` is called anew for each read, yields rows in arrays, and ends its work when it is returned. */
export function createSource<R extends object>(options: {
  name: string
  /** Rows come in the order of the cursor column, when a cursor is given. @default false */
  ordered?: boolean
  read(reading: Reading): AsyncIterable<readonly R[]>
  bulk?: SourceDefinition['bulk']
  encodable?: SourceDefinition['encodable']
  arrivals?: SourceDefinition['arrivals']
  inbox?: Inbox
}): Source<R> {
  const { name, ordered = false, read, bulk, encodable, arrivals, inbox } = options
  return make({ name, ordered, repeatable: true, read, bulk, encodable, arrivals, inbox }) as unknown as Source<R>
}

/** How to read anything that may stand as `from`; a {@link ConfigError} naming `where` when it cannot be read. */
export function sourceOf(value: unknown, where: string): SourceDefinition {
  if (value !== null && typeof value === 'object') {
    const found = (value as Partial<Source<unknown>>)[definition]
    if (found) return found
    if (isIterable(value)) {
      const repeatable = !isOneShot(value)
      return { name: 'source', repeatable, ordered: false, read: () => batches(once(value, where), where) }
    }
  }
  if (typeof value === 'function') {
    return {
      name: value.name || 'source',
      repeatable: true,
      ordered: false,
      async *read({ since, signal, http, log }) {
        const rows = await value({ since, signal, http, log })
        if (rows === null || typeof rows !== 'object' || !isIterable(rows)) {
          throw new SourceError(
            `${where}: the source function returned ${describe(rows)}; it must return rows, or a promise of rows`,
          )
        }
        yield* batches(once(rows, where), where)
      },
    }
  }
  throw new ConfigError(
    `${where}: \`from\` is ${describe(value)}; give an array, any iterable of rows, or a function that returns one`,
  )
}

/** The HTTP client of a source that is read by a sync. */
export function sourceHttp({ name: actor }: SourceDefinition, signal: AbortSignal): Http {
  return createHttp({ actor, signal, timeout: 60_000, retryReads: { budget: 300_000 } })
}

// ---- any iterable → arrays of rows -----------------------------------------------------------------------------

/** Rows handed on together, when the source gives them one by one. */
const chunk = 1_000

const consumed = new WeakSet<object>()

function isIterable(value: object): value is Rows<object> {
  return Symbol.iterator in value || Symbol.asyncIterator in value
}

/** Whether iterating uses the value up: generator objects and other iterators, streams. */
function isOneShot(value: object): boolean {
  return (
    typeof (value as Partial<Iterator<unknown>>).next === 'function' ||
    typeof (value as { getReader?: unknown }).getReader === 'function' ||
    typeof (value as { pipe?: unknown }).pipe === 'function'
  )
}

/** The same iterable, unless it was used up before: reading it again would give no rows, which would look like an empty source. */
function once(rows: Rows<object>, where: string): Rows<object> {
  if (isOneShot(rows)) {
    if (consumed.has(rows)) {
      throw new SourceError(
        `${where}: this ${describe(rows).replace(/^an? /, '')} was read already and cannot be read again; give the function that makes it`,
      )
    }
    consumed.add(rows)
  }
  return rows
}

async function* batches(rows: Rows<object>, where: string): AsyncGenerator<readonly object[]> {
  if (Array.isArray(rows) && !rows.some(Array.isArray)) yield* asBatches(rows, where)
  else if (Symbol.asyncIterator in rows) {
    for await (const item of rows) yield* asBatches(item, where)
  } else {
    let batch: object[] = []
    for (const item of rows) {
      if (!Array.isArray(item)) batch.push(item)
      else {
        if (batch.length > 0) yield batch
        batch = []
        yield* asBatches(item, where)
      }
      if (batch.length >= chunk) {
        yield batch
        batch = []
      }
    }
    if (batch.length > 0) yield batch
  }
}

/** One item of an iterable, a row or an array of rows, as arrays of no more than a chunk. */
function* asBatches(item: object, where: string): Generator<readonly object[]> {
  if (!Array.isArray(item)) {
    if (item === null || typeof item !== 'object') {
      throw new SourceError(
        `${where}: the source gave ${describe(item)} where a row, an object with columns, was expected`,
      )
    }
    yield [item]
  } else if (item.length <= chunk) yield item
  else for (let start = 0; start < item.length; start += chunk) yield item.slice(start, start + chunk)
}

// ---- transforms --------------------------------------------------------------------------------------------------

type Change = (rows: readonly AnyRow[], reading: Reading) => readonly object[]

function make(base: SourceDefinition): Source<AnyRow> {
  // what changes rows needs them as objects
  const asObjects = { ...base, bulk: undefined, encodable: undefined }
  /** A source whose arrays of rows are changed by `change`, made anew for each read. */
  const derived = (begin: () => Change): Source<AnyRow> =>
    make({
      ...asObjects,
      async *read(reading) {
        const change = begin()
        for await (const rows of base.read({ ...reading, describe: () => {} })) {
          const changed = change(rows, reading)
          if (changed.length > 0) yield changed
        }
      },
    })
  return {
    name: base.name,
    [definition]: base,
    map: (change: (row: AnyRow) => object) => derived(() => (rows) => rows.map((row) => change(row))) as never,
    flatMap: (change: (row: AnyRow) => Iterable<object>) =>
      derived(() => (rows) => rows.flatMap((row) => [...change(row)])) as never,
    filter: (keep: (row: AnyRow) => unknown) =>
      make({
        ...asObjects,
        async *read(reading) {
          for await (const rows of base.read(reading)) {
            const kept = rows.filter(keep)
            if (kept.length > 0) yield kept
          }
        },
      }),
    limit(count) {
      if (base.inbox) {
        throw new ConfigError(
          `${base.inbox.where}: limit() would have to throw the other events away, or read them as if they were new; use filter()`,
        )
      }
      return make({
        ...asObjects,
        async *read(reading) {
          let left = count
          if (left <= 0) return
          for await (const rows of base.read(reading)) {
            yield rows.slice(0, left)
            left -= rows.length
            if (left <= 0) return
          }
        },
      })
    },
    enrich: (add, options = {}) =>
      make({
        ...asObjects,
        read: (reading) => enriched(base, add as never, reading, options),
      }) as never,
    async *[Symbol.asyncIterator]() {
      for await (const rows of base.read(standalone(base.name))) yield* rows
    },
  }
}

async function* enriched(
  base: SourceDefinition,
  add: (rows: object[], read: Read) => MaybePromise<object[]>,
  reading: Reading,
  { batchSize = 100, concurrency = 1 }: { batchSize?: number; concurrency?: number },
): AsyncGenerator<readonly object[]> {
  const under: { readonly call: Promise<readonly object[]>; readonly rows: number }[] = []
  const begin = (rows: object[]): void => {
    const call = Promise.resolve(add(rows, reading))
    call.catch(() => {}) // seen when its turn comes; until then it must not count as unhandled
    under.push({ call, rows: rows.length })
  }
  // where there are places, the rows before one are handed on together: those of half a page would be read again with the rest
  const places: { readonly place: string; readonly behind: number }[] = []
  let taken = 0
  let told: string | undefined
  let done = 0
  let held: readonly object[] = []
  const next = async (): Promise<readonly object[]> => {
    const { call, rows } = under.shift()!
    held = [...held, ...(await call)]
    done += rows
    const [first] = places
    if (first && done < first.behind) return []
    if (first) reading.reaches(places.shift()!.place)
    const all = held
    held = []
    return all
  }
  const reaches = (place: string): void => {
    told = place
  }
  let waiting: object[] = []
  for await (const rows of base.read({ ...reading, describe: () => {}, reaches })) {
    taken += rows.length
    if (told !== undefined) places.push({ place: told, behind: taken })
    for (const row of rows) {
      waiting.push(row)
      if (waiting.length < batchSize) continue
      if (under.length >= concurrency) yield await next()
      begin(waiting)
      waiting = []
    }
    if (told === undefined || waiting.length === 0) continue
    if (under.length >= concurrency) yield await next()
    begin(waiting)
    waiting = []
  }
  if (waiting.length > 0) {
    if (under.length >= concurrency) yield await next()
    begin(waiting)
  }
  while (under.length > 0) yield await next()
  if (told !== undefined) reading.reaches(told)
}

/** What a source is given when a person iterates it directly, outside a sync. */
function standalone(name: string): Reading {
  return {
    since: undefined,
    signal: new AbortController().signal,
    http: createHttp({ actor: name, signal: new AbortController().signal, timeout: 60_000 }),
    log: console,
    cursor: undefined,
    describe() {},
    reaches() {},
  }
}
