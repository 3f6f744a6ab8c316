import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { BUILT, type PayloadLab } from '@forkd/testing';

/** Attacks of a VMM, by the names of `forkd-vmm-stand-in`. */
const HARMS = [
  'blocks',
  'withholds',
  'reports',
  'is-slow',
  'stays-stopped',
  'saves-too-much',
  'accepts-nothing',
] as const;
type Harm = (typeof HARMS)[number];

/** The memory of a stand-in. */
const MEM_BYTES = 16 * 2 ** 20;
const KEY = 'key';

/** Runs VMMs that attack the pager of a lab, one by one until `signal` fires. Resolves with the count of branches of each. */
export async function harmByTurns(lab: PayloadLab, signal: AbortSignal): Promise<Record<string, number>> {
  const figures: Record<string, number> = {};
  for (let turn = 0; !signal.aborted; turn += 1) {
    const harm = HARMS[turn % HARMS.length] ?? 'blocks';
    await branchOnce(lab, harm, `harm-${turn}`);
    figures[harm] = (figures[harm] ?? 0) + 1;
  }
  return figures;
}

/** Starts a hostile VMM, and asks the pager to branch it. A failure is ignored, because only the effect on others counts. */
async function branchOnce({ pager, dir }: PayloadLab, harm: Harm, sandbox: string): Promise<void> {
  const own = join(dir, sandbox);
  await mkdir(own);
  const socket = (name: string): string => join(own, name);
  await pager.announce({
    sandbox,
    mem_bytes: MEM_BYTES,
    stack: [],
    refresh: [],
    monitor_socket: socket('monitor'),
    chardev_socket: socket('channel'),
    agent_socket: socket('agent'),
    caller: { key: KEY },
  });
  const names = ['--socket', pager.shimSocket, '--sandbox', sandbox, '--key', KEY, '--dir', own, '--does', harm];
  const vmm = spawn(BUILT.vmmStandIn, names, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(vmm, 'exit');
  try {
    await Promise.race([once(vmm.stdout, 'data'), ended]);
    await pager.open(sandbox).catch(() => undefined);
    if (harm === 'blocks') {
      vmm.stdin.write('block\n');
      await Promise.race([once(vmm.stdout, 'data'), ended]);
    }
    await pager.branch({ sandbox, mode: 'live', resume: true, audit: false }).catch(() => undefined);
  } finally {
    await pager.release(sandbox);
    vmm.kill('SIGKILL');
    await ended;
    await rm(own, { recursive: true, force: true });
  }
}
