import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { duckdbTable } from 'spillway/destinations/duckdb-table'
import { file } from 'spillway/destinations/file'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { hubspot } from 'spillway/destinations/hubspot'
import { notion } from 'spillway/destinations/notion'
import { postgresTable } from 'spillway/destinations/postgres-table'
import { salesforce } from 'spillway/destinations/salesforce'
import { slack, slackWebhook } from 'spillway/destinations/slack'
import { type ApiRequest, type Sandbox, sandbox } from 'spillway/sandbox'
import { duckdb } from 'spillway/sources/duckdb'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type AnyRow, type Destination, type Policy, type Run, sync } from '../../src/index.js'
import { databaseOfFile } from '../support/database.js'
import { launch, type Point, type Task } from '../support/killed.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// A child process delivers to a place that lives here and outlives it: a tenant of the sandbox, a database, a file. It is killed
// with SIGKILL when a request of it arrives, or at a named point, and the sync is run again until it is done. What the place holds is
// the truth. Every bundled destination promises each row once, but for webhooks of Slack and `http` without a key, which have nothing
// to look a row up by. `npm run soak` (SOAK=1) kills at requests and points all along the run, in every way.

const soak = process.env['SOAK'] !== undefined
const database = databaseOfFile()

/** Kills the child when a request arrives for the n-th time that none answers: it comes to nothing, is carried out, or lands late. */
interface Cut {
  readonly request: RegExp
  readonly nth: number
  readonly effect: 'lost' | 'applied' | 'late'
}
type Kill = Cut | Point

const lost = (request: RegExp, nth = 1): Cut => ({ request, nth, effect: 'lost' })
const applied = (request: RegExp, nth = 1): Cut => ({ request, nth, effect: 'applied' })
const late = (request: RegExp, nth = 1): Cut => ({ request, nth, effect: 'late' })
const at = (point: string, nth = 1): Point => ({ point, nth })

interface Held {
  readonly options: object
  /** What the place holds, in the form of the rows. */
  rows(): readonly AnyRow[] | Promise<readonly AnyRow[]>
  /** How many rows its jobs have carried out. */
  processed?(): number
  /** What happens at the place when the child has been killed. */
  released?(): void
}

interface Scenario {
  readonly name: string
  readonly kind: Task['kind']
  readonly mode: Task['mode']
  readonly key?: string | undefined
  readonly make: (options: never) => Destination<never>
  readonly policy?: Policy
  open(box: Sandbox, folder: string): Held | Promise<Held>
  row(id: number, version: number): AnyRow
  /** The requests that soak kills at, one after the other. @default all */
  readonly requests?: RegExp
  /** Histories of kills, for `npm test`. */
  readonly kills: readonly (readonly Kill[])[]
  /** Where nothing is promised: what is known afterwards. @default each row is there once */
  readonly promises?: 'repeats are counted' | 'the unknown is held'
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => from + index)
const fresh = ({ row }: Scenario) => range(0, 24).map((id) => row(id, 1))
/** Of those of `fresh` some gone, some changed, and some new. */
const changed = ({ row }: Scenario) => range(4, 30).map((id) => row(id, id % 2 ? 1 : 2))

const crm = {
  kind: 'hubspot',
  key: 'crm_key',
  make: hubspot,
  policy: { rate: '1000/s', batchSize: 6, concurrency: 2 },
} as const
function contacts(box: Sandbox): Held {
  box.hubspot.define('contacts', [{ name: 'crm_key', hasUniqueValue: true }, { name: 'score' }])
  return {
    options: { object: 'contacts', match: 'crm_key', token: box.hubspot.token, endpoint: box.url },
    rows: () => box.hubspot.objects('contacts').map(({ properties: { crm_key, score } }) => ({ crm_key, score })),
  }
}

const org = { kind: 'salesforce', key: 'Ext__c', make: salesforce } as const
const accounts =
  (options: object, held = false) =>
  (box: Sandbox): Held => {
    box.salesforce.define('Account', { Name: {}, Ext__c: { externalId: true, unique: true } })
    if (held) box.salesforce.hold()
    return {
      options: {
        ...{ object: 'Account', externalId: 'Ext__c', accessToken: box.salesforce.token, instanceUrl: box.url },
        ...options,
      },
      rows: () => box.salesforce.records('Account').map(({ Id: _, ...fields }) => fields),
      processed: () => box.salesforce.jobs.reduce((sum, { processed }) => sum + processed, 0),
      released: () => box.salesforce.release(),
    }
  }
