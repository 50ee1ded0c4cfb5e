import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import type { Run } from '../../src/index.js'
import { stateFolder } from '../support/state-folder.js'

// A mirror and a replacement, killed with SIGKILL at every named point of a run that has inserts, updates and deletes to send,
// and started again, each time over a source that has changed once more, or changed back. The server holds objects: in the end
// they are the source's. `npm run soak` (SOAK=1) kills at every occurrence of every point; without it, each point is met once, in
// one of the two modes.

const soak = process.env['SOAK'] !== undefined
const child = fileURLToPath(new URL('../support/changes-child.mjs', import.meta.url))

type Row = { id: number; v: number }
type Task = { folder: string; url: string; mode: 'mirror' | 'replace'; rows: readonly Row[]; kill?: object }

/** What holds the objects, and outlives whoever sends to it. */
async function startHolder(): Promise<{ url: string; objects: Map<number, Row> }> {
  const objects = new Map<number, Row>()
  const server = createServer(async (request, response) => {
    const batch = (await json(request)) as Row[]
    // whoever sent it may be killed before it is applied, or between that and the answer
    await sleep(Math.random() * 3)
    if (request.url === '/clear') objects.clear()
    for (const row of batch) {
      if (request.url === '/delete') objects.delete(row.id)
      else objects.set(row.id, row)
    }
    await sleep(Math.random() * 3)
    response.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, objects }
}

/** One process; `undefined` when it was killed. */
async function launch(task: Task): Promise<{ run: Run; reached: Record<string, number> } | undefined> {
  const text = JSON.stringify({ ...task, batchSize: 7, concurrency: 3 })
  const process = spawn('node', [child, text], { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  process.stdout.on('data', (piece) => {
    output += piece
  })
  const signal = await new Promise((resolve) => process.on('close', (_, by) => resolve(by)))
  if (signal === 'SIGKILL') return undefined
  return JSON.parse(output)
}

const before = Array.from({ length: 90 }, (_, id): Row => ({ id, v: 0 }))
/** A third updated, a fifth gone, some new. */
const after = before
  .filter(({ id }) => id % 5 > 0)
  .map((row) => (row.id % 3 > 0 ? row : { ...row, v: 1 }))
  .concat(Array.from({ length: 10 }, (_, id) => ({ id: 900 + id, v: 1 })))

it.each(['mirror', 'replace'] as const)(
  '%s: killed at any point, over a source that changes or changes back meanwhile, it comes to hold what the source has',
  { timeout: 900_000 },
  async (mode) => {
    const sorted = (rows: Iterable<Row>) => [...rows].sort((a, b) => a.id - b.id)
    const first = { ...(await startHolder()), folder: await stateFolder() }
    await launch({ ...first, mode, rows: before })
    const { reached } = (await launch({ ...first, mode, rows: after }))!
    expect(sorted(first.objects.values())).toEqual(sorted(after))

    let kills = 0
    for (const [place, [point, times]] of Object.entries(reached).entries()) {
      if (!soak && place % 2 === Number(mode === 'mirror')) continue
      const all = Array.from({ length: times }, (_, index) => index + 1)
      for (const nth of soak ? all : [all[Math.floor(times / 2)]!]) {
        const { url, objects } = await startHolder()
        const task = { url, folder: await stateFolder(), mode }
        await launch({ ...task, rows: before })
        if (!(await launch({ ...task, rows: after, kill: { point, nth } }))) kills++
        // a lost request may land late, but not later than `settle`
        for (const rows of nth % 2 ? [before, after] : [after]) {
          const ended = (await launch({ ...task, rows }))!
          const { run } = ended
          const told = `${point} ${nth}`
          expect(run, told).toMatchObject({ status: 'done', pending: 0, unknown: 0, rejected: 0 })
          for (const counts of [run, run.deletes, run.resumed]) {
            const { delivered, unchanged, rejected, pending, unknown, superseded } = counts
            expect(delivered + unchanged + rejected + pending + unknown + superseded, told).toBe(counts.rows)
          }
          expect(sorted(objects.values()), told).toEqual(sorted(rows))
        }
        const last = (await launch({ ...task, rows: after }))!.run
        expect(last).toMatchObject({ delivered: 0, unchanged: after.length, deletes: { rows: 0 } })
      }
    }
    expect(kills).toBeGreaterThan(soak ? 8 : 4)
  },
)
