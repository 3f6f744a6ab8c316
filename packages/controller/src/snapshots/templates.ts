import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';

import type { CreateSnapshotRequest, SnapshotInfo, SnapshotResultEvent } from '@forkd/api';
import { ApiError, createSnapshotProblem, limits as apiLimits, newSandboxId } from '@forkd/api';
import type { KernelFiles, Vm } from '@forkd/engine';
import { buildRoot } from '@forkd/images';
import type { Blob, ImageRecord, Store } from '@forkd/store';
import { asDigest } from '@forkd/store';
import type { Logger } from 'pino';

import { anySignal, withDeadline } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';
import type { GuestBoot } from '../runtime/guest-boot.ts';
import type { Runtime, Vmm } from '../runtime/vmm.ts';
import { admit } from '../sandboxes/admission.ts';
import { settingsDefault } from '../sandboxes/record.ts';
import type { Registry } from '../sandboxes/registry.ts';
import type { Sandbox } from '../sandboxes/sandbox.ts';
import type { Scope } from '../scope.ts';
import { withScope } from '../scope.ts';
import type { Catalog } from './catalog.ts';
import { statsOf } from './describe.ts';
import type { Draft } from './draft.ts';
import type { Housekeeping } from './housekeeping.ts';
import type { OnProgress } from './progress.ts';
import type { Root } from './root-file.ts';
import { readRootFile } from './root-file.ts';
import { awaitAgent, warm } from './warm.ts';

export type TemplateResult = Omit<SnapshotResultEvent, 'type'>;

/** A build under way. */
interface Build {
  draft: Draft;
  request: CreateSnapshotRequest;
  signal: AbortSignal;
  onProgress: OnProgress;
  scope: Scope;
}

/** Makes templates: boots an image, warms it, and takes a snapshot. Whole or not at all. */
export class TemplateService {
  readonly #catalog: Catalog;
  readonly #registry: Registry;
  readonly #store: Store;
  readonly #housekeeping: Housekeeping;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #boot: GuestBoot;
  readonly #paths: DataPaths;
  readonly #log: Logger;

  constructor(parts: {
    catalog: Catalog;
    registry: Registry;
    store: Store;
    housekeeping: Housekeeping;
    vmm: Pick<Vmm, 'use'>;
    boot: GuestBoot;
    paths: DataPaths;
    log: Logger;
  }) {
    this.#catalog = parts.catalog;
    this.#registry = parts.registry;
    this.#store = parts.store;
    this.#housekeeping = parts.housekeeping;
    this.#vmm = parts.vmm;
    this.#boot = parts.boot;
    this.#paths = parts.paths;
    this.#log = parts.log;
  }

