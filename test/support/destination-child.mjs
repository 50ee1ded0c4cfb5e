// One run of an append to a file or a table in a process of its own, killed in the middle of the n-th write of a batch. Its task is
// the JSON in its first argument; when the run ends by itself, it prints the Run.
import { open } from 'node:fs/promises'
import pg from 'pg'
import { sync } from 'spillway'
import { duckdbTable } from 'spillway/destinations/duckdb-table'
import { file } from 'spillway/destinations/file'
import { postgresTable } from 'spillway/destinations/postgres-table'
import { killAt } from './kill-at.mjs'

const { folder, kind, options, rows, batchSize, kill } = JSON.parse(process.argv[2])

const make = { file, postgres: postgresTable, duckdb: duckdbTable }[kind]
let writes = 0

function die() {
  process.kill(process.pid, 'SIGKILL')
  for (;;); // not one more instruction of the run
}

if (kill?.point === 'half a write') {
  const handle = await open(process.argv[1])
  const prototype = Object.getPrototypeOf(handle)
  const { appendFile } = prototype
  prototype.appendFile = async function (bytes, ...rest) {
    if (++writes !== kill.nth) return appendFile.call(this, bytes, ...rest)
    await this.write(bytes, 0, Math.floor(bytes.length / 2))
    return die()
  }
  await handle.close()
} else if (kill?.point.endsWith('commit')) {
  const { query } = pg.Client.prototype
  pg.Client.prototype.query = function (config, ...rest) {
    const mine = config === 'commit' && ++writes === kill.nth
    if (mine && kill.point === 'before commit') die()
    const answer = query.call(this, config, ...rest)
    if (mine && kill.point === 'during commit') die()
    return mine ? answer.then(die) : answer
  }
} else killAt(kill)

const run = await sync({
  name: 'killed',
  from: Array.from({ length: rows }, (_, id) => ({ id, pad: 'x'.repeat(50) })),
  to: make(options).with({ batchSize }),
  mode: 'append',
  state: folder,
  log: { debug() {}, info() {}, warn() {}, error() {} },
}).run()
process.stdout.write(JSON.stringify(run))
