import { inspect } from 'node:util'
import { type AnyRow, type Context, type Destination, destination } from 'spillway'

/** What {@link toConsole} is told. */
export interface ConsoleOptions {
  /** Where it writes. @default process.stdout */
  readonly stream?: { write(text: string): unknown } | undefined
  /** The most rows of a batch that are shown; the others are counted. @default 20 */
  readonly rows?: number | undefined
}

/**
 * Prints what a destination would be given, for trying things out: each batch with its operation and its rows, one a line.
 *
 * What is printed counts as delivered, so a sync prints only what has changed since. Rows of a lost answer may be printed twice.
 *
 * @example
 * ```ts
 * await sync({ name: 'people', from: people, to: toConsole(), key: 'id', mode: 'mirror' }).run()
 * ```
 */
export function toConsole(
  options: ConsoleOptions = {},
): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete' | 'replace'> {
  const { stream = process.stdout, rows: most = 20 } = options

  function print(batch: readonly AnyRow[], { sync, operation }: Context): void {
    const lines = batch.slice(0, most).map((row) => `  ${rowText(row)}\n`)
    const rest = batch.length > most ? `  … and ${counted(batch.length - most)} more\n` : ''
    stream.write(`${sync}: ${operation} ${counted(batch.length)}\n${lines.join('')}${rest}`)
  }

  return destination({ name: 'console', onUnknown: 'resend', settle: '0ms', target: () => ({}) })({
    insert: print,
    update: print,
    upsert: print,
    delete: print,
    async replace(batches, context) {
      let count = 0
      for await (const batch of batches) {
        print(batch, context)
        count += batch.length
      }
      stream.write(`${context.sync}: replaced by ${counted(count)}\n`)
    },
  })
}

/** A row on one line, without control characters, as the console shows values: a bigint as 1n, a date as its ISO text with microseconds. */
function rowText(row: AnyRow): string {
  const shown = Object.entries(row).map(([name, value]) => [name, value instanceof Date ? new Shown(value) : value])
  return inspect(Object.fromEntries(shown), { breakLength: Number.POSITIVE_INFINITY, depth: 6, compact: true })
}

class Shown {
  constructor(readonly date: Date) {}
  [inspect.custom](): string {
    return Number.isNaN(this.date.getTime()) ? 'an invalid date' : this.date.toISOString()
  }
}

function counted(count: number): string {
  return count === 1 ? '1 row' : `${count} rows`
}
