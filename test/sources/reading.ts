import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'vitest'
import { openDuckdb, streamed } from '../../src/duckdb.js'
import { createHttp } from '../../src/http.js'
import { readRows, selected } from '../../src/incoming.js'
import { type BulkReading, Encodable, NotModified, type Reading, type Source, sourceOf } from '../../src/source.js'
import { type AnyRow, type Column, decodeTable, losslessText } from '../../src/values.js'

/** What the engine gives a source; a test says what is different. */
export function reading(given: Partial<Reading> = {}): Reading {
  const signal = given.signal ?? new AbortController().signal
  const http = createHttp({ actor: 'test', signal, timeout: 1_000 })
  return { since: undefined, cursor: undefined, signal, http, log: console, describe() {}, reaches() {}, ...given }
}

/** The arrays of rows that a source yields. */
export function batchesOf(source: Source<object>, given: Partial<Reading> = {}): AsyncIterable<readonly AnyRow[]> {
  return sourceOf(source, 'test').read(reading(given))
}

/** All rows of a source, and the columns that it told. */
export async function readAll(
  source: Source<object>,
  given: Partial<Reading> = {},
): Promise<{ rows: AnyRow[]; columns: readonly Column[] }> {
  const rows: AnyRow[] = []
  let columns: readonly Column[] = []
  for await (const batch of batchesOf(source, { describe: (told) => (columns = told), ...given })) rows.push(...batch)
  if (given.cursor !== undefined) return { rows, columns }
  for (const other of [await readEncoded(source), await readAtOnce(source, columns)]) {
    if (!other) continue
    const [said, meant] = [other.rows, rows].map((some) => some.map(losslessText))
    const differs = meant!.findIndex((text, index) => text !== said![index])
    expect([said![differs], said!.length, other.columns]).toEqual([meant![differs], meant!.length, columns])
  }
  return { rows, columns }
}

/**
 * The same as a comparison has it, of a source that can be read at once by one of its columns; the comparison's machine is in
 * another time zone. `written`: DuckDB writes what the rows hold.
 */
export async function readAtOnce(
  source: Source<object>,
  columns: readonly Column[],
): Promise<{ rows: AnyRow[]; columns: readonly Column[]; written: boolean } | undefined> {
  const { bulk } = sourceOf(source, 'test')
  if (!bulk) return undefined
  const folder = await mkdtemp(join(tmpdir(), 'at-once-'))
  const database = await openDuckdb(join(folder, 'spill'))
  try {
    let told: readonly Column[] = []
    const how = { folder, version: '', known: undefined, etag: undefined }
    const gather: BulkReading['gather'] = (bring) => bring(folder, new AbortController().signal)
    const common = { ...reading({ describe: (columns) => (told = columns) }), ...how, gather }
    for (const { name } of columns) {
      const found = await bulk({ ...common, key: [name] })
      if (!found || found instanceof NotModified) continue
      await database.connection.run("set global TimeZone = 'America/New_York'")
      const select = `select ${selected(found.content).join()} from (select *, ${found.place} as place from (${found.relation})) order by place`
      const rows: AnyRow[] = []
      for await (const { columns, count } of streamed(database, select)) {
        const { row, text } = readRows(found.content, columns, count)
        for (let index = 0; index < count; index++) {
          rows.push(row(index))
          if (text(index) !== losslessText(row(index))) expect(text(index)).toBe(losslessText(row(index)))
        }
      }
      return { rows, columns: told, written: 'text' in found.content }
    }
    return undefined
  } finally {
    await database.close()
    await rm(folder, { recursive: true })
  }
}

/** The same as the stage would give it back, of a source that can write what is kept there. */
async function readEncoded(
  source: Source<object>,
): Promise<{ rows: AnyRow[]; columns: readonly Column[] } | undefined> {
  const { encodable } = sourceOf(source, 'test')
  if (!encodable) return undefined
  const rows: AnyRow[] = []
  let columns: readonly Column[] = []
  for await (const batch of encodable(reading({ describe: (told) => (columns = told) }))) {
    rows.push(...(batch instanceof Encodable ? decoded(batch) : batch))
  }
  return { rows, columns }
}

/** Rows as the stage reads them, written in two pieces. */
function decoded({ length, encode }: Encodable): AnyRow[] {
  const middle = Math.ceil(length / 2)
  return [encode(0, middle), encode(middle, length)].flatMap(({ text, tagged }) => decodeTable(text, tagged))
}

/** The only row of a source. */
export async function readOne(source: Source<object>): Promise<AnyRow> {
  const { rows } = await readAll(source)
  if (rows.length !== 1) throw new Error(`${rows.length} rows`)
  return rows[0]!
}

/** Reads a source in a process of its own: how many rows, the last of them, the zone's offset in minutes, the most memory. */
export async function readInChild(
  source: 'postgres' | 'duckdb' | 'mysql' | 'sqlite',
  options: object,
  env: Record<string, string> = {},
  checkout = fileURLToPath(new URL('../..', import.meta.url)),
): Promise<{ count: number; last: AnyRow; offset: number; megabytes: number }> {
  const args = ['--import', 'jiti/register', 'test/sources/child.ts', source, JSON.stringify(options)]
  const settings = { cwd: checkout, env: { ...process.env, ...env } }
  const { stdout } = await promisify(execFile)(process.execPath, args, settings)
  return JSON.parse(stdout)
}
