import { ForkdClient } from '@forkd/sdk';
import { ensureController, type LocalController } from '@forkd/sdk/local';
import type { Interrupts } from './lib/interrupts.ts';
import type { Output } from './lib/output.ts';

/** The options that every verb has. */
export type GlobalOptions = {
  json?: boolean | string;
  daemonUrl?: string;
  daemonToken?: string;
  dataDir?: string;
  quiet?: boolean;
};

/** What a verb has to work with: where the controller is, where to write, and when to stop. */
export class Context {
  readonly out: Output;
  readonly env: NodeJS.ProcessEnv;
  readonly interrupts: Interrupts;
  readonly globals: GlobalOptions;
  #local: Promise<LocalController> | undefined;

  constructor(parts: { out: Output; env: NodeJS.ProcessEnv; interrupts: Interrupts; globals: GlobalOptions }) {
    this.out = parts.out;
    this.env = parts.env;
    this.interrupts = parts.interrupts;
    this.globals = parts.globals;
  }

  get signal(): AbortSignal {
    return this.interrupts.signal;
  }

  /** The controller that was named, if one was: it is somebody else's to start and stop. */
  get remoteUrl(): string | undefined {
    return this.globals.daemonUrl ?? (this.env['FORKD_URL'] || undefined);
  }

  /** A client of the named controller, or of this data directory's own, which is started when none runs. */
  async client(): Promise<ForkdClient> {
    if (this.remoteUrl !== undefined) return new ForkdClient({ url: this.remoteUrl, token: this.globals.daemonToken });
    return (await this.local()).client;
  }

  local(): Promise<LocalController> {
    this.#local ??= ensureController({ ...this.#place(), autostart: true });
    return this.#local;
  }

  /** A client of a controller that runs already; nothing is started. */
  async runningClient(signal = this.signal): Promise<ForkdClient> {
    if (this.remoteUrl !== undefined) return this.client();
    return (await ensureController({ ...this.#place(), signal, autostart: false })).client;
  }

  #place() {
    return {
      dataDir: this.globals.dataDir,
      socket: this.env['FORKD_SOCKET'] || undefined,
      token: this.globals.daemonToken,
      signal: this.signal,
    };
  }
}
