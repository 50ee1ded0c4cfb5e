import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { DuckDBValue } from '@duckdb/node-api'
import { redact } from './config.js'
import type { ListContext } from './destination.js'
import { copyTo, countOf, type Duckdb, fill, openDuckdb, rowsOf, streamedRows } from './duckdb.js'
import { ConfigError, FatalError, SpillwayError } from './errors.js'
import { createHttp } from './http.js'
import { fullJitter, Pace, retrying } from './pace.js'
import { untilAborted } from './read.js'
import { comparisonOf, configOf, identityOf, type SyncDefinition, showsAll } from './run.js'
import { loadSnapshot } from './snapshot.js'
import { literal } from './sources/sql.js'
import { openEmbedded } from './state/embedded.js'
import { folderUntilExit } from './state/files.js'
import type { SyncState } from './state/state.js'
import { type AnyRow, canonical, decodeTexts, describe, keyOf, losslessText, RowError } from './values.js'
import { judge, messageOf } from './verdict.js'

// What the destination lists is joined with what it has acknowledged by an embedded DuckDB, which spills to disk: neither has to
// fit in memory.
//
//   delivered  key · match · record · held (the record as the destination would list it) · dirty
//   expected   those of it of which something is certain
//   listed     what the destination gave: place · match · record
//   compared   what is not the same letter by letter: place · fields that differ
//   pair       each listed object beside what it should be, if anything; of several for one, the first `turn` stands for it
//
// drift.parquet: place · kind · expected · found · fields · reason, in the order of place.

/** Something that is not at the destination as it was delivered. */
export interface Difference<R = AnyRow> {
  /** It is not there any more; a field of it has another value; or it is there and was not delivered. */
  readonly kind: 'missing' | 'different' | 'unexpected'
  /** The values of the match fields: one, or a list where there are several. */
  readonly match: unknown
  /** The record as it was delivered; `undefined` of what is unexpected. */
  readonly expected: R | undefined
  /** The object as the destination lists it; `undefined` when it is missing. */
  readonly found: AnyRow | undefined
  /** The delivered fields that have another value now. */
  readonly fields: readonly string[]
  /** Why an object counts as unexpected although its match value is known, or has none. */
  readonly reason: string | undefined
}

/** What has become, at the destination, of what was delivered. */
export interface Drift<R = AnyRow> {
  readonly sync: string
  /** Objects that are there as far as is known: `same + missing + different`. */
  readonly known: number
  readonly same: number
  readonly missing: number
  readonly different: number
  /** Objects that this sync did not put there. */
  readonly unexpected: number
  /** Keys of which nothing is certain, because an answer was lost. The next run sends them again; they are not compared. */
  readonly dirty: number
  /**
   * How to put it right; `undefined` when nothing has drifted. What is unexpected counts in `mirror` and `replace`, and where it
   * has the match value of what was delivered; elsewhere other objects belong to somebody else.
   */
  readonly remedy: string | undefined
  /** What is missing, then what is different, then what is unexpected; it can be read until the process ends. */
  readonly differences: AsyncIterable<Difference<R>>
}

/** Compares what the destination lists with what it has acknowledged: nothing is sent, and no state changes. */
export async function verify(definition: SyncDefinition, signal: AbortSignal): Promise<Drift> {
  const match = matchOf(definition)
  const config = await configOf(definition)
  const { name, folder } = definition
  const own = await folderUntilExit('verify')
  // where nothing ever ran there is no state to look at, and none comes into being
  const kept = existsSync(join(folder, 'state.db')) ? await openEmbedded(folder) : undefined
  try {
    const state = await kept?.look(name, identityOf(definition, config))
    try {
      return await driftOf(new Listing(definition, config, match, signal), state, own)
    } finally {
      await state?.close()
    }
  } catch (error) {
    await rm(own, { recursive: true, force: true })
    throw error
  } finally {
    await kept?.close()
  }
}

/** By which fields an object is told from another. @throws ConfigError where there is nothing to compare. */
function matchOf(definition: SyncDefinition): readonly string[] {
  const { name, mode, destination } = definition
  const wrong = (problem: string): ConfigError => new ConfigError(`${name}: ${problem}`)
  if (mode === 'append') {
    throw wrong('append knows no objects, so there is nothing to verify; give a key and a keyed mode')
  }
  const { match } = comparisonOf(definition)
  if (match.length === 0) throw wrong('without a key no object is told from another; give a key, which names a column')
  if (!destination.handlers.list) {
    const again = mode === 'insert' ? '' : `, or ${sendAgain(definition)} without looking`
    throw wrong(`${destination.name} cannot list what it holds: give it the handler list${again}`)
  }
  return match
}

