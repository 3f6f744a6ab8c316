import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import {
  ApiError,
  createSnapshotProblem,
  GIB,
  type CreateSnapshotRequest,
  limits as apiLimits,
  MIB,
  type NetworkPolicy,
  newSandboxId,
  type SnapshotInfo,
  type SnapshotResultEvent,
} from '@forkd/api';
import { anySignal, type BootSpec, type KernelFiles, type Policy, type Vm } from '@forkd/engine';
import { buildRoot, withEmptyDisk } from '@forkd/images';
import { asDigest, type Blob } from '@forkd/store';
import { withDeadline } from '../deadline.ts';
import { toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import { assertCan } from '../runtime/capabilities.ts';
import { policyOf } from '../runtime/network-rules.ts';
import type { Runtime } from '../runtime/vmm.ts';
import { withScope, type Scope } from '../scope.ts';
import type { SnapshotContents } from '../state/catalog.ts';
import { statsOf } from '../state/describe.ts';
import type { Draft, DraftFacts } from '../state/draft.ts';
import { askForRefresh, randomWarning } from '../state/refresh.ts';
import { newRecord } from '../state/sandbox-record.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { admit } from './admission.ts';
import { awaitAgent, inStage } from './await-agent.ts';
import type { Host } from './host.ts';
import { markNetwork } from './mark-network.ts';
import { applyNetwork } from './network.ts';
import { newFacts } from './new-facts.ts';
import type { OnProgress } from './progress.ts';
import { readRootFile, type Root } from './root-file.ts';
import { warm } from './warm.ts';

type BuiltTemplate = Omit<SnapshotResultEvent, 'type'>;

/** A build under way. */
interface Build {
  draft: Draft;
  request: CreateSnapshotRequest;
  signal: AbortSignal;
  onProgress: OnProgress;
  scope: Scope;
}

/** When each stage of a build was done. */
interface StageTimes {
  imageDoneMs: number;
  bootDoneMs: number;
  warmDoneMs: number;
}

/** Makes a template, whole or not at all: boots an image, warms it and takes a snapshot. */
export async function buildTemplate(
  host: Host,
  request: CreateSnapshotRequest,
  signal: AbortSignal,
  onProgress: OnProgress,
  requestKey: string | null,
): Promise<BuiltTemplate> {
  const problem = createSnapshotProblem(request);
  if (problem !== undefined) throw new ApiError('bad_request', problem);
  const { catalog, replies, log } = host;
  const { tag, tap, replace = false } = request;
  if (replace) await assertReplaceable(host, tag);
  const source = request.source ?? request.rootfs ?? '';
  const unknown = {
    machine: null,
    image: null,
    source,
    python: false,
    refresh: null,
    safety: 'standard',
    network: null,
  } as const;
  const facts = { ...newFacts(tag, unknown), ...buildOf(request) };
  const note = () => replies.noteSnapshot(requestKey, tag);
  const beganMs = performance.now();
  const done: StageTimes = { imageDoneMs: beganMs, bootDoneMs: beganMs, warmDoneMs: beganMs };
  // The scope ends the VM of the build once the snapshot is on disk.
  return withScope(log, async (scope) => {
    const snapshot = await catalog.make(facts, { context: `Snapshot '${tag}'`, signal, note, replace }, (draft) =>
      build(host, { draft, request, signal, onProgress, scope }, done).catch((error: unknown) => {
        const { code, message } = toApiError(signal.aborted ? signal.reason : error);
        log.warn({ tag, code }, message);
        throw error;
      }),
    );
    const times = { ...stageMs(done), snapshot_ms: performance.now() - done.warmDoneMs };
    log.info({ tag, ...times }, 'template is durable');
    if (tap != null) addWarning(snapshot, `tap '${tap}' was passed over: a guest has no tap device`);
    return { snapshot, build_ms: done.imageDoneMs - beganMs, ...times };
  });
}

async function build(host: Host, of: Build, done: StageTimes): Promise<SnapshotContents> {
  const { draft, request, signal, onProgress } = of;
  const memMib = request.mem_mib ?? apiLimits.memMibDefault;
  const network = networkAfterwards(request);
  const policy = network === null ? null : policyOf(request.warm_network ?? network);
  // Asked first: an image can take minutes to make.
  await admit(`A boot with ${memMib} MiB`, 1, memMib * MIB + limits.vmOverheadBytes);
  const root = await rootOf(host, of);
  const kernel = await kernelOf(host, of);
  const rootDisk = await host.store.putFile(root.erofs, { link: root.frozen, signal });
  done.imageDoneMs = performance.now();

  const runtime = await host.vmm.use(signal);
  if (request.disk_gib != null) {
    assertCan(
      runtime.engine,
      'disk',
      `Snapshot '${request.tag}' with a disk of ${request.disk_gib} GiB`,
      'Leave disk_gib out.',
    );
  }
  if (policy !== null)
    assertCan(runtime.engine, 'network', `Snapshot '${request.tag}' with a network`, 'Leave it out.');
  const disk = await emptyDiskOf(host, of);
  const { sandbox, vm } = await bootVm(host, of, { runtime, kernel, root, rootDisk, disk, memMib, policy });
  const { machine } = vm.record;
  const guestSignal = anySignal(signal, sandbox.ended.signal);
  await inStage('boot_failed', sandbox, awaitAgent(sandbox, bootWaitMs(request, runtime), guestSignal));
  done.bootDoneMs = performance.now();
  // The guest is asked before anything of a user runs in it.
  const refresh = await inStage('boot_failed', sandbox, askForRefresh(sandbox, machine.mem_mib, guestSignal));
  const warning = randomWarning(refresh);
  if (warning !== undefined) onProgress('boot', warning);

  onProgress('warm', 'warming up');
  const warming = warm(sandbox, { image: root.config, request, signal: guestSignal, onProgress });
  const python = await inStage('warm_failed', sandbox, warming);
  if (request.warm_network != null) await applyNetwork(host, sandbox, network ?? {});
  done.warmDoneMs = performance.now();

  onProgress('snapshot', 'taking the snapshot');
  const late = () => new ApiError('branch_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
  const taken = await withDeadline(limits.branchTimeoutMs, guestSignal, late, (inTime) =>
    vm.branch({ mode: 'diff', resume: false }, { signal: inTime }),
  );
  const marked = await markNetwork(host, sandbox);
  // The VM was not resumed, so that its pause says nothing. A template holds all pages that were written.
  const whole = { ...taken.stats, diff_us: 0 };
  const { pause_us: _us, pause_ms: _ms, ...stats } = statsOf(whole, 'full', machine.mem_mib);
  draft.stats = { ...stats, ...stageMs(done) };
  const blobOf = ({ digest, size }: { digest: string; size: number }) => ({ digest: asDigest(digest), size });
  return {
    facts: { machine, image: root.config, source: root.source, python, refresh, network: marked },
    memory: taken.stack.map(blobOf),
    deviceState: blobOf(taken.device_state),
    rootDisk,
    disk: (taken.disk ?? []).map(blobOf),
  };
}

/** The network of the children. `null`: neither they nor the warm-up have one. */
function networkAfterwards({ network, warm_network: warmNetwork }: CreateSnapshotRequest): NetworkPolicy | null {
  return network ?? (warmNetwork == null ? null : {});
}

async function rootOf({ paths }: Host, { request, signal, onProgress }: Build): Promise<Root> {
  const { source, rootfs, env, copy, packages } = request;
  const additions = { packages: packages ?? [], copies: copy ?? [] };
  const withEnv = (root: Root): Root => ({ ...root, config: { ...root.config, env: { ...root.config.env, ...env } } });
  const buildFrom = async (from: string): Promise<Root> => {
    const onLine = (line: string) => onProgress('image', line);
    const options = { source: from, additions, cacheDir: paths.cache, signal, onProgress: onLine };
    return withEnv({ ...(await buildRoot(options)), frozen: true });
  };
  if (typeof source === 'string') return buildFrom(source);
  const file = resolve(rootfs ?? '');
  const info = await stat(file).catch(() => null);
  if (info?.isDirectory()) return buildFrom(`dir:${file}`);
  const root = await readRootFile(file);
  if (additions.packages.length + additions.copies.length === 0) return withEnv(root);
  throw new ApiError('bad_request', `Nothing can be added to ${file}, which is an image of a file system.`, {
    hint: 'Give the directory that it was made of.',
  });
}

/** The request as it is kept to build the template again. A request that is too long for a manifest is not kept. */
function buildOf(request: CreateSnapshotRequest): Pick<DraftFacts, 'build'> {
  const kept = { ...request };
  delete kept.replace;
  return Buffer.byteLength(JSON.stringify(kept)) > limits.buildBytesMax ? {} : { build: kept };
}

/** Throws `has_dependents` if a branch or a workspace keeps the snapshot that has the tag. */
async function assertReplaceable({ catalog, workspaces }: Host, tag: string): Promise<void> {
  const dependents = await catalog.dependents(tag);
  const reason = dependents.length > 0 ? `it is kept by '${dependents.join("', '")}'` : workspaces.reservedBy(tag);
  if (reason === null) return;
  throw new ApiError('has_dependents', `Snapshot '${tag}' cannot be replaced: ${reason}.`, {
    hint: 'Build under another tag, or remove what keeps it first.',
    details: { dependents },
  });
}

async function kernelOf({ boot }: Host, { request, signal, onProgress }: Build): Promise<KernelFiles> {
  const own = request.kernel == null ? {} : { kernelFile: resolve(request.kernel) };
  const disk = request.disk_gib != null;
  const network = networkAfterwards(request) !== null;
  return boot.files({ ...own, disk, network, signal, onProgress: (line) => onProgress('kernel', line) });
}

type BootDisk = NonNullable<BootSpec['disk']>;

/** A disk with an empty file system, in the store. `null` if the template is to have none. */
async function emptyDiskOf({ paths, disks }: Host, { request, signal }: Build): Promise<BootDisk | null> {
  const { disk_gib: gib } = request;
  if (gib == null) return null;
  return withEmptyDisk({ cacheDir: paths.cache, gib, signal }, async (file) => {
    const { digest } = await (await disks.find()).importImage(file, gib * GIB);
    return { gib, layers: [digest] };
  });
}

interface BootParts {
  runtime: Runtime;
  kernel: KernelFiles;
  root: Root;
  rootDisk: Blob;
  disk: BootDisk | null;
  memMib: number;
  /** The policy of the guest. `null`: it has no network device. */
  policy: Policy | null;
}

async function bootVm(
  { registry, store }: Host,
  { draft, request, signal, onProgress, scope }: Build,
  parts: BootParts,
): Promise<{ sandbox: Sandbox; vm: Vm }> {
  const { runtime, kernel, root, rootDisk, disk, memMib, policy } = parts;
  const vcpus = request.vcpus ?? apiLimits.vcpusDefault;
  onProgress('boot', `booting under ${runtime.engine.accelerator}: ${runtime.engine.acceleratorReason}`);
  const id = newSandboxId();
  const record = newRecord({
    id,
    kind: 'template',
    snapshot_tag: draft.tag,
    snapshot_digest: null,
    root_disk: rootDisk,
    image: root.config,
    source: root.source,
    python: false,
    refresh: null,
    ...(policy !== null && { network: request.warm_network ?? request.network ?? {} }),
  });
  const sandbox = await registry.reserve(record, [rootDisk.digest, ...(disk?.layers ?? [])]);
  scope.defer(`the VM of template '${draft.tag}'`, () => registry.end(sandbox));
  const vm = await runtime.engine.boot({
    id,
    dir: sandbox.vmDir,
    rootImage: store.blobPath(rootDisk.digest),
    pager: runtime.pager,
    memMib,
    vcpus,
    kernel,
    ...(request.cpu_model != null && { cpuModel: request.cpu_model }),
    ...(disk && { disk }),
    ...(policy !== null && { network: { policy, inherited: null } }),
    signal,
    timeoutMs: bootWaitMs(request, runtime),
  });
  registry.attach(sandbox, vm);
  return { sandbox, vm };
}

function stageMs({ imageDoneMs, bootDoneMs, warmDoneMs }: StageTimes) {
  return { boot_ms: bootDoneMs - imageDoneMs, warm_ms: warmDoneMs - bootDoneMs };
}

function addWarning(snapshot: SnapshotInfo, warning: string): void {
  snapshot.warning = snapshot.warning === undefined ? warning : `${snapshot.warning}; ${warning}`;
}

/** An emulated guest boots slowly, even for a client that asks for the time that KVM takes. */
function bootWaitMs(request: CreateSnapshotRequest, { engine }: Runtime): number {
  const askedMs = (request.boot_wait_secs ?? apiLimits.bootWaitSecsDefault) * 1000;
  return engine.accelerator === 'tcg' ? Math.max(askedMs, limits.bootWaitTcgMsMin) : Math.max(askedMs, 1000);
}
