import { existsSync } from 'node:fs'
import { mkdir, open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import Sqlite from 'libsql'
import { ConfigError, SpillwayError, StateDamagedError } from '../errors.js'
import { checkpoint } from './files.js'

/** 'SPWL': tells our files from other SQLite databases. */
const applicationId = 0x5350574c

/** One step per schema version; a database of an older version takes the steps it lacks. */
const migrations = [
  `
  create table sync (
    id integer primary key, name text not null unique, nonce text not null, identity text not null, epoch integer not null default 0,
    next_ordinal integer not null default 0, serial integer not null default 0, cursor text, columns text
  );
  create table run (
    sync integer not null, id text not null, started_at integer not null, ended_at integer, status text not null, summary text,
    primary key (sync, id)
  );
  create table read (
    sync integer not null, id integer not null, state text not null, complete integer not null, first integer not null,
    rows integer not null, primary key (sync, id)
  ) without rowid;
  create table segment (
    sync integer not null, id integer not null, read integer not null, file text not null, first integer not null,
    rows integer not null, bytes integer not null, longest integer not null, primary key (sync, id)
  ) without rowid;
  create table seen (sync integer not null, hash text not null, at any, count integer not null, primary key (sync, hash)) without rowid;
  create table plan (
    sync integer primary key, id integer not null, file text not null, bytes integer not null, digest text not null,
    items integer not null, fresh integer not null, through integer not null, counts text not null
  );
  create table snapshot (
    sync integer not null, part text not null, file text not null, bytes integer not null, digest text not null, rows integer not null,
    primary key (sync, part)
  ) without rowid;
  create table batch (
    sync integer not null, id integer not null, operation text not null, ranges text not null, first integer not null, past integer not null, rows integer not null, state text not null,
    attempt integer not null, doubt integer not null, idempotency_key text not null, digest text, sent_at integer not null, first_sent_at integer not null,
    rejected text, receipts text, resumed integer not null, resent integer not null, primary key (sync, id)
  ) without rowid;
  create table dead_letter (
    id integer primary key autoincrement, sync integer not null, ordinal integer not null, key text, row text not null, record text,
    operation text not null, reason text not null, attempts integer not null, at integer not null, state text not null default 'open'
  );
  create index dead_letter_open on dead_letter (sync, key) where state = 'open';
  `,
  'alter table batch add column remembered text',
  `
  create table hook (id integer primary key, name text not null unique, bytes integer not null default 0);
  create table hook_reader (hook integer not null, sync text not null, primary key (hook, sync)) without rowid;
  create table event (
    id integer primary key autoincrement, hook integer not null, delivery text, type text, at integer not null, bytes integer not null,
    row text not null
  );
  create index event_of_hook on event (hook, id);
  create table delivery (n integer primary key autoincrement, hook integer not null, id text not null, until integer not null);
  create unique index delivery_of_hook on delivery (hook, id);
  `,
  'alter table sync add column delivered text',
]

const networkFileSystems: ReadonlyMap<number, string> = new Map([
  [0x6969, 'NFS'],
  [0xff534d42, 'CIFS'],
  [0xfe534d42, 'SMB'],
  [0x517b, 'SMB'],
])

/** Kept so that the outcome of a request that has left can still be written when the disk is full. */
const reserveBytes = 8 * 1024 * 1024

type Change = { apply: () => void; essential: boolean }
type Group = { changes: Change[]; ordinary: Deferred; essential: Deferred }

/** A promise that somebody else settles (`Promise.withResolvers` needs Node 22). */
class Deferred {
  resolve!: () => void
  reject!: (error: unknown) => void
  readonly promise = new Promise<void>((resolve, reject) => {
    this.resolve = resolve
    this.reject = reject
  })
}

/** The disk took no more; nothing was sent after that. */
class DiskFullError extends SpillwayError {}

/**
 * One connection to `state.db`. Changes asked for in one turn of the event loop become one durable commit, so that the cost
 * of syncing the disk is shared by all the batches under way.
 */
export class Database {
  readonly #folder: string
  readonly #sqlite: Sqlite.Database
  readonly #statements = new Map<string, Sqlite.Statement<unknown[]>>()
  #group: Group | undefined
  #flushed: Promise<void> = Promise.resolve()
  #closed = false

  private constructor(folder: string, sqlite: Sqlite.Database) {
    this.#folder = folder
    this.#sqlite = sqlite
  }

  static async open(folder: string): Promise<Database> {
    await prepareFolder(folder)
    const file = join(folder, 'state.db')
    const sqlite = connect(file)
    try {
      // other processes may be opening it too; nothing of ours waits behind this connection yet
      sqlite.exec('pragma busy_timeout = 10000')
      refuseForeign(sqlite, file)
      const { journal_mode: mode } = sqlite.prepare('pragma journal_mode = wal').get() as { journal_mode: string }
      if (mode !== 'wal') {
        throw new ConfigError(
          `state: ${folder} cannot hold a write-ahead log (journal mode ${mode}); choose a local disk`,
        )
      }
      // a log that is kept short is soon written over again, and that is quicker to sync than making it longer
      sqlite.exec('pragma synchronous = full; pragma fullfsync = on; pragma wal_autocheckpoint = 200')
      migrate(sqlite)
      sqlite.exec('pragma busy_timeout = 0')
    } catch (error) {
      sqlite.close()
      throw explained(error, file)
    }
    await reserve(join(folder, 'reserve'))
    return new Database(folder, sqlite)
  }

  /** Runs a query now. */
  all<Row>(sql: string, ...values: unknown[]): Row[] {
    return this.#guarded(() => this.#prepare(sql).all(...values) as Row[])
  }

  get<Row>(sql: string, ...values: unknown[]): Row | undefined {
    return this.#guarded(() => this.#prepare(sql).get(...values) as Row | undefined)
  }

  iterate<Row>(sql: string, ...values: unknown[]): IterableIterator<Row> {
    return this.#guarded(() => this.#sqlite.prepare(sql).iterate(...values) as IterableIterator<Row>)
  }

  /** For use inside {@link commit}. Answers how many rows it changed. */
  run(sql: string, ...values: unknown[]): number {
    return this.#prepare(sql).run(...values).changes
  }

  /**
   * Asks for a change; resolves when it is durable. An `essential` one tells of something that has already happened at the
   * destination: when the disk is full it is still written, into the room that the reserve file kept.
   */
  commit(apply: () => void, essential = false): Promise<void> {
    // libsql aborts the process when a closed connection is asked whether it is in a transaction
    if (this.#closed) return Promise.reject(new Error('state: a change came after the state was closed'))
    if (!this.#group) {
      this.#group = { changes: [], ordinary: new Deferred(), essential: new Deferred() }
      for (const { promise } of [this.#group.ordinary, this.#group.essential]) promise.catch(() => {})
      const group = this.#group
      setImmediate(() => {
        this.#group = undefined
        this.#flushed = this.#flushed.then(() => this.#flush(group))
      })
    }
    this.#group.changes.push({ apply, essential })
    return essential ? this.#group.essential.promise : this.#group.ordinary.promise
  }

  async close(): Promise<void> {
    this.#closed = true
    while (this.#group) await new Promise(setImmediate)
    await this.#flushed
    this.#sqlite.close()
  }

  async #flush({ changes, ordinary, essential }: Group): Promise<void> {
    try {
      await this.#transaction(changes)
      ordinary.resolve()
      essential.resolve()
    } catch (error) {
      ordinary.reject(error)
      const owed = changes.filter((change) => change.essential)
      if (owed.length === 0 || !(error instanceof DiskFullError)) return essential.reject(error)
      try {
        await rm(join(this.#folder, 'reserve'), { force: true })
        await this.#transaction(owed)
        essential.resolve()
      } catch (again) {
        essential.reject(again)
      }
    }
  }

  async #transaction(changes: readonly Change[]): Promise<void> {
    await this.#begin()
    try {
      for (const { apply } of changes) apply()
      checkpoint('before commit')
      this.#prepare('commit').run()
    } catch (error) {
      if (this.#sqlite.inTransaction) this.#prepare('rollback').run()
      throw explained(error, join(this.#folder, 'state.db'))
    }
    checkpoint('committed')
  }

  /** Another process may be writing: wait without blocking the event loop, as SQLite's own busy timeout would. */
  async #begin(): Promise<void> {
    for (const started = Date.now(); ; await new Promise((resolve) => setTimeout(resolve, 2))) {
      try {
        this.#prepare('begin immediate').run()
        return
      } catch (error) {
        if ((error as { code?: string }).code !== 'SQLITE_BUSY' || Date.now() - started > 60_000) {
          throw explained(error, join(this.#folder, 'state.db'))
        }
      }
    }
  }

  #prepare(sql: string): Sqlite.Statement<unknown[]> {
    let statement = this.#statements.get(sql)
    if (!statement) {
      statement = this.#sqlite.prepare(sql) as Sqlite.Statement<unknown[]>
      this.#statements.set(sql, statement)
    }
    return statement
  }

  #guarded<T>(read: () => T): T {
    try {
      return read()
    } catch (error) {
      throw explained(error, join(this.#folder, 'state.db'))
    }
  }
}

/**
 * An exclusive transaction on a file of its own, held as long as the process lives: a killed owner frees it, a sleeping one
 * keeps it. `undefined` when somebody else has it.
 */
export function lock(file: string): { release(): void } | undefined {
  const sqlite = connect(file)
  try {
    sqlite.exec('begin exclusive')
  } catch (error) {
    sqlite.close()
    if ((error as { code?: string }).code === 'SQLITE_BUSY') return undefined
    throw explained(error, file)
  }
  return { release: () => sqlite.close() }
}

/** Whether somebody has it. Looking takes a shared lock for a moment, so that those who look do not take each other for an owner. */
export function isLocked(file: string): boolean {
  const sqlite = connect(file)
  try {
    sqlite.exec('select count(*) from sqlite_master')
    return false
  } catch (error) {
    if ((error as { code?: string }).code === 'SQLITE_BUSY') return true
    throw explained(error, file)
  } finally {
    sqlite.close()
  }
}

function connect(file: string): Sqlite.Database {
  try {
    const sqlite = new Sqlite(file)
    sqlite.exec('pragma busy_timeout = 0')
    return sqlite
  } catch (error) {
    throw explained(error, file)
  }
}

function pragma(sqlite: Sqlite.Database, name: string): number {
  return (sqlite.prepare(`pragma ${name}`).get() as { [name: string]: number })[name]!
}

/** A database of somebody else, or of a version that we do not know, stays as it is. */
function refuseForeign(sqlite: Sqlite.Database, file: string): void {
  const { tables } = sqlite.prepare('select count(*) as tables from sqlite_master').get() as { tables: number }
  const application = pragma(sqlite, 'application_id')
  if (application !== applicationId && (tables > 0 || application !== 0)) {
    throw new StateDamagedError(
      `state: ${file} is a database of another program; it was left as it is. Choose another state folder`,
    )
  }
  if (pragma(sqlite, 'user_version') > migrations.length) {
    throw new ConfigError(
      `state: ${file} was written by a newer version of spillway; upgrade this one (npm install spillway@latest)`,
    )
  }
}

/** Takes the steps that the schema lacks, in one transaction, so that of two processes one finds nothing left to do. */
function migrate(sqlite: Sqlite.Database): void {
  if (pragma(sqlite, 'user_version') === migrations.length) return
  sqlite.exec('begin immediate')
  for (const step of migrations.slice(pragma(sqlite, 'user_version'))) sqlite.exec(step)
  sqlite.exec(`pragma application_id = ${applicationId}; pragma user_version = ${migrations.length}; commit`)
}

async function prepareFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
    const { type } = await statfs(folder)
    const network = networkFileSystems.get(type)
    if (network) {
      throw new ConfigError(
        `state: ${folder} is on a network file system (${network}), where locks and syncs cannot be trusted; choose a local disk`,
      )
    }
  } catch (error) {
    throw explained(error, folder)
  }
}

async function reserve(file: string): Promise<void> {
  if (existsSync(file)) return
  try {
    const handle = await open(file, 'wx')
    try {
      checkpoint('reserve')
      await handle.writeFile(Buffer.alloc(reserveBytes))
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return
    await rm(file, { force: true })
    throw explained(error, file)
  }
}

/** An error of the disk or of SQLite in terms of what to do about it. */
export function explained(error: unknown, where: string): unknown {
  if (error instanceof SpillwayError) return error
  const { code = '', message = '' } = error as { code?: string; message?: string }
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'SQLITE_FULL') {
    return new DiskFullError(`state: the disk is full at ${where}: free some room and run again; nothing is lost`, {
      cause: error,
    })
  }
  if (code === 'SQLITE_NOTADB' || code.startsWith('SQLITE_CORRUPT')) {
    return new StateDamagedError(
      `state: ${where} is damaged or not a database (${message}); nothing was sent and nothing was overwritten. Restore it, or move the folder away to start afresh`,
      { cause: error },
    )
  }
  const readOnly = [
    'EACCES',
    'EPERM',
    'EROFS',
    'EFBIG',
    'EIO',
    'ENOTDIR',
    'EEXIST',
    'SQLITE_READONLY',
    'SQLITE_CANTOPEN',
  ].includes(code)
  if (readOnly || /unable to open|readonly database/i.test(message)) {
    return new ConfigError(
      `state: ${where} cannot be written (${code || message}); check its permissions or choose another state folder`,
      {
        cause: error,
      },
    )
  }
  return error
}
