import {
  type AnyRow,
  ConfigError,
  FatalError,
  HttpError,
  type ListContext,
  type Outcome,
  RejectedError,
  RetryableError,
  receipt,
  reject,
  retry,
  unknown,
} from 'spillway'
import { type Input, keyOf, recordId } from './records.js'

// Requests to HubSpot's CRM, and what its answers say about each record.

const me = 'hubspot'

/** How to sign in, and where. */
interface Access {
  readonly token: string
  readonly endpoint: string
}

interface Found {
  readonly id: string
  readonly properties?: Readonly<Record<string, string | null>>
  readonly objectWriteTraceId?: string
}

export interface Page {
  readonly results: readonly Found[]
  readonly paging?: { readonly next?: { readonly after: string } }
}

interface Reading {
  readonly inputs: readonly { readonly id: string }[]
  readonly properties: readonly string[]
  readonly idProperty?: string | undefined
}

export interface Property {
  readonly name: string
  readonly modificationMetadata?: { readonly readOnlyValue?: boolean }
}

export interface Pair {
  readonly fromObjectId: string
  readonly toObjectId: string
}

/** HubSpot says of its errors that no field can be relied on: https://developers.hubspot.com/docs/api-reference/error-handling */
interface Problem {
  readonly message?: string
  readonly category?: string
  readonly policyName?: string
  readonly context?: Readonly<Record<string, readonly string[] | string>>
  readonly errors?: readonly Problem[]
}

/** What the batch endpoints answer, with 200, 201 or 207. */
export interface Reply<T = Found> {
  readonly results?: readonly T[]
  readonly errors?: readonly Problem[]
}

export type Asking = Pick<ListContext<Access>, 'config' | 'http'>

function addressOf(path: string, { endpoint }: Access): string {
  return `${endpoint.replace(/\/$/, '')}/crm/${path}`
}

function signedIn({ token }: Access): { headers: Record<string, string> } {
  return { headers: { authorization: `Bearer ${token}` } }
}

export function post<R = Reply>(
  { config, http }: Asking,
  path: string,
  json: object,
  read = false,
): Promise<R | undefined> {
  return http.post(addressOf(path, config), { ...signedIn(config), json, read })
}

export function get<R>({ config, http }: Asking, path: string, query: object = {}): Promise<R> {
  return http.get<R>(addressOf(path, config), { ...signedIn(config), query: { ...query } }).catch(explain)
}

export async function readBatch(context: Asking, type: string, json: Reading): Promise<Required<Reply>> {
  const body = { ...json, propertiesWithHistory: [] }
  const path = `v3/objects/${type}/batch/read`
  const reply = json.inputs.length > 0 ? await post(context, path, body, true).catch(explain) : {}
  return { results: [], errors: [], ...reply }
}

/** The objects that have these values of a property, by value, and the values that HubSpot says nothing has. */
export async function lookUp(
  context: Asking,
  type: string,
  name: string | undefined,
  keys: Iterable<string>,
  inputs: readonly Input[] = [],
): Promise<{ objects: ReadonlyMap<string, Found>; missing: ReadonlySet<string> }> {
  if (name === undefined) return { objects: new Map(), missing: new Set() }
  const { results, errors } = await readBatch(context, type, {
    idProperty: name === recordId ? undefined : name,
    properties: [...new Set([name, ...inputs.flatMap((input) => Object.keys(input.properties))])],
    inputs: Array.from(new Set(keys), (id) => ({ id })),
  })
  const gone = errors.filter(({ category }) => category === 'OBJECT_NOT_FOUND')
  return {
    objects: new Map(results.map((found) => [keyIn(found, name) ?? '', found])),
    missing: new Set(
      gone.flatMap(({ context }) => [context?.['ids'] ?? []].flat()).flatMap((id) => keyOf(name, id) ?? []),
    ),
  }
}

/** What became of each input. One that is in neither list is unknown. */
export function answersOf(
  { results = [], errors = [] }: Reply = {},
  inputs: readonly Input[],
  name: string | undefined,
): Map<Input, Outcome> {
  const answers = refused(errors, inputs, name)
  let nameless = 0
  for (const result of results) {
    const input = inputs.find(({ id, byRecordId, objectWriteTraceId }) =>
      result.objectWriteTraceId === undefined
        ? id !== undefined && id === (byRecordId ? result.id : keyIn(result, name))
        : objectWriteTraceId === result.objectWriteTraceId,
    )
    if (input) answers.set(input, answers.has(input) ? unknown(input.record) : receipt(input.record, result.id))
    else if (result.objectWriteTraceId === undefined) nameless++
  }
  const silent = inputs.filter((input) => !answers.has(input))
  // what was created without a match can be told by nothing when HubSpot leaves out the trace ids: only counted
  const counted = nameless === silent.length && silent.every(({ id }) => id === undefined)
  return counted ? answers : new Map([...answers, ...silent.map((input) => [input, unknown(input.record)] as const)])
}

