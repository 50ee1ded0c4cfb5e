import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { format, inspect } from 'node:util'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, expectTypeOf, test } from 'vitest'
import { z } from 'zod'
import {
  type Injected,
  redact,
  redactError,
  redactFields,
  redactLog,
  resolveConfig,
  resolveSecret,
  type Secret,
  secret,
} from '../src/config.js'
import { ConfigError, FatalError } from '../src/errors.js'

let folder: string
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), 'spillway-config-')), '.spillway')
  await mkdir(folder)
})
afterEach(() => rm(join(folder, '..'), { recursive: true }))

const secrets = (toml: string) => writeFile(join(folder, 'secrets.toml'), toml)
const config = (toml: string) => writeFile(join(folder, 'config.toml'), toml)

/** A value that no other test has seen, so that nothing is redacted by accident. */
let count = 0
const fresh = () => `s3cr3t/${++count}+${Math.random().toString(36).slice(2)}`

type Given = Readonly<Record<string, unknown>>
const resolve = (schema: StandardSchemaV1, env: NodeJS.ProcessEnv = {}, given: Given = {}, name = 'crm') =>
  resolveConfig({ name, schema, given, folder, env })

const failure = async (promise: Promise<unknown>): Promise<Error> => {
  const error = await promise.then(
    () => undefined,
    (reason: Error) => reason,
  )
  expect(error).toBeInstanceOf(ConfigError)
  return error as Error
}

/** A schema that says nothing about its fields and takes everything. */
const anything: StandardSchemaV1 = {
  '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value }) },
}

describe('a secret', () => {
  test('shows its name however it is printed', () => {
    const token = secret('CRM_TOKEN')
    const shown = [
      String(token),
      `${token}`,
      JSON.stringify({ token }),
      inspect({ token }),
      format('%s %o', token, token),
    ]
    for (const text of shown) expect(text).toContain('[secret CRM_TOKEN]')
    expect(Object.keys(token)).toEqual([])
  })

  test('is read from the environment, then from the top of secrets.toml', async () => {
    await secrets(`CRM_TOKEN = 'v-from-file'\n[crm]\nOTHER = 'x'`)
    const where = 'postgres: url'
    expect(resolveSecret(secret('CRM_TOKEN'), where, { folder, env: { CRM_TOKEN: 'v-from-env' } })).toBe('v-from-env')
    expect(resolveSecret(secret('CRM_TOKEN'), where, { folder, env: {} })).toBe('v-from-file')
    expect(() => resolveSecret(secret('OTHER'), where, { folder, env: {} })).toThrow(ConfigError)
  })

  test('that is missing or empty is an error naming the option and every place looked at', () => {
    for (const env of [{}, { DATABASE_URL: '' }]) {
      expect(() => resolveSecret(secret('DATABASE_URL'), 'postgres: url', { folder, env })).toThrow(
        `postgres: url: secret DATABASE_URL is missing: set the environment variable DATABASE_URL, or DATABASE_URL at the top of ${folder}/secrets.toml`,
      )
    }
  })

  test('made from its value instead of its name is refused without repeating it', () => {
    expect(() => secret('sk-live-51Hx')).toThrow(/takes the name of an environment variable/)
    expect(() => secret('sk-live-51Hx')).not.toThrow(/51Hx/)
    expect(() => secret(undefined as unknown as string)).toThrow(ConfigError)
  })

  test('goes wherever a config field goes, at any depth, in the types too', () => {
    type Config = { url: string; login: { user: string; pass: string }; retries: number }
    expectTypeOf<{ login: { user: string; pass: Secret } }>().toExtend<Injected<Config>>()
    expectTypeOf<{ login: Secret }>().toExtend<Injected<Config>>()
    expectTypeOf<{ url: number }>().not.toExtend<Injected<Config>>()
    // What looks like a secret is none.
    expectTypeOf<{ url: { name: string } }>().not.toExtend<Injected<Config>>()
  })
})

