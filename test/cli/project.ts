import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const main = join(root, 'dist/src/cli/main.js')

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly out: string
  readonly err: string
}

/** A folder with files and the built package installed, in which the command is run as a user would. */
export interface Project {
  readonly folder: string
  write(files: Readonly<Record<string, string>>): Promise<void>
  spillway(...args: string[]): Promise<Ended>
  start(...args: string[]): { readonly child: ChildProcess; readonly ended: Promise<Ended> }
  /** Kills what still runs, and deletes the folder. */
  remove(): Promise<void>
}

export async function project(files: Readonly<Record<string, string>> = {}): Promise<Project> {
  if (!existsSync(main)) throw new Error('the command is tested as it is built: npm run build')
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'spillway-cli-')))
  await mkdir(join(folder, 'node_modules'))
  await symlink(root, join(folder, 'node_modules', 'spillway'))

  const write = async (files: Readonly<Record<string, string>>) => {
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(folder, name)), { recursive: true })
      await writeFile(join(folder, name), text)
    }
  }
  await write(files)

  const children: ChildProcess[] = []
  const start = (...args: string[]) => {
    const env = { ...process.env, NO_COLOR: undefined, FORCE_COLOR: undefined }
    const child = spawn(process.execPath, [main, ...args], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
    children.push(child)
    let out = ''
    let err = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    child.stderr.on('data', (chunk) => {
      err += chunk
    })
    const ended = new Promise<Ended>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code, signal) => resolve({ code, signal, out, err }))
    })
    return { child, ended }
  }
  return {
    folder,
    write,
    start,
    spillway: (...args) => start(...args).ended,
    async remove() {
      for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
      await rm(folder, { recursive: true, force: true, maxRetries: 3 })
    },
  }
}
