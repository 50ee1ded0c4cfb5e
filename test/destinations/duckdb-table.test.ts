import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import { duckdbTable } from 'spillway/destinations/duckdb-table'
import { duckdb } from 'spillway/sources/duckdb'
import { afterAll } from 'vitest'
import { readAll } from '../sources/reading.js'
import { behavesAsTable } from '../support/table-behaviour.js'

const folder = mkdtempSync(join(tmpdir(), 'duckdb-table-'))
const path = join(folder, 'lake.db')
afterAll(() => rmSync(folder, { recursive: true }))

async function run(sql: string): Promise<void> {
  const instance = await DuckDBInstance.create(path)
  const connection = await instance.connect()
  try {
    await connection.run(sql)
  } finally {
    connection.closeSync()
    instance.closeSync()
  }
}

behavesAsTable(() => ({
  to: (table, match) => duckdbTable({ path, table, match }),
  read: async (query) => (await readAll(duckdb({ path, query }))).rows,
  run,
  config: {},
  types: { integer: 'bigint', decimal: 'decimal(38, 18)', binary: 'blob', json: 'json' },
}))
