import { randomUUID } from 'node:crypto'
import { cell, html } from './page.js'
import { Recent } from './recent.js'
import type { ApiRequest, Reply, Tenant } from './server.js'

/** A property as a test defines it; what is left out is as HubSpot's own form would make it. */
export interface HubSpotProperty {
  readonly name: string
  /** @default 'string' */
  readonly type?: 'string' | 'number' | 'bool' | 'date' | 'datetime' | 'enumeration' | undefined
  /** @default what fits the type; `'checkbox'` lets an enumeration hold several options */
  readonly fieldType?: string | undefined
  /** The values that an enumeration may hold. */
  readonly options?: readonly string[] | undefined
  /** No two objects may have the same value, and objects can be found by it. @default false */
  readonly hasUniqueValue?: boolean | undefined
}

/** Requests in ten seconds and in a day. HubSpot grants 100 to 190, and 250,000 and more: https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines */
export interface HubSpotLimits {
  readonly tenSeconds?: number | undefined
  readonly daily?: number | undefined
}

/** An object as a test reads it back. Properties without a value are left out. */
export interface HubSpotObject {
  readonly id: string
  readonly properties: Readonly<Record<string, string>>
}

/** An association as a test reads it back. */
export interface HubSpotLink {
  readonly from: string
  readonly to: string
  readonly category: string
  readonly type: number
}

/** The HubSpot account of a sandbox. It has contacts, companies, deals and tickets with their most used properties. */
export interface HubSpot {
  /** The access token of a private app that may do everything and never expires. */
  readonly token: string
  /** Adds properties to a type of object; a type that is not there becomes a custom object. Gives the type's id, such as `2-1000001`. */
  define(object: string, properties: readonly HubSpotProperty[]): { readonly id: string }
  /** Puts an object there, as somebody at HubSpot would. */
  create(object: string, properties: Readonly<Record<string, string>>): { readonly id: string }
  /** Changes an object, or archives it when there are no properties, as somebody at HubSpot would. */
  edit(object: string, id: string, properties?: Readonly<Record<string, string>>): void
  /** The objects that are not archived, oldest first. */
  objects(object: string): HubSpotObject[]
  associations(from: string, to: string): HubSpotLink[]
  /** Takes a scope such as `crm.objects.contacts.write` from the private app. */
  withhold(scope: string): void
}

interface Property {
  readonly name: string
  readonly label: string
  readonly type: string
  readonly fieldType: string
  readonly options: readonly string[]
  readonly hasUniqueValue: boolean
  readonly readOnly: boolean
  readonly hubspotDefined: boolean
}

interface Stored {
  readonly id: string
  readonly values: ReadonlyMap<string, string>
  readonly createdAt: string
  readonly updatedAt: string
  readonly archivedAt?: string
}

interface Type {
  readonly id: string
  readonly name: string
  readonly singular: string
  /** Those that are given back when none are asked for. */
  readonly shown: readonly string[]
  readonly properties: Map<string, Property>
  readonly objects: Map<string, Stored>
}

interface Link extends HubSpotLink {
  readonly fromType: string
  readonly toType: string
}

// biome-ignore lint/suspicious/noExplicitAny: it came over the wire, and is refused where it does not fit
type Body = any

const portalId = 1234567
const token = 'pat-na1-sandbox'
const maxInputs = 100

