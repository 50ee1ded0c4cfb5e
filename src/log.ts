/**
 * Where Spillway and a destination's handler write what happens. `console` and `pino` fit.
 *
 * Secrets that passed through config are redacted before a line gets here.
 */
export interface Log {
  debug(message: string, fields?: object): void
  info(message: string, fields?: object): void
  warn(message: string, fields?: object): void
  error(message: string, fields?: object): void
}
