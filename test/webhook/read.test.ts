import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { ConfigError, destination, runAll, type Source, sync } from '../../src/index.js'
import { webhook } from '../../src/sources/webhook.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { hook, rowsOf } from './support.js'

const checkpoint = Symbol.for('spillway.checkpoint')
afterEach(() => void Reflect.deleteProperty(globalThis, checkpoint))

const numbers = (seen: readonly object[]) => seen.map((row) => Reflect.get(row, 'n') as number)

describe('a sync that reads a webhook', () => {
  it('is given every event once, whatever other syncs have read, and events go when all of them have', async () => {
    const { send, reader, source } = await hook()
    const [one, two] = [reader('one'), reader('two')]
    await send({ a: { n: 1 }, b: { n: 2 } })
    expect(await one.run()).toMatchObject({ status: 'done', rows: 2, delivered: 2 })
    await send({ c: { n: 3 } })
    expect(await rowsOf(source)).toHaveLength(3)
    expect(await two.run()).toMatchObject({ rows: 3, delivered: 3 })
    expect(await one.run()).toMatchObject({ rows: 1, delivered: 1 })
    expect(await one.run()).toMatchObject({ rows: 0, status: 'done' })
    expect(await rowsOf(source)).toEqual([])
    expect([one, two].map(({ seen }) => numbers(seen))).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ])
    expect(await one.sync.status()).toMatchObject({ cursor: 'hook#3', pending: 0 })
  })

  it('is given it also when it runs together with others that stand elsewhere', async () => {
    const { send, reader } = await hook()
    const [one, two] = [reader('one'), reader('two')]
    await send({ a: { n: 1 } })
    await one.run()
    await send({ b: { n: 2 } })
    await runAll([one.sync, two.sync])
    await runAll([one.sync, two.sync])
    expect([one, two].map(({ seen }) => numbers(seen))).toEqual([
      [1, 2],
      [1, 2],
    ])
  })

  it('is given what arrived before it ran for the first time, as long as it was declared', async () => {
    const { send, reader } = await hook()
    const one = reader('one')
    const late = reader('late')
    await send({ a: { n: 1 } })
    await one.run()
    await one.run()
    await late.run()
    expect(numbers(late.seen)).toEqual([1])
  })

  it('is given, after a reset, what the inbox still holds, and what arrives from then on', async () => {
    const { send, reader } = await hook()
    const [one, two] = [reader('one'), reader('two')]
    await send({ a: { n: 1 } })
    await one.run()
    await one.sync.reset()
    await send({ b: { n: 2 } })
    await two.run()
    await two.run()
    await one.run()
    expect(numbers(one.seen)).toEqual([1, 1, 2])
  })

  it('that was reset and is gone keeps nothing any more', async () => {
    const { state, send, reader } = await hook()
    const gone = reader('gone')
    await send({ a: { n: 1 } })
    await gone.sync.reset()
    // a later program, in which it is not declared
    const later = webhook({ name: 'hook', state, log: quiet })
    onTestFinished(() => later.close())
    const to = destination(10)(() => {})
    const stays = sync({ name: 'stays', from: later, to, state, log: quiet })
    await stays.run()
    await stays.run()
    expect(await rowsOf(later)).toEqual([])
  })

  it('reads as many pages as there are, and only what had arrived when it began', async () => {
    const { receive, reader, source, send } = await hook({ bodyLimit: 5_000_000 })
    const events = Array.from({ length: 2_500 }, (_, n) => ({ n }))
    await receive({ headers: { 'webhook-id': 'many' }, body: JSON.stringify(events) })
    let more = true
    const growing = source.map((row) => {
      if (more) void send({ late: { n: -1 } })
      more = false
      return row
    })
    const one = reader('one', growing)
    expect(await one.run()).toMatchObject({ rows: 2_500 })
    expect(numbers(one.seen)).toEqual(numbers(events))
    expect(await one.run()).toMatchObject({ rows: 1 })
  })

  it('takes only the events of its types, moves past the others, and may take their envelopes', async () => {
    const { send, reader, source } = await hook()
    const made = reader('made', source.on('made', 'changed').on('made'))
    const named = reader('named', source.on('gone').envelopes)
    const odd = reader(
      'odd',
      source.filter(({ n }) => n === 2),
    )
    await send({ a: { n: 1, type: 'made' } })
    await send({ b: { n: 2, type: 'gone' } })
    await send({ c: { n: 3 } })
    for (const { run } of [made, named, odd]) await run()
    expect(made.seen).toEqual([{ n: 1, type: 'made' }])
    expect(named.seen).toEqual([{ id: 'b', type: 'gone', receivedAt: expect.any(Date), event: { n: 2, type: 'gone' } }])
    expect(numbers(odd.seen)).toEqual([2])
    for (const { run } of [made, named, odd]) expect(await run()).toMatchObject({ rows: 0 })
    expect(await rowsOf(source)).toEqual([])
  })

  it('does the same with the keyed modes: the newest event of a key wins, and what is the same is not sent again', async () => {
    const { send, source, state } = await hook()
    const sent: object[][] = []
    const to = destination({ name: 'crm', batchSize: 10 })((batch) => void sent.push([...batch]))
    const people = sync({ name: 'people', from: source, to, key: 'id', mode: 'upsert', state, log: quiet })
    await send({ a: { id: 1, name: 'Ada' } })
    await send({ b: { id: 1, name: 'Ada L.' } })
    expect(await people.plan()).toMatchObject({ insert: 1, rows: 2 })
    expect(await people.run()).toMatchObject({ rows: 2, delivered: 1, superseded: 1 })
    await send({ c: { id: 1, name: 'Ada L.' } })
    expect(await people.run()).toMatchObject({ rows: 1, unchanged: 1 })
    expect(sent).toEqual([[{ id: 1, name: 'Ada L.' }]])
  })

  it('sends its dead letters again from what it stored, for the inbox has them no more', async () => {
    const { send, source, state } = await hook()
    let open = false
    const seen: object[] = []
    const to = destination({ name: 'shy', batchSize: 1 })((batch) => {
      if (!open && batch[0]!['n'] === 2) throw Object.assign(new Error('no'), { status: 422 })
      seen.push(...batch)
    })
    const shy = sync({ name: 'shy', from: source, to, key: 'n', mode: 'upsert', state, log: quiet })
    await send({ a: { n: 1 } })
    await send({ b: { n: 2 } })
    expect(await shy.run()).toMatchObject({ delivered: 1, rejected: 1 })
    await shy.run()
    expect(await rowsOf(source)).toEqual([])
    open = true
    expect(await shy.redrive()).toMatchObject({ delivered: 1 })
    expect(numbers(seen)).toEqual([1, 2])
  })

  it('that a new program changes to another webhook begins with what that one holds', async () => {
    const { send, reader, state } = await hook()
    await send({ a: { n: 1 }, b: { n: 2 } })
    await reader('one').run()
    const other = await hook({ name: 'other', state })
    await other.send({ a: { n: 3 } })
    const changed = other.reader('one')
    await changed.run()
    expect(numbers(changed.seen)).toEqual([3])
  })
})

