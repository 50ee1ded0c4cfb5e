// What an org holds, and its rules: objects, records, SOQL.

/** A field of an object. Text ids compare without case, as Salesforce's do unless told otherwise. */
export interface SalesforceField {
  /** @default 'text' */
  readonly type?: 'text' | 'number' | 'boolean' | 'date' | 'datetime' | 'picklist' | 'reference'
  /** @default false */
  readonly required?: boolean
  /** Most characters of a text. @default 255 */
  readonly length?: number
  /** Records may be found by it. @default false */
  readonly externalId?: boolean
  /** No two records have the same value. @default false */
  readonly unique?: boolean
  /** The only values that a picklist takes. */
  readonly values?: readonly string[]
  /** Which object a reference is to; `Owner__c` is then also found by `{ Owner__r: { Ext__c: … } }`, `AccountId` by `Account`. */
  readonly to?: string
}

/** A record as a test reads it: its `Id`, and every field that is not null. */
export type SalesforceRecord = { readonly Id: string; readonly [field: string]: unknown }

/** What is wrong with one record: `statusCode`, where an error of a request says `errorCode`. */
export interface RecordError {
  readonly statusCode: string
  readonly message: string
  readonly fields: readonly string[]
}

/** A request that is refused as a whole. */
export class RequestError extends Error {
  constructor(
    readonly status: number,
    readonly errorCode: string,
    message: string,
  ) {
    super(message)
  }
}

/** A record that is refused, alone. */
class Refused extends Error {
  constructor(
    readonly statusCode: string,
    message: string,
    readonly fields: readonly string[] = [],
  ) {
    super(message)
  }
}

/** What became of one record. */
export type SaveResult =
  | { readonly id: string; readonly success: true; readonly created?: boolean; readonly errors: readonly [] }
  | { readonly id?: string; readonly success: false; readonly errors: readonly RecordError[] }

export type Values = Record<string, unknown>

interface Stored {
  readonly id: string
  readonly values: Values
  deleted: boolean
}

interface SObject {
  readonly name: string
  readonly prefix: string
  readonly fields: ReadonlyMap<string, Field>
  readonly records: Map<string, Stored>
  /** Ids by field and value, deleted records among them, for fields by which records are found. */
  readonly index: ReadonlyMap<string, Map<string, Set<string>>>
}

type Field = SalesforceField & { readonly name: string; readonly type: NonNullable<SalesforceField['type']> }

/** Objects and their records. Every change of a record is whole or none. */
export class Org {
  readonly #objects = new Map<string, SObject>()
  /** How often the next writes to a record find it locked, by its id or a value that finds it. */
  readonly locks = new Map<string, number>()
  #serial = 0

