/**
 * The life of Firecracker's processes, with the stand-in in its place: what is found out before the first VM, starts that fail in
 * each of their ways, ends, adoption by another engine, and what is refused before anything is touched.
 */
import { access, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { expect } from 'vitest';
import { firecrackerCapabilities } from '../src/firecracker/capabilities.ts';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import { PageWatch } from '../src/firecracker/pages.ts';
import { startProcess } from '../src/firecracker/process.ts';
import { FirecrackerVm } from '../src/firecracker/vm.ts';
import { refuseMemoryLimit } from '../src/machine.ts';
import type { Pager } from '../src/pager/client.ts';
import { isRunning } from '../src/process.ts';
import { type Bench, MEM_MIB, type StandInConfig, test } from './firecracker-support.ts';

/** Nothing here makes layers. */
const NO_PAGER = {} as Pager;

let bench: Bench;

test.beforeEach(({ bench: opened }) => {
  bench = opened;
});

function bootSpec(timeoutMs = 20_000) {
  return { ...bench.spec(NO_PAGER), memMib: MEM_MIB, vcpus: 1, kernel: bench.kernel, timeoutMs };
}

test('the engine reports its name, version and capabilities', async () => {
  await bench.configure({ version: '1.12.3' });
  const engine = await bench.engine();
  expect(engine).toMatchObject({ name: 'firecracker', version: '1.12.3', accelerator: 'kvm' });
  const { live, memory_limit, pool, floor, window_inside, disk, network, ...can } = engine.capabilities;
  if (memory_limit !== true) expect(memory_limit).toMatch(/\.$/);
  expect(can).toEqual({ full: true, diff: true, pause: true });
  expect(network).toBe('A guest of Firecracker has no network device.');
  expect(live).toBe(
    'Firecracker 1.12.3 has no live branches: this build lacks mem_backend.shared, VmstateOnly and PUT /uffd/wp.',
  );
  for (const why of [live, pool, floor, window_inside, disk]) expect(why).toMatch(/^[A-Z].*\.$/);
  const kept = engine.isolation.map(({ id, ok }) => [id, ok]);
  expect(Object.fromEntries(kept)).toMatchObject({ seccomp: true, jailer: false, own_user: false });
  expect(engine.isolation.find(({ id }) => id === 'own_user')?.detail).toBe('The jailer is not on PATH.');
  expect(engine.machine(512, 2)).toMatchObject({ engine: 'firecracker', mem_mib: 512, vcpus: 2 });
  // The trial leaves nothing.
  expect(await readdir(join(bench.dir, 'engine'))).toEqual(['memory']);
});

test('a build with the live extensions has live branches, and one with some of them names the others', async () => {
  await bench.configure({ extensions: true });
  expect((await bench.engine()).capabilities).toMatchObject({ live: true, floor: true });
  await bench.configure({ extensions: ['vmstate_only'] });
  expect((await bench.engine('other')).capabilities.live).toBe(
    'Firecracker 1.13.1 has no live branches: this build lacks mem_backend.shared and PUT /uffd/wp.',
  );
  const features = { version: '1.13.1', sharedMemory: true, vmstateOnly: true, writeProtect: true };
  const host = { features, handover: true, limitUnavailable: null, jailed: false } as const;
  expect(firecrackerCapabilities(host).live).toBe(true);
  expect(firecrackerCapabilities({ ...host, jailed: true }).live).toMatch(/^A jailed/);
  expect(firecrackerCapabilities({ ...host, handover: 'it ended.' }).live).toBe(
    'Firecracker 1.13.1 has no live branches: it ended.',
  );
});

test('a missing firecracker program is reported', async () => {
  await rm(bench.program);
  await expect(bench.engine()).rejects.toMatchObject({ code: 'engine_missing', message: /no firecracker on PATH/ });
});

test('a VM boots, connects its socket to the guest, and is gone after a kill', async () => {
  const engine = await bench.engine();
  const vm = await bench.boot(engine, NO_PAGER);
  expect(await isRunning(vm.record)).toBe(true);
  expect(vm.agentPort).toBe(10_777);
  // Without an agent the guest hangs up, as one that does not listen.
  const socket = connect(vm.agentSocket);
  socket.write('CONNECT 10777\n');
  expect(await new Promise((resolve) => socket.once('data', resolve).once('close', () => resolve('closed')))).toBe(
    'closed',
  );
  await Promise.all([vm.kill(), vm.kill()]);
  expect(await vm.exited).toMatchObject({ signal: 'SIGKILL' });
  expect(await isRunning(vm.record)).toBe(false);
  expect((await readdir(vm.record.dir)).toSorted()).toEqual(['console.log', 'root.img', 'vmm.log']);
});

test.each<[NonNullable<StandInConfig['fault']>, string, RegExp]>([
  ['exit_early', 'vm_start_failed', /ended before the VM ran: status 1/],
  ['exit_at_start', 'vm_start_failed', /ended before the VM ran: status 148/],
  ['never_listen', 'vm_start_timeout', /did not run within 700 ms/],
  ['never_answer', 'vm_start_timeout', /did not run within 700 ms/],
])('a start that fails by %s is told as %s, and leaves no process', async (fault, code, message) => {
  const engine = await bench.engine();
  await bench.configure({ fault });
  const spec = bootSpec(fault.startsWith('never') ? 700 : 20_000);
  const failure = await engine.boot(spec).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code, message: expect.stringMatching(message) as string });
  if (fault === 'exit_early') {
    expect(failure).toMatchObject({ hint: expect.stringContaining('told to end early') as string });
  }
  expect(await processesIn(spec.dir)).toEqual([]);
});

