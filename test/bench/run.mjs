// All benchmarks, side by side: npm run bench, or only some of them, or with less: npm run bench -- http rate quick;
// npm run bench -- postgres large takes 10,000,000 rows
// What is compared is measured in turns, each time in a process of its own; the figures are medians.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, rm, stat } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createJiti } from 'jiti'

const words = process.argv.slice(2)
const quick = words.includes('quick')
const large = words.includes('large')
const chosen = words.filter((word) => word !== 'quick' && word !== 'large')
const rounds = quick ? 1 : 3
const scratch = fileURLToPath(new URL('../../.spillway/bench/', import.meta.url))
const at = (file) => fileURLToPath(new URL(file, import.meta.url))

console.log(`Node ${process.version}, ${cpus().length} cores, ${quick ? 'one round, small' : `medians of ${rounds}`}`)

const benchmarks = {
  million: () => nothing(quick ? 100_000 : 1_000_000, [8, 1]),
  more: () => nothing(quick ? 500_000 : 10_000_000, [8]),
  arrow: () => arrow(quick ? 100_000 : 1_000_000),
  http: () => http(quick ? 40_000 : 200_000),
  rate: () => rate(quick ? 3 : 10),
  changes: () => changes(quick ? [100_000] : [1_000_000, 3_000_000, 10_000_000, 30_000_000]),
  postgres: () => table(quick ? 100_000 : large ? 10_000_000 : 1_000_000),
  wide: () => wide(quick ? 20_000 : 100_000),
  requests: () => requests(),
  webhook: () => events(quick ? 5_000 : 50_000),
}
for (const word of chosen) if (!(word in benchmarks)) throw new Error(`no benchmark is called ${word}`)
for (const [name, run] of Object.entries(benchmarks)) if (chosen.length === 0 || chosen.includes(name)) await run()

/** Rows through the engine to a function that does nothing, beside what they cost without an engine. */
async function nothing(rows, concurrencies) {
  const batch = 100
  const engines = concurrencies.map((lanes) => [`spillway, concurrency ${lanes}`, ['engine.mjs', rows, batch, lanes]])
  const found = await inTurns({
    'floor: no engine, no ledger': ['floor.mjs', rows, batch],
    ...Object.fromEntries(engines),
  })
  const [floor] = Object.values(found)
  show(`${count(rows)} rows of 8 columns to a function that does nothing, batch ${batch}`, found, {
    'rows/s': ({ seconds }) => count(rows / seconds),
    seconds: ({ seconds }) => seconds.toFixed(2),
    'of the floor': ({ seconds }) => percent(floor.seconds / seconds),
    'peak RSS': ({ peak }) => `${count(peak / 2 ** 20)} MiB`,
  })
  console.log(
    'For comparison, not measured here: dlt (Python), 1,000,000 rows, 2 cores: 26,700 rows/s, 97 MB; tuned 82,000, 228 MB',
  )
}

/** Rows of a table in memory and of a file, beside the same rows made on the way. */
async function arrow(rows) {
  const engine = [rows, 100, 8]
  const found = await inTurns({
    'rows from a generator': ['engine.mjs', ...engine],
    'Arrow table, only read': ['arrow.mjs', 'read', ...engine],
    'Arrow table, delivered': ['arrow.mjs', 'arrow', ...engine],
    'Parquet file, delivered': ['arrow.mjs', 'parquet', ...engine],
  })
  show(
    `${count(rows)} rows of 8 columns from a frame to a function that does nothing, batch 100, concurrency 8`,
    found,
    {
      seconds: ({ seconds }) => seconds.toFixed(2),
      'rows/s': ({ seconds }) => count(rows / seconds),
      'peak RSS': ({ peak }) => `${count(peak / 2 ** 20)} MiB`,
    },
  )
}

/** Rows as requests to a server with a latency, beside a loop that does nothing else. */
async function http(rows) {
  const batch = 100
  const lanes = 20
  const latency = 20
  const { url, stop } = await server(latency)
  const found = await inTurns({
    [`bare loop of ${lanes} lanes over fetch`]: ['lanes.mjs', rows, batch, lanes, url],
    [`spillway, concurrency ${lanes}`]: ['engine.mjs', rows, batch, lanes, url],
  })
  stop()
  const ideal = ((rows / batch / lanes) * latency) / 1000
  const [bare] = Object.values(found)
  show(
    `${count(rows)} rows to an HTTP server with ${latency} ms latency, batch ${batch}`,
    { 'ideal: requests / concurrency x latency': { seconds: ideal }, ...found },
    {
      seconds: ({ seconds }) => seconds.toFixed(2),
      'rows/s': ({ seconds }) => count(rows / seconds),
      'of the bare loop': ({ seconds }) => percent(bare.seconds / seconds),
      'of the ideal': ({ seconds }) => percent(ideal / seconds),
    },
  )
  console.log(
    'For comparison, not measured here: 200,000 rows, 2 cores: dlt 54 s, tuned 8.9 s; drt 48 s; 20 Python threads 2.5 s',
  )
}

