import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp } from 'node:fs/promises'
import { expect, it, onTestFinished } from 'vitest'
import { destination, FatalError, type SyncStatus, sync } from '../../src/index.js'
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

it('what was sent is pending while its run goes on, and unknown when that was killed', async () => {
  const state = await stateFolder()
  const killed = await stateFolder()
  const statuses: unknown[] = []
  const open = ({ running, pending, unknown }: SyncStatus) => ({ running, pending, unknown })
  const people = (folder: string) =>
    sync({ name: 'people', from: [{ id: 1 }, { id: 2 }], to, key: 'id', state: folder, log: quiet })
  const to = destination(1)(async () => {
    statuses.push(open(await people(state).status()))
    // as it is on the disk at this moment
    await cp(state, killed, { recursive: true })
    statuses.push(open(await people(killed).status()))
    throw new FatalError('once is enough')
  })
  await expect(people(state).run()).rejects.toThrow('once is enough')
  expect(statuses).toEqual([
    { running: true, pending: 2, unknown: 0 },
    { running: false, pending: 1, unknown: 1 },
  ])
})
