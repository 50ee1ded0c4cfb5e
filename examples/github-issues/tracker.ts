import { html, type Reply, serve, type Tenant } from 'spillway/sandbox'

interface Issue {
  number: number
  title: string
  state: 'open' | 'closed'
  user: { login: string }
  updated_at: string
}
interface Comment {
  id: number
  body: string
  user: { login: string }
  updated_at: string
}

/** As much of GitHub's API as lists issues and their comments, in pages that a `Link` header joins; on this machine. */
export async function startTracker(repository: string, token = 'token-of-the-tracker') {
  const issues: Issue[] = []
  const comments = new Map<number, Comment[]>()
  let clock = Date.parse('2026-01-01T00:00:00Z')
  let ids = 0

  const now = (): string => {
    clock += 60_000
    return `${new Date(clock).toISOString().slice(0, 19)}Z`
  }

  /** Opens an issue, or changes one. */
  function put(number: number, title: string, login = 'ada'): void {
    const at = issues.findIndex((issue) => issue.number === number)
    const issue: Issue = { number, title, state: 'open', user: { login }, updated_at: now() }
    issues.splice(at < 0 ? issues.length : at, 1, issue)
    if (at < 0) comments.set(number, [])
  }

  function comment(number: number, body: string, login = 'grace'): void {
    ids += 1
    comments.get(number)!.push({ id: ids, body, user: { login }, updated_at: now() })
  }

  const root = `/repos/${repository}/issues`
  let url = ''

  function page(rows: readonly object[], path: string, query: URLSearchParams): Reply {
    const size = Math.min(Number(query.get('per_page') ?? 30), 3) // small, so that there is something to turn
    const number = Number(query.get('page') ?? 1)
    const next = new URLSearchParams(query)
    next.set('page', String(number + 1))
    const link = number * size < rows.length ? { link: `<${url}${path}?${next}>; rel="next"` } : {}
    return { status: 200, headers: link, body: rows.slice((number - 1) * size, number * size) }
  }

  const tenant: Tenant = {
    owns: (path) => path.startsWith(root),
    answer({ method, path, query, headers }) {
      if (headers.authorization !== `Bearer ${token}`) return { status: 401, body: { message: 'Bad credentials' } }
      if (method !== 'GET') return { status: 405, body: { message: 'This tracker is only read' } }
      const since = query.get('since') ?? ''
      const changed = issues.filter((issue) => issue.updated_at >= since)
      if (path === root)
        return page(
          changed.toSorted((a, b) => (a.updated_at < b.updated_at ? -1 : 1)),
          path,
          query,
        )
      const found = comments.get(Number(path.slice(root.length).split('/')[1]))
      return found ? page(found, path, query) : { status: 404, body: { message: 'Not Found' } }
    },
    refusal: (status, reason) => ({ message: reason ?? `status ${status}` }),
    page: () => `<h2>Issues</h2>${issues.map(({ title }) => `<p>${html(title)}</p>`).join('')}`,
  }
  const server = await serve([tenant])
  url = server.url
  return { ...server, token, put, comment, forget: (number: number, at: number) => comments.get(number)!.splice(at, 1) }
}
