import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { secret } from '../../src/config.js'
import { ConfigError, SourceError } from '../../src/errors.js'
import { type PostgresOptions, postgres } from '../../src/sources/postgres.js'
import { Instant } from '../../src/values.js'
import { type Postgres, startPostgres } from '../support/postgres.js'
import { batchesOf, readAll, readInChild, readOne } from './reading.js'

let server: Postgres
let url: string
let db: pg.Client

beforeAll(async () => {
  server = await startPostgres()
  url = server.url
  db = new pg.Client(url)
  await db.connect()
}, 60_000)

afterAll(async () => {
  await db?.end()
  await server?.stop()
})

/** How many connections of sources there are. */
async function connections(): Promise<number> {
  const { rows } = await db.query(`select count(*)::int as n from pg_stat_activity where application_name = 'spillway'`)
  return rows[0].n
}

/** Waits until the server works on this query. */
async function untilRunning(query: string): Promise<void> {
  const running = { text: `select from pg_stat_activity where query = $1 and state = 'active'`, values: [query] }
  while ((await db.query(running)).rowCount === 0) await db.query('select pg_sleep(0.01)')
}

/** Waits, on the server, until no source has a connection: the server notices a moment later than the client. */
async function untilNoConnection(): Promise<void> {
  while ((await connections()) > 0) await db.query('select pg_sleep(0.01)')
}

