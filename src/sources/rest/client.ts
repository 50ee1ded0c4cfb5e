import { redact, resolveSecret, type Secret } from '../../config.js'
import { type Duration, milliseconds } from '../../duration.js'
import { SourceError } from '../../errors.js'
import { createHttp, type Http, HttpError, type HttpRequest, NetworkError, notJson, TimeoutError } from '../../http.js'
import type { Read } from '../../source.js'
import type { AnyRow } from '../../values.js'
import { exactJson } from '../sql.js'
import { type RestAuth, type Signing, signing } from './auth.js'
import { type Data, selector } from './body.js'
import { type Checked, checked, httpUrl } from './options.js'
import { checkPaginate, type Paginate, type Query, type RestPage, walk } from './paginate.js'

/** How a list is asked for, and read. */
export interface RestList {
  /** Parameters of the address of the first page. What is `undefined` is left out. */
  readonly query?: Query | undefined
  /**
   * How the list goes on.
   *
   * @default what the first page shows, by the first of these that it has: a `Link` header with `rel="next"`; an address (`next`,
   * `links.next`, `@odata.nextLink`, …); a cursor whose parameter is known (`nextPageToken`, `next_cursor`, `paging.next.after`, …);
   * a number of pages (`total_pages`, …), for the parameter `page`; `total` beside `offset`, for the parameter `offset`. A page that says
   * in another way that there is more (`has_more`, a `total` above its rows) is an error, not the end. A bare array without
   * a `Link` header is all there is: where it is not, say `paginate`.
   */
  readonly paginate?: Paginate | undefined
  /**
   * Where the rows are: a dotted path (`''` is the whole answer; an object there is one row, null none), or a function of the answer.
   *
   * @default the answer when it is an array, else the one list in it, or the one called `data`, `items`, `results`, …; of the answer
   * itself, or of the object in it called `data`, `result`, `response` or the like
   */
  readonly data?: Data | undefined
}

/** An API, and what holds for all that is asked of it. */
export interface RestApi extends RestList {
  /** Names the source in messages. @default 'rest' */
  readonly name?: string | undefined
  /** What all addresses begin with, such as `https://api.example/v2`. Its own parameters are sent with each first page. */
  readonly url: string
  readonly auth?: RestAuth | undefined
  readonly headers?: Readonly<Record<string, string | Secret>> | undefined
  /** Other origins, such as `https://eu.api.example`, to which a next page may lead, with `auth` and `headers`. @default none */
  readonly origins?: readonly string[] | undefined
  /** Pages of one list, beyond which it is taken for endless: an error. @default 10,000 */
  readonly maxPages?: number | undefined
  /** How long one request and its answer may take. @default '60s' */
  readonly timeout?: Duration | undefined
}

/** A REST API to be asked step by step, with its credentials, retries and pages. Made by {@link restClient}. */
export interface RestClient {
  /**
   * The pages of a list, one request for each. `path` is put behind `url`, with or without a slash.
   *
   * @throws SourceError naming address and page: a status outside 2xx that stays, an answer that is not JSON or has no rows, a next
   * page that was read before or is at another origin, more than `maxPages`.
   */
  pages<R extends object = AnyRow>(path?: string, list?: RestList): AsyncGenerator<RestPage<R>>
  /** The parsed answer, `undefined` for an empty one; integers beyond 2^53 are `bigint`. @throws HttpError, NetworkError, TimeoutError */
  get<T = unknown>(path: string, request?: Pick<HttpRequest, 'query' | 'headers' | 'timeout'>): Promise<T>
  /** The same; sent again after a failure only when `read` says that it changes nothing. */
  post<T = unknown>(path: string, request?: HttpRequest): Promise<T>
}

const options = ['name', 'url', 'auth', 'headers', 'query', 'origins', 'paginate', 'data', 'maxPages', 'timeout']

/**
 * A client for a REST API, for what {@link rest} does not say in words: in a source of one's own, or by itself. What a source function
 * is given may be passed on, so that requests end with the run; without it, what only reads is sent again for five minutes.
 *
 * @example
 * ```ts
 * const shards = ['https://eu.api.example', 'https://us.api.example']
 * const all = source(async function* (read) {
 *   for (const url of shards) {
 *     for await (const { rows } of restClient({ url, auth: { bearer: secret('TOKEN') } }, read).pages('/orders')) yield rows
 *   }
 * })
 * ```
 *
 * @throws ConfigError when an option cannot work, or is none.
 */
export function restClient(api: RestApi, read: Partial<Pick<Read, 'http' | 'signal'>> = {}): RestClient {
  const signal = read.signal ?? new AbortController().signal
  const actor = api.name ?? 'rest'
  return prepare(api)(read.http ?? createHttp({ actor, signal, timeout: 60_000, retryReads: { budget: 300_000 } }))
}

/** Checks the options, and gives what makes a client for each read; a token is kept from one to the next. */
export function prepare(api: RestApi): (http: Http, name?: string) => RestClient {
  const check = checked(api.name ?? 'rest')
  const { wrong } = check
  check.refuseOthers(api, options)
  const base = httpUrl(api.url, 'url', wrong)
  const origins = new Set(
    [base, ...(api.origins ?? []).map((one) => httpUrl(one, 'origins', wrong))].map((url) => url.origin),
  )
  const { maxPages = 10_000 } = api
  if (!Number.isInteger(maxPages) || maxPages < 1) throw wrong('maxPages must be a whole number above 0')
  checkList(api, '', check)
  if (api.timeout !== undefined) milliseconds(api.timeout, `${check.name}: timeout`)
  const known = { api, base, origins, maxPages, sign: signing(api.auth, check), check }
  return (http, name = check.name) => clientOf(known, http, name)
}

