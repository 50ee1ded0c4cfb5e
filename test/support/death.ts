import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const hook = Symbol.for('spillway.checkpoint')

/** An imitated death: far quicker than a real one, of which test/crash has many. */
export interface Death {
  /** Resolves when it has come. */
  readonly came: Promise<void>
  /** When that was; undefined while the process lives. Nothing that it does afterwards may have an effect. */
  readonly at: number | undefined
  /** How many named points were passed. */
  readonly passed: number
}

/**
 * The process dies at the n-th named point from now (undefined: never), or the n-th time that it comes to `point`: what is in its
 * state folder then goes on in `copy`.
 */
export function dieAt(nth: number | undefined, folder: string, copy: string, point?: string): Death {
  let come = (): void => {}
  const death = {
    came: new Promise<void>((resolve) => {
      come = resolve
    }),
    at: undefined as number | undefined,
    passed: 0,
  }
  Reflect.set(globalThis, hook, (name: string) => {
    if (death.at !== undefined || (point !== undefined && name !== point) || ++death.passed !== nth) return
    death.at = Date.now()
    leftBehind(folder, copy)
    come()
  })
  return death
}

/** Nobody dies any more. */
export function immortal(): void {
  Reflect.deleteProperty(globalThis, hook)
}

/** What a kill leaves of a state folder. The reserve file is only named: its eight megabytes are beside the point. */
function leftBehind(folder: string, copy: string): void {
  mkdirSync(copy, { recursive: true })
  for (const name of readdirSync(folder)) {
    if (name === 'reserve') writeFileSync(join(copy, name), '')
    // the shared memory of processes that have the database open dies with the last of them
    else if (!name.endsWith('-shm') && existsSync(join(folder, name))) {
      cpSync(join(folder, name), join(copy, name), { recursive: true })
    }
  }
}
