import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { type AnyRow, ConfigError, FatalError, type Policy, RetryableError, type Run, sync } from 'spillway'
import { type GoogleSheetsOptions, googleSheets } from 'spillway/destinations/google-sheets'
import { type ApiRequest, type Fault, type Sandbox, sandbox } from 'spillway/sandbox'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { resolveConfig } from '../../src/config.js'
import { type Definition, definitionOf } from '../../src/destination.js'
import { quiet as log } from '../support/quiet.js'

let box: Sandbox
let state: string

beforeEach(async () => {
  box = await sandbox()
  state = mkdtempSync(join(tmpdir(), 'sheets-'))
})
afterEach(async () => {
  vi.restoreAllMocks()
  await box.close()
  rmSync(state, { recursive: true })
})

const id = 'book'
type Tabs = NonNullable<Parameters<Sandbox['sheets']['create']>[0]>['tabs']

function book(tabs: Tabs = { Other: [['not', 'mine']] }): void {
  box.sheets.create({ id, ...(tabs && { tabs }) })
}
const rows = (tab = 'People') => box.sheets.rows(id, tab)

function people(options: Partial<GoogleSheetsOptions> = {}) {
  const signIn = 'token' in options || 'credentials' in options ? {} : { token: box.sheets.token }
  return googleSheets({ spreadsheet: id, tab: 'People', endpoint: box.url, ...signIn, ...options })
}

/** No waiting for requests that land late, where none does. */
const quick: Policy = { settle: '1ms' }

/** Sends records in `append`, or in `upsert` when there is a key. */
function send(
  records: AnyRow[],
  options: Partial<GoogleSheetsOptions> & { key?: string | string[]; policy?: Policy; name?: string } = {},
): Promise<Run> {
  const { key, policy, name = 'people', ...rest } = options
  const to = people(rest).with({ ...quick, ...policy })
  return sync({ name, from: records, to, state, log, ...(key && { key }) }).run()
}

async function reasons(name = 'people'): Promise<string[]> {
  const found: string[] = []
  const letters = sync({ name, from: [] as AnyRow[], to: people(), state, log }).deadLetters()
  for await (const { reason } of letters) found.push(reason)
  return found
}

const writes = (request: { method: string; path: string }) => request.method === 'POST' && request.path !== '/token'
const reads = (request: { method: string }) => request.method === 'GET'
const bodyOf = (request: { body: unknown }) => JSON.stringify(request.body)

// ---- rows and columns ----------------------------------------------------------------------------------------------

test('a missing tab is made with a header, and no other tab is touched', async () => {
  book()
  expect(
    await send([
      { id: 1, name: 'Ada' },
      { id: 2, name: 'Grace' },
    ]),
  ).toMatchObject({ status: 'done', delivered: 2 })
  expect(rows()).toEqual([
    ['id', 'name'],
    [1, 'Ada'],
    [2, 'Grace'],
  ])
  expect(box.sheets.tabs(id)).toEqual(['Other', 'People'])
  expect(rows('Other')).toEqual([['not', 'mine']])
})

test('an empty tab gets a header', async () => {
  book({ People: [] })
  await send([{ id: 1, name: 'Ada' }])
  expect(rows()).toEqual([
    ['id', 'name'],
    [1, 'Ada'],
  ])
})

test('records find their columns by name; others are left alone, new ones come at the end', async () => {
  book({
    People: [
      ['note', 'name', 'id', 'total'],
      ['mine', 'Ada', 1, 5],
    ],
  })
  await send([{ id: 2, name: 'Grace', since: 1952 }])
  expect(rows()).toEqual([
    ['note', 'name', 'id', 'total', 'since'],
    ['mine', 'Ada', 1, 5],
    [null, 'Grace', 2, null, 1952],
  ])
  await send(
    [
      { id: 1, name: 'Ada L.', since: null },
      { name: 'Edith', id: 3 },
    ],
    { key: 'id', name: 'upserted' },
  )
  expect(rows()).toEqual([
    ['note', 'name', 'id', 'total', 'since'],
    ['mine', 'Ada L.', 1, 5],
    [null, 'Grace', 2, null, 1952],
    [null, 'Edith', 3],
  ])
})

test('rows go below the last one that holds anything, in whatever column', async () => {
  book({ People: [['id', 'name'], [1, 'Ada'], [], [], [null, null, 'a remark']] })
  await send([{ id: 2, name: 'Grace' }])
  await send([{ id: 3, name: 'Edith' }], { key: 'id', name: 'upserted' })
  expect(rows().slice(4)).toEqual([
    [null, null, 'a remark'],
    [2, 'Grace'],
    [3, 'Edith'],
  ])
})

test('the last row is found in a large grid, wherever it is', async () => {
  const tall = Array.from({ length: 9_000 }, (_, row) => (row < 1_200 ? [row === 0 ? 'id' : row] : []))
  book({ People: tall })
  await send([{ id: 'new' }])
  expect(rows()).toHaveLength(1_201)
  expect(box.requests.filter(reads).length).toBeLessThanOrEqual(5)
  expect(rows().at(-1)).toEqual(['new'])
})

test('the grid grows by what is needed, rows and columns', async () => {
  book({ People: [] })
  const wide = Object.fromEntries(Array.from({ length: 30 }, (_, column) => [`c${column}`, column]))
  await send(Array.from({ length: 1_500 }, () => wide))
  expect(rows()).toHaveLength(1_501)
  expect(rows()[1_500]).toEqual(Object.values(wide))
  expect(box.requests.filter(writes)).toHaveLength(2)
})

test('upsert finds rows by key, whatever the order and whether keys were typed as numbers or text', async () => {
  book({
    People: [
      ['name', 'id'],
      ['Grace', '2'],
      ['Ada', 1],
      ['Edith', 3],
    ],
  })
  await send(
    [
      { id: 1, name: 'A' },
      { id: '3', name: 'E' },
      { id: 2, name: 'G' },
      { id: 4, name: 'K' },
    ],
    { key: 'id' },
  )
  expect(rows()).toEqual([
    ['name', 'id'],
    ['G', '2'],
    ['A', 1],
    ['E', 3],
    ['K', 4],
  ])
})

test('upsert finds rows by several fields', async () => {
  book({
    People: [
      ['shop', 'day', 'sum'],
      ['a', 'mon', 1],
      ['a', 'tue', 2],
      ['b', 'mon', 3],
    ],
  })
  await send(
    [
      { shop: 'a', day: 'tue', sum: 20 },
      { shop: 'b', day: 'tue', sum: 40 },
    ],
    { key: ['shop', 'day'] },
  )
  expect(rows()).toEqual([
    ['shop', 'day', 'sum'],
    ['a', 'mon', 1],
    ['a', 'tue', 20],
    ['b', 'mon', 3],
    ['b', 'tue', 40],
  ])
})

test('match names other fields than the key, and columns chooses what is written', async () => {
  book({
    People: [
      ['email', 'score'],
      ['a@x.test', 1],
    ],
  })
  const records = [
    { id: 1, email: 'a@x.test', score: 2, secret: 's' },
    { id: 2, email: 'b@x.test', score: 3, secret: 's' },
  ]
  await send(records, { key: 'id', match: 'email', columns: ['score'] })
  expect(rows()).toEqual([
    ['email', 'score'],
    ['a@x.test', 2],
    ['b@x.test', 3],
  ])
  await send(records, { tab: 'New', name: 'new', columns: ['score', 'id'] })
  expect(rows('New')).toEqual([
    ['score', 'id'],
    [2, 1],
    [3, 2],
  ])
})

test('an upsert sent twice changes nothing the second time', async () => {
  book({ People: [] })
  const records = Array.from({ length: 50 }, (_, row) => ({ id: row, name: `n${row}` }))
  await send(records, { key: 'id' })
  const before = rows()
  await send(records, { key: 'id' })
  expect(rows()).toEqual(before)
  expect(before).toHaveLength(51)
})

test('a title with quotes and an address copied from the browser will do', async () => {
  book()
  const spreadsheet = `https://docs.google.com/spreadsheets/d/${id}/edit#gid=0`
  await send([{ id: 1 }], { tab: "Ada's 'list'", spreadsheet })
  await send([{ id: 2 }], { tab: "ada's 'LIST'", spreadsheet, name: 'again' })
  expect(rows("Ada's 'list'")).toEqual([['id'], [1], [2]])
})

// ---- values --------------------------------------------------------------------------------------------------------

