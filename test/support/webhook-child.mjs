// A process that receives webhooks and delivers what they bring, for the crash test to kill. It tells its port; asked to end, it
// delivers what is left and exits.
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { destination, sync } from 'spillway'
import { nodeHandler, webhook } from 'spillway/sources/webhook'
import { killAt } from './kill-at.mjs'

const { state, file, kill } = JSON.parse(process.argv[2])
const log = { debug() {}, info() {}, warn() {}, error() {} }

const hook = webhook({ name: 'hook', state, log, flush: { rows: 5, after: '50ms' } })
const to = destination({ name: 'file', batchSize: 10, settle: '1ms' })({
  insert: (batch) => appendFileSync(file, batch.map(({ n }) => `${n}\n`).join('')),
  verify(batch) {
    const there = new Set(existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [])
    return batch.filter(({ n }) => there.has(String(n)))
  },
})
const copy = sync({ name: 'copy', from: hook, to, state, log })

const stop = new AbortController()
const started = copy.start({ signal: stop.signal })
const server = createServer(nodeHandler(hook)).listen(0, '127.0.0.1', () => {
  killAt(kill)
  process.send(server.address().port)
})
process.once('message', async () => {
  stop.abort()
  await started
  await copy.run()
  process.exit()
})
