/**
 * The client of Firecracker's API against the stand-in, a real process with a real socket that holds every request against
 * Firecracker's schema: each call, each refusal in Firecracker's words, what versions differ in, and waits that end.
 */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { FirecrackerApi } from '../src/firecracker/api.ts';
import { type Features, featuresOf, loadBody, probeExtensions } from '../src/firecracker/features.ts';
import type { SnapshotLoad } from '../src/firecracker/requests.ts';
import { Bench, differingPages, LOAD_PAGES, MEM_BYTES, MEM_MIB, type StandInConfig } from './firecracker-support.ts';

const NONE = { sharedMemory: false, vmstateOnly: false, writeProtect: false };

let bench: Bench | undefined;

afterEach(async () => {
  await bench?.[Symbol.asyncDispose]();
  bench = undefined;
});

async function open(config: StandInConfig = {}) {
  bench = await Bench.open(config);
  return { bench, ...(await bench.bare()) };
}

/** Configures and starts a VM with every device that we know of. */
async function bootBare(of: Bench, api: FirecrackerApi, trackDirtyPages: boolean): Promise<void> {
  await api.setMachineConfig({ vcpu_count: 1, mem_size_mib: MEM_MIB, track_dirty_pages: trackDirtyPages });
  await api.setBootSource({
    kernel_image_path: of.kernel.vmlinuz,
    initrd_path: of.kernel.initramfs,
    boot_args: 'quiet',
  });
  await api.addDrive({ drive_id: 'root', path_on_host: of.rootImage, is_root_device: false, is_read_only: true });
  await api.addNetworkInterface({ iface_id: 'eth0', host_dev_name: 'tap0' });
  await api.setVsock({ guest_cid: 3, uds_path: 'agent.sock' });
  await api.addEntropy();
  await api.start();
}

const loadOf = (of: Bench, extra: Partial<SnapshotLoad> = {}): SnapshotLoad => ({
  snapshotPath: join(of.dir, 'state'),
  memory: { type: 'File', path: join(of.dir, 'memory') },
  trackDirtyPages: true,
  resume: false,
  ...extra,
});

test('every call works, from an empty process to a VM that was loaded from its snapshot', async () => {
  const { bench: of, api, dir } = await open();
  expect(await api.version()).toBe('1.13.1');
  expect(await api.instance()).toMatchObject({ id: 'bare', state: 'Not started' });
  await bootBare(of, api, true);
  expect(await api.machineConfig()).toMatchObject({ vcpu_count: 1, mem_size_mib: MEM_MIB, track_dirty_pages: true });
  expect(await api.instance()).toMatchObject({ state: 'Running' });
  expect(existsSync(join(dir, 'agent.sock'))).toBe(true);
  await api.pause();
  expect(await api.instance()).toMatchObject({ state: 'Paused' });
  const [snapshot_path, mem_file_path] = [join(of.dir, 'state'), join(of.dir, 'memory')];
  await api.createSnapshot({ snapshot_type: 'Full', snapshot_path, mem_file_path });
  expect(statSync(mem_file_path).size).toBe(MEM_BYTES);
  const diff = `${mem_file_path}.diff`;
  await api.createSnapshot({ snapshot_type: 'Diff', snapshot_path, mem_file_path: diff });
  expect(statSync(diff)).toMatchObject({ size: MEM_BYTES, blocks: 0 });
  await api.resume();
  expect(await api.instance()).toMatchObject({ state: 'Running' });

  const child = await of.bare();
  const networkOverrides = [{ iface_id: 'eth0', host_dev_name: 'tap1' }];
  await child.api.loadSnapshot(loadOf(of, { networkOverrides }), featuresOf('1.13.1', NONE));
  expect(await child.api.instance()).toMatchObject({ state: 'Paused' });
  expect(existsSync(join(child.dir, 'agent.sock'))).toBe(true);
  const [loaded, saved] = [await of.memoryOf(child.api), await of.memoryOf(await paused(api))];
  expect(differingPages(loaded, saved)).toBeGreaterThan(0);
  await child.api.resume();
  expect(await child.api.instance()).toMatchObject({ state: 'Running' });
});

