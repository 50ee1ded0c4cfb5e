import type { Client, Pool, PoolClient } from 'pg'
import { ConfigError } from 'spillway'

/** A `Pool` of the package `pg`, or a connected `Client` of it. */
export interface PgConnections {
  connect(...rest: never[]): unknown
  query(...rest: never[]): unknown
}

/** A connection for one transaction. */
export interface Connection {
  readonly client: Client | PoolClient
  /** Gives it back; a broken one is closed, whatever it is doing. Absent: it is the user's own. */
  release?(broken?: Error): void
  end(): void
}

/** Connections as they are needed. */
export function connector(
  given: PgConnections | undefined,
  actor: string,
): (url: string | undefined) => Promise<Connection> {
  let own: { readonly url: string; readonly pool: Promise<Pool> } | undefined
  let turn: Promise<void> = Promise.resolve()
  const lend = async (pool: Pool): Promise<Connection> => {
    const client = await pool.connect()
    return { client, release: (broken) => client.release(broken), end() {} }
  }
  /** A client does one transaction after the other. */
  const borrow = async (client: Client): Promise<Connection> => {
    const before = turn
    let end = () => {}
    turn = new Promise((resolve) => {
      end = resolve
    })
    await before
    const status = client.getTransactionStatus()
    if (status === 'I') return { client, end }
    end()
    throw new ConfigError(
      `${actor}: the client given as pool is ${status === null ? 'not connected' : 'in a transaction'}: give a Pool, or a connected Client that is free`,
    )
  }
  return async (url) => {
    if (given) return 'totalCount' in given ? lend(given as Pool) : borrow(given as Client)
    if (own === undefined || own.url !== url) own = { url: url!, pool: poolOf(url!, actor) }
    return lend(await own.pool)
  }
}

async function poolOf(connectionString: string, actor: string): Promise<Pool> {
  const pg = await import('pg').catch(() => {
    throw new ConfigError(`${actor}: the driver cannot be loaded: npm install pg`)
  })
  try {
    const pool = new pg.default.Pool({
      connectionString,
      connectionTimeoutMillis: 30_000,
      keepAlive: true,
      allowExitOnIdle: true,
      fallback_application_name: 'spillway',
    })
    // one that breaks while nobody uses it is simply gone
    return pool.on('error', () => {})
  } catch {
    // what the parser throws holds the whole of it, password included
    throw new ConfigError(
      `${actor}: url cannot be read; write special characters in the password as encodeURIComponent does`,
    )
  }
}
