// Proves of the command as users run it: help, usage errors, and what it says of the host.
import { describe, expect, test } from 'vitest';
import { helpText, loadCommandGroups } from '../src/index.ts';
import { fake, forkd, ID, serveForkd } from './support/forkd.ts';

serveForkd();

const commands = (await loadCommandGroups()).flatMap((group) => group.commands);

describe('help and usage', () => {
  test('has an example and a summary for every verb, and no verb that is not there', async () => {
    const { stdout, code } = await forkd(['--help']);
    expect(code).toBe(0);
    const listed = [...stdout.toString().matchAll(/^  ([a-z][a-z-]*)[| ]/gm)].map((match) => match[1]);
    const shown = commands.filter((command) => command.hidden !== true);
    expect(listed.filter((verb) => verb !== 'help')).toEqual(shown.map((command) => command.name));
    for (const command of shown) {
      expect(command.examples.length).toBeGreaterThan(0);
      for (const example of command.examples) expect(example.line).toContain('forkd ');
      expect(await helpText(command.name, process)).toContain(command.summary);
    }
  });

  test('shows the examples of a verb', async () => {
    const { stdout, code } = await forkd(['fork', '--help']);
    expect(code).toBe(0);
    expect(stdout.toString()).toContain('forkd fork py -n 10');
    expect(stdout.toString()).not.toContain('--live-fork');
  });

  test.each([
    [['bogus']],
    [[]],
    [['fork']],
    [['fork', '--tag', 'x', '-n', '1001']],
    [['fork', '--tag', 'x', '--nonsense']],
    [['exec']],
    [['kill']],
    [['kill', '--all', ID]],
    [['rmi', '--cascade', '--force', 'python']],
    [['snapshot', '--tag', 'x']],
    [['snapshot', '--from-sandbox', ID, '--live', '--diff']],
    [['from-image', 'python', '--tag', 'no tag']],
    [['cp', 'a', 'b']],
    [['attach', ID, '--from-offset', '-1']],
  ])('exits with 2 for %j', async (args) => {
    const { code, stderr } = await forkd(args);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('error: ') });
  });

  test.each([
    ['rm web', 'forkd kill'],
    ['pull python', 'forkd from-image'],
    ['stop web', 'forkd stop` ends the controller'],
    ['run --rm python sh', 'always removes'],
    ['frok python', 'Did you mean fork?'],
    // A suggestion must not lead to a command that removes something.
    ['kil web', 'forkd COMMAND --help'],
    ['workspace delet dev', 'forkd COMMAND --help'],
  ])('explains what to use for `forkd %s`', async (line, hint) => {
    const { code, stderr } = await forkd(line.split(' '));
    expect({ code, hint: stderr.split('\n')[1] }).toEqual({ code: 2, hint: expect.stringContaining(hint) });
  });

  test('run -it starts no sandbox where the input is not a terminal', async () => {
    const { code, stderr } = await forkd(['run', '-it', 'python', 'sh']);
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('The input is not a terminal.') });
    expect(fake.seen.filter(({ method }) => method === 'POST')).toEqual([]);
  });

  test('prints an error as one object with --json', async () => {
    const { code, stderr, stdout } = await forkd(['ping', 'sb-nope', '--json']);
    expect(code).toBe(1);
    expect(stdout).toHaveLength(0);
    expect(JSON.parse(stderr)).toMatchObject({ code: 'not_found_sandbox', error: expect.stringContaining('sb-nope') });
  });
});

describe('host', () => {
  test('prints the rows of the doctor', async () => {
    const result = await forkd(['doctor', '--json']);
    const { rows } = JSON.parse(result.stdout.toString()) as { rows: { id: string; status: string }[] };
    expect(rows.find((row) => row.id === 'daemon')?.status).toBe('pass');
    expect(rows.find((row) => row.id === 'isolation')).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('own_user'),
      hint: expect.stringContaining('CAP_SETUID'),
    });
    expect(rows.find((row) => row.id === 'capabilities')).toMatchObject({
      status: 'warn',
      detail: 'live; but no pool',
      hint: 'pool: The pool may hold no VMMs, as it was configured.',
    });
    expect(result.code).toBe(rows.some((row) => row.status === 'fail') ? 1 : 0);
  });

  test('prints both versions', async () => {
    expect((await forkd(['version'])).stdout.toString()).toMatch(/^forkd \S+\ncontroller 9\.9\.9\n$/);
  });

  test('says where nobody answers', async () => {
    const result = await forkd(['ls', '--daemon-url', 'http://127.0.0.1:9999']);
    expect(result).toMatchObject({ code: 1, stderr: expect.stringContaining('http://127.0.0.1:9999') });
  });
});
