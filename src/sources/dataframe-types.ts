import type { AnyRow } from '../values.js'

/** A `Table` or `RecordBatch` of apache-arrow, or a `Table` of flechette. */
export interface ArrowFrame {
  readonly schema: { readonly fields: readonly object[] }
  readonly numRows: number
}

/** A `DataFrame` of nodejs-polars. */
export interface PolarsFrame {
  readonly height: number
  slice(offset: number, length: number): unknown
  writeIPCStream(...rest: never[]): unknown
}

/** A table of arquero. */
export interface ArqueroFrame {
  numRows(): number
  columnNames(...rest: never[]): string[]
  column(name: string): unknown
  indices(...rest: never[]): ArrayLike<number>
}

/** A frame like those of Danfo.js: a row is an array. */
export interface DanfoFrame {
  readonly columns: readonly string[]
  readonly values: unknown
}

/** Columns of one length. */
export interface FrameColumns {
  readonly [column: string]: ArrayLike<unknown>
}

/** What {@link dataframe} takes. */
export type Frame =
  | ArrowFrame
  | PolarsFrame
  | ArqueroFrame
  | DanfoFrame
  | FrameColumns
  | Uint8Array
  | ArrayBuffer
  | { readonly path: string }

/** The row of a frame, as far as the frame's type tells it. */
export type FrameRow<F> = F extends Uint8Array | ArrayBuffer | { readonly path: string } | PolarsFrame | ArqueroFrame
  ? AnyRow
  : F extends { readonly TType: { readonly dataTypes: infer T } }
    ? ArrowRow<T>
    : F extends ArrowFrame | DanfoFrame
      ? AnyRow
      : F extends FrameColumns
        ? { -readonly [K in keyof F]: OrNull<F[K][number]> }
        : AnyRow

type OrNull<V> = undefined extends V ? Exclude<V, undefined> | null : V

type ArrowRow<T> = 0 extends 1 & T ? AnyRow : { [K in keyof T]: ArrowValue<T[K]> }

/** By the numbers of apache-arrow's `Type`, which are the only part of its types that tells them apart. */
type ArrowValue<T> = T extends { readonly TType: infer K extends number }
  ? `${K}` extends keyof ArrowValues
    ? ArrowValues[`${K}`]
    : `${K}` extends '12' | '16' | '21'
      ? T extends { readonly valueType: infer V }
        ? ArrowValue<V>[]
        : never
      : `${K}` extends '13'
        ? T extends { readonly dataTypes: infer V }
          ? ArrowRow<V>
          : never
        : `${K}` extends '-1'
          ? T extends { readonly dictionary: infer V }
            ? ArrowValue<V>
            : never
          : unknown
  : unknown

interface ArrowValues
  extends Record<'-2' | '-3' | '-4' | '-6' | '-7' | '-8' | '3' | '-10' | '-11' | '-12', number>,
    Record<'-5' | '-9', bigint>,
    Record<'4' | '15' | '19' | '23', Uint8Array>,
    Record<'5' | '7' | '20' | '24', string>,
    Record<'8' | '-13' | '-14' | '9' | '-19' | '-20' | '-21' | '-22', string>,
    Record<'11' | '-25' | '-26' | '-31' | '18' | '-27' | '-28' | '-29' | '-30', string>,
    Record<'10' | '-15' | '-16' | '-17' | '-18', Date | string> {
  '1': null
  '2': number | bigint
  '6': boolean
}
