import { join } from 'node:path';

import type {
  BranchRequest,
  CreateSandboxesRequest,
  FloorInfo,
  ListSandboxesQuery,
  LogsQuery,
  MemoryInfo,
  PartialForkResponse,
  SandboxInfo,
  SandboxStats,
  SnapshotInfo,
  UpdateSandboxRequest,
} from '@forkd/api';
import { ApiError, limits as apiLimits } from '@forkd/api';
import { consoleFile } from '@forkd/engine';

import { anySignal } from '../deadline.ts';
import { assertCan } from '../runtime/abilities.ts';
import type { Vmm } from '../runtime/vmm.ts';
import { askVm } from './ask-vm.ts';
import type { BranchService } from './branch.ts';
import { readLog } from './console-log.ts';
import type { ForkService } from './fork.ts';
import type { Replies } from '../replies.ts';
import type { Lifecycle } from './lifecycle.ts';
import type { Registry } from './registry.ts';
import { readUsage } from './usage.ts';

/** The sandboxes as the wire sees them. Where an id is asked for a name will do. */
export class Sandboxes {
  readonly #registry: Registry;
  readonly #forks: ForkService;
  readonly #branches: BranchService;
  readonly #lifecycle: Lifecycle;
  readonly #replies: Pick<Replies, 'noteSnapshot'>;
  readonly #vmm: Pick<Vmm, 'use'>;

  constructor(parts: {
    registry: Registry;
    forks: ForkService;
    branches: BranchService;
    lifecycle: Lifecycle;
    replies: Pick<Replies, 'noteSnapshot'>;
    vmm: Pick<Vmm, 'use'>;
  }) {
    this.#registry = parts.registry;
    this.#forks = parts.forks;
    this.#branches = parts.branches;
    this.#lifecycle = parts.lifecycle;
    this.#replies = parts.replies;
    this.#vmm = parts.vmm;
  }

  list(query: ListSandboxesQuery): SandboxInfo[] {
    const matches = matcherOf(query);
    return this.#registry
      .list()
      .map((sandbox) => sandbox.info())
      .filter(matches);
  }

  get(id: string): SandboxInfo {
    return this.#registry.find(id).info();
  }

  async fork(
    request: CreateSandboxesRequest,
    signal: AbortSignal,
    requestKey: string | null,
  ): Promise<SandboxInfo[] | PartialForkResponse> {
    const outcome = await this.#forks.fork(request, signal, { requestKey });
    if (Array.isArray(outcome)) return outcome.map((sandbox) => sandbox.info());
    const results = outcome.results.map((result, index) => {
      if (!(result instanceof ApiError)) return { index, sandbox: result.info() };
      return { index, error: result.message, code: result.code, hint: result.hint };
    });
    return { results };
  }

  end(id: string): Promise<void> {
    return this.#registry.end(this.#registry.find(id));
  }

  branch(id: string, request: BranchRequest, requestKey: string | null): Promise<SnapshotInfo> {
    return this.#branches.branch(id, request, (tag) => this.#replies.noteSnapshot(requestKey, tag));
  }

  update(id: string, request: UpdateSandboxRequest): Promise<SandboxInfo> {
    return this.#lifecycle.update(id, request);
  }

  pause(id: string): Promise<SandboxInfo> {
    return this.#lifecycle.pause(id);
  }

  resume(id: string): Promise<SandboxInfo> {
    return this.#lifecycle.resume(id);
  }

  memory(id: string): Promise<MemoryInfo> {
    const sandbox = this.#registry.find(id);
    return askVm(this.#vmm, sandbox, (vm) => vm.memory());
  }

  floor(id: string): Promise<FloorInfo> {
    const sandbox = this.#registry.running(id);
    return askVm(this.#vmm, sandbox, async (vm) => {
      assertCan(vm, 'floor', 'The floor of a pause cannot be measured');
      return vm.floor();
    });
  }

  async stats(id: string): Promise<SandboxStats> {
    const sandbox = this.#registry.find(id);
    const { record, vm } = sandbox;
    const [memory, usage] = await Promise.all([this.memory(sandbox.id), readUsage(vm?.record.pid ?? 0)]);
    return {
      id: sandbox.id,
      state: sandbox.state === 'paused' ? 'paused' : 'running',
      uptime_secs: Math.max(0, Math.floor(Date.now() / 1000) - record.created_at_unix),
      cpu_secs: usage.cpuSecs,
      rss_bytes: usage.rssBytes,
      minor_faults: usage.minorFaults,
      major_faults: usage.majorFaults,
      ...memory,
      memory_limit_bytes: null,
      exec_count: sandbox.execCount,
      branch_count: record.branch_count,
    };
  }

  logs(id: string, query: LogsQuery, outer: AbortSignal): AsyncGenerator<Uint8Array> {
    const sandbox = this.#registry.find(id);
    const signal = anySignal(outer, sandbox.ended.signal);
    const { tail_bytes: tailBytes = apiLimits.logTailBytesDefault, follow = false } = query;
    return readLog(join(sandbox.vmDir, consoleFile), { tailBytes, follow, signal });
  }
}

/** Whether a sandbox is one of those that were asked for. */
function matcherOf(query: ListSandboxesQuery): (info: SandboxInfo) => boolean {
  const wanted = [query.label ?? []].flat().map((text) => {
    const [key = '', ...value] = text.split('=');
    return { key, value: value.length > 0 ? value.join('=') : null };
  });
  return (info) =>
    (query.name === undefined || info.name === query.name) &&
    (query.snapshot_tag === undefined || info.snapshot_tag === query.snapshot_tag) &&
    (query.workspace === undefined || info.workspace === query.workspace) &&
    (query.state === undefined || info.state === query.state) &&
    wanted.every(({ key, value }) => {
      const { labels = {} } = info;
      return Object.hasOwn(labels, key) && (value === null || labels[key] === value);
    });
}
