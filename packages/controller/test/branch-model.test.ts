// Proves the life of branches against a model: writing → ready → durable, or failed, under any order of requests, pager
// events, failures, removals, and sandboxes that end; with the cap, one branch a sandbox, and nothing in flight forked or
// removed. A branch that is ready makes the removal of it, and the next branch of its sandbox, wait for the disk. Random histories; fast-check prints the seed of a failure.
import { join } from 'node:path';
import { EngineError } from '@forkd/engine';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { codeOf, Lab, scratch } from './support.ts';

const CAP = 2;
const sandboxIds = ['sb-a', 'sb-b', 'sb-c'];
const tags = ['t0', 't1', 't2'];

type State = 'writing' | 'ready' | 'durable' | 'failed';
interface Model {
  snapshots: Map<string, { state: State; resumed: boolean; from: string }>;
  /** Sandbox → the tag that it is branching. */
  branching: Map<string, string>;
  alive: Set<string>;
}
type Command = fc.AsyncCommand<Model, Lab>;

/** Lets what the step set off run to its end: all of it is in this process or on this disk. */
async function settle(model: Model, lab: Lab): Promise<void> {
  await expect
    .poll(async () => {
      const listed = await lab.catalog.list();
      return Object.fromEntries(
        listed.map(({ tag, status, durable }) => [tag, status === 'ready' && durable ? 'durable' : status]),
      );
    })
    .toEqual(Object.fromEntries([...model.snapshots].map(([tag, { state }]) => [tag, state])));
  const branching = lab.registry.all().flatMap((sandbox) => (sandbox.branching === null ? [] : [sandbox.id]));
  expect(branching.toSorted()).toEqual([...model.branching.keys()].toSorted());
  expect(
    lab.registry
      .list()
      .map(({ id }) => id)
      .toSorted(),
  ).toEqual([...model.alive].toSorted());
}

/** Brings a branch that is ready to disk, while `waiting` has to wait for that. */
async function writeOut(model: Model, lab: Lab, tag: string, waiting: Promise<unknown>): Promise<void> {
  const snapshot = model.snapshots.get(tag)!;
  const fake = lab.fakes.get(snapshot.from)!;
  let isOver = false;
  void waiting.finally(() => (isOver = true)).catch(() => undefined);
  // Everything that a request does before it waits is in this process, or is one look at the disk.
  await lab.catalog.list();
  expect(isOver).toBe(false);
  lab.fakes.delete(snapshot.from);
  model.branching.delete(snapshot.from);
  snapshot.state = 'durable';
  await fake.durable();
}

function start(id: string, tag: string): Command {
  return {
    check: () => true,
    toString: () => `branch ${id} as ${tag}`,
    run: async (model, lab) => {
      const reply = lab.branch(id, { tag, mode: 'live', until: 'resumed' });
      reply.catch(() => undefined);
      const before = model.branching.get(id);
      if (before !== undefined && model.snapshots.get(before)?.state === 'ready') {
        await writeOut(model, lab, before, reply);
      }
      const held = model.snapshots.get(tag)?.state;
      let expected = 'ok';
      if (!model.alive.has(id)) expected = 'not_found_sandbox';
      else if (model.branching.has(id)) expected = 'branch_in_flight';
      else if (model.branching.size >= CAP) expected = 'branch_cap';
      else if (held === 'writing' || held === 'ready') expected = 'snapshot_in_flight';
      else if (held === 'durable') expected = 'tag_exists';
      if (expected !== 'ok') {
        expect(await codeOf(reply)).toBe(expected);
      } else {
        model.snapshots.set(tag, { state: 'writing', resumed: false, from: id });
        model.branching.set(id, tag);
        await expect.poll(() => lab.fakes.get(id)).toBeDefined();
      }
      await settle(model, lab);
    },
  };
}

