// Programs that must compile, against the built package, without an annotation that is not written here.

import type { RequestListener } from 'node:http'
import type {
  Table as ArrowTable,
  Binary,
  Bool,
  DateDay,
  Decimal,
  Dictionary,
  Float64,
  Int32,
  Int64,
  List,
  Struct,
  TimestampMicrosecond,
  Utf8,
} from 'apache-arrow'
import type { Collection, Decimal128, Long, ObjectId } from 'mongodb'
import {
  type Context,
  type DeadLetter,
  type Difference,
  destination,
  FatalError,
  type Injected,
  type Outcome,
  type Progress,
  type Receipt,
  RejectedError,
  RetryableError,
  type Run,
  receipt,
  reject,
  retry,
  runAll,
  type Source,
  type Sync,
  secret,
  source,
  sync,
  type Unknown,
  unknown,
} from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { dataframe, type PolarsFrame } from 'spillway/sources/dataframe'
import { duckdb } from 'spillway/sources/duckdb'
import { documents, mongodb } from 'spillway/sources/mongodb'
import { postgres } from 'spillway/sources/postgres'
import { rest, restClient } from 'spillway/sources/rest'
import { nodeHandler, webhook } from 'spillway/sources/webhook'
import { z } from 'zod'
import { type Anomaly, Contact, chat, crm, crmObjects, type Lead, LeadSchema, type Signup, table } from './shared.js'

declare const leads: Lead[]
declare const ofPolars: PolarsFrame

// the first screen
function* people() {
  yield { id: 1, email: 'a@b.c' }
  yield { id: 2, email: 'c@d.e' }
}
const print = destination(100)((rows) => console.table(rows))
await sync({ name: 'people', from: people, to: print }).run()

// an annotated function, rows of an interface
const notify = destination(10)(async (batch: Lead[], { http, idempotencyKey }) => {
  const headers = { 'idempotency-key': idempotencyKey }
  await http.post('https://x.test', { json: batch.map(({ email }) => ({ email })), headers })
})
await sync({ name: 'leads', from: leads, to: notify, key: 'id', mode: 'upsert', schemaContract: 'freeze' }).run()

// one source, two destinations, each with its map; an option that is a match field types the record
const scored = duckdb<Lead>({ path: 'lake.db', query: 'from scored' })
const toContacts = sync({
  name: 'leads-contacts',
  from: scored,
  map: (lead) => ({ email: lead.email, lead_score: lead.score }),
  to: crmObjects({ object: 'contacts', match: 'email', token: secret('CRM_TOKEN') }),
  key: 'id',
  mode: 'upsert',
})
const toLeads = sync({
  name: 'leads-leads',
  from: scored,
  map: (lead) => ({ Email__c: lead.email, Score__c: lead.score }),
  to: crmObjects({ object: 'Lead', match: 'Email__c' }),
  key: 'id',
  mode: 'update',
  cursor: 'scored_at',
})
const [a, b] = await runAll([toContacts, toLeads], { signal: AbortSignal.timeout(60_000) })
console.log(a.delivered + b.unknown)

// a function around destination(): the use is its parameter, the config is passed on or injected
declare function anomalies(): AsyncGenerator<Anomaly>
await sync({
  name: 'anomalies',
  from: anomalies,
  map: (anomaly) => ({ text: `${anomaly.metric} is ${anomaly.value}, expected ${anomaly.expected}` }),
  to: chat({ channel: '#alerts', token: process.env['CHAT_TOKEN'] }),
  key: 'id',
  mode: 'insert',
}).run({ deadline: new Date() })

// a table to a sheet
const orders = postgres<{ id: number; total: string; paid_on: string }>({
  url: secret('DATABASE_URL'),
  table: 'orders',
})
const toSheet = sync({
  name: 'orders',
  from: orders,
  to: googleSheets({ spreadsheet: '1AbC', tab: 'Orders', token: secret('GOOGLE_TOKEN') }),
  key: 'id',
  mode: 'upsert',
})
await toSheet.run()

// the columns of the records
declare const sheets: { get(range: string): Promise<string[][]>; append(values: unknown[][]): Promise<void> }
const mySheet = destination(100)(async (rows, { table }) => {
  const [header = []] = await sheets.get('Data!1:1')
  const columns = [...new Set([...header, ...table.columns.map((column) => column.name)])]
  await sheets.append(rows.map((row) => columns.map((column) => row[column] ?? '')))
})
await sync({ name: 'seed', from: orders, to: mySheet, key: 'id' }).run()

