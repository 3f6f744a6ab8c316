import { once } from 'node:events';
import { until } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { Caller } from './caller.ts';

const OUTPUT_TIMEOUT_MS = 60_000;

/** Operations inside a sandbox: commands, evaluations, files. */
export function guestRoutes(caller: () => Caller): void {
  let at: string;
  let id: string;

  beforeAll(async () => {
    id = await caller().fork();
    at = `/v1/sandboxes/${id}`;
  });

  afterAll(async () => {
    if (id !== undefined) await caller().ask(`DELETE ${at}`);
  });

  test('exec returns the output and any exit code', async () => {
    const exec = `POST ${at}/exec`;
    const script = 'echo out; echo err >&2; exit 7';
    const said = { stdout: 'out\n', stderr: 'err\n', exit_code: 7, truncated: false };
    expect(await caller().expectReply(200, exec, { args: ['sh', '-c', script] })).toEqual(said);
    const input = { args: ['cat'], stdin: Buffer.from('in').toString('base64'), timeout_secs: 20 };
    expect(await caller().expectReply(200, exec, input)).toMatchObject({ stdout: 'in', stderr: '', exit_code: 0 });
    const env = { args: ['sh', '-c', 'echo $A; pwd'], env: { A: 'b' }, cwd: '/tmp', user: null };
    expect((await caller().expectReply(200, exec, env)).stdout).toBe('b\n/tmp\n');
  });

  test('exec that times out returns the output so far in its error', async () => {
    const args = ['sh', '-c', 'echo so far; sleep 100'];
    const late = await caller().expectRefusal(504, 'command_timeout', [id], `POST ${at}/exec`, {
      args,
      timeout_secs: 3,
    });
    expect(late).toMatchObject({ stdout: 'so far\n', stderr: '' });
  });

  test.each<[object, string]>([
    [{ args: [] }, 'args'],
    [{}, 'args'],
    [{ args: 'true' }, 'args'],
    [{ args: ['true'], timeout_secs: 0 }, 'timeout_secs'],
    [{ args: ['true'], timeout_secs: 86_401 }, 'timeout_secs'],
    [{ args: ['true'], env: { A: 1 } }, 'env'],
  ])('exec of %j is refused', async (request, word) => {
    await caller().expectRefusal(400, 'bad_request', [word], `POST ${at}/exec`, request);
  });

  test('exec in a missing sandbox is refused', async () => {
    const args = ['true'];
    await caller().expectRefusal(404, 'not_found_sandbox', ['sb-none'], 'POST /v1/sandboxes/sb-none/exec', { args });
  });

  test('eval without an interpreter or in a missing sandbox is refused', async () => {
    await caller().expectRefusal(400, 'unsupported', [id], `POST ${at}/eval`, { code: '1' });
    await caller().expectRefusal(400, 'bad_request', ['code'], `POST ${at}/eval`, {});
    await caller().expectRefusal(404, 'not_found_sandbox', ['sb-none'], 'POST /v1/sandboxes/sb-none/eval', {
      code: '1',
    });
  });

  test('eval in the warmed interpreter returns the value or the traceback', { timeout: 600_000 }, async ({ skip }) => {
    const why = caller().target.withheld?.python;
    skip(why !== undefined, why);
    const request = { tag: 'python', warm: 'x = 40', ...caller().target.python };
    await caller().expectReply(201, 'POST /v1/snapshots', request);
    const child = await caller().fork('python');
    const route = `POST /v1/sandboxes/${child}/eval`;
    const value = await caller().expectReply(200, route, { code: "str(x + 2) + '!'" });
    expect(value).toMatchObject({ result: "'42!'", error: null, exit_code: 0 });
    const loaded = { code: "'numpy' in __import__('sys').modules and 'numpy' not in globals()" };
    expect(await caller().expectReply(200, route, loaded)).toMatchObject({ result: 'True' });
    expect(await caller().expectReply(200, route, { code: 'y = 1' })).toMatchObject({ result: null, error: null });
    const raised = await caller().expectReply(200, route, { code: '1/0' });
    expect(raised).toMatchObject({ result: null, error: expect.stringContaining('ZeroDivisionError') });
    expect(raised.traceback).toContain('line 1');
    expect(raised.exit_code).not.toBe(0);
    const late = { code: 'while True: pass', timeout_secs: 2 };
    await caller().expectRefusal(504, 'command_timeout', [child], route, late);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${child}`);
    await caller().expectReply(204, 'DELETE /v1/snapshots/python');
  });

  test('a command can be started, fed, read, signalled and forgotten', async () => {
    const started = await caller().expectReply(201, `POST ${at}/commands`, { args: ['cat'], stdin: true });
    expect(started).toMatchObject({ args: ['cat'], running: true, exit_code: null, signal: null, timed_out: false });
    const one = `${at}/commands/${started.id}`;
    expect((await caller().ask(`GET ${one}/output`)).text).toBe('');
    await caller().expectReply(204, `POST ${one}/stdin`, undefined, { raw: 'fed' });
    await until('it has printed what it was fed', OUTPUT_TIMEOUT_MS, async () => {
      const { status, text } = await caller().ask(`GET ${one}/output?offset=0&follow=false`);
      return status === 200 && text.includes(Buffer.from('fed').toString('base64'));
    });
    expect((await caller().expectReply(200, `GET ${at}/commands`)).map((info: { id: string }) => info.id)).toContain(
      started.id,
    );
    await caller().expectReply(204, `POST ${one}/signal`, { signal: 'KILL' });
    const output = await caller().ask(`GET ${one}/output?follow=true`);
    expect(output.headers.get('content-type')).toBe('application/x-ndjson');
    const events = output.text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.at(-1)).toEqual({ type: 'exit', exit_code: 137, signal: 'KILL', timed_out: false });
    expect(await caller().expectReply(200, `GET ${one}`)).toMatchObject({
      running: false,
      exit_code: 137,
      signal: 'KILL',
    });
    const rest = await caller().ask(`GET ${one}/output?offset=0&follow=false`);
    expect(
      rest.text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).type),
    ).toEqual(['stdout', 'exit']);
    await caller().expectRefusal(409, 'command_ended', [id], `POST ${one}/signal`, { signal: 15 });
    await caller().expectRefusal(409, 'command_ended', [id], `POST ${one}/stdin`, undefined, { raw: 'x' });
    await caller().expectReply(204, `DELETE ${one}`);
    for (const route of [`GET ${one}`, `DELETE ${one}`, `GET ${one}/output`]) {
      await caller().expectRefusal(404, 'not_found_command', [id], route);
    }
  });

  test('a command can be followed from its start', async () => {
    const request = { args: ['echo', 'hi'], follow: true };
    const answer = await caller().ask(`POST ${at}/commands`, request);
    expect(answer.status).toBe(200);
    const events = answer.text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const said = Buffer.from('hi\n').toString('base64');
    expect(events).toMatchObject([
      { type: 'started' },
      { type: 'stdout', offset: 0, data: said },
      { type: 'exit', exit_code: 0 },
    ]);
    const signals = `POST ${at}/commands/none/signal`;
    await caller().expectRefusal(400, 'bad_request', ['signal'], signals, { signal: 65 });
    await caller().expectRefusal(404, 'not_found_command', [id], signals, { signal: 9 });
  });

  test('a command can have a terminal, which is a WebSocket', async () => {
    const size = { cols: 80, rows: 24 };
    const started = await caller().expectReply(201, `POST ${at}/commands`, { args: ['cat'], pty: size });
    expect(started).toMatchObject({ running: true, pty: size });
    const pty = `${at}/commands/${started.id}/pty`;
    const { ticket } = await caller().expectReply(201, `POST ${pty}/tickets`);
    const socket = new WebSocket(caller().target.url.replace('http', 'ws') + pty, [
      'forkd.pty.v1',
      `forkd.ticket.${ticket}`,
    ]);
    const messages: string[] = [];
    socket.on('message', (data: Buffer) => messages.push(data.toString()));
    socket.on('upgrade', ({ headers }) => {
      const head = { status: 101, headers: new Headers(headers as Record<string, string>) };
      caller().checker.check({ method: 'GET', path: pty }, head, '');
    });
    await once(socket, 'open');
    socket.send(Buffer.from('typed\r'));
    await until('the terminal shows it', OUTPUT_TIMEOUT_MS, async () =>
      messages.join('').includes('typed\r\ntyped\r\n'),
    );
    await caller().expectReply(204, `PUT ${pty}`, { cols: 100, rows: 30 });
    expect((await caller().expectReply(200, `GET ${pty.slice(0, -'/pty'.length)}`)).pty).toEqual({
      cols: 100,
      rows: 30,
    });
    socket.send(Buffer.from('\u0004'));
    expect((await once(socket, 'close'))[0]).toBe(1000);
    expect(JSON.parse(messages[0] ?? '')).toMatchObject({ type: 'attached', id: started.id, ...size });
    expect(JSON.parse(messages.at(-1) ?? '')).toEqual({ type: 'exit', exit_code: 0, signal: null, timed_out: false });
    await caller().expectRefusal(409, 'command_ended', [id], `PUT ${pty}`, size);
    await caller().expectRefusal(400, 'bad_request', ['cols'], `PUT ${pty}`, { cols: 0, rows: 24 });
    const { id: plain } = await caller().expectReply(201, `POST ${at}/commands`, { args: ['true'] });
    await caller().expectRefusal(400, 'not_a_terminal', [id], `GET ${at}/commands/${plain}/pty`);
    await caller().expectRefusal(400, 'not_a_terminal', [id], `PUT ${at}/commands/${plain}/pty`, size);
  });

  test('files can be written, read, listed and removed', async () => {
    const file = `${at}/files?path=/tmp/a/b`;
    await caller().expectReply(204, `PUT ${file}&mode=0600`, undefined, { raw: new Uint8Array([0, 255, 10]) });
    const read = await caller().ask(`GET ${file}`);
    expect([read.status, read.headers.get('content-type'), read.headers.get('content-length')]).toEqual([
      200,
      'application/octet-stream',
      '3',
    ]);
    const [entry] = await caller().expectReply(200, `GET ${at}/dir?path=/tmp/a`);
    expect(entry).toMatchObject({ name: 'b', type: 'file', size: 3, mode: '0600' });
    await caller().expectReply(204, `PUT ${at}/dir?path=/tmp/a/c/d&mode=0700`);
    const made = await caller().expectReply(200, `GET ${at}/stat?path=/tmp/a/c/d`);
    expect(made).toMatchObject({ type: 'dir', mode: '0700', target: null });
    await caller().expectReply(204, `POST ${at}/rename`, { from: '/tmp/a/c', to: '/tmp/a/e' });
    await caller().expectRefusal(404, 'not_found_file', [id], `GET ${at}/stat?path=/tmp/a/c&follow=true`);
    await caller().expectRefusal(400, 'not_a_directory', [id], `PUT ${at}/dir?path=/tmp/a/b`);
    await caller().expectRefusal(400, 'is_a_directory', [id], `GET ${at}/files?path=/tmp/a`);
    await caller().expectRefusal(400, 'not_a_directory', [id], `GET ${at}/dir?path=/tmp/a/b`);
    await caller().expectRefusal(400, 'bad_request', ['path'], `GET ${at}/files`);
    await caller().expectRefusal(400, 'bad_request', ['mode'], `PUT ${file}&mode=999`, undefined, { raw: 'x' });
    await caller().expectRefusal(409, 'directory_not_empty', [id], `DELETE ${at}/files?path=/tmp/a`);
    await caller().expectReply(204, `DELETE ${at}/files?path=/tmp/a&recursive=true`);
    for (const route of [`GET ${file}`, `DELETE ${file}`, `GET ${at}/dir?path=/tmp/a`]) {
      await caller().expectRefusal(404, 'not_found_file', [id], route);
    }
  });

  test('a watch tells what happens to files until what is watched is gone', async () => {
    const { url, token } = caller().target;
    const path = `${at}/files/watch`;
    await caller().expectReply(204, `PUT ${at}/dir?path=/tmp/watched/deep`);
    const headers = { authorization: `Bearer ${token}` };
    const reply = await fetch(`${url}${path}?path=/tmp/watched&recursive=true`, { headers });
    await caller().expectReply(204, `PUT ${at}/files?path=/tmp/watched/deep/a`, undefined, { raw: 'x' });
    await caller().expectReply(204, `POST ${at}/rename`, { from: '/tmp/watched/deep/a', to: '/tmp/watched/b' });
    await caller().expectReply(204, `DELETE ${at}/files?path=/tmp/watched&recursive=true`);
    const text = await reply.text();
    caller().checker.check({ method: 'GET', path }, reply, text);
    const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, json]) => JSON.parse(json ?? ''));
    expect(events.slice(0, 3)).toEqual([
      { type: 'ready' },
      { type: 'create', path: '/tmp/watched/deep/a' },
      { type: 'rename', path: '/tmp/watched/deep/a', to: '/tmp/watched/b' },
    ]);
    expect(events.at(-1)).toEqual({ type: 'remove', path: '/tmp/watched' });
    await caller().expectRefusal(404, 'not_found_file', [id, '/none'], `GET ${path}?path=/none`);
  });

  test('a file operation that the guest does not allow is refused', async ({ skip }) => {
    const why = caller().target.withheld?.permissions;
    skip(why !== undefined, why);
    const replies = [
      await caller().ask(`GET ${at}/files?path=/proc/sys/vm/compact_memory`),
      await caller().ask(`DELETE ${at}/files?path=/proc/version`),
      await caller().ask(`PUT ${at}/files?path=/sys/kernel/none`, undefined, { raw: 'x' }),
    ];
    expect(replies.map(({ body }) => body?.code)).toEqual(replies.map(() => 'permission_denied'));
  });
}
