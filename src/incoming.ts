import { join } from 'node:path'
import { linesIn } from './duckdb.js'
import { type Bulk, type Content, NotModified } from './source.js'
import { fingerprinted } from './sources/sql.js'
import { lineColumns } from './stage.js'
import type { SyncState } from './state/state.js'
import { type AnyRow, decodeTexts, losslessText } from './values.js'

/** Rows that were read, as DuckDB compares them. */
export interface Incoming {
  /**
   * A select: `key` (its canonical text, or null), `hi` and `lo` (the fingerprint of the row, its key included), `carried`
   * (staged by an earlier run), `n` (the ordinal of a row that is staged), `input` (newer ones have higher numbers), and the
   * columns of `content`.
   */
  readonly relation: string
  readonly content: Content
  /** By which rows are in their order. */
  readonly place: string
  /** Whether its rows are staged; otherwise those that matter are still to be. */
  readonly staged: boolean
  /** Where the source has left out what is known. */
  readonly sifted?: Bulk['sifted']
  readonly etag?: Bulk['etag']
}

/** Staged rows: those from an ordinal on, or those that the plan before left open too. */
export interface StagedInput {
  readonly stage: SyncState
  readonly from: number
  /** Rows below were staged by an earlier run. */
  readonly fresh: number
  readonly open: boolean
}

export function staged(inputs: readonly StagedInput[], version: string): Incoming {
  const relations = inputs.map(({ stage, from, fresh, open }, input) => {
    const segments = stage.segments.filter(({ first, rows }) => rows > 0 && (open || first + rows > from))
    if (segments.length === 0) return nothing
    const files = segments.map(({ file }) => join(stage.folder, file))
    const longest = Math.max(...segments.map((segment) => segment.longest))
    const bytes = Math.max(...segments.map((segment) => segment.bytes))
    const wanted = open ? `(n >= ${from} or n in (select stage from open_item))` : `n >= ${from}`
    // headers, and what a killed run wrote beyond the committed end, are no rows; the last line there may be cut short
    return `select ${input} as input, n, n < ${fresh} as carried, key, line from ${linesIn(lineColumns, { files, longest, bytes }, true)}
      where n >= 0 and n < ${stage.nextOrdinal} and line is not null and ${wanted}`
  })
  return {
    relation: fingerprinted(relations.join(' union all '), 'line', version),
    content: { text: 'line' },
    place: '(input, n)',
    staged: true,
  }
}

const nothing = `select 0 as input, null::bigint as n, false as carried, null::varchar as key, null::varchar as line where false`

/** Rows that a source brought at once. */
export function bulk(bulk: Bulk | NotModified): Incoming | NotModified {
  if (bulk instanceof NotModified) return bulk
  const relation = `select *, 0 as input, null::bigint as n, false as carried from (${bulk.relation})`
  return { ...bulk, relation, staged: false }
}

/** Rows of a chunk. */
export interface Rows {
  row(index: number): AnyRow
  /** Its lossless text, the same whoever has written it. */
  text(index: number): string
}

/** What to select of an {@link Incoming} to have its rows. */
export function selected(content: Content): readonly string[] {
  return 'text' in content ? [content.text] : content.columns
}

/** Perhaps in a text that DuckDB has written, and not in one of JavaScript's: an escape in upper case, 1e21, 1e15 with a point. */
const foreign = /\\u00|:-?[\d.]+(?:e\d|\.0[,}])/

/** The rows of that, column by column. None is made into an object whose text is all that is asked for, where DuckDB has it. */
export function readRows(content: Content, columns: readonly (readonly unknown[])[], count: number): Rows {
  if ('text' in content) {
    const texts = columns[0] as readonly string[]
    const row = (index: number): AnyRow => decodeTexts([texts[index]!])[0]!
    return { row, text: (index) => (foreign.test(texts[index]!) ? losslessText(row(index)) : texts[index]!) }
  }
  const rows = content.rows(columns, count)
  const texts: string[] = []
  return { row: (index) => rows[index]!, text: (index) => (texts[index] ??= losslessText(rows[index]!)) }
}
