/** Rows of unknown shape. `any`, so that interfaces fit too: an index signature of `unknown` would refuse them. */
// biome-ignore lint/suspicious/noExplicitAny: see above
export type AnyRow = { [column: string]: any }

/** What a column holds, in the terms of the lossless row. */
export type ColumnType =
  | 'text'
  | 'integer'
  | 'bigint'
  | 'decimal'
  | 'double'
  | 'boolean'
  | 'date'
  | 'timestamp'
  | 'instant'
  | 'binary'
  | 'json'

/** A column of a source or of the records that a destination receives. */
export interface Column {
  readonly name: string
  readonly type: ColumnType
  readonly nullable: boolean
}

/**
 * A point in time with microseconds. It is a `Date`, so everything that takes one takes it;
 * `toISOString()` and JSON print the microseconds when there are any.
 */
export class Instant extends Date {
  readonly #microseconds: number

  private constructor(milliseconds: number, microseconds: number) {
    super(milliseconds)
    this.#microseconds = microseconds
  }

  /** Reads ISO 8601 with a zone and up to six digits; a plain `Date` where milliseconds are enough. Digits beyond six are cut. */
  static of(text: string): Date {
    const usual = text.endsWith('Z') ? Instant.#usual(text, 'T', text.length - 1) : undefined
    if (usual) return usual
    const match = /^(.*T\d{2}:\d{2}:\d{2})\.(\d{3})(\d{1,3})\d*(Z|[+-]\d{2}:?\d{2})$/.exec(text)
    if (!match) return new Date(text)
    return Instant.#parts(Date.parse(`${match[1]}.${match[2]}${match[4]}`), Number(match[3]!.padEnd(3, '0')))
  }

  /** Reads a time in UTC as databases write it: `2026-01-31 02:30:00.123456`, up to the place `end`. */
  static ofSql(text: string, end = text.length): Date {
    return Instant.#usual(text, ' ', end) ?? Instant.of(`${text.slice(0, end).replace(' ', 'T')}Z`)
  }

  /** Without the cost of a pattern, what nearly all are; `undefined` for all others. */
  static #usual(text: string, separator: string, end: number): Date | undefined {
    const micros = text[10] === separator ? usualMicros(text, end) : Number.NaN
    return Number.isNaN(micros) ? undefined : Instant.ofMicros(micros)
  }

  /** Microseconds since 1970, exact. */
  static micros(date: Date): bigint {
    return BigInt(date.getTime()) * 1000n + BigInt(date instanceof Instant ? date.#microseconds : 0)
  }

  /** The instant of that many microseconds since 1970; a plain `Date` where milliseconds are enough. */
  static ofMicros(micros: number | bigint): Date {
    const number = Number(micros)
    if (Number.isSafeInteger(number)) {
      const milliseconds = Math.floor(number / 1000) // exact, and much quicker than the remainder
      return Instant.#parts(milliseconds, number - milliseconds * 1000)
    }
    const whole = BigInt(micros)
    const rest = ((whole % 1000n) + 1000n) % 1000n
    return Instant.#parts(Number((whole - rest) / 1000n), Number(rest))
  }

  static #parts(milliseconds: number, microseconds: number): Date {
    return microseconds === 0 ? new Date(milliseconds) : new Instant(milliseconds, microseconds)
  }

  override toISOString(): string {
    return `${super.toISOString().slice(0, -1)}${String(this.#microseconds).padStart(3, '0')}Z`
  }

  override toJSON(): string {
    return this.toISOString()
  }
}

/** Days of a month, and of those before it, but for leap years. */
const daysOf = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
const daysBefore = [0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334]

