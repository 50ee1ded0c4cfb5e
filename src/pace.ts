import { setMaxListeners } from 'node:events'
import pRetry from 'p-retry'

/** The longest delay that `setTimeout` takes; it fires at once on a longer one. */
const longestTimer = 2 ** 31 - 1

/**
 * A strict sliding window: never more than `limit` in any `window` milliseconds, as the server counts them.
 *
 * Two requests do not take equally long to arrive, so the window kept here is a little longer: 3 %, at least 5 ms. That
 * leaves 97 % of the limit, and 95 % where the window is as short as 100 ms. The clock is the caller's.
 */
export class SlidingWindow {
  readonly #limit: number
  readonly #window: number
  readonly #margin: number
  /** When each of the last `limit` requests started, in order; once it is full, a ring whose oldest is at `#next`. */
  readonly #starts: number[] = []
  #next = 0
  #firstAnswer: number | undefined

  constructor(limit: number, window: number) {
    this.#limit = limit
    this.#margin = Math.max(5, window * 0.03)
    this.#window = window + this.#margin
  }

  /** 0 when a slot was taken at `now`; else nothing was taken, and asking makes sense again after so many milliseconds. */
  take(now: number): number {
    const oldest = this.#starts[this.#next]
    const wait = oldest === undefined ? 0 : oldest + this.#window - now
    if (wait > 0) return wait
    this.#count(now)
    return 0
  }

  /**
   * A request that took `latency` has its answer at `now`. Those that started before the first answer had their connections to make:
   * they arrive late and all at once, the next ones promptly. What took longer than the margin therefore counts once more.
   */
  ended(latency: number, now: number): void {
    this.#firstAnswer ??= now
    if (latency > this.#margin && now - latency <= this.#firstAnswer) this.#count(now)
  }

  /** Whether a request that took its slot at `taken` would leave in the time of another, if it left only `now`. */
  isLate(taken: number, now: number): boolean {
    return now - taken > this.#margin / 2
  }

  #count(now: number): void {
    this.#starts[this.#next] = now
    this.#next = (this.#next + 1) % this.#limit
  }
}

/**
 * Milliseconds to wait after failed attempt number `attempt` (from 1): anywhere below 0.5 s, 1 s, 2 s, … 60 s.
 *
 * The whole range is used ("full jitter"), so that many clients that failed together do not come back together:
 * https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export function fullJitter(attempt: number, random: () => number = Math.random): number {
  return Math.floor(random() * Math.min(60_000, 500 * 2 ** (attempt - 1)))
}

/** The three forms of an HTTP-date, of which a recipient must accept all (RFC 9110 §5.6.7). */
const httpDate =
  /^(?:[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} GMT|[A-Z][a-z]{5,8}, \d\d-[A-Z][a-z]{2}-\d\d [\d:]{8} GMT)$/
const asctime = /^[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:]{8} \d{4}$/

/**
 * The milliseconds that a `Retry-After` header asks for, from `now` (milliseconds since 1970); never below 0.
 * Undefined when there is none, or when it has neither form of RFC 9110 §10.2.3: seconds, or an HTTP-date.
 *
 * `context.http` reads the header by itself; this is for the errors of an SDK.
 *
 * @example
 * ```ts
 * const wait = retryAfter(error.response.headers.get('retry-after'))
 * throw new RetryableError('crm: too many requests', { after: wait === undefined ? undefined : `${wait}ms` })
 * ```
 */
export function retryAfter(header: string | null | undefined, now: number = Date.now()): number | undefined {
  if (!header) return undefined
  // The RFC has whole seconds only; Shopify sends `2.0`.
  if (/^\d+(\.\d+)?$/.test(header)) return Math.ceil(Number(header) * 1000)
  // asctime names no zone and means GMT; Date.parse would take it as local time.
  const date = httpDate.test(header) ? header : asctime.test(header) ? `${header} GMT` : undefined
  const at = date === undefined ? Number.NaN : Date.parse(date)
  return Number.isNaN(at) ? undefined : Math.max(0, at - now)
}

/** What one finished call tells about the destination. */
export interface Seen {
  /** Milliseconds from the request to its answer, without any waiting for a slot. */
  readonly latency: number
  /** The destination asked for less: 429, or 503 with Retry-After. Its latency is not counted. */
  readonly pushedBack: boolean
}

