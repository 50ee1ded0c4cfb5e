import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { Connection } from 'jsforce'
import { type AnyRow, type Mode, type Policy, type Run, sync } from 'spillway'
import { type SalesforceOptions, salesforce } from 'spillway/destinations/salesforce'
import { type Fault, type Sandbox, type SandboxOptions, sandbox } from 'spillway/sandbox'
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'

let box: Sandbox
let state: string

beforeEach(async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0) // no backoff
  state = mkdtempSync(join(tmpdir(), 'salesforce-'))
  await start()
})
afterEach(async () => {
  vi.restoreAllMocks()
  await box.close()
  rmSync(state, { recursive: true })
})

async function start(options: SandboxOptions = {}): Promise<void> {
  await box?.close()
  box = await sandbox(options)
  box.salesforce.define('Account', {
    Name: { required: true, length: 40 },
    Ext__c: { externalId: true, unique: true },
    Loose__c: { externalId: true },
    Number__c: { type: 'number', externalId: true, unique: true },
    Type: {},
    Note__c: { length: 100_000 },
    Score__c: { type: 'number' },
    Vip__c: { type: 'boolean' },
    Since__c: { type: 'date' },
    At__c: { type: 'datetime' },
    Rating: { type: 'picklist', values: ['Hot', 'Cold'] },
    Parent__c: { type: 'reference', to: 'Account' },
  })
}

const quick: Policy = { settle: '1ms', retryFor: '3s' }
type Given = Partial<SalesforceOptions> & { mode?: Mode; key?: string; policy?: Policy; name?: string; folder?: string }

function accounts(records: readonly AnyRow[], given: Given = {}) {
  const { mode = 'upsert', policy, name = 'accounts', folder = state, key: _, ...options } = given
  const signIn = 'clientId' in options ? {} : { accessToken: box.salesforce.token, instanceUrl: box.url }
  const key = given.key ?? (mode === 'append' ? undefined : 'Ext__c')
  const external = mode === 'append' && !('externalId' in options) ? {} : { externalId: 'Ext__c' }
  const to = salesforce({ object: 'Account', ...external, ...signIn, ...options }).with({ ...quick, ...policy })
  return sync({ name, from: () => records, to, key, mode, state: folder, log, schemaContract: 'evolve' } as never) as {
    run(options?: object): Promise<Run>
    deadLetters(): AsyncIterable<{ reason: string }>
  }
}
const said: string[] = []
const log = { debug() {}, info() {}, warn: (text: string) => void said.push(text), error() {} }

const send = (records: readonly AnyRow[], given?: Given, options?: object) => accounts(records, given).run(options)

async function reasons(given?: Given): Promise<string[]> {
  const found: string[] = []
  for await (const { reason } of accounts([], given).deadLetters()) found.push(reason)
  return found
}

const records = () => box.salesforce.records('Account').map(({ Id, ...fields }) => fields)
const many = (count: number, more: AnyRow = {}): AnyRow[] =>
  Array.from({ length: count }, (_, at) => ({ Ext__c: `k${at}`, Name: `n${at}`, ...more }))
const paths = () =>
  box.requests.map(({ method, path }) => `${method} ${path.replace(/^.*v65\.0/, '').replace(/750\w+/, 'JOB')}`)
const bodies = () => box.requests.map(({ body }) => body as AnyRow)
const fault = (next: Fault) => box.faults.next(next)

// ---- records -----------------------------------------------------------------------------------------------------

test('a thousand records go in five requests, and what has not changed does not go at all', async () => {
  expect(await send(many(1000))).toMatchObject({ status: 'done', delivered: 1000 })
  expect(paths()).toEqual(Array.from({ length: 5 }, () => 'PATCH /composite/sobjects/Account/Ext__c'))
  expect(records()).toHaveLength(1000)
  expect(await send(many(1000))).toMatchObject({ unchanged: 1000 })
  expect(box.requests).toHaveLength(5)
})

test('null and the empty text clear a field, an absent one is left alone, zero and false are values', async () => {
  box.salesforce.put('Account', { Name: 'Ada', Ext__c: 'a', Score__c: 5, Vip__c: true, Rating: 'Hot', Note__c: 'n' })
  await send([{ Ext__c: 'a', Score__c: 0, Vip__c: false, Note__c: '', Rating: null }])
  expect(records()).toEqual([{ Name: 'Ada', Ext__c: 'a', Score__c: 0, Vip__c: false }])
})

