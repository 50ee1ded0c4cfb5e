import fc from 'fast-check'
import { AbortError } from 'p-retry'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Adaptive, fullJitter, Pace, retryAfter, retrying, SlidingWindow, sleep } from '../src/pace.js'

const never = new AbortController().signal
const fine = { latency: 10, pushedBack: false }

/** The most starts in any `window` milliseconds, both ends included. */
function busiest(starts: readonly number[], window: number): number {
  let first = 0
  return starts.reduce((most, start, index) => {
    while (start - starts[first]! > window) first += 1
    return Math.max(most, index - first + 1)
  }, 0)
}

/** Follows promises: the indexes of those that resolved, in the order in which they did. */
function follow(promises: readonly Promise<unknown>[]): number[] {
  const settled: number[] = []
  promises.forEach((promise, index) => {
    promise.then(() => settled.push(index))
  })
  return settled
}

const tick = () => vi.advanceTimersByTimeAsync(0)

describe('SlidingWindow', () => {
  const limits = fc.integer({ min: 1, max: 60 })
  const windows = fc.integer({ min: 100, max: 100_000 })

  /** Takes a slot at each arrival, or as soon afterwards as the window allows. */
  function starts(limit: number, window: number, gaps: readonly number[]): number[] {
    const slots = new SlidingWindow(limit, window)
    let now = 0
    return gaps.map((gap) => {
      now += gap
      for (let wait = slots.take(now); wait > 0; wait = slots.take(now)) now += wait
      return now
    })
  }

  test('never lets more than the limit into any window, however requests arrive', () => {
    const gaps = fc.array(
      fc.oneof(fc.constant(0), fc.integer({ max: 50, min: 0 }), fc.integer({ min: 0, max: 50_000 })),
      {
        maxLength: 400,
      },
    )
    fc.assert(
      fc.property(limits, windows, gaps, (limit, window, gaps) => {
        expect(busiest(starts(limit, window, gaps), window)).toBeLessThanOrEqual(limit)
      }),
    )
  })

  test('uses at least 95 % of the limit while there is work', () => {
    fc.assert(
      fc.property(limits, windows, (limit, window) => {
        const rounds = 50
        const taken = starts(limit, window, Array<number>(limit * rounds + 1).fill(0))
        expect((limit * rounds) / taken.at(-1)!).toBeGreaterThanOrEqual((0.95 * limit) / window)
      }),
    )
  })

  test('a request under way before the first answer counts once more when it was slow, later ones do not', () => {
    const slots = new SlidingWindow(3, 1_000)
    expect([slots.take(0), slots.take(0)]).toEqual([0, 0])
    slots.ended(100, 100)
    slots.ended(110, 110)
    // 0, 100 and 110 are taken: the next is free a window after 0, the one after that a window after 100
    expect(slots.take(200)).toBe(830)
    expect([slots.take(1_030), slots.take(1_030)]).toEqual([0, 100])
    slots.ended(500, 1_700)
    expect(slots.take(1_130)).toBe(0)
  })

  test('a first answer within the margin costs nothing', () => {
    const slots = new SlidingWindow(2, 1_000)
    slots.take(0)
    slots.ended(30, 30)
    expect([slots.take(30), slots.take(30)]).toEqual([0, 1_000])
  })

  test('a refusal takes nothing', () => {
    const slots = new SlidingWindow(1, 1_000)
    expect([slots.take(0), slots.take(1), slots.take(2)]).toEqual([0, 1_029, 1_028])
    expect(slots.take(1_030)).toBe(0)
  })
})

describe('fullJitter', () => {
  test('spreads over everything below 0.5 s, 1 s, 2 s, … and never above 60 s', () => {
    const just = () => 1 - Number.EPSILON
    expect([1, 2, 3, 7, 8, 9, 5_000].map((attempt) => fullJitter(attempt, just))).toEqual([
      499, 999, 1_999, 31_999, 59_999, 59_999, 59_999,
    ])
    expect(fullJitter(9, () => 0)).toBe(0)
    expect(fullJitter(2, () => 0.25)).toBe(250)
  })
})

