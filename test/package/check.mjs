// The package as users get it: packed, installed in an empty project, and used there.
// Needs dist (npm run build), and the registry for what the package depends on.

import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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
  run(project, process.execPath, 'use.mjs')
  run(project, 'npx', '--no-install', 'spillway', '--version')
} finally {
  rmSync(folder, { recursive: true, force: true })
}

/** A destination that is written but not exported would be found by its first user. */
function exportsNameEachFile() {
  const written = readdirSync(join(root, 'destinations')).map((file) => `./destinations/${basename(file, '.ts')}`)
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
  cpSync(here('use.mjs'), join(project, 'use.mjs'))
  run(project, 'npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', tarball)
  return project
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