/** Microseconds since 1970 of 2026-01-31T02:30:00.123456, with any sign for the T, from 1970 to 2099; NaN for all else. */
function usualMicros(text: string, end: number): number {
  const year = digits(text, 0, 4)
  const month = digits(text, 5, 7)
  const day = digits(text, 8, 10)
  const hour = digits(text, 11, 13)
  const minute = digits(text, 14, 16)
  const second = digits(text, 17, 19)
  const parted = text[4] === '-' && text[7] === '-' && text[13] === ':' && text[16] === ':'
  // NaN is in no range
  const inRange = year >= 1970 && year < 2100 && day > 0 && day <= daysOf[month]! && hour < 24 && minute < 60
  if (!parted || !inRange || !(second < 60)) return Number.NaN
  // 1968 had the leap day before; every fourth year has one until 2100
  const leapDays = (year - (month > 2 ? 1968 : 1969)) >> 2
  const days = (year - 1970) * 365 + leapDays + daysBefore[month]! + day - 1
  const micros = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1e6
  if (end === 19) return micros
  if (text[19] !== '.' || end < 21 || end > 26) return Number.NaN
  return micros + digits(text, 20, end) * 10 ** (26 - end)
}

/** The number that the digits in some places make; NaN when one is none. */
function digits(text: string, start: number, end: number): number {
  let number = 0
  for (let at = start; at < end; at++) {
    const digit = text.charCodeAt(at) - 48
    if (!(digit >= 0 && digit < 10)) return Number.NaN
    number = number * 10 + digit
  }
  return number
}

// ---- the stage's encoding: JSON, with a tagged object for each value that JSON would bend ------------------

/** Marks an object that stands for another value; an object that owns this key itself is wrapped. */
export const tag = '$'
const tagText = JSON.stringify(tag)

/**
 * Rows as text. `tagged` says that some value needed a tag, and who decodes it must look for them: most rows hold none, and are
 * then written and read at the speed of JSON itself.
 */
export interface Encoded {
  readonly text: string
  readonly tagged: boolean
}

/**
 * Rows as one JSON array.
 *
 * @throws TypeError naming the row's place in `rows` and the column, when a value cannot be kept.
 */
export function encodeRows(rows: readonly object[]): Encoded {
  let tagged = false
  for (let index = 0; index < rows.length; index++) {
    const row = rows[index]
    if (row === null || typeof row !== 'object' || Array.isArray(row) || row instanceof Date) {
      throw new RowError(index, `is ${describe(row)}, not an object with columns`)
    }
    if (!tagged && !isPlainObject(row, index)) tagged = true
  }
  return { text: JSON.stringify(tagged ? rows.map(encodeObject) : rows), tagged }
}

/** The rows that {@link encodeRows} wrote. */
export function decodeRows(text: string, tagged: boolean): AnyRow[] {
  const rows = JSON.parse(text) as AnyRow[]
  return tagged ? (rows.map(decodeObject) as AnyRow[]) : rows
}

/**
 * Rows as one JSON array of their columns and all their values, row by row: shorter by the names, and quicker to write and to
 * read than {@link encodeRows}. `undefined` unless all are plain objects of the same columns.
 */
export function encodeTable(rows: readonly object[]): Encoded | undefined {
  const columns = Object.keys(rows[0] ?? {})
  if (columns.length === 0 || columns.includes('__proto__')) return undefined
  const values: unknown[] = []
  let tagged = false
  for (let index = 0; index < rows.length; index++) {
    const row = rows[index]!
    if (row === null || typeof row !== 'object' || !hasOnlyOwn(row)) return undefined
    let at = 0
    for (const column in row) {
      const value = (row as AnyRow)[column]
      if (column !== columns[at++] || value === undefined) return undefined
      if (isPlain(value)) values.push(value)
      else {
        tagged = true
        values.push(encode(value, column, index))
      }
    }
    if (at !== columns.length) return undefined
  }
  return { text: JSON.stringify([columns, values]), tagged }
}

/** The same of rows by columns, which are in the order of an object's. */
export function encodeColumns(names: readonly string[], columns: readonly (readonly unknown[])[]): Encoded {
  const values: unknown[] = []
  let tagged = false
  for (let index = 0; index < columns[0]!.length; index++) {
    for (let at = 0; at < columns.length; at++) {
      const value = columns[at]![index]
      if (isPlain(value)) values.push(value)
      else {
        tagged = true
        values.push(encode(value, names[at]!, index))
      }
    }
  }
  return { text: JSON.stringify([names, values]), tagged }
}

