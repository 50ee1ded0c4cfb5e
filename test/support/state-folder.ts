import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Sqlite from 'libsql'
import { onTestFinished } from 'vitest'

/** A folder for the state of one test's syncs; it is removed when the test ends. */
export async function stateFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'spillway-state-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A batch as `state.db` holds it. */
export interface BatchRow {
  readonly id: number
  readonly state: 'sent' | 'settled' | 'unknown'
  readonly ranges: readonly (readonly [first: number, count: number])[]
  readonly rows: number
  readonly attempt: number
  readonly key: string
}

type StoredBatch = Omit<BatchRow, 'ranges'> & { readonly ranges: string }

/** The ledger as another process sees it: what is committed, and nothing else. */
export interface Ledger {
  batches(): BatchRow[]
  /** The batch under this idempotency key. */
  batch(key: string): BatchRow | undefined
  /** The latest run, and what it told when it ended. */
  lastRun(): { readonly status: string; readonly summary: unknown } | undefined
  close(): void
}

export function openLedger(folder: string): Ledger {
  const sqlite = new Sqlite(join(folder, 'state.db'))
  const batch = 'select id, state, ranges, rows, attempt, idempotency_key as key from batch'
  const batches = sqlite.prepare(`${batch} order by id`)
  const byKey = sqlite.prepare(`${batch} where idempotency_key = ?`)
  const runs = sqlite.prepare('select status, summary from run order by rowid desc limit 1')
  const read = ({ ranges, ...row }: StoredBatch): BatchRow => ({ ...row, ranges: JSON.parse(ranges) })
  return {
    batches: () => (batches.all() as StoredBatch[]).map(read),
    batch: (key) => (byKey.all(key) as StoredBatch[]).map(read)[0],
    lastRun: () => {
      const run = runs.get() as { status: string; summary: string | null } | undefined
      return run && { status: run.status, summary: run.summary === null ? undefined : JSON.parse(run.summary) }
    },
    close: () => sqlite.close(),
  }
}

/** Reads what a killed process left behind, from a copy: opening a database repairs it, which is the next run's part. */
export function afterDeath<T>(folder: string, read: (ledger: Ledger) => T): T | undefined {
  if (!existsSync(join(folder, 'state.db'))) return undefined
  const copy = mkdtempSync(join(tmpdir(), 'spillway-copy-'))
  for (const file of ['state.db', 'state.db-wal']) {
    if (existsSync(join(folder, file))) copyFileSync(join(folder, file), join(copy, file))
  }
  try {
    const ledger = openLedger(copy)
    try {
      return read(ledger)
    } finally {
      ledger.close()
    }
  } catch (error) {
    if ((error as Error).message.includes('no such table')) return undefined // killed before there was a schema
    throw error
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

/** All that a state folder says: its files, and of the database the rows, for SQLite moves them from its log into the file when it likes. */
export async function contentOf(state: string): Promise<unknown> {
  const files = await readdir(state, { recursive: true, withFileTypes: true })
  const kept = files.filter((file) => file.isFile() && !file.name.startsWith('state.db'))
  const database = new Sqlite(join(state, 'state.db'))
  const tables = database.prepare(`select name from sqlite_master where type = 'table' order by name`).all()
  const rows = (tables as { name: string }[]).map(({ name }) => [name, database.prepare(`select * from ${name}`).all()])
  database.close()
  const read = kept.map(async (file) => [file.name, await readFile(join(file.parentPath, file.name), 'hex')])
  return [rows, await Promise.all(read)]
}
