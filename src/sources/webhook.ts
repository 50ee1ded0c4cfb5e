import type { IncomingMessage, ServerResponse } from 'node:http'
import { ConfigError } from '../errors.js'
import type { Out, Schema } from '../schema.js'
import { createSource, type Source, sourceOf } from '../source.js'
import type { StoredEvent } from '../state/inbox.js'
import { type AnyRow, decodeTexts } from '../values.js'
import { collected } from './webhook/body.js'
import { type Finder, Hook, type WebhookOptions } from './webhook/hook.js'
import { nodeHandlerOf } from './webhook/node.js'
import type { Keys, SignedRequest, Verify } from './webhook/verify.js'

export type { Finder, Keys, SignedRequest, Verify, WebhookOptions }

/** An event with what is known of its delivery. */
export interface Envelope<R> {
  /** The sender's id of the delivery, which is the same when it is repeated; for want of one, a number. */
  readonly id: string
  readonly type: string | null
  readonly receivedAt: Date
  readonly event: R
}

/** The events of a union that have these types, where the union tells; otherwise all. */
export type OfType<R, T extends string> = [Extract<R, { type: T }>] extends [never] ? R : Extract<R, { type: T }>

/** Events as rows. */
export interface Events<R> extends Source<R> {
  /**
   * Only the events of these types: `type` for Stripe, Standard Webhooks and in general, `issues.opened` for GitHub (event and
   * action), the inner event's for Slack, `subscriptionType` for HubSpot, `event_type` for Typeform.
   */
  on<const T extends string>(...types: readonly [T, ...T[]]): Events<OfType<R, T>>
  /** The same events, each in an envelope that tells its delivery id, type and time of arrival. */
  readonly envelopes: Source<Envelope<R>>
}

/** A source that is sent its rows. */
export interface Webhook<R> extends Events<R> {
  /**
   * Takes a request and answers it: 200 when its events are durable, or were before; 401, 405, 413, 415, 400 and 422 when they are
   * not taken; 503 with `Retry-After` when they could not be stored. It never rejects, and needs no `this`.
   */
  fetch(request: Request): Promise<Response>
  /** Gives back the state, which the next request opens again. */
  close(): Promise<void>
}

/**
 * Events that others send, as a source. They are durable before they are acknowledged, and kept until every sync that reads them
 * has staged them: each sync has its own place in the inbox, which moves in the commit that makes its rows durable. A delivery that
 * is repeated is acknowledged, and not stored again. The state is on a disk, which must outlive the process that receives.
 *
 * A row is the event's JSON as it came, or what `record` gives out: what does not fit is refused with 422. An array and JSON lines
 * are several events; a form is one, of its fields. `envelopes` tells the id, the type and the time of each.
 *
 * Mount `fetch` wherever there are requests of the web platform (Hono, Next.js, serverless functions), {@link nodeHandler} in
 * Express and `node:http`, or leave the serving to `spillway serve`. `sync.run()` reads what the inbox holds; `sync.start()` goes on.
 *
 * @example
 * ```ts
 * const hook = webhook({ name: 'stripe', verify: { scheme: 'stripe', secret: secret('STRIPE_WEBHOOK_SECRET') } })
 * const customers = hook.on('customer.created', 'customer.updated').map((event) => event.data.object)
 * app.post('/stripe', (context) => hook.fetch(context.req.raw))
 * ```
 *
 * @throws ConfigError for options that cannot work. A key that is missing is told when the first request comes.
 */
export function webhook<S extends Schema>(options: WebhookOptions & { readonly record: S }): Webhook<Out<S> & object>
export function webhook<R extends object = AnyRow>(options: WebhookOptions): Webhook<R>
export function webhook(options: WebhookOptions & { readonly record?: Schema }): Webhook<AnyRow> {
  const hook = new Hook(options)
  const shaped = <R extends object>(
    types: ReadonlySet<string> | undefined,
    shape: (events: readonly StoredEvent[]) => readonly R[],
  ): Source<R> =>
    createSource({
      name: hook.name,
      async *read(reading) {
        for await (const page of hook.events(reading)) {
          const wanted = types ? page.filter(({ type }) => type !== null && types.has(type)) : page
          if (wanted.length > 0) yield shape(wanted)
        }
      },
      arrivals: (signal) => hook.arrivals(signal),
      inbox: hook,
    })
  const events = (types: ReadonlySet<string> | undefined): Events<AnyRow> => ({
    ...shaped(types, bare),
    on: (...wanted) => events(new Set(types ? wanted.filter((type) => types.has(type)) : wanted)),
    envelopes: shaped(types, enveloped),
  })
  return {
    ...events(undefined),
    async fetch(request) {
      const { status, headers, body } = await hook.answer({
        method: request.method,
        url: request.url,
        header: (name) => request.headers.get(name) ?? undefined,
        body: (limit) => collected(request.body ?? [], limit),
      })
      return new Response(body, { status, headers })
    },
    close: () => hook.close(),
  }
}

function bare(events: readonly StoredEvent[]): readonly AnyRow[] {
  return decodeTexts(events.map(({ row }) => row))
}

function enveloped(events: readonly StoredEvent[]): readonly Envelope<AnyRow>[] {
  const rows = bare(events)
  return events.map(({ id, delivery, type, at }, index) => ({
    id: delivery ?? String(id),
    type,
    receivedAt: new Date(at),
    event: rows[index]!,
  }))
}

/**
 * A handler for `node:http`, Express, and Fastify's raw requests. The signature covers the bytes as they came: mount it before
 * anything that reads the body, or behind `express.raw({ type: '*\/*' })`.
 *
 * @example
 * ```ts
 * createServer(nodeHandler(hook)).listen(8080, '127.0.0.1')
 * app.post('/stripe', nodeHandler(hook))
 * ```
 *
 * @throws ConfigError when it is not given a webhook.
 */
export function nodeHandler(
  webhook: Webhook<unknown>,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const { inbox } = sourceOf(webhook, 'nodeHandler')
  if (!(inbox instanceof Hook)) throw new ConfigError('nodeHandler: give it a webhook, as webhook({ name }) makes it')
  return nodeHandlerOf(inbox)
}
