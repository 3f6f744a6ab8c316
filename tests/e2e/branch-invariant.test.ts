/**
 * The invariant of a branch, on a real guest: while a program in the guest rewrites its memory as fast as it can, a branch
 * is taken and all of guest RAM is copied inside the pause; the finished layers must say, byte for byte, what that copy says.
 * Then each branch is restored, and the program in it goes on checking every page that it ever wrote.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BranchDone } from '@forkd/engine';
import { type Guest, installStorm, Lab, nextStormLine, sh, startStorm } from '@forkd/lab';
import { mappingsOf } from '../support/host-memory.ts';
import { expectGettingOn, expectIntact, look } from '../support/intact.ts';

const STORM_MIB = 48;

describe('a branch of a guest that writes hard', () => {
  let host: Lab;
  let source: Guest;
  let storm: string;

  beforeAll(async () => {
    host = await Lab.start();
    source = await host.fork(await host.template(installStorm));
    storm = await startStorm(source.agent, STORM_MIB);
  });

  afterAll(async () => {
    await host?.[Symbol.asyncDispose]();
  });

  it('live: every page is as it was at the instant, however the guest wrote before and after it', async () => {
    let [touched, faults, changed] = [0, 0, 0];
    for (let round = 0; round < 5; round += 1) {
      const seen = await look(source, storm);
      const done = await host.branch(source, { mode: 'live', audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0, checked_pages: 65_536 });
      touched += done.stats.touched_pages;
      faults += done.stats.faults;
      changed += done.audit?.changed_since ?? 0;
      await expectIntact(host, host.point(source, done), seen);
    }
    // Else the rounds would have proved nothing: pages were written between arm and instant, while they were captured, and since.
    expect(touched).toBeGreaterThan(0);
    expect(faults).toBeGreaterThan(0);
    expect(changed).toBeGreaterThan(0);
  });

  it.each(['diff', 'full'] as const)('%s: the same, copied inside the pause', async (mode) => {
    const seen = await look(source, storm);
    const done = await host.branch(source, { mode, audit: true });
    expect(done.audit).toMatchObject({ differing_pages: 0 });
    expect(done.stack).toHaveLength(mode === 'full' ? 1 : 2);
    await expectIntact(host, host.point(source, done), seen);
  });

  it('the source never noticed: it finds no page wrong and goes on', async () => {
    await expectGettingOn(source, storm);
  });

  it('a layer holds only what differs from the layers below', async () => {
    const done = await host.branch(source);
    const { captured_pages, private_pages } = done.stats;
    expect(captured_pages).toBeLessThan(private_pages);
    expect(captured_pages).toBeGreaterThanOrEqual((STORM_MIB * 2 ** 20) / 4096);
    // One more branch of a child that has done nothing is next to nothing, not another copy of what is below.
    const child = await host.fork(host.point(source, done));
    await child.agent.signal(storm, 'KILL');
    const again = await host.branch(child);
    expect(again.stack).toHaveLength(3);
    expect(again.stats.captured_pages).toBeLessThan(captured_pages);
    await host.end(child);
  });

  it('a guest whose private pages are scattered over thousands of places is captured as rightly', async () => {
    let inherited = '';
    // The template has the writer's memory already, so that what a child rewrites lies between pages that it shares.
    const point = await host.template(async (agent) => {
      await installStorm(agent);
      inherited = await startStorm(agent, STORM_MIB);
    });
    const child = await host.fork(point);
    for (const mode of ['live', 'diff', 'live', 'full'] as const) {
      const done = await host.branch(child, { mode, audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0 });
    }
    expect(await nextStormLine(child.agent, inherited)).toMatchObject({ errors: 0 });
    await host.end(child);
  });

  it('a guest that was booted, whose memory is in huge pages of the host, is captured as rightly', async ({ skip }) => {
    const guest = await host.boot();
    await installStorm(guest.agent);
    const writer = await startStorm(guest.agent, STORM_MIB);
    const mappings = await mappingsOf(guest.vm.record.pid);
    const hugeBytes = mappings.reduce((sum, mapping) => sum + mapping.hugeBytes, 0);
    skip(hugeBytes < STORM_MIB * 2 ** 20, `the host gave it ${hugeBytes} bytes in huge pages`);
    // The first branch finds them whole, the second what the first has split.
    await expectInvariant(guest, [writer]);
  });

  it('a guest with two processors, each writing, is captured as rightly', async () => {
    const guest = await host.fork(await host.template(installStorm, { vcpus: 2 }));
    const writers = [await startStorm(guest.agent, 24), await startStorm(guest.agent, 24)];
    // Each on its own: a child in which one of the processors stood still would have a writer that does not get on.
    for (const [processor, writer] of writers.entries()) {
      const { pid } = await guest.agent.get(writer);
      await sh(guest.agent, `taskset -p ${1 << processor} ${pid}`);
    }
    await expectInvariant(guest, writers);
  });

  /** Two branches of a guest in which writers write, and a child of the second. Ends the guest. */
  async function expectInvariant(guest: Guest, writers: readonly string[]): Promise<void> {
    await audited(guest);
    const seen = await look(guest, ...writers);
    const done = await audited(guest);
    await expectGettingOn(guest, ...writers);
    await host.end(guest);
    await expectIntact(host, host.point(guest, done), seen);
  }

  async function audited(guest: Guest): Promise<BranchDone> {
    const done = await host.branch(guest, { mode: 'live', audit: true });
    expect(done.audit).toMatchObject({ differing_pages: 0 });
    expect(done.audit?.changed_since).toBeGreaterThan(0);
    return done;
  }
});
