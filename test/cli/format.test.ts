import { expect, test } from 'vitest'
import { clean, count, cut, json, plain, some, span, speed, table, width } from '../../src/cli/format.js'

test('text from outside cannot steer the terminal, and stays on its line', () => {
  expect(clean('a\u001b[2Jb\u0007c\u009b1m\u202ed')).toBe('a\\u001b[2Jb\\u0007c\\u009b1m\\u202ed')
  expect(clean('bad\r\n  mail\taddress')).toBe('bad mail address')
})

test.each([
  [0, '0 ms'],
  [999, '999 ms'],
  [1_000, '1.0 s'],
  [12_345, '12.3 s'],
  [59_949, '59.9 s'],
  [59_960, '1 min 0 s'],
  [250_000, '4 min 10 s'],
  [3_599_600, '1 h 0 min'],
  [7_500_000, '2 h 5 min'],
])('%d milliseconds read %s', (milliseconds, text) => {
  expect(span(milliseconds)).toBe(text)
})

test('speed is worth a digit where it is slow', () => {
  expect([speed(8_200, 2_000), speed(3, 8_000), speed(0, 1_000), speed(0, 0)]).toEqual([
    '4,100 rows/s',
    '0.4 rows/s',
    '0 rows/s',
    '0 rows/s',
  ])
})

test('numbers are grouped, and one row is not several', () => {
  expect(count(12300.4)).toBe('12,300')
  expect([some(0, 'row'), some(1, 'row'), some(1204, 'row')]).toEqual(['0 rows', '1 row', '1,204 rows'])
})

test('keys and cursors are shown without their types', () => {
  const shown = [undefined, null, 'a', 2n, new Date(0), [1, 'b'], { a: 1n }].map(plain)
  expect(shown).toEqual(['', '', 'a', '2', '1970-01-01T00:00:00.000Z', '1, b', '{"a":"1"}'])
})

test('JSON loses no digit and no byte', () => {
  const value = {
    big: 2n ** 63n,
    bytes: new Uint8Array([1, 2]),
    buffer: Buffer.from('hi'),
    at: new Date(0),
    none: null,
  }
  expect(json(value)).toBe(
    '{"big":"9223372036854775808","bytes":"AQI=","buffer":"aGk=","at":"1970-01-01T00:00:00.000Z","none":null}',
  )
})

test('a table is aligned, also with characters that take two columns', () => {
  expect(
    table(
      ['key', 'reason'],
      [
        ['日本', 'x'],
        ['a', 'a longer one'],
      ],
    ),
  ).toBe('key   reason\n日本  x\na     a longer one')
})

test('a line is cut to the columns that there are', () => {
  expect(cut('abcdef', 6)).toBe('abcdef')
  expect(cut('abcdefg', 6)).toBe('abcde…')
  for (const columns of [1, 2, 3, 4, 5]) expect(width(cut('日本語', columns))).toBeLessThanOrEqual(columns)
})
