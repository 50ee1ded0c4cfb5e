import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { BSON } from 'mongodb'
import { onTestFinished } from 'vitest'

// biome-ignore lint/suspicious/noExplicitAny: whatever the driver says
type Command = { readonly [name: string]: any }

/**
 * As much of a MongoDB server as the real driver needs to find and to aggregate: it speaks the wire protocol
 * (https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol), keeps what it was asked, and gives all its documents in
 * answers of `batch`, whatever the filter says. `refuse` answers a command with an error.
 */
export async function startMongo(documents: object[], { batch = 2, refuse }: { batch?: number; refuse?: object } = {}) {
  const commands: Command[] = []
  const cursors = new Map<bigint, object[]>()
  const ns = 'shop.orders'

  function answer(command: Command): object {
    const [name] = Object.keys(command)
    if (name === 'hello' || name === 'isMaster' || name === 'ismaster') {
      return { isWritablePrimary: true, ismaster: true, maxWireVersion: 25, minWireVersion: 0, helloOk: true, ok: 1 }
    }
    if (name !== 'endSessions') commands.push(command)
    if (refuse && (name === 'find' || name === 'getMore')) return { ok: 0, ...refuse }
    if (name === 'find' || name === 'aggregate') {
      const id = documents.length > batch ? BigInt(cursors.size + 1) : 0n
      cursors.set(id, documents.slice(batch))
      return { cursor: { id, ns, firstBatch: documents.slice(0, batch) }, ok: 1 }
    }
    if (name === 'getMore') {
      const left = cursors.get(BigInt(command['getMore']))!
      const nextBatch = left.splice(0, batch)
      return { cursor: { id: left.length > 0 ? BigInt(command['getMore']) : 0n, ns, nextBatch }, ok: 1 }
    }
    return { ok: 1 }
  }

  function receive(socket: Socket, message: Buffer): void {
    const isQuery = message.readInt32LE(12) === 2004 // the driver's first message
    const start = isQuery ? message.indexOf(0, 20) + 9 : 21
    const body = BSON.serialize(answer(BSON.deserialize(message.subarray(start), { useBigInt64: true })))
    const head = Buffer.alloc(isQuery ? 36 : 21)
    head.writeInt32LE(head.length + body.length, 0)
    head.writeInt32LE(message.readInt32LE(4), 8)
    head.writeInt32LE(isQuery ? 1 : 2013, 12)
    if (isQuery) head.writeInt32LE(1, 32)
    socket.write(Buffer.concat([head, body]))
  }

  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    let waiting = Buffer.alloc(0)
    socket.on('close', () => sockets.delete(socket))
    socket.on('data', (data) => {
      waiting = Buffer.concat([waiting, data])
      while (waiting.length >= 4 && waiting.length >= waiting.readInt32LE(0)) {
        receive(socket, waiting.subarray(0, waiting.readInt32LE(0)))
        waiting = waiting.subarray(waiting.readInt32LE(0))
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await once(server, 'close')
  })
  const { port } = server.address() as AddressInfo
  return { url: `mongodb://127.0.0.1:${port}/?directConnection=true`, commands, sockets }
}
