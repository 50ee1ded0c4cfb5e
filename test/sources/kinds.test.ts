import { describe, expect, it } from 'vitest'
import { type AnyRow, destination, type Plan, sync } from '../../src/index.js'
import { databaseOfFile } from '../support/database.js'
import { hasMariadb, mariadbOfFile } from '../support/mariadb.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import {
  array,
  csvFile,
  databaseFile,
  type kinds,
  mariadbTable,
  objectsOf,
  type Place,
  parquetFile,
  postgresTable,
  sqliteFile,
  type Table,
} from '../support/tables.js'
import { readAll, readAtOnce } from './reading.js'

// Every kind of value changes alone, and is seen, wherever the rows come from; what says the same in another form is no change.
// The same rows give the same plan from every source, and a sync may move from one to another without sending anything.

const database = databaseOfFile()

type Case = readonly [what: string, kind: keyof typeof kinds, before: string | null, after: string | null]

const changes: readonly Case[] = [
  ['null and false', 'boolean', null, 'false'],
  ['false and true', 'boolean', 'false', 'true'],
  ['null and zero', 'integer', null, '0'],
  ['an integer', 'integer', '2147483646', '2147483647'],
  ['above 2^53', 'bigint', '9007199254740993', '9007199254740992'],
  ['the largest', 'bigint', '9223372036854775807', '9223372036854775806'],
  ['null and zero as bigint', 'bigint', '0', null],
  ['the last digit', 'decimal', '1234567890.123456789012345678', '1234567890.123456789012345679'],
  ['twenty digits', 'decimal', '12345678901234567890.000000000000000000', '12345678901234567891.000000000000000000'],
  ['a cent', 'money', '0.10', '0.11'],
  ['a sign', 'money', '0.01', '-0.01'],
  ['the last bit', 'double', '0.3', '0.30000000000000004'],
  ['infinities', 'double', 'infinity', '-infinity'],
  ['null and no number', 'double', null, 'NaN'],
  ['a float', 'real', '0.1', '0.2'],
  ['null and empty', 'text', null, ''],
  ['null and its word', 'text', 'NULL', null],
  ['null and its sign', 'text', null, '\\N'],
  ['empty and a blank', 'text', '', ' '],
  ['zero and zeros', 'text', '0', '00'],
  ['a blank at the end', 'text', 'Ada', 'Ada '],
  ['upper case', 'text', 'ada', 'Ada'],
  ['a tab and its sign', 'text', 'a\tb', 'a\\tb'],
  ['line ends', 'text', 'a\nb', 'a\r\nb'],
  ['a control character', 'text', 'ab', 'a\u0001b'],
  ['what could part columns', 'text', 'a\u001f-', 'a\u001f+'],
  ['quotes', 'text', '"a"', "'a'"],
  ['backslashes', 'text', '\\', '\\\\'],
  ['two ways to write é', 'text', '\u00e9', 'e\u0301'],
  ['beyond 16 bits', 'text', '🦆', '🦢'],
  ['the end of a long text', 'text', `${'x'.repeat(5000)}a`, `${'x'.repeat(5000)}b`],
  ['a leap day', 'date', '2024-02-29', '2024-03-01'],
  ['a microsecond of the day', 'time', '01:02:03.000001', '01:02:03.000002'],
  ['a microsecond', 'timestamp', '2024-03-10 02:30:00.123456', '2024-03-10 02:30:00.123457'],
  ['midnight and null', 'timestamp', '2024-03-10 00:00:00', null],
  ['a microsecond with zone', 'instant', '2024-03-10 02:30:00.123456Z', '2024-03-10 02:30:00.123457Z'],
  ['an hour', 'instant', '2024-03-10 02:30:00+01:00', '2024-03-10 02:30:00+02:00'],
  ['a digit', 'uuid', '5f2b9c1e-0000-4000-8000-00000000000a', '5f2b9c1e-0000-4000-8000-00000000000b'],
  ['one byte', 'binary', '0001ff', '0001fe'],
  ['null and no bytes', 'binary', null, ''],
  ['a zero at the end', 'binary', '01', '0100'],
  ['a nested field', 'json', '{"a": {"b": [1, {"c": 2}]}}', '{"a": {"b": [1, {"c": 3}]}}'],
  ['nested null and nothing', 'json', '{"a": null}', '{}'],
  ['null and an object', 'json', null, '{}'],
  ['json zero and false', 'json', '{"a": 0}', '{"a": false}'],
  ['json zero and its text', 'json', '{"a": 0}', '{"a": "0"}'],
  ['json null and empty', 'json', '{"a": null}', '{"a": ""}'],
  ['the order of a json list', 'json', '[1, 2]', '[2, 1]'],
  ['json above 2^53', 'exact', '{"id": 9007199254740993}', '{"id": 9007199254740992}'],
  ['the order of a list', 'list', '[1, 2]', '[2, 1]'],
  ['a null in a list', 'list', '[1]', '[1, null]'],
  ['null and no items', 'list', '[]', null],
]

