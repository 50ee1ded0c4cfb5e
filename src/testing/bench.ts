import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { type Definition, definitionOf, type Operation, operationsOf, type Policy } from '../destination.js'
import type { Log } from '../log.js'
import type { Run, RunOptions } from '../run.js'
import type { ApiRequest, Fault } from '../sandbox/server.js'
import { type DeadLetter, type Mode, type SyncStatus, sync } from '../sync.js'
import { type AnyRow, canonical } from '../values.js'
import type { Place } from './place.js'

/** The mode in which a run does an operation. */
const modes: Record<Operation, Mode> = {
  insert: 'append',
  update: 'update',
  upsert: 'upsert',
  delete: 'mirror',
  replace: 'replace',
}

/** What came of a run. */
export interface Ended {
  readonly run: Run | undefined
  /** Why it failed. */
  readonly error: Error | undefined
  /** How the sync stands afterwards. */
  readonly status: SyncStatus
  /** The rows that were refused. */
  readonly letters: readonly DeadLetter<AnyRow, unknown>[]
}

/** What was expected, what was seen instead, and where to look. */
export interface Failure {
  readonly expected: string
  readonly seen: string
  readonly look: string
}

interface Sending extends RunOptions {
  /** A sync of its own by default: with the name of one before, that one's next run. */
  readonly name?: string | undefined
  readonly policy?: Policy
  readonly operation?: Operation
}

/** One place, the operation that is tried at it, and the runs that write to it. */
export class Bench {
  readonly place: Place
  readonly operation: Operation
  readonly definition: Definition
  /** The fields of the key. */
  readonly key: readonly string[]
  /** What the runs have logged. */
  readonly logged: string[] = []
  readonly #rule: string
  #folder: Promise<string> | undefined
  #syncs = 0

  constructor(place: Place, operation: Operation, rule: string) {
    this.place = place
    this.operation = operation
    this.definition = definitionOf(place.to, 'conformance(): open')
    this.key = [place.key ?? this.definition.match ?? 'id'].flat()
    this.#rule = rule
  }

  /** The folder of the runs' state. */
  get folder(): Promise<string> {
    this.#folder ??= mkdtemp(join(tmpdir(), 'spillway-conformance-'))
    return this.#folder
  }

  async close(): Promise<void> {
    await this.place.close?.()
    if (this.#folder) await rm(await this.#folder, { recursive: true, force: true })
  }

  // ---- sending ---------------------------------------------------------------------------------------------------

  /** Records 0, 1, 2, … in a version. */
  records(count: number, version = 0): AnyRow[] {
    return Array.from({ length: count }, (_, n) => this.place.record(n, version))
  }

  /**
   * Gets the place ready for the operation, and gives rows whose run makes exactly `count` changes by it; afterwards just these rows are
   * there. `name` is that of the sync to send them with.
   */
  async ready(count: number): Promise<{ readonly rows: AnyRow[]; readonly name: string }> {
    const name = this.#newName()
    if (this.operation === 'update') {
      await this.seed(this.records(count))
      return { rows: this.records(count, 1), name }
    }
    if (this.operation === 'delete') {
      const all = this.records(2 * count)
      this.#succeeded(await this.send(all, { name }), 'the records to be deleted are there')
      return { rows: all.filter((_, n) => n % 2 === 1), name }
    }
    return { rows: this.records(count), name }
  }

  /** Puts records there, as another would. Answers the sync that must change them, where only the one that wrote them can. */
  async seed(records: readonly AnyRow[]): Promise<string | undefined> {
    if (this.place.seed) return void (await this.place.seed(records))
    const name = this.byReceipt && this.operation === 'upsert' ? this.#newName() : undefined
    const operation = this.definition.handlers.insert && name === undefined ? 'insert' : 'upsert'
    const policy = { batchSize: this.definition.policy.batchSize }
    this.#succeeded(
      await this.send(records, { operation, name, policy }),
      'the records that the rule begins with are there',
    )
    return name
  }

  /** Puts an object with the key of a bad record there, and answers it; none, when the key alone is refused. */
  async seedBeside(bad: AnyRow): Promise<AnyRow[]> {
    const good = { ...this.place.record(1000, 0), ...Object.fromEntries(this.key.map((field) => [field, bad[field]])) }
    if (this.place.seed) await this.place.seed([good])
    else if ((await this.send([good], { operation: 'insert' })).run?.delivered !== 1) return []
    return [good]
  }

