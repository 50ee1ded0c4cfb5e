import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { none, type Outcomes, outcomes, plus, since, type Tally } from './account.js'
import type { Stretch } from './batch.js'
import { Columns, type SchemaContract } from './columns.js'
import { redact, resolveConfig } from './config.js'
import type { CursorOptions } from './cursor.js'
import { Delivery } from './deliver.js'
import type { Definition } from './destination.js'
import { type Duckdb, openDuckdb } from './duckdb.js'
import type { Ceiling, Duration } from './duration.js'
import { ConfigError, GuardError } from './errors.js'
import { bulk, type Incoming, staged } from './incoming.js'
import { planItems, stageItems } from './items.js'
import type { Log } from './log.js'
import { onAbort, Pace } from './pace.js'
import { type Comparison, compare, type Planned, type PlanOptions } from './plan.js'
import { Reader, sealedAfter } from './read.js'
import { recordMaker } from './record.js'
import { compact, deliveredEtag, knownFingerprints } from './snapshot.js'
import { NotModified, type SourceDefinition } from './source.js'
import { openEmbedded } from './state/embedded.js'
import type { Identity, LedgerBatch, ReadRow, StoredLetter, SyncState } from './state/state.js'
import type { AnyRow } from './values.js'
import { messageOf } from './verdict.js'

/** A sync's options, checked and with their defaults filled in. */
export interface SyncDefinition {
  readonly name: string
  readonly source: SourceDefinition
  /** How often it runs when it is started. */
  readonly every: Duration | undefined
  readonly destination: Definition
  readonly mode: 'append' | 'insert' | 'update' | 'upsert' | 'mirror' | 'replace'
  /** What is done with rows. */
  readonly operation: 'insert' | 'update' | 'upsert' | 'replace'
  readonly key: readonly string[] | undefined
  readonly cursor: CursorOptions | undefined
  readonly map: ((row: AnyRow) => unknown) | undefined
  /** What records are made by: the text of `map`, and what the user says beside it. */
  readonly version: string
  /** Most deletes in one run: a share of the known keys, or a number of them. */
  readonly deleteCeiling: Ceiling
  readonly maxRejected: Ceiling | undefined
  readonly schemaContract: SchemaContract
  readonly folder: string
  readonly log: Log
}

/** What a run did. Its own counts are of the rows that it read. */
export interface Run extends Outcomes {
  readonly id: string
  readonly sync: string
  /** `incomplete`: rows are pending or unknown; `reason` says why. */
  readonly status: 'done' | 'incomplete'
  readonly reason: string | undefined
  /** Keys that the source does not have any more, in `mirror`. */
  readonly deletes: Outcomes
  /** Rows that earlier runs left open. */
  readonly resumed: Outcomes
  /** Rows sent again although an earlier attempt may have been applied: they may be there twice. */
  readonly resent: number
  readonly startedAt: Date
  /** Milliseconds. */
  readonly duration: number
}

/** How far a run is. */
export interface Progress {
  readonly sync: string
  readonly staged: number
  readonly delivered: number
  readonly rejected: number
  readonly pending: number
  /** How many rows there are, once the source has been read to its end. */
  readonly total: number | undefined
}

/** What one run may do differently from the next. */
export interface RunOptions {
  /** Stops the run at a batch boundary: calls under way end, what is left stays pending. */
  signal?: AbortSignal | undefined
  /**
   * When the run must be over, as in a serverless function. No call begins in the last tenth of the time (at most 5 s);
   * calls still under way at the deadline are cut off, and their outcome is unknown.
   */
  deadline?: Date | undefined
  /** Called now and then, at most ten times a second. */
  onProgress?: ((progress: Progress) => void) | undefined
  /** Takes refusals as they are even when the destination has refused every row so far. @default false */
  allowRejections?: boolean | undefined
  /**
   * What to do when an earlier reading of a source without cursor broke off and the source does not begin as it did then:
   * read all of it as new, or take what was read for all there is. @default the run stops and asks
   */
  brokenOff?: 'from-start' | 'done' | undefined
  /** Deletes more than `deleteCeiling` allows, everything even, and where the source has not a single row. @default false */
  allowDeletes?: boolean | undefined
  /** Sends every row, also those that the destination has already. @default false */
  full?: boolean | undefined
  /** Sends just what this plan shows, and nothing when the source or what was delivered has changed since. */
  plan?: { readonly digest: string } | undefined
}