test('a failed trial gives its reason', async () => {
  await bench.configure({ fault: 'exit_early' });
  await expect(bench.engine()).rejects.toMatchObject({
    code: 'vm_start_failed',
    hint: expect.stringContaining('told to end early') as string,
  });
  expect(await readdir(join(bench.dir, 'engine'))).toEqual([]);
});

test('the trial of a killed engine is ended by the next engine', async () => {
  const dir = join(bench.dir, 'engine/probe-left');
  const left = await startProcess(bench.program, 'probe', dir);
  await bench.engine();
  expect(await left.exited).toMatchObject({ signal: 'SIGKILL' });
  expect(await readdir(join(bench.dir, 'engine'))).toEqual(['memory']);
});

test('a start ends when its caller aborts it', async () => {
  const engine = await bench.engine();
  await bench.configure({ fault: 'never_answer' });
  const spec = bootSpec();
  const reason = new Error('enough');
  const starting = new AbortController();
  const booted = engine.boot({ ...spec, signal: starting.signal });
  await untilThere(join(spec.dir, 'api.sock'));
  starting.abort(reason);
  await expect(booted).rejects.toBe(reason);
  expect(await processesIn(spec.dir)).toEqual([]);
});

test('a refusal of Firecracker reaches the caller in its own words', async () => {
  const engine = await bench.engine();
  const spec = { ...bootSpec(), rootImage: join(bench.dir, 'nowhere') };
  await expect(engine.boot(spec)).rejects.toMatchObject({
    code: 'vmm_refused',
    message: /PUT \/drives\/root: .*No such file/,
  });
  expect(await processesIn(spec.dir)).toEqual([]);
});

test('a directory that is too deep for a socket is refused before anything is started', async () => {
  const engine = await bench.engine();
  const spec = { ...bootSpec(), dir: join(bench.dir, 'd'.repeat(100)) };
  await expect(engine.boot(spec)).rejects.toMatchObject({ code: 'path_too_long' });
});

test('an unavailable feature is refused before anything is touched', async () => {
  const engine = await bench.engine();
  const machine = engine.machine(MEM_MIB, 1);
  const spec = { ...bench.spec(NO_PAGER), stack: ['sha256:none'], deviceState: 'none', machine };
  const none = { ...engine.capabilities, memory_limit: 'No cgroup hierarchy that limits memory is mounted.' };
  expect(() => refuseMemoryLimit({ ...spec, memoryLimitMib: 64 }, none)).toThrow(
    `The VM ${spec.id} cannot be limited to 64 MiB. No cgroup hierarchy that limits memory is mounted.`,
  );
  refuseMemoryLimit(spec, none);
  const other = { ...machine, engine: 'qemu', machine: 'microvm' } as const;
  await expect(engine.restore({ ...spec, machine: other })).rejects.toMatchObject({
    code: 'machine_mismatch',
    message: expect.stringContaining('engine is firecracker here and qemu there') as string,
  });
  expect(await readdir(bench.dir)).not.toContain('vms');
});

test('a snapshot of another processor is refused with the difference, before anything is touched', async ({ skip }) => {
  const engine = await bench.engine();
  const machine = engine.machine(MEM_MIB, 1);
  const { processor } = machine;
  skip(processor === undefined, 'the kernel does not tell the processor here');
  const spec = { ...bench.spec(NO_PAGER), stack: ['sha256:none'], deviceState: 'none' };
  const there = { ...machine, processor: { ...processor!, stepping: processor!.stepping + 1 } };
  await expect(engine.restore({ ...spec, machine: there })).rejects.toMatchObject({
    code: 'machine_mismatch',
    message: expect.stringContaining("the processor's stepping is") as string,
  });
  expect(await readdir(bench.dir)).not.toContain('vms');
});