describe('values', () => {
  const query = `select true as yes, false as no, (-32768)::int2 as i2, 2147483647::int4 as i4, 9223372036854775807::int8 as i8,
    (-0.050)::numeric as price, 12345678901234567890.123456789::numeric as wide, 'NaN'::numeric as no_number,
    0.1::float4 as f4, 0.1::float8 as f8, 0.30000000000000004::float8 as odd, 5e-324::float8 as tiny, 'NaN'::float8 as nan, '-Infinity'::float8 as inf,
    date '2026-01-31' as day, timestamp '2026-03-08 02:30:00.123456' as at, timestamp '2026-01-01 00:00:00' as plain_at,
    timestamptz '2026-01-01 00:00:00.123456+05:30' as instant, timestamptz '2026-01-01 00:00:00Z' as plain_instant,
    time '01:02:03.45' as clock, timetz '01:02:03+05:30' as zoned_clock, interval '1 year 2 months 3 days 04:05:06.7' as span,
    '\\xDEAD00'::bytea as bytes, ''::bytea as no_bytes, '' as empty, 'naïve 🦆' as text, 'x'::char(3) as padded,
    '5f2b9c1e-0000-4000-8000-00000000000a'::uuid as id, '192.168.0.1/24'::inet as address, int4range(1, 5) as range,
    '{"a": [1, null]}'::json as json, '{"a": {"b": "c"}}'::jsonb as jsonb, 'null'::jsonb as json_null`
  const expected = {
    ...{ yes: true, no: false, i2: -32768, i4: 2147483647, i8: 9223372036854775807n },
    ...{ price: '-0.050', wide: '12345678901234567890.123456789', no_number: 'NaN' },
    ...{ f4: 0.1, f8: 0.1, odd: 0.30000000000000004, tiny: 5e-324, nan: Number.NaN, inf: Number.NEGATIVE_INFINITY },
    ...{ day: '2026-01-31', at: '2026-03-08T02:30:00.123456', plain_at: '2026-01-01T00:00:00' },
    ...{ instant: Instant.of('2025-12-31T18:30:00.123456Z'), plain_instant: new Date('2026-01-01T00:00:00Z') },
    ...{ clock: '01:02:03.45', zoned_clock: '01:02:03+05:30', span: '1 year 2 mons 3 days 04:05:06.7' },
    ...{
      bytes: new Uint8Array([0xde, 0xad, 0]),
      no_bytes: new Uint8Array(),
      empty: '',
      text: 'naïve 🦆',
      padded: 'x  ',
    },
    ...{ id: '5f2b9c1e-0000-4000-8000-00000000000a', address: '192.168.0.1/24', range: '[1,5)' },
    ...{ json: { a: [1, null] }, jsonb: { a: { b: 'c' } }, json_null: null },
  }

  it('keep what each type says', async () => {
    const row = await readOne(postgres({ url, query }))
    expect(row).toStrictEqual(expected)
    expect(row['instant'].toISOString()).toBe('2025-12-31T18:30:00.123456Z')
  })

  it('are the same however the server is configured', async () => {
    await db.query(`create role odd superuser login password 'odd';
      alter role odd set datestyle = 'German, DMY'; alter role odd set timezone = 'America/New_York';
      alter role odd set intervalstyle = 'iso_8601'; alter role odd set bytea_output = 'escape'; alter role odd set extra_float_digits = -5`)
    const odd = Object.assign(new URL(url), { username: 'odd', password: 'odd' }).href
    expect(await readOne(postgres({ url: odd, query }))).toStrictEqual(expected)
  })

  it('do not depend on parsers that the program has set for all queries, and leave them alone', async () => {
    const parser = (text: string) => `own ${text}`
    const before = pg.types.getTypeParser(20)
    pg.types.setTypeParser(20, parser)
    try {
      expect(await readOne(postgres({ url, query: 'select 7::int8 as n, array[7::int8] as list' }))).toEqual({
        n: 7n,
        list: [7n],
      })
      expect(pg.types.getTypeParser(20)).toBe(parser)
    } finally {
      pg.types.setTypeParser(20, before)
    }
  })

  it('are null when null, in every type', async () => {
    const types = [
      'bool',
      'int4',
      'int8',
      'numeric',
      'float8',
      'text',
      'bytea',
      'date',
      'timestamp',
      'timestamptz',
      'json',
    ]
    types.push('jsonb', 'int4[]', 'uuid', 'interval')
    const row = await readOne(postgres({ url, query: `select ${types.map((type, i) => `null::${type} as c${i}`)}` }))
    expect(row).toStrictEqual(Object.fromEntries(types.map((_, i) => [`c${i}`, null])))
  })

  it('are text where no Date could hold them, and right in the first century and beyond the year 9999', async () => {
    const row = await readOne(
      postgres({
        url,
        query: `select 'infinity'::date as d, '-infinity'::timestamp as t, 'infinity'::timestamptz as z, '0044-03-15 BC'::date as ides,
          timestamp '0044-03-15 12:00:00 BC' as noon, timestamptz '0044-03-15 12:00:00Z BC' as old, timestamptz '0001-01-01 00:00:00Z' as one,
          timestamptz '10000-01-01 00:00:00.5Z' as far, timestamptz '294276-01-01 00:00:00Z' as farthest, timestamptz '1883-01-01 00:00:00Z' as early`,
      }),
    )
    expect(row).toStrictEqual({
      ...{ d: 'infinity', t: '-infinity', z: 'infinity', ides: '0044-03-15 BC', noon: '0044-03-15T12:00:00 BC' },
      ...{ old: new Date('-000043-03-15T12:00:00Z'), one: new Date('0001-01-01T00:00:00Z') },
      ...{
        far: new Date('+010000-01-01T00:00:00.5Z'),
        farthest: '294276-01-01 00:00:00+00',
        early: new Date('1883-01-01T00:00:00Z'),
      },
    })
  })

  it('are arrays of the same values', async () => {
    await db.query(`create type mood as enum ('fine', 'so, so'); create domain price as numeric(9,2); create domain deal as price;
      create domain small as int4; create domain smaller as small;
      create type pair as (a int, b text)`)
    const row = await readOne(
      postgres({
        url,
        query: `select array[1, null]::int8[] as bigs, '{}'::int4[] as none, array[[1,2],[3,4]] as matrix,
          array['a b', 'c,d', '{e}', 'f"g', 'h\\i', 'NULL', null, '', 'naïve 🦆'] as texts, array['so, so', 'fine']::mood[] as moods,
          array[1.5]::price[] as prices, array[2.5]::deal[] as deals, array[3]::smaller[] as smalls, 'fine'::mood as mood, 1.5::price as price, 2.5::deal as deal,
          array['2026-01-01 00:00:00.000001Z']::timestamptz[] as instants, array['2026-01-01 02:30']::timestamp[] as times,
          array['{"a": "}"}']::jsonb[] as jsons, array['\\x00ff']::bytea[] as bytes, array[true, false] as flags,
          '[0:1]={7,8}'::int4[] as bounds, array['(1,2),(3,4)', '(5,6),(7,8)']::box[] as boxes, '1 2 3'::int2vector as vector,
          array[(1, 'x')]::pair[] as pairs, array[0.1]::float4[] as floats`,
      }),
    )
    expect(row).toStrictEqual({
      ...{
        bigs: [1n, null],
        none: [],
        matrix: [
          [1, 2],
          [3, 4],
        ],
      },
      ...{ texts: ['a b', 'c,d', '{e}', 'f"g', 'h\\i', 'NULL', null, '', 'naïve 🦆'], moods: ['so, so', 'fine'] },
      ...{ prices: ['1.50'], deals: ['2.50'], smalls: [3], mood: 'fine', price: '1.50', deal: '2.50' },
      ...{ instants: [Instant.of('2026-01-01T00:00:00.000001Z')], times: ['2026-01-01T02:30:00'] },
      ...{ jsons: [{ a: '}' }], bytes: [new Uint8Array([0, 255])], flags: [true, false] },
      ...{ bounds: [7, 8], boxes: ['(3,4),(1,2)', '(7,8),(5,6)'], vector: '1 2 3', pairs: '{"(1,x)"}', floats: [0.1] },
    })
  })

  it('are json in which large integers stay exact', async () => {
    const json =
      '{"id": 12345678901234567890, "in": ["12345678901234567890", -9007199254740993, 1.5e3], "$": "\\"9999999999999999,1\\""}'
    expect(
      await readOne(postgres({ url, query: 'select $1::jsonb as b, $1::json as j', params: [json] })),
    ).toStrictEqual(
      Object.fromEntries(
        ['b', 'j'].map((name) => [
          name,
          {
            id: 12345678901234567890n,
            in: ['12345678901234567890', -9007199254740993n, 1500],
            $: '"9999999999999999,1"',
          },
        ]),
      ),
    )
  })

  it('are told as columns', async () => {
    const { columns, rows } = await readAll(
      postgres({
        url,
        query: `select 1 as i, 1::int8 as b, 1.5 as d, 1::float8 as f, now() as t, 'x' as s, '{}'::jsonb as j, array[1] as a where false`,
      }),
    )
    expect(rows).toEqual([])
    expect(columns.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'i integer',
      'b bigint',
      'd decimal',
      'f double',
      't instant',
      's text',
      'j json',
      'a json',
    ])
  })
})

