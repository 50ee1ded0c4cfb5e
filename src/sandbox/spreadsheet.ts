import { randomInt } from 'node:crypto'
import {
  type Area,
  a1Of,
  type Bounds,
  type Content,
  clear,
  entered,
  extent,
  type Grid,
  letters,
  maxCharacters,
  type NumberFormat,
  type Plain,
  parseA1,
  put,
  read,
  shift,
  shown,
  widest,
} from './grid.js'

/** A tab of a spreadsheet. */
export interface Tab extends Grid {
  readonly sheetId: number
  readonly properties: { title: string; hidden?: boolean; frozenRowCount?: number; frozenColumnCount?: number }
  readonly metadata: Metadata[]
  /** The number formats of whole columns, from the row `top` on. */
  readonly formats: Map<number, NumberFormat & { readonly top: number }>
}
interface Metadata {
  readonly metadataId: number
  readonly metadataKey: string
  readonly metadataValue: string
  readonly visibility: string
}
/** A spreadsheet. */
export interface Book {
  readonly id: string
  readonly title: string
  readonly sharedWith: readonly string[] | undefined
  readonly tabs: Tab[]
}

// biome-ignore lint/suspicious/noExplicitAny: a request's body is whatever the client sent; it is checked where it is used
export type Body = any

/** A refusal in Google's words. */
export class ApiError extends Error {
  readonly code: number
  readonly reason: string | undefined
  constructor(code: number, message: string, reason?: string) {
    super(message)
    this.code = code
    this.reason = reason
  }
}

/** Cells of all tabs of a spreadsheet together, blank ones too. */
const maxCells = 10_000_000
/** Characters of keys and values on one tab: https://developers.google.com/workspace/sheets/api/guides/metadata. */
const maxMetadata = 30_000

/** A copy that shares its rows with the original: rows are replaced, never changed. */
export function copy(book: Book): Book {
  const tabs = book.tabs.map((tab) => ({
    ...tab,
    properties: { ...tab.properties },
    metadata: [...tab.metadata],
    formats: new Map(tab.formats),
    rows: [...tab.rows],
  }))
  return { ...book, tabs }
}

// ---- spreadsheets.get --------------------------------------------------------------------------------------------

/** The answer to `spreadsheets.get`. */
export function spreadsheet(book: Book, query: URLSearchParams): unknown {
  const ranges = query.getAll('ranges').map((range) => ({ ...resolve(book, range), text: range }))
  const mask = query.get('fields')
  // with a field mask `includeGridData` is ignored: the mask says it
  const withData = mask === null ? query.get('includeGridData') === 'true' : /\bdata\b|\*/.test(mask)
  const tabs = ranges.length > 0 ? book.tabs.filter((tab) => ranges.some((range) => range.tab === tab)) : book.tabs
  return {
    spreadsheetId: book.id,
    properties: { title: book.title, locale: 'en_US', autoRecalc: 'ON_CHANGE', timeZone: 'Etc/GMT' },
    sheets: tabs.map((tab) => {
      const areas = ranges.length > 0 ? ranges.filter((range) => range.tab === tab) : [{ area: { top: 0, left: 0 } }]
      return {
        properties: properties(book, tab),
        ...(withData && { data: areas.map(({ area }) => gridData(tab, area)) }),
        ...(tab.metadata.length > 0 && { developerMetadata: tab.metadata.map((entry) => metadata(tab, entry)) }),
      }
    }),
    spreadsheetUrl: `https://docs.google.com/spreadsheets/d/${book.id}/edit`,
  }
}

function properties(book: Book, tab: Tab): unknown {
  const { title, hidden, frozenRowCount, frozenColumnCount } = tab.properties
  return {
    sheetId: tab.sheetId,
    title,
    index: book.tabs.indexOf(tab),
    sheetType: 'GRID',
    gridProperties: {
      rowCount: tab.rowCount,
      columnCount: tab.columnCount,
      ...(frozenRowCount !== undefined && { frozenRowCount }),
      ...(frozenColumnCount !== undefined && { frozenColumnCount }),
    },
    ...(hidden && { hidden }),
  }
}

