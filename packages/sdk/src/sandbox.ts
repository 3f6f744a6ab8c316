import type {
  BranchMode,
  BranchRequest,
  BranchUntil,
  CreateSandboxesRequest,
  EvalResponse,
  MemoryInfo,
  PingResponse,
  SandboxInfo,
} from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { Commands } from './commands.ts';
import type { CallOptions } from './deadline.ts';
import { Files } from './files.ts';
import { ForkdError, isForkdError } from './errors.ts';
import { callOptions, clientFrom, type ClientOptions } from './options.ts';
import { Snapshot } from './snapshot.ts';

export type CreateOptions = ClientOptions & { memoryLimitMib?: number; perChildNetns?: boolean };

export type BranchOptions = CallOptions & {
  tag?: string | undefined;
  /** Default `live`. */
  mode?: BranchMode | undefined;
  /** Default `ready`: it can be forked from. */
  until?: BranchUntil | undefined;
};

/** A running sandbox. */
export class Sandbox {
  readonly id: string;
  /** As it was when this object was made; `refresh` asks again. */
  readonly info: SandboxInfo;
  readonly commands: Commands;
  readonly files: Files;
  readonly client: ForkdClient;

  private constructor(client: ForkdClient, info: SandboxInfo) {
    this.client = client;
    this.info = info;
    this.id = info.id;
    this.commands = new Commands(client, info.id);
    this.files = new Files(client, info.id);
  }

  /** Starts one sandbox from a snapshot. */
  static async create(snapshotTag: string, options: CreateOptions = {}): Promise<Sandbox> {
    const [sandbox] = await Sandbox.createMany(snapshotTag, 1, options);
    if (sandbox === undefined) throw new ForkdError('bad_response', `fork of "${snapshotTag}": the answer is empty`);
    return sandbox;
  }

  /** Starts `n` sandboxes from a snapshot, in one request. */
  static async createMany(snapshotTag: string, n: number, options: CreateOptions = {}): Promise<Sandbox[]> {
    const client = clientFrom(options);
    const request: CreateSandboxesRequest = { snapshot_tag: snapshotTag, n };
    if (options.memoryLimitMib !== undefined) request.memory_limit_mib = options.memoryLimitMib;
    if (options.perChildNetns !== undefined) request.per_child_netns = options.perChildNetns;
    const infos = await client.createSandboxes(request, callOptions(options));
    return infos.map((info) => new Sandbox(client, info));
  }

  /** A sandbox that runs already. */
  static async connect(id: string, options: ClientOptions = {}): Promise<Sandbox> {
    const client = clientFrom(options);
    return new Sandbox(client, await client.getSandbox(id, callOptions(options)));
  }

  static async list(options: ClientOptions = {}): Promise<Sandbox[]> {
    const client = clientFrom(options);
    const infos = await client.listSandboxes(callOptions(options));
    return infos.map((info) => new Sandbox(client, info));
  }

  /** Ends it. False when it was gone already. */
  static async kill(id: string, options: ClientOptions = {}): Promise<boolean> {
    try {
      await clientFrom(options).deleteSandbox(id, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_sandbox')) return false;
      throw error;
    }
  }

  kill(options: CallOptions = {}): Promise<boolean> {
    return Sandbox.kill(this.id, { ...options, client: this.client });
  }

  refresh(options: CallOptions = {}): Promise<Sandbox> {
    return Sandbox.connect(this.id, { ...options, client: this.client });
  }

  /** Evaluates in the warmed interpreter, which keeps its state from call to call. An exception is in `error`. */
  eval(code: string, options: CallOptions & { evalTimeoutSecs?: number } = {}): Promise<EvalResponse> {
    const { evalTimeoutSecs, ...call } = options;
    const request = evalTimeoutSecs === undefined ? { code } : { code, timeout_secs: evalTimeoutSecs };
    return this.client.eval(this.id, request, call);
  }

  ping(options: CallOptions = {}): Promise<PingResponse> {
    return this.client.ping(this.id, options);
  }

  memory(options: CallOptions = {}): Promise<MemoryInfo> {
    return this.client.memory(this.id, options);
  }

  /** Makes a snapshot of this instant, while the sandbox runs on. */
  async branch(options: BranchOptions = {}): Promise<Snapshot> {
    const { tag, mode = 'live', until = 'ready', ...call } = options;
    const request: BranchRequest = { mode, until };
    if (tag !== undefined) request.tag = tag;
    return new Snapshot(this.client, await this.client.branch(this.id, request, call));
  }

  /** `n` sandboxes that go on from this instant. The branch that they start from stays; its tag is their `info.snapshot_tag`. */
  async fork(n = 1, options: BranchOptions = {}): Promise<Sandbox[]> {
    const branch = await this.branch(options);
    return branch.fork(n, { signal: options.signal, timeoutMs: options.timeoutMs });
  }
}