  get objects(): readonly string[] {
    return [...this.#objects.values()].map(({ name }) => name)
  }

  define(name: string, fields: Readonly<Record<string, SalesforceField>>): void {
    const described = Object.entries(fields).map(([field, rules]): [string, Field] => [
      field.toLowerCase(),
      { type: 'text', ...rules, name: field },
    ])
    const prefix = `a${String(this.#objects.size).padStart(2, '0')}`
    const found = described.filter(([, { externalId, unique }]) => externalId || unique)
    const index = new Map(found.map(([, field]) => [field.name, new Map<string, Set<string>>()]))
    this.#objects.set(name.toLowerCase(), { name, prefix, fields: new Map(described), records: new Map(), index })
  }

  object(name: string): SObject {
    const found = this.#objects.get(name.toLowerCase())
    if (!found) throw new RequestError(404, 'NOT_FOUND', 'The requested resource does not exist')
    return found
  }

  fieldNames(object: string): readonly string[] {
    return [...this.object(object).fields.values()].map(({ name }) => name)
  }

  records(object: string): SalesforceRecord[] {
    return this.#live(this.object(object)).map(({ id, values }) => ({ Id: id, ...values }))
  }

  put(object: string, values: Values): string {
    const type = this.object(object)
    const id = this.#newId(type.prefix)
    this.#write(type, id, values)
    return id
  }

  // ---- writing: what a request holds is checked as a whole, then record by record -----------------------------------

  /** The fields of a record as JSON brought them. @throws RequestError where the parser would refuse the request */
  parse(object: string, given: Values): Values {
    const { fields, name: type } = this.object(object)
    const values: Values = {}
    for (const [name, value] of Object.entries(given)) {
      if (/^(attributes|id)$/i.test(name)) continue
      const field = fields.get(name.toLowerCase())
      const reference = field ? undefined : [...fields.values()].find((one) => relationship(one) === name.toLowerCase())
      if (reference && value !== null && typeof value === 'object') {
        values[reference.name] = { ...(value as object) }
        continue
      }
      if (!field) throw new RequestError(400, 'INVALID_FIELD', `No such column '${name}' on sobject of type ${type}`)
      values[field.name] = parsed(field, value)
    }
    return values
  }

  insert(object: string, values: Values): SaveResult {
    return saved(() => {
      const type = this.object(object)
      const id = this.#newId(type.prefix)
      this.#check(type, undefined, values)
      this.#write(type, id, values)
      return { id, success: true, errors: [] }
    })
  }

  update(object: string, id: string, values: Values): SaveResult {
    return saved(() => {
      const type = this.object(object)
      const stored = this.#stored(type, id)
      this.#lock(id)
      this.#check(type, stored, values)
      this.#write(type, stored.id, { ...stored.values, ...values })
      return { id: stored.id, success: true, errors: [] }
    })
  }

  upsert(object: string, external: string, key: unknown, values: Values): SaveResult {
    return saved(() => {
      const field = this.externalId(object, external)
      if (key === null || key === undefined || key === '') {
        throw new Refused('MISSING_ARGUMENT', `${field.name} not specified`)
      }
      this.#lock(String(key))
      const found = this.find(object, external, key)
      if (found.length > 1) {
        const message = `${field.name}: more than one record found for external id field: [${found.join(', ')}]`
        throw new Refused('DUPLICATE_EXTERNAL_ID', message, [field.name])
      }
      const result = found[0]
        ? this.update(object, found[0], values)
        : this.insert(object, { ...values, [field.name]: key })
      return result.success ? { ...result, created: found.length === 0 } : result
    })
  }

  delete(id: string): SaveResult {
    return saved(() => {
      const type = [...this.#objects.values()].find(({ records }) => records.has(long(id)))
      if (!type) throw new Refused('INVALID_CROSS_REFERENCE_KEY', 'invalid cross reference id')
      this.#lock(id)
      this.#stored(type, id).deleted = true
      return { id: long(id), success: true, errors: [] }
    })
  }

  /** The field of that name, if records may be found by it. */
  externalId(object: string, name: string): Field {
    const type = this.object(object)
    const field = type.fields.get(name.toLowerCase())
    if (field?.externalId) return field
    throw new RequestError(404, 'NOT_FOUND', `Provided external ID field does not exist or is not accessible: ${name}`)
  }

  /** Ids of the records that have a value. */
  find(object: string, name: string, value: unknown): string[] {
    const type = this.object(object)
    const field = type.fields.get(name.toLowerCase())
    const among = field ? (type.index.get(field.name)?.get(comparable(value)) ?? []) : [long(String(value))]
    const isThere = ({ deleted, values }: Stored) => !deleted && (!field || same(values[field.name], value))
    return [...among].filter((id) => {
      const stored = type.records.get(id)
      return stored && isThere(stored)
    })
  }

  #live({ records }: SObject): Stored[] {
    return [...records.values()].filter(({ deleted }) => !deleted)
  }

  #stored({ records }: SObject, id: string): Stored {
    const stored = records.get(long(id))
    if (!stored) throw new Refused('INVALID_CROSS_REFERENCE_KEY', 'invalid cross reference id')
    if (stored.deleted) throw new Refused('ENTITY_IS_DELETED', 'entity is deleted')
    return stored
  }

