// Subscriptions of a billing API → how likely each customer is to leave → accounts in Salesforce.
// The second run, after one customer has asked to leave, sends just that one.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Read, source, sync } from 'spillway'
import { salesforce } from 'spillway/destinations/salesforce'
import { sandbox } from 'spillway/sandbox'
import { billingApi, type Subscription } from './billing.js'

const billing = await billingApi(1_000)
const box = await sandbox()
const state = await mkdtemp(join(tmpdir(), 'spillway-churn-'))
const headers = { authorization: 'Bearer sk_test' }

/** Page after page; `http` retries, and waits as long as the API asks for. */
async function* subscriptions({ http }: Read): AsyncGenerator<Subscription[]> {
  for (let after = ''; ; ) {
    const url = `${billing.url}/v1/subscriptions?limit=100${after && `&starting_after=${after}`}`
    const page = await http.get<{ data: Subscription[]; has_more: boolean }>(url, { headers })
    yield page.data
    if (!page.has_more) return
    after = page.data.at(-1)!.id
  }
}

/** What customers did lately, looked up for fifty at a time. */
async function withUsage(rows: Subscription[], { http }: Read) {
  const url = `${billing.url}/v1/usage?customers=${rows.map(({ customer }) => customer).join(',')}`
  const idle = await http.get<Record<string, number>>(url, { headers })
  return rows.map((row) => ({ ...row, idleDays: idle[row.customer]! }))
}

/** A logistic model; its weights would come from your own data. */
function risk({ status, cancel_at_period_end, idleDays, plan }: Subscription & { idleDays: number }): number {
  const weighed = -3 + 2.2 * Number(status === 'past_due') + 4 * Number(cancel_at_period_end) + 0.07 * idleDays
  return 1 / (1 + Math.exp(-weighed + plan.amount / 10_000))
}

try {
  box.salesforce.define('Account', {
    Customer_Id__c: { externalId: true, unique: true },
    Churn_Risk__c: { type: 'number' },
    At_Risk__c: { type: 'boolean' },
  })
  const scores = sync({
    name: 'churn',
    from: source(subscriptions).enrich(withUsage, { batchSize: 50, concurrency: 4 }),
    map: (row) => ({
      Customer_Id__c: row.customer,
      Churn_Risk__c: Number(risk(row).toFixed(3)),
      At_Risk__c: risk(row) > 0.5,
    }),
    to: salesforce({
      object: 'Account',
      externalId: 'Customer_Id__c',
      accessToken: box.salesforce.token,
      instanceUrl: box.url,
    }),
    key: 'customer',
    mode: 'upsert',
    state,
  })
  const first = await scores.run()
  const atRisk = box.salesforce.records('Account').filter((account) => account['At_Risk__c'] === true)
  console.log(`${first.delivered} customers scored, ${atRisk.length} of them likely to leave.`)
  billing.cancel('cus_00023')
  const second = await scores.run()
  console.log(`One asked to leave: ${second.delivered} sent, ${second.unchanged} unchanged.`)
} finally {
  await box.close()
  await billing.close()
  await rm(state, { recursive: true, force: true })
}
