import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError } from '@forkd/api';
import {
  EngineError,
  isRunning,
  removeMemoryLimit,
  type EngineErrorCode,
  type EngineName,
  type Vm,
  type VmRecord,
} from '@forkd/engine';
import { removeTree } from '@forkd/store';
import type { Logger } from 'pino';
import { withDeadline } from '../deadline.ts';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import { endProcess, findVmms } from '../process/strays.ts';
import type { Runtime } from '../runtime/vmm.ts';
import type { Ending } from '../state/ended.ts';
import type { Registry } from '../state/registry.ts';
import { readRecords, type FoundRecord, type SandboxRecord } from '../state/sandbox-record.ts';
import { vmDirOf } from '../state/sandbox.ts';
import type { Loss } from '../state/vm-end.ts';
import type { Host } from './host.ts';
import { startAll } from './start-many.ts';

/** Codes of a fault of the pager: the next attempt may succeed. */
const pagersFault: readonly EngineErrorCode[] = [
  'pager_gone',
  'pager_missing',
  'pager_protocol',
  'cancelled',
  'out_of_memory',
];

/** The reason for a sandbox whose VM ended while no controller ran. */
const unseen: Loss = {
  what: 'ended while no controller ran',
  advice: 'Its host may have restarted, or its VMM was killed.',
};
/** The reason for a sandbox whose VM ran, and was ended because this controller could not reach it. */
const notTaken: Loss = {
  what: 'was ended because this controller could not take it over',
  advice: 'The log of the controller says what failed.',
};

type RecoveryHost = Pick<Host, 'registry' | 'vmm' | 'replies' | 'paths' | 'log'>;

/** Counts of the sandboxes that earlier controllers left, by what became of them. */
interface RecoveryCounts {
  adopted: number;
  ended: number;
  removed: number;
}

/**
 * Takes over the sandboxes that run and removes the rest, after a kill or an orderly end. Called at the start, before any
 * request. Throws `machine_mismatch`, without changing anything, if sandboxes of another engine run.
 */
export async function recover(host: RecoveryHost, engine: EngineName): Promise<RecoveryCounts> {
  const { registry, vmm, paths, log } = host;
  const found: RecoveryCounts = { adopted: 0, ended: 0, removed: 0 };
  const dead: FoundRecord[] = [];
  const refused = new Set<string>();
  const alive: SandboxRecord[] = [];
  for (const entry of await readRecords(paths.sandboxes)) {
    const { record } = entry;
    if (record !== null && (await isAdoptable(host, record))) alive.push(record);
    else dead.push(entry);
  }
  refuseOtherEngines(alive, engine);
  if (alive.length > 0) {
    const runtime = await vmm.use();
    await sideBySide(alive, async (record) => {
      if (await adopt(host, record, runtime)) found.adopted += 1;
      else {
        refused.add(record.id);
        dead.push({ id: record.id, dir: join(paths.sandboxes, record.id), record });
      }
    });
    await releaseForgotten(registry, runtime);
  }
  found.ended = await endStrays(dead, log);
  for (const { id, dir, record } of dead) {
    if (record !== null && wasSeen(host, record)) await registry.noteLost(record, refused.has(id) ? notTaken : unseen);
    // The cgroup of a process that the kernel still holds cannot be removed. That must not keep the controller from starting.
    await removeMemoryLimit(vmDirOf(dir)).catch((error: unknown) => {
      log.warn({ sandbox: id, reason: messageOf(error) }, 'could not remove the memory limit of a sandbox');
    });
    try {
      await removeTree(paths.sandboxes, dir);
      found.removed += 1;
      log.info({ sandbox: id }, 'removed what was left of a sandbox that does not run');
    } catch (error) {
      log.warn({ sandbox: id, reason: messageOf(error) }, 'could not remove the directory of a sandbox');
    }
  }
  return found;
}

/** Announces every running VM to a pager that has just been started. */
export async function readopt(host: Pick<Host, 'registry' | 'log'>, runtime: Runtime): Promise<void> {
  const { registry, log } = host;
  await sideBySide(registry.all(), async (sandbox) => {
    const { record, state } = sandbox;
    if (state === 'starting') await registry.end(sandbox, lostWithPager(sandbox.id));
    if (!sandbox.isThere || record.vm === null) return;
    const vm = await tryAdopt(record, record.vm, runtime, log);
    if (vm !== null && sandbox.isThere) registry.attach(sandbox, vm);
    // A guest that cannot be taken over again is useless.
    else if (vm === null) await registry.end(sandbox, lostWithPager(sandbox.id));
  });
  await releaseForgotten(registry, runtime);
}

/** Asks a disk server that has just been started for the disks of the running VMs. A VM whose disk is lost is ended. */
export async function reopenDisks({ registry, log }: Pick<Host, 'registry' | 'log'>): Promise<void> {
  await sideBySide(registry.all(), async (sandbox) => {
    try {
      await sandbox.vm?.reopenDisk();
    } catch (error) {
      log.error({ sandbox: sandbox.id, reason: messageOf(error) }, 'the disk of a running sandbox is lost');
      const lost = new ApiError('engine_failed', `Sandbox ${sandbox.id} was ended because its disk was lost.`);
      await registry.end(sandbox, { reason: 'lost', error: lost });
    }
  });
}

