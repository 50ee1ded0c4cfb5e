import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import {
  type AnyRow,
  ConfigError,
  type Context,
  destination,
  FatalError,
  GuardError,
  type Outcome,
  type Outcomes,
  type Run,
  reject,
  SourceError,
  sync,
} from '../../src/index.js'
import { duckdb } from '../../src/sources/duckdb.js'
import { postgres } from '../../src/sources/postgres.js'
import { databaseOfFile } from '../support/database.js'
import { type Death, dieAt, immortal } from '../support/death.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import {
  array,
  databaseFile,
  objectsOf,
  type Place,
  parquetFile,
  postgresTable,
  type Table,
} from '../support/tables.js'

// Histories of one sync whose rows are in a table: of DuckDB, of PostgreSQL, in a Parquet file or an array, and in another of
// them before each run, with keys of every kind. Whatever the table is read by, the same is sent, counted, refused and deleted.

const soak = process.env['SOAK'] !== undefined
// in the quick form always the same histories; one that fails is told as it is, for smaller ones would take too long to find
const settings = (numRuns: number, seed: number) => ({
  endOnFailure: true,
  examples: [[odd]] as [History][],
  ...(soak ? { numRuns: numRuns * 20 } : { numRuns, seed }),
  ...(process.env['SEED'] && { seed: Number(process.env['SEED']) }),
})

const database = databaseOfFile()

afterEach(immortal)

interface Keys {
  readonly columns: Table['columns']
  readonly keys: readonly (readonly string[])[]
}

const one = (kind: Table['columns'][string], ...texts: string[]): Keys => ({
  columns: { id: kind },
  keys: texts.map((text) => [text]),
})

const keyed: readonly Keys[] = [
  one('text', '', ' ', "it's", '"', '""', '\\', '\\N', 'NULL', 'null', 'a\tb', 'a\nb', 'a\\nb', 'a\u0001b'),
  one('text', 'é', 'e\u0301', '🦆', ',', '1', '01', 'i1', '{}', '[1]', 'A', 'a', 'a ', `${'long '.repeat(400)}1`),
  one('bigint', '0', '-1', '9007199254740992', '9007199254740993', '9223372036854775807', '-9223372036854775808'),
  one('money', '0.10', '0.11', '-0.10', '1.00', '10.00', '100.00'),
  one('uuid', ...['0a', '0b', 'a0', 'b0', 'ff'].map((end) => `5f2b9c1e-0000-4000-8000-0000000000${end}`)),
  one('date', '2024-02-29', '2024-03-01', '1969-12-31', '0001-01-01', '9999-12-31'),
  one('boolean', 'true', 'false'),
  one('instant', ...['123456', '123457', '120000', '000000'].map((micros) => `2024-03-10 02:30:00.${micros}Z`)),
  {
    columns: { a: 'text', b: 'text' },
    keys: [
      ...[
        ['ab', 'c'],
        ['a', 'bc'],
        ['a,b', 'c'],
        ['a', 'b,c'],
      ],
      ...[
        ['"', ''],
        ['', '"'],
        ['\\', 'n'],
        ['1', '2'],
        ['2', '1'],
      ],
    ],
  },
  {
    columns: { name: 'text', number: 'bigint', day: 'date', yes: 'boolean' },
    keys: [
      ['a', '1', '2024-01-01', 'true'],
      ['a', '1', '2024-01-01', 'false'],
      ['a', '1', '2024-01-02', 'true'],
      ['a', '2', '2024-01-01', 'true'],
      ['b', '1', '2024-01-01', 'true'],
      ['a 1', '1', '2024-01-01', 'true'],
    ],
  },
]

/** What a row says beside its key. */
const values: readonly (readonly (string | null)[])[] = [
  [null, null, null],
  ['', '0', '{}'],
  ['\\N', '9007199254740993', '{"a": [1, null]}'],
  ['NULL', '-1', '{"a": [1, ""]}'],
  ['a\tb\\nc\n"it\'s"', '9007199254740992', 'null'],
  ['naïve 🦆\u0001', '1', '{"b": 1, "a": 2}'],
]
const valueColumns: Table['columns'] = { value: 'text', count: 'bigint', more: 'json' }