describe('a read', () => {
  beforeAll(async () => {
    await db.query(`create schema sales; create table sales."2026 orders.old" as select 1 as id;
      create table numbers as select i as n, repeat('x', 100) || i as text from generate_series(1, 25000) i`)
  })

  it('gives a whole table, whatever its name', async () => {
    expect(await readOne(postgres({ url, table: 'sales."2026 orders.old"' }))).toEqual({ id: 1 })
    expect((await readAll(postgres({ url, table: 'public.numbers' }))).rows).toHaveLength(25_000)
    await db.query('create table "Mixed" as select 2 as id')
    expect(await readOne(postgres({ url, table: 'Mixed' }))).toEqual({ id: 2 })
  })

  it('passes parameters', async () => {
    const source = postgres({
      url,
      query: 'select $1::text as a, $2::int8 as b, $3::bytea as c',
      params: ["x' --", 2n ** 60n, new Uint8Array([1])],
    })
    expect(await readOne(source)).toEqual({ a: "x' --", b: 2n ** 60n, c: new Uint8Array([1]) })
  })

  it('has a column of any name', async () => {
    const row = await readOne(postgres({ url, query: `select 1 as "__proto__", 2 as "constructor", 3 as "a ""b"""` }))
    expect(Object.entries(row)).toEqual([
      ['__proto__', 1],
      ['constructor', 2],
      ['a "b"', 3],
    ])
  })

  it('can be made again from the same source', async () => {
    const source = postgres({ url, query: 'select 1 as id' })
    expect(await readAll(source)).toEqual(await readAll(source))
  })

  it('comes 1,000 rows at a time, none lost and none twice', async () => {
    const sizes: number[] = []
    const seen: number[] = []
    for await (const rows of batchesOf(postgres({ url, query: 'select n from numbers where n <= 3000 order by n' }))) {
      sizes.push(rows.length)
      seen.push(...rows.map(({ n }) => n))
    }
    expect(sizes).toEqual([1000, 1000, 1000])
    expect(seen).toEqual(Array.from({ length: 3000 }, (_, i) => i + 1))
  })

  it('sees the database as it was at its start', async () => {
    const seen: number[] = []
    for await (const rows of batchesOf(postgres({ url, query: 'select n from numbers order by n' }))) {
      if (seen.length === 0) await db.query('delete from numbers where n > 20000; insert into numbers values (0)')
      seen.push(...rows.map(({ n }) => n))
    }
    expect(seen).toEqual(Array.from({ length: 25_000 }, (_, i) => i + 1))
  })

  it('runs in UTC and shifts nothing, whatever the time zone of the machine', async () => {
    const query = `select timestamp '2026-03-08 02:30:00' as gap, date '2026-03-08' as day, timestamptz '2026-03-08 07:30:00Z' as at,
      (timestamptz '2026-03-08 20:00:00Z')::date as day_of, array[timestamp '2026-03-08 02:30:00'] as gaps`
    for (const [TZ, minutes] of [
      ['America/New_York', 300],
      ['Asia/Kolkata', -330],
    ] as const) {
      const { last, offset } = await readInChild('postgres', { url, query }, { TZ })
      expect(offset).toBe(minutes)
      expect(last).toEqual({
        ...{ gap: '2026-03-08T02:30:00', day: '2026-03-08', at: '2026-03-08T07:30:00.000Z', day_of: '2026-03-08' },
        gaps: ['2026-03-08T02:30:00'],
      })
    }
  })

  it('stays in little memory, however much there is', async () => {
    const query = `select i, repeat('x', 1000) || i as text from generate_series(1, 500000) i`
    const { count, megabytes } = await readInChild('postgres', { url, query })
    expect(count).toBe(500_000)
    expect(megabytes).toBeLessThan(250)
  })
})

