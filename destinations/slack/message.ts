import type { Block } from '@slack/web-api'
import type { Log } from 'spillway'
import { z } from 'zod'

/** One message. Made of a row by `map`. */
export interface SlackMessage {
  /**
   * What the message says. A plain text is taken as text: `&`, `<` and `>` in it are escaped, so that nobody is notified and nothing
   * is linked whatever it holds; `*bold*` and the like work. Links and mentions are written with {@link mrkdwn}. With `blocks`, what
   * notifications show.
   */
  readonly text: string | Mrkdwn
  /** Slack's blocks, at most 50. Their markup is text by the same rule: plain is escaped, {@link mrkdwn} is not. */
  readonly blocks?: readonly object[] | null | undefined
  /** Another channel than that of {@link slack}: an id (`C0123456789`) or a name (`#alerts`). */
  readonly channel?: string | null | undefined
  /** The `ts` of a message, to answer in its thread. */
  readonly thread?: string | null | undefined
}

/** https://docs.slack.dev/reference/block-kit/blocks */
const maxBlocks = 50
const maxSection = 3_000
/** Slack advises no longer texts, and cuts what is longer than the second: https://docs.slack.dev/changelog/2018-truncating-really-long-messages */
const advisedText = 4_000
const maxText = 40_000
/** All text of a message in blocks: more than 13,000 is refused as `msg_blocks_too_long` (slackapi/bolt-js#2509). */
export const maxInBlocks = 12_000

/** The record of a message: markup is made safe here, once, so that what is planned, compared and sent is one text. */
export const message = z
  .object({
    text: z.custom<string | Mrkdwn>(
      (text) => typeof text === 'string' || text instanceof Mrkdwn,
      'must be text, or markup that mrkdwn makes in map',
    ),
    blocks: z
      .custom<readonly object[]>(areBlocks, `must be a list of at most ${maxBlocks} blocks, each with its type`)
      .nullish(),
    channel: z.string().min(1).nullish(),
    thread: z
      .string()
      .regex(/^\d+\.\d+$/, 'must be the ts of a message, such as 1700000000.000100')
      .nullish(),
  })
  .transform(({ text, blocks, ...rest }) => ({
    ...rest,
    text: text instanceof Mrkdwn ? String(text) : escaped(text),
    blocks: blocks?.map(safe) as Block[] | undefined,
  }))
  .refine(({ text, blocks }) => text.trim() !== '' || blocks?.length, 'text is empty, and there are no blocks')

function areBlocks(blocks: unknown): boolean {
  return Array.isArray(blocks) && blocks.length <= maxBlocks && blocks.every((block) => typeof block?.type === 'string')
}

export type Message = z.output<typeof message>

// ---- markup --------------------------------------------------------------------------------------------------------

/** Markup of Slack. Made by {@link mrkdwn}. */
class Mrkdwn {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  toString(): string {
    return this.#text
  }
}

export type { Mrkdwn }

/** What {@link mrkdwn} takes in: `null` and `undefined` are nothing, a list is its lines, dates are ISO text. */
export type Interpolated =
  | string
  | number
  | bigint
  | boolean
  | Date
  | Mrkdwn
  | null
  | undefined
  | readonly Interpolated[]

/**
 * Slack's markup, in which what is interpolated is text: `&`, `<` and `>` in it are escaped, so that a customer's name cannot
 * notify a channel (`<!channel>`), mention somebody or pose as a link. Markup that was made by `mrkdwn` is taken as it is.
 *
 * @throws TypeError when the address of a link is interpolated and does not begin with `https://`, `http://`, `mailto:` or `tel:`.
 *
 * @example
 * ```ts
 * mrkdwn`*${lead.name}* scored ${lead.score}: <${lead.url}|open>, <@${owner.slackId}>`
 * ```
 */
export function mrkdwn(strings: TemplateStringsArray, ...values: readonly Interpolated[]): Mrkdwn {
  const text = (value: Interpolated): string => {
    if (value === null || value === undefined) return ''
    if (value instanceof Mrkdwn) return String(value)
    if (Array.isArray(value)) return value.map(text).join('\n')
    return escaped(value instanceof Date ? value.toISOString() : String(value))
  }
  return new Mrkdwn(
    strings.reduce((before, after, index) => {
      const value = text(values[index - 1])
      if (!before.endsWith('<')) return before + value + after
      // right behind a bracket, `!channel` would be markup after all
      if (!/^(https?:\/\/|mailto:|tel:)/.test(value)) throw new TypeError('mrkdwn: the address of a link is no address')
      return before + value.replaceAll('|', '%7C') + after
    }),
  )
}

/** https://docs.slack.dev/messaging/formatting-message-text#escaping */
export function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/** Blocks whose markup is safe: plain text in it is escaped, and names in it are not turned into mentions (`verbatim`). */
function safe(part: unknown): unknown {
  if (part instanceof Mrkdwn) return String(part)
  if (Array.isArray(part)) return part.map(safe)
  if (part === null || typeof part !== 'object') return part
  const parts = Object.fromEntries(Object.entries(part).map(([name, value]) => [name, safe(value)]))
  const { type, text } = part as { type?: unknown; text?: unknown }
  if (type !== 'mrkdwn' && type !== 'markdown') return parts
  return {
    ...(type === 'mrkdwn' && { verbatim: true }),
    ...parts,
    ...(typeof text === 'string' && { text: escaped(text) }),
  }
}

/** What a message says. */
export type Content = Pick<Message, 'text'> & Partial<Message>

/** The same in Slack's fields, within its limits. */
export function layout({ text, blocks }: Content, log: Log): { text: string; blocks?: Block[] } {
  if (blocks?.length) return { text: pieces(text, maxText)[0] ?? '', blocks }
  if (text.length <= advisedText) return { text }
  let whole = text
  if (text.length > maxInBlocks) {
    log.warn(`slack: a text of ${text.length} characters was cut: a message holds ${maxInBlocks}`)
    whole = `${pieces(text, maxInBlocks - 2)[0]}\n…`
  }
  const section = (text: string) => ({ type: 'section', text: { type: 'mrkdwn', text, verbatim: true } })
  return { text: pieces(text, advisedText)[0]!, blocks: pieces(whole, maxSection).map(section) }
}

/** Words such as @channel stay words. */
export const literally = { link_names: false, parse: 'none' } as const
/** What links lead to is not shown. */
export const folded = { unfurl_links: false, unfurl_media: false }

/** A text in pieces of at most so many characters: between lines or words, and never within a link, an entity or a character. */
function pieces(text: string, limit: number): string[] {
  const found: string[] = []
  let rest = text
  while (rest.length > limit) {
    const most = rest.slice(0, limit)
    const gap = [most.lastIndexOf('\n'), most.lastIndexOf(' ')].find((at) => at > limit / 2)
    const piece = most.slice(0, gap).replace(/(<[^>]*|&\w*|[\ud800-\udbff])$/, '') || most
    found.push(piece)
    rest = rest.slice(piece.length).replace(/^[\n ]/, '')
  }
  return rest === '' ? found : [...found, rest]
}