test('dates, instants, large integers, bytes and lookups arrive as they are', async () => {
  box.salesforce.put('Account', { Name: 'Mother', Ext__c: 'm' })
  await send([
    {
      Ext__c: 'a',
      Name: 'Ada',
      Since__c: '2026-02-28',
      At__c: new Date('2026-11-21T10:00:00.123Z'),
      Score__c: 9007199254740993n,
      Note__c: new Uint8Array([1, 2, 255]),
      Parent__r: { Ext__c: 'm' },
    },
  ])
  const parent = box.salesforce.records('Account')[0]!.Id
  expect(records()[1]).toMatchObject({
    Since__c: '2026-02-28',
    At__c: '2026-11-21T10:00:00.123Z',
    Note__c: 'AQL/',
    Parent__c: parent,
  })
})

test('a field named type is a field, and never another object', async () => {
  box.salesforce.define('Lead', { Name: {}, Ext__c: { externalId: true } })
  await send([{ Ext__c: 'a', Name: 'Ada', type: 'Lead' }])
  expect(records()).toEqual([{ Ext__c: 'a', Name: 'Ada', Type: 'Lead' }])
  expect(box.salesforce.records('Lead')).toEqual([])
})

test.each([
  ['attributes of its own', { attributes: { type: 'Lead' } }, '"attributes" is no name of a field'],
  ['Attributes in capitals', { Attributes: 1 }, '"Attributes" is no name of a field'],
  ['an id of its own', { id: '001' }, 'id is given by Salesforce'],
  ['a name that would leave its place', { 'Name FROM Lead': 1 }, 'is no name of a field'],
  ['a list', { Rating: ['Hot'] }, 'Rating holds a list: of a multi-select picklist'],
  ['a number that JSON does not have', { Score__c: Number.NaN }, 'Score__c holds a number that is not finite'],
  ['a date that is none', { At__c: new Date(Number.NaN) }, 'At__c holds a date that is none'],
  ['an object that refers to nothing', { Parent__r: { a: 1, b: 2 } }, 'Parent__r holds an object that is no reference'],
  ['a reference that names another object', { Parent__r: { attributes: { type: 'Lead' } } }, 'no reference'],
  ['an empty External ID', { Ext__c: '' }, 'its Ext__c is empty'],
])('a record with %s is rejected alone, unsent', async (_, bad, reason) => {
  const run = await send(
    [
      { Ext__c: 'b', Name: 'Bad', key: undefined, ...bad },
      { Ext__c: 'g', Name: 'Good' },
    ],
    {},
  )
  expect(run).toMatchObject({ status: 'done', delivered: 1, rejected: 1 })
  expect(await reasons()).toEqual([expect.stringContaining(reason)])
  expect(records()).toEqual([{ Ext__c: 'g', Name: 'Good' }])
  expect(bodies()[0]!['records']).toHaveLength(1)
})

test('an External ID may be 0, and one that looks like a path stays a value', async () => {
  const given = { externalId: 'Number__c', key: 'Number__c' }
  expect(await send([{ Number__c: 0, Name: 'Zero' }], given)).toMatchObject({ delivered: 1 })
  await send([{ Ext__c: '../../x?y=1', Name: 'Path' }], { name: 'path' })
  expect(records()).toEqual([
    { Number__c: 0, Name: 'Zero' },
    { Ext__c: '../../x?y=1', Name: 'Path' },
  ])
})

test.each([
  ['object', { object: 'Account/../x' }, /object is "Account\/\.\.\/x"; it must be an API name/],
  ['externalId', { externalId: "Ext__c' OR" }, /externalId is .*; it must be an API name/],
  ['bulkFrom', { bulkFrom: 0 }, /bulkFrom is 0/],
  ['dailyShare', { dailyShare: 80 }, /dailyShare is 80; it must be above 0 and at most 1/],
  ['apiVersion', { apiVersion: '65' }, /apiVersion is "65"/],
])('an option that cannot work is refused before anything is sent: %s', (_, option, message) => {
  expect(() => salesforce({ object: 'Account', ...option })).toThrow(message)
})

// ---- refusals ----------------------------------------------------------------------------------------------------

test('what the rules of the org refuse is rejected alone, with code, message and fields', async () => {
  const run = await send([
    { Ext__c: 'a', Name: 'Good' },
    { Ext__c: 'b' },
    { Ext__c: 'c', Name: 'n'.repeat(41) },
    { Ext__c: 'd', Name: 'd', Rating: 'Warm' },
  ])
  expect(run).toMatchObject({ status: 'done', delivered: 1, rejected: 3 })
  expect(await reasons()).toEqual([
    'REQUIRED_FIELD_MISSING: Required fields are missing: [Name] (Name)',
    'STRING_TOO_LONG: Name: data value too large: … (max length=40) (Name)',
    'INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST: Rating: bad value for restricted picklist field: … (Rating)',
  ])
  expect(box.requests).toHaveLength(1)
})

