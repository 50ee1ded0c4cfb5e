import type { HttpRequest } from '../../http.js'
import { type AnyRow, canonical } from '../../values.js'
import { at, type Wrong } from './body.js'
import type { Checked } from './options.js'

/** Parameters of an address; what is `undefined` is left out. */
export type Query = NonNullable<HttpRequest['query']>

/** One page of a list. */
export interface RestPage<R = AnyRow> {
  readonly rows: readonly R[]
  /** The whole answer, parsed; `undefined` for 204. */
  readonly body: unknown
  readonly headers: Headers
  /** The first page is 1. */
  readonly number: number
}

/**
 * How a list goes on after a page; paths are dotted, as in `meta.next`.
 *
 * - `'link'`: the `Link` header's `rel="next"` (RFC 8288).
 * - `{ next }`: the path of the next page's address in the body, whole or relative.
 * - `{ cursor, from }`: the parameter `cursor` is sent with what the body has at `from` (default: where known APIs have it).
 * - `{ page, first, pages, total }`: the parameter `page` counts from `first` (default 1), up to what the body has at `pages`.
 * - `{ offset, total }`: the parameter `offset` is sent with the number of rows that came.
 * - a function of the page: the next one's address, or parameters to change in this one's; `undefined` when it was the last.
 * - `'none'`: one page is all.
 *
 * The end is where the header, the address or the cursor is missing, null, false or empty; an empty page before that is passed over.
 * `pages` and `total`, the path of the number of rows, are read anew from each page. Without them a list by page or offset ends at
 * an empty page, or at one shorter than the longest before it: a first page that is shorter than what was asked for proves
 * nothing, for servers cap that.
 */
export type Paginate =
  | 'link'
  | 'none'
  | { readonly next: string }
  | { readonly cursor: string; readonly from?: string | undefined }
  | {
      readonly page: string
      readonly first?: number | undefined
      readonly pages?: string | undefined
      readonly total?: string | undefined
    }
  | { readonly offset: string; readonly total?: string | undefined }
  | ((page: RestPage) => string | Query | undefined)

const kinds: Readonly<Record<string, readonly string[]>> = {
  next: [],
  cursor: ['from'],
  page: ['first', 'pages', 'total'],
  offset: ['total'],
}

/** @throws ConfigError when it is no way to paginate. */
export function checkPaginate(paginate: Paginate | undefined, where: string, { wrong, refuseOthers }: Checked): void {
  if (paginate === undefined || typeof paginate === 'function' || paginate === 'link' || paginate === 'none') return
  const kind =
    paginate !== null && typeof paginate === 'object' ? Object.keys(kinds).find((one) => one in paginate) : ''
  if (!kind) {
    throw wrong(`${where} must be 'link', 'none', a function, or one of { next }, { cursor }, { page } and { offset }`)
  }
  refuseOthers(paginate as object, [kind, ...kinds[kind]!], where)
}

/** Walks one list: the address of its first page, and after each page that of the next. */
export interface Walk {
  first(url: URL): URL
  next(page: RestPage, url: URL, wrong: Wrong): URL | undefined
}

/** A walk of that kind; of the kind that the first page shows, when none is given. */
export function walk(paginate: Paginate | undefined): Walk {
  if (paginate === undefined) return detecting()
  if (typeof paginate === 'function') {
    return plain((page, url, wrong) => {
      const next = paginate(page)
      return next !== null && typeof next === 'object' ? changed(url, next) : address(next, url, wrong)
    })
  }
  if (paginate === 'none') return plain(() => undefined)
  if (paginate === 'link') return plain(({ headers }, url, wrong) => address(nextLink(headers.get('link')), url, wrong))
  if ('next' in paginate) return plain(({ body }, url, wrong) => address(at(body, paginate.next), url, wrong))
  if ('cursor' in paginate) return byCursor(paginate.cursor, paginate.from)
  return 'page' in paginate ? byPage(paginate) : byOffset(paginate)
}

const plain = (next: Walk['next']): Walk => ({ first: (url) => url, next })

