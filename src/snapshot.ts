import { join } from 'node:path'
import type { DuckDBConnection } from '@duckdb/node-api'
import { copyTo, countOf, fill, literal, openDuckdb } from './duckdb.js'
import type { SnapshotRow, SyncState } from './state/state.js'

// snapshot-N.parquet, a line for each key of which anything is known:
//   key
//   known      the destination has acknowledged it, as `record`
//   dirty      perhaps written or deleted by an attempt that nobody answered: whatever `record` says may be wrong
//   raw        fingerprint of the source's row from which `record` was made
//   record     as it was last delivered (of a dirty key that was never acknowledged: as it was last sent)
//   match      what `record` holds in the fields by which the destination finds its object
//   remote_id  the destination's own id
//   landing    when the last attempt left before which another one got no answer (ms since 1970): that one may still land
//   tried      fingerprint of what was refused last, and `tries`, in how many plans in a row

const columns = 'key, known, dirty, raw, record, match, remote_id, landing, tried, tries'
const nothing = `select null::varchar as key, false as known, false as dirty, null::varchar as raw, null::varchar as record,
  null::varchar as match, null::varchar as remote_id, null::bigint as landing, null::varchar as tried, 0 as tries where false`

/**
 * The effective snapshot as the table `snapshot`: what is on disk, and over it what was learnt of the plan's items. `open_item`
 * holds those items of it that are neither delivered nor rejected.
 */
export async function loadSnapshot(connection: DuckDBConnection, state: SyncState): Promise<void> {
  const plan = state.plan && literal(join(state.folder, state.plan.file))
  const base = state.snapshot && literal(join(state.folder, state.snapshot.file))
  await connection.run(`
    create table batch (id bigint, first bigint, past bigint, state varchar, doubt boolean, sent_at bigint);
    create table rejected (item bigint);
    create table receipt (item bigint, remote_id varchar)`)
  const replacing = plan ? await loadLedger(connection, state) : undefined
  const written = base ? `select ${columns} from read_parquet(${base})` : nothing
  // of what was there before everything was replaced, only what is refused again and again is still of interest
  const refused = `select key, false as known, false as dirty, null as raw, null as record, null as match, null as remote_id, null as landing, tried, tries
    from (${written}) where tries > 0`
  const known = replacing === 'settled' ? refused : written
  // cleared and not filled again, for all that is known: nothing of it is certain, and even with no key left it is not as it should be
  const void_ = `select * replace (true as dirty) from (${known}) union all select 'void', false, true, null, null, null, null, null, null, 0`
  await connection.run(`
    create view base as ${replacing === 'void' ? void_ : known};
    create table old_item as ${
      plan
        ? `select p.*, b.id as batch, p.doubt or coalesce(b.doubt and p.item < b.past, false) as in_doubt,
            case when b.doubt and p.item < b.past then b.sent_at end as unanswered,
            case when p.item is null then 'unchanged' when b.first is null or p.item >= b.past then 'pending'
              when j.item is not null then 'rejected' when b.state = 'settled' then 'delivered' else 'unknown' end as state
          from read_parquet(${plan}) p asof left join batch b on p.item >= b.first left join rejected j on p.item = j.item`
        : `select null::bigint as item, null::bigint as stage, null::varchar as key, null::varchar as operation, null::varchar as raw,
            null::varchar as record, null::varchar as match, null::varchar as problem, null::varchar as remote_id, false as doubt,
            null::bigint as landing, null::bigint as batch, false as in_doubt, null::bigint as unanswered, '' as state where false`
    };
    create table open_item as select stage, key, batch, state from old_item where state in ('pending', 'unknown') and stage is not null;
    create table learnt as
      select o.* replace (coalesce(r.remote_id, o.remote_id) as remote_id, case when o.problem is null then o.record end as record),
        case when o.operation = 'delete' then 'delete' else md5(concat(o.record, o.problem)) end as tried
      from old_item o left join receipt r on o.item = r.item
      where o.key is not null and o.state in ('delivered', 'unchanged', 'rejected', 'unknown');
    create table snapshot as
      select coalesce(l.key, b.key) as key,
        coalesce(l.state = 'delivered', false) or coalesce(b.known, false) as known,
        case when l.state = 'delivered' then false else coalesce(l.in_doubt or l.state = 'unknown', false) or coalesce(b.dirty, false) end as dirty,
        case when l.state in ('delivered', 'unchanged') then l.raw else b.raw end as raw,
        case when l.state = 'delivered' or l.in_doubt or l.state = 'unknown' then coalesce(case when l.operation <> 'delete' then l.record end, b.record) else b.record end as record,
        case when l.state = 'delivered' or l.in_doubt or l.state = 'unknown' then coalesce(l.match, b.match) else b.match end as match,
        coalesce(l.remote_id, b.remote_id) as remote_id,
        coalesce(l.unanswered, b.landing) as landing,
        case l.state when 'delivered' then null when 'rejected' then l.tried else b.tried end as tried,
        case l.state when 'delivered' then 0 when 'rejected' then 1 + case when b.tried = l.tried then b.tries else 0 end else coalesce(b.tries, 0) end as tries
      from base b full join learnt l on b.key = l.key
      where not (coalesce(l.state, '') = 'delivered' and l.operation = 'delete')`)
}

/** Answers how far a replacement of everything has come. */
async function loadLedger(connection: DuckDBConnection, state: SyncState): Promise<'settled' | 'void' | undefined> {
  const batches = [...state.batches()]
  const ranges = batches.flatMap(({ id, ranges, state: became, doubt, sentAt }) =>
    ranges.map(([first, count]) => [BigInt(id), BigInt(first), BigInt(first + count), became, doubt, BigInt(sentAt)]),
  )
  await fill(connection, 'batch', [ranges])
  await fill(connection, 'rejected', [batches.flatMap(({ rejected }) => rejected.map((item) => [BigInt(item)]))])
  for (const receipts of state.receipts()) {
    await fill(connection, 'receipt', [receipts.map(([item, id]) => [BigInt(item), id])])
  }
  const replacement = batches.find(({ operation }) => operation === 'replace')
  return replacement && (replacement.state === 'settled' ? 'settled' : 'void')
}

/** Makes the table `snapshot` the file from which the next one is made. */
export async function writeSnapshot(
  connection: DuckDBConnection,
  state: SyncState,
  file: string,
): Promise<SnapshotRow | undefined> {
  // without an old plan nothing was learnt since
  if (!state.plan) return state.snapshot
  await copyTo(connection, join(state.folder, file), `select ${columns} from snapshot order by key`)
  return { file, rows: await countOf(connection, 'snapshot') }
}

/** Folds a plan whose every item is terminal into the snapshot, and lets go of the rows that it was made from. */
export async function compact(state: SyncState): Promise<void> {
  if (!state.plan) return
  const database = await openDuckdb(join(state.folder, 'spill'))
  try {
    await loadSnapshot(database.connection, state)
    const snapshot = await writeSnapshot(database.connection, state, state.plan.file.replace('plan-', 'snapshot-done-'))
    const planned = state.reads.filter(({ first, rows }) => first + rows <= state.plan!.through)
    await state.swap({ plan: undefined, snapshot, unknown: [], free: planned, closed: [] })
  } finally {
    await database.close()
  }
}
