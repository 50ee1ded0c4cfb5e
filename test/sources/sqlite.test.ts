import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import Sqlite from 'libsql'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { ConfigError, SourceError } from '../../src/errors.js'
import { type SqliteOptions, sqlite } from '../../src/sources/sqlite.js'
import { batchesOf, readAll, readInChild, readOne } from './reading.js'

let folder: string
let path: string
let db: Sqlite.Database

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spillway sqlite ?#%'))
  path = join(folder, 'app.db')
  db = new Sqlite(path)
  db.exec(`create table numbers (n integer primary key);
    insert into numbers with recursive s(i) as (select 1 union all select i + 1 from s where i < 5000) select i from s`)
})

afterAll(async () => {
  db.close()
  await rm(folder, { recursive: true })
})

/** A database of one table. */
function made(name: string, sql: string, pragma = ''): string {
  const file = join(folder, name)
  const database = new Sqlite(file)
  database.exec(pragma)
  database.exec(sql)
  database.close()
  return file
}

describe('values', () => {
  it('keep what the database says, with what the declared types add', async () => {
    const file = made(
      'kinds.db',
      `create table kinds (id integer primary key, small int, big bigint, wide integer, yes boolean, no bool, two boolean, price decimal(9,2), fine decimal(9,2),
        whole numeric, huge numeric, tiny numeric, real real, double double, day date, at datetime, unix timestamp, text text, empty varchar(9), blob blob, no_blob blob, json json, any, zero text);
      insert into kinds values (7, -1, 7, 9007199254740993, 1, 0, 2, '1.10', 1.125, 5, 12e30, 1.5e-9, 0.1, 1e999, '2026-01-31', '2026-03-08 02:30:00.123456', 1767225600, 'naïve 🦆', '', x'00ff', x'',
        '{"id": 12345678901234567890, "a": [1, null]}', x'01', 'a' || char(0) || 'b')`,
    )
    const { rows, columns } = await readAll(sqlite({ path: file, table: 'kinds' }))
    expect(rows).toStrictEqual([
      {
        ...{
          id: 7,
          small: -1,
          big: 7n,
          wide: 9007199254740993n,
          yes: true,
          no: false,
          two: 2,
          price: '1.10',
          fine: '1.125',
        },
        ...{
          whole: '5',
          huge: '12000000000000000000000000000000',
          tiny: '0.0000000015',
          real: 0.1,
          double: Number.POSITIVE_INFINITY,
        },
        ...{ day: '2026-01-31', at: '2026-03-08 02:30:00.123456', unix: 1767225600, text: 'naïve 🦆', empty: '' },
        ...{
          blob: new Uint8Array([0, 255]),
          no_blob: new Uint8Array(),
          json: { id: 12345678901234567890n, a: [1, null] },
        },
        ...{ any: new Uint8Array([1]), zero: 'a\0b' },
      },
    ])
    // with a column that has no type nothing is told, and the rows show it
    expect(columns).toEqual([])
    const named = 'id, big, yes, price, real, day, at, text, blob, json'
    const told = (await readAll(sqlite({ path: file, query: `select ${named} from kinds where false` }))).columns
    expect(told.map(({ name, type }) => `${name} ${type}`).join()).toBe(
      'id bigint,big bigint,yes boolean,price decimal,real double,day text,at text,text text,blob binary,json json',
    )
  })

  it('are what they are where they do not fit their column, and null when null', async () => {
    const query = `select * from odd`
    const file = made(
      'odd.db',
      `create table odd (n integer, d decimal(9,2), b boolean, r real, t text);
      insert into odd values ('many', 'free', 'yes', 'pi', x'ff'), (null, null, null, null, null), (9e99, -0.5, 1.5, 3, 4), (-9223372036854775808, 9223372036854775807, -1, -0.0, 0.5)`,
    )
    expect((await readAll(sqlite({ path: file, query }))).rows).toStrictEqual([
      { n: 'many', d: 'free', b: 'yes', r: 'pi', t: new Uint8Array([255]) },
      { n: null, d: null, b: null, r: null, t: null },
      { n: 9e99, d: '-0.50', b: 1.5, r: 3, t: '4' },
      { n: -9223372036854775808n, d: '9223372036854775807.00', b: -1, r: 0, t: '0.5' },
    ])
  })

  it('are read from databases in UTF-16, and never from a text that is none', async () => {
    const wide = made(
      'wide.db',
      `create table t (s text); insert into t values ('naïve 🦆')`,
      `pragma encoding = 'UTF-16be'`,
    )
    expect(await readOne(sqlite({ path: wide, table: 't' }))).toEqual({ s: 'naïve 🦆' })
    const query = `select cast(x'63e9' as text) as name`
    await expect(readAll(sqlite({ path, query }))).rejects.toThrow(
      new SourceError('sqlite: column "name" holds a text that is none: cast it to blob in the query'),
    )
    await expect(
      readAll(sqlite({ path: made('j.db', `create table t (j json); insert into t values ('{a')`), table: 't' })),
    ).rejects.toThrow(/^sqlite: a json column holds what is not JSON/)
  })
})

