import type { DuckDBConnection } from '@duckdb/node-api'
import type { Sifted } from '../source.js'

/**
 * Holds a relation with `hi` and `lo` against the fingerprints that are known, each of them once and none null, in one scan of both. Makes two
 * views: `spillway_news`, the rows that have another fingerprint, with `place`, by which they are in their order as far as they were
 * read in it; `spillway_missed`, the fingerprints that no row has. The names are such as no table of a user has: `temp` is for a database that
 * is not ours to write to. What was found is put where `keep` does, under the name that it is given.
 */
export async function sift(
  connection: DuckDBConnection,
  relation: string,
  known: string,
  temp: 'temp' | '',
  keep: (name: string, select: string) => Promise<unknown>,
): Promise<Sifted> {
  await connection.run(`create ${temp} sequence spillway_row`)
  // the right side is held in memory: it should be that of the fingerprints, however few rows are expected of the other
  await connection.run(`set disabled_optimizers = 'build_side_probe_side'`)
  try {
    await keep(
      'spillway_sifted',
      `select r.*, k.hi as missed_hi, k.lo as missed_lo
        from (select *, nextval('spillway_row') as place from (${relation})) r
          full join (${known}) k on r.hi = k.hi and r.lo = k.lo
        where r.place is null or k.hi is null`,
    )
  } finally {
    await connection.run('reset disabled_optimizers')
  }
  await connection.run(`
    create ${temp} view spillway_news as select * exclude (missed_hi, missed_lo) from spillway_sifted where place is not null;
    create ${temp} view spillway_missed as select missed_hi as hi, missed_lo as lo from spillway_sifted where place is null`)
  const counted = await connection.runAndReadAll(
    `select nextval('spillway_row') - 1, (select count(*) from (${known})), count(place), count(*) - count(place) from spillway_sifted`,
  )
  const [rows, fingerprints, news, missed] = counted.getRows()[0]!.map(Number) as [number, number, number, number]
  return { rows, known: fingerprints, news, missed }
}

/** Whether no two rows share a fingerprint that was known: then those that are not news are as many as the fingerprints not missed. */
export function metOnce({ rows, news, known, missed }: Sifted): boolean {
  return rows - news === known - missed
}
