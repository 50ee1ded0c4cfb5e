// Rows of 8 kB, as documents are: the first load, the plan and the run when half of them have changed, and one more run; the
// memory that each needs: node wide.mjs <rows>

import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import { destination, sync } from 'spillway'
import { duckdb } from 'spillway/sources/duckdb'
import { folderFor } from './measure.mjs'

const rows = Number(process.argv[2])
const quiet = { debug() {}, info() {}, warn() {}, error() {} }
const to = destination({ name: 'nothing', batchSize: 100, concurrency: 8 })({ upsert() {}, delete() {} })

await folderFor(async (folder) => {
  const [before, after] = [1, 2].map((version) => join(folder, `${version}.parquet`))
  const instance = await DuckDBInstance.create(':memory:')
  const connection = await instance.connect()
  for (const [file, version] of [
    [before, 1],
    [after, 2],
  ]) {
    await connection.run(`copy (select id, case when id % 2 = 0 then ${version} else 0 end as version,
      array_to_string(list_transform(range(256), x -> md5((x + id)::varchar)), '') as text from range(${rows}) t(id)) to '${file}' (row_group_size 2048)`)
  }
  connection.closeSync()
  instance.closeSync()
  const documents = (file) => {
    const from = duckdb({ query: `from '${file}'` })
    return sync({ name: 'documents', from, to, key: 'id', mode: 'mirror', state: join(folder, 'state'), log: quiet })
  }
  const steps = {
    'first load': [() => documents(before).run(), { delivered: rows, unchanged: 0 }],
    plan: [() => documents(after).plan(), { insert: 0, update: rows / 2, unchanged: rows / 2 }],
    'half changed': [() => documents(after).run(), { delivered: rows / 2, unchanged: rows / 2 }],
    'nothing changed': [() => documents(after).run(), { delivered: 0, unchanged: rows }],
  }
  const found = {}
  for (const [step, [go, expected]] of Object.entries(steps)) {
    const start = performance.now()
    const counts = await go()
    for (const [name, count] of Object.entries(expected)) {
      if (counts[name] !== count) throw new Error(`${step}: ${counts[name]} ${name}, and not ${count}`)
    }
    found[step] = { seconds: (performance.now() - start) / 1000, peak: process.resourceUsage().maxRSS * 1024 }
  }
  console.log(JSON.stringify(found))
})
