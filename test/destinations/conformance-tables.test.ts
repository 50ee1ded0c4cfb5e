import { readFile } from 'node:fs/promises'
import { runInNewContext } from 'node:vm'
import { DuckDBConnection, DuckDBInstance } from '@duckdb/node-api'
import pg from 'pg'
import type { AnyRow } from 'spillway'
import { toConsole } from 'spillway/destinations/console'
import { duckdbTable } from 'spillway/destinations/duckdb-table'
import { file } from 'spillway/destinations/file'
import { postgresTable } from 'spillway/destinations/postgres-table'
import { afterAll } from 'vitest'
import { conforms, folderOf } from '../support/conforms.js'
import { startPostgres } from '../support/postgres.js'

const server = await startPostgres()
const client = new pg.Client(server.url)
await client.connect()
afterAll(async () => {
  await client.end()
  await server.stop()
})
let tables = 0

const record = (id: number, version: number): AnyRow => ({ id, name: `The name of ${id} in ${version}` })
/** What a text cannot hold. */
const halfCharacter = { record: { id: 99, name: 'The half of \ud800 in 0' }, reason: 'half of a character' }

await conforms('postgres-table', {
  async open() {
    const table = `people_${++tables}`
    await client.query(`create table ${table} (id bigint primary key, name text, note text)`)
    return {
      to: postgresTable({ table, url: server.url }).with({ batchSize: 100 }),
      record,
      key: 'id',
      read: async () => (await client.query<AnyRow>(`select * from ${table}`)).rows,
      held: ({ id, ...others }) => ({ id: String(id), ...others }), // as the driver gives a bigint
      bad: { record: { id: 99, name: 'The name\0 of 99' }, reason: 'holds a NUL character' },
      field: { name: 'note', values: ['0', 'false', ''] },
      secrets: [new URL(server.url).password],
    }
  },
})

await conforms('duckdb-table', {
  async open() {
    const folder = await folderOf()
    const path = folder.path('people.db')
    const instance = await DuckDBInstance.fromCache(path) // kept open, so that calls need not open it
    const connection = await instance.connect()
    await connection.run('create table people (id bigint primary key, name text, note text)')
    return {
      to: duckdbTable({ path, table: 'people' }).with({ batchSize: 100 }),
      record,
      key: 'id',
      read: async () => (await connection.runAndReadAll('from people')).getRowObjects(),
      held: ({ id, ...others }) => ({ id: BigInt(id as number), ...others }),
      bad: halfCharacter,
      field: { name: 'note', values: ['0', 'false', ''] },
      secrets: [],
      close() {
        connection.closeSync()
        instance.closeSync()
        return folder.remove()
      },
    }
  },
})

for (const format of ['jsonl', 'csv', 'parquet'] as const) {
  await conforms(`file, ${format}`, {
    async open() {
      const folder = await folderOf()
      const path = folder.path(`people.${format}`)
      return {
        to: file({ path }).with({ batchSize: 100 }),
        record,
        read: () => readers[format](path).catch(() => []), // as long as there is none
        ...(format === 'csv' && { held: textsOf }),
        bad: halfCharacter,
        field: { name: 'note', values: format === 'parquet' ? ['0', 'false', ''] : [0, false, ''] },
        secrets: [],
        close: folder.remove,
      }
    },
  })
}

const readers: Record<'jsonl' | 'csv' | 'parquet', (path: string) => Promise<AnyRow[]>> = {
  async jsonl(path) {
    const lines = (await readFile(path, 'utf8')).split('\n').filter(Boolean)
    return lines.map((line) => JSON.parse(line))
  },
  csv: (path) => queried(`from read_csv('${path}', all_varchar = true, header = true, allow_quoted_nulls = false)`),
  parquet: (path) => queried(`select * replace (id::integer as id) from '${path}'`),
}

async function queried(sql: string): Promise<AnyRow[]> {
  const connection = await DuckDBConnection.create()
  try {
    return (await connection.runAndReadAll(sql)).getRowObjects()
  } finally {
    connection.closeSync()
  }
}

function textsOf(record: AnyRow): AnyRow {
  return Object.fromEntries(
    Object.entries(record).map(([name, value]) => [name, value === null ? value : String(value)]),
  )
}

await conforms('console', {
  open() {
    let text = ''
    return {
      to: toConsole({ stream: { write: (more: string) => (text += more) }, rows: Number.POSITIVE_INFINITY }),
      record,
      key: 'id',
      read: () => carriedOut(text),
      field: { name: 'note', values: [0, false, ''] },
      secrets: [],
    }
  },
  except: {
    'an update of what is not there is rejected, and creates nothing':
      'an update of what is not there is printed as well: nothing is kept that it could be looked up in',
  },
})

/** What is there after all that was printed. */
function carriedOut(text: string): AnyRow[] {
  const there: AnyRow[] = []
  const anew: AnyRow[] = []
  let operation = ''
  for (const line of text.split('\n').filter(Boolean)) {
    if (!line.startsWith(' ')) {
      operation = /: (\w+) /.exec(line)![1]!
      if (operation === 'replaced') there.splice(0, there.length, ...anew.splice(0))
      continue
    }
    const row: AnyRow = { ...runInNewContext(`(${line})`) }
    const at = there.findIndex(({ id }) => id === row['id'])
    if (operation === 'replace') anew.push(row)
    else if (operation === 'delete') there.splice(at < 0 ? there.length : at, 1)
    else if (operation === 'insert' || at < 0) there.push(row)
    else there[at] = { ...there[at], ...row }
  }
  return there
}
