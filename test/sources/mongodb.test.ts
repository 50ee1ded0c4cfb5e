import {
  Binary,
  BSONRegExp,
  BSONSymbol,
  Code,
  DBRef,
  Decimal128,
  Double,
  Int32,
  Long,
  MaxKey,
  MinKey,
  MongoClient,
  ObjectId,
  Timestamp,
  UUID,
} from 'mongodb'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { destination, source, sync } from '../../src/index.js'
import { documents, mongodb } from '../../src/sources/mongodb.js'
import { startMongo } from '../support/mongodb.js'
import { quiet } from '../support/quiet.js'
import { stateFolder } from '../support/state-folder.js'
import { batchesOf, readAll, readOne } from './reading.js'

const hex = '507f1f77bcf86cd799439011'
const uuid = '5f2b9c1e-0000-4000-8000-00000000000a'
const decimal = (text: string) => Decimal128.fromString(text)

/** What each type of BSON becomes. */
const values: Record<string, readonly [bson: unknown, row: unknown]> = {
  _id: [new ObjectId(hex), hex],
  small: [Long.fromNumber(5), 5n],
  large: [Long.fromString('-9007199254740993'), -9007199254740993n],
  int: [new Int32(-7), -7],
  double: [new Double(5), 5],
  third: [0.1, 0.1],
  decimal: [decimal('1.10'), '1.10'],
  thousand: [decimal('1.2E+3'), '1200'],
  fraction: [decimal('-12E-9'), '-0.000000012'],
  zero: [decimal('0E+3'), '0'],
  zeros: [decimal('0E-8'), '0.00000000'],
  digits: [decimal('1234567890123456789012345678901.234'), '1234567890123456789012345678901.234'],
  none: [decimal('NaN'), 'NaN'],
  date: [new Date(5), new Date(5)],
  binary: [new Binary(Uint8Array.of(0, 255)), Uint8Array.of(0, 255)],
  uuid: [new UUID(uuid), uuid],
  old: [new Binary(new Uint8Array(16), 3), new Uint8Array(16)],
  time: [new Timestamp({ t: 4_000_000_000, i: 6 }), { t: 4_000_000_000, i: 6 }],
  pattern: [new BSONRegExp('^a/b', 'im'), '/^a/b/im'],
  symbol: [new BSONSymbol('s'), 's'],
  code: [new Code('f()'), 'f()'],
  scoped: [new Code('f()', { x: Long.fromNumber(1) }), { code: 'f()', scope: { x: 1n } }],
  reference: [new DBRef('users', new ObjectId(hex)), { $ref: 'users', $id: hex }],
  least: [new MinKey(), 'MinKey'],
  most: [new MaxKey(), 'MaxKey'],
  null: [null, null],
  text: ['a', 'a'],
  nested: [{ list: [{ id: new ObjectId(hex) }, [decimal('1')], null] }, { list: [{ id: hex }, ['1'], null] }],
}
const document = Object.fromEntries(Object.entries(values).map(([name, [bson]]) => [name, bson]))
const row = Object.fromEntries(Object.entries(values).map(([name, [, value]]) => [name, value]))
const orders = [1, 2, 3, 4, 5].map((n) => ({ _id: n, total: decimal(`${n}.50`) }))
const at = (url: string) => ({ url, db: 'shop', collection: 'orders' })

