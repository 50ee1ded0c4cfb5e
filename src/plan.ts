import { hash, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import type { DuckDBConnection, DuckDBValue } from '@duckdb/node-api'
import type { Operation } from './destination.js'
import { copyTo, countOf, type Duckdb, fill, literal, openDuckdb, rowsOf } from './duckdb.js'
import { ConfigError } from './errors.js'
import { pick } from './items.js'
import { type MakeRecord, Unfit } from './record.js'
import { loadSnapshot, writeSnapshot } from './snapshot.js'
import { StageReader } from './stage.js'
import type { LedgerBatch, PlanCounts, PlanRow, Range, SyncState } from './state/state.js'
import { type AnyRow, canonical, decodeRows, keyOf, losslessText } from './values.js'
import { messageOf } from './verdict.js'

// What was staged is compared with what the destination has acknowledged by an embedded DuckDB, which spills to disk: keys
// never have to fit in memory. A fingerprint of the source's row decides first, in SQL; only rows for which it differs are
// looked at one by one and made into records.
//
// plan-N.parquet: item · stage (the staged row's ordinal) · key · operation · raw · record · match · problem · remote_id · doubt
// · landing, in the order of item. A line without item tells that a row changed and its record did not.

/** A record that was refused so many times in a row waits until it changes, or until it is sent again by a redrive. */
const mostTries = 3

export interface PlanOptions {
  /** What was delivered, and what is open of it. */
  readonly state: SyncState
  /** The staged rows to compare, newer ones last; those that are still open in the plan before come by themselves. */
  readonly inputs: readonly Input[]
  /** The sync, for errors. */
  readonly where: string
  /** Without one (in `replace`), rows are told apart by what they hold. */
  readonly key: readonly string[] | undefined
  /**
   * `insert`: only keys that were never delivered; `update`, `upsert`: rows that are new or have changed; `replace`: all
   * rows, when any is new or has changed or is gone.
   */
  readonly operation: 'insert' | 'update' | 'upsert' | 'replace'
  /** Keys that the source does not have any more are deleted. */
  readonly deletes: boolean
  /** Fields by which the destination finds its object. */
  readonly match: readonly string[]
  readonly make: MakeRecord
  /** What the records are made by: whatever differs here makes every row a changed one. */
  readonly version: string
  /** The read showed the whole source: what it does not show again is superseded, and a key twice is an error. */
  readonly complete: boolean
  /** Sends everything, whatever was delivered. */
  readonly full: boolean
  /** The folder in which memory may spill to disk. */
  readonly spill: string
  /** Keys that are tried again, however often they were refused; or all. */
  readonly again: ReadonlySet<string> | 'all'
}

/** Rows that are staged somewhere. */
export interface Input {
  readonly stage: SyncState
  readonly range: Range
  /** They were staged by an earlier run. */
  readonly carried: boolean
}

/** What is to be delivered of a plan; without a single item, none is kept. */
export type Planned = Pick<PlanRow, 'items' | 'fresh' | 'counts'>

/** A comparison, before it counts. */
export interface Comparison {
  readonly counts: PlanCounts
  /** Keys that the destination has acknowledged so far, and how many of them would be deleted. */
  readonly known: number
  readonly knownDeletes: number
  /** Keys that are or may be at the destination and are not in the source. */
  gone(): Promise<number>
  /** The same for two comparisons that find the same to do. */
  digest(): Promise<string>
  /** Puts the plan in place of the one before, and what that one delivered into the snapshot. */
  commit(): Promise<Planned>
  /** Writes what is to be done, for somebody to look at, into a file; {@link readChanges} reads it. */
  writeChanges(file: string): Promise<void>
  close(): Promise<void>
}

/**
 * Compares staged rows with the snapshot. Open items of the plan before are carried over (partial read) or superseded
 * (complete read).
 *
 * @throws ConfigError naming keys that occur twice in a complete read.
 */
export async function compare(options: PlanOptions): Promise<Comparison> {
  const { state, complete, where, key, deletes, spill } = options
  const database = await openDuckdb(join(spill, 'spill'))
  const { connection } = database
  try {
    await loadSnapshot(connection, state)
    const known = await countOf(connection, 'snapshot where known')
    await connection.run('create table fresh (input integer, stage bigint, key varchar, raw varchar)')
    await fill(connection, 'fresh', fingerprints(options))
    if (!key) {
      await connection.run(`create or replace table fresh as
        select * replace (raw || '#' || row_number() over (partition by raw order by input, stage) as key) from fresh`)
    }
    if (complete) {
      if (key) await refuseDuplicates(connection, where, key)
      // of keys that are gone, nothing is left to know but that they are to be deleted
      await connection.run(
        'delete from snapshot where not known and not dirty and key not in (select key from fresh where key is not null)',
      )
    }
    await choose(connection, options)
    await fill(connection, 'looked_at', madeOf(database, options))
    await gather(connection, options)
    if ((await countOf(connection, 'made')) !== (await countOf(connection, 'chosen where not unchanged'))) {
      throw new Error(`${where}: the comparison of rows was cut short`) // a stream that fails half-way just ends
    }
    if (deletes) await fill(connection, 'made', deletesOf(database, options))
    if (options.operation !== 'replace') await settleOwners(connection, options)
    const replaces = options.operation === 'replace' && (await differs(connection))
    const sent = replaces ? `kind <> 'waiting'` : `kind in ('insert', 'update', 'delete')`
    await connection.run(`
      create table item as
        select row_number() over (order by operation = 'delete', input, stage, key) - 1 as item, * from made where ${sent};
      create table refreshed as select * from made where kind = 'same' and not (${sent})`)
    const planned: Planned = {
      items: await countOf(connection, 'item'),
      fresh: await countOf(connection, 'item where carried'),
      counts: await countsOf(connection, options, replaces),
    }
    return {
      counts: planned.counts,
      known,
      knownDeletes: await countOf(
        connection,
        `made m join snapshot s on m.key = s.key where m.kind = 'delete' and s.known`,
      ),
      gone: () => countOf(connection, `(${gone})`),
      async digest() {
        const [found] = await rowsOf<{ digest: string | null }>(
          connection,
          `select bit_xor(md5_number(concat_ws(chr(31), operation, key, stage is null, record, problem)))::varchar as digest from item`,
        )
        return found!.digest ?? 'nothing'
      },
      async commit() {
        await commitPlan(connection, options, planned)
        return planned
      },
      async writeChanges(file) {
        await copyTo(
          connection,
          file,
          `select i.item, i.operation, i.record, i.problem, case when s.known then s.record end as before
           from item i left join snapshot s on i.key = s.key order by item`,
        )
      },
      close: () => database.close(),
    }
  } catch (error) {
    await database.close()
    throw error
  }
}

/** What a comparison found to do, in the order in which it would be sent. */
export interface StoredChange {
  readonly operation: Operation
  /** Where there is a problem, the row of the source, of which no record can be made. */
  readonly record: AnyRow
  readonly problem: string | undefined
  /** As the destination has acknowledged it. */
  readonly before: AnyRow | undefined
}

export async function* readChanges(file: string, spill: string): AsyncGenerator<StoredChange> {
  const database = await openDuckdb(spill)
  try {
    for await (const changes of streamed<{
      operation: string
      record: string
      problem: string | null
      before: string | null
    }>(database, `select operation, record, problem, before from read_parquet(${literal(file)}) order by item`)) {
      for (const { operation, record, problem, before } of changes) {
        yield {
          operation: operation as Operation,
          record: decodeRows(`[${record}]`, true)[0]!,
          problem: problem ?? undefined,
          before: before === null ? undefined : decodeRows(`[${before}]`, true)[0],
        }
      }
    }
  } finally {
    await database.close()
  }
}

/** Keys that are or may be at the destination and are not in the source. */
const gone = `select * from snapshot s where (known or dirty) and key not in (select key from fresh where key is not null)`

/** Whether a destination that is replaced as a whole would be given anything else than it has. */
async function differs(connection: DuckDBConnection): Promise<boolean> {
  const changes = await countOf(connection, `made where kind in ('insert', 'update') and problem is null`)
  return changes > 0 || (await countOf(connection, `(${gone})`)) > 0
}

/** Which staged rows to look at: one per key, and only where something may have changed. */
async function choose(connection: DuckDBConnection, options: PlanOptions): Promise<void> {
  const { operation, complete, full, inputs } = options
  const carried = inputs.flatMap((input, index) => (input.carried ? index : []))
  // held: an insert that may have been applied is not repeated, and its key is not inserted a second time
  const held = operation === 'insert'
  const unchanged = operation === 'insert' ? 's.known' : 's.known and not s.dirty and s.raw = c.raw'
  await connection.run(`
    create table ranked as
      select *, input in (${[-1, ...carried].join()}) as carried,
        ${complete ? 'false' : 'key is not null and row_number() over (partition by key order by input desc, stage desc) > 1'} as older
      from (from fresh ${complete ? '' : 'union all select -1 as input, stage, key, null as raw from open_item'});
    create table chosen as
      select c.input, c.stage, c.key, c.raw, c.carried, o.batch as held_by, coalesce(${full ? 'false' : unchanged}, false) as unchanged
      from ranked c left join snapshot s on c.key = s.key
        left join (select key, any_value(batch) as batch from open_item where state = 'unknown' and ${held} group by key) o on c.key = o.key
      where not older;
    ${operation === 'replace' ? `update chosen set unchanged = false where exists (from chosen where not unchanged) or exists (${gone});` : ''}
    create table looked_at (input integer, stage bigint, kind varchar, record varchar, match varchar, problem varchar, raw varchar)`)
}

/** What is to be done, with all that is known of it. */
async function gather(connection: DuckDBConnection, { operation }: PlanOptions): Promise<void> {
  await connection.run(`
    create table made as
      select l.input, l.stage, c.key, l.kind, '${operation}' as operation, coalesce(c.raw, l.raw) as raw, l.record,
        case when l.problem is null then nullif(coalesce(l.match, c.key), '') end as match, l.problem, s.remote_id,
        coalesce(s.dirty, false) as doubt, s.landing, c.carried, c.held_by
      from looked_at l join chosen c on l.input = c.input and l.stage = c.stage left join snapshot s on c.key = s.key`)
}

/** The key and the fingerprint of each staged row. */
async function* fingerprints({
  inputs,
  key,
  version,
}: PlanOptions): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
  for (const [input, { stage, range }] of inputs.entries()) {
    const reader = new StageReader(stage)
    try {
      const end = range[0] + range[1]
      for (let ordinal = range[0]; ordinal < end; ) {
        const { rows } = (await reader.chunkAt(ordinal))!
        const from = ordinal
        yield rows
          .slice(0, end - from)
          .map((row, index) => [
            input,
            BigInt(from + index),
            (key && keyOf(row, key)) ?? null,
            fingerprint(version, row),
          ])
        ordinal += rows.length
      }
    } finally {
      await reader.close()
    }
  }
}

