import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { share } from '../src/fan-out.js'
import { ConfigError, destination, FatalError, type Read, runAll, type Sync, sync } from '../src/index.js'
import { createSource, type Reading, type SourceDefinition, sourceHttp, sourceOf } from '../src/source.js'
import { postgres } from '../src/sources/postgres.js'
import { databaseOfFile } from './support/database.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

type Row = { id: number; value?: number | string }

/** Destinations that keep what they get, by name, and the options of syncs to them. */
async function place() {
  const state = await stateFolder()
  const got: Record<string, Row[]> = {}
  /** Options of a sync of that name; `meet` may hold or refuse a batch. */
  const to = (name: string, meet: (batch: readonly Row[]) => unknown = () => {}) => {
    const rows: Row[] = []
    got[name] = rows
    const take = async (batch: Row[]) => {
      await meet(batch)
      rows.push(...batch)
    }
    return {
      name,
      state,
      log: quiet,
      to: destination({ name, retryFor: '0s' })({ insert: take, upsert: take, delete: () => {} }),
    }
  }
  return { got, to, state }
}

const ids = (rows: readonly Row[] | undefined) => rows?.map(({ id }) => id).sort((a, b) => a - b)

/** A function of rows, and what it was given each time it was called. */
function counted(rows: () => readonly Row[] = () => [{ id: 1 }, { id: 2 }, { id: 3 }]) {
  const calls: Read['since'][] = []
  const from = ({ since }: Read) => {
    calls.push(since)
    return rows()
  }
  return { from, calls }
}

