import { type Outcome, reject, retry, unknown } from 'spillway'
import { type Asking, afterWriting, lookUp, type Pair, post, type Reply, reasonOf } from './api.js'
import { type Input, keyOf, recordId } from './records.js'

// The other objects that records name, and what ties them together.

/** Another object that a field of the records names. */
export interface HubSpotAssociation {
  /** The type of the other object: `'companies'`, `'2-123456'`. */
  readonly to: string
  /** The number of the kind of association, such as 279 for the company of a contact: https://developers.hubspot.com/docs/api-reference/crm-associations-v4/guide#association-type-id-values */
  readonly type: number
  /** @default 'HUBSPOT_DEFINED' */
  readonly category?: 'HUBSPOT_DEFINED' | 'USER_DEFINED' | 'INTEGRATOR_DEFINED' | undefined
  /** The other object's property, with unique values, that holds what the field holds. @default its record id */
  readonly match?: string | undefined
}

/** By the fields that name the other objects. */
export type HubSpotAssociations = Readonly<Record<string, HubSpotAssociation>>

/** An object that is to be associated. */
export interface Link {
  readonly type: string
  readonly to: { readonly id: string }
  readonly types: readonly object[]
}

/** The inputs, each with the objects that its fields name; what names none is refused before anything is written. */
export async function linksOf(
  inputs: readonly Input[],
  associations: HubSpotAssociations,
  context: Asking,
  outcomes: Outcome[],
): Promise<Map<Input, Link[]>> {
  const links = new Map(inputs.map((input) => [input, [] as Link[]]))
  for (const [field, { to, type, category = 'HUBSPOT_DEFINED', match = recordId }] of Object.entries(associations)) {
    const named = [...links.keys()].flatMap((input) => {
      const key = keyOf(match, input.record[field])
      return key === undefined ? [] : [[input, key] as const]
    })
    const keys = named.map(([, key]) => key)
    const { objects, missing } = await lookUp(context, to, match, keys)
    for (const [input, key] of named) {
      const id = objects.get(key)?.id
      const types = [{ associationCategory: category, associationTypeId: type }]
      if (id !== undefined) links.get(input)!.push({ type: to, to: { id }, types })
      else {
        links.delete(input)
        const { record } = input
        outcomes.push(missing.has(key) ? reject(record, `${field}: none of ${to} has this ${match}`) : retry(record))
      }
    }
  }
  return links
}

/** Associates what was written; an answer that this went wrong replaces that of the record. */
export async function associate(
  context: Asking,
  object: string,
  links: ReadonlyMap<Input, readonly Link[]>,
  answers: Map<Input, Outcome>,
): Promise<void> {
  for (const type of new Set([...links.values()].flat().map((link) => link.type))) {
    const wanted = [...links].flatMap(([input, links]) => {
      const answer = answers.get(input)
      const from = answer && 'remoteId' in answer ? { id: answer.remoteId } : undefined
      const mine = links.filter((link) => link.type === type)
      return from ? mine.map(({ to, types }) => ({ input, pair: { from, to, types } })) : []
    })
    if (wanted.length === 0) continue
    const json = { inputs: wanted.map(({ pair }) => pair) }
    const path = `v4/associations/${object}/${type}/batch/create`
    const { results = [], errors = [] } = (await post<Reply<Pair>>(context, path, json).catch(afterWriting)) ?? {}
    const done = new Set(results.map(({ fromObjectId, toObjectId }) => `${fromObjectId} ${toObjectId}`))
    for (const { input, pair } of wanted) {
      if (done.has(`${pair.from.id} ${pair.to.id}`)) continue
      const problem = errors.find(({ context = {} }) => Object.values(context).flat().includes(pair.from.id))
      const { record } = input
      answers.set(
        input,
        problem ? reject(record, `written, but not associated: ${reasonOf(problem)}`) : unknown(record),
      )
    }
  }
}