/** 128 bits: nobody makes two rows that share them by accident. */
function fingerprint(version: string, value: object): string {
  return hash('md5', `${version}${canonical(value)}`, 'base64')
}

interface Chosen {
  readonly input: number
  readonly stage: bigint
  readonly key: string | null
  readonly has_raw: boolean
  readonly held: boolean
  readonly known: boolean
  readonly dirty: boolean
  readonly record: string | null
  readonly tried: string | null
  readonly tries: number
}

/** The chosen rows made into records, and what is to be done with each. */
async function* madeOf(database: Duckdb, options: PlanOptions): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
  const { state, inputs, match, make, version, full, again } = options
  // the open items of the plan before stand in the state's own stage
  const readers = new Map([
    [-1, new StageReader(state)],
    ...inputs.map(({ stage }, input) => [input, new StageReader(stage)] as const),
  ])
  try {
    for await (const chosen of streamed<Chosen>(
      database,
      `select c.input, c.stage, c.key, c.raw is not null as has_raw, c.held_by is not null as held,
         coalesce(s.known, false) as known, coalesce(s.dirty, false) as dirty, s.record, s.tried, coalesce(s.tries, 0) as tries
       from chosen c left join snapshot s on c.key = s.key where not unchanged order by c.input, c.stage`,
    )) {
      const rows: AnyRow[] = []
      for (const [input, reader] of readers) {
        const ordinals = chosen.flatMap((one) => (one.input === input ? Number(one.stage) : []))
        rows.push(...(await pick(reader, ordinals)))
      }
      const lines: DuckDBValue[][] = []
      for (const [index, one] of chosen.entries()) {
        const row = rows[index]!
        const making = make(row, one.key ?? undefined)
        const made = kept(making instanceof Promise ? await making : making)
        const { problem } = made
        const text = problem === null ? made.text : losslessText(row)
        const waits = one.tries >= mostTries && one.tried === triedOf(text, problem) && !triesAgain(again, one.key)
        const same =
          problem === null && one.known && !one.dirty && !full && one.record !== null && isSame(one.record, text)
        // what may have been applied stays an item, for its batch to be told of
        const kind = same && !one.held ? 'same' : waits && !one.held ? 'waiting' : one.known ? 'update' : 'insert'
        const matched = problem === null ? (keyOf(made.record, match) ?? '') : ''
        // null stands for the key's own text, which is there already
        const other = matched === one.key ? null : matched
        lines.push([one.input, one.stage, kind, text, other, problem, one.has_raw ? null : fingerprint(version, row)])
      }
      yield lines
    }
  } finally {
    for (const reader of readers.values()) await reader.close()
  }
}

