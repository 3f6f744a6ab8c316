/**
 * Memory that the pager serves page by page: children of the stand-in, of several depths at once, with writers in their guests, held byte
 * for byte against what the paused source itself wrote down; which children are served and which map a file; and what becomes of a VM
 * when its pager is killed, before it has all of its memory and after, or when the host gives out no userfaultfd.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, chmod, readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import type { Pager } from '../src/pager/client.ts';
import type { BranchDone } from '../src/pager/wire.ts';
import { isRunning } from '../src/process.ts';
import { Bench, differingPages, digests, LOAD_PAGES, MEM_BYTES, MEM_MIB, TARGET } from './firecracker-support.ts';

let bench: Bench;
let pager: Pager;
let engine: FirecrackerEngine;

beforeEach(async () => {
  bench = await Bench.open();
  pager = await bench.pager();
  engine = await bench.engine();
});

afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

/** A snapshot, and the memory that the VM had. */
interface Point {
  done: BranchDone;
  truth: Buffer;
}

async function pointOf(vm: FirecrackerVm, mode: 'full' | 'diff'): Promise<Point> {
  const done = await vm.branch({ mode, resume: false });
  const truth = await bench.memoryOf(vm.api);
  await vm.resume();
  return { done, truth };
}

/** A source that runs, and its snapshots, each of which has a layer more than the one before. */
async function chain(depth: number): Promise<{ source: FirecrackerVm; points: Point[] }> {
  const source = await bench.boot(engine, pager);
  const points = [await pointOf(source, 'full')];
  while (points.length < depth) {
    const next = await pointOf(source, 'diff');
    if (next.done.stack.length > points.length) points.push(next);
  }
  return { source, points };
}

/** A source and its first snapshot, whose memory nobody has written down. */
async function whole(): Promise<{ source: FirecrackerVm; done: BranchDone }> {
  const source = await bench.boot(engine, pager);
  return { source, done: await source.branch({ mode: 'full', resume: true }) };
}

/** A VM that is served and does not run. */
async function servedAndStill({ done }: Point) {
  const child = await bench.bare();
  const id = `served-${child.started.pid}`;
  const socket = join(child.dir, 'pages.sock');
  const request = { sandbox: id, pid: child.started.pid, mem_bytes: MEM_BYTES, stack: digests(done), socket };
  await pager.servePages(request);
  const load = async () => {
    const memory = { type: 'Uffd', path: 'pages.sock' } as const;
    const snapshotPath = bench.blob(done.device_state.digest);
    await child.api.loadSnapshot({ snapshotPath, memory, trackDirtyPages: true, resume: false }, engine.features);
  };
  return { ...child, id, socket, load };
}

