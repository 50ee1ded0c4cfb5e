import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import Sqlite from 'libsql'
import type { Connection } from 'mysql2/promise'
import type { Client } from 'pg'
import { type AnyRow, Instant, source } from '../../src/index.js'
import { duckdb } from '../../src/sources/duckdb.js'
import { mysql } from '../../src/sources/mysql.js'
import { postgres } from '../../src/sources/postgres.js'
import { sqlite } from '../../src/sources/sqlite.js'

// The same rows in an array, in a DuckDB database, in Parquet and CSV files, in PostgreSQL, MariaDB and SQLite.

/** A kind of value: what the databases call it, and what it is in JavaScript. */
interface Kind {
  readonly duckdb: string
  readonly postgres: string
  readonly read: (text: string) => unknown
}

const same = (type: string, read: Kind['read'] = (text) => text): Kind => ({ duckdb: type, postgres: type, read })

/** Every kind of DESIGN's list. Values are given as the texts that both databases read. */
export const kinds = {
  boolean: same('boolean', (text) => text === 'true'),
  integer: same('integer', Number),
  bigint: same('bigint', BigInt),
  decimal: same('decimal(38, 18)'),
  money: same('decimal(10, 2)'),
  double: { duckdb: 'double', postgres: 'double precision', read: (text) => Number(text.replace('inf', 'Inf')) },
  real: same('real', Number),
  text: { duckdb: 'varchar', postgres: 'text', read: (text) => text },
  date: same('date'),
  time: same('time'),
  timestamp: same('timestamp', (text) => text.replace(' ', 'T')),
  instant: same('timestamptz', (text) => Instant.of(text.replace(' ', 'T'))),
  uuid: same('uuid'),
  /** As hexadecimal digits. */
  binary: { duckdb: 'blob', postgres: 'bytea', read: (text) => new Uint8Array(Buffer.from(text, 'hex')) },
  json: same('json', JSON.parse),
  /** An object with one large integer. */
  exact: same('json', (text) => ({ id: BigInt(/\d+/.exec(text)![0]) })),
  /** As JSON. */
  list: same('integer[]', JSON.parse),
} satisfies Record<string, Kind>

export interface Table {
  readonly columns: Readonly<Record<string, keyof typeof kinds>>
  /** Values in the order of the columns. */
  readonly rows: readonly (readonly (string | null)[])[]
}

/** The rows as JavaScript has them. */
export function objectsOf({ columns, rows }: Table): AnyRow[] {
  const names = Object.entries(columns)
  const read = (kind: keyof typeof kinds, text: string | null) => (text === null ? null : kinds[kind].read(text))
  return rows.map((row) => Object.fromEntries(names.map(([name, kind], index) => [name, read(kind, row[index]!)])))
}

function literal(dialect: 'duckdb' | 'postgres', kind: keyof typeof kinds, text: string | null): string {
  const type = kinds[kind][dialect]
  if (text === null) return `null::${type}`
  if (kind === 'binary' && dialect === 'duckdb') return `'${text.replace(/../g, '\\x$&')}'::blob`
  if (kind === 'binary') return `'\\x${text}'::bytea`
  if (kind === 'list') return `${dialect === 'postgres' ? 'array' : ''}${text}::${type}`
  return `'${text.replaceAll("'", "''")}'::${type}`
}

/** A select that gives these rows, in their order. */
function select(dialect: 'duckdb' | 'postgres', { columns, rows }: Table): string {
  const names = Object.keys(columns).map((name) => `"${name}"`)
  const types = Object.values(columns)
  const line = (row: readonly (string | null)[]) => `(${types.map((kind, i) => literal(dialect, kind, row[i]!))})`
  const [first = names.map(() => null), ...rest] = rows
  const values = [first, ...rest].map(line).join()
  return `select * from (values ${values}) as t(${names})${rows.length === 0 ? ' where false' : ''}`
}

/** Somewhere that holds a table, which is written anew each time. */
export interface Place {
  write(table: Table): Promise<void>
  /** `failing`: it fails when all rows were read. */
  from(failing?: boolean): ReturnType<typeof source<AnyRow>>
}

/** An array that is not always the same. */
export function array(): Place {
  let rows: AnyRow[] = []
  return {
    async write(table) {
      rows = objectsOf(table)
    },
    from: (failing = false) =>
      source(function* () {
        yield* rows
        if (failing) throw new Error('the connection was reset')
      }),
  }
}

async function inDuckdb(path: string, ...statements: string[]): Promise<void> {
  const instance = await DuckDBInstance.create(path)
  const connection = await instance.connect()
  await connection.run("set TimeZone = 'UTC'")
  for (const statement of statements) await connection.run(statement)
  connection.closeSync()
  instance.closeSync()
}

