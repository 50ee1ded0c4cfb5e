// Issues and their comments travel from a tracker with GitHub's API into two tabs of a sheet: both are stand-ins on this machine.
// Then one issue changes, a comment is written and another deleted, and a second run sends just that.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sandbox } from 'spillway/sandbox'
import { startTracker } from './tracker.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const folder = await mkdtemp(join(tmpdir(), 'spillway-issues-'))
const box = await sandbox()
const tracker = await startTracker('ada/engine')
const { id } = box.sheets.create({ title: 'Tracker' })

/** What a person would type: `npx spillway run`, with the stand-ins in place of GitHub and Google. */
async function spillwayRun(): Promise<void> {
  const cli = join(root, 'dist/src/cli/main.js')
  const config = join(root, 'examples/github-issues/spillway.config.ts')
  const env = {
    ...process.env,
    GITHUB_API: tracker.url,
    GITHUB_TOKEN: tracker.token,
    REPOSITORY: 'ada/engine',
    SPREADSHEET: id,
    DESTINATION__GOOGLE_SHEETS__ENDPOINT: box.url,
    DESTINATION__GOOGLE_SHEETS__TOKEN: box.sheets.token,
  }
  const child = spawn(process.execPath, [cli, 'run', '--config', config], { cwd: folder, env, stdio: 'inherit' })
  const code = await new Promise((resolve) => child.once('exit', resolve))
  if (code !== 0) throw new Error(`spillway run ended with exit code ${code}`)
}

const show = (tab: string): void => {
  console.log(`\n${tab}`)
  for (const row of box.sheets.rows(id, tab)) console.log(`  ${row.join(' | ')}`)
}

try {
  for (let number = 1; number <= 7; number++) tracker.put(number, `Issue ${number}`)
  for (const number of [1, 2, 2, 2, 2, 5]) tracker.comment(number, `About issue ${number}`)
  // the tracker is busy once, in the middle of the list
  tracker.faults.next({ kind: 'status', status: 503, when: ({ query }) => query.get('page') === '2' })
  await spillwayRun()
  const before = tracker.requests.length
  tracker.put(3, 'Issue 3, with a new title')
  tracker.comment(7, 'The first comment here')
  tracker.forget(2, 0)
  await spillwayRun()
  show('Issues')
  show('Comments')
  const [{ query } = { query: undefined }] = tracker.requests.slice(before).filter(({ query }) => query.has('since'))
  console.log(`\nThe second run asked for issues since ${query?.get('since')}.`)
} finally {
  await tracker.close()
  await box.close()
  await rm(folder, { recursive: true, force: true })
}
