import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { destination, sync } from '../../src/index.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

/** Another process that asks for the status all the time; it tells how often a run was under way. */
async function watcher(state: string): Promise<{ ask(): Promise<number> }> {
  const program = `
    import { destination, sync } from 'spillway'
    const people = sync({ name: 'people', from: [], to: destination(1)(() => {}), state: ${JSON.stringify(state)} })
    let running = 0
    process.stdin.on('data', () => {
      console.log(running)
      running = 0
    })
    for (let times = 0; ; times++) {
      if ((await people.status()).running) running++
      if (times === 10) console.log('asking')
      await new Promise((resolve) => setImmediate(resolve))
    }`
  const child: ChildProcess = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout!, 'data')
  return {
    async ask() {
      child.stdin!.write('?')
      const [answer] = await once(child.stdout!, 'data')
      return Number(answer)
    },
  }
}

it('whoever asks for the status keeps no run out, and is not taken for one by others who ask', async () => {
  const state = await stateFolder()
  const people = sync({ name: 'people', from: [{ id: 1 }], to: destination(1)(() => {}), state, log: quiet })
  await people.run()
  const [one, other] = await Promise.all([watcher(state), watcher(state)])
  await Promise.all([one.ask(), other.ask()])
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect(await Promise.all([one.ask(), other.ask()])).toEqual([0, 0])
  for (let times = 0; times < 40; times++) expect(await people.run()).toMatchObject({ status: 'done', delivered: 1 })
})
