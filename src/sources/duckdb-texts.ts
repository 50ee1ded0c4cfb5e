import { DuckDBDecimalLogicalType, type DuckDBLogicalType, DuckDBTypeId } from '@duckdb/node-api'
import { tag } from '../values.js'
import { latest } from './exact.js'
import { literal } from './sql.js'

// Values of columns as texts that DuckDB makes, where no object is wanted of a row.

const whole: ReadonlySet<DuckDBTypeId> = new Set([
  DuckDBTypeId.TINYINT,
  DuckDBTypeId.SMALLINT,
  DuckDBTypeId.INTEGER,
  DuckDBTypeId.BIGINT,
  DuckDBTypeId.UTINYINT,
  DuckDBTypeId.USMALLINT,
  DuckDBTypeId.UINTEGER,
  DuckDBTypeId.UBIGINT,
])
/** Their text tells any two values apart, and holds no separator. */
const plain: ReadonlySet<DuckDBTypeId> = new Set([
  ...whole,
  DuckDBTypeId.BOOLEAN,
  DuckDBTypeId.FLOAT,
  DuckDBTypeId.DOUBLE,
  DuckDBTypeId.DECIMAL,
  DuckDBTypeId.DATE,
  DuckDBTypeId.TIME,
  DuckDBTypeId.TIMESTAMP,
  DuckDBTypeId.TIMESTAMP_S,
  DuckDBTypeId.TIMESTAMP_MS,
  DuckDBTypeId.TIMESTAMP_NS,
  DuckDBTypeId.TIMESTAMP_TZ,
  DuckDBTypeId.UUID,
])

/**
 * A text of a row in SQL that no other row has that holds something else; `undefined` where there is a type of which that is not
 * known, or that Parquet does not keep: those of 128 bits become doubles in it.
 */
export function distinctText(types: readonly DuckDBLogicalType[], columns: readonly string[]): string | undefined {
  const texts = types.map((type, index) => distinctPart(type, columns[index]!))
  // which passes over nulls, and takes less time than concat_ws
  return texts.includes(undefined) ? undefined : `concat(${texts.join(`, ${parting}, `)})`
}

const parting = 'chr(31)'

function distinctPart({ typeId }: DuckDBLogicalType, column: string): string | undefined {
  // a text that holds what parts them has its length before it
  if (typeId === DuckDBTypeId.VARCHAR || typeId === DuckDBTypeId.ENUM) {
    const text = `${column}::varchar`
    return `case when ${column} is null then '-' when contains(${text}, ${parting}) then strlen(${text}) || ${parting} else '+' end, ${text}`
  }
  if (typeId === DuckDBTypeId.BLOB) return `coalesce(hex(${column}), '-')`
  return plain.has(typeId) ? `coalesce(${column}::varchar, '-')` : undefined
}

/** The canonical text of a key's column in SQL, as `keyOf` makes it of the value; `undefined` for other types. */
export function keyText({ typeId, alias }: DuckDBLogicalType, column: string): string | undefined {
  if (whole.has(typeId)) return `'i' || ${column}`
  if (typeId === DuckDBTypeId.BOOLEAN) return `case ${column} when true then 't' when false then 'f' end`
  if (typeId === DuckDBTypeId.VARCHAR && alias !== 'JSON') return `to_json(${column})::varchar`
  const isText = [DuckDBTypeId.ENUM, DuckDBTypeId.UUID, DuckDBTypeId.DATE, DuckDBTypeId.DECIMAL].includes(typeId)
  return isText ? `to_json(${column}::varchar)::varchar` : undefined
}

/**
 * The lossless text of a row in SQL, of the texts of its columns in the order of an object's; `undefined` where one is missing.
 * Numbers and escapes that are written in another way than JavaScript's are left to who reads it.
 */
export function rowText(
  columns: readonly { readonly name: string; readonly text: string | undefined }[],
): string | undefined {
  // an object with such a column is kept within another
  if (columns.some(({ name, text }) => name === tag || text === undefined)) return undefined
  return `json_object(${columns.map(({ name, text }) => `${literal(name)}, ${text}`).join()})::varchar`
}

