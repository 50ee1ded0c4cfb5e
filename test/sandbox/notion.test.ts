import { APIResponseError, Client, UnknownHTTPResponseError } from '@notionhq/client'
import { type NotionDatabaseOptions, type NotionSandboxOptions, type Sandbox, sandbox } from 'spillway/sandbox'
import { afterEach, expect, test } from 'vitest'

let box: Sandbox
let data_source_id: string

afterEach(() => box.close())

/** A sandbox with one data source, and Notion's own client for it. */
async function start(options: NotionSandboxOptions = {}, database: NotionDatabaseOptions = {}) {
  box = await sandbox({ notion: options })
  const properties = { Name: 'title', Note: 'rich_text', Score: 'number', Stage: { select: ['new'] } } as const
  const created = box.notion.createDatabase({ title: 'Leads', properties, ...database })
  data_source_id = created.dataSources[0]!
  return { ...created, client: clientOf() }
}

const clientOf = (options = {}) =>
  new Client({ auth: box.notion.token, baseUrl: box.url, retry: false, logger: () => {}, ...options })
const parent = () => ({ data_source_id })
const title = (content: string) => ({ title: [{ text: { content } }] })

/** Notion's error, as the client hands it on. */
async function refusal(promise: Promise<unknown>): Promise<{ code: string; status: number; message: string }> {
  const error = await promise.then(
    () => expect.fail('it was not refused'),
    (error) => error,
  )
  expect(error).toBeInstanceOf(APIResponseError)
  expect(error.request_id).toMatch(/^[0-9a-f-]{36}$/)
  const { code, status, message } = error
  return { code, status, message }
}

test('a page is made, changed, found, moved to the trash and brought back', async () => {
  const { client } = await start()
  const made = await client.pages.create({ parent: parent(), properties: { Name: title('Ada'), Score: { number: 1 } } })
  expect(made).toMatchObject({ object: 'page', in_trash: false, parent: { type: 'data_source_id', data_source_id } })
  const page_id = made.id
  const changed = await client.pages.update({
    page_id,
    properties: { Score: { number: null }, Stage: { select: { name: 'won' } } },
  })
  expect(changed).toMatchObject({
    properties: { Score: { type: 'number', number: null }, Stage: { select: { name: 'won' } } },
  })
  expect(box.notion.rows(data_source_id)).toEqual([{ Name: 'Ada', Note: '', Score: null, Stage: 'won' }])

  await client.pages.update({ page_id, in_trash: true })
  expect((await client.dataSources.query({ data_source_id })).results).toEqual([])
  expect(box.notion.rows(data_source_id)).toEqual([])
  expect(await refusal(client.pages.update({ page_id, properties: { Name: title('x') } }))).toEqual({
    code: 'validation_error',
    status: 400,
    message: "Can't edit block that is archived. You must unarchive the block before editing.",
  })
  expect(await client.pages.update({ page_id, in_trash: true })).toMatchObject({ in_trash: true })
  await client.pages.update({ page_id, in_trash: false })
  expect(await client.pages.retrieve({ page_id })).toMatchObject({ id: page_id, in_trash: false })
  expect(box.notion.pages(data_source_id)).toHaveLength(1)
})

test('a database tells its data sources, and a data source its properties', async () => {
  const { client, id } = await start({}, { dataSources: ['Leads', 'Customers'] })
  const { data_sources } = (await client.databases.retrieve({ database_id: id })) as { data_sources: unknown[] }
  expect(data_sources).toMatchObject([{ id: data_source_id, name: 'Leads' }, { name: 'Customers' }])
  const { properties } = await client.dataSources.retrieve({ data_source_id: data_source_id.replaceAll('-', '') })
  expect(properties).toMatchObject({
    Name: { name: 'Name', type: 'title', title: {} },
    Stage: { type: 'select', select: { options: [{ name: 'new' }] } },
  })
  expect(await client.users.me({})).toMatchObject({ object: 'user', type: 'bot' })
})

const filters: [string, object, string[]][] = [
  ['title', { property: 'Name', title: { equals: 'a' } }, ['a']],
  ['title as text', { property: 'Name', rich_text: { equals: 'b' } }, ['b']],
  ['number', { property: 'Score', number: { equals: 2 } }, ['b', 'c']],
  ['select', { property: 'Stage', select: { equals: 'new' } }, ['a']],
  ['blank', { property: 'Stage', select: { is_empty: true } }, ['b', 'c']],
  [
    'or',
    {
      or: [
        { property: 'Name', title: { equals: 'a' } },
        { property: 'Name', title: { equals: 'c' } },
      ],
    },
    ['a', 'c'],
  ],
  [
    'and',
    { and: [{ property: 'Score', number: { equals: 2 } }, { or: [{ property: 'Name', title: { equals: 'c' } }] }] },
    ['c'],
  ],
]
test.each(filters)('a query filters by %s', async (_, filter, expected) => {
  const { client } = await start()
  box.notion.addPage(data_source_id, { Name: 'a', Score: 1, Stage: 'new' })
  box.notion.addPage(data_source_id, { Name: 'b', Score: 2 })
  box.notion.addPage(data_source_id, { Name: 'c', Score: 2 })
  const { results } = await client.dataSources.query({ data_source_id, filter } as never)
  const found = results as unknown as { properties: { Name: { title: { plain_text: string }[] } } }[]
  expect(found.map(({ properties }) => properties.Name.title[0]?.plain_text)).toEqual(expected)
})

