import { randomBytes } from 'node:crypto'
import { html } from './page.js'
import { Recent } from './recent.js'
import type { ApiRequest, Reply, Tenant } from './server.js'

/** What Slack allows. */
export interface SlackLimits {
  /** Messages a second and channel, by token or webhook; more are answered 429 with `Retry-After`. Slack allows about 1. @default no limit */
  readonly messagesPerSecond?: number | undefined
}

/** A channel to make. */
export interface ChannelOptions {
  /** Without `#`. */
  readonly name: string
  /** @default one like Slack's */
  readonly id?: string | undefined
  /** @default false */
  readonly private?: boolean | undefined
  /** Whether the app has been invited to it. @default true */
  readonly member?: boolean | undefined
}

/** A message as a test reads it: in Slack's markup, as it was stored. */
export interface SlackPost {
  readonly ts: string
  readonly text: string
  readonly blocks?: readonly object[]
  /** The `ts` of the message whose thread it is in. */
  readonly thread?: string
  readonly metadata?: { readonly event_type: string; readonly event_payload: object }
  readonly edited?: boolean
  readonly by: 'app' | 'webhook' | 'person'
}

/** A Slack workspace in the sandbox. Channels are named by id or by name. */
export interface Slack {
  /** A bot's token that may do everything. */
  readonly token: string
  createChannel(options: ChannelOptions): { id: string }
  archive(channel: string): void
  /** The path of an incoming webhook of this channel: its address is `box.url + box.slack.webhook('alerts')`. */
  webhook(channel: string): string
  /** All messages of a channel, oldest first, answers in threads too. */
  messages(channel: string): SlackPost[]
  /** A person writes. */
  say(channel: string, text: string, options?: { readonly thread?: string }): { ts: string }
  /** A person deletes a message. */
  remove(channel: string, ts: string): void
}

interface Channel {
  readonly id: string
  readonly name: string
  readonly isPrivate: boolean
  isMember: boolean
  isArchived: boolean
  /** Oldest first. */
  messages: SlackPost[]
  /** When the newest messages came. */
  readonly recent: Recent
}

// biome-ignore lint/suspicious/noExplicitAny: what callers send
type Body = { readonly [name: string]: any }

/** An error in Slack's words. */
class Refusal extends Error {
  constructor(
    readonly code: string,
    /** What else the answer holds. */
    readonly more: object = {},
    readonly retryAfter?: number,
  ) {
    super(code)
  }
}

const me = { user_id: 'U0SANDBOX', bot_id: 'B0SANDBOX', team_id: 'T0SANDBOX', team: 'Sandbox', user: 'spillway' }

