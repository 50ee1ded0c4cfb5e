import { onTestFinished } from 'vitest'
import { type AnyRow, destination, type Log, type Run, type Source, type Sync, sync } from '../../src/index.js'
import { type Webhook, type WebhookOptions, webhook } from '../../src/sources/webhook.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { request, type Signed } from './signing.js'

/** A webhook with a state of its own. */
export async function hook(options: Partial<WebhookOptions> & { readonly record?: never } = {}) {
  const state = options.state ?? (await stateFolder())
  const lines: string[] = []
  const note = (message: string): void => void lines.push(message)
  const log: Log = { ...quiet, warn: note, error: note }
  const source: Webhook<AnyRow> = webhook({ name: 'hook', log, ...options, state })
  onTestFinished(() => source.close())
  const receive = (signed: Signed): Promise<Response> => source.fetch(request(signed))
  return {
    state,
    source,
    lines,
    receive,
    envelopes: source.envelopes,
    /** Sends events one after the other, each under an id. */
    async send(events: Readonly<Record<string, object>>): Promise<void> {
      for (const [id, event] of Object.entries(events)) {
        const response = await receive({ headers: { 'webhook-id': id }, body: JSON.stringify(event) })
        if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`)
      }
    },
    /** A sync that keeps what it is given. */
    reader(name: string, from: Source<object> = source): Reading {
      const seen: AnyRow[] = []
      const to = destination({ name: 'seen', batchSize: 7 })((batch) => void seen.push(...batch))
      const made = sync({ name, from, to, state, log })
      return { seen, sync: made, run: () => made.run() }
    },
  }
}

export interface Reading {
  readonly seen: AnyRow[]
  readonly sync: Sync
  run(): Promise<Run>
}

/** What a source gives, read from its start. */
export async function rowsOf(source: Source<object>): Promise<object[]> {
  const rows: object[] = []
  for await (const row of source) rows.push(row)
  return rows
}