interface Gone {
  readonly key: string
  readonly record: string
  readonly match: string | null
  readonly dirty: boolean
  readonly remote_id: string | null
  readonly tried: string | null
  readonly tries: number
  readonly landing: bigint | null
}

async function* deletesOf(
  database: Duckdb,
  { match, again }: PlanOptions,
): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
  for await (const some of streamed<Gone>(
    database,
    `select key, record, match, dirty, remote_id, tried, tries, landing from (${gone}) order by key`,
  )) {
    yield some.map((one) => {
      const [record] = decodeRows(`[${one.record}]`, true)
      const fields = Object.fromEntries(match.map((field) => [field, record![field]]))
      const waits = one.tries >= mostTries && one.tried === 'delete' && !triesAgain(again, one.key)
      return [
        null,
        null,
        one.key,
        waits ? 'waiting' : 'delete',
        'delete',
        null,
        losslessText(fields),
        one.match,
        null,
        one.remote_id,
        one.dirty,
        one.landing,
        false,
        null,
      ]
    })
  }
}

/**
 * One live key for each match value. A row whose record has the match value of another is refused, for which of them the
 * destination should hold is not ours to say; and what another key owns now is not deleted with the key that had it.
 */
async function settleOwners(connection: DuckDBConnection, { complete, match }: PlanOptions): Promise<void> {
  const fields = match.join(', ').replaceAll("'", "''")
  await connection.run(`
    create table owner as
      select match, key, input, stage from made where match is not null and kind in ('insert', 'update', 'same', 'waiting') and operation <> 'delete'
      union all
      select match, key, -2 as input, -1 as stage from snapshot
        where match is not null and (known or dirty) and key not in (select key from made where key is not null)
          ${complete ? 'and key in (select key from fresh)' : ''};
    create table rival as
      select m.input, m.stage, min(o.key) as key from made m join owner o on m.match = o.match and m.key <> o.key and (o.input, o.stage) < (m.input, m.stage)
      where m.kind in ('insert', 'update') group by m.input, m.stage;
    update made set problem = 'another row, of the key ' || regexp_replace(r.key, '^i', '') || ', has the same ${fields}' from rival r
      where made.input = r.input and made.stage = r.stage;
    delete from made where kind = 'delete' and match in (select match from owner)`)
}