describe('a document', () => {
  it('comes without types of BSON, and with every digit, over the real driver', async () => {
    const { url } = await startMongo([document])
    expect(await readOne(mongodb(at(url)))).toStrictEqual(row)
  })

  it('comes the same from a collection whose client was told to make other values', async () => {
    const { url } = await startMongo([document])
    await using client = new MongoClient(url, { promoteLongs: false, promoteBuffers: true })
    expect(await readOne(mongodb({ collection: client.db('shop').collection('orders') }))).toStrictEqual(row)
  })

  it("comes the same as a cursor of one's own gives it, whatever types it was told to make", async () => {
    const { url } = await startMongo([document])
    await using client = new MongoClient(url)
    const collection = client.db('shop').collection('orders')
    for (const options of [
      { promoteLongs: false, bsonRegExp: true },
      { useBigInt64: true, bsonRegExp: true },
      { promoteValues: false, bsonRegExp: true },
    ]) {
      expect(await readOne(documents(() => collection.find({}, options)))).toStrictEqual(row)
    }
    const careless = await readOne(documents(() => collection.find()))
    expect([careless['small'], careless['large'], careless['pattern']]).toEqual([5, -9007199254740993n, '/^a\\/b/im'])
  })

  it('keeps null and leaves out what is undefined', async () => {
    const from = documents([{ a: null, b: undefined, c: [undefined], d: Buffer.of(1) }])
    expect(await readOne(from)).toStrictEqual({ a: null, c: [null], d: Uint8Array.of(1) })
  })
})

describe('a read', () => {
  it('asks for what the options say, answer by answer, and closes the client', async () => {
    const { url, commands, sockets } = await startMongo(orders)
    const from = mongodb({ ...at(url), filter: { status: 'paid' }, projection: { total: 1 } })
    const sizes: number[] = []
    for await (const batch of batchesOf(from)) sizes.push(batch.length)
    expect(sizes).toEqual([2, 2, 1])
    expect(commands[0]).toMatchObject({
      find: 'orders',
      $db: 'shop',
      filter: { status: 'paid' },
      projection: { total: 1 },
      batchSize: 1000,
    })
    await expect.poll(() => sockets.size).toBe(0)
  })

  it('ends with the signal, and closes what it left', async () => {
    const { url, commands, sockets } = await startMongo(orders)
    const abort = new AbortController()
    const reading = (async () => {
      for await (const _ of batchesOf(mongodb(at(url)), { signal: abort.signal })) abort.abort(new Error('enough'))
    })()
    await expect(reading).rejects.toThrow('enough')
    expect(commands.map((command) => Object.keys(command)[0])).not.toContain('getMore')
    await expect.poll(() => sockets.size).toBe(0)
  })

  it('aggregates', async () => {
    const { url, commands } = await startMongo(orders)
    const pipeline = [{ $match: { a: 1 } }]
    const { rows } = await readAll(mongodb({ ...at(url), pipeline }), { cursor: 'at', since: new Date(5) })
    expect(rows.length).toBe(5)
    const $or = [{ at: { $gte: new Date(5) } }, { at: null }]
    expect(commands[0]!['pipeline']).toEqual([...pipeline, { $match: { $or } }, { $sort: { at: 1 } }])
  })

  it('goes on where the cursor column stood, whatever type that had in the database', async () => {
    const { url, commands } = await startMongo(orders)
    const from = mongodb({ ...at(url), filter: { a: 1 } })
    const asked = async (since: string | bigint | undefined) => {
      await readAll(from, { cursor: '_id', since })
      return commands.findLast((command) => 'find' in command)!
    }
    expect(await asked(undefined)).toMatchObject({ filter: { a: 1 }, sort: { _id: 1 } })
    const filter = (...least: unknown[]) => ({
      filter: { $and: [{ a: 1 }, { $or: [...least.map(($gte) => ({ _id: { $gte } })), { _id: null }] }] },
    })
    expect(await asked(5n)).toMatchObject(filter(5n))
    expect(await asked('a')).toMatchObject(filter('a'))
    expect(await asked(hex)).toMatchObject(filter(hex, new ObjectId(hex)))
    expect(await asked('1.50')).toMatchObject(filter('1.50', decimal('1.50')))
    expect((await asked(uuid))['filter'].$and[1].$or[1]._id.$gte.toString()).toBe(uuid)
  })

  it('holds documents against `record`', async () => {
    const { url } = await startMongo(orders)
    const from = mongodb({ ...at(url), record: z.object({ _id: z.number().max(3), total: z.string() }) })
    await expect(readAll(from)).rejects.toThrow('mongodb: row 4 does not fit `record`')
  })

  it('says what the server refuses, and who is not there, without the password', async () => {
    const refusing = await startMongo([], {
      refuse: { code: 13, codeName: 'Unauthorized', errmsg: 'not authorized on shop' },
    })
    await expect(readAll(mongodb(at(refusing.url)))).rejects.toThrow('mongodb: Unauthorized: not authorized on shop')
    const nobody = 'mongodb://me:pass-word@127.0.0.1:1/?serverSelectionTimeoutMS=50&directConnection=true'
    const error = await readAll(mongodb(at(nobody))).catch((error) => error)
    expect(error.message).toContain('mongodb: MongoServerSelectionError: connect ECONNREFUSED 127.0.0.1:1')
    expect(error.message).not.toContain('pass-word')
  })

  it('refuses options that do not say what to read', () => {
    const url = 'mongodb://127.0.0.1'
    for (const [options, problem] of [
      [undefined, 'give `url`, `db` and the name of a `collection`'],
      [{ collection: 'orders' }, 'give `url`, `db` and the name of a `collection`'],
      [{ url, collection: 'orders' }, 'with `url`, `db` and `collection` are names'],
      [{ ...at(url), querry: {} }, 'there is no option querry; the options are url'],
      [{ ...at(url), pipeline: {} }, '`pipeline` is a Object, no array of stages'],
      [{ ...at(url), pipeline: [], filter: {} }, 'give either `pipeline` or `filter`'],
    ] as const) {
      expect(() => mongodb(options as never)).toThrow(problem)
    }
  })
})