/** A query over `from` that fails when all rows of it were read. */
const failing = (from: string): string =>
  `select * from ${from} union all select * from ${from} where error('the disk is gone') is null`

/** A database file. */
export function databaseFile(folder: string): Place {
  const path = join(folder, 'tables.db')
  return {
    write: (table) => inDuckdb(path, `create or replace table t as ${select('duckdb', table)}`),
    from: (fails) => duckdb({ path, query: fails ? failing('t') : 'from t' }),
  }
}

/** A Parquet file. */
export function parquetFile(folder: string): Place {
  const path = join(folder, 'rows.parquet')
  return {
    write: (table) => inDuckdb(':memory:', `copy (${select('duckdb', table)}) to '${path}' (format parquet)`),
    from: (fails) => duckdb({ query: fails ? failing(`'${path}'`) : `from '${path}'` }),
  }
}

/** A CSV file, of which the query says what its columns are. */
export function csvFile(folder: string): Place {
  const path = join(folder, 'rows.csv')
  let file = ''
  return {
    async write(table) {
      await inDuckdb(
        ':memory:',
        `copy (${select('duckdb', table)}) to '${path}' (format csv, header, nullstr '<null>', force_quote *)`,
      )
      const types = Object.entries(table.columns).map(([name, kind]) => `'${name}': '${kinds[kind].duckdb}'`)
      file = `read_csv('${path}', header = true, nullstr = '<null>', auto_detect = false, delim = ',', quote = '"', escape = '"', columns = {${types}})`
    },
    from: (fails) => duckdb({ query: fails ? failing(file) : `from ${file}` }),
  }
}

/** A table of PostgreSQL: read as a `table`, or by a `query`. */
export function postgresTable(db: Client, url: string, name: string, read: 'table' | 'query'): Place {
  return {
    async write(table) {
      await db.query(`drop table if exists ${name}; create table ${name} as ${select('postgres', table)}`)
    },
    from(fails) {
      if (fails)
        return postgres({ url, query: `select * from ${name} union all select * from ${name} where 1 / 0 = 1` })
      return read === 'table' ? postgres({ url, table: name }) : postgres({ url, query: `select * from ${name}` })
    },
  }
}

/** What MariaDB calls the kinds that have another name there. It holds no infinities, and no lists but json. */
const mariadbTypes: { readonly [kind in keyof typeof kinds]?: string } = {
  ...{ real: 'float', text: 'longtext collate utf8mb4_bin', time: 'time(6)', timestamp: 'datetime(6)', list: 'json' },
  ...{ instant: 'timestamp(6) null', binary: 'longblob' },
}

/** A table of MariaDB. */
export function mariadbTable(db: Connection, url: string, name: string): Place {
  return {
    async write({ columns, rows }) {
      const types = Object.entries(columns).map(
        ([column, kind]) => `\`${column}\` ${mariadbTypes[kind] ?? kinds[kind].postgres}`,
      )
      await db.query(`set time_zone = '+00:00'; create or replace table ${name} (${types})`)
      const written = Object.values(columns)
      const value = (kind: keyof typeof kinds, text: string) => {
        if (kind === 'instant') return Instant.of(text.replace(' ', 'T')).toISOString().slice(0, -1)
        return kind === 'boolean' ? text === 'true' : kind === 'binary' ? Buffer.from(text, 'hex') : text
      }
      const values = rows.map((row) => row.map((text, index) => (text === null ? null : value(written[index]!, text))))
      await db.query(`insert into ${name} values ?`, [values])
    },
    from: () => mysql({ url, table: name }),
  }
}

/** A file of SQLite, in which exact decimals are texts; it has no type for instants. */
export function sqliteFile(folder: string): Place {
  const path = join(folder, 'tables.sqlite')
  return {
    async write({ columns, rows }) {
      const db = new Sqlite(path)
      const types = Object.entries(columns).map(
        ([column, kind]) => `"${column}" ${sqliteTypes[kind] ?? kinds[kind].duckdb}`,
      )
      db.exec(`drop table if exists t; create table t (${types}); begin`)
      const insert = db.prepare(`insert into t values (${types.map(() => '?')})`)
      const value = (kind: keyof typeof kinds, text: string) => {
        if (kind === 'boolean') return text === 'true' ? 1n : 0n
        if (kind === 'timestamp') return text.replace(' ', 'T')
        if (kind === 'double') return Number(text.replace('inf', 'Inf'))
        return kind === 'binary' ? Buffer.from(text, 'hex') : text
      }
      const written = Object.values(columns)
      for (const row of rows)
        insert.run(row.map((text, index) => (text === null ? null : value(written[index]!, text))))
      db.exec('commit')
      db.close()
    },
    from: () => sqlite({ path, table: 't' }),
  }
}

const sqliteTypes: { readonly [kind in keyof typeof kinds]?: string } = { decimal: 'text', list: 'json', uuid: 'text' }
