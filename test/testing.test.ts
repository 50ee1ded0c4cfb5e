// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the changes are parts of programs
import { readFileSync } from 'node:fs'
import { type AnyRow, ConfigError, destination, receipt, reject } from 'spillway'
import { conformance, type Place } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { laws } from '../src/testing/rules.js'
import { folderInside, tutorial } from './support/tutorial.js'

const folder = folderInside()
afterAll(() => folder.remove())

test('destinations/README.md and the suite have the same rules, in the same order', () => {
  const page = readFileSync(new URL('../destinations/README.md', import.meta.url), 'utf8')
  const written = [...page.matchAll(/^- \*\*(MUST|SHOULD)\*\* (.+)$/gm)].map(([, level, name]) => `${level} ${name}`)
  expect(written).toEqual(laws.map(({ level, name }) => `${level} ${name}`))
})

// ---- the destination of the tutorial, broken in one way after another ------------------------------------------------

/** What a break replaces, and by what; each text must be there. */
type Change = readonly (readonly [from: string, to: string])[]

const send = 'await http(`${config.url}/contacts`, { method, headers, json: { contacts } })'
const importing = (name: string): Change[number] => ['import { type AnyRow', `import { ${name}, type AnyRow`]
/** What happens when the request fails. */
const failing = (what: string): Change => [
  [send, `${send}.catch((error: any) => { ${what} })`],
  ['const { results }', 'if (!response) return rejected\n    const { results }'],
]
const contacts = (made: string): Change => [['json: { contacts }', `json: { contacts: ${made} }`]]
const rejectAll = 'for (const one of contacts) rejected.push(reject(one, "failed"))'

const everything = 'everything that is sent arrives, once'
const oversized = 'a batch larger than the service allows is refused by its options, or split'
const sideBySide = 'calls at the same time do each other no harm'
const twice = 'an upsert sent twice leaves one object'
const upserted = 'an upsert changes the object of its key, creates what is missing, and leaves others alone'
const updated = 'an update changes the object of its key, and no other'
const absent = 'an update of what is not there is rejected, and creates nothing'
const deleted = 'a delete takes the object of its key away, and no other'
const gone = 'a delete of what is gone is done'
const cleared = 'null clears a field, and an absent field is left alone'
const zero = 'zero, false and the empty text are values like any other'
const bad = 'a bad record is rejected alone, with a reason that names the problem'
const html = 'a web page instead of an answer is never success'
const results = 'the results of a run are what is there'
const listed = 'what the destination lists is what was delivered'
const replaced = 'a replacement leaves just what was sent'
const seconds = 'a 429 with Retry-After in seconds is waited for, and nothing is lost or repeated'
const date = 'a 429 with Retry-After in a date is waited for, and nothing is lost or repeated'
const of500 = 'a 500 loses nothing and writes nothing twice'
const of503 = 'a 503 loses nothing and writes nothing twice'
const before = 'a connection cut before the write loses nothing'
const after = 'a connection cut after the write leaves nothing there twice'
const alone = 'a request that failed is sent again by Spillway alone'
const signal = 'a call ends soon after its signal aborts'
const of401 = 'a 401 stops the run with its rows pending, and an error that names the destination and the next step'
const told =
  'no secret is in an error, a log, a dead letter or the state, and no content of a record in an error or a log'

