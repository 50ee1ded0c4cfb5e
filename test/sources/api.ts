import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

/** A request as it arrived. */
export interface Asked {
  readonly method: string
  /** Path and parameters. */
  readonly url: string
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

export interface Given {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Text goes out as it is, anything else as JSON. */
  readonly body?: unknown
}

/** A local API that answers as told, for one test; with all that it was asked. */
export async function startApi(answer: (asked: Asked, number: number) => Given | Promise<Given>) {
  const asked: Asked[] = []
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const piece of request.setEncoding('utf8')) text += piece
    const { pathname: path, searchParams } = new URL(request.url!, 'http://any')
    const query = Object.fromEntries(searchParams)
    const one = { method: request.method!, url: request.url!, path, query, headers: request.headers, body: text }
    asked.push(one)
    const { status = 200, headers = {}, body = '' } = await answer(one, asked.length)
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked }
}

/** Rows with these ids. */
export const rows = (...ids: number[]): { id: number }[] => ids.map((id) => ({ id }))
