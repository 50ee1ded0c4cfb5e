import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AnyRow, ConfigError, Instant, type Mode, type Policy, type Run, secret, sync } from 'spillway'
import { type NotionOptions, notion } from 'spillway/destinations/notion'
import {
  type ApiRequest,
  type NotionDatabaseOptions,
  type NotionSandboxOptions,
  type Sandbox,
  sandbox,
} from 'spillway/sandbox'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

let box: Sandbox
let state: string
/** The data source that the tests write to. */
let leads: string

const properties = {
  Name: 'title',
  Note: 'rich_text',
  Score: 'number',
  Stage: { select: ['new'] },
  Tags: { multi_select: ['a'] },
  State: { status: ['open', 'done'] },
  Due: 'date',
  Active: 'checkbox',
  Site: 'url',
  Mail: 'email',
  Phone: 'phone_number',
  Parent: 'relation',
  Owner: 'people',
} as const

async function start(options: NotionSandboxOptions = {}, database: NotionDatabaseOptions = {}): Promise<void> {
  await box?.close()
  box = await sandbox({ notion: options, log: 5000 })
  leads = box.notion.createDatabase({ title: 'Leads', properties, ...database }).dataSources[0]!
}

beforeEach(async () => {
  state = mkdtempSync(join(tmpdir(), 'notion-'))
  await start()
})
afterEach(async () => {
  vi.restoreAllMocks()
  await box.close()
  rmSync(state, { recursive: true })
})

const warnings: string[] = []
const log = { debug() {}, info() {}, warn: (message: string) => void warnings.push(message), error() {} }
/** No waiting: neither for the rate, nor for requests that land late. */
const quick: Policy = { rate: '9000/s', settle: '1ms' }

type Sending = Partial<NotionOptions> & { key?: string | string[]; mode?: Mode; policy?: Policy; name?: string }

function syncOf(records: AnyRow[], { key, mode, policy, name = 'leads', ...options }: Sending) {
  const place = 'database' in options ? {} : { dataSource: leads }
  const to = notion({ ...place, endpoint: box.url, token: box.notion.token, ...options }).with({ ...quick, ...policy })
  // biome-ignore lint/suspicious/noExplicitAny: the tests choose the mode at run time
  return sync({ name, from: records, to, state, log, ...(key && { key }), ...(mode && { mode }) } as any)
}

/** Sends records in `append`, or in `upsert` when there is a key. */
const send = (records: AnyRow[], sending: Sending = {}): Promise<Run> => syncOf(records, sending).run()

const rows = () => box.notion.rows(leads)
const names = () => rows().map(({ Name }) => Name)

async function reasons(sending: Sending = {}): Promise<string[]> {
  const found: string[] = []
  for await (const { reason } of syncOf([], sending).deadLetters()) found.push(reason)
  return found
}

type Seen = Pick<ApiRequest, 'method' | 'path'>
const creates = ({ method, path }: Seen) => method === 'POST' && path === '/v1/pages'
const queries = ({ path }: Seen) => path.endsWith('/query')
const changes = ({ method }: Seen) => method === 'PATCH'
const count = (which: (request: Seen) => boolean) => box.requests.filter(which).length

// ---- values --------------------------------------------------------------------------------------------------------

test('every type of property takes its values', async () => {
  const [parent, owner] = ['0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9', '1a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9']
  const ada = {
    Name: 'Ada',
    Note: 'x',
    Score: 1.5,
    Stage: 'won',
    Tags: ['a', 'b'],
    State: 'done',
    Due: '2026-11-21',
    Active: true,
    Site: 'https://example.com',
    Mail: 'ada@example.com',
    Phone: '+49 1',
    Parent: [parent],
    Owner: [owner],
  }
  expect(await send([ada])).toMatchObject({ status: 'done', delivered: 1 })
  expect(rows()).toEqual([ada])
})

