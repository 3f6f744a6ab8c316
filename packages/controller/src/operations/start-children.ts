import { randomBytes } from 'node:crypto';
import {
  ApiError,
  limits as apiLimits,
  newSandboxId,
  type CreateSandboxesRequest,
  type NetworkPolicy,
} from '@forkd/api';
import { anySignal, type Machine, type RestoreSpec, type VmNetwork } from '@forkd/engine';
import { unixNsNow } from '../clock.ts';
import { withContext } from '../errors.ts';
import { limits } from '../limits.ts';
import { traced } from '../observe/tracing.ts';
import { assertCan } from '../runtime/capabilities.ts';
import { machineFor } from '../runtime/engines.ts';
import { policyOf } from '../runtime/network-rules.ts';
import type { Runtime } from '../runtime/vmm.ts';
import type { ForkSource } from '../state/catalog.ts';
import { randomWarning } from '../state/refresh.ts';
import { newRecord, type SandboxRecord } from '../state/sandbox-record.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { unpackInherited } from '../state/snapshot-network.ts';
import { admit } from './admission.ts';
import type { Host } from './host.ts';
import { assertName, expiryOf } from './lifecycle.ts';
import { loadableOf } from './loadable.ts';
import { startAll, startEach } from './start-many.ts';

/**
 * Starts the children of a snapshot: all or none. If a child fails, the others are ended and the error says why. With `partial`
 * the children that started are kept, and each of the others has its error.
 */
export async function startChildren(
  host: Host,
  request: CreateSandboxesRequest,
  signal: AbortSignal,
  owner: Partial<ChildOwner> = {},
): Promise<Sandbox[] | PartialFork> {
  const settings = settingsOf(request, owner);
  host.registry.assertNameFree(settings.name);
  const { snapshot_tag: tag, n = apiLimits.forkCountDefault } = request;
  const source = await host.catalog.forkSource(tag);
  if (request.safety === 'strict') assertStrict(source);
  const unpin = host.pins.hold(needsOf(source));
  try {
    const runtime = await host.vmm.use(signal);
    const machine = machineFor(runtime.engine, tag, source.machine);
    const memoryLimitMib = request.memory_limit_mib ?? undefined;
    // A limit that is not enforced would be worse than none.
    const limit = `Fork of '${tag}': memory_limit_mib cannot be enforced`;
    if (memoryLimitMib !== undefined) assertCan(runtime.engine, 'memory_limit', limit, 'Leave it out.');
    const network = await networkOf(request, source);
    if (network !== null) assertCan(runtime.engine, 'network', `Fork of '${tag}'`);
    await checkBlobs(host, source, signal);
    await admit(`A fork of ${n} from '${tag}'`, n, limits.vmOverheadBytes);
    const plan: ChildPlan = { runtime, source, machine, memoryLimitMib, network, settings };
    const started = await (request.partial === true
      ? startSome(host, plan, n, signal)
      : startAllOrNone(host, plan, n, signal));
    host.metrics.forked();
    return started;
  } catch (error) {
    host.metrics.forkFailed();
    throw error;
  } finally {
    unpin();
  }
}

async function startSome(
  host: Host,
  plan: ChildPlan,
  n: number,
  signal: AbortSignal,
): Promise<Sandbox[] | PartialFork> {
  const ids = Array.from({ length: n }, newSandboxId);
  const results = await startEach(ids, limits.forkParallelism, async (id) => {
    const [child] = await startTogether(host, plan, [id], signal);
    return child as Sandbox;
  });
  const children = results.flatMap((result) => (result instanceof ApiError ? [] : [result]));
  return children.length === n ? children : { results };
}

function startAllOrNone(host: Host, plan: ChildPlan, n: number, signal: AbortSignal): Promise<Sandbox[]> {
  return startTogether(host, plan, Array.from({ length: n }, newSandboxId), signal);
}

async function startTogether(
  host: Host,
  plan: ChildPlan,
  ids: readonly string[],
  signal: AbortSignal,
): Promise<Sandbox[]> {
  const { tag, draft } = plan.source;
  const n = ids.length;
  const failed = new AbortController();
  const children = new Set<Sandbox>();
  const stopping = anySignal(signal, failed.signal);
  try {
    const started = await startAll(
      ids,
      limits.forkParallelism,
      (id) => {
        const about = { 'forkd.snapshot': tag, 'forkd.sandbox': id };
        return traced('fork', about, () => startChild(host, plan, id, children, stopping));
      },
      (error) => failed.abort(error),
    );
    // The draft may have become durable while the children were started.
    if (draft?.stored) await host.registry.rebase(draft.ramStack, draft.stored);
    return started;
  } catch (error) {
    const which = n === 1 ? `Fork of '${tag}'` : `Fork of '${tag}': one of ${n} children failed, none was kept`;
    await Promise.all([...children].map((child) => host.registry.end(child)));
    throw withContext(which, error);
  }
}

