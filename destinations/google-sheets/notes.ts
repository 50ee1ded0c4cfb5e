import { createHash } from 'node:crypto'
import type { sheets_v4 } from '@googleapis/sheets'
import type { Request } from './client.js'

/**
 * Which batches were written, in the tab's developer metadata, in the request that writes their rows: Google applies it as a whole or
 * not at all, so that the fate of a batch whose answer was lost can be looked up.
 */
export type Notes = ReadonlyMap<string, Note>

interface Note {
  readonly id: number
  /** The first row of a batch that was appended. Other batches count on from the notes before them. */
  readonly row: number
}

/**
 * How many batches stay noted: more than can be without an answer at once, and far less than the 30,000 characters that
 * Google keeps for a tab. Each has a note of its own, so that a request that lands late wipes out no other.
 */
const notesKept = 100

/** The requests that note a batch, and the notes as they are afterwards. */
export interface Noted {
  readonly requests: Request[]
  readonly notes: Notes
}

/**
 * Notes a batch under its idempotency key. The id comes of the key, and Google refuses a second note of the same id together with all
 * that is in its request: of two attempts at one batch, only one can ever be applied.
 */
export function note(
  { id: sheetId, notes }: { readonly id: number; readonly notes: Notes },
  { idempotencyKey, sync }: { readonly idempotencyKey: string; readonly sync: string },
  row = 1 + Math.max(0, ...Array.from(notes.values(), (other) => other.row)),
): Noted {
  const key = digest(idempotencyKey)
  const fresh: Note = { id: idOf(`${sheetId} ${idempotencyKey}`), row }
  // later batches stand further down
  const others = [...notes].filter(([other]) => other !== key).toSorted(([, a], [, b]) => a.row - b.row)
  const kept = others.slice(-(notesKept - 1))
  const create = {
    metadataId: fresh.id,
    metadataKey: nameOf(sync),
    metadataValue: `${key}:${row}`,
    location: { sheetId },
    visibility: 'DOCUMENT',
  }
  const remove = [...notes.values()].filter(({ id }) => !kept.some(([, other]) => other.id === id))
  return {
    requests: [
      ...remove.map(({ id }) => ({
        deleteDeveloperMetadata: { dataFilter: { developerMetadataLookup: { metadataId: id } } },
      })),
      { createDeveloperMetadata: { developerMetadata: create } },
    ],
    notes: new Map([...kept, [key, fresh]]),
  }
}

/** The notes of a sync among the metadata of a tab. */
export function readNotes(metadata: readonly sheets_v4.Schema$DeveloperMetadata[], sync: string): Notes {
  return new Map(
    metadata
      .filter(({ metadataKey }) => metadataKey === nameOf(sync))
      .map(({ metadataId, metadataValue }) => {
        const [key, row] = String(metadataValue).split(':')
        return [String(key), { id: Number(metadataId), row: Number(row) }]
      }),
  )
}

/** The note of a batch. */
export function noteOf(notes: Notes, idempotencyKey: string): Note | undefined {
  return notes.get(digest(idempotencyKey))
}

function nameOf(sync: string): string {
  return `spillway.${sync}`
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}

/** A positive number of 31 bits. */
function idOf(text: string): number {
  return Math.max(1, Number.parseInt(digest(text).slice(0, 8), 16) >>> 1)
}
