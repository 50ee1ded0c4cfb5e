import { join } from 'node:path'
import { type Columns, type Duckdb, rowsOf, streamed } from './duckdb.js'
import { StateDamagedError } from './errors.js'
import { literal } from './sources/sql.js'
import { type Chunk, StageReader } from './stage.js'
import type { SyncState } from './state/state.js'
import { type AnyRow, decodeRows, decodeTexts, encodeRows } from './values.js'

/** What delivery takes its rows from: the stage in `append`, a plan's items in the keyed modes. */
export interface Items {
  /** Items from an ordinal on, as many as are at hand; `undefined` when it is not there (yet). */
  chunkAt(ordinal: number): Promise<ItemChunk | undefined>
  /** Single items, apart from the stream that {@link chunkAt} reads. */
  load(ordinals: readonly number[]): Promise<ItemChunk>
  /** The row of the source behind an item. */
  rowOf(ordinal: number): Promise<AnyRow>
  close(): Promise<void>
}

/** Items in order. */
export interface ItemChunk {
  readonly first: number
  /** Of these, records are still to be made, where no plan has made them. */
  readonly rows: readonly AnyRow[]
  readonly planned?: Planned | undefined
}

/** What a plan knows of its items, by index; their rows are the records then. */
export interface Planned {
  readonly keys: readonly (string | undefined)[]
  /** Why there is no record: the row of the source stands in its place. */
  readonly problems: readonly (string | undefined)[]
  readonly remoteIds: readonly (string | undefined)[]
  /** Whether the key may have been written by an attempt that nobody answered. */
  readonly doubts: readonly boolean[]
  /** When an attempt left before which another one got no answer: that one may still land for some time. */
  readonly landings: readonly (number | undefined)[]
}

/** The staged rows themselves, as `append` delivers them. */
export function stageItems(state: SyncState): Items {
  const stream = new StageReader(state)
  const again = freshRows(state)
  return {
    chunkAt: (ordinal) => stream.chunkAt(ordinal),
    load: async (ordinals) => ({ first: ordinals[0]!, rows: await again.pick(ordinals) }),
    rowOf: async (ordinal) => (await again.pick([ordinal]))[0]!,
    async close() {
      await stream.close()
      await again.close()
    },
  }
}

/** The items of the current plan. */
export async function planItems(state: SyncState, root: Duckdb): Promise<Items> {
  const database = await root.workspace()
  const singles = await database.connect()
  const staged = freshRows(state)
  const file = join(state.folder, state.plan!.file)
  const select = `select item, record, key, problem, remote_id, doubt, landing from read_parquet(${literal(file)})`
  let stream: AsyncGenerator<Columns> | undefined
  let next = -1
  return {
    async chunkAt(ordinal) {
      if (ordinal >= state.plan!.items) return undefined
      if (!stream || ordinal !== next) {
        // they stand in the file in their order, which DuckDB keeps
        void stream?.return(undefined)
        stream = streamed(database, `${select} where item >= ${ordinal}`)
      }
      const { value: chunk } = await stream.next()
      const items = chunk?.columns[0]
      next = ordinal + (chunk?.count ?? 0)
      if (!items || Number(items[0]) !== ordinal || Number(items.at(-1)) !== next - 1) {
        throw new StateDamagedError(`state: ${file} cannot be read on from item ${ordinal}`)
      }
      return toItems(chunk.columns)
    },
    load: oneAtATime(async (ordinals) => {
      const found = await singles.runAndReadAll(`${select} where item in (${ordinals.join()}) order by item`)
      return toItems(found.getColumns())
    }),
    rowOf: oneAtATime(async (ordinal) => {
      const [item] = await rowsOf<{ stage: bigint | null; record: string }>(
        singles,
        `select stage, record from read_parquet(${literal(file)}) where item = ${ordinal}`,
      )
      // behind a delete there is no row any more
      if (item!.stage === null) return decodeTexts([item!.record])[0]!
      return (await staged.pick([Number(item!.stage)]))[0]!
    }),
    async close() {
      await staged.close()
      await database.close()
    },
  }
}

function toItems(columns: Columns['columns']): ItemChunk {
  const [items, records, keys, problems, remoteIds, doubts, landings] = columns
  return {
    first: Number(items![0]),
    rows: decodeTexts(records!),
    planned: {
      keys: keys!.map(optional),
      problems: problems!.map(optional),
      remoteIds: remoteIds!.map(optional),
      doubts: doubts!,
      landings: landings!.map((value) => (value === null ? undefined : Number(value))),
    },
  }
}

function optional(value: string | null): string | undefined {
  return value ?? undefined
}

/** Rows by their staged ordinals, which ascend. */
async function pick(reader: StageReader, ordinals: readonly number[]): Promise<AnyRow[]> {
  const rows: AnyRow[] = []
  let chunk: Chunk | undefined
  for (const ordinal of ordinals) {
    if (!chunk || ordinal >= chunk.first + chunk.rows.length) chunk = await reader.chunkAt(ordinal)
    rows.push(chunk!.rows[ordinal - chunk!.first]!)
  }
  return rows
}

/** The same as they were staged, in copies: rows that were handed to a handler before may have been changed by it. */
function freshRows(state: SyncState): { pick(ordinals: readonly number[]): Promise<AnyRow[]>; close(): Promise<void> } {
  const reader = new StageReader(state)
  return {
    pick: oneAtATime(async (ordinals) => {
      const { text, tagged } = encodeRows(await pick(reader, ordinals))
      return decodeRows(text, tagged)
    }),
    close: () => reader.close(),
  }
}

/** Calls that would disturb each other, one after another. */
function oneAtATime<A, B>(call: (argument: A) => Promise<B>): (argument: A) => Promise<B> {
  let before: Promise<unknown> = Promise.resolve()
  return (argument) => {
    const result = before.then(() => call(argument))
    before = result.catch(() => {})
    return result
  }
}
