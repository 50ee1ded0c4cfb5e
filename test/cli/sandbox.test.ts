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

test('the sandbox says where it is and with what it opens, serves a run, shows it on its page, and ends at SIGINT', async () => {
  here = await project()
  const { child, ended, out, url } = await started('--port', '0')
  const [block, to] = /\[destination\.google-sheets\] +# to: (.+)\n.+\n.+\n/.exec(out)!
  await here.write({
    '.spillway/secrets.toml': block,
    'spillway.config.mjs': `import { sync } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
export default sync({ name: 'people', from: [{ id: 1, name: 'Ada <Lovelace>' }], to: ${to}, key: 'id' })`,
  })
  const run = await here.spillway('run')
  expect(run.err).toBe('')
  expect(run.out).toMatch(/^people: 1 row: 1 delivered/)
  expect(await (await fetch(`${url}/?refresh=2`)).text()).toContain('Ada &#60;Lovelace&#62;')
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