describe('a field is taken from', () => {
  const schema = z.object({ channel: z.string().default('default') })

  test('the code, else the environment, else secrets.toml, else config.toml, else the default', async () => {
    const value = async (env: NodeJS.ProcessEnv, given: Given) =>
      (await resolve(schema, env, given)) as { channel: string }
    expect(await value({}, {})).toEqual({ channel: 'default' })
    await config(`[destination.crm]\nchannel = 'v-config'`)
    expect(await value({}, {})).toEqual({ channel: 'v-config' })
    await secrets(`[destination.crm]\nchannel = 'v-secrets'`)
    expect(await value({}, {})).toEqual({ channel: 'v-secrets' })
    expect(await value({ DESTINATION__CRM__CHANNEL: 'v-environment' }, {})).toEqual({ channel: 'v-environment' })
    expect(await value({ DESTINATION__CRM__CHANNEL: 'v-environment' }, { channel: 'v-code' })).toEqual({
      channel: 'v-code',
    })
  })

  test('the most specific section that has it, in the environment and in the files', async () => {
    const env = { DESTINATION__CHANNEL: 'kind', CRM__CHANNEL: 'name', DESTINATION__CRM__CHANNEL: 'both' }
    expect(await resolve(schema, env)).toEqual({ channel: 'both' })
    expect(await resolve(schema, { ...env, DESTINATION__CRM__CHANNEL: undefined })).toEqual({ channel: 'name' })
    expect(await resolve(schema, { DESTINATION__CHANNEL: 'kind' })).toEqual({ channel: 'kind' })

    await config(`[destination]\nchannel = 'kind'`)
    expect(await resolve(schema)).toEqual({ channel: 'kind' })
    await config(`[destination]\nchannel = 'kind'\n[crm]\nchannel = 'name'`)
    expect(await resolve(schema)).toEqual({ channel: 'name' })
    await config(`[destination]\nchannel = 'kind'\ncrm.channel = 'both'\n[crm]\nchannel = 'name'`)
    expect(await resolve(schema)).toEqual({ channel: 'both' })
  })

  test('the environment before a more specific section of a file', async () => {
    await secrets(`[destination.crm]\nchannel = 'v-file'`)
    expect(await resolve(schema, { DESTINATION__CHANNEL: 'v-environment' })).toEqual({ channel: 'v-environment' })
  })

  test('no bare name, and no other destination', async () => {
    await config(`channel = 'bare'\n[destination.slack]\nchannel = 'other'`)
    expect(
      await resolve(schema, { CHANNEL: 'bare', CRM_CHANNEL: 'flat', DESTINATION__SLACK__CHANNEL: 'other' }),
    ).toEqual({
      channel: 'default',
    })
  })

  test('no empty variable', async () => {
    await config(`[crm]\nchannel = 'v-file'`)
    expect(await resolve(schema, { DESTINATION__CRM__CHANNEL: '' })).toEqual({ channel: 'v-file' })
  })

  test('the run, not the declaration: the environment may change in between', async () => {
    const env = { CRM__CHANNEL: 'first' }
    expect(await resolve(schema, env)).toEqual({ channel: 'first' })
    env.CRM__CHANNEL = 'second'
    expect(await resolve(schema, env)).toEqual({ channel: 'second' })
  })

  test('a name in any case, with or without _ and -', async () => {
    const schema = z.object({ apiKey: z.string(), client_email: z.string() })
    const wanted = { apiKey: 'k', client_email: 'e' }
    const name = 'google-sheets'
    expect(
      await resolve(schema, { DESTINATION__GOOGLE_SHEETS__API_KEY: 'k', googlesheets__clientEmail: 'e' }, {}, name),
    ).toEqual(wanted)
    await config(`[destination.googleSheets]\napi-key = 'k'\nCLIENT_EMAIL = 'e'`)
    expect(await resolve(schema, {}, {}, name)).toEqual(wanted)
  })

  test('one spelling only: two in one place are an error naming both', async () => {
    const error = await failure(resolve(z.object({ apiKey: z.string() }), { CRM__API_KEY: 'one', CRM__APIKEY: 'two' }))
    expect(error.message).toBe('the environment spells one setting in several ways: keep one of API_KEY, APIKEY')
  })

  test('the variable that the error names, whatever the field is called', async () => {
    const name = fc.stringMatching(/^[a-z][a-zA-Z0-9]{0,8}([_-][a-zA-Z0-9]{1,8}){0,2}$/)
    await fc.assert(
      fc.asyncProperty(name, name, async (destination, field) => {
        const schema = z.object({ [field]: z.string() })
        const { message } = await failure(resolve(schema, {}, {}, destination))
        const named = /\(for .*?: (.*?)\)/.exec(message)![1]!.split(', ')
        expect(named).toHaveLength(3)
        for (const variable of named) {
          expect(variable).toMatch(/^[A-Z0-9_]+$/)
          expect(await resolve(schema, { [variable]: 'found' }, {}, destination)).toEqual({ [field]: 'found' })
        }
      }),
      { numRuns: 50 },
    )
  })
})