test('a value that spoils its whole request is found by halving', async () => {
  const records = many(300)
  records[250]!['Score__c'] = 'many'
  expect(await send(records)).toMatchObject({ status: 'done', delivered: 299, rejected: 1 })
  expect(await reasons()).toEqual([expect.stringMatching(/^salesforce: 400 JSON_PARSER_ERROR: .* VALUE_STRING/)])
})

test('a field that there is not stops the run, and nothing is a dead letter', async () => {
  const run = await send(many(300, { Nope__c: 1 }))
  expect(run).toMatchObject({ status: 'incomplete', pending: 300, rejected: 0 })
  expect(run.reason).toContain("INVALID_FIELD: No such column 'Nope__c' on sobject of type Account")
})

test('a locked row is sent again, alone', async () => {
  box.salesforce.lock('k1', 2)
  expect(await send(many(3))).toMatchObject({ status: 'done', delivered: 3 })
  expect(bodies().map(({ records }) => records.length)).toEqual([3, 1, 1])
})

test('of a race for an External ID the loser is sent once more, and a second time is a refusal', async () => {
  const duplicate = (text: string) => {
    const errors = [{ statusCode: 'DUPLICATE_VALUE', message: text, fields: [] }]
    return [{ success: false, errors }]
  }
  const race = await fake([
    duplicate('duplicate value found: Ext__c duplicates value on record with id: 001'),
    [{ success: true, id: '1' }],
  ])
  expect(await send(many(1), { instanceUrl: race.url })).toMatchObject({ delivered: 1 })
  expect(race.asked).toHaveLength(2)
  const twice = Array.from({ length: 3 }, () => duplicate('duplicate value found: Ext__c duplicates value'))
  const lost = await fake(twice)
  expect(await send(many(1), { instanceUrl: lost.url, name: 'lost' })).toMatchObject({ rejected: 1 })
  expect(lost.asked).toHaveLength(2)
  const other = await fake([duplicate('duplicate value found: Phone duplicates value')])
  expect(await send(many(1), { instanceUrl: other.url, name: 'other' })).toMatchObject({ rejected: 1 })
  expect(other.asked).toHaveLength(1)
})

test.each([
  ['too few answers', [{ success: true, id: '1' }]],
  ['an answer that says nothing', [{ success: true, id: '1' }, {}]],
  [
    'a failure without errors',
    [
      { success: true, id: '1' },
      { success: false, errors: [] },
    ],
  ],
  ['no list', { success: true }],
])('%s: whoever has none is unknown, and is sent again', async (_, answer) => {
  const partly = Array.isArray(answer) && answer.length === 2
  const { url, asked } = await fake([
    answer,
    [
      { success: true, id: '2' },
      { success: true, id: '3' },
    ].slice(partly ? 1 : 0),
  ])
  expect(await send(many(2), { instanceUrl: url })).toMatchObject({ status: 'done', delivered: 2 })
  expect(asked.map(({ records }) => records.length)).toEqual(partly ? [2, 1] : [2, 2])
})

test('several records of one External ID are refused for good', async () => {
  for (const Name of ['A', 'B']) box.salesforce.put('Account', { Name, Loose__c: 'x' })
  const given = { externalId: 'Loose__c', key: 'Loose__c' } as const
  expect(await send([{ Loose__c: 'x', Name: 'C' }], given)).toMatchObject({ rejected: 1 })
  expect(await reasons(given)).toEqual([expect.stringContaining('DUPLICATE_EXTERNAL_ID')])
  expect(await send([{ Loose__c: 'x', Name: 'C' }], { ...given, name: 'u', mode: 'update' })).toMatchObject({
    rejected: 1,
  })
  expect(await reasons({ ...given, name: 'u', mode: 'update' })).toEqual([
    '2 records have its Loose__c: make it unique',
  ])
})

// ---- update, delete, by id ---------------------------------------------------------------------------------------

test('update finds its records by External ID, and refuses what is not there', async () => {
  box.salesforce.put('Account', { Name: 'Ada', Ext__c: "o'\\r" })
  const run = await send(
    [
      { Ext__c: "o'\\r", Name: 'Ada L.' },
      { Ext__c: "x') OR Name != ('", Name: 'Mallory' },
    ],
    { mode: 'update' },
  )
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect(await reasons({ mode: 'update' })).toEqual(['no Account has its Ext__c'])
  expect(records()).toEqual([{ Ext__c: "o'\\r", Name: 'Ada L.' }])
  expect(paths()).toEqual(['GET /query', 'PATCH /composite/sobjects'])
})

