import type { CreatePageParameters, DataSourceObjectResponse, PageObjectResponse } from '@notionhq/client'
import { type AnyRow, FatalError, RejectedError, type Rejection, reject } from 'spillway'

// Records as the properties of Notion's pages, and properties of pages in a form that can be compared.

export type Page = PageObjectResponse
export type Schema = DataSourceObjectResponse['properties']
export type Values = readonly unknown[]
type Properties = NonNullable<CreatePageParameters['properties']>

const me = 'notion'

/** Most conditions in one list, most pages in one answer, most entries of a property. */
export const most = 100

/** Types of properties that can be a key: `equals` compares them with a text or a number. */
export const keyTypes: readonly string[] = [
  'title',
  'rich_text',
  'number',
  'select',
  'status',
  'email',
  'url',
  'phone_number',
]

export interface Line {
  readonly record: AnyRow
  readonly properties: Properties
  /** The values of the match fields. */
  readonly values: Values
  readonly key: string
}

export const isLine = (line: Line | Rejection): line is Line => 'properties' in line

/** Records as Notion's properties, and rejections of those that do not fit. */
export function* readRecords(batch: AnyRow[], schema: Schema, match: readonly string[]): Generator<Line | Rejection> {
  const fieldsOf = (record: AnyRow) => Object.keys(record).filter((name) => record[name] !== undefined)
  for (const name of new Set(batch.flatMap(fieldsOf))) typeOf(schema, name)
  for (const name of match) {
    const type = schema[name]?.type
    const what = type ? `a ${type}` : `no property; there are ${Object.keys(schema).join(', ')}`
    const next = `give match, properties of type ${keyTypes.join(', ')}`
    if (!type || !keyTypes.includes(type))
      throw new FatalError(`${me}: pages cannot be found by ${name}, which is ${what}: ${next}`)
  }
  for (const record of batch) {
    try {
      const fields = fieldsOf(record).map(
        (name) => [name, propertyOf(name, typeOf(schema, name), record[name])] as const,
      )
      const sent: Readonly<Record<string, AnyRow>> = Object.fromEntries(fields)
      const values = match.map((name) => plain(typeOf(schema, name), sent[name]?.[typeOf(schema, name)]))
      const blank = match.find((_, at) => [undefined, null, ''].includes(values[at] as null))
      if (blank !== undefined) throw new RejectedError(`${blank}, by which its page is to be found, is blank`)
      yield { record, properties: sent as Properties, values, key: JSON.stringify(values) }
    } catch (error) {
      if (!(error instanceof RejectedError)) throw error
      yield reject(record, error.message)
    }
  }
}

/** The type of a property that can be written. */
function typeOf(schema: Schema, name: string): string {
  const type = schema[name]?.type
  if (type && type in writers) return type
  const what = type
    ? `is of type ${type}, which cannot be written`
    : `is no property; there are ${Object.keys(schema).join(', ')}`
  const next = type ? 'leave it out in map' : 'add it in Notion, or rename it or leave it out in map'
  throw new FatalError(`${me}: the field ${JSON.stringify(name)} ${what}: ${next}`)
}

function propertyOf(name: string, type: string, value: unknown): object {
  try {
    return { [type]: value === null ? (blanks[type] ?? null) : writers[type]!(value) }
  } catch (error) {
    throw error instanceof RejectedError ? new RejectedError(`${name}: ${error.message}`) : error
  }
}

/** What clears a property, where that is not null. */
const blanks: AnyRow = { title: [], rich_text: [], multi_select: [], relation: [], people: [], checkbox: false }

/** Values in the form of their property's type: https://developers.notion.com/reference/page-property-values. */
const writers: Readonly<Record<string, (value: unknown) => unknown>> = {
  title: runsOf,
  rich_text: runsOf,
  number: numberOf,
  select: (value) => ({ name: textOf(value) }),
  status: (value) => ({ name: textOf(value) }),
  multi_select: (value) => listOf(value).map((name) => ({ name })),
  relation: (value) => listOf(value).map((id) => ({ id })),
  people: (value) => listOf(value).map((id) => ({ object: 'user', id })),
  date: (value) => ({ start: dateOf(value) }),
  checkbox: (value) => (typeof value === 'boolean' ? value : unfit('true or false', value)),
  url: (value) => textOf(value, 2000), // https://developers.notion.com/reference/request-limits
  email: (value) => textOf(value, 200),
  phone_number: (value) => textOf(value, 200),
}

