// Proves of the command as users run it, against a server that answers as the schemas say, what a real host does not do on
// demand: forks that fail in part, streams that break, a terminal of a given width; and the command lines that cannot be.
import { spawn, type ChildProcess } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { freePort } from '@forkd/testing';
import { describe, expect, test } from 'vitest';
import { LEASE_SECS } from '../src/lib/throwaway.ts';
import { fake, forkd, here, ID, serveForkd } from './support/forkd.ts';

serveForkd();

const MAIN = fileURLToPath(new URL('../bundle/forkd.js', import.meta.url));

describe('command lines that cannot be', () => {
  test.each([
    [['fork', 'py', '--tag', 'py'], 'one snapshot'],
    [['fork', 'py', '-n', '2', '--name', 'web'], '-n is 2'],
    [['fork', 'py', '--name', 'a b'], 'is not a name'],
    [['fork', 'py', '--label', 'novalue'], 'KEY=VALUE'],
    [['fork', 'py', '--label', 'a=1', '--label', 'a=2'], 'given twice'],
    [['fork', 'py', '--label', '-a=1'], 'not the key'],
    [['fork', 'py', '--ttl', '1.5'], '--ttl'],
    [['fork', 'py', '--ttl', '2 hours'], '15m, 2h'],
    [['fork', 'py', '--ttl', '32d'], '--ttl'],
    [['fork', 'py', '--on-expire', 'pause'], 'goes with --ttl'],
    [['fork', 'py', '--ttl', '1h', '--on-expire', 'explode'], 'kill, pause'],
    [['fork', 'py', '--memory-limit-mib', '63'], '--memory-limit-mib'],
    [['ls', '--state', 'dead'], 'running, paused'],
    [['kill', '--label', 'a=1', ID], '--label goes with --all'],
    [['pause'], 'Missing required argument'],
    [['update', ID], 'nothing to change'],
    [['update', ID, '--remove-label', 'a='], 'not the key'],
    [['run'], 'The snapshot is missing'],
    [['from-image', 'busybox', '--tag', 'b', '--mem-mib', '95'], 'from 96'],
    [['snapshot', '--from-sandbox', ID, '--no-wait', '--diff'], '--no-wait needs a live branch'],
    [['snapshot-diff', '--from', 'py', '--tag', 'x'], '--exec'],
    [['snapshot-diff', '--from', 'py', '--tag', 'x', '--exec', 'y', '--exec-timeout', '0'], '--exec-timeout'],
    [['snapshot-compact', 'py'], '--to'],
    [['snapshot-compact', '--to', 'x'], 'one snapshot'],
    [['prune'], 'what is too much'],
    [['prune', '--keep', '-1'], '--keep'],
    [['logs', ID, '--tail', '99999999999'], '--tail'],
    [['logs', ID, '--json'], 'as JSON'],
    [['completion', 'tcsh'], 'bash, zsh, fish'],
    [['workspace'], 'A command is missing'],
    [['workspace', 'creat', 'x'], 'Did you mean create?'],
    [['workspace', 'create', 'a b', '--snapshot', 'py'], 'is not a name'],
    [['frok', 'py'], 'Did you mean fork?'],
    [['exec', '--target', '10.42.0.2:8888', ID, '--', 'true'], 'ids'],
    [['ping', ID, '--child', 'forkd-child-1'], 'by its id'],
    [['run', '--image', 'python:3.12-slim', '--', 'true'], 'forkd from-image IMAGE'],
    [['from-image', 'python', '--tag', 'x', '--extra', 'python3-numpy'], '--package NAME'],
    [['from-image', 'python', '--tag', 'x', '--copy', './app'], 'is not SRC:DST'],
    [['snapshot', '--tag', 'x', '--rootfs', 'r', '--volume', 'a:/b'], 'no volumes'],
    [['fork', 'py', '--settle-secs', '1', '--ttl', '1h'], 'cannot be used with'],
    [['fork', 'py', '--settle-secs', '1', '--agent-address', '10.0.0.1:1'], 'not an address of this host'],
    [['fork', 'py', '--agent-address', '127.0.0.1:8888'], 'goes with --settle-secs'],
    [['kill', '--tag', 'py', '--all'], 'cannot be used with'],
    [['kill', '--tag', 'py', ID], '--all or --tag'],
  ])('exits with 2 for %j', async (args, reason) => {
    const { code, stderr, stdout } = await forkd(args);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(reason) });
    expect(stdout).toHaveLength(0);
  });

  test('says so as one object with --json, without help beside it', async () => {
    const { stderr } = await forkd(['workspace', '--json']);
    expect(JSON.parse(stderr)).toMatchObject({ code: 'usage' });
  });
});

