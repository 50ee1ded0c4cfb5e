// One run of a sync that mirrors or replaces, in a process of its own, for test/crash/changes.test.ts to kill. Its task is the
// JSON in its first argument; when the run ends by itself, it prints how often each named point was reached.
import { destination, sync } from 'spillway'
import { killAt, reached } from './kill-at.mjs'

const { folder, url, mode, rows, batchSize, concurrency, kill } = JSON.parse(process.argv[2])

killAt(kill)

const post =
  (path) =>
  (batch, { http }) =>
    http.post(`${url}/${path}`, { json: batch })
const to = destination({ name: 'receiver', batchSize, concurrency, timeout: '5s', settle: '50ms', retryFor: '20s' })({
  upsert: post('upsert'),
  delete: post('delete'),
  async replace(batches, context) {
    await post('clear')([], context)
    for await (const batch of batches) await post('upsert')(batch, context)
  },
})
const run = await sync({
  name: 'crash',
  from: () => rows,
  to,
  mode,
  key: 'id',
  deleteCeiling: '60%',
  state: folder,
  log: { debug() {}, info() {}, warn() {}, error() {} },
}).run()
process.stdout.write(JSON.stringify({ run, reached }))
