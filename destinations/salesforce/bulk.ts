import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Context,
  FatalError,
  type HttpRequest,
  type Outcome,
  RejectedError,
  receipt,
  retry,
  unknown,
} from 'spillway'
import { Refused } from './org.js'
import type { Line, RecordError } from './records.js'

// One job of Salesforce's Bulk API 2.0, a part of the destination in salesforce.ts:
// https://developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/bulk_api_2_0_ingest.htm

/** What a job needs to know of its surroundings. */
export interface Surroundings {
  /** A request to a path below `/services/data/vXX.0`. */
  call(method: string, path: string, init?: HttpRequest): Promise<Response>
  /** The field by which results are told apart. */
  readonly externalId: string
  readonly context: Pick<Context, 'remember' | 'signal'>
  /** What errors of a record mean for it. */
  judge(record: object, errors: readonly RecordError[]): Outcome
}

interface Job {
  readonly id: string
  readonly state: string
  readonly numberRecordsProcessed?: number
  readonly errorMessage?: string
}

/** A row of a file, by the names of its columns. */
type Row = Readonly<Record<string, string | undefined>>

/** The most that Salesforce takes in one file, before it makes base64 of it. */
const mostBytes = 100_000_000
const longestField = 32_000

/** How the file of a job whose upload was answered is remembered. */
const uploaded = ' uploaded'

/**
 * The file of a job: an empty field leaves alone, `#N/A` clears. `undefined` where a file would not say the same as the records
 * do: a text that is `#N/A` itself, one that is too long, two records of one External ID.
 */
export function csvOf(lines: readonly Line[]): string | undefined {
  if (new Set(lines.map(({ key }) => key.toLowerCase())).size < lines.length) return undefined
  const rows = lines.map(({ fields }) => new Map(Object.entries(fields).map(cell)))
  const columns = [...new Set(rows.flatMap((row) => [...row.keys()]))]
  for (const row of rows) for (const text of row.values()) if (text === undefined) return undefined
  const csv = [columns, ...rows.map((row) => columns.map((column) => row.get(column) ?? ''))]
    .map((row) => `${row.map(quoted).join(',')}\n`)
    .join('')
  return Buffer.byteLength(csv) > mostBytes ? undefined : csv
}

