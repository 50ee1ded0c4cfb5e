import { sync } from 'spillway'
import { googleSheets } from 'spillway/destinations/google-sheets'
import { duckdb } from 'spillway/sources/duckdb'

// Every day of weather with its distance from what is usual in that month, in standard deviations.
const scored = duckdb<{ date: string; weather: string; temp_max: number; z_score: number; unusual: boolean }>({
  path: 'weather.duckdb',
  query: `
    select date, weather, temp_max, precipitation, wind,
      round((temp_max - avg(temp_max) over (partition by month(date))) / stddev(temp_max) over (partition by month(date)), 2) as z_score,
      abs(z_score) > 2.5 as unusual
    from weather
    order by date`,
})

// `insert` sends each key once: a later run sends only the days that came since.
export default sync({
  name: 'weather',
  from: scored,
  to: googleSheets({ spreadsheet: process.env['SPREADSHEET'] ?? '', tab: 'Seattle' }),
  key: 'date',
  mode: 'insert',
})
