// Issues and their comments travel from a tracker with GitHub's API into two tabs of a sheet: both are stand-ins on this machine.
// Then one issue changes, a comment is written and another deleted, and a second run sends just that.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sandbox } from 'spillway/sandbox'
import { spillwayRun } from '../spillway-run.js'
import { startTracker } from './tracker.js'

const folder = await mkdtemp(join(tmpdir(), 'spillway-issues-'))
const box = await sandbox()
const tracker = await startTracker('ada/engine')
const { id } = box.sheets.create({ title: 'Tracker' })

/** With the stand-ins in place of GitHub and Google. */
const run = (): Promise<void> =>
  spillwayRun(folder, 'github-issues/spillway.config.ts', {
    GITHUB_API: tracker.url,
    GITHUB_TOKEN: tracker.token,
    REPOSITORY: 'ada/engine',
    SPREADSHEET: id,
    DESTINATION__GOOGLE_SHEETS__ENDPOINT: box.url,
    DESTINATION__GOOGLE_SHEETS__TOKEN: box.sheets.token,
  })

const show = (tab: string): void => {
  console.log(`\n${tab}`)
  for (const row of box.sheets.rows(id, tab)) console.log(`  ${row.join(' | ')}`)
}

try {
  for (let number = 1; number <= 7; number++) tracker.put(number, `Issue ${number}`)
  for (const number of [1, 2, 2, 2, 2, 5]) tracker.comment(number, `About issue ${number}`)
  // the tracker is busy once, in the middle of the list
  tracker.faults.next({ kind: 'status', status: 503, when: ({ query }) => query.get('page') === '2' })
  await run()
  const before = tracker.requests.length
  tracker.put(3, 'Issue 3, with a new title')
  tracker.comment(7, 'The first comment here')
  tracker.forget(2, 0)
  await run()
  show('Issues')
  show('Comments')
  const [{ query } = { query: undefined }] = tracker.requests.slice(before).filter(({ query }) => query.has('since'))
  console.log(`\nThe second run asked for issues since ${query?.get('since')}.`)
} finally {
  await tracker.close()
  await box.close()
  await rm(folder, { recursive: true, force: true })
}
