import { join } from 'node:path'
import type { DuckDBConnection } from '@duckdb/node-api'
import { allowFor, columnsIn, copyDurably, countOf, type Duckdb, type FileColumn, fill, widthOf } from './duckdb.js'
import { literal } from './sources/sql.js'
import type { PlanCounts, SnapshotFile, SnapshotRow, SourceAsRead, SyncState } from './state/state.js'

// What the destination has acknowledged stands in two files: `base`, all keys as of some time, and `recent`, those of which
// more was learnt since, so that a run that changes little writes little. A line for each key:
//   key
//   known      the destination has acknowledged it, as `record`
//   dirty      perhaps written or deleted by an attempt that nobody answered: whatever `record` says may be wrong
//   hi, lo     fingerprint of the source's row from which `record` was made
//   record     as it was last delivered (of a dirty key that was never acknowledged: as it was last sent)
//   other      what `record` holds in the fields by which the destination finds its object, where that is not the key
//   remote_id  the destination's own id
//   landing    when the last attempt left before which another one got no answer (ms since 1970): that one may still land
//   tried      fingerprint of what was refused last, and `tries`, in how many plans in a row
// In `recent`, a key of which nothing is known hides what `base` says of it.

const types = {
  key: 'varchar',
  known: 'boolean',
  dirty: 'boolean',
  hi: 'ubigint',
  lo: 'ubigint',
  record: 'varchar',
  other: 'varchar',
  remote_id: 'varchar',
  landing: 'bigint',
  tried: 'varchar',
  tries: 'integer',
}
const columns = Object.keys(types).join()
/** A line of which nothing is known but the key. */
const line = (key: string) => {
  const values: { readonly [name: string]: string } = { key, known: 'false', dirty: 'false', tries: '0' }
  return Object.entries(types)
    .map(([name, type]) => `${values[name] ?? 'null'}::${type} as ${name}`)
    .join()
}
const nothing = `select ${line('null::varchar')} where false`
const something = 'known or dirty or tries > 0'

/** Above this share of all keys, what is recent is made one with the rest. */
const largestRecent = 0.25

/**
 * The effective snapshot as the view `snapshot`: what is on disk, and over it what was learnt of the plan's items. `open_item`
 * holds those items of it that are neither delivered nor rejected. Answers how many bytes a row has in these files, about.
 */
export async function loadSnapshot(connection: DuckDBConnection, state: SyncState): Promise<number> {
  await state.intact()
  const kept = await keptIn(connection, state)
  const rowBytes = widthOf(kept)
  await allowFor(connection, rowBytes)
  const plan = state.plan && literal(join(state.folder, state.plan.file))
  const recent = linesOf(state, state.snapshot.recent, kept)
  const ledger = plan ? await loadLedger(connection, state) : undefined
  const written = writtenIn(state, kept)
  if (!ledger) {
    await connection.run(`
      create view written as ${written};
      create view learnt as ${nothing};
      create view recent as ${recent};
      create view open_item as select null::bigint as stage, null::varchar as key, null::bigint as batch, null::varchar as state where false`)
  } else {
    // of what was there before everything was replaced, only what is refused again and again is still of interest
    const refused = `select key, false as known, false as dirty, null as hi, null as lo, null as record, null as other, null as remote_id,
      null as landing, tried, tries from (${written}) where tries > 0`
    const known = ledger.replacing === 'settled' ? refused : written
    // cleared and not filled again, for all that is known: nothing of it is certain, and even with no key left it is not as it
    // should be
    const void_ = `select * replace (true as dirty) from (${known}) union all select * replace (true as dirty) from (select ${line(`'void'`)})`
    // in a line without an item, the record is missing
    const alone =
      ledger.uniform &&
      !ledger.replacing &&
      (await countOf(connection, `read_parquet(${plan}) where item is null`)) === 0
    await connection.run(`
      create view written as ${ledger.replacing === 'void' ? void_ : known};
      create view old_item as ${oldItems(plan!, ledger.uniform)};
      create view open_item as select stage, key, batch, state from old_item where state in ('pending', 'unknown') and stage is not null;
      create view told as ${alone ? toldAlone : told};
      create view learnt as from told`)
    // where every record is found by its own key, no other can have had it
    if (
      (await countOf(connection, 'old_item where other is not null')) +
        (await countOf(connection, 'written where other is not null')) >
      0
    ) {
      await connection.run(`create or replace view learnt as ${passedOn}`)
    }
    await connection.run(`
      create view recent as from learnt union all from (${recent}) anti join learnt using (key)`)
  }
  await connection.run(`create view snapshot as
    select *, nullif(coalesce(other, key), '') as match
    from (${ledger ? 'from written anti join learnt using (key) union all from learnt' : 'from written'}) where ${something}`)
  return rowBytes
}

