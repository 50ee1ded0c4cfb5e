import { inspect } from 'node:util'
import type { Definition, Operation } from '../destination.js'
import { ConfigError } from '../errors.js'
import type { Fault } from '../sandbox/server.js'
import { type AnyRow, canonical } from '../values.js'
import { type Bench, type Ended, findsByReceipt } from './bench.js'
import type { Place } from './place.js'

/** A rule, before it is known which destination it is for. */
export interface Law {
  readonly level: 'MUST' | 'SHOULD'
  readonly name: string
  /** It is tried for those of them that the destination has. */
  readonly operations: readonly Operation[]
  /** What is missing, so that the rule cannot be tried. */
  readonly lacks?: (place: Place, definition: Definition) => string | undefined
  /** It does not depend on the operation: the first one that the destination has stands for all. */
  readonly once?: true
  /** It wants to know what is printed to the console meanwhile. */
  readonly listens?: true
  readonly check: (bench: Bench) => Promise<void>
}

const all: readonly Operation[] = ['insert', 'update', 'upsert', 'delete', 'replace']
const creating: readonly Operation[] = ['insert', 'upsert', 'replace']
const writing: readonly Operation[] = ['insert', 'update', 'upsert', 'replace']
const forever = Number.POSITIVE_INFINITY

const noFaults = ({ faults }: Place) =>
  faults ? undefined : 'the place has no faults: there is no server that could fail on demand'
const noBad = ({ bad }: Place) => (bad ? undefined : 'the place names no bad record')
const noField = ({ field }: Place) => (field ? undefined : 'the place names no field that a record may leave out')
const byReceipt = (_: Place, definition: Definition) =>
  findsByReceipt(definition)
    ? `${definition.name} finds its objects by receipts alone, and another sync has none`
    : undefined

const anHandler = 'what the handler sends, and what it makes of the answer'
const itsErrors = 'what the handler throws: it decides whether the batch may have been applied'

