import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { AlreadyRunningError, ConfigError, destination, SourceError, sync } from '../src/index.js'
import { duckdb } from '../src/sources/duckdb.js'
import { mysql } from '../src/sources/mysql.js'
import { sqlite } from '../src/sources/sqlite.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

let calls = 0
const print = destination(10)(() => {
  calls++
})
const from = [{ id: 1 }, { id: 2 }]

describe('refused before anything happens, naming the sync and the remedy', () => {
  it.each<[string, object, string]>([
    ['no name', { name: '' }, 'sync: name is a string; give the sync a name'],
    [
      'an unknown mode',
      { mode: 'upsrt' },
      'people: "upsrt" is not a mode; the modes are append, insert, update, upsert',
    ],
    [
      'a mode that the destination does not serve',
      { mode: 'mirror', key: 'id' },
      'people: mode mirror needs delete, and',
    ],
    ['a keyed mode without a key', { mode: 'upsert' }, 'people: mode upsert needs key: name the column'],
    ['a ceiling that is none', { deleteCeiling: '-5%' }, `people: deleteCeiling is "-5%"; give a share such as '5%'`],
    ['a ceiling of half a row', { maxRejected: 0.5 }, 'people: maxRejected is 0.5; give a share'],
    ['a version that is none', { version: {} }, 'people: version is a Object; give a text or a number'],
    ['an empty key', { key: [] }, 'people: key must be the name of a column, or a list of them'],
    [
      'an option that does not exist',
      { modus: 'append' },
      'people: there is no option modus; the options are name, from, to',
    ],
    ['a destination that is none', { to: () => {} }, 'people: `to` is not a destination'],
    ['a source that is none', { from: 'select 1' }, 'people: `from` is a string'],
    ['a map that is none', { map: 'x' }, 'people: map is a string; it must be a function'],
    ['a cursor that is none', { cursor: {} }, 'people: cursor must be the name of a column'],
    ['a lag that is none', { cursor: { column: 'id', lag: -1 } }, 'people: cursor lag is a number; give a duration'],
    ['a lag without a unit', { cursor: { column: 'id', lag: '10' } }, '"10" is not a duration'],
    ['a state in a database', { state: 'postgres://localhost/x' }, 'people: state must be the path of a folder'],
    [
      'an operation that the destination lacks',
      { to: destination(1)({ upsert() {} }) },
      'people: mode append needs insert, and destination can only upsert',
    ],
  ])('%s', (_, change, message) => {
    const make = () => sync({ name: 'people', from, to: print, ...change } as never)
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(message)
  })

  it.each<[object | number, string]>([
    [0, 'batchSize is 0; it must be a whole number of at least 1'],
    [1.5, 'batchSize is 1.5; it must be'],
    [{ batchSize: Number.NaN }, 'batchSize is NaN'],
    [{ name: 'crm', maxBatchSize: 0 }, 'crm: maxBatchSize is 0; it must be a whole number'],
    [{ name: 'crm', maxBatchSize: 5, batchSize: 6 }, 'crm: batchSize is 6; it must be at most 5'],
    [{ name: 'crm', batchBytes: -1 }, 'crm: batchBytes is -1'],
    [{ name: 'crm', concurrency: 0 }, 'crm: concurrency is 0'],
    [{ name: 'crm', rate: '10' }, 'crm: rate: "10" is not a rate'],
    [{ name: 'crm', timeout: '5' }, 'crm: timeout: "5" is not a duration'],
    [{ name: 'crm', onUnknown: 'drop' }, `crm: onUnknown is "drop"; it must be 'resend' or 'hold'`],
    [{ config: z.object({}) }, 'a destination with config needs a name'],
  ])('a destination with %j', (options, message) => {
    const make = () => destination(options as never)((() => {}) as never)
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(message)
  })

  it('a handler with a misspelt name, or none', () => {
    expect(() => destination(1)({ upsrt() {} } as never)).toThrow('upsrt is not a handler')
    expect(() => destination(1)({ verify: () => [] } as never)).toThrow('no handler: give at least one of insert')
  })
})