/** The tenant, and the controls that a test or a demo has over it. */
export function hubspot(limits: HubSpotLimits): { tenant: Tenant; controls: HubSpot } {
  const types = new Map<string, Type>(standardTypes().map((type) => [type.name, type]))
  const withheld = new Set<string>()
  let links: Link[] = []
  let lastId = 100
  const spent = new Recent(10_000)
  let today = { day: '', count: 0 }

  // ---- who is asking -------------------------------------------------------------------------------------------------

  function admit({ headers }: ApiRequest): Readonly<Record<string, string>> {
    const now = Date.now()
    if (headers.authorization !== `Bearer ${token}`) {
      throw new Refusal(
        401,
        'INVALID_AUTHENTICATION',
        'Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview',
      )
    }
    const { tenSeconds = Number.POSITIVE_INFINITY, daily = Number.POSITIVE_INFINITY } = limits
    const day = new Date(now).toISOString().slice(0, 10)
    today = { day, count: today.day === day ? today.count : 0 }
    const left = (limit: number, count: number) => String(Math.max(0, limit - count))
    const told = (): Record<string, string> => ({
      ...(tenSeconds < Number.POSITIVE_INFINITY && {
        'x-hubspot-ratelimit-max': String(tenSeconds),
        'x-hubspot-ratelimit-remaining': left(tenSeconds, spent.count),
        'x-hubspot-ratelimit-interval-milliseconds': '10000',
      }),
      ...(daily < Number.POSITIVE_INFINITY && {
        'x-hubspot-ratelimit-daily': String(daily),
        'x-hubspot-ratelimit-daily-remaining': left(daily, today.count),
      }),
    })
    if (today.count >= daily) throw new Refusal(429, 'DAILY', '', {}, told())
    if (spent.count >= tenSeconds) throw new Refusal(429, 'TEN_SECONDLY_ROLLING', '', {}, told())
    spent.add()
    today.count++
    return told()
  }

  function allow(type: Type, right: 'read' | 'write'): void {
    const scope = `crm.objects.${type.id.startsWith('2-') ? 'custom' : type.name}.${right}`
    if (!withheld.has(scope)) return
    throw new Refusal(
      403,
      'MISSING_SCOPES',
      "This app hasn't been granted all required scopes to make this call. Read more about required scopes here: https://developers.hubspot.com/scopes.",
      {
        errors: [
          {
            message: 'One or more of the following scopes are required.',
            context: { requiredGranularScopes: [scope] },
          },
        ],
        links: { scopes: 'https://developers.hubspot.com/scopes' },
      },
    )
  }

  /** By name (`contacts`, `p_boats`, `p1234567_boats`), singular, or id. */
  function typeOf(name: string): Type {
    const plain = name.replace(new RegExp(`^p(${portalId})?_`), '').toLowerCase()
    const found = [...types.values()].find(
      (type) => type.id === name || type.name === plain || type.singular.toLowerCase() === plain,
    )
    if (found) return found
    throw new Refusal(400, 'VALIDATION_ERROR', `Unable to infer object type from: ${name}`)
  }

  // ---- objects -------------------------------------------------------------------------------------------------------

  function find(type: Type, id: string, idProperty?: string): Stored | undefined {
    const live = (object: Stored | undefined) => (object?.archivedAt === undefined ? object : undefined)
    if (idProperty === undefined) return live(type.objects.get(id))
    const value = normal(idProperty, id)
    return [...type.objects.values()].find((object) => live(object)?.values.get(idProperty) === value)
  }

  /** The stored form of what is written. @throws Refusal when a value does not fit. */
  function checked(type: Type, given: Body, self: string | undefined): Map<string, string> {
    const values = new Map<string, string>()
    const problems: { name: string; code: string; message: string }[] = []
    for (const [name, text] of Object.entries(given as Record<string, string>)) {
      const property = type.properties.get(name)
      const value = property && stored(property, text)
      const other =
        typeof value === 'string' && value !== '' && property?.hasUniqueValue ? find(type, value, name) : undefined
      if (other && other.id !== self) {
        if (name === 'email') {
          const message = `Contact already exists. Existing ID: ${other.id}`
          throw new Refusal(409, 'CONFLICT', message, { context: { existingId: [other.id] } })
        }
        const coordinates = `portalId=${portalId}, objectTypeId=${type.id}, propertyName=${name}, value=${value}`
        const message = `Cannot set PropertyValueCoordinates{${coordinates}} on ${self ?? 'new'}. ${other.id} already has that value.`
        problems.push({ name, code: 'CONFLICTING_UNIQUE_VALUE', message })
      } else if (value === undefined) {
        problems.push({ name, code: 'PROPERTY_DOESNT_EXIST', message: `Property "${name}" does not exist` })
      } else if (typeof value === 'string') values.set(name, value)
      else problems.push({ name, ...value })
    }
    if (problems.length > 0) throw invalid(problems)
    return values
  }

  function write(type: Type, id: string | undefined, values: ReadonlyMap<string, string>): Stored {
    const now = new Date().toISOString()
    const before = id === undefined ? undefined : type.objects.get(id)
    const merged = new Map([...(before?.values ?? []), ...values])
    const object: Stored = {
      id: id ?? String(++lastId),
      values: new Map([...merged].filter(([, value]) => value !== '')), // the empty text clears
      createdAt: before?.createdAt ?? now,
      updatedAt: now,
    }
    type.objects.set(object.id, object)
    return object
  }

  function shownAs(type: Type, object: Stored, names: readonly string[] = type.shown): Record<string, unknown> {
    const { id, values, createdAt, updatedAt, archivedAt } = object
    const own: Record<string, string> = { createdate: createdAt, hs_object_id: id, [modified(type)]: updatedAt }
    const wanted = new Set([...names, ...Object.keys(own)].filter((name) => type.properties.has(name)))
    const properties = Object.fromEntries([...wanted].map((name) => [name, own[name] ?? values.get(name) ?? null]))
    return {
      id,
      properties,
      createdAt,
      updatedAt,
      archived: archivedAt !== undefined,
      ...(archivedAt && { archivedAt }),
    }
  }

  // ---- batches -------------------------------------------------------------------------------------------------------

  function batch(type: Type, action: string, body: Body): Reply {
    const inputs = inputsOf(body)
    const startedAt = new Date().toISOString()
    switch (action) {
      case 'create':
      case 'update':
      case 'upsert':
        return writeAll(type, action, inputs, startedAt)
      case 'read': {
        const idProperty = uniquely(type, 'read', [body])
        const found = inputs.map(({ id }) => find(type, String(id), idProperty))
        const lost = inputs.filter((_, index) => !found[index]).map(({ id }) => String(id))
        const results = found.flatMap((object) => (object ? [shownAs(type, object, body.properties)] : []))
        return batchReply(200, startedAt, results, lost.length > 0 ? [notFound(type, lost)] : [])
      }
      case 'archive':
        for (const { id } of inputs) {
          if (!/^\d+$/.test(String(id))) throw new Refusal(400, 'VALIDATION_ERROR', `Invalid object ID: ${id}`)
        }
        for (const { id } of inputs) remove(type, String(id))
        return { status: 204, body: undefined }
    }
    throw new Refusal(404, 'OBJECT_NOT_FOUND', 'resource not found')
  }

  function remove(type: Type, id: string): void {
    const object = type.objects.get(id)
    if (object) type.objects.set(id, { ...object, archivedAt: object.archivedAt ?? new Date().toISOString() })
  }

  function writeAll(type: Type, action: 'create' | 'update' | 'upsert', inputs: Body[], startedAt: string): Reply {
    for (const { properties } of inputs) onlyTexts(properties)
    const idProperty = action === 'create' ? undefined : uniquely(type, action, inputs)
    const traces = inputs.map(({ objectWriteTraceId }) => objectWriteTraceId)
    const multiStatus = traces.every((trace) => typeof trace === 'string') && new Set(traces).size === traces.length
    const before = new Map(type.objects)
    const results: unknown[] = []
    const errors: unknown[] = []
    for (const input of inputs) {
      const trace = multiStatus ? { objectWriteTraceId: input.objectWriteTraceId } : undefined
      try {
        results.push({ ...writeOne(type, action, input, idProperty), ...trace })
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        if (!trace && error.category !== 'OBJECT_NOT_FOUND') {
          // without trace ids a batch is written as a whole or not at all
          type.objects.clear()
          for (const [id, object] of before) type.objects.set(id, object)
          throw error
        }
        const context = { ...error.rest['context'], ...(trace && { objectWriteTraceId: [input.objectWriteTraceId] }) }
        errors.push({ status: 'error', category: error.category, message: error.message, context })
      }
    }
    return batchReply(action === 'create' ? 201 : 200, startedAt, results, errors)
  }

  function writeOne(type: Type, action: string, input: Body, idProperty: string | undefined): Record<string, unknown> {
    const { id, properties, associations = [] } = input
    const there = action === 'create' ? undefined : find(type, String(id), idProperty)
    if (action === 'update' && !there) throw new Refusal(404, 'OBJECT_NOT_FOUND', ...notFoundText(type, [String(id)]))
    const keyed = action === 'upsert' ? { ...properties, [idProperty!]: String(id) } : properties
    const values = checked(type, keyed, there?.id)
    const targets = (associations as Body[]).map(({ to, types: kinds }) => ({ to: String(to?.id), kinds }))
    const ends = targets.map(({ to, kinds }) => ({ ...endOf(type, to, kinds), to, kinds }))
    const object = write(type, there?.id, values)
    for (const { other, to, kinds } of ends) connect(type, object.id, other, to, kinds)
    const shown = shownAs(type, object, [...type.shown, ...Object.keys(keyed)])
    return action === 'upsert' ? { ...shown, new: !there } : shown
  }

  /** The one property by which all inputs are found; `undefined` for the record id. */
  function uniquely(type: Type, action: string, inputs: Body[]): string | undefined {
    const names = new Set(inputs.map(({ idProperty }) => idProperty ?? undefined))
    if (names.size > 1) throw new Refusal(400, 'VALIDATION_ERROR', 'All inputs must have the same idProperty')
    const [name] = names
    if (name === undefined && action !== 'upsert') return undefined
    if (name !== undefined && type.properties.get(name)?.hasUniqueValue) return name
    throw new Refusal(
      400,
      'VALIDATION_ERROR',
      `Unable to perform ${action === 'read' ? 'read' : 'update/upsert'} by non-unique ${type.id} property ${name}`,
    )
  }

  // ---- associations --------------------------------------------------------------------------------------------------

  /** The type at the other end of an association that is made while its object is created: the kind tells. */
  function endOf(type: Type, to: string, kinds: Body[]): { other: Type } {
    const known = kinds.map(({ associationTypeId }) => kindsOfAssociation.find(({ id }) => id === associationTypeId))
    const name = known.find((kind) => kind?.from === type.name)?.to
    const other = name === undefined ? [...types.values()].find(({ objects }) => objects.has(to)) : types.get(name)
    if (other && find(other, to)) return { other }
    throw new Refusal(404, 'OBJECT_NOT_FOUND', `Could not associate with object ${to}: it may be deleted or not exist.`)
  }

  function connect(type: Type, from: string, other: Type, to: string, kinds: Body[]): void {
    for (const { associationCategory: category, associationTypeId: id } of kinds) {
      const back = kindsOfAssociation.find((kind) => kind.id === id)?.back ?? id
      const one = { fromType: type.name, toType: other.name, from, to, category, type: id }
      const same = (link: Link) =>
        [one, { ...one, from: to, to: from, fromType: other.name, toType: type.name, type: back }].some((end) =>
          (Object.keys(end) as (keyof Link)[]).every((name) => end[name] === link[name]),
        )
      links = links.filter((link) => !same(link))
      links.push(one, { ...one, from: to, to: from, fromType: other.name, toType: type.name, type: back })
    }
  }

  function associate(type: Type, other: Type, action: string, body: Body): Reply {
    const inputs: Body[] = Array.isArray(body?.inputs) ? body.inputs : []
    const startedAt = new Date().toISOString()
    const between = links.filter(({ fromType, toType }) => fromType === type.name && toType === other.name)
    if (action === 'create') {
      for (const { types: kinds = [] } of inputs) {
        for (const { associationCategory, associationTypeId } of kinds) {
          const known = kindsOfAssociation.find(({ id }) => id === associationTypeId)
          const fits = known
            ? known.from === type.name && known.to === other.name
            : type.id[0] === '2' || other.id[0] === '2'
          if (associationCategory === 'HUBSPOT_DEFINED' && !fits) {
            const message = `${associationTypeId} is not a valid association type between ${type.id} and ${other.id}`
            throw new Refusal(400, 'VALIDATION_ERROR', message)
          }
        }
      }
      const results: unknown[] = []
      const errors: unknown[] = []
      for (const { from, to, types: kinds } of inputs) {
        const ids = { fromObjectId: String(from?.id), toObjectId: String(to?.id) }
        if (find(type, ids.fromObjectId) && find(other, ids.toObjectId)) {
          connect(type, ids.fromObjectId, other, ids.toObjectId, kinds)
          results.push({ fromObjectTypeId: type.id, toObjectTypeId: other.id, labels: [], ...ids })
        } else {
          const context = { fromObjectId: [ids.fromObjectId], toObjectId: [ids.toObjectId] }
          const message = 'One or more objects to associate may be deleted or not exist.'
          errors.push({ status: 'error', category: 'OBJECT_NOT_FOUND', message, context })
        }
      }
      return batchReply(201, startedAt, results, errors)
    }
    if (action === 'read') {
      const results = inputs.map(({ id }) => ({
        from: { id: String(id) },
        to: between
          .filter(({ from }) => from === String(id))
          .map(({ to, category, type }) => ({
            toObjectId: to,
            associationTypes: [{ category, typeId: type, label: null }],
          })),
      }))
      return batchReply(
        200,
        startedAt,
        results.filter(({ to }) => to.length > 0),
        [],
      )
    }
    if (action === 'archive') {
      for (const { from, to } of inputs) {
        for (const { id } of to ?? []) {
          const ends = [`${from?.id} ${id}`, `${id} ${from?.id}`]
          links = links.filter((link) => !ends.includes(`${link.from} ${link.to}`))
        }
      }
      return { status: 204, body: undefined }
    }
    throw new Refusal(404, 'OBJECT_NOT_FOUND', 'resource not found')
  }

  // ---- requests ------------------------------------------------------------------------------------------------------

  function api({ method, path, query, body }: ApiRequest): Reply {
    const [area = '', ...rest] = path
      .replace(/^\/crm\/(v\d)\//, '$1/')
      .split('/')
      .map(decodeURIComponent)
      .slice(1)
    const version = path.split('/')[2]
    if (version === 'v4' && area === 'associations' && method === 'POST') {
      const [from = '', to = '', , action = ''] = rest
      return associate(typeOf(from), typeOf(to), action, body)
    }
    if (version !== 'v3' || (area !== 'objects' && area !== 'properties')) throw unspoken(method, path)
    const type = typeOf(rest[0] ?? '')
    if (area === 'properties') return properties(type, method, rest[1], body)
    const reads = method === 'GET' || rest[2] === 'read'
    allow(type, reads ? 'read' : 'write')
    if (method === 'POST' && rest[1] === 'batch') return batch(type, rest[2] ?? '', body)
    const names = query.get('properties')?.split(',')
    if (method === 'GET' && rest.length === 1) return page(type, query, names)
    if (method === 'POST' && rest.length === 1) {
      onlyTexts((body as Body)?.properties)
      return { status: 201, body: writeOne(type, 'create', body, undefined) }
    }
    const [, id] = rest
    if (id === undefined || id === 'search') throw unspoken(method, path)
    if (method === 'DELETE') {
      remove(type, id)
      return { status: 204, body: undefined }
    }
    const idProperty = uniquely(type, 'read', [{ idProperty: query.get('idProperty') ?? undefined }])
    const object = find(type, id, idProperty)
    if (!object) throw new Refusal(404, 'OBJECT_NOT_FOUND', 'resource not found')
    if (method === 'GET') return { status: 200, body: shownAs(type, object, names) }
    if (method !== 'PATCH') throw unspoken(method, path)
    onlyTexts((body as Body)?.properties)
    return { status: 200, body: writeOne(type, 'update', { ...(body as object), id: object.id }, undefined) }
  }

  function page(type: Type, query: URLSearchParams, names: readonly string[] | undefined): Reply {
    const limit = Number(query.get('limit') ?? 10)
    if (!(limit >= 1 && limit <= 100)) {
      throw new Refusal(400, 'VALIDATION_ERROR', `The maximum number of objects in a page is 100, not ${limit}`)
    }
    const from = Number(query.get('after') ?? 0)
    const archived = query.get('archived') === 'true'
    const all = [...type.objects.values()].filter(({ archivedAt }) => (archivedAt !== undefined) === archived)
    const later = all.filter(({ id }) => Number(id) >= from).sort((a, b) => Number(a.id) - Number(b.id))
    const results = later.slice(0, limit).map((object) => shownAs(type, object, names))
    const next = later[limit]
    return {
      status: 200,
      body: { results, ...(next && { paging: { next: { after: next.id, link: `?after=${next.id}` } } }) },
    }
  }

  function properties(type: Type, method: string, name: string | undefined, body: Body): Reply {
    if (method === 'GET' && name === undefined) {
      return { status: 200, body: { results: [...type.properties.values()].map(propertyBody) } }
    }
    if (method === 'POST' && name === undefined) {
      const property = propertyOf({ ...body, options: body?.options?.map(({ value }: Body) => value) })
      if (
        !/^[a-z][a-z0-9_]*$/.test(property.name ?? '') ||
        !body.groupName ||
        !body.label ||
        !body.type ||
        !body.fieldType
      ) {
        throw new Refusal(
          400,
          'VALIDATION_ERROR',
          'Invalid input JSON: name, label, type, fieldType and groupName are required',
        )
      }
      if (type.properties.has(property.name)) {
        throw new Refusal(409, 'OBJECT_ALREADY_EXISTS', `A property named '${property.name}' already exists.`)
      }
      type.properties.set(property.name, property)
      return { status: 201, body: propertyBody(property) }
    }
    const property = type.properties.get(name ?? '')
    if (!property) throw new Refusal(404, 'OBJECT_NOT_FOUND', `Property ${name} does not exist`)
    if (method === 'GET') return { status: 200, body: propertyBody(property) }
    if (method !== 'DELETE') throw unspoken(method, `/crm/v3/properties/${type.name}/${name}`)
    type.properties.delete(property.name)
    return { status: 204, body: undefined }
  }

  const tenant: Tenant = {
    owns: (path) => path.startsWith('/crm/'),
    answer(request) {
      let headers = {}
      try {
        headers = admit(request)
        return { ...api(request), headers }
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        return { status: error.status, body: error.body, headers: { ...headers, ...error.headers } }
      }
    },
    refusal: (status, reason) =>
      new Refusal(
        status,
        reason ?? (status === 429 ? 'TEN_SECONDLY_ROLLING' : (categories[status] ?? 'INTERNAL_ERROR')),
        "Asked for by the sandbox's caller.",
      ).body,
    page: () => `<h2>HubSpot</h2>${[...types.values()].map(section).join('') || '<p class="note">No object yet.</p>'}`,
    style,
  }

  function section(type: Type): string {
    const objects = controls.objects(type.name)
    if (objects.length === 0) return ''
    const names = [...type.properties.keys()].filter((name) => objects.some(({ properties }) => name in properties))
    const others = (id: string) =>
      links
        .filter(({ fromType, from }) => fromType === type.name && from === id)
        .map(({ toType, to }) => `${toType} ${to}`)
        .join(', ')
    const linked = objects.some(({ id }) => others(id) !== '')
    const rows = objects.map(
      ({ id, properties }) =>
        `<tr><th>${id}</th>${names.map((name) => cell(properties[name] ?? '')).join('')}${linked ? cell(others(id)) : ''}</tr>`,
    )
    const heads = [...names.map((name) => type.properties.get(name)!.label), ...(linked ? ['Associations'] : [])]
    return `<h3 class="hubspot">${html(type.name)} <small>${objects.length}</small></h3>
<div class="grid"><table><thead><tr><th>Record ID</th>${heads.map((head) => `<th>${html(head)}</th>`).join('')}</tr></thead>
<tbody>${rows.join('\n')}</tbody></table></div>`
  }

  const controls: HubSpot = {
    token,
    define(object, properties) {
      const name = object.replace(/^p_/, '')
      const type = types.get(name) ?? custom(name, `2-${1_000_001 + types.size - standardTypes().length}`)
      types.set(name, type)
      for (const property of properties) type.properties.set(property.name, propertyOf(property))
      return { id: type.id }
    },
    create(object, properties) {
      const type = typeOf(object)
      return { id: write(type, undefined, checked(type, properties, undefined)).id }
    },
    edit(object, id, properties) {
      const type = typeOf(object)
      if (properties) write(type, id, checked(type, properties, id))
      else remove(type, id)
    },
    objects: (object) =>
      [...typeOf(object).objects.values()]
        .filter(({ archivedAt }) => archivedAt === undefined)
        .map(({ id, values }) => ({ id, properties: Object.fromEntries(values) })),
    associations(from, to) {
      const ends = [typeOf(from).name, typeOf(to).name]
      return links
        .filter(({ fromType, toType }) => fromType === ends[0] && toType === ends[1])
        .map(({ from, to, category, type }) => ({ from, to, category, type }))
    },
    withhold: (scope) => void withheld.add(scope),
  }
  return { tenant, controls }
}

// ---- values --------------------------------------------------------------------------------------------------------------

/** A value as HubSpot keeps it, or what is wrong with it. */
function stored(property: Property, text: string): string | { code: string; message: string } {
  const { name, type, fieldType, options, readOnly } = property
  if (readOnly) {
    return { code: 'READ_ONLY_VALUE', message: `"${name}" is a read only property; its value cannot be set.` }
  }
  const value = text.trim()
  if (value === '') return ''
  if (name === 'email' && !/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(value)) {
    return { code: 'INVALID_EMAIL', message: `Email address ${value} is invalid` }
  }
  switch (type) {
    case 'number':
      if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value)) return value
      return { code: 'INVALID_INTEGER', message: `${value} was not a valid number.` }
    case 'bool':
      if (value === 'true' || value === 'false') return value
      return { code: 'INVALID_OPTION', message: `${value} was not one of the allowed options: [true, false]` }
    case 'date': {
      const time = timeOf(value)
      if (time === undefined) return { code: 'INVALID_DATE', message: `${value} was not a valid date.` }
      if (time.getTime() % 86_400_000 === 0) return time.toISOString().slice(0, 10)
      return { code: 'INVALID_DATE', message: `${value} is at ${time.toISOString().slice(11, -1)} UTC, not midnight!` }
    }
    case 'datetime':
      return timeOf(value)?.toISOString() ?? { code: 'INVALID_LONG', message: `${value} was not a valid long.` }
    case 'enumeration': {
      const chosen = fieldType === 'checkbox' ? value.split(';') : [value]
      const wrong = chosen.find((option) => !options.includes(option))
      if (wrong === undefined) return value
      return { code: 'INVALID_OPTION', message: `${wrong} was not one of the allowed options: [${options.join(', ')}]` }
    }
    default:
      return normal(name, text)
  }
}

