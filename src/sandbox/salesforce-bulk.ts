// Bulk API 2.0 ingest: jobs, their CSV, their results.

import { long, type Org, RequestError, type SaveResult, type Values } from './salesforce-org.js'

/** What a job is made from. */
export interface Ingest {
  readonly object: string
  readonly operation: 'insert' | 'update' | 'upsert' | 'delete'
  readonly externalIdFieldName?: string
  readonly contentType?: string
  readonly lineEnding?: 'LF' | 'CRLF'
}

/** A job as a test sees it. */
export interface SalesforceJob {
  readonly id: string
  readonly object: string
  readonly operation: Ingest['operation']
  readonly state: 'Open' | 'UploadComplete' | 'InProgress' | 'JobComplete' | 'Failed' | 'Aborted'
  /** The rows that were looked at, and those of them that were refused. */
  readonly processed: number
  readonly failed: number
  /** The CSV as it was uploaded. */
  readonly csv: string | undefined
}

type Row = Record<string, string>
type Job = { -readonly [K in keyof SalesforceJob]: SalesforceJob[K] } & {
  readonly ingest: Ingest
  readonly version: string
  uploads: number
  errorMessage: string | undefined
  successes: Row[]
  failures: Row[]
  unprocessed: Row[]
}

/** Jobs end at the first look after they were closed, unless they are held. */
export class IngestJobs {
  readonly #org: Org
  readonly #jobs = new Map<string, Job>()
  #held = false
  #failure: { readonly after: number; readonly message: string } | undefined

  constructor(org: Org) {
    this.#org = org
  }

