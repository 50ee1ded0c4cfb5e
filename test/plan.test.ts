import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { destination, reject, sync } from '../src/index.js'
import { quiet } from './support/quiet.js'
import { contentOf, stateFolder } from './support/state-folder.js'

type Person = { id: number; email: string; score: number | null; tags: string[] }
const people = (count: number): Person[] =>
  Array.from({ length: count }, (_, id) => ({ id, email: `p${id}@example.com`, score: id / 10, tags: ['a'] }))

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

/** A mirror of people, of which some may be refused. */
async function mirror(count = 8) {
  const source = { rows: people(count) }
  const sent: string[] = []
  const refused = new Set<number>()
  const to = destination({ name: 'crm', batchSize: 3, match: 'email' })({
    upsert(batch: Person[]) {
      sent.push(...batch.map(({ id }) => `upsert ${id}`))
      return batch.filter(({ id }) => refused.has(id)).map((record) => reject(record, 'refused'))
    },
    delete(batch: { email: string }[]) {
      sent.push(...batch.map(({ email }) => `delete ${email}`))
    },
  })
  const state = await stateFolder()
  const one = sync({ name: 'people', from: () => source.rows, to, key: 'id', mode: 'mirror', state, log: quiet })
  return { source, sent, refused, state, one }
}

