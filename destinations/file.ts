import { createReadStream } from 'node:fs'
import { type FileHandle, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname, extname, resolve } from 'node:path'
import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  destination,
  FatalError,
  type Rejection,
  RetryableError,
  reject,
} from 'spillway'
import { csvLine, type Format, formats, headerIn } from './tables/formats.js'
import { jsonOf, textOf, Unfit } from './tables/text.js'

/** What {@link file} is told. */
export interface FileOptions {
  /** Relative to the working directory. The file is made when it is missing; its folder must be there. */
  readonly path: string
  /** How rows are written. @default what the path ends with: `.jsonl` (or `.ndjson`), `.csv` or `.parquet` */
  readonly format?: 'jsonl' | 'csv' | 'parquet' | undefined
}

/** Of a Parquet file, which can only be written as a whole. */
export type ParquetOptions =
  | { readonly path: `${string}.parquet`; readonly format?: 'parquet' | undefined }
  | { readonly path: string; readonly format: 'parquet' }

const me = 'file'

/**
 * A file of JSON lines, CSV or Parquet: rows are appended (not to Parquet), or replaced as a whole.
 *
 * **What is guaranteed.** Before a batch is appended, its place is noted in a file beside (`<path>.batches`, the last 100). What a kill
 * left of a batch is cut off before anything else is written, and a batch that is there is not written again: no row is lost or
 * repeated. A replacement is written beside (`<path>.tmp`) and renamed: readers see the old file or the new one. Both are synced
 * to disk before they are answered. One process at a time may write a file.
 *
 * **Values.** JSON lines hold integers with all their digits, decimals and dates as text, bytes as base64, and NaN and infinity as text.
 * CSV (RFC 4180, with a header) holds all values as text, bytes as `\x` and hexadecimal digits, lists and objects as JSON; null is
 * empty, and an empty text is `""`. Parquet has the types of the columns: `DECIMAL(38, 18)` for decimals, a timestamp in UTC for a
 * `Date`, JSON for lists and objects.
 *
 * The columns of a CSV file that is appended to are those of its header, or of the first batch: rows with further fields are rejected.
 * `replace` takes columns whenever they come.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * sync({ name: 'events', from: events, to: file({ path: 'events.jsonl' }), mode: 'append' })
 * ```
 */
export function file(options: ParquetOptions): Destination<AnyRow, 'replace'>
export function file(options: FileOptions): Destination<AnyRow, 'insert' | 'replace'>
export function file({ path, format = formatOf(path) }: FileOptions): Destination<AnyRow, 'insert' | 'replace'> {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) throw new ConfigError(`${me}: path names no file`)
  if (format !== 'jsonl' && format !== 'csv' && format !== 'parquet') {
    throw new ConfigError(`${me}: format must be 'jsonl', 'csv' or 'parquet', or path must end with one of them`)
  }
  const at = resolve(path)
  /** Calls follow one another, whatever `concurrency` says: each counts on the end of the file. */
  let turn: Promise<unknown> = Promise.resolve()
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work)
    turn = mine.catch(() => {}) // the caller, who awaits `mine`, is told
    return mine
  }
  const replace = (batches: AsyncIterable<AnyRow[]>, context: Context) =>
    inTurn(() => replaced(at, batches, formats[format], context))
  const make = destination({
    name: me,
    batchSize: 10_000,
    batchBytes: 64_000_000,
    timeout: '5min', // replace is one call
    settle: '0ms', // what a dead process did not write it will never write
    target: () => ({ path: at, format }),
  })
  if (format === 'parquet') return make({ replace }) as Destination<AnyRow, 'insert' | 'replace'>
  return make({
    insert: (batch, context) => inTurn(() => appended(at, batch, format, context)),
    verify: (batch, context) =>
      inTurn(async () => ((await settled(at)).has(context.idempotencyKey) ? fitting(batch) : [])),
    replace,
  })
}

function formatOf(path: unknown): FileOptions['format'] {
  const end = extname(String(path)).slice(1).toLowerCase()
  return (end === 'ndjson' ? 'jsonl' : end) as FileOptions['format']
}

// ---- appending ---------------------------------------------------------------------------------------------------------

/** Where the rows of a batch stand. */
interface Note {
  readonly key: string
  readonly from: number
  readonly to: number
}

async function appended(
  path: string,
  batch: readonly AnyRow[],
  format: 'jsonl' | 'csv',
  { idempotencyKey: key, table }: Context,
): Promise<Rejection[]> {
  const notes = await settled(path)
  const end = await endOf(path)
  const header = format === 'csv' && end.size > 0 ? await headerOf(path) : undefined
  const columns = header ?? table.columns.map(({ name }) => name)
  const rejected: Rejection[] = []
  const lines: string[] = format === 'csv' && !header ? [csvLine(columns)] : []
  for (const record of batch) {
    try {
      lines.push(format === 'csv' ? csvLine(cellsOf(record, columns)) : `${jsonOf(record)}\n`)
    } catch (error) {
      rejected.push(refusal(record, error))
    }
  }
  if (notes.has(key) || rejected.length === batch.length) return rejected
  const bytes = Buffer.from((end.open ? '\n' : '') + lines.join(''))
  await writeNotes(path, [...notes.values(), { key, from: end.size, to: end.size + bytes.length }])
  const handle = await opened(path, 'a')
  try {
    await handle.appendFile(bytes)
    await handle.datasync()
  } catch (error) {
    await handle.truncate(end.size)
    throw new RetryableError(`${me}: ${path}: ${reasonOf(error)}: nothing of the batch was kept`)
  } finally {
    await handle.close()
  }
  return rejected
}

