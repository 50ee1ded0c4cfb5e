import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { type AnyRow, Instant, type Policy, type Run, sync } from 'spillway'
import { type HubSpotOptions, hubspot } from 'spillway/destinations/hubspot'
import { type Fault, type Sandbox, type SandboxOptions, sandbox } from 'spillway/sandbox'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { quiet as log } from '../support/quiet.js'

let box: Sandbox
let state: string
let fake: Server | undefined

beforeEach(async () => {
  await start()
  state = mkdtempSync(join(tmpdir(), 'hubspot-'))
})
afterEach(async () => {
  fake?.close()
  fake = undefined
  await box.close()
  rmSync(state, { recursive: true })
})

/** A sandbox whose contacts have a property for the row's key. */
async function start(options: SandboxOptions = {}): Promise<void> {
  await box?.close()
  box = await sandbox(options)
  box.hubspot.define('contacts', [
    { name: 'crm_key', hasUniqueValue: true },
    { name: 'score', type: 'number' },
    { name: 'vip', type: 'bool' },
    { name: 'born', type: 'date' },
    { name: 'seen', type: 'datetime' },
    { name: 'likes', type: 'enumeration', fieldType: 'checkbox', options: ['tea', 'coffee', 'water'] },
  ])
}

type To = Partial<HubSpotOptions>

function contacts(options: To = {}, policy: Policy = {}) {
  const { token = box.hubspot.token, endpoint = box.url, ...rest } = options
  return hubspot({ object: 'contacts', match: 'crm_key', token, endpoint, ...rest }).with({ settle: '1ms', ...policy })
}

interface Sending extends To {
  mode?: 'append' | 'insert' | 'update' | 'upsert' | 'mirror'
  policy?: Policy
  name?: string
  key?: string
}

function syncOf(records: AnyRow[], { mode = 'upsert', policy, name = 'people', key = 'crm_key', ...options }: Sending) {
  return sync({ name, from: records, to: contacts(options, policy), state, log, mode, key })
}

/** Sends records, by default in `upsert` by `crm_key`. */
function send(records: AnyRow[], sending: Sending = {}, run: object = {}): Promise<Run> {
  return syncOf(records, sending).run(run)
}

async function reasons(sending: Sending = {}): Promise<string[]> {
  const found: string[] = []
  for await (const { reason } of syncOf([], sending).deadLetters()) found.push(reason)
  return found
}

const held = (object = 'contacts') => box.hubspot.objects(object).map(({ properties }) => properties)
const asked = (action: string) => box.requests.filter(({ path }) => path.endsWith(action))
const people = (count: number) =>
  Array.from({ length: count }, (_, row) => ({ crm_key: `k${row}`, firstname: `n${row}` }))

/** A server that answers what a test says, for what the sandbox would not say. */
async function answering(answer: (body: { inputs: Sent[] }, path: string) => { status?: number; body: unknown }) {
  const bodies: { path: string; inputs: Sent[] }[] = []
  fake = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const sent = JSON.parse(Buffer.concat(chunks).toString())
    bodies.push({ path: request.url!, ...sent })
    const { status = 200, body } = answer(sent, request.url!)
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  await new Promise<void>((done) => fake!.listen(0, '127.0.0.1', done))
  return { endpoint: `http://127.0.0.1:${(fake.address() as AddressInfo).port}`, bodies }
}
interface Sent {
  id: string
  properties: Record<string, string>
  objectWriteTraceId: string
}
/** The object that a well-behaved answer holds for an input. */
const done = ({ properties, objectWriteTraceId }: Sent, id = `9${objectWriteTraceId}`) => ({
  id,
  properties,
  objectWriteTraceId,
})
/** One attempt and no waiting. */
const once: Policy = { retryFor: '1ms' }

// ---- what is written -----------------------------------------------------------------------------------------------

