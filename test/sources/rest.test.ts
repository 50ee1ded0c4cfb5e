import { afterEach, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { redact, secret } from '../../src/config.js'
import { ConfigError, SourceError } from '../../src/errors.js'
import { createHttp } from '../../src/http.js'
import { type AnyRow, destination, source, sync } from '../../src/index.js'
import { type RestAuth, type RestResource, rest, restClient } from '../../src/sources/rest.js'
import { quiet as log } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { type Asked, type Given, rows, startApi } from './api.js'
import { batchesOf, readAll } from './reading.js'

afterEach(() => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
  vi.useRealTimers()
})

const failure = async (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => Promise.reject(new Error('nothing failed')),
    (error) => error,
  )

describe('auth', () => {
  it.each<[string, (value: ReturnType<typeof secret>) => RestAuth, (asked: Asked) => unknown, string]>([
    ['bearer', (bearer) => ({ bearer }), ({ headers }) => headers.authorization, 'Bearer key of 1/2+3'],
    ['a header', (value) => ({ header: 'X-Api-Key', value }), ({ headers }) => headers['x-api-key'], 'key of 1/2+3'],
    ['a parameter', (value) => ({ query: 'api_key', value }), ({ query }) => query['api_key'], 'key of 1/2+3'],
    [
      'basic',
      (password) => ({ basic: { username: 'ada', password } }),
      ({ headers }) => Buffer.from(headers.authorization!.slice(6), 'base64').toString(),
      'ada:key of 1/2+3',
    ],
  ])('by %s signs every page, and no error shows it', async (_, auth, sent, expected) => {
    vi.stubEnv('API_KEY', 'key of 1/2+3')
    const { url, asked } = await startApi((one, number) =>
      number < 3
        ? { body: { items: rows(number), next: `?p=${number + 1}` } }
        : { status: 400, body: { message: `not with ${one.headers.authorization} and ${one.url}: key of 1/2+3` } },
    )
    const error = await failure(readAll(rest({ url: `${url}/list`, auth: auth(secret('API_KEY')) })))
    expect(asked.map(sent)).toEqual([expected, expected, expected])
    expect(error.message).toContain(`400 from GET ${url}/list: not with`)
    expect(error.message).toContain('(page 3)')
    const forms = ['key of', '1/2', '1%2F2', Buffer.from('ada:key of 1/2+3').toString('base64')]
    expect(forms.filter((form) => error.message.includes(form))).toEqual([])
  })

  it('a value that is no secret() is redacted as well', async () => {
    const { url } = await startApi(() => ({ status: 400, body: { message: 'bad value plain-value-0815' } }))
    const error = await failure(readAll(rest({ url, auth: { query: 'k', value: 'plain-value-0815' } })))
    expect(error.message).toContain('bad value [redacted]')
  })

  it('a secret that is missing is told before anything is sent', async () => {
    const { url, asked } = await startApi(() => ({ body: [] }))
    const headers = { 'x-tenant': secret('NO_SUCH_TENANT') }
    const error = await failure(readAll(rest({ url, auth: { bearer: secret('NO_SUCH_TOKEN') } })))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toContain('rest: auth.bearer (token): secret NO_SUCH_TOKEN is missing: set the environment')
    expect((await failure(readAll(rest({ url, headers })))).message).toContain('rest: headers.x-tenant: secret NO_SUCH')
    expect(asked).toEqual([])
  })

  it('by 401 ends the read at once, where there is no other token', async () => {
    const { url, asked } = await startApi(() => ({ status: 401 }))
    const error = await failure(readAll(rest({ url, auth: { bearer: 'token-4711' } })))
    expect(error.message).toBe(`test: 401 from GET ${url}/: check the credentials; not retried (page 1)`)
    expect(asked).toHaveLength(1)
  })

  it.each<[object, string]>([
    [{}, 'auth must be one of'],
    [{ bearer: 'a', query: 'b' }, 'auth must be one of'],
    [{ token: 'a' }, 'auth must be one of'],
    [{ header: 'a', vlaue: 'b' }, 'auth: there is no option vlaue; the options are header, value'],
    [{ basic: { user: 'a' } }, 'auth.basic: there is no option user'],
    [{ oauth2: { tokenUrl: 'x' } }, 'auth.oauth2.tokenUrl must be a whole address'],
    [{ oauth2: { tokenUrl: 'https://a.test', client: 'x' } }, 'auth.oauth2: there is no option client'],
  ])('that is none is refused: %j', (auth, message) => {
    const make = () => rest({ url: 'https://a.test', auth: auth as RestAuth })
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(`rest: ${message}`)
  })
})

