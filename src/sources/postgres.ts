import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { connect as openSocket, Socket } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client, CustomTypesConfig, DatabaseError, FieldDef, Pool, QueryArrayResult } from 'pg'
import type { CopyToStreamQuery } from 'pg-copy-streams'
import { resolveSecret, type Secret } from '../config.js'
import { type Duration, milliseconds } from '../duration.js'
import { ConfigError, SourceError, SpillwayError } from '../errors.js'
import type { Out, Schema } from '../schema.js'
import { type Bulk, type BulkReading, createSource, type Reading, type Source } from '../source.js'
import type { AnyRow } from '../values.js'
import {
  type Arrays,
  arraysOf,
  type Converter,
  converter,
  copied,
  copyColumns,
  keyText,
  settings,
  typesQuery,
} from './postgres-values.js'
import { blankRow, conforming, cursorText, fingerprinted, type Query, queryOf, quoted, windowed } from './sql.js'

/** A `Pool` of the package `pg`, or a connected `Client` of it. */
export interface PostgresConnections {
  connect(...rest: never[]): unknown
  query(...rest: never[]): unknown
}

/** What {@link postgres} reads, and where. */
export type PostgresOptions = {
  /** `postgres://user:password@host:5432/database`; best as `secret('DATABASE_URL')`. */
  readonly url?: string | Secret | undefined
  /** Connections of your own, instead of `url`. One is used for as long as the source is read, and left as it was. */
  readonly pool?: PostgresConnections | undefined
  /** The longest that the server may work on one answer, of 1,000 rows. @default what the server is configured for */
  readonly timeout?: Duration | undefined
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

const actor = 'postgres'

/** Rows of one answer: enough to hide the way to the server, few enough to keep memory small. */
const batch = 1_000

/** How long to wait for a connection, and for the end of a query that was told to stop. */
const patience = { connect: 30_000, stop: 5_000 }

/**
 * The rows of a query or a table of PostgreSQL. They come through a cursor, 1,000 at a time, in one read-only transaction
 * that sees the database as it was at its start. Where they are compared with what was delivered, and neither `params` nor
 * `record` nor a cursor column is given, they come by `COPY` when `pg-copy-streams` is installed: then only rows that have
 * changed are made into objects.
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
  const { record } = options
  const query = queryOf(options, actor)
  const connect = connector(options)
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      signal.throwIfAborted()
      const session = await connect(signal)
      try {
        let before = 0
        for await (const rows of batches(session, query, reading)) {
          signal.throwIfAborted()
          yield record ? await conforming(rows, record, before, actor) : rows
          before += rows.length
        }
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error, session.client)
      } finally {
        await session.close()
      }
    },
    // COPY takes no parameters
    bulk: record || query.params.length > 0 ? undefined : (reading) => bulk(connect, query.text, reading),
  })
}

/** Everything that the query gives, in a file of lines as `COPY` writes them. */
async function bulk(
  connect: (signal: AbortSignal) => Promise<Session>,
  query: string,
  reading: BulkReading,
): Promise<Bulk | undefined> {
  const { key, version, signal, gather, log } = reading
  const copyTo = await copyDriver()
  if (!copyTo) {
    log.info(`${actor}: rows are read one by one; with npm install pg-copy-streams, only those that have changed are`)
    return undefined
  }
  signal.throwIfAborted()
  let columns: Columns | undefined
  const copy = await gather(async (folder, signal) => {
    const session = await connect(signal)
    const { client, arrays } = session
    try {
      const { fields } = await client.query({
        text: `select * from (\n${query}\n) as source limit 0`,
        rowMode: 'array',
      })
      columns = columnsOf(fields, arrays, reading)
      blankRowOf(columns) // two columns of one name are told before anything is copied
      if (!keyTexts(columns, key)) return undefined
      const file = join(folder, 'incoming.copy')
      const written = await copyOut(client, copyTo(`copy (\n${query}\n) to stdout`), file, signal)
      return { fields, arrays, lines: { files: [file], ...written } }
    } catch (error) {
      signal.throwIfAborted()
      throw explained(error, client)
    } finally {
      await session.close()
    }
  })
  if (!copy) return undefined
  const { fields, arrays } = copy
  const all = columns ?? columnsOf(fields, arrays, reading)
  const parts = keyTexts(all, key)
  if (!parts) return undefined
  const shape = JSON.stringify(fields.map(({ name, dataTypeID }) => [name, dataTypeID]))
  const lines = `select line, ${parts.join(` || ',' || `)} as key from ${copied(copy.lines)}`
  const blank = blankRowOf(all)
  return {
    relation: fingerprinted(lines, 'line', version + shape),
    payload: ['line'],
    place: 'row_number() over ()',
    rows: ([texts]) => (texts as string[]).map((text) => filled(blank, all, copyColumns(text))),
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

// ---- connections -----------------------------------------------------------------------------------------------

interface Connection {
  readonly client: Client
  /** Gives it back; one that is broken is not used again. */
  release(broken: Error | undefined): unknown
}

interface Session {
  readonly client: Client
  readonly arrays: Arrays
  close(): Promise<void>
}

/** Text as the server sends it; read by the column's own converter. The driver's would shift dates and are global. */
const verbatim: CustomTypesConfig = { getTypeParser: () => (text: string) => text }

function connector({ url, pool, timeout }: PostgresOptions): (signal: AbortSignal) => Promise<Session> {
  if ((url === undefined) === (pool === undefined)) {
    throw new ConfigError(`${actor}: give either \`url\`, such as secret('DATABASE_URL'), or \`pool\``)
  }
  const limit = timeout === undefined ? undefined : milliseconds(timeout, `${actor}: timeout`)
  return async (signal) => {
    const connection = pool ? await borrow(pool) : await dial(resolveSecret(url!, `${actor}: url`), signal)
    return begin(connection, limit)
  }
}

async function dial(url: string, signal: AbortSignal): Promise<Connection> {
  const { pg } = await driver()
  const socket = new Socket()
  const client = clientOf(pg, url, socket)
  const giveUp = () => socket.destroy()
  signal.addEventListener('abort', giveUp)
  try {
    await client.connect()
  } catch (error) {
    socket.destroy()
    signal.throwIfAborted()
    throw explained(error, client)
  } finally {
    signal.removeEventListener('abort', giveUp)
  }
  return { client, release: () => client.end() }
}

function clientOf(pg: Driver['pg'], url: string, socket: Socket): Client {
  try {
    if (!/^postgres(ql)?:\/\//.test(url)) throw new TypeError('not a Postgres URL')
    return new pg.Client({
      connectionString: url,
      stream: () => socket,
      keepAlive: true,
      connectionTimeoutMillis: patience.connect,
      fallback_application_name: 'spillway',
    })
  } catch {
    // what the parser throws holds the whole of it, password included
    throw new ConfigError(
      `${actor}: url is not like postgres://user:password@host:5432/database; write special characters in the password as encodeURIComponent does`,
    )
  }
}

async function borrow(pool: PostgresConnections): Promise<Connection> {
  if ('totalCount' in pool) {
    const { pg } = await driver()
    const client = await (pool as Pool).connect().catch((error) => {
      throw explained(error, new pg.Client((pool as Pool).options))
    })
    // what a pool makes are clients, which its types do not say
    return { client: client as unknown as Client, release: (broken) => client.release(broken) }
  }
  const client = pool as Client
  const status = client.getTransactionStatus?.()
  if (status !== 'I') {
    const state = status === undefined ? 'of a pg before 8.21' : status === null ? 'not connected' : 'in a transaction'
    throw new ConfigError(
      `${actor}: the client given as \`pool\` is ${state}; give a Pool, or a connected Client of pg 8.21 or later that is free`,
    )
  }
  return { client, release: () => {} }
}

async function begin({ client, release }: Connection, timeout: number | undefined): Promise<Session> {
  // a connection that breaks also fails the query under way, and that is where it is told
  const ignore = () => {}
  client.on('error', ignore)
  const close = async () => {
    let broken: Error | undefined
    await client.query('rollback').catch((error) => {
      broken = error
    })
    client.off('error', ignore)
    await release(broken)
  }
  const local = { ...settings, ...(timeout === undefined ? {} : { statement_timeout: `${Math.ceil(timeout)}` }) }
  const set = Object.entries(local).map(([name, value]) => `set local ${name} = '${value}'`)
  const text = ['begin isolation level repeatable read read only', ...set, typesQuery].join(';')
  try {
    const results = (await client.query({ text, rowMode: 'array', types: verbatim })) as unknown as QueryArrayResult[]
    return { client, arrays: arraysOf(results.at(-1)!.rows), close }
  } catch (error) {
    await close()
    throw explained(error, client)
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

type Driver = Awaited<ReturnType<typeof driver>>

async function driver() {
  try {
    const [{ default: pg }, { default: Cursor }] = await Promise.all([import('pg'), import('pg-cursor')])
    return { pg, Cursor }
  } catch (cause) {
    throw new ConfigError(`${actor}: the driver cannot be loaded: npm install pg pg-cursor`, { cause })
  }
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
  const blank = blankRowOf(columns)
  return (rows) => rows.map((values) => filled(blank, columns, values))
}

function blankRowOf(columns: Columns): AnyRow {
  return blankRow(
    columns.map(({ name }) => name),
    actor,
  )
}

/** A row with what the server wrote in its columns. */
function filled(blank: AnyRow, columns: Columns, values: readonly (string | null)[]): AnyRow {
  const row = { ...blank }
  for (let index = 0; index < columns.length; index++) {
    const text = values[index]!
    if (text !== null) row[columns[index]!.name] = columns[index]!.read(text)
  }
  return row
}

/** Writes what the server copies into a file. Answers how many bytes there are, and how many the longest line has, at most. */
async function copyOut(
  client: Client,
  copy: CopyToStreamQuery,
  file: string,
  signal: AbortSignal,
): Promise<{ readonly bytes: number; readonly longest: number }> {
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
  let busy = true
  const copying = pipeline(client.query(copy), measured, createWriteStream(file)).finally(() => {
    busy = false
  })
  let stopped: Promise<void> | undefined
  const onAbort = () => {
    stopped = stop(client, copying, () => busy)
  }
  signal.addEventListener('abort', onAbort)
  try {
    await copying
    return { bytes, longest: longest + 1 }
  } finally {
    signal.removeEventListener('abort', onAbort)
    await stopped
  }
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

/** Ends the answer under way. It says so until it is heard: the server ignores a wish that overtakes the query it is about. */
async function stop(client: Client, answer: Promise<unknown>, busy: () => boolean): Promise<void> {
  const cut = setTimeout(() => client.end(), patience.stop)
  while (busy()) {
    await cancel(client)
    await Promise.race([answer.catch(() => {}), sleep(100)])
  }
  clearTimeout(cut)
}

/**
 * Asks the server to stop what this connection is doing, over a connection of its own as the protocol wants it
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS). The server closes it when it
 * has passed the wish on. Whether that helped shows only on the connection itself.
 */
async function cancel(client: Client): Promise<void> {
  const { host, port, processID, secretKey } = client as Client & { processID: number; secretKey: number }
  const request = Buffer.alloc(16)
  for (const [index, word] of [16, 80_877_102, processID, secretKey].entries()) request.writeInt32BE(word, index * 4)
  const socket = host.startsWith('/') ? openSocket(`${host}/.s.PGSQL.${port}`) : openSocket(port, host)
  socket.setTimeout(patience.stop, () => socket.destroy())
  socket.on('error', () => {})
  socket.end(request).resume()
  await once(socket, 'close')
}

// ---- errors ----------------------------------------------------------------------------------------------------

/** What went wrong and what to do, without the driver's error: it may quote values, of the query or of rows. */
function explained(error: unknown, { host, port, user, database }: Client): unknown {
  if (error instanceof SpillwayError || error instanceof TypeError) return error
  const { code, message, severity, hint } = error as Partial<DatabaseError>
  const at = (text: string) => new SourceError(`${actor}: ${host}:${port}: ${text}`)
  switch (code) {
    case 'ECONNREFUSED':
      return at(`nothing listens there (${code}): start the server, or correct host and port`)
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return at(`no such host (${code}): correct the host, or the network`)
    case '28P01':
    case '28000':
      return at(
        `user ${user} was refused (${code}): check user and password, and that the server lets them in from here`,
      )
    case '3D000':
      return at(`there is no database ${database} (${code}): correct its name, or create it`)
    case '42501':
      return at(`${message} (${code}): grant user ${user} the right to select`)
    case '57014':
      if (!message?.includes('timeout')) break
      return at(`${message} (${code}): raise \`timeout\`, or make the query faster`)
  }
  // only the server's own errors have a severity
  if (!severity) return at(`${message || code}: check the connection and the url, and run the sync again`)
  if (/^(08|53|57)/.test(code!)) return at(`${message} (${code}): run the sync again`)
  // of class 22, data exceptions, the quoted part is a value
  if (code!.startsWith('22')) return at(`${message!.replace(/".*"|".*$/s, '…')} (${code}): correct the query`)
  return at(`${message} (${code}): ${hint ?? 'correct the query'}`)
}