test('an External ID that is a number is looked up as one, and a long list in several queries', async () => {
  for (let at = 0; at < 200; at++)
    box.salesforce.put('Account', { Name: 'old', Number__c: at, Ext__c: `${at}-`.padEnd(200, "'") })
  await send([{ Number__c: 7, Name: 'seven' }], { mode: 'update', externalId: 'Number__c', key: 'Number__c' })
  expect(records()[7]).toMatchObject({ Name: 'seven' })
  const from = Array.from({ length: 200 }, (_, at) => ({ Ext__c: `${at}-`.padEnd(200, "'"), Name: 'new' }))
  const before = box.requests.length
  expect(await send(from, { mode: 'update', name: 'long' })).toMatchObject({ delivered: 200 })
  const queries = box.requests.slice(before).filter(({ path }) => path.endsWith('/query'))
  expect(queries.length).toBeGreaterThan(5)
  for (const { query } of queries) expect(encodeURIComponent(query.get('q')!).length).toBeLessThan(16_000)
})

test('mirror deletes by the ids of its receipts, without looking anything up; what is gone already is done', async () => {
  await send(many(5), { mode: 'mirror' })
  const connection = new Connection({ instanceUrl: box.url, accessToken: box.salesforce.token, version: '65.0' })
  await connection.sobject('Account').destroy(box.salesforce.records('Account')[0]!.Id)
  const before = box.requests.length
  expect(await send(many(5).slice(2), { mode: 'mirror' }, { allowDeletes: true })).toMatchObject({
    status: 'done',
    deletes: { delivered: 2, rejected: 0 },
  })
  expect(paths().slice(before)).toEqual(['DELETE /composite/sobjects'])
  expect(records()).toHaveLength(3)
})

test('a delete without a receipt is looked up, and what is not there is done', async () => {
  await accounts(many(3), { mode: 'mirror' })
  const one = sync({
    name: 'adopted',
    from: () => many(3),
    to: salesforce({
      object: 'Account',
      externalId: 'Ext__c',
      accessToken: box.salesforce.token,
      instanceUrl: box.url,
    }),
    key: 'Ext__c',
    mode: 'mirror',
    state,
    log,
  })
  box.salesforce.put('Account', { Name: 'n0', Ext__c: 'K0' })
  await one.adopt()
  const run = await send(many(3).slice(2), { mode: 'mirror', name: 'adopted' }, { allowDeletes: true })
  expect(run).toMatchObject({ deletes: { delivered: 2 } })
  expect(paths()).toEqual(['GET /query', 'DELETE /composite/sobjects'])
  expect(records()).toEqual([])
})

test("externalId: 'Id' updates by record id, and cannot upsert", async () => {
  const Id = box.salesforce.put('Account', { Name: 'Ada' })
  const run = await send(
    [
      { Id, Name: 'Bo' },
      { Id: 'a00000000000000AAA', Name: 'Cy' },
    ],
    { mode: 'update', externalId: 'Id', key: 'Id' },
  )
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect(records()).toEqual([{ Name: 'Bo' }])
  expect(paths()).toEqual(['PATCH /composite/sobjects'])
  expect(() => accounts([], { externalId: 'Id', key: 'Id' })).toThrow(/upsert/)
})

// ---- answers that do not come -------------------------------------------------------------------------------------

test('an upsert cut off after the write is sent again, and makes no duplicate', async () => {
  fault({ kind: 'cut', applied: true })
  expect(await send(many(3))).toMatchObject({ status: 'done', delivered: 3 })
  expect(records()).toHaveLength(3)
  expect(box.requests).toHaveLength(2)
})

test('an insert cut off after the write is looked up by External ID, and makes no duplicate', async () => {
  fault({ kind: 'cut', applied: true })
  const given = { mode: 'insert', policy: { batchSize: 200 } } as const
  expect(await send(many(250), given)).toMatchObject({ status: 'done', delivered: 250, resent: 0 })
  expect(records()).toHaveLength(250)
  expect(paths()).toEqual(['POST /composite/sobjects', 'GET /query', 'POST /composite/sobjects'])
})

test('an insert cut off before the write is looked up and sent', async () => {
  fault({ kind: 'cut' })
  expect(await send(many(3), { mode: 'insert' })).toMatchObject({ status: 'done', delivered: 3 })
  expect(records()).toHaveLength(3)
})

test('without an External ID, rows whose answer was lost are held, and those that had not left are sent', async () => {
  const from = Array.from({ length: 500 }, (_, at) => ({ Name: `n${at}` }))
  fault({ kind: 'cut', applied: true, when: (request) => JSON.stringify(request.body).includes('"n200"') })
  const run = await send(from, { mode: 'append' })
  expect(run).toMatchObject({ delivered: 300, unknown: 200, pending: 0 })
  expect(records()).toHaveLength(500)
})