function changed(url: URL, query: Query): URL {
  const next = new URL(url)
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) next.searchParams.set(name, String(value))
  }
  return next
}

/** The address of the next page, relative to this one's. */
function address(next: unknown, url: URL, wrong: Wrong): URL | undefined {
  if (next === undefined || next === null || next === '' || next === false) return undefined
  if (typeof next === 'string' && URL.canParse(next, url.href)) return new URL(next, url)
  throw wrong('what stands for the address of the next page is none: check `paginate`')
}

// ---- Link ------------------------------------------------------------------------------------------------------

const link = /<([^>]*)>((?:\s*;\s*[^\s=;,]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?)*)/g
const parameter = /;\s*([^\s=;,]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?/g

/** The target of `rel=next`. A `rel` may name several relations, and only the first one of a link counts (RFC 8288 §3.3). */
export function nextLink(header: string | null): string | undefined {
  for (const [, target, parameters] of (header ?? '').matchAll(link)) {
    const given = Array.from(parameters!.matchAll(parameter), ([, name, quoted, bare]) => ({
      name: name!.toLowerCase(),
      value: quoted?.replace(/\\(.)/g, '$1') ?? bare ?? '',
    }))
    // what has an anchor is said of another page than this one (§3.2)
    if (given.some(({ name }) => name === 'anchor')) continue
    const relations = given
      .find(({ name }) => name === 'rel')
      ?.value.toLowerCase()
      .split(/\s+/)
    if (relations?.includes('next')) return target
  }
  return undefined
}

// ---- cursors, pages, offsets -----------------------------------------------------------------------------------

function byCursor(parameter: string, from: string | undefined): Walk {
  return plain(({ body }, url, wrong) => {
    const cursor = from === undefined ? knownCursor(body)?.cursor : at(body, from)
    if (cursor === undefined || cursor === null || cursor === '' || cursor === false) return undefined
    if (!isCursor(cursor)) throw wrong('what stands for the cursor is neither text nor a number: check `paginate`')
    return changed(url, { [parameter]: cursor })
  })
}

const isCursor = (value: unknown): value is string | number | bigint =>
  typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint'

function byPage(options: Extract<Paginate, { page: string }>): Walk {
  const { page: parameter, first = 1, pages } = options
  const ended = counting(parameter, options.total)
  return {
    first: (url) => changed(url, { [parameter]: first }),
    next(page, url, wrong) {
      const over = ended(page, wrong, pages !== undefined)
      return (pages === undefined ? over : page.number >= count(page.body, pages, wrong))
        ? undefined
        : changed(url, { [parameter]: first + page.number })
    },
  }
}

function byOffset({ offset: parameter, total }: Extract<Paginate, { offset: string }>): Walk {
  const ended = counting(parameter, total)
  let offset = 0
  return {
    first: (url) => changed(url, { [parameter]: 0 }),
    next(page, url, wrong) {
      offset += page.rows.length
      return ended(page, wrong) ? undefined : changed(url, { [parameter]: offset })
    },
  }
}

/** Tells by the rows of each page whether a list has ended that is asked for by number. */
function counting(
  parameter: string,
  total: string | undefined,
): (page: RestPage, wrong: Wrong, emptyIsFine?: boolean) => boolean {
  let read = 0
  let longest = 0
  let before: string | undefined
  return ({ rows, body }, wrong, emptyIsFine = false) => {
    read += rows.length
    longest = Math.max(longest, rows.length)
    const text = rows.length > 0 ? canonical(rows) : undefined
    if (text !== undefined && text === before) {
      throw wrong(
        `it has the very rows of the page before: the server does not heed \`${parameter}\`; check \`paginate\``,
      )
    }
    before = text
    if (total === undefined) return rows.length === 0 || rows.length < longest
    const all = count(body, total, wrong)
    if (read < all && rows.length === 0 && !emptyIsFine) {
      throw wrong(
        `it is empty, but by ${total} there are ${all} rows, and ${read} came: leave out \`total\` to end at an empty page`,
      )
    }
    return read >= all
  }
}

function count(body: unknown, path: string, wrong: Wrong): number {
  const value = at(body, path)
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof number === 'number' && Number.isInteger(number) && number >= 0) return number
  throw wrong(`there is no count at ${path}: check \`paginate\``)
}

