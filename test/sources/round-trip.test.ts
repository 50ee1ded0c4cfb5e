import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { tableToIPC } from 'apache-arrow'
import { Binary, Decimal128, Double, Int32, Long, UUID } from 'mongodb'
import { expect, it, onTestFinished } from 'vitest'
import { type AnyRow, Instant } from '../../src/index.js'
import { type Cell, type HubSpotProperty, sandbox } from '../../src/sandbox/index.js'
import { losslessText } from '../../src/values.js'
import { arrowTable } from '../support/arrow.js'
import { databaseOfFile } from '../support/database.js'
import { hasMariadb, mariadbOfFile } from '../support/mariadb.js'
import { startMongo } from '../support/mongodb.js'
import { stateFolder } from '../support/state-folder.js'
import {
  databaseFile,
  kinds,
  mariadbTable,
  objectsOf,
  postgresTable,
  sqliteFile,
  type Table,
} from '../support/tables.js'
import { startApi } from './api.js'

// Every kind of value goes from every source to a function, the console, PostgreSQL, Google Sheets and HubSpot, and is there what it
// was, in whatever time zone the machine is.

const database = databaseOfFile()
const mariadb = hasMariadb() ? mariadbOfFile() : undefined

// ---- what becomes of each kind ---------------------------------------------------------------------------------------------

type Kind = keyof typeof kinds
const refused = Symbol('refused')

type Value = readonly [
  kind: Kind,
  /** As the databases read it. */
  text: string,
  /** What the record holds. */
  record: unknown,
  /** The type of the column that `postgresTable` makes, and what it holds, in PostgreSQL's words. */
  column: string,
  /** What stands in a cell of Google Sheets. */
  cell: Cell | typeof refused,
  /** What stands in a property of HubSpot; null: none. */
  property: string | null | typeof refused,
  /** As the console shows it. */
  printed: string,
]

const instant = (text: string) => Instant.of(text)
const ts = 'timestamp without time zone'
const tz = 'timestamp with time zone'
const bytes = new Uint8Array([0, 1, 255])

