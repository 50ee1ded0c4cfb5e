import { type AnyRow, type Destination, Instant, type Mode, type Run, sync } from 'spillway'
import { expect, test } from 'vitest'
import { quiet } from './quiet.js'
import { stateFolder } from './state-folder.js'

/** A database of which tables are written and read. */
export interface TablePlace {
  to(table: string, match?: string): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete' | 'replace'>
  /** The rows of a query, as the source reads them. */
  read(query: string): Promise<AnyRow[]>
  readonly config: object
  run(sql: string): Promise<unknown>
  /** How its tables call a type. */
  readonly types: { readonly integer: string; readonly decimal: string; readonly binary: string; readonly json: string }
}

let tables = 0
export const fresh = () => `t${++tables}`

/** Sends rows once, on a state of their own unless one is given. */
export async function send(
  to: Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete' | 'replace'>,
  rows: AnyRow[] | (() => AnyRow[]),
  options: { mode: Mode; key?: string | readonly string[]; state?: string; allowDeletes?: boolean },
): Promise<Run & { reasons: string[] }> {
  const { mode, key = 'id', state = await stateFolder(), allowDeletes = true } = options
  // biome-ignore lint/suspicious/noExplicitAny: the mode is a variable here
  const it = sync({ name: 'it', from: rows, to, state, log: quiet, mode, ...(mode === 'append' ? {} : { key }) } as any)
  const run = await it.run({ allowDeletes, allowRejections: true })
  const reasons: string[] = []
  for await (const { reason } of it.deadLetters()) reasons.push(reason)
  return { ...run, reasons }
}

