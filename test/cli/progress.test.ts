import { Writable } from 'node:stream'
import { stripVTControlCharacters } from 'node:util'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { liveScreen, plainScreen, progressLine, type Track, tracked } from '../../src/cli/progress.js'
import type { Progress } from '../../src/run.js'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const progress = (staged: number, delivered: number, more: Partial<Progress> = {}): Progress => {
  const rejected = more.rejected ?? 0
  return {
    sync: 'people',
    staged,
    delivered,
    rejected,
    pending: staged - delivered - rejected,
    total: undefined,
    ...more,
  }
}

/** As much of a terminal as is needed to see what a person would see. */
class Terminal extends Writable {
  readonly isTTY = true
  columns = 100
  rows = 24
  #lines = ['']
  #row = 0

  override _write(chunk: Buffer, _: string, done: () => void): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the codes of a terminal begin with one
    for (const [token] of chunk.toString().matchAll(/\u001b\[\d*[A-Za-z]|\n|[^\u001b\n]+/g)) {
      const code = /\[(\d*)([A-Za-z])$/.exec(token)
      if (token === '\n') this.#lines[++this.#row] ??= ''
      else if (!token.startsWith('\u001b')) this.#lines[this.#row] += token
      else if (code![2] === 'A') this.#row -= Number(code![1])
      else if (code![2] === 'J') this.#lines.splice(this.#row, Infinity, '')
    }
    done()
  }

  get text(): string {
    return this.#lines.join('\n')
  }
}

const terminal = () => new Terminal() as Terminal & NodeJS.WriteStream

test('speed is that of the last ten seconds, and the time left follows from it', () => {
  let track: Track | undefined
  // Ten seconds at 100 rows/s, then ten at 1,000.
  for (let second = 0; second <= 10; second++) track = tracked(track, progress(20_000, second * 100), second * 1_000)
  expect(track!.speed).toBeCloseTo(100)
  for (let second = 1; second <= 11; second++) {
    track = tracked(track, progress(20_000, 1_000 + second * 1_000, { total: 20_000 }), (10 + second) * 1_000)
  }
  expect(track!.speed).toBeCloseTo(1_000)
  expect(progressLine(track!)).toBe(
    '12,000 of 20,000 rows  1,000 rows/s  12,000 delivered  0 rejected  8,000 pending  8.0 s left',
  )
})

test('no time is foretold before the source is read to its end, nor at a standstill', () => {
  const reading = tracked(tracked(undefined, progress(10, 0), 0), progress(20, 10, { rejected: 2 }), 1_000)
  expect(progressLine(reading)).toBe('20 rows read  12 rows/s  10 delivered  2 rejected  8 pending')
  const still = tracked(tracked(undefined, progress(20, 10, { total: 20 }), 0), progress(20, 10, { total: 20 }), 1_000)
  expect(progressLine(still)).toBe('10 of 20 rows  0 rows/s  10 delivered  0 rejected  10 pending')
})

test('a standstill shows: the speed goes down although no news come', () => {
  const track = tracked(tracked(undefined, progress(200, 0), 0), progress(200, 100), 1_000)
  expect(track.speed).toBeCloseTo(100)
  expect(tracked(track, track.latest, 5_000).speed).toBeCloseTo(20)
})

test('a pipe gets a plain line for each sync every ten seconds, and none after the end', () => {
  let text = ''
  const out = new Writable({
    write(chunk, _, done) {
      text += chunk
      done()
    },
  })
  const screen = plainScreen(out)
  for (let tenth = 0; tenth < 100; tenth++) {
    screen.update(progress(1_000, tenth))
    vi.advanceTimersByTime(100)
  }
  expect(text).toBe('people: 1,000 rows read, 9.9 rows/s, 99 delivered, 0 rejected, 901 pending\n')
  screen.update(progress(1_000, 100, { sync: 'other' }))
  vi.advanceTimersByTime(10_000)
  expect(text.split('\n')).toHaveLength(4)
  screen.stop()
  vi.advanceTimersByTime(60_000)
  expect(text.split('\n')).toHaveLength(4)
})

test('a terminal shows one line for each sync, redrawn in place and taken away at the end', () => {
  const out = terminal()
  const screen = liveScreen(out, [out])
  screen.update(progress(100, 10))
  screen.update(progress(50, 50, { sync: 'orders-eu', total: 50 }))
  for (let tenth = 0; tenth < 20; tenth++) vi.advanceTimersByTime(100)
  expect(out.text).toBe(
    `people     100 rows read  0 rows/s  10 delivered  0 rejected  90 pending
orders-eu  50 of 50 rows  0 rows/s  50 delivered  0 rejected  0 pending
`,
  )
  screen.stop()
  expect(out.text).toBe('')
  vi.advanceTimersByTime(1_000)
  expect(out.text).toBe('')
})

test('what a handler prints stands above the lines, whole', () => {
  const out = terminal()
  const screen = liveScreen(out, [out])
  screen.update(progress(100, 10))
  vi.advanceTimersByTime(100)
  out.write('first\nhalf a ')
  vi.advanceTimersByTime(300)
  out.write('line\n')
  vi.advanceTimersByTime(100)
  expect(out.text).toBe('first\nhalf a line\npeople  100 rows read  0 rows/s  10 delivered  0 rejected  90 pending\n')
  screen.stop()
  out.write('after\n')
  expect(out.text).toBe('first\nhalf a line\nafter\n')
})

test('lines never wrap and never outgrow the terminal, where the cursor could not go back', () => {
  const out = terminal()
  out.columns = 30
  out.rows = 4
  const screen = liveScreen(out, [out])
  for (let at = 0; at < 10; at++) screen.update(progress(100, at, { sync: `sync ${at}` }))
  vi.advanceTimersByTime(500)
  const lines = stripVTControlCharacters(out.text).trimEnd().split('\n')
  expect(lines).toHaveLength(3)
  for (const line of lines) expect(line).toHaveLength(29)
  screen.stop()
  expect(out.text).toBe('')
})
