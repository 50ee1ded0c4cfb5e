import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Cursor, type CursorOptions } from '../src/cursor.js'
import { destination, FatalError, sync } from '../src/index.js'
import { createSource } from '../src/source.js'
import type { Position } from '../src/state/state.js'
import type { AnyRow } from '../src/values.js'
import { dieAt, immortal } from './support/death.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

/** What the state keeps between reads. */
class Memory {
  position: Position | undefined
  #seen: { hash: string; at: Position | null; count: number }[] = []

  open(options: Partial<CursorOptions> & { column: string }, brokenOff: AnyRow[] = []): Cursor {
    const seen = new Map<string, number>()
    for (const { hash, count } of this.#seen) seen.set(hash, (seen.get(hash) ?? 0) + count)
    return new Cursor({ lag: undefined, from: undefined, ...options }, 'test', {
      position: this.position,
      seen,
      brokenOff,
    })
  }

  keep(cursor: Cursor): void {
    const step = cursor.step()
    if (!step) return
    this.position = step.position
    this.#seen = [
      ...this.#seen.filter(({ at }) => at === null || at >= step.windowStart),
      ...step.seen.map(([hash, at, count]) => ({ hash, at, count })),
    ]
  }

  read(rows: AnyRow[], options: Partial<CursorOptions> & { column: string }): readonly AnyRow[] {
    const cursor = this.open(options)
    const { since } = cursor
    const fresh = cursor.take(rows.filter((row) => since === undefined || row['at'] == null || row['at'] >= since))
    this.keep(cursor)
    return fresh
  }
}

describe('a cursor', () => {
  it('neither loses nor repeats rows that share the value at the edge', () => {
    const memory = new Memory()
    const rows: AnyRow[] = [
      { id: 1, at: 1 },
      { id: 2, at: 2 },
    ]
    expect(memory.read(rows, { column: 'at' })).toEqual(rows)
    rows.push({ id: 3, at: 2 }, { id: 4, at: 3 })
    expect(memory.read(rows, { column: 'at' })).toEqual([
      { id: 3, at: 2 },
      { id: 4, at: 3 },
    ])
    expect(memory.read(rows, { column: 'at' })).toEqual([])
  })

  it('counts equal rows: a second one at the edge is a new row', () => {
    const memory = new Memory()
    const rows: AnyRow[] = [{ at: 5 }]
    memory.read(rows, { column: 'at' })
    rows.push({ at: 5 })
    expect(memory.read(rows, { column: 'at' })).toEqual([{ at: 5 }])
    expect(memory.read(rows, { column: 'at' })).toEqual([])
  })

  it('reads what was committed late, within the lag', () => {
    const memory = new Memory()
    const rows: AnyRow[] = [{ id: 1, at: 100 }]
    memory.read(rows, { column: 'at', lag: 10 })
    rows.push({ id: 2, at: 95 }, { id: 3, at: 101 })
    expect(memory.read(rows, { column: 'at', lag: 10 })).toEqual([
      { id: 2, at: 95 },
      { id: 3, at: 101 },
    ])
    expect(memory.read(rows, { column: 'at', lag: 10 })).toEqual([])
  })

  it('begins at `from`, and drops what a source gives from before `since`', () => {
    const memory = new Memory()
    const cursor = memory.open({ column: 'at', from: 10 })
    expect(cursor.since).toBe(10)
    expect(cursor.take([{ at: 9 }, { at: 10 }])).toEqual([{ at: 10 }])
  })

  it.each([
    ['a Date', new Date('2026-01-01T00:10:00Z'), new Date('2026-01-01T00:00:00Z')],
    ['a timestamp without zone', '2026-01-01T00:10:00.000', '2026-01-01T00:00:00.000'],
    ['a date', '2026-01-02', '2026-01-01'],
  ])('takes a duration as lag where the column is %s', (_, position, since) => {
    const memory = new Memory()
    const lag = since === '2026-01-01' ? '1d' : '10min'
    memory.read([{ at: position }], { column: 'at', lag })
    expect(memory.open({ column: 'at', lag }).since).toEqual(since)
  })

  it('lets rows without a value through once, for them to be rejected', () => {
    const memory = new Memory()
    const rows: AnyRow[] = [
      { id: 1, at: null },
      { id: 2, at: 3 },
    ]
    expect(memory.read(rows, { column: 'at' })).toEqual(rows)
    expect(memory.read(rows, { column: 'at' })).toEqual([])
  })

  it('says so when the lag does not fit the column, or the column changes its type', () => {
    const memory = new Memory()
    const cursor = memory.open({ column: 'at', lag: '1h' })
    expect(() => cursor.take([{ at: 7 }])).toThrow(/cursor lag "1h" does not fit column at/)
    memory.read([{ at: 7 }], { column: 'at' })
    expect(() => memory.open({ column: 'at' }).take([{ at: 'x' }])).toThrow(/was a number before and is text now/)
    expect(() => memory.open({ column: 'at' }).take([{ at: {} }])).toThrow(/cursor column at holds a Object/)
  })

  it('stages every row exactly once, however the source grows and wherever a read breaks off', () => {
    const op = fc.oneof(
      fc.record({ add: fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 5 }) }),
      fc.record({ readUpTo: fc.nat(10) }),
    )
    fc.assert(
      fc.property(fc.array(op), fc.nat(3), (ops, lag) => {
        const memory = new Memory()
        const source: AnyRow[] = []
        const staged: AnyRow[] = []
        let brokenOff: AnyRow[] = []
        let clock = 0
        const options = { column: 'at', lag }
        const read = (limit: number): void => {
          const cursor = memory.open(options, brokenOff)
          const { since } = cursor
          // out of order, as a function may give them
          const given = source.filter(({ at }) => since === undefined || at >= since).reverse()
          const fresh = cursor.take(given.slice(0, limit))
          staged.push(...fresh)
          if (limit >= given.length) {
            memory.keep(cursor)
            brokenOff = []
          } else brokenOff.push(...fresh)
        }
        for (const one of ops) {
          if ('readUpTo' in one) read(one.readUpTo)
          else {
            // never later than the lag allows
            for (const back of one.add) source.push({ at: Math.max(0, clock - Math.min(back, lag)) })
            clock += 1
            if (one.add.length > 0) source.push({ at: clock })
          }
        }
        read(Number.POSITIVE_INFINITY)
        const sorted = (rows: AnyRow[]) => rows.map(({ at }) => at as number).sort((a, b) => a - b)
        expect(sorted(staged)).toEqual(sorted(source))
      }),
    )
  })
})

