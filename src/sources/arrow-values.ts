import { SourceError } from '../errors.js'
import type { ColumnType } from '../values.js'
import { clockText, dateText, decimalText, instant, instantText, longs, shortest, timestampText } from './exact.js'

// apache-arrow and flechette keep the buffers of the Arrow format under names that differ little, and number types and units alike.
// Reading them, and not the values that either makes of them, is what keeps microseconds, decimals and large integers exact.
// How they are laid out: https://arrow.apache.org/docs/format/Columnar.html

/** A type of Arrow, as both libraries describe it. */
export interface ArrowType {
  readonly typeId: number
  readonly children?: readonly ArrowField[] | null
  readonly bitWidth?: number
  readonly isSigned?: boolean
  /** flechette's word for `isSigned`. */
  readonly signed?: boolean
  readonly precision?: number
  readonly scale?: number
  readonly unit?: number
  readonly timezone?: string | null
  readonly dictionary?: ArrowType
  readonly mode?: number
  readonly typeIds?: ArrayLike<number>
  readonly byteWidth?: number
  readonly listSize?: number
  /** flechette's word for `byteWidth` and `listSize`. */
  readonly stride?: number
}

/** A column of a schema, or a part of a nested type. */
export interface ArrowField {
  readonly name: string
  readonly type: ArrowType
  readonly nullable?: boolean
}

/** A run of a column's values: a `Data` of apache-arrow, a `Batch` of flechette. */
export interface ArrowChunk {
  readonly length: number
  readonly nullCount: number
  /** apache-arrow: at which bit of the validity, and of booleans, it begins. */
  readonly offset?: number
  readonly nullBitmap?: Uint8Array | null
  readonly validity?: Uint8Array | null
  readonly values?: ArrayBufferView | null
  readonly valueOffsets?: Int32Array | BigInt64Array | null
  readonly offsets?: Int32Array | BigInt64Array | null
  readonly sizes?: Int32Array | BigInt64Array | null
  readonly typeIds?: ArrayLike<number> | null
  readonly children?: readonly ArrowChunk[] | null
  readonly dictionary?: { readonly data: readonly ArrowChunk[] } | null
  readonly variadicBuffers?: readonly Uint8Array[]
  readonly data?: readonly Uint8Array[]
}

/** The values of a chunk: one of them, or those from `start` to before `end`. */
export interface Cells {
  readonly length: number
  at(index: number): unknown
  range(start: number, end: number): unknown[]
}

/** What a column of Arrow becomes. */
export interface Converter {
  readonly type: ColumnType
  readonly read: (chunk: ArrowChunk) => Cells
}

/** How to read a column of this type; `column` is named when it is a type that nobody here knows. */
export function converter(type: ArrowType, column: string): Converter {
  switch (type.typeId) {
    case 1:
      return { type: 'text', read: cells(() => () => null) }
    case 2:
      return integers(type)
    case 3:
      return { type: 'double', read: floats(type) }
    case 4:
    case 19:
      return { type: 'binary', read: cells(blobs) }
    case 5:
    case 20:
      return { type: 'text', read: texts }
    case 6:
      return { type: 'boolean', read: cells(booleans) }
    case 7:
      return { type: 'decimal', read: cells(decimals(type)) }
    case 8:
      return { type: 'date', read: cells(dates(type)) }
    case 9:
      return { type: 'text', read: cells(times(type)) }
    case 10:
      return { type: type.timezone ? 'instant' : 'timestamp', read: cells(timestamps(type)) }
    case 11:
      return { type: 'text', read: cells(intervals(type)) }
    case 12:
    case 21:
    case 25:
    case 26:
      return { type: 'json', read: cells(lists(type, column)) }
    case 13:
      return { type: 'json', read: cells(structs(type, column)) }
    case 14:
      return { type: 'json', read: cells(unions(type, column)) }
    case 15:
      return { type: 'binary', read: cells(fixedBlobs(type)) }
    case 16:
      return { type: 'json', read: cells(fixedLists(type, column)) }
    case 17:
      return { type: 'json', read: cells(maps(type, column)) }
    case 18:
      return { type: 'text', read: cells(durations(type)) }
    case 22:
      return runs(type, column)
    case 23:
      return { type: 'binary', read: cells(views((bytes) => new Uint8Array(bytes))) }
    case 24:
      return { type: 'text', read: cells(views((bytes) => bytes.toString('utf8'))) }
    case -1:
      return dictionaries(type, column)
    default:
      throw new SourceError(
        `dataframe: column ${JSON.stringify(column)} has a type of Arrow that is not known here (number ${type.typeId}): cast it in the frame`,
      )
  }
}

// ---- chunks ------------------------------------------------------------------------------------------------------

type At = (index: number) => unknown