function unfit(wanted: string, value: unknown): never {
  throw new RejectedError(
    `it takes ${wanted}, not ${Array.isArray(value) ? 'a list' : `a value of type ${typeof value}`}`,
  )
}

function textOf(value: unknown, longest = 200_000): string {
  if (value instanceof Date) return dateOf(value)
  const text = ['string', 'number', 'bigint', 'boolean'].includes(typeof value) ? String(value) : unfit('a text', value)
  if (/\p{Surrogate}/u.test(text)) throw new RejectedError('a text with half a character in it')
  if (text.length > longest)
    throw new RejectedError(`a text of ${text.length} characters, where Notion takes ${longest}`)
  return text
}

/** Runs of at most 2,000 UTF-16 units, which is what Notion counts, that break no character in two. */
function runsOf(value: unknown): object[] {
  const runs = textOf(value).match(/[\s\S]{1,2000}(?![\udc00-\udfff])/g) ?? []
  if (runs.length > most) throw new RejectedError(`a text of ${runs.length} runs, where Notion takes ${most}`)
  return runs.map((content) => ({ type: 'text', text: { content } }))
}

function listOf(value: unknown): string[] {
  const items = Array.isArray(value) ? value.map((item) => textOf(item)) : unfit('a list', value)
  if (items.length > most) throw new RejectedError(`${items.length} entries, where Notion takes ${most}`)
  return items
}

function dateOf(value: unknown): string {
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value.toISOString()
  if (typeof value === 'string' && /^\d{4}-\d\d-\d\d(T[\d:.]+(Z|[+-]\d\d:?\d\d)?)?$/.test(value)) return value
  return unfit('a Date or a text such as 2026-11-21', value)
}

/** Notion keeps numbers as doubles: a text or a bigint must come through that with all its digits. */
function numberOf(value: unknown): number {
  const text = ['number', 'bigint', 'string'].includes(typeof value) ? String(value).trim() : ''
  if (text === '' || !Number.isFinite(Number(text))) return unfit('a number', value)
  if (typeof value === 'number' || digits(text) === digits(String(Number(text)))) return Number(text)
  throw new RejectedError('a number with more digits than Notion keeps: make the property a text')
}

/** The digits of a decimal number and where its point stands, without zeros that say nothing. */
function digits(text: string): string {
  const [, sign, whole = '', part = '', power = '0'] = /^([+-]?)(\d*)\.?(\d*)(?:e([+-]?\d+))?$/i.exec(text) ?? []
  const significant = `${whole}${part}`.replace(/^0+/, '')
  const kept = significant.replace(/0+$/, '')
  return kept && `${sign === '-' ? '-' : ''}${kept}e${Number(power) - part.length + significant.length - kept.length}`
}

// ---- to compare ---------------------------------------------------------------------------------------------------

/** A property of a page in a form that can be compared. */
export function valueIn(page: Page, name: string): unknown {
  const property = page.properties[name] as { type: string; [type: string]: unknown } | undefined
  return property && plain(property.type, property[property.type])
}

// biome-ignore lint/suspicious/noExplicitAny: a value by its type, as it is sent or as it comes back
function plain(type: string, value: any): unknown {
  if (type === 'title' || type === 'rich_text') {
    return value?.map((run: AnyRow) => run['plain_text'] ?? run['text'].content).join('')
  }
  if (type === 'date') return value && (value.start.length === 10 ? value.start : Date.parse(zoned(value.start)))
  if (type === 'select' || type === 'status') return value?.name ?? null
  return Array.isArray(value) ? value.map(({ name, id }) => name ?? id) : value
}

/** Notion takes a time without a zone for one of UTC. */
const zoned = (time: string) => (/(Z|[+-]\d\d:?\d\d)$/.test(time) ? time : `${time}Z`)

export function holds(page: Page, properties: Properties): boolean {
  return Object.entries(properties).every(([name, sent]) => {
    const [[type, value] = ['', undefined]] = Object.entries(sent)
    return JSON.stringify(plain(type, value)) === JSON.stringify(valueIn(page, name))
  })
}