describe('fields within fields', () => {
  const schema = z.object({ login: z.object({ user: z.string(), pass: z.string(), port: z.number().optional() }) })

  test('come leaf by leaf, each from the first place that has it', async () => {
    await config(`[destination.crm.login]\nuser = 'from config'\npass = 'not this'\nport = 1`)
    await secrets(`[destination.crm.login]\npass = 'v-from-secrets'\nport = 2`)
    expect(await resolve(schema, { CRM__LOGIN__PORT: '3' })).toEqual({
      login: { user: 'from config', pass: 'v-from-secrets', port: 3 },
    })
    expect(await resolve(schema, {}, { login: { user: 'from code' } })).toEqual({
      login: { user: 'from code', pass: 'v-from-secrets', port: 2 },
    })
  })

  test('come as JSON in one variable, which single variables override', async () => {
    const env = { DESTINATION__CRM__LOGIN: '{"user":"u","pass":"p"}' }
    expect(await resolve(schema, env)).toEqual({ login: { user: 'u', pass: 'p' } })
    expect(await resolve(schema, { ...env, DESTINATION__CRM__LOGIN__PASS: 'q' })).toEqual({
      login: { user: 'u', pass: 'q' },
    })
  })

  test('hold secrets at any depth', async () => {
    const deep = z.object({ login: z.object({ pass: z.string() }), list: z.array(z.object({ key: z.string() })) })
    const value = fresh()
    const given = { login: { pass: secret('DEEP') }, list: [{ key: secret('DEEP') }] }
    expect(await resolve(deep, { DEEP: value }, given)).toEqual({ login: { pass: value }, list: [{ key: value }] })
    const whole = z.object({ login: z.string() })
    expect(await resolve(whole, { DEEP: value }, { login: secret('DEEP') })).toEqual({ login: value })
  })

  test('are left out when nobody mentions them', async () => {
    const optional = z.object({ login: z.object({ user: z.string() }).optional() })
    expect(await resolve(optional)).toEqual({})
  })

  test('are found in every alternative of a union', async () => {
    const union = z.discriminatedUnion('by', [
      z.object({ by: z.literal('token'), token: z.string() }),
      z.object({ by: z.literal('file'), path: z.string() }),
    ])
    expect(await resolve(union, { CRM__BY: 'file', CRM__PATH: '/x', CRM__TOKEN: 't' })).toEqual({
      by: 'file',
      path: '/x',
    })
    const either = z.object({ credentials: z.union([z.string(), z.object({ key: z.string() })]) })
    expect(await resolve(either, { CRM__CREDENTIALS: '{"key":"k"}' })).toEqual({ credentials: '{"key":"k"}' })
    expect(await resolve(either, { CRM__CREDENTIALS__KEY: 'k' })).toEqual({ credentials: { key: 'k' } })
  })

  test('of a record are passed as they are spelled', async () => {
    const headers = z.object({ headers: z.record(z.string(), z.string()) })
    await config(`[crm.headers]\nX-Team = 'ops'`)
    expect(await resolve(headers)).toEqual({ headers: { 'X-Team': 'ops' } })
    expect(await resolve(headers, { CRM__HEADERS: '{"X-Team":"it"}' })).toEqual({ headers: { 'X-Team': 'it' } })
  })
})