function restore({ done }: Pick<Point, 'done'>, more: { memoryLimitMib?: number } = {}): Promise<FirecrackerVm> {
  const machine = engine.machine(MEM_MIB, 1);
  const deviceState = bench.blob(done.device_state.digest);
  return bench.keep(engine.restore({ ...bench.spec(pager), machine, stack: digests(done), deviceState, ...more }));
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 30_000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited too long until ${what}`);
    await delay(5);
  }
}

const untilWhole = (socket: string) => until('the VM has all of its memory', async () => !(await exists(socket)));

/** A pager that does nothing from the moment that it listens for a VM. */
function stopOnceItListens(): void {
  const servePages = pager.servePages.bind(pager);
  pager.servePages = async (request) => {
    await servePages(request);
    process.kill(pager.pid, 'SIGSTOP');
  };
}

/** Of those that write nothing at a load, so that it ends though no page is given. */
async function useOldVersion(): Promise<void> {
  await bench.configure({ version: '1.7.0' });
  engine = await bench.engine('old');
}

/** Whether a thread of a VMM of this test stands in a fault that nobody has answered. */
async function waitsForPage(): Promise<boolean> {
  for (const name of await readdir('/proc')) {
    const program = await readlink(`/proc/${name}/exe`).catch(() => '');
    if (program !== bench.program) continue;
    const waiting = await readFile(`/proc/${name}/wchan`, 'latin1').catch(() => '');
    if (waiting.includes('userfault')) return true;
  }
  return false;
}

test('two children at each of three depths have every page while their source runs', async () => {
  const { points } = await chain(3);
  const all = [...points, ...points];
  const children = await Promise.all(all.map((point) => servedAndStill(point)));
  expect((await pager.pages()).served.map(({ sandbox }) => sandbox).toSorted()).toEqual(
    children.map(({ id }) => id).toSorted(),
  );
  // All of them are read while they are being served.
  const memories = await Promise.all(
    children.map(async ({ api, load }) => {
      await load();
      return bench.memoryOf(api);
    }),
  );
  const differing = memories.map((memory, index) => differingPages(memory, all[index]!.truth, LOAD_PAGES));
  expect(differing).toEqual(all.map(() => 0));
  await Promise.all(children.map(({ socket }) => untilWhole(socket)));
  await until('nothing is served any more', async () => (await pager.pages()).served.length === 0);
  const { total } = await pager.pages();
  expect(total.copied_pages * 4096).toBe(total.copied_bytes);
  expect(total.copied_pages).toBeGreaterThan(0);
  expect(total.populated_pages + total.faults).toBeGreaterThan(0);
});

test('full and diff branches of served children are right while their guests write', async () => {
  const { points } = await chain(3);
  const children = await Promise.all(points.map((point) => restore(point)));
  const modes = ['full', 'diff', 'diff'] as const;
  await Promise.all(
    children.map(async (child, index) => {
      const { done, truth } = await pointOf(child, modes[index] ?? 'diff');
      expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
    }),
  );
  // All of it was served: no file was written.
  expect(await readdir(join(bench.dir, 'engine/memory'))).toEqual([]);
});

test('the first VM of a stack is served, and later ones or those with a memory limit share a file', async (context) => {
  const { points } = await chain(1);
  const [point] = points;
  if (!point) throw new Error('there is one');
  const files = () => readdir(join(bench.dir, 'engine/memory'));
  const before = (await pager.pages()).total.copied_pages;
  const one = await restore(point);
  await untilWhole(join(one.record.dir, 'pages.sock'));
  expect((await pager.pages()).total.copied_pages).toBeGreaterThan(before);
  expect(await files()).toEqual([]);
  const [two, three] = await Promise.all([restore(point), restore(point)]);
  expect(await files()).toHaveLength(1);
  await one.kill();
  await two.kill();
  expect(await files()).toHaveLength(1);
  await three.kill();
  expect(await files()).toEqual([]);
  const why = engine.capabilities.memory_limit;
  context.skip(why !== true, `memory cannot be limited here: ${why}`);
  const limited = await restore(point, { memoryLimitMib: MEM_MIB * 4 });
  expect(await files()).toHaveLength(1);
  await limited.kill();
});

test('memory in two regions around the device hole is served', async () => {
  await bench.configure({ gap_at_mib: 8 });
  const { points } = await chain(2);
  const child = await servedAndStill(points[1]!);
  await child.load();
  expect(differingPages(await bench.memoryOf(child.api), points[1]!.truth, LOAD_PAGES)).toBe(0);
  // A file of it is mapped in two pieces as well.
  const [one, two] = await Promise.all([restore(points[0]!), restore(points[0]!)]);
  for (const vm of [one, two]) {
    const { done, truth } = await pointOf(vm, 'diff');
    expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
  }
});

test('the pages that the first VM of a stack touched are given to the next one ahead', async () => {
  const { points } = await chain(1);
  const prefetched = async () => (await pager.pages()).total.prefetched_pages;
  await until('a VM is given what another one asked for', async () => {
    const vm = await restore(points[0]!);
    await untilWhole(join(vm.record.dir, 'pages.sock'));
    await vm.kill();
    return (await prefetched()) > 0;
  });
  expect(await readdir(join(bench.dir, 'run/records'))).toHaveLength(1);
});

test('only the VMM’s own process is let through', async () => {
  const { points } = await chain(1);
  const child = await servedAndStill(points[0]!);
  const stranger = connect(child.socket);
  await new Promise((resolve) =>
    stranger
      .once('close', resolve)
      .on('error', () => undefined)
      .resume(),
  );
  expect((await pager.pages()).served).toMatchObject([{ sandbox: child.id, connected: false }]);
  await child.load();
  expect(differingPages(await bench.memoryOf(child.api), points[0]!.truth, LOAD_PAGES)).toBe(0);
});

test('a VMM that hands over nonsense is ended', async () => {
  const { points } = await chain(1);
  const socket = join(bench.dir, 'nonsense.sock');
  const program = `process.stdin.once('data', () => require('net').connect(${JSON.stringify(socket)}).end('{"no": "list"}'))`;
  const vmm = spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'ignore', 'ignore'] });
  const ended = once(vmm, 'exit');
  const stack = digests(points[0]!.done);
  await pager.servePages({ sandbox: 'nonsense', pid: vmm.pid ?? 0, mem_bytes: MEM_BYTES, stack, socket });
  vmm.stdin.write('go');
  expect(await ended).toEqual([null, 'SIGKILL']);
  await until('it is forgotten', async () => (await pager.pages()).served.length === 0);
  expect(await readFile(join(bench.dir, 'run/pager.log'), 'utf8')).toContain(
    'nonsense: its memory: the handshake failed: the message is no list of regions',
  );
});

test('a VM released before it connects is not waited for', async () => {
  const { points } = await chain(1);
  const child = await servedAndStill(points[0]!);
  await expect(
    pager.servePages({ sandbox: child.id, pid: 1, mem_bytes: MEM_BYTES, stack: [], socket: child.socket }),
  ).rejects.toMatchObject({ code: 'bad_request', message: `The memory of ${child.id} is served already.` });
  await pager.release(child.id);
  await until('it is forgotten', async () => (await pager.pages()).served.length === 0);
  // Nobody listens: its load fails, and with it the process ends.
  await expect(child.load()).rejects.toMatchObject({ code: 'vmm_refused', message: /UFFD/ });
  expect(await child.started.exited).toMatchObject({ code: 1 });
});

test('a pager that is killed early ends the VM that needs it, with the reason', async () => {
  await useOldVersion();
  const { points } = await chain(1);
  stopOnceItListens();
  const vm = await restore(points[0]!);
  expect(await isRunning(vm.record)).toBe(true);
  process.kill(pager.pid, 'SIGKILL');
  expect(await vm.exited).toMatchObject({
    signal: 'SIGKILL',
    why: { kind: 'pager', text: 'the pager ended before it had given the VM all of its memory' },
  });
});

test.each(['while the VM is being loaded', 'before the VM is loaded'])(
  'a pager that is killed %s fails the restore at once, with the reason',
  async (moment) => {
    const { points } = await chain(1);
    const servePages = pager.servePages.bind(pager);
    const listens = new Promise<void>((resolve) => {
      pager.servePages = async (request) => {
        await servePages(request);
        process.kill(pager.pid, moment.startsWith('while') ? 'SIGSTOP' : 'SIGKILL');
        resolve();
      };
    });
    const restoring = restore(points[0]!).catch((error: unknown) => error);
    await listens;
    // The VMM has connected, and waits for the pages that Firecracker writes at a load.
    if (moment.startsWith('while')) await until('the VM waits for a page', () => waitsForPage());
    process.kill(pager.pid, 'SIGKILL');
    expect(await restoring).toMatchObject({
      code: 'vm_start_failed',
      message: expect.stringMatching(/ended before the VM ran: (the pager ended|status 1)/) as string,
    });
  },
);

test('a VM that has lost its pager is ended by the next engine', async () => {
  await useOldVersion();
  const { points } = await chain(1);
  stopOnceItListens();
  const vm = await restore(points[0]!);
  // As it was when engine and pager ended together: the pages' socket is still there, and nobody has heard of the VM.
  const record = vm.record;
  process.kill(pager.pid, 'SIGKILL');
  await vm.exited;
  expect(await exists(join(record.dir, 'pages.sock'))).toBe(true);
  const next = await bench.engine('next');
  pager = await bench.pager();
  const orphan = await bench.bare();
  await writeFile(join(orphan.dir, 'pages.sock'), '');
  const left = { ...record, dir: orphan.dir, pid: orphan.started.pid, startTicks: orphan.started.startTicks };
  expect(await next.adopt(left, pager, false)).toBeNull();
  expect(await orphan.started.exited).toMatchObject({ signal: 'SIGKILL' });
});

test('a VM that has all of its memory survives the pager', async () => {
  const { points } = await chain(2);
  const child = await servedAndStill(points[1]!);
  await child.load();
  const vm = await restore(points[0]!);
  await untilWhole(child.socket);
  await untilWhole(join(vm.record.dir, 'pages.sock'));
  process.kill(pager.pid, 'SIGKILL');
  await pager.gone;
  expect(differingPages(await bench.memoryOf(child.api), points[1]!.truth, LOAD_PAGES)).toBe(0);
  await vm.pause();
  const one = await bench.memoryOf(vm.api);
  await vm.resume();
  await until('its guest writes', async () => {
    await vm.pause();
    const two = await bench.memoryOf(vm.api);
    await vm.resume();
    return differingPages(one, two) > 0;
  });
});

test('a pager that is told to end waits until no VM needs it', async () => {
  const { points } = await chain(1);
  const vm = await restore(points[0]!);
  await pager.shutdown();
  expect(await exists(join(vm.record.dir, 'pages.sock'))).toBe(false);
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
});

test('a VM that is killed before it is served is forgotten', async () => {
  await useOldVersion();
  const { points } = await chain(1);
  const child = await servedAndStill(points[0]!);
  process.kill(pager.pid, 'SIGSTOP');
  await child.load();
  process.kill(child.started.pid, 'SIGKILL');
  await child.started.exited;
  process.kill(pager.pid, 'SIGCONT');
  await until('it is forgotten', async () => (await pager.pages()).served.length === 0);
  expect((await pager.pages()).total).toMatchObject({ copied_pages: 0, faults: 0 });
});

test('a jailed VM is served in its own root, through the device that the jailer makes there', async (context) => {
  context.skip(process.geteuid?.() !== 0, 'the jailer needs root');
  context.skip(!(await exists('/dev/userfaultfd')), 'there is no /dev/userfaultfd before Linux 6.1');
  await bench[Symbol.asyncDispose]();
  bench = await Bench.open({}, true);
  pager = await bench.pager();
  engine = await bench.engine();
  const { done, source } = await whole();
  const vm = await restore({ done });
  expect(vm.vmRoot.user).not.toBeNull();
  await untilWhole(join(vm.record.dir, 'pages.sock'));
  expect((await pager.pages()).total.copied_pages).toBeGreaterThan(0);
  expect(await readdir(join(bench.dir, 'engine/memory'))).toEqual([]);
  const again = await vm.branch({ mode: 'full', resume: true });
  expect(again.stack).toHaveLength(1);
  await source.kill();
});

test.each(['ENOSYS', 'EPERM'])('without userfaultfd (%s) memory comes from a file', async (errno) => {
  const denied = errno === 'EPERM' ? ['userfaultfd:EPERM', 'userfaultfd-device:EPERM'] : [`userfaultfd:${errno}`];
  const bin = join(bench.dir, 'limited-pager');
  const program = [join(TARGET, 'forkd-deny'), ...denied, '--', join(TARGET, 'forkd-pager')];
  await writeFile(bin, `#!/bin/sh\nexec ${program.join(' ')} "$@"\n`);
  await chmod(bin, 0o755);
  await pager.shutdown();
  pager = await bench.pager(bin);
  const { points } = await chain(1);
  await expect(
    pager.servePages({ sandbox: 'x', pid: process.pid, mem_bytes: MEM_BYTES, stack: [], socket: join(bench.dir, 'x') }),
  ).rejects.toMatchObject({ code: 'unsupported' });
  const vm = await restore(points[0]!);
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  expect(await readdir(join(bench.dir, 'engine/memory'))).toHaveLength(1);
  const { done, truth } = await pointOf(vm, 'diff');
  expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
});
