import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { beforeAll, describe, expect, it } from 'vitest'
import { destination, RetryableError, reject, runAll, sync } from '../../src/index.js'
import { type PostgresOptions, postgres } from '../../src/sources/postgres.js'
import { databaseOfFile } from '../support/database.js'
import { startPostgres } from '../support/postgres.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// A table to which nothing was written is not read again. What counts here: whatever changes a single value that a read would
// give is seen.

type Row = { id: number; note: unknown }

const database = databaseOfFile()

beforeAll(async () => {
  // its transactions would come and go between those of the tests
  await database.client.query('alter system set autovacuum = off')
  await database.client.query('select pg_reload_conf()')
})

const three = `create table notes as select id, 'note ' || id as note, true as kept from generate_series(1, 3) t (id)`

/** Connections that tell whether rows were read. */
function watched(url = database.url) {
  const pool = new pg.Pool({ connectionString: url })
  const asked: string[] = []
  pool.on('error', () => {})
  pool.on('connect', (client) => {
    const { query } = client
    client.query = ((what: string | { readonly text: string }, ...rest: unknown[]) => {
      asked.push(typeof what === 'string' ? what : what.text)
      return (query as (...all: unknown[]) => unknown).call(client, what, ...rest)
    }) as typeof query
  })
  /** Whether a table was copied since this was asked last. */
  const copied = () => asked.splice(0).some((text) => /^copy/i.test(text))
  return { pool, copied }
}

async function notes(made = three, place: Partial<PostgresOptions> = { table: 'notes' }, url = database.url) {
  await database.client.query(`drop table if exists notes, more, spare cascade; ${made}`)
  const { pool, copied } = watched(url)
  const there = new Map<number, unknown>()
  const to = destination({ name: 'crm' })({
    upsert: (rows: Row[]) => {
      for (const { id, ...rest } of rows) there.set(id, rest)
    },
    delete: (rows: { id: number }[]) => {
      for (const { id } of rows) there.delete(id)
    },
  })
  const from = postgres<Row>({ pool, ...place } as PostgresOptions)
  const one = sync({ name: 'notes', from, to, key: 'id', mode: 'mirror', state: await stateFolder(), log: quiet })
  /** Runs it, and tells what came of it. */
  const run = async () => {
    const { status, rows, delivered, unchanged, deletes } = await one.run({ allowDeletes: true })
    return { status, rows, delivered, unchanged, deleted: deletes.delivered, read: copied() }
  }
  return { run, one, from, there, pool, copied }
}

const write = (sql: string) => database.client.query(sql)

const same = { status: 'done', rows: 3, delivered: 0, unchanged: 3, deleted: 0, read: false }

describe('a table to which nothing was written', () => {
  it.each([
    ['at all', ''],
    ['but what was rolled back', `begin; update notes set note = 'x'; delete from notes; rollback`],
    ['although it was locked', `begin; select * from notes for update; commit`],
    ['and which was vacuumed and analyzed', 'vacuum (freeze, analyze) notes'],
    ['although it got an index', 'create index on notes (id); reindex table notes'],
    ['while another was', `create table more (id int); insert into more values (1)`],
  ])('%s is not read again', async (_, sql) => {
    const { run } = await notes()
    expect(await run()).toMatchObject({ delivered: 3, read: true })
    for (const statement of sql.split(/(?<=notes|int\)); /)) if (statement) await write(statement)
    expect(await run()).toEqual(same)
    expect(await run()).toEqual(same)
  })

  it('is planned without reading it, and that plan can be run', async () => {
    const { run, one, copied } = await notes()
    await run()
    const plan = await one.plan()
    expect(plan).toMatchObject({ rows: 3, insert: 0, update: 0, delete: 0, unchanged: 3, stopped: undefined })
    for await (const change of plan.changes) expect.unreachable(JSON.stringify(change))
    expect(copied()).toBe(false)
    expect(await one.run({ plan })).toMatchObject({ status: 'done', unchanged: 3 })
    // the same as of a table that was read and held against what was delivered
    await write(`update notes set note = note`)
    const read = await one.plan()
    expect([read.digest, copied()]).toEqual([plan.digest, true])
    expect(await one.run({ plan })).toMatchObject({ status: 'done', unchanged: 3 })
  })

  it('and which a plan of nothing to do was made of is read when something comes', async () => {
    const { run, one } = await notes()
    await run()
    const plan = await one.plan()
    await write(`update notes set note = 'x' where id = 2`)
    await expect(one.run({ plan })).rejects.toThrow('has changed since the plan was made')
  })

  it('may be empty, and is read when it has a row', async () => {
    const { run } = await notes('create table notes (id int, note text)')
    expect(await run()).toMatchObject({ rows: 0, read: true })
    expect(await run()).toMatchObject({ rows: 0, read: false })
    await write(`insert into notes values (1, 'a')`)
    expect(await run()).toMatchObject({ rows: 1, delivered: 1, read: true })
  })

  it('is read in full when all is to be sent', async () => {
    const { run, one, copied } = await notes()
    await run()
    expect(await one.run({ full: true })).toMatchObject({ delivered: 3 })
    expect(copied()).toBe(true)
    expect(await run()).toEqual(same)
  })

  it('is read again after the read that came while an older transaction went on', async () => {
    const { run } = await notes()
    const other = new pg.Client(database.url)
    await other.connect()
    await other.query('begin; create temp table held (id int)')
    await write(`update notes set note = 'x' where id = 1`)
    expect(await run()).toMatchObject({ delivered: 3 })
    await other.query('commit')
    await other.end()
    // the row is no older than that transaction
    expect(await run()).toEqual({ ...same, read: true })
    expect(await run()).toEqual(same)
  })
})

