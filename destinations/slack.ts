import type { WebAPICallResult, WebClient } from '@slack/web-api'
import {
  ConfigError,
  type Context,
  type Destination,
  destination,
  FatalError,
  type Injected,
  type Outcome,
  type Receipt,
  receipt,
  reject,
} from 'spillway'
import { type Asking, ask, type Config, config, pagesOf, type SlackConfig } from './slack/client.js'
import { contentOf, type Found, hashOf, type Listed, look, metadataOf, noteOf, placeOf } from './slack/marks.js'
import {
  type Content,
  escaped,
  folded,
  layout,
  literally,
  type Message,
  maxInBlocks,
  message,
  type SlackMessage,
} from './slack/message.js'

export type { SlackConfig } from './slack/client.js'
export { type Interpolated, type Mrkdwn, mrkdwn, type SlackMessage } from './slack/message.js'
export { type SlackWebhookOptions, slackWebhook } from './slack/webhook.js'

/** What {@link slack} is told. The config's fields may be left out; they are then injected. */
export interface SlackOptions extends Injected<SlackConfig> {
  /** Where messages go unless they say otherwise: an id (`C0123456789`), which outlives a renaming, or a name (`#alerts`). */
  readonly channel: string
}

/** What a digest looks like. */
export interface SlackDigest {
  /** Stands in bold above the lines. Plain text. @default none */
  readonly title?: string | undefined
}

const me = 'slack'
/** How far back a message of an earlier process is looked for. */
const lookBack = 30 * 24 * 3_600_000
/** Slack's clock tells when a message was posted, ours when it was sent. */
const clockSkew = 600_000

/**
 * A channel of Slack: a message for each row, kept up to date and deleted with it; or, with `digest`, one message for many rows.
 *
 * Rows become messages by `map`. Plain text never notifies or links: see {@link SlackMessage} and {@link mrkdwn}. Names are not
 * turned into mentions, and links are not unfolded. A text of more than 4,000 characters is laid out in sections of at most 3,000;
 * one of more than 12,000 is cut, ends in `…`, and the log says so. A message stays in the channel and thread it was posted to.
 *
 * A `digest` joins the texts of a batch, a line for each row, into one message: as many as fit, at most 100. It has `insert` only,
 * and its rows go to the one channel: one that has `blocks`, `channel` or `thread` is rejected.
 *
 * **What is guaranteed.** A message carries metadata: a hash of its row's key or place in the run, and one of what it says. When an
 * answer is lost, before or after a crash, the channel's history is searched for it, so that no message is posted twice and
 * none is lost. That needs the scopes `channels:history` (`groups:history` for private channels) and `metadata.message:read`, and
 * `channels:read` when the channel is given by its name. Apps that are distributed outside of Slack's Marketplace may read one
 * page a minute only.
 *
 * **What is not.** A message belongs to the sync that posted it: another sync, or one whose state is lost, posts the same row anew.
 * The history is searched for 30 days: a run that crashed longer ago may post its last message again. In `append`, so
 * may one whose `map` was changed in between. What a message became by hand is not looked at.
 *
 * Slack takes about one message a second and channel; the rate keeps to that for all channels together. Where records go to many
 * channels, `.with({ rate: '5/s' })` is faster, and when Slack says that it is too fast, everything waits as long as it asks.
 *
 * It needs `npm install @slack/web-api@8`.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * await sync({
 *   name: 'anomalies',
 *   from: anomalies,
 *   map: (a) => ({ text: mrkdwn`*${a.metric}* is ${a.value}, <${a.url}|see the chart>` }),
 *   to: slack({ channel: '#alerts', token: secret('SLACK_TOKEN') }),
 *   key: 'id',
 *   mode: 'mirror',
 * }).run()
 * ```
 */