describe('a read', () => {
  it('gives a whole table, whatever its name, and a file of any name', async () => {
    db.exec(`create table "2026 ""orders"".old" as select 1 as id`)
    expect(await readOne(sqlite({ path, table: '"2026 ""orders"".old"' }))).toEqual({ id: 1 })
    expect(await readOne(sqlite({ path: relative(process.cwd(), path), table: 'main."2026 ""orders"".old"' }))).toEqual(
      { id: 1 },
    )
  })

  it('passes parameters, as what they are', async () => {
    const query = 'select ? as a, ? / 2 as b, ? as c, ? as d, ? as e, ? as f, ?8 as g, ?7 as h -- all of them'
    const params = ["x' --", 3, 2n ** 62n, new Uint8Array([1, 0]), null, true, 0.5, -7]
    expect(await readOne(sqlite({ path, query, params }))).toEqual({
      ...{ a: "x' --", b: 1, c: 2n ** 62n, d: new Uint8Array([1, 0]), e: null, f: 1, g: -7, h: 0.5 },
    })
  })

  it('has a column of any name, and can be made again from the same source', async () => {
    const source = sqlite({ path, query: `select 1 as "__proto__", 2 as "a ""b""", count(*) from numbers` })
    const row = await readOne(source)
    expect(Object.entries(row)).toEqual([
      ['__proto__', 1],
      ['a "b"', 2],
      ['count(*)', 5000],
    ])
    expect(await readOne(source)).toEqual(row)
  })

  it('comes 1,000 rows at a time, none lost and none twice', async () => {
    const sizes: number[] = []
    const seen: number[] = []
    for await (const rows of batchesOf(sqlite({ path, query: 'select n from numbers where n <= 2500' }))) {
      sizes.push(rows.length)
      seen.push(...rows.map(({ n }) => n))
    }
    expect(sizes).toEqual([1000, 1000, 500])
    expect(seen).toEqual(Array.from({ length: 2500 }, (_, i) => i + 1))
  })

  it('sees what a writer with a write-ahead log has committed, as it was at the start, and lets it go on', async () => {
    const file = join(folder, 'living.db')
    const writer = new Sqlite(file)
    writer.exec('pragma journal_mode = wal; create table t (n); begin')
    for (let n = 1; n <= 3000; n++) writer.prepare('insert into t values (?)').run(n)
    writer.exec('commit')
    const source = sqlite({ path: file, query: 'select n from t' })
    const seen: number[] = []
    for await (const rows of batchesOf(source)) {
      if (seen.length === 0) writer.exec('delete from t where n > 2000; insert into t values (0)')
      seen.push(...rows.map(({ n }) => n))
    }
    expect(seen).toEqual(Array.from({ length: 3000 }, (_, i) => i + 1))
    expect((await readAll(source)).rows).toHaveLength(2001)
    writer.close()
  })

  it('leaves the file to its writers when it ended, early too', async () => {
    for await (const _ of batchesOf(sqlite({ path, table: 'numbers' }))) {
      expect(() => db.exec('begin exclusive')).toThrow('locked')
      break
    }
    db.exec('begin exclusive; commit')
    await readAll(sqlite({ path, table: 'numbers' }))
    db.exec('begin exclusive; commit')
  })

  it('only reads, whatever the query says', async () => {
    const file = made('precious.db', 'create table t (n); insert into t values (1)')
    const reading = readAll(sqlite({ path: file, query: 'delete from t returning n' }))
    await expect(reading).rejects.toThrow(/^sqlite: .*correct the query/)
    expect((await readAll(sqlite({ path: file, table: 't' }))).rows).toEqual([{ n: 1 }])
  })

  it('ends at an abort', async () => {
    const controller = new AbortController()
    const read = async () => {
      for await (const _ of batchesOf(sqlite({ path, table: 'numbers' }), { signal: controller.signal })) {
        controller.abort(new Error('enough'))
      }
    }
    await expect(read()).rejects.toThrow('enough')
    db.exec('begin exclusive; commit')
    const signal = AbortSignal.abort(new Error('never begun'))
    await expect(readAll(sqlite({ path: 'nowhere.db', table: 't' }), { signal })).rejects.toThrow('never begun')
  })

  it('stays in little memory, however much there is', async () => {
    const query = `with recursive s(i) as (select 1 union all select i + 1 from s where i < 300000) select printf('%.1000c', 'x') || i as text from s`
    const { count, megabytes } = await readInChild('sqlite', { path, query })
    expect(count).toBe(300_000)
    expect(megabytes).toBeLessThan(250)
  })
})

