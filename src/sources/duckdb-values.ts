import {
  DuckDBArrayLogicalType,
  type DuckDBConnection,
  type DuckDBDataChunk,
  DuckDBDecimalLogicalType,
  DuckDBEnumLogicalType,
  DuckDBListLogicalType,
  type DuckDBLogicalType,
  DuckDBMapLogicalType,
  type DuckDBResult,
  DuckDBStructLogicalType,
  DuckDBTypeId,
  DuckDBUnionLogicalType,
  type DuckDBValue,
  DuckDBVector,
} from '@duckdb/node-api'
import bindings, { type Vector } from '@duckdb/node-bindings'
import type { AnyRow, ColumnType } from '../values.js'
import { clockText, dateText, decimalText, instant, longs, shortest, timestampText } from './exact.js'
import { assembled, parseJson } from './sql.js'

/**
 * What `reader()` makes of each chunk of a streaming result; the next one is asked for meanwhile. A result that is not read to its
 * end is ended, for it would keep its file locked against writers, even when all else is closed. `broken` tells why it broke off.
 */
export async function* chunksOf<T>(
  connection: DuckDBConnection,
  result: DuckDBResult,
  reader: () => (chunk: DuckDBDataChunk) => T,
  broken: () => Promise<Error>,
): AsyncGenerator<T> {
  const ask = (): Promise<DuckDBDataChunk | null> => {
    const chunk = result.fetchChunk()
    chunk.catch(() => {}) // seen when it is awaited
    return chunk
  }
  let next = ask()
  try {
    const read = reader()
    for (let chunk = await next; chunk?.rowCount; chunk = await next) {
      next = ask()
      yield read(chunk)
    }
    // A result that fails half-way ends just like a complete one; all that tells them apart is that a failed one no
    // longer calls itself streaming (duckdb_result_is_streaming in duckdb.h: false when there is an error).
    if (!result.isStreaming) throw await broken()
  } finally {
    connection.interrupt()
    const rest = () => result.fetchChunk()
    for (let chunk = await next.catch(rest); chunk?.rowCount; chunk = await rest()) connection.interrupt()
  }
}

/** The values in the first `count` places of a vector. */
export type ReadVector = (vector: Vector, count: number) => unknown[]

/** What a column of DuckDB becomes. */
export interface Converter {
  readonly type: ColumnType
  readonly read: ReadVector
}

/** The rows of a chunk, each a filled copy of `blank`. */
export function rowsOf(
  chunk: DuckDBDataChunk,
  columns: readonly (Converter & { readonly name: string })[],
  blank: AnyRow,
): AnyRow[] {
  return assembled(
    columns.map(({ read }, index) => columnOf(chunk, index, read)),
    columns,
    blank,
    chunk.rowCount,
  )
}

/** The values of one column of a chunk. */
export function columnOf(chunk: DuckDBDataChunk, index: number, read: ReadVector): unknown[] {
  // A vector is a view of memory that goes when `chunk` is collected: asking it for the column each time holds it until then.
  return read(bindings.data_chunk_get_vector(chunk.chunk, index), chunk.rowCount)
}

/** How to read a column of this type. Vectors are laid out as https://duckdb.org/docs/stable/clients/c/vector says. */
export function converter(type: DuckDBLogicalType): Converter {
  if (type instanceof DuckDBDecimalLogicalType) return { type: 'decimal', read: decimals(type) }
  if (type instanceof DuckDBEnumLogicalType) return { type: 'text', read: enums(type) }
  if (type instanceof DuckDBListLogicalType) return { type: 'json', read: lists(converter(type.valueType).read) }
  if (type instanceof DuckDBArrayLogicalType) return { type: 'json', read: arrays(type) }
  if (type instanceof DuckDBStructLogicalType) return { type: 'json', read: structs(type) }
  if (type instanceof DuckDBMapLogicalType) return { type: 'json', read: maps(type) }
  if (type instanceof DuckDBUnionLogicalType) return { type: 'json', read: unions(type) }
  if (type.alias === 'JSON') return { type: 'json', read: json }
  return plain[type.typeId] ?? { type: 'text', read: other(String) }
}

// ---- vectors -------------------------------------------------------------------------------------------------

