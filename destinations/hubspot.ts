import {
  type AnyRow,
  ConfigError,
  type Context,
  type Destination,
  destination,
  type Injected,
  type ListContext,
  type Outcome,
  receipt,
  reject,
  unknown,
} from 'spillway'
import { z } from 'zod'
import {
  answersOf,
  explain,
  get,
  lookUp,
  type Page,
  type Property,
  post,
  readBatch,
  refusalsOf,
} from './hubspot/api.js'
import { associate, type HubSpotAssociations, type Link, linksOf } from './hubspot/associations.js'
import { comparable, type Input, keyOf, recordId, textOf } from './hubspot/records.js'

/** How to sign in. */
export interface HubSpotConfig {
  /** The access token of a private app that may read and write the object (`crm.objects.contacts.read`, `….write`). */
  readonly token: string
  /** Where HubSpot's API is found, for the sandbox or a proxy. @default 'https://api.hubapi.com' */
  readonly endpoint?: string | undefined
}

export type { HubSpotAssociation } from './hubspot/associations.js'

/** What {@link hubspot} is told. The config's fields may be left out; they are then injected. */
export interface HubSpotOptions extends Injected<HubSpotConfig> {
  /** `'contacts'`, `'companies'`, `'deals'`, …; a custom object by its id (`'2-123456'`) or name (`'p_boats'`). */
  readonly object: string
  /** The property by which HubSpot finds an object; its values must be unique there. `'hs_object_id'`: by record id. @default the sync's key */
  readonly match?: string | undefined
  /** The fields that are no properties but name another object. @default none */
  readonly associations?: HubSpotAssociations | undefined
}

const me = 'hubspot'
/** https://developers.hubspot.com/docs/api-reference/crm-contacts-v3/guide#limits */
const maxInputs = 100

const config = z.object({
  token: z.string().min(1),
  endpoint: z.url({ protocol: /^https?$/ }).default('https://api.hubapi.com'),
})
type Config = z.output<typeof config>

/**
 * Objects of HubSpot's CRM: contacts, companies, deals, tickets, custom objects. The fields of a record are properties, by their
 * internal names; they must exist.
 *
 * Values travel as text, as HubSpot wants them: numbers and decimals with all their digits, `true` and `false`, dates as
 * `YYYY-MM-DD`, instants in ISO 8601, lists joined by `;` for properties with several choices. `null` clears a property, and so does
 * the empty text, which HubSpot does not tell from none; an absent field is left alone. A record with an object in it is rejected.
 *
 * **By what objects are found.** `match` names a property with unique values; make one of your own (`hasUniqueValue`) and put the
 * row's key there. `email` of contacts works too, but HubSpot calls partial upserts by it unsupported. Values are compared as
 * HubSpot does: trimmed, e-mail addresses in lower case. Of two records in one batch that mean one object, the second is rejected.
 * Receipts hold record ids: `delete` archives by them, and looks for those that it lacks. What is gone counts as deleted; an object
 * that `update` does not find is rejected.
 *
 * **What is guaranteed.** Every record is told apart in HubSpot's answer; one of which it says nothing is unknown. `update`, `upsert`
 * and `delete` may be repeated. `insert` is not: after a lost answer its objects are looked for by `match`, and one that holds all
 * that was sent is there. Without a `match` it stays unknown.
 *
 * **Associations** are added, never taken away. The other object is looked up first, and a record that names none is rejected, whole.
 * `insert` writes object and association at once; elsewhere the association follows in a second request, and a record whose
 * association is refused counts as rejected although its properties are written.
 *
 * The rate is what HubSpot grants every private app, in every plan: 100 requests in ten seconds. With Professional or Enterprise it is
 * 190: `.with({ rate: '190/10s' })`. When the day's requests are used up, the run stops; the rest stays pending.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * await sync({
 *   name: 'contacts',
 *   from: users,
 *   to: hubspot({ object: 'contacts', match: 'crm_key', token: secret('HUBSPOT_TOKEN') }),
 *   map: (user) => ({ crm_key: user.id, email: user.email, lifetime_value: user.value }),
 *   key: 'id',
 *   mode: 'mirror',
 * }).run()
 * ```
 */