test('after a failure in the middle, what was answered stays answered, and only the rest goes again', async () => {
  fault({ kind: 'status', status: 503, when: (request) => JSON.stringify(request.body).includes('"k200"') })
  expect(await send(many(600))).toMatchObject({ status: 'done', delivered: 600 })
  expect(bodies().map(({ records }) => [records[0].Ext__c, records.length])).toEqual([
    ['k0', 200],
    ['k200', 200], // 503: it may have been applied
    ['k200', 200],
    ['k400', 200],
  ])
})

test.each([
  ['429', { kind: 'status', status: 429, reason: 'SERVER_UNAVAILABLE' } as Fault],
  ['too many at once', { kind: 'status', status: 403, reason: 'UNABLE_TO_LOCK_ROW' } as Fault],
])('%s is tried again', async (_, next) => {
  fault(next)
  expect(await send(many(2))).toMatchObject({ status: 'done', delivered: 2 })
  expect(box.requests).toHaveLength(2)
})

test('a web page with status 200 is no success, and stops the run', async () => {
  fault({ kind: 'html', times: 9 })
  await expect(send(many(2))).rejects.toThrow(/200 from PATCH .* is a web page/)
  expect(box.requests).toHaveLength(1)
})

test('a redirect is not followed, and the token goes nowhere', async () => {
  const elsewhere = await fake([[]])
  const { url } = await fake([{ location: elsewhere.url }])
  await expect(send(many(1), { instanceUrl: url })).rejects.toThrow(/redirects are not followed/)
  expect(elsewhere.asked).toEqual([])
})

// ---- sign-in -----------------------------------------------------------------------------------------------------

const ways = ['client credentials', 'JWT bearer', 'refresh token'] as const
function signIn(way: (typeof ways)[number]): Partial<SalesforceOptions> & { clientId: string } {
  const { clientId, clientSecret, username, privateKey, refreshToken } = box.salesforce.app()
  const more = {
    'client credentials': { clientSecret },
    'JWT bearer': { username, privateKey },
    'refresh token': { refreshToken },
  }
  return { loginUrl: box.url, clientId, ...more[way] }
}
const tokens = () => paths().filter((path) => path.includes('token')).length

test.each(ways)('signs in by %s, once a run, and again once when the session ends', async (way) => {
  const given = { ...signIn(way), policy: { batchSize: 200 } }
  expect(await send(many(400), given)).toMatchObject({ delivered: 400 })
  expect(tokens()).toBe(1)
  fault({ kind: 'status', status: 401, when: ({ path }) => path.includes('composite') })
  expect(await send(many(400, { Score__c: 1 }), given)).toMatchObject({ delivered: 400 })
  expect(tokens()).toBe(3)
})

test('a session that is refused right after signing in stops the run: there is no loop', async () => {
  fault({ kind: 'status', status: 401, times: 99, when: ({ path }) => path.includes('composite') })
  await expect(send(many(2), signIn('client credentials'))).rejects.toThrow(
    'salesforce: INVALID_SESSION_ID: a session was refused right after signing in',
  )
  expect(paths()).toHaveLength(4)
})

test('a ready token that has ended stops the run at once, and a later run goes on', async () => {
  await expect(send(many(2), { accessToken: 'ended' })).rejects.toThrow('the session has ended: give a new accessToken')
  expect(box.requests).toHaveLength(1)
  expect(await send(many(2))).toMatchObject({ delivered: 2 })
})

test.each([
  [
    'a wrong secret',
    { clientSecret: 'wrong-secret' },
    /signing in at http.* was refused: invalid_client: invalid client credentials/,
  ],
  ['an unknown app', { clientId: 'nobody' }, /was refused: invalid_client_id/],
  [
    'a key that is none',
    { username: 'u', privateKey: 'no-key-at-all', clientSecret: undefined },
    /privateKey is no RSA key in PEM/,
  ],
])('%s stops the run, and shows no secret', async (_, wrong, message) => {
  const given = { ...signIn('client credentials'), ...wrong }
  const error = await send(many(2), given).catch((thrown) => thrown)
  expect(error.message).toMatch(message)
  for (const secret of [given.clientSecret, given.privateKey]) if (secret) expect(inspect(error)).not.toContain(secret)
  expect(paths().filter((path) => path.includes('composite'))).toEqual([])
})

test('where the token endpoint is down, signing in is tried again', async () => {
  fault({ kind: 'status', status: 503, when: ({ path }) => path.includes('token') })
  fault({ kind: 'html', when: ({ path }) => path.includes('token') })
  expect(await send(many(2), signIn('refresh token'))).toMatchObject({ delivered: 2 })
  expect(tokens()).toBe(3)
})