describe('a read with a cursor', () => {
  const query = `with t(n, s) as (values (3, 'c'), (1, 'a'), (null, 'n'), (2, 'b'), (2, 'B')) select * from t -- all of them`

  it('is in the order of the cursor, rows without a value last, and begins where it is told', async () => {
    const source = sqlite({ path, query: `${query}\n;` })
    const read = async (since?: number) => (await readAll(source, { cursor: 'n', since })).rows.map(({ n }) => n)
    expect(await read()).toEqual([1, 2, 2, 3, null])
    expect(await read(2)).toEqual([2, 2, 3, null])
  })

  it('goes with parameters of the query, and with expressions', async () => {
    const source = sqlite({
      path,
      query: 'select n * 2, n as "a ""b" from numbers where n <= ? and n <> ?',
      params: [5, 4],
    })
    expect((await readAll(source, { cursor: 'a "b', since: 3n })).rows).toEqual([
      { 'n * 2': 6, 'a "b': 3 },
      { 'n * 2': 10, 'a "b': 5 },
    ])
    expect((await readAll(source, { cursor: 'n * 2', since: 7 })).rows).toEqual([{ 'n * 2': 10, 'a "b': 5 }])
  })

  it.each([
    ['integer', '9007199254740993', 9007199254740993n, 9007199254740994n],
    ['real', '0.3', 0.3, 0.30000000000000004],
    ['text', "'b'", 'b', 'c'],
    ['date', "'2026-01-31'", '2026-01-31', '2026-02-01'],
    [
      'datetime',
      "'2026-03-08T02:30:00.123Z'",
      new Date('2026-03-08T02:30:00.123Z'),
      new Date('2026-03-08T02:30:00.124Z'),
    ],
  ])('compares a %s as what it is', async (type, value, since, after) => {
    db.exec(`drop table if exists one; create table one (c ${type}); insert into one values (${value})`)
    expect((await readAll(sqlite({ path, table: 'one' }), { cursor: 'c', since })).rows).toHaveLength(1)
    expect((await readAll(sqlite({ path, table: 'one' }), { cursor: 'c', since: after })).rows).toHaveLength(0)
  })

  it('takes rows from an index', async () => {
    const explained = sqlite({ path, query: 'select * from numbers where n > 4998' })
    expect((await readAll(explained, { cursor: 'n', since: 4999 })).rows).toEqual([{ n: 4999 }, { n: 5000 }])
  })

  it('says so when there is no such column', async () => {
    await expect(readAll(sqlite({ path, query }), { cursor: 'm' })).rejects.toThrow(
      new SourceError('sqlite: the query gives no column "m" (the cursor); it gives n, s'),
    )
  })
})

