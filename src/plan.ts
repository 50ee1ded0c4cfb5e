import { hash, randomUUID } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { DuckDBConnection } from '@duckdb/node-api'
import type { Operation } from './destination.js'
import {
  allowFor,
  copyDurably,
  copyTo,
  countOf,
  type Duckdb,
  fill,
  LineFile,
  openDuckdb,
  roomless,
  rowsOf,
  streamed,
} from './duckdb.js'
import { ConfigError } from './errors.js'
import { type Incoming, type Rows, readRows, selected } from './incoming.js'
import { type MakeRecord, Unfit } from './record.js'
import { loadSnapshot, madeFrom, writeSnapshot } from './snapshot.js'
import { NotModified, type Sifted } from './source.js'
import { metOnce, sift } from './sources/sift.js'
import { literal, nullMark } from './sources/sql.js'
import { rowLine } from './stage.js'
import type { LedgerBatch, PlanCounts, PlanRow, SyncState } from './state/state.js'
import { type AnyRow, areSame, decodeTexts, keyOf, losslessText, surelyDiffer } from './values.js'
import { messageOf } from './verdict.js'

// What was read is compared with what the destination has acknowledged by an embedded DuckDB, which spills to disk: keys
// never have to fit in memory. A fingerprint of the source's row, its key included, decides first, in SQL; only rows whose
// fingerprint the snapshot does not have become objects and are made into records.
//
// plan-N.parquet: item · stage (the staged row's ordinal) · key · operation · hi, lo · record · other · problem · remote_id ·
// doubt · landing · held_by, in the order of item. A line without item tells that a row changed and its record did not.

/** A record that was refused so many times in a row waits until it changes, or until it is sent again by a redrive. */
const mostTries = 3

export interface PlanOptions {
  /** What was delivered, and what is open of it. */
  readonly state: SyncState
  /** The rows to compare; in a partial read with those that are still open in the plan before. */
  readonly incoming: Incoming
  /** Stages rows that are not staged yet, as lines, and answers the ordinal of the first; without it, nothing is to be sent. */
  readonly keep: ((lines: readonly string[]) => Promise<number>) | undefined
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
  /** A row that has a key is its own record, which is found by that key. */
  readonly asTheyAre: boolean
  /** What the records are made by. */
  readonly version: string
  /** The read showed the whole source: what it does not show again is superseded, and a key twice is an error. */
  readonly complete: boolean
  /** Sends everything, whatever was delivered. */
  readonly full: boolean
  /** A DuckDB to do it with, where there is something to do. */
  readonly database: () => Promise<Duckdb>
  /** A folder for files, which goes with the comparison. */
  readonly folder: string
  /** Keys that are tried again, however often they were refused; or all. */
  readonly again: ReadonlySet<string> | 'all'
}

/** What is to be delivered of a plan; without a single item, none is kept. */
export type Planned = Pick<PlanRow, 'items' | 'fresh' | 'counts'>

/** A comparison, before it counts. */
export interface Comparison {
  readonly counts: PlanCounts
  /** Rows that were read by this run. */
  readonly rows: number
  /** Keys that the destination has acknowledged so far, and how many of them would be deleted. */
  readonly known: number
  readonly knownDeletes: number
  /** Keys that are or may be at the destination and are not in the source. */
  readonly gone: number
  /** The same for two comparisons that find the same to do. */
  digest(): Promise<string>
  /** Puts the plan in place of the one before, and what that one delivered into the snapshot. */
  commit(): Promise<Planned>
  /** Writes what is to be done, for somebody to look at, into a file; {@link readChanges} reads it. */
  writeChanges(file: string): Promise<void>
  close(): Promise<void>
}

/**
 * Compares what was read with the snapshot. Open items of the plan before are carried over (partial read) or superseded
 * (complete read).
 *
 * @throws ConfigError naming keys that occur twice in a complete read.
 */