async function paused(api: FirecrackerApi): Promise<FirecrackerApi> {
  // It has run on since its snapshot: what its guest writes makes the difference.
  await api.pause();
  return api;
}

test('a call at the wrong time is refused in Firecracker’s words', async () => {
  const { bench: of, api } = await open();
  const before = { code: 'vmm_refused', message: expect.stringContaining('not supported before starting') as string };
  const after = { code: 'vmm_refused', message: expect.stringContaining('not supported after starting') as string };
  await expect(api.pause()).rejects.toMatchObject(before);
  await expect(api.resume()).rejects.toMatchObject(before);
  const snapshot = {
    snapshot_type: 'Full',
    snapshot_path: join(of.dir, 's'),
    mem_file_path: join(of.dir, 'm'),
  } as const;
  await expect(api.createSnapshot(snapshot)).rejects.toMatchObject(before);
  await expect(api.start()).rejects.toThrow('Cannot start microvm without kernel configuration.');
  await bootBare(of, api, true);
  await expect(api.start()).rejects.toMatchObject(after);
  await expect(api.setVsock({ guest_cid: 3, uds_path: 'other.sock' })).rejects.toMatchObject(after);
  await expect(api.addEntropy()).rejects.toMatchObject(after);
  await expect(api.createSnapshot(snapshot)).rejects.toThrow('save/restore unavailable while running');
  await expect(api.loadSnapshot(loadOf(of), featuresOf('1.13.1', NONE))).rejects.toMatchObject(after);
  expect(await api.instance()).toMatchObject({ state: 'Running' });
});

test('bad values are refused with the path of the request', async () => {
  const { bench: of, api } = await open();
  await expect(api.setMachineConfig({ vcpu_count: 0, mem_size_mib: 32 })).rejects.toThrow(
    'Firecracker refused PUT /machine-config: The vCPU number is invalid!',
  );
  const drive = { drive_id: 'root', path_on_host: join(of.dir, 'nothing'), is_root_device: false };
  await expect(api.addDrive(drive)).rejects.toThrow(/PUT \/drives\/root: .*No such file/);
  await expect(api.setVsock({ guest_cid: 2, uds_path: 'x' })).rejects.toThrow('Invalid guest CID: 2');
  expect(await api.refusal('PUT', '/entropy', { colour: 'red' })).toContain('unknown field `colour`');
  expect(await api.refusal('PUT', '/nothing', {})).toContain('Invalid request method and/or path: PUT nothing.');
  expect(await api.refusal('PUT', '/entropy', {})).toBe('');
});

test('a failed load ends the process', async () => {
  const { bench: of, api, started } = await open();
  await expect(api.loadSnapshot(loadOf(of), featuresOf('1.13.1', NONE))).rejects.toMatchObject({
    code: 'vmm_refused',
    message: expect.stringContaining('Failed to open snapshot file') as string,
  });
  expect(await started.exited).toMatchObject({ code: 1 });
  await expect(api.version()).rejects.toMatchObject({ code: 'vm_gone' });
});