test('null clears, an absent field leaves alone, and 0, false and a blank text are values', async () => {
  const full = { Note: 'x', Score: 7, Stage: 'new', Tags: ['a'], State: 'open', Due: '2026-11-21', Active: true }
  const more = { Site: 'https://example.com', Mail: 'a@b.c', Phone: '1' }
  for (const Name of ['null', 'absent', 'values']) box.notion.addPage(leads, { Name, ...full, ...more })
  const nulls = Object.fromEntries(Object.keys({ ...full, ...more, Parent: 1, Owner: 1 }).map((name) => [name, null]))
  await send([{ Name: 'null', ...nulls }, { Name: 'absent' }, { Name: 'values', Score: 0, Active: false, Note: '' }], {
    key: 'Name',
  })
  const [cleared, left, values] = rows()
  const blank = { Note: '', Score: null, Stage: null, Tags: [], State: null, Due: null, Active: false }
  expect(cleared).toMatchObject({ ...blank, Site: null, Mail: null, Phone: null, Parent: [], Owner: [] })
  expect(left).toMatchObject({ ...full, ...more })
  expect(values).toMatchObject({ ...full, ...more, Score: 0, Active: false, Note: '' })
})

test('text is cut into runs of 2,000 that break no character in two, and arrives whole', async () => {
  const text = `${'x'.repeat(1999)}😀${'y'.repeat(4000)}`
  await send([{ Name: text, Note: text }])
  expect(rows()).toMatchObject([{ Name: text, Note: text }])
  const { properties } = box.requests.find(creates)!.body as {
    properties: { Note: { rich_text: { text: { content: string } }[] } }
  }
  const runs = properties.Note.rich_text.map(({ text }) => text.content)
  expect(runs.map(({ length }) => length)).toEqual([1999, 2000, 2000, 2])
  expect(runs[1]!.startsWith('😀')).toBe(true)
})

test('what Notion cannot hold is rejected with a reason, and the rest is delivered', async () => {
  const unfit: [AnyRow, RegExp][] = [
    [{ Note: 'x'.repeat(200_001) }, /^Note: a text of 200001 characters/],
    [{ Note: `${`x${'😀'.repeat(1000)}`.repeat(99)}${'y'.repeat(1901)}` }, /^Note: a text of 101 runs/],
    [{ Note: 'half \ud83d' }, /^Note: a text with half a character/],
    [{ Note: { a: 1 } }, /^Note: it takes a text, not a value of type object/],
    [{ Site: `https://${'x'.repeat(2000)}` }, /^Site: a text of 2008 characters, where Notion takes 2000/],
    [{ Mail: 'x'.repeat(201) }, /^Mail: /],
    [{ Phone: 'x'.repeat(201) }, /^Phone: /],
    [{ Tags: 'a' }, /^Tags: it takes a list/],
    [{ Parent: Array(101).fill('0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9') }, /^Parent: 101 entries/],
    [{ Active: 1 }, /^Active: it takes true or false/],
    [{ Score: 2n ** 53n + 1n }, /^Score: a number with more digits/],
    [{ Score: '0.12345678901234567890' }, /^Score: a number with more digits/],
    [{ Score: 'many' }, /^Score: it takes a number/],
    [{ Score: '' }, /^Score: it takes a number/],
    [{ Score: Number.NaN }, /^Score: it takes a number/],
    [{ Due: '21.11.2026' }, /^Due: it takes a Date/],
    [{ Due: new Date(Number.NaN) }, /^Due: it takes a Date/],
    [{ State: 'nowhere' }, /^Invalid status option\. Status option "nowhere" does not exist\.$/],
    [{ Stage: 'a, b' }, /commas not allowed/],
  ]
  const bad = unfit.map(([record], index) => ({ Name: `bad ${index}`, ...record }))
  const run = await send([{ Name: 'first' }, ...bad, { Name: 'last' }])
  expect(run).toMatchObject({ status: 'done', delivered: 2, rejected: unfit.length })
  expect(names()).toEqual(['first', 'last'])
  const said = await reasons()
  unfit.forEach(([, reason], index) => {
    expect(said[index]).toMatch(reason)
  })
})

test('numbers arrive with all their digits, or as text where the property is one', async () => {
  await send([
    { Name: '12.30', Score: '12.30', Note: '12.30' },
    { Name: 'big', Score: 9007199254740992n, Note: 9007199254740993n },
    { Name: 'small', Score: '-0.0000001', Note: 1e-7 },
    { Name: 'long', Score: '100000000000000000000000', Note: true },
    { Name: 'zero', Score: '0.00', Note: 0 },
  ])
  expect(rows().map(({ Score, Note }) => [Score, Note])).toEqual([
    [12.3, '12.30'],
    [9007199254740992, '9007199254740993'],
    [-1e-7, '1e-7'],
    [1e23, 'true'],
    [0, '0'],
  ])
})

