import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import Sqlite from 'libsql'
import { ConfigError, SourceError, SpillwayError } from '../errors.js'
import { refuseOthers } from '../options.js'
import type { Out, Schema } from '../schema.js'
import { createSource, type Reading, type Source } from '../source.js'
import { type AnyRow, type ColumnType, describe } from '../values.js'
import { blankRow, conforming, cursorText, parseJson, type Query, queryOf, quoted, windowed } from './sql.js'

/** What {@link sqlite} reads. */
export type SqliteOptions = {
  /** The database file, relative to the working directory. It is opened for reading only, and only while it is read. */
  readonly path: string
} & (
  | {
      /** One select. */
      readonly query: string
      /** Values for each `?` in it. */
      readonly params?: readonly unknown[] | undefined
      readonly table?: never
    }
  | {
      /** A whole table or view: `orders`, `"2026 orders"`. */
      readonly table: string
      readonly query?: never
      readonly params?: never
    }
)

const actor = 'sqlite'

/** Rows handed on together. */
const batch = 1_000

/** How long to wait, in milliseconds, for a writer that has the file for itself. All else in the process waits too. */
const patience = 2_000

/**
 * The rows of a query or a table of a SQLite database. They come 1,000 at a time and show the database as it was at the first of
 * them. With a write-ahead log (`pragma journal_mode = wal`) its writers go on meanwhile; without, they wait until all was read.
 *
 * SQLite keeps a type with each value, and a column's declared type is a wish. An integer is a number, and a `bigint` where a
 * number is not safe (beyond 2^53), or always in a column declared `bigint` or `int8`; a real is a number, a blob a `Uint8Array`,
 * a text a text: dates too, as they were written. Declared types add to that: `boolean` makes 0 and 1 false and true; `decimal`
 * and `numeric` make numbers exact texts, with as many decimals as were declared or more (SQLite itself keeps 15 digits); `json`
 * is parsed, its integers beyond 2^53 as `bigint`. What does not fit its column stays as it is.
 *
 * SQLite works on the thread that asks it: while it looks for the next rows, nothing else in the process goes on, and the signal
 * is heard between two batches. For a query that works long before it gives rows, write its result to a table first.
 *
 * @example
 * ```ts
 * sqlite({ path: 'app.db', query: 'select * from users where plan = ?', params: ['pro'] })
 * ```
 *
 * @throws ConfigError when the options do not say what to read.
 * @throws SourceError while it is read: the file is missing or no database, the query fails, or a row does not fit `record`.
 */
export function sqlite<S extends Schema>(options: SqliteOptions & { readonly record: S }): Source<Out<S> & object>
export function sqlite<R extends object = AnyRow>(options: SqliteOptions): Source<R>
export function sqlite(options: SqliteOptions & { readonly record?: Schema }): Source<object> {
  refuseOthers(options, ['path', 'query', 'params', 'table', 'record'], actor)
  const { path, record } = options
  if (typeof path !== 'string' || path === '') throw new ConfigError(`${actor}: \`path\` is no path of a database file`)
  const { text, params } = queryOf(options, actor)
  const query = { text, params: params.map(parameter) }
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      signal.throwIfAborted()
      const database = await open(path)
      try {
        yield* conforming(batches(database, query, reading), record, signal, actor)
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error, path)
      } finally {
        database.close()
      }
    },
  })
}

async function open(path: string): Promise<Sqlite.Database> {
  const found = await stat(path).catch(() => undefined)
  if (!found?.isFile()) {
    throw new SourceError(`${actor}: there is no file ${path}, seen from ${process.cwd()}: correct \`path\``)
  }
  try {
    // the driver knows no option for this, and passes what SQLite reads in a URI
    const database = new Sqlite(`${pathToFileURL(resolve(path)).href}?mode=ro`)
    database.exec(`pragma busy_timeout = ${patience}`)
    return database
  } catch (error) {
    throw explained(error, path)
  }
}

// ---- rows ------------------------------------------------------------------------------------------------------

