import { hash } from 'node:crypto'
import { Batcher, type Invalid, isReplaySafe, only, type Prepared, rangesOf, type Stretch, type Work } from './batch.js'
import { redact } from './config.js'
import {
  type Context,
  type Definition,
  kindOf,
  type Operation,
  outcomeOf,
  type Receipt,
  type Rejection,
  type Retry,
  type Table,
} from './destination.js'
import type { Ceiling } from './duration.js'
import { FatalError, GuardError, RetryableError } from './errors.js'
import { afterTurn, createHttp, TimeoutError } from './http.js'
import type { Log } from './log.js'
import { fullJitter, onAbort, type Pace, retrying, sleep } from './pace.js'
import { checkpoint } from './state/files.js'
import type { LedgerBatch, Rejected, SyncState } from './state/state.js'
import { type AnyRow, type Column, columnsOf, describe, encodeRows } from './values.js'
import { judge, messageOf, placesIn, readAnswer, type Verdict } from './verdict.js'

export interface DeliveryOptions {
  readonly sync: string
  readonly run: string
  readonly destination: Definition
  readonly config: unknown
  /** Columns of the row that make its key. */
  readonly key: readonly string[] | undefined
  readonly match: readonly string[]
  /** Rows without a value here are rejected. */
  readonly cursor: string | undefined
  readonly map: ((row: AnyRow) => unknown) | undefined
  /** Whether an item may follow another of the same key. */
  readonly keysRepeat: boolean
  /** The columns that the source told. */
  readonly columns: () => readonly Column[]
  readonly state: SyncState
  readonly pace: Pace
  readonly log: Log
  /** No new call begins after this. */
  readonly stop: AbortSignal
  /** Calls under way are cut off. */
  readonly cut: AbortSignal
  /** Takes refusals at their word even while nothing has been delivered. */
  readonly allowRejections: boolean
  /** More refused rows than that end the run. */
  readonly maxRejected: Ceiling | undefined
}

/** Why delivery stopped before its end. `error`: the run has failed; without one it is merely incomplete. */
export interface Halt {
  readonly reason: string
  readonly error: unknown
}

/** A share of rows is not worth much before so many have been answered. */
const fewestAnswers = 100

/** With nothing delivered yet, this many refusals of single rows look as if the destination refused everything. */
const suspiciousRefusals = 20

/** With nothing delivered in between, this many batches whose outcome is unknown, and must be held, look as if it were down. */
const suspiciousHolds = 3

/** Lanes under `concurrency: 'auto'`, of which the pace lets in as many as it finds right. */
const mostLanes = 64

/** An attempt that did not settle its batch; another may. */
class Again extends Error {
  constructor(
    readonly after: number | undefined,
    override readonly cause: unknown,
  ) {
    super()
  }
}

/** What remains of a batch after an attempt: rows to be sent by themselves, or its rows left as they are for the next run. */
type Parts = readonly Work[] | 'left'

/** A refusal of one row. */
type Refusal = { readonly work: Work; readonly item: Prepared; readonly reason: string }

/** Takes batches to the destination and records what becomes of each row. One per run. */
export class Delivery {
  readonly #options: DeliveryOptions
  readonly #batcher: Batcher
  readonly #halted = new AbortController()
  readonly #failed = new AbortController()
  readonly #stop: AbortSignal
  readonly #settleTime: number
  #halt: Halt | undefined
  /** Resolves when everything that was to be written to the ledger is durable, or has failed and said so. */
  #recorded: Promise<unknown> = Promise.resolve()
  #delivered = 0
  #rejected = 0
  #lastDelivery = Number.NEGATIVE_INFINITY
  #holdsInARow = 0
  #columns: readonly Column[] | undefined
  /** Cuts off the calls under way. */
  readonly #underWay = new Set<(reason: unknown) => void>()
  readonly #openLetters: Set<string>
  /** Refusals not yet believed, because nothing has been delivered in this run. */
  #refusals: Refusal[] = []

