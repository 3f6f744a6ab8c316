import type { Link } from '../daemon/link.ts';
import { connectDaemon, endDaemon } from '../daemon/start.ts';
import { type BranchOptions, pagerKind, type PagerMessages, type PagerOptions } from './link.ts';
import type {
  Announce,
  Answer,
  Blob,
  Branch,
  BranchDone,
  HeldLayer,
  HeldSandbox,
  ImportMemory,
  LayerMemory,
  LoadAhead,
  MemoryUse,
  PageInventory,
  Prepare,
  RefreshMapped,
  ServePages,
  Wake,
} from './wire.ts';

/** Time that a pager may take to release a VM. A pager that hangs must delay nobody. */
const RELEASE_TIMEOUT_MS = 10_000;

type Hello = Extract<Answer, { answer: 'hello' }>;
type Floor = Omit<Extract<Answer, { answer: 'floor' }>, 'answer'>;
type Imported = Omit<Extract<Answer, { answer: 'imported' }>, 'answer'>;
interface Inventory {
  layers: HeldLayer[];
  sandboxes: HeldSandbox[];
}

/** A connection to `forkd-pager`. Requests run side by side. */
export class Pager {
  readonly pid: number;
  /** The host's time stamp counter in kHz. */
  readonly tscKhz: number;
  /** Why `live` cannot work on this host; `null` when it can. */
  readonly liveUnavailable: string | null;
  /** Where VMMs call in; nothing else is in its directory. */
  readonly shimSocket: string;
  /** Settles when the connection is lost. */
  readonly gone: Promise<void>;
  readonly #link: Link<PagerMessages>;

  private constructor(link: Link<PagerMessages>, hello: Hello, runDir: string) {
    this.#link = link;
    this.pid = hello.pid;
    this.tscKhz = hello.tsc_khz;
    this.liveUnavailable = hello.live_unavailable;
    this.shimSocket = `${runDir}/shims/shim.sock`;
    this.gone = link.gone;
  }

  /**
   * Connects to the pager of `runDir`, starting one when none answers. It outlives this process.
   * Throws `pager_missing`, `pager_gone` or `pager_protocol`.
   */
  static async ensure(options: PagerOptions): Promise<Pager> {
    const { bin, runDir, storeDir, signal } = options;
    const args = ['--run-dir', runDir, '--store-dir', storeDir];
    const { link, hello } = await connectDaemon<PagerMessages>(pagerKind, { bin, args, runDir, signal });
    return new Pager(link, hello, runDir);
  }

  async announce(announce: Announce): Promise<void> {
    await this.#link.request({ op: 'announce', ...announce });
  }

  /** Connects to the VM, which stands still afterwards if it is `paused`, else it runs. */
  async open(sandbox: string, paused = false): Promise<void> {
    await this.#link.request({ op: 'open', sandbox, paused });
  }

  /** Makes a VM that runs known to a pager that may have been started since, and {@link open}s it. */
  async adopt(announce: Announce, paused: boolean): Promise<void> {
    const { sandboxes } = await this.inventory();
    if (!sandboxes.some((held) => held.sandbox === announce.sandbox)) await this.announce(announce);
    await this.open(announce.sandbox, paused);
  }

  /** Stops a VM until it is resumed. `busy` while a branch of it is under way. */
  async pause(sandbox: string, signal?: AbortSignal): Promise<void> {
    await this.#link.request({ op: 'pause', sandbox }, signal ? { signal } : {});
  }

  /** Resumes a VM that was paused. */
  async resume(sandbox: string, signal?: AbortSignal): Promise<void> {
    await this.#link.request({ op: 'resume', sandbox }, signal ? { signal } : {});
  }

  /** Announces a VMM that will wait for its VM. It ends with this connection, unless it is woken before. */
  async prepare(prepare: Prepare): Promise<void> {
    await this.#link.request({ op: 'prepare', ...prepare });
  }

  /** Resolves when a prepared VMM waits for its VM. */
  async awaitIdle(vmm: string): Promise<void> {
    await this.#link.request({ op: 'await_idle', vmm });
  }

  /** Has a VMM that waits load a VM that nobody has asked for yet. It takes no other VM. Resolves when it has loaded. */
  async loadAhead(load: LoadAhead): Promise<void> {
    await this.#link.request({ op: 'load_ahead', ...load });
  }

  /** Gives a VMM that waits a VM. Resolves when it runs and is open. */
  async wake(wake: Wake, signal?: AbortSignal): Promise<void> {
    await this.#link.request({ op: 'wake', ...wake }, signal ? { signal } : {});
  }

  /** Releases everything that the pager holds for a VM. Throws `cancelled` if the pager does not answer in time. */
  async release(sandbox: string): Promise<void> {
    await this.#link.request({ op: 'release', sandbox }, { signal: AbortSignal.timeout(RELEASE_TIMEOUT_MS) });
  }

  /** Takes a snapshot of a running VM, and resolves when it is durable. */
  async branch(request: Branch, options: BranchOptions = {}): Promise<BranchDone> {
    const cancel = (id: number) => ({ op: 'cancel', request: id }) as const;
    const answer = await this.#link.request({ op: 'branch', ...request }, { ...options, cancel });
    return this.#link.expect(answer, 'branch');
  }

