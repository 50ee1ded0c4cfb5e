// A webhook under load: node webhook.mjs <events> <connections>
// The receiver is this file again, in a process of its own and with one thread; events of 1 kB arrive on connections that are kept,
// each with one request at a time. An event counts when it is acknowledged, which is when it is durable.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect as openSocket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { nodeHandler, webhook } from 'spillway/sources/webhook'
import { measured } from './measure.mjs'

const [count, connections] = process.argv.slice(2).map(Number)
let sent = 0

if (process.send) await receive(process.argv[2])
else await measured(load)

async function receive(state) {
  const hook = webhook({ name: 'bench', state })
  const server = createServer(nodeHandler(hook))
  server.listen(0, '127.0.0.1', () => process.send(server.address().port))
  process.on('message', () => process.send(process.cpuUsage()))
  await once(process, 'disconnect')
  process.kill(process.pid, 'SIGKILL')
}

async function load(folder) {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), folder], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const [port] = await once(child, 'message')
  const busy = async () => {
    child.send('cpu')
    const [{ user, system }] = await once(child, 'message')
    return user + system
  }
  const lanes = await Promise.all(Array.from({ length: connections }, () => connect(port)))
  await all(lanes, 2_000)
  const before = await busy()
  const begun = performance.now()
  const times = await all(lanes, count)
  const seconds = (performance.now() - begun) / 1000
  const cost = ((await busy()) - before) / count
  for (const { socket } of lanes) socket.destroy()
  child.disconnect()
  await once(child, 'exit')
  times.sort((a, b) => a - b)
  const at = (share) => times[Math.floor(times.length * share)]
  return { perSecond: count / seconds, p50: at(0.5), p99: at(0.99), cost }
}

/** So many events over all the lanes; how long each was under way, in milliseconds. */
async function all(lanes, events) {
  const times = []
  let left = events
  const work = async ({ post }) => {
    while (left-- > 0) {
      const begun = performance.now()
      await post(`event-${sent++}`)
      times.push(performance.now() - begun)
    }
  }
  await Promise.all(lanes.map(work))
  return times
}

/** A connection by hand: a client of HTTP would cost as much as the receiver. */
async function connect(port) {
  const socket = openSocket({ port, host: '127.0.0.1', noDelay: true })
  await once(socket, 'connect')
  let answer = ''
  let answered = () => {}
  socket.setEncoding('latin1').on('data', (text) => {
    answer += text
    if (!answer.endsWith('}\n')) return
    if (!answer.startsWith('HTTP/1.1 200')) throw new Error(answer)
    answer = ''
    answered()
  })
  const post = (id) => {
    const body = JSON.stringify({ id, type: 'bench', pad: 'x'.repeat(960) })
    const head = `POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nwebhook-id: ${id}\r\ncontent-length: ${body.length}\r\n\r\n`
    return new Promise((resolve) => {
      answered = resolve
      socket.write(head + body)
    })
  }
  return { socket, post }
}
