import { generateKeyPairSync, randomBytes, verify } from 'node:crypto'
import { cell, html } from './page.js'
import { Recent } from './recent.js'
import { type Ingest, IngestJobs, type SalesforceJob } from './salesforce-bulk.js'
import {
  long,
  Org,
  RequestError,
  type SalesforceField,
  type SalesforceRecord,
  type SaveResult,
  type Values,
} from './salesforce-org.js'
import type { ApiRequest, Reply, Tenant } from './server.js'

/** Limits of the sandbox's org. */
export interface SalesforceLimits {
  /** Requests in 24 hours, sign-in not counted, after which all are refused. @default 15000 */
  readonly dailyRequests?: number | undefined
}

/** A connected app with everything that it can sign in with. */
export interface SalesforceApp {
  readonly clientId: string
  readonly clientSecret: string
  readonly username: string
  readonly privateKey: string
  readonly refreshToken: string
}

/** The sandbox's Salesforce org, as a test sees it. */
export interface Salesforce {
  /** An access token that does not end. */
  readonly token: string
  /** Makes an object, or makes it anew and empty. `Id` is among its fields by itself. */
  define(object: string, fields: Readonly<Record<string, SalesforceField>>): void
  /** Its records, oldest first, without those that were deleted. */
  records(object: string): readonly SalesforceRecord[]
  /** Puts a record there as it is, past all rules, and gives its `Id`. */
  put(object: string, record: Values): string
  /** The next writes to a record, named by its `Id` or by the external id that finds it, meet a row lock. */
  lock(record: string, times?: number): void
  app(): SalesforceApp
  /** All sessions end; whoever has credentials may sign in again. */
  expire(): void
  /** Requests that counted in the last 24 hours. */
  readonly used: number
  readonly jobs: readonly SalesforceJob[]
  /** Bulk jobs stay in progress until {@link release}. */
  hold(): void
  release(): void
  /** The next Bulk job fails after so many rows, and the others stay unprocessed. */
  failJob(after: number, message: string): void
}

/** The newest API version that the org speaks. */
const newest = 67

