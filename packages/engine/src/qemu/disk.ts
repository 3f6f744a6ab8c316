import { setTimeout as delay } from 'node:timers/promises';
import type { DiskServer } from '../disk/client.ts';
import type { DiskAudit, DiskUse } from '../disk/wire.ts';
import { EngineError } from '../errors.ts';
import type { Pager } from '../pager/client.ts';
import type { Blob, Branch, BranchDisk, BranchEvent } from '../pager/wire.ts';
import { anySignal } from '../signals.ts';
import type { Machine, VmBranchDone, VmBranchOptions } from '../types.ts';
import { newKey } from './key.ts';

/** Longest wait for the removal of a disk. The next controller removes one that is left. */
const CLOSE_MS_MAX = 5_000;

/** Finds the disk server, which is started if none runs. */
export type FindDiskServer = () => Promise<DiskServer>;

/** A disk that the disk server serves to one VMM. */
export class VmDisk {
  /** The name of the disk, which its VMM alone knows. */
  readonly key: string;
  readonly #sizeBytes: number;
  readonly #findServer: FindDiskServer;
  #served: Pick<BranchDisk, 'epoch_path' | 'server_socket'> | null = null;

  constructor(key: string, { disk_gib: gib = 0 }: Machine, findServer: FindDiskServer) {
    this.key = key;
    this.#sizeBytes = gib * 2 ** 30;
    this.#findServer = findServer;
  }

  /**
   * Makes a disk on top of layers. `null`: a disk that gets them later, with {@link bind}. Throws `unsupported` where there is
   * no disk server.
   */
  static async create(
    machine: Machine,
    findServer: FindDiskServer | undefined,
    layers: readonly string[] | null,
  ): Promise<VmDisk> {
    if (findServer === undefined) throw new EngineError('unsupported', 'Disks need a disk server, and there is none.');
    const disk = new VmDisk(newKey(), machine, findServer);
    await disk.#open(layers, null);
    return disk;
  }

  /** Asks a server that was started since, or by another controller, for the disk. Throws `vm_gone` if it does not have it. */
  async reopen(pid: number): Promise<void> {
    const { disks } = await (await this.#findServer()).inventory();
    if (!disks.some(({ key }) => key === this.key)) {
      throw new EngineError('vm_gone', 'The disk server does not have the disk of the VM.');
    }
    await this.#open([], pid);
  }

  /** False once the server that served the disk has ended, until the disk is opened again. */
  get isServed(): boolean {
    return this.#served !== null;
  }

  /** Gives a disk that was made without layers its content. */
  async bind(layers: readonly string[]): Promise<void> {
    await (await this.#findServer()).bind(this.key, layers);
  }

  /** The places that a branch needs to mark the instant of the disk, and to audit it. */
  get served(): BranchDisk {
    if (this.#served === null)
      throw new EngineError('disk_server_gone', 'The disk of the VM has no server at the moment.');
    return { ...this.#served, key: this.key };
  }

  /**
   * The layers of the disk at the instant of a branch. They are held until they are dropped. Throws `disk_server_gone` if the
   * server has ended since.
   */
  async seal(epoch: number): Promise<string[]> {
    const server = await this.#findServer();
    try {
      const { layers } = await server.seal(this.key, epoch);
      return layers;
    } catch (error) {
      // The server that was started since refuses the epoch, or does not have the disk yet.
      const isAnother = error instanceof EngineError && ['bad_request', 'unknown_sandbox'].includes(error.code);
      if (!isAnother) throw error;
      throw new EngineError('disk_server_gone', 'The disk server ended before it had the disk of the branch.', {
        cause: error,
      });
    }
  }

  /** Compares the layers of a branch with the disk as it was in the pause. Throws `audit_failed` if a block differs. */
  async audit(layers: readonly string[]): Promise<DiskAudit> {
    return (await this.#findServer()).finishAudit(this.key, layers);
  }

  /** Writes layers to the store. */
  async persist(layers: readonly string[]): Promise<Blob[]> {
    return (await this.#findServer()).persist(layers);
  }

  async use(): Promise<DiskUse> {
    return (await this.#findServer()).usage(this.key);
  }

  /** Removes the disk. Layers that were sealed stay. A server that does not answer is not waited for. */
  async close(): Promise<void> {
    const closed = this.#findServer().then((server) => server.close(this.key));
    await Promise.race([closed, delay(CLOSE_MS_MAX, undefined, { ref: false })]);
  }

  async #open(layers: readonly string[] | null, pid: number | null): Promise<void> {
    const server = await this.#findServer();
    const opened = await server.open({
      key: this.key,
      size_bytes: this.#sizeBytes,
      layers: layers === null ? null : [...layers],
      pid,
    });
    const served = { epoch_path: opened.epoch_path, server_socket: server.socket };
    this.#served = served;
    const forget = (): void => {
      if (this.#served === served) this.#served = null;
    };
    server.gone.then(forget, forget);
  }
}

/**
 * Takes a branch of a VM with a disk: memory, device state and disk of one instant, or nothing.
 *
 * The pager begins a new epoch of the disk in the pause, and the disk server freezes the disk before the first write of that
 * epoch. If the server ends before the disk is sealed, the instant is lost, and the branch fails.
 */
export async function branchWithDisk(
  pager: Pager,
  disk: VmDisk,
  branch: Branch,
  { signal, onEvent }: VmBranchOptions,
): Promise<VmBranchDone> {
  const failed = new AbortController();
  let sealed: Promise<Sealed> | undefined;
  const receive = (event: BranchEvent): void => {
    if (event.stage === 'resumed') {
      sealed = sealOf(disk, event.disk_epoch, branch.audit);
      sealed.catch((error: unknown) => failed.abort(error));
      onEvent?.(event);
    } else {
      sealed?.then(
        ({ layers, audit }) => onEvent?.({ ...event, disk: layers, diskAudit: audit }),
        () => undefined,
      );
    }
  };
  try {
    const options = { signal: anySignal(failed.signal, signal), onEvent: receive };
    const done = await pager.branch({ ...branch, disk: disk.served }, options);
    if (sealed === undefined) throw noInstant();
    const { layers, audit } = await sealed;
    return { ...done, disk: await disk.persist(layers), diskAudit: audit };
  } catch (error) {
    throw failed.signal.aborted ? failed.signal.reason : error;
  }
}

/** The disk of a branch. */
interface Sealed {
  layers: string[];
  /** `null` if none was asked for. */
  audit: DiskAudit | null;
}

async function sealOf(disk: VmDisk, epoch: number | null, isAudited: boolean): Promise<Sealed> {
  if (epoch === null) throw noInstant();
  const layers = await disk.seal(epoch);
  return { layers, audit: isAudited ? await disk.audit(layers) : null };
}

function noInstant(): EngineError {
  return new EngineError('pager_protocol', 'The pager did not say at which instant the disk belongs to the branch.');
}
