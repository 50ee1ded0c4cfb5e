import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  type AnyRow,
  ConfigError,
  destination,
  type Log,
  type Plan,
  type Readable,
  type Run,
  SourceError,
  type Sync,
  sync,
} from '../src/index.js'
import { duckdb } from '../src/sources/duckdb.js'
import { postgres } from '../src/sources/postgres.js'
import { databaseOfFile } from './support/database.js'
import { dieAt, immortal } from './support/death.js'
import { stateFolder } from './support/state-folder.js'

// A source comes to have other columns than it had: what is said about it, what is sent, and what is not.

type Contract = 'evolve' | 'freeze' | 'discard'
type Mode = 'upsert' | 'mirror' | 'append'

const database = databaseOfFile()

/** A column of a table: its values in two rows, as a query writes them and as they come into a row. */
type Cells = { readonly sql: readonly [string, string]; readonly values: readonly [unknown, unknown] }
type Table = { readonly [column: string]: Cells }

const cells = (type: string, ...values: readonly [unknown, unknown]): Cells => {
  const literal = (value: unknown) => (value === null ? 'null' : `'${value}'`)
  return { sql: [`cast(${literal(values[0])} as ${type})`, `cast(${literal(values[1])} as ${type})`], values }
}
const day = { sql: [`date '2026-01-31'`, `date '2026-02-01'`], values: ['2026-01-31', '2026-02-01'] } as const
const time = {
  sql: [`timestamp '2026-01-31 02:30:00'`, `timestamp '2026-02-01 02:30:00'`],
  values: ['2026-01-31T02:30:00', '2026-02-01T02:30:00'],
} as const

const people: Table = {
  id: cells('integer', 1, 2),
  name: cells('text', 'Ada', 'Bo'),
  city: cells('text', 'London', 'Paris'),
  age: cells('integer', 36, 40),
  size: cells('integer', 5, 6),
  at: time,
  note: cells('text', null, null),
}
const { city: _, ...withoutCity } = people
/** What may happen to a table, and what is said about it. `numbers`: only of a source that tells its types. */
const happenings: readonly [string, Table, { added?: string[]; dropped?: string[]; changed?: object[] }, 'types'?][] = [
  ['a new column', { ...people, phone: cells('text', '1', '2') }, { added: ['phone'] }],
  ['a column that is gone', withoutCity, { dropped: ['city'] }],
  [
    'integers that become text',
    { ...people, age: cells('text', '36', '40') },
    { changed: [{ name: 'age', from: 'integer', to: 'text' }] },
  ],
  [
    'integers that become bigints',
    { ...people, size: cells('bigint', 5n, 6n) },
    { changed: [{ name: 'size', from: 'integer', to: 'bigint' }] },
    'types',
  ],
  [
    'timestamps that become dates',
    { ...people, at: day },
    { changed: [{ name: 'at', from: 'timestamp', to: 'date' }] },
    'types',
  ],
  ['the first values of a column that held null', { ...people, note: cells('text', 'a', 'b') }, {}],
]
/** All of it. */
const after: Table = Object.assign({}, ...happenings.map(([, table]) => table))
const all: Table = Object.fromEntries(
  Object.entries({
    ...after,
    age: cells('text', '36', '40'),
    size: cells('bigint', 5n, 6n),
    at: day,
    note: cells('text', 'a', 'b'),
  }).filter(([name]) => name !== 'city'),
)

const rowsOf = (table: Table): AnyRow[] =>
  [0, 1].map((row) => Object.fromEntries(Object.entries(table).map(([name, { values }]) => [name, values[row]])))

const queryOf = (table: Table): string =>
  [0, 1]
    .map((row) => `select ${Object.entries(table).map(([name, { sql }]) => `${sql[row]} as "${name}"`)}`)
    .join(' union all ')

