import { existsSync, realpathSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { createJiti } from 'jiti'
import { ConfigError } from '../errors.js'
import type { Sync } from '../sync.js'

/** Where the syncs are looked for. */
export const configNames = ['spillway.config.ts', 'spillway.config.mts', 'spillway.config.js', 'spillway.config.mjs']

/**
 * The syncs that a config file exports, in its order: by default, by name, or in a list.
 *
 * @param file The file, or else the one in this folder that is called `spillway.config`.
 * @throws ConfigError when there is no such file, when it does not load, or when it exports no sync.
 */
export async function loadSyncs(file?: string): Promise<readonly Sync[]> {
  const path = file ? given(file) : found()
  const exported = await load(path)
  const syncs = new Set<Sync>()
  for (const [name, value] of Object.entries(exported)) {
    if (Array.isArray(value) && value.some(isSync)) {
      const stranger = value.findIndex((one) => !isSync(one))
      if (stranger >= 0) throw new ConfigError(`${path}: ${name}[${stranger}] is not a sync: make it with sync({ … })`)
      for (const one of value) syncs.add(one)
    } else if (isSync(value)) syncs.add(value)
  }
  if (syncs.size === 0) throw new ConfigError(`${path} exports no sync: write \`export default sync({ … })\``)
  const seen = new Set<string>()
  for (const { name } of syncs) {
    if (seen.has(name)) throw new ConfigError(`${path}: two syncs are called ${name}: their state would be one`)
    seen.add(name)
  }
  return [...syncs]
}

/** The syncs of these names, or all. @throws ConfigError that lists the known names. */
export function selectSyncs(syncs: readonly Sync[], wanted: readonly string[]): readonly Sync[] {
  if (wanted.length === 0) return syncs
  const unknown = wanted.filter((name) => !syncs.some((sync) => sync.name === name))
  if (unknown.length > 0) {
    throw new ConfigError(
      `no sync is called ${unknown.join(', ')}: the config has ${syncs.map(({ name }) => name).join(', ')}`,
    )
  }
  return syncs.filter(({ name }) => wanted.includes(name))
}

function given(file: string): string {
  const path = resolve(file)
  if (!existsSync(path)) throw new ConfigError(`--config ${file}: there is no such file`)
  return path
}

function found(): string {
  const here = configNames.filter((name) => existsSync(name))
  if (here.length > 1) throw new ConfigError(`there are ${here.join(' and ')}: keep one, or choose with --config`)
  const [name] = here
  if (!name) {
    throw new ConfigError(
      `there is no spillway.config.ts (or .mts, .js, .mjs) in ${process.cwd()}: create one with \`spillway init\`, or name it with --config`,
    )
  }
  return resolve(name)
}

async function load(path: string): Promise<object> {
  // No cache of compiled files: it would leave a folder behind to save a few milliseconds.
  const jiti = createJiti(pathToFileURL(path).href, { interopDefault: false, fsCache: false })
  const theirs = jiti.esmResolve('spillway', { try: true })
  const mine = fileURLToPath(import.meta.resolve('../index.js'))
  // Two copies of the library know nothing of each other's classes, secrets and locks.
  if (theirs && realpathSync(fileURLToPath(theirs)) !== realpathSync(mine)) {
    throw new ConfigError(
      `${path} uses the spillway at ${fileURLToPath(theirs)}, and this is the one at ${mine}: run \`npx spillway\` in its folder`,
    )
  }
  try {
    return await jiti.import<object>(path)
  } catch (error) {
    if (error instanceof ConfigError) throw error
    const [reason] = String(error).split('\n')
    const remedy = !theirs && reason?.includes("'spillway") ? ': npm install spillway' : ''
    throw new ConfigError(`${basename(path)} cannot be loaded: ${reason}${remedy}`, { cause: error })
  }
}

function isSync(value: unknown): value is Sync {
  return typeof value === 'object' && value !== null && 'deadLetters' in value && 'run' in value && 'name' in value
}
