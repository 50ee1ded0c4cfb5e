import { afterEach, describe, expect, it, vi } from 'vitest'
import { ConfigError, SourceError } from '../../src/errors.js'
import { createHttp } from '../../src/http.js'
import { nextLink } from '../../src/sources/rest/paginate.js'
import { type RestApi, type RestList, type RestPage, restClient } from '../../src/sources/rest.js'
import { type Given, rows, startApi } from './api.js'

afterEach(() => void vi.restoreAllMocks())

const ids = (pages: readonly RestPage[]) => pages.map((page) => page.rows.map((row) => row['id']))

/** Reads a list to its end: the ids of each page. */
async function read(url: string, list: RestList = {}, api: Partial<RestApi> = {}, path = '/list') {
  const pages: RestPage[] = []
  for await (const page of restClient({ url, ...api }).pages(path, list)) pages.push(page)
  return ids(pages)
}

/** What ends the reading of a list, with the ids that came before. */
async function failure(url: string, list: RestList = {}, api: Partial<RestApi> = {}) {
  const pages: RestPage[] = []
  try {
    for await (const page of restClient({ url, ...api }).pages('/list', list)) pages.push(page)
  } catch (error) {
    return { before: ids(pages), error: error as Error }
  }
  throw new Error(`it ended after ${JSON.stringify(ids(pages))}`)
}

/** An API whose answers are these, by their order; what comes after them is asked for by mistake. */
const inTurn = (...answers: Given[]) =>
  startApi((_, number) => answers[number - 1] ?? { status: 400, body: { message: 'nothing more was to be asked' } })

describe('the next page by Link', () => {
  it('is followed until there is none, also over an empty page; default parameters are those of the first page', async () => {
    const { url, asked } = await startApi(({ query }) => {
      const page = Number(query['page'] ?? 1)
      const headers = page < 4 ? { link: `</list?page=${page + 1}>; rel="next", </list?page=4>; rel="last"` } : {}
      return { headers: { ...headers }, body: page === 2 ? [] : rows(page) }
    })
    expect(await read(url, { query: { per_page: 100, q: 'a b&c', none: undefined } })).toEqual([[1], [], [3], [4]])
    expect(asked.map((one) => one.url)).toEqual([
      '/list?per_page=100&q=a+b%26c',
      '/list?page=2',
      '/list?page=3',
      '/list?page=4',
    ])
  })

  it.each([
    ['<https://a.test/?page=2>; rel="next"', 'https://a.test/?page=2'],
    ['<b?page=2>;REL=next', 'b?page=2'],
    ['<a>; rel="prev", <b>; rel="last next"', 'b'],
    ['<a>; title="x, <z>; rel=\\"next\\""; rel="first", <b>; rel=next', 'b'],
    ['<a,b;c>; rel="next"', 'a,b;c'],
    ['<a>; rel="prev"; rel="next"', undefined],
    ['<a>; rel="next"; anchor="#other"', undefined],
    ['<a>; rel="nextish"', undefined],
    ['<a>; title="rel=next"', undefined],
    ['nonsense', undefined],
    [null, undefined],
  ])('in %s is %s', (header, target) => expect(nextLink(header)).toBe(target))
})

