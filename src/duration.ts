import { ConfigError } from './errors.js'

/** Milliseconds in each unit that a {@link Duration} or a {@link Rate} may name. */
const units = { ms: 1, s: 1_000, min: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** Milliseconds, seconds, minutes, hours, days. */
export type Unit = keyof typeof units

/** A length of time: a number and a unit, `'250ms'`, `'30s'`, `'15min'`, `'1.5h'`, `'7d'`. */
export type Duration = `${number}${Unit}`

/** How many in how long: `'10/s'`, `'60/min'`, `'190/10s'`. */
export type Rate = `${number}/${Unit}` | `${number}/${Duration}`

const pattern = /^(\d+(?:\.\d+)?|\.\d+)(ms|s|min|h|d)$/

/** The milliseconds of a duration; throws a {@link ConfigError} that names `option` when it is not one. */
export function milliseconds(duration: Duration, option: string): number {
  const match = typeof duration === 'string' ? pattern.exec(duration) : null
  if (!match) {
    throw new ConfigError(
      `${option}: ${JSON.stringify(duration)} is not a duration: write a number and ms, s, min, h or d, such as '30s'`,
    )
  }
  return Number(match[1]) * units[match[2] as Unit]
}

/** The parts of a rate: at most `limit` in any `window` milliseconds. */
export function parseRate(rate: Rate, option: string): { limit: number; window: number } {
  const [count, per, ...rest] = typeof rate === 'string' ? rate.split('/') : []
  const limit = Number(count)
  if (!per || rest.length > 0 || !Number.isInteger(limit) || limit < 1) {
    throw new ConfigError(
      `${option}: ${JSON.stringify(rate)} is not a rate: write a count and a time, such as '10/s' or '190/10s'`,
    )
  }
  return { limit, window: milliseconds((per in units ? `1${per}` : per) as Duration, option) }
}

/** So many of some rows, or a share of them. */
export type Ceiling = { readonly share: number } | { readonly count: number }

/** Reads `'5%'` or a whole number; `undefined` when the value is neither. */
export function ceiling(value: unknown): Ceiling | undefined {
  if (typeof value === 'number') return Number.isInteger(value) && value >= 0 ? { count: value } : undefined
  const share = typeof value === 'string' ? /^(\d+(?:\.\d+)?) ?%$/.exec(value) : undefined
  return share && Number(share[1]) <= 100 ? { share: Number(share[1]) / 100 } : undefined
}
