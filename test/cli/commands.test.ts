import { once } from 'node:events'
import { cp, mkdir, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { type Project, project } from './project.js'

let here: Project
afterEach(() => here.remove())

/** A config whose destination refuses odd ids as long as there is no file called `fixed`. */
const people = `
import { appendFileSync, existsSync } from 'node:fs'
import { destination, reject, sync } from 'spillway'
const rows = [{ id: 1, name: 'Ada' }, { id: 2, name: 'Grace' }, { id: 3, name: 'Edsger' }]
const file = destination({ name: 'file', batchSize: 2 })((batch) => {
  const bad = existsSync('fixed') ? [] : batch.filter((row) => row.id % 2 === 1)
  for (const row of batch) if (!bad.includes(row)) appendFileSync('delivered', row.name + '\\n')
  return bad.map((row) => reject(row, 'id is odd\\n\\u001b[31m'))
})
export default sync({ name: 'people', from: rows, to: file, key: 'id', mode: 'append' })
`
const fixed = { fixed: '' }

const delivered = async () => (await readFile(join(here.folder, 'delivered'), 'utf8')).trim().split('\n')

/** One sync that delivers to nowhere. */
const quietly = (name: string) => `sync({ name: '${name}', from: [{ id: 1 }], to: destination(10)(() => {}) })`
const library = `import { destination, sync } from 'spillway'\n`

/** A config whose destination takes a row at a time, and pauses as many milliseconds as the file `pause` says. */
const slow = `
import { appendFileSync, readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { destination, sync } from 'spillway'
const rows = Array.from({ length: 40 }, (_, id) => ({ id }))
const file = destination({ name: 'file', batchSize: 1, concurrency: 1 })(async ([row]) => {
  if (row.id === 0) console.log('begun')
  await setTimeout(Number(readFileSync('pause')))
  appendFileSync('delivered', row.id + '\\n')
})
export default sync({ name: 'slow', from: rows, to: file })
`
const all = Array.from({ length: 40 }, (_, id) => String(id))

/** Resolves when the child has printed the text, and rejects when it ends without. */
async function printed({ child, ended }: ReturnType<Project['start']>, text: string): Promise<void> {
  let out = ''
  const seen = new Promise<void>((resolve) => {
    child.stdout!.on('data', (chunk) => {
      out += chunk
      if (out.includes(text)) resolve()
    })
  })
  await Promise.race([seen, ended.then(({ err }) => Promise.reject(new Error(`ended without ${text}: ${err}`)))])
}

describe('the config file', () => {
  test.each(['ts', 'mts', 'js', 'mjs'])(
    'may be spillway.config.%s, and shares the library with the command',
    async (extension) => {
      here = await project({ [`spillway.config.${extension}`]: people, ...fixed })
      const { code, out, err } = await here.spillway('run')
      expect(err).toBe('')
      expect(out).toMatch(/^people: 3 rows: 3 delivered in /)
      expect(code).toBe(0)
      expect(await delivered()).toEqual(['Ada', 'Grace', 'Edsger'])
    },
  )

  test('may be TypeScript that imports TypeScript, and waits', async () => {
    here = await project({
      'spillway.config.ts': `${library}import { rows } from './rows.js'\nconst n: number = await Promise.resolve(1)
export default sync({ name: 'typed', from: rows.slice(n), to: destination(10)(() => {}) })`,
      'rows.ts': `export const rows: { id: number }[] = [{ id: 1 }, { id: 2 }]`,
    })
    expect((await here.spillway('run')).out).toContain('typed: 1 row: 1 delivered')
  })

  test('exports syncs by default, by name, or in a list; each is run once', async () => {
    here = await project({
      'spillway.config.ts': `${library}export const a = ${quietly('a')}
export const list = [a, ${quietly('b')}], rows = [1, 2], other = 'x'
export default ${quietly('c')}`,
    })
    const { code, out } = await here.spillway('run', '--json')
    expect(code).toBe(0)
    const runs = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(runs.map(({ sync }) => sync).sort()).toEqual(['a', 'b', 'c'])
  })

  test('may give one source to several syncs, which read it once', async () => {
    here = await project({
      'spillway.config.ts': `${library}let calls = 0
const from = () => [{ id: 1, call: ++calls }]
const to = destination(10)((rows) => console.error(JSON.stringify(rows)))
export default ['a', 'b'].map((name) => sync({ name, from, to }))`,
    })
    const { code, out, err } = await here.spillway('run', '--quiet')
    expect(err).toBe('[{"id":1,"call":1}]\n'.repeat(2))
    expect(out).toBe('')
    expect(code).toBe(0)
  })

  test('is the one of --config, wherever it is', async () => {
    here = await project({ 'jobs/people.ts': people, ...fixed })
    expect((await here.spillway('run', '--config', 'jobs/people.ts')).code).toBe(0)
    expect((await here.spillway('--config', 'jobs/people.ts', 'run')).code).toBe(0)
  })

  test.each([
    [
      'is missing',
      {},
      'there is no spillway.config.ts \\(or .mts, .js, .mjs\\) in .*: create one with `spillway init`',
    ],
    [
      'is there twice',
      { 'spillway.config.ts': '', 'spillway.config.mjs': '' },
      'there are spillway.config.ts and spillway.config.mjs: keep one',
    ],
    ['exports no sync', { 'spillway.config.ts': 'export default []' }, 'exports no sync: write `export default sync'],
    [
      'lists something else',
      { 'spillway.config.ts': `${library}export default [${quietly('a')}, 5]` },
      'default\\[1\\] is not a sync',
    ],
    [
      'names two alike',
      { 'spillway.config.ts': `${library}export default [${quietly('a')}, ${quietly('a')}]` },
      'two syncs are called a',
    ],
    [
      'does not parse',
      { 'spillway.config.ts': 'export default {' },
      'spillway.config.ts cannot be loaded: .*SyntaxError|ParseError',
    ],
    [
      'throws',
      { 'spillway.config.ts': 'throw new RangeError("oh")' },
      'spillway.config.ts cannot be loaded: RangeError: oh',
    ],
    ['cannot work', { 'spillway.config.ts': `${library}destination(0)(() => {})` }, 'batchSize is 0'],
  ])('that %s is an error that says what to do, and exit code 2', async (_, files, message) => {
    here = await project(files)
    const { code, out, err } = await here.spillway('run')
    expect(err).toMatch(new RegExp(`^spillway: .*(${message})`))
    expect(err).not.toMatch(/^ {4}at /m)
    expect(out).toBe('')
    expect(code).toBe(2)
  })

  test('that uses another copy of the library is refused, naming both', async () => {
    here = await project({ 'spillway.config.ts': people })
    const copy = join(here.folder, 'node_modules/spillway')
    await rm(copy)
    await mkdir(copy)
    const root = fileURLToPath(new URL('../..', import.meta.url))
    await cp(join(root, 'package.json'), join(copy, 'package.json'))
    await cp(join(root, 'dist'), join(copy, 'dist'), { recursive: true })
    await symlink(join(root, 'node_modules'), join(copy, 'node_modules'))
    const { code, err } = await here.spillway('run')
    expect(err).toContain(
      `uses the spillway at ${copy}/dist/src/index.js, and this is the one at ${root}dist/src/index.js`,
    )
    expect(code).toBe(2)
  })

  test('without the library installed says how to install it', async () => {
    here = await project({ 'spillway.config.ts': people })
    await rm(join(here.folder, 'node_modules/spillway'))
    const { code, err } = await here.spillway('run')
    expect(err).toMatch(/^spillway: spillway\.config\.ts cannot be loaded: .*'spillway'.*: npm install spillway\n$/)
    expect(code).toBe(2)
  })
})

describe('run', () => {
  test('with rejected rows ends with 3 and says where to look', async () => {
    here = await project({ 'spillway.config.ts': people })
    const { code, out } = await here.spillway('run')
    expect(out).toMatch(
      /^people: 3 rows: 1 delivered, 2 rejected in .*\n {2}why rows were rejected: spillway dead-letters --sync people\n$/,
    )
    expect(code).toBe(3)
  })

  test('that fails ends with 1, and shows where it came from with --debug only', async () => {
    here = await project({
      'spillway.config.ts': `import { destination, FatalError, sync } from 'spillway'
const crm = destination({ name: 'crm' })(() => { throw new FatalError('crm: token revoked: Bearer abcdef123456789') })
export default [sync({ name: 'bad', from: [{ id: 1 }], to: crm }), ${quietly('good')}]`,
    })
    const { code, out, err } = await here.spillway('run')
    expect(err).toMatch(/^spillway: bad: .*crm: token revoked: Bearer \[redacted\]/)
    expect(err).not.toMatch(/^ {4}at /m)
    expect(out).toMatch(/^good: 1 row: 1 delivered/)
    expect(code).toBe(1)
    const debug = await here.spillway('run', 'bad', '--debug')
    expect(debug.err).toMatch(/^ {4}at /m)
    expect(debug.err).not.toContain('abcdef')
    const [line] = (await here.spillway('run', 'bad', '--json')).out.split('\n')
    expect(JSON.parse(line!)).toMatchObject({ sync: 'bad', status: 'failed', error: 'FatalError' })
  })

  test('without the config that a destination needs ends with 2 and names every place looked at', async () => {
    here = await project({
      'spillway.config.ts': `${library}import { z } from '${import.meta.resolve('zod')}'
const crm = destination({ name: 'crm', config: z.object({ url: z.string(), token: z.string() }) })((rows, { config }) => {
  console.log('sent with', config.token.length, config)
})
export default sync({ name: 'people', from: [{ id: 1 }], to: crm({ url: 'https://crm.test' }) })`,
    })
    const missing = await here.spillway('run')
    expect(missing.err).toContain('token: missing')
    expect(missing.err).toContain('DESTINATION__CRM__TOKEN, CRM__TOKEN, DESTINATION__TOKEN')
    expect(missing.code).toBe(2)

    await here.write({ '.spillway/secrets.toml': `[destination.crm]\ntoken = 'sk-live-0123'` })
    const { code, out, err } = await here.spillway('run')
    expect([code, err]).toEqual([0, ''])
    expect(out).toContain(`sent with 12 { url: 'https://crm.test', token: '[redacted]' }`)

    await here.write({ '.spillway/secrets.toml': `[destination.crm]\ntoken = sk-live-0123` })
    const damaged = await here.spillway('run')
    expect(damaged.err).toMatch(/secrets\.toml, line 2, column \d+ is not TOML/)
    expect(damaged.err).not.toContain('sk-live')
    expect(damaged.code).toBe(2)
  })

  test('takes names, and lists the known ones when there is no such sync', async () => {
    here = await project({ 'spillway.config.ts': `${library}export default [${quietly('a')}, ${quietly('b')}]` })
    expect((await here.spillway('run', 'b')).out).toMatch(/^b: 1 row: 1 delivered.*\n$/)
    const { code, err } = await here.spillway('run', 'b', 'c')
    expect(err).toBe('spillway: no sync is called c: the config has a, b\n')
    expect(code).toBe(2)
  })

  test('with --json prints one object for each run and nothing else, with --quiet nothing that went well', async () => {
    here = await project({ 'spillway.config.ts': people })
    const json = await here.spillway('run', '--json')
    expect(JSON.parse(json.out)).toMatchObject({
      sync: 'people',
      status: 'done',
      rows: 3,
      delivered: 1,
      rejected: 2,
      pending: 0,
    })
    expect(json.out.trim().split('\n')).toHaveLength(1)
    expect([json.err, json.code]).toEqual(['', 3])

    expect((await here.spillway('run', '--quiet')).out).toContain('2 rejected')
    await here.write(fixed)
    expect(await here.spillway('run', '--quiet')).toMatchObject({ code: 0, out: '', err: '' })
  })

  test('with --json keeps what the config and its handlers print off standard output', async () => {
    here = await project({
      'spillway.config.ts': `${library}console.log('loaded')
export default sync({ name: 'loud', from: [{ id: 1 }], to: destination(10)((rows, { log }) => {
  console.log('printed')
  log.info('logged')
}) })`,
    })
    const { code, out, err } = await here.spillway('run', '--json')
    expect(JSON.parse(out)).toMatchObject({ sync: 'loud', delivered: 1 })
    expect(err).toBe('loaded\nprinted\nlogged\n')
    expect(code).toBe(0)
  })

  test('goes on to its end when nobody reads its output any more', async () => {
    here = await project({ 'spillway.config.ts': slow, pause: '50' })
    const run = here.start('run')
    await printed(run, 'begun')
    run.child.stdout!.destroy()
    await here.write({ pause: '0' })
    expect(await run.ended).toMatchObject({ code: 0, err: '' })
    expect(await delivered()).toEqual(all)
  })

  test('piped never moves the cursor', async () => {
    here = await project({ 'spillway.config.ts': people })
    for (const args of [['run'], ['status'], ['dead-letters']]) {
      const { out, err } = await here.spillway(...args)
      expect(out + err).not.toContain('\u001b')
    }
  })

  test('ends although the config leaves a timer running', async () => {
    here = await project({ 'spillway.config.ts': `setInterval(() => {}, 1e6)\n${people}`, ...fixed })
    expect((await here.spillway('run')).code).toBe(0)
  })

  test.each(['SIGINT', 'SIGTERM'] as const)(
    'stops at the batch boundary at %s, says so, and goes on at the next run',
    async (signal) => {
      here = await project({ 'spillway.config.ts': slow, pause: '300' })
      const run = here.start('run')
      await printed(run, 'begun')
      run.child.kill(signal)
      await once(run.child.stderr!, 'data')
      // npm hands Ctrl-C on a second time at once: that is not a second signal.
      run.child.kill(signal)
      const { code, out, err } = await run.ended
      expect(err).toBe(
        'spillway: stopping after the batches in flight; the rest stays pending for the next run (once more to kill)\n',
      )
      expect(out).toMatch(/slow: incomplete: 40 rows: \d+ delivered, \d+ pending/)
      expect(code).toBe(1)
      const first = await delivered()
      expect(first).toEqual(all.slice(0, first.length))
      expect(first.length).toBeLessThan(40)

      await here.write({ pause: '0' })
      const next = await here.spillway('run')
      expect(next.code).toBe(0)
      expect(await delivered()).toEqual(all)
    },
  )

  test('is killed by a second signal, and the next run loses nothing', async () => {
    here = await project({ 'spillway.config.ts': slow, pause: '60000' })
    const run = here.start('run')
    await printed(run, 'begun')
    run.child.kill('SIGINT')
    await once(run.child.stderr!, 'data')
    await new Promise((resolve) => setTimeout(resolve, 600))
    run.child.kill('SIGINT')
    expect(await run.ended).toMatchObject({ code: null, signal: 'SIGKILL' })
    await here.write({ pause: '0' })
    const next = await here.spillway('run')
    expect(next.code).toBe(0)
    expect([...new Set(await delivered())].sort()).toEqual([...all].sort())
  })

  test('stops in time for a deadline', async () => {
    here = await project({ 'spillway.config.ts': slow, pause: '100' })
    const { code, out } = await here.spillway('run', '--deadline', '1s')
    expect(out).toMatch(/slow: incomplete: .* pending/)
    expect(code).toBe(1)
    expect((await here.spillway('run', '--deadline', '1 second')).err).toMatch(
      /--deadline: "1 second" is not a duration/,
    )
  })
})

/** A mirror of the rows in a file. */
const mirror = `
import { readFileSync } from 'node:fs'
import { destination, sync } from 'spillway'
const crm = destination({ name: 'crm', match: 'email' })({ upsert() {}, delete() {} })
export default sync({ name: 'people', from: () => JSON.parse(readFileSync('rows.json', 'utf8')), to: crm, key: 'id', mode: 'mirror', deleteCeiling: '50%' })
`
const rowsFile = (rows: readonly object[]) => ({ 'rows.json': JSON.stringify(rows) })
const ada = { id: 1, email: 'ada@example.com', score: 1 }
const grace = { id: 2, email: 'grace@example.com', score: 2 }

describe('plan', () => {
  test('shows what a run would send, line by line, and its exit code says whether there is anything', async () => {
    here = await project({ 'spillway.config.mjs': mirror, ...rowsFile([ada, grace]) })
    const first = await here.spillway('plan')
    expect(first.code).toBe(4)
    expect(first.out).toBe(`people: 2 rows: 2 to insert
  + ada@example.com  id: 1, email: "ada@example.com", score: 1
  + grace@example.com  id: 2, email: "grace@example.com", score: 2
`)
    expect((await here.spillway('run')).code).toBe(0)
    const second = await here.spillway('plan')
    expect(second).toMatchObject({ code: 0, out: 'people: 2 rows: 2 unchanged\n' })
    await here.write(rowsFile([{ ...ada, score: null }, { id: 3, email: 'x\u001b[31m@example.com' }, { id: 4 }]))
    const third = await here.spillway('plan')
    expect(third.code).toBe(4)
    expect(third.out).toBe(`people: 3 rows: 1 to insert, 1 to update, 1 to delete, 1 cannot be sent
  ~ ada@example.com  score: 1 → null
  + x\\u001b[31m@example.com  id: 3, email: "x\\u001b[31m@example.com"
  !   the record has no email, by which crm finds its object
  - grace@example.com
`)
    expect((await here.spillway('plan', '--limit', '1')).out).toContain('and 3 more: --limit 4\n')
  })

  test('says first how the columns of the source have changed', async () => {
    here = await project({ 'spillway.config.mjs': mirror, ...rowsFile([ada]) })
    await here.spillway('run')
    await here.write(rowsFile([{ id: '1', email: ada.email, phone: '1' }]))
    const { out } = await here.spillway('plan')
    const [, ...lines] = out.split('\n')
    expect(lines.slice(0, 3)).toEqual([
      '  column phone is new',
      '  column score is gone',
      '  column id was number and is text',
    ])
    const [counts = ''] = (await here.spillway('plan', '--json')).out.split('\n')
    expect(JSON.parse(counts)).toMatchObject({
      columns: { added: ['phone'], dropped: ['score'], changed: [{ name: 'id', from: 'number', to: 'text' }] },
    })
  })

  test('is saved as JSON, and a run that is given it sends just that, or nothing', async () => {
    here = await project({ 'spillway.config.mjs': mirror, ...rowsFile([ada]) })
    const { out } = await here.spillway('plan', '--json')
    const [counts, change] = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(counts).toMatchObject({ sync: 'people', insert: 1 })
    expect(change).toMatchObject({ sync: 'people', operation: 'upsert', match: 'ada@example.com', record: ada })
    await here.write({ saved: out, ...rowsFile([ada, grace]) })
    const refused = await here.spillway('run', '--plan', 'saved')
    expect(refused).toMatchObject({ code: 1, out: '' })
    expect(refused.err).toContain('has changed since the plan was made: nothing was sent. Plan again')
    await here.write(rowsFile([ada]))
    expect((await here.spillway('run', '--plan', 'saved')).code).toBe(0)
    await here.write({ other: '{}', broken: '{' })
    expect((await here.spillway('run', '--plan', 'other')).err).toContain('other holds no plan of this sync')
    expect(await here.spillway('run', '--plan', 'broken')).toMatchObject({ code: 2 })
    expect(await here.spillway('run', '--plan', 'missing')).toMatchObject({ code: 2 })
  })

  test('says that a guard would stop the run, and how to go on', async () => {
    here = await project({ 'spillway.config.mjs': mirror, ...rowsFile([ada, grace]) })
    await here.spillway('run')
    await here.write(rowsFile([]))
    const planned = await here.spillway('plan')
    expect(planned.code).toBe(1)
    expect(planned.out).toContain('a run would stop: the source has no row, and the destination holds 2')
    const stopped = await here.spillway('run')
    expect(stopped.code).toBe(1)
    expect(stopped.err).toContain('--allow-deletes')
    const allowed = await here.spillway('run', '--allow-deletes')
    expect(allowed.code).toBe(0)
    expect(allowed.out).toContain('gone from the source: 2 rows: 2 delivered')
  })

  test('--full sends everything again', async () => {
    here = await project({ 'spillway.config.mjs': mirror, ...rowsFile([ada, grace]) })
    await here.spillway('run')
    expect((await here.spillway('run')).out).toContain('0 delivered, 2 unchanged')
    expect((await here.spillway('run', '--full')).out).toContain('2 delivered')
  })
})

/** A mirror of the rows in a file, into a file that anybody may edit. */
const edited = `
import { readFileSync, writeFileSync } from 'node:fs'
import { destination, sync } from 'spillway'
const read = (file) => JSON.parse(readFileSync(file, 'utf8'))
const crm = destination({ name: 'crm', match: 'email' })({
  upsert: (batch) => writeFileSync('crm.json', JSON.stringify(batch)),
  delete() {},
  list: () => read('crm.json'),
})
const chat = destination({ name: 'chat' })(() => {})
export const people = sync({ name: 'people', from: () => read('rows.json'), to: crm, key: 'id', mode: 'mirror' })
export const alerts = sync({ name: 'alerts', from: [{ id: 1 }], to: chat })
`
const crmFile = (objects: readonly object[]) => ({ 'crm.json': JSON.stringify(objects) })

describe('verify', () => {
  test('shows what is not there as it was delivered, and how to put it right; its exit code says whether anything is', async () => {
    here = await project({ 'spillway.config.mjs': edited, ...rowsFile([ada, grace, { id: 3, email: 'x' }]) })
    await here.spillway('run', 'people')
    const first = await here.spillway('verify', 'people')
    expect(first).toMatchObject({ code: 0, out: 'people: 3 objects: 3 as delivered\n', err: '' })
    await here.write(crmFile([{ ...ada, score: null, note: 'mine' }, grace, grace, { email: 'y\u001b[31m' }]))
    const second = await here.spillway('verify', 'people')
    expect(second.code).toBe(4)
    expect(second.out).toBe(`people: 3 objects: 1 as delivered, 1 missing, 1 different, 2 unexpected
  - x
  ~ ada@example.com  score: 1 → null
  ? grace@example.com  another object has the same email
  ? y\\u001b[31m
  to put it right: send everything again with full (spillway run people --full); no run takes away what is unexpected: look at it there
`)
    expect((await here.spillway('verify', 'people', '--limit', '1')).out).toContain('and 3 more: --limit 4\n')
    await here.spillway('run', 'people', '--full')
    expect((await here.spillway('verify', 'people')).code).toBe(0)
  })

  test('with --json prints the counts and then each difference', async () => {
    here = await project({ 'spillway.config.mjs': edited, ...rowsFile([ada]) })
    await here.spillway('run')
    await here.write(crmFile([{ ...ada, score: 2 }]))
    const { code, out } = await here.spillway('verify', 'people', '--json')
    const [counts, difference, ...others] = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(counts).toMatchObject({ sync: 'people', known: 1, same: 0, different: 1 })
    expect(difference).toMatchObject({ sync: 'people', kind: 'different', match: ada.email, fields: ['score'] })
    expect(difference).toMatchObject({ expected: ada, found: { ...ada, score: 2 } })
    expect([others, code]).toEqual([[], 4])
  })

  test('names the syncs that cannot be verified, and verifies the others', async () => {
    here = await project({ 'spillway.config.mjs': edited, ...rowsFile([ada]) })
    await here.spillway('run')
    const refused = await here.spillway('verify')
    expect(refused).toMatchObject({ code: 2, out: 'people: 1 object: 1 as delivered\n' })
    expect(refused.err).toBe(
      'spillway: alerts: append knows no objects, so there is nothing to verify; give a key and a keyed mode\n',
    )
    await here.write({ 'crm.json': '{' })
    const failed = await here.spillway('verify', 'people')
    expect(failed).toMatchObject({ code: 1, out: '' })
    expect(failed.err).toMatch(/^spillway: people: crm could not be listed: .*JSON.*\. Nothing was changed\n$/)
  })
})

describe('dead-letters', () => {
  test('show key, reason, time and attempts; the row only when asked', async () => {
    here = await project({ 'spillway.config.ts': people })
    expect((await here.spillway('dead-letters')).out).toBe('people: no dead letters\n')
    await here.spillway('run')
    const { code, out } = await here.spillway('dead-letters', '--sync', 'people')
    const [sync, header, ...rows] = out.trimEnd().split('\n')
    expect([sync, header]).toEqual(['people', expect.stringMatching(/^key +when +attempts +reason$/)])
    expect(rows).toEqual([
      expect.stringMatching(/^1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +1 +id is odd \\u001b\[31m$/),
      expect.stringMatching(/^3 /),
    ])
    expect(out).not.toContain('Ada')
    expect(code).toBe(0)
    expect((await here.spillway('dead-letters', '--rows')).out).toContain('{"id":1,"name":"Ada"}')
    expect((await here.spillway('dead-letters', '--limit', '1')).out).toMatch(/\n1 .*\nand more: --limit 2\n$/)
  })

  test('are one JSON object each with --json', async () => {
    here = await project({ 'spillway.config.ts': people })
    await here.spillway('run')
    const lines = (await here.spillway('dead-letters', '--json')).out.trim().split('\n')
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      expect.objectContaining({ sync: 'people', operation: 'insert', reason: 'id is odd\n\u001b[31m', attempts: 1 }),
      expect.not.objectContaining({ row: expect.anything() }),
    ])
    const [row] = (await here.spillway('dead-letters', '--json', '--rows', '--limit', '1')).out.trim().split('\n')
    expect(JSON.parse(row!)).toMatchObject({ row: { id: 1, name: 'Ada' } })
  })

  test('go out again with redrive, once the cause is gone', async () => {
    here = await project({ 'spillway.config.ts': people })
    await here.spillway('run')
    expect((await here.spillway('redrive')).code).toBe(3)
    await here.write(fixed)
    await here.spillway('redrive', 'people', '--reason', 'something else')
    expect(await delivered()).not.toContain('Ada')
    const { code, out } = await here.spillway('redrive', 'people', '--reason', 'odd')
    expect(out).toMatch(/^people: .*2 delivered/)
    expect(code).toBe(0)
    expect((await delivered()).sort()).toEqual(['Ada', 'Edsger', 'Grace'])
    expect((await here.spillway('dead-letters')).out).toBe('people: no dead letters\n')
  })
})

