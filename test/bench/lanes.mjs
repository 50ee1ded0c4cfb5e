// The same requests from a bare loop over fetch: node lanes.mjs <rows> <batch size> <lanes> <url>

import { measured } from './measure.mjs'
import { chunks } from './rows.mjs'

const [count, batchSize, lanes] = process.argv.slice(2, 5).map(Number)
const url = process.argv[5]

await measured(async () => {
  const batches = chunks(count, batchSize)
  const lane = async () => {
    for (const batch of batches) {
      const headers = { 'content-type': 'application/json' }
      const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(batch) })
      await response.json()
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
})
