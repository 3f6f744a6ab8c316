// Proves that a server starts no more sandboxes than it may, even for calls that come at once.
import type { CreateSandboxesRequest, SandboxInfo } from '@forkd/api';
import type { ForkdClient } from '@forkd/sdk';
import { expect, test } from 'vitest';
import { Budget } from '../src/budget.ts';

/** A controller that has nothing but a list of sandboxes. */
function emptyController() {
  const requests: CreateSandboxesRequest[] = [];
  const client = {
    listSandboxes: async () => requests.flatMap(({ n = 1 }) => Array.from({ length: n }, () => ({}) as SandboxInfo)),
    createSandboxes: async (request: CreateSandboxesRequest) => {
      requests.push(request);
      return [];
    },
  };
  return { requests, client: client as unknown as ForkdClient };
}

const { signal } = new AbortController();
const request = async () => ({ snapshot_tag: 'py' });

test('calls that come at once are counted one after the other', async () => {
  const { requests, client } = emptyController();
  const budget = new Budget(client, { sandboxesMax: 5, ttlSecs: 60 });
  const calls = Array.from({ length: 4 }, () => budget.start(2, signal, request));
  const outcomes = await Promise.allSettled(calls);
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected']);
  expect(outcomes[2]).toMatchObject({
    reason: { code: 'too_many_sandboxes', hint: expect.stringContaining('kill_sandbox') },
  });
  expect(requests).toHaveLength(2);
  expect(await budget.start(1, signal, request)).toEqual([]);
});

test('each sandbox has a time to live, and the label of its server', async () => {
  const { requests, client } = emptyController();
  await new Budget(client, { sandboxesMax: 5, ttlSecs: 60 }).start(1, signal, request);
  expect(requests).toEqual([
    { snapshot_tag: 'py', n: 1, ttl_secs: 60, labels: { 'mcp-server': expect.stringMatching(/^[0-9a-f-]{36}$/) } },
  ]);
});
