/**
 * The SDK in a page: its main entry, bundled for browsers, runs in a realm that has only what pages have (fetch, streams, crypto,
 * URL, …), with nothing of Node in the bundle, and does its work on a real guest, over TCP.
 */

import { test as base } from '@forkd/testing/vitest';
import { expect } from 'vitest';
import { bundleForBrowsers, runAsPage } from '../../packages/sdk/test/support/browser-bundle.ts';
import { openTcpPort } from '../../packages/sdk/test/support/tcp-port.ts';

const test = base
  .extend('script', { scope: 'file' }, () => bundleForBrowsers())
  .extend('page', { scope: 'file' }, ({ script }) => runAsPage(script))
  .extend('url', { scope: 'file' }, async ({ controller }, { onCleanup }) => {
    const port = await openTcpPort(controller.socket);
    onCleanup(async () => {
      // The connections that the page keeps end with the controller.
      await controller.stop();
      await port.close();
    });
    return port.url;
  });

test('the bundle for browsers needs nothing of Node', ({ script, page }) => {
  expect(script).not.toMatch(/\bnode:|\brequire\(|\bimport\(/);
  const names = ['process', 'Buffer', 'require', 'global'];
  expect(
    page.ForkdClient.constructor.constructor(`return [${names.map((name) => `typeof ${name}`).join()}]`)(),
  ).toEqual(names.map(() => 'undefined'));
});

test('a page runs commands, moves files, branches and forks', async ({ page, url }) => {
  const sandbox = await page.Sandbox.create('base', { url });
  const ran = await sandbox.commands.run('echo "grüße"; echo no >&2; exit 3');
  expect(ran).toMatchObject({ stdout: 'grüße\n', stderr: 'no\n', exitCode: 3, signal: null, timedOut: false });
  const bytes = Uint8Array.from({ length: 300_000 }, (_, index) => index % 251);
  await sandbox.files.write('/tmp/data', inParts(bytes));
  expect(Buffer.from(await sandbox.files.readBytes('/tmp/data')).equals(bytes)).toBe(true);
  expect(await sandbox.files.exists('/tmp/nothing')).toBe(false);
  const [child] = await sandbox.fork(1, { tag: 'from-a-page' });
  expect(await child?.files.read('/etc/hostname')).not.toBe(await sandbox.files.read('/etc/hostname'));
  expect(Buffer.from((await child?.files.readBytes('/tmp/data')) ?? []).equals(bytes)).toBe(true);
  expect(await child?.kill()).toBe(true);
  expect(await sandbox.kill()).toBe(true);
  expect(await sandbox.kill()).toBe(false);
});

test('a page follows a command, stops reading, and aborts on its signal', async ({ page, url }) => {
  const sandbox = await page.Sandbox.create('base', { url });
  const { id } = await sandbox.commands.start('while sleep 0.05; do echo tick; done');
  for await (const chunk of await sandbox.commands.attach(id)) {
    expect(chunk.type).toBe('stdout');
    break;
  }
  const reason = new Error('enough');
  const aborts = new AbortController();
  const running = sandbox.commands.run('sleep 1000', { signal: aborts.signal });
  setTimeout(() => aborts.abort(reason), 100);
  await expect(running).rejects.toBe(reason);
  await sandbox.kill();
});

test('a page gets the same errors as a Node program', async ({ controller, page, url }) => {
  await expect(page.Sandbox.connect('sb-0000000000', { url })).rejects.toMatchObject({
    name: 'NotFoundError',
    code: 'not_found_sandbox',
    status: 404,
  });
  await expect(new page.ForkdClient({ socket: controller.socket }).version()).rejects.toMatchObject({
    hint: expect.stringContaining('Node.js'),
  });
  const compatible = new page.Controller({ baseUrl: url });
  expect((await compatible.listSnapshots()).map(({ tag }) => tag)).toContain('base');
});

async function* inParts(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes.subarray(0, 1000);
  yield bytes.subarray(1000);
}