test('a thousand records take ten requests, and their receipts spare the deletes a search', async () => {
  const mode = 'mirror'
  expect(await send(people(1000), { mode })).toMatchObject({ status: 'done', delivered: 1000 })
  expect(box.requests.map(({ path }) => path)).toEqual(Array(10).fill('/crm/v3/objects/contacts/batch/upsert'))
  expect(held()).toHaveLength(1000)
  expect(await send(people(999), { mode })).toMatchObject({ status: 'done', deletes: { delivered: 1 } })
  expect(box.requests.slice(10).map(({ path }) => path)).toEqual(['/crm/v3/objects/contacts/batch/archive'])
  expect(held().map(({ crm_key }) => crm_key)).not.toContain('k999')
})

test('values arrive as the text that HubSpot wants, none rounded or shifted', async () => {
  await send([
    {
      crm_key: 9_007_199_254_740_993n,
      score: '0.10',
      vip: false,
      born: '1815-12-10',
      seen: new Date('2026-11-21T10:00:00.123Z'),
      likes: ['tea', 'water'],
      firstname: 0,
      lastname: 'Ü',
    },
  ])
  expect(held()).toEqual([
    {
      crm_key: '9007199254740993',
      score: '0.10',
      vip: 'false',
      born: '1815-12-10',
      seen: '2026-11-21T10:00:00.123Z',
      likes: 'tea;water',
      firstname: '0',
      lastname: 'Ü',
    },
  ])
  expect(asked('/upsert')[0]!.body).toEqual({
    inputs: [
      {
        id: '9007199254740993',
        idProperty: 'crm_key',
        objectWriteTraceId: '0',
        properties: expect.objectContaining({ score: '0.10', vip: 'false', firstname: '0' }),
      },
    ],
  })
})

test('microseconds are sent', async () => {
  box.hubspot.define('contacts', [{ name: 'note' }])
  await send([{ crm_key: 'a', note: Instant.of('2026-11-21T10:00:00.123456Z') }])
  expect(held()[0]).toMatchObject({ note: '2026-11-21T10:00:00.123456Z' })
})

test('null and the empty text clear a property, an absent field leaves it alone', async () => {
  box.hubspot.create('contacts', {
    crm_key: 'a',
    firstname: 'Ada',
    lastname: 'L',
    city: 'London',
    phone: '1',
    likes: 'tea',
  })
  await send([{ crm_key: 'a', firstname: null, city: '', likes: [], phone: undefined }])
  expect(held()).toEqual([{ crm_key: 'a', lastname: 'L', phone: '1' }])
})

test.each([
  ['an object', { x: 1 }, 'city is neither text'],
  ['bytes', new Uint8Array([1]), 'city is neither text'],
  ['a list with an object', [{ x: 1 }], 'city is a list with an entry'],
  ['a list with null', ['a', null], 'city is a list with an entry'],
  ['a list whose entry has a semicolon', ['a;b'], 'city is a list with an entry'],
  ['a number that is none', Number.NaN, 'city is NaN'],
  ['a date that is none', new Date(Number.NaN), 'city is an invalid date'],
])('a record that holds %s is rejected alone', async (_, city, reason) => {
  // in append the row reaches the handler as it was staged
  const run = await send([{ crm_key: 'a' }, { crm_key: 'b', city }])
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect((await reasons())[0]).toContain(reason)
  expect(held()).toEqual([{ crm_key: 'a' }])
})

// ---- by what objects are found ---------------------------------------------------------------------------------------

test('contacts that exist are found by e-mail address, whatever its case', async () => {
  box.hubspot.create('contacts', { email: 'ada@x.test', firstname: 'A' })
  const run = await send([{ email: ' Ada@X.test', firstname: 'Ada' }], { match: 'email', key: 'email' })
  expect(run).toMatchObject({ status: 'done', delivered: 1 })
  expect(held()).toEqual([{ email: 'ada@x.test', firstname: 'Ada' }])
})

test('of two records that mean one object the second is rejected, and the rest delivered', async () => {
  const run = await send([{ email: 'a@x.test' }, { email: 'A@x.test ', firstname: 'no' }, { email: 'b@x.test' }], {
    match: 'email',
    key: 'email',
  })
  expect(run).toMatchObject({ delivered: 2, rejected: 1 })
  expect(await reasons({ match: 'email', key: 'email' })).toEqual([
    'another record of the batch means the same object: email is that of both',
  ])
  expect(held()).toEqual([{ email: 'a@x.test' }, { email: 'b@x.test' }])
})

