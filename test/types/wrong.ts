// Programs that must not compile, each with its error on the word that is wrong.

import { destination, type Progress, receipt, reject, retry, secret, sync, unknown } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { dataframe } from 'spillway/sources/dataframe'
import { duckdb } from 'spillway/sources/duckdb'
import { mongodb } from 'spillway/sources/mongodb'
import { mysql } from 'spillway/sources/mysql'
import { postgres } from 'spillway/sources/postgres'
import { rest } from 'spillway/sources/rest'
import { sqlite } from 'spillway/sources/sqlite'
import { webhook } from 'spillway/sources/webhook'
import { z } from 'zod'
import { Contact, chat, crm, crmObjects, type Lead } from './shared.js'

declare const leads: Lead[]
const print = destination(100)((rows) => console.table(rows))
const users: { id: number; mail: string }[] = []

// ---- modes

sync({
  name: 'a',
  from: leads,
  to: print,
  key: 'id',
  // @ts-expect-error a function cannot delete
  mode: 'mirror',
})
sync({
  name: 'a2',
  from: leads,
  to: print,
  key: 'id',
  // @ts-expect-error a function cannot update
  mode: 'update',
})
sync({
  name: 'a3',
  from: leads,
  to: chat({ channel: '#a' }),
  map: (lead) => ({ text: lead.email }),
  key: 'id',
  // @ts-expect-error it has insert alone
  mode: 'upsert',
})
sync({
  name: 'a4',
  from: leads,
  to: print,
  key: 'id',
  // @ts-expect-error no such mode
  mode: 'upsrt',
})

// ---- columns

sync({
  name: 's',
  from: leads,
  to: print,
  // @ts-expect-error no such contract
  schemaContract: 'frozen',
})

// ---- keys and cursors

// @ts-expect-error a keyed mode needs key
sync({ name: 'f', from: leads, to: crm, mode: 'upsert' })
// @ts-expect-error so does insert
sync({ name: 'f2', from: leads, to: print, mode: 'insert' })
sync({
  name: 'c',
  from: leads,
  to: crm,
  mode: 'upsert',
  // @ts-expect-error not a column
  key: 'emial',
})
sync({
  name: 'c2',
  from: leads,
  to: crm,
  mode: 'upsert',
  // @ts-expect-error one of them is not a column
  key: ['id', 'emial'],
})
sync({
  name: 'g',
  from: leads,
  to: crm,
  key: 'id',
  mode: 'mirror',
  // @ts-expect-error a cursor sees only part of the source; mirror would delete the rest
  cursor: 'scored_at',
})
sync({
  name: 'g1',
  from: leads,
  to: crm,
  key: 'id',
  mode: 'mirror',
  // @ts-expect-error a share has a %
  deleteCeiling: '5',
})
sync({
  name: 'g2',
  from: leads,
  to: print,
  // @ts-expect-error not a column
  cursor: 'scoredAt',
})
sync({
  name: 'g3',
  from: leads,
  to: print,
  // @ts-expect-error a lag without a unit
  cursor: { column: 'scored_at', lag: '10' },
})

// ---- rows and records

// @ts-expect-error map is missing: a user is not a contact
sync({ name: 'b', from: users, to: crm, key: 'id', mode: 'upsert' })
sync({
  name: 'd',
  from: users,
  to: crm,
  key: 'id',
  mode: 'upsert',
  // @ts-expect-error email must be text
  map: (user) => ({ email: user.id }),
})
sync({
  name: 'e',
  from: users,
  to: crm,
  key: 'id',
  mode: 'upsert',
  // @ts-expect-error no such column
  map: (user) => ({ email: user.email }),
})
sync({
  name: 'h',
  from: leads,
  key: 'id',
  mode: 'upsert',
  to: crmObjects({ object: 'contacts', match: 'email' }),
  // @ts-expect-error the match field is missing from the record
  map: (lead) => ({ mail: lead.email }),
})
sync({
  name: 'i',
  // @ts-expect-error a string is not rows
  from: 'select 1',
  to: print,
})
sync({
  name: 'i2',
  // @ts-expect-error numbers are not rows
  from: [1, 2, 3],
  to: print,
})
sync({
  name: 'i3',
  from: leads,
  // @ts-expect-error a handler is not a destination yet
  to: (rows: Lead[]) => console.log(rows),
})
sync({
  name: 'i4',
  from: leads,
  to: print,
  // @ts-expect-error no such option
  batchSize: 100,
})

