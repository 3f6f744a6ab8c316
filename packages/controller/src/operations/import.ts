import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  ApiError,
  type Image,
  type ImportSnapshotRequest,
  limits as apiLimits,
  memBytesOf,
  MIB,
  newSandboxId,
  type Refresh,
  type Safety,
  type SnapshotInfo,
} from '@forkd/api';
import { EngineError, type Machine } from '@forkd/engine';
import { asDigest, errnoOf, readCapped, removeTree, StoreError, type Blob } from '@forkd/store';
import { Compile } from 'typebox/compile';
import { withDeadline } from '../deadline.ts';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Runtime } from '../runtime/vmm.ts';
import type { SnapshotContents } from '../state/catalog.ts';
import { entriesProblem } from '../state/refresh.ts';
import { vmDirOf } from '../state/sandbox.ts';
import { Description, fileProblem, FILES, hostPath } from './firecracker-files.ts';
import type { Host } from './host.ts';
import { newFacts } from './new-facts.ts';
import { readRootFile } from './root-file.ts';

const validator = Compile(Description);

/** The description of a directory, read before any file is put into the store. */
interface ImportPlan {
  dir: string;
  machine: Machine;
  image: Image;
  source: string;
  python: boolean;
  refresh: Refresh | null;
  safety: Safety;
  /** The digests that the files must have, if the directory names them. */
  vmstate: Blob | null;
  rootImage: Blob | null;
  /** The path of the root image, for a store that does not have it. */
  rootPath: string;
}

/** Makes a snapshot of the files that Firecracker writes, whole or not at all. */
export async function importSnapshot(
  host: Host,
  tag: string,
  request: ImportSnapshotRequest,
  signal: AbortSignal,
): Promise<SnapshotInfo> {
  const runtime = await host.vmm.use(signal);
  const plan = await inspect(request, runtime);
  const { dir } = plan;
  const context = `${dir} to snapshot '${tag}'`;
  const info = await host.catalog.make(newFacts(tag, { ...plan, network: null }), { context, signal }, () =>
    takeIn(host, plan, runtime, signal),
  );
  host.log.info({ tag, dir }, 'imported');
  return info;
}

