import { createSign } from 'node:crypto'
import { sheets as client } from '@googleapis/sheets'
import { JWT, OAuth2Client } from 'google-auth-library'
import { type Sandbox, type SandboxOptions, sandbox } from 'spillway/sandbox'
import { afterEach, expect, test, vi } from 'vitest'

let box: Sandbox

afterEach(async () => {
  vi.useRealTimers()
  await box.close()
})

/** A sandbox with one spreadsheet, `book`, and Google's own client for it. */
async function start(options: SandboxOptions = {}, tabs: Parameters<Sandbox['sheets']['create']>[0] = {}) {
  box = await sandbox(options)
  box.sheets.create({ id: 'book', tabs: { People: [] }, ...tabs })
  const auth = new OAuth2Client()
  auth.setCredentials({ access_token: box.sheets.token })
  return clientOf(auth)
}

function clientOf(auth: OAuth2Client) {
  return client({ version: 'v4', auth, rootUrl: `${box.url}/`, retry: false }).spreadsheets
}

const spreadsheetId = 'book'

/** Google's error, as the client hands it on. */
async function refusal(promise: Promise<unknown>): Promise<{ code: number; message: string; status: string }> {
  const error = await promise.then(
    () => expect.fail('it was not refused'),
    (error) => error,
  )
  return error.response.data.error
}

function put(range: string, values: unknown[][], valueInputOption = 'RAW') {
  return { spreadsheetId, range, valueInputOption, requestBody: { values: values as string[][] } }
}

// ---- values ------------------------------------------------------------------------------------------------------

test('what is written is read back, and the answer tells what was written', async () => {
  const { values } = await start()
  const { data } = await values.update(
    put('People!A1:C2', [
      ['id', 'name', 'vip'],
      [1, 'Ada', true],
    ]),
  )
  expect(data).toEqual({
    spreadsheetId,
    updatedRange: 'People!A1:C2',
    updatedRows: 2,
    updatedColumns: 3,
    updatedCells: 6,
  })
  const read = await values.get({ spreadsheetId, range: 'People', valueRenderOption: 'UNFORMATTED_VALUE' })
  expect(read.data).toEqual({
    range: 'People!A1:Z1000',
    majorDimension: 'ROWS',
    values: [
      ['id', 'name', 'vip'],
      [1, 'Ada', true],
    ],
  })
  expect(box.sheets.rows('book', 'People')).toEqual([
    ['id', 'name', 'vip'],
    [1, 'Ada', true],
  ])
})

test('null leaves a cell alone, an empty text makes it blank', async () => {
  const { values } = await start({}, { tabs: { People: [[1, 2, 3]] } })
  const { data } = await values.update(put('People!A1:C1', [[null, '', 9]]))
  expect(data.updatedCells).toBe(2)
  expect(box.sheets.rows('book', 'People')).toEqual([[1, null, 9]])
})

test('blank cells at the end of rows, and blank rows at the end, are not sent', async () => {
  const { values } = await start({}, { tabs: { People: [['a', null, 'c', null], [], ['x'], [null]] } })
  const { data } = await values.get({ spreadsheetId, range: 'People!A1:D9' })
  expect(data.values).toEqual([['a', '', 'c'], [], ['x']])
  expect((await values.get({ spreadsheetId, range: 'People!C2:D9' })).data).toEqual({
    range: 'People!C2:D9',
    majorDimension: 'ROWS',
  })
})

test('RAW keeps text as it is; USER_ENTERED reads it as if typed, and a formula stands out', async () => {
  const { values } = await start()
  const texts = ['=1+1', '-A1', '007', '1,234.5', '12.5%', 'TRUE', '2026-11-21', "'=no", '@x', '']
  await values.update(put('People!A1', [texts]))
  await values.update(put('People!A2', [texts], 'USER_ENTERED'))
  expect(box.sheets.rows('book', 'People')).toEqual([
    ['=1+1', '-A1', '007', '1,234.5', '12.5%', 'TRUE', '2026-11-21', "'=no", '@x'],
    [{ formula: '=1+1' }, { formula: '=-A1' }, 7, 1234.5, 0.125, true, 46347, '=no', '@x'],
  ])
  const read = async (valueRenderOption: string) =>
    (await values.get({ spreadsheetId, range: 'People!A2:G2', valueRenderOption })).data.values?.[0]
  expect(await read('FORMATTED_VALUE')).toEqual(['#N/A', '#N/A', '7', '1234.5', '12.5%', 'TRUE', '2026-11-21'])
  expect(await read('FORMULA')).toEqual(['=1+1', '=-A1', 7, 1234.5, 0.125, true, 46347])
})

