import type { Context, Outcome } from '../../src/index.js'
import { FatalError, RejectedError, RetryableError, reject, retry, unknown } from '../../src/index.js'
import type { Death } from './death.js'

/** A record of the model: the row's place in the source, its key, and which version of the source it comes from. */
export interface Item {
  readonly id: number
  readonly key: number
  readonly version: number
}

/** What the destination does with one call. `applied`: whether the batch takes effect although the answer does not say so. */
export type Behaviour =
  | { readonly kind: 'ok' }
  | { readonly kind: 'busy'; readonly after: number | undefined }
  | { readonly kind: 'retryable' }
  | { readonly kind: 'breaks'; readonly status: number | undefined; readonly applied: boolean }
  | { readonly kind: 'silent'; readonly lands: number | undefined }
  | { readonly kind: 'late' }
  | { readonly kind: 'partly'; readonly says: readonly ('ok' | 'retry' | 'unknown' | 'unknown, applied')[] }
  | { readonly kind: 'malformed'; readonly applied: boolean }
  | { readonly kind: 'fatal' }

/** What a call throws that certainly applied nothing. */
export function failAtOnce(behaviour: { readonly kind: string; readonly after?: number | undefined }): void {
  switch (behaviour.kind) {
    case 'busy': {
      const headers = behaviour.after === undefined ? {} : { 'retry-after': String(behaviour.after) }
      throw Object.assign(new Error('too many requests'), { status: 429, response: { headers } })
    }
    case 'retryable':
      throw new RetryableError('not now')
    case 'fatal':
      throw new FatalError('the token was revoked')
  }
}

/** What took effect. `late`: after its call had been given up, or its process had died. */
export interface Applied extends Item {
  readonly late: boolean
}

/** A process that sends. A dead one has no further effect; requests that it had sent may still land. */
export interface Sender {
  readonly death: Death
  readonly calls: Behaviour[]
  readonly batchLimit: number
}

export interface ModelOptions {
  /** Rows with these ids are refused. */
  readonly poison: ReadonlySet<number>
  /** A batch with poison in it is refused as a whole, or only its poison is. */
  readonly refuses: 'batch' | 'rows'
  /** A second call with the same idempotency key is answered and not applied. */
  readonly honoursKeys: boolean
  /** By what `verify` finds a record. */
  readonly identify: (item: Item) => number
}

/** Milliseconds, all on the fake clock. */
export const timing = { latency: 10, timeout: 1_000, settle: 500, retryFor: 4_000 } as const

/** A destination that remembers what it was asked and what took effect, and complains about what must never happen. */
export function modelDestination({ poison, refuses, honoursKeys, identify }: ModelOptions) {
  const applied: Applied[] = []
  const complaints: string[] = []
  const bodies = new Map<string, string>()
  const keysSeen = new Set<string>()
  const open = new Map<Sender, Set<number>>()

  const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))
  const aborted = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => signal.addEventListener('abort', () => resolve()))

  const write = async (sender: Sender, batch: readonly Item[], context: Context): Promise<undefined | Outcome[]> => {
    if (sender.death.at !== undefined) throw new FatalError('the process is dead')
    const { idempotencyKey, signal } = context
    const body = batch.map(({ id, version }) => `${id}.${version}`).join()
    if ((bodies.get(idempotencyKey) ?? body) !== body) complaints.push(`one idempotency key, two bodies: ${body}`)
    bodies.set(idempotencyKey, body)
    if (batch.length > sender.batchLimit) complaints.push(`${batch.length} records in one call`)
    const busy = open.get(sender) ?? new Set()
    open.set(sender, busy)
    for (const { key } of batch) if (busy.has(key)) complaints.push(`two calls at once for key ${key}`)
    for (const { key } of batch) busy.add(key)
    let over = false
    const apply = (some = batch): void => {
      // `settle` promises that nothing lands later
      if (Date.now() > (sender.death.at ?? Number.POSITIVE_INFINITY) + timing.settle / 2) return
      if (honoursKeys && keysSeen.has(idempotencyKey)) return
      keysSeen.add(idempotencyKey)
      applied.push(...some.map((item) => ({ ...item, late: over || sender.death.at !== undefined })))
    }
    let behaviour = sender.calls.shift() ?? { kind: 'ok' }
    // an idempotency key stands for the whole batch
    if (honoursKeys && behaviour.kind === 'partly') behaviour = { kind: 'ok' }
    try {
      await sleep(timing.latency)
      return await answer(behaviour, batch, signal, apply)
    } finally {
      over = true
      for (const { key } of batch) busy.delete(key)
    }
  }

  const answer = async (
    behaviour: Behaviour,
    batch: readonly Item[],
    signal: AbortSignal,
    apply: (some?: readonly Item[]) => void,
  ): Promise<undefined | Outcome[]> => {
    const refused = batch.filter(({ id }) => poison.has(id))
    failAtOnce(behaviour)
    // whatever else goes wrong, poison is never applied
    if (refused.length > 0 && refuses === 'batch') throw new RejectedError(`refused ${refused[0]!.id}`)
    const good = batch.filter(({ id }) => !poison.has(id))
    switch (behaviour.kind) {
      case 'breaks':
        if (behaviour.applied) apply(good)
        throw Object.assign(new Error('broken'), behaviour.status === undefined ? {} : { status: behaviour.status })
      case 'silent': {
        const { lands } = behaviour
        await aborted(signal)
        if (lands !== undefined) setTimeout(() => apply(good), lands)
        throw signal.reason
      }
      case 'late':
        await aborted(signal)
        await sleep(timing.latency)
        apply(good)
        return refused.map((record) => reject(record, 'refused'))
      case 'malformed':
        if (behaviour.applied) apply(good)
        return 'fine' as never
      case 'partly': {
        const says = (index: number) => behaviour.says[index % behaviour.says.length]!
        apply(good.filter((_, index) => says(index) === 'ok' || says(index) === 'unknown, applied'))
        return [
          ...refused.map((record) => reject(record, 'refused')),
          ...good.flatMap((record, index) =>
            says(index) === 'ok' ? [] : says(index) === 'retry' ? retry(record) : unknown(record),
          ),
        ]
      }
      default:
        apply(good)
        return refused.map((record) => reject(record, 'refused'))
    }
  }

  return {
    applied: applied as readonly Applied[],
    complaints,
    write,
    verify(sender: Sender, batch: readonly Item[]): Item[] {
      if (sender.death.at !== undefined) throw new FatalError('the process is dead')
      if (batch.length > sender.batchLimit) complaints.push(`${batch.length} records in one call of verify`)
      const there = new Set(applied.map(identify))
      return batch.filter((item) => there.has(identify(item)))
    },
  }
}