/** Slack, its Web API and incoming webhooks, as far as messages go. */
export function slack(limits: SlackLimits): { tenant: Tenant; controls: Slack } {
  const token = 'xoxb-sandbox-token'
  const channels = new Map<string, Channel>()
  const webhooks = new Map<string, Channel>()
  let lastTs = 0

  function createChannel({ name, id = `C${randomBytes(5).toString('hex').toUpperCase()}`, ...how }: ChannelOptions) {
    const { private: isPrivate = false, member: isMember = true } = how
    channels.set(id, { id, name, isPrivate, isMember, isArchived: false, messages: [], recent: new Recent(1000) })
    return { id }
  }

  function find(channel: unknown, byName = true): Channel {
    const name = String(channel ?? '').replace(/^#/, '')
    const found = channels.get(name) ?? (byName && [...channels.values()].find((one) => one.name === name))
    if (!found) throw new Refusal('channel_not_found')
    return found
  }

  /** Microseconds since 1970; no two messages have the same. */
  function nextTs(): string {
    lastTs = Math.max(lastTs + 1, Date.now() * 1000)
    return `${Math.floor(lastTs / 1e6)}.${String(lastTs % 1e6).padStart(6, '0')}`
  }

  // ---- writing -------------------------------------------------------------------------------------------------------

  function spend({ recent }: Channel): void {
    const { messagesPerSecond: most = Number.POSITIVE_INFINITY } = limits
    const wait = recent.wait(most)
    if (wait > 0) throw new Refusal('ratelimited', {}, Math.ceil(wait / 1000))
    recent.add()
  }

  /** A message within Slack's limits, and what the answer says about one that was not. */
  function compose(body: Body): { content: Pick<SlackPost, 'text' | 'blocks' | 'metadata'>; warning: object } {
    const blocks = parsed(body['blocks'], 'invalid_blocks_format')
    const metadata = parsed(body['metadata'], 'invalid_metadata_format')
    if (blocks !== undefined) checkBlocks(blocks)
    if (metadata && !(/^\w+$/.test(metadata.event_type) && typeof metadata.event_payload === 'object')) {
      throw new Refusal('invalid_metadata_format')
    }
    const given = String(body['text'] ?? '')
    if (given.trim() === '' && !blocks?.length) throw new Refusal('no_text')
    const text = linked(given, body)
    const cut = text.length > maxText
    return {
      content: { text: text.slice(0, maxText), ...(blocks?.length && { blocks }), ...(metadata && { metadata }) },
      warning: cut
        ? {
            warning: 'message_truncated',
            response_metadata: {
              warnings: ['message_truncated'],
              messages: ['[WARN] Your message was truncated but still posted'],
            },
          }
        : {},
    }
  }

  function add(channel: Channel, message: Omit<SlackPost, 'ts'>): SlackPost {
    const post = { ts: nextTs(), ...message }
    channel.messages.push(post)
    return post
  }

  function threadOf({ messages }: Channel, ts: unknown): { thread?: string } {
    if (!ts) return {}
    const parent = messages.find((one) => one.ts === String(ts))
    // of an answer's answer, Slack makes one in the same thread
    return { thread: parent?.thread ?? String(ts) }
  }

  function postMessage(body: Body): object {
    const channel = find(body['channel'])
    if (!channel.isMember) throw new Refusal('not_in_channel')
    if (channel.isArchived) throw new Refusal('is_archived')
    const { content, warning } = compose(body)
    spend(channel)
    const post = add(channel, { ...content, ...threadOf(channel, body['thread_ts']), by: 'app' })
    return { channel: channel.id, ts: post.ts, message: shown(post, channel, true), ...warning }
  }

  /** The app's own message with this ts. */
  function own(body: Body, refusal: string): { channel: Channel; at: number } {
    const channel = find(body['channel'], false)
    const at = channel.messages.findIndex(({ ts }) => ts === body['ts'])
    if (at < 0) throw new Refusal('message_not_found')
    if (channel.messages[at]!.by !== 'app') throw new Refusal(refusal)
    return { channel, at }
  }

  function update(body: Body): object {
    const { channel, at } = own(body, 'cant_update_message')
    if (channel.isArchived) throw new Refusal('is_archived')
    const { content, warning } = compose(body)
    // text without blocks takes the blocks away
    const { blocks: _, ...before } = channel.messages[at]!
    const post = { ...before, ...content, edited: true }
    channel.messages[at] = post
    return { channel: channel.id, ts: post.ts, text: post.text, message: shown(post, channel, true), ...warning }
  }

  function remove(body: Body): object {
    const { channel, at } = own(body, 'cant_delete_message')
    const [{ ts } = { ts: '' }] = channel.messages.splice(at, 1)
    return { channel: channel.id, ts }
  }

  // ---- reading -------------------------------------------------------------------------------------------------------

  function shown(post: SlackPost, { messages }: Channel, withMetadata: boolean): object {
    const { ts, text, blocks, thread, metadata, edited, by } = post
    const replies = messages.filter((one) => one.thread === ts)
    return {
      type: 'message',
      ...(by === 'person'
        ? { user: 'U0PERSON' }
        : { user: me.user_id, bot_id: by === 'app' ? me.bot_id : 'B0WEBHOOK', app_id: 'A0SANDBOX' }),
      ...(by === 'webhook' && { subtype: 'bot_message' }),
      text,
      ts,
      ...(blocks && { blocks }),
      ...(edited && { edited: { user: me.user_id, ts } }),
      ...(thread ? { thread_ts: thread } : replies.length > 0 && { thread_ts: ts, reply_count: replies.length }),
      ...(withMetadata && metadata && { metadata }),
    }
  }

  function readable(body: Body): Channel {
    const channel = find(body['channel'], false)
    if (!channel.isMember) throw new Refusal('not_in_channel')
    return channel
  }

  function page<T>(all: readonly T[], body: Body, name: string): object {
    const from = Number(Buffer.from(String(body['cursor'] ?? ''), 'base64url').toString() || 0)
    const limit = Math.min(999, Number(body['limit'] || 100))
    if (!Number.isInteger(from) || !(limit > 0)) throw new Refusal(limit > 0 ? 'invalid_cursor' : 'invalid_limit')
    const more = from + limit < all.length
    const next_cursor = more ? Buffer.from(String(from + limit)).toString('base64url') : ''
    return { [name]: all.slice(from, from + limit), has_more: more, response_metadata: { next_cursor } }
  }

  function within({ ts }: SlackPost, { oldest = '0', latest = '9'.repeat(10), inclusive }: Body): boolean {
    const [at, from, to] = [micros(ts), micros(String(oldest)), micros(String(latest))]
    return isTrue(inclusive) ? at >= from && at <= to : at > from && at < to
  }

  function history(body: Body): object {
    const channel = readable(body)
    const found = channel.messages.filter((one) => !one.thread && within(one, body)).reverse()
    const all = found.map((one) => shown(one, channel, isTrue(body['include_all_metadata'])))
    return page(all, body, 'messages')
  }

  function replies(body: Body): object {
    const channel = readable(body)
    const first = channel.messages.find(({ ts }) => ts === body['ts'])
    if (!first) throw new Refusal('thread_not_found')
    const answers = channel.messages.filter((one) => one.thread === first.ts && within(one, body))
    const all = [first, ...answers].map((one) => shown(one, channel, isTrue(body['include_all_metadata'])))
    return page(all, body, 'messages')
  }

  function describe({ id, name, isPrivate, isMember, isArchived }: Channel): object {
    return { id, name, is_channel: true, is_private: isPrivate, is_archived: isArchived, is_member: isMember }
  }

  function list(body: Body): object {
    const types = String(body['types'] ?? 'public_channel').split(',')
    const found = [...channels.values()].filter(
      ({ isPrivate, isMember, isArchived }) =>
        types.includes(isPrivate ? 'private_channel' : 'public_channel') &&
        (!isPrivate || isMember) &&
        !(isArchived && isTrue(body['exclude_archived'])),
    )
    return page(found.map(describe), body, 'channels')
  }

  function join(body: Body): object {
    const channel = find(body['channel'], false)
    if (channel.isArchived) throw new Refusal('is_archived')
    if (channel.isPrivate) throw new Refusal('method_not_supported_for_channel_type')
    channel.isMember = true
    return { channel: describe(channel) }
  }

  // ---- requests ------------------------------------------------------------------------------------------------------

  const methods: { readonly [name: string]: (body: Body) => object } = {
    'auth.test': () => ({ url: 'https://sandbox.slack.com/', ...me }),
    'chat.postMessage': postMessage,
    'chat.update': update,
    'chat.delete': remove,
    'conversations.history': history,
    'conversations.replies': replies,
    'conversations.list': list,
    'conversations.info': (body) => ({ channel: describe(find(body['channel'], false)) }),
    'conversations.join': join,
  }

  function api({ path, query, headers, body }: ApiRequest): object {
    if (typeof body === 'string') throw new Refusal('invalid_json')
    const all: Body = { ...Object.fromEntries(query), ...Object(body) }
    const [, bearer = all['token']] = /^Bearer (.+)$/.exec(headers.authorization ?? '') ?? []
    if (!bearer) throw new Refusal('not_authed')
    if (bearer !== token) throw new Refusal('invalid_auth')
    const method = path.replace(/^\/api\//, '')
    if (!Object.hasOwn(methods, method)) throw new Refusal('unknown_method', { req_method: method })
    return methods[method]!(all)
  }

  function webhook({ path, body }: ApiRequest): void {
    const channel = webhooks.get(path)
    if (!channel) throw new Refusal('no_service')
    const form = typeof body === 'object' && body !== null && 'payload' in body ? body['payload'] : body
    const payload = parsed(form, 'invalid_payload')
    if (typeof payload !== 'object' || payload === null) throw new Refusal('invalid_payload')
    if (channel.isArchived) throw new Refusal('channel_is_archived')
    const { metadata: _, ...content } = compose(payload).content
    spend(channel)
    add(channel, { ...content, ...threadOf(channel, payload.thread_ts), by: 'webhook' })
  }

  const plain = { 'content-type': 'text/plain; charset=utf-8' }

  const tenant: Tenant = {
    owns: (path) => path.startsWith('/api/') || path.startsWith('/services/T'),
    answer(request): Reply {
      const hook = request.path.startsWith('/services/T')
      try {
        if (!hook) return { status: 200, body: { ok: true, ...api(request) } }
        webhook(request)
        return { status: 200, body: 'ok', headers: plain }
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        const { code, more, retryAfter } = error
        const wait: Record<string, string> = retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) }
        const status = retryAfter !== undefined ? 429 : hook ? (webhookStatus[code] ?? 400) : 200
        return hook
          ? { status, body: code, headers: { ...plain, ...wait } }
          : { status, body: { ok: false, error: code, ...more }, headers: wait }
      }
    },
    refusal: (status, reason) => ({ ok: false, error: reason ?? codes[status] ?? 'internal_error' }),
    page: () => [...channels.values()].map(section).join('\n') || '<p class="note">No channel yet.</p>',
    style,
  }

  const controls: Slack = {
    token,
    createChannel,
    archive: (channel) => {
      find(channel).isArchived = true
    },
    webhook(channel) {
      const path = `/services/${me.team_id}/B0WEBHOOK/${randomBytes(12).toString('hex')}`
      webhooks.set(path, find(channel))
      return path
    },
    messages: (channel) => find(channel).messages.map((one) => ({ ...one })),
    say(channel, text, { thread } = {}) {
      const { ts } = add(find(channel), { text: escaped(text), ...threadOf(find(channel), thread), by: 'person' })
      return { ts }
    },
    remove(channel, ts) {
      const found = find(channel)
      found.messages = found.messages.filter((one) => one.ts !== ts)
    },
  }
  return { tenant, controls }
}

