import type { AnyRow } from '../values.js'

/** What a value of BSON becomes; see {@link documents}. */
export type Plain<T> = T extends { readonly _bsontype: infer Kind }
  ? Kind extends 'Long'
    ? bigint
    : Kind extends 'Int32' | 'Double'
      ? number
      : Kind extends 'Binary'
        ? T extends { toHexString(): string }
          ? string
          : Uint8Array | string
        : Kind extends 'Timestamp' | 'DBRef'
          ? AnyRow
          : Kind extends 'Code'
            ? string | AnyRow
            : string
  : T extends Date
    ? Date
    : T extends Uint8Array
      ? Uint8Array
      : T extends RegExp
        ? string
        : T extends object
          ? { [K in keyof T]: Plain<T[K]> }
          : T

// By `_bsontype` and not by class: the classes of two versions of the package `bson` are strangers to each other.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Anything = any

/** A document without types of BSON, and without members that are `undefined`. */
export function plainDocument(document: object): AnyRow {
  const row: [string, unknown][] = []
  for (const [name, value] of Object.entries(document)) if (value !== undefined) row.push([name, plain(value)])
  return Object.fromEntries(row)
}

function plain(value: Anything): unknown {
  if (value === null || typeof value !== 'object' || value instanceof Date) return value
  if (Array.isArray(value)) return value.map((item) => plain(item ?? null))
  if (value instanceof RegExp) return String(value)
  if (value instanceof Uint8Array) return new Uint8Array(value)
  return value._bsontype === undefined ? plainDocument(value) : ofBson(value)
}

function ofBson(value: Anything): unknown {
  switch (value._bsontype) {
    case 'ObjectId':
      return value.toHexString()
    case 'Decimal128':
      return digits(value.toString())
    case 'Long':
      return value.toBigInt()
    case 'Int32':
    case 'Double':
    case 'BSONSymbol':
      return value.valueOf()
    case 'Binary':
      return bytes(value)
    case 'Timestamp':
      return { t: value.getHighBitsUnsigned(), i: value.getLowBitsUnsigned() }
    case 'BSONRegExp':
      return `/${value.pattern}/${value.options}`
    case 'Code':
      return value.scope ? { code: value.code, scope: plainDocument(value.scope) } : value.code
    case 'DBRef':
      return plainDocument(value.toJSON())
    default:
      return value._bsontype // MinKey and MaxKey hold nothing
  }
}

/** A UUID as text, other binary data as bytes. The older kind of UUID is bytes: drivers disagree on their order. */
function bytes(value: Anything): Uint8Array | string {
  const all = new Uint8Array(value.buffer.subarray(0, value.position ?? value.buffer.length))
  if (value.sub_type !== 4 || all.length !== 16) return all
  const hex = Buffer.from(all).toString('hex')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

/** A decimal without an exponent: 1E+3 is 1000, 12E-4 is 0.0012. */
function digits(text: string): string {
  const match = /^(-?)(\d+)(?:\.(\d+))?E([+-]\d+)$/.exec(text)
  if (!match) return text
  const [, sign, whole = '', fraction = '', exponent] = match
  const point = whole.length + Number(exponent)
  const all = whole + fraction
  if (point >= all.length)
    return `${sign}${all.replace(/^0+$/, '0')}${/[1-9]/.test(all) ? '0'.repeat(point - all.length) : ''}`
  const padded = all.padStart(all.length - Math.min(0, point - 1), '0')
  const before = Math.max(1, point)
  return `${sign}${padded.slice(0, before)}.${padded.slice(before)}`
}