/**
 * `concurrency: 'auto'`: finds how many calls at a time a destination takes well.
 *
 * Starts at 1 and decides once in a round trip: one more when the limit was reached and the latency did not rise; a
 * tenth less (at least one) when the destination pushed back, or when the mean latency of the round is more than 2.5
 * standard deviations above the weighted mean (0.4) of the rounds before. Stays within 1 and 64. The rule is the
 * one of Vector's adaptive request concurrency: https://vector.dev/docs/architecture/arc/
 */
export class Adaptive {
  #limit = 1
  #mean: number | undefined
  #variance = 0
  #roundEnds = Number.NEGATIVE_INFINITY
  #round = { latency: 0, calls: 0, reached: false, pushedBack: false }

  get limit(): number {
    return this.#limit
  }

  /** `reached`: as many calls as allowed were under way. `now`: any clock in milliseconds that never goes back. */
  observe({ latency, pushedBack, reached }: Seen & { readonly reached: boolean }, now: number): void {
    const round = this.#round
    round.pushedBack ||= pushedBack
    round.reached ||= reached
    // A refusal comes back quickly and says nothing about how long the work takes.
    if (!pushedBack) {
      round.latency += latency
      round.calls += 1
    }
    if (now < this.#roundEnds) return
    this.#decide(round.calls > 0 ? round.latency / round.calls : undefined)
    this.#roundEnds = now + (this.#mean ?? latency)
    this.#round = { latency: 0, calls: 0, reached: false, pushedBack: false }
  }

  #decide(latency: number | undefined): void {
    const mean = this.#mean ?? latency
    const rise = latency === undefined || mean === undefined ? 0 : latency - mean
    if (this.#round.pushedBack || rise > 2.5 * Math.sqrt(this.#variance)) {
      this.#limit = Math.max(1, Math.floor(this.#limit * 0.9))
    } else if (this.#round.reached && rise <= 0) {
      this.#limit = Math.min(64, this.#limit + 1)
    }
    if (latency === undefined || mean === undefined) return
    this.#mean = mean + 0.4 * rise
    this.#variance = 0.6 * (this.#variance + 0.4 * rise * rise)
  }
}

/** Calls `listener` when the signal aborts; the answer takes it off again. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  // Each lane listens to the one signal of a run: Node would warn of a leak at the eleventh.
  setMaxListeners(0, signal)
  signal.addEventListener('abort', listener, { once: true })
  return () => signal.removeEventListener('abort', listener)
}

/**
 * Resolves after so many milliseconds, however many, and never before the event loop has turned.
 * Rejects with `signal.reason` as soon as the signal aborts.
 */
export async function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted()
  let left = milliseconds
  do {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(done, Math.ceil(Math.min(left, longestTimer)))
      const ignore = signal && onAbort(signal, stop)
      function done() {
        ignore?.()
        resolve()
      }
      function stop() {
        clearTimeout(timer)
        reject(signal?.reason)
      }
    })
    left -= longestTimer
  } while (left > 0)
}

/**
 * Lets calls to one destination through: a fixed or found number at a time (lanes), a rate, and pauses for all of them.
 *
 * A call enters, makes its request, and leaves; each further request that it makes takes a slot of the rate. Those who
 * wait are let in in order; calls under way come before new ones. The rate is kept between slots: what happens between a
 * slot and its request moves the request out of its place, so who has something to do in between asks {@link stillIn}.
 *
 * @example
 * ```ts
 * const pace = new Pace({ rate: { limit: 10, window: 1_000 }, concurrency: 4 })
 * await pace.enter(signal)
 * const entered = performance.now()
 * await getReady()
 * await pace.stillIn(entered, signal)
 * const start = performance.now()
 * const response = await fetch(url, { signal }).catch(…)
 * if (response.status === 429) pace.pause(30_000)
 * pace.leave({ latency: performance.now() - start, pushedBack: response.status === 429 })
 * ```
 */
export class Pace {
  readonly #lanes: number | Adaptive
  readonly #window: SlidingWindow | undefined
  readonly #underWay = new Set<() => void>()
  readonly #arriving = new Set<() => void>()
  #busy = 0
  #pausedUntil = Number.NEGATIVE_INFINITY
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor({
    rate,
    concurrency,
  }: {
    readonly rate?: { readonly limit: number; readonly window: number } | undefined
    readonly concurrency: number | 'auto'
  }) {
    this.#lanes = concurrency === 'auto' ? new Adaptive() : concurrency
    this.#window = rate && new SlidingWindow(rate.limit, rate.window)
  }

  /** How many calls may be under way now. */
  get limit(): number {
    return typeof this.#lanes === 'number' ? this.#lanes : this.#lanes.limit
  }

