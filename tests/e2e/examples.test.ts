/** Each example, run as its first lines say. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { REPO } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect } from 'vitest';

test('examples/branch.mjs counts on in the source and in its child', async ({ client, controller }) => {
  const { stdout } = await promisify(execFile)(process.execPath, [join(REPO, 'examples/branch.mjs'), 'base'], {
    env: { ...process.env, FORKD_DATA_DIR: controller.dir },
  });
  const [, source, child] = /counted to (\d+), its child went on from (\d+)/.exec(stdout) ?? [];
  expect(Number(child)).toBeGreaterThanOrEqual(5);
  expect(Number(source)).toBeGreaterThanOrEqual(Number(child));
  expect(await client.listSandboxes()).toEqual([]);
});
