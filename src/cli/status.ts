import { Command } from 'commander'
import type { SyncStatus } from '../sync.js'
import { clean, count, json, moment, plain, table } from './format.js'
import { loadSyncs, selectSyncs } from './project.js'

export function statusCommand(): Command {
  return new Command('status')
    .summary('show where each sync stands')
    .description('Shows where each sync stands, also while a run goes on in another process.')
    .argument('[names...]', 'the syncs to show (default: all)')
    .option('--json', 'one JSON object for each sync')
    .addHelpText(
      'after',
      `
Examples:
  spillway status
  spillway status contacts --json`,
    )
    .action(async (names: string[], options: { json?: boolean }, command: Command) => {
      const { config } = command.optsWithGlobals<{ config?: string }>()
      const syncs = selectSyncs(await loadSyncs(config), names)
      const all = await Promise.all(syncs.map((sync) => sync.status()))
      process.stdout.write(options.json ? all.map((status) => `${json(status)}\n`).join('') : `${statusTable(all)}\n`)
    })
}

/** One line for each sync. */
function statusTable(all: readonly SyncStatus[]): string {
  const header = ['sync', 'state', 'last run', 'delivered', 'pending', 'unknown', 'dead letters', 'cursor']
  return table(
    header,
    all.map(({ sync, running, lastRun, pending, unknown, deadLetters, cursor }) => [
      clean(sync),
      running ? 'running' : (lastRun?.state ?? 'never run'),
      lastRun ? moment(lastRun.startedAt) : '',
      lastRun?.delivered === undefined ? '' : count(lastRun.delivered),
      count(pending),
      count(unknown),
      count(deadLetters),
      plain(cursor),
    ]),
  )
}
