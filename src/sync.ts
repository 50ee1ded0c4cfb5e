import { hash } from 'node:crypto'
import { type SchemaContract, schemaContracts } from './columns.js'
import type { Secret } from './config.js'
import { redactLog } from './config.js'
import { type Destination, definitionOf, type Operation, operationsOf } from './destination.js'
import { type Drift, verify } from './drift.js'
import { type Ceiling, ceiling, type Duration, milliseconds } from './duration.js'
import { ConfigError } from './errors.js'
import type { Log } from './log.js'
import { refuseOthers } from './options.js'
import { type Plan, preview } from './preview.js'
import { type Run, type RunOptions, runSync, type SyncDefinition } from './run.js'
import { type Readable, type RowOf, type SourceDefinition, sourceOf } from './source.js'
import { type StartOptions, start } from './start.js'
import { openEmbedded } from './state/embedded.js'
import type { Position, StoredLetter } from './state/state.js'
import { type AnyRow, describe } from './values.js'

/** The operations that each mode needs of its destination. */
interface Needs {
  append: 'insert'
  insert: 'insert'
  update: 'update'
  upsert: 'upsert'
  mirror: 'upsert' | 'delete'
  replace: 'replace'
}

/**
 * What a sync sends.
 *
 * | mode | sends |
 * |---|---|
 * | `append` | every row once; with a `cursor`, every new row once |
 * | `insert` | rows whose key was never delivered |
 * | `update` | new and changed rows, for objects that exist there already |
 * | `upsert` | new and changed rows, for the destination to create or update |
 * | `mirror` | the same, and deletes for keys that are gone from the source |
 *
 * | `replace` | everything, when anything has changed |
 *
 * Changed is what differs from what the destination has acknowledged.
 */
export type Mode = keyof Needs

type Column<R> = keyof R & string
type Served<Op> = { [M in Mode]: [Needs[M]] extends [Op] ? M : never }[Mode]
type Key<R> = Column<R> | readonly Column<R>[]
type Keyed = 'insert' | 'update' | 'upsert' | 'mirror'
type Whole = 'mirror' | 'replace'

type KeyOption<R, M> = [M] extends [never]
  ? { key?: Key<R> | undefined }
  : [M] extends [Keyed]
    ? { key: Key<R> }
    : { key?: Key<R> | undefined }
type CursorOption<R, M> = [M] extends [never] ? Cursor<R> : [M] extends [Whole] ? { cursor?: never } : Cursor<R>
type Cursor<R> = {
  /**
   * A column that only grows: only rows from where the last read ended are read. `lag` reads so much before that again,
   * for rows that were committed late (rows staged before are recognised and dropped); `from` is where the first read begins.
   */
  cursor?: Column<R> | { column: Column<R>; lag?: Duration | number; from?: Position } | undefined
}
// apart, so that the row's type reaches `map` even when `from` is a function that takes a parameter
type MapOption<R, I> = { map?: ((row: R) => I) | undefined } & ([R] extends [I] ? unknown : { map: object })

