// Leads are scored in a data frame and pushed to HubSpot: that of a sandbox on this machine. Then one lead does
// something, all are scored again, and a second run sends just that one.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { table } from 'arquero'
import { sync } from 'spillway'
import { hubspot } from 'spillway/destinations/hubspot'
import { sandbox } from 'spillway/sandbox'
import { dataframe } from 'spillway/sources/dataframe'

interface Lead {
  readonly key: string
  readonly email: string
  readonly visits: number
  readonly demo: boolean
}
interface Scored {
  readonly key: string
  readonly email: string
  readonly score: number
  readonly tier: string
}

/** A frame of arquero; `dataframe` takes one of polars, Arrow or Danfo.js just so. */
function scored(leads: Lead[]) {
  const frame = table({
    key: leads.map(({ key }) => key),
    email: leads.map(({ email }) => email),
    visits: leads.map(({ visits }) => visits),
    demo: leads.map(({ demo }) => demo),
  })
    .derive({ score: (lead: Lead) => Math.min(100, lead.visits * 5 + (lead.demo ? 40 : 0)) })
    .derive({ tier: (lead: { score: number }) => (lead.score >= 60 ? 'A' : 'B') })
    .orderby('key')
  return dataframe<Scored>(frame)
}

const leads = [
  { key: 'l-1', email: 'ada@example.com', visits: 9, demo: true },
  { key: 'l-2', email: 'grace@example.com', visits: 3, demo: false },
  { key: 'l-3', email: 'joan@example.com', visits: 10, demo: false },
]
const state = await mkdtemp(join(tmpdir(), 'spillway-scoring-'))
const box = await sandbox()
box.hubspot.define('contacts', [
  { name: 'lead_key', hasUniqueValue: true },
  { name: 'lead_score', type: 'number' },
  { name: 'lead_tier' },
])

/** With HubSpot itself, leave out `endpoint`, and `token` is secret('HUBSPOT_TOKEN'). */
const to = hubspot({ object: 'contacts', match: 'lead_key', endpoint: box.url, token: box.hubspot.token })

async function push(): Promise<void> {
  const { delivered, unchanged } = await sync({
    name: 'scores',
    from: scored(leads),
    map: ({ key, email, score, tier }) => ({ lead_key: key, email, lead_score: score, lead_tier: tier }),
    to,
    key: 'key',
    mode: 'upsert',
    state,
  }).run()
  console.log(`${delivered} delivered, ${unchanged} unchanged`)
}

try {
  console.log('Three leads, scored in a frame, go to HubSpot.')
  await push()
  console.log('Grace asks for a demo; all are scored again.')
  leads[1] = { ...leads[1]!, visits: 5, demo: true }
  await push()
  for (const { properties } of box.hubspot.objects('contacts')) {
    console.log(`${properties['email']}: ${properties['lead_score']}, tier ${properties['lead_tier']}`)
  }
} finally {
  await box.close()
  await rm(state, { recursive: true, force: true })
}
