import { cpSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'libsql'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import {
  type Context,
  destination,
  FatalError,
  type Operation,
  type Outcome,
  type Policy,
  RejectedError,
  RetryableError,
  retry,
  sync,
  unknown,
} from '../src/index.js'
import { quiet } from './support/quiet.js'
import { stateFolder } from './support/state-folder.js'

type Row = { id: number; v?: number }
type Write = (batch: Row[], context: Context) => Promise<Iterable<Outcome> | undefined>

const rows = (count: number): Row[] => Array.from({ length: count }, (_, id) => ({ id }))
const policy: Policy = { batchSize: 10, settle: '1ms', retryFor: '2s' }
const lost = () => new Error('the answer was lost')

let state: string
beforeEach(async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0) // no backoff
  state = await stateFolder()
})
afterEach(() => void vi.restoreAllMocks())

function upserts(write: Write, { from = rows(3), folder = state }: { from?: readonly Row[]; folder?: string } = {}) {
  const to = destination({ name: 'crm', ...policy })({ upsert: write, delete: write as never })
  return sync({ name: 'leads', from: () => from, to, key: 'id', mode: 'mirror', state: folder, log: quiet })
}

/** What the ledger keeps for each batch that has something. */
function kept(folder = state): unknown[] {
  const database = new Sqlite(join(folder, 'state.db'))
  try {
    const found = database.prepare('select state, remembered from batch where remembered is not null').all()
    return (found as { state: string; remembered: string }[]).map((row) => [row.state, row.remembered])
  } finally {
    database.close()
  }
}

test('a text is on disk when remember() resolves, is there at the next attempt, and goes when every row has its answer', async () => {
  const seen: (string | undefined)[] = []
  let onDisk: unknown
  const run = await upserts(async (_, { remember, remembered }) => {
    seen.push(remembered)
    if (remembered === undefined) {
      await remember('job 7')
      onDisk = kept()
      throw lost()
    }
    return undefined
  }).run()
  expect(run).toMatchObject({ status: 'done', delivered: 3 })
  expect(seen).toEqual([undefined, 'job 7'])
  expect(onDisk).toEqual([['sent', 'job 7']])
  expect(kept()).toEqual([])
})

test('a later text takes the place of an earlier one, and undefined forgets', async () => {
  const seen: (string | undefined)[] = []
  await upserts(async (_, { remember, remembered, attempt }) => {
    seen.push(remembered)
    if (attempt === 1) {
      await remember('a')
      await remember('b')
    } else if (attempt === 2) await remember(undefined)
    if (attempt < 3) throw lost()
    return undefined
  }).run()
  expect(seen).toEqual([undefined, 'b', undefined])
})

test.each([
  ['a RetryableError', () => new RetryableError('busy'), 'job'],
  ['no answer', lost, 'job'],
])('%s keeps it', async (_, error, expected) => {
  const seen: unknown[] = []
  await upserts(async (_, { remember, remembered, attempt }) => {
    seen.push(remembered)
    if (attempt > 1) return undefined
    await remember('job')
    throw error()
  }).run()
  expect(seen).toEqual([undefined, expected])
})

test('rows that are to be sent again, and halves of a refused batch, begin without it; unknown rows keep it', async () => {
  const seen: string[] = []
  await upserts(async (batch, { remember, remembered }) => {
    seen.push(`${batch.map(({ id }) => id)}: ${remembered}`)
    if (batch.length === 3) {
      await remember('job')
      return [retry(batch[0]!), unknown(batch[1]!)]
    }
    return undefined
  }).run()
  expect(seen).toEqual(['0,1,2: undefined', '1: job', '0: undefined'])

  seen.length = 0
  const from = rows(4).map((row) => ({ ...row, v: 1 }))
  await upserts(
    async (batch, { remember, remembered }) => {
      seen.push(`${batch.map(({ id }) => id)}: ${remembered}`)
      if (batch.length < 4) return undefined
      await remember('job')
      await remember(undefined)
      throw new RejectedError('no')
    },
    { from },
  ).run()
  expect(seen).toEqual(['0,1,2,3: undefined', '0,1: undefined', '2,3: undefined'])
})

test('while something is remembered, a FatalError stops the run and leaves its rows unknown; the next run takes them up first', async () => {
  const seen: string[] = []
  const leads = (fails: boolean, from: readonly Row[]) =>
    upserts(
      async (batch, { remember, remembered }) => {
        seen.push(`${batch.map(({ id, v }) => `${id}=${v}`)}: ${remembered}`)
        if (remembered === undefined) await remember('job')
        if (fails) throw new FatalError('crm: the token was revoked')
        return undefined
      },
      { from },
    )
  const old = rows(3).map((row) => ({ ...row, v: 1 }))
  await expect(leads(true, old).run()).rejects.toThrow('the token was revoked')
  expect(kept()).toEqual([['unknown', 'job']])
  const fresh = old.map((row) => ({ ...row, v: row.id === 0 ? 2 : 1 }))
  expect(await leads(false, fresh).run()).toMatchObject({
    status: 'done',
    delivered: 1,
    unchanged: 2,
    resumed: { rows: 3, delivered: 3 },
  })
  // the batch of the job as it was, and then what has changed since
  expect(seen).toEqual(['0=1,1=1,2=1: undefined', '0=1,1=1,2=1: job', '0=2: undefined'])
})

