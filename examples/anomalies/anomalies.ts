// Hourly orders from MongoDB are looked through for hours that are unlike those before, and a digest of them goes to a channel of
// Slack: that of a sandbox on this machine. A second run has the same hours and one more, and posts that one alone.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { source, sync } from 'spillway'
import { mrkdwn, slack } from 'spillway/destinations/slack'
import { sandbox } from 'spillway/sandbox'
import { documents } from 'spillway/sources/mongodb'

interface Hour {
  readonly _id: string
  readonly at: Date
  readonly orders: number
}

/**
 * Stands for a collection. With the driver (`npm install mongodb`) it is
 * `documents(() => client.db('shop').collection<Hour>('hours').find().sort({ at: 1 }))`.
 */
async function* hours(count: number): AsyncGenerator<Hour> {
  const start = Date.UTC(2026, 0, 5)
  for (let hour = 0; hour < count; hour++) {
    const usual = 100 + 5 * Math.sin(hour) + (hour % 3)
    const orders = Math.round(odd.get(hour) ?? usual)
    yield { _id: `h-${hour}`, at: new Date(start + hour * 3_600_000), orders }
  }
}
const odd = new Map([
  [60, 12],
  [90, 260],
  [96, 5],
])

/** Hours that are more than `limit` standard deviations from the `window` hours before them. */
async function* anomalies(from: AsyncIterable<Hour>, { window = 24, limit = 4 } = {}) {
  const before: number[] = []
  for await (const hour of from) {
    const mean = before.reduce((sum, orders) => sum + orders, 0) / before.length
    const deviation = Math.sqrt(before.reduce((sum, orders) => sum + (orders - mean) ** 2, 0) / before.length)
    const score = (hour.orders - mean) / deviation
    if (before.length === window && Math.abs(score) > limit) yield { ...hour, usual: Math.round(mean), score }
    else before.push(hour.orders) // what is odd does not make the next odd hour usual
    if (before.length > window) before.shift()
  }
}

const state = await mkdtemp(join(tmpdir(), 'spillway-anomalies-'))
const box = await sandbox()
const { id: channel } = box.slack.createChannel({ name: 'orders' })

/** With Slack itself, leave out `endpoint`, and `token` is secret('SLACK_TOKEN'). */
const digest = slack({ channel, digest: { title: 'Unusual hours' }, endpoint: box.url, token: box.slack.token })

async function watch(count: number): Promise<void> {
  const { delivered, unchanged } = await sync({
    name: 'anomalies',
    from: source(() => anomalies(documents(() => hours(count)))),
    map: ({ at, orders, usual, score }) => ({
      text: mrkdwn`${at.toISOString().slice(0, 16)}: *${orders}* orders, usually ${usual} (${score.toFixed(1)} σ)`,
    }),
    to: digest,
    key: '_id',
    mode: 'insert', // an hour is told once
    state,
  }).run()
  console.log(`${delivered} told, ${unchanged} told before`)
}

try {
  console.log('Four days of orders, hour by hour.')
  await watch(96)
  console.log('An hour later.')
  await watch(97)
  for (const { text } of box.slack.messages(channel)) console.log(`#orders: ${text}`)
} finally {
  await box.close()
  await rm(state, { recursive: true, force: true })
}
