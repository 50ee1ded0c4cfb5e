import { afterEach, expect, test } from 'vitest'
import { type Project, project } from './project.js'

let here: Project
afterEach(() => here.remove())

/** Starts it, and waits until it has said all that it has to say. */
async function started(...args: string[]) {
  const { child, ended } = here.start('sandbox', ...args)
  let out = ''
  const ready = new Promise<void>((resolve) => {
    child.stdout!.on('data', (chunk) => {
      out += chunk
      if (out.includes('Ctrl-C')) resolve()
    })
  })
  await Promise.race([ready, ended.then(({ err }) => Promise.reject(new Error(err)))])
  return { child, ended, out, url: /listens at (\S+)/.exec(out)![1]! }
}

test('the sandbox says where it is and with what each vendor opens, serves runs, shows them on its page, and ends at SIGINT', async () => {
  here = await project()
  const { child, ended, out, url } = await started('--port', '0')
  const blocks = [...out.matchAll(/\[destination\.([\w-]+)\] +# to: (.+)\n(?:\w+ = .+\n)+/g)]
  const to = Object.fromEntries(blocks.map(([, name, code]) => [name, code]))
  expect(Object.keys(to)).toEqual(['google-sheets', 'slack', 'hubspot', 'salesforce', 'notion'])
  await here.write({
    '.spillway/secrets.toml': blocks.map(([block]) => block).join('\n'),
    'spillway.config.mjs': `import { sync } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { hubspot } from 'spillway/destinations/hubspot'
import { notion } from 'spillway/destinations/notion'
import { salesforce } from 'spillway/destinations/salesforce'
import { slack } from 'spillway/destinations/slack'
const from = [{ email: 'ada@example.com', name: 'Ada <Lovelace>' }]
export default [
  sync({ name: 'sheet', from, to: ${to['google-sheets']}, key: 'email' }),
  sync({ name: 'channel', from, map: ({ name }) => ({ text: name }), to: ${to['slack']}, key: 'email' }),
  sync({ name: 'contacts', from, map: ({ email, name }) => ({ email, firstname: name }), to: ${to['hubspot']}, key: 'email' }),
  sync({ name: 'records', from, map: ({ email, name }) => ({ Email__c: email, Name: name }), to: ${to['salesforce']}, key: 'email' }),
  sync({ name: 'pages', from, map: ({ email, name }) => ({ Email: email, Name: name }), to: ${to['notion']}, key: 'email' }),
]`,
  })
  const run = await here.spillway('run')
  expect(run.err).toBe('')
  for (const name of ['sheet', 'channel', 'contacts', 'records', 'pages']) {
    expect(run.out).toMatch(new RegExp(`^${name}: 1 row: 1 delivered`, 'm'))
  }
  const page = await (await fetch(`${url}/?refresh=2`)).text()
  expect(page.split('Ada &#60;Lovelace&#62;').length - 1).toBeGreaterThanOrEqual(5)
  child.kill('SIGINT')
  expect(await ended).toMatchObject({ code: 0, signal: null, err: '' })
  await expect(fetch(url)).rejects.toThrow('fetch failed')
})

test('the sandbox takes the time that it is told to', async () => {
  here = await project()
  const { child, ended, url } = await started('--port', '0', '--latency', '300ms')
  const begun = performance.now()
  await fetch(`${url}/v4/spreadsheets/sandbox`)
  expect(performance.now() - begun).toBeGreaterThanOrEqual(290)
  child.kill('SIGTERM')
  expect(await ended).toMatchObject({ code: 0 })
})

test('a port that is taken, or none, and a latency that is no time are refused with what to do', async () => {
  here = await project()
  const { url, child, ended } = await started('--port', '0')
  const taken = await here.spillway('sandbox', '--port', new URL(url).port)
  expect(taken).toMatchObject({ code: 2, out: '' })
  expect(taken.err).toMatch(/^spillway: sandbox: cannot listen on 127\.0\.0\.1:\d+: .+; choose another port$/m)
  for (const wrong of [
    ['--port', '70000'],
    ['--port', 'x'],
    ['--latency', 'soon'],
  ]) {
    const { code, err } = await here.spillway('sandbox', ...wrong)
    expect([code, err]).toEqual([2, expect.stringContaining(`option '${wrong[0]}`)])
  }
  child.kill('SIGINT')
  await ended
})
