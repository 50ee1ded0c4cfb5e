#!/usr/bin/env node
import { Console } from 'node:console'
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { redactError } from '../config.js'
import { ConfigError } from '../errors.js'
import { deadLettersCommand } from './dead-letters.js'
import { initCommand } from './init.js'
import { planCommand } from './plan.js'
import { resetCommand } from './reset.js'
import { adoptCommand, redriveCommand, runCommand } from './run.js'
import { sandboxCommand } from './sandbox.js'
import { serveCommand } from './serve.js'
import { statusCommand } from './status.js'
import { verifyCommand } from './verify.js'

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const program = new Command('spillway')
  .description('Delivers rows to where they are needed: batched, retried, paced, and resumed after a crash.')
  .version(version)
  .option('--config <file>', 'the file that exports the syncs (default: spillway.config.ts, .mts, .js or .mjs)')
  .option('--debug', 'the whole of an error, with where it came from')
  .configureHelp({ showGlobalOptions: true })
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'spillway: ')) })
  .exitOverride()
  .hook('preAction', (_, command) => {
    // Before the config is loaded: what it and its handlers print must not stand among the objects.
    if (command.opts<{ json?: boolean }>().json) globalThis.console = new Console(process.stderr)
  })
for (const command of [
  runCommand(),
  serveCommand(),
  planCommand(),
  verifyCommand(),
  adoptCommand(),
  statusCommand(),
  deadLettersCommand(),
  redriveCommand(),
  resetCommand(),
  initCommand(version),
  sandboxCommand(),
]) {
  program.addCommand(
    command.copyInheritedSettings(program).showHelpAfterError(`(spillway ${command.name()} --help says more)`),
  )
}

// `spillway dead-letters | head` closes our output early; a run goes on without it.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
}

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = explained(error)
}
// What a config file leaves open, a pool of connections say, must not keep the process alive; output is written first.
process.stdout.write('', () => process.stderr.write('', () => process.exit()))

function explained(error: unknown): number {
  // commander has printed what there is to say: help and version end with 0, wrong usage with 1, which is 2 here.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const safe = redactError(error)
  process.stderr.write(`spillway: ${safe.message}\n`)
  if (program.opts<{ debug?: boolean }>().debug) console.error(safe)
  return error instanceof ConfigError ? 2 : 1
}
