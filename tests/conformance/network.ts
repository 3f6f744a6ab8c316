import { until } from '@forkd/testing';
import { expect, test } from 'vitest';
import type { Caller } from './caller.ts';

const LISTEN_TIMEOUT_MS = 30_000;

/** What a sandbox may reach, its ports, and the log of its connections. */
export function networkRoutes(caller: () => Caller): void {
  test('presets and the log of connections can be read without any network', async () => {
    const presets = await caller().expectReply(200, 'GET /v1/network/presets');
    expect(presets).toContainEqual({ name: 'python-packages', rules: expect.arrayContaining(['pypi.org:443']) });
    const flows = await caller().ask('GET /v1/network/flows?sandbox=sb-none');
    expect([flows.status, flows.headers.get('content-type'), flows.text]).toEqual([200, 'application/x-ndjson', '']);
  });

  test('a guest without a network device says so, and has ports all the same', async () => {
    const id = await caller().fork();
    const at = `/v1/sandboxes/${id}`;
    await caller().expectRefusal(400, 'unsupported', [id, 'network'], `PUT ${at}/network`, { access: 'none' });
    await caller().expectRefusal(502, 'port_unreachable', [id, '80'], `POST ${at}/ports/80`);
    await caller().expectRefusal(502, 'port_unreachable', [id, '80'], `PUT ${at}/ports/80/any/path?of=it`);
    await caller().expectRefusal(400, 'bad_request', ['port'], `POST ${at}/ports/none`);
    const { url } = await caller().expectReply(200, `POST ${at}/urls`, { port: 80 });
    expect(url).toContain(`80-${id}.localhost`);
    await caller().expectRefusal(400, 'bad_request', ['port'], `POST ${at}/urls`, { port: 0 });
    await caller().expectReply(204, `DELETE ${at}`);
  });

  test('a policy can be replaced, and a port be reached', async () => {
    const template = { tag: 'net', ...caller().target.template, network: { access: 'none' } };
    const why = caller().unable.get('network');
    if (why !== undefined) return caller().expectRefusal(400, 'unsupported', [why], 'POST /v1/snapshots', template);
    await caller().expectReply(201, 'POST /v1/snapshots', template);
    const id = await caller().fork('net');
    const at = `/v1/sandboxes/${id}`;
    const policy = { access: 'none', allow: ['pypi.org:443'] };
    expect(await caller().expectReply(200, `PUT ${at}/network`, policy)).toMatchObject({ id, network: policy });
    await caller().expectRefusal(400, 'bad_request', ['pypi.org:0'], `PUT ${at}/network`, { allow: ['pypi.org:0'] });
    await caller().expectRefusal(502, 'port_unreachable', [id, '9'], `POST ${at}/ports/9`);
    await caller().expectReply(201, `POST ${at}/commands`, { args: ['sh', '-c', 'echo here | nc -l -p 8000'] });
    await until('the guest has answered', LISTEN_TIMEOUT_MS, async () => {
      const reply = await caller().ask(`POST ${at}/ports/8000`);
      return reply.status === 200 && reply.text === 'here\n';
    });
    await caller().expectReply(204, `DELETE ${at}`);
    return caller().expectReply(204, 'DELETE /v1/snapshots/net');
  });
}
