import { setTimeout as sleep } from 'node:timers/promises'
import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  destination,
  FatalError,
  type Injected,
  type ListContext,
  type Rejection,
  reject,
} from 'spillway'
import {
  type Block,
  blocksOf,
  cellOf,
  deleteRows,
  isReadAsTyped,
  keyOf,
  type Line,
  listed,
  readRecords,
} from './google-sheets/cells.js'
import { type Config, config, me, spreadsheet as open, type Request } from './google-sheets/client.js'
import { note, noteOf } from './google-sheets/notes.js'
import { checkColumns, grown, room, survey, type Tab } from './google-sheets/tab.js'
import { Writer } from './google-sheets/writer.js'

/** How to sign in: `credentials` or `token`, whichever there is. */
export interface GoogleSheetsConfig {
  /** A service account's key file, as an object or as its JSON text. Share the spreadsheet with its `client_email`. */
  readonly credentials?: string | { readonly client_email: string; readonly private_key: string } | undefined
  /** An OAuth access token with the scope `https://www.googleapis.com/auth/spreadsheets`. Google's live for an hour. */
  readonly token?: string | undefined
  /** Where Google's API and its token endpoint are found, for the sandbox or a proxy. @default Google's own addresses */
  readonly endpoint?: string | undefined
}

/** What {@link googleSheets} is told. The config's fields may be left out; they are then injected. */
export interface GoogleSheetsOptions extends Injected<GoogleSheetsConfig> {
  /** The spreadsheet's id, or its address in the browser. */
  readonly spreadsheet: string
  /** The tab's title. The tab is made when it is missing; no other tab is ever touched. */
  readonly tab: string
  /** The fields by which `upsert` finds its row. @default the sync's key */
  readonly match?: string | readonly string[] | undefined
  /** The fields to write, in the order that their columns get in a new tab; match fields are always among them. @default all */
  readonly columns?: readonly string[] | undefined
  /**
   * `'RAW'` writes what the record holds: text stays text. `'USER_ENTERED'` has Google read text as if it were typed, so
   * that `2026-11-21` becomes a date and `12%` a number; match fields stay text, and so does all that could be a formula.
   *
   * @default 'RAW'
   */
  readonly input?: 'RAW' | 'USER_ENTERED' | undefined
  /**
   * Fields whose text may be a formula (`=HYPERLINK(…)`), with `input: 'USER_ENTERED'`. A formula can read the whole
   * spreadsheet and send it away (`=IMPORTXML`), so name none that outsiders can fill.
   *
   * @default none
   */
  readonly formulas?: readonly string[] | undefined
  /**
   * How the numbers and dates of a field are shown, by Google's patterns (`'0.00'`, `'0%'`, `'yyyy-mm-dd'`,
   * https://developers.google.com/workspace/sheets/api/guides/formats). With a pattern for dates, ISO texts and `Date`s become dates
   * of Sheets, by which one can calculate; without one they stay text.
   *
   * @default as the columns are formatted already
   */
  readonly formats?: Readonly<Record<string, string>> | undefined
}

