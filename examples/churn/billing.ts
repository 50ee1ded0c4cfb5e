// A stand-in for a billing API in the manner of Stripe's: subscriptions in pages, and what customers did lately.
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Subscription {
  readonly id: string
  readonly customer: string
  readonly status: 'active' | 'past_due'
  /** Unix seconds, as the API has them. */
  readonly created: number
  readonly cancel_at_period_end: boolean
  readonly plan: { readonly amount: number }
}

export async function billingApi(count: number) {
  const subscriptions: Subscription[] = Array.from({ length: count }, (_, n) => ({
    id: `sub_${String(n).padStart(5, '0')}`,
    customer: `cus_${String(n).padStart(5, '0')}`,
    status: n % 11 === 0 ? 'past_due' : 'active',
    created: 1_700_000_000 + n * 40_000,
    cancel_at_period_end: n % 17 === 0,
    plan: { amount: [900, 2_900, 9_900][n % 3]! },
  }))
  const server = createServer((request, response) => {
    const url = new URL(request.url!, 'http://billing')
    if (request.headers.authorization !== 'Bearer sk_test') return answer(response, 401, { error: 'no such key' })
    if (url.pathname === '/v1/subscriptions') {
      const after = url.searchParams.get('starting_after')
      const start = after === null ? 0 : subscriptions.findIndex(({ id }) => id === after) + 1
      const data = subscriptions.slice(start, start + 100)
      return answer(response, 200, { data, has_more: start + data.length < count })
    }
    if (url.pathname === '/v1/usage') {
      const customers = url.searchParams.get('customers')!.split(',')
      // days since somebody last signed in
      return answer(response, 200, Object.fromEntries(customers.map((id) => [id, (Number(id.slice(4)) * 7) % 45])))
    }
    answer(response, 404, { error: 'no such page' })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** A customer asks to leave. */
    cancel(customer: string): void {
      const at = subscriptions.findIndex((one) => one.customer === customer)
      subscriptions[at] = { ...subscriptions[at]!, cancel_at_period_end: true }
    },
    close: () => new Promise((resolve) => server.close(resolve)),
  }
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
