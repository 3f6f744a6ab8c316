import { expect, test } from 'vitest';
import { expectAbsent, expectNoNulls, type Caller } from './caller.ts';

export function workspaceRoutes(caller: () => Caller): void {
  test('a workspace can be made, suspended, resumed, lost and removed', async () => {
    const at = '/v1/workspaces/home';
    const made = await caller().expectReply(201, 'POST /v1/workspaces', {
      name: 'home',
      snapshot_tag: 'base',
      labels: { a: 'b' },
    });
    expect(made).toMatchObject({
      id: expect.stringMatching(/^ws-[0-9a-f]{10}$/),
      name: 'home',
      source_snapshot_tag: 'base',
      status: 'running',
      live_sandbox_id: expect.stringMatching(/^sb-/),
      created_at_unix: expect.any(Number),
      last_active_unix: expect.any(Number),
    });
    expectNoNulls(made);
    expectAbsent(made, 'current_state_tag');
    expect(await caller().expectReply(200, `GET ${at}`)).toEqual(made);
    expect(await caller().expectReply(200, 'GET /v1/workspaces')).toEqual([made]);
    expect(await caller().expectReply(200, `GET /v1/sandboxes/${made.live_sandbox_id}`)).toMatchObject({
      workspace: 'home',
    });
    const again = { name: 'home', snapshot_tag: 'base' };
    await caller().expectRefusal(409, 'workspace_exists', ["'home'"], 'POST /v1/workspaces', again);

    const suspended = await caller().expectReply(200, `POST ${at}/suspend`, { diff: true });
    expect(suspended).toMatchObject({ status: 'suspended', current_state_tag: expect.any(String) });
    expectAbsent(suspended, 'live_sandbox_id');
    await caller().expectRefusal(409, 'workspace_not_running', ["'home'"], `POST ${at}/suspend`);
    await caller().expectRefusal(
      409,
      'has_dependents',
      [suspended.current_state_tag],
      `DELETE /v1/snapshots/${suspended.current_state_tag}`,
    );

    const resuming = [
      caller().ask(`POST ${at}/resume`),
      caller().ask(`POST ${at}/resume`),
      caller().ask(`DELETE ${at}`),
    ];
    // Which of them comes first is not ours to say.
    const answers = await Promise.all(resuming);
    const { body: resumed } = answers.find(({ status }) => status === 200) ?? expect.fail('nobody resumed it');
    const late = answers.filter(({ status }) => status !== 200);
    expect(late.map((answer) => [answer.status, answer.body?.code])).toEqual([
      [409, 'workspace_busy'],
      [409, 'workspace_busy'],
    ]);
    expect(resumed).toMatchObject({ status: 'running', current_state_tag: suspended.current_state_tag });
    expect(await caller().expectReply(200, `POST ${at}/resume`)).toEqual(resumed);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${resumed.live_sandbox_id}`);
    const stale = await caller().expectReply(200, `GET ${at}`);
    expect(stale.status).toBe('stale');
    expectAbsent(stale, 'live_sandbox_id');
    await caller().expectReply(204, `DELETE ${at}`);
    expect(await caller().expectReply(200, 'GET /v1/workspaces')).toEqual([]);
  });

  test('a workspace and a sandbox cannot have one name', async () => {
    const named = { snapshot_tag: 'base', name: 'taken' };
    const [sandbox] = (await caller().expectReply(201, 'POST /v1/sandboxes', named)) as { id: string }[];
    const at = `/v1/sandboxes/${sandbox?.id}`;
    const home = { name: 'taken', snapshot_tag: 'base' };
    await caller().expectRefusal(409, 'name_taken', ["'taken'"], 'POST /v1/workspaces', home);
    await caller().expectReply(201, 'POST /v1/workspaces', { ...home, name: 'home' });
    await caller().expectRefusal(409, 'name_taken', ["'home'"], 'POST /v1/sandboxes', { ...named, name: 'home' });
    await caller().expectRefusal(409, 'name_taken', ["'home'"], `PATCH ${at}`, { name: 'home' });
    await caller().expectReply(204, 'DELETE /v1/workspaces/home');
    await caller().expectReply(204, `DELETE ${at}`);
  });

  test.each<[object, number, string, string]>([
    [{ name: 'a b', snapshot_tag: 'base' }, 400, 'bad_request', 'name'],
    [{ name: 'home' }, 400, 'bad_request', 'snapshot_tag'],
    [{ name: 'home', snapshot_tag: 'a b' }, 400, 'bad_tag', 'a b'],
    [{ name: 'home', snapshot_tag: 'none' }, 404, 'not_found_snapshot', "'none'"],
  ])('a workspace of %j is refused, and nothing stays of it', async (request, status, code, word) => {
    await caller().expectRefusal(status, code, [word], 'POST /v1/workspaces', request);
    expect(await caller().expectReply(200, 'GET /v1/workspaces')).toEqual([]);
  });
}
