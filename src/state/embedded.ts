import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rm, stat, truncate } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { none, type Tally } from '../account.js'
import type { KnownColumns } from '../columns.js'
import { AlreadyRunningError, ConfigError, StateDamagedError } from '../errors.js'
import { decodeRows, encodeRows, Instant } from '../values.js'
import { Database, explained, isLocked, lock } from './database.js'
import { checkpoint, fingerprint, syncToDisk } from './files.js'
import type {
  CursorStep,
  Identity,
  LedgerBatch,
  PlanRow,
  Position,
  Range,
  ReadRow,
  RunRow,
  SegmentRow,
  Settled,
  SnapshotFile,
  SnapshotRow,
  SourceAsRead,
  State,
  StatusRow,
  StoredLetter,
  SyncState,
} from './state.js'

/** The state in a folder: one SQLite database that decides everything, and the files that it names. */
export async function openEmbedded(folder: string): Promise<State> {
  return new EmbeddedState(await share(resolve(folder)))
}

// Syncs that run side by side in one process share the connection, and so their commits.
const shared = new Map<string, { database: Promise<Database>; users: number }>()

/** The one connection to a folder's database that everybody in this process has, until the last one gives it back. */
export type Shared = { readonly folder: string; readonly database: Database; release(): Promise<void> }

export async function share(folder: string): Promise<Shared> {
  const entry = shared.get(folder) ?? { database: Database.open(folder), users: 0 }
  shared.set(folder, entry)
  entry.users++
  const release = async (): Promise<void> => {
    if (--entry.users > 0) return
    if (shared.get(folder) === entry) shared.delete(folder)
    await (await entry.database).close()
  }
  try {
    return { folder, database: await entry.database, release }
  } catch (error) {
    shared.delete(folder)
    throw error
  }
}

/** How many runs of each sync are remembered. */
const runsKept = 1_000

class EmbeddedState implements State {
  readonly #shared: Shared
  readonly #database: Database

  constructor(shared: Shared) {
    this.#shared = shared
    this.#database = shared.database
  }

  open(name: string, identity: Identity): Promise<SyncState> {
    return this.#holding(name, async (release) => {
      const sync = await this.#sync(name, identity)
      const folder = join(this.#shared.folder, fileName(name))
      if (await mkdir(folder, { recursive: true })) await syncToDisk(this.#shared.folder) // its name
      const state = new EmbeddedSync(this.#database, sync, folder, release)
      await state.recover()
      return state
    })
  }

  look(name: string, identity: Identity): Promise<SyncState | undefined> {
    return this.#holding(name, async (release) => {
      const sync = this.#find(name)
      if (!sync) {
        release()
        return undefined
      }
      this.#refuseOther(name, sync, identity)
      const state = new EmbeddedSync(this.#database, sync, join(this.#shared.folder, fileName(name)), release)
      await state.check()
      return state
    })
  }

  /** Opens a sync under its lock, which is given back when that fails. */
  async #holding<T>(name: string, open: (release: () => void) => Promise<T>): Promise<T> {
    const { release } = await this.#lock(name)
    try {
      return await open(release)
    } catch (error) {
      release()
      throw explained(error, this.#shared.folder)
    }
  }

  async status(name: string): Promise<StatusRow | undefined> {
    const sync = this.#find(name)
    if (!sync) return undefined
    const running = isLocked(this.#lockFile(name))
    const count = (sql: string): number => this.#database.get<{ n: number | null }>(sql, sync.id)?.n ?? 0
    const inBatches = (states: string): number =>
      count(`select sum(rows) as n from batch where sync = ? and state in (${states})`)
    const staged = count('select sum(rows) as n from read where sync = ?')
    const plan = this.#database.get<{ items: number; through: number }>('select * from plan where sync = ?', sync.id)
    const last = this.#database.get<{ first: number; rows: number }>(
      'select first, rows from read where sync = ? order by id desc limit 1',
      sync.id,
    )
    const unplanned = plan && last ? Math.max(0, last.first + last.rows - plan.through) : 0
    const total = plan ? plan.items + unplanned : staged
    const run = this.#database.get<StoredRun>('select * from run where sync = ? order by rowid desc limit 1', sync.id)
    // nobody waits any more for the answers to what a killed run has sent
    const unknown = inBatches(running ? `'unknown'` : `'unknown', 'sent'`)
    return {
      running,
      lastRun: run && runRow(run, running),
      deadLetters: count(`select count(*) as n from dead_letter where sync = ? and state = 'open'`),
      unknown,
      pending: Math.max(0, total - unknown - inBatches(`'settled'`)),
      cursor: sync.cursor === null ? undefined : parsePosition(sync.cursor),
    }
  }

