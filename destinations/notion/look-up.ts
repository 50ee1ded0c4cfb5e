import { ConfigError } from 'spillway'
import { most, type Schema } from './properties.js'

// How databases and pages are found.

const me = 'notion'

/** An id, or the one in an address, as UUID. A view's id, which may follow in the query, is not it. */
export function idOf(text: string): string {
  const end = text
    .trim()
    .replace(/[?#].*$/s, '')
    .match(/[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$/i)?.[0]
  if (end)
    return end
      .replaceAll('-', '')
      .toLowerCase()
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
  throw new ConfigError(
    `${me}: ${JSON.stringify(text)} holds no id: give the address in the browser, or the 32 digits at its end`,
  )
}

/** As few filters as find all of these. A list may stand in a list, but no deeper. */
export function together(conditions: readonly object[], nest: boolean): readonly object[] {
  const lists: object[] = []
  for (let at = 0; at < conditions.length; at += most) lists.push({ or: conditions.slice(at, at + most) })
  return nest && lists.length > 1 ? [{ or: lists }] : lists
}

export function hasOption(property: Schema[string], value: unknown): boolean {
  if (property.type === 'select') return property.select.options.some(({ name }) => name === value)
  return property.type !== 'status' || property.status.options.some(({ name }) => name === value)
}
