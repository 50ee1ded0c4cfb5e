import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  allowFor,
  columnsIn,
  copyTo,
  type Duckdb,
  LineFile,
  openDuckdb,
  roomless,
  rowsOf,
  widthOf,
} from '../src/duckdb.js'
import { ConfigError } from '../src/errors.js'

let folder: string
let database: Duckdb

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spillway-duckdb-'))
})
afterAll(() => rm(folder, { recursive: true }))
beforeEach(async () => {
  database = await openDuckdb(join(folder, 'spill'))
  onTestFinished(() => database.close())
})

/** How many rows of a width are written together, and how wide they are found to be. */
async function written(count: number, width: number, rowBytes: number, ordered: boolean) {
  const file = join(folder, `${width}-${ordered}.parquet`)
  const select = `select md5(i::varchar) || repeat('x', ${width - 32}) as text, i from range(${count}) t(i) order by i`
  await copyTo(database.connection, file, select, { rowBytes, ordered })
  const groups = await rowsOf<{ n: bigint }>(
    database.connection,
    `select distinct row_group_num_rows as n from parquet_metadata('${file}') order by n desc`,
  )
  return { together: Number(groups[0]!.n), width: widthOf(await columnsIn(database.connection, [file])), file }
}

describe('a file', () => {
  it('tells which of its columns have the same value in every row, of all its groups of rows', async () => {
    const file = join(folder, 'same.parquet')
    const columns = {
      none: 'null::varchar',
      some: "case i when 5000 then 'x' end",
      yes: 'true',
      no: 'false',
      mixed: 'i < 5000',
      zero: '0',
      // in each group one value, and in some of them the least and the greatest as texts
      groups: 'case when i < 4096 then 9 else 10 end',
      tens: 'case i when 0 then 10 else 9 end',
      holes: 'case when i % 2 = 0 then 7 end',
      long: '7::bigint',
      text: "'x'",
    }
    const select = Object.entries(columns).map(([name, value]) => `${value} as ${name}`)
    const shape = { rowBytes: 8_192, ordered: true }
    await copyTo(database.connection, file, `select ${select.join()} from range(8192) t(i)`, shape)
    const same = (await columnsIn(database.connection, [file])).filter((column) => column.same !== undefined)
    expect(Object.fromEntries(same.map(({ name, same }) => [name, same]))).toEqual({
      none: null,
      yes: 'true',
      no: 'false',
      zero: '0',
    })
    await copyTo(database.connection, file, 'select 1 as a where false', shape)
    expect(await columnsIn(database.connection, [file])).toEqual([])
  })
})

describe('a file of wide rows', () => {
  it('is written few rows at a time, for DuckDB holds these in memory', async () => {
    for (const ordered of [true, false]) {
      const wide = await written(6_000, 8_192, 8_192, ordered)
      expect(wide.together).toBe(2_048)
      expect(wide.width / 8_200).toBeCloseTo(1, 1)
      const narrow = await written(130_000, 64, 64, ordered)
      expect(narrow.together).toBeGreaterThan(100_000)
      expect(narrow.width).toBeLessThan(100)
    }
  })

  it('keeps its order where that counts, and leaves the setting as it was', async () => {
    const { file } = await written(9_000, 8_192, 8_192, true)
    const rows = await rowsOf<{ i: bigint }>(database.connection, `select i from read_parquet('${file}')`)
    expect(rows.map(({ i }) => Number(i))).toEqual(Array.from({ length: 9_000 }, (_, i) => i))
    await written(3_000, 64, 64, false)
    const setting = `select current_setting('preserve_insertion_order') as is_ordered`
    expect(await rowsOf(database.connection, setting)).toEqual([{ is_ordered: true }])
  })

  it('may take more memory than usual, and one of narrow rows no more', async () => {
    const limit = async () => (await rowsOf(database.connection, `select current_setting('memory_limit') as at`))[0]
    const usual = await limit()
    await allowFor(database.connection, 300)
    expect(await limit()).toEqual(usual)
    await allowFor(database.connection, 1_000)
    expect(await limit()).toEqual({ at: '953.6 MiB' })
  })
})

describe('too little memory', () => {
  it('is told with what to do about it, and other errors stay as they are', async () => {
    await database.connection.run(`set memory_limit = '20MB'; set temp_directory = ''`)
    const sorting = database.connection.run(
      `create table t as select md5(i::varchar) || repeat('x', 5000) as text from range(20000) t(i) order by text`,
    )
    const error = roomless(await sorting.catch((error) => error), 'people')
    expect(error).toBeInstanceOf(ConfigError)
    expect((error as Error).message).toMatch(/^people: its rows are too large .* Nothing was sent\. Select fewer/)
    const other = new Error('another')
    expect(roomless(other, 'people')).toBe(other)
  })
})

describe('a file of lines', () => {
  it('holds lines of any length, and knows how long they are', async () => {
    const file = new LineFile(join(folder, 'lines'))
    const texts = ['a', 'é'.repeat(400_000), '', '😀', 'x'.repeat(1_000_000), 'end']
    for (const [n, text] of texts.entries()) await file.add(`${n}\t${text}`)
    expect(file.lineBytes).toBeCloseTo((texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0) + 18) / 6, 5)
    const rows = await rowsOf(
      database.connection,
      `from ${await file.end({ n: 'bigint', text: 'varchar' })} order by n`,
    )
    expect(rows).toEqual(texts.map((text, n) => ({ n: BigInt(n), text })))
  })
})