/** The number format that a cell has from its column. */
export function formatOf({ formats }: Tab, row: number, column: number): NumberFormat | undefined {
  const format = formats.get(column)
  return format && row >= format.top ? format : undefined
}

function gridData(tab: Tab, area: Area): unknown {
  const values = (row: readonly (Content | undefined)[], offset: number) =>
    Array.from(row, (cell, column) => {
      const numberFormat = formatOf(tab, area.top + offset, area.left + column)
      const format = numberFormat && { userEnteredFormat: { numberFormat } }
      if (!cell) return format ?? {}
      const effectiveValue = cell.formula
        ? { errorValue: { type: 'N_A', message: 'The sandbox does not calculate formulas.' } }
        : extended(cell.value)
      const userEnteredValue = cell.formula ? { formulaValue: cell.formula } : effectiveValue
      return { userEnteredValue, effectiveValue, formattedValue: shown(cell, numberFormat), ...format }
    })
  return {
    ...(area.top > 0 && { startRow: area.top }),
    ...(area.left > 0 && { startColumn: area.left }),
    rowData: read(tab, area).map((row, offset) => (row.length > 0 ? { values: values(row, offset) } : {})),
  }
}

function extended(value: Plain): unknown {
  if (typeof value === 'number') return { numberValue: value }
  return typeof value === 'boolean' ? { boolValue: value } : { stringValue: value }
}

function metadata(tab: Tab, entry: Metadata): unknown {
  return { ...entry, location: { locationType: 'SHEET', sheetId: tab.sheetId } }
}

// ---- spreadsheets.batchUpdate ------------------------------------------------------------------------------------

/** Carries out `spreadsheets.batchUpdate`; the caller sees to it that a refusal undoes what was done before it. */
export function batchUpdate(book: Book, body: Body): unknown {
  const requests = list(body.requests)
  if (requests.length === 0) throw new ApiError(400, 'Must specify at least one request.')
  const replies = requests.map((request: Body, index: number) => {
    const [kind = '', ...more] = Object.keys(request)
    const apply = Object.hasOwn(changes, kind) ? changes[kind] : undefined
    if (!apply || more.length > 0) {
      throw new ApiError(
        501,
        `Invalid requests[${index}]: the sandbox does not know the request ${[kind, ...more].join(', ')}.`,
      )
    }
    try {
      return apply(book, request[kind]) ?? {}
    } catch (error) {
      if (error instanceof ApiError) error.message = `Invalid requests[${index}].${kind}: ${error.message}`
      throw error
    }
  })
  return {
    spreadsheetId: book.id,
    replies,
    ...(body.includeSpreadsheetInResponse && { updatedSpreadsheet: spreadsheet(book, new URLSearchParams()) }),
  }
}

