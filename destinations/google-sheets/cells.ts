import type { sheets_v4 } from '@googleapis/sheets'
import { type AnyRow, type Rejection, reject } from 'spillway'
import { jsonOf, Unfit } from '../tables/text.js'

/** Records as cells, cells as requests, and ranges: nothing here asks anybody. */

type Request = sheets_v4.Schema$Request
export type Value = string | number | boolean

/** How the numbers and dates of a field are shown, by Google's patterns. */
export type Formats = Readonly<Record<string, string>>

/** A rectangle. Rows are counted from 1 as a person counts them, columns from 0; a side that is not given is the edge of the tab. */
export interface Area {
  readonly top: number
  readonly bottom?: number
  readonly left?: number
  readonly right?: number
}

/** A record whose values fit into cells. */
export interface Line {
  readonly record: AnyRow
  /** By field; an absent field has none. */
  readonly cells: ReadonlyMap<string, Value>
}

/** Cells and the row in which they belong. */
export interface Placed {
  readonly cells: ReadonlyMap<string, Value>
  readonly row: number
}

/** Cells that stand side by side, row under row. */
export interface Block {
  readonly top: number
  readonly left: number
  readonly rows: { readonly field: string; readonly value: Value }[][]
}

// ---- records -----------------------------------------------------------------------------------------------------------

/** The records that fit into cells, and the rejections of the others. */
export function readRecords(
  batch: readonly AnyRow[],
  names: readonly string[],
  formats: Formats,
): { lines: Line[]; rejected: Rejection[] } {
  const lines: Line[] = []
  const rejected: Rejection[] = []
  for (const record of batch) {
    const cells = new Map<string, Value>()
    const problems: string[] = []
    for (const name of names) {
      const cell = cellOf(record[name], formats[name])
      if (typeof cell === 'object') problems.push(`${name} ${cell.problem}`)
      else if (cell !== undefined) cells.set(name, cell)
    }
    if (problems.length > 0) rejected.push(reject(record, problems.join('; ')))
    else lines.push({ record, cells })
  }
  return { lines, rejected }
}

/** Sheets has texts, doubles and booleans; what those cannot hold exactly becomes text. `undefined`: nothing to write. */
export function cellOf(value: unknown, format: string | undefined): Value | { readonly problem: string } | undefined {
  if (value === undefined) return undefined
  if (value === null) return ''
  if (typeof value === 'boolean') return value
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value)
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  if (value instanceof Date && Number.isNaN(value.getTime())) return { problem: 'is an invalid date' }
  const text = typeof value === 'string' ? value : value instanceof Date ? value.toISOString() : json(value)
  if (typeof text === 'object') return text
  if (text.length > maxCharacters) {
    return { problem: `has ${text.length} characters, and a cell of Google Sheets holds ${maxCharacters}` }
  }
  return (format && isDateFormat(format) ? serialOf(text) : undefined) ?? text
}

const maxCharacters = 50_000

function json(value: unknown): string | { readonly problem: string } {
  const prototype = typeof value === 'object' ? Object.getPrototypeOf(value) : undefined
  if (!Array.isArray(value) && prototype !== Object.prototype && prototype !== null) {
    return { problem: 'is neither text, number, boolean, date, list nor object: map it to one of them' }
  }
  try {
    return jsonOf(value)
  } catch (error) {
    if (!(error instanceof Unfit)) throw error
    return { problem: error.message }
  }
}

/** `7` and `'7'` make the same key: people type keys too. `undefined` when a part is blank. */
export function keyOf(parts: readonly (Value | undefined)[]): string | undefined {
  return parts.some((part) => part === undefined || part === '') ? undefined : JSON.stringify(parts.map(String))
}

/** Cells by the names of their columns: blank ones are null, and keys are text, because people type them as numbers too. */
export function listed(cells: readonly (readonly [name: string, cell: unknown])[], match: readonly string[]): AnyRow {
  return Object.fromEntries(
    cells.map(([name, cell]) => [name, cell === '' ? null : match.includes(name) ? String(cell) : cell]),
  )
}

// ---- dates and formats -------------------------------------------------------------------------------------------------

function isDateFormat(pattern: string): boolean {
  return /[ydhs]/i.test(literally(pattern))
}

/** A pattern without what stands there for itself: https://developers.google.com/workspace/sheets/api/guides/formats. */
function literally(pattern: string): string {
  return pattern.replace(/"[^"]*"|\\.|\[(?![hms]+\])[^\]]*\]/g, '')
}

/**
 * The day, and the time as a part of it, since 1899-12-30, from which Sheets counts. A date has no zone, and neither has a cell: what
 * the text says is what the cell shows, and an instant is shown in UTC.
 */