describe('text from the environment', () => {
  const one = (schema: z.ZodType, text: string) => resolve(z.object({ value: schema }), { CRM__VALUE: text })

  test.each([
    ['a number', z.number(), '1.5', 1.5],
    ['a whole number', z.int(), ' 7 ', 7],
    ['a number that may be absent', z.number().optional(), '-3', -3],
    ['true', z.boolean(), 'TRUE', true],
    ['false', z.boolean().default(true), '0', false],
    ['a list', z.array(z.string()), '["a","b"]', ['a', 'b']],
    ['one of some numbers', z.literal([1, 2]), '2', 2],
    ['text that looks like a number', z.string(), '007', '007'],
    ['text or a number', z.union([z.string(), z.number()]), '7', '7'],
    ['what the schema reads itself', z.coerce.bigint(), '9007199254740993', 9007199254740993n],
    ['a date that the schema reads itself', z.coerce.date(), '2026-01-01', new Date('2026-01-01')],
  ])('is read as %s', async (_, schema, text, value) => {
    expect(await one(schema, text)).toEqual({ value })
  })

  test.each([
    ['a number', z.number(), 'many', /value: .*expected number/],
    ['a number beyond 2^53', z.number(), '9007199254740993', /value: .*expected number/],
    ['a boolean', z.boolean(), 'yes', /value: .*expected boolean/],
    ['a list', z.array(z.string()), '{"a":1}', /value: .*expected array/],
    ['a list that is not JSON', z.array(z.string()), 'a,b', /value: .*expected array/],
  ])('that is not %s is left for the schema to refuse', async (_, schema, text, message) => {
    expect((await failure(one(schema, text))).message).toMatch(message)
  })
})

describe('a schema that does not list its fields', () => {
  test('is offered all that the sections of its name hold, variables in both spellings', async () => {
    await config(`[destination.crm]\nbaseUrl = 'https://crm.test'\n[destination.slack]\nchannel = '#x'`)
    const env = { DESTINATION__CRM__API_KEY: 'k', CRM__LOGIN__USER: 'u', DESTINATION__SLACK__TOKEN: 't', OTHER: 'x' }
    expect(await resolve(anything, env, { given: 1 })).toEqual({
      apiKey: 'k',
      api_key: 'k',
      login: { user: 'u' },
      baseUrl: 'https://crm.test',
      given: 1,
    })
  })

  test('is one that throws when asked, as the standard allows', async () => {
    const silent = z.object({ token: z.string() })
    const throwing = {
      '~standard': {
        ...silent['~standard'],
        jsonSchema: {
          input() {
            throw new Error('not supported')
          },
        },
      },
    } as StandardSchemaV1
    expect(await resolve(throwing, { CRM__TOKEN: 't' })).toEqual({ token: 't' })
  })
})

describe('what is missing or wrong', () => {
  test('is one error naming every field and every place looked at, before any value is used', async () => {
    const schema = z.object({
      url: z.string(),
      token: z.string(),
      login: z.object({ pass: z.string() }),
      retries: z.number(),
    })
    const value = fresh()
    const env = { CRM__RETRIES: value }
    const error = await failure(resolve(schema, env, { url: secret('CRM_URL'), login: {} }))
    expect(error.message).toBe(`crm: its config cannot be used:
  url: secret CRM_URL is missing: set the environment variable CRM_URL, or CRM_URL at the top of ${folder}/secrets.toml
  token: missing
  login.pass: missing
  retries: Invalid input: expected number, received string
Looked at: what the code passes; the environment (for url: DESTINATION__CRM__URL, CRM__URL, DESTINATION__URL); ${folder}/secrets.toml and ${folder}/config.toml (under [destination.crm], [crm], [destination]); the schema's default`)
    expect(inspect(error, { depth: null, showHidden: true })).not.toContain(value)
  })

  test('is an error for a secret that is missing even where the schema could do without', async () => {
    const optional = z.object({ token: z.string().optional() })
    expect((await failure(resolve(optional, {}, { token: secret('GONE') }))).message).toContain(
      'secret GONE is missing',
    )
  })

  test('never quotes a value, even where the schema does', async () => {
    const telling: StandardSchemaV1 = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) => ({
          issues: [
            { message: `must be a URL (was "${(value as { url: string }).url}")`, path: ['url'] },
            { message: `bad token ${(value as { token: string }).token}`, path: [{ key: 'token' }] },
            { message: `no luck with ${(value as { token: string }).token}` },
          ],
        }),
      },
    }
    const value = fresh()
    const { message } = await failure(resolve(telling, { CRM__URL: 'nonsense', CRM__TOKEN: value }))
    expect(message).toContain('url: must be a URL (was "…")')
    expect(message).toContain('token: bad token …')
    expect(message).toContain('as a whole: no luck with [redacted]')
    expect(message).not.toContain(value)
    expect(message).not.toContain('nonsense')
  })

  test('may be found by a schema that takes its time', async () => {
    const slow = z.object({ url: z.string().refine(async (url) => url.startsWith('https:'), 'must be https') })
    expect((await failure(resolve(slow, {}, { url: 'http://x' }))).message).toContain('url: must be https')
    expect(await resolve(slow, {}, { url: 'https://x' })).toEqual({ url: 'https://x' })
  })

  test('may be the file: the error names it and the line, and quotes nothing', async () => {
    await secrets(`[crm]\nurl = 'x'\ntoken = sk-live-51Hx\n`)
    const error = await failure(resolve(anything))
    expect(error.message).toBe(`${folder}/secrets.toml, line 3, column 9 is not TOML: invalid value`)
    expect(inspect(error)).not.toContain('51Hx')
  })

  test('may be a file that cannot be read', async () => {
    await mkdir(join(folder, 'config.toml'))
    expect((await failure(resolve(anything))).message).toMatch(/config\.toml cannot be read: EISDIR/)
  })
})

