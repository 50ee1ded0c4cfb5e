import type { Log } from '../../src/index.js'

/** Says nothing. */
export const quiet: Log = { debug() {}, info() {}, warn() {}, error() {} }