function serialOf(text: string): number | undefined {
  const [, day, time = '00:00'] = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)Z?)?$/.exec(text) ?? []
  if (day === undefined) return undefined
  const at = new Date(`${day}T${time}Z`)
  // of 30 February, JavaScript makes a day in March
  if (Number.isNaN(at.getTime()) || at.toISOString().slice(0, 10) !== day) return undefined
  return at.getTime() / 86_400_000 + 25_569
}

/** Shows the columns of the fields in their formats, below the header. */
export function formatColumns(sheetId: number, header: readonly string[], formats: Formats): Request[] {
  return header.flatMap((name, column) => {
    const pattern = formats[name]
    if (pattern === undefined) return []
    return {
      repeatCell: {
        range: { sheetId, startRowIndex: 1, startColumnIndex: column, endColumnIndex: column + 1 },
        cell: { userEnteredFormat: { numberFormat: { type: typeOf(pattern), pattern } } },
        fields: 'userEnteredFormat.numberFormat',
      },
    }
  })
}

function typeOf(pattern: string): string {
  const plain = literally(pattern)
  const [day, time] = [/[yd]/i.test(plain), /[hs]/i.test(plain)]
  if (day || time) return day && time ? 'DATE_TIME' : day ? 'DATE' : 'TIME'
  return plain.includes('%') ? 'PERCENT' : 'NUMBER'
}

// ---- text that is read as if typed -------------------------------------------------------------------------------------

/** Text for `USER_ENTERED`, marked such that Sheets takes it for text where it must. `formula`: it may be one. `key`: it stays as it is. */
export function typed(value: Value, { formula, key }: { readonly formula: boolean; readonly key: boolean }): Value {
  if (typeof value !== 'string' || value === '') return value
  if (formula && value.startsWith('=')) return value
  const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value)
  const dangerous = /^['=+\-@\t\r\n]/.test(value) && !number
  const long = number && value.replace(/\D/g, '').length > 15 // the digits that Sheets keeps of a number
  // a key that became a number or a date would not be found again
  return dangerous || long || key ? `'${value}` : value
}

/** Whether Google may have read a text as a number, a date, an amount, a truth value or a formula, as if it were typed. */
export function isReadAsTyped(cell: unknown): boolean {
  return typeof cell === 'string' && /\d|^\s*[=+#]|^\s*(true|false)\s*$/i.test(cell)
}

// ---- requests ----------------------------------------------------------------------------------------------------------

/** The cells as rectangles, as few as there can be. */
export function blocksOf(rows: readonly Placed[], header: readonly string[]): Block[] {
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

export function updateCells(sheetId: number, { top, left, rows }: Block): Request {
  const start = { sheetId, rowIndex: top - 1, columnIndex: left }
  const values = rows.map((row) => ({ values: row.map(({ value }) => extended(value)) }))
  return { updateCells: { start, rows: values, fields: 'userEnteredValue' } }
}

function extended(value: Value): sheets_v4.Schema$CellData {
  if (value === '') return {}
  if (typeof value === 'number') return { userEnteredValue: { numberValue: value } }
  return { userEnteredValue: typeof value === 'boolean' ? { boolValue: value } : { stringValue: value } }
}

/** Writes the names that are new at the end of the header. */
export function headerCells(sheetId: number, header: readonly string[], wanted: readonly string[]): Request[] {
  const fresh = wanted.slice(header.length).map((name) => ({ field: name, value: name }))
  return fresh.length > 0 ? [updateCells(sheetId, { top: 1, left: header.length, rows: [fresh] })] : []
}

/** Takes rows away, from below, so that those above stay where they are. */
export function deleteRows(sheetId: number, rows: readonly number[]): Request[] {
  const runs: { from: number; to: number }[] = []
  for (const row of rows.toSorted((a, b) => b - a)) {
    const last = runs.at(-1)
    if (last?.from === row + 1) last.from = row
    else runs.push({ from: row, to: row })
  }
  return runs.map(({ from, to }) => ({
    deleteDimension: { range: { sheetId, dimension: 'ROWS', startIndex: from - 1, endIndex: to } },
  }))
}

/** An area as Google writes it. */
export function range(title: string, { top, bottom, left = 0, right }: Area & { readonly right: number }): string {
  return `'${title.replaceAll("'", "''")}'!${letters(left)}${top}:${letters(right)}${bottom ?? ''}`
}

function letters(column: number): string {
  return (column < 26 ? '' : letters(Math.floor(column / 26) - 1)) + String.fromCharCode(65 + (column % 26))
}
