import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** This repository. */
export const root = fileURLToPath(new URL('../..', import.meta.url))

/** What a person would type: `npx spillway run`, in this folder, with a config of the examples and what it looks up. */
export async function spillwayRun(folder: string, config: string, settings: Record<string, string>): Promise<void> {
  const cli = join(root, 'dist/src/cli/main.js')
  const child = spawn(process.execPath, [cli, 'run', '--config', join(root, 'examples', config)], {
    cwd: folder,
    env: { ...process.env, ...settings },
    stdio: 'inherit',
  })
  const code = await new Promise((resolve) => child.once('exit', resolve))
  if (code !== 0) throw new Error(`spillway run ended with exit code ${code}`)
}
