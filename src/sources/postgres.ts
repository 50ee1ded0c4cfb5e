import { once } from 'node:events'
import { connect as openSocket, Socket } from 'node:net'
import type { ClientBase, CustomTypesConfig, FieldDef, PoolClient } from 'pg'
import { resolveSecret, type Secret } from '../config.js'
import { type Duration, milliseconds } from '../duration.js'
import { ConfigError, SourceError, SpillwayError } from '../errors.js'
import type { Out, Schema } from '../schema.js'
import { createSource, type Reading, type Source } from '../source.js'
import type { AnyRow } from '../values.js'
import { type Arrays, arraysQuery, converter, settings } from './postgres-values.js'
import { blankRow, conforming, cursorText, quoted, statement, windowed } from './sql.js'

/** A `Pool` of the package `pg`, or a connected `Client` of it. */
export interface PostgresConnections {
  connect(...rest: never[]): unknown
  query(...rest: never[]): unknown
}

/** What {@link postgres} reads, and where. */
export type PostgresOptions = {
  /** `postgres://user:password@host:5432/database`; best as `secret('DATABASE_URL')`. */
  readonly url?: string | Secret | undefined
  /** Connections of your own, instead of `url`. One is used for as long as the source is read, and left as it was. */
  readonly pool?: PostgresConnections | undefined
  /** The longest that the server may work on one answer, of 1,000 rows. @default what the server is configured for */
  readonly timeout?: Duration | undefined
} & (
  | {
      /** One select. */
      readonly query: string
      /** Values for its `$1`, `$2`, … */
      readonly params?: readonly unknown[] | undefined
      readonly table?: never
    }
  | {
      /** A whole table or view: `orders`, `sales.orders`, `sales."2026 orders"`. */
      readonly table: string
      readonly query?: never
      readonly params?: never
    }
)

const actor = 'postgres'

/** Rows of one answer: enough to hide the way to the server, few enough to keep memory small. */
const batch = 1_000

/** How long to wait for a connection, and for the end of a query that was told to stop. */
const patience = { connect: 30_000, stop: 5_000 }

/**
 * The rows of a query or a table of PostgreSQL. They come through a cursor, 1,000 at a time, in one read-only transaction
 * that sees the database as it was at its start.
 *
 * Values keep what the database says. `bigint` is a `bigint`, `numeric` an exact string; a date is `'2026-01-31'`, a
 * timestamp `'2026-01-31T02:30:00.123456'`, a timestamp with time zone a `Date` with its microseconds; `bytea` is a
 * `Uint8Array`; json is parsed, its integers beyond 2^53 as `bigint`; arrays are arrays; everything else, and an infinite
 * or BC date, is the text that PostgreSQL writes.
 *
 * The query runs in the time zone UTC, whatever the server's is.
 *
 * @example
 * ```ts
 * postgres({ url: secret('DATABASE_URL'), query: 'select * from users where plan = $1', params: ['pro'] })
 * ```
 *
 * @throws ConfigError when the options do not say what to read and where, or `pg` and `pg-cursor` are not installed.
 * @throws SourceError while it is read: no connection, the query fails, or a row does not fit `record`. It names the
 * server and never the password or a value.
 */
export function postgres<S extends Schema>(options: PostgresOptions & { readonly record: S }): Source<Out<S> & object>
export function postgres<R extends object = AnyRow>(options: PostgresOptions): Source<R>
export function postgres(options: PostgresOptions & { readonly record?: Schema }): Source<object> {
  const { record } = options
  const query = queryOf(options)
  const connect = connector(options)
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      signal.throwIfAborted()
      const session = await connect(signal)
      let healthy = true
      try {
        let before = 0
        for await (const rows of batches(session, query, reading)) {
          yield record ? await conforming(rows, record, before, actor) : rows
          before += rows.length
        }
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error, session.place)
      } finally {
        await session.close()
      }
    },
  })
}

interface Query {
  readonly text: string
  readonly params: readonly unknown[]
}

function queryOf({ query, params = [], table }: PostgresOptions): Query {
  if ((query === undefined) === (table === undefined)) throw new ConfigError(`${actor}: give either \`query\` or \`table\``)
  if (table === undefined) return { text: statement(query, actor), params }
  // parts that are quoted already may hold dots
  const parts = table.match(/"(?:[^"]|"")+"|[^".]+/g) ?? []
  if (parts.join('.') !== table) throw new ConfigError(`${actor}: \`table\` is no name of a table, such as sales.orders`)
  return { text: `select * from ${parts.map((part) => (part.startsWith('"') ? part : quoted(part))).join('.')}`, params }
}
