import { Command, InvalidArgumentError } from 'commander'
import type { Duration } from '../duration.js'
import { type Sandbox, sandbox } from '../sandbox/index.js'
import { whole } from './plan.js'

interface Options {
  readonly port: number
  readonly host: string
  readonly latency?: Duration
}

export function sandboxCommand(): Command {
  return new Command('sandbox')
    .summary("start a local server that speaks the vendors' APIs")
    .description(
      "Starts a local server that speaks the vendors' APIs, keeps in memory what is written to it, and shows it on a page. No vendor is contacted.",
    )
    .option('--port <number>', 'where it listens', port, 4010)
    .option(
      '--host <address>',
      'the address it listens on; it has no protection, so leave it on this machine',
      '127.0.0.1',
    )
    .option('--latency <duration>', 'how long every request takes, such as 200ms', duration)
    .addHelpText(
      'after',
      `
Example:
  spillway sandbox --port 4010 --latency 200ms`,
    )
    .action(async ({ port, host, latency }: Options) => {
      const stopped = new Promise<void>((resolve) => {
        process.once('SIGINT', resolve)
        process.once('SIGTERM', resolve)
      })
      const box = await sandbox({ port, host, latency })
      process.stdout.write(greeting(box))
      await stopped
      await box.close()
      process.stdout.write('\nThe sandbox is closed; what was in it is gone.\n')
    })
}

/** What a vendor's destination is told, as it stands in `.spillway/secrets.toml`, and how it is made in code. */
interface Opening {
  readonly name: string
  readonly to: string
  readonly config: Readonly<Record<string, string>>
}

/** Makes a place at each vendor where people can be written to: records of a `name`, found by `email` where that can be. */
const vendors: readonly ((box: Sandbox) => Opening)[] = [
  ({ sheets, url }) => {
    const { id } = sheets.create({ id: 'sandbox', title: 'Sandbox' })
    const to = `googleSheets({ spreadsheet: '${id}', tab: 'People' })`
    return { name: 'google-sheets', to, config: { endpoint: url, token: sheets.token } }
  },
  ({ slack, url }) => {
    slack.createChannel({ name: 'people' })
    return { name: 'slack', to: `slack({ channel: '#people' })`, config: { endpoint: url, token: slack.token } }
  },
  ({ hubspot, url }) => {
    const to = `hubspot({ object: 'contacts', match: 'email' })`
    return { name: 'hubspot', to, config: { endpoint: url, token: hubspot.token } }
  },
  ({ salesforce, url }) => {
    salesforce.define('Person__c', { Name: {}, Email__c: { externalId: true, unique: true } })
    const to = `salesforce({ object: 'Person__c', externalId: 'Email__c' })`
    return { name: 'salesforce', to, config: { instanceUrl: url, accessToken: salesforce.token } }
  },
  ({ notion, url }) => {
    const { id } = notion.createDatabase({ title: 'People', properties: { Name: 'title', Email: 'email' } })
    return {
      name: 'notion',
      to: `notion({ database: '${id}', match: 'Email' })`,
      config: { endpoint: url, token: notion.token },
    }
  },
]

function greeting(box: Sandbox): string {
  const parts = vendors.map((vendor) => {
    const { name, to, config } = vendor(box)
    const lines = Object.entries(config).map(([field, value]) => `${field} = "${value}"\n`)
    return `[destination.${name}]     # to: ${to}\n${lines.join('')}`
  })
  return `The sandbox listens at ${box.url}
What is written to it shows at ${box.url}/?refresh=2

Copy what you need into .spillway/secrets.toml, and leave these fields out of the code:

${parts.join('\n')}
Ctrl-C ends it.
`
}

/** A port as an option. */
export function port(text: string): number {
  const number = whole(text)
  if (number > 65_535) throw new InvalidArgumentError('It must be a port, at most 65535; 0 takes a free one.')
  return number
}

function duration(text: string): Duration {
  if (/^\d+(\.\d+)?(ms|s|min)$/.test(text)) return text as Duration
  throw new InvalidArgumentError('It must be a duration such as 200ms or 1s.')
}