test('what Sheets cannot hold exactly becomes text', async () => {
  book()
  const value = {
    zero: 0,
    no: false,
    empty: '',
    none: null,
    half: 0.5,
    safe: 9_007_199_254_740_991n,
    big: 9_007_199_254_740_993n,
    decimal: '0.10',
    day: '2026-11-21',
    instant: new Date('2026-11-21T10:00:00.123Z'),
    list: [1, 2n ** 53n + 1n, null],
    inside: { bytes: new Uint8Array([1, 2]), endless: [Number.NEGATIVE_INFINITY], absent: undefined },
    object: { a: new Date(0), b: { c: true } },
    nan: Number.NaN,
  }
  await send([value])
  const [header, row] = rows()
  expect(Object.fromEntries(header!.map((name, column) => [name, row![column]]))).toEqual({
    ...{ zero: 0, no: false, empty: null, none: null, half: 0.5 },
    ...{ safe: 9_007_199_254_740_991, big: '9007199254740993', decimal: '0.10', day: '2026-11-21' },
    ...{ instant: '2026-11-21T10:00:00.123Z', list: '[1,9007199254740993,null]' },
    inside: '{"bytes":"AQI=","endless":["-Infinity"]}',
    ...{ object: '{"a":"1970-01-01T00:00:00.000Z","b":{"c":true}}', nan: 'NaN' },
  })
})

test('null clears, an absent field leaves alone, 0 and false are written', async () => {
  book({
    People: [
      ['id', 'a', 'b', 'c'],
      [1, 'x', 'y', 'z'],
      [2, 'x', 'y', 'z'],
      [3, 'x', 'y', 'z'],
    ],
  })
  await send(
    [
      { id: 1, a: null, c: 0 },
      { id: 2, b: false },
      { id: 3, a: undefined, b: '', c: null },
    ],
    { key: 'id' },
  )
  expect(rows()).toEqual([
    ['id', 'a', 'b', 'c'],
    [1, null, 'y', 0],
    [2, 'x', false, 'z'],
    [3, 'x'],
  ])
})

test('a record that does not fit into cells is rejected with the reason, and the others are written', async () => {
  book()
  const records: AnyRow[] = [
    { id: 1, text: 'fine' },
    { id: 2, text: 'x'.repeat(50_001) },
    { id: 3, text: new Uint8Array([1]) },
    { id: 4, text: new Date(Number.NaN) },
    { id: 5, text: 'y'.repeat(50_000) },
    { id: 6, text: { at: new Date(Number.NaN) } },
    { id: 7, text: ['\ud83e'] },
  ]
  const { insert } = handlers()
  const rejected = await insert(records)
  expect(rows().map(([id]) => id)).toEqual(['id', 1, 5])
  const neither = 'is neither text, number, boolean, date, list nor object: map it to one of them'
  expect(rejected.map(({ record, reason }) => [record['id'], reason])).toEqual([
    [2, 'text has 50001 characters, and a cell of Google Sheets holds 50000'],
    [3, `text ${neither}`],
    [4, 'text is an invalid date'],
    [6, 'text holds an invalid date'],
    [7, 'text holds half of a character (a lone surrogate), which UTF-8 cannot'],
  ])
})

test('a rejected row is a dead letter', async () => {
  book()
  const run = await send([
    { id: 1, text: 'fine' },
    { id: 2, text: 'x'.repeat(50_001) },
  ])
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect(await reasons()).toEqual(['text has 50001 characters, and a cell of Google Sheets holds 50000'])
})

test('a batch of which nothing fits is answered without asking Google', async () => {
  book()
  expect(await handlers().insert([{ text: new Map() }])).toHaveLength(1)
  expect(box.requests).toEqual([])
})

test('a record without its key is rejected', async () => {
  book()
  const [rejected] = await handlers().upsert([{ id: '' }, { id: 1 }], { match: ['id'] })
  expect(rejected?.reason).toBe('a match field is blank, so that its row cannot be found')
  expect(rows()).toEqual([['id'], [1]])
})

test('a record without its key, or whose key stands in two rows, is rejected', async () => {
  book({
    People: [
      ['id', 'email'],
      [1, 'a'],
      [2, 'b'],
      [3, 'a'],
    ],
  })
  const run = await send(
    [
      { id: 10, email: null },
      { id: 11, email: 'a' },
      { id: 12, email: 'b' },
      { id: 13, email: 'c' },
    ],
    { key: 'id', match: 'email' },
  )
  expect(run).toMatchObject({ delivered: 2, rejected: 2 })
  expect(await reasons()).toEqual([
    'the record has no email, by which google-sheets finds its object',
    'its key stands in rows 2 and 4 of People: keep one of them',
  ])
  expect(rows()).toEqual([
    ['id', 'email'],
    [1, 'a'],
    [12, 'b'],
    [3, 'a'],
    [13, 'c'],
  ])
})

// ---- formulas ------------------------------------------------------------------------------------------------------

const dangerous = ['=IMPORTXML("http://evil.test")', '+1+2', '-2+3', '@SUM(1)', '\t=1', '\r=1', "'=1"]

test('no text becomes a formula', async () => {
  book()
  await send(dangerous.map((text) => ({ text })))
  expect(rows().slice(1)).toEqual(dangerous.map((text) => [text]))
})

test('with USER_ENTERED text is read as if typed, and still no text becomes a formula', async () => {
  book()
  await send(
    dangerous.map((text) => ({ text })),
    { input: 'USER_ENTERED' },
  )
  expect(rows().slice(1)).toEqual(dangerous.map((text) => [text]))
  const typed = [
    ['12%', 0.12],
    ['-5.20', -5.2],
    ['+3', 3],
    ['2026-11-21', 46347],
    ['TRUE', true],
    ['1e3', 1000],
    ['', null],
  ] as const
  await send(
    typed.map(([text]) => ({ id: 1, text, n: 1 })),
    { input: 'USER_ENTERED', tab: 'Typed', name: 'typed' },
  )
  expect(
    rows('Typed')
      .slice(1)
      .map(([, text]) => text),
  ).toEqual(typed.map(([, value]) => value))
})

test('formulas are executed where they are allowed, and nowhere else', async () => {
  book()
  const record = { link: '=HYPERLINK("https://x.test")', name: '=1+1', other: '-1+1' }
  await send([record], { input: 'USER_ENTERED', formulas: ['link'] })
  expect(rows()[1]).toEqual([{ formula: record.link }, '=1+1', '-1+1'])
})

test('with USER_ENTERED keys stay what they are, and long numbers keep their digits', async () => {
  book()
  const records = [
    { id: '007', n: 1, long: '12345678901234567' },
    { id: '2026-11-21', n: 2, long: 9_007_199_254_740_993n },
  ]
  await send(records, { input: 'USER_ENTERED', key: 'id' })
  await send(
    records.map((record) => ({ ...record, n: record.n * 10 })),
    { input: 'USER_ENTERED', key: 'id' },
  )
  expect(rows()).toEqual([
    ['id', 'n', 'long'],
    ['007', 10, '12345678901234567'],
    ['2026-11-21', 20, '9007199254740993'],
  ])
})

// ---- a tab that cannot be used -------------------------------------------------------------------------------------

test.each<[string, Tabs, Partial<GoogleSheetsOptions>, string]>([
  [
    'two columns of one name',
    {
      People: [
        ['id', 'name', 'name'],
        [1, 'a', 'b'],
      ],
    },
    {},
    'row 1 of People has two columns name: rename or remove one of them',
  ],
  [
    'no match column',
    { People: [['name'], ['Ada']] },
    {},
    'row 1 of People has no column id, by which rows are to be found: add it with its values, or give another match',
  ],
  [
    'rows without a header',
    { People: [[], [1, 'Ada']] },
    {},
    "row 1 of People is blank, but there are rows below it: write the columns' names there, or give an empty tab",
  ],
])('%s ends the run with what to do, and nothing is written', async (_, tabs, options, message) => {
  book(tabs)
  const before = box.sheets.tabs(id).map((tab) => rows(tab))
  const run = send([{ id: 1, name: 'new' }], { key: 'id', ...options })
  const text = await run.then(
    (done) => String(done.reason),
    (error) => error.message,
  )
  expect(text).toContain(message)
  expect(box.sheets.tabs(id).map((tab) => rows(tab))).toEqual(before)
})

test('a tab that cannot be made ends the run, because no row is to blame', async () => {
  book()
  await expect(handlers({ tab: 'x'.repeat(101) }).insert([{ id: 1 }])).rejects.toThrow(FatalError)
  await expect(handlers({ tab: 'x'.repeat(101) }).insert([{ id: 1 }])).rejects.toThrow(
    'Invalid requests[0].addSheet: The sheet name must be between 1 and 100 characters long.',
  )
})

test('a tab that is a chart ends the run', async () => {
  book({ People: [] })
  const { port, close } = await between(box.url, (body) => {
    for (const { properties } of body['sheets']) properties.sheetType = 'OBJECT'
    return body
  })
  await expect(handlers({ endpoint: `http://127.0.0.1:${port}` }).insert([{ id: 1 }])).rejects.toThrow(
    'google-sheets: People is a chart or a connected sheet, without cells to write to: give another tab',
  )
  await close()
})

