import { createHash } from 'node:crypto'
import { type Asking, read } from './client.js'
import type { Content } from './message.js'

// The metadata by which a message is found again.

export type Listed = { readonly ts?: string; readonly metadata?: object }
/** A message as it is found again. `id`: channel and ts. */
export type Found = { readonly id: string; readonly value: unknown }

const noteType = 'spillway_row'

/** The metadata of a message: whose it is, and what it says. */
export function metadataOf(record: Content, sync: string, mark: string) {
  const note = { row: hashOf(sync, mark), value: contentOf(record) }
  return { event_type: noteType, event_payload: note }
}

/** The message of a receipt, if it is still there. */
export async function look(id: string, context: Asking): Promise<Found | undefined> {
  const place = placeOf(id)
  // of an answer in a thread, this gives the answer
  const one = { ...place, limit: 1, inclusive: true, include_all_metadata: true }
  const page = await read(context, (api) => api.conversations.replies(one))
  const found: Listed | undefined = page?.messages?.find(({ ts }) => ts === place.ts)
  return found && { id, value: noteOf(found)?.['value'] }
}

export function hashOf(...parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32)
}

export function contentOf({ text, blocks }: Content): string {
  return hashOf(text, blocks ?? null)
}

export function noteOf(message: { readonly metadata?: object }): { readonly [name: string]: unknown } | undefined {
  const { event_type, event_payload } = (message.metadata ?? {}) as { event_type?: unknown; event_payload?: object }
  return event_type === noteType ? { ...event_payload } : undefined
}

export function placeOf(id: string): { channel: string; ts: string } {
  const [channel = '', ts = ''] = id.split(':')
  return { channel, ts }
}