describe('a table is read again', () => {
  it.each([
    ['a row was changed', `update notes set note = 'x' where id = 2`, { delivered: 1 }],
    ['a row was touched', `update notes set note = note where id = 2`, { delivered: 0 }],
    ['a row is gone', 'delete from notes where id = 2', { delivered: 0, deleted: 1 }],
    ['a row is new', `insert into notes values (4, 'x')`, { delivered: 1 }],
    [
      'a row is gone and another is new',
      `delete from notes where id = 2; insert into notes values (4, 'x')`,
      { delivered: 1, deleted: 1 },
    ],
    ['all rows are gone', 'delete from notes', { deleted: 3 }],
    [
      'it was filled anew',
      `truncate notes; insert into notes select id, 'x', true from generate_series(1, 3) id`,
      { delivered: 3 },
    ],
    [
      'it was filled anew with frozen rows',
      `begin; truncate notes; copy notes from program 'printf "1\\tx\\tt\\n2\\tx\\tt\\n3\\tx\\tt\\n"' with (freeze); commit`,
      { delivered: 3 },
    ],
    ['it was made anew', `drop table notes; ${three.replaceAll('note ', 'x ')}`, { delivered: 3 }],
    [
      'another has its name',
      `${three.replace('table notes', 'table spare').replaceAll('note ', 'x ')}; alter table notes rename to more; alter table spare rename to notes`,
      { delivered: 3 },
    ],
    ['a column is new', `alter table notes add column more int default 7`, { delivered: 3 }],
    ['a column has another name', `alter table notes rename column note to text`, { delivered: 3 }],
    ['a column has another type', `alter table notes alter note type bytea using note::bytea`, { delivered: 3 }],
    ['a column is gone', `alter table notes drop column note`, { delivered: 3 }],
    ['it was written anew', 'vacuum full notes', { delivered: 0 }],
  ])('when %s', async (_, sql, expected) => {
    const { run, there } = await notes()
    await run()
    expect(await run()).toEqual(same)
    for (const statement of sql.startsWith('begin') ? [sql] : sql.split('; ')) await write(statement)
    expect(await run()).toMatchObject({ status: 'done', read: true, ...expected })
    const { rows } = await write('select * from notes order by id')
    expect([...there].map(([id, rest]) => ({ id, ...(rest as object) })).sort((a, b) => a.id - b.id)).toEqual(
      rows.map((row) => ({ ...row, ...(Buffer.isBuffer(row.note) && { note: new Uint8Array(row.note) }) })),
    )
    expect(await run()).toMatchObject({ delivered: 0, deleted: 0, read: false })
  })

  it.each([
    ['a transaction', ''],
    ['a part of a transaction', 'savepoint part;'],
    ['a part of it that was rolled back and done again', 'savepoint part; delete from notes; rollback to part;'],
  ])('when %s that was under way at the last read has ended', async (_, part) => {
    const { run, there } = await notes()
    const other = new pg.Client(database.url)
    await other.connect()
    await other.query(`begin; insert into notes values (9, 'x'); ${part} delete from notes where id = 1`)
    expect(await run()).toMatchObject({ delivered: 3 })
    expect(await run()).toEqual(same)
    await other.query('commit')
    await other.end()
    expect(await run()).toMatchObject({ delivered: 1, deleted: 1, read: true })
    expect([...there.keys()].sort()).toEqual([2, 3, 9])
  })

  it('when a label of an enum has another name', async () => {
    await write(`drop type if exists mood cascade; create type mood as enum ('sad', 'glad')`)
    const { run, there } = await notes(
      `create table notes as select 1 as id, 'sad'::mood as note, array['glad'::mood] as more`,
    )
    await run()
    expect(await run()).toMatchObject({ rows: 1, read: false })
    await write(`alter type mood rename value 'sad' to 'blue'`)
    expect(await run()).toMatchObject({ delivered: 1, read: true })
    expect(await run()).toMatchObject({ read: false })
    await write(`alter type mood rename value 'glad' to 'merry'`)
    expect(await run()).toMatchObject({ delivered: 1, read: true })
    expect(there).toEqual(new Map([[1, { note: 'blue', more: ['merry'] }]]))
  })

  it('when a row was refused, until the destination has it', async () => {
    await write(`drop table if exists notes; ${three}`)
    const { pool, copied } = watched()
    let refuses = true
    const to = destination({ name: 'crm' })({
      upsert: (rows: Row[]) => rows.filter(({ id }) => refuses && id === 2).map((row) => reject(row, 'no')),
    })
    const from = postgres<Row>({ pool, table: 'notes' })
    const one = sync({ name: 'notes', from, to, key: 'id', state: await stateFolder(), log: quiet })
    for (let time = 1; time <= 5; time++) {
      expect([(await one.run()).rejected, copied()]).toEqual([1, true])
    }
    refuses = false
    expect(await one.redrive()).toMatchObject({ delivered: 1 })
    copied()
    expect([await one.run(), copied()]).toMatchObject([{ unchanged: 3 }, false])
  })

  it('when everything was to be replaced by nothing, and that failed', async () => {
    await write(`drop table if exists notes; ${three}`)
    const { pool, copied } = watched()
    let there: Row[] = []
    let fails = false
    const to = destination({ name: 'crm', retryFor: '0s' })({
      async replace(batches: AsyncIterable<Row[]>) {
        if (fails) throw new RetryableError('busy')
        there = []
        for await (const batch of batches) there.push(...batch)
      },
    })
    const from = postgres<Row>({ pool, table: 'notes' })
    const options = {
      name: 'notes',
      from,
      to,
      key: 'id',
      mode: 'replace',
      state: await stateFolder(),
      log: quiet,
    } as const
    const run = async () => {
      const { status, delivered } = await sync(options).run({ allowDeletes: true })
      return { status, delivered, there: there.length, read: copied() }
    }
    expect(await run()).toEqual({ status: 'done', delivered: 3, there: 3, read: true })
    expect(await run()).toEqual({ status: 'done', delivered: 0, there: 3, read: false })
    await write('delete from notes')
    fails = true
    expect(await run()).toMatchObject({ there: 3, read: true })
    fails = false
    expect(await run()).toMatchObject({ status: 'done', there: 0, read: true })
    expect(await run()).toMatchObject({ status: 'done', there: 0, read: true })
    expect(await run()).toMatchObject({ status: 'done', there: 0, read: false })
  })

  it('when records are made in another way', async () => {
    const { run, from, copied } = await notes()
    await run()
    const state = await stateFolder()
    const sent: unknown[] = []
    const to = destination({ name: 'crm' })({ upsert: (rows: object[]) => void sent.push(...rows) })
    const all = { name: 'notes', from, to, key: 'id', state, log: quiet } as const
    await sync({ ...all, map: ({ id, note }: Row) => ({ id, note }) }).run()
    copied()
    await sync({ ...all, map: ({ id, note }: Row) => ({ id, text: note }) }).run()
    expect([sent.length, copied()]).toEqual([6, true])
    await sync({ ...all, map: ({ id, note }: Row) => ({ id, text: note }) }).run()
    expect([sent.length, copied()]).toEqual([6, false])
  })
})

