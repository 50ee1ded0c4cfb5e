import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import type { StandardJSONSchemaV1, StandardSchemaV1 } from '@standard-schema/spec'
import { parse, TomlError } from 'smol-toml'
import { ConfigError, SpillwayError } from './errors.js'
import type { Log } from './log.js'

// ---- secrets -----------------------------------------------------------------------------------------------

/** A value that is looked up by name when a run starts. However it is printed, it shows its name. Made by {@link secret}. */
export class Secret {
  readonly #name: string

  constructor(name: string) {
    this.#name = name
  }

  get name(): string {
    return this.#name
  }

  toString(): string {
    return `[secret ${this.#name}]`
  }

  toJSON(): string {
    return this.toString()
  }

  [inspect.custom](): string {
    return this.toString()
  }
}

/**
 * The value of an environment variable, or of a name at the top of `.spillway/secrets.toml`, read when a run starts.
 *
 * @throws ConfigError when `name` cannot be a variable's name, which is how passing the value itself mostly shows.
 * @example
 * ```ts
 * crm({ token: secret('CRM_TOKEN') })
 * ```
 */
export function secret(name: string): Secret {
  if (typeof name !== 'string' || !/^[A-Za-z_]\w*$/.test(name)) {
    // The argument is not repeated: it may well be the secret.
    throw new ConfigError(
      "secret() takes the name of an environment variable, such as secret('CRM_TOKEN'), not its value",
    )
  }
  return new Secret(name)
}

/** What a call may pass: every field may be absent (then it is injected), or a secret, at any depth. */
export type Injected<C> = { [K in keyof C]?: Injectable<C[K]> | undefined }
type Injectable<T> = T | Secret | (T extends object ? { [K in keyof T]: Injectable<T[K]> } : never)

/** Where values are looked up. */
export interface Places {
  /** The folder of `secrets.toml` and `config.toml`. @default '.spillway' */
  readonly folder?: string | undefined
  /** @default process.env */
  readonly env?: NodeJS.ProcessEnv | undefined
}

/**
 * The text behind an option that may be a secret, such as a source's `url`. What it finds is redacted from then on.
 *
 * @param where The actor and its option, for the error: `'postgres: url'`.
 * @throws ConfigError naming every place looked at, when there is no such secret.
 */
export function resolveSecret(value: string | Secret, where: string, places: Places = {}): string {
  if (typeof value === 'string') {
    learn(value, where)
    return value
  }
  const { folder = '.spillway', env = process.env } = places
  const found = readSecret(value, env, () => readToml(join(folder, secretsFile)))
  if (found === undefined) throw new ConfigError(`${where}: ${missingSecret(value, folder)}`)
  return found
}

function readSecret({ name }: Secret, env: NodeJS.ProcessEnv, secrets: () => Table): string | undefined {
  // An empty variable is what a pipeline makes of a secret that it does not have.
  const value = env[name] || secrets()[name]
  if (value === undefined || value === '') return undefined
  const text = isTable(value) || Array.isArray(value) ? JSON.stringify(value) : String(value)
  learn(text, name, true)
  return text
}

function missingSecret({ name }: Secret, folder: string): string {
  return `secret ${name} is missing: set the environment variable ${name}, or ${name} at the top of ${join(folder, secretsFile)}`
}

// ---- resolution --------------------------------------------------------------------------------------------

const secretsFile = 'secrets.toml'
const configFile = 'config.toml'

/** What names a config, and where it is looked up. */
export interface ConfigRequest {
  readonly kind?: 'destination' | undefined
  /** The destination's name. */
  readonly name: string
  readonly schema: StandardSchemaV1
  /** What the code passes: comes first, and may hold secrets at any depth. */
  readonly given: Readonly<Record<string, unknown>>
  /** The folder of `secrets.toml` and `config.toml`. */
  readonly folder: string
  /** @default process.env */
  readonly env?: NodeJS.ProcessEnv | undefined
}

