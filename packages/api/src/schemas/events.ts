import { Type, type Static } from 'typebox';
import { Count } from './common.ts';

export const eventTypes = [
  'sandbox.created',
  'sandbox.updated',
  'sandbox.paused',
  'sandbox.resumed',
  'sandbox.ended',
  'snapshot.writing',
  'snapshot.ready',
  'snapshot.durable',
  'snapshot.failed',
  'snapshot.removed',
  'workspace.created',
  'workspace.suspended',
  'workspace.resumed',
  'workspace.stale',
  'workspace.removed',
  /** Events between the one that the reader had last and the next are lost: read the lists anew. */
  'events.gap',
] as const;

export const EventType = Type.Enum([...eventTypes]);
export type EventType = (typeof eventTypes)[number];

/** What happened to a sandbox, a snapshot or a workspace. */
export const ControllerEvent = Type.Object({
  /** Unique; later events of one controller have a greater number behind the dash. */
  id: Type.String(),
  type: EventType,
  time_unix_ms: Count,
  sandbox: Type.Optional(Type.String()),
  snapshot: Type.Optional(Type.String()),
  workspace: Type.Optional(Type.String()),
  /** Why, in a sentence, where it was not asked for. */
  reason: Type.Optional(Type.String()),
});
export type ControllerEvent = Static<typeof ControllerEvent>;

/** `GET /v1/events`: server-sent events. The header `Last-Event-ID`, or `after`, takes up where a reader was cut off. */
export const EventsQuery = Type.Object({
  after: Type.Optional(Type.String({ maxLength: 64 })),
  /** Only of this sandbox, by its id. */
  sandbox: Type.Optional(Type.String()),
});
export type EventsQuery = Static<typeof EventsQuery>;