/** A rate, as the server sees it. */
async function rate(seconds) {
  const limit = 50
  const { url, stop } = await server(20)
  const found = {}
  for (let round = 1; round <= rounds; round++) {
    await measure('engine.mjs', limit * (seconds + 1), 1, 10, url, `${limit}/s`)
    found[`run ${round}`] = await (await fetch(url)).json()
  }
  stop()
  show(`rate: '${limit}/s', ${limit * (seconds + 1)} requests`, found, {
    'most in any one second': (arrivals) => count(mostIn(arrivals, 1000)),
    // a full window at once, then one more each second: the last begins after `seconds`
    'of the rate used': (arrivals) => percent(seconds / ((arrivals[limit * seconds] - arrivals[0]) / 1000)),
  })
}

/** A table in a file, a little of which has changed, beside the bare query that would find that out. */
async function changes(sizes) {
  const found = {}
  try {
    for (const rows of sizes) found[count(rows)] = await change(rows)
  } finally {
    showChanges(found) // it takes long: what was found before something failed is worth seeing
  }
}

async function change(rows) {
  const folder = join(scratch, 'changes')
  const step = (phase) => measure('tables.mjs', phase, rows, folder)
  try {
    await step('prepare')
    const first = await step('first')
    const before = await sizeOf(folder, /^snapshot-/)
    const bare = medians(await repeated(() => step('bare')))
    const plan = medians(await repeated(() => step('plan')))
    const second = await step('second')
    const same = await step('same')
    return { rows, first, before, bare, plan, second, same }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function showChanges(found) {
  const seconds = (name) => (result) => result[name].seconds.toFixed(1)
  const memory = (name) => (result) => count(result[name].peak / 2 ** 20)
  show(
    'Rows of 8 columns in Parquet; 1 % updated, 0.5 % new, 0.5 % gone (seconds, peak RSS in MiB, bytes of the snapshot a row)',
    found,
    {
      'first load': seconds('first'),
      RSS: memory('first'),
      'bytes/row': ({ before, rows }) => (before / rows).toFixed(1),
      'bare query': seconds('bare'),
      plan: seconds('plan'),
      'of the bare': ({ plan, bare }) => percent(plan.seconds / bare.seconds),
      'RSS ': memory('plan'),
      'second sync': seconds('second'),
      'RSS  ': memory('second'),
      'nothing changed': seconds('same'),
    },
  )
  console.log('The snapshot keeps old values, for plans that show them field by field.')
}

/** A table of PostgreSQL: read by cursor and by COPY beside the bare driver, and a sync of it when nothing has changed. */
async function table(rows) {
  const { url, stop } = await postgres(rows)
  const folder = join(scratch, 'postgres')
  const step = (phase) => ['tables.mjs', phase, rows, folder, url]
  try {
    await measure(...step('prepare'))
    await measure(...step('load'))
    const found = await inTurns({
      'cursor of pg-cursor, objects of texts': step('raw'),
      'cursor of pg-cursor, its types': step('objects'),
      'cursor of ours, exact types': step('cursor'),
      'copy to a file, raw': step('copy'),
      'copy into the stage': step('stage'),
      'second run, nothing changed': step('again'),
    })
    const { 'cursor of pg-cursor, objects of texts': bare, 'copy to a file, raw': copied } = found
    show(`${count(rows)} rows of 8 columns in PostgreSQL`, found, {
      seconds: ({ seconds }) => seconds.toFixed(2),
      'rows/s': ({ seconds }) => count(rows / seconds),
      'of the bare cursor': ({ seconds }) => percent(bare.seconds / seconds),
      'of the raw copy': ({ seconds }) => percent(copied.seconds / seconds),
      'peak RSS': ({ peak }) => `${count(peak / 2 ** 20)} MiB`,
    })
  } finally {
    await rm(folder, { recursive: true, force: true })
    await stop()
  }
}

/** Rows that are much larger than others. */
async function wide(rows) {
  show(`${count(rows)} rows of 8 kB in Parquet, to a function that does nothing`, await measure('wide.mjs', rows), {
    seconds: ({ seconds }) => seconds.toFixed(1),
    'peak RSS so far': ({ peak }) => `${count(peak / 2 ** 20)} MiB`,
  })
}

/** What a thousand new rows cost in requests, which is what vendors limit. */
async function requests() {
  show('1,000 new rows, in requests', await measure('requests.mjs'), {
    requests: ({ requests }) => count(requests),
    'at most': ({ goal }) => count(goal),
    'least that the API allows': ({ least }) => count(least),
  })
}

/** Events that are sent to a webhook, each acknowledged when it is durable. */
async function events(many) {
  const found = {}
  for (let round = 1; round <= rounds; round++) found[`run ${round}`] = await measure('webhook.mjs', many, 100)
  show(`${count(many)} events of 1 kB to a webhook, over 100 connections`, found, {
    'events/s': ({ perSecond }) => count(perSecond),
    'median ms': ({ p50 }) => p50.toFixed(1),
    'p99 ms': ({ p99 }) => p99.toFixed(1),
    'receiver, us of CPU each': ({ cost }) => count(cost),
  })
}

/** The most events within any window of that length. */
function mostIn(times, window) {
  let most = 0
  for (let first = 0, next = 0; next < times.length; next++) {
    while (times[next] - times[first] >= window) first++
    most = Math.max(most, next - first + 1)
  }
  return most
}

// ---- measuring -----------------------------------------------------------------------------------------------------

async function inTurns(contestants) {
  const results = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, call] of Object.entries(contestants)) results[name].push(await measure(...call))
  }
  return Object.fromEntries(Object.entries(results).map(([name, all]) => [name, medians(all)]))
}