/**
 * The validated config of a destination, each field from the first place that has it:
 *
 * 1. what the code passes;
 * 2. the environment: `DESTINATION__CRM__TOKEN`, else `CRM__TOKEN`, else `DESTINATION__TOKEN`;
 * 3. `secrets.toml`: `token` under `[destination.crm]`, else `[crm]`, else `[destination]`;
 * 4. `config.toml`, likewise;
 * 5. the schema's default: the field is left out.
 *
 * A bare `TOKEN` is never taken: `URL`, `USER` or `HOST` mean something else on most machines. `secret('TOKEN')` asks for it.
 * An empty environment variable counts as not set. Names are compared without case, `_` and `-`: `API_KEY` is `apiKey`.
 *
 * The fields, at any depth (`DESTINATION__CRM__LOGIN__USER`), are those of the schema's JSON Schema
 * (https://standardschema.dev/json-schema). A schema without one gets all that the two sections of its name hold, variables as
 * `apiKey` and as `api_key`. Where the JSON Schema asks for a number, a boolean, a list or an object, a variable's text is read as
 * that; text that does not fit is left for the schema to refuse.
 *
 * Redacted from then on: secrets, whatever `secrets.toml` holds, fields with names such as `token`, passwords in URLs.
 * Printed or turned into JSON, the config itself shows none of them either.
 *
 * @throws ConfigError naming every field that is missing or wrong and every place looked at, and no value.
 */
export async function resolveConfig(request: ConfigRequest): Promise<unknown> {
  const { kind = 'destination', name, schema, given, folder, env = process.env } = request
  const secrets = readToml(join(folder, secretsFile))
  const places: Place[] = [
    { name: 'the environment', tree: variables(env, [kind, name]), text: true, secret: false },
    { name: join(folder, secretsFile), tree: secrets, text: false, secret: true },
    { name: join(folder, configFile), tree: readToml(join(folder, configFile)), text: false, secret: false },
  ]
  const sections = [[kind, name], [name], [kind]]
  const found = places.map((place) => sections.map((section) => descend({ ...place, value: place.tree }, section)))

  const missing: Problem[] = []
  const reveal = (value: unknown, path: readonly string[]): unknown => {
    if (value instanceof Secret) {
      const text = readSecret(value, env, () => secrets)
      if (text === undefined) missing.push({ path, text: missingSecret(value, folder) })
      return text
    }
    if (Array.isArray(value)) return value.map((item, at) => reveal(item, [...path, String(at)]))
    return isTable(value) ? mapTable(value, (item, key) => reveal(item, [...path, key])) : value
  }

  const known = inputSchema(schema)
  const shape = fieldsOf(known).size > 0 ? known : offered(found.flatMap((sections) => sections.slice(0, 2)))
  const input = gather(shape, [], given, found.flat().filter(isFound), reveal)
  learn(input, '')

  const result = await schema['~standard'].validate(input)
  const issues = (result.issues ?? []).map((issue): Problem => {
    const path = (issue.path ?? []).map((part) => String(typeof part === 'object' ? part.key : part))
    const value = path.reduce<unknown>(
      (at, key) => (isTable(at) || Array.isArray(at) ? Reflect.get(at, key) : undefined),
      input,
    )
    return { path, text: path.length > 0 && value === undefined ? 'missing' : without(value, issue.message) }
  })
  const answered = new Set(missing.map(({ path }) => path.join('.')))
  const problems = [...missing, ...issues.filter(({ path }) => !answered.has(path.join('.')))]
  if (result.issues || problems.length > 0) throw incomplete(name, problems, sections, folder)

  learn(result.value, '')
  return guarded(result.value)
}

interface Problem {
  readonly path: readonly string[]
  readonly text: string
}

function incomplete(
  name: string,
  problems: readonly Problem[],
  sections: readonly string[][],
  folder: string,
): ConfigError {
  const lines = problems.map(({ path, text }) => `  ${path.join('.') || 'as a whole'}: ${text}`)
  const field = problems.find(({ path }) => path.length > 0)?.path ?? ['field']
  const variable = sections.map((section) => [...section, ...field].map(variableName).join('__'))
  const tables = sections.map((section) => `[${section.map(tomlKey).join('.')}]`)
  return new ConfigError(
    redact(`${name}: its config cannot be used:
${lines.join('\n')}
Looked at: what the code passes; the environment (for ${field.join('.')}: ${variable.join(', ')}); ${join(folder, secretsFile)} and ${join(folder, configFile)} (under ${tables.join(', ')}); the schema's default`),
  )
}