/** `at` of each place, and null where the vector says that nothing is there. */
function values(vector: Vector, count: number, at: (row: number) => unknown): unknown[] {
  const present = presence(vector, count)
  const found: unknown[] = []
  if (present) for (let row = 0; row < count; row++) found.push(present(row) ? at(row) : null)
  else for (let row = 0; row < count; row++) found.push(at(row))
  return found
}

/** Tells where there is a value; `undefined` when there is one everywhere. */
function presence(vector: Vector, count: number): ((row: number) => boolean) | undefined {
  const mask = bindings.vector_get_validity(vector, Math.ceil(count / 64) * 8) as Uint8Array | null
  return mask ? (row) => ((mask[row >> 3]! >> (row & 7)) & 1) === 1 : undefined
}

type View<T> = {
  readonly BYTES_PER_ELEMENT: number
  new (buffer: ArrayBufferLike, offset: number, length: number): T
}

function items<T>(View: View<T>, vector: Vector, length: number): T {
  const bytes = bindings.vector_get_data(vector, length * View.BYTES_PER_ELEMENT)
  return new View(bytes.buffer, bytes.byteOffset, length)
}

function fixed<T>(
  View: View<{ readonly [index: number]: T }>,
  convert: (item: T) => unknown = (item) => item,
): ReadVector {
  return (vector, count) => {
    const found = items(View, vector, count)
    return values(vector, count, (row) => convert(found[row]!))
  }
}

/** Integers of 64 bits that do not stay what they are. */
function long(convert: (item: number | bigint) => unknown): ReadVector {
  return (vector, count) => {
    const at = longs(items(BigInt64Array, vector, count))
    return values(vector, count, (row) => convert(at(row)))
  }
}

/** Integers of 128 bits, the lower half first. */
function wide(convert: (item: bigint) => unknown): ReadVector {
  return (vector, count) => {
    const halves = items(BigUint64Array, vector, count * 2)
    return values(vector, count, (row) => convert((halves[row * 2 + 1]! << 64n) | halves[row * 2]!))
  }
}

/** What is too rare for code of our own, from the library's own value of it. */
function other(convert: (value: DuckDBValue) => unknown): ReadVector {
  return (vector, count) => {
    const library = DuckDBVector.create(vector, count)
    return Array.from({ length: count }, (_, row) => {
      const value = library.getItem(row)
      return value === null ? null : convert(value)
    })
  }
}

const plain: { readonly [type in DuckDBTypeId]?: Converter } = {
  [DuckDBTypeId.BOOLEAN]: { type: 'boolean', read: fixed(Uint8Array, (value) => value !== 0) },
  [DuckDBTypeId.TINYINT]: { type: 'integer', read: fixed(Int8Array) },
  [DuckDBTypeId.SMALLINT]: { type: 'integer', read: fixed(Int16Array) },
  [DuckDBTypeId.INTEGER]: { type: 'integer', read: fixed(Int32Array) },
  [DuckDBTypeId.BIGINT]: { type: 'bigint', read: fixed(BigInt64Array) },
  [DuckDBTypeId.HUGEINT]: { type: 'bigint', read: wide((value) => BigInt.asIntN(128, value)) },
  [DuckDBTypeId.UTINYINT]: { type: 'integer', read: fixed(Uint8Array) },
  [DuckDBTypeId.USMALLINT]: { type: 'integer', read: fixed(Uint16Array) },
  [DuckDBTypeId.UINTEGER]: { type: 'integer', read: fixed(Uint32Array) },
  [DuckDBTypeId.UBIGINT]: { type: 'bigint', read: fixed(BigUint64Array) },
  [DuckDBTypeId.UHUGEINT]: { type: 'bigint', read: wide((value) => value) },
  [DuckDBTypeId.BIGNUM]: { type: 'bigint', read: other((value) => value) },
  [DuckDBTypeId.FLOAT]: { type: 'double', read: fixed(Float32Array, shortest) },
  [DuckDBTypeId.DOUBLE]: { type: 'double', read: fixed(Float64Array) },
  [DuckDBTypeId.DATE]: { type: 'date', read: fixed(Int32Array, dateText) },
  [DuckDBTypeId.TIMESTAMP_S]: { type: 'timestamp', read: long((value) => timestampText(value, 0)) },
  [DuckDBTypeId.TIMESTAMP_MS]: { type: 'timestamp', read: long((value) => timestampText(value, 3)) },
  [DuckDBTypeId.TIMESTAMP]: { type: 'timestamp', read: long((value) => timestampText(value, 6)) },
  [DuckDBTypeId.TIMESTAMP_NS]: { type: 'timestamp', read: long((value) => timestampText(value, 9)) },
  [DuckDBTypeId.TIMESTAMP_TZ]: { type: 'instant', read: long(instant) },
  [DuckDBTypeId.TIME]: { type: 'text', read: long((value) => clockText(Number(value), 6)) },
  [DuckDBTypeId.UUID]: { type: 'text', read: wide(uuidText) },
  [DuckDBTypeId.VARCHAR]: { type: 'text', read: texts },
  [DuckDBTypeId.BLOB]: { type: 'binary', read: blobs },
}

