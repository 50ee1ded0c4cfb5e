import { createHash, hash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { SourceError, StateDamagedError } from './errors.js'
import type { Encodable } from './source.js'
import { nullMark } from './sources/sql.js'
import { explained } from './state/database.js'
import { checkpoint, syncToDisk } from './state/files.js'
import type { CursorStep, ReadRow, SegmentRow, SyncState } from './state/state.js'
import {
  type AnyRow,
  decodeRows,
  decodeTable,
  decodeTexts,
  encodeRows,
  encodeTable,
  keyOf,
  losslessText,
  RowError,
} from './values.js'

// A segment is a sequence of frames; a frame is a line that says what follows, and its rows:
//   -1 ⇥ rows, bytes, CRC-32 and flags of the payload ⇥
// In `append` the payload is a JSON array: of the columns and values of rows that are alike, of rows where they are not. In the
// keyed modes it is a line for each row, which DuckDB reads without us (see `lineColumns`):
//   ordinal ⇥ canonical text of the key, or \N ⇥ the row's lossless text
const headerBytes = 34
/** Rows hold tagged values. */
const taggedFlag = 1
/** The payload is ASCII, which is read faster than UTF-8 at large. */
const asciiFlag = 2
/** The payload is lines. */
const linesFlag = 4
/** The payload is columns and values. */
const tableFlag = 8

/** What DuckDB finds in a segment of lines; headers have an ordinal of -1. */
export const lineColumns = { n: 'bigint', key: 'varchar', line: 'varchar' }

/** Bytes in one frame, about: V8 makes and frees a string of this length much faster than one of more than 128 kB. */
const frameBytes = 64 * 1024
/** Rows in one frame, at most. */
const frameRows = 1_000
/** Bytes synced together: enough to make the cost of a sync small, few enough to hold in memory; at first less, to begin soon. */
const groupBytes = 1 << 20
const firstGroupBytes = 1 << 16
/** Room for a group and the frame that makes it full. */
const bufferBytes = groupBytes * 2
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
  readonly #keyed: Keyed | undefined
  /** The ordinal of the next row. */
  #next: number
  #segment: SegmentRow | undefined
  #file: FileHandle | undefined
  /** Rows not yet in a frame, frames not yet written. */
  #loose: readonly (object | string)[] = []
  #frameRows = 100
  #frames = Buffer.allocUnsafeSlow(bufferBytes)
  #bytes = 0
  #groupBytes = firstGroupBytes
  /** What is being written, and will be filled when it is. */
  #written = Buffer.allocUnsafeSlow(bufferBytes)
  #rows = 0
  #longest = 0
  #step: CursorStep | undefined
  /** Where the cursor stands after the rows in frames. */
  #framedStep: CursorStep | undefined
  #letters: number[] = []
  /** Rows encoded so far, in this read and before it broke off. */
  #total: number
  #writing: Promise<void> = Promise.resolve()

  /**
   * `grown` is called whenever more rows are staged; `where` names the sync in errors; rows that are to be compared are
   * `keyed`.
   */
  constructor(state: SyncState, read: ReadRow, where: string, grown: () => void, keyed: Keyed | undefined) {
    this.#state = state
    this.#read = read
    this.#where = where
    this.#grown = grown
    this.#keyed = keyed
    this.#next = state.nextOrdinal
    this.#total = read.rows
  }

  /** The ordinal of the row that is added next. */
  get next(): number {
    return this.#next + this.#loose.length
  }

  /**
   * Takes rows, or keyed rows as {@link rowLine} writes them; waits only while the disk does not keep up. `step` is where the cursor stands after these rows, `letters`
   * the dead letters that they replace.
   */
  async add(rows: readonly (object | string)[], step?: CursorStep, letters: readonly number[] = []): Promise<void> {
    this.#loose = this.#loose.length === 0 && rows.length >= this.#frameRows ? rows : [...this.#loose, ...rows]
    this.#letters.push(...letters)
    if (step) this.#step = this.#step ? { ...step, seen: [...this.#step.seen, ...step.seen] } : step
    if (this.#loose.length < this.#frameRows) return
    this.#encode()
    await this.#pass()
  }

  /** The same with rows of a sync that compares nothing and has no cursor. */
  async addEncodable({ length, encode }: Encodable): Promise<void> {
    this.#encode()
    for (let start = 0; start < length; ) {
      const end = Math.min(length, start + this.#frameRows)
      const { text, tagged } = located(() => encode(start, end), this.#where, this.#total, end - start)
      this.#frame(text, tableFlag | (tagged ? taggedFlag : 0), end - start)
      start = end
    }
    await this.#pass()
  }

  /** Gives others their turn, which a source that never waits would keep them from, and the disk what makes a group. */
  async #pass(): Promise<void> {
    await new Promise(setImmediate)
    if (this.#bytes < this.#groupBytes) return
    this.#groupBytes = Math.min(groupBytes, this.#groupBytes * 2)
    await this.flush()
  }

  /** Makes durable what was taken: begins at once, waits only for the group before. */
  async flush(): Promise<void> {
    this.#encode()
    // until no other has begun one meanwhile
    for (let writing: unknown; writing !== this.#writing; await writing) writing = this.#writing
    // rows that came meanwhile: the step and the letters stand for them too
    this.#encode()
    if (this.#bytes === 0) return
    const group = {
      frames: this.#frames.subarray(0, this.#bytes),
      rows: this.#rows,
      longest: this.#longest,
      step: this.#step,
      letters: this.#letters,
    }
    ;[this.#frames, this.#written] = [this.#written, this.#frames]
    this.#bytes = 0
    this.#rows = 0
    this.#longest = 0
    this.#step = undefined
    this.#framedStep = undefined
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
    this.#loose = []
    const before = { bytes: this.#bytes, rows: this.#rows, next: this.#next, total: this.#total }
    try {
      for (let start = 0; start < rows.length; ) {
        const end = Math.min(rows.length, start + this.#frameRows)
        this.#encodeFrame(rows.slice(start, end))
        start = end
      }
    } catch (error) {
      // the cursor must not pass a row that is not kept: it stays where it was, and so do the rows behind it
      if (this.#step !== this.#framedStep) {
        this.#bytes = before.bytes
        this.#rows = before.rows
        this.#next = before.next
        this.#total = before.total
        this.#step = this.#framedStep
      }
      throw error
    }
    this.#framedStep = this.#step
  }

  #encodeFrame(rows: readonly (object | string)[]): void {
    const { text, form } = this.#keyed
      ? { text: this.#lines(rows, this.#keyed), form: linesFlag }
      : located(() => arrayOf(rows as readonly object[]), this.#where, this.#total, rows.length)
    this.#frame(text, form, rows.length)
  }

  #frame(text: string, form: number, rows: number): void {
    this.#makeRoom(text)
    const header = this.#bytes
    const payload = header + headerBytes
    const bytes = this.#frames.write(text, payload)
    this.#bytes = payload + bytes
    const flags = form | (bytes === text.length ? asciiFlag : 0)
    const digest = crc32(this.#frames.subarray(payload, this.#bytes))
    const counts = `${pad(rows, 7)} ${pad(bytes, 10)} ${digest.toString(16).padStart(8, '0')} ${flags.toString(16)}`
    this.#frames.write(`-1\t${counts}\t\n`, header, 'latin1')
    this.#rows += rows
    this.#next += rows
    this.#total += rows
    this.#frameRows = Math.max(1, Math.min(frameRows, Math.floor((frameBytes * rows) / bytes)))
  }

  #lines(rows: readonly (object | string)[], { key }: Keyed): string {
    let text = ''
    for (let index = 0; index < rows.length; index++) {
      const row = rows[index]!
      const own = typeof row === 'string' ? row : this.#rowLine(row, index, key)
      const line = `${this.#next + index}\t${own}\n`
      // in UTF-8, at most three bytes for each of JavaScript's units
      this.#longest = Math.max(this.#longest, line.length * 3)
      text += line
    }
    return text
  }

  #rowLine(row: object, index: number, key: readonly string[] | undefined): string {
    const { text } = located(() => encodeRows([row]), this.#where, this.#total + index, 1)
    return rowLine(key && keyOf(row, key), text.slice(1, -1))
  }

  /** So that a frame with this text fits. */
  #makeRoom(text: string): void {
    const payload = this.#bytes + headerBytes
    // at most three bytes for a UTF-16 unit; to count them takes longer than to write them
    if (payload + text.length * 3 <= this.#frames.length) return
    const needed = payload + Buffer.byteLength(text)
    if (needed <= this.#frames.length) return
    const larger = Buffer.allocUnsafeSlow(needed + bufferBytes)
    this.#frames.copy(larger, 0, 0, this.#bytes)
    this.#frames = larger
  }

  async #write({ frames, rows, longest, step, letters }: Group): Promise<void> {
    if (!this.#segment || this.#segment.bytes >= segmentBytes) {
      await this.#file?.close()
      this.#segment = await this.#state.beginSegment(this.#read)
      this.#file = await open(join(this.#state.folder, this.#segment.file), 'a')
      await syncToDisk(this.#state.folder) // its name
    }
    try {
      checkpoint('stage write')
      // not write(), which a disk that fills up cuts short without an error
      await this.#file!.appendFile(frames)
      checkpoint('stage written')
      await this.#file!.datasync()
    } catch (error) {
      throw explained(error, join(this.#state.folder, this.#segment.file))
    }
    checkpoint('stage synced')
    this.#segment = {
      ...this.#segment,
      rows: this.#segment.rows + rows,
      bytes: this.#segment.bytes + frames.length,
      longest: Math.max(this.#segment.longest, longest),
    }
    await this.#state.staged(this.#segment, step, letters)
    this.#grown()
  }
}

type Group = {
  readonly frames: Buffer
  readonly rows: number
  readonly longest: number
  readonly step: CursorStep | undefined
  readonly letters: readonly number[]
}

/** A keyed row as it is staged, without its ordinal. */
export function rowLine(key: string | null | undefined, text: string): string {
  return `${key ?? nullMark}\t${text}`
}

/** How rows that are to be compared are told apart: by these columns, or by all that they hold. */
export interface Keyed {
  readonly key: readonly string[] | undefined
}

function pad(count: number, digits: number): string {
  return String(count).padStart(digits, '0')
}

/** Rows as they are staged where they are not compared. */
function arrayOf(rows: readonly object[]): { text: string; form: number } {
  const table = encodeTable(rows)
  const { text, tagged } = table ?? encodeRows(rows)
  return { text, form: (table ? tableFlag : 0) | (tagged ? taggedFlag : 0) }
}

/** Rows as text; an error names the sync and the row's place in the read. */
function located<T>(encode: () => T, where: string, before: number, count: number): T {
  try {
    return encode()
  } catch (error) {
    if (error instanceof RowError) {
      throw new SourceError(
        `${where}: row ${before + error.index + 1} of the source ${error.problem}. Rows before it are kept`,
      )
    }
    throw new SourceError(
      `${where}: rows ${before + 1} to ${before + count} of the source cannot be kept as JSON (${(error as Error).message})`,
      {
        cause: error,
      },
    )
  }
}

function decode(text: string, flags: number): AnyRow[] {
  if (flags & linesFlag) return decodeLines(text)
  const tagged = (flags & taggedFlag) !== 0
  return flags & tableFlag ? decodeTable(text, tagged) : decodeRows(text, tagged)
}

function decodeLines(text: string): AnyRow[] {
  const lines = text.split('\n')
  lines.pop() // behind the last line break
  return decodeTexts(lines.map((line) => line.slice(line.indexOf('\t', line.indexOf('\t') + 1) + 1)))
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
      const header = (await this.#bytes(segment, offset, headerBytes)).toString('latin1')
      const found = /^-1\t(\d{7}) (\d{10}) ([0-9a-f]{8}) ([0-9a-f])\t\n$/.exec(header)
      if (!found) throw this.#damaged(segment, offset)
      const [rows, bytes, digest, flags] = [Number(found[1]), Number(found[2]), found[3], Number(`0x${found[4]}`)]
      const next = { offset: offset + headerBytes + bytes, first: first + rows }
      if (place === places.at(-1)) places.push(next)
      if (ordinal < next.first) {
        const payload = await this.#bytes(segment, offset + headerBytes, bytes)
        if (crc32(payload) !== Number.parseInt(digest!, 16)) throw this.#damaged(segment, offset)
        const text = payload.toString(flags & asciiFlag ? 'latin1' : 'utf8')
        return { first, rows: decode(text, flags) }
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
