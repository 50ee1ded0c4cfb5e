import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  DuckDBArrayLogicalType,
  type DuckDBConnection,
  type DuckDBDataChunk,
  DuckDBDecimalLogicalType,
  DuckDBEnumLogicalType,
  DuckDBInstance,
  DuckDBListLogicalType,
  type DuckDBLogicalType,
  DuckDBMapLogicalType,
  type DuckDBResult,
  DuckDBStructLogicalType,
  DuckDBTypeId,
  DuckDBUnionLogicalType,
  DuckDBVector,
  StatementType,
} from '@duckdb/node-api'
import bindings, { type Vector } from '@duckdb/node-bindings'
import { SourceError, SpillwayError } from '../errors.js'
import type { Out, Schema } from '../schema.js'
import { createSource, type Reading, type Source } from '../source.js'
import { type AnyRow, type ColumnType, Instant } from '../values.js'
import { blankRow, conforming, cursorText, parseJson, quoted, statement, windowed } from './sql.js'

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
 * The rows of a query over a DuckDB database, or over Parquet, CSV and JSON files. They stream, about 2,000 at a time.
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
export function duckdb({ path, query, record }: DuckDBOptions & { readonly record?: Schema }): Source<object> {
  const text = statement(query, actor)
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      const { connection, close } = await open(path)
      const interrupt = () => connection.interrupt()
      signal.addEventListener('abort', interrupt)
      try {
        let before = 0
        for await (const rows of chunks(connection, text, reading)) {
          signal.throwIfAborted()
          yield record ? await conforming(rows, record, before, actor) : rows
          before += rows.length
        }
      } catch (error) {
        signal.throwIfAborted()
        throw error instanceof SpillwayError ? error : new SourceError(`${actor}: ${reasonIn(error)}`)
      } finally {
        signal.removeEventListener('abort', interrupt)
        close()
      }
    },
  })
}

async function open(path: string | undefined): Promise<{ connection: DuckDBConnection; close(): void }> {
  // two processes that spill into one folder, as DuckDB's default may be, would overwrite each other's files
  const settings = { temp_directory: join(tmpdir(), `spillway-duckdb-${randomUUID()}`) }
  const instance = await (path === undefined
    ? DuckDBInstance.create(':memory:', settings)
    : DuckDBInstance.create(path, { ...settings, access_mode: 'READ_ONLY' }).catch((error) => {
        throw unopened(path, error)
      }))
  const connection = await instance.connect()
  const close = () => {
    connection.closeSync()
    instance.closeSync()
  }
  return { connection, close }
}

async function* chunks(connection: DuckDBConnection, query: string, reading: Reading): AsyncGenerator<AnyRow[]> {
  await connection.run("set TimeZone = 'UTC'")
  const result = await start(connection, query, reading)
  try {
    const names = result.columnNames()
    const blank = blankRow(names, actor)
    const columns = names.map((name, index) => ({ name, ...converter(result.columnLogicalType(index)) }))
    reading.describe(columns.map(({ name, type }) => ({ name, type, nullable: true })))
    for (let chunk = await result.fetchChunk(); chunk?.rowCount; chunk = await result.fetchChunk()) {
      yield rowsOf(chunk, columns, blank)
    }
    // A result that fails half-way ends just like a complete one; all that tells them apart is that a failed one no
    // longer calls itself streaming (duckdb_result_is_streaming in duckdb.h: false when there is an error).
    if (!result.isStreaming) throw new SourceError(`${actor}: ${await reasonOf(connection, query)}`)
  } finally {
    await end(connection, result)
  }
}

async function start(connection: DuckDBConnection, query: string, { cursor, since }: Reading): Promise<DuckDBResult> {
  const all = await connection.prepare(query)
  if (all.statementType !== StatementType.SELECT) {
    throw new SourceError(`${actor}: the query is no select (but ${StatementType[all.statementType]}); a source only reads`)
  }
  if (cursor === undefined) return all.stream()
  if (since === undefined) return (await connection.prepare(windowed(query, cursor, undefined))).stream()

  const names = Array.from({ length: all.columnCount }, (_, index) => all.columnName(index))
  const index = names.indexOf(cursor)
  if (index === -1) {
    throw new SourceError(`${actor}: the query gives no column ${quoted(cursor)} (the cursor); it gives ${names.join(', ')}`)
  }
  const window = await connection.prepare(windowed(query, cursor, `cast($1 as ${all.columnType(index)})`))
  window.bindVarchar(1, cursorText(since))
  return window.stream()
}

/** Ends a result early. One that is not read to its end keeps the file locked against writers, even when all else is closed. */
async function end(connection: DuckDBConnection, result: DuckDBResult): Promise<void> {
  connection.interrupt()
  let chunk: DuckDBDataChunk | null
  do chunk = await result.fetchChunk()
  while (chunk?.rowCount)
}

// ---- chunks to rows ------------------------------------------------------------------------------------------

/** Values of the first `count` places of a vector. */
type ReadVector = (vector: Vector, count: number) => unknown[]

