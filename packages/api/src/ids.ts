import { SANDBOX_ID_PATTERN, TAG_PATTERN } from './limits.ts';

const tagExpression = new RegExp(TAG_PATTERN);
const sandboxIdExpression = new RegExp(SANDBOX_ID_PATTERN);

/** Returns `sb-` and ten hex digits: 40 random bits, so two of a million ids collide with a probability of one half. */
export function newSandboxId(): string {
  return `sb-${randomHex(10)}`;
}

/** Returns `ws-` and ten hex digits. */
export function newWorkspaceId(): string {
  return `ws-${randomHex(10)}`;
}

/** True if the text is a valid name of a snapshot, a workspace or a branch. */
export function isTag(text: string): boolean {
  return tagExpression.test(text);
}

/** True if the text has the form of a sandbox id. The sandbox need not exist. */
export function isSandboxId(text: string): boolean {
  return sandboxIdExpression.test(text);
}

/** Default tag of a branch: `branch-<sandbox>-<unix seconds>-<4 hex>`. */
export function defaultBranchTag(sandboxId: string, nowUnixMs: number = Date.now()): string {
  return `branch-${sandboxId}-${Math.floor(nowUnixMs / 1000)}-${randomHex(4)}`;
}

function randomHex(digits: number): string {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(Math.ceil(digits / 2)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'))
    .join('')
    .slice(0, digits);
}
