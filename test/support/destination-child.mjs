// One run of a sync to a bundled destination in a process of its own, for tests to kill: from outside, or at a named point of the
// engine or of a write. Its task is the JSON in its first argument; when the run ends by itself, it prints the Run.
import { open } from 'node:fs/promises'
import { sync } from 'spillway'
import { killAt } from './kill-at.mjs'

const { folder, kind, options, policy, mode, key, rows, kill } = JSON.parse(process.argv[2])

const factories = {
  duckdb: async () => (await import('spillway/destinations/duckdb-table')).duckdbTable,
  file: async () => (await import('spillway/destinations/file')).file,
  hubspot: async () => (await import('spillway/destinations/hubspot')).hubspot,
  notion: async () => (await import('spillway/destinations/notion')).notion,
  postgres: async () => (await import('spillway/destinations/postgres-table')).postgresTable,
  salesforce: async () => (await import('spillway/destinations/salesforce')).salesforce,
  sheets: async () => (await import('spillway/destinations/google-sheets')).googleSheets,
  slack: async () => (await import('spillway/destinations/slack')).slack,
  webhook: async () => (await import('spillway/destinations/slack')).slackWebhook,
}
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
  const postgres = kind === 'postgres'
  const { prototype } = postgres
    ? (await import('pg')).default.Client
    : (await import('@duckdb/node-api')).DuckDBConnection
  const method = postgres ? 'query' : 'run'
  const original = prototype[method]
  prototype[method] = function (statement, ...rest) {
    const mine = statement === 'commit' && ++writes === kill.nth
    if (mine && kill.point === 'before commit') die()
    const answer = original.call(this, statement, ...rest)
    if (mine && kill.point === 'during commit') die()
    return mine ? answer.then(die) : answer
  }
} else killAt(kill)

const make = await factories[kind]()
const run = await sync({
  name: 'killed',
  from: () => rows,
  to: make(options).with(policy),
  mode,
  key,
  state: folder,
  log: { debug() {}, info() {}, warn() {}, error() {} },
}).run({ allowDeletes: true })
process.stdout.write(JSON.stringify(run))