/**
 * What `json_array` makes of a column's value in SQL for the stage: what the stage's own encoding makes of the value that
 * `converter` reads; `undefined` for types of which that is not known.
 */
export function stagedText(type: DuckDBLogicalType, column: string): string | undefined {
  const { typeId, alias } = type
  if (alias === 'JSON') return undefined
  if (asTheyAre.has(typeId)) return column
  // without a digit before the point, DuckDB writes none
  if (type instanceof DuckDBDecimalLogicalType && type.width > type.scale) return `${column}::varchar`
  if (asText.has(typeId)) return `${column}::varchar`
  switch (typeId) {
    case DuckDBTypeId.BIGINT:
    case DuckDBTypeId.UBIGINT:
    case DuckDBTypeId.HUGEINT:
    case DuckDBTypeId.UHUGEINT:
      return tagged('bigint', column, `${column}::varchar`)
    case DuckDBTypeId.DOUBLE:
      return number(column)
    case DuckDBTypeId.TIMESTAMP:
    case DuckDBTypeId.TIMESTAMP_S:
    case DuckDBTypeId.TIMESTAMP_MS:
    case DuckDBTypeId.TIMESTAMP_NS:
      return timestamp(column)
    case DuckDBTypeId.TIMESTAMP_TZ:
      return instant(column)
    case DuckDBTypeId.BLOB:
      return tagged('binary', column, `to_base64(${column})`)
    default:
      return undefined // of a float, DuckDB does not always write the shortest text
  }
}

const asTheyAre: ReadonlySet<DuckDBTypeId> = new Set([
  DuckDBTypeId.BOOLEAN,
  DuckDBTypeId.TINYINT,
  DuckDBTypeId.SMALLINT,
  DuckDBTypeId.INTEGER,
  DuckDBTypeId.UTINYINT,
  DuckDBTypeId.USMALLINT,
  DuckDBTypeId.UINTEGER,
  DuckDBTypeId.VARCHAR,
])
const asText: ReadonlySet<DuckDBTypeId> = new Set([
  DuckDBTypeId.ENUM,
  DuckDBTypeId.UUID,
  DuckDBTypeId.DATE,
  DuckDBTypeId.TIME,
])

/** What JSON would bend, as the stage has it. */
function tagged(kind: string, column: string, text: string): string {
  return `case when ${column} is not null then json_object(${literal(tag)}, '${kind}', 'v', ${text}) end`
}

function number(column: string): string {
  const odd = `case when isnan(${column}) then 'NaN' when ${column} > 0 then 'Infinity' else '-Infinity' end`
  const zero = `case when ${column}::varchar = '0.0' then to_json(0) else ${tagged('number', column, "'-0'")} end`
  // without a point, as JavaScript writes them
  return `case when ${column} = 0 then ${zero} when abs(${column}) < 1e15 and ${column} = trunc(${column}) then to_json(${column}::bigint)
    when isfinite(${column}) then to_json(${column}) else ${tagged('number', column, odd)} end`
}

/** 2026-01-31T02:30:00.123456, or 0044-03-15 (BC)T02:30:00. */
function timestamp(column: string): string {
  return `replace(replace(${column}::varchar, ' ', 'T'), 'T(BC)', ' (BC)')`
}

/** As `Date` writes it, with microseconds where there are any; as text where no `Date` reaches. */
function instant(column: string): string {
  // whatever time zone the query runs in
  const utc = `(${column} at time zone 'UTC')`
  const year = `printf(case when year(${utc}) between 0 and 9999 then '%04d' else '%+07d' end, year(${utc}))`
  const rest = (digits: string) => `strftime(${utc}, '-%m-%dT%H:%M:%S.${digits}Z')`
  const iso = `${year} || case when microsecond(${utc}) % 1000 = 0 then ${rest('%g')} else ${rest('%f')} end`
  const text = `${timestamp(utc)} || case when isfinite(${utc}) then 'Z' else '' end`
  const isDate = `isfinite(${utc}) and epoch_us(${utc}) between -${latest} and ${latest}`
  return `case when ${isDate} then ${tagged('instant', column, iso)} else to_json(${text}) end`
}
