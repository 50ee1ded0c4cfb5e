// One run of a sync, durable stage and ledger on: node engine.mjs <rows> <batch size> <concurrency> [url] [rate]
// Without a url the destination is a function that does nothing.

import { destination, sync } from 'spillway'
import { measured } from './measure.mjs'
import { rows } from './rows.mjs'

const [count, batchSize, concurrency] = process.argv.slice(2, 5).map(Number)
const [url, rate] = process.argv.slice(5)

await measured(async (folder) => {
  let seen = 0
  const write = url
    ? async (batch, { http }) => {
        seen += batch.length
        await http.post(url, { json: batch })
      }
    : (batch) => {
        seen += batch.length
      }
  const to = destination({ name: 'bench', batchSize, concurrency, rate })(write)
  const { delivered } = await sync({ name: 'bench', from: () => rows(count), to, state: folder }).run()
  if (delivered !== count || seen !== count) throw new Error(`${delivered} delivered, ${seen} seen of ${count} rows`)
})