export function hubspot(options: HubSpotOptions): Destination<AnyRow, 'insert' | 'update' | 'upsert' | 'delete'> {
  const { object, match, associations = {}, ...given } = options
  const checked = { object: { to: object, type: 0 }, ...associations }
  for (const [what, { to, type }] of Object.entries(checked)) {
    if (!/^\w[\w-]*$/.test(to)) {
      throw new ConfigError(`${me}: ${what} is ${JSON.stringify(to)}; give a type such as 'contacts' or '2-123456'`)
    }
    if (!Number.isInteger(type)) {
      throw new ConfigError(`${me}: ${what} needs the number of its type, such as 279 for a contact's company`)
    }
  }
  if (match === '' || (match !== undefined && match in associations)) {
    throw new ConfigError(`${me}: match is ${JSON.stringify(match)}; it must name a property with unique values`)
  }

  return destination({
    name: me,
    maxBatchSize: maxInputs,
    concurrency: 4,
    rate: '100/10s', // https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines
    match,
    config,
    target: ({ endpoint }: Config) => ({ endpoint, object }),
  })({
    insert: (batch, context) => write('create', batch, context),
    update: (batch, context) => write('update', batch, context),
    upsert: (batch, context) => write('upsert', batch, context),
    delete: archive,
    verify,
    list,
    held: (record, { match }) => comparable(read([record], nameOf(match)).inputs[0]?.properties ?? {}, nameOf(match)),
  })(given)

  // ---- handlers ------------------------------------------------------------------------------------------------------

  async function write(action: Action, batch: AnyRow[], context: Context<Config>): Promise<Outcome[]> {
    const name = nameOf(context.match)
    if (action === 'upsert' && (name === undefined || name === recordId)) throw unmatched('upsert')
    const { inputs, outcomes } = read(batch, name, context)
    const found = inputs.filter(({ id }) => action === 'create' || id !== undefined)
    const lost = inputs.filter((input) => !found.includes(input))
    outcomes.push(...lost.map(({ record }) => unfindable(record, name)))
    const links = await linksOf(found, associations, context, outcomes)
    const sent = [...links.keys()]
    if (sent.length === 0) return outcomes
    const body = ({ id, byRecordId, properties, objectWriteTraceId }: Input, associations: readonly Link[]) =>
      action === 'create'
        ? { properties, objectWriteTraceId, associations: associations.map(({ to, types }) => ({ to, types })) }
        : { id, idProperty: byRecordId ? undefined : name, properties, objectWriteTraceId }
    const json = { inputs: Array.from(links, ([input, associations]) => body(input, associations)) }
    const answers = await post(context, `v3/objects/${object}/batch/${action}`, json).then(
      (reply) => answersOf(reply, sent, name),
      (error) => refusalsOf(error, sent, name),
    )
    if (action !== 'create') await associate(context, object, links, answers)
    return [...outcomes, ...answers.values()]
  }

  async function archive(batch: AnyRow[], context: Context<Config>): Promise<Outcome[]> {
    const name = nameOf(context.match)
    const ids = new Map<AnyRow, string>()
    const outcomes: Outcome[] = []
    const lost = new Map<AnyRow, string>()
    for (const record of batch) {
      const key = name === undefined ? undefined : keyOf(name, record[name])
      const id = context.remoteId(record) ?? (name === recordId ? key : undefined)
      if (id !== undefined) ids.set(record, id)
      else if (key !== undefined) lost.set(record, key)
      else outcomes.push(unfindable(record, name))
    }
    const { objects, missing } = await lookUp(context, object, name, lost.values())
    for (const [record, key] of lost) {
      const id = objects.get(key)?.id
      if (id !== undefined) ids.set(record, id)
      else if (!missing.has(key)) outcomes.push(unknown(record))
    }
    const inputs = Array.from(new Set(ids.values()), (id) => ({ id }))
    if (inputs.length === 0) return outcomes
    const reply = await post(context, `v3/objects/${object}/batch/archive`, { inputs }).catch(explain)
    // success is 204 without a body, also for what is gone already
    return reply === undefined ? outcomes : [...outcomes, ...Array.from(ids.keys(), unknown)]
  }

  /** An object counts as there when it holds all that was sent: one that somebody else made need not. */
  async function verify(batch: AnyRow[], context: Context<Config>): Promise<(AnyRow | Outcome)[]> {
    const name = nameOf(context.match)
    const { inputs } = read(batch, name) // what is rejected was never sent
    const keys = inputs.flatMap(({ id }) => id ?? [])
    const { objects, missing } = await lookUp(context, object, name, keys, inputs)
    return inputs.flatMap(({ record, id = '', properties }) => {
      const there = objects.get(id)
      if (!there) return missing.has(id) ? [] : unknown(record)
      const found = comparable(there.properties ?? {}, name)
      const same = Object.entries(comparable(properties, name)).every(([field, value]) => found[field] === value)
      return same ? receipt(record, there.id) : unknown(record)
    })
  }

  /** The objects that have the match property, with all properties that can be written; 100 of them take two requests. */
  async function* list(context: ListContext<Config>): AsyncGenerator<AnyRow[]> {
    const name = nameOf(context.match)
    if (name === undefined) throw unmatched('verify')
    const { results: known = [] } = await get<{ results?: Property[] }>(context, `v3/properties/${object}`)
    const writable = known.filter(({ modificationMetadata }) => !modificationMetadata?.readOnlyValue)
    const properties = [...new Set([name, ...writable.map((property) => property.name)])]
    let after: string | undefined
    do {
      const page: Page = await get<Page>(context, `v3/objects/${object}`, { limit: maxInputs, after, properties: name })
      const inputs = page.results.filter((one) => one.properties?.[name]).map(({ id }) => ({ id }))
      const { results } = await readBatch(context, object, { inputs, properties })
      yield results.map((found) => comparable(found.properties ?? {}, name))
      after = page.paging?.next?.after
    } while (after !== undefined)
  }

  // ---- records → inputs ----------------------------------------------------------------------------------------------

  function read(
    batch: readonly AnyRow[],
    name: string | undefined,
    context?: Context<Config>,
  ): { inputs: Input[]; outcomes: Outcome[] } {
    const inputs: Input[] = []
    const outcomes: Outcome[] = []
    const seen = new Set<string>()
    for (const [index, record] of batch.entries()) {
      const properties: Record<string, string> = {}
      const problems: string[] = []
      for (const [field, value] of Object.entries(record)) {
        const text = textOf(value)
        if (typeof text === 'object') problems.push(`${field} ${text.problem}`)
        else if (text !== undefined && field !== recordId && !(field in associations)) properties[field] = text
      }
      const key = name === undefined ? undefined : keyOf(name, record[name])
      const id = key ?? context?.remoteId(record)
      if (id !== undefined && seen.has(id))
        problems.push(`another record of the batch means the same object: ${name} is that of both`)
      if (problems.length > 0) outcomes.push(reject(record, problems.join('; ')))
      else {
        const byRecordId = key === undefined || name === recordId
        inputs.push({ record, id, byRecordId, properties, objectWriteTraceId: String(index) })
        if (id !== undefined) seen.add(id)
      }
    }
    return { inputs, outcomes }
  }
}

type Action = 'create' | 'update' | 'upsert'

/** The property by which objects are found. */
function nameOf(match: readonly string[]): string | undefined {
  return match.length === 1 ? match[0] : undefined
}

function unfindable(record: AnyRow, name = 'match field'): Outcome {
  return reject(record, `it has no ${name}, by which HubSpot would find it`)
}

function unmatched(what: string): ConfigError {
  return new ConfigError(
    `${me}: ${what} needs one property with unique values, other than ${recordId}: name it with match`,
  )
}
