import { constants } from 'node:fs';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { killProcess } from '../process.ts';
import { inTime } from '../supervise.ts';
import type { Isolation } from '../types.ts';
import { FirecrackerApi } from './api.ts';
import { type Features, featuresOf, probeExtensions } from './features.ts';
import { FILES, startProcess } from './process.ts';

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

/** Asks a Firecracker without a VM what it is and what it can do. `root` is a directory of the caller's. */
export async function probeFeatures(program: string, root: string, signal?: AbortSignal): Promise<Features> {
  const dir = await mkdtemp(join(root, 'probe-'));
  const started = await startProcess(program, 'probe', dir).catch(async (error: unknown) => {
    await rm(dir, { recursive: true, force: true });
    throw error;
  });
  const api = new FirecrackerApi(join(dir, FILES.api));
  let features: Features | undefined;
  try {
    const { exited } = started;
    const log = join(dir, FILES.log);
    await inTime({ id: 'the probe', exited, log, signal, timeoutMs: TRIAL_MS }, async (inTrial) => {
      (await dial(api.socket, inTrial)).destroy();
      features = featuresOf(await api.version(inTrial), await probeExtensions(api, inTrial));
    });
  } finally {
    await api.close();
    await killProcess(started);
    await started.exited;
    await rm(dir, { recursive: true, force: true });
  }
  if (features) return features;
  throw new EngineError('engine_missing', `${program} did not say what it can do.`);
}

/** What keeps a Firecracker in its place here. */
export async function isolationOf(): Promise<Isolation[]> {
  const jailer = await findProgram('jailer');
  const found = jailer === null ? 'The jailer is not on PATH' : `The jailer is at ${jailer}, and is not used yet`;
  return [
    { id: 'seccomp', ok: true, detail: 'Firecracker lets each of its threads make only the calls that it needs.' },
    { id: 'jailer', ok: false, detail: `${found}: a VMM has the user and sees the files of the controller.` },
  ];
}
