import { styleText } from 'node:util'
import type { Progress } from '../run.js'
import { count, cut, span, speed, width } from './format.js'

/** How long the speed of a run is averaged over, in milliseconds. */
const window = 10_000

/** The progress of one sync, and how fast it has been of late. */
export interface Track {
  readonly latest: Progress
  readonly speed: number
  readonly samples: readonly { readonly at: number; readonly done: number }[]
}

/** The track after one more report, at `now` milliseconds. */
export function tracked(track: Track | undefined, latest: Progress, now: number): Track {
  const done = latest.staged - latest.pending
  const earlier = track?.samples ?? []
  const samples = [...earlier.filter((_, index) => (earlier[index + 1]?.at ?? now) > now - window), { at: now, done }]
  const [first] = samples
  const elapsed = now - first!.at
  return { latest, samples, speed: elapsed > 0 ? Math.max(0, ((done - first!.done) / elapsed) * 1_000) : 0 }
}

/** `12,300 of 50,000 rows  4,100 rows/s  12,280 delivered  20 rejected  37,700 pending  9.2 s left` */
export function progressLine(track: Track): string {
  const { staged, delivered, rejected, pending, total } = track.latest
  const parts = [
    total === undefined ? `${count(staged)} rows read` : `${count(total - pending)} of ${count(total)} rows`,
    speed(track.speed, 1_000),
    `${count(delivered)} delivered`,
    `${count(rejected)} rejected`,
    `${count(pending)} pending`,
  ]
  if (total !== undefined && track.speed > 0 && pending > 0) parts.push(`${span((pending / track.speed) * 1_000)} left`)
  return parts.join('  ')
}

/** Where progress is shown while syncs run. */
export interface Screen {
  update(progress: Progress): void
  /** Takes away what was only for the meantime. */
  stop(): void
}

export const noScreen: Screen = { update() {}, stop() {} }

/** A line every ten seconds for each sync that goes on: for a file, a pipe, the log of a job. */
export function plainScreen(out: NodeJS.WritableStream, now = Date.now): Screen {
  const tracks = new Map<string, Track>()
  const timer = setInterval(() => {
    for (const [name, track] of tracks) {
      out.write(`${name}: ${progressLine(tracked(track, track.latest, now())).replaceAll('  ', ', ')}\n`)
    }
  }, 10_000)
  return {
    update: (progress) => void tracks.set(progress.sync, tracked(tracks.get(progress.sync), progress, now())),
    stop: () => clearInterval(timer),
  }
}

/**
 * One line for each sync, redrawn in place ten times a second. Whatever else the process prints to the terminal in the
 * meantime appears above these lines.
 */
export function liveScreen(
  terminal: NodeJS.WriteStream,
  streams: readonly NodeJS.WriteStream[],
  now = Date.now,
): Screen {
  const tracks = new Map<string, Track>()
  let drawn = 0
  let midLine = false

  const writes = streams.map((stream) => ({ stream, write: stream.write }))
  const raw = writes.find(({ stream }) => stream === terminal)!.write.bind(terminal)
  const erase = () => {
    if (drawn > 0) raw(`\u001b[${drawn}A\u001b[0J`)
    drawn = 0
  }
  const draw = () => {
    erase()
    if (midLine) return
    const room = Math.max(1, (terminal.rows || 24) - 1)
    const longest = Math.max(...[...tracks.keys()].map(width))
    const lines = [...tracks].slice(0, room).map(([name, track]) => {
      const line = `${name}${' '.repeat(longest - width(name))}  ${progressLine(tracked(track, track.latest, now()))}`
      const fitting = cut(line, (terminal.columns || 80) - 1)
      return fitting.startsWith(name) && !process.env['NO_COLOR']
        ? styleText('bold', name) + fitting.slice(name.length)
        : fitting
    })
    if (lines.length > 0) raw(`${lines.join('\n')}\n`)
    drawn = lines.length
  }
  for (const { stream, write } of writes) {
    stream.write = ((chunk: string | Uint8Array, ...rest: []) => {
      erase()
      // Drawing below half a line would be drawing over it.
      midLine = chunk.length > 0 ? !(typeof chunk === 'string' ? chunk.endsWith('\n') : chunk.at(-1) === 10) : midLine
      return write.call(stream, chunk, ...rest)
    }) as typeof stream.write
  }
  const timer = setInterval(draw, 100)
  return {
    update: (progress) => void tracks.set(progress.sync, tracked(tracks.get(progress.sync), progress, now())),
    stop() {
      clearInterval(timer)
      erase()
      for (const { stream, write } of writes) stream.write = write
    },
  }
}
