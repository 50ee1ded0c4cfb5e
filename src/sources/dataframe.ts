import { readFile } from 'node:fs/promises'
import { ConfigError, SourceError } from '../errors.js'
import { createSource, Encodable, type Reading, type Source } from '../source.js'
import { type AnyRow, type Column, type ColumnType, describe, encodeColumns } from '../values.js'
import { type ArrowChunk, type ArrowField, type Cells, converter, inRange } from './arrow-values.js'
import type { Frame, FrameRow } from './dataframe-types.js'
import { shortest } from './exact.js'
import { assembled, blankRow, inOrder } from './sql.js'

export type {
  ArqueroFrame,
  ArrowFrame,
  DanfoFrame,
  Frame,
  FrameColumns,
  FrameRow,
  PolarsFrame,
} from './dataframe-types.js'

const actor = 'dataframe'

/** Rows handed on together. */
const batch = 1_000

/** Rows that polars writes as Arrow at a time. */
const slice = 65_536

/**
 * The rows of a data frame that this process has in memory, or of an Arrow file. It takes
 *
 * - a table or record batch of `apache-arrow`, or a table of `@uwdata/flechette`;
 * - bytes in Arrow's IPC format (a file's or a stream's), or `{ path }` of a file with them, which is read whole; when they are
 *   compressed, flechette must have been given the codec (`setCompressionCodec`);
 * - a frame of `nodejs-polars`, which is read as Arrow, 65,536 rows at a time, because its own values round large integers and cut
 *   microseconds;
 * - a table of `arquero`, filtered and ordered as it is;
 * - a frame like those of Danfo.js: names in `columns`, an array for each row in `values`;
 * - an object of columns, arrays or typed arrays: `{ id: [1, 2], name: ['Ada', 'Grace'] }`.
 *
 * Rows are made 1,000 at a time, and the frame can be read again. Bytes, files and frames of polars need
 * `npm install @uwdata/flechette@2` (2.6.0 on Node 20); nothing else needs a package of its own.
 *
 * **What values become.** Columns of Arrow keep what the frame says. Integers of 64 bits are `bigint`, decimals of any width exact
 * strings, floats numbers (one of 32 bits is the shortest that is the same float: 0.1), a date is `'2026-01-31'`, a time of
 * day `'02:30:00.5'`. A timestamp with a time zone is a `Date` with its microseconds; where it has nanoseconds beyond these, or no
 * `Date` reaches so far, it is a text: `'2026-01-31T02:30:00.123456789Z'`. One without a time zone is `'2026-01-31T02:30:00.123456'`,
 * with all digits. Durations and intervals are texts of ISO 8601 (`'PT90.5S'`, `'P1M2DT3S'`); binary is a `Uint8Array`;
 * dictionaries are decoded; lists are arrays, structs objects, and so are maps (those with keys that are no plain values are arrays
 * of `{ key, value }`); a union is an object with the one member it holds. Values of JavaScript stay what they are, and `undefined` is null.
 *
 * The type of a row is that of the columns, for an object of columns and a table of `apache-arrow` that has its types (which do not
 * tell that a column may hold null). Elsewhere say it: `dataframe<Lead>(frame)`.
 *
 * @example
 * ```ts
 * const scored = dataframe({ id: [1, 2], score: new Float64Array([0.7, 0.4]) })
 * await sync({ name: 'scores', from: scored, to: crm, key: 'id', mode: 'mirror' }).run()
 * ```
 *
 * @throws ConfigError when it is no frame, or columns differ in length; when the sync runs, that a package is missing.
 * @throws SourceError while it is read: the file cannot be opened, is no Arrow data, or has a type that is not known here.
 */
export function dataframe<R extends object = never, F extends Frame = Frame>(
  frame: F,
): Source<[R] extends [never] ? FrameRow<F> : R> {
  const tables = tablesOf(frame)
  return createSource({
    name: actor,
    read: (reading) => read(tables, reading, objects),
    encodable: (reading) => read<AnyRow[] | Encodable>(tables, reading, (table) => encodable(table) ?? objects(table)),
  }) as never
}

/** What `give` makes of the rows from `start` to before `end` of each table. */
async function* read<B>(
  tables: Tables,
  { signal, describe }: Reading,
  give: (table: Table) => (start: number, end: number) => B,
): AsyncGenerator<B> {
  for await (const table of tables()) {
    const { columns, count } = table
    const names = columns.map(({ name }) => name)
    const twice = names.find((name, index) => names.indexOf(name) !== index)
    if (twice !== undefined) {
      throw new SourceError(`${actor}: the frame has two columns named ${JSON.stringify(twice)}: rename one`)
    }
    if (columns.every(isTyped)) describe(columns.map(({ name, type, nullable }) => ({ name, type, nullable })))
    const some = give(table)
    for (let start = 0; start < count; start += batch) {
      signal.throwIfAborted()
      yield some(start, Math.min(count, start + batch))
    }
  }
}

