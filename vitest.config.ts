import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url))

// Tests and destinations import the package by its name; here the name means the sources.
export default defineConfig({
  resolve: {
    alias: [
      { find: /^spillway$/, replacement: at('src/index.ts') },
      { find: /^spillway\/destinations\/(.*)$/, replacement: at('destinations/$1.ts') },
      { find: /^spillway\/sources\/(.*)$/, replacement: at('src/sources/$1.ts') },
      { find: /^spillway\/sandbox$/, replacement: at('src/sandbox/index.ts') },
      { find: /^spillway\/testing$/, replacement: at('src/testing/index.ts') },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 30_000,
    maxWorkers: 2, // the default leaves one of two cores idle
  },
})