/** Milliseconds since 1970, or ISO 8601, in UTC unless it names another zone. */
function timeOf(text: string): Date | undefined {
  const iso = /^\d{4}-\d\d-\d\d(T[\d:]+(\.\d+)?(Z|[+-]\d\d:?\d\d)?)?$/.exec(text)
  if (!iso && !/^-?\d+$/.test(text)) return undefined
  const time = new Date(iso ? (iso[1] && !iso[3] ? `${text}Z` : text) : Number(text))
  return Number.isNaN(time.getTime()) ? undefined : time
}

function normal(name: string, text: string): string {
  return name === 'email' ? text.trim().toLowerCase() : text.trim()
}

function onlyTexts(properties: Body): void {
  const values = properties === null || typeof properties !== 'object' ? [undefined] : Object.values(properties)
  const other = values.find((value) => typeof value !== 'string')
  if (values.includes(other) && typeof other !== 'string') {
    throw new Refusal(
      400,
      'VALIDATION_ERROR',
      `Invalid input JSON: properties must be an object whose values are strings, not ${JSON.stringify(other)}`,
    )
  }
}

// ---- types ---------------------------------------------------------------------------------------------------------------

const text = (...names: string[]): HubSpotProperty[] => names.map((name) => ({ name }))
const stages = ['subscriber', 'lead', 'marketingqualifiedlead', 'salesqualifiedlead', 'opportunity', 'customer']

