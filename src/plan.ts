import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { DuckDBConnection, DuckDBInstance, DuckDBResult, DuckDBType, DuckDBValue } from '@duckdb/node-api'
import { ConfigError, StateDamagedError } from './errors.js'
import { type Chunk, StageReader } from './stage.js'
import { explained } from './state/database.js'
import { writeDurably } from './state/files.js'
import type { LedgerBatch, Range, SyncState } from './state/state.js'
import { type AnyRow, decodeRows, encodeRows, keyOf } from './values.js'

// The comparison of what was staged with what the destination has acknowledged is one SQL job in an embedded DuckDB, which
// spills to disk: keys never have to fit in memory.
//
// plan-N.parquet      item · stage (the staged row's ordinal) · key · remote_id · doubt        in the order of item
// snapshot-N.parquet  key · remote_id · known (acknowledged) · dirty (perhaps written, never acknowledged since)

const memoryLimit = '512MB'

/** What delivery takes its rows from: the stage in `append`, a plan's items in the keyed modes. */
export interface Items {
  /** Rows from an ordinal on, as many as are at hand; `undefined` when it is not there (yet). */
  chunkAt(ordinal: number): Promise<ItemChunk | undefined>
  /** The rows of single ordinals, apart from the stream that {@link chunkAt} reads. */
  load(ordinals: readonly number[]): Promise<ItemChunk>
  close(): Promise<void>
}

/** Items in order; what is known of them, by index. */
export interface ItemChunk {
  readonly first: number
  readonly rows: readonly AnyRow[]
  readonly keys?: readonly (string | undefined)[] | undefined
  readonly remoteIds?: readonly (string | undefined)[] | undefined
  /** Whether the key may have been written by an attempt that nobody answered. */
  readonly doubts?: readonly boolean[] | undefined
}

/** The staged rows themselves, as `append` delivers them. */
export function stageItems(state: SyncState): Items {
  const stream = new StageReader(state)
  const again = freshRows(state)
  return {
    chunkAt: (ordinal) => stream.chunkAt(ordinal),
    load: async (ordinals) => ({ first: ordinals[0]!, rows: await again.pick(ordinals) }),
    async close() {
      await stream.close()
      await again.close()
    },
  }
}

