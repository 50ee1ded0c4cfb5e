import type { Injected } from './config.js'
import { type Duration, milliseconds, parseRate, type Rate } from './duration.js'
import { ConfigError } from './errors.js'
import type { Http } from './http.js'
import type { Log } from './log.js'
import type { In, Out, Schema } from './schema.js'
import type { AnyRow, Column } from './values.js'

/** A value, now or later. */
export type MaybePromise<T> = T | PromiseLike<T>

/** What is done to the records of a batch. */
export type Operation = 'insert' | 'update' | 'upsert' | 'delete' | 'replace'

// ---- outcomes ------------------------------------------------------------------------------------------------

// registered, so that two copies of the package in one process understand each other
const outcome: unique symbol = Symbol.for('spillway.outcome') as never

/** The destination refuses this record for good. Made by {@link reject}. */
export interface Rejection {
  readonly [outcome]: 'rejection'
  readonly record: object
  readonly reason: string
}
/** This record was not applied and may be sent again. Made by {@link retry}. */
export interface Retry {
  readonly [outcome]: 'retry'
  readonly record: object
  readonly after: number
}
/** Whether this record was applied is not known. Made by {@link unknown}. */
export interface Unknown {
  readonly [outcome]: 'unknown'
  readonly record: object
}
/** This record was applied, and this is the destination's own id for it. Made by {@link receipt}. */
export interface Receipt {
  readonly [outcome]: 'receipt'
  readonly record: object
  readonly remoteId: string
}
/** What a handler may say about one record. */
export type Outcome = Rejection | Retry | Unknown | Receipt

/**
 * Says that the destination refuses `record`, one of the batch, for good. It becomes a dead letter with this reason.
 *
 * @example
 * ```ts
 * return errors.map((e) => reject(batch[e.index]!, e.message))
 * ```
 */
export function reject(record: object, reason: string): Rejection {
  return { [outcome]: 'rejection', record, reason }
}

/** Says that `record` was not applied, and may be sent again, not before `after` (default: backoff decides). */
export function retry(record: object, options: { after?: Duration } = {}): Retry {
  return { [outcome]: 'retry', record, after: options.after ? milliseconds(options.after, 'retry(): after') : 0 }
}

/** Says that it is not known whether `record` was applied. It is resolved like a lost answer. */
export function unknown(record: object): Unknown {
  return { [outcome]: 'unknown', record }
}

/** Says that `record` was applied as the object `remoteId`; a later update or delete of it is told so by `context.remoteId`. */
export function receipt(record: object, remoteId: string): Receipt {
  return { [outcome]: 'receipt', record, remoteId }
}

/** Which outcome a value is; `undefined` when it is none. */
export function outcomeOf(value: unknown): Outcome | undefined {
  return value !== null && typeof value === 'object' && outcome in value ? (value as Outcome) : undefined
}

/** The kind of an outcome. */
export function kindOf(value: Outcome): Outcome[typeof outcome] {
  return value[outcome]
}

/** What a handler may answer: nothing (all delivered), or the records for which there is something to say. */
// biome-ignore lint/suspicious/noConfusingVoidType: a handler without a return statement gives void
export type Answer = MaybePromise<void | undefined | Iterable<Outcome>>

// ---- context -------------------------------------------------------------------------------------------------

/** The records' columns, seen so far in this run. */
export interface Table {
  /** The sync's name. */
  readonly name: string
  readonly columns: readonly Column[]
}

