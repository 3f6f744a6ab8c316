import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError } from '@forkd/api';
import { DiskServer } from '@forkd/engine';
import type { Logger } from 'pino';
import { type Binaries, requireBinary } from '../binaries.ts';
import { sleep, withDeadline } from '../deadline.ts';
import { messageOf, toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';

interface DisksParts {
  paths: DataPaths;
  binaries: Binaries;
  log: Logger;
}

/**
 * The disk server, started when a disk is first needed. One that ends is started again while VMs have disks: they stand still
 * until then.
 */
export class Disks {
  readonly #parts: DisksParts;
  readonly #closed = new AbortController();
  /** The server that is up or starting. `null` before the first start, and after a failed one. */
  #starting: Promise<DiskServer> | null = null;
  #server: DiskServer | null = null;
  #onRestart: () => Promise<boolean> = async () => false;

  constructor(parts: DisksParts) {
    this.#parts = parts;
  }

  /** `handler` is called when a server has ended, with one that has taken its place. */
  onRestart({ isNeeded, reopen }: { isNeeded: () => boolean; reopen: () => Promise<void> }): void {
    this.#onRestart = async () => {
      if (!isNeeded()) return false;
      await this.find();
      await reopen();
      return true;
    };
  }

  /** The server, started if necessary. Throws `disks_unavailable` if it does not start in time. */
  async find(): Promise<DiskServer> {
    const starting = (this.#starting ??= this.#start());
    const late = () => new ApiError('engine_failed', 'The disk server has not come up in time.');
    return withDeadline(limits.pagerWaitMs, this.#closed.signal, late, () => starting);
  }

  /** The server, if one is connected at this moment. */
  ifUp(): DiskServer | null {
    return this.#server;
  }

  /** Disconnects from the server, or ends it, even one that an earlier controller left and this one never needed. */
  async close(options: { endServer: boolean }): Promise<void> {
    this.#closed.abort(new ApiError('shutting_down', 'The controller is ending.'));
    const server = this.#server;
    this.#server = null;
    await this.#starting?.catch(() => null);
    if (options.endServer) await this.#end(server);
    server?.disconnect();
  }

  async #end(known: DiskServer | null): Promise<void> {
    const { paths, log } = this.#parts;
    if (known === null && (await stat(join(paths.run, 'disk.sock')).catch(() => null)) === null) return;
    try {
      const server = known ?? (await this.#connect());
      await server.shutdown();
    } catch (error) {
      log.warn({ reason: messageOf(error) }, 'could not end the disk server');
    }
  }

  async #connect(signal?: AbortSignal): Promise<DiskServer> {
    const { paths, binaries } = this.#parts;
    const bin = await requireBinary(binaries, 'disk');
    return DiskServer.ensure({ bin, runDir: paths.run, storeDir: paths.store, ...(signal && { signal }) });
  }

  async #start(): Promise<DiskServer> {
    const signal = this.#closed.signal;
    let failure: unknown;
    for (const delayMs of limits.pagerRestartDelaysMs) {
      await sleep(delayMs, signal);
      try {
        const server = await this.#connect(signal);
        signal.throwIfAborted();
        this.#server = server;
        this.#parts.log.info({ disk_server_pid: server.pid }, 'the disk server is up');
        const lost = () => this.#lost(server);
        server.gone.then(lost, lost);
        return server;
      } catch (error) {
        failure = error;
        this.#parts.log.warn({ reason: messageOf(error) }, 'could not start the disk server');
      }
    }
    this.#starting = null;
    throw toApiError(failure);
  }

  #lost(server: DiskServer): void {
    if (this.#server !== server || this.#closed.signal.aborted) return;
    const { log } = this.#parts;
    log.error({ disk_server_pid: server.pid }, 'the disk server is gone');
    this.#server = null;
    this.#starting = null;
    this.#onRestart().then(
      (restarted) => restarted && log.info('the disks of the sandboxes are served again'),
      (error: unknown) => log.error({ reason: messageOf(error) }, 'the disks of the sandboxes cannot be served'),
    );
  }
}