/** Which dead letters to send again. */
export type Where = (letter: StoredLetter) => boolean

/**
 * Carries out one run: of the source, of dead letters (`redrive`), or one that takes the source for delivered (`adopts`).
 * Rejects when it failed; what was delivered until then is recorded.
 */
export async function runSync(
  definition: SyncDefinition,
  options: RunOptions,
  { redrive, adopts = false }: { readonly redrive?: Where; readonly adopts?: boolean } = {},
): Promise<Run> {
  const { name, folder } = definition
  const startedAt = Date.now()
  const id = randomUUID()
  const config = await configOf(definition)
  const state = await openEmbedded(folder)
  try {
    const sync = await state.open(name, identityOf(definition, config))
    const limits = limitsOf(options)
    try {
      await sync.beginRun(id)
      const run = new Running(definition, options, sync, id, config, limits, adopts)
      try {
        const letters = redrive && (await lettersOf(state.deadLetters(name), redrive))
        // without a letter to send again there is nothing to read for either
        const stored = letters && (letters.length === 0 || sendsStored(definition)) ? letters : undefined
        const keys = new Set(letters?.flatMap(({ key }) => key ?? []))
        const { status, reason, ...counts } = await run.go(stored, keys)
        await sync.endRun(id, status, { ...counts, reason }, run.finishedReads())
        return {
          id,
          sync: name,
          status,
          reason,
          ...counts,
          startedAt: new Date(startedAt),
          duration: Date.now() - startedAt,
        }
      } catch (error) {
        // the error that ended the run is the one to tell; where the state itself failed, its end cannot be written either
        await Promise.resolve()
          .then(() => sync.endRun(id, 'failed', { ...run.counts(), reason: redact(messageOf(error)) }))
          .catch(() => {})
        throw error
      } finally {
        await run.close()
      }
    } finally {
      limits.release()
      await sync.close()
    }
  } finally {
    await state.close()
  }
}

/** Whether a redrive sends the stored rows: where the source shows all of its rows, those that it has now are sent instead. */
function sendsStored(definition: SyncDefinition): boolean {
  return definition.mode === 'append' || goesOn(definition) || !definition.source.repeatable
}

async function lettersOf(letters: AsyncIterable<StoredLetter>, wanted: Where): Promise<StoredLetter[]> {
  const found: StoredLetter[] = []
  for await (const letter of letters) if (wanted(letter)) found.push(letter)
  return found
}

/** What a snapshot and a ledger belong to. */
export function identityOf({ mode, key, destination }: SyncDefinition, config: unknown): Identity {
  const target = JSON.stringify(destination.target(config)) ?? ''
  return {
    mode,
    key: key?.join(', ') ?? 'none',
    match: destination.match?.join(', ') ?? 'the key',
    destination: target === '' || target === '{}' ? destination.name : `${destination.name} ${target}`,
  }
}

interface Limits {
  readonly stop: AbortSignal
  readonly cut: AbortSignal
  release(): void
}

function limitsOf({ signal, deadline }: RunOptions): Limits {
  const stop = new AbortController()
  const cut = new AbortController()
  const release: (() => void)[] = []
  const stopWith = (reason: string): void => stop.abort(new Error(reason))
  if (signal?.aborted) stopWith('stopped by its signal')
  else if (signal) release.push(onAbort(signal, () => stopWith('stopped by its signal')))
  if (deadline) {
    const left = deadline.getTime() - Date.now()
    const reserve = Math.min(left / 10, 5_000)
    const timers = [
      setTimeout(() => stopWith('its deadline came near'), Math.max(0, left - reserve)),
      setTimeout(() => cut.abort(new Error('the run had to end at its deadline')), Math.max(0, left)),
    ]
    release.push(...timers.map((timer) => () => clearTimeout(timer)))
  }
  return {
    stop: stop.signal,
    cut: cut.signal,
    release() {
      for (const undo of release) undo()
    },
  }
}

type Counted = Outcomes & Pick<Run, 'status' | 'reason' | 'deletes' | 'resumed' | 'resent'>