// biome-ignore format: a line for each
const table: Readonly<Record<string, Value>> = {
  no: ['boolean', 'false', false, 'boolean false', false, 'false', 'false'],
  zero: ['integer', '0', 0, 'bigint 0', 0, '0', '0'],
  least: ['integer', '-2147483648', -2147483648, 'bigint -2147483648', -2147483648, '-2147483648', '-2147483648'],
  seven: ['bigint', '7', 7n, 'bigint 7', 7, '7', '7n'],
  big: ['bigint', '9007199254740993', 9007199254740993n, 'bigint 9007199254740993', '9007199254740993', '9007199254740993', '9007199254740993n'],
  negative: ['bigint', '-9223372036854775808', -9223372036854775808n, 'bigint -9223372036854775808', '-9223372036854775808', '-9223372036854775808', '-9223372036854775808n'],
  decimal: ['decimal', '1234567890.123456789012345678', '1234567890.123456789012345678', 'numeric 1234567890.123456789012345678', '1234567890.123456789012345678', '1234567890.123456789012345678', "'1234567890.123456789012345678'"],
  money: ['money', '-0.10', '-0.10', 'numeric -0.10', '-0.10', '-0.10', "'-0.10'"],
  double: ['double', '0.30000000000000004', 0.1 + 0.2, 'double precision 0.30000000000000004', 0.1 + 0.2, '0.30000000000000004', '0.30000000000000004'],
  endless: ['double', '-infinity', -Infinity, 'double precision -Infinity', '-Infinity', refused, '-Infinity'],
  nan: ['double', 'NaN', NaN, 'double precision NaN', 'NaN', refused, 'NaN'],
  float: ['real', '0.1', 0.1, 'double precision 0.1', 0.1, '0.1', '0.1'],
  text: ['text', '=1+1 "é" 🦆\t\\N', '=1+1 "é" 🦆\t\\N', 'text =1+1 "é" 🦆\t\\N', '=1+1 "é" 🦆\t\\N', '=1+1 "é" 🦆\t\\N', `'=1+1 "é" 🦆\\t\\\\N'`],
  digits: ['text', '007', '007', 'text 007', '007', '007', "'007'"],
  empty: ['text', '', '', 'text ', null, null, "''"],
  date: ['date', '2026-03-08', '2026-03-08', 'date 2026-03-08', '2026-03-08', '2026-03-08', "'2026-03-08'"],
  ancient: ['date', '1883-11-18', '1883-11-18', 'date 1883-11-18', '1883-11-18', '1883-11-18', "'1883-11-18'"],
  time: ['time', '02:30:00.000001', '02:30:00.000001', 'text 02:30:00.000001', '02:30:00.000001', '02:30:00.000001', "'02:30:00.000001'"],
  // a clock on the wall in New York never shows it
  gap: ['timestamp', '2026-03-08 02:30:00', '2026-03-08T02:30:00', `${ts} 2026-03-08 02:30:00`, '2026-03-08T02:30:00', '2026-03-08T02:30:00', "'2026-03-08T02:30:00'"],
  midnight: ['timestamp', '2026-03-08 00:00:00', '2026-03-08T00:00:00', `${ts} 2026-03-08 00:00:00`, '2026-03-08T00:00:00', '2026-03-08T00:00:00', "'2026-03-08T00:00:00'"],
  // it shows this twice
  twice: ['timestamp', '2026-11-01 01:30:00.123456', '2026-11-01T01:30:00.123456', `${ts} 2026-11-01 01:30:00.123456`, '2026-11-01T01:30:00.123456', '2026-11-01T01:30:00.123456', "'2026-11-01T01:30:00.123456'"],
  // on either side of the gap
  before: ['instant', '2026-03-08 06:59:59.999Z', instant('2026-03-08T06:59:59.999Z'), `${tz} 2026-03-08 06:59:59.999+00`, '2026-03-08T06:59:59.999Z', '2026-03-08T06:59:59.999Z', '2026-03-08T06:59:59.999Z'],
  after: ['instant', '2026-03-08 07:00:00Z', instant('2026-03-08T07:00:00Z'), `${tz} 2026-03-08 07:00:00+00`, '2026-03-08T07:00:00.000Z', '2026-03-08T07:00:00.000Z', '2026-03-08T07:00:00.000Z'],
  // an hour apart, and the same on that clock; HubSpot keeps milliseconds
  once: ['instant', '2026-11-01 05:30:00.123456Z', instant('2026-11-01T05:30:00.123456Z'), `${tz} 2026-11-01 05:30:00.123456+00`, '2026-11-01T05:30:00.123456Z', '2026-11-01T05:30:00.123Z', '2026-11-01T05:30:00.123456Z'],
  again: ['instant', '2026-11-01 06:30:00.123456Z', instant('2026-11-01T06:30:00.123456Z'), `${tz} 2026-11-01 06:30:00.123456+00`, '2026-11-01T06:30:00.123456Z', '2026-11-01T06:30:00.123Z', '2026-11-01T06:30:00.123456Z'],
  uuid: ['uuid', '5f2b9c1e-0000-4000-8000-00000000000a', '5f2b9c1e-0000-4000-8000-00000000000a', 'text 5f2b9c1e-0000-4000-8000-00000000000a', '5f2b9c1e-0000-4000-8000-00000000000a', '5f2b9c1e-0000-4000-8000-00000000000a', "'5f2b9c1e-0000-4000-8000-00000000000a'"],
  binary: ['binary', '0001ff', bytes, 'bytea \\x0001ff', refused, refused, 'Uint8Array(3) [ 0, 1, 255 ]'],
  nested: ['json', '{"a": {"b": [1, 2], "c": null}}', { a: { b: [1, 2], c: null } }, 'jsonb {"a": {"b": [1, 2], "c": null}}', '{"a":{"b":[1,2],"c":null}}', refused, '{ a: { b: [ 1, 2 ], c: null } }'],
  large: ['exact', '{"id": 9007199254740993}', { id: 9007199254740993n }, 'jsonb {"id": 9007199254740993}', '{"id":9007199254740993}', refused, '{ id: 9007199254740993n }'],
  list: ['list', '[2, 1]', [2, 1], 'jsonb [2, 1]', '[2,1]', '2;1', '[ 2, 1 ]'],
}