/** How each source comes to hold a table. */
const sources = {
  iterable: async (table: Table): Promise<Readable<AnyRow>> => rowsOf(table),
  duckdb: async (table: Table) => duckdb({ query: queryOf(table) }),
  postgres: async (table: Table) => {
    await database.client.query(`drop table if exists people; create table people as ${queryOf(table)}`)
    return postgres({ url: database.url, table: 'people' })
  },
} as const
type Kind = keyof typeof sources
const kinds = Object.keys(sources) as Kind[]

interface People {
  from: Readable<AnyRow>
  schemaContract: Contract | undefined
  map: ((row: AnyRow) => AnyRow) | undefined
  cursor: { column: string; lag: number } | undefined
  state: string
  /** What was sent and said by the latest run. */
  readonly sent: AnyRow[]
  readonly said: string[]
  sync(): Sync
  /** Runs, from now on with this source. */
  run(from?: Readable<AnyRow>, options?: object): Promise<Run>
  plan(from?: Readable<AnyRow>): Promise<Plan>
}

/** A sync whose source may be changed between runs. */
async function start(from: Readable<AnyRow>, mode: Mode = 'upsert', schemaContract?: Contract) {
  const sent: AnyRow[] = []
  const said: string[] = []
  const log: Log = {
    debug() {},
    info: (text) => void said.push(`info ${text}`),
    warn: (text) => void said.push(`warn ${text}`),
    error: (text) => void said.push(`error ${text}`),
  }
  const state = await stateFolder()
  const it: People = {
    from,
    schemaContract,
    sent,
    said,
    state,
    map: undefined,
    cursor: undefined,
    sync() {
      const write = (batch: AnyRow[]) => void sent.push(...batch)
      const to = destination({ batchSize: 10, settle: '1ms' })({ insert: write, upsert: write, delete() {} })
      return sync({
        name: 'people',
        from: it.from,
        to,
        key: mode === 'append' ? undefined : 'id',
        mode,
        schemaContract: it.schemaContract,
        state: it.state,
        log,
        ...(it.map && { map: it.map }),
        ...(it.cursor && { cursor: it.cursor }),
      } as never)
    },
    async run(from = it.from, options = {}) {
      it.from = from
      sent.length = 0
      said.length = 0
      return it.sync().run({ allowRejections: true, ...options })
    },
    async plan(from = it.from) {
      it.from = from
      said.length = 0
      return it.sync().plan()
    },
  }
  return it
}

const nothing = { added: [], dropped: [], changed: [] }
const pick = (rows: readonly AnyRow[], ...names: string[]) =>
  rows.map((row) => Object.fromEntries(names.map((name) => [name, row[name]])))