export async function compare({
  incoming,
  ...how
}: Omit<PlanOptions, 'incoming'> & { readonly incoming: Incoming | NotModified }): Promise<Comparison> {
  if (incoming instanceof NotModified) return nothingNew(incoming, how)
  const options = { ...how, incoming }
  const database = await (await options.database()).workspace()
  const close = async (): Promise<void> => {
    await database.close()
    await rm(options.folder, { recursive: true, force: true })
  }
  try {
    const { known, ...found } = await findChanges(database, options)
    const findings = await findingsOf(database.connection, options, found)
    return { ...(await comparison(database.connection, options, findings)), known, close }
  } catch (error) {
    await close()
    throw roomless(error, options.where)
  }
}

/** What there is to do where the destination has all that the source has. */
function nothingNew({ rows }: NotModified, { state, database }: Omit<PlanOptions, 'incoming'>): Comparison {
  const none = { insert: 0, update: 0, delete: 0, unfit: 0, waiting: 0, waitingDeletes: 0, superseded: 0 }
  const carried = { carriedUnchanged: 0, carriedWaiting: 0, carriedSuperseded: 0 }
  const counts: PlanCounts = { ...none, ...carried, replaces: false, unchanged: rows, ...state.delivered! }
  return {
    counts,
    rows,
    known: rows,
    knownDeletes: 0,
    gone: 0,
    digest: async () => noChanges,
    commit: async () => ({ items: 0, fresh: 0, counts }),
    async writeChanges(file) {
      const texts = ['operation', 'record', 'problem', 'before'].map((name) => `null::varchar as ${name}`)
      const { connection } = await database()
      await copyTo(connection, file, `select ${texts.join()} where false`, { rowBytes: 1, ordered: true })
    },
    close: async () => {},
  }
}

/** The digest of a plan without changes. */
const noChanges = 'nothing'

/** Makes the view `made`: what is to be done about each row that may be news to the destination, and about keys that are gone. */
async function findChanges(database: Duckdb, options: PlanOptions): Promise<Found & { readonly known: number }> {
  const { state, incoming, operation, deletes, folder, key } = options
  const { connection } = database
  const rowBytes = await loadSnapshot(connection, state)
  await connection.run(`create view incoming as ${key ? incoming.relation : withoutKey(incoming.relation)}`)
  const before = await countsBefore(connection)
  // rows can be wide, and a table would have to hold more of them in memory than a file
  const keep = async (name: string, select: string): Promise<void> => {
    const file = join(folder, `${name}.parquet`)
    await mkdir(folder, { recursive: true })
    await copyTo(connection, file, select, { rowBytes, ordered: false })
    await connection.run(`create view ${name} as from read_parquet(${literal(file)})`)
  }
  const rows = await choose(connection, options, before, keep)
  const made = new LineFile(join(folder, 'made.lines'))
  const apart = await writeMade(database, options, options.complete && before.all === 0, made)
  await connection.run(`
    create view row_made as ${decoded(await made.end(madeColumns))};
    create table owner (match varchar, key varchar, rank bigint, line bigint);
    create table rival (line bigint, key varchar)`)
  // where every record is found by its own key, no other can have it
  if (operation !== 'replace' && (apart || before.apart > 0)) await settleOwners(connection)
  await allowFor(connection, Math.max(rowBytes, made.lineBytes))
  const gone = new LineFile(join(folder, 'gone.lines'))
  const deleted = deletes && (await writeDeletes(database, options, gone))
  const judgedRows = await judged(connection, options)
  await connection.run(
    `create view made as ${judgedRows} ${deleted ? `union all ${decoded(await gone.end(madeColumns))}` : ''}`,
  )
  return { known: before.known, rows, rowBytes: Math.max(made.lineBytes, gone.lineBytes) }
}

interface Found {
  /** Rows of a complete read. */
  readonly rows: number | undefined
  /** Bytes of what is to be done about a row, about. */
  readonly rowBytes: number
}

/** What was found, counted. */
interface Findings extends Found {
  readonly tallies: readonly Tallied[]
  /** Keys that are or may be at the destination and are not in the source. */
  readonly gone: number
  /** Everything is replaced. */
  readonly replaces: boolean
}