/** The batches that are in the file. What a kill has left of one is cut off. */
async function settled(path: string): Promise<Map<string, Note>> {
  const notes = await readNotes(path)
  const { size } = await endOf(path)
  const last = notes.at(-1)
  if (last && size < last.to) {
    notes.pop()
    if (size > last.from) await cut(path, last.from)
  }
  // a file that somebody made shorter no longer holds what the notes say
  return new Map(notes.filter(({ to }) => to <= size).map((note) => [note.key, note]))
}

const notesOf = (path: string) => `${path}.batches`

async function readNotes(path: string): Promise<Note[]> {
  const text = await readFile(notesOf(path), 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return '[]'
    throw unusable(path, error)
  })
  return JSON.parse(text)
}

async function writeNotes(path: string, notes: readonly Note[]): Promise<void> {
  const target = notesOf(path)
  await synced(`${target}.tmp`, (handle) => handle.writeFile(JSON.stringify(notes.slice(-100))))
  await rename(`${target}.tmp`, target)
  await syncToDisk(dirname(target))
}

async function cut(path: string, length: number): Promise<void> {
  const handle = await opened(path, 'r+')
  try {
    await handle.truncate(length)
    await handle.datasync()
  } finally {
    await handle.close()
  }
}

/** How long the file is, and whether its last line is open. */
async function endOf(path: string): Promise<{ readonly size: number; readonly open: boolean }> {
  const handle = await open(path, 'r').catch((error) => {
    if (error.code === 'ENOENT') return undefined
    throw unusable(path, error)
  })
  if (!handle) return { size: 0, open: false }
  try {
    const { size } = await handle.stat()
    const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, Math.max(0, size - 1))
    return { size, open: size > 0 && buffer[0] !== 10 }
  } finally {
    await handle.close()
  }
}

function fitting(batch: readonly AnyRow[]): AnyRow[] {
  return batch.filter((record) => {
    try {
      return jsonOf(record)
    } catch {
      return false // it was refused, and is refused again
    }
  })
}

function refusal(record: AnyRow, error: unknown): Rejection {
  if (error instanceof Unfit) return reject(record, `the record ${error.message}`)
  throw error
}

// ---- CSV ---------------------------------------------------------------------------------------------------------------

/** The cells of a record; null where it has nothing. */
function cellsOf(record: AnyRow, columns: readonly string[]): (string | null)[] {
  const further = Object.keys(record).find((field) => record[field] !== undefined && !columns.includes(field))
  if (further !== undefined) {
    throw new Unfit(
      `has a field ${JSON.stringify(further)}, but the file no such column: add it to the file, or use replace`,
    )
  }
  return columns.map((name) => (Object.hasOwn(record, name) ? cellOf(record[name]) : null))
}

const cellOf = (value: unknown) => (value === null || value === undefined ? null : textOf(value))

async function headerOf(path: string): Promise<string[]> {
  let text = ''
  for await (const piece of createReadStream(path, { encoding: 'utf8' })) {
    text += piece
    const header = headerIn(text)
    if (header) return header
  }
  throw new FatalError(`${me}: ${path} has no header line: give it one, or another path`)
}

// ---- replacing ---------------------------------------------------------------------------------------------------------

async function replaced(
  path: string,
  batches: AsyncIterable<AnyRow[]>,
  { line, finish }: Format,
  context: Context,
): Promise<Rejection[]> {
  const rejected: Rejection[] = []
  const columns = new Map<string, number>()
  const lines = finish ? `${path}.rows.tmp` : `${path}.tmp`
  try {
    await synced(lines, async (handle) => {
      for await (const batch of batches) {
        context.signal.throwIfAborted()
        const text = batch.map((record) => {
          try {
            return line(record, columns, context)
          } catch (error) {
            rejected.push(refusal(record, error))
            return ''
          }
        })
        await handle.appendFile(text.join(''))
      }
    })
    if (finish) {
      await finish(lines, `${path}.tmp`, [...columns.keys()], context)
      await syncToDisk(`${path}.tmp`)
    }
    // what they say of the old file must not be believed of the new one
    await rm(notesOf(path), { force: true })
    await rename(`${path}.tmp`, path)
    await syncToDisk(dirname(path))
    return rejected
  } catch (error) {
    throw error instanceof FatalError
      ? error
      : new RetryableError(`${me}: ${path}: ${reasonOf(error)}: the old file is untouched`)
  } finally {
    await rm(`${path}.rows.tmp`, { force: true })
    await rm(`${path}.tmp`, { force: true })
  }
}

// ---- durable files -----------------------------------------------------------------------------------------------------

/** Writes a file that is durable when this resolves. */
async function synced(path: string, write: (handle: FileHandle) => Promise<unknown>): Promise<void> {
  const handle = await opened(path, 'w')
  try {
    await write(handle)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Makes what was written to a file, or the names in a folder, durable. */
async function syncToDisk(path: string): Promise<void> {
  const handle = await open(path, 'r')
  await handle.sync().finally(() => handle.close())
}

async function opened(path: string, flags: string): Promise<FileHandle> {
  return open(path, flags).catch((error) => {
    throw unusable(path, error)
  })
}

function unusable(path: string, error: unknown): FatalError {
  return new FatalError(
    `${me}: ${path} cannot be used (${reasonOf(error)}): check that its folder is there and may be written to`,
  )
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  return code ?? message
}
