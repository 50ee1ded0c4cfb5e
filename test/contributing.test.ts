import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, expect, test } from 'vitest'
import { folderInside, tutorial } from './support/tutorial.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = folderInside()
afterAll(() => folder.remove())
const run = (...args: string[]) => promisify(execFile)(process.execPath, args, { cwd: folder.path })

test('the destination of the tutorial takes at most forty lines', () => {
  expect(tutorial['address-book.ts'].trim().split('\n').length).toBeLessThanOrEqual(40)
})

test('the programs of the tutorial compile, and the destination keeps the rules', { timeout: 180_000 }, async () => {
  const files = Object.entries(tutorial).map(([name, text]) => folder.write(name, text))
  const strict = ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--skipLibCheck']
  const target = ['--module', 'nodenext', '--target', 'es2023', '--types', 'node', '--rewriteRelativeImportExtensions']
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const { stdout } = await run(tsc, '--ignoreConfig', ...strict, ...target, ...files).catch((error) => error)
  expect(stdout).toBe('')
  const said = await run('--test', '--test-reporter=tap', 'address-book.test.js').catch((error) => error)
  expect(said.stdout).toMatch(/^# fail 0$/m)
  expect(said.stdout).toMatch(/^# pass \d\d$/m)
  expect(said.stdout.match(/# SKIP .*/g)).toEqual([
    '# SKIP address-book has no replace',
    '# SKIP address-book has no list',
  ])
})