describe('syncs that share a source', () => {
  it('call a function once, and each gets every row', async () => {
    const { to, got } = await place()
    const { from, calls } = counted()
    const runs = await runAll([
      sync({ from, ...to('warehouse') }),
      sync({ from, ...to('crm'), key: 'id' }),
      sync({ from, ...to('chat'), key: 'id', mode: 'insert' }),
    ])
    expect(calls).toEqual([undefined])
    expect(runs.map(({ sync, rows, delivered }) => [sync, rows, delivered])).toEqual([
      ['warehouse', 3, 3],
      ['crm', 3, 3],
      ['chat', 3, 3],
    ])
    for (const rows of Object.values(got)) expect(ids(rows)).toEqual([1, 2, 3])
  })

  it('all get the rows of a generator object, which can be read only once, whatever cursor they follow', async () => {
    const { to, got } = await place()
    const from = (function* () {
      for (const id of [1, 2, 3]) yield { id, value: 10 - id }
    })()
    await runAll([
      sync({ from, ...to('a') }),
      sync({ from, ...to('b'), key: 'id', cursor: 'id' }),
      sync({ from, ...to('c'), cursor: 'value' }),
    ])
    for (const rows of Object.values(got)) expect(ids(rows)).toEqual([1, 2, 3])
  })

  it('read for themselves where they follow different cursor columns', async () => {
    const { to } = await place()
    const { from, calls } = counted(() => [{ id: 1, value: 7 }])
    await runAll([
      sync({ from, ...to('a'), cursor: 'id' }),
      sync({ from, ...to('b'), cursor: 'value' }),
      sync({ from, ...to('c') }),
      sync({ from, ...to('d'), cursor: { column: 'id', lag: 5 } }),
    ])
    expect(calls).toHaveLength(3)
  })

  it('read from the least of their positions, and none gets a row twice', async () => {
    const { to, got } = await place()
    let last = 2
    const { from, calls } = counted(() => Array.from({ length: last }, (_, index) => ({ id: index + 1 })))
    const early = sync({ from, ...to('early'), cursor: 'id' })
    const late = sync({ from, ...to('late'), cursor: { column: 'id', from: 2 } })
    await early.run()
    last = 4
    await late.run()
    last = 6
    await runAll([late, early])
    expect(calls).toEqual([undefined, 2, 2])
    expect(got).toEqual({
      early: [1, 2, 3, 4, 5, 6].map((id) => ({ id })),
      late: [2, 3, 4, 5, 6].map((id) => ({ id })),
    })
  })

  it.each([
    ['texts of a language', 'a', 'B', ['B', 'a']],
    ['dates', '2026-01-02', '2026-01-10', ['2026-01-02']],
  ])('whose positions are %s read in the order that the source surely has', async (_, first, second, least) => {
    const { from, calls } = counted(() => [{ id: 1, value: first }])
    const { to } = await place()
    await runAll([
      sync({ from, ...to('a'), cursor: { column: 'value', from: first } }),
      sync({ from, ...to('b'), cursor: { column: 'value', from: second } }),
    ])
    expect(calls.sort()).toEqual(least)
  })

  it('do not wait for one that delivers rows of an earlier run first, and it reads for itself afterwards', async () => {
    const { to, got } = await place()
    const rows = [{ id: 1 }]
    const { from, calls } = counted(() => rows)
    let answers: Promise<void> = Promise.reject(new FatalError('closed today'))
    answers.catch(() => {})
    const slow = sync({ from, ...to('slow', () => answers), cursor: 'id' })
    await expect(slow.run()).rejects.toThrow('closed today')
    let open = (): void => {}
    answers = new Promise((resolve) => {
      open = resolve
    })
    rows.push({ id: 2 })
    // what lets the slow one go on is that the quick one has everything
    const seen: Row[] = []
    const quick = sync({
      from,
      ...to('quick', (batch) => {
        seen.push(...batch)
        if (seen.length === 2) open()
      }),
      cursor: 'id',
    })
    const [late] = await runAll([slow, quick])
    expect(late).toMatchObject({ rows: 1, delivered: 1, resumed: { rows: 1, delivered: 1 } })
    expect(got).toEqual({ slow: [{ id: 1 }, { id: 2 }], quick: [{ id: 1 }, { id: 2 }] })
    expect(calls).toEqual([undefined, undefined, 1])
  })

  it('go on when one fails, before it reads or while it does', async () => {
    const { to, got } = await place()
    const held = async function* () {
      for (let id = 1; id <= 5; id++) yield { id }
      yield { id: 6, value: 'a column that was not there' }
    }
    const noSecret = destination({ name: 'no', config: {} as never })({ insert() {} })
    const refusing = to('refusing', () => {
      throw new FatalError('the token was revoked')
    })
    const frozen = { ...to('frozen'), schemaContract: 'freeze' as const }
    await sync({ from: [{ id: 0 }], ...frozen }).run()
    const failing = await runAll([
      sync({ from: held, ...frozen }),
      sync({ from: held, ...refusing }),
      sync({ from: held, ...to('no'), to: noSecret }),
      sync({ from: held, ...to('whole') }),
      sync({ from: held, ...to('mirror'), key: 'id', mode: 'mirror' }),
    ]).catch((error) => error)
    expect(failing).toBeInstanceOf(AggregateError)
    expect(failing.message).toMatch(/^3 of 5 syncs failed: frozen: .*freeze.*; refusing: .*revoked.*; no: /s)
    expect(ids(got['whole'])).toEqual([1, 2, 3, 4, 5, 6])
    expect(ids(got['mirror'])).toEqual([1, 2, 3, 4, 5, 6])
  })

  it('all hear of an error of the source, keep what it gave before, and go on there in the next run', async () => {
    const { to, got } = await place()
    let breaks = true
    const from = async function* () {
      yield [{ id: 1 }, { id: 2 }]
      if (breaks) throw new Error('the line went dead')
      yield [{ id: 3 }]
    }
    const syncs = [sync({ from, ...to('a') }), sync({ from, ...to('b') }), sync({ from, ...to('m'), key: 'id' })]
    const failed = await runAll(syncs).catch((error) => error)
    expect(failed.errors.map(String)).toEqual(
      ['a', 'b', 'm'].map((name) => expect.stringContaining(`${name}: the source from broke off: the line went dead`)),
    )
    expect(ids(got['a'])).toEqual([1, 2])
    breaks = false
    await runAll(syncs)
    for (const rows of Object.values(got)) expect(ids(rows)).toEqual([1, 2, 3])
  })

  it('do not take what one of them did not read to its end for everything there is', async () => {
    const { to } = await place()
    const stop = new AbortController()
    let early = false
    const from = async function* () {
      yield [{ id: 1 }]
      if (early) {
        stop.abort()
        await new Promise(() => {}) // a source that never answers
      }
      yield [{ id: 2 }, { id: 3 }]
    }
    const options = { from, key: 'id' as const, mode: 'mirror' as const, deleteCeiling: 9 }
    const syncs = [sync({ ...options, ...to('a') }), sync({ ...options, ...to('b') })]
    await runAll(syncs)
    early = true
    for (const run of await runAll(syncs, { signal: stop.signal })) {
      expect(run).toMatchObject({ status: 'incomplete', deletes: { rows: 0 } })
    }
  })

  it('may be the same sync twice: the second is refused, and the first reads', async () => {
    const { to, got } = await place()
    const { from } = counted()
    const one = sync({ from, ...to('one') })
    await expect(runAll([one, one])).rejects.toThrow(/one: .*run/)
    expect(ids(got['one'])).toEqual([1, 2, 3])
  })
})