function standardTypes(): Type[] {
  const type = (id: string, name: string, singular: string, properties: HubSpotProperty[], shown: string[]): Type => {
    const empty = { id, name, singular, shown, properties: new Map(), objects: new Map() }
    const own: Property[] = ['hs_object_id', 'createdate', modified(empty)].map((own) => ({
      ...propertyOf({ name: own, type: own === 'hs_object_id' ? 'number' : 'datetime' }),
      readOnly: true,
    }))
    const all = [...properties.map(propertyOf), ...own].map((property) => ({ ...property, hubspotDefined: true }))
    return { ...empty, properties: new Map(all.map((property) => [property.name, property])) }
  }
  return [
    type(
      '0-1',
      'contacts',
      'CONTACT',
      [
        { name: 'email', hasUniqueValue: true },
        ...text('firstname', 'lastname', 'phone', 'company', 'jobtitle', 'website', 'city', 'country'),
        { name: 'lifecyclestage', type: 'enumeration', options: stages },
      ],
      ['email', 'firstname', 'lastname'],
    ),
    type(
      '0-2',
      'companies',
      'COMPANY',
      [...text('name', 'domain', 'phone', 'city', 'country', 'website'), { name: 'numberofemployees', type: 'number' }],
      ['domain', 'name'],
    ),
    type(
      '0-3',
      'deals',
      'DEAL',
      [
        ...text('dealname', 'dealstage', 'pipeline'),
        { name: 'amount', type: 'number' },
        { name: 'closedate', type: 'datetime' },
      ],
      ['amount', 'closedate', 'dealname', 'dealstage', 'pipeline'],
    ),
    type('0-5', 'tickets', 'TICKET', text('subject', 'content', 'hs_pipeline', 'hs_pipeline_stage'), [
      'subject',
      'content',
      'hs_pipeline',
      'hs_pipeline_stage',
    ]),
  ]
}