test.each([
  ['nothing to sign in with', {}, /as a whole: to sign in, give clientId with clientSecret/],
  ['a token without its org', { accessToken: 't' }, /accessToken needs instanceUrl, the address of its org/],
  [
    'an address without TLS',
    { accessToken: 't', instanceUrl: 'http://acme.my.salesforce.com' },
    /must begin with https/,
  ],
])('%s is refused before anything is sent', async (_, config, message) => {
  const to = salesforce({ object: 'Account', ...config })
  await expect(sync({ name: 'a', from: many(1), to, state, log }).run()).rejects.toThrow(message)
})

// ---- limits of the org -------------------------------------------------------------------------------------------

test("a run stops at its share of the day's requests, with the figure and the next step; the next run looks again", async () => {
  await start({ salesforce: { dailyRequests: 10 } })
  const given = { dailyShare: 0.5, policy: { batchSize: 200 } }
  await expect(send(many(2000), given)).rejects.toThrow(
    "salesforce: 5 of the org's 10 requests of 24 hours are used, and dailyShare 0.5 leaves the others to whoever else needs them: run again later, or raise dailyShare",
  )
  expect(records()).toHaveLength(1000)
  await expect(send(many(2000), given)).rejects.toThrow('6 of the org')
  expect(box.salesforce.used).toBe(6)
})

test('within one batch too, and what was delivered until then stays so', async () => {
  await start({ salesforce: { dailyRequests: 10 } })
  await expect(send(many(1400), { dailyShare: 0.5 })).rejects.toThrow('5 of the org')
  expect(await send(many(1400), { dailyShare: 1 })).toMatchObject({ delivered: 400, unchanged: 1000 })
})

test('REQUEST_LIMIT_EXCEEDED stops the run, and its rows stay pending', async () => {
  await start({ salesforce: { dailyRequests: 1 } })
  await send(many(1), { dailyShare: 1 })
  await expect(send(many(2), { dailyShare: 1 })).rejects.toThrow(
    /403 REQUEST_LIMIT_EXCEEDED: TotalRequests Limit exceeded.: .*run again later/,
  )
  expect(box.requests).toHaveLength(2)
})

// ---- Bulk API 2.0 ------------------------------------------------------------------------------------------------

const job = [
  'POST /jobs/ingest',
  'PUT /jobs/ingest/JOB/batches',
  'GET /jobs/ingest/JOB',
  'PATCH /jobs/ingest/JOB',
  'GET /jobs/ingest/JOB',
]
const results = ['successfulResults', 'failedResults', 'unprocessedrecords'].map(
  (part) => `GET /jobs/ingest/JOB/${part}`,
)
const bulk = { bulkFrom: 5 }
/** Ends a run while a job that is held goes on. */
const impatient = { policy: { timeout: '1500ms', retryFor: '10ms' } } as const

test('two thousand records are one job; a thousand and some are requests', async () => {
  expect(await send(many(2000))).toMatchObject({ status: 'done', delivered: 2000 })
  expect(paths()).toEqual([...job, ...results])
  expect(box.salesforce.jobs).toMatchObject([{ operation: 'upsert', state: 'JobComplete', processed: 2000 }])
  expect(await send(many(1999, { Score__c: 1 }))).toMatchObject({ delivered: 1999, status: 'done' })
  expect(box.salesforce.jobs).toHaveLength(1)
})

test('a file says what records say: quotes, commas, line ends, blanks, null, empty, absent, zero, false, lookups', async () => {
  box.salesforce.put('Account', { Name: 'Mother', Ext__c: 'm' })
  for (const at of [1, 2, 3])
    box.salesforce.put('Account', { Name: 'x', Ext__c: `k${at}`, Rating: 'Hot', Score__c: 9, Vip__c: true })
  const from = [
    { Ext__c: 'k0', Name: 'A "quoted", one', Note__c: 'two\r\nlines\n' },
    { Ext__c: 'k1', Name: ' padded ', Rating: null, Score__c: 0, Vip__c: false },
    { Ext__c: 'k2', Name: 'y', Rating: '' },
    { Ext__c: 'k3', Name: 'z', Parent__r: { Ext__c: 'm' } },
    { Ext__c: 'k"4', Name: 'key', At__c: new Date('2026-11-21T10:00:00Z') },
  ]
  expect(await send(from, bulk)).toMatchObject({ status: 'done', delivered: 5 })
  const parent = box.salesforce.records('Account')[0]!.Id
  expect(records().slice(1)).toEqual([
    { Ext__c: 'k1', Name: ' padded ', Score__c: 0, Vip__c: false },
    { Ext__c: 'k2', Name: 'y', Score__c: 9, Vip__c: true },
    { Ext__c: 'k3', Name: 'z', Rating: 'Hot', Score__c: 9, Vip__c: true, Parent__c: parent },
    { Ext__c: 'k0', Name: 'A "quoted", one', Note__c: 'two\r\nlines\n' },
    { Ext__c: 'k"4', Name: 'key', At__c: '2026-11-21T10:00:00.000Z' },
  ])
  expect(box.salesforce.jobs[0]!.csv).not.toMatch(/[^"]\r\n[^"]*$/)
})