test('several ranges are read and written in one request, all of it or nothing', async () => {
  const { values } = await start({}, { tabs: { People: [], 'Two words': [] } })
  const data = [
    { range: 'People!B2', values: [['b2']] },
    { range: "'Two words'!A1:A2", values: [['x'], ['y']] },
  ]
  const requestBody = { valueInputOption: 'RAW', data }
  const written = await values.batchUpdate({ spreadsheetId, requestBody })
  expect(written.data).toMatchObject({ totalUpdatedRows: 3, totalUpdatedCells: 3, totalUpdatedSheets: 2 })
  expect(written.data.responses?.map(({ updatedRange }) => updatedRange)).toEqual(['People!B2', "'Two words'!A1:A2"])

  const read = await values.batchGet({ spreadsheetId, ranges: ['People!A:B', "'Two words'!A2:A"] })
  expect(read.data.valueRanges).toEqual([
    { range: 'People!A1:B1000', majorDimension: 'ROWS', values: [[], ['', 'b2']] },
    { range: "'Two words'!A2:A1000", majorDimension: 'ROWS', values: [['y']] },
  ])

  data[0]!.values = [['changed']]
  data[1]!.range = 'Nowhere!A1'
  expect(await refusal(values.batchUpdate({ spreadsheetId, requestBody }))).toMatchObject({
    code: 400,
    message: 'Invalid data[1]: Unable to parse range: Nowhere!A1',
    status: 'INVALID_ARGUMENT',
  })
  expect(box.sheets.rows('book', 'People')).toEqual([[], [null, 'b2']])
})

test('a range may name rows, columns, or where to start', async () => {
  const { values } = await start(
    {},
    {
      tabs: {
        People: [
          [1, 2, 3],
          [4, 5, 6],
          [7, 8, 9],
        ],
      },
    },
  )
  const read = async (range: string) => (await values.get({ spreadsheetId, range })).data
  expect((await read('2:2')).range).toBe('People!A2:Z2')
  expect((await read('People!B:C')).values).toEqual([
    ['2', '3'],
    ['5', '6'],
    ['8', '9'],
  ])
  expect((await read('People!B2:B')).values).toEqual([['5'], ['8']])
  expect((await read('C1')).values).toEqual([['3']])
  expect((await read("'People'!C3:A2")).values).toEqual([
    ['4', '5', '6'],
    ['7', '8', '9'],
  ])
  const columns = await values.get({ spreadsheetId, range: 'A1:B3', majorDimension: 'COLUMNS' })
  expect(columns.data.values).toEqual([
    ['1', '4', '7'],
    ['2', '5', '8'],
  ])
})

test('append writes below the last row and grows the grid; clear leaves the grid', async () => {
  const api = await start()
  await api.values.update(
    put(
      'People!A1:A1000',
      Array.from({ length: 1000 }, (_, row) => [row]),
    ),
  )
  const { data } = await api.values.append(
    put('People!A1', [
      ['new', 1],
      ['newer', 2],
    ]),
  )
  expect(data).toMatchObject({ tableRange: 'People!A1:A1000', updates: { updatedRange: 'People!A1001:B1002' } })
  const { data: book } = await api.get({ spreadsheetId })
  expect(book.sheets?.[0]?.properties?.gridProperties).toEqual({ rowCount: 1002, columnCount: 26 })

  expect((await api.values.clear({ spreadsheetId, range: 'People!A2:Z' })).data.clearedRange).toBe('People!A2:Z1002')
  const cleared = await api.values.batchClear({ spreadsheetId, requestBody: { ranges: ['People!A1', 'People!B1'] } })
  expect(cleared.data.clearedRanges).toEqual(['People!A1', 'People!B1'])
  expect(box.sheets.rows('book', 'People')).toEqual([])
})

