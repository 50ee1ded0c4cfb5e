import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AnyRow, type Destination, Instant, type Mode, sync } from 'spillway'
import { file } from 'spillway/destinations/file'
import { duckdb } from 'spillway/sources/duckdb'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { definitionOf } from '../../src/destination.js'
import { readAll } from '../sources/reading.js'
import { appendThroughKills } from '../support/killed.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'file-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const at = (name: string) => join(folder, name)
const text = (name: string) => readFileSync(at(name), 'utf8')

async function send(to: Destination<AnyRow, 'insert' | 'replace'>, rows: AnyRow[], mode: Mode, state?: string) {
  // biome-ignore lint/suspicious/noExplicitAny: the mode is a variable here
  const it = sync({ name: 'it', from: rows, to, mode, state: state ?? (await stateFolder()), log: quiet } as any)
  const run = await it.run({ allowRejections: true })
  const reasons: string[] = []
  for await (const { reason } of it.deadLetters()) reasons.push(reason)
  return { ...run, reasons }
}

const kinds = {
  big: 2n ** 63n,
  exact: '12345678901234567890.10',
  day: '2026-03-29',
  at: Instant.of('2026-03-29T01:30:00.123456Z'),
  bytes: new Uint8Array([0, 255]),
  doc: { a: [1, null, 'x'] },
  flag: false,
  zero: 0,
  none: null,
  empty: '',
  hard: 'a "b",\r\n✓ 😀',
}

async function* oneByOne(rows: AnyRow[]) {
  for (const row of rows) yield [row]
}

test('JSON lines hold every value without loss, and are appended to', async () => {
  expect(await send(file({ path: at('a.jsonl') }), [kinds, { id: 1 }], 'append')).toMatchObject({ delivered: 2 })
  expect(await send(file({ path: at('a.jsonl') }), [{ id: 2, nan: Number.NaN }], 'append')).toMatchObject({
    delivered: 1,
  })
  expect(text('a.jsonl')).toBe(
    `{"big":9223372036854775808,"exact":"12345678901234567890.10","day":"2026-03-29","at":"2026-03-29T01:30:00.123456Z","bytes":"AP8=","doc":{"a":[1,null,"x"]},"flag":false,"zero":0,"none":null,"empty":"","hard":"a \\"b\\",\\r\\n✓ 😀"}
{"id":1}
{"id":2,"nan":"NaN"}
`,
  )
})

test('CSV is as RFC 4180 says, and tells null from an empty text', async () => {
  await send(file({ path: at('a.csv') }), [kinds, { ...kinds, hard: 'b' }], 'append')
  const head = 'big,exact,day,at,bytes,doc,flag,zero,none,empty,hard\r\n'
  const row =
    '9223372036854775808,12345678901234567890.10,2026-03-29,2026-03-29T01:30:00.123456Z,\\x00ff,"{""a"":[1,null,""x""]}",false,0,,"",'
  expect(text('a.csv')).toBe(`${head}${row}"a ""b"",\r\n✓ 😀"\r\n${row}b\r\n`)
})

test('rows are appended to a CSV file under its own header, whoever wrote it; rows with further fields are rejected', async () => {
  writeFileSync(at('a.csv'), '\uFEFF"na""me, first",id,\n"x","1","2"')
  const rows = [
    { id: 2, 'na"me, first': 'Ada' },
    { id: 3, more: 1 },
    { id: 4, more: undefined },
  ]
  const run = await send(file({ path: at('a.csv') }), rows, 'append')
  expect(run).toMatchObject({ delivered: 2, rejected: 1 })
  expect(run.reasons[0]).toMatch(/"more".*no such column/)
  expect(text('a.csv')).toBe('\uFEFF"na""me, first",id,\n"x","1","2"\nAda,2,\r\n,4,\r\n')
})

test('a header may have empty names and line breaks', async () => {
  writeFileSync(at('a.csv'), ',"two\r\nlines",,x\n')
  await send(file({ path: at('a.csv') }), [{ x: 1, 'two\r\nlines': 2 }], 'append')
  expect(text('a.csv')).toBe(',"two\r\nlines",,x\n,2,,1\r\n')
})