/** How everything is sent again; with a cursor, or from a source that is read once, a run sees only what is new. */
function sendAgain(definition: SyncDefinition): string {
  const { name } = definition
  return showsAll(definition)
    ? `send everything again with full (spillway run ${name} --full)`
    : `forget what was delivered with reset (spillway reset ${name}) and run it again`
}

async function driftOf(listing: Listing, state: SyncState | undefined, own: string): Promise<Drift> {
  const database = await openDuckdb(join(own, 'spill'))
  const { connection } = database
  const { definition, match } = listing
  const { name } = definition
  try {
    if (state) await loadSnapshot(connection, state)
    await loadDelivered(database, listing, state !== undefined)
    await listing.load(database)
    await compareFields(database, name)
    const fields = literal(match.join(', '))
    await connection.run(`
      create table pair as
        select l.place, l.match, l.record, e.record as expected, coalesce(c.fields, '[]') as fields,
          row_number() over (partition by l.match order by coalesce(c.fields, '[]') <> '[]', l.place) as turn
        from listed l left join expected e on l.match = e.match left join compared c on l.place = c.place
        where l.match is null or l.match not in (from uncertain);
      create table difference as
        select 1 as rank, 0 as place, 'missing' as kind, key, record as expected, null as found, '[]' as fields, null as reason
          from expected where match not in (select match from pair where match is not null)
        union all
        select 2, place, 'different', null, expected, record, fields, null
          from pair where expected is not null and turn = 1 and fields <> '[]'
        union all
        select 3, place, 'unexpected', null, null, record, '[]',
            case when match is null then 'it has no ' || ${fields} || ', by which objects are found'
              when turn > 1 then 'another object has the same ' || ${fields} end
          from pair where expected is null or turn > 1`)
    const kind = (kind: string): Promise<number> => countOf(connection, `difference where kind = '${kind}'`)
    const counts = {
      known: await countOf(connection, 'expected'),
      same: await countOf(connection, `pair where expected is not null and turn = 1 and fields = '[]'`),
      missing: await kind('missing'),
      different: await kind('different'),
      unexpected: await kind('unexpected'),
      dirty: (await countOf(connection, 'delivered')) - (await countOf(connection, 'expected')),
    }
    const doubled = await countOf(connection, 'pair where expected is not null and turn > 1')
    const [mean] = await rowsOf<{ bytes: number | null }>(
      connection,
      'select avg(strlen(concat(expected, found))) as bytes from difference',
    )
    const file = join(own, 'drift.parquet')
    await copyTo(
      connection,
      file,
      `select row_number() over (order by rank, place, key) as place, kind, expected, found, fields, reason from difference order by 1`,
      { rowBytes: mean!.bytes ?? 0, ordered: true },
    )
    return {
      sync: name,
      ...counts,
      remedy: remedyOf(definition, counts, doubled),
      differences: {
        [Symbol.asyncIterator]: () => readDifferences(file, join(own, 'spill'), match),
      },
    }
  } finally {
    await database.close()
  }
}

/** What the snapshot says is there, and of what of it something is certain. */
async function loadDelivered(database: Duckdb, listing: Listing, ran: boolean): Promise<void> {
  const { connection } = database
  const there = ran ? 'snapshot where (known or dirty) and record is not null' : undefined
  await connection.run(
    'create table delivered (key varchar, match varchar, record varchar, held varchar, dirty boolean)',
  )
  if (there && !listing.holdsOtherwise) {
    await connection.run(`insert into delivered select key, match, record, record, dirty from ${there}`)
  } else if (there) {
    await fill(connection, 'delivered', heldOf(database, listing, there))
    await refuseGaps(database, listing.definition.name, there, 'delivered')
  }
  await connection.run(`
    create table uncertain as select match from delivered where dirty and match is not null;
    create table expected as
      select key, match, record, held from delivered where not dirty and (match is null or match not in (from uncertain))`)
  const { definition, match } = listing
  const lost = await countOf(connection, 'expected where match is null')
  if (lost > 0) {
    throw new ConfigError(
      `${definition.name}: ${lost} of the records delivered have no ${match.join(', ')} at ${definition.destination.name}, so that they cannot be found there: have map keep it`,
    )
  }
  const shared = await countOf(connection, '(from expected qualify count(*) over (partition by match) > 1)')
  if (shared > 0) {
    throw new ConfigError(
      `${definition.name}: ${shared} of the records delivered share their ${match.join(', ')} with another, so that one cannot be told from the other: give a match, or a key, that differs`,
    )
  }
}