type SyncOptions<R, M> = {
  /** Names the sync in messages and in the state. Renaming it begins afresh. */
  name: string
  /**
   * Change it when `map` comes to give other records although its text stays the same, because of what it calls: every row
   * is looked at again then.
   */
  version?: string | number | undefined
  /**
   * Most deletes in one run of `mirror`: a share of what the destination holds, such as `'5%'`, or a number. A run that
   * would delete more, or everything, sends nothing and fails with a {@link GuardError}; `allowDeletes` lets it pass.
   *
   * @default '20%'
   */
  deleteCeiling?: `${number}%` | number | undefined
  /**
   * Most rejected rows in one run: a number, or a share of the rows answered so far, such as `'5%'`, looked at once a hundred
   * have been. When there are more, the run ends with a {@link GuardError}; what was not sent stays pending.
   *
   * @default as many as there are
   */
  maxRejected?: `${number}%` | number | undefined
  /**
   * What happens when the source comes to have a new column, one of another type, or one less. `evolve` takes it as it is:
   * `map` gets what there is, and `undefined` for a column that is gone. `freeze` stops the run before anything is sent that
   * does not fit: for destinations that something depends on. `discard` leaves new columns, and values of another type, out
   * of the rows, so that `map` and the destination do not see them: to go on undisturbed. `freeze` and `discard` hold to the
   * columns of their first run, or of the last one under `evolve`. Key and cursor columns are never left out.
   *
   * Where the source does not tell its columns (anything but `postgres` and `duckdb`), they are those that its rows have, and
   * numbers of any kind are one type. `freeze` then ends a read that is sent while it goes on, as in `append`, at the first row
   * that does not fit.
   *
   * @default 'evolve'
   */
  schemaContract?: SchemaContract | undefined
  /**
   * How often `start()` runs the sync, the first time at once. A source that tells when it has something, such as a webhook, needs
   * none; with both, whichever comes first.
   */
  every?: Duration | undefined
  /** The folder of the state. @default '.spillway' */
  state?: string | Secret | undefined
  /** Where messages go. @default the console, without `debug` */
  log?: Log | undefined
} & KeyOption<R, M> &
  CursorOption<R, M>

/** A refused row. */
export interface DeadLetter<Row = AnyRow, I = AnyRow> {
  readonly id: number
  /** The row's key: a value, or a list where several columns make it; `undefined` without one. */
  readonly key: unknown
  readonly row: Row
  /** What `map` made of the row; `undefined` when that is what failed. */
  readonly record: I | undefined
  readonly operation: Operation
  readonly reason: string
  readonly at: Date
  readonly attempts: number
}

/** How a sync stands; it can be read while a run goes on, from any process. */
export interface SyncStatus {
  readonly sync: string
  readonly running: boolean
  /** The latest run, the one that goes on included. */
  readonly lastRun:
    | (Partial<Run> & {
        readonly id: string
        readonly state: 'running' | 'done' | 'incomplete' | 'failed' | 'killed'
        readonly startedAt: Date
        readonly endedAt: Date | undefined
      })
    | undefined
  readonly deadLetters: number
  readonly pending: number
  readonly unknown: number
  readonly cursor: Position | undefined
}

/** A source joined to a destination. Made by {@link sync}. */
// biome-ignore lint/suspicious/noExplicitAny: a list holds syncs of any rows
export interface Sync<Row = any, I = any> {
  readonly name: string
  /**
   * Reads, delivers, and tells what became of each row. First it finishes what an earlier run left open.
   *
   * Resolves also when rows were rejected, or when the run is `incomplete`. @throws what ended the run, when it failed: a
   * {@link ConfigError} before anything is sent, a {@link SourceError}, a {@link FatalError}, {@link AlreadyRunningError}.
   */
  run(options?: RunOptions): Promise<Run>
  /**
   * Runs now, and again whenever the source has something (a webhook) or `every` has passed, until the signal; then it lets the run
   * under way come to a batch boundary, and resolves. A run that fails is logged and tried again, later each time; only a
   * {@link ConfigError} ends it.
   *
   * @throws ConfigError when nothing says when to run.
   *
   * @example
   * ```ts
   * const stop = new AbortController()
   * process.once('SIGTERM', () => stop.abort())
   * await contacts.start({ every: '15min', signal: stop.signal })
   * ```
   */
  start(options?: StartOptions): Promise<void>
  /**
   * What a run would do now: it reads the source and compares, sends nothing and changes no state. Whatever was left open by
   * an earlier run is compared as it would be then.
   *
   * @throws ConfigError, {@link SourceError}, {@link AlreadyRunningError} while a run goes on.
   *
   * @example
   * ```ts
   * const plan = await contacts.plan()
   * console.log(plan.insert, plan.update, plan.delete)
   * for await (const { operation, match, fields } of plan.changes) console.log(operation, match, fields)
   * ```
   */
  plan(options?: { signal?: AbortSignal | undefined }): Promise<Plan<I>>
  status(): Promise<SyncStatus>
  /** Refused rows that were neither delivered since nor sent again, oldest first. */
  deadLetters(where?: (letter: DeadLetter<Row, I>) => boolean): AsyncIterable<DeadLetter<Row, I>>
  /**
   * Sends dead letters again. In `append`, and where the source has a cursor or can be read only once, the stored rows are
   * sent, mapped anew; otherwise the source is read, and the rows that it has now are sent.
   */
  redrive(options?: RunOptions & { where?: (letter: DeadLetter<Row, I>) => boolean }): Promise<Run>
  /**
   * Reads the source and takes its rows for delivered, without sending any: for a destination that is filled already. The
   * next run sends what has changed since. Rows of which no record can be made stay undelivered. Not for `append`.
   */
  adopt(options?: { signal?: AbortSignal | undefined }): Promise<Run>
  /**
   * Has the destination list what it holds, and compares that with what it has acknowledged: what somebody changed or deleted
   * there, no run would notice. Only the fields that were delivered count. It sends nothing and changes no state. Not for
   * `append`, nor for a destination without the handler `list`.
   *
   * @throws ConfigError, what the destination's `list` threw, {@link AlreadyRunningError} while a run goes on.
   *
   * @example
   * ```ts
   * const drift = await contacts.verify()
   * console.log(drift.same, drift.missing, drift.different, drift.unexpected)
   * for await (const { kind, match, fields } of drift.differences) console.log(kind, match, fields)
   * ```
   */
  verify(options?: { signal?: AbortSignal | undefined }): Promise<Drift<I>>
  /** Forgets what was delivered, read and refused: the next run begins afresh. The destination is not touched. */
  reset(): Promise<void>
}