describe('a table is always read', () => {
  it.each([
    ['that has children', `${three}; create table more () inherits (notes)`, `insert into more values (4, 'x')`, 1],
    [
      'with a column whose text the catalog makes',
      `create table more (); create table notes as select 1 as id, 'more'::regclass as note`,
      'alter table more rename to spare',
      1,
    ],
    [
      'with a column that is worked out when it is read',
      `create table notes (id int, note int generated always as (id * 2) virtual); insert into notes values (1)`,
      'alter table notes alter note set expression as (id * 3)',
      1,
    ],
    [
      'that is a view',
      `create view notes as select 1 as id, current_setting('app.x', true) as note`,
      `alter database postgres set app.x = 'y'`,
      0,
    ],
  ])('%s', async (_, made, sql, delivered) => {
    await write('drop view if exists notes cascade').catch(() => {})
    const { run } = await notes(made)
    await run()
    expect(await run()).toMatchObject({ delivered: 0, read: true })
    await write(sql)
    expect(await run()).toMatchObject({ status: 'done', delivered, read: true })
    await write('drop view if exists notes').catch(() => {})
    await write('alter database postgres reset app.x')
  })

  it.each([
    [
      'of which a policy hides rows',
      'grant select on notes to reader; alter table notes enable row level security; create policy p on notes using (true)',
    ],
    ['to whose columns alone there are rights', 'grant select (id, note, kept) on notes to reader'],
    [
      'where the server does not tell',
      'grant select on notes to reader; revoke execute on function pg_snapshot_xmin(pg_snapshot) from public',
    ],
  ])('%s', async (_, sql) => {
    await write(
      `drop table if exists notes cascade; drop role if exists reader; create role reader login password 'secret'`,
    )
    const url = database.url.replace(/\/\/.*@/, '//reader:secret@')
    const { run } = await notes(`${three}; ${sql}`, { table: 'notes' }, url)
    expect(await run()).toMatchObject({ delivered: 3 })
    expect(await run()).toEqual({ ...same, read: true })
    await write('grant execute on function pg_snapshot_xmin(pg_snapshot) to public; drop table notes; drop role reader')
  })

  it('of another database, be it a copy of the first', async () => {
    const at = (name: string) => database.url.replace(/\/postgres$/, `/${name}`)
    await write('create database first')
    const maker = new pg.Client(at('first'))
    await maker.connect()
    await maker.query(three)
    await maker.end()
    await write('create database second template first')
    const [first, second] = [watched(at('first')), watched(at('second'))]
    await first.pool.query(`update notes set note = 'x' where id = 1`)
    const sent: Row[] = []
    const to = destination({ name: 'crm' })({ upsert: (rows: Row[]) => void sent.push(...rows) })
    const state = await stateFolder()
    const run = ({ pool }: ReturnType<typeof watched>) =>
      sync({ name: 'notes', from: postgres<Row>({ pool, table: 'notes' }), to, key: 'id', state, log: quiet }).run()
    await run(first)
    expect(await run(first)).toMatchObject({ unchanged: 3 })
    expect(await run(second)).toMatchObject({ delivered: 1, unchanged: 2 })
    expect(sent.at(-1)).toMatchObject({ id: 1, note: 'note 1' })
  })

  it('by a query', async () => {
    const { run } = await notes(three, { query: 'select * from notes' })
    await run()
    expect(await run()).toEqual({ ...same, read: true })
  })
})

