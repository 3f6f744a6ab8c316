import type { DaemonKind } from '../daemon/kind.ts';
import type { Link } from '../daemon/link.ts';
import { connectDaemon, endDaemon } from '../daemon/start.ts';
import { EngineError } from '../errors.ts';
import type { Blob } from '../pager/wire.ts';
import type { DiskAnswer, DiskAudit, DiskOp, DiskUse, HeldDisk, HeldDiskLayer, OpenDisk } from './wire.ts';

/** The version of the protocol that this client speaks; `DISK_PROTOCOL_VERSION` of the server. */
const PROTOCOL_VERSION = 2;

const diskKind: DaemonKind = {
  name: 'disk',
  title: 'disk server',
  protocol: PROTOCOL_VERSION,
  codes: { missing: 'disk_server_missing', gone: 'disk_server_gone', protocol: 'disk_server_protocol' },
  goneHint: 'Sandboxes that use their disk wait. Try again: a new disk server is started.',
};

interface DiskMessages {
  op: DiskOp;
  answer: DiskAnswer;
  event: never;
}

/** How to find or start the disk server of a data directory. */
export interface DiskServerOptions {
  /** The `forkd-disk` program. */
  bin: string;
  /** The directory of its sockets, its lock and its log. */
  runDir: string;
  /** The store whose blobs it reads and writes. */
  storeDir: string;
  signal?: AbortSignal;
}

/** The page of a disk's epoch, and its value. */
export type OpenedDisk = Omit<Extract<DiskAnswer, { answer: 'opened' }>, 'answer'>;

/** The content of a disk at an instant: the names of its layers, bottom first. */
export type SealedDisk = Omit<Extract<DiskAnswer, { answer: 'sealed' }>, 'answer'>;

/** A connection to `forkd-disk`. Requests run side by side. */
export class DiskServer {
  readonly pid: number;
  /** The socket that VMMs call. */
  readonly vmmSocket: string;
  /** The socket that takes requests. */
  readonly socket: string;
  /** Settles when the connection is lost. */
  readonly gone: Promise<void>;
  readonly #link: Link<DiskMessages>;

  private constructor(link: Link<DiskMessages>, pid: number, runDir: string) {
    this.#link = link;
    this.pid = pid;
    this.vmmSocket = `${runDir}/shims/disk.sock`;
    this.socket = `${runDir}/disk.sock`;
    this.gone = link.gone;
  }

  /**
   * Connects to the disk server of `runDir`, starting one when none answers. It outlives this process.
   * Throws `disk_server_missing`, `disk_server_gone` or `disk_server_protocol`.
   */
  static async ensure({ bin, runDir, storeDir, signal }: DiskServerOptions): Promise<DiskServer> {
    const args = ['--run-dir', runDir, '--store-dir', storeDir];
    const { link, hello } = await connectDaemon<DiskMessages>(diskKind, { bin, args, runDir, signal });
    return new DiskServer(link, hello.pid, runDir);
  }

  /** Serves a disk on top of layers. A disk that is there already, also one of an earlier server, is adopted as it is. */
  async open(disk: OpenDisk): Promise<OpenedDisk> {
    const answer = await this.#link.request({ op: 'open', ...disk });
    const { epoch_path, epoch } = this.#link.expect(answer, 'opened');
    return { epoch_path, epoch };
  }

  /** Gives a disk that was opened without layers its content. */
  async bind(key: string, layers: readonly string[]): Promise<void> {
    await this.#link.request({ op: 'bind', key, layers: [...layers] });
  }

  /**
   * Names the content of a disk at the instant at which its epoch became `epoch`. The layers stay until they are dropped. Throws
   * `bad_request` if this server has not seen that epoch.
   */
  async seal(key: string, epoch: number): Promise<SealedDisk> {
    return this.#sealed(await this.#link.request({ op: 'seal', key, epoch }));
  }

  /** Names the content of a disk as it is now. Its VM must be stopped. */
  async freeze(key: string): Promise<SealedDisk> {
    return this.#sealed(await this.#link.request({ op: 'freeze', key }));
  }

  /** Notes what each block of a disk holds, for {@link finishAudit}. Its VM must be stopped. */
  async startAudit(key: string): Promise<void> {
    await this.#link.request({ op: 'start_audit', key });
  }

  /** Compares layers with the disk as it was noted. Throws `audit_failed` if a block differs. */
  async finishAudit(key: string, layers: readonly string[]): Promise<DiskAudit> {
    const reply = await this.#link.request({ op: 'finish_audit', key, layers: [...layers] });
    const { answer: _, ...audit } = this.#link.expect(reply, 'audited');
    return audit;
  }

  /** Writes layers to the store. Resolves with their files, in the same order, when they are on disk. */
  async persist(layers: readonly string[]): Promise<Blob[]> {
    return this.#blobs(await this.#link.request({ op: 'persist', layers: [...layers] }));
  }

  /** Forgets layers that were sealed. Disks that use them keep them. */
  async drop(layers: readonly string[]): Promise<void> {
    await this.#link.request({ op: 'drop', layers: [...layers] });
  }

  /** Ends a disk and its connections, and removes what it has written since it was sealed. */
  async close(key: string): Promise<void> {
    await this.#link.request({ op: 'close', key });
  }

  async usage(key: string): Promise<DiskUse> {
    const { answer: _, ...use } = this.#link.expect(await this.#link.request({ op: 'usage', key }), 'usage');
    return use;
  }

  /** Makes a durable layer of a raw image. The disk may be larger: the rest is zeros. */
  async importImage(path: string, sizeBytes: number): Promise<Blob> {
    return this.#blob(await this.#link.request({ op: 'import', path, size_bytes: sizeBytes }));
  }

  /** Writes what a stack holds as one durable layer that needs no other. */
  async merge(layers: readonly string[]): Promise<Blob> {
    return this.#blob(await this.#link.request({ op: 'merge', layers: [...layers] }));
  }

  /** Writes what a stack holds to a new file as large as the disk, zeros left out. */
  async exportImage(layers: readonly string[], path: string): Promise<void> {
    await this.#link.request({ op: 'export', layers: [...layers], path });
  }

  /** The digest of what a stack holds, whatever its layers are, and the number of its blocks that are not zeros. */
  async digest(layers: readonly string[]): Promise<{ digest: string; blocks: number }> {
    const answer = await this.#link.request({ op: 'digest', layers: [...layers] });
    const { digest, blocks } = this.#link.expect(answer, 'digest');
    return { digest, blocks };
  }

  /** All disks and layers of the server. */
  async inventory(): Promise<{ disks: HeldDisk[]; layers: HeldDiskLayer[] }> {
    const { disks, layers } = this.#link.expect(await this.#link.request({ op: 'inventory' }), 'inventory');
    return { disks, layers };
  }

  /** Ends the server. A VM that then uses its disk waits until it is served again. Throws `cancelled` if it does not end in time. */
  async shutdown(): Promise<void> {
    await endDaemon(this.#link, { op: 'shutdown' }, this.pid);
  }

  /** Closes the connection. The server continues. */
  disconnect(): void {
    this.#link.close();
  }

  #sealed(answer: DiskAnswer): SealedDisk {
    const { layers, own_bytes } = this.#link.expect(answer, 'sealed');
    return { layers, own_bytes };
  }

  #blobs(answer: DiskAnswer): Blob[] {
    return this.#link.expect(answer, 'blobs').blobs;
  }

  #blob(answer: DiskAnswer): Blob {
    const [blob] = this.#blobs(answer);
    if (blob === undefined) throw new EngineError('disk_server_protocol', 'The disk server answered with no layer.');
    return blob;
  }
}