async function findingsOf(connection: DuckDBConnection, { operation }: PlanOptions, found: Found): Promise<Findings> {
  const tallies = await talliesOf(connection)
  const gone = await countOf(connection, 'gone')
  const differs = tallies.some(({ kind, unfit }) => !unfit && (kind === 'insert' || kind === 'update'))
  return { ...found, tallies, gone, replaces: operation === 'replace' && (gone > 0 || differs) }
}

/** Which kinds are sent. */
function sentKinds(replaces: boolean): readonly Kind[] {
  return replaces ? ['insert', 'update', 'same'] : ['insert', 'update', 'delete']
}

async function comparison(
  connection: DuckDBConnection,
  options: PlanOptions,
  findings: Findings,
): Promise<Omit<Comparison, 'known' | 'close'>> {
  const { operation, complete } = options
  const { tallies, gone, replaces, rowBytes } = findings
  const kinds = sentKinds(replaces)
  const items = tallies.filter(({ kind }) => kinds.includes(kind))
  const { counts, rows } = await countsOf(connection, options, findings)
  const planned: Planned = { items: sum(items), fresh: sum(items.filter(({ carried }) => carried)), counts }
  const isItem = `kind in (${kinds.map(literal).join()})`
  const asOperation = `case kind when 'delete' then 'delete' else '${operation}' end`
  return {
    counts,
    rows,
    knownDeletes: sum(tallies.filter(({ kind, known }) => kind === 'delete' && known)),
    gone: complete ? gone : 0,
    async digest() {
      const [found] = await rowsOf<{ digest: string | null }>(
        connection,
        `select bit_xor(md5_number(concat_ws(chr(31), ${asOperation}, key, record, problem)))::varchar as digest from made where ${isItem}`,
      )
      return found!.digest ?? noChanges
    },
    async commit() {
      const plan = `select row_number() over () - 1 as item, n as stage, key, ${asOperation} as operation, hi, lo, record, other, problem,
          remote_id, doubt, landing, held_by from (from made where ${isItem})`
      const refresh = `select null as item, n as stage, key, '${operation}' as operation, hi, lo, null as record, null as other, null as problem,
          null as remote_id, false as doubt, null as landing, null as held_by from made where kind = 'same'`
      const refreshed = kinds.includes('same') ? 0 : sum(tallies.filter(({ kind }) => kind === 'same'))
      const select = refreshed > 0 ? `${plan} union all ${refresh}` : plan
      await commitPlan(connection, options, planned, { select, rowBytes, refreshed }).catch((error) => {
        throw roomless(error, options.where)
      })
      return planned
    },
    async writeChanges(file) {
      const select = `select ${asOperation} as operation, record, problem, case kind when 'same' then record else before end as before
        from made where ${isItem}`
      await copyTo(connection, file, select, { rowBytes, ordered: true })
    },
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
    const select = `select operation, record, problem, before from read_parquet(${literal(file)})`
    for await (const { count, columns } of streamed(database, select)) {
      const [operations, records, problems, befores] = columns
      for (let index = 0; index < count; index++) {
        const before: string | null = befores![index]
        yield {
          operation: operations![index] as Operation,
          record: decodeTexts([records![index]])[0]!,
          problem: problems![index] ?? undefined,
          before: before === null ? undefined : decodeTexts([before])[0],
        }
      }
    }
  } finally {
    await database.close()
  }
}

// ---- which rows to look at ---------------------------------------------------------------------------------------

/** How many keys the snapshot has, and of what kinds. */
interface Before {
  readonly all: number
  /** Acknowledged, and of these, certain. */
  readonly known: number
  readonly clean: number
  readonly unclean: number
  /** Found by anything but the key. */
  readonly apart: number
}

async function countsBefore(connection: DuckDBConnection): Promise<Before> {
  const [counts] = await rowsOf<Record<keyof Before, bigint>>(
    connection,
    `select count(*) as "all", count(*) filter (known) as known, count(*) filter (known and not dirty) as clean,
       count(*) filter (not (known and not dirty)) as unclean, count(other) as apart from snapshot`,
  )
  return Object.fromEntries(Object.entries(counts!).map(([name, value]) => [name, Number(value)])) as unknown as Before
}