/** The items of the current plan. */
export async function planItems(state: SyncState): Promise<Items> {
  const database = await openDuckdb(state)
  // a query ends the stream of any other on its connection
  const singles = await database.instance.connect()
  const stream = new StageReader(state)
  const again = freshRows(state)
  const file = join(state.folder, state.plan!.file)
  const select = `select item, stage, key, remote_id, doubt from read_parquet(${literal(file)})`
  let result: DuckDBResult | undefined
  let next = -1
  const toItems = (columns: DuckDBValue[][], rows: readonly AnyRow[]): ItemChunk => ({
    first: Number(columns[0]![0]),
    rows,
    keys: columns[2]!.map(optional),
    remoteIds: columns[3]!.map(optional),
    doubts: columns[4] as boolean[],
  })
  return {
    async chunkAt(ordinal) {
      if (ordinal >= state.plan!.items) return undefined
      if (!result || ordinal !== next) {
        result = await database.connection.stream(`${select} where item >= ${ordinal} order by item`)
      }
      const chunk = await result.fetchChunk()
      // a stream that fails half-way just ends; how many items there are is known
      if (!chunk?.rowCount) throw new StateDamagedError(`state: ${file} cannot be read on from item ${ordinal}`)
      const columns = chunk.getColumns()
      const items = toItems(columns, await pick(stream, columns[1]!.map(Number)))
      next = items.first + items.rows.length
      return items
    },
    load: oneAtATime(async (ordinals) => {
      const found = await singles.runAndReadAll(`${select} where item in (${ordinals.join()}) order by item`)
      const columns = found.getColumns()
      return toItems(columns, await again.pick(columns[1]!.map(Number)))
    }),
    async close() {
      await stream.close()
      await again.close()
      singles.closeSync()
      await database.close()
    },
  }
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

// ---- planning ------------------------------------------------------------------------------------------------------

export interface PlanOptions {
  readonly state: SyncState
  /** The sync, for errors. */
  readonly where: string
  readonly key: readonly string[]
  /** `insert`: only keys that were never delivered; `upsert`: every row. */
  readonly mode: 'insert' | 'upsert'
  /** The read showed the whole source: what it does not show again is superseded, and a key twice is an error. */
  readonly complete: boolean
  /** The staged ordinals to plan; those that are still open in the plan before come by themselves. */
  readonly staged: Range
  /** Rows from this ordinal on were staged by this run; those before are carried over. */
  readonly freshFrom: number
}

/**
 * Compares staged rows with the snapshot and puts the plan of what to send in place of the one before, whose open items
 * are carried over (partial read) or superseded (complete read). What the old plan delivered goes into the snapshot.
 *
 * @throws ConfigError naming keys that occur twice in a complete read; then nothing has changed.
 */
export async function makePlan(options: PlanOptions): Promise<void> {
  const { state, mode, complete, where, freshFrom } = options
  const through = options.staged[0] + options.staged[1]
  const database = await openDuckdb(state)
  const { connection } = database
  try {
    await loadSnapshot(connection, state)
    await connection.run('create table fresh (stage bigint, key varchar)')
    await fill(connection, 'fresh', keysOf(options))
    if (complete) await refuseDuplicates(connection, where, options.key)

    // held: an insert that may have been applied is not repeated, and its key is not inserted a second time
    const held = mode === 'insert'
    await connection.run(`
      create table candidate as
        select stage, key from fresh ${complete ? '' : 'union all select stage, key from open_item'};
      create table ranked as
        select stage, key, stage < ${freshFrom} as carried, key is not null and row_number() over (partition by key order by stage desc) > 1 as older
        from candidate;
      create table chosen as
        select r.stage, r.key, r.carried, s.remote_id, coalesce(s.dirty, false) as doubt, o.batch as held_by,
          ${mode === 'insert' ? 'coalesce(s.known, false)' : 'false'} as unchanged
        from ranked r left join snapshot s on r.key = s.key
          left join (select key, any_value(batch) as batch from open_item where state = 'unknown' and ${held} group by key) o on r.key = o.key
        where not older;
      create table item as
        select row_number() over (order by stage) - 1 as item, stage, key, remote_id, doubt, held_by, carried
        from chosen where not unchanged`)
    const count = async (what: string): Promise<number> => {
      const [row] = await rowsOf<{ n: bigint }>(connection, `select count(*) as n from ${what}`)
      return Number(row!.n)
    }
    const heldItems = await rowsOf<{ item: bigint; batch: bigint }>(
      connection,
      'select item, held_by as batch from item where held_by is not null order by item',
    )
    // a file that the database names is never written again
    const name = `${freshFrom}-${through}-${randomUUID()}.parquet`
    const plan = {
      file: `plan-${name}`,
      items: await count('item'),
      fresh: await count('item where carried'),
      through,
      counts: {
        unchanged: await count('chosen where unchanged and not carried'),
        superseded: await count('ranked where older and not carried'),
        carriedUnchanged: await count('chosen where unchanged and carried'),
        carriedSuperseded: await count('ranked where older and carried'),
      },
    }
    await copyTo(
      connection,
      join(state.folder, plan.file),
      'select item, stage, key, remote_id, doubt from item order by item',
    )
    const snapshot = await writeSnapshot(connection, state, `snapshot-${name}`)
    const unknown = [...state.batches()].flatMap((batch) => {
      const items = heldItems.flatMap((held) => (Number(held.batch) === batch.id ? Number(held.item) : []))
      return items.length > 0 ? stillUnknown(state, batch, items) : []
    })
    await state.swap({ plan, snapshot, unknown, free: [] })
  } finally {
    await database.close()
  }
}

/** Folds a plan whose every item is terminal into the snapshot, and lets go of the rows that it was made from. */
export async function compact(state: SyncState): Promise<void> {
  if (!state.plan) return
  const database = await openDuckdb(state)
  try {
    await loadSnapshot(database.connection, state)
    const snapshot = await writeSnapshot(database.connection, state, state.plan.file.replace('plan-', 'snapshot-done-'))
    const planned = state.reads.filter(({ first, rows }) => first + rows <= state.plan!.through)
    await state.swap({ plan: undefined, snapshot, unknown: [], free: planned })
  } finally {
    await database.close()
  }
}

/**
 * The effective snapshot: what is on disk, and over it the settled items of the plan. `open_item` holds the plan's other
 * items. A key in doubt is dirty until a later item of it is delivered.
 */
async function loadSnapshot(connection: DuckDBConnection, state: SyncState): Promise<void> {
  const plan = state.plan && literal(join(state.folder, state.plan.file))
  const base = state.snapshot && literal(join(state.folder, state.snapshot.file))
  await connection.run(`
    create table batch (id bigint, first bigint, past bigint, state varchar, doubt boolean);
    create table rejected (item bigint);
    create table receipt (item bigint, remote_id varchar)`)
  const batches = plan ? [...state.batches()] : []
  await fill(
    connection,
    'batch',
    each(
      batches.flatMap((batch) =>
        batch.ranges.map(([first, count]) => [
          BigInt(batch.id),
          BigInt(first),
          BigInt(first + count),
          batch.state,
          batch.doubt,
        ]),
      ),
    ),
  )
  await fill(connection, 'rejected', each(batches.flatMap(({ rejected }) => rejected.map((item) => [BigInt(item)]))))
  for (const receipts of plan ? state.receipts() : []) {
    await fill(connection, 'receipt', each(receipts.map(([item, id]) => [BigInt(item), id])))
  }
  await connection.run(`
    create table base as ${base ? `select * from read_parquet(${base})` : 'select null::varchar as key, null::varchar as remote_id, false as known, false as dirty where false'};
    create table old_item as ${
      plan
        ? `select p.item, p.stage, p.key, p.doubt as carried_doubt, b.id as batch, b.doubt as batch_doubt,
            case when b.first is null or p.item >= b.past then 'pending' when j.item is not null then 'rejected'
              when b.state = 'settled' then 'delivered' else 'unknown' end as state
          from read_parquet(${plan}) p asof left join batch b on p.item >= b.first left join rejected j on p.item = j.item`
        : `select 0::bigint as item, 0::bigint as stage, null::varchar as key, false as carried_doubt, 0::bigint as batch, false as batch_doubt, '' as state where false`
    };
    create table open_item as select stage, key, batch, state from old_item where state in ('pending', 'unknown');
    create table learnt as
      select o.key, r.remote_id, o.state = 'delivered' as known,
        o.state <> 'delivered' as dirty
      from old_item o left join receipt r on o.item = r.item
      where o.key is not null and (o.state = 'delivered' or o.state = 'unknown' or o.carried_doubt or coalesce(o.batch_doubt, false) and o.state = 'rejected');
    create table snapshot as
      select coalesce(l.key, b.key) as key, coalesce(l.remote_id, b.remote_id) as remote_id,
        coalesce(l.known, false) or coalesce(b.known, false) as known, coalesce(l.dirty, b.dirty, false) as dirty
      from base b full join learnt l on b.key = l.key`)
}

async function writeSnapshot(
  connection: DuckDBConnection,
  state: SyncState,
  file: string,
): Promise<{ file: string; rows: number } | undefined> {
  // without an old plan nothing was learnt since
  if (!state.plan) return state.snapshot
  const [{ rows } = { rows: 0n }] = await rowsOf<{ rows: bigint }>(connection, 'select count(*) as rows from snapshot')
  await copyTo(connection, join(state.folder, file), 'select key, remote_id, known, dirty from snapshot order by key')
  return { file, rows: Number(rows) }
}

async function refuseDuplicates(connection: DuckDBConnection, where: string, key: readonly string[]): Promise<void> {
  const twice = await rowsOf<{ key: string; times: bigint }>(
    connection,
    'select key, count(*) as times from fresh where key is not null group by key having count(*) > 1 order by key limit 5',
  )
  if (twice.length === 0) return
  const list = twice.map((row) => `${readableKey(row.key)} (${row.times} times)`).join(', ')
  throw new ConfigError(
    `${where}: rows of the source share a key: ${key.join(', ')} = ${list}. Nothing was sent. Make the query give one row per key, or choose a key that tells rows apart`,
  )
}

/** The canonical text of a key in a form for people. */
function readableKey(key: string): string {
  return key.replace(/^i/, '')
}

async function* keysOf({
  state,
  key,
  staged: [first, count],
}: PlanOptions): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
  const reader = new StageReader(state)
  try {
    for (let ordinal = first; ordinal < first + count; ) {
      const chunk = await reader.chunkAt(ordinal)
      const from = ordinal
      yield chunk!.rows.map((row, index) => [BigInt(from + index), keyOf(row, key) ?? null])
      ordinal += chunk!.rows.length
    }
  } finally {
    await reader.close()
  }
}

