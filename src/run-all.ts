import { type Share, share } from './fan-out.js'
import { type Run, type RunOptions, showsAll } from './run.js'
import { definitionOfSync, type Parts, parts, readAs, type Sync } from './sync.js'

/**
 * Runs syncs side by side. Resolves when all have ended, with their runs in the same order; one that fails does not stop
 * the others. @throws the error of the one that failed, or an AggregateError of several.
 *
 * Syncs that were given the same object as `from` (and follow the same cursor column, if any) read it together: a query runs
 * once, a function is called once, and even a generator object serves all of them. Each stages for itself what it gets, so
 * that one which fails or is stopped holds up no other and goes on where it was; the slowest to stage decides how fast is
 * read. Positions of a cursor may differ: it is read from the least, and each drops what it had. One that finds rows of an
 * earlier run to deliver first is not waited for, and reads for itself afterwards (a generator object, which cannot be read
 * again, waits). Tables of `postgres` are copied once where all of the syncs compare them; those of `duckdb` are then compared
 * by each sync for itself, where they are.
 *
 * @example
 * ```ts
 * const signups = postgres({ url: secret('DATABASE_URL'), query: 'select * from signups' })
 * await runAll([
 *   sync({ name: 'crm', from: signups, to: crm, key: 'id' }),
 *   sync({ name: 'chat', from: signups, to: chat, key: 'id', mode: 'insert' }),
 * ])
 * ```
 */
export async function runAll<const T extends readonly Sync[]>(
  syncs: T,
  options: RunOptions = {},
): Promise<{ [K in keyof T]: Run }> {
  const results = await Promise.allSettled(runEach(syncs, () => options))
  const failed = results.flatMap((result, index) =>
    result.status === 'rejected' ? [{ name: syncs[index]!.name, error: result.reason }] : [],
  )
  if (failed.length === 1) throw failed[0]!.error
  if (failed.length > 1) {
    throw new AggregateError(
      failed.map(({ error }) => error),
      `${failed.length} of ${syncs.length} syncs failed: ${failed.map(({ name, error }) => `${name}: ${String(error?.message ?? error)}`).join('; ')}`,
    )
  }
  return results.map((result) => (result as PromiseFulfilledResult<Run>).value) as { [K in keyof T]: Run }
}

/** The same, run by run. `optionsOf` is called when a sync's run begins, which fails with what it throws. */
export function runEach(syncs: readonly Sync[], optionsOf: (sync: Sync) => RunOptions): readonly Promise<Run>[] {
  const sharers = new Map<unknown, number[]>()
  for (const [index, one] of syncs.entries()) {
    const from = (one as Partial<Parts>)[parts]?.from // a sync may be anything that looks like one
    if (from !== undefined) sharers.set(from, [...(sharers.get(from) ?? []), index])
  }
  const shares = new Map<number, Share>()
  for (const indices of sharers.values()) {
    const definitions = indices.map((index) => definitionOfSync(syncs[index]!))
    // each has a place of its own in what keeps its rows
    if (indices.length === 1 || definitions[0]!.source.inbox) continue
    const wishes = definitions.map((definition) => ({
      cursor: definition.cursor?.column,
      atOnce: definition.mode !== 'append' && definition.key !== undefined && showsAll(definition),
    }))
    for (const [place, one] of share(definitions[0]!.source, wishes).entries()) shares.set(indices[place]!, one)
  }
  return syncs.map(async (one, index) => {
    const shared = shares.get(index)
    try {
      return await one.run({ ...optionsOf(one), ...(shared && { [readAs]: shared.source }) })
    } finally {
      await shared?.leave()
    }
  })
}
