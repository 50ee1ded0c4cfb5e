import { type Context, FatalError, RejectedError, RetryableError } from 'spillway'
import {
  type Block,
  blocksOf,
  type Formats,
  formatColumns,
  headerCells,
  type Placed,
  typed,
  updateCells,
} from './cells.js'
import { type Config, me, type Request, type Spreadsheet } from './client.js'
import type { Noted } from './notes.js'
import { grown, type Look, look, room, type Tab } from './tab.js'

/** What the writing depends on. */
interface Writing {
  readonly book: Spreadsheet
  readonly tab: string
  readonly input: 'RAW' | 'USER_ENTERED'
  readonly formulas: readonly string[]
  readonly formats: Formats
}

/** Writes to one tab, and knows from one call to the next what stands there and what may yet come to stand there. */
export class Writer {
  readonly #use: Writing
  /** The tab as the last call left it, so that the next one need not look at everything. Gone after any failure. */
  #memory: { readonly run: string; readonly tab: Tab } | undefined
  /** Rows that a call without an answer may have written or may yet write, by what belongs there. */
  #reserved: ReadonlyMap<string, number> = new Map()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(use: Writing) {
    this.#use = use
  }

  /** Calls work on the tab one after the other, whatever `concurrency` says: each counts on the rows that it has seen. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work)
    this.#turn = mine.catch(() => {}) // the caller, who awaits `mine`, is told
    return mine
  }

  /** Looks at the tab, and at the whole of it when the last call has failed. */
  look(context: Context<Config>, match: readonly string[]): Promise<Look> {
    const known = this.#memory?.run === context.run ? this.#memory.tab : undefined
    this.forget() // whatever fails from here on, the next call looks afresh
    return look(this.#use.book, context, this.#use.tab, match, known, [...this.#reserved.values()])
  }

  forget(): void {
    this.#memory = undefined
  }

  remember({ run }: Context<Config>, tab: Tab): void {
    this.#memory = { run, tab }
  }

  /** The row that is kept for something, should an earlier attempt have been without an answer. */
  reservedFor(id: string): number | undefined {
    return this.#reserved.get(id)
  }

  /** Rows for what has none, below all that stands in the tab or may yet come to stand there. */
  claim({ tab, blank }: Look, ids: readonly string[]): ReadonlyMap<string, number> {
    let next = Math.max(1, tab.last, ...this.#reserved.values()) + 1
    return new Map(
      [...new Set(ids)].map((id) => {
        const before = this.#reserved.get(id)
        // the row of the unanswered call again, so that it does not matter which of the two arrives last
        return [id, before !== undefined && blank(before) ? before : next++]
      }),
    )
  }

  release(ids: readonly string[]): void {
    const done = new Set(ids)
    this.#reserved = new Map([...this.#reserved].filter(([id]) => !done.has(id)))
  }

  /** Writes rows to their places, with the columns and the room that they need. */
  async write(
    context: Context<Config>,
    { tab, cached }: Look,
    rows: readonly Placed[],
    names: readonly string[],
    places: ReadonlyMap<string, number>,
    noted: Noted | undefined,
  ): Promise<void> {
    const { header } = tab
    const twice = names.find((name) => header.indexOf(name) !== header.lastIndexOf(name))
    if (twice !== undefined) {
      throw new FatalError(`${me}: row 1 of ${this.#use.tab} has two columns ${twice}: rename or remove one of them`)
    }
    const wanted = [...header, ...names.filter((name) => !header.includes(name))]
    const bottom = Math.max(1, ...rows.map(({ row }) => row))
    const structure = [...this.structure(tab, wanted, bottom), ...(noted?.requests ?? [])]
    const earlier = this.#reserved
    this.#reserved = new Map([...earlier, ...places])
    try {
      await this.commit(context, { tab, cached }, structure, blocksOf(rows, wanted))
    } catch (error) {
      // these three say that nothing was applied by this call; after any other its rows stay reserved
      if (error instanceof RetryableError || error instanceof RejectedError || error instanceof FatalError) {
        this.#reserved = earlier
      }
      throw error
    }
    this.release([...places.keys()])
    this.remember(context, { ...grown(tab, bottom, wanted), notes: noted?.notes ?? tab.notes })
  }

  /** What is about the tab rather than about its rows. Rows that are new to the grid have no format of their own. */
  structure(tab: Tab, wanted: readonly string[], bottom: number): Request[] {
    const fresh = !tab.formatted || bottom > tab.rows || wanted.length > tab.header.length
    return [
      ...room(tab, bottom, wanted.length),
      ...headerCells(tab.id, tab.header, wanted),
      ...(fresh ? formatColumns(tab.id, wanted, this.#use.formats) : []),
    ]
  }

  /** RAW: everything in one request. `stringValue` is never parsed, so that no text becomes a formula. */
  async commit(
    context: Context<Config>,
    { tab, cached }: Pick<Look, 'tab' | 'cached'>,
    structure: Request[],
    cells: readonly Block[],
  ): Promise<void> {
    const { book, input, formulas } = this.#use
    const raw = input === 'RAW' ? cells.map((block) => updateCells(tab.id, block)) : []
    const requests = [...structure, ...raw]
    if (requests.length > 0) await book.change(context, requests, { cached, structure: structure.length })
    if (input === 'RAW' || cells.length === 0) return
    const blocks = cells.map(({ top, left, rows }) => ({
      top,
      left,
      bottom: top + rows.length - 1,
      right: left + rows[0]!.length - 1,
      values: rows.map((row) =>
        row.map(({ field, value }) =>
          typed(value, { formula: formulas.includes(field), key: context.match.includes(field) }),
        ),
      ),
    }))
    await book.type(context, tab.title, blocks, cached)
  }
}