test('without match the key of the sync finds the object', async () => {
  box.hubspot.create('contacts', { crm_key: 'a' })
  await send([{ crm_key: 'a', firstname: 'Ada' }], { match: undefined })
  expect(held()).toEqual([{ crm_key: 'a', firstname: 'Ada' }])
})

test('a property whose values are not unique stops the run, and the error says what to do', async () => {
  const run = send([{ firstname: 'a' }, { firstname: 'b' }], { match: 'firstname', key: 'firstname' })
  await expect(run).rejects.toThrow(/hubspot: 400: .*non-unique 0-1 property firstname: let match name a property/)
  expect(box.requests).toHaveLength(1)
})

test('update by record id writes to that object, and not the id', async () => {
  const { id } = box.hubspot.create('contacts', { firstname: 'Ada' })
  const options = { match: 'hs_object_id', key: 'hs_object_id', mode: 'update' } as const
  expect(await send([{ hs_object_id: id, lastname: 'L' }], options)).toMatchObject({ delivered: 1 })
  expect(held()).toEqual([{ firstname: 'Ada', lastname: 'L' }])
  await expect(send([{ hs_object_id: id }], { ...options, mode: 'upsert', name: 'u' })).rejects.toThrow(
    /upsert needs one property with unique values, other than hs_object_id/,
  )
})

test('update changes objects that exist, and rejects those that do not', async () => {
  box.hubspot.create('contacts', { crm_key: 'a', lastname: 'L' })
  const mode = 'update'
  const run = await send([{ crm_key: 'a', firstname: 'Ada' }, { crm_key: 'b' }], { mode })
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
  expect(await reasons({ mode })).toEqual([expect.stringContaining('Could not get some CONTACT objects')])
  expect(held()).toEqual([{ crm_key: 'a', lastname: 'L', firstname: 'Ada' }])
})

test('a record without its match field is rejected alone', async () => {
  const rows = [
    { id: 1, crm_key: 'a' },
    { id: 2, crm_key: ' ' },
  ]
  const to = contacts()
  const run = await sync({
    name: 'people',
    from: rows,
    to,
    state,
    log,
    key: 'id',
    map: ({ crm_key }) => ({ crm_key }),
  }).run()
  expect(run).toMatchObject({ delivered: 1, rejected: 1 })
})

// ---- deletes -----------------------------------------------------------------------------------------------------------

describe('a delete', () => {
  const sending = { mode: 'mirror' } as const
  const run = (records: AnyRow[], options: Sending = {}) =>
    send(records, { ...sending, ...options }, { allowDeletes: true })

  test('of what somebody archived meanwhile is done', async () => {
    await run(people(3))
    box.hubspot.edit('contacts', box.hubspot.objects('contacts')[2]!.id)
    expect(await run(people(2))).toMatchObject({ status: 'done', deletes: { delivered: 1 } })
    expect(held()).toHaveLength(2)
  })

  test('without a receipt looks for its objects, and takes those that are not found for deleted', async () => {
    for (const properties of people(3)) box.hubspot.create('contacts', properties)
    await syncOf(people(4), sending).adopt() // which learns of no record ids
    expect(await run(people(1))).toMatchObject({ status: 'done', deletes: { delivered: 3 } })
    expect(asked('/read')[0]!.body).toMatchObject({
      idProperty: 'crm_key',
      inputs: [{ id: 'k1' }, { id: 'k2' }, { id: 'k3' }],
    })
    expect(asked('/archive')[0]!.body).toEqual({ inputs: [{ id: expect.any(String) }, { id: expect.any(String) }] })
    expect(held()).toEqual([people(1)[0]])
  })

  test('whose object is neither found nor said to be missing is unknown', async () => {
    const { endpoint } = await answering(() => ({ body: { status: 'COMPLETE', results: [] } }))
    const rows = syncOf(people(1), { ...sending, endpoint, name: 'other', policy: once })
    await syncOf(people(2), { ...sending, endpoint, name: 'other' }).adopt()
    expect(await rows.run({ allowDeletes: true })).toMatchObject({ status: 'incomplete', deletes: { unknown: 1 } })
  })

  test('that may or may not have been applied is sent again', async () => {
    await run(people(2))
    box.faults.next({ kind: 'cut', applied: true, when: ({ path }) => path.endsWith('/archive') })
    expect(await run(people(1))).toMatchObject({ status: 'done', deletes: { delivered: 1 } })
    expect(asked('/archive')).toHaveLength(2)
    expect(held()).toHaveLength(1)
  })
})