interface Column {
  readonly name: string
  /** Of the table that it comes from; `undefined` for one of an expression. */
  readonly declared: string | undefined
}

function* batches(database: Sqlite.Database, query: Query, reading: Reading): Generator<AnyRow[]> {
  const columns = database
    .prepare(query.text)
    .columns()
    .map(({ name, type }) => ({ name, declared: type?.toLowerCase() }))
  if (columns.length === 0) throw new SourceError(`${actor}: the query gives no columns: it must be a select`)
  const blank = blankRow(columns, actor)
  tell(columns, reading)
  const decode = decoder(database)
  const read = columns.map((column) => reader(column, decode))
  const { text, params } = selected(query, columns, reading)
  const found = database.prepare(text).safeIntegers(true).raw(true).iterate(params) as Iterator<unknown[]>
  let rows: AnyRow[] = []
  let ended = false
  try {
    for (let next = found.next(); !next.done; next = found.next()) {
      const row = { ...blank }
      for (const [index, value] of next.value.entries()) {
        if (value !== null) row[columns[index]!.name] = read[index]!(value)
      }
      rows.push(row)
      if (rows.length < batch) continue
      yield rows
      reading.signal.throwIfAborted() // to look for the next rows may take long, and nothing would stop it
      rows = []
    }
    ended = true
  } finally {
    if (!ended) end(database, found)
  }
  if (rows.length > 0) yield rows
}

/** Ends a select early. One that is not read to its end keeps the file locked against writers, even when all else is closed. */
function end(database: Sqlite.Database, rows: Iterator<unknown>): void {
  ;(database as Sqlite.Database & { interrupt(): void }).interrupt()
  try {
    while (!rows.next().done);
  } catch {
    // that it was interrupted
  }
}

/**
 * The query with its columns by number, texts as blobs and blobs as texts: the driver reads a text that is not UTF-8 by ending the
 * process.
 */
function selected({ text, params }: Query, columns: readonly Column[], { cursor, since }: Reading): Query {
  const names = columns.map((_, index) => `c${index}`)
  const values = names.map(
    (c) => `case typeof(${c}) when 'text' then cast(${c} as blob) when 'blob' then hex(${c}) else ${c} end`,
  )
  const numbered = `with numbered(${names}) as (\n${text}\n) select * from numbered`
  if (cursor === undefined) return { text: `select ${values} from (${numbered})`, params }
  const index = columns.findIndex(({ name }) => name === cursor)
  if (index === -1) {
    const given = columns.map(({ name }) => name).join(', ')
    throw new SourceError(`${actor}: the query gives no column ${quoted(cursor)} (the cursor); it gives ${given}`)
  }
  const select = (least: string | undefined) => windowed(numbered, `c${index}`, least).replace('*', values.join())
  if (since === undefined) return { text: select(undefined), params }
  return { text: select('?'), params: [...params, since instanceof Date ? cursorText(since) : parameter(since)] }
}

/** A query's columns are told where they come from tables; those of expressions show in the rows. */
function tell(columns: readonly Column[], reading: Reading): void {
  const types = columns.map(({ declared }) => columnType(declared))
  if (types.includes(undefined)) return
  reading.describe(columns.map(({ name }, index) => ({ name, type: types[index]!, nullable: true })))
}

// ---- values ----------------------------------------------------------------------------------------------------

/** In the order in which SQLite looks for them (https://www.sqlite.org/datatype3.html#determination_of_column_affinity). */
const columnTypes: readonly (readonly [RegExp, ColumnType])[] = [
  [/^bool/, 'boolean'],
  [/^json$/, 'json'],
  [/^(decimal|numeric)/, 'decimal'],
  [/int/, 'bigint'],
  [/char|clob|text|date|time/, 'text'],
  [/blob/, 'binary'],
  [/real|floa|doub/, 'double'],
]

function columnType(declared = ''): ColumnType | undefined {
  return columnTypes.find(([pattern]) => pattern.test(declared))?.[1]
}

