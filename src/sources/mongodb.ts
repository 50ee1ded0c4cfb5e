import { resolveSecret, type Secret } from '../config.js'
import { ConfigError, SourceError, SpillwayError } from '../errors.js'
import { refuseOthers } from '../options.js'
import type { Out, Schema } from '../schema.js'
import {
  type CursorValue,
  createSource,
  type Read,
  type Readable,
  type Reading,
  type RowOf,
  type Source,
  source,
} from '../source.js'
import { type AnyRow, describe } from '../values.js'
import { type Plain, plainDocument } from './mongodb-values.js'
import { conforming } from './sql.js'

export type { Plain } from './mongodb-values.js'

/** A cursor as the driver's collections give it. */
interface MongoCursor extends AsyncIterable<object> {
  readonly killed: boolean
  readBufferedDocuments(): object[]
  close(): Promise<void>
}

/** A `Collection` of the package `mongodb`. */
export interface MongoCollection {
  find(...rest: never[]): unknown
  aggregate(...rest: never[]): unknown
}

/** What {@link mongodb} reads, and where. */
export type MongoOptions = (
  | {
      /** `mongodb://user:password@host:27017`; best as `secret('MONGODB_URL')`. */
      readonly url: string | Secret
      readonly db: string
      readonly collection: string
    }
  | {
      /** A collection of a client of your own, which is left open. */
      readonly collection: MongoCollection
      readonly url?: never
      readonly db?: never
    }
) &
  (
    | {
        /** Which documents, as for the driver's `find`. @default all */
        readonly filter?: object | undefined
        /** Which fields, as for the driver's `find`. @default all */
        readonly projection?: object | undefined
        readonly pipeline?: never
      }
    | {
        /** Stages of an aggregation. */
        readonly pipeline: readonly object[]
        readonly filter?: never
        readonly projection?: never
      }
  )

const actor = 'mongodb'

const known = ['url', 'db', 'collection', 'filter', 'projection', 'pipeline', 'record']

/** Documents of one answer. */
const batch = 1_000

/** Whatever the client was told: an integer of 64 bits is a `bigint`, and not a number where it happens to be small. */
const exactly = {
  useBigInt64: true,
  promoteLongs: true,
  promoteValues: true,
  promoteBuffers: false,
  bsonRegExp: true,
  raw: false,
}

/**
 * The documents of a collection of MongoDB, or of an aggregation over it, 1,000 at a time, as rows; {@link documents} says what values
 * become. Integers of 64 bits are always `bigint`.
 *
 * With a cursor column the documents come in its order, from where the last run ended; an index on it makes that quick. It may
 * be `_id`. A query of MongoDB sees what is written while it runs: a document may come twice, or not at all. So do not `mirror`
 * a collection while others write to it.
 *
 * It needs `npm install mongodb@7`. **It was never run against a real MongoDB**: it is tested with the real driver, which
 * talks to a stand-in for the server that knows no more than finds, aggregations and their cursors.
 *
 * @example
 * ```ts
 * mongodb({ url: secret('MONGODB_URL'), db: 'shop', collection: 'orders', filter: { status: 'paid' } })
 * ```
 *
 * @throws ConfigError when the options do not say what to read and where, or `mongodb` is not installed.
 * @throws SourceError while it is read: no connection, the server refuses, or a document does not fit `record`. It never names the
 * password.
 */
export function mongodb<S extends Schema>(options: MongoOptions & { readonly record: S }): Source<Out<S> & object>
export function mongodb<R extends object = AnyRow>(options: MongoOptions): Source<R>
export function mongodb(options: MongoOptions & { readonly record?: Schema }): Source<object> {
  checkOptions(options)
  const { record } = options
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      signal.throwIfAborted()
      const { ObjectId, Decimal128, UUID, MongoClient } = await driver()
      const asStored = (since: CursorValue) => stored(since, { ObjectId, Decimal128, UUID })
      const { url, db, collection } = options
      const client = url === undefined ? undefined : new MongoClient(resolveSecret(url, `${actor}: url`))
      const place = (client ? client.db(db).collection(collection as string) : collection) as MongoCollection
      let cursor: MongoCursor | undefined
      const stop = () => void (client ?? cursor)?.close().catch(() => {}) // what it interrupts is what fails
      try {
        cursor = open(place, options, reading, asStored)
        signal.addEventListener('abort', stop)
        yield* conforming(batches(cursor), record, signal, actor)
        signal.throwIfAborted()
        complete(cursor)
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error)
      } finally {
        signal.removeEventListener('abort', stop)
        await cursor?.close()
        await client?.close()
      }
    },
  })
}

async function* batches(cursor: MongoCursor): AsyncGenerator<AnyRow[]> {
  for await (const first of cursor) yield [first, ...cursor.readBufferedDocuments()].map(plainDocument)
}

