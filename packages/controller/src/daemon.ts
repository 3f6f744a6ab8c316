import { availableParallelism, hostname, release, totalmem } from 'node:os';

import type { HostInfo, ShutdownResponse } from '@forkd/api';
import { Store } from '@forkd/store';
import type { Logger } from 'pino';

import type { Binaries } from './binaries.ts';
import { raceAbort, sleep } from './deadline.ts';
import { EventLog } from './events.ts';
import { openEdge, reloadEdge } from './http/edge.ts';
import { HttpServers } from './http/servers.ts';
import type { Services } from './http/services.ts';
import { limits } from './limits.ts';
import { GaugeReader } from './observe/gauges.ts';
import type { Options } from './options.ts';
import { dataPaths, makeDataPaths } from './paths.ts';
import { lockDataDir } from './process/lock.ts';
import { Replies } from './replies.ts';
import type { ServiceManager } from './process/service-manager.ts';
import { GuestBoot } from './runtime/guest-boot.ts';
import { Vmm } from './runtime/vmm.ts';
import { BranchService } from './sandboxes/branch.ts';
import { Expiry } from './sandboxes/expiry.ts';
import { ForkService } from './sandboxes/fork.ts';
import { Guests } from './sandboxes/guests.ts';
import { Lifecycle } from './sandboxes/lifecycle.ts';
import { Recovery } from './sandboxes/recovery.ts';
import { Registry } from './sandboxes/registry.ts';
import { Sandboxes } from './sandboxes/sandboxes.ts';
import { Scope } from './scope.ts';
import { Catalog } from './snapshots/catalog.ts';
import { Compaction } from './snapshots/compaction.ts';
import { FirecrackerExport } from './snapshots/firecracker-export.ts';
import { FirecrackerImport } from './snapshots/firecracker-import.ts';
import { Housekeeping } from './snapshots/housekeeping.ts';
import { Pins } from './snapshots/pins.ts';
import { Pruning } from './snapshots/pruning.ts';
import { Removal } from './snapshots/removal.ts';
import { TemplateService } from './snapshots/templates.ts';
import { version } from './version.ts';
import { Workspaces } from './workspaces/workspaces.ts';

/** Who tells the controller what to do, and whom it tells how it goes. */
export interface Outside {
  /** Fires when it is to end, with why. */
  stop: AbortSignal;
  /** Has a `reload` event when files that it has open have been changed or moved away. */
  reload: EventTarget;
  manager: ServiceManager | null;
}

/** The controller of one data directory. It owns nothing that runs: sandboxes outlive it unless they are told otherwise. */
export class Daemon {
  readonly #options: Options;
  readonly #log: Logger;
  readonly #scope: Scope;
  readonly #stop = new AbortController();
  /** What runs is known: until then none of it may be taken for gone. */
  #recovered = false;
  /** Why it ends, once it does. */
  #ending: string | null = null;

  private constructor(options: Options, log: Logger) {
    this.#options = options;
    this.#log = log;
    this.#scope = new Scope(log);
  }

  /** Runs until it is told to end: by `signal`, by a request, or by being idle. */
  static async run(options: Options, binaries: Binaries, log: Logger, outside: Outside): Promise<void> {
    const daemon = new Daemon(options, log);
    try {
      await daemon.#serve(binaries, outside);
    } finally {
      await daemon.#scope.close();
    }
  }

  async #serve(binaries: Binaries, outside: Outside): Promise<void> {
    const options = this.#options;
    const paths = dataPaths(options.dataDir, options.snapshotRoot);
    await makeDataPaths(paths);
    this.#scope.defer('the lock', await lockDataDir(paths, options.socket));

    // It may be elsewhere, and another data directory's too: what one controller does not need the other would free.
    const storeLock = await lockDataDir({ root: paths.store, run: paths.store }, options.socket);
    this.#scope.defer('the lock of the store', storeLock);