describe.each(kinds)('of %s', (kind) => {
  const describes = kind !== 'iterable'

  describe.each(happenings)('%s', (_, table, changes, only) => {
    it('is said in the plan and by the run that accepts it, and not again', async () => {
      const one = await start(await sources[kind](people))
      await one.run()
      expect(one.said).toEqual([])
      const next = await sources[kind](table)
      const expected = !only || describes ? { ...nothing, ...changes } : nothing
      if (!describes) {
        const inferred = (type: string) => (type === 'integer' ? 'number' : type)
        expected.changed = expected.changed?.map((change) => ({
          ...change,
          from: inferred(Reflect.get(change, 'from')),
        }))
      }
      expect((await one.plan(next)).columns).toEqual(expected)
      expect(one.said).toEqual([])
      expect(await one.run()).toMatchObject({ status: 'done' })
      const isSaid = Object.values(expected).flat().length > 0
      expect(one.said).toEqual(
        isSaid ? [expect.stringMatching(/^info people: the columns of the source have changed: /)] : [],
      )
      // what is an integer and what a bigint is the same to a destination
      const isSent = !table['size']!.sql[0].includes('bigint')
      expect(one.sent).toEqual(isSent ? rowsOf(table) : [])
      await one.run()
      expect(one.said).toEqual([])
    })
  })

  // what a source tells is treated alike, wherever it comes from
  describe.each<Mode>(kind === 'postgres' ? ['upsert'] : ['upsert', 'mirror', 'append'])(
    'in %s, everything at once',
    (mode) => {
      it('is sent as it is under evolve', async () => {
        const one = await start(await sources[kind](people), mode)
        await one.run()
        expect(await one.run(await sources[kind](all))).toMatchObject({ status: 'done', delivered: 2 })
        expect(one.sent).toEqual(rowsOf(all))
        expect(one.said).toEqual([
          describes
            ? 'info people: the columns of the source have changed: phone is new; city is gone; age was integer and is text; size was integer and is bigint; at was timestamp and is date'
            : 'info people: the columns of the source have changed: phone is new; city is gone; age was number and is text',
        ])
        expect((await one.plan()).columns).toEqual(nothing)
      })

      it('stops the run under freeze before anything of it is sent, again and again, until it is accepted', async () => {
        const one = await start(await sources[kind](people), mode, 'freeze')
        await one.run()
        expect(one.sent).toEqual(rowsOf(people))
        const next = await sources[kind](all)
        const plan = await one.plan(next)
        expect(plan.stopped).toMatch(/^the columns of the source have changed: .*schemaContract is 'freeze'/)
        expect(plan.columns).toMatchObject({ added: ['phone'], dropped: ['city'] })
        for (let time = 0; time < 2; time++) {
          const error = await one.run(next).catch((error: unknown) => error)
          if (describes || mode !== 'append') {
            expect(error).toBeInstanceOf(ConfigError)
            const gone = describes ? ' city is gone;' : ''
            expect(String(error)).toContain(
              `people: the columns of the source have changed: phone is new;${gone} age was `,
            )
            expect(String(error)).toContain(`Correct the query, or run once with schemaContract 'evolve' to accept it`)
          } else {
            expect(error).toBeInstanceOf(SourceError)
            expect(String(error)).toContain(
              'people: row 1 of the source holds text in column age, which held number so far.',
            )
          }
          expect(one.sent).toEqual([])
          expect(one.said).toEqual([])
        }
        one.schemaContract = 'evolve'
        expect(await one.run()).toMatchObject({ status: 'done' })
        expect(one.sent).toEqual(rowsOf(all))
        one.schemaContract = 'freeze'
        expect(await one.run()).toMatchObject({ status: 'done' })
      })

      it('is left out under discard, and said as long as it is', async () => {
        const one = await start(await sources[kind](people), mode, 'discard')
        await one.run()
        expect(one.sent).toEqual(rowsOf(people))
        const next = await sources[kind](all)
        const kept = pick(rowsOf(all), ...(describes ? ['id', 'name', 'note'] : ['id', 'name', 'size', 'at', 'note']))
        expect((await one.plan(next)).columns).toMatchObject({ added: ['phone'], dropped: ['city'] })
        expect(one.said).toEqual([])
        for (let time = 0; time < 2; time++) {
          expect(await one.run(next)).toMatchObject({ status: 'done' })
          expect(one.sent).toEqual(time === 0 || mode === 'append' ? kept : [])
          expect(one.said).toEqual([
            expect.stringMatching(
              describes
                ? /^warn people: the columns .*; city is gone; .*\. Left out: phone, age, size, at$/
                : /^warn people: the columns .*; city is gone; .*\. Left out: phone, age$/,
            ),
          ])
        }
        // what was known is what counts still: the columns that come back are sent
        await one.run(await sources[kind](people))
        expect(one.sent).toEqual(rowsOf(people))
        expect(one.said).toEqual([])
        one.schemaContract = 'evolve'
        await one.run(await sources[kind](all))
        expect(one.sent).toEqual(rowsOf(all))
      })
    },
  )

  it('a new column that is discarded does not send a single row again', async () => {
    const one = await start(await sources[kind](people), 'upsert', 'discard')
    await one.run()
    const next = await sources[kind]({ ...people, phone: cells('text', '1', '2') })
    expect(await one.plan(next)).toMatchObject({ update: 0, unchanged: 2, columns: { added: ['phone'] } })
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 2 })
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 2 })
    await one.run(await sources[kind]({ ...people, phone: cells('text', '3', '4'), name: cells('text', 'Ada', 'Bob') }))
    expect(one.sent).toEqual(pick([{ ...rowsOf(people)[1], name: 'Bob' }], ...Object.keys(people)))
  })

  it('a column that is gone and that map uses is undefined there: rows are refused, and the run goes on', async () => {
    const one = await start(await sources[kind](people))
    one.map = ({ id, city }) => ({ id, city: city.toUpperCase() })
    expect(await one.run()).toMatchObject({ delivered: 2 })
    const run = await one.run(await sources[kind](withoutCity))
    expect(run).toMatchObject({ status: 'done', delivered: 0, rejected: 2 })
    for await (const { reason } of one.sync().deadLetters()) expect(reason).toContain('map failed: ')
    one.map = ({ id, city }) => ({ id, city })
    await one.run()
    expect(one.sent).toEqual([{ id: 1 }, { id: 2 }])
  })

  it('a key of another type is sent under discard too: without it, its row would not be found again', async () => {
    const one = await start(await sources[kind](people), 'mirror', 'discard')
    await one.run()
    const texts = await sources[kind]({ ...people, id: cells('text', 'a', 'b') })
    expect(await one.run(texts, { allowDeletes: true })).toMatchObject({ delivered: 2, rejected: 0 })
    expect(one.said).toEqual([expect.stringMatching(/^info .* id was (integer|number) and is text$/)])
    await one.run()
    expect(one.said).toEqual([])
  })

  it('what a run that came to nothing has said, the next one says again', async () => {
    const one = await start(await sources[kind](people), 'mirror')
    await one.run()
    const strangers = await sources[kind]({ ...people, id: cells('integer', 7, 8), phone: cells('text', '1', '2') })
    for (let time = 0; time < 2; time++) {
      await expect(one.run(strangers)).rejects.toThrow('would be deleted')
      expect((await one.plan()).columns).toEqual({ ...nothing, added: ['phone'] })
    }
    await one.run(strangers, { allowDeletes: true })
    expect(one.said).toEqual(['info people: the columns of the source have changed: phone is new'])
    await one.run(strangers)
    expect(one.said).toEqual([])
  })

  it('reset() forgets the columns', async () => {
    const one = await start(await sources[kind](people), 'upsert', 'freeze')
    await one.run()
    await one.sync().reset()
    expect(await one.run(await sources[kind](all))).toMatchObject({ status: 'done', delivered: 2 })
    expect(one.said).toEqual([])
  })
})