const breaks: [what: string, rule: string, change: Change, standIn?: Change][] = [
  [
    'leaves records out',
    everything,
    [...contacts('contacts.slice(1)'), ['if (results.length', 'if (false && results.length']],
  ],
  [
    'writes twice',
    everything,
    [
      [
        `const response = ${send}`,
        `${send.replace('headers', 'headers: { ...headers, "idempotency-key": `${Math.random()}` }')}\n    const response = ${send}`,
      ],
    ],
  ],
  [
    'never waits for what it sends',
    everything,
    [[send, `http.get(config.url).catch(() => {})\n    return []\n    ${send}`]],
  ],
  ['sends the first part of a large batch', oversized, [['first < batch.length', 'first < 1']]],
  [
    'keeps its batch where the next call finds it',
    sideBySide,
    [
      ['async function write', 'let latest: AnyRow[] = []\nasync function write'],
      [
        'const contacts = batch.slice(first, first + most)',
        'latest = batch\n    await new Promise((done) => setTimeout(done, 20))\n    const contacts = latest',
      ],
    ],
  ],
  ['upserts by inserting', twice, [["write('PUT'", "write('POST'"]]],
  [
    'mixes up the records of an upsert',
    upserted,
    contacts('contacts.map((one) => ({ ...one, name: contacts[0]!["name"] }))'),
  ],
  [
    'mixes up the records of an update',
    updated,
    contacts('contacts.map((one) => ({ ...one, name: contacts[0]!["name"] }))'),
  ],
  ['updates by upserting', absent, [["write('PATCH'", "write('PUT'"]]],
  [
    'believes a service that ignores an update',
    absent,
    [['error !== undefined', '!/no such/.test(error ?? "no such")']],
  ],
  ['deletes the neighbour too', deleted, [], [['at, 1)', 'at, 2)']]],
  ['deletes nothing', deleted, [['delete: (batch, context) =>', 'delete: async (batch, context) => {}, // ']]],
  [
    'rejects a delete of what is gone',
    gone,
    [],
    [["method === 'PATCH' && at < 0", "(method === 'PATCH' || method === 'DELETE') && at < 0"]],
  ],
  [
    'leaves nulls out',
    cleared,
    contacts('contacts.map((one) => Object.fromEntries(Object.entries(one).filter(([, value]) => value !== null)))'),
  ],
  ['sends absent fields as null', cleared, contacts('contacts.map((one) => ({ note: null, ...one }))')],
  ['takes zero for nothing', zero, contacts('contacts.map((one) => ({ ...one, note: one["note"] || null }))')],
  ['makes texts of its values', zero, contacts('contacts.map((one) => ({ ...one, note: String(one["note"]) }))')],
  ['ignores rejections', bad, [['error !== undefined', 'false']]],
  [
    'rejects all when one is bad',
    bad,
    [
      ['if (error !== undefined)', 'if (results.some((one) => one.error !== undefined))'],
      ['contacts[index]!, error)', 'contacts[index]!, error ?? "email is not an address")'],
    ],
  ],
  ['rejects another record', bad, [['contacts[index]!, error', 'contacts[(index + 1) % contacts.length]!, error']]],
  ['gives no reason', bad, [['contacts[index]!, error)', 'contacts[index]!, "refused")']]],
  [
    'takes a web page for success',
    html,
    [['await response.json()', 'await response.json().catch(() => ({ results: contacts.map(() => ({})) }))']],
  ],
  [
    'takes an answer without results for success',
    html,
    [
      ['await response.json()', 'await response.json().catch(() => ({}))'],
      ['const { results }', 'const { results = contacts.map(() => ({}) as { error?: string }) }'],
    ],
  ],
  ['counts what is rejected as delivered', results, [['error !== undefined', 'false']]],
  [
    'does not tell that the answer was lost',
    results,
    [
      importing('RetryableError'),
      ...failing('throw new RetryableError("address-book: once more")'),
      ["'idempotency-key': `", "'idempotency-key': `${Math.random()}"],
    ],
  ],
  [
    'does not hear of Retry-After',
    seconds,
    [importing('RetryableError'), ...failing('throw new RetryableError("address-book: busy")')],
  ],
  [
    'reads Retry-After in seconds only',
    date,
    [
      importing('RetryableError'),
      ...failing('throw error.status === 429 && error.retryAfter !== 2000 ? new RetryableError("busy") : error'),
    ],
  ],
  ['swallows a 500', of500, failing('if (error.status !== 500) throw error')],
  ['rejects for a 500', of500, failing(rejectAll)],
  ['rejects for a 503', of503, failing(`if (error.status !== 503) throw error; ${rejectAll}`)],
  ['swallows a cut connection', before, failing('if (error.status) throw error')],
  ['has another key each time', after, [["'idempotency-key': `", "'idempotency-key': `${Math.random()}"]]],
  [
    'says that nothing was applied when it does not know',
    after,
    [
      importing('RetryableError'),
      ["  idempotent: '24h',", ''],
      ["'idempotency-key': `", "'idempotency-key': `${Math.random()}"],
      ...failing('throw new RetryableError("address-book: try again")'),
    ],
  ],
  ['retries by itself', alone, [[send, `${send}.catch(async () => ${send})`]]],
  [
    'retries a 429 by itself',
    alone,
    [[send, `${send}.catch(async (error: any) => { if (error.status !== 429) throw error; return ${send} })`]],
  ],
  [
    'ignores the signal',
    signal,
    [
      [
        send,
        'await fetch(`${config.url}/contacts`, { method, headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify({ contacts }) })',
      ],
    ],
  ],
  ['rejects for a 401', of401, failing(rejectAll)],
  [
    'retries a 401 until the time is over',
    of401,
    [
      importing('RetryableError'),
      ['rate:', "retryFor: '1s', rate:"],
      ...failing('throw new RetryableError("address-book: 401; check the token")'),
    ],
  ],
  [
    'does not say what to do about a 401',
    of401,
    [importing('FatalError'), ...failing('throw new FatalError("address-book: 401")')],
  ],
  [
    'does not say who was refused',
    of401,
    [importing('FatalError'), ...failing('throw new FatalError("401; check the token")')],
  ],
  ['prints what it sends', told, [['const headers', 'console.log(contacts)\n    const headers']]],
  [
    'logs what it sends',
    told,
    [
      ['idempotencyKey }: Context', 'log, idempotencyKey }: Context'],
      ['const headers', 'log.info("sending", { contacts })\n    const headers'],
    ],
  ],
  [
    'has its token in an error',
    told,
    [importing('FatalError'), ...failing('throw new FatalError(`address-book: failed with ${headers.authorization}`)')],
  ],
  [
    'has a row in the cause of an error',
    told,
    [importing('FatalError'), ...failing('throw new FatalError("address-book: failed", { cause: { contacts } })')],
  ],
  [
    'has a row in the reason of a dead letter',
    told,
    [['contacts[index]!, error)', 'contacts[index]!, `${error}: ${JSON.stringify(contacts[index])}`)']],
  ],
]

