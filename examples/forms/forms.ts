// A form on a website posts to a webhook; each answer becomes a contact in the CRM, a row in the warehouse and a message in Slack.
// The vendors are those of a sandbox on this machine; the warehouse is a DuckDB file.
import { createHmac } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runAll, sync } from 'spillway'
import { duckdbTable } from 'spillway/destinations/duckdb-table'
import { hubspot } from 'spillway/destinations/hubspot'
import { mrkdwn, slack } from 'spillway/destinations/slack'
import { sandbox } from 'spillway/sandbox'
import { duckdb } from 'spillway/sources/duckdb'
import { webhook } from 'spillway/sources/webhook'
import { z } from 'zod'

const key = 'the key that the form and we share'
const state = await mkdtemp(join(tmpdir(), 'spillway-forms-'))
const lake = join(state, 'lake.db')
const box = await sandbox()
box.slack.createChannel({ name: 'sales' })

// ---- what a program of yours would hold: a hook, and three syncs that read it

const answers = webhook({
  name: 'answers',
  record: z.object({ email: z.email(), company: z.string(), seats: z.coerce.number().int() }),
  verify: { scheme: 'hmac', header: 'x-form-signature', secret: key },
  state,
})

const syncs = [
  sync({
    name: 'crm',
    from: answers,
    map: ({ email, company }) => ({ email, company }),
    to: hubspot({ object: 'contacts', match: 'email', endpoint: box.url, token: box.hubspot.token }),
    key: 'email',
    mode: 'upsert',
    state,
  }),
  sync({
    name: 'warehouse',
    from: answers.envelopes.map(row),
    to: duckdbTable({ path: lake, table: 'answers' }),
    state,
  }),
  sync({
    name: 'chat',
    from: answers.filter(({ seats }) => seats >= 50),
    map: ({ company, seats }) => ({ text: mrkdwn`*${company}* asks for *${seats}* seats` }),
    to: slack({ channel: '#sales', endpoint: box.url, token: box.slack.token }),
    state,
  }),
]

function row({ id, receivedAt, event }: { id: string; receivedAt: Date; event: object }) {
  return { delivery: id, received_at: receivedAt, ...event }
}

// ---- what the website does

/** In Next.js, `export const POST = answers.fetch` would be asked; `npx spillway serve` listens by itself. */
async function post(delivery: string, answer: object, signedWith = key): Promise<void> {
  const body = JSON.stringify(answer)
  const signature = createHmac('sha256', signedWith).update(body).digest('hex')
  const headers = { 'content-type': 'application/json', 'x-form-signature': signature, 'webhook-id': delivery }
  const response = await answers.fetch(new Request('http://localhost/answers', { method: 'POST', headers, body }))
  console.log(`${delivery}: ${response.status} ${await response.text()}`.trim())
}

try {
  await post('d1', { email: 'ada@example.com', company: 'Engines & Co', seats: '120' })
  await post('d2', { email: 'grace@example.com', company: 'Compilers', seats: 3 })
  await post('d1', { email: 'ada@example.com', company: 'Engines & Co', seats: '120' }) // the website tries again
  await post('d3', { email: 'nobody', company: 'None', seats: 1 })
  await post('d4', { email: 'eve@example.com', company: 'Forged', seats: 1 }, 'a guess')

  const runs = await runAll(syncs)
  for (const { sync: name, delivered } of runs) console.log(`${name}: ${delivered} delivered`)
  for (const { properties } of box.hubspot.objects('contacts')) console.log(`contact ${properties['email']}`)
  const query = 'select company, seats from answers order by seats'
  for await (const { company, seats } of duckdb({ path: lake, query })) console.log(`row ${company}, ${seats} seats`)
  for (const { text } of box.slack.messages('sales')) console.log(`#sales: ${text}`)
} finally {
  await answers.close()
  await box.close()
  await rm(state, { recursive: true, force: true })
}
