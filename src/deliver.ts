import { createHash, hash } from 'node:crypto'
import {
  type Context,
  type Definition,
  kindOf,
  type Operation,
  outcomeOf,
  type Receipt,
  type Retry,
  type Table,
} from './destination.js'
import { FatalError } from './errors.js'
import { afterTurn, createHttp, type Http, TimeoutError } from './http.js'
import type { Log } from './log.js'
import { fullJitter, onAbort, type Pace, retrying, sleep } from './pace.js'
import type { ItemChunk, Items } from './plan.js'
import { type Validated, validate } from './schema.js'
import { checkpoint } from './state/files.js'
import type { LedgerBatch, Range, Rejected, SyncState } from './state/state.js'
import { type AnyRow, type Column, columnsOf, encodeRows, keyOf } from './values.js'
import { judge, messageOf, readAnswer, type Verdict } from './verdict.js'

/** A stretch of items to deliver. */
export interface Stretch {
  readonly from: number
  /** Where it ends so far, and whether it will still grow. */
  end(): { readonly ordinal: number; readonly final: boolean }
  /** Resolves when {@link end} has changed. */
  grown(): Promise<void>
  /** Batches of it that the ledger knows: those settled are passed over, those unknown are resolved. */
  readonly batches: readonly LedgerBatch[]
  /** Its rows come from an earlier run. */
  readonly resumed: boolean
  /** Unknown batches are resolved, pending rows are sent; or only one of the two. @default 'both' */
  readonly only?: 'unknown' | 'pending' | undefined
}

export interface DeliveryOptions {
  readonly sync: string
  readonly run: string
  /** What idempotency keys are made from, beside ordinals. */
  readonly identity: string
  readonly destination: Definition
  readonly config: unknown
  readonly operation: Operation
  /** Columns of the row that make its key. */
  readonly key: readonly string[] | undefined
  readonly match: readonly string[]
  /** Rows without a value here are rejected. */
  readonly cursor: string | undefined
  readonly map: ((row: AnyRow) => unknown) | undefined
  /** Whether an item may follow another of the same key: then it waits for it. */
  readonly keysRepeat: boolean
  /** Whether sending an item again writes the same object again. */
  readonly replaySafe: boolean
  /** The columns that the source told. */
  readonly columns: () => readonly Column[]
  readonly state: SyncState
  readonly pace: Pace
  readonly log: Log
  /** No new call begins after this. */
  readonly stop: AbortSignal
  /** Calls under way are cut off. */
  readonly cut: AbortSignal
  readonly allowRejections: boolean
}

/** Refusals of single rows after which, with nothing delivered yet, it looks like the destination refuses everybody. */
const suspiciousRefusals = 20

/** How long a batch that is not full waits for rows while the source goes on. */
const linger = 1_000

/** Rows on their way, and what was learnt of them. */
interface Work {
  readonly id: number
  readonly ordinals: readonly number[]
  readonly ranges: readonly Range[]
  readonly keys: readonly (string | undefined)[]
  readonly resumed: boolean
  /** Present until the first attempt has used them up: a handler may change its records. */
  items: Prepared[] | undefined
  attempt: number
  /** An earlier attempt may have been applied. */
  doubt: boolean
  /** The earlier attempt's end, from which a late landing is reckoned. */
  doubtSince: number
  /** When the first attempt under this idempotency key left, and what its records were. */
  firstSentAt: number
  digest: string | undefined
  resent: boolean
  /** When its trouble began. */
  failingSince: number | undefined
  notBefore: number
  /** `verify` said of these rows that it cannot tell. */
  unverifiable: boolean
}

interface Prepared {
  readonly ordinal: number
  readonly row: AnyRow
  readonly record: object
  readonly key: string | undefined
  readonly remoteId: string | undefined
}

/** An attempt that did not settle its batch; another may. */
class Again extends Error {
  constructor(
    readonly after: number | undefined,
    override readonly cause: unknown,
  ) {
    super()
  }
}

/** Why delivery stopped before its end. `error`: the run has failed; without one it is merely incomplete. */
export interface Halt {
  readonly reason: string
  readonly error: unknown
}