const insertOnly: Change = [
  ["  update: (batch, context) => write('PATCH', batch, context),", ''],
  ["  upsert: (batch, context) => write('PUT', batch, context),", ''],
  ["  delete: (batch, context) => write('DELETE', batch, context),", ''],
]

function broken(text: string, change: Change): string {
  return change.reduce<string>((before, [from, to]) => {
    if (!before.includes(from)) throw new Error(`the tutorial does not hold ${from}`)
    return before.replaceAll(from, () => to)
  }, text)
}

let number = 0

/** The suite of the tutorial, on a destination and a stand-in that are changed. */
async function suiteOf(change: Change, standIn: Change = []) {
  const id = ++number
  folder.write(`book-${id}.ts`, broken(tutorial['address-book.ts'], change))
  folder.write(`stand-in-${id}.ts`, broken(tutorial['stand-in.ts'], standIn))
  const suite = tutorial['address-book.test.ts']
    .replace('./address-book.ts', `./book-${id}.ts`)
    .replace('./stand-in.ts', `./stand-in-${id}.ts`)
    .replace(/^import { test }.*$/m, '')
    .replace(/^for .*$/gm, '')
  const file = folder.write(`suite-${id}.ts`, `${suite}\nexport { rules, leftOut }\n`)
  return (await import(/* @vite-ignore */ file)) as Awaited<ReturnType<typeof conformance>>
}

describe('a destination that', () => {
  test.each([...breaks])('%s breaks the rule: %s', async (_, name, change, standIn) => {
    // without a key a run is much quicker, so that insert alone shows what it can show
    const inserts = laws.find((law) => law.name === name)!.operations[0] === 'insert'
    const { rules } = await suiteOf([...change, ...(inserts ? insertOnly : [])], standIn)
    const rule = rules.find((rule) => rule.name === name)
    const error = await rule!.run().then(
      () => undefined,
      (error: Error) => error,
    )
    expect(error?.message).toContain(`address-book breaks the rule "${rule!.level}: ${name}"`)
    expect(error?.message).toMatch(/\n {2}expected: .+\n {2}seen: .+\n {2}look at: .+destinations\/README\.md/)
  })
})

test('every rule is broken by something here', () => {
  const own = [replaced, listed] // of the destination below
  expect(new Set([...breaks.map(([, rule]) => rule), ...own])).toEqual(new Set(laws.map(({ name }) => name)))
})

// ---- a destination that promises nothing for an insert ---------------------------------------------------------------

test.each(['resend', 'hold'] as const)(
  'without a promise for inserts, rows are counted as resent or held (%s)',
  async (onUnknown) => {
    const { rules } = await suiteOf([
      ["  idempotent: '24h',", `  onUnknown: '${onUnknown}',`],
      ["'idempotency-key': `", "'idempotency-key': `${Math.random()}"],
      ...insertOnly,
    ])
    for (const name of [of500, before, after, html]) await rules.find((rule) => rule.name === name)!.run()
  },
)

// ---- a destination without a server ----------------------------------------------------------------------------------

interface Local {
  /** Whether `list` forgets the first object. */
  readonly forgets?: boolean
  /** Whether `replace` keeps what was there. */
  readonly keeps?: boolean
  /** Whether it refuses large batches by its options. */
  readonly strict?: boolean | 'late'
}

