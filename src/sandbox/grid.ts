/** What a cell holds. A blank cell is `undefined` where cells are kept: Sheets has no empty text. */
export interface Content {
  readonly value: string | number | boolean
  /** The formula, with its `=`. The sandbox does not calculate: `value` is then `#N/A`. */
  readonly formula?: string
  /** How a number that was entered as something else is shown. */
  readonly format?: 'PERCENT' | 'DATE' | 'DATE_TIME'
}
type Row = readonly (Content | undefined)[]

/** A value as JSON carries it to and from the API. */
export type Plain = string | number | boolean

/** One tab: a grid of fixed size, of which only the rows that hold something are kept. */
export interface Grid {
  rowCount: number
  columnCount: number
  /** Rows are replaced, never changed, so that a copy of this list is a copy of the tab. */
  rows: Row[]
}

/** A rectangle, zero-based and half open; a side that is not given reaches to the edge of the grid. */
export interface Area {
  readonly top: number
  readonly left: number
  readonly bottom?: number | undefined
  readonly right?: number | undefined
}

/** A rectangle with all its sides. */
export interface Bounds extends Area {
  readonly bottom: number
  readonly right: number
}

/** Most characters in a cell: https://support.google.com/drive/answer/37603. */
export const maxCharacters = 50_000

/** `0` → `A`, `26` → `AA`. */
export function letters(column: number): string {
  const rest = column < 26 ? '' : letters(Math.floor(column / 26) - 1)
  return rest + String.fromCharCode(65 + (column % 26))
}

const a1 = /^([A-Z]{1,3})?(\d{1,8})?(?::([A-Z]{1,3})?(\d{1,8})?)?$/i

/** Reads the part of a range after the `!`: `B2`, `A1:C`, `2:7`, `C:C`. `undefined` when it is none. */
export function parseA1(text: string): Area | undefined {
  const [, left, top, right, bottom] = a1.exec(text) ?? []
  if (!text.includes(':')) return left && top && Number(top) > 0 ? parseA1(`${text}:${text}`) : undefined
  if (!left !== !right) return undefined
  const columns = left && right ? [index(left), index(right)] : []
  const rows = [top, bottom].filter((row) => row !== undefined).map(Number)
  if (rows.includes(0) || (columns.length === 0 && rows.length < 2)) return undefined
  return {
    top: rows.length > 0 ? Math.min(...rows) - 1 : 0,
    left: columns.length > 0 ? Math.min(...columns) : 0,
    bottom: rows.length === 2 ? Math.max(...rows) : undefined,
    right: columns.length > 0 ? Math.max(...columns) + 1 : undefined,
  }
}

function index(column: string): number {
  return [...column.toUpperCase()].reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 64, 0) - 1
}

/** A range as Google writes it in answers. */
export function a1Of(title: string, { top, left, bottom, right }: Bounds): string {
  const from = `${letters(left)}${top + 1}`
  const to = `${letters(right - 1)}${bottom}`
  return `${quote(title)}!${from === to ? from : `${from}:${to}`}`
}

/** A tab's title as it stands in a range: quoted when it holds more than letters, digits and `_`, or reads like a cell. */
function quote(title: string): string {
  return /^[A-Za-z_]\w*$/.test(title) && !parseA1(title) ? title : `'${title.replaceAll("'", "''")}'`
}

/** The last row and column that hold something, counted from 1; 0 when all is blank. */
export function extent(grid: Grid): { rows: number; columns: number } {
  return {
    rows: grid.rows.findLastIndex(holds) + 1,
    columns: grid.rows.reduce((widest, row) => Math.max(widest, width(row)), 0),
  }
}

/** The length of the longest row. */
export function widest(rows: readonly (readonly unknown[])[]): number {
  return rows.reduce((widest, row) => Math.max(widest, row.length), 0)
}

function holds(row: Row | undefined): boolean {
  return width(row) > 0
}
function width(row: Row | undefined): number {
  return (row?.findLastIndex((cell) => cell !== undefined) ?? -1) + 1
}

/** The cells of an area, row by row, without the blank ones at the end of each row and of the whole. */
export function read(grid: Grid, area: Area): Row[] {
  const bottom = Math.min(area.bottom ?? grid.rows.length, grid.rows.length)
  const right = Math.min(area.right ?? grid.columnCount, grid.columnCount)
  const rows: Row[] = []
  for (let row = area.top; row < bottom; row++) {
    const cells = grid.rows[row]?.slice(area.left, right) ?? []
    rows.push(Array.from(cells.slice(0, width(cells))))
  }
  return rows.slice(0, rows.findLastIndex(holds) + 1)
}

/** Puts cells into a grid; `null` leaves a cell alone, `undefined` makes it blank. */
export function put(
  grid: Grid,
  top: number,
  left: number,
  rows: readonly (readonly (Content | null | undefined)[])[],
): void {
  rows.forEach((cells, offset) => {
    if (cells.every((cell) => cell === null)) return
    const row = [...(grid.rows[top + offset] ?? [])]
    cells.forEach((cell, column) => {
      if (cell !== null) row[left + column] = cell
    })
    grid.rows[top + offset] = row
  })
}

