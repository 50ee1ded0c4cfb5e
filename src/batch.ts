import { hash } from 'node:crypto'
import type { Definition, Operation } from './destination.js'
import type { ItemChunk, Items } from './items.js'
import type { Log } from './log.js'
import { onAbort } from './pace.js'
import { type MakeRecord, recordMaker, Unfit } from './record.js'
import type { LedgerBatch, Range, SyncState } from './state/state.js'
import { type AnyRow, encodeRows, keyOf } from './values.js'

/** A stretch of items to deliver. */
export interface Stretch {
  readonly items: Items
  /** What is done with all of them. */
  readonly operation: Operation
  readonly from: number
  /** Where it ends so far, and whether it will still grow. */
  end(): { readonly ordinal: number; readonly final: boolean }
  /** Resolves when {@link end} has changed. */
  grown(): Promise<void>
  /** Batches of it that the ledger knows: those settled are passed over, those unknown are resolved. */
  readonly batches: readonly LedgerBatch[]
  /** What idempotency keys are made from, beside ordinals: it differs wherever an ordinal means another row. */
  readonly identity: string
  /** Its rows come from an earlier run. */
  readonly resumed: boolean
  /** Unknown batches are resolved, pending rows are sent; or only one of the two. @default both */
  readonly only?: 'unknown' | 'pending' | undefined
}

/** A record, and what is known of it. */
export interface Prepared {
  readonly ordinal: number
  readonly record: object
  readonly key: string | undefined
  readonly remoteId: string | undefined
}

/** A row that cannot be made into a record. */
export interface Invalid {
  readonly ordinal: number
  readonly row: AnyRow
  readonly key: string | undefined
  readonly problem: string
}

/** Rows on their way to the destination, and what was learnt of them. */
export interface Work {
  readonly id: number
  readonly stretch: Stretch
  readonly ordinals: readonly number[]
  readonly ranges: readonly Range[]
  /** Names the batch to the destination, at every attempt. */
  idempotencyKey: string
  readonly keys: readonly string[]
  /** There until the first attempt has used them up: a handler may change its records. */
  prepared: readonly Prepared[] | undefined
  attempt: number
  /** An earlier attempt may have been applied. */
  doubt: boolean
  /** When that attempt had ended: what it asked for may still land some time after. */
  doubtSince: number
  /** When the first attempt under this idempotency key left, and a digest of its records. */
  firstSentAt: number
  digest: string | undefined
  /** The rows were sent again although they may have been applied. */
  resent: boolean
  /** When the trouble began, by the monotonic clock. */
  failingSince: number | undefined
  /** Not to be sent before this. */
  notBefore: number
  /** `verify` said of these rows that it cannot tell. */
  unverifiable: boolean
  /** What the handler wants to know at a later attempt. */
  remembered: string | undefined
}

export interface BatcherOptions {
  readonly destination: Definition
  /** Columns of the row that make its key. */
  readonly key: readonly string[] | undefined
  /** Rows without a value here are rejected. */
  readonly cursor: string | undefined
  readonly map: ((row: AnyRow) => unknown) | undefined
  /** Whether an item may follow another of the same key: then it waits for it. */
  readonly keysRepeat: boolean
  readonly state: SyncState
  readonly log: Log
  /** No further batch is made after this. */
  readonly stop: AbortSignal
  /** How long a request that nobody answered may still land. */
  readonly settle: number
  /** Takes a row that cannot be made into a record. */
  refuse(item: Invalid, stretch: Stretch): void
}

/** How long a batch that is not full waits for rows while the source goes on. */
const linger = 1_000

/** Whether sending an item again writes the same object again. */
export function isReplaySafe({ replaySafe }: Definition, operation: Operation): boolean {
  return replaySafe && operation !== 'insert'
}

/** Records that will be a batch. */
class Pile {
  items: Prepared[] = []
  bytes = 0
  /** When nothing can land any more that was sent for one of them. */
  quiet = 0

