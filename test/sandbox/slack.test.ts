import { type ChatPostMessageArguments, WebClient } from '@slack/web-api'
import { type Sandbox, type SandboxOptions, sandbox } from 'spillway/sandbox'
import { afterEach, expect, test } from 'vitest'

let box: Sandbox

afterEach(() => box.close())

const id = 'C0ALERTS01'
const silent = () => {}
const logger = { debug: silent, info: silent, warn: silent, error: silent, setLevel: silent, setName: silent }

/** A sandbox with one channel, and Slack's own client for it. */
async function start(options: SandboxOptions = {}): Promise<WebClient> {
  box = await sandbox(options)
  box.slack.createChannel({ id, name: 'alerts' })
  return client(box.slack.token)
}

function client(token: string | undefined): WebClient {
  return new WebClient(token, {
    slackApiUrl: `${box.url}/api/`,
    retryConfig: { retries: 0 },
    rejectRateLimitedCalls: true,
    logger: { ...logger, getLevel: () => 'error' as never },
  })
}

/** Slack's error, as the client hands it on. */
async function refusal(
  promise: Promise<unknown>,
): Promise<{ error: string; response_metadata: { messages?: string[] } }> {
  const error = await promise.then(
    () => expect.fail('it was not refused'),
    (error) => error,
  )
  return error.data
}
const code = async (promise: Promise<unknown>) => (await refusal(promise)).error

test('a message is posted, read back, changed and deleted', async () => {
  const { chat, conversations } = await start()
  const metadata = { event_type: 'a_row', event_payload: { k: '1' } }
  const posted = await chat.postMessage({ channel: '#alerts', text: 'a', metadata })
  const { ts = '' } = posted
  expect(posted).toMatchObject({
    ok: true,
    channel: id,
    ts: expect.stringMatching(/^\d{10}\.\d{6}$/),
    message: { text: 'a' },
  })

  expect((await conversations.history({ channel: id })).messages).toEqual([expect.not.objectContaining({ metadata })])
  expect((await conversations.history({ channel: id, include_all_metadata: true })).messages).toEqual([
    expect.objectContaining({ text: 'a', ts, metadata }),
  ])

  const blocks = [{ type: 'divider' }]
  await chat.update({ channel: id, ts, text: 'b', blocks })
  expect(box.slack.messages('alerts')).toEqual([{ ts, text: 'b', blocks, metadata, edited: true, by: 'app' }])
  await chat.update({ channel: id, ts, text: 'c' })
  expect(box.slack.messages('alerts')).toEqual([{ ts, text: 'c', metadata, edited: true, by: 'app' }])

  expect(await chat.delete({ channel: id, ts })).toMatchObject({ ok: true, channel: id, ts })
  expect(await code(chat.delete({ channel: id, ts }))).toBe('message_not_found')
  expect(await code(chat.update({ channel: id, ts, text: 'x' }))).toBe('message_not_found')
  expect(box.slack.messages('alerts')).toEqual([])
})

test('JSON is taken as well as a form, and no two messages have the same ts', async () => {
  await start()
  const answers = await Promise.all(
    Array.from({ length: 20 }, async (_, number) => {
      const response = await fetch(`${box.url}/api/chat.postMessage`, {
        method: 'POST',
        headers: { authorization: `Bearer ${box.slack.token}`, 'content-type': 'application/json' },
        body: JSON.stringify({ channel: id, text: `n${number}`, blocks: [{ type: 'divider' }] }),
      })
      return (await response.json()) as { ts: string }
    }),
  )
  expect(new Set(answers.map(({ ts }) => ts)).size).toBe(20)
  expect(box.slack.messages(id)[0]?.blocks).toEqual([{ type: 'divider' }])
})

test('the history is newest first, in pages, without answers in threads, between two times', async () => {
  const { chat, conversations } = await start()
  const said = Array.from({ length: 5 }, (_, number) => box.slack.say('alerts', `n${number}`).ts)
  await chat.postMessage({ channel: id, text: 'answer', thread_ts: said[1]! })
  const texts = (messages: { text?: string }[] | undefined) => messages?.map(({ text }) => text)

  const first = await conversations.history({ channel: id, limit: 2 })
  expect([texts(first.messages), first.has_more]).toEqual([['n4', 'n3'], true])
  const cursor = first.response_metadata?.next_cursor ?? ''
  const rest = await conversations.history({ channel: id, limit: 9, cursor })
  expect([texts(rest.messages), rest.has_more, rest.response_metadata?.next_cursor]).toEqual([
    ['n2', 'n1', 'n0'],
    false,
    '',
  ])

  const between = { channel: id, oldest: said[1]!, latest: said[3]! }
  expect(texts((await conversations.history(between)).messages)).toEqual(['n2'])
  expect(texts((await conversations.history({ ...between, inclusive: true })).messages)).toEqual(['n3', 'n2', 'n1'])
})

