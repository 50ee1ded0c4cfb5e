import type { Database } from './database.js'
import { parsePosition, type Shared, share } from './embedded.js'

/** An event on its way into the inbox. */
export interface NewEvent {
  /** By which a repeat is known again; `undefined`: it cannot be. */
  readonly delivery: string | undefined
  readonly type: string | undefined
  /** Its lossless text. */
  readonly row: string
}

/** An event as it is kept. */
export interface StoredEvent {
  readonly id: number
  readonly delivery: string | null
  readonly type: string | null
  /** When it arrived, in milliseconds since 1970. */
  readonly at: number
  readonly row: string
}

/** What became of events: how many were stored, and how many were there already; or no room was left for them. */
export type Received = { readonly stored: number; readonly repeated: number } | 'full'

interface Request {
  readonly events: readonly NewEvent[]
  outcome: Received | undefined
}

/** Bytes of all that waits in the inbox, and how long delivery ids are known, in milliseconds. */
interface Bounds {
  readonly limit: number
  readonly keep: number
}

interface Group {
  readonly requests: Request[]
  readonly durable: Promise<void>
}

/** Rows freed, or ids forgotten, in one commit. */
const chunk = 1_000
/** Rows, and about how many characters of them, in one page. */
const page = { rows: 1_000, text: 4_000_000 }

/**
 * The events of one webhook in `state.db`: kept from the commit that made them durable until every sync that reads them has passed them.
 * How far a sync has come is its own cursor, `<name>#<event>`, which moves in the commit that stages the rows.
 */
export class Inbox {
  readonly #shared: Shared
  readonly #database: Database
  readonly #name: string
  readonly #hook: number
  /** The group of this turn of the event loop: it becomes one change, so that the tally is kept once for all of it. */
  #group: Group | undefined

  private constructor(shared: Shared, name: string, hook: number) {
    this.#shared = shared
    this.#database = shared.database
    this.#name = name
    this.#hook = hook
  }

  static async open(folder: string, name: string): Promise<Inbox> {
    const shared = await share(folder)
    try {
      const find = () => shared.database.get<{ id: number }>('select id from hook where name = ?', name)
      if (!find()) {
        await shared.database.commit(
          () => void shared.database.run('insert or ignore into hook (name) values (?)', name),
        )
      }
      return new Inbox(shared, name, find()!.id)
    } catch (error) {
      await shared.release()
      throw error
    }
  }

  /** Stores events, those of one call or none of them; resolves when they are durable. */
  async receive(events: readonly NewEvent[], { limit, keep }: Bounds): Promise<Received> {
    const request: Request = { events, outcome: undefined }
    const group = this.#group ?? this.#begin({ limit, keep })
    group.requests.push(request)
    await group.durable
    return request.outcome!
  }

