import type { FloorInfo, MemoryInfo, SandboxInfo, SandboxStats, SnapshotInfoDetail } from '@forkd/api';
import { unixNow } from '../clock.ts';
import { assertCan } from '../runtime/capabilities.ts';
import { askVm } from './ask-vm.ts';
import type { Host } from './host.ts';
import { readUsage } from './usage.ts';

type InspectionHost = Pick<Host, 'registry' | 'vmm'>;

export function getSandbox({ registry }: Pick<Host, 'registry'>, id: string): SandboxInfo {
  return registry.find(id).info();
}

export function getSnapshotDetail({ catalog }: Pick<Host, 'catalog'>, tag: string): Promise<SnapshotInfoDetail> {
  return catalog.detail(tag);
}

export async function getMemory({ registry, vmm }: InspectionHost, id: string): Promise<MemoryInfo> {
  return askVm(vmm, registry.find(id), (vm) => vm.memory());
}

/** Measures the least time for which a sandbox can be paused. */
export async function measureFloor({ registry, vmm }: InspectionHost, id: string): Promise<FloorInfo> {
  return askVm(vmm, registry.running(id), async (vm) => {
    assertCan(vm, 'floor', 'The floor of a pause cannot be measured');
    return vm.floor();
  });
}

export async function getStats(host: InspectionHost, id: string): Promise<SandboxStats> {
  const sandbox = host.registry.find(id);
  const { record, vm } = sandbox;
  const [memory, disk, usage] = await Promise.all([
    getMemory(host, sandbox.id),
    vm?.diskUse(),
    readUsage(vm?.record.pid ?? 0),
  ]);
  return {
    id: sandbox.id,
    state: sandbox.state === 'paused' ? 'paused' : 'running',
    uptime_secs: Math.max(0, unixNow() - record.created_at_unix),
    cpu_secs: usage.cpuSecs,
    rss_bytes: usage.rssBytes,
    minor_faults: usage.minorFaults,
    major_faults: usage.majorFaults,
    ...memory,
    ...(disk && { disk_own_bytes: disk.own_bytes, disk_shared_bytes: disk.shared_bytes }),
    memory_limit_bytes: null,
    exec_count: sandbox.execCount,
    branch_count: record.branch_count,
  };
}
