import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
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
  readonly attempt: number
  readonly key: string
}

/** The ledger as another process sees it: what is committed, and nothing else. */
export function openLedger(folder: string): { batches(): BatchRow[]; close(): void } {
  const sqlite = new Sqlite(join(folder, 'state.db'))
  const query = sqlite.prepare('select id, state, ranges, attempt, idempotency_key as key from batch order by id')
  return {
    batches: () =>
      (query.all() as (Omit<BatchRow, 'ranges'> & { ranges: string })[]).map((row) => ({
        ...row,
        ranges: JSON.parse(row.ranges) as BatchRow['ranges'],
      })),
    close: () => sqlite.close(),
  }
}

/** The batches whose outcome a killed process left open, read from a copy: what it left behind stays as it is. */
export function openBatches(folder: string): BatchRow[] {
  if (!existsSync(join(folder, 'state.db'))) return []
  const copy = mkdtempSync(join(tmpdir(), 'spillway-copy-'))
  for (const file of ['state.db', 'state.db-wal']) {
    if (existsSync(join(folder, file))) copyFileSync(join(folder, file), join(copy, file))
  }
  try {
    const ledger = openLedger(copy)
    try {
      return ledger.batches().filter(({ state }) => state !== 'settled')
    } finally {
      ledger.close()
    }
  } catch (error) {
    if ((error as Error).message.includes('no such table')) return [] // killed before there was a schema
    throw error
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}
