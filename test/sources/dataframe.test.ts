import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as flechette from '@uwdata/flechette'
import * as arrow from 'apache-arrow'
import * as aq from 'arquero'
import pl from 'nodejs-polars'
import { describe, expect, it } from 'vitest'
import { destination, Instant, source, sync } from '../../src/index.js'
import { dataframe } from '../../src/sources/dataframe.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { batchesOf, readAll, readOne } from './reading.js'

/** A column of apache-arrow over the very bits, with its second value missing. */
function column<T extends arrow.DataType>(type: T, data: unknown, more: object = {}) {
  return arrow.makeVector(arrow.makeData({ type, data, nullCount: 1, nullBitmap: nulls, ...more } as never))
}
const nulls = Uint8Array.of(0b101)

/** A vector of apache-arrow from values, null in the middle. */
const vector = (first: unknown, last: unknown, type: arrow.DataType) =>
  arrow.vectorFromArray([first, null, last] as never[], type)

const field = (name: string, type: arrow.DataType) => new arrow.Field(name, type, true)
const micros = 1_769_826_600_123_456n
const text = new TextEncoder().encode('Añazürich')

const long = Buffer.from('a text of more than twelve bytes')
/** A short text in place, nothing, and the first bytes of a long one with where it is. */
const views = new Uint8Array(48)
views.set([5, 0, 0, 0, ...Buffer.from('short')])
views.set([long.length, 0, 0, 0, ...long.subarray(0, 4)], 32)

