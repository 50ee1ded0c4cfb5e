import { vi } from 'vitest'

const realTimeout = setTimeout

/** Puts a clock that only {@link passTime} moves in place of the real one. `setImmediate` stays real: the state commits by it. */
export function fakeClock(): void {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'] })
}

/** Waits for a promise under {@link fakeClock}: as soon as nothing but the clock is waited for, time jumps to the next timer. */
export async function passTime<T>(promise: Promise<T>): Promise<T> {
  let over = false
  const done = (): void => {
    over = true
  }
  promise.then(done, done)
  for (let turns = 0; !over; turns++) {
    await new Promise((resolve) => setImmediate(resolve))
    const disk = process.getActiveResourcesInfo().includes('FSReqPromise')
    if (over || disk || turns % 4 < 3) continue
    if (vi.getTimerCount() > 0) await vi.advanceTimersToNextTimerAsync()
    // DuckDB works in threads of its own, and should have them
    else await new Promise((resolve) => realTimeout(resolve, 0))
  }
  return promise
}
