import { MIB } from '@forkd/api';
import { anySignal } from '@forkd/engine';
import { Store } from '@forkd/store';
import type { Logger } from 'pino';
import { requireBinary, type Binaries } from './binaries.ts';
import { raceAbort, sleep } from './deadline.ts';
import { messageOf } from './errors.ts';
import { openIngress, reloadIngress } from './http/ingress.ts';
import { HttpServers } from './http/servers.ts';
import { HostNames } from './http/web-guard.ts';
import { limits } from './limits.ts';
import { GaugeReader } from './observe/gauges.ts';
import type { Metrics } from './observe/metrics.ts';
import { Expiry } from './operations/expire.ts';
import type { Host } from './operations/host.ts';
import { rebindAll } from './operations/network.ts';
import { prepareFork } from './operations/prepare-fork.ts';
import { pruneEvery } from './operations/prune.ts';
import { readopt, recover, releaseForgottenDisks, reopenDisks } from './operations/recover.ts';
import { removeUnseen } from './operations/remove.ts';
import { verifyAhead } from './operations/verify-ahead.ts';
import { recoverWorkspaces } from './operations/workspaces.ts';
import type { Options } from './options.ts';
import { dataPaths, makeDataPaths } from './paths.ts';
import { lockDataDir } from './process/lock.ts';
import { StorePagers } from './process/pagers.ts';
import type { ServiceManager } from './process/service-manager.ts';
import { Disks } from './runtime/disks.ts';
import { GuestBoot } from './runtime/guest-boot.ts';
import { Network } from './runtime/network.ts';
import { Vmm } from './runtime/vmm.ts';
import { Scope } from './scope.ts';
import { BranchSlots } from './state/branch-slots.ts';
import { BytePool } from './state/byte-pool.ts';
import { Catalog } from './state/catalog.ts';
import { EndedSandboxes } from './state/ended.ts';
import { EventLog } from './state/events.ts';
import { FlowLog } from './state/flow-log.ts';
import { Housekeeping } from './state/housekeeping.ts';
import { Pins } from './state/pins.ts';
import { Registry } from './state/registry.ts';
import { Replies } from './state/replies.ts';
import { openSecret } from './state/secret.ts';
import { Workspaces } from './state/workspaces.ts';
import { UsageError } from './usage-error.ts';

/** Signals by which the controller is told to stop or reload, and the service manager to which it reports. */
export interface ProcessControl {
  /** Fires when the controller is to end, with the reason. */
  stop: AbortSignal;
  /** Has a `reload` event when open files were changed or moved away. */
  reload: EventTarget;
  manager: ServiceManager | null;
}

/** The controller of one data directory. Sandboxes outlive it unless they are ended explicitly. */
export class Daemon {
  readonly #options: Options;
  readonly #log: Logger;
  readonly #scope: Scope;
  readonly #stop = new AbortController();
  /** True once the running sandboxes are known. Until then the pager must stay: it may serve some of them. */
  #recovered = false;
  /** The reason of the end, once the controller ends. */
  #ending: string | null = null;

  private constructor(options: Options, log: Logger) {
    this.#options = options;
    this.#log = log;
    this.#scope = new Scope(log);
  }

  /** Runs until the controller is told to end: by `control.stop`, by a request, or by being idle. */
  static async run(options: Options, binaries: Binaries, log: Logger, control: ProcessControl): Promise<void> {
    const daemon = new Daemon(options, log);
    try {
      await daemon.#serve(binaries, control);
    } finally {
      await daemon.#scope.close();
    }
  }

  async #serve(binaries: Binaries, control: ProcessControl): Promise<void> {
    const options = this.#options;
    const paths = dataPaths(options.dataDir, options.snapshotRoot);
    await makeDataPaths(paths).catch((error: unknown) => {
      throw new UsageError(`--data-dir '${paths.root}' cannot be used: ${messageOf(error)}.`, { cause: error });
    });
    const launcher = await requireBinary(binaries, 'jail');
    this.#scope.defer('the lock', await lockDataDir(launcher, paths, options.socket));