interface Delivered {
  readonly key: string
  readonly record: string
  readonly dirty: boolean
}

async function* heldOf(
  database: Duckdb,
  listing: Listing,
  there: string,
): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
  for await (const rows of streamedRows<Delivered>(database, `select key, record, dirty from ${there}`)) {
    yield rows.map(({ key, record, dirty }) => {
      const [match, held] = listing.kept(listing.held(decodeTexts([record])[0]!), 'held')
      return [key, match, record, held, dirty]
    })
  }
}

/** A stream that fails half-way just ends, and what it did not give would count as missing. */
async function refuseGaps({ connection }: Duckdb, name: string, asked: string, got: string): Promise<void> {
  if ((await countOf(connection, asked)) !== (await countOf(connection, got))) {
    throw new Error(`${name}: the comparison with the destination was cut short`)
  }
}

/** Which of the delivered fields have another value; only of what is not the same letter by letter. */
async function compareFields(database: Duckdb, name: string): Promise<void> {
  const pairs = 'expected e join listed l on e.match = l.match where e.held <> l.record'
  await database.connection.run('create table compared (place integer, fields varchar)')
  await fill(database.connection, 'compared', differing(database, pairs))
  await refuseGaps(database, name, pairs, 'compared')
}

async function* differing(database: Duckdb, pairs: string): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
  for await (const rows of streamedRows<{ place: number; held: string; record: string }>(
    database,
    `select l.place, e.held, l.record from ${pairs}`,
  )) {
    yield rows.map(({ place, held, record }) => {
      const [expected, found] = decodeTexts([held, record]) as [AnyRow, AnyRow]
      // others belong to somebody else
      const delivered = Object.keys(expected)
      return [
        place,
        JSON.stringify(delivered.filter((field) => canonical(expected[field]) !== canonical(found[field]))),
      ]
    })
  }
}

/** What the destination is asked, and how. */
class Listing {
  readonly definition: SyncDefinition
  readonly match: readonly string[]
  readonly #config: unknown
  readonly #signal: AbortSignal
  readonly #pace: Pace
  readonly #context: ListContext

  constructor(definition: SyncDefinition, config: unknown, match: readonly string[], signal: AbortSignal) {
    this.definition = definition
    this.match = match
    this.#config = config
    this.#signal = signal
    this.#pace = new Pace(definition.destination.policy)
    this.#context = this.#contextOf(1)
  }

  /** Whether records come back in another form. */
  get holdsOtherwise(): boolean {
    return this.definition.destination.handlers.held !== undefined
  }

