import { createHmac } from 'node:crypto'
import { afterEach, expect, test } from 'vitest'
import { type Project, project } from './project.js'

let here: Project
afterEach(() => here.remove())

const config = `import { appendFileSync } from 'node:fs'
import { destination, secret, sync } from 'spillway'
import { webhook } from 'spillway/sources/webhook'
const orders = webhook({ name: 'orders', verify: { scheme: 'github', secret: secret('HOOK_KEY') }, flush: { rows: 1 } })
const forms = webhook({ name: 'forms', path: '/in/forms', flush: { rows: 1 } })
const to = (file) => destination(10)((rows) => appendFileSync(file, rows.map((row) => JSON.stringify(row) + '\\n').join('')))
export default [
  sync({ name: 'orders', from: orders, to: to('orders.rows') }),
  sync({ name: 'all-forms', from: forms, to: to('forms.rows') }),
  sync({ name: 'ticks', from: [{ tick: 1 }], to: to('ticks.rows'), every: '1d' }),
  sync({ name: 'nightly', from: [], to: to('nightly.rows') }),
]`

/** Starts it, and waits until it has said so much. */
async function started(said: string, ...args: string[]) {
  const { child, ended } = here.start('serve', ...args)
  let out = ''
  const heard = (text: string) =>
    new Promise<void>((resolve) => {
      const look = () => out.includes(text) && resolve()
      child.stdout!.on('data', look)
      look()
    })
  child.stdout!.on('data', (chunk) => {
    out += chunk
  })
  await Promise.race([heard(said), ended.then(({ err }) => Promise.reject(new Error(err)))])
  return {
    child,
    ended,
    heard,
    addressOf: (name: string) => new RegExp(`^${name}: receives at (\\S+)$`, 'm').exec(out)![1]!,
  }
}

const send = (url: string, body: string, headers: Record<string, string> = {}) =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body })

test('webhooks are received on loopback, each under its path, their syncs run, and SIGINT ends it', async () => {
  here = await project({ 'spillway.config.mjs': config, '.spillway/secrets.toml': 'HOOK_KEY = "a key of the hook"' })
  const { child, ended, heard, addressOf } = await started('forms: receives', '--port', '0')
  const [orders, forms] = [addressOf('orders'), addressOf('forms')]
  expect(new URL(orders)).toMatchObject({ hostname: '127.0.0.1', pathname: '/orders' })
  expect(new URL(forms).pathname).toBe('/in/forms')
  const signature = createHmac('sha256', 'a key of the hook').update('{"id":1}').digest('hex')
  expect((await send(orders, '{"id":1}')).status).toBe(401)
  expect((await send(orders, '{"id":1}', { 'x-hub-signature-256': `sha256=${signature}` })).status).toBe(200)
  expect((await send(`${forms}?from=page`, '{"name":"Ada"}')).status).toBe(200)
  expect((await send(new URL('/none', forms).href, '{}')).status).toBe(404)
  await heard('orders: 1 row: 1 delivered')
  await heard('all-forms: 1 row: 1 delivered')
  await heard('ticks: 1 row: 1 delivered')
  child.kill('SIGINT')
  const { code, signal, out } = await ended
  expect([code, signal]).toEqual([0, null])
  expect(out).toContain('nightly: left to `spillway run`, for it has neither a webhook nor `every`')
  await expect(fetch(forms)).rejects.toThrow('fetch failed')
  const status = await here.spillway('status', '--json')
  expect(status.out).toContain('"cursor":"orders#1"')
})

test('what cannot work is told at the start', async () => {
  here = await project({ 'spillway.config.mjs': config })
  const missing = await here.spillway('serve', '--port', '0')
  expect(missing.err).toContain('webhook orders: verify.secret: secret HOOK_KEY is missing')
  expect(missing.code).toBe(2)
  await here.write({
    'spillway.config.mjs': config.replace("path: '/in/forms'", "path: '/orders'"),
    '.spillway/secrets.toml': 'HOOK_KEY = "a key of the hook"',
  })
  const twice = await here.spillway('serve', '--port', '0')
  expect(twice.err).toContain('webhook orders and webhook forms are both at /orders')
  expect(twice.code).toBe(2)
})
