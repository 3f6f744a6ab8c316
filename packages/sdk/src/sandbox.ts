import type {
  BranchMode,
  BranchRequest,
  BranchUntil,
  CreateSandboxesRequest,
  EvalResponse,
  ListSandboxesQuery,
  MemoryInfo,
  NetworkPolicy,
  OnExpire,
  PingResponse,
  Safety,
  SandboxInfo,
  SandboxState,
  SandboxStats,
  UpdateSandboxRequest,
} from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { Commands } from './commands.ts';
import { ForkdError, isForkdError } from './errors.ts';
import { Files } from './files.ts';
import { callOptions, clientFrom, wholeSecs, type ClientOptions, type RequestOptions } from './options.ts';
import { Ptys } from './pty.ts';
import { Snapshot } from './snapshot.ts';

export type CreateOptions = ClientOptions & {
  /** Accepted wherever an id is. Must be unique among the existing sandboxes. */
  name?: string | undefined;
  labels?: Record<string, string> | undefined;
  /** Time to live, in milliseconds from now, rounded up to whole seconds. Default: no limit. */
  timeoutMs?: number | undefined;
  /** The action when the timeout fires. Default: `kill`. */
  onTimeout?: OnExpire | undefined;
  memoryLimitMib?: number | undefined;
  /** The network policy, in place of what the snapshot says. Needs a snapshot with a network device. */
  network?: NetworkPolicy | undefined;
  perChildNetns?: boolean | undefined;
};

export type ListOptions = ClientOptions & {
  /** Only sandboxes that carry all of these labels. */
  labels?: Record<string, string> | undefined;
  state?: SandboxState | undefined;
  name?: string | undefined;
  snapshotTag?: string | undefined;
  workspace?: string | undefined;
};

export type LogsOptions = RequestOptions & {
  /** The number of bytes of existing output to begin with. Default: 64 KiB. */
  tailBytes?: number | undefined;
  /** Follow new output until the sandbox ends or the reader stops. Default: false. */
  follow?: boolean | undefined;
};

export type BranchOptions = RequestOptions & {
  /** The name of the snapshot. Default: made of the sandbox's id and the time. */
  tag?: string | undefined;
  /** Default: `live`. On hosts without live branches: `diff`, which copies the changes during the pause. */
  mode?: BranchMode | undefined;
  /** Called with the reason if no `mode` was given and the branch falls back to `diff`, as this host has no live branches. */
  onFallback?: ((reason: ForkdError) => void) | undefined;
  /** The state to wait for. Default: `ready`, the snapshot can be forked. */
  until?: BranchUntil | undefined;
  /**
   * Checks every page against a copy of memory made during the pause, which is longer for it. The branch fails if a page
   * differs. Default: false.
   */
  audit?: boolean | undefined;
  /** `strict`: guest programs are frozen during the branch, and in a child until it has its own identity. */
  safety?: Safety | undefined;
};

/**
 * A virtual machine that runs or is paused.
 * Each operation exists as a method and, by id or name, as a static method. All reject with a ForkdError:
 * `not_found_sandbox` if the sandbox is gone, `sandbox_ended` if it ended by itself, `sandbox_paused` if the sandbox is paused and so cannot answer.
 */
export class Sandbox {
  readonly id: string;
  /** The state when this object was made. `getInfo` fetches the present state. */
  readonly info: SandboxInfo;
  readonly commands: Commands;
  readonly pty: Ptys;
  readonly files: Files;
  readonly client: ForkdClient;

  private constructor(client: ForkdClient, info: SandboxInfo) {
    this.client = client;
    this.info = info;
    this.id = info.id;
    this.commands = new Commands(client, info.id);
    this.pty = new Ptys(client, info.id);
    this.files = new Files(client, info.id);
  }

  /** Starts one sandbox from a snapshot: `create('py')`, or `create({ snapshotTag: 'py', … })`. */
  static async create(
    snapshot: string | (CreateOptions & { snapshotTag: string }),
    options: CreateOptions = {},
  ): Promise<Sandbox> {
    const { snapshotTag, ...own } = typeof snapshot === 'string' ? { snapshotTag: snapshot } : snapshot;
    const [sandbox] = await Sandbox.createMany(snapshotTag, 1, { ...own, ...options });
    if (sandbox === undefined) throw new ForkdError('bad_response', `Fork of "${snapshotTag}": the reply is empty.`);
    return sandbox;
  }

  /** Starts `n` sandboxes from a snapshot in one request: all or none. `name` is allowed only if `n` is 1. */
  static async createMany(snapshotTag: string, n: number, options: CreateOptions = {}): Promise<Sandbox[]> {
    const client = clientFrom(options);
    const infos = await client.createSandboxes(createRequest(snapshotTag, n, options), callOptions(options));
    return infos.map((info) => new Sandbox(client, info));
  }

