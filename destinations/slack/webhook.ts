import { ConfigError, type Destination, destination, FatalError, type Injected, reject } from 'spillway'
import { z } from 'zod'
import { webPage } from './client.js'
import { hashOf } from './marks.js'
import { folded, layout, literally, message, type SlackMessage } from './message.js'

/** What {@link slackWebhook} is told. */
export interface SlackWebhookOptions extends Injected<{ readonly webhook: string }> {
  /**
   * What to do with a message whose answer was lost, which a webhook cannot look up: `'resend'` it, so that it may arrive twice,
   * or `'hold'` it, so that it may not have arrived at all.
   */
  readonly onUnknown: 'resend' | 'hold'
}

/**
 * The channel of an incoming webhook: a message for each row, once.
 *
 * **What is guaranteed is less than with `slack()`.** A webhook answers `ok` and no more: a message can be neither changed,
 * deleted nor looked up, so that `onUnknown` must say what becomes of one whose answer was lost. Its address is a secret: whoever
 * knows it can post. The channel is the webhook's own; a record that names one is rejected.
 *
 * @throws ConfigError when an option cannot work.
 *
 * @example
 * ```ts
 * const to = slackWebhook({ webhook: secret('SLACK_WEBHOOK'), onUnknown: 'resend' })
 * await sync({ name: 'signups', from: signups, map: (s) => ({ text: `New: ${s.email}` }), to }).run()
 * ```
 */
export function slackWebhook({ onUnknown, ...given }: SlackWebhookOptions): Destination<SlackMessage, 'insert'> {
  if (onUnknown === undefined) throw new ConfigError(`slack-webhook: onUnknown is missing: say 'resend' or 'hold'`)
  const address = 'must be the address of an incoming webhook, https://hooks.slack.com/services/…'
  return destination({
    name: 'slack-webhook',
    record: message,
    // as it stands in errors, where it is redacted
    config: z.object({ webhook: z.url(address).transform((webhook) => new URL(webhook.trim()).href) }),
    target: ({ webhook }: { webhook: string }) => hashOf(webhook),
    maxBatchSize: 1,
    concurrency: 1,
    rate: '1/s',
    onUnknown,
  })({
    async insert(batch, { config, http, log }) {
      const record = batch[0]!
      if (record.channel)
        return [reject(record, 'a webhook posts to its own channel: leave channel out, or use slack()')]
      const thread = record.thread && { thread_ts: record.thread }
      const json = { ...layout(record, log), ...thread, ...literally, ...folded }
      const reply = await http(config.webhook, { method: 'POST', json }).catch((error) => {
        if (!noWebhook.test(error.detail)) throw error
        throw new FatalError(`${error.message}; make a new webhook`)
      })
      if ((await reply.text()).trim() !== 'ok') throw webPage(reply)
      return []
    },
  })(given)
}

/** https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors */
const noWebhook = /^(invalid_token|no_service|no_service_id|no_active_hooks|no_team|team_disabled)$/