function custom(name: string, id: string): Type {
  const own = ['hs_object_id', 'hs_createdate', 'hs_lastmodifieddate'].map((name) =>
    propertyOf({ name, type: 'datetime' }),
  )
  const properties = own.map(
    (property) => [property.name, { ...property, readOnly: true, hubspotDefined: true }] as const,
  )
  return { id, name, singular: name.toUpperCase(), shown: [], properties: new Map(properties), objects: new Map() }
}

/** Contacts are older than the prefix `hs_`. */
function modified({ id }: { readonly id: string }): string {
  return id === '0-1' ? 'lastmodifieddate' : 'hs_lastmodifieddate'
}

const fieldTypes: Readonly<Record<string, string>> = {
  number: 'number',
  bool: 'booleancheckbox',
  date: 'date',
  datetime: 'date',
  enumeration: 'select',
}

function propertyOf({
  name,
  type = 'string',
  fieldType,
  options = [],
  hasUniqueValue = false,
}: HubSpotProperty): Property {
  const label = name.replace(/^hs_/, '').replace(/_/g, ' ')
  return {
    name,
    label: label.charAt(0).toUpperCase() + label.slice(1),
    type,
    fieldType: fieldType ?? fieldTypes[type] ?? 'text',
    options,
    hasUniqueValue,
    readOnly: false,
    hubspotDefined: false,
  }
}

