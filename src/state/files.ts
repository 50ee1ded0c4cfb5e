import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { mkdtemp, open, rename } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

const hook = Symbol.for('spillway.checkpoint')

/**
 * A named point between two durable steps. It does nothing, unless a test has put a function there to kill the process or
 * to fail like a full disk.
 */
export function checkpoint(name: string): void {
  ;(globalThis as { [hook]?: (name: string) => void })[hook]?.(name)
}

/**
 * Makes a whole file appear durably or not at all: `write` fills a temporary name, which is then synced and renamed.
 * DuckDB's `COPY TO` never syncs, so the file is opened again for it.
 */
export async function writeDurably(path: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.tmp`
  await write(temporary)
  checkpoint('file written')
  await syncToDisk(temporary)
  await rename(temporary, path)
  await syncToDisk(dirname(path))
  checkpoint('file renamed')
}

/** Makes what was written to a file, or the names in a folder, durable. */
export async function syncToDisk(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Length and digest of a whole file, by which the database knows it again. */
export async function fingerprint(path: string): Promise<{ bytes: number; digest: string }> {
  const hash = createHash('sha256')
  const handle = await open(path, 'r')
  try {
    let bytes = 0
    // one piece is read while another is digested: a stream takes twice as long
    let spare = Buffer.allocUnsafeSlow(pieceBytes)
    let reading = handle.read(Buffer.allocUnsafeSlow(pieceBytes))
    for (;;) {
      const { bytesRead, buffer } = await reading
      if (bytesRead === 0) return { bytes, digest: hash.digest('hex') }
      reading = handle.read(spare)
      hash.update(buffer.subarray(0, bytesRead))
      bytes += bytesRead
      spare = buffer
    }
  } finally {
    await handle.close()
  }
}

const pieceBytes = 1 << 20

/** Folders that go with the process; one listener for all, because Node warns of many. */
const folders = new Set<string>()

/** A new temporary folder, for what can be read until the process ends. */
export async function folderUntilExit(name: string): Promise<string> {
  if (folders.size === 0) {
    process.once('exit', () => {
      for (const folder of folders) rmSync(folder, { recursive: true, force: true })
    })
  }
  const folder = await mkdtemp(join(tmpdir(), `spillway-${name}-`))
  folders.add(folder)
  return folder
}
