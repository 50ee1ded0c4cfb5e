import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type AnyRow,
  areSame,
  canonical,
  columnsOf,
  decodeRows,
  decodeTable,
  decodeTexts,
  differences,
  encodeColumns,
  encodeRows,
  encodeTable,
  encodeTexts,
  Instant,
  keyOf,
  losslessText,
  surelyDiffer,
} from '../src/values.js'

/** Everything that a row may hold. */
const value: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    fc.string({ unit: 'binary' }),
    fc.double(),
    fc.integer(),
    fc.bigInt(),
    fc.boolean(),
    fc.constant(null),
    fc.date(),
    fc.bigInt({ min: -8n * 10n ** 18n, max: 8n * 10n ** 18n }).map((micros) => Instant.ofMicros(micros)),
    fc.uint8Array(),
    fc.array(tie('value')),
    fc.dictionary(fc.oneof(fc.string(), fc.constantFrom('$', 'v', '__proto__', 'toString')), tie('value')),
  ),
})).value

const row = fc.dictionary(fc.oneof(fc.string(), fc.constantFrom('$', 'v', '__proto__')), value)

const roundTrip = (rows: object[]) => {
  const { text, tagged } = encodeRows(rows)
  return decodeRows(text, tagged)
}

describe('a staged row', () => {
  it('comes back as it was, whatever it holds', () => {
    fc.assert(
      fc.property(fc.array(row), (rows) => {
        const back = roundTrip(rows)
        expect(back.map((one) => Object.keys(one))).toEqual(rows.map((one) => Object.keys(one)))
        expect(back.map(canonical)).toEqual(rows.map(canonical))
      }),
    )
  })

  it.each([
    ['a bigint beyond 2^53', 2n ** 64n],
    ['minus zero', -0],
    ['NaN', Number.NaN],
    ['infinity', Number.NEGATIVE_INFINITY],
    ['an instant with microseconds', Instant.of('2026-03-29T01:30:00.123456Z')],
    ['an invalid date', new Date(Number.NaN)],
    ['bytes', new Uint8Array([0, 255])],
    ['an object that looks like a tag', { $: 'bigint', v: '1' }],
    ['null', null],
    ['an empty text', ''],
  ])('keeps %s', (_, given) => {
    const [back] = roundTrip([{ given, nested: { list: [given] } }])
    expect(back).toStrictEqual({ given, nested: { list: [given] } })
  })

  it('comes back from a table as it was, in the order of its columns', () => {
    const plain = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.integer(),
      fc.boolean(),
      fc.constant(null),
      fc.array(fc.string()),
    )
    const columns = fc.uniqueArray(fc.oneof(fc.string(), fc.constantFrom('$', 'v', '10', '9', 'toString')), {
      minLength: 1,
    })
    const table = columns
      .filter((names) => !names.includes('__proto__'))
      .chain((names) => fc.array(fc.record(Object.fromEntries(names.map((name) => [name, plain]))), { minLength: 1 }))
    fc.assert(
      fc.property(table, (rows) => {
        const { text, tagged } = encodeTable(rows)!
        const back = decodeTable(text, tagged)
        expect(back).toEqual(rows)
        const names = Object.keys(rows[0]!)
        const byColumn = names.map((name) => rows.map((row) => (row as AnyRow)[name]))
        expect(encodeColumns(names, byColumn)).toEqual({ text, tagged })
        const texts = rows.map((one) => JSON.stringify(Object.values(one)))
        expect(encodeTexts(names, texts)).toEqual({ text, tagged: text.includes('"$"') })
        expect(back.map((one) => Object.keys(one))).toEqual(rows.map((one) => Object.keys(one)))
      }),
    )
  })

  it.each([
    ['a value that JSON bends', [{ a: 1n, b: 1 }]],
    ['minus zero', [{ a: -0 }, { a: 0 }]],
    ['something nested that JSON bends', [{ a: [new Date(0), { b: Number.NaN }] }]],
    ['an object with the mark', [{ a: { $: 'bigint', v: '1' } }]],
    ['the mark for a column', [{ $: 'bigint', v: '1', a: 1n }]],
  ])('comes back from a table with %s', (_, rows: AnyRow[]) => {
    const { text, tagged } = encodeTable(rows)!
    const names = Object.keys(rows[0]!)
    const byColumn = names.map((name) => rows.map((row) => row[name]))
    expect(encodeColumns(names, byColumn)).toEqual({ text, tagged })
    expect(decodeTable(text, tagged)).toStrictEqual(rows)
  })

  it('is refused by a table, too, with its place when it holds what cannot be kept', () => {
    expect(() => encodeTable([{ a: 1 }, { a: () => 1 }])).toThrow('row 1 holds a function in column "a"')
  })

  it.each([
    ['no columns', [{}]],
    ['other columns', [{ a: 1 }, { b: 1 }]],
    [
      'another order',
      [
        { a: 1, b: 2 },
        { b: 2, a: 1 },
      ],
    ],
    ['a column more', [{ a: 1 }, { a: 1, b: 2 }]],
    ['a column less', [{ a: 1, b: 2 }, { a: 1 }]],
    ['something absent', [{ a: undefined }]],
    ['a prototype for a column', [JSON.parse('{"__proto__":1}')]],
    ['an inherited column', [{ a: 1 }, Object.create({ a: 1 })]],
    ['an array', [[1]]],
  ])('is in no table with %s', (_, rows) => {
    expect(encodeTable(rows)).toBeUndefined()
  })

  it('leaves out what is absent, and keeps what is null', () => {
    expect(roundTrip([{ absent: undefined, empty: null }])).toStrictEqual([{ empty: null }])
  })

  it('takes objects with toJSON as what they say they are, and typed arrays as lists', () => {
    const decimal = { toJSON: () => '12.50' }
    expect(roundTrip([{ decimal, vector: new Float32Array([0.5, 2]) }])).toStrictEqual([
      { decimal: '12.50', vector: [0.5, 2] },
    ])
  })

  it('is refused with its place when it is no object, or holds what cannot be kept', () => {
    expect(() => encodeRows([{}, 5 as never])).toThrow('row 1 is a number, not an object with columns')
    expect(() => encodeRows([[] as never])).toThrow('row 0 is an array')
    expect(() => encodeRows([{ f: () => 1 }])).toThrow('row 0 holds a function in column "f"')
    expect(() => encodeRows([{ a: [Symbol('x')] }])).toThrow('row 0 holds a symbol in column "a"')
    expect(() => encodeRows([{ m: new Map() }])).toThrow('row 0 holds a Map in column "m"')
  })
})