/** @throws ConfigError when `paginate` or `data` is none. */
export function checkList({ paginate, data }: RestList, where: string, check: Checked): void {
  checkPaginate(paginate, `${where}paginate`, check)
  if (data !== undefined && typeof data !== 'string' && typeof data !== 'function') {
    throw check.wrong(`${where}data must be a path, such as 'data.items', or a function of the answer`)
  }
}

interface Known {
  readonly api: RestApi
  readonly base: URL
  readonly origins: ReadonlySet<string>
  readonly maxPages: number
  readonly sign: Signing
  readonly check: Checked
}

function clientOf({ api, base, origins, maxPages, sign, check }: Known, http: Http, name: string): RestClient {
  const signature = sign(http)
  let headers: Record<string, string> | undefined

  const addressOf = (path: string, ...queries: (Query | undefined)[]): URL => {
    const url = /^https?:/.test(path)
      ? httpUrl(path, 'the path', check.wrong)
      : path === ''
        ? new URL(base)
        : new URL(`${base.origin}${base.pathname.replace(/\/$/, '')}/${path.replace(/^\//, '')}`)
    if (!origins.has(url.origin)) {
      throw check.wrong(
        `${url.origin} is another origin than that of url: if it may have the credentials, add it to \`origins\``,
      )
    }
    const own = new Set(path === '' ? base.searchParams.keys() : url.searchParams.keys())
    for (const [parameter, value] of base.searchParams) {
      if (!own.has(parameter)) url.searchParams.append(parameter, value)
    }
    for (const [parameter, value] of Object.entries(Object.assign({}, ...queries) as Query)) {
      if (value === undefined) url.searchParams.delete(parameter)
      else url.searchParams.set(parameter, String(value))
    }
    return url
  }

  /** The answer, signed; once more with another token when the first one is refused. */
  const ask = async (
    url: URL,
    request: HttpRequest & { method?: string },
  ): Promise<{ response: Response; body: unknown }> => {
    headers ??= Object.fromEntries(
      Object.entries(api.headers ?? {}).map(([header, value]) => [
        header.toLowerCase(),
        resolveSecret(value, `${name}: headers.${header}`),
      ]),
    )
    const send = async ({ headers: signed, query }: { headers: object; query: Query }): Promise<Response> =>
      http(url.href, {
        timeout: api.timeout,
        ...request,
        query,
        headers: { ...headers, ...request.headers, ...signed },
      })
    const signed = await signature()
    const response = await send(signed).catch(async (error) => {
      if (!signed.renew || !(error instanceof HttpError) || error.status !== 401) throw error
      signed.renew()
      return send(await signature())
    })
    const text = await response.text()
    try {
      return { response, body: text.trim() === '' ? undefined : exactJson(text) }
    } catch {
      const { method = 'GET' } = request
      const answer = { status: response.status, method, url: placeOf(url), body: text }
      throw notJson(name, answer, response.headers.get('content-type'))
    }
  }

  return {
    async *pages<R extends object>(path = '', list: RestList = {}): AsyncGenerator<RestPage<R>> {
      const { paginate = api.paginate, data = api.data } = list
      checkList({ paginate, data }, '', check)
      const rowsIn = selector(data)
      const { first, next } = walk(paginate)
      const asked = new Set<string>()
      let url: URL | undefined = first(addressOf(path, api.query, list.query))
      for (let number = 1; url; number++) {
        const here: URL = url
        const wrong = (problem: string) => new SourceError(`${name}: page ${number} of ${placeOf(here)}: ${problem}`)
        asked.add(here.href)
        const { response, body } = await ask(here, {}).catch((error) => {
          throw onPage(error, number)
        })
        const rows = response.status === 204 ? [] : (rowsIn(body, wrong) as R[])
        const page = { rows, body, headers: response.headers, number }
        yield page
        url = next(page, here, wrong)
        if (!url) return
        if (!origins.has(url.origin)) {
          throw wrong(
            `the next one is at ${url.origin}, and nothing was sent there: if it may have the credentials, add it to \`origins\``,
          )
        }
        if (asked.has(url.href))
          throw wrong('the next one is a page that was read before, so that it would never end: check `paginate`')
        if (number >= maxPages) throw wrong(`there are more than ${maxPages} pages: raise maxPages if that is right`)
      }
    },
    get: async (path, { query, ...request } = {}) =>
      (await ask(addressOf(path, api.query, query), request)).body as never,
    post: async (path, { query, ...request } = {}) =>
      (await ask(addressOf(path, api.query, query), { ...request, method: 'POST' })).body as never,
  }
}

/** As errors may show it: what follows can be a key. */
const placeOf = (url: URL) => redact(url.origin + url.pathname)

/** An error of the client, with the page that it is about. */
function onPage(error: unknown, number: number): unknown {
  const ours = error instanceof HttpError || error instanceof NetworkError || error instanceof TimeoutError
  return ours ? new SourceError(`${error.message} (page ${number})`, { cause: error }) : error
}
