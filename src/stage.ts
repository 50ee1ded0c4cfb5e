import { createHash, hash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { SourceError, StateDamagedError } from './errors.js'
import { explained } from './state/database.js'
import { checkpoint, syncToDisk } from './state/files.js'
import type { CursorStep, ReadRow, SegmentRow, SyncState } from './state/state.js'
import { type AnyRow, decodeRows, encodeRows, losslessText, RowError } from './values.js'

// A segment is a sequence of frames; a frame is a header and a JSON array of rows:
//   payload bytes (u32) · rows (u32) · CRC-32 of the payload (u32) · flags (u32; bit 0: rows hold tagged values)
const headerBytes = 16
const taggedFlag = 1

/** Rows in one frame, so that a batch is cut from few of them. */
const frameRows = 1_000
/** Bytes synced together: enough to make the cost of a sync small, few enough to hold in memory. */
const groupBytes = 1 << 20
/** Bytes read together, at least: several frames, so that most batches are cut without asking the disk. */
const windowBytes = 1 << 20
/** Bytes after which a new segment begins, so that room is freed piece by piece. */
const segmentBytes = 1 << 28

/** Consecutive staged rows. */
export interface Chunk {
  readonly first: number
  readonly rows: readonly AnyRow[]
}

/**
 * Makes the rows of a read durable, in groups. Rows count as staged once the state has committed the length of the segment
 * that holds them, together with the cursor.
 */
export class StageWriter {
  readonly #state: SyncState
  readonly #where: string
  readonly #grown: () => void
  readonly #read: ReadRow
  #segment: SegmentRow | undefined
  #file: FileHandle | undefined
  /** Rows not yet in a frame, frames not yet written. */
  #loose: readonly object[] = []
  #frames: Buffer[] = []
  #bytes = 0
  #rows = 0
  #step: CursorStep | undefined
  #letters: number[] = []
  /** Rows encoded so far, in this read and before it broke off. */
  #total: number
  #writing: Promise<void> = Promise.resolve()

  /** `grown` is called whenever more rows are staged; `where` names the sync in errors. */
  constructor(state: SyncState, read: ReadRow, where: string, grown: () => void) {
    this.#state = state
    this.#read = read
    this.#where = where
    this.#grown = grown
    this.#total = read.rows
  }

  /**
   * Takes rows; waits only while the disk does not keep up. `step` is where the cursor stands after these rows, `letters`
   * the dead letters that they replace.
   */
  async add(rows: readonly object[], step?: CursorStep, letters: readonly number[] = []): Promise<void> {
    this.#loose = this.#loose.length === 0 && rows.length >= frameRows ? rows : [...this.#loose, ...rows]
    this.#letters.push(...letters)
    if (step) this.#step = this.#step ? { ...step, seen: [...this.#step.seen, ...step.seen] } : step
    if (this.#loose.length >= frameRows) this.#encode()
    if (this.#bytes >= groupBytes) await this.flush()
  }

  /** Makes durable what was taken: begins at once, waits only for the group before. */
  async flush(): Promise<void> {
    this.#encode()
    await this.#writing
    if (this.#frames.length === 0) return
    const group = {
      frames: this.#frames,
      bytes: this.#bytes,
      rows: this.#rows,
      step: this.#step,
      letters: this.#letters,
    }
    this.#frames = []
    this.#bytes = 0
    this.#rows = 0
    this.#step = undefined
    this.#letters = []
    this.#writing = this.#write(group)
    this.#writing.catch(() => {}) // the next flush, or end(), meets it
  }

  /** Makes everything durable and ends the read. */
  async end(state: 'sealed' | 'broken', step?: CursorStep): Promise<void> {
    try {
      await this.flush()
      await this.#writing
      await this.#state.endRead(this.#read, state, step)
    } finally {
      await this.#file?.close()
      this.#file = undefined
      this.#grown()
    }
  }

  #encode(): void {
    const rows = this.#loose
    if (rows.length === 0) return
    this.#loose = []
    const { text, tagged } = encode(rows, this.#where, this.#total)
    const payload = Buffer.from(text)
    const header = Buffer.allocUnsafe(headerBytes)
    header.writeUInt32LE(payload.length, 0)
    header.writeUInt32LE(rows.length, 4)
    header.writeUInt32LE(crc32(payload), 8)
    header.writeUInt32LE(tagged ? taggedFlag : 0, 12)
    this.#frames.push(header, payload)
    this.#bytes += headerBytes + payload.length
    this.#rows += rows.length
    this.#total += rows.length
  }

  async #write({ frames, bytes, rows, step, letters }: Group): Promise<void> {
    if (!this.#segment || this.#segment.bytes >= segmentBytes) {
      await this.#file?.close()
      this.#segment = await this.#state.beginSegment(this.#read)
      this.#file = await open(join(this.#state.folder, this.#segment.file), 'a')
      await syncToDisk(this.#state.folder) // its name
    }
    try {
      checkpoint('stage write')
      const { bytesWritten } = await this.#file!.writev(frames)
      // a disk that fills up cuts a write short, and only the next one fails
      if (bytesWritten < bytes) await this.#file!.appendFile(Buffer.concat(frames).subarray(bytesWritten))
      checkpoint('stage written')
      await this.#file!.datasync()
    } catch (error) {
      throw explained(error, join(this.#state.folder, this.#segment.file))
    }
    checkpoint('stage synced')
    this.#segment = { ...this.#segment, rows: this.#segment.rows + rows, bytes: this.#segment.bytes + bytes }
    await this.#state.staged(this.#segment, step, letters)
    this.#grown()
  }
}

type Group = {
  readonly frames: Buffer[]
  readonly bytes: number
  readonly rows: number
  readonly step: CursorStep | undefined
  readonly letters: readonly number[]
}

/** Rows as text; an error that names the sync and the row's place in the read. */
function encode(rows: readonly object[], where: string, before: number): { text: string; tagged: boolean } {
  try {
    return encodeRows(rows)
  } catch (error) {
    if (error instanceof RowError) {
      throw new SourceError(
        `${where}: row ${before + error.index + 1} of the source ${error.problem}. Rows before it are kept`,
      )
    }
    throw new SourceError(
      `${where}: rows ${before + 1} to ${before + rows.length} of the source cannot be kept as JSON (${(error as Error).message})`,
      {
        cause: error,
      },
    )
  }
}

/** Reads staged rows back, in order, from an ordinal on. */
export class StageReader {
  readonly #state: SyncState
  readonly #handles = new Map<string, FileHandle>()
  /** Where the frames of a segment begin, as far as it was read, so that no frame is looked for twice. */
  readonly #places = new Map<number, { readonly offset: number; readonly first: number }[]>()
  /** A part of a segment as it is on the disk; its buffer is used again and again. */
  #window: { segment: number; offset: number; bytes: number } | undefined
  #buffer = Buffer.allocUnsafeSlow(windowBytes)
  /** The frame read last: whoever picks rows comes back for more of it. */
  #frame: Chunk = { first: 0, rows: [] }

  constructor(state: SyncState) {
    this.#state = state
  }

  /** The chunk that holds an ordinal, from that ordinal on; `undefined` when it is not staged (yet, or any more). */
  async chunkAt(ordinal: number): Promise<Chunk | undefined> {
    const segment = this.#state.segments.find(({ first, rows }) => ordinal >= first && ordinal < first + rows)
    if (!segment) return undefined
    if (ordinal < this.#frame.first || ordinal >= this.#frame.first + this.#frame.rows.length) {
      this.#frame = await this.#readFrame(segment, ordinal)
    }
    const { first, rows } = this.#frame
    return ordinal === first ? this.#frame : { first: ordinal, rows: rows.slice(ordinal - first) }
  }

  async #readFrame(segment: SegmentRow, ordinal: number): Promise<Chunk> {
    const places = this.#places.get(segment.id) ?? [{ offset: 0, first: segment.first }]
    this.#places.set(segment.id, places)
    for (let place = places.findLast(({ first }) => first <= ordinal)!; ; ) {
      const { offset, first } = place
      const header = await this.#bytes(segment, offset, headerBytes)
      const bytes = header.readUInt32LE(0)
      const rows = header.readUInt32LE(4)
      const digest = header.readUInt32LE(8)
      const tagged = (header.readUInt32LE(12) & taggedFlag) !== 0
      const next = { offset: offset + headerBytes + bytes, first: first + rows }
      if (place === places.at(-1)) places.push(next)
      if (ordinal < next.first) {
        const payload = await this.#bytes(segment, offset + headerBytes, bytes)
        if (crc32(payload) !== digest) throw this.#damaged(segment, offset)
        return { first, rows: decodeRows(payload.toString(), tagged) }
      }
      place = next
    }
  }

  async close(): Promise<void> {
    const handles = [...this.#handles.values()]
    this.#handles.clear()
    for (const handle of handles) await handle.close()
  }

  async #open(segment: SegmentRow): Promise<FileHandle> {
    let handle = this.#handles.get(segment.file)
    if (!handle) {
      await this.close()
      handle = await open(join(this.#state.folder, segment.file), 'r')
      this.#handles.set(segment.file, handle)
    }
    return handle
  }

  /** Some bytes of a segment, until the next call. */
  async #bytes(segment: SegmentRow, offset: number, count: number): Promise<Buffer> {
    if (offset + count > segment.bytes) throw this.#damaged(segment, offset)
    const window = this.#window
    if (window?.segment !== segment.id || offset < window.offset || offset + count > window.offset + window.bytes) {
      const bytes = Math.max(count, Math.min(windowBytes, segment.bytes - offset))
      if (bytes > this.#buffer.length) this.#buffer = Buffer.allocUnsafeSlow(bytes)
      this.#window = undefined
      const file = await this.#open(segment)
      const { bytesRead } = await file.read(this.#buffer, 0, bytes, offset)
      if (bytesRead !== bytes) throw this.#damaged(segment, offset)
      this.#window = { segment: segment.id, offset, bytes }
    }
    const start = offset - this.#window!.offset
    return this.#buffer.subarray(start, start + count)
  }

  #damaged({ file }: SegmentRow, offset: number): StateDamagedError {
    return new StateDamagedError(
      `state: ${join(this.#state.folder, file)} is damaged at byte ${offset}; rows there cannot be read. Restore the state folder, or forget this sync with \`spillway reset\``,
    )
  }
}

/**
 * The digest of a read's first rows, whatever arrays they came in: two readings of one source begin alike when it is the
 * same for both.
 */
export class PrefixDigest {
  readonly #hash = createHash('sha256')

  add(rows: readonly object[]): void {
    if (rows.length > 0) this.#hash.update(`${encodeRows(rows).text.slice(1, -1)},`)
  }

  result(): string {
    return this.#hash.digest('hex')
  }
}

/** 128 bits by which a row is known again in the window that a cursor reads twice. */
export function rowHash(row: AnyRow): string {
  return hash('md5', losslessText(row), 'base64')
}
