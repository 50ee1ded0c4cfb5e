import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { createHttp } from '../src/http.js'
import { type CursorValue, createSource, type Reading, source, sourceOf } from '../src/source.js'

const reading = (change: Partial<Reading> = {}): Reading => ({
  since: undefined,
  signal: new AbortController().signal,
  http: createHttp({ actor: 'test', signal: new AbortController().signal, timeout: 1_000 }),
  log: console,
  cursor: undefined,
  describe() {},
  reaches() {},
  ...change,
})

const read = async (from: unknown, change?: Partial<Reading>): Promise<object[]> => {
  const rows: object[] = []
  for await (const batch of sourceOf(from, 'people').read(reading(change))) rows.push(...batch)
  return rows
}

const three = [{ id: 1 }, { id: 2 }, { id: 3 }]

describe('a source', () => {
  it.each<[string, () => unknown]>([
    ['an array', () => three],
    ['an array of arrays', () => [three.slice(0, 2), three.slice(2)]],
    ['a set', () => new Set(three)],
    [
      'a generator function',
      () =>
        function* () {
          yield* three
        },
    ],
    [
      'a generator function that yields batches and rows',
      () =>
        function* () {
          yield three.slice(0, 1)
          yield* three.slice(1)
        },
    ],
    [
      'an async generator function',
      () =>
        async function* () {
          yield* three
        },
    ],
    [
      'a generator object',
      () =>
        (function* () {
          yield* three
        })(),
    ],
    ['a function that returns an array', () => () => three],
    ['a function that promises an array', () => async () => three],
    ['a stream of objects', () => Readable.from(three)],
    ['a web stream', () => new Blob(['x']).stream().constructor && ReadableStream.from(three)],
  ])('can be %s', async (_, make) => {
    expect(await read(make())).toEqual(three)
  })

  it('gives large arrays in pieces, and each row once', async () => {
    const rows = Array.from({ length: 2_500 }, (_, id) => ({ id }))
    const sizes: number[] = []
    for await (const batch of sourceOf(() => [rows], 'people').read(reading())) sizes.push(batch.length)
    expect(sizes).toEqual([1_000, 1_000, 500])
    expect(await read(rows)).toEqual(rows)
  })

  it.each([
    [
      'a generator object',
      () =>
        (function* () {
          yield* three
        })(),
    ],
    ['a stream', () => Readable.from(three)],
  ])('that is %s cannot be read twice: that is an error, never zero rows', async (_, make) => {
    const once = make()
    expect(sourceOf(once, 'people').repeatable).toBe(false)
    expect(await read(once)).toEqual(three)
    await expect(read(once)).rejects.toThrow(
      /^people: .* was read already and cannot be read again; give the function that makes it$/,
    )
  })

  it('cannot be a function that gives the same generator object again', async () => {
    const generator = (function* () {
      yield* three
    })()
    await read(() => generator)
    await expect(read(() => generator)).rejects.toThrow('was read already')
  })

  it('gives a function what it needs to read only what is new', async () => {
    const seen: unknown[] = []
    const since: CursorValue = 7
    await read(
      (given: Reading) => {
        seen.push(given.since, typeof given.http.get, given.signal.aborted, typeof given.log.info)
        return three
      },
      { since },
    )
    expect(seen).toEqual([7, 'function', false, 'function'])
  })

  it.each([
    [
      'a text',
      'select 1',
      'people: `from` is a string; give an array, any iterable of rows, or a function that returns one',
    ],
    ['nothing', undefined, 'people: `from` is undefined'],
    ['an object', { id: 1 }, 'people: `from` is a Object'],
  ])('cannot be %s', (_, from, message) => {
    expect(() => sourceOf(from, 'people')).toThrow(message)
  })

  it('cannot be a function that returns no rows to iterate', async () => {
    await expect(read(() => 5)).rejects.toThrow('people: the source function returned a number; it must return rows')
    await expect(
      read(async function* () {
        yield 5
      }),
    ).rejects.toThrow('people: the source gave a number where a row')
  })
})

describe('transforms', () => {
  it('change rows before they are staged, in the order written', async () => {
    const changed = source(three)
      .filter((row) => row.id > 1)
      .map((row) => ({ ...row, tier: 'A' }))
      .flatMap((row) => [row, { ...row, copy: true }])
      .limit(3)
    expect(await read(changed)).toEqual([
      { id: 2, tier: 'A' },
      { id: 2, tier: 'A', copy: true },
      { id: 3, tier: 'A' },
    ])
  })

  it('enrich in batches, a bounded number at a time, in order', async () => {
    let most = 0
    let now = 0
    const sizes: number[] = []
    const rows = Array.from({ length: 25 }, (_, id) => ({ id }))
    const enriched = source(rows).enrich(
      async (batch) => {
        sizes.push(batch.length)
        most = Math.max(most, ++now)
        await new Promise(setImmediate)
        now--
        return batch.map((row) => ({ ...row, country: 'DE' }))
      },
      { batchSize: 10, concurrency: 2 },
    )
    expect(await read(enriched)).toEqual(rows.map((row) => ({ ...row, country: 'DE' })))
    expect(sizes).toEqual([10, 10, 5])
    expect(most).toBe(2)
  })

  it('stop the source beneath when nothing more is wanted, and pass its errors on', async () => {
    let ended = false
    const endless = createSource<{ id: number }>({
      name: 'endless',
      async *read() {
        try {
          for (let id = 0; ; id++) yield [{ id }]
        } finally {
          ended = true
        }
      },
    })
    expect(await read(endless.limit(2))).toEqual([{ id: 0 }, { id: 1 }])
    expect(ended).toBe(true)
    const failing = source(three).enrich(() => Promise.reject(new Error('look-up failed')))
    await expect(read(failing)).rejects.toThrow('look-up failed')
  })

  it('can be iterated by a person, row by row', async () => {
    const rows: unknown[] = []
    for await (const row of source(three).map(({ id }) => ({ double: id * 2 }))) rows.push(row)
    expect(rows).toEqual([{ double: 2 }, { double: 4 }, { double: 6 }])
  })
})