test('a date is not shifted, and an instant is one', async () => {
  const instant = new Date('2026-11-21T23:30:00.500Z')
  await send([
    { Name: 'date', Due: '2026-11-21' },
    { Name: 'instant', Due: instant, Note: instant },
    { Name: 'microseconds', Note: Instant.of('2026-11-21T23:30:00.123456Z') },
    { Name: 'zone', Due: '2026-11-21T23:30:00+02:00' },
    { Name: 'none', Due: '2026-11-21T23:30:00' },
  ])
  expect(rows().map(({ Due, Note }) => [Due, Note])).toEqual([
    ['2026-11-21', ''],
    ['2026-11-21T23:30:00.500+00:00', '2026-11-21T23:30:00.500Z'],
    [null, '2026-11-21T23:30:00.123456Z'],
    ['2026-11-21T21:30:00.000+00:00', ''],
    ['2026-11-21T23:30:00.000+00:00', ''],
  ])
})

// ---- properties ----------------------------------------------------------------------------------------------------

test.each([
  ['that there is not', { Nmae: 'x' }, 'the field "Nmae" is no property; there are Name, Note'],
  ['that every object has', { toString: 'x' }, 'the field "toString" is no property'],
])('a field %s stops the run before anything is sent', async (_, record, message) => {
  await expect(send([{ Name: 'good' }, { Name: 'bad', ...record }])).rejects.toThrow(message)
  expect(count(creates)).toBe(0)
})

test.each(['formula', 'rollup', 'created_time', 'unique_id', 'last_edited_by', 'files'] as const)(
  'a property of type %s is not written',
  async (type) => {
    await start({}, { properties: { Name: 'title', Sum: type } })
    await expect(send([{ Name: 'good', Sum: 1 }])).rejects.toThrow(
      `the field "Sum" is of type ${type}, which cannot be written`,
    )
    expect(count(creates)).toBe(0)
  },
)

test('a property that goes away during a run stops it, and no row is lost', async () => {
  const many = Array.from({ length: 10 }, (_, index) => ({ Name: `n${index}`, Note: 'x' }))
  box.faults.next({
    kind: 'delay',
    delay: '1ms',
    when: (request) => {
      if (creates(request) && count(creates) === 3) box.notion.setProperty(leads, 'Note', null)
      return false
    },
  })
  await expect(send(many)).rejects.toThrow('the field "Note" is no property')
  box.notion.setProperty(leads, 'Note', 'rich_text')
  box.faults.clear()
  expect(await send(many)).toMatchObject({ status: 'done' })
  expect(names().sort()).toEqual(many.map(({ Name }) => Name))
})

test('the client is given no parameter that it would drop', async () => {
  const warn = vi.spyOn(console, 'warn')
  await send([{ Name: 'a' }], { key: 'Name' })
  await send([{ Name: 'a', Note: 'b' }], { key: 'Name' })
  await send([], { key: 'Name', mode: 'mirror' }).catch(() => {})
  expect(count(changes)).toBeGreaterThan(0)
  expect(warn).not.toHaveBeenCalled()
})

// ---- upsert --------------------------------------------------------------------------------------------------------

test('pages are found by their key, changed, and made where there are none', async () => {
  box.notion.addPage(leads, { Name: 'Ada', Score: 1, Note: 'mine' })
  expect(
    await send(
      [
        { Name: 'Ada', Score: 2 },
        { Name: 'ada', Score: 3 },
      ],
      { key: 'Name' },
    ),
  ).toMatchObject({ delivered: 2 })
  expect(rows()).toMatchObject([
    { Name: 'Ada', Score: 2, Note: 'mine' },
    { Name: 'ada', Score: 3 },
  ])
})

test.each([
  ['Name', 'Ada', 'Bob'],
  ['Note', 'x'.repeat(2500), 'y'],
  ['Score', 12.5, 13],
  ['Stage', 'new', 'never seen'],
  ['State', 'open', 'done'],
  ['Mail', 'a@b.c', 'b@b.c'],
  ['Site', 'https://a.example', 'https://b.example'],
  ['Phone', '+49 1', '+49 2'],
])('a key may be %s', async (key, there, absent) => {
  box.notion.addPage(leads, { [key]: there })
  const found = { ...(key !== 'Tags' && { Tags: ['found'] }) }
  expect(await send([{ [key]: there, ...found }, { [key]: absent }], { key })).toMatchObject({
    status: 'done',
    delivered: 2,
  })
  expect(rows()).toMatchObject([{ [key]: there, Tags: ['found'] }, { [key]: absent }])
})