const account = (id: number, version: number) => ({ Ext__c: `k${id}`, Name: `v${version}` })
const job = /jobs\/ingest/
const made = /^POST .*ingest$/
const upload = /^PUT .*batches$/
const close = /^PATCH .*ingest/
const results = /^GET .*(successfulResults|failedResults|unprocessedrecords)$/

const pages = { kind: 'notion', key: 'Name', make: notion, policy: { rate: '1000/s', batchSize: 6 } } as const
function leads(box: Sandbox): Held {
  const { dataSources } = box.notion.createDatabase({ properties: { Name: 'title', Score: 'number' } })
  const dataSource = dataSources[0]!
  return {
    options: { dataSource, token: box.notion.token, endpoint: box.url },
    rows: () => box.notion.rows(dataSource),
  }
}
const lead = (id: number, version: number) => ({ Name: `n${id}`, Score: version })

const chat = { kind: 'slack', key: 'id', make: slack, policy: { rate: '1000/s' } } as const
const channel =
  (options: object) =>
  (box: Sandbox): Held => {
    const { id } = box.slack.createChannel({ name: 'alerts' })
    const lines = () => box.slack.messages(id).flatMap(({ text }) => text.split('\n'))
    return {
      options: { channel: id, token: box.slack.token, endpoint: box.url, ...options },
      rows: () => lines().map((text) => ({ id: Number(/\d+/.exec(text)), text })),
    }
  }
const text = (id: number, version: number) => ({ id, text: `row ${id} in version ${version}` })

const webhook =
  (onUnknown: 'resend' | 'hold') =>
  (box: Sandbox): Held => {
    const { rows } = channel({})(box)
    return { options: { webhook: box.url + box.slack.webhook('alerts'), onUnknown }, rows }
  }

const sheet = { kind: 'sheets', make: googleSheets, policy: { rate: '1000/s', batchSize: 6 } } as const
function tab(box: Sandbox): Held {
  const { id } = box.sheets.create()
  return {
    options: { spreadsheet: id, tab: 'Rows', token: box.sheets.token, endpoint: box.url },
    rows: () => {
      const [header = [], ...lines] = box.sheets.rows(id, 'Rows')
      return lines.map((line) => Object.fromEntries(header.map((name, column) => [name, line[column]])))
    },
  }
}
const write = /:batchUpdate$/

let tables = 0
const table = { kind: 'postgres', key: 'id', make: postgresTable, policy: { batchSize: 6 } } as const
async function inPostgres(): Promise<Held> {
  const name = `rows_${tables++}`
  return {
    options: { url: database.url, table: name },
    rows: async () => (await database.client.query(`select id::int, v::int from ${name}`)).rows,
  }
}
const lake = { kind: 'duckdb', key: 'id', make: duckdbTable, policy: { batchSize: 6 } } as const
function inDuckdb(_: Sandbox, folder: string): Held {
  const path = join(folder, 'lake.db')
  return {
    options: { path, table: 'rows' },
    async rows() {
      const found: AnyRow[] = []
      for await (const row of duckdb({ path, query: 'select id::integer as id, v::integer as v from rows' }))
        found.push(row)
      return found
    },
  }
}
const numbered = (id: number, version: number) => ({ id, v: version })

