import * as arrow from 'apache-arrow'
import { Instant } from '../../src/index.js'
import { type kinds, objectsOf, type Table } from './tables.js'

type Make = (texts: readonly (string | null)[], values: readonly unknown[]) => arrow.Vector

/** From values as JavaScript has them. */
const plain =
  (type: arrow.DataType): Make =>
  (_, values) =>
    arrow.vectorFromArray(values as never[], type)

/** From the very integers that Arrow holds: its own builders take times as milliseconds. */
const exact =
  (type: arrow.DataType, integers: (texts: readonly string[]) => ArrayBufferView): Make =>
  (texts) => {
    const nullBitmap = new Uint8Array(Math.ceil(texts.length / 8))
    for (const [at, text] of texts.entries()) if (text !== null) nullBitmap[at >> 3]! |= 1 << (at & 7)
    const nullCount = texts.filter((text) => text === null).length
    const data = integers(texts.map((text) => text ?? ''))
    return arrow.makeVector(
      arrow.makeData({ type, data, length: texts.length, nullCount, nullBitmap } as never),
    ) as arrow.Vector
  }

const micros = (text: string) => (text === '' ? 0n : Instant.micros(Instant.of(text.replace(' ', 'T'))))
const longs = (read: (text: string) => bigint) => (texts: readonly string[]) => BigInt64Array.from(texts, read)

function decimal(precision: number, scale: number): Make {
  return exact(new arrow.Decimal(scale, precision), (texts) =>
    Uint32Array.from(
      texts.flatMap((text) => {
        const unscaled = BigInt(text.replace('.', ''))
        return [0, 1, 2, 3].map((word) => Number((unscaled >> BigInt(32 * word)) & 0xffffffffn))
      }),
    ),
  )
}

const field = (name: string, type: arrow.DataType) => new arrow.Field(name, type, true)
const list = new arrow.List(field('item', new arrow.Int32()))

/** What Arrow calls the kinds. Of json it holds only what is alike in all rows. */
const vectors: { readonly [kind in keyof typeof kinds]?: Make } = {
  boolean: plain(new arrow.Bool()),
  integer: plain(new arrow.Int32()),
  bigint: plain(new arrow.Int64()),
  decimal: decimal(38, 18),
  money: decimal(10, 2),
  double: plain(new arrow.Float64()),
  real: plain(new arrow.Float32()),
  text: plain(new arrow.Utf8()),
  date: exact(new arrow.DateDay(), (texts) => Int32Array.from(texts, (text) => Date.parse(text) / 86_400_000)),
  time: exact(
    new arrow.TimeMicrosecond(),
    longs((text) => micros(text && `1970-01-01T${text}Z`)),
  ),
  timestamp: exact(
    new arrow.TimestampMicrosecond(),
    longs((text) => micros(text && `${text}Z`)),
  ),
  instant: exact(new arrow.TimestampMicrosecond('UTC'), longs(micros)),
  binary: plain(new arrow.Binary()),
  json: plain(new arrow.Struct([field('a', new arrow.Struct([field('b', list), field('c', new arrow.Utf8())]))])),
  exact: plain(new arrow.Struct([field('id', new arrow.Int64())])),
  list: plain(list),
}

/** The same rows as a table of apache-arrow. */
export function arrowTable(table: Table): arrow.Table {
  const values = objectsOf(table)
  const columns = Object.entries(table.columns).map(([name, kind], at) => {
    const texts = table.rows.map((row) => row[at]!)
    const made = vectors[kind]!(
      texts,
      values.map((row) => row[name]),
    )
    return [name, made] as const
  })
  return new arrow.Table(Object.fromEntries(columns) as never) as arrow.Table
}