test('replace writes the rows of the source and nothing else, in all formats, columns that come later too', async () => {
  const rows = [
    { id: 1 },
    { id: 2, name: 'Grace', at: Instant.of('2026-03-29T01:30:00.123456Z') },
    { name: '', id: null },
  ]
  for (const name of ['a.jsonl', 'a.csv', 'a.parquet']) {
    writeFileSync(at(name), 'old\n')
    writeFileSync(`${at(name)}.batches`, '[{"key":"k","from":0,"to":100}]')
    const types = { id: 'integer', name: 'text', at: 'instant' }
    expect(await handlers(at(name)).replace(oneByOne(rows), context('k', types))).toEqual([])
  }
  expect(text('a.jsonl')).toBe(
    '{"id":1}\n{"id":2,"name":"Grace","at":"2026-03-29T01:30:00.123456Z"}\n{"name":"","id":null}\n',
  )
  expect(text('a.csv')).toBe('id,name,at\r\n1,,\r\n2,Grace,2026-03-29T01:30:00.123456Z\r\n,"",\r\n')
  const { rows: read } = await readAll(duckdb({ query: `from '${at('a.parquet')}'` }))
  expect(read).toEqual([
    { id: 1n, name: null, at: null },
    { id: 2n, name: 'Grace', at: Instant.of('2026-03-29T01:30:00.123456Z') },
    { id: null, name: '', at: null },
  ])
  expect(readdirSync(folder).sort()).toEqual(['a.csv', 'a.jsonl', 'a.parquet'])
})

test('Parquet has the types that the source tells', async () => {
  const query = `select 1::integer as id, 9223372036854775807 as big, 1.10::decimal(10, 2) as exact, date '2026-03-29' as day,
    timestamp '2026-03-29 02:30:00.123456' as moment, 0.1::double as half, true as flag, 'x'::blob as bytes, [1, 2] as list`
  const it = sync({
    name: 'p',
    from: duckdb({ query }),
    to: file({ path: at('a.parquet') }),
    mode: 'replace',
    state: await stateFolder(),
    log: quiet,
  })
  expect(await it.run()).toMatchObject({ delivered: 1 })
  const { rows, columns } = await readAll(duckdb({ query: `from '${at('a.parquet')}'` }))
  expect(rows).toEqual([
    {
      id: 1n,
      big: 2n ** 63n - 1n,
      exact: '1.100000000000000000',
      day: '2026-03-29',
      moment: '2026-03-29T02:30:00.123456',
      half: 0.1,
      flag: true,
      bytes: new Uint8Array([120]),
      list: [1, 2],
    },
  ])
  expect(columns.map(({ type }) => type)).toEqual([
    'bigint',
    'bigint',
    'decimal',
    'date',
    'timestamp',
    'double',
    'boolean',
    'binary',
    'json',
  ])
  const large = await send(
    file({ path: at('b.parquet') }) as never,
    [{ id: 2n ** 63n }, { id: 2n ** 63n - 1n }],
    'replace',
  )
  expect(large).toMatchObject({ delivered: 1, rejected: 1 })
})

test('a record that the file cannot hold is rejected alone', async () => {
  for (const [name, mode] of [
    ['a.jsonl', 'append'],
    ['a.csv', 'append'],
    ['b.jsonl', 'replace'],
    ['b.csv', 'replace'],
    ['b.parquet', 'replace'],
  ] as const) {
    const rows = [{ v: 'a' }, { v: '\uD83D' }, { v: new Date(Number.NaN) }, { v: 'b' }]
    expect(await send(file({ path: at(name) }), rows, mode), name).toMatchObject({ delivered: 2, rejected: 2 })
  }
  expect(text('a.jsonl')).toBe('{"v":"a"}\n{"v":"b"}\n')
})

// ---- exactly once ------------------------------------------------------------------------------------------------------

// biome-ignore lint/suspicious/noExplicitAny: handlers as the engine calls them
const handlers = (path: string): any => definitionOf(file({ path }), 'it').handlers
const context = (idempotencyKey: string, types: Record<string, string> = { id: 'text' }) => ({
  idempotencyKey,
  table: { columns: Object.entries(types).map(([name, type]) => ({ name, type })) },
  signal: new AbortController().signal,
})

