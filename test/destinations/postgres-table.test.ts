import pg from 'pg'
import { postgresTable } from 'spillway/destinations/postgres-table'
import { postgres } from 'spillway/sources/postgres'
import { afterAll, beforeAll } from 'vitest'
import { readAll } from '../sources/reading.js'
import { type Postgres, startPostgres } from '../support/postgres.js'
import { behavesAsTable } from '../support/table-behaviour.js'

let server: Postgres
let pool: pg.Pool
beforeAll(async () => {
  server = await startPostgres()
  pool = new pg.Pool({ connectionString: server.url, allowExitOnIdle: true })
}, 60_000)
afterAll(async () => {
  await pool.end()
  await server.stop()
})

behavesAsTable(() => ({
  to: (table, match) => postgresTable({ url: server.url, table, match }),
  read: async (query) => (await readAll(postgres({ pool, query }))).rows,
  run: (sql) => pool.query(sql),
  config: { url: server.url },
  types: { integer: 'bigint', decimal: 'numeric', binary: 'bytea', json: 'jsonb' },
}))
