import type { Definition } from './destination.js'
import { type Validated, validate } from './schema.js'
import { type AnyRow, describe } from './values.js'
import { messageOf } from './verdict.js'

export interface RecordOptions {
  readonly destination: Definition
  /** Columns of the row that make its key. */
  readonly key: readonly string[] | undefined
  /** Rows without a value here are rejected. */
  readonly cursor: string | undefined
  readonly map: ((row: AnyRow) => unknown) | undefined
  /** Fields that every record must have. */
  readonly needed: readonly string[]
}

/** A row of which no record can be made. */
export class Unfit {
  constructor(readonly problem: string) {}
}

/** What becomes of a row, and of its key: the record for the destination, in the same turn where the schema can say so. */
export type MakeRecord = (row: AnyRow, key: string | undefined) => object | Unfit | Promise<object | Unfit>

/** The one place where rows become records: checked, mapped, validated. */
export function recordMaker({ destination, key, cursor, map, needed }: RecordOptions): MakeRecord {
  const finish = (record: object): object | Unfit => {
    const missing = needed.find((field) => ((record as AnyRow)[field] ?? undefined) === undefined)
    return missing === undefined
      ? record
      : new Unfit(`the record has no ${missing}, by which ${destination.name} finds its object`)
  }
  const read = (validated: Validated): object | Unfit =>
    'problem' in validated
      ? new Unfit(`the record does not fit ${destination.name}: ${validated.problem}`)
      : finish(validated.value as object)

  return (row, rowKey) => {
    if (key && rowKey === undefined) return new Unfit(`the key (${key.join(', ')}) is null or missing`)
    if (cursor !== undefined && (row[cursor] === null || row[cursor] === undefined)) {
      return new Unfit(
        `the cursor column ${cursor} is null or missing, so later reads could not tell the row from new ones`,
      )
    }
    let record: unknown = row
    if (map) {
      try {
        record = map(row)
      } catch (error) {
        return new Unfit(`map failed: ${messageOf(error)}`)
      }
      if (record === null || typeof record !== 'object' || record instanceof Promise) {
        return new Unfit(`map returned ${describe(record)}; it must return a record, and not later`)
      }
    }
    if (!destination.record) return finish(record as object)
    const validated = validate(destination.record, record)
    return validated instanceof Promise ? validated.then(read) : read(validated)
  }
}