test('a header without rows gets the match column too', async () => {
  book({ People: [['name']] })
  await send([{ id: 1, name: 'Ada' }], { key: 'id' })
  expect(rows()).toEqual([
    ['name', 'id'],
    ['Ada', 1],
  ])
})

test('a field with an empty name is refused before it becomes a column', async () => {
  book()
  await expect(handlers().insert([{ '': 1 }])).rejects.toThrow(FatalError)
})

test('a spreadsheet that is full ends the run', async () => {
  book({ People: Array.from({ length: 384_615 }, () => ['x']) })
  await expect(send([{ x: 1 }])).rejects.toThrow('limit of 10000000 cells.; archive rows, or take blank columns away')
})

// ---- who may -------------------------------------------------------------------------------------------------------

test('a service account signs in, its key file given as an object, as text, or with escaped line ends', async () => {
  box.sheets.create({ id, sharedWith: ['robot@project.test'] })
  const file = box.sheets.serviceAccount('robot@project.test')
  const escaped = JSON.stringify({ ...file, private_key: file.private_key.replaceAll('\n', '\\n') })
  for (const credentials of [file, JSON.stringify(file), escaped]) {
    await send([{ id: 1 }], { credentials, name: String(box.requests.length) })
  }
  expect(rows()).toHaveLength(4)
  expect(box.requests.filter(({ path }) => path === '/token')).toHaveLength(3)
})

test('a spreadsheet that is not shared names the account to share it with', async () => {
  box.sheets.create({ id, sharedWith: ['somebody@else.test'] })
  const credentials = box.sheets.serviceAccount('robot@project.test')
  await expect(send([{ id: 1 }], { credentials })).rejects.toThrow(
    'google-sheets: 403 from spreadsheets.get: The caller does not have permission; share the spreadsheet with robot@project.test as an editor',
  )
})

test.each([
  ['SERVICE_DISABLED', 'enable the API there and wait a few minutes'],
  ['ACCESS_TOKEN_SCOPE_INSUFFICIENT', 'the token lacks the scope https://www.googleapis.com/auth/spreadsheets'],
])('a 403 for %s says what else to do', async (reason, remedy) => {
  book()
  box.faults.next({ kind: 'status', status: 403, reason })
  await expect(handlers().insert([{ id: 1 }])).rejects.toThrow(remedy)
})

test('a wrong token, and an unknown spreadsheet, stop the run with the next step', async () => {
  book()
  await expect(send([{ id: 1 }], { token: 'stolen-token' })).rejects.toThrow(
    'the config field token is wrong or has expired: renew it',
  )
  await expect(send([{ id: 1 }], { spreadsheet: 'elsewhere', name: 'other' })).rejects.toThrow(
    "404 from spreadsheets.get: Requested entity was not found.; check the id elsewhere, and that the spreadsheet is shared with the token's account",
  )
})

test('an account that Google does not know stops the run; a busy token endpoint is asked again, once per attempt', async () => {
  book()
  const elsewhere = await sandbox()
  const credentials = elsewhere.sheets.serviceAccount('unknown@project.test')
  await elsewhere.close()
  await expect(send([{ id: 1 }], { credentials })).rejects.toThrow(
    '400 from the token endpoint: invalid_grant Invalid grant: account not found; check the config field credentials',
  )
  const before = box.requests.length
  box.faults.next({ kind: 'status', status: 503, when: ({ path }) => path === '/token' })
  await send([{ id: 1 }], { credentials: box.sheets.serviceAccount(), name: 'busy' })
  expect(
    box.requests
      .slice(before)
      .filter(({ path }) => path === '/token')
      .map(({ status }) => status),
  ).toEqual([503, 200])
  expect(rows()).toEqual([['id'], [1]])
})

test('an access token that is refused is renewed once', async () => {
  book()
  box.faults.next({ kind: 'status', status: 401, when: reads })
  const credentials = box.sheets.serviceAccount()
  expect(await send([{ id: 1 }], { credentials })).toMatchObject({ delivered: 1 })
  const asked = box.requests.map(({ path, status }) => [path === '/token', status])
  expect(asked.slice(0, 4)).toEqual([
    [true, 200],
    [false, 401],
    [true, 200],
    [false, 200],
  ])
  box.faults.next({ kind: 'status', status: 401, when: reads, times: 2 })
  await expect(send([{ id: 1 }], { credentials, name: 'twice' })).rejects.toThrow(
    'the config field credentials is refused: renew it',
  )
})

// ---- config --------------------------------------------------------------------------------------------------------

describe('config', () => {
  const resolve = (given: object, env: NodeJS.ProcessEnv = {}) => {
    const { config, name } = definitionOf(people(), 'test')
    return resolveConfig({ name, schema: config!, given: { ...given }, folder: state, env }) as Promise<AnyRow>
  }

  test('is taken from the environment, a key file as one variable or as two', async () => {
    expect(await resolve({}, { DESTINATION__GOOGLE_SHEETS__TOKEN: 'ya29.token' })).toMatchObject({
      token: 'ya29.token',
    })
    const { client_email, private_key } = box.sheets.serviceAccount()
    const CREDENTIALS = JSON.stringify({ client_email, private_key, project_id: 'p' })
    const expected = { credentials: { client_email, private_key } }
    expect(await resolve({}, { GOOGLE_SHEETS__CREDENTIALS: CREDENTIALS })).toEqual(expected)
    const two = {
      GOOGLE_SHEETS__CREDENTIALS__CLIENT_EMAIL: client_email,
      GOOGLE_SHEETS__CREDENTIALS__PRIVATE_KEY: private_key,
    }
    expect(await resolve({}, two)).toEqual(expected)
  })

  test.each<[string, object, string]>([
    [
      'nothing to sign in with',
      {},
      "it needs credentials (a service account's key file) or token (an OAuth access token), one of the two",
    ],
    ['both ways', { token: 'ya29.x', credentials: '{}' }, 'one of the two'],
    ['an empty token', { token: '' }, 'token: must be an OAuth access token'],
    [
      'the path of a key file',
      { credentials: '/etc/key.json' },
      "credentials: must be the content of a service account's key file (not its path), with client_email and private_key",
    ],
    ['a key file without a key', { credentials: { client_email: 'x@y.test' } }, 'with client_email and private_key'],
    [
      'a key that is none',
      { credentials: { client_email: 'x@y.test', private_key: 'none-of-it' } },
      'private_key is not a private key in PEM form',
    ],
    [
      'an endpoint that is no address',
      { token: 'ya29.x', endpoint: 'localhost' },
      'endpoint: must be the address of a server, such as http://127.0.0.1:4010',
    ],
  ])('%s is refused before anything is sent', async (_, given, message) => {
    await expect(resolve(given)).rejects.toThrow(message)
    await expect(resolve(given)).rejects.toThrow(ConfigError)
  })

  test.each<[Partial<GoogleSheetsOptions>, string]>([
    [{ spreadsheet: '' }, 'google-sheets: spreadsheet is empty'],
    [{ tab: '' }, 'google-sheets: tab is empty'],
    [{ input: 'raw' as 'RAW' }, "google-sheets: input is \"raw\"; it must be 'RAW' or 'USER_ENTERED'"],
    [{ formats: { score: '' } }, 'google-sheets: formats has no pattern for score'],
    [{ formulas: ['x'] }, "google-sheets: formulas are only executed with input: 'USER_ENTERED'"],
  ])('option %j is refused at once', (options, message) => {
    expect(() => people(options)).toThrow(ConfigError)
    expect(() => people(options)).toThrow(message)
  })

  test('the default rate is what Google grants, with one write a batch or two', () => {
    expect(definitionOf(people(), '').policy).toMatchObject({ rate: { limit: 60, window: 60_000 }, concurrency: 1 })
    expect(definitionOf(people({ input: 'USER_ENTERED' }), '').policy.rate).toEqual({ limit: 30, window: 60_000 })
  })

  test('a client that is not installed stops the run, with what to install', async () => {
    book()
    vi.doMock('@googleapis/sheets', () => {
      throw new Error('not there')
    })
    try {
      await expect(send([{ id: 1 }])).rejects.toThrow(ConfigError)
      await expect(send([{ id: 1 }])).rejects.toThrow('npm install @googleapis/sheets@14')
    } finally {
      vi.doUnmock('@googleapis/sheets')
    }
    expect(await send([])).toMatchObject({ resumed: { delivered: 1 } })
  })
})

// ---- failures that prove something -----------------------------------------------------------------------------------

