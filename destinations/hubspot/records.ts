import type { AnyRow } from 'spillway'

// Records as the texts that HubSpot takes, and how it compares them.

/** The property that every object has. */
export const recordId = 'hs_object_id'

export interface Input {
  readonly record: AnyRow
  /** What its object is found by: the value of the match property as HubSpot compares it, or a record id. */
  readonly id: string | undefined
  readonly byRecordId: boolean
  readonly properties: Readonly<Record<string, string>>
  readonly objectWriteTraceId: string
}

/** A value as HubSpot compares it: https://developers.hubspot.com/docs/api-reference/crm-contacts-v3/guide. `undefined`: none. */
export function keyOf(name: string, value: unknown): string | undefined {
  const text = textOf(value)
  const key = typeof text === 'string' ? text.trim() : ''
  if (key === '') return undefined
  return name === 'email' ? key.toLowerCase() : key
}

/** A value as the text that HubSpot takes: https://developers.hubspot.com/docs/api-reference/crm-properties-v3/guide. `undefined`: absent. */
export function textOf(value: unknown): string | { readonly problem: string } | undefined {
  if (value === undefined) return undefined
  if (value === null) return ''
  if (typeof value === 'number' && !Number.isFinite(value))
    return { problem: `is ${value}, which is no number to HubSpot` }
  if (
    typeof value === 'string' ||
    typeof value === 'number' ||
    typeof value === 'bigint' ||
    typeof value === 'boolean'
  ) {
    return String(value)
  }
  if (value instanceof Date)
    return Number.isNaN(value.getTime()) ? { problem: 'is an invalid date' } : value.toISOString()
  if (!Array.isArray(value))
    return { problem: 'is neither text, number, boolean, date nor a list of them: map it to one' }
  const parts = value.map((part) => (part === null || Array.isArray(part) ? undefined : textOf(part)))
  if (parts.every((part) => typeof part === 'string' && !part.includes(';'))) return parts.join(';')
  return { problem: 'is a list with an entry that HubSpot, which parts them by semicolons, would not read as one' }
}

/** Properties in a form in which equal values are equal texts; `null` where there is none. */
export function comparable(
  properties: Readonly<Record<string, string | null>>,
  name?: string,
): Record<string, string | null> {
  return Object.fromEntries(
    Object.entries(properties).map(([field, text]) => {
      const value = keyOf(field, text)
      return [field, value === undefined ? null : field === name ? value : plain(value)]
    }),
  )
}

function plain(text: string): string {
  if (/^-?\d+\.\d+$/.test(text)) return text.replace(/\.?0+$/, '')
  if (/^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)?$/.test(text)) {
    const time = new Date(/T[\d:.]+$/.test(text) ? `${text}Z` : text) // HubSpot reads a time without a zone as UTC
    // of an instant HubSpot keeps milliseconds, and of midnight in a property for dates the date
    if (!Number.isNaN(time.getTime())) return time.toISOString().replace('T00:00:00.000Z', '')
  }
  return text.split(';').sort().join(';') // choices have no order
}
