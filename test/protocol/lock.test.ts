import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { AlreadyRunningError, destination, sync } from '../../src/index.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

const from = Array.from({ length: 100 }, (_, id) => ({ id }))

/** Another process in the middle of a run: it has delivered 30 rows, and hangs in the fourth batch. */
async function runner(state: string): Promise<ChildProcess> {
  const program = `
    import { destination, sync } from 'spillway'
    const from = Array.from({ length: 100 }, (_, id) => ({ id }))
    const to = destination({ batchSize: 10, onUnknown: 'hold' })(async (batch) => {
      if (batch[0].id < 30) return
      console.log('hanging')
      await new Promise((resolve) => setTimeout(resolve, 60_000))
    })
    await sync({ name: 'people', from, to, state: ${JSON.stringify(state)} }).run()`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout!, 'data')
  return child
}

const seen: number[] = []
const people = (state: string) =>
  sync({
    name: 'people',
    from,
    to: destination({ batchSize: 10, onUnknown: 'hold' })((batch: { id: number }[]) => {
      seen.push(...batch.map(({ id }) => id))
    }),
    state,
    log: quiet,
  })

it('a run keeps others out while it lives, asleep or awake, can be looked at meanwhile, and frees the sync when it is killed', async () => {
  const state = await stateFolder()
  const child = await runner(state)
  const one = people(state)

  await expect(one.run()).rejects.toThrow(AlreadyRunningError)
  await expect(one.reset()).rejects.toThrow(AlreadyRunningError)
  expect(await one.status()).toMatchObject({ running: true, pending: 70, unknown: 0, lastRun: { state: 'running' } })

  child.kill('SIGSTOP')
  await expect(one.run()).rejects.toThrow(/^people: another run of this sync is under way/)

  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(await one.status()).toMatchObject({ running: false, lastRun: { state: 'killed' } })
  seen.length = 0
  expect(await one.run()).toMatchObject({
    status: 'incomplete',
    rows: 0,
    resumed: { rows: 70, delivered: 60, unknown: 10 },
  })
  expect(seen).toEqual(from.slice(40).map(({ id }) => id))
})

it('other syncs of the same state are not kept out', async () => {
  const state = await stateFolder()
  await runner(state)
  const other = sync({ name: 'other', from, to: destination(50)(() => {}), state, log: quiet })
  expect(await other.run()).toMatchObject({ status: 'done', delivered: 100 })
})