describe('the next page by its address in the body', () => {
  it('is followed, whole or relative, until it is null, empty or absent', async () => {
    const { url, asked } = await startApi(({ query }) => {
      const page = Number(query['p'] ?? 1)
      const next = [undefined, '?p=2', `${url}/list?p=3`, ''][page]
      return { body: { items: rows(page), paging: { to: { next } } } }
    })
    expect(await read(url, { paginate: { next: 'paging.to.next' } })).toEqual([[1], [2], [3]])
    expect(asked.map((one) => one.url)).toEqual(['/list', '/list?p=2', '/list?p=3'])
    const none = await inTurn({ body: { items: rows(1), next: null } })
    expect(await read(none.url, { paginate: { next: 'next' } })).toEqual([[1]])
  })

  it('must be an address', async () => {
    const { url } = await inTurn({ body: { items: rows(1), next: 7 } })
    const { error } = await failure(url, { paginate: { next: 'next' } })
    expect(error.message).toBe(
      `rest: page 1 of ${url}/list: what stands for the address of the next page is none: check \`paginate\``,
    )
  })

  it('is not asked for at another origin, unless that is allowed', async () => {
    const other = await startApi(() => ({ body: { items: rows(2) } }))
    const { url } = await startApi(() => ({ body: { items: rows(1), next: `${other.url}/list?token=123456` } }))
    const auth = { bearer: 'token-of-the-first' }
    const { before, error } = await failure(url, {}, { auth })
    expect(before).toEqual([[1]])
    expect(error).toBeInstanceOf(SourceError)
    expect(error.message).toBe(
      `rest: page 1 of ${url}/list: the next one is at ${other.url}, and nothing was sent there: if it may have the credentials, add it to \`origins\``,
    )
    expect(other.asked).toEqual([])
    expect(await read(url, {}, { auth, origins: [`${other.url}/anything`] })).toEqual([[1], [2]])
    expect(other.asked[0]!.headers.authorization).toBe('Bearer token-of-the-first')
  })

  it('is not followed when it is a redirect', async () => {
    const other = await startApi(() => ({ body: rows(2) }))
    const { url } = await startApi(() => ({ status: 302, headers: { location: `${other.url}/list` } }))
    const { error } = await failure(url, {}, { auth: { bearer: 'token-of-the-first' } })
    expect(error.message).toContain('redirects are not followed')
    expect(error.message).toContain('(page 1)')
    expect(other.asked).toEqual([])
  })
})

describe('the next page by a cursor', () => {
  it('is asked for with the cursor beside the parameters of the first, until there is none', async () => {
    const { url, asked } = await startApi(({ query }) => {
      const next = { '': 'a/b=', 'a/b=': 7, 7: 0, 0: null }[query['after'] ?? '']
      return { body: { rows: query['after'] === '7' ? [] : rows(1), meta: { after: next } } }
    })
    const list = { query: { size: 2 }, paginate: { cursor: 'after', from: 'meta.after' } }
    expect(await read(url, list)).toEqual([[1], [1], [], [1]])
    expect(asked.map((one) => one.url)).toEqual([
      '/list?size=2',
      '/list?size=2&after=a%2Fb%3D',
      '/list?size=2&after=7',
      '/list?size=2&after=0',
    ])
  })

  it('is looked for where known APIs have it', async () => {
    const { url } = await startApi(({ query }) => ({ body: { d: rows(1), next_cursor: query['c'] ? null : 'x' } }))
    expect(await read(url, { paginate: { cursor: 'c' } })).toEqual([[1], [1]])
  })

  it('that comes again is an error, not an endless list', async () => {
    const { url, asked } = await startApi(({ query }) => {
      return { body: { items: rows(asked.length), next: query['cursor'] === 'b' ? 'a' : query['cursor'] ? 'b' : 'a' } }
    })
    const { before, error } = await failure(url, { paginate: { cursor: 'cursor', from: 'next' } })
    expect(before).toEqual([[1], [2], [3]])
    expect(error.message).toBe(
      `rest: page 3 of ${url}/list: the next one is a page that was read before, so that it would never end: check \`paginate\``,
    )
  })

  it('must be text or a number', async () => {
    const { url } = await inTurn({ body: { items: rows(1), next: { page: 2 } } })
    expect((await failure(url, { paginate: { cursor: 'c', from: 'next' } })).error.message).toContain('neither text')
  })
})

/** An API of `all` ids that gives at most `cap` from `offset` on, or of `page`. */
const numbered = (all: number[], cap: number, extra: (number: number) => object = () => ({})) =>
  startApi(({ query }, number) => {
    const from = 'offset' in query ? Number(query['offset']) : (Number(query['page']) - 1) * cap
    return { body: { items: rows(...all.slice(from, from + cap)), ...extra(number) } }
  })

