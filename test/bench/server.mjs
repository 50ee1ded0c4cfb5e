// A server that takes anything and answers after so many milliseconds: node server.mjs <latency>
// It prints its port, and, asked with GET, when each POST since the last time had arrived.

import { createServer } from 'node:http'

const latency = Number(process.argv[2])
let arrivals = []

const server = createServer((request, response) => {
  const answer = (value) => response.setHeader('content-type', 'application/json').end(JSON.stringify(value))
  if (request.method === 'GET') {
    answer(arrivals)
    arrivals = []
    return
  }
  arrivals.push(performance.now())
  request.resume().on('end', () => setTimeout(answer, latency, {}))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
