import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Run } from '../../src/index.js'
import { type Call, type Receiver, startReceiver } from '../support/receiver.js'
import { afterDeath, type BatchRow, type Ledger, openLedger, stateFolder } from '../support/state-folder.js'

// A child process delivers to a server that lives here, is killed with SIGKILL, and is started again until it has finished.
// What the server saw is the truth. `npm test` kills at every named point once and at some random moments; `npm run soak`
// (SOAK=1) kills a few hundred times. SEED=… repeats the choices of a run that failed.

const soak = process.env['SOAK'] !== undefined
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
const child = fileURLToPath(new URL('../support/crash-child.mjs', import.meta.url))
const sources = fileURLToPath(new URL('../../src', import.meta.url))

/** The points that the engine names. */
const points = readdirSync(sources, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .flatMap((file) => [...readFileSync(join(sources, file), 'utf8').matchAll(/checkpoint\('([^']+)'\)/g)])
  .map(([, name]) => name!)

interface Scenario {
  readonly name: string
  readonly mode: 'append' | 'insert' | 'upsert'
  readonly source: 'array' | 'function' | 'cursor'
  readonly keyed?: boolean
  readonly verifies?: boolean
  readonly idempotent?: '24h'
  /** How often a row may be at the destination. */
  readonly copies: 'one' | 'some in flight' | 'any'
}

const scenarios: readonly Scenario[] = [
  { name: 'append, from a function', mode: 'append', source: 'function', copies: 'some in flight' },
  { name: 'append, from an array', mode: 'append', source: 'array', copies: 'some in flight' },
  { name: 'append, with a key', mode: 'append', source: 'function', keyed: true, copies: 'some in flight' },
  { name: 'append, with a cursor', mode: 'append', source: 'cursor', copies: 'some in flight' },
  { name: 'append, with idempotency keys', mode: 'append', source: 'function', idempotent: '24h', copies: 'one' },
  { name: 'insert', mode: 'insert', source: 'function', keyed: true, copies: 'some in flight' },
  { name: 'insert, with a cursor', mode: 'insert', source: 'cursor', keyed: true, copies: 'some in flight' },
  { name: 'insert, with verify', mode: 'insert', source: 'function', keyed: true, verifies: true, copies: 'one' },
  { name: 'upsert', mode: 'upsert', source: 'function', keyed: true, copies: 'any' },
  { name: 'upsert, with a cursor', mode: 'upsert', source: 'cursor', keyed: true, copies: 'any' },
]

/** At the n-th time that a point is reached, or after so many milliseconds. */
type Kill = { readonly point: string; readonly nth: number } | { readonly after: number }

interface Launch {
  readonly kill: Kill | undefined
  readonly batchSize: number
  readonly concurrency: number
  readonly killed: boolean
  /** The batches that it left open. */
  readonly open: readonly BatchRow[]
  readonly run: Run | undefined
  readonly reached: Readonly<Record<string, number>>
}

const rows = 1_500
const random = generator(seed)
const killedAt = new Set<string>()
let kills = 0

describe(`killed with SIGKILL and started again (SEED=${seed})`, () => {
  it.each(scenarios)(
    '$name: no row is lost, and rows are repeated only as promised',
    { timeout: 900_000 },
    async (scenario) => {
      const { launches, receiver } = await history(scenario, [])
      const { reached } = launches[0]!
      const here = Object.keys(reached)
      const chosen = soak ? here : here.filter((point) => !killedAt.has(point)).concat(pick(here))
      const plan: Kill[] = chosen.map((point) => ({ point, nth: 1 + Math.floor(random() * reached[point]!) }))
      // the last occurrence is where a run has all but ended
      for (const point of soak ? here : [pick(here)]) plan.push({ point, nth: reached[point]! })
      for (let moments = soak ? 8 : 1; moments > 0; moments--) plan.push({ after: 120 + random() * 400 })
      await receiver.close()
      while (plan.length > 0) {
        const some = plan.splice(0, 1 + Math.floor(random() * 3))
        const told = await history(scenario, some)
        await told.receiver.close()
      }
    },
  )

  it('was killed at every point that the engine names', () => {
    expect(points.filter((point) => !killedAt.has(point))).toEqual([])
    expect(kills).toBeGreaterThan(soak ? 200 : 12)
  })
})

/** Runs to the end on a new state, through the kills given, and judges what the server saw. */
async function history(
  scenario: Scenario,
  plan: readonly Kill[],
): Promise<{ launches: readonly Launch[]; receiver: Receiver }> {
  const folder = await stateFolder()
  const receiver = await startReceiver({ honoursKeys: scenario.idempotent !== undefined })
  onTestFinished(() => receiver.close())
  // Only in half of the histories: what one process leaves is not the same while another has the database open.
  const watch = random() < 0.5 ? watcher(folder, receiver) : undefined
  const launches: Launch[] = []
  for (const kill of [...plan, undefined]) {
    launches.push(await launch(scenario, folder, receiver, launches.length, kill, watch?.ledger))
    if (launches.at(-1)!.run) break // it had finished before
  }
  const told = `SEED=${seed} ${scenario.name}: ${launches
    .map(
      ({ kill, killed, batchSize, concurrency }) =>
        `${JSON.stringify(kill)}${killed ? ' killed' : ''} ${batchSize}x${concurrency}`,
    )
    .join(', then ')}`
  judge(scenario, launches, receiver, told)
  expect(watch?.unmarked ?? [], told).toEqual([])
  return { launches, receiver }
}

/** Reads the ledger in another process than the one that sends, at the moment when a request arrives. */
function watcher(folder: string, receiver: Receiver): { ledger(): Ledger | undefined; readonly unmarked: Call[] } {
  let ledger: Ledger | undefined
  const unmarked: Call[] = []
  receiver.onArrival = (call) => {
    ledger ??= openLedger(folder)
    if (ledger.batch(call.key)?.state !== 'sent') unmarked.push(call)
  }
  onTestFinished(() => ledger?.close())
  return { ledger: () => ledger, unmarked }
}

async function launch(
  scenario: Scenario,
  folder: string,
  receiver: Receiver,
  number: number,
  kill: Kill | undefined,
  watched: (() => Ledger | undefined) | undefined,
): Promise<Launch> {
  const batchSize = pick([7, 20, 50])
  const concurrency = pick([1, 3, 8])
  const task = {
    ...scenario,
    rows,
    pad: 1_500,
    folder,
    url: receiver.url,
    launch: number,
    batchSize,
    concurrency,
    kill,
  }
  const process = spawn('node', [child, JSON.stringify(task)], { stdio: ['ignore', 'pipe', 'pipe'] })
  const timer = kill && 'after' in kill ? setTimeout(() => process.kill('SIGKILL'), kill.after) : undefined
  const [output, complaint, signal] = await Promise.all([
    text(process.stdout),
    text(process.stderr),
    new Promise<NodeJS.Signals | null>((resolve) => process.on('close', (_, by) => resolve(by))),
  ])
  clearTimeout(timer)
  const killed = signal === 'SIGKILL'
  if (!killed && output === '') throw new Error(`SEED=${seed} ${scenario.name}: the child failed: ${complaint}`)
  if (killed) kills++
  if (killed && kill && 'point' in kill) killedAt.add(kill.point)
  const read = (ledger: Ledger) => ({
    open: ledger.batches().filter(({ state }) => state !== 'settled'),
    run: ledger.lastRun(),
  })
  const ledger = watched?.()
  const left = ledger ? read(ledger) : afterDeath(folder, read)
  // killed when all was done and recorded, but for telling its caller: to run again would be another run
  const told = killed
    ? { run: left?.run?.status === 'done' ? left.run.summary : undefined, reached: {} }
    : JSON.parse(output)
  return { kill, batchSize, concurrency, killed, open: left?.open ?? [], ...told }
}

function judge(scenario: Scenario, launches: readonly Launch[], receiver: Receiver, told: string): void {
  const { calls, applied } = receiver
  const last = launches.at(-1)!.run!
  expect(last, told).toMatchObject({ pending: 0, unknown: 0, rejected: 0 })
  for (const counts of [last, last.resumed]) {
    const { rows, delivered, unchanged, rejected, pending, unknown, superseded } = counts
    expect(delivered + unchanged + rejected + pending + unknown + superseded, told).toBe(rows)
  }

  // no row is lost
  const times = new Map<number, number>()
  for (const id of applied) times.set(id, (times.get(id) ?? 0) + 1)
  expect(times.size, told).toBe(rows)

  // one idempotency key, one body
  const bodies = new Map<string, string>()
  for (const { key, ids } of calls) {
    expect(bodies.get(key) ?? ids.join(), told).toBe(ids.join())
    bodies.set(key, ids.join())
  }

  // no more is at risk than the lanes hold
  let largest = 0
  let found: readonly BatchRow[] = []
  for (const { open, batchSize, concurrency } of launches) {
    largest = Math.max(largest, batchSize)
    const old = new Set(found.map(({ id, attempt }) => `${id} ${attempt}`))
    const sent = open.filter(({ id, state, attempt }) => state === 'sent' && !old.has(`${id} ${attempt}`))
    found = open
    expect(sent.length, told).toBeLessThanOrEqual(concurrency)
    for (const batch of sent) expect(batch.rows, told).toBeLessThanOrEqual(largest)
  }

  if (scenario.copies === 'any') return
  if (scenario.copies === 'one') expect([...times].filter(([, count]) => count > 1).length, told).toBe(0)

  // a row is sent again only under the same key, by a later launch, when a kill left its batch open
  const before = new Map<number, Call>()
  const repeated = new Map<Launch, Set<number>>()
  for (const call of calls) {
    for (const id of call.ids) {
      const earlier = before.get(id)
      before.set(id, call)
      if (!earlier) continue
      expect(call.key, told).toBe(earlier.key)
      expect(call.launch, told).toBeGreaterThan(earlier.launch)
      expect(
        launches[earlier.launch]!.open.map(({ key }) => key),
        told,
      ).toContain(call.key)
      const now = launches[call.launch]!
      repeated.set(now, (repeated.get(now) ?? new Set()).add(id))
    }
  }
  for (const [one, ids] of repeated) {
    if (one.run && scenario.copies === 'some in flight') expect(one.run.resent, told).toBeGreaterThanOrEqual(ids.size)
  }
}

async function text(stream: NodeJS.ReadableStream): Promise<string> {
  let all = ''
  for await (const piece of stream) all += piece
  return all
}

function pick<T>(some: readonly T[]): T {
  return some[Math.floor(random() * some.length)]!
}

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
function generator(from: number): () => number {
  let state = from
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
