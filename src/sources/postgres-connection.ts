import { once } from 'node:events'
import { connect as openSocket, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client, ClientConfig, CustomTypesConfig, DatabaseError, Pool, QueryArrayResult } from 'pg'
import { resolveSecret, Secret } from '../config.js'
import { type Duration, milliseconds } from '../duration.js'
import { ConfigError, SourceError, SpillwayError } from '../errors.js'
import { onAbort } from '../pace.js'
import { type Arrays, arraysOf, settings, typesQuery } from './postgres-values.js'
import { unreachable } from './sql.js'

export const actor = 'postgres'

/** How long to wait for a connection, and for the end of a query that was told to stop. */
export const patience = { connect: 30_000, stop: 5_000 }

/** A `Pool` of the package `pg`, or a connected `Client` of it. */
export interface PostgresConnections {
  connect(...rest: never[]): unknown
  query(...rest: never[]): unknown
}

/** Where PostgreSQL is: one of the three. */
export interface PostgresPlace {
  /**
   * `postgres://user:password@host:5432/database`; best as `secret('DATABASE_URL')`. `?sslmode=verify-full` asks for TLS, and
   * `?application_name=` tells the server another name than `spillway`.
   */
  readonly url?: string | Secret | undefined
  /**
   * What the `Client` of `pg` takes (https://node-postgres.com/apis/client), instead of `url`: `host`, `port`, `user`, `password`,
   * `database`, `ssl` as `tls.connect` takes it, `application_name`, and what else there is. Any text may be a secret. A
   * `connectionString` goes with `ssl` when it says nothing of TLS itself.
   */
  readonly connection?: { readonly [option: string]: unknown } | undefined
  /** Connections of your own, instead of `url`. One is used for as long as the source is read, and left as it was. */
  readonly pool?: PostgresConnections | undefined
}

/** Where to connect, with secrets as they are now. */
export type Address = () => ClientConfig

/** @throws ConfigError when the options do not say where, or in two ways. */
export function addressOf({ url, connection, pool }: PostgresPlace): Address | undefined {
  if ([url, connection, pool].filter((place) => place !== undefined).length !== 1) {
    throw new ConfigError(`${actor}: give one of \`url\`, such as secret('DATABASE_URL'), \`connection\` and \`pool\``)
  }
  if (url !== undefined) return () => ({ connectionString: resolveSecret(url, `${actor}: url`) })
  if (!connection) return isPool(pool!) ? () => (pool as Pool).options : undefined
  if (connection['stream'] !== undefined)
    throw new ConfigError(`${actor}: connection: \`stream\` cannot be given; give a pool of clients that have it`)
  return () => resolved(connection, `${actor}: connection`) as ClientConfig
}

function isPool(connections: PostgresConnections): boolean {
  return 'totalCount' in connections
}

/** Options with the values of the secrets among them. */
function resolved(options: { readonly [option: string]: unknown }, where: string): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(options).map(([name, value]) => {
      const place = `${where}.${name}`
      // what is written out instead is redacted like a secret
      const hidden = typeof value === 'string' && /^(password|passphrase|key|connectionString)$/.test(name)
      if (value instanceof Secret || hidden) return [name, resolveSecret(value, place)]
      const plain = value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype
      return [name, plain ? resolved(value as { [option: string]: unknown }, place) : value]
    }),
  )
}

// ---- connections -----------------------------------------------------------------------------------------------

/** A connection of our own. */
export interface Line {
  readonly client: Client
  /** Connects; rejects with the driver's error, or with the signal's reason. */
  open(signal: AbortSignal): Promise<void>
  /** Ends it at once, whatever state it is in. */
  cut(): void
}

export async function lineTo(address: Address): Promise<Line> {
  const { pg } = await driver()
  const socket = new Socket()
  const client = clientOf(pg, address(), socket)
  return {
    client,
    async open(signal) {
      const ignore = onAbort(signal, () => socket.destroy())
      try {
        signal.throwIfAborted()
        await client.connect()
      } catch (error) {
        socket.destroy()
        signal.throwIfAborted()
        throw error
      } finally {
        ignore()
      }
    },
    cut: () => socket.destroy(),
  }
}