const changes: Record<string, (book: Book, request: Body) => unknown> = {
  addSheet: (book, request) => ({ addSheet: { properties: properties(book, addTab(book, request.properties ?? {})) } }),

  deleteSheet(book, { sheetId }) {
    const tab = byId(book, sheetId)
    if (book.tabs.length === 1) throw new ApiError(400, "You can't remove all the sheets in a document.")
    book.tabs.splice(book.tabs.indexOf(tab), 1)
  },

  updateSheetProperties(book, { properties, fields }) {
    const tab = byId(book, properties?.sheetId)
    for (const field of fieldList(fields)) {
      const value = field.split('.').reduce((from: Body, name: string) => from?.[name], properties)
      if (field === 'title') tab.properties.title = freeTitle(book, value, tab)
      else if (field === 'hidden') tab.properties.hidden = Boolean(value)
      else if (field === 'index') book.tabs.splice(Number(value), 0, ...book.tabs.splice(book.tabs.indexOf(tab), 1))
      else if (field === 'gridProperties.frozenRowCount') tab.properties.frozenRowCount = Number(value ?? 0)
      else if (field === 'gridProperties.frozenColumnCount') tab.properties.frozenColumnCount = Number(value ?? 0)
      else if (field === 'gridProperties.rowCount') resize(tab, 'ROWS', Number(value))
      else if (field === 'gridProperties.columnCount') resize(tab, 'COLUMNS', Number(value))
      else throw new ApiError(501, `the sandbox does not keep the property ${field}.`)
    }
    ensureRoom(book)
  },

  appendDimension(book, { sheetId, dimension, length }) {
    const tab = byId(book, sheetId)
    if (!(length > 0)) throw new ApiError(400, 'length must be greater than 0.')
    grow(book, tab, dimensionOf(dimension), length)
  },

  insertDimension(book, { range }) {
    const { tab, dimension, from, to } = dimensionRange(book, range)
    shift(tab, dimension, from, to - from)
    ensureRoom(book)
  },

  deleteDimension(book, { range }) {
    const { tab, dimension, from, to } = dimensionRange(book, range)
    const count = dimension === 'ROWS' ? tab.rowCount : tab.columnCount
    if (from >= count) {
      throw new ApiError(400, `Cannot delete a ${dimension === 'ROWS' ? 'row' : 'column'} that doesn't exist.`)
    }
    if (to - from >= count) {
      throw new ApiError(400, `You can't delete all the ${dimension.toLowerCase()} on the sheet.`)
    }
    const frozen = (dimension === 'ROWS' ? tab.properties.frozenRowCount : tab.properties.frozenColumnCount) ?? 0
    if (from <= frozen && Math.min(to, count) === count) {
      throw new ApiError(400, `You can't delete all the non-frozen ${dimension.toLowerCase()} on the sheet.`)
    }
    shift(tab, dimension, from, from - Math.min(to, count))
  },

  updateCells(book, { range, start, rows, fields }) {
    const tab = byId(book, (range ?? start)?.sheetId ?? 0)
    const values = fieldList(fields).some((field) => field === '*' || field.startsWith('userEnteredValue'))
    const [top, left] = [
      range?.startRowIndex ?? start?.rowIndex ?? 0,
      range?.startColumnIndex ?? start?.columnIndex ?? 0,
    ]
    const cells = list(rows).map((row: Body) => list(row?.values).map((data: Body) => content(data?.userEnteredValue)))
    inside(tab, { top, left, bottom: top + cells.length, right: left + widest(cells) })
    if (!values) return
    if (range) clear(tab, { top, left, bottom: range.endRowIndex, right: range.endColumnIndex })
    put(tab, top, left, cells)
  },

  repeatCell(book, { range, cell, fields }) {
    const tab = byId(book, range?.sheetId)
    if (fieldList(fields).join() !== 'userEnteredFormat.numberFormat' || range?.endRowIndex !== undefined) {
      throw new ApiError(501, 'the sandbox keeps number formats of columns, and no other.')
    }
    const { type, pattern } = cell?.userEnteredFormat?.numberFormat ?? {}
    const [from, to] = [range.startColumnIndex ?? 0, range.endColumnIndex ?? tab.columnCount]
    if (!(from < to && to <= tab.columnCount)) throw new ApiError(400, 'The range is outside of the grid.')
    if (type !== undefined && !numberFormats.includes(type)) {
      throw new ApiError(400, `Invalid value at 'cell.user_entered_format.number_format.type': "${type}"`)
    }
    for (let column = from; column < to; column++) {
      if (type === undefined) tab.formats.delete(column)
      else tab.formats.set(column, { type, pattern: String(pattern ?? ''), top: range.startRowIndex ?? 0 })
    }
  },

  appendCells(book, { sheetId, rows, fields }) {
    const tab = byId(book, sheetId)
    fieldList(fields)
    const cells = list(rows).map((row: Body) => list(row?.values).map((data: Body) => content(data?.userEnteredValue)))
    const top = extent(tab).rows
    makeRoom(book, tab, top + cells.length, widest(cells))
    put(tab, top, 0, cells)
  },

  createDeveloperMetadata(book, { developerMetadata: given }) {
    const tab = metadataTab(book, given)
    if (!given?.metadataKey || !['DOCUMENT', 'PROJECT'].includes(given.visibility)) {
      throw new ApiError(400, 'Developer metadata must have a metadataKey and a visibility.')
    }
    const entry: Metadata = {
      metadataId: given.metadataId ?? randomInt(1, 2 ** 31),
      metadataKey: given.metadataKey,
      metadataValue: given.metadataValue ?? '',
      visibility: given.visibility,
    }
    if (book.tabs.some((tab) => tab.metadata.some(({ metadataId }) => metadataId === entry.metadataId))) {
      throw new ApiError(400, `Developer metadata with id ${entry.metadataId} already exists.`)
    }
    tab.metadata.push(entry)
    ensureMetadataFits(tab)
    return { createDeveloperMetadata: { developerMetadata: metadata(tab, entry) } }
  },

  updateDeveloperMetadata(book, { dataFilters, developerMetadata: given, fields }) {
    const wanted = fieldList(fields)
    const updated = list(dataFilters).flatMap((filter: Body) =>
      lookup(book, filter).map(([tab, found]) => {
        const changed = Object.entries(given ?? {}).filter(([name]) => wanted.includes('*') || wanted.includes(name))
        const entry: Metadata = { ...found, ...Object.fromEntries(changed) }
        tab.metadata[tab.metadata.indexOf(found)] = entry
        ensureMetadataFits(tab)
        return metadata(tab, entry)
      }),
    )
    if (updated.length === 0) throw new ApiError(400, 'No developer metadata matches the data filters.')
    return { updateDeveloperMetadata: { developerMetadata: updated } }
  },

  deleteDeveloperMetadata(book, { dataFilter }) {
    const deletedDeveloperMetadata = lookup(book, dataFilter).map(([tab, entry]) => {
      tab.metadata.splice(tab.metadata.indexOf(entry), 1)
      return metadata(tab, entry)
    })
    return { deleteDeveloperMetadata: { deletedDeveloperMetadata } }
  },
}