async function startChild(
  host: Host,
  plan: ChildPlan,
  id: string,
  children: Set<Sandbox>,
  signal: AbortSignal,
): Promise<Sandbox> {
  const { runtime, source, machine, memoryLimitMib, network } = plan;
  const record = recordOf(id, plan);
  host.workspaces.assertNameFree(record.name);
  const sandbox = await host.registry.reserve(record, needsOf(source));
  children.add(sandbox);
  signal.throwIfAborted();
  const beganMs = performance.now();
  const spec: RestoreSpec = {
    id,
    dir: sandbox.vmDir,
    rootImage: host.store.blobPath(source.rootDisk.digest),
    pager: runtime.pager,
    machine,
    ...loadableOf(host.store, source),
    ...(source.disk.length > 0 && { disk: source.disk }),
    signal,
    timeoutMs: limits.restoreTimeoutMs,
    ...(memoryLimitMib !== undefined && { memoryLimitMib }),
    ...(network !== null && { network }),
  };
  const vm = await traced('restore', {}, () => runtime.engine.restore(spec));
  host.registry.attach(sandbox, vm);
  const forkMs = performance.now() - beganMs;
  await traced('identify', {}, () => identify(sandbox, anySignal(signal, sandbox.ended.signal)));
  const readyMs = performance.now() - beganMs;
  await host.registry.run(sandbox, { fork_ms: round(forkMs), ready_ms: round(readyMs) });
  host.metrics.child({ forkMs, readyMs });
  host.log.info({ sandbox: id, tag: source.tag, fork_ms: round(forkMs), ready_ms: round(readyMs) }, 'forked');
  return sandbox;
}

/** Checks the small blobs before any VMM is started. The pager verifies the layers as it loads them. */
async function checkBlobs(host: Host, source: ForkSource, signal: AbortSignal): Promise<void> {
  try {
    await host.store.check(source.deviceState);
    await host.store.check(source.rootDisk);
    await host.store.verifyOnce(source.deviceState.digest, signal);
    await host.store.verifyOnce(source.rootDisk.digest, signal);
  } catch (error) {
    throw withContext(`Snapshot '${source.tag}'`, error);
  }
}

interface ChildPlan {
  runtime: Runtime;
  source: ForkSource;
  machine: Machine;
  memoryLimitMib: number | undefined;
  /** `null`: the machine has no network device. */
  network: ChildNetwork | null;
  settings: Settings;
}

/** The policy of a child, in the words of its record and as the network process takes it, and what its guest knows. */
interface ChildNetwork extends VmNetwork {
  words: NetworkPolicy;
}

/** The outcome of a fork, some of whose children have failed. */
export interface PartialFork {
  results: (Sandbox | ApiError)[];
}

/** The workspace or the request that children are started for. */
interface ChildOwner {
  /** The workspace whose live sandbox the child is. */
  workspace: string | null;
  /** The key of the request under which its reply will be kept, if it has one. */
  requestKey: string | null;
}

type Settings = Pick<
  SandboxRecord,
  'name' | 'labels' | 'expires_at_unix' | 'on_expire' | 'workspace' | 'request_key' | 'warnings'
>;

/** The policy of the children: what the request says, else what the snapshot says. */
async function networkOf(
  { network: asked }: CreateSandboxesRequest,
  { tag, network }: ForkSource,
): Promise<ChildNetwork | null> {
  if (network === null) {
    if (asked == null) return null;
    const sentence = `Fork of '${tag}' with a network: the template was built without a network device.`;
    throw new ApiError('unsupported', sentence, { hint: 'Build the template with --net.' });
  }
  const words = asked ?? network.policy;
  return { words, policy: policyOf(words), inherited: await unpackInherited(network.inherited) };
}

/** Refuses a strict fork of a snapshot that was not taken strictly. */
function assertStrict({ tag, safety }: ForkSource): void {
  if (safety === 'strict') return;
  const sentence = `Fork of '${tag}': safety 'strict' cannot be had: the programs in it did not stand still when it was taken.`;
  throw new ApiError('unsupported', sentence, { hint: "Take the snapshot with safety 'strict'." });
}

/** Gives a child its own entropy, clock and names, before any command of a user. Asking twice gives no second identity. */
async function identify(sandbox: Sandbox, signal: AbortSignal): Promise<void> {
  const names = { hostname: sandbox.id, machineId: randomBytes(16).toString('hex'), entropy: randomBytes(64) };
  const timeoutMs = limits.identifyTimeoutMs;
  await sandbox.guest.call(
    async (agent) => {
      await agent.identify({ ...names, wallClockUnixNs: unixNsNow() }, { timeoutMs, signal });
    },
    { signal, repeatable: true },
  );
}

function needsOf(source: ForkSource): string[] {
  return [...source.stack, ...source.disk, source.deviceState.digest, source.rootDisk.digest];
}

function recordOf(id: string, { source, memoryLimitMib, network, settings }: ChildPlan): SandboxRecord {
  const random = randomWarning(source.refresh);
  return newRecord({
    id,
    kind: 'sandbox',
    snapshot_tag: source.tag,
    snapshot_digest: source.digest,
    root_disk: source.rootDisk,
    image: source.image,
    source: source.source,
    python: source.python,
    refresh: source.refresh,
    ...(memoryLimitMib !== undefined && { memory_limit_mib: memoryLimitMib }),
    ...(network !== null && { network: network.words }),
    ...settings,
    warnings: [...settings.warnings, ...(random === undefined ? [] : [random])],
  });
}

function settingsOf(request: CreateSandboxesRequest, owner: Partial<ChildOwner>): Settings {
  const { name = null, labels, ttl_secs: ttlSecs, on_expire: onExpire, n = 1, hugepages = false } = request;
  if (name !== null) {
    assertName(name);
    if (n > 1) throw new ApiError('bad_request', `Fork of ${n}: only one sandbox can have the name '${name}'.`);
  }
  return {
    name,
    labels: labels ?? {},
    expires_at_unix: expiryOf(ttlSecs ?? null),
    on_expire: onExpire ?? 'kill',
    workspace: owner.workspace ?? null,
    request_key: owner.requestKey ?? null,
    warnings: hugepages ? ['hugepages: layers are mapped in pages of 4 KiB'] : [],
  };
}

function round(ms: number): number {
  return Math.round(ms * 100) / 100;
}