describe("a cursor of one's own", () => {
  it('is read once, and a function that makes one again and again', async () => {
    const { url } = await startMongo(orders)
    await using client = new MongoClient(url)
    const collection = client.db('shop').collection<{ _id: number; total: Decimal128 }>('orders')
    const from = documents(collection.find())
    expect((await readAll(from)).rows.length).toBe(5)
    await expect(readAll(from)).rejects.toThrow('cannot be read again')
    const again = documents(() => collection.find())
      .filter(({ _id }) => _id > 3)
      .map(({ total }) => ({ total: total.length }))
    for (const _ of [1, 2]) expect((await readAll(again)).rows).toEqual([{ total: 4 }, { total: 4 }])
  })

  it('is no complete reading when somebody closes it half-way', async () => {
    const { url } = await startMongo(orders)
    await using client = new MongoClient(url)
    const collection = client.db('shop').collection('orders')
    const cursor = collection.find()
    const reading = (async () => {
      for await (const _ of batchesOf(documents(() => cursor))) await cursor.close()
    })()
    await expect(reading).rejects.toThrow('mongodb: the cursor was closed before it came to its end')
    const closing = (async () => {
      for await (const _ of batchesOf(mongodb({ collection }))) await client.close()
    })()
    await expect(closing).rejects.toThrow('mongodb: the cursor was closed before it came to its end')
  })

  it('may be a change stream, whose events are rows', async () => {
    async function* events() {
      yield {
        _id: { _data: 'x' },
        operationType: 'update',
        documentKey: { _id: new ObjectId(hex) },
        clusterTime: new Timestamp({ t: 1, i: 2 }),
      }
    }
    expect(await readOne(source(documents(events)))).toEqual({
      _id: { _data: 'x' },
      operationType: 'update',
      documentKey: { _id: hex },
      clusterTime: { t: 1, i: 2 },
    })
  })
})

it('is delivered by a sync, which goes on at its cursor', async () => {
  const { url, commands } = await startMongo(orders)
  const state = await stateFolder()
  const sent: object[] = []
  const to = destination(10)((rows) => void sent.push(...rows))
  const run = () =>
    sync({
      name: 'orders',
      from: mongodb<{ _id: number; total: string }>(at(url)),
      to,
      cursor: '_id',
      state,
      log: quiet,
    }).run()
  expect(await run()).toMatchObject({ status: 'done', delivered: 5 })
  expect(sent.at(-1)).toEqual({ _id: 5, total: '5.50' })
  expect(await run()).toMatchObject({ status: 'done', delivered: 0 })
  expect(commands.findLast((command) => 'find' in command)!['filter'].$and[1].$or[0]).toEqual({ _id: { $gte: 5 } })
})
