import { ConfigError, SourceError } from './errors.js'
import { Encodable } from './source.js'
import type { AnyRow, Column, ColumnType } from './values.js'

/**
 * What happens when a source comes to have other columns than it had.
 *
 * | | a new column | a column of another type | a column that is gone |
 * |---|---|---|---|
 * | `evolve` | is sent | is sent | is missing from the rows |
 * | `freeze` | stops the run | stops the run | stops the run, where the source tells its columns (`postgres`, `duckdb`) |
 * | `discard` | is left out | is left out | is missing from the rows |
 */
export type SchemaContract = 'evolve' | 'freeze' | 'discard'

export const schemaContracts: readonly SchemaContract[] = ['evolve', 'freeze', 'discard']

/** What a source's columns are, held against what they were. */
export interface ColumnChanges {
  readonly added: readonly string[]
  readonly dropped: readonly string[]
  /** Those that hold another type of value, such as `integer` before and `text` now. */
  readonly changed: readonly { readonly name: string; readonly from: string; readonly to: string }[]
}

/** A type that a source told, or that was seen in values, among which numbers of any kind are one. */
type Kind = ColumnType | 'number'

/** The columns of a source as they were accepted last. */
export interface KnownColumns {
  /** The source told them; otherwise they were seen in its rows. */
  readonly described: boolean
  /** Each with what it holds; a column that held only null so far holds nothing yet, and whatever comes first is no change. */
  readonly types: readonly (readonly [name: string, kinds: readonly Kind[]])[]
}

interface ColumnsOptions {
  /** The sync, for errors. */
  readonly name: string
  readonly contract: SchemaContract
  /** `undefined` before anything was accepted: then whatever comes is. */
  readonly known: KnownColumns | undefined
  /** Without these a row is not found again: they are never left out. */
  readonly needed: readonly string[]
  /** The read shows the whole source: a column that no row has is gone. */
  readonly complete: boolean
  /** What `freeze` does about rows that do not fit: end the read at the first, before the rows that came with it, or when all were seen; or merely tell. */
  readonly stops: 'at-row' | 'at-batch' | 'at-end' | 'never'
}

type Types = ReadonlyMap<string, readonly Kind[]>

/** Holds the columns of one read against those that were known, and does with the difference what the contract says. */
export class Columns {
  readonly #options: ColumnsOptions
  readonly #known: Types | undefined
  #described: Types | undefined
  readonly #seen = new Map<string, Kind[]>()
  /** Names and kinds of the columns of the row before, so far as they fit: most rows are like the one before. */
  readonly #names: string[] = []
  readonly #kinds: (Kind | null | undefined)[] = []
  #leftOut: ReadonlySet<string> = new Set()
  #rows = 0
  #whole = false

  constructor(options: ColumnsOptions) {
    this.#options = options
    this.#known = options.known && new Map(options.known.types)
  }

