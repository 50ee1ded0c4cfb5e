import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { ConfigError, SourceError } from '../../src/errors.js'
import { Encodable, sourceOf } from '../../src/source.js'
import { duckdb } from '../../src/sources/duckdb.js'
import { Instant } from '../../src/values.js'
import { batchesOf, readAll, readAtOnce, readInChild, reading, readOne } from './reading.js'

const folder = mkdtempSync(join(tmpdir(), 'spillway-test-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** Makes a database file in which these statements were run. */
async function database(name: string, ...statements: string[]): Promise<string> {
  const path = join(folder, name)
  const instance = await DuckDBInstance.create(path)
  const connection = await instance.connect()
  for (const statement of statements) await connection.run(statement)
  connection.closeSync()
  instance.closeSync()
  return path
}

describe('values', () => {
  it('keep what each type says', async () => {
    const row = await readOne(
      duckdb({
        query: `select true as yes, false as no,
          (-128)::tinyint as tiny, 255::utinyint as utiny, (-32768)::smallint as small, 65535::usmallint as usmall,
          (-2147483648)::integer as int, 4294967295::uinteger as uint,
          (-9223372036854775808)::bigint as big, 18446744073709551615::ubigint as ubig,
          (-170141183460469231731687303715884105728)::hugeint as huge, 340282366920938463463374607431768211455::uhugeint as uhuge,
          '123456789012345678901234567890123456789012345678901234567890'::bignum as num,
          0.1::float as f32, 0.1::double as f64, 'nan'::double as nan, 'infinity'::double as inf,
          date '2026-01-31' as day, time '01:02:03.45' as clock, '01:02:03+05:30'::timetz as zoned_clock,
          interval '1 year 2 months 3 days 04:05:06.7' as span, '5f2b9c1e-0000-4000-8000-00000000000a'::uuid as id,
          'b'::enum('a', 'b') as choice, '10110'::bit as bits, '' as empty, 'naïve 🦆 text that is not kept in place' as text`,
      }),
    )
    expect(row).toStrictEqual({
      ...{ yes: true, no: false },
      ...{ tiny: -128, utiny: 255, small: -32768, usmall: 65535, int: -2147483648, uint: 4294967295 },
      ...{ big: -(2n ** 63n), ubig: 2n ** 64n - 1n, huge: -(2n ** 127n), uhuge: 2n ** 128n - 1n },
      num: 123456789012345678901234567890123456789012345678901234567890n,
      ...{ f32: 0.1, f64: 0.1, nan: Number.NaN, inf: Number.POSITIVE_INFINITY },
      ...{ day: '2026-01-31', clock: '01:02:03.45', zoned_clock: '01:02:03+05:30' },
      ...{ span: '1 year 2 months 3 days 04:05:06.7', id: '5f2b9c1e-0000-4000-8000-00000000000a' },
      ...{ choice: 'b', bits: '10110', empty: '', text: 'naïve 🦆 text that is not kept in place' },
    })
  })

  it('are exact decimals in every width', async () => {
    const row = await readOne(
      duckdb({
        query: `select (-0.05)::decimal(4,2) as a, 1234567.89::decimal(9,2) as b, (-0.000001)::decimal(18,6) as c,
          (-12345678901234567890123456789.123456789)::decimal(38,9) as d, 7::decimal(10,0) as e, 0::decimal(3,3) as f`,
      }),
    )
    const wide = '-12345678901234567890123456789.123456789'
    expect(row).toStrictEqual({ a: '-0.05', b: '1234567.89', c: '-0.000001', d: wide, e: '7', f: '0.000' })
  })

  it('are timestamps without a zone as text and instants with their microseconds', async () => {
    const row = await readOne(
      duckdb({
        query: `select timestamp '2026-03-08 02:30:00.123456' as us, timestamp '1969-12-31 23:59:59.999999' as early,
          timestamp_s '2026-01-01 00:00:00' as s, timestamp_ms '2026-01-01 00:00:00.120' as ms,
          timestamp_ns '2026-01-01 00:00:00.123456789' as ns, timestamptz '2026-01-01 00:00:00.123456+05:30' as tz,
          timestamptz '1969-12-31 23:59:59.999999Z' as early_tz, timestamptz '2026-01-01 00:00:00Z' as plain`,
      }),
    )
    expect(row).toStrictEqual({
      ...{ us: '2026-03-08T02:30:00.123456', early: '1969-12-31T23:59:59.999999' },
      ...{ s: '2026-01-01T00:00:00', ms: '2026-01-01T00:00:00.12', ns: '2026-01-01T00:00:00.123456789' },
      tz: Instant.of('2025-12-31T18:30:00.123456Z'),
      early_tz: Instant.of('1969-12-31T23:59:59.999999Z'),
      plain: new Date('2026-01-01T00:00:00Z'),
    })
    expect(row['tz'].toISOString()).toBe('2025-12-31T18:30:00.123456Z')
    expect(row['early_tz'].toISOString()).toBe('1969-12-31T23:59:59.999999Z')
  })

  it('are text where no number of days or Date could hold them', async () => {
    const row = await readOne(
      duckdb({
        query: `select 'infinity'::date as d1, '-infinity'::date as d2, 'infinity'::timestamp as t1, '-infinity'::timestamp as t2,
          'infinity'::timestamptz as z1, '-infinity'::timestamptz as z2, '0044-03-15 (BC)'::date as ides,
          date '5881580-07-10' as last, timestamptz '294246-01-01 00:00:00Z' as late`,
      }),
    )
    expect(row).toStrictEqual({
      ...{ d1: 'infinity', d2: '-infinity', t1: 'infinity', t2: '-infinity', z1: 'infinity', z2: '-infinity' },
      ...{ ides: '0044-03-15 (BC)', last: '5881580-07-10', late: '294246-01-01T00:00:00Z' },
    })
  })

  it('are null when null, in every type', async () => {
    const types = [
      'boolean',
      'integer',
      'bigint',
      'hugeint',
      'double',
      'decimal(9,2)',
      'varchar',
      'blob',
      'date',
      'timestamp',
    ]
    types.push(
      'timestamptz',
      'time',
      'interval',
      'uuid',
      "enum('a')",
      'json',
      'integer[]',
      'integer[2]',
      'struct(a int)',
    )
    types.push('map(varchar, int)', 'union(a int)', 'bignum', 'float', 'bit', 'timetz')
    const row = await readOne(duckdb({ query: `select ${types.map((type, i) => `null::${type} as c${i}`)}` }))
    expect(row).toStrictEqual(Object.fromEntries(types.map((_, i) => [`c${i}`, null])))
  })

  it('are bytes for blobs, short and long', async () => {
    const query = String.raw`select ''::blob as none, '\x00\xFF'::blob as short, repeat('ab', 20)::blob as long`
    expect(await readOne(duckdb({ query }))).toStrictEqual({
      none: new Uint8Array(),
      short: new Uint8Array([0, 255]),
      long: new Uint8Array(Buffer.from('ab'.repeat(20))),
    })
  })

  it('are arrays and objects for nested types, with the same values inside', async () => {
    const row = await readOne(
      duckdb({
        query: `select [1::bigint, null] as list, []::int[] as none, [[1], [], null] as lists, ['a', 'b']::varchar[2] as pair,
          {'day': date '2026-01-31', 'price': 1.50::decimal(5,2), 'in': {'x': null::int}} as struct, row(1, 'x') as tuple,
          map {'a': 1, 'b': null} as map, map {1: 'one'} as counted, map {[1]: 'x'} as odd,
          union_value(n := 2)::union(n int, s varchar) as union, [{'j': '{"a":1}'::json}] as deep`,
      }),
    )
    expect(row).toStrictEqual({
      ...{ list: [1n, null], none: [], lists: [[1], [], null], pair: ['a', 'b'] },
      ...{ struct: { day: '2026-01-31', price: '1.50', in: { x: null } }, tuple: [1, 'x'] },
      ...{ map: { a: 1, b: null }, counted: { 1: 'one' }, odd: [{ key: [1], value: 'x' }] },
      ...{ union: { n: 2 }, deep: [{ j: { a: 1 } }] },
    })
  })

  it('are parsed json, in which large integers stay exact', async () => {
    const text =
      '{"id": 12345678901234567890, "neg": -9007199254740993, "in": ["12345678901234567890", 1.5e3, 0.1], "$": 1, "t": "\\"9999999999999999,1\\""}'
    const row = await readOne(duckdb({ query: `select '${text}'::json as j, 'null'::json as n, '"x"'::json as s` }))
    expect(row).toStrictEqual({
      j: {
        id: 12345678901234567890n,
        neg: -9007199254740993n,
        in: ['12345678901234567890', 1500, 0.1],
        $: 1,
        t: '"9999999999999999,1"',
      },
      n: null,
      s: 'x',
    })
  })

  it('agree with what DuckDB itself writes, for thousands of each', async () => {
    const { rows } = await readAll(
      duckdb({
        query: `with made as (
            select date '1970-01-01' + ((x - 0.5) * 5000000)::int as day, md5(n::varchar)::uuid as id, x::float as real,
              ((x - 0.5) * 1e18)::bigint as number, (x * 2e9 - 1e9)::decimal(18, 5) as price
            from (select n, hash(n) / 18446744073709551615 as x from range(20000) r(n))
          ), typed as (
            select day, make_timestamp(number) as us, make_timestamp_ns(number) as ns, id, price, real, number::hugeint * number as huge
            from made
          )
          select *, [day::varchar, us::varchar, ns::varchar, id::varchar, price::varchar, real::varchar, huge::varchar] as texts from typed`,
      }),
    )
    expect(rows).toHaveLength(20_000)
    for (const { texts, real, ...row } of rows) {
      const [day, us, ns, id, price, float, huge] = texts.map((text: string) => text.replace(/ (?=\d\d:)/, 'T'))
      expect(row).toStrictEqual({ day, us, ns, id, price, huge: BigInt(huge) })
      expect(Math.fround(real)).toBe(Math.fround(float)) // DuckDB does not always write the shortest of the texts of a float
    }
  })

  it('of usual types are written for the stage and for a comparison by DuckDB itself, and others not', async () => {
    const written = async (query: string) => {
      const source = duckdb({ query })
      const { encodable } = sourceOf(source, 'test')
      const batches: unknown[] = []
      for await (const batch of encodable!(reading())) batches.push(batch)
      const atOnce = await readAtOnce(source, (await readAll(source)).columns)
      return [batches.every((batch) => batch instanceof Encodable), atOnce?.written]
    }
    const usual = `true, 1::tinyint, 1::usmallint, 1, 1::bigint, 1::ubigint, 'nan'::double, 0.5::decimal(9,2), 'a',
      date '2026-01-31', time '01:02:03', timestamp '2026-01-31 01:02:03', timestamptz '2026-01-31 01:02:03Z', '\\x00'::blob, 'be0fac70-2dc4-43b6-8044-63f26c659bcf'::uuid, 'b'::enum('b')`
    expect(await written(`from (values (${usual}))`)).toEqual([true, true])
    // Parquet has none of 128 bits
    expect(await written('select 1, 1::hugeint')).toEqual([true, undefined])
    for (const other of ["'{}'::json", '0.1::float', '0.5::decimal(2,2)'])
      expect(await written(`select 1, ${other} as other`)).toEqual([false, false])
    for (const other of ['[1]', "{'a': 1}", "interval '1 day'"])
      expect(await written(`select 1, ${other} as other`)).toEqual([false, undefined])
    // an object with this column is kept within another
    expect(await written('select 1 as "$"')).toEqual([true, false])
  })

  it('are rows whatever their columns are called', async () => {
    const { rows } = await readAll(
      duckdb({ query: `select 'k' as k, 1 as "__proto__", 2 as "2", 3 as "1", 4 as "it's", 5 as "a""b", 6 as "é$"` }),
    )
    expect(Object.entries(rows[0]!)).toEqual([
      ['1', 3],
      ['2', 2],
      ['k', 'k'],
      ['__proto__', 1],
      ["it's", 4],
      ['a"b', 5],
      ['é$', 6],
    ])
  })

  it('of any time are the same when DuckDB writes them', async () => {
    const day = 86_400_000_000
    const { rows } = await readAll(
      duckdb({
        query: `select make_timestamp(us) as t, make_timestamp(us)::timestamp_s as s, make_timestamp(us)::timestamp_ms as ms, timezone('UTC', make_timestamp(us)) as z,
            make_timestamp(us)::date as d, make_timestamp(us)::time as c, make_timestamp_ns(us) as ns, (us / 7)::decimal(24, 5) as price, us / 3e5 as x
          from (select (hash(n) % ${18_000n * 366n * BigInt(day)})::bigint - ${9_000 * 366 * day} as us from range(5000) r(n)
            union all select unnest([0, 1, -1, 10, 1000, 999999, ${-62_135_596_800_000_000n}, ${-62_135_596_800_000_001n}, ${-62_167_219_200_000_000n}, ${-62_167_219_200_000_001n},
              ${253_402_300_800_000_000n}, ${253_402_300_799_999_999n}, 8640000000000000000, 8640000000000000001, -8640000000000000000, -8640000000000000001]::bigint[]))`,
      }),
    )
    expect(rows).toHaveLength(5016)
  })

  it('of any size are the same when DuckDB writes them', async () => {
    const { rows } = await readAll(
      duckdb({
        query: `select 1 as id, x from (
            select unnest([1e-6, 1.5e-6, 1e-7, 1e20, 1e21, 9.99e20, 123e18, 5e-324, 1.7976931348623157e308, -0.0, 0, 'inf', '-inf', 'nan', null]::double[]) as x
            union all select (hash(n) / 18446744073709551615 - 0.5) * pow(10.0, n % 60 - 30) from range(6000) r(n)
            union all select round((hash(n) / 18446744073709551615 - 0.5) * pow(10.0, n % 24)) from range(4000) r(n))`,
      }),
    )
    expect(rows).toHaveLength(10_015)
    const wide = `(hash(n) % 36893488147419)::bigint::hugeint - 18446744073709`
    const huge = await readAll(duckdb({ query: `select (${wide}) * (${wide}) * n as huge from range(5000) r(n)` }))
    expect(huge.rows).toHaveLength(5_000)
  })

  it('are whole texts, short and long, of any script, between nulls, across chunks', async () => {
    const { rows } = await readAll(
      duckdb({
        query: `select s, hex(encode(s)) as bytes from (
            select case when i % 7 = 0 then null
              when i % 5 = 0 then repeat('é🦆', (i % 11)::int)
              when i % 3 = 0 then repeat('x', (i % 15)::int) || i
              else 'a longer text with number ' || i end as s
            from range(10000) as r(i)) order by hash(s)`,
      }),
    )
    expect(rows).toHaveLength(10_000)
    for (const { s, bytes } of rows) expect(s).toBe(bytes === null ? null : Buffer.from(bytes, 'hex').toString())
  })
})

describe('a read', () => {
  it('gives rows of a database file, and tells their columns', async () => {
    const path = await database(
      'orders.db',
      `create table orders as select 1 as id, 9.90::decimal(5,2) as total, '[]'::json as lines`,
    )
    const { rows, columns } = await readAll(duckdb({ path, query: 'from orders' }))
    expect(rows).toEqual([{ id: 1, total: '9.90', lines: [] }])
    expect(columns).toEqual([
      { name: 'id', type: 'integer', nullable: true },
      { name: 'total', type: 'decimal', nullable: true },
      { name: 'lines', type: 'json', nullable: true },
    ])
  })

  it('takes a path relative to the working directory', async () => {
    const path = relative(process.cwd(), await database('here.db', 'create table t as select 1 as id'))
    expect((await readAll(duckdb({ path, query: 'from t' }))).rows).toEqual([{ id: 1 }])
  })

  it.each(['parquet', 'csv', 'json'])('reads %s files without a database', async (format) => {
    const file = join(folder, `people.${format}`)
    await database(`${format}.db`, `copy (select 1 as id, 'Ada' as name) to '${file}'`)
    expect(Object.values((await readAll(duckdb({ query: `from '${file}'` }))).rows[0]!).map(String)).toEqual([
      '1',
      'Ada',
    ])
  })

  it('tells the columns of a result without rows', async () => {
    const { rows, columns } = await readAll(duckdb({ query: 'select 1 as id where false' }))
    expect(rows).toEqual([])
    expect(columns.map(({ name }) => name)).toEqual(['id'])
  })

  it('keeps the order of the query over many chunks', async () => {
    const { rows } = await readAll(duckdb({ query: 'from range(100000) as r(i) order by i desc' }))
    expect(rows.map(({ i }) => i)).toEqual(Array.from({ length: 100_000 }, (_, i) => BigInt(99_999 - i)))
  })

  it('can be made again from the same source', async () => {
    const source = duckdb({ query: 'select 1 as id' })
    expect(await readAll(source)).toEqual(await readAll(source))
  })

  it('has a column of any name', async () => {
    const row = await readOne(duckdb({ query: `select 1 as "__proto__", 2 as "constructor", 3 as "a ""b"""` }))
    expect(Object.entries(row)).toEqual([
      ['__proto__', 1],
      ['constructor', 2],
      ['a "b"', 3],
    ])
  })

  it('ends the query with a comment or a semicolon without harm', async () => {
    expect((await readAll(duckdb({ query: 'select 1 as id -- one\n;\n' }), { cursor: 'id' })).rows).toEqual([{ id: 1 }])
    expect((await readAll(duckdb({ query: 'select 1 as id -- one' }), { cursor: 'id' })).rows).toEqual([{ id: 1 }])
  })

  it('runs in UTC and shifts nothing, whatever the time zone of the machine', async () => {
    const query = `select timestamp '2026-03-08 02:30:00' as gap, date '2026-03-08' as day, timestamptz '2026-03-08 07:30:00Z' as at,
      (timestamptz '2026-03-08 20:00:00Z')::date as day_of`
    for (const [TZ, minutes] of [
      ['America/New_York', 300],
      ['Asia/Kolkata', -330],
    ] as const) {
      const { last, offset } = await readInChild('duckdb', { query }, { TZ })
      expect(offset).toBe(minutes)
      expect(last).toEqual({
        gap: '2026-03-08T02:30:00',
        day: '2026-03-08',
        at: '2026-03-08T07:30:00.000Z',
        day_of: '2026-03-08',
      })
    }
  })

  it('stays in little memory, however much there is', async () => {
    const query = `select i::int as i, repeat('x', 1000) || i as text from range(1000000) as r(i)`
    const { count, megabytes } = await readInChild('duckdb', { query })
    expect(count).toBe(1_000_000)
    expect(megabytes).toBeLessThan(500)
  })

  it('leaves no folder of temporary files', async () => {
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith('spillway-duckdb'))
    await readAll(duckdb({ query: 'from range(10)' }))
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith('spillway-duckdb'))).toEqual(before)
    expect(existsSync('.tmp')).toBe(false)
  })
})