/** The same of rows that are texts: each the JSON array of its values. */
export function encodeTexts(columns: readonly string[], rows: readonly string[]): Encoded {
  const text = `[${JSON.stringify(columns)},[${rows.map((row) => row.slice(1, -1)).join()}]]`
  return { text, tagged: text.includes(tagText) }
}

/** The rows that {@link encodeTable} wrote. */
export function decodeTable(text: string, tagged: boolean): AnyRow[] {
  const [names, values] = JSON.parse(text) as [string[], unknown[]]
  const shape = Object.fromEntries(names.map((name) => [name, undefined]))
  const columns = Object.keys(shape) // the names as V8 keeps those of objects, which it finds much faster
  const rows: AnyRow[] = []
  for (let start = 0; start < values.length; start += columns.length) {
    const row: AnyRow = { ...shape }
    if (tagged) for (let at = 0; at < columns.length; at++) row[columns[at]!] = decode(values[start + at])
    else for (let at = 0; at < columns.length; at++) row[columns[at]!] = values[start + at]
    rows.push(row)
  }
  return rows
}

/** One row as text that no other row has, whatever rows it came with; without a raw tab or line break. */
export function losslessText(row: object): string {
  return JSON.stringify(isPlainObject(row, 0) ? row : encodeObject(row, 0))
}

/** The rows of these lossless texts. One by one: V8 reads a text of hundreds of kilobytes, joined of them, at half the speed. */
export function decodeTexts(texts: readonly string[]): AnyRow[] {
  return texts.map((text) => {
    const row = JSON.parse(text) as AnyRow
    return text.includes(tagText) ? (decodeObject(row) as AnyRow) : row
  })
}

/** A row that cannot be kept, by its place in the array given. */
export class RowError extends TypeError {
  constructor(
    readonly index: number,
    readonly problem: string,
  ) {
    super(`row ${index} ${problem}`)
  }
}

function isPlainObject(row: object, index: number): boolean {
  for (const column in row) {
    if (column === tag) return false
    const value = (row as AnyRow)[column]
    if (isPlain(value)) continue
    if (typeof value === 'function' || typeof value === 'symbol') {
      throw new RowError(index, `holds ${describe(value)} in column ${JSON.stringify(column)}, which cannot be kept`)
    }
    return false
  }
  return true
}

function isPlain(value: unknown): boolean {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'undefined':
      return true
    case 'number':
      return value - value === 0 && (value !== 0 || 1 / value > 0)
    case 'object':
      return value === null || isPlainNested(value)
    default:
      return false
  }
}

/** Whether it is an object as literals make them, with nothing inherited. */
function hasOnlyOwn(value: object): boolean {
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

function isPlainNested(value: object): boolean {
  if (!hasOnlyOwn(value) && Object.getPrototypeOf(value) !== Array.prototype) return false
  for (const key in value) {
    if (key === tag) return false
    const inner = (value as AnyRow)[key]
    if (inner === null || typeof inner === 'string' || typeof inner === 'boolean') continue
    if (typeof inner === 'number' && inner - inner === 0 && (inner !== 0 || 1 / inner > 0)) continue
    if (typeof inner === 'object' && isPlainNested(inner)) continue
    return false
  }
  return true
}

function encodeObject(row: object, index: number): unknown {
  const encoded: AnyRow = {}
  for (const [column, value] of Object.entries(row)) {
    if (value !== undefined) set(encoded, column, encode(value, column, index))
  }
  return tag in encoded ? { [tag]: 'object', v: encoded } : encoded
}

function encode(value: unknown, column: string, index: number): unknown {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return value
    case 'number':
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : { [tag]: 'number', v: Object.is(value, -0) ? '-0' : String(value) }
    case 'bigint':
      return { [tag]: 'bigint', v: value.toString() }
    case 'undefined':
      return null
    case 'object':
      break
    default:
      throw new RowError(index, `holds ${describe(value)} in column ${JSON.stringify(column)}, which cannot be kept`)
  }
  if (value === null) return null
  if (Array.isArray(value)) return value.map((item) => encode(item, column, index))
  if (value instanceof Date) {
    return { [tag]: 'instant', v: Number.isNaN(value.getTime()) ? null : value.toISOString() }
  }
  if (value instanceof Uint8Array) return { [tag]: 'binary', v: Buffer.from(value).toString('base64') }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    return Array.from(value as unknown as Iterable<unknown>, (item) => encode(item, column, index))
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') {
    return encode((value as { toJSON(): unknown }).toJSON(), column, index)
  }
  if (value instanceof Map || value instanceof Set || value instanceof DataView || value instanceof ArrayBuffer) {
    throw new RowError(
      index,
      `holds a ${value.constructor.name} in column ${JSON.stringify(column)}: give an array, an object or a Uint8Array`,
    )
  }
  return encodeObject(value, index)
}

