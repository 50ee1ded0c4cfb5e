import pg from 'pg'
import { afterAll, beforeAll } from 'vitest'
import { type Postgres, startPostgres } from './postgres.js'

/** A PostgreSQL server and a client of it. */
export interface Database {
  readonly url: string
  readonly client: pg.Client
}

/** One for the tests of a file: there from before the first of them until after the last. */
export function databaseOfFile(): Database {
  let server: Postgres
  let client: pg.Client
  beforeAll(async () => {
    server = await startPostgres()
    client = new pg.Client(server.url)
    await client.connect()
  }, 60_000)
  afterAll(async () => {
    await client?.end()
    await server?.stop()
  })
  return {
    get url() {
      return server.url
    },
    get client() {
      return client
    },
  }
}
