import { describe, expect, it } from 'vitest'
import { destination, reject, sync } from '../src/index.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

type Row = { id: number; email: string | null }
const rows = (count: number): Row[] => Array.from({ length: count }, (_, id) => ({ id, email: `p${id}@example.com` }))

async function start(mode: 'insert' | 'upsert' | 'mirror' | 'replace') {
  const source = { rows: rows(5) }
  const sent: string[] = []
  const refused = new Set<number>()
  const write = (batch: Row[]) => {
    sent.push(...batch.map(({ id }) => `write ${id}`))
    return batch.filter(({ id }) => refused.has(id)).map((record) => reject(record, 'refused'))
  }
  const to = destination({ name: 'crm', match: 'email' })({
    insert: write,
    upsert: write,
    delete(batch: Pick<Row, 'email'>[]) {
      sent.push(...batch.map(({ email }) => `delete ${email}`))
    },
    async replace(batches: AsyncIterable<Row[]>) {
      for await (const batch of batches) write(batch)
    },
  })
  const state = await stateFolder()
  const one = sync({ name: 'people', from: () => source.rows, to, key: 'id', mode, state, log: quiet })
  return { source, sent, refused, one }
}

describe('adopt()', () => {
  it.each([
    ['insert', ['write 9']],
    ['upsert', ['write 1', 'write 9']],
    ['mirror', ['write 1', 'write 9', 'delete p4@example.com']],
    ['replace', ['write 0', 'write 1', 'write 2', 'write 3', 'write 9']],
  ] as const)('in %s sends nothing, and the next run what has changed since', async (mode, later) => {
    const { one, source, sent } = await start(mode)
    expect(await one.adopt()).toMatchObject({ status: 'done', rows: 5, delivered: 5 })
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 5 })
    expect(sent).toEqual([])
    source.rows = [...rows(4).with(1, { id: 1, email: 'new@example.com' }), { id: 9, email: 'p9@example.com' }]
    await one.run()
    expect(sent.filter((line) => line !== 'delete p1@example.com')).toEqual(later)
  })

  it('rejects rows that cannot be sent, and closes dead letters of what it takes for delivered', async () => {
    const { one, source, refused } = await start('upsert')
    refused.add(2)
    await one.run()
    source.rows = source.rows.with(3, { id: 3, email: null })
    expect(await one.adopt()).toMatchObject({ rows: 5, delivered: 1, unchanged: 3, rejected: 1 })
    const letters = []
    for await (const { key, reason } of one.deadLetters()) letters.push([key, reason])
    expect(letters).toEqual([[3, 'the record has no email, by which crm finds its object']])
  })

  it('is refused for append, which knows no objects', async () => {
    const one = sync({ name: 'a', from: [{ id: 1 }], to: destination(1)(() => {}), state: await stateFolder() })
    await expect(one.adopt()).rejects.toThrow('append knows no objects')
  })
})