async function measure(file, ...values) {
  const execute = promisify(execFile)
  // or its commits would wait for what others have left to be written
  if (process.platform !== 'win32') await execute('sync')
  const { stdout } = await execute(process.execPath, [at(file), ...values.map(String)])
  return JSON.parse(stdout)
}

async function repeated(step) {
  const all = []
  for (let round = 0; round < rounds; round++) all.push(await step())
  return all
}

function medians(all) {
  return { seconds: median(all.map(({ seconds }) => seconds)), peak: median(all.map(({ peak }) => peak)) }
}

async function sizeOf(folder, name) {
  let bytes = 0
  for (const file of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (name.test(file.name)) bytes += (await stat(join(file.parentPath, file.name))).size
  }
  return bytes
}

/** A PostgreSQL of its own, with a table of people. */
async function postgres(rows) {
  const { startPostgres } = await createJiti(import.meta.url).import('../support/postgres.ts')
  const { url, stop } = await startPostgres()
  const { default: pg } = await import('pg')
  const client = new pg.Client(url)
  await client.connect()
  await client.query(`create table people as select id, 'person' || id || '@example.com' as email, 'Person Number ' || id as name,
    (id % 1000) / 1000.0::float8 as score, id % 3 = 0 as active, (array['free', 'team', 'business', 'enterprise'])[1 + id % 4] as plan,
    ((id % 10000) + (id % 100) / 100.0)::numeric(12, 2) as balance, timestamptz '2026-11-21 01:33:00Z' + id * interval '1 microsecond' as updated_at
    from generate_series(1, ${rows}::bigint) id`)
  await client.query('vacuum analyze people')
  await client.end()
  return { url, stop }
}

async function server(latency) {
  const child = spawn(process.execPath, [at('server.mjs'), String(latency)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [port] = await once(child.stdout, 'data')
  return { url: `http://127.0.0.1:${String(port).trim()}/`, stop: () => child.kill() }
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
}

// ---- showing -------------------------------------------------------------------------------------------------------

function show(title, found, columns) {
  const table = [['', ...Object.keys(columns)]]
  for (const [name, result] of Object.entries(found)) {
    table.push([name, ...Object.values(columns).map((column) => column(result))])
  }
  const widths = table[0].map((_, index) => Math.max(...table.map((line) => line[index].length)))
  console.log(`\n${title}`)
  for (const [name, ...cells] of table) {
    console.log(
      `  ${[name.padEnd(widths[0]), ...cells.map((cell, index) => cell.padStart(widths[index + 1]))].join('  ')}`,
    )
  }
}

function count(number) {
  return Math.round(number).toLocaleString('en-US')
}

function percent(ratio) {
  return `${(ratio * 100).toFixed(1)} %`
}