    const log = this.#log;
    const edge = await openEdge(options, log, this.#scope);
    const { metrics } = edge;
    outside.reload.addEventListener('reload', () => void reloadEdge(edge));
    const store = await Store.open(paths.store);
    const replies = await Replies.open(paths.replies);
    const events = new EventLog();
    const pins = new Pins();
    const boot = new GuestBoot(paths.cache, binaries, { vsock: options.engine === 'firecracker' });
    const vmm = new Vmm({ name: options.engine, paths, binaries, boot, poolSizeMax: options.vmmPool, log });
    const housekeeping = new Housekeeping(store, pins, vmm, log);
    const registry = new Registry({ root: paths.sandboxes, pins, housekeeping, events, log });
    // The guests run on; an open connection to one would keep this process from ending.
    this.#scope.defer('the connections to guests', () => registry.all().forEach(({ guest }) => guest.close()));
    // Sandboxes that run on need their pager; without any it has nothing to keep.
    this.#scope.defer('the pager', () => vmm.close({ endPager: this.#recovered && registry.size === 0 }));
    this.#scope.defer('housekeeping', () => housekeeping.close());
    const catalog = new Catalog(store, events);
    const shared = { catalog, registry, store, pins, housekeeping, vmm, boot, paths, replies, events, log, metrics };
    const branches = new BranchService({ ...shared, cap: options.branchConcurrency });
    this.#scope.defer('branches', () => branches.close(AbortSignal.timeout(limits.branchDrainMs)));
    const forks = new ForkService(shared);
    const reservedBy = (tag: string) => workspaces.reservedBy(tag);
    const removal = new Removal({ ...shared, reservedBy });
    const workspaces = new Workspaces({ ...shared, dir: paths.workspaces, forks, branches, removal });

    await this.#recover(new Recovery({ ...shared, root: paths.sandboxes, engine: options.engine }), {
      vmm,
      replies,
      workspaces,
      removal,
    });
    housekeeping.request();

    const lifecycle = new Lifecycle(shared);
    const expiry = new Expiry({ ...shared, lifecycle });
    this.#scope.defer('the expiry timer', () => expiry.close());
    const templates = new TemplateService(shared);
    const compaction = new Compaction(shared);
    const exports = new FirecrackerExport(shared);
    const imports = new FirecrackerImport(shared);
    const pruning = new Pruning({ catalog, removal, reservedBy });
    this.#pruneEvery(pruning);
    const services: Services = {
      snapshots: {
        list: () => catalog.list(),
        info: (tag) => catalog.info(tag),
        detail: (tag) => catalog.detail(tag),
        create: (request, outer, onProgress, requestKey) =>
          templates.create(request, outer, onProgress, (tag) => replies.noteSnapshot(requestKey, tag)),
        remove: (tag, query) => removal.remove(tag, query),
        compact: (tag, to, outer) => compaction.compact(tag, to, outer),
        export: (tag, request, outer) => exports.write(tag, request, outer),
        import: (tag, request, outer) => imports.read(tag, request, outer),
        prune: (request) => pruning.prune(request),
      },
      sandboxes: new Sandboxes({ registry, forks, branches, lifecycle, replies, vmm }),
      guests: new Guests(registry, metrics),
      workspaces,
      events: (query, outer) => events.follow(query, outer),
      replies,
      host: {
        info: () => this.#hostInfo(vmm),
        shutdown: (endSandboxes) => this.#shutdown(registry, endSandboxes),
      },
    };
    const gauges = new GaugeReader({ ...shared, cap: options.branchConcurrency, audit: edge.audit });
    metrics.readFrom(() => gauges.read());
    const servers = new HttpServers(services, edge);
    this.#scope.defer('the listeners', () => servers.close());
    await servers.listen(options);
    const health = (signal: AbortSignal) => this.#health(vmm, registry, signal);
    await outside.manager?.ready(health);
    await this.#untilTold(outside.stop, servers, () => registry.size > 0 || catalog.inFlightCount > 0);
    log.info({ reason: this.#ending, running: registry.size }, 'ending');
    await outside.manager?.stopping(this.#ending ?? '');
  }

  #pruneEvery(pruning: Pruning): void {
    const { pruneOlderThanSecs, pruneKeep } = this.#options;
    if (pruneOlderThanSecs === null && pruneKeep === null) return;
    const request = { older_than_secs: pruneOlderThanSecs, keep: pruneKeep };
    this.#scope.defer('pruning', pruning.every(limits.pruneIntervalMs, request, this.#log));
  }

  /** Before any request: what earlier controllers left either is there afterwards, or is gone. */
  async #recover(
    recovery: Recovery,
    parts: { vmm: Vmm; replies: Replies; workspaces: Workspaces; removal: Removal },
  ): Promise<void> {
    const { vmm, replies, workspaces, removal } = parts;
    const found = await recovery.recover();
    this.#recovered = true;
    vmm.onNewPager((runtime) => recovery.readopt(runtime));
    await workspaces.recover();
    await removal.removeUnseen(replies.cutOffSnapshots());
    await replies.forgetCutOff();
    this.#log.info({ ...found, data_dir: this.#options.dataDir }, 'recovered what earlier controllers left');
  }

  /** Ends when `signal` fires, when a request said so, or when nothing has happened and nothing runs for long enough. */
  async #untilTold(signal: AbortSignal, servers: HttpServers, isBusy: () => boolean): Promise<void> {
    const { idleExitSecs } = this.#options;
    while (this.#ending === null) {
      await sleep(limits.idleCheckMs, AbortSignal.any([signal, this.#stop.signal])).catch(() => undefined);
      if (signal.aborted) this.#end(String(signal.reason));
      if (isBusy()) servers.touch();
      if (idleExitSecs !== null && servers.idleMs() >= idleExitSecs * 1000) this.#end('idle');
    }
  }

  /** For the service manager. A pager that does not answer is not well; one that is not needed yet, or lost, is no fault. */
  async #health(vmm: Vmm, registry: Registry, signal: AbortSignal): Promise<string> {
    await raceAbort<unknown>(vmm.pagerIfUp()?.inventory() ?? Promise.resolve(), signal);
    return `${registry.list().length} sandboxes run.`;
  }

  #end(why: string): void {
    this.#ending ??= why;
    this.#stop.abort(new Error('the controller is ending'));
  }

  async #shutdown(registry: Registry, endSandboxes: boolean): Promise<ShutdownResponse> {
    const ended = endSandboxes ? registry.all() : [];
    await Promise.all(ended.map((sandbox) => registry.end(sandbox)));
    // The reply goes out first: the listeners drain before they close.
    setImmediate(() => this.#end('asked to'));
    return { pid: process.pid, sandboxes_ended: ended.length };
  }

  async #hostInfo(vmm: Vmm): Promise<HostInfo> {
    const { engine, pager } = await vmm.use(this.#stop.signal);
    return {
      hostname: hostname(),
      kernel: release(),
      cpus: availableParallelism(),
      mem_bytes: totalmem(),
      engine: {
        name: engine.name,
        version: engine.version,
        accelerator: engine.accelerator,
        reason: engine.acceleratorReason,
        live_unavailable: pager.liveUnavailable ?? reasonOf(engine.capabilities.live),
        capabilities: Object.entries(engine.capabilities).map(([id, can]) => {
          return { id, ok: can === true, why: reasonOf(can) };
        }),
        isolation: [...engine.isolation],
      },
      data_dir: this.#options.dataDir,
      pid: process.pid,
      version,
    };
  }
}

function reasonOf(can: true | string): string | null {
  return can === true ? null : can;
}
