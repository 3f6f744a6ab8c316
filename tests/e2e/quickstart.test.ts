/** The whole of `forkd quickstart` as a user runs it: it passes its own checks, writes its figures, and leaves nothing running. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO, requireBuilt, TEST_CACHE } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';

let dir: string;

beforeAll(async () => {
  await requireBuilt();
  dir = await mkdtemp('/tmp/fk-');
  await mkdir(TEST_CACHE, { recursive: true });
  await symlink(TEST_CACHE, join(dir, 'cache'));
});

afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
});

test(
  '`forkd quickstart` passes its own checks, writes its figures, and leaves nothing running',
  { timeout: 400_000 },
  async () => {
    const figures = join(dir, 'figures.json');
    const cli = join(REPO, 'packages/cli/bundle/forkd.js');
    const child = spawn(process.execPath, [cli, '--data-dir', dir, 'quickstart', '--json', figures], { stdio: 'pipe' });
    let output = '';
    child.stdout.on('data', (text: Buffer) => (output += text.toString()));
    child.stderr.on('data', (text: Buffer) => (output += text.toString()));
    const [code] = (await once(child, 'exit')) as [number];
    if (code !== 0) throw new Error(`it ended with ${code}: ${output}`);
    const written: unknown = JSON.parse(await readFile(figures, 'utf8'));
    const branch = {
      tag: expect.any(String),
      pause_ms: expect.any(Number),
      floor_ms: expect.any(Number),
      captured_bytes: expect.any(Number),
      ready_ms: expect.any(Number),
      source_continued: true,
      child_continued: true,
    };
    expect(written).toEqual({
      host: expect.any(Object),
      template: { build_ms: expect.any(Number), warm_ms: expect.any(Number) },
      fork: { n: 10, first_answer_ms: expect.any(Number), all_answered_ms: expect.any(Number), distinct: 10 },
      branches: [branch, branch, branch],
      disk: { sandbox: expect.any(String), own_bytes: expect.any(Number), shared_bytes: expect.any(Number) },
      memory: expect.arrayContaining([
        { sandbox: expect.any(String), private_bytes: expect.any(Number), shared_bytes: expect.any(Number) },
      ]),
    });
    expect(await commandLinesWith(dir)).toEqual([]);
    expect(await readdir(join(dir, 'sandboxes'))).toEqual([]);
  },
);

/** The command lines of the processes that name `text`. */
async function commandLinesWith(text: string): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''));
  return (await Promise.all(lines)).filter((line) => line.includes(text));
}
