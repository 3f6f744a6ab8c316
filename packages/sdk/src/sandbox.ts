import type {
  BranchMode,
  BranchRequest,
  BranchUntil,
  CreateSandboxesRequest,
  EvalResponse,
  ListSandboxesQuery,
  MemoryInfo,
  OnExpire,
  PingResponse,
  SandboxInfo,
  SandboxState,
  SandboxStats,
  UpdateSandboxRequest,
} from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { Commands } from './commands.ts';
import { Files } from './files.ts';
import { ForkdError, isForkdError } from './errors.ts';
import { callOptions, clientFrom, wholeSecs, type ClientOptions, type RequestOptions } from './options.ts';
import { Snapshot } from './snapshot.ts';

export type CreateOptions = ClientOptions & {
  /** Taken in place of the id everywhere; unique among the sandboxes that are there. */
  name?: string | undefined;
  labels?: Record<string, string> | undefined;
  /** Its life, in milliseconds from now, in steps of a second. Default: it lives until it is killed. */
  timeoutMs?: number | undefined;
  /** What becomes of it then. Default `kill`. */
  onTimeout?: OnExpire | undefined;
  memoryLimitMib?: number | undefined;
  perChildNetns?: boolean | undefined;
};

export type ListOptions = ClientOptions & {
  /** Those that have all of these. */
  labels?: Record<string, string> | undefined;
  state?: SandboxState | undefined;
  name?: string | undefined;
  snapshotTag?: string | undefined;
  workspace?: string | undefined;
};

export type LogsOptions = RequestOptions & {
  /** How much of what is there already; default 64 KiB. */
  tailBytes?: number | undefined;
  /** Go on with what comes, until the sandbox ends or the reader stops. Default false. */
  follow?: boolean | undefined;
};

export type BranchOptions = RequestOptions & {
  /** Default: one is made up from the sandbox's id and the time. */
  tag?: string | undefined;
  /** Default `live`; where that cannot be had (`unsupported`) `diff`, which copies in the pause what has changed. */
  mode?: BranchMode | undefined;
  /** Default `ready`: it can be forked from. */
  until?: BranchUntil | undefined;
};

/**
 * A virtual machine that runs, or is paused.
 * Each operation on one is there for the instance, and by id or name as a static. All of them reject with a ForkdError:
 * `not_found_sandbox` when it is gone, `sandbox_paused` when it cannot answer since it is paused.
 */
export class Sandbox {
  readonly id: string;
  /** As it was when this object was made; `getInfo` asks again. */
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

  /** Starts one sandbox from a snapshot: `create('py')`, or `create({ snapshotTag: 'py', … })`. */
  static async create(
    snapshot: string | (CreateOptions & { snapshotTag: string }),
    options: CreateOptions = {},
  ): Promise<Sandbox> {
    const { snapshotTag, ...own } = typeof snapshot === 'string' ? { snapshotTag: snapshot } : snapshot;
    const [sandbox] = await Sandbox.createMany(snapshotTag, 1, { ...own, ...options });
    if (sandbox === undefined) throw new ForkdError('bad_response', `fork of "${snapshotTag}": the answer is empty`);
    return sandbox;
  }

  /** Starts `n` sandboxes from a snapshot, in one request: all of them, or none. A `name` is for one alone. */
  static async createMany(snapshotTag: string, n: number, options: CreateOptions = {}): Promise<Sandbox[]> {
    const client = clientFrom(options);
    const infos = await client.createSandboxes(createRequest(snapshotTag, n, options), callOptions(options));
    return infos.map((info) => new Sandbox(client, info));
  }

  /** One that is there already, by id or name. One that is paused stays so. */
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