const scenarios: readonly Scenario[] = [
  {
    ...{ name: 'slack, a message for each row', ...chat, mode: 'insert', open: channel({}), row: text },
    kills: [[applied(/postMessage/, 3)], [lost(/postMessage/, 2), late(/postMessage/, 3)]],
  },
  {
    ...{ name: 'slack, messages kept up to date', ...chat, mode: 'mirror', open: channel({}), row: text },
    kills: [
      [applied(/chat.update/, 2), late(/chat.update/)],
      [applied(/postMessage/), applied(/chat.delete/)],
    ],
  },
  {
    ...{ name: 'slack, digests', ...chat, key: undefined, mode: 'append', open: channel({ digest: true }), row: text },
    policy: { rate: '1000/s', batchSize: 6 },
    kills: [[applied(/postMessage/, 2), late(/postMessage/)]],
  },
  {
    ...{ name: 'a webhook of slack that sends again', kind: 'webhook', make: slackWebhook, mode: 'append', row: text },
    policy: { rate: '1000/s' },
    open: webhook('resend'),
    kills: [[applied(/services/, 2)]],
    promises: 'repeats are counted',
  },
  {
    ...{ name: 'a webhook of slack that holds', kind: 'webhook', make: slackWebhook, mode: 'append', row: text },
    policy: { rate: '1000/s' },
    open: webhook('hold'),
    kills: [[applied(/services/, 2)]],
    promises: 'the unknown is held',
  },
  {
    ...{ name: 'hubspot, objects made', ...crm, mode: 'insert', open: contacts },
    row: (id, version) => ({ crm_key: `k${id}`, score: `${version}` }),
    kills: [[applied(/batch\/create/, 2), late(/batch\/create/, 2)]],
  },
  {
    ...{ name: 'hubspot, a mirror', ...crm, mode: 'mirror', open: contacts },
    row: (id, version) => ({ crm_key: `k${id}`, score: `${version}` }),
    kills: [[applied(/batch\/upsert/, 2), applied(/batch\/archive/)]],
  },
  {
    ...{ name: 'salesforce, records made', ...org, mode: 'insert', open: accounts({}), row: account },
    policy: { batchSize: 6 },
    kills: [[applied(/composite/, 2), late(/composite/, 2)]],
  },
  {
    ...{ name: 'salesforce, a mirror', ...org, mode: 'mirror', open: accounts({}), row: account },
    policy: { batchSize: 6, concurrency: 2 },
    kills: [[applied(/PATCH .*composite/, 2), applied(/DELETE .*composite/)]],
  },
  {
    ...{ name: 'salesforce, jobs that upsert', ...org, mode: 'upsert', open: accounts({ bulkFrom: 6 }), row: account },
    policy: { batchSize: 12 },
    requests: job,
    kills: [[applied(made), lost(upload)], [applied(upload), applied(close)], [lost(results, 2)]],
  },
  {
    ...{ name: 'salesforce, jobs that insert', ...org, mode: 'insert', open: accounts({ bulkFrom: 6 }), row: account },
    policy: { batchSize: 12 },
    requests: job,
    kills: [[applied(upload), lost(results, 2)], [applied(close)]],
  },
  {
    ...{ name: 'salesforce, a job that takes long', ...org, mode: 'insert', row: account },
    open: accounts({ bulkFrom: 6 }, true),
    policy: { batchSize: 24 },
    requests: job,
    kills: [[lost(/^GET .*ingest\/\w+$/, 3)]],
  },
  {
    ...{ name: 'notion, pages made', ...pages, mode: 'insert', open: leads, row: lead },
    kills: [[applied(/POST .*pages$/, 3), late(/POST .*pages$/, 2)]],
  },
  {
    ...{ name: 'notion, a mirror', ...pages, mode: 'mirror', open: leads, row: lead },
    kills: [[applied(/POST .*pages$/, 2), applied(/PATCH .*pages/, 3)]],
  },
  {
    ...{ name: 'google sheets, rows appended', ...sheet, mode: 'append', open: tab, row: numbered },
    kills: [[applied(write, 2), late(write, 2)]],
  },
  {
    ...{ name: 'google sheets, a mirror', ...sheet, key: 'id', mode: 'mirror', open: tab, row: numbered },
    kills: [[applied(write, 2), late(write)]],
  },
  {
    ...{ name: 'a table of PostgreSQL, appended', ...table, key: undefined, mode: 'append', open: inPostgres },
    row: numbered,
    kills: [[at('after commit', 2)]],
  },
  {
    ...{ name: 'a table of PostgreSQL, a mirror', ...table, mode: 'mirror', open: inPostgres, row: numbered },
    kills: [[at('during commit', 2), at('after commit')]],
  },
  {
    ...{ name: 'a table of DuckDB, inserted', ...lake, mode: 'insert', open: inDuckdb, row: numbered },
    kills: [[at('during commit', 2)]],
  },
  {
    ...{ name: 'a table of DuckDB, a mirror', ...lake, mode: 'mirror', open: inDuckdb, row: numbered },
    kills: [[at('after commit', 2), at('before commit')]],
  },
  {
    ...{ name: 'a file', kind: 'file', make: file, mode: 'append', row: numbered, policy: { batchSize: 6 } },
    open: (_, folder) => {
      const path = join(folder, 'rows.jsonl')
      const lines = () => readFileSync(path, 'utf8').split('\n').filter(Boolean)
      return { options: { path }, rows: () => lines().map((line) => JSON.parse(line)) }
    },
    kills: [[at('half a write', 2)]],
  },
]

