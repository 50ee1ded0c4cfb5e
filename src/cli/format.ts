/** Text from rows and vendors, such that it cannot move the cursor, ring the bell or colour the screen. */
export function clean(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/\s+/g, ' ').replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}

/** `12,300` */
export function count(number: number): string {
  return Math.round(number).toLocaleString('en-US')
}

/** Rows per second, given their number and the milliseconds: `4,100 rows/s`, `0.4 rows/s`. */
export function speed(rows: number, milliseconds: number): string {
  const perSecond = milliseconds > 0 ? (rows / milliseconds) * 1_000 : 0
  return `${perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : count(perSecond)} rows/s`
}

/** A number of something: `1 row`, `1,204 rows`. */
export function some(number: number, noun: string): string {
  return `${count(number)} ${noun}${number === 1 ? '' : 's'}`
}

/** A length of time at the precision that one acts on: `350 ms`, `12.3 s`, `4 min 10 s`, `2 h 5 min`. */
export function span(milliseconds: number): string {
  if (milliseconds < 1_000) return `${Math.round(milliseconds)} ms`
  if (milliseconds < 59_950) return `${(milliseconds / 1_000).toFixed(1)} s`
  const seconds = Math.round(milliseconds / 1_000)
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  const minutes = Math.round(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** A moment in local time, which sorts: `2026-01-31 09:05:00`. */
export function moment(date: Date): string {
  return date.toLocaleString('sv-SE')
}

/** A key, a cursor or another single value for a person to read. */
export function plain(value: unknown): string {
  if (value === undefined || value === null) return ''
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.map(plain).join(', ')
  return clean(typeof value === 'object' ? json(value) : String(value))
}

/** JSON for machines, one line. What JSON has no word for becomes text: a bigint its digits, binary data base64. */
export function json(value: unknown): string {
  return JSON.stringify(value, function (this: Record<string, unknown>, key, shown: unknown) {
    // A Buffer has become an object by its own toJSON before this sees it.
    const original = this[key]
    if (original instanceof Uint8Array) return Buffer.from(original).toString('base64')
    return typeof shown === 'bigint' ? String(shown) : shown
  })
}

/** Columns side by side, the header first. The last one is not padded, so that long text wraps at most at its end. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [header, ...rows]
  const widths = header.map((_, column) => Math.max(...lines.map((line) => width(line[column]!))))
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell + ' '.repeat(widths[column]! - width(cell)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** How many columns of a terminal a text takes: emoji and the ideographs of East Asia take two. */
export function width(text: string): number {
  return [...text].length + (text.match(/\p{Emoji_Presentation}|[ᄀ-ᅟ⺀-꓏가-힣豈-﫿︰-﹏！-｠￠-￦]/gu)?.length ?? 0)
}

/** The text, at most so many columns wide. */
export function cut(text: string, columns: number): string {
  if (width(text) <= columns) return text
  const characters = [...text]
  while (characters.length > 0 && width(characters.join('')) >= columns) characters.pop()
  return `${characters.join('')}…`
}