describe('redaction covers', () => {
  test('secrets, all of secrets.toml, and fields that are named like one', async () => {
    const [a, b, c, d] = [fresh(), fresh(), fresh(), fresh()]
    await secrets(`[crm]\nregion = '${a}'`)
    const schema = z.object({
      region: z.string(),
      plain: z.string(),
      apiKey: z.string(),
      url: z.string(),
      tokenUrl: z.string(),
    })
    await resolve(
      schema,
      { CRM__API_KEY: c, MINE: b },
      {
        plain: secret('MINE'),
        url: `https://user:${encodeURIComponent(d)}@crm.test/x`,
        tokenUrl: 'https://crm.test/token',
      },
    )
    for (const value of [a, b, c, d, encodeURIComponent(d)]) expect(redact(`<${value}>`)).toBe('<[redacted]>')
    expect(redact('https://crm.test/token')).toBe('https://crm.test/token')
  })

  test('what a schema makes of a secret', async () => {
    const value = fresh()
    const schema = z.object({ token: z.string().transform((token) => token.toUpperCase()) })
    await resolve(schema, { CRM__TOKEN: value })
    expect(redact(value.toUpperCase())).toBe('[redacted]')
  })

  test('the resolved config, when it is printed or turned into JSON', async () => {
    const value = fresh()
    const schema = z.object({ token: z.string(), login: z.object({ pass: z.string() }), channel: z.string() })
    const resolved = await resolve(schema, { T: value }, { token: secret('T'), login: { pass: 'abc' }, channel: '#x' })
    expect(resolved).toEqual({ token: value, login: { pass: 'abc' }, channel: '#x' })
    expect(JSON.parse(JSON.stringify({ config: resolved }))).toEqual({
      config: { token: '[redacted]', login: { pass: '[redacted]' }, channel: '#x' },
    })
    for (const text of [
      inspect(resolved),
      inspect({ context: { config: resolved } }, { depth: null }),
      format('%o', resolved),
    ]) {
      expect(text).not.toContain(value)
      expect(text).not.toContain('abc')
    }
  })

  test('every secret in every form, in the middle of any text', () => {
    const forms: Record<string, (text: string) => string> = {
      plain: (text) => text,
      json: (text) => JSON.stringify({ text }),
      url: (text) => encodeURIComponent(text),
      form: (text) => new URLSearchParams({ q: text }).toString(),
      base64: (text) => Buffer.from(text).toString('base64'),
      base64url: (text) => Buffer.from(text).toString('base64url'),
    }
    const value = fc.string({ minLength: 12, maxLength: 40, unit: 'grapheme' }).filter((text) => text.trim() === text)
    fc.assert(
      fc.property(value, fc.string(), fc.string(), (text, before, after) => {
        resolveSecret(secret('ANY'), 'test: any', { folder, env: { ANY: text } })
        for (const [name, form] of Object.entries(forms)) {
          const redacted = redact(`${before} ${form(text)} ${after}`)
          expect(redacted, name).toContain('[redacted]')
          expect(redacted, name).not.toContain(form(text))
          expect(redact(redacted), name).toBe(redacted)
        }
      }),
      { numRuns: 100 },
    )
  })

  test('base64 of user and password, at any offset', () => {
    const value = fresh()
    resolveSecret(secret('PASS'), 'test: pass', { folder, env: { PASS: value } })
    for (const user of ['', 'a', 'ab', 'abc']) {
      for (const tail of ['', '!', '!!', '!!!']) {
        const text = redact(Buffer.from(`${user}:${value}${tail}`).toString('base64'))
        expect(text).toContain('[redacted]')
        expect(Buffer.from(text.replace('[redacted]', ''), 'base64').toString()).not.toContain(value.slice(2, -2))
      }
    }
  })

  test('a key of several lines, also when it is printed line by line', () => {
    const body = Array.from({ length: 4 }, () => Buffer.from(fresh().repeat(3)).toString('base64'))
    const pem = `-----BEGIN PRIVATE KEY-----\n${body.join('\n')}\n-----END PRIVATE KEY-----\n`
    resolveSecret(secret('PEM'), 'test: pem', { folder, env: { PEM: pem } })
    const shown = [pem, pem.trim(), JSON.stringify({ pem }), inspect({ error: { pem } }), body[2]!]
    for (const text of shown) for (const line of body) expect(redact(text)).not.toContain(line)
    expect(redact('expected -----BEGIN PRIVATE KEY-----')).toBe('expected -----BEGIN PRIVATE KEY-----')
  })

  test('the fields of a service account that comes as one variable of JSON', () => {
    const key = fresh()
    const json = JSON.stringify({
      type: 'service_account',
      client_email: 'robot@x.test',
      private_key: key,
      token_uri: 'https://t.test',
    })
    resolveSecret(secret('ACCOUNT'), 'sheets: credentials', { folder, env: { ACCOUNT: json } })
    expect(redact(key)).toBe('[redacted]')
    expect(redact('robot@x.test at https://t.test')).toBe('robot@x.test at https://t.test')
  })

  test('a literal URL with a password, which is no Secret', () => {
    const value = fresh().replaceAll('/', '-')
    resolveSecret(`postgres://app:${value}@db.test/x`, 'postgres: url')
    expect(redact(`password ${value} refused by db.test`)).toBe('password [redacted] refused by db.test')
  })

  test('tokens and passwords that no config knows, by what stands around them', () => {
    expect(redact('authorization: Bearer ya29.a0AfB_byC-1234')).toBe('authorization: Bearer [redacted]')
    expect(redact('Authorization: Basic dXNlcjpwYXNzMTIz')).toBe('Authorization: Basic [redacted]')
    expect(redact('GET https://me:hunter2@x.test/a?b=c@d')).toBe('GET https://me:[redacted]@x.test/a?b=c@d')
    const prose = 'Bearer authentication needed; see https://x.test:8080/a@b'
    expect(redact(prose)).toBe(prose)
  })

  test('nothing that is too short or too common to be told from ordinary text', () => {
    for (const value of ['abc', '1', '5432', 'true', 'test', 'Postgres']) {
      resolveSecret(secret('SHORT'), 'test: short', { folder, env: { SHORT: value } })
      expect(redact(`a ${value} b`)).toBe(`a ${value} b`)
    }
  })

  test('the longer of two secrets of which one begins with the other', () => {
    const value = fresh()
    for (const env of [{ S: value }, { S: `${value}-longer` }]) resolveSecret(secret('S'), 'test: s', { folder, env })
    expect(redact(`${value}-longer`)).toBe('[redacted]')
  })
})