// ---- text and bytes ------------------------------------------------------------------------------------------

// A string is 16 bytes of its vector: its length, and then either up to 12 bytes of it or, from the ninth byte on, a
// pointer to all of them (duckdb_string_t in duckdb.h).
const size = 16
const inPlace = 12

/** How far apart two strings may lie to be fetched as one: less than a page, so that what is between them can be read too. */
const gap = 64

/**
 * Text. Fetching and decoding the strings one by one would cost more than all else in a read. Those that lie behind one
 * another, as DuckDB writes them, are decoded as one text and cut apart, which is ten times as fast.
 */
function texts(vector: Vector, count: number): (string | null)[] {
  const present = presence(vector, count)
  const words = items(Uint32Array, vector, count * 4)
  const bytes = buffer(bindings.vector_get_data(vector, count * size))
  const packed = bytes.toString('latin1')
  const found = new Array<string | null>(count).fill(null)
  const elsewhere: number[] = []
  for (let row = 0; row < count; row++) {
    if (present && !present(row)) continue
    const word = row * 4
    const start = row * size + 4
    const end = start + words[word]!
    if (words[word]! > inPlace) elsewhere.push(row)
    else if (isAscii(words[word + 1]! | words[word + 2]! | words[word + 3]!)) found[row] = packed.slice(start, end)
    else found[row] = bytes.toString('utf8', start, end)
  }

  for (let first = 0; first < elsewhere.length; ) {
    const start = words[elsewhere[first]! * 4 + 2]!
    const high = words[elsewhere[first]! * 4 + 3]
    let end = start
    let last = first
    for (; last < elsewhere.length; last++) {
      const word = elsewhere[last]! * 4
      const skipped = words[word + 2]! - end
      if (words[word + 3] !== high || skipped < 0 || skipped > gap) break
      end += skipped + words[word]!
    }
    const run = pointed(bytes, elsewhere[first]!, end - start)
    const text = run.toString('utf8')
    const ascii = text.length === run.length
    for (; first < last; first++) {
      const row = elsewhere[first]!
      const from = words[row * 4 + 2]! - start
      const to = from + words[row * 4]!
      found[row] = ascii ? text.slice(from, to) : run.toString('utf8', from, to)
    }
  }
  return found
}

function blobs(vector: Vector, count: number): unknown[] {
  const words = items(Uint32Array, vector, count * 4)
  const bytes = buffer(bindings.vector_get_data(vector, count * size))
  return values(vector, count, (row) => {
    const length = words[row * 4]!
    const start = row * size + 4
    return new Uint8Array(length > inPlace ? pointed(bytes, row, length) : bytes.subarray(start, start + length))
  })
}

/** Bytes at the pointer of a string. */
function pointed(bytes: Buffer, row: number, length: number): Buffer {
  return buffer(bindings.get_data_from_pointer(bytes.buffer as ArrayBuffer, bytes.byteOffset + row * size + 8, length))
}

function buffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength)
}

function isAscii(word: number): boolean {
  return (word & 0x80808080) === 0
}

function json(vector: Vector, count: number): unknown[] {
  return texts(vector, count).map((text) => (text === null ? null : parseJson(text, 'duckdb')))
}

