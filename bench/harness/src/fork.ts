import { setTimeout as delay } from 'node:timers/promises';
import type { Vm } from '@forkd/engine';
import { Lab, type Point } from '@forkd/testing';
import { BareImage } from './bare.ts';
import { type ForkEntry, type ForkRow, summarizeFork } from './fork-summary.ts';
import { guestMemory, type GuestMemory } from './memory.ts';
import { measuresPayload, type PayloadForks, payloadForks } from './payload.ts';
import { hostFacts, type Report, type Run } from './run.ts';
import { round, settled, timed } from './statistics.ts';

export interface ForkSetting {
  /** Numbers of children at the same time, tried one after the other. */
  counts: readonly number[];
  /** Children measured for each count, with at least one batch. */
  iterations: number;
}

export interface ForkReport extends Report<ForkRow, ForkEntry> {
  /** The same measurements of a guest without a kernel under KVM, where Linux guests do not run under KVM. */
  payload?: PayloadForks;
}

const COLD_BOOTS = 3;
/** Batches of each count whose memory is measured, and how long their guests idle before that. */
const MEMORY_BATCHES = 3;
const IDLE_MS = 1_000;

const METHOD = [
  'A template of a 256 MiB guest with nothing but busybox; n children of it are asked for at the same time.',
  'Batches of four kinds by turns: QEMU alone, children that are left alone, children that are asked at once, and children from a pool in which as many have loaded the template ahead, and one more waits.',
  'running: from asking for the n children until each of them runs. floor: the same VM restored by QEMU alone, n at the same time, its memory a private mapping of one plain file in a tmpfs; no shim, no pager.',
  'first exec: from asking for the n until each has taken an identity and has answered a command (true); all: until the last of them has.',
  'Memory is that of the guest’s RAM, after a second of idling: private is what the guest has written, shared what it has looked at of the template, proportional its share of both. After exec: once a child has answered.',
  'cold boot: from the start of QEMU until the agent answers, the kernel booted.',
  'Percentiles are nearest-rank; the 99th of fewer than a hundred is the largest.',
];

export async function benchFork(setting: ForkSetting, run: Run): Promise<ForkReport> {
  await using lab = await Lab.start({ signal: run.signal });
  const host = hostFacts(lab.engine);
  const rows: ForkRow[] = [];
  for (let index = 0; index < COLD_BOOTS; index += 1) {
    run.progress(`fork: cold boot ${index + 1} of ${COLD_BOOTS}`);
    const { ms, value: guest } = await timed(() => lab.boot());
    const { private_bytes } = await lab.pager.memory(guest.vm.record.id);
    rows.push({ kind: 'cold-boot', n: 1, batch: index, child: 0, ms: round(ms), private_kib: private_bytes / 1024 });
    await lab.end(guest);
  }
  const template = await lab.template();
  await using bare = await BareImage.make(lab, template);
  for (const n of setting.counts) {
    // The last VMM of a pool loads nothing ahead.
    await using pool = await Lab.start({ signal: run.signal, poolMax: n + 1 });
    const batches = new Batches({ n, lab, template, bare, pool, poolTemplate: await pool.template(), run });
    const rounds = Math.max(1, Math.ceil(setting.iterations / n));
    for (let batch = 0; batch < rounds; batch += 1) {
      run.signal.throwIfAborted();
      rows.push(...(await batches.all(batch)));
      run.progress(`fork: ${n} at once, ${batch + 1} of ${rounds}`);
    }
  }
  const report = { host, method: METHOD, rows, summary: summarizeFork(rows) };
  if (!(await measuresPayload(lab.engine.accelerator))) return report;
  return { ...report, payload: await payloadForks(setting.counts, setting.iterations, run) };
}

interface Parts {
  /** Number of children that are started at the same time. */
  n: number;
  lab: Lab;
  template: Point;
  bare: BareImage;
  /** A lab of its own, so that its pool starts no VMMs beside those of another. */
  pool: Lab;
  poolTemplate: Point;
  run: Run;
}

class Batches {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Measures one batch of each kind. */
  async all(batch: number): Promise<ForkRow[]> {
    const withMemory = batch < MEMORY_BATCHES;
    const results = [
      ...(await this.#bare(withMemory)),
      ...(await this.#idle(withMemory)),
      ...(await this.#asked()),
      ...(await this.#pooled()),
    ];
    return results.map((result) => ({ ...result, n: this.#parts.n, batch }));
  }

  async #bare(withMemory: boolean): Promise<Result[]> {
    const { n, bare, run } = this.#parts;
    const started = await bare.restore(n, run.signal);
    if (withMemory) await delay(IDLE_MS, undefined, { signal: run.signal });
    const results = await settled(
      started.map(async ({ vm, ms }, child) => ({
        kind: 'bare' as const,
        child,
        ms: round(ms),
        ...(withMemory && (await guestMemory(vm.pid, bare.memory))),
      })),
    );
    await settled(started.map(({ vm }) => bare.end(vm)));
    return results;
  }

  async #idle(withMemory: boolean): Promise<Result[]> {
    const { n, lab, template, run } = this.#parts;
    const started = await restoreAll(lab, template, n);
    if (withMemory) await delay(IDLE_MS, undefined, { signal: run.signal });
    const results = await settled(
      started.map(async ({ vm, ms }, child) => ({
        kind: 'running' as const,
        child,
        ms: round(ms),
        ...(withMemory && (await memoryOf(vm))),
      })),
    );
    await settled(started.map(({ vm }) => lab.kill(vm)));
    return results;
  }

  async #asked(): Promise<Result[]> {
    const { n, lab, template } = this.#parts;
    const start = performance.now();
    const asked = await settled(
      range(n).map(async () => {
        const guest = await lab.fork(template);
        await guest.agent.run(['true']);
        return { guest, ms: performance.now() - start };
      }),
    );
    const results = await settled(
      asked.map(async ({ guest, ms }, child) => ({
        kind: 'first-exec' as const,
        child,
        ms: round(ms),
        ...(await memoryOf(guest.vm)),
      })),
    );
    await settled(asked.map(({ guest }) => lab.end(guest)));
    return results;
  }

  async #pooled(): Promise<Result[]> {
    const { n, pool, poolTemplate } = this.#parts;
    await pool.fill(poolTemplate, n + 1);
    const started = await restoreAll(pool, poolTemplate, n);
    await settled(started.map(({ vm }) => pool.kill(vm)));
    // VMMs that refill the pool must not start beside the next batch.
    await pool.fill(poolTemplate, n + 1);
    return started.map(({ ms }, child) => ({ kind: 'pool' as const, child, ms: round(ms) }));
  }
}

type Result = Omit<ForkRow, 'n' | 'batch'>;

function range(n: number): number[] {
  return Array.from({ length: n }, (_, index) => index);
}

function restoreAll(lab: Lab, point: Point, n: number): Promise<{ vm: Vm; ms: number }[]> {
  const start = performance.now();
  return settled(range(n).map(async () => ({ vm: await lab.restore(point), ms: performance.now() - start })));
}

function memoryOf(vm: Vm): Promise<GuestMemory> {
  return guestMemory(vm.record.pid, '/memfd:forkd-');
}