// `from` is a function that takes a parameter: its rows are known all the same
sync({
  name: 'j',
  from: async ({ since }) => [{ id: 1, email: `${since}` }],
  to: crm,
  mode: 'upsert',
  // @ts-expect-error not a column
  key: 'emial',
})
sync({
  name: 'j2',
  from: async ({ since }) => [{ id: 1, mail: `${since}` }],
  to: crm,
  key: 'id',
  // @ts-expect-error no such column
  map: (row) => ({ email: row.email }),
})
// @ts-expect-error map is missing
sync({ name: 'j3', from: async ({ since }) => [{ id: 1, mail: `${since}` }], to: crm, key: 'id' })

// ---- config

crm({
  // @ts-expect-error config field of the wrong type
  url: 5,
})
crm({
  // @ts-expect-error no such config field
  ulr: 'x',
})
// @ts-expect-error config needs a name, by which it is looked up
destination({ config: z.object({ token: z.string() }) })
// @ts-expect-error without config there is nothing to call it with
print({ token: 'x' })
// @ts-expect-error the channel is required
chat({ token: secret('X') })
// @ts-expect-error the tab is required
googleSheets({ spreadsheet: 'x' })
googleSheets({
  spreadsheet: 'x',
  tab: 'y',
  // @ts-expect-error one of the two
  input: 'FORMULA',
})

// ---- options of a destination

destination({
  record: Contact,
  // @ts-expect-error not a field of the record
  match: 'mail',
})
destination({
  // @ts-expect-error a rate without a unit
  rate: '10',
})
destination({
  // @ts-expect-error a duration without a unit
  idempotent: '24',
})
destination({
  // @ts-expect-error one of the two
  onUnknown: 'retry',
})
destination({
  name: 'x',
  // @ts-expect-error a target is a function of the config
  target: 'board',
})
print.with({
  // @ts-expect-error a number or 'auto'
  concurrency: 'max',
})
print.with({
  // @ts-expect-error what a destination guarantees does not change from use to use
  idempotent: '1h',
})

// ---- handlers and their answers

destination(1)({
  // @ts-expect-error a handler's name is misspelt
  upsrt() {},
})
// @ts-expect-error an answer that is not a list of outcomes
destination(1)(async (rows) => fetch('x', { body: JSON.stringify(rows) }))
// @ts-expect-error a list, but not of outcomes
destination(1)((rows) => rows.map(() => 200))
// @ts-expect-error outcomes come all at once
destination(1)(async function* (rows) {
  yield reject(rows[0]!, 'bad')
})
// @ts-expect-error a verdict on the whole batch: throw instead
destination(1)(() => true)
destination({ record: Contact })({
  upsert(batch) {
    // @ts-expect-error no such field
    return [reject(batch[0]!, batch[0]!.mail)]
  },
})
destination({ record: Contact, match: 'email' })({
  delete(batch) {
    // @ts-expect-error a delete gets the match fields alone
    console.log(batch[0]!.score)
  },
})
// @ts-expect-error verify answers with the records that are there, not whether they are
destination({ record: Contact })({ insert() {}, verify: (batch) => batch.map(() => true) })
// @ts-expect-error a rejection is no answer to whether a record is there
destination({ record: Contact })({ insert() {}, verify: (batch) => batch.map((contact) => reject(contact, 'gone')) })
// @ts-expect-error list gives objects, not their ids
destination(1)({ insert() {}, list: () => ['1', '2'] })
// @ts-expect-error an object without the match field is never found
destination({ record: Contact, match: 'email' })({ insert() {}, list: async () => [{ mail: 'a' }] })
destination({ record: Contact })({
  insert() {},
  list({ config, ...context }) {
    // @ts-expect-error a listing is no batch
    return [{ config, key: context.idempotencyKey }]
  },
})
destination({ record: Contact })({
  insert() {},
  // @ts-expect-error no such field
  held: (contact) => ({ email: contact.mail }),
})
sync({
  name: 'listed',
  from: leads,
  to: destination(1)({ upsert() {}, list: () => [] }),
  key: 'id',
  // @ts-expect-error list is no mode
  mode: 'list',
})
destination({ name: 'x', config: z.object({ token: z.string() }) })((_, { config }) => {
  // @ts-expect-error no such config field
  console.log(config.tokn)
})
destination(1)((_, context) => {
  // @ts-expect-error nobody changes the key
  context.idempotencyKey = 'x'
})
destination(1)((rows) => [
  // @ts-expect-error a wait is a duration
  retry(rows[0]!, { after: 30 }),
])
destination(1)((rows) => [
  // @ts-expect-error a reason is not optional
  reject(rows[0]!),
])
destination(1)((rows) => [
  // @ts-expect-error it is the record that is unknown, not its key
  unknown(rows[0]!['id'] as number),
])
destination(1)((rows) => [
  // @ts-expect-error an id is text
  receipt(rows[0]!, 17),
])

