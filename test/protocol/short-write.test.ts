import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it } from 'vitest'
import { destination, sync } from '../../src/index.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// A disk that fills up takes the first part of a write and says so only by its length; the next write fails. A limit on the size
// of files does the same, and needs no disk of its own.

it('a write that the disk took only in part is not taken for whole: a clear error, and once there is room everything arrives', async () => {
  const state = await stateFolder()
  const from = Array.from({ length: 3_000 }, (_, id) => ({ id, text: 'x'.repeat(2_000) }))
  const seen: number[] = []
  const to = destination(100)((batch: { id: number }[]) => void seen.push(...batch.map(({ id }) => id)))
  // the reserve is there before the limit is
  await sync({ name: 'other', from: [], to, state }).run()

  const program = `
    import { destination, sync } from 'spillway'
    const from = Array.from({ length: 3_000 }, (_, id) => ({ id, text: 'x'.repeat(2_000) }))
    const to = destination(100)(() => { throw new Error('nothing was to be sent') })
    await sync({ name: 'people', from, to, state: ${JSON.stringify(state)} }).run().catch((error) => console.log(error.message))`
  const limited = ['-c', 'ulimit -f 3000 && exec "$0" "$@"', process.execPath, '--input-type=module', '-e', program]
  const child = spawn('sh', limited, { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (piece) => {
    said += piece
  })
  await once(child, 'close')
  expect(said).toMatch(/^state: .*stage-\d+\.rows cannot be written \(EFBIG\)/)

  expect(await sync({ name: 'people', from, to, state, log: quiet }).run()).toMatchObject({ status: 'done' })
  expect(seen).toEqual(from.map(({ id }) => id))
})
