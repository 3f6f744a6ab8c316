// Proves of the command as users run it: commands in a guest, their bytes, signals and exit codes, and coming back to them.
import { describe, expect, it } from 'vitest';
import { fake, forkd, ID } from './support/forkd.ts';

describe('exec', () => {
  it('passes bytes, streams and the exit code through', async () => {
    const result = await forkd(['exec', ID, '--', 'sh', '-c', 'printf "\\377\\000a"; echo bad >&2; exit 7']);
    expect(result.code).toBe(7);
    expect([...result.stdout]).toEqual([0xff, 0, 0x61]);
    expect(result.stderr).toBe('bad\n');
    expect(fake.sessions.size).toBe(0);
  });

  it('needs no dashes, and leaves the options of the command alone', async () => {
    const result = await forkd(['exec', 'sb-00000000aa', 'echo', '-n', '--json', '-q']);
    expect(result.stdout.toString()).toBe('--json -q');
  });

  it('forwards stdin to its end', async () => {
    const bytes = Buffer.alloc(300_000, 'stdin ');
    const result = await forkd(['exec', '-i', ID, '--', 'cat'], { stdin: bytes });
    expect(result.code).toBe(0);
    expect(result.stdout.equals(bytes)).toBe(true);
  });

  it('ends when the command does, although stdin is still open', async () => {
    expect((await forkd(['exec', '-i', ID, '--', 'true'])).code).toBe(0);
  });

  it('takes variables, a directory and a time', async () => {
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

  it('sends Ctrl-C to the command and takes its exit code', async () => {
    const script = 'trap "echo caught; exit 9" INT; echo ready; while :; do sleep 0.1; done';
    const result = await forkd(['exec', ID, '--', 'bash', '-c', script], {
      onStdout: (child, text) => void (text.includes('ready') && child.kill('SIGINT')),
    });
    expect(result.stdout.toString()).toBe('ready\ncaught\n');
    expect(result.code).toBe(9);
  });

  it('tells all at the end with --json', async () => {
    const result = await forkd(['exec', '--json', ID, '--', 'sh', '-c', 'echo out; echo err >&2; exit 3']);
    expect(JSON.parse(result.stdout.toString())).toEqual({ stdout: 'out\n', stderr: 'err\n', exit_code: 3 });
    expect(result.code).toBe(3);
  });

  it('leaves a command running with -d, for attach', async () => {
    const started = await forkd(['exec', '-d', ID, '--', 'sh', '-c', 'echo 0123456789; sleep 0.5; exit 4']);
    const commandId = started.stdout.toString().trim();
    expect(started.code).toBe(0);
    const attached = await forkd(['attach', ID, commandId, '--from-offset', '5'], { stdin: '' });
    expect(attached.stdout.toString()).toBe('56789\n');
    expect(attached.code).toBe(4);
    const list = await forkd(['attach', '--list', ID, '--json']);
    expect(JSON.parse(list.stdout.toString())).toMatchObject([{ id: commandId, running: false, exit_code: 4 }]);
  });

  it('feeds an attached command, but an empty stdin closes nothing', async () => {
    await forkd(['exec', '-d', ID, '--', 'true']);
    fake.sessions.clear();
    const client = await fetchCommand(['sh', '-c', 'read line; echo "got $line"']);
    const empty = forkd(['attach', ID], { stdin: '' });
    const fed = await forkd(['attach', ID, client], { stdin: 'hello\n' });
    expect(fed.stdout.toString()).toBe('got hello\n');
    expect((await empty).stdout.toString()).toBe('got hello\n');
  });

  it('lists the commands where it is not clear which is meant', async () => {
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