/** A schema's message, should it repeat the value that it refuses, as some validators do. */
function without(value: unknown, message: string): string {
  const text = typeof value === 'object' ? '' : String(value ?? '')
  return text.length > 1 ? message.replaceAll(text, '…') : message
}

function variableName(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^\p{L}\p{N}]+/gu, '_')
    .replace(/^_|_$/g, '')
    .toUpperCase()
}

function tomlKey(name: string): string {
  return /^[\w-]+$/.test(name) ? name : JSON.stringify(name)
}

// ---- places ------------------------------------------------------------------------------------------------

type Table = { readonly [key: string]: unknown }

interface Place {
  readonly name: string
  readonly tree: Table
  /** Values are text, whatever they mean. */
  readonly text: boolean
  readonly secret: boolean
}

/** What a place holds at some path. */
interface Found extends Place {
  readonly value: unknown
}

function isFound(found: Found | undefined): found is Found {
  return found !== undefined
}

function isTable(value: unknown): value is Table {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

function mapTable(table: Table, change: (value: unknown, key: string) => unknown): Table {
  return Object.fromEntries(Object.entries(table).map(([key, value]) => [key, change(value, key)]))
}

/** How names are compared. */
function bare(name: string): string {
  return name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '')
}

/** The variables that begin with one of the sections, as a tree; `A__B` is `B` under `A`. */
function variables(env: NodeJS.ProcessEnv, sections: readonly string[]): Table {
  const wanted = new Set(sections.map(bare))
  const named = Object.entries(env)
    .map(([name, text]) => ({ path: name.split('__'), text }))
    .filter(({ path, text }) => text && path.length > 1 && wanted.has(bare(path[0]!)))
    .sort((a, b) => a.path.length - b.path.length)
  return named.reduce((tree, { path, text }) => planted(tree, path, text), {} as Table)
}

function planted(tree: Table, [name, ...rest]: readonly string[], text: unknown, json = false): Table {
  // `LOGIN` may hold all fields as JSON, and `LOGIN__USER` one of them in another spelling.
  const key = (json ? Object.keys(tree).find((key) => bare(key) === bare(name!)) : undefined) ?? name!
  if (rest.length === 0) return { ...tree, [key]: text }
  const below = Object.hasOwn(tree, key) ? tree[key] : undefined
  return { ...tree, [key]: planted(tableIn(below, true) ?? {}, rest, text, json || typeof below === 'string') }
}

function tableIn(value: unknown, text: boolean): Table | undefined {
  if (isTable(value)) return value
  const json = text && typeof value === 'string' ? asJson(value) : undefined
  return isTable(json) ? json : undefined
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // not JSON, which the schema is asked to judge
  }
}

function child(found: Found, name: string): Found | undefined {
  const table = tableIn(found.value, found.text) ?? {}
  const keys = Object.keys(table).filter((key) => bare(key) === bare(name))
  if (keys.length > 1) {
    throw new ConfigError(`${found.name} spells one setting in several ways: keep one of ${keys.join(', ')}`)
  }
  return keys.length === 1 ? { ...found, value: table[keys[0]!] } : undefined
}

function descend(found: Found, path: readonly string[]): Found | undefined {
  return path.reduce<Found | undefined>((at, name) => at && child(at, name), found)
}

function readToml(file: string): Table {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw new ConfigError(`${file} cannot be read: ${(error as Error).message}`)
  }
  try {
    return parse(text, { integersAsBigInt: 'asNeeded' })
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    // Only the first line: below it the parser quotes the file. For the same reason it is no `cause`.
    const reason = error.message.split('\n', 1)[0]!.replace('Invalid TOML document: ', '')
    throw new ConfigError(`${file}, line ${error.line}, column ${error.column} is not TOML: ${reason}`)
  }
}

// ---- fields ------------------------------------------------------------------------------------------------

