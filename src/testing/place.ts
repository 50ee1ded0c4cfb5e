import type { Destination, MaybePromise } from '../destination.js'
import type { ApiRequest, Faults } from '../sandbox/server.js'
import type { AnyRow } from '../values.js'

/** A fresh and empty place at a destination, such as a new spreadsheet or a new table, and what an author knows of it. */
export interface Place {
  /** The destination under test, pointed at this place. */
  readonly to: Destination<never>
  /**
   * The n-th record, from 0. Its `version` changes its content and never its key, and two records are never alike. It should hold a
   * text of eight characters or more outside its key: that one must not show up in an error.
   */
  record(n: number, version: number): AnyRow
  /** The fields that make a record's key. @default the destination's `match`, or else `id` */
  readonly key?: string | readonly string[] | undefined
  /** What is there, in the fields of the records. Fields beside those of the records are not looked at; null is the same as absent. */
  read(): MaybePromise<Iterable<AnyRow>>
  /** A record as `read` gives it, where the service gives values back in another form. @default as it was sent */
  held?(record: AnyRow): AnyRow
  /** What the sandbox, or another server made by `serve`, is told to let go wrong. Leave it out for a place without a server. */
  readonly faults?: Faults | undefined
  /** Whether a request writes records. @default all but GET and HEAD */
  writes?(request: ApiRequest): boolean
  /** A record that the service refuses for good, and a text that its dead letter must hold. */
  readonly bad?: { readonly record: AnyRow; readonly reason: string } | undefined
  /**
   * A field that a record may leave out and that null clears, and the values which the service keeps apart from each other and
   * from nothing: of `[0, false, '']`, those that it can hold.
   */
  readonly field?: { readonly name: string; readonly values: readonly unknown[] } | undefined
  /** Texts that must appear nowhere: the credentials that `to` was given. */
  readonly secrets: readonly string[]
  /** Puts records there for a destination that can only update. @default they are sent by `upsert` or `insert` */
  seed?(records: readonly AnyRow[]): MaybePromise<void>
  /** Gives the place up. */
  close?(): MaybePromise<void>
}
