import { describe, expect, it } from 'vitest'
import { destination, RetryableError, reject, sync } from '../src/index.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

type Row = { id: number; v: number | string }

/** A place that is cleared and filled again; `how` says what goes wrong. */
function place() {
  const calls: Row[][] = []
  let there: Row[] = []
  const how = { next: 'well' as 'well' | 'breaks half-way' | 'busy' | 'refuses 2' | 'refuses all' | 'retries a row' }
  const to = destination({ name: 'file', batchSize: 4, retryFor: '10ms', timeout: '1s' })({
    async replace(batches: AsyncIterable<Row[]>) {
      if (how.next === 'busy') throw new RetryableError('busy')
      if (how.next === 'refuses all') throw Object.assign(new Error('the sheet is protected'), { status: 403 })
      there = []
      calls.push(there)
      const refused = []
      for await (const batch of batches) {
        if (how.next === 'breaks half-way' && there.length > 0) throw new Error('reset')
        for (const record of batch) {
          if (how.next === 'refuses 2' && record.id === 2) refused.push(reject(record, 'too long'))
          else there.push(record)
        }
      }
      return refused
    },
  })
  return { to, how, calls, there: () => there }
}

const rows = (count: number): Row[] => Array.from({ length: count }, (_, id) => ({ id, v: 0 }))

describe('replace', () => {
  const start = async (keyed = true) => {
    const at = place()
    const source = { rows: rows(10) }
    const state = await stateFolder()
    const options = { name: 'a', from: () => source.rows, to: at.to, mode: 'replace' as const, state, log: quiet }
    return { ...at, source, one: sync(keyed ? { ...options, key: 'id' } : options) }
  }

  it('gives everything in batches, when anything has changed, and nothing when nothing has', async () => {
    const { one, source, calls, there } = await start()
    expect(await one.run()).toMatchObject({ status: 'done', rows: 10, delivered: 10 })
    expect(await one.run()).toMatchObject({ status: 'done', rows: 10, delivered: 0, unchanged: 10 })
    expect(calls).toHaveLength(1)
    source.rows = source.rows.map((row) => (row.id === 3 ? { ...row, v: 1 } : row))
    expect(await one.run()).toMatchObject({ delivered: 10, unchanged: 0 })
    expect(there()).toEqual(source.rows)
    source.rows = source.rows.slice(1)
    expect(await one.run()).toMatchObject({ delivered: 9 })
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 9 })
    expect(there()).toEqual(source.rows)
  })

  it('needs no key: rows are told apart by what they hold, and equal rows are counted', async () => {
    const { one, source, calls, there } = await start(false)
    source.rows = [...rows(2), ...rows(2)]
    expect(await one.run()).toMatchObject({ delivered: 4 })
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 4 })
    source.rows = source.rows.slice(0, 3)
    expect(await one.run()).toMatchObject({ delivered: 3 })
    expect(there()).toEqual(source.rows)
    expect(calls).toHaveLength(2)
  })

  it('is done again when it broke off half-way, even when the source has gone back to what was there', async () => {
    const { one, source, how, there } = await start()
    await one.run()
    const before = source.rows
    source.rows = before.map((row) => ({ ...row, v: 1 }))
    how.next = 'breaks half-way'
    expect(await one.run()).toMatchObject({ status: 'incomplete', delivered: 0, unknown: 10 })
    expect(there()).not.toEqual(before)
    how.next = 'well'
    source.rows = before
    expect(await one.run()).toMatchObject({ status: 'done', delivered: 10 })
    expect(there()).toEqual(before)
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 10 })
  })

  it('leaves its rows pending when the destination took nothing, and replaces in the next run', async () => {
    const { one, how, there } = await start()
    how.next = 'busy'
    expect(await one.run()).toMatchObject({ status: 'incomplete', pending: 10, unknown: 0 })
    how.next = 'refuses all'
    const run = await one.run()
    expect(run).toMatchObject({ status: 'incomplete', pending: 10, rejected: 0 })
    expect(run.reason).toContain('the sheet is protected')
    how.next = 'well'
    expect(await one.run()).toMatchObject({ status: 'done', delivered: 10 })
    expect(there()).toHaveLength(10)
  })

  it('a refused row is a dead letter; it is tried in three plans, and then waits until it changes', async () => {
    const { one, source, how, calls } = await start()
    how.next = 'refuses 2'
    for (let tries = 0; tries < 3; tries++) expect(await one.run()).toMatchObject({ delivered: 9, rejected: 1 })
    expect(calls).toHaveLength(3)
    expect(await one.run()).toMatchObject({ delivered: 0, unchanged: 9, rejected: 1 })
    expect(calls).toHaveLength(3)
    source.rows = source.rows.map((row) => (row.id === 2 ? { ...row, v: 'short' } : row))
    how.next = 'well'
    expect(await one.run()).toMatchObject({ delivered: 10, rejected: 0 })
  })

  it('is not done with no rows at all, unless deletes are allowed; then the place is empty', async () => {
    const { one, source, calls, there } = await start()
    await one.run()
    source.rows = []
    await expect(one.run()).rejects.toThrow('the source has no row, and the destination holds 10')
    expect(calls).toHaveLength(1)
    expect(await one.run({ allowDeletes: true })).toMatchObject({ status: 'done', rows: 0 })
    expect(there()).toEqual([])
    expect(await one.run()).toMatchObject({ status: 'done' })
    expect(calls).toHaveLength(2)
  })

  it('with no rows at all is done again when it broke off', async () => {
    const { one, source, how, calls } = await start()
    await one.run()
    source.rows = []
    how.next = 'busy'
    expect(await one.run({ allowDeletes: true })).toMatchObject({ status: 'incomplete' })
    how.next = 'well'
    await one.run({ allowDeletes: true })
    expect(calls).toHaveLength(2)
  })
})