describe('the next page by its number', () => {
  it.each([
    [[], [[]], ['1']],
    [
      [1, 2, 3],
      [[1, 2], [3]],
      ['1', '2'],
    ],
    [
      [1, 2, 3, 4],
      [[1, 2], [3, 4], []],
      ['1', '2', '3'],
    ],
    // a first page that is short proves nothing: the server may give no more than that at a time
    [[1], [[1], []], ['1', '2']],
  ])('is asked for until a page is empty, or shorter than those before: %j', async (all, pages, numbers) => {
    const { url, asked } = await numbered(all, 2)
    expect(await read(url, { query: { size: 1000 }, paginate: { page: 'page' } })).toEqual(pages)
    expect(asked.map(({ query }) => query['page'])).toEqual(numbers)
  })

  it('may begin at another one', async () => {
    const { url, asked } = await inTurn({ body: rows(1) }, { body: [] })
    expect(await read(url, { paginate: { page: 'p', first: 0 } })).toEqual([[1], []])
    expect(asked.map((one) => one.url)).toEqual(['/list?p=0', '/list?p=1'])
  })

  it('goes up to the number of pages, which may change, over empty and short ones', async () => {
    const list = { paginate: { page: 'page', pages: 'meta.pages' } }
    const answer = (pages: unknown, ...of: number[]) => ({ body: { items: rows(...of), meta: { pages } } })
    const grows = await inTurn(answer('2', 1, 2), answer(4), answer(4, 3), answer(4, 4, 5))
    expect(await read(grows.url, list)).toEqual([[1, 2], [], [3], [4, 5]])
    const shrinks = await inTurn(answer(9, 1), answer(2, 2))
    expect(await read(shrinks.url, list)).toEqual([[1], [2]])
    const nothing = await inTurn(answer(0))
    expect(await read(nothing.url, list)).toEqual([[]])
    const none = await inTurn(answer('many', 1))
    expect((await failure(none.url, list)).error.message).toContain('there is no count at meta.pages')
  })

  it('that the server does not heed is an error: the same rows would come for ever', async () => {
    const { url } = await startApi(() => ({ body: rows(1, 2) }))
    const { before, error } = await failure(url, { paginate: { page: 'pgae' } })
    expect(before).toEqual([
      [1, 2],
      [1, 2],
    ])
    expect(error.message).toBe(
      `rest: page 2 of ${url}/list: it has the very rows of the page before: the server does not heed \`pgae\`; check \`paginate\``,
    )
  })

  it('beyond maxPages is an error', async () => {
    const { url } = await numbered([1, 2, 3, 4, 5, 6], 2)
    const { before, error } = await failure(url, { paginate: { page: 'page' } }, { maxPages: 2 })
    expect(before).toHaveLength(2)
    expect(error.message).toContain('page 2 of')
    expect(error.message).toContain('there are more than 2 pages: raise maxPages if that is right')
    const { url: exact } = await numbered([1, 2, 3], 2)
    expect(await read(exact, { paginate: { page: 'page' } }, { maxPages: 2 })).toEqual([[1, 2], [3]])
  })
})

describe('the next page by offset', () => {
  it('begins after the rows that came, however many were asked for, and ends as one by number', async () => {
    const { url, asked } = await numbered([1, 2, 3, 4, 5], 2)
    expect(await read(url, { query: { limit: 100 }, paginate: { offset: 'offset' } })).toEqual([[1, 2], [3, 4], [5]])
    expect(asked.map(({ query }) => query['offset'])).toEqual(['0', '2', '4'])
  })

  it('ends at the total, as the latest page tells it', async () => {
    const list = { paginate: { offset: 'offset', total: 'total' } }
    const grows = await numbered([1, 2, 3, 4], 2, (number) => ({ total: number === 1 ? 3 : 4 }))
    expect(await read(grows.url, list)).toEqual([
      [1, 2],
      [3, 4],
    ])
    expect(grows.asked).toHaveLength(2)
    const shrinks = await numbered([1, 2, 3], 1, (number) => ({ total: number === 1 ? 3 : 2 }))
    expect(await read(shrinks.url, list)).toEqual([[1], [2]])
  })

  it('that ends before the total is an error, not less rows', async () => {
    const { url } = await numbered([1, 2, 3], 2, () => ({ total: 5 }))
    const { before, error } = await failure(url, { paginate: { offset: 'offset', total: 'total' } })
    expect(before).toEqual([[1, 2], [3], []])
    expect(error.message).toBe(
      `rest: page 3 of ${url}/list: it is empty, but by total there are 5 rows, and 3 came: leave out \`total\` to end at an empty page`,
    )
  })
})