describe('fork', () => {
  test('sends what it is told, and warns of what is not so', async () => {
    fake.overrides.set('POST /v1/sandboxes', async (request, response) => {
      let body = '';
      for await (const chunk of request) body += String(chunk);
      expect(JSON.parse(body)).toEqual({
        snapshot_tag: 'python',
        n: 1,
        name: 'web',
        labels: { a: '1', b: 'x=y' },
        ttl_secs: 5400,
        on_expire: 'pause',
      });
      response.writeHead(201).end(JSON.stringify([{ id: 'sb-1', warnings: ['no network namespace here'] }]));
    });
    const args = ['fork', 'py', '--name', 'web', '--label', 'a=1', '--label', 'b=x=y', '--ttl', '90m'];
    const result = await forkd([...args, '--on-expire', 'pause', '-q']);
    expect(result).toMatchObject({ code: 0, stderr: 'warning: no network namespace here\n' });
    expect(result.stdout.toString()).toBe('sb-1\n');
  });

  test('takes the options of earlier commands', async () => {
    const args = ['fork', '--tag', 'python', '--n', '2', '--live-fork', '--prewarm', '--hugepages', '--keep-workdir'];
    expect((await forkd(args)).stdout.toString().trim().split('\n')).toHaveLength(2);
    const sent = { snapshot_tag: 'python', n: 2, live_fork: true, prewarm: true, hugepages: true };
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual(sent);
  });

  test('kills its sandboxes when --settle-secs are over, or when it is ended', async () => {
    const before = [...fake.sandboxes.keys()];
    const settled = await forkd(['fork', 'python', '-n', '2', '--settle-secs', '0']);
    expect(settled).toMatchObject({ code: 0 });
    expect(settled.stdout.toString().trim().split('\n')).toHaveLength(2);
    expect([...fake.sandboxes.keys()]).toEqual(before);
    const ended = await forkd(['fork', 'python', '--settle-secs', '3600'], {
      onStdout: (child, text) => {
        expect(fake.sandboxes.has(text.trim())).toBe(true);
        child.kill('SIGTERM');
      },
    });
    expect(ended.code).toBe(143);
    expect([...fake.sandboxes.keys()]).toEqual(before);
    const created = fake.seen.findLast(({ method, url }) => method === 'POST' && url === '/v1/sandboxes');
    expect(JSON.parse(created?.body ?? '')).toMatchObject({ ttl_secs: 3660 });
  });

  test('answers in the one-line protocol of earlier agents while it stays', async () => {
    const port = await freePort();
    const args = ['fork', 'python', '--settle-secs', '3600'];
    let asked: Promise<void> | undefined;
    const result = await forkd(args, {
      env: { FORKD_TARGET: `127.0.0.1:${port}` },
      onStdout: (child) => {
        asked = askAll(port).finally(() => child.kill('SIGTERM'));
      },
    });
    await asked;
    expect(result).toMatchObject({ code: 143 });
    await expect(askAgent(port, '{}')).rejects.toThrow('ECONNREFUSED');
  });

  test('says that an agent at the address of another host is not served', async () => {
    const env = { FORKD_TARGET: '10.42.0.2:8888' };
    const result = await forkd(['fork', 'python', '--settle-secs', '0'], { env });
    expect(result).toMatchObject({ code: 0, stderr: expect.stringContaining('10.42.0.2:8888, where nothing answers') });
  });

  test('keeps what started with --partial, names what did not, and exits with 1', async () => {
    const results = [
      { index: 0, sandbox: { id: 'sb-1' } },
      { index: 1, error: 'no memory for it', code: 'out_of_memory' },
    ];
    fake.overrides.set('POST /v1/sandboxes', (_, response) => {
      response.writeHead(207).end(JSON.stringify({ results }));
    });
    const told = await forkd(['fork', 'python', '-n', '2', '--partial']);
    expect(told).toMatchObject({ code: 1, stderr: expect.stringContaining('child 1: no memory for it') });
    expect(told.stdout.toString()).toBe('sb-1\n');
    const json = await forkd(['fork', 'python', '-n', '2', '--partial', '--json']);
    expect(JSON.parse(json.stdout.toString())).toEqual({ results });
  });
});