/** The batch that stands in the new plan for those rows of an old one whose fate is open, and which are not simply sent again. */
function stillUnknown(state: SyncState, old: LedgerBatch, items: readonly number[]): LedgerBatch {
  return { ...old, id: state.newBatch(), ranges: items.map((item) => [item, 1]), resumed: false, resent: false }
}

// ---- DuckDB --------------------------------------------------------------------------------------------------------

async function openDuckdb(state: SyncState): Promise<{
  instance: DuckDBInstance
  connection: DuckDBConnection
  close(): Promise<void>
}> {
  const { DuckDBInstance } = await import('@duckdb/node-api')
  const spill = join(state.folder, 'spill')
  const instance: DuckDBInstance = await DuckDBInstance.create(':memory:', {
    memory_limit: memoryLimit,
    temp_directory: spill,
  })
  const connection = await instance.connect()
  return {
    instance,
    connection,
    async close() {
      connection.closeSync()
      instance.closeSync()
      await rm(spill, { recursive: true, force: true })
    },
  }
}

async function rowsOf<Row>(connection: DuckDBConnection, sql: string): Promise<Row[]> {
  return (await connection.runAndReadAll(sql)).getRowObjects() as Row[]
}

async function copyTo(connection: DuckDBConnection, path: string, select: string): Promise<void> {
  try {
    await writeDurably(path, async (temporary) => {
      await connection.run(`copy (${select}) to ${literal(temporary)} (format parquet, compression zstd)`)
    })
  } catch (error) {
    throw explained(error, path)
  }
}

/** Appends rows to a table in DuckDB's own chunks. */
async function fill(
  connection: DuckDBConnection,
  table: string,
  batches: AsyncIterable<readonly (readonly DuckDBValue[])[]> | Iterable<readonly (readonly DuckDBValue[])[]>,
): Promise<void> {
  const { DuckDBDataChunk } = await import('@duckdb/node-api')
  const appender = await connection.createAppender(table)
  const types: DuckDBType[] = Array.from({ length: appender.columnCount }, (_, column) => appender.columnType(column))
  for await (const rows of batches) {
    for (let start = 0; start < rows.length; start += 2_048) {
      const chunk = DuckDBDataChunk.create(types)
      chunk.setRows(rows.slice(start, start + 2_048))
      appender.appendDataChunk(chunk)
    }
  }
  appender.closeSync()
}

function* each<T>(rows: readonly T[]): Generator<readonly T[]> {
  if (rows.length > 0) yield rows
}

function optional(value: DuckDBValue): string | undefined {
  return value === null ? undefined : (value as string)
}

/** A text in SQL. */
function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}