const odds = ['a key twice', 'a key that is null', 'no rows', 'a source that fails'] as const

interface Step {
  /** Which of the values each key has; by the place of the key. */
  readonly held: readonly (number | undefined)[]
  readonly place: number
  readonly odd: (typeof odds)[number] | undefined
  readonly answers: 'well' | 'not at all' | 'not at all, but does it' | 'refuses' | 'busy'
  readonly batchSize: number
  readonly allowDeletes: boolean
  /** Dies when so many named points have been passed. */
  readonly dies: number | undefined
}

interface History {
  readonly mode: 'mirror' | 'upsert'
  readonly keys: Keys
  readonly steps: readonly Step[]
}

const calm = { odd: undefined, answers: 'well', batchSize: 5, allowDeletes: true, dies: undefined } as const

const histories: fc.Arbitrary<History> = fc.record({
  mode: fc.constantFrom('mirror', 'mirror', 'upsert'),
  keys: fc.constantFrom(...keyed),
  steps: fc.array(
    fc.record({
      held: fc.array(fc.option(fc.nat({ max: values.length - 1 }), { nil: undefined, freq: 3 }), {
        minLength: 13,
        maxLength: 13,
      }),
      place: fc.nat({ max: 4 }),
      odd: fc.option(fc.constantFrom(...odds), { nil: undefined, freq: 2 }),
      answers: fc.constantFrom('well', 'well', 'not at all', 'not at all, but does it', 'refuses', 'busy'),
      batchSize: fc.integer({ min: 1, max: 5 }),
      allowDeletes: fc.boolean(),
      dies: fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined, freq: 4 }),
    }),
    { minLength: 2, maxLength: 4 },
  ),
})

const everything = Array.from({ length: 13 }, (_, index) => index % values.length)
const step = { ...calm, held: everything, place: 1 }
/** What chance would not always bring. */
const odd: History = {
  mode: 'mirror',
  keys: keyed.at(-1)!,
  steps: [
    step,
    { ...step, odd: 'a key that is null', place: 3 },
    { ...step, odd: 'a key twice', held: everything.with(1, 0), place: 2 },
    { ...step, odd: 'a source that fails', held: everything.with(1, 0), place: 4 },
    { ...step, odd: 'no rows', allowDeletes: false, place: 3 },
    { ...step, held: everything.with(1, 0), place: 0 },
  ],
}

function tableOf({ columns, keys }: Keys, { held, odd }: Step): Table {
  const rows = keys.flatMap((key, index) => {
    const value = held[index]
    return value === undefined || odd === 'no rows' ? [] : [[...key, ...values[value]!]]
  })
  const extra: (string | null)[][] = []
  if (odd === 'a key twice') extra.push([...keys[0]!, ...values[1]!], [...keys[0]!, ...values[2]!])
  if (odd === 'a key that is null') extra.push([...keys[0]!.with(-1, null as never), ...values[1]!])
  return { columns: { ...columns, ...valueColumns }, rows: [...rows, ...extra] }
}

const shown = (value: unknown): string =>
  JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? `${inner}n` : inner))

/** By which objects are told apart: it holds the values themselves, as they arrived. */
const nameOf = (record: AnyRow, { columns }: Keys): string => shown(Object.keys(columns).map((name) => record[name]))

function syncOf(
  { mode, keys }: History,
  { batchSize }: Step,
  from: ReturnType<Place['from']>,
  state: string,
  call: (batch: AnyRow[], context: Context) => Promise<Outcome[]>,
) {
  const to = destination({ name: 'crm', batchSize, retryFor: '1ms', settle: '1ms' })({
    upsert: (batch: AnyRow[], context) => call(batch, context),
    delete: (batch: AnyRow[], context) => call(batch, context),
  })
  const key = Object.keys(keys.columns)
  return sync({ name: 'rows', from, to, key, mode: mode as 'mirror', deleteCeiling: 100, state, log: quiet })
}

