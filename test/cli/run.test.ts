import { expect, test } from 'vitest'
import { exitCode, type Outcome, summary } from '../../src/cli/run.js'
import { ConfigError } from '../../src/errors.js'
import type { Run } from '../../src/run.js'

const none = { rows: 0, delivered: 0, unchanged: 0, rejected: 0, pending: 0, unknown: 0, superseded: 0 }

const run = (counts: Partial<Run>): Run => ({
  id: '1',
  sync: 'people',
  status: 'done',
  reason: undefined,
  ...none,
  deletes: none,
  resumed: none,
  resent: 0,
  startedAt: new Date(0),
  duration: 2_000,
  ...counts,
})

const ended = (counts: Partial<Run> = {}): Outcome => ({ sync: 'people', run: run(counts) })
const failed = (error: Error): Outcome => ({ sync: 'people', error })

test.each([
  ['all delivered', [ended({ rows: 2, delivered: 2 })], 0],
  ['nothing to do', [ended()], 0],
  ['rejected rows', [ended({ rejected: 1 })], 3],
  ['a delete that was rejected', [ended({ deletes: { ...none, rejected: 1 } })], 3],
  ['a delete that is still pending', [ended({ deletes: { ...none, pending: 1 } })], 1],
  ['rejected rows of an earlier run', [ended({ resumed: { ...none, rejected: 1 } })], 3],
  ['a run that is incomplete', [ended({ status: 'incomplete', rejected: 1 })], 1],
  ['a row that nobody knows of', [ended({ unknown: 1 })], 1],
  ['a row of an earlier run that is still pending', [ended({ resumed: { ...none, pending: 1 } })], 1],
  ['a failure', [failed(new Error('x'))], 1],
  ['a configuration that cannot work', [failed(new ConfigError('x'))], 2],
  ['rejected rows here, a failure there', [ended({ rejected: 1 }), failed(new Error('x')), ended()], 1],
  ['a failure here, a configuration there', [failed(new Error('x')), failed(new ConfigError('x')), ended()], 2],
])('%s: the exit code is right', (_, outcomes, code) => {
  expect(exitCode(outcomes)).toBe(code)
})

test('a summary has a number for everything that happened, and for nothing else', () => {
  expect(summary(run({ rows: 1, delivered: 1 }))).toBe('people: 1 row: 1 delivered in 2.0 s (0.5 rows/s)')
  expect(
    summary(
      run({
        status: 'incomplete',
        reason: 'crm is down:\n\u001b[31mtry later',
        rows: 8_010,
        delivered: 8_000,
        unchanged: 1,
        rejected: 2,
        pending: 3,
        unknown: 4,
        resent: 5,
        deletes: { ...none, rows: 2, delivered: 1, rejected: 1 },
        resumed: { ...none, rows: 7, delivered: 6, superseded: 1 },
      }),
    ),
  ).toBe(`people: incomplete: 8,010 rows: 8,000 delivered, 1 unchanged, 2 rejected, 3 pending, 4 unknown in 2.0 s (4,005 rows/s)
  gone from the source: 2 rows: 1 delivered, 1 rejected
  of an earlier run: 7 rows: 6 delivered, 1 superseded
  5 rows sent again, for want of an answer to the first time
  crm is down: \\u001b[31mtry later
  why rows were rejected: spillway dead-letters --sync people`)
})
