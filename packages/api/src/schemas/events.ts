import { Type, type Static } from 'typebox';
import { Count, field } from './common.ts';

export const eventTypes = [
  'sandbox.created',
  'sandbox.updated',
  'sandbox.paused',
  'sandbox.resumed',
  'sandbox.stalled',
  'sandbox.recovered',
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
  /** Events between the last one that the reader received and the next one are lost. The reader must read the lists again. */
  'events.gap',
] as const;

export const EventType = Type.Enum([...eventTypes]);
export type EventType = (typeof eventTypes)[number];

export const ControllerEvent = Type.Object(
  {
    id: field(
      Type.String(),
      'Unique id of the event. The number after the dash grows with each event of one controller process.',
    ),
    type: field(
      EventType,
      'What happened. `events.gap` means that earlier events are lost, so the lists have to be read again.',
    ),
    time_unix_ms: field(Count, 'Time of the event, in milliseconds since 1970.'),
    sandbox: field(Type.Optional(Type.String()), 'Id of the sandbox.'),
    snapshot: field(Type.Optional(Type.String()), 'Tag of the snapshot.'),
    workspace: field(Type.Optional(Type.String()), 'Name of the workspace.'),
    reason: field(Type.Optional(Type.String()), 'Why it happened, in a sentence, if no caller asked for it.'),
  },
  {
    description: 'Something that happened to a sandbox, a snapshot or a workspace.',
    examples: [
      {
        id: '5c1f09d2-17',
        type: 'sandbox.ended',
        time_unix_ms: 1_767_225_600_000,
        sandbox: 'sb-3f9a1c0b7e',
        reason: 'The time to live is over.',
      },
    ],
  },
);
export type ControllerEvent = Static<typeof ControllerEvent>;

export const EventsQuery = Type.Object({
  after: field(
    Type.Optional(Type.String({ maxLength: 64 })),
    'Id of the last event that was received; the stream continues after it. Default: only new events.',
  ),
  sandbox: field(Type.Optional(Type.String()), 'Only events of the sandbox with this id.'),
});
export type EventsQuery = Static<typeof EventsQuery>;
