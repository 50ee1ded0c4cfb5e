import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type DuckDBConnection,
  type DuckDBDataChunk,
  DuckDBInstance,
  type DuckDBLogicalType,
  type DuckDBPreparedStatement,
  type DuckDBResult,
  StatementType,
} from '@duckdb/node-api'
import { SourceError, SpillwayError } from '../errors.js'
import { refuseOthers } from '../options.js'
import type { Out, Schema } from '../schema.js'
import { type Bulk, type BulkReading, createSource, Encodable, type Reading, type Source } from '../source.js'
import { type AnyRow, encodeTexts } from '../values.js'
import { distinctText, keyText, rowText, stagedText } from './duckdb-texts.js'
import { type Converter, chunksOf, columnOf, converter, rowsOf } from './duckdb-values.js'
import { metOnce, sift } from './sift.js'
import {
  assembled,
  blankRow,
  conforming,
  cursorText,
  fingerprinted,
  inOrder,
  literal,
  quoted,
  statement,
  windowed,
} from './sql.js'

/** What {@link duckdb} reads. */
export interface DuckDBOptions {
  /**
   * The database file, relative to the working directory. It is opened for reading only, and only while it is read;
   * DuckDB lets nobody read a file that another process has open for writing. Without it, the query reads other files.
   */
  readonly path?: string | undefined
  /** One select, such as `from scored` or `from 'orders/*.parquet'` (CSV and JSON files too). */
  readonly query: string
}

const actor = 'duckdb'

/**
 * The rows of a query over a DuckDB database, or over Parquet, CSV and JSON files. They stream, about 2,000 at a time. Where they
 * are compared with what was delivered, and neither `record` nor a cursor column is given, only rows that have changed are made
 * into objects (not where a column is a list, a struct or another nested type, or has 128 bits). What is staged, and records that
 * are the rows as they are, DuckDB itself writes (not where a column is nested, `json`, a float of 32 bits, an interval or a bit string).
 *
 * Values keep what the database says. Integers of 64 bits and more are `bigint`, decimals exact strings; a date is
 * `'2026-01-31'`, a timestamp `'2026-01-31T02:30:00.123456'`, a timestamp with time zone a `Date` with its microseconds;
 * a blob is a `Uint8Array`; json is parsed, its integers beyond 2^53 as `bigint`; lists are arrays, structs objects, and
 * so are maps (those with keys that are no plain values are arrays of `{ key, value }`); a union is an object with the one
 * member it holds; everything else, and an infinite or BC date, is the text that DuckDB writes.
 *
 * The query runs in the time zone UTC, whatever the machine's is.
 *
 * @example
 * ```ts
 * sync({ name: 'leads', from: duckdb({ path: 'lake.db', query: 'from scored' }), to: crm, key: 'id' })
 * ```
 *
 * @throws ConfigError when the query is empty.
 * @throws SourceError while it is read: the file cannot be opened, the query fails, or a row does not fit `record`.
 */
export function duckdb<S extends Schema>(options: DuckDBOptions & { readonly record: S }): Source<Out<S> & object>
export function duckdb<R extends object = AnyRow>(options: DuckDBOptions): Source<R>
export function duckdb(options: DuckDBOptions & { readonly record?: Schema }): Source<object> {
  refuseOthers(options, ['path', 'query', 'record'], actor)
  const { path, query, record } = options
  const text = statement(query, actor)
  async function* read<B>(reading: Reading, give: Give<B>): AsyncGenerator<B> {
    const { signal } = reading
    const { connection, close } = await open(path, signal)
    try {
      yield* give(connection, text, reading)
    } catch (error) {
      throw explained(error, signal)
    } finally {
      close()
    }
  }
  const rows: Give<readonly AnyRow[]> = (connection, text, reading) =>
    conforming(chunks(connection, text, reading), record, reading.signal, actor)
  return createSource({
    name: actor,
    ordered: true,
    read: (reading) => read(reading, rows),
    bulk: record ? undefined : (reading) => bulk(path, text, reading),
    encodable: record ? undefined : (reading) => read(reading, encodable),
  })
}

