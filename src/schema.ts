import type { StandardSchemaV1 } from '@standard-schema/spec'

/** Any validator that speaks Standard Schema: zod, valibot, arktype, … (https://standardschema.dev). */
export type Schema = StandardSchemaV1

export type In<S extends Schema> = StandardSchemaV1.InferInput<S>
export type Out<S extends Schema> = StandardSchemaV1.InferOutput<S>

/** What a schema makes of a value, or what it has against it, in one line that names the fields and never their values. */
export type Validated = { readonly value: unknown } | { readonly problem: string }

/** Validates, in the same turn where the schema can. */
export function validate(schema: Schema, value: unknown): Validated | Promise<Validated> {
  const result = schema['~standard'].validate(value)
  return result instanceof Promise ? result.then(validated) : validated(result)
}

function validated(result: StandardSchemaV1.Result<unknown>): Validated {
  return result.issues ? { problem: result.issues.map(issue).join('; ') } : { value: result.value }
}

function issue({ message, path }: StandardSchemaV1.Issue): string {
  if (!path?.length) return message
  const field = path.map((part) => String(typeof part === 'object' ? part.key : part)).join('.')
  return `${field}: ${message}`
}