/** Rows without a key are told apart by what they hold, and equal ones by their number. */
function withoutKey(relation: string): string {
  return `select * exclude (copy) replace (concat(hi, '-', lo, '#', copy) as key, xor(hi, (copy - 1)::ubigint) as hi)
    from (select *, row_number() over (partition by hi, lo order by n) as copy from (${relation}))`
}

/**
 * Makes of the view `incoming`: `chosen`, rows that may be news to the destination; `wanted`, those of them to make records of,
 * with their payload and place; `suspect`, what the snapshot knows of their keys, and of keys of which the source may have nothing
 * any more; `gone`, of which it has nothing. Answers how many rows a complete read has.
 */
async function choose(
  connection: DuckDBConnection,
  options: PlanOptions,
  before: Before,
  keep: Keep,
): Promise<number | undefined> {
  const { operation, complete, full } = options
  // held: an insert that may have been applied is not repeated, and its key is not inserted a second time
  const inserts = operation === 'insert'
  await connection.run(
    `create view held as select key, any_value(batch) as batch from open_item where state = 'unknown' and ${inserts} group by key`,
  )
  const rows = complete
    ? await chooseOfAll(connection, options, before, keep)
    : await chooseOfSome(connection, options, keep)
  const known = inserts && !full ? 'anti join (from suspect where known) using (key)' : ''
  await connection.run(`create view wanted as from candidate ${known}`)
  return rows
}

/** Keeps what a query gives, under a name. */
type Keep = (name: string, select: string) => Promise<void>

const clean = '(select hi, lo from snapshot where known and not dirty)'

/** Of a read that shows a part of the source. Older rows of a key do not count. */
async function chooseOfSome(
  connection: DuckDBConnection,
  { incoming, full }: PlanOptions,
  keep: Keep,
): Promise<undefined> {
  await connection.run(`
    create table ranked as select input, n, carried, key, hi, lo,
      key is not null and row_number() over (partition by key order by input desc, n desc) > 1 as older from incoming;
    create view chosen as from ranked ${full ? '' : `anti join ${clean} using (hi, lo)`} where not older;
    create view candidate as select *, ${incoming.place} as place from incoming semi join chosen using (input, n);
    create view gone as from snapshot where false`)
  await keep('suspect', 'from snapshot semi join chosen using (key)')
}

/** Of a read that shows the whole source. */
async function chooseOfAll(
  connection: DuckDBConnection,
  options: PlanOptions,
  before: Before,
  keep: Keep,
): Promise<number> {
  const { incoming, operation, full, key } = options
  const { place, staged, sifted } = incoming
  const placed = `select *, ${place} as place from incoming`
  const compares = before.clean > 0 && !full
  if (sifted)
    await connection.run(`create view spillway_news as ${placed}; create view spillway_missed as ${sifted.missed}`)
  const found = sifted?.counts ?? (compares ? await sift(connection, 'from incoming', clean, '', keep) : undefined)
  const differs = found === undefined || found.news + found.missed + before.unclean > 0
  // everything is replaced, or nothing
  const all = !found || (operation === 'replace' && differs)
  if (all) {
    await connection.run(`create view candidate as ${placed}; create view suspect as from snapshot`)
  } else {
    await connection.run(
      `create view candidate as ${staged ? 'select * replace ((input, n) as place) from spillway_news' : 'from spillway_news'}`,
    )
    // a part of which nothing comes would take as long as one
    const missed =
      found.missed > 0 && 'from snapshot semi join spillway_missed using (hi, lo) where known and not dirty'
    const unclean = before.unclean > 0 && 'from snapshot where not (known and not dirty)'
    const parts = [missed, unclean].filter((part) => part !== false)
    await keep('suspect', parts.join(' union all ') || 'from snapshot where false')
  }
  await connection.run('create view chosen as select key from candidate')
  if (key) await refuseDuplicates(connection, options, all ? undefined : found)
  await connection.run(`
    create table gone_key as select key from suspect anti join chosen using (key) where known or dirty;
    create view gone as from suspect semi join gone_key using (key)`)
  return found?.rows ?? countOf(connection, 'incoming')
}