// connection options of `pg`, with secrets in them; a channel that tells of news
const paid = postgres<{ id: number; paid: boolean }>({
  connection: { host: 'db.test', user: 'reader', password: secret('DB_PASSWORD'), ssl: { ca: secret('DB_CA') } },
  table: 'orders',
  listen: 'orders',
})
const fanOut: readonly [Run, Run] = await runAll([
  sync({ name: 'paid', from: paid, to: mySheet, key: 'id' }),
  sync({ name: 'paid too', from: paid, to: mySheet, key: 'id', mode: 'insert' }),
])
console.log(fanOut)

// a schema for the row, one for the record, one for the config
const contacts = sync({
  name: 'contacts',
  from: postgres({ url: secret('DATABASE_URL'), query: 'select * from scored_users', record: LeadSchema }),
  map: (user) => ({ email: user.email, score: user.score }),
  to: crm({ url: 'https://crm.test', token: secret('CRM_TOKEN') }),
  key: 'id',
  mode: 'mirror',
  deleteCeiling: '5%',
  maxRejected: 100,
  version: 2,
})
await contacts.run({ signal: AbortSignal.timeout(1000) })

// a plan knows the record, and is what a run may be held to
const plan = await contacts.plan({ signal: AbortSignal.timeout(1000) })
for (const { name, from, to } of plan.columns.changed)
  console.log(plan.columns.added.length, `${name}: ${from} → ${to}`)
console.log(plan.insert + plan.update + plan.delete, plan.stopped)
for await (const { operation, record, before, fields } of plan.changes) {
  console.log(operation, record.email.toUpperCase(), before?.email, fields.join())
}
await contacts.run({ plan, allowDeletes: true, full: false })
await contacts.adopt()

// dead letters know the row and the record; the record is missing where `map` is what failed
for await (const letter of contacts.deadLetters((one) => one.row.score > 0.5)) {
  console.log(letter.row.scored_at.getTime(), letter.record?.email, letter.reason, letter.at.getTime(), letter.attempts)
}
await contacts.redrive({ where: (letter) => letter.reason.includes('email') && letter.record?.score === 0 })
const refused: DeadLetter<Lead, z.input<typeof Contact>>[] = []
for await (const letter of contacts.deadLetters()) refused.push(letter)

// all config injected; `score` has a default, so map may leave it out; a policy for one sync
await sync({ name: 'c2', from: leads, to: crm, key: 'id', mode: 'upsert' }).run()
await sync({
  name: 'c3',
  from: leads,
  map: (lead) => ({ email: lead.email }),
  to: crm({ token: secret('T') }).with({ rate: '190/10s', batchSize: 50, onUnknown: 'hold', settle: '30s' }),
  key: ['id', 'email'],
  mode: 'upsert',
}).run()
await sync({ name: 'c4', from: leads, to: crm.with({ concurrency: 'auto', retryFor: '15min' }), key: 'id' }).run()

// a source of one's own, read by several syncs
declare function received(): AsyncIterable<z.output<typeof Signup>[]>
const signups = source(received)
await runAll([
  sync({
    name: 'signups-crm',
    from: signups,
    map: (signup) => ({ email: signup.email, plan: signup.plan }),
    to: crmObjects({ object: 'contacts', match: 'email' }),
    key: 'id',
    mode: 'upsert',
  }),
  sync({ name: 'signups-table', from: signups, to: table({ name: 'signups' }), key: 'id', mode: 'upsert' }),
  sync({
    name: 'signups-chat',
    from: signups,
    map: (signup) => ({ text: `New: ${signup.email}` }),
    to: chat({ channel: '#signups' }),
  }),
])

// a REST API: one list whose rows are named, or several with what goes with them
const issues = rest<{ id: number; title: string; updated_at: string }>({
  url: 'https://api.test/issues',
  paginate: 'link',
  since: 'since',
})
await sync({
  name: 'issues',
  from: issues,
  to: googleSheets({ spreadsheet: 'x', tab: 'Issues' }),
  key: 'id',
  mode: 'upsert',
  cursor: { column: 'updated_at', lag: '10min' },
}).run()
const api = rest({
  url: 'https://api.test',
  auth: { oauth2: { tokenUrl: 'https://api.test/token', clientId: 'id', clientSecret: secret('API_SECRET') } },
  resources: {
    leads: { path: '/leads', record: LeadSchema, defaults: { key: ['id', 'email'], mode: 'mirror' } },
    notes: { path: '/leads/{id}/notes', parent: 'leads', paginate: ({ rows }) => ({ after: rows.at(-1)?.['id'] }) },
  },
})
await sync({
  name: 'api-leads',
  from: api.leads,
  map: ({ email, score }) => ({ email, score }),
  to: crm,
  ...api.leads.defaults,
}).run()
await sync({ name: 'api-notes', from: api.notes, map: (note) => ({ text: note['text'] }), to: print }).run()
for await (const { rows, number } of restClient({ url: 'https://api.test' }).pages<Lead>('/leads')) {
  console.log(number, rows[0]?.email.toUpperCase())
}

