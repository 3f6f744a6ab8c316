import { Controller, type ControllerOptions } from './controller.ts';
import type {
  BranchOptions,
  ExecResult,
  PingResult,
  SandboxInfo,
  SnapshotInfo,
  SpawnSandboxesOptions,
} from './types.ts';

export type CreateSandboxOptions = Omit<SpawnSandboxesOptions, 'n'> & ControllerOptions;

/** The `Sandbox` of forkd's own SDK. The `Sandbox` of `@forkd/sdk` can do more. */
export class Sandbox {
  readonly id: string;
  readonly info: SandboxInfo;
  readonly #controller: Controller;
  #isKilled = false;

  constructor(controller: Controller, info: SandboxInfo) {
    this.#controller = controller;
    this.info = info;
    this.id = info.id;
  }

  static async create(options: CreateSandboxOptions): Promise<Sandbox> {
    const controller = new Controller(options);
    const [info] = await controller.spawnSandboxes({ ...options, n: 1 });
    if (info === undefined) throw new Error(`fork of "${options.snapshotTag}": the answer is empty`);
    return new Sandbox(controller, info);
  }

  /** Creates a sandbox, passes it to `use`, and kills it at the end, even if `use` fails. */
  static async with<Result>(
    options: CreateSandboxOptions,
    use: (sandbox: Sandbox) => Promise<Result>,
  ): Promise<Result> {
    const sandbox = await Sandbox.create(options);
    try {
      return await use(sandbox);
    } finally {
      await sandbox.kill();
    }
  }

  exec(args: string[], options: { timeoutSecs?: number | undefined } = {}): Promise<ExecResult> {
    return this.#controller.execCommand(this.id, args, options);
  }

  /** Returns the result of the evaluation. Rejects if the code throws. */
  async eval(code: string): Promise<unknown> {
    const { result, error } = await this.#controller.evalCode(this.id, code);
    if (error) throw new Error(`eval error: ${error}`);
    return result;
  }

  ping(): Promise<PingResult> {
    return this.#controller.pingSandbox(this.id);
  }

  branch(options: BranchOptions = {}): Promise<SnapshotInfo> {
    return this.#controller.branchSandbox(this.id, options);
  }

  /** Ends the sandbox. A second call does nothing. */
  async kill(): Promise<void> {
    if (this.#isKilled) return;
    await this.#controller.killSandbox(this.id);
    this.#isKilled = true;
  }
}
