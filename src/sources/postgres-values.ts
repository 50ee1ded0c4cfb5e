import { type ColumnType, Instant } from '../values.js'
import { longOf } from './exact.js'
import { type LineFiles, linesAs, nullMark, parseJson } from './sql.js'

/** What a column of PostgreSQL becomes. `read` gets the text that the server sends; null never gets there. */
export interface Converter {
  readonly type: ColumnType
  read(text: string): unknown
}

/** For each type of array that the database has: the type of its items, and what stands between them. */
export type Arrays = ReadonlyMap<number, { readonly item: number; readonly delimiter: string }>

/** What {@link arraysOf} takes: of each type its number, that of its arrays, that of the type below a domain, the delimiter. */
export const typesQuery = `select oid, typarray, typbasetype, typdelim from pg_type where typarray <> 0 and typtype <> 'c'`

export function arraysOf(types: readonly (readonly string[])[]): Arrays {
  const below = new Map(types.map(([oid, , base]) => [Number(oid), Number(base)]))
  const itself = (oid: number): number => (below.get(oid) ? itself(below.get(oid)!) : oid)
  return new Map(
    types.map(([oid, array, , delimiter]) => [Number(array), { item: itself(Number(oid)), delimiter: delimiter! }]),
  )
}

/**
 * What {@link converter} needs of the session: text forms that it can read. `extra_float_digits` is for servers before
 * PostgreSQL 12, which round otherwise (https://www.postgresql.org/docs/current/runtime-config-client.html).
 */
export const settings: Readonly<Record<string, string>> = {
  DateStyle: 'ISO',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  bytea_output: 'hex',
  extra_float_digits: '3',
}

/** How to read a column of the type with this number. An enum, a range, an interval, a uuid and all others are their text. */
export function converter(oid: number, arrays: Arrays): Converter {
  const array = arrays.get(oid)
  if (!array) return types[oid] ?? text
  const { read } = converter(array.item, arrays)
  return { type: 'json', read: (text) => parseArray(text, array.delimiter, read) }
}

const text: Converter = { type: 'text', read: (text) => text }

/** By their numbers in PostgreSQL's pg_type.dat, which never change. */
const types: { readonly [oid: number]: Converter } = {
  16: { type: 'boolean', read: (text) => text === 't' },
  17: { type: 'binary', read: (text) => new Uint8Array(Buffer.from(text.slice(2), 'hex')) },
  20: { type: 'bigint', read: longOf },
  21: { type: 'integer', read: Number },
  23: { type: 'integer', read: Number },
  114: { type: 'json', read: (text) => parseJson(text, 'postgres') },
  700: { type: 'double', read: Number },
  701: { type: 'double', read: Number },
  1082: { type: 'date', read: (text) => text },
  1114: { type: 'timestamp', read: (text) => text.replace(' ', 'T') },
  1184: { type: 'instant', read: instant },
  1700: { type: 'decimal', read: (text) => text },
  3802: { type: 'json', read: (text) => parseJson(text, 'postgres') },
}

/** '2026-01-31 02:30:00.123456+00'; as the text it is when it is infinite, or later than a `Date` can be. */
function instant(text: string): Date | string {
  // as nearly all are: without the cost of a pattern
  if (text[10] === ' ' && text.endsWith('+00')) return Instant.ofSql(text, text.length - 3)
  const [, year, rest, bc] = /^(\d{4,})(.*)\+00( BC)?$/.exec(text) ?? []
  if (year === undefined) return text
  // the year before the first is 0, which has no sign
  const iso = bc
    ? `${year === '0001' ? '+' : '-'}${String(Number(year) - 1).padStart(6, '0')}`
    : year.length > 4
      ? `+${year.padStart(6, '0')}`
      : year
  const date = Instant.of(`${iso}${rest!.replace(' ', 'T')}Z`)
  return Number.isNaN(date.getTime()) ? text : date
}

/** Reads what https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO describes. */
function parseArray(text: string, delimiter: string, read: (item: string) => unknown): unknown[] {
  const bare = new RegExp(`[^${delimiter}{}]+`, 'y')
  const quoted = /"((?:[^"\\]|\\.)*)"/sy
  let at = text.indexOf('{') // bounds may come first, as in [0:1]={a,b}
  const next = (pattern: RegExp): RegExpExecArray => {
    pattern.lastIndex = at
    const match = pattern.exec(text)!
    at = pattern.lastIndex
    return match
  }
  const item = (): unknown => {
    if (text[at] === '{') return items()
    if (text[at] === '"') return read(next(quoted)[1]!.replace(/\\(.)/gs, '$1'))
    const [word] = next(bare)
    return word === 'NULL' ? null : read(word)
  }
  const items = (): unknown[] => {
    const found: unknown[] = []
    at++
    while (text[at] !== '}') {
      found.push(item())
      if (text[at] === delimiter) at++
    }
    at++
    return found
  }
  return items()
}

// ---- COPY --------------------------------------------------------------------------------------------------------

// A line is a row, its columns parted by tabs; a null is \N, and control characters and the backslash are written with a
// backslash: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS

/** Files that `COPY` wrote as DuckDB reads them: `line` by `line`. */
export function copied(files: LineFiles): string {
  // `COPY` writes a vertical tab as \v and a form feed as \f, so that none parts a line, and no line is one
  return linesAs({ line: 'varchar' }, files, { delim: '\v', nullstr: '\f' })
}

/** The columns of a line. */
export function copyColumns(line: string): (string | null)[] {
  const columns: (string | null)[] = line.split('\t')
  if (!line.includes('\\')) return columns
  return columns.map((column) =>
    column === nullMark ? null : column!.replace(/\\(.)/gs, (_, letter: string) => controls[letter] ?? letter),
  )
}

const controls: Readonly<Record<string, string>> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' }

/** The canonical text of a key's column in DuckDB, as `keyOf` makes it of the value; `undefined` for other types. */
export function keyText(type: ColumnType, index: number): string | undefined {
  const part = `split_part(line, chr(9), ${index + 1})`
  const present = (text: string) => `case when ${part} <> '${nullMark}' then ${text} end`
  if (type === 'integer' || type === 'bigint') return present(`'i' || ${part}`)
  if (type === 'boolean') return present(part)
  if (type === 'decimal' || type === 'date') return present(`'"' || ${part} || '"'`)
  if (type !== 'text') return undefined
  const written = Object.entries({ b: 8, f: 12, n: 10, r: 13, t: 9, v: 11 })
  const control = written.reduce((text, [letter, code]) => `replace(${text}, '\\${letter}', chr(${code}))`, 'x')
  // what follows an escaped backslash is itself
  const plain = `array_to_string(list_transform(string_split(${part}, '\\\\'), x -> ${control}), '\\')`
  return present(`to_json(case when contains(${part}, '\\') then ${plain} else ${part} end)::varchar`)
}