  /** Ends it. False when it was gone already. */
  static async kill(idOrName: string, options: ClientOptions = {}): Promise<boolean> {
    try {
      await clientFrom(options).deleteSandbox(idOrName, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_sandbox')) return false;
      throw error;
    }
  }

  /** It keeps its memory and loses its processor, until it is resumed. One that is paused already stays so. */
  static pause(idOrName: string, options: ClientOptions = {}): Promise<SandboxInfo> {
    return clientFrom(options).pauseSandbox(idOrName, callOptions(options));
  }

  static resume(idOrName: string, options: ClientOptions = {}): Promise<SandboxInfo> {
    return clientFrom(options).resumeSandbox(idOrName, callOptions(options));
  }

  /** Its life from now on, in milliseconds, whatever it was before; null: it lives until it is killed. */
  static setTimeout(
    idOrName: string,
    timeoutMs: number | null,
    options: ClientOptions & { onTimeout?: OnExpire | undefined } = {},
  ): Promise<SandboxInfo> {
    const request: UpdateSandboxRequest = { ttl_secs: timeoutMs === null ? null : wholeSecs(timeoutMs) };
    if (options.onTimeout !== undefined) request.on_expire = options.onTimeout;
    return clientFrom(options).updateSandbox(idOrName, request, callOptions(options));
  }

  /** What it has used since it was started: processor, memory, page faults. */
  static stats(idOrName: string, options: ClientOptions = {}): Promise<SandboxStats> {
    return clientFrom(options).sandboxStats(idOrName, callOptions(options));
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

  /** False when it is paused, or gone. */
  async isRunning(options: RequestOptions = {}): Promise<boolean> {
    try {
      return (await this.getInfo(options)).state !== 'paused';
    } catch (error) {
      if (isForkdError(error, 'not_found_sandbox')) return false;
      throw error;
    }
  }

  stats(options: RequestOptions = {}): Promise<SandboxStats> {
    return Sandbox.stats(this.id, { ...options, client: this.client });
  }

  /** The guest's console as text, in pieces as they come. */
  async *logs(options: LogsOptions = {}): AsyncGenerator<string> {
    const query: { tail_bytes?: number; follow?: boolean } = {};
    if (options.tailBytes !== undefined) query.tail_bytes = options.tailBytes;
    if (options.follow !== undefined) query.follow = options.follow;
    // One decoder over all of it: a character may be cut in two by a chunk's end.
    const decoder = new TextDecoder();
    for await (const chunk of this.client.sandboxLogs(this.id, query, callOptions(options))) {
      const text = decoder.decode(chunk, { stream: true });
      if (text !== '') yield text;
    }
    const rest = decoder.decode();
    if (rest !== '') yield rest;
  }

  /**
   * Evaluates in the warmed interpreter, which keeps its state from call to call. An exception is no error of the call: it is
   * in `error`. `timeoutMs` is for the evaluation; default 30 s.
   */
  eval(code: string, options: RequestOptions & { timeoutMs?: number | undefined } = {}): Promise<EvalResponse> {
    const { timeoutMs } = options;
    const request = timeoutMs === undefined ? { code } : { code, timeout_secs: timeoutMs / 1000 };
    return this.client.eval(this.id, request, callOptions(options));
  }

  /** A round trip to the agent in the guest. */
  ping(options: RequestOptions = {}): Promise<PingResponse> {
    return this.client.ping(this.id, callOptions(options));
  }

  /** How much memory it alone has, and how much it shares with its siblings, in bytes. */
  memory(options: RequestOptions = {}): Promise<MemoryInfo> {
    return this.client.memory(this.id, callOptions(options));
  }

  /** Makes a snapshot of this instant, while the sandbox runs on. */
  async branch(options: BranchOptions = {}): Promise<Snapshot> {
    const { tag, mode, until = 'ready' } = options;
    const request: BranchRequest = { until };
    if (tag !== undefined) request.tag = tag;
    const take = (as: BranchMode) => this.client.branch(this.id, { ...request, mode: as }, callOptions(options));
    const taken = take(mode ?? 'live').catch((error: unknown) => {
      // Refused before anything was touched.
      if (mode === undefined && isForkdError(error) && error.code === 'unsupported') return take('diff');
      throw error;
    });
    return new Snapshot(this.client, await taken);
  }

  /**
   * `n` sandboxes that go on from this instant: a branch, and then so many children of it.
   * The branch stays. It is what the children name as their `info.snapshot_tag`, more can be started from it, and to remove
   * it at once would mean to wait for the disk. `Snapshot.delete` and `Snapshot.prune` remove it, whether the children live or not.
   */
  async fork(n = 1, options: BranchOptions = {}): Promise<Sandbox[]> {
    const branch = await this.branch(options);
    return branch.fork(n, { signal: options.signal, requestTimeoutMs: options.requestTimeoutMs });
  }

  /** For `await using`: kills it at the end of the block. */
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
