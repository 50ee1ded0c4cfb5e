import { styleText } from 'node:util'
import { Command } from 'commander'
import { redactError } from '../config.js'
import type { Difference, Drift } from '../drift.js'
import { ConfigError } from '../errors.js'
import { clean, count, cut, json, plain, some } from './format.js'
import { first, shown, whole } from './plan.js'
import { loadSyncs, selectSyncs } from './project.js'
import { stopSignal } from './stop.js'

interface Options {
  readonly config?: string
  readonly debug?: boolean
  readonly limit: number
  readonly json?: boolean
}

export function verifyCommand(): Command {
  return new Command('verify')
    .summary('find what was changed at the destinations since it was delivered')
    .description('Has the destinations list what they hold, and compares that with what was delivered. Sends nothing.')
    .argument('[names...]', 'the syncs to verify (default: all)')
    .option('--limit <number>', 'at most so many differences of each sync; 0 shows the counts alone', whole, 100)
    .option('--json', 'one JSON object for each sync, followed by one for each of its differences')
    .addHelpText(
      'after',
      `
Examples:
  spillway verify contacts
  spillway verify contacts || spillway run contacts --full

Exit codes: 0 all is as it was delivered; 4 something is not; 1 a destination could not be listed; 2 usage or configuration`,
    )
    .action(async (names: string[], _, command: Command) => {
      const { config, debug = false, limit, json: machine = false } = command.optsWithGlobals<Options>()
      const stop = stopSignal()
      const codes = new Set<number>()
      try {
        // one after another, whatever becomes of the one before: not every destination can be listed
        for (const sync of selectSyncs(await loadSyncs(config), names)) {
          if (stop.signal.aborted) break
          try {
            const drift = await sync.verify({ signal: stop.signal })
            await (machine ? list(drift, limit) : show(drift, limit))
            codes.add(drift.remedy === undefined ? 0 : 4)
          } catch (error) {
            const safe = redactError(error)
            process.stderr.write(`spillway: ${safe.message}\n`)
            if (debug) console.error(safe)
            codes.add(error instanceof ConfigError ? 2 : 1)
          }
        }
        process.exitCode = [2, 1, 4].find((code) => codes.has(code)) ?? 0
      } finally {
        stop.release()
      }
    })
}

async function list(drift: Drift, limit: number): Promise<void> {
  const { differences, ...counts } = drift
  process.stdout.write(`${json(counts)}\n`)
  for await (const difference of first(differences, limit)) {
    process.stdout.write(`${json({ sync: drift.sync, ...difference })}\n`)
  }
}

async function show(drift: Drift, limit: number): Promise<void> {
  process.stdout.write(`${heading(drift)}\n`)
  for await (const difference of first(drift.differences, limit)) process.stdout.write(`  ${line(difference)}\n`)
  const total = drift.missing + drift.different + drift.unexpected
  if (total > limit) process.stdout.write(`  and ${count(total - limit)} more: --limit ${total}\n`)
  if (drift.remedy) process.stdout.write(`  to put it right: ${clean(drift.remedy)}\n`)
}

/** `contacts: 1,204 objects: 1,200 as delivered, 1 missing, 3 different, 2 unexpected` */
function heading(drift: Drift): string {
  const words = [
    ['same', 'as delivered'],
    ['missing', 'missing'],
    ['different', 'different'],
    ['unexpected', 'unexpected'],
    ['dirty', 'not certain until the next run'],
  ] as const
  const parts = words.flatMap(([kind, word]) => (drift[kind] > 0 ? `${count(drift[kind])} ${word}` : []))
  return `${drift.sync}: ${some(drift.known, 'object')}${parts.length > 0 ? `: ${parts.join(', ')}` : ''}`
}

/** One difference: `-` what is missing, `~` what is different, field by field, `?` what is unexpected. */
function line({ kind, match, expected, found, fields, reason }: Difference): string {
  const name = cut(plain(match), 40)
  if (kind === 'missing') return styleText('red', `- ${name}`)
  if (kind === 'unexpected') return styleText('yellow', `? ${name}${reason ? `  ${clean(reason)}` : ''}`)
  const changed = fields.map((field) => `${clean(field)}: ${shown(expected?.[field])} → ${shown(found?.[field])}`)
  return styleText('cyan', `~ ${name}  ${changed.join(', ')}`)
}
