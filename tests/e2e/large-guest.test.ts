/**
 * A guest of more than 4 GiB, whose RAM is in two pieces, below and above the hole for devices: a writer on either side of it
 * is captured at one instant, byte for byte, and goes on in a restored child. The child is branched in its turn.
 */

import { availableMib, type Guest, installStorm, Lab, sh, startStorm } from '@forkd/testing';
import { expectIntact, look } from '@forkd/testing/vitest';
import { afterAll, beforeAll, expect, test } from 'vitest';

const MEM_MIB = 4096 + 256;
const STORM_MIB = 24;
/** All of guest RAM is copied twice, beside what the guest itself takes. */
const NEEDED_MIB = MEM_MIB * 2 + 3072;
const PAGE_FRAMES_BELOW_4_GIB = 2 ** 20;

let lab: Lab;

beforeAll(async () => {
  lab = await Lab.start();
});

afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

test('memory on both sides of the hole is of one instant', { timeout: 300_000 }, async ({ skip }) => {
  const availableNowMib = await availableMib();
  skip(availableNowMib < NEEDED_MIB, `it takes ${NEEDED_MIB} MiB of memory, and the host has ${availableNowMib}`);
  const guest = await lab.boot({ memMib: MEM_MIB });
  await installStorm(guest.agent);
  // The kernel gives out what is above first.
  const above = await startStorm(guest.agent, STORM_MIB);
  await takeAllAbove(guest);
  const below = await startStorm(guest.agent, STORM_MIB);
  const isBelow = (frame: number): boolean => frame < PAGE_FRAMES_BELOW_4_GIB;
  expect((await framesOf(guest, above)).filter(isBelow)).toEqual([]);
  expect((await framesOf(guest, below)).filter(isBelow).length).toBeGreaterThan((STORM_MIB * 256) / 2);

  const before = await look(guest, above, below);
  const done = await lab.branch(guest, { mode: 'live', audit: true });
  expect(done.audit).toMatchObject({ checked_pages: MEM_MIB * 256, differing_pages: 0 });
  expect(done.audit?.changed_since).toBeGreaterThan(0);
  await look(guest, above, below);
  await lab.end(guest);

  const point = lab.point(guest, done);
  const child = await lab.fork(point);
  const inherited = await look(child, above, below);
  for (const [index, { writes }] of inherited.entries())
    expect(writes).toBeGreaterThanOrEqual(before[index]?.writes ?? NaN);
  const again = await lab.branch(child);
  await lab.end(child);
  await expectIntact(lab, lab.point(child, again), inherited);
});

/** Takes the free memory above 4 GiB, as huge pages that nobody uses. */
async function takeAllAbove({ agent }: Guest): Promise<void> {
  const freePages = await sh(
    agent,
    `awk '/zone +Normal/ {normal = 1} normal && /pages free/ {print $3; exit}' /proc/zoneinfo`,
  );
  await sh(agent, `echo ${Math.ceil(Number(freePages) / 512)} > /proc/sys/vm/nr_hugepages`);
}

/** Where in the guest's physical memory a writer's pages are. */
async function framesOf({ agent }: Guest, command: string): Promise<number[]> {
  const { pid } = await agent.get(command);
  const maps = await sh(agent, `grep 'rw-p 00000000 00:00 0' /proc/${pid}/maps`);
  const mappings = maps.split('\n').map((line) => {
    const [start = NaN, end = NaN] = (line.split(' ')[0] ?? '')
      .split('-')
      .map((address) => parseInt(address, 16) / 4096);
    return { start, pages: end - start };
  });
  const [{ start, pages } = { start: NaN, pages: NaN }] = mappings.toSorted((a, b) => b.pages - a.pages);
  const dump = `dd if=/proc/${pid}/pagemap bs=8 skip=${start} count=${pages} 2>/dev/null | od -An -v -tx8`;
  const entries = (await sh(agent, dump)).split(/\s+/);
  // An entry's last 55 bits, of pages that are there: frames have far fewer.
  return entries.filter((entry) => entry.startsWith('8')).map((entry) => parseInt(entry.slice(-12), 16));
}