/** Takes items to the destination, batch by batch, and records what becomes of each. One per run. */
export class Delivery {
  readonly #options: DeliveryOptions
  readonly #halted = new AbortController()
  readonly #stop: AbortSignal
  /** An earlier process ended before this. */
  readonly #begun = Date.now()
  #halt: Halt | undefined
  /** The latest write to the ledger; those before it are durable when it is. */
  #recorded: Promise<void> = Promise.resolve()
  #delivered = 0
  #rejected = 0
  #lastDelivery = Number.NEGATIVE_INFINITY
  #columns: readonly Column[] | undefined
  readonly #openLetters: Set<string>
  /** Refusals not yet believed, because nothing has been delivered in this run. */
  #refusals: { readonly work: Work; readonly item: Prepared; readonly reason: string }[] = []
  /** Keys of rows under way, and of rows left behind, which later rows of the same key must not overtake. */
  readonly #keysUnderWay = new Set<string>()
  readonly #keysLeftBehind = new Set<string>()
  #keysFreed: (() => void)[] = []

  constructor(options: DeliveryOptions) {
    this.#options = options
    this.#stop = AbortSignal.any([options.stop, this.#halted.signal])
    this.#openLetters = new Set(options.key ? options.state.openLetters() : [])
  }

  get halt(): Halt | undefined {
    return this.#halt
  }

  /** Aborts when delivery has stopped by itself. */
  get halted(): AbortSignal {
    return this.#halted.signal
  }

  get delivered(): number {
    return this.#delivered
  }

  get rejected(): number {
    return this.#rejected
  }