const reading = (given: Partial<Reading> = {}): Reading => {
  const signal = given.signal ?? new AbortController().signal
  const http = sourceHttp({ name: 'test' } as SourceDefinition, signal)
  return { since: undefined, cursor: undefined, signal, http, log: quiet, describe() {}, reaches() {}, ...given }
}
const wishes = (count: number) => Array.from({ length: count }, () => ({ cursor: undefined, atOnce: false }))
const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('a shared reading', () => {
  it('asks for an array when the slowest has taken the one before, and for nothing more when none is left', async () => {
    let asked = 0
    let ended = false
    const from = async function* () {
      try {
        for (;;) yield [{ id: ++asked }]
      } finally {
        ended = true
      }
    }
    const [quick, slow] = share(sourceOf(from, 'test'), wishes(2)).map(({ source }) =>
      source.read(reading())[Symbol.asyncIterator](),
    )
    await Promise.all([quick!.next(), slow!.next()])
    const ahead = quick!.next()
    await turn()
    expect(asked).toBe(2)
    await ahead
    let got = false
    void quick!.next().then(() => {
      got = true
    })
    await turn()
    expect({ got, asked }).toEqual({ got: false, asked: 2 })
    // it leaves with an array not taken, and holds up nobody any more
    await slow!.return!()
    await turn()
    expect({ got, asked }).toEqual({ got: true, asked: 4 })
    await quick!.return!()
    await turn()
    expect(ended).toBe(true)
  })

  it('ends for the source when every sync was stopped, and not before', async () => {
    const signals: AbortSignal[] = []
    const from = createSource({
      name: 'silent',
      async *read({ signal }) {
        signals.push(signal)
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        yield []
      },
    })
    const stops = [new AbortController(), new AbortController()]
    const shares = share(sourceOf(from, 'test'), wishes(2))
    const ends = shares.map(({ source }, index) =>
      source
        .read(reading({ signal: stops[index]!.signal }))
        [Symbol.asyncIterator]()
        .next(),
    )
    await turn()
    stops[0]!.abort()
    expect(await ends[0]).toEqual({ done: true, value: undefined })
    expect(signals.map(({ aborted }) => aborted)).toEqual([false])
    stops[1]!.abort()
    expect(await ends[1]).toEqual({ done: true, value: undefined })
    expect(signals[0]!.aborted).toBe(true)
  })

  it('tells its columns to each, and only who objects goes without rows', async () => {
    const from = createSource({
      name: 'told',
      async *read({ describe }) {
        describe([{ name: 'id', type: 'integer', nullable: false }])
        yield [{ id: 1 }]
      },
    })
    const told: string[] = []
    const [first, second] = share(sourceOf(from, 'test'), wishes(2))
    const objecting = first!.source
      .read(
        reading({
          describe() {
            throw new ConfigError('there is no column key')
          },
        }),
      )
      [Symbol.asyncIterator]()
    const content = second!.source
      .read(reading({ describe: (columns) => told.push(...columns.map(({ name }) => name)) }))
      [Symbol.asyncIterator]()
    const [refused, rows] = await Promise.allSettled([objecting.next(), content.next()])
    expect(refused).toMatchObject({ reason: new ConfigError('there is no column key') })
    expect(rows).toMatchObject({ value: { value: [{ id: 1 }] } })
    expect(told).toEqual(['id'])
  })

  it('gives each what it would get alone, however arrays are cut, whoever leaves, and wherever the source breaks off', async () => {
    const member = fc.record({
      /** After how many arrays it leaves, how it does, and how many turns it takes over one. */
      leaves: fc.option(fc.nat(4)),
      by: fc.constantFrom('return' as const, 'signal' as const),
      slow: fc.nat(2),
      joins: fc.constantFrom('reads' as const, 'passes' as const, 'never' as const),
    })
    const history = fc.record({
      arrays: fc.array(fc.nat(3), { maxLength: 6 }),
      breaks: fc.option(fc.nat(5)),
      members: fc.array(member, { minLength: 1, maxLength: 4 }),
    })
    await fc.assert(
      fc.asyncProperty(history, async ({ arrays, breaks, members }) => {
        let calls = 0
        const from = async function* () {
          calls++
          let id = 0
          for (const [place, length] of arrays.entries()) {
            if (place === breaks) throw new Error('broken off')
            yield Array.from({ length }, () => ({ id: id++ }))
          }
        }
        type Member = (typeof members)[number]
        const take = async (source: SourceDefinition, { leaves, by, slow }: Member) => {
          const stop = new AbortController()
          const rows = source.read(reading({ signal: stop.signal }))[Symbol.asyncIterator]()
          const got: object[] = []
          try {
            for (let taken = 0; ; taken++) {
              if (taken === leaves) {
                if (by === 'signal') stop.abort()
                else await rows.return!()
                return [got, 'left']
              }
              const next = await rows.next()
              if (next.done) return [got, 'whole']
              got.push(...next.value)
              for (let turns = 0; turns < slow; turns++) await turn()
            }
          } catch (error) {
            return [got, String(error)]
          }
        }
        const shares = share(sourceOf(from, 'test'), wishes(members.length))
        const together = await Promise.all(
          members.map(async (one, index) => {
            const { source, leave } = shares[index]!
            if (one.joins === 'passes') source.pass!()
            const result = one.joins === 'never' ? undefined : await take(source, one)
            await leave()
            return result
          }),
        )
        const alone = members.map(({ joins }) => joins).filter((how) => how === 'passes').length
        const shared = members.some(({ joins }) => joins === 'reads') ? 1 : 0
        expect(calls).toBeLessThanOrEqual(alone + shared)
        const expected: unknown[] = []
        for (const one of members) {
          expected.push(one.joins === 'never' ? undefined : await take(sourceOf(from, 'test'), one))
        }
        expect(together).toEqual(expected)
      }),
      { numRuns: 300 },
    )
  })
})