  add(item: Prepared, bytes: number, quiet: number): void {
    this.items.push(item)
    this.bytes += bytes
    this.quiet = Math.max(this.quiet, quiet)
  }

  /** Gives what it held. */
  clear(): Pick<Pile, 'items' | 'quiet'> {
    const { items, quiet } = this
    Object.assign(this, new Pile())
    return { items, quiet }
  }
}

/** Makes rows into records and records into batches: by count and bytes, each key in one batch at a time. */
export class Batcher {
  readonly #options: BatcherOptions
  readonly #make: MakeRecord
  /** Every attempt that nobody answered had ended by then, those of an earlier process too. */
  #quietSince = Date.now()
  /** Keys of rows under way, and of rows left behind, which later rows of the same key must not overtake. */
  readonly #underWay = new Set<string>()
  readonly #leftBehind = new Set<string>()
  #waiting: (() => void)[] = []

  constructor(options: BatcherOptions) {
    this.#options = options
    this.#make = recordMaker({ ...options, needed: options.destination.match ?? [] })
  }

  /** The batches of a stretch, those that an earlier run left unknown first. */
  async *feed(stretch: Stretch): AsyncGenerator<Work> {
    if (stretch.only !== 'pending') {
      for (const batch of stretch.batches) if (batch.state === 'unknown') yield await this.#leftUnknown(batch, stretch)
    }
    if (stretch.only === 'unknown') return
    const later: Work[] = []
    for await (const work of this.#pending(stretch)) {
      if (work.notBefore > Date.now()) later.push(work)
      else yield work
    }
    yield* later
  }