/**
 * Joins a source to a destination. Nothing happens before `run()`.
 *
 * @throws ConfigError when the options cannot work, naming the sync, the option and the remedy.
 *
 * @example
 * ```ts
 * const people = [{ id: 1, email: 'ada@example.com' }]
 * const contacts = sync({ name: 'contacts', from: people, to: destination(100)((rows) => console.table(rows)), key: 'id', mode: 'upsert' })
 * const { delivered, rejected } = await contacts.run()
 * ```
 */
// `any` stands for the row until `from` has been looked at: for want of it, a `key` beside a function that takes a parameter
// would be held against no columns at all
// biome-ignore lint/suspicious/noExplicitAny: see above
export function sync<I, Op extends Operation, E extends object = any, const M extends Served<Op> = never>(
  options: { from: Readable<E>; to: Destination<I, Op>; mode?: M } & SyncOptions<RowOf<NoInfer<E>>, M> &
    MapOption<RowOf<NoInfer<E>>, I>,
): Sync<RowOf<E>, I> {
  const definition = define(options as unknown as RawOptions)
  const { name, folder, key } = definition
  const asLetter = (stored: StoredLetter): DeadLetter<RowOf<E>, I> => ({
    id: stored.id,
    key: key && (key.length === 1 ? stored.row[key[0]!] : key.map((column) => stored.row[column])),
    row: stored.row as RowOf<E>,
    record: stored.record as I | undefined,
    operation: stored.operation,
    reason: stored.reason,
    at: new Date(stored.at),
    attempts: stored.attempts,
  })
  const made: Sync<RowOf<E>, I> = {
    name,
    run: ({ [readAs]: source = definition.source, ...runOptions }: RunOptions & SourceAsRead = {}) =>
      runSync({ ...definition, source }, runOptions),
    start: (startOptions = {}) => start(definition, startOptions),
    plan: async ({ signal = new AbortController().signal } = {}) => (await preview(definition, signal)) as Plan<I>,
    redrive: ({ where = () => true, ...runOptions } = {}) =>
      runSync(definition, runOptions, { redrive: (stored) => where(asLetter(stored)) }),
    async adopt({ signal } = {}) {
      if (definition.mode === 'append') {
        throw new ConfigError(
          `${name}: append knows no objects, so there is nothing to adopt; give a key and a keyed mode`,
        )
      }
      return runSync(definition, { signal }, { adopts: true })
    },
    verify: async ({ signal = new AbortController().signal } = {}) => (await verify(definition, signal)) as Drift<I>,
    async *deadLetters(where = () => true) {
      const state = await openEmbedded(folder)
      try {
        for await (const stored of state.deadLetters(name)) {
          const letter = asLetter(stored)
          if (where(letter)) yield letter
        }
      } finally {
        await state.close()
      }
    },
    async status() {
      const state = await openEmbedded(folder)
      try {
        const status = await state.status(name)
        if (!status) {
          return {
            sync: name,
            running: false,
            lastRun: undefined,
            deadLetters: 0,
            pending: 0,
            unknown: 0,
            cursor: undefined,
          }
        }
        const { lastRun, ...rest } = status
        return {
          sync: name,
          ...rest,
          lastRun: lastRun && {
            ...(lastRun.summary as Partial<Run> | undefined),
            id: lastRun.id,
            state: lastRun.status,
            startedAt: new Date(lastRun.startedAt),
            endedAt: lastRun.endedAt === undefined ? undefined : new Date(lastRun.endedAt),
          },
        }
      } finally {
        await state.close()
      }
    },
    async reset() {
      const state = await openEmbedded(folder)
      try {
        await state.reset(name)
      } finally {
        await state.close()
      }
    },
  }
  // not enumerable: whoever prints a sync must not see what its destination is told
  return Object.defineProperty(made, parts, { value: { from: options.from, definition } })
}

