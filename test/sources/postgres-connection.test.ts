import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, readFile, stat } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { secret } from '../../src/config.js'
import { ConfigError, type Source, SourceError } from '../../src/index.js'
import { sourceOf } from '../../src/source.js'
import { type PostgresOptions, postgres } from '../../src/sources/postgres.js'
import { databaseOfFile } from '../support/database.js'
import { readAll, readOne } from './reading.js'

const database = databaseOfFile()

/** Where the server is, as `pg` takes it. */
function place() {
  const { username, password, port } = new URL(database.url)
  return {
    host: 'localhost',
    port: Number(port),
    user: username,
    password: decodeURIComponent(password),
    database: 'postgres',
  }
}

const failing = (source: Source<object>): Promise<Error> =>
  readAll(source).then(
    () => new Error('read to its end'),
    (error) => error,
  )

describe('connection', () => {
  const query = `select current_user::text as who, current_setting('application_name') as name, current_setting('work_mem') as memory`

  it('is what `pg` takes, and a text in it may be a secret', async () => {
    const { password, ...rest } = place()
    vi.stubEnv('THE_PASSWORD', password)
    const connection = { ...rest, password: secret('THE_PASSWORD'), options: '-c work_mem=1234kB' }
    expect(await readOne(postgres({ connection, query }))).toEqual({
      who: 'postgres',
      name: 'spillway',
      memory: '1234kB',
    })
    vi.unstubAllEnvs()
    expect((await failing(postgres({ connection, query }))).message).toMatch(
      /^postgres: connection.password: secret THE_PASSWORD is missing/,
    )
  })

  it('names the program as it says, in the url too', async () => {
    const connection = { ...place(), application_name: 'nightly' }
    expect(await readOne(postgres({ connection, query }))).toMatchObject({ name: 'nightly' })
    const url = `${database.url}?application_name=weekly`
    expect(await readOne(postgres({ url, query }))).toMatchObject({ name: 'weekly' })
  })

  it('may give the password when it is asked for, as tokens that expire are', async () => {
    const { password, ...rest } = place()
    const connection = { ...rest, password: async () => password }
    expect(await readOne(postgres({ connection, query }))).toMatchObject({ who: 'postgres' })
  })

  it.each<[string, object, RegExp]>([
    ['none', {}, /^postgres: give one of `url`/],
    ['two', { url: 'postgres://h/d', connection: {} }, /^postgres: give one of `url`/],
    ['a stream', { connection: { stream: () => {} } }, /^postgres: connection: `stream` cannot be given/],
    [
      'a stranger',
      { connection: {}, ssl: true },
      /^postgres: there is no option ssl; the options are url, connection, /,
    ],
    ['no channel', { connection: {}, listen: [] }, /^postgres: `listen` must be the name of a channel/],
    ['a long channel', { connection: {}, listen: 'x'.repeat(64) }, /^postgres: `listen` must be the name of a channel/],
    ['an empty channel', { connection: {}, listen: ['a', ''] }, /^postgres: `listen` must be the name of a channel/],
    ['one client', { pool: new pg.Client(), listen: 'a' }, /^postgres: `listen` takes a connection of its own/],
  ])('is refused when it cannot be right: %s', (_, options, message) => {
    const make = () => postgres({ table: 't', ...options } as PostgresOptions)
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(message)
  })

  it('is refused when it is made, where `pg` does not take it, without a word of a password', async () => {
    const connection = { connectionString: 'postgres://user:hu/sh@host/db' }
    const error = await failing(postgres({ connection, table: 't' }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).not.toContain('sh')
  })
})

describe('TLS', () => {
  let ca: string

  beforeAll(async () => {
    const { rows } = await database.client.query('show data_directory')
    const folder = rows[0].data_directory
    const [certificate, key] = [join(folder, 'server.crt'), join(folder, 'server.key')]
    const name = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
    const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
    await promisify(execFile)('openssl', ['req', ...kind, ...name, '-keyout', key, '-out', certificate])
    ca = await readFile(certificate, 'utf8')
    // the server takes no key that another could read
    const { uid, gid } = await stat(folder)
    for (const file of [certificate, key]) await chown(file, uid, gid)
    await chmod(key, 0o600)
    await database.client.query('alter system set ssl = on')
    await database.client.query('select pg_reload_conf()')
    while ((await database.client.query('show ssl')).rows[0].ssl !== 'on')
      await database.client.query('select pg_sleep(0.01)')
  }, 60_000)

  const query = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'

  it('is used as `ssl` says', async () => {
    expect(await readOne(postgres({ connection: { ...place(), ssl: { ca } }, query }))).toEqual({ ssl: true })
    expect(await readOne(postgres({ connection: place(), query }))).toEqual({ ssl: false })
    const connectionString = database.url.replace('127.0.0.1', 'localhost')
    expect(await readOne(postgres({ connection: { connectionString, ssl: { ca } }, query }))).toEqual({ ssl: true })
  })

  it('is used by the pool that has it', async () => {
    const pool = new pg.Pool({ ...place(), ssl: { ca }, max: 1 })
    expect(await readOne(postgres({ pool, query }))).toEqual({ ssl: true })
    await pool.end()
  })

  it('is refused with a certificate that nobody vouches for, or for another host', async () => {
    const { port } = place()
    const next =
      "give the authority that signed the server's certificate as `ca` of `ssl`, and the host by the name in it"
    expect(await failing(postgres({ connection: { ...place(), ssl: {} }, query }))).toEqual(
      new SourceError(`postgres: localhost:${port}: self-signed certificate (DEPTH_ZERO_SELF_SIGNED_CERT): ${next}`),
    )
    const servername = 'db.example'
    const { message } = await failing(
      postgres({ connection: { ...place(), host: '127.0.0.1', ssl: { ca, servername } }, query }),
    )
    expect(message).toMatch(/ERR_TLS_CERT_ALTNAME_INVALID.*give the authority/)
  })

  it('does not keep a query from being stopped', async () => {
    const controller = new AbortController()
    const long = 'select pg_sleep(60)'
    const read = readAll(postgres({ connection: { ...place(), ssl: { ca } }, query: long }), {
      signal: controller.signal,
    })
    const running = { text: `select from pg_stat_activity where query = $1 and state = 'active'`, values: [long] }
    while ((await database.client.query(running)).rowCount === 0) await database.client.query('select pg_sleep(0.01)')
    controller.abort(new Error('stop it'))
    await expect(read).rejects.toThrow('stop it')
  }, 5_000)
})

describe('listen', () => {
  /** What is notified, one by one, until the test ends. */
  function listening(options: Partial<PostgresOptions> = {}) {
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const source = postgres({ url: database.url, table: 't', listen: 'orders', ...options } as PostgresOptions)
    const arrivals = sourceOf(source, 'test').arrivals!(stop.signal)[Symbol.asyncIterator]()
    return { stop, next: async () => (await arrivals.next()).done !== true }
  }

  const notify = (channel: string) => database.client.query('select pg_notify($1, $2)', [channel, ''])
  const listeners = `from pg_stat_activity where query like 'listen%'`
  const cutOff = () => database.client.query(`select pg_terminate_backend(pid) ${listeners}`)

  it('tells that it has begun, then of what is notified in any of its channels; of several at once, once', async () => {
    const { next } = listening({ listen: ['orders', 'A "name"'] })
    expect(await next()).toBe(true)
    const first = next()
    await notify('other')
    await notify('A "name"')
    expect(await first).toBe(true)
    await database.client.query(`select pg_notify('orders', '1'), pg_notify('orders', '2')`)
    expect(await next()).toBe(true)
    let again = false
    const waiting = next().then(() => {
      again = true
    })
    await database.client.query('select pg_sleep(0.05)')
    expect(again).toBe(false)
    await notify('orders')
    await waiting
  })

  it('ends with the signal, and closes its connection', async () => {
    const [asking, silent] = [listening(), listening()]
    await Promise.all([asking.next(), silent.next()])
    const last = asking.next()
    asking.stop.abort()
    silent.stop.abort()
    expect(await last).toBe(false)
    while ((await database.client.query(`select ${listeners}`)).rowCount! > 0)
      await database.client.query('select pg_sleep(0.01)')
    expect(await silent.next()).toBe(false)
  })

  it('connects again when the connection is lost, and tells so, for something may have been missed', async () => {
    const { next } = listening()
    await next()
    const after = next()
    await cutOff()
    expect(await after).toBe(true)
    const heard = next()
    await notify('orders')
    expect(await heard).toBe(true)
  })

  it('notices that the server does not answer any more, though nothing says so', async () => {
    let deaf = false
    const sockets: Socket[] = []
    const gateway = createServer((near) => {
      const far = connect(Number(new URL(database.url).port), '127.0.0.1')
      sockets.push(near, far)
      for (const socket of [near, far]) socket.on('error', () => {})
      near.on('data', (data) => deaf || far.write(data))
      far.on('data', (data) => deaf || near.write(data))
    }).listen(0, '127.0.0.1')
    await once(gateway, 'listening')
    const { next } = listening({
      url: Object.assign(new URL(database.url), { port: String((gateway.address() as AddressInfo).port) }).href,
    })
    await next()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => {
      vi.useRealTimers()
      for (const socket of sockets) socket.destroy()
      gateway.close()
    })
    const after = next()
    deaf = true
    const opened = sockets.length
    for (let seconds = 0; sockets.length === opened; seconds++) {
      expect(seconds).toBeLessThan(80)
      // what was asked after a minute is lost; whoever asks anew is heard
      if (seconds === 65) deaf = false
      await vi.advanceTimersByTimeAsync(1_000)
      await new Promise((resolve) => setImmediate(resolve))
    }
    vi.useRealTimers()
    expect(await after).toBe(true)
  })

  it('takes a connection of its own beside a pool', async () => {
    const pool = new pg.Pool({ ...place(), max: 1 })
    const { next } = listening({ url: undefined, pool })
    expect(await next()).toBe(true)
    const heard = next()
    await notify('orders')
    expect(await heard).toBe(true)
    expect(pool.totalCount).toBe(0)
    await pool.end()
  })

  it('fails where it cannot connect at first, and when the server refuses it later', async () => {
    await expect(listening({ url: 'postgres://u:hush@127.0.0.1:1/d' }).next()).rejects.toThrow(
      'postgres: 127.0.0.1:1: nothing listens there (ECONNREFUSED)',
    )
    await database.client.query(`create role ear login password 'ear'`)
    const url = Object.assign(new URL(database.url), { username: 'ear', password: 'ear' }).href
    const { next } = listening({ url })
    await next()
    await database.client.query('alter role ear nologin')
    const after = next()
    await cutOff()
    await expect(after).rejects.toThrow(/user ear was refused \(28000\)/)
  })

  it('is nothing that a source without it has', () => {
    expect(sourceOf(postgres({ url: database.url, table: 't' }), 'test').arrivals).toBeUndefined()
    const changed = postgres({ url: database.url, table: 't', listen: 'orders' }).filter(() => true)
    expect(sourceOf(changed, 'test').arrivals).toBeDefined()
  })
})