test('a key may be several properties', async () => {
  for (const Stage of ['new', 'won']) box.notion.addPage(leads, { Name: 'Ada', Stage })
  const records = ['new', 'won', 'lost'].map((Stage, index) => ({ Name: 'Ada', Stage, Score: index }))
  expect(await send(records, { key: ['Name', 'Stage'] })).toMatchObject({ delivered: 3 })
  expect(rows()).toMatchObject(records)
})

test('1,000 new rows cost at most 1,010 requests, and rows delivered before cost one each', async () => {
  const many = (Score: number) => Array.from({ length: 1000 }, (_, index) => ({ Name: `n${index}`, Score }))
  expect(await send(many(1), { key: 'Name' })).toMatchObject({ delivered: 1000 })
  expect(count(creates)).toBe(1000)
  expect(box.requests.length).toBeLessThanOrEqual(1010)
  const before = box.requests.length
  expect(await send(many(2), { key: 'Name' })).toMatchObject({ delivered: 1000 })
  expect(box.requests.length - before).toBe(1001)
  expect(rows()).toHaveLength(1000)
})

test('all pages that a look-up finds are read, over several answers', async () => {
  const many = Array.from({ length: 125 }, (_, index) => ({ Name: `n${index}` }))
  for (const { Name } of many) box.notion.addPage(leads, { Name })
  expect(await send(many, { key: 'Name' })).toMatchObject({ delivered: 125 })
  expect([count(queries), count(creates), count(changes)]).toEqual([2, 0, 125])
})

test('a key that several pages have is rejected with their addresses, and nothing of them is touched', async () => {
  const ids = [1, 2].map((Score) => box.notion.addPage(leads, { Name: 'Ada', Score }).id)
  expect(await send([{ Name: 'Ada', Score: 3 }, { Name: 'Bob' }], { key: 'Name' })).toMatchObject({
    delivered: 1,
    rejected: 1,
  })
  const [reason] = await reasons({ key: 'Name' })
  for (const id of ids) expect(reason).toContain(id.replaceAll('-', ''))
  expect(rows()).toMatchObject([{ Score: 1 }, { Score: 2 }, { Name: 'Bob' }])
})

test('rows with one key make one page, of the first of them', async () => {
  await start({ lag: 100 })
  const records = Array.from({ length: 6 }, (_, id) => ({ Score: id, Name: id < 4 ? 'same' : 'other' }))
  const run = await send(records, { key: 'Score', match: 'Name', policy: { batchSize: 2 } })
  expect(run).toMatchObject({ delivered: 2, rejected: 4 })
  expect(names()).toEqual(['same', 'other'])
})

test('a page that was trashed or is gone is made anew', async () => {
  const records = (Score: number) => [
    { Name: 'a', Score },
    { Name: 'b', Score },
  ]
  await send(records(1), { key: 'Name' })
  box.notion.trashPage(box.notion.pages(leads)[0]!.id)
  expect(await send(records(2), { key: 'Name' })).toMatchObject({ delivered: 2 })
  expect(rows()).toEqual([
    expect.objectContaining({ Name: 'b', Score: 2 }),
    expect.objectContaining({ Name: 'a', Score: 2 }),
  ])
  box.faults.next({ kind: 'status', status: 404, when: changes })
  expect(await send(records(3), { key: 'Name' })).toMatchObject({ delivered: 2 })
  expect(rows()).toMatchObject([
    { Name: 'b', Score: 3 },
    { Name: 'a', Score: 3 },
  ])
  expect(count(creates)).toBe(3)
})

test('a key that is blank or cannot be looked up is an error', async () => {
  expect(
    await send(
      [
        { Name: '', Score: 1 },
        { Name: 'a', Score: 2 },
      ],
      { key: 'Score', match: 'Name' },
    ),
  ).toMatchObject({ delivered: 1, rejected: 1 })
  expect(await reasons({ key: 'Score', match: 'Name' })).toEqual(['Name, by which its page is to be found, is blank'])
  await expect(send([{ Due: '2026-11-21' }], { key: 'Due', name: 'b' })).rejects.toThrow(
    'pages cannot be found by Due, which is a date: give match',
  )
})

