import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import { createEmulator } from 'emulate'
import { ConfigError, FatalError, type Log, type Policy, type Run, type RunOptions, sync } from 'spillway'
import { mrkdwn, type SlackDigest, type SlackMessage, slack, slackWebhook } from 'spillway/destinations/slack'
import { type Fault, type Sandbox, type SlackPost, sandbox } from 'spillway/sandbox'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { definitionOf } from '../../src/destination.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

type Row = { id: number | string } & SlackMessage

let box: Sandbox
let state: string
/** What `map` makes of each row: rows themselves are kept as JSON, and markup is not. */
const messages = new Map<number | string, SlackMessage>()

beforeEach(async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0) // no backoff
  messages.clear()
  box = await sandbox()
  box.slack.createChannel({ id, name: 'alerts' })
  state = await stateFolder()
})
afterEach(async () => {
  vi.restoreAllMocks()
  vi.useRealTimers()
  await box.close()
})

const id = 'C0ALERTS01'
const posts = (channel = id): SlackPost[] => box.slack.messages(channel)
const texts = (channel = id): string[] => posts(channel).map(({ text }) => text)

/** No waiting between messages, nor for requests that land late, where none does. */
const quick: Policy = { rate: '1000/s', settle: '1ms' }

function alerts(options: { channel?: string; token?: string; endpoint?: string; policy?: Policy } = {}) {
  const { policy, ...rest } = options
  return slack({ channel: id, token: box.slack.token, endpoint: box.url, ...rest }).with({ ...quick, ...policy })
}

type Options = Parameters<typeof alerts>[0] & {
  mode?: 'append' | 'insert' | 'upsert' | 'mirror'
  log?: Log
  name?: string
}

function rows(from: Row[], { mode = 'append', log = quiet, name = 'alerts', ...options }: Options = {}) {
  const to = alerts(options)
  const shared = { name, ...kept(from), to, state, log }
  return mode === 'append' ? sync({ ...shared, mode }) : sync({ ...shared, mode, key: 'id', deleteCeiling: '100%' })
}
const send = (from: Row[], options: Options & { run?: RunOptions } = {}): Promise<Run> =>
  rows(from, options).run(options.run)

/** Rows that `map` makes into these messages. */
function kept(from: readonly Row[]) {
  for (const { id, ...message } of from) messages.set(id, message)
  return {
    from: from.map((row) => ({ id: row.id, shown: inspect(row, { depth: 9 }) + String(row.text) })),
    map: ({ id }: { id: number | string }) => messages.get(id)!,
  }
}
const numbered = (from: readonly SlackMessage[]): Row[] => from.map((message, id) => ({ id, ...message }))

function digest(from: readonly SlackMessage[], how: true | SlackDigest = true, policy: Policy = {}, log: Log = quiet) {
  const to = slack({ channel: id, digest: how, token: box.slack.token, endpoint: box.url }).with({
    ...quick,
    ...policy,
  })
  return sync({ name: 'digest', ...kept(numbered(from)), to, state, log, mode: 'append' })
}

async function reasons(sync: { deadLetters(): AsyncIterable<{ reason: string }> }): Promise<string[]> {
  const found: string[] = []
  for await (const { reason } of sync.deadLetters()) found.push(reason)
  return found
}

const to = (method: string) => (request: { path: string }) => request.path.endsWith(`/${method}`)
const asked = (method: string) => box.requests.filter(to(method))
const bodies = (method: string) => asked(method).map(({ body }) => body as Record<string, string>)

/** Says what was logged. */
function listening(): { log: Log; lines: string[] } {
  const lines: string[] = []
  const line = (message: string) => void lines.push(message)
  return { log: { debug: line, info: line, warn: line, error: line }, lines }
}

// ---- markup --------------------------------------------------------------------------------------------------------

const nasty = '<!channel> <@U1> <https://evil.test|bank> & "x"'
const safe = '&lt;!channel&gt; &lt;@U1&gt; &lt;https://evil.test|bank&gt; &amp; "x"'

test('what is interpolated into mrkdwn is text, and what mrkdwn has made is markup', () => {
  expect(String(mrkdwn`*${nasty}* <https://a.test|a> ${mrkdwn`<@${'U7'}>`}`)).toBe(`*${safe}* <https://a.test|a> <@U7>`)
})

test('values are written as they are: none rounded, null and undefined as nothing, lists as lines', () => {
  const values = [9_007_199_254_740_993n, '0.10', 0, false, null, undefined, new Date('2026-11-21T10:00:00.123Z')]
  expect(String(mrkdwn`${values}`)).toBe('9007199254740993\n0.10\n0\nfalse\n\n\n2026-11-21T10:00:00.123Z')
  expect(String(mrkdwn`a${undefined}b${null}c`)).toBe('abc')
})