async function takeIn(host: Host, plan: ImportPlan, runtime: Runtime, signal: AbortSignal): Promise<SnapshotContents> {
  const { dir, machine } = plan;
  const { pager } = runtime;
  const deviceState = await putFile(host, join(dir, FILES.vmstate), plan.vmstate, signal);
  const rootDisk = await putRootDisk(host, plan, signal);
  const late = () => new ApiError('engine_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
  const memory = { mem_bytes: memBytesOf(machine), stack: [], path: join(dir, FILES.memory), tracked: false };
  const { stack } = await withDeadline(limits.branchTimeoutMs, signal, late, () => pager.importMemory(memory));
  const contents = {
    memory: stack.map(({ digest, size }) => ({ digest: asDigest(digest), size })),
    deviceState,
    rootDisk,
    disk: [],
  };
  if (plan.vmstate === null) await tryOut(host, machine, contents, runtime, signal);
  return contents;
}

/** Lets Firecracker load files that no export vouches for: only a trial shows whether it can. */
async function tryOut(
  { paths, store }: Host,
  machine: Machine,
  { memory, deviceState, rootDisk }: SnapshotContents,
  { engine, pager }: Runtime,
  signal: AbortSignal,
): Promise<void> {
  const id = newSandboxId();
  // The next controller cleans this directory up if this one is killed.
  const dir = join(paths.sandboxes, id);
  try {
    const vm = await engine.restore({
      id,
      dir: vmDirOf(dir),
      rootImage: store.blobPath(rootDisk.digest),
      deviceState: store.blobPath(deviceState.digest),
      stack: memory.map(({ digest }) => digest),
      machine,
      pager,
      signal,
      timeoutMs: limits.restoreTimeoutMs,
    });
    await vm.kill();
  } catch (error) {
    if (!(error instanceof EngineError) || !['vmm_refused', 'vm_start_failed'].includes(error.code)) throw error;
    throw new ApiError('import_invalid', `It cannot be loaded: ${error.message}`, { hint: error.hint, cause: error });
  } finally {
    await removeTree(paths.sandboxes, dir);
  }
}

/** Puts a file into the store. If its digest is known, the file must have it. */
async function putFile({ store }: Host, file: string, expected: Blob | null, signal: AbortSignal): Promise<Blob> {
  const blob = await store.putFile(file, { signal }).catch((error: unknown) => {
    throw unreadable(file, error instanceof StoreError && error.code === 'io' ? error.cause : error);
  });
  if (expected === null || expected.digest === blob.digest) return blob;
  throw new ApiError('import_invalid', `${file} is not the file that was exported: its bytes are others.`);
}

async function putRootDisk(host: Host, { rootImage, rootPath }: ImportPlan, signal: AbortSignal): Promise<Blob> {
  if (rootImage === null) return putFile(host, (await readRootFile(rootPath)).erofs, null, signal);
  try {
    await host.store.check(rootImage);
    await host.store.verifyOnce(rootImage.digest, signal);
    return rootImage;
  } catch (error) {
    if (!(error instanceof StoreError) || error.code !== 'unknown_blob') throw error;
    return putFile(host, rootPath, rootImage, signal);
  }
}

/** Reads the description of a directory. Refuses one that cannot become a snapshot before any file is stored. */
async function inspect({ dir: given, rootfs, vcpus }: ImportSnapshotRequest, { engine }: Runtime): Promise<ImportPlan> {
  if (engine.name !== 'firecracker') {
    throw new ApiError('unsupported', `The controller runs ${engine.name}, which cannot load what is in ${given}.`, {
      hint: 'Start the controller with --engine firecracker.',
    });
  }
  const dir = hostPath(given);
  const memMib = await memMibOf(join(dir, FILES.memory));
  const own = rootfs == null ? null : hostPath(rootfs);
  const described = await readDescription(join(dir, FILES.description));
  if (described === null) {
    if (own === null) {
      const sentence = `${dir} has no ${FILES.description}, and so does not say what its root image is.`;
      throw new ApiError('import_invalid', sentence, { hint: 'Name the root image with `rootfs`.' });
    }
    const image = { env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] };
    const machine = engine.machine(memMib, vcpus ?? apiLimits.vcpusDefault);
    const source = `firecracker ${dir}`;
    const unknown = { refresh: null, safety: 'standard' as const, vmstate: null, rootImage: null };
    return { dir, machine, image, source, python: false, ...unknown, rootPath: own };
  }
  if (described.machine.mem_mib !== memMib) {
    const sentence = `${join(dir, FILES.memory)} has ${memMib} MiB, and ${described.machine.mem_mib} were exported.`;
    throw new ApiError('import_invalid', sentence);
  }
  const {
    machine,
    image,
    source,
    python,
    refresh = null,
    safety = 'standard',
    vmstate,
    root_image: rootImage,
  } = described;
  const problem = entriesProblem(refresh?.entries ?? [], memMib);
  if (problem !== undefined) throw new ApiError('import_invalid', `${join(dir, FILES.description)}: ${problem}.`);
  const rootPath = own ?? join(dir, FILES.rootImage);
  return { dir, machine, image, source, python, refresh, safety, vmstate, rootImage, rootPath };
}

async function memMibOf(file: string): Promise<number> {
  const { size } = await stat(file).catch((error: unknown) => {
    throw unreadable(file, error);
  });
  if (size > 0 && size % MIB === 0) return size / MIB;
  throw new ApiError('import_invalid', `${file} has ${size} bytes, which is no number of MiB.`);
}

async function readDescription(file: string): Promise<Description | null> {
  const wrong = (why: string) => new ApiError('import_invalid', `${file} ${why}.`);
  const bytes = await readCapped(file, limits.recordBytesMax, () => wrong('is too long')).catch((error: unknown) => {
    throw unreadable(file, error);
  });
  if (bytes === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw wrong(`is not JSON: ${messageOf(error)}`);
  }
  if (!validator.Check(value)) throw wrong('does not describe an export that this version knows');
  if (value.machine.engine === 'firecracker') return value;
  throw wrong(`describes a snapshot of ${value.machine.engine}`);
}

/** The error of a file that is missing, or was removed meanwhile, names the file; any other error is a fault of the path. */
function unreadable(file: string, error: unknown): unknown {
  if (errnoOf(error) !== 'ENOENT') return fileProblem(`${file} cannot be read`, error);
  return new ApiError('import_invalid', `There is no ${file}.`, { cause: error });
}