function clientOf(pg: Driver['pg'], config: ClientConfig, socket: Socket): Client {
  // a pool hides its password from those who list its options
  const { connectionString, password } = config
  try {
    if (connectionString !== undefined && !/^postgres(ql)?:\/\//.test(connectionString))
      throw new TypeError('not a Postgres URL')
    return new pg.Client({
      keepAlive: true,
      connectionTimeoutMillis: patience.connect,
      fallback_application_name: 'spillway',
      ...config,
      ...(password !== undefined && { password }),
      stream: () => socket,
    })
  } catch {
    // what the parser throws holds the whole of it, password included
    throw new ConfigError(
      `${actor}: url is not like postgres://user:password@host:5432/database; write special characters in the password as encodeURIComponent does`,
    )
  }
}

interface Connection {
  readonly client: Client
  /** Gives it back; one that is broken is not used again. */
  release(broken: Error | undefined): unknown
}

/** A transaction that only reads, and sees the database as it was at its start. */
export interface Session {
  readonly client: Client
  readonly arrays: Arrays
  close(): Promise<void>
}

/** Text as the server sends it; read by the column's own converter. The driver's would shift dates and are global. */
export const verbatim: CustomTypesConfig = { getTypeParser: () => (text: string) => text }

/** How a session begins. */
export function connector(
  place: PostgresPlace & { readonly timeout?: Duration | undefined },
): (signal: AbortSignal) => Promise<Session> {
  const { pool, timeout } = place
  const address = addressOf(place)
  const limit = timeout === undefined ? undefined : milliseconds(timeout, `${actor}: timeout`)
  return async (signal) => begin(pool ? await borrow(pool) : await dial(address!, signal), limit)
}

async function dial(address: Address, signal: AbortSignal): Promise<Connection> {
  const { client, open } = await lineTo(address)
  try {
    await open(signal)
  } catch (error) {
    signal.throwIfAborted()
    throw explained(error, client)
  }
  return { client, release: () => client.end() }
}

async function borrow(pool: PostgresConnections): Promise<Connection> {
  if (isPool(pool)) {
    const { pg } = await driver()
    const client = await (pool as Pool).connect().catch((error) => {
      throw explained(error, new pg.Client((pool as Pool).options))
    })
    // what a pool makes are clients, which its types do not say
    return { client: client as unknown as Client, release: (broken) => client.release(broken) }
  }
  const client = pool as Client
  const status = client.getTransactionStatus?.()
  if (status !== 'I') {
    const state = status === undefined ? 'of a pg before 8.21' : status === null ? 'not connected' : 'in a transaction'
    throw new ConfigError(
      `${actor}: the client given as \`pool\` is ${state}; give a Pool, or a connected Client of pg 8.21 or later that is free`,
    )
  }
  return { client, release: () => {} }
}

async function begin({ client, release }: Connection, timeout: number | undefined): Promise<Session> {
  // a connection that breaks also fails the query under way, and that is where it is told
  const ignore = () => {}
  client.on('error', ignore)
  const close = async () => {
    let broken: Error | undefined
    await client.query('rollback').catch((error) => {
      broken = error
    })
    client.off('error', ignore)
    await release(broken)
  }
  const local = { ...settings, ...(timeout === undefined ? {} : { statement_timeout: `${Math.ceil(timeout)}` }) }
  const set = Object.entries(local).map(([name, value]) => `set local ${name} = '${value}'`)
  const text = ['begin isolation level repeatable read read only', ...set, typesQuery].join(';')
  try {
    const results = (await client.query({ text, rowMode: 'array', types: verbatim })) as unknown as QueryArrayResult[]
    return { client, arrays: arraysOf(results.at(-1)!.rows), close }
  } catch (error) {
    await close()
    throw explained(error, client)
  }
}

type Driver = Awaited<ReturnType<typeof driver>>

export async function driver() {
  try {
    const [{ default: pg }, { default: Cursor }] = await Promise.all([import('pg'), import('pg-cursor')])
    return { pg, Cursor }
  } catch (cause) {
    throw new ConfigError(`${actor}: the driver cannot be loaded: npm install pg pg-cursor`, { cause })
  }
}

/** Ends the answer under way. It says so until it is heard: the server ignores a wish that overtakes the query it is about. */
export async function stop(client: Client, answer: Promise<unknown>, busy: () => boolean): Promise<void> {
  const cut = setTimeout(() => client.end(), patience.stop)
  while (busy()) {
    await cancel(client)
    await Promise.race([answer.catch(() => {}), sleep(100)])
  }
  clearTimeout(cut)
}

/** An answer that the signal ends. */
export async function interruptible<T>(client: Client, answer: Promise<T>, signal: AbortSignal): Promise<T> {
  let busy = true
  const answered = answer.finally(() => {
    busy = false
  })
  let stopped: Promise<void> | undefined
  const ignore = onAbort(signal, () => {
    stopped = stop(client, answered, () => busy)
  })
  try {
    return await answered
  } finally {
    ignore()
    await stopped
  }
}

/**
 * Asks the server to stop what this connection is doing, over a connection of its own as the protocol wants it
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS). The server closes it when it
 * has passed the wish on. Whether that helped shows only on the connection itself.
 */
async function cancel(client: Client): Promise<void> {
  const { host, port, processID, secretKey } = client as Client & { processID: number; secretKey: number }
  const request = Buffer.alloc(16)
  for (const [index, word] of [16, 80_877_102, processID, secretKey].entries()) request.writeInt32BE(word, index * 4)
  const socket = host.startsWith('/') ? openSocket(`${host}/.s.PGSQL.${port}`) : openSocket(port, host)
  socket.setTimeout(patience.stop, () => socket.destroy())
  socket.on('error', () => {})
  socket.end(request).resume()
  await once(socket, 'close')
}

// ---- errors ----------------------------------------------------------------------------------------------------

/** Whether the server, or the way to it, may do better next time. */
export function mayPass(error: unknown): boolean {
  const { code = '', severity } = error as Partial<DatabaseError>
  return (
    error instanceof Error &&
    !(error instanceof SpillwayError) &&
    (severity ? /^(08|53|57)/.test(code) : !/CERT|_TLS_/.test(code))
  )
}

/** Whether the server does not know what it was asked for, or does not give it to this user. */
export function refused(error: unknown): boolean {
  const { code = '', severity } = error as Partial<DatabaseError>
  return severity !== undefined && /^(42|0A)/.test(code)
}

/** What went wrong and what to do, without the driver's error: it may quote values, of the query or of rows. */
export function explained(error: unknown, { host, port, user, database }: Client): unknown {
  if (error instanceof SpillwayError || error instanceof TypeError) return error
  const { code, message, severity, hint } = error as Partial<DatabaseError>
  const at = (text: string) => new SourceError(`${actor}: ${host}:${port}: ${text}`)
  const unreached = unreachable(code)
  if (unreached !== undefined) return at(unreached)
  switch (code) {
    case '28P01':
    case '28000':
      return at(
        `user ${user} was refused (${code}): check user and password, and that the server lets them in from here`,
      )
    case '3D000':
      return at(`there is no database ${database} (${code}): correct its name, or create it`)
    case '42501':
      return at(`${message} (${code}): grant user ${user} the right to select`)
    case '57014':
      if (!message?.includes('timeout')) break
      return at(`${message} (${code}): raise \`timeout\`, or make the query faster`)
  }
  if (/CERT|_SIGNATURE$|_TLS_/.test(code ?? '')) {
    return at(
      `${message} (${code}): give the authority that signed the server's certificate as \`ca\` of \`ssl\`, and the host by the name in it`,
    )
  }
  // only the server's own errors have a severity
  if (!severity) return at(`${message || code}: check the connection and the url, and run the sync again`)
  if (/^(08|53|57)/.test(code!)) return at(`${message} (${code}): run the sync again`)
  // of class 22, data exceptions, the quoted part is a value
  if (code!.startsWith('22')) return at(`${message!.replace(/".*"|".*$/s, '…')} (${code}): correct the query`)
  return at(`${message} (${code}): ${hint ?? 'correct the query'}`)
}
