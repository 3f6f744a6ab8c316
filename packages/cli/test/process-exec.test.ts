// Proves of the command as users run it: commands in a guest, their bytes, signals and exit codes, and coming back to them.
import { describe, expect, test } from 'vitest';
import { fake, forkd, ID, serveForkd } from './support/forkd.ts';

serveForkd();

describe('exec', () => {
  test('passes bytes, streams and the exit code through', async () => {
    const result = await forkd(['exec', ID, '--', 'sh', '-c', 'printf "\\377\\000a"; echo bad >&2; exit 7']);
    expect(result.code).toBe(7);
    expect([...result.stdout]).toEqual([0xff, 0, 0x61]);
    expect(result.stderr).toBe('bad\n');
    expect(fake.sessions.size).toBe(0);
  });

  test('needs no dashes, and leaves the options of the command alone', async () => {
    const result = await forkd(['exec', 'sb-00000000aa', 'echo', '-n', '--json', '-q']);
    expect(result.stdout.toString()).toBe('--json -q');
  });

  test('forwards stdin to its end', async () => {
    const bytes = Buffer.alloc(300_000, 'stdin ');
    const result = await forkd(['exec', '-i', ID, '--', 'cat'], { stdin: bytes });
    expect(result.code).toBe(0);
    expect(result.stdout.equals(bytes)).toBe(true);
  });

  test('ends when the command does, although stdin is still open', async () => {
    expect((await forkd(['exec', '-i', ID, '--', 'true'])).code).toBe(0);
  });

  test('takes variables, a directory and a time', async () => {
    const args = [
      'exec',
      '-e',
      'A=1 2',
      '-w',
      '/tmp',
      '--timeout',
      '0.5',
      ID,
      '--',
      'sh',
      '-c',
      'echo "$A $PWD"; sleep 60',
    ];
    const result = await forkd(args);
    expect(result.code).toBe(124);
    expect(result.stdout.toString()).toBe('1 2 /tmp\n');
    expect(result.stderr).toContain('0.5 s');
  });

  test('sends Ctrl-C to the command and takes its exit code', async () => {
    const script = 'trap "echo caught; exit 9" INT; echo ready; while :; do sleep 0.1; done';
    const result = await forkd(['exec', ID, '--', 'bash', '-c', script], {
      onStdout: (child, text) => void (text.includes('ready') && child.kill('SIGINT')),
    });
    expect(result.stdout.toString()).toBe('ready\ncaught\n');
    expect(result.code).toBe(9);
  });

  test('ends the command when the reader of its output goes away', async () => {
    const result = await forkd(['exec', ID, '--', 'yes'], { onStdout: (child) => child.stdout?.destroy() });
    expect(result).toMatchObject({ code: 141, stderr: '' });
    expect(fake.sessions.size).toBe(0);
  });

  test('ends the command when the terminal hangs up', async () => {
    const script = 'trap "" HUP INT TERM; echo ready; sleep 600';
    const result = await forkd(['exec', ID, '--', 'sh', '-c', script], {
      onStdout: (child) => child.kill('SIGHUP'),
    });
    expect(result).toMatchObject({ code: 129, stderr: 'error: Ended by SIGHUP.\n' });
    expect(fake.sessions.size).toBe(0);
  });

  test('tells all at the end with --json', async () => {
    const result = await forkd(['exec', '--json', ID, '--', 'sh', '-c', 'echo out; echo err >&2; exit 3']);
    expect(JSON.parse(result.stdout.toString())).toEqual({
      stdout: 'out\n',
      stderr: 'err\n',
      exit_code: 3,
      truncated: false,
    });
    expect(result.code).toBe(3);
  });

  test('says on stderr, and in JSON, that output was cut, and keeps the exit code', async () => {
    fake.overrides.set(`POST /v1/sandboxes/${ID}/commands`, (_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const events = [
        { type: 'started', id: 'c-1', pid: 1 },
        { type: 'gap', from: 0, to: 7 },
        { type: 'stdout', offset: 7, data: Buffer.from('end\n').toString('base64') },
        { type: 'exit', exit_code: 5, signal: null, timed_out: false },
      ];
      response.end(events.map((event) => `${JSON.stringify(event)}\n`).join(''));
    });
    const plain = await forkd(['exec', ID, '--', 'x']);
    expect(plain).toMatchObject({ code: 5, stderr: expect.stringContaining('7 bytes of output are lost') });
    const told = await forkd(['exec', '--json', ID, '--', 'x']);
    expect(JSON.parse(told.stdout.toString())).toMatchObject({ stdout: 'end\n', truncated: true, lost_bytes: 7 });
  });

  test('says that an evaluation is cut, and what of it', async () => {
    fake.overrides.set(`POST /v1/sandboxes/${ID}/eval`, (_, response) => {
      const cut = { truncated: true, stdout_dropped_bytes: 2_000_000 };
      response.end(JSON.stringify({ result: null, error: null, exit_code: 0, stdout: 'x', stderr: '', ...cut }));
    });
    const result = await forkd(['eval', ID, 'x']);
    expect(result).toMatchObject({ code: 0, stderr: expect.stringContaining('2000000 bytes of stdout are left out') });
  });

  test('shows an error whose words have terminal escapes, and does not obey them', async () => {
    fake.overrides.set(`POST /v1/sandboxes/${ID}/eval`, (_, response) => {
      response.writeHead(502).end(JSON.stringify({ error: 'a\u001b]0;title\u0007\u009b2J', code: 'guest_failed' }));
    });
    const result = await forkd(['eval', ID, 'x']);
    expect(result.stderr).toContain(String.raw`error: a\x1b]0;title\x07\x9b2J`);
  });

  test('leaves a command running with -d, for attach', async () => {
    const started = await forkd(['exec', '-d', ID, '--', 'sh', '-c', 'echo 0123456789; sleep 0.5; exit 4']);
    const commandId = started.stdout.toString().trim();
    expect(started.code).toBe(0);
    const attached = await forkd(['attach', ID, commandId, '--from-offset', '5'], { stdin: '' });
    expect(attached.stdout.toString()).toBe('56789\n');
    expect(attached.code).toBe(4);
    const list = await forkd(['attach', '--list', ID, '--json']);
    expect(JSON.parse(list.stdout.toString())).toMatchObject([{ id: commandId, running: false, exit_code: 4 }]);
  });

  test('feeds an attached command, but an empty stdin closes nothing', async () => {
    await forkd(['exec', '-d', ID, '--', 'true']);
    fake.sessions.clear();
    const client = await fetchCommand(['sh', '-c', 'read line; echo "got $line"']);
    const empty = forkd(['attach', ID], { stdin: '' });
    const fed = await forkd(['attach', ID, client], { stdin: 'hello\n' });
    expect(fed.stdout.toString()).toBe('got hello\n');
    expect((await empty).stdout.toString()).toBe('got hello\n');
  });

  test('lists the commands where it is not clear which is meant', async () => {
    await forkd(['exec', '-d', ID, '--', 'sleep', '60']);
    await forkd(['exec', '-d', ID, '--', 'sleep', '61']);
    const result = await forkd(['attach', ID]);
    expect(result.code).toBe(1);
    expect(result.stdout.toString()).toContain('sleep 61');
    expect(result.stderr).toContain('2 commands');
  });
});

async function fetchCommand(args: string[]): Promise<string> {
  const { ForkdClient } = await import('@forkd/sdk');
  const client = new ForkdClient({ socket: fake.socket });
  return (await client.startCommand(ID, { args, stdin: true })).id;
}