/** What a handler is given beside its batch. */
export interface Context<C = object, Op extends Operation = Operation> {
  /** The destination's config: passed, injected, validated. */
  readonly config: C
  /** The same for every attempt at these rows, after a restart too. Send it where the API knows such a thing. */
  readonly idempotencyKey: string
  /** 1 for the first attempt at these rows. */
  readonly attempt: number
  readonly operation: Op
  readonly table: Table
  /** The fields by which an object is found: the destination's `match`, or else the sync's `key`. */
  readonly match: readonly string[]
  /** The destination's own id of a record delivered before, from its receipt. */
  remoteId(record: object): string | undefined
  /**
   * The key of the row behind `record`, as text: the same in every run. It marks an object where the API has no field for it, so
   * that `verify` finds it again. `undefined` in a sync without a key.
   */
  key(record: object): string | undefined
  /**
   * Keeps a text with these rows until each of them has an answer: the id of a job that the API has opened for them, say. When it
   * resolves, the text is on disk, and a later attempt finds it in {@link remembered}, in another process too. A second text takes the
   * place of the first, `undefined` forgets it. Put no secret in it.
   *
   * As long as something is remembered, whatever the handler throws leaves the rows unknown: a {@link FatalError} stops the run, and
   * the next one takes them up again. Forget before you throw that nothing was applied.
   *
   * @example
   * ```ts
   * const job = remembered ?? (await http.post<Job>(`${api}/jobs`)).id
   * await remember(job) // before the rows leave: from now on they are looked for in this job, not sent in another
   * ```
   */
  remember(text: string | undefined): Promise<void>
  /**
   * What {@link remember} was given last for these rows, or for a larger batch of which they are what is still unknown; `verify` sees
   * it too. `undefined` once they were answered with {@link retry}, or a refusal had their batch halved. A batch whose answer
   * was lost and that remembers something is taken up again first when a run begins (`replace` begins anew).
   */
  readonly remembered: string | undefined
  /** Aborts when the call takes longer than `timeout`. Pass it to whatever waits. */
  readonly signal: AbortSignal
  /** `fetch` with timeout, status and Retry-After handling; never follows a redirect. */
  readonly http: Http
  readonly log: Log
  readonly sync: string
  readonly run: string
}

/** What `list` and `held` are given. */
export interface ListContext<C = object> {
  /** The destination's config: passed, injected, validated. */
  readonly config: C
  /** The fields by which an object is found: the destination's `match`, or else the sync's `key`. */
  readonly match: readonly string[]
  /** 1 for the first attempt at the listing; one that breaks off with a {@link RetryableError} begins again. */
  readonly attempt: number
  /** Aborts when nobody wants the listing any more. Pass it to whatever waits; how long one request may take is `http`'s part. */
  readonly signal: AbortSignal
  /** For requests that read: paced, each under the destination's `timeout`, and sent again when it may help. A POST that only reads says `read: true`. */
  readonly http: Http
  readonly log: Log
  readonly sync: string
}

// ---- options -------------------------------------------------------------------------------------------------

/** How much, how fast, how long: what may differ from one use of a destination to another. */
export interface Policy {
  /** Most records in one call. @default 100 */
  batchSize?: number | undefined
  /** Most bytes in one call, measured as JSON text. A single larger record goes alone. @default no limit */
  batchBytes?: number | undefined
  /** Calls under way at once; `'auto'` grows while latency stays flat and shrinks on push-back. @default 1 */
  concurrency?: number | 'auto' | undefined
  /** Most calls and requests in any window of that length. @default no limit */
  rate?: Rate | undefined
  /** How long one call may take. @default '60s' */
  timeout?: Duration | undefined
  /** How long one batch is retried before it is left for the next run. @default '5min' */
  retryFor?: Duration | undefined
  /**
   * What to do with a row whose outcome is unknown and that nothing else resolves: send it again (it may then arrive
   * twice; the run counts it as `resent`), or hold it as unknown until somebody decides.
   *
   * @default 'resend' for a plain function, 'hold' for handlers
   */
  onUnknown?: 'resend' | 'hold' | undefined
  /** How long a request whose answer was lost may still take effect. @default the timeout */
  settle?: Duration | undefined
}

/** What the destination can promise about a call, and what a call can take. */
export interface Guarantees {
  /** The most records that a call can take: a larger `batchSize` is refused. Leave it out where the handler cuts batches itself. @default no limit */
  maxBatchSize?: number | undefined
  /**
   * Whether a call that fails applied nothing. Say `false` when a handler makes several writes in one call outside
   * `context.http` (which counts them by itself): a call that throws is then unknown, never refused.
   *
   * @default true
   */
  atomic?: boolean | undefined
  /** The API drops a second request with the same `context.idempotencyKey`, for this long. @default it does not */
  idempotent?: Duration | undefined
  /**
   * What tells the place written to from another, such as a spreadsheet and a tab: what was delivered to one says nothing
   * about the other, so a sync whose target changed is refused until it is reset. @default its config without the secrets
   */
  // biome-ignore lint/suspicious/noExplicitAny: the config's type is inferred elsewhere
  target?: ((config: any) => unknown) | undefined
  /** Whether an `upsert`, `update`, `delete` or `replace` may be repeated without harm. @default true */
  replaySafe?: boolean | undefined
}