// ---- what HubSpot answers ------------------------------------------------------------------------------------------------

test('a 207 is read row by row: the bad rows are rejected with their reasons, the others delivered', async () => {
  const rows = [...people(4), { crm_key: 'bad', score: 'many' }, { crm_key: 'odd', nowhere: 1 }]
  expect(await send(rows)).toMatchObject({ status: 'done', delivered: 4, rejected: 2 })
  expect(box.requests.map(({ status }) => status)).toEqual([207])
  expect(await reasons()).toEqual(['score: many was not a valid number.', 'nowhere: Property "nowhere" does not exist'])
  expect(held()).toHaveLength(4)
})

test('a row in neither list is unknown, and sent again until there is an answer', async () => {
  let silent = true
  const { endpoint, bodies } = await answering(({ inputs }) => {
    const results = inputs.filter(({ id }) => !(silent && id === 'k1')).map((input) => done(input))
    silent = false
    return { body: { status: 'COMPLETE', results } }
  })
  expect(await send(people(3), { endpoint })).toMatchObject({ status: 'done', delivered: 3 })
  expect(bodies.map(({ inputs }) => inputs.map(({ id }) => id))).toEqual([['k0', 'k1', 'k2'], ['k1']])
})

test.each([
  ['an empty 200', { status: 'COMPLETE', results: [] }],
  ['a 200 with an error inside', { status: 'error', message: 'no' }],
  ['a 200 that speaks of other objects', { results: [{ id: '1', properties: { crm_key: 'z' } }] }],
  ['a 200 that names one object twice', { results: [1, 2].map(() => ({ id: '1', objectWriteTraceId: '0' })) }],
  ['a 207 that names nobody', { results: [], numErrors: 2, errors: [{ category: 'VALIDATION_ERROR', message: 'no' }] }],
])('%s is no success', async (_, body) => {
  const { endpoint } = await answering(() => ({ body }))
  const run = await send(people(2), { endpoint, policy: once })
  expect(run).toMatchObject({ status: 'incomplete', rejected: 0 })
  expect(run.unknown).toBeGreaterThan(0)
})

test('a web page with status 200 is no success: its rows are unknown, and the run stops', async () => {
  box.faults.next({ kind: 'html' })
  await expect(send(people(2))).rejects.toThrow(/hubspot: 200 from POST .*: the answer is not JSON/)
  expect(await syncOf([], {}).status()).toMatchObject({ unknown: 2 })
  expect(await send(people(2))).toMatchObject({ status: 'done', delivered: 2 })
})

test('without trace ids in the answer rows are told by the match property, in whatever order', async () => {
  const { endpoint, bodies } = await answering(({ inputs }, path) => {
    if (path.endsWith('/archive')) return { status: 200, body: undefined }
    const results = inputs.map(({ id, properties }) => ({ id: `id-${id}`, properties })).reverse()
    const error = { status: 'error', category: 'VALIDATION_ERROR', message: 'not this one', context: { ids: [' K2'] } }
    return { status: 207, body: { status: 'COMPLETE', results: results.slice(1), errors: [error], numErrors: 1 } }
  })
  const options = { endpoint, match: 'email', key: 'email' }
  const rows = ['K0', 'k1', 'K2'].map((email) => ({ email }))
  expect(await send(rows, options)).toMatchObject({ delivered: 2, rejected: 1 })
  expect(await reasons(options)).toEqual(['not this one'])
  expect(bodies).toHaveLength(1)
})