test.each([
  [
    'rows below the grid',
    put('People!A1001:B1001', [['x']]),
    'Range (People!A1001) exceeds grid limits. Max rows: 1000, max columns: 26',
  ],
  [
    'columns beside the grid',
    put('People!Z1', [['x', 'y']]),
    'Range (People!Z1:AA1) exceeds grid limits. Max rows: 1000, max columns: 26',
  ],
  [
    'more rows than the range',
    put('People!A1:B2', [['x'], ['y'], ['z']]),
    'Requested writing within range [People!A1:B2], but tried writing to row [3]',
  ],
  [
    'more columns than the range',
    put('People!A1:B2', [['x', 'y', 'z']]),
    'Requested writing within range [People!A1:B2], but tried writing to column [C]',
  ],
  [
    'a cell of 50,001 characters',
    put('People!A1', [['x'.repeat(50_001)]]),
    'Your input contains more than the maximum of 50000 characters in a single cell.',
  ],
  ['a list in a cell', put('People!A1', [['x'], [['y']]]), 'Invalid values[1][0]: list_value'],
  ['an unknown tab', put('Nowhere!A1', [['x']]), 'Unable to parse range: Nowhere!A1'],
  [
    'no word about how to read text',
    put('People!A1', [['x']], 'INPUT_VALUE_OPTION_UNSPECIFIED'),
    "'valueInputOption' is required but not specified",
  ],
])("%s is refused in Google's words", async (_, request, message) => {
  const { values } = await start()
  expect(await refusal(values.update(request))).toEqual({ code: 400, message, status: 'INVALID_ARGUMENT' })
  expect(box.sheets.rows('book', 'People')).toEqual([])
})

test('reading below the grid is refused, reading across its edge is cut off', async () => {
  const { values } = await start()
  const { message } = await refusal(values.get({ spreadsheetId, range: 'People!A1001:B1002' }))
  expect(message).toBe('Range (People!A1001) exceeds grid limits. Max rows: 1000, max columns: 26')
  expect((await values.get({ spreadsheetId, range: 'People!A999:AC2000' })).data.range).toBe('People!A999:Z1000')
})

// ---- spreadsheets --------------------------------------------------------------------------------------------------

test('a spreadsheet is made through the API too, and answers are cut to the fields asked for', async () => {
  const api = await start()
  const sheets = [{ properties: { title: 'One' } }, { properties: { title: 'Two' } }]
  const { data } = await api.create({ requestBody: { properties: { title: 'Made' }, sheets } })
  expect(data.properties?.title).toBe('Made')
  const made = await api.get({
    spreadsheetId: data.spreadsheetId!,
    fields: 'sheets(properties(title,index)),properties.title',
  })
  expect(made.data).toEqual({
    properties: { title: 'Made' },
    sheets: [{ properties: { title: 'One', index: 0 } }, { properties: { title: 'Two', index: 1 } }],
  })
  expect(await refusal(api.get({ spreadsheetId: 'nobody-made-it' }))).toEqual({
    code: 404,
    message: 'Requested entity was not found.',
    status: 'NOT_FOUND',
  })
})

