import { cpSync, existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, it } from 'vitest'
import { type AnyRow, type Context, destination, FatalError, type Plan, sync } from '../../src/index.js'
import { dieAt, immortal } from '../support/death.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// A run that begins where another left rows unknown folds into the snapshot what was learnt, plans, sends, and folds again. It is
// killed at its named points; what is known of the destination then shows in the next plan. `npm run soak` kills at every point.

const soak = process.env['SOAK'] !== undefined
const hook = Symbol.for('spillway.checkpoint')

afterEach(immortal)

type Row = { id: number; v: number }
const rows = (count: number): Row[] => Array.from({ length: count }, (_, id) => ({ id, v: 0 }))
const first = rows(12)
/** Some changed, two gone, two new: the answers of this run are lost. */
const second = [...first.slice(2).map((row) => (row.id % 3 > 0 ? row : { ...row, v: 1 })), ...rows(14).slice(12)]
/** What had changed has changed back, another has changed, and another is gone. */
const third = first.slice(1).map((row) => (row.id === 4 ? { ...row, v: 2 } : row))

class Place {
  readonly objects: Map<number, Row>
  readonly sent: string[] = []
  loses = false

  constructor(objects: Iterable<readonly [number, Row]> = []) {
    this.objects = new Map(objects)
  }

  sync(state: string, from: () => Iterable<Row>, isDead = () => false) {
    const call = (batch: AnyRow[], { operation }: Context) => {
      if (isDead()) throw new FatalError('the process is dead')
      for (const row of batch as Row[]) {
        this.sent.push(`${operation} ${row.id}`)
        if (operation === 'delete') this.objects.delete(row.id)
        else this.objects.set(row.id, row)
      }
      if (this.loses) throw new Error('socket hang up')
    }
    const to = destination({ name: 'crm', batchSize: 3, retryFor: '1ms', settle: '1ms' })({
      upsert: (batch: AnyRow[], context) => call(batch, context),
      delete: (batch: AnyRow[], context) => call(batch, context),
    })
    return sync({ name: 'people', from, to, key: 'id', mode: 'mirror', deleteCeiling: 9, state, log: quiet })
  }
}

/** What a plan would send, and all that it counts. */
async function shown({ rows, insert, update, delete: gone, unchanged, digest, changes }: Plan) {
  const list: string[] = []
  for await (const { operation, match } of changes) list.push(`${operation} ${match}`)
  return { rows, insert, update, gone, unchanged, digest, list: list.sort() }
}

async function* breaksOff(): AsyncGenerator<Row> {
  yield* first.slice(0, 3)
  throw new Error('the connection was reset')
}

it('what is known of the destination is the same after a kill at any point, and when files without a name are gone', {
  timeout: 900_000,
}, async () => {
  const home = await stateFolder()
  const base = join(home, 'base')
  const before = new Place()
  await before.sync(base, () => first).run()
  before.loses = true
  expect((await before.sync(base, () => second).run()).unknown).toBeGreaterThan(2)
  const known = await shown(await before.sync(base, () => third).plan())
  expect(known.list.length).toBeGreaterThan(4)

  const copyOf = (name: string) => {
    const folder = join(home, name)
    cpSync(base, folder, { recursive: true, filter: (file) => !file.endsWith('-shm') })
    return folder
  }
  const points: string[] = []
  Reflect.set(globalThis, hook, (name: string) => points.push(name))
  const through = new Place(before.objects)
  await through.sync(copyOf('whole'), () => third).run()
  immortal()
  expect(through.sent.toSorted()).toEqual(known.list)
  const sends = points.indexOf('sent')
  expect([sends > 0, points.lastIndexOf('committed') > points.lastIndexOf('answered')]).toEqual([true, true])

  // while the old plan is folded, before the first call, between two, and while the new one is folded
  const answered = points.lastIndexOf('before outcome')
  const quick = [points.indexOf('file renamed'), sends - 1, points.indexOf('answered', sends + 2)]
  quick.push(points.indexOf('file renamed', answered), points.lastIndexOf('committed'))

  let folded = false
  const ghosts: Promise<unknown>[] = []
  for (let nth = 1; nth <= points.length; nth++) {
    if (!soak && !quick.includes(nth - 1)) continue
    const where = `killed at ${nth}, ${points[nth - 1]}`
    const place = new Place(before.objects)
    const folder = copyOf(`killed-${nth}`)
    const next = join(home, `next-${nth}`)
    const death = dieAt(nth, folder, next)
    const running = place
      .sync(
        folder,
        () => third,
        () => death.at !== undefined,
      )
      .run()
    ghosts.push(running.catch(() => {}))
    await Promise.race([running.catch(() => {}), death.came])
    immortal()
    if (death.at === undefined) continue
    const sent = [...place.sent]

    const plan = await shown(await place.sync(next, () => third).plan())
    if (nth <= sends) expect(plan, where).toEqual(known)
    expect(known.list, where).toEqual(expect.arrayContaining(plan.list))
    // what was not sent is still to be sent, and once that nothing is, it stays so
    const unsent = known.list.filter((one) => !sent.includes(one))
    expect(plan.list, where).toEqual(expect.arrayContaining(unsent))
    if (folded) expect(plan.list, where).toEqual([])
    folded = plan.list.length === 0

    // a run that comes no further than to read the source deletes what no name counts for
    const files = join(next, 'people')
    for (const file of ['snapshot-900.parquet', 'plan-900.parquet', 'stage-900.rows', 'snapshot-1.parquet.tmp']) {
      if (existsSync(files)) writeFileSync(join(files, file), 'what a crash may leave')
    }
    await expect(place.sync(next, breaksOff as never).run(), where).rejects.toThrow('the connection was reset')
    expect(
      readdirSync(files).filter((file) => file.includes('-900.') || file.endsWith('.tmp')),
      where,
    ).toEqual([])
    expect(await shown(await place.sync(next, () => third).plan()), where).toEqual(plan)

    place.sent.length = 0
    expect(await place.sync(next, () => third).run(), where).toMatchObject({ status: 'done', pending: 0, unknown: 0 })
    expect(place.sent.toSorted(), where).toEqual(plan.list)
    expect(
      [...place.objects.values()].sort((a, b) => a.id - b.id),
      where,
    ).toEqual(third)
  }
  expect(folded).toBe(true)
  await Promise.all(ghosts)
})