function propertyBody({ readOnly, options, ...property }: Property): unknown {
  return {
    ...property,
    description: '',
    groupName: 'crminformation',
    options: options.map((value, displayOrder) => ({ label: value, value, displayOrder, hidden: false })),
    displayOrder: -1,
    calculated: false,
    externalOptions: false,
    hidden: false,
    formField: false,
    archived: false,
    modificationMetadata: {
      archivable: !property.hubspotDefined,
      readOnlyDefinition: property.hubspotDefined,
      readOnlyValue: readOnly,
    },
  }
}

/** https://developers.hubspot.com/docs/api-reference/crm-associations-v4/guide#association-type-id-values */
const kindsOfAssociation = [
  ['contacts', 'companies', 279, 280],
  ['contacts', 'companies', 1, 2],
  ['deals', 'contacts', 3, 4],
  ['deals', 'companies', 341, 342],
  ['deals', 'companies', 5, 6],
  ['tickets', 'contacts', 16, 15],
  ['tickets', 'companies', 339, 340],
  ['tickets', 'companies', 26, 25],
  ['deals', 'tickets', 27, 28],
].flatMap(([from, to, id, back]) => [
  { from, to, id, back },
  { from: to, to: from, id: back, back: id },
]) as readonly { from: string; to: string; id: number; back: number }[]