/** Shown as dates, they stand in cells as days since 1899-12-30. */
const serials: Readonly<Record<string, number>> = {
  date: 46_089,
  gap: 46_089.10416666667,
  midnight: 46_089,
  after: 46_089.29166666667,
}
const formats = Object.fromEntries(Object.keys(serials).map((name) => [name, 'yyyy-mm-dd hh:mm:ss']))

const propertyTypes: { readonly [kind in Kind]?: HubSpotProperty['type'] } = {
  ...{ boolean: 'bool', integer: 'number', bigint: 'number', decimal: 'number', money: 'number', double: 'number' },
  ...{ real: 'number', date: 'date', instant: 'datetime' },
}

// ---- what sources cannot hold ------------------------------------------------------------------------------------------------

interface Holding {
  /** What it cannot hold, by the reason. */
  readonly without?: Readonly<Record<string, readonly string[]>>
  /** The types of its columns are known; where they are not, or columns are of text, PostgreSQL is given text. */
  readonly tells: boolean
  readonly texts?: readonly string[]
  /** A row may lack its columns. */
  readonly absent?: boolean
}

const dates = ['date', 'ancient', 'time', 'gap', 'midnight', 'twice']
const instants = ['before', 'after', 'once', 'again']
const json: Holding = {
  without: {
    'a number of JSON is a double unless it is an integer, and small integers are no bigints': [
      ...['seven', 'decimal', 'money', 'endless', 'nan'],
    ],
    'dates, times, uuids and bytes are the texts that an API makes of them': [
      ...[...dates, ...instants, 'uuid', 'binary'],
    ],
  },
  tells: false,
  absent: true,
}
const arrow: Holding = { without: { 'Arrow has no type for it': ['uuid'] }, tells: true }

const holdings: Readonly<Record<string, Holding>> = {
  array: { tells: false, absent: true },
  postgres: { tells: true },
  duckdb: { tells: true },
  sqlite: {
    without: { 'it has no type for points in time': instants, 'it makes null of it': ['nan'] },
    tells: true,
    texts: ['decimal', ...dates],
  },
  mysql: { without: { 'it refuses what is no number': ['endless', 'nan'] }, tells: true },
  'apache-arrow': arrow,
  flechette: arrow,
  polars: arrow,
  mongodb: {
    without: {
      'BSON knows points in time, to the millisecond': [...dates, 'once', 'again'],
      'BSON has floats of 64 bits': ['float'],
    },
    tells: false,
    absent: true,
  },
  rest: json,
  webhook: json,
}

function heldBy(source: string): [name: string, value: Value][] {
  const without = Object.values(holdings[source]!.without ?? {}).flat()
  return Object.entries(table).filter(([name]) => !without.includes(name))
}

/** A row of all values, and one of nulls. */
function tableFor(source: string): Table {
  const held = heldBy(source)
  return {
    columns: { row: 'text', ...Object.fromEntries(held.map(([name, [kind]]) => [name, kind])) },
    rows: [
      ['all', ...held.map(([, [, text]]) => text)],
      ['null', ...held.map(() => null)],
    ],
  }
}

/** Rows made value by value, and one that has none. */
function rowsFor<T>(source: string, make: (kind: Kind, text: string) => T): Record<string, T | string | null>[] {
  const held = heldBy(source)
  const all = held.map(([name, [kind, text]]) => [name, make(kind, text)] as const)
  const none = held.map(([name]) => [name, null] as const)
  return [{ row: 'all', ...Object.fromEntries(all) }, { row: 'null', ...Object.fromEntries(none) }, { row: 'absent' }]
}

const bson: { readonly [kind in Kind]?: (text: string) => unknown } = {
  integer: (text) => new Int32(text),
  bigint: (text) => Long.fromString(text),
  decimal: (text) => Decimal128.fromString(text),
  money: (text) => Decimal128.fromString(text),
  double: (text) => new Double(kinds.double.read(text) as number),
  uuid: (text) => new UUID(text),
  binary: (text) => new Binary(Buffer.from(text, 'hex')),
  exact: (text) => ({ id: Long.fromString(/\d+/.exec(text)![0]) }),
}

