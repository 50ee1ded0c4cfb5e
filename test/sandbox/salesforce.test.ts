import { createSign } from 'node:crypto'
import { Connection, OAuth2 } from 'jsforce'
import { type Sandbox, type SandboxOptions, sandbox } from 'spillway/sandbox'
import { afterEach, expect, test } from 'vitest'

// jsforce, as its users use it, is the judge of what the sandbox says

let box: Sandbox

afterEach(() => box.close())

async function start(options: SandboxOptions = {}): Promise<Connection> {
  box = await sandbox(options)
  box.salesforce.define('Account', {
    Name: { required: true, length: 20 },
    Ext__c: { externalId: true, unique: true },
    Loose__c: { externalId: true },
    Score__c: { type: 'number' },
    Vip__c: { type: 'boolean' },
    Since__c: { type: 'date' },
    Rating: { type: 'picklist', values: ['Hot', 'Cold'] },
    Parent__c: { type: 'reference', to: 'Account' },
  })
  return new Connection({ instanceUrl: box.url, accessToken: box.salesforce.token, version: '65.0' })
}

const names = () => box.salesforce.records('Account').map(({ Name }) => Name)

/** The code and text of jsforce's error. */
async function refusal(promise: PromiseLike<unknown>): Promise<string> {
  const error = await promise.then(
    () => expect.fail('it was not refused'),
    (error) => error,
  )
  return `${error.errorCode ?? error.name}: ${error.message}`
}

// ---- sign-in -----------------------------------------------------------------------------------------------------

test('an app signs in by client credentials, refresh token and signed assertion, and not otherwise', async () => {
  await start()
  const { clientId, clientSecret, refreshToken, privateKey, username } = box.salesforce.app()
  const grant = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
  const assertion = (claims: object, key = privateKey) => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
    const exp = Math.floor(Date.now() / 1000) + 180
    const text = `${part({ alg: 'RS256' })}.${part({ iss: clientId, sub: username, aud: box.url, exp, ...claims })}`
    return `${text}.${createSign('sha256').update(text).sign(key, 'base64url')}`
  }
  const app = (secret?: string) => new OAuth2({ loginUrl: box.url, clientId, ...(secret && { clientSecret: secret }) })

  const connection = new Connection({ oauth2: app(clientSecret), version: '65.0' })
  await connection.authorize({ grant_type: 'client_credentials' })
  expect(connection.instanceUrl).toBe(box.url)
  await connection.sobject('Account').create({ Name: 'Ada' })
  expect(names()).toEqual(['Ada'])
  expect(await app().refreshToken(refreshToken)).toMatchObject({ instance_url: box.url, token_type: 'Bearer' })
  expect(await app().requestToken({ grant_type: grant, assertion: assertion({}) })).toMatchObject({ scope: 'api' })

  for (const [promise, reason] of [
    [app('wrong').requestToken({ grant_type: 'client_credentials' }), 'invalid_client: invalid client credentials'],
    [app().refreshToken('wrong'), 'invalid_grant: expired access/refresh token'],
    [app(clientSecret).authenticate('me', 'secret'), 'unsupported_grant_type: grant type not supported'],
    [app().requestToken({ grant_type: grant, assertion: `${assertion({})}x` }), 'invalid_grant: invalid assertion'],
    [app().requestToken({ grant_type: grant, assertion: assertion({ aud: 'https://x' }) }), 'audience is invalid'],
    [app().requestToken({ grant_type: grant, assertion: assertion({ exp: 1 }) }), 'it has expired'],
    [app().requestToken({ grant_type: grant, assertion: assertion({ sub: 'you' }) }), "user hasn't approved"],
    [
      new OAuth2({ loginUrl: box.url, clientId: 'no' }).refreshToken(refreshToken),
      'invalid_client_id: client identifier invalid',
    ],
  ] as const) {
    expect(await refusal(promise)).toContain(reason)
  }
})

test('a session that has ended is refused, and jsforce signs in again by itself', async () => {
  await start()
  const { clientId, clientSecret, refreshToken } = box.salesforce.app()
  const oauth2 = new OAuth2({ loginUrl: box.url, clientId, clientSecret })
  const connection = new Connection({ oauth2, instanceUrl: box.url, refreshToken, accessToken: 'old', version: '65.0' })
  await connection.sobject('Account').create([{ Name: 'Ada' }])
  expect(names()).toEqual(['Ada'])
  box.salesforce.expire()
  const stale = new Connection({ instanceUrl: box.url, accessToken: connection.accessToken!, version: '65.0' })
  expect(await refusal(stale.sobject('Account').create([{ Name: 'B' }]))).toBe(
    'INVALID_SESSION_ID: Session expired or invalid',
  )
})

// ---- records -----------------------------------------------------------------------------------------------------

