import type { IncomingMessage, ServerResponse } from 'node:http'
import { collected, Refused } from './body.js'
import type { Hook, HookReply, HookRequest } from './hook.js'

/** Hands the requests of `node:http` to a hook. */
export function nodeHandlerOf(hook: Hook): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  return async (request, response) => send(response, await hook.answer(asHookRequest(request)))
}

/** What frameworks leave in a request of `node:http`. */
type Parsed = { readonly body?: unknown; readonly rawBody?: unknown; readonly originalUrl?: string }

function asHookRequest(request: IncomingMessage & Parsed): HookRequest {
  const { method = 'GET', headers, socket } = request
  const raw = [request.rawBody, request.body].find((body) => body instanceof Uint8Array)
  return {
    method,
    url: `${'encrypted' in socket ? 'https' : 'http'}://${headers.host}${request.originalUrl ?? request.url}`,
    header: (name) => headers[name.toLowerCase()]?.toString(),
    body: async (limit) => {
      if (raw) return collected([raw], limit)
      if (request.readableEnded) {
        throw new Refused(
          500,
          'the body was read before the webhook could see it: mount the webhook before what parses bodies',
        )
      }
      return collected(request, limit)
    },
  }
}

function send(response: ServerResponse, { status, headers, body }: HookReply): void {
  // what is left of a body that is too long is not waited for
  if (status === 413) response.setHeader('connection', 'close')
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) }).end(body)
}