// receipts, remoteId, delete without match; every class of error
const Page = z.object({ title: z.string(), body: z.string() })
const wiki = destination({ name: 'wiki', record: Page, config: z.object({ token: z.string() }) })({
  async insert(batch, { http }) {
    if (batch.length > 100) throw new RejectedError('too many')
    return Promise.all(
      batch.map(async (page) => receipt(page, (await http.post<{ id: string }>('https://w.test', { json: page })).id)),
    )
  },
  async delete(batch, { http, remoteId, attempt }) {
    if (attempt > 3) throw new FatalError('no')
    if (attempt > 2) throw new RetryableError('busy', { after: '30s' })
    for (const page of batch) await http.delete(`https://w.test/${remoteId(page)}`)
  },
  upsert() {},
})
await sync({ name: 'pages', from: [{ id: 1, title: 'a', body: 'b' }], to: wiki, key: 'id', mode: 'mirror' }).run()

// replace, records of any shape
const file = destination({ name: 'file' })({
  async replace(batches, { log }) {
    for await (const rows of batches) log.info(`${rows.length}`)
  },
})
await sync({ name: 'file', from: leads, to: file, mode: 'replace' }).run()

// transforms change the type of the row; a function source with a cursor; arrays of rows; a promise of rows
const hot = source(leads)
  .filter((lead) => lead.score > 0.8)
  .map((lead) => ({ ...lead, tier: 'A' as const }))
  .enrich(async (rows) => rows.map((row) => ({ ...row, country: 'DE' })), { concurrency: 4 })
  .flatMap((row) => [row, row])
  .limit(10)
await sync({
  name: 'hot',
  from: hot,
  map: (lead) => ({ email: lead.email, tier: lead.tier, country: lead.country }),
  to: crmObjects({ object: 'contacts', match: 'email' }),
  key: 'id',
  mode: 'upsert',
}).run()
await sync({
  name: 'api',
  from: source(async ({ since, http }) => http.get<Lead[]>(`https://x.test?since=${since}`)),
  to: crm,
  key: 'id',
  mode: 'upsert',
  cursor: { column: 'scored_at', lag: '10min', from: new Date(0) },
}).run()
await sync({
  name: 'gen',
  from: source(async function* ({ since }) {
    yield [{ id: 1, email: 'x', since: String(since) }]
  }),
  map: (row) => ({ email: row.email }),
  to: crm,
  key: 'id',
  mode: 'upsert',
}).run()
await sync({
  name: 'inline',
  from: async ({ since, signal }) => (signal.aborted ? [] : [{ id: 1, email: `${since}` }]),
  to: crm,
  key: 'id',
}).run()
const inline = sync({
  name: 'inline-map',
  from: async function* ({ since }) {
    yield [{ id: 1, mail: `${since}`, at: 5 }]
  },
  map: (row) => ({ email: row.mail }),
  to: crm,
  key: ['id', 'mail'],
  cursor: { column: 'at', lag: 5 },
})
for await (const { row, key } of inline.deadLetters()) console.log(row.at.toFixed(), key)

// a plain function as a bundled destination: options closed over, config passed on
const RoomConfig = z.object({ token: z.string() })
const room = ({ room, ...config }: { room: string } & Injected<z.input<typeof RoomConfig>>) =>
  destination({ name: 'room', record: z.object({ text: z.string() }), config: RoomConfig })({
    async insert(batch, { config, http }) {
      for (const { text } of batch)
        await http.post(`https://chat.test/${room}`, { json: { text, token: config.token } })
    },
  })(config)
await sync({ name: 'room', from: leads, map: (lead) => ({ text: lead.email }), to: room({ room: 'a' }) }).run()

// every answer there is, in any iterable
destination(10)(function* (rows) {
  for (const row of rows) {
    if (row['bad']) yield reject(row, 'bad')
    else if (row['busy']) yield retry(row, { after: '30s' })
    else if (row['later']) yield retry(row)
    else if (row['lost']) yield unknown(row)
    else yield receipt(row, '17')
  }
})
destination(10)((rows) => new Set([reject(rows[0]!, 'one'), retry(rows[1]!)]))
destination(10)(async (rows): Promise<Outcome[] | undefined> => (rows.length > 0 ? [unknown(rows[0]!)] : undefined))

