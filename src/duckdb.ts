import { type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { totalmem } from 'node:os'
import { dirname } from 'node:path'
import type { DuckDBConnection, DuckDBDataChunk, DuckDBInstance, DuckDBType, DuckDBValue } from '@duckdb/node-api'
import { ConfigError } from './errors.js'
import { type LineFiles, linesAs, literal, nullMark } from './sources/sql.js'
import { explained } from './state/database.js'
import { writeDurably } from './state/files.js'

const megabyte = 1_000_000
/** Enough for rows of 512 bytes, however many there are. */
const memoryLimit = 512
/** Of wide rows, DuckDB joins and sorts any number when it may hold about so many. */
const rowsHeld = 1_000_000

/** A DuckDB of our own, in memory as far as it fits. */
export interface Duckdb {
  readonly connection: DuckDBConnection
  /** A query ends the stream of any other on its connection. */
  connect(): Promise<DuckDBConnection>
  disconnect(connection: DuckDBConnection): void
  /** A place for tables and views of its own, which go when it is closed: much cheaper than another database. */
  workspace(): Promise<Duckdb>
  close(): Promise<void>
}

/** Opens one that spills into the folder `spill`, which is there only while it must be. */
export async function openDuckdb(spill: string): Promise<Duckdb> {
  const { DuckDBInstance } = await import('@duckdb/node-api')
  const instance = await DuckDBInstance.create(':memory:', { memory_limit: `${memoryLimit}MB`, temp_directory: spill })
  return place(instance, 'main', async () => {
    instance.closeSync()
    await rm(spill, { recursive: true, force: true })
  })
}

/** Lets DuckDB take more memory than usual where rows of so many bytes need it, up to what the machine can spare. */
export async function allowFor(connection: DuckDBConnection, rowBytes: number): Promise<void> {
  const limit = Math.floor(Math.min(rowBytes * rowsHeld, totalmem() * 0.6) / megabyte)
  if (limit > memoryLimit) await connection.run(`set memory_limit = '${limit}MB'`)
}

/** An error of DuckDB before anything was sent, in terms of what to do about it when it had too little memory. */
export function roomless(error: unknown, where: string): unknown {
  if (!(error instanceof Error && error.message.startsWith('Out of Memory Error'))) return error
  return new ConfigError(
    `${where}: its rows are too large to be compared in the memory of this machine. Nothing was sent. Select fewer or shorter columns, or run it where there is more memory`,
    { cause: error },
  )
}

let spaces = 0

async function place(instance: DuckDBInstance, schema: string, end: () => Promise<void>): Promise<Duckdb> {
  const connections = new Set<DuckDBConnection>()
  const connect = async (): Promise<DuckDBConnection> => {
    const connection = await instance.connect()
    connections.add(connection)
    if (schema !== 'main') await connection.run(`set schema = '${schema}'`)
    return connection
  }
  const disconnect = (connection: DuckDBConnection): void => {
    if (connections.delete(connection)) connection.closeSync()
  }
  const connection = await connect()
  return {
    connection,
    connect,
    disconnect,
    async workspace() {
      const own = `space${++spaces}`
      await connection.run(`create schema ${own}`)
      return place(instance, own, async () => void (await connection.run(`drop schema ${own} cascade`)))
    },
    async close() {
      for (const one of connections) disconnect(one)
      await end()
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

/** Rows that DuckDB writes to Parquet together: at least, and as it would itself. */
const [fewestRows, usualRows] = [2_048, 122_880]
/** Bytes of such rows, about. It holds several groups of them in memory while it writes. */
const groupBytes = 1 << 24

/** How wide rows are before compression, about, and whether they stay in their order: far less is held in memory when they need not. */
interface Shape {
  readonly rowBytes: number
  readonly ordered: boolean
}

/** What a query gives, as a Parquet file that is soon read and then deleted. */
export function copyTo(connection: DuckDBConnection, path: string, select: string, shape: Shape): Promise<void> {
  return copyAs('lz4_raw', connection, path, select, shape)
}

async function copyAs(
  compression: 'lz4_raw' | 'zstd',
  connection: DuckDBConnection,
  path: string,
  select: string,
  { rowBytes, ordered }: Shape,
): Promise<void> {
  const fit = Math.floor(groupBytes / rowBytes / fewestRows) * fewestRows
  const group = Math.max(fewestRows, Math.min(usualRows, fit))
  try {
    await connection.run(`set preserve_insertion_order = ${ordered}`)
    // hardly two values of a column are the same, so that looking for them would take the most time
    const options = `format parquet, compression ${compression}, dictionary_size_limit 1, write_bloom_filter false, row_group_size ${group}`
    await connection.run(`copy (${select}) to ${literal(path)} (${options})`)
  } catch (error) {
    throw explained(error, path)
  } finally {
    await connection.run('reset preserve_insertion_order')
  }
}

/** The same to be kept: small, and durable when this resolves. */
export async function copyDurably(
  connection: DuckDBConnection,
  path: string,
  select: string,
  shape: Shape,
): Promise<void> {
  try {
    await writeDurably(path, (temporary) => copyAs('zstd', connection, temporary, select, shape))
  } catch (error) {
    throw explained(error, path)
  }
}

/** A column of a Parquet file, by the account of the file itself. */
export interface FileColumn {
  readonly file: string
  readonly name: string
  /** Before compression. */
  readonly bytes: number
  readonly rows: number
  /** What every row has, as text; `undefined` where they differ, or where that is not told, as of texts. */
  readonly same: string | null | undefined
}

/** The columns of those Parquet files that have rows. */
export async function columnsIn(connection: DuckDBConnection, files: readonly string[]): Promise<FileColumn[]> {
  if (files.length === 0) return []
  const told = (value: string) => `case when type in ('BOOLEAN', 'INT32') then ${value} end`
  // grouped here: DuckDB takes 30 ms for that, however few they are, in each of the many runs that have little to do
  const chunks = await rowsOf<{
    file: string
    name: string
    bytes: bigint
    rows: bigint
    nulls: bigint
    least: string | null
    greatest: string | null
  }>(
    connection,
    `select file_name as file, path_in_schema as name, total_uncompressed_size as bytes, num_values as rows,
       stats_null_count as nulls, ${told('stats_min_value')} as least, ${told('stats_max_value')} as greatest
     from parquet_metadata([${files.map(literal).join()}])`,
  )
  const columns = new Map<string, FileColumn>()
  for (const { file, name, nulls, least, greatest, ...chunk } of chunks) {
    const alike = nulls === 0n && least === greatest ? (least ?? undefined) : undefined
    const same = nulls === chunk.rows ? null : alike
    const [bytes, rows] = [Number(chunk.bytes), Number(chunk.rows)]
    const id = JSON.stringify([file, name])
    const { bytes: before, rows: above, same: also } = columns.get(id) ?? { bytes: 0, rows: 0, same }
    columns.set(id, { file, name, bytes: before + bytes, rows: above + rows, same: also === same ? same : undefined })
  }
  return [...columns.values()]
}

/** The bytes of a row before compression, in the file where they are most. */
export function widthOf(columns: readonly FileColumn[]): number {
  const widths = new Map<string, number>()
  for (const { file, bytes, rows } of columns) widths.set(file, (widths.get(file) ?? 0) + bytes / rows)
  return Math.max(0, ...widths.values())
}

/** The columns of a query's chunks, each an array of values, while other queries go on. */
export async function* streamed(database: Duckdb, sql: string): AsyncGenerator<Columns> {
  const { chunksOf, columnOf, converter } = await import('./sources/duckdb-values.js')
  const connection = await database.connect()
  try {
    const result = await connection.stream(sql)
    const reader = () => {
      const names = result.columnNames()
      const readers = names.map((_, index) => converter(result.columnLogicalType(index)).read)
      return (chunk: DuckDBDataChunk): Columns => ({
        names,
        count: chunk.rowCount,
        columns: readers.map((read, index) => columnOf(chunk, index, read)),
      })
    }
    const broken = async () => new Error('a query of the embedded DuckDB broke off half-way')
    yield* chunksOf(connection, result, reader, broken)
  } finally {
    database.disconnect(connection)
  }
}

export interface Columns {
  readonly names: readonly string[]
  readonly count: number
  // biome-ignore lint/suspicious/noExplicitAny: what the query gives
  readonly columns: readonly any[][]
}

/** The same as rows. */
export async function* streamedRows<Row>(database: Duckdb, sql: string): AsyncGenerator<readonly Row[]> {
  for await (const { names, count, columns } of streamed(database, sql)) {
    yield Array.from({ length: count }, (_, row) =>
      Object.fromEntries(names.map((name, index) => [name, columns[index]![row]])),
    ) as Row[]
  }
}

/** Bytes of a line file that are written together, about. */
const pageBytes = 1 << 18

/** A text file of lines that DuckDB reads as a table: many times as fast as values handed over one by one. */
export class LineFile {
  readonly #path: string
  #file: FileHandle | undefined
  #page = Buffer.allocUnsafeSlow(pageBytes * 2)
  #filled = 0
  #longest = 0
  #bytes = 0
  #lines = 0

  constructor(path: string) {
    this.#path = path
  }

  /** Adds a line: fields without tabs and line breaks, and tabs between them. Waits now and then, when it answers a promise. */
  add(line: string): Promise<void> | undefined {
    // in UTF-8, at most three bytes for each of JavaScript's units
    const most = this.#filled + line.length * 3 + 1
    if (most > this.#page.length) this.#page = Buffer.concat([this.#page], most * 2)
    const bytes = this.#page.write(`${line}\n`, this.#filled)
    this.#longest = Math.max(this.#longest, bytes)
    this.#filled += bytes
    this.#lines++
    return this.#filled > pageBytes ? this.#flush() : undefined
  }

  /** Bytes of a line, on average. */
  get lineBytes(): number {
    return (this.#bytes + this.#filled) / Math.max(1, this.#lines)
  }

  /** What DuckDB reads it by, once all lines are there. */
  async end(columns: Readonly<Record<string, string>>): Promise<string> {
    await this.#flush()
    await this.#file!.close()
    return linesIn(columns, { files: [this.#path], longest: this.#longest, bytes: this.#bytes })
  }

  async #open(): Promise<FileHandle> {
    await mkdir(dirname(this.#path), { recursive: true })
    return open(this.#path, 'w')
  }

  async #flush(): Promise<void> {
    try {
      this.#file ??= await this.#open()
      await this.#file.appendFile(this.#page.subarray(0, this.#filled))
    } catch (error) {
      throw explained(error, this.#path)
    }
    this.#bytes += this.#filled
    this.#filled = 0
  }
}

/** Files of our own lines as DuckDB reads them: lossless texts and canonical keys hold neither tabs nor line breaks. */
export function linesIn(columns: Readonly<Record<string, string>>, files: LineFiles, cut = false): string {
  return linesAs(columns, files, { delim: '\t', nullstr: nullMark, cut })
}

/** Appends rows to a table in DuckDB's own chunks. */
export async function fill(
  connection: DuckDBConnection,
  table: string,
  batches: AsyncIterable<readonly (readonly DuckDBValue[])[]> | Iterable<readonly (readonly DuckDBValue[])[]>,
): Promise<void> {
  const { DuckDBDataChunk } = await import('@duckdb/node-api')
  const [at] = await rowsOf<{ schema: string }>(connection, 'select current_schema() as schema')
  const appender = await connection.createAppender(table, at!.schema)
  const types: DuckDBType[] = Array.from({ length: appender.columnCount }, (_, column) => appender.columnType(column))
  try {
    for await (const rows of batches) {
      for (let start = 0; start < rows.length; start += 2_048) {
        const chunk = DuckDBDataChunk.create(types)
        chunk.setRows(rows.slice(start, start + 2_048))
        appender.appendDataChunk(chunk)
      }
    }
  } finally {
    // one that is left open gives its rows later, when it is collected, to whatever table has this name by then
    appender.closeSync()
  }
}
