import type { SandboxInfo, SnapshotInfo } from '@forkd/api';
import { ENVD_VERSION } from '../limits.ts';
import type { Parts } from '../parts.ts';

/** Labels that the translation keeps for itself, and that are no metadata. */
const OWN_LABEL = /^e2b\./;
/** E2B's clients expect an end. A sandbox that has none is shown with this one. */
const NEVER = '9999-12-31T23:59:59.000Z';
const CLIENT_ID = 'forkd';

/** The reply to a caller who may use the sandbox. */
export function accessOf(parts: Parts, { id, snapshot_tag: tag }: SandboxInfo): object {
  return {
    templateID: tag,
    alias: tag,
    sandboxID: id,
    clientID: CLIENT_ID,
    envdVersion: ENVD_VERSION,
    envdAccessToken: parts.access.of(id),
    // The interpreter is called with this one, and the other services of the guest with the one above.
    trafficAccessToken: parts.access.of(id),
    // `getHost(port)` puts the port and the id before it.
    domain: parts.portAuthority(),
  };
}

export function metadataOf({ labels = {} }: SandboxInfo): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).filter(([key]) => !OWN_LABEL.test(key)));
}

export function isOwnLabel(key: string): boolean {
  return OWN_LABEL.test(key);
}

/** A sandbox in a list. `snapshot` is what it was forked from, if that still exists. */
export function listedSandbox(info: SandboxInfo, snapshot: SnapshotInfo | undefined): object {
  return {
    templateID: info.snapshot_tag,
    alias: info.snapshot_tag,
    sandboxID: info.id,
    clientID: CLIENT_ID,
    startedAt: isoTime(info.created_at_unix),
    endAt: info.expires_at_unix === undefined ? NEVER : isoTime(info.expires_at_unix),
    cpuCount: 1,
    memoryMB: snapshot?.mem_mib ?? 0,
    diskSizeMB: (snapshot?.disk_gib ?? 0) * 1024,
    metadata: metadataOf(info),
    state: info.state === 'paused' ? 'paused' : 'running',
    envdVersion: ENVD_VERSION,
  };
}

function isoTime(unixSecs: number): string {
  return new Date(unixSecs * 1000).toISOString();
}
