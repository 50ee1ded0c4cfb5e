import { type AnyRow, ConfigError, type Context, FatalError, type Operation, type Rejection, reject } from 'spillway'
import { Unfit } from './text.js'

// What `postgres-table` and `duckdb-table` have in common: the statements are read by both databases alike.

/** The columns of a table and their types, in the database's own words; none when there is no such table. */
export type Columns = ReadonlyMap<string, string>

/** For each parameter of a statement a list of texts. */
export type Params = readonly (readonly (string | null)[])[]

/** A transaction that is open. */
export interface Session {
  /** Rows come as lists of values. */
  query(sql: string, ...params: Params): Promise<readonly (readonly unknown[])[]>
  columns(table: readonly string[]): Promise<Columns>
  /** Whether it says that an upsert finds no unique index. */
  needsIndex(error: unknown): boolean
  /** Waits until nobody else changes the table's columns. */
  lock(): Promise<unknown>
  /**
   * Runs a statement over `rows`. When the database refuses it, nothing is changed, the transaction goes on, and the reason is answered.
   */
  attempt(statement: string, rows: string, params: Params): Promise<string | undefined>
}

/** A table of a database that understands SQL. */
export interface SqlTable<C> {
  readonly actor: string
  /** Its parts. */
  readonly name: readonly string[]
  /** What a column of each kind is made as. */
  readonly types: Readonly<Record<Context['table']['columns'][number]['type'], string>>
  /** The longest name of a column, in bytes; a longer one would be cut. */
  readonly longestName: number
  /** How the database tells names apart. */
  fold(name: string): string
  /**
   * Does `work` in one transaction. When it rejects, nothing was applied; only when the answer to the commit is missing does it throw
   * an ordinary error.
   */
  transaction<T>(context: Context<C>, work: (session: Session) => Promise<T>): Promise<T>
  /** The value as a text from which the database casts it to the type, without loss. */
  text(value: unknown, type: string): string
}

/** How long a note of an appended batch is kept. */
const kept = '30 days'

/** The parts of a name such as `sales.orders` or `sales."2026 orders"`. */
export function partsOf(table: string, actor: string): readonly string[] {
  const parts = typeof table === 'string' ? (table.match(/"(?:[^"]|"")+"|[^".]+/g) ?? []) : []
  if (parts.length === 0 || parts.length > 2 || parts.join('.') !== table || table.includes('\0')) {
    throw new ConfigError(
      `${actor}: table is no name of a table, such as 'orders', 'sales.orders' or 'sales."2026 orders"'`,
    )
  }
  return parts.map((part) => (part.startsWith('"') ? part.slice(1, -1).replaceAll('""', '"') : part))
}

/** A name as SQL writes it when it may hold anything. */
export function quoted(...parts: readonly string[]): string {
  return parts.map((part) => `"${part.replaceAll('"', '""')}"`).join('.')
}

