import type { Tally } from '../account.js'
import type { KnownColumns } from '../columns.js'
import type { Operation } from '../destination.js'
import type { AnyRow } from '../values.js'

/** Consecutive ordinals. */
export type Range = readonly [first: number, count: number]

/** A batch as the ledger knows it. An ordinal that is in no batch is pending. */
export interface LedgerBatch {
  readonly id: number
  readonly operation: Operation
  /** The ordinals of the plan's items (in `append`: of the staged rows) that it covers. No two batches share one. */
  readonly ranges: readonly Range[]
  readonly state: 'sent' | 'settled' | 'unknown'
  readonly attempt: number
  /** An attempt at these rows may have been applied although nothing says so. */
  readonly doubt: boolean
  readonly idempotencyKey: string
  /** Of the records as they were sent, where the destination is idempotent: a key must never meet another body. */
  readonly digest: string | undefined
  /** When the latest attempt left, and the first under this idempotency key, in milliseconds since 1970. */
  readonly sentAt: number
  readonly firstSentAt: number
  /** The ordinals of its rejected rows, once it is settled. */
  readonly rejected: readonly number[]
  /** Its rows come from an earlier run. */
  readonly resumed: boolean
  /** Its rows were sent again although an earlier attempt may have been applied. */
  readonly resent: boolean
  /** What the handler wants to know at a later attempt, as long as there may be one. */
  readonly remembered: string | undefined
}

/** A refused row, with everything that is needed to send it again. */
export interface Rejected {
  readonly ordinal: number
  /** When a row of this key is delivered, or refused again, the dead letter is closed. */
  readonly key: string | undefined
  readonly row: AnyRow
  readonly record: object | undefined
  readonly operation: Operation
  readonly reason: string
  readonly attempts: number
}

/** A dead letter as it is kept. */
export interface StoredLetter extends Rejected {
  readonly id: number
  readonly at: number
}

/** What was learnt of a batch whose every row was answered. */
export interface Settled {
  readonly rejected: readonly Rejected[]
  /** The destination's own ids, by ordinal. */
  readonly receipts: readonly (readonly [ordinal: number, remoteId: string])[]
  /** Keys delivered for which a dead letter may be open: it is closed. */
  readonly deliveredKeys: readonly string[]
}

/** One reading of the source. */
export interface ReadRow {
  readonly id: number
  readonly state: 'open' | 'sealed' | 'broken'
  /** It shows the whole of the source: no cursor, not one-shot. */
  readonly complete: boolean
  /** The ordinal of its first row, and how many rows of it are staged. */
  readonly first: number
  readonly rows: number
}

/** An immutable file of staged rows that still grows, up to the committed length. */
export interface SegmentRow {
  readonly id: number
  readonly read: number
  readonly file: string
  readonly first: number
  readonly rows: number
  readonly bytes: number
  /** No line in it has more bytes. */
  readonly longest: number
}

/** How far a cursor column was read. */
export type Position = string | number | bigint | Date

/** A step of the cursor, made durable together with the rows it stands for. */
export interface CursorStep {
  readonly position: Position
  /** Rows staged from the window that the next read covers again: hash, cursor value (null: rejected for that), count. */
  readonly seen: readonly (readonly [hash: string, at: Position | null, count: number])[]
  /** The start of that window: rows seen before it will not come again. */
  readonly windowStart: Position
}

/** The plan whose items are being delivered. In `append` there is none: the stage itself is the plan. */
export interface PlanRow {
  readonly id: number
  readonly file: string
  readonly items: number
  /** The first item that is not carried over from an earlier plan. */
  readonly fresh: number
  /** Staged ordinals below this are in this plan or were planned before. */
  readonly through: number
  readonly counts: PlanCounts
}

/** What a plan says about the rows that its run read, and about those carried over. */
export interface PlanCounts {
  readonly insert: number
  readonly update: number
  /** Its last items. */
  readonly delete: number
  /** Items that are refused without asking the destination. */
  readonly unfit: number
  /** Everything is replaced by its items, by none even. */
  readonly replaces: boolean
  readonly unchanged: number
  /** Refused so often that they wait for a change, or a redrive. */
  readonly waiting: number
  readonly waitingDeletes: number
  readonly superseded: number
  readonly carriedUnchanged: number
  readonly carriedWaiting: number
  readonly carriedSuperseded: number
  /** What its records were made by. */
  readonly version: string
  /** By which the source can tell later whether it is still as this plan saw it. */
  readonly etag?: string | undefined
}

/** A source as it was read, and what records were made by. */
export type SourceAsRead = Pick<PlanCounts, 'version' | 'etag'>

/** A file of keys of which something is known. */
export interface SnapshotFile {
  readonly file: string
  readonly rows: number
}

/** What the destination has acknowledged, per key. */
export interface SnapshotRow {
  /** All keys, as of some time. */
  readonly base: SnapshotFile | undefined
  /** Those of which more was learnt since. */
  readonly recent: SnapshotFile | undefined
}

/** One line of the history. */
export interface RunRow {
  readonly id: string
  readonly startedAt: number
  readonly endedAt: number | undefined
  readonly status: 'running' | 'done' | 'incomplete' | 'failed' | 'killed'
  readonly summary: unknown
}

