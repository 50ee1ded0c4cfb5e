import { ConfigError } from '../../errors.js'
import { refuseOthers } from '../../options.js'

/** What checks options, and names the source in errors. */
export interface Checked {
  readonly name: string
  readonly wrong: (problem: string) => ConfigError
  /** @throws ConfigError naming an option that there is not. */
  refuseOthers(given: object, known: readonly string[], where?: string): void
}

export function checked(name: string): Checked {
  const wrong = (problem: string) => new ConfigError(`${name}: ${problem}`)
  return {
    name,
    wrong,
    refuseOthers(given, known, where) {
      refuseOthers(given, known, where ? `${name}: ${where}` : name)
    },
  }
}

/** @throws ConfigError that does not quote the address: it may hold a password. */
export function httpUrl(text: unknown, option: string, wrong: Checked['wrong']): URL {
  const url = typeof text === 'string' && URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw wrong(`${option} must be a whole address, such as 'https://api.example/v2'`)
  }
  if (url.username || url.password) throw wrong(`${option} holds a user or password: give them as auth: { basic }`)
  return url
}