test.each([
  ['a text that a file would take for null', { Note__c: '#N/A' }],
  ['a text that is too long for a file', { Note__c: 'n'.repeat(32_001) }],
])('%s goes by requests, as it is', async (_, odd) => {
  const from = [...many(5), { Ext__c: 'odd', Name: 'odd', ...odd }]
  expect(await send(from, bulk)).toMatchObject({ delivered: 6 })
  expect(box.salesforce.jobs).toEqual([])
  expect(records()[5]).toMatchObject(odd)
})

test('of a job, each row has its own end: delivered, refused, locked and sent again', async () => {
  box.salesforce.lock('k1')
  const from = many(6)
  from[2]!['Name'] = 'n'.repeat(41)
  from[3]!['Score__c'] = 'many'
  expect(await send(from, bulk)).toMatchObject({ status: 'done', delivered: 4, rejected: 2 })
  expect(await reasons()).toEqual([
    'STRING_TOO_LONG: Name: data value too large: … (max length=40) (Name)',
    expect.stringContaining('INVALID_TYPE_ON_FIELD_IN_RECORD'),
  ])
  expect(paths().slice(-1)).toEqual(['PATCH /composite/sobjects/Account/Ext__c'])
})

test.each(['upsert', 'insert'] as const)(
  'rows that a job left unprocessed are sent again, and nothing is in doubt (%s)',
  async (mode) => {
    box.salesforce.failJob(4, 'InternalServerError : try again')
    expect(await send(many(6), { ...bulk, mode })).toMatchObject({ status: 'done', delivered: 6 })
    expect(box.salesforce.jobs).toMatchObject([{ state: 'Failed', processed: 4 }])
    expect(paths()).not.toContain('GET /query')
    expect(records()).toHaveLength(6)
  },
)

test('a job that failed as a whole is halved, and the reason is told', async () => {
  const run = await send(many(6, { Nope__c: 1 }), bulk)
  expect(run).toMatchObject({ status: 'incomplete', pending: 6 })
  expect(run.reason).toContain("No such column 'Nope__c'")
  expect(box.salesforce.jobs).toMatchObject([{ state: 'Failed' }])
})

test('inserts and updates are jobs too', async () => {
  expect(await send(many(6), { ...bulk, mode: 'insert' })).toMatchObject({ delivered: 6 })
  const given = { ...bulk, mode: 'update', name: 'update' } as const
  expect(await send(many(7, { Score__c: 2 }), given)).toMatchObject({ delivered: 6, rejected: 1 })
  expect(await reasons(given)).toEqual(['no Account has its Ext__c'])
  expect(box.salesforce.jobs.map(({ operation, processed }) => [operation, processed])).toEqual([
    ['insert', 6],
    ['update', 6],
  ])
  expect(records().map(({ Score__c }) => Score__c)).toEqual([2, 2, 2, 2, 2, 2])
})

// where the answer is lost, and how many jobs there are in the end: one whose file may not have arrived is given up unread
const losses = [
  ['the job is made', 'POST', /ingest$/, ['Open', 'JobComplete']],
  ['the file is taken', 'PUT', /batches$/, ['Aborted', 'JobComplete']],
  ['the job is closed', 'PATCH', /ingest/, ['JobComplete']],
  ['the job is looked at', 'GET', /ingest.750\w+$/, ['JobComplete']],
  ['successes are read', 'GET', /successfulResults$/, ['JobComplete']],
  ['leftovers are read', 'GET', /unprocessedrecords$/, ['JobComplete']],
] as const

test.each(losses.flatMap((loss) => (['upsert', 'insert'] as const).map((mode) => [...loss, mode] as const)))(
  'an answer lost when %s (%s) makes no duplicate: the job is taken up again (%s)',
  async (_, method, path, states, mode) => {
    fault({ kind: 'cut', applied: true, when: (request) => request.method === method && path.test(request.path) })
    expect(await send(many(6), { ...bulk, mode })).toMatchObject({ status: 'done', delivered: 6, resent: 0 })
    const { jobs } = box.salesforce
    // an insert looks by External ID first, and fewer than a job's worth of rows go by requests
    expect(jobs.map(({ state }) => state)).toEqual(states)
    expect(jobs.reduce((sum, { processed }) => sum + processed, 0)).toBe(6)
    expect(records()).toHaveLength(6)
  },
)