  /** One run. Small batches, and no waiting for requests that land late, where none does. */
  async send(rows: readonly AnyRow[], sending: Sending = {}): Promise<Ended> {
    const { name = this.#newName(), policy, operation = this.operation, ...options } = sending
    const one = await this.sync(name, rows, operation, policy)
    let run: Run | undefined
    let error: Error | undefined
    try {
      run = await one.run({ allowDeletes: true, ...options })
    } catch (thrown) {
      error = thrown instanceof Error ? thrown : new Error(`something that is no Error was thrown: ${inspect(thrown)}`)
    }
    if (run) this.#addsUp(run)
    const status = await one.status()
    const letters: DeadLetter<AnyRow, unknown>[] = []
    if (status.deadLetters > 0) for await (const letter of one.deadLetters()) letters.push(letter)
    return { run, error, status, letters }
  }

  /** The sync of that name. */
  async sync(name: string, rows: readonly AnyRow[], operation: Operation, policy: Policy = {}) {
    const { batchSize, rate, timeout } = this.definition.policy
    const quick: Policy = {
      batchSize: Math.min(3, batchSize),
      settle: '1ms',
      timeout: `${Math.min(timeout, 30_000)}ms`,
      retryFor: '30s',
      ...(rate && { rate: '1000/s' }),
    }
    const mode = modes[operation]
    const options = {
      name,
      from: rows,
      to: this.place.to.with({ ...quick, ...policy }),
      mode,
      state: await this.folder,
      log: this.#log(),
      ...(mode !== 'append' && mode !== 'replace' && { key: this.key }),
    }
    // which modes the destination can serve is known only here
    return sync(options as never)
  }

  #newName(): string {
    return `conformance ${++this.#syncs}`
  }