function addsUp({ rows, delivered, unchanged, rejected, pending, unknown, superseded }: Outcomes): void {
  const counts = [delivered, unchanged, rejected, pending, unknown, superseded]
  expect(Math.min(rows, ...counts)).toBeGreaterThanOrEqual(0)
  expect(counts.reduce((sum, count) => sum + count)).toBe(rows)
}

/** Why rows were refused. */
async function reasons(history: History, step: Step, place: Place, folder: string): Promise<string> {
  const found: string[] = []
  const { deadLetters } = syncOf(history, step, place.from(), folder, async () => [])
  for await (const { reason } of deadLetters()) found.push(reason)
  return found.join()
}

async function play(history: History, home: string): Promise<void> {
  const { mode, keys, steps } = history
  const names = ['an array', 'a DuckDB file', 'a Parquet file', 'a table', 'a query']
  const places = [
    array(),
    databaseFile(home),
    parquetFile(home),
    postgresTable(database.client, database.url, 'history', 'table'),
    postgresTable(database.client, database.url, 'history', 'query'),
  ]
  const objects = new Map<string, string>()
  /** Of which nobody knows what became of the latest attempt, or which may wait because they were refused so often. */
  const shaky = new Set<string>()
  const ghosts: Promise<unknown>[] = []
  let folder = join(home, '0')
  for (const [index, step] of [...steps, { ...steps.at(-1)!, ...calm }].entries()) {
    const { odd, answers, allowDeletes } = step
    const where = `step ${index + 1} of ${steps.length}, from ${names[step.place]}`
    const table = tableOf(keys, step)
    const place = places[step.place]!
    await place.write(table)
    const plan = () => syncOf(history, step, place.from(), folder, () => expect.fail('a plan sends')).plan()
    const twice = odd === 'a key twice' ? /share a key: .*\((2|3) times\)/ : undefined
    immortal()
    if (twice) await expect(plan(), where).rejects.toThrow(twice)
    const planned = twice ? undefined : await plan()

    const next = join(home, String(index + 1))
    const death: Death = dieAt(step.dies, folder, next)
    const sent: [operation: string, name: string][] = []
    const complaints: string[] = []
    const fit = objectsOf(table).filter((row) => Object.keys(keys.columns).every((column) => row[column] !== null))
    const wanted = new Map(fit.map((row) => [nameOf(row, keys), shown(row)]))
    const before = new Map(objects)
    const call = async (batch: AnyRow[], { operation }: Context): Promise<Outcome[]> => {
      if (death.at !== undefined) throw new FatalError('the process is dead')
      for (const record of batch) {
        const name = nameOf(record, keys)
        sent.push([operation, name])
        const right = operation === 'delete' ? !wanted.has(name) : shown(record) === wanted.get(name)
        if (!right) complaints.push(`${where}: ${operation} ${shown(record)}`)
      }
      if (answers === 'busy') throw Object.assign(new Error('busy'), { status: 429 })
      const refused = answers === 'refuses' ? batch.slice(0, 1) : []
      for (const record of answers === 'not at all' ? [] : batch) {
        if (refused.includes(record)) continue
        if (operation === 'delete') objects.delete(nameOf(record, keys))
        else objects.set(nameOf(record, keys), shown(record))
      }
      if (answers.startsWith('not at all')) throw new Error('socket hang up')
      return refused.map((record) => reject(record, 'no'))
    }
    const running = syncOf(history, step, place.from(odd === 'a source that fails'), folder, call)
      .run({ allowDeletes, allowRejections: true })
      .catch((error: unknown) => error)
    ghosts.push(running)
    const result = (await Promise.race([running, death.came])) as Run | Error | undefined
    const dead = death.at !== undefined
    if (dead) folder = next
    else if (result instanceof Error) {
      if (twice) expect(result, where).toBeInstanceOf(ConfigError)
      else if (odd === 'a source that fails') expect(result, where).toBeInstanceOf(SourceError)
      else {
        expect(result, where).toBeInstanceOf(GuardError)
        expect([planned!.stopped === undefined, allowDeletes], where).toEqual([false, false])
      }
      if (twice) expect(result.message).toMatch(twice)
      expect(sent, where).toEqual([])
    } else {
      expect([twice, odd === 'a source that fails'], where).toEqual([undefined, false])
      const { deletes, resumed, ...run } = result!
      for (const outcomes of [run, deletes, resumed]) addsUp(outcomes)
      expect([run.rows, run.unchanged], where).toEqual([table.rows.length, planned!.unchanged])
      const missing = odd === 'a key that is null' ? 1 : 0
      if (answers === 'well') {
        const upserts = sent.filter(([operation]) => operation === 'upsert').map(([, name]) => name)
        const deleted = sent.filter(([operation]) => operation === 'delete').map(([, name]) => name)
        expect([upserts.length, deleted.length], where).toEqual([planned!.insert + planned!.update, planned!.delete])
        const sure = (some: Iterable<string>) => [...some].filter((name) => !shaky.has(name)).sort()
        const changed = [...wanted.keys()].filter((name) => before.get(name) !== wanted.get(name))
        const gone = mode === 'mirror' ? [...before.keys()].filter((name) => !wanted.has(name)) : []
        expect(sure(upserts), where).toEqual(sure(changed))
        expect(sure(deleted), where).toEqual(sure(gone))
        expect(run.rejected, where).toBeGreaterThanOrEqual(missing)
        if (missing) expect(await reasons(history, step, place, folder), where).toContain('is null or missing')
        const found = [...objects].filter(([name]) => mode === 'mirror' || wanted.has(name))
        if (run.rejected === missing && deletes.rejected === 0) {
          expect(new Map(found.sort()), where).toEqual(new Map([...wanted].sort()))
          shaky.clear()
        }
      }
    }
    expect(complaints).toEqual([])
    if (answers !== 'well') for (const [, name] of sent) shaky.add(name)
    // whoever dies may have been about to send any of them
    if (dead) for (const name of [...before.keys(), ...wanted.keys()]) shaky.add(name)
  }
  await Promise.all(ghosts)
}

