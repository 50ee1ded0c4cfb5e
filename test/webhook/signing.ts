import { createHmac } from 'node:crypto'

/** What a sender would put on a request. */
export interface Signed {
  readonly url?: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** A request with a body of JSON, unless the headers say otherwise. */
export function request({ url = 'http://localhost/hook', headers, body }: Signed): Request {
  return new Request(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body })
}

export function hmac(key: string | Buffer, text: string, encoding: 'hex' | 'base64' = 'hex'): string {
  return createHmac('sha256', key).update(text).digest(encoding)
}

/** The events of each vendor, signed as its documents say, by another hand than the product's. */
export const signers: Readonly<
  Record<string, (body: string, key: string, at: number) => Readonly<Record<string, string>>>
> = {
  standard: (body, key, at) => {
    const time = Math.floor(at / 1000)
    const signature = hmac(Buffer.from(key.slice('whsec_'.length), 'base64'), `msg_1.${time}.${body}`, 'base64')
    return { 'webhook-id': 'msg_1', 'webhook-timestamp': `${time}`, 'webhook-signature': `v1,${signature}` }
  },
  stripe: (body, key, at) => {
    const time = Math.floor(at / 1000)
    return { 'stripe-signature': `t=${time},v1=${hmac(key, `${time}.${body}`)},v0=00` }
  },
  slack: (body, key, at) => {
    const time = Math.floor(at / 1000)
    return { 'x-slack-request-timestamp': `${time}`, 'x-slack-signature': `v0=${hmac(key, `v0:${time}:${body}`)}` }
  },
  github: (body, key) => ({
    'x-github-delivery': 'guid-1',
    'x-github-event': 'issues',
    'x-hub-signature-256': `sha256=${hmac(key, body)}`,
  }),
  typeform: (body, key) => ({ 'typeform-signature': `sha256=${hmac(key, body, 'base64')}` }),
  hubspot: (body, key, at) => ({
    'x-hubspot-request-timestamp': `${at}`,
    'x-hubspot-signature-v3': hmac(key, `POSThttp://localhost/hook${body}${at}`, 'base64'),
  }),
  hmac: (body, key, at) => {
    const time = Math.floor(at / 1000)
    return { 'x-time': `${time}`, 'x-signature': `sha256=${hmac(key, `${time}.${body}`)}` }
  },
}
