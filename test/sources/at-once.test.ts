import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import { describe, expect, it } from 'vitest'
import { destination, type Source, sync } from '../../src/index.js'
import { duckdb } from '../../src/sources/duckdb.js'
import { postgres } from '../../src/sources/postgres.js'
import { databaseOfFile } from '../support/database.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

type Row = { id: number; note: string | null }

const database = databaseOfFile()

/** A table of ids and notes in a folder, in a database of DuckDB or in PostgreSQL, which {@link fill} fills anew. */
const places = {
  async duckdb(folder: string) {
    const path = join(folder, 'table.db')
    return {
      source: duckdb<Row>({ path, query: 'from notes' }),
      async fill(select: string) {
        const instance = await DuckDBInstance.create(path)
        const connection = await instance.connect()
        await connection.run(`create or replace table notes as ${select.replace('{}', 'range(1, 4) t (id)')}`)
        connection.closeSync()
        instance.closeSync()
      },
    }
  },
  async postgres() {
    return {
      source: postgres<Row>({ url: database.url, table: 'notes' }),
      async fill(select: string) {
        await database.client.query(
          `drop table if exists notes; create table notes as ${select.replace('{}', 'generate_series(1, 3) t (id)')}`,
        )
      },
    }
  },
}

async function notes(place: keyof typeof places, change: (source: Source<Row>) => Source<Row> = (source) => source) {
  const folder = await stateFolder()
  const { source, fill } = await places[place](folder)
  const sent: Row[] = []
  const looked: unknown[] = []
  const to = destination({ name: 'crm' })({
    upsert: (batch: Row[]) => void sent.push(...batch),
    delete() {},
  })
  const map = (row: Row): Row => {
    looked.push(row)
    return { id: Number(row.id), note: row.note }
  }
  const state = join(folder, 'state')
  const one = sync({
    name: 'notes',
    from: change(source),
    map,
    to,
    key: 'id',
    mode: 'mirror',
    deleteCeiling: 9,
    state,
    log: quiet,
  })
  return { one, fill, sent, looked, state }
}

describe.each(['duckdb', 'postgres'] as const)('a table of %s that is read at once', (place) => {
  it('makes objects only of rows that have changed, and stages only those', async () => {
    const { one, fill, sent, looked, state } = await notes(place)
    await fill(`select id, 'note ' || id as note from {}`)
    expect(await one.run()).toMatchObject({ rows: 3, delivered: 3 })
    looked.length = 0
    sent.length = 0
    expect(await one.run()).toMatchObject({ rows: 3, delivered: 0, unchanged: 3 })
    expect(looked).toEqual([])
    await fill(`select id, case id when 2 then 'another' else 'note ' || id end as note from {}`)
    expect(await one.run()).toMatchObject({ rows: 3, delivered: 1, unchanged: 2 })
    expect(looked).toHaveLength(1)
    expect(sent).toEqual([{ id: 2, note: 'another' }])
    expect((await readdir(join(state, 'notes'))).filter((file) => !file.startsWith('snapshot-'))).toEqual([])
  })

  it('gives the same as when it is read row by row', async () => {
    const table = `select id, case id when 1 then null when 2 then '' else 'N' end as note from {}`
    const { one, fill, sent } = await notes(place)
    await fill(table)
    await one.run()
    expect(sent).toEqual([
      { id: 1, note: null },
      { id: 2, note: '' },
      { id: 3, note: 'N' },
    ])
    const byRow = await notes(place, (source) => source.filter(() => true))
    await byRow.fill(table)
    await byRow.one.run()
    expect(byRow.sent).toEqual(sent)
  })

  it('may hold texts of megabytes', async () => {
    const { one, fill, sent } = await notes(place)
    await fill(`select id, repeat('é', id * 1500000) as note from {}`)
    expect(await one.run()).toMatchObject({ delivered: 3 })
    expect(sent.map(({ note }) => note!.length)).toEqual([1_500_000, 3_000_000, 4_500_000])
    expect(await one.run()).toMatchObject({ unchanged: 3 })
  })

  it.each([
    ['a row that has not changed', `select 2 as id, 'note 2' as note`, 'id = 2 (2 times)'],
    ['one twin changed', `select 2 as id, 'other' as note`, 'id = 2 (2 times)'],
    ['both twins new', `(select 9 as id, 'a' as note union all select 9, 'b')`, 'id = 9 (2 times)'],
  ])('is refused when a key comes twice, later too: %s', async (_, twin, told) => {
    const { one, fill, sent } = await notes(place)
    const table = `select id, 'note ' || id as note from {}`
    await fill(table)
    await one.run()
    sent.length = 0
    await fill(`${table} union all ${twin}`)
    const refused = `notes: rows of the source share a key: ${told}. Nothing was sent.`
    await expect(one.run()).rejects.toThrow(refused)
    await expect(one.plan()).rejects.toThrow(refused)
    expect(sent).toEqual([])
    await fill(table)
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 3 })
  })

  it('hands over what has changed in the order of the table', async () => {
    const { one, fill, sent } = await notes(place)
    const table = (note: string) => `select 1000 - i as id, ${note} as note from generate_series(1, 900) t (i)`
    await fill(table(`'old'`))
    await one.run()
    sent.length = 0
    await fill(table(`case i % 7 when 0 then 'new' else 'old' end`))
    await one.run()
    expect(sent).toHaveLength(128)
    expect(sent).toEqual(sent.toSorted((a, b) => b.id - a.id))
  })

  it('stops when the run is stopped, and sends nothing', async () => {
    const { one, fill, sent } = await notes(place)
    await fill(`select id, 'note' as note from {}`)
    const stop = new AbortController()
    const run = one.run({ signal: stop.signal })
    stop.abort()
    expect(await run).toMatchObject({ status: 'incomplete', rows: 0 })
    expect(sent).toEqual([])
  })
})

it('an array may hold texts of megabytes too', async () => {
  const state = await stateFolder()
  const rows = [1, 2, 3].map((id) => ({ id, note: 'é\t\n'.repeat(id * 1_000_000) }))
  const sent: Row[] = []
  const to = destination(100)((batch: Row[]) => void sent.push(...batch))
  const one = sync({ name: 'notes', from: rows, to, key: 'id', mode: 'upsert', state, log: quiet })
  expect(await one.run()).toMatchObject({ delivered: 3 })
  expect(sent).toEqual(rows)
  expect(await one.run()).toMatchObject({ unchanged: 3 })
})