test('a query gives a hundred pages at most, and a cursor to go on with', async () => {
  const { client } = await start()
  for (let index = 0; index < 150; index++) box.notion.addPage(data_source_id, { Name: `n${index}` })
  const first = await client.dataSources.query({ data_source_id })
  expect([first.results.length, first.has_more]).toEqual([100, true])
  const second = await client.dataSources.query({ data_source_id, start_cursor: first.next_cursor, page_size: 60 })
  expect([second.results.length, second.has_more, second.next_cursor]).toEqual([50, false, null])
  expect(await refusal(client.dataSources.query({ data_source_id, page_size: 101 }))).toMatchObject({
    code: 'validation_error',
  })
})

const many = (count: number) => Array(count).fill({ property: 'Name', title: { equals: 'x' } })
test.each<[string, object, string]>([
  ['a list of more than a hundred', { or: many(101) }, 'body.filter.or.length should be ≤ `100`, instead was `101`.'],
  ['lists nested too deep', { or: [{ and: [{ or: many(1) }] }] }, 'should be not present'],
  [
    'another type than the property has',
    { property: 'Score', rich_text: { equals: 'x' } },
    'database property number does not match filter rich_text',
  ],
  [
    'a property that there is not',
    { property: 'Nope', number: { equals: 1 } },
    'Could not find property with name or id: Nope',
  ],
  ['an option that there is not', { property: 'Stage', select: { equals: 'lost' } }, 'select option "lost" not found'],
])('a filter with %s is refused', async (_, filter, message) => {
  const { client } = await start()
  const said = await refusal(client.dataSources.query({ data_source_id, filter } as never))
  expect(said).toMatchObject({ code: 'validation_error', status: 400 })
  expect(said.message).toContain(message)
})

test.each<[object, string]>([
  [{ Nope: { number: 1 } }, 'Nope is not a property that exists.'],
  [{ Score: { rich_text: [] } }, 'Score is expected to be number.'],
  [
    { Score: { number: '1' } },
    'body failed validation: body.properties.Score.number should be a number, instead was `"1"`.',
  ],
  [
    { Note: { rich_text: [{ text: { content: 'x'.repeat(2001) } }] } },
    'body failed validation: body.properties.Note.rich_text[0].text.content.length should be ≤ `2000`, instead was `2001`.',
  ],
  [
    { Note: { rich_text: Array(101).fill({ text: { content: 'x' } }) } },
    'body failed validation: body.properties.Note.rich_text.length should be ≤ `100`, instead was `101`.',
  ],
  [{ State: { status: { name: 'lost' } } }, 'Invalid status option. Status option "lost" does not exist.'],
  [{ Stage: { select: { name: 'a, b' } } }, 'Invalid select option, commas not allowed: a, b'],
  [
    { Due: { date: { start: 'tomorrow' } } },
    'body failed validation: body.properties.Due.date.start should be a valid ISO 8601 date string, instead was `"tomorrow"`.',
  ],
  [
    { Sum: { formula: 1 } },
    'body failed validation: body.properties.Sum.formula should be not present, instead was `1`.',
  ],
  [
    { Mail: { email: 'x'.repeat(201) } },
    'body failed validation: body.properties.Mail.email.length should be ≤ `200`, instead was `201`.',
  ],
])('a page with %j is refused, and nothing of it is written', async (properties, message) => {
  const { client } = await start(
    {},
    {
      properties: {
        Name: 'title',
        Note: 'rich_text',
        Score: 'number',
        Stage: 'select',
        State: { status: ['open'] },
        Due: 'date',
        Sum: 'formula',
        Mail: 'email',
      },
    },
  )
  const page = box.notion.addPage(data_source_id, { Name: 'old' })
  const bad = { Name: title('new'), ...properties } as never
  expect(await refusal(client.pages.create({ parent: parent(), properties: bad }))).toEqual({
    code: 'validation_error',
    status: 400,
    message,
  })
  await refusal(client.pages.update({ page_id: page.id, properties: bad }))
  expect(box.notion.rows(data_source_id)).toMatchObject([{ Name: 'old' }])
})