function objects({ columns }: Table): (start: number, end: number) => AnyRow[] {
  const blank = blankRow(columns, actor)
  return (start, end) => {
    const values = columns.map((column) => column.range(start, end))
    return assembled(values, columns, blank, end - start)
  }
}

/** Where there are columns that tell their types: those of others are seen in objects. */
function encodable({ columns }: Table): ((start: number, end: number) => Encodable) | undefined {
  if (columns.length === 0 || !columns.every(isTyped)) return undefined
  const ordered = inOrder(columns, actor)
  const names = ordered.map(({ name }) => name)
  return (start, end) => {
    const values = ordered.map((column) => column.range(start, end))
    return new Encodable(end - start, (from, to) =>
      encodeColumns(
        names,
        values.map((column) => column.slice(from, to)),
      ),
    )
  }
}

/** Rows by columns. */
interface Table {
  readonly columns: readonly TableColumn[]
  readonly count: number
}

interface TableColumn {
  readonly name: string
  readonly type: ColumnType | undefined
  readonly nullable: boolean
  range(start: number, end: number): unknown[]
}

function isTyped(column: TableColumn): column is TableColumn & Column {
  return column.type !== undefined
}

type Tables = () => Iterable<Table> | AsyncIterable<Table>

// What the libraries' objects have; none of the libraries is asked, for there may be several versions of one, or none.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Anything = any

/** How to read a frame, found out before anything runs. */
function tablesOf(frame: Anything): Tables {
  if (frame instanceof Uint8Array || frame instanceof ArrayBuffer) return () => decoded(frame, 'these bytes')
  if (frame === null || typeof frame !== 'object' || Array.isArray(frame) || ArrayBuffer.isView(frame)) {
    throw new ConfigError(`${actor}: it is ${describe(frame)}, no frame: ${takes}`)
  }
  if (typeof frame.path === 'string') return () => fromFile(frame.path)
  // before anything asks for its schema: polars throws there when a column is binary
  if (typeof frame.writeIPCStream === 'function' && typeof frame.slice === 'function') return () => fromPolars(frame)
  if (Array.isArray(frame.schema?.fields)) return () => [arrowTable(frame)]
  if (typeof frame.collect === 'function') {
    throw new ConfigError(`${actor}: it is a lazy frame, which has no rows yet: give what its collect() returns`)
  }
  if (typeof frame.columnNames === 'function' && typeof frame.indices === 'function') return () => [arqueroTable(frame)]
  if (Array.isArray(frame.columns) && Array.isArray(frame.values)) return () => [danfoTable(frame)]
  const table = columnsTable(frame)
  return () => [table]
}

const takes =
  'it takes a table of apache-arrow, flechette, polars, arquero or Danfo.js, bytes of Arrow, { path }, or an object of columns; rows can stand as `from` themselves'

// ---- Arrow -------------------------------------------------------------------------------------------------------

/** The chunks of a column, in each of the shapes that hold them. */
function chunksOf(frame: Anything, index: number): readonly ArrowChunk[] {
  if (frame.batches) return frame.batches.map(({ data }: Anything) => data.children[index]) // apache-arrow's Table
  if (frame.children) return frame.children[index].data // flechette's
  return [frame.data.children[index]] // a RecordBatch
}

function arrowTable(frame: Anything): Table {
  const fields: readonly ArrowField[] = frame.schema.fields
  const columns = fields.map(({ name, type, nullable = true }, index) => {
    const { type: told, read } = converter(type, name)
    return {
      name,
      type: told,
      nullable: nullable || type.typeId === 1,
      range: joined(chunksOf(frame, index).map(read)).range,
    }
  })
  return { columns, count: frame.numRows }
}

/** Several chunks as one. */
function joined(all: readonly Cells[]): Cells {
  if (all.length === 1) return all[0]!
  const range = (start: number, end: number): unknown[] => {
    const found: unknown[][] = []
    let first = 0
    for (const { length, range } of all) {
      if (first < end && first + length > start) {
        found.push(range(Math.max(0, start - first), Math.min(length, end - first)))
      }
      first += length
    }
    return found.length === 1 ? found[0]! : found.flat()
  }
  const length = all.reduce((sum, { length }) => sum + length, 0)
  return { length, range, at: (index) => range(index, index + 1)[0] }
}

