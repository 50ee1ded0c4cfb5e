import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

it.each([
  [
    'churn/churn.js',
    ['1000 customers scored, 112 of them likely to leave.', 'One asked to leave: 1 sent, 999 unchanged.'],
  ],
])('the example %s does what it says', { timeout: 60_000 }, async (program, says) => {
  const { stdout } = await promisify(execFile)(process.execPath, [`dist/examples/${program}`])
  expect(stdout.trim().split('\n')).toEqual(says)
})