// ---- running

const run = sync({ name: 'r', from: leads, to: crm, key: 'id' })
run.run({
  // @ts-expect-error a time, not a duration
  deadline: '30s',
})
run.run({
  // @ts-expect-error one of the two
  brokenOff: 'again',
})
run.run({
  // @ts-expect-error no such count
  onProgress: ({ failed }) => console.log(failed),
})
run.run({
  onProgress: (progress: Progress) => {
    // @ts-expect-error the total is not known before the source has been read
    console.log(progress.total.toFixed())
  },
})
run.verify().then((drift) => {
  // @ts-expect-error no such count
  console.log(drift.changed)
})
run.redrive({
  // @ts-expect-error no such column
  where: (letter) => letter.row.emial === '',
})
run.deadLetters((letter) => {
  // @ts-expect-error there is no record where map is what failed
  return letter.record.email === ''
})

// ---- sources

// @ts-expect-error a query or a table
postgres({ url: secret('DATABASE_URL') })
// @ts-expect-error not both
postgres({ table: 'a', query: 'select 1' })
// @ts-expect-error a query or a table
mysql({ url: secret('DATABASE_URL') })
mysql({
  // @ts-expect-error an option of connections, which a pool may have
  server: { host: 'db', multipleStatements: true },
  table: 'a',
})
// @ts-expect-error a file
sqlite({ table: 'a' })
postgres({
  table: 'a',
  // @ts-expect-error TLS is an option of the connection
  ssl: true,
})
duckdb({
  query: 'from x',
  // @ts-expect-error a path is text
  path: secret('X'),
})

// ---- REST

// @ts-expect-error no such option
rest({ url: 'https://api.test', pagination: 'link' })
// @ts-expect-error no such paginator
rest({ url: 'https://api.test', paginate: 'links' })
// @ts-expect-error an API key needs its value
rest({ url: 'https://api.test', auth: { header: 'x-api-key' } })
const api = rest({
  url: 'https://api.test',
  resources: {
    leads: { path: '/leads', record: z.object({ id: z.number() }), defaults: { key: 'email', mode: 'upsert' } },
  },
})
// @ts-expect-error its defaults name a column that its rows do not have
sync({ name: 'r1', from: api.leads, to: print, ...api.leads.defaults })
// @ts-expect-error no such resource
api.people
// ---- frames and documents

sync({
  name: 'f1',
  from: dataframe({ id: [1, 2] }),
  to: print,
  // @ts-expect-error the frame has no such column
  key: 'email',
})
// @ts-expect-error an array of rows is no frame
dataframe([{ id: 1 }])
// @ts-expect-error a number is no column
dataframe({ id: 1 })
// @ts-expect-error a pipeline has a stage for it
mongodb({ url: 'mongodb://x', db: 'shop', collection: 'orders', pipeline: [], filter: {} })
// @ts-expect-error `db` is missing
mongodb({ url: 'mongodb://x', collection: 'orders' })

// ---- webhooks

const hook = webhook<{ id: number; type: 'made' }>({ name: 'hook' })
webhook({
  name: 'hook',
  // @ts-expect-error no such scheme
  verify: {
    scheme: 'strype',
    secret: 'x',
  },
})
sync({
  name: 'h',
  from: hook.on('made'),
  to: print,
  // @ts-expect-error no such column
  key: 'mail',
})
// @ts-expect-error no such unit
people.start({ every: '5m' })
