import type { LedgerBatch } from './state/state.js'

/** Rows by what became of them. The others add up to `rows`. */
export interface Outcomes {
  readonly rows: number
  /** The destination has acknowledged them. */
  readonly delivered: number
  /** The destination has them already. */
  readonly unchanged: number
  /** Refused, by the destination or because they cannot be made into a record: see the dead letters. */
  readonly rejected: number
  /** Not sent, or sent and certainly not applied: the next run sends them. */
  readonly pending: number
  /** Sent, and nobody knows whether they were applied. */
  readonly unknown: number
  /** A newer row of the same key, or a newer reading of the source, took their place. */
  readonly superseded: number
}

/** What the ledger says of a range of ordinals. */
export interface Tally {
  readonly delivered: number
  readonly rejected: number
  readonly pending: number
  readonly unknown: number
  readonly resent: number
}

export const none: Tally = { delivered: 0, rejected: 0, pending: 0, unknown: 0, resent: 0 }

/** An ordinal that is in no batch is pending; so is one whose batch is under way. */
export function tally(batches: Iterable<LedgerBatch>, from: number, to: number): Tally {
  if (from >= to) return none
  let { delivered, rejected, unknown, resent } = none
  for (const batch of batches) {
    const within = batch.ranges.reduce(
      (sum, [first, count]) => sum + Math.max(0, Math.min(to, first + count) - Math.max(from, first)),
      0,
    )
    if (batch.state === 'unknown') unknown += within
    if (batch.state === 'settled') {
      const refused = batch.rejected.filter((ordinal) => ordinal >= from && ordinal < to).length
      rejected += refused
      delivered += within - refused
    }
    if (batch.resent) resent += within
  }
  return { delivered, rejected, unknown, resent, pending: Math.max(0, to - from) - delivered - rejected - unknown }
}

/** What was settled between two tallies, and what is open at the second. */
export function since(after: Tally, before: Tally): Tally {
  return { ...after, delivered: after.delivered - before.delivered, rejected: after.rejected - before.rejected }
}

export function plus(a: Tally, b: Tally): Tally {
  return {
    delivered: a.delivered + b.delivered,
    rejected: a.rejected + b.rejected,
    pending: a.pending + b.pending,
    unknown: a.unknown + b.unknown,
    resent: a.resent + b.resent,
  }
}

export function outcomes(
  rows: number,
  { delivered, rejected, pending, unknown }: Tally,
  unchanged = 0,
  superseded = 0,
): Outcomes {
  return { rows, delivered, unchanged, rejected, pending, unknown, superseded }
}