/** The rules, in the order of destinations/README.md. */
export const laws: readonly Law[] = [
  // ---- what arrives ------------------------------------------------------------------------------------------------
  {
    level: 'MUST',
    name: 'everything that is sent arrives, once',
    operations: creating,
    async check(bench) {
      const { rows, name } = await bench.ready(7)
      bench.done(await bench.send(rows, { name }), rows.length, anHandler)
      await bench.there(rows, anHandler)
    },
  },
  {
    level: 'MUST',
    name: 'a batch larger than the service allows is refused by its options, or split',
    operations: writing,
    async check(bench) {
      const batchSize = 2 * bench.definition.policy.batchSize + 1
      const look = 'batches larger than the default batchSize: cut them into requests that the service takes'
      try {
        bench.place.to.with({ batchSize })
      } catch (error) {
        if (error instanceof ConfigError) return
        throw error
      }
      const { rows, name } = await bench.ready(batchSize)
      const before = inspect([...(await bench.place.read())])
      const ended = await bench.send(rows, { name, policy: { batchSize, batchBytes: 2 ** 30 } })
      if (ended.error instanceof ConfigError) {
        if (inspect([...(await bench.place.read())]) === before) return
        bench.fails({ expected: 'an option that is refused before anything is sent', seen: bench.told(ended), look })
      }
      bench.done(ended, rows.length, look)
      await bench.there(rows, look)
    },
  },
  {
    level: 'MUST',
    name: 'calls at the same time do each other no harm',
    operations: ['insert', 'update', 'upsert'],
    async check(bench) {
      const { rows, name } = await bench.ready(16)
      const batchSize = Math.min(2, bench.definition.policy.batchSize)
      const ended = await bench.send(rows, { name, policy: { batchSize, concurrency: 4 } })
      const look = 'what one call remembers for the next, and what two calls both believe to be free'
      bench.done(ended, rows.length, look)
      await bench.there(rows, look)
    },
  },
  {
    level: 'MUST',
    name: 'a replacement leaves just what was sent',
    operations: ['replace'],
    async check(bench) {
      const look = 'how the handler takes away what was there before'
      bench.done(await bench.send(bench.records(8)), 8, look)
      const fewer = bench.records(5, 1).slice(1)
      bench.done(await bench.send(fewer), 4, look)
      await bench.there(fewer, look)
    },
  },

  // ---- objects -----------------------------------------------------------------------------------------------------
  {
    level: 'MUST',
    name: 'an upsert sent twice leaves one object',
    operations: ['upsert'],
    lacks: byReceipt,
    async check(bench) {
      const records = bench.records(5)
      for (let time = 0; time < 2; time++) bench.done(await bench.send(records), 5, anHandler)
      await bench.there(records, 'how the handler finds the object of a key')
    },
  },
  {
    level: 'MUST',
    name: 'an upsert changes the object of its key, creates what is missing, and leaves others alone',
    operations: ['upsert'],
    async check(bench) {
      const look = 'how the handler finds the object of a key'
      const name = await bench.seed(bench.records(5))
      const [, one, , three, , five] = bench.records(6, 1)
      bench.done(await bench.send([five!, three!, one!], { name }), 3, look)
      const [zero, , two, , four] = bench.records(5)
      await bench.there([zero!, one!, two!, three!, four!, five!], look)
    },
  },
  {
    level: 'MUST',
    name: 'an update changes the object of its key, and no other',
    operations: ['update'],
    async check(bench) {
      const look = 'how the handler finds the object of a key'
      await bench.seed(bench.records(5))
      const [, one, , three] = bench.records(4, 1)
      bench.done(await bench.send([three!, one!]), 2, look)
      const [zero, , two, , four] = bench.records(5)
      await bench.there([zero!, one!, two!, three!, four!], look)
    },
  },
  {
    level: 'MUST',
    name: 'an update of what is not there is rejected, and creates nothing',
    operations: ['update'],
    async check(bench) {
      await bench.seed(bench.records(2))
      const [zero, , two] = bench.records(3, 1)
      const ended = await bench.send([zero!, two!])
      const look = 'what the service answers for an object that it does not find'
      if (ended.run?.delivered !== 1 || ended.run.rejected !== 1) {
        bench.fails({ expected: '1 delivered, 1 rejected', seen: bench.told(ended), look })
      }
      await bench.there([zero!, bench.records(2)[1]!], look)
    },
  },
  {
    level: 'MUST',
    name: 'a delete takes the object of its key away, and no other',
    operations: ['delete'],
    async check(bench) {
      const { rows, name } = await bench.ready(4)
      const look = 'how the handler finds the object of a key'
      bench.done(await bench.send(rows, { name }), 4, look)
      await bench.there(rows, look)
    },
  },
  {
    level: 'MUST',
    name: 'a delete of what is gone is done',
    operations: ['delete'],
    lacks: byReceipt,
    async check(bench) {
      const { rows, name } = await bench.ready(2)
      const look = 'what the service answers for an object that it does not find: that is what a delete wants'
      // another sync takes it away first
      bench.done(await bench.send(bench.records(1), { name: 'another' }), 0, anHandler)
      bench.done(await bench.send([], { name: 'another' }), 1, anHandler)
      bench.done(await bench.send(rows, { name }), 2, look)
      await bench.there(rows, look)
    },
  },

  // ---- values ------------------------------------------------------------------------------------------------------
  {
    level: 'SHOULD',
    name: 'null clears a field, and an absent field is left alone',
    operations: ['update', 'upsert'],
    lacks: noField,
    async check(bench) {
      const { name, values } = bench.place.field!
      const look = `how the handler sends null, and how a field that is undefined: ${name}`
      const full = bench.records(2).map((record) => ({ ...record, [name]: values[0] }))
      const ofSync = await bench.seed(full)
      const [cleared, alone] = bench.records(2, 1).map(({ [name]: _, ...record }): AnyRow => record)
      bench.done(await bench.send([{ ...cleared, [name]: null }, alone!], { name: ofSync }), 2, look)
      await bench.there(
        [
          { ...cleared, [name]: null },
          { ...alone, [name]: values[0] },
        ],
        look,
      )
    },
  },
  {
    level: 'SHOULD',
    name: 'zero, false and the empty text are values like any other',
    operations: writing,
    lacks: noField,
    async check(bench) {
      const { name, values } = bench.place.field!
      const { rows, name: ofSync } = await bench.ready(values.length)
      const records = rows.map((record, index) => ({ ...record, [name]: values[index] }))
      const look = `how the handler tells ${values.map((value) => inspect(value)).join(', ')} in ${name} from nothing`
      bench.done(await bench.send(records, { name: ofSync }), records.length, look)
      await bench.there(records, look)
    },
  },

  // ---- answers -----------------------------------------------------------------------------------------------------
  {
    level: 'MUST',
    name: 'a bad record is rejected alone, with a reason that names the problem',
    operations: writing,
    lacks: noBad,
    async check(bench) {
      const { record, reason } = bench.place.bad!
      const { rows, name } = await bench.ready(6)
      const beside = bench.operation === 'update' ? await bench.seedBeside(record) : []
      const look = 'what the service answers for each record of a batch: HTTP 2xx is not success'
      const ended = await bench.send([...rows.slice(0, 4), record, ...rows.slice(4)], {
        name,
        policy: { batchSize: bench.definition.policy.batchSize },
      })
      const [letter] = ended.letters
      const named = letter?.reason.includes(reason) && canonical(letter.row) === canonical(record)
      if (ended.run?.delivered !== 6 || ended.run.rejected !== 1 || !named) {
        bench.fails({
          expected: `6 delivered, and the bad record rejected with a reason that holds ${JSON.stringify(reason)}`,
          seen: bench.told(ended),
          look,
        })
      }
      await bench.there([...rows, ...beside], look)
    },
  },
  {
    level: 'MUST',
    name: 'a web page instead of an answer is never success',
    operations: all,
    lacks: noFaults,
    async check(bench) {
      const { rows, name } = await bench.ready(4)
      bench.fail({ kind: 'html', times: forever })
      const ended = await bench.send(rows, { name, policy: { retryFor: '100ms' } })
      if (bench.delivered(ended) > 0 || ended.run?.status === 'done') {
        bench.fails({
          expected: 'a run that failed or is incomplete, with nothing delivered',
          seen: bench.told(ended),
          look: 'how the handler tells an answer of the service from any other 200: count what came back',
        })
      }
      bench.place.faults!.clear()
      // what comes of rows that are left over is the same for all operations
      if (bench.first) await afterwards(bench, ended, rows, name)
    },
  },
  {
    level: 'MUST',
    name: 'the results of a run are what is there',
    operations: ['insert', 'update', 'upsert'],
    async check(bench) {
      const { bad, faults } = bench.place
      const { rows, name } = await bench.ready(9)
      if (faults) bench.fail({ kind: 'cut', applied: true })
      const ended = await bench.send([...rows.slice(0, 5), ...(bad ? [bad.record] : []), ...rows.slice(5)], { name })
      const { missing, twice, strange } = await bench.compare(rows)
      const { delivered = 0, rejected = 0, resent = 0, unknown = 0 } = ended.run ?? {}
      const found = rows.length - missing.length
      const look = 'rows that are delivered and not there, or there and not delivered'
      const counted = found >= delivered && found <= delivered + unknown && twice.length <= resent
      if (ended.run && counted && strange.length === 0 && rejected === (bad ? 1 : 0)) return
      bench.fails({
        expected: `as many delivered as are there (${found}, and ${twice.length} twice), and ${bad ? 1 : 0} rejected`,
        seen: bench.told(ended),
        look,
      })
    },
  },
  {
    level: 'MUST',
    name: 'what the destination lists is what was delivered',
    operations: ['upsert'],
    lacks: (_, { handlers, name }) => (handlers.list ? undefined : `${name} has no list`),
    async check(bench) {
      const records = bench.records(7)
      bench.done(await bench.send(records, { name: 'listed' }), 7, anHandler)
      const look = 'the handlers list and held'
      const verified = async (expected: { same: number; different: number }) => {
        const { same, missing, different, unexpected } = await (await bench.sync('listed', records, 'upsert')).verify()
        const seen = { same, missing, different, unexpected }
        const wanted = { ...expected, missing: 0, unexpected: 0 }
        if (inspect(seen, { sorted: true }) === inspect(wanted, { sorted: true })) return
        bench.fails({ expected: inspect(wanted), seen: inspect(seen), look })
      }
      await verified({ same: 7, different: 0 })
      bench.done(await bench.send(bench.records(1, 1)), 1, anHandler)
      await verified({ same: 6, different: 1 })
    },
  },

  // ---- failures ----------------------------------------------------------------------------------------------------
  ...(['seconds', 'a date'] as const).map(
    (form): Law => ({
      level: 'MUST',
      name: `a 429 with Retry-After in ${form} is waited for, and nothing is lost or repeated`,
      operations: writing,
      // the headers are read at one place
      ...(form === 'a date' && { once: true }),
      lacks: noFaults,
      async check(bench) {
        const { rows, name } = await bench.ready(4)
        const times: number[] = []
        bench.watch((request) => {
          if (bench.writes(request)) times.push(Date.now())
        })
        let date: Date | undefined
        bench.place.faults!.next({
          kind: 'status',
          status: 429,
          when: (request) => bench.writes(request),
          // read when the request is refused: a date that had passed by then would prove nothing
          get retryAfter() {
            if (form === 'seconds') return 2 // longer than a wait by default
            date ??= new Date(Math.ceil((Date.now() + 600) / 1000) * 1000)
            return date
          },
        })
        // one call at a time, so that no other is under way when this one is refused
        const ended = await bench.send(rows, { name, policy: { concurrency: 1 } })
        const look =
          'whether the headers of a refusal reach Spillway: throw a RetryableError with after, or an HttpError'
        const until = date?.getTime() ?? times[0]! + 2000
        if (times[1] !== undefined && times[1] < until - 20) {
          bench.fails({
            expected: `no other write for ${until - times[0]!} ms`,
            seen: `the next one after ${times[1] - times[0]!} ms`,
            look,
          })
        }
        bench.done(ended, 4, look)
        await bench.there(rows, look)
      },
    }),
  ),
  lossOf('a 500 loses nothing and writes nothing twice', { kind: 'status', status: 500 }),
  { ...lossOf('a 503 loses nothing and writes nothing twice', { kind: 'status', status: 503 }), once: true },
  // each operation is tried by a 500 that is not applied
  { ...lossOf('a connection cut before the write loses nothing', { kind: 'cut' }), once: true },
  lossOf('a connection cut after the write leaves nothing there twice', { kind: 'cut', applied: true }),
  {
    level: 'MUST',
    name: 'a request that failed is sent again by Spillway alone',
    operations: all,
    lacks: noFaults,
    async check(bench) {
      // one client sends them all
      for (const fault of bench.first ? [cut, tooMany, unavailable] : [cut]) {
        const { rows, name } = await bench.ready(1)
        const stop = new AbortController()
        let writes = 0
        bench.watch((request) => {
          if (!bench.writes(request)) return
          writes++
          stop.abort() // no attempt of Spillway's comes after this one
        })
        bench.fail({ ...fault, times: forever })
        await bench.send(rows, { name, signal: stop.signal, policy: { timeout: '3s' } })
        bench.place.faults!.clear()
        if (writes === 1) continue
        bench.fails({
          expected: `one request that writes, then ${'status' in fault ? fault.status : 'a cut connection'}, and no other by the same call`,
          seen: `${writes} of them`,
          look: "the retries of the SDK, which must be turned off, and the handler's own",
        })
      }
    },
  },
  {
    level: 'MUST',
    name: 'a call ends soon after its signal aborts',
    operations: writing,
    lacks: noFaults,
    async check(bench) {
      const { rows, name } = await bench.ready(1)
      // an SDK that a handler loads at its first call takes longer than what is measured here
      if (bench.definition.handlers.insert) await bench.seed([bench.place.record(2000, 0)])
      bench.fail({ kind: 'delay', delay: '8s', times: forever })
      const ended = await bench.send(rows, { name, policy: { timeout: '200ms', retryFor: '1500ms' } })
      if (!/after its signal had aborted/.test(ended.error?.message ?? '')) return
      bench.fails({
        expected: 'a call that ends within a second and a half after its signal has aborted',
        seen: bench.told(ended),
        look: 'whether context.signal reaches every request and every wait',
      })
    },
  },
  {
    level: 'MUST',
    name: 'a 401 stops the run with its rows pending, and an error that names the destination and the next step',
    operations: writing,
    lacks: noFaults,
    async check(bench) {
      const { rows, name } = await bench.ready(3)
      bench.place.faults!.next({ kind: 'status', status: 401, times: forever })
      const ended = await bench.send(rows, { name })
      const look =
        'what the handler throws for credentials that are refused: a FatalError, or an HttpError of context.http'
      const { pending, unknown, deadLetters } = ended.status
      const message = ended.error?.message ?? ''
      const instructs = /\b(check|renew|replace|give|share|grant|set|sign|ask|install|create|make|use|see)\b/i.test(
        message,
      )
      if (pending < 3 || unknown > 0 || deadLetters > 0 || !message.includes(bench.definition.name) || !instructs) {
        bench.fails({
          expected: `a run that failed with its rows pending, and an error that begins with ${bench.definition.name} and says what to do`,
          seen: `${bench.told(ended)}; ${pending} pending, ${unknown} unknown, ${deadLetters} dead letters`,
          look,
        })
      }
      bench.place.faults!.clear()
      if (!bench.first) return
      bench.done(await bench.send(rows, { name }), 3, look)
      await bench.there(rows, look)
    },
  },

  // ---- what is told ------------------------------------------------------------------------------------------------
  {
    level: 'MUST',
    name: 'no secret is in an error, a log, a dead letter or the state, and no content of a record in an error or a log',
    operations: writing,
    listens: true,
    async check(bench) {
      const { bad, faults, secrets } = bench.place
      const told: { readonly what: string; readonly text: string }[] = []
      const records = [...bench.records(10, 0), ...bench.records(10, 1), ...(bad ? [bad.record] : [])]
      const keep = ({ run, error, letters }: Ended) => {
        if (error) told.push({ what: 'an error', text: inspect(error, { depth: 12, showHidden: true }) })
        if (run?.reason) told.push({ what: 'the reason of a run', text: run.reason })
        for (const { reason } of letters) told.push({ what: 'a dead letter', text: reason })
      }
      if (bench.operation === 'update') await bench.seed(bench.records(10))
      const sending = { policy: { retryFor: '1ms', timeout: '2s' } } as const
      for (const [index, fault] of (faults && bench.first ? mishaps : []).entries()) {
        bench.fail({ ...fault, times: forever })
        keep(await bench.send([bench.place.record(index, 1)], sending))
        faults!.clear()
      }
      // the other operations share the client, so that a refusal, then a lost answer, say what is new
      if (faults && !bench.first) for (const fault of mishaps.slice(0, 2)) bench.fail(fault)
      keep(
        await bench.send([bench.place.record(8, 1), bench.place.record(9, 1), ...(bad ? [bad.record] : [])], sending),
      )
      for (const text of bench.logged) told.push({ what: 'a log', text })
      const contents = bench.contents(records)
      const files = await bench.files()
      const leaks = [
        ...told.flatMap(({ what, text }) =>
          [...secrets, ...contents].filter((secret) => text.includes(secret)).map((secret) => `${secret} in ${what}`),
        ),
        ...files.flatMap(({ name, bytes }) =>
          secrets.filter((secret) => bytes.includes(secret)).map((secret) => `${secret} in the file ${name}`),
        ),
      ]
      if (leaks.length === 0) return
      bench.fails({
        expected: 'neither credentials nor content in what is told',
        seen: leaks[0]!,
        look: "where an SDK's error or a service's message is passed on: copy status, code, and a short text without values",
      })
    },
  },
]

