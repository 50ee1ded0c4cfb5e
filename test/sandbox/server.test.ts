import { type Fault, type Sandbox, sandbox } from 'spillway/sandbox'
import { afterEach, beforeEach, expect, test } from 'vitest'

let box: Sandbox

beforeEach(async () => {
  box = await sandbox()
  box.sheets.create({
    id: 'book',
    title: 'A <book>',
    tabs: {
      People: [
        ['id', 'name'],
        [1, '<b>"Ada"</b>'],
      ],
    },
  })
})
afterEach(() => box.close())

const rows = () => box.sheets.rows('book', 'People').length - 2

function append(): Promise<Response> {
  return fetch(`${box.url}/v4/spreadsheets/book/values/People!A1:append?valueInputOption=RAW`, {
    method: 'POST',
    headers: { authorization: `Bearer ${box.sheets.token}`, 'content-type': 'application/json' },
    body: '{"values":[["x"]]}',
  })
}

test.each<[string, Fault, number]>([
  ['429', { kind: 'status', status: 429, retryAfter: 30 }, 429],
  ['503', { kind: 'status', status: 503 }, 503],
  ['a web page', { kind: 'html' }, 200],
])('%s is answered instead, and nothing is applied unless that is asked for', async (_, fault, status) => {
  box.faults.next(fault)
  box.faults.next({ ...fault, applied: true })
  expect((await append()).status).toBe(status)
  expect(rows()).toBe(0)
  expect((await append()).status).toBe(status)
  expect(rows()).toBe(1)
  expect(await (await append()).json()).toMatchObject({ updates: { updatedRange: 'People!A4' } })
  expect(box.requests.map(({ status, applied }) => ({ status, applied }))).toEqual([
    { status, applied: false },
    { status, applied: true },
    { status: 200, applied: true },
  ])
})

test('a connection is cut before or after the write was applied', async () => {
  box.faults.next({ kind: 'cut' })
  await expect(append()).rejects.toThrow('fetch failed')
  expect(rows()).toBe(0)
  box.faults.next({ kind: 'cut', applied: true })
  await expect(append()).rejects.toThrow('fetch failed')
  expect(rows()).toBe(1)
  expect(box.requests.map(({ status }) => status)).toEqual([undefined, undefined])
})

test('a late answer takes effect after the wait, or before it', async () => {
  box.faults.next({ kind: 'delay', delay: '100ms' })
  const late = append()
  await expect.poll(() => box.requests.length).toBe(1)
  expect(rows()).toBe(0)
  expect((await late).status).toBe(200)
  expect(rows()).toBe(1)

  box.faults.next({ kind: 'delay', delay: '100ms', applied: true })
  const applied = append()
  await expect.poll(rows).toBe(2)
  expect(box.requests[1]?.status).toBeUndefined()
  expect((await applied).status).toBe(200)
})

test('Retry-After comes in seconds or as a date', async () => {
  box.faults.next({ kind: 'status', status: 429, retryAfter: 7 })
  expect((await append()).headers.get('retry-after')).toBe('7')
  box.faults.next({ kind: 'status', status: 503, retryAfter: new Date('2026-11-21T10:00:00Z') })
  expect((await append()).headers.get('retry-after')).toBe('Sat, 21 Nov 2026 10:00:00 GMT')
})

test("a fault speaks the vendor's language", async () => {
  box.faults.next({ kind: 'status', status: 403, reason: 'rateLimitExceeded' })
  expect(await (await append()).json()).toMatchObject({
    error: { code: 403, status: 'PERMISSION_DENIED', details: [{ reason: 'rateLimitExceeded' }] },
  })
})

test('a fault meets as many requests as it is meant for, and only those', async () => {
  box.faults.next({
    kind: 'status',
    status: 500,
    times: 2,
    when: ({ method, path }) => method === 'POST' && path.includes('append'),
  })
  const read = await fetch(`${box.url}/v4/spreadsheets/book`, {
    headers: { authorization: `Bearer ${box.sheets.token}` },
  })
  expect(read.status).toBe(200)
  expect([(await append()).status, (await append()).status, (await append()).status]).toEqual([500, 500, 200])
  box.faults.next({ kind: 'status', status: 500, times: Number.POSITIVE_INFINITY })
  expect((await append()).status).toBe(500)
  box.faults.clear()
  expect((await append()).status).toBe(200)
})

test('requests are logged with their body and without their token', async () => {
  await append()
  expect(box.requests).toEqual([
    {
      time: expect.any(Date),
      method: 'POST',
      path: '/v4/spreadsheets/book/values/People!A1:append',
      query: new URLSearchParams('valueInputOption=RAW'),
      body: { values: [['x']] },
      status: 200,
      applied: true,
    },
  ])
  expect(JSON.stringify(box.requests)).not.toContain(box.sheets.token)
})

test('only the newest requests are kept', async () => {
  await using small = await sandbox({ log: 2 })
  for (const id of ['a', 'b', 'c']) await fetch(`${small.url}/v4/spreadsheets/${id}`)
  expect(small.requests.map(({ path }) => path)).toEqual(['/v4/spreadsheets/b', '/v4/spreadsheets/c'])
})

test('latency slows every request down', async () => {
  await using slow = await sandbox({ latency: '80ms' })
  const begun = performance.now()
  await fetch(`${slow.url}/v4/spreadsheets/x`)
  expect(performance.now() - begun).toBeGreaterThanOrEqual(79)
})

test('the page shows every tab, and what the cells hold is no markup', async () => {
  box.sheets.create({
    title: 'Second',
    tabs: {
      Numbers: [
        ['n', 'yes'],
        [1.5, true],
      ],
    },
  })
  const response = await fetch(`${box.url}/?refresh=5`)
  expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8')
  const page = await response.text()
  expect(page).toContain('A &#60;book&#62;')
  expect(page).toContain('&#60;b&#62;&#34;Ada&#34;&#60;/b&#62;')
  expect(page).not.toContain('<b>')
  expect(page).toContain('<td class="number">1.5</td><td class="boolean">TRUE</td><td class="blank"></td>')
  expect(page).toContain('http-equiv="refresh" content="5"')
  expect(await (await fetch(box.url)).text()).not.toContain('http-equiv="refresh"')
})

test('the page shows the first thousand rows of a long tab', async () => {
  box.sheets.create({ tabs: { Long: Array.from({ length: 1500 }, (_, row) => [row]) } })
  const page = await (await fetch(box.url)).text()
  expect(page).toContain('>999</td>')
  expect(page).not.toContain('>1000</td>')
  expect(page).toContain('The first 1,000 rows of 1,500.')
})

test('a path that no vendor has is a 404', async () => {
  const response = await fetch(`${box.url}/nobody/v1/things`)
  expect(response.status).toBe(404)
  expect(await response.json()).toEqual({ error: 'sandbox: no vendor here has a path /nobody/v1/things' })
})

test('a port that is taken is a clear error', async () => {
  const port = Number(new URL(box.url).port)
  await expect(sandbox({ port })).rejects.toThrow(`sandbox: cannot listen on 127.0.0.1:${port}`)
})

test('closing ends requests under way, and may be done twice', async () => {
  box.faults.next({ kind: 'delay', delay: '1h' })
  const hanging = append()
  hanging.catch(() => {})
  await expect.poll(() => box.requests.length).toBe(1)
  await box.close()
  await expect(hanging).rejects.toThrow()
  await box.close()
})
