import { createHash, createPrivateKey, randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { sheets_v4 } from '@googleapis/sheets'
import type { StandardJSONSchemaV1, StandardSchemaV1 } from '@standard-schema/spec'
import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  destination,
  FatalError,
  type Injected,
  type ListContext,
  RejectedError,
  type Rejection,
  RetryableError,
  reject,
} from 'spillway'

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
}

const me = 'google-sheets'

const config: StandardSchemaV1<GoogleSheetsConfig, Config> & StandardJSONSchemaV1<GoogleSheetsConfig, Config> = {
  '~standard': {
    version: 1,
    vendor: 'spillway',
    validate: readConfig,
    jsonSchema: { input: configFields, output: configFields },
  },
}

/**
 * A tab of a Google spreadsheet: rows are appended, updated by key, or replaced as a whole.
 *
 * Row 1 holds the names of the columns. Records find their columns by name, in whatever order they stand; columns that the
 * records do not have are left alone, fields without a column get a new one at the end. `null` makes a cell blank, an absent
 * field leaves it as it is; `0` and `false` are values. Integers beyond 2^53 and decimals are written as text, because Sheets
 * would round them; dates as ISO text, lists and objects as JSON. A record that does not fit into cells is rejected, alone.
 *
 * **What is guaranteed.** Rows are written to row numbers of their own, never with `values.append`; and the tab's developer
 * metadata notes which batches were appended, in the request that writes their rows, which Google applies as a whole or not
 * at all. So the fate of a batch whose answer was lost can be looked up, after a crash too, and no row is appended twice.
 * `upsert` finds its rows again by key. With `input: 'USER_ENTERED'` the note is taken just before the rows are written, and
 * whether they were is told by those cells being blank or not.
 *
 * `verify()` of a sync finds what somebody changed in the cells since. With `input: 'USER_ENTERED'` it leaves out texts of which
 * Google may have made a number or a date.
 *
 * **What is not.** Sheets has no locks: what somebody types into the first free row, or sorts, in the second between look and
 * write can be overwritten or mixed up. Give a tab one sync at a time. `replace` writes from the top down, so whoever looks
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
export function googleSheets(options: GoogleSheetsOptions): Destination<AnyRow, 'insert' | 'upsert' | 'replace'> {
  const { spreadsheet, tab, match, columns, input = 'RAW', formulas = [], ...given } = options
  if (!spreadsheet) throw new ConfigError(`${me}: spreadsheet is empty: give its id, or its address in the browser`)
  if (!tab) throw new ConfigError(`${me}: tab is empty: give a title; the tab is made when it is missing`)
  if (input !== 'RAW' && input !== 'USER_ENTERED') {
    throw new ConfigError(`${me}: input is ${JSON.stringify(input)}; it must be 'RAW' or 'USER_ENTERED'`)
  }
  if (formulas.length > 0 && input === 'RAW') {
    throw new ConfigError(`${me}: formulas are only executed with input: 'USER_ENTERED'`)
  }
  const spreadsheetId = /\/d\/([\w-]+)/.exec(spreadsheet)?.[1] ?? spreadsheet

  /** The tab as the last call left it, so that the next one need not look at everything. Gone after any failure. */
  let memory: { readonly run: string; readonly tab: Tab } | undefined
  /** Rows that a call without an answer may have written or may yet write, by what belongs there. */
  let reserved: ReadonlyMap<string, number> = new Map()
  /** Calls work on the tab one after the other, whatever `concurrency` says: each counts on the rows that it has seen. */
  let turn: Promise<unknown> = Promise.resolve()
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work)
    turn = mine.catch(() => {}) // the caller, who awaits `mine`, is told
    return mine
  }

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
    insert: (batch, context) => inTurn(() => insert(batch, context)),
    upsert: (batch, context) => inTurn(() => upsert(batch, context)),
    replace: (batches, context) => inTurn(() => replace(batches, context)),
    verify: (batch, context) => inTurn(() => verify(batch, context)),
    list,
    held,
  })(given)

  // ---- handlers ------------------------------------------------------------------------------------------------------

  async function insert(batch: AnyRow[], context: Context<Config>): Promise<Rejection[]> {
    const names = fields(context, [])
    const { lines, rejected } = readRecords(batch, names)
    if (lines.length === 0) return rejected
    const ids = lines.map((_, index) => `${context.idempotencyKey}/${index}`)
    let found = await look(context, [])
    // rows that stand where those of an unanswered attempt belong: its note, if it landed just now, is there as well
    const taken = ids.some((id) => !found.blank(reserved.get(id) ?? Number.POSITIVE_INFINITY))
    if (taken) found = await look(context, [])
    if (await landed(context, found, lines.length)) {
      release(ids)
      return rejected
    }
    const places = claim(found, ids)
    const rows = lines.map((line, index) => ({ ...line, row: places.get(ids[index]!)! }))
    await write(context, found, rows, names, places, note(found.tab, context, rows[0]!.row))
    return rejected
  }

  async function upsert(batch: AnyRow[], context: Context<Config>): Promise<Rejection[]> {
    const names = fields(context, context.match)
    const { lines, rejected } = readRecords(batch, names)
    const found = await look(context, context.match)
    const keyed = lines.flatMap((line) => {
      const key = keyOf(context.match.map((field) => line.cells.get(field)))
      const problem = keyProblem(key, found.keys)
      if (key !== undefined && problem === undefined) return [{ ...line, key }]
      rejected.push(reject(line.record, problem!))
      return []
    })
    if (keyed.length === 0) return rejected
    const places = claim(
      found,
      keyed.map(({ key }) => key).filter((key) => !found.keys.has(key)),
    )
    const rows = keyed.map(({ cells, key }) => {
      const row = found.keys.get(key)?.[0]
      if (row === undefined) return { cells, row: places.get(key)! }
      // its key stands there already, perhaps as a number where the record has text
      return { cells: new Map([...cells].filter(([field]) => !context.match.includes(field))), row }
    })
    await write(context, found, rows, names, places, undefined)
    return rejected
  }

  function keyProblem(key: string | undefined, keys: ReadonlyMap<string, readonly number[]>): string | undefined {
    if (key === undefined) return 'a match field is blank, so that its row cannot be found'
    const rows = keys.get(key) ?? []
    return rows.length > 1 ? `its key stands in rows ${rows.join(' and ')} of ${tab}: keep one of them` : undefined
  }

  async function replace(batches: AsyncIterable<AnyRow[]>, context: Context<Config>): Promise<Rejection[]> {
    memory = undefined
    const api = await connect(context.config)
    let sheet = await survey(api, context)
    const rejected: Rejection[] = []
    let header: readonly string[] = []
    let bottom = 1
    const turn = eachSecond(context.signal)
    const commitPaced = async (structure: Request[], cells: readonly Block[]) => {
      await turn()
      await commit(context, { api, tab: sheet, cached: false }, structure, cells)
    }
    const clear = (area: object): Request => ({
      updateCells: { range: { sheetId: sheet.id, ...area }, fields: 'userEnteredValue' },
    })
    for await (const batch of batches) {
      const { lines, rejected: unfit } = readRecords(batch, fields(context, []))
      rejected.push(...unfit)
      const names = [...new Set([...header, ...fields(context, [])])]
      const rows = lines.map(({ cells }, index) => ({
        // every cell is written, because another row may stand there
        cells: new Map(names.map((name) => [name, cells.get(name) ?? ''])),
        row: bottom + 1 + index,
      }))
      bottom += rows.length
      const structure = [...room(sheet, bottom, names.length), ...headerCells(sheet.id, header, names)]
      if (header.length === 0 && names.length < sheet.columns) structure.push(clear({ startColumnIndex: names.length }))
      await commitPaced(structure, blocksOf(rows, names))
      sheet = grown(sheet, bottom, names.length)
      header = names
    }
    if (!sheet.missing && bottom < sheet.rows) await commitPaced([clear({ startRowIndex: bottom })], [])
    return rejected
  }

  async function verify(batch: AnyRow[], context: Context<Config>): Promise<AnyRow[]> {
    memory = undefined
    const api = await connect(context.config)
    const records = readRecords(batch, fields(context, [])).lines.map(({ record }) => record)
    const there = await landed(context, { api, tab: await survey(api, context), cached: false }, records.length)
    return there ? records : []
  }

  /** The rows that have a key, page by page; rows whose key is blank are nobody's. */
  async function* list(context: ListContext<Config>): AsyncGenerator<AnyRow[]> {
    const at = { api: await connect(context.config), cached: false }
    const turn = eachSecond(context.signal)
    const sheet = await survey(at.api, context)
    if (sheet.last < 2) return
    const [[top = []] = []] = await values(context, { ...at, tab: sheet }, [range(sheet, { top: 1, bottom: 1 })])
    const header = top.map(String)
    const absent = context.match.filter((field) => !header.includes(field))
    if (absent.length > 0) throw columnless(absent)
    // of two columns with one name, the first
    const fields = [...new Set(header)].filter(Boolean).map((name) => [name, header.indexOf(name)] as const)
    const rows = Math.max(1, Math.floor(cellsOfPage / header.length))
    for (let from = 2; from <= sheet.last; from += rows) {
      await turn()
      const page = { top: from, bottom: Math.min(from + rows - 1, sheet.last), right: header.length - 1 }
      const [lines = []] = await values(context, { ...at, tab: sheet }, [range(sheet, page)])
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
    const cells = Array.from(names, (name) => [name, cellOf(record[name])] as const)
    const kept = (name: string, cell: unknown) => input === 'RAW' || match.includes(name) || !isReadAsTyped(cell)
    return listed(
      cells.filter(([name, cell]) => cell !== undefined && kept(name, cell)),
      match,
    )
  }

  /** Whether an earlier attempt at this batch, of so many rows, has appended them. */
  async function landed(context: Context<Config>, at: At, count: number): Promise<boolean> {
    const top = at.tab.notes.get(digest(context.idempotencyKey))?.row
    if (top === undefined || input === 'RAW') return top !== undefined
    const bottom = Math.min(top + count - 1, at.tab.rows)
    if (bottom < top) return false
    const [cells = []] = await values(context, at, [range(at.tab, { top, bottom })])
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

  // ---- looking: reads only, so that a failure here has changed nothing -------------------------------------------------

  async function look(context: Context<Config>, match: readonly string[]): Promise<Look> {
    const api = await connect(context.config)
    const known = memory?.run === context.run ? memory.tab : undefined
    memory = undefined // whatever fails from here on, the next call looks afresh
    const sheet = known ?? (await survey(api, context))
    const at = { api, tab: sheet, cached: known !== undefined }
    if (sheet.missing) return { ...at, keys: new Map(), blank: () => true }

    // from the last row, or from rows that an unanswered call may have filled, down to where the tab now ends
    const from = Math.max(1, Math.min(sheet.last, ...reserved.values()))
    const keyRanges = (header: readonly string[]) =>
      match
        .map((field) => header.indexOf(field))
        .filter((column) => column >= 0)
        .map((column) => range(sheet, { top: 1, left: column, right: column }))
    const ranges = [range(sheet, { top: 1, bottom: 1 }), range(sheet, { top: from }), ...keyRanges(sheet.header)]
    const [top = [], tail = [], ...keyCells] = await values(context, at, ranges)
    // what was the last row is blank: somebody took rows away just now, so that nothing is known of where they end
    if (tail.length === 0 && sheet.last > 0) return look(context, match)

    const header = (top[0] ?? []).map(String)
    const last = tail.length > 0 ? from + tail.length - 1 : 0
    if (last > 0 && header.length === 0) {
      throw new FatalError(
        `${me}: row 1 of ${tab} is blank, but there are rows below it: write the columns' names there, or give an empty tab`,
      )
    }
    const absent = match.filter((field) => !header.includes(field))
    if (last > 1 && absent.length > 0) {
      throw columnless(absent)
    }
    const stale = keyRanges(header).join() !== keyRanges(sheet.header).join()
    return {
      ...at,
      tab: { ...sheet, header, last },
      keys: rowsByKey(stale ? await values(context, at, keyRanges(header)) : keyCells),
      blank: (row) => row > last || (row >= from && !tail[row - from]?.some((cell) => cell !== '')),
    }
  }

  function columnless(absent: readonly string[]): FatalError {
    return new FatalError(
      `${me}: row 1 of ${tab} has no column ${absent.join(', ')}, by which rows are to be found: add it with its values, or give another match`,
    )
  }

  /** The tab's size, the batches noted on it, and its last row. */
  async function survey(api: sheets_v4.Sheets, context: Asking): Promise<Tab> {
    const { sheets = [] } = await ask(context, 'spreadsheets.get', { writes: false, cached: false }, (options) =>
      api.spreadsheets.get(
        {
          spreadsheetId,
          fields:
            'spreadsheetId,sheets(properties(sheetId,title,sheetType,gridProperties(rowCount,columnCount)),developerMetadata(metadataId,metadataKey,metadataValue))',
        },
        options,
      ),
    )
    // Sheets takes `leads` and `Leads` for the same title
    const found = sheets.find(({ properties }) => properties?.title?.toLowerCase() === tab.toLowerCase())
    const { sheetId, title, sheetType, gridProperties } = found?.properties ?? {}
    if (found && sheetType !== 'GRID') {
      throw new FatalError(`${me}: ${tab} is a chart or a connected sheet, without cells to write to: give another tab`)
    }
    const sheet: Tab = {
      missing: !found,
      id: sheetId ?? randomInt(1, 2 ** 31),
      title: title ?? tab,
      rows: gridProperties?.rowCount ?? 1000,
      columns: gridProperties?.columnCount ?? 26,
      header: [],
      last: 0,
      notes: readNotes(found?.developerMetadata ?? [], noteName(context)),
    }
    if (!found) return sheet
    // from the bottom up in growing steps: most grids are blank below their data, and nobody tells where that ends
    for (let bottom = sheet.rows, step = 1000; bottom > 0; bottom -= step, step *= 4) {
      const top = Math.max(1, bottom - step + 1)
      const [cells = []] = await values(context, { api, tab: sheet, cached: false }, [range(sheet, { top, bottom })])
      if (cells.length > 0) return { ...sheet, last: top + cells.length - 1 }
    }
    return sheet
  }

  async function values(context: Asking, { api, cached }: At, ranges: string[]): Promise<Value[][][]> {
    const { valueRanges = [] } = await ask(context, 'values.batchGet', { writes: false, cached }, (options) =>
      api.spreadsheets.values.batchGet({ spreadsheetId, ranges, valueRenderOption: 'UNFORMATTED_VALUE' }, options),
    )
    return valueRanges.map(({ values }) => values ?? [])
  }

  /** Rows for what has none, below all that stands in the tab or may yet come to stand there. */
  function claim({ tab, blank }: Look, ids: readonly string[]): ReadonlyMap<string, number> {
    let next = Math.max(1, tab.last, ...reserved.values()) + 1
    return new Map(
      [...new Set(ids)].map((id) => {
        const before = reserved.get(id)
        // the row of the unanswered call again, so that it does not matter which of the two arrives last
        return [id, before !== undefined && blank(before) ? before : next++]
      }),
    )
  }

  // ---- writing ---------------------------------------------------------------------------------------------------------

  async function write(
    context: Context<Config>,
    { api, tab: sheet, cached }: Look,
    rows: readonly Placed[],
    names: readonly string[],
    places: ReadonlyMap<string, number>,
    noted: { requests: Request[]; notes: Notes } | undefined,
  ): Promise<void> {
    const { header } = sheet
    const twice = names.find((name) => header.indexOf(name) !== header.lastIndexOf(name))
    if (twice !== undefined) {
      throw new FatalError(`${me}: row 1 of ${tab} has two columns ${twice}: rename or remove one of them`)
    }
    const wanted = [...header, ...names.filter((name) => !header.includes(name))]
    const bottom = Math.max(1, ...rows.map(({ row }) => row))
    const structure = [...room(sheet, bottom, wanted.length), ...headerCells(sheet.id, header, wanted)]
    if (noted) structure.push(...noted.requests)
    const earlier = reserved
    reserved = new Map([...reserved, ...places])
    try {
      await commit(context, { api, tab: sheet, cached }, structure, blocksOf(rows, wanted))
    } catch (error) {
      // these three say that nothing was applied by this call; after any other its rows stay reserved
      if (error instanceof RetryableError || error instanceof RejectedError || error instanceof FatalError) {
        reserved = earlier
      }
      throw error
    }
    release([...places.keys()])
    const after = { ...grown(sheet, bottom, wanted.length), header: wanted, notes: noted?.notes ?? sheet.notes }
    memory = { run: context.run, tab: after }
  }

  /** RAW: everything in one request. `stringValue` is never parsed, so that no text becomes a formula. */
  async function commit(
    context: Context<Config>,
    { api, tab: sheet, cached }: At,
    structure: Request[],
    cells: readonly Block[],
  ): Promise<void> {
    const at = { writes: true, cached, structure: structure.length }
    const requests = input === 'RAW' ? [...structure, ...cells.map((block) => updateCells(sheet.id, block))] : structure
    if (requests.length > 0) {
      const { replies = [] } = await ask(context, 'spreadsheets.batchUpdate', at, (options) =>
        api.spreadsheets.batchUpdate({ spreadsheetId, requestBody: { requests } }, options),
      )
      if (replies.length !== requests.length) throw unconfirmed('spreadsheets.batchUpdate')
    }
    if (input === 'RAW' || cells.length === 0) return
    const data = cells.map(({ top, left, rows }) => ({
      range: range(sheet, { top, bottom: top + rows.length - 1, left, right: left + rows[0]!.length - 1 }),
      values: rows.map((row) => row.map(({ field, value }) => typed(field, value, context.match))),
    }))
    const { responses = [] } = await ask(context, 'values.batchUpdate', at, (options) =>
      api.spreadsheets.values.batchUpdate(
        { spreadsheetId, requestBody: { valueInputOption: 'USER_ENTERED', data } },
        options,
      ),
    )
    const cellsIn = (text: string | null | undefined) =>
      text?.slice(text.lastIndexOf('!') + 1).replace(/^(.+):\1$/, '$1')
    const written = responses.map(({ updatedRange }) => cellsIn(updatedRange))
    if (written.join() !== data.map(({ range }) => cellsIn(range)).join()) throw unconfirmed('values.batchUpdate')
  }

  /** Text, marked such that Sheets takes it for text where it must. */
  function typed(field: string, value: Value, match: readonly string[]): Value {
    if (typeof value !== 'string' || value === '') return value
    if (formulas.includes(field) && value.startsWith('=')) return value
    const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value)
    const formula = /^['=+\-@\t\r\n]/.test(value) && !number
    const long = number && value.replace(/\D/g, '').length > 15 // the digits that Sheets keeps of a number
    // a key that became a number or a date would not be found again
    return formula || long || match.includes(field) ? `'${value}` : value
  }

  function release(ids: readonly string[]): void {
    const done = new Set(ids)
    reserved = new Map([...reserved].filter(([id]) => !done.has(id)))
  }

  /** Makes the tab when it is missing, and its grid as large as what is written. */
  function room({ missing, id: sheetId, rows, columns }: Tab, bottom: number, right: number): Request[] {
    if (missing) {
      const gridProperties = { rowCount: Math.max(rows, bottom), columnCount: Math.max(columns, right) }
      return [{ addSheet: { properties: { sheetId, title: tab, gridProperties } } }]
    }
    const append = (dimension: string, length: number): Request[] =>
      length > 0 ? [{ appendDimension: { sheetId, dimension, length } }] : []
    return [...append('COLUMNS', right - columns), ...append('ROWS', bottom - rows)]
  }

  // ---- requests --------------------------------------------------------------------------------------------------------

  /** Sends a request and checks that it was Google who answered. What a failure proves depends on whether it writes. */
  async function ask<T extends { spreadsheetId?: string | null }>(
    context: Asking,
    method: string,
    at: Stage,
    send: (options: { signal: AbortSignal; timeout: number; retry: false }) => Promise<{ data: T }>,
  ): Promise<T> {
    let data: T
    try {
      data = (await send({ signal: context.signal, timeout: requestTimeout, retry: false })).data
    } catch (error) {
      throw failure(error, context, method, at)
    }
    if (data?.spreadsheetId === spreadsheetId) return data
    if (at.writes) throw unconfirmed(method)
    throw new RetryableError(
      `${me}: ${method} was answered, but not by Google: a proxy or a sign-in page may stand in between; open ${context.config.endpoint ?? 'https://sheets.googleapis.com'} in a browser`,
    )
  }

  function failure(
    error: unknown,
    { config, attempt }: Asking,
    method: string,
    { writes, cached, structure = 0 }: Stage,
  ): Error {
    const { credentials } = config
    const { status, code, signingIn, reasons, after, detail } = factsOf(error)
    const about = (pattern: RegExp) => reasons.some((reason) => pattern.test(reason))
    const says = `${me}: ${status ?? code ?? 'no answer'} from ${signingIn ? 'the token endpoint' : method}${detail && `: ${detail}`}`
    const refused = status !== undefined && status >= 400 && status < 500 && status !== 408 && status !== 409
    if (status === 429 || (status === 403 && about(/^(user)?rate_?limit_?exceeded$/i))) {
      return new RetryableError(says, { after })
    }
    if (signingIn) {
      return refused
        ? new FatalError(`${says}; check the config field credentials`)
        : new RetryableError(says, { after })
    }
    if (status === 401 && credentials && attempt === 1) {
      clients.delete(config) // the next attempt signs in anew
      return new RetryableError(says)
    }
    const account = credentials?.client_email ?? "the token's account"
    const remedy = {
      401: `the config field ${credentials ? 'credentials is refused' : 'token is wrong or has expired'}: renew it`,
      403: about(/service_?disabled|accessNotConfigured/i)
        ? 'enable the API there and wait a few minutes'
        : about(/scope/i)
          ? `the token lacks the scope ${scope}`
          : `share the spreadsheet with ${account} as an editor`,
      404: `check the id ${spreadsheetId}, and that the spreadsheet is shared with ${account}`,
    }[status ?? 0]
    if (remedy) return new FatalError(`${says}; ${remedy}`)
    if (refused) {
      // planned from what the last call left behind: somebody may have changed the tab since
      if (cached) return new RetryableError(says)
      if (/limit of \d+ cells/.test(detail)) return new FatalError(`${says}; archive rows, or take blank columns away`)
      const part = /^Invalid requests\[(\d+)\]/.exec(detail)?.[1]
      const blameless = !writes || (part !== undefined && Number(part) < structure)
      return blameless ? new FatalError(says) : new RejectedError(says)
    }
    if (!writes || unconnected.test(code ?? '')) return new RetryableError(says, { after })
    return Object.assign(
      new Error(`${says}; whether the rows were written is not known`),
      status === undefined ? {} : { status },
    )
  }
}

/** What came back does not say that the rows were written. They may have been. */
function unconfirmed(method: string): Error {
  return new Error(
    `${me}: ${method} was answered, but the answer does not confirm what was sent; whether the rows were written is not known`,
  )
}

// ---- what is known of the tab ------------------------------------------------------------------------------------------

type Request = sheets_v4.Schema$Request
type Value = string | number | boolean

/** Rows and columns are counted as a person counts them, rows from 1, except that columns are counted from 0. */
interface Tab {
  readonly missing: boolean
  readonly id: number
  readonly title: string
  readonly rows: number
  readonly columns: number
  readonly header: readonly string[]
  /** The last row that is not blank. */
  readonly last: number
  /** The batches that were appended lately, by the digest of their idempotency key. */
  readonly notes: Notes
}

/** On whose behalf a request is sent. */
type Asking = Pick<ListContext<Config>, 'config' | 'attempt' | 'signal' | 'sync'>

/** How far a call has come, when a request is sent. */
interface Stage {
  readonly writes: boolean
  /** What is known of the tab is from an earlier call, and may have changed since. */
  readonly cached: boolean
  /** How many of the request's parts are about the tab rather than about its rows; they come first. */
  readonly structure?: number
}

/** How to get at a tab. */
interface At {
  readonly api: sheets_v4.Sheets
  readonly tab: Tab
  readonly cached: boolean
}

interface Look extends At {
  /** The rows of each key; there should be one. */
  readonly keys: ReadonlyMap<string, readonly number[]>
  blank(row: number): boolean
}

interface Area {
  readonly top: number
  readonly bottom?: number
  readonly left?: number
  readonly right?: number
}

function range({ title, columns }: Tab, { top, bottom, left = 0, right = columns - 1 }: Area): string {
  return `'${title.replaceAll("'", "''")}'!${letters(left)}${top}:${letters(right)}${bottom ?? ''}`
}

function letters(column: number): string {
  return (column < 26 ? '' : letters(Math.floor(column / 26) - 1)) + String.fromCharCode(65 + (column % 26))
}

function grown(tab: Tab, bottom: number, right: number): Tab {
  const { rows, columns, last } = tab
  return {
    ...tab,
    missing: false,
    rows: Math.max(rows, bottom),
    columns: Math.max(columns, right),
    last: Math.max(last, bottom),
  }
}

function rowsByKey(columns: readonly Value[][][]): ReadonlyMap<string, readonly number[]> {
  const rows = new Map<string, number[]>()
  const bottom = Math.max(0, ...columns.map((column) => column.length))
  for (let row = 2; row <= bottom; row++) {
    const key = keyOf(columns.map((column) => column[row - 1]?.[0]))
    if (key === undefined) continue
    const others = rows.get(key)
    if (others) others.push(row)
    else rows.set(key, [row])
  }
  return rows
}

/** The same for the number 7 as for the text '7': people type keys too. `undefined` when a part is blank. */
function keyOf(parts: readonly (Value | undefined)[]): string | undefined {
  return parts.some((part) => part === undefined || part === '') ? undefined : JSON.stringify(parts.map(String))
}

// ---- the notes of what was appended -----------------------------------------------------------------------------------

interface Note {
  readonly id: number
  /** The first row of the batch. */
  readonly row: number
}

type Notes = ReadonlyMap<string, Note>

/**
 * How many batches stay noted: more than can be without an answer at once, and far less than the 30,000 characters that
 * Google keeps for a tab. Each has a note of its own, so that a request that lands late wipes out no other.
 */
const notesKept = 100

function note(
  { id: sheetId, notes }: Tab,
  context: Context<Config>,
  row: number,
): { requests: Request[]; notes: Notes } {
  const key = digest(context.idempotencyKey)
  const fresh: Note = { id: randomInt(1, 2 ** 31), row }
  // later batches stand further down
  const all = [...notes].filter(([other]) => other !== key).toSorted(([, a], [, b]) => a.row - b.row)
  const kept = all.slice(-(notesKept - 1))
  const create = {
    metadataId: fresh.id,
    metadataKey: noteName(context),
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

function noteName({ sync }: Asking): string {
  return `spillway.${sync}`
}

function readNotes(metadata: sheets_v4.Schema$DeveloperMetadata[], name: string): Notes {
  return new Map(
    metadata
      .filter(({ metadataKey }) => metadataKey === name)
      .map(({ metadataId, metadataValue }) => {
        const [key, row] = String(metadataValue).split(':')
        return [String(key), { id: Number(metadataId), row: Number(row) }]
      }),
  )
}

function digest(idempotencyKey: string): string {
  return createHash('sha256').update(idempotencyKey).digest('hex').slice(0, 16)
}

// ---- records → cells -----------------------------------------------------------------------------------------------------

interface Line {
  readonly record: AnyRow
  /** By field; an absent field has none. */
  readonly cells: ReadonlyMap<string, Value>
}

interface Placed {
  readonly cells: ReadonlyMap<string, Value>
  readonly row: number
}

/** Cells that stand side by side, row under row. */
interface Block {
  readonly top: number
  readonly left: number
  readonly rows: { readonly field: string; readonly value: Value }[][]
}

function readRecords(batch: readonly AnyRow[], names: readonly string[]): { lines: Line[]; rejected: Rejection[] } {
  const lines: Line[] = []
  const rejected: Rejection[] = []
  for (const record of batch) {
    const cells = new Map<string, Value>()
    const problems: string[] = []
    for (const name of names) {
      const cell = cellOf(record[name])
      if (typeof cell === 'object') problems.push(`${name} ${cell.problem}`)
      else if (cell !== undefined) cells.set(name, cell)
    }
    if (problems.length > 0) rejected.push(reject(record, problems.join('; ')))
    else lines.push({ record, cells })
  }
  return { lines, rejected }
}

/** Sheets has texts, doubles and booleans; what those cannot hold exactly becomes text. `undefined`: nothing to write. */
function cellOf(value: unknown): Value | { readonly problem: string } | undefined {
  if (value === undefined) return undefined
  if (value === null) return ''
  if (typeof value === 'boolean') return value
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value)
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  if (value instanceof Date) {
    return Number.isNaN(value.getTime()) ? { problem: 'is an invalid date' } : value.toISOString()
  }
  const text = typeof value === 'string' ? value : jsonOf(value)
  if (text === undefined) {
    return { problem: 'is neither text, number, boolean, date, list nor object: map it to one of them' }
  }
  if (text.length > maxCharacters) {
    return { problem: `has ${text.length} characters, and a cell of Google Sheets holds ${maxCharacters}` }
  }
  return text
}

const maxCharacters = 50_000
/** Cells read at once: a few megabytes, unless they are full of text. */
const cellsOfPage = 50_000

/** Cells by the names of their columns: blank ones are null, and keys are text, because people type them as numbers too. */
function listed(cells: readonly (readonly [name: string, cell: unknown])[], match: readonly string[]): AnyRow {
  return Object.fromEntries(
    cells.map(([name, cell]) => [name, cell === '' ? null : match.includes(name) ? String(cell) : cell]),
  )
}

/** Whether Google may have read a text as a number, a date, an amount, a truth value or a formula, as if it were typed. */
function isReadAsTyped(cell: unknown): boolean {
  return typeof cell === 'string' && /\d|^\s*[=+#]|^\s*(true|false)\s*$/i.test(cell)
}

function jsonOf(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const prototype = Object.getPrototypeOf(value)
  if (!Array.isArray(value) && prototype !== Object.prototype && prototype !== null) return undefined
  return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? String(item) : item))
}

/** The cells as rectangles, as few as there can be. */
function blocksOf(rows: readonly Placed[], header: readonly string[]): Block[] {
  const blocks: Block[] = []
  const open = new Map<string, Block>()
  for (const { cells, row } of rows.toSorted((a, b) => a.row - b.row)) {
    for (let left = 0; left < header.length; left++) {
      const run: Block['rows'][number] = []
      for (let field = header[left]; field !== undefined && cells.has(field); field = header[left + run.length]) {
        run.push({ field, value: cells.get(field)! })
      }
      if (run.length === 0) continue
      const above = open.get(`${left}+${run.length}`)
      if (above && above.top + above.rows.length === row) above.rows.push(run)
      else {
        const block = { top: row, left, rows: [run] }
        blocks.push(block)
        open.set(`${left}+${run.length}`, block)
      }
      left += run.length
    }
  }
  return blocks
}

function updateCells(sheetId: number, { top, left, rows }: Block): Request {
  const start = { sheetId, rowIndex: top - 1, columnIndex: left }
  const values = rows.map((row) => ({ values: row.map(({ value }) => extended(value)) }))
  return { updateCells: { start, rows: values, fields: 'userEnteredValue' } }
}

function extended(value: Value): sheets_v4.Schema$CellData {
  if (value === '') return {}
  if (typeof value === 'number') return { userEnteredValue: { numberValue: value } }
  return { userEnteredValue: typeof value === 'boolean' ? { boolValue: value } : { stringValue: value } }
}

function headerCells(sheetId: number, header: readonly string[], wanted: readonly string[]): Request[] {
  const fresh = wanted.slice(header.length).map((name) => ({ field: name, value: name }))
  return fresh.length > 0 ? [updateCells(sheetId, { top: 1, left: header.length, rows: [fresh] })] : []
}

// ---- config and client ---------------------------------------------------------------------------------------------------

interface Config {
  readonly credentials?: { readonly client_email: string; readonly private_key: string } | undefined
  readonly token?: string | undefined
  readonly endpoint?: string | undefined
}

function readConfig(value: unknown): StandardSchemaV1.Result<Config> {
  const { credentials, token, endpoint } = Object(value) as { [field: string]: unknown }
  const problem = (message: string, ...path: string[]) => ({ issues: [{ message, path }] })
  if (
    endpoint !== undefined &&
    !(typeof endpoint === 'string' && /^https?:/.test(endpoint) && URL.canParse(endpoint))
  ) {
    return problem('must be the address of a server, such as http://127.0.0.1:4010', 'endpoint')
  }
  if ((credentials === undefined) === (token === undefined)) {
    return problem(
      "it needs credentials (a service account's key file) or token (an OAuth access token), one of the two",
    )
  }
  if (credentials === undefined) {
    if (typeof token !== 'string' || token === '') return problem('must be an OAuth access token', 'token')
    return { value: { token, endpoint } }
  }
  const key = typeof credentials === 'string' ? parsed(credentials) : Object(credentials)
  const { client_email, private_key } = key ?? {}
  if (typeof client_email !== 'string' || typeof private_key !== 'string') {
    return problem(
      "must be the content of a service account's key file (not its path), with client_email and private_key",
      'credentials',
    )
  }
  // in an environment variable the key's line ends are often written as two characters
  const pem = private_key.replaceAll('\\n', '\n')
  if (!isKey(pem)) return problem('private_key is not a private key in PEM form', 'credentials')
  return { value: { credentials: { client_email, private_key: pem }, endpoint } }
}

function parsed(text: string): { [field: string]: unknown } | undefined {
  try {
    return Object(JSON.parse(text))
  } catch {
    return undefined // the caller says what it should have been
  }
}

function isKey(pem: string): boolean {
  try {
    return createPrivateKey(pem).type === 'private'
  } catch {
    return false // the reason may quote the key
  }
}

function configFields(): Record<string, unknown> {
  const text = { type: 'string' }
  const file = { type: 'object', properties: { client_email: text, private_key: text } }
  return { type: 'object', properties: { credentials: { anyOf: [text, file] }, token: text, endpoint: text } }
}

const scope = 'https://www.googleapis.com/auth/spreadsheets'
/** Google gives up on a request after this time: https://developers.google.com/workspace/sheets/api/limits. */
const requestTimeout = 180_000
/** The client does not take a signal along when it signs in. */
const signInTimeout = 30_000

/** For one call with many requests: it paces itself, to 60 a minute. */
function eachSecond(signal: AbortSignal): () => Promise<void> {
  let free = 0
  return async () => {
    await sleep(free - Date.now(), undefined, { signal })
    free = Date.now() + 1000
  }
}

const clients = new WeakMap<Config, Promise<sheets_v4.Sheets>>()

function connect(config: Config): Promise<sheets_v4.Sheets> {
  const client = clients.get(config) ?? makeClient(config)
  clients.set(config, client)
  return client
}

async function makeClient({ credentials, token, endpoint }: Config): Promise<sheets_v4.Sheets> {
  const google = await import('@googleapis/sheets').catch((cause: unknown) => {
    throw new ConfigError(
      `${me}: the package @googleapis/sheets cannot be loaded; install it: npm install @googleapis/sheets@14`,
      { cause },
    )
  })
  // the client would send a request for a token four times, whatever `retry` says
  const transporterOptions = { timeout: signInTimeout, retryConfig: { retry: 0, noResponseRetries: 0 } }
  const auth = credentials
    ? new google.auth.JWT({
        email: credentials.client_email,
        key: credentials.private_key,
        scopes: [scope],
        transporterOptions,
      })
    : new google.auth.OAuth2({ transporterOptions })
  if (token !== undefined) auth.setCredentials({ access_token: token })
  if (endpoint !== undefined) {
    // `rootUrl` would not move the token endpoint, whose address is a constant in the client
    auth.transporter.interceptors.request.add({
      async resolved(request) {
        request.url = new URL(endpoint.replace(/\/$/, '') + request.url.pathname + request.url.search)
        delete request.agent // the proxy of HTTPS_PROXY, meant for Google
        return request
      },
    })
  }
  return google.sheets({ version: 'v4', auth })
}

// ---- errors ----------------------------------------------------------------------------------------------------------------

/** With these no connection came about, so that nothing was sent. */
const unconnected = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)$/

interface Facts {
  readonly status: number | undefined
  readonly code: string | undefined
  /** The request was for an access token. */
  readonly signingIn: boolean
  readonly reasons: readonly string[]
  readonly after: `${number}ms` | undefined
  readonly detail: string
}

/** The few parts of the client's error that are safe to tell: the rest of it holds tokens and rows. */
function factsOf(error: unknown): Facts {
  const { response, config, code, cause } = Object(error)
  const told = response?.data?.error
  const reasons = [told?.errors, told?.details].flat().map((entry) => String(entry?.reason))
  const text = typeof told === 'string' ? `${told} ${response.data.error_description ?? ''}` : (told?.message ?? '')
  return {
    status: response?.status,
    code: [code, cause?.code].find((code) => typeof code === 'string'),
    signingIn: String(config?.url).endsWith('/token'),
    reasons,
    after: durationOf(response?.headers?.get?.('retry-after')),
    detail: String(text).replace(/\s+/g, ' ').trim().slice(0, 300),
  }
}

/** `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3). */
function durationOf(header: string | null | undefined): `${number}ms` | undefined {
  if (!header) return undefined
  const milliseconds = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Number.isNaN(milliseconds) ? undefined : `${Math.max(0, milliseconds)}ms`
}