/** What the query gives, in a Parquet file: everything, or that of which the fingerprint is not known. */
async function bulk(path: string | undefined, query: string, reading: BulkReading): Promise<Bulk | undefined> {
  const { folder, key, version, known, signal } = reading
  const { connection, close } = await open(path, signal)
  try {
    const columns = await columnsOf(connection, query)
    const names = columns.map(({ name }) => name)
    const blank = blankRow(columns, actor)
    const shape = columns.map(({ name, logical }) => [name, String(logical)])
    describe(columns, reading)
    const places = names.map((_, index) => `c${index}`)
    const whole = distinctText(
      columns.map(({ logical }) => logical),
      places,
    )
    const parts = key.map((column) => keyText(columns[names.indexOf(column)]!.logical, `c${names.indexOf(column)}`))
    if (whole === undefined || parts.includes(undefined)) return undefined
    const text = rowText(textsOf(columns))
    const renamed = `select ${names.map((name, index) => `${quoted(name)} as c${index}`).join()} from (\n${query}\n) as source`
    const all = fingerprinted(renamed, whole, version + JSON.stringify(shape))
    const keyed = `select ${parts.join(` || ',' || `)} as key, hi, lo, ${places.join()}`
    signal.throwIfAborted()
    const keep = (name: string, select: string) => connection.run(`create temp table ${name} as ${select}`)
    const counts = known === undefined ? undefined : await sift(connection, all, known, 'temp', keep)
    // when some came twice, the comparison must see all to name them
    const told = counts && metOnce(counts)
    const write = async (name: string, select: string, rows = Number.POSITIVE_INFINITY): Promise<string> => {
      const file = literal(join(folder, `${name}.parquet`))
      await connection.run(
        `copy (${select}) to ${file} (format parquet, compression lz4_raw, dictionary_size_limit 1, write_bloom_filter false, row_group_size ${groupOf(rows)})`,
      )
      return `from read_parquet(${file}, file_row_number = true)`
    }
    const news = `${keyed} from spillway_news order by place`
    return {
      relation: told ? await write('incoming', news, counts.news) : await write('incoming', `${keyed} from (${all})`),
      sifted: told ? { counts, missed: await write('missed', 'from spillway_missed', counts.missed) } : undefined,
      content:
        text === undefined
          ? { columns: places, rows: (values, count) => assembled(values, columns, blank, count) }
          : { text },
      place: 'file_row_number',
    }
  } catch (error) {
    throw explained(error, signal)
  } finally {
    close()
  }
}

/** Rows that are written together, of so many: DuckDB reads such groups side by side, and holds some of them while it writes. */
function groupOf(rows: number): number {
  return Math.min(122_880, Math.max(2_048, Math.ceil(rows / 8)))
}

/** Opens a database, whose queries end with the signal and know no other time zone than UTC. */
async function open(
  path: string | undefined,
  signal: AbortSignal,
): Promise<{ connection: DuckDBConnection; close(): void }> {
  signal.throwIfAborted()
  // two processes that spill into one folder, as DuckDB's default may be, would overwrite each other's files
  const settings = { temp_directory: join(tmpdir(), `spillway-duckdb-${randomUUID()}`) }
  const instance = await (path === undefined
    ? DuckDBInstance.create(':memory:', settings)
    : DuckDBInstance.create(path, { ...settings, access_mode: 'READ_ONLY' }).catch((error) => {
        throw unopened(path, error)
      }))
  const connection = await instance.connect()
  await connection.run("set TimeZone = 'UTC'")
  let again: NodeJS.Timeout | undefined
  const interrupt = () => {
    connection.interrupt()
    again = setInterval(() => connection.interrupt(), 50) // one that comes just before a query begins is not heard
  }
  signal.addEventListener('abort', interrupt)
  const close = () => {
    signal.removeEventListener('abort', interrupt)
    clearInterval(again)
    connection.closeSync()
    instance.closeSync()
  }
  return { connection, close }
}

/** What an open database gives of a query. */
type Give<B> = (connection: DuckDBConnection, query: string, reading: Reading) => AsyncIterable<B>

/** Rows as DuckDB writes them for the stage, where it can do so with all of their columns. */
async function* encodable(
  connection: DuckDBConnection,
  query: string,
  reading: Reading,
): AsyncGenerator<readonly AnyRow[] | Encodable> {
  const columns = await columnsOf(connection, query)
  const texts = textsOf(columns)
  const names = texts.map(({ name }) => name)
  const values = texts.map(({ text }) => text)
  if (values.includes(undefined)) return yield* chunks(connection, query, reading)
  describe(columns, reading)
  const renamed = `(\n${query}\n) as source (${columns.map((_, index) => `c${index}`).join()})`
  const result = await connection.stream(`select json_array(${values.join()})::varchar from ${renamed}`)
  const reader = () => {
    const { read } = converter(result.columnLogicalType(0))
    return (chunk: DuckDBDataChunk) => {
      const rows = columnOf(chunk, 0, read) as string[]
      return new Encodable(rows.length, (start, end) => encodeTexts(names, rows.slice(start, end)))
    }
  }
  yield* chunksOf(connection, result, reader, () => brokenOff(connection, query))
}

/** What DuckDB writes of the columns, which are `c0` and so on, in the order of an object's; `undefined` where it cannot. */
function textsOf(columns: Columns): { readonly name: string; readonly text: string | undefined }[] {
  return inOrder(columns, actor).map((column) => {
    const { name, logical } = column
    return { name, text: stagedText(logical, `c${columns.indexOf(column)}`) }
  })
}