/**
 * A complete read has each key once. Whatever is in the snapshot as it is in the source is there once: when that was `found`, few
 * are left to count.
 */
async function refuseDuplicates(
  connection: DuckDBConnection,
  { where, key, incoming }: PlanOptions,
  found: Sifted | undefined,
): Promise<void> {
  const repeated = (among: string) =>
    `select key, count(*) as times from ${among} where key is not null group by key having count(*) > 1`
  // what is neither news nor suspect is there as it was
  const unchanged = `from snapshot semi join (from chosen anti join suspect using (key)) using (key)`
  const among = found ? `(select key from chosen union all select key from (${unchanged}))` : 'chosen'
  if ((!found || metOnce(found)) && (await countOf(connection, `(${repeated(among)})`)) === 0) return
  // one that brought only its news has told apart all other rows
  const all = incoming.sifted ? among : 'incoming'
  const twice = await rowsOf<{ key: string; times: bigint }>(connection, `${repeated(all)} order by key limit 5`)
  const list = twice.map((row) => `${readableKey(row.key)} (${row.times} times)`).join(', ')
  throw new ConfigError(
    `${where}: rows of the source share a key: ${key!.join(', ')} = ${list}. Nothing was sent. Make the query give one row per key, or choose a key that tells rows apart`,
  )
}

/** The canonical text of a key in a form for people. */
function readableKey(key: string): string {
  return key.replace(/^i/, '')
}

// ---- records -----------------------------------------------------------------------------------------------------

/** What is to be done about a row, or about a key that is gone. */
type Kind = 'insert' | 'update' | 'same' | 'waiting' | 'delete' | 'waiting delete'

const madeColumns = {
  line: 'bigint',
  n: 'bigint',
  carried: 'boolean',
  kind: 'varchar',
  key: 'varchar',
  hi: 'ubigint',
  lo: 'ubigint',
  record: 'varchar',
  before: 'varchar',
  other: 'varchar',
  problem: 'varchar',
  remote_id: 'varchar',
  doubt: 'boolean',
  landing: 'bigint',
  held_by: 'bigint',
}

/** A line as {@link madeColumns} says; free text goes as JSON, in which there is neither a tab nor a line break. */
function madeLine(made: Readonly<Record<keyof typeof madeColumns, unknown>>): string {
  const { line, n, carried, kind, key, hi, lo, record, before, other, problem, remote_id, doubt, landing, held_by } =
    made
  const free = (text: unknown) => (text === null ? null : JSON.stringify(text))
  const fields = [
    line,
    n,
    carried,
    kind,
    key,
    hi,
    lo,
    record,
    before,
    other,
    free(problem),
    free(remote_id),
    doubt,
    landing,
    held_by,
  ]
  let text = ''
  for (let index = 0; index < fields.length; index++) text += `${index === 0 ? '' : '\t'}${fields[index] ?? nullMark}`
  return text
}

function decoded(relation: string): string {
  return `select * replace (json_extract_string(problem, '$') as problem, json_extract_string(remote_id, '$') as remote_id) from ${relation}`
}

