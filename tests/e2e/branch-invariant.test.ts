/**
 * The invariant of a branch, on a real guest: while a program in the guest rewrites its memory as fast as it can, a branch
 * is taken and all of guest RAM is copied inside the pause; the finished layers must say, byte for byte, what that copy says.
 * Then each branch is restored, and the program in it goes on checking every page that it ever wrote.
 */

import type { BranchDone } from '@forkd/engine';
import { type Guest, installStorm, Lab, mappingsOf, nextStormLine, sh, startStorm } from '@forkd/testing';
import { expectGettingOn, expectIntact, look, test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const STORM_MIB = 48;

const test = base
  .extend('source', { scope: 'file' }, ({ lab, stormTemplate }) => lab.fork(stormTemplate))
  // The writer in the source.
  .extend('storm', { scope: 'file' }, ({ source }) => startStorm(source.agent, STORM_MIB));

describe('a guest that writes as fast as it can', () => {
  test('has every page of one instant in a live branch, whatever it writes before and after', async ({
    lab,
    source,
    storm,
  }) => {
    let [touched, faults, changed] = [0, 0, 0];
    for (let round = 0; round < 5; round += 1) {
      const seen = await look(source, storm);
      const done = await lab.branch(source, { mode: 'live', audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0, checked_pages: 65_536 });
      expect(done.stats.window).toBe(lab.engine.window);
      touched += done.stats.touched_pages;
      faults += done.stats.faults;
      changed += done.audit?.changed_since ?? 0;
      await expectIntact(lab, lab.point(source, done), seen);
    }
    // The guest must have written between arm and instant, during the capture, and since. Otherwise the rounds prove nothing.
    expect(touched).toBeGreaterThan(0);
    expect(faults).toBeGreaterThan(0);
    expect(changed).toBeGreaterThan(0);
  });

  test('is paused from inside QEMU where its functions are known', ({ lab, skip }) => {
    const { version, window, capabilities } = lab.engine;
    skip(!version.startsWith('7.2.'), `QEMU ${version} is not known`);
    expect({ window, why: capabilities.window_inside }).toEqual({ window: 'inside', why: true });
  });

  test('has every page of one instant in a live branch whose pause the monitor conducts', async () => {
    await using lab = await Lab.start({ window: 'monitor' });
    const guest = await lab.fork(await lab.sharedTemplate('storm'));
    const done = await expectInvariant(lab, guest, [await startStorm(guest.agent, STORM_MIB)]);
    expect(done.stats.window).toBe('monitor');
  });

  test.for(['diff', 'full'] as const)(
    'has every page of one instant in a %s branch, which is copied inside the pause',
    async (mode, { lab, source, storm }) => {
      const seen = await look(source, storm);
      const done = await lab.branch(source, { mode, audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0 });
      expect(done.stack).toHaveLength(mode === 'full' ? 1 : 2);
      await expectIntact(lab, lab.point(source, done), seen);
    },
  );

  test('finds none of its pages changed by all those branches, and goes on', async ({ source, storm }) => {
    await expectGettingOn(source, storm);
  });

  test('gets a layer of only the pages that differ from the layers below', async ({ lab, source, storm }) => {
    const done = await lab.branch(source);
    const { captured_pages, private_pages } = done.stats;
    expect(captured_pages).toBeLessThan(private_pages);
    expect(captured_pages).toBeGreaterThanOrEqual((STORM_MIB * 2 ** 20) / 4096);
    // A branch of an idle child captures almost nothing, not another copy of the layers below.
    const child = await lab.fork(lab.point(source, done));
    await child.agent.signal(storm, 'KILL');
    const again = await lab.branch(child);
    expect(again.stack).toHaveLength(3);
    expect(again.stats.captured_pages).toBeLessThan(captured_pages);
    await lab.end(child);
  });

  test('is captured correctly when its private pages are scattered over thousands of places', async ({
    lab,
    stormTemplate,
  }) => {
    // The parent has the writer's memory already, so that what the child rewrites lies between pages that it shares.
    const parent = await lab.fork(stormTemplate);
    const inherited = await startStorm(parent.agent, STORM_MIB);
    const point = lab.point(parent, await lab.branch(parent, { mode: 'diff', resume: false }));
    await lab.end(parent);
    const child = await lab.fork(point);
    for (const mode of ['live', 'diff', 'live', 'full'] as const) {
      const done = await lab.branch(child, { mode, audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0 });
    }
    expect(await nextStormLine(child.agent, inherited)).toMatchObject({ errors: 0 });
    await lab.end(child);
  });

  test('is captured correctly when it was booted and its memory is in huge pages of the host', async ({
    lab,
    skip,
  }) => {
    const guest = await lab.boot();
    await installStorm(guest.agent);
    const writer = await startStorm(guest.agent, STORM_MIB);
    const mappings = await mappingsOf(guest.vm.record.pid);
    const hugeBytes = mappings.reduce((sum, mapping) => sum + mapping.hugeBytes, 0);
    skip(hugeBytes < STORM_MIB * 2 ** 20, `the host gave it ${hugeBytes} bytes in huge pages`);
    // The first branch finds them whole, the second what the first has split.
    await expectInvariant(lab, guest, [writer]);
  });

  test('is captured correctly when it has two processors, each of which writes', async ({ lab }) => {
    const guest = await lab.fork(await lab.template(installStorm, { vcpus: 2 }));
    const writers = [await startStorm(guest.agent, 24), await startStorm(guest.agent, 24)];
    // Each on its own: a child in which one of the processors stood still would have a writer that does not get on.
    for (const [processor, writer] of writers.entries()) {
      const { pid } = await guest.agent.get(writer);
      await sh(guest.agent, `taskset -p ${1 << processor} ${pid}`);
    }
    await expectInvariant(lab, guest, writers);
  });

  /** Two branches of a guest in which writers write, and a child of the second, which is returned. Ends the guest. */
  async function expectInvariant(lab: Lab, guest: Guest, writers: readonly string[]): Promise<BranchDone> {
    await audited(lab, guest);
    const seen = await look(guest, ...writers);
    const done = await audited(lab, guest);
    await expectGettingOn(guest, ...writers);
    await lab.end(guest);
    await expectIntact(lab, lab.point(guest, done), seen);
    return done;
  }

  async function audited(lab: Lab, guest: Guest): Promise<BranchDone> {
    const done = await lab.branch(guest, { mode: 'live', audit: true });
    expect(done.audit).toMatchObject({ differing_pages: 0 });
    expect(done.audit?.changed_since).toBeGreaterThan(0);
    return done;
  }
});
