import { type AnyRow, type Outcome, receipt, unknown } from 'spillway'
import type { Surroundings } from './bulk.js'
import type { Line, RecordError } from './records.js'

// What an answer says of each record.

/** Outcomes in the order of the request; where one cannot be told, it is unknown. */
export function answers(lines: readonly Line[], told: unknown, { judge }: Surroundings): Outcome[] {
  const each = Array.isArray(told) && told.length === lines.length ? (told as readonly AnyRow[]) : []
  return lines.flatMap(({ record }, at) => {
    const one = each[at]
    if (one?.['success'] === true) return typeof one['id'] === 'string' ? receipt(record, one['id']) : []
    const errors = one?.['success'] === false && Array.isArray(one['errors']) ? (one['errors'] as RecordError[]) : []
    return errors.length > 0 ? judge(record, errors) : unknown(record)
  })
}

export function isUnknown(outcome: Outcome): boolean {
  return !('remoteId' in outcome || 'reason' in outcome || 'after' in outcome)
}

export function isGone(one: AnyRow | undefined): boolean {
  const errors: unknown = one?.['errors']
  return (
    Array.isArray(errors) &&
    errors.some(({ statusCode }) => statusCode === 'ENTITY_IS_DELETED' || statusCode === 'NOT_FOUND')
  )
}

/** What Salesforce says, without the values that it quotes: `data value too large: … (max length=40)`. */
export function shown({ statusCode, message, fields = [] }: RecordError, record: AnyRow): string {
  const texts = (fields.length > 0 ? fields : Object.keys(record)).map((field) => String(record[field] ?? ''))
  const said = texts.filter((text) => text.length > 3).reduce((all, text) => all.replaceAll(text, '…'), message)
  return `${statusCode}: ${said.slice(0, 300)}${fields.length > 0 ? ` (${fields.join(', ')})` : ''}`
}
