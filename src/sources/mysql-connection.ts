import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, ConnectionOptions, Pool, PoolConnection, QueryError } from 'mysql2'
import { resolveSecret, type Secret } from '../config.js'
import { type Duration, milliseconds } from '../duration.js'
import { ConfigError, SourceError, SpillwayError } from '../errors.js'
import { literal, unreachable } from './sql.js'

/** Where a server is and who reads it: of the options of `mysql2`, those that a connection needs. */
export interface MysqlServer {
  /** @default 'localhost' */
  readonly host?: string | undefined
  /** @default 3306 */
  readonly port?: number | undefined
  /** Of the server's local socket, instead of host and port. */
  readonly socketPath?: string | undefined
  readonly user?: string | undefined
  readonly password?: string | Secret | undefined
  readonly database?: string | undefined
  /**
   * TLS: `{}`, the options of Node's `tls.connect` (`ca`, `cert`, `key`, …), or `'Amazon RDS'`. The certificate must be valid and
   * name the host, unless `rejectUnauthorized` or `verifyIdentity` is false. @default none
   */
  readonly ssl?: string | Readonly<Record<string, unknown>> | undefined
}

/** A `Pool` of the package `mysql2`, or a connected `Connection` of it; not those of `mysql2/promise`. */
export interface MysqlConnections {
  query(...rest: never[]): unknown
  execute(...rest: never[]): unknown
}

/** Which server, how to reach it, and for how long. */
export interface MysqlPlace {
  /**
   * `mysql://user:password@host:3306/database`; best as `secret('DATABASE_URL')`. `?ssl-mode=VERIFY_IDENTITY` (or `VERIFY_CA`,
   * `REQUIRED`) asks for TLS, as does `?ssl={…}` with options as JSON.
   */
  readonly url?: string | Secret | undefined
  /** The same in parts, instead of `url`. */
  readonly server?: MysqlServer | undefined
  /** Connections of your own, instead of `url`. One is used for as long as the source is read, and left as it was. */
  readonly pool?: MysqlConnections | undefined
  /** The longest that the server may work on the query, until its last row was taken. @default what the server is configured for */
  readonly timeout?: Duration | undefined
}

const actor = 'mysql'

/** How long to wait for a connection, and for the end of a query that was told to stop. */
const patience = { connect: 30_000, stop: 5_000 }

/** What the driver does not say of its own: the socket, and that what it was given is completed. */
export type Client = Connection & {
  readonly config: ConnectionOptions
  readonly stream: { destroy(): void }
}

/** With these, a second connection reaches the same server as the same user. */
const loginOptions = [
  ...(['host', 'port', 'socketPath', 'user', 'password', 'password2', 'password3', 'passwordSha1', 'ssl'] as const),
  ...(['authPlugins', 'enableCleartextPlugin', 'insecureAuth'] as const),
]

/** A server with what its secret stands for. */
type Reached = Omit<MysqlServer, 'password'> & { readonly password?: string | undefined }

interface Borrowed {
  readonly client: Client
  /** Gives it back; one that is broken is not used again. */
  release(broken: unknown): unknown
}

export interface Session {
  readonly client: Client
  close(): Promise<void>
}

export function connector(options: MysqlPlace): (signal: AbortSignal) => Promise<Session> {
  const { url, server, pool, timeout } = options
  if ([url, server, pool].filter((one) => one !== undefined).length !== 1) {
    throw new ConfigError(`${actor}: give either \`url\`, such as secret('DATABASE_URL'), or \`server\`, or \`pool\``)
  }
  const limit = timeout === undefined ? undefined : milliseconds(timeout, `${actor}: timeout`)
  if (server) refuseStrangers(server)
  return async (signal) => {
    if (pool) return begin(await borrow(pool), limit)
    const login = server ? { ...server, password: secretOf(server) } : parsed(resolveSecret(url!, `${actor}: url`))
    return begin(await dial(login, signal), limit)
  }
}

function refuseStrangers(server: MysqlServer): void {
  const known = ['host', 'port', 'socketPath', 'user', 'password', 'database', 'ssl']
  const stranger = Object.keys(server).find((name) => !known.includes(name))
  if (stranger === undefined) return
  throw new ConfigError(
    `${actor}: \`server\` takes no ${stranger}; it takes ${known.join(', ')}. Give a \`pool\` for more`,
  )
}

function secretOf({ password }: MysqlServer): string | undefined {
  return password === undefined ? undefined : resolveSecret(password, `${actor}: server.password`)
}

/** What each `ssl-mode` of MySQL's own programs asks for. */
const sslModes: Readonly<Record<string, MysqlServer['ssl']>> = {
  DISABLED: undefined,
  REQUIRED: { rejectUnauthorized: false },
  VERIFY_CA: { verifyIdentity: false },
  VERIFY_IDENTITY: {},
}