describe('a read with a cursor', () => {
  const query = `select * from (values (3, 'c'), (1, 'a'), (null, 'n'), (2, 'b'), (2, 'B')) as t(n, s) -- all of them`

  it('is in the order of the cursor, rows without a value last', async () => {
    const { rows } = await readAll(postgres({ url, query: `${query}\n;` }), { cursor: 'n' })
    expect(rows.map(({ n }) => n)).toEqual([1, 2, 2, 3, null])
  })

  it('begins at the value that it is given, ties and rows without a value included', async () => {
    const { rows } = await readAll(postgres({ url, query }), { cursor: 'n', since: 2 })
    expect(rows.map(({ n }) => n)).toEqual([2, 2, 3, null])
  })

  it('goes with parameters of the query', async () => {
    const source = postgres({
      url,
      query: `select * from generate_series(1, $1::int) as n where n <> $2`,
      params: [5, 4],
    })
    expect((await readAll(source, { cursor: 'n', since: 3n })).rows).toEqual([{ n: 3 }, { n: 5 }])
  })

  it.each([
    ['bigint', '9007199254740993::int8', 9007199254740993n, 9007199254740994n],
    ['numeric', '1.10::numeric', '1.10', '1.11'],
    ['text', "'b'::text", 'b', 'c'],
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
    const source = postgres({ url, query: `select ${value} as c` })
    expect((await readAll(source, { cursor: 'c', since })).rows).toHaveLength(1)
    expect((await readAll(source, { cursor: 'c', since: after })).rows).toHaveLength(0)
  })

  it('takes back the value that it gave, to the microsecond', async () => {
    const source = postgres({
      url,
      query: `select timestamptz '2026-01-01Z' + i * interval '1 us' as at from generate_series(0, 9) as i`,
    })
    const { rows } = await readAll(source, { cursor: 'at' })
    const { rows: rest } = await readAll(source, { cursor: 'at', since: rows[4]!['at'] })
    expect(rest).toEqual(rows.slice(4))
  })

  it('says so when there is no such column', async () => {
    await expect(readAll(postgres({ url, query }), { cursor: 'm' })).rejects.toThrow(
      /column "m" does not exist \(42703\)/,
    )
  })
})

