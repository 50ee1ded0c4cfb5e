import { Command, InvalidArgumentError } from 'commander'
import type { Sync } from '../sync.js'
import { clean, count, cut, json, moment, plain, table } from './format.js'
import { loadSyncs, selectSyncs } from './project.js'

interface Options {
  readonly config?: string
  readonly sync?: readonly string[]
  readonly limit: number
  readonly rows?: boolean
  readonly json?: boolean
}

export function deadLettersCommand(): Command {
  return new Command('dead-letters')
    .summary('show the rows that were rejected, and why')
    .description('Shows the rows that a destination refused: key, time, attempts and its reason.')
    .option('--sync <names...>', 'only those of these syncs (default: all)')
    .option('--limit <number>', 'at most so many of each sync', whole, 50)
    .option('--rows', 'the rows themselves too')
    .option('--json', 'one JSON object for each dead letter')
    .addHelpText(
      'after',
      `
Examples:
  spillway dead-letters --sync contacts
  spillway dead-letters --json --limit 1000 | jq -r .reason | sort | uniq -c

When the cause is gone: spillway redrive contacts`,
    )
    .action(async (_, command: Command) => {
      const options = command.optsWithGlobals<Options>()
      const syncs = selectSyncs(await loadSyncs(options.config), options.sync ?? [])
      for (const sync of syncs) await (options.json ? list(sync, options) : show(sync, options))
    })
}

function whole(text: string): number {
  const number = Number(text)
  if (!Number.isSafeInteger(number) || number < 1)
    throw new InvalidArgumentError('It must be a whole number of at least 1.')
  return number
}

async function list(sync: Sync, { limit, rows }: Options): Promise<void> {
  let shown = 0
  for await (const { id, key, operation, reason, at, attempts, row, record } of sync.deadLetters()) {
    const content = rows ? { row, record } : {}
    process.stdout.write(`${json({ sync: sync.name, id, key, operation, reason, at, attempts, ...content })}\n`)
    if (++shown === limit) return
  }
}

async function show(sync: Sync, { limit, rows }: Options): Promise<void> {
  const lines: string[][] = []
  let more = false
  for await (const { key, at, attempts, reason, row } of sync.deadLetters()) {
    more = lines.length === limit
    if (more) break
    lines.push([cut(plain(key), 40), moment(at), count(attempts), clean(reason), ...(rows ? [clean(json(row))] : [])])
  }
  if (lines.length === 0) return void process.stdout.write(`${sync.name}: no dead letters\n`)
  const header = ['key', 'when', 'attempts', 'reason', ...(rows ? ['row'] : [])]
  process.stdout.write(`${sync.name}\n${table(header, lines)}\n${more ? `and more: --limit ${limit * 2}\n` : ''}`)
}