// ---- update, mirror ------------------------------------------------------------------------------------------------

test('update changes pages that are there, and rejects what has none', async () => {
  box.notion.addPage(leads, { Name: 'a' })
  const run = await send(
    [
      { Name: 'a', Score: 1 },
      { Name: 'b', Score: 1 },
    ],
    { key: 'Name', mode: 'update' },
  )
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect(rows()).toMatchObject([{ Name: 'a', Score: 1 }])
  expect(await reasons({ key: 'Name', mode: 'update' })).toEqual(['no page has its key'])
})

test('mirror moves pages to the trash, those that are gone already count as done', async () => {
  const mirror: Sending = { key: 'Name', mode: 'mirror' }
  const all = ['a', 'b', 'c', 'd'].map((Name) => ({ Name }))
  await send(all, mirror)
  box.notion.trashPage(box.notion.pages(leads)[0]!.id)
  box.faults.next({ kind: 'status', status: 404, when: changes, times: 1 })
  const run = await syncOf(all.slice(3), mirror).run({ allowDeletes: true })
  expect(run).toMatchObject({ status: 'done', rejected: 0, pending: 0, unknown: 0 })
  expect(
    box.notion
      .pages(leads)
      .map(({ inTrash }) => inTrash)
      .filter(Boolean).length,
  ).toBeGreaterThanOrEqual(2)
  expect(names()).toContain('d')
})

// ---- what goes wrong -----------------------------------------------------------------------------------------------

describe('a creation that nobody answered', () => {
  const ways = [
    ['a cut connection', { kind: 'cut' }],
    ['a 500', { kind: 'status', status: 500 }],
    ['an overload', { kind: 'status', status: 529, retryAfter: 0 }],
    ['a conflict', { kind: 'status', status: 409 }],
    ['a web page of the edge', { kind: 'status', status: 502 }],
    ['a gateway that gave up', { kind: 'status', status: 504, reason: 'html' }],
    ['a web page that says 200', { kind: 'html' }],
  ] as const

  test.each(ways)('%s: a page that was made is found and not made again', async (_, fault) => {
    box.faults.next({ ...fault, applied: true, when: creates })
    const run = await send([{ Name: 'a', Due: '2026-11-21', Tags: ['x'] }, { Name: 'b' }], { key: 'Name' })
    expect(run).toMatchObject({ status: 'done', delivered: 2, unknown: 0 })
    expect(names()).toEqual(['a', 'b'])
    expect([count(creates), count(changes)]).toEqual([2, 0])
  })

  test.each(ways)('%s: a page that was not made is made', async (_, fault) => {
    box.faults.next({ ...fault, when: creates })
    expect(await send([{ Name: 'a' }, { Name: 'b' }], { key: 'Name' })).toMatchObject({ delivered: 2, unknown: 0 })
    expect(names()).toEqual(['a', 'b'])
  })

  test('it is looked for again while queries lag behind', async () => {
    await start({ lag: 2 })
    box.faults.next({ kind: 'cut', applied: true, when: creates })
    const run = await send([{ Name: 'a' }, { Name: 'b' }], { key: 'Name', policy: { settle: '2s' } })
    expect(run).toMatchObject({ status: 'done', delivered: 2, unknown: 0 })
    expect(names()).toEqual(['a', 'b'])
  })

  test('one that lands late is waited for', async () => {
    box.faults.next({ kind: 'delay', delay: '600ms', when: creates })
    const policy: Policy = { timeout: '200ms', settle: '2s' }
    expect(await send([{ Name: 'a' }], { key: 'Name', policy })).toMatchObject({ status: 'done', delivered: 1 })
    expect(names()).toEqual(['a'])
  })

  test('the next run finds it too', async () => {
    const policy: Policy = { retryFor: '1ms' }
    box.faults.next({ kind: 'cut', applied: true, when: creates })
    box.faults.next({ kind: 'status', status: 503, when: queries, times: 9 })
    const records = [{ Name: 'a' }, { Name: 'b' }]
    const first = await send(records, { key: 'Name', policy: { ...policy, batchSize: 1 } })
    expect(first.status).not.toBe('done')
    box.faults.clear()
    expect(await send(records, { key: 'Name' })).toMatchObject({ status: 'done' })
    expect(names()).toEqual(['a', 'b'])
  })

  test('a change that nobody answered is made again unless the page holds it', async () => {
    const ids = ['a', 'b'].map((Name) => box.notion.addPage(leads, { Name }).id)
    const changing =
      (id: string | undefined) =>
      ({ path }: Seen) =>
        path.endsWith(id!)
    box.faults.next({ kind: 'cut', when: changing(ids[0]) })
    box.faults.next({ kind: 'cut', applied: true, when: changing(ids[1]) })
    const value = {
      Score: 1,
      Due: new Date('2026-11-21T10:00:00Z'),
      Tags: ['x', 'y'],
      Stage: 'won',
      Note: 'n',
      Active: true,
    }
    expect(
      await send(
        ['a', 'b'].map((Name) => ({ Name, ...value })),
        { key: 'Name' },
      ),
    ).toMatchObject({ delivered: 2 })
    expect(rows()).toMatchObject(['a', 'b'].map((Name) => ({ Name, Score: 1, Stage: 'won', Tags: ['x', 'y'] })))
    expect(count(changes)).toBe(3)
  })

  test('in append, it is found by the match, but only in a page that this connection made', async () => {
    box.notion.addPage(leads, { Name: 'a' })
    box.faults.next({ kind: 'cut', applied: true, when: creates })
    expect(await send([{ Name: 'b' }], { match: 'Name' })).toMatchObject({ status: 'done', delivered: 1 })
    box.faults.next({ kind: 'cut', when: creates })
    expect(await send([{ Name: 'a' }], { match: 'Name', name: 'second' })).toMatchObject({
      status: 'done',
      delivered: 1,
    })
    expect(names()).toEqual(['a', 'b', 'a'])
  })

  test('in append without a match it is held, and the rest is delivered', async () => {
    box.faults.next({ kind: 'cut', applied: true, when: creates })
    expect(await send([{ Name: 'a' }, { Name: 'b' }])).toMatchObject({ delivered: 1, unknown: 1 })
    expect(names()).toEqual(['a', 'b'])
    expect(await send([{ Name: 'c' }], { name: 'other', policy: { onUnknown: 'resend' } })).toMatchObject({
      delivered: 1,
    })
  })
})

