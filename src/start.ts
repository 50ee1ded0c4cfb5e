import { redact } from './config.js'
import { type Duration, milliseconds } from './duration.js'
import { ConfigError } from './errors.js'
import { fullJitter, sleep } from './pace.js'
import { untilAborted } from './read.js'
import { type Run, runSync, type SyncDefinition } from './run.js'
import { messageOf } from './verdict.js'

/** Until when a sync is kept running, and how often. */
export interface StartOptions {
  /** Ends it: the run under way stops at a batch boundary. @default it goes on until the process ends */
  readonly signal?: AbortSignal | undefined
  /** How often to run, the first time at once. @default the sync's own `every` */
  readonly every?: Duration | undefined
  /** Called after every run. */
  readonly onRun?: ((run: Run) => void) | undefined
}

/** Runs a sync whenever its source has something, or time has passed, until the signal. */
export async function start(definition: SyncDefinition, options: StartOptions): Promise<void> {
  const { name, source, log } = definition
  const { signal, every = definition.every, onRun = () => {} } = options
  const pause = every === undefined ? undefined : milliseconds(every, `${name}: every`)
  if (pause === undefined && !source.arrivals) {
    throw new ConfigError(
      `${name}: ${source.name} does not tell when it has something: say how often to run, every: '15min'`,
    )
  }
  const end = new AbortController()
  const stop = signal ? AbortSignal.any([signal, end.signal]) : end.signal
  const bell = new Bell(stop)
  const fatal = { error: undefined as unknown }
  const listening = [
    source.arrivals && listen(definition, () => source.arrivals!(stop), bell, stop),
    pause !== undefined && listen(definition, () => schedule(pause, stop), bell, stop),
  ].map((one) =>
    Promise.resolve(one || undefined).catch((error) => {
      fatal.error = error
      end.abort()
    }),
  )
  try {
    for (let failures = 0; await bell.rung(); ) {
      const trouble = await oneRun(definition, stop, onRun)
      failures = trouble === undefined ? 0 : failures + 1
      if (trouble === undefined || stop.aborted) continue
      const wait = fullJitter(failures)
      log.warn(`${name}: ${trouble}; the next run is in ${Math.ceil(wait / 1000)} s`)
      await sleep(wait, stop).catch(() => {}) // stopped meanwhile
      bell.ring()
    }
  } finally {
    end.abort()
    await Promise.all(listening)
  }
  if (fatal.error !== undefined) throw fatal.error
}

/** Why another run is wanted, if it is. */
async function oneRun(
  definition: SyncDefinition,
  stop: AbortSignal,
  onRun: (run: Run) => void,
): Promise<string | undefined> {
  try {
    const run = await runSync(definition, { signal: stop })
    onRun(run)
    return run.status === 'done' ? undefined : `incomplete: ${run.reason}`
  } catch (error) {
    if (error instanceof ConfigError) throw error
    return `the run failed: ${redact(messageOf(error))}`
  }
}

/** Rings whenever there is something, and listens again when that breaks off. */
async function listen(
  { name, source, log }: SyncDefinition,
  begin: () => AsyncIterable<void>,
  bell: Bell,
  stop: AbortSignal,
): Promise<void> {
  for (let failures = 0; !stop.aborted; ) {
    try {
      for await (const _ of untilAborted(begin(), stop)) {
        failures = 0
        bell.ring()
      }
      if (stop.aborted) return
      throw new Error('it ended')
    } catch (error) {
      if (error instanceof ConfigError) throw error
      const wait = fullJitter(++failures)
      log.warn(
        `${name}: listening to ${source.name} broke off: ${redact(messageOf(error))}; again in ${Math.ceil(wait / 1000)} s`,
      )
      await sleep(wait, stop).catch(() => {}) // stopped meanwhile
    }
  }
}

async function* schedule(pause: number, stop: AbortSignal): AsyncGenerator<void> {
  for (;;) {
    yield
    await sleep(pause, stop)
  }
}

/** Rung any number of times, it is answered once. */
class Bell {
  readonly #stop: AbortSignal
  #rings = false
  #wake: () => void = () => {}

  constructor(stop: AbortSignal) {
    this.#stop = stop
    stop.addEventListener('abort', () => this.#wake(), { once: true })
  }

  ring(): void {
    this.#rings = true
    this.#wake()
  }

  /** Resolves when it has been rung since the last time, with false when it was stopped. */
  async rung(): Promise<boolean> {
    while (!this.#rings && !this.#stop.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    this.#rings = false
    return !this.#stop.aborted
  }
}