/** What the files say. */
function writtenIn(state: SyncState, kept: readonly FileColumn[]): string {
  const { base, recent } = state.snapshot
  const [all, newer] = [linesOf(state, base, kept), linesOf(state, recent, kept)]
  return recent ? `from (${all}) anti join (${newer}) using (key) union all ${newer}` : all
}

/** The lines of a file. Most of its columns say the same of every key, as a rule: those are not read. */
function linesOf({ folder }: SyncState, part: SnapshotFile | undefined, kept: readonly FileColumn[]): string {
  if (!part) return nothing
  const file = join(folder, part.file)
  const alike = new Map(kept.flatMap((one) => (one.file === file ? [[one.name, one.same]] : [])))
  const selected = Object.entries(types).map(([name, type]) => {
    const same = alike.get(name)
    return same === undefined ? name : `${same === null ? 'null' : literal(same)}::${type} as ${name}`
  })
  return `select ${selected.join()} from read_parquet(${literal(file)})`
}

/**
 * A select of the fingerprints of all that the destination surely has, over files alone; `undefined` as long as more is to be
 * learnt from a plan.
 */
export function knownFingerprints(state: SyncState): string | undefined {
  const { base } = state.snapshot
  return base && !state.plan ? `select hi, lo from (${writtenIn(state, [])}) where known and not dirty` : undefined
}

/**
 * By what the source can tell that it has nothing else than what the destination has; `undefined` where there is more to do than to
 * read it, or its rows become other records now.
 */
export function deliveredEtag({ reads, delivered }: SyncState, version: string): string | undefined {
  return reads.length === 0 && delivered?.version === version ? delivered.etag : undefined
}

/** The plan's items, and what became of each. */
function oldItems(plan: string, uniform: boolean): string {
  if (uniform) {
    return `select *, null::bigint as batch, false as in_doubt, null::bigint as unanswered,
      case when item is null then 'unchanged' else 'delivered' end as state, null::varchar as receipt from read_parquet(${plan})`
  }
  return `select p.*, b.id as batch, p.doubt or coalesce(b.doubt and p.item < b.past, false) as in_doubt,
      case when b.doubt and p.item < b.past then b.sent_at end as unanswered,
      case when p.item is null then 'unchanged' when b.first is null or p.item >= b.past then 'pending'
        when j.item is not null then 'rejected' when b.state = 'settled' then 'delivered' else 'unknown' end as state,
      r.remote_id as receipt
    from read_parquet(${plan}) p asof left join batch b on p.item >= b.first left join rejected j on p.item = j.item
      left join receipt r on p.item = r.item`
}

/** The keys of which a plan's items have told something, as they are in the snapshot from now on. */
const told = `
  select key, l.state = 'delivered' and l.operation <> 'delete' or l.state <> 'delivered' and coalesce(b.known, false) as known,
    l.state <> 'delivered' and (l.in_doubt or l.state = 'unknown' or coalesce(b.dirty, false)) as dirty,
    case when l.state in ('delivered', 'unchanged') then l.hi else b.hi end as hi,
    case when l.state in ('delivered', 'unchanged') then l.lo else b.lo end as lo,
    case when touched then coalesce(case when l.operation <> 'delete' then l.record end, b.record) else b.record end as record,
    case when touched and l.match_known then l.other else b.other end as other,
    coalesce(l.receipt, l.remote_id, b.remote_id) as remote_id,
    coalesce(l.unanswered, b.landing) as landing,
    case l.state when 'delivered' then null when 'rejected' then l.tried else b.tried end as tried,
    case l.state when 'delivered' then 0 when 'rejected' then 1 + case when b.tried = l.tried then b.tries else 0 end else coalesce(b.tries, 0) end as tries
  from (
    select * replace (case when problem is null then record end as record), state = 'delivered' or in_doubt or state = 'unknown' as touched,
      problem is null as match_known,
      case when state = 'rejected' then case when operation = 'delete' then 'delete' else md5(concat(record, problem)) end end as tried
    from old_item where key is not null and state in ('delivered', 'unchanged', 'rejected', 'unknown')
  ) l left join written b using (key)`

/** The same where every item was simply delivered: what the snapshot knows of their keys besides is in the items. */
const toldAlone = `
  select key, operation <> 'delete' as known, false as dirty, hi, lo, case when operation <> 'delete' then record end as record, other,
    remote_id, landing, null as tried, 0 as tries
  from old_item where key is not null`

const byAnother = (how: string) =>
  `exists (select 1 from taken t where t.match = coalesce(c.other, c.key) and t.key <> c.key and ${how})`

/**
 * The same, and the keys whose object an item of another key has written or deleted: it is not theirs any more, or, where nobody
 * answered, perhaps not.
 */
