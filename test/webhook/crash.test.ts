import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { stateFolder } from '../support/state-folder.js'

// A child receives over loopback and delivers into a file, where each row can be found again, so that nothing but a row that was
// staged twice comes to be there twice. It is killed with SIGKILL while many senders write to it; each sends an event again, under its
// id, until it is acknowledged.

const child = fileURLToPath(new URL('../support/webhook-child.mjs', import.meta.url))
const kills = [
  { point: 'before commit', nth: 25 },
  { point: 'committed', nth: 30 },
  { point: 'stage written', nth: 2 },
  { point: 'committed', nth: 55 },
]

it('every event that was acknowledged is delivered, and once, however often the receiver is killed', {
  timeout: 120_000,
}, async () => {
  const state = await stateFolder()
  const file = join(await stateFolder(), 'rows')
  const acknowledged = new Set<number>()
  let next = 0
  let running = true
  let port = 0
  let agent = new Agent()

  /** One sender: event by event, each until it is acknowledged. */
  const sender = async (): Promise<void> => {
    while (running) {
      const n = next++
      for (;;) {
        const reply = await post(port, agent, n)
        if (!reply) {
          await new Promise((resolve) => setTimeout(resolve, 5)) // there is nobody, until the next one is up
          continue
        }
        acknowledged.add(n)
        break
      }
    }
  }

  let senders: Promise<void>[] = []
  let process_: ChildProcess | undefined
  onTestFinished(() => void process_?.kill('SIGKILL'))
  for (const kill of [...kills, undefined]) {
    process_ = fork(child, [JSON.stringify({ state, file, kill })])
    const exited = once(process_, 'exit')
    const [told] = (await once(process_, 'message')) as [number]
    agent = new Agent({ keepAlive: true })
    port = told
    if (senders.length === 0) senders = Array.from({ length: 16 }, sender)
    if (kill) expect(await exited, JSON.stringify(kill)).toEqual([null, 'SIGKILL'])
    else {
      running = false
      await Promise.all(senders)
      process_.send('end')
      expect(await exited).toEqual([0, null])
    }
  }
  const delivered = readFileSync(file, 'utf8').trim().split('\n').map(Number)
  expect(acknowledged.size).toBeGreaterThan(200)
  // each was sent again until it was taken: all are there, and those whose answer was lost, once too
  expect(delivered.toSorted((a, b) => a - b)).toEqual([...acknowledged].sort((a, b) => a - b))
})

/** Whether it was acknowledged. */
function post(port: number, agent: Agent, n: number): Promise<boolean> {
  return new Promise((resolve) => {
    const headers = { 'content-type': 'application/json', 'webhook-id': `event-${n}` }
    const call = request({ port, host: '127.0.0.1', method: 'POST', agent, headers }, async (response) => {
      let text = ''
      try {
        for await (const piece of response) text += piece
        resolve(response.statusCode === 200 && text !== '')
      } catch {
        resolve(false) // cut off in the middle of the answer
      }
    })
    call.on('error', () => resolve(false))
    call.end(JSON.stringify({ n }))
  })
}