test('records are created, read, changed, found and deleted, one by one and by the list', async () => {
  const connection = await start()
  const accounts = connection.sobject('Account')
  const one = await accounts.create({ Name: 'Ada', Ext__c: 'a', Score__c: 1.5, Vip__c: true, Since__c: '2026-01-02' })
  expect(one).toMatchObject({ success: true, errors: [] })
  const [two, three] = await accounts.create([{ Name: 'Bo', Ext__c: 'b' }, { Name: 'Cy' }])
  expect(two!.id).toMatch(/^a00\w{15}$/)
  expect(await accounts.retrieve(one.id!)).toMatchObject({ Id: one.id, Name: 'Ada', Score__c: 1.5, Rating: null })
  expect(await accounts.retrieve([two!.id!, three!.id!])).toMatchObject([{ Name: 'Bo' }, { Name: 'Cy' }])

  await accounts.update([
    { Id: one.id!, Score__c: null, Vip__c: false },
    { Id: two!.id!, Name: 'Bob' },
  ])
  await accounts.update({ Id: three!.id!, Score__c: 0 })
  expect(box.salesforce.records('Account')).toEqual([
    { Id: one.id, Name: 'Ada', Ext__c: 'a', Vip__c: false, Since__c: '2026-01-02' },
    { Id: two!.id, Name: 'Bob', Ext__c: 'b' },
    { Id: three!.id, Name: 'Cy', Score__c: 0 },
  ])
  expect(await connection.query("SELECT Id, Name FROM Account WHERE Ext__c IN ('A', 'b')")).toMatchObject({
    totalSize: 2,
    done: true,
    records: [{ attributes: { type: 'Account' }, Id: one.id, Name: 'Ada' }, { Name: 'Bob' }],
  })
  expect(await accounts.find({ Name: "B'ob" }, ['Id'])).toEqual([])

  await accounts.destroy(three!.id!)
  expect(await accounts.destroy([one.id!, three!.id!])).toMatchObject([
    { id: one.id, success: true },
    { success: false, errors: [{ statusCode: 'ENTITY_IS_DELETED', message: 'entity is deleted', fields: [] }] },
  ])
  expect(names()).toEqual(['Bob'])
})

test('upsert finds a record by its external id without case, and tells whether it is new', async () => {
  const connection = await start()
  const accounts = connection.sobject('Account')
  expect(
    await accounts.upsert(
      [
        { Ext__c: 'a', Name: 'Ada' },
        { Ext__c: 'b', Name: 'Bo' },
      ],
      'Ext__c',
    ),
  ).toMatchObject([
    { success: true, created: true },
    { success: true, created: true },
  ])
  expect(await accounts.upsert([{ Ext__c: 'A', Score__c: 3 }], 'Ext__c')).toMatchObject([{ created: false }])
  await accounts.upsert({ Ext__c: 'b', Name: 'Bob' }, 'Ext__c')
  expect(box.salesforce.records('Account')).toMatchObject([
    { Name: 'Ada', Ext__c: 'a', Score__c: 3 },
    { Name: 'Bob', Ext__c: 'b' },
  ])
})

test('a record that several have the external id of is refused: as a record of a list, and with status 300 alone', async () => {
  const connection = await start()
  for (const Name of ['A', 'B']) box.salesforce.put('Account', { Name, Loose__c: 'x' })
  const accounts = connection.sobject('Account')
  expect(await accounts.upsert([{ Loose__c: 'x', Name: 'C' }], 'Loose__c')).toMatchObject([
    { success: false, errors: [{ statusCode: 'DUPLICATE_EXTERNAL_ID', fields: ['Loose__c'] }] },
  ])
  expect(await refusal(accounts.upsert({ Loose__c: 'x', Name: 'C' }, 'Loose__c'))).toContain('MULTIPLE_CHOICES')
})

test.each([
  ['a missing field', { Ext__c: 'n' }, 'REQUIRED_FIELD_MISSING', ['Name']],
  ['a text that is too long', { Name: 'n'.repeat(21) }, 'STRING_TOO_LONG', ['Name']],
  [
    'a value that the picklist lacks',
    { Name: 'n', Rating: 'Warm' },
    'INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST',
    ['Rating'],
  ],
  ['a value that another has', { Name: 'n', Ext__c: 'taken' }, 'DUPLICATE_VALUE', []],
  ['a reference to nobody', { Name: 'n', Parent__r: { Ext__c: 'nobody' } }, 'INVALID_FIELD', []],
])('%s refuses its record alone', async (_, bad, statusCode, fields) => {
  const connection = await start()
  box.salesforce.put('Account', { Name: 'There', Ext__c: 'taken' })
  const [good, refused] = await connection.sobject('Account').create([{ Name: 'Good' }, bad])
  expect(good).toMatchObject({ success: true })
  expect(refused).toMatchObject({ success: false, errors: [{ statusCode, fields }] })
  expect(names()).toEqual(['There', 'Good'])
})

