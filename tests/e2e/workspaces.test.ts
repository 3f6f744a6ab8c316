/**
 * Proves on real guests: a workspace keeps what was in it through suspension, resumption, a killed controller, and again; it
 * has one state on disk at a time; what happens to its sandbox or its snapshot from outside is told.
 */

import { codeOf, shell } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect } from 'vitest';

test('a workspace has its files again after each suspension', async ({ client, controller }) => {
  const made = await client.createWorkspace({ name: 'w', snapshot_tag: 'base', labels: { team: 'a' } });
  expect(made).toMatchObject({ name: 'w', source_snapshot_tag: 'base', status: 'running', labels: { team: 'a' } });
  expect(made.id).toMatch(/^ws-[0-9a-f]{10}$/);
  expect(made.current_state_tag).toBeUndefined();
  expect(await codeOf(client.createWorkspace({ name: 'w', snapshot_tag: 'base' }))).toBe('workspace_exists');
  const live = async () => (await client.getWorkspace('w')).live_sandbox_id ?? '';
  expect(await client.getSandbox(await live())).toMatchObject({ workspace: 'w', labels: { team: 'a' } });

  for (const round of [1, 2, 3]) {
    await shell(client, await live(), `echo ${round} >> /notes`);
    const suspended = await client.suspendWorkspace('w');
    expect(suspended).toMatchObject({ status: 'suspended' });
    expect(suspended.live_sandbox_id).toBeUndefined();
    expect(await client.listSandboxes()).toEqual([]);
    const states = (await client.listSnapshots()).filter(({ tag }) => tag.startsWith(made.id));
    expect(states.map(({ tag }) => tag)).toEqual([suspended.current_state_tag]);
    expect(await codeOf(client.suspendWorkspace('w'))).toBe('workspace_not_running');
    expect(await codeOf(client.deleteSnapshot(suspended.current_state_tag ?? ''))).toBe('has_dependents');
    if (round === 2) {
      await controller.kill9();
      await controller.serve();
    }
    expect(await client.resumeWorkspace('w')).toMatchObject({ status: 'running' });
    expect(await client.getSandbox(await live())).toMatchObject({ labels: { team: 'a' } });
  }
  expect(await shell(client, await live(), 'cat /notes')).toBe('1\n2\n3');
  await client.deleteWorkspace('w');
  expect(await codeOf(client.getWorkspace('w'))).toBe('not_found_workspace');
  expect(await client.listSandboxes()).toEqual([]);
  expect((await client.listSnapshots()).map(({ tag }) => tag)).toEqual(['base']);
});

test('a running workspace outlives its controller', async ({ client, controller }) => {
  const { live_sandbox_id: before } = await client.createWorkspace({ name: 'w', snapshot_tag: 'base' });
  await controller.kill9();
  await controller.serve();
  expect(await client.getWorkspace('w')).toMatchObject({ status: 'running', live_sandbox_id: before });
  await client.deleteWorkspace('w');
});

test('a workspace whose sandbox is ended from outside resumes from its last state', async ({ client }) => {
  await client.createWorkspace({ name: 'w', snapshot_tag: 'base' });
  const live = async () => (await client.getWorkspace('w')).live_sandbox_id ?? '';
  await shell(client, await live(), 'echo kept > /notes');
  await client.suspendWorkspace('w');
  await client.resumeWorkspace('w');
  await shell(client, await live(), 'echo lost >> /notes');
  await client.deleteSandbox(await live());
  expect(await client.getWorkspace('w')).toMatchObject({ status: 'stale' });
  await client.resumeWorkspace('w');
  expect(await shell(client, await live(), 'cat /notes')).toBe('kept');
  await client.deleteWorkspace('w');
  expect(await codeOf(client.getWorkspace('w'))).toBe('not_found_workspace');
  expect(await client.listSandboxes()).toEqual([]);
  expect((await client.listSnapshots()).map(({ tag }) => tag)).toEqual(['base']);
});

test('a workspace whose sandbox cannot be started is not created', async ({ client }) => {
  expect(await codeOf(client.createWorkspace({ name: 'x', snapshot_tag: 'nothing' }))).toBe('not_found_snapshot');
  expect(await client.listWorkspaces()).toEqual([]);
  expect(await codeOf(client.suspendWorkspace('x'))).toBe('not_found_workspace');
});