/** Makes records of the rows that are wanted, and decides about each. Answers whether a record is found by anything but its row's key. */
async function writeMade(
  database: Duckdb,
  options: PlanOptions,
  allAreNew: boolean,
  lines: LineFile,
): Promise<boolean> {
  const { incoming, keep, full, again } = options
  const { content, staged } = incoming
  let line = 0
  let apart = false
  for await (const { count, columns } of streamed(
    database,
    await wantedRows(database.connection, incoming, allAreNew),
  )) {
    const [ns, carried, keys, his, los, knowns, dirties, befores, trieds, tries, remoteIds, landings, held] = columns
    const rows = readRows(content, columns.slice(13), count)
    const first = staged ? undefined : await keep?.(keys!.map((key, index) => rowLine(key, rows.text(index))))
    for (let index = 0; index < count; index++) {
      const key: string | null = keys![index]
      const making = keptOf(rows, index, key, options)
      const { text, other, problem } = making instanceof Promise ? await making : making
      const isKnown = knowns![index] === true
      const isDirty = dirties![index] === true
      const before: string | null = befores![index]
      const isHeld = held![index] !== null
      const waits = tries![index] >= mostTries && trieds![index] === triedOf(text, problem) && !triesAgain(again, key)
      const same = problem === null && isKnown && !isDirty && !full && before !== null && isSame(before, text)
      // what may have been applied stays an item, for its batch to be told of
      const kind: Kind = same && !isHeld ? 'same' : waits && !isHeld ? 'waiting' : isKnown ? 'update' : 'insert'
      if (other !== null) apart = true
      const written = lines.add(
        madeLine({
          line: line++,
          n: ns![index] ?? (first === undefined ? null : first + index),
          carried: carried![index],
          kind,
          key,
          hi: his![index],
          lo: los![index],
          record: text,
          before: isKnown && !same ? before : null,
          other,
          problem,
          remote_id: remoteIds![index],
          doubt: isDirty,
          landing: landings![index],
          held_by: held![index],
        }),
      )
      if (written) await written
    }
  }
  return apart
}

/** The rows that are wanted in their order, and what is known of their keys. */
async function wantedRows(connection: DuckDBConnection, { content }: Incoming, allAreNew: boolean): Promise<string> {
  const known = ['known', 'dirty', 'record', 'tried', 'tries', 'remote_id', 'landing'].map((column) => `s.${column}`)
  // as texts, which they become anyhow: a bigint on the way costs more
  const select = `select i.n, i.carried, i.key, i.hi::varchar, i.lo::varchar, ${known.join()}, h.batch, ${selected(content).join()}`
  if (allAreNew && (await countOf(connection, 'open_item')) === 0) {
    // the first load: they come in their order, and need not be sorted
    return `${select} from incoming i left join suspect s on false left join held h on false`
  }
  return `${select} from wanted i left join suspect s on i.key = s.key left join held h on i.key = h.key order by i.place`
}

/** Decides about keys that are gone; not those whose object another key owns now. Answers whether there are any. */
async function writeDeletes(database: Duckdb, { match, again }: PlanOptions, lines: LineFile): Promise<boolean> {
  let line = 0
  for await (const { count, columns } of streamed(
    database,
    // of keys that had one object after another, one will do
    `select key, record, known, other, dirty, remote_id, tried, tries, landing from gone anti join owner using (match)
     qualify row_number() over (partition by match order by known desc, key) = 1 order by key`,
  )) {
    const [keys, records, knowns, others, dirties, remoteIds, trieds, tries, landings] = columns
    const delivered = decodeTexts(records!)
    for (let index = 0; index < count; index++) {
      const fields = Object.fromEntries(match.map((field) => [field, delivered[index]![field]]))
      const waits = tries![index] >= mostTries && trieds![index] === 'delete' && !triesAgain(again, keys![index])
      const written = lines.add(
        madeLine({
          line: line++,
          n: null,
          carried: false,
          kind: waits ? ('waiting delete' satisfies Kind) : ('delete' satisfies Kind),
          key: keys![index],
          hi: null,
          lo: null,
          record: losslessText(fields),
          before: knowns![index] ? records![index] : null,
          other: others![index],
          problem: null,
          remote_id: remoteIds![index],
          doubt: dirties![index],
          landing: landings![index],
          held_by: null,
        }),
      )
      if (written) await written
    }
  }
  return line > 0
}

/**
 * One live key for each match value. A row whose record has the match value of another is refused, for which of them the
 * destination should hold is not ours to say: the one that it holds stays. And what another key owns now is not deleted with the
 * key that had it.
 */
