// All benchmarks, side by side: npm run bench, or only some of them, or with less: npm run bench -- http rate quick
// What is compared is measured in turns, each time in a process of its own; the figures are medians.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const words = process.argv.slice(2)
const quick = words.includes('quick')
const chosen = words.filter((word) => word !== 'quick')
const rounds = quick ? 1 : 3
const at = (file) => fileURLToPath(new URL(file, import.meta.url))

console.log(`Node ${process.version}, ${cpus().length} cores, ${quick ? 'one round, small' : `medians of ${rounds}`}`)

const benchmarks = {
  million: () => nothing(quick ? 100_000 : 1_000_000, [8, 1]),
  more: () => nothing(quick ? 500_000 : 10_000_000, [8]),
  http: () => http(quick ? 40_000 : 200_000),
  rate: () => rate(quick ? 3 : 10),
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
  return Object.fromEntries(
    Object.entries(results).map(([name, all]) => [
      name,
      { seconds: median(all.map(({ seconds }) => seconds)), peak: median(all.map(({ peak }) => peak)) },
    ]),
  )
}

async function measure(file, ...values) {
  const { stdout } = await promisify(execFile)(process.execPath, [at(file), ...values.map(String)])
  return JSON.parse(stdout)
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