describe('killed with SIGKILL while it delivers, and run again', () => {
  it.each(scenarios)('$name', { timeout: 1_800_000 }, async (scenario) => {
    for (const kills of scenario.kills)
      expect(await history(scenario, kills), storyOf(scenario, kills)).toBe(kills.length)
    if (!soak) return
    const further = (nth: number) => nth + 1 + Math.floor(nth / 8)
    for (const effect of ['lost', 'applied', 'late'] as const) {
      const request = scenario.requests ?? (effect === 'late' ? /^(POST|PUT|PATCH|DELETE) / : /./)
      for (let nth = 1; (await history(scenario, [{ request, nth, effect }])) > 0; nth = further(nth));
    }
    for (const point of ['sent', 'answered', 'before outcome', 'before commit', 'during commit', 'after commit']) {
      for (let nth = 1; (await history(scenario, [at(point, nth), at(point)])) > 0; nth = further(nth));
    }
  })
})

/** Runs to the end through these kills, and judges what the place holds. Answers how many children were killed. */
async function history(scenario: Scenario, kills: readonly Kill[]): Promise<number> {
  const { kind, mode, key, make, promises } = scenario
  const story = storyOf(scenario, kills)
  await using box = await sandbox()
  const folder = await stateFolder()
  const home = mkdtempSync(join(tmpdir(), 'spillway-place-'))
  onTestFinished(() => rmSync(home, { recursive: true, force: true }))
  const held = await scenario.open(box, home)
  const isLate = kills.some((kill) => 'effect' in kill && kill.effect === 'late')
  const policy = { settle: isLate ? '600ms' : '1ms', ...scenario.policy } as const
  const task = { folder, kind, options: held.options, policy, mode, key }
  const run = (rows: readonly AnyRow[]): Promise<Run> => {
    const to = make(held.options as never).with(policy)
    const syncing = sync({ name: 'killed', from: () => rows, to, mode, key, state: folder, log: quiet } as never)
    return syncing.run({ allowDeletes: true })
  }

  if (mode === 'mirror') await run(fresh(scenario))
  const rows = mode === 'mirror' ? changed(scenario) : fresh(scenario)
  let killed = 0
  for (const kill of kills) {
    const ended = await launch({ ...task, rows }, 'point' in kill ? kill : undefined, (child) => {
      if ('request' in kill) aim(box, kill, () => child.kill('SIGKILL'))
    })
    box.faults.clear()
    if (ended) break
    killed++
    held.released?.()
  }
  const last = await run(rows)

  expect(last, story).toMatchObject({ pending: 0, rejected: 0 })
  for (const counts of [last, last.deletes, last.resumed]) {
    const { delivered, unchanged, rejected, pending, unknown, superseded } = counts
    expect(delivered + unchanged + rejected + pending + unknown + superseded, story).toBe(counts.rows)
  }
  // a job is taken up again: none of its rows goes into another
  expect(held.processed?.() ?? 0, story).toBeLessThanOrEqual(rows.length)
  const found = sorted(await held.rows())
  if (promises === undefined) {
    expect(found, story).toEqual(sorted(rows))
    expect(last, story).toMatchObject({ status: 'done', resent: 0 })
    if (mode !== 'append') expect(await run(rows), story).toMatchObject({ delivered: 0, unchanged: rows.length })
    expect(sorted(await held.rows()), story).toEqual(sorted(rows))
  } else if (promises === 'repeats are counted') {
    expect([...new Set(found)], story).toEqual(sorted(rows))
    expect(found.length - rows.length, story).toBeLessThanOrEqual(killed)
    expect(last.resent, story).toBeGreaterThanOrEqual(found.length - rows.length)
  } else {
    expect(new Set(found).size, story).toBe(found.length)
    expect(found.length + last.unknown + last.resumed.unknown, story).toBeGreaterThanOrEqual(rows.length)
  }
  return killed
}

function storyOf({ name }: Scenario, kills: readonly Kill[]): string {
  const told = (kill: Kill) =>
    'point' in kill ? `${kill.point} ${kill.nth}` : `${kill.effect} ${kill.request} ${kill.nth}`
  return `${name}: ${kills.map(told).join(', then ')}`
}

/** Has a request of a child that dies at its arrival go wrong. */
function aim(box: Sandbox, { request, nth, effect }: Cut, kill: () => void): void {
  let met = 0
  const when = ({ method, path }: ApiRequest): boolean => {
    if (!request.test(`${method} ${path}`) || ++met !== nth) return false
    kill()
    return true
  }
  box.faults.next({ kind: 'delay', delay: effect === 'late' ? '300ms' : '1h', applied: effect === 'applied', when })
}

/** Rows as texts, in the order of their numbers. */
function sorted(rows: readonly AnyRow[]): readonly string[] {
  const texts = rows.map((row) => JSON.stringify(row, Object.keys(row).toSorted()))
  const place = (text: string) => Number(/\d+/.exec(text))
  return texts.toSorted((a, b) => place(a) - place(b) || (a < b ? -1 : 1))
}
