import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import type { AnyRow, Policy, Run } from '../../src/index.js'
import { stateFolder } from './state-folder.js'

const child = fileURLToPath(new URL('destination-child.mjs', import.meta.url))

/** A sync to a bundled destination, as JSON says it. */
export interface Task {
  readonly folder: string
  readonly kind: 'duckdb' | 'file' | 'hubspot' | 'notion' | 'postgres' | 'salesforce' | 'sheets' | 'slack' | 'webhook'
  readonly options: object
  readonly policy: Policy
  readonly mode: 'append' | 'insert' | 'upsert' | 'mirror'
  readonly key?: string | undefined
  readonly rows: readonly AnyRow[]
}

/** The n-th time that a named point of the engine is reached, or a point in the middle of a write. */
export interface Point {
  readonly point: string
  readonly nth: number
}

/** Runs a task in a process of its own; `undefined` when it was killed. `started` may kill it. */
export async function launch(
  task: Task,
  kill: Point | undefined,
  started: (child: ChildProcess) => void = () => {},
): Promise<Run | undefined> {
  const process_ = spawn(process.execPath, [child, JSON.stringify({ ...task, kill })], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  started(process_)
  let said = ''
  for (const stream of [process_.stdout, process_.stderr]) {
    stream.on('data', (text) => {
      said += text
    })
  }
  const signal = await new Promise((resolve, reject) => {
    process_.on('error', reject)
    process_.on('close', (_, by) => resolve(by))
  })
  if (signal === 'SIGKILL') return undefined
  if (!said.startsWith('{')) throw new Error(`the child failed: ${said}`)
  return JSON.parse(said)
}

/** Appends 100 rows in batches of 10 in processes of their own, each killed at one of the points, until one ends by itself. */
export async function appendThroughKills(kind: Task['kind'], options: object, points: readonly Point[]): Promise<void> {
  const rows = Array.from({ length: 100 }, (_, id) => ({ id, pad: 'x'.repeat(50) }))
  const task: Task = { folder: await stateFolder(), kind, options, policy: { batchSize: 10 }, mode: 'append', rows }
  for (const kill of points) expect(await launch(task, kill), JSON.stringify(kill)).toBeUndefined()
  expect(await launch(task, undefined)).toMatchObject({
    status: 'done',
    unknown: 0,
    pending: 0,
    rejected: 0,
    resent: 0,
  })
}