describe('plan()', () => {
  it('before the first run shows every row as new, sends nothing and leaves no state behind', async () => {
    const { one, sent, state } = await mirror(3)
    const plan = await one.plan()
    expect(plan).toMatchObject({ sync: 'people', rows: 3, insert: 3, update: 0, delete: 0, unchanged: 0, unfit: 0 })
    expect(await all(plan.changes)).toMatchObject([
      { operation: 'upsert', match: 'p0@example.com', before: undefined, fields: [] },
      { match: 'p1@example.com' },
      { match: 'p2@example.com' },
    ])
    expect(sent).toEqual([])
    expect(existsSync(join(state, 'state.db'))).toBe(false)
  })

  it('shows what is new, what has changed field by field, and what is gone; its counts are what a run then sends', async () => {
    const { one, source, sent } = await mirror()
    await one.run()
    sent.length = 0
    const [, , third, ...rest] = source.rows
    source.rows = [...rest.slice(0, -1), { ...third!, score: null, tags: ['a', 'b'] }, ...people(10).slice(9)]
    source.rows = [...people(1), ...people(2).slice(1), ...source.rows]
    const plan = await one.plan()
    expect(plan).toMatchObject({ rows: 9 - 1, insert: 1, update: 1, delete: 1, unchanged: 6, stopped: undefined })
    expect(await all(plan.changes)).toEqual([
      {
        operation: 'upsert',
        match: 'p2@example.com',
        record: { id: 2, email: 'p2@example.com', score: null, tags: ['a', 'b'] },
        before: { id: 2, email: 'p2@example.com', score: 0.2, tags: ['a'] },
        fields: ['score', 'tags'],
        problem: undefined,
      },
      expect.objectContaining({ match: 'p9@example.com', before: undefined }),
      expect.objectContaining({ operation: 'delete', match: 'p7@example.com', record: { email: 'p7@example.com' } }),
    ])
    expect(sent).toEqual([])
    const run = await one.run()
    expect(run).toMatchObject({ delivered: 2, unchanged: 6, deletes: { rows: 1, delivered: 1 } })
    expect(sent).toEqual(['upsert 2', 'upsert 9', 'delete p7@example.com'])
    expect(await one.plan()).toMatchObject({ insert: 0, update: 0, delete: 0, unchanged: 8 })
  })

  it('changes not a byte of the state', async () => {
    const { one, source, state } = await mirror()
    await one.run()
    source.rows = people(9)
    const before = await contentOf(state)
    await one.plan()
    expect(await contentOf(state)).toEqual(before)
  })

  it('can be read again and again, and by part', async () => {
    const { one } = await mirror(5)
    const plan = await one.plan()
    for await (const { match } of plan.changes) {
      expect(match).toBe('p0@example.com')
      break
    }
    expect(await all(plan.changes)).toHaveLength(5)
    expect(await all(plan.changes)).toHaveLength(5)
  })

  it('names rows that cannot be sent, and rows that were refused too often to try again', async () => {
    const { one, source, refused } = await mirror(4)
    source.rows = source.rows.map((row) => (row.id === 3 ? { ...row, email: null as never } : row))
    refused.add(2)
    for (let tries = 0; tries < 3; tries++) await one.run()
    const plan = await one.plan()
    expect(plan).toMatchObject({ rows: 4, insert: 0, update: 0, unfit: 0, waiting: 2, unchanged: 2 })
    source.rows = [...source.rows, { ...people(1)[0]!, id: 9 }]
    const later = await one.plan()
    expect(later).toMatchObject({ insert: 0, unfit: 1, waiting: 2 })
    const [change] = await all(later.changes)
    expect(change?.problem).toBe('another row, of the key 0, has the same email')
  })

  it('says when a run would stop before it sends anything', async () => {
    const { one, source } = await mirror(10)
    await one.run()
    source.rows = people(5)
    expect((await one.plan()).stopped).toMatch(/^5 of the 10 objects at the destination would be deleted/)
    source.rows = []
    expect((await one.plan()).stopped).toMatch(/^the source has no row, and the destination holds 10/)
  })

  it('a run that is given a plan sends just that, and nothing when something has changed since', async () => {
    const { one, source, sent } = await mirror()
    const plan = await one.plan()
    source.rows = people(9)
    await expect(one.run({ plan })).rejects.toThrow('has changed since the plan was made: nothing was sent. Plan again')
    expect(sent).toEqual([])
    source.rows = people(8)
    expect(await one.run({ plan })).toMatchObject({ delivered: 8 })
    await expect(one.run({ plan })).rejects.toThrow('Plan again')
  })

  it('in append shows every row that would be read', async () => {
    const from = [{ id: 1, at: 1 }]
    const to = destination(10)(() => {})
    const state = await stateFolder()
    const one = sync({ name: 'events', from: () => from, to, cursor: 'at', state, log: quiet })
    expect(await one.plan()).toMatchObject({ rows: 1, insert: 1 })
    await one.run()
    from.push({ id: 2, at: 2 })
    const plan = await one.plan()
    expect(plan).toMatchObject({ rows: 1, insert: 1 })
    expect(await all(plan.changes)).toMatchObject([{ operation: 'insert', record: { id: 2 } }])
  })

  it('of a cursor counts what an earlier run read and could not send', async () => {
    const from = [
      { id: 1, at: 1 },
      { id: 2, at: 2 },
    ]
    let down = true
    const to = destination({ name: 'crm', batchSize: 10, retryFor: '1ms' })({
      upsert() {
        if (down) throw Object.assign(new Error('busy'), { status: 429 })
      },
    })
    const state = await stateFolder()
    const one = sync({
      name: 'people',
      from: () => from,
      to,
      key: 'id',
      mode: 'upsert',
      cursor: 'at',
      state,
      log: quiet,
    })
    expect(await one.run()).toMatchObject({ pending: 2 })
    from.push({ id: 3, at: 3 })
    const plan = await one.plan()
    expect(plan.insert).toBe(3)
    expect((await all(plan.changes)).map(({ record }) => record['id'])).toEqual([1, 2, 3])
    down = false
    expect(await one.run()).toMatchObject({ delivered: 1, resumed: { delivered: 2 } })
  })

  it('is refused while a run goes on', async () => {
    let enter = (): void => {}
    let leave = (): void => {}
    const entered = new Promise<void>((resolve) => {
      enter = resolve
    })
    const left = new Promise<void>((resolve) => {
      leave = resolve
    })
    const to = destination(10)(async () => {
      enter()
      await left
    })
    const one = sync({ name: 'a', from: [{ id: 1 }], to, key: 'id', state: await stateFolder(), log: quiet })
    const running = one.run()
    await entered
    await expect(one.plan()).rejects.toThrow('another run of this sync is under way')
    leave()
    await running
  })
})
