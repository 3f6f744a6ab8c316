import { constants } from 'node:fs';
import { access, mkdtemp, readdir, readlink, rm } from 'node:fs/promises';
import { delimiter, dirname, join, resolve } from 'node:path';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { killProcess, readStartTicks } from '../process.ts';
import { inTime } from '../supervise.ts';
import { FirecrackerApi } from './api.ts';
import { type Features, featuresOf, probeExtensions } from './features.ts';
import { Jailer, kvmRefused } from './jailer.ts';
import { Place } from './place.ts';
import { FILES, startProcess } from './process.ts';

/** What the directories of trials begin with. */
const TRIAL = 'probe-';

/** An empty Firecracker listens within milliseconds. */
const TRIAL_MS = 10_000;

/** The path of a program on PATH; `null` when it is nowhere there. */
export async function findProgram(name: string): Promise<string | null> {
  for (const dir of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(dir, name);
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found && dir.startsWith('/')) return path;
  }
  return null;
}

/** What was found out before the first VM. */
export interface Trial {
  features: Features;
  /** What starts VMMs; `null` where they are started without. */
  jailer: Jailer | null;
  /** Why they are started without, as a sentence; empty where they are not. */
  unjailed: string;
}

/**
 * Asks a Firecracker without a VM what it is and what it can do. It is started by the jailer, if there is one and we are root:
 * where that works, VMMs are. `root` is a directory of the caller's.
 */
export async function tryOut(program: string, root: string, signal?: AbortSignal): Promise<Trial> {
  await endTrials(root);
  const path = await findProgram('jailer');
  const plain = async (unjailed: string): Promise<Trial> => {
    return { features: await probeFeatures(program, root, null, signal), jailer: null, unjailed };
  };
  if (path === null) return plain('The jailer is not on PATH.');
  if (process.geteuid?.() !== 0) return plain(`The jailer, which is at ${path}, needs root.`);
  const jailer = await Jailer.open(path, program);
  try {
    return { features: await probeFeatures(program, root, jailer, signal), jailer, unjailed: '' };
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

async function probeFeatures(
  program: string,
  root: string,
  jailer: Jailer | null,
  signal?: AbortSignal,
): Promise<Features> {
  const dir = await mkdtemp(join(root, TRIAL));
  const place = jailer ? await jailer.place(dir, 'probe') : Place.plain(dir);
  const started = await startProcess(program, 'probe', dir, jailer ? { jailer, place } : undefined).catch(
    async (error: unknown) => {
      jailer?.release(place);
      await rm(dir, { recursive: true, force: true });
      throw error;
    },
  );
  const api = new FirecrackerApi(join(dir, FILES.api));
  let features: Features | undefined;
  try {
    const { exited } = started;
    const log = join(dir, FILES.log);
    await inTime({ id: 'the probe', exited, log, signal, timeoutMs: TRIAL_MS }, async (inTrial) => {
      (await dial(api.socket, inTrial)).destroy();
      const why = jailer && (await kvmRefused(place));
      if (why) throw new EngineError('unsupported', `${why}.`);
      features = featuresOf(await api.version(inTrial), await probeExtensions(api, inTrial));
    });
  } finally {
    await api.close();
    await killProcess(started);
    await started.exited;
    jailer?.release(place);
    await rm(dir, { recursive: true, force: true });
  }
  if (features) return features;
  throw new EngineError('engine_missing', `${program} did not say what it can do.`);
}