const cut: Fault = { kind: 'cut' }
const tooMany: Fault = { kind: 'status', status: 429 }
const unavailable: Fault = { kind: 'status', status: 503 }
/** What makes a destination tell something. */
const mishaps: readonly Fault[] = [
  { kind: 'status', status: 400 },
  cut,
  { kind: 'status', status: 401 },
  { kind: 'status', status: 403 },
  { kind: 'status', status: 500 },
  { kind: 'html' },
]

/** A request that writes goes wrong, once. */
function lossOf(name: string, fault: Fault): Law {
  return {
    level: 'MUST',
    name,
    operations: all,
    lacks: noFaults,
    async check(bench) {
      const { rows, name } = await bench.ready(6)
      bench.fail(fault)
      await afterwards(bench, await bench.send(rows, { name }), rows, name)
    },
  }
}

/**
 * After a failure and, where the run was not done, another one: all is there, each once, if the destination promises that; else what may
 * be there twice or not at all is held as unknown or counted as resent.
 */
async function afterwards(bench: Bench, ended: Ended, rows: readonly AnyRow[], name: string): Promise<void> {
  const held = !bench.repeats && ended.status.pending === 0 // sending them once more is the user's decision
  const last = ended.run?.status === 'done' || held ? ended : await bench.send(rows, { name })
  const unknown = last.status.unknown
  if (bench.repeats || unknown === 0) {
    if (last.run?.status !== 'done' || unknown > 0) {
      bench.fails({ expected: 'a run that is done', seen: bench.told(last), look: itsErrors })
    }
    return bench.there(rows, itsErrors, bench.repeats ? 0 : (ended.run?.resent ?? 0) + (last.run?.resent ?? 0))
  }
  const { missing, twice, strange } = await bench.compare(rows)
  if (missing.length <= unknown && twice.length === 0 && strange.length === 0) return
  bench.fails({
    expected: `at most the ${unknown} rows held as unknown missing, and none twice`,
    seen: `${missing.length} missing, ${twice.length} twice, ${strange.length} that were not sent`,
    look: itsErrors,
  })
}