describe('a read with a cursor', () => {
  const query = `from (values (3, 'c'), (1, 'a'), (null, 'n'), (2, 'b'), (2, 'B')) as t(n, s)`

  it('is in the order of the cursor, rows without a value last', async () => {
    const { rows } = await readAll(duckdb({ query }), { cursor: 'n' })
    expect(rows.map(({ n }) => n)).toEqual([1, 2, 2, 3, null])
  })

  it('begins at the value that it is given, ties and rows without a value included', async () => {
    const { rows } = await readAll(duckdb({ query }), { cursor: 'n', since: 2 })
    expect(rows.map(({ n }) => n)).toEqual([2, 2, 3, null])
  })

  it.each([
    ['bigint', '9007199254740993::bigint', 9007199254740993n, 9007199254740994n],
    ['decimal', '1.10::decimal(38,2)', '1.10', '1.11'],
    ['text', "'b'", 'b', 'c'],
    ['date', "date '2026-01-31'", '2026-01-31', '2026-02-01'],
    ['date by a Date', "date '2026-01-31'", new Date('2026-01-31T00:00:00Z'), new Date('2026-02-01T00:00:00Z')],
    ['timestamp', "timestamp '2026-03-08 02:30:00.123456'", '2026-03-08T02:30:00.123456', '2026-03-08T02:30:00.123457'],
    [
      'instant',
      "timestamptz '2026-03-08 02:30:00.123456Z'",
      Instant.of('2026-03-08T02:30:00.123456Z'),
      Instant.of('2026-03-08T02:30:00.123457Z'),
    ],
    [
      'late instant',
      "timestamptz '10000-01-01 00:00:00Z'",
      new Date('+010000-01-01T00:00:00Z'),
      new Date('+010000-01-01T00:00:01Z'),
    ],
    [
      'uuid',
      "'5f2b9c1e-0000-4000-8000-00000000000a'::uuid",
      '5f2b9c1e-0000-4000-8000-00000000000a',
      '5f2b9c1e-0000-4000-8000-00000000000b',
    ],
  ])('compares a %s as what it is', async (_, value, since, after) => {
    const source = duckdb({ query: `select ${value} as c` })
    expect((await readAll(source, { cursor: 'c', since })).rows).toHaveLength(1)
    expect((await readAll(source, { cursor: 'c', since: after })).rows).toHaveLength(0)
  })

  it('takes back the value that it gave, to the microsecond', async () => {
    const source = duckdb({
      query: `select timestamptz '2026-01-01 00:00:00Z' + to_microseconds(i) as at from range(10) as r(i)`,
    })
    const { rows } = await readAll(source, { cursor: 'at' })
    const { rows: rest } = await readAll(source, { cursor: 'at', since: rows[4]!['at'] })
    expect(rest).toEqual(rows.slice(4))
  })

  it('names the columns when there is none of that name', async () => {
    await expect(readAll(duckdb({ query }), { cursor: 'm', since: 1 })).rejects.toThrow(
      'duckdb: the query gives no column "m" (the cursor); it gives n, s',
    )
  })
})