export function salesforce({ dailyRequests = 15_000 }: SalesforceLimits): {
  readonly tenant: Tenant
  readonly controls: Salesforce
} {
  const org = new Org()
  const jobs = new IngestJobs(org)
  const apps = new Map<string, SalesforceApp & { readonly publicKey: string }>()
  const sessions = new Set<string>()
  const ownToken = `00D000000000001!sandbox`
  const spent = new Recent(86_400_000)

  // ---- who is asking ---------------------------------------------------------------------------------------------

  function tokenEndpoint({ body, headers }: ApiRequest): Reply {
    const refuse = (error: string, error_description: string): Reply => ({
      status: 400,
      body: { error, error_description },
    })
    const form = (body ?? {}) as Record<string, string>
    const claims = form['assertion'] === undefined ? undefined : decode(form['assertion'].split('.')[1])
    const app = apps.get(form['client_id'] ?? String(claims?.['iss']))
    if (!app) return refuse('invalid_client_id', 'client identifier invalid')
    switch (form['grant_type']) {
      case 'client_credentials':
        if (form['client_secret'] !== app.clientSecret) return refuse('invalid_client', 'invalid client credentials')
        break
      case 'refresh_token':
        if (form['client_secret'] !== undefined && form['client_secret'] !== app.clientSecret) {
          return refuse('invalid_client', 'invalid client credentials')
        }
        if (form['refresh_token'] !== app.refreshToken) return refuse('invalid_grant', 'expired access/refresh token')
        break
      case 'urn:ietf:params:oauth:grant-type:jwt-bearer': {
        const problem = jwtProblem(String(form['assertion']), claims ?? {}, app, `http://${headers.host}`)
        if (problem) return refuse('invalid_grant', problem)
        break
      }
      default:
        return refuse('unsupported_grant_type', 'grant type not supported')
    }
    const token = `00D000000000001!${randomBytes(24).toString('base64url')}`
    sessions.add(token)
    const instance = `http://${headers.host}`
    return {
      status: 200,
      body: {
        access_token: token,
        instance_url: instance,
        id: `${instance}/id/00D000000000001/005000000000001`,
        token_type: 'Bearer',
        scope: 'api',
      },
    }
  }

  /** https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_jwt_flow.htm */
  function jwtProblem(
    assertion: string,
    claims: Values,
    app: { readonly publicKey: string; readonly username: string },
    here: string,
  ): string | undefined {
    const [header = '', payload = '', signature = ''] = assertion.split('.')
    const signed = Buffer.from(`${header}.${payload}`)
    if (decode(header)['alg'] !== 'RS256') return 'invalid assertion'
    if (!verify('sha256', signed, app.publicKey, Buffer.from(signature, 'base64url'))) return 'invalid assertion'
    if (!['https://login.salesforce.com', 'https://test.salesforce.com', here].includes(String(claims['aud']))) {
      return 'audience is invalid'
    }
    const left = Number(claims['exp']) - Date.now() / 1000
    if (!(left > 0 && left < 600)) return 'assertion is not valid: it has expired, or lives too long'
    return claims['sub'] === app.username ? undefined : "user hasn't approved this consumer"
  }

  function admit({ headers }: ApiRequest): void {
    const [, token = ''] = /^Bearer (.+)$/.exec(headers.authorization ?? '') ?? []
    if (token !== ownToken && !sessions.has(token)) {
      throw new RequestError(401, 'INVALID_SESSION_ID', 'Session expired or invalid')
    }
    if (spent.count >= dailyRequests) {
      throw new RequestError(403, 'REQUEST_LIMIT_EXCEEDED', 'TotalRequests Limit exceeded.')
    }
    spent.add()
  }

  // ---- requests --------------------------------------------------------------------------------------------------

  function api(request: ApiRequest): Reply {
    const { method, path, query, body } = request
    admit(request)
    const [, version, rest = ''] = /^\/services\/data\/v(\d+)\.0(?:\/(.*))?$/.exec(path) ?? []
    if (version === undefined) {
      if (path === '/services/oauth2/userinfo')
        return ok({ user_id: '005000000000001', organization_id: '00D000000000001' })
      if (path === '/services/data') return ok(versions())
      throw unknownPath()
    }
    if (Number(version) > newest) throw unknownPath()
    const parts = rest.split('/').map(decodeURIComponent)
    const given = (body ?? {}) as Values
    switch (parts[0]) {
      case 'limits':
        return ok({ DailyApiRequests: { Max: dailyRequests, Remaining: dailyRequests - spent.count } })
      case 'query': {
        const records = org.query(query.get('q') ?? '')
        return ok({ totalSize: records.length, done: true, records })
      }
      case 'composite':
        return collections(method, parts.slice(2), query, given)
      case 'sobjects':
        return single(method, parts.slice(1), given)
      case 'jobs':
        if (parts[1] === 'ingest') return ingest(method, version, parts.slice(2), body)
    }
    throw unknownPath()
  }

  function versions(): unknown {
    return Array.from({ length: newest - 30 }, (_, at) => at + 31).map((version) => ({
      label: `Version ${version}`,
      url: `/services/data/v${version}.0`,
      version: `${version}.0`,
    }))
  }

  /** https://developer.salesforce.com/docs/platform/api-rest/guide/resources-composite-sobjects-collections.html */
  function collections(
    method: string,
    [object, external]: readonly string[],
    query: URLSearchParams,
    body: Values,
  ): Reply {
    if (method === 'DELETE') {
      const ids = (query.get('ids') ?? '').split(',')
      atMost(ids)
      return ok(ids.map((id) => org.delete(id)))
    }
    if (method === 'POST' && object !== undefined) return ok(retrieved(object, body))
    const records = body['records']
    if (!Array.isArray(records) || records.length === 0) {
      throw new RequestError(400, 'INVALID_ARGUMENT', 'The records list must not be empty')
    }
    if (body['allOrNone'] === true) throw new RequestError(501, 'NOT_SPOKEN', 'The sandbox does not roll back.')
    atMost(records)
    const typed = records.map((record: Values) => {
      const type = (record['attributes'] as Values | undefined)?.['type']
      if (typeof type !== 'string') {
        throw new RequestError(400, 'INVALID_TYPE', 'The attributes of a record must contain its type')
      }
      if (external !== undefined && type !== object) {
        throw new RequestError(400, 'INVALID_TYPE', `Record type ${type} does not match the URI's ${object}`)
      }
      const id = String(record['id'] ?? record['Id'] ?? '')
      return { type, id, values: org.parse(type, record) }
    })
    if (method === 'POST') return ok(typed.map(({ type, values }) => org.insert(type, values)))
    if (method !== 'PATCH') throw unknownPath()
    if (external === undefined) return ok(typed.map(({ type, id, values }) => org.update(type, id, values)))
    const { name } = org.externalId(object!, external)
    const keys = typed.map(({ values }) => String(values[name] ?? '').toLowerCase())
    return ok(
      typed.map(({ type, values }, index): SaveResult => {
        const key = keys[index]!
        if (key !== '' && keys.indexOf(key) !== keys.lastIndexOf(key)) {
          const message = `Duplicate external id specified: ${values[name]}`
          return { success: false, errors: [{ statusCode: 'DUPLICATE_VALUE', message, fields: [name] }] }
        }
        const { [name]: value, ...others } = values
        return org.upsert(type, name, value, others)
      }),
    )
  }

  function atMost(records: readonly unknown[]): void {
    if (records.length <= 200) return
    const message = 'record limit reached. cannot submit more than 200 records into this call'
    throw new RequestError(400, 'EXCEEDED_ID_LIMIT', message)
  }

  function retrieved(object: string, { ids, fields }: Values): unknown {
    const { name } = org.object(object)
    return (ids as string[]).map((id) => {
      const found = org.records(name).find((record) => record.Id === long(id))
      return found && record(name, found, fields as string[])
    })
  }

  function record(object: string, found: SalesforceRecord, fields: readonly string[]): unknown {
    const attributes = { type: object, url: `/services/data/v${newest}.0/sobjects/${object}/${found.Id}` }
    return { attributes, ...Object.fromEntries(fields.map((field) => [field, found[field] ?? null])) }
  }

  function single(method: string, [object = '', ...path]: readonly string[], body: Values): Reply {
    const { name } = org.object(object)
    if (path.length === 0 && method === 'POST') return created(org.insert(name, org.parse(name, body)))
    if (path.length === 1 && path[0] === 'describe') {
      return ok({ name, fields: ['Id', ...org.fieldNames(name)].map((field) => ({ name: field })) })
    }
    const [field, value] = path.length === 2 ? path : ['Id', path[0]]
    if (value === undefined || path.length > 2) throw unknownPath()
    const found =
      field === 'Id' ? org.find(name, 'Id', value) : org.find(name, org.externalId(name, field!).name, value)
    if (found.length > 1) {
      return { status: 300, body: found.map((id) => `/services/data/v${newest}.0/sobjects/${name}/${id}`) }
    }
    if (method === 'PATCH' && field !== 'Id') {
      return created(org.upsert(name, field!, value, org.parse(name, body)))
    }
    const [id = path.length === 1 ? value : undefined] = found
    if (id === undefined) throw new RequestError(404, 'NOT_FOUND', 'The requested resource does not exist')
    if (method === 'PATCH') return done(org.update(name, id, org.parse(name, body)))
    if (method === 'DELETE') return done(org.delete(id))
    const there = org.records(name).find((record) => record.Id === id)
    if (!there) throw new RequestError(404, 'NOT_FOUND', 'The requested resource does not exist')
    return ok(record(name, there, ['Id', ...org.fieldNames(name)]))
  }

  /** A refusal of a single record is the request's error, under another name of its code. */
  function refusedAlone(result: SaveResult): void {
    if (result.success) return
    const { statusCode, message } = result.errors[0]!
    throw new RequestError(statusCode === 'ENTITY_IS_DELETED' ? 404 : 400, statusCode, message)
  }

  function created(result: SaveResult): Reply {
    refusedAlone(result)
    return { status: result.success && result.created === false ? 200 : 201, body: result }
  }

  function done(result: SaveResult): Reply {
    refusedAlone(result)
    return { status: 204, body: undefined }
  }

  /** https://developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/bulk_api_2_0_ingest.htm */
  function ingest(method: string, version: string, [id, part]: readonly string[], body: unknown): Reply {
    if (id === undefined && method === 'POST') return ok(jobs.create(body as Ingest, version))
    if (id === undefined) throw unknownPath()
    switch (`${method} ${part ?? ''}`) {
      case 'PUT batches':
        jobs.upload(id, typeof body === 'string' ? body : '')
        return { status: 201, body: undefined }
      case 'PATCH ':
        return ok(jobs.change(id, (body as Values)['state']))
      case 'GET ':
        return ok(jobs.look(id))
      case 'DELETE ':
        jobs.remove(id)
        return { status: 204, body: undefined }
      case 'GET successfulResults':
      case 'GET failedResults':
      case 'GET unprocessedrecords':
        return { status: 200, body: jobs.results(id, part as 'failedResults'), headers: { 'content-type': 'text/csv' } }
    }
    throw unknownPath()
  }

  const tenant: Tenant = {
    owns: (path) => path.startsWith('/services/oauth2/') || /^\/services\/data(\/|$)/.test(path),
    answer(request) {
      if (request.path === '/services/oauth2/token') return tokenEndpoint(request)
      const reply = answered(request)
      return {
        ...reply,
        headers: { ...reply.headers, 'sforce-limit-info': `api-usage=${spent.count}/${dailyRequests}` },
      }
    },
    refusal: (status, reason) => [
      { message: "Asked for by the sandbox's caller.", errorCode: reason ?? codes[status] ?? 'UNKNOWN_EXCEPTION' },
    ],
    page() {
      const tables = org.objects.map((name) => table(name, org.records(name), org.fieldNames(name)))
      return `<h2>Salesforce</h2>${tables.join('\n') || '<p class="note">No object yet.</p>'}${jobsTable(jobs.all)}`
    },
    style,
  }

  function answered(request: ApiRequest): Reply {
    try {
      return api(request)
    } catch (error) {
      if (!(error instanceof RequestError)) throw error
      return { status: error.status, body: [{ message: error.message, errorCode: error.errorCode }] }
    }
  }

  const controls: Salesforce = {
    token: ownToken,
    define: (object, fields) => org.define(object, fields),
    records: (object) => org.records(object),
    put: (object, record) => org.put(object, record),
    lock: (record, times = 1) => void org.locks.set(record, times),
    app() {
      const { privateKey, publicKey } = generateKeyPairSync('rsa', {
        modulusLength: 2048,
        privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
        publicKeyEncoding: { type: 'spki', format: 'pem' },
      })
      const secret = () => randomBytes(24).toString('hex')
      const app: SalesforceApp = {
        clientId: `3MVG9.${secret()}`,
        clientSecret: secret(),
        username: 'spillway@sandbox.example',
        privateKey,
        refreshToken: `5Aep${secret()}`,
      }
      apps.set(app.clientId, { ...app, publicKey })
      return app
    },
    expire: () => sessions.clear(),
    get used() {
      return spent.count
    },
    get jobs() {
      return jobs.all
    },
    hold: () => jobs.hold(true),
    release: () => jobs.hold(false),
    failJob: (after, message) => jobs.failNext(after, message),
  }
  return { tenant, controls }
}

