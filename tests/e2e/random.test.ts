/**
 * Random numbers after a fork. Programs in a sandbox draw from the kernel all the time while it is branched; all machines that
 * come from that instant go on drawing, and no value may be drawn by two of them. The control is the same template without its
 * list of refreshes, as an earlier version made it: there the same comparison finds duplicates, so that it can fail.
 */
import { join } from 'node:path';
import { Store } from '@forkd/store';
import {
  type Common,
  compare,
  drawMore,
  type DrawOptions,
  forkOne,
  Lab,
  notesOf,
  sh,
  shell,
  startDraws,
  type TestController,
  until,
} from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const PAGE = '/dev/shm/forkd-generation';
/** Values that each program draws before the instant, and again in each machine once all of them have their identity. */
const DRAWS = 300;
/** The same for draws that take long. */
const LONG_DRAWS = 20;
const READY_MS = 60_000;
/** Moves all pages of a guest that can be moved. */
const COMPACT =
  'for i in 1 2 3 4 5 6 7 8; do echo 1 > /proc/sys/vm/compact_memory; done; echo 3 > /proc/sys/vm/drop_caches';
/** Attempts of the control to draw a number twice. */
const ATTEMPTS = 10;
const POOL = 3;

const test = base
  // A point whose children have a generator of their own, and the refresh that makes it so.
  .extend('own', { scope: 'file' }, async ({ lab, template }) => {
    const guest = await lab.join(await lab.restore(template));
    const { entries: refresh } = await guest.agent.refresh();
    const point = lab.point(guest, await lab.branch(guest, { mode: 'diff', resume: false }));
    await lab.end(guest);
    return { point, refresh };
  });

let controller: TestController;

test.beforeAll(async ({ controller: started }) => {
  controller = started;
  await controller.client.createSnapshot({ tag: 'smp', source: 'recipe:busybox', mem_mib: 256, vcpus: 2 });
  await controller.stop();
  await makeControl();
  await controller.serve();
}, 300_000);

/** The template again, as a version would have made it that knew nothing of refreshes. */
async function makeControl(): Promise<void> {
  const store = await Store.open(join(controller.dir, 'store'));
  const { config, ...blobs } = await store.readSnapshot('base');
  const { refresh: _refresh, ...earlier } = config;
  const draft = { config: { ...earlier, tag: 'control' } as typeof config, ...blobs };
  await store.writeSnapshot(draft);
}

/** Branches a sandbox live, and forks the branch. */
async function branchAndFork(source: string, n: number, tag: string): Promise<string[]> {
  const { client } = controller;
  await client.branch(source, { tag, mode: 'live', wait: false });
  await until('it can be forked', READY_MS, async () => (await client.getSnapshot(tag)).status === 'ready');
  return (await client.createSandboxes({ snapshot_tag: tag, n })).map(({ id }) => id);
}

interface PairOptions extends DrawOptions {
  /** Generations of children. Default: 1. */
  depth?: number;
  /** A script that the source runs before it is branched. */
  prepare?: string;
  /** Default: {@link DRAWS}. */
  draws?: number;
}

/** Each pair of a sandbox of `tag`, its children, and its grandchildren, all of which draw. */
async function pairsOf(tag: string, options: PairOptions = {}): Promise<Common[]> {
  const { depth = 1, prepare = 'true', draws = DRAWS, ...how } = options;
  const { client } = controller;
  const source = await forkOne(client, tag);
  await startDraws(client, source, how);
  await drawMore(client, source, draws);
  await shell(client, source, prepare);
  const ids = [source];
  for (let level = 0; level < depth; level += 1) {
    ids.push(...(await branchAndFork(ids.at(-1) as string, 2, `${tag}-${source}-${level}`)));
  }
  await Promise.all(ids.map((id) => drawMore(client, id, draws)));
  const notes = await Promise.all(ids.map((id) => notesOf(client, id)));
  await Promise.all(ids.map((id) => client.deleteSandbox(id)));
  return notes.flatMap((one, index) => notes.slice(index + 1).map((other) => compare(one, other)));
}

function expectNone(pairs: readonly Common[], inFlightMax: number): void {
  for (const { before, inFlight, duplicates, since } of pairs) {
    expect(before.length).toBeGreaterThan(0);
    expect(since.length).toBeGreaterThan(0);
    expect(duplicates).toBe(0);
    expect(inFlight).toBeLessThanOrEqual(inFlightMax);
  }
}

