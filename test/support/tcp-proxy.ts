import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A way to a server that can be cut off at a message. */
export interface TcpProxy {
  readonly port: number
  /**
   * Cuts the next connection on which a message with `words` is sent: before it is passed on, or when the server has answered, of
   * which nothing is passed back.
   */
  cut(words: string, when: 'before' | 'after the answer'): void
  /** How many connections were cut. */
  readonly cuts: number
  close(): Promise<void>
}

export async function tcpProxy(to: { host: string; port: number }): Promise<TcpProxy> {
  let next: { words: string; when: 'before' | 'after the answer' } | undefined
  let cuts = 0
  const open = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(to)
    let deaf = false
    const end = () => {
      near.destroy()
      far.destroy()
    }
    for (const socket of [near, far]) {
      open.add(socket)
      socket.on('error', end).on('close', end)
    }
    near.on('data', (data) => {
      if (next && data.includes(next.words)) {
        const { when } = next
        next = undefined
        cuts++
        if (when === 'before') return end()
        deaf = true
      }
      far.write(data)
    })
    far.on('data', (data) => {
      if (deaf) end()
      else near.write(data)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    cut(words, when) {
      next = { words, when }
    },
    get cuts() {
      return cuts
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of open) socket.destroy()
      }),
  }
}