function ok(body: unknown): Reply {
  return { status: 200, body }
}

function unknownPath(): RequestError {
  return new RequestError(404, 'NOT_FOUND', 'The requested resource does not exist')
}

function decode(part: string | undefined): Values {
  try {
    return Object(JSON.parse(Buffer.from(part ?? '', 'base64url').toString()))
  } catch {
    return {} // refused by whoever looks for a claim in it
  }
}

/** https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm */
const codes: Record<number, string> = {
  400: 'MALFORMED_QUERY',
  401: 'INVALID_SESSION_ID',
  403: 'REQUEST_LIMIT_EXCEEDED',
  404: 'NOT_FOUND',
  429: 'REQUEST_LIMIT_EXCEEDED',
  500: 'UNKNOWN_EXCEPTION',
  503: 'SERVER_UNAVAILABLE',
}

// ---- the page ----------------------------------------------------------------------------------------------------

/** Records of an object that the page shows: a browser would choke on all of many. */
const pageRows = 500

function table(object: string, records: readonly SalesforceRecord[], fields: readonly string[]): string {
  const head = ['Id', ...fields].map((field) => `<th>${html(field)}</th>`).join('')
  const body = records.slice(0, pageRows).map((record) => {
    const cells = fields.map((field) => {
      const value = record[field]
      return value === undefined ? '<td class="blank"></td>' : cell(String(value), typeof value)
    })
    return `<tr><td class="sf-id">${html(record.Id)}</td>${cells.join('')}</tr>`
  })
  const size = `${records.length.toLocaleString('en')} records`
  return `<h3 class="sf-object">${html(object)}<small>${size}</small></h3>
<div class="grid"><table><thead><tr>${head}</tr></thead><tbody>
${body.join('\n')}
</tbody></table></div>${records.length > pageRows ? `<p class="note">The first ${pageRows}.</p>` : ''}`
}

function jobsTable(jobs: readonly SalesforceJob[]): string {
  if (jobs.length === 0) return ''
  const rows = jobs.map(
    ({ id, operation, object, state, processed, failed }) =>
      `<tr><td class="sf-id">${html(id)}</td><td>${html(operation)}</td><td>${html(object)}</td><td>${state}</td><td class="number">${processed}</td><td class="number">${failed}</td></tr>`,
  )
  const head = ['Id', 'Operation', 'Object', 'State', 'Processed', 'Failed'].map((name) => `<th>${name}</th>`).join('')
  return `<h3 class="sf-object">Bulk jobs<small>${jobs.length}</small></h3>
<div class="grid"><table><thead><tr>${head}</tr></thead><tbody>
${rows.join('\n')}
</tbody></table></div>`
}

const style = `
h3.sf-object { border-bottom-color: #0176d3; color: #0176d3; }
td.sf-id { color: #0176d3; font-family: ui-monospace, SFMono-Regular, Menlo, monospace; font-size: 12px; }
`