test.each<[string, Fault]>([
  ['a 500', { kind: 'status', status: 500 }],
  ['a cut connection', { kind: 'cut' }],
  ['a web page', { kind: 'html' }],
  ['a quota of reads', { kind: 'status', status: 429 }],
  ['a quota told as a 403', { kind: 'status', status: 403, reason: 'userRateLimitExceeded' }],
])('%s while looking is no unknown outcome: the batch goes again', async (_, fault) => {
  book()
  box.faults.next({ ...fault, when: reads })
  expect(await send([{ id: 1 }], { policy: { onUnknown: 'hold' } })).toMatchObject({ status: 'done', delivered: 1 })
  expect(rows()).toEqual([['id'], [1]])
  expect(box.requests.filter(writes)).toHaveLength(1)
})

test('a page instead of an answer says where to look, when it stays', async () => {
  book()
  box.faults.next({ kind: 'html', times: Number.POSITIVE_INFINITY })
  await expect(handlers().insert([{ id: 1 }])).rejects.toThrow(
    `google-sheets: spreadsheets.get was answered, but not by Google: a proxy or a sign-in page may stand in between; open ${box.url} in a browser`,
  )
})

test('Retry-After is waited for, in seconds or as a date', async () => {
  book()
  box.faults.next({ kind: 'status', status: 429, retryAfter: 1, when: writes })
  await send([{ id: 1 }])
  const [refused, sent] = box.requests.filter(writes)
  expect(sent!.time.getTime() - refused!.time.getTime()).toBeGreaterThanOrEqual(990)

  const date = new Date(Math.ceil(Date.now() / 1000) * 1000 + 1000)
  box.faults.next({ kind: 'status', status: 429, retryAfter: date, when: writes })
  await send([{ id: 2 }])
  expect(box.requests.findLast(writes)!.time.getTime()).toBeGreaterThanOrEqual(date.getTime() - 10)
  expect(rows()).toEqual([['id'], [1], [2]])
})

test('a refused batch is split until the bad row stands alone', async () => {
  book()
  box.faults.next({
    kind: 'status',
    status: 400,
    times: Number.POSITIVE_INFINITY,
    when: (request) => writes(request) && bodyOf(request).includes('poison'),
  })
  const records = Array.from({ length: 20 }, (_, row) => ({ id: row, name: row === 13 ? 'poison' : `n${row}` }))
  expect(await send(records)).toMatchObject({ delivered: 19, rejected: 1 })
  expect(
    rows()
      .slice(1)
      .map(([id]) => id)
      .toSorted((a, b) => Number(a) - Number(b)),
  ).toEqual(records.map(({ id }) => id).filter((id) => id !== 13))
  expect(await reasons()).toEqual([
    expect.stringContaining('google-sheets: 400 from spreadsheets.batchUpdate: INVALID_ARGUMENT'),
  ])
})

test('a 400 while looking stops the run, because no row is to blame', async () => {
  book()
  box.faults.next({ kind: 'status', status: 400, when: reads, times: Number.POSITIVE_INFINITY })
  await expect(send([{ id: 1 }])).rejects.toThrow('google-sheets: 400 from spreadsheets.get')
})

test('a server that is not there leaves the rows pending', async () => {
  book()
  const endpoint = box.url
  await box.close()
  const run = await send([{ id: 1 }], { endpoint, policy: { retryFor: '200ms' } })
  expect(run).toMatchObject({ status: 'incomplete', pending: 1, unknown: 0 })
})

test('a server that goes away before the write leaves nothing unknown', async () => {
  book({ People: [['id']] })
  const away = await between(box.url, (body) => {
    if (body['valueRanges']?.length === 2) void away.close()
    return body
  })
  await expect(handlers({ endpoint: `http://127.0.0.1:${away.port}` }).insert([{ id: 2 }])).rejects.toThrow(
    RetryableError,
  )
  expect(box.requests.filter(writes)).toEqual([])
})

test('an error tells neither a token nor a row', async () => {
  book()
  const { insert } = handlers()
  for (const fault of [
    { kind: 'status', status: 500 },
    { kind: 'cut' },
    { kind: 'status', status: 400 },
    { kind: 'status', status: 403 },
  ] as const) {
    box.faults.next({ ...fault, when: writes })
    const error = await insert([{ id: 1, name: 'Ada Lovelace' }]).catch((error) => error)
    expect(error).toBeInstanceOf(Error)
    const told = inspect(error, { depth: 9, showHidden: true })
    expect(told).not.toContain(box.sheets.token)
    expect(told).not.toContain('Ada')
  }
})

// ---- lost answers ----------------------------------------------------------------------------------------------------

const lost: [string, Fault][] = [
  ['cut before the write', { kind: 'cut' }],
  ['cut after the write', { kind: 'cut', applied: true }],
  ['503 before the write', { kind: 'status', status: 503 }],
  ['503 after the write', { kind: 'status', status: 503, applied: true }],
  ['409', { kind: 'status', status: 409 }],
  ['a web page before the write', { kind: 'html' }],
  ['a web page after the write', { kind: 'html', applied: true }],
]
const inputs = ['RAW', 'USER_ENTERED'] as const

describe.each(inputs)('with %s', (input) => {
  // with USER_ENTERED the last write of a batch is the one that holds its rows
  const writesRows = (request: Pick<ApiRequest, 'method' | 'path' | 'body'>) =>
    writes(request) && bodyOf(request).includes('same')

  test.each(lost)('%s: no row is appended twice, and none is lost, not even among equal rows', async (_, fault) => {
    book()
    await send([{ text: 'same' }, { text: 'same' }], { input, name: 'before' })
    box.faults.next({ ...fault, when: writesRows })
    const run = await send([{ text: 'same' }, { text: 'same' }, { text: 'same' }], {
      input,
      policy: { batchSize: 2, onUnknown: 'hold' },
    })
    expect(run).toMatchObject({ status: 'done', delivered: 3, unknown: 0, resent: 0 })
    expect(rows()).toEqual([['text'], ['same'], ['same'], ['same'], ['same'], ['same']])
  })

  test.each(lost)('%s: an upsert writes each key once', async (_, fault) => {
    book({
      People: [
        ['id', 'text'],
        [1, 'old'],
      ],
    })
    box.faults.next({ ...fault, when: writesRows })
    const records = [
      { id: 1, text: 'same' },
      { id: 2, text: 'same' },
      { id: 3, text: 'same' },
    ]
    expect(await send(records, { input, key: 'id', policy: { batchSize: 2 } })).toMatchObject({
      status: 'done',
      delivered: 3,
    })
    expect(rows()).toEqual([
      ['id', 'text'],
      [1, 'same'],
      [2, 'same'],
      [3, 'same'],
    ])
  })

  test.each([true, false])(
    'after a crash the next process finds out whether the rows arrived (%s)',
    async (applied) => {
      book()
      await send([{ text: 'same' }], { input, name: 'before' })
      box.faults.next({ kind: 'cut', applied, when: writesRows })
      const sent = () => box.requests.some((request) => writesRows(request) && request.status === undefined)
      box.faults.next({
        kind: 'cut',
        when: (request) => reads(request) && sent(),
        times: Number.POSITIVE_INFINITY,
      })
      const first = await send([{ text: 'same' }, { text: 'same' }], { input, policy: { retryFor: '100ms' } })
      expect(first).toMatchObject({ status: 'incomplete', unknown: 2 })
      box.faults.clear()
      // `send` makes everything anew, as another process would; only the state is the same
      expect(await send([], { input })).toMatchObject({ status: 'done', resumed: { delivered: 2 } })
      expect(rows()).toEqual([['text'], ['same'], ['same'], ['same']])
    },
  )

  test('a request that lands after its retry does no harm', async () => {
    book({ People: [['text']] })
    box.faults.next({ kind: 'delay', delay: '700ms', when: writesRows })
    const records = Array.from({ length: 6 }, () => ({ text: 'same' }))
    const run = await send(records, { input, policy: { batchSize: 2, timeout: '250ms' } })
    expect(run).toMatchObject({ delivered: 6 })
    await expect
      .poll(() => box.requests.filter(({ status, method }) => status === undefined && method === 'POST').length)
      .toBe(0)
    expect(rows()).toEqual([['text'], ...records.map(() => ['same'])])
  })
})

test.each(inputs)('an append sent again after it arrived adds nothing (%s)', async (input) => {
  book({ People: [['text']] })
  const { insert } = handlers({ input })
  const batch = [{ text: 'same' }, { text: 'same' }]
  const isLast = (request: ApiRequest) => writes(request) && bodyOf(request).includes('same')
  box.faults.next({ kind: 'cut', applied: true, when: isLast })
  await expect(insert(batch, { idempotencyKey: 'a' })).rejects.toThrow('is not known')
  expect(await insert(batch, { idempotencyKey: 'a', attempt: 2 })).toEqual([])
  await insert([{ text: 'same' }], { idempotencyKey: 'b' })
  expect(rows()).toEqual([['text'], ['same'], ['same'], ['same']])
})