/** The rows as an API writes them: numbers with all their digits. */
function jsonFor(source: string): string[] {
  const quoted: readonly Kind[] = ['text']
  const rows = rowsFor(source, (kind, text) => (quoted.includes(kind) ? JSON.stringify(text) : text))
  return rows.map(({ row, ...values }) => {
    const members = Object.entries(values).map(([name, text]) => `,"${name}":${text}`)
    return `{"row":"${row}"${members.join('')}}`
  })
}

// ---- what is expected, and what is there ---------------------------------------------------------------------------------------

type Rows = Record<string, Record<string, unknown>>

interface Arrived {
  readonly records: readonly unknown[]
  readonly printed: string
  readonly postgres: Rows
  readonly sheet: Rows
  readonly calendar: Rows
  readonly hubspot: Rows
}

const named = <T>(held: readonly [string, Value][], of: (value: Value, name: string) => T): Record<string, T> =>
  Object.fromEntries(held.map(([name, value]) => [name, of(value, name)]))

function expected(source: string): Arrived {
  const { tells, texts = [], absent = false } = holdings[source]!
  const held = heldBy(source)
  const rows = (all: AnyRow, none: AnyRow): Rows => ({ all, null: none, ...(absent && { absent: none }) })
  const nulls = (some: readonly [string, Value][]) => named(some, () => null)
  const column = ([, , record, column]: Value, name: string) =>
    typeof record === 'string' && (!tells || texts.includes(name)) ? `text ${record}` : column
  const cells = held.filter(([, [, , , , cell]]) => cell !== refused)
  const properties = held.filter(([, [, , , , , property]]) => property !== null && property !== refused)
  const dated = held.filter(([name]) => name in serials)
  const record = (row: AnyRow): unknown => JSON.parse(losslessText(row))
  const line = (row: string, values: Record<string, string>) =>
    `  { ${[`row: '${row}'`, ...Object.entries(values).map(([name, text]) => `${name}: ${text}`)].join(', ')} }\n`
  return {
    records: [
      record({ row: 'all', ...named(held, ([, , record]) => record) }),
      record({ row: 'null', ...nulls(held) }),
      ...(absent ? [record({ row: 'absent' })] : []),
    ],
    printed: [
      line(
        'all',
        named(held, ([, , , , , , printed]) => printed),
      ),
      line(
        'null',
        named(held, () => 'null'),
      ),
      ...(absent ? [line('absent', {})] : []),
    ].join(''),
    postgres: rows(named(held, column), nulls(held)),
    sheet: rows(
      named(cells, ([, , , , cell]) => cell),
      nulls(cells),
    ),
    calendar: rows(
      named(dated, (_, name) => serials[name]),
      nulls(dated),
    ),
    hubspot: rows(
      named(properties, ([, , , , , property]) => property),
      {},
    ),
  }
}

async function columnsIn(schema: string, source: string): Promise<Rows> {
  const columns = heldBy(source).map(([name]) => `pg_typeof("${name}") || ' ' || "${name}"::text as "${name}"`)
  const { rows } = await database.client.query(`select "row", ${columns} from ${schema}."${source}"`)
  return byRow(rows)
}

function byRow(rows: readonly AnyRow[]): Rows {
  return Object.fromEntries(rows.map(({ row, ...values }) => [row, values]))
}

function cellsIn([header = [], ...lines]: readonly Cell[][]): Rows {
  return byRow(lines.map((line) => Object.fromEntries(header.map((name, at) => [String(name), line[at] ?? null]))))
}

/** What test/support/round-trip-child.mjs is told. */
interface Job {
  /** A folder. */
  readonly state: string
  /** What each source is told: the rows of `array` as lossless texts, of Arrow as IPC in base64. One that is left out is not read. */
  readonly from: Readonly<Record<string, unknown>>
  /** Where the destinations are. */
  readonly to: Readonly<Record<string, unknown>>
  /** The columns that a destination refuses. */
  readonly refused: Readonly<Record<'sheet' | 'hubspot', readonly string[]>>
  /** How the columns of `calendar` are shown. */
  readonly formats: Readonly<Record<string, string>>
}

/** What it saw, by the source. */
interface Seen {
  readonly zone: readonly [hour: number, offset: number]
  /** What a function was given, as lossless texts. */
  readonly records: Readonly<Record<string, readonly string[]>>
  readonly printed: Readonly<Record<string, string>>
  /** By the sync: what became of its rows, where they were not all delivered. */
  readonly failed: Readonly<Record<string, unknown>>
}

