import { resolve } from 'node:path'
import type { DuckDBConnection, DuckDBInstance } from '@duckdb/node-api'
import {
  type AnyRow,
  ConfigError,
  type Destination,
  destination,
  RejectedError,
  RetryableError,
  SpillwayError,
} from 'spillway'
import { duckdbText, duckdbTypes } from './tables/duckdb-text.js'
import { type Columns, handlersOf, type Params, partsOf, type Session } from './tables/sql-table.js'

/** What {@link duckdbTable} is told. */
export interface DuckdbTableOptions {
  /** The database file, relative to the working directory. It is made when it is missing; its folder must be there. */
  readonly path: string
  /** The table: `orders`, `sales.orders`. It is made when it is missing; its schema must be there. */
  readonly table: string
  /** The fields by which a row is found; `upsert` needs a primary key or unique index on just these. @default the sync's key */
  readonly match?: string | readonly string[] | undefined
}

const me = 'duckdb-table'

/**
 * A table of a DuckDB database: rows are inserted, updated, upserted, deleted, or replaced as a whole, in statements over all rows of a
 * batch.
 *
 * **What is guaranteed.** Each call is one transaction: all of it is applied or nothing. `insert` notes the batch in the table
 * `_spillway_batches` beside yours, in the transaction of its rows, so that a batch whose end a crash hid is looked up there and no row
 * is inserted twice; notes are kept for 30 days. `upsert`, `update` and `delete` say the same when repeated. During `replace`, the
 * old rows stand until its end, and still do after a crash.
 *
 * DuckDB lets one process write a file, and nobody else read it meanwhile: the file is open only during a call. While another process
 * has it open, calls wait and are tried again. Its lock does not count within one process: do not read the file by the source
 * `duckdb` while a sync writes it.
 *
 * A missing table is made from the records' types, with the match fields as its primary key when it is made by `upsert`, and missing
 * columns are added. `BIGINT` holds integers, `HUGEINT` bigints, `DECIMAL(38, 18)` decimals, `TIMESTAMPTZ` a `Date` with its
 * microseconds, `JSON` lists and objects; a type that the source does not tell is `VARCHAR`. The types come from the first batch;
 * make the table yourself to have others: values are cast to its own. A value that a column could hold only rounded is rejected.
 *
 * An absent field leaves its column alone, `null` makes it null. A row that does not fit is rejected, alone; but one that breaks a
 * constraint of the table fails a `replace` as a whole. `update` rejects rows that are not there.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * sync({ name: 'orders', from: orders, to: duckdbTable({ path: 'lake.db', table: 'orders' }), key: 'id', mode: 'mirror' })
 * ```
 */
export function duckdbTable(
  options: DuckdbTableOptions,
): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete' | 'replace'> {
  const { path, table, match } = options
  if (typeof path !== 'string' || path === '' || path === ':memory:' || path.includes('\0')) {
    throw new ConfigError(`${me}: path must name a file, such as 'lake.db'`)
  }
  const name = partsOf(table, me)
  /** Calls follow one another, whatever `concurrency` says: two that change the same rows would refuse each other. */
  let turn: Promise<unknown> = Promise.resolve()
  return destination({
    name: me,
    batchSize: 10_000,
    timeout: '5min', // replace is one call
    settle: '0ms', // what was not committed is gone with its process
    match,
    target: () => ({ path: resolve(path), table: name.join('.') }),
  })(
    handlersOf({
      actor: me,
      name,
      types: duckdbTypes,
      longestName: Number.POSITIVE_INFINITY,
      fold: (column) => column.toLowerCase(),
      text: duckdbText,
      transaction: (context, work) => {
        const mine = turn.then(() => transaction(path, context.signal, work))
        turn = mine.catch(() => {}) // the caller, who awaits `mine`, is told
        return mine
      },
    }),
  )
}

