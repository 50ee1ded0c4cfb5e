import { expect, it } from 'vitest'
import { destination, reject, retry, sync } from '../src/index.js'
import { StageWriter } from '../src/stage.js'
import type { CursorStep, ReadRow, SegmentRow, SyncState } from '../src/state/state.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

it('rows that a handler changed are tried again, and kept as dead letters, as they were staged', async () => {
  const rows = Array.from({ length: 5_000 }, (_, id) => ({ id, at: new Date(id), list: [id] }))
  const seen = new Map<number, string[]>()
  const to = destination({ name: 'spoiler', batchSize: 70, concurrency: 8 })((batch) => {
    const answers = batch.map((row) => {
      seen.set(row['id'], [...(seen.get(row['id']) ?? []), JSON.stringify(row)])
      const again = row['id'] % 7 === 0 && seen.get(row['id'])!.length === 1
      row['list'].push('spoilt')
      delete row['at']
      return again ? retry(row, { after: '1ms' }) : row['id'] % 5 === 0 ? reject(row, 'no') : []
    })
    return answers.flat()
  })
  const letters = sync({ name: 'letters', from: rows, to, state: await stateFolder(), log: quiet })
  const run = await letters.run()
  expect(run).toMatchObject({ delivered: 4_000, rejected: 1_000, pending: 0, unknown: 0 })

  for (const row of rows) {
    expect(seen.get(row.id)).toEqual(Array(row.id % 7 === 0 ? 2 : 1).fill(JSON.stringify(row)))
  }
  const refused: object[] = []
  for await (const { row, record } of letters.deadLetters()) {
    expect(record).toEqual(row)
    refused.push(row)
  }
  expect(refused).toHaveLength(1_000)
  expect(refused).toEqual(expect.arrayContaining(rows.filter(({ id }) => id % 5 === 0)))
})

it('the cursor never moves past a row that is not staged in the same commit', async () => {
  const commits: [rows: number, position: unknown][] = []
  let goOn = (): void => {}
  const slow = new Promise<void>((resolve) => {
    goOn = resolve
  })
  const segment: SegmentRow = { id: 1, read: 1, file: 'stage-1.rows', first: 0, rows: 0, bytes: 0, longest: 0 }
  const state: Partial<SyncState> = {
    folder: await stateFolder(),
    nextOrdinal: 0,
    beginSegment: async () => segment,
    async staged({ rows }, step) {
      commits.push([rows, step?.position])
      await slow
    },
    endRead: async () => {},
  }
  const read: ReadRow = { id: 1, state: 'open', complete: false, first: 0, rows: 0 }
  const writer = new StageWriter(state as SyncState, read, 'test', () => {}, undefined)
  const add = (n: number): Promise<void> => {
    const step: CursorStep = { position: n, seen: [], windowStart: n }
    return writer.add([{ n }], step)
  }
  await add(1)
  await writer.flush()
  await add(2)
  const flushed = writer.flush()
  await add(3) // while the group before is being written
  goOn()
  await flushed
  await writer.end('sealed')
  expect(commits.length).toBeGreaterThan(1)
  for (const [rows, position] of commits) expect(position).toBe(rows)
})