test('a thread is its parent and the answers, oldest first; by the ts of an answer, only that', async () => {
  const { chat, conversations } = await start()
  const { ts } = box.slack.say('alerts', 'parent')
  const answer = await chat.postMessage({ channel: id, text: 'a', thread_ts: ts })
  await chat.postMessage({ channel: id, text: 'b', thread_ts: answer.ts! })
  const read = async (ts: string) =>
    (await conversations.replies({ channel: id, ts })).messages?.map(({ text, thread_ts }) => [text, thread_ts])
  expect(await read(ts)).toEqual([
    ['parent', ts],
    ['a', ts],
    ['b', ts],
  ])
  expect(await read(answer.ts!)).toEqual([['a', ts]])
  expect(await code(read('1.000001'))).toBe('thread_not_found')
})

test('channels are listed, described and joined', async () => {
  const { conversations, auth } = await start()
  box.slack.createChannel({ id: 'C0CLOSED01', name: 'closed', member: false })
  box.slack.createChannel({ id: 'C0PRIVATE1', name: 'private', private: true })
  box.slack.createChannel({ id: 'C0HIDDEN01', name: 'hidden', private: true, member: false })
  const names = async (types?: string) =>
    (await conversations.list(types ? { types } : {})).channels?.map(({ name }) => name)
  expect(await names()).toEqual(['alerts', 'closed'])
  expect(await names('public_channel,private_channel')).toEqual(['alerts', 'closed', 'private'])
  expect((await conversations.info({ channel: 'C0CLOSED01' })).channel).toMatchObject({
    name: 'closed',
    is_member: false,
  })
  await conversations.join({ channel: 'C0CLOSED01' })
  expect((await conversations.info({ channel: 'C0CLOSED01' })).channel?.is_member).toBe(true)
  expect(await code(conversations.join({ channel: 'C0PRIVATE1' }))).toBe('method_not_supported_for_channel_type')
  expect(await auth.test()).toMatchObject({ ok: true, team: 'Sandbox' })
})

const long = (length: number) => ({ type: 'section', text: { type: 'mrkdwn', text: 'x'.repeat(length) } })
const fifty = Array.from({ length: 50 }, () => ({ type: 'divider' }))

test.each<[string, object]>([
  ['no_text', { text: ' ' }],
  ['channel_not_found', { channel: 'C0NOWHERE1', text: 'a' }],
  ['not_in_channel', { channel: 'closed', text: 'a' }],
  ['is_archived', { channel: 'old', text: 'a' }],
  ['invalid_blocks', { blocks: [...fifty, { type: 'divider' }] }],
  ['invalid_blocks', { blocks: [long(3_001)] }],
  ['invalid_blocks', { blocks: [{ type: 'section' }] }],
  ['invalid_blocks', { blocks: [{}] }],
  ['invalid_blocks_format', { blocks: {} }],
  ['msg_blocks_too_long', { blocks: Array.from({ length: 5 }, () => long(3_000)) }],
  ['invalid_metadata_format', { text: 'a', metadata: { event_type: 'a' } }],
])('%s is refused, and nothing is posted', async (error, body) => {
  const { chat } = await start()
  box.slack.createChannel({ name: 'closed', member: false })
  box.slack.createChannel({ name: 'old' })
  box.slack.archive('old')
  expect(await code(chat.postMessage({ channel: id, ...body } as ChatPostMessageArguments))).toBe(error)
  expect(box.slack.messages(id)).toEqual([])
})

test('what is just within the limits is taken, and an error names its place', async () => {
  const { chat } = await start()
  await chat.postMessage({ channel: id, text: 'a', blocks: fifty })
  await chat.postMessage({ channel: id, text: 'a', blocks: [1, 2, 3, 4].map(() => long(3_000)) })
  expect(box.slack.messages(id)).toHaveLength(2)
  const { response_metadata } = await refusal(chat.postMessage({ channel: id, text: 'a', blocks: [long(3_001)] }))
  expect(response_metadata.messages).toEqual([
    '[ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]',
  ])
})

test('a text of more than 40,000 characters is cut, with a warning', async () => {
  const { chat } = await start()
  const whole = await chat.postMessage({ channel: id, text: 'x'.repeat(40_000) })
  expect(whole.response_metadata?.warnings).toBeUndefined()
  const cut = await chat.postMessage({ channel: id, text: 'x'.repeat(40_001) })
  expect(cut.response_metadata?.warnings).toEqual(['message_truncated'])
  expect(box.slack.messages(id).map(({ text }) => text.length)).toEqual([40_000, 40_000])
})

test('names become mentions only when that is asked for', async () => {
  const { chat } = await start()
  await chat.postMessage({ channel: id, text: '@channel' })
  await chat.postMessage({ channel: id, text: '@channel @ada', link_names: true })
  expect(box.slack.messages(id).map(({ text }) => text)).toEqual(['@channel', '<!channel> @ada'])
})

