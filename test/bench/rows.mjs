/** Rows of eight columns, as a sync would read them; the same for everybody who is measured. */
export function* rows(count) {
  for (let id = 1; id <= count; id++) {
    yield {
      id,
      email: `person${id}@example.com`,
      name: `Person Number ${id}`,
      score: (id % 1000) / 1000,
      active: id % 3 === 0,
      plan: plans[id % plans.length],
      balance: `${id % 10_000}.${String(id % 100).padStart(2, '0')}`,
      updated_at: '2026-11-21T01:33:00.000Z',
    }
  }
}

const plans = ['free', 'team', 'business', 'enterprise']

/** The same rows in arrays. */
export function* chunks(count, size) {
  let chunk = []
  for (const row of rows(count)) {
    chunk.push(row)
    if (chunk.length < size) continue
    yield chunk
    chunk = []
  }
  if (chunk.length > 0) yield chunk
}