describe('a place in the inbox', () => {
  it('does not pass events that are still being enriched', async () => {
    const { send, source, reader } = await hook()
    await send({ a: { n: 1 }, b: { n: 2 }, c: { n: 3 } })
    let fails = true
    const enriched = source.enrich(
      async (rows) => {
        if (fails && rows.some(({ n }) => n === 3)) throw new Error('the look-up is down')
        return rows
      },
      { batchSize: 2, concurrency: 1 },
    )
    const one = reader('one', enriched)
    await expect(one.run()).rejects.toThrow('the look-up is down')
    expect(numbers(one.seen)).toEqual([])
    fails = false
    await one.run()
    expect(numbers(one.seen)).toEqual([1, 2, 3])
  })

  it('stays before an event that `freeze` refuses, and before those that came with it', async () => {
    const { send, source, state } = await hook()
    const seen: object[] = []
    const to = destination(10)((batch) => void seen.push(...batch))
    const options = { name: 'strict', from: source, to, state, log: quiet } as const
    await send({ a: { n: 1 } })
    await sync({ ...options, schemaContract: 'freeze' }).run()
    await send({ b: { n: 2 } })
    await send({ c: { n: 3, more: true } })
    await expect(sync({ ...options, schemaContract: 'freeze' }).run()).rejects.toThrow('more')
    expect(numbers(seen)).toEqual([1])
    await sync(options).run()
    expect(numbers(seen)).toEqual([1, 2, 3])
  })

  it('stays before an event of which a transform makes what cannot be kept, and before those that came with it', async () => {
    const { receive, source, reader } = await hook()
    let broken = true
    const one = reader(
      'one',
      source.map((row) => (broken && row['n'] === 120 ? { ...row, f() {} } : row)),
    )
    // more than one frame of the stage, so that some of them can be kept
    const all = Array.from({ length: 150 }, (_, n) => ({ n }))
    await receive({ headers: {}, body: JSON.stringify(all) })
    await expect(one.run()).rejects.toThrow('which cannot be kept')
    broken = false
    await one.run()
    expect(numbers(one.seen)).toEqual(numbers(all))
  })

  it('of a run that is stopped is where its rows end', async () => {
    const { receive, source, state } = await hook()
    const all = Array.from({ length: 3_500 }, (_, n) => ({ n }))
    await receive({ headers: {}, body: JSON.stringify(all) })
    const stop = new AbortController()
    const seen: object[] = []
    const to = destination(500)((batch) => void seen.push(...batch))
    const halting: Source<object> = source.map((row) => {
      if (row['n'] === 2_200) stop.abort()
      return row
    })
    const run = (from: Source<object>, signal?: AbortSignal) =>
      sync({ name: 'halting', from, to, state, log: quiet }).run({ signal })
    expect(await run(halting, stop.signal)).toMatchObject({ status: 'incomplete' })
    expect(await run(source)).toMatchObject({ status: 'done' })
    expect(numbers(seen)).toEqual(numbers(all))
  })
})

