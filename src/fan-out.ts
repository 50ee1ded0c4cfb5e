import { rm } from 'node:fs/promises'
import { leastOf } from './cursor.js'
import { onAbort } from './pace.js'
import { type BulkReading, type Reading, type SourceDefinition, sourceHttp } from './source.js'
import { folderUntilExit } from './state/files.js'

/** What a sync is to read of a source that it shares with others. */
export interface Wish {
  /** Its cursor column, when it has one. */
  readonly cursor: string | undefined
  /** It compares the rows with what was delivered, and can do that with a source that is read at once. */
  readonly atOnce: boolean
}

/** One sync's part in a reading that it shares. */
export interface Share {
  /** The source, as this sync reads it. */
  readonly source: SourceDefinition
  /** To be called when the sync's run is over. */
  leave(): Promise<void>
}

/**
 * One reading of a source for several syncs, in the order of `wishes`. Each gets every array of rows; the slowest decides when
 * the next is asked for. It begins when each has asked for rows, or has left, or does not want to be waited for (`pass`): such a
 * one reads for itself later, except where a source can be read only once, which is waited for.
 *
 * Syncs that follow different cursor columns want other rows in another order, and do not read together, nor do those whose
 * positions cannot be compared.
 */
export function share(source: SourceDefinition, wishes: readonly Wish[]): readonly Share[] {
  const groups = new Map<string | undefined, Group>()
  // rows of a source that was read once cannot be had in another order
  const groupOf = ({ cursor }: Wish) => (source.repeatable ? cursor : undefined)
  for (const wish of wishes) {
    const together = wishes.filter((other) => groupOf(other) === groupOf(wish))
    if (!groups.has(groupOf(wish))) groups.set(groupOf(wish), new Group(source, together))
  }
  return wishes.map((wish) => groups.get(groupOf(wish))!.member())
}

/** Those who read in the same order. */
class Group {
  readonly #source: SourceDefinition
  readonly #atOnce: boolean
  readonly #gathering = new Gathering()
  /** How many may still ask for rows, and how many have not left. */
  #awaited: number
  #present: number
  #joined: Subscriber[] = []

  constructor(source: SourceDefinition, wishes: readonly Wish[]) {
    this.#source = source
    this.#awaited = wishes.length
    this.#present = wishes.length
    // for one that must have the rows one by one, the query would run twice
    this.#atOnce = wishes.every(({ atOnce }) => atOnce)
  }

