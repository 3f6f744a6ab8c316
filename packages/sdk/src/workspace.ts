import type { CreateWorkspaceRequest, WorkspaceInfo } from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { ForkdError, isForkdError } from './errors.ts';
import { callOptions, clientFrom, type ClientOptions, type RequestOptions } from './options.ts';
import { Sandbox } from './sandbox.ts';

export type CreateWorkspaceOptions = ClientOptions & {
  labels?: Record<string, string> | undefined;
  memoryLimitMib?: number | undefined;
  perChildNetns?: boolean | undefined;
};

/**
 * A sandbox with a name that outlives its virtual machine: suspended it is a snapshot, resumed a fork of that.
 * All operations reject with a ForkdError: `not_found_workspace` when there is none.
 */
export class Workspace {
  readonly name: string;
  /** As it was when this object was made; `getInfo` asks again. */
  readonly info: WorkspaceInfo;
  readonly client: ForkdClient;

  private constructor(client: ForkdClient, info: WorkspaceInfo) {
    this.client = client;
    this.info = info;
    this.name = info.name;
  }

  /** Makes one, and starts its first sandbox from a snapshot. Rejects with `workspace_exists` where the name is taken. */
  static async create(name: string, snapshotTag: string, options: CreateWorkspaceOptions = {}): Promise<Workspace> {
    const client = clientFrom(options);
    const request: CreateWorkspaceRequest = { name, snapshot_tag: snapshotTag };
    if (options.labels !== undefined) request.labels = options.labels;
    if (options.memoryLimitMib !== undefined) request.memory_limit_mib = options.memoryLimitMib;
    if (options.perChildNetns !== undefined) request.per_child_netns = options.perChildNetns;
    return new Workspace(client, await client.createWorkspace(request, callOptions(options)));
  }

  static async get(name: string, options: ClientOptions = {}): Promise<Workspace> {
    const client = clientFrom(options);
    return new Workspace(client, await client.getWorkspace(name, callOptions(options)));
  }

  static async list(options: ClientOptions = {}): Promise<Workspace[]> {
    const client = clientFrom(options);
    const infos = await client.listWorkspaces(callOptions(options));
    return infos.map((info) => new Workspace(client, info));
  }

  /** Keeps its sandbox as a snapshot, on disk, and ends it. Rejects with `workspace_not_running` where it has none. */
  static async suspend(name: string, options: ClientOptions = {}): Promise<Workspace> {
    const client = clientFrom(options);
    return new Workspace(client, await client.suspendWorkspace(name, {}, callOptions(options)));
  }

  /** Starts a sandbox that goes on from where it was suspended. */
  static async resume(name: string, options: ClientOptions = {}): Promise<Workspace> {
    const client = clientFrom(options);
    return new Workspace(client, await client.resumeWorkspace(name, callOptions(options)));
  }

  /** Ends its sandbox and removes its state; the snapshot that it came from stays. False when there was none. */
  static async delete(name: string, options: ClientOptions = {}): Promise<boolean> {
    try {
      await clientFrom(options).deleteWorkspace(name, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_workspace')) return false;
      throw error;
    }
  }

  suspend(options: RequestOptions = {}): Promise<Workspace> {
    return Workspace.suspend(this.name, { ...options, client: this.client });
  }

  resume(options: RequestOptions = {}): Promise<Workspace> {
    return Workspace.resume(this.name, { ...options, client: this.client });
  }

  delete(options: RequestOptions = {}): Promise<boolean> {
    return Workspace.delete(this.name, { ...options, client: this.client });
  }

  getInfo(options: RequestOptions = {}): Promise<WorkspaceInfo> {
    return this.client.getWorkspace(this.name, callOptions(options));
  }

  /** The sandbox that it has now. Rejects with `workspace_not_running` where it has none. */
  async sandbox(options: RequestOptions = {}): Promise<Sandbox> {
    const { live_sandbox_id: id, status } = await this.getInfo(options);
    if (id === undefined) {
      throw new ForkdError('workspace_not_running', `workspace "${this.name}" has no sandbox: it is ${status}`, {
        hint: 'resume it first',
      });
    }
    return Sandbox.connect(id, { ...options, client: this.client });
  }
}
