import { Worker } from 'node:worker_threads'
import { test } from 'vitest'
import { createHttp } from '../src/http.js'
import { Pace, sleep } from '../src/pace.js'
const signal = new AbortController().signal
test('m', { timeout: 400_000 }, async () => {
  const worker = new Worker(`const {parentPort}=require('worker_threads');let at=[];const now=()=>performance.timeOrigin+performance.now();const s=require('http').createServer((q,r)=>{ q.resume(); if(q.url==='/log'){r.end(JSON.stringify(at));at=[];return} at.push([+q.headers.n,now()]); const l=q.url==='/noisy'?20+Math.random()*300:q.url==='/exp'?50-60*Math.log(Math.random()):20; setTimeout(()=>r.end('{}'), l)}).listen(0,()=>parentPort.postMessage(s.address().port))`, { eval: true })
  const port = await new Promise<number>((r) => worker.once('message', r)); const base = `http://127.0.0.1:${port}`
  const http = createHttp({ actor: 'x', signal, timeout: 30000 })
  const now = () => performance.timeOrigin + performance.now()
  for (const [path, lanes, stall] of JSON.parse(process.env['CASES'] ?? '[["/",8,0],["/",20,0],["/noisy",20,0],["/exp",20,0],["/",8,60]]')) {
    const pace = new Pace({ rate: { limit: 50, window: 1000 }, concurrency: lanes }); const begun = now(), end = begun + Number(process.env['LONG'] ?? 12000)
    const stop = new AbortController(); const sent: number[] = [], done: number[] = []
    const t = stall ? setInterval(() => { if (Math.random() < 0.3) { const e = performance.now() + Math.random() * stall; while (performance.now() < e); } }, 100) : undefined
    await Promise.allSettled(Array.from({ length: lanes }, async () => { for (;;) { await pace.enter(stop.signal); const b = now(); if (b > end) { stop.abort(); return } const n = sent.push(b) - 1; await http.post(base + path, { json: {}, headers: { n: String(n) } }); done[n] = now(); pace.leave({ latency: now() - b, pushedBack: false }) } }))
    clearInterval(t)
    const at = await http.get<[number, number][]>(base + '/log'); at.sort((a,b)=>a[1]-b[1])
    const z = begun
    let f = 0, most = 0, over = 0; let first: string | undefined
    at.forEach(([n, x], i) => { while (x - at[f]![1] > 1000) f++; const c = i - f + 1; most = Math.max(most, c); if (c > 50) { over++; const [m, y] = at[i - 50]!; first ??= `#${m} sent ${(sent[m]!-z).toFixed(0)} arrived ${(y-z).toFixed(0)} done ${(done[m]!-z).toFixed(0)} -> #${n} sent ${(sent[n]!-z).toFixed(0)} arrived ${(x-z).toFixed(0)} done ${(done[n]!-z).toFixed(0)}` } })
    const k = Math.floor((sent.length - 1) / 50) * 50
    console.log('|', path, lanes, 'lanes, stall', stall, '| busiest', most, '| used', (k / (sent[k]! - sent[0]!) * 1000 / 50 * 100).toFixed(1) + ' % | over', over, first ?? '')
    await sleep(1100)
  }
  await worker.terminate()
})