/** As much of JSON Schema as says which fields there are, and what their text means. */
type JsonSchema = { readonly [keyword: string]: unknown }

function inputSchema(schema: StandardSchemaV1): JsonSchema {
  const { jsonSchema } = schema['~standard'] as { jsonSchema?: StandardJSONSchemaV1.Converter }
  try {
    // zod throws at what JSON Schema has no word for, such as a date, unless asked to leave it open.
    return jsonSchema?.input({ target: 'draft-2020-12', libraryOptions: { unrepresentable: 'any' } }) ?? {}
  } catch {
    return {} // the standard lets a schema refuse: then its fields are not known
  }
}

function alternatives(schema: JsonSchema): readonly JsonSchema[] {
  const members = [schema['anyOf'], schema['oneOf'], schema['allOf']].flat().filter(isTable)
  return [schema, ...members.flatMap(alternatives)]
}

function fieldsOf(schema: JsonSchema): ReadonlyMap<string, JsonSchema> {
  const properties = alternatives(schema).flatMap((one) =>
    isTable(one['properties']) ? Object.entries(one['properties']) : [],
  )
  return new Map(properties.map(([name, field]) => [name, isTable(field) ? field : {}]))
}

function typesOf(schema: JsonSchema): ReadonlySet<unknown> {
  const stated = (one: JsonSchema) => one['type'] ?? [one['enum'] ?? one['const']].flat().map((value) => typeof value)
  return new Set(alternatives(schema).flatMap(stated))
}

/** The fields that the places themselves hold, for a schema that does not list its own. */
function offered(found: readonly (Found | undefined)[]): JsonSchema {
  const tables = found.flatMap((one) => (one && isTable(one.value) ? [{ ...one, table: one.value }] : []))
  const names = new Set(
    tables.flatMap(({ table, text }) => Object.keys(table).flatMap((key) => (text ? spellings(key) : [key]))),
  )
  return {
    properties: Object.fromEntries([...names].map((name) => [name, offered(tables.map((one) => child(one, name)))])),
  }
}

function spellings(variable: string): readonly string[] {
  const snake = variable.toLowerCase()
  return [snake, snake.replace(/_+(.)/g, (_, letter: string) => letter.toUpperCase())]
}

function gather(
  schema: JsonSchema,
  path: readonly string[],
  given: unknown,
  found: readonly Found[],
  reveal: (value: unknown, path: readonly string[]) => unknown,
): unknown {
  const fields = fieldsOf(schema)
  if (given !== undefined && (fields.size === 0 || !isTable(given))) return reveal(given, path)
  const [first] = found
  if (given === undefined) {
    if (!first) return undefined
    const table = tableIn(first.value, first.text)
    const whole = fields.size === 0 || !table || (typesOf(schema).has('string') && typeof first.value === 'string')
    if (whole) {
      learn(first.value, path.at(-1)!, first.secret)
      return first.text ? typed(first.value, schema) : first.value
    }
  }
  const names = isTable(given) ? new Set([...fields.keys(), ...Object.keys(given)]) : fields.keys()
  const entries = [...names].map((name) => {
    const below = found.map((one) => child(one, name)).filter(isFound)
    return [
      name,
      gather(fields.get(name) ?? {}, [...path, name], isTable(given) ? given[name] : undefined, below, reveal),
    ] as const
  })
  const value = Object.fromEntries(entries.filter(([, value]) => value !== undefined))
  // A table of the code or of the root is wanted even when empty; one that nobody mentions is not.
  return given === undefined && Object.keys(value).length === 0 ? undefined : value
}

/** What a variable's text means to the schema; the text itself when it does not fit, or may be text. */
function typed(value: unknown, schema: JsonSchema): unknown {
  const types = typesOf(schema)
  if (typeof value !== 'string' || types.has('string')) return value
  const text = value.trim()
  if ((types.has('number') || types.has('integer')) && text !== '') {
    const number = Number(text)
    // Beyond 2^53 a number would be another one.
    if (Number.isFinite(number) && (!Number.isInteger(number) || Number.isSafeInteger(number))) return number
  }
  if (types.has('boolean')) {
    if (/^(true|1)$/i.test(text)) return true
    if (/^(false|0)$/i.test(text)) return false
  }
  const json = types.has('object') || types.has('array') ? asJson(text) : undefined
  return (types.has('array') && Array.isArray(json)) || (types.has('object') && isTable(json)) ? json : value
}

