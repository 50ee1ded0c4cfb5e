import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  type AnyRow,
  type Context,
  destination,
  GuardError,
  Instant,
  type Outcome,
  type Run,
  type RunOptions,
  reject,
  type Sync,
  sync,
} from '../src/index.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

// Only what has changed is sent: what counts as a change, what is deleted, and what waits.

interface Options {
  readonly mode?: 'upsert' | 'mirror'
  readonly key?: string | readonly string[]
  readonly match?: string
  readonly deleteCeiling?: `${number}%` | number
}

interface People {
  rows: readonly object[]
  readonly state: string
  version: string | undefined
  map: (row: AnyRow) => AnyRow
  /** What was sent by the latest run. */
  readonly sent: AnyRow[]
  readonly deleted: AnyRow[]
  answer: (batch: AnyRow[], context: Context) => Outcome[]
  sync(): Sync
  /** Runs, from now on with these rows. */
  run(rows?: readonly object[], options?: RunOptions): Promise<Run>
}

/** A sync whose rows, map and destination may be changed between runs; what was sent is there to be looked at. */
async function people(first: readonly object[], { mode = 'upsert', key = 'id', match, deleteCeiling }: Options = {}) {
  const it: People = {
    rows: first,
    state: await stateFolder(),
    version: undefined,
    map: (row) => row,
    sent: [],
    deleted: [],
    answer: () => [],
    sync() {
      const to = destination({ batchSize: 10, match, retryFor: '1ms', settle: '1ms' })({
        upsert(batch: AnyRow[], context) {
          it.sent.push(...batch)
          return it.answer(batch, context)
        },
        delete(batch: AnyRow[], context) {
          it.deleted.push(...batch)
          return it.answer(batch, context)
        },
      })
      return sync({
        name: 'people',
        from: () => it.rows as AnyRow[],
        to,
        mode: mode as 'mirror',
        key: key as string,
        map: it.map,
        version: it.version,
        deleteCeiling,
        state: it.state,
        log: quiet,
      })
    },
    async run(rows = it.rows, options = {}) {
      it.rows = rows
      it.sent.length = 0
      it.deleted.length = 0
      return it.sync().run({ allowRejections: true, ...options })
    },
  }
  return it
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

const ids = (rows: readonly AnyRow[]) => rows.map(({ id }) => id)
const source = (...numbers: number[]) => numbers.map((id) => ({ id }))
const numbers = (count: number) => source(...Array.from({ length: count }, (_, id) => id + 1))

describe('a row has changed when a value of it is another one', () => {
  it.each<[string, object, object]>([
    ['null and the empty text', { v: null }, { v: '' }],
    ['zero and false', { v: 0 }, { v: false }],
    ['false and the empty text', { v: false }, { v: '' }],
    ['the empty text and the text 0', { v: '' }, { v: '0' }],
    ['the text 0 and zero', { v: '0' }, { v: 0 }],
    ['a column that is missing and one that is null', {}, { v: null }],
    ['the text null and null', { v: 'null' }, { v: null }],
    ['the last digit of a decimal', { v: '1234567890.123456789012345678' }, { v: '1234567890.123456789012345679' }],
    ['the zeros at the end of a decimal', { v: '1.5' }, { v: '1.50' }],
    [
      'a microsecond',
      { v: Instant.of('2024-02-29T12:00:00.123456Z') },
      { v: Instant.of('2024-02-29T12:00:00.123457Z') },
    ],
    ['an instant and its text', { v: new Date('2024-02-29T12:00:00.000Z') }, { v: '2024-02-29T12:00:00.000Z' }],
    ['a field in nested JSON', { v: { a: { b: [1, { c: 2 }] } } }, { v: { a: { b: [1, { c: 3 }] } } }],
    ['the order of a list', { v: [1, 2] }, { v: [2, 1] }],
    ['nested null and nothing', { v: { a: null } }, { v: {} }],
    ['an integer above 2^53', { v: 9007199254740993n }, { v: 9007199254740992n }],
    ['one byte', { v: new Uint8Array([0, 1, 255]) }, { v: new Uint8Array([0, 1, 254]) }],
    ['a day', { v: '2024-02-29' }, { v: '2024-03-01' }],
    ['upper and lower case', { v: 'Ada' }, { v: 'ada' }],
    ['a space at the end', { v: 'Ada' }, { v: 'Ada ' }],
    ['the text of two columns, split elsewhere', { v: 'ab', w: 'c' }, { v: 'a', w: 'bc' }],
  ])('%s, and back again', async (_, before, after) => {
    const it = await people([{ id: 1, ...before }])
    expect(await it.run()).toMatchObject({ delivered: 1 })
    expect(await it.run([{ id: 1, ...after }])).toMatchObject({ delivered: 1, unchanged: 0 })
    expect(it.sent).toEqual([{ id: 1, ...after }])
    expect(await it.run()).toMatchObject({ delivered: 0, unchanged: 1 })
    expect(await it.run([{ id: 1, ...before }])).toMatchObject({ delivered: 1, unchanged: 0 })
  })

  it.each<[string, object, object]>([
    ['the order of its columns', { a: 1, b: 2 }, { b: 2, a: 1 }],
    ['the order of fields in nested JSON', { v: { a: 1, b: { c: 1, d: 2 } } }, { v: { b: { d: 2, c: 1 }, a: 1 } }],
    ['an integer that comes as bigint', { v: 5 }, { v: 5n }],
    ['a column that is undefined rather than missing', { v: undefined }, {}],
    [
      'a Date of the same instant',
      { v: Instant.of('2024-02-29T12:00:00.000000Z') },
      { v: new Date('2024-02-29T13:00:00+01:00') },
    ],
    ['a Buffer of the same bytes', { v: new Uint8Array([1, 2]) }, { v: Buffer.from([1, 2]) }],
  ])('but not by %s', async (_, before, after) => {
    const it = await people([{ id: 1, ...before }])
    expect(await it.run()).toMatchObject({ delivered: 1 })
    expect(await it.run([{ id: 1, ...after }])).toMatchObject({ delivered: 0, unchanged: 1 })
    expect(it.sent).toEqual([])
  })

  it('and where only its record stays the same, it is looked at and not sent', async () => {
    const it = await people([{ id: 1, seen: 1 }])
    it.map = ({ id }) => ({ id })
    await it.run()
    expect(await it.run([{ id: 1, seen: 2 }])).toMatchObject({ delivered: 0, unchanged: 1 })
  })

  it('keys of several columns are told apart, wherever their texts are split', async () => {
    const rows = [
      { a: 'ab', b: 'c', v: 1 },
      { a: 'a', b: 'bc', v: 2 },
      { a: 'a,b', b: 'c', v: 3 },
      { a: 'a', b: 'b,c', v: 4 },
      { a: '1', b: 'c', v: 5 },
      { a: 1, b: 'c', v: 6 },
    ]
    const it = await people(rows, { key: ['a', 'b'], mode: 'mirror' })
    expect(await it.run()).toMatchObject({ delivered: 6 })
    expect(await it.run(rows.toReversed())).toMatchObject({ unchanged: 6 })
    expect(await it.run(rows.with(1, { a: 'a', b: 'bc', v: 0 }))).toMatchObject({ delivered: 1, unchanged: 5 })
    expect(it.sent).toEqual([{ a: 'a', b: 'bc', v: 0 }])
    expect(await it.run(rows.toSpliced(1, 1))).toMatchObject({ unchanged: 5, deletes: { delivered: 1 } })
    expect(it.deleted).toEqual([{ a: 'a', b: 'bc' }])
  })
})

describe('when records are made differently', () => {
  const rows = [
    { id: 1, name: 'Ada', city: 'London' },
    { id: 2, name: 'Bo', city: '' },
  ]

  it.each(['the text of map', 'version'])(
    'by %s, every row is looked at and only other records are sent',
    async (what) => {
      const looked: number[] = []
      const it = await people(rows)
      const context = { city: false }
      it.map = ({ id, name, city }) => {
        looked.push(id)
        return { id, name: context.city ? name + city : name }
      }
      await it.run()
      looked.length = 0
      expect(await it.run()).toMatchObject({ unchanged: 2 })
      expect(looked).toEqual([])

      context.city = true
      expect(await it.run()).toMatchObject({ unchanged: 2 }) // nobody can tell
      if (what === 'version') it.version = '2'
      else {
        it.map = (row) => {
          looked.push(row['id'])
          return { id: row['id'], name: row['name'] + row['city'] }
        }
      }
      expect(await it.run()).toMatchObject({ delivered: 1, unchanged: 1 })
      expect(it.sent).toEqual([{ id: 1, name: 'AdaLondon' }])
      expect(looked).toEqual([1, 2])
      // and from then on not any more
      looked.length = 0
      expect(await it.run()).toMatchObject({ delivered: 0, unchanged: 2 })
      expect(looked).toEqual([])
    },
  )

  it('with values that become others when they are kept, those are compared as they are kept', async () => {
    const it = await people([{ id: 1, url: 'https://example.com/a' }])
    it.map = ({ id, url }) => ({ id, url: new URL(url), list: [undefined], sizes: new Uint16Array([1, 2]) })
    await it.run()
    it.version = '2'
    expect(await it.run()).toMatchObject({ delivered: 0, unchanged: 1 })
    expect(await it.run([{ id: 1, url: 'https://example.com/b' }])).toMatchObject({ delivered: 1 })
  })

  it('into something that cannot be kept, that row alone is rejected', async () => {
    const it = await people(rows)
    it.map = ({ id, name }) => ({ id, name: id === 1 ? new Set([name]) : name })
    expect(await it.run()).toMatchObject({ delivered: 1, rejected: 1 })
  })

  it('full sends all, and only then', async () => {
    const it = await people(rows)
    await it.run()
    expect(await it.run(rows, { full: true })).toMatchObject({ delivered: 2, unchanged: 0 })
    expect(it.sent).toHaveLength(2)
    expect(await it.run()).toMatchObject({ delivered: 0, unchanged: 2 })
  })
})

describe('a value that an object is found by belongs to one key', () => {
  const ada = { id: 1, email: 'ada@example.com' }
  const other = { id: 2, email: 'ada@example.com' }

  it('so the second row that has it is rejected, and told of the first', async () => {
    const it = await people([ada, other], { match: 'email' })
    expect(await it.run()).toMatchObject({ delivered: 1, rejected: 1 })
    expect(it.sent).toEqual([ada])
    const [letter] = await collect(it.sync().deadLetters())
    expect(letter).toMatchObject({ key: 2, reason: 'another row, of the key 1, has the same email' })
  })

  it('the one that was delivered, when another row comes to have it', async () => {
    const it = await people([ada, { id: 2, email: 'bo@example.com' }], { match: 'email' })
    await it.run()
    expect(await it.run([ada, other])).toMatchObject({ unchanged: 1, rejected: 1 })
    expect(it.sent).toEqual([])
  })

  it('and may be passed on, or exchanged', async () => {
    const it = await people([ada, { id: 2, email: 'bo@example.com' }], { match: 'email', mode: 'mirror' })
    await it.run()
    const exchanged = [{ id: 1, email: 'bo@example.com' }, other]
    expect(await it.run(exchanged)).toMatchObject({ delivered: 2, deletes: { rows: 0 } })
    expect(it.deleted).toEqual([])
  })

  it('and its object is not deleted when the key that had it is gone and another has it', async () => {
    const it = await people([ada, { id: 3, email: 'cy@example.com' }], {
      match: 'email',
      mode: 'mirror',
      deleteCeiling: 9,
    })
    await it.run()
    const moved = [other, { id: 3, email: 'cy@example.com' }]
    expect(await it.run(moved)).toMatchObject({ delivered: 1, deletes: { rows: 0 } })
    expect(await it.run(moved)).toMatchObject({ unchanged: 2, deletes: { rows: 0 } })
    // with the key that has it now, it goes
    await it.run([{ id: 3, email: 'cy@example.com' }], { allowDeletes: true })
    expect(new Set(it.deleted.map(({ email }) => email))).toEqual(new Set(['ada@example.com']))
  })

  it('and when a row comes to have another, that is another object, and the one before stays where it is', async () => {
    const it = await people([ada, { id: 2, email: 'bo@example.com' }], { match: 'email', mode: 'mirror' })
    await it.run()
    await it.run(
      [
        { id: 1, email: 'countess@example.com' },
        { id: 2, email: 'bo@example.com' },
      ],
      { allowDeletes: true },
    )
    expect(it.sent).toEqual([{ id: 1, email: 'countess@example.com' }])
    expect(it.deleted).toEqual([])
  })

  it('a row that was rejected for it is sent as soon as the other is gone, however long that took', async () => {
    const it = await people([ada, other, { id: 3, email: 'cy@example.com' }], { match: 'email', mode: 'mirror' })
    for (let times = 0; times < 5; times++) expect(await it.run()).toMatchObject({ rejected: 1 })
    expect(await it.run([other, { id: 3, email: 'cy@example.com' }])).toMatchObject({ delivered: 1, rejected: 0 })
    expect(it.sent).toEqual([other])
    expect(it.deleted).toEqual([])
  })
})

describe('a record that is refused', () => {
  const refusing = async (mode: 'upsert' | 'mirror' = 'upsert') => {
    const it = await people([{ id: 1 }, { id: 2, v: 'bad' }], { mode, deleteCeiling: 9 })
    it.answer = (batch) => batch.flatMap((row) => (row['v'] === 'bad' ? reject(row, 'no') : []))
    for (let times = 1; times <= 3; times++) {
      expect(await it.run()).toMatchObject({ status: 'done', rejected: 1 })
      expect(ids(it.sent)).toContain(2)
    }
    return it
  }

  it('three times in a row waits, and is counted as rejected still', async () => {
    const it = await refusing()
    for (let times = 0; times < 2; times++) {
      expect(await it.run()).toMatchObject({ status: 'done', rows: 2, unchanged: 1, rejected: 1, delivered: 0 })
      expect(it.sent).toEqual([])
    }
    expect(await it.sync().status()).toMatchObject({ deadLetters: 1, pending: 0 })
  })

  it('is sent again when it changes, and has three tries again', async () => {
    const it = await refusing()
    for (let times = 0; times < 3; times++) {
      expect(await it.run([{ id: 1 }, { id: 2, v: 'bad', w: 1 }])).toMatchObject({ rejected: 1 })
      expect(ids(it.sent)).toEqual([2])
    }
    await it.run()
    expect(it.sent).toEqual([])
    expect(await it.run([{ id: 1 }, { id: 2, v: 'good' }])).toMatchObject({ delivered: 1, rejected: 0 })
    expect(await it.sync().status()).toMatchObject({ deadLetters: 0 })
  })

  it('is sent again by a redrive, as the source has it now', async () => {
    const it = await refusing()
    it.answer = () => []
    expect(await it.run()).toMatchObject({ rejected: 1 })
    expect(await it.sync().redrive()).toMatchObject({ delivered: 1, rejected: 0, unchanged: 1 })
    expect(it.sent).toEqual([{ id: 2, v: 'bad' }])
    expect(await it.run()).toMatchObject({ delivered: 0, unchanged: 2, rejected: 0 })
    expect(await it.sync().status()).toMatchObject({ deadLetters: 0 })
  })

  it('and is another one each run does not wait', async () => {
    const it = await people([{ id: 1 }, { id: 2 }])
    it.answer = (batch) => batch.flatMap((row) => (row['id'] === 2 ? reject(row, 'no') : []))
    for (let times = 1; times <= 6; times++) {
      await it.run([{ id: 1 }, { id: 2, times }])
      expect(ids(it.sent)).toContain(2)
    }
  })

  it('and whose row comes back to what the destination has is no dead letter any more', async () => {
    const it = await people([{ id: 1 }, { id: 2, v: 'good' }])
    await it.run()
    it.answer = (batch) => batch.flatMap((row) => (row['v'] === 'bad' ? reject(row, 'no') : []))
    expect(await it.run([{ id: 1 }, { id: 2, v: 'bad' }])).toMatchObject({ rejected: 1 })
    expect(await it.run([{ id: 1 }, { id: 2, v: 'good' }])).toMatchObject({ rejected: 0, unchanged: 2 })
    expect(await it.sync().status()).toMatchObject({ deadLetters: 0 })
  })

  it('as a delete waits like any other, and is sent again by a redrive', async () => {
    const it = await people(source(1, 2, 3), { mode: 'mirror', deleteCeiling: 9 })
    await it.run()
    it.answer = (batch, { operation }) => (operation === 'delete' ? batch.map((row) => reject(row, 'locked')) : [])
    for (let times = 1; times <= 3; times++) {
      expect(await it.run(source(1, 2))).toMatchObject({ unchanged: 2, deletes: { rows: 1, rejected: 1 } })
      expect(ids(it.deleted)).toEqual([3])
    }
    expect(await it.run()).toMatchObject({ status: 'done', deletes: { rows: 1, rejected: 1 } })
    expect(it.deleted).toEqual([])
    it.answer = () => []
    expect(await it.sync().redrive()).toMatchObject({ unchanged: 2, deletes: { rows: 1, delivered: 1 } })
    expect(it.deleted).toEqual([{ id: 3 }])
    expect(await it.run()).toMatchObject({ deletes: { rows: 0 } })
  })
})

describe('what a mirror deletes', () => {
  const delivered = async (count: number, deleteCeiling?: Options['deleteCeiling']) => {
    const it = await people(numbers(count), { mode: 'mirror', ...(deleteCeiling !== undefined && { deleteCeiling }) })
    await it.run()
    return it
  }

  it.each<[string, Options['deleteCeiling'], number]>([
    ['a fifth, unless it is told otherwise', undefined, 4],
    ['a share', '10%', 2],
    ['a share, rounded down', '14.9%', 2],
    ['a number', 3, 3],
    ['nothing', 0, 0],
  ])('is at most %s', async (_, deleteCeiling, most) => {
    const it = await delivered(20, deleteCeiling)
    const over = numbers(20 - most - 1)
    await expect(it.run(over)).rejects.toThrow(GuardError)
    await expect(it.run(over)).rejects.toThrow(`${most + 1} of the 20 objects at the destination would be deleted`)
    expect([it.sent, it.deleted]).toEqual([[], []])
    expect(await it.run(numbers(20 - most))).toMatchObject({ status: 'done', deletes: { rows: most, delivered: most } })
    expect(it.deleted).toHaveLength(most)
    expect(await it.run()).toMatchObject({ deletes: { rows: 0 } })
  })

  it('is never all, even where the ceiling is high', async () => {
    for (const deleteCeiling of ['100%', 1_000] as const) {
      const it = await delivered(3, deleteCeiling)
      await expect(it.run(source(7, 8))).rejects.toThrow(/3 of the 3 objects .* all of them: nothing was sent/)
      expect([it.sent, it.deleted]).toEqual([[], []])
      expect(await it.run(source(1))).toMatchObject({ deletes: { delivered: 2 } })
    }
  })

  it('nor all that is known to be there, with others whose fate is unknown', async () => {
    const it = await delivered(2, 10)
    it.answer = () => {
      throw new Error('socket hang up')
    }
    expect(await it.run(source(1, 2, 3))).toMatchObject({ unknown: 1 })
    it.answer = () => []
    await expect(it.run(source(4))).rejects.toThrow(GuardError)
    expect(it.deleted).toEqual([])
  })

  it('is nothing when the source has no row, whatever the ceiling is', async () => {
    const it = await delivered(3, '100%')
    await expect(it.run([])).rejects.toThrow(/the source has no row, and the destination holds 3; .*: nothing was sent/)
    expect(it.deleted).toEqual([])
    expect(await it.run(numbers(3))).toMatchObject({ status: 'done', unchanged: 3, resumed: { rows: 0 } })
  })

  it('is anything with allowDeletes, once', async () => {
    const it = await delivered(3)
    expect(await it.run([], { allowDeletes: true })).toMatchObject({
      status: 'done',
      rows: 0,
      deletes: { delivered: 3 },
    })
    expect(ids(it.deleted)).toEqual([1, 2, 3])
    expect(await it.run()).toMatchObject({ status: 'done', deletes: { rows: 0 } })
    expect(await it.run(numbers(3))).toMatchObject({ delivered: 3 })
  })

  it('is what may be there as well, but nothing that was never sent', async () => {
    const it = await delivered(5, 3)
    it.answer = () => {
      throw new Error('socket hang up')
    }
    expect(await it.run(numbers(6))).toMatchObject({ unchanged: 5, unknown: 1 })
    it.answer = (batch) => batch.map((row) => reject(row, 'no'))
    expect(await it.run(source(1, 2, 3, 4, 5, 7))).toMatchObject({ rejected: 1, deletes: { rows: 1, rejected: 1 } })
    expect(ids(it.deleted)).toEqual([6])
    it.answer = () => []
    expect(await it.run(numbers(5))).toMatchObject({ unchanged: 5, deletes: { rows: 1, delivered: 1 } })
    expect(ids(it.deleted)).toEqual([6])
  })

  it('is nothing in a redrive for which there is no dead letter', async () => {
    const it = await delivered(5)
    it.deleted.length = 0
    expect(await it.sync().redrive({ allowDeletes: true })).toMatchObject({ status: 'done', deletes: { rows: 0 } })
    expect(it.deleted).toEqual([])
  })

  it('is nothing in upsert', async () => {
    const it = await people(numbers(5))
    await it.run()
    expect(await it.run(source(1))).toMatchObject({ unchanged: 1, deletes: { rows: 0 } })
    expect(it.deleted).toEqual([])
    // what is gone is there still, so it is unchanged when it comes back
    expect(await it.run(numbers(5))).toMatchObject({ delivered: 0, unchanged: 5 })
  })
})

describe('a value whose answer was lost', () => {
  const losing = async (mode: 'upsert' | 'mirror') => {
    const it = await people([{ id: 1, v: 'old' }, ...source(2, 3)], { mode, deleteCeiling: 2 })
    await it.run()
    it.answer = () => {
      throw new Error('socket hang up')
    }
    expect(await it.run([{ id: 1, v: 'new' }, ...source(2, 3)])).toMatchObject({ unknown: 1, unchanged: 2 })
    it.answer = () => []
    return it
  }

  it('is followed by the old one when the source goes back to it', async () => {
    const it = await losing('upsert')
    expect(await it.run([{ id: 1, v: 'old' }, ...source(2, 3)])).toMatchObject({
      delivered: 1,
      unchanged: 2,
      resumed: { rows: 1, superseded: 1 },
    })
    expect(it.sent).toEqual([{ id: 1, v: 'old' }])
    expect(await it.run()).toMatchObject({ unchanged: 3 })
  })

  it('stays in doubt when it is refused afterwards', async () => {
    const it = await losing('upsert')
    it.answer = (batch) => batch.map((row) => reject(row, 'no'))
    expect(await it.run()).toMatchObject({ rejected: 1 })
    it.answer = () => []
    expect(await it.run([{ id: 1, v: 'old' }, ...source(2, 3)])).toMatchObject({ delivered: 1, unchanged: 2 })
  })

  it('is deleted when its row is gone', async () => {
    const it = await losing('mirror')
    expect(await it.run(source(2, 3))).toMatchObject({ unchanged: 2, deletes: { delivered: 1 } })
    expect(it.deleted).toEqual([{ id: 1 }])
  })

  it('is sent again when its row comes back, in upsert', async () => {
    const it = await losing('upsert')
    await it.run(source(2, 3))
    expect(await it.run([{ id: 1, v: 'old' }, ...source(2, 3)])).toMatchObject({ delivered: 1, unchanged: 2 })
  })
})

describe('a destination that must not be asked twice, and can tell what is there', () => {
  it.each([true, false])(
    'deletes what is there still when the answer to a delete was lost (applied: %s)',
    async (applied) => {
      const objects = new Set<number>()
      const calls: string[] = []
      const behave = { breaks: false }
      const state = await stateFolder()
      const run = (rows: AnyRow[]) =>
        sync({
          name: 'people',
          from: rows,
          to: destination({ replaySafe: false, settle: '1ms', retryFor: '1ms' })({
            upsert(batch: AnyRow[]) {
              for (const { id } of batch) objects.add(id)
            },
            delete(batch: AnyRow[]) {
              calls.push(`delete ${ids(batch).join()}`)
              if (!behave.breaks || applied) for (const { id } of batch) objects.delete(id)
              if (behave.breaks) throw new Error('socket hang up')
            },
            verify: (batch: AnyRow[]) => batch.filter(({ id }) => objects.has(id)),
          }),
          mode: 'mirror',
          key: 'id',
          deleteCeiling: 2,
          state,
          log: quiet,
        }).run()
      await run(source(1, 2, 3))
      behave.breaks = true
      expect(await run(source(1, 2))).toMatchObject({ deletes: { rows: 1, unknown: 1 } })
      behave.breaks = false
      expect(await run(source(1, 2))).toMatchObject({ deletes: { rows: 1, delivered: 1 } })
      expect([...objects]).toEqual([1, 2])
      expect(calls).toHaveLength(applied ? 1 : 2)
      expect(await run(source(1, 2))).toMatchObject({ unchanged: 2, deletes: { rows: 0 } })
    },
  )
})

it('files that the database does not name may be deleted between runs, and files of that kind may turn up', async () => {
  const it = await people(numbers(6), { mode: 'mirror' })
  await it.run()
  const folder = join(it.state, 'people')
  const named = await readdir(folder)
  expect(named.filter((file) => file.startsWith('snapshot-'))).toHaveLength(1)
  for (const file of ['snapshot-9.parquet', 'plan-9.parquet', 'stage-9.rows', 'snapshot-1.parquet.tmp']) {
    await writeFile(join(folder, file), 'what a crash may leave')
  }
  expect(await it.run()).toMatchObject({ unchanged: 6, deletes: { rows: 0 } })
  expect(await it.run(numbers(5))).toMatchObject({ unchanged: 5, deletes: { delivered: 1 } })
  // all keys as they were, and beside them what is new
  const files = [expect.stringMatching(/^snapshot-base-/), expect.stringMatching(/^snapshot-recent-/)]
  expect((await readdir(folder)).toSorted()).toEqual(files)
})

it('of several rows of one key that a cursor gives, the newest is sent, in the very first run too', async () => {
  const sent: AnyRow[] = []
  const to = destination({})((batch: AnyRow[]) => void sent.push(...batch))
  const from = [1, 2, 1, 2, 3].map((id, at) => ({ id, at }))
  const state = await stateFolder()
  const one = sync({ name: 'people', from, to, key: 'id', mode: 'upsert', cursor: 'at', state, log: quiet })
  expect(await one.run()).toMatchObject({ rows: 5, delivered: 3, superseded: 2 })
  expect(sent).toEqual([
    { id: 1, at: 2 },
    { id: 2, at: 3 },
    { id: 3, at: 4 },
  ])
})
