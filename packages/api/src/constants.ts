/**
 * Values that clients need at run time. This entry point loads without the schema library, which would take half of the start-up
 * time of a short command. The types of the schemas cost nothing and come from the main entry point.
 */
export * from './coded-error.ts';
export * from './errors.ts';
export * from './ids.ts';
export * from './limits.ts';
export * from './path-text.ts';
export * from './recipes.ts';
export * from './units.ts';
export * from './visible.ts';

/** The media type of a streamed reply: one JSON object per line. */
export const NDJSON_MEDIA_TYPE = 'application/x-ndjson';

/** The subprotocol of a connection to a terminal, and what the one that carries a ticket begins with. */
export const PTY_PROTOCOL = 'forkd.pty.v1';
export const PTY_TICKET_PREFIX = 'forkd.ticket.';