// ---- what a sync shows to those who run it together with others

export const parts: unique symbol = Symbol.for('spillway.sync') as never
export const readAs: unique symbol = Symbol.for('spillway.read') as never

/** What it was made of. */
export interface Parts {
  readonly [parts]: { readonly from: unknown; readonly definition: SyncDefinition }
}

export function definitionOfSync(made: Sync): SyncDefinition {
  return (made as Sync & Parts)[parts].definition
}

/** How its run is to read, instead of reading for itself. */
export interface SourceAsRead {
  readonly [readAs]?: SourceDefinition | undefined
}

// ---- checking the options ------------------------------------------------------------------------------------------

type RawOptions = { readonly [option: string]: unknown }

const options: readonly string[] = [
  'name',
  'from',
  'to',
  'mode',
  'key',
  'cursor',
  'map',
  'version',
  'deleteCeiling',
  'maxRejected',
  'schemaContract',
  'every',
  'state',
  'log',
]
const operations = {
  append: { write: 'insert', needs: ['insert'] },
  insert: { write: 'insert', needs: ['insert'] },
  update: { write: 'update', needs: ['update'] },
  upsert: { write: 'upsert', needs: ['upsert'] },
  mirror: { write: 'upsert', needs: ['upsert', 'delete'] },
  replace: { write: 'replace', needs: ['replace'] },
} as const
const modes: readonly string[] = ['append', 'insert', 'update', 'upsert', 'mirror', 'replace']