test('rows whose job is still open are not planned anew beside it', async () => {
  const seen: (string | undefined)[] = []
  const leads = (folder: string) =>
    upserts(
      async (_, { remember, remembered }) => {
        seen.push(remembered)
        await remember('job')
        throw lost()
      },
      { folder },
    )
  for (let run = 0; run < 2; run++) {
    seen.length = 0
    const { status, delivered } = await leads(state).run()
    expect({ status, delivered }).toEqual({ status: 'incomplete', delivered: 0 })
    expect(new Set(seen.slice(1))).toEqual(new Set(['job']))
    expect(kept()).toEqual([['unknown', 'job']])
  }
  expect(seen[0]).toBe('job')
})

test('it is gone from the disk as soon as the rows are settled', async () => {
  const onDisk: unknown[] = []
  const write: Write = async (_, { remember }) => {
    onDisk.push(kept())
    await remember('job')
    return undefined
  }
  await upserts(write, { from: rows(20) }).run()
  expect(onDisk).toEqual([[], []])
})

test('rows whose job is still open are not planned anew, even where others were delivered meanwhile', async () => {
  const seen: string[] = []
  let failed = (): void => {}
  const hasFailed = new Promise<void>((resolve) => {
    failed = resolve
  })
  const leads = (first: boolean) => {
    const to = destination({ name: 'crm', ...policy, concurrency: 2 })({
      async upsert(batch: Row[], { remember, remembered }) {
        if (batch[0]!.id === 0) seen.push(`${remembered}`)
        await remember('job')
        if (!first && batch[0]!.id !== 0) return void (await hasFailed)
        failed()
        throw lost()
      },
    })
    return sync({ name: 'leads', from: () => rows(20), to, key: 'id', mode: 'upsert', state, log: quiet })
  }
  await leads(true).run()
  seen.length = 0
  expect(await leads(false).run()).toMatchObject({ status: 'incomplete', resumed: { delivered: 10, unknown: 10 } })
  expect(new Set(seen)).toEqual(new Set(['job']))
})

test('after a kill between remember() and the answer, the next process finds it; deletes are taken up as deletes', async () => {
  const copy = await stateFolder()
  const seen: string[] = []
  const write =
    (killed: boolean): Write =>
    async (batch, { operation, remember, remembered }) => {
      seen.push(`${operation} ${batch.map(({ id }) => id)}: ${remembered}`)
      if (remembered === undefined) {
        await remember(`job for ${operation}`)
        if (killed && operation === 'delete') cpSync(state, copy, { recursive: true }) // what a kill now would leave
      }
      return undefined
    }
  await upserts(write(false)).run()
  await upserts(write(true), { from: rows(2) }).run({ allowDeletes: true })
  seen.length = 0
  const run = await upserts(write(false), { from: rows(2), folder: copy }).run()
  expect(seen).toEqual(['delete 2: job for delete'])
  expect(run).toMatchObject({ status: 'done', resumed: { rows: 1, delivered: 1 }, unchanged: 2 })
})

test('of inserts that nobody answered, verify sees it, and the insert of those that are not there does too', async () => {
  const seen: string[] = []
  const tell = (what: Operation | 'verify', batch: Row[], remembered: string | undefined) =>
    seen.push(`${what} ${batch.map(({ id }) => id)}: ${remembered}`)
  const to = destination({ name: 'crm', ...policy })({
    async insert(batch: Row[], { remember, remembered }) {
      tell('insert', batch, remembered)
      if (remembered !== undefined) return
      await remember('job')
      throw lost()
    },
    async verify(batch: Row[], { remember, remembered }) {
      tell('verify', batch, remembered)
      await remember('seen')
      return batch.slice(0, 2)
    },
  })
  const run = await sync({ name: 'leads', from: rows(3), to, state, log: quiet }).run()
  expect(run).toMatchObject({ status: 'done', delivered: 3 })
  expect(seen).toEqual(['insert 0,1,2: undefined', 'verify 0,1,2: job', 'insert 2: seen'])
})

test('what cannot be remembered, or comes too late, is refused', async () => {
  let late: Context['remember'] | undefined
  await expect(
    upserts(async (_, { remember }) => void (await remember(7 as never)) as undefined).run(),
  ).rejects.toThrow('crm: remember() takes a text, not a number')
  await upserts(async (_, { remember }) => {
    late = remember
    return undefined
  }).run()
  await expect(late!('job')).rejects.toThrow('after its handler had ended')
  expect(kept()).toEqual([])
})

test('a state of before it could be remembered goes on', async () => {
  const database = () => new Sqlite(join(state, 'state.db'))
  await upserts(async () => undefined).run()
  const old = database()
  old.exec('drop table hook; drop table hook_reader; drop table event; drop table delivery')
  old.exec('alter table batch drop column remembered; alter table sync drop column delivered; pragma user_version = 1')
  old.close()
  expect(
    await upserts(async (_, { remember }) => void (await remember('job')) as undefined, { from: rows(4) }).run(),
  ).toMatchObject({
    delivered: 1,
    unchanged: 3,
  })
})