/** https://developers.google.com/workspace/sheets/api/reference/rest/v4/spreadsheets/cells#NumberFormatType */
const numberFormats = ['TEXT', 'NUMBER', 'PERCENT', 'CURRENCY', 'DATE', 'TIME', 'DATE_TIME', 'SCIENTIFIC']

/** Adds a tab with the properties that `addSheet` takes. */
export function addTab(book: Book, given: Body): Tab {
  const sheetId = given.sheetId ?? randomInt(1, 2 ** 31)
  if (book.tabs.some((tab) => tab.sheetId === sheetId)) {
    throw new ApiError(400, `A sheet with the id ${sheetId} already exists. Please choose another id.`)
  }
  const tab: Tab = {
    sheetId,
    properties: { title: freeTitle(book, given.title ?? `Sheet${book.tabs.length + 1}`) },
    metadata: [],
    formats: new Map(),
    rowCount: given.gridProperties?.rowCount ?? 1000,
    columnCount: given.gridProperties?.columnCount ?? 26,
    rows: [],
  }
  if (tab.rowCount < 1 || tab.columnCount < 1) {
    throw new ApiError(400, 'A sheet must have at least one row and one column.')
  }
  book.tabs.splice(given.index ?? book.tabs.length, 0, tab)
  ensureRoom(book)
  return tab
}

function freeTitle(book: Book, title: unknown, own?: Tab): string {
  if (typeof title !== 'string' || title === '' || title.length > 100) {
    throw new ApiError(400, 'The sheet name must be between 1 and 100 characters long.')
  }
  // `People` and `people` are one name to Sheets
  if (book.tabs.some((tab) => tab !== own && tab.properties.title.toLowerCase() === title.toLowerCase())) {
    throw new ApiError(400, `A sheet with the name "${title}" already exists. Please enter another name.`)
  }
  return title
}

function byId(book: Book, sheetId: unknown): Tab {
  const tab = book.tabs.find((tab) => tab.sheetId === (sheetId ?? 0))
  if (!tab) throw new ApiError(400, `No grid with id: ${sheetId}`)
  return tab
}

function dimensionOf(dimension: unknown): 'ROWS' | 'COLUMNS' {
  if (dimension === 'ROWS' || dimension === 'COLUMNS') return dimension
  throw new ApiError(400, 'dimension must be ROWS or COLUMNS.')
}