/** A field as a column and its text; no text where the file cannot hold it. */
function cell([name, value]: readonly [string, unknown]): readonly [string, string | undefined] {
  if (value === null || value === '') return [name, '#N/A']
  if (typeof value === 'object') {
    const [[field, key] = ['', null]] = Object.entries(value)
    return [`${name}.${field}`, cell([field, key])[1]]
  }
  const text = String(value)
  return [name, text === '#N/A' || text.length > longestField ? undefined : text]
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** Opens a job, notes its id before any row leaves, uploads the file, and waits for the results. */
export async function runJob(
  description: { readonly object: string; readonly operation: string; readonly externalIdFieldName?: string },
  lines: readonly Line[],
  csv: string,
  around: Surroundings,
): Promise<Outcome[]> {
  const json = { ...description, contentType: 'CSV', lineEnding: 'LF' }
  const { id } = await jobIn(around.call('POST', '/jobs/ingest', { json }))
  await around.context.remember(id)
  const upload = { body: csv, headers: { 'content-type': 'text/csv' } }
  await around.call('PUT', `/jobs/ingest/${id}/batches`, upload).catch(async (error: unknown) => {
    if (error instanceof Refused) await around.context.remember(undefined) // and so the job stays empty
    throw error
  })
  await around.context.remember(id + uploaded)
  return (await endJob(id + uploaded, lines, around))!
}

/**
 * What became of these rows in the job that an earlier attempt, or this one, has remembered. `undefined` when it has taken none and
 * never will.
 */
export async function endJob(
  remembered: string,
  lines: readonly Line[],
  around: Surroundings,
): Promise<Outcome[] | undefined> {
  const { call, context, externalId, judge } = around
  const path = `/jobs/ingest/${remembered.replace(uploaded, '')}`
  const job = await jobIn(call('GET', path)).catch((error: unknown) => {
    if (error instanceof Refused && error.status === 404) return undefined // Salesforce forgets jobs after some days
    throw error
  })
  if (!job) {
    await context.remember(undefined)
    return lines.map(({ record }) => unknown(record))
  }
  if (!remembered.endsWith(uploaded) && /^(Open|Aborted)$/.test(job.state)) {
    // Whether its file arrived is not known, and a second one would not be taken; but nothing is looked at before it is closed.
    if (job.state === 'Open') await call('PATCH', path, { json: { state: 'Aborted' } })
    await context.remember(undefined)
    return undefined
  }
  const ended = await end(job, path, around)
  const rows = async (part: string): Promise<Row[]> => rowsOf(await (await call('GET', `${path}/${part}`)).text())
  const successes = await rows('successfulResults')
  const failures = await rows('failedResults')
  const unprocessed = await rows('unprocessedrecords')
  const processed = Math.max(successes.length + failures.length, ended.numberRecordsProcessed ?? 0)
  if (ended.state !== 'JobComplete' && processed === 0) {
    await context.remember(undefined)
    throw ended.state === 'Aborted'
      ? new FatalError(`salesforce: the Bulk job ${job.id} was aborted by somebody; run again to send its rows`)
      : new RejectedError(`salesforce: the Bulk job ${job.id} failed: ${ended.errorMessage ?? 'no reason was given'}`)
  }
  const told = new Map<string | undefined, (record: object) => Outcome>()
  for (const row of unprocessed) told.set(row[externalId], (record) => retry(record))
  for (const row of failures) told.set(row[externalId], (record) => judge(record, [errorOf(row['sf__Error'] ?? '')]))
  for (const row of successes) told.set(row[externalId], (record) => receipt(record, row['sf__Id'] ?? ''))
  // a row that is in none of the files has to be looked for elsewhere
  if (lines.some(({ key }) => !told.has(key))) await context.remember(undefined)
  return lines.map(({ record, key }) => told.get(key)?.(record) ?? unknown(record))
}

/** Closes a job whose file is there, and waits until Salesforce is done with it, for as long as the call may take. */
async function end(job: Job, path: string, { call, context }: Surroundings): Promise<Job> {
  let latest = job
  if (job.state === 'Open') latest = await jobIn(call('PATCH', path, { json: { state: 'UploadComplete' } }))
  for (let wait = 250; /^(UploadComplete|InProgress)$/.test(latest.state); wait = Math.min(2 * wait, 30_000)) {
    await sleep(wait, undefined, { signal: context.signal })
    latest = await jobIn(call('GET', path))
  }
  return latest
}

async function jobIn(answer: Promise<Response>): Promise<Job> {
  const job = (await (await answer).json()) as Partial<Job>
  if (typeof job.id === 'string' && typeof job.state === 'string') return job as Job
  throw new TypeError('salesforce: an answer about a Bulk job has no id or no state')
}

/** `CODE:message:fields --` */
function errorOf(text: string): RecordError {
  const [, statusCode = 'UNKNOWN', message = '', fields = ''] = /^(\w+):(.*?)(?::([^:]*) --)?$/s.exec(text) ?? [
    '',
    '',
    text,
  ]
  return { statusCode, message, fields: fields.split(/, */).filter(Boolean) }
}

/** Reads RFC 4180, where line ends and commas may stand in quotes. */
function rowsOf(csv: string): Row[] {
  const field = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/gy
  const lines: string[][] = [[]]
  while (field.lastIndex < csv.length) {
    const match = field.exec(csv)
    if (!match) throw new TypeError('salesforce: the results of a Bulk job are not CSV')
    const [, quotedText, bare = '', end] = match
    lines.at(-1)!.push(quotedText?.replaceAll('""', '"') ?? bare)
    if (end !== ',') lines.push([])
  }
  const [columns = [], ...rows] = lines
  return rows
    .filter((row) => row.length === columns.length)
    .map((row) => Object.fromEntries(columns.map((column, at) => [column, row[at]])))
}
