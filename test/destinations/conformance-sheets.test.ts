import { googleSheets } from 'spillway/destinations/google-sheets'
import { sandbox } from 'spillway/sandbox'
import { conforms } from '../support/conforms.js'

await conforms('google-sheets', {
  async open() {
    const box = await sandbox()
    const { id } = box.sheets.create({ tabs: { People: [] } })
    return {
      to: googleSheets({ spreadsheet: id, tab: 'People', endpoint: box.url, token: box.sheets.token }).with({
        batchSize: 100,
      }),
      record: (n, version) => ({ id: n, name: `The name of ${n} in ${version}`, score: version }),
      read() {
        const [header = [], ...rows] = box.sheets.rows(id, 'People')
        return rows.map((row) => Object.fromEntries(header.map((name, column) => [name, row[column]])))
      },
      faults: box.faults,
      bad: { record: { id: 99, name: 'x'.repeat(50_001), score: 0 }, reason: 'a cell of Google Sheets holds 50000' },
      field: { name: 'note', values: [0, false, 'a text'] }, // an empty text is a blank cell
      secrets: [box.sheets.token],
      close: box.close,
    }
  },
})