test('an interpolated address is an address: it can neither notify nor change the words of its link', () => {
  expect(String(mrkdwn`<${'https://a.test/?a=1&b=2|<x>'}|open>`)).toBe('<https://a.test/?a=1&amp;b=2%7C&lt;x&gt;|open>')
  expect(String(mrkdwn`<${'mailto:a@b.test'}>`)).toBe('<mailto:a@b.test>')
  for (const url of ['!channel', '@U1', '', 'javascript:alert(1)', null]) {
    expect(() => mrkdwn`see <${url}|open>`).toThrow('mrkdwn: the address of a link is no address')
  }
})

test('a row whose link has no address is rejected alone, and the others are posted', async () => {
  const from = [{ url: '!channel' }, { url: 'https://a.test' }]
  const one = sync({
    name: 'a',
    from,
    to: alerts(),
    state,
    log: quiet,
    map: ({ url }) => ({ text: mrkdwn`<${url}|open>` }),
  })
  expect(await one.run()).toMatchObject({ delivered: 1, rejected: 1 })
  expect(texts()).toEqual(['<https://a.test|open>'])
  expect(await reasons(one)).toEqual(['map failed: mrkdwn: the address of a link is no address'])
})

test('plain text is escaped, and nothing in it is turned into a mention, a link or a picture', async () => {
  await send([{ id: 1, text: `@channel ${nasty}` }])
  expect(texts()).toEqual([`@channel ${safe}`])
  const page = await (await fetch(box.url)).text()
  expect(page).not.toContain('class="loud"')
  expect(bodies('chat.postMessage')).toEqual([
    expect.objectContaining({ link_names: 'false', parse: 'none', unfurl_links: 'false', unfurl_media: 'false' }),
  ])
})

test('in blocks, markup is safe by the same rule; plain_text and values of other fields are left alone', async () => {
  const blocks = [
    { type: 'header', text: { type: 'plain_text', text: 'a < b' } },
    { type: 'section', text: { type: 'mrkdwn', text: nasty }, fields: [{ type: 'mrkdwn', text: mrkdwn`<!here>` }] },
    { type: 'section', text: { type: 'mrkdwn', text: 'https://a.test', verbatim: false } },
    { type: 'markdown', text: nasty },
  ]
  await send([{ id: 1, text: 'all', blocks }])
  expect(posts()[0]?.blocks).toEqual([
    blocks[0],
    {
      type: 'section',
      text: { type: 'mrkdwn', text: safe, verbatim: true },
      fields: [{ type: 'mrkdwn', text: '<!here>', verbatim: true }],
    },
    { type: 'section', text: { type: 'mrkdwn', text: 'https://a.test', verbatim: false } },
    { type: 'markdown', text: safe },
  ])
})

// ---- messages ------------------------------------------------------------------------------------------------------

test('one message a row, in the order of the rows, to the channel by its name or id, or to that of the record', async () => {
  box.slack.createChannel({ id: 'C0OTHER001', name: 'other' })
  const from = Array.from({ length: 5 }, (_, row) => ({ id: row, text: `n${row}` }))
  await send([...from, { id: 5, text: 'elsewhere', channel: '#other' }, { id: 6, text: 'null', channel: null }], {
    channel: '#alerts',
  })
  expect(texts()).toEqual(['n0', 'n1', 'n2', 'n3', 'n4', 'null'])
  expect(texts('other')).toEqual(['elsewhere'])
  expect(box.requests).toHaveLength(7)
})

test('a message goes into the thread that its record names', async () => {
  const { ts } = box.slack.say('alerts', 'What is new?')
  await send([{ id: 1, text: 'This.', thread: ts }])
  expect(posts()[1]).toMatchObject({ text: 'This.', thread: ts })
})

test('records that are no messages are rejected with the reason, unsent', async () => {
  const blocks = Array.from({ length: 51 }, () => ({ type: 'divider' }))
  const wrong = [
    { text: ' ' },
    { text: 5 },
    { text: 'x', blocks },
    { text: 'x', blocks: [{}] },
    { text: 'x', thread: 'a' },
  ]
  const from = [
    ...wrong.map((one, id) => ({ id, ...one }) as never as Row),
    { id: 9, text: '', blocks: [{ type: 'divider' }] },
  ]
  const one = rows(from)
  expect(await one.run()).toMatchObject({ delivered: 1, rejected: 5 })
  const unfit = 'the record does not fit slack: '
  expect(await reasons(one)).toEqual([
    `${unfit}text is empty, and there are no blocks`,
    `${unfit}text: must be text, or markup that mrkdwn makes in map`,
    `${unfit}blocks: must be a list of at most 50 blocks, each with its type`,
    `${unfit}blocks: must be a list of at most 50 blocks, each with its type`,
    `${unfit}thread: must be the ts of a message, such as 1700000000.000100`,
  ])
  expect(box.requests).toHaveLength(1)
})