const passedOn = `
  with taken as (
    select coalesce(other, key) as match, key, bool_or(state = 'delivered') as surely
    from old_item where item is not null and problem is null and (state in ('delivered', 'unknown') or in_doubt) group by all
  ), candidate as (
    from told union all from written anti join told using (key)
  )
  select c.* replace (c.known and not ${byAnother('surely')} as known,
    case when ${byAnother('surely')} then false when ${byAnother('true')} then true else c.dirty end as dirty)
  from candidate c where ${byAnother('true')} or c.key in (select key from told)`

/** The ledger as tables. Answers whether every item was simply delivered, and how far a replacement of everything has come. */
async function loadLedger(
  connection: DuckDBConnection,
  state: SyncState,
): Promise<{ uniform: boolean; replacing: 'settled' | 'void' | undefined }> {
  await connection.run(`
    create table batch (id bigint, first bigint, past bigint, state varchar, doubt boolean, sent_at bigint);
    create table rejected (item bigint);
    create table receipt (item bigint, remote_id varchar)`)
  const batches = [...state.batches()]
  const ranges = batches.flatMap(({ id, ranges, state: became, doubt, sentAt }) =>
    ranges.map(([first, count]) => [BigInt(id), BigInt(first), BigInt(first + count), became, doubt, BigInt(sentAt)]),
  )
  await fill(connection, 'batch', [ranges])
  await fill(connection, 'rejected', [batches.flatMap(({ rejected }) => rejected.map((item) => [BigInt(item)]))])
  let receipts = 0
  for (const some of state.receipts()) {
    receipts += some.length
    await fill(connection, 'receipt', [some.map(([item, id]) => [BigInt(item), id])])
  }
  const replacement = batches.find(({ operation }) => operation === 'replace')
  const { delivered } = state.tally(0, state.plan!.items)
  return {
    uniform: delivered === state.plan!.items && receipts === 0 && !batches.some(({ doubt }) => doubt),
    replacing: replacement && (replacement.state === 'settled' ? 'settled' : 'void'),
  }
}

/**
 * Makes the effective snapshot the files from which the next one is made, without the keys in the table `forgotten`, where
 * there is one.
 */
export async function writeSnapshot(
  connection: DuckDBConnection,
  state: SyncState,
  name: string,
  forgets = false,
): Promise<SnapshotRow> {
  const { base, recent } = state.snapshot
  // without an old plan nothing was learnt since
  if (!state.plan && !forgets) return state.snapshot
  const rest = forgets ? ' anti join forgotten using (key)' : ''
  const rowBytes = widthOf(await keptIn(connection, state))
  const write = async (part: string, select: string): Promise<SnapshotFile> => {
    const file = `snapshot-${part}-${name}`
    await copyDurably(connection, join(state.folder, file), select, { rowBytes, ordered: false })
    return { file, rows: await countOf(connection, `read_parquet(${literal(join(state.folder, file))})`) }
  }
  const few = base && (recent?.rows ?? 0) + (state.plan?.items ?? 0) <= base.rows * largestRecent
  if (!few || replaced(state))
    return { base: await write('base', `select ${columns} from snapshot${rest}`), recent: undefined }
  const hidden = forgets ? ` union all select ${line('key')} from forgotten` : ''
  return { base, recent: await write('recent', `select ${columns} from recent${rest}${hidden}`) }
}

/** What the plan was made from, where all of that is delivered now. */
function allOf(state: SyncState): SourceAsRead | undefined {
  const { items, counts } = state.plan!
  // whether everything was cleared, no item tells
  const cleared = counts.replaces && items === 0
  return state.tally(0, items).delivered === items && !cleared ? madeFrom(counts) : undefined
}

/** What a plan was made from, where nothing of it is left out of its items. */
export function madeFrom({ version, etag, waiting, waitingDeletes }: PlanCounts): SourceAsRead | undefined {
  return etag !== undefined && waiting + waitingDeletes === 0 ? { version, etag } : undefined
}

/** The columns of the files that tell what was delivered. */
function keptIn(connection: DuckDBConnection, { folder, snapshot, plan }: SyncState): Promise<FileColumn[]> {
  const files = [snapshot.base, snapshot.recent, plan].flatMap((one) => (one ? join(folder, one.file) : []))
  return columnsIn(connection, files)
}

function replaced(state: SyncState): boolean {
  for (const { operation } of state.batches()) if (operation === 'replace') return true
  return false
}

/** Folds a plan whose every item is terminal into the snapshot, and lets go of the rows that it was made from. */
export async function compact(state: SyncState, root: Duckdb): Promise<void> {
  if (!state.plan) return
  const database = await root.workspace()
  try {
    await loadSnapshot(database.connection, state)
    const snapshot = await writeSnapshot(database.connection, state, state.plan.file.replace('plan-', 'done-'))
    const planned = state.reads.filter(({ first, rows }) => first + rows <= state.plan!.through)
    await state.swap({ plan: undefined, snapshot, delivered: allOf(state), unknown: [], free: planned, closed: [] })
  } finally {
    await database.close()
  }
}