describe('streams', () => {
  test('prints a console byte for byte', async () => {
    fake.overrides.set(`GET /v1/sandboxes/${ID}/logs`, (_, response, url) => {
      expect(url.searchParams.get('tail_bytes')).toBe('3');
      response.end(Buffer.from([0xff, 0, 10]));
    });
    expect([...(await forkd(['logs', ID, '--tail', '3'])).stdout]).toEqual([0xff, 0, 10]);
  });

  test('takes up events where the connection broke', async () => {
    const asked: unknown[] = [];
    fake.overrides.set('GET /v1/events', (request, response) => {
      asked.push(request.headers['last-event-id']);
      const id = `e-${asked.length}`;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const event = { id, type: 'sandbox.created', time_unix_ms: 0, sandbox: ID };
      response.write(`data: ${JSON.stringify(event)}\n\n`, () => asked.length < 3 && response.destroy());
    });
    const result = await forkd(['events', '--json'], {
      onStdout: (child, text) => void (text.includes('e-3') && child.kill('SIGINT')),
    });
    expect(result.code).toBe(130);
    const lines = result.stdout.toString().trim().split('\n');
    expect(lines.map((line) => (JSON.parse(line) as { id: string }).id)).toEqual(['e-1', 'e-2', 'e-3']);
    expect(asked).toEqual([undefined, 'e-1', 'e-2']);
  });

  test('watches what sandboxes use, an array a line, and passes over one that has ended', async () => {
    let secs = 0;
    fake.overrides.set(`GET /v1/sandboxes/${ID}/stats`, (_, response) => {
      secs += 1;
      response.end(JSON.stringify({ id: ID, state: 'running', uptime_secs: secs, cpu_secs: secs / 2 }));
    });
    fake.overrides.set('GET /v1/sandboxes/sb-00000000ab/stats', (_, response) => {
      response.writeHead(404).end(JSON.stringify({ error: 'gone', code: 'not_found_sandbox' }));
    });
    const result = await forkd(['stats', '--watch', '--json'], {
      onStdout: (child, text) => void (text.includes('"uptime_secs":2') && child.kill('SIGTERM')),
    });
    expect(result.code).toBe(143);
    const [first] = result.stdout.toString().split('\n');
    expect(JSON.parse(first ?? '')).toMatchObject([{ id: ID, uptime_secs: 1 }]);
  });
});

describe('stats', () => {
  test('says below the table what the memory of snapshots takes', async () => {
    const usage = { uptime_secs: 1, cpu_secs: 1, rss_bytes: 0, private_bytes: 0, shared_bytes: 0, exec_count: 0 };
    fake.overrides.set(`GET /v1/sandboxes/${ID}/stats`, (_, response) => {
      response.end(JSON.stringify({ id: ID, state: 'running', memory_limit_bytes: null, branch_count: 0, ...usage }));
    });
    const result = await forkd(['stats', ID]);
    const line = 'layers: 100 MiB mapped, 20.0 MiB of 512 MiB unmapped, 2 let go, 1 read again';
    expect(result.stdout.toString().trimEnd().split('\n').at(-1)).toBe(line);
  });
});