function dimensionRange(book: Book, range: Body) {
  const tab = byId(book, range?.sheetId)
  const dimension = dimensionOf(range?.dimension)
  const [from, to] = [range?.startIndex, range?.endIndex]
  if (!(from >= 0 && to > from)) throw new ApiError(400, 'range.endIndex must be after range.startIndex.')
  return { tab, dimension, from: Number(from), to: Number(to) }
}

function resize(tab: Tab, dimension: 'ROWS' | 'COLUMNS', to: number): void {
  const from = dimension === 'ROWS' ? tab.rowCount : tab.columnCount
  if (!(to >= 1)) throw new ApiError(400, `A sheet must have at least one ${dimension === 'ROWS' ? 'row' : 'column'}.`)
  shift(tab, dimension, Math.min(from, to), to - from)
}

function grow(book: Book, tab: Tab, dimension: 'ROWS' | 'COLUMNS', by: number): void {
  if (dimension === 'ROWS') tab.rowCount += by
  else tab.columnCount += by
  ensureRoom(book)
}

function makeRoom(book: Book, tab: Tab, rows: number, columns: number): void {
  if (rows > tab.rowCount) grow(book, tab, 'ROWS', rows - tab.rowCount)
  if (columns > tab.columnCount) grow(book, tab, 'COLUMNS', columns - tab.columnCount)
}

function ensureRoom(book: Book): void {
  if (book.tabs.reduce((sum, tab) => sum + tab.rowCount * tab.columnCount, 0) > maxCells) {
    throw new ApiError(
      400,
      `This action would increase the number of cells in the workbook above the limit of ${maxCells} cells.`,
    )
  }
}

function metadataTab(book: Book, given: Body): Tab {
  const sheetId = given?.location?.sheetId
  if (sheetId === undefined) throw new ApiError(501, 'the sandbox keeps developer metadata of whole sheets only.')
  return byId(book, sheetId)
}

function lookup(book: Book, filter: Body): [Tab, Metadata][] {
  const { metadataId, metadataKey, metadataValue, metadataLocation } = filter?.developerMetadataLookup ?? {}
  const fits = <T>(wanted: T | undefined, value: T) => wanted === undefined || wanted === value
  return book.tabs
    .filter((tab) => fits(metadataLocation?.sheetId, tab.sheetId))
    .flatMap((tab) => tab.metadata.map((entry): [Tab, Metadata] => [tab, entry]))
    .filter(([, entry]) => fits(metadataId, entry.metadataId))
    .filter(([, entry]) => fits(metadataKey, entry.metadataKey) && fits(metadataValue, entry.metadataValue))
}

function ensureMetadataFits(tab: Tab): void {
  const characters = tab.metadata.reduce((sum, entry) => sum + entry.metadataKey.length + entry.metadataValue.length, 0)
  if (characters > maxMetadata) {
    throw new ApiError(400, `Developer metadata of this sheet would exceed the limit of ${maxMetadata} characters.`)
  }
}

function fieldList(fields: unknown): string[] {
  if (typeof fields === 'string' && fields !== '') return fields.split(',').map((field) => field.trim())
  throw new ApiError(400, "At least one field must be listed in 'fields'. (Use '*' to indicate all fields.)")
}

function content(value: Body): Content | undefined {
  if (value?.formulaValue !== undefined) return { value: '#N/A', formula: fitting(String(value.formulaValue)) }
  const plain = value?.numberValue ?? value?.boolValue ?? value?.stringValue
  if (plain === undefined || plain === '') return undefined
  return { value: typeof plain === 'string' ? fitting(plain) : plain }
}

// ---- spreadsheets.values -----------------------------------------------------------------------------------------