test('without a token, or with a wrong one, nothing is answered; another’s message cannot be changed', async () => {
  const { chat } = await start()
  expect(await code(client(undefined).auth.test())).toBe('not_authed')
  expect(await code(client('xoxb-wrong').auth.test())).toBe('invalid_auth')
  const { ts } = box.slack.say(id, 'mine')
  expect(await code(chat.update({ channel: id, ts, text: 'x' }))).toBe('cant_update_message')
  expect(await code(chat.delete({ channel: id, ts }))).toBe('cant_delete_message')
  expect(await code(chat.delete({ channel: 'alerts', ts }))).toBe('channel_not_found')
  expect(await code(client(box.slack.token).apiCall('chat.meMessage'))).toBe('unknown_method')
})

test('one message a second and channel: more are answered 429, and say how long to wait', async () => {
  const { chat } = await start({ slack: { messagesPerSecond: 1 } })
  box.slack.createChannel({ name: 'other' })
  await chat.postMessage({ channel: id, text: 'a' })
  await chat.postMessage({ channel: 'other', text: 'a' })
  const error = await chat.postMessage({ channel: id, text: 'b' }).catch((error) => error)
  expect(error).toMatchObject({ code: 'slack_webapi_rate_limited_error', retryAfter: 1 })
  expect(box.slack.messages(id)).toHaveLength(1)
  const headers = { 'content-type': 'application/json' }
  const webhook = await fetch(box.url + box.slack.webhook(id), { method: 'POST', headers, body: '{"text":"x"}' })
  expect([webhook.status, webhook.headers.get('retry-after'), await webhook.text()]).toEqual([429, '1', 'ratelimited'])
})

test('a fault speaks the words of Slack', async () => {
  const { auth } = await start()
  for (const [status, error] of Object.entries({
    500: 'internal_error',
    503: 'service_unavailable',
    429: 'ratelimited',
  })) {
    box.faults.next({ kind: 'status', status: Number(status) })
    const response = await fetch(`${box.url}/api/auth.test`, { method: 'POST' })
    expect([response.status, await response.json()]).toEqual([Number(status), { ok: false, error }])
  }
  box.faults.next({ kind: 'status', status: 200, reason: 'token_revoked' })
  expect(await code(auth.test())).toBe('token_revoked')
})

test('a webhook answers ok in plain text, as JSON or as a form', async () => {
  await start()
  const url = box.url + box.slack.webhook('alerts')
  const post = async (type: string, body: string, to = url) => {
    const response = await fetch(to, { method: 'POST', headers: { 'content-type': type }, body })
    return [response.status, response.headers.get('content-type'), await response.text()]
  }
  const plain = 'text/plain; charset=utf-8'
  const [json, form] = ['application/json', 'application/x-www-form-urlencoded']
  expect(await post(json, '{"text":"a"}')).toEqual([200, plain, 'ok'])
  expect(await post(form, `payload=${encodeURIComponent('{"text":"b & c"}')}`)).toEqual([200, plain, 'ok'])
  expect(box.slack.messages('alerts').map(({ text, by }) => [text, by])).toEqual([
    ['a', 'webhook'],
    ['b & c', 'webhook'],
  ])
  expect(await post(json, '{"text":""}')).toEqual([400, plain, 'no_text'])
  expect(await post(json, 'nonsense')).toEqual([400, plain, 'invalid_payload'])
  expect(await post(json, '{"text":"a"}', `${url}0`)).toEqual([404, plain, 'no_service'])
  box.slack.archive('alerts')
  expect(await post(json, '{"text":"a"}')).toEqual([410, plain, 'channel_is_archived'])
})

test('the page shows channels as a person sees them, and an accident stands out', async () => {
  const { chat } = await start()
  const { ts } = await chat.postMessage({
    channel: id,
    text: '*bold* <https://a.test?x=1&amp;y|a link> &lt;!channel&gt;',
  })
  await chat.postMessage({ channel: id, text: 'answer', thread_ts: ts! })
  const calm = await (await fetch(box.url)).text()
  expect(calm).toContain(
    '<strong>bold</strong> <a href="https://a.test?x=1&#38;y" rel="noreferrer">a link</a> &#60;!channel&#62;',
  )
  expect(calm).toMatch(/<article class="reply">.*answer/)
  expect(calm).toContain('# alerts')
  expect(calm).not.toContain('class="loud"')

  await chat.postMessage({ channel: id, text: 'hello <!channel> <@U1>' })
  const loud = await (await fetch(box.url)).text()
  expect(loud).toContain('<article class=" alarm">')
  expect(loud).toContain('<mark class="loud">@channel</mark> <mark class="loud">@U1</mark>')
})

test('what messages hold is no markup of the page', async () => {
  const { chat } = await start()
  const evil = `<script>alert(1)</script> <javascript:alert(1)|x> <https://a.test"onclick="x|y> "<b>`
  await chat.postMessage({ channel: id, text: evil })
  await chat.postMessage({
    channel: id,
    text: 'x',
    blocks: [{ type: 'header', text: { type: 'plain_text', text: evil } }],
  })
  box.slack.say(id, evil)
  box.slack.createChannel({ name: evil })
  const page = await (await fetch(box.url)).text()
  expect(page).not.toMatch(/<script|<javascript|<b>"|href="javascript|"onclick="/)
})
