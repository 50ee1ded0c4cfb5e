import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const program = fileURLToPath(new URL('../../dist/examples/github-issues/github-issues.js', import.meta.url))

test('the example brings issues and comments into the sheet, and in a second run what has changed', {
  timeout: 120_000,
}, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [program])
  const said = stdout.split('\n')
  const issues = said.filter((line) => /^ {2}\d \| Issue/.test(line)).map((line) => line.split(' | ')[1])
  expect(issues).toEqual(['Issue 1', 'Issue 2', 'Issue 3, with a new title', ...[4, 5, 6, 7].map((n) => `Issue ${n}`)])
  const comments = said
    .filter((line) => /^ {2}\d \| \d \|/.test(line))
    .map((line) => line.split(' | ').slice(0, 3).join())
  expect(comments).toEqual([
    ...['  1,1,About issue 1', '  3,2,About issue 2', '  4,2,About issue 2', '  5,2,About issue 2'],
    ...['  6,5,About issue 5', '  7,7,The first comment here'],
  ])
  expect(stdout).toContain('issues: 1 row: 1 delivered')
  expect(stdout).toContain('comments: 6 rows: 1 delivered, 5 unchanged')
  expect(stdout).toContain('The second run asked for issues since 2026-01-01T00:07:00Z.')
})