/** For each column: what Arrow holds, its type here, and the values before and after a null. */
const kinds: Record<string, [arrow.Vector, type: string, first: unknown, last: unknown]> = {
  int8: [column(new arrow.Int8(), Int8Array.of(-1, 0, 127)), 'integer', -1, 127],
  uint32: [column(new arrow.Uint32(), Uint32Array.of(0, 0, 4294967295)), 'integer', 0, 4294967295],
  int64: [column(new arrow.Int64(), BigInt64Array.of(-9007199254740993n, 0n, 1n)), 'bigint', -9007199254740993n, 1n],
  uint64: [column(new arrow.Uint64(), BigUint64Array.of(2n ** 64n - 1n, 0n, 1n)), 'bigint', 2n ** 64n - 1n, 1n],
  float16: [column(new arrow.Float16(), Uint16Array.of(0x3555, 0, 0xfc00)), 'double', 0.333251953125, -Infinity],
  tiny16: [column(new arrow.Float16(), Uint16Array.of(0x0001, 0, 0xc000)), 'double', 2 ** -24, -2],
  float32: [column(new arrow.Float32(), Float32Array.of(0.1, 0, -3e38)), 'double', 0.1, -3e38],
  float64: [column(new arrow.Float64(), Float64Array.of(0.1 + 0.2, 0, -0)), 'double', 0.30000000000000004, -0],
  bool: [vector(false, true, new arrow.Bool()), 'boolean', false, true],
  utf8: [
    column(new arrow.Utf8(), text, { valueOffsets: Int32Array.of(0, 4, 4, 11) }),
    'text',
    'Aña',
    'zürich'.slice(0, 6),
  ],
  large: [column(new arrow.LargeUtf8(), text, { valueOffsets: BigInt64Array.of(0n, 1n, 1n, 3n) }), 'text', 'A', 'ñ'],
  binary: [
    column(new arrow.Binary(), Uint8Array.of(0, 255, 1), { valueOffsets: Int32Array.of(0, 2, 2, 3) }),
    'binary',
    Uint8Array.of(0, 255),
    Uint8Array.of(1),
  ],
  fixed: [
    column(new arrow.FixedSizeBinary(2), Uint8Array.of(1, 2, 0, 0, 3, 4)),
    'binary',
    Uint8Array.of(1, 2),
    Uint8Array.of(3, 4),
  ],
  decimal128: [
    column(new arrow.Decimal(2, 38), words(128, -12345678901234567890123n, 0n, 5n)),
    'decimal',
    '-123456789012345678901.23',
    '0.05',
  ],
  decimal256: [
    column(new arrow.Decimal(3, 76, 256), words(256, 10n ** 70n + 1n, 0n, -1n)),
    'decimal',
    `1${'0'.repeat(67)}.001`,
    '-0.001',
  ],
  utf8View: [
    column(new arrow.Utf8View(), undefined, { views, variadicBuffers: [long] }),
    'text',
    'short',
    'a text of more than twelve bytes',
  ],
  binaryView: [
    column(new arrow.BinaryView(), undefined, { views, variadicBuffers: [long] }),
    'binary',
    new Uint8Array(Buffer.from('short')),
    new Uint8Array(long),
  ],
  date32: [column(new arrow.DateDay(), Int32Array.of(-1, 0, 20_484)), 'date', '1969-12-31', '2026-01-31'],
  date64: [
    column(new arrow.DateMillisecond(), BigInt64Array.of(-86_400_000n, 0n, 1_769_817_600_000n)),
    'date',
    '1969-12-31',
    '2026-01-31',
  ],
  time32: [
    column(new arrow.TimeMillisecond(), Int32Array.of(1, 0, 86_399_999)),
    'text',
    '00:00:00.001',
    '23:59:59.999',
  ],
  time64: [
    column(new arrow.TimeNanosecond(), BigInt64Array.of(1n, 0n, 9_000_000_000_000n)),
    'text',
    '00:00:00.000000001',
    '02:30:00',
  ],
  seconds: [
    column(new arrow.TimestampSecond(), BigInt64Array.of(-1n, 0n, 1_769_826_600n)),
    'timestamp',
    '1969-12-31T23:59:59',
    '2026-01-31T02:30:00',
  ],
  milliseconds: [
    column(new arrow.TimestampMillisecond(), BigInt64Array.of(-1n, 0n, micros / 1000n)),
    'timestamp',
    '1969-12-31T23:59:59.999',
    '2026-01-31T02:30:00.123',
  ],
  microseconds: [
    column(new arrow.TimestampMicrosecond(), BigInt64Array.of(-1n, 0n, micros)),
    'timestamp',
    '1969-12-31T23:59:59.999999',
    '2026-01-31T02:30:00.123456',
  ],
  nanoseconds: [
    column(new arrow.TimestampNanosecond(), BigInt64Array.of(-1n, 0n, micros * 1000n + 789n)),
    'timestamp',
    '1969-12-31T23:59:59.999999999',
    '2026-01-31T02:30:00.123456789',
  ],
  instantSeconds: [
    column(new arrow.TimestampSecond('UTC'), BigInt64Array.of(-1n, 0n, 8_640_000_000_001n)),
    'instant',
    new Date(-1000),
    '275760-09-13T00:00:01Z',
  ],
  instantMilliseconds: [
    column(new arrow.TimestampMillisecond('+02:00'), BigInt64Array.of(-1n, 0n, micros / 1000n)),
    'instant',
    new Date(-1),
    new Date('2026-01-31T02:30:00.123Z'),
  ],
  instantMicroseconds: [
    column(new arrow.TimestampMicrosecond('Europe/Berlin'), BigInt64Array.of(-1n, 0n, micros)),
    'instant',
    Instant.ofMicros(-1n),
    Instant.ofMicros(micros),
  ],
  instantNanoseconds: [
    column(new arrow.TimestampNanosecond('UTC'), BigInt64Array.of(micros * 1000n, 0n, micros * 1000n + 789n)),
    'instant',
    Instant.ofMicros(micros),
    '2026-01-31T02:30:00.123456789Z',
  ],
  duration: [
    column(new arrow.DurationMillisecond(), BigInt64Array.of(-1500n, 0n, 100_000n)),
    'text',
    'PT-1.5S',
    'PT100S',
  ],
  months: [column(new arrow.IntervalYearMonth(), Int32Array.of(14, 0, -1)), 'text', 'P14M', 'P-1M'],
  days: [column(new arrow.IntervalDayTime(), Int32Array.of(2, 1500, 0, 0, 0, 0)), 'text', 'P2DT1.5S', 'P0DT0S'],
  nanos: [
    column(new arrow.IntervalMonthDayNano(), Int32Array.of(1, 2, 3, 0, 0, 0, 0, 0, 0, -1, -1, -1)),
    'text',
    'P1M2DT0.000000003S',
    'P0M-1DT-0.000000001S',
  ],
  dictionary: [
    vector('free', 'team', new arrow.Dictionary(new arrow.Utf8(), new arrow.Int32())),
    'text',
    'free',
    'team',
  ],
  list: [vector([1, null], [], new arrow.List(field('item', new arrow.Int32()))), 'json', [1, null], []],
  pair: [
    vector([1n, 2n], [3n, 4n], new arrow.FixedSizeList(2, field('item', new arrow.Int64()))),
    'json',
    [1n, 2n],
    [3n, 4n],
  ],
  struct: [
    vector(
      { a: 1, b: 'x' },
      { a: null, b: '' },
      new arrow.Struct([field('a', new arrow.Int32()), field('b', new arrow.Utf8())]),
    ),
    'json',
    { a: 1, b: 'x' },
    { a: null, b: '' },
  ],
  map: [
    vector(
      new Map([['a', 1]]),
      new Map(),
      new arrow.Map_(
        field(
          'entries',
          new arrow.Struct([field('key', new arrow.Utf8()), field('value', new arrow.Int32())]),
        ) as never,
      ),
    ),
    'json',
    { a: 1 },
    {},
  ],
  nothing: [arrow.vectorFromArray([null, null, null], new arrow.Null()), 'text', null, null],
}

