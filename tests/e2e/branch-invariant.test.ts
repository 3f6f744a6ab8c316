/**
 * The invariant of a branch, on a real guest: while a program in the guest rewrites its memory as fast as it can, a branch
 * is taken and all of guest RAM is copied inside the pause; the finished layers must say, byte for byte, what that copy says.
 * Then each branch is restored, and the program in it goes on checking every page that it ever wrote.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Guest, installStorm, nextStormLine, type Point, startStorm, Lab } from '@forkd/lab';

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

  async function expectIntact(point: Point, atLeastWrites: number): Promise<void> {
    const child = await host.fork(point);
    const first = await nextStormLine(child.agent, storm);
    const second = await nextStormLine(child.agent, storm);
    expect(second.errors).toBe(0);
    expect(first.writes).toBeGreaterThanOrEqual(atLeastWrites);
    expect(second.writes).toBeGreaterThan(first.writes);
    await host.end(child);
  }

  it('live: every page is as it was at the instant, however the guest wrote before and after it', async () => {
    let [touched, faults, changed] = [0, 0, 0];
    for (let round = 0; round < 5; round += 1) {
      const before = await nextStormLine(source.agent, storm);
      const done = await host.branch(source, { mode: 'live', audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0, checked_pages: 65_536 });
      touched += done.stats.touched_pages;
      faults += done.stats.faults;
      changed += done.audit?.changed_since ?? 0;
      await expectIntact(host.point(source, done), before.writes);
    }
    // Else the rounds would have proved nothing: pages were written between arm and instant, while they were captured, and since.
    expect(touched).toBeGreaterThan(0);
    expect(faults).toBeGreaterThan(0);
    expect(changed).toBeGreaterThan(0);
  });

  it.each(['diff', 'full'] as const)('%s: the same, copied inside the pause', async (mode) => {
    const before = await nextStormLine(source.agent, storm);
    const done = await host.branch(source, { mode, audit: true });
    expect(done.audit).toMatchObject({ differing_pages: 0 });
    expect(done.stack).toHaveLength(mode === 'full' ? 1 : 2);
    await expectIntact(host.point(source, done), before.writes);
  });

  it('the source never noticed: it finds no page wrong and goes on', async () => {
    const line = await nextStormLine(source.agent, storm);
    expect(line.errors).toBe(0);
    expect((await nextStormLine(source.agent, storm)).writes).toBeGreaterThan(line.writes);
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
});