describe('a throw-away sandbox', () => {
  test.each([
    ['the reader of its output goes away', 141, (child: ChildProcess) => child.stdout?.destroy()],
    ['the terminal hangs up', 129, (child: ChildProcess) => child.kill('SIGHUP')],
  ])('is killed when %s', async (_, exitCode, end) => {
    const ids = [...fake.sandboxes.keys()];
    const result = await forkd(['run', 'python', 'yes'], { onStdout: end });
    expect(result.code).toBe(exitCode);
    expect([...fake.sandboxes.keys()]).toEqual(ids);
  });

  test.each([
    ['nohup', 'nohup "$@"'],
    ['a shell that ignores it', 'trap "" HUP; trap : TERM; "$@"; exit $?'],
  ])('outlives a hang-up under %s', async (_, script) => {
    const signals: NodeJS.Signals[] = ['SIGHUP', 'SIGTERM'];
    const result = await forkd(['run', 'python', 'yes'], {
      through: ['bash', '-c', script, 'bash'],
      // The second signal comes once there is output after the first.
      onStdout: ({ pid = 0 }) => {
        const signal = signals.shift();
        if (signal !== undefined) process.kill(-pid, signal);
      },
    });
    expect(result.code).toBe(143);
  });

  test('has a time to live, in case forkd itself is killed', async () => {
    await forkd(['run', 'python', 'true']);
    const created = fake.seen.find(({ method, url }) => method === 'POST' && url === '/v1/sandboxes');
    expect(JSON.parse(created?.body ?? '')).toEqual({ snapshot_tag: 'python', n: 1, ttl_secs: LEASE_SECS });
    const started = fake.seen.find(({ url }) => url.endsWith('/commands'));
    expect(JSON.parse(started?.body ?? '')).toMatchObject({ follow: true, on_disconnect: 'kill' });
  });
});

describe('forkd stop', () => {
  test.each([
    [[], '2 sandboxes kept', ''],
    [['--kill'], '2 sandboxes killed', 'warning: Workspace "dev" has lost what it did since it was last suspended.\n'],
  ])('with %j says what it touched', async (args, what, warning) => {
    fake.addSandbox(ID, 'python').workspace = 'dev';
    const gone = spawn('true');
    await new Promise((resolve) => gone.once('close', resolve));
    fake.overrides.set('POST /v1/shutdown', (_, response) => {
      response.end(JSON.stringify({ pid: gone.pid, sandboxes_ended: 0 }));
      fake.overrides.set('GET /healthz', (request) => void request.socket.destroy());
    });
    const { code, stderr } = await forkd(['stop', ...args]);
    const said = `The controller has ended. ${what}: ${ID}, sb-00000000ab.\n${warning}`;
    expect({ code, stderr }).toEqual({ code: 0, stderr: said });
  });
});

describe('interrupts', () => {
  test('ends at once at the second one, whatever still hangs', async () => {
    fake.overrides.set('POST /v1/sandboxes', () => {});
    const args = [MAIN, 'run', 'python', 'true'];
    const env = { ...process.env, FORKD_URL: `unix:${fake.socket}` };
    const child = spawn(process.execPath, args, { env, cwd: here, stdio: ['ignore', 'ignore', 'pipe'] });
    // It says that it waits for the fork, which the first interrupt does not break off.
    await new Promise((resolve) => child.stderr.once('data', resolve));
    child.kill('SIGINT');
    // The two are told apart by time: one press can arrive twice.
    const pressed = setTimeout(() => child.kill('SIGINT'), 400);
    const code = await new Promise((resolve) => child.once('close', resolve));
    clearTimeout(pressed);
    expect(code).toBe(130);
  });
});

