import { type ErrorCode, errorRegistry, TAG_PATTERN } from '@forkd/api';
import type { FastifySchema } from 'fastify';
import type { Operation } from './operation.ts';

/** Errors of requests that need the pager and its engine, and of those that need a disk. */
export const pagerErrors = [
  'pager_unavailable',
  'disk_server_unavailable',
  'engine_failed',
  'engine_missing',
  'shutting_down',
] as const;

/** Errors of requests to one sandbox. */
export const sandboxErrors = ['not_found_sandbox', 'sandbox_ended'] as const;

/** Errors of requests to the guest of a sandbox. */
export const guestErrors = [
  ...sandboxErrors,
  'sandbox_paused',
  'guest_unreachable',
  'guest_failed',
  'unsupported',
  'pager_unavailable',
  'shutting_down',
] as const;

/** Errors of requests that read or write the store. */
export const storeErrors = ['corrupt_layer', 'disk_full'] as const;

/** Errors of requests that start VMs. */
export const startErrors = [
  ...pagerErrors,
  ...storeErrors,
  'machine_mismatch',
  'out_of_memory',
  'guest_unreachable',
  'guest_failed',
  'not_found_sandbox',
  'unsupported',
] as const;

/** Errors that any request can meet, before its route is found or because of a bug. */
const ofAny: readonly ErrorCode[] = [
  'bad_request',
  'request_timeout',
  'url_too_long',
  'headers_too_large',
  'host_not_allowed',
  'origin_not_allowed',
  'shutting_down',
  'internal',
];

/** All error codes of a route by status, in the order of the registry. */
export function errorsByStatus(operation: Operation, schema: FastifySchema | undefined): Map<number, ErrorCode[]> {
  const codes = new Set<ErrorCode>([...operation.errors, ...ofAny]);
  if (operation.more.open !== true) codes.add('unauthorized');
  if (operation.more.idempotent === true) codes.add('idempotency_conflict').add('bad_request');
  if (schema?.body !== undefined) codes.add('bad_media_type').add('too_large');
  if (operation.more.largeBody === true) codes.add('busy');
  if (namesTag(schema)) codes.add('bad_tag');
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of Object.keys(errorRegistry) as ErrorCode[]) {
    if (!codes.has(code)) continue;
    const { status } = errorRegistry[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return new Map([...byStatus].toSorted(([one], [other]) => one - other));
}

/** Validation reports an invalid tag with a code of its own. */
function namesTag(schema: FastifySchema | undefined): boolean {
  return [schema?.params, schema?.querystring, schema?.body].some((part) => {
    return JSON.stringify(part ?? null).includes(JSON.stringify(TAG_PATTERN));
  });
}
