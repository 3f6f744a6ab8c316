// Proves of `forkd bench` and `forkd wp-bench` what needs no guest: that a command line that cannot be is refused before anything
// is started, that what is missing is named, and that a program of ours gets its arguments and gives its output and exit code.
// The guests themselves are in tests/e2e/bench.test.ts.
import { chmod, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { choice, integer, list } from '../src/parse/parse.ts';
import { forkd, here, serveForkd } from './support/forkd.ts';

serveForkd();

describe('bench', () => {
  test.each([
    [['bench'], 'A command is missing'],
    [['bench', 'nonsense'], "Unknown command 'nonsense'"],
    [['bench', 'branch', 'extra'], 'Too many arguments'],
    [['bench', 'branch', '--modes', 'live'], '"live" is not one of live-sync, live-async, diff, full'],
    [['bench', 'branch', '--modes', 'diff,diff'], 'names something twice'],
    [['bench', 'branch', '--modes', ''], '"" is not one of'],
    [['bench', 'branch', '--iterations', '0'], '--iterations'],
    [['bench', 'branch', '--mem', '64'], '--mem'],
    [['bench', 'branch', '--mem', '256', '--private', '256'], '256 MiB do not fit in a guest of 256 MiB'],
    [['bench', 'branch', '--chart', 'pause.png'], 'does not end with .svg'],
    [['bench', 'fork', '-n', '1,0'], '-n'],
    [['bench', 'fork', '-n', '1,,10'], '-n'],
    [['bench', 'chain', '--depth', '0,x'], '--depth'],
    [['bench', 'exec', '--iterations', '1.5'], '--iterations'],
    [['bench', 'load', '--rate', '500'], '--rate'],
    [['wp-bench'], '--region-mib'],
    [['wp-bench', '--region-mib', '0'], '--region-mib'],
  ])('exits with 2 for %j', async (args, reason) => {
    const { code, stderr, stdout } = await forkd(args);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(reason) });
    expect(stdout).toHaveLength(0);
  });

  test('lists what can be measured, each with examples', async () => {
    const { stdout, code } = await forkd(['bench', '--help']);
    expect(code).toBe(0);
    for (const name of ['branch', 'fork', 'chain', 'exec', 'load']) {
      expect(stdout.toString()).toMatch(new RegExp(`^  ${name} `, 'm'));
      const help = await forkd(['bench', name, '--help']);
      expect(help.code).toBe(0);
      expect(help.stdout.toString()).toContain(`forkd bench ${name}`);
      expect(help.stdout.toString()).toContain('--json');
    }
  });

  test('takes lists whose parts are what they should be', () => {
    expect(list('-n', integer('-n', 1, 100))('1,10,100')).toEqual([1, 10, 100]);
    expect(list('--modes', choice('--modes', ['a', 'b']))('b,a')).toEqual(['b', 'a']);
    for (const text of ['1,', '1 ,2', '101', '1,1'])
      expect(() => list('-n', integer('-n', 1, 100))(text)).toThrow('-n');
  });
});

describe('wp-bench', () => {
  const wpBench = (program: string, ...args: string[]) =>
    forkd(['wp-bench', ...args], { env: { FORKD_WP_BENCH_BIN: program } });

  test('says what is missing, and how it is built', async () => {
    const program = join(here, 'not-there');
    const { code, stderr } = await wpBench(program, '--region-mib', '64');
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(`${program} has not been built`) });
    expect(stderr).toContain('cargo build --release');
  });

  test('hands the arguments on, and gives back output and exit code as they are', async () => {
    const program = join(here, 'wp-bench');
    await writeFile(program, '#!/bin/sh\necho "{\\"args\\": \\"$*\\"}"\nexit 3\n');
    await chmod(program, 0o755);
    const plain = await wpBench(program, '--region-mib', '64');
    expect(plain).toMatchObject({ code: 3, stderr: '' });
    expect(JSON.parse(plain.stdout.toString())).toEqual({ args: '--region-mib 64' });
    const json = await wpBench(program, '--region-mib', '64', '--writers', '4', '--json');
    expect(JSON.parse(json.stdout.toString())).toEqual({ args: '--region-mib 64 --writers 4 --json' });
    expect(await readdir(here)).toEqual(['wp-bench']);
  });
});