  /** A stretch as one batch. */
  whole(stretch: Stretch): Work {
    const count = stretch.end().ordinal - stretch.from
    const ranges: Range[] = count > 0 ? [[stretch.from, count]] : []
    return { ...this.#newWork([], stretch), ranges, idempotencyKey: keyFor(ranges, stretch) }
  }

  /** Items from an ordinal on, as many as are at hand. */
  async prepared(stretch: Stretch, ordinal: number): Promise<(Prepared | Invalid)[]> {
    const chunk = await stretch.items.chunkAt(ordinal)
    return Promise.all(chunk!.rows.map((_, index) => this.#prepare(chunk!, index, ordinal + index)))
  }

  /** An attempt has ended, and nobody answered it. */
  unanswered(): void {
    this.#quietSince = Date.now()
  }

  /** Some rows of a batch, to be sent by themselves. */
  part(work: Work, some: readonly Prepared[], change: Partial<Work>): Work {
    const id = this.#options.state.newBatch()
    const part = only(some)
    const idempotencyKey = keyFor(part.ranges, work.stretch)
    return {
      ...work,
      ...part,
      id,
      idempotencyKey,
      keys: keysOf(some),
      prepared: undefined,
      digest: undefined,
      ...change,
    }
  }

  /** The rows of a batch again, from what was staged; `undefined` when they can no longer be made into records. */
  async reload({ stretch, ordinals }: Pick<Work, 'stretch' | 'ordinals'>): Promise<readonly Prepared[] | undefined> {
    const chunk = await stretch.items.load(ordinals)
    const prepared: Prepared[] = []
    for (let index = 0; index < ordinals.length; index++) {
      const item = await this.#prepare(chunk, index, ordinals[index]!)
      if ('problem' in item) {
        this.#options.log.warn(
          `${this.#options.destination.name}: a row that was sent before can no longer be made into a record, so its batch is left as it is: ${item.problem}`,
        )
        return undefined
      }
      prepared.push(item)
    }
    return prepared
  }

  /** Lets later rows of the same keys go; not when rows were `left` for the next run, for they must not be overtaken. */
  free(keys: readonly string[], left: boolean): void {
    if (!this.#options.keysRepeat) return
    for (const key of keys) {
      this.#underWay.delete(key)
      if (left) this.#leftBehind.add(key)
    }
    for (const go of this.#waiting.splice(0)) go()
  }

  async *#pending(stretch: Stretch): AsyncGenerator<Work> {
    const { destination, keysRepeat, refuse, settle, stop } = this.#options
    const { batchSize, batchBytes } = destination.policy
    const repeatable = isReplaySafe(destination, stretch.operation)
    const covered = stretch.batches.flatMap(({ ranges }) => ranges).toSorted((a, b) => a[0] - b[0])
    const taken = new Pile()
    /** Rows in doubt that may be sent again. They wait, and no other row should wait with them. */
    const doubtful = new Pile()
    const keys = new Set<string>()
    const cut = (pile: Pile): Work => {
      const { items, quiet } = pile.clear()
      keys.clear()
      return pile === doubtful ? this.#waitingWork(items, stretch, true, quiet) : this.#newWork(items, stretch)
    }
    let ordinal = stretch.from
    let passed = 0
    while (!stop.aborted) {
      const [start, length] = covered[passed] ?? [Number.POSITIVE_INFINITY, 0]
      if (start <= ordinal) {
        ordinal = Math.max(ordinal, start + length)
        passed++
        continue
      }
      const { ordinal: end, final } = stretch.end()
      const chunk = ordinal < end ? await stretch.items.chunkAt(ordinal) : undefined
      if (!chunk) {
        if (final) break
        const more = await this.#more(stretch, taken.items.length > 0)
        if (!more && taken.items.length > 0) yield cut(taken)
        continue
      }
      const until = Math.min(end, start, chunk.first + chunk.rows.length)
      for (let index = 0; chunk.first + index < until; index++) {
        const prepared = this.#prepare(chunk, index, chunk.first + index)
        const item = prepared instanceof Promise ? await prepared : prepared
        ordinal = item.ordinal + 1
        if ('problem' in item) {
          refuse(item, stretch)
          continue
        }
        const { key } = item
        if (keysRepeat && key !== undefined) {
          if (keys.has(key)) yield cut(taken)
          while (this.#underWay.has(key)) {
            if (taken.items.length > 0) yield cut(taken)
            else await new Promise<void>((resolve) => this.#waiting.push(resolve))
          }
          if (this.#leftBehind.has(key)) continue
          keys.add(key)
        }
        const doubt = chunk.planned?.doubts[index] === true
        const quiet = Math.max(doubt ? this.#quietSince : 0, chunk.planned?.landings[index] ?? 0) + settle
        if (!(doubt && repeatable) && (doubt || quiet > Date.now())) {
          // one that is refused would keep those beside it in doubt
          yield this.#waitingWork([item], stretch, doubt, quiet)
          continue
        }
        const size = batchBytes === Number.POSITIVE_INFINITY ? 0 : Buffer.byteLength(encodeRows([item.record]).text)
        const pile = doubt ? doubtful : taken
        if (pile.items.length > 0 && pile.bytes + size > batchBytes) yield cut(pile)
        pile.add(item, size, quiet)
        if (pile.items.length >= batchSize) yield cut(pile)
      }
    }
    for (const pile of [taken, doubtful]) if (pile.items.length > 0 && !stop.aborted) yield cut(pile)
  }

  /** Waits for the stretch to grow, or for the end of the run; false when a batch that is not full has waited long enough. */
  async #more(stretch: Stretch, waiting: boolean): Promise<boolean> {
    let ignore = (): void => {}
    let timer: NodeJS.Timeout | undefined
    try {
      return await new Promise<boolean>((resolve) => {
        void stretch.grown().then(() => resolve(true))
        ignore = onAbort(this.#options.stop, () => resolve(true))
        if (waiting) timer = setTimeout(() => resolve(false), linger)
      })
    } finally {
      clearTimeout(timer)
      ignore()
    }
  }

  #newWork(prepared: readonly Prepared[], stretch: Stretch): Work {
    const keys = this.#options.keysRepeat ? keysOf(prepared) : []
    for (const key of keys) this.#underWay.add(key)
    const whole = only(prepared)
    return {
      id: this.#options.state.newBatch(),
      stretch,
      ...whole,
      idempotencyKey: keyFor(whole.ranges, stretch),
      keys,
      prepared,
      attempt: 0,
      doubt: false,
      doubtSince: 0,
      firstSentAt: 0,
      digest: undefined,
      resent: false,
      failingSince: undefined,
      notBefore: 0,
      unverifiable: false,
      remembered: undefined,
    }
  }

  /** Rows for which something may still land, and which therefore wait. */
  #waitingWork(items: readonly Prepared[], stretch: Stretch, doubt: boolean, notBefore: number): Work {
    return { ...this.#newWork(items, stretch), doubt, doubtSince: doubt ? this.#quietSince : 0, notBefore }
  }

  async #leftUnknown(batch: LedgerBatch, stretch: Stretch): Promise<Work> {
    const { destination, keysRepeat, key } = this.#options
    const ordinals = batch.ranges.flatMap(([first, count]) => Array.from({ length: count }, (_, at) => first + at))
    // later rows of the same keys must wait for these
    const keys = keysRepeat ? (await stretch.items.load(ordinals)).rows.flatMap((row) => keyOf(row, key!) ?? []) : []
    for (const one of keys) this.#underWay.add(one)
    return {
      ...this.#newWork([], stretch),
      id: batch.id,
      ordinals,
      ranges: batch.ranges,
      // without a digest nothing would show that the records are others now, which must not go under the same key
      idempotencyKey: batch.digest === undefined ? keyFor(batch.ranges, stretch) : batch.idempotencyKey,
      keys,
      prepared: undefined,
      attempt: batch.attempt,
      doubt: true,
      // it ended with its timeout, or with its process
      doubtSince: Math.min(Date.now(), batch.sentAt + destination.policy.timeout),
      firstSentAt: batch.firstSentAt,
      digest: batch.digest,
      resent: batch.resent,
      remembered: batch.remembered,
    }
  }

  #prepare(chunk: ItemChunk, index: number, ordinal: number): Prepared | Invalid | Promise<Prepared | Invalid> {
    const { key: columns } = this.#options
    const row = chunk.rows[index]!
    if (chunk.planned) {
      const { keys, problems, remoteIds } = chunk.planned
      const key = keys[index]
      const problem = problems[index]
      return problem === undefined
        ? { ordinal, record: row, key, remoteId: remoteIds[index] }
        : { ordinal, row, key, problem }
    }
    const key = columns && keyOf(row, columns)
    const made = this.#make(row, key)
    return made instanceof Promise
      ? made.then((later) => prepared(ordinal, row, key, later))
      : prepared(ordinal, row, key, made)
  }
}

function prepared(ordinal: number, row: AnyRow, key: string | undefined, made: object | Unfit): Prepared | Invalid {
  if (made instanceof Unfit) return { ordinal, row, key, problem: made.problem }
  return { ordinal, record: made, key, remoteId: undefined }
}

/** What a batch covers when it holds just these rows. */
export function only(some: readonly Prepared[]): Pick<Work, 'ordinals' | 'ranges'> {
  const ordinals = some.map(({ ordinal }) => ordinal)
  return { ordinals, ranges: rangesOf(ordinals) }
}

function keyFor(ranges: readonly Range[], { identity }: Stretch): string {
  return hash('sha256', `${identity} ${JSON.stringify(ranges)}`).slice(0, 32)
}

/** Ascending ordinals as ranges. */
export function rangesOf(ordinals: readonly number[]): Range[] {
  const ranges: [number, number][] = []
  for (const ordinal of ordinals) {
    const last = ranges.at(-1)
    if (last && last[0] + last[1] === ordinal) last[1]++
    else ranges.push([ordinal, 1])
  }
  return ranges
}

function keysOf(some: readonly Prepared[]): string[] {
  return some.flatMap(({ key }) => key ?? [])
}
