import { ConfigError } from './errors.js'

/** Refuses options that there are not: a misspelt one would be left out without a word. */
export function refuseOthers(given: object, known: readonly string[], where: string): void {
  const stranger = Object.keys(given).find((option) => !known.includes(option))
  if (stranger !== undefined) {
    throw new ConfigError(`${where}: there is no option ${stranger}; the options are ${known.join(', ')}`)
  }
}