describe('the end of a read', () => {
  const endless = 'select count(*) from generate_series(1, 100000) a, generate_series(1, 1000000) b'
  const long = 'select * from generate_series(1, 1000000) as n'
  afterEach(untilNoConnection)

  it('closes the connection when all was read', async () => {
    await readAll(postgres({ url, query: 'select 1 as id' }))
  })

  it('closes the connection when the reader stops early', async () => {
    for await (const rows of batchesOf(postgres({ url, query: long }))) {
      expect(rows).toHaveLength(1000)
      expect(await connections()).toBe(1)
      break
    }
  })

  it('closes the connection when the reader stops early and the next rows are long in coming', async () => {
    const query = 'select n, case when n > 1000 then pg_sleep(60) end as slow from generate_series(1, 2000) as n'
    for await (const _ of batchesOf(postgres({ url, query }))) break
  }, 5_000)

  it('comes soon after an abort, and ends the query on the server too', async () => {
    const controller = new AbortController()
    const read = readAll(postgres({ url, query: endless }), { signal: controller.signal })
    await untilRunning(endless)
    controller.abort(new Error('stop it'))
    await expect(read).rejects.toThrow('stop it')
  }, 5_000)

  it('comes at an abort between two answers, and asks for no more', async () => {
    const controller = new AbortController()
    const query = 'select n, case when n > 2000 then pg_sleep(60) end as slow from generate_series(1, 3000) as n'
    const read = async () => {
      for await (const _ of batchesOf(postgres({ url, query }), { signal: controller.signal })) {
        await db.query('select pg_sleep(0.2)')
        controller.abort(new Error('enough'))
      }
    }
    await expect(read()).rejects.toThrow('enough')
  }, 5_000)

  it('comes at an abort while an answer is under way', async () => {
    const controller = new AbortController()
    const read = async () => {
      for await (const _ of batchesOf(postgres({ url, query: long }), { signal: controller.signal })) {
        await db.query('select pg_sleep(0.05)')
        controller.abort(new Error('enough'))
      }
    }
    await expect(read()).rejects.toThrow('enough')
  })

  it('is at once when the signal was aborted before', async () => {
    const signal = AbortSignal.abort(new Error('never begun'))
    await expect(readAll(postgres({ url: 'postgres://nowhere.invalid', table: 't' }), { signal })).rejects.toThrow(
      'never begun',
    )
  })

  it('comes soon after an abort while the server does not answer at all', async () => {
    const silent = createServer().listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const controller = new AbortController()
    silent.once('connection', () => controller.abort(new Error('too silent')))
    const source = postgres({ url: `postgres://u:p@127.0.0.1:${(silent.address() as AddressInfo).port}/d`, table: 't' })
    await expect(readAll(source, { signal: controller.signal })).rejects.toThrow('too silent')
    silent.close()
    await once(silent, 'close')
  })

  it('cuts the connection when the wish to stop does not reach the server', async () => {
    const { port, gateway } = await gatewayToServer()
    const controller = new AbortController()
    const through = Object.assign(new URL(url), { port }).href
    const read = readAll(postgres({ url: through, query: endless }), { signal: controller.signal })
    await untilRunning(endless)
    gateway.removeAllListeners('connection').on('connection', (socket: Socket) => socket.pause())
    controller.abort(new Error('stop it'))
    await expect(read).rejects.toThrow('stop it')
    gateway.close()
    // the server works on, and would not notice before it has a row to send
    await db.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spillway'`)
  }, 20_000)

  /** Hands every connection on to the server. */
  async function gatewayToServer(): Promise<{ port: string; gateway: Server }> {
    const gateway = createServer((socket) => {
      const onward = connect(Number(new URL(url).port), '127.0.0.1')
      socket.on('error', () => onward.destroy()).on('close', () => onward.destroy())
      onward.on('error', () => socket.destroy())
      socket.pipe(onward).pipe(socket)
    }).listen(0, '127.0.0.1')
    await once(gateway, 'listening')
    return { port: String((gateway.address() as AddressInfo).port), gateway }
  }
})

/** The server says so before it goes; whether that is heard before the next write fails is a matter of luck. */
const lost =
  /^postgres: 127.0.0.1:\d+: (terminating connection|Connection terminated|write EPIPE|read ECONNRESET).* run the sync again$/

