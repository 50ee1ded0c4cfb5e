import { readFile } from 'node:fs/promises'
import { Command, Option } from 'commander'
import { redactError } from '../config.js'
import { type Duration, milliseconds } from '../duration.js'
import { ConfigError } from '../errors.js'
import type { Run, RunOptions } from '../run.js'
import { runEach } from '../run-all.js'
import type { Sync } from '../sync.js'
import { clean, count, json, some, span, speed } from './format.js'
import { liveScreen, noScreen, plainScreen, type Screen } from './progress.js'
import { loadSyncs, selectSyncs } from './project.js'
import { stopSignal } from './stop.js'

interface Options {
  readonly config?: string
  readonly debug?: boolean
  readonly deadline?: Duration
  readonly json?: boolean
  readonly quiet?: boolean
  readonly allowRejections?: boolean
  readonly fromStart?: boolean
  readonly done?: boolean
  readonly allowDeletes?: boolean
  readonly full?: boolean
  readonly plan?: string
}

/** How one sync ended. */
export type Outcome = { readonly sync: string } & ({ readonly run: Run } | { readonly error: Error })

export function runCommand(): Command {
  return withRunOptions(new Command('run'))
    .summary('read the sources and deliver what is to be delivered')
    .description('Runs syncs side by side: reads their sources and delivers what is to be delivered.')
    .argument('[names...]', 'the syncs to run (default: all)')
    .addOption(new Option('--from-start', 'where a reading broke off: read all of the source as new').conflicts('done'))
    .option('--done', 'where a reading broke off: take what was read for all there is')
    .option('--allow-deletes', 'delete more than deleteCeiling allows, everything even')
    .option('--full', 'send every row, also those that the destination has already')
    .option(
      '--plan <file>',
      'send just what `spillway plan --json` wrote into this file, or nothing when it is out of date',
    )
    .addHelpText(
      'after',
      `
Examples:
  spillway run                       every sync of spillway.config.ts
  spillway run contacts alerts       only these
  spillway run --deadline 55s        stop in time for a limit of one minute; the next run goes on
  spillway run --json | jq .rejected

Exit codes: 0 all delivered; 1 failed or incomplete; 2 usage or configuration; 3 done, but with rejected rows`,
    )
    .action(async (names: string[], _, command: Command) => {
      const given = command.optsWithGlobals<Options>()
      const plans = given.plan === undefined ? undefined : await digests(given.plan)
      const withPlan = (sync: Sync, options: RunOptions): RunOptions => {
        const digest = plans?.get(sync.name)
        if (plans && digest === undefined)
          throw new ConfigError(`${sync.name}: ${given.plan} holds no plan of this sync`)
        return { ...options, ...(digest !== undefined && { plan: { digest } }) }
      }
      process.exitCode = await runSyncs(names, given, (syncs, options) =>
        runEach(syncs, (sync) => withPlan(sync, options)),
      )
    })
}

export function redriveCommand(): Command {
  return withRunOptions(new Command('redrive'))
    .summary('send rejected rows again')
    .description('Sends dead letters again, once their cause is gone.')
    .argument('[names...]', 'the syncs whose dead letters to send (default: all)')
    .option('--reason <text>', 'only those whose reason contains this text')
    .addHelpText(
      'after',
      `
Examples:
  spillway redrive contacts
  spillway redrive --reason "invalid email"`,
    )
    .action(async (names: string[], { reason }: { reason?: string }, command: Command) => {
      const where = (letter: { readonly reason: string }) => reason === undefined || letter.reason.includes(reason)
      process.exitCode = await runSyncs(names, command.optsWithGlobals(), (syncs, options) =>
        syncs.map((sync) => sync.redrive({ ...options, where })),
      )
    })
}

export function adoptCommand(): Command {
  return new Command('adopt')
    .summary('take what a destination holds already for delivered')
    .description(
      'Reads the sources and takes their rows for delivered, without sending any. The next run sends what has changed since.',
    )
    .argument('<names...>', 'the syncs whose destinations are up to date')
    .option('--json', 'one JSON object for each finished run on standard output, and nothing else')
    .option('--quiet', 'no progress, and no summary of what went well')
    .action(async (names: string[], _, command: Command) => {
      process.exitCode = await runSyncs(names, command.optsWithGlobals(), (syncs, { signal }) =>
        syncs.map((sync) => sync.adopt({ signal })),
      )
    })
}

function withRunOptions(command: Command): Command {
  return command
    .option('--deadline <duration>', 'stop at a batch boundary after this long, such as 55s or 10min')
    .option('--json', 'one JSON object for each finished run on standard output, and nothing else')
    .option('--quiet', 'no progress, and no summary of what went well')
    .option('--allow-rejections', 'go on even when the destination has refused every row so far')
}