function local({ forgets = false, keeps = false, strict = false }: Local = {}): Place {
  const objects = new Map<string, AnyRow>()
  const put = (batch: AnyRow[]) => {
    for (const one of batch) objects.set(String(one['id']), one)
  }
  const to = destination({ name: 'local', batchSize: 5 })({
    upsert(batch) {
      if (strict && batch.length > 5) {
        if (strict === 'late') put(batch)
        throw new ConfigError('local: batchSize is more than 5')
      }
      put(batch)
      return batch.filter(({ id }) => id === 'bad').map((record) => reject(record, 'never'))
    },
    async replace(batches) {
      if (!keeps) objects.clear()
      for await (const batch of batches) put(batch)
    },
    *list() {
      yield [...objects.values()].slice(forgets ? 1 : 0)
    },
  })
  return {
    to,
    record: (n, version) => ({ id: `no. ${n}`, name: `a longer name ${n} ${version}` }),
    read: () => objects.values(),
    secrets: [],
  }
}

async function tryRule(name: string, options: Local = {}): Promise<void> {
  const { rules } = await conformance({ open: () => local(options) })
  await rules.find((rule) => rule.name === name)!.run()
}

test('a place without a server leaves out what needs failures, and says so', async () => {
  const { rules, leftOut } = await conformance({ open: () => local() })
  expect(rules.map(({ name }) => name)).toEqual([
    everything,
    oversized,
    sideBySide,
    replaced,
    twice,
    upserted,
    results,
    listed,
    told,
  ])
  for (const rule of rules) if (rule.name !== oversized) await rule.run()
  expect([...rules, ...leftOut].map(({ name }) => name).toSorted()).toEqual(laws.map(({ name }) => name).toSorted())
  expect(Object.fromEntries(leftOut.map(({ name, because }) => [name, because]))).toMatchObject({
    [updated]: 'local has no update',
    [gone]: 'local has no delete',
    [bad]: 'the place names no bad record',
    [zero]: 'the place names no field that a record may leave out',
    [signal]: 'the place has no faults: there is no server that could fail on demand',
  })
})

test('a list that forgets, and a replacement that keeps, break their rules', async () => {
  await expect(tryRule(listed, { forgets: true })).rejects.toThrow(`breaks the rule "MUST: ${listed}" (upsert)`)
  await expect(tryRule(replaced, { keeps: true })).rejects.toThrow('not among them, the first')
})

test('a batch that is too large may be refused by the options, but not after it was written', async () => {
  await tryRule(oversized, { strict: true })
  await expect(tryRule(oversized, { strict: 'late' })).rejects.toThrow('refused before anything is sent')
})

test('a largest batch that the destination names is enough, and nothing is sent', async () => {
  const place = local()
  const to = destination({ name: 'local', maxBatchSize: 5 })({ upsert: () => expect.fail('it was sent') })
  const { rules } = await conformance({ open: () => ({ ...place, to }) })
  await rules.find((rule) => rule.name === oversized)!.run()
})

test('a rule that the service does not let the destination keep is left out, with the reason', async () => {
  const { rules, leftOut } = await conformance({ open: () => local(), except: { [twice]: 'it only adds' } })
  expect(rules.map(({ name }) => name)).not.toContain(twice)
  expect(leftOut).toContainEqual({ level: 'MUST', name: twice, because: 'it only adds' })
  await expect(conformance({ open: () => local(), except: { thrice: '' } })).rejects.toThrow(
    'except: no rule is named "thrice"',
  )
})

/** A log that gives each entry a number, by which alone it can be changed. */
function byReceipt(forgetful: boolean): Place {
  const entries: AnyRow[] = []
  const to = destination({ name: 'log', match: [] })({
    upsert: (batch, { remoteId }) =>
      batch.map((record) => {
        const at = Number((forgetful ? undefined : remoteId(record)) ?? entries.length)
        entries[at] = record
        return receipt(record, String(at))
      }),
  })
  return { ...local(), to, key: 'id', read: () => entries }
}

test('where objects are found by their receipts alone, the sync that wrote them is the one to change them', async () => {
  const { rules, leftOut } = await conformance({ open: () => byReceipt(false) })
  expect(leftOut.find(({ name }) => name === twice)?.because).toBe(
    'log finds its objects by receipts alone, and another sync has none',
  )
  await rules.find(({ name }) => name === upserted)!.run()
  const { rules: others } = await conformance({ open: () => byReceipt(true) })
  await expect(others.find(({ name }) => name === upserted)!.run()).rejects.toThrow('2 not among them')
})

test('a place that would prove nothing is refused', async () => {
  const opened = (change: Partial<Place>) => conformance({ open: () => ({ ...local(), ...change }) })
  await expect(opened({ record: (id, n) => ({ id, n }) })).rejects.toThrow('gives no text of eight characters or more')
  await expect(opened({ record: (id) => ({ id, name: 'always the same' }) })).rejects.toThrow('are alike')
  await expect(opened({ secrets: [''] })).rejects.toThrow('one of its secrets is empty')
})
