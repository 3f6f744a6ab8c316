import type { TSchema } from 'typebox';
import type { JsonSchema } from './components.ts';

/** The example of a body: that of its schema, or a list with the example of its items. */
export function exampleOf(schema: TSchema): unknown {
  const { examples, items } = schema as JsonSchema;
  if (Array.isArray(examples)) return examples[0] as unknown;
  return items === undefined ? undefined : [exampleOf(items as TSchema)];
}

/** Example items of a stream: one for each branch of the union that has an example. */
export function exampleItemsOf(schema: TSchema): unknown[] {
  const { anyOf = [schema] } = schema as { anyOf?: TSchema[] };
  return anyOf.map(exampleOf).filter((example) => example !== undefined);
}
