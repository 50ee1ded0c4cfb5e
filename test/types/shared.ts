import { type Destination, destination, type Injected, reject } from 'spillway'
import { z } from 'zod'

export interface Lead {
  id: number
  email: string
  score: number
  scored_at: Date
}
export const LeadSchema = z.object({ id: z.number(), email: z.string(), score: z.number(), scored_at: z.date() })
export const Contact = z.object({ email: z.string(), name: z.string().optional(), score: z.number().default(0) })
export const Signup = z.object({ id: z.string(), email: z.string(), plan: z.string() })
export interface Reply {
  errors: { index: number; message: string }[]
}
export interface Anomaly {
  id: string
  metric: string
  value: number
  expected: number
}

// Destinations in the shapes that vendors need.

/** Records of any fields, but for the one by which objects are found. */
export type Properties<M extends string> = { readonly [K in M]: string | number } & {
  readonly [field: string]: unknown
}

export function crmObjects<const M extends string>({
  object,
  match,
  ...config
}: { object: string; match: M } & Injected<{ token: string }>): Destination<
  Properties<M>,
  'insert' | 'update' | 'upsert' | 'delete'
> {
  const write = async (batch: object[], { http }: { http: { post(url: string, init: object): Promise<unknown> } }) => {
    await http.post(`https://crm.test/${object}`, { json: batch })
  }
  return destination({ name: 'crm-objects', match, config: z.object({ token: z.string() }) })({
    insert: write,
    update: write,
    upsert: write,
    delete: write,
  })(config)
}

/** A channel is the use, the token is config; the record is a schema of its own. */
export const Message = z.object({ text: z.string(), thread: z.string().optional() })
export function chat({ channel, ...config }: { channel: string } & Injected<{ token: string }>) {
  return destination({ name: 'chat', record: Message, config: z.object({ token: z.string() }) })({
    async insert(batch, { config, http }) {
      for (const { text } of batch) await http.post(`https://chat.test/${channel}`, { json: { text, ...config } })
    },
  })(config)
}

/** Takes whatever there is. */
export function table({ name, ...config }: { name: string } & Injected<{ url: string }>) {
  return destination({ name: 'table', config: z.object({ url: z.string() }) })({
    insert() {},
    update() {},
    upsert() {},
    delete() {},
    async replace(batches, { log }) {
      for await (const batch of batches) log.info(`${name}: ${batch.length}`)
    },
  })(config)
}

export const crm = destination({
  name: 'crm',
  batchSize: 100,
  concurrency: 4,
  rate: '10/s',
  record: Contact,
  match: 'email',
  config: z.object({ url: z.string(), token: z.string(), retries: z.coerce.number().default(3) }),
})({
  async upsert(batch, { config, http, idempotencyKey }) {
    const { errors } = await http.post<Reply>(`${config.url}/upsert`, {
      headers: { authorization: config.token, 'idempotency-key': idempotencyKey },
      json: batch,
    })
    return errors.map((e) => reject(batch[e.index]!, e.message))
  },
  async delete(batch, { config, http }) {
    const emails: string[] = batch.map((contact) => contact.email)
    await http.post(`${config.url}/archive`, { json: emails })
  },
  async verify(batch, { config, http }) {
    const there = new Set(await http.get<string[]>(`${config.url}/contacts`))
    return batch.filter((contact) => there.has(contact.email))
  },
})
