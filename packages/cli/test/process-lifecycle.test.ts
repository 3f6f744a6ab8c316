// Proves of the command as users run it, against a server that answers as the schemas say, what a real host does not do on
// demand: forks that fail in part, streams that break, a terminal of a given width; and the command lines that cannot be.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { fake, forkd, here, ID } from './support/forkd.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));

describe('command lines that cannot be', () => {
  it.each([
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
    [['pause'], 'missing required argument'],
    [['update', ID], 'nothing to change'],
    [['update', ID, '--remove-label', 'a='], 'not the key'],
    [['run', 'py'], 'the command is missing'],
    [['run', '--tag', 'py'], 'missing required argument'],
    [['snapshot-diff', '--from', 'py', '--tag', 'x'], '--exec'],
    [['snapshot-diff', '--from', 'py', '--tag', 'x', '--exec', 'y', '--exec-timeout', '0'], '--exec-timeout'],
    [['snapshot-compact', 'py'], '--to'],
    [['snapshot-compact', '--to', 'x'], 'one snapshot'],
    [['prune'], 'what is too much'],
    [['prune', '--keep', '-1'], '--keep'],
    [['logs', ID, '--tail', '99999999999'], '--tail'],
    [['logs', ID, '--json'], 'as JSON'],
    [['completion', 'tcsh'], 'bash, zsh, fish'],
    [['workspace'], 'a verb is missing'],
    [['workspace', 'creat', 'x'], 'did you mean create?'],
    [['workspace', 'create', 'a b', '--snapshot', 'py'], 'is not a name'],
    [['frok', 'py'], 'did you mean fork?'],
  ])('exits with 2 for %j', async (args, reason) => {
    const { code, stderr, stdout } = await forkd(args);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(reason) });
    expect(stdout).toHaveLength(0);
  });

  it('says so as one object with --json, without help beside it', async () => {
    const { stderr } = await forkd(['workspace', '--json']);
    expect(JSON.parse(stderr)).toMatchObject({ code: 'usage' });
  });
});

describe('fork', () => {
  it('sends what it is told, and warns of what is not so', async () => {
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

  it('keeps what started with --partial, names what did not, and exits with 1', async () => {
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
  it('prints a console byte for byte', async () => {
    fake.overrides.set(`GET /v1/sandboxes/${ID}/logs`, (_, response, url) => {
      expect(url.searchParams.get('tail_bytes')).toBe('3');
      response.end(Buffer.from([0xff, 0, 10]));
    });
    expect([...(await forkd(['logs', ID, '--tail', '3'])).stdout]).toEqual([0xff, 0, 10]);
  });

  it('takes up events where the connection broke', async () => {
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

  it('watches what sandboxes use, an array a line, and passes over one that has ended', async () => {
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

describe('interrupts', () => {
  it('ends at once at the second one, whatever still hangs', async () => {
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
  it.each([
    [{ NO_COLOR: '1', FORCE_COLOR: '1' }, false],
    [{ NO_COLOR: '', FORCE_COLOR: '1' }, true],
    [{ NO_COLOR: '', FORCE_COLOR: '0' }, false],
    [{ NO_COLOR: '', FORCE_COLOR: '' }, false],
  ])('colours as %j says', async (env, isColoured) => {
    const { stdout } = await forkd(['ls'], { env });
    expect(stdout.includes('\u001b[1m')).toBe(isColoured);
  });

  it('is given tables no wider than it is', async () => {
    fake.addSandbox('sb-00000000b0', `branch-${'x'.repeat(57)}`).labels = { team: 'y'.repeat(100) };
    const line = `stty cols 100; exec "${process.execPath}" "${MAIN}" ls`;
    const env = { ...process.env, FORKD_URL: `unix:${fake.socket}`, SHELL: '/bin/sh' };
    const args = ['-qec', line, path.join(here, 'typescript')];
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
});
