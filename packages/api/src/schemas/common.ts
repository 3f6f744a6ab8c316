import { Type, type Static, type TSchema, type TString } from 'typebox';
import { LABEL_KEY_PATTERN, TAG_PATTERN, limits } from '../limits.ts';

/** A field that is always there and may be null: forkd's clients read it without asking whether it exists. */
export const Nullable = <Schema extends TSchema>(schema: Schema) => Type.Union([schema, Type.Null()]);

/** A field of a request that forkd's clients leave out or send as null, with one meaning. */
export const Omittable = <Schema extends TSchema>(schema: Schema) => Type.Optional(Type.Union([schema, Type.Null()]));

export const Count = Type.Integer({ minimum: 0 });
/** A duration or another measure that may be fractional. */
export const Measure = Type.Number({ minimum: 0 });
export const Tag = Type.String({ pattern: TAG_PATTERN });
/** No path and no argument of a program can have a zero byte in it. */
const noZero = '^[^\\u0000]*$';
export const GuestPath = Type.String({ minLength: 1, maxLength: limits.pathBytesMax, pattern: noZero });
/** On the controller's host. */
export const HostPath = Type.String({ minLength: 1, maxLength: limits.pathBytesMax, pattern: noZero });
export const Argument = Type.String({ maxLength: limits.commandArgBytesMax, pattern: noZero });

/** Keys that do not match a record's own pattern would be passed over as fields that nobody knows are. */
export const textsByKey = (keyPattern: string, value: TString, maxProperties: number) =>
  Type.Record(Type.String(), value, { propertyNames: { pattern: keyPattern }, maxProperties });

/** What callers note on a sandbox to find it again by: at most 64 of them. */
export const Labels = textsByKey(LABEL_KEY_PATTERN, Type.String({ maxLength: limits.labelBytesMax }), limits.labelsMax);
export type Labels = Static<typeof Labels>;

export const TagParams = Type.Object({ tag: Type.String() });
export type TagParams = Static<typeof TagParams>;
export const SandboxParams = Type.Object({ id: Type.String() });
export type SandboxParams = Static<typeof SandboxParams>;
export const CommandParams = Type.Object({ id: Type.String(), cid: Type.String() });
export type CommandParams = Static<typeof CommandParams>;

/** The body of every error, the framework's own included. Some codes add fields of their own (`dependents`, `stdout`). */
export const ErrorBody = Type.Object(
  {
    error: Type.String(),
    code: Type.String(),
    hint: Type.Optional(Type.String()),
    /** The request's id in the logs of the controller; also in the header `x-request-id`. */
    request_id: Type.Optional(Type.String()),
  },
  { additionalProperties: true },
);
export type ErrorBody = Static<typeof ErrorBody>;

export const Health = Type.Object({ ok: Type.Literal(true) });
export type Health = Static<typeof Health>;

export const VersionInfo = Type.Object({ version: Type.String(), api: Type.Literal('v1') });
export type VersionInfo = Static<typeof VersionInfo>;

/** The last event of a streamed reply that went wrong after its status line was sent. */
export const ErrorEvent = Type.Object({
  type: Type.Literal('error'),
  error: Type.String(),
  code: Type.String(),
  hint: Type.Optional(Type.String()),
  request_id: Type.Optional(Type.String()),
});
export type ErrorEvent = Static<typeof ErrorEvent>;