/** Makes every cell of an area blank. */
export function clear(grid: Grid, { top, left, bottom, right }: Area): void {
  const rows = grid.rows.slice(top, bottom)
  put(
    grid,
    top,
    left,
    rows.map((row) =>
      Array<undefined>(Math.max(0, Math.min(right ?? grid.columnCount, row?.length ?? 0) - left)).fill(undefined),
    ),
  )
}

/** Opens `count` blank rows or columns before `at`, or with a negative count takes rows or columns away. */
export function shift(grid: Grid, dimension: 'ROWS' | 'COLUMNS', at: number, count: number): void {
  const splice = <T>(list: readonly T[], blank: T): T[] => {
    const padded = [...list, ...Array<T>(Math.max(0, at - list.length)).fill(blank)]
    padded.splice(at, Math.max(0, -count), ...Array<T>(Math.max(0, count)).fill(blank))
    return padded
  }
  if (dimension === 'ROWS') {
    grid.rows = splice(grid.rows, [])
    grid.rowCount += count
  } else {
    grid.rows = grid.rows.map((row) => splice(row, undefined))
    grid.columnCount += count
  }
}

/** Text as a person would type it: numbers, percentages, booleans, ISO dates and formulas are recognised. */
export function entered(text: string): Content | undefined {
  if (text === '') return undefined
  if (text.startsWith("'")) return text === "'" ? undefined : { value: text.slice(1) }
  if (/^(true|false)$/i.test(text)) return { value: /^t/i.test(text) }
  if (/^[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?(e[+-]?\d+)?%?$/i.test(text) && /\d/.test(text)) {
    const number = Number(text.replaceAll(',', '').replace('%', ''))
    return text.endsWith('%') ? { value: number / 100, format: 'PERCENT' } : { value: number }
  }
  const date = /^(\d{4}-\d\d-\d\d)(?: (\d\d:\d\d)(?::(\d\d))?)?$/.exec(text)
  const time = date ? Date.parse(`${date[1]}T${date[2] ?? '00:00'}:${date[3] ?? '00'}Z`) : Number.NaN
  if (date && !Number.isNaN(time)) return { value: time / day + epoch, format: date[2] ? 'DATE_TIME' : 'DATE' }
  // `+A1` and `-A1` are formulas too, typed by habit from older programs
  if (/^[=+-]./s.test(text)) return { value: '#N/A', formula: text.startsWith('=') ? text : `=${text}` }
  return { value: text }
}

const day = 86_400_000
/** 1970-01-01 in days since 1899-12-30, from which Sheets counts. */
const epoch = 25_569

/** A number format, as `repeatCell` gives it: https://developers.google.com/workspace/sheets/api/guides/formats. */
export interface NumberFormat {
  readonly type: string
  readonly pattern: string
}

/** A cell as Sheets shows it: in the format of its column, or else in its automatic one. */
export function shown({ value, format }: Content, column?: NumberFormat): string {
  if (typeof value === 'boolean') return value ? 'TRUE' : 'FALSE'
  if (typeof value === 'string') return value
  if (column) return formatted(value, column)
  if (format === 'PERCENT') return `${shown({ value: Number((value * 100).toFixed(2)) })}%`
  if (format !== undefined) {
    const iso = new Date(Math.round((value - epoch) * day)).toISOString()
    return format === 'DATE' ? iso.slice(0, 10) : iso.slice(0, 19).replace('T', ' ')
  }
  const digits = Number.isInteger(value) && Math.abs(value) < 1e15 ? value : Number(value.toPrecision(10))
  return String(digits).replace('e', 'E')
}

function formatted(value: number, { type, pattern }: NumberFormat): string {
  if (/DATE|TIME/.test(type)) {
    const [, year = '', month, day_, hour, minute, second] =
      /^(.+)-(..)-(..)T(..):(..):(..)/.exec(new Date(Math.round((value - epoch) * day)).toISOString()) ?? []
    let timed = false
    return pattern.replace(/"([^"]*)"|yyyy|yy|mm?|dd?|hh?|ss?/g, (token, literal?: string) => {
      if (literal !== undefined) return literal
      // `mm` after the hour means minutes
      const part = { y: year.slice(-token.length), m: timed ? minute : month, d: day_, h: hour, s: second }[token[0]!]!
      timed = token.startsWith('h')
      return token.length === 1 ? String(Number(part)) : part
    })
  }
  return pattern.replace(
    /"([^"]*)"|(#,##)?0(\.0+)?%?/g,
    (number, literal?: string, thousands?: string, decimals = '.') => {
      if (literal !== undefined) return literal
      const digits = decimals.length - 1
      const scaled = number.endsWith('%') ? value * 100 : value
      const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: Boolean(thousands) }
      return scaled.toLocaleString('en', options) + (number.endsWith('%') ? '%' : '')
    },
  )
}
