import { readFile } from 'node:fs/promises';
import type { HostInfo } from '@forkd/api';
import { MIB } from '@forkd/api/constants';
import { layerLine } from '../../../output/layer-memory.ts';
import { formatBytes } from '../../../output/text.ts';
import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { command, fail, ofController, pass, skip, warn, type Finding } from '../row.ts';

/** The controller's estimate for a VMM plus the private pages of a child that does little. */
const SMALL_SANDBOX_BYTES = 64 * MIB;
const HOST_RESERVE_BYTES = 128 * MIB;
/** If less is available, a template with 512 MiB, the default, may be refused. */
const COMFORTABLE_BYTES = 1024 * MIB;
/** The default of the kernel. */
const MAP_COUNT_MIN = 65_530;
const MAP_COUNT_GOOD = 262_144;
const KSM_RUN = '/sys/kernel/mm/ksm/run';

export const memoryChecks: readonly Check[] = [
  { id: 'memory', look: memory },
  { id: 'layer_memory', look: layerMemory },
  { id: 'max_map_count', look: maxMapCount },
  { id: 'ksm', look: ksm },
  { id: 'hugepages', look: hugePages },
];

async function memory(): Promise<Finding> {
  const kib = meminfo(await readFile('/proc/meminfo', 'latin1'), 'MemAvailable');
  if (kib === undefined) return skip('/proc/meminfo does not say how much is available');
  const availableBytes = kib * 1024;
  const count = Math.max(0, Math.floor((availableBytes - HOST_RESERVE_BYTES) / SMALL_SANDBOX_BYTES));
  const detail = `${formatBytes(availableBytes)} available: about ${count} children of ${formatBytes(SMALL_SANDBOX_BYTES)} each`;
  if (count === 0) return fail(detail, 'no sandbox can be started: end other programs, or add memory');
  if (availableBytes >= COMFORTABLE_BYTES) return pass(detail);
  return warn(detail, 'a template with the default of 512 MiB may be refused; smaller ones work with --mem-mib');
}

/** Reports the layers that the running controller's pager holds. Those not on disk yet cannot be evicted. */
async function layerMemory(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  if (host === undefined) return skip('a controller that runs says what its layers take');
  return ofController(layersFinding(host.layers));
}

function layersFinding(layers: HostInfo['layers']): Finding {
  const { pending_bytes: pendingBytes, budget_bytes: budgetBytes } = layers;
  const line = layerLine(layers);
  if (pendingBytes <= budgetBytes) return pass(line);
  return warn(
    line,
    'layers that are not on disk stay in memory: free space, or remove snapshots that failed with forkd rmi',
  );
}

async function maxMapCount(): Promise<Finding> {
  const count = Number(await readFile('/proc/sys/vm/max_map_count', 'latin1'));
  if (count >= MAP_COUNT_MIN) return pass(`vm.max_map_count is ${count}`);
  return warn(
    `vm.max_map_count is ${count}, less than ${MAP_COUNT_MIN}`,
    'memory in many pieces is merged before it is forked, which takes time; everything works',
    command('sysctl', '-w', `vm.max_map_count=${MAP_COUNT_GOOD}`),
  );
}

async function ksm(): Promise<Finding> {
  const run = (await readFile(KSM_RUN, 'latin1').catch(() => undefined))?.trim();
  if (run === undefined) return pass('this kernel merges no pages');
  if (run !== '1') return pass(`off (${KSM_RUN} is ${run})`);
  return warn(
    `on (${KSM_RUN} is 1)`,
    'merged pages are a side channel between programs, and merging works against write-protection; guests ask not to be merged, and everything works',
    { argv: ['tee', KSM_RUN], input: '2' },
  );
}

async function hugePages(): Promise<Finding> {
  const text = await readFile('/proc/meminfo', 'latin1');
  const [total, kib] = [meminfo(text, 'HugePages_Total'), meminfo(text, 'Hugepagesize')];
  const mode = await readFile('/sys/kernel/mm/transparent_hugepage/enabled', 'latin1').catch(() => '');
  const transparent = `transparent ones: ${/\[(\w+)\]/.exec(mode)?.[1] ?? 'not offered'}`;
  if (!total || kib === undefined) return pass(`none reserved, none needed; ${transparent}`);
  return pass(`${total} reserved, ${formatBytes(total * kib * 1024)} that sandboxes do not use; ${transparent}`);
}

function meminfo(text: string, field: string): number | undefined {
  const found = new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1];
  return found === undefined ? undefined : Number(found);
}
