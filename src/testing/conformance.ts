import { inspect } from 'node:util'
import { type Definition, definitionOf, type MaybePromise, type Operation, operationsOf } from '../destination.js'
import { ConfigError } from '../errors.js'
import { Bench } from './bench.js'
import type { Place } from './place.js'
import { type Law, laws } from './rules.js'

/** A rule that a destination keeps. */
export interface Rule {
  readonly level: 'MUST' | 'SHOULD'
  /** A sentence. */
  readonly name: string
  /** Rejects when the destination breaks the rule, saying what was expected, what was seen and where to look. */
  run(): Promise<void>
}

/** A rule that does not apply, and why. */
export interface LeftOut {
  readonly level: 'MUST' | 'SHOULD'
  readonly name: string
  readonly because: string
}

/** What is tried. */
export interface Trial {
  /** Opens a place. Each rule opens one for each operation that it is about. */
  readonly open: () => MaybePromise<Place>
  /** The rules that the service does not let the destination keep, by their names, and why: they are left out. @default none */
  readonly except?: Readonly<Record<string, string>> | undefined
}

/** The rules that apply to a destination, and those that do not. */
export interface Conformance {
  readonly rules: readonly Rule[]
  /** Rules that nobody has tried: for want of an operation, of something that the {@link Place} could tell, or by `except`. */
  readonly leftOut: readonly LeftOut[]
}

/**
 * The rules for destinations, for any test runner, one after the other or at the same time. Each opens places of its own, one for
 * each operation that it is about, and sends to them as a run would; destinations/README.md tells what each rule is for. `open` is
 * called once in advance, to see what the destination can do: the rules for what it cannot are left out, and listed.
 *
 * @throws ConfigError when what `open` gives cannot be tested, or `except` names no rule.
 *
 * @example
 * ```ts
 * const { rules, leftOut } = await conformance({
 *   async open() {
 *     const box = await sandbox()
 *     const { id } = box.sheets.create({ tabs: { People: [] } })
 *     return {
 *       to: googleSheets({ spreadsheet: id, tab: 'People', endpoint: box.url, token: box.sheets.token }),
 *       record: (n, version) => ({ id: n, name: `person ${n}, ${version}` }),
 *       read: () => {
 *         const [header = [], ...rows] = box.sheets.rows(id, 'People')
 *         return rows.map((row) => Object.fromEntries(header.map((name, column) => [name, row[column]])))
 *       },
 *       faults: box.faults,
 *       secrets: [box.sheets.token],
 *       close: () => box.close(),
 *     }
 *   },
 * })
 * for (const rule of rules) test(rule.name, rule.run)
 * ```
 */
export async function conformance({ open, except = {} }: Trial): Promise<Conformance> {
  for (const name of Object.keys(except)) {
    if (!laws.some((law) => law.name === name)) {
      throw new ConfigError(`conformance(): except: no rule is named ${JSON.stringify(name)}`)
    }
  }
  const first = await open()
  try {
    const definition = definitionOf(first.to, 'conformance(): open')
    checkPlace(first, definition)
    const rules: Rule[] = []
    const leftOut: LeftOut[] = []
    for (const law of laws) {
      const { level, name } = law
      const those = law.operations.filter((operation) => canTry(operation, definition))
      const operations = law.once ? those.slice(0, 1) : those
      const because =
        operations.length === 0
          ? `${definition.name} has no ${law.operations.join(', ')}`
          : (except[name] ?? law.lacks?.(first, definition))
      if (because !== undefined) leftOut.push({ level, name, because })
      else rules.push({ level, name, run: () => run(law, operations, open) })
    }
    return { rules, leftOut }
  } finally {
    await first.close?.()
  }
}

/** Deletes come of a sync in `mirror`, which must be able to write first. */
function canTry(operation: Operation, { handlers }: Definition): boolean {
  const can = operationsOf(handlers)
  return can.includes(operation) && (operation !== 'delete' || can.includes('upsert'))
}

/** Each operation has a place of its own. */
async function run(law: Law, operations: readonly Operation[], open: () => MaybePromise<Place>): Promise<void> {
  const benches = await Promise.all(
    operations.map(async (operation) => new Bench(await open(), operation, `${law.level}: ${law.name}`)),
  )
  const deaf = law.listens && listen((line) => benches.forEach(({ logged }) => void logged.push(line)))
  const tried = await Promise.allSettled(
    benches.map((bench) => Promise.resolve(law.check(bench)).finally(() => bench.close())),
  )
  deaf?.()
  const broken = tried.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []))
  if (broken.length > 1) throw new AggregateError(broken, broken.map((error) => (error as Error).message).join('\n\n'))
  if (broken.length === 1) throw broken[0]
}

const hearers = new Set<(line: string) => void>()
let deafen: (() => void) | undefined

/** Takes what is printed to the console, where SDKs have loggers of their own, until the answer is called. */
function listen(hear: (line: string) => void): () => void {
  hearers.add(hear)
  deafen ??= overhear()
  return () => {
    hearers.delete(hear)
    if (hearers.size > 0) return
    deafen?.()
    deafen = undefined
  }
}

/** One for all rules that listen at the same time: each would take the place of another's. */
function overhear(): () => void {
  const levels = ['debug', 'log', 'info', 'warn', 'error'] as const
  const before = levels.map((level) => console[level])
  for (const level of levels) {
    console[level] = (...said: unknown[]) => {
      for (const hear of hearers) hear(inspect(said, { depth: 12 }))
    }
  }
  return () =>
    levels.forEach((level, index) => {
      console[level] = before[index]!
    })
}

function checkPlace(place: Place, { name }: Definition): void {
  const wrong = (problem: string) => new ConfigError(`conformance(): the place of ${name}: ${problem}`)
  const bench = new Bench(place, 'insert', '')
  if (bench.contents([place.record(0, 0)]).length === 0) {
    throw wrong('record() gives no text of eight characters or more outside its key, by which a leak could be told')
  }
  if (JSON.stringify(place.record(1, 0)) === JSON.stringify(place.record(1, 1))) {
    throw wrong('record(1, 0) and record(1, 1) are alike: the version must change its content')
  }
  if (place.secrets.includes('')) throw wrong('one of its secrets is empty')
}