async function* fromFile(path: string): AsyncGenerator<Table> {
  const bytes = await readFile(path).catch((cause) => {
    throw new SourceError(`${actor}: cannot read ${path}: ${cause.message}`, { cause })
  })
  yield* decoded(bytes, path)
}

async function* fromPolars(frame: Anything): AsyncGenerator<Table> {
  // an empty frame has columns, too
  for (let start = 0; start === 0 || start < frame.height; start += slice) {
    yield* decoded(frame.slice(start, slice).writeIPCStream(), 'the frame of polars')
  }
}

async function* decoded(bytes: Uint8Array | ArrayBuffer, what: string): AsyncGenerator<Table> {
  const { tableFromIPC } = await flechette(what)
  const view = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes)
  let table: object
  try {
    // numbers of 8 bytes are read where they lie, which must be a place for them
    table = tableFromIPC(view.byteOffset % 8 === 0 ? view : new Uint8Array(view))
  } catch (cause) {
    throw new SourceError(`${actor}: ${what} cannot be read as Arrow IPC data: ${(cause as Error).message}`, { cause })
  }
  yield arrowTable(table)
}

async function flechette(what: string): Promise<typeof import('@uwdata/flechette')> {
  try {
    return await import('@uwdata/flechette')
  } catch (cause) {
    throw new ConfigError(`${actor}: to read ${what}, npm install @uwdata/flechette@2 (2.6.0 on Node 20)`, { cause })
  }
}

// ---- values of JavaScript ----------------------------------------------------------------------------------------

function arqueroTable(frame: Anything): Table {
  const count: number = frame.numRows()
  const places: ArrayLike<number> | undefined = frame.isFiltered() || frame.isOrdered() ? frame.indices() : undefined
  const columns = frame.columnNames().map((name: string) => {
    const column = frame.column(name)
    const { type, at, range } = cellsOf(name, column)
    const placed = (start: number, end: number) => inRange((index) => at(places![index]!), start, end)
    return { name, type, nullable: true, range: places ? placed : range }
  })
  return { columns, count }
}

/** A column of arquero: an array, something like one, or a column of flechette, when the table came from Arrow. */
function cellsOf(name: string, column: Anything): Cells & { readonly type: ColumnType | undefined } {
  if (column.type?.typeId !== undefined && Array.isArray(column.data)) {
    const { type, read } = converter(column.type, name)
    return { type, ...joined(column.data.map(read)) }
  }
  const value = (column instanceof Float32Array ? shortest : orNull) as (value: unknown) => unknown
  const at = (index: number) => value(column.at(index))
  const range = (start: number, end: number) => inRange(at, start, end)
  return { length: column.length, type: elements.get(column.constructor), at, range }
}

function danfoTable({ columns: names, values }: { columns: string[]; values: unknown[][] }): Table {
  const columns = names.map((name, index) => ({
    name,
    type: undefined,
    nullable: true,
    range: (start: number, end: number) => values.slice(start, end).map((row) => orNull(row[index])),
  }))
  return { columns, count: values.length }
}

function columnsTable(frame: Record<string, Anything>): Table {
  const all = Object.entries(frame)
  const odd = all.find(([, column]) => !Array.isArray(column) && !elements.has(column?.constructor))
  if (all.length === 0 || odd) {
    const what = odd ? `${JSON.stringify(odd[0])} holds ${describe(odd[1])}` : 'it has no columns'
    throw new ConfigError(`${actor}: ${what}, so it is no object of columns: ${takes}`)
  }
  const [first] = all
  const other = all.find(([, { length }]) => length !== first![1].length)
  if (other) {
    const lengths = [first!, other].map(([name, { length }]) => `${JSON.stringify(name)} has ${length} values`)
    throw new ConfigError(`${actor}: the columns differ in length: ${lengths.join(', ')}`)
  }
  const columns = all.map(([name, column]) => ({ name, nullable: true, ...cellsOf(name, column) }))
  return { columns, count: first![1].length }
}

/** What typed arrays hold. */
const elements: ReadonlyMap<unknown, ColumnType> = new Map<unknown, ColumnType>([
  ...[Int8Array, Int16Array, Int32Array, Uint8Array, Uint8ClampedArray, Uint16Array, Uint32Array].map(
    (array) => [array, 'integer'] as const,
  ),
  ...[BigInt64Array, BigUint64Array].map((array) => [array, 'bigint'] as const),
  ...[Float32Array, Float64Array].map((array) => [array, 'double'] as const),
])

function orNull(value: unknown): unknown {
  return value === undefined ? null : value
}
