import { raceAbort } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { Registry } from '../sandboxes/registry.ts';
import type { Catalog } from '../snapshots/catalog.ts';
import type { AuditLog } from './audit.ts';
import type { Gauges } from './metrics.ts';

const pageBytes = 4096;

/** What takes a question to the store or the pager. */
type Asked = Pick<Gauges, 'snapshots' | 'layers' | 'layerBytes' | 'privateBytes' | 'sharedBytes'>;

const unknown: Asked = { snapshots: null, layers: null, layerBytes: null, privateBytes: null, sharedBytes: null };

/**
 * Reads what is true at the moment of a scrape. The pager walks each sandbox's page tables for it, so that the answer is
 * kept for a while, the longer the more it cost; who scrapes while it is being found out gets the last one.
 */
export class GaugeReader {
  readonly #catalog: Catalog;
  readonly #registry: Registry;
  readonly #vmm: Pick<Vmm, 'pagerIfUp'>;
  readonly #cap: number;
  readonly #audit: AuditLog | null;
  #asked = unknown;
  #askedMs = -Infinity;
  #tookMs = 0;
  #asking: Promise<void> | null = null;

  constructor(parts: {
    catalog: Catalog;
    registry: Registry;
    vmm: Pick<Vmm, 'pagerIfUp'>;
    cap: number;
    audit: AuditLog | null;
  }) {
    this.#catalog = parts.catalog;
    this.#registry = parts.registry;
    this.#vmm = parts.vmm;
    this.#cap = parts.cap;
    this.#audit = parts.audit;
  }

  async read(): Promise<Gauges> {
    await this.#refresh();
    return {
      ...this.#asked,
      sandboxes: this.#registry.list().length,
      branchesInFlight: this.#registry.all().filter(({ branching }) => branching !== null).length,
      branchCap: this.#cap,
      auditLinesDropped: this.#audit?.droppedLines ?? 0,
    };
  }

  async #refresh(): Promise<void> {
    // A tenth of the time at most goes into looking.
    const dueMs = this.#askedMs + Math.max(limits.gaugeAgeMs, this.#tookMs * 10);
    if (this.#asking === null && performance.now() >= dueMs) {
      this.#asking = this.#ask().finally(() => {
        this.#asking = null;
      });
    }
    if (this.#asking === null) return;
    await raceAbort(this.#asking, AbortSignal.timeout(limits.gaugeWaitMs)).catch(() => undefined);
  }

  async #ask(): Promise<void> {
    const beganMs = performance.now();
    const pager = this.#vmm.pagerIfUp();
    const [snapshots, held, used] = await Promise.all([
      orUnknown(this.#catalog.list()),
      pager === null ? null : orUnknown(inTime(pager.inventory())),
      pager === null ? null : this.#memory(),
    ]);
    const pages = held?.layers.reduce((sum, layer) => sum + layer.pages, 0);
    this.#asked = {
      snapshots: snapshots?.length ?? null,
      layers: held?.layers.length ?? null,
      layerBytes: pages === undefined ? null : pages * pageBytes,
      privateBytes: used?.privateBytes ?? null,
      sharedBytes: used?.sharedBytes ?? null,
    };
    this.#askedMs = performance.now();
    this.#tookMs = this.#askedMs - beganMs;
  }

  /** One that ends while it is looked at counts for nothing. */
  async #memory(): Promise<{ privateBytes: number; sharedBytes: number }> {
    const sum = { privateBytes: 0, sharedBytes: 0 };
    const vms = this.#registry.list().flatMap(({ vm }) => (vm === null ? [] : [vm]));
    const work = async (): Promise<void> => {
      for (let vm = vms.pop(); vm !== undefined; vm = vms.pop()) {
        const use = await orUnknown(inTime(vm.memory()));
        sum.privateBytes += use?.private_bytes ?? 0;
        sum.sharedBytes += use?.shared_bytes ?? 0;
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