test('batchUpdate changes tabs, grid and cells in the order given', async () => {
  const api = await start({}, { tabs: { People: [['a'], ['b'], ['c']] } })
  const requests = [
    { addSheet: { properties: { sheetId: 7, title: 'Extra', gridProperties: { rowCount: 2, columnCount: 2 } } } },
    { appendDimension: { sheetId: 7, dimension: 'ROWS', length: 3 } },
    {
      updateCells: {
        start: { sheetId: 7, rowIndex: 4, columnIndex: 0 },
        rows: [
          { values: [{ userEnteredValue: { stringValue: '=1+1' } }, { userEnteredValue: { formulaValue: '=1+1' } }] },
        ],
        fields: 'userEnteredValue',
      },
    },
    {
      updateSheetProperties: {
        properties: { sheetId: 7, title: 'More', gridProperties: { frozenRowCount: 1 } },
        fields: 'title,gridProperties.frozenRowCount',
      },
    },
  ]
  const { data } = await api.batchUpdate({
    spreadsheetId,
    requestBody: { requests, includeSpreadsheetInResponse: true },
  })
  expect(data.replies).toHaveLength(4)
  expect(data.replies?.[0]?.addSheet?.properties).toMatchObject({ sheetId: 7, index: 1 })
  expect(data.updatedSpreadsheet?.sheets?.[1]?.properties).toMatchObject({
    title: 'More',
    gridProperties: { rowCount: 5, columnCount: 2, frozenRowCount: 1 },
  })
  expect(box.sheets.rows('book', 'More')).toEqual([[], [], [], [], ['=1+1', { formula: '=1+1' }]])
})

test('rows and columns are inserted and deleted with what they hold', async () => {
  const api = await start(
    {},
    {
      tabs: {
        People: [
          ['a', 1],
          ['b', 2],
          ['c', 3],
        ],
      },
    },
  )
  const { data } = await api.get({ spreadsheetId })
  const sheetId = data.sheets?.[0]?.properties?.sheetId
  const rows = (startIndex: number, endIndex: number) => ({
    range: { sheetId, dimension: 'ROWS', startIndex, endIndex },
  })
  const change = (...requests: object[]) => api.batchUpdate({ spreadsheetId, requestBody: { requests } })
  await change({ deleteDimension: rows(1, 2) }, { insertDimension: rows(0, 1) })
  expect(box.sheets.rows('book', 'People')).toEqual([[], ['a', 1], ['c', 3]])
  await change({ deleteDimension: { range: { sheetId, dimension: 'COLUMNS', startIndex: 0, endIndex: 1 } } })
  expect(box.sheets.rows('book', 'People')).toEqual([[], [1], [3]])
  await change({
    appendCells: { sheetId, rows: [{ values: [{ userEnteredValue: { numberValue: 4 } }] }], fields: '*' },
  })
  await change({ updateCells: { range: { sheetId, startRowIndex: 1, endRowIndex: 3 }, fields: '*' } })
  expect(box.sheets.rows('book', 'People')).toEqual([[], [], [], [4]])
  expect((await refusal(change({ deleteDimension: rows(1000, 1001) }))).message).toContain("a row that doesn't exist")
  expect((await refusal(change({ deleteDimension: rows(0, 1000) }))).message).toContain("can't delete all the rows")
})

test.each([
  [
    { addSheet: { properties: { title: 'people' } } },
    'addSheet: A sheet with the name "people" already exists. Please enter another name.',
  ],
  [{ addSheet: { properties: { title: '' } } }, 'addSheet: The sheet name must be between 1 and 100 characters long.'],
  [{ appendDimension: { sheetId: 404, dimension: 'ROWS', length: 1 } }, 'appendDimension: No grid with id: 404'],
  [
    { addSheet: { properties: { gridProperties: { rowCount: 1_000_000, columnCount: 10 } } } },
    'addSheet: This action would increase the number of cells in the workbook above the limit of 10000000 cells.',
  ],
  [
    { updateCells: { start: { sheetId: 7, rowIndex: 5 }, rows: [{ values: [{}] }], fields: '*' } },
    'updateCells: Range (First!A6) exceeds grid limits. Max rows: 5, max columns: 5',
  ],
  [
    { updateCells: { start: { sheetId: 7 }, rows: [] } },
    "updateCells: At least one field must be listed in 'fields'. (Use '*' to indicate all fields.)",
  ],
])('a request that is refused undoes those before it: %j', async (request, message) => {
  const api = await start()
  const first = {
    addSheet: { properties: { sheetId: 7, title: 'First', gridProperties: { rowCount: 5, columnCount: 5 } } },
  }
  const refused = await refusal(api.batchUpdate({ spreadsheetId, requestBody: { requests: [first, request] } }))
  expect(refused).toEqual({ code: 400, message: `Invalid requests[1].${message}`, status: 'INVALID_ARGUMENT' })
  expect(box.sheets.tabs('book')).toEqual(['People'])
})

