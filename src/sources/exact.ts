import { Instant } from '../values.js'

// Numbers and times of columns, as texts that say all of them.

/** The double whose text is the shortest of those that are this float: 0.1, not 0.10000000149011612. */
export function shortest(float: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const rounded = Number(float.toPrecision(digits))
    if (Math.fround(rounded) === float) return rounded
  }
  return Number(float.toPrecision(9))
}

/** Integers of 64 bits by their index: as `number` where that is exact, for a `bigint` costs ten times as much. */
export function longs(all: BigInt64Array): (index: number) => number | bigint {
  const halves = new Int32Array(all.buffer, all.byteOffset, all.length * 2)
  return (index) => {
    const high = halves[index * 2 + 1]!
    return high >= -0x20_0000 && high < 0x20_0000 ? high * 2 ** 32 + (halves[index * 2]! >>> 0) : all[index]!
  }
}

/** The integer that these digits make; by way of a `number` where that is exact, which is quicker. */
export function longOf(digits: string): bigint {
  return BigInt(digits.length < 16 ? Number(digits) : digits)
}

/** An integer with its last `scale` digits behind the point. */
export function decimalText(unscaled: number | bigint, scale: number): string {
  if (scale === 0) return String(unscaled)
  const sign = unscaled < 0 ? '-' : ''
  const digits = String(unscaled)
    .slice(sign.length)
    .padStart(scale + 1, '0')
  return `${sign}${digits.slice(0, -scale)}.${digits.slice(-scale)}`
}

const two = Array.from({ length: 100 }, (_, number) => String(number).padStart(2, '0'))

/** The day asked for last: most rows have that of the row before. */
let known = { day: Number.NaN, text: '' }

/** A day counted from 1970 as DuckDB writes it; no `Date` could: its days end in the year 275760. */
export function dateText(day: number): string {
  if (day !== known.day) known = { day, text: textOfDay(day) }
  return known.text
}

function textOfDay(day: number): string {
  if (Math.abs(day) === 0x7fffffff) return day < 0 ? '-infinity' : 'infinity'
  // counted in eras of 400 years that begin on the first of March, so that leap days come last
  const days = day + 719_468
  const era = Math.floor(days / 146_097)
  const ofEra = days - era * 146_097
  const yearOfEra = Math.floor(
    (ofEra - Math.floor(ofEra / 1_460) + Math.floor(ofEra / 36_524) - Math.floor(ofEra / 146_096)) / 365,
  )
  const ofYear = ofEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const march = Math.floor((5 * ofYear + 2) / 153)
  const month = march < 10 ? march + 3 : march - 9
  const year = era * 400 + yearOfEra + (month <= 2 ? 1 : 0)
  const text = `-${two[month]}-${two[ofYear - Math.floor((153 * march + 2) / 5) + 1]}`
  return year > 0 ? `${String(year).padStart(4, '0')}${text}` : `${String(1 - year).padStart(4, '0')}${text} (BC)`
}

/** A time of day, in units of a second's `digits`-th decimal, without zeros at the end. */
export function clockText(time: number, digits: number): string {
  const unit = 10 ** digits
  const seconds = Math.floor(time / unit)
  const clock = `${two[Math.floor(seconds / 3600)]}:${two[Math.floor(seconds / 60) % 60]}:${two[seconds % 60]}`
  let fraction = time - seconds * unit
  if (fraction === 0) return clock
  let places = digits
  for (; fraction % 10 === 0; fraction /= 10) places--
  return `${clock}.${String(fraction).padStart(places, '0')}`
}

const infinity = 2n ** 63n - 1n

/** The last microsecond that a `Date` can be, in the year 275760; the first is as far before 1970. */
export const latest = 8_640_000_000_000_000_000n

/** A point in time, counted from 1970 in units of a second's `digits`-th decimal. */
export function timestampText(value: number | bigint, digits: number): string {
  const perDay = 86_400 * 10 ** digits
  const units = Number(value)
  if (!Number.isSafeInteger(units)) {
    const all = BigInt(value)
    if (all === infinity || all === -infinity) return all < 0n ? '-infinity' : 'infinity'
    const time = ((all % BigInt(perDay)) + BigInt(perDay)) % BigInt(perDay)
    return `${dateText(Number((all - time) / BigInt(perDay)))}T${clockText(Number(time), digits)}`
  }
  const day = Math.floor(units / perDay) // exact, and much quicker than the remainder
  return `${dateText(day)}T${clockText(units - day * perDay, digits)}`
}

/** A point in time of a zone, counted in microseconds; a text where no `Date` reaches. */
export function instant(micros: number | bigint): Date | string {
  if (micros >= -latest && micros <= latest) return Instant.ofMicros(micros)
  return instantText(micros, 6)
}

/** A point in time of a zone as text, in units of a second's `digits`-th decimal. */
export function instantText(value: number | bigint, digits: number): string {
  const text = timestampText(value, digits)
  return text.endsWith('infinity') ? text : `${text}Z`
}