  async *deadLetters(name: string): AsyncIterable<StoredLetter> {
    const sync = this.#find(name)
    if (!sync) return
    // page by page: whoever iterates may take long, and may change the state meanwhile
    for (let last = 0; ; ) {
      const rows = this.#database.all<StoredLetterRow>(
        `select * from dead_letter where sync = ? and state = 'open' and id > ? order by id limit 100`,
        sync.id,
        last,
      )
      if (rows.length === 0) return
      for (const row of rows) yield letterOf(row)
      last = rows.at(-1)!.id
    }
  }

  async reset(name: string): Promise<void> {
    const held = await this.#lock(name)
    try {
      const sync = this.#find(name)
      if (sync) {
        const tables = ['run', 'read', 'segment', 'seen', 'plan', 'snapshot', 'batch', 'dead_letter']
        await this.#database.commit(() => {
          for (const table of tables) this.#database.run(`delete from ${table} where sync = ?`, sync.id)
          this.#database.run('delete from sync where id = ?', sync.id)
        })
      }
      // no webhook keeps its events for it any more, until it is run again
      await this.#database.commit(() => void this.#database.run('delete from hook_reader where sync = ?', name))
      await rm(join(this.#shared.folder, fileName(name)), { recursive: true, force: true })
    } finally {
      held.release()
    }
  }

  async close(): Promise<void> {
    await this.#shared.release()
  }

  #lockFile(name: string): string {
    return join(this.#shared.folder, `${fileName(name)}.lock`)
  }

  async #lock(name: string): Promise<{ release(): void }> {
    // not at the first try: those who look whether a run is under way are in the way for a moment
    for (let tries = 0; tries < 10; tries++) {
      const held = lock(this.#lockFile(name))
      if (held) return held
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    throw new AlreadyRunningError(
      `${name}: another run of this sync is under way (it holds ${this.#lockFile(name)}); wait for it to end, or stop it`,
    )
  }

  #find(name: string): StoredSync | undefined {
    return this.#database.get<StoredSync>('select * from sync where name = ?', name)
  }

  /** The sync's row, made when missing; refuses when what earlier runs left belongs to something else. */
  async #sync(name: string, identity: Identity): Promise<StoredSync> {
    const text = JSON.stringify(identity)
    const known = this.#find(name)
    if (!known) {
      await this.#database.commit(() =>
        this.#database.run('insert into sync (name, nonce, identity) values (?, ?, ?)', name, randomUUID(), text),
      )
      return this.#find(name)!
    }
    this.#refuseOther(name, known, identity)
    await this.#database.commit(() =>
      this.#database.run(
        'update sync set delivered = case identity when ?1 then delivered end, identity = ?1, epoch = epoch + 1 where id = ?2',
        text,
        known.id,
      ),
    )
    return this.#find(name)!
  }

  /** What earlier runs left may belong to something else. */
  #refuseOther(name: string, known: StoredSync, identity: Identity): void {
    if (known.identity === JSON.stringify(identity)) return
    const rows = ['snapshot', 'plan', 'batch', 'read'].map((table) =>
      this.#database.get(`select 1 from ${table} where sync = ? limit 1`, known.id),
    )
    if (known.cursor === null && rows.every((row) => row === undefined)) return
    const before = JSON.parse(known.identity) as Identity
    const changed = (Object.keys(identity) as (keyof Identity)[]).filter((part) => before[part] !== identity[part])
    const list = changed.map((part) => `${part} was ${before[part]} and is ${identity[part]}`).join('; ')
    throw new ConfigError(
      `${name}: its state belongs to another set-up: ${list}. Nothing was sent. Give the sync another name, or forget what was delivered with sync.reset() or \`spillway reset ${name}\``,
    )
  }
}

