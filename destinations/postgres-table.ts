import type { DatabaseError } from 'pg'
import {
  type AnyRow,
  ConfigError,
  type Destination,
  destination,
  FatalError,
  type Injected,
  RejectedError,
  RetryableError,
  SpillwayError,
} from 'spillway'
import { z } from 'zod'
import { type Connection, connector, type PgConnections } from './tables/postgres-connections.js'
import { type Columns, handlersOf, partsOf, quoted, type Session } from './tables/sql-table.js'
import { jsonOf, textOf, Unfit } from './tables/text.js'

/** Where the database is. */
export interface PostgresTableConfig {
  /** `postgres://user:password@host:5432/database`; best as `secret('DATABASE_URL')`. */
  readonly url: string
}

/** What {@link postgresTable} is told. `url` may be left out; it is then injected, unless there is a `pool`. */
export interface PostgresTableOptions extends Injected<PostgresTableConfig> {
  /** The table: `orders`, `sales.orders`, `sales."2026 orders"`. It is made when it is missing; its schema must be there. */
  readonly table: string
  /** The fields by which a row is found; `upsert` needs a unique index on just these. @default the sync's key */
  readonly match?: string | readonly string[] | undefined
  /**
   * Connections of your own, instead of `url`: a `Pool` of `pg`, or a connected `Client` that nobody else uses meanwhile. A
   * statement on a `Client` is not cut off when the run is stopped.
   */
  readonly pool?: PgConnections | undefined
}

export type { PgConnections }

const me = 'postgres-table'

/**
 * A table of PostgreSQL: rows are inserted, updated, upserted, deleted, or replaced as a whole, in statements over all rows of a batch.
 *
 * **What is guaranteed.** Each call is one transaction: all of it is applied or nothing. `insert` notes the batch in the table
 * `_spillway_batches` beside yours, in the transaction of its rows, so that a batch whose answer was lost is looked up there and no
 * row is inserted twice; notes are kept for 30 days. `upsert`, `update` and `delete` say the same when repeated. During `replace`,
 * everybody else sees the old rows until its end, and still does after a crash.
 *
 * A missing table is made from the records' types, with the match fields as its primary key when it is made by `upsert`, and missing
 * columns are added. `bigint` holds integers, `numeric` decimals, `timestamptz` a `Date` with its microseconds, `jsonb` lists and
 * objects; a type that the source does not tell (dates and decimals of plain arrays, or after `map`) is `text`. The types come from the first batch, and rows
 * that do not fit later are rejected; make the table yourself to have other types: values are cast to its own. In
 * a json column, text is a JSON string.
 *
 * An absent field leaves its column alone, `null` makes it null. A row that the database refuses is rejected, alone. `update` rejects
 * rows that are not there.
 *
 * It needs `npm install pg`.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * sync({ name: 'scores', from: scores, to: postgresTable({ table: 'crm.scores', url: secret('CRM_DATABASE_URL') }), key: 'id', mode: 'mirror' })
 * ```
 */
export function postgresTable(
  options: PostgresTableOptions,
): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete' | 'replace'> {
  const { table, match, pool, ...given } = options
  const name = partsOf(table, me)
  if (name.some((part) => Buffer.byteLength(part) > longestName)) {
    throw new ConfigError(`${me}: a name in table is longer than ${longestName} bytes, and would be cut`)
  }
  if (pool && given.url !== undefined) throw new ConfigError(`${me}: url and pool are both given: give one`)
  const connect = connector(pool, me)
  const handlers = handlersOf<Config>({
    actor: me,
    name,
    types,
    longestName,
    fold: (column) => column,
    text,
    transaction: async (context, work) => {
      const connection = await connect(context.config.url).catch((error) => {
        throw judged(error, false)
      })
      return transaction(connection, context.signal, work)
    },
  })
  return destination({
    name: me,
    batchSize: 1000,
    batchBytes: 16_000_000,
    timeout: '5min', // replace is one call
    // a commit on its way holds its rows, so that whatever comes after it waits
    settle: '0ms',
    match,
    config: z.object({ url: pool ? url.optional() : url }),
    target: ({ url }: Config) => ({ ...(url && !pool && placeOf(url)), table: name.join('.') }),
  })(handlers)(given as Injected<Config>)
}

type Config = { url?: string | undefined }

const url = z
  .string()
  .refine(
    (text) => /^postgres(ql)?:\/\//.test(text) && URL.canParse(text),
    'must be like postgres://user:password@host:5432/database, special characters in the password as encodeURIComponent writes them',
  )

function placeOf(url: string): object {
  const { host, pathname } = new URL(url)
  return { host, database: pathname.slice(1) }
}

/** NAMEDATALEN (https://www.postgresql.org/docs/current/limits.html). */
const longestName = 63

const types = {
  text: 'text',
  integer: 'bigint', // JavaScript's safe integers are larger than an `integer`
  bigint: 'bigint',
  decimal: 'numeric',
  double: 'double precision',
  boolean: 'boolean',
  date: 'date',
  timestamp: 'timestamp',
  instant: 'timestamptz',
  binary: 'bytea',
  json: 'jsonb',
}

function text(value: unknown, type: string): string {
  if (Array.isArray(value) && type.endsWith('[]')) return arrayText(value, type.slice(0, -2))
  const written =
    type === 'json' || type === 'jsonb' ? jsonOf(value) : value instanceof Date ? timeText(value) : textOf(value)
  if (written.includes('\0')) throw new Unfit('holds a NUL character, which PostgreSQL cannot')
  return written
}

