import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { Verify } from '../../src/sources/webhook.js'
import { request, signers } from './signing.js'
import { hook, rowsOf } from './support.js'

const key = `whsec_${Buffer.from('the right key').toString('base64')}`
const names = Object.keys(signers)
const verifyOf = (scheme: string): Verify =>
  ({
    scheme,
    secret: key,
    ...(scheme === 'hmac' && { header: 'x-signature', prefix: 'sha256=', timestamp: 'x-time' }),
  }) as Verify

const kinds = [
  'application/json',
  'application/x-ndjson',
  'application/x-www-form-urlencoded',
  'text/plain',
  'application/json; charset=utf-16',
  ';;',
  '',
]
const type = fc.oneof(
  fc.constantFrom(...kinds),
  fc.string().map((text) => text.replace(/[^ -~]/g, '')),
)
const body = fc.oneof(
  fc.json(),
  fc.array(fc.json()).map((all) => all.join('\n')),
  fc.uint8Array({ maxLength: 200 }),
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    '{"__proto__":{"x":1}}',
    '[{"a":1e999}]',
    '{"a":"\\ud800"}',
    '{"$":"bigint","v":"x"}',
    '123456789012345678901234567890',
  ),
)
const refused = [400, 413, 415, 422]

it('whatever comes is taken as events or refused; what was taken can be read again', async () => {
  const { source } = await hook({ bodyLimit: 150 })
  let taken = 0
  await fc.assert(
    fc.asyncProperty(body, type, async (body, type) => {
      const init = { method: 'POST', headers: { 'content-type': type }, body }
      const response = await source.fetch(new Request('http://localhost/', init as RequestInit))
      const answer = (await response.json()) as { received?: number; error?: string }
      if (response.status === 200) taken += answer.received!
      else {
        expect(refused).toContain(response.status)
        expect(answer.error).not.toMatch(/\bat \S+:\d+|node:|\.ts|\.js/)
      }
    }),
    { numRuns: 300 },
  )
  expect(taken).toBeGreaterThan(10)
  expect(await rowsOf(source)).toHaveLength(taken)
})

it.each(names)('%s: nothing is taken that the sender did not sign', async (scheme) => {
  const { source, receive } = await hook({ verify: verifyOf(scheme) })
  const text = '{"n":1}'
  const right = signers[scheme]!(text, key, Date.now())
  const headerNames = Object.keys(right)
  const junk = fc.oneof(
    fc.string().map((text) => text.replace(/[^ -~]/g, '').trim()),
    fc.constantFrom('v1,', 't=,v1=', 'sha256=', 'v0=', ...Object.values(right)),
    fc.integer({ min: -1, max: 2 ** 45 }).map(String),
  )
  await fc.assert(
    fc.asyncProperty(
      fc.record(Object.fromEntries(headerNames.map((name) => [name, fc.oneof(fc.constant(right[name]!), junk)])), {
        requiredKeys: [],
      }),
      fc.oneof(fc.constant(text), fc.json()),
      async (headers, body) => {
        const all = headerNames.every((name) => headers[name] === right[name])
        fc.pre(!(all && body === text))
        const response = await source.fetch(request({ headers: headers as Record<string, string>, body }))
        // the id and the kind of event are no part of what GitHub signs
        const proof = scheme === 'github' ? headers['x-hub-signature-256'] === right['x-hub-signature-256'] : all
        if (!(proof && body === text))
          expect([response.status, await response.text()]).toEqual([401, '{"error":"unauthorized"}\n'])
      },
    ),
    { numRuns: 60 },
  )
  expect((await receive({ headers: right, body: text })).status).toBe(200)
})