  #begin(bounds: Bounds): Group {
    const requests: Request[] = []
    const over = (): void => {
      if (this.#group === group) this.#group = undefined
    }
    const durable = this.#database.commit(() => {
      over()
      this.#write(requests, bounds)
    })
    const group: Group = { requests, durable }
    this.#group = group
    durable.catch(over) // it may not have come to the change at all
    return group
  }

  #write(requests: readonly Request[], { limit, keep }: Bounds): void {
    const at = Date.now()
    const before = this.#bytes()
    let bytes = before
    for (const request of requests) {
      const size = request.events.reduce((sum, { row }) => sum + row.length, 0)
      if (bytes + size > limit && size > 0) {
        request.outcome = 'full'
        continue
      }
      let stored = 0
      for (const { delivery, type, row } of request.events) {
        if (delivery !== undefined && !this.#isNew(delivery, at + keep)) continue
        this.#database.run(
          'insert into event (hook, delivery, type, at, bytes, row) values (?, ?, ?, ?, ?, ?)',
          this.#hook,
          delivery ?? null,
          type ?? null,
          at,
          row.length,
          row,
        )
        stored++
        bytes += row.length
      }
      request.outcome = { stored, repeated: request.events.length - stored }
    }
    if (bytes !== before) this.#addBytes(bytes - before)
  }

  #isNew(delivery: string, until: number): boolean {
    const sql = 'insert or ignore into delivery (hook, id, until) values (?, ?, ?)'
    return this.#database.run(sql, this.#hook, delivery, until) === 1
  }

  #bytes(): number {
    return this.#database.get<{ bytes: number }>('select bytes from hook where id = ?', this.#hook)!.bytes
  }

  #addBytes(bytes: number): void {
    this.#database.run('update hook set bytes = bytes + ? where id = ?', bytes, this.#hook)
  }

  /** The number of the latest event; 0 before there is one. */
  last(): number {
    const sql = 'select max(id) as id from event where hook = ?'
    return this.#database.get<{ id: number | null }>(sql, this.#hook)!.id ?? 0
  }

  /** Events after a number and up to another, as many as are read at once. */
  page(after: number, through: number): readonly StoredEvent[] {
    const events: StoredEvent[] = []
    let text = 0
    const rows = this.#database.iterate<StoredEvent>(
      'select id, delivery, type, at, row from event where hook = ? and id > ? and id <= ? order by id',
      this.#hook,
      after,
      through,
    )
    for (const event of rows) {
      events.push(event)
      text += event.row.length
      if (events.length >= page.rows || text >= page.text) break
    }
    return events
  }

  /** How many events, up to `most`, there are after a number, and when the first of them came. */
  waiting(after: number, most: number): { readonly count: number; readonly since: number | undefined } {
    const { count, since } = this.#database.get<{ count: number; since: number | null }>(
      'select count(*) as count, min(at) as since from (select at from event where hook = ? and id > ? order by id limit ?)',
      this.#hook,
      after,
      most,
    )!
    return { count, since: since ?? undefined }
  }

  /** The place behind an event. */
  place(event: number): string {
    return `${this.#name}#${event}`
  }

  /** The event before a place; 0 for a place that is none of this inbox. */
  after(place: unknown): number {
    const found = typeof place === 'string' ? place.lastIndexOf('#') : -1
    if (found < 0 || (place as string).slice(0, found) !== this.#name) return 0
    return Number((place as string).slice(found + 1))
  }

  /** From now on events are kept for these syncs too. */
  async join(syncs: Iterable<string>): Promise<void> {
    const known = new Set(this.#readers().map(({ sync }) => sync))
    const fresh = [...syncs].filter((sync) => !known.has(sync))
    if (fresh.length === 0) return
    await this.#database.commit(() => {
      for (const sync of fresh)
        this.#database.run('insert or ignore into hook_reader (hook, sync) values (?, ?)', this.#hook, sync)
    })
  }

  #readers(): readonly { readonly sync: string; readonly passed: number }[] {
    const readers = this.#database.all<{ sync: string; cursor: string | null }>(
      'select r.sync, s.cursor from hook_reader r left join sync s on s.name = r.sync where r.hook = ?',
      this.#hook,
    )
    return readers.map(({ sync, cursor }) => ({
      sync,
      passed: cursor === null ? 0 : this.after(parsePosition(cursor)),
    }))
  }

  /** The syncs that are furthest behind. */
  slowest(): readonly string[] {
    const readers = this.#readers()
    const least = Math.min(...readers.map(({ passed }) => passed))
    return readers.filter(({ passed }) => passed === least).map(({ sync }) => sync)
  }

  /** Removes the events that every sync has passed, and the delivery ids whose time is over. */
  async free(): Promise<void> {
    const readers = this.#readers()
    const passed = readers.length === 0 ? 0 : Math.min(...readers.map((reader) => reader.passed))
    for (let more = this.#hasPassed(passed); more; more = this.#hasPassed(passed)) {
      await this.#database.commit(() => this.#freeChunk(passed))
    }
    const now = Date.now()
    const over = 'delete from delivery where n in (select n from delivery order by n limit ?) and until < ?'
    while (this.#oldestEnds() < now) await this.#database.commit(() => void this.#database.run(over, chunk, now))
  }

  #hasPassed(passed: number): boolean {
    return (
      this.#database.get('select 1 from event where hook = ? and id <= ? limit 1', this.#hook, passed) !== undefined
    )
  }

  #freeChunk(passed: number): void {
    const { last, bytes } = this.#database.get<{ last: number | null; bytes: number | null }>(
      'select max(id) as last, sum(bytes) as bytes from (select id, bytes from event where hook = ? and id <= ? order by id limit ?)',
      this.#hook,
      passed,
      chunk,
    )!
    // another process may have been here in between
    if (last === null) return
    this.#database.run('delete from event where hook = ? and id <= ?', this.#hook, last)
    this.#addBytes(-bytes!)
  }

  #oldestEnds(): number {
    return this.#database.get<{ until: number }>('select until from delivery order by n limit 1')?.until ?? Infinity
  }

  close(): Promise<void> {
    return this.#shared.release()
  }
}
