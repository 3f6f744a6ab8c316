import { Type, type Static, type TSchema, type TString } from 'typebox';
import { LABEL_KEY_PATTERN, TAG_PATTERN, limits } from '../limits.ts';

/** The schema with a description for the API reference, and example values where callers have to supply one. */
export const field = <Schema extends TSchema>(schema: Schema, description: string, ...examples: unknown[]) =>
  Type.With(schema, { description, ...(examples.length > 0 && { examples }) });

/** A field that is always present and may be null. Clients read such a field without checking that it exists. */
export const Nullable = <Schema extends TSchema>(schema: Schema) => Type.Union([schema, Type.Null()]);

/** A field of a request that a client may omit or send as null. Both mean the same. */
export const Omittable = <Schema extends TSchema>(schema: Schema) => Type.Optional(Type.Union([schema, Type.Null()]));

export const Count = Type.Integer({ minimum: 0 });
/** A duration or another quantity that may be fractional. */
export const Measure = Type.Number({ minimum: 0 });
export const Tag = Type.String({ pattern: TAG_PATTERN });
/** Paths and program arguments cannot contain a zero byte. */
const NO_ZERO = '^[^\\u0000]*$';
export const GuestPath = Type.String({ minLength: 1, maxLength: limits.pathBytesMax, pattern: NO_ZERO });
/** A path on the controller's host. */
export const HostPath = Type.String({ minLength: 1, maxLength: limits.pathBytesMax, pattern: NO_ZERO });
export const Argument = Type.String({ maxLength: limits.commandArgBytesMax, pattern: NO_ZERO });

/** The pattern is checked through `propertyNames`: a record would ignore keys that do not match its own pattern. */
export const textsByKey = (keyPattern: string, value: TString, maxProperties: number) =>
  Type.Record(Type.String(), value, { propertyNames: { pattern: keyPattern }, maxProperties });

/** Variables of a process, by name. */
export const Environment = textsByKey('^[^=\\u0000]+$', Argument, limits.envEntriesMax);

export const Labels = Type.With(
  textsByKey(LABEL_KEY_PATTERN, Type.String({ maxLength: limits.labelCharsMax }), limits.labelsMax),
  { description: 'Keys and values that a caller attaches to a sandbox to find it by.', examples: [{ team: 'search' }] },
);
export type Labels = Static<typeof Labels>;

export const TagParams = Type.Object({ tag: field(Type.String(), 'Tag of the snapshot.', 'python') });
export type TagParams = Static<typeof TagParams>;

const sandboxId = field(Type.String(), 'Id or name of the sandbox.', 'sb-3f9a1c0b7e');
export const SandboxParams = Type.Object({ id: sandboxId });
export type SandboxParams = Static<typeof SandboxParams>;
export const CommandParams = Type.Object({
  id: sandboxId,
  cid: field(Type.String(), 'Id of the command.', 'c-5d0e7a91b24c38f6'),
});
export type CommandParams = Static<typeof CommandParams>;

/** Fields that every error has, in a reply and in a stream. */
const errorFields = {
  error: field(Type.String(), 'What went wrong, in one sentence that names the values of the request.'),
  code: field(Type.String(), 'Stable error code. Its meaning never changes.'),
  hint: field(Type.Optional(Type.String()), 'What to do about the error.'),
  request_id: field(
    Type.Optional(Type.String()),
    "Id of the request in the controller's log. The header `x-request-id` carries the same id.",
  ),
};

export const ErrorBody = Type.Object(errorFields, {
  additionalProperties: true,
  description: 'The body of every error. Some codes add fields of their own, such as `dependents` or `stdout`.',
  examples: [
    {
      error: "Snapshot 'pyhton' does not exist.",
      code: 'not_found_snapshot',
      hint: '`forkd images` lists the snapshots.',
      request_id: '1b7e0a52-6f0d-4c3e-9f5b-0e7a91b24c38',
    },
  ],
});
export type ErrorBody = Static<typeof ErrorBody>;

export const Health = Type.Object(
  { ok: field(Type.Literal(true), 'Always true: a controller that is not up does not answer.') },
  { description: 'The controller is up.', examples: [{ ok: true }] },
);
export type Health = Static<typeof Health>;

export const VersionInfo = Type.Object(
  {
    version: field(Type.String(), 'Version of the controller.'),
    api: field(Type.Literal('v1'), 'Version of the API.'),
  },
  { description: 'The versions of the controller and of its API.', examples: [{ version: '0.1.0', api: 'v1' }] },
);
export type VersionInfo = Static<typeof VersionInfo>;

export const ErrorEvent = Type.Object(
  { type: field(Type.Literal('error'), 'The request has failed.'), ...errorFields },
  { description: 'The last event of a streamed reply whose request failed after the status line was sent.' },
);
export type ErrorEvent = Static<typeof ErrorEvent>;

/**
 * `strict`: the programs of a sandbox are frozen while it is branched, and continue in a child only after the child has its
 * own identity and clock.
 */
export const Safety = Type.Union([Type.Literal('standard'), Type.Literal('strict')]);
export type Safety = Static<typeof Safety>;

export const WindowKind = Type.Union([Type.Literal('inside'), Type.Literal('monitor')]);
export type WindowKind = Static<typeof WindowKind>;
