import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { stateFolder } from './state-folder.js'

const child = fileURLToPath(new URL('table-child.mjs', import.meta.url))

/** Appends 100 rows in batches of 10 in processes of their own, each killed at one of the points, until one ends by itself. */
export async function appendThroughKills(
  kind: 'file' | 'postgres' | 'duckdb',
  options: object,
  points: readonly { readonly point: string; readonly nth: number }[],
): Promise<void> {
  const folder = await stateFolder()
  for (const kill of [...points, undefined]) {
    const task = { folder, kind, options, rows: 100, batchSize: 10, kill }
    const { signal, said } = await launch(JSON.stringify(task))
    if (kill) expect(signal, `${JSON.stringify(kill)} ${said}`).toBe('SIGKILL')
    else expect(JSON.parse(said)).toMatchObject({ status: 'done', unknown: 0, pending: 0, rejected: 0, resent: 0 })
  }
}

function launch(task: string): Promise<{ signal: string | null; said: string }> {
  return new Promise((resolve, reject) => {
    const process_ = spawn(process.execPath, [child, task], { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    process_.stdout.on('data', (text) => {
      said += text
    })
    process_.stderr.on('data', (text) => {
      said += text
    })
    process_.on('error', reject)
    process_.on('close', (_, signal) => resolve({ signal, said }))
  })
}
