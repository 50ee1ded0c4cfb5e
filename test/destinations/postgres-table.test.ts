import { inspect } from 'node:util'
import pg from 'pg'
import { FatalError, RejectedError, RetryableError, SpillwayError } from 'spillway'
import { postgresTable } from 'spillway/destinations/postgres-table'
import { postgres } from 'spillway/sources/postgres'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { definitionOf } from '../../src/destination.js'
import { readAll } from '../sources/reading.js'
import { appendThroughKills } from '../support/killed.js'
import { type Postgres, startPostgres } from '../support/postgres.js'
import { behavesAsTable, fresh, send } from '../support/table-behaviour.js'
import { tcpProxy } from '../support/tcp-proxy.js'

let server: Postgres
let pool: pg.Pool
beforeAll(async () => {
  server = await startPostgres()
  pool = new pg.Pool({ connectionString: server.url, allowExitOnIdle: true })
}, 60_000)
afterAll(async () => {
  await pool.end()
  await server.stop()
})

behavesAsTable(() => ({
  to: (table, match) => postgresTable({ url: server.url, table, match }),
  read: async (query) => (await readAll(postgres({ pool, query }))).rows,
  run: (sql) => pool.query(sql),
  config: { url: server.url },
  types: { integer: 'bigint', decimal: 'numeric', binary: 'bytea', json: 'jsonb' },
}))

const table = fresh
const all = async (query: string) => (await readAll(postgres({ pool, query }))).rows
const numbered = (count: number) => Array.from({ length: count }, (_, id) => ({ id, v: 'x' }))

// ---- exactly once ------------------------------------------------------------------------------------------------------

test('when the answer to a commit is lost, every row is there once', async () => {
  const at = new URL(server.url)
  const proxy = await tcpProxy({ host: at.hostname, port: Number(at.port) })
  onTestFinished(() => proxy.close())
  at.port = String(proxy.port)
  for (const mode of ['append', 'insert', 'upsert', 'replace'] as const) {
    for (const when of ['before', 'after the answer'] as const) {
      for (const words of ['commit\0', 'unnest']) {
        const name = table()
        const to = postgresTable({ url: at.href, table: name }).with({ batchSize: 10 })
        await send(to, [{ id: -1, v: 'first' }], { mode: 'append' })
        const before = proxy.cuts
        proxy.cut(words, when)
        if (mode === 'upsert') await pool.query(`alter table ${name} add primary key (id)`)
        const run = await send(to, numbered(30), { mode })
        expect(proxy.cuts, `${mode} ${when} ${words}`).toBe(before + 1)
        expect(run, `${mode} ${when} ${words}`).toMatchObject({ status: 'done', delivered: 30, resent: 0, unknown: 0 })
        const [count] = await all(
          `select count(*)::int as n, count(distinct id)::int as ids from ${name} where id >= 0`,
        )
        expect(count, `${mode} ${when} ${words}`).toEqual({ n: 30, ids: 30 })
      }
    }
  }
}, 120_000)

test('killed with SIGKILL around its commits and started again, every row is there once', async () => {
  const name = table()
  await appendThroughKills('postgres', { url: server.url, table: name }, [
    { point: 'before commit', nth: 2 },
    { point: 'during commit', nth: 2 },
    { point: 'after commit', nth: 2 },
    { point: 'answered', nth: 2 },
    { point: 'after commit', nth: 1 },
  ])
  expect(await all(`select count(*)::int as n, count(distinct id)::int as ids from ${name}`)).toEqual([
    { n: 100, ids: 100 },
  ])
}, 120_000)