/** Integers of that many bits, the lowest 32 first. */
function words(bits: number, ...values: bigint[]): Uint32Array {
  return Uint32Array.from(
    values.flatMap((value) =>
      Array.from({ length: bits / 32 }, (_, word) => Number((value >> BigInt(32 * word)) & 0xffffffffn)),
    ),
  )
}

const table = new arrow.Table(Object.fromEntries(Object.entries(kinds).map(([name, [vector]]) => [name, vector])))
const pick = (at: (kind: (typeof kinds)[string]) => unknown) =>
  Object.fromEntries(Object.entries(kinds).map(([name, kind]) => [name, at(kind)]))
const rows = [pick(([, , first]) => first), pick(() => null), pick(([, , , last]) => last)]
const columns = Object.entries(kinds).map(([name, [, type]]) => ({ name, type, nullable: true }))

describe('a table of Arrow', () => {
  it('keeps every kind of value, from apache-arrow', async () => {
    const read = await readAll(dataframe(table))
    expect(read.rows).toStrictEqual(rows)
    expect(read.columns).toEqual(columns)
    const { instantMicroseconds } = read.rows[0]!
    expect(Instant.micros(instantMicroseconds)).toBe(-1n)
    expect(Instant.micros(read.rows[2]!['instantMicroseconds'])).toBe(micros)
  })

  it('gives the same from a slice, a record batch and several batches', async () => {
    expect((await readAll(dataframe(table.slice(1, 3)))).rows).toStrictEqual(rows.slice(1))
    expect((await readAll(dataframe(table.batches[0]!))).rows).toStrictEqual(rows)
    const twice = new arrow.Table(table.schema, [...table.batches, ...table.slice(2, 3).batches, ...table.batches])
    expect((await readAll(dataframe(twice))).rows).toStrictEqual([...rows, rows[2], ...rows])
  })

  it('gives the same from bytes, a file and a table of flechette, whatever that was told to make of values', async () => {
    const bytes = arrow.tableToIPC(table, 'file')
    const path = join(await stateFolder(), 'rows.arrow')
    await writeFile(path, bytes)
    const unaligned = Buffer.concat([Buffer.alloc(1), bytes]).subarray(1)
    const options = { useDate: true, useMap: true, useProxy: true }
    for (const frame of [
      bytes,
      unaligned,
      { path },
      flechette.tableFromIPC(bytes),
      flechette.tableFromIPC(bytes, options),
    ]) {
      const read = await readAll(dataframe(frame))
      expect(read.rows).toStrictEqual(rows)
      expect(read.columns).toEqual(columns)
    }
  })

  it('keeps the kinds that only flechette knows', async () => {
    const { batchType, Column, columnFromArray: column, tableFromColumns } = flechette
    /** A column of these very buffers. */
    const made = (type: object, parts: object) => {
      const Batch = batchType(type as never, {}) as never as new (given: object) => never
      return new Column([new Batch({ type, length: 3, nullCount: 0, ...parts })])
    }
    const numbers = (...values: number[]) => column(values, flechette.int32()).data
    const table = tableFromColumns({
      runs: made(flechette.runEndEncoded(flechette.int32(), flechette.utf8()), {
        children: [...numbers(2, 3), ...column(['a', 'b'], flechette.utf8()).data],
      }),
      lists: made(flechette.listView(flechette.int32()), {
        nullCount: 1,
        validity: nulls,
        offsets: Int32Array.of(1, 0, 0),
        sizes: Int32Array.of(2, 0, 1),
        children: numbers(7, 8, 9),
      }),
      small: made(flechette.decimal(9, 2, 32), { nullCount: 1, validity: nulls, values: Int32Array.of(150, 0, -25) }),
      medium: column([1.5, null, -0.25], flechette.decimal(18, 2, 64)),
    })
    expect((await readAll(dataframe(table))).rows).toStrictEqual([
      { runs: 'a', lists: [8, 9], small: '1.50', medium: '1.50' },
      { runs: 'a', lists: null, small: null, medium: null },
      { runs: 'b', lists: [7], small: '-0.25', medium: '-0.25' },
    ])
  })

  it('keeps decimals whose last digits are left out', async () => {
    const hundreds = column(new arrow.Decimal(-2, 10), words(128, 12n, 0n, -3n))
    expect((await readAll(dataframe(new arrow.Table({ hundreds })))).rows).toEqual([
      { hundreds: '1200' },
      { hundreds: null },
      { hundreds: '-300' },
    ])
  })

  it('keeps which member a union holds, and maps with keys that are no text', async () => {
    const { columnFromArray: column, tableFromColumns } = flechette
    const either = [flechette.field('a', flechette.int32()), flechette.field('b', flechette.utf8())]
    const which = (value: unknown) => (typeof value === 'string' ? 1 : 0)
    const made = tableFromColumns({
      sparse: column([1, 'x'], flechette.union(flechette.UnionMode.Sparse, either, [0, 1], which)),
      dense: column(['x', 1], flechette.union(flechette.UnionMode.Dense, either, [0, 1], which)),
      map: column([[[Uint8Array.of(1), 'x']], []], flechette.map(flechette.binary(), flechette.utf8())),
    })
    expect((await readAll(dataframe(made))).rows).toStrictEqual([
      { sparse: { a: 1 }, dense: { b: 'x' }, map: [{ key: Uint8Array.of(1), value: 'x' }] },
      { sparse: { b: 'x' }, dense: { a: 1 }, map: [] },
    ])
  })

  it('comes 1,000 rows at a time, across the borders of its batches', async () => {
    const parts = [700, 1100, 500].map((length, part) =>
      arrow.tableFromArrays({ id: Int32Array.from({ length }, (_, index) => part * 10_000 + index) }),
    )
    const whole = new arrow.Table(parts.flatMap(({ batches }) => batches))
    const seen: number[][] = []
    for await (const rows of batchesOf(dataframe(whole))) seen.push(rows.map(({ id }) => id))
    expect(seen.map(({ length }) => length)).toEqual([1000, 1000, 300])
    expect(seen.flat()).toEqual([...whole].map((row) => row?.['id']))
  })

  it('names a type that it does not know, its column, and columns of one name', async () => {
    const odd = { schema: { fields: [{ name: 'x', type: { typeId: 99 } }] }, numRows: 1, children: [{ data: [] }] }
    await expect(readAll(dataframe(odd))).rejects.toThrow(
      'dataframe: column "x" has a type of Arrow that is not known here (number 99)',
    )
    const one = arrow.vectorFromArray([1], new arrow.Int32())
    const schema = new arrow.Schema([field('a', one.type), field('a', one.type)])
    const struct = arrow.makeData({ type: new arrow.Struct(schema.fields), children: [one.data[0]!, one.data[0]!] })
    const twice = new arrow.Table(schema, new arrow.RecordBatch(schema, struct))
    await expect(readAll(dataframe(twice))).rejects.toThrow(
      'dataframe: the frame has two columns named "a": rename one',
    )
  })

  it('says what is wrong with bytes and files', async () => {
    const path = join(await stateFolder(), 'no.arrow')
    await expect(readAll(dataframe({ path }))).rejects.toThrow(`dataframe: cannot read ${path}: ENOENT`)
    await writeFile(path, 'id,name\n1,Ada\n')
    await expect(readAll(dataframe({ path }))).rejects.toThrow(`dataframe: ${path} cannot be read as Arrow IPC data`)
  })
})

