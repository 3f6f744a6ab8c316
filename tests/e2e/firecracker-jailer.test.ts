/**
 * A controller with Firecracker and its jailer (stand-ins for both, which are real processes) is killed while a jailed VMM is waited
 * for: the VMM runs on, and the next controller ends it and leaves nothing of it.
 */
import { copyFile, mkdtemp, readFile, readdir, rm, stat } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { REPO, requireBuilt, TestController, until } from '@forkd/testing';
import { afterEach, beforeEach, expect, test } from 'vitest';

/** Linked statically, for there are no libraries in a VMM's root. */
const STATIC = join(REPO, 'target/guest/x86_64-unknown-linux-gnu/release');
const ARGS = ['--engine', 'firecracker'];
/** The lowest number of a jailed VMM's user. */
const USER_BASE = 0x7100_0000;
const WAIT_MS = 60_000;

let bin: string;
let controller: TestController | undefined;

beforeEach(async () => {
  await requireBuilt();
  bin = await mkdtemp('/tmp/fk-bin-');
  await copyFile(join(STATIC, 'forkd-firecracker-stand-in'), join(bin, 'firecracker'));
  await copyFile(join(STATIC, 'forkd-jailer-stand-in'), join(bin, 'jailer'));
});

afterEach(async () => {
  await controller?.[Symbol.asyncDispose]();
  await rm(bin, { recursive: true });
});

test('a jailed VMM outlives a killed controller, and the next controller leaves nothing of it', async ({ skip }) => {
  skip(process.geteuid?.() !== 0, 'the jailer needs root');
  const env = { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}` };
  const started = await TestController.start({ args: ARGS, env });
  controller = started;
  const { engine } = await started.client.host();
  expect(engine.isolation.find(({ id }) => id === 'own_user')).toMatchObject({ ok: true });

  // The guest never answers, so that the controller waits for the template.
  const made = started.client.createSnapshot({ tag: 'waited-for', source: 'recipe:busybox', mem_mib: 256 });
  const ended = made.then(
    () => 'made',
    () => 'given up',
  );
  let pid = 0;
  await until('a jailed VMM runs', WAIT_MS, async () => {
    [pid = 0] = await started.pids('vmm');
    return pid > 0 && (await stat(`/proc/${pid}`)).uid >= USER_BASE;
  });
  const [id = ''] = await started.sandboxDirs();
  expect(await readdir(join(started.dir, 'sandboxes', id, 'vmm/jail'))).toEqual(['firecracker']);
  await started.kill9();
  expect(await started.pids('vmm')).toEqual([pid]);
  expect(await ended).toBe('given up');

  await started.serve(ARGS, { env });
  expect(await started.pids('vmm')).toEqual([]);
  expect(await started.sandboxDirs()).toEqual([]);
  expect(await started.client.listSnapshots()).toEqual([]);
  expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(started.dir);
});