async function runSyncs(
  names: readonly string[],
  given: Options,
  start: (syncs: readonly Sync[], options: RunOptions) => readonly Promise<Run>[],
): Promise<number> {
  const { config, debug = false, deadline, json: machine = false, quiet = false } = given
  const limit = deadline && milliseconds(deadline, '--deadline')
  const syncs = selectSyncs(await loadSyncs(config), names)
  const screen = screenFor(machine || quiet)
  const stop = stopSignal()
  const options: RunOptions = {
    signal: stop.signal,
    deadline: limit ? new Date(Date.now() + limit) : undefined,
    allowRejections: given.allowRejections,
    allowDeletes: given.allowDeletes,
    full: given.full,
    brokenOff: given.fromStart ? 'from-start' : given.done ? 'done' : undefined,
    onProgress: (progress) => screen.update(progress),
  }
  try {
    const outcomes = await Promise.all(
      start(syncs, options).map(async (running, index): Promise<Outcome> => {
        const { name } = syncs[index]!
        const outcome = await running.then(
          (run) => ({ sync: name, run }),
          (error: unknown) => ({ sync: name, error: redactError(error) }),
        )
        if (machine) process.stdout.write(`${json(forMachines(outcome))}\n`)
        return outcome
      }),
    )
    screen.stop()
    if (!machine) for (const outcome of outcomes) tell(outcome, quiet)
    if (debug) for (const outcome of outcomes) if ('error' in outcome) console.error(outcome.error)
    return exitCode(outcomes)
  } finally {
    screen.stop()
    stop.release()
  }
}

/** The digests of saved plans, by the names of their syncs. */
async function digests(file: string): Promise<ReadonlyMap<string, string>> {
  const text = await readFile(file, 'utf8').catch((error) => {
    throw new ConfigError(`--plan ${file} cannot be read (${error.code}): save one with \`spillway plan --json\``)
  })
  const found = new Map<string, string>()
  try {
    for (const line of text.split('\n').filter(Boolean)) {
      const { sync, digest } = JSON.parse(line) as { sync?: unknown; digest?: unknown }
      if (typeof sync === 'string' && typeof digest === 'string') found.set(sync, digest)
    }
  } catch {
    throw new ConfigError(`--plan ${file} is not what \`spillway plan --json\` writes`)
  }
  return found
}

function screenFor(silent: boolean): Screen {
  if (silent) return noScreen
  return process.stderr.isTTY
    ? liveScreen(process.stderr, [process.stderr, process.stdout])
    : plainScreen(process.stderr)
}

function forMachines(outcome: Outcome): object {
  if ('run' in outcome) return outcome.run
  return { sync: outcome.sync, status: 'failed', error: outcome.error.name, reason: outcome.error.message }
}

function tell(outcome: Outcome, quiet: boolean): void {
  if ('error' in outcome) {
    const { message } = outcome.error
    const actor = message.startsWith(`${outcome.sync}: `) ? '' : `${outcome.sync}: `
    process.stderr.write(`spillway: ${actor}${message}\n`)
  } else if (!quiet || exitCode([outcome]) !== 0) process.stdout.write(`${summary(outcome.run)}\n`)
}

/** What a run did, for a person: a line, and below it what to know or to do. */
export function summary(run: Run): string {
  const lines = [
    `${run.sync}: ${run.status === 'done' ? '' : 'incomplete: '}${some(run.rows, 'row')}: ${parts(run)} in ${span(run.duration)} (${speed(run.rows, run.duration)})`,
  ]
  if (run.deletes.rows > 0)
    lines.push(`  gone from the source: ${some(run.deletes.rows, 'row')}: ${parts(run.deletes)}`)
  if (run.resumed.rows > 0) lines.push(`  of an earlier run: ${some(run.resumed.rows, 'row')}: ${parts(run.resumed)}`)
  if (run.resent > 0) lines.push(`  ${some(run.resent, 'row')} sent again, for want of an answer to the first time`)
  if (run.reason) lines.push(`  ${clean(run.reason)}`)
  if (run.rejected + run.deletes.rejected + run.resumed.rejected > 0)
    lines.push(`  why rows were rejected: spillway dead-letters --sync ${run.sync}`)
  return lines.join('\n')
}

function parts(counts: Run | Run['resumed']): string {
  const words = ['delivered', 'unchanged', 'rejected', 'pending', 'unknown', 'superseded'] as const
  return words
    .filter((word) => word === 'delivered' || counts[word] > 0)
    .map((word) => `${count(counts[word])} ${word}`)
    .join(', ')
}

/** 0 all delivered, 1 failed or incomplete, 2 configuration, 3 done but with rejected rows; of several, the one that comes first here: 2 1 3 0. */
export function exitCode(outcomes: readonly Outcome[]): number {
  if (outcomes.some((outcome) => 'error' in outcome && outcome.error instanceof ConfigError)) return 2
  const open = (run: Run) =>
    run.status !== 'done' || [run, run.deletes, run.resumed].some(({ pending, unknown }) => pending + unknown > 0)
  if (outcomes.some((outcome) => 'error' in outcome || open(outcome.run))) return 1
  return outcomes.some(
    (outcome) =>
      'run' in outcome && outcome.run.rejected + outcome.run.deletes.rejected + outcome.run.resumed.rejected > 0,
  )
    ? 3
    : 0
}