  constructor(options: DeliveryOptions) {
    this.#options = options
    const { settle, timeout } = options.destination.policy
    this.#settleTime = Number.isNaN(settle) ? timeout : settle
    this.#stop = AbortSignal.any([options.stop, this.#halted.signal])
    this.#openLetters = new Set(options.key ? options.state.openLetters() : [])
    onAbort(options.cut, () => {
      for (const abort of this.#underWay) abort(options.cut.reason)
    })
    this.#batcher = new Batcher({
      ...options,
      stop: this.#stop,
      settle: this.#settleTime,
      refuse: (item, stretch) => this.#refuseUnsent(item, stretch),
    })
  }

  get halt(): Halt | undefined {
    return this.#halt
  }

  /** Aborts when delivery stops by itself with an error. */
  get failed(): AbortSignal {
    return this.#failed.signal
  }

  get delivered(): number {
    return this.#delivered
  }

  get rejected(): number {
    return this.#rejected
  }

  /** Delivers a stretch. Resolves when every attempt has ended and every outcome is durable. */
  async deliver(stretch: Stretch): Promise<void> {
    if (this.#halt) return
    const feed = this.#batcher.feed(stretch)
    const { concurrency } = this.#options.destination.policy
    const lane = async (): Promise<void> => {
      try {
        while (!this.#stop.aborted) {
          const next = await feed.next()
          if (next.done) return
          await this.#process(next.value)
          this.#suspectRefusals(next.value)
        }
      } catch (error) {
        if (error !== this.#stop.reason) this.#fail(messageOf(error), error)
      }
    }
    await Promise.all(Array.from({ length: concurrency === 'auto' ? mostLanes : concurrency }, lane))
    await this.#allRecorded()
  }

  /** Takes all items for delivered, without asking the destination. */
  async adopt(stretch: Stretch): Promise<void> {
    const { ordinal: end } = stretch.end()
    const rejected: Rejected[] = []
    const deliveredKeys: string[] = []
    for (let ordinal = stretch.from; ordinal < end; ) {
      for (const item of await this.#batcher.prepared(stretch, ordinal)) {
        ordinal = item.ordinal + 1
        if ('problem' in item) rejected.push(this.#unfitLetter(item, stretch))
        else if (item.key !== undefined && this.#openLetters.has(item.key)) deliveredKeys.push(item.key)
      }
    }
    const batch: LedgerBatch = {
      ...unsent(stretch.operation),
      id: this.#options.state.newBatch(),
      ranges: [[stretch.from, end - stretch.from]],
      rejected: rejected.map(({ ordinal }) => ordinal),
    }
    await this.#options.state.settle(batch, { rejected, receipts: [], deliveredKeys })
    this.#delivered += end - stretch.from - rejected.length
    this.#rejected += rejected.length
  }

  /** Delivers a stretch as one: `replace` takes everything in one call, batch by batch. */
  async replace(stretch: Stretch): Promise<void> {
    if (this.#halt) return
    const work = this.#batcher.whole(stretch)
    try {
      await this.#retrying(() => this.#attemptWhole(work))
    } catch (error) {
      if (error instanceof Again) {
        this.#exhausted(work, error)
        this.#fail(
          `${this.#options.destination.name} could not be given everything anew: ${messageOf(error.cause)}`,
          undefined,
        )
      } else if (error !== this.#stop.reason) this.#fail(messageOf(error), error)
    }
    await this.#allRecorded()
  }

  async #attemptWhole(work: Work): Promise<void> {
    const { destination } = this.#options
    const places = new WeakMap<object, number>()
    const unfit: Invalid[] = []
    const verdict = await this.#inLane(work, [], async (context) => {
      const batches = this.#batchesOf(work, places, unfit)
      const answer: unknown = await destination.handlers.replace!(batches, context)
      return readAnswer(answer, (record) => places.get(record), destination.name)
    })
    if (verdict.kind === 'refused') {
      this.#nothingApplied(work)
      return this.#fail(`${destination.name} refused to replace what it holds: ${verdict.reason}`, undefined)
    }
    if (verdict.kind !== 'answered') return void (await this.#conclude(work, [], verdict))
    const kinds = new Set([...verdict.outcomes.values()].map(kindOf))
    if (kinds.has('retry') || kinds.has('unknown')) {
      const error = new FatalError(
        `${destination.name}: replace may answer with reject() and receipt() only; to have all of it tried again, throw a RetryableError`,
      )
      return void this.#unanswered(work, { kind: 'unknown', bug: true, error, after: undefined, pushedBack: false })
    }
    const rejected: Rejected[] = []
    const receipts: [number, string][] = []
    const letter = async (ordinal: number, reason: string): Promise<Rejected> => ({
      ordinal,
      key: undefined,
      row: await work.stretch.items.rowOf(ordinal),
      record: undefined,
      operation: 'replace',
      reason: redact(reason),
      attempts: work.attempt,
    })
    for (const { ordinal, problem } of unfit) rejected.push(await letter(ordinal, problem))
    for (const [ordinal, outcome] of verdict.outcomes) {
      if (kindOf(outcome) === 'receipt') receipts.push([ordinal, (outcome as Receipt).remoteId])
      else rejected.push(await letter(ordinal, (outcome as Rejection).reason))
    }
    checkpoint('before outcome')
    this.#recordSettled(work, rejected, receipts, [])
    this.#delivered += sizeOf(work) - rejected.length
    this.#lastDelivery = performance.now()
  }

  /** The records of everything, from the first one on. Rows without one are left out. */
  async *#batchesOf({ stretch }: Work, places: WeakMap<object, number>, unfit: Invalid[]): AsyncGenerator<object[]> {
    unfit.length = 0
    const { batchSize } = this.#options.destination.policy
    const { ordinal: end } = stretch.end()
    let batch: object[] = []
    for (let ordinal = stretch.from; ordinal < end; ) {
      const prepared = await this.#batcher.prepared(stretch, ordinal)
      for (const item of prepared) {
        ordinal = item.ordinal + 1
        if ('problem' in item) unfit.push(item)
        else {
          places.set(item.record, item.ordinal)
          batch.push(item.record)
        }
        if (batch.length < batchSize) continue
        this.#columnsWith(batch)
        yield batch
        batch = []
      }
    }
    if (batch.length > 0) {
      this.#columnsWith(batch)
      yield batch
    }
  }

  /** To be called when nothing more of these stretches will be delivered: believes the refusals that were held back. */
  async end(): Promise<void> {
    if (!this.#halt && !this.#options.stop.aborted) {
      await this.#believeRefusals()
      this.#guardRejections()
    }
    await this.#allRecorded()
  }

  /** Stops everything; the first reason counts. */
  #fail(reason: string, error: unknown): void {
    this.#halt ??= { reason: redact(reason), error }
    this.#halted.abort(new Error(reason))
    if (error !== undefined) this.#failed.abort(error)
  }

  /** Attempts until one concludes, the time for retries is over, or delivery stops. */
  #retrying<T>(attempt: () => Promise<T>): Promise<T> {
    return retrying(attempt, {
      budget: this.#options.destination.policy.retryFor,
      signal: this.#stop,
      wait: (error, number) => (error instanceof Again && !this.#halt ? waitAfter(error, number) : undefined),
    })
  }

  /** Sends a batch until each of its rows is settled, or is left for the next run. */
  async #process(work: Work): Promise<void> {
    let left = true
    let keys = work.keys
    try {
      if (work.notBefore > Date.now()) await sleep(work.notBefore - Date.now(), this.#stop)
      const parts = await this.#retrying(() => this.#attempt(work))
      if (parts === 'left') return
      left = false
      // each part frees its own keys, whose later rows may be under way before the last part is done
      const held = new Set(parts.flatMap((part) => part.keys))
      this.#batcher.free(
        keys.filter((key) => !held.has(key)),
        left,
      )
      keys = []
      for (const part of parts) await this.#process(part)
    } catch (error) {
      if (error instanceof Again) this.#exhausted(work, error)
      else if (error !== this.#stop.reason) throw error
    } finally {
      this.#batcher.free(keys, left)
    }
  }

  /** One attempt. Answers what remains; throws {@link Again} when another attempt may do. */
  async #attempt(work: Work): Promise<Parts> {
    const { destination } = this.#options
    const replaySafe = this.#isReplaySafe(work)
    const items = work.prepared ?? (await this.#batcher.reload(work))
    if (!items) return 'left'
    if (work.doubt && !replaySafe) {
      const resolved = await this.#resolve(work, items)
      if (resolved) return resolved
    }
    const records = items.map(({ record }) => record)
    const handler = destination.handlers[work.stretch.operation]!
    const verdict = await this.#inLane(work, items, async (context) =>
      readAnswer(await handler(records.slice(), context), placesIn(records), destination.name),
    )
    return this.#conclude(work, items, verdict)
  }

  /** Lets a batch into a lane, marks it as sent, and calls its handler. */
  async #inLane(
    work: Work,
    items: readonly Prepared[],
    handler: (context: Context) => Promise<Verdict>,
  ): Promise<Verdict> {
    const { pace, destination, state } = this.#options
    const records = items.map(({ record }) => record)
    await pace.enter(this.#stop)
    let begun = performance.now()
    let verdict: Verdict | undefined
    try {
      work.prepared = undefined
      work.attempt++
      if (destination.idempotent !== undefined) work.digest ??= digestOf(records)
      if (work.firstSentAt === 0) work.firstSentAt = Date.now()
      await state.sent(this.#ledgerBatch(work, 'sent'))
      checkpoint('sent')
      await this.#stillIn(work, begun)
      begun = performance.now()
      verdict = await this.#call(work, 'sent', items, records, handler)
      checkpoint('answered')
      return verdict
    } finally {
      this.#leave(begun, verdict)
    }
  }

  /** Waits again when the request would not leave in the time for which it was let in. */
  async #stillIn(work: Work, entered: number): Promise<void> {
    try {
      await this.#options.pace.stillIn(entered, this.#stop)
    } catch (reason) {
      this.#nothingApplied(work) // it never left
      throw reason
    }
  }

  /** Frees the lane, and makes all others wait when the destination asked for it. */
  #leave(begun: number, verdict: Verdict | undefined): void {
    const { pace } = this.#options
    const pushedBack = verdict !== undefined && 'pushedBack' in verdict && verdict.pushedBack
    if (pushedBack && verdict.after !== undefined) pace.pause(verdict.after)
    pace.leave({ latency: performance.now() - begun, pushedBack })
  }

  #isReplaySafe({ stretch }: Work): boolean {
    return isReplaySafe(this.#options.destination, stretch.operation)
  }

  /** Records what an attempt proved. */
  #conclude(work: Work, items: readonly Prepared[], verdict: Verdict): Parts | Promise<Parts> {
    switch (verdict.kind) {
      case 'answered':
        return this.#answered(work, items, verdict.outcomes)
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
      case 'unknown':
        return this.#unanswered(work, verdict)
    }
  }

  #unanswered(work: Work, { bug, error, after }: Extract<Verdict, { kind: 'unknown' }>): 'left' {
    const { destination, log } = this.#options
    work.doubt = true
    work.doubtSince = Date.now()
    this.#batcher.unanswered()
    work.failingSince ??= performance.now()
    this.#record(this.#options.state.unknown(this.#ledgerBatch(work, 'unknown')))
    if (bug) {
      this.#fail(messageOf(error), error)
      return 'left'
    }
    const hopeless =
      !this.#isReplaySafe(work) &&
      !destination.handlers.verify &&
      destination.idempotent === undefined &&
      destination.policy.onUnknown === 'hold'
    if (!hopeless) throw new Again(after, error)
    log.warn(`${destination.name}: ${rows(work)} may or may not have been applied, and are held: ${messageOf(error)}`)
    if (++this.#holdsInARow >= suspiciousHolds) this.#isDown(error)
    return 'left'
  }

  /** The latest attempt applied nothing. What an unknown one before it did stays open. */
  #nothingApplied(work: Work): void {
    const { state } = this.#options
    if (work.doubt) this.#record(state.unknown(this.#ledgerBatch(work, 'unknown')))
    else this.#record(state.release(this.#ledgerBatch(work, 'sent')))
  }

  async #answered(
    work: Work,
    items: readonly Prepared[],
    outcomes: Extract<Verdict, { kind: 'answered' }>['outcomes'],
  ): Promise<Parts> {
    if (outcomes.size === 0) {
      this.#settle(work, items)
      return []
    }
    const { destination, state } = this.#options
    const replaySafe = this.#isReplaySafe(work)
    const settled: Prepared[] = []
    const refusals: Refusal[] = []
    const receipts: [number, string][] = []
    const again: Prepared[] = []
    const unsure: Prepared[] = []
    const left: Prepared[] = []
    const verifiable = destination.handlers.verify !== undefined && !work.unverifiable
    let wait = 0
    items.forEach((item, index) => {
      const outcome = outcomes.get(index)
      const kind = outcome && kindOf(outcome)
      if (kind === 'retry') {
        again.push(item)
        wait = Math.max(wait, (outcome as Retry).after)
      } else if (kind === 'unknown') {
        unsure.push(item)
      } else if (kind === 'rejection' && work.doubt && !replaySafe) {
        // a refusal after an attempt that may have been applied proves nothing about that attempt, nor would another refusal
        if (verifiable) unsure.push(item)
        else left.push(item)
      } else {
        settled.push(item)
        if (kind === 'rejection') refusals.push({ work, item, reason: (outcome as Rejection).reason })
        if (kind === 'receipt') receipts.push([item.ordinal, (outcome as Receipt).remoteId])
      }
    })
    const letters = await this.#letters(refusals)
    const failingSince = work.failingSince ?? performance.now()
    const soon = Date.now() + fullJitter(work.attempt)
    const parts: Work[] = []
    // in one commit: a row that leaves this batch must be neither in none nor in two
    if (settled.length > 0) this.#settle({ ...work, ...only(settled) }, settled, letters, receipts)
    else this.#record(state.release(this.#ledgerBatch(work, 'sent')))
    if (unsure.length > 0) {
      this.#batcher.unanswered()
      const change = { failingSince, doubt: true, doubtSince: Date.now(), notBefore: soon }
      parts.push(this.#batcher.part(work, unsure, change))
    }
    if (again.length > 0) {
      const change = { failingSince, notBefore: wait ? Date.now() + wait : soon, remembered: undefined }
      parts.push(this.#batcher.part(work, again, change))
    }
    this.#stillUnknown(parts)
    if (left.length > 0) {
      const part = this.#batcher.part(work, left, {})
      this.#stillUnknown([part])
      this.#batcher.free(part.keys, true)
    }
    return parts.filter((part) => this.#inTime(part))
  }

  /** Rows in doubt stay so in the ledger while they wait. */
  #stillUnknown(parts: readonly Work[]): void {
    for (const part of parts) {
      if (part.doubt) this.#record(this.#options.state.unknown(this.#ledgerBatch(part, 'unknown')))
    }
  }

  /** Whether a row that asked for another attempt may still have it in this run. */
  #inTime(work: Work): boolean {
    const { destination, log } = this.#options
    const end = (work.failingSince ?? performance.now()) + destination.policy.retryFor
    if (performance.now() + (work.notBefore - Date.now()) <= end) return true
    this.#batcher.free(work.keys, true)
    log.warn(`${destination.name}: ${rows(work)} kept asking for another attempt and stay for the next run`)
    return false
  }

  async #refused(work: Work, items: readonly Prepared[], reason: string): Promise<Parts> {
    const { allowRejections, destination } = this.#options
    if (work.doubt && !this.#isReplaySafe(work)) {
      // rows that may be sent twice may be sent by halves too: one bad row does not keep the others in doubt for ever
      const mayArriveTwice = destination.policy.onUnknown === 'resend' && !this.#keyCounts(work)
      if (items.length === 1 || !mayArriveTwice) {
        this.#nothingApplied(work)
        return 'left'
      }
    }
    if (items.length > 1) {
      const half = Math.ceil(items.length / 2)
      const parts = [items.slice(0, half), items.slice(half)].map((some) =>
        this.#batcher.part(work, some, { remembered: undefined }),
      )
      this.#record(this.#options.state.release(this.#ledgerBatch(work, 'sent')))
      this.#stillUnknown(parts)
      return parts
    }
    const refusal = { work, item: items[0]!, reason }
    if (this.#delivered > 0 || allowRejections) {
      this.#settle(work, items, await this.#letters([refusal]))
      return []
    }
    this.#nothingApplied(work)
    this.#refusals.push(refusal)
    if (this.#refusals.length >= suspiciousRefusals) this.#refusesAll()
    return []
  }

  /** Every row of this batch has its answer. */
  #settle(
    work: Work,
    items: readonly Prepared[],
    letters: readonly Rejected[] = [],
    receipts: readonly (readonly [number, string])[] = [],
  ): void {
    const refused = new Set(letters.map(({ ordinal }) => ordinal))
    const deliveredKeys: string[] = []
    if (this.#openLetters.size > 0) {
      for (const { key, ordinal } of items) {
        if (key !== undefined && !refused.has(ordinal) && this.#openLetters.delete(key)) deliveredKeys.push(key)
      }
    }
    checkpoint('before outcome')
    this.#recordSettled(work, letters, receipts, deliveredKeys)
    const delivered = items.length - refused.size
    this.#delivered += delivered
    this.#guardRejections()
    if (delivered === 0) return
    this.#lastDelivery = performance.now()
    this.#holdsInARow = 0
    if (this.#refusals.length > 0) void this.#believeRefusals()
  }

  #recordSettled(
    work: Work,
    rejected: readonly Rejected[],
    receipts: readonly (readonly [number, string])[],
    deliveredKeys: readonly string[],
  ): void {
    const batch = { ...this.#ledgerBatch(work, 'settled'), rejected: rejected.map(({ ordinal }) => ordinal) }
    this.#record(this.#options.state.settle(batch, { rejected, receipts, deliveredKeys }))
    for (const { key } of rejected) if (key !== undefined) this.#openLetters.add(key)
    this.#rejected += rejected.length
  }

  /** Ends the run when more rows were refused in it than may be. */
  #guardRejections(): void {
    const { maxRejected: most, destination } = this.#options
    if (!most || this.#rejected === 0) return
    const answered = this.#delivered + this.#rejected
    if ('count' in most ? this.#rejected <= most.count : this.#rejected <= most.share * answered) return
    if ('share' in most && answered < fewestAnswers) return
    const allowed = 'count' in most ? `${most.count}` : `${most.share * 100} %`
    const reason = `${destination.name} refused ${this.#rejected} of the ${answered} rows answered in this run, and maxRejected allows ${allowed}: the rest was not sent. Look at the dead letters, and run again when their cause is gone`
    this.#fail(reason, new GuardError(reason))
  }

  // ---- refusals --------------------------------------------------------------------------------------------------

  /** Refused rows as they were staged: a handler may have changed what it was given. */
  async #letters(refusals: readonly Refusal[]): Promise<Rejected[]> {
    const letters: Rejected[] = []
    for (const { work, item, reason } of refusals) {
      const [again] = (await this.#batcher.reload({ stretch: work.stretch, ordinals: [item.ordinal] })) ?? []
      letters.push({
        ordinal: item.ordinal,
        key: this.#letterKey(item.key),
        row: await work.stretch.items.rowOf(item.ordinal),
        record: again?.record,
        operation: work.stretch.operation,
        reason: redact(reason),
        attempts: work.attempt,
      })
    }
    return letters
  }

  /** By which a later row closes a dead letter; in `append`, another row of the same key is another event. */
  #letterKey(key: string | undefined): string | undefined {
    return this.#options.keysRepeat ? undefined : key
  }

  /** A row that cannot be made into a record is refused without asking the destination. */
  #refuseUnsent(item: Invalid, stretch: Stretch): void {
    const { state } = this.#options
    const letter = this.#unfitLetter(item, stretch)
    const batch: LedgerBatch = {
      ...unsent(stretch.operation),
      id: state.newBatch(),
      ranges: rangesOf([item.ordinal]),
      rejected: [item.ordinal],
      resumed: stretch.resumed,
    }
    this.#record(state.settle(batch, { rejected: [letter], receipts: [], deliveredKeys: [] }))
    if (letter.key !== undefined) this.#openLetters.add(letter.key)
    this.#rejected++
    // of a share nothing can be said yet: rows before this one are still on their way
    if (this.#options.maxRejected && 'count' in this.#options.maxRejected) this.#guardRejections()
  }

  #unfitLetter({ ordinal, row, key, problem }: Invalid, { operation }: Stretch): Rejected {
    const reason = redact(problem)
    return { ordinal, key: this.#letterKey(key), row, record: undefined, operation, reason, attempts: 0 }
  }

  /** A batch of several rows of which every one was refused, with nothing delivered yet: more likely a missing permission. */
  #suspectRefusals({ ordinals }: Work): void {
    if (ordinals.length < 2 || this.#delivered > 0 || this.#refusals.length < ordinals.length) return
    const refused = new Set(this.#refusals.map(({ item }) => item.ordinal))
    if (ordinals.every((ordinal) => refused.has(ordinal))) this.#refusesAll()
  }

  #refusesAll(): void {
    const { destination } = this.#options
    this.#fail(
      `${destination.name} refused every row it was sent (${this.#refusals.length}) and took none, so they stay pending: ${this.#refusals[0]!.reason}. Mend the cause, or run with allowRejections to take the refusals as they are`,
      undefined,
    )
  }

  async #believeRefusals(): Promise<void> {
    const refusals = this.#refusals.splice(0)
    const believed = (async () => {
      for (const refusal of refusals) this.#recordSettled(refusal.work, await this.#letters([refusal]), [], [])
      this.#guardRejections()
    })()
    this.#record(believed)
    await this.#recorded
  }

  // ---- unknown outcomes ------------------------------------------------------------------------------------------

  /** Decides about rows that may have been applied, where sending them again could apply them twice. `undefined`: send. */
  async #resolve(work: Work, items: readonly Prepared[]): Promise<Parts | undefined> {
    const { destination, log } = this.#options
    const { handlers, policy } = destination
    if (handlers.verify && !work.unverifiable) return this.#verify(work, items)
    const digest = work.digest && digestOf(items.map(({ record }) => record))
    if (digest === work.digest && this.#keyCounts(work)) return undefined
    if (digest !== work.digest) {
      log.warn(
        `${destination.name}: the records of an unanswered batch are made differently now, so its idempotency key cannot be used again`,
      )
    }
    if (policy.onUnknown === 'hold') {
      this.#nothingApplied(work)
      return 'left'
    }
    if (digest !== work.digest) {
      work.idempotencyKey = hash('sha256', `${work.idempotencyKey} ${digest}`).slice(0, 32)
      work.firstSentAt = 0
      work.digest = undefined
    }
    work.resent = true
    return undefined
  }

  /** Whether the destination still knows the idempotency key under which the batch was sent. */
  #keyCounts({ digest, firstSentAt }: Work): boolean {
    const { idempotent = 0 } = this.#options.destination
    return digest !== undefined && Date.now() - firstSentAt < idempotent
  }

  /** Asks the destination which of the rows are there. */
  async #verify(work: Work, items: readonly Prepared[]): Promise<Parts> {
    const { destination, state, pace } = this.#options
    const records = items.map(({ record }) => record)
    await pace.enter(this.#stop)
    const begun = performance.now()
    const present = new Map<number, string | undefined>()
    const unsure = new Set<number>()
    let verdict: Verdict | undefined
    try {
      verdict = await this.#call(work, 'unknown', items, records, async (context) => {
        const answer: unknown = await destination.handlers.verify!(records.slice(), context)
        for (const found of foundBy(destination, answer)) {
          const outcome = outcomeOf(found)
          const index = records.indexOf(outcome ? outcome.record : found)
          if (index < 0)
            throw new TypeError(`${destination.name}: verify returned an object that is not one of its records`)
          const kind = outcome && kindOf(outcome)
          if (kind === 'unknown') unsure.add(index)
          else present.set(index, kind === 'receipt' ? (outcome as Receipt).remoteId : undefined)
        }
        return { kind: 'answered', outcomes: new Map() }
      })
    } finally {
      this.#leave(begun, verdict)
    }
    if (verdict.kind !== 'answered') {
      work.failingSince ??= performance.now()
      if (verdict.kind !== 'fatal' && !(verdict.kind === 'unknown' && verdict.bug)) {
        throw new Again('after' in verdict ? verdict.after : undefined, verdict.error)
      }
      this.#fail(messageOf(verdict.error), verdict.error)
      return 'left'
    }
    // of a delete, what is not there any more is done
    const isDone = (index: number): boolean => present.has(index) !== (work.stretch.operation === 'delete')
    const cannotTell = items.filter((_, index) => !present.has(index) && unsure.has(index))
    const there = items.filter((item, index) => isDone(index) && !cannotTell.includes(item))
    const absent = items.filter((item, index) => !isDone(index) && !cannotTell.includes(item))
    const landing = work.doubtSince + this.#settleTime - Date.now()
    if (absent.length === items.length && landing > 0) {
      // the lost request may still land: absence proves nothing yet
      throw new Again(landing, new RetryableError(`${destination.name}: an unanswered request may still land`))
    }
    const receipts = items.flatMap(({ ordinal }, index) => {
      const remoteId = present.get(index)
      return remoteId === undefined ? [] : [[ordinal, remoteId] as const]
    })
    const parts: Work[] = []
    this.#record(state.release(this.#ledgerBatch(work, 'unknown')))
    if (there.length > 0) this.#settle(this.#batcher.part(work, there, {}), there, [], receipts)
    if (cannotTell.length > 0) parts.push(this.#batcher.part(work, cannotTell, { unverifiable: true }))
    if (absent.length > 0) {
      const change = landing > 0 ? { notBefore: Date.now() + landing } : { doubt: false }
      parts.push(this.#batcher.part(work, absent, change))
    }
    this.#stillUnknown(parts)
    return parts
  }

  // ---- one call --------------------------------------------------------------------------------------------------

  /** Calls a handler under its timeout, and judges what comes of it. */
  async #call(
    work: Work,
    state: 'sent' | 'unknown',
    items: readonly Prepared[],
    records: readonly object[],
    handler: (context: Context) => Promise<Verdict>,
  ): Promise<Verdict> {
    const { destination } = this.#options
    const { name } = destination
    const { timeout, retryFor } = destination.policy
    const controller = new AbortController()
    let giveUp: (error: Error) => void
    const overdue = new Promise<never>((_, reject) => {
      giveUp = reject
    })
    const abort = (reason: unknown): void => {
      if (controller.signal.aborted) return
      controller.abort(reason)
      disarm()
      disarm = afterTurn(retryFor, () =>
        giveUp(
          new FatalError(
            `${name}: the handler went on for ${retryFor / 1000} s after its signal had aborted; pass context.signal to whatever it waits for`,
          ),
        ),
      )
    }
    let disarm = afterTurn(timeout, () => abort(new TimeoutError(`${name}: no answer within ${timeout / 1000} s`)))
    this.#underWay.add(abort)
    const requests = { writes: 0, open: 0 }
    let over = false
    const remember = async (text: string | undefined): Promise<void> => {
      if (text !== undefined && typeof text !== 'string')
        throw new TypeError(`${name}: remember() takes a text, not ${describe(text)}`)
      if (over) throw new Error(`${name}: remember() was called after its handler had ended; await it`)
      work.remembered = text
      await this.#options.state.sent(this.#ledgerBatch(work, state))
    }
    const context = { ...this.#context(work, items, records, controller.signal, requests), remember }
    try {
      const verdict = await Promise.race([handler(context), overdue])
      if (requests.open === 0) return verdict
      throw new TypeError(
        `${name}: the handler returned while ${requests.open} of its requests were still under way; await each of them`,
      )
    } catch (error) {
      if (controller.signal.aborted) {
        const stuck = error instanceof FatalError
        const cause = stuck ? error : controller.signal.reason
        return { kind: 'unknown', after: undefined, pushedBack: false, bug: stuck, error: cause }
      }
      // what is remembered is there to be looked up: until it is forgotten, no error proves anything about it
      const atomic = destination.atomic && work.remembered === undefined
      return judge(error, { actor: name, atomic, writes: requests.writes }, Date.now())
    } finally {
      over = true
      disarm()
      this.#underWay.delete(abort)
    }
  }

  #context(
    work: Work,
    items: readonly Prepared[],
    records: readonly object[],
    signal: AbortSignal,
    requests: { writes: number; open: number },
  ): Omit<Context, 'remember'> {
    const { destination, config, match, log, sync, run, pace } = this.#options
    const placeOf = placesIn(records)
    let first = true
    return {
      config: config as object,
      idempotencyKey: work.idempotencyKey,
      attempt: Math.max(1, work.attempt),
      operation: work.stretch.operation,
      match,
      signal,
      log,
      sync,
      run,
      table: new LazyTable(sync, () => this.#columnsWith(records)),
      remoteId: (record) => items[placeOf(record) ?? -1]?.remoteId,
      key: (record) => items[placeOf(record) ?? -1]?.key,
      remembered: work.remembered,
      http: createHttp({
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
      }),
    }
  }

  #columnsWith(records: readonly object[]): readonly Column[] {
    this.#columns = columnsOf(records, this.#columns ?? (this.#options.map ? [] : this.#options.columns()))
    return this.#columns
  }

  // ---- the ledger ------------------------------------------------------------------------------------------------

  #ledgerBatch(work: Work, state: LedgerBatch['state']): LedgerBatch {
    return {
      id: work.id,
      operation: work.stretch.operation,
      ranges: work.ranges,
      state,
      attempt: work.attempt,
      doubt: work.doubt,
      idempotencyKey: work.idempotencyKey,
      digest: work.digest,
      sentAt: Date.now(),
      firstSentAt: work.firstSentAt,
      rejected: [],
      resumed: work.stretch.resumed,
      resent: work.resent,
      remembered: state === 'settled' ? undefined : work.remembered,
    }
  }

  #record(durable: Promise<void>): void {
    this.#recorded = Promise.allSettled([this.#recorded, durable])
    durable.catch((error) => this.#fail(messageOf(error), error))
  }

  async #allRecorded(): Promise<void> {
    let last: Promise<unknown> | undefined
    while (last !== this.#recorded) {
      last = this.#recorded
      await last
    }
  }

  // ---- giving up -------------------------------------------------------------------------------------------------

  #exhausted(work: Work, { cause }: Again): void {
    const { destination, log } = this.#options
    const what = work.doubt ? 'it is not known whether they were applied' : 'they stay pending'
    log.warn(`${destination.name}: gave up on ${rows(work)} for this run, ${what}: ${messageOf(cause)}`)
    if (this.#lastDelivery < (work.failingSince ?? performance.now())) this.#isDown(cause)
  }

  /** The circuit breaker: what is left would fare no better. */
  #isDown(cause: unknown): void {
    this.#fail(
      `${this.#options.destination.name} looks down: nothing was delivered since its first failure, so the rest waits for the next run (${messageOf(cause)})`,
      undefined,
    )
  }
}

