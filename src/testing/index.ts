export { type Conformance, conformance, type LeftOut, type Rule } from './conformance.js'
export type { Place } from './place.js'