/** The options of {@link destination}, as it keeps them. */
export interface Definition {
  readonly name: string
  readonly handlers: Readonly<Partial<Record<Operation | Question, Handler>>>
  /** Made from a function rather than from handlers. */
  readonly plain: boolean
  readonly record: Schema | undefined
  readonly match: readonly string[] | undefined
  readonly config: Schema | undefined
  readonly given: Readonly<Record<string, unknown>>
  readonly atomic: boolean
  readonly idempotent: number | undefined
  readonly replaySafe: boolean
  readonly maxBatchSize: number
  readonly target: (config: unknown) => unknown
  readonly policy: ParsedPolicy
}

/** Handlers that are asked and change nothing: they are no operations, and serve no mode. */
type Question = 'verify' | 'list' | 'held'

/** A handler as the engine calls it. */
// biome-ignore lint/suspicious/noExplicitAny: the public types say what each handler takes
export type Handler = (...given: any[]) => any

/** A policy with its texts read and its defaults filled in; times in milliseconds. */
export interface ParsedPolicy {
  readonly batchSize: number
  readonly batchBytes: number
  readonly concurrency: number | 'auto'
  readonly rate: { readonly limit: number; readonly window: number } | undefined
  readonly timeout: number
  readonly retryFor: number
  readonly onUnknown: 'resend' | 'hold'
  readonly settle: number
}

// ---- the public types ----------------------------------------------------------------------------------------

const definition: unique symbol = Symbol.for('spillway.destination') as never
declare const types: unique symbol

/** Where records go. Made by {@link destination}, used as `to` of a sync. */
export interface Destination<in R, out Op extends Operation = Operation> {
  readonly name: string
  /** The operations it can carry out. */
  readonly operations: readonly Op[]
  /** The same destination under another policy. */
  with(policy: Policy): Destination<R, Op>
  readonly [definition]: Definition
  readonly [types]?: (record: R) => void
}

/** A destination that has config: usable as it is (all of it injected), or called with what the code knows. */
export interface Configurable<in R, out Op extends Operation, in C> extends Destination<R, Op> {
  (config: Injected<C>): Destination<R, Op>
}

type Simplify<T> = { [K in keyof T]: T[K] } & {}

/** An object as a destination lists it: its match fields are among its fields. */
type Listed<M extends PropertyKey> = AnyRow & { readonly [K in M as string extends K ? never : K]: unknown }
type Listing<T> = Iterable<T | readonly T[]> | AsyncIterable<T | readonly T[]>

// `NoInfer`: what a handler takes says what the records are; a property's type is held against each of these
type HandlerOf<R, M extends PropertyKey, C, K> = K extends 'delete'
  ? (batch: Simplify<Pick<R, M & keyof R>>[], context: Context<C, 'delete'>) => Answer
  : K extends 'replace'
    ? (batches: AsyncIterable<R[]>, context: Context<C, 'replace'>) => Answer
    : K extends 'verify'
      ? (batch: R[], context: Context<C>) => MaybePromise<Iterable<NoInfer<R> | Receipt | Unknown>>
      : K extends 'list'
        ? (context: ListContext<C>) => MaybePromise<Listing<Listed<M>>>
        : K extends 'held'
          ? (record: NoInfer<R>, context: ListContext<C>) => AnyRow
          : K extends Operation
            ? (batch: R[], context: Context<C, K>) => Answer
            : never

// `apply?: never` keeps a function with a wrong answer from passing as an object without handlers
type Handlers<R, M extends PropertyKey, C, K extends Operation | Question> = {
  [P in K]: HandlerOf<R, M, C, P>
} & { readonly apply?: never }

type FunctionOperation = 'insert' | 'upsert'
type Write<R, C> = (batch: R[], context: Context<C, FunctionOperation>) => Answer

type MatchOf<R> = (keyof R & string) | readonly (keyof R & string)[]
type MatchKeys<M> = M extends readonly (infer K)[] ? K & string : M & string