/** The answer to `values.get`. */
export function values(book: Book, range: string, query: URLSearchParams): unknown {
  const { tab, area } = resolve(book, range)
  inside(tab, { ...area, bottom: area.top + 1, right: area.left + 1 })
  const [columns, render, dates] = [
    query.get('majorDimension') === 'COLUMNS',
    query.get('valueRenderOption') ?? 'FORMATTED_VALUE',
    query.get('dateTimeRenderOption') ?? 'SERIAL_NUMBER',
  ]
  const rows = read(tab, area).map((row, offset) =>
    Array.from(row, (cell, column) =>
      rendered(cell, render, dates, formatOf(tab, area.top + offset, area.left + column)),
    ),
  )
  const turned = columns
    ? transpose(rows, '').map((column) => column.slice(0, column.findLastIndex((cell) => cell !== '') + 1))
    : rows
  return {
    range: a1Of(tab.properties.title, bounded(tab, area)),
    majorDimension: columns ? 'COLUMNS' : 'ROWS',
    ...(turned.length > 0 && { values: turned }),
  }
}

function rendered(cell: Content | undefined, option: string, dates: string, format?: NumberFormat): Plain {
  if (!cell) return ''
  if (option === 'FORMULA' && cell.formula) return cell.formula
  const isDate = /DATE|TIME/.test(format?.type ?? cell.format ?? '')
  const asText = option === 'FORMATTED_VALUE' || (isDate && dates === 'FORMATTED_STRING')
  return asText ? shown(cell, format) : cell.value
}

/** Carries out `values.batchUpdate`. */
export function valuesBatchUpdate(book: Book, body: Body): unknown {
  const option = inputOption(body.valueInputOption)
  const responses = list(body.data).map((data: Body, index: number) => {
    try {
      return valuesUpdate(book, data?.range, data, option)
    } catch (error) {
      if (error instanceof ApiError) error.message = `Invalid data[${index}]: ${error.message}`
      throw error
    }
  })
  const total = (name: string) => responses.reduce((sum: number, response: Body) => sum + response[name], 0)
  return {
    spreadsheetId: book.id,
    totalUpdatedRows: total('updatedRows'),
    totalUpdatedColumns: total('updatedColumns'),
    totalUpdatedCells: total('updatedCells'),
    totalUpdatedSheets: new Set(responses.map(({ updatedRange }: Body) => updatedRange.split('!')[0])).size,
    responses,
  }
}

/** Carries out `values.update`. */
export function valuesUpdate(book: Book, range: string, body: Body, option: InputOption): Body {
  const { tab, area } = resolve(book, range)
  if (body.range !== undefined && body.range !== range) {
    throw new ApiError(400, `Requested range: ${range} does not match value range: ${body.range}`)
  }
  const cells = input(body, option)
  const { top, left } = area
  inside(tab, { top, left, bottom: top + Math.max(1, cells.length), right: left + Math.max(1, widest(cells)) })
  const { bottom, right } = bounded(tab, area)
  // a single cell says where to start; anything larger must hold what is written
  if (bottom - top > 1 || right - left > 1) {
    const [row, column] = [top + cells.length, left + widest(cells)]
    const within = a1Of(tab.properties.title, { top, left, bottom, right })
    if (row > bottom) {
      throw new ApiError(400, `Requested writing within range [${within}], but tried writing to row [${bottom + 1}]`)
    }
    if (column > right) {
      throw new ApiError(
        400,
        `Requested writing within range [${within}], but tried writing to column [${letters(right)}]`,
      )
    }
  }
  return written(book, tab, top, left, cells)
}

/** Puts the cells in, and tells about it as the API does. */
function written(book: Book, tab: Tab, top: number, left: number, cells: (Content | null | undefined)[][]): Body {
  put(tab, top, left, cells)
  const touched = (list: (Content | null | undefined)[]) => list.some((cell) => cell !== null)
  const area = { top, left, bottom: top + Math.max(1, cells.length), right: left + Math.max(1, widest(cells)) }
  return {
    spreadsheetId: book.id,
    updatedRange: a1Of(tab.properties.title, area),
    updatedRows: cells.filter(touched).length,
    updatedColumns: transpose(cells, null).filter(touched).length,
    updatedCells: cells.flat().filter((cell) => cell !== null).length,
  }
}

/**
 * Carries out `values.append`: below the last row of the table that the range points at. Here a tab is taken to hold
 * one table, as nearly all do.
 */