  /** `noteTag` is waited for when the tag is taken and nothing has been made. */
  async create(
    request: CreateSnapshotRequest,
    signal: AbortSignal,
    onProgress: OnProgress,
    noteTag: (tag: string) => Promise<void>,
  ): Promise<TemplateResult> {
    assertRequest(request);
    const { tag, tap } = request;
    const draft = await this.#catalog.claim({
      tag,
      createdAtUnix: Math.floor(Date.now() / 1000),
      machine: null,
      image: null,
      source: request.source ?? request.rootfs ?? '',
      python: false,
      parent: null,
      branchedFrom: null,
    });
    try {
      await noteTag(tag);
      const result = await withScope(this.#log, (scope) => this.#build({ draft, request, signal, onProgress, scope }));
      if (tap != null) result.snapshot.warning = `tap '${tap}' was passed over: guests have no network yet`;
      return result;
    } catch (error) {
      const failure = during(`Snapshot '${tag}'`, signal.aborted ? signal.reason : error);
      this.#log.warn({ tag, code: failure.code }, failure.message);
      this.#catalog.discard(draft, failure);
      this.#housekeeping.request();
      throw failure;
    }
  }

  async #build(build: Build): Promise<TemplateResult> {
    const beganMs = performance.now();
    const { draft, request, signal, onProgress, scope } = build;
    scope.defer('the write gate', await this.#store.beginWrite());
    const root = await this.#root(build);
    const kernel = await this.#kernel(build);
    const rootDisk = await this.#store.putFile(root.erofs, { link: root.frozen, signal });
    const imageDoneMs = performance.now();

    const runtime = await this.#vmm.use(signal);
    const { sandbox, vm } = await this.#bootVm(build, { runtime, kernel, root, rootDisk });
    const guestSignal = anySignal(signal, sandbox.ended.signal);
    const waitMs = bootWaitMs(request, runtime);
    await awaitAgent(sandbox, waitMs, guestSignal);
    const bootDoneMs = performance.now();

    onProgress('warm', 'warming up');
    const python = await warm(sandbox, { image: root.config, request, signal: guestSignal, onProgress });
    const warmDoneMs = performance.now();

    onProgress('snapshot', 'taking the snapshot');
    const times = { boot_ms: bootDoneMs - imageDoneMs, warm_ms: warmDoneMs - bootDoneMs };
    const info = await this.#snapshot(build, { sandbox, vm, root, rootDisk, python, times });
    const snapshotMs = performance.now() - warmDoneMs;
    this.#log.info({ tag: draft.tag, ...times, snapshot_ms: snapshotMs }, 'template is durable');
    return { snapshot: info, build_ms: imageDoneMs - beganMs, ...times, snapshot_ms: snapshotMs };
  }

  async #root({ request, signal, onProgress }: Build): Promise<Root> {
    const { source, rootfs } = request;
    const cacheDir = this.#paths.cache;
    const build = async (from: string): Promise<Root> => {
      const onLine = (line: string) => onProgress('image', line);
      return { ...(await buildRoot({ source: from, cacheDir, signal, onProgress: onLine })), frozen: true };
    };
    if (typeof source === 'string') return build(source);
    const path = resolve(rootfs ?? '');
    const info = await stat(path).catch(() => null);
    return info?.isDirectory() ? build(`dir:${path}`) : readRootFile(path);
  }

  async #kernel({ request, signal, onProgress }: Build): Promise<KernelFiles> {
    const own = request.kernel == null ? {} : { kernelFile: resolve(request.kernel) };
    return this.#boot.files({ ...own, signal, onProgress: (line) => onProgress('kernel', line) });
  }

  async #bootVm(
    { draft, request, signal, onProgress, scope }: Build,
    parts: { runtime: Runtime; kernel: KernelFiles; root: Root; rootDisk: Blob },
  ): Promise<{ sandbox: Sandbox; vm: Vm }> {
    const { runtime, kernel, root, rootDisk } = parts;
    const memMib = request.mem_mib ?? apiLimits.memMibDefault;
    const vcpus = request.vcpus ?? apiLimits.vcpusDefault;
    await admit(`A boot with ${memMib} MiB`, 1, memMib * 1024 * 1024 + limits.vmOverheadBytes);
    onProgress('boot', `booting under ${runtime.engine.accelerator}: ${runtime.engine.acceleratorReason}`);
    const id = newSandboxId();
    const sandbox = await this.#registry.reserve(
      {
        ...settingsDefault,
        labels: {},
        warnings: [],
        format: 2,
        id,
        kind: 'template',
        state: 'starting',
        snapshot_tag: draft.tag,
        snapshot_digest: null,
        root_disk: rootDisk,
        image: imageOf(root),
        source: root.source,
        python: false,
        created_at_unix: draft.facts.createdAtUnix,
        branch_count: 0,
        last_branch_memory_path: null,
        fork_ms: null,
        ready_ms: null,
        vm: null,
      },
      [rootDisk.digest],
    );
    scope.defer(`the VM of template '${draft.tag}'`, () => this.#registry.end(sandbox));
    const vm = await runtime.engine.boot({
      id,
      dir: sandbox.vmDir,
      rootImage: this.#store.blobPath(rootDisk.digest),
      pager: runtime.pager,
      memMib,
      vcpus,
      kernel,
      signal,
      timeoutMs: bootWaitMs(request, runtime),
    });
    this.#registry.attach(sandbox, vm);
    return { sandbox, vm };
  }

  async #snapshot(
    { draft, signal }: Build,
    parts: {
      sandbox: Sandbox;
      vm: Vm;
      root: Root;
      rootDisk: Blob;
      python: boolean;
      times: { boot_ms: number; warm_ms: number };
    },
  ): Promise<SnapshotInfo> {
    const { sandbox, vm, root, rootDisk, python, times } = parts;
    const { machine } = vm.record;
    const late = () => new ApiError('branch_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
    const guestSignal = anySignal(signal, sandbox.ended.signal);
    const done = await withDeadline(limits.branchTimeoutMs, guestSignal, late, (inTime) =>
      vm.branch({ mode: 'diff', resume: false }, { signal: inTime }),
    );
    const blobOf = ({ digest, size }: { digest: string; size: number }) => ({ digest: asDigest(digest), size });
    // The VM was not resumed: it was never paused for anybody.
    const { pause_us: _us, pause_ms: _ms, ...stats } = statsOf(done.stats, 'full', machine.mem_mib);
    await this.#catalog.publish(draft, {
      config: {
        format: 1,
        tag: draft.tag,
        created_at_unix: draft.facts.createdAtUnix,
        machine,
        image: imageOf(root),
        source: root.source,
        python,
        parent_tag: null,
        parent_digest: null,
        branched_from: null,
        stats: { ...stats, ...times },
      },
      memory: done.stack.map(blobOf),
      deviceState: blobOf(done.device_state),
      rootDisk,
    });
    return this.#catalog.describe(draft);
  }
}

function imageOf({ config }: Root): ImageRecord {
  const { env, workdir, user, entrypoint, cmd } = config;
  return { env: { ...env }, workdir, user, entrypoint: [...entrypoint], cmd: [...cmd] };
}

/** An emulated guest needs its time, whatever a client made for KVM asks for. */
function bootWaitMs(request: CreateSnapshotRequest, { engine }: Runtime): number {
  const askedMs = (request.boot_wait_secs ?? apiLimits.bootWaitSecsDefault) * 1000;
  return engine.accelerator === 'tcg' ? Math.max(askedMs, limits.bootWaitTcgMsMin) : Math.max(askedMs, 1000);
}

function assertRequest(request: CreateSnapshotRequest): void {
  const problem = createSnapshotProblem(request);
  if (problem !== undefined) throw new ApiError('bad_request', problem);
}
