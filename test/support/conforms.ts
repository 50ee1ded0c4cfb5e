import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { conformance, type Trial } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

const page = readFileSync(new URL('../../destinations/README.md', import.meta.url), 'utf8')

/** What the page says of each destination: the reasons for which rules are left out, beside what it cannot do. */
const written = new Map(
  [...page.matchAll(/^\| `(.+?)` \| (.*) \|$/gm)].map(([, name, reasons]) => [name!, reasons!.split('<br>')]),
)

/** Tries a destination by all rules but those of which the page says why not. */
export async function conforms(name: string, trial: Trial): Promise<void> {
  const { rules, leftOut } = await conformance(trial)
  describe(name, () => {
    test('has a reason in destinations/README.md for each rule that is left out', () => {
      const reasons = leftOut.map(({ because }) => because).filter((because) => !/^\S+ has no [a-z, ]+$/.test(because))
      expect(reasons.length > 0 ? [...new Set(reasons)] : ['none']).toEqual(written.get(name))
    })
    for (const { level, name, run } of rules) test.concurrent(`${level} ${name}`, { timeout: 120_000 }, run)
  })
}

/** A folder of a place's own. */
export async function folderOf(): Promise<{ readonly path: (name: string) => string; remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'spillway-place-'))
  return { path: (name) => join(folder, name), remove: () => rm(folder, { recursive: true, force: true }) }
}