describe('a function as the way to the next page', () => {
  it('gets the page, and gives parameters, an address, or nothing', async () => {
    const { url, asked } = await startApi((_, number) => ({ body: { data: rows(number), has_more: number < 3 } }))
    const paginate: RestList['paginate'] = ({ rows, body, number }) => {
      if (!(body as { has_more: boolean }).has_more) return undefined
      return number === 1 ? { starting_after: rows.at(-1)!['id'], skip: undefined } : '/list?second'
    }
    expect(await read(url, { paginate })).toEqual([[1], [2], [3]])
    expect(asked.map((one) => one.url)).toEqual(['/list', '/list?starting_after=1', '/list?second'])
  })
})

describe('without `paginate`, the first page shows how the list goes on', () => {
  it.each<[string, (query: Readonly<Record<string, string>>, url: string) => Given]>([
    [
      'a Link header, before anything in the body',
      ({ p }) => ({
        headers: p ? {} : { link: '<?p=2>; rel=next' },
        body: { d: rows(p ? 2 : 1), next: p ? null : '?wrong' },
      }),
    ],
    ['next', ({ p }) => ({ body: { d: rows(p ? 2 : 1), next: p ? null : '?p=2' } })],
    [
      'links.next.href',
      ({ p }, url) => ({ body: { d: rows(p ? 2 : 1), _links: { next: p ? undefined : { href: `${url}/list?p=2` } } } }),
    ],
    [
      '@odata.nextLink',
      ({ p }) => ({ body: { value: rows(p ? 2 : 1), ...(p ? {} : { '@odata.nextLink': '/list?p=2' }) } }),
    ],
    [
      'nextPageToken',
      ({ pageToken }) => ({ body: { d: rows(pageToken ? 2 : 1), nextPageToken: pageToken ? undefined : 'x' } }),
    ],
    [
      'paging.next.after',
      ({ after }) => ({
        body: { results: rows(after ? 2 : 1), ...(after ? {} : { paging: { next: { after: '1' } } }) },
      }),
    ],
    [
      'meta.next_cursor',
      ({ cursor }) => ({ body: { d: rows(cursor ? 2 : 1), meta: { next_cursor: cursor ? '' : 'x' } } }),
    ],
    [
      'total_pages',
      ({ page }) => ({ body: { d: rows(page === '2' ? 2 : 1), meta: { total_pages: 2, page: Number(page ?? 1) } } }),
    ],
    [
      'totalPages, counted from 0',
      ({ page }) => ({ body: { content: rows(page === '1' ? 2 : 1), totalPages: 2, number: Number(page ?? 0) } }),
    ],
    [
      'total and offset',
      ({ offset = '0' }) => ({ body: { d: rows(Number(offset) + 1), total: 2, offset: Number(offset), limit: 1 } }),
    ],
  ])('by %s', async (_, answer) => {
    const { url, asked } = await startApi(({ query }) => answer(query, url))
    expect(await read(url)).toEqual([[1], [2]])
    expect(asked).toHaveLength(2)
  })

  it.each<[string, object]>([
    ['an array', rows(1)],
    ['a total that is here', { d: rows(1), total: 1 }],
    ['one page', { d: rows(1), total_pages: 1 }],
    ['no more', { d: rows(1), has_more: false, next: null, next_cursor: '' }],
  ])('or that it does not: %s', async (_, body) => {
    const { url, asked } = await startApi(() => ({ body }))
    expect(await read(url)).toEqual([[1]])
    expect(asked).toHaveLength(1)
  })

  it.each<[string, object]>([
    ['has_more', { d: rows(1), has_more: true }],
    ['a larger total', { d: rows(1), meta: { total: 2 } }],
    ['an opaque next', { d: rows(1), next: 'b64=' }],
  ])('and a page that has more behind it in another way is an error: %s', async (_, body) => {
    const { url } = await startApi(() => ({ body }))
    const { before, error } = await failure(url)
    expect(before).toEqual([[1]])
    expect(error.message).toMatch(/page 1 of .*: there is more than this page has, .* `paginate`, .*'none'$/)
    expect(await read(url, { paginate: 'none' })).toEqual([[1]])
  })
})