  /** A record as the destination would list it. */
  held(record: AnyRow): unknown {
    return this.definition.destination.handlers.held!(record, this.#context)
  }

  /** Fills the table `listed`. A listing that breaks off and may work later begins again. */
  async load({ connection }: Duckdb): Promise<void> {
    const { name, destination } = this.definition
    const call = { actor: destination.name, atomic: true, writes: 0 }
    try {
      await retrying(
        async (attempt) => {
          await connection.run('create or replace table listed (place integer, match varchar, record varchar)')
          await fill(connection, 'listed', this.#lines(attempt))
        },
        {
          budget: destination.policy.retryFor,
          signal: this.#signal,
          wait(error, attempt) {
            const verdict = judge(error, call, Date.now())
            return verdict.kind === 'again' ? Math.max(verdict.after ?? 0, fullJitter(attempt)) : undefined
          },
        },
      )
    } catch (error) {
      this.#signal.throwIfAborted()
      if (error instanceof SpillwayError) throw error
      throw new FatalError(
        `${name}: ${destination.name} could not be listed: ${redact(messageOf(error))}. Nothing was changed`,
        { cause: error },
      )
    }
  }

  async *#lines(attempt: number): AsyncGenerator<readonly (readonly DuckDBValue[])[]> {
    let place = 0
    let lines: DuckDBValue[][] = []
    for await (const objects of untilAborted(this.#objects(attempt), this.#signal)) {
      for (const object of objects) lines.push([place++, ...this.kept(object, 'list')])
      if (lines.length < 2_048) continue
      yield lines
      lines = []
    }
    this.#signal.throwIfAborted()
    yield lines
  }

  async *#objects(attempt: number): AsyncGenerator<readonly unknown[]> {
    const { handlers, name } = this.definition.destination
    const listed: unknown = await handlers.list!(this.#contextOf(attempt))
    if (!isIterable(listed)) {
      throw new FatalError(
        `${name}: list gave ${describe(listed)}; it must give objects, or arrays of them, in any iterable`,
      )
    }
    for await (const item of listed) yield Array.isArray(item) ? item : [item]
  }

  /** What an object has in its match fields, and all of it, as they are kept. */
  kept(object: unknown, handler: 'list' | 'held'): [match: string | null, record: string] {
    const { name } = this.definition.destination
    if (object === null || typeof object !== 'object' || Array.isArray(object)) {
      throw new FatalError(
        `${name}: ${handler} gave ${describe(object)} where an object with the fields of its records was expected`,
      )
    }
    try {
      return [keyOf(object, this.match) ?? null, losslessText(object)]
    } catch (error) {
      if (!(error instanceof RowError)) throw error
      throw new FatalError(`${name}: ${handler} gave an object that ${error.problem}`)
    }
  }

  #contextOf(attempt: number): ListContext {
    const { name, destination, log } = this.definition
    const signal = this.#signal
    return {
      config: this.#config as object,
      match: this.match,
      attempt,
      signal,
      log,
      sync: name,
      http: createHttp({
        actor: destination.name,
        signal,
        timeout: destination.policy.timeout,
        retryReads: { budget: destination.policy.retryFor },
        onRequest: (writes) => {
          if (!writes) return this.#pace.slot(signal)
          throw new ConfigError(
            `${destination.name}: list made a request that may write; give one that only reads, such as a search, \`read: true\``,
          )
        },
      }),
    }
  }
}

function isIterable(value: unknown): value is Iterable<unknown> | AsyncIterable<unknown> {
  return value !== null && typeof value === 'object' && (Symbol.iterator in value || Symbol.asyncIterator in value)
}

/** `doubled`: unexpected objects that have the match value of what was delivered. */
function remedyOf(
  definition: SyncDefinition,
  { missing, different, unexpected }: Pick<Drift, 'missing' | 'different' | 'unexpected'>,
  doubled: number,
): string | undefined {
  const { mode } = definition
  const strays = mode === 'mirror' || mode === 'replace' ? unexpected : doubled
  const changed = missing + different > 0
  if (mode === 'replace' && (changed || strays > 0)) return sendAgain(definition)
  const steps: string[] = []
  if (changed) {
    steps.push(mode === 'insert' ? 'insert sends nothing twice: put it right by hand' : sendAgain(definition))
  }
  if (strays > 0) steps.push('no run takes away what is unexpected: look at it there')
  return steps.length > 0 ? steps.join('; ') : undefined
}

interface StoredDifference {
  readonly kind: Difference['kind']
  readonly expected: string | null
  readonly found: string | null
  readonly fields: string
  readonly reason: string | null
}

async function* readDifferences(
  file: string,
  spill: string,
  match: readonly string[],
): AsyncGenerator<Difference, void, undefined> {
  const database = await openDuckdb(spill)
  try {
    for await (const rows of streamedRows<StoredDifference>(
      database,
      `select kind, expected, found, fields, reason from read_parquet(${literal(file)}) order by place`,
    )) {
      for (const { kind, fields, reason, ...texts } of rows) {
        const expected = recordOf(texts.expected)
        const found = recordOf(texts.found)
        const values = match.map((field) => (expected ?? found)?.[field])
        yield {
          kind,
          match: values.length > 1 ? values : values[0],
          expected,
          found,
          fields: JSON.parse(fields) as string[],
          reason: reason ?? undefined,
        }
      }
    }
  } finally {
    await database.close()
  }
}

function recordOf(text: string | null): AnyRow | undefined {
  return text === null ? undefined : decodeTexts([text])[0]
}
