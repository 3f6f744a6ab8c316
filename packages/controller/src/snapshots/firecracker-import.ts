import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import type { ImportSnapshotRequest, SnapshotInfo } from '@forkd/api';
import { ApiError, limits as apiLimits, newSandboxId } from '@forkd/api';
import type { Machine } from '@forkd/engine';
import { EngineError } from '@forkd/engine';
import type { Blob, ImageRecord, SnapshotDraft, Store } from '@forkd/store';
import { asDigest, errnoOf, readCapped, removeTree, StoreError } from '@forkd/store';
import type { Logger } from 'pino';
import { Compile } from 'typebox/compile';

import { withDeadline } from '../deadline.ts';
import { during, messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';
import type { Runtime, Vmm } from '../runtime/vmm.ts';
import { vmDirOf } from '../sandboxes/sandbox.ts';
import type { Catalog } from './catalog.ts';
import type { Draft } from './draft.ts';
import { Description, fileProblem, FILES, hostPath } from './firecracker-files.ts';
import type { Housekeeping } from './housekeeping.ts';
import { readRootFile } from './root-file.ts';

const mib = 1024 * 1024;

const description = Compile(Description);

/** What is known of a directory before any of it is taken in. */
interface Found {
  dir: string;
  machine: Machine;
  image: ImageRecord;
  source: string;
  python: boolean;
  /** What its files must be, where the directory says so. */
  vmstate: Blob | null;
  rootImage: Blob | null;
  /** Where the root image is, if the store has none like it. */
  rootPath: string;
}

type Contents = Pick<SnapshotDraft, 'memory' | 'deviceState' | 'rootDisk'>;

/** Makes snapshots of the files that Firecracker writes. Whole or not at all. */
export class FirecrackerImport {
  readonly #catalog: Catalog;
  readonly #store: Store;
  readonly #housekeeping: Housekeeping;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #paths: DataPaths;
  readonly #log: Logger;

  constructor(parts: {
    catalog: Catalog;
    store: Store;
    housekeeping: Housekeeping;
    vmm: Pick<Vmm, 'use'>;
    paths: DataPaths;
    log: Logger;
  }) {
    this.#catalog = parts.catalog;
    this.#store = parts.store;
    this.#housekeeping = parts.housekeeping;
    this.#vmm = parts.vmm;
    this.#paths = parts.paths;
    this.#log = parts.log;
  }

  async read(tag: string, request: ImportSnapshotRequest, signal: AbortSignal): Promise<SnapshotInfo> {
    const runtime = await this.#vmm.use(signal);
    const found = await look(request, runtime);
    const { machine, image, source, python } = found;
    const draft = await this.#catalog.claim({
      tag,
      createdAtUnix: Math.floor(Date.now() / 1000),
      machine,
      image,
      source,
      python,
      parent: null,
      branchedFrom: null,
    });
    const endWrite = await this.#store.beginWrite();
    try {
      await this.#take(draft, found, runtime, signal);
      this.#log.info({ tag, dir: found.dir }, 'imported');
      return this.#catalog.describe(draft);
    } catch (error) {
      const failure = during(`${found.dir} to snapshot '${tag}'`, signal.aborted ? signal.reason : error);
      this.#catalog.discard(draft, failure);
      this.#housekeeping.request();
      throw failure;
    } finally {
      endWrite();
    }
  }

  async #take(draft: Draft, found: Found, runtime: Runtime, signal: AbortSignal): Promise<void> {
    const { dir, machine, image, source, python } = found;
    const { pager } = runtime;
    const deviceState = await this.#file(join(dir, FILES.vmstate), found.vmstate, signal);
    const rootDisk = await this.#rootDisk(found, signal);
    const late = () => new ApiError('engine_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
    const memory = { mem_bytes: machine.mem_mib * mib, stack: [], path: join(dir, FILES.memory), tracked: false };
    const { stack } = await withDeadline(limits.branchTimeoutMs, signal, late, () => pager.importMemory(memory));
    const contents = {
      memory: stack.map(({ digest, size }) => ({ digest: asDigest(digest), size })),
      deviceState,
      rootDisk,
    };
    if (found.vmstate === null) await this.#tryOut(machine, contents, runtime, signal);
    await this.#catalog.publish(draft, {
      config: {
        format: 1,
        tag: draft.tag,
        created_at_unix: draft.facts.createdAtUnix,
        machine,
        image,
        source,
        python,
        parent_tag: null,
        parent_digest: null,
        branched_from: null,
        stats: {},
      },
      ...contents,
    });
  }

  /** Lets Firecracker load what no export vouches for: nobody else can say whether that is possible. */
  async #tryOut(
    machine: Machine,
    { memory, deviceState, rootDisk }: Contents,
    { engine, pager }: Runtime,
    signal: AbortSignal,
  ): Promise<void> {
    const id = newSandboxId();
    // Where a controller that follows one that was killed clears up.
    const dir = join(this.#paths.sandboxes, id);
    try {
      const vm = await engine.restore({
        id,
        dir: vmDirOf(dir),
        rootImage: this.#store.blobPath(rootDisk.digest),
        deviceState: this.#store.blobPath(deviceState.digest),
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
      await removeTree(this.#paths.sandboxes, dir);
    }
  }

  /** Takes in a file, which must be `expected` where that is known. */
  async #file(path: string, expected: Blob | null, signal: AbortSignal): Promise<Blob> {
    const blob = await this.#store.putFile(path, { signal }).catch((error: unknown) => {
      throw unreadable(path, error instanceof StoreError && error.code === 'io' ? error.cause : error);
    });
    if (expected === null || expected.digest === blob.digest) return blob;
    throw new ApiError('import_invalid', `${path} is not the file that was exported: its bytes are others.`);
  }

  async #rootDisk({ rootImage, rootPath }: Found, signal: AbortSignal): Promise<Blob> {
    if (rootImage === null) return this.#file((await readRootFile(rootPath)).erofs, null, signal);
    try {
      await this.#store.check(rootImage);
      await this.#store.verifyOnce(rootImage.digest, signal);
      return rootImage;
    } catch (error) {
      if (!(error instanceof StoreError) || error.code !== 'unknown_blob') throw error;
      return this.#file(rootPath, rootImage, signal);
    }
  }
}