describe('a terminal', () => {
  test.each([
    [{ NO_COLOR: '1', FORCE_COLOR: '1' }, false],
    [{ NO_COLOR: '', FORCE_COLOR: '1' }, true],
    [{ NO_COLOR: '', FORCE_COLOR: '0' }, false],
    [{ NO_COLOR: '', FORCE_COLOR: '' }, false],
  ])('colours as %j says', async (env, isColoured) => {
    const { stdout } = await forkd(['ls'], { env });
    expect(stdout.includes('\u001b[1m')).toBe(isColoured);
  });

  test('is given tables no wider than it is', async () => {
    fake.addSandbox('sb-00000000b0', `branch-${'x'.repeat(57)}`).labels = { team: 'y'.repeat(100) };
    const line = `stty cols 100; exec "${process.execPath}" "${MAIN}" ls`;
    const env = { ...process.env, FORKD_URL: `unix:${fake.socket}`, SHELL: '/bin/sh' };
    const args = ['-qec', line, join(here, 'typescript')];
    const child = spawn('script', args, { env, cwd: here, stdio: ['ignore', 'pipe', 'ignore'] });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    await new Promise((resolve) => child.once('close', resolve));
    const lines = stripVTControlCharacters(output).trim().split('\r\n');
    expect(lines).toHaveLength(4);
    for (const one of lines) expect(one.length).toBeLessThanOrEqual(100);
    expect(output).toContain('sb-00000000b0');
    expect(output).toContain('…');
  });

  test('says how many children of a fork have started, and how many snapshots are removed', async () => {
    const created = { type: 'sandbox.created', time_unix_ms: 1, snapshot: 'python' };
    fake.overrides.set('GET /v1/events', (_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (const id of ['e-1', 'e-2']) response.write(`id: ${id}\ndata: ${JSON.stringify({ ...created, id })}\n\n`);
      response.write(`id: e-3\ndata: ${JSON.stringify({ ...created, id: 'e-3', snapshot: 'another' })}\n\n`);
    });
    let answer = () => {};
    fake.overrides.set('POST /v1/sandboxes', (_, response) => {
      answer = () => response.end(JSON.stringify([fake.addSandbox('sb-00000000c0'), fake.addSandbox('sb-00000000c1')]));
    });
    expect(await onTerminal('fork python -n 3', '2 of 3 from python', () => answer())).not.toContain('3 of 3');
    fake.addSnapshot('second');
    fake.overrides.set('DELETE /v1/snapshots/second', (_, response) => {
      answer = () => response.writeHead(204).end();
    });
    await onTerminal('rmi python second', '1 of 2', () => answer());
  });
});

/** Runs `forkd` on a terminal of 80 columns, and calls `then` once it shows `text`. Returns all that it showed. */
async function onTerminal(args: string, text: string, then: () => void): Promise<string> {
  const env = { ...process.env, FORKD_URL: `unix:${fake.socket}`, NO_COLOR: '1' };
  const line = `stty cols 80; exec "${process.execPath}" "${MAIN}" ${args}`;
  const child = spawn('script', ['-qec', line, '/dev/null'], { env, cwd: here, stdio: ['ignore', 'pipe', 'ignore'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const closed = new Promise((resolve) => child.once('close', resolve));
  await expect.poll(() => output, { timeout: 30_000 }).toContain(text);
  then();
  await closed;
  return output;
}

/** Sends one request as earlier clients do: the line, then the end of what they send. Returns the reply. */
async function askAgent(port: number, line: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.end(line);
  return textOf(socket);
}

/** Sends every kind of request, and requests that are wrong. */
async function askAll(port: number): Promise<void> {
  await expect.poll(() => askAgent(port, '{"action":"ping"}\n').catch(() => '')).toContain('"pong":true');
  const ask = async (line: string) => JSON.parse(await askAgent(port, line)) as unknown;
  expect(await ask('{"action":"eval","code":"1"}')).toEqual({ result: "'1'", exit_code: 0 });
  expect(await ask('{"action":"eval","code":"raise"}\n')).toMatchObject({ error: 'Traceback: x', exit_code: 1 });
  const ran = await ask('{"action":"exec","args":["true"],"timeout":5}\n');
  expect(ran).toMatchObject({ stdout: '', stderr: '', exit_code: 0 });
  for (const line of ['{"action":"stream"}', 'torn', 'null', '']) {
    expect(await ask(line)).toMatchObject({ error: expect.any(String), exit_code: 1 });
  }
  // A caller that has not sent its request does not keep the command from ending.
  connect(port, '127.0.0.1').on('error', () => {});
}