/** The config, such that `console.log(config)` and `JSON.stringify(config)` show no secret. */
function guarded(config: unknown): unknown {
  if (!isTable(config)) return config
  const safe = { value: () => redactFields({ ...config }), enumerable: false }
  return Object.defineProperties({ ...config }, { toJSON: safe, [inspect.custom]: safe })
}

// ---- redaction ---------------------------------------------------------------------------------------------

const mark = '[redacted]'
/** Every form of every secret seen in this process, and the one expression that finds them all. */
const forms = new Set<string>()
let anyForm: RegExp | undefined

// A token got at run time is in no config, so that its usual surroundings must tell it. A digit or a capital within keeps prose whole.
const authorization = /\b([Bb]earer|[Bb]asic|BEARER|BASIC)\s+(?=[\w.~+/-]*(?:\d|[a-z][A-Z]))[\w.~+/-]{12,}=*/g
const userinfo = /(\/\/[^\s/?#:@]*:)[^\s/?#@]+@/g

// `key` alone names columns here, as in `key: 'email'`.
const secretName =
  /token|secret|password|passwd|passphrase|pwd$|credential|authorization|webhook|connectionstring|^dsn$|^auth$|^pass$|cookie|signature|(?<!^|public|primary|foreign|match|sort|partition|cache)key$/
/** An address, a user name or a lifetime is none, even that of a token. */
const plainName = /(?<!webhook)(url|uri|endpoint)$|(id|name|type|lifetime|expiry|timeout|ttl)$/
const trivial =
  /^(true|false|null|undefined|none|test|root|admin|user|guest|password|secret|token|localhost|default|postgres|redacted|\d{1,5})$/i

function looksSecret(name: string): boolean {
  const plain = bare(name)
  return secretName.test(plain) && !plainName.test(plain)
}

/** Remembers the secrets in a value: all of it, or what its fields' names or a URL's password give away. */
function learn(value: unknown, name: string, all = false): void {
  if (Array.isArray(value)) {
    for (const item of value) learn(item, name, all)
  } else if (isTable(value)) {
    for (const [key, item] of Object.entries(value)) learn(item, key, all)
  } else if (typeof value === 'string') {
    if (all || looksSecret(name)) remember(value)
    for (const [, password] of value.matchAll(/\/\/[^\s/?#:@]*:([^\s/?#@]+)@/g)) {
      remember(password!)
      remember(decoded(password!))
    }
    // A service account's file, say, is JSON in one variable; what its fields hold shows up alone.
    const json = value.startsWith('{') ? asJson(value) : undefined
    if (isTable(json)) learn(json, name)
  } else if (typeof value === 'number' || typeof value === 'bigint') {
    if (all || looksSecret(name)) remember(String(value))
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text // a lone % is no escape
  }
}

function remember(value: string): void {
  const before = forms.size
  // `inspect` and stack traces break a PEM key at its lines. Its first and last line are no secret.
  const lines = value.includes('\n')
    ? value.split(/\r?\n/).filter((line) => line.length >= 16 && !line.startsWith('-----'))
    : []
  for (const text of [value, value.trim(), ...lines]) {
    if (text.length < 4 || trivial.test(text)) continue
    for (const form of [text, JSON.stringify(text).slice(1, -1), ...encoded(text)]) forms.add(form)
  }
  if (forms.size === before) return
  // The longest first: a secret may begin with another one.
  const longest = [...forms].sort((a, b) => b.length - a.length)
  anyForm = new RegExp(longest.map((form) => form.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'), 'g')
}

function encoded(text: string): readonly string[] {
  const bytes = Buffer.from(text)
  // Within a longer text (`user:password`) base64 depends on the offset modulo 3, and only the inner characters on the secret alone.
  const inner = [0, 1, 2].map((pad) => {
    const bits = (pad + bytes.length) * 8
    return Buffer.concat([Buffer.alloc(pad), bytes])
      .toString('base64')
      .slice(Math.ceil((pad * 8) / 6), Math.floor(bits / 6))
  })
  const base64 = [bytes.toString('base64'), ...inner.filter((form) => form.length >= 8)]
  const url = base64.map((form) => form.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, ''))
  // Through bytes, because half a surrogate pair cannot be percent-encoded.
  return [encodeURIComponent(bytes.toString()), new URLSearchParams({ _: text }).toString().slice(2), ...base64, ...url]
}

/**
 * The text with `[redacted]` for every secret that this process has resolved, also as it looks in JSON, in a URL and in base64,
 * and for what stands behind `Bearer`, `Basic` or between `//user:` and `@`.
 *
 * Values of fewer than four characters, numbers below 100,000 and words such as `test` are left: they would deface every line.
 */
export function redact(text: string): string {
  const known = anyForm ? text.replace(anyForm, mark) : text
  return known.replace(authorization, `$1 ${mark}`).replace(userinfo, `$1${mark}@`)
}

/**
 * The error as it may be logged, stored and thrown on. One of Spillway's own stays the object it is; of any other, a copy with name,
 * message, stack, code, status and cause: an SDK's error carries requests, with tokens and rows.
 */
export function redactError(error: unknown): Error {
  return safeError(error, new Set())
}

function safeError(error: unknown, seen: Set<unknown>): Error {
  if (!(error instanceof Error))
    return new Error(redact(typeof error === 'string' ? error : inspect(redactFields(error))))
  seen.add(error)
  const safe = error instanceof SpillwayError ? error : new Error()
  const define = (key: string, value: unknown) =>
    Object.defineProperty(safe, key, { value, enumerable: false, writable: true, configurable: true })
  if (safe !== error) define('name', error.name)
  define('message', redact(error.message))
  define('stack', redact(error.stack ?? ''))
  for (const key of ['code', 'status', 'statusCode'] as const) {
    const value: unknown = Reflect.get(error, key)
    if (typeof value === 'number' || typeof value === 'string') Object.assign(safe, { [key]: redactFields(value) })
  }
  if (error.cause !== undefined && !seen.has(error.cause)) define('cause', safeError(error.cause, seen))
  if (error instanceof AggregateError) {
    define(
      'errors',
      error.errors.filter((one) => !seen.has(one)).map((one) => safeError(one, seen)),
    )
  }
  return safe
}

/**
 * A copy to log or to store: texts as {@link redact} gives them, `[redacted]` for fields with names such as `token`, errors as
 * {@link redactError} gives them. Plain objects, arrays, maps and sets are walked; any other object becomes its redacted text.
 */
export function redactFields(value: unknown): unknown {
  return safeValue(value, [])
}

function safeValue(value: unknown, above: readonly unknown[]): unknown {
  if (typeof value === 'string') return redact(value)
  if (typeof value !== 'object' || value === null) return value
  if (above.includes(value)) return '[circular]'
  const path = [...above, value]
  const item = (one: unknown) => safeValue(one, path)
  const field = (one: unknown, key: unknown): unknown => {
    if (typeof key !== 'string' || !looksSecret(key)) return item(one)
    if (Array.isArray(one)) return one.map((each) => field(each, key))
    return typeof one === 'string' || typeof one === 'number' ? mark : item(one)
  }
  if (Array.isArray(value)) return value.map(item)
  if (isTable(value)) return mapTable(value, field)
  if (value instanceof Map) return new Map([...value].map(([key, one]) => [item(key), field(one, key)]))
  if (value instanceof Set) return new Set([...value].map(item))
  if (value instanceof Error) return redactError(value)
  if (value instanceof Date || value instanceof Uint8Array || value instanceof Secret) return value
  return redact(value instanceof URL ? value.href : inspect(value))
}

/** The log, such that no secret reaches it. */
export function redactLog(log: Log): Log {
  const line = (level: keyof Log) => (message: string, fields?: object) => {
    if (fields) log[level](redact(message), redactFields(fields) as object)
    else log[level](redact(message))
  }
  return { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') }
}