describe('connections of the program', () => {
  const query = 'select n from generate_series(1, 5000) as n'
  const state = `select current_setting('timezone') as zone, current_setting('statement_timeout') as timeout, now() = statement_timestamp() as outside`

  it('come from a pool, and go back as they were', async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    await pool.query(`set timezone = 'Asia/Tokyo'`)
    const source = postgres({ pool, query, timeout: '30s' })
    expect((await readAll(source)).rows).toHaveLength(5000)
    for await (const _ of batchesOf(source)) break
    await expect(readAll(postgres({ pool, query: 'selec 1' }))).rejects.toThrow(SourceError)

    const controller = new AbortController()
    const slow = readAll(postgres({ pool, query: 'select pg_sleep(60)' }), { signal: controller.signal })
    await untilRunning('select pg_sleep(60)')
    controller.abort(new Error('stop it'))
    await expect(slow).rejects.toThrow('stop it')

    expect({ total: pool.totalCount, idle: pool.idleCount }).toEqual({ total: 1, idle: 1 })
    expect((await pool.query(state)).rows).toEqual([{ zone: 'Asia/Tokyo', timeout: '0', outside: true }])
    await pool.end()
  })

  it('are not handed back to the pool when they broke', async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1, application_name: 'broken' })
    const read = async () => {
      for await (const _ of batchesOf(postgres({ pool, query: 'select n from generate_series(1, 1000000) as n' }))) {
        await db.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'broken'`)
      }
    }
    await expect(read()).rejects.toThrow(lost)
    expect(pool.totalCount).toBe(0)
    await pool.end()
  })

  it('may be one client, which is free afterwards', async () => {
    const client = new pg.Client(url)
    await client.connect()
    const source = postgres({ pool: client, query })
    expect((await readAll(source)).rows).toHaveLength(5000)
    for await (const _ of batchesOf(source)) break
    await expect(readAll(postgres({ pool: client, query: 'select 1/0 as x' }))).rejects.toThrow('division by zero')
    expect((await client.query(state)).rows[0].outside).toBe(true)
    expect(client.listenerCount('error')).toBe(0)
    await client.end()
  })

  it('are refused when a transaction of the program is open, or none is', async () => {
    const client = new pg.Client(url)
    await expect(readAll(postgres({ pool: client, query }))).rejects.toThrow(
      new ConfigError(
        'postgres: the client given as `pool` is not connected; give a Pool, or a connected Client of pg 8.21 or later that is free',
      ),
    )
    const old = { connect() {}, query() {} }
    await expect(readAll(postgres({ pool: old, query }))).rejects.toThrow(/is of a pg before 8.21/)
    await client.connect()
    await client.query('begin')
    await expect(readAll(postgres({ pool: client, query }))).rejects.toThrow(/is in a transaction/)
    await client.query('commit')
    await client.end()
  })
})

describe('an error', () => {
  const failing = async (options: PostgresOptions): Promise<Error> =>
    readAll(postgres(options)).then(
      () => new Error('read to its end'),
      (error) => error,
    )
  const at = (changes: { username?: string; password?: string; port?: string; pathname?: string; search?: string }) =>
    Object.assign(new URL(url), changes).href
  const place = () => new URL(url).host

  it('says where nothing listens', async () => {
    expect(await failing({ url: 'postgres://u:hush@127.0.0.1:1/d', table: 't' })).toEqual(
      new SourceError(
        'postgres: 127.0.0.1:1: nothing listens there (ECONNREFUSED): start the server, or correct host and port',
      ),
    )
  })

  it('says where nothing listens when the connections are a pool', async () => {
    const pool = new pg.Pool({ connectionString: 'postgres://u:hush@127.0.0.1:1/d' })
    expect((await failing({ pool, table: 't' })).message).toMatch(/^postgres: 127.0.0.1:1: nothing listens there/)
    await pool.end()
  })

  it('says that a host does not exist', async () => {
    const { message } = await failing({ url: 'postgres://u:hush@nowhere.invalid/d', table: 't' })
    expect(message).toMatch(
      /^postgres: nowhere.invalid:5432: no such host \((ENOTFOUND|EAI_AGAIN)\): correct the host, or the network$/,
    )
  })

  it('names the user who was refused, and not the password', async () => {
    expect(await failing({ url: at({ password: 'hush' }), table: 't' })).toEqual(
      new SourceError(
        `postgres: ${place()}: user postgres was refused (28P01): check user and password, and that the server lets them in from here`,
      ),
    )
    expect((await failing({ url: at({ password: '' }), table: 't' })).message).toMatch(
      /client password must be .*: check the connection and the url/,
    )
  })

  it('names the database that is not there', async () => {
    expect((await failing({ url: at({ pathname: '/nope' }), table: 't' })).message).toBe(
      `postgres: ${place()}: there is no database nope (3D000): correct its name, or create it`,
    )
  })

  it('says that the server speaks no TLS', async () => {
    expect((await failing({ url: at({ search: '?sslmode=verify-full' }), table: 't' })).message).toBe(
      `postgres: ${place()}: The server does not support SSL connections: check the connection and the url, and run the sync again`,
    )
  })

  it('gives up a server that does not answer', async () => {
    const silent = createServer().listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const read = failing({ url: `postgres://u:hush@127.0.0.1:${port}/d`, table: 't' })
      await once(silent, 'connection')
      await vi.advanceTimersByTimeAsync(30_000)
      expect((await read).message).toBe(
        `postgres: 127.0.0.1:${port}: timeout expired: check the connection and the url, and run the sync again`,
      )
    } finally {
      vi.useRealTimers()
      silent.close()
    }
  })

  it('of a query says where it is wrong', async () => {
    expect((await failing({ url, query: 'selec 1' })).message).toBe(
      `postgres: ${place()}: syntax error at or near "selec" (42601): correct the query`,
    )
    expect((await failing({ url, table: 'nowhere' })).message).toBe(
      `postgres: ${place()}: relation "nowhere" does not exist (42P01): correct the query`,
    )
    await db.query('create table hinted as select 1 as amount')
    expect((await failing({ url, query: 'select amunt from hinted' })).message).toBe(
      `postgres: ${place()}: column "amunt" does not exist (42703): Perhaps you meant to reference the column "hinted.amount".`,
    )
  })

  it.each([
    ['select $1::int as i', ['hush "x" hush'], 'invalid input syntax for type integer: … (22P02)'],
    ['select $1::int as i', ['99999999999'], 'value … is out of range for type integer (22003)'],
    ['select $1::date as d', ['2026-99-99'], 'date/time field value out of range: … (22008)'],
    ["select s::int as i from (values ('hush hush')) t(s)", [], 'invalid input syntax for type integer: … (22P02)'],
  ])('shows no value: %s with %j', async (query, params, expected) => {
    expect((await failing({ url, query, params })).message).toBe(`postgres: ${place()}: ${expected}: correct the query`)
  })

  it('half-way is not taken for the end', async () => {
    let count = 0
    const read = async () => {
      const query = 'select 1 / (2500 - n) as x from generate_series(1, 5000) as n'
      for await (const rows of batchesOf(postgres({ url, query }))) count += rows.length
    }
    await expect(read()).rejects.toThrow('division by zero (22012)')
    expect(count).toBe(2000)
  })

  it('says that the query took too long', async () => {
    expect((await failing({ url, query: 'select pg_sleep(60)', timeout: '50ms' })).message).toBe(
      `postgres: ${place()}: canceling statement due to statement timeout (57014): raise \`timeout\`, or make the query faster`,
    )
  })

  it('says that a source only reads', async () => {
    await db.query(
      'create function write() returns int language sql as $$ insert into hinted values (2) returning 1 $$',
    )
    expect((await failing({ url, query: 'select write() as x' })).message).toBe(
      `postgres: ${place()}: cannot execute INSERT in a read-only transaction (25006): correct the query`,
    )
  })

  it('says what a user may not read', async () => {
    await db.query(`create role guest login password 'guest'; create table private as select 1 as id`)
    expect((await failing({ url: at({ username: 'guest', password: 'guest' }), table: 'private' })).message).toBe(
      `postgres: ${place()}: permission denied for table private (42501): grant user guest the right to select`,
    )
  })

  it('tells that the connection was lost', async () => {
    const read = async () => {
      for await (const _ of batchesOf(postgres({ url, query: 'select n from generate_series(1, 1000000) as n' }))) {
        await db.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spillway'`)
      }
    }
    await expect(read()).rejects.toThrow(lost)
  })

  it('names a column that comes twice, and a query without columns', async () => {
    expect(await failing({ url, query: 'select 1 as id, 2 as id' })).toEqual(
      new SourceError('postgres: the query gives two columns named "id": rename one with `as`'),
    )
    expect(await failing({ url, query: 'set work_mem = 1000' })).toEqual(
      new SourceError('postgres: the query gives no columns: it must be a select'),
    )
  })

  it('names a row that does not fit `record`, by its number, and no value', async () => {
    const source = postgres({
      url,
      query: 'select n from generate_series(1, 5000) as n',
      record: z.object({ n: z.int().max(4200, 'is too much') }),
    })
    await expect(readAll(source)).rejects.toThrow(
      new SourceError('postgres: row 4201 does not fit `record`: n: is too much'),
    )
    const fine = postgres({
      url,
      query: `select 7 as id, 'x' as other`,
      record: z.object({ id: z.int().transform(String) }),
    })
    expect(await readOne(fine)).toEqual({ id: '7' })
  })

  it('names the secret that is missing, when it is read', async () => {
    const source = postgres({ url: secret('NOT_THERE_URL'), table: 't' })
    await expect(readAll(source)).rejects.toThrow(
      /^postgres: url: secret NOT_THERE_URL is missing: set the environment variable NOT_THERE_URL/,
    )
  })

  it('takes the url from a secret', async () => {
    vi.stubEnv('SOME_DATABASE_URL', url)
    expect(await readOne(postgres({ url: secret('SOME_DATABASE_URL'), query: 'select 1 as id' }))).toEqual({ id: 1 })
    vi.unstubAllEnvs()
  })

  it.each([
    'postgres://user:hu/sh@host/db',
    'localhost:5432/hush',
    'mysql://user:hush@host/db',
    'postgres://user:hush@host:port/db',
  ])('shows nothing of a url that is none: %s', async (wrong) => {
    const error = await failing({ url: wrong, table: 't' })
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toMatch(
      /^postgres: url is not like postgres:\/\/user:password@host:5432\/database; write special characters/,
    )
    expect(error.cause).toBeUndefined()
  })

  it('comes when the source is made, where the options are wrong', () => {
    const wrong = (options: object) => () => postgres(options as PostgresOptions)
    expect(wrong({ url })).toThrow(new ConfigError('postgres: give either `query` or `table`'))
    expect(wrong({ url, query: 'select 1', table: 't' })).toThrow(
      new ConfigError('postgres: give either `query` or `table`'),
    )
    expect(wrong({ url, query: ' ' })).toThrow(new ConfigError('postgres: `query` is empty: write a select'))
    expect(wrong({ url, table: 'a..b' })).toThrow(
      new ConfigError('postgres: `table` is no name of a table, such as sales.orders'),
    )
    expect(wrong({ table: 't' })).toThrow(
      "postgres: give one of `url`, such as secret('DATABASE_URL'), `connection` and `pool`",
    )
    expect(wrong({ url, pool: db, table: 't' })).toThrow(ConfigError)
    expect(wrong({ url, table: 't', timeout: '5 minutes' })).toThrow(
      /^postgres: timeout: "5 minutes" is not a duration/,
    )
  })

  it('says what to install when the driver is not', async () => {
    const copy = await mkdtemp(join(tmpdir(), 'spillway-bare-'))
    const root = new URL('../../', import.meta.url).pathname
    for (const part of ['src', 'test/sources']) await cp(join(root, part), join(copy, part), { recursive: true })
    await cp(join(root, 'package.json'), join(copy, 'package.json'))
    await mkdir(join(copy, 'node_modules'))
    for (const name of await readdir(join(root, 'node_modules'))) {
      if (!name.startsWith('pg')) await symlink(join(root, 'node_modules', name), join(copy, 'node_modules', name))
    }
    const read = readInChild('postgres', { url, query: 'select 1 as id' }, {}, copy)
    await expect(read).rejects.toThrow(/ConfigError: postgres: the driver cannot be loaded: npm install pg pg-cursor/)
    await rm(copy, { recursive: true })
  })
})