test('a second attempt waits for a first one that is still on its way, and does not repeat it', async () => {
  const name = table()
  const to = postgresTable({ url: server.url, table: name })
  await send(to, [{ id: 0 }], { mode: 'append' })
  const early = await pool.connect()
  await early.query('begin')
  await early.query(`insert into _spillway_batches (key) values ('late')`)
  await early.query(`insert into ${name} values (1)`)
  const { handlers } = definitionOf(to, 'it')
  const context = {
    config: { url: server.url },
    idempotencyKey: 'late',
    run: 'r',
    operation: 'insert',
    match: [],
    table: { columns: [] },
    signal: new AbortController().signal,
  }
  const second = handlers['insert']!([{ id: 1 }], context)
  // it has to wait for the note of the first
  await vi.waitFor(async () => expect(await all(`select 1 from pg_locks where not granted`)).not.toEqual([]))
  await early.query('commit')
  early.release()
  await second
  expect(await all(`select id from ${name} order by 1`)).toEqual([{ id: 0n }, { id: 1n }])
})

test('readers see the old rows until the end of a replace', async () => {
  const name = table()
  await pool.query(`create table ${name} (id int primary key)`)
  await pool.query(`insert into ${name} values (7)`)
  const { handlers } = definitionOf(postgresTable({ url: server.url, table: name }), 'it')
  const seen: unknown[] = []
  async function* batches() {
    for (const id of [1, 2]) {
      yield [{ id }]
      seen.push(await all(`select id from ${name}`))
    }
  }
  const context = {
    config: { url: server.url },
    operation: 'replace',
    match: ['id'],
    table: { columns: [] },
    signal: new AbortController().signal,
  }
  await handlers['replace']!(batches(), context)
  expect(seen).toEqual([[{ id: 7 }], [{ id: 7 }]])
  expect(await all(`select id from ${name} order by id`)).toEqual([{ id: 1 }, { id: 2 }])
})

test('batches side by side make a table, its columns and the notes once', async () => {
  const name = table()
  await pool.query('drop table if exists _spillway_batches')
  const to = postgresTable({ url: server.url, table: name }).with({ batchSize: 5, concurrency: 8 })
  const rows = Array.from({ length: 200 }, (_, id) => ({ id, [`c${id % 7}`]: id }))
  expect(await send(to, rows, { mode: 'append' })).toMatchObject({ delivered: 200, rejected: 0 })
  const [count] = await all(
    `select count(*)::int as n, count(distinct id)::int as ids, count(c6)::int as c6 from ${name}`,
  )
  expect(count).toEqual({ n: 200, ids: 200, c6: 28 })
})

// ---- values and types --------------------------------------------------------------------------------------------------

test('a NUL character is rejected alone', async () => {
  const name = table()
  const rows = [
    { id: 1, v: 'a\0b' },
    { id: 2, v: 'b' },
    { id: 3, v: ['c\0'] },
  ]
  const run = await send(postgresTable({ url: server.url, table: name }), rows, { mode: 'upsert' })
  expect(run).toMatchObject({ delivered: 2, rejected: 1 })
  expect(run.reasons[0]).toMatch(/NUL character/)
})

test('values are cast to the types of a table that is there: arrays, enums, domains, lengths, times', async () => {
  const name = table()
  await pool.query(
    `create type mood_${name} as enum ('well', 'ill'); create domain positive_${name} as int check (value > 0)`,
  )
  await pool.query(
    `create table ${name} (id int primary key, tags text[], grid int[][], docs jsonb[], mood mood_${name}, n positive_${name}, short varchar(3), padded char(3), ts timestamptz, plain timestamp, uid uuid, net inet, amount text, raw json)`,
  )
  const good = {
    id: 1,
    tags: ['a', 'b "c", \\', null, 'NULL', ''],
    grid: [
      [1, 2],
      [3, 4],
    ],
    docs: [{ a: [1] }, 'x'],
    mood: 'well',
    n: 5,
    short: 'abc',
    padded: 'abc',
    ts: '2026-03-29T02:30:00',
    plain: new Date('2026-03-29T01:30:00Z'),
    uid: '6f9619ff-8b86-d011-b42d-00cf4fc964ff',
    net: '10.0.0.1',
    amount: 2n ** 70n,
    raw: { z: 1, a: 2n ** 60n },
  }
  const bad = [
    { ...good, id: 2, mood: 'so-so' },
    { ...good, id: 3, n: -1 },
    { ...good, id: 4, short: 'abcd' },
    { ...good, id: 5, padded: 'abcd' },
  ]
  const run = await send(postgresTable({ url: server.url, table: name }), [good, ...bad], { mode: 'upsert' })
  expect(run).toMatchObject({ delivered: 1, rejected: 4 })
  expect(run.reasons.join()).toMatch(/22P02.*23514.*22001/s)
  expect(await all(`select * from ${name}`)).toEqual([
    { ...good, ts: new Date('2026-03-29T02:30:00Z'), plain: '2026-03-29T01:30:00', amount: String(2n ** 70n) },
  ])
})

