import { expect, test } from 'vitest';
import type { Caller } from './caller.ts';

/** Authorization, the description of the controller, and refusals before a route is reached. */
export function hostRoutes(caller: () => Caller): void {
  test('healthz is exactly {"ok":true} for every caller', async () => {
    const answer = await caller().ask('GET /healthz', undefined, { token: null });
    expect([answer.status, answer.text]).toEqual([200, '{"ok":true}']);
  });

  test.each([
    'GET /version',
    'GET /metrics',
    'GET /v1/sandboxes',
    'POST /v1/sandboxes',
    'GET /openapi.json',
    'GET /nowhere',
  ])('%s wants a token', async (route) => {
    for (const token of [null, 'a-token-that-is-another']) {
      await caller().expectRefusal(401, 'unauthorized', [], route, undefined, { token });
    }
    const answer = await caller().ask(route, undefined, { token: null });
    expect(answer.headers.get('www-authenticate')).toBe('Bearer');
  });

  test('version and host describe the controller', async () => {
    expect(await caller().expectReply(200, 'GET /version')).toEqual({ version: expect.any(String), api: 'v1' });
    const host = await caller().expectReply(200, 'GET /v1/host');
    expect(host).toMatchObject({ pid: expect.any(Number), engine: { name: expect.any(String) } });
    await caller().expectRefusal(403, 'socket_only', [], 'POST /v1/shutdown');
  });

  test('metrics have the names that dashboards know', async () => {
    const { status, headers, text } = await caller().ask('GET /metrics');
    expect([status, headers.get('content-type')]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
    const names = ['forkd_snapshots_total', 'forkd_sandboxes_active', 'forkd_branches_in_flight'];
    for (const name of names) expect(text).toMatch(new RegExp(`^${name} \\d+$`, 'm'));
    expect(text).toMatch(new RegExp(`^forkd_branch_concurrency_cap ${caller().target.branchConcurrency}$`, 'm'));
    expect(text).toMatch(/^forkd_build_info\{[^}]*version="[^"]+"[^}]*\} 1$/m);
  });

  test('the API document is served as checked in, and as a page', async () => {
    expect((await caller().expectReply(200, 'GET /openapi.json')).openapi).toBe('3.1.0');
    expect((await caller().ask('GET /docs')).headers.get('content-security-policy')).toContain("default-src 'none'");
  });

  test('a request that reaches no route is refused in the same shape', async () => {
    await caller().expectRefusal(404, 'not_found', ['GET /v1/nowhere'], 'GET /v1/nowhere');
    await caller().expectRefusal(405, 'method_not_allowed', ['PUT'], 'PUT /v1/sandboxes');
    await caller().expectRefusal(400, 'bad_request', [], 'GET /v1/sandboxes/%zz');
    const json = { headers: { 'content-type': 'application/json' } };
    await caller().expectRefusal(400, 'bad_request', ['JSON'], 'POST /v1/sandboxes', undefined, {
      ...json,
      raw: '{torn',
    });
    const long = `"${'x'.repeat(9_000_000)}"`;
    await caller().expectRefusal(413, 'too_large', [], 'POST /v1/sandboxes', undefined, { ...json, raw: long });
    const text = { headers: { 'content-type': 'text/plain' }, raw: '{}' };
    await caller().expectRefusal(415, 'bad_media_type', [], 'POST /v1/sandboxes', undefined, text);
    await caller().expectRefusal(414, 'url_too_long', [], `GET /v1/sandboxes?name=${'x'.repeat(9000)}`);
  });

  test('a request id comes back, and an invalid one is replaced', async () => {
    const given = await caller().ask('GET /v1/sandboxes', undefined, { headers: { 'x-request-id': 'mine-1' } });
    expect(given.headers.get('x-request-id')).toBe('mine-1');
    const made = await caller().ask('GET /v1/sandboxes', undefined, { headers: { 'x-request-id': 'not an id' } });
    expect(made.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  test('events tell what happened, one JSON object per event', async () => {
    const { url, token } = caller().target;
    const gone = new AbortController();
    const reply = await fetch(`${url}/v1/events`, {
      headers: { authorization: `Bearer ${token}` },
      signal: gone.signal,
    });
    const id = await caller().fork();
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
    let text = '';
    try {
      for await (const chunk of reply.body ?? []) {
        text += Buffer.from(chunk).toString();
        if (text.includes('sandbox.ended')) break;
      }
    } finally {
      gone.abort();
    }
    const whole = text.slice(0, text.lastIndexOf('\n\n') + 2);
    caller().checker.check({ method: 'GET', path: '/v1/events' }, reply, whole);
    expect(whole).toMatch(/^id: \S+\nevent: sandbox\.created\ndata: \{.*\}\n\n/m);
    expect(whole).toContain(`"sandbox":"${id}"`);
  });
}