/** What tables of all databases do alike. */
export function behavesAsTable(place: () => TablePlace): void {
  const all = (table: string, columns = '*') => place().read(`select ${columns} from ${table} order by 1`)

  test('a missing table is made from the types of the rows, and gets further columns when they come', async () => {
    const table = fresh()
    const state = await stateFolder()
    const first = [{ id: 1, name: 'Ada', big: 2n ** 62n, on: true, half: 0.5, tags: ['a'] }]
    expect(await send(place().to(table), first, { mode: 'upsert', state })).toMatchObject({ delivered: 1 })
    const second = [...first, { id: 2, name: 'Grace', since: new Date(0) }]
    expect(await send(place().to(table), second, { mode: 'upsert', state })).toMatchObject({ delivered: 1 })
    expect(await all(table)).toMatchObject([
      { id: 1n, name: 'Ada', big: 2n ** 62n, on: true, half: 0.5, tags: ['a'], since: null },
      { id: 2n, name: 'Grace', big: null, on: null, half: null, tags: null, since: new Date(0) },
    ])
  })

  test('an upsert updates what is there and inserts what is not; an absent field is left alone, null clears', async () => {
    const table = fresh()
    await place().run(`create table ${table} (id integer primary key, a text, b text)`)
    await place().run(`insert into ${table} values (1, 'a1', 'b1'), (2, 'a2', 'b2'), (3, 'a3', 'b3')`)
    const rows = [{ id: 1, a: 'new' }, { id: 2, b: null }, { id: 3, a: undefined, b: '' }, { id: 4, a: '0' }, { id: 5 }]
    expect(await send(place().to(table), rows, { mode: 'upsert' })).toMatchObject({ delivered: 5 })
    expect(await all(table)).toEqual([
      { id: 1, a: 'new', b: 'b1' },
      { id: 2, a: 'a2', b: null },
      { id: 3, a: 'a3', b: '' },
      { id: 4, a: '0', b: null },
      { id: 5, a: null, b: null },
    ])
  })

  test('a key of several fields finds its row', async () => {
    const table = fresh()
    const rows = [
      { org: 'a', id: 1, v: 1 },
      { org: 'b', id: 1, v: 2 },
    ]
    const options = { mode: 'upsert', key: ['org', 'id'], state: await stateFolder() } as const
    await send(place().to(table), rows, options)
    await send(place().to(table), [{ org: 'a', id: 1, v: 9 }, rows[1]!], options)
    expect(await all(table, 'org, v')).toEqual([
      { org: 'a', v: 9n },
      { org: 'b', v: 2n },
    ])
  })

  test('a mirror deletes what is gone, and nothing else', async () => {
    const table = fresh()
    const state = await stateFolder()
    const rows = [1, 2, 3].map((id) => ({ id, v: 'x' }))
    await send(place().to(table), rows, { mode: 'mirror', state })
    await place().run(`insert into ${table} (id, v) values (99, 'not ours')`)
    expect(await send(place().to(table), rows.slice(1), { mode: 'mirror', state })).toMatchObject({
      deletes: { delivered: 1 },
    })
    expect((await all(table)).map(({ id }) => id)).toEqual([2n, 3n, 99n])
  })

  test('an update rejects rows that are not there, and makes none', async () => {
    const table = fresh()
    await place().run(`create table ${table} (id integer, v text)`)
    await place().run(`insert into ${table} values (1, 'old')`)
    const run = await send(place().to(table), [{ id: 1, v: 'new' }, { id: 2, v: 'new' }, { id: 3 }], { mode: 'update' })
    expect(run).toMatchObject({ delivered: 1, rejected: 2, reasons: ['no row has its key', 'no row has its key'] })
    expect(await all(table)).toEqual([{ id: 1, v: 'new' }])
  })

  test('an update of a table that is missing stops, and says what to do', async () => {
    const table = fresh()
    await expect(send(place().to(table), [{ id: 1 }], { mode: 'update' })).rejects.toThrow(/there is no table.*make it/)
  })

  test('append keeps equal rows, and makes no key of its own', async () => {
    const table = fresh()
    const rows = [{ id: 1 }, { id: 1 }, { id: 1 }]
    expect(await send(place().to(table), rows, { mode: 'append' })).toMatchObject({ delivered: 3 })
    expect(await all(table)).toEqual([{ id: 1n }, { id: 1n }, { id: 1n }])
  })

  test('replace leaves just the rows of the source, in a table with a key too', async () => {
    const table = fresh()
    const state = await stateFolder()
    await place().run(`create table ${table} (id integer primary key, v text)`)
    await place().run(`insert into ${table} values (1, 'old'), (7, 'old')`)
    const rows = Array.from({ length: 2_500 }, (_, id) => ({ id, v: 'new' }))
    const options = { mode: 'replace', state } as const
    expect(await send(place().to(table).with({ batchSize: 1_000 }), rows, options)).toMatchObject({ delivered: 2_500 })
    expect(await place().read(`select count(*)::integer as n, min(v) as v from ${table}`)).toEqual([
      { n: 2_500, v: 'new' },
    ])
    await send(place().to(table), rows.slice(0, 2), options)
    expect(await all(table)).toEqual(rows.slice(0, 2))
  })

  test('nobody sees a replace before its end, and one that breaks off leaves the old rows', async () => {
    const table = fresh()
    await place().run(`create table ${table} (id integer primary key, v text)`)
    await place().run(`insert into ${table} values (1, 'old')`)
    const { handlers } = await handlersOf(place().to(table))
    async function* halfOf() {
      yield [{ id: 1, v: 'new' }]
      yield [{ id: 2, v: 'new' }]
      throw new Error('the source broke off')
    }
    await expect(handlers['replace']!(halfOf(), contextIn(place(), 'the key'))).rejects.toThrow(
      'nothing of the batch was applied',
    )
    expect(await all(table)).toEqual([{ id: 1, v: 'old' }])
  })

  test('values come back as they were sent', async () => {
    const table = fresh()
    const { integer, decimal, binary, json } = place().types
    await place().run(
      `create table ${table} (id integer primary key, big ${integer}, exact ${decimal}, day date, moment timestamp, instant timestamptz, bytes ${binary}, doc ${json}, double double precision, flag boolean, name text)`,
    )
    const rows = [
      {
        id: 1,
        big: 9_223_372_036_854_775_807n,
        exact: '12345678901234567890.123456789012345678',
        day: '2026-03-29',
        moment: '2026-03-29T02:30:00.123456',
        instant: Instant.of('2026-03-29T01:30:00.123456Z'),
        bytes: new Uint8Array([0, 1, 92, 39, 255]),
        doc: { id: 2n ** 60n, list: [1, null, "it's", 'a\\b', '"'], empty: {}, nested: { at: '2026' } },
        double: 0.1,
        flag: false,
        name: `it's "quoted" \\ {a,b} NULL \n\t ✓ 😀`,
      },
      {
        id: 2,
        big: null,
        exact: null,
        day: null,
        moment: null,
        instant: null,
        bytes: null,
        doc: null,
        double: null,
        flag: null,
        name: null,
      },
      {
        id: 3,
        big: 0n,
        exact: '0.000000000000000000',
        day: '0001-01-01',
        moment: '9999-12-31T23:59:59.999999',
        instant: new Date(-1),
        bytes: new Uint8Array(),
        doc: 'text',
        double: Number.NaN,
        flag: true,
        name: '',
      },
      {
        id: 4,
        big: -1n,
        exact: '-1.000000000000000000',
        day: '2026-01-01',
        moment: '2026-01-01T00:00:00',
        instant: new Date('+012026-01-01T00:00:00Z'),
        bytes: new Uint8Array(300).fill(7),
        doc: [1.5, -0.5],
        double: Number.NEGATIVE_INFINITY,
        flag: true,
        name: 'NULL',
      },
      {
        id: 5,
        big: 1n,
        exact: '1.000000000000000000',
        day: '2026-01-01',
        moment: '2026-01-01T00:00:00',
        instant: new Date(0),
        bytes: new Uint8Array([48]),
        doc: 0,
        double: -0,
        flag: false,
        name: 'null',
      },
    ]
    for (const mode of ['insert', 'replace', 'upsert'] as const) {
      await place().run(`delete from ${table}`)
      expect(await send(place().to(table), rows, { mode })).toMatchObject({ delivered: 5, reasons: [] })
      expect(await all(table), mode).toEqual(rows)
    }
  })

  test('numbers with a fraction are not rounded into a column of integers, but rejected alone', async () => {
    const table = fresh()
    await place().run(`create table ${table} (id integer primary key, n integer)`)
    const rows = [
      { id: 1, n: 1.5 },
      { id: 2, n: 2 },
      { id: 3, n: Number.NaN },
      { id: 4, n: 3_000_000_000 },
      { id: 5, n: 'five' },
      { id: 6, n: '6' },
    ]
    expect(await send(place().to(table), rows, { mode: 'upsert' })).toMatchObject({ delivered: 2, rejected: 4 })
    expect(await all(table)).toEqual([
      { id: 2, n: 2 },
      { id: 6, n: 6 },
    ])
  })

  test('a bad row in a batch is rejected alone, with a reason that does not quote its value', async () => {
    for (const mode of ['insert', 'upsert', 'append', 'replace'] as const) {
      const table = fresh()
      await place().run(`create table ${table} (id integer primary key, day date)`)
      const rows = Array.from({ length: 50 }, (_, id) => ({ id, day: id === 31 ? 'sesame-31' : '2026-01-31' }))
      const run = await send(place().to(table), rows, { mode })
      expect(run, mode).toMatchObject({ delivered: 49, rejected: 1 })
      expect(await all(table, 'id'), mode).toHaveLength(49)
      expect(run.reasons.join()).not.toContain('sesame')
    }
  })

  test('records that no table could hold are rejected alone', async () => {
    const table = fresh()
    const rows = [
      { id: 1, v: 'half \uD83D' },
      { id: 2, v: new Date(Number.NaN) },
      { id: 3, v: ['\uDE00'] },
      { id: 4, '': 'no name' },
      { id: 5, 'a\0b': 'NUL' },
      { id: 6, v: 'well' },
    ]
    const run = await send(place().to(table), rows, { mode: 'upsert' })
    expect(run).toMatchObject({ delivered: 1, rejected: 5 })
    expect(run.reasons.join()).toMatch(/half of a character.*invalid date/)
    expect(await all(table)).toEqual([{ id: 6n, v: 'well' }])
    expect(await send(place().to(table), rows, { mode: 'replace' })).toMatchObject({ delivered: 1, rejected: 5 })
    const empty = await send(place().to(table), [{}, { id: 9 }], { mode: 'append' })
    expect(empty).toMatchObject({ delivered: 1, reasons: ['the record has no fields'] })
  })

  test('names and values are data, never SQL', async () => {
    const bait = fresh()
    await place().run(`create table ${bait} (id integer)`)
    const evil = `x"; drop table ${bait}; --`
    const rows = [{ id: 1, [evil]: `'); drop table ${bait}; --`, "it's $1 \\": '$1 $' + '{x}' }]
    const table = `"${evil.replaceAll('"', '""')} table"`
    for (const mode of ['upsert', 'update', 'mirror', 'replace'] as const) {
      expect(await send(place().to(table), rows, { mode })).toMatchObject({ delivered: 1, rejected: 0 })
    }
    expect(await all(table)).toEqual([{ ...rows[0], id: 1n }])
    expect(await all(bait)).toEqual([])
    expect(() => place().to(`${bait}"; drop table ${bait}; --`)).toThrow(/table is no name/)
    for (const name of ['', '.', 'a.', 'a.b.c', 'a\0b', '"a'])
      expect(() => place().to(name)).toThrow(/table is no name/)
  })

  test('an upsert into a table without a unique index names the statement to run', async () => {
    const table = fresh()
    await place().run(`create table ${table} (id integer, v text)`)
    await expect(send(place().to(table), [{ id: 1, v: 'x' }], { mode: 'upsert' })).rejects.toThrow(
      `create unique index on "${table}" ("id")`,
    )
    expect(await all(table)).toEqual([])
  })

  test('two rows with one match value in a batch are both delivered, the later one last', async () => {
    const table = fresh()
    const rows = [
      { id: 1, email: 'a', v: 1 },
      { id: 2, email: 'b', v: 2 },
    ]
    await send(place().to(table, 'email'), rows, { mode: 'upsert' })
    expect(await all(table, 'email, v')).toEqual([
      { email: 'a', v: 1n },
      { email: 'b', v: 2n },
    ])
  })

  test('a batch of which the note is there is not inserted again', async () => {
    const table = fresh()
    const { handlers } = await handlersOf(place().to(table))
    const context = contextIn(place(), 'the key')
    // an absent field, as `map` may leave it, makes no column
    await handlers['insert']!([{ id: 1, v: undefined }], context)
    await handlers['insert']!([{ id: 1 }], context)
    await handlers['insert']!([{ id: 2 }], contextIn(place(), 'another key'))
    expect(await all(table)).toEqual([{ id: 1n }, { id: 2n }])
    const [asked, unfit] = [{ id: 1 }, { id: 1, v: '\uD83D' }]
    expect(await handlers['verify']!([asked, unfit], context)).toEqual([asked])
    expect(await handlers['verify']!([asked], contextIn(place(), 'a third key'))).toEqual([])
  })

  test('notes go after 30 days', async () => {
    const table = fresh()
    const { handlers } = await handlersOf(place().to(table))
    await handlers['insert']!([{ id: 1 }], contextIn(place(), 'the key'))
    const old = (days: number) =>
      `update _spillway_batches set noted = now() - interval '${days} days' where key = 'the key'`
    const keys = async () => (await place().read('select key from _spillway_batches')).map(({ key }) => key)
    await place().run(old(29))
    await handlers['insert']!([{ id: 2 }], contextIn(place(), 'key 2', 'run 2'))
    expect(await keys()).toContain('the key')
    await place().run(old(31))
    await handlers['insert']!([{ id: 3 }], contextIn(place(), 'key 3', 'run 3'))
    expect(await keys()).not.toContain('the key')
  })
}

async function handlersOf(to: Destination<never>) {
  const { definitionOf } = await import('../../src/destination.js')
  return definitionOf(to, 'test')
}

function contextIn({ config }: TablePlace, idempotencyKey: string, run = 'run 1') {
  const columns = [{ name: 'id', type: 'integer', nullable: false }]
  const signal = new AbortController().signal
  return { idempotencyKey, run, operation: 'insert', match: [], table: { columns }, signal, config }
}