async function countsOf(
  connection: DuckDBConnection,
  { version }: PlanOptions,
  replaces: boolean,
): Promise<PlanCounts> {
  const made = (kind: string, where = 'true'): Promise<number> =>
    countOf(connection, `made where kind = '${kind}' and ${where}`)
  const unchanged = async (where: string): Promise<number> =>
    (await countOf(connection, `chosen where unchanged and ${where}`)) +
    (await countOf(connection, `refreshed where ${where}`))
  return {
    insert: await made('insert', 'problem is null'),
    update: await made('update', 'problem is null'),
    delete: await made('delete'),
    unfit: await countOf(connection, 'item where problem is not null'),
    replaces,
    unchanged: await unchanged('not carried'),
    waiting: await made('waiting', `operation <> 'delete' and not carried`),
    waitingDeletes: await made('waiting', `operation = 'delete'`),
    superseded: await countOf(connection, 'ranked where older and not carried'),
    carriedUnchanged: await unchanged('carried'),
    carriedWaiting: await made('waiting', 'carried'),
    carriedSuperseded: await countOf(connection, 'ranked where older and carried'),
    version,
  }
}

async function commitPlan(connection: DuckDBConnection, options: PlanOptions, planned: Planned): Promise<void> {
  const { state } = options
  const through = state.nextOrdinal
  const name = `${through}-${randomUUID()}.parquet` // a file that the database names is never written again
  const closed = await closedLetters(connection, options)
  const snapshot = await writeSnapshot(connection, state, `snapshot-${name}`)
  if (planned.items === 0 && !planned.counts.replaces && (await countOf(connection, 'refreshed')) === 0) {
    // nothing to deliver and nothing to learn: the rows are done with
    return state.swap({ plan: undefined, snapshot, unknown: [], free: state.reads, closed })
  }
  const heldItems = await rowsOf<{ item: bigint; batch: bigint }>(
    connection,
    'select item, held_by as batch from item where held_by is not null order by item',
  )
  const plan = { ...planned, file: `plan-${name}`, through }
  await copyTo(
    connection,
    join(state.folder, plan.file),
    `select item, stage, key, operation, raw, record, match, problem, remote_id, doubt, landing from item
     union all select null, stage, key, operation, raw, null, null, null, null, false, null from refreshed order by item`,
  )
  const unknown = [...state.batches()].flatMap((batch) => {
    const items = heldItems.flatMap((held) => (Number(held.batch) === batch.id ? Number(held.item) : []))
    return items.length > 0 ? stillUnknown(state, batch, items) : []
  })
  await state.swap({ plan, snapshot, unknown, free: [], closed })
}

