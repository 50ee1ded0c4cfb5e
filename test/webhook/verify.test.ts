import { Webhook as StandardWebhook } from 'standardwebhooks'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { ConfigError, secret } from '../../src/index.js'
import { schemeOf, type Verify } from '../../src/sources/webhook/verify.js'
import { hmac, signers } from './signing.js'
import { hook, rowsOf } from './support.js'

afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllEnvs()
})

/** Whether a verifier takes a request, without a webhook around it. */
function takes(verify: Verify, headers: Readonly<Record<string, string>>, body: string, url = 'http://localhost/hook') {
  const scheme = schemeOf(verify, 'webhook test', '.spillway')
  return scheme.verify({ method: 'POST', url, header: (name) => headers[name], body: Buffer.from(body) })
}

describe("a signature that the vendor's own documents give", () => {
  it('of Standard Webhooks is taken', () => {
    // https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, the example of its libraries
    vi.setSystemTime(1_614_265_330_000)
    const headers = {
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    }
    const verify: Verify = { scheme: 'standard', secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' }
    expect(takes(verify, headers, '{"test": 2432232314}')).toBe(true)
  })

  it('of GitHub is taken', () => {
    // https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    const signature = 'sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17'
    const verify: Verify = { scheme: 'github', secret: "It's a Secret to Everybody" }
    expect(takes(verify, { 'x-hub-signature-256': signature }, 'Hello, World!')).toBe(true)
  })

  it('of Slack is taken', () => {
    // https://docs.slack.dev/authentication/verifying-requests-from-slack
    vi.setSystemTime(1_531_420_618_000)
    const body =
      'token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c'
    const headers = {
      'x-slack-request-timestamp': '1531420618',
      'x-slack-signature': 'v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503',
    }
    expect(takes({ scheme: 'slack', secret: '8f742231b10e8888abcd99yyyzzz85a5' }, headers, body)).toBe(true)
  })

  it('as the package standardwebhooks makes it is taken', () => {
    const key = `whsec_${Buffer.from('a key of twenty-four byte').toString('base64')}`
    const at = new Date()
    const headers = {
      'svix-id': 'msg_2',
      'svix-timestamp': `${Math.floor(at.getTime() / 1000)}`,
      'svix-signature': `v1,AAAA ${new StandardWebhook(key).sign('msg_2', at, '{"a":1}')}`,
    }
    expect(takes({ scheme: 'standard', secret: key }, headers, '{"a":1}')).toBe(true)
    expect(takes({ scheme: 'standard', secret: key }, headers, '{"a":2}')).toBe(false)
  })
})

const keys = { standard: `whsec_${Buffer.from('one key').toString('base64')}`, other: 'whsec_b3RoZXI=' }
const schemes = [
  { scheme: 'standard', secret: keys.standard },
  { scheme: 'stripe', secret: keys.standard },
  { scheme: 'slack', secret: keys.standard },
  { scheme: 'github', secret: keys.standard },
  { scheme: 'typeform', secret: keys.standard },
  { scheme: 'hubspot', secret: keys.standard },
  { scheme: 'hmac', secret: keys.standard, header: 'x-signature', prefix: 'sha256=', timestamp: 'x-time' },
] as const satisfies readonly Verify[]
const body = '{"n":1,"attemptNumber":0}'

describe.each(schemes.filter(({ scheme }) => scheme !== 'github' && scheme !== 'typeform'))(
  '$scheme, which signs the time',
  (verify) => {
    it('is taken for five minutes, before or after, or for as long as is said', () => {
      const age = (seconds: number, given: Verify = verify) => {
        const signed = signers[verify.scheme]!(body, keys.standard, Date.now() - seconds * 1000)
        return takes(given, signed, body)
      }
      expect([-310, -290, 0, 290, 310].map((seconds) => age(seconds))).toEqual([false, true, true, true, false])
      expect(age(310, { ...verify, tolerance: '10min' } as Verify)).toBe(true)
      expect(age(20, { ...verify, tolerance: '10s' } as Verify)).toBe(false)
    })
  },
)

describe.each(schemes)('$scheme', (verify) => {
  const sign = (key: string, at = Date.now()) => signers[verify.scheme]!(body, key, at)

  it('is taken signed by any of the keys, and not signed by another, over another body, or unsigned', () => {
    const two = { ...verify, secret: [keys.other, keys.standard] } as Verify
    expect(takes(two, sign(keys.standard), body)).toBe(true)
    expect(takes(two, sign(keys.other), body)).toBe(true)
    expect(takes(verify, sign(keys.other), body)).toBe(false)
    expect(takes(verify, sign(keys.standard), `${body} `)).toBe(false)
    expect(takes(verify, {}, body)).toBe(false)
  })

  it('changed in any character of a header that is signed, or is the signature, is not taken', () => {
    const signed = sign(keys.standard)
    const proof = Object.keys(signed).filter((name) => !['x-github-delivery', 'x-github-event'].includes(name))
    for (const name of proof) {
      const value = signed[name]!
      for (let at = 0; at < value.length; at++) {
        const other = value[at] === '1' ? '2' : '1'
        const headers = { ...signed, [name]: value.slice(0, at) + other + value.slice(at + 1) }
        // of Stripe's header, what stands behind the one signature that counts is for older versions
        if (verify.scheme === 'stripe' && at >= value.indexOf(',v0')) continue
        expect(takes(verify, headers, body), `${name} ${headers[name]}`).toBe(false)
      }
    }
  })
})

describe('HubSpot', () => {
  const verify = { scheme: 'hubspot', secret: 'client secret' } as const
  const sign = (address: string) => {
    const at = `${Date.now()}`
    return {
      'x-hubspot-request-timestamp': at,
      'x-hubspot-signature-v3': hmac('client secret', `POST${address}${body}${at}`, 'base64'),
    }
  }

  it('signs the address that it was told, which a proxy may have changed', () => {
    const headers = sign('https://example.com/hooks/hubspot?portal=1')
    expect(takes(verify, headers, body, 'http://10.0.0.7:4020/hubspot?portal=1')).toBe(false)
    const url = 'https://example.com/hooks/hubspot?portal=1'
    expect(takes({ ...verify, url }, headers, body, 'http://10.0.0.7:4020/hubspot?portal=1')).toBe(true)
  })

  it('signs an address as it reads, of which the request escapes some characters', () => {
    const headers = sign("https://example.com/hook?to=a@b.c:d/e&f='(g)'%20")
    const url = 'https://example.com/hook?to=a%40b.c%3Ad%2Fe&f=%27%28g%29%27%20'
    expect(takes(verify, headers, body, url)).toBe(true)
  })
})

it.each<[string, Record<string, string>, string, string, string]>([
  ['github', { 'x-github-event': 'issues' }, '{"action":"opened"}', 'issues.opened', 'guid-1'],
  ['github', { 'x-github-event': 'push' }, '{}', 'push', 'guid-1'],
  ['stripe', {}, '{"id":"evt_1","type":"customer.created"}', 'customer.created', 'evt_1'],
  ['standard', {}, '{"type":"invoice.paid"}', 'invoice.paid', 'msg_1'],
  ['slack', {}, '{"type":"event_callback","event_id":"Ev1","event":{"type":"message"}}', 'message', 'Ev1'],
  ['typeform', {}, '{"event_id":"t1","event_type":"form_response"}', 'form_response', 't1'],
])('%s: an event tells its type and its id', async (scheme, more, body, type, id) => {
  const { receive, envelopes } = await hook({ verify: { scheme, secret: keys.standard } as Verify })
  const response = await receive({ headers: { ...signers[scheme]!(body, keys.standard, Date.now()), ...more }, body })
  expect(response.status).toBe(200)
  expect(await rowsOf(envelopes)).toEqual([{ id, type, receivedAt: expect.any(Date), event: JSON.parse(body) }])
})

it("answers Slack's test of the address, once it is signed, and keeps nothing of it", async () => {
  const { receive, source } = await hook({ verify: { scheme: 'slack', secret: 'key' } })
  const body = '{"type":"url_verification","token":"t","challenge":"3eZbrw1a"}'
  expect((await receive({ headers: signers['slack']!(body, 'other', Date.now()), body })).status).toBe(401)
  const response = await receive({ headers: signers['slack']!(body, 'key', Date.now()), body })
  expect([response.status, await response.text()]).toEqual([200, '3eZbrw1a'])
  expect(await rowsOf(source)).toEqual([])
})

it('a repeat from HubSpot is known although it tells which attempt it is', async () => {
  const { receive, source } = await hook({ verify: { scheme: 'hubspot', secret: 'key' } })
  const send = async (attemptNumber: number) => {
    const events = [1, 2].map((objectId) => ({
      eventId: 100,
      objectId,
      subscriptionType: 'contact.creation',
      attemptNumber,
    }))
    const body = JSON.stringify(events)
    return (await receive({ headers: signers['hubspot']!(body, 'key', Date.now()), body })).json()
  }
  expect(await send(0)).toEqual({ received: 2 })
  expect(await send(1)).toEqual({ received: 0, repeated: 2 })
  expect(await rowsOf(source.on('contact.creation'))).toHaveLength(2)
})

it('a function of your own may verify', async () => {
  const { receive } = await hook({ verify: async ({ header, body }) => header('x-length') === String(body.length) })
  expect((await receive({ headers: { 'x-length': '2' }, body: '{}' })).status).toBe(200)
  expect((await receive({ headers: { 'x-length': '3' }, body: '{}' })).status).toBe(401)
})

it('a key comes from the environment, and one that is missing keeps every event out, and is told to the owner alone', async () => {
  const missing = await hook({ verify: { scheme: 'github', secret: secret('HOOK_KEY') } })
  const signed = { headers: signers['github']!('{}', 'key of the hook', 0), body: '{}' }
  const refused = await missing.receive(signed)
  expect([refused.status, refused.headers.get('retry-after'), await refused.json()]).toEqual([
    503,
    '30',
    { error: 'the event could not be stored; send it again' },
  ])
  expect(missing.lines.join()).toContain('secret HOOK_KEY is missing')
  vi.stubEnv('HOOK_KEY', 'key of the hook')
  expect((await missing.receive(signed)).status).toBe(200)
})

it.each<[string, object, string]>([
  ['no scheme', { scheme: 'strype', secret: 'key' }, '"strype" is not a scheme; the schemes are standard, stripe'],
  ['no key', { scheme: 'stripe', secret: [] }, 'verify.secret is missing'],
  ['an empty key', { scheme: 'stripe', secret: '' }, 'verify.secret is empty'],
  ['a key that is no base64', { scheme: 'standard', secret: 'whsec_' }, 'verify.secret is'],
  ['no header', { scheme: 'hmac', secret: 'key' }, 'verify.header is missing'],
  ['no duration', { scheme: 'slack', secret: 'key', tolerance: '5m' }, 'verify.tolerance: "5m" is not a duration'],
])('a verifier with %s is refused', (_, verify, message) => {
  const make = () => schemeOf(verify as Verify, 'webhook test', '.spillway')
  expect(make).toThrow(ConfigError)
  expect(make).toThrow(`webhook test: ${message}`)
})