class Running {
  readonly #definition: SyncDefinition
  readonly #options: RunOptions
  readonly #state: SyncState
  readonly #limits: Limits
  readonly #delivery: Delivery
  readonly #reader: Reader
  readonly #columns: Columns
  /** Whether a read shows the whole source. */
  readonly #complete: boolean
  /** The first ordinal that this run stages. */
  readonly #freshFrom: number
  /** The oldest ordinal that an earlier run has left. */
  readonly #oldest: number
  /** What the ledger said when the run began, and what it says after the old plan's leftovers were dealt with. */
  readonly #before: Tally
  #after: Tally | undefined
  /** Rows that an earlier run staged and never planned. */
  readonly #unplanned: number
  /** Rows that were read and found to be unchanged before anything had to be staged. */
  #unstaged = 0
  #opened: Promise<Duckdb> | undefined
  #plan: Planned | undefined
  #planned: 'complete' | 'partial' | undefined
  readonly #adopts: boolean
  /** Only what an earlier run had read was delivered. */
  #resumedOnly = false
  constructor(
    definition: SyncDefinition,
    options: RunOptions,
    state: SyncState,
    id: string,
    config: unknown,
    limits: Limits,
    adopts: boolean,
  ) {
    this.#definition = definition
    this.#adopts = adopts
    this.#options = options
    this.#state = state
    this.#limits = limits
    this.#complete = showsAll(definition)
    this.#freshFrom = state.nextOrdinal
    this.#oldest = state.reads[0]?.first ?? state.nextOrdinal
    const { plan, reads } = state
    if (definition.mode === 'append') {
      this.#before = state.tally(this.#oldest, this.#freshFrom)
      this.#unplanned = 0
    } else {
      this.#before = plan ? state.tally(0, plan.items) : none
      this.#unplanned = reads.reduce((sum, { first, rows }) => sum + (first >= (plan?.through ?? 0) ? rows : 0), 0)
    }
    const { name, destination, mode, key, cursor, map, log } = definition
    this.#delivery = new Delivery({
      sync: name,
      run: id,
      destination,
      config,
      key,
      match: matchOf(definition),
      cursor: cursor?.column,
      map,
      keysRepeat: mode === 'append' && key !== undefined,
      columns: () => this.#reader.columns,
      state,
      pace: new Pace(destination.policy),
      log,
      stop: limits.stop,
      cut: limits.cut,
      allowRejections: options.allowRejections ?? false,
      maxRejected: definition.maxRejected,
    })
    this.#columns = columnsOf(definition, state)
    this.#reader = new Reader({
      ...definition,
      columns: this.#columns,
      state,
      earlier: state,
      // with an error the run ends at once; a destination that is merely down does not keep rows from being staged
      stop: AbortSignal.any([limits.stop, this.#delivery.failed]),
      compares: definition.mode !== 'append',
      brokenOff: options.brokenOff,
    })
  }

  /** `letters` are sent instead of what the source has; `again`: keys that are tried again, however often they were refused. */
  async go(letters: readonly StoredLetter[] | undefined, again: ReadonlySet<string>): Promise<Counted> {
    if (letters && this.#state.reads.some(({ state }) => state === 'broken')) {
      throw new ConfigError(
        `${this.#definition.name}: an earlier read of the source broke off; run the sync to finish it, then send the dead letters again`,
      )
    }
    const stopTelling = this.#tell()
    try {
      if (this.#definition.mode === 'append') await this.#append(letters)
      else await this.#keyed(letters, again)
    } finally {
      stopTelling()
    }
    const { halt } = this.#delivery
    if (halt?.error !== undefined) throw halt.error
    const counts = this.counts()
    await this.#tidy()
    const open = [counts, counts.deletes, counts.resumed].reduce(
      (sum, { pending, unknown }) => sum + pending + unknown,
      0,
    )
    const stopped =
      this.#limits.stop.aborted && !this.#reader.whole && !this.#resumedOnly
        ? `the run ended early: ${messageOf(this.#limits.stop.reason)}`
        : undefined
    const reason =
      halt?.reason ?? this.#reader.question ?? stopped ?? (open > 0 ? `${open} rows are still open` : undefined)
    return { ...counts, status: reason === undefined ? 'done' : 'incomplete', reason }
  }

  // ---- append: the stage is the plan

  async #append(letters: readonly StoredLetter[] | undefined): Promise<void> {
    const state = this.#state
    const { name, log } = this.#definition
    const followed = goesOn(this.#definition)
    const items = stageItems(state)
    try {
      const open = this.#before.pending + this.#before.unknown
      if (open > 0) {
        this.#definition.source.pass?.()
        await this.#delivery.deliver({
          items,
          operation: 'insert',
          identity: this.#identity(),
          from: this.#oldest,
          end: () => ({ ordinal: this.#freshFrom, final: true }),
          grown: never,
          batches: [...state.batches()],
          resumed: true,
        })
      }
      if (this.#over()) return
      const last = state.reads.at(-1)
      if (!letters && !followed && last?.state === 'sealed') {
        // its run has not told that it ended: reading again would send every row a second time. But rows that are merely held
        // do not keep the sync from going on
        const { unknown } = state.tally(this.#oldest, this.#freshFrom)
        const merelyHeld = this.#before.pending === 0 && unknown > 0 && unknown === this.#before.unknown
        if (state.interrupted || !merelyHeld) {
          log.info(`${name}: finished what an earlier run had read; the source was not read again`)
          this.#resumedOnly = true
          return
        }
      }
      const reading = letters ? this.#reader.stageLetters(letters) : this.#reader.read(followed ? undefined : last)
      const delivering = this.#delivery.deliver({
        items,
        operation: 'insert',
        identity: this.#identity(),
        from: this.#freshFrom,
        end: () => ({ ordinal: state.nextOrdinal, final: this.#reader.over }),
        grown: () => this.#reader.grown(),
        batches: [],
        resumed: false,
      })
      // what the source gave before it broke off is delivered before the error is told
      await Promise.all([reading.catch(() => {}), delivering])
      await reading
      if (this.#reader.whole) {
        this.#tellColumns()
        await this.#keepColumns()
      }
    } finally {
      // refusals are of these items: they are believed or not while the items can still be read
      await this.#delivery.end()
      await items.close()
    }
  }

  /** The reads of `append` that are done with, oldest first. */
  finishedReads(): readonly ReadRow[] {
    const state = this.#state
    // a run that was stopped has not told that an earlier one's read is done: the next run must not take it for unread
    const over = this.#reader.whole || this.#resumedOnly
    if (this.#definition.mode !== 'append' || !over) return []
    const free: ReadRow[] = []
    for (const read of state.reads) {
      const { pending, unknown } = state.tally(read.first, read.first + read.rows)
      // a read that broke off is needed to tell, next time, what was read already
      if (pending + unknown > 0 || (read.state !== 'sealed' && !sealedAfter(state, read))) break
      free.push(read)
    }
    return free
  }

  // ---- keyed: planned against the snapshot

  async #keyed(letters: readonly StoredLetter[] | undefined, again: ReadonlySet<string>): Promise<void> {
    const { mode, version } = this.#definition
    const etag = this.#options.full ? undefined : deliveredEtag(this.#state, version)
    // told before anything is read, unless the source may have nothing to compare
    if (etag === undefined) await this.#state.intact()
    const complete = this.#complete && !letters
    await this.#resumeKeyed(complete)
    // without a letter to send again nothing is read, and what is not read is not gone
    if (this.#over() || letters?.length === 0) return
    // a new plan would send their rows beside what they remember
    if (this.#definition.operation !== 'replace' && this.#remembered().length > 0) return
    // where all may have to be sent, all must be there
    const known = mode === 'replace' || this.#options.full ? undefined : knownFingerprints(this.#state)
    const folder = this.#compared
    const atOnce = complete ? await this.#reader.readAtOnce({ folder, version, known, etag }) : undefined
    if (this.#over()) return
    if (atOnce) return this.#planAndDeliver(true, again, bulk(atOnce))
    const reading = letters ? this.#reader.stageLetters(letters) : this.#reader.read(undefined)
    if (complete) await reading
    else await reading.catch(() => {}) // what it gave is delivered before the error is told
    if (!this.#over()) await this.#planAndDeliver(complete, again, this.#staged(complete))
    await reading
  }

  /** What this run has staged; in a partial read, what earlier ones left open too. */
  #staged(complete: boolean): Incoming {
    const state = this.#state
    const from = complete ? this.#freshFrom : (state.plan?.through ?? this.#oldest)
    return staged([{ stage: state, from, fresh: this.#freshFrom, open: !complete }], this.#definition.version)
  }

  #tellColumns(): void {
    const { name, log } = this.#definition
    const news = this.#columns.news()
    if (news) log[news.loses ? 'warn' : 'info'](`${name}: ${news.text}`)
  }

  /** To be called when what was read counts: until then, a run that is killed tells it again. */
  async #keepColumns(): Promise<void> {
    const columns = this.#columns.accepted()
    if (columns && !isDeepStrictEqual(columns, this.#state.columns)) await this.#state.saveColumns(columns)
  }

  /** Where files to be compared are, as long as they are needed. */
  get #compared(): string {
    return join(this.#state.folder, 'compared')
  }

  #database(): Promise<Duckdb> {
    this.#opened ??= openDuckdb(join(this.#state.folder, 'spill'))
    return this.#opened
  }

  /** To be called when nothing more is asked of it. */
  async close(): Promise<void> {
    await (await this.#opened)?.close()
    await rm(this.#compared, { recursive: true, force: true })
  }

  /** Resolves and finishes what earlier runs left, as far as it need not wait for a new plan. */
  async #resumeKeyed(complete: boolean): Promise<void> {
    const state = this.#state
    const { plan } = state
    if (!plan || this.#before.pending + this.#before.unknown === 0) return
    await this.#resumeRemembered(plan.items)
    // one whose answer was lost is otherwise sent anew from the next plan, which may know a newer value
    const unknown = this.#definition.operation === 'insert'
    // records that are made differently now are made anew for the next plan
    const pending = !complete && plan.counts.version === this.#definition.version
    if (unknown || pending) {
      await this.#deliverItems([
        {
          from: 0,
          to: plan.items,
          operation: this.#definition.operation,
          resumed: true,
          only: unknown && pending ? undefined : unknown ? 'unknown' : 'pending',
        },
      ])
    }
    this.#after = state.tally(0, plan.items)
  }

  /** Takes up batches of which the destination may still know: sent anew from the next plan, their rows would be under way twice. */
  async #resumeRemembered(items: number): Promise<void> {
    const { operation } = this.#definition
    if (operation === 'replace' || operation === 'insert') return // begun anew; resolved with all that are unknown
    for (const kind of new Set(this.#remembered().map((batch) => batch.operation))) {
      const part = { from: 0, to: items, operation: kind, resumed: true, only: 'unknown' } as const
      await this.#deliverItems([part], (batch) => batch.remembered !== undefined && batch.operation === kind)
    }
  }

  #remembered(): readonly LedgerBatch[] {
    return [...this.#state.batches()].filter(({ state, remembered }) => state === 'unknown' && remembered !== undefined)
  }

  async #planAndDeliver(
    complete: boolean,
    again: ReadonlySet<string>,
    incoming: Incoming | NotModified,
  ): Promise<void> {
    const state = this.#state
    const comparison = await compare({
      ...comparisonOf(this.#definition),
      // what is gone from the source is no concern of who takes it for delivered
      deletes: this.#definition.mode === 'mirror' && complete && !this.#adopts,
      state,
      incoming,
      keep: (lines) => this.#reader.keep(lines),
      complete,
      full: this.#options.full ?? false,
      database: () => this.#database(),
      folder: this.#compared,
      again: this.#adopts ? 'all' : again,
    }).catch(async (error) => {
      await this.#reader.abandon()
      throw error
    })
    await this.#reader.seal()
    // of what was read at once, only what may be news was staged
    const staged = !(incoming instanceof NotModified) && incoming.staged
    this.#unstaged = staged ? 0 : comparison.rows - (state.nextOrdinal - this.#freshFrom)
    try {
      const reason = this.#options.allowDeletes || this.#adopts ? undefined : guard(this.#definition, comparison)
      if (reason) throw new GuardError(`${this.#definition.name}: ${reason}`)
      const { plan } = this.#options
      if (plan && plan.digest !== (await comparison.digest())) {
        throw new GuardError(
          `${this.#definition.name}: the source, or what was delivered, has changed since the plan was made: nothing was sent. Plan again`,
        )
      }
      this.#tellColumns()
      this.#plan = await comparison.commit()
    } finally {
      await comparison.close()
    }
    await this.#keepColumns()
    this.#planned = complete ? 'complete' : 'partial'
    const { fresh, items, counts } = this.#plan
    if (items === 0 && !counts.replaces) return
    const { operation } = this.#definition
    if (this.#adopts || operation === 'replace') {
      if (this.#adopts ? items > 0 : counts.replaces) await this.#deliverWhole(items)
      return
    }
    const firstDelete = items - counts.delete
    await this.#deliverItems([
      { from: 0, to: fresh, operation, resumed: true, only: 'pending' },
      { from: fresh, to: firstDelete, operation, resumed: false, only: 'pending' },
      { from: firstDelete, to: items, operation: 'delete', resumed: false, only: 'pending' },
    ])
  }

  /** Everything in one go: replaced, or adopted. */
  async #deliverWhole(count: number): Promise<void> {
    const items = await planItems(this.#state, await this.#database())
    const stretch: Stretch = {
      items,
      operation: this.#definition.operation,
      identity: this.#identity(),
      from: 0,
      end: () => ({ ordinal: count, final: true }),
      grown: never,
      batches: [],
      resumed: false,
    }
    try {
      if (this.#adopts) await this.#delivery.adopt(stretch)
      else await this.#delivery.replace(stretch)
    } finally {
      await items.close()
    }
  }

  async #deliverItems(
    parts: readonly (Pick<Stretch, 'from' | 'operation' | 'resumed' | 'only'> & { readonly to: number })[],
    concerned: (batch: LedgerBatch) => boolean = () => true,
  ): Promise<void> {
    const items = await planItems(this.#state, await this.#database())
    try {
      for (const { to, ...part } of parts) {
        if (part.from === to || this.#over()) continue
        this.#definition.source.pass?.()
        await this.#delivery.deliver({
          ...part,
          items,
          identity: this.#identity(),
          end: () => ({ ordinal: to, final: true }),
          grown: never,
          batches: [...this.#state.batches()].filter(concerned),
        })
      }
    } finally {
      // refusals are of these items: they are believed or not while the items can still be read
      await this.#delivery.end()
      await items.close()
    }
  }

  /** Where ordinals mean the same records: those of a plan are in it, those of the stage are made by `map`. */
  #identity(): string {
    const { plan, nonce } = this.#state
    return `${nonce} ${plan ? plan.id : this.#definition.version}`
  }

  #over(): boolean {
    return this.#limits.stop.aborted || this.#delivery.halt !== undefined || this.#reader.question !== undefined
  }

  // ---- accounts

  /** What became of every row: of those this run read, and of those it found open. */
  counts(): Outcomes & Pick<Run, 'deletes' | 'resumed' | 'resent'> {
    const state = this.#state
    const rows = state.nextOrdinal - this.#freshFrom + this.#unstaged
    const before = this.#before
    if (this.#definition.mode === 'append') {
      const old = state.tally(this.#oldest, this.#freshFrom)
      const fresh = state.tally(this.#freshFrom, state.nextOrdinal)
      return {
        ...outcomes(rows, fresh),
        deletes: outcomes(0, none),
        resumed: outcomes(before.pending + before.unknown, since(old, before)),
        resent: old.resent + fresh.resent,
      }
    }
    const found = before.pending + before.unknown + this.#unplanned
    const after = this.#after ?? before
    const resumed = since(after, before)
    const { resent } = after
    if (!this.#plan) {
      return {
        ...outcomes(rows, { ...none, pending: rows }),
        deletes: outcomes(0, none),
        resumed: outcomes(found, { ...resumed, pending: after.pending + this.#unplanned }),
        resent,
      }
    }
    const { fresh: boundary, items, counts } = this.#plan
    const firstDelete = items - counts.delete
    const carried = waiting(state.tally(0, boundary), counts.carriedWaiting)
    const fresh = waiting(state.tally(boundary, firstDelete), counts.waiting)
    const deletes = waiting(state.tally(firstDelete, items), counts.waitingDeletes)
    const open = after.pending + after.unknown + this.#unplanned
    return {
      ...outcomes(rows, fresh, counts.unchanged, counts.superseded),
      deletes: outcomes(counts.delete + counts.waitingDeletes, deletes),
      resumed:
        this.#planned === 'complete'
          ? outcomes(found, { ...resumed, pending: 0, unknown: 0 }, 0, open)
          : outcomes(
              found,
              plus({ ...resumed, pending: 0, unknown: 0 }, carried),
              counts.carriedUnchanged,
              counts.carriedSuperseded,
            ),
      resent: resent + fresh.resent + carried.resent + deletes.resent,
    }
  }

  /** Folds what is terminal. */
  async #tidy(): Promise<void> {
    const { plan } = this.#state
    if (!plan) return
    const { pending, unknown } = this.#state.tally(0, plan.items)
    if (pending + unknown === 0) await compact(this.#state, await this.#database())
  }

  #tell(): () => void {
    const { onProgress } = this.#options
    if (!onProgress) return () => {}
    const { name } = this.#definition
    const found = this.#before.pending + this.#before.unknown
    const tell = (): void => {
      const { delivered, rejected } = this.#delivery
      const staged = this.#state.nextOrdinal - this.#freshFrom + found
      onProgress({
        sync: name,
        staged,
        delivered,
        rejected,
        pending: Math.max(0, staged - delivered - rejected),
        total: this.#reader.whole ? staged : undefined,
      })
    }
    const timer = setInterval(tell, 100)
    return () => {
      clearInterval(timer)
      tell()
    }
  }
}

/** Rows that were refused so often that they are not tried any more are refused still. */
function waiting(tally: Tally, rows: number): Tally {
  return { ...tally, rejected: tally.rejected + rows }
}

/** The destination's config as it is now; `undefined` for one that needs none. */
export async function configOf({
  destination: { name, config: schema, given },
  folder,
}: SyncDefinition): Promise<unknown> {
  return schema && resolveConfig({ name, schema, given, folder })
}

/** Whether each read begins where the one before ended. */
function goesOn({ source, cursor }: SyncDefinition): boolean {
  return cursor !== undefined || source.inbox !== undefined
}

/** Whether a read shows the whole source. */
export function showsAll(definition: SyncDefinition): boolean {
  return definition.source.repeatable && !goesOn(definition)
}

/** What the source's columns are held against. `previews`: what does not fit is told, and nothing is stopped. */
export function columnsOf(
  definition: SyncDefinition,
  { columns: known }: SyncState,
  { previews = false }: { readonly previews?: boolean } = {},
): Columns {
  const { name, mode, key = [], cursor, source, schemaContract: contract } = definition
  const complete = showsAll(definition)
  const needed = cursor ? [...key, cursor.column] : key
  // what is sent, or kept for good, before the read has ended must fit row by row
  const stops = previews ? 'never' : complete && mode !== 'append' ? 'at-end' : source.inbox ? 'at-batch' : 'at-row'
  return new Columns({ name, contract, known, needed, complete, stops })
}

/** By which fields the destination finds its object. */
function matchOf({ destination, key }: SyncDefinition): readonly string[] {
  return destination.match ?? key ?? []
}

/** What the comparison is made by. */
export function comparisonOf(
  definition: SyncDefinition,
): Pick<PlanOptions, 'where' | 'key' | 'operation' | 'deletes' | 'match' | 'make' | 'asTheyAre' | 'version'> {
  const { name, destination, key, cursor, map, mode, operation, version } = definition
  const match = matchOf(definition)
  const deletes = mode === 'mirror'
  // what is to be deleted one day must be found again
  const needed = deletes ? match : (destination.match ?? [])
  const make = recordMaker({ destination, key, cursor: cursor?.column, map, needed })
  const byKey = match.length === 0 || isDeepStrictEqual(match, key)
  const asTheyAre = byKey && !map && !destination.record && !cursor
  return { where: name, key, operation, deletes, match, make, asTheyAre, version }
}

/** Why a run must not begin that would delete more than was meant. */
export function guard(
  { mode, deleteCeiling }: SyncDefinition,
  { known, knownDeletes, rows }: Comparison,
): string | undefined {
  if ((mode !== 'mirror' && mode !== 'replace') || known === 0) return undefined
  const goOn = 'nothing was sent. If that is meant, run with allowDeletes (--allow-deletes)'
  if (rows === 0) {
    return `the source has no row, and the destination holds ${known}; a broken query looks like that: ${goOn}`
  }
  if (mode === 'replace') return undefined
  const most = 'share' in deleteCeiling ? Math.floor(known * deleteCeiling.share) : deleteCeiling.count
  if (knownDeletes <= most && knownDeletes < known) return undefined
  const share = 'share' in deleteCeiling ? `${deleteCeiling.share * 100} %, which is ` : ''
  const allowed = knownDeletes > most ? `${share}${most}` : 'never all of them'
  return `${knownDeletes} of the ${known} objects at the destination would be deleted, and deleteCeiling allows ${allowed}: ${goOn}`
}

/** Never resolves: a stretch that does not grow. */
function never(): Promise<void> {
  return new Promise(() => {})
}