class EmbeddedSync implements SyncState {
  readonly folder: string
  readonly nonce: string
  readonly #database: Database
  readonly #release: () => void
  readonly #sync: number
  #reads: ReadRow[]
  #segments: SegmentRow[]
  #nextOrdinal: number
  #serial: number
  #nextBatch: number
  /** What batches covered when they were marked as sent, as long as nothing else was recorded of them. */
  readonly #asSent = new Map<number, readonly Range[]>()
  #interrupted = false
  #cursor: Position | undefined
  #columns: KnownColumns | undefined
  #plan: (PlanRow & Filed) | undefined
  #snapshot: { readonly base: FiledSnapshot | undefined; readonly recent: FiledSnapshot | undefined }
  #delivered: SourceAsRead | undefined
  #intact: Promise<void> | undefined

  constructor(database: Database, sync: StoredSync, folder: string, release: () => void) {
    this.folder = folder
    this.nonce = sync.nonce
    this.#database = database
    this.#release = release
    this.#sync = sync.id
    this.#nextOrdinal = sync.next_ordinal
    this.#serial = sync.serial
    this.#cursor = sync.cursor === null ? undefined : parsePosition(sync.cursor)
    this.#columns = sync.columns === null ? undefined : (JSON.parse(sync.columns) as KnownColumns)
    this.#reads = database
      .all<Omit<ReadRow, 'complete'> & { complete: number }>(
        'select id, state, complete, first, rows from read where sync = ? order by id',
        sync.id,
      )
      .map((read) => ({ ...read, complete: read.complete === 1 }))
    this.#segments = database.all<SegmentRow>(
      'select id, read, file, first, rows, bytes, longest from segment where sync = ? order by id',
      sync.id,
    )
    const plan = database.get<Omit<PlanRow, 'counts'> & Filed & { counts: string }>(
      'select * from plan where sync = ?',
      sync.id,
    )
    this.#plan = plan && { ...plan, counts: JSON.parse(plan.counts) as PlanRow['counts'] }
    const part = (name: string): FiledSnapshot | undefined =>
      database.get<FiledSnapshot>('select * from snapshot where sync = ? and part = ?', sync.id, name)
    this.#snapshot = { base: part('base'), recent: part('recent') }
    this.#delivered = sync.delivered === null ? undefined : (JSON.parse(sync.delivered) as SourceAsRead)
    this.#nextBatch =
      (database.get<{ n: number | null }>('select max(id) as n from batch where sync = ?', sync.id)?.n ?? 0) + 1
  }

  /** Holds the files against the database: refuses what is missing, or shorter or longer than it was. */
  async check(): Promise<void> {
    for (const { file, bytes, rows } of this.#segments) {
      const path = join(this.folder, file)
      const size = existsSync(path) ? (await stat(path)).size : 0
      if (size < bytes) throw this.#damaged(path, `holds ${size} of ${bytes} bytes (${rows} staged rows)`)
    }
    for (const { path, bytes } of this.#filed()) {
      if (!existsSync(path)) throw this.#damaged(path, 'is missing')
      if ((await stat(path)).size !== bytes) throw this.#damaged(path, 'is not what was written')
    }
  }

  intact(): Promise<void> {
    this.#intact ??= this.#digest()
    return this.#intact
  }

  async #digest(): Promise<void> {
    for (const { path, digest } of this.#filed()) {
      if ((await fingerprint(path)).digest !== digest) throw this.#damaged(path, 'is not what was written')
    }
  }

  /** The plan and the snapshot, as files. */
  #filed(): readonly (Filed & { readonly path: string })[] {
    const { base, recent } = this.#snapshot
    return [this.#plan, base, recent].flatMap((one) => (one ? { ...one, path: join(this.folder, one.file) } : []))
  }

  /** Brings what a killed run left in order: cuts tails, deletes files that are not named, and what was sent is unknown. */
  async recover(): Promise<void> {
    await this.check()
    for (const { file, bytes } of this.#segments) await truncate(join(this.folder, file), bytes)
    const { base, recent } = this.#snapshot
    const named = new Set([...this.#segments, this.#plan, base, recent].map((filed) => filed?.file))
    for (const file of await readdir(this.folder)) {
      if (!named.has(file)) await rm(join(this.folder, file), { recursive: true, force: true })
    }
    const count = (sql: string): number => this.#database.get<{ n: number }>(sql, this.#sync)!.n
    const lost = count(`select count(*) as n from batch where sync = ? and state = 'sent'`)
    const latest = this.#database.get<{ status: string }>(
      'select status from run where sync = ? order by rowid desc limit 1',
      this.#sync,
    )
    // killed: as found by a run that was itself killed before it had begun
    this.#interrupted = latest?.status === 'running' || latest?.status === 'killed'
    await this.#database.commit(() => {
      this.#database.run(
        `update run set status = 'killed', ended_at = ? where sync = ? and status = 'running'`,
        Date.now(),
        this.#sync,
      )
      this.#database.run(`update read set state = 'broken' where sync = ? and state = 'open'`, this.#sync)
      // each run counts what it sends again itself: one that was killed told nobody
      this.#database.run('update batch set resent = 0 where sync = ? and resent = 1', this.#sync)
      if (lost > 0) {
        this.#database.run(
          `update batch set state = 'unknown', doubt = 1 where sync = ? and state = 'sent'`,
          this.#sync,
        )
      }
    })
    this.#reads = this.#reads.map((read) => (read.state === 'open' ? { ...read, state: 'broken' } : read))
  }

  // ---- runs

  get interrupted(): boolean {
    return this.#interrupted
  }

  async beginRun(id: string): Promise<void> {
    await this.#database.commit(() =>
      this.#database.run(
        `insert into run (sync, id, started_at, status) values (?, ?, ?, 'running')`,
        this.#sync,
        id,
        Date.now(),
      ),
    )
  }

  async endRun(id: string, status: RunRow['status'], summary: unknown, free: readonly ReadRow[] = []): Promise<void> {
    const freeBelow = this.#reads[free.length]?.first ?? this.#nextOrdinal
    await this.#database.commit(() => {
      this.#database.run(
        'update run set ended_at = ?, status = ?, summary = ? where sync = ? and id = ?',
        Date.now(),
        status,
        JSON.stringify(summary),
        this.#sync,
        id,
      )
      // a sync that is started runs as long as its process
      this.#database.run(
        'delete from run where rowid <= (select rowid from run where sync = ?1 order by rowid desc limit 1 offset ?2) and sync = ?1',
        this.#sync,
        runsKept,
      )
      if (free.length === 0) return
      this.#forgetReads(free)
      this.#database.run('delete from batch where sync = ? and past <= ?', this.#sync, freeBelow)
    })
    await this.#removeSegments(free)
  }

  // ---- reads

  get reads(): readonly ReadRow[] {
    return this.#reads
  }

  get segments(): readonly SegmentRow[] {
    return this.#segments
  }

  get cursor(): Position | undefined {
    return this.#cursor
  }

  get nextOrdinal(): number {
    return this.#nextOrdinal
  }

  seen(): ReadonlyMap<string, number> {
    const rows = this.#database.all<{ hash: string; count: number }>(
      'select hash, count from seen where sync = ?',
      this.#sync,
    )
    return new Map(rows.map(({ hash, count }) => [hash, count]))
  }

  async beginRead(complete: boolean, state: 'open' | 'sealed' = 'open'): Promise<ReadRow> {
    const read: ReadRow = { id: this.#takeSerial(), state, complete, first: this.#nextOrdinal, rows: 0 }
    await this.#database.commit(() => {
      this.#saveSerial()
      this.#database.run(
        'insert into read (sync, id, state, complete, first, rows) values (?, ?, ?, ?, ?, 0)',
        this.#sync,
        read.id,
        state,
        complete ? 1 : 0,
        read.first,
      )
    })
    this.#reads.push(read)
    return read
  }

  async resumeRead(read: ReadRow): Promise<void> {
    await this.#database.commit(() =>
      this.#database.run(`update read set state = 'open' where sync = ? and id = ?`, this.#sync, read.id),
    )
    this.#replaceRead({ ...read, state: 'open' })
  }

  async beginSegment(read: ReadRow): Promise<SegmentRow> {
    const id = this.#takeSerial()
    const segment: SegmentRow = {
      id,
      read: read.id,
      file: `stage-${id}.rows`,
      first: this.#nextOrdinal,
      rows: 0,
      bytes: 0,
      longest: 0,
    }
    this.#segments.push(segment)
    return segment
  }

  async staged(segment: SegmentRow, cursor: CursorStep | undefined, letters: readonly number[]): Promise<void> {
    const before = this.#segments.find(({ id }) => id === segment.id)!
    const added = segment.rows - before.rows
    await this.#database.commit(() => {
      this.#saveSerial()
      this.#database.run(
        `insert into segment (sync, id, read, file, first, rows, bytes, longest) values (?, ?, ?, ?, ?, ?, ?, ?)
         on conflict do update set rows = excluded.rows, bytes = excluded.bytes, longest = excluded.longest`,
        this.#sync,
        segment.id,
        segment.read,
        segment.file,
        segment.first,
        segment.rows,
        segment.bytes,
        segment.longest,
      )
      this.#database.run('update read set rows = rows + ? where sync = ? and id = ?', added, this.#sync, segment.read)
      this.#database.run('update sync set next_ordinal = next_ordinal + ? where id = ?', added, this.#sync)
      this.#saveCursor(cursor)
      for (const id of letters) {
        this.#database.run(`update dead_letter set state = 'redriven' where sync = ? and id = ?`, this.#sync, id)
      }
    })
    this.#segments = this.#segments.map((one) => (one.id === segment.id ? segment : one))
    const read = this.#reads.find(({ id }) => id === segment.read)!
    this.#replaceRead({ ...read, rows: read.rows + added })
    this.#nextOrdinal += added
    if (cursor) this.#cursor = cursor.position
  }

  async endRead(read: ReadRow, state: 'sealed' | 'broken', cursor?: CursorStep): Promise<void> {
    await this.#database.commit(() => {
      this.#database.run('update read set state = ? where sync = ? and id = ?', state, this.#sync, read.id)
      this.#saveCursor(cursor)
    })
    this.#replaceRead({ ...this.#reads.find(({ id }) => id === read.id)!, state })
    if (cursor) this.#cursor = cursor.position
  }

  get columns(): KnownColumns | undefined {
    return this.#columns
  }

  async saveColumns(columns: KnownColumns): Promise<void> {
    await this.#database.commit(() =>
      this.#database.run('update sync set columns = ? where id = ?', JSON.stringify(columns), this.#sync),
    )
    this.#columns = columns
  }

  #forgetReads(reads: readonly ReadRow[]): void {
    for (const { id } of reads) {
      this.#database.run('delete from read where sync = ? and id = ?', this.#sync, id)
      this.#database.run('delete from segment where sync = ? and read = ?', this.#sync, id)
    }
  }

  /** The database names them no more. */
  async #removeSegments(reads: readonly ReadRow[]): Promise<void> {
    const gone = new Set(reads.map(({ id }) => id))
    const segments = this.#segments.filter(({ read }) => gone.has(read))
    this.#reads = this.#reads.filter(({ id }) => !gone.has(id))
    this.#segments = this.#segments.filter(({ read }) => !gone.has(read))
    checkpoint('before unlink')
    for (const { file } of segments) await rm(join(this.folder, file), { force: true })
  }

  // ---- plans

  get plan(): PlanRow | undefined {
    return this.#plan
  }

  get snapshot(): SnapshotRow {
    return this.#snapshot
  }

  get delivered(): SourceAsRead | undefined {
    return this.#delivered
  }

  async swap(change: Parameters<SyncState['swap']>[0]): Promise<void> {
    const known = [this.#snapshot.base, this.#snapshot.recent]
    const filed = async <T extends { readonly file: string }>(row: T): Promise<T & Filed> => ({
      ...row,
      ...(await fingerprint(join(this.folder, row.file))),
    })
    // a file that stays was written once, and is not read again to be known again
    const kept = async (part: SnapshotFile | undefined): Promise<FiledSnapshot | undefined> =>
      part && (known.find((one) => one?.file === part.file) ?? filed(part))
    const old = [this.#plan, ...known]
    const plan = change.plan && (await filed({ ...change.plan, id: this.#takeSerial() }))
    const snapshot = { base: await kept(change.snapshot.base), recent: await kept(change.snapshot.recent) }
    const delivered = change.delivered ? JSON.stringify(change.delivered) : null
    await this.#database.commit(() => {
      this.#saveSerial()
      this.#database.run('update sync set delivered = ? where id = ?', delivered, this.#sync)
      for (const table of ['batch', 'plan', 'snapshot'])
        this.#database.run(`delete from ${table} where sync = ?`, this.#sync)
      if (plan) {
        this.#database.run(
          'insert into plan (sync, id, file, bytes, digest, items, fresh, through, counts) values (?, ?, ?, ?, ?, ?, ?, ?, ?)',
          this.#sync,
          plan.id,
          plan.file,
          plan.bytes,
          plan.digest,
          plan.items,
          plan.fresh,
          plan.through,
          JSON.stringify(plan.counts),
        )
      }
      for (const part of ['base', 'recent'] as const) {
        const file = snapshot[part]
        if (!file) continue
        this.#database.run(
          'insert into snapshot (sync, part, file, bytes, digest, rows) values (?, ?, ?, ?, ?, ?)',
          this.#sync,
          part,
          file.file,
          file.bytes,
          file.digest,
          file.rows,
        )
      }
      for (const batch of change.unknown) this.#saveBatch(batch)
      for (const key of change.closed) this.#closeLetters(key)
      this.#forgetReads(change.free)
    })
    this.#plan = plan
    this.#snapshot = snapshot
    this.#delivered = change.delivered
    await this.#removeSegments(change.free)
    const named = new Set([plan, snapshot.base, snapshot.recent].map((one) => one?.file))
    for (const one of old) if (one && !named.has(one.file)) await rm(join(this.folder, one.file), { force: true })
  }

  // ---- batches

  newBatch(): number {
    return this.#nextBatch++
  }

  *batches(): Iterable<LedgerBatch> {
    const stored = this.#database.iterate<StoredBatch>('select * from batch where sync = ? order by id', this.#sync)
    for (const batch of stored) yield batchOf(batch)
  }

  tally(from: number, to: number): Tally {
    if (from >= to) return none
    let { delivered, rejected, unknown, resent } = none
    const add = (state: string, isResent: number, rows: number, refused: number): void => {
      if (state === 'unknown') unknown += rows
      if (state === 'settled') {
        rejected += refused
        delivered += rows - refused
      }
      if (isResent === 1) resent += rows
    }
    const within = this.#database.all<{ state: string; resent: number; rows: number; rejected: number | null }>(
      `select state, resent, sum(rows) as rows, sum(json_array_length(rejected)) as rejected from batch
       where sync = ? and first >= ? and past <= ? group by state, resent`,
      this.#sync,
      from,
      to,
    )
    for (const group of within) add(group.state, group.resent, group.rows, group.rejected ?? 0)
    // of batches that go beyond, only those ordinals count
    const cut = this.#database.all<StoredBatch>(
      'select * from batch where sync = ?1 and first < ?3 and past > ?2 and (first < ?2 or past > ?3)',
      this.#sync,
      from,
      to,
    )
    for (const batch of cut) {
      const { ranges, rejected: refused } = batchOf(batch)
      const rows = ranges.map(([first, count]) => Math.min(to, first + count) - Math.max(from, first))
      add(
        batch.state,
        batch.resent,
        rows.reduce((sum, count) => sum + Math.max(0, count), 0),
        refused.filter((ordinal) => ordinal >= from && ordinal < to).length,
      )
    }
    return { delivered, rejected, unknown, resent, pending: to - from - delivered - rejected - unknown }
  }

  *receipts(): Iterable<readonly (readonly [number, string])[]> {
    const rows = this.#database.iterate<{ receipts: string }>(
      'select receipts from batch where sync = ? and receipts is not null order by id',
      this.#sync,
    )
    for (const { receipts } of rows) yield JSON.parse(receipts) as [number, string][]
  }

  sent(batch: LedgerBatch): Promise<void> {
    this.#asSent.set(batch.id, batch.ranges)
    return this.#database.commit(() => this.#saveBatch(batch))
  }

  settle(batch: LedgerBatch, { rejected, receipts, deliveredKeys }: Settled): Promise<void> {
    // nearly every batch is settled just as it was sent, and then there is little to write
    const asSent = this.#asSent.get(batch.id) === batch.ranges
    this.#asSent.delete(batch.id)
    return this.#database.commit(() => {
      if (asSent) {
        this.#database.run(
          `update batch set state = 'settled', rejected = ?, remembered = null where sync = ? and id = ?`,
          batch.rejected.length === 0 ? null : JSON.stringify(batch.rejected),
          this.#sync,
          batch.id,
        )
      } else this.#saveBatch(batch)
      if (receipts.length > 0) {
        this.#database.run(
          'update batch set receipts = ? where sync = ? and id = ?',
          JSON.stringify(receipts),
          this.#sync,
          batch.id,
        )
      }
      for (const key of deliveredKeys) this.#closeLetters(key)
      for (const letter of rejected) {
        if (letter.key !== undefined) this.#closeLetters(letter.key)
        this.#database.run(
          'insert into dead_letter (sync, ordinal, key, row, record, operation, reason, attempts, at) values (?, ?, ?, ?, ?, ?, ?, ?, ?)',
          this.#sync,
          letter.ordinal,
          letter.key ?? null,
          text(letter.row),
          letter.record === undefined ? null : text(letter.record),
          letter.operation,
          letter.reason,
          letter.attempts,
          Date.now(),
        )
      }
    }, true)
  }

  release(batch: LedgerBatch): Promise<void> {
    this.#asSent.delete(batch.id)
    return this.#database.commit(
      () => this.#database.run('delete from batch where sync = ? and id = ?', this.#sync, batch.id),
      true,
    )
  }

  unknown(batch: LedgerBatch): Promise<void> {
    this.#asSent.delete(batch.id)
    return this.#database.commit(() => this.#saveBatch(batch), true)
  }

  openLetters(): ReadonlySet<string> {
    const rows = this.#database.all<{ key: string }>(
      `select key from dead_letter where sync = ? and state = 'open' and key is not null`,
      this.#sync,
    )
    return new Set(rows.map(({ key }) => key))
  }

  async close(): Promise<void> {
    this.#release()
  }

  #saveBatch(batch: LedgerBatch): void {
    this.#database.run(
      `insert into batch (sync, id, operation, ranges, first, past, rows, state, attempt, doubt, idempotency_key, digest, sent_at,
         first_sent_at, rejected, resumed, resent, remembered)
       values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
       on conflict do update set ranges = excluded.ranges, first = excluded.first, past = excluded.past, rows = excluded.rows, state = excluded.state, attempt = excluded.attempt,
         doubt = excluded.doubt, idempotency_key = excluded.idempotency_key, digest = excluded.digest, sent_at = excluded.sent_at,
         first_sent_at = excluded.first_sent_at,
         rejected = excluded.rejected, resent = excluded.resent, remembered = excluded.remembered`,
      this.#sync,
      batch.id,
      batch.operation,
      JSON.stringify(batch.ranges),
      batch.ranges.reduce((least, [first]) => Math.min(least, first), batch.ranges[0]?.[0] ?? 0),
      batch.ranges.reduce((past, [first, count]) => Math.max(past, first + count), 0),
      batch.ranges.reduce((sum, [, count]) => sum + count, 0),
      batch.state,
      batch.attempt,
      batch.doubt ? 1 : 0,
      batch.idempotencyKey,
      batch.digest ?? null,
      batch.sentAt,
      batch.firstSentAt,
      batch.rejected.length === 0 ? null : JSON.stringify(batch.rejected),
      batch.resumed ? 1 : 0,
      batch.resent ? 1 : 0,
      batch.remembered ?? null,
    )
  }

  #closeLetters(key: string): void {
    this.#database.run(
      `update dead_letter set state = 'closed' where sync = ? and key = ? and state = 'open'`,
      this.#sync,
      key,
    )
  }

  #saveCursor(step: CursorStep | undefined): void {
    if (!step) return
    this.#database.run('update sync set cursor = ? where id = ?', text({ position: step.position }), this.#sync)
    this.#database.run('delete from seen where sync = ? and at < ?', this.#sync, sortable(step.windowStart))
    for (const [hash, at, count] of step.seen) {
      this.#database.run(
        'insert into seen (sync, hash, at, count) values (?, ?, ?, ?) on conflict do update set count = count + excluded.count',
        this.#sync,
        hash,
        sortable(at),
        count,
      )
    }
  }

  #takeSerial(): number {
    return ++this.#serial
  }

  #saveSerial(): void {
    this.#database.run('update sync set serial = ? where id = ?', this.#serial, this.#sync)
  }

  #replaceRead(read: ReadRow): void {
    this.#reads = this.#reads.map((one) => (one.id === read.id ? read : one))
  }

  #damaged(path: string, problem: string): StateDamagedError {
    return new StateDamagedError(
      `state: ${path} ${problem}; nothing was sent. Restore the state folder, or forget this sync with \`spillway reset\``,
    )
  }
}

