import type { TypeCast } from 'mysql2'
import { ConfigError, SourceError } from '../errors.js'
import { refuseOthers } from '../options.js'
import type { Out, Schema } from '../schema.js'
import { createSource, type Reading, type Source } from '../source.js'
import { type AnyRow, describe } from '../values.js'
import { type Client, connector, explained, type MysqlPlace, type Session, stop } from './mysql-connection.js'
import {
  type Converter,
  converter,
  type Field,
  isDecimal,
  isJson,
  isNullable,
  least,
  leastValue,
  parameter,
} from './mysql-values.js'
import { blankRow, conforming, type Query, queryOf, quoted, windowed } from './sql.js'

export type { MysqlConnections, MysqlPlace, MysqlServer } from './mysql-connection.js'

/** What {@link mysql} reads, and where. */
export type MysqlOptions = MysqlPlace &
  (
    | {
        /** One select. */
        readonly query: string
        /** Values for each `?` in it. */
        readonly params?: readonly unknown[] | undefined
        readonly table?: never
      }
    | {
        /** A whole table or view: `orders`, `sales.orders`, `` sales.`2026 orders` ``. */
        readonly table: string
        readonly query?: never
        readonly params?: never
      }
  )

const actor = 'mysql'

/** Rows handed on together. */
const batch = 1_000

/**
 * The rows of a query or a table of MySQL or MariaDB. They stream, 1,000 at a time, from one read-only transaction that sees
 * the database as it was at its start (tables of InnoDB; others have no such thing).
 *
 * Values keep what the database says. `bigint` is a `bigint`, signed or not, as is `bit` of more than 32; other integers and
 * years are numbers; `decimal` is an exact string; a date is `'2026-01-31'`, a datetime `'2026-01-31T02:30:00.123456'`, a
 * timestamp a `Date` with its microseconds; binaries and blobs are `Uint8Array`; json is parsed, its integers beyond 2^53 as
 * `bigint`; a geometry is `{ x, y }`, or a list of such. `tinyint(1)`, which `boolean` means to MySQL, is `true` or `false` for 1
 * and 0, and the number for others; `bit(1)` is a boolean. Everything else is the text that MySQL writes, and so is a date that
 * is none: `'0000-00-00'`, where `nullif(day, '0000-00-00')` makes it null.
 *
 * The query runs in the time zone UTC, whatever the server's is.
 *
 * @example
 * ```ts
 * mysql({ url: secret('DATABASE_URL'), query: 'select * from users where plan = ?', params: ['pro'] })
 * ```
 *
 * @throws ConfigError when the options do not say what to read and where, or `mysql2` is not installed.
 * @throws SourceError while it is read: no connection, the query fails, or a row does not fit `record`. It names the
 * server and never the password or a value.
 */
export function mysql<S extends Schema>(options: MysqlOptions & { readonly record: S }): Source<Out<S> & object>
export function mysql<R extends object = AnyRow>(options: MysqlOptions): Source<R>
export function mysql(options: MysqlOptions & { readonly record?: Schema }): Source<object> {
  refuseOthers(options, ['url', 'server', 'pool', 'timeout', 'query', 'params', 'table', 'record'], actor)
  const { record } = options
  const query = queryOf(options, actor, '`')
  for (const [index, value] of query.params.entries()) {
    if (value === undefined || typeof value === 'function')
      throw new ConfigError(`${actor}: \`params\`: the value at ${index} is ${describe(value)}; SQL's null is null`)
  }
  const connect = connector(options)
  return createSource({
    name: actor,
    ordered: true,
    async *read(reading) {
      const { signal } = reading
      signal.throwIfAborted()
      const session = await connect(signal)
      try {
        yield* conforming(batches(session, query, reading), record, signal, actor)
      } catch (error) {
        signal.throwIfAborted()
        throw explained(error, session.client)
      } finally {
        await session.close()
      }
    },
  })
}

// ---- rows ------------------------------------------------------------------------------------------------------

type Values = readonly unknown[]

interface Answer {
  readonly rows: readonly Values[]
  readonly fields: readonly Field[]
}

async function* batches({ client }: Session, query: Query, reading: Reading): AsyncGenerator<AnyRow[]> {
  // what it tells of its columns before it runs is needed for these only
  const asked = reading.cursor !== undefined || isLossy(client)
  const known = asked ? await fieldsOf(client, query.text) : []
  let read: ((rows: Answer['rows']) => AnyRow[]) | undefined
  for await (const { rows, fields } of answers(client, windowOf(query, known, reading), known, reading.signal)) {
    read ??= reader(fields, reading)
    if (rows.length > 0) yield read(rows)
  }
}

function reader(fields: readonly Field[], { describe }: Reading): (rows: Answer['rows']) => AnyRow[] {
  const columns = fields.map((field) => ({ name: field.name, nullable: isNullable(field), ...converter(field) }))
  const blank = blankRow(columns, actor)
  describe(columns.map(({ name, type, nullable }) => ({ name, type, nullable })))
  return (rows) => rows.map((values) => filled(blank, columns, values))
}