describe('client credentials (OAuth 2)', () => {
  /** An API that takes the latest token, and gives tokens that last a minute. */
  async function guarded(change: (asked: Asked, tokens: number) => Given | undefined = () => undefined) {
    let tokens = 0
    let revoked = 0
    const api = await startApi((one) => {
      const other = change(one, tokens)
      if (other) return other
      if (one.path === '/token') {
        tokens += 1
        return { body: { access_token: `token-number-${tokens}`, token_type: 'bearer', expires_in: 60 } }
      }
      const valid = one.headers.authorization === `Bearer token-number-${tokens}` && revoked < tokens
      if (!valid) return { status: 401, body: { message: `no ${one.headers.authorization}` } }
      const page = Number(one.query['p'] ?? 1)
      return { body: { items: rows(page), next: page < 3 ? `?p=${page + 1}` : null } }
    })
    const oauth2 = { tokenUrl: `${api.url}/token`, clientId: 'id/1', clientSecret: 'secret of the client' }
    return { ...api, oauth2, tokens: () => tokens, revoke: () => (revoked = tokens) }
  }
  const asking = ({ asked }: { asked: readonly Asked[] }) => asked.filter(({ path }) => path === '/token')

  it('ask for a token once, and again when it has half a minute left; it is kept from read to read', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const api = await guarded()
    const from = rest({
      url: `${api.url}/list`,
      auth: { oauth2: { ...api.oauth2, scope: 'a b', parameters: { audience: 'x' } } },
    })
    expect((await readAll(from)).rows).toEqual(rows(1, 2, 3))
    vi.advanceTimersByTime(29_000)
    await readAll(from)
    expect(api.tokens()).toBe(1)
    vi.advanceTimersByTime(2_000)
    await readAll(from)
    expect(api.tokens()).toBe(2)
    const [{ method, body, headers }] = asking(api) as [Asked]
    expect([method, body]).toEqual(['POST', 'grant_type=client_credentials&scope=a+b&audience=x'])
    expect(headers['content-type']).toBe('application/x-www-form-urlencoded')
    expect(Buffer.from(headers.authorization!.slice(6), 'base64').toString()).toBe('id%2F1:secret%20of%20the%20client')
  })

  it('may stand in the form', async () => {
    const api = await guarded()
    await readAll(rest({ url: `${api.url}/list`, auth: { oauth2: { ...api.oauth2, credentials: 'form' } } }))
    const [{ body, headers }] = asking(api) as [Asked]
    expect(body).toBe('grant_type=client_credentials&client_id=id%2F1&client_secret=secret+of+the+client')
    expect(headers.authorization).toBe(undefined)
  })

  it('ask for another token after 401 in the middle of a list, and for no third one', async () => {
    const api = await guarded()
    const client = restClient({ url: `${api.url}/list`, auth: { oauth2: api.oauth2 } })
    const pages = client.pages()
    await pages.next()
    api.revoke()
    expect((await pages.next()).value!.rows).toEqual(rows(2))
    expect(api.tokens()).toBe(2)

    const refusing = await guarded(({ path }) =>
      path === '/token' ? undefined : { status: 401, body: { message: 'no' } },
    )
    const error = await failure(readAll(rest({ url: `${refusing.url}/list`, auth: { oauth2: refusing.oauth2 } })))
    expect(error.message).toContain(`401 from GET ${refusing.url}/list: no: check the credentials`)
    expect(refusing.tokens()).toBe(2)
  })

  it('are asked for one token, however many lists begin at once', async () => {
    const api = await guarded(({ path }) => (path === '/list' ? { body: rows(1) } : undefined))
    const client = restClient({ url: api.url, auth: { oauth2: api.oauth2 } })
    await Promise.all([1, 2, 3].map(() => client.get('/list')))
    expect(api.tokens()).toBe(1)
  })

  it.each<[string, Given, string]>([
    [
      'are refused',
      { status: 401, body: { error: 'invalid_client' } },
      'invalid_client: check the credentials; not retried (asking for a token, auth.oauth2)',
    ],
    [
      'get no token',
      { body: { error: 'soon' } },
      'holds no bearer token (access_token, token_type): check auth.oauth2',
    ],
    ['get another kind of token', { body: { access_token: 'abcdef-9', token_type: 'mac' } }, 'holds no bearer token'],
  ])('say when they %s', async (_, given, message) => {
    const api = await guarded(({ path }) => (path === '/token' ? given : undefined))
    const error = await failure(readAll(rest({ url: `${api.url}/list`, auth: { oauth2: api.oauth2 } })))
    expect(error.message).toContain(`POST ${api.url}/token`)
    expect(error.message).toContain(message)
    expect(error.message).not.toContain('secret of')
    expect(asking(api)).toHaveLength(1)
  })

  it('have their token redacted', async () => {
    const api = await guarded(({ path, headers }) =>
      path === '/token'
        ? undefined
        : { status: 400, body: { message: `bad: ${headers.authorization!.slice(7, 19)}-` } },
    )
    await failure(readAll(rest({ url: api.url, auth: { oauth2: api.oauth2 } })))
    expect(redact('it was token-number-1, yes')).toBe('it was [redacted], yes')
  })
})