const child = fileURLToPath(new URL('../support/round-trip-child.mjs', import.meta.url))

async function carriedIn(TZ: string, job: Job): Promise<Seen> {
  const carrying = promisify(execFile)(process.execPath, [child], { env: { ...process.env, TZ } })
  carrying.child.stdin!.end(JSON.stringify(job))
  return JSON.parse((await carrying).stdout)
}

it.each([
  ['America/New_York', 'new_york', '-05:00', [3, 300]],
  ['Asia/Kolkata', 'kolkata', '+05:30', [2, -330]],
] as const)(
  'every value is what it was wherever it goes, where all machines are in %s',
  async (TZ, schema, offset, zone) => {
    const folder = await stateFolder()
    const sources = Object.keys(holdings).filter((source) => source !== 'mysql' || mariadb)
    // the servers are in the zone as well, for whoever connects from now on
    await database.client.query(`create schema ${schema}; set TimeZone = 'UTC'`)
    await database.client.query(`alter database postgres set TimeZone = '${TZ}'`)
    await mariadb?.db.query(`set global time_zone = '${offset}'`)
    await postgresTable(database.client, database.url, 'kinds', 'table').write(tableFor('postgres'))
    await databaseFile(folder).write(tableFor('duckdb'))
    await sqliteFile(folder).write(tableFor('sqlite'))
    if (mariadb) await mariadbTable(mariadb.db, mariadb.url, 'kinds').write(tableFor('mysql'))
    const documents = rowsFor('mongodb', (kind, text) => bson[kind]?.(text) ?? kinds[kind].read(text))
    const mongo = await startMongo(documents)
    const api = await startApi(() => ({ body: `[${jsonFor('rest').join()}]` }))

    const box = await sandbox()
    onTestFinished(() => box.close())
    const [sheet, calendar] = [box.sheets.create().id, box.sheets.create().id]
    const properties = Object.entries(table).map(([name, [kind]]) => ({ name, type: propertyTypes[kind] }))
    const objects = sources.map(
      (source) => [source, box.hubspot.define(source, [{ name: 'row' }, ...properties]).id] as const,
    )
    const refusedBy = (place: 4 | 5) => Object.keys(table).filter((name) => table[name]![place] === refused)

    const seen = await carriedIn(TZ, {
      state: join(folder, 'state'),
      from: {
        array: [...objectsOf(tableFor('array')), { row: 'absent' }].map(losslessText),
        arrow: Buffer.from(tableToIPC(arrowTable(tableFor('apache-arrow')), 'stream')).toString('base64'),
        postgres: { url: database.url, table: 'kinds' },
        duckdb: { path: join(folder, 'tables.db'), query: 'from t' },
        sqlite: { path: join(folder, 'tables.sqlite'), table: 't' },
        ...(mariadb && { mysql: { url: mariadb.url, table: 'kinds' } }),
        mongodb: { url: mongo.url, db: 'shop', collection: 'orders' },
        rest: { url: api.url },
        webhook: jsonFor('webhook'),
      },
      to: {
        postgres: { url: database.url, schema },
        sheets: { endpoint: box.url, token: box.sheets.token },
        sheet,
        calendar,
        hubspot: { endpoint: box.url, token: box.hubspot.token },
        objects: Object.fromEntries(objects),
      },
      refused: { sheet: refusedBy(4), hubspot: refusedBy(5) },
      formats,
    })
    expect(seen.zone).toEqual(zone)
    expect(seen.failed).toEqual({})
    for (const source of sources) {
      const arrived: Arrived = {
        records: seen.records[source]!.map((text) => JSON.parse(text)),
        printed: seen.printed[source]!.replace(/^.*: insert \d rows?\n/gm, ''),
        postgres: await columnsIn(schema, source),
        sheet: cellsIn(box.sheets.rows(sheet, source)),
        calendar: cellsIn(box.sheets.rows(calendar, source)),
        hubspot: byRow(box.hubspot.objects(source).map(({ properties }) => properties)),
      }
      expect.soft(arrived, source).toEqual(expected(source))
    }
  },
)