test('years before the first and beyond 9999 arrive', async () => {
  const name = table()
  const rows = [
    '-000043-03-15T12:00:00Z',
    '0000-01-01T00:00:00Z',
    '0099-01-01T00:00:00Z',
    '+012026-01-01T00:00:00Z',
  ].map((text, id) => ({ id, at: new Date(text) }))
  await send(postgresTable({ url: server.url, table: name }), rows, { mode: 'upsert' })
  expect(await all(`select id::int, at from ${name} order by 1`)).toEqual(rows)
})

test('a field whose name is longer than a column may be is rejected, and a table so named refused', async () => {
  const long = 'é'.repeat(32)
  const run = await send(
    postgresTable({ url: server.url, table: table() }),
    [
      { id: 1, [long]: 1 },
      { id: 2, [long.slice(1)]: 1 },
    ],
    { mode: 'upsert' },
  )
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect(() => postgresTable({ url: server.url, table: long })).toThrow(/would be cut/)
})

// ---- errors ------------------------------------------------------------------------------------------------------------

test.each([
  ['08006', RetryableError],
  ['40001', RetryableError],
  ['40P01', RetryableError],
  ['53100', RetryableError],
  ['55P03', RetryableError],
  ['57P01', RetryableError],
  ['57014', RetryableError],
  ['58030', RetryableError],
  ['XX000', RetryableError],
  ['22003', RejectedError],
  ['23505', RejectedError],
  ['42804', RejectedError],
  ['54000', RejectedError],
  ['0A000', RejectedError],
  ['P0001', RejectedError],
  ['28P01', FatalError],
  ['42501', FatalError],
  ['3F000', FatalError],
  ['25006', FatalError],
])('SQLSTATE %s within a transaction: nothing was applied, and it is a %o', async (state, kind) => {
  const name = table()
  await pool.query(`create table ${name} (id int)`)
  const raise = `create function f_${name}() returns trigger language plpgsql as $$ begin raise exception 'no "sesame"' using errcode = '${state}'; end $$`
  await pool.query(raise)
  await pool.query(`create trigger t before insert on ${name} for each row execute function f_${name}()`)
  const error = await insertInto(name).catch((error: unknown) => error as Error)
  expect(error).toBeInstanceOf(kind)
  expect(error.message).toContain(state)
  expect(error).not.toHaveProperty('cause')
  if (state.startsWith('22')) expect(error.message).not.toContain('sesame')
  expect(await all(`select * from ${name}`)).toEqual([])
})

test.each([
  ['23505', RejectedError],
  ['40001', RetryableError],
  ['57P01', undefined],
  ['08006', undefined],
  ['XX000', undefined],
])('SQLSTATE %s in answer to a commit', async (state, kind) => {
  const name = table()
  await pool.query(`create table ${name} (id int)`)
  await pool.query(
    `create function f_${name}() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '${state}'; end $$`,
  )
  await pool.query(
    `create constraint trigger t after insert on ${name} initially deferred for each row execute function f_${name}()`,
  )
  const error = await insertInto(name).catch((error: unknown) => error as Error)
  if (kind) expect(error).toBeInstanceOf(kind)
  else {
    expect(error).not.toBeInstanceOf(SpillwayError)
    expect(error.message).toMatch(/commit was not answered/)
  }
})