describe('the rows of an answer', () => {
  it.each<[string, RestList['data'], unknown, unknown[]]>([
    ['are the answer', undefined, [{ a: 1 }], [{ a: 1 }]],
    ['are the one list in it', undefined, { ok: true, people: [{ a: 1 }], errors: [] }, [{ a: 1 }]],
    ['are the list with a usual name', undefined, { tags: [{ b: 1 }], items: [{ a: 1 }] }, [{ a: 1 }]],
    ['are a list one step below', undefined, { data: { people: [{ a: 1 }] } }, [{ a: 1 }]],
    ['are at a path', 'a.b', { a: { b: [{ a: 1 }] }, items: [] }, [{ a: 1 }]],
    ['are at a name with dots', 'v1.0', { 'v1.0': [{ a: 1 }] }, [{ a: 1 }]],
    ['are at a place in a list', 'parts.1.rows', { parts: [0, { rows: [{ a: 1 }] }] }, [{ a: 1 }]],
    [
      'are what a function finds',
      (body) => Object.values(body as object),
      { x: { a: 1 }, y: { a: 2 } },
      [{ a: 1 }, { a: 2 }],
    ],
    ['are one object', 'user', { user: { a: 1 } }, [{ a: 1 }]],
    ['are the whole answer, one object', '', { a: 1 }, [{ a: 1 }]],
    ['are none, where null stands', 'items', { items: null }, []],
  ])('%s', async (_, data, body, expected) => {
    const { url } = await startApi(() => ({ body }))
    const { value: page } = await restClient({ url }).pages('', { data, paginate: 'none' }).next()
    expect(page!.rows).toEqual(expected)
  })

  it('are where the first page had them, also when a later one has other lists', async () => {
    const { url } = await inTurn({ body: { people: rows(1), next: '?2' } }, { body: { people: [], items: rows(9) } })
    expect(await read(url)).toEqual([[1], []])
  })

  it.each<[string, RestList['data'], unknown, string]>([
    [
      'no list',
      undefined,
      { ok: false, error: { code: 7 } },
      'there is no list of rows; the answer has ok, error, error.code: name the list',
    ],
    [
      'errors alone',
      undefined,
      { errors: [{ message: 'no' }] },
      'there is no list of rows; the answer has errors: name',
    ],
    ['several lists', undefined, { a: [], b: [] }, 'there are several lists, a, b: say which with `data`'],
    [
      'nothing at the path',
      'data.items',
      { data: { rows: [] }, total: 0 },
      'there is no data.items (`data`); the answer has data, data.rows, total: name',
    ],
    ['nothing by the function', () => undefined, {}, '`data` gives undefined; the answer is an empty object'],
    ['a text', undefined, '"busy"', 'there is no list of rows; the answer is a string'],
    ['an empty answer', undefined, '', 'there is no list of rows; the answer is empty'],
    [
      'rows that are none',
      'ids',
      { ids: [1, 2] },
      'there is a number where a row, an object with columns, was expected: make objects of it',
    ],
    ['inherited names', 'constructor', {}, 'there is no constructor'],
  ])('that are not found are an error with what is there: %s', async (_, data, body, message) => {
    const { url } = await startApi(() => ({ body }))
    const { error } = await failure(url, { data })
    expect(error).toBeInstanceOf(SourceError)
    expect(error.message).toContain(`rest: page 1 of ${url}/list: ${message}`)
  })

  it('keep every kind of value that JSON has, integers beyond 2^53 with all their digits', async () => {
    const text = String.raw`[{"big": 9007199254740993, "small": -9223372036854775808, "safe": 9007199254740991, "huge": 123456789012345678901234567890,
      "fraction": 0.1, "exponent": 1e21, "minus": -0, "yes": true, "no": false, "nothing": null, "empty": "", "digits": "9007199254740993",
      "text": "na\u00efve \"12345678901234567\" \ud83e\udd86", "list": [1, [12345678901234567], {}], "object": {"$": "1", "__proto__": 2}, "": 1, "\u0024": "x"}]`
    const { url } = await startApi(() => ({ body: text }))
    const { value: page } = await restClient({ url }).pages().next()
    expect(page!.rows).toStrictEqual([
      {
        ...{ big: 9007199254740993n, small: -9223372036854775808n, safe: 9007199254740991 },
        ...{ huge: 123456789012345678901234567890n, fraction: 0.1, exponent: 1e21, minus: -0 },
        ...{ yes: true, no: false, nothing: null, empty: '', digits: '9007199254740993' },
        ...{ text: 'naïve "12345678901234567" 🦆', list: [1, [12345678901234567n], {}], '': 1, $: 'x' },
        object: JSON.parse('{"$": "1", "__proto__": 2}'),
      },
    ])
  })

  it('are none with 204, and the list may go on', async () => {
    const { url } = await inTurn({ status: 204, headers: { link: '<?2>; rel=next' } }, { body: rows(1) })
    expect(await read(url)).toEqual([[], [1]])
  })
})

