import type {
  BranchRequest,
  CreateSandboxesRequest,
  FloorInfo,
  MemoryInfo,
  SandboxInfo,
  SnapshotInfo,
} from '@forkd/api';
import { ApiError } from '@forkd/api';
import type { Pager } from '@forkd/engine';

import { withDeadline } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { BranchService } from './branch.ts';
import type { ForkService } from './fork.ts';
import type { Registry } from './registry.ts';

/** The sandboxes as the wire sees them. */
export class Sandboxes {
  readonly #registry: Registry;
  readonly #forks: ForkService;
  readonly #branches: BranchService;
  readonly #vmm: Pick<Vmm, 'use'>;

  constructor(registry: Registry, forks: ForkService, branches: BranchService, vmm: Pick<Vmm, 'use'>) {
    this.#registry = registry;
    this.#forks = forks;
    this.#branches = branches;
    this.#vmm = vmm;
  }

  list(): SandboxInfo[] {
    return this.#registry.list().map((sandbox) => sandbox.info());
  }

  get(id: string): SandboxInfo {
    return this.#registry.get(id).info();
  }

  async fork(request: CreateSandboxesRequest, signal: AbortSignal): Promise<SandboxInfo[]> {
    return (await this.#forks.fork(request, signal)).map((sandbox) => sandbox.info());
  }

  end(id: string): Promise<void> {
    return this.#registry.end(this.#registry.get(id));
  }

  branch(id: string, request: BranchRequest): Promise<SnapshotInfo> {
    return this.#branches.branch(id, request);
  }

  memory(id: string): Promise<MemoryInfo> {
    return this.#ask(id, (pager) => pager.memory(id));
  }

  floor(id: string): Promise<FloorInfo> {
    return this.#ask(id, (pager) => pager.floor(id));
  }

  async #ask<T>(id: string, question: (pager: Pager) => Promise<T>): Promise<T> {
    const sandbox = this.#registry.get(id);
    const { pager } = await this.#vmm.use(sandbox.ended.signal);
    try {
      const late = () => new ApiError('pager_unavailable', 'The pager does not answer.');
      return await withDeadline(limits.pagerRequestTimeoutMs, sandbox.ended.signal, late, () => question(pager));
    } catch (error) {
      throw during(`Sandbox ${id}`, error);
    }
  }
}
