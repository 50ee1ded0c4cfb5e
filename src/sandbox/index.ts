import { type GoogleSheets, type GoogleSheetsQuota, googleSheets } from './google-sheets.js'
import { type HubSpot, type HubSpotLimits, hubspot } from './hubspot.js'
import { type Notion, type NotionSandboxOptions, notion } from './notion.js'
import { type Salesforce, type SalesforceLimits, salesforce } from './salesforce.js'
import { type Server, type ServerOptions, serve } from './server.js'
import { type Slack, type SlackLimits, slack } from './slack.js'

export type { Cell, GoogleSheets, GoogleSheetsQuota, ServiceAccount, SpreadsheetOptions } from './google-sheets.js'
export type { HubSpot, HubSpotLimits, HubSpotLink, HubSpotObject, HubSpotProperty } from './hubspot.js'
export type {
  Notion,
  NotionDatabaseOptions,
  NotionPage,
  NotionProperty,
  NotionSandboxOptions,
  NotionType,
  NotionValue,
} from './notion.js'
export { html } from './page.js'
export type { Salesforce, SalesforceApp, SalesforceLimits } from './salesforce.js'
export type { SalesforceJob } from './salesforce-bulk.js'
export type { SalesforceField, SalesforceRecord } from './salesforce-org.js'
export {
  type ApiRequest,
  type Fault,
  type Faults,
  type LoggedRequest,
  type Reply,
  type Server,
  type ServerOptions,
  serve,
  type Tenant,
} from './server.js'
export type { ChannelOptions, Slack, SlackLimits, SlackPost } from './slack.js'

export interface SandboxOptions extends ServerOptions {
  /** Google's quota of requests per minute and user, kept in a sliding window. @default no limit */
  readonly sheets?: GoogleSheetsQuota | undefined
  /** HubSpot's limits of requests, in any ten seconds and by the day (UTC). @default no limit */
  readonly hubspot?: HubSpotLimits | undefined
  /** Notion's limits, and how long its queries lag behind. @default none */
  readonly notion?: NotionSandboxOptions | undefined
  /** Salesforce's limit of requests in a day. @default 15,000 */
  readonly salesforce?: SalesforceLimits | undefined
  /** What Slack allows. @default no limit of messages a second */
  readonly slack?: SlackLimits | undefined
}

/** A running sandbox: `url` is what the vendors' clients are pointed at, and a page to look at in a browser. */
export interface Sandbox extends Server, AsyncDisposable {
  readonly sheets: GoogleSheets
  readonly hubspot: HubSpot
  readonly notion: Notion
  readonly salesforce: Salesforce
  readonly slack: Slack
}

/**
 * Starts a local server that speaks the vendors' APIs, keeps what is written to it in memory, refuses what they would
 * refuse, and fails on demand. For demos and tests; no vendor is contacted. It shows its content at `/`
 * (`/?refresh=2` reloads every two seconds).
 *
 * @throws ConfigError when the port cannot be had.
 *
 * @example
 * ```ts
 * const box = await sandbox()
 * const { id } = box.sheets.create({ title: 'Leads' })
 * const to = googleSheets({ spreadsheet: id, tab: 'Scored', endpoint: box.url, token: box.sheets.token })
 * await sync({ name: 'leads', from: leads, to }).run()
 * console.log(box.sheets.rows(id, 'Scored'))
 * await box.close()
 * ```
 */
export async function sandbox(options: SandboxOptions = {}): Promise<Sandbox> {
  const tenants = {
    sheets: googleSheets(options.sheets ?? {}),
    hubspot: hubspot(options.hubspot ?? {}),
    notion: notion(options.notion ?? {}),
    salesforce: salesforce(options.salesforce ?? {}),
    slack: slack(options.slack ?? {}),
  }
  const server = await serve(
    Object.values(tenants).map(({ tenant }) => tenant),
    options,
  )
  return {
    ...server,
    sheets: tenants.sheets.controls,
    hubspot: tenants.hubspot.controls,
    notion: tenants.notion.controls,
    salesforce: tenants.salesforce.controls,
    slack: tenants.slack.controls,
    [Symbol.asyncDispose]: server.close,
  }
}