function uuidText(value: bigint): string {
  // the highest bit is turned over, so that the order of the integers is that of the text
  const hex = (value ^ (1n << 127n)).toString(16).padStart(32, '0')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

// ---- types made of others --------------------------------------------------------------------------------------

function decimals(type: DuckDBDecimalLogicalType): ReadVector {
  const { scale, internalTypeId } = type
  const text = (unscaled: number | bigint) => decimalText(unscaled, scale)
  if (internalTypeId === DuckDBTypeId.SMALLINT) return fixed(Int16Array, text)
  if (internalTypeId === DuckDBTypeId.INTEGER) return fixed(Int32Array, text)
  if (internalTypeId === DuckDBTypeId.BIGINT) return long(text)
  return wide((value) => text(BigInt.asIntN(128, value)))
}

function enums(type: DuckDBEnumLogicalType): ReadVector {
  const labels = type.values()
  const label = (index: number) => labels[index]
  if (type.internalTypeId === DuckDBTypeId.UTINYINT) return fixed(Uint8Array, label)
  if (type.internalTypeId === DuckDBTypeId.USMALLINT) return fixed(Uint16Array, label)
  return fixed(Uint32Array, label)
}

/** A list is where it starts among the items of all lists, and how many are its own. */
function lists(read: ReadVector): ReadVector {
  return (vector, count) => {
    const all = read(bindings.list_vector_get_child(vector), bindings.list_vector_get_size(vector))
    const places = items(BigUint64Array, vector, count * 2)
    return values(vector, count, (row) => {
      const start = Number(places[row * 2])
      return all.slice(start, start + Number(places[row * 2 + 1]))
    })
  }
}

function arrays(type: DuckDBArrayLogicalType): ReadVector {
  const { read } = converter(type.valueType)
  const { length } = type
  return (vector, count) => {
    const all = read(bindings.array_vector_get_child(vector), count * length)
    return values(vector, count, (row) => all.slice(row * length, (row + 1) * length))
  }
}

function structs(type: DuckDBStructLogicalType): ReadVector {
  const names = type.entryNames()
  const fields = type.entryLogicalTypes().map((entry) => converter(entry).read)
  // the fields of row(1, 'a') have no names
  const compose = names.every((name) => name === '')
    ? (entries: unknown[]) => entries
    : (entries: unknown[]) => Object.fromEntries(entries.map((value, index) => [names[index]!, value]))
  return (vector, count) => {
    const columns = fields.map((read, index) => read(bindings.struct_vector_get_child(vector, index), count))
    return values(vector, count, (row) => compose(columns.map((column) => column[row])))
  }
}

/** A map is stored as a list of structs of a key and a value. */
function maps(type: DuckDBMapLogicalType): ReadVector {
  const key = converter(type.keyType)
  const value = converter(type.valueType)
  const entries = lists((vector, count) => {
    const keys = key.read(bindings.struct_vector_get_child(vector, 0), count)
    const held = value.read(bindings.struct_vector_get_child(vector, 1), count)
    return keys.map((key, index) => [key, held[index]])
  })
  const isPlain = !['json', 'instant', 'binary'].includes(key.type)
  const compose = isPlain
    ? (map: [unknown, unknown][]) => Object.fromEntries(map.map(([key, value]) => [String(key), value]))
    : (map: [unknown, unknown][]) => map.map(([key, value]) => ({ key, value }))
  return (vector, count) => entries(vector, count).map((map) => map && compose(map as [unknown, unknown][]))
}

/** A union is stored as a struct of the number of the member that counts, and all members. */
function unions(type: DuckDBUnionLogicalType): ReadVector {
  const tags = type.memberTags()
  const members = type.memberLogicalTypes().map((member) => converter(member).read)
  const number = fixed(Uint8Array)
  return (vector, count) => {
    const chosen = number(bindings.struct_vector_get_child(vector, 0), count) as (number | null)[]
    const columns = members.map((read, index) => read(bindings.struct_vector_get_child(vector, index + 1), count))
    return chosen.map((member, row) => (member === null ? null : { [tags[member]!]: columns[member]![row] }))
  }
}