  /** The source tells its columns. @throws ConfigError when `freeze` does not allow them. */
  describe(columns: readonly Column[]): void {
    this.#described = new Map(columns.map(({ name, type }) => [name, [type]]))
    if (this.#options.stops !== 'never') this.#refuse()
    this.#leftOut = new Set(this.#unwanted())
  }

  /** Columns may have to be left out of the rows, once they are described. */
  get mayDiscard(): boolean {
    return this.#options.contract === 'discard' && this.#known !== undefined
  }

  /** Some of the described columns are to be left out of the rows. */
  get discards(): boolean {
    return this.#leftOut.size > 0
  }

  /** The same columns without those that are left out. */
  kept(columns: readonly Column[]): readonly Column[] {
    return columns.filter(({ name }) => !this.#leftOut.has(name))
  }

  /** The rows of a read as the contract lets them through. @throws SourceError naming the first row that `freeze` does not. */
  async *admitted<B extends readonly object[] | Encodable>(
    batches: AsyncIterable<B>,
  ): AsyncGenerator<B | readonly object[]> {
    for await (const rows of batches) {
      if (rows instanceof Encodable) yield rows
      else if (!this.#described) yield* this.#inspected(rows)
      else yield this.discards ? rows.map((row) => without(row, this.#leftOut)) : rows
    }
  }

  /** Every row was seen. @throws ConfigError when `freeze` does not allow what is in them. */
  end(): void {
    this.#whole = true
    if (!this.#described && this.#options.stops === 'at-end') this.#refuse()
  }

  /** What is different from what was known. */
  changes(): ColumnChanges {
    const now = this.#now
    const known = this.#known
    if (!known || !now) return { added: [], dropped: [], changed: [] }
    const seesAll = this.#described !== undefined || (this.#whole && this.#options.complete)
    return {
      added: [...now.keys()].filter((name) => !known.has(name)),
      dropped: seesAll ? [...known.keys()].filter((name) => !now.has(name)) : [],
      changed: [...now].flatMap(([name, kinds]) =>
        known.has(name) && !kinds.every((kind) => this.#fits(name, kind))
          ? [{ name, from: known.get(name)!.join(' or '), to: kinds.join(' or ') }]
          : [],
      ),
    }
  }

  /** Why a run does not go on under `freeze`. */
  problem(): string | undefined {
    if (this.#options.contract !== 'freeze') return undefined
    const changes = this.changes()
    // rows may lack a column; a query that has lost one was changed
    const found = said(this.#described ? changes : { ...changes, dropped: [] })
    return (
      found &&
      `${found}. schemaContract is 'freeze': nothing of this read was sent. Correct the query, or run once with schemaContract 'evolve' to accept it`
    )
  }

  /** What is to be told of the changes, and whether something is lost by them. */
  news(): { readonly text: string; readonly loses: boolean } | undefined {
    const text = said(this.changes())
    // what does not fit is told by the error
    if (!text || this.problem()) return undefined
    const lost = this.#unwanted()
    return { text: lost.length === 0 ? text : `${text}. Left out: ${lost.join(', ')}`, loses: lost.length > 0 }
  }

  /** What the next read is held against: the present columns under `evolve`, and those that were known under the others. */
  accepted(): KnownColumns | undefined {
    const { contract, known, needed, complete } = this.#options
    const now = this.#now
    if (!now) return known
    const described = this.#described !== undefined
    if (known && contract !== 'evolve') {
      const types = known.types.map(([name, kinds]) => {
        const present = now.get(name) ?? []
        return [name, kinds.length === 0 || (needed.includes(name) && present.length > 0) ? present : kinds] as const
      })
      return { ...known, types }
    }
    if (described || !this.#known) {
      // the first rows of a read that broke off do not tell what may be in the others
      return described || this.#whole || contract === 'evolve' ? { described, types: [...now] } : undefined
    }
    const before = this.#whole && complete ? [] : [...this.#known.keys()]
    const types = [...new Set([...before, ...now.keys()])].map((name) => {
      const [were, are] = [this.#known!.get(name) ?? [], now.get(name) ?? []]
      return [name, this.#whole && complete && are.length > 0 ? are : [...new Set([...were, ...are])]] as const
    })
    return { described, types }
  }

  /** The columns that this read has; `undefined` as long as it has shown nothing. */
  get #now(): Types | undefined {
    return this.#described ?? (this.#rows > 0 ? this.#seen : undefined)
  }

  #refuse(): void {
    const problem = this.problem()
    if (problem) throw new ConfigError(`${this.#options.name}: ${problem}`)
  }

  /** What `discard` leaves out. */
  #unwanted(): string[] {
    const { contract, needed } = this.#options
    if (contract !== 'discard') return []
    const { added, changed } = this.changes()
    return [...added, ...changed.map(({ name }) => name)].filter((name) => !needed.includes(name))
  }

  #fits(name: string, kind: Kind): boolean {
    const kinds = this.#known?.get(name)
    if (!kinds) return this.#known === undefined
    if (kinds.length === 0) return true
    // what one source tells and another shows are compared by what rows hold
    const exact = this.#described !== undefined && this.#options.known!.described
    return kinds.some((known) => (exact ? known === kind : shape(known) === shape(kind)))
  }

  // ---- rows of a source that does not tell its columns

  *#inspected(rows: readonly AnyRow[]): Generator<readonly object[]> {
    const { contract, stops } = this.#options
    let kept: object[] | undefined
    for (let index = 0; index < rows.length; index++) {
      const row = rows[index]!
      const misfits = this.#inspect(row)
      if (misfits && contract === 'freeze' && (stops === 'at-row' || stops === 'at-batch')) {
        if (index > 0 && stops === 'at-row') yield rows.slice(0, index)
        throw this.#misfit(row, misfits[0]!)
      }
      this.#rows++
      if (contract !== 'discard') continue
      const unwanted = misfits?.filter((name) => !this.#options.needed.includes(name))
      if (unwanted && unwanted.length > 0) kept ??= rows.slice(0, index)
      kept?.push(unwanted && unwanted.length > 0 ? without(row, new Set(unwanted)) : row)
    }
    yield kept ?? rows
  }

  /** Takes note of a row's columns. Answers those that do not fit what was known. */
  #inspect(row: AnyRow): string[] | undefined {
    let misfits: string[] | undefined
    let at = 0
    for (const name in row) {
      const kind = kindOf(row[name])
      if (this.#names[at] !== name || this.#kinds[at] !== kind) {
        if (this.#meets(name, kind)) {
          this.#names[at] = name
          this.#kinds[at] = kind
        } else {
          misfits ??= []
          misfits.push(name)
        }
      }
      at++
    }
    return misfits
  }

  /** Notes what a column holds. Answers whether that fits what was known. */
  #meets(name: string, kind: Kind | null | undefined): boolean {
    if (kind === undefined) return true
    const kinds = this.#seen.get(name) ?? []
    this.#seen.set(name, kinds)
    if (kind === null) return !this.#known || this.#known.has(name)
    if (!kinds.includes(kind)) kinds.push(kind)
    return this.#fits(name, kind)
  }

  #misfit(row: AnyRow, column: string): SourceError {
    const known = this.#known!.get(column)
    const what = known
      ? `holds ${kindOf(row[column])} in column ${column}, which held ${known.join(' or ')} so far`
      : `has a new column ${column}`
    return new SourceError(
      `${this.#options.name}: row ${this.#rows + 1} of the source ${what}. schemaContract is 'freeze': the read ends there, and rows before it are kept. Correct the source, or run once with schemaContract 'evolve' to accept it`,
    )
  }
}

/** What is different, in words; `undefined` when nothing is. */
function said({ added, dropped, changed }: ColumnChanges): string | undefined {
  const parts = [
    ...added.map((name) => `${name} is new`),
    ...dropped.map((name) => `${name} is gone`),
    ...changed.map(({ name, from, to }) => `${name} was ${from} and is ${to}`),
  ]
  return parts.length > 0 ? `the columns of the source have changed: ${parts.join('; ')}` : undefined
}

function without(row: object, names: ReadonlySet<string>): object {
  return Object.fromEntries(Object.entries(row).filter(([name]) => !names.has(name)))
}

/** What kind of value it is; null for null, which any column may hold, and `undefined` for what is not there. */
function kindOf(value: unknown): Kind | null | undefined {
  switch (typeof value) {
    case 'string':
      return 'text'
    case 'number':
    case 'bigint':
      return 'number'
    case 'boolean':
      return 'boolean'
    case 'object':
      if (value === null) return null
      if (value instanceof Date) return 'instant'
      if (value instanceof Uint8Array) return 'binary'
      // it is staged as what it says of itself
      return typeof (value as AnyRow)['toJSON'] === 'function' ? kindOf((value as AnyRow)['toJSON']()) : 'json'
    default:
      return undefined
  }
}

/** What values of a type look like in a row. */
function shape(kind: Kind): Kind {
  if (kind === 'integer' || kind === 'bigint' || kind === 'double') return 'number'
  return kind === 'decimal' || kind === 'date' || kind === 'timestamp' ? 'text' : kind
}