interface Loose<C, CI> {
  <R extends object = AnyRow>(write: Write<R, C>): Finish<R, FunctionOperation, CI>
  <const K extends Operation | Question, R extends object = AnyRow>(
    handlers: Handlers<R, string, C, K>,
  ): Finish<R, Exclude<K, Question>, CI>
}
interface Typed<RI, RO, M, C, CI> {
  (write: Write<RO, C>): Finish<RI, FunctionOperation, CI>
  <const K extends Operation | Question>(
    handlers: Handlers<RO, MatchKeys<M>, C, K>,
  ): Finish<RI, Exclude<K, Question>, CI>
}
type Finish<R, Op extends Operation, CI> = [CI] extends [never] ? Destination<R, Op> : Configurable<R, Op, CI>

type Options = Policy & Guarantees
type Untyped = { record?: never; match?: string | readonly string[] | undefined }

/**
 * Turns a function, or handlers by operation, into a destination: batched, paced, retried, accounted for row by row.
 *
 * A function receives every outgoing row, in the modes `append`, `insert` and `upsert`. Of handlers, those present are
 * what the destination can do. Either gets a batch, a fresh array of records, and a {@link Context}; it answers nothing
 * (all delivered) or {@link reject}, {@link retry}, {@link unknown} and {@link receipt} for the records concerned.
 * Throwing fails the batch: see {@link RetryableError}, {@link RejectedError}, {@link FatalError}; any other error is
 * judged by its HTTP status, and without one the outcome is unknown.
 *
 * Three more handlers are asked and change nothing. `verify` tells which records of a batch are there, when its answer was lost.
 * `list` gives everything that the destination holds, in the fields of its records, for `verify()` of a sync: an iterable, an async
 * one, or a promise of one, of objects or arrays of them, best page by page. Where a service gives values back in another form than
 * it took them, `held` gives a record in the form in which `list` would give it back; what it leaves out is not compared.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * const print = destination(100)((rows) => console.table(rows))
 *
 * const crm = destination({ name: 'crm', batchSize: 50, rate: '10/s', match: 'email' })({
 *   async upsert(batch, { http, idempotencyKey }) {
 *     await http.post('https://crm.example/contacts', { json: batch, headers: { 'idempotency-key': idempotencyKey } })
 *   },
 * })
 * ```
 */
export function destination(batchSize: number): Loose<object, never>
export function destination(options: Options & Untyped & { name?: string; config?: never }): Loose<object, never>
export function destination<C extends Schema>(
  options: Options & Untyped & { name: string; config: C },
): Loose<Out<C>, In<C>>
export function destination<S extends Schema, const M extends MatchOf<Out<S>> = never>(
  options: Options & { name?: string; record: S; match?: M; config?: never },
): Typed<In<S>, Out<S>, M, object, never>
export function destination<S extends Schema, C extends Schema, const M extends MatchOf<Out<S>> = never>(
  options: Options & { name: string; record: S; match?: M; config: C },
): Typed<In<S>, Out<S>, M, Out<C>, In<C>>
export function destination(given: number | RawOptions): unknown {
  const options: RawOptions = typeof given === 'number' ? { batchSize: given } : given
  return (implementation: Handler | Partial<Record<string, Handler>>) => {
    const plain = typeof implementation === 'function'
    const handlers = plain ? { insert: implementation, upsert: implementation } : { ...implementation }
    const name = options.name ?? ((plain && implementation.name) || 'destination')
    const known: readonly string[] = ['insert', 'update', 'upsert', 'delete', 'replace', ...questions]
    for (const [handler, value] of Object.entries(handlers)) {
      if (!known.includes(handler) || typeof value !== 'function') {
        throw new ConfigError(
          `${name}: ${handler} is not a handler; the handlers are functions named ${known.join(', ')}`,
        )
      }
    }
    if (operationsOf(handlers).length === 0) {
      throw new ConfigError(`${name}: no handler: give at least one of insert, update, upsert, delete, replace`)
    }
    if (options.config && !options.name) {
      throw new ConfigError(`${name}: a destination with config needs a name, by which its config is looked up`)
    }
    const { match } = options
    const maxBatchSize =
      options.maxBatchSize === undefined
        ? Number.POSITIVE_INFINITY
        : count(options.maxBatchSize, `${name}: maxBatchSize`)
    return make({
      name,
      handlers,
      plain,
      record: options.record,
      match: match === undefined ? undefined : typeof match === 'string' ? [match] : match,
      config: options.config,
      given: {},
      atomic: options.atomic ?? true,
      idempotent: options.idempotent && milliseconds(options.idempotent, `${name}: idempotent`),
      replaySafe: options.replaySafe ?? true,
      maxBatchSize,
      target: options.target ?? ((config) => config),
      policy: parsePolicy({ name, maxBatchSize }, options, defaults(plain, maxBatchSize)),
    })
  }
}