  /** Returns an existing sandbox, by id or name. A paused sandbox stays paused. */
  static async connect(idOrName: string, options: ClientOptions = {}): Promise<Sandbox> {
    const client = clientFrom(options);
    return new Sandbox(client, await client.getSandbox(idOrName, callOptions(options)));
  }

  static async list(options: ListOptions = {}): Promise<Sandbox[]> {
    const client = clientFrom(options);
    const infos = await client.listSandboxes(callOptions(options), listQuery(options));
    return infos.map((info) => new Sandbox(client, info));
  }

  static getInfo(idOrName: string, options: ClientOptions = {}): Promise<SandboxInfo> {
    return clientFrom(options).getSandbox(idOrName, callOptions(options));
  }

  /** Ends the sandbox. False if the sandbox was already gone. */
  static async kill(idOrName: string, options: ClientOptions = {}): Promise<boolean> {
    try {
      await clientFrom(options).deleteSandbox(idOrName, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_sandbox', 'sandbox_ended')) return false;
      throw error;
    }
  }

  /** Stops the sandbox until it is resumed; its memory is kept. No effect if the sandbox is already paused. */
  static pause(idOrName: string, options: ClientOptions = {}): Promise<SandboxInfo> {
    return clientFrom(options).pauseSandbox(idOrName, callOptions(options));
  }

  static resume(idOrName: string, options: ClientOptions = {}): Promise<SandboxInfo> {
    return clientFrom(options).resumeSandbox(idOrName, callOptions(options));
  }

  /** Sets the time to live, in milliseconds from now, in place of the present one. `null`: no limit. */
  static setTimeout(
    idOrName: string,
    timeoutMs: number | null,
    options: ClientOptions & { onTimeout?: OnExpire | undefined } = {},
  ): Promise<SandboxInfo> {
    const request: UpdateSandboxRequest = { ttl_secs: timeoutMs === null ? null : wholeSecs(timeoutMs) };
    if (options.onTimeout !== undefined) request.on_expire = options.onTimeout;
    return clientFrom(options).updateSandbox(idOrName, request, callOptions(options));
  }

  /** Returns resource usage since the start of the sandbox: CPU, memory, page faults. */
  static stats(idOrName: string, options: ClientOptions = {}): Promise<SandboxStats> {
    return clientFrom(options).sandboxStats(idOrName, callOptions(options));
  }

  /** Takes a snapshot of this instant. The sandbox keeps running. */
  static async branch(idOrName: string, options: ClientOptions & BranchOptions = {}): Promise<Snapshot> {
    const client = clientFrom(options);
    const { tag, mode, until = 'ready', audit, safety } = options;
    const request: BranchRequest = { until };
    if (tag !== undefined) request.tag = tag;
    if (audit !== undefined) request.audit = audit;
    if (safety !== undefined) request.safety = safety;
    const take = (as: BranchMode) => client.branch(idOrName, { ...request, mode: as }, callOptions(options));
    const taken = take(mode ?? 'live').catch((error: unknown) => {
      // `unsupported` is reported before the sandbox is touched.
      if (mode !== undefined || !isForkdError(error, 'unsupported')) throw error;
      options.onFallback?.(error);
      return take('diff');
    });
    return new Snapshot(client, await taken);
  }

  kill(options: RequestOptions = {}): Promise<boolean> {
    return Sandbox.kill(this.id, { ...options, client: this.client });
  }

  pause(options: RequestOptions = {}): Promise<SandboxInfo> {
    return Sandbox.pause(this.id, { ...options, client: this.client });
  }

  resume(options: RequestOptions = {}): Promise<SandboxInfo> {
    return Sandbox.resume(this.id, { ...options, client: this.client });
  }

  setTimeout(
    timeoutMs: number | null,
    options: RequestOptions & { onTimeout?: OnExpire | undefined } = {},
  ): Promise<SandboxInfo> {
    return Sandbox.setTimeout(this.id, timeoutMs, { ...options, client: this.client });
  }

  getInfo(options: RequestOptions = {}): Promise<SandboxInfo> {
    return Sandbox.getInfo(this.id, { ...options, client: this.client });
  }

  /** False if the sandbox is paused or gone. */
  async isRunning(options: RequestOptions = {}): Promise<boolean> {
    try {
      return (await this.getInfo(options)).state !== 'paused';
    } catch (error) {
      if (isForkdError(error, 'not_found_sandbox', 'sandbox_ended')) return false;
      throw error;
    }
  }

  stats(options: RequestOptions = {}): Promise<SandboxStats> {
    return Sandbox.stats(this.id, { ...options, client: this.client });
  }

  /** Streams the guest's console as text. */
  async *logs(options: LogsOptions = {}): AsyncGenerator<string> {
    const query: { tail_bytes?: number; follow?: boolean } = {};
    if (options.tailBytes !== undefined) query.tail_bytes = options.tailBytes;
    if (options.follow !== undefined) query.follow = options.follow;
    // All chunks share a decoder: a character may be split between two chunks.
    const decoder = new TextDecoder();
    for await (const chunk of this.client.sandboxLogs(this.id, query, callOptions(options))) {
      const text = decoder.decode(chunk, { stream: true });
      if (text !== '') yield text;
    }
    const rest = decoder.decode();
    if (rest !== '') yield rest;
  }

  /**
   * Evaluates code in the warmed interpreter, which keeps its state between calls. An exception in the code does not reject:
   * the result has it in `error`, and its traceback in `traceback`. `timeoutMs` bounds the evaluation; default: 30 s.
   */
  eval(code: string, options: RequestOptions & { timeoutMs?: number | undefined } = {}): Promise<EvalResponse> {
    const { timeoutMs } = options;
    const request = timeoutMs === undefined ? { code } : { code, timeout_secs: timeoutMs / 1000 };
    return this.client.eval(this.id, request, callOptions(options));
  }

  /** Replaces what the sandbox may reach, from now on: open connections that are no longer allowed are reset. */
  setNetwork(policy: NetworkPolicy, options: RequestOptions = {}): Promise<SandboxInfo> {
    return this.client.setNetwork(this.id, policy, callOptions(options));
  }

  /**
   * The URL of a service of the guest that speaks HTTP, for browsers and programs. Where the controller asks for tokens it is signed, and of
   * use without one until it expires: after an hour, unless `expiresSecs` says otherwise.
   */
  async getUrl(port: number, options: RequestOptions & { expiresSecs?: number | undefined } = {}): Promise<string> {
    const { expiresSecs } = options;
    const request = { port, ...(expiresSecs !== undefined && { expires_secs: expiresSecs }) };
    return (await this.client.createPortUrl(this.id, request, callOptions(options))).url;
  }

  /** Connects to a TCP port of the guest: sends `input` and yields what the guest sends. */
  connectPort(
    port: number,
    input: AsyncIterable<Uint8Array>,
    options: RequestOptions = {},
  ): AsyncGenerator<Uint8Array> {
    return this.client.connectPort(this.id, port, input, callOptions(options));
  }

  /** Makes a round trip to the agent in the guest. */
  ping(options: RequestOptions = {}): Promise<PingResponse> {
    return this.client.ping(this.id, callOptions(options));
  }

  /** Returns the memory that only this sandbox has and the memory that it shares with its siblings, in bytes. */
  memory(options: RequestOptions = {}): Promise<MemoryInfo> {
    return this.client.memory(this.id, callOptions(options));
  }

  /** Takes a snapshot of this instant. The sandbox keeps running. */
  branch(options: BranchOptions = {}): Promise<Snapshot> {
    return Sandbox.branch(this.id, { ...options, client: this.client });
  }

  /**
   * Starts `n` sandboxes that continue from this instant: takes a branch and forks it.
   * The branch stays: it is the children's `info.snapshot_tag`, more children can be started from it, and to remove it at once
   * would mean to wait for the disk. `Snapshot.delete` and `Snapshot.prune` remove it, even while the children live.
   */
  async fork(n = 1, options: BranchOptions = {}): Promise<Sandbox[]> {
    const branch = await this.branch(options);
    return branch.fork(n, { signal: options.signal, requestTimeoutMs: options.requestTimeoutMs });
  }

  /** Kills the sandbox at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

function createRequest(snapshotTag: string, n: number, options: CreateOptions): CreateSandboxesRequest {
  const request: CreateSandboxesRequest = { snapshot_tag: snapshotTag, n };
  if (options.name !== undefined) request.name = options.name;
  if (options.labels !== undefined) request.labels = options.labels;
  if (options.timeoutMs !== undefined) request.ttl_secs = wholeSecs(options.timeoutMs);
  if (options.onTimeout !== undefined) request.on_expire = options.onTimeout;
  if (options.memoryLimitMib !== undefined) request.memory_limit_mib = options.memoryLimitMib;
  if (options.network !== undefined) request.network = options.network;
  if (options.perChildNetns !== undefined) request.per_child_netns = options.perChildNetns;
  return request;
}

function listQuery(options: ListOptions): ListSandboxesQuery {
  const query: ListSandboxesQuery = {};
  if (options.labels !== undefined) query.label = Object.entries(options.labels).map((pair) => pair.join('='));
  if (options.state !== undefined) query.state = options.state;
  if (options.name !== undefined) query.name = options.name;
  if (options.snapshotTag !== undefined) query.snapshot_tag = options.snapshotTag;
  if (options.workspace !== undefined) query.workspace = options.workspace;
  return query;
}