test('an append that lands while its retry looks is seen', async () => {
  book({ People: [['text']] })
  let landing: Promise<unknown> | undefined
  const { port, close } = await between(box.url, async (body) => {
    const [lost] = box.requests.filter(writes)
    if (body['sheets'] && lost) landing ??= handChange(...(lost.body as { requests: object[] }).requests)
    await landing
    return body
  })
  const { insert } = handlers({ endpoint: `http://127.0.0.1:${port}` })
  box.faults.next({ kind: 'cut', when: writes })
  const batch = [{ text: 'same' }, { text: 'same' }]
  await expect(insert(batch, { idempotencyKey: 'a' })).rejects.toThrow('is not known')
  expect(await insert(batch, { idempotencyKey: 'a', attempt: 2 })).toEqual([])
  expect(rows()).toEqual([['text'], ['same'], ['same']])
  expect(landing).toBeDefined()
  await close()
})

/** Aborts as soon as the next write is at the server, which carries it out some time later. */
function cutOffWhenItArrives(): AbortSignal {
  const controller = new AbortController()
  const when: typeof writes = (...request) => {
    if (!writes(...request)) return false
    setImmediate(() => controller.abort(new DOMException('no answer in time', 'TimeoutError')))
    return true
  }
  box.faults.next({ kind: 'delay', delay: '400ms', when })
  return controller.signal
}

test('rows of an unanswered append are kept free until it is known whether they came', async () => {
  book({ People: [['text']] })
  const { insert, verify } = handlers()
  const signal = cutOffWhenItArrives()
  await expect(insert([{ text: 'late' }, { text: 'late' }], { idempotencyKey: 'a', signal })).rejects.toThrow(
    'is not known',
  )
  await insert([{ text: 'next' }], { idempotencyKey: 'b' })
  await expect.poll(() => rows().length, { timeout: 2_000 }).toBe(4)
  await expect.poll(() => rows()).toEqual([['text'], ['late'], ['late'], ['next']])
  const asked = [{ text: 'late' }, { text: 'late' }]
  expect(await verify(asked, { idempotencyKey: 'a' })).toEqual(asked)
  expect(await verify(asked, { idempotencyKey: 'c' })).toEqual([])
})

test('a retry takes the row that was kept free for it, unless somebody has taken it', async () => {
  book({ People: [['id', 'text']] })
  const { upsert } = handlers()
  const attempt = (id: number, number = 1) =>
    upsert([{ id, text: 'x' }], { match: ['id'], idempotencyKey: `k${id}`, attempt: number })
  for (const id of [1, 2]) {
    box.faults.next({ kind: 'cut', when: writes })
    await expect(attempt(id)).rejects.toThrow('is not known')
  }
  await attempt(3)
  await handWrite('People!A2', [['', 'typed by hand']])
  await attempt(1, 2)
  await attempt(2, 2)
  expect(rows()).toEqual([
    ['id', 'text'],
    [null, 'typed by hand'],
    [2, 'x'],
    [3, 'x'],
    [1, 'x'],
  ])
})

test('rows stay reserved while an earlier attempt may still land, whatever becomes of its retry', async () => {
  book({ People: [['id']] })
  const { insert } = handlers()
  const late = { idempotencyKey: 'late' }
  await expect(insert([{ id: 1 }], { ...late, signal: cutOffWhenItArrives() })).rejects.toThrow('is not known')
  box.faults.next({ kind: 'status', status: 429, when: writes })
  await expect(insert([{ id: 1 }], { ...late, attempt: 2 })).rejects.toThrow(RetryableError)
  await insert([{ id: 2 }])
  await insert([{ id: 1 }], { ...late, attempt: 3 })
  await expect.poll(() => box.requests.filter(({ status }) => status === undefined)).toEqual([])
  expect(rows()).toEqual([['id'], [1], [2]])
})

test('rows of a call that certainly wrote nothing are not kept free', async () => {
  book({ People: [['id']] })
  const { insert } = handlers()
  box.faults.next({ kind: 'status', status: 429, when: writes })
  await expect(insert([{ id: 1 }], { idempotencyKey: 'a' })).rejects.toThrow(RetryableError)
  await insert([{ id: 2 }], { idempotencyKey: 'b' })
  await insert([{ id: 1 }], { idempotencyKey: 'a', attempt: 2 })
  expect(rows()).toEqual([['id'], [2], [1]])
})

test('verify does not vouch for a record that would be rejected', async () => {
  book()
  const { insert, verify } = handlers()
  const records = [{ text: 'good' }, { text: 'x'.repeat(50_001) }]
  await insert(records, { idempotencyKey: 'a' })
  expect(await verify(records, { idempotencyKey: 'a' })).toEqual([records[0]])
})

test('an answer that does not confirm every request leaves the outcome unknown', async () => {
  book({ People: [['id']] })
  for (const input of inputs) {
    const { port, close } = await between(box.url, (body) => {
      if (body['replies'] && input === 'RAW') (body['replies'] as unknown[]).pop()
      for (const response of (body['responses'] ?? []) as AnyRow[]) response['updatedRange'] = 'People!A1'
      return body
    })
    const { insert } = handlers({ input, endpoint: `http://127.0.0.1:${port}` })
    const method = input === 'RAW' ? 'spreadsheets.batchUpdate' : 'values.batchUpdate'
    const error = await insert([{ id: 1 }]).catch((error) => error)
    expect(error.message).toContain(`${method} was answered, but the answer does not confirm what was sent`)
    expect(error.constructor).toBe(Error)
    await close()
  }
})

test('the latest hundred appended batches stay noted, for each sync apart', async () => {
  book({ People: [['id']] })
  const { insert, verify } = handlers()
  for (let batch = 0; batch < 105; batch++) await insert([{ id: batch }], { idempotencyKey: `k${batch}` })
  const noted = async (idempotencyKey: string, sync?: string) =>
    (await verify([{ id: 0 }], { idempotencyKey, ...(sync && { sync }) })).length === 1
  expect([await noted('k4'), await noted('k5'), await noted('k104'), await noted('k104', 'other')]).toEqual([
    false,
    true,
    true,
    false,
  ])
})

// ---- people who work on the tab --------------------------------------------------------------------------------------

async function handWrite(range: string, values: unknown[][]): Promise<void> {
  const url = `${box.url}/v4/spreadsheets/${id}/values/${encodeURIComponent(range)}?valueInputOption=RAW`
  const headers = { authorization: `Bearer ${box.sheets.token}`, 'content-type': 'application/json' }
  const response = await fetch(url, { method: 'PUT', headers, body: JSON.stringify({ values }) })
  expect(response.status).toBe(200)
}

async function handChange(...requests: object[]): Promise<void> {
  const url = `${box.url}/v4/spreadsheets/${id}:batchUpdate`
  const headers = { authorization: `Bearer ${box.sheets.token}`, 'content-type': 'application/json' }
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ requests }) })
  expect(await response.text()).toContain('replies')
}

async function sheetId(): Promise<number> {
  const response = await fetch(`${box.url}/v4/spreadsheets/${id}`, {
    headers: { authorization: `Bearer ${box.sheets.token}` },
  })
  const { sheets } = (await response.json()) as { sheets: { properties: { title: string; sheetId: number } }[] }
  return sheets.find(({ properties }) => properties.title === 'People')!.properties.sheetId
}

test('a row added by hand between two batches is not overwritten', async () => {
  book({ People: [['id']] })
  const { insert } = handlers()
  await insert([{ id: 1 }])
  await handWrite('People!B3', [['by hand']])
  await insert([{ id: 2 }])
  expect(rows()).toEqual([['id'], [1], [null, 'by hand'], [2]])
})

test('rows taken away between two batches leave no gap', async () => {
  book({ People: [['id'], ...Array.from({ length: 9 }, (_, row) => [row])] })
  const { insert } = handlers()
  await insert([{ id: 'a' }, { id: 'b' }])
  const range = { sheetId: await sheetId(), dimension: 'ROWS', startIndex: 3, endIndex: 12 }
  await handChange({ deleteDimension: { range } })
  await insert([{ id: 'c' }])
  expect(rows()).toEqual([['id'], [0], [1], ['c']])
})