describe('answers that are none', () => {
  it.each([
    [
      'a web page with status 200',
      '<!doctype html><p>Sign in',
      'text/html',
      'the answer is not JSON (text/html): a web page such as a sign-in form; check the address and the credentials',
    ],
    [
      'JSON that breaks off',
      '[{"name": "Ada Secret"}, {"na',
      'application/json',
      'the answer is not JSON (application/json): check the address',
    ],
    [
      'JSON with a large number that breaks off',
      '[{"name": "Ada Secret", "n": 12345678901234567890',
      'application/json',
      'the answer is not JSON',
    ],
  ])('%s is an error of its page, which does not quote it', async (_, body, type, message) => {
    const { url } = await inTurn(
      { body: { items: rows(1), next: '?token=123456' } },
      { body, headers: { 'content-type': type } },
    )
    const { before, error } = await failure(url)
    expect(before).toEqual([[1]])
    expect(error.message).toContain(`rest: 200 from GET ${url}/list: ${message}`)
    expect(error.message).toMatch(/ \(page 2\)$/)
    expect(error.message).not.toMatch(/Ada|123456/)
  })

  it('a status outside 2xx is an error with the page, the reason and what to do', async () => {
    const { url } = await inTurn(
      { body: { items: rows(1), next: '?2' } },
      { status: 403, body: { message: 'no scope' } },
    )
    const { before, error } = await failure(url)
    expect(before).toEqual([[1]])
    expect(error).toBeInstanceOf(SourceError)
    expect(error.message).toBe(
      `rest: 403 from GET ${url}/list: no scope: check the credentials and what they may do; not retried (page 2)`,
    )
  })
})

describe('what fails in passing', () => {
  it('is asked again in the middle of a list, after Retry-After and after 500', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const { url, asked } = await startApi(({ query }, number) => {
      if (number === 2) return { status: 429, headers: { 'retry-after': '0.2' } }
      if (number === 4) return { status: 500, body: { message: 'busy' } }
      const page = Number(query['p'] ?? 1)
      return { body: { items: rows(page), next: page < 3 ? `?p=${page + 1}` : null } }
    })
    const begun = performance.now()
    expect(await read(url)).toEqual([[1], [2], [3]])
    expect(performance.now() - begun).toBeGreaterThan(190)
    expect(asked.map(({ query }) => query['p'])).toEqual([undefined, '2', '2', '3', '3'])
  })

  it('ends with the signal, in the middle of a list', async () => {
    const controller = new AbortController()
    const { url, asked } = await startApi(async (_, number) => {
      if (number < 2) return { body: { items: rows(1), next: '?2' } }
      controller.abort(new Error('stopped'))
      return new Promise(() => {})
    })
    const pages = restClient({ url }, { signal: controller.signal }).pages()
    expect((await pages.next()).value!.rows).toEqual(rows(1))
    await expect(pages.next()).rejects.toThrow('stopped')
    await expect(restClient({ url }, { signal: controller.signal }).get('/x')).rejects.toThrow('stopped')
    expect(asked).toHaveLength(2)
  })
})