const codes: { readonly [status: number]: string } = {
  401: 'invalid_auth',
  408: 'request_timeout',
  429: 'ratelimited',
  503: 'service_unavailable',
}

/** https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors */
const webhookStatus: { readonly [code: string]: number } = { no_service: 404, channel_is_archived: 410 }

// ---- what is sent --------------------------------------------------------------------------------------------------

/** https://docs.slack.dev/reference/methods/chat.postMessage#truncating */
const maxText = 40_000
/** https://docs.slack.dev/reference/block-kit/blocks */
const maxBlocks = 50
const maxSection = 3_000
/** Not documented; seen in slackapi/bolt-js#2509. */
const maxInBlocks = 13_200

/** A field that a form holds as JSON text, and a JSON body as it is. */
// biome-ignore lint/suspicious/noExplicitAny: what callers send
function parsed(value: unknown, refusal: string): any {
  if (typeof value !== 'string') return value ?? undefined
  if (value === '') return undefined
  try {
    return JSON.parse(value)
  } catch {
    throw new Refusal(refusal)
  }
}

function checkBlocks(blocks: unknown): void {
  const wrong = (what: string, at: string) =>
    new Refusal('invalid_blocks', { response_metadata: { messages: [`[ERROR] ${what} [json-pointer:/blocks${at}]`] } })
  if (!Array.isArray(blocks)) throw new Refusal('invalid_blocks_format')
  if (blocks.length > maxBlocks) throw wrong(`no more than ${maxBlocks} items allowed`, '')
  let total = 0
  blocks.forEach((block: Body, index) => {
    if (typeof block?.['type'] !== 'string') throw wrong('missing required field: type', `/${index}`)
    const texts = textsOf(block)
    if (block['type'] === 'section') {
      if (texts.length === 0) throw wrong('missing required field: text', `/${index}`)
      const [first = ''] = texts
      if (first.length > maxSection)
        throw wrong(`must be less than ${maxSection + 1} characters`, `/${index}/text/text`)
    }
    total += texts.reduce((sum, text) => sum + text.length, 0)
  })
  if (total > maxInBlocks) throw new Refusal('msg_blocks_too_long')
}