test('a long text is laid out in sections, cut neither within an entity nor within a link', async () => {
  const link = mrkdwn`<https://a.test/${'x'.repeat(40)}|a label of words>`
  await send([
    { id: 1, text: 'a'.repeat(4_000) },
    { id: 2, text: `${'a'.repeat(2_998)}<${'b'.repeat(3_000)}` },
    { id: 3, text: mrkdwn`${'a'.repeat(2_980)} ${link} ${'b'.repeat(2_000)}` },
    { id: 4, text: `${'a'.repeat(2_999)}😀${'b'.repeat(1_500)}` },
    { id: 5, text: `${'word '.repeat(590)}\nline\n${'word '.repeat(300)}` },
  ])
  const sections = posts().map(({ blocks }) => (blocks as { text: { text: string } }[])?.map(({ text }) => text.text))
  expect(sections[0]).toBeUndefined()
  expect(sections[1]).toEqual(['a'.repeat(2_998), `&lt;${'b'.repeat(2_996)}`, 'bbbb'])
  expect(sections[2]).toEqual([`${'a'.repeat(2_980)}`, `${link} ${'b'.repeat(2_000)}`])
  expect(sections[3]).toEqual(['a'.repeat(2_999), `😀${'b'.repeat(1_500)}`])
  expect(sections[4]?.[0]).toMatch(/line$/)
  expect(posts()[1]?.text.length).toBeLessThanOrEqual(4_000)
})

test('a text that no message holds is cut, and the log says so', async () => {
  const { log, lines } = listening()
  const run = await send([{ id: 1, text: `${'some words '.repeat(3_000)}` }], { log })
  expect(run.delivered).toBe(1)
  const blocks = posts()[0]!.blocks as { text: { text: string } }[]
  const all = blocks.map(({ text }) => text.text).join(' ')
  expect(all.length).toBeGreaterThan(11_900)
  expect(all.length).toBeLessThanOrEqual(12_000)
  expect(all).toMatch(/(some|words)\n…$/)
  expect(lines).toContain('slack: a text of 33000 characters was cut: a message holds 12000')
})

test('beside blocks, a text is cut at what Slack holds; and when Slack itself has cut one, the log says so', async () => {
  const blocks = [{ type: 'divider' }]
  await send([{ id: 1, text: `${'x'.repeat(39_999)}&&`, blocks }])
  expect(posts()[0]!.text).toBe('x'.repeat(39_999))

  const warned = { ok: true, channel: id, ts: '1.1', response_metadata: { warnings: ['message_truncated'] } }
  const { log, lines } = listening()
  await send([{ id: 1, text: 'a' }], { endpoint: await answering(warned), log, name: 'other' })
  expect(lines).toContain('slack: Slack has cut a message that is too long for it')
})

test('a success that does not tell which message it was is none', async () => {
  for (const [name, answer] of [{ ok: true }, { ok: true, ts: '1.1' }, {}, []].entries()) {
    const run = await send([{ id: 1, text: 'a' }], {
      endpoint: await answering(answer),
      name: `a${name}`,
      policy: { retryFor: '1ms' },
    })
    expect(run).toMatchObject({ delivered: 0, unknown: 1 })
  }
})

