// The package as users get it: packed, installed in an empty project, and used there.
// Needs dist (npm run build), and the registry for what the package depends on.

import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const root = here('../..')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const folder = mkdtempSync(join(tmpdir(), 'spillway-package-'))
try {
  exportsNameEachFile()
  const project = install(pack())
  staysSmall(project)
  run(project, process.execPath, 'use.mjs')
  run(project, 'npx', '--no-install', 'spillway', '--version')
} finally {
  rmSync(folder, { recursive: true, force: true })
}

/** A destination that is written but not exported would be found by its first user. What stands in a folder there is private. */
function exportsNameEachFile() {
  const written = readdirSync(join(root, 'destinations'))
    .filter((name) => name.endsWith('.ts'))
    .map((file) => `./destinations/${basename(file, '.ts')}`)
  const exported = Object.keys(manifest.exports).filter((path) => path.startsWith('./destinations/'))
  if (written.sort().join() !== exported.sort().join()) {
    throw new Error(`package.json exports ${exported.join(', ')}; the folder destinations has ${written.join(', ')}`)
  }
}

function pack() {
  const said = run(root, 'npm', 'pack', '--json', '--pack-destination', folder)
  const [{ filename, files, size, unpackedSize }] = JSON.parse(said)
  const stray = files.filter(({ path }) => !/^(dist\/(src|destinations)\/.*|[A-Z]+(\.md)?|package\.json)$/.test(path))
  if (stray.length > 0) throw new Error(`the package holds ${stray.map(({ path }) => path).join(', ')}`)
  console.log(`${filename}: ${files.length} files, ${kilobytes(size)} packed, ${kilobytes(unpackedSize)} unpacked`)
  return join(folder, filename)
}

function install(tarball) {
  const project = join(folder, 'project')
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'project', private: true, type: 'module' }))
  for (const file of ['use.mjs', 'imports.mjs']) cpSync(here(file), join(project, file))
  run(project, 'npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', tarball)
  return project
}

/** What everybody installs, and what everybody waits for at every start: whoever lets it grow has to say so in `small.json`. */
function staysSmall(project) {
  const small = JSON.parse(readFileSync(here('small.json'), 'utf8'))
  const modules = join(project, 'node_modules')
  const files = readdirSync(modules, { recursive: true, withFileTypes: true }).filter((file) => file.isFile())
  const size = (some) => some.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0)
  const [native, rest] = [true, false].map((wanted) =>
    files.filter(({ name }) => /\.(node|so|dylib|dll)$/.test(name) === wanted),
  )
  console.log(`installed: ${kilobytes(size(native))} of binaries, ${kilobytes(size(rest))} beside them`)
  // one platform's packages are another's: they have the names of those that ask for them, and more
  const { packages } = JSON.parse(readFileSync(join(modules, '.package-lock.json'), 'utf8'))
  const names = Object.keys(packages).map((path) => path.replace(/^.*node_modules\//, ''))
  const installed = names.filter(
    (name) => !/-(linux|darwin|win32|windows)-|^@libsql\/(linux|darwin|win32)/.test(name) && name !== 'spillway',
  )
  same('installed', [...new Set(installed)].sort(), small.installed)
  if (size(rest) > small.kilobytes * 1000) throw new Error(`that is more than the ${small.kilobytes} kB of small.json`)

  const node = (...values) => [process.execPath, '--input-type=module', ...values]
  const times = (...command) => Array.from({ length: 5 }, () => timeOf(project, ...command)).sort((a, b) => a - b)
  const [bare] = times(...node('-e', ''))
  const [start] = times(...node('-e', "import 'spillway'"))
  console.log(`import 'spillway': ${start - bare} ms beside the ${bare} ms in which Node itself starts`)
  const loaded = new Set(run(project, process.execPath, 'imports.mjs').trim().split('\n'))
  same('imported', [...loaded].sort(), small.imported)
}

function same(what, found, known) {
  if (found.join() !== known.join())
    throw new Error(`${what} with it are ${found.join(', ')}; small.json has ${known.join(', ')}`)
}

function timeOf(cwd, command, ...values) {
  const begun = performance.now()
  const { status } = spawnSync(command, values, { cwd, stdio: 'inherit' })
  if (status !== 0) throw new Error(`${values.join(' ')} failed`)
  return Math.round(performance.now() - begun)
}

/** Runs a command to its end, shows and returns what it says; a failure ends the check. */
function run(cwd, command, ...values) {
  const line = [basename(command), ...values].join(' ')
  console.log(`$ ${line}`)
  const { status, stdout } = spawnSync(command, values, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  if (!values.includes('--json')) process.stdout.write(stdout)
  if (status !== 0) throw new Error(`${line} failed`)
  return stdout
}

function kilobytes(bytes) {
  return `${Math.round(bytes / 1000)} kB`
}
