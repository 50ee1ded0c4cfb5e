import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sync } from 'spillway'
import { sandbox } from 'spillway/sandbox'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { expect, test, vi } from 'vitest'

test('long title', async () => {
  const box = await sandbox()
  const { id } = box.sheets.create({ tabs: { Other: [['mine']] } })
  for (const key of [undefined, 'id'] as const) {
  const to = googleSheets({ spreadsheet: id, tab: 'x'.repeat(101), endpoint: box.url, token: box.sheets.token })
  const state = mkdtempSync(join(tmpdir(), 'gs-'))
  console.log(key, await sync({ name: 'leads', from: [{ id: 1 }], to, state, ...(key && { key }) }).run().catch((e) => ({ failed: e.stack })))
  }
  await box.close()
})
test('no package', async () => {
  vi.doMock('@googleapis/sheets', () => { throw new Error('nope') })
  const box = await sandbox()
  const { id } = box.sheets.create({ tabs: { Other: [['mine']] } })
  const to = googleSheets({ spreadsheet: id, tab: 'x', endpoint: box.url, token: box.sheets.token })
  const state = mkdtempSync(join(tmpdir(), 'gs-'))
  const s = sync({ name: 'leads', from: [{ id: 1 }], to, state })
  console.log(await s.run().catch((e) => ({ failed: e })), await s.status())
  vi.doUnmock('@googleapis/sheets')
  await box.close()
})
test('big', async () => {
  const box = await sandbox()
  const { id } = box.sheets.create({ tabs: { Other: [['mine']] } })
  const rows = Array.from({ length: 100_000 }, (_, i) => ({ id: i, email: `a${i}@x.test`, score: i / 3, ok: i % 2 === 0, a: 'text number one', b: 'another one' , c: i, d: null}))
  for (const key of [undefined, 'id'] as const) {
  const to = googleSheets({ spreadsheet: id, tab: 'Leads' + key, endpoint: box.url, token: box.sheets.token }).with({ rate: '1000/s' })
  const state = mkdtempSync(join(tmpdir(), 'gs-'))
  console.time('append')
  console.log((await sync({ name: 'leads', from: rows, to, state, ...(key && { key }) }).run()).delivered)
  console.timeEnd('append')
  }
  console.log(Math.max(...box.requests.map(r => JSON.stringify(r.body ?? '').length)))
  await box.close()
}, 120000)
