import fc from 'fast-check'
import { type Context, FatalError, type Outcome, RejectedError, reject, retry, unknown } from '../../src/index.js'
import type { Death } from './death.js'
import { failAtOnce } from './model.js'

// A destination that holds objects, for the histories of the modes that send only what has changed: its answers are lost, come
// late or come to nothing, and it complains about what must never happen.

/** A record as the destination gets it. Of a delete, only the field by which the object is found is there. */
export interface Entry {
  readonly id: number
  /** Another field by which objects may be found. */
  readonly email?: number | null
  readonly value: number
  /** What the map that made it adds. */
  readonly by: string
}

/** What the destination does with one call. */
export type Behaviour =
  | { readonly kind: 'ok' | 'retryable' | 'fatal' | 'malformed, applied' | 'malformed' }
  | { readonly kind: 'busy'; readonly after: number | undefined }
  | { readonly kind: 'breaks'; readonly status: number | undefined; readonly applied: boolean }
  /** No answer. It takes effect when so many further calls have, if that is soon enough; or never. */
  | { readonly kind: 'silent'; readonly lands: number | undefined }
  /** An answer after the time is up. */
  | { readonly kind: 'late' }
  | { readonly kind: 'rows'; readonly says: readonly Said[] }
  | { readonly kind: 'refuses the batch' }

/** What is said of one row. */
type Said = 'ok' | 'retry' | 'refused' | 'unknown' | 'unknown, applied'

/** Milliseconds, all on the fake clock. */
export const timing = { latency: 10, timeout: 1_000, settle: 10_000, retryFor: 15_000 } as const

/** The same for the options of `destination`. */
export const policy = {
  timeout: `${timing.timeout}ms`,
  settle: `${timing.settle}ms`,
  retryFor: `${timing.retryFor}ms`,
} as const

const lost: fc.Arbitrary<Behaviour> = fc.oneof(
  fc.record({
    kind: fc.constant('breaks' as const),
    status: fc.constantFrom(undefined, 408, 500, 503),
    applied: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('silent' as const), lands: fc.constantFrom(undefined, 0, 1, 2, 4) }),
  fc.constant({ kind: 'late' as const }),
)
const rowByRow = (...says: Said[]): fc.Arbitrary<Behaviour> =>
  fc.record({
    kind: fc.constant('rows' as const),
    says: fc.array(fc.constantFrom(...says), { minLength: 1, maxLength: 3 }),
  })
const refused = fc.oneof(fc.constant({ kind: 'refuses the batch' as const }), rowByRow('ok', 'refused'))
const once: fc.Arbitrary<Behaviour> = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ kind: 'ok' as const }) },
  { weight: 3, arbitrary: lost },
  { weight: 2, arbitrary: refused },
  { weight: 2, arbitrary: rowByRow('ok', 'retry', 'refused', 'unknown', 'unknown, applied') },
  fc.record({ kind: fc.constant('busy' as const), after: fc.constantFrom(undefined, 1, 2) }),
  fc.constantFrom({ kind: 'retryable' as const }, { kind: 'fatal' as const }),
  fc.constantFrom({ kind: 'malformed' as const }, { kind: 'malformed, applied' as const }),
)

/** What the destination does with the calls of one run; with those that follow it does well. */
export const behaviours: fc.Arbitrary<Behaviour[]> = fc
  .array(
    fc.oneof(
      once.map((one) => [one]),
      // what chance would seldom put together
      fc.tuple(lost, refused),
      fc.tuple(lost, fc.constant({ kind: 'fatal' as const })),
      lost.map((one) => Array.from({ length: 12 }, () => one)),
    ),
    { maxLength: 5 },
  )
  .map((some) => some.flat())

/** How this value is refused wherever it comes. */
export interface Poison {
  readonly value: number
  readonly refuses: 'batch' | 'rows'
}

/** A process that sends. What it has asked for may land when it is dead; beyond that, the dead have no effect. */
export interface Sender {
  readonly death: Death
  /** What becomes of its calls; they are taken from the front. */
  readonly calls: Behaviour[]
  readonly batchLimit: number
  /** Is told to stop at that call, counted from 1. */
  readonly stops: number | undefined
  readonly stop: AbortController
  /** Why this should not have been sent. */
  readonly unwanted: (operation: string, entry: Entry) => string | undefined
  /** How many calls it has made. */
  begun: number
  /** What it sent, in order, and what was there at that moment. */
  readonly sent: { readonly operation: string; readonly entry: Entry; readonly found: Entry | undefined }[]
}

/** What is at a place in the destination, or is to be. */
export const text = ({ value, by, email }: Entry): string => `${value} by ${by} ${email ?? ''}`