describe('the end of a read', () => {
  /** Whether another process may write the file, which is so once nothing reads it. */
  function writable(path: string): boolean {
    const program = `import { DuckDBInstance } from '@duckdb/node-api'; await DuckDBInstance.create(${JSON.stringify(path)})`
    try {
      execFileSync(process.execPath, ['--input-type=module', '-e', program], { stdio: 'pipe' })
      return true
    } catch {
      return false
    }
  }

  it('releases the file when all was read, when the reader stopped early, and when it was aborted', async () => {
    const path = await database('big.db', 'create table t as from range(500000) as r(i)')
    const source = duckdb({ path, query: 'from t' })
    await readAll(source)
    expect(writable(path)).toBe(true)

    for await (const _ of batchesOf(source)) {
      expect(writable(path)).toBe(false)
      break
    }
    expect(writable(path)).toBe(true)

    const controller = new AbortController()
    const read = async () => {
      for await (const _ of batchesOf(source, { signal: controller.signal })) controller.abort(new Error('enough'))
    }
    await expect(read()).rejects.toThrow('enough')
    expect(writable(path)).toBe(true)
  })

  it('comes soon after an abort, in a query that is far from its first row', async () => {
    const controller = new AbortController()
    const query = 'select a.i from range(1000000) as a(i), range(1000000) as b(i) where a.i + b.i = -1'
    const read = readAll(duckdb({ query }), { signal: controller.signal })
    setTimeout(() => controller.abort(new Error('stop it')), 200)
    await expect(read).rejects.toThrow('stop it')
  }, 5_000)

  it('comes soon after an abort at the very moment when the query begins', async () => {
    const query = 'select count(*) as n from range(1000000) as a(i), range(1000000) as b(i) where a.i + b.i = -1'
    for (let attempt = 0; attempt < 100; attempt++) {
      const controller = new AbortController()
      const { signal } = controller
      let looks = 0
      // the second look at the signal is the last thing before the query begins
      vi.spyOn(signal, 'throwIfAborted').mockImplementation(() => {
        if (++looks === 2) queueMicrotask(() => controller.abort(new Error('stop it')))
        if (signal.aborted) throw signal.reason
      })
      await expect(readAll(duckdb({ query }), { signal })).rejects.toThrow('stop it')
    }
  })

  it('is at once when the signal was aborted before', async () => {
    const signal = AbortSignal.abort(new Error('never begun'))
    await expect(readAll(duckdb({ query: 'select 1 as id' }), { signal })).rejects.toThrow('never begun')
  })
})