describe('an instant', () => {
  it('prints its microseconds, and is a plain Date where there are none', () => {
    expect(Instant.of('2026-01-01T00:00:00.123456Z').toISOString()).toBe('2026-01-01T00:00:00.123456Z')
    expect(Instant.of('2026-01-01T00:00:00.000001+02:00').toJSON()).toBe('2025-12-31T22:00:00.000001Z')
    expect(Instant.of('2026-01-01T00:00:00.123Z')).not.toBeInstanceOf(Instant)
  })

  it('keeps every microsecond, before 1970 too', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -8n * 10n ** 18n, max: 8n * 10n ** 18n }), (micros) => {
        const instant = Instant.ofMicros(micros)
        expect(Instant.micros(instant)).toBe(micros)
        if (micros > -62_135_596_800_000_000n && micros < 253_402_300_799_000_000n) {
          expect(Instant.micros(Instant.of(instant.toISOString()))).toBe(micros)
        }
      }),
    )
  })

  it('is read in the years that most are in as in all others, with any number of digits', () => {
    const year = 366n * 24n * 3600n * 1_000_000n
    fc.assert(
      fc.property(fc.bigInt({ min: -5n * year, max: 240n * year }), fc.integer({ min: 0, max: 6 }), (all, digits) => {
        const unit = 10n ** BigInt(6 - digits)
        const micros = (all / unit) * unit
        const iso = new Date(Number(all / 1_000_000n) * 1000).toISOString().slice(0, 19)
        const fraction =
          all < 0n || digits === 0
            ? ''
            : `.${String(micros % 1_000_000n)
                .padStart(6, '0')
                .slice(0, digits)}`
        const expected = fraction === '' ? (all / 1_000_000n) * 1_000_000n : micros
        expect(Instant.micros(Instant.of(`${iso}${fraction}Z`))).toBe(expected)
        expect(Instant.micros(Instant.ofSql(`${iso.replace('T', ' ')}${fraction}`))).toBe(expected)
      }),
    )
  })

  it.each([
    '2026-13-01T00:00:00Z',
    '2026-00-10T00:00:00Z',
    '2026-02-29T00:00:00Z',
    '2024-02-29T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-01-01T24:00:00Z',
    '2026-01-01T25:00:00Z',
    '2026-01-01T00:60:00Z',
    '2026-01-01T00:00:60Z',
    '2026-01-01T00:00:00.Z',
    '2026-01-01T00:00:00.12x456Z',
    '2026-01-01T00:00Z',
    '2026-01-01 00:00:00Z',
    '2026/01/01T00:00:00Z',
    '0000-00-00T00:00:00Z',
  ])('is of %s what Date makes of it', (text) => {
    expect(Instant.of(text).getTime()).toBe(new Date(text).getTime())
  })
})