async function settleOwners(connection: DuckDBConnection): Promise<void> {
  const had = 's.known and s.match = coalesce(m.other, m.key)'
  await connection.run(`
    insert into owner select coalesce(m.other, m.key) as match, m.key, case when ${had} then -1 else m.line end, m.line
      from row_made m left join suspect s on m.key = s.key
      where m.problem is null and m.kind in ('insert', 'update', 'same', 'waiting') and m.key is not null and m.other is distinct from '';
    insert into owner select match, key, -1, -1 from snapshot
      where (known or dirty) and (match in (select match from owner) or match in (select match from gone))
        and key not in (select key from row_made where key is not null) and key not in (select key from gone);
    insert into rival select m.line, any_value(o.key) as key
      from owner m join owner o on m.match = o.match and m.key <> o.key and (o.rank, o.line) < (m.rank, m.line)
      where m.line >= 0 group by m.line`)
}

/** What was made of the rows, with those refused that have the match value of another. */
async function judged(connection: DuckDBConnection, { match }: PlanOptions): Promise<string> {
  if ((await countOf(connection, 'rival')) === 0) return 'from row_made'
  const problem = `'another row, of the key ' || regexp_replace(r.key, '^i', '') || ', has the same ${match.join(', ').replaceAll("'", "''")}'`
  return `select m.* replace (case when r.key is not null and m.kind in ('insert', 'update') then ${problem} else m.problem end as problem)
    from row_made m left join rival r on m.line = r.line`
}

// ---- accounts ----------------------------------------------------------------------------------------------------

interface Tallied {
  readonly kind: Kind
  readonly carried: boolean
  /** Of these rows no record can be made. */
  readonly unfit: boolean
  /** The destination has acknowledged something else of their keys. */
  readonly known: boolean
  readonly count: number
}

async function talliesOf(connection: DuckDBConnection): Promise<Tallied[]> {
  const rows = await rowsOf<Omit<Tallied, 'count'> & { count: bigint }>(
    connection,
    `select kind, carried, problem is not null as unfit, before is not null as known, count(*) as count from made group by all`,
  )
  return rows.map((row) => ({ ...row, count: Number(row.count) }))
}

function sum(tallies: readonly Tallied[]): number {
  return tallies.reduce((total, { count }) => total + count, 0)
}

async function countsOf(
  connection: DuckDBConnection,
  { version, incoming }: PlanOptions,
  { rows: compared, tallies, replaces }: Findings,
): Promise<{ counts: PlanCounts; rows: number }> {
  const of = (kind: Kind, where: Partial<Tallied> = {}): number =>
    sum(
      tallies.filter(
        (one) =>
          one.kind === kind && Object.entries(where).every(([name, value]) => one[name as keyof Tallied] === value),
      ),
    )
  const read = async (carried: boolean): Promise<{ rows: number; older: number }> => {
    if (compared !== undefined) return { rows: carried ? 0 : compared, older: 0 }
    const rows = await countOf(connection, `ranked where carried = ${carried}`)
    return { rows, older: await countOf(connection, `ranked where older and carried = ${carried}`) }
  }
  const [fresh, carried] = [await read(false), await read(true)]
  // not looked at, or looked at and found to be the same
  const unchanged = ({ rows, older }: typeof fresh, isCarried: boolean): number => {
    const looked = sum(tallies.filter((one) => one.carried === isCarried && !isDelete(one.kind)))
    return rows - older - looked + (replaces ? 0 : of('same', { carried: isCarried }))
  }
  return {
    rows: fresh.rows,
    counts: {
      version,
      etag: incoming.etag,
      insert: of('insert', { unfit: false }),
      update: of('update', { unfit: false }),
      delete: of('delete'),
      unfit: sum(tallies.filter(({ kind, unfit }) => unfit && sentKinds(replaces).includes(kind))),
      replaces,
      unchanged: unchanged(fresh, false),
      waiting: of('waiting', { carried: false }),
      waitingDeletes: of('waiting delete'),
      superseded: fresh.older,
      carriedUnchanged: unchanged(carried, true),
      carriedWaiting: of('waiting', { carried: true }),
      carriedSuperseded: carried.older,
    },
  }
}

function isDelete(kind: Kind): boolean {
  return kind === 'delete' || kind === 'waiting delete'
}

// ---- the plan in place of the one before --------------------------------------------------------------------------