describe('retryAfter', () => {
  const now = Date.UTC(1994, 10, 6, 8, 49, 7)
  const zone = process.env['TZ']
  beforeEach(() => {
    process.env['TZ'] = 'Asia/Tokyo' // where a date without zone, taken as local, is nine hours off
  })
  afterEach(() => {
    if (zone === undefined) delete process.env['TZ']
    else process.env['TZ'] = zone
  })

  test.each([
    ['seconds', '120', 120_000],
    ['zero seconds', '0', 0],
    ['decimals, as Shopify sends them', '2.0', 2_000],
    ['a date to come', 'Sun, 06 Nov 1994 08:49:37 GMT', 30_000],
    ['a date in the form of RFC 850', 'Sunday, 06-Nov-94 08:49:37 GMT', 30_000],
    ['a date in the form of asctime, which is GMT', 'Sun Nov  6 08:49:37 1994', 30_000],
    ['a date gone by', 'Sun, 06 Nov 1994 08:00:00 GMT', 0],
    ['a negative number', '-5', undefined],
    ['a date that does not exist', 'Sun, 99 Nov 1994 08:49:37 GMT', undefined],
    ['a date of another form', '1994-11-06T08:49:37Z', undefined],
    ['words', 'soon', undefined],
    ['two headers in one', '5, 10', undefined],
    ['nothing', '', undefined],
    ['no header', null, undefined],
    ['no answer', undefined, undefined],
  ])('%s', (_, header, milliseconds) => {
    expect(retryAfter(header, now)).toBe(milliseconds)
  })
})

describe('Adaptive', () => {
  /** Rounds in which all lanes are in use and each call takes as long as `latency` says. */
  function rounds(
    adaptive: Adaptive,
    clock: { now: number },
    count: number,
    latency: number,
    pushedBack = false,
  ): void {
    for (let round = 0; round < count; round++) {
      clock.now += 1_000
      adaptive.observe({ latency, pushedBack, reached: true }, clock.now)
    }
  }

  test('starts at one and grows by one a round while the limit is reached and latency stays', () => {
    const adaptive = new Adaptive()
    expect(adaptive.limit).toBe(1)
    rounds(adaptive, { now: 0 }, 5, 20)
    expect(adaptive.limit).toBe(6)
  })

  test('decides once in a round trip, however many answers come in it', () => {
    const adaptive = new Adaptive()
    adaptive.observe({ latency: 20, pushedBack: false, reached: true }, 0)
    for (let now = 0; now < 20; now++) adaptive.observe({ latency: 20, pushedBack: false, reached: true }, now)
    expect(adaptive.limit).toBe(2)
    adaptive.observe({ latency: 20, pushedBack: false, reached: false }, 20)
    expect(adaptive.limit).toBe(3)
  })

  test('does not grow beyond what was tried', () => {
    const adaptive = new Adaptive()
    for (let now = 0; now < 10_000; now += 100)
      adaptive.observe({ latency: 20, pushedBack: false, reached: false }, now)
    expect(adaptive.limit).toBe(1)
  })

  test('stays within 1 and 64', () => {
    const adaptive = new Adaptive()
    const clock = { now: 0 }
    rounds(adaptive, clock, 100, 20)
    expect(adaptive.limit).toBe(64)
    rounds(adaptive, clock, 100, 5, true)
    expect(adaptive.limit).toBe(1)
  })

  test('gives up a tenth, and at least one, when pushed back', () => {
    const adaptive = new Adaptive()
    const clock = { now: 0 }
    rounds(adaptive, clock, 29, 20)
    const limits = [adaptive.limit]
    while (limits.at(-1)! > 5) {
      rounds(adaptive, clock, 1, 20, true)
      limits.push(adaptive.limit)
    }
    expect(limits).toEqual([30, 27, 24, 21, 18, 16, 14, 12, 10, 9, 8, 7, 6, 5])
  })

  test('a quick refusal does not count as low latency', () => {
    const adaptive = new Adaptive()
    const clock = { now: 0 }
    rounds(adaptive, clock, 10, 20)
    rounds(adaptive, clock, 3, 0.1, true)
    const limit = adaptive.limit
    rounds(adaptive, clock, 1, 20)
    expect(adaptive.limit).toBe(limit + 1)
  })

  test('a first answer that is a refusal leaves the limit at one', () => {
    const adaptive = new Adaptive()
    rounds(adaptive, { now: 0 }, 2, 20, true)
    expect(adaptive.limit).toBe(1)
  })

  test('stands still while latency rises a little, and shrinks when it jumps', () => {
    const adaptive = new Adaptive()
    const clock = { now: 0 }
    for (const latency of Array<number[]>(10).fill([20, 21, 19]).flat()) rounds(adaptive, clock, 1, latency)
    const limit = adaptive.limit
    rounds(adaptive, clock, 1, 20.5)
    expect(adaptive.limit).toBe(limit)
    rounds(adaptive, clock, 1, 60)
    expect(adaptive.limit).toBe(Math.floor(limit * 0.9))
  })

  test('gets used to a latency that stays higher, and grows again', () => {
    const adaptive = new Adaptive()
    const clock = { now: 0 }
    rounds(adaptive, clock, 10, 20)
    rounds(adaptive, clock, 60, 60)
    rounds(adaptive, clock, 1, 59)
    const limit = adaptive.limit
    rounds(adaptive, clock, 1, 59)
    expect(adaptive.limit).toBe(limit + 1)
  })

  test('settles near what a destination that refuses the eleventh call can take', () => {
    const adaptive = new Adaptive()
    const seen: number[] = []
    for (let now = 0; now < 20_000; now += 20) {
      adaptive.observe({ latency: 20, pushedBack: adaptive.limit > 10, reached: true }, now)
      if (now > 1_000) seen.push(adaptive.limit)
    }
    expect(Math.min(...seen)).toBeGreaterThanOrEqual(8)
    expect(Math.max(...seen)).toBe(11)
  })
})

