import { createInterface } from 'node:readline/promises'
import { Command } from 'commander'
import { ConfigError } from '../errors.js'
import { loadSyncs, selectSyncs } from './project.js'

export function resetCommand(): Command {
  return new Command('reset')
    .summary('forget what was delivered')
    .description(
      'Forgets everything about a sync: what was delivered, what is pending, its cursor, its dead letters. The next run begins from nothing; at the destination nothing changes.',
    )
    .argument('<names...>', 'the syncs to forget')
    .option('--yes', 'do not ask')
    .addHelpText(
      'after',
      `
Example:
  spillway reset contacts --yes`,
    )
    .action(async (names: string[], { yes }: { yes?: boolean }, command: Command) => {
      const { config } = command.optsWithGlobals<{ config?: string }>()
      const syncs = selectSyncs(await loadSyncs(config), names)
      if (!yes && !(await confirmed(names.join(', ')))) return void process.stdout.write('nothing was forgotten\n')
      for (const sync of syncs) {
        await sync.reset()
        process.stdout.write(`${sync.name}: forgotten; the next run begins from nothing\n`)
      }
    })
}

async function confirmed(names: string): Promise<boolean> {
  if (!process.stdin.isTTY)
    throw new ConfigError(`reset ${names}: what was delivered would be sent again: add --yes if that is meant`)
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    const answer = await terminal.question(
      `Forget what ${names} delivered, and send it all again at the next run? [y/N] `,
    )
    return /^y(es)?$/i.test(answer.trim())
  } finally {
    terminal.close()
  }
}