test('a column is shown in the number format that it is given, on the page and in answers; its values stay', async () => {
  const api = await start(
    {},
    {
      tabs: {
        People: [
          ['sum', 'day', 'share'],
          [1234.5, 46_347, 0.126],
          ['text', 0.75],
        ],
      },
    },
  )
  const { data } = await api.get({ spreadsheetId })
  const sheetId = data.sheets?.[0]?.properties?.sheetId
  const format = (column: number, type: string, pattern: string) => ({
    repeatCell: {
      range: { sheetId, startRowIndex: 1, startColumnIndex: column, endColumnIndex: column + 1 },
      cell: { userEnteredFormat: { numberFormat: { type, pattern } } },
      fields: 'userEnteredFormat.numberFormat',
    },
  })
  const change = (...requests: object[]) => api.batchUpdate({ spreadsheetId, requestBody: { requests } })
  const columns = [
    format(0, 'NUMBER', '#,##0.00" <EUR>"'),
    format(1, 'DATE_TIME', 'd.m.yy h:mm'),
    format(2, 'PERCENT', '0%'),
  ]
  await change(...columns)
  expect((await api.values.get({ spreadsheetId, range: 'People' })).data.values).toEqual([
    ['sum', 'day', 'share'],
    ['1,234.50 <EUR>', '21.11.26 0:00', '13%'],
    ['text', '30.12.99 18:00'],
  ])
  expect(box.sheets.rows('book', 'People')[1]).toEqual([1234.5, 46_347, 0.126])
  expect(await (await fetch(box.url)).text()).toContain('1,234.50 &#60;EUR&#62;')
  expect((await refusal(change(format(30, 'NUMBER', '0')))).message).toContain('outside of the grid')
  expect((await refusal(change(format(0, 'number', '0')))).message).toContain('"number"')
})

test('the rows below a frozen header cannot all be deleted', async () => {
  const api = await start({}, { tabs: { People: [['a'], ['b']] } })
  const { data } = await api.get({ spreadsheetId })
  const sheetId = data.sheets?.[0]?.properties?.sheetId
  const change = (...requests: object[]) => api.batchUpdate({ spreadsheetId, requestBody: { requests } })
  const properties = { sheetId, gridProperties: { frozenRowCount: 1 } }
  const rows = { deleteDimension: { range: { sheetId, dimension: 'ROWS', startIndex: 1, endIndex: 1000 } } }
  await change({ updateSheetProperties: { properties, fields: 'gridProperties.frozenRowCount' } })
  expect((await refusal(change(rows))).message).toContain("can't delete all the non-frozen rows")
  expect(box.sheets.rows('book', 'People')).toEqual([['a'], ['b']])
})

test('the last tab cannot be deleted, another one can', async () => {
  const api = await start({}, { tabs: { One: [], Two: [] } })
  const { data } = await api.get({ spreadsheetId })
  const [one, two] = data.sheets!.map(({ properties }) => properties!.sheetId!) as [number, number]
  const remove = (sheetId: number) =>
    api.batchUpdate({ spreadsheetId, requestBody: { requests: [{ deleteSheet: { sheetId } }] } })
  await remove(one)
  expect(box.sheets.tabs('book')).toEqual(['Two'])
  expect((await refusal(remove(two))).message).toContain("can't remove all the sheets")
})