describe('a column that is needed and gone', () => {
  it.each(['duckdb', 'postgres'] as const)('is named by the error that it was before, of %s', async (kind) => {
    const one = await start(await sources[kind](people), 'upsert', 'freeze')
    await one.run()
    const { id: _, ...rest } = people
    await expect(one.run(await sources[kind](rest))).rejects.toThrow(
      'people: the source has no column id; it has name, ',
    )
  })
})

describe('killed after any of its commits', () => {
  it('a run has said what is new, or the next one does', async () => {
    const one = await start([{ id: 1 }])
    await one.run()
    let toldLater = 0
    for (let nth = 1; ; nth++) {
      const copy = join(await stateFolder(), 'copy')
      const death = dieAt(nth, one.state, copy, 'committed')
      const next = [
        Object.fromEntries(Array.from({ length: nth + 1 }, (_, column) => [column ? `c${column}` : 'id', 1])),
      ]
      const running = one.run(next)
      await Promise.race([running, death.came])
      const said = [...one.said]
      await running
      immortal()
      if (death.at === undefined) break
      one.state = copy
      await one.run()
      if (said.length === 0) toldLater++
      expect([...said, ...one.said]).toContain(`info people: the columns of the source have changed: c${nth} is new`)
    }
    expect(toldLater).toBeGreaterThan(3)
  })
})

