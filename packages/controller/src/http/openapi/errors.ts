import type { ErrorCode } from '@forkd/api';
import { errorRegistry, TAG_PATTERN } from '@forkd/api';
import type { FastifySchema } from 'fastify';

import type { Operation } from './operation.ts';

/** What needs the pager, and through it QEMU. */
export const pagerErrors = ['pager_unavailable', 'engine_failed', 'engine_missing', 'shutting_down'] as const;

/** What goes to one sandbox. */
export const sandboxErrors = ['not_found_sandbox'] as const;

/** What the guest of a sandbox is asked. */
export const guestErrors = [
  ...sandboxErrors,
  'sandbox_paused',
  'guest_unreachable',
  'guest_failed',
  'pager_unavailable',
  'shutting_down',
] as const;

/** What is read from the store or written to it. */
export const storeErrors = ['corrupt_layer', 'disk_full'] as const;

/** What starts VMs. */
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

/** Before a route is found, or by what went wrong inside. */
const ofAny: readonly ErrorCode[] = [
  'bad_request',
  'request_timeout',
  'url_too_long',
  'headers_too_large',
  'shutting_down',
  'internal',
];

/** All codes that a route can answer with, by their status, each in the order of the registry. */
export function errorsByStatus(operation: Operation, schema: FastifySchema | undefined): Map<number, ErrorCode[]> {
  const codes = new Set<ErrorCode>([...operation.errors, ...ofAny]);
  if (operation.more.open !== true) codes.add('unauthorized');
  if (operation.more.idempotent === true) codes.add('idempotency_conflict').add('bad_request');
  if (schema?.body !== undefined) codes.add('bad_media_type').add('too_large');
  if (namesTag(schema)) codes.add('bad_tag');
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of Object.keys(errorRegistry) as ErrorCode[]) {
    if (!codes.has(code)) continue;
    const { status } = errorRegistry[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return new Map([...byStatus].toSorted(([one], [other]) => one - other));
}

/** Validation has a code of its own for tags. */
function namesTag(schema: FastifySchema | undefined): boolean {
  return [schema?.params, schema?.querystring, schema?.body].some((part) => {
    return JSON.stringify(part ?? null).includes(JSON.stringify(TAG_PATTERN));
  });
}
