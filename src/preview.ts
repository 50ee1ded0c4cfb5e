import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { ColumnChanges, Columns } from './columns.js'
import type { Operation } from './destination.js'
import { openDuckdb } from './duckdb.js'
import { ConfigError } from './errors.js'
import { bulk, type Incoming, staged } from './incoming.js'
import { compare, readChanges, type StoredChange } from './plan.js'
import { Reader } from './read.js'
import { Unfit } from './record.js'
import { columnsOf, comparisonOf, configOf, guard, identityOf, type SyncDefinition, showsAll } from './run.js'
import { deliveredEtag, knownFingerprints } from './snapshot.js'
import type { NotModified } from './source.js'
import { StageReader } from './stage.js'
import { openEmbedded } from './state/embedded.js'
import { folderUntilExit } from './state/files.js'
import type { SyncState } from './state/state.js'
import { type AnyRow, differences } from './values.js'

/** One thing that a run would do. */
export interface Change<R = AnyRow> {
  readonly operation: Operation
  /** The values of the record's match fields: one, or a list where there are several; `undefined` without any. */
  readonly match: unknown
  /** What would be sent; of a row that cannot be sent, the row itself. */
  readonly record: R
  /** As the destination has acknowledged it, where it has. */
  readonly before: R | undefined
  /** Fields of which `before` and `record` say different things. */
  readonly fields: readonly string[]
  /** Why the row would be rejected without asking the destination. */
  readonly problem: string | undefined
}

/** What a run would do now. */
export interface Plan<R = AnyRow> {
  readonly sync: string
  /** Rows of the source. */
  readonly rows: number
  /** Rows that the destination does not have yet, as far as is known. */
  readonly insert: number
  readonly update: number
  readonly delete: number
  readonly unchanged: number
  /** Rows of which no record can be made: they would be rejected. */
  readonly unfit: number
  /** Refused so often that they wait for a change of the row, or for a redrive. */
  readonly waiting: number
  /** What is different about the columns of the source since they were last accepted; see `schemaContract`. */
  readonly columns: ColumnChanges
  /** Why the run would stop before it sends anything. */
  readonly stopped: string | undefined
  /** The same for two plans that show the same changes: `run({ plan })` sends just these, or nothing. */
  readonly digest: string
  /** The changes, in the order in which they would be sent; they can be read until the process ends. */
  readonly changes: AsyncIterable<Change<R>>
}

/** Reads the source and compares it with what was delivered, in a folder of its own: nothing is sent, and no state changes. */
export async function preview(definition: SyncDefinition, signal: AbortSignal): Promise<Plan> {
  const { name, folder, mode } = definition
  const identity = identityOf(definition, await configOf(definition))
  const own = await folderUntilExit('plan')
  const scratch = await openEmbedded(own)
  // where nothing ever ran there is no state to look at, and none comes into being
  const kept = existsSync(join(folder, 'state.db')) ? await openEmbedded(folder) : undefined
  try {
    const stage = await scratch.open(name, identity)
    const state = await kept?.look(name, identity)
    try {
      const columns = columnsOf(definition, state ?? stage, { previews: true })
      const incoming = await read(definition, columns, stage, state ?? stage, signal, join(own, 'compared'))
      if (mode === 'append') return previewOfAppend(definition, columns, stage)
      return await previewOfKeyed(definition, columns, incoming, state ?? stage, own)
    } finally {
      await state?.close()
      await stage.close()
    }
  } finally {
    await kept?.close()
    await scratch.close()
  }
}

