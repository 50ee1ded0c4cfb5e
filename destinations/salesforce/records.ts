import { type AnyRow, type Rejection, reject } from 'spillway'

// Records as Salesforce takes them, a part of the destination in salesforce.ts.

/** A record, and what is sent of it. */
export interface Line {
  readonly record: object
  /** Its External ID as text; empty where it has none. */
  readonly key: string
  readonly fields: Readonly<Record<string, unknown>>
}

/** What Salesforce says is wrong with a record. */
export interface RecordError {
  readonly statusCode: string
  readonly message: string
  readonly fields?: readonly string[]
}

/** Names of objects and fields, which become part of paths and queries. */
export const identifier = /^[A-Za-z]\w*$/

/** Addresses may have 16,384 characters: https://developer.salesforce.com/docs/platform/api-rest/guide/resources-query.html */
const longestQuery = 12_000

/** Reads records, found by the field `key` where there is one; those that cannot be sent are rejected. */
export function read(
  batch: readonly AnyRow[],
  key: string | undefined,
): { readonly lines: Line[]; readonly rejected: Rejection[] } {
  const lines: Line[] = []
  const rejected: Rejection[] = []
  for (const record of batch) {
    const problem = faultOf(record, key)
    if (problem) rejected.push(reject(record, problem))
    else lines.push({ record, key: key === undefined ? '' : String(record[key]), fields: fieldsOf(record) })
  }
  return { lines, rejected }
}

function faultOf(record: AnyRow, key: string | undefined): string | undefined {
  for (const [name, value] of Object.entries(record)) {
    if (!identifier.test(name) || /^attributes$/i.test(name)) return `${JSON.stringify(name)} is no name of a field`
    if (/^id$/i.test(name) && name !== key)
      return `${name} is given by Salesforce: leave it out, or use externalId: 'Id'`
    const problem = unfit(value, true)
    if (problem) return `${name} holds ${problem}`
  }
  return key === undefined || isKey(record[key]) ? undefined : `its ${key} is empty, or neither text nor a number`
}

function isKey(value: unknown): value is string | number | bigint {
  return typeof value === 'string' ? value !== '' : typeof value === 'number' || typeof value === 'bigint'
}

/** What is wrong with a value, in words that do not show it. */
function unfit(value: unknown, mayRefer: boolean): string | undefined {
  if (value === null || value === undefined || value instanceof Uint8Array) return undefined
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : 'a number that is not finite'
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'a date that is none' : undefined
  if (typeof value !== 'object') return undefined
  if (Array.isArray(value))
    return 'a list: of a multi-select picklist, give the values as text, with semicolons between'
  const [[name, inner] = ['', null], another] = Object.entries(value)
  const refers =
    mayRefer && another === undefined && identifier.test(name) && inner !== null && unfit(inner, false) === undefined
  return refers ? undefined : 'an object that is no reference, such as { Ext__c: 7 }'
}

function fieldsOf(record: AnyRow): Record<string, unknown> {
  const given = Object.entries(record).filter(([, value]) => value !== undefined)
  return Object.fromEntries(given.map(([name, value]) => [name, sent(value)]))
}

function sent(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  if (value instanceof Date) return new Date(value.getTime()).toISOString()
  return value !== null && typeof value === 'object' ? fieldsOf(value) : value
}

// ---- SOQL ----------------------------------------------------------------------------------------------------------

/** Literals in lists that fit into an address. */
export function inQueries(literals: readonly string[]): string[] {
  const lists: string[] = []
  let length = Number.POSITIVE_INFINITY
  for (const one of literals) {
    const added = new URLSearchParams(one).toString().length + 3
    if (length + added > longestQuery) {
      lists.push(one)
      length = added
    } else {
      lists.push(`${lists.pop()},${one}`)
      length += added
    }
  }
  return lists
}

export function literal(value: unknown): string {
  if (typeof value !== 'string') return String(value)
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}
