import { hash, randomUUID } from 'node:crypto'
import { ConfigError, SourceError } from '../errors.js'
import { type Schema, validate } from '../schema.js'
import type { CursorValue } from '../source.js'
import type { AnyRow } from '../values.js'

/** A query without the semicolon and the blanks around it; a {@link ConfigError} when nothing is left. */
export function statement(query: string, actor: string): string {
  const text = typeof query === 'string' ? query.trim().replace(/[\s;]+$/, '') : ''
  if (text === '') throw new ConfigError(`${actor}: \`query\` is empty: write a select`)
  return text
}

/** A query and the values of its parameters. */
export interface Query {
  readonly text: string
  readonly params: readonly unknown[]
  /** The name of the table whose every row it gives, where that is all that it does. */
  readonly table?: string
}

/** What SQL puts around a name that may hold anything. */
type Mark = '"' | '`'

/**
 * The query that the options of a source ask for: their own, or everything in `table`. Parts of the table's name that are quoted
 * already stay as they are, and may hold dots.
 *
 * @throws ConfigError when they ask for both or neither, or for no table.
 */
export function queryOf(
  {
    query,
    params = [],
    table,
  }: { readonly query?: string; readonly params?: readonly unknown[] | undefined; readonly table?: string },
  actor: string,
  mark: Mark = '"',
): Query {
  if ((query === undefined) === (table === undefined))
    throw new ConfigError(`${actor}: give either \`query\` or \`table\``)
  if (table === undefined) return { text: statement(query!, actor), params }
  const parts = table.match(new RegExp(`${mark}(?:[^${mark}]|${mark}${mark})+${mark}|[^${mark}.]+`, 'g')) ?? []
  if (parts.length === 0 || parts.join('.') !== table)
    throw new ConfigError(`${actor}: \`table\` is no name of a table, such as sales.orders`)
  const name = parts.map((part) => (part.startsWith(mark) ? part : quoted(part, mark))).join('.')
  return { text: `select * from ${name}`, params, table: name }
}

/**
 * The query of a read with a cursor column: what is not below `since`, in its order. Rows without a value come last, not
 * never: the sync rejects them, and says so.
 *
 * @param column As SQL writes it.
 * @param since How the statement names the least value wanted: a parameter. Without it every row is wanted.
 * @param order Where `nulls last` cannot be said.
 */
export function windowed(
  query: string,
  column: string,
  since: string | undefined,
  order = `${column} asc nulls last`,
): string {
  const wanted = since === undefined ? '' : ` where ${column} >= ${since} or ${column} is null`
  // the line breaks end a comment that the query may close with
  return `select * from (\n${query}\n) as source${wanted} order by ${order}`
}

/** A cursor value as text that the databases read for a column of any type. */
export function cursorText(value: CursorValue): string {
  // a year beyond 9999 is +010000 in JavaScript and 10000 in SQL
  return value instanceof Date ? value.toISOString().replace(/^\+0*/, '') : String(value)
}

/** A name as SQL writes it when it may hold anything. */
export function quoted(name: string, mark: Mark = '"'): string {
  return `${mark}${name.replaceAll(mark, mark + mark)}${mark}`
}

interface Named {
  readonly name: string
}

/**
 * A row of nulls in these columns. Copies of it share one shape, which is what makes filling them fast; being there
 * already, `__proto__` is a column like any other.
 *
 * @throws SourceError when two columns have one name, since a row can hold only one of them.
 */
export function blankRow(columns: readonly Named[], actor: string): AnyRow {
  const row: AnyRow = Object.create(null)
  for (const { name } of columns) {
    if (name in row)
      throw new SourceError(`${actor}: the query gives two columns named ${quoted(name)}: rename one with \`as\``)
    row[name] = null
  }
  return { ...row } // an object made without a prototype is slow to copy
}

/** Columns in the order in which a row has them: names that are numbers come first in an object. */
export function inOrder<C extends Named>(columns: readonly C[], actor: string): C[] {
  return Object.keys(blankRow(columns, actor)).map((name) => columns.find((column) => column.name === name)!)
}

/** Values by columns as rows, each a filled copy of `blank`. */
export function assembled(
  values: readonly (readonly unknown[])[],
  columns: readonly Named[],
  blank: AnyRow,
  count: number,
): AnyRow[] {
  const rows: AnyRow[] = []
  for (let left = count; left > 0; left--) rows.push({ ...blank })
  for (const [index, { name }] of columns.entries()) {
    const column = values[index]!
    for (let row = 0; row < count; row++) rows[row]![name] = column[row]
  }
  return rows
}

