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
  /** In no batch, or in one that is under way. */
  readonly pending: number
  readonly unknown: number
  readonly resent: number
}

export const none: Tally = { delivered: 0, rejected: 0, pending: 0, unknown: 0, resent: 0 }

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