describe('rest() with one list', () => {
  it('is a source that can be read again, validated row by row', async () => {
    const { url } = await startApi(() => ({
      body: {
        items: [
          { id: 1, at: '2026-01-31' },
          { id: 2, at: '2026-02-01' },
        ],
      },
    }))
    const from = rest({ url, record: z.object({ id: z.number(), at: z.coerce.date() }) })
    for (const _ of [1, 2]) expect((await readAll(from)).rows[1]).toEqual({ id: 2, at: new Date('2026-02-01') })
    const strict = rest({ name: 'days', url, record: z.object({ id: z.number().max(1) }) })
    const error = await failure(readAll(strict))
    expect(error).toBeInstanceOf(SourceError)
    expect(error.message).toMatch(/^days: row 2 does not fit `record`: id: /)
  })

  it('asks for what is new by the parameter that says so, in its form', async () => {
    const { url, asked } = await startApi(() => ({ body: [] }))
    const seconds = { parameter: 'from', format: (since: unknown) => Math.floor((since as Date).getTime() / 1000) }
    await readAll(rest({ url, since: 'since', query: { state: 'all' } }))
    await readAll(rest({ url, since: 'since' }), { since: '2026-01-31' })
    await readAll(rest({ url, since: 'since' }), { since: new Date(0) })
    await readAll(rest({ url, since: { parameter: 'after' } }), { since: 12345678901234567n })
    await readAll(rest({ url, since: seconds }), { since: new Date(61_000) })
    await readAll(rest({ url }), { since: 7 })
    expect(asked.map((one) => one.url)).toEqual([
      '/?state=all',
      '/?since=2026-01-31',
      '/?since=1970-01-01T00%3A00%3A00.000Z',
      '/?after=12345678901234567',
      '/?from=61',
      '/',
    ])
  })

  it('in a sync with a cursor, asks from where the last run ended, and sends nothing twice', async () => {
    const all = [1, 2, 3].map((id) => ({ id, updated_at: `2026-01-0${id}` }))
    const { url, asked } = await startApi(({ query }, number) => ({
      body: all.filter(({ updated_at }) => updated_at >= (query['since'] ?? '')).slice(0, number === 1 ? 2 : 3),
    }))
    const seen: AnyRow[] = []
    const state = await stateFolder()
    const issues = sync({
      name: 'issues',
      from: rest({ url, since: 'since' }),
      to: destination(10)((batch) => void seen.push(...batch)),
      cursor: 'updated_at',
      state,
      log,
    })
    await issues.run()
    await issues.run()
    expect(seen).toEqual(all)
    expect(asked.map((one) => one.url)).toEqual(['/', '/?since=2026-01-02'])
  })

  it('stops asking when enough was read, and when the signal says so', async () => {
    const controller = new AbortController()
    const { url, asked } = await startApi((_, number) => ({ body: { items: rows(number), next: `?p=${number + 1}` } }))
    expect((await readAll(rest({ url }).limit(2))).rows).toEqual(rows(1, 2))
    expect(asked).toHaveLength(2)
    const { signal } = controller
    const batches = batchesOf(rest({ url }), { signal })[Symbol.asyncIterator]()
    await batches.next()
    controller.abort(new Error('stopped'))
    await expect(batches.next()).rejects.toThrow('stopped')
    expect(asked).toHaveLength(3)
  })
})