describe('a frame of polars', () => {
  const at = (value: bigint, type: unknown) =>
    pl
      .lit(value)
      .cast(pl.Int64)
      .cast(type as never)
  const made = pl
    .DataFrame({ name: ['Ada', null], tags: [['a'], []] })
    .withColumns(
      at(micros, pl.Datetime('us')).alias('local'),
      at(micros, pl.Datetime('us', 'UTC')).alias('instant'),
      pl.lit('9007199254740993').cast(pl.Int64).alias('large'),
      pl.lit('123456789012345678.12').cast(pl.Decimal(38, 2)).alias('decimal'),
      at(20_484n, pl.Int32).cast(pl.Date).alias('day'),
      pl.col('name').cast(pl.Categorical).alias('kind'),
    )

  it('keeps what its own values would round or cut', async () => {
    const { rows, columns } = await readAll(dataframe(made))
    const same = {
      local: '2026-01-31T02:30:00.123456',
      instant: Instant.ofMicros(micros),
      large: 9007199254740993n,
      decimal: '123456789012345678.12',
      day: '2026-01-31',
    }
    expect(rows).toStrictEqual([
      { name: 'Ada', tags: ['a'], ...same, kind: 'Ada' },
      { name: null, tags: [], ...same, kind: null },
    ])
    expect(Instant.micros(rows[0]!['instant'])).toBe(micros)
    expect(columns.map(({ type }) => type)).toEqual('text json timestamp instant bigint decimal date text'.split(' '))
  })

  it('is read to its end, and empty ones have columns', async () => {
    const count = 65_536 + 1
    const { rows } = await readAll(dataframe(pl.DataFrame({ id: Int32Array.from({ length: count }, (_, id) => id) })))
    expect([rows.length, rows.at(-1)]).toEqual([count, { id: count - 1 }])
    const empty = await readAll(dataframe(made.head(0)))
    expect([empty.rows.length, empty.columns.length]).toEqual([0, 8])
  })

  it('may be written to bytes, compressed only when flechette was given the codec', async () => {
    const bytes = made.writeIPC({ compression: 'lz4' })
    await expect(readAll(dataframe(bytes))).rejects.toThrow(/these bytes cannot be read as Arrow IPC data: .*codec/s)
  })

  it('must be collected when it is lazy', () => {
    expect(() => dataframe(made.lazy() as never)).toThrow(
      'it is a lazy frame, which has no rows yet: give what its collect() returns',
    )
  })
})

