import { mkdir } from 'node:fs/promises'
import type { Columns } from './columns.js'
import { redact } from './config.js'
import { Cursor, type CursorOptions } from './cursor.js'
import { ConfigError, SourceError, SpillwayError } from './errors.js'
import type { Log } from './log.js'
import { onAbort } from './pace.js'
import {
  type Bulk,
  type BulkReading,
  Encodable,
  type NotModified,
  type Reading,
  type SourceDefinition,
  sourceHttp,
} from './source.js'
import { type Keyed, PrefixDigest, StageReader, StageWriter } from './stage.js'
import type { CursorStep, ReadRow, StoredLetter, SyncState } from './state/state.js'
import type { AnyRow, Column } from './values.js'
import { messageOf } from './verdict.js'

export interface ReaderOptions {
  /** The sync, for errors. */
  readonly name: string
  readonly source: SourceDefinition
  readonly key: readonly string[] | undefined
  readonly cursor: CursorOptions | undefined
  /** What the source's columns are held against. */
  readonly columns: Columns
  /** Rows are to be compared. */
  readonly compares: boolean
  readonly log: Log
  /** Where rows are staged. */
  readonly state: SyncState
  /** What earlier reads left. */
  readonly earlier: SyncState
  /** Ends the read, which then counts as broken off. */
  readonly stop: AbortSignal
  /** What to do about an earlier read that broke off and cannot be continued. */
  readonly brokenOff: 'from-start' | 'done' | undefined
}

/** How long rows of a slow source wait for others before they are made durable, in milliseconds. */
const patience = 100

/** Ends a reading at once of rows that are not to be taken as they are. */
class NotAsTheyAre extends SpillwayError {}

/** Brings the rows of a source into the stage. One per run. */
export class Reader {
  readonly #options: ReaderOptions
  #columns: readonly Column[] = []
  #whole = false
  #over = false
  #question: string | undefined
  /** Behind what the source gave last, where it has places of its own. */
  #place: string | undefined
  /** Takes what matters of a source that was read at once. */
  #kept: StageWriter | undefined
  #waiting: (() => void)[] = []

  constructor(options: ReaderOptions) {
    this.#options = options
  }

  /** The columns that the source told. */
  get columns(): readonly Column[] {
    return this.#columns
  }

  /** Everything that there is to read is staged. */
  get whole(): boolean {
    return this.#whole
  }

  /** Nothing more comes in this run. */
  get over(): boolean {
    return this.#over
  }

  /** What a person must decide before reading can go on. */
  get question(): string | undefined {
    return this.#question
  }

