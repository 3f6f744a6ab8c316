/**
 * What clients need of the wire at run time. It loads without the schema library, whose start would be half of the time
 * that a short command takes; the types of the schemas cost nothing and come from the package itself.
 */
export * from './errors.ts';
export * from './ids.ts';
export * from './limits.ts';

/** The media type of a streamed reply: one JSON object a line. */
export const NDJSON_MEDIA_TYPE = 'application/x-ndjson';