  /**
   * Resolves when a lane is free, no pause is on and the rate has a slot. From then on the caller holds the lane and
   * must {@link leave}. Rejects with `signal.reason` when the signal aborts first; then nothing is held.
   */
  enter(signal: AbortSignal): Promise<void> {
    return this.#wait(this.#arriving, signal)
  }

  /**
   * Resolves when a call that entered at `entered` may make its request: at once, unless a pause began meanwhile or it would
   * leave in the time of another; then it takes another slot.
   */
  async stillIn(entered: number, signal: AbortSignal): Promise<void> {
    const now = performance.now()
    if (this.#pausedUntil > now || this.#window?.isLate(entered, now)) await this.slot(signal)
  }

  /** Frees the lane; `'auto'` learns from what was seen. */
  leave(seen: Seen): void {
    const now = performance.now()
    this.#window?.ended(seen.latency, now)
    if (this.#lanes instanceof Adaptive) {
      this.#lanes.observe({ ...seen, reached: this.#busy >= this.#lanes.limit }, now)
    }
    this.#busy -= 1
    this.#admit()
  }

  /** One more request of a call that holds a lane: resolves when no pause is on and the rate has a slot. */
  slot(signal: AbortSignal): Promise<void> {
    return this.#wait(this.#underWay, signal)
  }

  /** Nobody is let through for so many milliseconds. Of several pauses, the one that ends last counts. */
  pause(milliseconds: number): void {
    this.#pausedUntil = Math.max(this.#pausedUntil, performance.now() + milliseconds)
  }

  async #wait(queue: Set<() => void>, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      let ignore: (() => void) | undefined
      const admit = () => {
        ignore?.()
        resolve()
      }
      queue.add(admit)
      this.#admit()
      if (!queue.has(admit)) return
      ignore = onAbort(signal, () => {
        queue.delete(admit)
        if (this.#underWay.size + this.#arriving.size === 0) this.#disarm()
        reject(signal.reason)
      })
    })
  }

  /** Lets in whoever may; what time alone holds back, a timer asks for again. */
  #admit(): void {
    while (this.#timer === undefined) {
      const queue = this.#underWay.size > 0 ? this.#underWay : this.#busy < this.limit ? this.#arriving : undefined
      const [admit] = queue ?? []
      if (!queue || !admit) return
      const now = performance.now()
      const wait = this.#pausedUntil > now ? this.#pausedUntil - now : (this.#window?.take(now) ?? 0)
      if (wait > 0) {
        this.#timer = setTimeout(
          () => {
            this.#disarm()
            this.#admit()
          },
          Math.min(Math.ceil(wait), longestTimer),
        )
        return
      }
      if (queue === this.#arriving) this.#busy += 1
      queue.delete(admit)
      admit()
    }
  }

  #disarm(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}

/** Carries what an attempt threw past p-retry, which never retries a TypeError and replaces what is no Error. */
class Failed extends Error {}

/**
 * Attempts until one succeeds; the only place that retries.
 *
 * After attempt number n (from 1) failed, `wait` says how many milliseconds to wait, or undefined: do not retry. No wait
 * ends after `budget` milliseconds from the start: instead, the promise rejects at once. It rejects with what the last
 * attempt threw, the very same value; with `signal.reason` when the signal aborts before the first attempt or during a
 * wait; and with what `wait` throws. An attempt under way is never cut off and its result always counts: handing
 * the signal on is the attempt's part.
 */
export async function retrying<T>(
  attempt: (number: number) => Promise<T>,
  {
    budget,
    signal,
    wait,
  }: {
    readonly budget: number
    readonly signal: AbortSignal
    readonly wait: (error: unknown, attempt: number) => number | undefined
  },
): Promise<T> {
  signal.throwIfAborted()
  const end = performance.now() + budget
  // most attempts succeed, and p-retry costs more than they do: it comes in with the first failure, as that of its attempt 1
  let first: { readonly error: unknown }
  try {
    return await attempt(1)
  } catch (error) {
    first = { error }
  }
  // p-retry's own delay is added to ours, and its signal would throw away the result of a finished attempt: neither is used.
  return pRetry(
    async (number) => {
      try {
        if (number === 1) throw first.error
        return await attempt(number)
      } catch (error) {
        throw new Failed('', { cause: error })
      }
    },
    {
      retries: Number.POSITIVE_INFINITY,
      minTimeout: 0,
      factor: 1,
      async onFailedAttempt({ error: { cause }, attemptNumber }) {
        const milliseconds = wait(cause, attemptNumber)
        if (milliseconds === undefined || performance.now() + milliseconds > end) throw cause
        await sleep(milliseconds, signal)
      },
    },
  )
}