/** They say the same in another form. */
const forms: readonly Case[] = [
  ['minus zero', 'double', '0', '-0'],
  ['the same instant', 'instant', '2024-03-10 02:30:00+01:00', '2024-03-10 01:30:00Z'],
  ['the order of keys', 'json', '{"a": 1, "b": {"c": 1, "d": 2}}', '{"b": {"d": 2, "c": 1}, "a": 1}'],
  ['blanks between', 'json', '{"a":[1,2]}', '{ "a" : [ 1, 2 ] }'],
  ['a number in json', 'json', '{"a": 1}', '{"a": 1.0}'],
  ['an escaped letter', 'json', '{"a": "A"}', '{"a": "\\u0041"}'],
  ['nothing at all', 'text', 'x', 'x'],
]

type Cases = { readonly changes: readonly Case[]; readonly forms: readonly Case[] }

/** A row for each case, which has its value in its column and nothing in the others. */
function table({ changes, forms }: Cases, when: 'before' | 'after'): Table {
  const cases = [...changes, ...forms]
  const columns: Table['columns'] = {
    id: 'text',
    ...Object.fromEntries(cases.map(([, kind]) => [`the_${kind}`, kind])),
  }
  const rows = cases.map(([what, kind, before, after]) =>
    Object.keys(columns).map((column) => {
      if (column === 'id') return what
      return column === `the_${kind}` ? (when === 'before' ? before : after) : null
    }),
  )
  return { columns, rows }
}

type Places = Record<string, (folder: string) => Place>

const places: Places = {
  'an array': array,
  'a DuckDB file': databaseFile,
  'a Parquet file': parquetFile,
  'a CSV file': csvFile,
  'a table of PostgreSQL': () => postgresTable(database.client, database.url, 'by_table', 'table'),
  'a query of PostgreSQL': () => postgresTable(database.client, database.url, 'by_query', 'query'),
}

/** Those of the cases that a database can hold. */
function without(what: (kind: string, value: string | null) => boolean): Cases {
  const held = ([, kind, before, after]: Case) => !what(kind, before) && !what(kind, after)
  return { changes: changes.filter(held), forms: forms.filter(held) }
}

const notFinite = (value: string | null) => /inf|NaN/.test(value ?? '')
const ofMariadb = without((kind, value) => kind === 'double' && notFinite(value))
const ofSqlite = without((kind, value) => kind === 'instant' || (kind === 'double' && value === 'NaN'))

function mirror(place: Place, state: string) {
  const sent: AnyRow[] = []
  const keep = (batch: AnyRow[]) => {
    sent.push(...batch)
  }
  const to = destination({ name: 'crm', batchSize: 100 })({ upsert: keep, delete: keep })
  return { sent, ...sync({ name: 'rows', from: place.from(), to, key: 'id', mode: 'mirror', state, log: quiet }) }
}

