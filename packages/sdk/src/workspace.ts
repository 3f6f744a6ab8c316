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
 * A named sandbox that outlives its VM: suspended, it is a snapshot; resumed, a fork of that snapshot.
 * All operations reject with a ForkdError, such as `not_found_workspace`.
 */
export class Workspace {
  readonly name: string;
  /** The state when this object was made. `getInfo` fetches the present state. */
  readonly info: WorkspaceInfo;
  readonly client: ForkdClient;

  private constructor(client: ForkdClient, info: WorkspaceInfo) {
    this.client = client;
    this.info = info;
    this.name = info.name;
  }

  /** Creates a workspace and starts its sandbox from a snapshot. Rejects with `workspace_exists` if the name is taken. */
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

  /** Saves the sandbox as a snapshot on disk and ends it. Rejects with `workspace_not_running` if there is no sandbox. */
  static async suspend(name: string, options: ClientOptions = {}): Promise<Workspace> {
    const client = clientFrom(options);
    return new Workspace(client, await client.suspendWorkspace(name, {}, callOptions(options)));
  }

  /** Starts a sandbox that continues from the instant of the suspension. */
  static async resume(name: string, options: ClientOptions = {}): Promise<Workspace> {
    const client = clientFrom(options);
    return new Workspace(client, await client.resumeWorkspace(name, callOptions(options)));
  }

  /** Ends the sandbox and removes the saved state. The original snapshot stays. False if the workspace did not exist. */
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

  /** Returns the present sandbox. Rejects with `workspace_not_running` if there is none. */
  async sandbox(options: RequestOptions = {}): Promise<Sandbox> {
    const { live_sandbox_id: id, status } = await this.getInfo(options);
    if (id === undefined) {
      throw new ForkdError('workspace_not_running', `Workspace "${this.name}" has no sandbox: it is ${status}.`, {
        hint: 'Resume the workspace first.',
      });
    }
    return Sandbox.connect(id, { ...options, client: this.client });
  }
}