/** What everybody may look at while a run goes on. */
export interface StatusRow {
  readonly running: boolean
  readonly lastRun: RunRow | undefined
  readonly deadLetters: number
  readonly pending: number
  readonly unknown: number
  readonly cursor: Position | undefined
}

/**
 * Where runs keep what must survive a crash. Every method that changes something returns a promise that resolves when the
 * change is durable; changes become durable in the order of the calls, those made together in one commit.
 */
export interface State {
  /** Takes the sync for a run: one at a time, on any number of processes. @throws AlreadyRunningError */
  open(sync: string, identity: Identity): Promise<SyncState>
  /** The same to look at only: nothing of it is changed. `undefined` when it never ran. */
  look(sync: string, identity: Identity): Promise<SyncState | undefined>
  status(sync: string): Promise<StatusRow | undefined>
  deadLetters(sync: string): AsyncIterable<StoredLetter>
  /** Forgets everything about a sync. @throws AlreadyRunningError */
  reset(sync: string): Promise<void>
  close(): Promise<void>
}

/** What a snapshot and a ledger belong to. Each part is text that may be shown. */
export interface Identity {
  readonly mode: string
  readonly key: string
  readonly match: string
  readonly destination: string
}

/** The state of one sync, held by the one run that has it. */
export interface SyncState {
  /** Where the stage, the plans and the snapshots of this sync are. */
  readonly folder: string
  /** Never the same again after a reset, when ordinals begin anew. */
  readonly nonce: string

  /** The run before this one was killed: what it left, and what it had in mind, are to be finished. */
  readonly interrupted: boolean
  beginRun(id: string): Promise<void>
  /**
   * Ends a run, and in the same commit forgets the reads (oldest first) whose every row is terminal, with the batches that
   * `append` sent of them: a read that is still there has not been told of. Then removes their files.
   */
  endRun(id: string, status: RunRow['status'], summary: unknown, free?: readonly ReadRow[]): Promise<void>

  // reads
  readonly reads: readonly ReadRow[]
  readonly segments: readonly SegmentRow[]
  readonly cursor: Position | undefined
  /** How many rows of each hash were staged from the window that the next read covers again. */
  seen(): ReadonlyMap<string, number>
  /** The ordinal of the next row to be staged. */
  readonly nextOrdinal: number
  /** `sealed`: it counts as read to its end from the first row on, so that it is not continued when it breaks off. */
  beginRead(complete: boolean, state?: 'open' | 'sealed'): Promise<ReadRow>
  /** Goes on with a read that broke off. */
  resumeRead(read: ReadRow): Promise<void>
  beginSegment(read: ReadRow): Promise<SegmentRow>
  /**
   * Rows of a segment are synced up to `bytes`: from now on they are staged, the cursor is theirs, and the dead letters
   * that they were made from count as sent again.
   */
  staged(segment: SegmentRow, cursor: CursorStep | undefined, letters: readonly number[]): Promise<void>
  endRead(read: ReadRow, state: 'sealed' | 'broken', cursor?: CursorStep): Promise<void>
  /** The columns of the source as they were accepted last. */
  readonly columns: KnownColumns | undefined
  saveColumns(columns: KnownColumns): Promise<void>

  // plans
  /** To be awaited before the plan or the snapshot that this run found is read. @throws StateDamagedError */
  intact(): Promise<void>
  readonly plan: PlanRow | undefined
  readonly snapshot: SnapshotRow
  /** The source as it was read last, where every row of it was delivered then, and none is refused or open. */
  readonly delivered: SourceAsRead | undefined
  /** Puts a plan and the snapshot it was made from in place of the old ones, whose open items are thereby superseded. */
  swap(change: {
    readonly plan: Omit<PlanRow, 'id'> | undefined
    readonly snapshot: SnapshotRow
    readonly delivered: SourceAsRead | undefined
    /** Batches of the new plan whose outcome is still open. */
    readonly unknown: readonly LedgerBatch[]
    /** Reads of which no row is needed any more. */
    readonly free: readonly ReadRow[]
    /** Keys whose dead letters are closed. */
    readonly closed: readonly string[]
  }): Promise<void>

  // batches
  /** What was sent, in the order of the calls; to be read at once, before anything else is asked. */
  batches(): Iterable<LedgerBatch>
  /** What became of the ordinals from `from` on and before `to`. */
  tally(from: number, to: number): Tally
  receipts(): Iterable<readonly (readonly [ordinal: number, remoteId: string])[]>
  /** Marks ordinals as sent. Returns when that is durable: only now may the request leave. */
  sent(batch: LedgerBatch): Promise<void>
  settle(batch: LedgerBatch, outcome: Settled): Promise<void>
  /** Nothing of the batch was applied: its ordinals are pending again. */
  release(batch: LedgerBatch): Promise<void>
  unknown(batch: LedgerBatch): Promise<void>
  /** An id for a new batch. */
  newBatch(): number

  /** Keys of open dead letters. */
  openLetters(): ReadonlySet<string>

  close(): Promise<void>
}
