import type { AnyRow } from 'spillway'

/** Why a record cannot be written: it is refused by itself. */
export class Unfit extends Error {}

/**
 * A value as text that says all of it: an integer with all its digits, a decimal and a date as they came, a `Date` in ISO 8601 with its
 * microseconds, bytes as `\x` and hexadecimal digits, a list or an object as JSON.
 *
 * @throws Unfit when text cannot hold it.
 */
export function textOf(value: unknown): string {
  if (typeof value === 'string') return wellFormed(value)
  if (typeof value === 'number') return Object.is(value, -0) ? '-0' : String(value)
  if (value instanceof Date) return isoOf(value)
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`
  return typeof value === 'object' ? jsonOf(value) : String(value)
}

/**
 * A value as JSON. An integer is a number with all its digits; a date is its ISO text, bytes are base64, and NaN and infinity, for
 * which JSON has no numbers, the texts "NaN" and "Infinity". What is `undefined` is left out.
 *
 * @throws Unfit when JSON cannot hold it.
 */
export function jsonOf(value: unknown): string {
  if (typeof value === 'bigint') return String(value)
  if (typeof value === 'number') return Number.isFinite(value) ? textOf(value) : `"${value}"`
  if (typeof value === 'string') return JSON.stringify(wellFormed(value))
  if (value === null || typeof value !== 'object') return JSON.stringify(value ?? null)
  if (value instanceof Date) return JSON.stringify(isoOf(value))
  if (value instanceof Uint8Array) return JSON.stringify(Buffer.from(value).toString('base64'))
  if (Array.isArray(value)) return `[${value.map(jsonOf).join()}]`
  const fields = Object.entries(value as AnyRow).filter(([, field]) => field !== undefined)
  return `{${fields.map(([name, field]) => `${JSON.stringify(wellFormed(name))}:${jsonOf(field)}`).join()}}`
}

function isoOf(date: Date): string {
  if (Number.isNaN(date.getTime())) throw new Unfit('holds an invalid date')
  return date.toISOString()
}

/** Half of a surrogate pair has no UTF-8: whoever encodes it writes another character in its place. */
function wellFormed(text: string): string {
  if (/\p{Surrogate}/u.test(text)) throw new Unfit('holds half of a character (a lone surrogate), which UTF-8 cannot')
  return text
}