export function valuesAppend(book: Book, range: string, body: Body, query: URLSearchParams): unknown {
  const { tab, area } = resolve(book, range)
  const cells = input(body, inputOption(query.get('valueInputOption')))
  const { rows, columns } = extent(tab)
  const top = Math.max(rows, area.top)
  if (query.get('insertDataOption') === 'INSERT_ROWS') shift(tab, 'ROWS', top, cells.length)
  makeRoom(book, tab, top + cells.length, area.left + widest(cells))
  const updates = written(book, tab, top, area.left, cells)
  const table = a1Of(tab.properties.title, { top: 0, left: 0, bottom: rows, right: columns })
  return { spreadsheetId: book.id, ...(rows > 0 && { tableRange: table }), updates }
}

/** Carries out `values.clear` of one range, and names it as the API does. */
export function valuesClear(book: Book, range: string): string {
  const { tab, area } = resolve(book, range)
  inside(tab, { ...area, bottom: area.top + 1, right: area.left + 1 })
  clear(tab, area)
  return a1Of(tab.properties.title, bounded(tab, area))
}

type InputOption = 'RAW' | 'USER_ENTERED'

/** Reads a `valueInputOption`, which the API wants to be told. */
export function inputOption(option: unknown): InputOption {
  if (option === 'RAW' || option === 'USER_ENTERED') return option
  throw new ApiError(400, "'valueInputOption' is required but not specified")
}

function input({ values, majorDimension }: Body, option: InputOption): (Content | null | undefined)[][] {
  const cells = list(values).map((row: Body, index: number) =>
    list(row).map((value: Body, column: number): Content | null | undefined => {
      if (value === null) return null
      if (typeof value === 'object') {
        const kind = Array.isArray(value) ? 'list_value' : 'struct_value'
        throw new ApiError(400, `Invalid values[${index}][${column}]: ${kind}`)
      }
      if (typeof value !== 'string') return { value }
      if (option === 'USER_ENTERED') return entered(fitting(value))
      return value === '' ? undefined : { value: fitting(value) }
    }),
  )
  return majorDimension === 'COLUMNS' ? transpose(cells, null) : cells
}

function fitting(text: string): string {
  if (text.length <= maxCharacters) return text
  throw new ApiError(400, `Your input contains more than the maximum of ${maxCharacters} characters in a single cell.`)
}

// ---- ranges ------------------------------------------------------------------------------------------------------

function resolve(book: Book, range: unknown): { tab: Tab; area: Area } {
  const [, quoted, plain, cells] = /^(?:'((?:[^']|'')+)'|([^'!]+))(?:!(.*))?$/s.exec(String(range)) ?? []
  const title = quoted?.replaceAll("''", "'") ?? plain
  const named = book.tabs.find((tab) => tab.properties.title.toLowerCase() === title?.toLowerCase())
  if (named && cells === undefined) return { tab: named, area: { top: 0, left: 0 } }
  const tab = cells === undefined && quoted === undefined ? book.tabs[0] : named
  const area = parseA1(cells ?? plain ?? '')
  if (!tab || !area) throw new ApiError(400, `Unable to parse range: ${range}`)
  return { tab, area }
}

/** An area cut off at the edges of the grid. */
function bounded({ rowCount, columnCount }: Tab, { top, left, bottom, right }: Area): Bounds {
  return {
    top,
    left,
    bottom: Math.min(bottom ?? rowCount, rowCount),
    right: Math.min(right ?? columnCount, columnCount),
  }
}

function inside(tab: Tab, area: Bounds): void {
  const { bottom, right } = area
  if (bottom <= tab.rowCount && right <= tab.columnCount) return
  throw new ApiError(
    400,
    `Range (${a1Of(tab.properties.title, area)}) exceeds grid limits. Max rows: ${tab.rowCount}, max columns: ${tab.columnCount}`,
  )
}

/** A repeated field of a request: absent is empty. */
export function list(value: unknown): Body[] {
  if (value === undefined || value === null) return []
  if (Array.isArray(value)) return value
  throw new ApiError(400, 'Invalid JSON payload received. Proto field is repeating, but the value is not a list.')
}

function transpose<T>(rows: readonly (readonly T[])[], blank: T): T[][] {
  return Array.from({ length: widest(rows) }, (_, column) => rows.map((row) => row[column] ?? blank))
}