describe('the client', () => {
  it('puts paths behind the url, and parameters together, the nearer ones in place of the others', async () => {
    const { url, asked } = await startApi(() => ({ body: rows() }))
    const at = async (path: string, list: RestList = {}, base = '/v2') => {
      await read(`${url}${base}`, list, { query: { b: 'api', c: 'api' } }, path)
      return asked.at(-1)!.url
    }
    expect(await at('/people')).toBe('/v2/people?b=api&c=api')
    expect(await at('people/', {}, '/v2/')).toBe('/v2/people/?b=api&c=api')
    expect(await at('', {}, '/v2/?a=1&a=2&b=url')).toBe('/v2/?a=1&a=2&b=api&c=api')
    expect(await at('/p?a=own', { query: { b: true, c: undefined, d: 2n } }, '?a=1&e=1')).toBe(
      '/p?a=own&e=1&b=true&d=2',
    )
    expect(await at('//evil.test/x', {}, '')).toBe('//evil.test/x?b=api&c=api')
    expect(await at(`${url}/else`)).toBe('/else?b=api&c=api')
    await expect(at('https://evil.test/x')).rejects.toThrow(/https:\/\/evil\.test is another origin .* `origins`/)
  })

  it('gets and posts with the same credentials, and reads integers exactly', async () => {
    const { url, asked } = await startApi(({ method }) => ({
      body: method === 'GET' ? '{"n": 12345678901234567}' : '',
    }))
    const client = restClient({ url, auth: { bearer: 'token-of-the-client' }, headers: { 'X-Version': '3' } })
    expect(await client.get('/one', { query: { q: 1 }, headers: { accept: 'text/json' } })).toEqual({
      n: 12345678901234567n,
    })
    expect(await client.post('/two', { json: { n: 12345678901234567n } })).toBe(undefined)
    expect(asked.map(({ method, url, body }) => [method, url, body])).toEqual([
      ['GET', '/one?q=1', ''],
      ['POST', '/two', '{"n":12345678901234567}'],
    ])
    for (const { headers } of asked) {
      expect(headers).toMatchObject({ authorization: 'Bearer token-of-the-client', 'x-version': '3' })
    }
    expect(asked[0]!.headers.accept).toBe('text/json')
  })

  it('sends what writes only once, and over the client that it is given', async () => {
    const { url, asked } = await startApi(() => ({ status: 503 }))
    await expect(restClient({ url }).post('/x', { json: {} })).rejects.toMatchObject({ status: 503 })
    expect(asked).toHaveLength(1)
    const http = createHttp({ actor: 'mine', signal: new AbortController().signal, timeout: 1_000 })
    await expect(restClient({ url }, { http }).get('/x')).rejects.toThrow('mine: 503')
    expect(asked).toHaveLength(2)
  })

  it.each<[string, object, string]>([
    ['no url', { url: 'api.example' }, "rest: url must be a whole address, such as 'https://api.example/v2'"],
    ['another protocol', { url: 'file:///etc' }, 'rest: url must be a whole address'],
    ['a password in the url', { url: 'https://me:pass@a.test' }, 'rest: url holds a user or password'],
    [
      'an unknown option',
      { pagination: 'link' },
      'rest: there is no option pagination; the options are name, url, auth',
    ],
    ['an unknown paginator', { paginate: 'links' }, "paginate must be 'link', 'none', a function, or one of"],
    [
      'a wrong option in it',
      { paginate: { page: 'p', size: 1 } },
      'paginate: there is no option size; the options are page, first',
    ],
    ['rows that are nowhere', { data: 7 }, "rest: data must be a path, such as 'data.items', or a function"],
    ['no limit', { maxPages: 0 }, 'maxPages must be a whole number above 0'],
    ['a timeout that is none', { timeout: '5' }, 'rest: timeout: "5" is not a duration'],
    ['an origin that is none', { origins: ['a.test'] }, 'origins must be a whole address'],
  ])('refuses %s before anything is sent', (_, options, message) => {
    const make = () => restClient({ url: 'https://a.test', ...options } as RestApi)
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(message)
  })
})