async function transaction<T>(path: string, signal: AbortSignal, work: (session: Session) => Promise<T>): Promise<T> {
  const { instance, connection } = await open(path)
  const interrupt = () => connection.interrupt()
  signal.addEventListener('abort', interrupt)
  let committing = false
  try {
    await connection.run(`set TimeZone = 'UTC'`)
    await connection.run('begin')
    const result = await work(await sessionOf(instance, connection))
    signal.throwIfAborted()
    committing = true
    await connection.run('commit')
    return result
  } catch (error) {
    // what is left open goes with its connection
    throw judged(error, committing)
  } finally {
    signal.removeEventListener('abort', interrupt)
    connection.closeSync()
    instance.closeSync()
  }
}

/** One instance for all who have the file open in this process: DuckDB's lock keeps other processes out only. */
async function open(path: string): Promise<{ instance: DuckDBInstance; connection: DuckDBConnection }> {
  const { DuckDBInstance } = await import('@duckdb/node-api')
  try {
    const instance = await DuckDBInstance.fromCache(resolve(path))
    return { instance, connection: await instance.connect() }
  } catch (error) {
    const reason = (error as Error).message
    if (/lock|different configuration/i.test(reason)) {
      throw new RetryableError(
        `${me}: another process, or a reader in this one, has ${path} open, and DuckDB lets one write a file: close it there (${firstLine(reason)})`,
      )
    }
    throw new ConfigError(`${me}: ${path} cannot be opened: ${firstLine(reason)}`)
  }
}

async function sessionOf(instance: DuckDBInstance, connection: DuckDBConnection): Promise<Session> {
  const { LIST, listValue, VARCHAR } = await import('@duckdb/node-api')
  const queryOn = async (connection: DuckDBConnection, sql: string, params: Params) => {
    const prepared = await connection.prepare(sql)
    try {
      params.forEach((param, index) => {
        prepared.bindList(index + 1, listValue([...param]), LIST(VARCHAR))
      })
      return (await prepared.runAndReadAll()).getRows()
    } finally {
      prepared.destroySync()
    }
  }
  const query: Session['query'] = (sql, ...params) => queryOn(connection, sql, params)
  return {
    query,
    async attempt(statement, rows, params) {
      // an error ends a transaction, and there are no savepoints: whether all values fit is tried beside it
      const beside = await instance.connect()
      try {
        await beside.run(`set TimeZone = 'UTC'`)
        await queryOn(beside, `from ${rows}`, params)
      } catch (error) {
        const refusal = judged(error, false)
        if (refusal instanceof RejectedError) return refusal.message
        throw error
      } finally {
        beside.closeSync()
      }
      await query(statement, ...params)
      return undefined
    },
    async columns(parts): Promise<Columns> {
      const table = parts.at(-1)!
      const [[schema] = []] = parts.length > 1 ? [[parts[0]]] : await query('select current_schema()')
      const rows = await query(
        `select lower(column_name), data_type from duckdb_columns()
         where database_name = current_database() and lower(schema_name) = lower(($1::text[])[1]) and lower(table_name) = lower(($1::text[])[2])`,
        [String(schema), table],
      )
      return new Map(rows as [string, string][])
    },
    needsIndex: (error) => /conflict target are not referenced/.test((error as Error).message),
    lock: () => Promise.resolve(), // a transaction that meets another's change of the table is refused, and tried again
  }
}

/** What an error of DuckDB proves. Its message may quote values, in its first line and in the statement below. */
function judged(error: unknown, committing: boolean): unknown {
  if (error instanceof SpillwayError) return error
  const { message } = error as Error
  const said = firstLine(message).replace(/"[^"]*"|'[^']*'/g, '…')
  if (/^TransactionContext Error|^Catalog write-write conflict|conflict on/i.test(firstLine(message)))
    return new RetryableError(`${me}: ${said}`)
  if (committing) return new Error(`${me}: the commit failed (${said}): whether the batch was applied is looked up`)
  if (
    /^(Conversion|Constraint|Out of Range|Invalid Input|Binder|Catalog|Not implemented|Parser) Error/i.test(message)
  ) {
    return new RejectedError(said)
  }
  return new RetryableError(`${me}: ${said}: nothing of the batch was applied`)
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0]!
}
