/**
 * Live branches that are disturbed: the source is killed while it is captured, the client does not read, the client gives up
 * at some moment or other. The pager goes on, and so does the guest wherever it lives: it writes all the while, nothing of it
 * stays protected, and the next branch of it is right. Nothing is left open in the pager.
 */
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Branch, BranchDone } from '@forkd/engine';
import { type Guest, type Lab, nextStormLine, type Point, protectedPages, startStorm, until } from '@forkd/testing';
import { expectGettingOn, expectIntact, look, test } from '@forkd/testing/vitest';
import { afterEach, beforeEach, describe, expect } from 'vitest';

const STORM_MIB = 48;
const STORM_PAGES = STORM_MIB * 256;
const WAIT_MS = 30_000;
const CANCELLATIONS = 30;

describe('a live branch that is disturbed', () => {
  let lab: Lab;
  let template: Point;
  let source: Guest;
  let storm: string;
  /** What the pager has open with one guest and no branch. */
  let open: { fds: number; threads: number };

  test.beforeAll(({ lab: started, stormTemplate }) => {
    lab = started;
    template = stormTemplate;
  });

  beforeEach(async () => {
    source = await lab.fork(template);
    storm = await startStorm(source.agent, STORM_MIB);
    open = await openInPager();
  });

  afterEach(async () => {
    await lab.end(source);
  });

  test('by the end of its source: it fails with that reason, and leaves the other sources alone', async () => {
    const other = await lab.fork(template);
    const otherStorm = await startStorm(other.agent, STORM_MIB);
    const { pid } = source.vm.record;
    // So much that it cannot have been copied when the client hears of the pause, however busy the host is.
    await startStorm(source.agent, 2 * STORM_MIB);
    const branch = lab.pager.branch(live(source), {
      onEvent: ({ stage }) => void (stage === 'resumed' && process.kill(pid, 'SIGKILL')),
    });
    await expect(branch).rejects.toMatchObject({
      code: 'vm_gone',
      message: expect.stringContaining('No such process'),
    });
    await source.vm.exited;
    await expect(lab.branch(source)).rejects.toMatchObject({ code: 'vm_gone' });
    await expectRight(other, otherStorm);
    await lab.end(other);
    await lab.end(source);
    // What belonged to the guest itself has gone too.
    await until('nothing of them is open', WAIT_MS, async () => (await openInPager()).fds < open.fds);
    expect(await readdir(join(lab.dir, 'store/ingest'))).toEqual([]);
  });

  test('by a client that does not read: the guest goes on by its faults alone, and the branch is whole in the end', async () => {
    const seen = await look(source, storm);
    const socket = await branchWithoutReading();
    await expectStuckButGettingOn();
    const lines = (await readUntil(socket, '"kind":"ok"')).trim().split('\n');
    socket.destroy();
    const replies = lines.map((line) => JSON.parse(line) as { kind: string; event?: { stage: string } });
    // Else the pager would not have had to wait.
    const kinds = replies.map(({ kind, event }) => event?.stage ?? kind);
    expect(kinds[0]).toBe('err');
    expect(kinds.filter((kind) => kind !== 'err')).toEqual(['resumed', 'ready', 'ok']);
    const { result: done } = JSON.parse(lines.at(-1) ?? '') as { result: BranchDone };
    expect(done.audit).toMatchObject({ differing_pages: 0 });
    expect(done.stats.pages_by_fault).toBeGreaterThan(STORM_PAGES / 2);
    await expectIntact(lab, lab.point(source, done), seen);
    await lab.discard(done, template);
    await expectUndisturbed();
  });

  test('by a client that does not read and then hangs up: it is given up', async () => {
    const socket = await branchWithoutReading();
    await expectStuckButGettingOn();
    socket.destroy();
    await until('the branch is given up', WAIT_MS, async () => !(await isBranching()));
    await expectUndisturbed();
  });

  test(`by giving it up, ${CANCELLATIONS} times at any moment`, async ({ onTestFailed }) => {
    const seed = Date.now() % 2 ** 31;
    onTestFailed(() => console.error(`seed ${seed}`));
    const random = randomOf(seed);
    const start = performance.now();
    await lab.discard(await lab.branch(source), template);
    let wholeMs = performance.now() - start;
    let givenUp = 0;
    for (let round = 0; round < CANCELLATIONS; round += 1) {
      const afterMs = random() * wholeMs;
      if (await giveUpAfter(afterMs)) givenUp += 1;
      // The first branch may have taken longer, on a host that was busier.
      else wholeMs = afterMs;
      expect(await protectedPages(source.vm.record.pid)).toBe(0);
    }
    expect(givenUp).toBeGreaterThan(CANCELLATIONS / 4);
    await expectUndisturbed();
  });

  /** Whether the branch was not done by then. */
  async function giveUpAfter(ms: number): Promise<boolean> {
    const caller = new AbortController();
    const branch = lab.pager.branch(live(source), { signal: caller.signal });
    const outcome = branch.catch((error: unknown) => error);
    await delay(ms);
    caller.abort();
    const done = await outcome;
    if (done instanceof Error) expect(done).toMatchObject({ code: 'cancelled' });
    return done instanceof Error;
  }

  function live({ vm }: Guest): Branch {
    return { sandbox: vm.record.id, mode: 'live', resume: true, audit: false };
  }

  /** Asks for a branch over a connection on which the pager can soon write no more. */
  async function branchWithoutReading(): Promise<Socket> {
    const socket = connect(join(lab.dir, 'run/pager.sock'));
    await once(socket, 'connect');
    // The audit makes the pause long: the answers to the nonsense, which repeat it, fill the socket before the first event.
    socket.write(`${JSON.stringify({ id: 1, op: 'branch', ...live(source), audit: true })}\n`);
    socket.write(`${JSON.stringify({ id: 2, op: 'x'.repeat(1000) })}\n`.repeat(1000));
    return socket;
  }

  async function expectStuckButGettingOn(): Promise<void> {
    await until('the branch is under way', WAIT_MS, isBranching);
    const { writes } = await nextStormLine(source.agent, storm);
    await until('every page may have been written', WAIT_MS, async () => {
      const line = await nextStormLine(source.agent, storm);
      expect(line.errors).toBe(0);
      return line.writes > writes + STORM_PAGES * 4;
    });
    expect(await isBranching()).toBe(true);
    expect(await protectedPages(source.vm.record.pid)).toBeGreaterThan(0);
  }

  async function isBranching(): Promise<boolean> {
    const { sandboxes } = await lab.pager.inventory();
    return sandboxes.some(({ sandbox, branching }) => branching && sandbox === source.vm.record.id);
  }

  /** What a branch had ready before it was given up can have been forked from: it is the client's to drop. */
  async function dropLayers(): Promise<void> {
    const { layers } = await lab.pager.inventory();
    const unneeded = layers.filter(({ digest }) => digest === null || !template.stack.includes(digest));
    for (const { layer } of unneeded) await lab.pager.dropLayer(layer);
  }

  async function expectUndisturbed(): Promise<void> {
    await dropLayers();
    expect(await protectedPages(source.vm.record.pid)).toBe(0);
    await expectGettingOn(source, storm);
    expect(await readdir(join(lab.dir, 'store/ingest'))).toEqual([]);
    // A thread answers before it ends.
    await until('nothing more is open in the pager', WAIT_MS, async () => {
      const { fds, threads } = await openInPager();
      return fds <= open.fds && threads <= open.threads;
    });
    await expectRight(source, storm);
  }

  async function expectRight(guest: Guest, command: string): Promise<void> {
    const seen = await look(guest, command);
    const done = await lab.branch(guest, { audit: true });
    expect(done.audit).toMatchObject({ differing_pages: 0 });
    await expectIntact(lab, lab.point(guest, done), seen);
    await lab.discard(done, template);
  }

  async function openInPager(): Promise<{ fds: number; threads: number }> {
    const of = async (what: string): Promise<number> => (await readdir(`/proc/${lab.pager.pid}/${what}`)).length;
    return { fds: await of('fd'), threads: await of('task') };
  }
});

/** What comes from a socket up to the end of the line with `mark`. */
async function readUntil(socket: Socket, mark: string): Promise<string> {
  let received = '';
  for await (const chunk of socket.setEncoding('utf8')) {
    received += String(chunk);
    if (received.includes(mark) && received.endsWith('\n')) return received;
  }
  throw new Error(`it ended after: ${received.slice(-200)}`);
}

function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
