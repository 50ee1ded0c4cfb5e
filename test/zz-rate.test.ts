import { Worker } from 'node:worker_threads'
import { test } from 'vitest'
import { createHttp } from '../src/http.js'
import { Pace, sleep } from '../src/pace.js'
const signal = new AbortController().signal
test('m', { timeout: 200_000 }, async () => {
  const worker = new Worker(`const {parentPort}=require('worker_threads');const at=[];require('http').createServer((q,r)=>{ q.resume(); if(q.url==='/log'){r.end(JSON.stringify(at.splice(0)));return} at.push(performance.timeOrigin+performance.now()); const l=q.url==='/noisy'?20+Math.random()*300:q.url==='/exp'?50-60*Math.log(Math.random()):20; setTimeout(()=>r.end('{}'), l)}).listen(0,()=>parentPort.postMessage(s.address().port))`.replace("require('http').createServer","const s=require('http').createServer"), { eval: true })
  const port = await new Promise<number>((r) => worker.once('message', r)); const base = `http://127.0.0.1:${port}`
  const http = createHttp({ actor: 'x', signal, timeout: 30000 })
  for (const [path, lanes, stall] of [['/', 8, 0], ['/', 20, 0], ['/noisy', 20, 0], ['/exp', 20, 0], ['/', 8, 60]] as const) {
    const pace = new Pace({ rate: { limit: 50, window: 1000 }, concurrency: lanes }); const begun = performance.now(), end = begun + 12000
    const stop = new AbortController(); let sent = 0
    const t = stall ? setInterval(() => { if (Math.random() < 0.3) { const e = performance.now() + Math.random() * stall; while (performance.now() < e); } }, 100) : undefined
    await Promise.allSettled(Array.from({ length: lanes }, async () => { for (;;) { await pace.enter(stop.signal); if (performance.now() > end) { stop.abort(); return } const b = performance.now(); sent++; await http.post(base + path, { json: {} }); pace.leave({ latency: performance.now() - b, pushedBack: false }) } }))
    clearInterval(t)
    const at = await http.get<number[]>(base + '/log'); at.sort((a,b)=>a-b)
    const over: string[] = []; let f = 0, most = 0
    at.forEach((x, i) => { while (x - at[f]! > 1000) f++; const n = i - f + 1; most = Math.max(most, n); if (n > 50) over.push(`${(x - at[0]!).toFixed(0)}:${n}`) })
    console.log(path, lanes, 'lanes, stall', stall, '| busiest', most, '| used of steady', ((at.length - 50) / (at.at(-1)! - at[0]!) * 1000 / 50 * 100).toFixed(1) + ' %', over.length, over.slice(0, 8).join(' '))
    await sleep(1100)
  }
  await worker.terminate()
})
