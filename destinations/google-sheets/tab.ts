import { randomInt } from 'node:crypto'
import { FatalError } from 'spillway'
import { type Area, keyOf, type Value } from './cells.js'
import { type Asking, me, type Request, type Spreadsheet } from './client.js'
import { type Notes, readNotes } from './notes.js'

/** Looking at the tab: reads only, so that a failure here has changed nothing. */

/** What is known of the tab. */
export interface Tab {
  readonly missing: boolean
  readonly id: number
  readonly title: string
  readonly rows: number
  readonly columns: number
  readonly header: readonly string[]
  /** The last row that is not blank. */
  readonly last: number
  /** The batches that were written lately. */
  readonly notes: Notes
  /** Whether its columns have had their formats in this run. */
  readonly formatted: boolean
}

/** A tab as a call has found it. */
export interface Look {
  readonly tab: Tab
  /** Part of it is what an earlier call left behind. */
  readonly cached: boolean
  /** The rows of each key; there should be one. */
  readonly keys: ReadonlyMap<string, readonly number[]>
  blank(row: number): boolean
}

/** The tab's size, the batches noted on it, its header, and its last row. */
export async function survey(book: Spreadsheet, context: Asking, tab: string): Promise<Tab> {
  // Sheets takes `leads` and `Leads` for the same title
  const found = (await book.sheets(context)).find(
    ({ properties }) => properties?.title?.toLowerCase() === tab.toLowerCase(),
  )
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
    notes: readNotes(found?.developerMetadata ?? [], context.sync),
    formatted: false,
  }
  if (!found) return sheet
  // from the bottom up in growing steps: most grids are blank below their data, and nobody tells where that ends
  for (let bottom = sheet.rows, step = 1000; bottom > 0; bottom -= step, step *= 4) {
    const top = Math.max(1, bottom - step + 1)
    const areas = [
      { top, bottom },
      { top: 1, bottom: 1 },
    ]
    const [cells = [], head = []] = await book.values(context, sheet, areas, false)
    if (cells.length > 0) return { ...sheet, header: (head[0] ?? []).map(String), last: top + cells.length - 1 }
  }
  return sheet
}

/**
 * The tab as it is now: header, last row, and where each key stands. `known`: as the last call left it. `reserved`: rows that a call
 * without an answer may have filled.
 */
export async function look(
  book: Spreadsheet,
  context: Asking,
  tab: string,
  match: readonly string[],
  known: Tab | undefined,
  reserved: readonly number[],
): Promise<Look> {
  const sheet = known ?? (await survey(book, context, tab))
  const cached = known !== undefined
  if (sheet.missing) return { tab: sheet, cached, keys: new Map(), blank: () => true }

  // from the last row, or from rows that an unanswered call may have filled, down to where the tab now ends
  const from = Math.max(1, Math.min(sheet.last, ...reserved))
  const columnsOf = (header: readonly string[]): Area[] =>
    match
      .map((field) => header.indexOf(field))
      .filter((column) => column >= 0)
      .map((column) => ({ top: 1, left: column, right: column }))
  const areas = [{ top: 1, bottom: 1 }, { top: from }, ...columnsOf(sheet.header)]
  const [top = [], tail = [], ...keyCells] = await book.values(context, sheet, areas, cached)
  // what was the last row is blank: somebody took rows away just now, so that nothing is known of where they end
  if (tail.length === 0 && sheet.last > 0) return look(book, context, tab, match, undefined, reserved)

  const header = (top[0] ?? []).map(String)
  const last = tail.length > 0 ? from + tail.length - 1 : 0
  if (last > 0 && header.length === 0) {
    throw new FatalError(
      `${me}: row 1 of ${tab} is blank, but there are rows below it: write the columns' names there, or give an empty tab`,
    )
  }
  if (last > 1) checkColumns(tab, header, match)
  const columns = columnsOf(header)
  const stale = JSON.stringify(columns) !== JSON.stringify(columnsOf(sheet.header))
  return {
    tab: { ...sheet, header, last },
    cached,
    keys: rowsByKey(stale ? await book.values(context, sheet, columns, cached) : keyCells),
    blank: (row) => row > last || (row >= from && !tail[row - from]?.some((cell) => cell !== '')),
  }
}

/** @throws FatalError when a column by which rows are found is missing. */
export function checkColumns(tab: string, header: readonly string[], match: readonly string[]): void {
  const absent = match.filter((field) => !header.includes(field))
  if (absent.length === 0) return
  throw new FatalError(
    `${me}: row 1 of ${tab} has no column ${absent.join(', ')}, by which rows are to be found: add it with its values, or give another match`,
  )
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

/** Requests that make the tab when it is missing, and its grid as large as what is written. */
export function room({ missing, id: sheetId, title, rows, columns }: Tab, bottom: number, right: number): Request[] {
  if (missing) {
    const gridProperties = { rowCount: Math.max(rows, bottom), columnCount: Math.max(columns, right) }
    return [{ addSheet: { properties: { sheetId, title, gridProperties } } }]
  }
  const append = (dimension: string, length: number): Request[] =>
    length > 0 ? [{ appendDimension: { sheetId, dimension, length } }] : []
  return [...append('COLUMNS', right - columns), ...append('ROWS', bottom - rows)]
}

/** The tab with that room, under that header, and written to. */
export function grown(tab: Tab, bottom: number, header: readonly string[]): Tab {
  return {
    ...tab,
    missing: false,
    header,
    rows: Math.max(tab.rows, bottom),
    columns: Math.max(tab.columns, header.length),
    last: Math.max(tab.last, bottom),
    formatted: true,
  }
}
