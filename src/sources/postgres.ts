import { createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Client, FieldDef } from 'pg'
import type { CopyToStreamQuery } from 'pg-copy-streams'
import type { Duration } from '../duration.js'
import { ConfigError, SourceError } from '../errors.js'
import { refuseOthers } from '../options.js'
import type { Out, Schema } from '../schema.js'
import { type Bulk, type BulkReading, createSource, NotModified, type Reading, type Source } from '../source.js'
import type { AnyRow } from '../values.js'
import {
  actor,
  addressOf,
  connector,
  driver,
  explained,
  interruptible,
  type PostgresPlace,
  type Session,
  stop,
  verbatim,
} from './postgres-connection.js'
import { etagOf, seen, unmodified } from './postgres-etag.js'
import { arrivals, channelsOf } from './postgres-listen.js'
import { type Arrays, type Converter, converter, copied, copyColumns, keyText } from './postgres-values.js'
import { blankRow, conforming, cursorText, fingerprinted, type Query, queryOf, quoted, windowed } from './sql.js'

export type { PostgresConnections, PostgresPlace } from './postgres-connection.js'

/** What {@link postgres} reads, and where. */
export type PostgresOptions = PostgresPlace & {
  /** The longest that the server may work on one answer, of 1,000 rows. @default what the server is configured for */
  readonly timeout?: Duration | undefined
  /**
   * Channels of `NOTIFY` (https://www.postgresql.org/docs/current/sql-notify.html) that tell when there may be something to read,
   * for a sync that is kept running: a trigger on the table says `perform pg_notify('orders', '')`. Names are taken as they are:
   * `NOTIFY Orders` without quotes means `orders`. It takes a connection of its own, also beside a `pool`, and not through a
   * pooler that hands out connections by the transaction.
   */
  readonly listen?: string | readonly string[] | undefined
} & (
    | {
        /** One select. */
        readonly query: string
        /** Values for its `$1`, `$2`, … */
        readonly params?: readonly unknown[] | undefined
        readonly table?: never
      }
    | {
        /** A whole table or view: `orders`, `sales.orders`, `sales."2026 orders"`. */
        readonly table: string
        readonly query?: never
        readonly params?: never
      }
  )

/** Rows of one answer: enough to hide the way to the server, few enough to keep memory small. */
const batch = 1_000

const names: readonly string[] = [
  'url',
  'connection',
  'pool',
  'timeout',
  'listen',
  'query',
  'params',
  'table',
  'record',
]

/**
 * The rows of a query or a table of PostgreSQL. They come through a cursor, 1,000 at a time, in one read-only transaction
 * that sees the database as it was at its start. Where they are compared with what was delivered, and neither `params` nor
 * `record` nor a cursor column is given, they come by `COPY` when `pg-copy-streams` is installed: then only rows that have
 * changed are made into objects. A `table` to which nothing was written since all of it was delivered is not read at all then
 * (PostgreSQL 13 and later): its rows are counted, and the transactions that wrote them looked at.
 *
 * Values keep what the database says. `bigint` is a `bigint`, `numeric` an exact string; a date is `'2026-01-31'`, a
 * timestamp `'2026-01-31T02:30:00.123456'`, a timestamp with time zone a `Date` with its microseconds; `bytea` is a
 * `Uint8Array`; json is parsed, its integers beyond 2^53 as `bigint`; arrays are arrays; everything else, and an infinite
 * or BC date, is the text that PostgreSQL writes.
 *
 * The query runs in the time zone UTC, whatever the server's is.
 *
 * @example
 * ```ts
 * postgres({ connection: { host: 'db.example', user: 'reader', password: secret('DB_PASSWORD'), ssl: { ca } }, table: 'orders', listen: 'orders' })
 * postgres({ url: secret('DATABASE_URL'), query: 'select * from users where plan = $1', params: ['pro'] })
 * ```
 *
 * @throws ConfigError when the options do not say what to read and where, or `pg` and `pg-cursor` are not installed.
 * @throws SourceError while it is read: no connection, the query fails, or a row does not fit `record`. It names the
 * server and never the password or a value.
 */
