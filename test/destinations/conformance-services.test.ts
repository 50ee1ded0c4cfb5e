import type { AnyRow } from 'spillway'
import { reject } from 'spillway'
import { http } from 'spillway/destinations/http'
import { hubspot } from 'spillway/destinations/hubspot'
import { notion } from 'spillway/destinations/notion'
import { salesforce } from 'spillway/destinations/salesforce'
import { slack, slackWebhook } from 'spillway/destinations/slack'
import { sandbox, serve, type Tenant } from 'spillway/sandbox'
import { conforms } from '../support/conforms.js'

await conforms('slack', {
  async open() {
    const box = await sandbox()
    box.slack.createChannel({ name: 'people' })
    return {
      to: slack({ channel: '#people', endpoint: box.url, token: box.slack.token }),
      record: (n, version) => ({ id: n, text: `The text of ${n} in ${version}` }),
      key: 'id',
      read: () => box.slack.messages('people').map(({ text }) => ({ text })),
      held: ({ text }) => ({ text }),
      faults: box.faults,
      writes: ({ path }) => /chat\.(postMessage|update|delete)$/.test(path),
      bad: { record: { id: 99, text: 'A text for nobody', channel: '#nobody' }, reason: 'channel_not_found' },
      secrets: [box.slack.token],
      close: box.close,
    }
  },
})

await conforms('slack-webhook', {
  async open() {
    const box = await sandbox()
    box.slack.createChannel({ name: 'people' })
    const path = box.slack.webhook('people')
    return {
      to: slackWebhook({ webhook: box.url + path, onUnknown: 'resend' }),
      record: (n, version) => ({ text: `The text of ${n} in ${version}` }),
      read: () => box.slack.messages('people').map(({ text }) => ({ text })),
      faults: box.faults,
      bad: { record: { text: 'A text for others', channel: '#others' }, reason: 'posts to its own channel' },
      secrets: [path],
      close: box.close,
    }
  },
})

await conforms('hubspot', {
  async open() {
    const box = await sandbox()
    box.hubspot.define('contacts', [
      { name: 'crm_key', hasUniqueValue: true },
      { name: 'nickname' },
      { name: 'score', type: 'number' },
      { name: 'note' },
    ])
    return {
      to: hubspot({ object: 'contacts', match: 'crm_key', endpoint: box.url, token: box.hubspot.token }),
      record: (n, version) => ({ crm_key: `key-${n}`, nickname: `The name of ${n} in ${version}`, score: version }),
      read: () => box.hubspot.objects('contacts').map(({ properties }) => ({ ...properties })),
      held: texts,
      faults: box.faults,
      writes: ({ path }) => /batch\/(create|update|upsert|archive)$/.test(path),
      bad: { record: { crm_key: 'key-99', nickname: 'A name that is long', score: 'many' }, reason: 'score' },
      field: { name: 'note', values: [0, false, 'a text'] }, // an empty text clears
      secrets: [box.hubspot.token],
      close: box.close,
    }
  },
})

await conforms('salesforce', {
  async open() {
    const box = await sandbox()
    box.salesforce.define('Person__c', {
      Key__c: { externalId: true, unique: true },
      Name: { length: 80 },
      Score__c: { type: 'number' },
      Note__c: {},
    })
    const access = { instanceUrl: box.url, accessToken: box.salesforce.token }
    return {
      // the rule for large batches makes three requests of one
      to: salesforce({ object: 'Person__c', externalId: 'Key__c', ...access }).with({ batchSize: 250 }),
      record: (n, version) => ({ Key__c: `key-${n}`, Name: `The name of ${n} in ${version}`, Score__c: version }),
      key: 'Key__c',
      read: () => box.salesforce.records('Person__c').map((record) => ({ ...record })),
      faults: box.faults,
      writes: ({ method, path }) => method !== 'GET' && !path.includes('/oauth2/'),
      bad: { record: { Key__c: 'key-99', Name: 'x'.repeat(81), Score__c: 0 }, reason: 'STRING_TOO_LONG' },
      field: { name: 'Note__c', values: ['a text', 'another'] }, // an empty text clears, and it takes no numbers
      secrets: [box.salesforce.token],
      close: box.close,
    }
  },
})

await conforms('notion', {
  async open() {
    const box = await sandbox()
    const { id, dataSources } = box.notion.createDatabase({
      properties: { Key: 'rich_text', Name: 'title', Score: 'number', Note: 'rich_text' },
    })
    return {
      // the rule for large batches has more than one look-up finds
      to: notion({ database: id, match: 'Key', endpoint: box.url, token: box.notion.token }).with({ batchSize: 55 }),
      record: (n, version) => ({ Key: `key-${n}`, Name: `The name of ${n} in ${version}`, Score: version }),
      key: 'Key',
      // Notion tells an empty text from none no more than its API does
      read: () => box.notion.rows(dataSources[0]!).map(({ Note, ...values }) => ({ ...values, Note: Note || null })),
      faults: box.faults,
      writes: ({ method, path }) => method !== 'GET' && !path.endsWith('/query'),
      bad: { record: { Key: 'key-99', Name: 'The name of 99', Score: 'many' }, reason: 'Score: it takes a number' },
      field: { name: 'Note', values: ['0', 'a text'] }, // an empty text is none
      secrets: [box.notion.token],
      close: box.close,
    }
  },
})

await conforms('http', {
  async open() {
    const people = new Map<unknown, AnyRow>()
    const token = 'the token of the people'
    const server = await serve([peopleApi(people, token)])
    type Reply = { errors: { index: number; message: string }[] }
    return {
      to: http({
        url: `${server.url}/people`,
        method: 'PUT',
        auth: { bearer: token },
        body: (rows) => ({ rows }),
        errors: (reply, rows) => (reply as Reply).errors.map((one) => reject(rows[one.index]!, one.message)),
        idempotent: '1h',
        allowPrivate: true,
      }),
      record: (n, version) => ({ id: n, name: `The name of ${n} in ${version}` }),
      key: 'id',
      read: () => people.values(),
      faults: server.faults,
      bad: { record: { id: 99, name: 'x'.repeat(101) }, reason: 'name is too long' },
      field: { name: 'note', values: [0, false, ''] },
      secrets: [token],
      close: server.close,
    }
  },
  except: {
    'an update of what is not there is rejected, and creates nothing':
      'an update is the same request as an upsert: what is not there is for the API to refuse',
  },
})

/** An API that takes rows, tells which of them it refuses, and knows a batch again by its key. */
function peopleApi(people: Map<unknown, AnyRow>, token: string): Tenant {
  return {
    owns: (path) => path === '/people',
    answer({ headers, body }) {
      if (headers.authorization !== `Bearer ${token}`) return { status: 401, body: {} }
      const { rows } = body as { rows: AnyRow[] }
      const fits = ({ name }: AnyRow) => String(name).length <= 100
      for (const row of rows.filter(fits)) people.set(row['id'], { ...people.get(row['id']), ...row })
      const errors = rows.flatMap((row, index) => (fits(row) ? [] : { index, message: 'name is too long' }))
      return { status: 200, body: { errors } }
    },
    refusal: (status) => ({ error: `status ${status}` }),
    page: () => '',
  }
}

/** As HubSpot gives back what is no text. */
function texts(record: AnyRow): AnyRow {
  return Object.fromEntries(
    Object.entries(record).map(([name, value]) => [name, value === null ? value : String(value)]),
  )
}