it('the cursor of an ordered source stands behind the rows that are staged, wherever the process is killed', async () => {
  const rows = Array.from({ length: 40 }, (_, id) => ({ id, text: 'x'.repeat(30_000) })) // a commit for a few of them
  const from = createSource<(typeof rows)[number]>({
    name: 'ordered',
    ordered: true,
    async *read({ since }) {
      for (const row of rows) if (since === undefined || row.id >= Number(since)) yield [row]
    },
  })
  let deaths = 0
  for (let nth = 1, died = true; died; nth += 2) {
    const home = await stateFolder()
    const place: number[] = []
    const begin = (folder: string, isDead: () => boolean) => {
      const to = destination({ batchSize: 5, settle: '1ms' })({
        insert(batch) {
          if (isDead()) throw new FatalError('the process is dead')
          place.push(...batch.map(({ id }) => id as number))
        },
        verify: (batch) => batch.filter(({ id }) => place.includes(id as number)),
      })
      return sync({ name: 'a', from, to, cursor: 'id', state: join(home, folder), log: quiet }).run()
    }
    const death = dieAt(nth, join(home, '0'), join(home, '1'), 'committed')
    const first = begin('0', () => death.at !== undefined).catch((error) => {
      if (death.at === undefined) throw error
    })
    await Promise.race([first, death.came])
    immortal()
    died = death.at !== undefined
    if (died) {
      deaths++
      await begin('1', () => false)
    }
    await first
    expect(place.toSorted((a, b) => a - b)).toEqual(rows.map(({ id }) => id))
  }
  expect(deaths).toBeGreaterThan(5)
})