/** `value` of each place, and null where the chunk says that nothing is there. */
function cells(value: (chunk: ArrowChunk) => At): (chunk: ArrowChunk) => Cells {
  return (chunk) => {
    const present = presence(chunk)
    const get = value(chunk)
    const at: At = present ? (index) => (present(index) ? get(index) : null) : get
    return { length: chunk.length, at, range: (start, end) => inRange(at, start, end) }
  }
}

/** What `at` gives for each place from `start` to before `end`. */
export function inRange(at: At, start: number, end: number): unknown[] {
  const found: unknown[] = []
  for (let index = start; index < end; index++) found.push(at(index))
  return found
}

/** Tells where there is a value; `undefined` when there is one everywhere. */
function presence(chunk: ArrowChunk): ((index: number) => boolean) | undefined {
  const mask = chunk.nullBitmap ?? chunk.validity
  // a union has no mask of its own
  if (chunk.nullCount === 0 || !mask || mask.length === 0) return undefined
  return bits(mask, chunk.offset ?? 0)
}

function bits(mask: Uint8Array, offset: number): (index: number) => boolean {
  return (index) => ((mask[(offset + index) >> 3]! >> ((offset + index) & 7)) & 1) === 1
}

type View<T> = {
  readonly BYTES_PER_ELEMENT: number
  new (buffer: ArrayBufferLike, offset: number, length: number): T
}

/** The values' bytes as numbers of a kind. */
function items<T>(View: View<T>, values: ArrayBufferView | null | undefined): T {
  const { buffer, byteOffset, byteLength } = values ?? new Uint8Array(0)
  if (byteOffset % View.BYTES_PER_ELEMENT !== 0) {
    const copy = new Uint8Array(buffer, byteOffset, byteLength).slice()
    return new View(copy.buffer, 0, byteLength / View.BYTES_PER_ELEMENT)
  }
  return new View(buffer, byteOffset, Math.floor(byteLength / View.BYTES_PER_ELEMENT))
}

/** Where things begin, counted in 32 or in 64 bits. */
function places(offsets: Int32Array | BigInt64Array | null | undefined): (index: number) => number {
  if (offsets instanceof Int32Array) return (index) => offsets[index]!
  return longs(items(BigInt64Array, offsets)) as (index: number) => number
}

function offsetsOf(chunk: ArrowChunk): (index: number) => number {
  return places(chunk.valueOffsets ?? chunk.offsets)
}

function bytesOf({ values }: ArrowChunk): Buffer {
  return values ? Buffer.from(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength) : Buffer.alloc(0)
}

// ---- numbers -----------------------------------------------------------------------------------------------------

function integers({ bitWidth = 32, isSigned, signed = isSigned }: ArrowType): Converter {
  if (bitWidth === 64) {
    const View = signed ? BigInt64Array : BigUint64Array
    return { type: 'bigint', read: cells(({ values }) => indexed(items<BigInt64Array | BigUint64Array>(View, values))) }
  }
  const views = signed
    ? { 8: Int8Array, 16: Int16Array, 32: Int32Array }
    : { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array }
  const View = views[bitWidth as 8 | 16 | 32] as View<Int32Array>
  return { type: 'integer', read: cells(({ values }) => indexed(items(View, values))) }
}

function indexed(all: { readonly [index: number]: unknown }): At {
  return (index) => all[index]
}

function floats({ precision }: ArrowType): (chunk: ArrowChunk) => Cells {
  if (precision === 2) return cells(({ values }) => indexed(items(Float64Array, values)))
  if (precision === 1) {
    return cells(({ values }) => {
      const all = items(Float32Array, values)
      return (index) => shortest(all[index]!)
    })
  }
  return cells(({ values }) => {
    const all = items(Uint16Array, values)
    return (index) => half(all[index]!)
  })
}

/** A float of 16 bits. */
function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** 32 bits a word, the lowest first. */
function decimals({ bitWidth = 128, scale = 0 }: ArrowType): (chunk: ArrowChunk) => At {
  const width = bitWidth / 32
  const text = (unscaled: number | bigint) =>
    scale < 0 ? String(BigInt(unscaled) * 10n ** BigInt(-scale)) : decimalText(unscaled, scale)
  return ({ values }) => {
    const words = items(Int32Array, values)
    return (index) => {
      const first = index * width
      let unscaled = words[first + width - 1]! as number | bigint
      for (let word = width - 2; word >= 0; word--) {
        const low = words[first + word]! >>> 0
        unscaled =
          typeof unscaled === 'number' && unscaled >= -0x20_0000 && unscaled < 0x20_0000
            ? unscaled * 2 ** 32 + low
            : (BigInt(unscaled) << 32n) | BigInt(low)
      }
      return text(unscaled)
    }
  }
}

function booleans(chunk: ArrowChunk): At {
  return bits(items(Uint8Array, chunk.values), chunk.offset ?? 0)
}