async function commitPlan(
  connection: DuckDBConnection,
  options: PlanOptions,
  planned: Planned,
  { select, rowBytes, refreshed }: { readonly select: string; readonly rowBytes: number; readonly refreshed: number },
): Promise<void> {
  const { state, complete } = options
  const through = state.nextOrdinal
  const name = `${through}-${randomUUID()}.parquet` // a file that the database names is never written again
  const closed = await closedLetters(connection, options)
  // of keys that are gone, nothing is left to know but that they are to be deleted
  const forgotten = `suspect anti join chosen using (key) where not known and not dirty`
  const forgets = complete && (await countOf(connection, forgotten)) > 0
  if (forgets) await connection.run(`create table forgotten as select key from ${forgotten}`)
  const snapshot = await writeSnapshot(connection, state, name, forgets)
  if (planned.items === 0 && !planned.counts.replaces && refreshed === 0) {
    // nothing to deliver and nothing to learn: the rows are done with
    const delivered = madeFrom(planned.counts)
    return state.swap({ plan: undefined, snapshot, delivered, unknown: [], free: state.reads, closed })
  }
  const plan = { ...planned, file: `plan-${name}`, through }
  const file = join(state.folder, plan.file)
  await copyDurably(connection, file, select, { rowBytes, ordered: true })
  const heldItems = await rowsOf<{ item: bigint; batch: bigint }>(
    connection,
    `select item, held_by as batch from read_parquet(${literal(file)}) where held_by is not null order by item`,
  )
  const unknown = [...state.batches()].flatMap((batch) => {
    const items = heldItems.flatMap((held) => (Number(held.batch) === batch.id ? Number(held.item) : []))
    return items.length > 0 ? stillUnknown(state, batch, items) : []
  })
  await state.swap({ plan, snapshot, delivered: undefined, unknown, free: [], closed })
}

/** Keys whose dead letters are of no interest any more: the row is again what was delivered, or it is gone. */
async function closedLetters(connection: DuckDBConnection, { state, complete }: PlanOptions): Promise<string[]> {
  const letters = [...state.openLetters()]
  if (letters.length === 0) return []
  await connection.run('create table letter (key varchar)')
  await fill(connection, 'letter', [letters.map((key) => [key])])
  const closed = await rowsOf<{ key: string }>(
    connection,
    `select key from letter where key not in (select key from made where key is not null and kind <> 'same')
     ${complete ? '' : 'and key in (select key from ranked where key is not null)'}`,
  )
  return closed.map(({ key }) => key)
}

/** Whether two records say the same, as they are kept. */
function isSame(one: string, other: string): boolean {
  if (one === other) return true
  if (surelyDiffer(one, other)) return false
  const [before, after] = decodeTexts([one, other])
  return areSame(before!, after!)
}

/** A record as the plan keeps it, or a row of which none can be made. */
interface Kept {
  readonly text: string
  /** What the record holds in the fields by which the destination finds its object, where that is not the key. */
  readonly other: string | null
  readonly problem: string | null
}

function keptOf(rows: Rows, index: number, key: string | null, options: PlanOptions): Kept | Promise<Kept> {
  const { asTheyAre, make, match } = options
  if (asTheyAre && key !== null) return { text: rows.text(index), other: null, problem: null }
  const row = rows.row(index)
  const unfit = (problem: string): Kept => ({ text: rows.text(index), other: null, problem: wellFormed(problem) })
  const kept = (made: object | Unfit): Kept => {
    if (made instanceof Unfit) return unfit(made.problem)
    try {
      const matched = match.length > 0 ? (keyOf(made, match) ?? '') : key
      return { text: losslessText(made), other: matched === key ? null : matched, problem: null }
    } catch (error) {
      return unfit(`the record ${messageOf(error)}`)
    }
  }
  const made = make(row, key ?? undefined)
  return made instanceof Promise ? made.then(kept) : kept(made)
}

/** Half of a surrogate pair alone is no text to a database. */
function wellFormed(text: string): string {
  return Buffer.from(text).toString()
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