/** A server that always answers the same. */
async function answering(body: unknown): Promise<string> {
  const server = createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

// ---- rows that change ----------------------------------------------------------------------------------------------

test('a row that changes changes its message, one that goes takes it away, others are left alone', async () => {
  await send(
    [
      { id: 1, text: 'a' },
      { id: 2, text: 'b' },
      { id: 3, text: 'c' },
    ],
    { mode: 'mirror' },
  )
  const before = posts()
  const run = await send(
    [
      { id: 1, text: 'a' },
      { id: 3, text: 'C' },
      { id: 4, text: 'd' },
    ],
    { mode: 'mirror' },
  )
  expect(run).toMatchObject({ status: 'done', delivered: 2, unchanged: 1, deletes: { delivered: 1 } })
  expect(texts()).toEqual(['a', 'C', 'd'])
  expect(
    posts()
      .slice(0, 2)
      .map(({ ts }) => ts),
  ).toEqual([before[0]!.ts, before[2]!.ts])
  expect(box.requests.map(({ path }) => path.slice(5))).toEqual([
    ...Array(3).fill('chat.postMessage'),
    ...['chat.update', 'chat.postMessage', 'chat.delete'],
  ])
})

test('a message that gets short again loses the sections that it had', async () => {
  await send([{ id: 1, text: 'a '.repeat(3_000) }], { mode: 'upsert' })
  expect(posts()[0]?.blocks).toHaveLength(2)
  await send([{ id: 1, text: 'short' }], { mode: 'upsert' })
  expect(posts()).toEqual([expect.objectContaining({ text: 'short' })])
  expect(posts()[0]?.blocks).toBeUndefined()
})

test('a message that somebody deleted is posted anew when its row changes, and is done when its row goes', async () => {
  await send(
    [
      { id: 1, text: 'a' },
      { id: 2, text: 'b' },
    ],
    { mode: 'mirror' },
  )
  for (const { ts } of posts()) box.slack.remove(id, ts)
  const run = await send([{ id: 1, text: 'A' }], { mode: 'mirror' })
  expect(run).toMatchObject({ status: 'done', delivered: 1, deletes: { delivered: 1, rejected: 0 } })
  expect(texts()).toEqual(['A'])
  await send([{ id: 1, text: 'AA' }], { mode: 'mirror' })
  expect(texts()).toEqual(['AA'])
})

test('a message that was never posted by the sync cannot be deleted, and the reason says so', async () => {
  await rows(
    [
      { id: 1, text: 'a' },
      { id: 2, text: 'b' },
    ],
    { mode: 'mirror' },
  ).adopt()
  const next = rows([{ id: 2, text: 'b' }], { mode: 'mirror' })
  expect(await next.run({ allowRejections: true })).toMatchObject({ deletes: { rejected: 1 } })
  expect(await reasons(next)).toEqual(['there is no receipt that says which message it is: delete it by hand'])
})

// ---- answers that were lost ----------------------------------------------------------------------------------------

const lost: [string, Partial<Fault>][] = [
  ['the connection is cut before the message was posted', { kind: 'cut' }],
  ['the connection is cut after the message was posted', { kind: 'cut', applied: true }],
  ['fatal_error, nothing was posted', { kind: 'status', status: 200, reason: 'fatal_error' }],
  ['internal_error, and it was posted', { kind: 'status', status: 200, reason: 'internal_error', applied: true }],
]

describe.each(lost)('%s', (_, fault) => {
  test.each(['append', 'insert', 'upsert'] as const)('%s: there is exactly one message', async (mode) => {
    box.faults.next({ ...fault, when: to('chat.postMessage') } as Fault)
    const from = [
      { id: 1, text: 'same' },
      { id: 2, text: 'same' },
    ]
    expect(await send(from, { mode })).toMatchObject({ status: 'done', delivered: 2, resent: 0, unknown: 0 })
    expect(texts()).toEqual(['same', 'same'])
    expect(asked('conversations.history')).not.toHaveLength(0)
    if (mode !== 'upsert') return
    // receipts are right, though one was found by looking: each row changes its own message
    await send(
      [
        { id: 1, text: 'one' },
        { id: 2, text: 'two' },
      ],
      { mode },
    )
    expect(texts()).toEqual(['one', 'two'])
  })

  test('in a thread, there is exactly one answer', async () => {
    const { ts } = box.slack.say('alerts', 'parent')
    box.faults.next({ ...fault, when: to('chat.postMessage') } as Fault)
    expect(await send([{ id: 1, text: 'a', thread: ts }], { mode: 'upsert' })).toMatchObject({ delivered: 1 })
    expect(texts()).toEqual(['parent', 'a'])
    expect(asked('conversations.replies')).not.toHaveLength(0)
  })

  test('a digest: there is exactly one', async () => {
    box.faults.next({ ...fault, when: to('chat.postMessage') } as Fault)
    expect(await digest([{ text: 'a' }, { text: 'b' }]).run()).toMatchObject({ status: 'done', delivered: 2 })
    expect(texts()).toEqual(['a\nb'])
  })

  test.each(['chat.update', 'chat.delete'])('%s: it is done in the end, once', async (method) => {
    await send(
      [
        { id: 1, text: 'a' },
        { id: 2, text: 'b' },
      ],
      { mode: 'mirror' },
    )
    box.faults.next({ ...fault, when: to(method) } as Fault)
    const from =
      method === 'chat.update'
        ? [
            { id: 1, text: 'A' },
            { id: 2, text: 'b' },
          ]
        : [{ id: 1, text: 'a' }]
    expect(await send(from, { mode: 'mirror' })).toMatchObject({ status: 'done' })
    expect(texts()).toEqual(from.map(({ text }) => text))
    expect(asked('chat.postMessage')).toHaveLength(2)
    expect(asked(method)).toHaveLength(fault.applied ? 1 : 2)
  })
})

test.each([true, false])(
  'a server in trouble may have posted it, applied %s: there is exactly one message',
  async (applied) => {
    box.faults.next({ kind: 'status', status: applied ? 500 : 503, applied })
    expect(await send([{ id: 1, text: 'a' }])).toMatchObject({ status: 'done', delivered: 1 })
    expect(texts()).toEqual(['a'])
  },
)

/** A run that is over before the answer of its first request to `method` is there, as if the process had died. */
async function broken(from: Row[], method: string, applied: boolean, options: Options): Promise<Run> {
  box.faults.next({ kind: 'cut', applied, when: to(method) })
  box.faults.next({ kind: 'status', status: 503, times: Number.POSITIVE_INFINITY, when: to('conversations.history') })
  box.faults.next({ kind: 'status', status: 503, times: Number.POSITIVE_INFINITY, when: to('conversations.replies') })
  const run = await send(from, { ...options, policy: { retryFor: '1ms' } })
  box.faults.clear()
  return run
}

describe.each(['append', 'insert', 'upsert'] as const)('%s: a run that ended without the answer', (mode) => {
  test.each([true, false])('applied: %s. The next one finds out', async (applied) => {
    const from = [{ id: 1, text: 'a' }]
    expect(await broken(from, 'chat.postMessage', applied, { mode })).toMatchObject({
      status: 'incomplete',
      unknown: 1,
    })
    expect(texts()).toHaveLength(applied ? 1 : 0)
    for (let number = 0; number < 150; number++) box.slack.say('alerts', 'meanwhile')
    await send(from, { mode })
    expect(texts().filter((text) => text === 'a')).toHaveLength(1)
    expect(asked('chat.postMessage')).toHaveLength(applied ? 1 : 2)
  })
})

test('a row that has changed since its answer was lost changes the message that it has got', async () => {
  await broken([{ id: 1, text: 'old' }], 'chat.postMessage', true, { mode: 'upsert' })
  expect(await send([{ id: 1, text: 'new' }], { mode: 'upsert' })).toMatchObject({ status: 'done', delivered: 1 })
  expect(texts()).toEqual(['new'])
})

test('a row that has gone since its answer was lost takes the message with it that it has got', async () => {
  await broken(
    [
      { id: 1, text: 'old' },
      { id: 2, text: 'b' },
    ],
    'chat.postMessage',
    true,
    { mode: 'mirror' },
  )
  const run = await send([{ id: 2, text: 'b' }], { mode: 'mirror', run: { allowDeletes: true } })
  expect(run).toMatchObject({ status: 'done' })
  expect(texts()).toEqual(['b'])
})

test('the message is looked for on every page of the history, by the id of the channel', async () => {
  for (let number = 0; number < 1_200; number++) {
    if (number === 100)
      await broken([{ id: 1, text: 'a' }], 'chat.postMessage', true, { mode: 'insert', channel: '#alerts' })
    box.slack.say('alerts', 'noise')
  }
  expect(await send([{ id: 1, text: 'a' }], { mode: 'insert', channel: '#alerts' })).toMatchObject({ status: 'done' })
  expect(texts().filter((text) => text === 'a')).toHaveLength(1)
  expect(asked('conversations.list')).not.toHaveLength(0)
  expect(
    bodies('conversations.history')
      .slice(-2)
      .map(({ cursor = '' }) => cursor === ''),
  ).toEqual([true, false])
})

test.each(['missing_scope', 'not_in_channel', 'invalid_arguments'])(
  'without rights to look (%s), the run says what is wrong at once, and the next one finds out',
  async (reason) => {
    box.faults.next({ kind: 'cut', applied: true, when: to('chat.postMessage') })
    box.faults.next({ kind: 'status', status: 200, reason, when: to('conversations.history') })
    await expect(send([{ id: 1, text: 'a' }])).rejects.toThrow(`slack: ${reason}`)
    await send([{ id: 1, text: 'a' }])
    expect(texts()).toEqual(['a'])
  },
)

test('what messages carry holds nothing of the row', async () => {
  await send([{ id: 'ada@x.test', text: 'secret' }], { mode: 'upsert' })
  const { metadata } = posts()[0]!
  expect(metadata).toEqual({
    event_type: 'spillway_row',
    event_payload: { row: expect.stringMatching(/^[0-9a-f]{32}$/), value: expect.stringMatching(/^[0-9a-f]{32}$/) },
  })
})

// ---- digests -------------------------------------------------------------------------------------------------------

test('a digest is one message for many rows, with its title: 1,000 rows in ten requests', async () => {
  const from = Array.from({ length: 1_000 }, (_, row) => ({ text: mrkdwn`*metric ${row}* is ${row}, expected <b>` }))
  expect(await digest(from, { title: 'Anomalies & <more>' }).run()).toMatchObject({ status: 'done', delivered: 1_000 })
  expect(box.requests).toHaveLength(10)
  const lines = posts().flatMap(({ text, blocks }) => shownOf(text, blocks).split('\n'))
  expect(lines[0]).toBe('*Anomalies &amp; &lt;more&gt;*')
  expect(lines.filter((line) => line.startsWith('*metric'))).toHaveLength(1_000)
})

test('1,000 rows of 200 characters cost at most 20 requests, and no line is lost', async () => {
  const from = Array.from({ length: 1_000 }, (_, row) => ({ text: `${row} `.padEnd(200, 'x') }))
  const { log, lines } = listening()
  await digest(from, { title: 'Long' }, {}, log).run()
  expect(box.requests.length).toBeLessThanOrEqual(20)
  const found = posts().flatMap(({ text, blocks }) => shownOf(text, blocks).split('\n'))
  expect(found.filter((line) => line.length === 200)).toEqual(from.map(({ text }) => text))
  expect(lines).toEqual([])
})

function shownOf(text: string, blocks: readonly object[] | undefined): string {
  return blocks ? (blocks as { text: { text: string } }[]).map((block) => block.text.text).join('\n') : text
}

test('in a digest, a row with blocks, channel or thread is rejected alone', async () => {
  const one = digest([
    { text: 'a' },
    { text: 'b', channel: id },
    { text: 'c', blocks: [{ type: 'divider' }] },
    { text: 'd' },
  ])
  expect(await one.run()).toMatchObject({ delivered: 2, rejected: 2 })
  expect(texts()).toEqual(['a\nd'])
  expect(await reasons(one)).toContain('a digest is made of texts: leave blocks, channel and thread out')
})

// ---- errors --------------------------------------------------------------------------------------------------------

test.each([429, 'ratelimited', 'rate_limited', 'service_unavailable', 'request_timeout'])(
  '%s: nothing was posted, and it is posted again without a look',
  async (error) => {
    const fault = typeof error === 'number' ? { status: error, retryAfter: 0 } : { status: 200, reason: error }
    box.faults.next({ kind: 'status', ...fault })
    expect(await send([{ id: 1, text: 'a' }])).toMatchObject({ status: 'done', delivered: 1 })
    expect(texts()).toEqual(['a'])
    expect(box.requests).toHaveLength(2)
  },
)

test('the wait that Slack asks for is kept', async () => {
  box.faults.next({ kind: 'status', status: 429, retryAfter: 1 })
  const begun = performance.now()
  await send([{ id: 1, text: 'a' }])
  expect(performance.now() - begun).toBeGreaterThan(990)
  expect(texts()).toEqual(['a'])
})

test.each([
  'channel_not_found',
  'not_in_channel',
  'is_archived',
  'restricted_action',
  'invalid_blocks',
  'msg_too_long',
  'made_up_tomorrow',
])('%s refuses one row, once, and not the others', async (reason) => {
  box.faults.next({ kind: 'status', status: 200, reason, when: ({ body }) => JSON.stringify(body).includes('wrong') })
  const one = rows([
    { id: 1, text: 'a' },
    { id: 2, text: 'wrong' },
    { id: 3, text: 'c' },
  ])
  expect(await one.run()).toMatchObject({ status: 'done', delivered: 2, rejected: 1 })
  expect(texts()).toEqual(['a', 'c'])
  expect((await reasons(one))[0]).toMatch(new RegExp(`^slack: ${reason}`))
  expect(asked('chat.postMessage')).toHaveLength(3)
})

test('the reason of a refusal is that of Slack, and names the next step', async () => {
  box.slack.createChannel({ name: 'closed', member: false })
  const long = { type: 'section', text: { type: 'mrkdwn', text: 'x'.repeat(3_001) } }
  const one = rows([
    { id: 1, text: 'a' },
    { id: 2, text: 'b', channel: 'closed' },
    { id: 3, text: 'c', blocks: [long] },
  ])
  await one.run()
  expect(await reasons(one)).toEqual([
    'slack: not_in_channel; invite the app to the channel: /invite @app',
    'slack: invalid_blocks: [ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]',
  ])
})

test.each(['invalid_auth', 'not_authed', 'token_revoked', 'token_expired', 'account_inactive', 'missing_scope'])(
  '%s stops the run, and all rows stay pending',
  async (reason) => {
    box.faults.next({ kind: 'status', status: 200, reason })
    const one = rows([
      { id: 1, text: 'a' },
      { id: 2, text: 'b' },
    ])
    await expect(one.run()).rejects.toThrow(`slack: ${reason}; check the token`)
    expect(box.requests).toHaveLength(1)
    expect(await send([])).toMatchObject({ resumed: { delivered: 2 } })
    expect(texts()).toEqual(['a', 'b'])
  },
)

test('a wrong token shows up nowhere', async () => {
  const token = 'xoxb-12345-abcdefgh'
  const { log, lines } = listening()
  const printed = (['debug', 'log', 'info', 'warn', 'error'] as const).map((level) => vi.spyOn(console, level))
  const error = await send([{ id: 1, text: 'a customer' }], { token, log }).catch((error) => error)
  expect(error).toBeInstanceOf(FatalError)
  expect(`${inspect(error, { depth: 9, showHidden: true })}${lines}`).not.toMatch(/xoxb-1|a customer/)
  for (const print of printed) expect(print).not.toHaveBeenCalled()
})

test('a web page with status 200 is no success: the run stops, and the next one finds out', async () => {
  box.faults.next({ kind: 'html', applied: true })
  await expect(send([{ id: 1, text: 'a' }], { mode: 'insert' })).rejects.toThrow('slack: 200, but not from Slack')
  expect(await send([{ id: 1, text: 'a' }], { mode: 'insert' })).toMatchObject({ status: 'done' })
  expect(texts()).toEqual(['a'])
})

test('a server that is not there has been sent nothing', async () => {
  const run = await send([{ id: 1, text: 'a' }], { endpoint: 'http://127.0.0.1:9', policy: { retryFor: '1ms' } })
  expect(run).toMatchObject({ status: 'incomplete', pending: 1, unknown: 0 })
})

test('a call that takes too long is cut off, and looked for', async () => {
  box.faults.next({ kind: 'delay', delay: '1h', applied: true, when: to('chat.postMessage') })
  const policy = { timeout: '300ms' } as const
  expect(await send([{ id: 1, text: 'a' }], { policy })).toMatchObject({ status: 'done', delivered: 1 })
  expect(texts()).toEqual(['a'])
  expect(asked('chat.postMessage')).toHaveLength(1)
})

test.each([
  () => slack({ channel: '#people', token: 'xoxb-test' }),
  () => slackWebhook({ webhook: 'https://hooks.slack.com/services/T0/B0/x', onUnknown: 'hold' }),
])('a call posts one message, and a larger batchSize is refused: %#', (make) => {
  expect(() => make().with({ batchSize: 2 })).toThrow('batchSize is 2; it must be at most 1')
})

test.each([
  [() => slack({ channel: '' }), 'slack: channel is empty'],
  [() => slackWebhook({} as never), "slack-webhook: onUnknown is missing: say 'resend' or 'hold'"],
  [() => slackWebhook({ onUnknown: 'never' as never }), 'slack-webhook: onUnknown is "never"'],
])('an option that cannot work is refused: %#', (make, message) => {
  expect(make).toThrow(ConfigError)
  expect(make).toThrow(message)
})

test('config that cannot work is refused before anything is sent', async () => {
  await expect(send([{ id: 1, text: 'a' }], { token: ' ' })).rejects.toThrow('token: must be a token')
  await expect(send([{ id: 1, text: 'a' }], { endpoint: 'here' })).rejects.toThrow('endpoint: must be the address')
  expect(box.requests).toHaveLength(0)
})

// ---- pace ----------------------------------------------------------------------------------------------------------

test('one message a second and channel is what Slack allows, and what is kept to', async () => {
  await using strict = await sandbox({ slack: { messagesPerSecond: 1 } })
  strict.slack.createChannel({ id, name: 'alerts' })
  const to = slack({ channel: id, token: strict.slack.token, endpoint: strict.url })
  const from = ['a', 'b', 'c'].map((text) => ({ text }))
  const run = await sync({ name: 'paced', from, to, state, log: quiet, map: (row) => row }).run()
  expect(run.delivered).toBe(3)
  expect(run.duration).toBeGreaterThan(1_990)
  expect(strict.requests.map(({ status }) => status)).toEqual([200, 200, 200])
})

test('a pace that is too fast for Slack loses nothing and repeats nothing', async () => {
  await using strict = await sandbox({ slack: { messagesPerSecond: 1 } })
  strict.slack.createChannel({ id, name: 'alerts' })
  const to = slack({ channel: id, token: strict.slack.token, endpoint: strict.url }).with({ rate: '100/s' })
  const from = ['a', 'b', 'c'].map((text) => ({ text }))
  await sync({ name: 'fast', from, to, state, log: quiet, map: (row) => row }).run()
  expect(strict.slack.messages(id).map(({ text }) => text)).toEqual(['a', 'b', 'c'])
  expect(strict.requests.some(({ status }) => status === 429)).toBe(true)
})

// ---- webhooks ------------------------------------------------------------------------------------------------------

function hook(
  from: SlackMessage[],
  onUnknown: 'resend' | 'hold' = 'resend',
  webhook = box.url + box.slack.webhook(id),
  log = quiet,
) {
  const to = slackWebhook({ webhook, onUnknown }).with(quick)
  return sync({ name: 'hook', ...kept(numbered(from)), to, state, log })
}

test('a webhook posts a message for each row, as safe as any', async () => {
  const { ts } = box.slack.say(id, 'parent')
  const from = [{ text: `@channel ${nasty}` }, { text: mrkdwn`<!here>`, thread: ts }, { text: 'x '.repeat(3_000) }]
  expect(await hook(from).run()).toMatchObject({ status: 'done', delivered: 3 })
  expect(posts().slice(1)).toMatchObject([
    { text: `@channel ${safe}`, by: 'webhook' },
    { text: '<!here>', thread: ts },
    {},
  ])
  expect(posts()[3]?.blocks).toHaveLength(2)
})

test('a webhook has its own channel', async () => {
  const one = hook([{ text: 'a' }, { text: 'b', channel: '#other' }])
  expect(await one.run()).toMatchObject({ delivered: 1, rejected: 1 })
  expect(await reasons(one)).toEqual(['a webhook posts to its own channel: leave channel out, or use slack()'])
})

test.each([
  ['resend', true, 2],
  ['resend', false, 1],
  ['hold', true, 1],
  ['hold', false, 0],
] as const)('a lost answer of a webhook: %s, applied %s', async (onUnknown, applied, count) => {
  box.faults.next({ kind: 'cut', applied })
  const run = await hook([{ text: 'a' }], onUnknown).run()
  expect(run).toMatchObject(onUnknown === 'hold' ? { unknown: 1, resent: 0 } : { delivered: 1, resent: 1 })
  expect(texts()).toHaveLength(count)
})

test('a webhook that is gone stops the run, and a refused message does not', async () => {
  const webhook = `${box.url}/services/T0SANDBOX/B0WEBHOOK/0123456789abcdef`
  const { log, lines } = listening()
  const error = await hook([{ text: 'a' }], 'resend', webhook, log)
    .run()
    .catch((error) => error)
  expect(error).toBeInstanceOf(FatalError)
  expect(error.message).toContain('no_service; make a new webhook'.slice(0, 10))
  expect(error.message).toContain('make a new webhook')
  expect(`${inspect(error, { depth: 9, showHidden: true })}${lines}`).not.toContain('0123456789abcdef')
  const one = sync({
    name: 'other',
    from: [{ text: 'a', blocks: [{ type: 'section' }] }, { text: 'b' }],
    to: slackWebhook({ webhook: box.url + box.slack.webhook(id), onUnknown: 'hold' }).with(quick),
    state,
    log: quiet,
    map: (row) => row,
  })
  expect(await one.run()).toMatchObject({ delivered: 1, rejected: 1 })
})

test('a web page is no success of a webhook, and its error does not tell the address', async () => {
  box.faults.next({ kind: 'html' })
  const path = box.slack.webhook(id)
  const page = await hook([{ text: 'c' }], 'hold', box.url + path)
    .run()
    .catch((error) => error)
  expect(page.message).toContain('slack: 200, but not from Slack')
  expect(inspect(page, { depth: 9, showHidden: true })).not.toContain(path.split('/').at(-1))
})

test('the address of a webhook shows up nowhere, however it is written', async () => {
  const path = box.slack.webhook(id)
  const webhook = ` ${(box.url + path).replace('http:', 'HTTP:')}\n`
  const { log, lines } = listening()
  box.faults.next({ kind: 'cut', applied: true })
  const one = hook([{ text: 'a' }], 'hold', webhook, log)
  const run = await one.run()
  expect(run.unknown).toBe(1)
  expect(`${inspect(run)}${lines}${inspect(one, { depth: 9 })}`).not.toContain(path.split('/').at(-1))
  expect(lines.join()).toContain('[redacted]')
})

test('another webhook is another target, and the address is not in the state', () => {
  const target = (webhook: string) => definitionOf(slackWebhook({ onUnknown: 'hold' }), '').target({ webhook })
  expect(target('https://a.test/1')).not.toBe(target('https://a.test/2'))
  expect(target('https://a.test/1')).not.toContain('a.test')
})

// ---- a stand-in made by others -------------------------------------------------------------------------------------

describe('against emulate', () => {
  async function emulated(): Promise<{
    endpoint: string
    channel: string
    read(): Promise<{ text: string; ts: string }[]>
  }> {
    const emulator = await createEmulator({ service: 'slack', port: await freePort() })
    onTestFinished(() => emulator.close())
    const call = async (method: string, body: object) => {
      const response = await fetch(`${emulator.url}/api/${method}`, {
        method: 'POST',
        headers: { authorization: 'Bearer xoxb-test', 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
      return (await response.json()) as {
        channels: { id: string; name: string }[]
        messages: { text: string; ts: string }[]
      }
    }
    const { channels } = await call('conversations.list', {})
    const channel = channels.find(({ name }) => name === 'general')!.id
    const read = async () => (await call('conversations.history', { channel, limit: 999 })).messages.reverse()
    const before = (await read()).length
    return { endpoint: emulator.url, channel, read: async () => (await read()).slice(before) }
  }

  async function freePort(): Promise<number> {
    const server = await sandbox()
    const { port } = new URL(server.url)
    await server.close()
    return Number(port)
  }

  test('messages are posted, changed and deleted', async () => {
    const { endpoint, channel, read } = await emulated()
    const options = { endpoint, channel, token: 'xoxb-test', mode: 'mirror' } as const
    await send(
      [
        { id: 1, text: nasty },
        { id: 2, text: 'b' },
        { id: 3, text: 'c' },
      ],
      options,
    )
    expect((await read()).map(({ text }) => text)).toEqual([safe, 'b', 'c'])
    await send(
      [
        { id: 1, text: nasty },
        { id: 3, text: 'C' },
      ],
      options,
    )
    expect((await read()).map(({ text }) => text)).toEqual([safe, 'C'])
  })

  /** Passes requests on, and cuts the first that posts off: before it has arrived there, or after. */
  async function cutting(endpoint: string, applied: boolean): Promise<string> {
    let cut = false
    const proxy = createServer(async (request, response) => {
      const parts: Buffer[] = []
      for await (const part of request) parts.push(part)
      const cutsNow = !cut && request.url === '/api/chat.postMessage'
      cut ||= cutsNow
      if (cutsNow && !applied) return void response.destroy()
      const { authorization = '', 'content-type': type = '' } = request.headers
      const headers = { authorization, 'content-type': type }
      const answer = await fetch(endpoint + request.url, { method: 'POST', headers, body: Buffer.concat(parts) })
      const text = await answer.text()
      if (cutsNow) return void response.destroy()
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text)
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void proxy.close())
    return `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
  }

  test.each([
    ['upsert', true],
    ['upsert', false],
    ['append', true],
    ['append', false],
  ] as const)('%s: a connection cut, applied %s, ends in exactly one message', async (mode, applied) => {
    const { endpoint, channel, read } = await emulated()
    const through = { endpoint: await cutting(endpoint, applied), channel, token: 'xoxb-test', mode }
    expect(await send([{ id: 1, text: 'a' }], through)).toMatchObject({ status: 'done', delivered: 1 })
    expect((await read()).map(({ text }) => text)).toEqual(['a'])
  })
})