export function slack(
  options: SlackOptions & { readonly digest?: false | undefined },
): Destination<SlackMessage, 'insert' | 'upsert' | 'delete'>
export function slack(
  options: SlackOptions & { readonly digest: true | SlackDigest },
): Destination<SlackMessage, 'insert'>
export function slack(
  options: SlackOptions & { readonly digest?: boolean | SlackDigest | undefined },
): Destination<SlackMessage, 'insert' | 'upsert' | 'delete'> | Destination<SlackMessage, 'insert'> {
  const { channel, digest, ...given } = options
  if (!channel) throw new ConfigError(`${me}: channel is empty: give an id, such as C0123456789, or a name: #alerts`)
  const title = typeof digest === 'object' && digest.title ? `*${escaped(digest.title)}*\n` : ''

  /** What this process knows of messages whose fate is not known: since when, and where one was found that is out of date. */
  const doubts = new Map<string, { readonly since: number; readonly at?: string }>()
  /** Ids of channels that were given by name. */
  const ids = new Map<string, string>()

  const shared = {
    name: me,
    record: message,
    match: [], // a message is found by its receipt
    config,
    rate: '1/s',
    concurrency: 1,
    replaySafe: false, // an upsert posts what it has no receipt of
    target: ({ endpoint }: Config) => ({ endpoint, channel }),
  } as const

  if (digest) {
    const fit = { batchSize: 100, batchBytes: maxInBlocks - Math.max(500, title.length) }
    return destination({ ...shared, ...fit })({
      async insert(batch, context) {
        const [own, lines] = [batch.filter(isSpecial), batch.filter((one) => !isSpecial(one))]
        const text = title + lines.map((line) => line.text).join('\n')
        if (lines.length > 0) await post({ text }, context, context.idempotencyKey)
        return own.map((one) => reject(one, 'a digest is made of texts: leave blocks, channel and thread out'))
      },
      async verify(batch, context) {
        return (await search({}, context, context.idempotencyKey)) ? batch.filter((one) => !isSpecial(one)) : []
      },
    })(given)
  }
  // so that each message has an answer of its own
  return destination({ ...shared, maxBatchSize: 1 })({
    async insert(batch, context) {
      const record = batch[0]!
      return [receipt(record, await post(record, context, context.idempotencyKey))]
    },
    upsert,
    delete: remove,
    verify,
  })(given)

  // ---- handlers ----------------------------------------------------------------------------------------------------

  async function upsert(batch: Message[], context: Context<Config>): Promise<Receipt[]> {
    const record = batch[0]!
    const mark = context.key(record)!
    const id = doubts.get(mark)?.at ?? context.remoteId(record)
    // somebody deleted it: it is posted anew
    const there = id !== undefined && (await update(record, context, mark, id))
    return [receipt(record, there ? id : await post(record, context, mark))]
  }

  async function remove(batch: object[], context: Context<Config>): Promise<Outcome[]> {
    const record = batch[0]!
    const mark = context.key(record)!
    const id = doubts.get(mark)?.at ?? context.remoteId(record)
    if (id === undefined)
      return [reject(record, 'there is no receipt that says which message it is: delete it by hand')]
    const place = placeOf(id)
    await writing(context, mark, (api) => api.chat.delete(place), 'message_not_found')
    return []
  }

  async function verify(batch: Message[], context: Context<Config>): Promise<(Message | Receipt)[]> {
    const record = batch[0]!
    if (context.operation === 'insert') {
      const found = await search(record, context, context.idempotencyKey)
      return found ? [receipt(record, found.id)] : []
    }
    const mark = context.key(record)!
    const id = context.remoteId(record)
    const found = (id !== undefined && (await look(id, context))) || (await search(record, context, mark))
    if (found && context.operation !== 'delete' && found.value === contentOf(record)) {
      doubts.delete(mark)
      return [receipt(record, found.id)]
    }
    // it is out of date, or still there: the next attempt knows where
    if (found) doubts.set(mark, { since: Date.now(), ...doubts.get(mark), at: found.id })
    return found && context.operation === 'delete' ? [record] : []
  }

  // ---- writing -----------------------------------------------------------------------------------------------------

  async function post(record: Content, context: Context<Config>, mark: string): Promise<string> {
    const to = record.channel ?? channel
    const reply = await writing(context, mark, (api) =>
      api.chat.postMessage({
        ...content(record, context, mark),
        channel: to,
        ...(record.thread && { thread_ts: record.thread }),
        ...folded,
      }),
    )
    if (!reply?.ok || !reply.ts || !reply.channel) throw new Error(`${me}: chat.postMessage was answered without a ts`)
    ids.set(to, reply.channel)
    warn(reply, context)
    return `${reply.channel}:${reply.ts}`
  }

  /** Whether the message was still there to be changed. */
  async function update(record: Message, context: Context<Config>, mark: string, id: string): Promise<boolean> {
    const change = { ...content(record, context, mark), ...placeOf(id) }
    const reply = await writing(context, mark, (api) => api.chat.update(change), 'message_not_found')
    if (reply) warn(reply, context)
    return reply !== undefined
  }

  /** A call that writes, for a message that stays in doubt when it fails. */
  async function writing<T extends WebAPICallResult>(
    context: Asking,
    mark: string,
    call: (api: WebClient) => Promise<T>,
    expected?: string,
  ): Promise<T | undefined> {
    const since = Date.now()
    try {
      const reply = await ask(context, call, expected)
      if (reply) doubts.delete(mark)
      return reply
    } catch (error) {
      if (!doubts.has(mark)) doubts.set(mark, { since })
      throw error
    }
  }

  // ---- looking -----------------------------------------------------------------------------------------------------

  /** The message that carries this mark, from the newest on. */
  async function search(record: Partial<Message>, context: Context<Config>, mark: string): Promise<Found | undefined> {
    const { thread } = record
    const place = await channelId(record.channel ?? channel, context)
    const since = doubts.get(mark)?.since ?? Date.now() - lookBack
    const range = { channel: place, oldest: ((since - clockSkew) / 1000).toFixed(6), include_all_metadata: true }
    const row = hashOf(context.sync, mark)
    const pages = pagesOf<WebAPICallResult & { messages?: Listed[] }>(context, (api, page) =>
      thread
        ? api.conversations.replies({ ...range, ...page, ts: thread })
        : api.conversations.history({ ...range, ...page }),
    )
    for await (const { messages } of pages) {
      if (!messages) throw new Error(`${me}: the history was answered without messages`)
      const found = messages.find((one) => noteOf(one)?.['row'] === row)
      if (found?.ts) return { id: `${place}:${found.ts}`, value: noteOf(found)?.['value'] }
    }
    return undefined
  }

  /** The history takes ids only. */
  async function channelId(name: string, context: Context<Config>): Promise<string> {
    const known = /^[CDG][A-Z0-9]{6,}$/.test(name) ? name : ids.get(name)
    if (known) return known
    const types = 'public_channel,private_channel'
    for await (const { channels } of pagesOf(context, (api, page) => api.conversations.list({ types, ...page }))) {
      const found = channels?.find((one) => one.name === name.replace(/^#/, ''))
      if (found?.id) return found.id
    }
    throw new FatalError(
      `${me}: no channel ${name} was found to look for a message in: give its id, such as C0123456789`,
    )
  }
}

// ---- content -------------------------------------------------------------------------------------------------------

function content(record: Content, { log, sync }: Context<Config>, mark: string) {
  return { ...layout(record, log), ...literally, metadata: metadataOf(record, sync, mark) }
}

function warn({ response_metadata }: WebAPICallResult, { log }: Asking): void {
  const { warnings = [] } = response_metadata ?? {}
  if (warnings.includes('message_truncated')) log.warn(`${me}: Slack has cut a message that is too long for it`)
}

function isSpecial({ blocks, channel, thread }: Message): boolean {
  return Boolean(blocks?.length || channel || thread)
}
