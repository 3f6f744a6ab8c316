import { createHash, randomBytes } from 'node:crypto';
import { mkdir, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, findProgram } from '../files.ts';
import { anySignal } from '../signals.ts';
import type { KernelFiles, Vm } from '../types.ts';
import { bootArguments, bootFiles } from './arguments.ts';
import { qemuCapabilities } from './capabilities.ts';
import { endIdle, type Idle, startIdle } from './idle.ts';
import { launch, type Launch } from './vm.ts';

/** The versions of QEMU whose functions have the signatures that the shim calls them with. */
const KNOWN_SERIES = ['7.2'];

/** Memory of the trial VM. A Linux kernel starts in it. */
export const TRIAL_MEM_MIB = 128;

/** Branches of the trial VM: of its first instructions, and of what it does a moment later. */
const TRIAL_BRANCHES = 2;

/** Clocks that stand still while the trial VM does, so that device states that are saved in one pause are equal. */
const STILL_CLOCK = ['-rtc', 'clock=vm'];

/** The trial takes about two seconds where guests are emulated. Requests wait longer than this for an engine. */
const TRIAL_TIMEOUT_MS = 15_000;

/** Nothing looks at what the trial VM can do: the pager is asked to branch it. */
const TRIAL_CAPABILITIES = qemuCapabilities({
  liveUnavailable: null,
  limitUnavailable: null,
  networkUnavailable: null,
  pooled: false,
  insideUnavailable: null,
  disks: false,
});

/** How to prove that the shim conducts pauses. */
export interface WindowTrial {
  /** The kernel that the trial VM starts. */
  kernel: KernelFiles;
  /** The directory of sandboxes. The trial VM has one there, so that the next controller finds what a killed one leaves. */
  dir: string;
}

/** The facts that the choice needs, and the parts that the trial VM is started with. */
interface Candidate {
  version: string;
  /** The directory in which a proof is noted. */
  cacheDir: string;
  trial: WindowTrial | undefined;
  vmm: Pick<Launch, 'program' | 'shim' | 'jail' | 'memoryLimits' | 'watches' | 'machine' | 'pager' | 'signal'>;
}

/**
 * Why the pauses of live branches are not conducted inside QEMU; `null` where they are. That is proved once for each program,
 * by audited branches of a VM that nobody needs.
 */
export async function whyNoInsideWindow(candidate: Candidate): Promise<string | null> {
  const { version, trial, vmm } = candidate;
  const { liveUnavailable } = vmm.pager;
  if (liveUnavailable !== null) return `There are no live branches here: ${liveUnavailable}.`;
  if (!KNOWN_SERIES.some((series) => version.startsWith(`${series}.`))) {
    return `The functions of QEMU ${version} are not known. Those of QEMU ${KNOWN_SERIES.join(' and ')} are.`;
  }
  if (trial === undefined) return 'It has not been tried, because there is no kernel for a trial yet.';
  try {
    const note = await noteOf(candidate);
    if (await exists(note)) return null;
    await prove(trial, vmm);
    // If the note cannot be written, the next start proves it again.
    await writeFile(note, '').catch(() => undefined);
    return null;
  } catch (error) {
    vmm.signal?.throwIfAborted();
    return `A trial failed: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** The file that notes a proof for this very QEMU, this shim and this accelerator. */
async function noteOf({ version, cacheDir, vmm }: Candidate): Promise<string> {
  const program = await findProgram(vmm.program);
  if (program === null) throw new Error(`There is no ${vmm.program} on PATH.`);
  const files = await Promise.all([realpath(program), realpath(vmm.shim)]);
  const facts = await Promise.all(files.map((file) => stat(file)));
  const identity = facts.map(({ ino, size, mtimeMs }, index) => [files[index], ino, size, mtimeMs]);
  const digest = createHash('sha256').update(JSON.stringify(identity)).digest('hex').slice(0, 16);
  return join(cacheDir, `window-inside-${version}-${vmm.machine.accelerator}-${digest}`);
}

async function prove({ kernel, dir }: WindowTrial, vmm: Candidate['vmm']): Promise<void> {
  const id = `window-${randomBytes(6).toString('hex')}`;
  const own = join(dir, id);
  const late = AbortSignal.timeout(TRIAL_TIMEOUT_MS);
  const signal = anySignal(late, vmm.signal);
  await mkdir(own, { mode: 0o700 });
  try {
    const trial = { kernel, dir: own };
    await proveWith(await startTrial(id, trial, { ...vmm, signal }), trial, { ...vmm, signal });
  } finally {
    await rm(own, { recursive: true, force: true });
  }
}

/** Starts the trial VM. */
function startTrial(id: string, { kernel, dir }: WindowTrial, vmm: Candidate['vmm']): Promise<Vm> {
  return launch({
    ...vmm,
    id,
    dir: join(dir, 'vmm'),
    args: [...bootArguments(vmm.machine, vmm.pager.tscKhz), ...STILL_CLOCK],
    files: bootFiles(kernel),
    // The VM reads no disk before it is ended.
    rootImage: kernel.initramfs,
    stack: [],
    findDiskServer: undefined,
    window: 'inside',
    capabilities: TRIAL_CAPABILITIES,
    timeoutMs: undefined,
  });
}

/** Takes the branches of the trial VM, and has a VMM that waits load the last one. */
async function proveWith(vm: Vm, { kernel, dir }: WindowTrial, trial: Candidate['vmm']): Promise<void> {
  const { machine, pager, signal, ...vmm } = trial;
  let idle: Idle | undefined;
  try {
    const rootImage = kernel.initramfs;
    const parts = { ...vmm, dir, window: 'inside', findDiskServer: undefined, moreArgs: STILL_CLOCK } as const;
    idle = await startIdle(parts, { machine, rootImage }, pager);
    for (let branch = 1; branch <= TRIAL_BRANCHES; branch += 1) {
      await pager.proveWindow(vm.record.id, branch === TRIAL_BRANCHES ? idle.name : null, signal);
    }
  } finally {
    await vm.kill();
    if (idle) await endIdle(idle);
  }
}