describe('redactFields', () => {
  test('walks objects, arrays, maps and sets, and leaves the original alone', () => {
    const value = fresh()
    resolveSecret(secret('F'), 'test: f', { folder, env: { F: value } })
    const at = new Date()
    const original = {
      text: `x ${value}`,
      list: [value, { deep: value }],
      map: new Map([['k', value]]),
      set: new Set([value]),
      url: new URL(`https://x.test/?q=${encodeURIComponent(value)}`),
      at,
      bytes: new Uint8Array([1]),
      number: 1n,
      nothing: null,
    }
    expect(redactFields(original)).toEqual({
      text: 'x [redacted]',
      list: ['[redacted]', { deep: '[redacted]' }],
      map: new Map([['k', '[redacted]']]),
      set: new Set(['[redacted]']),
      url: 'https://x.test/?q=[redacted]',
      at,
      bytes: new Uint8Array([1]),
      number: 1n,
      nothing: null,
    })
    expect(original.list[0]).toBe(value)
  })

  test('hides fields by name, whatever their value', () => {
    const hidden = { token: 'x', API_KEY: 'y', 'client-secret': 'z', password: 1234, authorization: 'q', tokens: ['r'] }
    const shown = { key: 'email', primaryKey: 'id', tokenUrl: 'u', user: 'me', retries: 3 }
    expect(redactFields({ ...hidden, ...shown })).toEqual({
      ...Object.fromEntries(
        Object.keys(hidden).map((name) => [name, name === 'tokens' ? ['[redacted]'] : '[redacted]']),
      ),
      ...shown,
    })
  })

  test('ends at circles, and turns what it does not know into text', () => {
    const value = fresh()
    resolveSecret(secret('C'), 'test: c', { folder, env: { C: value } })
    class Client {
      readonly inner = value
    }
    const circle: Record<string, unknown> = { client: new Client() }
    circle['self'] = circle
    circle['twice'] = [circle['client'], circle['client']]
    const text = `Client { inner: '[redacted]' }`
    expect(redactFields(circle)).toEqual({ client: text, self: '[circular]', twice: [text, text] })
  })
})

