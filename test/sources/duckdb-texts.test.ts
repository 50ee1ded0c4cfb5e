import { DuckDBInstance } from '@duckdb/node-api'
import { expect, it } from 'vitest'
import { distinctText } from '../../src/sources/duckdb-texts.js'

it('the text of a row is that of no other row, whatever stands in its columns', async () => {
  const texts = [
    '-',
    '+',
    '1',
    '1\u001f',
    '\u001f',
    '\u001f-',
    '\u001f+',
    '+\u001f-',
    '2\u001f\u001f\u001f',
    '\u001f\u001f0\u001f\u001f',
    '',
  ]
  const text = [texts.map((text) => `'${text}'`), 'varchar'] as const
  const columns = {
    a: text,
    b: text,
    c: [['1', '-1', '11'], 'integer'],
    d: [["''::blob", "'-'::blob", "'\\x1F'::blob"], 'blob'],
    e: text,
  } as const
  const names = Object.keys(columns)
  const all = Object.entries(columns).map(
    ([name, [values, type]]) => `(select unnest([null, ${values.join()}]::${type}[]) as ${name})`,
  )
  const instance = await DuckDBInstance.create(':memory:')
  const connection = await instance.connect()
  const described = await connection.run(`from ${all.join(', ')} limit 0`)
  const types = names.map((_, index) => described.columnLogicalType(index))
  const counted = await connection.runAndReadAll(
    `select count(*), count(distinct ${distinctText(types, names)}) from ${all.join(', ')}`,
  )
  connection.closeSync()
  instance.closeSync()
  const rows = 12n * 12n * 4n * 4n * 12n
  expect(counted.getRows()).toEqual([[rows, rows]])
})