function define(given: RawOptions): SyncDefinition {
  const { name } = given
  if (typeof name !== 'string' || name.trim() === '') {
    throw new ConfigError(`sync: name is ${describe(name)}; give the sync a name, by which its state is found again`)
  }
  const wrong = (problem: string): ConfigError => new ConfigError(`${name}: ${problem}`)
  refuseOthers(given, options, name)

  const destination = definitionOf(given['to'], name)
  const source = sourceOf(given['from'], name)
  const key = columnsOf(given['key'], wrong)
  const mode = given['mode'] ?? (key ? 'upsert' : 'append')
  if (typeof mode !== 'string' || !modes.includes(mode)) {
    throw wrong(`${JSON.stringify(mode)} is not a mode; the modes are ${modes.join(', ')}`)
  }
  const { write: operation, needs } = operations[mode as keyof typeof operations]
  const missing = needs.find((one) => !destination.handlers[one])
  if (missing) {
    throw wrong(
      `mode ${mode} needs ${missing}, and ${destination.name} can only ${operationsOf(destination.handlers).join(', ')}`,
    )
  }
  if (mode !== 'append' && mode !== 'replace' && !key)
    throw wrong(`mode ${mode} needs key: name the column, or columns, that identify a row`)
  const cursor = cursorOf(given['cursor'], wrong)
  if (cursor && source.inbox) {
    throw wrong(`${source.inbox.where} keeps the place of each sync that reads it: leave cursor out`)
  }
  if ((mode === 'mirror' || mode === 'replace') && (cursor || !source.repeatable || source.inbox)) {
    throw wrong(
      `mode ${mode} takes away what the source does not show, so it must show everything: ${cursor ? 'leave cursor out' : 'give a source that can be read again, such as an array, a query, or a function'}`,
    )
  }
  const every = given['every'] as Duration | undefined
  if (every !== undefined) milliseconds(every, `${name}: every`)
  const map = given['map']
  if (map !== undefined && typeof map !== 'function')
    throw wrong(`map is ${describe(map)}; it must be a function from a row to a record`)
  const schemaContract = given['schemaContract'] ?? 'evolve'
  if (!schemaContracts.includes(schemaContract as SchemaContract)) {
    throw wrong(
      `schemaContract is ${typeof schemaContract === 'string' ? JSON.stringify(schemaContract) : describe(schemaContract)}; the choices are ${schemaContracts.join(', ')}`,
    )
  }
  const state = given['state'] ?? '.spillway'
  if (typeof state !== 'string' || /^\w+:\/\//.test(state)) {
    throw wrong(`state must be the path of a folder; a state in a database is not supported by this version`)
  }
  source.inbox?.join(name, state)
  return {
    name,
    source,
    every,
    destination,
    mode: mode as SyncDefinition['mode'],
    operation,
    key,
    cursor,
    map: map as SyncDefinition['map'],
    version: hash('sha256', `${map ?? ''} ${versionOf(given['version'], wrong)}`, 'base64'),
    deleteCeiling: ceilingOf(given, 'deleteCeiling', wrong) ?? { share: 0.2 },
    maxRejected: ceilingOf(given, 'maxRejected', wrong),
    schemaContract: schemaContract as SchemaContract,
    folder: state,
    log: redactLog((given['log'] as Log | undefined) ?? { ...console, debug() {} }),
  }
}

function versionOf(version: unknown, wrong: (problem: string) => ConfigError): string {
  if (version === undefined) return ''
  if (typeof version === 'string' || typeof version === 'number') return String(version)
  throw wrong(`version is ${describe(version)}; give a text or a number that changes when what map does changes`)
}

function ceilingOf(given: RawOptions, option: string, wrong: (problem: string) => ConfigError): Ceiling | undefined {
  const value = given[option]
  if (value === undefined) return undefined
  const read = ceiling(value)
  if (!read) throw wrong(`${option} is ${JSON.stringify(value)}; give a share such as '5%', or a number of rows`)
  return read
}

function columnsOf(key: unknown, wrong: (problem: string) => ConfigError): readonly string[] | undefined {
  if (key === undefined) return undefined
  const columns = typeof key === 'string' ? [key] : key
  if (
    !Array.isArray(columns) ||
    columns.length === 0 ||
    columns.some((column) => typeof column !== 'string' || column === '')
  ) {
    throw wrong(`key must be the name of a column, or a list of them`)
  }
  return columns
}

function cursorOf(cursor: unknown, wrong: (problem: string) => ConfigError): SyncDefinition['cursor'] {
  if (cursor === undefined) return undefined
  if (typeof cursor === 'string' && cursor !== '') return { column: cursor, lag: undefined, from: undefined }
  const { column, lag, from } = (cursor ?? {}) as { column?: unknown; lag?: unknown; from?: Position }
  if (typeof column !== 'string' || column === '')
    throw wrong(`cursor must be the name of a column, or { column, lag, from }`)
  if (typeof lag === 'string') milliseconds(lag as Duration, 'cursor lag')
  else if (lag !== undefined && !(typeof lag === 'number' && lag >= 0))
    throw wrong(`cursor lag is ${describe(lag)}; give a duration, or a number that is not negative`)
  return { column, lag: lag as Duration | number | undefined, from }
}
