import { kindOf, type Outcome, outcomeOf } from './destination.js'
import { milliseconds } from './duration.js'
import { ConfigError, FatalError, RejectedError, RetryableError } from './errors.js'
import { HttpError, NetworkError, neverConnected } from './http.js'
import { retryAfter } from './pace.js'
import { describe } from './values.js'

/** What one call of a handler proves about its batch. */
export type Verdict =
  /** Every row has an answer; those not named are delivered. */
  | { readonly kind: 'answered'; readonly outcomes: ReadonlyMap<number, Outcome> }
  /** Nothing was applied, and the same batch would be refused again. */
  | { readonly kind: 'refused'; readonly reason: string; readonly error: unknown }
  /** Nothing was applied; it may work later. */
  | {
      readonly kind: 'again'
      readonly after: number | undefined
      readonly pushedBack: boolean
      readonly error: unknown
    }
  /** Nothing was applied, and no batch can succeed until somebody acts. */
  | { readonly kind: 'fatal'; readonly error: unknown }
  /** It may have been applied. `bug`: the program or an address is wrong, and calling again would not help. */
  | {
      readonly kind: 'unknown'
      readonly after: number | undefined
      readonly pushedBack: boolean
      readonly bug: boolean
      readonly error: unknown
    }

/** What is known about a call beside what it threw. */
export interface Call {
  /** The destination's name. */
  readonly actor: string
  /** Whether the handler makes one write in a call. */
  readonly atomic: boolean
  /** Requests that write, seen by `context.http`. */
  readonly writes: number
}

/** What an error thrown by a handler proves. */
export function judge(error: unknown, { actor, atomic, writes }: Call, now: number): Verdict {
  // the author's word that nothing was applied, unless the author said that calls are not atomic
  if (atomic) {
    if (error instanceof RetryableError) {
      const after = error.after === undefined ? undefined : milliseconds(error.after, `${actor}: RetryableError: after`)
      return { kind: 'again', after, pushedBack: after !== undefined, error }
    }
    if (error instanceof RejectedError) return { kind: 'refused', reason: error.message, error }
  }
  if (error instanceof FatalError || error instanceof ConfigError) {
    // what is missing or cannot work shows before a request leaves, but an earlier one may have left
    return atomic && (error instanceof FatalError || writes === 0)
      ? { kind: 'fatal', error }
      : { kind: 'unknown', after: undefined, pushedBack: false, bug: true, error }
  }
  const unconnected = error instanceof NetworkError ? !error.connected : neverConnected(error)
  if (unconnected && writes <= 1 && atomic) return { kind: 'again', after: undefined, pushedBack: false, error }
  const status = statusOf(error)
  const after = retryAfterOf(error, now)
  const pushedBack = status === 429 || (status === 503 && after !== undefined)
  if (status !== undefined && atomic && writes <= 1) {
    if (status === 429 || status === 425) return { kind: 'again', after, pushedBack, error }
    if (status === 401 || status === 407) return { kind: 'fatal', error }
    if (status >= 400 && status < 500 && status !== 408 && status !== 409) {
      return { kind: 'refused', reason: messageOf(error), error }
    }
  }
  // a redirect is not followed and will come again; so will a 2xx that is not JSON, which may well have been applied
  const misread = status !== undefined && status < 400
  return { kind: 'unknown', after, pushedBack, bug: misread || isBug(error), error }
}

/** What a handler's answer says about the rows of its batch. `placeOf` finds a record among those that it was given. */
export function readAnswer(answer: unknown, placeOf: (record: object) => number | undefined, actor: string): Verdict {
  if (answer === undefined) return { kind: 'answered', outcomes: none }
  const malformed = (what: string): Verdict => ({
    kind: 'unknown',
    after: undefined,
    pushedBack: false,
    bug: true,
    error: new FatalError(
      `${actor}: the handler returned ${what}; it must return nothing, or reject(), retry(), unknown() and receipt() for records of its batch. Whether the batch was applied is not known`,
    ),
  })
  if (answer === null || typeof answer !== 'object' || !(Symbol.iterator in answer)) return malformed(describe(answer))
  const outcomes = new Map<number, Outcome>()
  for (const item of answer as Iterable<unknown>) {
    const outcome = outcomeOf(item)
    if (!outcome) return malformed(`a list that holds ${describe(item)}`)
    const index = placeOf(outcome.record)
    if (index === undefined) return malformed(`${kindOf(outcome)} for an object that is not one of the batch's records`)
    const before = outcomes.get(index)
    if (before && kindOf(before) !== kindOf(outcome)) {
      return malformed(`both ${kindOf(before)} and ${kindOf(outcome)} for one record`)
    }
    outcomes.set(index, outcome)
  }
  return { kind: 'answered', outcomes }
}

const none: ReadonlyMap<number, Outcome> = new Map()

/** Finds records in a batch; for most batches nothing is looked for. */
export function placesIn(records: readonly object[]): (record: object) => number | undefined {
  let places: Map<object, number> | undefined
  return (record) => {
    places ??= new Map(records.map((one, index) => [one, index]))
    return places.get(record)
  }
}

/** What an error says, however it was thrown. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  // what went wrong stands in the cause: the message of `fetch` is always the same
  return error.message === 'fetch failed' && error.cause instanceof Error
    ? `fetch failed: ${error.cause.message}`
    : error.message
}

/** The HTTP status in an error of ours or of any client: `status`, `statusCode` or `response.status`. */
function statusOf(error: unknown): number | undefined {
  if (error instanceof HttpError) return error.status
  if (error === null || typeof error !== 'object') return undefined
  const { status, statusCode, response } = error as {
    status?: unknown
    statusCode?: unknown
    response?: { status?: unknown }
  }
  return [status, statusCode, response?.status].find(
    (value): value is number => typeof value === 'number' && value >= 300 && value < 600,
  )
}

function retryAfterOf(error: unknown, now: number): number | undefined {
  if (error instanceof HttpError) return error.retryAfter
  const headers = (error as { response?: { headers?: unknown } } | null)?.response?.headers
  const value =
    headers instanceof Headers
      ? headers.get('retry-after')
      : (headers as Record<string, unknown> | undefined)?.['retry-after']
  return typeof value === 'string' ? retryAfter(value, now) : undefined
}

/** A mistake in the program rather than in the world: `fetch` failing is a TypeError too, but has a cause. */
function isBug(error: unknown): boolean {
  return error instanceof ReferenceError || (error instanceof TypeError && error.cause === undefined)
}