function parsed(url: string): Reached {
  try {
    const { protocol, hostname, port, username, password, pathname, searchParams } = new URL(url)
    if (!/^(mysql|mariadb):$/.test(protocol) || hostname === '') throw new TypeError('not a MySQL URL')
    const { ssl, 'ssl-mode': mode = 'DISABLED', ...rest } = Object.fromEntries(searchParams)
    if (Object.keys(rest).length > 0 || !(mode in sslModes)) throw new TypeError('not an option')
    return {
      host: decodeURIComponent(hostname.replace(/^\[|\]$/g, '')),
      port: port === '' ? undefined : Number(port),
      user: decodeURIComponent(username),
      password: decodeURIComponent(password),
      database: decodeURIComponent(pathname.slice(1)) || undefined,
      ssl: ssl === undefined ? sslModes[mode] : ssl.startsWith('{') ? JSON.parse(ssl) : ssl,
    }
  } catch {
    // what the parser throws holds the whole of it, password included
    throw new ConfigError(
      `${actor}: url is not like mysql://user:password@host:3306/database, perhaps with ?ssl-mode=VERIFY_IDENTITY; write special characters in the password as encodeURIComponent does`,
    )
  }
}

async function dial(login: Reached, signal: AbortSignal): Promise<Borrowed> {
  const { ssl } = login
  const client = await open({
    ...login,
    ...(ssl === undefined ? {} : { ssl: typeof ssl === 'string' ? ssl : { verifyIdentity: true, ...ssl } }),
    jsonStrings: true,
  } as ConnectionOptions)
  const giveUp = () => client.stream.destroy()
  signal.addEventListener('abort', giveUp)
  try {
    signal.throwIfAborted()
    await connected(client)
  } catch (error) {
    client.stream.destroy()
    signal.throwIfAborted()
    throw explained(error, client)
  } finally {
    signal.removeEventListener('abort', giveUp)
  }
  return { client, release: (broken) => (broken ? client.stream.destroy() : ended(client)) }
}

/** A connection that is being made. */
async function open(options: ConnectionOptions): Promise<Client> {
  const { createConnection } = await driver()
  let client: Client
  try {
    client = createConnection({ ...options, connectTimeout: 0 }) as Client
  } catch (cause) {
    // of a profile or a certificate that is none
    throw new ConfigError(`${actor}: \`ssl\`: ${(cause as Error).message}`)
  }
  client.on('error', () => {}) // also fails what is under way, and that is where it is told
  return client
}

function connected(client: Client): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject({ code: 'ETIMEDOUT' }), patience.connect)
    client.connect((error) => {
      clearTimeout(late)
      if (error) reject(error)
      else resolve()
    })
  })
}

function ended(client: Client): Promise<void> {
  return new Promise((resolve) => client.end(() => resolve()))
}

async function borrow(connections: MysqlConnections): Promise<Borrowed> {
  if ('promise' in connections === false) {
    throw new ConfigError(
      `${actor}: what is given as \`pool\` is of mysql2/promise; make it with mysql2, which has its own \`.promise()\``,
    )
  }
  if ('getConnection' in connections) {
    const pool = connections as Pool
    const client = await new Promise<Client & PoolConnection>((resolve, reject) => {
      pool.getConnection((error, connection) => {
        if (!error) return resolve(connection as Client & PoolConnection)
        const { connectionConfig } = pool.config as { connectionConfig?: ConnectionOptions }
        reject(explained(error, { config: connectionConfig ?? {} }))
      })
    })
    return { client, release: (broken) => (broken ? client.destroy() : client.release()) }
  }
  return { client: connections as unknown as Client, release: () => {} }
}

/** What a session is changed to, so that its texts can be read and a reader may take its time. */
const settings = {
  time_zone: '+00:00',
  character_set_results: 'utf8mb4',
  /** In seconds: for how long the reader may have enough rows. */
  net_write_timeout: 28_800,
}

/** MySQL has the one, in milliseconds, and MariaDB the other, in seconds. */
const limits = { max_execution_time: 1, max_statement_time: 1_000 }

