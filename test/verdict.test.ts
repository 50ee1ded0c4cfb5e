import { describe, expect, it } from 'vitest'
import { HttpError, NetworkError } from '../src/http.js'
import {
  ConfigError,
  FatalError,
  RejectedError,
  RetryableError,
  receipt,
  reject,
  retry,
  unknown,
} from '../src/index.js'
import { judge, placesIn, readAnswer } from '../src/verdict.js'

const call = { actor: 'crm', atomic: true, writes: 1 }
const http = (status: number, retryAfter?: number) =>
  new HttpError(`crm: ${status}`, { status, method: 'POST', url: 'http://crm.test/', retryAfter })

describe('what an error proves', () => {
  it.each([
    [429, 'again'],
    [425, 'again'],
    [400, 'refused'],
    [403, 'refused'],
    [404, 'refused'],
    [422, 'refused'],
    [401, 'fatal'],
    [407, 'fatal'],
    [408, 'unknown'],
    [409, 'unknown'],
    [500, 'unknown'],
    [502, 'unknown'],
    [503, 'unknown'],
    [302, 'unknown'],
  ])('HTTP %i is %s, whichever client says it', (status, kind) => {
    expect(judge(http(status), call, 0).kind).toBe(kind)
    expect(judge(Object.assign(new Error('x'), { status }), call, 0).kind).toBe(kind)
    expect(judge(Object.assign(new Error('x'), { statusCode: status }), call, 0).kind).toBe(kind)
    expect(judge(Object.assign(new Error('x'), { response: { status } }), call, 0).kind).toBe(kind)
  })

  it('of a call that made two writes, or is not atomic, is nothing', () => {
    for (const status of [400, 401, 429]) {
      expect(judge(http(status), { ...call, writes: 2 }, 0).kind).toBe('unknown')
      expect(judge(http(status), { ...call, atomic: false }, 0).kind).toBe('unknown')
    }
    expect(judge(new RejectedError('no'), { ...call, atomic: false }, 0).kind).toBe('unknown')
    expect(judge(new FatalError('no'), { ...call, atomic: false }, 0)).toMatchObject({ kind: 'unknown', bug: true })
    expect(judge(new RetryableError('later'), { ...call, atomic: false }, 0).kind).toBe('unknown')
  })

  it('is the author’s word, where there is one', () => {
    expect(judge(new RetryableError('busy', { after: '30s' }), call, 0)).toMatchObject({ kind: 'again', after: 30_000 })
    expect(judge(new RejectedError('no such field'), call, 0)).toMatchObject({
      kind: 'refused',
      reason: 'no such field',
    })
    expect(judge(new FatalError('revoked'), call, 0).kind).toBe('fatal')
  })

  it('is that no batch can succeed when something is not installed or set up, and nothing was sent', () => {
    const missing = new ConfigError('sheets: npm install it')
    expect(judge(missing, { ...call, writes: 0 }, 0)).toEqual({ kind: 'fatal', error: missing })
    expect(judge(missing, { ...call, writes: 1 }, 0)).toMatchObject({ kind: 'unknown', bug: true })
    expect(judge(missing, { ...call, writes: 0, atomic: false }, 0)).toMatchObject({ kind: 'unknown', bug: true })
  })

  it('is that nothing was applied when no connection came about, and nothing when it was cut', () => {
    expect(judge(new NetworkError('refused', { code: 'ECONNREFUSED', connected: false }), call, 0).kind).toBe('again')
    const own = (cause: object) => new TypeError('fetch failed', { cause: Object.assign(new Error('x'), cause) })
    expect(judge(own({ code: 'ECONNREFUSED', syscall: 'connect' }), call, 0).kind).toBe('again')
    expect(judge(own({ code: 'UND_ERR_SOCKET' }), call, 0).kind).toBe('unknown')
    expect(judge(new NetworkError('reset', { code: 'ECONNRESET', connected: true }), call, 0).kind).toBe('unknown')
  })

  it('is nothing for any other throw; a mistake in the program is called one', () => {
    expect(judge(new Error('?'), call, 0)).toMatchObject({ kind: 'unknown', bug: false })
    expect(judge('text', call, 0)).toMatchObject({ kind: 'unknown', bug: false })
    expect(judge(new TypeError('x is not a function'), call, 0)).toMatchObject({ kind: 'unknown', bug: true })
    expect(judge(new TypeError('fetch failed', { cause: new Error('ECONNRESET') }), call, 0)).toMatchObject({
      bug: false,
    })
    expect(judge(http(302), call, 0)).toMatchObject({ kind: 'unknown', bug: true })
    expect(judge(http(200), call, 0), 'a 2xx that is not JSON').toMatchObject({ kind: 'unknown', bug: true })
  })

  it('tells how long to wait, and whether the destination asked for less', () => {
    expect(judge(http(429, 30_000), call, 0)).toMatchObject({ after: 30_000, pushedBack: true })
    expect(judge(http(503, 5_000), call, 0)).toMatchObject({ kind: 'unknown', after: 5_000, pushedBack: true })
    expect(judge(http(500), call, 0)).toMatchObject({ after: undefined, pushedBack: false })
    const foreign = (headers: unknown) => Object.assign(new Error('x'), { response: { status: 429, headers } })
    expect(judge(foreign(new Headers({ 'retry-after': '2' })), call, 0)).toMatchObject({ after: 2_000 })
    expect(judge(foreign({ 'retry-after': 'Thu, 01 Jan 1970 00:00:07 GMT' }), call, 1_000)).toMatchObject({
      after: 6_000,
    })
  })
})

describe('what an answer says', () => {
  const records = [{ id: 1 }, { id: 2 }, { id: 3 }]
  const [a, b, c] = records as [object, object, object]

  it('nothing: all delivered', () => {
    expect(readAnswer(undefined, placesIn(records), 'crm')).toEqual({ kind: 'answered', outcomes: new Map() })
    expect(readAnswer([], placesIn(records), 'crm')).toEqual({ kind: 'answered', outcomes: new Map() })
  })

  it('names records in any iterable', () => {
    const verdict = readAnswer(new Set([reject(b, 'no'), retry(a), unknown(c)]), placesIn(records), 'crm')
    expect(verdict.kind === 'answered' && [...verdict.outcomes.keys()]).toEqual([1, 0, 2])
  })

  it.each<[string, unknown, RegExp]>([
    ['a Response', new Response(), /the handler returned a Response; it must return nothing/],
    ['null', null, /returned null/],
    ['true', true, /returned a boolean/],
    ['a list of strings', ['bad'], /a list that holds a string/],
    ['a copy of a record', [reject({ ...a }, 'no')], /rejection for an object that is not one of the batch's records/],
    ['two outcomes for one record', [reject(a, 'no'), receipt(a, '7')], /both rejection and receipt for one record/],
  ])('is unknown, never success, when it is %s', (_, answer, message) => {
    const verdict = readAnswer(answer, placesIn(records), 'crm')
    expect(verdict).toMatchObject({ kind: 'unknown', bug: true })
    expect(verdict.kind === 'unknown' && (verdict.error as Error).message).toMatch(message)
  })
})
