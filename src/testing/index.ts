export { type Conformance, conformance, type LeftOut, type Rule, type Trial } from './conformance.js'
export type { Place } from './place.js'