test('a row that is in both lists is unknown', () =>
  answering(({ inputs }) => {
    const context = { objectWriteTraceId: ['0'] }
    return { status: 207, body: { results: inputs.map((input) => done(input)), errors: [{ message: 'x', context }] } }
  }).then(async ({ endpoint }) => {
    expect(await send(people(2), { endpoint, policy: once })).toMatchObject({ delivered: 1, unknown: 1 })
  }))

test('rows that HubSpot could not take for the moment are sent again', async () => {
  let busy = true
  const { endpoint, bodies } = await answering(({ inputs }) => {
    const errors = busy ? [{ category: 'RATE_LIMITS', context: { objectWriteTraceId: ['1'] } }] : []
    const results = inputs
      .filter(({ objectWriteTraceId }) => !busy || objectWriteTraceId === '0')
      .map((input) => done(input))
    busy = false
    return { status: 207, body: { results, errors } }
  })
  expect(await send(people(2), { endpoint })).toMatchObject({ delivered: 2, rejected: 0 })
  expect(bodies).toHaveLength(2)
})

test('a batch that is refused as a whole, with names, costs the named rows alone', async () => {
  const { endpoint, bodies } = await answering(({ inputs }) => {
    const bad = inputs.find(({ id }) => id === 'k1')
    if (!bad) return { body: { results: inputs.map((input) => done(input)) } }
    const context = { objectWriteTraceId: [bad.objectWriteTraceId] }
    const errors = [{ message: 'not this one', code: 'INVALID', context }]
    return { status: 400, body: { status: 'error', message: 'batch', category: 'VALIDATION_ERROR', errors } }
  })
  expect(await send(people(4), { endpoint })).toMatchObject({ delivered: 3, rejected: 1 })
  expect(await reasons()).toEqual(['not this one'])
  expect(bodies).toHaveLength(2)
})

test('a batch that is refused as a whole, without names, is halved until the bad row stands alone', async () => {
  const { endpoint } = await answering(({ inputs }) =>
    inputs.some(({ id }) => id === 'k1')
      ? { status: 400, body: { status: 'error', message: 'one of them', category: 'VALIDATION_ERROR' } }
      : { body: { results: inputs.map((input) => done(input)) } },
  )
  expect(await send(people(4), { endpoint })).toMatchObject({ delivered: 3, rejected: 1 })
  expect(await reasons()).toEqual(['hubspot: 400: one of them'])
})

// ---- limits and refusals ---------------------------------------------------------------------------------------------------

test('the ten-second limit is waited for', async () => {
  await start({ hubspot: { tenSeconds: 1 } })
  box.hubspot.define('contacts', [{ name: 'crm_key', hasUniqueValue: true }])
  const run = await send(people(101), { policy: { retryFor: '9s' } })
  expect(run).toMatchObject({ status: 'incomplete', delivered: 100, pending: 1 })
  expect(box.requests.map(({ status }) => status)).toEqual([200, 429])
  expect(run.reason).toMatch(/429/)
})

test('HubSpot says how long to wait', async () => {
  box.faults.next({ kind: 'status', status: 429, retryAfter: 1 })
  const begun = performance.now()
  expect(await send(people(1))).toMatchObject({ delivered: 1 })
  const waited = performance.now() - begun
  expect(waited).toBeGreaterThan(900)
  expect(waited).toBeLessThan(9_000) // less than without a word of it
})

test('the daily limit stops the run: nothing more is asked, the rest stays pending, and the error names the next step', async () => {
  await start({ hubspot: { daily: 1 } })
  box.hubspot.define('contacts', [{ name: 'crm_key', hasUniqueValue: true }])
  await expect(send(people(250), { policy: { concurrency: 1 } })).rejects.toThrow(
    "hubspot: 429: the account's daily limit of requests (DAILY) is used up: run again after midnight in the account's time zone",
  )
  expect(box.requests).toHaveLength(2)
  expect(await syncOf([], {}).status()).toMatchObject({ pending: 150, unknown: 0 })
})

test('a lock is waited for', async () => {
  box.faults.next({ kind: 'status', status: 423 })
  const begun = performance.now()
  expect(await send(people(2))).toMatchObject({ status: 'done', delivered: 2, rejected: 0 })
  expect(performance.now() - begun).toBeGreaterThan(1_900)
  expect(box.requests).toHaveLength(2)
})

