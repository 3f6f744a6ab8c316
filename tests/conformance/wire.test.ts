/**
 * The wire, as clients of any age expect it: every route and status, field by field, over TCP with a token and without any
 * client in between. Real controllers, one for each engine; each reply is held against the API document besides. Firecracker is its
 * stand-in, whose guests are agents in namespaces of their own, and a real one too, where there is one on PATH and KVM runs guests.
 */
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tryKvm } from '@forkd/engine';
import { ensureInitramfs, ensureKernel } from '@forkd/images';
import { BUILT, FirecrackerStandIn, requireBuilt, TEST_CACHE, TestController, whyNoGuest } from '@forkd/testing';
import { afterAll, describe, expect, test } from 'vitest';
import type { Target } from './caller.ts';
import { conformance } from './suite.ts';

const TOKEN = 'a-token-of-the-conformance-suite';

describe('QEMU', () => {
  conformance(controllers([]));
});

describe('the stand-in of Firecracker', () => {
  const why = whyNoGuest();
  if (why !== undefined) return leftOut(why);
  let standIn: FirecrackerStandIn | undefined;
  const start = controllers(['--engine', 'firecracker']);

  afterAll(() => standIn?.[Symbol.asyncDispose]());
  conformance(async () => {
    standIn = await FirecrackerStandIn.open();
    return { ...(await start(standIn.env)), withheld: WITHHELD };
  });
});

describe('Firecracker', async () => {
  const why = await whyNoFirecracker();
  if (why !== undefined) return leftOut(why);
  conformance(controllers(['--engine', 'firecracker']));
});

/** Of guests that are processes of this host. */
const WITHHELD = {
  python: 'the stand-in executes nothing, so that no warmed interpreter is in what a child is given',
  random: 'the kernel whose generator would be changed is the one of this host here',
  permissions: 'the kernel whose files nobody may write is the one of this host here',
};

/** What starts the controller of a suite, which ends with it. */
function controllers(more: readonly string[]): (env?: NodeJS.ProcessEnv) => Promise<Target> {
  let secrets: string | undefined;
  let controller: TestController | undefined;
  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
    if (secrets !== undefined) await rm(secrets, { recursive: true });
  });
  return async (env = {}) => {
    secrets = await mkdtemp('/tmp/fkc-');
    const tokens = join(secrets, 'tokens');
    await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
    const args = ['--bind', '127.0.0.1:0', '--token-file', tokens, '--branch-concurrency', '2', ...more];
    controller = await TestController.start({ args, env });
    return {
      url: controller.url,
      token: TOKEN,
      branchConcurrency: 2,
      template: { source: 'recipe:busybox', mem_mib: 256, boot_wait_secs: 60 },
      python: { source: 'recipe:python', mem_mib: 512, boot_wait_secs: 60 },
    };
  };
}

function leftOut(why: string): void {
  test('speaks the wire', ({ skip }) => {
    skip(true, why);
    expect.fail(why);
  });
}

async function whyNoFirecracker(): Promise<string | undefined> {
  if (spawnSync('firecracker', ['--version']).error !== undefined) return 'there is no firecracker on PATH';
  await requireBuilt();
  const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
  const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
  const { runs } = await tryKvm('qemu-system-x86_64', { vmlinuz: kernel.vmlinuz, initramfs });
  return runs ? undefined : 'KVM runs no guests here';
}