/** What a column's values become. They come as {@link selected} asks for them: a buffer is a text, a text is a blob. */
function reader({ name, declared = '' }: Column, decode: (text: Buffer) => string): (value: unknown) => unknown {
  const type = columnType(declared)
  const wide = /^(bigint|int8|unsigned big int)/.test(declared)
  const scale = Number(/,\s*(\d+)\s*\)/.exec(declared)?.[1] ?? 0)
  return (value) => {
    if (typeof value === 'string') return new Uint8Array(Buffer.from(value, 'hex'))
    if (value instanceof Uint8Array) {
      const text = decoded(value as Buffer, decode, name)
      return type === 'json' ? parseJson(text, actor) : text
    }
    if (type === 'decimal') return decimal(value as number | bigint, scale)
    if (typeof value === 'number') return value
    const integer = value as bigint
    if (type === 'boolean' && (integer === 0n || integer === 1n)) return integer === 1n
    return !wide && Number.isSafeInteger(Number(integer)) ? Number(integer) : integer
  }
}

function decoded(bytes: Buffer, decode: (text: Buffer) => string, name: string): string {
  try {
    return decode(bytes)
  } catch {
    throw new SourceError(`${actor}: column ${quoted(name)} holds a text that is none: cast it to blob in the query`)
  }
}

/** How the database writes texts. */
function decoder(database: Sqlite.Database): (text: Buffer) => string {
  const { encoding } = database.prepare('pragma encoding').get() as { encoding: string }
  const decoder = new TextDecoder(encoding, { fatal: true, ignoreBOM: true })
  return (text) => decoder.decode(text)
}

/** A number as an exact text with at least this many decimals. */
function decimal(value: number | bigint, scale: number): string {
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  const [digits, shift = '0'] = String(value).split('e') as [string, string?]
  const [, sign, whole, fraction = ''] = /^(-?)(\d+)\.?(\d*)$/.exec(digits)!
  const exponent = Number(shift)
  const zeros = '0'.repeat(Math.abs(exponent))
  const all = exponent < 0 ? zeros + whole + fraction : whole + fraction.padEnd(exponent, '0')
  const point = whole!.length + Math.max(exponent, 0)
  const left = all.slice(0, point).replace(/^0+(?=\d)/, '')
  const right = all.slice(point).replace(/0+$/, '').padEnd(scale, '0')
  return `${sign}${left}${right === '' ? '' : `.${right}`}`
}

/** A value as the driver is to be given it: it takes numbers for reals, and ends the process at a boolean. */
function parameter(value: unknown, index = 0): unknown {
  if (typeof value === 'boolean') return value ? 1n : 0n
  if (typeof value === 'number' && Number.isSafeInteger(value)) return BigInt(value)
  const isPlain = value === null || ['number', 'bigint', 'string'].includes(typeof value) || value instanceof Uint8Array
  if (isPlain) return value
  throw new ConfigError(
    `${actor}: \`params\`: the value at ${index} is ${describe(value)}; give a number, bigint, text, boolean, Uint8Array or null`,
  )
}

// ---- errors ----------------------------------------------------------------------------------------------------

function explained(error: unknown, path: string): unknown {
  if (error instanceof SpillwayError || error instanceof TypeError) return error
  const { code, message } = error as { code?: string; message: string }
  const at = (text: string) => new SourceError(`${actor}: ${path}: ${text}`)
  switch (code) {
    case 'SQLITE_NOTADB':
      return at('this is no SQLite database, or one that is encrypted: correct `path`')
    case 'SQLITE_BUSY':
      return at(`${message} (${code}): a writer has it for itself: run the sync again`)
    case 'SQLITE_CORRUPT':
      return at(`${message} (${code}): restore the file from a copy`)
    case 'SQLITE_READONLY':
      return at(`${message} (${code}): a source only reads`)
  }
  return at(`${message}${code === undefined ? '' : ` (${code})`}: correct the query`)
}