describe('an error', () => {
  const failing = async (options: SqliteOptions): Promise<Error> =>
    readAll(sqlite(options)).then(
      () => new Error('read to its end'),
      (error) => error,
    )

  it('says that there is no file, and makes none', async () => {
    const missing = join(folder, 'missing.db')
    expect(await failing({ path: missing, table: 't' })).toEqual(
      new SourceError(`sqlite: there is no file ${missing}, seen from ${process.cwd()}: correct \`path\``),
    )
    expect(existsSync(missing)).toBe(false)
    const inside = join(folder, 'folder.db')
    await mkdir(inside)
    expect((await failing({ path: inside, table: 't' })).message).toMatch(/^sqlite: there is no file /)
    expect((await failing({ path: ':memory:', table: 't' })).message).toMatch(/^sqlite: there is no file :memory:/)
  })

  it('says that a file is no database', async () => {
    const foreign = join(folder, 'foreign.csv')
    await writeFile(foreign, 'id,name\n'.repeat(1000))
    expect(await failing({ path: foreign, table: 't' })).toEqual(
      new SourceError(`sqlite: ${foreign}: this is no SQLite database, or one that is encrypted: correct \`path\``),
    )
  })

  it('says that a writer has the file for itself', async () => {
    db.exec('begin exclusive')
    try {
      expect((await failing({ path, table: 'numbers' })).message).toBe(
        `sqlite: ${path}: database is locked (SQLITE_BUSY): a writer has it for itself: run the sync again`,
      )
    } finally {
      db.exec('rollback')
    }
  })

  it('of a query says where it is wrong', async () => {
    expect((await failing({ path, query: 'selec 1' })).message).toBe(
      `sqlite: ${path}: near "selec": syntax error (SQLITE_ERROR): correct the query`,
    )
    expect((await failing({ path, table: 'nowhere' })).message).toBe(
      `sqlite: ${path}: no such table: nowhere (SQLITE_ERROR): correct the query`,
    )
    expect((await failing({ path, query: 'select 1 as a; select 2' })).message).toMatch(/near ";": syntax error/)
  })

  it('half-way is not taken for the end', async () => {
    let count = 0
    const read = async () => {
      const query = 'select case n when 2500 then abs(-9223372036854775808) else n end as x from numbers'
      for await (const rows of batchesOf(sqlite({ path, query }))) count += rows.length
    }
    await expect(read()).rejects.toThrow(/integer overflow .*: correct the query$/)
    expect(count).toBe(2000)
    db.exec('begin exclusive; commit')
  })

  it('says that a source only reads', async () => {
    for (const query of [
      'insert into numbers values (0)',
      'insert into numbers values (0) returning n',
      'delete from numbers',
    ]) {
      expect((await failing({ path, query })).message).toMatch(/must be a select|syntax error|a source only reads/)
    }
    expect((await readAll(sqlite({ path, table: 'numbers' }))).rows).toHaveLength(5000)
  })

  it('names a column that comes twice, and a row that does not fit `record`', async () => {
    expect(await failing({ path, query: 'select 1 as id, 2 as id' })).toEqual(
      new SourceError('sqlite: the query gives two columns named "id": rename one with `as`'),
    )
    const record = z.object({ n: z.int().max(4200, 'is too much') })
    await expect(readAll(sqlite({ path, table: 'numbers', record }))).rejects.toThrow(
      new SourceError('sqlite: row 4201 does not fit `record`: n: is too much'),
    )
  })

  it('comes when the source is made, where the options are wrong', () => {
    const wrong = (options: object) => () => sqlite(options as SqliteOptions)
    expect(wrong({ table: 't' })).toThrow(new ConfigError('sqlite: `path` is no path of a database file'))
    expect(wrong({ path })).toThrow(new ConfigError('sqlite: give either `query` or `table`'))
    expect(wrong({ path, query: ' ;' })).toThrow(new ConfigError('sqlite: `query` is empty: write a select'))
    expect(wrong({ path, table: 'a..b' })).toThrow('sqlite: `table` is no name of a table, such as sales.orders')
    for (const value of [undefined, new Date(), [1], {}]) {
      expect(wrong({ path, query: 'select ?, ?', params: [1, value] })).toThrow(
        /^sqlite: `params`: the value at 1 is .*; give a number/,
      )
    }
  })
})
