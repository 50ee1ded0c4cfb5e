import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  DuckDBArrayLogicalType,
  type DuckDBConnection,
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
   * DuckDB lets nobody read a file while another process writes it. Without it, the query reads files.
   */
  readonly path?: string | undefined
  /** One select, such as `from scored` or `from 'orders/*.parquet'` (CSV and JSON files too). */
  readonly query: string
}

const actor = 'duckdb'

/**
 * The rows of a query over a DuckDB database, or over Parquet, CSV and JSON files.
 *
 * Rows stream in batches of about 2,000; the query runs in the time zone UTC. Values keep what the database says:
 * 64-bit and larger integers are `bigint`; decimals exact strings; `date` is `'2026-01-31'`; `timestamp` is
 * `'2026-01-31T02:30:00.123456'`; `timestamptz` is an `Instant`; `blob` is a `Uint8Array`; json is parsed, with integers
 * beyond 2^53 as `bigint`; lists and arrays are arrays; structs are objects, and arrays when their fields have no names; maps are
 * objects, and arrays of `{ key, value }` when their keys are not plain; a union is an object with the one member that it
 * holds; anything else, infinite dates included, is DuckDB's own text of it.
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
      signal.throwIfAborted()
      const { connection, close } = await open(path)
      const interrupt = () => connection.interrupt()
      signal.addEventListener('abort', interrupt)
      let count = 0
      try {
        for await (const rows of read(connection, text, reading)) {
          yield record ? await conforming(rows, record, count, actor) : rows
          count += rows.length
        }
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error)
      } finally {
        signal.removeEventListener('abort', interrupt)
        close()
      }
    },
  })
}

async function open(path: string | undefined): Promise<{ connection: DuckDBConnection; close(): void }> {
  try {
    // its own folder, because files of two processes that spill to one folder would mix
    const settings = { temp_directory: join(tmpdir(), `spillway-${randomUUID()}`) }
    const instance = path ? await DuckDBInstance.create(path, { ...settings, access_mode: 'READ_ONLY' }) : await DuckDBInstance.create(':memory:', settings)
    const connection = await instance.connect()
    const close = () => {
      connection.closeSync()
      instance.closeSync()
    }
    await connection.run("set TimeZone = 'UTC'")
    return { connection, close }
  } catch (error) {
    throw unopened(path, error)
  }
}

/** Rows wanted, in arrays of one chunk each. */
async function* read(connection: DuckDBConnection, query: string, reading: Reading): AsyncGenerator<AnyRow[]> {
  const result = await start(connection, query, reading)
  const streaming = result.isStreaming
  const names = result.columnNames()
  const blank = blankRow(names, actor)
  const columns = names.map((_, index) => converter(result.columnLogicalType(index)))
  reading.describe(names.map((name, index) => ({ name, type: columns[index]!.type, nullable: true })))
  let next = result.fetchChunk()
  try {
    for (;;) {
      const chunk = await next
      const count = chunk?.rowCount ?? 0
      if (!chunk || count === 0) break
      next = result.fetchChunk()
      next.catch(() => {}) // seen when it is awaited
      const rows = Array.from({ length: count }, () => ({ ...blank }))
      for (const [index, { read }] of columns.entries()) {
        const name = names[index]!
        const values = read(bindings.data_chunk_get_vector(chunk.chunk, index), count)
        for (let row = 0; row < count; row++) rows[row]![name] = values[row]
      }
      // the vectors point into memory that goes with the chunk, so it must be held until they were read
      if (chunk.rowCount !== count) throw new Error('the chunk changed while it was read')
      yield rows
    }
  } finally { }
}
