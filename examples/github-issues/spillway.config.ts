import { secret, sync } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { rest } from 'spillway/sources/rest'
import { z } from 'zod'

const { GITHUB_API = 'https://api.github.com', REPOSITORY = 'nodejs/node', SPREADSHEET = '' } = process.env

// What is left out of these does not count as a change.
const user = z.object({ login: z.string() })
const Issue = z.object({ number: z.number(), title: z.string(), state: z.string(), user, updated_at: z.string() })
const Comment = z.object({ id: z.number(), issue: z.number(), user, body: z.string(), updated_at: z.string() })

const github = rest({
  name: 'github',
  url: `${GITHUB_API}/repos/${REPOSITORY}`,
  auth: { bearer: secret('GITHUB_TOKEN') },
  query: { per_page: 100 },
  resources: {
    issues: {
      path: '/issues',
      query: { state: 'all', sort: 'updated', direction: 'asc' },
      since: 'since',
      record: Issue,
      defaults: { key: 'number', cursor: 'updated_at' },
    },
    comments: {
      path: '/issues/{number}/comments',
      parent: 'issues',
      include: { issue: 'number' },
      notFound: 'no rows',
      record: Comment,
      defaults: { key: 'id', mode: 'mirror' },
    },
  },
})

const tab = (name: string) => googleSheets({ spreadsheet: SPREADSHEET, tab: name })

// Issues are asked for from where the last run ended; comments are all compared, so that those deleted there leave the sheet.
export default [
  sync({
    name: 'issues',
    from: github.issues,
    map: ({ user, ...issue }) => ({ ...issue, author: user.login }),
    to: tab('Issues'),
    ...github.issues.defaults,
  }),
  sync({
    name: 'comments',
    from: github.comments,
    map: ({ user, ...comment }) => ({ ...comment, author: user.login }),
    to: tab('Comments'),
    deleteCeiling: '50%',
    ...github.comments.defaults,
  }),
]