  /** Delivers a stretch. Resolves when every attempt has ended and every outcome is durable. */
  async deliver(items: Items, stretch: Stretch): Promise<void> {
    if (this.#halt) return
    const feed = this.#feed(items, stretch)
    const { concurrency } = this.#options.destination.policy
    const lane = async (): Promise<void> => {
      try {
        while (!this.#stop.aborted) {
          const next = await feed.next()
          if (next.done) return
          await this.#process(next.value, items)
          this.#suspect(next.value)
        }
      } catch (error) {
        if (error !== this.#stop.reason) this.#fail(messageOf(error), error)
      }
    }
    await Promise.all(Array.from({ length: concurrency === 'auto' ? 64 : concurrency }, lane))
    await this.#recorded.catch(() => {})
  }

  /** To be called when there is nothing more to deliver: settles what was left open for the sake of the whole. */
  async end(): Promise<void> {
    if (!this.#halt && !this.#options.stop.aborted) this.#believeRefusals()
    await this.#recorded.catch(() => {})
  }

  /** Stops everything; the first reason counts. */
  #fail(reason: string, error: unknown): void {
    this.#halt ??= { reason, error }
    this.#halted.abort(new Error(reason))
  }

  // ---- items → batches -------------------------------------------------------------------------------------------

  async *#feed(items: Items, stretch: Stretch): AsyncGenerator<Work> {
    if (stretch.only !== 'pending') {
      for (const batch of stretch.batches) if (batch.state === 'unknown') yield this.#workOf(batch, stretch)
    }
    if (stretch.only === 'unknown') return
    const later: Work[] = []
    for await (const work of this.#batches(items, stretch)) {
      if (work.notBefore > Date.now()) later.push(work)
      else yield work
    }
    yield* later
  }

  async *#batches(items: Items, stretch: Stretch): AsyncGenerator<Work> {
    const { batchSize, batchBytes } = this.#options.destination.policy
    const covered = stretch.batches.flatMap(({ ranges }) => ranges).toSorted((a, b) => a[0] - b[0])
    let taken: Prepared[] = []
    let bytes = 0
    const cut = (): Work => {
      const work = this.#newWork(taken, stretch.resumed)
      taken = []
      bytes = 0
      return work
    }
    let ordinal = stretch.from
    while (!this.#stop.aborted) {
      while (covered[0] && covered[0][0] + covered[0][1] <= ordinal) covered.shift()
      if (covered[0] && covered[0][0] <= ordinal) {
        ordinal = covered[0][0] + covered[0][1]
        continue
      }
      const { ordinal: end, final } = stretch.end()
      const chunk = ordinal < end ? await items.chunkAt(ordinal) : undefined
      if (!chunk) {
        if (final) break
        const more = await this.#more(stretch, taken.length > 0)
        if (!more && taken.length > 0) yield cut()
        continue
      }
      const until = Math.min(end, covered[0]?.[0] ?? end, chunk.first + chunk.rows.length)
      for (let index = 0; chunk.first + index < until; index++) {
        const prepared = this.#prepare(chunk, index)
        const item = prepared instanceof Promise ? await prepared : prepared
        ordinal = chunk.first + index + 1
        if ('problem' in item) {
          this.#refuseUnsent(item, stretch.resumed)
          continue
        }
        const { key } = item
        if (this.#options.keysRepeat && key !== undefined) {
          if (taken.some((other) => other.key === key)) yield cut()
          while (this.#keysUnderWay.has(key)) {
            if (taken.length > 0) yield cut()
            else await this.#keyFreed()
          }
          if (this.#keysLeftBehind.has(key)) continue
        }
        const size = batchBytes === Number.POSITIVE_INFINITY ? 0 : byteLength(item.record)
        if (taken.length > 0 && bytes + size > batchBytes) yield cut()
        taken.push(item)
        bytes += size
        if (chunk.doubts?.[index]) {
          // it may have to wait for a late landing, and no other row should wait with it
          const doubted = taken.pop()!
          if (taken.length > 0) yield cut()
          taken.push(doubted)
          yield { ...cut(), doubt: true, doubtSince: this.#begun, notBefore: this.#begun + this.#settleTime }
        }
        if (taken.length >= batchSize) yield cut()
      }
    }
    if (taken.length > 0 && !this.#stop.aborted) yield cut()
  }

  /** Waits for the stretch to grow, or for the end of the run; false when a batch that is not full has waited long enough. */
  async #more(stretch: Stretch, waiting: boolean): Promise<boolean> {
    let ignore = (): void => {}
    let timer: NodeJS.Timeout | undefined
    try {
      return await new Promise<boolean>((resolve) => {
        stretch.grown().then(() => resolve(true))
        ignore = onAbort(this.#stop, () => resolve(true))
        if (waiting) timer = setTimeout(() => resolve(false), linger)
      })
    } finally {
      clearTimeout(timer)
      ignore()
    }
  }

  #keyFreed(): Promise<void> {
    return new Promise((resolve) => this.#keysFreed.push(resolve))
  }

  get #settleTime(): number {
    const { settle, timeout } = this.#options.destination.policy
    return Number.isNaN(settle) ? timeout : settle
  }

  #prepare(chunk: ItemChunk, index: number): Prepared | Invalid | Promise<Prepared | Invalid> {
    const { key, cursor, map, destination } = this.#options
    const row = chunk.rows[index]!
    const ordinal = chunk.first + index
    const rowKey = chunk.keys ? chunk.keys[index] : key && keyOf(row, key)
    const invalid = (problem: string): Invalid => ({ ordinal, row, key: rowKey, problem })
    if (key && rowKey === undefined) return invalid(`the key (${key.join(', ')}) is null or missing`)
    if (cursor !== undefined && (row[cursor] === null || row[cursor] === undefined)) {
      return invalid(
        `the cursor column ${cursor} is null or missing, so the row could not be told from those read before`,
      )
    }
    let record: unknown = row
    if (map) {
      try {
        record = map(row)
      } catch (error) {
        return invalid(`map failed: ${messageOf(error)}`)
      }
      if (record === null || typeof record !== 'object' || record instanceof Promise) {
        return invalid(
          `map returned ${record instanceof Promise ? 'a promise' : String(record)}; it must return a record, in the same turn`,
        )
      }
    }
    const finish = (made: unknown): Prepared | Invalid => {
      const missing = destination.match?.find(
        (field) => (made as AnyRow)[field] === null || (made as AnyRow)[field] === undefined,
      )
      if (missing !== undefined)
        return invalid(`the record has no ${missing}, by which ${destination.name} finds its object`)
      return { ordinal, row, record: made as object, key: rowKey, remoteId: chunk.remoteIds?.[index] }
    }
    if (!destination.record) return finish(record)
    const read = (validated: Validated): Prepared | Invalid =>
      'problem' in validated
        ? invalid(`the record does not fit ${destination.name}: ${validated.problem}`)
        : finish(validated.value)
    const validated = validate(destination.record, record)
    return validated instanceof Promise ? validated.then(read) : read(validated)
  }

  #newWork(items: Prepared[], resumed: boolean): Work {
    const work: Work = {
      id: this.#options.state.newBatch(),
      ordinals: items.map(({ ordinal }) => ordinal),
      ranges: rangesOf(items),
      keys: this.#options.key ? items.map(({ key }) => key) : [],
      resumed,
      items,
      attempt: 0,
      doubt: false,
      doubtSince: 0,
      firstSentAt: 0,
      digest: undefined,
      resent: false,
      failingSince: undefined,
      notBefore: 0,
      unverifiable: false,
    }
    if (this.#options.keysRepeat) for (const key of work.keys) if (key !== undefined) this.#keysUnderWay.add(key)
    return work
  }

  /** A batch that an earlier run left unknown. */
  #workOf(batch: LedgerBatch, { resumed }: Stretch): Work {
    const { timeout } = this.#options.destination.policy
    return {
      ...this.#newWork([], resumed),
      id: batch.id,
      ordinals: batch.ranges.flatMap(([first, count]) => Array.from({ length: count }, (_, index) => first + index)),
      ranges: batch.ranges,
      items: undefined,
      attempt: batch.attempt,
      doubt: true,
      // it ended with its timeout, or with its process
      doubtSince: Math.min(Date.now(), batch.sentAt + timeout),
      firstSentAt: batch.sentAt,
      digest: batch.digest,
      resent: batch.resent,
    }
  }