function decode(value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value
  if (Array.isArray(value)) return value.map(decode)
  return decodeObject(value)
}

function decodeObject(value: AnyRow): unknown {
  switch (Object.hasOwn(value, tag) ? value[tag] : undefined) {
    case undefined:
      for (const key in value) {
        const inner = value[key]
        if (inner !== null && typeof inner === 'object') set(value, key, decode(inner))
      }
      return value
    case 'object': {
      const inner = value['v'] as AnyRow
      for (const key of Object.keys(inner)) set(inner, key, decode(inner[key]))
      return inner
    }
    case 'number':
      return Number(value['v'])
    case 'bigint':
      return BigInt(value['v'])
    case 'instant':
      return value['v'] === null ? new Date(Number.NaN) : Instant.of(value['v'])
    case 'binary':
      return new Uint8Array(Buffer.from(value['v'], 'base64'))
    default:
      throw new TypeError(`unknown tag ${JSON.stringify(value[tag])} in a staged row`)
  }
}

/** Assigns without running the setter that `__proto__` is. */
function set(target: AnyRow, key: string, value: unknown): void {
  if (key === '__proto__') {
    Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true })
  } else target[key] = value
}

/** What kind of thing a value is, for an error that must not show the value. */
export function describe(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object') return `a ${value.constructor?.name ?? 'object'}`
  return typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`
}

// ---- canonical text: equal values have equal texts, different values never ---------------------------------

/**
 * One text per value: `null`, `''`, `'0'`, `0` and `false` differ, key order does not count, and an integer is the same
 * as `number` and as `bigint`.
 */
export function canonical(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return quotedText(value)
    case 'number':
      return Number.isInteger(value) ? `i${BigInt(value)}` : `d${value}`
    case 'bigint':
      return `i${value}`
    case 'boolean':
      return value ? 't' : 'f'
    case 'undefined':
      return 'u'
    case 'object':
      break
    default:
      throw new TypeError(`${describe(value)} has no canonical form`)
  }
  if (value === null) return 'n'
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'D' : `D${Instant.micros(value)}`
  if (value instanceof Uint8Array) return `x${Buffer.from(value).toString('hex')}`
  let text = ''
  for (const [key, prefix] of sorted(Object.keys(value))) {
    const inner = (value as AnyRow)[key]
    if (inner !== undefined) text += `${text === '' ? '' : ','}${prefix}${canonical(inner)}`
  }
  return `{${text}}`
}

/** JSON to the letter as DuckDB's `to_json` writes it, which finds the same keys in SQL: with `\u001B` where JavaScript says `\u001b`. */
function quotedText(text: string): string {
  const json = JSON.stringify(text)
  if (json.length === text.length + 2) return json
  return json.replace(/\\(?:u00([0-9a-f]{2})|.)/g, (one, hex) => (hex ? `\\u00${hex.toUpperCase()}` : one))
}

/** Keys in order, each with the text before its value. Rows come by the thousand with the same keys: they are sorted once. */
function sorted(keys: readonly string[]): typeof latest.order {
  if (keys.length !== latest.keys.length || keys.some((key, index) => key !== latest.keys[index])) {
    latest = { keys, order: keys.toSorted().map((key) => [key, `${JSON.stringify(key)}:`]) }
  }
  return latest.order
}

let latest: { readonly keys: readonly string[]; readonly order: readonly (readonly [key: string, prefix: string])[] } =
  {
    keys: [],
    order: [],
  }

/** The fields of which two records say different things: those of the second in its order, then those it does not have. */
export function differences(before: AnyRow, after: AnyRow): string[] {
  const fields = new Set([...Object.keys(after), ...Object.keys(before)])
  return [...fields].filter((field) => differ(before, after, field))
}

/**
 * Whether two lossless texts say different things for sure: the place where they part is within a text or a number, and what leads
 * there is the same. Reading them to learn it takes ten times as long.
 */
export function surelyDiffer(one: string, other: string): boolean {
  let quote = -1
  let at = 0
  for (; ; at++) {
    const unit = one.charCodeAt(at)
    if (unit !== other.charCodeAt(at)) break
    // what comes behind a backslash is not looked into
    if (unit === codes.backslash) return false
    if (unit === codes.quote) quote = quote < 0 ? at : -1
  }
  if (quote < 0) return isNumeric(one.charCodeAt(at)) && isNumeric(other.charCodeAt(at))
  // not where it is the name of a field, an item, or what a tag stands before
  return one.charCodeAt(quote - 1) === codes.colon && !one.startsWith('"v":', quote - 4)
}

const codes = { quote: 34, colon: 58, backslash: 92, zero: 48, nine: 57 }

function isNumeric(code: number): boolean {
  return code >= codes.zero && code <= codes.nine
}

/** Whether two records say the same. */
export function areSame(before: AnyRow, after: AnyRow): boolean {
  for (const field in after) if (differ(before, after, field)) return false
  for (const field in before) if (differ(before, after, field)) return false
  return true
}

function differ(before: AnyRow, after: AnyRow, field: string): boolean {
  // every object inherits something by the name of `constructor`
  const one = Object.hasOwn(before, field) ? before[field] : undefined
  const other = Object.hasOwn(after, field) ? after[field] : undefined
  return one !== other && canonical(one) !== canonical(other)
}

/** The canonical text of a row's key; `undefined` when a column of it is null or absent. */
export function keyOf(row: AnyRow, columns: readonly string[]): string | undefined {
  let key = ''
  for (const column of columns) {
    const value = row[column]
    if (value === null || value === undefined) return undefined
    key += key === '' ? canonical(value) : `,${canonical(value)}`
  }
  return key
}

// ---- columns -------------------------------------------------------------------------------------------------

/**
 * The columns of these records in the order in which they first appear, after those `known` already. A column that holds
 * several types is widened: `integer` with `double` or `bigint`, anything else to `text`.
 */
export function columnsOf(records: readonly AnyRow[], known: readonly Column[] = []): readonly Column[] {
  const columns = new Map<string, { type: ColumnType | undefined; nullable: boolean }>()
  for (const { name, type, nullable } of known) columns.set(name, { type, nullable })
  for (const record of records) {
    for (const name of Object.keys(record)) {
      const type = typeOf(record[name])
      const column = columns.get(name)
      if (!column) columns.set(name, { type, nullable: type === undefined })
      else if (type === undefined) column.nullable = true
      else if (column.type !== type) column.type = column.type === undefined ? type : widen(column.type, type)
    }
  }
  return Array.from(columns, ([name, { type, nullable }]) => ({ name, type: type ?? 'text', nullable }))
}

function typeOf(value: unknown): ColumnType | undefined {
  switch (typeof value) {
    case 'string':
      return 'text'
    case 'number':
      return Number.isSafeInteger(value) ? 'integer' : 'double'
    case 'bigint':
      return 'bigint'
    case 'boolean':
      return 'boolean'
    case 'object':
      if (value === null) return undefined
      if (value instanceof Date) return 'instant'
      return value instanceof Uint8Array ? 'binary' : 'json'
    default:
      return undefined
  }
}

function widen(known: ColumnType, seen: ColumnType): ColumnType {
  // a source that told its types knows better than a value that happens to look simpler
  if (seen === 'text' && ['decimal', 'date', 'timestamp', 'json'].includes(known)) return known
  if (seen === 'integer' && ['double', 'bigint', 'decimal'].includes(known)) return known
  if (known === 'integer' && (seen === 'double' || seen === 'bigint')) return seen
  return 'text'
}