// ---- detection -------------------------------------------------------------------------------------------------

const addresses = ['next', 'next_url', 'nextUrl', 'next_page_url', 'nextPageUrl', 'next_link', 'nextLink', 'next.href']
  .flatMap((name) => ['', 'links.', '_links.', 'paging.', 'pagination.', 'meta.'].map((holder) => holder + name))
  .concat('@odata.nextLink', 'nextRecordsUrl', 'info.next', 'paging.next.link', 'pagination.links.next')
  .concat('meta.links.next', 'meta.pagination.links.next')

/** Where known APIs have the cursor of the next page, and the parameter in which they want it. */
const cursors: readonly (readonly [path: string, parameter: string])[] = [
  ['nextPageToken', 'pageToken'],
  ['next_page_token', 'page_token'],
  ['paging.next.after', 'after'],
  ['response_metadata.next_cursor', 'cursor'],
  ...['', 'meta.', 'paging.', 'pagination.'].flatMap((holder) =>
    ['next_cursor', 'nextCursor'].map((name) => [holder + name, 'cursor'] as const),
  ),
]

function knownCursor(body: unknown): { cursor: string | number | bigint; parameter: string; from: string } | undefined {
  for (const [from, parameter] of cursors) {
    const cursor = at(body, from)
    if (isCursor(cursor) && cursor !== '') return { cursor, parameter, from }
  }
  return undefined
}

const holders = ['', 'meta.', 'paging.', 'pagination.', 'meta.pagination.', 'page.', 'info.']

/** The first whole number under one of these names, and what holds it. */
function numberAt(body: unknown, names: readonly string[], within = holders) {
  for (const holder of within) {
    for (const name of names) {
      const value = at(body, holder + name)
      if (typeof value === 'number' && Number.isInteger(value)) return { value, holder, path: holder + name }
    }
  }
  return undefined
}

function detecting(): Walk {
  let known: Walk | undefined
  return plain((page, url, wrong) => {
    known ??= kindOf(page, wrong)
    return known.next(page, url, wrong)
  })
}

/** The rules are told to users at `paginate` in {@link RestList}. */
function kindOf(page: RestPage, wrong: Wrong): Walk {
  const { body, headers, rows } = page
  if (nextLink(headers.get('link')) !== undefined) return walk('link')
  const next = addresses.find((path) => {
    const value = at(body, path)
    return typeof value === 'string' && /^(https?:\/\/|\/|\?)/.test(value)
  })
  if (next !== undefined) return walk({ next })
  const cursor = knownCursor(body)
  if (cursor) return byCursor(cursor.parameter, cursor.from)
  const pages = numberAt(body, ['total_pages', 'totalPages', 'page_count', 'pageCount', 'last_page', 'lastPage'])
  if (pages) {
    const here = numberAt(body, ['current_page', 'currentPage', 'page', 'number'], [pages.holder])
    return byPage({ page: 'page', first: here?.value ?? 1, pages: pages.path })
  }
  const total = numberAt(body, ['total', 'total_count', 'totalCount', 'total_results'])
  if (total && numberAt(body, ['offset'], [total.holder])) return byOffset({ offset: 'offset', total: total.path })
  const more = holders.some((holder) =>
    ['has_more', 'hasMore', 'has_next', 'hasNext', 'more'].some((name) => at(body, holder + name) === true),
  )
  const odd = addresses.some((path) => ['string', 'number'].includes(typeof at(body, path)) && at(body, path) !== '')
  if (more || odd || (total && total.value > rows.length)) {
    throw wrong(
      "there is more than this page has, but it does not show how to ask for it: say so with `paginate`, or that one page is all with 'none'",
    )
  }
  return walk('none')
}
