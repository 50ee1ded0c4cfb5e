import { ConfigError } from '../errors.js'
import { fullJitter, onAbort, sleep } from '../pace.js'
import { type Address, actor, explained, type Line, lineTo, mayPass, patience } from './postgres-connection.js'
import { quoted } from './sql.js'

/** How long a silent connection is trusted, and how long it may take to answer then, in milliseconds. */
const pulse = { every: 60_000, within: 10_000 }

/** @throws ConfigError when one is none: PostgreSQL would cut a longer name off, and hear nothing. */
export function channelsOf(listen: string | readonly string[]): readonly string[] {
  const channels = typeof listen === 'string' ? [listen] : listen
  const fits = (name: unknown) => typeof name === 'string' && name !== '' && Buffer.byteLength(name) <= 63
  if (!Array.isArray(channels) || channels.length === 0 || !channels.every(fits)) {
    throw new ConfigError(`${actor}: \`listen\` must be the name of a channel, of at most 63 bytes, or a list of them`)
  }
  return channels
}

/**
 * Yields when it has begun to listen, then when something was notified; what comes while nobody asks is one arrival. A
 * connection that is lost, or answers no more, is replaced, as often as it takes, and that is an arrival too: something
 * may have been missed. Ends with the signal.
 *
 * @throws SourceError when it cannot connect at first, or the server refuses it later.
 */
export async function* arrivals(
  address: Address,
  channels: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<void> {
  let heard = false
  for (let attempt = 1; !signal.aborted; attempt++) {
    const line = await lineTo(address)
    try {
      await line.open(signal)
      for await (const _ of notifications(line, channels, signal)) {
        heard = true
        attempt = 0
        yield
      }
    } catch (error) {
      if (signal.aborted) return
      if (!heard || !mayPass(error)) throw explained(error, line.client)
    }
    await sleep(fullJitter(attempt || 1), signal).catch(() => {}) // it ends with the signal, as does this
  }
}

/** Those of one connection, until it is lost or the signal aborts. It is closed then. */
async function* notifications(
  { client, cut }: Line,
  channels: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<void> {
  let arrived = true
  let lost = false
  let wake = (): void => {}
  const lose = () => {
    lost = true
    wake()
  }
  client.on('error', lose)
  client.on('end', lose)
  client.on('notification', () => {
    arrived = true
    wake()
  })
  let closed: Promise<void> | undefined
  const close = async () => {
    const late = setTimeout(cut, patience.stop)
    await client.end().finally(() => clearTimeout(late))
  }
  // at once, though nobody may be asking for an arrival
  const ignore = onAbort(signal, () => {
    closed = close()
    wake()
  })
  try {
    await client.query(channels.map((channel) => `listen ${quoted(channel)}`).join(';'))
    while (!lost && !signal.aborted) {
      if (arrived) {
        arrived = false
        yield
        continue
      }
      const silent = await new Promise<boolean>((resolve) => {
        const timer = setTimeout(() => resolve(true), pulse.every)
        wake = () => {
          clearTimeout(timer)
          resolve(false)
        }
      })
      // nothing tells that the way to the server was lost, but that it does not answer
      if (silent) {
        await client.query({ text: 'select', query_timeout: pulse.within } as { text: string }).catch((error) => {
          lost = true
          throw error
        })
      }
    }
  } finally {
    ignore()
    if (lost) cut()
    else await (closed ?? close())
  }
}