test.each([
  ['1.11.0', 'enable_diff_snapshots', false, false],
  ['1.12.1', 'enable_diff_snapshots', true, false],
  ['1.13.1', 'track_dirty_pages', true, false],
  ['1.16.0', 'track_dirty_pages', true, true],
])('version %s gets requests in the form that it takes', async (version, trackField, network, vsock) => {
  const { bench: of, api } = await open({ version });
  const features = featuresOf(await api.version(), await probeExtensions(api));
  expect(features).toEqual({ ...NONE, version, trackField, networkOverrides: network, vsockOverride: vsock });
  await bootBare(of, api, true);
  await api.pause();
  const [snapshot_path, mem_file_path] = [join(of.dir, 'state'), join(of.dir, 'memory')];
  await api.createSnapshot({ snapshot_type: 'Full', snapshot_path, mem_file_path });
  const overrides = {
    networkOverrides: [{ iface_id: 'eth0', host_dev_name: 'tap7' }],
    vsockOverride: { uds_path: 'elsewhere.sock' },
  };
  if (!network) {
    expect(() => loadBody(loadOf(of, { networkOverrides: overrides.networkOverrides }), features)).toThrow(
      'Firecracker 1.11.0 cannot load a snapshot with other network devices.',
    );
  }
  if (!vsock) {
    expect(() => loadBody(loadOf(of, { vsockOverride: overrides.vsockOverride }), features)).toThrow('vsock socket');
  }
  const child = await of.bare();
  const { networkOverrides, vsockOverride } = overrides;
  const load = loadOf(of, { ...(network && { networkOverrides }), ...(vsock && { vsockOverride }) });
  await child.api.loadSnapshot(load, features);
  expect(existsSync(join(child.dir, vsock ? 'elsewhere.sock' : 'agent.sock'))).toBe(true);
  // The VMM keeps count, whatever the mode is called: a diff has what was written since, by the load itself.
  const diff = join(of.dir, 'diff');
  await child.api.createSnapshot({ snapshot_type: 'Diff', snapshot_path, mem_file_path: diff });
  expect(statSync(diff).blocks * 512).toBe(LOAD_PAGES.length * 4096);
});

test('fields of later versions are refused by earlier ones', async () => {
  const { bench: of, api } = await open({ version: '1.11.0' });
  const later: Features = { ...featuresOf('1.16.0', NONE) };
  await expect(api.loadSnapshot(loadOf(of), later)).rejects.toThrow('unknown field `track_dirty_pages`');
  expect(await api.instance()).toMatchObject({ state: 'Not started' });
});

test('a diff without dirty page tracking is refused before 1.13', async () => {
  const { bench: of, api } = await open({ version: '1.12.0' });
  await bootBare(of, api, false);
  await api.pause();
  const diff = { snapshot_type: 'Diff', snapshot_path: join(of.dir, 's'), mem_file_path: join(of.dir, 'm') } as const;
  await expect(api.createSnapshot(diff)).rejects.toThrow('dirty page tracking disabled');
});

test('a version that is too old is refused', () => {
  expect(() => featuresOf('1.6.9', NONE)).toThrow('Firecracker 1.6.9 is older than 1.7.0.');
});

test('extensions are found by a trial, and missing in a published build', async () => {
  const { bench: of, api } = await open();
  expect(await probeExtensions(api)).toEqual(NONE);
  await of.configure({ extensions: true });
  const extended = await of.bare();
  expect(await probeExtensions(extended.api)).toEqual({ sharedMemory: true, vmstateOnly: true, writeProtect: true });
  expect(await extended.api.instance()).toMatchObject({ state: 'Not started' });
  const shared = loadOf(of, { memory: { type: 'File', path: 'x', shared: true } });
  expect(() => loadBody(shared, featuresOf('1.13.1', NONE))).toThrow('cannot load a snapshot with shared memory');
});

test('the caller’s signal ends the wait for a silent process with its reason', async () => {
  const { api } = await open({ fault: 'never_answer' });
  const reason = new Error('enough');
  const waiting = new AbortController();
  const answer = api.version(waiting.signal);
  waiting.abort(reason);
  await expect(answer).rejects.toBe(reason);
  await expect(api.version(AbortSignal.abort(reason))).rejects.toBe(reason);
});

test('a missing socket is reported', async () => {
  bench = await Bench.open();
  const api = new FirecrackerApi(join(bench.dir, 'nobody.sock'));
  await expect(api.version()).rejects.toMatchObject({ code: 'vm_gone' });
  await api.close();
});