/**
 * A tab of a Google spreadsheet: rows are appended, updated by key, deleted by key, or replaced as a whole.
 *
 * Row 1 holds the names of the columns. Records find their columns by name, in whatever order they stand; columns that the
 * records do not have are left alone, fields without a column get a new one at the end. `null` makes a cell blank, an absent
 * field leaves it as it is; `0` and `false` are values. Integers beyond 2^53 and decimals are written as text, because Sheets
 * would round them; dates as ISO text unless `formats` says how to show them; lists and objects as JSON, with all digits of integers and bytes in base64.
 * A record that does not fit into cells is rejected, alone.
 *
 * **What is guaranteed.** Rows are written to row numbers of their own, never with `values.append`; and the tab's developer
 * metadata notes which batches were appended, in the request that writes their rows, which Google applies as a whole or not
 * at all. So the fate of a batch whose answer was lost can be looked up, after a crash too, and no row is appended twice.
 * `upsert`, `update` and `delete` find their rows by key in the call that writes, and a delete is noted as well: a repeated one never
 * takes a neighbour away. With `input: 'USER_ENTERED'` the note is taken just before the rows are written, and
 * whether they were is told by those cells being blank or not.
 *
 * `verify()` of a sync finds what somebody changed in the cells since. With `input: 'USER_ENTERED'` it leaves out texts of which
 * Google may have made a number or a date.
 *
 * **What is not.** Sheets has no locks: what somebody types into the first free row, or sorts, in the second between look and
 * write can be overwritten or mixed up, and a row that has moved up may be deleted in place of another. Give a tab one sync at a time. `replace` writes from the top down, so whoever looks
 * meanwhile sees new rows above old ones.
 *
 * It needs `npm install @googleapis/sheets@14`. Google grants 60 writes a minute and user; the rate keeps to that.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * await sync({
 *   name: 'leads',
 *   from: leads,
 *   to: googleSheets({ spreadsheet: '1AbC', tab: 'Leads', credentials: secret('GOOGLE_CREDENTIALS') }),
 *   key: 'id',
 *   mode: 'upsert',
 * }).run()
 * ```
 */
