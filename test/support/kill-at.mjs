// Kills this process when it reaches a named point for the n-th time, and counts how often each is reached.

export const reached = {}

/** @param {{ point: string, nth: number } | { after: number } | undefined} kill */
export function killAt(kill) {
  globalThis[Symbol.for('spillway.checkpoint')] = (name) => {
    reached[name] = (reached[name] ?? 0) + 1
    if (kill?.point === name && kill.nth === reached[name]) {
      process.kill(process.pid, 'SIGKILL')
      for (;;); // not one more instruction of the run
    }
  }
}