describe('histories', () => {
  it('end the same for syncs that share a source and for syncs that read alone', async () => {
    const row = fc.record({ id: fc.nat(4), value: fc.nat(2) })
    const round = fc.record({
      rows: fc.uniqueArray(row, { selector: ({ id }) => id, maxLength: 4 }),
      /** Which destination refuses everything in this round, and whether the source breaks off after its first row. */
      refuses: fc.constantFrom(undefined, 'log', 'crm', 'mirror', 'seen'),
      breaks: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(round, { minLength: 2, maxLength: 3 }), async (rounds) => {
        const ends: unknown[] = []
        for (const together of [true, false]) {
          const { to, got } = await place()
          let now: (typeof rounds)[number]
          let calls = 0
          const from = async function* () {
            calls++
            yield now.rows.slice(0, 1)
            if (now.breaks) throw new Error('broken off')
            yield now.rows.slice(1)
          }
          const meeting = (name: string) =>
            to(name, () => {
              if (now.refuses === name) throw new FatalError('closed')
            })
          const syncs: Sync[] = [
            sync({ from, ...meeting('log') }),
            sync({ from, ...meeting('crm'), key: 'id' }),
            sync({ from, ...meeting('mirror'), key: 'id', mode: 'mirror', deleteCeiling: '100%' }),
            sync({ from, ...meeting('seen'), cursor: 'id' }),
          ]
          const told: unknown[] = []
          for (now of rounds) {
            calls = 0
            const runs = syncs.map((one) => (together ? undefined : one.run({ brokenOff: 'from-start' })))
            const ended = together
              ? await runAll(syncs, { brokenOff: 'from-start' }).then(
                  () => ['done'],
                  (error) => (error instanceof AggregateError ? error.errors.map(String) : [String(error)]),
                )
              : await Promise.allSettled(runs as Promise<unknown>[]).then((results) => {
                  const failed = results.flatMap((one) => (one.status === 'rejected' ? [String(one.reason)] : []))
                  return failed.length > 0 ? failed : ['done']
                })
            told.push(ended)
            if (together) expect(calls).toBeLessThanOrEqual(4)
          }
          ends.push({ got, told })
        }
        expect(ends[0]).toEqual(ends[1])
      }),
      { numRuns: process.env['SOAK'] ? 100 : 3 },
    )
  })
})