describe('refused when the run begins, before anything is sent', () => {
  it('missing config, with every place that was looked at', async () => {
    const crm = destination({ name: 'crm', config: z.object({ url: z.url(), token: z.string() }) })(() => {
      calls++
    })
    const run = sync({ name: 'people', from, to: crm({ url: 'https://crm.test' }), state: await stateFolder() }).run()
    await expect(run).rejects.toThrow(ConfigError)
    await expect(run).rejects.toThrow(/token: missing.*DESTINATION__CRM__TOKEN.*secrets\.toml.*config\.toml/s)
  })

  it('duplicate keys, which are named', async () => {
    calls = 0
    const twice = [{ id: 1 }, { id: 2 }, { id: 1 }]
    const one = sync({ name: 'people', from: twice, to: print, key: 'id', state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow(
      'people: rows of the source share a key: id = 1 (2 times). Nothing was sent.',
    )
    expect(calls).toBe(0)
    twice.pop()
    expect(await one.run()).toMatchObject({ delivered: 2, resumed: { rows: 3, superseded: 3 } })
  })

  it.each<[string, unknown[], string]>([
    ['is no object', [{ id: 1 }, 5], 'people: row 2 of the source is a number, not an object with columns'],
    ['is null', [null], 'people: row 1 of the source is null'],
    ['holds a function', [{ id: 1, f() {} }], 'people: row 1 of the source holds a function in column "f"'],
  ])('a row that %s', async (_, rows, message) => {
    const one = sync({ name: 'people', from: rows as object[], to: print, state: await stateFolder(), log: quiet })
    await expect(one.run()).rejects.toThrow(SourceError)
    await expect(one.run()).rejects.toThrow(message)
  })

  it('a row without its key is a dead letter, and the others go', async () => {
    const rows = [{ id: 1 }, { id: null }, {}]
    const one = sync({
      name: 'people',
      from: rows as { id: number }[],
      to: print,
      key: 'id',
      state: await stateFolder(),
      log: quiet,
    })
    expect(await one.run()).toMatchObject({ delivered: 1, rejected: 2 })
  })

  it('a second run while one is under way', async () => {
    const state = await stateFolder()
    let second: Promise<unknown> | undefined
    const to = destination(1)(async () => {
      second ??= sync({ name: 'people', from, to: print, state }).run()
      await expect(second).rejects.toThrow(AlreadyRunningError)
      await expect(second).rejects.toThrow(/^people: another run of this sync is under way/)
    })
    expect(await sync({ name: 'people', from, to, state }).run()).toMatchObject({ delivered: 2 })
  })

  it('another target than what was delivered to, until the sync is reset', async () => {
    const state = await stateFolder()
    const tab = (name: string) => destination({ name: 'sheet', target: () => ({ tab: name }) })(() => {})
    const into = (name: string) => sync({ name: 'people', from, to: tab(name), key: 'id', mode: 'insert', state })
    await into('Leads').run()
    await expect(into('Contacts').run()).rejects.toThrow(
      /destination was sheet \{"tab":"Leads"\} and is sheet \{"tab":"Contacts"\}.*reset/,
    )
    await into('Contacts').reset()
    expect(await into('Contacts').run()).toMatchObject({ delivered: 2 })
  })
})

describe('a state folder', () => {
  it.each<[string, (folder: string) => Promise<string>]>([
    [
      'below a file',
      async (folder) => {
        await writeFile(join(folder, 'file'), '')
        return join(folder, 'file', 'state')
      },
    ],
    // not even root may write there
    ['that nobody may make', async () => '/sys/spillway'],
    ['that nobody may write to', async () => '/sys/kernel'],
  ])('%s is a clear error', async (_, make) => {
    const state = await make(await stateFolder())
    const run = sync({ name: 'people', from, to: print, state }).run()
    await expect(run).rejects.toThrow(ConfigError)
    await expect(run).rejects.toThrow(
      /^state: .* cannot be written .*; check its permissions or choose another state folder$/,
    )
  })
})

it.each([
  ['duckdb', () => duckdb({ qery: 'from a' } as never)],
  ['mysql', () => mysql({ url: 'mysql://localhost/a', table: 'a', ssl: true } as never)],
  ['sqlite', () => sqlite({ path: 'a.db', table: 'a', readonly: true } as never)],
])('an option that %s does not have is refused with those that it has', (name, make) => {
  expect(make).toThrow(new RegExp(`^${name}: there is no option \\w+; the options are .*query`))
})