/** Keys whose dead letters are of no interest any more: the row is again what was delivered, or it is gone. */
async function closedLetters(connection: DuckDBConnection, { state, complete }: PlanOptions): Promise<string[]> {
  await connection.run('create table letter (key varchar)')
  await fill(connection, 'letter', [[...state.openLetters()].map((key) => [key])])
  const closed = await rowsOf<{ key: string }>(
    connection,
    `select key from letter where key in (select key from chosen where unchanged) or key in (select key from refreshed)
     ${complete ? `or (key not in (select key from fresh where key is not null) and key not in (select key from made where key is not null))` : ''}`,
  )
  return closed.map(({ key }) => key)
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

/** Whether two records say the same, as they are kept. */
function isSame(one: string, other: string): boolean {
  return one === other || canonical(decodeRows(`[${one}]`, true)) === canonical(decodeRows(`[${other}]`, true))
}

type Kept = { readonly problem: null; readonly record: AnyRow; readonly text: string } | { readonly problem: string }

/** A record as the plan keeps it. */
function kept(made: object | Unfit): Kept {
  if (made instanceof Unfit) return made
  try {
    return { problem: null, record: made, text: losslessText(made) }
  } catch (error) {
    return { problem: `the record ${messageOf(error)}` }
  }
}

function triesAgain(again: PlanOptions['again'], key: string | null): boolean {
  return again === 'all' || (key !== null && again.has(key))
}

/** By which a record that was refused is known again: {@link loadSnapshot} makes the same. */
function triedOf(text: string, problem: string | null): string {
  return hash('md5', `${text}${problem ?? ''}`)
}

/** The batch that stands in the new plan for those rows of an old one whose fate is open, and which are not simply sent again. */
function stillUnknown(state: SyncState, old: LedgerBatch, items: readonly number[]): LedgerBatch {
  return { ...old, id: state.newBatch(), ranges: items.map((item) => [item, 1]), resumed: false, resent: false }
}

/** The rows of a query, some at a time, while other queries go on. */
async function* streamed<Row>(database: Duckdb, sql: string): AsyncGenerator<readonly Row[]> {
  const connection = await database.connect()
  const result = await connection.stream(sql)
  for (;;) {
    const chunk = await result.fetchChunk()
    if (!chunk?.rowCount) return
    yield chunk.getRowObjects(result.deduplicatedColumnNames()) as Row[]
  }
}
