import { ForkdClient } from '@forkd/sdk';
import { ensureController, localClient, type LocalController } from '@forkd/sdk/local';
import type { Interrupts } from './lib/interrupts.ts';
import type { Output } from './output/output.ts';

/** The options that every command has. */
export interface GlobalOptions {
  json?: boolean | string;
  daemonUrl?: string;
  daemonToken?: string;
  dataDir?: string;
  quiet?: boolean;
}

/** The context of a command: the controller, the output, and the signal to stop. */
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

  /** The controller that the user named, if any. This process neither starts nor stops it. */
  get remoteUrl(): string | undefined {
    return this.globals.daemonUrl ?? (this.env['FORKD_URL'] || undefined);
  }

  /** A client of the named controller, or of this data directory's own. The first request starts the latter if none runs. */
  async client(): Promise<ForkdClient> {
    return this.#remote() ?? localClient({ ...this.#place(), autostart: true });
  }

  /** The controller of this data directory, started if none runs. */
  local(): Promise<LocalController> {
    this.#local ??= ensureController({ ...this.#place(), autostart: true });
    return this.#local;
  }

  /** A client of a controller that already runs. None is started. */
  async runningClient(signal = this.signal): Promise<ForkdClient> {
    return this.#remote() ?? (await ensureController({ ...this.#place(), signal, autostart: false })).client;
  }

  #remote(): ForkdClient | undefined {
    const { remoteUrl: url } = this;
    return url === undefined ? undefined : new ForkdClient({ url, token: this.globals.daemonToken });
  }

  #place() {
    return {
      dataDir: this.globals.dataDir,
      socket: this.env['FORKD_SOCKET'] || undefined,
      token: this.globals.daemonToken,
      signal: this.signal,
      onStart: (dataDir: string) => this.out.note(`Starting the controller of ${dataDir}.`),
    };
  }
}