test.each<[string, () => Promise<void>, unknown[][]]>([
  [
    'a grid cut down',
    async () =>
      handChange({
        deleteDimension: { range: { sheetId: await sheetId(), dimension: 'ROWS', startIndex: 2, endIndex: 1000 } },
      }),
    [
      ['id', 'name'],
      [1, 'a'],
      [3, 'c'],
    ],
  ],
  [
    'a tab deleted',
    async () => handChange({ deleteSheet: { sheetId: await sheetId() } }),
    [
      ['id', 'name'],
      [3, 'c'],
    ],
  ],
  [
    'columns moved',
    async () => {
      await handChange({
        insertDimension: { range: { sheetId: await sheetId(), dimension: 'COLUMNS', startIndex: 0, endIndex: 1 } },
      })
      await handWrite('People!A1', [['new']])
    },
    [
      ['new', 'id', 'name'],
      [null, 1, 'a'],
      [null, 2, 'b'],
      [null, 3, 'c'],
    ],
  ],
])('%s between two batches is noticed', async (_, change, expected) => {
  book({ Other: [], People: [['id', 'name']] })
  const { upsert } = handlers()
  const match = ['id']
  await upsert(
    [
      { id: 1, name: 'a' },
      { id: 2, name: 'b' },
    ],
    { match },
  )
  await change()
  const record = [{ id: 3, name: 'c' }]
  await upsert(record, { match }).catch((error) => {
    expect(error).toBeInstanceOf(RetryableError)
    return upsert(record, { match, attempt: 2 })
  })
  expect(rows()).toEqual(expected)
})

test('calls at the same time take turns on the tab', async () => {
  book()
  const { insert } = handlers()
  await Promise.all(
    [1, 2, 3, 4].map((batch) =>
      insert(
        [
          { batch, n: 1 },
          { batch, n: 2 },
        ],
        { idempotencyKey: `k${batch}` },
      ),
    ),
  )
  expect(rows().slice(1)).toEqual(
    [1, 2, 3, 4].flatMap((batch) => [
      [batch, 1],
      [batch, 2],
    ]),
  )
})

test('a batch costs one read and one write', async () => {
  book()
  await send(
    Array.from({ length: 50 }, (_, row) => ({ id: row })),
    { key: 'id', policy: { batchSize: 10 } },
  )
  expect(box.requests.filter(writes)).toHaveLength(5)
  expect(box.requests.filter(reads)).toHaveLength(5)
})

// ---- replace ---------------------------------------------------------------------------------------------------------

test('replace leaves exactly the result in the tab, and other tabs alone', async () => {
  book({ Other: [['mine']], People: [['old', 'x', 'y'], ...Array.from({ length: 30 }, (_, row) => [row, 1, 2])] })
  const { replace } = handlers()
  const rejected = await replace([
    [{ id: 1, name: 'a' }, { id: 2 }],
    [
      { id: 3, name: 'x'.repeat(50_001) },
      { id: 4, name: null, more: true },
    ],
  ])
  expect(rows()).toEqual([['id', 'name', 'more'], [1, 'a'], [2], [4, null, true]])
  expect(rejected.map(({ record }) => record['id'])).toEqual([3])
  expect(rows('Other')).toEqual([['mine']])
})

test('replace with nothing keeps the header and makes no tab', async () => {
  book({ People: [['id'], [1], [2]] })
  await handlers().replace([])
  expect(rows()).toEqual([['id']])
  await handlers({ tab: 'Missing' }).replace([])
  expect(box.sheets.tabs(id)).toEqual(['People'])
})

test('replace makes the tab, grows it, and keeps to a write a second', async () => {
  book()
  await handlers().replace([[{ id: 1 }], Array.from({ length: 1_200 }, (_, row) => ({ id: row }))])
  expect(rows()).toHaveLength(1_202)
  const times = box.requests.filter(writes).map(({ time }) => time.getTime())
  expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(990)
})

// ---- verify() of a sync ----------------------------------------------------------------------------------------------

/** What `verify()` finds in the tab, after the records were sent. */
async function driftOf(records: AnyRow[], options: Partial<GoogleSheetsOptions> & { key?: string | string[] } = {}) {
  const { key = 'id', ...rest } = options
  const drift = await sync({ name: 'people', from: records, to: people(rest), state, log, key }).verify()
  const { known, same, missing, different, unexpected } = drift
  const differences: unknown[] = []
  for await (const { kind, match, fields, found } of drift.differences) differences.push([kind, match, fields, found])
  return { counts: { known, same, missing, different, unexpected }, differences }
}

const allTheSame = (known: number) => ({ known, same: known, missing: 0, different: 0, unexpected: 0 })

test('verify finds everything as it was sent, whatever Sheets makes of the values and wherever the columns stand', async () => {
  book({ People: [['note', 'name', '', 'id']] })
  const records = [
    { id: 1, name: 'Ada', zero: 0, no: false, empty: '', none: null, half: 0.1, nan: Number.NaN },
    { id: 2n, name: undefined, safe: 9_007_199_254_740_991n, big: 9_007_199_254_740_993n, decimal: '0.10' },
    {
      id: '3',
      day: '2026-11-21',
      instant: new Date('2026-11-21T10:00:00.123Z'),
      list: [1, 2n ** 53n + 1n, null],
      inside: { bytes: new Uint8Array([1, 2]), endless: [Number.NEGATIVE_INFINITY], absent: undefined },
      object: { a: {} },
    },
    { id: '=1+1', name: '=1+1' },
  ]
  await send(records, { key: 'id' })
  await handWrite('People!A2', [['a remark']])
  expect(await driftOf(records)).toEqual({ counts: allTheSame(4), differences: [] })
})

test('verify finds cells that were changed, rows that were deleted, added or doubled, and leaves rows without a key alone', async () => {
  book()
  const records = [1, 2, 3, 4].map((id) => ({ id, name: `n${id}`, score: id }))
  await send(records, { key: 'id' })
  await handWrite('People!A2', [
    ['1', 'n1', 10], // the key was typed anew, as text
    [2, '', 2],
    [5, 'by hand', 5],
    [4, 'n4', 4],
    ['', '', 'sum'],
    [4, 'n4', 4],
  ])
  expect(await driftOf(records)).toEqual({
    counts: { known: 4, same: 1, missing: 1, different: 2, unexpected: 2 },
    differences: [
      ['missing', 3, [], undefined],
      ['different', 1, ['score'], { id: '1', name: 'n1', score: 10 }],
      ['different', 2, ['name'], { id: '2', name: null, score: 2 }],
      ['unexpected', '5', [], { id: '5', name: 'by hand', score: 5 }],
      ['unexpected', '4', [], { id: '4', name: 'n4', score: 4 }],
    ],
  })
})

test('verify writes nothing, reads a large tab in pages, and asks at most once a second', async () => {
  book()
  const wide = Object.fromEntries(Array.from({ length: 24 }, (_, column) => [`c${column}`, column]))
  const records = Array.from({ length: 4_500 }, (_, row) => ({ id: row, ...wide }))
  await send(records, { key: 'id' })
  const before = box.requests.length
  expect(await driftOf(records)).toEqual({ counts: allTheSame(4_500), differences: [] })
  const asked = box.requests.slice(before)
  expect(asked.filter(writes)).toEqual([])
  const pages = asked.filter(({ path }) => path.includes('values:batchGet')).slice(-3)
  expect(pages[2]!.time.getTime() - pages[0]!.time.getTime()).toBeGreaterThanOrEqual(1_990)
})

test('verify finds a tab that is gone, a header alone, and a column that was deleted', async () => {
  book()
  const records = [
    { id: 1, name: 'a' },
    { id: 2, name: 'b' },
  ]
  await send(records, { key: 'id' })
  await handWrite('People!B1', [['renamed']])
  expect(await driftOf(records)).toMatchObject({ counts: { same: 0, different: 2 } })
  await handWrite('People!A1', [['other', 'name']])
  await expect(driftOf(records)).rejects.toThrow('row 1 of People has no column id, by which rows are to be found')
  const all = { startIndex: 1, endIndex: 1000 }
  await handChange({ deleteDimension: { range: { sheetId: await sheetId(), dimension: 'ROWS', ...all } } })
  expect(await driftOf(records)).toMatchObject({ counts: { missing: 2 } })
  await handChange({ deleteSheet: { sheetId: await sheetId() } })
  expect(await driftOf(records)).toMatchObject({ counts: { known: 2, missing: 2, unexpected: 0 } })
})

test('verify compares only the columns that are written, by several match fields too', async () => {
  book()
  const records = [
    { shop: 'a', day: 1, sum: 1, secret: 's' },
    { shop: 'a', day: 2, sum: 2, secret: 's' },
  ]
  const key = ['shop', 'day']
  await send(records, { key, columns: ['sum'] })
  expect(await driftOf(records, { key, columns: ['sum'] })).toEqual({ counts: allTheSame(2), differences: [] })
  await handWrite('People!C3', [[7]])
  expect(await driftOf(records, { key, columns: ['sum'] })).toMatchObject({
    differences: [['different', ['a', 2], ['sum'], { shop: 'a', day: '2', sum: 7 }]],
  })
})

