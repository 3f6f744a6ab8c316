/** Each example, run as its first lines say. */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { REPO } from '@forkd/lab';
import { makeTemplate, TestController } from '@forkd/testing';

let controller: TestController;

beforeAll(async () => {
  controller = await TestController.start();
  await makeTemplate(controller.client);
});

afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
});

it('branch.mjs', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [path.join(REPO, 'examples/branch.mjs'), 'base'], {
    env: { ...process.env, FORKD_DATA_DIR: controller.dir },
  });
  const [, source, child] = /counted to (\d+), its child went on from (\d+)/.exec(stdout) ?? [];
  expect(Number(child)).toBeGreaterThanOrEqual(5);
  expect(Number(source)).toBeGreaterThanOrEqual(Number(child));
  expect(await controller.client.listSandboxes()).toEqual([]);
});