type Columns = readonly (Converter & { readonly name: string; readonly logical: DuckDBLogicalType })[]

/** The columns of a query, and how to read them. @throws SourceError when it is no select. */
async function columnsOf(connection: DuckDBConnection, query: string): Promise<Columns> {
  await prepare(connection, query)
  return columnsIn(await connection.run(`from (\n${query}\n) as source limit 0`))
}

function columnsIn(result: DuckDBResult): Columns {
  return result.columnNames().map((name, index) => {
    const logical = result.columnLogicalType(index)
    return { name, logical, ...converter(logical) }
  })
}

function describe(columns: Columns, reading: Reading): void {
  reading.describe(columns.map(({ name, type }) => ({ name, type, nullable: true })))
}

async function* chunks(connection: DuckDBConnection, query: string, reading: Reading): AsyncGenerator<AnyRow[]> {
  const result = await start(connection, query, reading)
  const reader = () => {
    const columns = columnsIn(result)
    const blank = blankRow(columns, actor)
    describe(columns, reading)
    return (chunk: DuckDBDataChunk) => rowsOf(chunk, columns, blank)
  }
  yield* chunksOf(connection, result, reader, () => brokenOff(connection, query))
}

async function start(connection: DuckDBConnection, query: string, reading: Reading): Promise<DuckDBResult> {
  const { cursor, since, signal } = reading
  const all = await prepare(connection, query)
  let prepared = all
  if (cursor !== undefined) {
    const names = Array.from({ length: all.columnCount }, (_, index) => all.columnName(index))
    const index = names.indexOf(cursor)
    if (index === -1) {
      throw new SourceError(
        `${actor}: the query gives no column ${quoted(cursor)} (the cursor); it gives ${names.join(', ')}`,
      )
    }
    const least = since === undefined ? undefined : `cast($1 as ${all.columnType(index)})`
    prepared = await connection.prepare(windowed(query, quoted(cursor), least))
    if (since !== undefined) prepared.bindVarchar(1, cursorText(since))
  }
  signal.throwIfAborted()
  return prepared.stream()
}

async function prepare(connection: DuckDBConnection, query: string): Promise<DuckDBPreparedStatement> {
  const prepared = await connection.prepare(query)
  if (prepared.statementType !== StatementType.SELECT) {
    throw new SourceError(
      `${actor}: the query is no select (but ${StatementType[prepared.statementType]}); a source only reads`,
    )
  }
  return prepared
}

// ---- errors ----------------------------------------------------------------------------------------------------

function unopened(path: string, error: unknown): SourceError {
  const message = error instanceof Error ? error.message : String(error)
  const holder = /Conflicting lock is held in (.*? \(PID \d+\))/.exec(message)?.[1]
  if (holder) {
    return new SourceError(
      `${actor}: ${path} is open for writing in ${holder}: read it when that process has closed it`,
    )
  }
  // what DuckDB says of a CSV or Parquet file that is to be opened as a database
  if (message.includes('Cannot launch in-memory database')) {
    return new SourceError(
      `${actor}: ${path} is no database file: leave out \`path\` and read it in the query, as in from '${path}'`,
    )
  }
  return new SourceError(`${actor}: cannot open ${path}: ${message}`)
}

/** Why a query failed half-way: running it once more without its rows is the only way to learn it. */
async function brokenOff(connection: DuckDBConnection, query: string): Promise<SourceError> {
  let reason = 'the query broke off half-way, but not when it was tried again: run the sync again'
  try {
    await connection.run(`select bit_xor(hash(source)) from (\n${query}\n) as source`)
  } catch (error) {
    reason = reasonIn(error)
  }
  return new SourceError(`${actor}: ${reason}`)
}

function explained(error: unknown, signal: AbortSignal): unknown {
  signal.throwIfAborted()
  return error instanceof SpillwayError ? error : new SourceError(`${actor}: ${reasonIn(error)}`)
}

/** What DuckDB has against a query, without the values that it quotes from the data. */
function reasonIn(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  if (!/^(Conversion|Invalid Input|Out of Range) Error/.test(message)) return message
  const csv = /CSV Error on Line: \d+/.exec(message)?.[0]
  if (csv) {
    const file = /^ +file = (.*)$/m.exec(message)?.[1]
    const problem = /^Error when converting column "[^"]*"|^Expected Number of Columns: .*/m.exec(message)?.[0]
    return [csv, file, problem].filter(Boolean).join(': ')
  }
  const [line = ''] = message.split('\n')
  return line.replace(/(?<!file |\w)(?:(["']).*\1|["'].*$)|(?<=\bvalue )(?!is )\S+|\([^()]*\)/g, '…')
}