  #log(): Log {
    const line = (...said: unknown[]) => void this.logged.push(inspect(said, { depth: 9 }))
    return { debug: line, info: line, warn: line, error: line }
  }

  // ---- letting go wrong --------------------------------------------------------------------------------------------

  /** The next requests that write go wrong. */
  fail(fault: Fault): void {
    this.place.faults!.next({ when: (request) => this.writes(request), ...fault } as Fault)
  }

  /** Tells every request from now on, before faults that are asked for later meet it. */
  watch(seen: (request: ApiRequest) => void): void {
    const when = (request: ApiRequest) => {
      seen(request)
      return false
    }
    this.place.faults!.next({ kind: 'cut', times: Number.POSITIVE_INFINITY, when })
  }

  writes(request: ApiRequest): boolean {
    return this.place.writes?.(request) ?? !['GET', 'HEAD'].includes(request.method)
  }

  /** Whether this is the operation that stands for all, where something need not be tried for each. */
  get first(): boolean {
    return this.operation === operationsOf(this.definition.handlers)[0]
  }

  /** Whether objects are found by their receipts alone, which only the sync that wrote them has. */
  get byReceipt(): boolean {
    return findsByReceipt(this.definition)
  }

  /** Whether the destination promises that a write whose answer was lost is not done twice. */
  get repeats(): boolean {
    const { handlers, idempotent, replaySafe } = this.definition
    const safe = this.operation !== 'insert' && replaySafe
    return safe || handlers.verify !== undefined || idempotent !== undefined
  }

  // ---- what must be ------------------------------------------------------------------------------------------------

  /** Breaks the rule. */
  fails({ expected, seen, look }: Failure): never {
    throw new Error(
      `${this.definition.name} breaks the rule "${this.#rule}" (${this.operation})\n  expected: ${expected}\n  seen: ${seen}\n  look at: ${look}; destinations/README.md says more`,
    )
  }

  /** Breaks the rule unless the run did all that it was to do. */
  done(ended: Ended, count: number, look: string): void {
    const delivered = this.delivered(ended)
    if (ended.run?.status === 'done' && delivered === count) return
    this.fails({ expected: `a run that is done, with ${count} delivered`, seen: this.told(ended), look })
  }

  /** How many a run says that it has delivered by the operation, of rows that an earlier one left open too. */
  delivered({ run }: Ended): number {
    if (!run) return 0
    return run.resumed.delivered + (this.operation === 'delete' ? run.deletes : run).delivered
  }

  /** Breaks the rule unless just these records are there, each once; `spare` of them may be there twice. */
  async there(records: readonly AnyRow[], look: string, spare = 0): Promise<void> {
    const { missing, twice, strange } = await this.compare(records)
    if (missing.length === 0 && strange.length === 0 && twice.length <= spare) return
    const some = (what: string, list: readonly AnyRow[]) =>
      list.length === 0 ? [] : [`${list.length} ${what}, the first ${inspect(list[0], { breakLength: 200 })}`]
    this.fails({
      expected: `just the ${records.length} records at the destination, each once`,
      seen: [...some('missing', missing), ...some('there twice', twice), ...some('not among them', strange)].join('; '),
      look,
    })
  }

  /** Which records are missing there, which are there more than once, and what is there beside them. */
  async compare(records: readonly AnyRow[]): Promise<{ missing: AnyRow[]; twice: AnyRow[]; strange: AnyRow[] }> {
    const left = new Set(await this.place.read())
    const indexes = new Map<string, Map<string, AnyRow[]>>()
    const missing: AnyRow[] = []
    const copies = new Set<AnyRow>()
    for (const record of records) {
      const wanted = this.place.held?.(record) ?? record
      const fields = Object.keys(wanted)
      const index = indexes.get(fields.join('\n')) ?? grouped(left, fields)
      indexes.set(fields.join('\n'), index)
      const alike = index.get(textOf(wanted, fields)) ?? []
      const found = alike.find((one) => left.has(one))
      if (found) left.delete(found)
      else missing.push(wanted)
      for (const one of alike) copies.add(one)
    }
    const rest = [...left]
    return {
      missing,
      twice: rest.filter((one) => copies.has(one)),
      strange: rest.filter((one) => !copies.has(one)),
    }
  }

  /** The texts of records that must not show up outside them: long enough not to be there by chance. */
  contents(records: readonly AnyRow[]): string[] {
    const texts = (value: unknown): string[] => {
      if (typeof value === 'string') return value.length >= 8 ? [value] : []
      return value !== null && typeof value === 'object' ? Object.values(value).flatMap(texts) : []
    }
    return records.flatMap((record) =>
      Object.entries(record).flatMap(([field, value]) => (this.key.includes(field) ? [] : texts(value))),
    )
  }

  /** What a run told, for a failure. */
  told({ run, error, letters }: Ended): string {
    if (error) return `a run that failed: ${error.message}`
    const { status, delivered, rejected, pending, unknown, reason } = run!
    const counts = `${delivered} delivered, ${rejected} rejected, ${pending} pending, ${unknown} unknown`
    return [
      `a run that is ${status}: ${counts}`,
      ...(reason ? [reason] : []),
      ...letters.map((letter) => `rejected: ${inspect(letter.row)}, ${letter.reason}`),
    ].join('; ')
  }

  /** What the state of the runs has on disk, file by file. */
  async files(): Promise<{ readonly name: string; readonly bytes: Buffer }[]> {
    const folder = await this.folder
    const entries = await readdir(folder, { recursive: true, withFileTypes: true })
    const files: { name: string; bytes: Buffer }[] = []
    for (const { parentPath, name } of entries.filter((entry) => entry.isFile())) {
      try {
        files.push({ name, bytes: await readFile(join(parentPath, name)) })
      } catch (error) {
        // SQLite puts its log away, whose content is then in the database
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      }
    }
    return files
  }

  #succeeded(ended: Ended, what: string): void {
    if (ended.run?.status === 'done' && ended.run.rejected === 0) return
    this.fails({ expected: what, seen: this.told(ended), look: 'the rules before this one' })
  }

  #addsUp({ deletes, resumed, ...run }: Run): void {
    for (const { rows, delivered, unchanged, rejected, pending, unknown, superseded } of [run, deletes, resumed]) {
      if (rows === delivered + unchanged + rejected + pending + unknown + superseded) continue
      this.fails({
        expected: `that the results add up to ${rows} rows`,
        seen: inspect({ delivered, unchanged, rejected, pending, unknown, superseded }),
        look: 'what the handler answers for each record',
      })
    }
  }
}

/** Whether a destination says that no field tells which object a record means. */
export function findsByReceipt({ match }: Definition): boolean {
  return match?.length === 0
}

function grouped(records: Iterable<AnyRow>, fields: readonly string[]): Map<string, AnyRow[]> {
  const groups = new Map<string, AnyRow[]>()
  for (const record of records) {
    const text = textOf(record, fields)
    const group = groups.get(text)
    if (group) group.push(record)
    else groups.set(text, [record])
  }
  return groups
}

/** One text for what a record says in some fields; null is the same as absent. */
function textOf(record: AnyRow, fields: readonly string[]): string {
  return canonical(Object.fromEntries(fields.map((field) => [field, record[field] ?? undefined])))
}
