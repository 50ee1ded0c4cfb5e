/**
 * How long after the first signal another one is the same, in milliseconds: Ctrl-C in a terminal reaches the whole process group,
 * and npm hands it on to its child (@npmcli/run-script, signal-manager.js). Where its shell is bash, it was seen twice within one.
 */
const echo = 500

/**
 * A signal that aborts at the first SIGINT or SIGTERM, saying what happens now. The second one kills: by SIGKILL, because
 * `process.exit` would wait for DuckDB's threads.
 */
export function stopSignal(): { readonly signal: AbortSignal; release(): void } {
  const controller = new AbortController()
  let first: number | undefined
  const onSignal = (signal: NodeJS.Signals) => {
    const now = performance.now()
    if (first === undefined) {
      first = now
      process.stderr.write(
        'spillway: stopping after the batches in flight; the rest stays pending for the next run (once more to kill)\n',
      )
      controller.abort(new Error(`stopped by ${signal}`))
    } else if (now - first > echo) process.kill(process.pid, 'SIGKILL')
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  return {
    signal: controller.signal,
    release() {
      process.off('SIGINT', onSignal)
      process.off('SIGTERM', onSignal)
    },
  }
}
