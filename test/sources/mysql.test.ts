import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import driver from 'mysql2'
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { secret } from '../../src/config.js'
import { ConfigError, SourceError } from '../../src/errors.js'
import { type MysqlOptions, type MysqlServer, mysql } from '../../src/sources/mysql.js'
import { type AnyRow, Instant } from '../../src/values.js'
import { hasMariadb, mariadbOfFile } from '../support/mariadb.js'
import { batchesOf, readAll, readInChild, readOne } from './reading.js'

describe.runIf(hasMariadb())('mysql', () => {
  const server = mariadbOfFile()
  const url = () => server.url
  const host = () => new URL(server.url).host
  const at = (changes: { username?: string; password?: string; port?: string; pathname?: string; search?: string }) =>
    Object.assign(new URL(server.url), changes).href
  /** The rows of a query of the tests' own connection. */
  const ask = async (sql: string, values: unknown[] = []) => (await server.db.query(sql, values))[0] as AnyRow[]
  /** The parts of the url, as the options of `mysql2`. */
  const parts = () => {
    const { hostname, port, username, password } = new URL(server.url)
    const login = { user: username, password: decodeURIComponent(password), database: 'test' }
    return { host: hostname, port: Number(port), ...login }
  }

  const others = 'select id from information_schema.processlist where id <> connection_id()'

  /** Waits until the server works on this query. */
  async function untilRunning(query: string): Promise<number> {
    for (;;) {
      const [found] = await ask(`${others} and command = 'Execute' and info = ?`, [query])
      if (found) return found['id']
      await ask('do sleep(0.01)')
    }
  }

  /** Waits, on the server, until nobody else has a connection: the server notices a moment later than the client. */
  async function untilNoConnection(): Promise<void> {
    while ((await ask(others)).length > 0) await ask('do sleep(0.01)')
  }

  const columns = `yes boolean, no tinyint(1), two tinyint(1), i1 tinyint, i2 smallint, i3 mediumint, i4 int, u4 int unsigned, i8 bigint, u8 bigint unsigned,
    price decimal(9,3), wide decimal(38,18), f4 float, odd_f4 float, f8 double, odd double, tiny double,
    day date, at datetime(6), plain_at datetime, tenth datetime(3), stamp timestamp(6) null, plain_stamp timestamp null,
    clock time(6), span time, year year, one bit, nine bit(9), bits bit(64), bytes binary(3), no_bytes blob, empty varchar(9), text text character set utf8mb4,
    old varchar(9) character set latin1, padded char(3), json json, e enum('a', 'b'), s set('x', 'y'), id uuid, spot point`
  const values = `true, 0, 2, -128, -32768, -8388608, -2147483648, 4294967295, -9223372036854775808, 18446744073709551615,
    -0.050, 12345678901234567890.123456789, 0.1, 16777215, 0.1, 0.30000000000000004, 5e-324,
    '2026-01-31', '2026-03-08 02:30:00.123456', '2026-01-01', '2026-01-01 10:20:30.100', '2026-03-08 02:30:00.123456', '2026-01-01 00:00:00',
    '01:02:03.45', '-838:59:59', 2026, b'1', b'100000001', b'${'1'.repeat(64)}', x'DEAD00', '', '', 'naïve 🦆',
    'naïve', 'x', '{"id": 12345678901234567890, "a": [1, null], "f": 1.5}', 'b', 'x,y', '5f2b9c1e-0000-4000-8000-00000000000a', point(1, 2.5)`

  beforeAll(async () => {
    await ask(`set time_zone = '+00:00'; create table kinds (${columns}); insert into kinds values (${values});
      create table nulls as select * from kinds where false; insert into nulls () values ();
      create table numbers (n int); insert into numbers select seq from seq_1_to_25000;
      create table strict (id int not null, other int)`)
  })

  describe('values', () => {
    const expected = {
      ...{ yes: true, no: false, two: 2, i1: -128, i2: -32768, i3: -8388608, i4: -2147483648, u4: 4294967295 },
      ...{ i8: -9223372036854775808n, u8: 18446744073709551615n, price: '-0.050' },
      ...{ wide: '12345678901234567890.123456789000000000', f4: 0.1, odd_f4: 16777215 },
      ...{ f8: 0.1, odd: 0.30000000000000004, tiny: 5e-324 },
      ...{ day: '2026-01-31', at: '2026-03-08T02:30:00.123456', plain_at: '2026-01-01T00:00:00' },
      ...{ tenth: '2026-01-01T10:20:30.1', stamp: Instant.of('2026-03-08T02:30:00.123456Z') },
      ...{ plain_stamp: new Date('2026-01-01T00:00:00Z'), clock: '01:02:03.45', span: '-838:59:59', year: 2026 },
      ...{ one: true, nine: 257, bits: 18446744073709551615n, bytes: new Uint8Array([0xde, 0xad, 0]) },
      ...{ no_bytes: new Uint8Array(), empty: '', text: 'naïve 🦆', old: 'naïve', padded: 'x' },
      ...{ json: { id: 12345678901234567890n, a: [1, null], f: 1.5 }, e: 'b', s: 'x,y' },
      ...{ id: '5f2b9c1e-0000-4000-8000-00000000000a', spot: { x: 1, y: 2.5 } },
    }
    const types = `boolean boolean boolean integer integer integer integer integer bigint bigint decimal decimal double double double double double
      date timestamp timestamp timestamp instant instant text text integer boolean integer bigint binary binary text text text text json text text text json`

    it('keep what each type says', async () => {
      const row = await readOne(mysql({ url: url(), table: 'kinds' }))
      expect(row).toStrictEqual(expected)
      expect(row['stamp'].toISOString()).toBe('2026-03-08T02:30:00.123456Z')
    })

    it('are the same however the server is configured', async () => {
      const names = ['time_zone', 'character_set_results', 'sql_mode'].map((name) => `@@global.${name}`)
      const [before] = await ask(`select ${names}`)
      await ask(
        `set global time_zone = '-05:00', global character_set_results = latin1, global sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'`,
      )
      try {
        expect(await readOne(mysql({ url: url(), table: 'kinds' }))).toStrictEqual(expected)
      } finally {
        for (const name of names) await ask(`set ${name} = ?`, [before![name]])
      }
    })

    it('do not depend on what connections of the program were made with', async () => {
      const lossy = {
        decimalNumbers: true,
        supportBigNumbers: false,
        dateStrings: false,
        nestTables: true,
        timezone: '+09:00',
      }
      const odd = { namedPlaceholders: true, charset: 'latin1', typeCast: () => 'own' }
      const pool = driver.createPool({ ...parts(), ...lossy, ...odd })
      expect(await readOne(mysql({ pool, table: 'kinds' }))).toStrictEqual(expected)
      await pool.promise().end()
    })

    it('are null when null, in every type', async () => {
      const row = await readOne(mysql({ url: url(), table: 'nulls' }))
      expect(row).toStrictEqual(Object.fromEntries(Object.keys(expected).map((name) => [name, null])))
    })

    it('are told as columns', async () => {
      const { rows, columns } = await readAll(mysql({ url: url(), query: 'select * from kinds where false' }))
      expect(rows).toEqual([])
      expect(columns.map(({ name, type }) => `${name} ${type}`)).toEqual(
        Object.keys(expected).map((name, index) => `${name} ${types.split(/\s+/)[index]}`),
      )
      expect((await readAll(mysql({ url: url(), table: 'strict' }))).columns).toEqual([
        { name: 'id', type: 'integer', nullable: false },
        { name: 'other', type: 'integer', nullable: true },
      ])
    })

    it('are text where a date is none, and at the ends of the calendar', async () => {
      await ask(`set sql_mode = ''; create table days (d date, t datetime, z timestamp);
        insert into days values ('0000-00-00', '0000-00-00', '0000-00-00'), ('2026-00-00', '2026-02-31', '1970-01-01 00:00:01'), ('9999-12-31', '1000-01-01', '2038-01-19 03:14:07')`)
      expect((await readAll(mysql({ url: url(), table: 'days' }))).rows).toStrictEqual([
        { d: '0000-00-00', t: '0000-00-00T00:00:00', z: '0000-00-00 00:00:00' },
        { d: '2026-00-00', t: '0000-00-00T00:00:00', z: new Date(1000) },
        { d: '9999-12-31', t: '1000-01-01T00:00:00', z: new Date('2038-01-19T03:14:07Z') },
      ])
      const query = "select nullif(d, '0000-00-00') as d from days limit 1"
      expect(await readOne(mysql({ url: url(), query }))).toEqual({ d: null })
    })

    it('of expressions are what MySQL makes of them', async () => {
      const query = `select count(*) as n, sum(n) as total, avg(n) as mean, max(n) > 5 as big, now(6) is not null as at, null as nothing, concat(max(n), 'x') as text from numbers`
      expect(await readOne(mysql({ url: url(), query }))).toStrictEqual({
        ...{ n: 25000n, total: '312512500', mean: '12500.5000', big: 1, at: 1, nothing: null, text: '25000x' },
      })
    })
  })

  describe('a read', () => {
    beforeAll(async () => {
      await ask('create database sales; create table sales.`2026 ``orders``.old` as select 1 as id')
    })

    it('gives a whole table, whatever its name', async () => {
      expect(await readOne(mysql({ url: url(), table: 'sales.`2026 ``orders``.old`' }))).toEqual({ id: 1 })
      expect((await readAll(mysql({ url: at({ pathname: '' }), table: 'test.numbers' }))).rows).toHaveLength(25_000)
    })

    it('passes parameters', async () => {
      const date = new Date('2026-03-08T02:30:00.123Z')
      const source = mysql({
        url: url(),
        query: `select ? as a, cast(? as signed) as b, hex(?) as c, cast(? as datetime(6)) as d, ? as e, json_value(?, '$.x') as f, ? as g from numbers limit ?`,
        params: ["x' -- \\", 2n ** 60n, new Uint8Array([1, 255]), date, null, { x: '7' }, 0.5, 1],
      })
      expect(await readOne(source)).toEqual({
        ...{ a: "x' -- \\", b: 2n ** 60n, c: '01FF', d: '2026-03-08T02:30:00.123', e: null, f: '7', g: 0.5 },
      })
    })

    it('has a column of any name', async () => {
      const row = await readOne(
        mysql({ url: url(), query: 'select true as __proto__, 2 as constructor, 3 as `a "``b`' }),
      )
      expect(Object.entries(row)).toEqual([
        ['__proto__', 1],
        ['constructor', 2],
        ['a "`b', 3],
      ])
    })

    it('can be made again from the same source', async () => {
      const source = mysql({ url: url(), query: 'select 1 as id' })
      expect(await readAll(source)).toEqual(await readAll(source))
    })

    it('comes from a server given in parts', async () => {
      vi.stubEnv('SOME_PASSWORD', parts().password)
      const some = { ...parts(), password: secret('SOME_PASSWORD') }
      expect(await readOne(mysql({ server: some, query: 'select 1 as id' }))).toEqual({ id: 1 })
      vi.unstubAllEnvs()
    })

    it('comes 1,000 rows at a time, none lost and none twice', async () => {
      const sizes: number[] = []
      const seen: bigint[] = []
      for await (const rows of batchesOf(
        mysql({ url: url(), query: 'select n from numbers where n <= 2500 order by n' }),
      )) {
        sizes.push(rows.length)
        seen.push(...rows.map(({ n }) => n))
      }
      expect(sizes).toEqual([1000, 1000, 500])
      expect(seen).toEqual(Array.from({ length: 2500 }, (_, i) => i + 1))
    })

    it('sees the database as it was at its start', async () => {
      await ask('create table moving as select * from numbers')
      const seen: unknown[] = []
      for await (const rows of batchesOf(mysql({ url: url(), query: 'select n from moving order by n' }))) {
        if (seen.length === 0) await ask('delete from moving where n > 20000; insert into moving values (0)')
        seen.push(...rows.map(({ n }) => n))
      }
      expect(seen).toEqual(Array.from({ length: 25_000 }, (_, i) => i + 1))
    })

    it('runs in UTC and shifts nothing, whatever the time zone of the machine', async () => {
      const query = `select cast('2026-03-08 02:30:00' as datetime) as gap, date '2026-03-08' as day, stamp as at, cast(plain_stamp as date) as day_of from kinds`
      const zones = [
        ['America/New_York', 300],
        ['Asia/Kolkata', -330],
      ] as const
      const read = ([TZ]: (typeof zones)[number]) => readInChild('mysql', { url: url(), query }, { TZ })
      for (const [index, { last, offset }] of (await Promise.all(zones.map(read))).entries()) {
        expect(offset).toBe(zones[index]![1])
        expect(last).toEqual({
          ...{ gap: '2026-03-08T02:30:00', day: '2026-03-08', at: '2026-03-08T02:30:00.123456Z', day_of: '2026-01-01' },
        })
      }
    })

    it('stays in little memory, however much there is', async () => {
      const query = `select concat(repeat('x', 1000), seq) as text from seq_1_to_300000`
      const { count, megabytes } = await readInChild('mysql', { url: url(), query })
      expect(count).toBe(300_000)
      expect(megabytes).toBeLessThan(250)
    })

    it('takes little more from the server than was asked for', async () => {
      const pool = driver.createConnection(parts())
      const { stream } = pool as unknown as { stream: Socket }
      const query = `select repeat('x', 10000) as text from seq_1_to_20000`
      for await (const _ of batchesOf(mysql({ pool, query }))) {
        await vi.waitFor(() => expect(stream.isPaused()).toBe(true), 10_000)
        expect(stream.bytesRead).toBeLessThan(25_000_000)
        break
      }
      await pool.promise().end()
    })
  })

  describe('a read with a cursor', () => {
    const query = `select * from (select 3 as n, 'c' as s union all select 1, 'a' union all select null, 'n' union all select 2, 'b' union all select 2, 'B') as t -- all of them`

    it('is in the order of the cursor, rows without a value last', async () => {
      const { rows } = await readAll(mysql({ url: url(), query: `${query}\n;` }), { cursor: 'n' })
      expect(rows.map(({ n }) => n)).toEqual([1, 2, 2, 3, null])
    })

    it('begins at the value that it is given, ties and rows without a value included', async () => {
      const { rows } = await readAll(mysql({ url: url(), query }), { cursor: 'n', since: 2 })
      expect(rows.map(({ n }) => n)).toEqual([2, 2, 3, null])
    })

    it('goes with parameters of the query', async () => {
      const source = mysql({ url: url(), query: 'select n from numbers where n <= ? and n <> ?', params: [5, 4] })
      expect((await readAll(source, { cursor: 'n', since: 3n })).rows).toEqual([{ n: 3 }, { n: 5 }])
    })

    it('takes rows from an index, in order, where the column is one that is never null', async () => {
      await ask(
        'create table indexed (id int not null primary key, other int); insert into indexed select n, n from numbers',
      )
      const sql = 'select * from (select * from indexed) as source where id >= cast(1000 as signed) order by id'
      const plan = JSON.stringify(await ask(`explain format=json ${sql}`))
      expect(plan).not.toContain('filesort')
      const { rows } = await readAll(mysql({ url: url(), table: 'indexed' }), { cursor: 'id', since: 24_999 })
      expect(rows.map(({ id }) => id)).toEqual([24_999, 25_000])
    })

    it.each([
      ['bigint', 'bigint', '9007199254740993', 9007199254740993n, 9007199254740994n],
      ['unsigned bigint', 'bigint unsigned', '18446744073709551614', 18446744073709551614n, 18446744073709551615n],
      [
        'decimal',
        'decimal(30, 18)',
        '900719925474.099300000000000001',
        '900719925474.099300000000000001',
        '900719925474.099300000000000002',
      ],
      ['float', 'float', '0.7', 0.7, 0.70001],
      ['double', 'double', '0.3', 0.3, 0.30000000000000004],
      ['text', 'varchar(9)', "'b'", 'b', 'c'],
      ['date', 'date', "'2026-01-31'", '2026-01-31', '2026-02-01'],
      ['date by a Date', 'date', "'2026-01-31'", new Date('2026-01-31T00:00:00Z'), new Date('2026-02-01T00:00:00Z')],
      ['time', 'time(6)', "'101:00:00.000001'", '101:00:00.000001', '101:00:00.000002'],
      ['year', 'year', '2026', 2026, 2027],
      [
        'datetime',
        'datetime(6)',
        "'2026-03-08 02:30:00.123456'",
        '2026-03-08T02:30:00.123456',
        '2026-03-08T02:30:00.123457',
      ],
      [
        'timestamp',
        'timestamp(6)',
        "'2026-03-08 02:30:00.123456'",
        Instant.of('2026-03-08T02:30:00.123456Z'),
        Instant.of('2026-03-08T02:30:00.123457Z'),
      ],
    ])('compares a %s as what it is', async (_, type, value, since, after) => {
      await ask(`set time_zone = '+00:00'; create or replace table one (c ${type}); insert into one values (${value})`)
      const source = mysql({ url: url(), table: 'one' })
      expect((await readAll(source, { cursor: 'c', since })).rows).toHaveLength(1)
      expect((await readAll(source, { cursor: 'c', since: after })).rows).toHaveLength(0)
    })

    it('takes back the value that it gave, to the microsecond', async () => {
      const source = mysql({
        url: url(),
        query: `select timestamp '2026-01-01 00:00:00' + interval seq microsecond as at from seq_0_to_9`,
      })
      const { rows } = await readAll(source, { cursor: 'at' })
      const { rows: rest } = await readAll(source, { cursor: 'at', since: rows[4]!['at'] })
      expect(rest).toEqual(rows.slice(4))
    })

    it('says so when there is no such column, or none that has an order', async () => {
      await expect(readAll(mysql({ url: url(), query }), { cursor: 'm' })).rejects.toThrow(
        new SourceError('mysql: the query gives no column "m" (the cursor); it gives n, s'),
      )
      await expect(readAll(mysql({ url: url(), table: 'kinds' }), { cursor: 'e' })).rejects.toThrow(
        /^mysql: the cursor column "e" is json, an enum or a set, .* cast it in the query$/,
      )
    })
  })

  describe('the end of a read', () => {
    const endless = 'select count(*) from seq_1_to_1000000 a, seq_1_to_1000000 b where a.seq + b.seq < 0'
    const long = `select seq as n, repeat('x', 100) as text from seq_1_to_1000000`
    afterEach(untilNoConnection)

    it('closes the connection when all was read', async () => {
      await readAll(mysql({ url: url(), query: 'select 1 as id' }))
    })

    it('closes the connection when the reader stops early', async () => {
      for await (const rows of batchesOf(mysql({ url: url(), query: long }))) {
        expect(rows).toHaveLength(1000)
        expect(await ask(others)).toHaveLength(1)
        break
      }
    }, 10_000)

    it('closes the connection when the reader stops early and the next rows are long in coming', async () => {
      // the server sends what fills a buffer of 16 kB
      const query = `select repeat('x', 100) as text, if(n > 1500, sleep(60), 0) as slow from numbers limit 2000`
      for await (const _ of batchesOf(mysql({ url: url(), query }))) break
    }, 5_000)

    it('comes soon after an abort, and ends the query on the server too', async () => {
      const controller = new AbortController()
      const read = readAll(mysql({ url: url(), query: endless }), { signal: controller.signal })
      await untilRunning(endless)
      controller.abort(new Error('stop it'))
      await expect(read).rejects.toThrow('stop it')
    }, 5_000)

    it('comes at an abort while the reader works on what it has', async () => {
      const controller = new AbortController()
      const read = async () => {
        for await (const _ of batchesOf(mysql({ url: url(), query: long }), { signal: controller.signal })) {
          await ask('do sleep(0.05)')
          controller.abort(new Error('enough'))
        }
      }
      await expect(read()).rejects.toThrow('enough')
    })

    it('is at once when the signal was aborted before', async () => {
      const signal = AbortSignal.abort(new Error('never begun'))
      await expect(readAll(mysql({ url: 'mysql://nowhere.invalid', table: 't' }), { signal })).rejects.toThrow(
        'never begun',
      )
    })

    it('comes soon after an abort while the server does not answer at all', async () => {
      const silent = createServer().listen(0, '127.0.0.1')
      await once(silent, 'listening')
      const controller = new AbortController()
      silent.once('connection', () => controller.abort(new Error('too silent')))
      const { port } = silent.address() as AddressInfo
      const source = mysql({ url: `mysql://u:p@127.0.0.1:${port}/d`, table: 't' })
      await expect(readAll(source, { signal: controller.signal })).rejects.toThrow('too silent')
      silent.close()
      await once(silent, 'close')
    })

    it('cuts the connection when the wish to stop does not reach the server', async () => {
      const { port, gateway } = await gatewayToServer()
      const controller = new AbortController()
      const read = readAll(mysql({ url: at({ port }), query: endless }), { signal: controller.signal })
      const id = await untilRunning(endless)
      gateway.removeAllListeners('connection').on('connection', (socket: Socket) => socket.pause())
      controller.abort(new Error('stop it'))
      await expect(read).rejects.toThrow('stop it')
      gateway.close()
      // the server works on, and would not notice before it has a row to send
      await ask(`kill ${id}`)
    }, 20_000)

    /** Hands every connection on to the server. */
    async function gatewayToServer(): Promise<{ port: string; gateway: Server }> {
      const gateway = createServer((socket) => {
        const onward = connect(Number(new URL(url()).port), '127.0.0.1')
        socket.on('error', () => onward.destroy()).on('close', () => onward.destroy())
        onward.on('error', () => socket.destroy())
        socket.pipe(onward).pipe(socket)
      }).listen(0, '127.0.0.1')
      await once(gateway, 'listening')
      return { port: String((gateway.address() as AddressInfo).port), gateway }
    }
  })

  /** The server says so before it goes; whether that is heard before the next write fails is a matter of luck. */
  const lost = /^mysql: 127.0.0.1:\d+: (Connection (was killed|lost)|write EPIPE|read ECONNRESET).* run the sync again$/

  describe('connections of the program', () => {
    const query = 'select n from numbers limit 5000'
    const state = `select @@time_zone as zone, @@character_set_results as letters, @@max_statement_time as timeout, @@net_write_timeout as patience,
      @@tx_isolation as isolation, @@in_transaction as inside`

    it('come from a pool, and go back as they were', async () => {
      const pool = driver.createPool({ ...parts(), connectionLimit: 1 })
      const shown = pool.promise()
      await shown.query(`set time_zone = '+09:00', net_write_timeout = 17, character_set_results = null`)
      const [before] = await shown.query(state)
      expect(before).toMatchObject([{ zone: '+09:00', letters: null, patience: 17, inside: 0 }])
      const source = mysql({ pool, query, timeout: '30s' })
      expect((await readAll(source)).rows).toHaveLength(5000)
      for await (const _ of batchesOf(source)) break
      await expect(readAll(mysql({ pool, query: 'selec 1' }))).rejects.toThrow(SourceError)
      const within = { zone: '+00:00', letters: 'utf8mb4', timeout: 30, patience: 28800n, inside: 1n }
      expect(await readOne(mysql({ pool, query: state, timeout: '30s' }))).toMatchObject(within)

      const slow = 'select sleep(60) as slow'
      const controller = new AbortController()
      const read = readAll(mysql({ pool, query: slow }), { signal: controller.signal })
      await untilRunning(slow)
      controller.abort(new Error('stop it'))
      await expect(read).rejects.toThrow('stop it')

      const [after] = await shown.query(state)
      expect(after).toEqual(before)
      const [statements] = await shown.query("show session status like 'Prepared_stmt_count'")
      expect(statements).toMatchObject([{ Value: '0' }])
      await shown.end()
    })

    it('are not handed back to the pool when they broke', async () => {
      const pool = driver.createPool({ ...parts(), connectionLimit: 1 })
      const id = async () => ((await pool.promise().query('select connection_id() as id'))[0] as AnyRow[])[0]!['id']
      const first = await id()
      const read = async () => {
        for await (const _ of batchesOf(mysql({ pool, query: `select repeat('x', 1000) from seq_1_to_1000000` }))) {
          await ask(`kill ${first}`).catch(() => {}) // the second time it is gone
        }
      }
      await expect(read()).rejects.toThrow(lost)
      expect(await id()).not.toBe(first)
      await pool.promise().end()
    })

    it('may be one connection, which is free afterwards', async () => {
      const connection = driver.createConnection(parts())
      const source = mysql({ pool: connection, query })
      expect((await readAll(source)).rows).toHaveLength(5000)
      for await (const _ of batchesOf(source)) break
      await expect(readAll(mysql({ pool: connection, query: 'select nothing' }))).rejects.toThrow('nothing')
      expect((await connection.promise().query(state))[0]).toMatchObject([{ inside: 0 }])
      expect(connection.listenerCount('error')).toBe(0)
      await connection.promise().end()
    })

    it('are refused when a transaction of the program is open, or they are of mysql2/promise', async () => {
      const connection = driver.createConnection(parts())
      await connection.promise().query('begin')
      await connection.promise().query('insert into strict values (7, 7)')
      await expect(readAll(mysql({ pool: connection, query }))).rejects.toThrow(
        new ConfigError('mysql: the connection given as `pool` is in a transaction; give one that is free'),
      )
      await connection.promise().query('rollback')
      expect(await ask('select * from strict')).toEqual([])
      await expect(readAll(mysql({ pool: connection.promise() as never, query }))).rejects.toThrow(ConfigError)
      await connection.promise().end()
    })
  })

  describe('an error', () => {
    const failing = async (options: MysqlOptions): Promise<Error> =>
      readAll(mysql(options)).then(
        () => new Error('read to its end'),
        (error) => error,
      )

    it('says where nothing listens', async () => {
      const text =
        'mysql: 127.0.0.1:1: nothing listens there (ECONNREFUSED): start the server, or correct host and port'
      expect(await failing({ url: 'mysql://u:hush@127.0.0.1:1/d', table: 't' })).toEqual(new SourceError(text))
      const pool = driver.createPool('mysql://u:hush@127.0.0.1:1/d')
      expect(await failing({ pool, table: 't' })).toEqual(new SourceError(text))
    })

    it('says that a host does not exist', async () => {
      const { message } = await failing({ url: 'mysql://u:hush@nowhere.invalid/d', table: 't' })
      expect(message).toMatch(
        /^mysql: nowhere.invalid:3306: no such host \((ENOTFOUND|EAI_AGAIN)\): correct the host, or the network$/,
      )
    })

    it('names the user who was refused, and not the password', async () => {
      expect(await failing({ url: at({ password: 'hush' }), table: 't' })).toEqual(
        new SourceError(
          `mysql: ${host()}: user spillway was refused (ER_ACCESS_DENIED_ERROR): check user and password, and that the server lets them in from here`,
        ),
      )
    })

    it('names the database that is not there', async () => {
      expect((await failing({ url: at({ pathname: '/nope' }), table: 't' })).message).toBe(
        `mysql: ${host()}: there is no database nope (ER_BAD_DB_ERROR): correct its name, or create it`,
      )
    })

    it('says that the server speaks no TLS, and sends no password before', async () => {
      for (const search of ['?ssl-mode=REQUIRED', '?ssl-mode=VERIFY_IDENTITY', '?ssl={"minVersion":"TLSv1.3"}']) {
        expect((await failing({ url: at({ search }), table: 't' })).message).toBe(
          `mysql: ${host()}: Server does not support secure connection: check the connection and the url, and run the sync again`,
        )
      }
      expect((await failing({ server: { ...parts(), ssl: 'nobody' }, table: 't' })).message).toBe(
        "mysql: `ssl`: Unknown SSL profile 'nobody'",
      )
    })

    it('gives up a server that does not answer', async () => {
      const silent = createServer().listen(0, '127.0.0.1')
      await once(silent, 'listening')
      const { port } = silent.address() as AddressInfo
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
      try {
        const read = failing({ url: `mysql://u:hush@127.0.0.1:${port}/d`, table: 't' })
        await once(silent, 'connection')
        await vi.advanceTimersByTimeAsync(30_000)
        expect((await read).message).toBe(
          `mysql: 127.0.0.1:${port}: no answer (ETIMEDOUT): check the connection, host and port, and run the sync again`,
        )
      } finally {
        vi.useRealTimers()
        silent.close()
      }
    })

    it('of a query says where it is wrong', async () => {
      expect((await failing({ url: url(), query: 'selec 1' })).message).toMatch(
        /^mysql: 127.0.0.1:\d+: You have an error in your SQL syntax; .* near 'selec 1' at line 1 \(ER_PARSE_ERROR\): correct the query$/,
      )
      expect((await failing({ url: url(), table: 'nowhere' })).message).toBe(
        `mysql: ${host()}: Table 'test.nowhere' doesn't exist (ER_NO_SUCH_TABLE): correct the query`,
      )
      expect((await failing({ url: url(), query: 'select ? as a', params: [] })).message).toMatch(/^mysql: 127/)
    })

    it.each([
      [
        'select cast(18446744073709551615 as unsigned) + n as i from numbers',
        'BIGINT UNSIGNED value is out of range in … (ER_DATA_OUT_OF_RANGE)',
      ],
    ])('shows no value: %s', async (query, expected) => {
      expect((await failing({ url: url(), query })).message).toBe(`mysql: ${host()}: ${expected}: correct the query`)
    })

    it('half-way is not taken for the end', async () => {
      let count = 0
      const read = async () => {
        const query = 'select if(n = 2500, (select 1 union select 2), n) as x from numbers'
        for await (const rows of batchesOf(mysql({ url: url(), query }))) count += rows.length
      }
      await expect(read()).rejects.toThrow('Subquery returns more than 1 row')
      expect(count).toBe(2000)
    })

    it('says that the query took too long', async () => {
      expect((await failing({ url: url(), query: 'select sleep(60)', timeout: '50ms' })).message).toMatch(
        /^mysql: 127.0.0.1:\d+: Query execution was interrupted \(max_statement_time exceeded\) .*: raise `timeout`, or make the query faster$/,
      )
    })

    it('says that a source only reads', async () => {
      await ask('create function writing() returns int begin insert into strict values (1, 1); return 1; end')
      const { message } = await failing({ url: url(), query: 'select writing() as x' })
      expect(message).toMatch(/Cannot execute statement in a READ ONLY transaction .*: correct the query$/)
      expect(await ask('select * from strict')).toEqual([])
    })

    it('says what a user may not read', async () => {
      await ask(
        `create user guest@'127.0.0.1' identified by 'guest'; create database open_to_guests; grant select on open_to_guests.* to guest@'127.0.0.1'`,
      )
      const guest = { username: 'guest', password: 'guest' }
      expect(
        (await failing({ url: at({ ...guest, pathname: '/open_to_guests' }), table: 'test.numbers' })).message,
      ).toMatch(
        /SELECT command denied to user .* for table .*numbers.* \(ER_TABLEACCESS_DENIED_ERROR\): grant user guest the right to select$/,
      )
      expect((await failing({ url: at(guest), table: 'numbers' })).message).toBe(
        `mysql: ${host()}: user guest may not use database test (ER_DBACCESS_DENIED_ERROR): correct its name, or grant the right to select`,
      )
    })

    it('tells that the connection was lost', async () => {
      const query = `select repeat('x', 1000) from seq_1_to_1000000`
      const read = async () => {
        for await (const _ of batchesOf(mysql({ url: url(), query }))) {
          for (const { id } of await ask(others)) await ask(`kill ${id}`).catch(() => {}) // the second time it is gone
        }
      }
      await expect(read()).rejects.toThrow(lost)
    })

    it('names a column that comes twice, a query without columns, and one with several results', async () => {
      expect(await failing({ url: url(), query: 'select 1 as id, 2 as id' })).toEqual(
        new SourceError('mysql: the query gives two columns named "id": rename one with `as`'),
      )
      expect(await failing({ url: url(), query: 'do 1' })).toEqual(
        new SourceError('mysql: the query gives no columns: it must be a select'),
      )
      await ask('create procedure both_of_them() begin select 1 as a; select 2 as a; end')
      expect(await failing({ url: url(), query: 'call both_of_them()' })).toEqual(
        new SourceError('mysql: the query gives several results: it must be one select'),
      )
    })

    it('names a row that does not fit `record`, by its number, and no value', async () => {
      const source = mysql({
        url: url(),
        query: 'select n from numbers order by n',
        record: z.object({ n: z.int().max(4200, 'is too much') }),
      })
      await expect(readAll(source)).rejects.toThrow(
        new SourceError('mysql: row 4201 does not fit `record`: n: is too much'),
      )
      const record = z.object({ id: z.int().transform(String) })
      expect(await readOne(mysql({ url: url(), query: `select 7 as id, 'x' as other`, record }))).toEqual({ id: '7' })
    })

    it('names the secret that is missing, when it is read', async () => {
      await expect(readAll(mysql({ url: secret('NOT_THERE_URL'), table: 't' }))).rejects.toThrow(
        /^mysql: url: secret NOT_THERE_URL is missing: set the environment variable NOT_THERE_URL/,
      )
    })

    it.each([
      'mysql://user:hu/sh@host/db',
      'localhost:3306/hush',
      'postgres://user:hush@host/db',
      'mysql://user:hush@host:port/db',
      'mysql://user:hush@host/db?sslmode=hush',
      'mysql://user:hush@host/db?ssl-mode=PREFERRED',
      'mysql://user:hush@host/db?ssl={hush',
    ])('shows nothing of a url that is none: %s', async (wrong) => {
      const error = await failing({ url: wrong, table: 't' })
      expect(error).toBeInstanceOf(ConfigError)
      expect(error.message).toMatch(/^mysql: url is not like mysql:\/\/user:password@host:3306\/database, perhaps with/)
      expect(error.message).not.toContain('hush')
      expect(error.cause).toBeUndefined()
    })

    it('comes when the source is made, where the options are wrong', () => {
      const wrong = (options: object) => () => mysql(options as MysqlOptions)
      const neither = new ConfigError('mysql: give either `query` or `table`')
      expect(wrong({ url: url() })).toThrow(neither)
      expect(wrong({ url: url(), query: 'select 1', table: 't' })).toThrow(neither)
      expect(wrong({ url: url(), query: ' ' })).toThrow(new ConfigError('mysql: `query` is empty: write a select'))
      for (const table of ['', 'a..b', 'a`b`c.', '`a']) {
        expect(wrong({ url: url(), table })).toThrow('mysql: `table` is no name of a table, such as sales.orders')
      }
      expect(wrong({ table: 't' })).toThrow(
        "mysql: give either `url`, such as secret('DATABASE_URL'), or `server`, or `pool`",
      )
      expect(wrong({ url: url(), server: parts(), table: 't' })).toThrow(ConfigError)
      expect(wrong({ server: { ...parts(), multipleStatements: true } as MysqlServer, table: 't' })).toThrow(
        'mysql: `server` takes no multipleStatements; it takes host, port, socketPath, user, password, database, ssl',
      )
      expect(wrong({ url: url(), table: 't', timeout: '5 minutes' })).toThrow(
        /^mysql: timeout: "5 minutes" is not a duration/,
      )
      expect(wrong({ url: url(), query: 'select ?', params: [undefined] })).toThrow(
        "mysql: `params`: the value at 0 is undefined; SQL's null is null",
      )
    })

    it('says what to install when the driver is not', async () => {
      vi.doMock('mysql2', () => {
        throw new Error('not there')
      })
      expect(await failing({ url: url(), query: 'select 1 as id' })).toEqual(
        new ConfigError('mysql: the driver cannot be loaded: npm install mysql2'),
      )
      vi.doUnmock('mysql2')
    })
  })
})