/** Reads what a directory says of itself, and refuses one that cannot become a snapshot before anything is taken in. */
async function look({ dir: given, rootfs, vcpus }: ImportSnapshotRequest, { engine }: Runtime): Promise<Found> {
  if (engine.name !== 'firecracker') {
    throw new ApiError('unsupported', `The controller runs ${engine.name}, which cannot load what is in ${given}.`, {
      hint: 'start the controller with --engine firecracker',
    });
  }
  const dir = hostPath(given);
  const memMib = await memMibOf(join(dir, FILES.memory));
  const own = rootfs == null ? null : hostPath(rootfs);
  const said = await readDescription(join(dir, FILES.description));
  if (said === null) {
    if (own === null) {
      const sentence = `${dir} has no ${FILES.description}, and so does not say what its root image is.`;
      throw new ApiError('import_invalid', sentence, { hint: 'name the root image with rootfs' });
    }
    const image = { env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] };
    const machine = engine.machine(memMib, vcpus ?? apiLimits.vcpusDefault);
    const source = `firecracker ${dir}`;
    return { dir, machine, image, source, python: false, vmstate: null, rootImage: null, rootPath: own };
  }
  if (said.machine.mem_mib !== memMib) {
    const sentence = `${join(dir, FILES.memory)} has ${memMib} MiB, and ${said.machine.mem_mib} were exported.`;
    throw new ApiError('import_invalid', sentence);
  }
  const { machine, image, source, python, vmstate, root_image: rootImage } = said;
  return { dir, machine, image, source, python, vmstate, rootImage, rootPath: own ?? join(dir, FILES.rootImage) };
}

async function memMibOf(path: string): Promise<number> {
  const { size } = await stat(path).catch((error: unknown) => {
    throw unreadable(path, error);
  });
  if (size > 0 && size % mib === 0) return size / mib;
  throw new ApiError('import_invalid', `${path} has ${size} bytes, which is no number of MiB.`);
}

async function readDescription(path: string): Promise<Description | null> {
  const wrong = (why: string) => new ApiError('import_invalid', `${path} ${why}.`);
  const bytes = await readCapped(path, limits.recordBytesMax, () => wrong('is too long')).catch((error: unknown) => {
    throw unreadable(path, error);
  });
  if (bytes === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw wrong(`is not JSON: ${messageOf(error)}`);
  }
  if (!description.Check(value)) throw wrong('does not describe an export that this version knows');
  if (value.machine.engine === 'firecracker') return value;
  throw wrong(`describes a snapshot of ${value.machine.engine}`);
}

/** A file that is not there, or was taken away meanwhile, is what the directory lacks; the rest is the path's fault. */
function unreadable(path: string, error: unknown): unknown {
  if (errnoOf(error) !== 'ENOENT') return fileProblem(`${path} cannot be read`, error);
  return new ApiError('import_invalid', `There is no ${path}.`, { cause: error });
}