interface Converter {
  readonly type: ColumnType
  readonly read: ReadVector
}

function rowsOf(chunk: DuckDBDataChunk, columns: readonly (Converter & { name: string })[], blank: AnyRow): AnyRow[] {
  const rows = Array.from({ length: chunk.rowCount }, () => ({ ...blank }))
  // Vectors are views of memory that goes when `chunk` is collected: asking it for its count each time keeps it until
  // the last of them was read.
  for (let index = 0; index < chunk.columnCount; index++) {
    const { name, read } = columns[index]!
    const values = read(bindings.data_chunk_get_vector(chunk.chunk, index), rows.length)
    for (let row = 0; row < rows.length; row++) rows[row]![name] = values[row]
  }
  return rows
}

/** How the vectors of a type are laid out: https://duckdb.org/docs/stable/clients/c/vector */
function converter(type: DuckDBLogicalType): Converter {
  switch (type.typeId) {
    case DuckDBTypeId.BOOLEAN:
      return { type: 'boolean', read: fixed(Uint8Array, (value) => value !== 0) }
    case DuckDBTypeId.TINYINT:
      return { type: 'integer', read: fixed(Int8Array) }
    case DuckDBTypeId.SMALLINT:
      return { type: 'integer', read: fixed(Int16Array) }
    case DuckDBTypeId.INTEGER:
      return { type: 'integer', read: fixed(Int32Array) }
    case DuckDBTypeId.UTINYINT:
      return { type: 'integer', read: fixed(Uint8Array) }
    case DuckDBTypeId.USMALLINT:
      return { type: 'integer', read: fixed(Uint16Array) }
    case DuckDBTypeId.UINTEGER:
      return { type: 'integer', read: fixed(Uint32Array) }
    case DuckDBTypeId.BIGINT:
      return { type: 'bigint', read: fixed(BigInt64Array) }
    case DuckDBTypeId.UBIGINT:
      return { type: 'bigint', read: fixed(BigUint64Array) }
    case DuckDBTypeId.HUGEINT:
      return { type: 'bigint', read: wide((value) => BigInt.asIntN(128, value)) }
    case DuckDBTypeId.UHUGEINT:
      return { type: 'bigint', read: wide((value) => value) }
    case DuckDBTypeId.BIGNUM:
      return { type: 'bigint', read: other((value) => value) }
    case DuckDBTypeId.FLOAT:
      return { type: 'double', read: fixed(Float32Array, shortest) }
    case DuckDBTypeId.DOUBLE:
      return { type: 'double', read: fixed(Float64Array) }
    case DuckDBTypeId.DECIMAL:
      return { type: 'decimal', read: decimals(type as DuckDBDecimalLogicalType) }
    case DuckDBTypeId.DATE:
      return { type: 'date', read: fixed(Int32Array, dateText) }
    case DuckDBTypeId.TIMESTAMP_S:
      return { type: 'timestamp', read: fixed(BigInt64Array, (value) => timestampText(value, 0)) }
    case DuckDBTypeId.TIMESTAMP_MS:
      return { type: 'timestamp', read: fixed(BigInt64Array, (value) => timestampText(value, 3)) }
    case DuckDBTypeId.TIMESTAMP:
      return { type: 'timestamp', read: fixed(BigInt64Array, (value) => timestampText(value, 6)) }
    case DuckDBTypeId.TIMESTAMP_NS:
      return { type: 'timestamp', read: fixed(BigInt64Array, (value) => timestampText(value, 9)) }
    case DuckDBTypeId.TIMESTAMP_TZ:
      return { type: 'instant', read: fixed(BigInt64Array, instant) }
    case DuckDBTypeId.TIME:
      return { type: 'text', read: fixed(BigInt64Array, (value) => clockText(Number(value), 6)) }
    case DuckDBTypeId.UUID:
      return { type: 'text', read: wide(uuidText) }
    case DuckDBTypeId.VARCHAR:
      return type.alias === 'JSON'
        ? { type: 'json', read: (vector, count) => texts(vector, count).map((text) => text === null ? null : parseJson(text, actor)) }
        : { type: 'text', read: texts }
    case DuckDBTypeId.BLOB:
      return { type: 'binary', read: blobs }
    case DuckDBTypeId.ENUM:
      return { type: 'text', read: enums(type as DuckDBEnumLogicalType) }
    case DuckDBTypeId.LIST:
      return { type: 'json', read: lists(converter((type as DuckDBListLogicalType).valueType).read) }
    case DuckDBTypeId.ARRAY:
      return { type: 'json', read: arrays(type as DuckDBArrayLogicalType) }
    case DuckDBTypeId.STRUCT:
      return { type: 'json', read: structs(type as DuckDBStructLogicalType) }
    case DuckDBTypeId.MAP:
      return { type: 'json', read: maps(type as DuckDBMapLogicalType) }
    case DuckDBTypeId.UNION:
      return { type: 'json', read: unions(type as DuckDBUnionLogicalType) }
    default:
      return { type: 'text', read: other(String) }
  }
}
