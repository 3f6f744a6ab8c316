/** The choice of what conducts the pauses of live branches: it is the monitor wherever the other way is not proved. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { whyNoInsideWindow } from '../src/qemu/window.ts';

type Candidate = Parameters<typeof whyNoInsideWindow>[0];

let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'forkd-window-'));
});

afterAll(() => rm(dir, { recursive: true, force: true }));

/** A QEMU 7.2 whose VMMs cannot be started, with a pager that agrees to everything. */
function candidate(more: Partial<Candidate> = {}, liveUnavailable: string | null = null): Candidate {
  const pager = { liveUnavailable, tscKhz: 1, shimSocket: join(dir, 'shim.sock'), announce: done, release: done };
  const vmm = {
    program: 'qemu-system-x86_64',
    shim: join(dir, 'shim'),
    jail: { launcher: join(dir, 'no-launcher'), arguments: () => [] },
    machine: { accelerator: 'tcg', vcpus: 1, mem_mib: 128 },
    pager,
  };
  const kernel = { vmlinuz: '/dev/null', initramfs: '/dev/null' };
  const cacheDir = join(dir, 'cache');
  // Only what the choice looks at is there.
  return { version: '7.2.22', cacheDir, trial: { kernel, dir: join(dir, 'trials') }, vmm, ...more } as never;
}

async function done(): Promise<void> {}

test('a version whose functions are not known is never tried', async () => {
  for (const version of ['7.1.0', '7.20.0', '8.2.0', '99.0']) {
    expect(await whyNoInsideWindow(candidate({ version }))).toMatch(/^The functions of QEMU [\d.]+ are not known\./);
  }
});

test('a host without live branches has nothing to conduct', async () => {
  expect(await whyNoInsideWindow(candidate({}, 'no userfaultfd'))).toContain('no userfaultfd');
});

test('without a kernel for a trial there is no proof', async () => {
  expect(await whyNoInsideWindow(candidate({ trial: undefined }))).toContain('no kernel for a trial');
});

test('a trial that fails gives the reason, is not remembered, and leaves nothing behind', async () => {
  await writeFile(join(dir, 'shim'), '');
  await mkdir(join(dir, 'trials'));
  for (let round = 0; round < 2; round += 1) {
    expect(await whyNoInsideWindow(candidate())).toMatch(/^A trial failed: .*no-launcher/);
  }
  expect(await readdir(join(dir, 'trials'))).toEqual([]);
});