/** Removes the disks of VMs that are gone. A killed controller could not remove them. */
export async function releaseForgottenDisks(host: Pick<Host, 'registry' | 'disks' | 'paths' | 'log'>): Promise<void> {
  const { registry, disks, paths, log } = host;
  // A server that does not run needs no asking: the next one is asked when a controller starts.
  if ((await stat(join(paths.run, 'disk.sock')).catch(() => null)) === null) return;
  try {
    const server = await disks.find();
    const known = new Set(registry.all().map(({ vm }) => vm?.record.diskKey));
    for (const { key } of (await server.inventory()).disks) if (!known.has(key)) await server.close(key);
  } catch (error) {
    log.warn({ reason: messageOf(error) }, 'could not remove the disks of sandboxes that are gone');
  }
}

/** Releases what the pager holds for VMs that are gone. A killed controller could not release it. */
async function releaseForgotten(registry: Registry, { pager }: Runtime): Promise<void> {
  const known = new Set(registry.all().map(({ id }) => id));
  const { sandboxes } = await pager.inventory();
  for (const { sandbox } of sandboxes) if (!known.has(sandbox)) await pager.release(sandbox);
}

/** True if the sandbox can be taken over. One that was being ended is ended. */
async function isAdoptable(host: RecoveryHost, record: SandboxRecord): Promise<boolean> {
  if (!wasSeen(host, record) || host.registry.ended.has(record.id)) return false;
  return record.vm !== null && (await isRunning(record.vm));
}

/** True if a caller may know the sandbox. One whose request was cut off repeats it, so that request's sandboxes end. */
function wasSeen({ replies }: RecoveryHost, { kind, state, request_key: requestKey }: SandboxRecord): boolean {
  if (kind !== 'sandbox' || state !== 'running') return false;
  return requestKey === null || !replies.wasCutOff(requestKey);
}

async function adopt({ registry, log }: RecoveryHost, record: SandboxRecord, runtime: Runtime): Promise<boolean> {
  const vm = record.vm === null ? null : await tryAdopt(record, record.vm, runtime, log);
  if (vm === null) return false;
  registry.adopt(record, vm);
  log.info({ sandbox: record.id, pid: vm.record.pid }, 'took over a running sandbox');
  return true;
}

/** Takes over a VM. Returns `null` if that fails because of the VM, and throws if it fails for another reason. */
async function tryAdopt(
  { paused }: SandboxRecord,
  vm: VmRecord,
  { engine, pager }: Runtime,
  log: Logger,
): Promise<Vm | null> {
  const late = () => new EngineError('vm_start_timeout', `The VM ${vm.id} did not answer in time.`);
  try {
    // A slow VMM holds up neither the other sandboxes nor the start of the controller.
    return await withDeadline(limits.adoptTimeoutMs, undefined, late, () => engine.adopt(vm, pager, paused));
  } catch (error) {
    if (!(error instanceof EngineError) || pagersFault.includes(error.code)) throw error;
    log.error({ sandbox: vm.id, code: error.code, reason: error.message }, 'a running sandbox cannot be taken over');
    return null;
  }
}

async function endStrays(dead: readonly FoundRecord[], log: Logger): Promise<number> {
  let ended = 0;
  const strays = await findVmms(new Set(dead.map(({ dir }) => vmDirOf(dir))));
  for (const { record } of dead) {
    // A process may have hidden itself from that search.
    const vm = record?.vm ?? null;
    if (vm !== null && !strays.some(({ pid }) => pid === vm.pid) && (await isRunning(vm))) strays.push(vm);
  }
  for (const stray of strays) {
    const gone = await endProcess(stray);
    log.warn({ ...stray, gone }, 'ended the process of a sandbox that was half-made or cannot be taken over');
    if (gone) ended += 1;
  }
  return ended;
}

/** Handles a number of items at a time. After a failure no more are begun; it is thrown once those under way have settled. */
async function sideBySide<T>(items: readonly T[], each: (item: T) => Promise<void>): Promise<void> {
  await startAll(items, limits.adoptParallelism, each, () => undefined);
}

/** Refuses to start while VMs of another engine run: this engine would take them for ended, and end them. */
function refuseOtherEngines(alive: readonly SandboxRecord[], engine: EngineName): void {
  const others = alive.filter(({ vm }) => vm !== null && vm.machine.engine !== engine);
  const theirs = others[0]?.vm?.machine.engine;
  if (theirs === undefined) return;
  const ids = others.map(({ id }) => id).join(', ');
  throw new ApiError(
    'machine_mismatch',
    `Sandboxes run with ${theirs}, and this controller is to run ${engine}: ${ids}.`,
    {
      hint: `Start it with --engine ${theirs}, or end them first: forkd stop --kill ends a controller with its sandboxes.`,
    },
  );
}

function lostWithPager(id: string): Ending {
  return { reason: 'lost', error: new ApiError('pager_unavailable', `Sandbox ${id} was lost when the pager ended.`) };
}
