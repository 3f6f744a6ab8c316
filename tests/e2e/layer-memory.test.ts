/**
 * The memory of snapshots, on real guests: layers that nobody maps are let go by a budget and come back from disk with the
 * right bytes; a storm of branches and a suspended workspace give their memory back; memory in too many pieces is merged
 * before a fork, and every branch of a child that maps a merged view is right to the byte.
 */
import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { forkOne, type Guest, type Point, sh, shell, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const MIB = 2 ** 20;
const WAIT_MS = 60_000;

/** The memory of the memfds that a pager has open. */
async function memfdBytes(pid: number): Promise<number> {
  const sizes = new Map<number, number>();
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    if (!(await readlink(path).catch(() => '')).startsWith('/memfd:forkd-')) continue;
    const found = await stat(path).catch(() => null);
    if (found) sizes.set(found.ino, found.blocks * 512);
  }
  return [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
}

describe('layers that nobody maps', () => {
  test('a storm of branches stays within the budget, and each can be forked', async ({ lab, template }) => {
    const BUDGET_BYTES = 24 * MIB;
    const ROUNDS = 10;
    await lab.pager.limitLayers(BUDGET_BYTES);
    const guest = await lab.fork(template);
    const points: Point[] = [];
    for (let round = 1; round <= ROUNDS; round += 1) {
      await sh(guest.agent, `head -c ${8 * MIB} /dev/urandom > /root/data; echo ${round} > /root/round`);
      points.push(lab.point(guest, await lab.branch(guest, { mode: round % 2 === 0 ? 'diff' : 'live' })));
      // The newest layer may not have been looked at yet.
      await until('the pager keeps to its budget', WAIT_MS, async () => {
        const { mapped_bytes: mapped, unmapped_bytes: unmapped } = await lab.pager.layerMemory();
        return unmapped <= BUDGET_BYTES && (await memfdBytes(lab.pager.pid)) <= mapped + BUDGET_BYTES + MIB;
      });
    }
    const { layers } = await lab.pager.inventory();
    const captured = ROUNDS * 8 * MIB;
    // The layers of the template are in memory too, under their digests.
    const counted = layers.filter(({ layer }) => layer.startsWith('ram:') || template.stack.includes(layer));
    const bytes = counted.reduce((sum, { pages }) => sum + pages * 4096, 0);
    expect(bytes, 'all that was captured').toBeGreaterThan(captured);
    expect(bytes - (await memfdBytes(lab.pager.pid)), 'what was let go').toBeGreaterThan(captured / 2);
    expect((await lab.pager.layerMemory()).let_go).toBeGreaterThan(0);
    for (const round of [1, ROUNDS]) {
      const point = points[round - 1];
      if (!point) throw new RangeError('a branch of each round');
      const child = await lab.fork(point);
      expect(await sh(child.agent, 'cat /root/round')).toBe(String(round));
      await lab.end(child);
    }
    expect((await lab.pager.layerMemory()).loaded_again).toBeGreaterThan(0);
    await lab.end(guest);
    await lab.pager.limitLayers(null);
  });

  /** Two files whose pages lie in turns in guest memory. Then `b` is written anew, and so every second page. */
  const scatter = async (guest: Guest, script: string, pages: number): Promise<void> => {
    await sh(guest.agent, script.replace('COUNT', String(pages)));
  };
  const put = (file: string): string => `printf "%4095s\\n", "x" > "${file}"; fflush("${file}");`;
  const alternate = `awk 'BEGIN { for (i = 0; i < COUNT; i++) { ${put('/root/a')} ${put('/root/b')} } }'`;
  const rewrite = `awk 'BEGIN { for (i = 0; i < COUNT; i++) printf "%4095s\\n", "y" }' 1<> /root/b`;

  test('a stack that is forked again is mapped as a merged view, whose children branch right to the byte', async ({
    lab,
    template,
  }) => {
    const PAGES = 1500;
    const first = await lab.fork(template);
    await scatter(first, alternate, PAGES);
    const second = await lab.fork(lab.point(first, await lab.branch(first)));
    await lab.end(first);
    await scatter(second, rewrite, PAGES);
    const point = lab.point(second, await lab.branch(second));
    const sums = await sh(second.agent, 'cat /root/a /root/b | md5sum');
    await lab.end(second);
    expect(point.stack).toHaveLength(3);
    const { merged } = await lab.pager.layerMemory();
    for (const _ of [1, 2]) await lab.end(await lab.fork(point));
    await until('a view is made', WAIT_MS, async () => (await lab.pager.layerMemory()).merged > merged);
    const child = await lab.fork(point);
    const maps = await readFile(`/proc/${child.vm.record.pid}/maps`, 'utf8');
    expect(maps).toContain('/memfd:forkd-layer-view');
    expect(await sh(child.agent, 'cat /root/a /root/b | md5sum')).toBe(sums);
    await sh(child.agent, 'echo more >> /root/a');
    const done = await lab.branch(child, { audit: true });
    expect(done.audit?.differing_pages).toBe(0);
    const grandchild = await lab.fork(lab.point(child, done));
    expect(await sh(grandchild.agent, 'tail -n 1 /root/a; cat /root/b | wc -c')).toBe(`more\n${PAGES * 4096}`);
    await lab.end(child);
    await lab.end(grandchild);
  });

  test('memory with every second page written is merged before it is forked', async ({ lab, template }) => {
    const PAGES = 8400;
    const guest = await lab.fork(template);
    await scatter(guest, alternate, PAGES);
    await lab.pager.limitLayers(0);
    const middle = await lab.fork(lab.point(guest, await lab.branch(guest)));
    await lab.end(guest);
    await scatter(middle, rewrite, PAGES);
    const point = lab.point(middle, await lab.branch(middle, { mode: 'diff' }));
    const sums = await sh(middle.agent, 'md5sum /root/a /root/b');
    await lab.end(middle);
    const { layers } = await lab.pager.inventory();
    const top = layers.find(({ layer }) => layer === point.stack.at(-1));
    expect(top?.extents, 'pages that lie apart').toBeGreaterThan(8192);
    const child = await lab.fork(point);
    expect(await sh(child.agent, 'md5sum /root/a /root/b')).toBe(sums);
    const { merged_in_forks: merged, merged_in_forks_us: tookUs } = await lab.pager.layerMemory();
    expect(merged).toBe(1);
    expect(tookUs).toBeGreaterThan(0);
    const maps = await readFile(`/proc/${child.vm.record.pid}/maps`, 'utf8');
    expect(maps.split('\n').length).toBeLessThan(8192);
    await lab.end(child);
    await lab.pager.limitLayers(null);
  });
});

describe('a controller', () => {
  test('a suspended workspace gives its memory back, and has it again when it is resumed', async ({
    client,
    controller,
  }) => {
    const WRITTEN = 48 * MIB;
    // The template stays in memory: somebody runs on it.
    await forkOne(client);
    await client.createWorkspace({ name: 'w', snapshot_tag: 'base' });
    const live = async () => (await client.getWorkspace('w')).live_sandbox_id ?? '';
    const sum = await shell(client, await live(), `head -c ${WRITTEN} /dev/urandom > /data; md5sum /data`);
    const pid = (await controller.pids('pager'))[0] ?? 0;
    const before = await memfdBytes(pid);
    await client.suspendWorkspace('w');
    const { layers } = await client.host();
    expect(layers.let_go).toBeLessThanOrEqual(1);
    await until('the memory is given back', WAIT_MS, async () => (await memfdBytes(pid)) < before + WRITTEN / 8);
    expect((await client.host()).layers.let_go).toBe(1);
    await client.resumeWorkspace('w');
    expect(await shell(client, await live(), 'md5sum /data')).toBe(sum);
    expect((await client.host()).layers).toMatchObject({ loaded_again: 1 });
  });

  test('a budget that is given on the command line is the pager’s, and shown', async ({ controller }) => {
    await controller.kill9();
    await controller.serve(['--layer-cache-mib', '7']);
    expect((await controller.client.host()).layers.budget_bytes).toBe(7 * MIB);
    await controller.kill9();
    await controller.serve();
    const { budget_bytes: budget } = (await controller.client.host()).layers;
    expect(budget).toBeGreaterThan(7 * MIB);
  });
});
