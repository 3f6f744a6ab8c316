import { join } from 'node:path';
import { ApiError } from '@forkd/api';
import { DiskServer } from '@forkd/engine';
import type { Logger } from 'pino';
import { type Binaries, requireBinary } from '../binaries.ts';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';
import { Supervisor } from './supervisor.ts';

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
  readonly #log: Logger;
  readonly #supervisor: Supervisor<DiskServer>;
  #onRestart: () => Promise<boolean> = async () => false;

  constructor({ paths, binaries, log }: DisksParts) {
    this.#log = log;
    this.#supervisor = new Supervisor({
      title: 'the disk server',
      pidField: 'disk_server_pid',
      socket: join(paths.run, 'disk.sock'),
      connect: async (signal) => {
        const bin = await requireBinary(binaries, 'disk');
        return DiskServer.ensure({ bin, runDir: paths.run, storeDir: paths.store, ...(signal && { signal }) });
      },
      disconnect: (server) => server.disconnect(),
      late: () => new ApiError('disk_server_unavailable', 'The disk server has not come up in time.'),
      startDelaysMs: limits.pagerRestartDelaysMs,
      onLost: () => this.#restart(),
      log,
    });
  }

  /** `reopen` is called when a server has ended that is needed, with one in its place. */
  onRestart({ isNeeded, reopen }: { isNeeded: () => boolean; reopen: () => Promise<void> }): void {
    this.#onRestart = async () => {
      if (!isNeeded()) return false;
      await this.find();
      await reopen();
      return true;
    };
  }

  /** The server, started if necessary. Throws `disk_server_unavailable` if it does not start in time. */
  find(): Promise<DiskServer> {
    return this.#supervisor.use(this.#supervisor.closing);
  }

  /** The server, if one is connected at this moment. */
  ifUp(): DiskServer | null {
    return this.#supervisor.ifUp();
  }

  /** Disconnects from the server, or ends it, even one that an earlier controller left and this one never needed. */
  async close(options: { endServer: boolean }): Promise<void> {
    this.#supervisor.abort();
    await this.#supervisor.settled();
    await this.#supervisor.close({ end: options.endServer });
  }

  #restart(): void {
    this.#onRestart().then(
      (restarted) => restarted && this.#log.info('the disks of the sandboxes are served again'),
      (error: unknown) => this.#log.error({ reason: messageOf(error) }, 'the disks of the sandboxes cannot be served'),
    );
  }
}
