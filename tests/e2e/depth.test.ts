/**
 * Snapshots of sandboxes that came from snapshots, to depth 20: at each depth the guest still has all that was done in the
 * ones before, in files, in memory and in a running command; and two children of one parent do not see each other's writes.
 */

import { outputOf, sh } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const DEPTH = 20;

describe('a chain of snapshots', () => {
  test(`restores correctly at every depth down to ${DEPTH}`, async ({ lab, template }) => {
    const first = await lab.fork(template);
    // The command keeps its count in its own memory and answers with it.
    const counter = await first.agent.start(['sh', '-c', 'n=0; while read -r _; do n=$((n+1)); echo "$n"; done'], {
      stdin: true,
    });
    let [point, guest] = [template, first];
    for (let depth = 1; depth <= DEPTH; depth += 1) {
      await sh(guest.agent, `echo ${depth} > /root/level-${depth}; mkdir -p /shared; echo ${depth} >> /shared/levels`);
      await guest.agent.writeStdin(counter.id, new TextEncoder().encode('go\n'));
      point = lab.point(guest, await lab.branch(guest, { mode: depth % 2 === 0 ? 'diff' : 'live' }));
      await lab.end(guest);
      guest = await lab.fork(point);
      expect(point.stack).toHaveLength(depth + 1);
      const levels = Array.from({ length: depth }, (_, index) => String(index + 1)).join('\n');
      expect(await sh(guest.agent, 'cat /shared/levels')).toBe(levels);
      expect(await sh(guest.agent, `cat /root/level-1 /root/level-${depth}`)).toBe(`1\n${depth}`);
    }
    const text = await outputOf(guest.agent, counter.id);
    expect(text.trim().split('\n')).toEqual(Array.from({ length: DEPTH }, (_, index) => String(index + 1)));
    await lab.end(guest);
  });

  test('keeps the writes of siblings and of their children apart', async ({ lab, template }) => {
    const parent = await lab.fork(template);
    await sh(parent.agent, 'echo parent > /root/who');
    const point = lab.point(parent, await lab.branch(parent));
    const [left, right] = [await lab.fork(point), await lab.fork(point)];
    await sh(left.agent, 'echo left > /root/who');
    const grandchild = await lab.fork(lab.point(left, await lab.branch(left)));
    await sh(left.agent, 'echo later > /root/who');
    const answers = [parent, left, right, grandchild].map((guest) => sh(guest.agent, 'cat /root/who; hostname'));
    const ids = [parent, left, right, grandchild].map((guest) => guest.vm.record.id);
    expect(await Promise.all(answers)).toEqual([
      `parent\n${ids[0]}`,
      `later\n${ids[1]}`,
      `parent\n${ids[2]}`,
      `left\n${ids[3]}`,
    ]);
  });
});