/**
 * Looks at the records only when a handler asks for their columns. A getter in an object literal would do the same, but V8 keeps
 * such getters with the literal's hidden class, and with them the rows of every batch until a major collection.
 */
class LazyTable implements Table {
  readonly #columns: () => readonly Column[]

  constructor(
    readonly name: string,
    columns: () => readonly Column[],
  ) {
    this.#columns = columns
  }

  get columns(): readonly Column[] {
    return this.#columns()
  }
}

/** As long as the destination asks for; from the second time on, at least what backoff says: it may ask for 0 for ever. */
function waitAfter({ after }: Again, attempt: number): number {
  if (after !== undefined && attempt === 1) return after
  return Math.max(after ?? 0, fullJitter(attempt))
}

/** What `verify` answered, if it can be read at all. */
function foundBy({ name }: Definition, answer: unknown): Iterable<object> {
  if (answer !== null && typeof answer === 'object' && Symbol.iterator in answer) return answer as Iterable<object>
  throw new TypeError(`${name}: verify must return the records that are there, in an array or another iterable`)
}

/** What the ledger says of a batch that was settled without being sent. */
function unsent(operation: Operation): Omit<LedgerBatch, 'id' | 'ranges'> {
  return {
    operation,
    state: 'settled',
    attempt: 0,
    doubt: false,
    idempotencyKey: '',
    digest: undefined,
    sentAt: 0,
    firstSentAt: 0,
    rejected: [],
    resumed: false,
    resent: false,
    remembered: undefined,
  }
}

function digestOf(records: readonly object[]): string {
  return hash('sha256', encodeRows(records).text)
}

function sizeOf({ ranges }: Work): number {
  return ranges.reduce((sum, [, count]) => sum + count, 0)
}

function rows(work: Work): string {
  const count = sizeOf(work)
  return count === 1 ? '1 row' : `${count} rows`
}