/** The handlers of such a table: every call is one transaction. */
export function handlersOf<C extends object>(db: SqlTable<C>) {
  const { actor, fold } = db
  const table = quoted(...db.name)
  const notesName = [...db.name.slice(0, -1), '_spillway_batches']
  const notes = quoted(...notesName)
  /** The run that has looked after the notes. */
  let noted: string | undefined

  return { insert, update, upsert, delete: remove, replace, verify }

  /** The note of the batch and its rows are one transaction, so that the rows are there exactly when the note is. */
  async function insert(batch: AnyRow[], context: Context<C>): Promise<Rejection[]> {
    const { run, idempotencyKey } = context
    const rejected = await db.transaction(context, async (session) => {
      if (noted !== run) await keepNotes(session)
      const fresh = await session.query(
        `insert into ${notes} (key) select unnest($1::text[]) on conflict do nothing returning key`,
        [idempotencyKey],
      )
      const { groups, rejected } = await prepared(session, batch, context)
      if (fresh.length > 0) for (const group of groups) await write(session, insertion, group)
      return rejected
    })
    noted = run
    return rejected
  }

  async function keepNotes(session: Session): Promise<void> {
    await session.lock()
    if ((await session.columns(notesName)).size === 0) {
      await session.query(`create table ${notes} (key text primary key, noted timestamptz not null default now())`)
    }
    await session.query(`delete from ${notes} where noted < now() - interval '${kept}'`)
  }

  /** Those of a batch that were appended: all that fit, or none. */
  async function verify(batch: AnyRow[], context: Context<C>): Promise<AnyRow[]> {
    return db.transaction(context, async (session) => {
      if ((await session.columns(notesName)).size === 0) return []
      const found = await session.query(`select key from ${notes} where key in (select unnest($1::text[]))`, [
        context.idempotencyKey,
      ])
      if (found.length === 0) return []
      return grouped(batch, await session.columns(db.name)).groups.flatMap(({ lines }) =>
        lines.map(({ record }) => record),
      )
    })
  }

  async function upsert(batch: AnyRow[], context: Context<C>): Promise<Rejection[]> {
    const target = context.match.map((field) => quoted(field)).join()
    return db.transaction(context, async (session) => {
      const { groups, rejected } = await prepared(session, batch, context)
      for (const group of groups) {
        const set = changed(group.fields, context.match).map((name) => `${name} = excluded.${name}`)
        const action = set.length > 0 ? `do update set ${set}` : 'do nothing'
        const statement: Statement = (...rows) => `${insertion(...rows)} on conflict (${target}) ${action}`
        await write(session, statement, group).catch((error) => {
          throw session.needsIndex(error) ? indexMissing(target) : error
        })
      }
      return rejected
    })
  }

  async function update(batch: AnyRow[], context: Context<C>): Promise<Rejection[]> {
    const { match } = context
    return db.transaction(context, async (session) => {
      if ((await session.columns(db.name)).size === 0) throw missing()
      const { groups, rejected } = await prepared(session, batch, context)
      for (const group of groups) {
        const there = new Set(await present(session, group, match))
        for (const { record } of group.lines.filter((line) => !there.has(line))) {
          rejected.push(reject(record, 'no row has its key'))
        }
        const set = changed(group.fields, match).map((name) => `${name} = s.${name}`)
        if (set.length === 0 || there.size === 0) continue
        const statement = (_: string, rows: string) =>
          `update ${table} as t set ${set} from ${rows} as s where ${same(match)}`
        await write(session, statement, { ...group, lines: [...there] })
      }
      return rejected
    })
  }

  async function remove(batch: AnyRow[], context: Context<C>): Promise<Rejection[]> {
    const { match } = context
    return db.transaction(context, async (session) => {
      const columns = await session.columns(db.name)
      if (columns.size === 0) return []
      const { groups, rejected } = grouped(batch, columns)
      for (const group of groups) {
        const statement = (_: string, rows: string) =>
          `delete from ${table} as t using ${rows} as s where ${same(match)}`
        await write(session, statement, group, match)
      }
      return rejected
    })
  }

  async function replace(batches: AsyncIterable<AnyRow[]>, context: Context<C>): Promise<Rejection[]> {
    return db.transaction(context, async (session) => {
      const rejected: Rejection[] = []
      if ((await session.columns(db.name)).size > 0) await session.query(`delete from ${table}`)
      for await (const batch of batches) {
        const { groups, rejected: unfit } = await prepared(session, batch, context)
        rejected.push(...unfit)
        for (const group of groups) rejected.push(...(await writeEach(session, group)))
      }
      return rejected
    })
  }

  /** Inserts a group; rows that the database refuses are found by halves. */
  async function writeEach(session: Session, group: Group): Promise<Rejection[]> {
    const rows = `(select ${casts(group.fields, group.columns)})`
    const statement = insertion(group.fields.map((field) => quoted(field)).join(), rows)
    const reason = await session.attempt(statement, rows, texts(group, group.fields))
    const { lines } = group
    if (reason === undefined) return []
    if (lines.length === 1) return [reject(lines[0]!.record, reason)]
    const half = Math.ceil(lines.length / 2)
    const first = await writeEach(session, { ...group, lines: lines.slice(0, half) })
    return [...first, ...(await writeEach(session, { ...group, lines: lines.slice(half) }))]
  }

  // ---- statements ----------------------------------------------------------------------------------------------------

  async function write(session: Session, statement: Statement, group: Group, fields = group.fields): Promise<void> {
    const names = fields.map((field) => quoted(field)).join()
    await session.query(statement(names, `(select ${casts(fields, group.columns)})`), ...texts(group, fields))
  }

  function insertion(names: string, rows: string): string {
    return `insert into ${table} (${names}) select ${names} from ${rows} as s`
  }

  /** The lines whose key is in the table. */
  async function present(session: Session, group: Group, match: readonly string[]): Promise<Line[]> {
    const place = `unnest($${match.length + 1}::text[]) as place`
    const places = await session.query(
      `select place from (select ${casts(match, group.columns)}, ${place}) as s where exists (select 1 from ${table} as t where ${same(match)})`,
      ...texts(group, match),
      group.lines.map((_, index) => String(index)),
    )
    const there = new Set(places.map(([index]) => Number(index)))
    return group.lines.filter((_, index) => there.has(index))
  }

  function same(fields: readonly string[]): string {
    return fields.map((field) => `t.${quoted(field)} = s.${quoted(field)}`).join(' and ')
  }

  function changed(fields: readonly string[], match: readonly string[]): string[] {
    return fields.filter((field) => !match.includes(field)).map((field) => quoted(field))
  }

  function casts(fields: readonly string[], columns: Columns): string {
    return fields.map((field, at) => `unnest($${at + 1}::text[])::${typeOf(field, columns)} as ${quoted(field)}`).join()
  }

  function texts({ fields, lines }: Group, wanted: readonly string[]): Params {
    return wanted.map((field) => {
      const at = fields.indexOf(field)
      return lines.map(({ texts }) => texts[at] ?? null)
    })
  }

  function typeOf(field: string, columns: Columns): string {
    const type = columns.get(fold(field))
    if (type === undefined)
      throw new FatalError(`${actor}: ${table} has no column ${quoted(field)}, by which rows are found`)
    return type
  }

  function missing(): FatalError {
    return new FatalError(`${actor}: there is no table ${table}: make it, or use the mode upsert, which does`)
  }

  function indexMissing(target: string): FatalError {
    return new FatalError(
      `${actor}: upsert needs a unique index on just the match fields, and ${table} has none: create unique index on ${table} (${target})`,
    )
  }

  // ---- columns and records -------------------------------------------------------------------------------------------

  /** The records that fit, by their fields, when the table has a column for each of these. */
  async function prepared(session: Session, batch: readonly AnyRow[], context: Context<C>): Promise<Grouped> {
    let columns = await session.columns(db.name)
    const found = grouped(batch, columns)
    const fields = new Set(found.groups.flatMap((group) => group.fields))
    const lacks = () => [...fields].filter((field) => !columns.has(fold(field)))
    if (lacks().length === 0) return found
    await session.lock()
    columns = await session.columns(db.name)
    const wanted = new Map(context.table.columns.map(({ name, type }) => [name, db.types[type]]))
    const made = lacks().map((field) => `${quoted(field)} ${wanted.get(field) ?? db.types.text}`)
    if (columns.size > 0) for (const column of made) await session.query(`alter table ${table} add column ${column}`)
    else await session.query(`create table ${table} (${[...made, ...primaryKey(context)]})`)
    return grouped(batch, await session.columns(db.name))
  }

  /** In `insert`, rows of one key may be several events. */
  function primaryKey({ operation, match }: Context<C>): string[] {
    return (operation satisfies Operation) === 'upsert' ? [`primary key (${match.map((field) => quoted(field))})`] : []
  }

  function grouped(batch: readonly AnyRow[], columns: Columns): Grouped {
    const groups = new Map<string, { fields: readonly string[]; lines: Line[]; columns: Columns }>()
    const rejected: Rejection[] = []
    for (const record of batch) {
      const fields = Object.keys(record).filter((field) => record[field] !== undefined)
      try {
        if (fields.length === 0) throw new Unfit('has no fields')
        const line = { record, texts: fields.map((field) => textIn(record[field], field, columns)) }
        const shape = JSON.stringify(fields)
        const group = groups.get(shape)
        if (group) group.lines.push(line)
        else groups.set(shape, { fields: distinct(fields), lines: [line], columns })
      } catch (error) {
        if (!(error instanceof Unfit)) throw error
        rejected.push(reject(record, `the record ${error.message}`))
      }
    }
    return { groups: [...groups.values()], rejected }
  }

  function textIn(value: unknown, field: string, columns: Columns): string | null {
    try {
      return value === null ? null : db.text(value, columns.get(fold(field)) ?? db.types.text)
    } catch (error) {
      throw error instanceof Unfit ? new Unfit(`${error.message} in ${field}`) : error
    }
  }

  /** Names that can stand beside each other in a table. */
  function distinct(fields: readonly string[]): readonly string[] {
    if (new Set(fields.map(fold)).size < fields.length)
      throw new Unfit(`has two fields whose names are one to ${actor}`)
    for (const field of fields) {
      if (field === '' || field.includes('\0') || Buffer.byteLength(field) > db.longestName) {
        throw new Unfit(`has a field whose name is empty, holds a NUL, or has more than ${db.longestName} bytes`)
      }
    }
    return fields
  }
}

/** A statement over columns with these names, and rows that have them. */
type Statement = (names: string, rows: string) => string

/** A record, and the texts of its fields. */
interface Line {
  readonly record: AnyRow
  readonly texts: readonly (string | null)[]
}

/** Records that have the same fields. */
interface Group {
  readonly fields: readonly string[]
  readonly lines: readonly Line[]
  readonly columns: Columns
}

interface Grouped {
  readonly groups: readonly Group[]
  readonly rejected: Rejection[]
}
