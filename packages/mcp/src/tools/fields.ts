import { Type, type TSchema } from 'typebox';

export const sandboxId = Type.String({ description: 'Id or name of the sandbox.' });
export const commandId = Type.String({ description: 'Id of the command within its sandbox.' });
export const guestPath = Type.String({ description: 'Path in the guest.' });
export const tag = Type.String({ description: 'Tag of the snapshot: letters, digits, "_" and "-".' });

/** A field that may be left out. Clients that were written in Python send null for that. */
export const orNull = <Schema extends TSchema>(schema: Schema) => Type.Optional(Type.Union([schema, Type.Null()]));

export const listOf = <Schema extends TSchema>(schema: Schema) => Type.Object({ result: Type.Array(schema) });

/** The fields that have a value. */
export function given<Fields extends Record<string, unknown>>(fields: Fields) {
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(entries) as { [Name in keyof Fields]?: NonNullable<Fields[Name]> };
}