for (const name of ['a.jsonl', 'a.csv']) {
  test(`what a kill left of a batch is cut off, at whatever byte it came: ${name}`, async () => {
    const whole = async (path: string) => {
      await handlers(path).insert([{ id: '1' }], context('first'))
      await handlers(path).insert([{ id: '✓ 2' }, { id: '3' }], context('second'))
    }
    await whole(at(name))
    const expected = text(name)
    const end = Buffer.byteLength(expected)
    const start = JSON.parse(text(`${name}.batches`))[1].from
    expect(end - start).toBeGreaterThan(5)
    for (let length = start; length <= end; length++) {
      for (const f of readdirSync(folder)) rmSync(at(f))
      await whole(at(name))
      truncateSync(at(name), length)
      const there = await handlers(at(name)).verify([{ id: 'x' }], context('second'))
      expect(there.length, `${length}`).toBe(length === end ? 1 : 0)
      if (length % 2) await handlers(at(name)).insert([{ id: '1' }], context('first'))
      await handlers(at(name)).insert([{ id: '✓ 2' }, { id: '3' }], context('second'))
      expect(text(name), `${length}`).toBe(expected)
    }
  })
}

test('killed with SIGKILL in the middle of writes and started again, every row is there once', async () => {
  for (const name of ['a.jsonl', 'a.csv']) {
    const points = [
      { point: 'half a write', nth: 3 },
      { point: 'half a write', nth: 1 },
      { point: 'answered', nth: 2 },
      { point: 'half a write', nth: 2 },
    ]
    await appendThroughKills('file', { path: at(name) }, points)
    const ids = text(name)
      .match(/(?<=^|"id":)\d+/gm)!
      .map(Number)
    expect(ids.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, id) => id))
  }
}, 120_000)

test('a batch is not written twice, though others came between', async () => {
  const path = at('a.jsonl')
  for (const id of [1, 2, 3, 2, 1]) await handlers(path).insert([{ id }], context(`key ${id}`))
  expect(text('a.jsonl')).toBe('{"id":1}\n{"id":2}\n{"id":3}\n')
})

test('when somebody empties the file, what is appended later stays', async () => {
  const path = at('a.jsonl')
  await handlers(path).insert([{ id: 1 }], context('key 1'))
  await handlers(path).insert([{ id: 9 }], context('key 9'))
  writeFileSync(path, '')
  await handlers(path).insert([{ id: 1 }], context('key 1'))
  await handlers(path).insert([{ id: 2 }], context('key 2'))
  await handlers(path).insert([{ id: 3 }], context('key 3'))
  expect(text('a.jsonl')).toBe('{"id":1}\n{"id":2}\n{"id":3}\n')
})

test('a replacement that breaks off leaves the old file, and nothing beside it', async () => {
  async function* broken() {
    yield [{ id: 1 }]
    throw new Error('the source broke off')
  }
  for (const name of ['a.jsonl', 'a.csv', 'a.parquet']) {
    writeFileSync(at(name), 'old')
    await expect(handlers(at(name)).replace(broken(), context('k'))).rejects.toThrow(/the old file is untouched/)
    expect(text(name)).toBe('old')
  }
  expect(readdirSync(folder)).toHaveLength(3)
})

// ---- options -----------------------------------------------------------------------------------------------------------

test('what cannot work is told, and Parquet is not appended to', async () => {
  expect(() => file({ path: at('a.xls') })).toThrow(/format must be/)
  expect(() => file({ path: '' })).toThrow(/path names no file/)
  // @ts-expect-error a Parquet file cannot be appended to
  expect(() => sync({ name: 'a', from: [{ id: 1 }], to: file({ path: 'a.parquet' }), mode: 'append' })).toThrow(
    /insert/,
  )
  await expect(send(file({ path: at('none/a.jsonl') }), [{ id: 1 }], 'append')).rejects.toThrow(
    /check that its folder is there/,
  )
  expect(existsSync(at('none'))).toBe(false)
  const other = file({ path: at('rows'), format: 'jsonl' })
  expect(await send(other, [{ id: 1 }], 'append')).toMatchObject({ delivered: 1 })
})