const database = databaseOfFile()

describe('a table of postgres', () => {
  const query = `select id, gen_random_uuid()::text as value from generate_series(1, 3) as id`

  it('is copied once, for all that compare it', async () => {
    const { to, got } = await place()
    const from = postgres<{ id: number; value: string }>({ url: database.url, query })
    const runs = await runAll([
      sync({ from, ...to('a'), key: 'id' }),
      sync({ from, ...to('b'), key: 'id', mode: 'mirror', version: 2 }),
      sync({ from, ...to('c'), key: ['id', 'value'] }),
    ])
    expect(runs.map(({ delivered }) => delivered)).toEqual([3, 3, 3])
    expect(new Set(Object.values(got).flatMap((rows) => rows.map(({ value }) => value))).size).toBe(3)
  })

  it('makes no object of a row that has not changed, for any of them', async () => {
    const { to } = await place()
    const from = postgres<{ id: number }>({
      url: database.url,
      query: `select id, 'same' as value from generate_series(1, 3) as id`,
    })
    let looked = 0
    const map = (row: { id: number }) => {
      looked++
      return row
    }
    const syncs = ['a', 'b'].map((name) => sync({ from, map, ...to(name), key: 'id' }))
    await runAll(syncs)
    expect(looked).toBe(6)
    expect((await runAll(syncs)).map(({ unchanged }) => unchanged)).toEqual([3, 3])
    expect(looked).toBe(6)
  })

  it('is read once row by row where one of them wants it so', async () => {
    const { to, got } = await place()
    const from = postgres<{ id: number; value: string }>({ url: database.url, query })
    await runAll([sync({ from, ...to('a'), key: 'id' }), sync({ from, ...to('b') })])
    expect(got['a']).toEqual(got['b'])
  })

  it('is copied for the others although one of them objects to its columns', async () => {
    const { to, got } = await place()
    await database.client.query('create table widening as select 1 as id')
    const from = postgres<{ id: number }>({ url: database.url, table: 'widening' })
    const options = { from, key: 'id' as const }
    const frozen = sync({ ...options, ...to('frozen'), schemaContract: 'freeze' })
    const narrow = sync({ ...options, ...to('narrow'), schemaContract: 'discard' })
    const wide = sync({ ...options, ...to('wide') })
    await runAll([frozen, narrow, wide])
    await database.client.query(`alter table widening add value int; insert into widening values (2, 7)`)
    await expect(runAll([frozen, narrow, wide])).rejects.toThrow(/frozen: .*value/)
    expect(got).toEqual({
      frozen: [{ id: 1 }],
      narrow: [{ id: 1 }, { id: 2 }],
      wide: [{ id: 1 }, { id: 1, value: null }, { id: 2, value: 7 }],
    })
  })

  it('that cannot be read is an error of each', async () => {
    const { to } = await place()
    const from = postgres<{ id: number }>({ url: database.url, table: 'nowhere' })
    const failed = await runAll([sync({ from, ...to('a'), key: 'id' }), sync({ from, ...to('b'), key: 'id' })]).catch(
      (error) => error,
    )
    expect(failed.message).toMatch(/^2 of 2 syncs failed: a: .*nowhere.*; b: .*nowhere/)
  })
})