describe('canonical text', () => {
  it('differs wherever values differ', () => {
    const different = [
      null,
      '',
      '0',
      0,
      false,
      'false',
      'null',
      undefined,
      [],
      {},
      [''],
      [null],
      ['a', 'b'],
      ['ab'],
      0.5,
      '0.5',
    ]
    const texts = different.map(canonical)
    expect(new Set(texts).size).toBe(texts.length)
  })

  it('does not depend on the order of keys, nor on number or bigint', () => {
    expect(canonical({ a: 1, b: { c: 2, d: 3 } })).toBe(canonical({ b: { d: 3n, c: 2 }, a: 1n }))
  })

  it('tells keys of several columns apart', () => {
    expect(keyOf({ a: 'x', b: 'y' }, ['a', 'b'])).not.toBe(keyOf({ a: 'x","y', b: '' }, ['a', 'b']))
    expect(keyOf({ a: 1, b: null }, ['a', 'b'])).toBeUndefined()
    expect(keyOf({ a: 1 }, ['b'])).toBeUndefined()
  })
})

describe('two records', () => {
  const texts = (one: AnyRow, other: AnyRow) => [losslessText(one), losslessText(other)] as const
  const read = (text: string) => decodeTexts([text])[0]!
  /** A row, and the same with one field changed, without one, or with its fields in another order. */
  const pair = fc
    .tuple(row, fc.nat(), value, fc.constantFrom('change', 'similar', 'drop', 'reverse'))
    .map(([one, place, other, how]): [AnyRow, AnyRow] => {
      const fields = Object.entries(one)
      const [name, was] = fields[place % Math.max(1, fields.length)] ?? ['a', undefined]
      if (how === 'drop') return [one, Object.fromEntries(fields.filter(([field]) => field !== name))]
      if (how === 'reverse') return [one, Object.fromEntries(fields.reverse())]
      const now =
        how === 'change' ? other : typeof was === 'string' ? `${was}0` : typeof was === 'number' ? was + 1 : was
      return [one, Object.fromEntries(fields.map(([field, before]) => [field, field === name ? now : before]))]
    })

  it('say the same exactly where no field of them differs', () => {
    fc.assert(
      fc.property(pair, ([one, other]) => {
        expect(areSame(one, other)).toBe(differences(one, other).length === 0)
      }),
    )
    expect(areSame({ a: 1, b: { c: 2, d: 3 } }, { b: { d: 3, c: 2 }, a: 1n })).toBe(true)
    // what every object inherits is no field of it
    expect(differences({}, { constructor: 1 })).toEqual(['constructor'])
    expect(areSame({ toString: 1 }, {})).toBe(false)
  })

  it('are told apart by their texts only where they do differ', () => {
    fc.assert(
      fc.property(pair, ([one, other]) => {
        const [before, after] = texts(one, other)
        if (before !== after && surelyDiffer(before, after)) expect(areSame(read(before), read(after))).toBe(false)
      }),
      { numRuns: 2_000 },
    )
  })

  it.each<[AnyRow, AnyRow, boolean]>([
    [{ id: 1n, name: 'ab', n: 1 }, { id: 1n, name: 'ac', n: 1 }, true],
    [{ id: 1n, name: 'ab', n: 1 }, { id: 1n, name: 'abc', n: 1 }, true],
    [{ id: 1n, name: '', n: 1 }, { id: 1n, name: '"', n: 1 }, true],
    [{ a: 12, b: 1 }, { a: 13, b: 1 }, true],
    [{ a: { c: '{: x' } }, { a: { c: '{: y' } }, true],
    // another order, a list, and what comes behind a backslash are looked at in full
    [{ a: 1, b: 2 }, { b: 2, a: 1 }, false],
    [{ a: ['x'] }, { a: ['y'] }, false],
    [{ a: '\n', b: 1 }, { a: '\n', b: 2 }, false],
    [{ a: new Date(0) }, { a: new Date(1) }, false],
    [{ a: 1 }, { a: 1n }, false],
  ])('%o and %o: %s', (one, other, told) => {
    expect(surelyDiffer(...texts(one, other))).toBe(told)
    expect(surelyDiffer(...texts(other, one))).toBe(told)
  })
})

describe('columns', () => {
  it('come in the order of first appearance, widened where values differ', () => {
    const columns = columnsOf([
      { id: 1, score: 1, note: null },
      { id: 2n, score: 0.5, at: new Date(0), tags: ['a'] },
      { id: 3, score: 2, mixed: 'x' },
      { mixed: 4 },
    ])
    expect(columns).toEqual([
      { name: 'id', type: 'bigint', nullable: false },
      { name: 'score', type: 'double', nullable: false },
      { name: 'note', type: 'text', nullable: true },
      { name: 'at', type: 'instant', nullable: false },
      { name: 'tags', type: 'json', nullable: false },
      { name: 'mixed', type: 'text', nullable: false },
    ])
  })

  it('keep the type that the source told where the value only looks simpler', () => {
    const known = [
      { name: 'price', type: 'decimal', nullable: false },
      { name: 'day', type: 'date', nullable: false },
    ] as const
    expect(columnsOf([{ price: '1.50', day: '2026-01-01' }], known)).toEqual(known)
  })
})
