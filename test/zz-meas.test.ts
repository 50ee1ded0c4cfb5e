import { createServer } from 'node:http'
import { Worker } from 'node:worker_threads'
import { test } from 'vitest'
import { createHttp } from '../src/http.js'
import { Pace, retrying, sleep } from '../src/pace.js'
const signal = new AbortController().signal
test('m', { timeout: 120_000 }, async () => {
  for (const [n, o] of [['fixed', { concurrency: 8 }], ['rate', { concurrency: 8, rate: { limit: 1e6, window: 1000 } }], ['auto', { concurrency: 'auto' as const }]] as const) {
    const pace = new Pace(o)
    for (let i = 0; i < 20000; i++) { await pace.enter(signal); pace.leave({ latency: 1, pushedBack: false }) }
    const t = performance.now()
    for (let i = 0; i < 200000; i++) { await pace.enter(signal); pace.leave({ latency: 1, pushedBack: false }) }
    console.log(n, ((performance.now() - t) / 200).toFixed(2), 'us enter+leave')
  }
  { // 20 lanes compete for 8
    const pace = new Pace({ concurrency: 8 }); let left = 100000; const t = performance.now()
    await Promise.all(Array.from({ length: 20 }, async () => { while (left-- > 0) { await pace.enter(signal); await null; pace.leave({ latency: 1, pushedBack: false }) } }))
    console.log('contended', ((performance.now() - t) / 100).toFixed(2), 'us')
  }
  { const t = performance.now(); for (let i = 0; i < 100000; i++) await retrying(async () => 1, { budget: 1, signal, wait: () => undefined }); console.log('retrying', ((performance.now() - t) / 100).toFixed(2), 'us') }
  // real clock, real server in another thread
  const worker = new Worker(`const {parentPort,workerData}=require('worker_threads');const at=[];const s=require('http').createServer((q,r)=>{ q.resume(); if(q.url==='/log'){r.end(JSON.stringify(at.splice(0)));return} at.push(performance.now()); setTimeout(()=>r.end('{}'), q.url==='/slow'?20:0)}).listen(0,()=>parentPort.postMessage(s.address().port))`, { eval: true })
  const port = await new Promise<number>((r) => worker.once('message', r)); const base = `http://127.0.0.1:${port}`
  const http = createHttp({ actor: 'x', signal, timeout: 30000 })
  { const pace = new Pace({ rate: { limit: 50, window: 1000 }, concurrency: 8 }); const end = performance.now() + 20000
    await Promise.all(Array.from({ length: 8 }, async () => { for (;;) { await pace.enter(signal); if (performance.now() > end) return; await http.post(base, { json: {} }); pace.leave({ latency: 1, pushedBack: false }) } }).map(p=>Promise.race([p,sleep(21500)])))
    const at = await http.get<number[]>(base + '/log'); let most = 0, f = 0
    at.forEach((x, i) => { while (x - at[f]! > 1000) f++; most = Math.max(most, i - f + 1) })
    console.log('50/s on a real clock: busiest second', most, 'used', (at.length / 20 / 50 * 100).toFixed(1) + ' %') }
  const rows = Array.from({ length: 100 }, (_, i) => ({ id: i, email: `a${i}@x.test`, name: 'Some Name', score: i / 7, active: true, city: 'Tromsø', n: null, t: 'lorem ipsum dolor sit amet consectetur' }))
  for (const path of ['/', '/slow']) for (let k = 0; k < 2; k++) {
    const run = async (name: string, f: () => Promise<unknown>) => { let left = 5000; const t = performance.now(); await Promise.all(Array.from({ length: 20 }, async () => { while (left-- > 0) await f() })); console.log(path, name, Math.round(5000 / (performance.now() - t) * 1000), 'requests/s') }
    await run('bare fetch', async () => (await fetch(base + path, { method: 'POST', body: JSON.stringify(rows), headers: { 'content-type': 'application/json' } })).json())
    await run('http.post ', () => http.post(base + path, { json: rows }))
  }
  await worker.terminate()
})