// ---- answers -------------------------------------------------------------------------------------------------------------

/** A refusal in HubSpot's words; with 429 the category is the limit's name. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly category: string,
    message: string,
    readonly rest: Readonly<Record<string, object>> = {},
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message)
  }

  get body(): unknown {
    const { status, category, message, rest } = this
    const known = { status: 'error', correlationId: randomUUID() }
    if (status !== 429) return { ...known, message, category, ...rest }
    const said = `You have reached your ${category.toLowerCase()} limit.`
    return { ...known, message: said, errorType: 'RATE_LIMIT', policyName: category, requestId: randomUUID() }
  }
}

const categories: Readonly<Record<number, string>> = {
  400: 'VALIDATION_ERROR',
  401: 'INVALID_AUTHENTICATION',
  403: 'MISSING_SCOPES',
  404: 'OBJECT_NOT_FOUND',
  409: 'CONFLICT',
  423: 'LOCKED',
}

function invalid(problems: readonly { name: string; code: string; message: string }[]): Refusal {
  const results = problems.map(({ name, code, message }) => {
    return { isValid: false, message, error: code, name, localizedErrorMessage: message, portalId }
  })
  return new Refusal(400, 'VALIDATION_ERROR', `Property values were not valid: ${JSON.stringify(results)}`, {
    errors: problems.map(({ name, code, message }) => ({ message, code, context: { propertyName: [name] } })),
  })
}

function notFoundText({ singular }: Type, ids: readonly string[]): [string, { context: { ids: readonly string[] } }] {
  const message = `Could not get some ${singular} objects, they may be deleted or not exist. Check that ids are valid.`
  return [message, { context: { ids } }]
}

function notFound(type: Type, ids: readonly string[]): unknown {
  const [message, { context }] = notFoundText(type, ids)
  return { status: 'error', category: 'OBJECT_NOT_FOUND', message, context }
}

function batchReply(status: number, startedAt: string, results: unknown[], errors: unknown[]): Reply {
  // HubSpot promises no order, so there is none to rely on here
  const body = { status: 'COMPLETE', results: results.reverse(), startedAt, completedAt: new Date().toISOString() }
  if (errors.length === 0) return { status, body }
  return { status: 207, body: { ...body, numErrors: errors.length, errors } }
}

function inputsOf(body: Body): Body[] {
  const inputs = body?.inputs
  if (!Array.isArray(inputs) || inputs.some((input) => input === null || typeof input !== 'object')) {
    throw new Refusal(400, 'VALIDATION_ERROR', 'Invalid input JSON: inputs must be a list of objects')
  }
  if (inputs.length > maxInputs) {
    throw new Refusal(
      400,
      'VALIDATION_ERROR',
      `The maximum number of inputs supported in a batch is ${maxInputs}. Please reduce the number of items and try again`,
    )
  }
  const ids = inputs.flatMap(({ id, idProperty = body.idProperty }) =>
    id === undefined ? [] : [normal(idProperty, String(id))],
  )
  const twice = [...new Set(ids.filter((id, index) => ids.indexOf(id) !== index))]
  if (twice.length > 0) {
    throw new Refusal(
      400,
      'VALIDATION_ERROR',
      `Duplicate IDs found in batch input: [${twice.join(', ')}]. IDs must be unique`,
      {
        context: { ids: twice },
      },
    )
  }
  return inputs
}

function unspoken(method: string, path: string): Refusal {
  return new Refusal(501, 'UNIMPLEMENTED', `The sandbox does not speak ${method} ${path}.`)
}

const style = `
h3.hubspot { border-bottom-color: #ff7a59; color: #c2431f; text-transform: capitalize; }
`