/** A row with what the driver made of its columns. */
function filled(blank: AnyRow, columns: readonly (Converter & { readonly name: string })[], values: Values): AnyRow {
  const row = { ...blank }
  for (let index = 0; index < columns.length; index++) {
    const value = values[index]
    if (value !== null) row[columns[index]!.name] = columns[index]!.read(value as never)
  }
  return row
}

/** Whether the driver would round: these options are of a connection, not of a query. */
function isLossy({ config }: Client): boolean {
  return config.decimalNumbers === true || config.jsonStrings !== true
}

/** The driver reads such columns as they are, if it is told so value by value, which takes ten times as long. */
function castOf({ config }: Client, fields: readonly Field[]): TypeCast {
  const rounded = fields.some(
    (field) => (config.decimalNumbers ? isDecimal(field) : false) || (config.jsonStrings ? false : isJson(field)),
  )
  if (!rounded) return true
  return (field, next) => {
    if (field.type === 'DECIMAL' || field.type === 'NEWDECIMAL') return field.string('ascii')
    return field.type === 'JSON' || field.extendedFormat === 'json' ? field.string('utf8') : next()
  }
}

function fieldsOf(client: Client, sql: string): Promise<readonly Field[]> {
  return new Promise((resolve, reject) => {
    client.once('error', reject)
    client.prepare(sql, (error, statement) => {
      client.off('error', reject)
      if (error) return reject(error)
      resolve((statement as unknown as { columns: Field[] }).columns)
      client.unprepare(sql)
    })
  })
}

function windowOf({ text, params }: Query, fields: readonly Field[], { cursor, since }: Reading): Query {
  if (cursor === undefined) return { text, params }
  const field = fields.find(({ name }) => name === cursor)
  if (!field) {
    const names = fields.map(({ name }) => name).join(', ')
    throw new SourceError(`${actor}: the query gives no column ${quoted(cursor)} (the cursor); it gives ${names}`)
  }
  const parameter = least(field)
  if (parameter === undefined) {
    throw new SourceError(
      `${actor}: the cursor column ${quoted(cursor)} is json, an enum or a set, which MySQL does not order by what it shows: cast it in the query`,
    )
  }
  const column = quoted(cursor, '`')
  const order = isNullable(field) ? `${column} is null, ${column}` : column
  if (since === undefined) return { text: windowed(text, column, undefined, order), params }
  return { text: windowed(text, column, parameter, order), params: [...params, leastValue(since, field)] }
}

/** What the server answers; the next rows are taken from it while some are worked on. The first comes even when it has no rows. */
async function* answers(
  client: Client,
  { text, params }: Query,
  known: readonly Field[],
  signal: AbortSignal,
): AsyncGenerator<Answer> {
  const options = {
    ...{ sql: text, values: params.map(parameter), rowsAsArray: true, nestTables: false, namedPlaceholders: false },
    ...{ supportBigNumbers: true, bigNumberStrings: true, dateStrings: true, typeCast: castOf(client, known) },
  }
  let rows: Values[] = []
  let fields: readonly Field[] | undefined
  let running = true
  let stopping = false
  let failure: { readonly error: unknown } | undefined
  let wake = () => {}
  const command = client.execute(options as never) as unknown as NodeJS.EventEmitter
  let finish = () => {}
  const over = new Promise<void>((resolve) => {
    finish = () => {
      running = false
      wake()
      resolve()
    }
  })
  const onError = (error: unknown) => {
    failure ??= { error }
    finish()
  }
  client.on('error', onError)
  command.on('error', onError)
  command.on('end', finish)
  command.on('fields', (columns: readonly { -readonly [K in keyof Field]: Field[K] }[] | undefined) => {
    if (!columns) return // of a statement that gives none
    if (fields) {
      failure ??= { error: new SourceError(`${actor}: the query gives several results: it must be one select`) }
    }
    fields ??= columns.map((column) => ({ ...column, name: column.name }))
    // the driver refuses names such as constructor, though in arrays it has no use for them
    for (const [index, column] of columns.entries()) column.name = String(index)
  })
  command.on('result', (values: unknown) => {
    if (stopping || !Array.isArray(values)) return
    rows.push(values)
    if (rows.length < batch) return
    client.pause()
    wake()
  })

  let stopped: Promise<void> | undefined
  const end = () => {
    stopping = true
    client.resume()
    stopped ??= stop(client, over, () => running)
  }
  signal.addEventListener('abort', end)
  try {
    for (let more = true; more; ) {
      if (running && rows.length < batch) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      signal.throwIfAborted()
      if (failure) throw failure.error
      if (!fields) throw new SourceError(`${actor}: the query gives no columns: it must be a select`)
      const taken = rows
      more = running
      rows = []
      client.resume()
      yield { rows: taken, fields }
    }
  } finally {
    signal.removeEventListener('abort', end)
    end()
    await stopped
    client.off('error', onError)
    client.unprepare(options as never)
  }
}