    // Two data directories may share one store. Without this lock each controller would delete the blobs of the other.
    const storeLock = await lockDataDir(launcher, { root: paths.store, run: paths.store }, options.socket);
    this.#scope.defer('the lock of the store', storeLock);

    const ingress = await openIngress(options, this.#log, this.#scope);
    const { metrics, audit } = ingress;
    control.reload.addEventListener('reload', () => {
      reloadIngress(ingress).catch((error: unknown) =>
        this.#log.error({ err: error }, 'could not read the files again'),
      );
    });
    const { host, vmm, network } = await this.#openHost(binaries, launcher, metrics);
    const { registry, catalog, replies } = host;

    await this.#recover(host, vmm);
    await this.#recoverNetwork(host, network);
    host.housekeeping.request();
    const expiry = new Expiry(host);
    this.#scope.defer('the expiry timer', () => expiry.close());
    this.#pruneEvery(host);
    const gauges = new GaugeReader({ ...host, audit });
    metrics.readFrom(() => gauges.read());
    this.#scope.defer('requests that no caller waits for', () => replies.close());
    // Begun before the first request, so that it finds the engine on its way.
    if (options.vmmPool > 0) this.#scope.defer('preparing the first fork', prepareFork(host));
    const servers = new HttpServers({ run: (operation, ...args) => operation(host, ...args), replies }, ingress);
    this.#scope.defer('the listeners', () => servers.close());
    await servers.listen(options);
    if (options.e2b !== null) {
      const hosts = new HostNames({ ...options, bind: options.e2b }, ingress.tls);
      await servers.listenForE2b(options.e2b, hosts, await openSecret(paths.e2bSecret));
    }
    this.#scope.defer('verifying root images', verifyAhead(host));
    await control.manager?.ready((signal) => this.#health(vmm, registry, signal));
    await this.#untilTold(control.stop, servers, () => registry.size > 0 || catalog.inFlightCount > 0);
    this.#log.info({ reason: this.#ending, running: registry.size }, 'ending');
    await control.manager?.stopping(this.#ending ?? '');
  }

  async #openHost(binaries: Binaries, launcher: string, metrics: Metrics): Promise<HostParts> {
    const options = this.#options;
    const log = this.#log;
    const scope = this.#scope;
    const paths = dataPaths(options.dataDir, options.snapshotRoot);
    const pagers = await StorePagers.of(launcher, paths);
    const store = await Store.open(paths.store, { pagerLives: await pagers.anyLives() });
    const replies = await Replies.open(paths.replies);
    const events = new EventLog();
    const pins = new Pins();
    const boot = new GuestBoot(paths.cache, binaries, { vsock: options.engine === 'firecracker' });
    const disks = new Disks({ paths, binaries, log });
    const network = await Network.find({ paths, binaries, resolvers: options.resolvers, log });
    const flows = new FlowLog();
    network?.onFlow((flow) => {
      flows.add(flow);
      metrics.flow(flow);
    });
    const vmm = new Vmm({
      name: options.engine,
      paths,
      binaries,
      boot,
      disks,
      network,
      poolSizeMax: options.vmmPool,
      layerCacheBytes: options.layerCacheMib === null ? null : options.layerCacheMib * MIB,
      log,
    });
    const housekeeping = new Housekeeping({ store, pins, vmm, disks, pagers, log });
    const ended = await EndedSandboxes.open(paths.ended, log);
    const registry = new Registry({ root: paths.sandboxes, ended, pins, housekeeping, events, metrics, log });
    // The guests keep running. An open connection to one would keep this process from ending.
    scope.defer('the connections to guests', () => registry.all().forEach(({ guest }) => guest.close()));
    // Sandboxes that keep running need their pager. Without sandboxes it has nothing to keep.
    scope.defer('the disk server', () => disks.close({ endServer: this.#recovered && registry.size === 0 }));
    scope.defer('the pager', () => vmm.close({ endPager: this.#recovered && registry.size === 0 }));
    scope.defer('the network process', () => network?.close({ endProcess: this.#recovered && !hasNetwork(registry) }));
    scope.defer('housekeeping', () => housekeeping.close());
    const branches = new BranchSlots(options.branchConcurrency);
    scope.defer('branches', () => branches.close(AbortSignal.timeout(limits.branchDrainMs)));
    const host: Host = {
      catalog: new Catalog({ store, events, housekeeping }),
      registry,
      workspaces: new Workspaces({ dir: paths.workspaces, registry, log }),
      branches,
      store,
      pins,
      housekeeping,
      vmm,
      network,
      flows,
      boot,
      disks,
      replies,
      events,
      output: new BytePool(limits.output),
      metrics,
      paths,
      log,
      end: (reason) => this.#end(reason),
    };
    disks.onRestart({
      isNeeded: () => registry.all().some(({ vm }) => vm?.record.diskKey !== undefined),
      reopen: () => reopenDisks(host),
    });
    return { host, vmm, network };
  }

  #pruneEvery(host: Host): void {
    const { pruneOlderThanSecs, pruneKeep } = this.#options;
    if (pruneOlderThanSecs === null && pruneKeep === null) return;
    const request = { older_than_secs: pruneOlderThanSecs, keep: pruneKeep };
    this.#scope.defer('pruning', pruneEvery(host, limits.pruneIntervalMs, request));
  }

  /** Takes over or clears away what earlier controllers left, before any request. */
  async #recover(host: Host, vmm: Vmm): Promise<void> {
    const { dataDir, engine } = this.#options;
    const found = await recover(host, engine);
    this.#recovered = true;
    vmm.onNewPager((runtime) => readopt(host, runtime));
    await releaseForgottenDisks(host);
    await recoverWorkspaces(host);
    await removeUnseen(host, host.replies.cutOffSnapshots());
    await host.replies.forgetCutOff();
    this.#log.info({ ...found, data_dir: dataDir }, 'recovered what earlier controllers left');
  }

  /** Binds the wires of sandboxes that earlier controllers left. Their network works meanwhile, as its process still runs. */
  async #recoverNetwork(host: Host, network: Network | null): Promise<void> {
    if (network === null) return;
    let isFirst = true;
    network.onNewProcess(async (net) => {
      await rebindAll(host, net, isFirst);
      isFirst = false;
    });
    if (!hasNetwork(host.registry)) return;
    await network.use().catch((error: unknown) => {
      this.#log.error({ reason: messageOf(error) }, 'the network of sandboxes that run cannot be taken over');
    });
  }

  /** Resolves when `signal` fires, when a request ended the controller, or when nothing has happened for long enough. */
  async #untilTold(signal: AbortSignal, servers: HttpServers, isBusy: () => boolean): Promise<void> {
    const { idleExitSecs } = this.#options;
    while (this.#ending === null) {
      await sleep(limits.idleCheckMs, anySignal(signal, this.#stop.signal)).catch(() => undefined);
      if (signal.aborted) this.#end(String(signal.reason));
      if (isBusy()) servers.touch();
      if (idleExitSecs !== null && servers.idleMs() >= idleExitSecs * 1000) this.#end('idle');
    }
  }

  /** Reports the state for the service manager. A pager that does not answer is a fault; one not started yet is not. */
  async #health(vmm: Vmm, registry: Registry, signal: AbortSignal): Promise<string> {
    await raceAbort<unknown>(vmm.pagerIfUp()?.inventory() ?? Promise.resolve(), signal);
    return `${registry.list().length} sandboxes run.`;
  }

  #end(reason: string): void {
    this.#ending ??= reason;
    this.#stop.abort(new Error('the controller is ending'));
  }
}

interface HostParts {
  host: Host;
  vmm: Vmm;
  network: Network | null;
}

/** True if a sandbox needs the network process. */
function hasNetwork(registry: Registry): boolean {
  return registry.all().some(({ record }) => record.vm?.networkKey !== undefined);
}