/** As https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO describes. */
function arrayText(items: readonly unknown[], type: string): string {
  const item = (one: unknown): string => {
    if (one === null || one === undefined) return 'null'
    if (Array.isArray(one) && !type.startsWith('json')) return arrayText(one, type)
    return `"${text(one, type).replace(/["\\]/g, '\\$&')}"`
  }
  return `{${items.map(item).join()}}`
}

/** PostgreSQL writes years beyond 9999 without a sign, and those before the first as BC. */
function timeText(date: Date): string {
  const [, year, rest] = /^([+-]?\d+)(.*)$/.exec(textOf(date))!
  const number = Number(year)
  return number > 0 ? `${String(number).padStart(4, '0')}${rest}` : `${String(1 - number).padStart(4, '0')}${rest} BC`
}

// ---- transactions ------------------------------------------------------------------------------------------------------

/** What is sent as text must be read as we write it; a connection that is gone must not hold rows for hours. */
const begin = `begin; set local TimeZone = 'UTC'; set local DateStyle = 'ISO'; set local idle_in_transaction_session_timeout = '5min'`

async function transaction<T>(
  { client, release, end }: Connection,
  signal: AbortSignal,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  let broken: Error | undefined
  let given = false
  const giveBack = () => {
    if (!given) release?.(broken)
    given = true
  }
  const cutOff = () => {
    broken = new Error('cut off')
    giveBack()
  }
  // a connection that breaks also fails the query under way, and that is where it is told
  const ignore = () => {}
  client.on('error', ignore)
  signal.addEventListener('abort', cutOff)
  let committing = false
  try {
    signal.throwIfAborted()
    await client.query(begin)
    const result = await work(sessionOf(client))
    signal.throwIfAborted()
    committing = true
    await client.query('commit')
    return result
  } catch (error) {
    broken = committing && !isRefusal(error) ? (error as Error) : await rollback(client)
    throw judged(error, committing)
  } finally {
    signal.removeEventListener('abort', cutOff)
    giveBack()
    client.off('error', ignore)
    end()
  }
}

/** Answers why the connection is of no more use, if so. */
async function rollback(client: Connection['client']): Promise<Error | undefined> {
  try {
    await client.query('rollback')
    return undefined
  } catch (error) {
    return error as Error
  }
}

function sessionOf(client: Connection['client']): Session {
  const query: Session['query'] = async (text, ...params) =>
    (await client.query({ text, values: params.map((param) => [...param]), rowMode: 'array' })).rows
  return {
    query,
    async columns(parts): Promise<Columns> {
      // the type without its modifier: a cast to varchar(5) would cut what is longer
      const rows = await query(
        `select attname, format_type(atttypid, -1) from pg_attribute
         where attrelid = to_regclass(($1::text[])[1]) and attnum > 0 and not attisdropped`,
        [quoted(...parts)],
      )
      return new Map(rows as [string, string][])
    },
    needsIndex: (error) => stateOf(error) === '42P10',
    lock: () => query(`select pg_advisory_xact_lock(hashtext('spillway ${me}'))`),
    async attempt(statement, _, params) {
      await query('savepoint attempt')
      try {
        await query(statement, ...params)
      } catch (error) {
        const refusal = judged(error, false)
        if (!(refusal instanceof RejectedError)) throw error
        await query('rollback to savepoint attempt')
        return refusal.message
      }
      await query('release savepoint attempt')
      return undefined
    },
  }
}

// ---- what an error proves ----------------------------------------------------------------------------------------------

/** Classes of SQLSTATE that pass: lost connections, conflicts, resources, locks, an operator, the system. */
const passing = /^(08|40|53|55|57|58|XX)/
/** The SQLSTATE of an error that the server has sent. */
function stateOf(error: unknown): string | undefined {
  const { code, severity } = error as Partial<DatabaseError>
  return severity ? code : undefined
}

/** Whether the server has said that it rolled back. What ends the session in answer to a commit proves nothing. */
function isRefusal(error: unknown): boolean {
  const state = stateOf(error)
  return state !== undefined && !/^(08|57|58|XX|40003)/.test(state)
}

/** The driver's error is not kept: it may quote values. */
function judged(error: unknown, committing: boolean): unknown {
  if (error instanceof SpillwayError) return error
  const { code, message = '' } = error as Partial<DatabaseError>
  const state = stateOf(error)
  if (committing && !isRefusal(error)) {
    return new Error(
      `${me}: the commit was not answered (${code ?? message}): whether the batch was applied is looked up`,
    )
  }
  if (state === undefined || passing.test(state)) {
    return new RetryableError(`${me}: ${message || 'no connection'} (${code}): nothing of the batch was applied`)
  }
  // of data exceptions, what is quoted is a value
  const said = `${state.startsWith('22') ? message.replace(/".*"/s, '…') : message} (${state})`
  const next = nextStep(state)
  return next === undefined ? new RejectedError(said) : new FatalError(`${me}: ${said}: ${next}`)
}

/** Where no batch can succeed until somebody acts. */
function nextStep(state: string): string | undefined {
  if (state.startsWith('28')) return 'check user and password, and that the server lets them in from here'
  if (state === '42501') return 'grant the user what it needs'
  if (/^(3D|3F|42P01|25006)/.test(state)) return 'check the url and the table; a missing schema or database is not made'
  return undefined
}
