// One run of a sync over a frame or a file: node arrow.mjs <arrow|parquet|rows> <rows> <batch size> <concurrency>
// The rows are those of rows.mjs, with types where these are texts; `read` only reads the frame, with no sync.

import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import * as arrow from 'apache-arrow'
import { destination, sync } from 'spillway'
import { dataframe } from 'spillway/sources/dataframe'
import { duckdb } from 'spillway/sources/duckdb'
import { folderFor, timed } from './measure.mjs'

const [from, ...numbers] = process.argv.slice(2)
const [count, batchSize, concurrency] = numbers.map(Number)

const plans = ['free', 'team', 'business', 'enterprise']
const plan = new arrow.Dictionary(new arrow.Utf8(), new arrow.Int32(), 0)

await folderFor(async (folder) => {
  const source = from === 'parquet' ? await parquet(join(folder, 'people.parquet')) : dataframe(frame())
  await timed(() => (from === 'read' ? read(source) : run(source, folder)))
})

async function run(source, folder) {
  let seen = 0
  const to = destination({ name: 'bench', batchSize, concurrency })((batch) => {
    seen += batch.length
  })
  const { delivered } = await sync({ name: 'bench', from: source, to, state: folder }).run()
  if (delivered !== count || seen !== count) throw new Error(`${delivered} delivered, ${seen} seen of ${count} rows`)
}

async function read(source) {
  let seen = 0
  for await (const _ of source) seen++
  if (seen !== count) throw new Error(`${seen} of ${count} rows`)
}

/** A table of apache-arrow, in batches of 65,536 rows. */
function frame() {
  const batches = []
  for (let first = 1; first <= count; first += 65_536) {
    const length = Math.min(65_536, count - first + 1)
    const ids = Array.from({ length }, (_, index) => first + index)
    const text = (of) => arrow.vectorFromArray(ids.map(of), new arrow.Utf8())
    const cents = Int32Array.from(ids.flatMap((id) => [(id % 10_000) * 100 + (id % 100), 0, 0, 0]))
    const micros = BigInt64Array.from(ids, (id) => 1_795_224_780_000_000n + BigInt(id) * 1000n)
    const columns = {
      id: arrow.makeVector(Int32Array.from(ids)),
      email: text((id) => `person${id}@example.com`),
      name: text((id) => `Person Number ${id}`),
      score: arrow.makeVector(Float64Array.from(ids, (id) => (id % 1000) / 1000)),
      active: arrow.vectorFromArray(
        ids.map((id) => id % 3 === 0),
        new arrow.Bool(),
      ),
      plan: arrow.vectorFromArray(
        ids.map((id) => plans[id % plans.length]),
        plan,
      ),
      balance: arrow.makeVector(arrow.makeData({ type: new arrow.Decimal(2, 12), data: cents })),
      updated_at: arrow.makeVector(arrow.makeData({ type: new arrow.TimestampMicrosecond(), data: micros })),
    }
    batches.push(...new arrow.Table(columns).batches)
  }
  return new arrow.Table(batches)
}

async function parquet(file) {
  const instance = await DuckDBInstance.create(':memory:')
  const connection = await instance.connect()
  await connection.run(`copy (select id::int as id, 'person' || id || '@example.com' as email, 'Person Number ' || id as name,
    (id % 1000) / 1000.0::double as score, id % 3 = 0 as active, (['free', 'team', 'business', 'enterprise'])[1 + id % 4] as plan,
    ((id % 10000) + (id % 100) / 100.0)::decimal(12, 2) as balance, timestamp '2026-11-21 01:33:00' + to_milliseconds(id) as updated_at
    from range(1, ${count} + 1) as r(id)) to '${file}'`)
  connection.closeSync()
  instance.closeSync()
  return duckdb({ query: `from '${file}'` })
}