describe('rest() with resources', () => {
  /** Issues, two on a page, with comments, one on a page, that carry the number of their issue in their ids. */
  async function tracker(change: (asked: Asked) => Given | undefined | Promise<Given | undefined> = () => undefined) {
    return startApi(async ({ path, query, ...one }) => {
      const other = await change({ path, query, ...one })
      if (other) return other
      const page = Number(query['page'] ?? 1)
      const link = { link: `<?page=${page + 1}>; rel=next` }
      if (path === '/issues') {
        const issue = (number: number) => ({ id: number * 1000, number, user: { login: `u${number}` }, title: null })
        return { headers: page < 3 ? link : {}, body: [page * 2 - 1, page * 2].map(issue) }
      }
      const number = Number(path.split('/')[2])
      const most = number % 3 // none, one or two
      return { headers: page < most ? link : {}, body: most === 0 ? [] : rows(number * 10 + page) }
    })
  }
  const comments = { path: '/issues/{number}/comments', parent: 'issues' } as const

  it('gives a source for each, whose children come in the order of their parents, with columns of theirs', async () => {
    const slow = new Set(['/issues/1/comments', '/issues/4/comments'])
    const { url, asked } = await tracker(async ({ path }) => {
      if (slow.has(path)) await new Promise((resolve) => setTimeout(resolve, 30))
      return undefined
    })
    const api = rest({
      url,
      resources: {
        issues: { path: 'issues', defaults: { key: 'number' } },
        comments: { ...comments, include: { issue: 'number', by: 'user.login', title: 'title', gone: 'no.such' } },
      },
    })
    const read = (await readAll(api.comments)).rows
    expect(read.map(({ id }) => id)).toEqual([11, 21, 22, 41, 51, 52])
    expect(read[2]).toEqual({ id: 22, issue: 2, by: 'u2', title: null, gone: null })
    expect(asked.filter(({ path }) => path === '/issues')).toHaveLength(3)
    expect((await readAll(api.issues)).rows.map(({ number }) => number)).toEqual([1, 2, 3, 4, 5, 6])
  })

  it('asks for at most `concurrency` children at once', async () => {
    for (const [concurrency, most] of [
      [undefined, 4],
      [2, 2],
      [1, 1],
    ] as const) {
      let arrived = 0
      let held = 0
      let open = (): void => {}
      const opened = new Promise<void>((resolve) => {
        open = resolve
      })
      const { url } = await tracker(async ({ path }) => {
        if (path === '/issues') return undefined
        arrived += 1
        // the last one that may come waits for another that should not
        if (arrived === most) await new Promise((resolve) => setTimeout(resolve, 50)).then(open)
        else await opened
        held ||= arrived
        return undefined
      })
      const api = rest({
        url,
        resources: { issues: { path: '/issues' }, comments },
        ...(concurrency && { concurrency }),
      })
      expect((await readAll(api.comments)).rows).toHaveLength(6)
      expect(held).toBe(most)
    }
  })

  it('asks for children of children; what is new is asked of the children, not of their parents', async () => {
    const { url, asked } = await startApi(({ path }) => ({ body: path === '/a' ? [{ id: 'x/y' }] : [{ n: 5 }] }))
    const api = rest({
      url,
      resources: {
        reactions: { path: '/b/{n}/c', parent: 'comments', since: 'since', include: { n: 'n' } },
        comments: { path: '/a/{id}/b?full=1', parent: 'issues', since: 'since' },
        issues: { path: '/a', since: 'since' },
      },
    })
    await failure(readAll(api.reactions)) // their rows have a column n themselves
    expect(asked.map((one) => one.url)).toEqual(['/a', '/a/x%2Fy/b?full=1', '/b/5/c'])
    await readAll(api.comments, { since: 9 })
    // a parent that has not changed may well have a new child
    expect(asked.slice(-2).map((one) => one.url)).toEqual(['/a', '/a/x%2Fy/b?full=1&since=9'])
  })

  it('validates children with the columns of their parents', async () => {
    const { url } = await tracker()
    const record = z.strictObject({ id: z.number(), issue: z.number() })
    const api = rest({
      url,
      resources: { issues: { path: '/issues' }, comments: { ...comments, include: { issue: 'number' }, record } },
    })
    expect((await readAll(api.comments)).rows[0]).toEqual({ id: 11, issue: 1 })
  })

  it('a child that is gone is an error that says how to go on, or no rows', async () => {
    const { url } = await tracker(({ path }) => (path === '/issues/2/comments' ? { status: 404 } : undefined))
    const read = (notFound?: 'no rows') =>
      readAll(
        rest({ name: 'hub', url, resources: { issues: { path: '/issues' }, comments: { ...comments, notFound } } })
          .comments,
      )
    const error = await failure(read())
    expect(error).toBeInstanceOf(SourceError)
    expect(error.message).toMatch(
      /404 from GET .*\/issues\/2\/comments: .* \(page 1\)\. If it may .* notFound: 'no rows'$/,
    )
    expect((await read('no rows')).rows.map(({ id }) => id)).toEqual([11, 41, 51, 52])
  })

  it.each<[string, (asked: Asked) => Given | undefined]>([
    ['a list of parents', ({ path }) => (path === '/issues' ? { status: 404 } : undefined)],
    [
      'a later page of a child',
      ({ path, query }) => (path === '/issues/2/comments' && query['page'] ? { status: 404 } : undefined),
    ],
    ['another status', ({ path }) => (path === '/issues/2/comments' ? { status: 403 } : undefined)],
  ])('but %s that is gone is always an error', async (_, change) => {
    const { url } = await tracker(change)
    const api = rest({
      url,
      resources: { issues: { path: '/issues' }, comments: { ...comments, notFound: 'no rows' } },
    })
    expect((await failure(readAll(api.comments))).message).toMatch(/40[34] from GET/)
  })

  it('nor is the place of tokens taken for a child that is gone', async () => {
    const { url } = await tracker(({ path }) => (path === '/token' ? { status: 404 } : undefined))
    const oauth2 = { tokenUrl: `${url}/token`, clientId: 'id', clientSecret: 'secret-1' }
    const api = rest({
      url,
      auth: { oauth2 },
      resources: { issues: { path: '/issues' }, comments: { ...comments, notFound: 'no rows' } },
    })
    expect((await failure(readAll(api.comments))).message).toContain('asking for a token')
  })

  it.each([null, undefined, '', '.', '..', { a: 1 }])(
    'a parent without a value for the path is an error: %j',
    async (id) => {
      const { url, asked } = await startApi(({ path }) => ({ body: path === '/a' ? [{ id }] : [] }))
      const api = rest({ url, resources: { a: { path: '/a' }, b: { path: '/a/{id}/b', parent: 'a' } } })
      const error = await failure(readAll(api.b))
      expect(error.message).toContain('a row of a has no id that could stand in /a/{id}/b: check')
      expect(asked).toHaveLength(1)
    },
  )

  it('a column of the child is not overwritten', async () => {
    const { url } = await tracker()
    const api = rest({
      url,
      resources: { issues: { path: '/issues' }, comments: { ...comments, include: { id: 'number' } } },
    })
    expect((await failure(readAll(api.comments))).message).toContain(
      'the rows have a column id themselves: choose another',
    )
  })

  it('one child that fails ends the read, and nothing is left unhandled', async () => {
    const unhandled = vi.fn()
    process.on('unhandledRejection', unhandled)
    const { url } = await tracker(({ path }) => (path === '/issues' ? undefined : { status: 403 }))
    const api = rest({ url, resources: { issues: { path: '/issues' }, comments } })
    expect((await failure(readAll(api.comments))).message).toContain('/issues/1/comments')
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(unhandled).not.toHaveBeenCalled()
    process.off('unhandledRejection', unhandled)
  })

  it('each source has a name of its own, and the defaults that `sync` takes', async () => {
    const { url } = await tracker()
    const api = rest({
      name: 'hub',
      url,
      resources: { issues: { path: '/issues', defaults: { key: 'number', mode: 'insert' } }, comments },
    })
    expect([api.issues.name, api.comments.name, api.comments.defaults]).toEqual(['hub.issues', 'hub.comments', {}])
    const seen: AnyRow[] = []
    const to = destination(10)((batch) => void seen.push(...batch))
    const issues = sync({
      name: 'issues',
      from: api.issues,
      to,
      ...api.issues.defaults,
      state: await stateFolder(),
      log,
    })
    expect(await issues.run()).toMatchObject({ delivered: 6 })
    expect(await issues.run()).toMatchObject({ delivered: 0, unchanged: 6 })
  })

  it.each<[string, Record<string, object>, object, string]>([
    ['no path', { a: {} }, {}, 'resources.a: path is missing'],
    [
      'an unknown option',
      { a: { path: '/a', primaryKey: 'id' } },
      {},
      'resources.a: there is no option primaryKey; the options',
    ],
    ['a wrong paginator', { a: { path: '/a', paginate: 'x' } }, {}, "resources.a.paginate must be 'link'"],
    ['a wrong since', { a: { path: '/a', since: {} } }, {}, 'resources.a.since must be the name of a parameter'],
    [
      'no such parent',
      { a: { path: '/{id}', parent: 'b' } },
      {},
      'resources.a: there is no resource b; the resources are a',
    ],
    ['a parent that is not used', { a: { path: '/a', parent: 'a' } }, {}, 'resources.a: its path names no column of a'],
    ['a parent that is not said', { a: { path: '/{id}' } }, {}, 'resources.a: name the `parent` whose row has id'],
    [
      'its own parent',
      { a: { path: '/{id}', parent: 'b' }, b: { path: '/{id}', parent: 'a' } },
      {},
      'resources.a is a parent of itself: a, b, a',
    ],
    [
      'include without a parent',
      { a: { path: '/a', include: {} } },
      {},
      'resources.a: include and notFound are for resources with a parent',
    ],
    ['since outside', { a: { path: '/a' } }, { since: 'x' }, 'since and record belong to each resource'],
    ['no concurrency', { a: { path: '/a' } }, { concurrency: 0 }, 'concurrency must be a whole number above 0'],
    ['an unknown option outside', { a: { path: '/a' } }, { token: 'x' }, 'there is no option token'],
  ])('refuses %s before anything is sent', (_, resources, options, message) => {
    const make = () => rest({ url: 'https://a.test', ...options, resources: resources as Record<string, RestResource> })
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(`rest: ${message}`)
  })
})

