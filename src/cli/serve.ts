import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Command } from 'commander'
import { ConfigError } from '../errors.js'
import { Hook } from '../sources/webhook/hook.js'
import { nodeHandlerOf } from '../sources/webhook/node.js'
import { definitionOfSync, type Sync } from '../sync.js'
import { loadSyncs, selectSyncs } from './project.js'
import { exitCode, summary } from './run.js'
import { port } from './sandbox.js'
import { stopSignal } from './stop.js'

interface Options {
  readonly config?: string
  readonly port: number
  readonly host: string
}

export function serveCommand(): Command {
  return new Command('serve')
    .summary('receive webhooks, and run the syncs whenever there is something')
    .description(
      'Listens for the webhooks that syncs read, each under a path of its own, and runs the syncs whenever their sources have something or their `every` has passed. Events are durable before they are acknowledged.',
    )
    .argument('[names...]', 'the syncs to run (default: all that say when)')
    .option('--port <number>', 'where it listens', port, 4020)
    .option('--host <address>', 'the address it listens on; 0.0.0.0 for all of this machine', '127.0.0.1')
    .addHelpText(
      'after',
      `
Examples:
  spillway serve
  spillway serve signups --host 0.0.0.0 --port 8080

It ends at the first SIGINT or SIGTERM, at a batch boundary; events that have arrived are kept for the next start.`,
    )
    .action(async (names: string[], _, command: Command) => {
      const { config, host, port } = command.optsWithGlobals<Options>()
      await serve(startable(selectSyncs(await loadSyncs(config), names), names.length > 0), { host, port })
    })
}

/** The syncs that say when they are to run. The others are left out, unless they were asked for: `start` then says what is missing. */
function startable(syncs: readonly Sync[], asked: boolean): readonly Sync[] {
  const ready = syncs.filter((sync) => {
    const { source, every } = definitionOfSync(sync)
    return asked || source.arrivals !== undefined || every !== undefined
  })
  for (const { name } of syncs.filter((sync) => !ready.includes(sync))) {
    process.stdout.write(`${name}: left to \`spillway run\`, for it has neither a webhook nor \`every\`\n`)
  }
  if (ready.length === 0)
    throw new ConfigError('no sync says when to run: give one a webhook as its source, or `every`')
  return ready
}

async function serve(syncs: readonly Sync[], { host, port }: { host: string; port: number }): Promise<void> {
  const hooks = hooksOf(syncs)
  for (const hook of hooks.values()) await hook.ready()
  const server = hooks.size > 0 ? await listen(hooks, host, port) : undefined
  if (server) {
    const { port: taken } = server.address() as AddressInfo
    for (const { name, path } of hooks.values()) {
      process.stdout.write(`${name}: receives at http://${host.includes(':') ? `[${host}]` : host}:${taken}${path}\n`)
    }
  }
  const stop = stopSignal()
  const failed = new AbortController()
  const signal = AbortSignal.any([stop.signal, failed.signal])
  try {
    const ends = await Promise.allSettled(
      syncs.map((sync) =>
        sync
          .start({
            signal,
            onRun(run) {
              if (run.rows + run.resumed.rows > 0 || exitCode([{ sync: run.sync, run }]) !== 0) {
                process.stdout.write(`${summary(run)}\n`)
              }
            },
          })
          .catch((error) => {
            failed.abort() // what is misconfigured should be seen, and not be half alive
            throw error
          }),
      ),
    )
    const wrong = ends.find((end) => end.status === 'rejected')
    if (wrong) throw wrong.reason
  } finally {
    if (server) await closed(server)
    for (const hook of hooks.values()) await hook.close()
    stop.release()
  }
}

/** The webhooks that these syncs read, by their paths. */
function hooksOf(syncs: readonly Sync[]): ReadonlyMap<string, Hook> {
  const hooks = new Map<string, Hook>()
  for (const sync of syncs) {
    const { inbox } = definitionOfSync(sync).source
    if (!(inbox instanceof Hook)) continue
    const other = hooks.get(inbox.path)
    if (other && other !== inbox) {
      throw new ConfigError(
        `${other.where} and ${inbox.where} are both at ${inbox.path}: make the webhook once, and give one of two another name and path`,
      )
    }
    hooks.set(inbox.path, inbox)
  }
  return hooks
}

async function listen(hooks: ReadonlyMap<string, Hook>, host: string, port: number): Promise<Server> {
  const handlers = new Map([...hooks].map(([path, hook]) => [path, nodeHandlerOf(hook)]))
  const server = createServer({ requestTimeout: 30_000 }, (request, response) => {
    const [path] = request.url!.split('?')
    const handler = handlers.get(path!)
    if (handler) void handler(request, response)
    else response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"there is no webhook here"}\n')
  })
  try {
    server.listen(port, host)
    await once(server, 'listening')
  } catch (error) {
    throw new ConfigError(
      `serve: cannot listen at ${host}:${port} (${(error as NodeJS.ErrnoException).code}); choose another --port or --host`,
    )
  }
  return server
}

/** No new connections; requests under way are answered. */
async function closed(server: Server): Promise<void> {
  const done = new Promise<void>((resolve) => server.close(() => resolve()))
  server.closeIdleConnections()
  await done
}