/**
 * Documents of cursors of your own (of `find`, `aggregate`, a change stream) as rows: any iterable, or a function that makes one, which
 * can then be read again.
 *
 * An `ObjectId` becomes its 24 hexadecimal digits, a `Decimal128` its exact digits, a `Long` a `bigint`; a UUID is text, other binary
 * data a `Uint8Array`; a regular expression `'/text/i'`, a `Timestamp` `{ t, i }`, code its text (with a scope `{ code, scope }`), a
 * `DBRef` `{ $ref, $id }`, `MinKey` and `MaxKey` their names. That holds inside of arrays and objects too. Dates, numbers, text and null
 * stay; what is `undefined` is left out.
 *
 * A cursor of your own reads integers of 64 bits as numbers where they are small, unless it is told otherwise: give it
 * `{ useBigInt64: true }`, and a column keeps one type.
 *
 * A change stream is given event by event and does not end by itself. Its position is not kept: after a restart it
 * begins where your function makes it begin (`resumeAfter`).
 *
 * @example
 * ```ts
 * documents(() => orders.find({ status: 'paid' }, { useBigInt64: true })).map(({ _id, total }) => ({ id: _id, total }))
 * ```
 *
 * @throws ConfigError when it is not iterable.
 */
export function documents<E extends object>(cursor: Readable<E>): Source<Plain<RowOf<E>> & object> {
  const rows = typeof cursor === 'function' ? async (read: Read) => watched(await cursor(read)) : watched(cursor)
  return source(rows).map((document) => plainDocument(document as object)) as never
}

/** A cursor that does not end as if it were complete when somebody closes it. */
function watched<E>(rows: Iterable<E> | AsyncIterable<E>): Iterable<E> | AsyncIterable<E> {
  if (rows === null || typeof rows !== 'object' || !('killed' in rows)) return rows
  return (async function* () {
    yield* rows
    complete(rows as unknown as MongoCursor)
  })()
}

function complete({ killed }: MongoCursor): void {
  if (killed) throw new SourceError(`${actor}: the cursor was closed before it came to its end; run again`)
}

function checkOptions(options: MongoOptions): void {
  const { url, db, collection, pipeline, ...rest } = options ?? {}
  refuseOthers(options ?? {}, known, actor)
  if (url === undefined) {
    if (typeof (collection as MongoCollection | undefined)?.find !== 'function' || db !== undefined) {
      throw new ConfigError(
        `${actor}: give \`url\`, \`db\` and the name of a \`collection\`, or a \`collection\` of your own`,
      )
    }
  } else if (!isName(db) || !isName(collection)) {
    throw new ConfigError(`${actor}: with \`url\`, \`db\` and \`collection\` are names`)
  }
  if (pipeline === undefined) return
  if (!Array.isArray(pipeline))
    throw new ConfigError(`${actor}: \`pipeline\` is ${describe(pipeline)}, no array of stages`)
  if (rest.filter ?? rest.projection) {
    throw new ConfigError(
      `${actor}: give either \`pipeline\` or \`filter\` and \`projection\`, which are stages of it ($match, $project)`,
    )
  }
}

function isName(name: unknown): boolean {
  return typeof name === 'string' && name !== ''
}

async function driver(): Promise<typeof import('mongodb')> {
  try {
    return await import('mongodb')
  } catch (cause) {
    throw new ConfigError(`${actor}: the driver cannot be loaded: npm install mongodb@7`, { cause })
  }
}

function open(
  collection: MongoCollection,
  { filter = {}, projection, pipeline }: MongoOptions,
  { cursor, since }: Reading,
  asStored: (since: CursorValue) => readonly unknown[],
): MongoCursor {
  const column = cursor as string
  const wanted = since === undefined ? undefined : { $or: asStored(since).map((least) => ({ [column]: least })) }
  const order = cursor === undefined ? undefined : { [column]: 1 }
  const options = { ...exactly, batchSize: batch }
  if (pipeline) {
    const stages = [...pipeline, ...(wanted ? [{ $match: wanted }] : []), ...(order ? [{ $sort: order }] : [])]
    return (collection.aggregate as (...rest: unknown[]) => MongoCursor)(stages, options)
  }
  const all = { ...options, ...(projection && { projection }), ...(order && { sort: order }) }
  return (collection.find as (...rest: unknown[]) => MongoCursor)(wanted ? { $and: [filter, wanted] } : filter, all)
}

type Types = Pick<typeof import('mongodb'), 'ObjectId' | 'Decimal128' | 'UUID'>

/**
 * What a value of the cursor column may be in the database: MongoDB compares values of one type only, and the text of an `ObjectId` was
 * not always text. Documents without a value are wanted too: the sync rejects them, and says so.
 */
function stored(since: CursorValue, { ObjectId, Decimal128, UUID }: Types): readonly unknown[] {
  const values: unknown[] = [since]
  if (typeof since === 'string') {
    if (/^[\da-f]{24}$/.test(since)) values.push(ObjectId.createFromHexString(since))
    if (/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/.test(since)) values.push(new UUID(since))
    if (/^-?\d+(\.\d+)?$/.test(since)) values.push(Decimal128.fromString(since))
  }
  return [...values.map((value) => ({ $gte: value })), null]
}

function explained(error: unknown): unknown {
  if (error instanceof SpillwayError) return error
  const {
    name = 'Error',
    message = String(error),
    codeName,
  } = error as { name?: string; message?: string; codeName?: string }
  return new SourceError(`${actor}: ${codeName ?? name}: ${message}`, { cause: error })
}
