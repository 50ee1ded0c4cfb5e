import { Instant, sync } from 'spillway'
import { toConsole } from 'spillway/destinations/console'
import { expect, test } from 'vitest'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'

function paper() {
  const written: string[] = []
  return { stream: { write: (text: string) => written.push(text) }, text: () => written.splice(0).join('') }
}

test('shows each batch with its operation and its rows, and later only what has changed', async () => {
  const { stream, text } = paper()
  let rows = [
    { id: 1, name: 'Ada', big: 2n ** 62n, at: Instant.of('2026-01-31T02:30:00.123456Z'), none: null },
    { id: 2, name: 'Grace', big: 0n, at: new Date(0), none: null },
  ]
  const it = sync({
    name: 'people',
    from: () => rows,
    to: toConsole({ stream }),
    key: 'id',
    mode: 'mirror',
    state: await stateFolder(),
    log: quiet,
  })
  await it.run()
  expect(text()).toBe(
    `people: upsert 2 rows
  { id: 1, name: 'Ada', big: 4611686018427387904n, at: 2026-01-31T02:30:00.123456Z, none: null }
  { id: 2, name: 'Grace', big: 0n, at: 1970-01-01T00:00:00.000Z, none: null }
`,
  )
  rows = rows.slice(1)
  await it.run({ allowDeletes: true })
  expect(text()).toBe('people: delete 1 row\n  { id: 1 }\n')
})

test('counts the rows that it does not show, and all rows of a replacement', async () => {
  const { stream, text } = paper()
  const rows = Array.from({ length: 5 }, (_, id) => ({ id }))
  const to = toConsole({ stream, rows: 2 })
  const state = await stateFolder()
  await sync({ name: 'five', from: rows, to, mode: 'append', state, log: quiet }).run()
  expect(text()).toBe('five: insert 5 rows\n  { id: 0 }\n  { id: 1 }\n  … and 3 rows more\n')
  await sync({ name: 'all', from: rows, to: to.with({ batchSize: 4 }), mode: 'replace', state, log: quiet }).run()
  expect(text()).toMatch(
    /^all: replace 4 rows\n.*\n.*\n {2}… and 2 rows more\nall: replace 1 row\n.*\nall: replaced by 5 rows\n$/,
  )
})

test('a text cannot move the cursor of a terminal, or begin a line of its own', async () => {
  const { stream, text } = paper()
  const rows = [{ 'a\u001b[31m': '\u001b[2J\nfake: delete 9 rows', b: '\u009b2J' }]
  await sync({
    name: 'it',
    from: rows,
    to: toConsole({ stream }),
    mode: 'append',
    state: await stateFolder(),
    log: quiet,
  }).run()
  const shown = text()
  expect(shown.split('\n')).toHaveLength(3)
  expect(shown.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u)
})