async function begin({ client, release }: Borrowed, timeout: number | undefined): Promise<Session> {
  let broken: unknown
  // a connection that breaks also fails the query under way, and that is where it is told
  const onError = (error: unknown) => {
    broken = error
  }
  client.on('error', onError)
  let before: readonly [string, string][] = []
  const close = async () => {
    for (const text of ['rollback', ...(before.length > 0 ? [`set session ${assigned(before)}`] : [])]) {
      if (broken === undefined) await ask(client, text).catch(onError)
    }
    client.off('error', onError)
    await release(broken)
  }
  try {
    const names = [...Object.keys(settings), ...Object.keys(limits)]
    const found = await ask(client, `show session variables where variable_name in (${names.map(literal).join()})`)
    const changes: Record<string, string> = {}
    for (const [name, value] of Object.entries(settings)) changes[name] = String(value)
    for (const [name, unit] of Object.entries(limits)) {
      const known = found.some(([variable]) => variable === name)
      if (known && timeout !== undefined) changes[name] = String(unit === 1 ? Math.ceil(timeout) : timeout / unit)
    }
    await ask(client, 'set transaction isolation level repeatable read')
    before = (found as [string, string][]).filter(([name]) => name in changes)
    await ask(client, `set session ${assigned(Object.entries(changes))}`)
    await ask(client, 'start transaction with consistent snapshot, read only')
  } catch (error) {
    await close()
    throw explained(error, client)
  }
  return { client, close }
}

function assigned(variables: readonly (readonly [string, string])[]): string {
  const value = (text: string) => (text === '' ? 'null' : /^[\d.]+$/.test(text) ? text : literal(text))
  return variables.map(([name, text]) => `${name} = ${value(text)}`).join()
}

/** One statement without parameters, and its rows. */
function ask(client: Client, sql: string): Promise<unknown[][]> {
  return new Promise((resolve, reject) => {
    client.query({ sql, rowsAsArray: true, typeCast: true }, (error, rows) => {
      if (error) reject(error)
      else resolve(rows as unknown as unknown[][])
    })
  })
}

async function driver() {
  try {
    return (await import('mysql2')).default
  } catch (cause) {
    throw new ConfigError(`${actor}: the driver cannot be loaded: npm install mysql2`, { cause })
  }
}

/** Ends the query under way. It says so until it is heard: the server ignores a wish that overtakes the query it is about. */
export async function stop(client: Client, over: Promise<void>, running: () => boolean): Promise<void> {
  const cut = setTimeout(() => client.stream.destroy(), patience.stop)
  while (running()) {
    await kill(client, over)
    await Promise.race([over, sleep(100)])
  }
  clearTimeout(cut)
}

/** Asks the server, over a connection of its own, to stop what this one is doing. Whether that helped shows only on this one. */
async function kill({ config, threadId }: Client, over: Promise<void>): Promise<void> {
  const other = await open(Object.fromEntries(loginOptions.map((name) => [name, config[name]])))
  const told = new Promise<void>((resolve) => {
    other.query(`kill query ${threadId}`, () => resolve())
  })
  await Promise.race([over, told])
  other.stream.destroy()
}

// ---- errors ----------------------------------------------------------------------------------------------------

/** What went wrong and what to do, without the driver's error: it may quote values, of the query or of rows. */
export function explained(error: unknown, { config }: { readonly config: ConnectionOptions }): unknown {
  if (error instanceof SpillwayError || error instanceof TypeError) return error
  const { host, port, socketPath, user, database } = config
  const { code = '', errno, sqlState, sqlMessage, message } = error as Partial<QueryError & { sqlMessage: string }>
  const at = (text: string) => new SourceError(`${actor}: ${socketPath ?? `${host}:${port}`}: ${text}`)
  const unreached = unreachable(code)
  if (unreached !== undefined) return at(unreached)
  switch (code) {
    case 'ETIMEDOUT':
      return at(`no answer (${code}): check the connection, host and port, and run the sync again`)
    case 'ER_ACCESS_DENIED_ERROR':
      return at(
        `user ${user} was refused (${code}): check user and password, and that the server lets them in from here`,
      )
    case 'ER_DBACCESS_DENIED_ERROR':
      return at(
        `user ${user} may not use database ${database} (${code}): correct its name, or grant the right to select`,
      )
    case 'ER_BAD_DB_ERROR':
      return at(`there is no database ${database} (${code}): correct its name, or create it`)
    case 'ER_TABLEACCESS_DENIED_ERROR':
    case 'ER_COLUMNACCESS_DENIED_ERROR':
      return at(`${sqlMessage} (${code}): grant user ${user} the right to select`)
    case 'ER_CANT_CHANGE_TX_CHARACTERISTICS':
      return new ConfigError(`${actor}: the connection given as \`pool\` is in a transaction; give one that is free`)
  }
  // only the server's own errors have a state
  if (!sqlState) return at(`${message || code}: check the connection and the url, and run the sync again`)
  const name = code || errno
  if (errno === 1969 || errno === 3024)
    return at(`${sqlMessage} (${name}): raise \`timeout\`, or make the query faster`)
  if (/^08|^70100/.test(sqlState)) return at(`${sqlMessage} (${name}): run the sync again`)
  // of class 22, data exceptions, the quoted part is a value
  if (sqlState.startsWith('22')) return at(`${sqlMessage!.replace(/'.*'/s, '…')} (${name}): correct the query`)
  return at(`${sqlMessage} (${name}): correct the query`)
}
