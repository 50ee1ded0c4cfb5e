import type { Duration } from './duration.js'

/** What every error of Spillway's own is, so that one `instanceof` tells them from others. */
export abstract class SpillwayError extends Error {
  override get name(): string {
    return this.constructor.name
  }
}

/**
 * Thrown by a handler: the destination is busy, nothing of this batch was applied, send it again.
 *
 * The author's word that nothing was applied is taken: the rows are *not* in doubt afterwards.
 *
 * @example
 * ```ts
 * if (reply.busy) throw new RetryableError('crm: import queue is full', { after: '30s' })
 * ```
 */
export class RetryableError extends SpillwayError {
  /** The least time to wait before the next attempt; without it, backoff decides. */
  readonly after: Duration | undefined
  constructor(message: string, options: { after?: Duration | undefined; cause?: unknown } = {}) {
    super(message, options)
    this.after = options.after
  }
}

/**
 * Thrown by a handler: the destination refuses this batch for good, and nothing of it was applied.
 *
 * A batch of several rows is split until the refused ones stand alone; those become dead letters.
 */
export class RejectedError extends SpillwayError {}

/**
 * Thrown by a handler: no batch can succeed until somebody acts (a revoked token, a missing permission).
 *
 * Stops the run; what is left stays pending. Nothing of this batch was applied.
 */
export class FatalError extends SpillwayError {}

/** A program, a configuration or an environment that cannot work as it stands. Thrown before anything is sent. */
export class ConfigError extends SpillwayError {}

/** The source broke off, or gave something that is not rows. What it gave before that is kept and delivered. */
export class SourceError extends SpillwayError {}

/** Another run of this sync is under way, in this process or another. */
export class AlreadyRunningError extends SpillwayError {}

/** The state folder does not hold what its database says. Nothing was sent, nothing was overwritten. */
export class StateDamagedError extends SpillwayError {}

/**
 * A guard found that a run would do more than was meant, such as deleting most of what is there; nothing was sent. The
 * message names the figure and says how to go on.
 */
export class GuardError extends SpillwayError {}