describe('a sync whose table lies elsewhere before each run', { timeout: 3_600_000 }, () => {
  it('sends what has changed and nothing else, whatever its keys are, and counts it as its plan did', async () => {
    const home = await stateFolder()
    let number = 0
    const one = async (history: History) => {
      const folder = join(home, String(number++))
      await mkdir(folder)
      await play(history, folder)
    }
    await fc.assert(fc.asyncProperty(histories, one), settings(3, 1))
  })
})

describe('a table that cannot be read to its end', () => {
  const rows = 5_000
  it.each([
    [
      'DuckDB',
      (at: number) =>
        duckdb({
          query: `select i as id from range(${rows}) as r(i) where case when i = ${at} then error('gone') else true end`,
        }),
    ],
    [
      'PostgreSQL',
      (at: number) =>
        postgres({
          url: database.url,
          query: `select i as id from generate_series(0, ${rows - 1}) as i where 1 / (i - ${at}) is not null`,
        }),
    ],
  ])('deletes nothing, and the next plan of it is the same: %s', async (_, from) => {
    const state = await stateFolder()
    const sent: AnyRow[] = []
    const to = destination({ name: 'crm', batchSize: 1_000 })({
      upsert(batch: AnyRow[]) {
        sent.push(...batch)
      },
      delete(batch: AnyRow[]) {
        sent.push(...batch)
      },
    })
    const mirror = (at: number) =>
      sync({ name: 'rows', from: from(at), to, key: 'id', mode: 'mirror', deleteCeiling: '90%', state, log: quiet })
    expect(await mirror(-1).run()).toMatchObject({ delivered: rows })
    sent.length = 0
    await expect(mirror(4_500).run()).rejects.toThrow(SourceError)
    expect(sent).toEqual([])
    const { insert, update, delete: gone, unchanged } = await mirror(-1).plan()
    expect([insert, update, gone, unchanged]).toEqual([0, 0, 0, rows])
  })
})