// ---- time --------------------------------------------------------------------------------------------------------

/** Decimals of a second in which a unit counts: seconds, milliseconds, microseconds, nanoseconds. */
function digitsOf({ unit = 0 }: ArrowType): number {
  return unit * 3
}

function dates({ unit }: ArrowType): (chunk: ArrowChunk) => At {
  return ({ values }) => {
    if (unit === 0) {
      const days = items(Int32Array, values)
      return (index) => dateText(days[index]!)
    }
    const milliseconds = longs(items(BigInt64Array, values))
    return (index) => dateText(Math.floor(Number(milliseconds(index)) / 86_400_000))
  }
}

function times(type: ArrowType): (chunk: ArrowChunk) => At {
  const digits = digitsOf(type)
  return ({ values }) => {
    const all =
      digits > 3
        ? (longs(items(BigInt64Array, values)) as (index: number) => number)
        : indexed(items(Int32Array, values))
    return (index) => clockText(all(index) as number, digits)
  }
}

function timestamps(type: ArrowType): (chunk: ArrowChunk) => At {
  const digits = digitsOf(type)
  const convert = type.timezone
    ? (value: number | bigint) => zoned(value, digits)
    : (value: number | bigint) => timestampText(value, digits)
  return ({ values }) => {
    const all = longs(items(BigInt64Array, values))
    return (index) => convert(all(index))
  }
}

/** A `Date` has microseconds at most: what has more is a text. */
function zoned(value: number | bigint, digits: number): Date | string {
  const perMillisecond = 10 ** Math.max(0, digits - 3)
  if (typeof value === 'number' && value % perMillisecond === 0) {
    const milliseconds = digits === 0 ? value * 1000 : value / perMillisecond
    if (Math.abs(milliseconds) <= 8.64e15) return new Date(milliseconds)
  }
  const all = BigInt(value)
  if (digits < 9) return instant(all * 10n ** BigInt(6 - digits))
  return all % 1000n === 0n ? instant(all / 1000n) : instantText(all, digits)
}

function durations(type: ArrowType): (chunk: ArrowChunk) => At {
  const digits = digitsOf(type)
  return ({ values }) => {
    const all = longs(items(BigInt64Array, values))
    return (index) => `PT${seconds(all(index), digits)}S`
  }
}

function seconds(value: number | bigint, digits: number): string {
  const text = decimalText(value, digits)
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text
}

/** In ISO 8601, as in P14M or P1M2DT3.5S, where each part has its own sign. */
function intervals({ unit }: ArrowType): (chunk: ArrowChunk) => At {
  return ({ values }) => {
    const words = items(Int32Array, values)
    if (unit === 0) return (index) => `P${words[index]}M`
    if (unit === 1) return (index) => `P${words[index * 2]}DT${seconds(words[index * 2 + 1]!, 3)}S`
    const nanoseconds = longs(items(BigInt64Array, words))
    return (index) => `P${words[index * 4]}M${words[index * 4 + 1]}DT${seconds(nanoseconds(index * 2 + 1), 9)}S`
  }
}

// ---- text and bytes ----------------------------------------------------------------------------------------------

/** Bytes that are decoded as one text, at most. */
const longest = 1 << 22

/** Texts of a range are decoded as one and cut apart, which is several times as fast as one by one. */
function texts(chunk: ArrowChunk): Cells {
  const bytes = bytesOf(chunk)
  const offset = offsetsOf(chunk)
  const present = presence(chunk)
  const at: At = (index) =>
    present && !present(index) ? null : bytes.toString('utf8', offset(index), offset(index + 1))
  const range = (start: number, end: number): unknown[] => {
    const from = offset(start)
    const size = offset(end) - from
    const all = size <= longest ? bytes.toString('utf8', from, from + size) : ''
    if (all.length !== size) return inRange(at, start, end) // not all is ASCII
    const found: unknown[] = []
    let begin = 0
    for (let index = start; index < end; index++) {
      const stop = offset(index + 1) - from
      found.push(present && !present(index) ? null : all.slice(begin, stop))
      begin = stop
    }
    return found
  }
  return { length: chunk.length, at, range }
}

/** Copies, so that no row keeps a whole frame in memory. */
function blobs(chunk: ArrowChunk): At {
  const bytes = items(Uint8Array, chunk.values)
  const offset = offsetsOf(chunk)
  return (index) => bytes.slice(offset(index), offset(index + 1))
}

function fixedBlobs({ byteWidth, stride }: ArrowType): (chunk: ArrowChunk) => At {
  const width = (byteWidth ?? stride)!
  return ({ values }) => {
    const bytes = items(Uint8Array, values)
    return (index) => bytes.slice(index * width, (index + 1) * width)
  }
}