describe('sources from a list', () => {
  it('are resources made by a program', async () => {
    const { url } = await startApi(({ path }) => ({ body: [{ path }] }))
    const tables = ['people', 'orders']
    const api = rest({ url, resources: Object.fromEntries(tables.map((table) => [table, { path: `/${table}` }])) })
    const read = await Promise.all(tables.map(async (table) => (await readAll(api[table]!)).rows))
    expect(read).toEqual([[{ path: '/people' }], [{ path: '/orders' }]])
  })

  it('or one source over a client for each, in the run that reads it', async () => {
    const shards = await Promise.all([1, 2].map((shard) => startApi(() => ({ body: [{ id: shard }] }))))
    const all = source(async function* (read) {
      for (const { url } of shards) {
        for await (const { rows } of restClient({ url }, read).pages('/rows', { query: { since: String(read.since) } }))
          yield rows
      }
    })
    const http = createHttp({ actor: 'run', signal: new AbortController().signal, timeout: 1_000 })
    expect((await readAll(all, { since: 7, http })).rows).toEqual(rows(1, 2))
    expect(shards.map(({ asked }) => asked[0]!.url)).toEqual(['/rows?since=7', '/rows?since=7'])
  })
})

it('a read in a run retries as the run does, and its errors say what was kept', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0)
  const { url } = await startApi(({ query }, number) => {
    if (number === 2) return { status: 503 }
    if (query['p'] === '3') return { body: '<html>' }
    return { body: { items: rows(number), next: query['p'] ? '?p=3' : '?p=2' } }
  })
  const seen: AnyRow[] = []
  const to = destination(10)((batch) => void seen.push(...batch))
  const error = await failure(sync({ name: 'list', from: rest({ url }), to, state: await stateFolder(), log }).run())
  expect(error.message).toContain('a web page such as a sign-in form; check the address and the credentials (page 3)')
  expect(seen).toEqual(rows(1, 3))
})
