import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, expect, it } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const readme = await readFile(join(root, 'README.md'), 'utf8')
const programs = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, program]) => program!)

// inside the package, so that `spillway` is found as its users find it
await mkdir(join(root, 'dist'), { recursive: true })
const folder = await mkdtemp(join(root, 'dist/readme-'))
afterAll(() => rm(folder, { recursive: true, force: true }))

it('shows programs that compile', async () => {
  expect(programs.length).toBeGreaterThan(1)
  const files = programs.map((_, index) => join(folder, `program-${index}.ts`))
  for (const [index, program] of programs.entries()) await writeFile(files[index]!, program)
  const options = [
    '--noEmit',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--module',
    'nodenext',
    '--target',
    'es2023',
    '--skipLibCheck',
  ]
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const { stdout } = await promisify(execFile)(process.execPath, [tsc, ...options, '--ignoreConfig', ...files]).catch(
    (error) => error,
  )
  expect(stdout).toBe('')
})

it('shows a first program that runs and prints its rows', async () => {
  const file = join(folder, 'first.mjs')
  await writeFile(file, programs[0]!)
  const { stdout } = await promisify(execFile)(process.execPath, [file], { cwd: folder })
  expect(stdout).toContain("'ada@example.com'")
  expect(stdout).toContain("'grace@example.com'")
})
