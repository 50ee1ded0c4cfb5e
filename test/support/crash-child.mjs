// One run of a sync in a process of its own, for the crash tests to kill. Its task is the JSON in its first argument; when the
// run ends by itself, it prints the Run, and how often each named point was reached.
import { destination, sync } from 'spillway'
import { killAt, reached } from './kill-at.mjs'

const task = JSON.parse(process.argv[2])
const { folder, url, launch, mode, source, rows, pad, batchSize, concurrency, idempotent, verifies, keyed, kill } = task

killAt(kill)

// `at` has ties, so that a read which broke off can end between two of them
const all = Array.from({ length: rows }, (_, id) => ({ id, at: Math.floor(id / 7), pad: 'x'.repeat(pad) }))

async function* inPieces(some) {
  for (let start = 0; start < some.length; start += 100) {
    await new Promise(setImmediate)
    yield some.slice(start, start + 100)
  }
}

const sources = {
  array: all,
  function: () => inPieces(all),
  cursor: ({ since = 0 }) => inPieces(all.filter(({ at }) => at >= since)),
}

const post =
  (path) =>
  (batch, { http, idempotencyKey }) =>
    http.post(`${url}/${path}`, {
      headers: { 'idempotency-key': idempotencyKey, launch: String(launch) },
      json: batch.map(({ id }) => id),
    })

const options = {
  name: 'receiver',
  batchSize,
  concurrency,
  idempotent,
  timeout: '5s',
  settle: '100ms',
  retryFor: '20s',
}
const to = verifies
  ? destination(options)({
      insert: post('write'),
      async verify(batch, { http }) {
        const there = new Set(await http.post(`${url}/there`, { read: true, json: batch.map(({ id }) => id) }))
        return batch.filter(({ id }) => there.has(id))
      },
    })
  : destination(options)(post('write'))

const run = await sync({
  name: 'crash',
  from: sources[source],
  to,
  mode,
  ...(keyed ? { key: 'id' } : {}),
  ...(source === 'cursor' ? { cursor: 'at' } : {}),
  state: folder,
  log: { debug() {}, info() {}, warn() {}, error() {} },
}).run()
process.stdout.write(JSON.stringify({ run, reached }))