// verify: those that are there, with or without a receipt, and those of which it cannot tell
destination({ name: 'verified', record: Contact, match: ['email', 'name'] })({
  insert() {},
  async verify(batch, { http }) {
    const ids = await http.get<Record<string, string | null>>('https://x.test/ids')
    const found: (Receipt | Unknown)[] = []
    for (const record of batch) {
      const id = ids[record.email]
      if (id) found.push(receipt(record, id))
      else if (id === null) found.push(unknown(record))
    }
    return found
  },
  delete(batch) {
    for (const { email, name } of batch) console.log(email, name?.length)
  },
})

// list: all that is there, in pages, in any iterable or a promise of one; held: a record as list gives it back
interface Stored {
  email: string
  archived: boolean
}
const listed = destination({
  name: 'listed',
  record: Contact,
  match: 'email',
  config: z.object({ url: z.string() }),
})({
  upsert() {},
  async *list({ config, http, match, signal, log, sync: name }) {
    for (let page = 0; !signal.aborted; page++) {
      const found = await http.get<Stored[]>(config.url, { query: { page, match: match.join() } })
      if (found.length === 0) return log.debug(name)
      yield found.filter((contact) => !contact.archived)
    }
  },
  held: ({ email, name, score }, { config }) => ({
    email: email.toLowerCase(),
    name,
    score: `${score}`,
    at: config.url,
  }),
})
destination({ record: Contact, match: ['email', 'name'] })({
  delete(batch) {
    console.log(batch[0]?.email.length)
  },
  list: () => [{ email: 'a', name: null, others: 1 }, [{ email: 'a', name: undefined }]],
})
destination(1)({ insert() {}, list: async () => new Set([{ id: 1 }]), held: (record) => ({ ...record, id: 1 }) })
destination({ match: 'id' })({
  upsert: (batch: Lead[]) => console.log(batch[0]?.email),
  list: ({ http }) => http.get<Lead[]>('https://x.test'),
  held: (lead) => ({ id: lead.id.toFixed() }),
})
// what is listed says nothing about the records
const numbered = destination(1)({
  upsert() {},
  verify: () => [],
  list: async () => [[{ id: 1 }]],
  held: (record) => record,
})
await sync({ name: 'numbered', from: [{ name: 'a' }], to: numbered, key: 'name' }).run()
const drift = await sync({ name: 'drift', from: leads, to: listed, key: 'id' }).verify({
  signal: AbortSignal.timeout(1),
})
console.log(drift.same + drift.missing + drift.different + drift.unexpected + drift.dirty, drift.remedy?.length)
const drifted: Difference<z.input<typeof Contact>>[] = []
for await (const difference of drift.differences) {
  drifted.push(difference)
  console.log(
    difference.kind === 'missing',
    difference.expected?.email.length,
    difference.found?.['at'],
    difference.fields,
  )
}

// what a destination guarantees, and where it writes to
const board = destination({
  name: 'board',
  config: z.object({ board: z.string(), token: z.string() }),
  target: (config: { board: string }) => config.board,
  idempotent: '24h',
  atomic: false,
  replaySafe: false,
  batchBytes: 1_000_000,
  timeout: '10s',
})({ insert: (batch: { title: string }[]) => console.log(batch[0]?.title.length) })
await sync({ name: 'board', from: [{ title: 'a' }], to: board({ board: 'b' }) }).run()

// progress, runs, and a list of syncs of any rows
const shown: string[] = []
const onProgress = ({ sync: name, delivered, pending, total }: Progress) =>
  shown.push(`${name} ${delivered}/${total ?? '?'} ${pending}`)
const all: Sync[] = [contacts, toSheet, toContacts]
const runs: Run[] = await runAll(all, { onProgress, allowRejections: true, brokenOff: 'from-start' })
const open: number = runs.reduce((sum, run) => sum + run.pending + run.resumed.pending + run.resent, 0)
const status = await contacts.status()
console.log(open, status.lastRun?.state === 'killed', status.cursor, runs[0]?.status === 'incomplete')
await contacts.reset()

