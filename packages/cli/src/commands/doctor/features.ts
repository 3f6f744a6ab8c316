import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import os from 'node:os';
import type { HostInfo } from '@forkd/api';
import { fail, pass, skip, warn, type Row } from './row.ts';

const UFFD_DEVICE = '/dev/userfaultfd';
const UFFD_SYSCTL = '/proc/sys/vm/unprivileged_userfaultfd';
/** Write-protection of shmem mappings, which layers are. */
const UFFD_WP_KERNEL = [5, 19] as const;
const MEMFD_KERNEL = [3, 17] as const;
const LOST = 'live branches are lost; diff and full branches still work';

/** What the kernel can do. Where a controller runs it has tried; else this is read from the version and the rights. */
export function checkFeatures(host: HostInfo | undefined): Row[] {
  return [uffdRow(host), memfdRow(), isolationRow(host)];
}

/** Only a controller has tried. */
function isolationRow(host: HostInfo | undefined): Row {
  const id = 'isolation';
  if (host === undefined) return skip(id, 'a controller that runs says how it confines VMMs');
  const { isolation } = host.engine;
  const lost = isolation.filter(({ ok }) => !ok);
  if (lost.length === 0) return pass(id, `VMMs are confined: ${isolation.map((entry) => entry.id).join(', ')}`);
  const list = lost.map((entry) => entry.id).join(', ');
  return warn(
    id,
    `VMMs are confined by less: no ${list}`,
    lost.map((entry) => `${entry.id}: ${entry.detail}`).join(' '),
  );
}

function uffdRow(host: HostInfo | undefined): Row {
  const id = 'uffd_wp';
  if (host !== undefined) {
    const why = host.engine.live_unavailable;
    return why === null ? pass(id, 'the controller can branch live') : warn(id, why, LOST);
  }
  if (!isKernelAtLeast(UFFD_WP_KERNEL)) {
    return warn(
      id,
      `Linux ${os.release()} is older than ${UFFD_WP_KERNEL.join('.')}`,
      `${LOST}; a newer kernel brings them back`,
    );
  }
  if (mayUseUffd()) return pass(id, `Linux ${os.release()} has it, and it may be used`);
  return warn(
    id,
    'this user may not create one (EPERM)',
    `${LOST}; sysctl -w vm.unprivileged_userfaultfd=1 brings them back`,
  );
}

function mayUseUffd(): boolean {
  if (process.geteuid?.() === 0) return true;
  if (existsSync(UFFD_SYSCTL) && readFileSync(UFFD_SYSCTL, 'utf8').trim() === '1') return true;
  try {
    accessSync(UFFD_DEVICE, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function memfdRow(): Row {
  const id = 'memfd';
  if (isKernelAtLeast(MEMFD_KERNEL)) return pass(id, `Linux ${os.release()} has sealed memfds`);
  return fail(
    id,
    `Linux ${os.release()} has no memfd`,
    'layers live in memfds: nothing works without them; a newer kernel has them',
  );
}

function isKernelAtLeast(wanted: readonly [number, number]): boolean {
  const [major = 0, minor = 0] = os.release().split(/[.-]/).map(Number);
  return major > wanted[0] || (major === wanted[0] && minor >= wanted[1]);
}