describe('redactError', () => {
  const value = fresh()
  const known = () => resolveSecret(secret('E'), 'test: e', { folder, env: { E: value } })

  test('copies of a foreign error only what is safe', () => {
    known()
    class SdkError extends Error {
      override readonly name = 'SdkError'
      readonly status = 401
      readonly code = `E${value}`
      readonly config = { headers: { authorization: `Bearer ${value}` }, data: 'a customer' }
    }
    const original = new SdkError(`refused ${value}`, { cause: new AggregateError([new Error(value)], value) })
    const safe = redactError(original)
    expect(safe).toMatchObject({ name: 'SdkError', message: 'refused [redacted]', status: 401, code: 'E[redacted]' })
    expect(safe.cause).toMatchObject({ message: '[redacted]', errors: [{ message: '[redacted]' }] })
    const shown = inspect(safe, { depth: null, showHidden: true })
    expect(shown).not.toContain(value)
    expect(shown).not.toContain('a customer')
    expect(original.message).toContain(value)
  })

  test("keeps Spillway's own as they are, apart from the secret", () => {
    known()
    const original = new FatalError(`crm: ${value} was revoked`, { cause: new Error(value) })
    const safe = redactError(original)
    expect(safe).toBe(original)
    expect(safe).toBeInstanceOf(FatalError)
    expect(safe.message).toBe('crm: [redacted] was revoked')
    expect(inspect(safe, { depth: null })).not.toContain(value)
  })

  test('takes what is no error, and causes that lead back', () => {
    known()
    expect(redactError(`thrown ${value}`).message).toBe('thrown [redacted]')
    expect(redactError({ token: 'x' }).message).toBe(`{ token: '[redacted]' }`)
    const circle = new Error('a')
    circle.cause = new Error('b', { cause: circle })
    expect(redactError(circle).cause).toMatchObject({ message: 'b' })
  })
})

test('no secret reaches the log', () => {
  const value = fresh()
  resolveSecret(secret('L'), 'test: l', { folder, env: { L: value } })
  const lines: unknown[][] = []
  const line =
    (level: string) =>
    (...rest: unknown[]) =>
      void lines.push([level, ...rest])
  const log = redactLog({ debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') })
  log.debug(value)
  log.info('a', { text: value })
  log.warn('b', { error: new Error(value) })
  log.error(value, { token: 'x' })
  expect(lines.slice(0, 2)).toEqual([
    ['debug', '[redacted]'],
    ['info', 'a', { text: '[redacted]' }],
  ])
  expect(lines[3]).toEqual(['error', '[redacted]', { token: '[redacted]' }])
  expect(inspect(lines, { depth: null })).not.toContain(value)
})