/** 16 bytes each: the length, and then up to 12 bytes in place, or where the bytes are (buffer and offset). */
function views(convert: (bytes: Buffer) => unknown): (chunk: ArrowChunk) => At {
  return (chunk) => {
    const own = bytesOf(chunk)
    const buffers = (chunk.variadicBuffers ?? chunk.data ?? []).map((values) => bytesOf({ ...chunk, values }))
    return (index) => {
      const length = own.readInt32LE(index * 16)
      const inPlace = length <= 12
      const start = inPlace ? index * 16 + 4 : own.readInt32LE(index * 16 + 12)
      return convert((inPlace ? own : buffers[own.readInt32LE(index * 16 + 8)]!).subarray(start, start + length))
    }
  }
}

// ---- types made of others ----------------------------------------------------------------------------------------

function inner({ children }: ArrowType, column: string): Converter[] {
  return children!.map(({ type }) => converter(type, column))
}

function lists(type: ArrowType, column: string): (chunk: ArrowChunk) => At {
  const [item] = inner(type, column)
  return (chunk) => {
    const all = item!.read(chunk.children![0]!)
    const offset = offsetsOf(chunk)
    const size = chunk.sizes && places(chunk.sizes)
    return (index) => all.range(offset(index), size ? offset(index) + size(index) : offset(index + 1))
  }
}

function fixedLists(type: ArrowType, column: string): (chunk: ArrowChunk) => At {
  const [item] = inner(type, column)
  const width = (type.listSize ?? type.stride)!
  return (chunk) => {
    const all = item!.read(chunk.children![0]!)
    return (index) => all.range(index * width, (index + 1) * width)
  }
}

function structs(type: ArrowType, column: string): (chunk: ArrowChunk) => At {
  const names = type.children!.map(({ name }) => name)
  const fields = inner(type, column)
  return ({ children }) => {
    const all = fields.map(({ read }, index) => read(children![index]!))
    return (index) => Object.fromEntries(all.map((cells, field) => [names[field]!, cells.at(index)]))
  }
}

/** A map is stored as a list of structs of a key and a value. */
function maps(type: ArrowType, column: string): (chunk: ArrowChunk) => At {
  const [key, value] = inner(type.children![0]!.type, column)
  const isPlain = !['json', 'instant', 'binary'].includes(key!.type)
  const compose = isPlain
    ? (keys: unknown[], held: unknown[]) => Object.fromEntries(keys.map((key, index) => [String(key), held[index]]))
    : (keys: unknown[], held: unknown[]) => keys.map((key, index) => ({ key, value: held[index] }))
  return (chunk) => {
    const [keys, held] = chunk.children![0]!.children!
    const [allKeys, allHeld] = [key!.read(keys!), value!.read(held!)]
    const offset = offsetsOf(chunk)
    return (index) => {
      const [start, end] = [offset(index), offset(index + 1)]
      return compose(allKeys.range(start, end), allHeld.range(start, end))
    }
  }
}

/** An object with the one member that the value is, as DuckDB's unions are. */
function unions(type: ArrowType, column: string): (chunk: ArrowChunk) => At {
  const members = inner(type, column)
  const numbers = Array.from(type.typeIds!)
  return (chunk) => {
    const all = members.map(({ read }, index) => read(chunk.children![index]!))
    const offset = type.mode === 1 ? offsetsOf(chunk) : (index: number) => index
    return (index) => {
      const member = numbers.indexOf(chunk.typeIds![index]!)
      const value = all[member]!.at(offset(index))
      return value === null ? null : { [type.children![member]!.name]: value }
    }
  }
}

/** Values that are stored once for a run of rows, with the places where the runs end. */
function runs(type: ArrowType, column: string): Converter {
  const [ends, values] = inner(type, column)
  const read = cells(({ children }) => {
    const stops = ends!.read(children![0]!).range(0, children![0]!.length).map(Number)
    const all = values!.read(children![1]!)
    return (index) => {
      let [low, high] = [0, stops.length - 1]
      while (low < high) {
        const middle = (low + high) >> 1
        if (stops[middle]! > index) high = middle
        else low = middle + 1
      }
      return all.at(low)
    }
  })
  return { type: values!.type, read }
}

/** Values that are stored once, with their numbers in the rows. They are converted once, too. */
function dictionaries({ dictionary }: ArrowType, column: string): Converter {
  const { type, read } = converter(dictionary!, column)
  const known = new WeakMap<object, unknown[]>()
  const convert = ({ dictionary, values }: ArrowChunk): At => {
    const found = known.get(dictionary!) ?? dictionary!.data.flatMap((chunk) => read(chunk).range(0, chunk.length))
    known.set(dictionary!, found)
    const numbers = values as unknown as ArrayLike<number | bigint>
    return (index) => found[Number(numbers[index])]
  }
  return { type, read: cells(convert) }
}
