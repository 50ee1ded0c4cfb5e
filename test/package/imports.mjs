// The packages that `import 'spillway'` loads, each on a line.

import { register } from 'node:module'

const hooks = `
  import { writeSync } from 'node:fs'
  export const load = (url, context, next) => {
    const [, name] = /node_modules\\/((?:@[^/]+\\/)?[^/]+)/.exec(url) ?? []
    if (name) writeSync(1, name + '\\n')
    return next(url, context)
  }`
register(`data:text/javascript,${encodeURIComponent(hooks)}`)
await import('spillway')
