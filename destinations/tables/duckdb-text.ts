import type { ColumnType } from 'spillway'
import { jsonOf, textOf, Unfit } from './text.js'

/** What a column of each kind is made as in DuckDB. */
export const duckdbTypes: Readonly<Record<ColumnType, string>> = {
  text: 'VARCHAR',
  integer: 'BIGINT',
  bigint: 'HUGEINT',
  decimal: 'DECIMAL(38,18)',
  double: 'DOUBLE',
  boolean: 'BOOLEAN',
  date: 'DATE',
  timestamp: 'TIMESTAMP',
  instant: 'TIMESTAMPTZ',
  binary: 'BLOB',
  json: 'JSON',
}

/** The same in Parquet, where DuckDB would write a HUGEINT as a double. */
export const parquetTypes: typeof duckdbTypes = { ...duckdbTypes, bigint: 'BIGINT' }

/**
 * A value as text from which DuckDB casts it to the type.
 *
 * @throws Unfit when the cast would round it.
 */
export function duckdbText(value: unknown, type: string): string {
  if (type === 'JSON') return jsonOf(value)
  // years beyond 9999 have no sign in SQL
  const written = value instanceof Date ? textOf(value).replace(/^\+0*/, '') : textOf(value)
  if (value instanceof Uint8Array) return written.slice(2).replace(/../g, '\\x$&')
  if (type === 'BIGINT' && typeof value === 'bigint' && BigInt.asIntN(64, value) !== value) {
    throw new Unfit('holds an integer of more than 64 bits')
  }
  const scale = /^(DECIMAL\(\d+,(\d+)\)|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$/.exec(type)
  const digits = Number(scale?.[2] ?? 0)
  const exact = new RegExp(`^\\s*[+-]?\\d*(\\.\\d{0,${digits}}0*)?\\s*$`)
  if (scale && typeof value !== 'boolean' && !exact.test(written)) {
    throw new Unfit(`holds what ${type} would round or cannot hold`)
  }
  return written
}
