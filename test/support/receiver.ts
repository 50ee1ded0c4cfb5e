import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** A request to write, as it arrived. */
export interface Call {
  /** Which launch of the sender made it. */
  readonly launch: number
  readonly key: string
  readonly ids: readonly number[]
}

/** A destination that outlives whoever sends to it, and remembers everything. */
export interface Receiver {
  readonly url: string
  readonly calls: readonly Call[]
  /** What was applied, in order. */
  readonly applied: readonly number[]
  /** Looks at a request to write at the moment of its arrival. */
  onArrival: (call: Call) => void
  close(): Promise<void>
}

/** `honoursKeys`: a second request with the same idempotency key is answered and not applied again. */
export async function startReceiver({ honoursKeys = false, latency = 4 } = {}): Promise<Receiver> {
  const calls: Call[] = []
  const applied: number[] = []
  const keys = new Set<string>()
  const server = createServer(async (request, response) => {
    try {
      const ids = JSON.parse(await text(request)) as number[]
      if (request.url === '/there') {
        const there = new Set(applied)
        response.end(JSON.stringify(ids.filter((id) => there.has(id))))
        return
      }
      const call = { launch: Number(request.headers['launch']), key: String(request.headers['idempotency-key']), ids }
      calls.push(call)
      receiver.onArrival(call)
      // whoever sent it may be killed before it is applied, or between that and the answer
      await sleep(Math.random() * latency)
      if (!honoursKeys || !keys.has(call.key)) applied.push(...ids)
      keys.add(call.key)
      await sleep(Math.random() * latency)
      response.end()
    } catch (error) {
      response.writeHead(400).end(String(error))
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    applied,
    onArrival() {},
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return receiver
}

async function text(request: IncomingMessage): Promise<string> {
  let body = ''
  for await (const piece of request) body += piece
  return body
}