test.each([
  ['a field that there is not', { Nmae: 'x' }, 'INVALID_FIELD', /No such column 'Nmae'/],
  ['text for a number', { Name: 'x', Score__c: 'many' }, 'JSON_PARSER_ERROR', /instance of double/],
  ['a number for text', { Name: 5 }, 'JSON_PARSER_ERROR', /instance of string from VALUE_NUMBER_INT/],
])('%s refuses the whole request', async (_, bad, code, message) => {
  const connection = await start()
  const refused = await refusal(connection.sobject('Account').create([{ Name: 'Good' }, bad as never]))
  expect(refused).toContain(code)
  expect(refused).toMatch(message)
  expect(names()).toEqual([])
})

test('a reference is found by the external id of what it is to', async () => {
  const connection = await start()
  const parent = box.salesforce.put('Account', { Name: 'Mother', Ext__c: 'm' })
  await connection.sobject('Account').create([{ Name: 'Child', Parent__r: { Ext__c: 'm' } }])
  expect(box.salesforce.records('Account')[1]).toMatchObject({ Parent__c: parent })
})

test('more than 200 records, an object that there is not, and a list without types are refused', async () => {
  const connection = await start()
  const many = Array.from({ length: 201 }, () => ({ Name: 'n' }))
  expect(await refusal(connection.sobject('Account').create(many))).toContain('EXCEEDED_ID_LIMIT')
  expect(await refusal(connection.sobject('Nothing').create([{ Name: 'n' }]))).toContain('NOT_FOUND')
  const url = '/composite/sobjects'
  const headers = { 'content-type': 'application/json' }
  const untyped = { method: 'POST', url, headers, body: JSON.stringify({ records: [{ Name: 'n' }] }) } as const
  expect(await refusal(connection.request(untyped))).toContain('INVALID_TYPE')
  expect(names()).toEqual([])
})

test('two records of one external id in a request are both refused', async () => {
  const connection = await start()
  const twice = [
    { Ext__c: 'a', Name: '1' },
    { Ext__c: 'A', Name: '2' },
    { Ext__c: 'b', Name: '3' },
  ]
  const results = await connection.sobject('Account').upsert(twice, 'Ext__c')
  expect(results.map(({ success }) => success)).toEqual([false, false, true])
})

test('a locked record is refused as often as was asked for', async () => {
  const connection = await start()
  const accounts = connection.sobject('Account')
  box.salesforce.lock('a')
  const record = { Ext__c: 'a', Name: 'Ada' }
  expect(await accounts.upsert([record], 'Ext__c')).toMatchObject([{ errors: [{ statusCode: 'UNABLE_TO_LOCK_ROW' }] }])
  expect(await accounts.upsert([record], 'Ext__c')).toMatchObject([{ success: true }])
})

test('a condition is read with its escapes, and one that is not SOQL is refused', async () => {
  const connection = await start()
  box.salesforce.put('Account', { Name: 'x', Ext__c: "a\\'b" })
  const found = await connection.query("SELECT Name FROM Account WHERE Ext__c = 'a\\\\\\'b'")
  expect(found.records).toMatchObject([{ Name: 'x' }])
  for (const soql of [
    "SELECT Name FROM Account WHERE Ext__c IN ('a' OR 'b')",
    "SELECT Name FROM Account WHERE Ext__c = 'a",
    'x',
  ]) {
    expect(await refusal(connection.query(soql))).toContain('MALFORMED_QUERY')
  }
  expect(await refusal(connection.query('SELECT Name FROM Account WHERE Ext__c IN (1)'))).toContain('in quotes')
  expect(await refusal(connection.query("SELECT Name FROM Account WHERE Score__c = '1'"))).toContain('should not be')
})

test('every answer tells how much of the day is used, and beyond it everything is refused', async () => {
  const connection = await start({ salesforce: { dailyRequests: 3 } })
  await connection.query('SELECT Id FROM Account')
  expect(connection.limitInfo).toEqual({ apiUsage: { used: 1, limit: 3 } })
  expect(await connection.limits()).toEqual({ DailyApiRequests: { Max: 3, Remaining: 1 } })
  await connection.query('SELECT Id FROM Account')
  expect(await refusal(connection.query('SELECT Id FROM Account'))).toBe(
    'REQUEST_LIMIT_EXCEEDED: TotalRequests Limit exceeded.',
  )
  expect(box.salesforce.used).toBe(3)
})

// ---- Bulk API 2.0 ------------------------------------------------------------------------------------------------

