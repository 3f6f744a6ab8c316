import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Check } from '../check.ts';
import { command, pass, warn, type Finding, type Fix } from '../row.ts';

const PLACE = '/sys/fs/cgroup';
const LOST = 'a sandbox with a memory limit is refused; all others work';

export const cgroupChecks: readonly Check[] = [{ id: 'cgroup_v2', look: cgroups }];

interface Mount {
  place: string;
  kind: string;
  options: readonly string[];
}

/** Memory limits use cgroup v2 if it has the memory controller, else v1. */
async function cgroups(): Promise<Finding> {
  const mounts = await readMounts();
  const second = mounts.filter(({ kind }) => kind === 'cgroup2');
  for (const { place } of second) {
    const controllers = await readFile(join(place, 'cgroup.controllers'), 'utf8').catch(() => '');
    if (controllers.trim().split(' ').includes('memory')) return pass(`${place} limits memory`);
  }
  const first = mounts.find(({ kind, options }) => kind === 'cgroup' && options.includes('memory'));
  if (first !== undefined) return pass(`memory is limited by version 1 in its place, at ${first.place}`);
  const detail = second.length === 0 ? 'no hierarchy is mounted' : `${second[0]?.place} does not limit memory`;
  const isTaken = mounts.some(({ place }) => place === PLACE || place.startsWith(`${PLACE}/`));
  const fix = isTaken ? null : await mounting();
  if (fix !== null) return warn(detail, `${LOST}; mounting one brings limits back`, fix);
  return warn(detail, `${LOST}; boot the host with systemd.unified_cgroup_hierarchy=1 cgroup_enable=memory`);
}

/** Returns the command that mounts the cgroup version to which the kernel has bound the memory controller. */
async function mounting(): Promise<Fix | null> {
  const text = await readFile('/proc/cgroups', 'utf8').catch(() => '');
  const [, hierarchy, enabled] = /^memory\t(\d+)\t\d+\t(\d)$/m.exec(text) ?? [];
  if (enabled !== '1') return null;
  return hierarchy === '0'
    ? command('mount', '-t', 'cgroup2', 'cgroup2', PLACE)
    : command('mount', '-t', 'cgroup', '-o', 'memory', 'cgroup', PLACE);
}

async function readMounts(): Promise<Mount[]> {
  const lines = (await readFile('/proc/self/mounts', 'utf8')).trim().split('\n');
  return lines.map((line) => {
    const [, place = '', kind = '', options = ''] = line.split(' ');
    return { place, kind, options: options.split(',') };
  });
}
