import { resolve } from 'node:path'
import { redact, redactLog } from '../../config.js'
import { type Duration, milliseconds } from '../../duration.js'
import { ConfigError } from '../../errors.js'
import type { Log } from '../../log.js'
import { refuseOthers } from '../../options.js'
import { onAbort } from '../../pace.js'
import { type Schema, validate } from '../../schema.js'
import type { Inbox as Kept, Reading } from '../../source.js'
import { Inbox, type NewEvent, type StoredEvent } from '../../state/inbox.js'
import { type AnyRow, describe, losslessText } from '../../values.js'
import { messageOf } from '../../verdict.js'
import { eventsIn, Refused } from './body.js'
import { type Scheme, type SignedRequest, schemeOf, type Verify } from './verify.js'

/** Finds something in an event, or in the headers that it came with. */
export type Finder = (event: AnyRow, header: (name: string) => string | undefined) => string | undefined

/** What a webhook is told. */
export interface WebhookOptions {
  /** Names the inbox in the state, and the path under which `spillway serve` listens. */
  readonly name: string
  /** How senders are known. @default everybody who reaches the address is believed */
  readonly verify?: Verify | undefined
  /**
   * When `sync.start()` reads the inbox: as soon as so many events wait, or the oldest of them for so long. Less of both delivers
   * sooner, more of both in fewer runs.
   *
   * @default { rows: 100, after: '5s' }
   */
  readonly flush?: { readonly rows?: number | undefined; readonly after?: Duration | undefined } | undefined
  /** Most bytes of a request's body; more is answered with 413. @default 1_000_000 */
  readonly bodyLimit?: number | undefined
  /**
   * Most bytes of events that wait for the slowest of the syncs. Beyond them senders get 503 and send again later, which vendors do
   * for hours or days.
   *
   * @default 1_000_000_000
   */
  readonly backlog?: number | undefined
  /** How long a delivery is known again: longer than the sender tries. @default '30d' */
  readonly keep?: Duration | undefined
  /** By what a repeat is known again. @default the vendor's own; without a scheme, the header `webhook-id` or `idempotency-key` */
  readonly id?: Finder | undefined
  /** What kind of event it is, for `on()`. @default the vendor's own; without a scheme, the field `type` */
  readonly type?: Finder | undefined
  /** The path under which `spillway serve` listens. @default `/` and the name */
  readonly path?: string | undefined
  /** The folder of the state, which must be that of the syncs. @default '.spillway' */
  readonly state?: string | undefined
  /** Where messages go. @default the console, without `debug` */
  readonly log?: Log | undefined
}

const options: readonly string[] = [
  'name',
  'verify',
  'flush',
  'bodyLimit',
  'backlog',
  'keep',
  'id',
  'type',
  'path',
  'state',
  'log',
  'record',
]

/** A request of any server. */
export interface HookRequest extends Omit<SignedRequest, 'body'> {
  /** The whole body; `undefined` as soon as it is longer than the limit. */
  body(limit: number): Promise<Buffer | undefined>
}

export interface HookReply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** How often another process may have put something there, in milliseconds. */
const poll = 1_000
/** How often the same kind of refusal is told, in milliseconds. */
const tellEvery = 60_000
/** What senders are told to wait, in seconds. */
const wait = '30'

/** What a webhook is, behind the source: the inbox, and the door to it. */
export class Hook implements Kept {
  readonly name: string
  readonly where: string
  readonly path: string
  readonly #folder: string
  readonly #verify: Verify | undefined
  readonly #record: Schema | undefined
  readonly #find: Pick<WebhookOptions, 'id' | 'type'>
  readonly #bodyLimit: number
  readonly #bounds: { readonly limit: number; readonly keep: number }
  readonly #flush: { readonly rows: number; readonly after: number }
  readonly #log: Log
  readonly #syncs = new Set<string>()
  readonly #listeners = new Set<() => void>()
  readonly #told = new Map<string, number>()
  #scheme: Scheme | undefined
  #opened: Promise<Inbox> | undefined
  /** How many of the syncs the opened inbox knows. */
  #joined = 0