function insertInto(name: string, options: object = { url: server.url }): Promise<never> {
  const { handlers } = definitionOf(postgresTable({ table: name, ...options }), 'it')
  const context = {
    config: options,
    idempotencyKey: name,
    run: 'r',
    operation: 'insert',
    match: [],
    table: { columns: [] },
    signal: new AbortController().signal,
  }
  return handlers['insert']!([{ id: 1 }], context)
}

test('who cannot sign in, or reach the server, is told without the password', async () => {
  const refused = await send(
    postgresTable({ url: server.url.replace(/:[^:@]*@/, ':wrong-sesame@'), table: 't' }),
    [{ id: 1 }],
    { mode: 'append' },
  ).catch((error) => error)
  expect(refused).toBeInstanceOf(FatalError)
  expect(refused.message).toMatch(/28P01.*check user and password/)
  const to = postgresTable({ url: 'postgres://u:sesame@127.0.0.1:1/none', table: 't' }).with({ retryFor: '1ms' })
  const away = await send(to, [{ id: 1 }], { mode: 'append' })
  expect(away).toMatchObject({ status: 'incomplete', pending: 1, unknown: 0 })
  expect(away.reason).toMatch(/ECONNREFUSED/)
  for (const url of ['mysql://u:sesame@host/db', 'postgres://u:sesame@ho st:1/x']) {
    const wrong = await send(postgresTable({ url, table: 't' }), [{ id: 1 }], { mode: 'append' }).catch(
      (error) => error,
    )
    expect(String(wrong.message)).toMatch(/url/)
    expect(inspect(wrong)).not.toContain('sesame')
  }
})

// ---- connections -------------------------------------------------------------------------------------------------------

test('connections of one’s own are used and left as they were', async () => {
  const name = table()
  const own = new pg.Pool({ connectionString: server.url, max: 1 })
  expect(await send(postgresTable({ pool: own, table: name }), [{ id: 1 }], { mode: 'upsert' })).toMatchObject({
    delivered: 1,
  })
  expect([own.totalCount, own.idleCount]).toEqual([1, 1])
  await own.end()
  const client = new pg.Client(server.url)
  await client.connect()
  const to = postgresTable({ pool: client, table: name }).with({ batchSize: 1, concurrency: 4 })
  expect(
    await send(
      to,
      [2, 3, 4, 5].map((id) => ({ id })),
      { mode: 'append' },
    ),
  ).toMatchObject({ delivered: 4 })
  await client.query('begin')
  await expect(insertInto(name, { pool: client })).rejects.toThrow(/in a transaction/)
  await client.query('rollback')
  await client.end()
  await expect(insertInto(name, { pool: new pg.Client(server.url) })).rejects.toThrow(/not connected/)
  expect(() => postgresTable({ pool: client, url: server.url, table: 't' })).toThrow(/give one/)
  expect(await all(`select count(*)::int as n from ${name}`)).toEqual([{ n: 5 }])
})

test('a call that is cut off applies nothing, and frees its connection', async () => {
  const name = table()
  await pool.query(`create table ${name} (id int)`)
  await pool.query(
    `create function f_${name}() returns trigger language plpgsql as $$ begin perform pg_sleep(30); return new; end $$`,
  )
  await pool.query(`create trigger t before insert on ${name} for each row execute function f_${name}()`)
  const { handlers } = definitionOf(postgresTable({ table: name, url: server.url }), 'it')
  const stop = new AbortController()
  const context = {
    config: { url: server.url },
    idempotencyKey: name,
    run: 'r',
    operation: 'insert',
    match: [],
    table: { columns: [] },
    signal: stop.signal,
  }
  const call = handlers['insert']!([{ id: 1 }], context)
  await vi.waitFor(async () =>
    expect(await all(`select 1 from pg_stat_activity where query like 'insert into "${name}"%'`)).not.toEqual([]),
  )
  stop.abort()
  await expect(call).rejects.toThrow()
  expect(await all(`select * from ${name}`)).toEqual([])
})
