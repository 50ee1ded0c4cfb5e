import { redact } from '../../config.js'
import type { SourceError } from '../../errors.js'
import { type AnyRow, describe } from '../../values.js'

/** Where an answer has its rows: a path such as `data.items`, or a function of the parsed body. */
export type Data = string | ((body: unknown) => unknown)

/** Makes an error that names the source, the address and the page. */
export type Wrong = (problem: string) => SourceError

/** What stands at a dotted path; `undefined` where there is nothing. A name that itself has dots is found too. */
export function at(body: unknown, path: string): unknown {
  if (body === null || typeof body !== 'object') return undefined
  if (Object.hasOwn(body, path)) return (body as AnyRow)[path]
  const dot = path.indexOf('.')
  return dot === -1 || !Object.hasOwn(body, path.slice(0, dot))
    ? undefined
    : at((body as AnyRow)[path.slice(0, dot)], path.slice(dot + 1))
}

/** Finds the rows of each page of a list. Where they are is detected once: a later page may well be empty. */
export function selector(data: Data | undefined): (body: unknown, wrong: Wrong) => AnyRow[] {
  let path = data
  return (body, wrong) => {
    path ??= detected(body, wrong)
    const found = typeof path === 'function' ? path(body) : path === '' ? body : at(body, path)
    if (found === undefined) {
      const what = typeof path === 'function' ? '`data` gives undefined' : `there is no ${path} (\`data\`)`
      throw wrong(`${what}; ${contents(body)}`)
    }
    // what some servers make of an empty list
    const rows = found === null ? [] : Array.isArray(found) ? found : [found]
    const odd = rows.find((row) => row === null || typeof row !== 'object' || Array.isArray(row))
    if (odd !== undefined) {
      throw wrong(
        `there is ${describe(odd)} where a row, an object with columns, was expected: make objects of it with \`data: (body) => …\``,
      )
    }
    return rows
  }
}

/** Names of lists, where there are several. */
const listNames = ['data', 'items', 'results', 'records', 'rows', 'entries', 'values', 'value', 'list']
/** Names of what holds a list. */
const holders = ['data', 'result', 'results', 'response', 'payload', 'body', '_embedded']
/** Lists that are no rows: an answer that holds nothing else is no success. */
const notRows = /^(errors?|warnings?|messages|links|included|facets)$/i

function detected(body: unknown, wrong: Wrong): string {
  if (Array.isArray(body)) return ''
  for (const holder of ['', ...holders]) {
    const inside = holder === '' ? body : at(body, holder)
    if (inside === null || typeof inside !== 'object' || Array.isArray(inside)) continue
    const lists = Object.keys(inside).filter((key) => Array.isArray((inside as AnyRow)[key]) && !notRows.test(key))
    const list = lists.length === 1 ? lists[0] : listNames.find((name) => lists.includes(name))
    if (list !== undefined) return holder === '' ? list : `${holder}.${list}`
    if (lists.length > 1) throw wrong(`there are several lists, ${lists.join(', ')}: say which with \`data\``)
  }
  throw wrong(`there is no list of rows; ${contents(body)}`)
}

/** Most names shown: of an object that is a table, they would be its keys. */
const most = 20

/** What an answer holds, for an error: the names, no values. */
function contents(body: unknown): string {
  if (body === undefined) return 'the answer is empty'
  if (body === null || typeof body !== 'object' || Array.isArray(body)) return `the answer is ${describe(body)}`
  const names = Object.entries(body).flatMap(([name, value]) =>
    value === null || typeof value !== 'object' || Array.isArray(value)
      ? [name]
      : [name, ...Object.keys(value).map((inner) => `${name}.${inner}`)],
  )
  if (names.length === 0) return 'the answer is an empty object'
  const shown = names.slice(0, most).join(', ') + (names.length > most ? ', …' : '')
  return `the answer has ${redact(shown)}: name the list, or the object that is the row, with \`data\``
}