export function googleSheets(
  options: GoogleSheetsOptions,
): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete' | 'replace'> {
  const { spreadsheet, tab, match, columns, input = 'RAW', formulas = [], formats = {}, ...given } = options
  if (!spreadsheet) throw new ConfigError(`${me}: spreadsheet is empty: give its id, or its address in the browser`)
  if (!tab) throw new ConfigError(`${me}: tab is empty: give a title; the tab is made when it is missing`)
  if (input !== 'RAW' && input !== 'USER_ENTERED') {
    throw new ConfigError(`${me}: input is ${JSON.stringify(input)}; it must be 'RAW' or 'USER_ENTERED'`)
  }
  if (formulas.length > 0 && input === 'RAW') {
    throw new ConfigError(`${me}: formulas are only executed with input: 'USER_ENTERED'`)
  }
  const unformatted = Object.keys(formats).find((field) => typeof formats[field] !== 'string' || formats[field] === '')
  if (unformatted !== undefined) {
    throw new ConfigError(`${me}: formats has no pattern for ${unformatted}: give one such as '0.00' or 'yyyy-mm-dd'`)
  }
  const spreadsheetId = /\/d\/([\w-]+)/.exec(spreadsheet)?.[1] ?? spreadsheet
  const book = open(spreadsheetId)
  const writer = new Writer({ book, tab, input, formulas, formats })

  return destination({
    name: me,
    batchSize: 1000,
    batchBytes: 800_000, // a request is about twice that, and Google advises at most 2 MB
    concurrency: 1,
    rate: input === 'RAW' ? '60/min' : '30/min', // calls; with USER_ENTERED each may write twice
    match,
    config,
    target: ({ endpoint }: Config) => ({ endpoint, spreadsheet: spreadsheetId, tab }),
  })({
    insert: (batch, context) => writer.inTurn(() => insert(batch, context)),
    update: (batch, context) => writer.inTurn(() => writeByKey(batch, context)),
    upsert: (batch, context) => writer.inTurn(() => writeByKey(batch, context)),
    delete: (batch, context) => writer.inTurn(() => remove(batch, context)),
    replace: (batches, context) => writer.inTurn(() => replace(batches, context)),
    verify: (batch, context) => writer.inTurn(() => verify(batch, context)),
    list,
    held,
  })(given)

  // ---- handlers ------------------------------------------------------------------------------------------------------

  async function insert(batch: AnyRow[], context: Context<Config>): Promise<Rejection[]> {
    const names = fields(context, [])
    const { lines, rejected } = readRecords(batch, names, formats)
    if (lines.length === 0) return rejected
    const ids = lines.map((_, index) => `${context.idempotencyKey}/${index}`)
    let found = await writer.look(context, [])
    // rows that stand where those of an unanswered attempt belong: its note, if it landed just now, is there as well
    const taken = ids.some((id) => !found.blank(writer.reservedFor(id) ?? Number.POSITIVE_INFINITY))
    if (taken) found = await writer.look(context, [])
    if (await landed(context, found.tab, lines.length)) {
      writer.release(ids)
      return rejected
    }
    const places = writer.claim(found, ids)
    const rows = lines.map((line, index) => ({ ...line, row: places.get(ids[index]!)! }))
    await writer.write(context, found, rows, names, places, note(found.tab, context, rows[0]!.row))
    return rejected
  }

  /** `upsert`, and `update`, for which a row must be there. */
  async function writeByKey(batch: AnyRow[], context: Context<Config>): Promise<Rejection[]> {
    const { match, operation } = context
    const names = fields(context, match)
    const { found, keyed, rejected } = await find(batch, names, context)
    const known = keyed.filter(({ record, key }) => {
      if (operation !== 'update' || found.keys.has(key)) return true
      rejected.push(reject(record, `no row of ${tab} has its key`))
      return false
    })
    if (known.length === 0) return rejected
    const places = writer.claim(
      found,
      known.map(({ key }) => key).filter((key) => !found.keys.has(key)),
    )
    const rows = known.map(({ cells, key }) => {
      const row = found.keys.get(key)?.[0]
      if (row === undefined) return { cells, row: places.get(key)! }
      // its key stands there already, perhaps as a number where the record has text
      return { cells: new Map([...cells].filter(([field]) => !match.includes(field))), row }
    })
    await writer.write(context, found, rows, names, places, undefined)
    return rejected
  }

  async function remove(batch: AnyRow[], context: Context<Config>): Promise<Rejection[]> {
    const { found, keyed, rejected } = await find(batch, context.match, context)
    const { id, rows: size, last, notes } = found.tab
    const rows = keyed.flatMap(({ key }) => found.keys.get(key) ?? [])
    // an earlier attempt at these rows has been applied, or there are none: what stands there now is somebody else's
    if (rows.length === 0 || noteOf(notes, context.idempotencyKey)) return rejected
    const noted = note(found.tab, context)
    // Sheets wants a row to remain below a header that is frozen
    const spare = room(found.tab, rows.length + 2, 0)
    await book.change(context, [...noted.requests, ...spare, ...deleteRows(id, rows)], {
      cached: found.cached,
      structure: noted.requests.length + spare.length,
    })
    const left = Math.max(size, rows.length + 2) - rows.length
    writer.remember(context, { ...found.tab, rows: left, last: last - rows.length, notes: noted.notes })
    return rejected
  }

  /** The tab, and the records by their key; those that have none, or one that stands in several rows, are rejected. */
  async function find(batch: AnyRow[], names: readonly string[], context: Context<Config>) {
    const { match } = context
    const { lines, rejected } = readRecords(batch, names, formats)
    const found = await writer.look(context, match)
    const keyed = lines.flatMap((line): (Line & { readonly key: string })[] => {
      const key = keyOf(match.map((field) => line.cells.get(field)))
      const rows = found.keys.get(key ?? '') ?? []
      if (key !== undefined && rows.length < 2) return [{ ...line, key }]
      const problem =
        key === undefined
          ? 'a match field is blank, so that its row cannot be found'
          : `its key stands in rows ${rows.join(' and ')} of ${tab}: keep one of them`
      rejected.push(reject(line.record, problem))
      return []
    })
    return { found, keyed, rejected }
  }

  async function replace(batches: AsyncIterable<AnyRow[]>, context: Context<Config>): Promise<Rejection[]> {
    writer.forget()
    const found: Tab = { ...(await survey(book, context, tab)), header: [] } // all of it is written anew
    let sheet = found
    const rejected: Rejection[] = []
    let bottom = 1
    const turn = eachSecond(context.signal)
    const commit = async (structure: Request[], cells: readonly Block[]) => {
      await turn()
      await writer.commit(context, { tab: sheet, cached: false }, structure, cells)
    }
    const clear = (area: object): Request => ({
      updateCells: { range: { sheetId: sheet.id, ...area }, fields: 'userEnteredValue' },
    })
    for await (const batch of batches) {
      const { lines, rejected: unfit } = readRecords(batch, fields(context, []), formats)
      rejected.push(...unfit)
      const names = [...new Set([...sheet.header, ...fields(context, [])])]
      const rows = lines.map(({ cells }, index) => ({
        // every cell is written, because another row may stand there
        cells: new Map(names.map((name) => [name, cells.get(name) ?? ''])),
        row: bottom + 1 + index,
      }))
      bottom += rows.length
      const structure = writer.structure(sheet, names, bottom)
      if (sheet === found && names.length < sheet.columns) structure.push(clear({ startColumnIndex: names.length }))
      await commit(structure, blocksOf(rows, names))
      sheet = grown(sheet, bottom, names)
    }
    if (!sheet.missing && bottom < sheet.rows) await commit([clear({ startRowIndex: bottom })], [])
    return rejected
  }

  async function verify(batch: AnyRow[], context: Context<Config>): Promise<AnyRow[]> {
    writer.forget()
    const records = readRecords(batch, fields(context, []), formats).lines.map(({ record }) => record)
    const there = await landed(context, await survey(book, context, tab), records.length)
    return there ? records : []
  }

  /** The rows that have a key, page by page; rows whose key is blank are nobody's. */
  async function* list(context: ListContext<Config>): AsyncGenerator<AnyRow[]> {
    const turn = eachSecond(context.signal)
    const sheet = await survey(book, context, tab)
    if (sheet.last < 2) return
    const { header } = sheet
    checkColumns(tab, header, context.match)
    // of two columns with one name, the first
    const fields = [...new Set(header)].filter(Boolean).map((name) => [name, header.indexOf(name)] as const)
    const rows = Math.max(1, Math.floor(cellsOfPage / header.length))
    for (let from = 2; from <= sheet.last; from += rows) {
      await turn()
      const page = { top: from, bottom: Math.min(from + rows - 1, sheet.last), right: header.length - 1 }
      const [lines = []] = await book.values(context, sheet, [page], false)
      yield lines
        .map((cells) =>
          listed(
            fields.map(([name, column]) => [name, cells[column] ?? '']),
            context.match,
          ),
        )
        .filter((object) => context.match.every((field) => object[field] !== null))
    }
  }

  /** A record as its cells give it back. */
  function held(record: AnyRow, { match }: ListContext<Config>): AnyRow {
    const names = columns ? new Set([...match, ...columns]) : Object.keys(record)
    const cells = Array.from(names, (name) => [name, cellOf(record[name], formats[name])] as const)
    const kept = (name: string, cell: unknown) => input === 'RAW' || match.includes(name) || !isReadAsTyped(cell)
    return listed(
      cells.filter(([name, cell]) => cell !== undefined && kept(name, cell)),
      match,
    )
  }

  // ---- looking -------------------------------------------------------------------------------------------------------

  /** Whether an earlier attempt at this batch, of so many rows, has appended them. */
  async function landed(context: Context<Config>, sheet: Tab, count: number): Promise<boolean> {
    const top = noteOf(sheet.notes, context.idempotencyKey)?.row
    if (top === undefined || input === 'RAW') return top !== undefined
    const bottom = Math.min(top + count - 1, sheet.rows)
    if (bottom < top) return false
    const [cells = []] = await book.values(context, sheet, [{ top, bottom }], false)
    return cells.length > 0
  }

  /** The fields to write; those of `always` are among them. */
  function fields({ table }: Context<Config>, always: readonly string[]): readonly string[] {
    const names = columns ? [...new Set([...always, ...columns])] : table.columns.map(({ name }) => name)
    if (names.includes('')) {
      throw new FatalError(`${me}: a field has the empty name, which cannot head a column: name it`)
    }
    return names
  }
}

/** Cells read at once: a few megabytes, unless they are full of text. */
const cellsOfPage = 50_000

/** For one call with many requests: it paces itself, to 60 a minute. */
function eachSecond(signal: AbortSignal): () => Promise<void> {
  let free = 0
  return async () => {
    await sleep(free - Date.now(), undefined, { signal })
    free = Date.now() + 1000
  }
}