// ---- as stored -----------------------------------------------------------------------------------------------------

type Filed = { readonly bytes: number; readonly digest: string }
type FiledSnapshot = SnapshotFile & Filed
type StoredSync = {
  id: number
  nonce: string
  next_ordinal: number
  serial: number
  identity: string
  cursor: string | null
  columns: string | null
  delivered: string | null
}
type StoredRun = { id: string; started_at: number; ended_at: number | null; status: string; summary: string | null }
type StoredBatch = {
  id: number
  operation: string
  ranges: string
  state: string
  attempt: number
  doubt: number
  idempotency_key: string
  digest: string | null
  sent_at: number
  first_sent_at: number
  rejected: string | null
  resumed: number
  resent: number
  remembered: string | null
}
type StoredLetterRow = {
  id: number
  ordinal: number
  key: string | null
  row: string
  record: string | null
  operation: string
  reason: string
  attempts: number
  at: number
}

function batchOf(row: StoredBatch): LedgerBatch {
  return {
    id: row.id,
    operation: row.operation as LedgerBatch['operation'],
    ranges: JSON.parse(row.ranges) as Range[],
    state: row.state as LedgerBatch['state'],
    attempt: row.attempt,
    doubt: row.doubt === 1,
    idempotencyKey: row.idempotency_key,
    digest: row.digest ?? undefined,
    sentAt: row.sent_at,
    firstSentAt: row.first_sent_at,
    rejected: row.rejected === null ? [] : (JSON.parse(row.rejected) as number[]),
    resumed: row.resumed === 1,
    resent: row.resent === 1,
    remembered: row.remembered ?? undefined,
  }
}

