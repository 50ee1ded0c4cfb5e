export type { Outcomes } from './account.js'
export type { ColumnChanges, SchemaContract } from './columns.js'
export { type Injected, Secret, secret } from './config.js'
export {
  type Answer,
  type Configurable,
  type Context,
  type Destination,
  destination,
  type Guarantees,
  type ListContext,
  type MaybePromise,
  type Operation,
  type Outcome,
  type Policy,
  type Receipt,
  type Rejection,
  type Retry,
  receipt,
  reject,
  retry,
  type Table,
  type Unknown,
  unknown,
} from './destination.js'
export type { Difference, Drift } from './drift.js'
export type { Duration, Rate, Unit } from './duration.js'
export {
  AlreadyRunningError,
  ConfigError,
  FatalError,
  GuardError,
  RejectedError,
  RetryableError,
  SourceError,
  SpillwayError,
  StateDamagedError,
} from './errors.js'
export { type Http, HttpError, type HttpRequest, NetworkError, TimeoutError } from './http.js'
export type { Log } from './log.js'
export { retryAfter } from './pace.js'
export type { Change, Plan } from './preview.js'
export type { Progress, Run, RunOptions } from './run.js'
export { runAll } from './run-all.js'
export { type CursorValue, type Read, type Readable, type RowOf, type Source, source } from './source.js'
export type { StartOptions } from './start.js'
export { type DeadLetter, type Mode, type Sync, type SyncStatus, sync } from './sync.js'
export { type AnyRow, type Column, type ColumnType, Instant } from './values.js'