describe('status', () => {
  test('shows each sync, before its first run and after it', async () => {
    here = await project({ 'spillway.config.ts': people })
    expect((await here.spillway('status')).out).toMatch(/^sync +state +last run .*\npeople +never run +0 +0 +0\n$/)
    await here.spillway('run')
    expect((await here.spillway('status')).out).toMatch(/\npeople +done +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +1 +0 +0 +2\n$/)
    const { out, code } = await here.spillway('status', 'people', '--json')
    expect(JSON.parse(out)).toMatchObject({ sync: 'people', running: false, deadLetters: 2, pending: 0, unknown: 0 })
    expect(code).toBe(0)
  })

  test('tells of a run in another process while it goes on', async () => {
    here = await project({ 'spillway.config.ts': slow, pause: '100' })
    const run = here.start('run')
    await printed(run, 'begun')
    expect((await here.spillway('status')).out).toMatch(/\nslow +running /)
    const second = await here.spillway('run')
    expect(second.err).toMatch(/^spillway: slow: another run of this sync is under way/)
    expect(second.code).toBe(1)
    run.child.kill()
    await run.ended
    expect((await here.spillway('status')).out).toMatch(/\nslow +incomplete /)
  })
})

test('reset forgets what was delivered, but not without being told twice', async () => {
  here = await project({ 'spillway.config.ts': people })
  await here.spillway('run')
  const refused = await here.spillway('reset', 'people')
  expect(refused).toMatchObject({
    code: 2,
    err: 'spillway: reset people: what was delivered would be sent again: add --yes if that is meant\n',
  })
  expect((await here.spillway('dead-letters')).out).toContain('odd')
  expect(await here.spillway('reset', 'people', '--yes')).toMatchObject({
    code: 0,
    out: 'people: forgotten; the next run begins from nothing\n',
  })
  expect((await here.spillway('dead-letters')).out).toBe('people: no dead letters\n')
  expect((await here.spillway('status')).out).toContain('never run')
  expect((await here.spillway('reset')).code).toBe(2)
})

