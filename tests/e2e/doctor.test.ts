/** `forkd doctor` beside a real controller: what that has found on this host is what the rows say. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { REPO, TestController } from '@forkd/testing';
import { expect, test } from 'vitest';

const MAIN = join(REPO, 'packages/cli/bundle/forkd.js');

interface Row {
  id: string;
  status: string;
  detail: string;
}

test('`forkd doctor` reports what the running controller has found', async () => {
  await using controller = await TestController.start();
  const { engine, data_dir } = await controller.client.host();
  const args = [MAIN, 'doctor', '--json', '--daemon-url', `unix:${controller.socket}`];
  const rows = await rowsOf(process.execPath, args);
  expect(rows.get('daemon')).toMatchObject({
    status: 'pass',
    detail: expect.stringContaining(`pid ${controller.pid},`),
  });
  expect(rows.get('accelerator')?.detail).toBe(`${engine.accelerator}: ${engine.reason}`);
  expect(rows.get('uffd_wp')?.status).toBe(engine.live_unavailable === null ? 'pass' : 'warn');
  expect(rows.get('snapshot_dir')).toMatchObject({ status: 'pass', detail: data_dir });
  expect(rows.get('window')?.detail.split(':')[0]).toBe(engine.window);
  const isolation = rows.get('isolation');
  expect(isolation?.status).toBe(engine.isolation.every(({ ok }) => ok) ? 'pass' : 'warn');
  const named = engine.isolation.filter(({ ok }) => ok === (isolation?.status === 'pass'));
  expect(named.length).toBeGreaterThan(0);
  for (const { id } of named) expect(isolation?.detail).toContain(id);
});

/** Whatever its exit code is. */
async function rowsOf(program: string, args: readonly string[]): Promise<Map<string, Row>> {
  const env = { ...process.env, FORKD_URL: '', FORKD_SOCKET: '' };
  const { stdout } = await promisify(execFile)(program, args, { env }).catch(
    (error: unknown) => error as { stdout: string },
  );
  const { rows } = JSON.parse(stdout) as { rows: Row[] };
  return new Map(rows.map((row) => [row.id, row]));
}