describe('with a fake clock', () => {
  beforeEach(() => {
    vi.useFakeTimers()
  })
  afterEach(() => {
    expect(vi.getTimerCount()).toBe(0) // whatever happened, no timer is left to keep the process alive
    vi.useRealTimers()
    vi.restoreAllMocks()
  })

  describe('sleep', () => {
    test('resolves after its time, not before', async () => {
      const done = follow([sleep(1_000)])
      await vi.advanceTimersByTimeAsync(999)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0])
    })

    test('waits longer than setTimeout can', async () => {
      const month = 30 * 24 * 3_600_000
      const done = follow([sleep(month)])
      await vi.advanceTimersByTimeAsync(month - 1)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0])
    })

    test('lets the event loop turn even when there is nothing to wait for', async () => {
      const done = follow([sleep(0), sleep(-5)])
      await Promise.resolve()
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0, 1])
    })

    test('rejects with the reason of the signal as soon as it aborts', async () => {
      const controller = new AbortController()
      const slept = sleep(60_000, controller.signal)
      const reason = new Error('stopped')
      controller.abort(reason)
      await expect(slept).rejects.toBe(reason)
      await expect(sleep(60_000, controller.signal)).rejects.toBe(reason)
    })

    test('many may wait on one signal without a warning, and none stays on it afterwards', async () => {
      const { signal } = new AbortController()
      const warned = vi.spyOn(process, 'emitWarning')
      const add = vi.spyOn(signal, 'addEventListener')
      const remove = vi.spyOn(signal, 'removeEventListener')
      const all = Promise.all(Array.from({ length: 20 }, () => sleep(10, signal)))
      await vi.advanceTimersByTimeAsync(10)
      await all
      expect(warned).not.toHaveBeenCalled()
      expect(add).toHaveBeenCalledTimes(20)
      expect(remove).toHaveBeenCalledTimes(20)
    })
  })

  describe('Pace', () => {
    test('lets calls in at once, without a timer, while lanes and slots are free', async () => {
      const pace = new Pace({ rate: { limit: 10, window: 1_000 }, concurrency: 4 })
      const entered = Promise.all([pace.enter(never), pace.enter(never), pace.slot(never)])
      expect(vi.getTimerCount()).toBe(0)
      await entered
      expect(pace.limit).toBe(4)
    })

    test('holds calls back until a lane is free, and lets them in in order', async () => {
      const pace = new Pace({ concurrency: 2 })
      const done = follow(Array.from({ length: 5 }, () => pace.enter(never)))
      await tick()
      expect(done).toEqual([0, 1])
      pace.leave(fine)
      await tick()
      expect(done).toEqual([0, 1, 2])
      pace.leave(fine)
      pace.leave(fine)
      await tick()
      expect(done).toEqual([0, 1, 2, 3, 4])
    })

    test('a newcomer does not overtake those who wait', async () => {
      const pace = new Pace({ rate: { limit: 1, window: 1_000 }, concurrency: 10 })
      const early = [pace.enter(never), pace.enter(never), pace.enter(never)]
      const done = follow(early)
      await vi.advanceTimersByTimeAsync(1_030)
      expect(done).toEqual([0, 1])
      const late = follow([pace.enter(never)])
      await vi.advanceTimersByTimeAsync(1_030)
      expect([done, late]).toEqual([[0, 1, 2], []])
      await vi.advanceTimersByTimeAsync(1_030)
      expect(late).toEqual([0])
    })

    test('keeps the rate in any window and uses it', async () => {
      const pace = new Pace({ rate: { limit: 50, window: 1_000 }, concurrency: 8 })
      const starts: number[] = []
      const controller = new AbortController()
      const lane = async () => {
        for (;;) {
          await pace.enter(controller.signal)
          starts.push(performance.now())
          await sleep(37, controller.signal)
          pace.leave({ latency: 37, pushedBack: false })
        }
      }
      const begun = performance.now()
      const lanes = Promise.allSettled(Array.from({ length: 8 }, lane))
      await vi.advanceTimersByTimeAsync(60_000)
      controller.abort()
      await lanes
      expect(busiest(starts, 1_000)).toBe(50)
      expect(starts.length / (performance.now() - begun)).toBeGreaterThanOrEqual(0.95 * (50 / 1_000))
    })

    test('keeps the rate also where the first requests arrive late, because they have connections to make', async () => {
      const pace = new Pace({ rate: { limit: 50, window: 1_000 }, concurrency: 8 })
      const arrivals: number[] = []
      const controller = new AbortController()
      const lane = async () => {
        for (let delay = 150; ; delay = 1) {
          await pace.enter(controller.signal)
          await sleep(delay, controller.signal)
          arrivals.push(performance.now())
          await sleep(20, controller.signal)
          pace.leave({ latency: delay + 20, pushedBack: false })
        }
      }
      const lanes = Promise.allSettled(Array.from({ length: 8 }, lane))
      await vi.advanceTimersByTimeAsync(20_000)
      controller.abort()
      await lanes
      expect(busiest(arrivals, 1_000)).toBe(50)
      expect(arrivals.length).toBeGreaterThanOrEqual(0.95 * 20 * 50)
    })

    test('uses the rate also where answers take long, once the start is over', async () => {
      const pace = new Pace({ rate: { limit: 50, window: 1_000 }, concurrency: 300 })
      const starts: number[] = []
      const controller = new AbortController()
      const lane = async () => {
        for (;;) {
          await pace.enter(controller.signal)
          starts.push(performance.now())
          await sleep(3_000, controller.signal)
          pace.leave({ latency: 3_000, pushedBack: false })
        }
      }
      const begun = performance.now()
      const lanes = Promise.allSettled(Array.from({ length: 300 }, lane))
      await vi.advanceTimersByTimeAsync(60_000)
      controller.abort()
      await lanes
      expect(busiest(starts, 1_000)).toBe(50)
      expect(starts.filter((start) => start >= begun + 10_000).length).toBeGreaterThanOrEqual(0.95 * 50 * 50)
    })

    test('further requests of a call need a slot but no lane, and go before new calls', async () => {
      const pace = new Pace({ rate: { limit: 2, window: 1_000 }, concurrency: 1 })
      await pace.enter(never)
      const done = follow([pace.enter(never), pace.slot(never), pace.slot(never)])
      await tick()
      expect(done).toEqual([1])
      pace.leave(fine)
      await vi.advanceTimersByTimeAsync(1_030)
      expect(done).toEqual([1, 2, 0])
    })

    test('a pause holds back every lane and every further request', async () => {
      const pace = new Pace({ concurrency: 3 })
      await pace.enter(never)
      pace.pause(30_000)
      const done = follow([pace.slot(never), pace.enter(never), pace.enter(never)])
      await vi.advanceTimersByTimeAsync(29_999)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0, 1, 2])
    })

    test('of several pauses the one that ends last counts, those that come while others wait too', async () => {
      const pace = new Pace({ concurrency: 1 })
      pace.pause(10_000)
      pace.pause(1_000)
      const done = follow([pace.enter(never)])
      await vi.advanceTimersByTimeAsync(9_000)
      pace.pause(5_000)
      await vi.advanceTimersByTimeAsync(4_999)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0])
    })

    test('a pause may be longer than a timer can be', async () => {
      const pace = new Pace({ concurrency: 1 })
      const month = 30 * 24 * 3_600_000
      pace.pause(month)
      const done = follow([pace.enter(never)])
      await vi.advanceTimersByTimeAsync(month - 1)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0])
    })

    test('a call that was stopped while it waited rejects with the reason, holds no lane and lets the next one in', async () => {
      const pace = new Pace({ concurrency: 1 })
      await pace.enter(never)
      const controller = new AbortController()
      const stopped = pace.enter(controller.signal)
      const done = follow([pace.enter(never)])
      const reason = new Error('stopped')
      controller.abort(reason)
      await expect(stopped).rejects.toBe(reason)
      pace.leave(fine)
      await tick()
      expect(done).toEqual([0])
    })

    test('a call that was stopped during a pause or for want of a slot leaves no timer, and others go on', async () => {
      const pace = new Pace({ rate: { limit: 1, window: 1_000 }, concurrency: 5 })
      await pace.enter(never)
      const controller = new AbortController()
      const stopped = Promise.allSettled([pace.enter(controller.signal), pace.slot(controller.signal)])
      expect(vi.getTimerCount()).toBe(1)
      controller.abort()
      await stopped
      expect(vi.getTimerCount()).toBe(0)
      const done = follow([pace.enter(never)])
      await vi.advanceTimersByTimeAsync(1_030)
      expect(done).toEqual([0])
    })

    test('a call whose signal has aborted already rejects and takes nothing', async () => {
      const pace = new Pace({ rate: { limit: 1, window: 1_000 }, concurrency: 1 })
      const reason = new Error('stopped')
      await expect(pace.enter(AbortSignal.abort(reason))).rejects.toBe(reason)
      await expect(pace.slot(AbortSignal.abort(reason))).rejects.toBe(reason)
      const done = follow([pace.enter(never)])
      await tick()
      expect(done).toEqual([0])
    })

    test('a call that took long to get ready takes another slot, so that it does not leave in the time of another', async () => {
      const pace = new Pace({ rate: { limit: 2, window: 1_000 }, concurrency: 3 })
      const entered = performance.now()
      await pace.enter(never)
      await vi.advanceTimersByTimeAsync(900)
      await pace.enter(never)
      const done = follow([pace.stillIn(performance.now(), never), pace.stillIn(entered, never)])
      await tick()
      expect(done).toEqual([0])
      await vi.advanceTimersByTimeAsync(130)
      expect(done).toEqual([0, 1])
    })

    test('a call that got ready when a pause began waits for its end', async () => {
      const pace = new Pace({ concurrency: 1 })
      await pace.enter(never)
      pace.pause(5_000)
      const done = follow([pace.stillIn(performance.now(), never)])
      await vi.advanceTimersByTimeAsync(4_999)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(done).toEqual([0])
    })

    test("'auto' opens lanes while all are used and latency stays, and closes them when pushed back", async () => {
      const pace = new Pace({ concurrency: 'auto' })
      const controller = new AbortController()
      let pushedBack = false
      const lane = async () => {
        for (;;) {
          await pace.enter(controller.signal)
          await sleep(20, controller.signal)
          pace.leave({ latency: 20, pushedBack })
        }
      }
      const lanes = Promise.allSettled(Array.from({ length: 30 }, lane))
      await tick()
      expect(pace.limit).toBe(1)
      await vi.advanceTimersByTimeAsync(3_000)
      expect(pace.limit).toBeGreaterThanOrEqual(30)
      const most = pace.limit
      pushedBack = true
      await vi.advanceTimersByTimeAsync(100)
      expect(pace.limit).toBeLessThan(most)
      await vi.advanceTimersByTimeAsync(3_000)
      expect(pace.limit).toBe(1)
      controller.abort()
      await lanes
    })

    test("'auto' does not open lanes that nobody uses", async () => {
      const pace = new Pace({ concurrency: 'auto' })
      for (let call = 0; call < 100; call++) {
        await pace.enter(never)
        await vi.advanceTimersByTimeAsync(20)
        pace.leave({ latency: 20, pushedBack: false })
      }
      expect(pace.limit).toBe(2)
    })
  })

  describe('retrying', () => {
    /** Fails with each of `errors` in turn, then succeeds. */
    function failing(...errors: unknown[]) {
      return vi.fn(async (number: number) => {
        if (number <= errors.length) throw errors[number - 1]
        return `attempt ${number}`
      })
    }
    const options = { budget: 60_000, signal: never, wait: () => 1_000 }

    test('gives the result of the first attempt that succeeds, and numbers attempts from one', async () => {
      const attempt = failing(new Error('a'), new Error('b'))
      const wait = vi.fn((_: unknown, number: number) => number * 1_000)
      const result = retrying(attempt, { ...options, wait })
      const done = follow([result])
      await vi.advanceTimersByTimeAsync(2_999)
      expect(done).toEqual([])
      await vi.advanceTimersByTimeAsync(1)
      expect(await result).toBe('attempt 3')
      expect(attempt.mock.calls).toEqual([[1], [2], [3]])
      expect(wait.mock.calls).toEqual([
        [new Error('a'), 1],
        [new Error('b'), 2],
      ])
    })

    test.each([
      ['a TypeError, which p-retry gives up on', new TypeError('x is not a function')],
      ["p-retry's own AbortError", new AbortError('no more')],
      ['a string', 'boom'],
      ['undefined', undefined],
    ])('asks only wait whether to retry: %s', async (_, error) => {
      const again = retrying(failing(error), options)
      await vi.advanceTimersByTimeAsync(1_000)
      expect(await again).toBe('attempt 2')

      const wait = vi.fn(() => undefined)
      const attempt = failing(error)
      const rejected = await retrying(attempt, { ...options, wait }).catch((thrown) => ({ thrown }))
      expect((rejected as { thrown: unknown }).thrown).toBe(error)
      expect(wait).toHaveBeenCalledExactlyOnceWith(error, 1)
      expect(attempt).toHaveBeenCalledTimes(1)
    })

    test('an attempt that throws before it returns a promise is an attempt that failed', async () => {
      const result = retrying((number) => {
        if (number === 1) throw new Error('at once')
        return Promise.resolve(number)
      }, options)
      await vi.advanceTimersByTimeAsync(1_000)
      expect(await result).toBe(2)
    })

    test('rejects at once when the wait would end after the budget', async () => {
      const error = new Error('busy')
      const attempt = failing(error, error, error)
      const result = retrying(attempt, { budget: 2_000, signal: never, wait: (_, number) => (number < 3 ? 1_000 : 1) })
      const rejected = expect(result).rejects.toBe(error)
      await vi.advanceTimersByTimeAsync(2_000)
      await rejected
      expect(attempt).toHaveBeenCalledTimes(3)
    })

    test('a budget of zero means one attempt', async () => {
      const error = new Error('busy')
      const attempt = failing(error)
      await expect(retrying(attempt, { ...options, budget: 0 })).rejects.toBe(error)
      expect(attempt).toHaveBeenCalledTimes(1)
    })

    test('survives an outage of a minute', async () => {
      const begun = performance.now()
      const result = retrying(
        async (number) => {
          if (performance.now() - begun < 60_000) throw new Error('down')
          return number
        },
        { budget: 300_000, signal: never, wait: (_, number) => fullJitter(number) },
      )
      await vi.advanceTimersByTimeAsync(300_000)
      expect(await result).toBeGreaterThan(5)
    })

    test('rejects with the reason of the signal as soon as it aborts during a wait', async () => {
      const controller = new AbortController()
      const attempt = failing(new Error('busy'))
      const result = retrying(attempt, { ...options, signal: controller.signal })
      const reason = new Error('stopped')
      const rejected = expect(result).rejects.toBe(reason)
      await vi.advanceTimersByTimeAsync(500)
      controller.abort(reason)
      await rejected
      expect(attempt).toHaveBeenCalledTimes(1)
    })

    test('attempts nothing when the signal has aborted already', async () => {
      const attempt = failing()
      const reason = new Error('stopped')
      await expect(retrying(attempt, { ...options, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
      expect(attempt).not.toHaveBeenCalled()
    })

    test('a result that comes after the signal aborted still counts', async () => {
      const controller = new AbortController()
      const result = retrying(
        async () => {
          controller.abort()
          await sleep(1_000)
          return 'delivered'
        },
        { ...options, signal: controller.signal },
      )
      await vi.advanceTimersByTimeAsync(1_000)
      expect(await result).toBe('delivered')
    })

    test('rejects with what wait throws', async () => {
      const bug = new Error('bug in wait')
      const wait = () => {
        throw bug
      }
      await expect(retrying(failing(new Error('busy')), { ...options, wait })).rejects.toBe(bug)
    })

    test('can be stopped even when it never has to wait', async () => {
      const controller = new AbortController()
      const reason = new Error('stopped')
      setTimeout(() => controller.abort(reason), 50)
      const result = retrying(() => Promise.reject(new Error('busy')), {
        ...options,
        wait: () => 0,
        signal: controller.signal,
      })
      const rejected = expect(result).rejects.toBe(reason)
      await vi.advanceTimersByTimeAsync(60)
      await rejected
    })
  })
})