test('a rate limit in the middle of a batch is waited for, and nothing is sent twice', async () => {
  await start({ perSecond: 8 })
  const many = Array.from({ length: 20 }, (_, index) => ({ Name: `n${index}` }))
  expect(await send(many, { key: 'Name' })).toMatchObject({ status: 'done', delivered: 20 })
  expect(names()).toEqual(many.map(({ Name }) => Name))
  const refused = box.requests.filter(({ status }) => status === 429).length
  expect(refused).toBeGreaterThan(0)
  expect(refused).toBeLessThan(6) // no request is sent in vain while it lasts
})

test.each([429, 529])('%i: for as long as Retry-After says, nothing is sent', async (status) => {
  const second = (request: ApiRequest) => creates(request) && count(creates) === 2
  box.faults.next({ kind: 'status', status, retryAfter: 2, when: second })
  const run = await send([{ Name: 'a' }, { Name: 'b' }, { Name: 'c' }], { key: 'Name' })
  expect(run).toMatchObject({ status: 'done', delivered: 3 })
  expect(names()).toEqual(['a', 'b', 'c'])
  const refused = box.requests.findIndex((request) => request.status === status)
  const [before, after] = [box.requests[refused]!.time, box.requests[refused + 1]!.time]
  expect(after.getTime() - before.getTime()).toBeGreaterThanOrEqual(1990)
})

test('a Retry-After that is longer than the run may retry leaves the rest pending', async () => {
  const second = (request: ApiRequest) => creates(request) && count(creates) === 2
  box.faults.next({ kind: 'status', status: 429, retryAfter: 90, when: second })
  const run = await send([{ Name: 'a' }, { Name: 'b' }, { Name: 'c' }], { key: 'Name', policy: { retryFor: '60s' } })
  expect(run).toMatchObject({ status: 'incomplete', delivered: 1, pending: 2, unknown: 0 })
  expect(names()).toEqual(['a'])
})