  #lock(what: string): void {
    const left = this.locks.get(what) ?? 0
    if (left === 0) return
    this.locks.set(what, left - 1)
    throw new Refused('UNABLE_TO_LOCK_ROW', 'unable to obtain exclusive access to this record')
  }

  #check(type: SObject, stored: Stored | undefined, values: Values): void {
    const fields = [...type.fields.values()]
    const after = { ...stored?.values, ...values }
    const missing = fields.filter(({ required, name }) => required && isBlank(after[name])).map(({ name }) => name)
    if (missing.length > 0) {
      throw new Refused('REQUIRED_FIELD_MISSING', `Required fields are missing: [${missing.join(', ')}]`, missing)
    }
    for (const { name, type: kind, length = 255, values: allowed, unique, to } of fields) {
      const value = values[name]
      if (isBlank(value)) continue
      if (kind === 'text' && String(value).length > length) {
        const message = `${name}: data value too large: ${value} (max length=${length})`
        throw new Refused('STRING_TOO_LONG', message, [name])
      }
      if (allowed && !allowed.includes(String(value))) {
        const message = `${name}: bad value for restricted picklist field: ${value}`
        throw new Refused('INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST', message, [name])
      }
      const other = unique ? this.find(type.name, name, value).find((id) => id !== stored?.id) : undefined
      if (other !== undefined) {
        throw new Refused(
          'DUPLICATE_VALUE',
          `duplicate value found: ${name} duplicates value on record with id: ${other}`,
        )
      }
      if (kind === 'reference') values[name] = this.#referred(to!, value)
    }
  }

  #referred(object: string, value: unknown): string {
    if (typeof value === 'string') return value
    const [[field, key] = ['', undefined]] = Object.entries(value as Values).filter(([name]) => name !== 'attributes')
    const [id] = this.find(object, this.externalId(object, field).name, key)
    if (id !== undefined) return id
    throw new Refused(
      'INVALID_FIELD',
      `Foreign key external ID: ${key} not found for field ${field} in entity ${object}`,
    )
  }

  /** Null and the empty text are the same: no value. */
  #write({ records, index }: SObject, id: string, given: Values): void {
    const values = Object.fromEntries(Object.entries(given).filter(([, value]) => !isBlank(value)))
    records.set(id, { id, values, deleted: false })
    for (const [name, ids] of index) {
      if (isBlank(values[name])) continue
      const value = comparable(values[name])
      ids.set(value, (ids.get(value) ?? new Set()).add(id))
    }
  }

  #newId(prefix: string): string {
    return long(`${prefix}${(++this.#serial).toString(36).padStart(12, '0')}`)
  }

  // ---- reading ------------------------------------------------------------------------------------------------------

  /** As much of SOQL as `SELECT a, b FROM c WHERE d IN ('x', 'y')`, `=`, and `LIMIT`. */
  query(soql: string): Values[] {
    const malformed = (what: string) => new RequestError(400, 'MALFORMED_QUERY', what)
    const parts = /^\s*select\s+(.+?)\s+from\s+(\w+)(?:\s+where\s+(\w+)\s*(=|in)\s*(.+?))?(?:\s+limit\s+(\d+))?\s*$/is
    const [, select, object = '', where, operator, literals = '', limit = '2000'] = parts.exec(soql) ?? []
    if (select === undefined) throw malformed(`unexpected token: '${soql.slice(0, 20)}'`)
    const type = this.#objects.get(object.toLowerCase())
    if (!type) throw new RequestError(400, 'INVALID_TYPE', `sObject type '${object}' is not supported.`)
    const field = (name: string): string => {
      if (name.toLowerCase() === 'id') return 'Id'
      const found = type.fields.get(name.toLowerCase())
      if (found) return found.name
      throw new RequestError(400, 'INVALID_FIELD', `No such column '${name}' on entity '${type.name}'.`)
    }
    const names = select.split(',').map((name) => field(name.trim()))
    const list = operator?.toLowerCase() === 'in' ? /^\((.*)\)$/s.exec(literals.trim())?.[1] : literals
    if (list === undefined) throw malformed(`unexpected token: '${literals.slice(0, 20)}'`)
    const wanted = where === undefined ? undefined : literalsOf(list, malformed)
    const filter = where === undefined ? '' : field(where)
    const isNumber = type.fields.get(filter.toLowerCase())?.type === 'number'
    if (wanted?.some((value) => (typeof value === 'number') !== isNumber)) {
      const how = isNumber ? 'double and should not be' : 'string and should be'
      const message = `value of filter criterion for field '${filter}' must be of type ${how} enclosed in quotes`
      throw new RequestError(400, 'INVALID_FIELD', message)
    }
    return this.records(type.name)
      .filter((record) => !wanted || wanted.some((value) => same(record[filter], value)))
      .slice(0, Number(limit))
      .map((record) => ({
        attributes: { type: type.name, url: `/services/data/v65.0/sobjects/${type.name}/${record.Id}` },
        ...Object.fromEntries(names.map((name) => [name, record[name] ?? null])),
      }))
  }
}