function letterOf(row: StoredLetterRow): StoredLetter {
  return {
    id: row.id,
    ordinal: row.ordinal,
    key: row.key ?? undefined,
    row: parse(row.row),
    record: row.record === null ? undefined : parse(row.record),
    operation: row.operation as StoredLetter['operation'],
    reason: row.reason,
    attempts: row.attempts,
    at: row.at,
  }
}

function runRow(run: StoredRun, running: boolean): RunRow {
  return {
    id: run.id,
    startedAt: run.started_at,
    endedAt: run.ended_at ?? undefined,
    // nobody holds the lock and nobody wrote an end
    status: run.status === 'running' && !running ? 'killed' : (run.status as RunRow['status']),
    summary: run.summary === null ? undefined : JSON.parse(run.summary),
  }
}

/** One row as text that keeps every kind of value. */
function text(row: object): string {
  const encoded = encodeRows([row])
  return JSON.stringify([encoded.tagged, encoded.text])
}

function parse(stored: string): Record<string, unknown> {
  const [tagged, encoded] = JSON.parse(stored) as [boolean, string]
  return decodeRows(encoded, tagged)[0]!
}

/** A cursor value as the database holds it. */
export function parsePosition(stored: string): Position {
  return parse(stored)['position'] as Position
}

/** A cursor value in a form that SQLite orders as the source does, within one kind of value. */
function sortable(value: Position | null): string | number | bigint | null {
  return value instanceof Date ? Instant.micros(value) : value
}

/** A sync's name as the name of a file, on any file system. */
function fileName(name: string): string {
  return encodeURIComponent(name).replace(/[.*]/g, (character) => `%${character.charCodeAt(0).toString(16)}`)
}
