import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import { sync } from 'spillway'
import { duckdbTable } from 'spillway/destinations/duckdb-table'
import { duckdb } from 'spillway/sources/duckdb'
import { afterAll, expect, test } from 'vitest'
import { readAll } from '../sources/reading.js'
import { appendThroughKills } from '../support/killed.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { behavesAsTable } from '../support/table-behaviour.js'

const folder = mkdtempSync(join(tmpdir(), 'duckdb-table-'))
const path = join(folder, 'lake.db')
afterAll(() => rmSync(folder, { recursive: true }))

async function run(sql: string): Promise<void> {
  const instance = await DuckDBInstance.create(path)
  const connection = await instance.connect()
  try {
    await connection.run(sql)
  } finally {
    connection.closeSync()
    instance.closeSync()
  }
}

behavesAsTable(() => ({
  to: (table, match) => duckdbTable({ path, table, match }),
  read: async (query) => (await readAll(duckdb({ path, query }))).rows,
  run,
  config: {},
  types: { integer: 'bigint', decimal: 'decimal(38, 18)', binary: 'blob', json: 'json' },
}))

test('killed with SIGKILL after its commit and started again, every row is there once', async () => {
  const points = [
    { point: 'sent', nth: 2 },
    { point: 'answered', nth: 3 },
    { point: 'answered', nth: 1 },
  ]
  const killed = join(folder, 'killed.db')
  await appendThroughKills('duckdb', { path: killed, table: 'events' }, points)
  const query = 'select count(*)::integer as n, count(distinct id)::integer as ids from events'
  expect((await readAll(duckdb({ path: killed, query }))).rows).toEqual([{ n: 100, ids: 100 }])
}, 120_000)

test('a file that another process holds open is told so, and nothing is lost', async () => {
  const held = join(folder, 'held.db')
  const holder = spawn(process.execPath, [
    '--input-type=module',
    '-e',
    `import { DuckDBInstance } from '@duckdb/node-api'
     await DuckDBInstance.create(${JSON.stringify(held)}); console.log('open'); setInterval(() => {}, 1000)`,
  ])
  await once(holder.stdout, 'data')
  const to = duckdbTable({ path: held, table: 'events' }).with({ retryFor: '1ms' })
  const it = sync({ name: 'held', from: [{ id: 1 }], to, mode: 'append', state: await stateFolder(), log: quiet })
  const run = await it.run()
  expect(run).toMatchObject({ status: 'incomplete', pending: 1 })
  expect(run.reason).toMatch(/another process.*has .*held\.db open/)
  holder.kill()
  await once(holder, 'exit')
  expect(await it.run()).toMatchObject({ resumed: { delivered: 1 } })
})

test('a time without a zone is one of UTC in a column that has zones', async () => {
  await run('create table zoned (id integer primary key, moment timestamptz)')
  const rows = [{ id: 1, moment: '2026-03-29T02:30:00' }]
  const to = duckdbTable({ path, table: 'zoned' })
  await sync({ name: 'zoned', from: rows, to, key: 'id', mode: 'upsert', state: await stateFolder(), log: quiet }).run()
  const { rows: read } = await readAll(duckdb({ path, query: 'from zoned' }))
  expect(read).toEqual([{ id: 1, moment: new Date('2026-03-29T02:30:00Z') }])
})

test('two syncs write tables of one file at the same time', async () => {
  const both = join(folder, 'both.db')
  const rows = Array.from({ length: 20 }, (_, id) => ({ id }))
  const state = await stateFolder()
  const into = (table: string) =>
    sync({
      name: table,
      from: rows,
      to: duckdbTable({ path: both, table }).with({ batchSize: 5 }),
      key: 'id',
      mode: 'upsert',
      state,
      log: quiet,
    }).run()
  // whoever has the file open in this process sees what is written, because it is one database
  const instance = await DuckDBInstance.fromCache(both)
  const connection = await instance.connect()
  expect(await Promise.all([into('a'), into('b')])).toMatchObject([{ delivered: 20 }, { delivered: 20 }])
  const count = await connection.runAndReadAll('select count(*)::integer from (from a union all from b)')
  expect(count.getRows()).toEqual([[40]])
  connection.closeSync()
  instance.closeSync()
})

test('a decimal with more digits than the column has is rejected alone, not rounded', async () => {
  await run('create table money (id integer primary key, amount decimal(10, 2))')
  const rows = ['1.10', '1.100', '1.105', '1e2', '12345678.90', '123456789.90'].map((amount, id) => ({ id, amount }))
  const to = duckdbTable({ path, table: 'money' })
  const it = sync({ name: 'money', from: rows, to, key: 'id', mode: 'upsert', state: await stateFolder(), log: quiet })
  expect(await it.run()).toMatchObject({ delivered: 3, rejected: 3 })
  expect((await readAll(duckdb({ path, query: 'select id, amount from money order by id' }))).rows).toEqual([
    { id: 0, amount: '1.10' },
    { id: 1, amount: '1.10' },
    { id: 4, amount: '12345678.90' },
  ])
})

test('what cannot be a database is refused', async () => {
  for (const bad of ['', ':memory:'])
    expect(() => duckdbTable({ path: bad, table: 't' })).toThrow(/path must name a file/)
  const to = duckdbTable({ path: join(folder, 'none', 'a.db'), table: 't' })
  const it = sync({ name: 'none', from: [{ id: 1 }], to, mode: 'append', state: await stateFolder(), log: quiet })
  await expect(it.run()).rejects.toThrow(/cannot be opened/)
})