/**
 * A relation of DuckDB with the fingerprint of `text` beside its columns: 128 bits, as `hi` and `lo`. Nobody makes two texts
 * that share them by accident, and where `salt` differs, so do the fingerprints. MD5 and not DuckDB's own `hash`, whose values
 * change with its versions; two halves, because DuckDB writes wider integers to Parquet as doubles.
 */
export function fingerprinted(relation: string, text: string, salt: string): string {
  const digest = hash('md5', salt)
  const half = (bits: string, of: string) => `xor((${bits})::ubigint, ${BigInt(`0x${of}`)}::ubigint)`
  return `select * exclude (md5), ${half('md5 >> 64', digest.slice(0, 16))} as hi, ${half('md5 & 18446744073709551615::uhugeint', digest.slice(16))} as lo
    from (select *, md5_number(${text}) as md5 from (${relation}))`
}

/** Stands for a null in files of lines, ours and those that `COPY` writes: no text in them looks like it. */
export const nullMark = '\\N'

/** Files of lines, and how large they are: no line has more bytes than `longest`, no file more than `bytes`. */
export interface LineFiles {
  readonly files: readonly string[]
  readonly longest: number
  readonly bytes: number
}

/**
 * Files of lines as DuckDB reads them. Nothing is quoted or escaped in them, so that no text may hold `delim`, and none be
 * `nullstr`. What is missing at the end of a file that was `cut` short is null.
 */
export function linesAs(
  columns: Readonly<Record<string, string>>,
  { files, longest, bytes }: LineFiles,
  { delim, nullstr, cut = false }: { readonly delim: string; readonly nullstr: string; readonly cut?: boolean },
): string {
  const types = Object.entries(columns).map(([name, type]) => `${name}: '${type}'`)
  const line = Math.max(longest, 1 << 16)
  // DuckDB takes such a buffer for each file, however short it is
  const buffer = Math.max(line * 2, Math.min(bytes, 4_000_000))
  return `read_csv([${files.map(literal).join()}], columns = {${types.join(', ')}}, auto_detect = false, header = false, delim = ${literal(delim)},
    quote = '', escape = '', nullstr = ${literal(nullstr)}, new_line = '\\n', null_padding = ${cut}, max_line_size = ${line}, buffer_size = ${buffer})`
}

/** Why a server was not reached, and what to do; `undefined` for errors that came from it. */
export function unreachable(code: string | undefined): string | undefined {
  switch (code) {
    case 'ECONNREFUSED':
      return `nothing listens there (${code}): start the server, or correct host and port`
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `no such host (${code}): correct the host, or the network`
    default:
      return undefined
  }
}

/** A text in SQL. */
export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}

/**
 * The rows of a read as `record`, where there is one, gives them out, until the signal aborts.
 *
 * @throws SourceError naming the first row that does not fit, by its number in this read, and what is wrong with it.
 */
export async function* conforming(
  batches: AsyncIterable<readonly AnyRow[]> | Iterable<readonly AnyRow[]>,
  record: Schema | undefined,
  signal: AbortSignal,
  actor: string,
): AsyncGenerator<readonly AnyRow[]> {
  let before = 0
  for await (const rows of batches) {
    signal.throwIfAborted()
    yield record ? await valid(rows, record, before, actor) : rows
    before += rows.length
  }
}

async function valid(rows: readonly AnyRow[], record: Schema, before: number, actor: string): Promise<AnyRow[]> {
  const fit: AnyRow[] = []
  for (const row of rows) {
    const pending = validate(record, row)
    const result = pending instanceof Promise ? await pending : pending
    if ('problem' in result) {
      throw new SourceError(`${actor}: row ${before + fit.length + 1} does not fit \`record\`: ${result.problem}`)
    }
    fit.push(result.value as AnyRow)
  }
  return fit
}

/**
 * JSON as a value, as {@link exactJson} reads it.
 *
 * @throws SourceError when it is not JSON, without a word of the text.
 */
export function parseJson(text: string, actor: string): unknown {
  try {
    return exactJson(text)
  } catch {
    throw new SourceError(`${actor}: a json column holds what is not JSON, such as NaN: cast it to text in the query`)
  }
}

/**
 * JSON as a value. An integer beyond 2^53 is a `bigint`; a fraction is a double, as everywhere in JavaScript.
 *
 * @throws SyntaxError when it is not JSON; its message quotes the text.
 */
export function exactJson(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text)
  // JSON.parse rounds before anybody can look: large integers go through it as objects with a key that no text can hold
  const mark = randomUUID()
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (token) =>
    /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `{"${mark}":"${token}"}` : token,
  )
  return JSON.parse(marked, (_, value) => (value?.[mark] === undefined ? value : BigInt(value[mark])))
}
