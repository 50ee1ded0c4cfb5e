import type { AnyRow } from '../../values.js'
import { exactJson } from '../sql.js'

/** A request that is not taken, and what the sender is told. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message)
  }
}

/** A body in one piece; `undefined`, and the rest is not read, once it is longer than the limit. */
export async function collected(
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  limit: number,
): Promise<Buffer | undefined> {
  const all: Uint8Array[] = []
  let bytes = 0
  try {
    for await (const piece of pieces) {
      bytes += piece.length
      if (bytes > limit) return undefined
      all.push(piece)
    }
  } catch {
    throw new Refused(400, 'the body broke off')
  }
  return all.length === 1 ? Buffer.from(all[0]!) : Buffer.concat(all, bytes)
}

const json = /^application\/(json|[\w.+-]+\+json)$/
const lines = /^application\/(x-ndjson|ndjson|jsonl|x-jsonlines|jsonlines)$/
const form = 'application/x-www-form-urlencoded'

/** The events in a body: of JSON an object, or each of an array; of JSON lines each; of a form all of it. @throws Refused */
export function eventsIn(body: Buffer, type: string | undefined, encoding: string | undefined): readonly AnyRow[] {
  const [media = '', ...parameters] = (type ?? '').split(';').map((part) => part.trim().toLowerCase())
  const charset = parameters.find((parameter) => parameter.startsWith('charset='))
  const known = json.test(media) || lines.test(media) || media === form
  if (!known || (charset && !/^charset="?utf-?8"?$/.test(charset)) || (encoding && encoding !== 'identity')) {
    throw new Refused(415, 'the body must be JSON, JSON lines or a form, in UTF-8 and not compressed')
  }
  const text = decoded(body)
  if (media === form) return [formFields(text)]
  if (lines.test(media)) {
    const all = text.split('\n').map((line, index) => ({ line: line.trim(), where: `line ${index + 1}` }))
    return all.filter(({ line }) => line !== '').map(({ line, where }) => event(parsed(line, where), where))
  }
  const value = parsed(text, 'the body')
  return Array.isArray(value) ? value.map((one, index) => event(one, `event ${index + 1}`)) : [event(value, 'the body')]
}

function decoded(body: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(body)
  } catch {
    throw new Refused(400, 'the body is not UTF-8')
  }
}

function parsed(text: string, where: string): unknown {
  try {
    return exactJson(text)
  } catch {
    throw new Refused(400, `${where} is not JSON`)
  }
}

function event(value: unknown, where: string): AnyRow {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as AnyRow
  throw new Refused(422, `${where} is not an object, which an event must be`)
}

/** A field that comes more than once is a list. */
function formFields(text: string): AnyRow {
  const fields = new Map<string, string[]>()
  for (const [name, value] of new URLSearchParams(text)) {
    const values = fields.get(name)
    if (values) values.push(value)
    else fields.set(name, [value])
  }
  return Object.fromEntries([...fields].map(([name, values]) => [name, values.length > 1 ? values : values[0]]))
}