describe('a table of arquero', () => {
  it('is given filtered, ordered and derived as it is', async () => {
    const made = aq
      .table({ id: [3, 1, 2], name: ['c', undefined, 'b'] })
      .filter((row: { id: number }) => row.id < 3)
      .orderby('id')
      .derive({ double: (row: { id: number }) => row.id * 2 })
    expect((await readAll(dataframe(made))).rows).toStrictEqual([
      { id: 1, name: null, double: 2 },
      { id: 2, name: 'b', double: 4 },
    ])
    expect((await readAll(dataframe(aq.table({ id: [3, 1] })))).rows).toStrictEqual([{ id: 3 }, { id: 1 }])
  })

  it('keeps what Arrow said, where arquero would round it or throw', async () => {
    const large = arrow.tableFromArrays({ id: BigInt64Array.of(2n ** 60n + 1n, 5n, 2n ** 60n) })
    const made = aq.fromArrow(arrow.tableToIPC(large)).filter(() => aq.op.row_number() > 1)
    expect((await readAll(dataframe(made))).rows).toStrictEqual([{ id: 5n }, { id: 2n ** 60n }])
  })
})

// Danfo.js itself is not installed here: it brings TensorFlow. This is what its DataFrame has.
it('reads a frame like those of Danfo.js', async () => {
  const danfo = {
    columns: ['id', 'name'],
    values: [
      [1, 'Ada'],
      [2, undefined],
    ],
    shape: [2, 2],
    toJSON: () => '',
  }
  expect((await readAll(dataframe(danfo))).rows).toStrictEqual([
    { id: 1, name: 'Ada' },
    { id: 2, name: null },
  ])
})