/** All text in a block, in its order. */
function textsOf(part: unknown): string[] {
  if (part === null || typeof part !== 'object') return []
  return Object.entries(part).flatMap(([name, value]) =>
    name === 'text' && typeof value === 'string' ? [value] : textsOf(value),
  )
}

/** What Slack makes of names in a text when it is asked to. */
function linked(text: string, { link_names, parse }: Body): string {
  if (!isTrue(link_names) && parse !== 'full') return text
  return text.replace(/@(channel|here|everyone)\b/g, '<!$1>')
}

function isTrue(value: unknown): boolean {
  return value === true || value === 1 || value === 'true' || value === '1'
}

function micros(ts: string): bigint {
  const [seconds = '0', rest = ''] = ts.split('.')
  return (
    BigInt(seconds.replace(/\D/g, '') || 0) * 1_000_000n + BigInt(rest.padEnd(6, '0').slice(0, 6).replace(/\D/g, '0'))
  )
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

// ---- the page ------------------------------------------------------------------------------------------------------

/** Messages of a channel that the page shows, from the newest back. */
const pageMessages = 200

function section({ id, name, messages, isArchived }: Channel): string {
  const last = messages.slice(-pageMessages)
  const known = new Set(last.map(({ ts }) => ts))
  const top = last.filter(({ thread }) => thread === undefined || !known.has(thread))
  const threads = (ts: string) => last.filter(({ thread }) => thread === ts).map((one) => bubble(one, 'reply'))
  const body = top.flatMap((one) => [bubble(one, one.thread ? 'reply' : ''), ...threads(one.ts)])
  const older = messages.length - last.length
  return `<h2># ${html(name)}<code>${html(id)}</code></h2>
<p class="note">Slack${isArchived ? ', archived' : ''}${older > 0 ? `, ${older.toLocaleString('en')} older messages` : ''}</p>
<div class="channel">${body.join('\n') || '<p class="note">No message yet.</p>'}</div>`
}

function bubble({ ts, text, blocks, by, edited }: SlackPost, kind: string): string {
  const content = blocks ? blocks.map(block).join('') : `<p>${rendered(text)}</p>`
  const loud = content.includes('class="loud"') ? ' alarm' : ''
  const time = new Date(Number(ts) * 1000).toISOString().slice(11, 19)
  const author = { app: 'spillway', webhook: 'webhook', person: 'somebody' }[by]
  const app = by === 'person' ? '' : ' <em>APP</em>'
  return `<article class="${kind}${loud}"><b>${author}</b>${app} <time>${time}</time>${content}${edited ? '<small>(edited)</small>' : ''}</article>`
}

function block(part: object): string {
  const { type, text } = part as { type?: string; text?: { type?: string } }
  if (type === 'divider') return '<hr>'
  const shown = textsOf(part).map((one) => (text?.type === 'plain_text' ? html(one) : rendered(one)))
  const tag = type === 'header' ? 'h4' : 'p'
  return `<${tag}>${shown.join('<br>')}</${tag}>`
}

/** Slack's markup as HTML, roughly; what notifies people stands out. */
function rendered(text: string): string {
  return text
    .split(/(<[^<>]*>)/)
    .map((part) => (/^<.*>$/s.test(part) ? reference(part.slice(1, -1)) : styled(part)))
    .join('')
}

function reference(inner: string): string {
  const [target = '', label = ''] = inner.split(/\|(.*)/s)
  if (target.startsWith('!')) return `<mark class="loud">@${html(label || target.slice(1))}</mark>`
  if (target.startsWith('@')) return `<mark class="loud">@${html(label || target.slice(1))}</mark>`
  if (target.startsWith('#')) return `<mark>#${html(label || target.slice(1))}</mark>`
  const words = html(unescaped(label || target))
  return /^(https?:|mailto:|tel:)/.test(target)
    ? `<a href="${html(unescaped(target))}" rel="noreferrer">${words}</a>`
    : html(`<${inner}>`)
}

function styled(text: string): string {
  return html(unescaped(text))
    .replace(/```\n?(.*?)```/gs, '<code class="block">$1</code>')
    .replace(/`([^`\n]+)`/g, '<code>$1</code>')
    .replace(/(?<![\w*])\*([^*\n]+)\*(?![\w*])/g, '<strong>$1</strong>')
    .replace(/(?<![\w_])_([^_\n]+)_(?![\w_])/g, '<i>$1</i>')
    .replace(/(?<![\w~])~([^~\n]+)~(?![\w~])/g, '<s>$1</s>')
    .replaceAll('\n', '<br>')
}

function unescaped(text: string): string {
  return text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')
}

const style = `
.channel { max-width: 52em; margin-top: 8px; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.channel .note { padding: 4px 16px; }
article { padding: 6px 16px; border-left: 3px solid transparent; }
article:hover { background: var(--soft); }
article.reply { margin-left: 28px; border-left-color: var(--line); }
article.alarm { background: #fff8e1; border-left-color: #d9822b; }
article p, article h4 { margin: 0; overflow-wrap: anywhere; }
article em { padding: 0 4px; border-radius: 3px; background: var(--line); color: var(--faint); font-size: 10px; font-style: normal; }
article time, article small { color: var(--faint); font-size: 12px; }
article mark { padding: 0 2px; border-radius: 3px; background: #e8f1fd; color: var(--blue); }
article mark.loud { background: #ffe0a3; color: #8a4b00; font-weight: 600; }
article code { padding: 1px 4px; border: 1px solid var(--line); border-radius: 3px; background: var(--soft); color: #b3261e; font-size: 12px; }
article code.block { display: block; padding: 6px 8px; color: var(--ink); white-space: pre-wrap; }
`