  /** Measures a pause that only saves the device state. */
  async floor(sandbox: string): Promise<Floor> {
    const { pause_us, device_state_us } = this.#link.expect(
      await this.#link.request({ op: 'floor', sandbox }),
      'floor',
    );
    return { pause_us, device_state_us };
  }

  /**
   * Proves that the shim of a VM that nobody needs conducts pauses: takes a branch of it and keeps nothing. Throws `unsupported`
   * where the shim cannot, and `audit_failed` if memory or device state differ from what the monitor would have saved.
   *
   * With `vmm`, a VMM that waits, that one must load and run the branch. Of the VM that it loads, the same is compared.
   */
  async proveWindow(sandbox: string, vmm: string | null, signal?: AbortSignal): Promise<void> {
    await this.#link.request({ op: 'prove_window', sandbox, vmm }, signal ? { signal } : {});
  }

  async memory(sandbox: string): Promise<MemoryUse> {
    const { private_bytes, shared_bytes } = this.#link.expect(
      await this.#link.request({ op: 'memory', sandbox }),
      'memory',
    );
    return { private_bytes, shared_bytes };
  }

  /** Reads the layers of a stack that will soon be mapped. The pager keeps them as far as its limit of unmapped layers allows. */
  async load(memBytes: number, stack: readonly string[]): Promise<void> {
    await this.#link.request({ op: 'load', mem_bytes: memBytes, stack: [...stack] });
  }

  /** Writes what a stack holds as one layer that needs no other. */
  async flatten(memBytes: number, stack: readonly string[]): Promise<Blob> {
    const answer = await this.#link.request({ op: 'flatten', mem_bytes: memBytes, stack: [...stack] });
    const { digest, size } = this.#link.expect(answer, 'layer');
    return { digest, size };
  }

  /** Writes what a stack holds to a new file, each page at its own place, zeros left out where the file system can. */
  async exportMemory(memBytes: number, stack: readonly string[], path: string): Promise<void> {
    await this.#link.request({ op: 'export_memory', mem_bytes: memBytes, stack: [...stack], path });
  }

  /** The memory of a VM that has been announced, as a file that it maps shared. It is there until the VM is opened. */
  async lendMemory(sandbox: string): Promise<string> {
    return this.#link.expect(await this.#link.request({ op: 'lend_memory', sandbox }), 'lent').path;
  }

  /**
   * Takes over the memory of a VM that a Firecracker has loaded and that does not run yet, to branch it live. Whether the pager
   * has it for good: otherwise it asks again at each branch.
   */
  async takeMemory(sandbox: string, signal?: AbortSignal): Promise<boolean> {
    const answer = await this.#link.request({ op: 'take_memory', sandbox }, signal ? { signal } : {});
    return this.#link.expect(answer, 'taken').kept;
  }

  /** Makes a layer of what a memory file has that the stack has not. Resolves when all layers are durable. */
  async importMemory(file: ImportMemory): Promise<Imported> {
    const answer = await this.#link.request({ op: 'import_memory', ...file });
    const { stack, captured_pages } = this.#link.expect(answer, 'imported');
    return { stack, captured_pages };
  }

  /** Copies a file into the store. Resolves when it is durable there. */
  async importFile(path: string): Promise<Blob> {
    const { digest, size } = this.#link.expect(await this.#link.request({ op: 'import_file', path }), 'layer');
    return { digest, size };
  }

  /** Changes the memory of a VM that has loaded a memory file and does not run yet. */
  async refreshMapped(request: RefreshMapped): Promise<void> {
    await this.#link.request({ op: 'refresh_mapped', ...request });
  }

  /** Serves the memory of a VM that is about to be restored, page by page. Resolves when its VMM can connect. */
  async servePages(request: ServePages): Promise<void> {
    await this.#link.request({ op: 'serve_pages', ...request });
  }

  /** Lists the memory that is served page by page. */
  async pages(): Promise<PageInventory> {
    const { served, total } = this.#link.expect(await this.#link.request({ op: 'pages' }), 'pages');
    return { served, total };
  }

  async inventory(): Promise<Inventory> {
    const { layers, sandboxes } = this.#link.expect(await this.#link.request({ op: 'inventory' }), 'inventory');
    return { layers, sandboxes };
  }

  /** Lets these layers go from memory as soon as nobody maps them: they will not be needed soon. Their names stay valid. */
  async letGo(layers: readonly string[]): Promise<void> {
    await this.#link.request({ op: 'let_go', layers: [...layers] });
  }

  /** How much memory layers may take that nobody maps. `null`: what the pager makes of the host's memory. */
  async limitLayers(unmappedBytes: number | null): Promise<void> {
    await this.#link.request({ op: 'limit_layers', unmapped_bytes: unmappedBytes });
  }

  /** How much memory layers take. */
  async layerMemory(): Promise<LayerMemory> {
    const { answer: _, ...memory } = this.#link.expect(
      await this.#link.request({ op: 'layer_memory' }),
      'layer_memory',
    );
    return memory;
  }

  /** Forgets a layer. VMs that map it keep it. */
  async dropLayer(layer: string): Promise<void> {
    await this.#link.request({ op: 'drop_layer', layer });
  }

  /** Ends the pager. VMs keep running. Throws `cancelled` if the pager does not end in time. */
  async shutdown(): Promise<void> {
    await endDaemon(this.#link, { op: 'shutdown' }, this.pid);
  }

  /** Closes the connection. The pager continues; branches of this connection are cancelled. */
  close(): void {
    this.#link.close();
  }
}
