import { type Duration, milliseconds } from './duration.js'
import { ConfigError, SourceError } from './errors.js'
import { rowHash } from './stage.js'
import type { CursorStep, Position } from './state/state.js'
import { type AnyRow, describe, Instant } from './values.js'

/** A cursor as the user gave it, with its defaults filled in. */
export interface CursorOptions {
  readonly column: string
  readonly lag: Duration | number | undefined
  readonly from: Position | undefined
}

/**
 * Follows a column that only grows. It drops rows that were staged before from the window that each read covers again
 * (ties at the edge, and `lag` before it), counting equal rows, and tells how far the column was read.
 */
export class Cursor {
  readonly #options: CursorOptions
  readonly #where: string
  /** Where earlier reads ended. */
  readonly #edge: Position | undefined
  /** Rows staged before that this read will give again, by hash. */
  readonly #known: Map<string, number>
  /** Whether rows beyond the edge may be among the known ones too: those of a read that broke off out of order. */
  readonly #anywhere: boolean
  /** Rows of this read near its end, which the next read will meet again. */
  #recent: (readonly [hash: string, at: Position | null, count: number])[] = []
  #max: Position | undefined

  constructor(
    options: CursorOptions,
    where: string,
    earlier: {
      readonly position: Position | undefined
      readonly seen: ReadonlyMap<string, number>
      readonly brokenOff: readonly AnyRow[]
    },
  ) {
    this.#options = options
    this.#where = where
    this.#edge = earlier.position
    this.#max = earlier.position
    this.#known = new Map(earlier.seen)
    this.#anywhere = earlier.brokenOff.length > 0
    for (const row of earlier.brokenOff) {
      const hash = rowHash(row)
      this.#known.set(hash, (this.#known.get(hash) ?? 0) + 1)
      this.#recent.push([hash, row[options.column] as Position, 1])
    }
  }

  /** The least cursor value that the next read must give; `undefined`: everything. */
  get since(): Position | undefined {
    return this.#edge === undefined ? this.#options.from : this.#before(this.#edge)
  }

  /** The rows of these that were not staged before. */
  take(rows: readonly AnyRow[]): readonly AnyRow[] {
    const { column } = this.#options
    const since = this.since
    for (const row of rows) this.#advance(row[column])
    const windowStart = this.#max === undefined ? undefined : this.#before(this.#max)
    const fresh: AnyRow[] = []
    for (const row of rows) {
      const value = (row[column] ?? null) as Position | null
      // a source function may have ignored `since`
      if (value !== null && since !== undefined && compare(value, since) < 0) continue
      const maybeKnown =
        this.#anywhere || value === null || (this.#edge !== undefined && compare(value, this.#edge) <= 0)
      const hash = maybeKnown ? rowHash(row) : undefined
      if (hash !== undefined && this.#forget(hash)) continue
      fresh.push(row)
      if (value === null || windowStart === undefined || compare(value, windowStart) >= 0) {
        this.#recent.push([hash ?? rowHash(row), value, 1])
      }
    }
    return fresh
  }

  /** Where the cursor stands after the rows taken so far; what it tells it does not tell again. */
  step(): CursorStep | undefined {
    if (this.#max === undefined) return undefined
    const windowStart = this.#before(this.#max)
    const seen = this.#recent.filter(([, at]) => at === null || compare(at, windowStart) >= 0)
    this.#recent = []
    return { position: this.#max, seen, windowStart }
  }

  #advance(value: unknown): void {
    if (value === null || value === undefined) return // such a row is rejected when it is delivered
    const { column } = this.#options
    if (!isPosition(value)) {
      throw new SourceError(
        `${this.#where}: cursor column ${column} holds ${describe(value)}; it must be a number, bigint, text or Date`,
      )
    }
    if (this.#max !== undefined && kind(value) !== kind(this.#max)) {
      throw new SourceError(
        `${this.#where}: cursor column ${column} was ${kind(this.#max)} before and is ${kind(value)} now; reset the sync, or cast the column`,
      )
    }
    if (this.#max === undefined || compare(value, this.#max) > 0) this.#max = value
  }

  #forget(hash: string): boolean {
    const count = this.#known.get(hash)
    if (!count) return false
    this.#known.set(hash, count - 1)
    return true
  }

  /** A position less the lag. */
  #before(position: Position): Position {
    const { lag, column } = this.#options
    if (lag === undefined) return position
    if (typeof lag === 'number') {
      if (typeof position === 'number') return position - lag
      if (typeof position === 'bigint') return position - BigInt(Math.ceil(lag))
    } else {
      const span = milliseconds(lag, `${this.#where}: cursor lag`)
      if (position instanceof Date) return Instant.ofMicros(Instant.micros(position) - BigInt(Math.round(span * 1000)))
      const time = typeof position === 'string' ? Date.parse(zoned(position)) : Number.NaN
      // the same form as the column's texts, so that they still compare as texts; rounded down, which only widens the window
      if (!Number.isNaN(time))
        return new Date(time - span).toISOString().slice(0, Math.min((position as string).length, 23))
    }
    throw new ConfigError(
      `${this.#where}: cursor lag ${JSON.stringify(lag)} does not fit column ${column}, which is ${kind(position)}: give a duration for times, a number for numbers`,
    )
  }
}

/** Texts that every database orders as JavaScript does: dates and times. Others it may order by the rules of a language. */
const time = /^\d{4}-\d{2}-\d{2}([T ][\d:.]+)?$/

/**
 * The least of the positions at which several reads begin: `since` is `undefined` where one of them wants everything. The answer
 * is `undefined` when it is not known which of them the source puts first.
 */
export function leastOf(
  positions: readonly (Position | undefined)[],
): { readonly since: Position | undefined } | undefined {
  if (positions.includes(undefined)) return { since: undefined }
  const [first, ...others] = positions as [Position, ...Position[]]
  let since = first
  for (const other of others) {
    if (kind(other) !== kind(since)) return undefined
    if (compare(other, since) === 0) continue
    if (typeof other === 'string' && !(time.test(other) && time.test(since as string))) return undefined
    if (compare(other, since) < 0) since = other
  }
  return { since }
}

/** The order of two values of one kind. */
function compare(a: Position, b: Position): number {
  if (a instanceof Date && b instanceof Date) {
    const [left, right] = [Instant.micros(a), Instant.micros(b)]
    return left < right ? -1 : left > right ? 1 : 0
  }
  return a < b ? -1 : a > b ? 1 : 0
}

function isPosition(value: unknown): value is Position {
  return (
    (typeof value === 'number' && !Number.isNaN(value)) ||
    typeof value === 'bigint' ||
    typeof value === 'string' ||
    (value instanceof Date && !Number.isNaN(value.getTime()))
  )
}

/** Numbers and bigints compare with each other: a 64-bit column may be read as either. */
function kind(value: Position): string {
  if (value instanceof Date) return 'a Date'
  return typeof value === 'string' ? 'text' : 'a number'
}

/** A date or a time without zone, read as UTC: only distances count here. */
function zoned(text: string): string {
  return /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}/.test(text) && !/(Z|[+-]\d{2}:?\d{2})$/.test(text)
    ? `${text.replace(' ', 'T')}Z`
    : text
}
