import { mkdtemp, readdir, readlink, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { findProgram } from '../files.ts';
import { killProcess, readStartTicks } from '../process.ts';
import { anySignal } from '../signals.ts';
import { endProcess, inTime } from '../supervise.ts';
import { FirecrackerApi } from './api.ts';
import { type Features, featuresOf, probeExtensions } from './features.ts';
import { filtersOf } from './filters.ts';
import { type Handover, rememberedHandover, tryHandover, type WithProcess } from './handover.ts';
import { Jailer, kvmRefused } from './jailer.ts';
import { FILES, type Started, startProcess } from './process.ts';
import { VmRoot } from './vm-root.ts';

/** Prefix of the directories of trials. */
const TRIAL = 'probe-';

/** An empty Firecracker listens within milliseconds. */
const TRIAL_MS = 10_000;

/** Result for builds that lack the request, and for jailed VMs: {@link firecrackerCapabilities} gives the reason. */
const NOT_TRIED: Handover = { loaded: 'it was not tried.', running: 'it was not tried.' };

/** Facts that were found out before the first VM. */
export interface Trial {
  features: Features;
  /** The result of asking a VM for its memory, for a build that knows the request. */
  handover: Handover;
  /** Whether Firecracker filters its system calls, or why it is known that it does not. */
  filtered: true | string;
  /** The jailer that starts VMMs, or `null` if they are started without one. */
  jailer: Jailer | null;
  /** Why they are started without, as a sentence; empty where they are not. */
  unjailed: string;
}

/**
 * Asks a Firecracker without a VM what it is and what it can do. It is started by the jailer, if there is one and we are root:
 * where that works, VMMs are. One that says that it has live branches is asked for them with VMs that nobody needs. `root` is
 * a directory of the caller's.
 */
export async function tryOut(program: string, root: string, signal?: AbortSignal): Promise<Trial> {
  await endTrials(root);
  const path = await findProgram('jailer');
  const plain = async (unjailed: string): Promise<Trial> => {
    const found = await probeEmpty({ program, root, jailer: null, signal });
    return { ...found, handover: await probeHandover(program, root, found.features, signal), jailer: null, unjailed };
  };
  if (path === null) return plain('The jailer is not on PATH.');
  if (process.geteuid?.() !== 0) return plain(`The jailer, which is at ${path}, needs root.`);
  const jailer = await Jailer.open(path, program);
  try {
    const found = await probeEmpty({ program, root, jailer, signal });
    return { ...found, handover: NOT_TRIED, jailer, unjailed: '' };
  } catch (error) {
    signal?.throwIfAborted();
    const { message, hint = '' } = error as EngineError;
    // Whatever is wrong with Firecracker itself is told by the second trial.
    return plain(`The jailer at ${path} does not work here. ${message} ${hint}`.trim());
  }
}

/** Ends what is left of trials whose engine was killed meanwhile: their output goes to their directories. */
async function endTrials(root: string): Promise<void> {
  const names = (await readdir(root)).filter((name) => name.startsWith(TRIAL));
  const left = names.map((name) => resolve(root, name));
  const pids = left.length === 0 ? [] : (await readdir('/proc')).map(Number).filter(Number.isSafeInteger);
  for (const pid of pids) {
    const output = await readlink(`/proc/${pid}/fd/1`).catch(() => '');
    if (!left.includes(dirname(output))) continue;
    const startTicks = await readStartTicks(pid);
    if (startTicks !== null) await killProcess({ pid, startTicks });
  }
  for (const dir of left) await rm(dir, { recursive: true, force: true });
}

/** The question to a process, and where to ask it. */
interface Probe {
  program: string;
  root: string;
  jailer: Jailer | null;
  signal: AbortSignal | undefined;
}

async function probeEmpty(probe: Probe): Promise<Pick<Trial, 'features' | 'filtered'>> {
  const { jailer, signal } = probe;
  return inProcess(probe, async ({ started, vmRoot, api, dir }) => {
    const { exited } = started;
    let found: Pick<Trial, 'features' | 'filtered'> | undefined;
    const starting = { id: 'the probe', exited, log: join(dir, FILES.log), signal, timeoutMs: TRIAL_MS };
    await inTime(starting, async (inTrial) => {
      (await dial(api.socket, inTrial)).destroy();
      const why = jailer && (await kvmRefused(vmRoot));
      if (why) throw new EngineError('unsupported', `${why}.`);
      const features = featuresOf(await api.version(inTrial), await probeExtensions(api, inTrial));
      found = { features, filtered: await filtersOf(started.pid) };
    });
    if (found) return found;
    throw new EngineError('engine_missing', `${probe.program} did not say what it can do.`);
  });
}

async function probeHandover(
  program: string,
  root: string,
  features: Features,
  signal: AbortSignal | undefined,
): Promise<Handover> {
  if (!features.sharedMemory || !features.vmstateOnly || !features.writeProtect) return NOT_TRIED;
  const withProcess: WithProcess = (use) =>
    inProcess({ program, root, jailer: null, signal }, async ({ started, api, dir }) => {
      const inTrial = anySignal(signal, AbortSignal.timeout(TRIAL_MS));
      (await dial(api.socket, inTrial)).destroy();
      return use({ api, dir, exited: started.exited, signal: inTrial });
    });
  const found = await rememberedHandover(program, root, () => tryHandover(withProcess, features));
  signal?.throwIfAborted();
  return found;
}

/** A process without a VM. */
interface Empty {
  started: Started;
  vmRoot: VmRoot;
  api: FirecrackerApi;
  dir: string;
}

/** Starts a process in a directory of its own, and leaves nothing of it once `use` is done. */
async function inProcess<T>({ program, root, jailer }: Probe, use: (empty: Empty) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(root, TRIAL));
  const vmRoot = jailer ? await jailer.vmRoot(dir, 'probe') : VmRoot.plain(dir);
  const started = await startProcess(program, 'probe', dir, jailer ? { jailer, vmRoot } : undefined).catch(
    async (error: unknown) => {
      jailer?.release(vmRoot);
      await rm(dir, { recursive: true, force: true });
      throw error;
    },
  );
  const api = new FirecrackerApi(join(dir, FILES.api));
  try {
    return await use({ started, vmRoot, api, dir });
  } finally {
    await api.close();
    await endProcess(started, started.exited);
    jailer?.release(vmRoot);
    await rm(dir, { recursive: true, force: true });
  }
}