export function postgres<S extends Schema>(options: PostgresOptions & { readonly record: S }): Source<Out<S> & object>
export function postgres<R extends object = AnyRow>(options: PostgresOptions): Source<R>
export function postgres(options: PostgresOptions & { readonly record?: Schema }): Source<object> {
  refuseOthers(options, names, actor)
  const { record, listen } = options
  const query = queryOf(options, actor)
  const connect = connector(options)
  const channels = listen === undefined ? undefined : channelsOf(listen)
  const address = addressOf(options)
  if (channels && !address)
    throw new ConfigError(
      `${actor}: \`listen\` takes a connection of its own: give a Pool instead of a Client, or a url`,
    )
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      signal.throwIfAborted()
      const session = await connect(signal)
      try {
        yield* conforming(batches(session, query, reading), record, signal, actor)
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error, session.client)
      } finally {
        await session.close()
      }
    },
    // COPY takes no parameters
    bulk: record || query.params.length > 0 ? undefined : (reading) => bulk(connect, query, reading),
    arrivals: channels && ((signal) => arrivals(address!, channels, signal)),
  })
}

/** Everything that the query gives, in a file of lines as `COPY` writes them, unless that is what it gave before. */
async function bulk(
  connect: (signal: AbortSignal) => Promise<Session>,
  { text: query, table }: Query,
  reading: BulkReading,
): Promise<Bulk | NotModified | undefined> {
  const { key, version, signal, gather, log, etag } = reading
  const copyTo = await copyDriver()
  if (!copyTo) {
    log.info(`${actor}: rows are read one by one; with npm install pg-copy-streams, only those that have changed are`)
    return undefined
  }
  signal.throwIfAborted()
  let columns: Columns | undefined
  let same: number | undefined
  const copy = await gather(async (folder, signal) => {
    const session = await connect(signal)
    const { client, arrays } = session
    try {
      const { fields } = await client.query({
        text: `select * from (\n${query}\n) as source limit 0`,
        rowMode: 'array',
      })
      columns = columnsOf(fields, arrays, reading)
      blankRow(columns, actor) // two columns of one name are told before anything is copied
      if (!keyTexts(columns, key)) return undefined
      const sees = table === undefined ? undefined : await seen(client, table)
      if (sees && etag !== undefined) same = await unmodified(client, table!, sees, etag, signal)
      if (same !== undefined) return undefined
      const file = join(folder, 'incoming.copy')
      const { rows, ...written } = await copyOut(client, copyTo(`copy (\n${query}\n) to stdout`), file, signal)
      return { fields, arrays, lines: { files: [file], ...written }, etag: sees && etagOf(sees, rows) }
    } catch (error) {
      signal.throwIfAborted()
      throw explained(error, client)
    } finally {
      await session.close()
    }
  })
  if (same !== undefined) return new NotModified(same)
  if (!copy) return undefined
  const { fields, arrays } = copy
  const all = columns ?? columnsOf(fields, arrays, reading)
  const parts = keyTexts(all, key)
  if (!parts) return undefined
  const shape = JSON.stringify(fields.map(({ name, dataTypeID }) => [name, dataTypeID]))
  const lines = `select line, ${parts.join(` || ',' || `)} as key from ${copied(copy.lines)}`
  const blank = blankRow(all, actor)
  return {
    relation: fingerprinted(lines, 'line', version + shape),
    content: { columns: ['line'], rows: ([texts]) => filled(blank, all, (texts as string[]).map(copyColumns)) },
    place: 'row_number() over ()',
    etag: copy.etag,
  }
}

/** The canonical texts of the key's columns in SQL; `undefined` where lines cannot be compared by it. */
function keyTexts(columns: Columns, key: readonly string[]): readonly string[] | undefined {
  const texts = key.map((name) => {
    const index = columns.findIndex((column) => column.name === name)
    return keyText(columns[index]!.type, index)
  })
  // a line without a column's end may be empty, and DuckDB passes over empty lines
  return columns.length === 1 || texts.includes(undefined) ? undefined : (texts as string[])
}

// ---- rows ------------------------------------------------------------------------------------------------------

interface Answer {
  readonly rows: readonly (readonly (string | null)[])[]
  readonly fields: readonly FieldDef[]
}