describe('what cannot be right is refused', () => {
  const to = destination({ name: 'all', batchSize: 10 })({ upsert() {}, delete() {}, replace() {} })
  const insert = destination(10)(() => {})
  const source = webhook({ name: 'hook', state: '/tmp/nowhere' })
  const state = '/tmp/nowhere'

  it.each(['mirror', 'replace'] as const)('mode %s, because events are never all there is', (mode) => {
    const make = () => sync({ name: 'a', from: source, to, key: 'id', mode, state })
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(`a: mode ${mode} takes away what the source does not show`)
  })

  it('a cursor, for the inbox keeps the place', () => {
    expect(() => sync({ name: 'a', from: source, to: insert, cursor: 'at', state })).toThrow(
      'a: webhook hook keeps the place of each sync that reads it: leave cursor out',
    )
  })

  it('a sync whose state is elsewhere', () => {
    expect(() => sync({ name: 'a', from: source, to: insert, state: '/tmp/elsewhere' })).toThrow(
      'a: its state is in /tmp/elsewhere, and that of webhook hook in /tmp/nowhere',
    )
  })

  it('a limit, which would lose events or read them twice', () => {
    expect(() => source.limit(1)).toThrow('webhook hook: limit()')
  })
})

it('the database of an older version takes what a webhook needs', async () => {
  const state = await stateFolder()
  const to = destination(10)(() => {})
  await sync({ name: 'old', from: [{ n: 1 }], to, state, log: quiet }).run()
  const { default: Sqlite } = await import('libsql')
  const old = new Sqlite(`${state}/state.db`)
  old.exec('drop table hook; drop table hook_reader; drop table event; drop table delivery')
  old.exec('alter table sync drop column delivered; pragma user_version = 2')
  old.close()
  const { send, source } = await hook({ state })
  await send({ a: { n: 1 } })
  expect(await rowsOf(source)).toEqual([{ n: 1 }])
})

it('the history of a sync that runs for ever is cut', async () => {
  const { reader, state } = await hook()
  const [one, other] = [reader('one'), reader('other')]
  for (const { run } of [one, other]) await run()
  const { default: Sqlite } = await import('libsql')
  const database = new Sqlite(`${state}/state.db`)
  onTestFinished(() => void database.close())
  database.exec(`insert into run select 1, 'run-' || value, 0, 0, 'done', null from generate_series(1, 1500)`)
  await one.run()
  const counts = database.prepare('select sync, count(*) as runs from run group by sync order by sync').all()
  expect(counts).toEqual([
    { sync: 1, runs: 1_000 },
    { sync: 2, runs: 1 },
  ])
  expect(await one.sync.status()).toMatchObject({ lastRun: { state: 'done', rows: 0 } })
})
