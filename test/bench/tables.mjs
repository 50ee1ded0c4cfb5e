// Files and tables of eight columns, and what one sync makes of them: node tables.mjs <phase> <rows> <folder> [url]
//   prepare   two Parquet files: as the table was, and with 1 % of its rows updated, 0.5 % new and 0.5 % gone
//   first     the first load, into a function that does nothing
//   adopt     instead of it, where it would take too long
//   bare      DuckDB alone: the second file joined with a file of keys and fingerprints
//   plan      what is to be done about the second file
//   second    the whole sync of the second file
//   same      the same once more, when nothing has changed
// and for a table of PostgreSQL: objects and raw (a cursor of the driver, with its types and with texts), cursor (ours), copy (raw, into
// a file), stage (ours, into a file, as it is compared), load and again (a sync)

import { createWriteStream } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { DuckDBInstance } from '@duckdb/node-api'
import { destination, sync } from 'spillway'
import { duckdb } from 'spillway/sources/duckdb'
import { postgres } from 'spillway/sources/postgres'
import { timed } from './measure.mjs'

const [phase, count, folder, url] = process.argv.slice(2)
const rows = Number(count)
const before = join(folder, 'before.parquet')
const after = join(folder, 'after.parquet')
const known = join(folder, 'known.parquet')

/** Rows as a table would hold them. */
const columns = `id, 'person' || id || '@example.com' as email, 'Person Number ' || id as name, (id % 1000) / 1000.0::double as score,
  id % 3 = 0 as active, (['free', 'team', 'business', 'enterprise'])[1 + id % 4] as plan,
  ((id % 10000) + (id % 100) / 100.0)::decimal(12, 2) as balance, timestamp '2026-11-21 01:33:00' + to_microseconds(id) as updated_at`
const changed = `select * replace (case when id % 100 = 7 then score + 1 else score end as score) from '${before}' where id % 200 <> 3
  union all select id + ${rows} as id, * exclude (id) from '${before}' where id % 200 = 5`
/** A text that no other row has, as a fingerprint is made of it. */
const whole = `concat_ws(chr(31), id, strlen(email), email, strlen(name), name, score, active, strlen(plan), plan, balance, updated_at)`
const fingerprint = `select 'i' || id as key, (m >> 64)::ubigint as hi, (m & 18446744073709551615::uhugeint)::ubigint as lo
  from (select id, md5_number(${whole}) as m from`

async function query(...statements) {
  const settings = { memory_limit: '512MB', temp_directory: join(folder, 'spill') }
  const instance = await DuckDBInstance.create(':memory:', settings)
  const connection = await instance.connect()
  let result
  for (const sql of statements) result = await connection.runAndReadAll(sql)
  return result.getRows()
}

let calls = 0
const nothing = destination({ name: 'nothing', batchSize: 100, concurrency: 8 })({
  upsert: () => void calls++,
  delete: () => void calls++,
})
const people = (from) =>
  sync({ name: 'people', from, to: nothing, key: 'id', mode: 'mirror', state: join(folder, 'state'), log: quiet })
const quiet = { debug() {}, info() {}, warn() {}, error() {} }
const run = async (from, expected) => {
  const { delivered, deletes, unchanged } = await people(from).run()
  const found = { delivered, deleted: deletes.delivered, unchanged }
  for (const [name, value] of Object.entries(expected)) {
    if (found[name] !== value) throw new Error(`${found[name]} ${name}, and not ${value}`)
  }
}
const file = (path) => duckdb({ query: `from '${path}'` })
const updates = rows / 100 + rows / 200
const gone = rows / 200

/** How a sync reads the table. */
const definition = () => postgres({ url, table: 'people' })[Symbol.for('spillway.source')]
const never = new AbortController().signal

const phases = {
  prepare: async () => {
    await rm(folder, { recursive: true, force: true })
    await mkdir(folder, { recursive: true })
    await query(
      `copy (select ${columns} from range(1, ${rows} + 1) t (id)) to '${before}' (format parquet)`,
      `copy (${changed}) to '${after}' (format parquet)`,
      `copy (${fingerprint} '${before}')) to '${known}' (format parquet, compression zstd)`,
    )
  },
  first: () => run(file(before), { delivered: rows }),
  adopt: async () => {
    const { delivered } = await people(file(before)).adopt()
    if (delivered !== rows) throw new Error(`${delivered} adopted`)
  },
  bare: async () => {
    const [[inserts, deletes, changes]] =
      await query(`select count(*) filter (s.key is null), count(*) filter (f.key is null),
      count(*) filter (f.hi <> s.hi or f.lo <> s.lo) from (${fingerprint} '${after}')) f full join (from '${known}') s on f.key = s.key`)
    if (Number(inserts + changes) !== updates || Number(deletes) !== gone)
      throw new Error('the query found other changes')
  },
  plan: async () => {
    const plan = await people(file(after)).plan()
    if (plan.insert + plan.update !== updates || plan.delete !== gone) throw new Error('the plan found other changes')
  },
  second: () => run(file(after), { delivered: updates, deleted: gone }),
  same: async () => {
    await run(file(after), { delivered: 0, deleted: 0, unchanged: rows })
    if (calls > 0) throw new Error(`${calls} calls, and nothing had changed`)
  },
  ...(url && {
    objects: () => bareCursor(),
    raw: () => bareCursor({ types: { getTypeParser: () => (text) => text } }),
    cursor: async () => {
      let seen = 0
      for await (const batch of definition().read({ describe() {}, signal: never })) seen += batch.length
      if (seen !== rows) throw new Error(`${seen} rows`)
    },
    copy: async () => {
      const { client } = await connected()
      const { to } = await import('pg-copy-streams')
      await pipeline(client.query(to('copy people to stdout')), createWriteStream(join(folder, 'copied')))
      await client.end()
    },
    stage: async () => {
      const gather = (bring) => bring(folder, never)
      const told = { describe() {}, log: quiet, signal: never, gather, key: ['id'], version: '' }
      if (!(await definition().bulk(told))) throw new Error('read row by row')
    },
    load: () => run(postgres({ url, table: 'people' }), { delivered: rows }),
    again: async () => {
      await run(postgres({ url, table: 'people' }), { delivered: 0, unchanged: rows })
      if (calls > 0) throw new Error(`${calls} calls, and nothing had changed`)
    },
  }),
}

async function bareCursor(config) {
  const { client, Cursor } = await connected()
  const cursor = client.query(new Cursor('select * from people', [], config))
  let seen = 0
  for (let batch = await cursor.read(1_000); batch.length > 0; batch = await cursor.read(1_000)) seen += batch.length
  await client.end()
  if (seen !== rows) throw new Error(`${seen} rows`)
}

async function connected() {
  const [{ default: pg }, { default: Cursor }] = await Promise.all([import('pg'), import('pg-cursor')])
  const client = new pg.Client(url)
  await client.connect()
  return { client, Cursor }
}

await timed(phases[phase])
