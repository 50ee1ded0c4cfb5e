import { duckdb } from '../../src/sources/duckdb.js'
import { mysql } from '../../src/sources/mysql.js'
import { postgres } from '../../src/sources/postgres.js'
import { sqlite } from '../../src/sources/sqlite.js'
import { batchesOf } from './reading.js'

// Reads a source in a process of its own, for what only a process has: a time zone, a limit of memory.
const [name, options] = process.argv.slice(2)
const source = { postgres, duckdb, mysql, sqlite }[name as 'postgres'](JSON.parse(options!))
let count = 0
let last: object | undefined
for await (const rows of batchesOf(source)) {
  count += rows.length
  last = rows.at(-1)
}
const offset = new Date(2026, 0).getTimezoneOffset()
const megabytes = process.resourceUsage().maxRSS / 1024
process.stdout.write(JSON.stringify({ count, last, offset, megabytes }))
