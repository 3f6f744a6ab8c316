import { raceAbort } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { BranchSlots } from '../state/branch-slots.ts';
import type { Catalog } from '../state/catalog.ts';
import type { Registry } from '../state/registry.ts';
import type { AuditLog } from './audit.ts';
import type { Gauges } from './metrics.ts';

interface GaugeParts {
  catalog: Catalog;
  registry: Registry;
  branches: Pick<BranchSlots, 'max'>;
  vmm: Pick<Vmm, 'pagerIfUp'>;
  audit: Pick<AuditLog, 'droppedLines'> | null;
}

/** The gauges that the store and the pager are asked for. */
type SlowGauges = Pick<Gauges, 'snapshots' | 'layers' | keyof Bytes>;

/** Memory and disks of all sandboxes together. */
type Bytes = Record<'privateBytes' | 'sharedBytes' | 'diskOwnBytes' | 'diskSharedBytes', number>;

const noBytes = { privateBytes: null, sharedBytes: null, diskOwnBytes: null, diskSharedBytes: null };
const unknown: SlowGauges = { snapshots: null, layers: null, ...noBytes };

/**
 * Reads the gauges at the moment of a scrape. The pager walks the page tables of each sandbox for some of them. Their values
 * are therefore kept for a while: the more they cost, the longer. A scrape during such a read gets the values of the last one.
 */
export class GaugeReader {
  readonly #parts: GaugeParts;
  #slow = unknown;
  #readAtMs = -Infinity;
  #tookMs = 0;
  #reading: Promise<void> | null = null;

  constructor(parts: GaugeParts) {
    this.#parts = parts;
  }

  async read(): Promise<Gauges> {
    await this.#refresh();
    return {
      ...this.#slow,
      sandboxes: this.#parts.registry.list().length,
      terminalViewers: this.#parts.registry.all().reduce((sum, { viewers }) => sum + viewers, 0),
      branchesInFlight: this.#parts.registry.all().filter(({ branching }) => branching !== null).length,
      branchCap: this.#parts.branches.max,
      auditLinesDropped: this.#parts.audit?.droppedLines ?? 0,
    };
  }

  async #refresh(): Promise<void> {
    // Reading takes a tenth of the time at most.
    const dueMs = this.#readAtMs + Math.max(limits.gaugeAgeMs, this.#tookMs * 10);
    if (this.#reading === null && performance.now() >= dueMs) {
      this.#reading = this.#readSlow().finally(() => {
        this.#reading = null;
      });
    }
    if (this.#reading === null) return;
    await raceAbort(this.#reading, AbortSignal.timeout(limits.gaugeWaitMs)).catch(() => undefined);
  }

  async #readSlow(): Promise<void> {
    const beganMs = performance.now();
    const pager = this.#parts.vmm.pagerIfUp();
    const [snapshots, layers, used] = await Promise.all([
      orUnknown(this.#parts.catalog.list()),
      pager === null ? null : orUnknown(inTime(pager.layerMemory())),
      pager === null ? null : this.#bytes(),
    ]);
    this.#slow = {
      snapshots: snapshots?.length ?? null,
      layers,
      ...(used ?? noBytes),
    };
    this.#readAtMs = performance.now();
    this.#tookMs = this.#readAtMs - beganMs;
  }

  /** Adds up what the sandboxes have. A sandbox that ends meanwhile counts as nothing. */
  async #bytes(): Promise<Bytes> {
    const sum = { privateBytes: 0, sharedBytes: 0, diskOwnBytes: 0, diskSharedBytes: 0 };
    const vms = this.#parts.registry.list().flatMap(({ vm }) => (vm === null ? [] : [vm]));
    const work = async (): Promise<void> => {
      for (let vm = vms.pop(); vm !== undefined; vm = vms.pop()) {
        const use = await orUnknown(inTime(vm.memory()));
        sum.privateBytes += use?.private_bytes ?? 0;
        sum.sharedBytes += use?.shared_bytes ?? 0;
        const disk = await orUnknown(inTime(vm.diskUse()));
        sum.diskOwnBytes += disk?.own_bytes ?? 0;
        sum.diskSharedBytes += disk?.shared_bytes ?? 0;
      }
    };
    await Promise.all(Array.from({ length: limits.gaugeParallelism }, work));
    return sum;
  }
}

function inTime<T>(answer: Promise<T>): Promise<T> {
  return raceAbort(answer, AbortSignal.timeout(limits.pagerRequestTimeoutMs));
}

async function orUnknown<T>(answer: Promise<T>): Promise<T | null> {
  return answer.catch(() => null);
}