  /** Reads the source into the stage. `before`: an earlier read, which is continued if it broke off. */
  async read(before: ReadRow | undefined): Promise<void> {
    const { name, source, cursor: follow, columns, state, stop, brokenOff } = this.#options
    let writer: StageWriter | undefined
    let timer: NodeJS.Timeout | undefined
    try {
      const broken = before?.state === 'broken' && before.rows > 0 && brokenOff !== 'from-start' ? before : undefined
      if (broken && brokenOff === 'done') {
        await state.endRead(broken, 'sealed')
        this.#whole = true
        return
      }
      const cursor = follow && (await this.#openCursor(follow))
      const since = source.inbox ? this.#options.earlier.cursor : cursor?.since
      const reading = this.#reading(since)
      // what was staged before, cursors and contracts are held against objects
      const encodable = broken || cursor || this.#keyed || columns.mayDiscard ? undefined : source.encodable?.(reading)
      const rows = broken
        ? await this.#skip(broken, columns.admitted(untilAborted(source.read(reading), stop)))
        : columns.admitted(untilAborted(encodable ?? source.read(reading), stop))
      if (!rows) return
      if (broken) await state.resumeRead(broken)
      const read = broken ?? (await state.beginRead(source.repeatable && !follow && !source.inbox))
      writer = new StageWriter(state, read, name, () => this.#grew(), this.#keyed)
      const open = writer
      // rows of a slow source become durable, and can be delivered, without waiting for a full group
      timer = setInterval(() => open.flush().catch(() => {}), patience) // the next add, or end, meets the error
      let step: CursorStep | undefined
      for await (const batch of rows) {
        if (batch instanceof Encodable) {
          await writer.addEncodable(batch)
          continue
        }
        const fresh = cursor ? cursor.take(batch) : batch
        step = source.inbox ? placeStep(this.#place) : source.ordered ? cursor?.step() : undefined
        await writer.add(fresh, step)
      }
      const whole = !stop.aborted
      if (whole) columns.end()
      // the place behind rows that were told of and did not come does not count
      if (source.inbox) step = whole ? placeStep(this.#place) : step
      else step = whole || source.ordered ? cursor?.step() : undefined
      await writer.end(whole ? 'sealed' : 'broken', step)
      this.#whole = whole
    } catch (error) {
      // the first error counts; a read that could not be ended counts as broken off when the next run starts
      await writer?.end('broken').catch(() => {})
      throw this.#brokenOff(error, 'What it gave before is kept; run again to go on')
    } finally {
      source.pass?.()
      clearInterval(timer)
      this.#over = true
      this.#grew()
    }
  }

  /**
   * Reads the source at once, where it can do that, and the rows are not to be staged before they are compared: those that
   * matter are to be handed to {@link keep} then.
   */
  async readAtOnce(
    how: Pick<BulkReading, 'folder' | 'version' | 'known' | 'etag'>,
  ): Promise<Bulk | NotModified | undefined> {
    const { source, key, cursor, columns, stop, log, name } = this.#options
    if (!source.bulk || !key || cursor) return undefined
    try {
      await mkdir(how.folder, { recursive: true })
      const reading = this.#reading(undefined)
      const describe = (described: readonly Column[]): void => {
        reading.describe(described)
        if (columns.discards) throw new NotAsTheyAre()
      }
      const gather = <T>(bring: (folder: string, signal: AbortSignal) => Promise<T>) => bring(how.folder, stop)
      const bulk = await source.bulk({ ...reading, ...how, describe, key, gather }).catch((error) => {
        if (!(error instanceof NotAsTheyAre)) throw error
        return undefined
      })
      if (bulk) source.pass?.()
      if (!bulk) log.debug(`${name}: ${source.name} is read row by row`)
      this.#whole = bulk !== undefined
      this.#over = this.#whole
      return bulk
    } catch (error) {
      this.#over = true
      if (stop.aborted) return undefined
      throw this.#brokenOff(error, 'Nothing was sent; run again')
    }
  }

  /** Stages rows of a source that was read at once, as lines, until {@link seal}. Answers the ordinal of the first. */
  async keep(lines: readonly string[]): Promise<number> {
    const { state, name } = this.#options
    this.#kept ??= new StageWriter(state, await state.beginRead(true), name, () => this.#grew(), this.#keyed)
    const first = this.#kept.next
    await this.#kept.add(lines)
    return first
  }

  /** Every row that matters is staged. */
  async seal(): Promise<void> {
    await this.#kept?.end('sealed')
  }

  /** Not every row that matters could be staged. */
  async abandon(): Promise<void> {
    await this.#kept?.end('broken').catch(() => {}) // the error that led here is the one to tell
  }

  get #keyed(): Keyed | undefined {
    return this.#options.compares ? { key: this.#options.key } : undefined
  }

  #reading(since: Reading['since']): Reading {
    const { source, cursor, stop: signal, log } = this.#options
    const http = sourceHttp(source, signal)
    return {
      since,
      cursor: cursor?.column,
      signal,
      http,
      log,
      describe: (columns) => this.#describe(columns),
      reaches: (place) => {
        this.#place = place
      },
    }
  }

  #brokenOff(error: unknown, next: string): unknown {
    if (error instanceof SpillwayError) return error
    const { name, source } = this.#options
    return new SourceError(`${name}: the source ${source.name} broke off: ${redact(messageOf(error))}. ${next}`, {
      cause: error,
    })
  }

  #describe(described: readonly Column[]): void {
    const { name, cursor, key, columns } = this.#options
    const known = new Set(described.map((column) => column.name))
    const missing = [...(key ?? []), ...(cursor ? [cursor.column] : [])].find((column) => !known.has(column))
    if (missing !== undefined) {
      throw new ConfigError(`${name}: the source has no column ${missing}; it has ${[...known].join(', ')}`)
    }
    if (cursor && described.some((column) => column.name === cursor.column && column.type === 'decimal')) {
      throw new ConfigError(
        `${name}: the cursor column ${cursor.column} is a decimal, which arrives as text and does not order; cast it to bigint or double precision`,
      )
    }
    columns.describe(described)
    this.#columns = columns.kept(described)
  }

