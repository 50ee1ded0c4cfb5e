import { createReadStream, createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { pipeline } from 'node:stream/promises'
import { type AnyRow, type Context, FatalError } from 'spillway'
import { duckdbText, parquetTypes } from './duckdb-text.js'
import { jsonOf, textOf } from './text.js'

/** How a file is written as a whole: rows one by one, or from a file of rows when all columns are known. */
export interface Format {
  /** A row as a line; its columns are called by their numbers in `columns`, which grow. */
  line(record: AnyRow, columns: Map<string, number>, context: Context): string
  /** Makes the file of the lines, when there are other lines than those of the file itself. */
  finish?(lines: string, target: string, columns: readonly string[], context: Context): Promise<void>
}

const spooled = (
  record: AnyRow,
  columns: Map<string, number>,
  text: (value: unknown, name: string) => string,
): string => {
  const cells: Record<string, string> = {}
  for (const [name, value] of Object.entries(record)) {
    if (value === undefined) continue
    if (!columns.has(name)) columns.set(name, columns.size)
    if (value !== null) cells[`c${columns.get(name)}`] = text(value, name)
  }
  return `${JSON.stringify(cells)}\n`
}

export const formats: Readonly<Record<'jsonl' | 'csv' | 'parquet', Format>> = {
  jsonl: { line: (record) => `${jsonOf(record)}\n` },
  csv: {
    line: (record, columns) => spooled(record, columns, textOf),
    finish: (lines, target, columns) => pipeline(csvOf(lines, columns), createWriteStream(target)),
  },
  parquet: {
    line(record, columns, { table }) {
      const types = new Map(table.columns.map(({ name, type }) => [name, parquetTypes[type]]))
      return spooled(record, columns, (value, name) => duckdbText(value, types.get(name)!))
    },
    finish: parquetOf,
  },
}

// ---- CSV ---------------------------------------------------------------------------------------------------------------

/** https://www.rfc-editor.org/rfc/rfc4180 */
export function csvLine(cells: readonly (string | null)[]): string {
  const quoted = (cell: string) => (/[",\r\n]|^$|^\s|\s$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)
  return `${cells.map((cell) => (cell === null ? '' : quoted(cell))).join()}\r\n`
}

/** The names in the header of a CSV file; `undefined` when the text ends before the header does. */
export function headerIn(text: string): string[] | undefined {
  const header = /^\uFEFF?((?:"(?:[^"]|"")*"|[^"\n])*?)\r?\n/.exec(text)?.[1]
  if (header === undefined) return undefined
  return Array.from(
    `,${header}`.matchAll(/,(?:"((?:[^"]|"")*)"|([^,]*))/g),
    ([, quoted, bare]) => quoted?.replaceAll('""', '"') ?? bare!,
  )
}

async function* csvOf(lines: string, columns: readonly string[]): AsyncGenerator<string> {
  let piece = columns.length > 0 ? csvLine(columns) : ''
  for await (const line of createInterface(createReadStream(lines))) {
    const cells = JSON.parse(line) as Record<string, string>
    piece += csvLine(columns.map((_, index) => cells[`c${index}`] ?? null))
    if (piece.length < 1 << 18) continue
    yield piece
    piece = ''
  }
  yield piece
}

async function parquetOf(lines: string, target: string, columns: readonly string[], { table }: Context): Promise<void> {
  if (columns.length === 0)
    throw new FatalError(`file: there are no rows, and a Parquet file cannot be without columns`)
  const { DuckDBInstance } = await import('@duckdb/node-api')
  const literal = (text: string) => `'${text.replaceAll("'", "''")}'`
  const types = new Map(table.columns.map(({ name, type }) => [name, parquetTypes[type]]))
  const read = columns.map((_, index) => `c${index}: 'VARCHAR'`)
  const cast = columns.map((name, index) => `c${index}::${types.get(name)!} as "${name.replaceAll('"', '""')}"`)
  const instance = await DuckDBInstance.create(':memory:', { temp_directory: `${target}.spill` })
  try {
    const connection = await instance.connect()
    await connection.run(`set TimeZone = 'UTC'`)
    await connection.run(
      `copy (select ${cast} from read_json(${literal(lines)}, columns = {${read}}, format = 'newline_delimited', maximum_object_size = 67108864))
       to ${literal(target)} (format parquet)`,
    )
    connection.closeSync()
  } finally {
    instance.closeSync()
    await rm(`${target}.spill`, { recursive: true, force: true })
  }
}