type RawOptions = Options & {
  name?: string | undefined
  record?: Schema | undefined
  match?: string | readonly string[] | undefined
  config?: Schema | undefined
}

/** The definition behind a destination; a {@link ConfigError} naming `where` when the value is none. */
export function definitionOf(value: unknown, where: string): Definition {
  const found = value !== null && value !== undefined && (value as Partial<Destination<never>>)[definition]
  if (!found) throw new ConfigError(`${where}: \`to\` is not a destination: make one with destination(…)(…)`)
  return found
}

const questions: readonly string[] = ['verify', 'list', 'held'] satisfies Question[]

/** The operations among the handlers. */
export function operationsOf(handlers: Definition['handlers']): readonly Operation[] {
  return Object.keys(handlers).filter((handler): handler is Operation => !questions.includes(handler))
}

function make(definitionHere: Definition): Destination<never> {
  const destination = definitionHere.config
    ? (config: Readonly<Record<string, unknown>>) =>
        make({ ...definitionHere, given: { ...definitionHere.given, ...config } })
    : {}
  return Object.defineProperties(destination, {
    name: { value: definitionHere.name, enumerable: true },
    operations: { value: operationsOf(definitionHere.handlers), enumerable: true },
    with: {
      value: (policy: Policy) =>
        make({ ...definitionHere, policy: parsePolicy(definitionHere, policy, definitionHere.policy) }),
    },
    [definition]: { value: definitionHere },
  }) as unknown as Destination<never>
}

function defaults(plain: boolean, maxBatchSize: number): ParsedPolicy {
  return {
    batchSize: Math.min(100, maxBatchSize),
    batchBytes: Number.POSITIVE_INFINITY,
    concurrency: 1,
    rate: undefined,
    timeout: 60_000,
    retryFor: 300_000,
    onUnknown: plain ? 'resend' : 'hold',
    settle: Number.NaN, // the timeout, whatever that will be
  }
}

function parsePolicy(
  { name, maxBatchSize }: Pick<Definition, 'name' | 'maxBatchSize'>,
  policy: Policy,
  base: ParsedPolicy,
): ParsedPolicy {
  const { batchSize, batchBytes, concurrency, rate, timeout, retryFor, onUnknown, settle } = policy
  if (onUnknown !== undefined && onUnknown !== 'resend' && onUnknown !== 'hold') {
    throw new ConfigError(`${name}: onUnknown is ${JSON.stringify(onUnknown)}; it must be 'resend' or 'hold'`)
  }
  if (batchSize !== undefined && batchSize > maxBatchSize) {
    throw new ConfigError(`${name}: batchSize is ${batchSize}; it must be at most ${maxBatchSize}`)
  }
  return {
    batchSize: batchSize === undefined ? base.batchSize : count(batchSize, `${name}: batchSize`),
    batchBytes: batchBytes === undefined ? base.batchBytes : count(batchBytes, `${name}: batchBytes`),
    concurrency:
      concurrency === undefined
        ? base.concurrency
        : concurrency === 'auto'
          ? concurrency
          : count(concurrency, `${name}: concurrency`),
    rate: rate === undefined ? base.rate : parseRate(rate, `${name}: rate`),
    timeout: timeout === undefined ? base.timeout : milliseconds(timeout, `${name}: timeout`),
    retryFor: retryFor === undefined ? base.retryFor : milliseconds(retryFor, `${name}: retryFor`),
    onUnknown: onUnknown ?? base.onUnknown,
    settle: settle === undefined ? base.settle : milliseconds(settle, `${name}: settle`),
  }
}

function count(value: number, what: string): number {
  if (Number.isInteger(value) && value >= 1) return value
  throw new ConfigError(`${what} is ${String(value)}; it must be a whole number of at least 1`)
}