describe('an error', () => {
  const failing = async (options: Parameters<typeof duckdb>[0]): Promise<Error> => {
    const error = await readAll(duckdb(options)).then(
      () => new Error('read to its end'),
      (error) => error,
    )
    expect(error).toBeInstanceOf(SourceError)
    return error
  }

  it('of a query that fails half-way is not taken for the end', async () => {
    const query = `select case when i = 2500000 then error('broken pipe') else i end as i from range(3000000) as r(i)`
    let count = 0
    const read = async () => {
      for await (const rows of batchesOf(duckdb({ query }))) count += rows.length
    }
    await expect(read()).rejects.toThrow('duckdb: Invalid Input Error: broken pipe')
    expect(count).toBeGreaterThan(0)
    expect(count).toBeLessThan(3_000_000)
  })

  it('of a CSV file names the file, the line and the column, and not what stands there', async () => {
    const file = join(folder, 'bad.csv')
    const lines = Array.from({ length: 30_000 }, (_, i) => `${i},n${i}`)
    writeFileSync(file, ['id,name', ...lines, 'ada@example.com,secret'].join('\n'))
    const { message } = await failing({ query: `from read_csv('${file}', sample_size = 100)` })
    expect(message).toBe(`duckdb: CSV Error on Line: 30002: ${file}: Error when converting column "id"`)

    writeFileSync(file, ['id,name', ...lines, '7,"ada\nlovelace",secret'].join('\n'))
    const second = await failing({ query: `from read_csv('${file}', sample_size = 100, quote = '"')` })
    expect(second.message).toBe(`duckdb: CSV Error on Line: 30002: ${file}: Expected Number of Columns: 2 Found: 3`)
  })

  it.each([
    [`select s::int as i from (values ('hush hush')) as t(s)`, 'Conversion Error: Could not convert string … to INT32'],
    [
      `select s::date as d from (values ('hush "quoted" hush')) as t(s)`,
      /^duckdb: Conversion Error: invalid date field format: …/,
    ],
    [
      `select i::tinyint as i from (values (4711)) as t(i)`,
      /Type INT32 with value … can't be cast because the value is out of range/,
    ],
    [
      `select i + 1::int as i from (values (2147483647::int)) as t(i)`,
      'Out of Range Error: Overflow in addition of INT32 …!',
    ],
    [
      `select s::json as j from (values ('{hush')) as t(s)`,
      /^duckdb: Conversion Error: Malformed JSON at byte 1 of input: unexpected character. {2}Input: … when casting/,
    ],
  ])('does not quote values: %s', async (query, expected) => {
    const { message } = await failing({ query })
    expect(message).toMatch(expected)
    expect(message).not.toMatch(/hush|4711|2147483647/)
  })

  it('of a query says where it is wrong', async () => {
    expect((await failing({ query: 'selec 1' })).message).toMatch(
      /^duckdb: Parser Error: syntax error at or near "selec"\n\nLINE 1: selec 1/,
    )
    expect((await failing({ query: 'from nowhere' })).message).toMatch(
      /^duckdb: Catalog Error: Table with name nowhere does not exist!/,
    )
    expect((await failing({ query: "from 'nowhere.parquet'" })).message).toMatch(
      'No files found that match the pattern "nowhere.parquet"',
    )
  })

  it('says that a source only reads', async () => {
    expect((await failing({ query: 'create table t(i int)' })).message).toBe(
      'duckdb: the query is no select (but CREATE); a source only reads',
    )
  })

  it('names a column that comes twice', async () => {
    expect((await failing({ query: 'select 1 as id, 2 as id' })).message).toBe(
      'duckdb: the query gives two columns named "id": rename one with `as`',
    )
  })

  it('of json that is none says what to do', async () => {
    expect((await failing({ query: `select 'NaN'::json as j` })).message).toBe(
      'duckdb: a json column holds what is not JSON, such as NaN: cast it to text in the query',
    )
  })

  it('says who has the file open for writing', async () => {
    const path = await database('busy.db', 'create table t as select 1 as id')
    const program = `import { DuckDBInstance } from '@duckdb/node-api'; const db = await DuckDBInstance.create(${JSON.stringify(path)}); console.log('open'); setInterval(() => db, 1e6)`
    const writer = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(writer.stdout, 'data')
    const { message } = await failing({ path, query: 'from t' })
    expect(message).toMatch(`duckdb: ${path} is open for writing in `)
    expect(message).toMatch(`(PID ${writer.pid}): read it when that process has closed it`)
    writer.kill('SIGKILL')
    await once(writer, 'exit')
    expect((await readAll(duckdb({ path, query: 'from t' }))).rows).toEqual([{ id: 1 }])
  })

  it('says what is wrong with the file', async () => {
    const missing = join(folder, 'missing.db')
    expect((await failing({ path: missing, query: 'select 1 as id' })).message).toBe(
      `duckdb: cannot open ${missing}: IO Error: Cannot open database "${missing}" in read-only mode: database does not exist`,
    )
    const csv = join(folder, 'plain.csv')
    writeFileSync(csv, 'id\n1\n')
    expect((await failing({ path: csv, query: 'select 1 as id' })).message).toMatch(
      `duckdb: ${csv} is no database file: leave out \`path\` and read it in the query, as in from '${csv}'`,
    )
    const foreign = join(folder, 'foreign.db')
    writeFileSync(foreign, 'x'.repeat(10_000))
    expect((await failing({ path: foreign, query: 'select 1 as id' })).message).toMatch(
      /^duckdb: cannot open .*not a valid DuckDB database file/,
    )
  })

  it('of an empty query comes when the source is made', () => {
    expect(() => duckdb({ query: ' ; ' })).toThrow(new ConfigError('duckdb: `query` is empty: write a select'))
  })
})

describe('`record`', () => {
  const record = z.object({ id: z.int(), day: z.iso.date().transform((day) => day.slice(0, 4)) })

  it('makes the rows', async () => {
    const source = duckdb({ query: `select 7 as id, date '2026-01-31' as day, 'more' as other`, record })
    expect((await readAll(source)).rows).toEqual([{ id: 7, day: '2026' }])
  })

  it('stops the read at a row that does not fit, and says which, why and nothing of the value', async () => {
    const query = `select case when i = 4999 then 'hush' else i::varchar end as id from range(9000) as r(i)`
    const read = readAll(duckdb({ query, record: z.object({ id: z.string().regex(/^\d+$/, 'must be digits') }) }))
    await expect(read).rejects.toThrow(new SourceError('duckdb: row 5000 does not fit `record`: id: must be digits'))
  })

  it('may be checked asynchronously', async () => {
    const slow = z.object({ id: z.int().refine(async (id) => id !== 2, 'is taken') })
    const source = duckdb({ query: 'select i::int as id from range(5) as r(i)', record: slow })
    await expect(readAll(source)).rejects.toThrow('duckdb: row 3 does not fit `record`: id: is taken')
  })
})