  member(): Share {
    const source = this.#source
    let awaited = true
    const settle = (): void => {
      if (!awaited) return
      awaited = false
      this.#awaited--
      this.#begin()
    }
    const join = (reading: Reading): Subscriber => {
      const subscriber = new Subscriber(reading)
      this.#joined.push(subscriber)
      settle()
      return subscriber
    }
    const bulk =
      source.bulk && ((reading: BulkReading) => source.bulk!(awaited ? this.#gathering.shared(reading) : reading))
    return {
      source: {
        ...source,
        read: (reading) => (awaited ? { [Symbol.asyncIterator]: () => join(reading) } : source.read(reading)),
        bulk: this.#atOnce ? bulk : undefined,
        encodable: undefined,
        pass: source.repeatable ? settle : undefined,
      },
      leave: async () => {
        settle()
        if (--this.#present === 0) await this.#gathering.end()
      },
    }
  }

  #begin(): void {
    if (this.#awaited > 0) return
    const joined = this.#joined.splice(0)
    const groups = this.#source.repeatable ? comparable(joined) : [joined]
    for (const together of groups) if (together.length > 0) void pump(this.#source, together)
  }
}

/** Those that can begin at the least of their positions, together. */
function comparable(subscribers: readonly Subscriber[]): readonly (readonly Subscriber[])[] {
  if (positionOf(subscribers)) return [subscribers]
  const groups: Subscriber[][] = []
  for (const one of subscribers) {
    const group = groups.find((others) => positionOf([...others, one]))
    if (group) group.push(one)
    else groups.push([one])
  }
  return groups
}

function positionOf(subscribers: readonly Subscriber[]): ReturnType<typeof leastOf> {
  return leastOf(subscribers.map(({ reading }) => reading.since))
}

/** Reads for all of them, until the source ends or none is left. */
async function pump(source: SourceDefinition, subscribers: readonly Subscriber[]): Promise<void> {
  const present = new Set(subscribers)
  const over = new AbortController()
  let moved = (): void => {}
  for (const one of subscribers) {
    one.watch(
      () => moved(),
      () => {
        present.delete(one)
        if (present.size === 0) over.abort(one.reading.signal.reason)
        moved()
      },
    )
  }
  if (present.size === 0) return
  const reading: Reading = {
    ...subscribers[0]!.reading,
    since: positionOf(subscribers)?.since,
    signal: over.signal,
    http: sourceHttp(source, over.signal),
    describe(columns) {
      // what one sync objects to is no error of the source
      for (const one of present) one.attempt(() => one.reading.describe(columns))
    },
  }
  try {
    for await (const rows of source.read(reading)) {
      for (const one of present) one.offer(rows)
      while ([...present].some(({ waits }) => waits)) {
        await new Promise<void>((resolve) => {
          moved = resolve
        })
      }
      if (present.size === 0) return
    }
    for (const one of present) one.end()
  } catch (error) {
    for (const one of present) one.fail(error)
  }
}

/** What one sync gets of a reading: at most one array of rows waits for it. */
class Subscriber implements AsyncIterator<readonly object[]> {
  readonly reading: Reading
  readonly #ignore: () => void
  #rows: readonly object[] | undefined
  #over: { readonly error?: unknown } | undefined
  #wake = (): void => {}
  #taken = (): void => {}
  #left = (): void => {}

  constructor(reading: Reading) {
    this.reading = reading
    this.#ignore = onAbort(reading.signal, () => this.#leave())
    if (reading.signal.aborted) this.#leave()
  }

  // ---- for the sync

  async next(): Promise<IteratorResult<readonly object[]>> {
    while (true) {
      const value = this.#rows
      if (value) {
        this.#rows = undefined
        this.#taken()
        return { done: false, value }
      }
      if (this.#over) {
        if ('error' in this.#over) throw this.#over.error
        return { done: true, value: undefined }
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  async return(): Promise<IteratorResult<readonly object[]>> {
    this.#leave()
    return { done: true, value: undefined }
  }

  #leave(): void {
    this.#rows = undefined
    this.#close({})
    this.#left()
  }

  // ---- for the reading

  /** `taken`: it has no array of rows any more; `left`: it wants no more. */
  watch(taken: () => void, left: () => void): void {
    this.#taken = taken
    this.#left = left
    if (this.#over) left()
  }

  get waits(): boolean {
    return this.#rows !== undefined
  }

  offer(rows: readonly object[]): void {
    this.#rows = rows
    this.#wake()
  }

  end(): void {
    this.#close({})
  }

  fail(error: unknown): void {
    this.#close({ error })
  }

  attempt(action: () => void): void {
    try {
      action()
    } catch (error) {
      this.fail(error)
      this.#left()
    }
  }

  #close(how: { readonly error?: unknown }): void {
    this.#over ??= how
    this.#ignore()
    this.#wake()
  }
}

type Brought = { readonly value: unknown } | { readonly error: unknown }

/** What is brought once, for all that compare it. */
class Gathering {
  readonly #over = new AbortController()
  /** Resolves when those who came before have tried. */
  #turn: Promise<unknown> = Promise.resolve()
  #brought: Brought | undefined
  #folder: string | undefined

  shared(reading: BulkReading): BulkReading {
    const objections = new Set<unknown>()
    return {
      ...reading,
      describe(columns) {
        try {
          reading.describe(columns)
        } catch (error) {
          objections.add(error)
          throw error
        }
      },
      gather: async (bring) => {
        const turn = this.#turn.then(async () => this.#brought ?? (await this.#bring(bring, objections)))
        this.#turn = turn
        const brought = await unlessAborted(turn, reading.signal)
        if ('error' in brought) throw brought.error
        return brought.value as never
      },
    }
  }

  async #bring(
    bring: (folder: string, signal: AbortSignal) => Promise<unknown>,
    objections: ReadonlySet<unknown>,
  ): Promise<Brought> {
    try {
      this.#folder ??= await folderUntilExit('shared')
      const brought = { value: await bring(this.#folder, this.#over.signal) }
      // what one sync has no use for, another may want
      if (brought.value !== undefined) this.#brought = brought
      return brought
    } catch (error) {
      if (!objections.has(error)) this.#brought = { error }
      return { error }
    }
  }

  /** Nobody needs it any more. */
  async end(): Promise<void> {
    this.#over.abort()
    await this.#turn
    if (this.#folder) await rm(this.#folder, { recursive: true, force: true })
  }
}

/** Like the promise, but rejects as soon as the signal aborts. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const ignore = onAbort(signal, () => reject(signal.reason))
    promise.then(resolve, reject).finally(ignore)
  })
}
