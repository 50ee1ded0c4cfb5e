import { spawn } from 'node:child_process'
import { cp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Sqlite from 'libsql'
import { afterEach, describe, expect, it } from 'vitest'
import { ConfigError, destination, RetryableError, StateDamagedError, sync } from '../../src/index.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

// Invariant 10: a full disk at each write, and files that are missing, short or foreign: a clear error, nothing sent, nothing
// overwritten, and the same end state once the cause is gone.

const hook = Symbol.for('spillway.checkpoint')
const hooks = globalThis as { [hook]?: (name: string) => void }

afterEach(() => {
  delete hooks[hook]
})

const rows = Array.from({ length: 30 }, (_, id) => ({ id }))

interface Sink {
  readonly seen: number[]
  down: boolean
  readonly run: () => Promise<{ readonly status: string }>
}

function sink(state: string, mode: 'append' | 'insert' | 'upsert'): Sink {
  const it: Sink = {
    seen: [],
    down: false,
    run: () =>
      mode === 'append'
        ? sync({ name: 'people', from: rows, to, state, log: quiet }).run()
        : sync({ name: 'people', from: rows, to, key: 'id', mode, state, log: quiet }).run(),
  }
  const to = destination({ batchSize: 10, retryFor: '1ms' })((batch: { id: number }[]) => {
    if (it.down) throw new RetryableError('down')
    it.seen.push(...batch.map(({ id }) => id))
  })
  return it
}

const unique = (seen: readonly number[]) => [...new Set(seen)].sort((a, b) => a - b)
const all = rows.map(({ id }) => id)

describe('a disk that is full', () => {
  // where something is written: each is hit at its first occurrence, its second, and so on, until a run gets through
  const writes = ['reserve', 'stage write', 'stage written', 'before commit']
  for (const mode of ['append', 'insert', 'upsert'] as const) {
    const points = mode === 'append' ? writes : [...writes, 'file written']
    it.each(points)(
      `at %s, in ${mode}, stops with a clear error; once there is room everything arrives`,
      async (point) => {
        const state = await stateFolder()
        const one = sink(state, mode)
        let failures = 0
        for (let nth = 1; ; nth++) {
          let count = 0
          hooks[hook] = (name) => {
            if (name !== point || ++count !== nth) return
            throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
          }
          // an outcome goes into the reserve, and the run may even end well; whatever else fails says why
          await one
            .run()
            .catch(({ message }) => expect(message).toMatch(/the disk is full at .*: free some room and run again/))
          if (count < nth) break
          failures++
        }
        delete hooks[hook]
        expect(failures).toBeGreaterThan(0)
        expect((await one.run()).status).toBe('done')
        expect(unique(one.seen)).toEqual(all)
      },
    )
  }

  it('after a request has left still keeps its outcome, so that nothing is sent twice', async () => {
    const state = await stateFolder()
    const one = sink(state, 'append')
    let full = false
    hooks[hook] = (name) => {
      if (name === 'answered') full = true
      if (full && name === 'before commit') {
        full = false
        throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' })
      }
    }
    await one.run().catch(() => {})
    delete hooks[hook]
    await one.run()
    expect([...one.seen].sort((a, b) => a - b)).toEqual(all)
  })
})

describe('files that are not what the database says', () => {
  /** A state with everything staged and nothing sent. */
  async function pending(mode: 'append' | 'upsert'): Promise<{ state: string; one: Sink }> {
    const state = await stateFolder()
    const one = sink(state, mode)
    one.down = true
    expect((await one.run()).status).toBe('incomplete')
    one.down = false
    return { state, one }
  }

  const named = async (state: string, prefix: string): Promise<string> => {
    const files = await readdir(join(state, 'people'))
    return join(state, 'people', files.find((file) => file.startsWith(prefix))!)
  }

  it.each([
    ['a missing segment', 'append', 'stage-', (file: string) => rm(file)],
    ['a short segment', 'append', 'stage-', async (file: string) => truncate(file, (await stat(file)).size - 1)],
    ['a missing plan', 'upsert', 'plan-', (file: string) => rm(file)],
    [
      'a changed plan',
      'upsert',
      'plan-',
      async (file: string) => {
        const bytes = await readFile(file)
        bytes[bytes.length >> 1]! ^= 1
        await writeFile(file, bytes)
      },
    ],
  ] as const)('%s is a clear error; with the file back, everything arrives', async (_, mode, prefix, damage) => {
    const { state, one } = await pending(mode)
    const file = await named(state, prefix)
    await cp(file, `${state}-copy`)
    await damage(file)
    await expect(one.run()).rejects.toThrow(StateDamagedError)
    await expect(one.run()).rejects.toThrow(/nothing was sent/)
    expect(one.seen).toEqual([])
    await cp(`${state}-copy`, file)
    await rm(`${state}-copy`)
    expect((await one.run()).status).toBe('done')
    expect(one.seen).toEqual(all)
  })

  it('a changed byte in a segment is found when it is read, and its rows are not sent', async () => {
    const { state, one } = await pending('append')
    const file = await named(state, 'stage-')
    const bytes = await readFile(file)
    bytes[bytes.length - 3]! ^= 1
    await writeFile(file, bytes)
    await expect(one.run()).rejects.toThrow(/is damaged at byte 0/)
    expect(one.seen).toEqual([])
  })

  it('a tail that was never committed is cut off, and files without a name are deleted', async () => {
    const { state, one } = await pending('append')
    const file = await named(state, 'stage-')
    await writeFile(file, 'half a fram', { flag: 'a' })
    await writeFile(join(state, 'people', 'stage-99.rows'), 'garbage')
    expect((await one.run()).status).toBe('done')
    expect(one.seen).toEqual(all)
    expect(await readdir(join(state, 'people'))).toEqual([])
  })

  it('a missing snapshot is a clear error', async () => {
    const state = await stateFolder()
    const one = sink(state, 'insert')
    await one.run()
    const file = await named(state, 'snapshot-')
    await rm(file)
    await expect(one.run()).rejects.toThrow(/snapshot-.* is missing; nothing was sent/)
    expect(one.seen).toEqual(all)
  })
})

describe('a database', () => {
  it('that is garbage is refused, and stays as it is', async () => {
    const state = await stateFolder()
    const garbage = 'not a database at all, '.repeat(200)
    await writeFile(join(state, 'state.db'), garbage)
    await expect(sink(state, 'append').run()).rejects.toThrow(StateDamagedError)
    expect(await readFile(join(state, 'state.db'), 'utf8')).toBe(garbage)
  })

  it('of another program is refused, and stays as it is', async () => {
    const state = await stateFolder()
    const other = new Sqlite(join(state, 'state.db'))
    other.exec('create table invoices (id integer); insert into invoices values (7)')
    other.close()
    await expect(sink(state, 'append').run()).rejects.toThrow(/is a database of another program; it was left as it is/)
    const again = new Sqlite(join(state, 'state.db'))
    expect(again.prepare('select id from invoices').all()).toMatchObject([{ id: 7 }])
    again.close()
  })

  it('of a newer version is refused, with what to do', async () => {
    const state = await stateFolder()
    await sink(state, 'append').run()
    const database = new Sqlite(join(state, 'state.db'))
    database.exec('pragma user_version = 99')
    database.close()
    await expect(sink(state, 'append').run()).rejects.toThrow(ConfigError)
    await expect(sink(state, 'append').run()).rejects.toThrow(
      /written by a newer version of spillway; upgrade this one/,
    )
  })

  it('may be made by several processes at once', async () => {
    const state = await stateFolder()
    const program = (name: number) => `
      import { destination, sync } from 'spillway'
      const from = Array.from({ length: 2_000 }, (_, id) => ({ id }))
      const { delivered } = await sync({ name: 's${name}', from, to: destination(50)(() => {}), state: ${JSON.stringify(state)} }).run()
      process.exitCode = delivered === 2_000 ? 0 : 1`
    const codes = await Promise.all(
      [1, 2, 3, 4, 5].map((name) => {
        const child = spawn(process.execPath, ['--input-type=module', '-e', program(name)], { stdio: 'inherit' })
        return new Promise((resolve) => child.once('exit', resolve))
      }),
    )
    expect(codes).toEqual([0, 0, 0, 0, 0])
  })
})