  get all(): readonly SalesforceJob[] {
    return [...this.#jobs.values()].map(({ id, object, operation, state, processed, failed, csv }) => ({
      id,
      object,
      operation,
      state,
      processed,
      failed,
      csv,
    }))
  }

  hold(held: boolean): void {
    this.#held = held
  }

  failNext(after: number, message: string): void {
    this.#failure = { after, message }
  }

  create(ingest: Ingest, version: string): Values {
    const { object, operation, externalIdFieldName, contentType = 'CSV' } = ingest
    const { name } = this.#org.object(object)
    if (!['insert', 'update', 'upsert', 'delete'].includes(operation) || contentType !== 'CSV') {
      throw new RequestError(400, 'INVALIDJOB', 'InvalidJob : Unable to find the operation, or not CSV')
    }
    if (operation === 'upsert') {
      if (externalIdFieldName === undefined) {
        throw new RequestError(400, 'INVALIDJOB', 'InvalidJob : External ID was blank for upsert')
      }
      this.#org.externalId(object, externalIdFieldName)
    }
    const id = long(`750${String(this.#jobs.size + 1).padStart(12, '0')}`)
    const nothing = { processed: 0, failed: 0, csv: undefined, uploads: 0, errorMessage: undefined }
    const rows = { successes: [], failures: [], unprocessed: [] }
    this.#jobs.set(id, { id, object: name, operation, state: 'Open', ingest, version, ...nothing, ...rows })
    return this.look(id)
  }

  /** Takes whatever comes; that there was more than one upload shows when the job is closed. */
  upload(id: string, csv: string): void {
    const job = this.#open(id)
    if (Buffer.byteLength(csv) > 150_000_000) throw new RequestError(400, 'INVALIDJOB', 'Job data is too large')
    job.uploads++
    job.csv = csv
  }

  change(id: string, state: unknown): Values {
    const job = this.#job(id)
    if (state === 'Aborted' && ['Open', 'UploadComplete', 'InProgress'].includes(job.state)) {
      if (job.csv !== undefined) job.unprocessed = rowsOf(job.csv)
      job.state = 'Aborted'
      return this.#info(job)
    }
    if (state !== 'UploadComplete') throw invalidState(state, job.state)
    this.#open(id)
    if (job.uploads > 1) {
      const message = `Found multipe contents for job: <${id}>, please 'Close' / 'Abort' / 'Delete' the current Job then create a new Job and make sure you only do 'PUT' once on a given Job.`
      throw new RequestError(400, 'INVALIDJOB', message)
    }
    if (job.uploads === 0) throw new RequestError(400, 'INVALIDJOBSTATE', 'The job has no data')
    job.state = 'UploadComplete'
    return this.#info(job)
  }

  look(id: string): Values {
    const job = this.#job(id)
    if (job.state === 'UploadComplete' && this.#held) job.state = 'InProgress'
    else if ((job.state === 'UploadComplete' || job.state === 'InProgress') && !this.#held) this.#process(job)
    return this.#info(job)
  }

  remove(id: string): void {
    this.#job(id)
    this.#jobs.delete(id)
  }

  results(id: string, kind: 'successfulResults' | 'failedResults' | 'unprocessedrecords'): string {
    const { successes, failures, unprocessed } = this.#job(id)
    const rows = { successfulResults: successes, failedResults: failures, unprocessedrecords: unprocessed }[kind]
    const names = Object.keys(rows[0] ?? {})
    // not in the order of the upload, which nobody promises
    return [names, ...rows.toReversed().map((row) => names.map((name) => row[name] ?? ''))]
      .map((line) => `${line.map((value) => `"${value.replaceAll('"', '""')}"`).join(',')}\n`)
      .join('')
  }

  #job(id: string): Job {
    const job = this.#jobs.get(long(id))
    if (!job) throw new RequestError(404, 'NOT_FOUND', 'The requested resource does not exist')
    return job
  }

  #open(id: string): Job {
    const job = this.#job(id)
    if (job.state !== 'Open') throw invalidState('UploadComplete', job.state)
    return job
  }

  #info({ id, ingest, state, version, processed, failed, errorMessage }: Job): Values {
    return {
      id,
      operation: ingest.operation,
      object: ingest.object,
      externalIdFieldName: ingest.externalIdFieldName,
      state,
      concurrencyMode: 'Parallel',
      contentType: 'CSV',
      columnDelimiter: 'COMMA',
      lineEnding: ingest.lineEnding ?? 'LF',
      apiVersion: Number(version),
      jobType: 'V2Ingest',
      contentUrl: `services/data/v${version}.0/jobs/ingest/${id}/batches`,
      numberRecordsProcessed: processed,
      numberRecordsFailed: failed,
      errorMessage,
    }
  }

  #process(job: Job): void {
    const { operation, object, externalIdFieldName: external } = job.ingest
    const rows = rowsOf(job.csv!)
    const unreadable = this.#unreadable(job, rows)
    const failure = this.#failure
    this.#failure = undefined
    const end = unreadable ? 0 : (failure?.after ?? rows.length)
    for (const row of rows.slice(0, end)) {
      const result = this.#save(operation, object, external, row)
      job.processed++
      if (result.success) {
        const isNew = operation === 'insert' || result.created === true
        job.successes.push({ sf__Id: result.id, sf__Created: String(isNew), ...row })
      } else {
        job.failed++
        const { statusCode, message, fields } = result.errors[0]!
        const problem = `${statusCode}:${message}:${fields.join(', ')} --`
        job.failures.push({ sf__Id: result.id ?? '', sf__Error: problem, ...row })
      }
    }
    job.unprocessed = rows.slice(end)
    job.errorMessage = unreadable ?? failure?.message
    job.state = job.errorMessage === undefined ? 'JobComplete' : 'Failed'
  }

  /** Why none of the file's rows can be looked at. */
  #unreadable(
    { ingest: { object, lineEnding = 'LF' }, csv = '' }: Job,
    [first = {}]: readonly Row[],
  ): string | undefined {
    const bare = csv.replace(/"(?:[^"]|"")*"/g, '')
    if (/\r\n/.test(bare) !== (lineEnding === 'CRLF')) {
      return `InvalidBatch : LineEnding is invalid on user data. Current LineEnding setting is ${lineEnding}`
    }
    const names = new Set(['id', ...this.#org.fieldNames(object).map((name) => name.toLowerCase())])
    const stray = Object.keys(first).find((name) => !name.includes('.') && !names.has(name.toLowerCase()))
    return stray === undefined ? undefined : `InvalidBatch : Field name not found : ${stray}`
  }

  #save(operation: Ingest['operation'], object: string, external: string | undefined, row: Row): SaveResult {
    const given: Values = {}
    for (const [name, value] of Object.entries(row)) {
      // an empty field is left alone, this one is cleared
      if (value === '') continue
      const [field = '', inner] = name.split('.')
      given[field] = inner === undefined ? (value === '#N/A' ? null : value) : { [inner]: value }
    }
    const id = String(given['Id'] ?? '')
    if (operation === 'delete') return this.#org.delete(id)
    try {
      const values = this.#org.parse(object, given)
      if (Object.values(row).some((value) => value.length > 32_000)) {
        throw new RequestError(400, 'STRING_TOO_LONG', 'a field is longer than 32,000 characters')
      }
      if (operation === 'insert') return this.#org.insert(object, values)
      if (operation === 'update') return this.#org.update(object, id, values)
      const { name } = this.#org.externalId(object, external!)
      const { [name]: key, ...others } = values
      return this.#org.upsert(object, name, key, others)
    } catch (error) {
      if (!(error instanceof RequestError)) throw error
      // in a file, a value of the wrong kind is the row's fault alone
      return {
        success: false,
        errors: [{ statusCode: 'INVALID_TYPE_ON_FIELD_IN_RECORD', message: error.message, fields: [] }],
      }
    }
  }
}

function invalidState(wanted: unknown, state: string): RequestError {
  return new RequestError(400, 'INVALIDJOBSTATE', `Invalid job state: ${wanted}, the job is ${state}`)
}

/** RFC 4180. */
function rowsOf(csv: string): Row[] {
  const field = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r?\n|$)/gy
  const lines: string[][] = [[]]
  while (field.lastIndex < csv.length) {
    const at = field.lastIndex
    const [, value = '', end = ''] = field.exec(csv) ?? []
    if (field.lastIndex <= at) throw new RequestError(400, 'INVALIDJOB', `Error parsing CSV at ${at}`)
    lines.at(-1)!.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value)
    if (end !== ',' && field.lastIndex < csv.length) lines.push([])
  }
  const [names = [], ...rest] = lines
  return rest.map((line) => Object.fromEntries(names.map((name, at) => [name, line[at] ?? ''])))
}