describe('an object of columns', () => {
  it('may hold arrays and typed arrays, whose types it tells', async () => {
    const when = new Date(0)
    const mixed = { id: [1, 2], at: [when, undefined], score: Float32Array.of(0.1, 2), big: BigInt64Array.of(1n, 2n) }
    const { rows, columns } = await readAll(dataframe(mixed))
    expect(rows).toStrictEqual([
      { id: 1, at: when, score: 0.1, big: 1n },
      { id: 2, at: null, score: 2, big: 2n },
    ])
    expect(columns).toEqual([])
    const typed = await readAll(
      dataframe({ id: Int32Array.of(1), score: new Float64Array(1), big: new BigUint64Array(1) }),
    )
    expect(typed.columns.map(({ type }) => type)).toEqual(['integer', 'double', 'bigint'])
  })

  it('is read no further when the signal says so', async () => {
    const abort = new AbortController()
    const seen: number[] = []
    const reading = (async () => {
      for await (const rows of batchesOf(dataframe({ id: new Int32Array(5_000) }), { signal: abort.signal })) {
        seen.push(rows.length)
        abort.abort(new Error('enough'))
      }
    })()
    await expect(reading).rejects.toThrow('enough')
    expect(seen).toEqual([1000])
  })

  it('may have a column of any name', async () => {
    const row = await readOne(dataframe(JSON.parse('{"__proto__": [1], "constructor": ["x"]}')))
    expect(Object.entries(row)).toEqual([
      ['__proto__', 1],
      ['constructor', 'x'],
    ])
  })

  it('is refused when columns differ in length or something is no column', () => {
    expect(() => dataframe({ id: [1, 2], name: ['Ada'] })).toThrow(
      'dataframe: the columns differ in length: "id" has 2 values, "name" has 1 values',
    )
    for (const [frame, problem] of [
      [{}, 'it has no columns'],
      [{ id: [1], name: 'Ada' }, '"name" holds a string'],
      [{ id: null }, '"id" holds null'],
      [[{ id: 1 }], 'it is an array, no frame'],
      [Int32Array.of(1), 'it is a Int32Array, no frame'],
      [undefined, 'it is undefined, no frame'],
    ] as const) {
      expect(() => dataframe(frame as never)).toThrow(problem)
    }
  })
})

describe('a sync', () => {
  it('mirrors a frame: reads it again, sends nothing when nothing changed, and deletes what is gone', async () => {
    const sent: unknown[] = []
    const state = await stateFolder()
    const to = destination({ name: 'crm', match: 'id' })({
      upsert: (batch: object[]) => void sent.push(...batch),
      delete: (batch: object[]) => void sent.push(...batch.map((match) => ({ gone: match }))),
    })
    const run = (frame: { id: number[]; name: string[] }) =>
      sync({
        name: 'people',
        from: dataframe(frame),
        to,
        key: 'id',
        mode: 'mirror',
        state,
        log: quiet,
        deleteCeiling: 1,
      }).run()
    const people = { id: [1, 2], name: ['Ada', 'Grace'] }
    expect(await run(people)).toMatchObject({ delivered: 2 })
    expect(await run(people)).toMatchObject({ delivered: 0, unchanged: 2 })
    await run({ id: [2], name: ['Hopper'] })
    expect(sent.slice(2)).toEqual(expect.arrayContaining([{ gone: { id: 1 } }, { id: 2, name: 'Hopper' }]))
  })

  it('takes frames changed by every transform', async () => {
    const from = dataframe({ id: [1, 2, 3], name: ['Ada', 'Grace', 'Joan'] })
      .filter(({ id }) => id !== 2)
      .flatMap((row) => [row, { ...row, id: row.id * 10 }])
      .enrich((rows) => rows.map((row) => ({ ...row, length: row.name.length })), { batchSize: 2 })
      .map(({ id, length }) => ({ id, length: length.toFixed() }))
      .limit(3)
    const rows: { id: number; length: string }[] = []
    for await (const row of source(from)) rows.push(row)
    expect(rows).toEqual([
      { id: 1, length: '3' },
      { id: 10, length: '3' },
      { id: 3, length: '4' },
    ])
  })
})