async function* batches({ client, arrays }: Session, query: Query, reading: Reading): AsyncGenerator<AnyRow[]> {
  let read: ((rows: Answer['rows']) => AnyRow[]) | undefined
  for await (const { rows, fields } of answers(client, windowOf(query, reading), reading.signal)) {
    read ??= reader(fields, arrays, reading)
    if (rows.length > 0) yield read(rows)
  }
}

function windowOf({ text, params }: Query, { cursor, since }: Reading): Query {
  if (cursor === undefined) return { text, params }
  const column = quoted(cursor)
  if (since === undefined) return { text: windowed(text, column, undefined), params }
  return { text: windowed(text, column, `$${params.length + 1}`), params: [...params, cursorText(since)] }
}

type Columns = readonly (Converter & { readonly name: string })[]

function columnsOf(fields: readonly FieldDef[], arrays: Arrays, { describe }: Reading): Columns {
  if (fields.length === 0) throw new SourceError(`${actor}: the query gives no columns: it must be a select`)
  const columns = fields.map(({ name, dataTypeID }) => ({ name, ...converter(dataTypeID, arrays) }))
  describe(columns.map(({ name, type }) => ({ name, type, nullable: true })))
  return columns
}

function reader(fields: readonly FieldDef[], arrays: Arrays, reading: Reading): (rows: Answer['rows']) => AnyRow[] {
  const columns = columnsOf(fields, arrays, reading)
  const blank = blankRow(columns, actor)
  return (rows) => filled(blank, columns, rows)
}

/** Rows with what the server wrote in their columns. */
function filled(blank: AnyRow, columns: Columns, texts: Answer['rows']): AnyRow[] {
  const rows = texts.map(() => ({ ...blank }))
  for (const [index, { name, read }] of columns.entries()) {
    for (let row = 0; row < rows.length; row++) {
      const text = texts[row]![index]!
      if (text !== null) rows[row]![name] = read(text)
    }
  }
  return rows
}

/** Writes what the server copies into a file. Answers how many rows and bytes there are, and how many the longest line has, at most. */
async function copyOut(
  client: Client,
  copy: CopyToStreamQuery,
  file: string,
  signal: AbortSignal,
): Promise<{ readonly rows: number; readonly bytes: number; readonly longest: number }> {
  let bytes = 0
  let longest = 0
  let open = 0
  const measured = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      bytes += chunk.length
      const [first, last] = [chunk.indexOf(10), chunk.lastIndexOf(10)]
      // within a chunk, no line is longer than the chunk
      longest = Math.max(longest, first < 0 ? open + chunk.length : Math.max(open + first, last - first))
      open = first < 0 ? open + chunk.length : chunk.length - last
      yield chunk
    }
  }
  await interruptible(client, pipeline(client.query(copy), measured, createWriteStream(file)), signal)
  return { rows: copy.rowCount, bytes, longest: longest + 1 }
}

/** What the server answers, the next answer asked for while one is worked on. The first comes even when it has no rows. */
async function* answers(client: Client, { text, params }: Query, signal: AbortSignal): AsyncGenerator<Answer> {
  const { Cursor } = await driver()
  signal.throwIfAborted()
  const portal = client.query(new Cursor<(string | null)[]>(text, [...params], { rowMode: 'array', types: verbatim }))
  let busy = false
  const ask = () => {
    busy = true
    const answer = new Promise<Answer>((resolve, reject) => {
      portal.read(batch, (error, rows, result) => {
        busy = false
        if (error) reject(error)
        else resolve({ rows, fields: result.fields })
      })
    })
    answer.catch(() => {}) // seen when it is awaited
    return answer
  }

  let next = ask()
  let stopped: Promise<void> | undefined
  const end = () => stop(client, next, () => busy)
  const onAbort = () => {
    stopped = end()
  }
  signal.addEventListener('abort', onAbort)
  let unread = false
  try {
    for (let more = true; more; ) {
      const answer = await next
      more = answer.rows.length === batch
      if (more) next = ask()
      unread = more
      yield answer
      unread = false
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
    await stopped
    if (unread) {
      await end()
      const close = () => portal.close() // one that failed is closed already
      await next.then(close, () => {})
    }
  }
}

/** `undefined` when it is not installed: all that it brings is speed. */
async function copyDriver() {
  try {
    return (await import('pg-copy-streams')).to
  } catch {
    return undefined
  }
}
