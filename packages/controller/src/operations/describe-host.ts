import os from 'node:os';
import type { HostInfo } from '@forkd/api';
import { version } from '../version.ts';
import type { Host } from './host.ts';

/** Describes this machine, the engine and the layers that the pager holds. */
export async function describeHost(
  { vmm, paths }: Pick<Host, 'vmm' | 'paths'>,
  signal: AbortSignal,
): Promise<HostInfo> {
  const { engine, pager } = await vmm.use(signal);
  const { merged_in_forks_us: mergedInForksUs, ...layers } = await pager.layerMemory();
  return {
    hostname: os.hostname(),
    kernel: os.release(),
    cpus: os.availableParallelism(),
    mem_bytes: os.totalmem(),
    engine: {
      name: engine.name,
      version: engine.version,
      accelerator: engine.accelerator,
      reason: engine.acceleratorReason,
      live_unavailable: pager.liveUnavailable ?? reasonOf(engine.capabilities.live),
      capabilities: Object.entries(engine.capabilities).map(([id, can]) => {
        return { id, ok: can === true, why: reasonOf(can) };
      }),
      window: engine.window,
      isolation: [...engine.isolation],
    },
    layers: { ...layers, merged_in_forks_ms: mergedInForksUs / 1000 },
    data_dir: paths.root,
    pid: process.pid,
    version,
  };
}

function reasonOf(can: true | string): string | null {
  return can === true ? null : can;
}