/** Text in quotes, with `\\` and `\'` for what would end it, and numbers. */
function literalsOf(list: string, malformed: (what: string) => Error): (string | number)[] {
  const one = /\s*(?:'((?:[^'\\]|\\['"\\nrtbf])*)'|(-?\d+(?:\.\d+)?))\s*(?:,|$)/gy
  const found: (string | number)[] = []
  while (one.lastIndex < list.length) {
    const at = one.lastIndex
    const match = one.exec(list)
    if (!match) throw malformed(`unexpected token: '${list.slice(at, at + 20)}'`)
    found.push(match[1] === undefined ? Number(match[2]) : match[1].replace(/\\(.)/g, '$1'))
  }
  return found
}

function saved(save: () => SaveResult): SaveResult {
  try {
    return save()
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    const { statusCode, message, fields } = error
    return { success: false, errors: [{ statusCode, message, fields }] }
  }
}

/** A JSON value as the field takes it; what does not fit is an error of the parser, for the whole request. */
function parsed({ type }: Field, value: unknown): unknown {
  if (value === null) return value
  const refuse = (as: string) => {
    const token = typeof value === 'number' ? 'VALUE_NUMBER_INT' : `VALUE_${(typeof value).toUpperCase()}`
    const message = `Cannot deserialize instance of ${as} from ${token} value ${value} or request may be missing a required field`
    return new RequestError(400, 'JSON_PARSER_ERROR', message)
  }
  switch (type) {
    case 'number':
      if (typeof value === 'boolean' || value === '' || !Number.isFinite(Number(value))) throw refuse('double')
      return Number(value)
    case 'boolean':
      if (typeof value !== 'boolean' && value !== 'true' && value !== 'false') throw refuse('boolean')
      return value === true || value === 'true'
    case 'date':
    case 'datetime':
      if (typeof value !== 'string' || !pattern[type].test(value)) throw refuse(type)
      return value
    default:
      if (typeof value !== 'string') throw refuse(type === 'reference' ? 'reference' : 'string')
      return value
  }
}

const pattern = {
  date: /^\d{4}-\d\d-\d\d$/,
  datetime: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:?\d\d)$/,
}

/** The name under which a reference is given by another's external id. */
function relationship({ name, type }: Field): string | undefined {
  if (type !== 'reference') return undefined
  return name.replace(/__c$/, '__r').replace(/Id$/, '').toLowerCase()
}

function isBlank(value: unknown): boolean {
  return value === null || value === undefined || value === ''
}

function same(a: unknown, b: unknown): boolean {
  if (isBlank(a) || isBlank(b)) return false
  return comparable(a) === comparable(b)
}

function comparable(value: unknown): string {
  return String(value).toLowerCase()
}

/** An id of 15 characters, which has case, as the one of 18, which does not. */
export function long(id: string): string {
  if (id.length !== 15) return id
  const marks = [0, 5, 10].map((from) => {
    const bits = [...id.slice(from, from + 5)].map((letter, at) => (/[A-Z]/.test(letter) ? 1 << at : 0))
    return 'ABCDEFGHIJKLMNOPQRSTUVWXYZ012345'[bits.reduce((sum, bit) => sum + bit, 0)]
  })
  return id + marks.join('')
}