function move(id: string, step: 'resumed' | 'ready' | 'durable' | 'full'): Command {
  const next = { resumed: 'writing', ready: 'ready', durable: 'durable', full: 'failed' } as const;
  return {
    check: (model) => {
      const tag = model.branching.get(id);
      const snapshot = tag === undefined ? undefined : model.snapshots.get(tag);
      if (snapshot === undefined || !model.alive.has(id)) return false;
      if (step === 'resumed') return !snapshot.resumed;
      return step === 'full' || (step === 'ready' ? snapshot.state === 'writing' : snapshot.state === 'ready');
    },
    toString: () => `${step} ${id}`,
    run: async (model, lab) => {
      const tag = model.branching.get(id)!;
      const snapshot = model.snapshots.get(tag)!;
      const fake = lab.fakes.get(id)!;
      if (step === 'resumed') fake.resumed();
      else if (step === 'ready') await fake.ready();
      else if (step === 'durable') await fake.durable();
      else fake.fail(new EngineError('disk_full', 'No space is left.'));
      snapshot.resumed = true;
      snapshot.state = next[step];
      if (step === 'durable' || step === 'full') {
        model.branching.delete(id);
        lab.fakes.delete(id);
      }
      await settle(model, lab);
      if (step === 'full') expect((await lab.catalog.info(tag)).error).toContain('No space is left.');
    },
  };
}

function remove(tag: string): Command {
  return {
    check: () => true,
    toString: () => `remove ${tag}`,
    run: async (model, lab) => {
      const state = model.snapshots.get(tag)?.state;
      let expected = 'ok';
      if (state === undefined) expected = 'not_found_snapshot';
      else if (state === 'writing') expected = 'snapshot_in_flight';
      const removal = codeOf(lab.remove(tag, {}));
      if (state === 'ready') await writeOut(model, lab, tag, removal);
      expect(await removal).toBe(expected);
      if (expected === 'ok') model.snapshots.delete(tag);
      await settle(model, lab);
    },
  };
}

function fork(tag: string): Command {
  return {
    check: () => true,
    toString: () => `fork ${tag}`,
    run: async (model, lab) => {
      const state = model.snapshots.get(tag)?.state;
      const source = lab.catalog.forkSource(tag);
      if (state === 'ready') expect((await source).stack.at(-1)).toMatch(/^ram:/);
      else if (state === 'durable')
        for (const digest of (await source).stack) await lab.store.verify(digest as `sha256:${string}`);
      else expect(await codeOf(source)).toBe(state === undefined ? 'not_found_snapshot' : 'not_forkable');
    },
  };
}

/** By a user, or by itself. A branch that is ready goes on without its source; one that is not fails. */
function end(id: string): Command {
  return {
    check: (model) => model.alive.has(id),
    toString: () => `end ${id}`,
    run: async (model, lab) => {
      const tag = model.branching.get(id);
      const snapshot = tag === undefined ? undefined : model.snapshots.get(tag);
      const fake = lab.fakes.get(id);
      await lab.registry.end(lab.registry.find(id));
      model.alive.delete(id);
      model.branching.delete(id);
      lab.fakes.delete(id);
      if (snapshot?.state === 'writing') snapshot.state = 'failed';
      if (snapshot?.state === 'ready') {
        await fake!.durable();
        snapshot.state = 'durable';
      }
      await settle(model, lab);
    },
  };
}

test('any history of branches goes as the model says', { timeout: 120_000 }, async () => {
  const dir = await scratch();
  const id = fc.constantFrom(...sandboxIds);
  const tag = fc.constantFrom(...tags);
  const step = fc.constantFrom('resumed' as const, 'ready' as const, 'durable' as const, 'full' as const);
  const commands = fc.commands(
    [
      fc.tuple(id, tag).map(([from, as]) => start(from, as)),
      fc.tuple(id, step).map(([of, what]) => move(of, what)),
      fc.tuple(id, fc.constantFrom('ready' as const, 'durable' as const)).map(([of, what]) => move(of, what)),
      tag.map(remove),
      tag.map(fork),
      id.map(end),
    ],
    { maxCommands: 40 },
  );
  let run = 0;
  await fc.assert(
    fc.asyncProperty(commands, async (history) => {
      run += 1;
      const lab = await Lab.open(join(dir, `run-${run}`), CAP);
      for (const sandbox of sandboxIds) await lab.addSandbox(sandbox);
      const model: Model = { snapshots: new Map(), branching: new Map(), alive: new Set(sandboxIds) };
      try {
        await fc.asyncModelRun(() => ({ model, real: lab }), history);
      } finally {
        await lab.close();
      }
      // Whatever was under way has settled, and what is listed as ready is whole.
      expect(lab.catalog.inFlightCount).toBe(0);
      for (const stored of await lab.catalog.stored())
        for (const blob of stored.memory) await lab.store.verify(blob.digest);
    }),
    { numRuns: 30 },
  );
});
