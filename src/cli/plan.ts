import { styleText } from 'node:util'
import { Command, InvalidArgumentError } from 'commander'
import type { Change, Plan } from '../preview.js'
import { clean, count, cut, json, plain, some } from './format.js'
import { loadSyncs, selectSyncs } from './project.js'
import { stopSignal } from './stop.js'

interface Options {
  readonly config?: string
  readonly limit: number
  readonly json?: boolean
}

export function planCommand(): Command {
  return new Command('plan')
    .summary('show what a run would send')
    .description(
      'Reads the sources, compares them with what was delivered, and shows what a run would send. Sends nothing.',
    )
    .argument('[names...]', 'the syncs to plan (default: all)')
    .option('--limit <number>', 'at most so many changes of each sync; 0 shows the counts alone', whole, 100)
    .option('--json', 'one JSON object for each plan, followed by one for each of its changes')
    .addHelpText(
      'after',
      `
Examples:
  spillway plan contacts
  spillway plan contacts --json > contacts.plan && spillway run contacts --plan contacts.plan

Exit codes: 0 nothing to send; 4 there are changes; 1 the plan failed, or a guard would stop the run; 2 usage or configuration`,
    )
    .action(async (names: string[], _, command: Command) => {
      const { config, limit, json: machine = false } = command.optsWithGlobals<Options>()
      const stop = stopSignal()
      try {
        const plans: Plan[] = []
        // one after another: each is shown as soon as it is there
        for (const sync of selectSyncs(await loadSyncs(config), names)) {
          const plan = await sync.plan({ signal: stop.signal })
          await (machine ? list(plan, limit) : show(plan, limit))
          plans.push(plan)
        }
        process.exitCode = exitCode(plans)
      } finally {
        stop.release()
      }
    })
}

/** The value of `--limit`. */
export function whole(text: string): number {
  const number = Number(text)
  if (!Number.isSafeInteger(number) || number < 0) throw new InvalidArgumentError('It must be a whole number.')
  return number
}

function exitCode(plans: readonly Plan[]): number {
  if (plans.some(({ stopped }) => stopped !== undefined)) return 1
  return plans.some((plan) => changes(plan) > 0) ? 4 : 0
}

function changes(plan: Plan): number {
  return plan.insert + plan.update + plan.delete + plan.unfit
}

async function list(plan: Plan, limit: number): Promise<void> {
  const { changes: found, ...counts } = plan
  process.stdout.write(`${json(counts)}\n`)
  for await (const change of first(found, limit)) process.stdout.write(`${json({ sync: plan.sync, ...change })}\n`)
}

async function show(plan: Plan, limit: number): Promise<void> {
  process.stdout.write(`${heading(plan)}\n`)
  for (const column of columns(plan)) process.stdout.write(`  ${styleText('magenta', column)}\n`)
  for await (const change of first(plan.changes, limit)) process.stdout.write(`  ${line(change)}\n`)
  const more = changes(plan) - limit
  if (more > 0) process.stdout.write(`  and ${count(more)} more: --limit ${changes(plan)}\n`)
  if (plan.stopped) process.stdout.write(`  a run would stop: ${clean(plan.stopped)}\n`)
}

/** At most so many of them; none when the limit is 0. */
export async function* first<T>(items: AsyncIterable<T>, limit: number): AsyncGenerator<T> {
  if (limit === 0) return
  let shown = 0
  for await (const item of items) {
    yield item
    if (++shown === limit) return
  }
}

/** `contacts: 1,204 rows: 3 to insert, 12 to update, 1 to delete, 1,189 unchanged` */
function heading(plan: Plan): string {
  const words = [
    ['insert', 'to insert'],
    ['update', 'to update'],
    ['delete', 'to delete'],
    ['unchanged', 'unchanged'],
    ['unfit', 'cannot be sent'],
    ['waiting', 'refused too often to try again'],
  ] as const
  const parts = words.flatMap(([kind, word]) => (plan[kind] > 0 ? `${count(plan[kind])} ${word}` : []))
  return `${plan.sync}: ${some(plan.rows, 'row')}: ${parts.length > 0 ? parts.join(', ') : 'nothing to send'}`
}

/** What is different about the source: `column phone is new`. */
function columns({ columns: { added, dropped, changed } }: Plan): string[] {
  return [
    ...added.map((name) => `column ${clean(name)} is new`),
    ...dropped.map((name) => `column ${clean(name)} is gone`),
    ...changed.map(({ name, from, to }) => `column ${clean(name)} was ${from} and is ${to}`),
  ]
}

/** One change: `+` what is new, `~` what is different, field by field, `-` what goes. */
function line({ operation, match, record, before, fields, problem }: Change): string {
  const name = cut(plain(match), 40)
  if (problem !== undefined) return styleText('yellow', `! ${name}  ${clean(problem)}`)
  if (operation === 'delete') return styleText('red', `- ${name}`)
  const values = (names: readonly string[], from: Change['record']): string[] =>
    names.map((field) => `${clean(field)}: ${shown(from[field])}`)
  if (!before) return styleText('green', `+ ${name}  ${values(Object.keys(record), record).join(', ')}`)
  const changed = fields.map((field) => `${clean(field)}: ${shown(before[field])} → ${shown(record[field])}`)
  return styleText('cyan', `~ ${name}  ${changed.join(', ') || 'sent again: what is there is not certain'}`)
}

/** A field's value on one line. */
export function shown(value: unknown): string {
  if (value === undefined) return 'absent'
  return cut(clean(value instanceof Date ? value.toISOString() : json(value)), 60)
}
