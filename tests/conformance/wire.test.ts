/**
 * The wire, as clients of any age expect it: every route and status, field by field, over TCP with a token and without any
 * client in between. A real controller with real guests; each reply is held against the API document besides.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { TestController } from '@forkd/testing';
import { afterAll, describe } from 'vitest';
import { conformance } from './suite.ts';

const TOKEN = 'a-token-of-the-conformance-suite';

describe('QEMU', () => {
  let secrets: string | undefined;
  let controller: TestController | undefined;

  conformance(async () => {
    secrets = await mkdtemp('/tmp/fkc-');
    const tokens = path.join(secrets, 'tokens');
    await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
    const args = ['--bind', '127.0.0.1:0', '--token-file', tokens, '--branch-concurrency', '2'];
    controller = await TestController.start({ args });
    return {
      url: controller.url,
      token: TOKEN,
      branchConcurrency: 2,
      template: { source: 'recipe:busybox', mem_mib: 256, boot_wait_secs: 60 },
      python: { source: 'recipe:python', mem_mib: 512, boot_wait_secs: 60 },
    };
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
    if (secrets !== undefined) await rm(secrets, { recursive: true });
  });
});
