import { type ColumnType, Instant } from '../values.js'
import { longOf, shortest } from './exact.js'
import { parseJson } from './sql.js'

/** What a column of MySQL becomes. `read` gets what the driver makes of its bytes; null never gets there. */
export interface Converter {
  readonly type: ColumnType
  read(value: never): unknown
}

/**
 * A column as the server describes it
 * (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset_column_definition.html).
 */
export interface Field {
  readonly name: string
  /** A number of {@link types}. */
  readonly columnType: number
  readonly columnLength: number
  readonly characterSet: number
  readonly flags: number
  readonly decimals: number
  /** MariaDB's json is a text that says here what it is. */
  readonly extendedFormat?: string
}

/** https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html */
const types = {
  ...{ decimal: 0, tiny: 1, short: 2, long: 3, float: 4, double: 5, timestamp: 7, longlong: 8, int24: 9 },
  ...{ date: 10, time: 11, datetime: 12, year: 13, newdate: 14, bit: 16, vector: 242, json: 245, newdecimal: 246 },
  ...{ geometry: 255 },
} as const

/** https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__column__definition__flags.html */
const flags = { notNull: 1, unsigned: 32, enum: 256, set: 2048 } as const

/** The character set of what is no text. */
const bytes = 63

export function isDecimal({ columnType }: Field): boolean {
  return columnType === types.decimal || columnType === types.newdecimal
}

export function isJson({ columnType, extendedFormat }: Field): boolean {
  return columnType === types.json || extendedFormat === 'json'
}

export function isNullable(field: Field): boolean {
  return (field.flags & flags.notNull) === 0
}

/** How to read a column. An enum, a set, a uuid, a time and all others are their text. */
export function converter(field: Field): Converter {
  if (isJson(field)) return { type: 'json', read: (text: string) => parseJson(text, 'mysql') }
  switch (field.columnType) {
    case types.tiny:
      return field.columnLength === 1 ? boolean : integer
    case types.short:
    case types.int24:
    case types.long:
    case types.year:
      return integer
    case types.longlong:
      return { type: 'bigint', read: longOf }
    case types.decimal:
    case types.newdecimal:
      return { type: 'decimal', read: same }
    case types.float:
      return { type: 'double', read: shortest }
    case types.double:
      return { type: 'double', read: same }
    case types.date:
    case types.newdate:
      return { type: 'date', read: same }
    case types.datetime:
      return { type: 'timestamp', read: timestamp }
    case types.timestamp:
      return { type: 'instant', read: instant }
    case types.time:
      return { type: 'text', read: same }
    case types.bit:
      return bits(field.columnLength)
    case types.geometry:
      return { type: 'json', read: same }
    case types.vector:
      return { type: 'json', read: (items: readonly number[]) => Array.from(items, shortest) }
  }
  if (field.characterSet !== bytes) return { type: 'text', read: same }
  // a copy: what the driver gives is a view of all that came from the server with it
  return { type: 'binary', read: (buffer: Uint8Array) => new Uint8Array(buffer) }
}

const same = (value: unknown): unknown => value

const integer: Converter = { type: 'integer', read: same }

/** MySQL's boolean is an integer, which may hold others too. */
const boolean: Converter = {
  type: 'boolean',
  read: (number: number) => (number === 0 ? false : number === 1 ? true : number),
}

function bits(length: number): Converter {
  const number = (buffer: Buffer) => BigInt(`0x${buffer.toString('hex')}`)
  if (length === 1) return { type: 'boolean', read: (buffer: Buffer) => number(buffer) === 1n }
  if (length <= 32) return { type: 'integer', read: (buffer: Buffer) => Number(number(buffer)) }
  return { type: 'bigint', read: number }
}

/** '2026-01-31 02:30:00.120000', its fraction without zeros at the end. */
function timestamp(text: string): string {
  return text.replace(' ', 'T').replace(/\.(\d*?)0+$/, (_, digits: string) => (digits === '' ? '' : `.${digits}`))
}

/** As the text it is when it is no day, such as 0000-00-00. */
function instant(text: string): Date | string {
  const date = Instant.ofSql(text)
  return Number.isNaN(date.getTime()) ? text : date
}

// ---- cursors -----------------------------------------------------------------------------------------------------

/**
 * How a statement names the least value of this column that is wanted: a parameter as what the column is, for with a text
 * MySQL compares numbers as doubles. `undefined` where order and comparison differ.
 */
export function least(field: Field): string | undefined {
  if ((field.flags & (flags.enum | flags.set)) !== 0) return undefined
  if (isDecimal(field)) return `cast(? as decimal(65, ${field.decimals}))`
  switch (converter(field).type) {
    case 'boolean':
    case 'integer':
    case 'bigint':
      return `cast(? as ${(field.flags & flags.unsigned) === 0 ? 'signed' : 'unsigned'})`
    case 'date':
      return 'cast(? as date)'
    case 'timestamp':
    case 'instant':
      return 'cast(? as datetime(6))'
    case 'json':
      return undefined
  }
  return field.columnType === types.time ? 'cast(? as time(6))' : '?'
}

/** A value of a cursor column as its parameter. */
export function leastValue(value: string | number | bigint | Date, field: Field): unknown {
  if (typeof value === 'number') return field.columnType === types.float ? Math.fround(value) : value
  return parameter(value)
}

/** A value as the driver is to be given it: it would write a `Date` in the zone of the machine, and bytes as a text. */
export function parameter(value: unknown): unknown {
  if (value instanceof Date) return value.toISOString().slice(0, -1).replace('T', ' ')
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return value
}
