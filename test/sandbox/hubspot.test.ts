import { type Sandbox, type SandboxOptions, sandbox } from 'spillway/sandbox'
import { afterEach, expect, test, vi } from 'vitest'

let box: Sandbox

afterEach(async () => {
  vi.useRealTimers()
  await box.close()
})

async function start(options: SandboxOptions = {}): Promise<void> {
  box = await sandbox(options)
  box.hubspot.define('contacts', [
    { name: 'crm_key', hasUniqueValue: true },
    { name: 'score', type: 'number' },
    { name: 'vip', type: 'bool' },
    { name: 'born', type: 'date' },
    { name: 'seen', type: 'datetime' },
    { name: 'likes', type: 'enumeration', fieldType: 'checkbox', options: ['tea', 'coffee'] },
  ])
}

// biome-ignore lint/suspicious/noExplicitAny: what HubSpot would answer
type Body = any
interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: Body
}

async function call(method: string, path: string, json?: object, token = box.hubspot.token): Promise<Answer> {
  const response = await fetch(`${box.url}/crm/${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(json && { body: JSON.stringify(json) }),
  })
  const text = await response.text()
  return { status: response.status, headers: response.headers, body: text && JSON.parse(text) }
}
const batch = (action: string, inputs: object[], rest: object = {}, type = 'contacts') =>
  call('POST', `v3/objects/${type}/batch/${action}`, { inputs, ...rest })
const held = (type = 'contacts') => box.hubspot.objects(type).map(({ properties }) => properties)

const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
const uuid = expect.stringMatching(/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)

// ---- batches -------------------------------------------------------------------------------------------------------

test('a created batch is answered with 201, its objects and their trace ids', async () => {
  await start()
  const input = { objectWriteTraceId: 'x', properties: { email: ' Ada@X.test ', crm_key: 'a' }, associations: [] }
  const { status, body } = await batch('create', [input])
  expect(status).toBe(201)
  expect(body).toEqual({
    status: 'COMPLETE',
    results: [
      {
        id: expect.stringMatching(/^\d+$/),
        objectWriteTraceId: 'x',
        properties: {
          email: 'ada@x.test',
          firstname: null,
          lastname: null,
          crm_key: 'a',
          createdate: time,
          lastmodifieddate: time,
          hs_object_id: body.results[0].id,
        },
        createdAt: time,
        updatedAt: time,
        archived: false,
      },
    ],
    startedAt: time,
    completedAt: time,
  })
})

test('with trace ids a batch is written in part, with 207; without them as a whole or not at all', async () => {
  await start()
  const inputs = [{ properties: { crm_key: 'a' } }, { properties: { crm_key: 'b', score: 'x', nowhere: '1' } }]
  const refused = await batch('create', inputs)
  expect(refused.status).toBe(400)
  expect(refused.body).toEqual({
    status: 'error',
    message: expect.stringMatching(
      /^Property values were not valid: \[\{"isValid":false,"message":"x was not a valid number."/,
    ),
    correlationId: uuid,
    category: 'VALIDATION_ERROR',
    errors: [
      { message: 'x was not a valid number.', code: 'INVALID_INTEGER', context: { propertyName: ['score'] } },
      {
        message: 'Property "nowhere" does not exist',
        code: 'PROPERTY_DOESNT_EXIST',
        context: { propertyName: ['nowhere'] },
      },
    ],
  })
  expect(held()).toEqual([])

  const twice = await batch(
    'create',
    inputs.map((input) => ({ ...input, objectWriteTraceId: 'same' })),
  )
  expect(twice.status).toBe(400)

  const { status, body } = await batch(
    'create',
    inputs.map((input, row) => ({ ...input, objectWriteTraceId: `t${row}` })),
  )
  expect(status).toBe(207)
  expect(body).toMatchObject({ status: 'COMPLETE', numErrors: 1, results: [{ objectWriteTraceId: 't0' }] })
  expect(body.errors).toEqual([
    {
      status: 'error',
      category: 'VALIDATION_ERROR',
      message: refused.body.message,
      context: { objectWriteTraceId: ['t1'] },
    },
  ])
  expect(held()).toEqual([{ crm_key: 'a' }])
})

test('upsert creates or changes by a unique property, and says which; results have no order to rely on', async () => {
  await start()
  const { id } = box.hubspot.create('contacts', { email: 'ada@x.test', city: 'London' })
  const inputs = [
    { id: 'ADA@x.test', idProperty: 'email', properties: { city: '' } },
    { id: 'grace@x.test', idProperty: 'email', properties: { city: 'NY' } },
  ]
  const { status, body } = await batch('upsert', inputs)
  expect(status).toBe(200)
  expect(body.results).toMatchObject([
    { new: true, properties: { email: 'grace@x.test', city: 'NY' } },
    { new: false, id, properties: { city: null } },
  ])
  expect(held()).toEqual([{ email: 'ada@x.test' }, { email: 'grace@x.test', city: 'NY' }])
})

test('update names the objects that do not exist', async () => {
  await start()
  const { id } = box.hubspot.create('contacts', { crm_key: 'a' })
  const { status, body } = await batch('update', [
    { id, properties: { firstname: 'Ada' }, objectWriteTraceId: '0' },
    { id: '7', properties: {}, objectWriteTraceId: '1' },
  ])
  expect(status).toBe(207)
  expect(body.errors).toEqual([
    {
      status: 'error',
      category: 'OBJECT_NOT_FOUND',
      message: 'Could not get some CONTACT objects, they may be deleted or not exist. Check that ids are valid.',
      context: { ids: ['7'], objectWriteTraceId: ['1'] },
    },
  ])
  expect(held()).toEqual([{ crm_key: 'a', firstname: 'Ada' }])
})

test('read finds by record id or by a unique property, and lists what is missing', async () => {
  await start()
  const { id } = box.hubspot.create('contacts', { crm_key: 'a', city: 'London' })
  const rest = { idProperty: 'crm_key', properties: ['city'], propertiesWithHistory: [] }
  const { status, body } = await batch('read', [{ id: 'a' }, { id: 'z' }], rest)
  expect(status).toBe(207)
  expect(body).toMatchObject({ numErrors: 1, results: [{ id }], errors: [{ context: { ids: ['z'] } }] })
  expect(Object.keys(body.results[0].properties).sort()).toEqual([
    'city',
    'createdate',
    'hs_object_id',
    'lastmodifieddate',
  ])
  expect(await batch('read', [{ id }], { properties: [] })).toMatchObject({ status: 200, body: { results: [{ id }] } })
})

test('archive answers 204, again too; what is archived is found no more, and its key is free', async () => {
  await start()
  const { id } = box.hubspot.create('contacts', { crm_key: 'a' })
  for (let turn = 0; turn < 2; turn++) {
    expect(await batch('archive', [{ id }])).toMatchObject({ status: 204, body: '' })
  }
  expect(held()).toEqual([])
  expect((await call('GET', `v3/objects/contacts/${id}`)).status).toBe(404)
  const upserted = await batch('upsert', [{ id: 'a', idProperty: 'crm_key', properties: {} }])
  expect(upserted.body.results[0]).toMatchObject({ new: true })
  expect(upserted.body.results[0].id).not.toBe(id)
})

test.each<[string, string, object[], RegExp]>([
  [
    'more than 100 inputs',
    'create',
    Array(101).fill({ properties: {} }),
    /^The maximum number of inputs supported in a batch is 100\./,
  ],
  [
    'two inputs of one id',
    'update',
    Array(2).fill({ id: '1', properties: {} }),
    /^Duplicate IDs found in batch input: \[1\]\. IDs must be unique$/,
  ],
  [
    'two spellings of one address',
    'upsert',
    ['a@x.test', 'A@x.test'].map((id) => ({ id, idProperty: 'email', properties: {} })),
    /^Duplicate IDs found/,
  ],
  [
    'a property that is not unique',
    'upsert',
    [{ id: 'a', idProperty: 'firstname', properties: {} }],
    /^Unable to perform update\/upsert by non-unique 0-1 property firstname$/,
  ],
  [
    'an upsert by record id',
    'upsert',
    [{ id: '1', properties: {} }],
    /^Unable to perform update\/upsert by non-unique/,
  ],
  ['a number', 'create', [{ properties: { score: 1 } }], /^Invalid input JSON/],
  ['null', 'create', [{ properties: { score: null } }], /^Invalid input JSON/],
  ['no properties', 'create', [{}], /^Invalid input JSON/],
])('%s is refused as a whole', async (_, action, inputs, message) => {
  await start()
  const { status, body } = await batch(action, inputs)
  expect({ status, category: body.category }).toEqual({ status: 400, category: 'VALIDATION_ERROR' })
  expect(body.message).toMatch(message)
  expect(held()).toEqual([])
})

test('a unique value belongs to one object', async () => {
  await start()
  const { id } = box.hubspot.create('contacts', { crm_key: 'a', email: 'a@x.test' })
  const { body } = await batch('create', [
    { properties: { crm_key: 'a' }, objectWriteTraceId: '0' },
    { properties: { email: 'A@x.test' }, objectWriteTraceId: '1' },
  ])
  expect(body.errors).toMatchObject([
    { category: 'VALIDATION_ERROR', message: expect.stringContaining(`${id} already has that value.`) },
    { category: 'CONFLICT', message: `Contact already exists. Existing ID: ${id}`, context: { existingId: [id] } },
  ])
  expect(await call('PATCH', `v3/objects/contacts/${id}`, { properties: { crm_key: 'a', city: 'X' } })).toMatchObject({
    status: 200,
  })
})

// ---- values ----------------------------------------------------------------------------------------------------------

test.each([
  ['score', '1.50', '1.50'],
  ['score', 'x', undefined],
  ['vip', 'true', 'true'],
  ['vip', 'yes', undefined],
  ['born', '1815-12-10', '1815-12-10'],
  ['born', '1430438400000', '2015-05-01'],
  ['born', '2015-05-01T00:00:00Z', '2015-05-01'],
  ['born', '2015-05-01T10:00:00Z', undefined],
  ['born', '01.05.2015', undefined],
  ['seen', '2026-11-21T10:00:00.123456Z', '2026-11-21T10:00:00.123Z'],
  ['seen', '2026-11-21T10:00:00+02:00', '2026-11-21T08:00:00.000Z'],
  ['seen', '2026-11-21T10:00:00', '2026-11-21T10:00:00.000Z'],
  ['seen', '1427997766000', '2015-04-02T18:02:46.000Z'],
  ['seen', 'now', undefined],
  ['likes', 'tea;coffee', 'tea;coffee'],
  ['likes', 'tea;milk', undefined],
  ['email', 'nobody', undefined],
  ['hs_object_id', '1', undefined],
])('%s takes %j as %j', async (name, text, stored) => {
  await start()
  const { status } = await call('POST', 'v3/objects/contacts', { properties: { [name]: text } })
  expect(status).toBe(stored === undefined ? 400 : 201)
  expect(held()).toEqual(stored === undefined ? [] : [{ [name]: stored }])
})

// ---- types, properties, pages ------------------------------------------------------------------------------------------

test('custom objects have an id and a name; what is no type is refused', async () => {
  await start()
  const { id } = box.hubspot.define('boats', [{ name: 'hull', hasUniqueValue: true }])
  expect(id).toMatch(/^2-\d+$/)
  for (const type of [id, 'p_boats', 'boats']) {
    expect(await batch('create', [{ properties: { hull: type } }], {}, type)).toMatchObject({ status: 201 })
  }
  expect(held('boats')).toHaveLength(3)
  expect((await call('GET', 'v3/objects/cars')).body.message).toBe('Unable to infer object type from: cars')
  expect((await call('GET', 'v3/objects/0-1')).status).toBe(200)
})

test('properties are listed, read, made and taken away', async () => {
  await start()
  const list = (await call('GET', 'v3/properties/contacts')).body.results as Body[]
  expect(list.find(({ name }) => name === 'likes')).toMatchObject({
    type: 'enumeration',
    fieldType: 'checkbox',
    hasUniqueValue: false,
    options: [
      { label: 'tea', value: 'tea', displayOrder: 0, hidden: false },
      { label: 'coffee', value: 'coffee', displayOrder: 1, hidden: false },
    ],
  })
  expect(list.find(({ name }) => name === 'hs_object_id').modificationMetadata.readOnlyValue).toBe(true)
  const fresh = { name: 'shoe', label: 'Shoe', type: 'number', fieldType: 'number', groupName: 'contactinformation' }
  expect(await call('POST', 'v3/properties/contacts', fresh)).toMatchObject({
    status: 201,
    body: { name: 'shoe', type: 'number' },
  })
  expect((await call('POST', 'v3/properties/contacts', fresh)).status).toBe(409)
  expect((await call('POST', 'v3/properties/contacts', { name: 'x' })).status).toBe(400)
  expect((await call('GET', 'v3/properties/contacts/shoe')).status).toBe(200)
  expect((await call('DELETE', 'v3/properties/contacts/shoe')).status).toBe(204)
  expect((await call('GET', 'v3/properties/contacts/shoe')).status).toBe(404)
})

test('objects are listed page by page, with the properties asked for', async () => {
  await start()
  for (let row = 0; row < 5; row++) box.hubspot.create('contacts', { crm_key: `k${row}` })
  const seen: string[] = []
  let after = ''
  do {
    const { body } = await call(
      'GET',
      `v3/objects/contacts?limit=2&properties=crm_key,nowhere${after && `&after=${after}`}`,
    )
    expect(body.results.length).toBeLessThanOrEqual(2)
    for (const { properties } of body.results) seen.push(properties.crm_key)
    after = body.paging?.next.after ?? ''
  } while (after)
  expect(seen).toEqual(['k0', 'k1', 'k2', 'k3', 'k4'])
  expect((await call('GET', 'v3/objects/contacts?limit=101')).status).toBe(400)
  expect(
    (await call('GET', 'v3/objects/contacts/k3?idProperty=crm_key&properties=crm_key')).body.properties.crm_key,
  ).toBe('k3')
})

// ---- associations ------------------------------------------------------------------------------------------------------

test('associations are made, from both ends, read and taken away; a wrong kind is refused', async () => {
  await start()
  const ada = box.hubspot.create('contacts', { crm_key: 'a' }).id
  const acme = box.hubspot.create('companies', { name: 'Acme' }).id
  const pair = (type: number, to = acme) => ({
    inputs: [
      {
        from: { id: ada },
        to: { id: to },
        types: [{ associationCategory: 'HUBSPOT_DEFINED', associationTypeId: type }],
      },
    ],
  })
  const path = 'v4/associations/contacts/companies/batch'
  expect(await call('POST', `${path}/create`, pair(3))).toMatchObject({ status: 400 })
  expect(await call('POST', `${path}/create`, pair(279, '9'))).toMatchObject({
    status: 207,
    body: { numErrors: 1, results: [] },
  })
  for (let turn = 0; turn < 2; turn++) {
    const { status, body } = await call('POST', `${path}/create`, pair(279))
    expect(status).toBe(201)
    expect(body.results).toEqual([
      { fromObjectTypeId: '0-1', fromObjectId: ada, toObjectTypeId: '0-2', toObjectId: acme, labels: [] },
    ])
  }
  expect(box.hubspot.associations('companies', 'contacts')).toEqual([
    { from: acme, to: ada, category: 'HUBSPOT_DEFINED', type: 280 },
  ])
  expect((await call('POST', `${path}/read`, { inputs: [{ id: ada }] })).body.results).toMatchObject([
    { from: { id: ada }, to: [{ toObjectId: acme, associationTypes: [{ typeId: 279 }] }] },
  ])
  expect(await call('POST', `${path}/archive`, { inputs: [{ from: { id: ada }, to: [{ id: acme }] }] })).toMatchObject({
    status: 204,
  })
  expect(box.hubspot.associations('contacts', 'companies')).toEqual([])
})

test('an object is created together with its associations, or not at all', async () => {
  await start()
  const acme = box.hubspot.create('companies', { name: 'Acme' }).id
  const input = (id: string, row: number) => ({
    objectWriteTraceId: `${row}`,
    properties: { crm_key: `k${row}` },
    associations: [{ to: { id }, types: [{ associationCategory: 'HUBSPOT_DEFINED', associationTypeId: 279 }] }],
  })
  const { status, body } = await batch('create', [input(acme, 0), input('9', 1)])
  expect(status).toBe(207)
  expect(body.errors).toMatchObject([{ category: 'OBJECT_NOT_FOUND', context: { objectWriteTraceId: ['1'] } }])
  expect(held()).toEqual([{ crm_key: 'k0' }])
  expect(box.hubspot.associations('contacts', 'companies')).toMatchObject([{ to: acme, type: 279 }])
})

// ---- who may ask, and how often ----------------------------------------------------------------------------------------

test('another token is refused, and a scope that was not granted is named', async () => {
  await start()
  const { status, body } = await call('GET', 'v3/objects/contacts', undefined, 'other')
  expect(status).toBe(401)
  expect(body).toMatchObject({ status: 'error', category: 'INVALID_AUTHENTICATION', correlationId: uuid })
  box.hubspot.withhold('crm.objects.contacts.write')
  expect(await batch('create', [{ properties: {} }])).toMatchObject({
    status: 403,
    body: {
      category: 'MISSING_SCOPES',
      errors: [{ context: { requiredGranularScopes: ['crm.objects.contacts.write'] } }],
    },
  })
  expect(await batch('read', [{ id: '1' }], { properties: [] })).toMatchObject({ status: 207 })
  expect((await call('GET', 'v3/objects/contacts')).status).toBe(200)
})

test('the limits count any ten seconds and the day, and the answers say what is left', async () => {
  vi.useFakeTimers({ now: new Date('2026-11-21T23:59:40Z'), toFake: ['Date'] })
  await start({ hubspot: { tenSeconds: 2, daily: 3 } })
  const ask = () => call('GET', 'v3/objects/contacts')
  const first = await ask()
  expect(Object.fromEntries(first.headers)).toMatchObject({
    'x-hubspot-ratelimit-max': '2',
    'x-hubspot-ratelimit-remaining': '1',
    'x-hubspot-ratelimit-interval-milliseconds': '10000',
    'x-hubspot-ratelimit-daily': '3',
    'x-hubspot-ratelimit-daily-remaining': '2',
  })
  vi.setSystemTime(new Date('2026-11-21T23:59:45Z'))
  await ask()
  const { status, body } = await ask()
  expect(status).toBe(429)
  expect(body).toEqual({
    status: 'error',
    message: 'You have reached your ten_secondly_rolling limit.',
    errorType: 'RATE_LIMIT',
    correlationId: uuid,
    policyName: 'TEN_SECONDLY_ROLLING',
    requestId: uuid,
  })
  vi.setSystemTime(new Date('2026-11-21T23:59:51Z'))
  expect((await ask()).status).toBe(200)
  expect((await ask()).body).toMatchObject({ policyName: 'DAILY', message: 'You have reached your daily limit.' })
  vi.setSystemTime(new Date('2026-11-22T00:00:02Z'))
  expect((await ask()).status).toBe(200)
})

test('a fault speaks as HubSpot does', async () => {
  await start()
  box.faults.next({ kind: 'status', status: 429, reason: 'DAILY' })
  expect(await call('GET', 'v3/objects/contacts')).toMatchObject({ status: 429, body: { policyName: 'DAILY' } })
  box.faults.next({ kind: 'status', status: 500 })
  expect(await call('GET', 'v3/objects/contacts')).toMatchObject({
    status: 500,
    body: { status: 'error', category: 'INTERNAL_ERROR', correlationId: uuid },
  })
})

test('what the sandbox does not speak is said', async () => {
  await start()
  expect(await call('POST', 'v3/objects/contacts/search', {})).toMatchObject({ status: 501 })
  expect(await call('GET', 'v3/owners')).toMatchObject({ status: 501 })
})

test('the page shows the objects as tables, and executes nothing that is in them', async () => {
  await start()
  const ada = box.hubspot.create('contacts', { crm_key: 'a', firstname: '<b>Ada</b>' })
  const acme = box.hubspot.create('companies', { name: 'Acme' })
  await call('POST', 'v4/associations/contacts/companies/batch/create', {
    inputs: [{ from: ada, to: acme, types: [{ associationCategory: 'HUBSPOT_DEFINED', associationTypeId: 279 }] }],
  })
  const page = await (await fetch(box.url)).text()
  expect(page).toContain('<th>Record ID</th>')
  expect(page).toContain('&#60;b&#62;Ada&#60;/b&#62;')
  expect(page).not.toContain('<b>Ada</b>')
  expect(page).toContain(`companies ${acme.id}`)
})
