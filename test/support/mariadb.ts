import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import mysql from 'mysql2/promise'
import { afterAll, beforeAll } from 'vitest'
import { freePort, logged } from './postgres.js'

/** A MariaDB server of one test file's own. */
interface Mariadb {
  /** Of a user who may do anything; its database is `test`. */
  readonly url: string
  /** Ends the server, and removes its files. */
  stop(): Promise<void>
}

const password = 'open sesame'

/** Where there is a server; `undefined` where it is not installed. */
function binary(): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', '/opt/homebrew/bin']
  return folders.map((folder) => join(folder, 'mariadbd')).find((file) => existsSync(file))
}

/** False where MariaDB is not installed, and says so; in CI that is an error. */
export function hasMariadb(): boolean {
  if (binary()) return true
  const said = 'MariaDB is not installed, so nothing of MySQL is tested: apt-get install mariadb-server-core'
  if (process.env['CI']) throw new Error(said)
  console.warn(said)
  return false
}

/**
 * Starts a real MariaDB on a free port of this machine, with data in a fresh temporary folder. Takes about a second: one process
 * makes its system tables and then serves.
 */
async function startMariadb(): Promise<Mariadb> {
  const home = await mkdtemp(join(tmpdir(), 'spillway-mariadb-'))
  const remove = () => rm(home, { recursive: true, force: true })
  try {
    await mkdir(join(home, 'data'))
    await writeFile(join(home, 'start.sql'), await firstStatements())
    const { port, server } = await serve(home)
    return {
      url: `mysql://spillway:${encodeURIComponent(password)}@127.0.0.1:${port}/test`,
      async stop() {
        server.kill('SIGTERM')
        if (server.exitCode === null) await once(server, 'exit')
        await remove()
      },
    }
  } catch (cause) {
    await remove()
    throw new Error(`MariaDB did not start. ${cause}`, { cause })
  }
}

/** What makes the system tables, and a user. */
async function firstStatements(): Promise<string> {
  const places = ['/usr/share/mysql', '/usr/share/mariadb', join(dirname(binary()!), '../share/mysql')]
  const folder = places.find((place) => existsSync(join(place, 'mysql_system_tables.sql')))!
  const files = ['mysql_system_tables.sql', 'mysql_system_tables_data.sql'].map((file) => join(folder, file))
  const [tables, data] = await Promise.all(files.map((file) => readFile(file, 'utf8')))
  return [
    'create database mysql;\nuse mysql;',
    tables,
    data,
    // until its users are read again, the server lets everybody in
    'create database test;\nflush privileges;',
    `create user spillway@'127.0.0.1' identified by '${password}';`,
    `grant all on *.* to spillway@'127.0.0.1' with grant option;\n`,
  ].join('\n')
}

const settings = {
  'bind-address': '127.0.0.1',
  'skip-name-resolve': '1',
  'skip-grant-tables': '1',
  'skip-networking': '0',
  // files as small as they may be, and nothing waits for a disk
  'innodb-data-file-path': 'ibdata1:3M:autoextend',
  'innodb-temp-data-file-path': 'ibtmp1:1M:autoextend',
  'innodb-autoextend-increment': '1',
  'innodb-log-file-size': '4M',
  'innodb-buffer-pool-size': '16M',
  'innodb-flush-method': 'nosync',
  'innodb-flush-log-at-trx-commit': '0',
  'innodb-doublewrite': '0',
  'innodb-fast-shutdown': '2',
  'innodb-buffer-pool-dump-at-shutdown': '0',
  'aria-log-file-size': '8M',
}

async function serve(home: string, attempts = 5): Promise<{ port: number; server: ChildProcess }> {
  const port = await freePort()
  const flags = Object.entries(settings).map(([name, value]) => `--${name}=${value}`)
  const place = [
    `--datadir=${join(home, 'data')}`,
    `--socket=${join(home, 'socket')}`,
    `--pid-file=${join(home, 'pid')}`,
  ]
  const first = ['--no-defaults', ...place, `--port=${port}`, `--init-file=${join(home, 'start.sql')}`]
  // it refuses to be root unless it is asked to
  if (process.getuid?.() === 0) first.push('--user=root')
  const server = spawn(binary()!, [...first, ...flags], { stdio: ['ignore', 'ignore', 'pipe'] })
  await once(server, 'spawn')
  process.once('exit', () => server.kill('SIGKILL'))
  const said: string[] = []
  if (await logged(server.stderr, 'ready for connections', said)) {
    server.stderr.resume()
    return { port, server }
  }
  // somebody else may have taken the port since it was found free
  if (said.some((line) => line.includes('Address already in use')) && attempts > 1) {
    await rm(join(home, 'data'), { recursive: true })
    await mkdir(join(home, 'data'))
    return serve(home, attempts - 1)
  }
  throw new Error(said.join('\n'))
}

/** A server and a connection to it for the tests of a file: there from before the first of them until after the last. */
export function mariadbOfFile(): { readonly url: string; readonly db: mysql.Connection } {
  let server: Mariadb
  let db: mysql.Connection
  beforeAll(async () => {
    server = await startMariadb()
    db = await mysql.createConnection({ uri: server.url, timezone: 'Z', multipleStatements: true })
  }, 60_000)
  afterAll(async () => {
    await db?.end()
    await server?.stop()
  })
  return {
    get url() {
      return server.url
    },
    get db() {
      return db
    },
  }
}
