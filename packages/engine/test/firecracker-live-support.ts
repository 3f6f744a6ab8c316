/** A Firecracker with the live extensions, in whose place the stand-in is, and what its tests do over and over. */
import { readdir, readlink } from 'node:fs/promises';
import { expect, test as plain } from 'vitest';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import type { Pager } from '../src/pager/client.ts';
import type { BranchDone } from '../src/pager/wire.ts';
import { Bench, digests, MEM_BYTES, MEM_MIB, type StandInConfig } from './firecracker-support.ts';

/** Memory is in two regions. */
export const EXTENDED: StandInConfig = { extensions: true, gap_at_mib: 20 };
export const PAGES = MEM_BYTES / 4096;

export class LiveBench implements AsyncDisposable {
  readonly bench: Bench;
  readonly engine: FirecrackerEngine;
  pager: Pager;

  private constructor(bench: Bench, engine: FirecrackerEngine, pager: Pager) {
    this.bench = bench;
    this.engine = engine;
    this.pager = pager;
  }

  static async open(config: StandInConfig = EXTENDED): Promise<LiveBench> {
    const bench = await Bench.open(config);
    return new LiveBench(bench, await bench.engine(), await bench.pager());
  }

  async restore(done: BranchDone): Promise<FirecrackerVm> {
    const machine = this.engine.machine(MEM_MIB, 1);
    const deviceState = this.bench.blob(done.device_state.digest);
    const spec = { ...this.bench.spec(this.pager), machine, stack: digests(done), deviceState };
    return this.bench.keep(this.engine.restore(spec));
  }

  /** A VM that was restored, and the branch that it was restored from. */
  async child(): Promise<[FirecrackerVm, BranchDone]> {
    const parent = await this.bench.boot(this.engine, this.pager);
    const base = await parent.branch({ mode: 'full', resume: false });
    await parent.kill();
    return [await this.restore(base), base];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.bench[Symbol.asyncDispose]();
  }
}

/** `test` with a bench of its own for live branches. */
export const test = plain.extend('live', async ({}, { onCleanup }) => {
  const live = await LiveBench.open();
  onCleanup(() => live[Symbol.asyncDispose]());
  return live;
});

/** A live branch that is proven by a copy made inside the pause. */
export async function proven(vm: FirecrackerVm, resume = true): Promise<BranchDone> {
  const done = await vm.branch({ mode: 'live', resume, audit: true });
  expect(done.audit).toMatchObject({ checked_pages: PAGES, differing_pages: 0 });
  return done;
}

export async function expectRunning(vm: FirecrackerVm): Promise<void> {
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  // And so it writes.
  const [before, after] = [await proven(vm), await proven(vm)];
  expect(digests(after).at(-1)).not.toBe(digests(before).at(-1));
}

/** What a process has open of that kind. */
export async function opened(pid: number, kind: RegExp): Promise<string[]> {
  const names = await readdir(`/proc/${pid}/fd`);
  const targets = await Promise.all(names.map((name) => readlink(`/proc/${pid}/fd/${name}`).catch(() => '')));
  return targets.filter((target) => kind.test(target));
}
