// Proves that every example that help and the reference show is a command line that forkd takes: a real shell reads it, with
// its quotes, pipes and redirections, and what the shell would give to `forkd` is parsed by the command's own parser.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadCommandGroups, parseLine, type Command } from '../src/index.ts';

let here: string;

beforeAll(async () => {
  here = await mkdtemp(join(os.tmpdir(), 'forkd-examples-'));
  await writeFile(join(here, 'step.py'), '1 + 1\n');
});
afterAll(() => rm(here, { recursive: true, force: true }));

/** Each list of arguments that the line gives to `forkd`. Redirections to absolute places are none of ours to try. */
async function forkdCalls(line: string): Promise<string[][]> {
  const log = join(here, 'calls');
  await writeFile(log, '');
  const script = `forkd() { printf '%s\\0' "$@" >> "$LOG"; printf '\\1' >> "$LOG"; }\n${line.replace(/ > \S+$/, '')}\n`;
  const env = { PATH: process.env['PATH'], LOG: log };
  const child = spawn('bash', ['--norc', '-c', script], { cwd: here, env, stdio: 'ignore' });
  await new Promise((resolve) => child.once('close', resolve));
  const calls = (await readFile(log, 'utf8')).split('\u0001').slice(0, -1);
  return calls.map((call) => call.split('\0').slice(0, -1));
}

function withInner(command: Command, above: string[] = []): { path: string[]; command: Command }[] {
  const own = [...above, command.name];
  return [{ path: own, command }, ...(command.subcommands ?? []).flatMap((inner) => withInner(inner, own))];
}

const commands = (await loadCommandGroups()).flatMap((group) => group.commands);
const shown = commands.filter((command) => command.hidden !== true).flatMap((command) => withInner(command));

describe('examples', () => {
  test.each(shown)('of $path parse, and are of that verb', async ({ path: verbPath, command }) => {
    expect(command.examples.length).toBeGreaterThan(0);
    for (const { line } of command.examples) {
      const calls = await forkdCalls(line);
      expect({ line, calls: calls.length }).toEqual({ line, calls: 1 });
      expect(calls[0]?.slice(0, verbPath.length)).toEqual(verbPath);
      const parsed = await parseLine(calls[0] ?? [], process).catch((error: unknown) => ({ line, error }));
      expect(parsed).toMatchObject({ command: { name: expect.any(String) } });
    }
  });

  test('sees one that does not parse', async () => {
    await expect(parseLine(['fork', 'py', '-n', 'many'], process)).rejects.toThrow('-n');
    expect(await forkdCalls('A=$(forkd a "b c") # d')).toEqual([['a', 'b c']]);
  });
});