test('what goes wrong with a look-up leaves no row in doubt', async () => {
  for (const fault of [{ kind: 'cut' }, { kind: 'status', status: 500 }, { kind: 'status', status: 502 }] as const) {
    box.faults.next({ ...fault, when: queries, times: 99 })
    const run = await send([{ Name: 'a' }], { key: 'Name', policy: { retryFor: '1ms' } })
    expect(run).toMatchObject({ status: 'incomplete', unknown: 0, pending: 1 })
    box.faults.clear()
  }
  expect(count(creates)).toBe(0)
})

test('an endpoint that cannot be reached leaves all rows pending', async () => {
  const run = await send([{ Name: 'a' }], { endpoint: 'http://127.0.0.1:1', policy: { retryFor: '1ms' } })
  expect(run).toMatchObject({ status: 'incomplete', unknown: 0, pending: 1 })
})

test('a web page instead of an answer stops the run, and says what to look at', async () => {
  box.faults.next({ kind: 'html', times: 99 })
  await expect(send([{ Name: 'a' }], { key: 'Name' })).rejects.toThrow(
    "the answer is not Notion's, a web page perhaps: check endpoint",
  )
})

test('an error names the secret, the missing share, or the missing capability', async () => {
  vi.stubEnv('LEADS_TOKEN', 'ntn_wrong_token')
  const signIn = send([{ Name: 'a' }], { token: secret('LEADS_TOKEN') })
  await expect(signIn).rejects.toThrow('notion: 401: API token is invalid. Check secret LEADS_TOKEN')
  vi.unstubAllEnvs()
  await expect(send([{ Name: 'a' }], { token: 'ntn_wrong_token' })).rejects.toThrow(
    'Check token (DESTINATION__NOTION__TOKEN)',
  )
  const { id } = box.notion.createDatabase({ shared: false })
  await expect(send([{ Name: 'a' }], { database: id, name: 'hidden' })).rejects.toThrow('shared with the connection')
  box.faults.next({ kind: 'status', status: 403, when: creates })
  await expect(send([{ Name: 'a' }])).rejects.toThrow('capabilities to read, insert and update content')
})

test('a token that is revoked in the middle of a batch stops the run, and nothing is sent twice', async () => {
  const third = (request: ApiRequest) => creates(request) && count(creates) > 2
  box.faults.next({ kind: 'status', status: 401, times: 99, when: third })
  const all = ['a', 'b', 'c', 'd'].map((Name) => ({ Name }))
  await expect(send(all)).rejects.toThrow('401')
  expect(names()).toEqual(['a', 'b'])
  box.faults.clear()
  await send(all)
  expect(names().slice(0, 4)).toEqual(['a', 'b', 'c', 'd'])
})

// ---- options -------------------------------------------------------------------------------------------------------

test('a database stands for its one data source, by id or by address', async () => {
  const { id, url, dataSources } = box.notion.createDatabase({ title: 'One' })
  for (const database of [id, url, `${url}?v=0a1b2c3d4e5f60718293a4b5c6d7e8f9`, id.replaceAll('-', '').toUpperCase()]) {
    await send([{ Name: 'a' }], { database, name: `s${database.length}` })
  }
  expect(box.notion.rows(dataSources[0]!)).toHaveLength(4)
})

test('a database with several data sources is refused, and they are named', async () => {
  const { id, dataSources } = box.notion.createDatabase({ dataSources: ['Leads', 'Customers'] })
  await expect(send([{ Name: 'a' }], { database: id })).rejects.toThrow(
    `has 2 data sources: give dataSource instead: Leads (${dataSources[0]}), Customers`,
  )
})

test('wrong options are refused at once', () => {
  const wrong: [NotionOptions, string][] = [
    [{}, 'either dataSource or database'],
    [{ dataSource: leads, database: leads }, 'either dataSource or database'],
    [{ database: 'Leads' }, '"Leads" holds no id'],
    [{ dataSource: `${leads}x` }, 'holds no id'],
  ]
  for (const [options, message] of wrong) {
    expect(() => notion(options)).toThrow(ConfigError)
    expect(() => notion(options)).toThrow(message)
  }
})

test('the rate keeps to three requests a second unless told otherwise', async () => {
  await start({ perSecond: 3 })
  await send(
    ['a', 'b', 'c', 'd', 'e'].map((Name) => ({ Name })),
    { policy: { rate: '3/s' } },
  )
  expect(box.requests.filter(({ status }) => status === 429)).toEqual([])
  expect(names()).toHaveLength(5)
})