async function shown(plan: Plan) {
  const { rows, insert, update, delete: gone, unchanged, unfit, waiting, digest } = plan
  const all = []
  for await (const change of plan.changes) all.push(change)
  // rows of a database have no order, so neither have their changes
  all.sort((a, b) => (String(a.match) < String(b.match) ? -1 : 1))
  return { counts: { rows, insert, update, delete: gone, unchanged, unfit, waiting, digest }, all }
}

const ids = (rows: readonly AnyRow[]): string[] => rows.map((row) => row['id']).sort()

function everyKind(places: Places, held: Cases): void {
  const { changes, forms } = held
  const seen = changes.map(([what]) => what).sort()
  const plans: { first: unknown; next: unknown }[] = []

  it.each(Object.keys(places))(
    'that changes alone is seen, and what only looks different is not, from %s',
    async (name) => {
      const folder = await stateFolder()
      const place = places[name]!(folder)
      const state = await stateFolder()
      await place.write(table(held, 'before'))
      const first = await shown(await mirror(place, state).plan())
      const start = mirror(place, state)
      await start.run()
      const byId = (rows: readonly AnyRow[]) => rows.toSorted((a, b) => (a['id'] < b['id'] ? -1 : 1))
      expect(byId(start.sent)).toEqual(byId(objectsOf(table(held, 'before'))))

      await place.write(table(held, 'after'))
      const next = await shown(await mirror(place, state).plan())
      expect(next.all.map(({ match }) => match)).toEqual(seen)
      for (const { match, fields } of next.all) {
        expect([match, fields]).toEqual([match, [`the_${changes.find(([what]) => what === match)![1]}`]])
      }
      const after = mirror(place, state)
      expect(await after.run()).toMatchObject({ delivered: changes.length, unchanged: forms.length })
      expect(ids(after.sent)).toEqual(seen)

      plans.push({ first, next })
    },
  )

  it('gives the same plan from each of them', () => {
    expect(plans).toHaveLength(Object.keys(places).length)
    for (const plan of plans) expect(plan).toEqual(plans[0])
  })

  it('is the same when its sync moves from one source to another: nothing is sent', async () => {
    const folder = await stateFolder()
    const state = await stateFolder()
    const moved: unknown[] = []
    const names = Object.keys(places)
    for (const name of [...names, ...names.slice(0, 1)]) {
      const place = places[name]!(folder)
      await place.write(table(held, 'before'))
      const one = mirror(place, state)
      const { delivered, unchanged, deletes } = await one.run()
      moved.push([delivered, unchanged, deletes.rows])
    }
    expect(moved).toEqual([
      [changes.length + forms.length, 0, 0],
      ...names.map(() => [0, changes.length + forms.length, 0]),
    ])
  })
}

describe('every kind of value', () => everyKind(places, { changes, forms }))

const nested = (kind: string) => kind === 'list'
const unwritten = (kind: string) => ['list', 'json', 'exact', 'real'].includes(kind)

describe.each([
  ['compares', nested, false],
  ['compares and writes', unwritten, true],
])('every kind of value that DuckDB %s itself', (_, other, written) => {
  const held = without(other)
  const files: Places = { 'a DuckDB file': databaseFile, 'a Parquet file': parquetFile }
  everyKind({ 'an array': array, ...files }, held)

  it.each(Object.keys(files))('is read at once from %s', async (name) => {
    const place = files[name]!(await stateFolder())
    await place.write(table(held, 'before'))
    const { columns } = await readAll(place.from())
    expect(await readAtOnce(place.from(), columns)).toMatchObject({ written })
  })
})

describe.runIf(hasMariadb())('every kind of value that MariaDB holds', () => {
  const server = mariadbOfFile()
  everyKind({ 'an array': array, 'a table of MariaDB': () => mariadbTable(server.db, server.url, 'kinds') }, ofMariadb)
})

describe('every kind of value that SQLite holds', () =>
  everyKind({ 'an array': array, 'a file of SQLite': sqliteFile }, ofSqlite))