function keyIn({ id, properties }: Found, name: string | undefined): string | undefined {
  return name === undefined || name === recordId ? id : keyOf(name, properties?.[name])
}

/** The inputs that errors name. */
function refused(errors: readonly Problem[], inputs: readonly Input[], name: string | undefined): Map<Input, Outcome> {
  const answers = new Map<Input, Outcome>()
  for (const error of errors) {
    const traces = [error.context?.['objectWriteTraceId'] ?? []].flat()
    const ids = [error.context?.['ids'] ?? []].flat().map((id) => keyOf(name ?? recordId, id))
    for (const input of inputs) {
      const named = traces.includes(input.objectWriteTraceId) || (input.id !== undefined && ids.includes(input.id))
      if (named && !answers.has(input)) answers.set(input, refusal(error, input.record))
    }
  }
  return answers
}

function refusal(error: Problem, record: AnyRow): Outcome {
  if (/RATE_LIMIT|LOCKED/.test(error.category ?? '')) return retry(record)
  return /INTERNAL/.test(error.category ?? '') ? unknown(record) : reject(record, reasonOf(error))
}

/** HubSpot refused the whole batch. Where it names the rows to blame by their trace ids, the others are sent again. */
export function refusalsOf(error: unknown, inputs: readonly Input[], name: string | undefined): Map<Input, Outcome> {
  const said = error instanceof HttpError && error.status === 400 ? saidBy(error) : {}
  const traced = [said, ...(said.errors ?? [])]
    .filter(({ context }) => context?.['objectWriteTraceId'])
    .map(({ category = said.category ?? '', ...problem }) => ({ ...problem, category }))
  const answers = refused(traced, inputs, name)
  if (answers.size === 0) return explain(error)
  return new Map(inputs.map((input) => [input, answers.get(input) ?? retry(input.record)]))
}

// ---- errors ---------------------------------------------------------------------------------------------------------------

/** In HubSpot's words, without the JSON in which it wraps what is wrong with each property. */
export function reasonOf({ message = 'refused without a reason', errors = [] }: Problem): string {
  const wrapped = message.matchAll(/"message":"((?:\\.|[^"\\])*)","error":"\w+","name":"(\w+)"/g)
  const parts = Array.from(wrapped, ([, text = '', name]) => `${name}: ${text.replace(/\\(.)/g, '$1')}`)
  if (parts.length > 0) return parts.join('; ').slice(0, 500)
  return [message, ...errors.map((error) => error.message ?? '')].filter(Boolean).join('; ').slice(0, 500)
}

function saidBy({ body = '' }: HttpError): Problem {
  try {
    return Object(JSON.parse(body))
  } catch {
    return {} // a proxy's web page: the status has to do
  }
}

/** The error of a request before which nothing was written. What HubSpot's status means where it is not what others mean by it. */
export function explain(error: unknown): never {
  if (!(error instanceof HttpError)) throw error
  const { status, retryAfter } = error
  const said = saidBy(error)
  const wait = (otherwise: '1s' | '2s' | '10s') =>
    new RetryableError(error.message, { after: retryAfter === undefined ? otherwise : `${retryAfter}ms` })
  if (status === 429 && said.policyName === 'DAILY') {
    throw new FatalError(
      `${me}: 429: the account's daily limit of requests (DAILY) is used up: run again after midnight in the account's time zone, or raise the limit in HubSpot`,
    )
  }
  if (status === 429) throw wait(said.policyName === 'TEN_SECONDLY_ROLLING' ? '10s' : '1s')
  if (status === 423) throw wait('2s') // locks last that long
  if (status === 477) throw wait('10s') // the account is being moved to another data centre
  if (status === 401) throw new FatalError(`${me}: 401: ${reasonOf(said)}: check token, the private app's access token`)
  if (status === 403) {
    const scopes = [said, ...(said.errors ?? [])].flatMap(({ context = {} }) =>
      Object.entries(context).flatMap(([name, scopes]) => (/scopes$/i.test(name) ? scopes : [])),
    )
    const next = scopes.length > 0 ? `grant it ${scopes.join(' or ')}` : 'check its scopes'
    throw new FatalError(
      `${me}: 403: the private app may not do this: ${next} in HubSpot's settings (${reasonOf(said)})`,
    )
  }
  if (status === 400 && /non-unique/.test(said.message ?? '')) {
    throw new FatalError(`${me}: 400: ${reasonOf(said)}: let match name a property whose values are unique in HubSpot`)
  }
  // a batch is refused as a whole
  if (status === 400 || (status === 409 && said.category === 'CONFLICT'))
    throw new RejectedError(`${me}: ${status}: ${reasonOf(said)}`)
  throw error
}

/** The error of a request after another has written: sent again where that may help, else the run stops, and neither says that nothing was applied. */
export function afterWriting(error: unknown): never {
  if (!(error instanceof HttpError) || error.status >= 500 || [408, 409, 423, 425, 429, 477].includes(error.status))
    throw error
  throw new ConfigError(`${me}: the objects are written, but their associations were refused: ${error.message}`)
}