test('developer metadata of a tab is kept, changed and deleted, up to 30,000 characters', async () => {
  const api = await start({}, { tabs: { One: [] } })
  const { data: book } = await api.get({ spreadsheetId })
  const sheetId = book.sheets?.[0]?.properties?.sheetId
  const change = (request: object) => api.batchUpdate({ spreadsheetId, requestBody: { requests: [request] } })
  const stored = async () => (await api.get({ spreadsheetId })).data.sheets?.[0]?.developerMetadata
  const developerMetadata = {
    metadataId: 5,
    metadataKey: 'k',
    metadataValue: 'v',
    location: { sheetId },
    visibility: 'DOCUMENT',
  }
  await change({ createDeveloperMetadata: { developerMetadata } })
  expect(await stored()).toEqual([{ ...developerMetadata, location: { locationType: 'SHEET', sheetId } }])

  const byId = { developerMetadataLookup: { metadataId: 5 } }
  const to = (metadataValue: string) => ({
    updateDeveloperMetadata: { dataFilters: [byId], developerMetadata: { metadataValue }, fields: 'metadataValue' },
  })
  await change(to('w'))
  expect(await stored()).toMatchObject([{ metadataKey: 'k', metadataValue: 'w' }])
  expect((await refusal(change(to('x'.repeat(30_000))))).message).toContain('30000 characters')

  await change({ deleteDeveloperMetadata: { dataFilter: { developerMetadataLookup: { metadataKey: 'k' } } } })
  expect(await stored()).toBeUndefined()
})

test('a call that the sandbox does not speak says so', async () => {
  const api = await start()
  const copy = api.sheets.copyTo({ spreadsheetId, sheetId: 0, requestBody: { destinationSpreadsheetId: 'x' } })
  expect(await refusal(copy)).toMatchObject({ code: 501, status: 'UNIMPLEMENTED' })
  const requests = [{ sortRange: {} }]
  expect((await refusal(api.batchUpdate({ spreadsheetId, requestBody: { requests } }))).message).toContain('sortRange')
})

// ---- who may -----------------------------------------------------------------------------------------------------

/** A service account's client whose token endpoint is the sandbox's. */
function signedIn({ client_email, private_key }: { client_email: string; private_key: string }) {
  const fetchImplementation = (url: string | URL | Request, init?: RequestInit) =>
    fetch(String(url).replace('https://oauth2.googleapis.com', box.url), init)
  const scopes = ['https://www.googleapis.com/auth/spreadsheets']
  return clientOf(
    new JWT({
      email: client_email,
      key: private_key,
      scopes,
      transporterOptions: { fetchImplementation: fetchImplementation as typeof fetch },
    }),
  )
}

test('a service account signs in and opens what is shared with it', async () => {
  const account = await start({}, { sharedWith: ['robot@project.test'] }).then(() =>
    box.sheets.serviceAccount('robot@project.test'),
  )
  await signedIn(account).values.update(put('People!A1', [['hello']]))
  expect(box.sheets.rows('book', 'People')).toEqual([['hello']])
  expect(box.requests.map(({ path }) => path)[0]).toBe('/token')

  const stranger = signedIn(box.sheets.serviceAccount('stranger@project.test'))
  expect(await refusal(stranger.get({ spreadsheetId }))).toEqual({
    code: 403,
    message: 'The caller does not have permission',
    status: 'PERMISSION_DENIED',
  })
})

test('a token that nobody issued, or that has expired, is a 401; none at all a 403', async () => {
  await start()
  vi.useFakeTimers({ toFake: ['Date'] })
  const ask = async (authorization?: string) => {
    const response = await fetch(`${box.url}/v4/spreadsheets/book`, { headers: authorization ? { authorization } : {} })
    const { error } = (await response.json()) as { error?: { status: string } }
    return { status: response.status, error: error?.status }
  }
  expect(await ask('Bearer stolen')).toEqual({ status: 401, error: 'UNAUTHENTICATED' })
  expect(await ask()).toEqual({ status: 403, error: 'PERMISSION_DENIED' })
  const { access_token } = await token(assertion({}))
  expect(await ask(`Bearer ${access_token}`)).toEqual({ status: 200, error: undefined })
  vi.advanceTimersByTime(3_600_000)
  expect(await ask(`Bearer ${access_token}`)).toEqual({ status: 401, error: 'UNAUTHENTICATED' })
})

