import { access, mkdir, writeFile } from 'node:fs/promises'
import { basename, join, relative, resolve } from 'node:path'
import { Command } from 'commander'
import { ConfigError } from '../errors.js'
import { configNames } from './project.js'

/** @param version Of this package: the new project asks for it or a later one that fits. */
export function initCommand(version: string): Command {
  return new Command('init')
    .summary('create a project that runs at once')
    .description('Creates a project that runs at once: a small source, and a destination that prints what it receives.')
    .argument('[folder]', 'where', '.')
    .addHelpText(
      'after',
      `
Example:
  spillway init crm-sync && cd crm-sync && npm install && npx spillway run`,
    )
    .action(async (folder: string) => {
      process.stdout.write(await init(resolve(folder), version))
    })
}

/**
 * Writes the files of a new project, and says what comes next. A file that exists is never touched.
 *
 * @throws ConfigError when the folder has a config file already.
 */
async function init(folder: string, version: string): Promise<string> {
  const taken = await existing(folder, configNames)
  if (taken.length > 0) throw new ConfigError(`init: ${join(folder, taken[0]!)} is there already, and stays as it is`)
  const files: Readonly<Record<string, string>> = {
    'package.json': packageJson(basename(folder), version),
    'spillway.config.ts': configFile,
    '.gitignore': 'node_modules/\n# State, and secrets.toml with your credentials.\n.spillway/\n',
    'README.md': readme(basename(folder)),
  }
  const kept = await existing(folder, Object.keys(files))
  await mkdir(folder, { recursive: true })
  for (const [name, text] of Object.entries(files)) {
    // `wx`: should the file have appeared since, it still is not overwritten.
    if (!kept.includes(name)) await writeFile(join(folder, name), text, { flag: 'wx' })
  }
  const there = relative(process.cwd(), folder)
  const created = Object.keys(files).filter((name) => !kept.includes(name))
  const next = [
    ...(there ? [`cd ${there}`] : []),
    kept.includes('package.json') ? 'npm install spillway' : 'npm install',
    'npx spillway run',
  ]
  const advice = kept.includes('.gitignore')
    ? '\nAdd .spillway/ to your .gitignore: state and secrets.toml live there.\n'
    : ''
  return `Created ${created.join(', ')}${there ? ` in ${there}` : ''}. Next:\n\n  ${next.join('\n  ')}\n${advice}`
}

async function existing(folder: string, names: readonly string[]): Promise<readonly string[]> {
  const found: string[] = []
  // one after another, so that of several that cannot be looked at the first is named
  for (const name of names) {
    try {
      await access(join(folder, name))
      found.push(name)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT') throw new ConfigError(`init: ${join(folder, name)} cannot be looked at: ${code}`)
    }
  }
  return found
}

function packageJson(folder: string, version: string): string {
  // npm's rules for a name: lower case, of characters that need no escape in a URL, not beginning with a dot or underscore.
  const name =
    folder
      .toLowerCase()
      .replace(/[^a-z0-9-]+/g, '-')
      .replace(/^-+|-+$/g, '') || 'syncs'
  const project = {
    name,
    private: true,
    type: 'module',
    scripts: { start: 'spillway run', status: 'spillway status' },
    dependencies: { spillway: `^${version}` },
  }
  return `${JSON.stringify(project, null, 2)}\n`
}

const configFile = `import { destination, sync } from 'spillway'

// A source is anything that yields rows: a list, a generator, postgres(), duckdb(), …
function* people() {
  yield { id: 1, name: 'Ada', email: 'ada@example.com', score: 0.92 }
  yield { id: 2, name: 'Grace', email: 'grace@example.com', score: 0.87 }
  yield { id: 3, name: 'Edsger', email: 'edsger@example.com', score: 0.41 }
}

// A destination is a function that receives a batch. When it throws, the batch is sent again;
// to refuse one row: \`return [reject(row, 'why')]\`.
const print = destination({ name: 'print', batchSize: 100 })((rows) => console.table(rows))

export default sync({ name: 'people', from: people, to: print, key: 'id' })
`

function readme(folder: string): string {
  return `# ${folder}

    npm install
    npx spillway run             # reads the sources in spillway.config.ts and delivers
    npx spillway status          # where each sync stands
    npx spillway dead-letters    # rows that were refused, and why

State and secrets live in \`.spillway/\`, which is not committed. A destination's token, say that of \`crm\`, is looked up
in the environment (\`DESTINATION__CRM__TOKEN\`), then in \`.spillway/secrets.toml\` (\`[destination.crm]\`, \`token = "…"\`).
`
}