test.each(['upsert', 'insert'] as const)(
  'a run that ends while a job goes on leaves it to the next run, which waits for that job (%s)',
  async (mode) => {
    box.salesforce.hold()
    const first = await send(many(6), { ...bulk, ...impatient, mode })
    expect(first).toMatchObject({ status: 'incomplete', unknown: 6 })
    expect(box.salesforce.jobs).toMatchObject([{ state: 'InProgress' }])
    box.salesforce.release()
    // one row has changed meanwhile: it is sent when the job is done with
    const from = many(6)
    from[0]!['Score__c'] = 7
    expect(await send(from, { ...bulk, mode })).toMatchObject({ status: 'done', resumed: { rows: 6, delivered: 6 } })
    expect(box.salesforce.jobs).toMatchObject([{ state: 'JobComplete', processed: 6 }])
    expect(records()).toHaveLength(6)
    expect(records()[0]!['Score__c']).toBe(mode === 'upsert' ? 7 : undefined)
  },
)

test.each(['upsert', 'insert'] as const)(
  'a process killed while a job goes on: the next one waits for it (%s)',
  async (mode) => {
    const killed = join(state, 'killed')
    box.salesforce.hold()
    const running = send(many(6), { ...bulk, mode, folder: join(state, 'live') })
    await vi.waitUntil(() => box.salesforce.jobs[0]?.state === 'InProgress', { timeout: 20_000 })
    cpSync(join(state, 'live'), killed, { recursive: true }) // what a kill now would leave
    box.salesforce.release()
    await running
    expect(await send(many(6), { ...bulk, mode, folder: killed })).toMatchObject({
      status: 'done',
      resumed: { delivered: 6 },
    })
    expect(box.salesforce.jobs).toMatchObject([{ state: 'JobComplete', processed: 6 }])
    expect(records()).toHaveLength(6)
  },
)

test('a limit that is met while a job goes on stops the run, and the next one takes the job up', async () => {
  await start({ salesforce: { dailyRequests: 10 } })
  await expect(send(many(6), { ...bulk, dailyShare: 0.4 })).rejects.toThrow('4 of the org')
  expect(box.salesforce.jobs).toMatchObject([{ state: 'UploadComplete' }])
  expect(await send(many(6), { ...bulk, dailyShare: 1 })).toMatchObject({ status: 'done', resumed: { delivered: 6 } })
  expect(box.salesforce.jobs).toMatchObject([{ state: 'JobComplete', processed: 6 }])
})

test('a job that Salesforce has forgotten is not waited for: an upsert is sent anew, an insert looked up', async () => {
  for (const mode of ['upsert', 'insert'] as const) {
    await start()
    box.salesforce.hold()
    await send(many(6), { ...bulk, ...impatient, mode, name: mode })
    box.salesforce.release()
    const connection = new Connection({ instanceUrl: box.url, accessToken: box.salesforce.token, version: '65.0' })
    const done = connection.bulk2.job('ingest', { id: box.salesforce.jobs[0]!.id })
    await done.check()
    await done.delete()
    expect(await send(many(6), { ...bulk, mode, name: mode })).toMatchObject({
      status: 'done',
      resumed: { delivered: 6 },
    })
    expect(records()).toHaveLength(6)
  }
})

test('a job that somebody aborted before it began stops the run, and its rows stay pending', async () => {
  box.salesforce.hold()
  await send(many(6), { ...bulk, ...impatient })
  const connection = new Connection({ instanceUrl: box.url, accessToken: box.salesforce.token, version: '65.0' })
  await connection.bulk2.job('ingest', { id: box.salesforce.jobs[0]!.id }).abort()
  await expect(send(many(6), bulk)).rejects.toThrow(/the Bulk job 750\w+ was aborted by somebody; run again/)
  box.salesforce.release()
  expect(await send(many(6), bulk)).toMatchObject({ status: 'done', delivered: 6 })
})

// ---- secrets -----------------------------------------------------------------------------------------------------

test('no error, warning or dead letter shows a secret', async () => {
  const given = { ...signIn('client credentials'), clientSecret: undefined, ...signIn('refresh token') }
  fault({ kind: 'status', status: 503, times: 99, when: ({ path }) => path.includes('composite') })
  said.length = 0
  const run = await send(many(1), { ...given, policy: { retryFor: '50ms' } })
  const shown = inspect([run, said])
  expect(shown).toContain('503')
  for (const secret of [given.refreshToken as string, box.salesforce.token]) expect(shown).not.toContain(secret)
})

/** A server that gives these answers one after the other, and what it was asked. */
async function fake(answers: readonly unknown[]): Promise<{ url: string; asked: AnyRow[] }> {
  const asked: AnyRow[] = []
  const left = [...answers]
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const piece of request) text += piece
    asked.push(text === '' ? {} : JSON.parse(text))
    const answer = left.shift() as AnyRow
    if (answer && 'location' in answer) return void response.writeHead(302, answer).end()
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer ?? []))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked }
}