  constructor(given: WebhookOptions & { readonly record?: Schema | undefined }) {
    const { name } = given
    if (typeof name !== 'string' || name.trim() === '') {
      throw new ConfigError(`webhook: name is ${describe(name)}; give it a name, by which its events are found again`)
    }
    this.name = name
    this.where = `webhook ${name}`
    refuseOthers(given, options, this.where)
    this.path = given.path ?? `/${encodeURIComponent(name)}`
    if (!this.path.startsWith('/')) throw new ConfigError(`${this.where}: path must begin with /`)
    this.#folder = given.state ?? '.spillway'
    this.#verify = given.verify
    this.#record = given.record
    this.#find = given
    this.#bodyLimit = this.#count(given.bodyLimit, 'bodyLimit', 1_000_000)
    this.#bounds = {
      limit: this.#count(given.backlog, 'backlog', 1_000_000_000),
      keep: milliseconds(given.keep ?? '30d', `${this.where}: keep`),
    }
    this.#flush = {
      rows: this.#count(given.flush?.rows, 'flush.rows', 100),
      after: milliseconds(given.flush?.after ?? '5s', `${this.where}: flush.after`),
    }
    this.#log = redactLog(given.log ?? { ...console, debug() {} })
  }

  #count(value: number | undefined, option: string, otherwise: number): number {
    if (value === undefined) return otherwise
    if (Number.isInteger(value) && value > 0) return value
    throw new ConfigError(`${this.where}: ${option} is ${describe(value)}; give a whole number above 0`)
  }

  join(sync: string, folder: string): void {
    if (resolve(folder) !== resolve(this.#folder)) {
      throw new ConfigError(
        `${sync}: its state is in ${folder}, and that of ${this.where} in ${this.#folder}: a sync moves on in the commit that takes an event, so give both the same state`,
      )
    }
    this.#syncs.add(sync)
  }

  /** Looks up the keys and opens the state, so that what is wrong with them is known at the start. */
  async ready(): Promise<void> {
    this.#scheme ??= schemeOf(this.#verify, this.where, this.#folder)
    await this.#inbox()
  }

  async #inbox(): Promise<Inbox> {
    this.#opened ??= Inbox.open(this.#folder, this.name)
    const opened = this.#opened
    try {
      const inbox = await opened
      if (this.#joined !== this.#syncs.size) {
        this.#joined = this.#syncs.size
        await inbox.join(this.#syncs)
      }
      return inbox
    } catch (error) {
      this.#joined = 0
      if (this.#opened === opened) this.#opened = undefined
      throw error
    }
  }

  async close(): Promise<void> {
    const opened = this.#opened
    this.#opened = undefined
    this.#joined = 0
    await (await opened)?.close()
  }

  // ---- receiving

  /** Answers a request; never rejects. */
  async answer(request: HookRequest): Promise<HookReply> {
    try {
      return await this.#receive(request)
    } catch (error) {
      if (error instanceof Refused) {
        const { status, message, headers } = error
        const why = status === 401 ? 'its signature is missing, wrong or too old; check verify' : message
        this.#tell(String(status), 'warn', `a request was refused with ${status}: ${why}`)
        return reply(status, { error: message }, headers)
      }
      this.#tell(
        'not stored',
        'error',
        `an event could not be stored, and its sender was told to try again: ${messageOf(error)}`,
      )
      return reply(503, { error: 'the event could not be stored; send it again' }, { 'retry-after': wait })
    }
  }

  async #receive(request: HookRequest): Promise<HookReply> {
    const { method, header } = request
    if (method !== 'POST') throw new Refused(405, 'send events with POST', { allow: 'POST' })
    this.#scheme ??= schemeOf(this.#verify, this.where, this.#folder)
    const scheme = this.#scheme
    const body =
      Number(header('content-length') ?? 0) > this.#bodyLimit ? undefined : await request.body(this.#bodyLimit)
    if (!body) throw new Refused(413, `the body has more than ${this.#bodyLimit} bytes`)
    if (!(await scheme.verify({ method, url: request.url, header, body }))) throw new Refused(401, 'unauthorized')
    const events = eventsIn(body, header('content-type'), header('content-encoding'))
    const challenge = events.length === 1 ? scheme.challenge?.(events[0]!) : undefined
    if (challenge !== undefined) return { status: 200, headers: { 'content-type': 'text/plain' }, body: challenge }

    const { id = scheme.id, type = scheme.type } = this.#find
    const ids = new Set<string>()
    const news: NewEvent[] = []
    for (const [index, event] of events.entries()) {
      // of several events in one delivery, each is to be known again
      const own = id(event, header)
      const delivery = own && ids.has(own) ? `${own}/${index}` : own || undefined
      if (delivery) ids.add(delivery)
      const row = await this.#row(event, events.length > 1 ? `event ${index + 1}` : 'the event')
      news.push({ delivery, type: type(event, header), row })
    }
    return this.#store(news)
  }

  /** The event as it is kept. @throws Refused when it does not fit. */
  async #row(event: AnyRow, where: string): Promise<string> {
    const pending = this.#record ? validate(this.#record, event) : { value: event }
    const result = pending instanceof Promise ? await pending : pending
    if ('problem' in result) throw new Refused(422, `${where} does not fit: ${redact(result.problem)}`)
    try {
      return losslessText(result.value as object)
    } catch {
      throw new Refused(422, `${where} cannot be kept: it is nested too deeply, or is not made of data`)
    }
  }

  async #store(events: readonly NewEvent[]): Promise<HookReply> {
    const inbox = await this.#inbox()
    let received = await inbox.receive(events, this.#bounds)
    if (received === 'full') {
      await this.#free(inbox)
      received = await inbox.receive(events, this.#bounds)
    }
    if (received === 'full') {
      const slowest = inbox.slowest()
      const who = slowest.length > 0 ? `${slowest.join(', ')} to read them` : 'a sync that reads them'
      this.#tell(
        'full',
        'error',
        `its backlog of ${this.#bounds.limit} bytes is full, and senders are told to try again: its events wait for ${who}. Run it; if it is gone for good, forget it with reset()`,
      )
      return reply(503, { error: 'too many events wait; send it again later' }, { 'retry-after': wait })
    }
    for (const ring of this.#listeners) ring()
    return reply(
      200,
      received.repeated > 0
        ? { received: received.stored, repeated: received.repeated }
        : { received: received.stored },
    )
  }

  #tell(kind: string, level: 'warn' | 'error', message: string): void {
    const now = Date.now()
    if (now - (this.#told.get(kind) ?? -Infinity) < tellEvery) return
    this.#told.set(kind, now)
    this.#log[level](`${this.where}: ${message}`)
  }

  // ---- reading

  async #free(inbox: Inbox): Promise<void> {
    // those that were reset, too: what has arrived since is kept for them
    await inbox.join(this.#syncs)
    await inbox.free()
  }

  /** What the inbox holds now, page by page, behind a place. */
  async *events({ since, reaches }: Reading): AsyncGenerator<readonly StoredEvent[]> {
    const inbox = await Inbox.open(this.#folder, this.name)
    try {
      await this.#free(inbox)
      const through = inbox.last()
      for (let after = inbox.after(since); ; ) {
        const page = inbox.page(after, through)
        if (page.length === 0) return
        after = page.at(-1)!.id
        reaches(inbox.place(after))
        yield page
      }
    } finally {
      await inbox.close()
    }
  }

  async *arrivals(signal: AbortSignal): AsyncGenerator<void> {
    const inbox = await Inbox.open(this.#folder, this.name)
    let wake = (): void => {}
    const ring = (): void => wake()
    const ignore = onAbort(signal, ring)
    this.#listeners.add(ring)
    try {
      let seen = inbox.last()
      yield
      while (!signal.aborted) {
        const { count, since = Infinity } = inbox.waiting(seen, this.#flush.rows)
        const left = since + this.#flush.after - Date.now()
        if (count >= this.#flush.rows || left <= 0) {
          seen = inbox.last()
          yield
          continue
        }
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, Math.min(left, poll))
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
      }
    } finally {
      this.#listeners.delete(ring)
      ignore()
      await inbox.close()
    }
  }
}

function reply(status: number, body: object, headers: Readonly<Record<string, string>> = {}): HookReply {
  return { status, headers: { 'content-type': 'application/json', ...headers }, body: `${JSON.stringify(body)}\n` }
}
