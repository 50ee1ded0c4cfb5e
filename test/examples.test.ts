import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

/** What an example prints, as somebody would run it: built, in a process of its own, with no network but this machine's. */
async function printed(example: string): Promise<string[]> {
  const file = fileURLToPath(new URL(`../dist/examples/${example}/${example}.js`, import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, [file])
  return stdout.trim().split('\n')
}

it('scores leads in a frame, and sends those to HubSpot whose score has changed', async () => {
  expect(await printed('scoring')).toEqual([
    'Three leads, scored in a frame, go to HubSpot.',
    '3 delivered, 0 unchanged',
    'Grace asks for a demo; all are scored again.',
    '1 delivered, 2 unchanged',
    'ada@example.com: 85, tier A',
    'grace@example.com: 65, tier A',
    'joan@example.com: 50, tier B',
  ])
})

it('finds hours that are unlike those before, and tells each once in a digest', async () => {
  expect(await printed('anomalies')).toEqual([
    'Four days of orders, hour by hour.',
    '2 told, 0 told before',
    'An hour later.',
    '1 told, 2 told before',
    '#orders: *Unusual hours*',
    '2026-01-07T12:00: *12* orders, usually 101 (-23.4 σ)',
    '2026-01-08T18:00: *260* orders, usually 101 (43.8 σ)',
    '#orders: *Unusual hours*',
    '2026-01-09T00:00: *5* orders, usually 101 (-25.7 σ)',
  ])
})

it('scores the customers of a billing API, and sends the one that asks to leave', async () => {
  expect(await printed('churn')).toEqual([
    '1000 customers scored, 112 of them likely to leave.',
    'One asked to leave: 1 sent, 999 unchanged.',
  ])
})

it('brings issues and their comments into a sheet, and in a second run what has changed', async () => {
  const said = await printed('github-issues')
  const issues = said.filter((line) => /^ {2}\d \| Issue/.test(line)).map((line) => line.split(' | ')[1])
  expect(issues).toEqual(['Issue 1', 'Issue 2', 'Issue 3, with a new title', ...[4, 5, 6, 7].map((n) => `Issue ${n}`)])
  const comments = said.flatMap((line) => /^ {2}(\d \| \d \| .*?)(?: \||$)/.exec(line)?.[1] ?? [])
  expect(comments).toEqual([
    '1 | 1 | About issue 1',
    ...[3, 4, 5].map((comment) => `${comment} | 2 | About issue 2`),
    '6 | 5 | About issue 5',
    '7 | 7 | The first comment here',
  ])
  expect(said).toContain('The second run asked for issues since 2026-01-01T00:07:00Z.')
})

it('takes the answers of a form once, and brings each to the CRM, the warehouse and the channel', async () => {
  expect(await printed('forms')).toEqual([
    'd1: 200 {"received":1}',
    'd2: 200 {"received":1}',
    'd1: 200 {"received":0,"repeated":1}',
    'd3: 422 {"error":"the event does not fit: email: Invalid email address"}',
    'd4: 401 {"error":"unauthorized"}',
    'crm: 2 delivered',
    'warehouse: 2 delivered',
    'chat: 1 delivered',
    'contact ada@example.com',
    'contact grace@example.com',
    'row Compilers, 3 seats',
    'row Engines & Co, 120 seats',
    '#sales: *Engines &amp; Co* asks for *120* seats',
  ])
})