// the context, by name, in a helper of one's own
const authorized = ({ config }: Context<{ token: string }>) => ({ authorization: `Bearer ${config.token}` })
destination({ name: 'helped', config: z.object({ token: z.string() }) })(async (batch, context) => {
  const response: Response = await context.http('https://x.test', {
    method: 'PUT',
    json: batch,
    headers: authorized(context),
    query: { page: 2, all: true },
    timeout: '5s',
  })
  context.log.debug('sent', { status: response.status, run: context.run, match: context.match.join() })
})

// a frame's row is that of its columns, or that of the table's types, through every transform
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <A, B>(_: Same<A, B>): void => {}
const columns = dataframe({ id: [1, 2], name: ['a', undefined], big: BigInt64Array.of(1n, 2n) })
same<typeof columns, Source<{ id: number; name: string | null; big: bigint }>>(true)
declare const arrowTable: ArrowTable<{
  id: Int32
  big: Int64
  name: Dictionary<Utf8, Int32>
  at: TimestampMicrosecond
  day: DateDay
  tags: List<Utf8>
  place: Struct<{ lat: Float64; open: Bool }>
  raw: Binary
  price: Decimal
}>
const ofArrow = dataframe(arrowTable)
type ArrowRow = {
  id: number
  big: bigint
  name: string
  at: Date | string
  day: string
  tags: string[]
  place: { lat: number; open: boolean }
  raw: Uint8Array
  price: string
}
same<typeof ofArrow extends Source<infer R> ? R : never, ArrowRow>(true)
same<typeof ofArrow, Source<ArrowRow>>(true)
await sync({
  name: 'frame',
  from: ofArrow.filter(({ id }) => id > 1).enrich((rows) => rows.map(({ big, place }) => ({ big, lat: place.lat }))),
  map: ({ big, lat }) => ({ big, lat: lat.toFixed(1) }),
  to: print,
  key: 'big',
}).run()
const named = dataframe<Lead>(ofPolars)
same<typeof named, Source<Lead>>(true)
dataframe(ofPolars).map((row) => row['anything'])
dataframe({ path: 'rows.arrow' }).map((row) => row['anything'])
dataframe(new Uint8Array(8)).map((row) => row['anything'])

// documents of MongoDB without its types; what a schema says of those of a query
declare const stored: Collection<{
  _id: ObjectId
  total: Decimal128
  size: Long
  at: Date
  lines: { sku: string; price: Decimal128 }[]
}>
const ofMongo = documents(() => stored.find())
type Order = { _id: string; total: string; size: bigint; at: Date; lines: { sku: string; price: string }[] }
ofMongo.map((row): Order => row).map(({ lines, size }) => ({ sku: lines[0]?.sku.trim(), half: size / 2n }))
mongodb({ collection: stored, filter: { a: 1 } }).map((row) => row['anything'])
mongodb({ url: secret('MONGODB_URL'), db: 'shop', collection: 'orders', pipeline: [], record: LeadSchema }).map(
  ({ email }) => ({ email }),
)

// webhooks: rows by type or by schema, transforms, envelopes, mounted anywhere
type Billing =
  | { type: 'customer.created'; data: { object: { id: string; email: string } } }
  | { type: 'invoice.paid'; data: { object: { total: number } } }
const billing = webhook<Billing>({
  name: 'billing',
  verify: { scheme: 'stripe', secret: [secret('NEW'), secret('OLD')] },
})
billing.on('invoice.paid').filter(({ data }) => data.object.total > 0)
billing.envelopes.map(({ receivedAt, event }) => ({ at: receivedAt.getTime(), kind: event.type.length }))
const customers = sync({
  name: 'customers',
  from: billing.on('customer.created').map(({ data }) => data.object),
  map: ({ email }) => ({ email }),
  to: crm,
  key: 'id',
})
await customers.start({
  signal: AbortSignal.timeout(1000),
  every: '15min',
  onRun: ({ delivered }) => console.log(delivered),
})
sync({
  name: 'paid',
  from: billing.on('invoice.paid'),
  to: destination(10)((rows) => console.log(rows.length)),
})
sync({
  name: 'log',
  from: billing.envelopes,
  to: destination(10)((rows) => console.log(rows.length)),
  key: 'id',
})
const forms = webhook({
  name: 'forms',
  record: Contact,
  verify: { scheme: 'hmac', secret: secret('HOOK'), header: 'x-signature' },
  flush: { rows: 10, after: '1s' },
})
sync({ name: 'forms', from: forms, to: crm, key: 'email', every: '1h' })
const answer: Promise<Response> = forms.fetch(new Request('http://localhost'))
await answer
const handler: RequestListener = nodeHandler(forms)
nodeHandler(billing)
handler satisfies RequestListener
