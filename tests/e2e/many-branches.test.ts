/**
 * Branches without end: the tenth costs the pause no more than the first, counted in pages, and several sources at the same
 * moment do not disturb each other. The guests write as fast as they can all the while.
 */

import type { Branch, BranchDone } from '@forkd/engine';
import { type Guest, type Lab, startStorm } from '@forkd/testing';
import { expectGettingOn, expectIntact, look, type Seen, test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const STORM_MIB = 32;
const STORM_PAGES = STORM_MIB * 256;
const BRANCHES = 10;
/** Protected inside the pause: what the guest can write to while a branch goes from its last round of preparation to `stop`. */
const TOUCHED_PAGES_MAX = 256;
/** Of the two times that a branch prepares its instant. */
const ROUNDS_MAX = 24;

describe('many branches', () => {
  test(`${BRANCHES} in a row: the work inside the pause does not grow`, async ({ lab, stormTemplate: template }) => {
    const source = await lab.fork(template);
    const storm = await startStorm(source.agent, STORM_MIB);
    const stats: BranchDone['stats'][] = [];
    for (let index = 0; index < BRANCHES; index += 1) {
      const audit = index % 4 === 1;
      const seen = await look(source, storm);
      const done = await lab.branch(source, { audit });
      if (audit) expect(done.audit).toMatchObject({ differing_pages: 0 });
      if (index === BRANCHES - 1) await expectIntact(lab, lab.point(source, done), seen);
      await lab.discard(done, template);
      stats.push(done.stats);
    }
    // A host that is busy elsewhere can hold up the pager at the worst moment, but not most of the time.
    expect(median(stats.map((each) => each.touched_pages))).toBeLessThanOrEqual(TOUCHED_PAGES_MAX);
    for (const { settle_rounds, private_pages, pages_by_copy, pages_by_fault } of stats) {
      expect(settle_rounds).toBeLessThanOrEqual(ROUNDS_MAX);
      expect(private_pages).toBeGreaterThanOrEqual(STORM_PAGES);
      expect(pages_by_copy + pages_by_fault).toBe(private_pages);
    }
    const privates = stats.map((each) => each.private_pages);
    expect(Math.max(...privates) - Math.min(...privates)).toBeLessThan(STORM_PAGES / 4);
    await expectGettingOn(source, storm);
    await lab.end(source);
  });

  test('of three sources at the same moment: each is right', async ({ lab, stormTemplate: template }) => {
    const sources: { guest: Guest; storm: string }[] = [];
    for (let index = 0; index < 3; index += 1) {
      const guest = await lab.fork(template);
      sources.push({ guest, storm: await startStorm(guest.agent, STORM_MIB) });
    }
    const seen = await Promise.all(sources.map(({ guest, storm }) => look(guest, storm)));
    const branches = await Promise.all(sources.map(({ guest }) => lab.branch(guest, { audit: true })));
    await Promise.all(sources.map(({ guest, storm }) => expectGettingOn(guest, storm)));
    await Promise.all(sources.map(({ guest }) => lab.end(guest)));
    for (const [index, done] of branches.entries()) {
      const { guest } = sources[index] ?? expect.fail('a branch of each source');
      expect(done.audit).toMatchObject({ differing_pages: 0 });
      expect(done.audit?.changed_since).toBeGreaterThan(0);
      await expectIntact(lab, lab.point(guest, done), seen[index] ?? []);
    }
  });

  test('of one source, the next asked for again and again until it is taken: each is right', async ({
    lab,
    stormTemplate: template,
  }) => {
    const source = await lab.fork(template);
    const storm = await startStorm(source.agent, STORM_MIB);
    let seen: Seen[] = [];
    let last: BranchDone | undefined;
    for (let round = 0; round < 3; round += 1) {
      seen = await look(source, storm);
      for (const done of await oneAfterTheOther(lab, source)) {
        expect(done.audit).toMatchObject({ differing_pages: 0 });
        last = done;
      }
    }
    await expectIntact(lab, lab.point(source, last ?? expect.fail('a branch')), seen);
    await expectGettingOn(source, storm);
    await lab.end(source);
  });
});

/** Two branches of a source, of which the second is asked for from the moment that the first has been taken. */
async function oneAfterTheOther(lab: Lab, source: Guest): Promise<BranchDone[]> {
  const request: Branch = { sandbox: source.vm.record.id, mode: 'live', resume: true, audit: true };
  let second: Promise<BranchDone> | undefined;
  const first = lab.pager.branch(request, { onEvent: () => void (second ??= untilTaken(lab, request)) });
  const done = await first;
  return [done, await (second ?? expect.fail('the first branch told of its stages'))];
}

/** A source takes one branch at a time, and the next as soon as it has its connections back. */
async function untilTaken(lab: Lab, request: Branch): Promise<BranchDone> {
  for (;;) {
    try {
      return await lab.pager.branch(request);
    } catch (error) {
      expect(error).toMatchObject({ code: 'busy' });
    }
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}