  /** Some rows of a batch, to be sent by themselves. */
  #part(work: Work, items: readonly Prepared[], change: Partial<Work>): Work {
    const { id } = this.#newWork([], work.resumed)
    return {
      ...work,
      id,
      ordinals: items.map(({ ordinal }) => ordinal),
      ranges: rangesOf(items),
      keys: items.map(({ key }) => key),
      items: undefined,
      digest: undefined,
      ...change,
    }
  }

  // ---- batches → destination -------------------------------------------------------------------------------------

  /** Sends a batch until each of its rows is settled, or is left for the next run. */
  async #process(work: Work, items: Items): Promise<void> {
    let left = true
    try {
      if (work.notBefore > Date.now()) await sleep(work.notBefore - Date.now(), this.#stop)
      const parts = await retrying(() => this.#attempt(work, items), {
        budget: this.#options.destination.policy.retryFor,
        signal: this.#stop,
        wait: (error, attempt) =>
          error instanceof Again && !this.#halt ? (error.after ?? fullJitter(attempt)) : undefined,
      })
      if (parts === 'left') return
      left = false
      for (const part of parts) await this.#process(part, items)
    } catch (error) {
      if (error instanceof Again) this.#exhausted(work, error)
      else if (error !== this.#stop.reason) throw error
    } finally {
      this.#freeKeys(work, left)
    }
  }

  /** One attempt. Answers the rows that must be sent by themselves; throws {@link Again} when another attempt may do. */
  async #attempt(work: Work, items: Items): Promise<Parts> {
    const { pace, destination, state, operation, replaySafe } = this.#options
    const prepared = work.items ?? (await this.#reload(work, items))
    if (work.doubt && !replaySafe) {
      const resolved = await this.#resolve(work, prepared)
      if (resolved) return resolved
    }
    await pace.enter(this.#stop)
    const begun = performance.now()
    let verdict: Verdict | undefined
    try {
      const records = prepared.map(({ record }) => record)
      work.items = undefined
      work.attempt++
      work.digest ??= destination.idempotent === undefined ? undefined : digestOf(records)
      const batch = this.#ledgerBatch(work, 'sent')
      await state.sent(batch)
      if (work.firstSentAt === 0) work.firstSentAt = batch.sentAt
      checkpoint('sent')
      verdict = await this.#call(work, prepared, records, operation, (context) =>
        destination.handlers[operation]!(records.slice(), context),
      )
      checkpoint('answered')
    } finally {
      const pushedBack = verdict !== undefined && 'pushedBack' in verdict && verdict.pushedBack
      if (pushedBack && 'after' in verdict! && verdict.after !== undefined) pace.pause(verdict.after)
      pace.leave({ latency: performance.now() - begun, pushedBack })
    }
    return this.#conclude(work, prepared, verdict)
  }

  /** Records what an attempt proved. */
  #conclude(work: Work, items: readonly Prepared[], verdict: Verdict): Parts {
    switch (verdict.kind) {
      case 'answered':
        return this.#settleAnswered(work, items, verdict.outcomes)
      case 'refused':
        return this.#refused(work, items, verdict.reason)
      case 'again':
        this.#nothingApplied(work)
        work.failingSince ??= performance.now()
        throw new Again(verdict.after, verdict.error)
      case 'fatal':
        this.#nothingApplied(work)
        this.#fail(messageOf(verdict.error), verdict.error)
        return 'left'
      case 'unknown': {
        work.doubt = true
        work.doubtSince = Date.now()
        work.failingSince ??= performance.now()
        this.#record(this.#options.state.unknown(this.#ledgerBatch(work, 'unknown')))
        if (verdict.bug) {
          this.#fail(messageOf(verdict.error), verdict.error)
          return 'left'
        }
        throw new Again(verdict.after, verdict.error)
      }
    }
  }

  /** The latest attempt applied nothing. What an unknown one before it did stays open. */
  #nothingApplied(work: Work): void {
    const { state } = this.#options
    if (work.doubt) this.#record(state.unknown(this.#ledgerBatch(work, 'unknown')))
    else this.#record(state.release(this.#ledgerBatch(work, 'sent')))
  }

  #settleAnswered(
    work: Work,
    items: readonly Prepared[],
    outcomes: Extract<Verdict, { kind: 'answered' }>['outcomes'],
  ): Parts {
    if (outcomes.size === 0) {
      this.#settle(work, items, [], [])
      return []
    }
    const { replaySafe, state } = this.#options
    const settled: Prepared[] = []
    const rejected: Rejected[] = []
    const receipts: [number, string][] = []
    const again: Prepared[] = []
    const unsure: Prepared[] = []
    let wait = 0
    items.forEach((item, index) => {
      const outcome = outcomes.get(index)
      const kind = outcome && kindOf(outcome)
      if (kind === 'retry') {
        again.push(item)
        wait = Math.max(wait, (outcome as Retry).after)
      } else if (kind === 'unknown' || (kind === 'rejection' && work.doubt && !replaySafe)) {
        // a refusal after an attempt that may have been applied proves nothing about that attempt
        unsure.push(item)
      } else {
        settled.push(item)
        if (kind === 'rejection') rejected.push(this.#letter(work, item, (outcome as { reason: string }).reason))
        if (kind === 'receipt') receipts.push([item.ordinal, (outcome as Receipt).remoteId])
      }
    })
    const failing = { failingSince: work.failingSince ?? performance.now() }
    const parts: Work[] = []
    // in one commit: a row that leaves this batch must not be in none, or in two
    if (settled.length > 0) this.#settle({ ...work, ...only(settled) }, settled, rejected, receipts)
    else this.#record(state.release(this.#ledgerBatch(work, 'sent')))
    if (unsure.length > 0) {
      const part = this.#part(work, unsure, {
        ...failing,
        doubt: true,
        doubtSince: Date.now(),
        notBefore: Date.now() + fullJitter(work.attempt),
      })
      this.#record(state.unknown(this.#ledgerBatch(part, 'unknown')))
      parts.push(part)
    }
    if (again.length > 0) {
      const part = this.#part(work, again, { ...failing, notBefore: Date.now() + (wait || fullJitter(work.attempt)) })
      if (part.doubt) this.#record(state.unknown(this.#ledgerBatch(part, 'unknown')))
      parts.push(part)
    }
    return parts.filter((part) => this.#withinBudget(part))
  }

  /** A row that keeps asking for another attempt is left for the next run when its time is up. */
  #withinBudget(work: Work): boolean {
    const since = work.failingSince ?? performance.now()
    const left = since + this.#options.destination.policy.retryFor - performance.now()
    const ok = work.notBefore - Date.now() <= left
    if (!ok) {
      this.#freeKeys(work, true)
      this.#options.log.warn(
        `${this.#options.destination.name}: ${count(work.ordinals.length)} kept asking for another attempt and stay for the next run`,
      )
    }
    return ok
  }

  #refused(work: Work, items: readonly Prepared[], reason: string): Parts {
    const { state, replaySafe } = this.#options
    if (work.doubt && !replaySafe) {
      this.#record(state.unknown(this.#ledgerBatch(work, 'unknown')))
      return 'left'
    }
    if (items.length > 1) {
      const half = Math.ceil(items.length / 2)
      const parts = [this.#part(work, items.slice(0, half), {}), this.#part(work, items.slice(half), {})]
      this.#record(state.release(this.#ledgerBatch(work, 'sent')))
      if (work.doubt) for (const part of parts) this.#record(state.unknown(this.#ledgerBatch(part, 'unknown')))
      return this.#tooManyRefusals() ? 'left' : parts
    }
    const item = items[0]!
    if (this.#delivered === 0 && !this.#options.allowRejections) {
      this.#nothingApplied(work)
      this.#refusals.push({ work, item, reason })
    } else this.#settle(work, items, [this.#letter(work, item, reason)], [])
    return []
  }

  #letter(work: Work, item: Prepared, reason: string): Rejected {
    return {
      ordinal: item.ordinal,
      key: item.key,
      row: item.row,
      record: item.record,
      operation: this.#options.operation,
      reason,
      attempts: work.attempt,
    }
  }

  #settle(
    work: Work,
    items: readonly Prepared[],
    rejected: readonly Rejected[],
    receipts: readonly (readonly [number, string])[],
  ): void {
    const { state } = this.#options
    const refused = new Set(rejected.map(({ ordinal }) => ordinal))
    const closed: string[] = []
    if (this.#openLetters.size > 0) {
      for (const { key, ordinal } of items) {
        if (key !== undefined && !refused.has(ordinal) && this.#openLetters.delete(key)) closed.push(key)
      }
    }
    for (const { key } of rejected) if (key !== undefined) this.#openLetters.add(key)
    const batch = { ...this.#ledgerBatch(work, 'settled'), rejected: [...refused] }
    checkpoint('before outcome')
    this.#record(state.settle(batch, { rejected, receipts, deliveredKeys: closed }))
    this.#rejected += rejected.length
    if (items.length > rejected.length) {
      this.#delivered += items.length - rejected.length
      this.#lastDelivery = performance.now()
      this.#believeRefusals()
    }
  }

  /** A row that cannot be made into a record is refused without asking the destination. */
  #refuseUnsent(item: Invalid, resumed: boolean): void {
    const { state, operation } = this.#options
    const work = { ...this.#newWork([], resumed), ranges: [[item.ordinal, 1]] as Range[] }
    const letter: Rejected = { ...item, record: undefined, operation, reason: item.problem, attempts: 0 }
    const batch = { ...this.#ledgerBatch(work, 'settled'), rejected: [item.ordinal] }
    this.#record(state.settle(batch, { rejected: [letter], receipts: [], deliveredKeys: [] }))
    if (item.key !== undefined) this.#openLetters.add(item.key)
    this.#rejected++
  }

  // ---- unknown outcomes ------------------------------------------------------------------------------------------

  /** Decides about rows that may have been applied. `undefined`: send them again. */
  async #resolve(work: Work, items: readonly Prepared[]): Promise<Parts | undefined> {
    const { destination, state } = this.#options
    const { idempotent, policy } = destination
    if (destination.handlers.verify && !work.unverifiable) return this.#verify(work, items)
    if (idempotent !== undefined && Date.now() - work.firstSentAt < idempotent) {
      if (work.digest === digestOf(items.map(({ record }) => record))) return undefined
      this.#options.log.warn(
        `${destination.name}: the records of an unanswered batch are made differently now, so its idempotency key cannot be used again`,
      )
    }
    if (policy.onUnknown === 'hold') {
      this.#record(state.unknown(this.#ledgerBatch(work, 'unknown')))
      return 'left'
    }
    work.resent = true
    return undefined
  }

  /** Asks the destination which of the rows are there. */
  async #verify(work: Work, items: readonly Prepared[]): Promise<Parts> {
    const { destination, state, pace, operation } = this.#options
    const records = items.map(({ record }) => record)
    await pace.enter(this.#stop)
    const begun = performance.now()
    const present = new Map<number, string | undefined>()
    const unsure = new Set<number>()
    try {
      const verdict = await this.#call(work, items, records, operation, async (context) => {
        const answer: unknown = await destination.handlers.verify!(records.slice(), context)
        const places = new Map(records.map((record, index) => [record, index]))
        if (answer === null || typeof answer !== 'object' || !(Symbol.iterator in answer)) {
          throw new TypeError(`${destination.name}: verify must return the records that are there`)
        }
        for (const found of answer as Iterable<object>) {
          const outcome = outcomeOf(found)
          const index = places.get(outcome ? outcome.record : found)
          if (index === undefined)
            throw new TypeError(
              `${destination.name}: verify returned an object that is not one of the records it was given`,
            )
          if (outcome && kindOf(outcome) === 'unknown') unsure.add(index)
          else present.set(index, outcome && kindOf(outcome) === 'receipt' ? (outcome as Receipt).remoteId : undefined)
        }
      })
      if (verdict.kind !== 'answered') {
        work.failingSince ??= performance.now()
        if (verdict.kind === 'fatal' || (verdict.kind === 'unknown' && verdict.bug)) {
          this.#fail(messageOf(verdict.error), verdict.error)
          return 'left'
        }
        throw new Again('after' in verdict ? verdict.after : undefined, verdict.error)
      }
    } finally {
      pace.leave({ latency: performance.now() - begun, pushedBack: false })
    }
    const there = items.filter((_, index) => present.has(index))
    const cannotTell = items.filter((_, index) => !present.has(index) && unsure.has(index))
    const absent = items.filter((_, index) => !present.has(index) && !unsure.has(index))
    const wait = work.doubtSince + this.#settleTime - Date.now()
    const sure = wait <= 0
    const parts: Work[] = []
    if (there.length < items.length && there.length === 0 && cannotTell.length === 0 && !sure) {
      // a request may still land, so absence proves nothing yet
      throw new Again(wait, new TimeoutError(`${destination.name}: waiting for an unanswered request to land or not`))
    }
    this.#record(state.release(this.#ledgerBatch(work, 'unknown')))
    if (there.length > 0) {
      const receipts = [...present].flatMap(([index, id]) =>
        id === undefined ? [] : [[items[index]!.ordinal, id] as const],
      )
      this.#settle(this.#part(work, there, {}), there, [], receipts)
    }
    if (cannotTell.length > 0) parts.push(this.#part(work, cannotTell, { unverifiable: true }))
    if (absent.length > 0)
      parts.push(this.#part(work, absent, sure ? { doubt: false } : { notBefore: Date.now() + wait }))
    for (const part of parts) if (part.doubt) this.#record(state.unknown(this.#ledgerBatch(part, 'unknown')))
    return parts
  }

  // ---- one call --------------------------------------------------------------------------------------------------

  async #call(
    work: Work,
    items: readonly Prepared[],
    records: readonly object[],
    operation: Operation,
    handler: (context: Context) => unknown,
  ): Promise<Verdict> {
    const { destination, cut } = this.#options
    const { timeout, retryFor } = destination.policy
    const controller = new AbortController()
    const ignoreCut = onAbort(cut, () => controller.abort(cut.reason))
    const late = new TimeoutError(`${destination.name}: no answer within ${timeout / 1000} s`)
    const disarm = afterTurn(timeout, () => controller.abort(late))
    const requests = { writes: 0, open: 0 }
    const context = this.#context(work, items, records, operation, controller.signal, requests)
    let overdue: (() => void) | undefined
    try {
      const running = Promise.resolve(handler(context))
      const stuck = new Promise<never>((_, reject) => {
        controller.signal.addEventListener('abort', () => {
          overdue = afterTurn(retryFor, () =>
            reject(
              new FatalError(
                `${destination.name}: the handler went on for ${retryFor / 1000} s after its signal aborted; pass context.signal to whatever it waits for`,
              ),
            ),
          )
        })
      })
      const answer = await Promise.race([running, stuck])
      if (requests.open > 0) {
        throw new TypeError(
          `${destination.name}: the handler returned while ${requests.open} of its requests were still under way; await each of them`,
        )
      }
      return readAnswer(answer, records, destination.name)
    } catch (error) {
      if (error instanceof FatalError && controller.signal.aborted) {
        return { kind: 'unknown', after: undefined, pushedBack: false, bug: true, error }
      }
      if (controller.signal.aborted) {
        return { kind: 'unknown', after: undefined, pushedBack: false, bug: false, error: controller.signal.reason }
      }
      return judge(error, { actor: destination.name, atomic: destination.atomic, writes: requests.writes }, Date.now())
    } finally {
      overdue?.()
      disarm()
      ignoreCut()
    }
  }

  #context(
    work: Work,
    items: readonly Prepared[],
    records: readonly object[],
    operation: Operation,
    signal: AbortSignal,
    requests: { writes: number; open: number },
  ): Context {
    const { destination, config, match, log, sync, run, pace } = this.#options
    const table = (): Table => ({ name: sync, columns: this.#columnsWith(records) })
    let http: Http | undefined
    let first = true
    return {
      config: config as object,
      idempotencyKey: this.#idempotencyKey(work),
      attempt: Math.max(1, work.attempt),
      operation,
      match,
      signal,
      log,
      sync,
      run,
      get table() {
        return table()
      },
      remoteId: (record) => items[records.indexOf(record)]?.remoteId,
      get http() {
        http ??= createHttp({
          actor: destination.name,
          signal,
          timeout: destination.policy.timeout,
          async onRequest(writes) {
            // the first request goes in the slot that the call itself has
            if (!first) await pace.slot(signal)
            first = false
            requests.open++
            if (writes) requests.writes++
          },
          onEnd() {
            requests.open--
          },
        })
        return http
      },
    }
  }

  #columnsWith(records: readonly object[]): readonly Column[] {
    this.#columns = columnsOf(records, this.#columns ?? (this.#options.map ? [] : this.#options.columns()))
    return this.#columns
  }

  // ---- bookkeeping -----------------------------------------------------------------------------------------------

  #ledgerBatch(work: Work, state: LedgerBatch['state']): LedgerBatch {
    return {
      id: work.id,
      operation: this.#options.operation,
      ranges: work.ranges,
      state,
      attempt: work.attempt,
      doubt: work.doubt,
      idempotencyKey: this.#idempotencyKey(work),
      digest: work.digest,
      sentAt: Date.now(),
      rejected: [],
      resumed: work.resumed,
      resent: work.resent,
    }
  }

  #idempotencyKey(work: Work): string {
    return hash('sha256', `${this.#options.identity} ${JSON.stringify(work.ranges)}`).slice(0, 32)
  }

  #record(durable: Promise<void>): void {
    durable.catch((error) => this.#fail(messageOf(error), error))
    this.#recorded = durable
  }

  /** The rows of a batch again, made anew from what was staged. */
  async #reload(work: Work, items: Items): Promise<Prepared[]> {
    const chunk = await items.load(work.ordinals)
    const made: Prepared[] = []
    for (let index = 0; index < work.ordinals.length; index++) {
      const item = await this.#prepare(chunk, index)
      if ('problem' in item) {
        throw new FatalError(
          `${this.#options.sync}: a row whose outcome is open can no longer be made into a record (${item.problem}); bring back the earlier map or record, or reset the sync`,
        )
      }
      made.push({ ...item, ordinal: work.ordinals[index]! })
    }
    return made
  }

  #exhausted(work: Work, { cause }: Again): void {
    const { destination, log } = this.#options
    const what = work.doubt ? 'their outcome is unknown' : 'they stay pending'
    log.warn(
      `${destination.name}: gave up on ${count(work.ordinals.length)} for this run, ${what}: ${messageOf(cause)}`,
    )
    if (this.#lastDelivery < (work.failingSince ?? performance.now())) {
      this.#fail(
        `${destination.name} is down: nothing was delivered since the first failure, so the rest waits for the next run (${messageOf(cause)})`,
        undefined,
      )
    }
  }

  #freeKeys(work: Work, left: boolean): void {
    if (!this.#options.keysRepeat) return
    for (const key of work.keys) {
      if (key === undefined) continue
      this.#keysUnderWay.delete(key)
      if (left) this.#keysLeftBehind.add(key)
    }
    for (const freed of this.#keysFreed.splice(0)) freed()
  }

  /** Whether it looks as if the destination refuses everybody; then the run stops and its rows stay pending. */
  #suspect(work: Work): void {
    if (this.#delivered > 0 || this.#refusals.length === 0) return
    if (work.ordinals.length > 1 || this.#tooManyRefusals()) this.#refusesAll()
  }

  #tooManyRefusals(): boolean {
    return this.#delivered === 0 && this.#refusals.length >= suspiciousRefusals
  }

  #refusesAll(): void {
    const { destination } = this.#options
    this.#fail(
      `${destination.name} refused every row it was sent (${this.#refusals.length}) and took none, so they stay pending: ${this.#refusals[0]!.reason}. Mend the cause, or run with allowRejections to take the refusals as they are`,
      undefined,
    )
  }

  #believeRefusals(): void {
    for (const { work, item, reason } of this.#refusals.splice(0)) {
      this.#settle(work, [item], [this.#letter(work, item, reason)], [])
    }
  }
}

/** A row that cannot be made into a record. */
type Invalid = {
  readonly ordinal: number
  readonly row: AnyRow
  readonly key: string | undefined
  readonly problem: string
}

/** What remains of a batch after an attempt: rows to be sent by themselves, or its rows left as they are for the next run. */
type Parts = readonly Work[] | 'left'

function only(items: readonly Prepared[]): Pick<Work, 'ordinals' | 'ranges'> {
  return { ordinals: items.map(({ ordinal }) => ordinal), ranges: rangesOf(items) }
}

function rangesOf(items: readonly { readonly ordinal: number }[]): Range[] {
  const ranges: [number, number][] = []
  for (const { ordinal } of items) {
    const last = ranges.at(-1)
    if (last && last[0] + last[1] === ordinal) last[1]++
    else ranges.push([ordinal, 1])
  }
  return ranges
}

function digestOf(records: readonly object[]): string {
  return createHash('sha256').update(encodeRows(records).text).digest('hex')
}

function byteLength(record: object): number {
  return Buffer.byteLength(encodeRows([record]).text)
}

function count(rows: number): string {
  return rows === 1 ? '1 row' : `${rows} rows`
}