  /** Passes over the rows that a broken-off read had staged; `undefined` when the source begins differently now. */
  async #skip(
    broken: ReadRow,
    everything: AsyncGenerator<readonly object[]>,
  ): Promise<AsyncGenerator<readonly object[]> | undefined> {
    const { source, state, stop } = this.#options
    const before = new PrefixDigest()
    for await (const rows of stagedRows(state, broken)) before.add(rows)
    const now = new PrefixDigest()
    let left = broken.rows
    let rest: readonly object[] = []
    while (left > 0) {
      const next = await everything.next()
      if (next.done) break
      now.add(next.value.slice(0, left))
      rest = next.value.slice(left)
      left -= Math.min(left, next.value.length)
    }
    if (left === 0 && before.result() === now.result()) return preceded(rest, everything)
    await everything.return(undefined)
    if (!stop.aborted) {
      this.#question = `an earlier read of ${source.name} broke off after ${broken.rows} rows, and the source does not begin with them any more: run again with brokenOff 'from-start' (--from-start) to read all of it as new, or 'done' (--done) to take what was read for all there is`
    }
    return undefined
  }

  async #openCursor(options: CursorOptions): Promise<Cursor> {
    const { name, source, earlier: state } = this.#options
    const brokenOff: AnyRow[] = []
    if (!source.ordered) {
      // their rows are staged, but the position stayed where it was: the source gives them again
      for (const read of state.reads) {
        if (read.state !== 'broken' || sealedAfter(state, read)) continue
        for await (const rows of stagedRows(state, read)) brokenOff.push(...rows)
      }
    }
    return new Cursor(options, name, { position: state.cursor, seen: state.seen(), brokenOff })
  }

  /** Dead letters as rows to be delivered anew; from the same commit on they count as sent again. */
  async stageLetters(letters: readonly StoredLetter[]): Promise<void> {
    const { name, state } = this.#options
    // those that are not staged yet when it breaks off are still dead letters
    const read = await state.beginRead(false, 'sealed')
    const writer = new StageWriter(state, read, name, () => this.#grew(), this.#keyed)
    try {
      for (const { row, id } of letters) await writer.add([row], undefined, [id])
      await writer.end('sealed')
      this.#whole = true
    } finally {
      this.#over = true
      this.#grew()
    }
  }

  /** Resolves when more is staged, or nothing more comes. */
  grown(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #grew(): void {
    for (const go of this.#waiting.splice(0)) go()
  }
}

/** Whether a read to the end followed. */
export function sealedAfter({ reads }: SyncState, { id }: ReadRow): boolean {
  return reads.some((read) => read.id > id && read.state === 'sealed')
}

/** A place as a cursor: nothing before it comes again. */
function placeStep(place: string | undefined): CursorStep | undefined {
  return place === undefined ? undefined : { position: place, seen: [], windowStart: place }
}

async function* preceded<T>(first: readonly T[], rest: AsyncIterable<readonly T[]>): AsyncGenerator<readonly T[]> {
  if (first.length > 0) yield first
  yield* rest
}

async function* stagedRows(state: SyncState, { first, rows }: ReadRow): AsyncGenerator<readonly AnyRow[]> {
  const reader = new StageReader(state)
  try {
    for (let ordinal = first; ordinal < first + rows; ) {
      const chunk = await reader.chunkAt(ordinal)
      yield chunk!.rows.slice(0, first + rows - ordinal)
      ordinal += chunk!.rows.length
    }
  } finally {
    await reader.close()
  }
}

/** The same items until the signal aborts, even while the source is silent. */
export async function* untilAborted<T>(items: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  const iterator = items[Symbol.asyncIterator]()
  let stop = (): void => {}
  const ignore = onAbort(signal, () => stop())
  let ended = false
  try {
    while (!signal.aborted) {
      // not Promise.race with one promise for the signal: that would keep every item until the signal aborts
      const next = await new Promise<IteratorResult<T> | undefined>((resolve, reject) => {
        stop = () => resolve(undefined)
        iterator.next().then(resolve, reject)
      })
      if (next === undefined) return
      if (next.done) {
        ended = true
        return
      }
      yield next.value
    }
  } finally {
    ignore()
    // not awaited: a source that ignores its signal would hold the run
    if (!ended) void iterator.return?.()?.catch(() => {})
  }
}