function assertion(claims: object, { alg = 'RS256', key = box.sheets.serviceAccount().private_key } = {}): string {
  const now = Math.floor(Date.now() / 1000)
  const good = {
    iss: box.sheets.serviceAccount().client_email,
    aud: 'https://oauth2.googleapis.com/token',
    scope: 'https://www.googleapis.com/auth/spreadsheets',
    iat: now,
    exp: now + 3600,
  }
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const signed = `${part({ alg, typ: 'JWT' })}.${part({ ...good, ...claims })}`
  return `${signed}.${createSign('sha256').update(signed).sign(key, 'base64url')}`
}

async function token(
  assertion: string,
  grant_type = 'urn:ietf:params:oauth:grant-type:jwt-bearer',
): Promise<Record<string, unknown>> {
  const response = await fetch(`${box.url}/token`, {
    method: 'POST',
    body: new URLSearchParams({ grant_type, assertion }),
  })
  return { httpStatus: response.status, ...((await response.json()) as Record<string, unknown>) }
}

test('the token endpoint refuses what Google refuses', async () => {
  await start()
  expect(await token(assertion({}))).toMatchObject({ httpStatus: 200, token_type: 'Bearer', expires_in: 3599 })
  const refused = async (assertion: string) => {
    const { httpStatus, error, error_description } = await token(assertion)
    expect(httpStatus).toBe(400)
    return `${error}: ${error_description}`
  }
  expect(await refused(assertion({ iss: 'nobody@project.test' }))).toBe(
    'invalid_grant: Invalid grant: account not found',
  )
  const other = box.sheets.serviceAccount('other@project.test').private_key
  expect(await refused(assertion({}, { key: other }))).toBe('invalid_grant: Invalid JWT Signature.')
  expect(await refused(assertion({ aud: 'https://example.com' }))).toContain('audience')
  expect(await refused(assertion({ exp: Math.floor(Date.now() / 1000) + 7200 }))).toContain('60 minutes')
  expect(await refused(assertion({ scope: 'https://www.googleapis.com/auth/calendar' }))).toContain('invalid_scope')
  expect(await refused(assertion({}, { alg: 'HS256' }))).toContain('RS256')
  expect(await refused('not a token')).toContain('RS256')
  expect(await token('', 'password')).toMatchObject({ error: 'unsupported_grant_type' })
})

// ---- limits -------------------------------------------------------------------------------------------------------

test('the quota counts reads and writes apart, per user, in any minute', async () => {
  const { values } = await start({ sheets: { reads: 1, writes: 2 } })
  vi.useFakeTimers({ toFake: ['Date'] })
  const write = () => values.update(put('People!A1', [['x']]))
  const other = signedIn(box.sheets.serviceAccount())
  await write()
  vi.advanceTimersByTime(30_000)
  await write()
  const refused = await refusal(write())
  expect(refused).toMatchObject({
    code: 429,
    status: 'RESOURCE_EXHAUSTED',
    details: [{ reason: 'RATE_LIMIT_EXCEEDED' }],
  })
  expect(refused.message).toContain("Quota exceeded for quota metric 'Write requests'")
  await values.get({ spreadsheetId, range: 'People' })
  await other.values.update(put('People!A1', [['y']]))
  vi.advanceTimersByTime(30_001)
  await write()
  expect((await refusal(write())).code).toBe(429)
})

test('a body of more than 10 MB is refused', async () => {
  const { values } = await start()
  const rows = Array.from({ length: 1000 }, () => ['x'.repeat(11_000)])
  expect(await refusal(values.update(put('People!A1:A1000', rows)))).toMatchObject({
    code: 400,
    message: 'Request payload size exceeds the limit: 10485760 bytes.',
  })
})

test('what is no JSON is refused', async () => {
  await start()
  const response = await fetch(`${box.url}/v4/spreadsheets/book:batchUpdate`, {
    method: 'POST',
    headers: { authorization: `Bearer ${box.sheets.token}`, 'content-type': 'application/json' },
    body: '{"requests": [',
  })
  expect(await response.json()).toMatchObject({
    error: { code: 400, message: expect.stringContaining('Invalid JSON payload') },
  })
})