test('verify does not take for drift what Google read as if it were typed', async () => {
  book()
  const records = [
    { id: '007', name: 'Ada', share: '12%', day: '2026-11-21', yes: 'TRUE', n: 3 },
    { id: '2', name: '-', share: '+3', day: '1e3', yes: 'false', n: 4 },
  ]
  await send(records, { input: 'USER_ENTERED', key: 'id' })
  const options = { input: 'USER_ENTERED' } as const
  expect(await driftOf(records, options)).toEqual({ counts: allTheSame(2), differences: [] })
  await handWrite('People!B2', [['Eve', 9, 9, false, 5]])
  expect(await driftOf(records, options)).toMatchObject({ differences: [['different', '007', ['name', 'n'], {}]] })
})

test('verify of a quota begins again, and a spreadsheet that is not shared is named', async () => {
  book()
  await send([{ id: 1 }], { key: 'id' })
  box.faults.next({ kind: 'status', status: 429, when: ({ path }) => path.includes('values:batchGet') })
  expect(await driftOf([{ id: 1 }])).toMatchObject({ counts: allTheSame(1) })
  box.faults.next({ kind: 'status', status: 404, when: reads })
  await expect(driftOf([{ id: 1 }])).rejects.toThrow('check the id book')
})

// ---- update and delete -----------------------------------------------------------------------------------------------

/** Sends records in a mode by key. */
function keyed(records: AnyRow[], mode: 'update' | 'mirror', policy: Policy = {}, name = 'people'): Promise<Run> {
  const to = people().with({ ...quick, ...policy })
  return sync({ name, from: records, to, state, log, key: 'id', mode }).run({ allowDeletes: true })
}

test('update changes the rows that are there, and rejects the others without adding a row, a column or a tab', async () => {
  book({
    People: [
      ['id', 'name', 'note'],
      [1, 'a', 'mine'],
      [2, 'b', 'mine'],
    ],
  })
  const records = [
    { id: 2, name: 'B', note: null },
    { id: 3, name: 'C' },
    { id: '1', name: 'A' },
  ]
  expect(await keyed(records, 'update')).toMatchObject({ delivered: 2, rejected: 1 })
  expect(await reasons()).toEqual(['no row of People has its key'])
  expect(rows()).toEqual([
    ['id', 'name', 'note'],
    [1, 'A', 'mine'],
    [2, 'B'],
  ])
  const rejected = await handlers({ tab: 'Missing' }).update([{ id: 1, more: 1 }], { match: ['id'] })
  expect(rejected.map(({ reason }) => reason)).toEqual(['no row of Missing has its key'])
  expect(box.sheets.tabs(id)).toEqual(['People'])
})

test('a row that is gone from the source is deleted, wherever rows stand by then, and all others stay', async () => {
  book({ People: [['id', 'name'], [], [null, 'a remark']] })
  const records = Array.from({ length: 9 }, (_, row) => ({ id: row, name: `n${row}` }))
  await keyed(records, 'mirror')
  const range = { sheetId: await sheetId(), dimension: 'ROWS', startIndex: 1, endIndex: 2 }
  await handChange({ deleteDimension: { range } }) // somebody closes the gap
  const left = records.filter((_, row) => ![0, 3, 4, 8].includes(row))
  expect(await keyed(left, 'mirror')).toMatchObject({ unchanged: 5, deletes: { delivered: 4 } })
  expect(rows()).toEqual([['id', 'name'], [null, 'a remark'], ...left.map(({ id, name }) => [id, name])])
})

test('a row that somebody has deleted is done, and one whose key stands twice is left to people', async () => {
  book()
  await keyed([{ id: 1 }, { id: 2 }, { id: 3 }], 'mirror')
  await handWrite('People!A2', [['x'], [2], [3], [3]])
  expect(await keyed([], 'mirror')).toMatchObject({ deletes: { delivered: 2, rejected: 1 } })
  expect(await reasons()).toEqual(['its key stands in rows 4 and 5 of People: keep one of them'])
  expect(rows()).toEqual([['id'], ['x'], [3], [3]])
})

test('deleting all rows below a frozen header leaves the header', async () => {
  book({ People: [['id'], [1], [2]] })
  const gridProperties = { rowCount: 3, frozenRowCount: 1 }
  await handChange({
    updateSheetProperties: {
      properties: { sheetId: await sheetId(), gridProperties },
      fields: 'gridProperties.rowCount,gridProperties.frozenRowCount',
    },
  })
  const { remove, upsert } = handlers()
  const match = ['id']
  expect(await remove([{ id: 1 }, { id: 2 }], { match })).toEqual([])
  expect(rows()).toEqual([['id']])
  await upsert([{ id: 3 }, { id: 4 }], { match })
  expect(rows()).toEqual([['id'], [3], [4]])
})

test.each<[string, Fault]>([
  ['cut before it', { kind: 'cut' }],
  ['cut after it', { kind: 'cut', applied: true }],
  ['503 after it', { kind: 'status', status: 503, applied: true }],
  ['a web page after it', { kind: 'html', applied: true }],
])('a delete that is repeated, %s, takes no neighbour away', async (_, fault) => {
  book({ People: [['id'], [1], [2], [1.5], [3]] })
  const { remove } = handlers()
  const call = { match: ['id'], idempotencyKey: 'k' }
  box.faults.next({ ...fault, when: writes })
  await expect(remove([{ id: 1 }, { id: 2 }], call)).rejects.toThrow('is not known')
  expect(await remove([{ id: 1 }, { id: 2 }], { ...call, attempt: 2 })).toEqual([])
  expect(rows()).toEqual([['id'], [1.5], [3]])
})

test('a row that somebody has added since its delete was applied is left alone by the repeated one', async () => {
  book({ People: [['id'], [1], [2]] })
  const { remove } = handlers()
  const call = { match: ['id'], idempotencyKey: 'k' }
  box.faults.next({ kind: 'cut', applied: true, when: writes })
  await expect(remove([{ id: 1 }], call)).rejects.toThrow('is not known')
  await handWrite('People!A3', [[1]])
  expect(await remove([{ id: 1 }], { ...call, attempt: 2 })).toEqual([])
  expect(rows()).toEqual([['id'], [2], [1]])
})

test('the latest deletes stay noted, in whatever order Google lists them', async () => {
  book({ People: [['id'], ...Array.from({ length: 103 }, (_, row) => [row])] })
  const { port, close } = await between(box.url, (body) => {
    for (const sheet of (body['sheets'] ?? []) as AnyRow[]) sheet['developerMetadata']?.reverse()
    return body
  })
  const { remove, verify } = handlers({ endpoint: `http://127.0.0.1:${port}` })
  // another run each time, so that the notes are read anew
  for (let id = 0; id < 103; id++) {
    await remove([{ id }], { match: ['id'], idempotencyKey: `k${id}`, run: `run ${id}` })
  }
  const noted = async (id: number) => (await verify([{ id }], { idempotencyKey: `k${id}` })).length === 1
  expect([await noted(2), await noted(3), await noted(102)]).toEqual([false, true, true])
  await close()
})

test('a delete that lands after its repetition has looked, or has been done, is not done twice', async () => {
  book({ People: [['id'], [1], [2], [3], [4]] })
  let landing: Promise<unknown> | undefined
  const { port, close } = await between(box.url, async (body) => {
    const [lost] = box.requests.filter(writes)
    // header, tail and keys have been read: now the first request lands
    if ((body['valueRanges'] as unknown[])?.length === 3 && lost) {
      landing ??= handChange(...(lost.body as { requests: object[] }).requests)
    }
    await landing
    return body
  })
  const { remove } = handlers({ endpoint: `http://127.0.0.1:${port}` })
  const call = { match: ['id'], idempotencyKey: 'k' }
  box.faults.next({ kind: 'cut', when: writes })
  await expect(remove([{ id: 1 }], call)).rejects.toThrow('is not known')
  await expect(remove([{ id: 1 }], { ...call, attempt: 2 })).rejects.toThrow(RetryableError)
  expect(await remove([{ id: 1 }], { ...call, attempt: 3 })).toEqual([])
  expect(landing).toBeDefined()
  expect(rows()).toEqual([['id'], [2], [3], [4]])
  await close()

  const late = { match: ['id'], idempotencyKey: 'late' }
  const direct = handlers()
  await expect(direct.remove([{ id: 2 }], { ...late, signal: cutOffWhenItArrives() })).rejects.toThrow('is not known')
  await direct.remove([{ id: 2 }], { ...late, attempt: 2 })
  await expect.poll(() => box.requests.filter(({ status }) => status === undefined).length).toBe(1)
  expect(rows()).toEqual([['id'], [3], [4]])
})