/** `place`: the field by which objects are found. What is `there` at the beginning is all that an update can change. */
export function store({ poison, place = 'id', there = [] }: StoreOptions) {
  const objects = new Map<number, Entry>(there.map((entry) => [entry[place]!, entry]))
  const complaints: string[] = []
  /** Every value that was ever asked for, by place. */
  const asked = new Map<number, Set<string>>()
  const bodies = new Map<string, string>()
  const busy = new Map<Sender, Set<number>>()
  let landings: { readonly batch: readonly Entry[]; readonly until: number; calls: number; land(): void }[] = []

  const apply = (operation: string, batch: readonly Entry[]): void => {
    for (const entry of batch) {
      const at = entry[place]!
      if (operation === 'insert' && objects.has(at)) complaints.push(`a second object for ${place} ${at}`)
      if (operation === 'delete') objects.delete(at)
      else if (operation !== 'update' || objects.has(at)) objects.set(at, entry)
    }
  }

  const call = async (sender: Sender, batch: readonly Entry[], context: Context): Promise<undefined | Outcome[]> => {
    const { death } = sender
    const { operation, idempotencyKey, signal } = context
    if (death.at !== undefined) throw new FatalError('the process is dead')
    if (++sender.begun === sender.stops) sender.stop.abort()
    const body = `${operation} ${JSON.stringify(batch)}`
    if ((bodies.get(idempotencyKey) ?? body) !== body) complaints.push(`one idempotency key, two bodies: ${body}`)
    bodies.set(idempotencyKey, body)
    if (batch.length > sender.batchLimit) complaints.push(`${batch.length} records in one call`)
    const under = busy.get(sender) ?? new Set()
    busy.set(sender, under)
    for (const entry of batch) {
      if (under.has(entry[place]!)) complaints.push(`two calls at once for ${place} ${entry[place]}`)
      const complaint = sender.unwanted(operation, entry)
      if (complaint !== undefined) complaints.push(complaint)
    }
    for (const entry of batch) {
      const at = entry[place]!
      under.add(at)
      sender.sent.push({ operation, entry, found: objects.get(at) })
      if (operation !== 'delete') asked.set(at, (asked.get(at) ?? new Set()).add(text(entry)))
    }
    const behaviour = sender.calls.shift() ?? { kind: 'ok' }
    try {
      await sleep(timing.latency)
      return await answer(behaviour, operation, batch, signal)
    } finally {
      for (const entry of batch) under.delete(entry[place]!)
      const due = landings.filter((landing) => landing.calls-- <= 0)
      landings = landings.filter((landing) => !due.includes(landing))
      for (const { until, land } of due) if (Date.now() < until) land()
    }
  }

  const answer = async (
    behaviour: Behaviour,
    operation: string,
    batch: readonly Entry[],
    signal: AbortSignal,
  ): Promise<undefined | Outcome[]> => {
    failAtOnce(behaviour)
    if (behaviour.kind === 'refuses the batch') throw new RejectedError('refused')
    // whatever else goes wrong, poison is never applied
    const poisoned = operation === 'delete' ? [] : batch.filter(({ value }) => value === poison.value)
    if (poisoned.length > 0 && poison.refuses === 'batch') throw new RejectedError('poison')
    const missing = operation === 'update' ? batch.filter((entry) => !objects.has(entry[place]!)) : []
    const good = batch.filter((entry) => !poisoned.includes(entry) && !missing.includes(entry))
    const refusals = batch.flatMap((entry) => (good.includes(entry) ? [] : reject(entry, 'poison, or no such object')))
    const takesEffect = (some = good): void => apply(operation, some)
    switch (behaviour.kind) {
      case 'breaks':
        if (behaviour.applied) takesEffect()
        throw Object.assign(new Error('broken'), behaviour.status === undefined ? {} : { status: behaviour.status })
      case 'silent': {
        await aborted(signal)
        const { lands } = behaviour
        // one call more, for this one is about to be counted
        if (lands !== undefined) {
          const until = Date.now() + timing.settle
          landings.push({ batch: good, until, calls: lands + 1, land: () => takesEffect() })
        }
        throw signal.reason
      }
      case 'late':
        await aborted(signal)
        await sleep(timing.latency)
        takesEffect()
        return refusals
      case 'malformed, applied':
        takesEffect()
        return 'fine' as never
      case 'malformed':
        return 'fine' as never
      case 'rows': {
        const says = (index: number) => behaviour.says[index % behaviour.says.length]!
        takesEffect(good.filter((_, index) => says(index) === 'ok' || says(index) === 'unknown, applied'))
        const said = good.flatMap((entry, index) => {
          if (says(index) === 'ok') return []
          if (says(index) === 'refused') return reject(entry, 'refused')
          return says(index) === 'retry' ? retry(entry) : unknown(entry)
        })
        return [...refusals, ...said]
      }
      default:
        takesEffect()
        return refusals
    }
  }

  return {
    objects: objects as ReadonlyMap<number, Entry>,
    asked: asked as ReadonlyMap<number, ReadonlySet<string>>,
    complaints,
    call,
    /** Which of these records are there. */
    verify(sender: Sender, batch: readonly Entry[]): Entry[] {
      if (sender.death.at !== undefined) throw new FatalError('the process is dead')
      return batch.filter((entry) => objects.has(entry[place]!))
    },
    /** Places that a request which nobody waits for may still change. */
    inFlight(): Set<number> {
      const open = landings.filter(({ until }) => Date.now() < until).flatMap(({ batch }) => batch)
      return new Set([...open.map((entry) => entry[place]!), ...[...busy.values()].flatMap((under) => [...under])])
    },
  }
}

interface StoreOptions {
  readonly poison: Poison
  readonly place?: 'id' | 'email'
  readonly there?: readonly Entry[]
}

/** On the fake clock. */
export const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))
const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