describe('random numbers of siblings', () => {
  test('a template says that its children draw numbers of their own from the start', async () => {
    const { client } = controller;
    const info = await client.getSnapshot('base');
    expect(info).toMatchObject({ random_numbers: 'from_start' });
    expect(info.warning).toBeUndefined();
  });

  test('a snapshot of an earlier version says otherwise, and its children draw the same numbers for a while', async () => {
    const { client } = controller;
    expect(await client.getSnapshot('control')).toMatchObject({ random_numbers: 'after_identity' });
    const [child] = await client.createSandboxes({ snapshot_tag: 'control' });
    expect(child?.warnings?.join()).toMatch(/an earlier version/);
    await client.deleteSandbox(child?.id ?? '');
    let duplicates = 0;
    // A child may have its identity before its first draw, even where its programs draw without a rest.
    for (let attempt = 0; attempt < ATTEMPTS && duplicates === 0; attempt += 1) {
      const pairs = await pairsOf('control', { restUs: 0 });
      duplicates = pairs.reduce((sum, pair) => sum + pair.duplicates, 0);
    }
    expect(duplicates).toBeGreaterThan(0);
  });

  test('no value is drawn by two of a sandbox, its children and its grandchildren', async () => {
    const pairs = await pairsOf('base', { depth: 2 });
    expect(pairs).toHaveLength(10);
    expectNone(pairs, 1);
  });

  test('no value is drawn twice with two processors that draw without a rest', async () => {
    expectNone(await pairsOf('smp', { programs: 2, restUs: 0 }), 2);
  });

  test('of draws that are always under way, at most one of each program is in flight at the instant', async () => {
    expectNone(await pairsOf('smp', { programs: 2, bytes: 1 << 20, draws: LONG_DRAWS }), 2);
  });

  test('the number of the generation page is another one from the first reading on, also after compaction', async () => {
    const pairs = await pairsOf('base', { source: PAGE, bytes: 24, restUs: 200, prepare: COMPACT });
    const numbersOf = (notes: Common['since']) => [
      ...new Set(notes.map(({ value }) => Buffer.from(value, 'hex').readBigUInt64LE(8))),
    ];
    // The source with each of its two children.
    for (const { before, since } of pairs.slice(0, 2)) {
      const [old = 0n] = numbersOf(before);
      expect(old).toBeGreaterThan(0n);
      expect(numbersOf(since)).toEqual([old + 1n]);
    }
  });

  test('no value is drawn twice by children that were given to VMMs that waited', async () => {
    await controller.stop();
    await controller.serve(['--vmm-pool', String(POOL)]);
    // A fork says which shape is wanted.
    await controller.client.deleteSandbox(await forkOne(controller.client));
    await until('they wait', READY_MS, async () => (await controller.pids('idle')).length === POOL);
    expectNone(await pairsOf('base'), 1);
  });
});

describe('a child whose generator was made its own', () => {
  test('is branched right to the byte, and so is its child', async ({ lab, own: { point, refresh } }) => {
    let from = point;
    for (let depth = 1; depth <= 2; depth += 1) {
      const child = await lab.join(await lab.restore(from, { refresh }));
      // Before anything is drawn in it, and with what its agent has written since.
      const early = await lab.branch(child, { mode: 'live', audit: true });
      await lab.identify(child);
      const late = await lab.branch(child, { mode: 'diff', audit: true });
      for (const { audit } of [early, late]) expect(audit).toMatchObject({ differing_pages: 0, checked_pages: 65_536 });
      from = lab.point(child, late);
      const number = await sh(child.agent, `od -An -tu8 -j16 -N8 ${PAGE}`);
      expect(Number(number)).toBe(1 + depth);
      await lab.end(child);
    }
  });

  test('has one of its own also in VMMs that had loaded it ahead', async () => {
    await using lab = await Lab.start({ poolMax: 3 });
    const guest = await lab.join(await lab.restore(await lab.sharedTemplate('plain')));
    const { entries: refresh } = await guest.agent.refresh();
    const point = lab.point(guest, await lab.branch(guest, { mode: 'diff', resume: false }));
    await lab.end(guest);
    // All but one load it.
    await lab.fill(point, 3, refresh);
    const children = await Promise.all([0, 1, 2].map(async () => lab.join(await lab.restore(point, { refresh }))));
    const draws = children.map(({ agent }) => sh(agent, 'od -An -tx8 -w32 -N32 /dev/urandom'));
    expect(new Set(await Promise.all(draws)).size).toBe(3);
    for (const child of children) {
      expect(Number(await sh(child.agent, `od -An -tu8 -j16 -N8 ${PAGE}`))).toBe(2);
      const { audit } = await lab.branch(child, { mode: 'live', audit: true });
      expect(audit).toMatchObject({ differing_pages: 0, checked_pages: 65_536 });
    }
  });

  test('does not start where a place is outside of memory', async ({ lab, own: { point } }) => {
    const outside = [{ at: point.machine.mem_mib * 2 ** 20 - 4, bytes: 8, op: 'count' } as const];
    await expect(lab.restore(point, { refresh: outside })).rejects.toThrow(/outside of memory/);
  });
});
