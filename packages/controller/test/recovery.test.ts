/** Taking sandboxes over: one whose VMM does not answer holds up none of the others, and is given up in the end. */
import { setImmediate as turn } from 'node:timers/promises';
import type { Vm, VmRecord } from '@forkd/engine';
import { afterEach, expect, test, vi } from 'vitest';
import { limits } from '../src/limits.ts';
import { readopt } from '../src/operations/recover.ts';
import type { Runtime } from '../src/runtime/vmm.ts';
import { Lab, scratch } from './support.ts';

afterEach(() => {
  vi.useRealTimers();
});

test('a VMM that never answers holds up no other sandbox when a new pager takes them over', async () => {
  const dir = await scratch();
  const lab = await Lab.open(dir);
  const ids = ['sb-silent', 'sb-one', 'sb-two'];
  for (const id of ids) await lab.addSandbox(id);
  const taken: string[] = [];
  const engine = {
    adopt: ({ id }: VmRecord): Promise<Vm> => {
      if (id === 'sb-silent') return new Promise(() => undefined);
      taken.push(id);
      const vm = lab.registry.find(id).vm;
      return vm === null ? Promise.reject(new Error(`${id} has no VM`)) : Promise.resolve(vm);
    },
  };
  const pager = { inventory: async () => ({ layers: [], sandboxes: [] }) };
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const done = readopt(lab.host, { engine, pager } as unknown as Runtime);
  while (taken.length < 2) await turn();
  expect(taken).toEqual(['sb-one', 'sb-two']);
  vi.advanceTimersByTime(limits.adoptTimeoutMs);
  await done;
  expect(lab.registry.all().map(({ id }) => id)).toEqual(['sb-one', 'sb-two']);
  await lab.close();
});