test('a bulk job takes a file, and tells row by row what became of it', async () => {
  const connection = await start()
  box.salesforce.put('Account', { Name: 'Old', Ext__c: 'b', Score__c: 1, Rating: 'Hot' })
  const input = [
    'Ext__c,Name,Score__c,Rating',
    'a,"Ada, ""the first""",2,',
    'b,New,#N/A,',
    'c,,3,',
    `d,${'n'.repeat(21)},4,`,
  ].join('\n')
  const done = await connection.bulk2.loadAndWaitForResults({
    object: 'Account',
    operation: 'upsert',
    externalIdFieldName: 'Ext__c',
    input,
    pollInterval: 1,
  })
  const [ada, old] = box.salesforce.records('Account').toReversed()
  expect(done.successfulResults).toEqual([
    { sf__Id: old!.Id, sf__Created: 'false', Ext__c: 'b', Name: 'New', Score__c: '#N/A', Rating: '' },
    { sf__Id: ada!.Id, sf__Created: 'true', Ext__c: 'a', Name: 'Ada, "the first"', Score__c: '2', Rating: '' },
  ])
  expect(done.failedResults).toMatchObject([
    { sf__Id: '', Ext__c: 'd', sf__Error: expect.stringMatching(/^STRING_TOO_LONG:Name: data value too large: n+ /) },
    { sf__Id: '', sf__Error: 'REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --', Ext__c: 'c' },
  ])
  expect(done.unprocessedRecords).toEqual([])
  expect(box.salesforce.records('Account')).toMatchObject([
    { Name: 'New', Ext__c: 'b', Rating: 'Hot' },
    { Name: 'Ada, "the first"', Score__c: 2 },
  ])
  expect(old).not.toHaveProperty('Score__c')
  expect(box.salesforce.jobs).toMatchObject([{ state: 'JobComplete', processed: 4, failed: 2, csv: input }])
})

test('a job that fails half way leaves rows unprocessed; so does one with a column that there is not', async () => {
  const connection = await start()
  const run = async (input: string) => {
    const job = connection.bulk2.createJob({ object: 'Account', operation: 'insert' })
    await job.open()
    await job.uploadData(input)
    await job.close()
    const failed = await refusal(job.poll(1, 1000))
    return [failed, await job.getAllResults()] as const
  }
  box.salesforce.failJob(1, 'InternalServerError')
  const [failed, results] = await run('Name\nA\nB\n')
  expect(failed).toContain('InternalServerError')
  expect(results).toMatchObject({
    successfulResults: [{ Name: 'A' }],
    failedResults: [],
    unprocessedRecords: [{ Name: 'B' }],
  })
  expect((await run('Name,Nope__c\nA,1\n'))[0]).toContain('InvalidBatch : Field name not found : Nope__c')
  expect((await run('Name\r\nA\r\n'))[0]).toContain('LineEnding is invalid on user data')
  expect(names()).toEqual(['A'])
})

test('a job is open until it is closed, takes one upload, and can be aborted', async () => {
  const connection = await start()
  const open = async () => {
    const job = connection.bulk2.createJob({ object: 'Account', operation: 'insert' })
    await job.open()
    return job
  }
  const twice = await open()
  await twice.uploadData('Name\nA\n')
  await connection.bulk2.job('ingest', { id: twice.id! }).uploadData('Name\nB\n')
  expect(await refusal(twice.close())).toContain("only do 'PUT' once")
  await twice.abort()
  expect(await refusal(twice.close())).toContain('INVALIDJOBSTATE')
  expect(await refusal((await open()).close())).toContain('no data')
  expect(box.salesforce.jobs.map(({ state }) => state)).toEqual(['Aborted', 'Open'])
  expect(names()).toEqual([])
})

test('jobs that are held stay in progress', async () => {
  const connection = await start()
  box.salesforce.hold()
  const job = connection.bulk2.createJob({ object: 'Account', operation: 'insert' })
  await job.open()
  await job.uploadData('Name\nA\n')
  await job.close()
  expect(await job.check()).toMatchObject({ state: 'InProgress', numberRecordsProcessed: 0 })
  box.salesforce.release()
  expect(await job.check()).toMatchObject({ state: 'JobComplete', numberRecordsProcessed: 1 })
  await job.delete()
  expect(await refusal(job.check())).toContain('NOT_FOUND')
})

test('the page shows the objects as tables, and the jobs, and takes what they hold for text', async () => {
  const connection = await start()
  box.salesforce.put('Account', { Name: '<b>Ada</b>', Score__c: 3, Vip__c: true })
  await connection.bulk2.loadAndWaitForResults({ object: 'Account', operation: 'insert', input: 'Name\nBo\n' })
  const page = await (await fetch(box.url)).text()
  expect(page).toContain('&#60;b&#62;Ada')
  expect(page).not.toContain('<b>Ada')
  expect(page).toContain('<td class="number">3</td>')
  expect(page).toContain('2 records')
  expect(page).toContain('<td>JobComplete</td>')
})