test('the kill of a VM whose process does not end returns, and frees nothing that the process may use', async () => {
  const vm = await bench.boot(await bench.engine(), NO_PAGER);
  let given = 0;
  const onKilled = async (): Promise<void> => void (given += 1);
  const pages = new PageWatch(vm.record, NO_PAGER);
  const home = { pager: NO_PAGER, vmRoot: vm.vmRoot, pages, capabilities: vm.capabilities, onKilled };
  const stuck = new FirecrackerVm(vm.record, new Promise(() => undefined), home, null);
  await expect(stuck.kill()).rejects.toMatchObject({ code: 'vmm_timeout' });
  expect(given).toBe(0);
  expect(await readdir(vm.record.dir)).toContain('agent.sock');
});

test('another engine adopts a VM, in the state it was in or is to be in', async () => {
  const vm = await bench.boot(await bench.engine(), NO_PAGER);
  const next = await bench.engine('next');
  const adopted = await next.adopt(vm.record, NO_PAGER, true);
  expect(await adopted?.api.instance()).toMatchObject({ state: 'Paused' });
  await adopted?.api.close();
  const again = await next.adopt(vm.record, NO_PAGER, false);
  expect(await again?.api.instance()).toMatchObject({ state: 'Running' });
  await again?.kill();
  expect(await vm.exited).toMatchObject({ signal: 'SIGKILL' });
  expect(await again?.exited).toMatchObject({ code: null, signal: null });
  expect(await next.adopt(vm.record, NO_PAGER, false)).toBeNull();
  // A process that has its number since is another.
  expect(await next.adopt({ ...vm.record, pid: process.pid }, NO_PAGER, false)).toBeNull();
});

test('the first diff of an adopted VM is found by comparison, since its dirty log has no known start', async () => {
  const pager = await bench.pager();
  const engine: FirecrackerEngine = await bench.engine();
  const parent = await bench.boot(engine, pager);
  const base = await parent.branch({ mode: 'full', resume: true });
  const stack = base.stack.map(({ digest }) => digest);
  const deviceState = bench.blob(base.device_state.digest);
  const machine = engine.machine(MEM_MIB, 1);
  const vm = await bench.keep(engine.restore({ ...bench.spec(pager), machine, stack, deviceState }));
  await vm.branch({ mode: 'diff', resume: true });
  const adopted = await (await bench.engine('next')).adopt(vm.record, pager, false);
  if (!adopted) throw new Error('it runs');
  const done = await adopted.branch({ mode: 'diff', resume: false });
  const truth = await bench.memoryOf(adopted.api);
  // Over what it started from: the branch between is the other engine's knowledge.
  expect(done.stack.map(({ digest }) => digest).slice(0, -1)).toEqual(stack);
  expect(
    (
      await bench.memoryIn(
        pager,
        done.stack.map(({ digest }) => digest),
      )
    ).equals(truth),
  ).toBe(true);
  await adopted.api.close();
});

test('a VM that writes more than its limit is ended with the reason', async ({ skip }) => {
  const pager = await bench.pager();
  const engine = await bench.engine();
  const why = engine.capabilities.memory_limit;
  skip(why !== true, `memory cannot be limited here: ${why}`);
  const parent = await bench.boot(engine, pager);
  const base = await parent.branch({ mode: 'full', resume: true });
  const stack = base.stack.map(({ digest }) => digest);
  const deviceState = bench.blob(base.device_state.digest);
  const spec = { machine: engine.machine(MEM_MIB, 1), stack, deviceState };
  const limited = await bench.keep(engine.restore({ ...bench.spec(pager), ...spec, memoryLimitMib: MEM_MIB / 2 }));
  expect(await limited.exited).toMatchObject({
    signal: 'SIGKILL',
    why: { kind: 'memory_limit', text: `it used more than its memory limit of ${MEM_MIB / 2} MiB` },
  });
  const roomy = await bench.keep(engine.restore({ ...bench.spec(pager), ...spec, memoryLimitMib: MEM_MIB * 4 }));
  expect(await roomy.api.instance()).toMatchObject({ state: 'Running' });
});

/** The processes that were started in a directory. */
async function processesIn(dir: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    if (!command.includes('--api-sock')) continue;
    const link = await readlink(`/proc/${name}/cwd`).catch(() => '');
    if (link === dir) found.push(name);
  }
  return found;
}

async function untilThere(path: string): Promise<void> {
  while (
    !(await access(path).then(
      () => true,
      () => false,
    ))
  )
    await new Promise((resolve) => setTimeout(resolve, 5));
}
