// Requests for a thousand new rows, by destination, at the sandbox: node requests.mjs

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sync } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { hubspot } from 'spillway/destinations/hubspot'
import { notion } from 'spillway/destinations/notion'
import { salesforce } from 'spillway/destinations/salesforce'
import { slack } from 'spillway/destinations/slack'
import { sandbox } from 'spillway/sandbox'

const count = 1_000
const rows = Array.from({ length: count }, (_, id) => ({
  id: `k${id}`,
  name: `Person Number ${id}`,
  score: id / count,
}))
const box = await sandbox({ log: 10_000 })
const endpoint = box.url
const folder = await mkdtemp(join(tmpdir(), 'requests-'))
const quiet = { debug() {}, info() {}, warn() {}, error() {} }

box.hubspot.define('contacts', [
  { name: 'crm_key', hasUniqueValue: true },
  { name: 'score', type: 'number' },
])
box.salesforce.define('Account', { Key__c: { externalId: true, unique: true }, Name: {}, Score__c: { type: 'number' } })
box.slack.createChannel({ name: 'alerts' })
const database = box.notion.createDatabase({
  title: 'People',
  properties: { Key: 'title', Name: 'rich_text', Score: 'number' },
})
const sheet = box.sheets.create({ title: 'People' })

/** By destination: the least that the vendor's API allows, what we ask of ourselves, and the sync. */
const contestants = {
  'google sheets, upsert': {
    // read the keys, write the rows
    least: 2,
    goal: 4,
    to: googleSheets({ spreadsheet: sheet.id, tab: 'People', endpoint, token: box.sheets.token }),
    map: (row) => row,
  },
  'hubspot, upsert': {
    // a hundred a request
    least: 10,
    goal: 10,
    to: hubspot({ object: 'contacts', match: 'crm_key', endpoint, token: box.hubspot.token }),
    map: ({ id, name, score }) => ({ crm_key: id, firstname: name, score }),
  },
  'salesforce, upsert': {
    // two hundred a request
    least: 5,
    goal: 5,
    to: salesforce({
      object: 'Account',
      externalId: 'Key__c',
      accessToken: box.salesforce.token,
      instanceUrl: endpoint,
    }),
    map: ({ id, name, score }) => ({ Key__c: id, Name: name, Score__c: score }),
  },
  'notion, upsert': {
    // a page a request
    least: 1_000,
    goal: 1_010,
    to: notion({ dataSource: database.dataSources[0], match: 'Key', endpoint, token: box.notion.token }).with({
      rate: '9000/s',
    }),
    map: ({ id, name, score }) => ({ Key: id, Name: name, Score: score }),
  },
  'slack, digest': {
    // 40,000 characters a message
    least: 5,
    goal: 20,
    to: slack({ channel: '#alerts', digest: true, endpoint, token: box.slack.token }).with({ rate: '9000/s' }),
    map: ({ name }) => ({ text: `${name} ${'x'.repeat(180)}` }),
    keyless: true,
  },
}

const found = {}
for (const [name, { to, map, keyless, least, goal }] of Object.entries(contestants)) {
  const before = box.requests.length
  const options = { name, from: () => rows, map, to, state: folder, log: quiet }
  const run = await sync(keyless ? options : { ...options, key: 'id', mode: 'upsert' }).run()
  if (run.delivered !== count) throw new Error(`${name}: ${run.delivered} of ${count} rows delivered: ${run.reason}`)
  found[name] = { requests: box.requests.length - before, least, goal }
}
await box.close()
await rm(folder, { recursive: true })
console.log(JSON.stringify(found))
