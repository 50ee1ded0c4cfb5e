import type { Client, QueryArrayResult } from 'pg'
import { interruptible, refused, verbatim } from './postgres-connection.js'

// Whether a table has the rows that it had, without reading them. Every version of a row names the transaction that wrote it
// (`xmin`, https://www.postgresql.org/docs/current/ddl-system-columns.html). Where all rows that are seen now were written by
// transactions that had ended before the snapshot of an earlier read, that read saw them all, and where they are as many, it
// saw no others.

/** What an earlier read saw. */
interface Seen {
  /** Whatever this transaction or a later one writes was not seen. */
  readonly before: string
  /** Which server and database this is, which table, and which columns. */
  readonly table: string
}

/**
 * Types whose text is made of the stored bytes and of settings that are ours, by their numbers in PostgreSQL's pg_type.dat. That
 * of an enum is made of its labels, which are told too.
 */
const plainTypes = [
  ...[16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 650, 700, 701, 774, 829, 869, 1042, 1043, 1082, 1083, 1114, 1184, 1186],
  ...[1266, 1560, 1562, 1700, 2950, 3802],
]

/**
 * After a crash, numbers of transactions that were not yet on the disk may be given again: statistics are reset then
 * (https://www.postgresql.org/docs/current/monitoring-stats.html). Another server, or one that was restored or promoted, started
 * at another time. A database made from a template has the template's numbers of tables and transactions. Tables of extensions
 * and forks that keep rows on several servers have several numberings. A machine that is set back to an earlier moment while its
 * server runs is not told apart.
 */
const seenQuery = `
  select pg_snapshot_xmin(pg_current_snapshot())::text,
    concat_ws(' ', pg_postmaster_start_time(), (select stats_reset from pg_stat_bgwriter), d.oid, c.oid, c.relfilenode, c.xmin, columns)
  from pg_database d, pg_class c, lateral (
    select string_agg(concat_ws(' ', attnum, a.xmin, labels), ',' order by attnum) as columns,
      bool_and(attgenerated <> 'v' and (item in (${plainTypes.join()}) or labels is not null)) as plain
    from pg_attribute a join pg_type t on t.oid = a.atttypid,
      lateral (select case when t.typcategory = 'A' then t.typelem else t.oid end as item) i,
      lateral (select string_agg(concat_ws(' ', e.oid, e.xmin), ' ' order by e.oid) as labels from pg_enum e where enumtypid = item) e
    where attrelid = c.oid and attnum > 0 and not attisdropped
  ) a
  where datname = current_database() and c.oid = $1::regclass and c.oid >= 16384 and plain
    and relkind = 'r' and not relhassubclass and not relrowsecurity and has_table_privilege(c.oid, 'select')
    and relam = (select oid from pg_am where amname = 'heap')
    and not exists (select from pg_extension where extname = 'citus')
    and to_regclass('pg_catalog.gp_distribution_policy') is null`

/** What a read of a table in this transaction sees; `undefined` where nothing can be told later without reading it. */
export async function seen(client: Client, table: string): Promise<Seen | undefined> {
  // a server that only speaks the protocol may know nothing of all this, and a transaction does not outlive an error
  await client.query('savepoint seen')
  try {
    const [found] = await textsOf(client, seenQuery, table)
    return found && { before: found[0]!, table: found[1]! }
  } catch (error) {
    if (!refused(error)) throw error
    await client.query('rollback to savepoint seen')
    return undefined
  }
}

/** What tells a later read that the rows are still these. */
export function etagOf({ before, table }: Seen, rows: number): string {
  return JSON.stringify({ rows, before, table })
}

/** How many rows the table has, where they are those of the read that made the etag; otherwise `undefined`. */
export async function unmodified(
  client: Client,
  table: string,
  now: Seen,
  etag: string,
  signal: AbortSignal,
): Promise<number | undefined> {
  const then = JSON.parse(etag) as Seen & { readonly rows: number }
  // transactions are told apart by 32 bits
  if (now.table !== then.table || BigInt(now.before) - BigInt(then.before) >= 1n << 30n) return undefined
  const counting = textsOf(
    client,
    `select count(*), coalesce(min(age(xmin)) > age(xid($1::xid8)), true) from ${table}`,
    then.before,
  )
  const [found] = await interruptible(client, counting, signal)
  const [rows, older] = found!
  return Number(rows) === then.rows && older === 't' ? then.rows : undefined
}

async function textsOf(client: Client, text: string, value: string): Promise<readonly (readonly string[])[]> {
  const result = (await client.query({
    text,
    values: [value],
    rowMode: 'array',
    types: verbatim,
  })) as unknown as QueryArrayResult<string[]>
  return result.rows
}
