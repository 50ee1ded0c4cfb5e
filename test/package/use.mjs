// What a newcomer does first, in plain JavaScript, in a project that has nothing but the package.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { destination, sync } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { sandbox, serve } from 'spillway/sandbox'
import { dataframe } from 'spillway/sources/dataframe'
import { duckdb } from 'spillway/sources/duckdb'
import { mongodb } from 'spillway/sources/mongodb'
import { mysql } from 'spillway/sources/mysql'
import { postgres } from 'spillway/sources/postgres'
import { rest } from 'spillway/sources/rest'
import { sqlite } from 'spillway/sources/sqlite'
import { webhook } from 'spillway/sources/webhook'
import { conformance } from 'spillway/testing'

function* people() {
  yield { id: 1, email: 'ada@example.com' }
  yield { id: 2, email: 'grace@example.com' }
}
const seen = []
const print = destination(100)((rows) => {
  console.table(rows)
  seen.push(...rows)
})
const run = await sync({ name: 'people', from: people, to: print }).run()
assert.deepEqual(seen, [...people()])
assert.equal(run.delivered, 2)
assert.ok(existsSync('.spillway/state.db'))

const { rows, delivered } = await sync({
  name: 'range',
  from: duckdb({ query: 'select range as id from range(3)' }),
  to: print,
  key: 'id',
}).run()
assert.deepEqual([rows, delivered], [3, 3])
const columns = await sync({ name: 'columns', from: dataframe({ id: [4, 5] }), to: print, key: 'id' }).run()
assert.equal(columns.delivered, 2)

const names = []
const ledger = sqlite({ path: '.spillway/state.db', query: 'select name from sync order by name' })
for await (const { name } of ledger) names.push(name)
assert.deepEqual(names, ['columns', 'people', 'range'])

const hook = webhook({ name: 'hook' })
const headers = { 'content-type': 'application/json' }
const answer = await hook.fetch(new Request('http://localhost/', { method: 'POST', headers, body: '{"id":3}' }))
assert.equal(answer.status, 200)
const events = await sync({ name: 'events', from: hook, to: print }).run()
assert.equal(events.delivered, 1)

// what is not installed is named, with the command that installs it
const table = postgres({ url: 'postgres://localhost/none', table: 'none' })
await assert.rejects(sync({ name: 'table', from: table, to: print }).run(), /npm install pg pg-cursor/)
const other = mysql({ url: 'mysql://localhost/none', table: 'none' })
await assert.rejects(sync({ name: 'other', from: other, to: print }).run(), /npm install mysql2/)
const frame = dataframe(new Uint8Array(8))
await assert.rejects(sync({ name: 'frame', from: frame, to: print }).run(), /npm install @uwdata\/flechette/)
const orders = mongodb({ url: 'mongodb://localhost', db: 'shop', collection: 'orders' })
await assert.rejects(sync({ name: 'orders', from: orders, to: print }).run(), /npm install mongodb/)
const sheet = googleSheets({ spreadsheet: 'none', tab: 'none', token: 'none' })
await assert.rejects(sync({ name: 'sheet', from: people, to: sheet }).run(), /npm install @googleapis\/sheets/)

assert.deepEqual(
  [sandbox, serve, conformance, rest].map((one) => typeof one),
  ['function', 'function', 'function', 'function'],
)
console.log('the package works where it is installed')