describe('init', () => {
  test('makes a project that runs at once', async () => {
    here = await project()
    const { code, out } = await here.spillway('init', 'My Syncs')
    expect(out).toMatch(
      /^Created package\.json, spillway\.config\.ts, \.gitignore, README\.md in My Syncs\. Next:\n\n {2}cd My Syncs\n {2}npm install\n {2}npx spillway run\n/,
    )
    expect(code).toBe(0)
    const folder = join(here.folder, 'My Syncs')
    const { name, dependencies, scripts } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
    expect(name).toBe('my-syncs')
    expect(dependencies.spillway).toMatch(/^\^\d+\.\d+\.\d+/)
    expect(scripts.start).toBe('spillway run')
    expect(await readFile(join(folder, '.gitignore'), 'utf8')).toContain('.spillway/')

    const run = await here.spillway('run', '--config', 'My Syncs/spillway.config.ts')
    expect(run.out).toContain('ada@example.com')
    expect(run.out).toContain('people: 3 rows: 3 delivered')
    expect(run.code).toBe(0)
  })

  test('never overwrites: not a config, nor anything beside it', async () => {
    here = await project({ 'package.json': '{"name":"mine"}', '.gitignore': 'dist' })
    const { code, out } = await here.spillway('init')
    expect(out).toMatch(/^Created spillway\.config\.ts, README\.md\. Next:\n\n {2}npm install spillway\n/)
    expect(out).toContain('Add .spillway/ to your .gitignore')
    expect(code).toBe(0)
    expect(await readFile(join(here.folder, 'package.json'), 'utf8')).toBe('{"name":"mine"}')
    expect(await readFile(join(here.folder, '.gitignore'), 'utf8')).toBe('dist')

    const again = await here.spillway('init')
    expect(again.err).toBe(`spillway: init: ${here.folder}/spillway.config.ts is there already, and stays as it is\n`)
    expect(again.code).toBe(2)
    expect((await readdir(here.folder)).sort()).toEqual([
      '.gitignore',
      'README.md',
      'node_modules',
      'package.json',
      'spillway.config.ts',
    ])
  })

  test('says what is wrong with a folder that cannot be one', async () => {
    here = await project({ file: '' })
    const { code, err } = await here.spillway('init', 'file/sub')
    expect(err).toMatch(/^spillway: init: .*file\/sub\/spillway\.config\.ts cannot be looked at: ENOTDIR\n$/)
    expect(code).toBe(2)
  })
})

describe('usage', () => {
  test.each([
    [['runn'], /^spillway: unknown command 'runn'\n\(Did you mean run\?\)/],
    [['run', '--nope'], /^spillway: unknown option '--nope'/],
    [['dead-letters', '--limit', '0'], /whole number of at least 1/],
    [[], /^Usage: spillway/],
  ])('that is wrong (%j) ends with 2 and a hint', async (args, message) => {
    here = await project()
    const { code, err } = await here.spillway(...args)
    expect(err).toMatch(message)
    expect(code).toBe(2)
  })

  test('has help with examples for each command, and a version', async () => {
    here = await project()
    for (const command of ['run', 'verify', 'status', 'dead-letters', 'redrive', 'reset', 'init']) {
      const { code, out } = await here.spillway(command, '--help')
      expect(out, command).toMatch(new RegExp(`Examples?:\\n {2}spillway ${command}`))
      expect(code).toBe(0)
    }
    expect(await here.spillway('--version')).toMatchObject({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) })
  })
})
