// Carries rows from every source into every destination, in a process of its own: only a process has a time zone. Its task is the
// JSON that it reads (`Job` in test/sources/round-trip.test.ts); it prints what it saw (`Seen`).
import { json } from 'node:stream/consumers'
import { tableFromIPC } from 'apache-arrow'
import pl from 'nodejs-polars'
import { destination, source, sync } from 'spillway'
import { toConsole } from 'spillway/destinations/console'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { hubspot } from 'spillway/destinations/hubspot'
import { postgresTable } from 'spillway/destinations/postgres-table'
import { dataframe } from 'spillway/sources/dataframe'
import { duckdb } from 'spillway/sources/duckdb'
import { mongodb } from 'spillway/sources/mongodb'
import { mysql } from 'spillway/sources/mysql'
import { postgres } from 'spillway/sources/postgres'
import { rest } from 'spillway/sources/rest'
import { sqlite } from 'spillway/sources/sqlite'
import { webhook } from 'spillway/sources/webhook'
import { decodeTexts, losslessText } from '../../dist/src/values.js'

const { state, from, to, refused, formats } = await json(process.stdin)

const log = { debug() {}, info() {}, warn() {}, error() {} }
const hook = webhook({ name: 'hook', state, log })
const arrow = Buffer.from(from.arrow, 'base64')

const sources = {
  array: source(() => decodeTexts(from.array)),
  postgres: postgres(from.postgres),
  duckdb: duckdb(from.duckdb),
  sqlite: sqlite(from.sqlite),
  ...(from.mysql && { mysql: mysql(from.mysql) }),
  'apache-arrow': dataframe(tableFromIPC(arrow)),
  flechette: dataframe(arrow),
  polars: dataframe(pl.readIPCStream(arrow)),
  mongodb: mongodb(from.mongodb),
  rest: rest(from.rest),
  webhook: hook,
}

const records = {}
const printed = {}
const sheets = (spreadsheet, tab, options) =>
  googleSheets({ ...to.sheets, spreadsheet, tab, ...options }).with({ rate: '1000/s' })

const destinations = {
  function: (name) =>
    destination({ name: 'function', batchSize: 10 })((batch) => {
      records[name] = [...(records[name] ?? []), ...batch.map(losslessText)]
    }),
  console: (name) =>
    toConsole({
      stream: {
        write(text) {
          printed[name] = (printed[name] ?? '') + text
        },
      },
    }),
  postgres: (name) => postgresTable({ url: to.postgres.url, table: `${to.postgres.schema}."${name}"` }),
  sheet: (name) => sheets(to.sheet, name),
  calendar: (name) => sheets(to.calendar, name, { formats }),
  hubspot: (name) => hubspot({ ...to.hubspot, object: to.objects[name] }),
}

const only = (row, wanted) => Object.fromEntries(Object.entries(row).filter(([name]) => wanted(name)))
const maps = {
  sheet: (row) => only(row, (name) => !refused.sheet.includes(name)),
  calendar: (row) => only(row, (name) => name === 'row' || name in formats),
  hubspot: (row) => only(row, (name) => !refused.hubspot.includes(name)),
}

const syncs = Object.entries(sources).flatMap(([name, from]) =>
  Object.entries(destinations).map(([where, to]) =>
    sync({ name: `${name} to ${where}`, from, to: to(name), map: maps[where], mode: 'append', state, log }),
  ),
)
for (const body of from.webhook) {
  const headers = { 'content-type': 'application/json' }
  const { status } = await hook.fetch(new Request('http://localhost/hook', { method: 'POST', headers, body }))
  if (status !== 200) throw new Error(`the webhook answered ${status}`)
}
const failed = {}
for (const one of syncs) {
  try {
    const run = await one.run()
    if (run.delivered === 0 || run.delivered !== run.rows) failed[one.name] = run
  } catch (error) {
    failed[one.name] = String(error)
  }
}
await hook.close()

// what a clock on the wall shows half an hour after two on the day that has no such time in New York, and the zone in January
const zone = [new Date(2026, 2, 8, 2, 30).getHours(), new Date(2026, 0).getTimezoneOffset()]
process.stdout.write(JSON.stringify({ zone, records, printed, failed }))
