import { type AnyRow, type Outcome, retry, unknown } from 'spillway'

// What becomes of the records of a batch, of which each is written by a request of its own.

/** Nobody knows whether this record was written. */
export class Unanswered extends Error {
  constructor(
    readonly record: AnyRow,
    message: string,
  ) {
    super(message)
  }
}

/** Records with what became of them; nothing more to say means done. */
export type Answers = AsyncGenerator<readonly [record: AnyRow, outcome: Outcome | undefined]>

/** A failure ends a batch early: what was not sent by then can be sent again, and of one record nothing is known. */
export async function answers(batch: AnyRow[], work: Answers): Promise<Outcome[]> {
  const answered = new Map<AnyRow, Outcome | undefined>()
  try {
    for await (const [record, outcome] of work) answered.set(record, outcome)
  } catch (error) {
    const lost = error instanceof Unanswered ? error.record : undefined
    if (answered.size === 0 && (!lost || batch.length === 1)) throw error // it holds for the whole batch
    for (const record of batch) {
      if (!answered.has(record)) answered.set(record, record === lost ? unknown(record) : retry(record))
    }
  }
  return [...answered.values()].filter((outcome) => outcome !== undefined)
}