test.each<[string, Fault]>([
  ['a 500', { kind: 'status', status: 500, applied: true }],
  ['a cut connection', { kind: 'cut', applied: true }],
])('after %s an upsert is sent again, and makes nothing twice', async (_, fault) => {
  box.faults.next(fault)
  expect(await send(people(3))).toMatchObject({ status: 'done', delivered: 3 })
  expect(held()).toEqual(people(3))
  expect(box.requests).toHaveLength(2)
})

test('a token that is not right stops the run, and does not show', async () => {
  const token = 'pat-na1-wrong-0123456789'
  const error = await send(people(3), { token }).catch((error) => error)
  expect(error.message).toMatch(/hubspot: 401: .*: check token, the private app's access token/)
  expect(inspect(error, { depth: 9 })).not.toContain(token)
  expect(box.requests).toHaveLength(1)
})

test('a missing scope stops the run, and is named', async () => {
  box.hubspot.withhold('crm.objects.contacts.write')
  await expect(send(people(3))).rejects.toThrow(
    /hubspot: 403: the private app may not do this: grant it crm.objects.contacts.write in HubSpot's settings/,
  )
  expect(box.requests).toHaveLength(1)
  expect(await syncOf([], {}).status()).toMatchObject({ pending: 3 })
})

// ---- insert ----------------------------------------------------------------------------------------------------------------

describe('an insert', () => {
  const mode = 'insert'

  test('creates objects, and a key that exists already is rejected', async () => {
    box.hubspot.create('contacts', { crm_key: 'k1', firstname: 'other' })
    expect(await send(people(3), { mode })).toMatchObject({ delivered: 2, rejected: 1 })
    expect(await reasons({ mode })).toEqual([expect.stringContaining('already has that value')])
    expect(box.requests.map(({ status }) => status)).toEqual([207])
    const inputs = people(3).map((properties, row) => ({ properties, objectWriteTraceId: `${row}`, associations: [] }))
    expect(asked('/create')[0]!.body).toEqual({ inputs })
  })

  test('whose answer was lost is looked up, and made once', async () => {
    const rows = people(3).map((row) => ({
      ...row,
      score: '1.50',
      seen: '2026-11-21T10:00:00Z',
      likes: ['tea', 'coffee'],
    }))
    box.faults.next({ kind: 'cut', applied: true })
    expect(await send(rows, { mode })).toMatchObject({ status: 'done', delivered: 3, resent: 0 })
    expect(held()).toHaveLength(3)
    expect(asked('/create')).toHaveLength(1)
    expect(asked('/read')[0]!.body).toMatchObject({ properties: expect.arrayContaining(['crm_key', 'score']) })
  })

  test('that was not applied is sent again', async () => {
    box.faults.next({ kind: 'cut' })
    expect(await send(people(3), { mode })).toMatchObject({ status: 'done', delivered: 3 })
    expect(asked('/create')).toHaveLength(2)
    expect(held()).toHaveLength(3)
  })

  test('whose answer was lost, with another object in its place, stays unknown', async () => {
    box.hubspot.create('contacts', { crm_key: 'k1', firstname: 'other' })
    box.faults.next({ kind: 'cut', applied: true })
    expect(await send(people(2), { mode })).toMatchObject({ status: 'incomplete', delivered: 1, unknown: 1 })
  })

  test('without a match stays unknown after a lost answer, and is not repeated', async () => {
    box.faults.next({ kind: 'cut', applied: true })
    const rows = [{ dealname: 'a' }, { dealname: 'b' }]
    const to = contacts({ object: 'deals', match: undefined })
    const run = await sync({ name: 'deals', from: rows, to, state, log }).run()
    expect(run).toMatchObject({ status: 'incomplete', unknown: 2 })
    expect(held('deals')).toHaveLength(2)
    expect(box.requests).toHaveLength(1)
  })

  test('without a match, where HubSpot leaves out the trace ids, is counted', async () => {
    let left = 0
    const { endpoint } = await answering(({ inputs }) => {
      const results = inputs.slice(left).map((_, index) => ({ id: `${index}`, properties: {} }))
      return { status: 201, body: { status: 'COMPLETE', results } }
    })
    const to = contacts({ object: 'deals', match: undefined, endpoint })
    const deals = (name: string) => sync({ name, from: [{ dealname: 'a' }, { dealname: 'b' }], to, state, log }).run()
    expect(await deals('all')).toMatchObject({ status: 'done', delivered: 2 })
    left = 1
    expect(await deals('one')).toMatchObject({ status: 'incomplete', unknown: 2 })
  })
})

// ---- associations ------------------------------------------------------------------------------------------------------------

describe('associations', () => {
  const associations = { company: { to: 'companies', type: 279, match: 'company_key' } }
  let acme: string

  beforeEach(() => {
    box.hubspot.define('companies', [{ name: 'company_key', hasUniqueValue: true }])
    acme = box.hubspot.create('companies', { company_key: 'acme' }).id
  })
  const links = () => box.hubspot.associations('contacts', 'companies')
  const rows = [
    { crm_key: 'a', company: 'acme' },
    { crm_key: 'b', company: null },
    { crm_key: 'c', company: 'acme' },
  ]

  test.each(['upsert', 'insert'] as const)('are made by %s, by the key of the other object', async (mode) => {
    expect(await send(rows, { associations, mode })).toMatchObject({ status: 'done', delivered: 3 })
    const [a, , c] = box.hubspot.objects('contacts')
    const link = { to: acme, category: 'HUBSPOT_DEFINED', type: 279 }
    expect(links().sort((a, b) => Number(a.from) - Number(b.from))).toEqual([
      { from: a!.id, ...link },
      { from: c!.id, ...link },
    ])
    expect(box.requests).toHaveLength(mode === 'insert' ? 2 : 3)
    expect(held()[0]).toEqual({ crm_key: 'a' })
  })

  test('are made by record id, which may be a number', async () => {
    const byId = { employer: { to: 'companies', type: 1 } }
    await send([{ crm_key: 'a', employer: Number(acme) }], { associations: byId })
    expect(links()).toEqual([expect.objectContaining({ to: acme, type: 1 })])
  })

  test.each(['upsert', 'insert'] as const)(
    '%s rejects a record that names no object, before anything of it is written',
    async (mode) => {
      const run = await send([...rows, { crm_key: 'd', company: 'nobody' }], { associations, mode })
      expect(run).toMatchObject({ delivered: 3, rejected: 1 })
      expect(await reasons({ associations, mode })).toEqual(['company: none of companies has this company_key'])
      expect(held().map(({ crm_key }) => crm_key)).toEqual(['a', 'b', 'c'])
    },
  )

  test('whose answer is lost are made again with their records, and nothing is there twice', async () => {
    box.faults.next({ kind: 'cut', applied: true, when: ({ path }) => path.includes('/v4/') })
    expect(await send(rows, { associations })).toMatchObject({ status: 'done', delivered: 3 })
    expect(asked('/upsert')).toHaveLength(2)
    expect(links()).toHaveLength(2)
    expect(held()).toHaveLength(3)
  })

  test('wait for the ten-second limit without a claim that nothing was written', async () => {
    box.faults.next({ kind: 'status', status: 429, retryAfter: 1, times: 9, when: ({ path }) => path.includes('/v4/') })
    const run = await send(rows, { associations, policy: { retryFor: '500ms' } })
    expect(run).toMatchObject({ status: 'incomplete', unknown: 3, pending: 0 })
  })

  test('of a kind that is not allowed stop the run; its rows are unknown, for they are written', async () => {
    const wrong = { company: { ...associations.company, type: 3 } }
    await expect(send(rows, { associations: wrong })).rejects.toThrow(
      /the objects are written, but their associations were refused: .*3 is not a valid association type/,
    )
    expect(await syncOf([], { associations: wrong }).status()).toMatchObject({ unknown: 3 })
  })

  test('that are refused, or not mentioned, are no success', async () => {
    const { endpoint } = await answering(({ inputs }, path) => {
      if (path.endsWith('/read')) return { body: { results: [{ id: acme, properties: { company_key: 'acme' } }] } }
      if (path.endsWith('/upsert')) return { body: { results: inputs.map((input) => done(input)) } }
      const results = [{ fromObjectId: '90', toObjectId: acme }]
      const errors = [{ message: 'too many', context: { fromObjectId: ['91'] } }]
      return { status: 207, body: { results, errors } }
    })
    const three = ['a', 'b', 'c'].map((crm_key) => ({ crm_key, company: 'acme' }))
    const run = await send(three, { associations, endpoint, policy: once })
    expect(run).toMatchObject({ delivered: 1, rejected: 1, unknown: 1 })
    expect(await reasons({ associations })).toEqual(['written, but not associated: too many'])
  })
})

// ---- drift -----------------------------------------------------------------------------------------------------------------

test('verify finds what somebody changed, and takes no other form of a value for a change', async () => {
  const rows = Array.from({ length: 150 }, (_, row) => ({
    crm_key: `K${row}`,
    email: `Ada${row}@X.test`,
    score: '1.50',
    born: new Date('1815-12-10'),
    seen: Instant.of('2026-11-21T10:00:00.123456Z'),
    likes: ['water', 'tea'],
    vip: true,
    city: row === 0 ? null : ' London',
  }))
  box.hubspot.create('contacts', { email: 'other@x.test' })
  const people = syncOf(rows, {})
  await people.run()
  expect(await people.verify()).toMatchObject({ known: 150, same: 150, different: 0, missing: 0, unexpected: 0 })

  const [, first, second, third] = box.hubspot.objects('contacts')
  box.hubspot.edit('contacts', third!.id, { likes: 'tea;water' }) // the same choices
  box.hubspot.edit('contacts', first!.id, { city: 'Paris', jobtitle: 'mine' })
  box.hubspot.edit('contacts', second!.id)
  const before = box.requests.length
  const drift = await people.verify()
  expect(drift).toMatchObject({ same: 148, different: 1, missing: 1, unexpected: 0 })
  const found: unknown[] = []
  for await (const { kind, fields } of drift.differences) found.push({ kind, fields })
  expect(found).toEqual([
    { kind: 'missing', fields: [] },
    { kind: 'different', fields: ['city'] },
  ])
  expect(box.requests.length - before).toBe(5)
})

// ---- options ---------------------------------------------------------------------------------------------------------------

test('custom objects are written by id and by name', async () => {
  const { id } = box.hubspot.define('boats', [{ name: 'hull', hasUniqueValue: true }])
  await send([{ hull: 'a' }], { object: id, match: 'hull', key: 'hull' })
  await send([{ hull: 'b' }], { object: 'p_boats', match: 'hull', key: 'hull', name: 'again' })
  expect(held('boats')).toEqual([{ hull: 'a' }, { hull: 'b' }])
})

test.each<[To, RegExp]>([
  [{ object: '' }, /object is ""/],
  [{ object: 'contacts/1' }, /object is "contacts\/1"/],
  [{ match: '' }, /match is ""/],
  [{ associations: { company: { to: '../x', type: 1 } } }, /company is "..\/x"/],
  [{ associations: { company: { to: 'companies', type: Number.NaN } } }, /company needs the number of its type/],
  [{ match: 'company', associations: { company: { to: 'companies', type: 1 } } }, /match is "company"/],
])('options that cannot work are refused at once: %j', (options, message) => {
  expect(() => contacts(options)).toThrow(message)
})

test.each<[Sending, RegExp]>([
  [{ token: '' }, /token/],
  [{ endpoint: 'ftp://x' }, /endpoint/],
])('config that cannot work is refused before anything is sent: %j', async (sending, message) => {
  await expect(send(people(1), sending)).rejects.toThrow(message)
  expect(box.requests).toHaveLength(0)
})

test('HubSpot takes 100 records at once, and a larger batchSize is refused', () => {
  expect(() => contacts({}).with({ batchSize: 101 })).toThrow('hubspot: batchSize is 101; it must be at most 100')
})
