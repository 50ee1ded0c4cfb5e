import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const names = ['address-book.ts', 'stand-in.ts', 'address-book.test.ts'] as const
const programs = [...readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8').matchAll(/```ts\n(.*?)```/gs)]

/** The programs of CONTRIBUTING.md, by the names that they have there. */
export const tutorial: Readonly<Record<(typeof names)[number], string>> = Object.fromEntries(
  names.map((name, index) => [name, programs[index]?.[1] ?? '']),
) as Record<(typeof names)[number], string>

/** A folder inside the package, so that `spillway` is found as its users find it. */
export function folderInside(): { readonly path: string; write(name: string, text: string): string; remove(): void } {
  mkdirSync(join(root, 'dist'), { recursive: true })
  const path = mkdtempSync(join(root, 'dist/tutorial-'))
  return {
    path,
    write(name, text) {
      const file = join(path, name)
      writeFileSync(file, text)
      return file
    },
    remove: () => rmSync(path, { recursive: true, force: true }),
  }
}