test('rows written after a delete in the same run stand where they belong, for one read and one write', async () => {
  book({ People: [['id'], [1], [2], [3]] })
  const { remove, upsert } = handlers()
  const match = ['id']
  await upsert([{ id: 4 }], { match })
  await remove([{ id: 1 }, { id: 3 }, { id: 4 }], { match })
  const before = box.requests.length
  await upsert([{ id: 5 }, { id: 2 }], { match })
  expect(box.requests.length - before).toBe(2)
  expect(rows()).toEqual([['id'], [2], [5]])
})

test('a thousand upserted rows take four requests at most, and a thousand deleted ones as well', async () => {
  book()
  const records = Array.from({ length: 1_000 }, (_, row) => ({ id: row, name: `n${row}`, score: row / 7 }))
  const cost = async (work: () => Promise<unknown>) => {
    const before = box.requests.length
    await work()
    return box.requests.length - before
  }
  expect(await cost(() => keyed(records, 'mirror'))).toBe(2)
  const changed = records.map((record) => ({ ...record, score: 0 }))
  expect(await cost(() => keyed(changed, 'mirror'))).toBe(4)
  expect(await cost(() => keyed([], 'mirror'))).toBe(4)
  expect(rows()).toEqual([['id', 'name', 'score']])
})

// ---- formats ---------------------------------------------------------------------------------------------------------

/** What a person sees in the tab. */
async function seen(tab = 'People'): Promise<unknown[][]> {
  const url = `${box.url}/v4/spreadsheets/${id}/values/${tab}`
  const response = await fetch(url, { headers: { authorization: `Bearer ${box.sheets.token}` } })
  return ((await response.json()) as { values: unknown[][] }).values
}

const formats = { score: '0.00', share: '0%', day: 'yyyy-mm-dd', at: 'yyyy-mm-dd hh:mm:ss', sum: '#,##0.0" days"' }
const formattedRecord = {
  id: 1,
  score: 0.5,
  share: 0.12,
  day: '2026-11-21',
  at: new Date('2026-11-21T23:30:15Z'),
  sum: 1234.56,
  plain: '2026-11-21',
}

test.each(inputs)('numbers and dates are shown as asked for, and no day is shifted (%s)', async (input) => {
  book()
  await send([formattedRecord, { id: 2, day: '2024-02-29', at: '1999-12-31T23:59:59' }], { key: 'id', formats, input })
  await send([{ id: 3, score: 1, day: '1970-01-01', at: '2026-01-02' }], { key: 'id', formats, input, name: 'later' })
  expect(await seen()).toEqual([
    ['id', 'score', 'share', 'day', 'at', 'sum', 'plain'],
    ['1', '0.50', '12%', '2026-11-21', '2026-11-21 23:30:15', '1,234.6 days', '2026-11-21'],
    ['2', '', '', '2024-02-29', '1999-12-31 23:59:59'],
    ['3', '1.00', '', '1970-01-01', '2026-01-02 00:00:00'],
  ])
  expect(rows()[1]!.slice(1, 4)).toEqual([0.5, 0.12, 46_347])
})

test.each(['America/New_York', 'Asia/Kolkata'])('no day is shifted on a machine in %s', async (zone) => {
  vi.stubEnv('TZ', zone)
  expect(new Date(0).getHours()).not.toBe(0)
  book()
  await send([formattedRecord], { formats })
  vi.unstubAllEnvs()
  expect((await seen())[1]!.slice(3, 5)).toEqual(['2026-11-21', '2026-11-21 23:30:15'])
})

test('what is no date stays text, under a format for dates too, and so does a date without one', async () => {
  book()
  const days = ['2026-02-30', 'soon', '2026-11-21T10:00:00+02:00', '21.11.2026', '']
  await send(
    days.map((day) => ({ day, other: '2026-11-21' })),
    { formats: { day: 'd"th of "m', other: '0.00' } },
  )
  expect(rows().slice(1)).toEqual(days.map((day) => [day || null, '2026-11-21']))
})

test('dates as keys are found again', async () => {
  book()
  const options = { key: 'day', formats: { day: 'dd/mm/yyyy' } }
  await send([{ day: '2026-11-21', n: 1 }], options)
  await send([{ day: '2026-11-21', n: 2 }], { ...options, name: 'again' })
  expect(await seen()).toEqual([
    ['day', 'n'],
    ['21/11/2026', '2'],
  ])
})

test('formats are asked for once a run, and again for rows and columns that are new to the grid', async () => {
  book({ People: [] })
  const { upsert } = handlers({ formats: { n: '0.0' } })
  const formatting = () => box.requests.filter(writes).map((request) => bodyOf(request).includes('repeatCell'))
  const match = ['id']
  await upsert([{ id: 1, n: 1 }], { match })
  await upsert([{ id: 2, n: 1 }], { match })
  await upsert(
    Array.from({ length: 1_000 }, (_, row) => ({ id: row, n: row })),
    { match },
  )
  await upsert([{ id: 3, more: 1 }], { match })
  await upsert([{ id: 4, n: 2 }], { match })
  expect(formatting()).toEqual([true, false, true, true, false])
  await upsert([{ id: 4, n: 3 }], { match, run: 'another' })
  expect(formatting().at(-1)).toBe(true)
})

test('replace and verify() know formats as well', async () => {
  book()
  await handlers({ formats }).replace([[formattedRecord]])
  expect((await seen())[1]!.slice(3, 5)).toEqual(['2026-11-21', '2026-11-21 23:30:15'])
  await send([formattedRecord], { key: 'id', formats })
  expect(await driftOf([formattedRecord], { formats })).toEqual({ counts: allTheSame(1), differences: [] })
})

// ---- helpers ---------------------------------------------------------------------------------------------------------

type Handled = { readonly record: AnyRow; readonly reason: string }

let calls = 0

/** The destination's handlers, called as the engine calls them but for what a test wants otherwise. */
function handlers(options: Partial<GoogleSheetsOptions> = {}) {
  const definition: Definition = definitionOf(people(options), 'test')
  const config = resolveConfig({
    name: definition.name,
    schema: definition.config!,
    given: definition.given,
    folder: state,
    env: {},
  })
  const context = async (operation: string, records: readonly AnyRow[], over: object) => ({
    config: await config,
    idempotencyKey: `call ${calls++}`,
    attempt: 1,
    operation,
    match: [],
    table: {
      name: 'people',
      columns: [...new Set(records.flatMap((record) => Object.keys(record)))].map((name) => ({ name })),
    },
    signal: new AbortController().signal,
    log,
    sync: 'people',
    run: 'run',
    ...over,
  })
  const call =
    (operation: 'insert' | 'update' | 'upsert' | 'delete' | 'verify') =>
    async (batch: AnyRow[], over: object = {}) =>
      definition.handlers[operation]!(batch, await context(operation, batch, over))
  return {
    insert: call('insert') as (batch: AnyRow[], over?: object) => Promise<Handled[]>,
    upsert: call('upsert') as (batch: AnyRow[], over?: object) => Promise<Handled[]>,
    update: call('update') as (batch: AnyRow[], over?: object) => Promise<Handled[]>,
    remove: call('delete') as (batch: AnyRow[], over?: object) => Promise<Handled[]>,
    verify: call('verify') as (batch: AnyRow[], over?: object) => Promise<AnyRow[]>,
    async replace(batches: AnyRow[][]): Promise<Handled[]> {
      const seen: AnyRow[] = []
      const columns = () => [...new Set(seen.flatMap((record) => Object.keys(record)))].map((name) => ({ name }))
      const table = {
        name: 'people',
        get columns() {
          return columns()
        },
      }
      async function* read() {
        for (const batch of batches) {
          seen.push(...batch)
          yield batch
        }
      }
      return definition.handlers.replace!(read(), { ...(await context('replace', [], {})), table })
    },
  }
}

/** A server in front of the sandbox that changes its answers, and can go away. */
async function between(target: string, change: (body: AnyRow) => AnyRow | Promise<AnyRow>) {
  const server = createServer(async (message, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of message) chunks.push(chunk)
    const { authorization = '', 'content-type': type = 'application/json' } = message.headers
    const headers = { authorization, 'content-type': type }
    const sent = chunks.length > 0 && { body: Buffer.concat(chunks) }
    const answer = await fetch(target + message.url, { method: message.method!, headers, ...sent }).catch(
      () => undefined,
    )
    if (!answer) return void response.destroy() // cut there, cut here
    const body = await change((await answer.json()) as AnyRow)
    response.writeHead(answer.status, { 'content-type': 'application/json', connection: 'close' })
    response.end(JSON.stringify(body))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  }
}
