import { describe, expect, it } from 'vitest'
import { type AnyRow, destination, sync } from '../src/index.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

async function people(mode: 'mirror' | 'upsert') {
  const objects = new Map<string, AnyRow>()
  const deleted: AnyRow[] = []
  const state = await stateFolder()
  const run = (rows: readonly AnyRow[]) => {
    const to = destination({ name: 'crm', batchSize: 10, match: 'email' })({
      upsert(batch: AnyRow[]) {
        for (const row of batch) objects.set(row['email'], row)
      },
      delete(batch: AnyRow[]) {
        deleted.push(...batch)
        for (const row of batch) objects.delete(row['email'])
      },
    })
    return sync({
      name: 'people',
      from: rows,
      to,
      key: 'id',
      mode: mode as 'mirror',
      deleteCeiling: 9,
      state,
      log: quiet,
    }).run({
      allowRejections: true,
    })
  }
  return { objects, deleted, run }
}

const ada = { id: 1, email: 'ada@example.com', v: 0 }
const other = { id: 2, email: 'ada@example.com', v: 5 }
const cy = { id: 3, email: 'cy@example.com', v: 0 }

describe('a value that an object is found by', () => {
  it.each(['mirror', 'upsert'] as const)(
    'is written again when it goes back to the key that had it first, in %s',
    async (mode) => {
      const { objects, run } = await people(mode)
      await run([ada, cy])
      await run([other, cy])
      await run([ada, cy])
      expect(objects.get('ada@example.com')).toEqual(ada)
    },
  )

  it('stays with the key that has it, though a new key that stands before it in the source comes to have it, and its own row changes', async () => {
    const { objects, run } = await people('mirror')
    await run([ada, cy])
    expect(await run([other, { ...ada, v: 1 }, cy])).toMatchObject({ delivered: 1, rejected: 1 })
    expect(objects.get('ada@example.com')).toEqual({ ...ada, v: 1 })
    await run([other, ada, cy])
    expect(objects.get('ada@example.com')).toEqual(ada)
  })

  it('is deleted once, when two keys that had it one after the other are gone', async () => {
    const { deleted, run } = await people('mirror')
    await run([ada, cy])
    await run([other, cy])
    expect(await run([cy])).toMatchObject({ deletes: { rows: 1, delivered: 1 } })
    expect(deleted).toEqual([{ email: 'ada@example.com' }])
  })
})
