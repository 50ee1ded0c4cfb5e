// A table travels from DuckDB through the engine and Google's own client into a sheet: that of a sandbox on this machine.
// Then a week of rows is added, and a second run sends just those.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import { sandbox } from 'spillway/sandbox'
import { root, spillwayRun } from '../spillway-run.js'

const csv = join(root, 'node_modules/vega-datasets/data/seattle-weather.csv')
const folder = await mkdtemp(join(tmpdir(), 'spillway-demo-'))
const box = await sandbox()
const { id } = box.sheets.create({ title: 'Weather' })

/** With the sandbox in place of Google. */
const run = (): Promise<void> =>
  spillwayRun(folder, 'demo/spillway.config.ts', {
    SPREADSHEET: id,
    DESTINATION__GOOGLE_SHEETS__ENDPOINT: box.url,
    DESTINATION__GOOGLE_SHEETS__TOKEN: box.sheets.token,
  })

/** Puts days of weather into the database, as some other job would. */
async function load(where: string): Promise<void> {
  const database = await DuckDBInstance.create(join(folder, 'weather.duckdb'))
  const connection = await database.connect()
  await connection.run(`create table if not exists weather as from read_csv('${csv}') limit 0`)
  await connection.run(`insert into weather from read_csv('${csv}') where ${where}`)
  connection.closeSync()
  database.closeSync()
}

const rows = (): number => Math.max(0, box.sheets.rows(id, 'Seattle').length - 1)

try {
  console.log('Public weather data of Seattle (vega-datasets), loaded into DuckDB, without its last week.')
  await load(`date < '2015-12-25'`)
  await run()
  console.log(`The sheet has ${rows()} rows.\n\nA week of new rows arrives in the database.`)
  const before = box.requests.length
  await load(`date >= '2015-12-25'`)
  await run()
  console.log(`The sheet has ${rows()} rows; the second run made ${box.requests.length - before} requests.\n`)
  if (process.stdout.isTTY) {
    console.log(`Look at the sheet at ${box.url} (Ctrl-C ends).`)
    await new Promise((resolve) => process.once('SIGINT', resolve))
  } else console.log('In a terminal, the sheet would now stay at an address to look at.')
} finally {
  await box.close()
  await rm(folder, { recursive: true, force: true })
}
