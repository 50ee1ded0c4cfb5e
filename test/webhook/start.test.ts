import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { ConfigError, destination, type Run, type Sync, sync } from '../../src/index.js'
import { createSource } from '../../src/source.js'
import { webhook } from '../../src/sources/webhook.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { hook } from './support.js'

afterEach(() => void vi.useRealTimers())

/** Starts a sync, to be stopped when the test ends; its runs. */
function started(one: Sync, options: Parameters<Sync['start']>[0] = {}) {
  const stop = new AbortController()
  const runs: Run[] = []
  const ended = one.start({ signal: stop.signal, onRun: (run) => void runs.push(run), ...options })
  ended.catch(() => {})
  const end = async () => {
    stop.abort()
    await ended
  }
  onTestFinished(() => end().catch(() => {}))
  return { runs, end, ended }
}

/** Waits until it is so, on a machine that may have much else to do. */
const eventually = (condition: () => void): Promise<void> => vi.waitFor(condition, 20_000)

/** Moves the clock until it is so; the disk has its own time. */
async function until(condition: () => void, step = 250): Promise<void> {
  await vi.waitFor(
    async () => {
      await vi.advanceTimersByTimeAsync(step)
      condition()
    },
    { timeout: 20_000, interval: 1 },
  )
}

const clock = () =>
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'] })

describe('a sync that is started', () => {
  it('runs at once, and on events when enough of them wait, or the first has waited for long enough', async () => {
    const { reader, send } = await hook({ flush: { rows: 3, after: '60s' } })
    const one = reader('one')
    await send({ a: { n: 1 } })
    const { runs, end } = started(one.sync)
    await eventually(() => expect(runs).toHaveLength(1))
    expect(one.seen).toHaveLength(1)
    await send({ b: { n: 2 }, c: { n: 3 } })
    expect(one.seen).toHaveLength(1)
    await send({ d: { n: 4 } })
    await eventually(() => expect(one.seen).toHaveLength(4))
    await end()
    await send({ e: { n: 5 }, f: { n: 6 }, g: { n: 7 } })
    expect(one.seen).toHaveLength(4)
  })

  it('runs when the first event has waited for as long as is said, and not before', async () => {
    const { reader, send } = await hook({ flush: { after: '5s' } })
    const one = reader('one')
    clock()
    const { runs } = started(one.sync)
    await until(() => expect(runs).toHaveLength(1))
    const sent = Date.now()
    await send({ a: { n: 1 } })
    await until(() => expect(one.seen).toHaveLength(1))
    expect(Date.now() - sent).toBeGreaterThanOrEqual(5_000)
  })

  it('runs on events that another process has received', async () => {
    const { reader, state } = await hook({ flush: { rows: 1 } })
    const one = reader('one')
    const { runs } = started(one.sync)
    await eventually(() => expect(runs).toHaveLength(1))
    // nothing in this process joins it to the one that is read
    const elsewhere = webhook({ name: 'hook', state, log: quiet })
    onTestFinished(() => elsewhere.close())
    const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"n":1}' }
    await elsewhere.fetch(new Request('http://localhost/', init))
    await eventually(() => expect(one.seen).toEqual([{ n: 1 }]))
  })

  it('without such a source runs as often as is said', async () => {
    clock()
    const times: number[] = []
    const from = () => {
      times.push(Date.now())
      return []
    }
    const to = destination(10)(() => {})
    const often = sync({ name: 'often', from, to, every: '15min', state: await stateFolder(), log: quiet })
    const { end } = started(often)
    await until(() => expect(times).toHaveLength(1), 1)
    await until(() => expect(times).toHaveLength(3), 60_000)
    await end()
    expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(14 * 60_000)
  })

  it('goes on after a run that failed and after one that is incomplete, and tells why', async () => {
    clock()
    const lines: string[] = []
    const log = { ...quiet, warn: (line: string) => void lines.push(line) }
    let reads = 0
    const from = () => {
      if (++reads === 1) throw new Error('the source is down')
      return reads === 2 ? [{ n: 1 }] : []
    }
    const seen: object[] = []
    const options = { name: 'shaky', batchSize: 1, retryFor: '1s' } as const
    const to = destination(options)((batch) => {
      if (runs.length === 0) throw Object.assign(new Error('busy'), { status: 429 })
      seen.push(...batch)
    })
    const { ended, runs, end } = started(
      sync({ name: 'shaky', from, to, every: '1d', state: await stateFolder(), log }),
    )
    await until(() => expect(seen).toEqual([{ n: 1 }]))
    await end()
    await expect(ended).resolves.toBeUndefined()
    expect(lines[0]).toMatch(/^shaky: the run failed: .*the source is down.*; the next run is in \d+ s$/)
    expect(runs[0]!.status).toBe('incomplete')
    expect(lines.some((line) => line.startsWith('shaky: incomplete: '))).toBe(true)
  })

  it('ends with an error that only the user can correct', async () => {
    const from = () => {
      throw new ConfigError('there is no such table')
    }
    const to = destination(10)(() => {})
    const { ended } = started(sync({ name: 'wrong', from, to, every: '1d', state: await stateFolder(), log: quiet }))
    await expect(ended).rejects.toThrow('there is no such table')
  })

  it('listens again when listening breaks off, and runs then, for something may have come meanwhile', async () => {
    clock()
    const lines: string[] = []
    let listened = 0
    const from = createSource({
      name: 'news',
      async *read() {},
      async *arrivals(signal) {
        listened++
        yield
        if (listened === 1) throw new Error('connection lost')
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
      },
    })
    const log = { ...quiet, warn: (line: string) => void lines.push(line) }
    const to = destination(10)(() => {})
    const { runs, end } = started(sync({ name: 'listens', from, to, state: await stateFolder(), log }))
    await until(() => expect(listened).toBe(2))
    await until(() => expect(runs.length).toBeGreaterThanOrEqual(2))
    await end()
    expect(lines).toEqual([
      expect.stringMatching(/^listens: listening to news broke off: connection lost; again in \d+ s$/),
    ])
  })

  it('stops at a batch boundary, and leaves the rest for the next time', async () => {
    const state = await stateFolder()
    const stop = new AbortController()
    const seen: object[] = []
    const to = destination({ name: 'slow', batchSize: 1, concurrency: 1 })((batch) => {
      seen.push(...batch)
      if (seen.length === 2) stop.abort()
    })
    const from = [{ n: 1 }, { n: 2 }, { n: 3 }]
    const slow = sync({ name: 'slow', from, to, every: '1d', state, log: quiet })
    await slow.start({ signal: stop.signal })
    expect(seen).toHaveLength(2)
    expect(await slow.status()).toMatchObject({ pending: 1 })
  })

  it('needs to be told when to run', async () => {
    const to = destination(10)(() => {})
    const never = sync({ name: 'never', from: [], to, log: quiet })
    await expect(never.start()).rejects.toThrow(ConfigError)
    await expect(never.start()).rejects.toThrow(
      "never: source does not tell when it has something: say how often to run, every: '15min'",
    )
    await expect(never.start({ every: '5m' as never })).rejects.toThrow('never: every: "5m" is not a duration')
    expect(() => sync({ name: 'never', from: [], to, every: 'daily' as never })).toThrow('never: every: "daily"')
  })

  it('that was stopped before does nothing', async () => {
    let reads = 0
    const from = () => {
      reads++
      return []
    }
    const to = destination(10)(() => {})
    await sync({ name: 'no', from, to, every: '1s', state: await stateFolder() }).start({ signal: AbortSignal.abort() })
    expect(reads).toBe(0)
  })
})
