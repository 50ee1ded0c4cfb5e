import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/**
 * Times the work, and prints that and the most memory that this process ever held, for run.mjs to read. The work gets a
 * folder on the disk that holds the checkout, so that a sync of the disk costs what it costs.
 */
export async function measured(work) {
  await folderFor((folder) => timed(() => work(folder)))
}

/** A folder on the disk that holds the checkout, for as long as the work takes. */
export async function folderFor(work) {
  const parent = fileURLToPath(new URL('../../.spillway/', import.meta.url))
  await mkdir(parent, { recursive: true })
  const folder = await mkdtemp(`${parent}bench-`)
  try {
    await work(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** The same for work that has a folder already. What the work found itself goes with it. */
export async function timed(work) {
  const start = performance.now()
  const found = await work()
  const seconds = (performance.now() - start) / 1000
  console.log(JSON.stringify({ seconds, peak: process.resourceUsage().maxRSS * 1024, ...found }))
}
