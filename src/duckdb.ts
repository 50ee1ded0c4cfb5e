import { rm } from 'node:fs/promises'
import type { DuckDBConnection, DuckDBInstance, DuckDBType, DuckDBValue } from '@duckdb/node-api'
import { explained } from './state/database.js'
import { writeDurably } from './state/files.js'

const memoryLimit = '512MB'

/** A DuckDB of our own, in memory as far as it fits. */
export interface Duckdb {
  readonly connection: DuckDBConnection
  /** A query ends the stream of any other on its connection. */
  connect(): Promise<DuckDBConnection>
  close(): Promise<void>
}

/** Opens one that spills into the folder `spill`, which is there only while it must be. */
export async function openDuckdb(spill: string): Promise<Duckdb> {
  const { DuckDBInstance } = await import('@duckdb/node-api')
  const instance: DuckDBInstance = await DuckDBInstance.create(':memory:', {
    memory_limit: memoryLimit,
    temp_directory: spill,
  })
  const connection = await instance.connect()
  const others: DuckDBConnection[] = []
  return {
    connection,
    async connect() {
      const other = await instance.connect()
      others.push(other)
      return other
    },
    async close() {
      for (const one of [connection, ...others]) one.closeSync()
      instance.closeSync()
      await rm(spill, { recursive: true, force: true })
    },
  }
}

export async function rowsOf<Row>(connection: DuckDBConnection, sql: string): Promise<Row[]> {
  return (await connection.runAndReadAll(sql)).getRowObjects() as Row[]
}

/** How many rows something has. */
export async function countOf(connection: DuckDBConnection, what: string): Promise<number> {
  const [row] = await rowsOf<{ n: bigint }>(connection, `select count(*) as n from ${what}`)
  return Number(row!.n)
}

/** What a query gives, as a Parquet file that is durable when this resolves. */
export async function copyTo(connection: DuckDBConnection, path: string, select: string): Promise<void> {
  try {
    await writeDurably(path, async (temporary) => {
      await connection.run(`copy (${select}) to ${literal(temporary)} (format parquet, compression zstd)`)
    })
  } catch (error) {
    throw explained(error, path)
  }
}

/** Appends rows to a table in DuckDB's own chunks. */
export async function fill(
  connection: DuckDBConnection,
  table: string,
  batches: AsyncIterable<readonly (readonly DuckDBValue[])[]> | Iterable<readonly (readonly DuckDBValue[])[]>,
): Promise<void> {
  const { DuckDBDataChunk } = await import('@duckdb/node-api')
  const appender = await connection.createAppender(table)
  const types: DuckDBType[] = Array.from({ length: appender.columnCount }, (_, column) => appender.columnType(column))
  for await (const rows of batches) {
    for (let start = 0; start < rows.length; start += 2_048) {
      const chunk = DuckDBDataChunk.create(types)
      chunk.setRows(rows.slice(start, start + 2_048))
      appender.appendDataChunk(chunk)
    }
  }
  appender.closeSync()
}

/** A text in SQL. */
export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}
