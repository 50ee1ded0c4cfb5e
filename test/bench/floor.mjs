// What the same rows cost with no engine and no ledger: stringified, written, fsynced, read, parsed, passed on.
// node floor.mjs <rows> <batch size>

import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { measured } from './measure.mjs'
import { chunks } from './rows.mjs'

const [count, batchSize] = process.argv.slice(2).map(Number)
const chunkRows = 1_000
const groupBytes = 1 << 20

await measured(async (folder) => {
  const path = join(folder, 'rows')
  const lengths = await write(path)
  let seen = 0
  await read(path, lengths, (batch) => {
    seen += batch.length
  })
  if (seen !== count) throw new Error(`${seen} seen of ${count} rows`)
})

/** Chunks to a file; while the disk takes one group of about a megabyte in, the next is made. */
async function write(path) {
  const file = await open(path, 'w')
  const lengths = []
  let group = []
  let bytes = 0
  let writing
  const flush = async () => {
    await writing
    const buffers = group
    group = []
    bytes = 0
    writing = file.writev(buffers).then(() => file.datasync())
  }
  for (const chunk of chunks(count, chunkRows)) {
    const text = Buffer.from(JSON.stringify(chunk))
    lengths.push(text.length)
    group.push(text)
    bytes += text.length
    if (bytes >= groupBytes) await flush()
  }
  if (group.length > 0) await flush()
  await writing
  await file.close()
  return lengths
}

/** The file in batches to the function; while one chunk is parsed, the next is read. */
async function read(path, lengths, receive) {
  const file = await open(path, 'r')
  let position = 0
  const next = async (length) => {
    if (length === undefined) return undefined
    const buffer = Buffer.allocUnsafe(length)
    const { bytesRead } = await file.read(buffer, 0, length, position)
    if (bytesRead !== length) throw new Error('the file is shorter than what was written')
    position += length
    return buffer
  }
  let reading = next(lengths[0])
  for (let index = 0; index < lengths.length; index++) {
    const buffer = await reading
    reading = next(lengths[index + 1])
    const chunk = JSON.parse(buffer.toString())
    for (let start = 0; start < chunk.length; start += batchSize) await receive(chunk.slice(start, start + batchSize))
  }
  await file.close()
}