test('a parameter that there is not is refused', async () => {
  await start()
  const headers = {
    authorization: `Bearer ${box.notion.token}`,
    'notion-version': '2026-03-11',
    'content-type': 'application/json',
  }
  const ask = (body: object, more = {}) =>
    fetch(`${box.url}/v1/pages`, { method: 'POST', headers: { ...headers, ...more }, body: JSON.stringify(body) })
  const answer = await ask({ parent: parent(), proprties: {} })
  expect(answer.status).toBe(400)
  expect(await answer.json()).toMatchObject({
    object: 'error',
    status: 400,
    code: 'validation_error',
    message: expect.stringContaining('body.proprties should be not present'),
  })
  expect((await ask({ parent: parent() }, { 'notion-version': '2022-06-28' })).status).toBe(400)
  expect((await ask({ parent: parent() })).status).toBe(200)
})

test('a wrong token, a database that is not shared, and an id that is none are told apart', async () => {
  const { client, id } = await start({}, { shared: false })
  const stranger = clientOf({ auth: 'ntn_other' })
  expect(await refusal(stranger.users.me({}))).toEqual({
    code: 'unauthorized',
    status: 401,
    message: 'API token is invalid.',
  })
  const hidden = await refusal(client.databases.retrieve({ database_id: id }))
  expect(hidden).toMatchObject({ code: 'object_not_found', status: 404 })
  expect(hidden.message).toContain(
    `Could not find database with ID: ${id}. Make sure the relevant pages and databases are shared`,
  )
  expect(await refusal(client.dataSources.query({ data_source_id }))).toMatchObject({ code: 'object_not_found' })
  expect(await refusal(client.dataSources.retrieve({ data_source_id: 'x' }))).toMatchObject({
    code: 'validation_error',
  })
})

test('requests beyond the limit are told when to come again', async () => {
  const { client } = await start({ perSecond: 50, perMinute: 2 })
  await client.users.me({})
  await client.users.me({})
  const error = await client.users.me({}).catch((error) => error)
  expect(error).toMatchObject({ code: 'rate_limited', status: 429 })
  expect(Number(error.headers.get('retry-after'))).toBeGreaterThan(55)
})

test('queries lag behind what the API made, not what a person did', async () => {
  const { client } = await start({ lag: 2 })
  await client.pages.create({ parent: parent(), properties: { Name: title('a') } })
  box.notion.addPage(data_source_id, { Name: 'b' })
  const found = async () => (await client.dataSources.query({ data_source_id })).results.length
  expect([await found(), await found(), await found()]).toEqual([1, 1, 2])
})

test('faults are said in the words of Notion, or of the edge in front of it', async () => {
  const { client } = await start()
  for (const [status, code] of [
    [409, 'conflict_error'],
    [503, 'service_unavailable'],
    [529, 'service_overload'],
  ] as const) {
    box.faults.next({ kind: 'status', status })
    expect(await refusal(client.users.me({}))).toMatchObject({ status, code })
  }
  box.faults.next({ kind: 'status', status: 502 })
  expect(await client.users.me({}).catch((error) => error)).toBeInstanceOf(UnknownHTTPResponseError)
})

test('the page shows pages as a table, and nothing in them becomes HTML', async () => {
  await start(
    {},
    { title: '<i>Leads</i>', properties: { Name: 'title', Done: 'checkbox', Stage: { select: ['<b>won</b>'] } } },
  )
  box.notion.addPage(data_source_id, { Name: '<script>', Done: true, Stage: '<b>won</b>' })
  const gone = box.notion.addPage(data_source_id, { Name: 'gone' })
  box.notion.trashPage(gone.id)
  const page = await (await fetch(box.url)).text()
  expect(page).toContain('☑')
  expect(page).toContain('&#60;script&#62;')
  expect(page).toContain('1 pages, 1 in the trash')
  expect(page).not.toMatch(/<script>|<b>won|<i>Leads|gone/)
})

test('a person edits pages and properties', async () => {
  const { client } = await start()
  const { id } = box.notion.addPage(data_source_id, { Name: 'a' })
  box.notion.editPage(id, { Name: 'b', Score: 2 })
  box.notion.setProperty(data_source_id, 'Mail', 'email')
  box.notion.setProperty(data_source_id, 'Note', null)
  expect(box.notion.rows(data_source_id)).toEqual([{ Name: 'b', Score: 2, Stage: null, Mail: null }])
  const { properties } = await client.dataSources.retrieve({ data_source_id })
  expect(Object.keys(properties)).toEqual(['Name', 'Score', 'Stage', 'Mail'])
})
