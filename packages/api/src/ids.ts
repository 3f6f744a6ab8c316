import { SANDBOX_ID_PATTERN, TAG_PATTERN } from './limits.ts';

const tagExpression = new RegExp(TAG_PATTERN);
const sandboxIdExpression = new RegExp(SANDBOX_ID_PATTERN);

/** `sb-` and ten hex digits: 40 random bits, so that a host would need a million sandboxes for an even chance of two alike. */
export function newSandboxId(): string {
  return `sb-${randomHex(10)}`;
}

/** `ws-` and ten hex digits. */
export function newWorkspaceId(): string {
  return `ws-${randomHex(10)}`;
}

/** True for what may name a snapshot, a workspace or a branch. */
export function isTag(text: string): boolean {
  return tagExpression.test(text);
}

/** True for what looks like the id of a sandbox, whether or not there is one. */
export function isSandboxId(text: string): boolean {
  return sandboxIdExpression.test(text);
}

/** The tag of a branch whose caller named none: `branch-<sandbox>-<unix seconds>-<4 hex>`. */
export function defaultBranchTag(sandboxId: string, nowUnixMs: number = Date.now()): string {
  return `branch-${sandboxId}-${Math.floor(nowUnixMs / 1000)}-${randomHex(4)}`;
}

function randomHex(digits: number): string {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(Math.ceil(digits / 2)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'))
    .join('')
    .slice(0, digits);
}
