import { describe, expect, it } from 'vitest'
import { destination, runAll, type Source, type Sync, sync } from '../src/index.js'
import { createSource, Encodable } from '../src/source.js'
import { duckdb } from '../src/sources/duckdb.js'
import { type AnyRow, encodeTable, losslessText } from '../src/values.js'
import { readAll } from './sources/reading.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

/** A sync of a source that gives its rows in both forms, and what came of it. */
async function made(options: object = {}, columns = ['id', 'name']) {
  const seen: object[] = []
  const ways: string[] = []
  const described = columns.map((name) => ({ name, type: 'text', nullable: true }) as const)
  const rows = [1, 2, 3].map((id) => Object.fromEntries(columns.map((name) => [name, `${name}${id}`])))
  const fail = { after: Number.POSITIVE_INFINITY }
  const given = async function* <B>(way: string, batches: B[]): AsyncGenerator<B> {
    ways.push(way)
    for (const [index, batch] of batches.entries()) {
      if (index === fail.after) throw new Error('the connection is lost')
      yield batch
    }
  }
  const from = createSource<Record<string, string>>({
    name: 'people',
    ordered: true,
    async *read(reading) {
      reading.describe(described)
      yield* given(
        'rows',
        rows.map((row) => [row]),
      )
    },
    async *encodable(reading) {
      reading.describe(described)
      yield* given(
        'encoded',
        rows.map((row) => new Encodable(1, () => encodeTable([row])!)),
      )
    },
  })
  const to = destination({ name: 'list', batchSize: 2, match: 'id' })({
    insert: (batch) => void seen.push(...batch),
    upsert: (batch) => void seen.push(...batch),
  })
  const one: Sync = sync({ name: 'people', from, to, state: await stateFolder(), log: quiet, ...options } as never)
  return { sync: one, from, to, seen, ways, rows, fail }
}

describe('rows that a source encodes itself', () => {
  it('are staged and delivered without objects being read', async () => {
    const { sync, seen, ways, rows } = await made()
    expect((await sync.run()).delivered).toBe(3)
    expect(seen).toEqual(rows)
    expect(ways).toEqual(['encoded'])
  })

  it.each([
    ['they are compared', { key: 'id', mode: 'upsert' }],
    ['a cursor orders them', { cursor: 'id' }],
  ] as const)('are read as objects where %s', async (_, options) => {
    const { sync, seen, ways, rows } = await made(options)
    expect((await sync.run()).delivered).toBe(3)
    expect(seen).toEqual(rows)
    expect(ways).toEqual(['rows'])
  })

  it('are read as objects where a column may have to be left out', async () => {
    const state = await stateFolder()
    const before = await made({ state, schemaContract: 'discard' })
    await before.sync.run()
    const after = await made({ state, schemaContract: 'discard' }, ['id', 'name', 'secret'])
    await after.sync.run()
    expect(after.seen).toEqual(before.seen)
    expect([...before.ways, ...after.ways]).toEqual(['encoded', 'rows'])
  })

  it('are gone on with as objects after a read that broke off', async () => {
    const { sync, seen, ways, rows, fail } = await made()
    fail.after = 2
    await expect(sync.run()).rejects.toThrow('people: the source people broke off: the connection is lost')
    fail.after = Number.POSITIVE_INFINITY
    await sync.run()
    expect(seen).toEqual(rows)
    expect(ways).toEqual(['encoded', 'rows'])
  })

  it.each([
    ['map', (from: Source<AnyRow>) => from.map((row) => ({ ...row, name: 'x' }))],
    ['filter', (from: Source<AnyRow>) => from.filter(({ id }) => id !== 'id2')],
    ['limit', (from: Source<AnyRow>) => from.limit(2)],
    ['enrich', (from: Source<AnyRow>) => from.enrich((some) => some.map((row) => ({ ...row, name: 'x' })))],
  ])('are read as objects for %s', async (_, change) => {
    const { from, to, seen, ways, rows } = await made()
    await sync({ name: 'changed', from: change(from), to, state: await stateFolder(), log: quiet }).run()
    expect(seen.length).toBeGreaterThan(1)
    expect(seen).not.toEqual(rows)
    expect(ways).toEqual(['rows'])
  })

  it('are read once, as objects, for syncs that read together', async () => {
    const { sync: one, from, to, seen, ways, rows } = await made()
    await runAll([one, sync({ name: 'other', from, to, state: await stateFolder(), log: quiet })])
    expect(seen).toHaveLength(rows.length * 2)
    expect(ways).toEqual(['rows'])
  })

  it('of DuckDB are what they would be as objects', async () => {
    const from = duckdb({
      query: `select id, 'name ' || id as "2", id * 10 as "1", case when id % 3 > 0 then timestamptz '2026-01-31 02:30:00Z' end as at,
        ('\\x0' || id % 10)::blob as bytes, case when id % 5 = 0 then 'nan'::double else id / 7 end as share, '"$"' as text from range(20000) r(id)`,
    })
    const seen: object[] = []
    const to = destination(1_000)((batch: object[]) => void seen.push(...batch))
    const { delivered } = await sync({ name: 'all', from, to, state: await stateFolder(), log: quiet }).run()
    expect(delivered).toBe(20_000)
    const { rows } = await readAll(from)
    expect(seen.findIndex((row, index) => losslessText(row) !== losslessText(rows[index]!))).toBe(-1)
  })
})