describe('rows that differ among themselves', () => {
  it('have the columns that any of them has', async () => {
    const rows = [{ id: 1, a: 1 }, { id: 2, b: true }, { id: 3 }, { id: 4, a: 'x', b: null }]
    const one = await start(rows)
    await one.run()
    for (const other of [rows.toReversed(), rows.slice(0, 3), rows]) await one.run(other)
    expect(one.said).toEqual([
      'info people: the columns of the source have changed: a was number and is number or text',
    ])
  })

  it('are left without the single values that do not fit', async () => {
    const one = await start([{ id: 1, a: 1 }], 'upsert', 'discard')
    await one.run()
    await one.run([
      { id: 1, a: null },
      { id: 2, a: 'x' },
      { id: 3, b: 1, a: 2 },
      { id: 4, a: 3n },
      { id: 5, a: undefined, b: undefined },
      { id: 6, a: new Date(0) },
    ])
    expect(one.sent).toEqual([{ id: 1, a: null }, { id: 2 }, { id: 3, a: 2 }, { id: 4, a: 3n }, { id: 5 }, { id: 6 }])
    expect(one.said).toEqual([
      expect.stringMatching(/b is new; a was number and is text or number or instant\. Left out: b, a$/),
    ])
  })

  it('show nothing to be gone as long as only some are read', async () => {
    const one = await start([{ id: 1, a: 1 }])
    one.cursor = { column: 'id', lag: 0 }
    await one.run()
    expect((await one.plan([{ id: 2 }])).columns).toEqual(nothing)
    await one.run([{ id: 2, b: 1 }])
    expect(one.said).toEqual(['info people: the columns of the source have changed: b is new'])
    await one.run([{ id: 3, a: 1 }])
    expect(one.said).toEqual([])
  })

  it('and no row at all says nothing about columns', async () => {
    const one = await start([{ id: 1, a: 1 }], 'upsert', 'freeze')
    await one.run()
    expect(await one.run([])).toMatchObject({ status: 'done' })
    expect((await one.plan([{ id: 1, a: 2 }])).columns).toEqual(nothing)
  })
})

describe('freeze', () => {
  it('ends an append at the first row that does not fit; rows before it are delivered, and the rest when it is mended', async () => {
    const rows = (bad: object) => [{ id: 1 }, { id: 2 }, { id: 3, ...bad }, { id: 4 }]
    const one = await start([{ id: 0 }], 'append', 'freeze')
    await one.run()
    for (const sent of [[{ id: 1 }, { id: 2 }], []]) {
      await expect(one.run(rows({ phone: '1' }))).rejects.toThrow(
        "people: row 3 of the source has a new column phone. schemaContract is 'freeze': the read ends there, and rows before it are kept. Correct the source, or run once with schemaContract 'evolve' to accept it",
      )
      expect(one.sent).toEqual(sent)
    }
    expect(await one.run(rows({}))).toMatchObject({ status: 'done' })
    expect(one.sent).toEqual([{ id: 3 }, { id: 4 }])
  })

  it('ends a read with a cursor there too, and does not pass over the row', async () => {
    const one = await start([{ id: 1 }], 'upsert', 'freeze')
    one.cursor = { column: 'id', lag: 0 }
    await one.run()
    for (let time = 0; time < 2; time++) {
      await expect(one.run([{ id: 2 }, { id: 3, phone: '1' }])).rejects.toThrow('row 2 of the source has a new column')
    }
    one.schemaContract = 'evolve'
    await one.run()
    expect(one.sent).toEqual([{ id: 3, phone: '1' }])
  })
})

describe('discard', () => {
  it('does not take rows of the window that a cursor reads again for new ones', async () => {
    const one = await start([{ id: 1 }, { id: 2 }], 'append', 'discard')
    one.cursor = { column: 'id', lag: 5 }
    await one.run()
    await one.run([
      { id: 1, phone: '1' },
      { id: 2, phone: '2' },
      { id: 3, phone: '3' },
    ])
    expect(one.sent).toEqual([{ id: 3 }])
  })
})

describe('schemaContract', () => {
  it('is one of three words', async () => {
    const one = await start([])
    one.schemaContract = 'frozen' as Contract
    expect(() => one.sync()).toThrow(
      new ConfigError('people: schemaContract is "frozen"; the choices are evolve, freeze, discard'),
    )
  })
})