async function read(
  definition: SyncDefinition,
  columns: Columns,
  stage: SyncState,
  state: SyncState,
  stop: AbortSignal,
  folder: string,
): Promise<Incoming | NotModified> {
  const { name, mode, version } = definition
  const complete = showsAll(definition)
  const compares = mode !== 'append'
  const reader = new Reader({
    ...definition,
    columns,
    state: stage,
    earlier: state,
    stop,
    compares,
    brokenOff: undefined,
  })
  const known = mode === 'replace' ? undefined : knownFingerprints(state)
  const etag = deliveredEtag(state, version)
  if (etag === undefined) await state.intact()
  const atOnce = compares && complete ? await reader.readAtOnce({ folder, version, known, etag }) : undefined
  if (!reader.over) await reader.read(undefined)
  if (!reader.whole) throw new ConfigError(`${name}: the plan was stopped before the source was read to its end`)
  if (atOnce) return bulk(atOnce)
  const fresh = { stage, from: 0, fresh: 0, open: false }
  // what earlier runs staged and did not plan, where it is not the stage itself
  const from = state.plan?.through ?? state.reads[0]?.first ?? state.nextOrdinal
  const before = { stage: state, from, fresh: state.nextOrdinal, open: true }
  return staged(complete || state === stage ? [fresh] : [before, fresh], version)
}

/** Every row that is read is sent. */
function previewOfAppend(definition: SyncDefinition, columns: Columns, stage: SyncState): Plan {
  const rows = stage.nextOrdinal
  const { make, match } = comparisonOf(definition)
  return {
    sync: definition.name,
    rows,
    insert: rows,
    update: 0,
    delete: 0,
    unchanged: 0,
    unfit: 0,
    waiting: 0,
    columns: columns.changes(),
    stopped: columns.problem(),
    digest: 'append',
    changes: {
      async *[Symbol.asyncIterator]() {
        const reader = new StageReader(stage)
        try {
          for (let ordinal = 0; ordinal < rows; ) {
            const chunk = await reader.chunkAt(ordinal)
            for (const row of chunk!.rows) {
              const made = await make(row, '')
              const problem = made instanceof Unfit ? made.problem : undefined
              yield changeOf({ operation: 'insert', record: problem ? row : made, problem, before: undefined }, match)
            }
            ordinal += chunk!.rows.length
          }
        } finally {
          await reader.close()
        }
      },
    },
  }
}

async function previewOfKeyed(
  definition: SyncDefinition,
  columns: Columns,
  incoming: Incoming | NotModified,
  state: SyncState,
  own: string,
): Promise<Plan> {
  const how = comparisonOf(definition)
  const complete = showsAll(definition)
  const spill = join(own, 'spill')
  const file = join(own, 'changes.parquet')
  const database = await openDuckdb(spill)
  try {
    const comparison = await compare({
      ...how,
      state,
      incoming,
      keep: undefined,
      complete,
      full: false,
      database: async () => database,
      folder: join(own, 'compared'),
      again: new Set(),
    })
    await comparison.writeChanges(file)
    const { counts, rows } = comparison
    return {
      sync: definition.name,
      rows,
      insert: counts.insert,
      update: counts.update,
      delete: definition.mode === 'replace' ? comparison.gone : counts.delete,
      // where everything is replaced, what is the same is sent with the rest; with a cursor, what an earlier run left open is
      // no row of this read, and an older row of a key that has a newer one is none that the destination has
      unchanged: complete ? rows - counts.insert - counts.update - counts.unfit - counts.waiting : counts.unchanged,
      unfit: counts.unfit,
      waiting: counts.waiting + counts.waitingDeletes,
      columns: columns.changes(),
      stopped: columns.problem() ?? guard(definition, comparison),
      digest: await comparison.digest(),
      changes: {
        async *[Symbol.asyncIterator]() {
          for await (const change of readChanges(file, spill)) yield changeOf(change, how.match)
        },
      },
    }
  } finally {
    await database.close()
  }
}

function changeOf({ operation, record, problem, before }: StoredChange, match: readonly string[]): Change {
  const values = match.map((field) => record[field])
  return {
    operation,
    match: values.length > 1 ? values : values[0],
    record,
    before,
    fields: before && operation !== 'delete' && problem === undefined ? differences(before, record) : [],
    problem,
  }
}