describe('syncs that share a table', () => {
  it('copy it for those only that have not all of it', async () => {
    const { run, one, from, copied } = await notes()
    await run()
    const sent: unknown[] = []
    const to = destination({ name: 'other' })({ upsert: (rows: Row[]) => void sent.push(...rows) })
    const other = sync({ name: 'other', from, to, key: 'id', state: await stateFolder(), log: quiet })
    const counts = async () => (await runAll([one, other])).map(({ delivered, unchanged }) => [delivered, unchanged])
    expect([await counts(), copied(), sent.length]).toEqual([
      [
        [0, 3],
        [3, 0],
      ],
      true,
      3,
    ])
    expect([await counts(), copied(), sent.length]).toEqual([
      [
        [0, 3],
        [0, 3],
      ],
      false,
      3,
    ])
    await write(`update notes set note = 'x' where id = 1`)
    expect([await counts(), copied(), sent.length]).toEqual([
      [
        [1, 2],
        [1, 2],
      ],
      true,
      4,
    ])
  })
})

it('a table is read again when the server has crashed, and when it was restarted', async () => {
  const server = await startPostgres()
  const { pool, copied } = watched(server.url)
  try {
    await pool.query(three)
    const to = destination({ name: 'crm' })({ upsert() {} })
    const from = postgres<Row>({ pool, table: 'notes' })
    const one = sync({ name: 'notes', from, to, key: 'id', state: await stateFolder(), log: quiet })
    const run = async () => [(await one.run()).unchanged, copied()]
    await run()
    expect(await run()).toEqual([3, false])
    const { rows } = await pool.query('select pg_backend_pid() as pid')
    process.kill(rows[0].pid, 'SIGKILL')
    await backFrom(pool)
    expect(await run()).toEqual([3, true])
    expect(await run()).toEqual([3, false])
  } finally {
    await pool.end()
    await server.stop()
  }
})

/** Waits until a server has recovered. */
async function backFrom(pool: pg.Pool): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    await sleep(100)
    if (
      await pool.query('select 1').then(
        () => true,
        () => false,
      )
    )
      return
  }
  throw new Error('the server did not come back')
}
