/**
 * The pool of VMMs that wait, with a real pager and real QEMUs, which have no VM yet and so need neither kernel nor image:
 * how many wait, of which shapes, and that whatever ends it (its close, the pager, a lack of memory) leaves nothing.
 */
import { mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Pager } from '../src/pager/client.ts';
import { QemuEngine } from '../src/qemu/engine.ts';
import type { Idle } from '../src/qemu/idle.ts';
import { Jail } from '../src/qemu/jail.ts';
import { type PoolParts, VmmPool } from '../src/qemu/pool.ts';
import type { Shape } from '../src/types.ts';

const TARGET = join(import.meta.dirname, '../../../target/release');
const SHIM = join(TARGET, 'libforkd_shim.so');
const LAUNCHER = join(TARGET, 'forkd-jail');
const PLENTY = 64 * 2 ** 30;
const WAIT_MS = 60_000;

let dir: string;
let pager: Pager;
let jail: Jail;
let small: Shape;
let large: Shape;
const pools: VmmPool[] = [];

beforeEach(async () => {
  dir = await mkdtemp('/tmp/fk-pool-');
  pager = await connect();
  jail = await Jail.open(LAUNCHER, 'qemu-system-x86_64', dir);
  const engine = await QemuEngine.create({ cacheDir: dir, shim: SHIM, jail: LAUNCHER, pager, accelerator: 'tcg' });
  const rootImage = join(dir, 'disk');
  await writeFile(rootImage, Buffer.alloc(1 << 20));
  small = { machine: engine.machine(64, 1), rootImage };
  large = { machine: engine.machine(128, 1), rootImage };
});

afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()));
  await pager.shutdown().catch(() => undefined);
  if ((await processes()).length > 0) throw new Error('a VMM was left behind');
  await rm(dir, { recursive: true, force: true });
});

function connect(): Promise<Pager> {
  return Pager.ensure({ bin: join(TARGET, 'forkd-pager'), runDir: join(dir, 'run'), storeDir: join(dir, 'store') });
}

function newPool(sizeMax: number, more: Partial<PoolParts> = {}): VmmPool {
  const pool = new VmmPool({
    dir: join(dir, 'pool'),
    sizeMax,
    program: 'qemu-system-x86_64',
    findDiskServer: undefined,
    shim: SHIM,
    jail,
    window: 'monitor',
    availableBytes: async () => PLENTY,
    onError: (error) => expect.unreachable(String(error)),
    ...more,
  });
  pools.push(pool);
  return pool;
}

/** The VMMs whose log is in this test's directory. */
async function processes(): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const logs = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/fd/1`).catch(() => '')));
  return pids.filter((_, index) => logs[index]?.startsWith(`${dir}/`) && logs[index].endsWith('/vmm.log')).map(Number);
}

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${WAIT_MS} ms: ${what}`);
    await delay(10);
  }
}

async function end(idle: Idle | undefined): Promise<void> {
  if (!idle) throw new Error('there was none to take');
  process.kill(idle.process.pid, 'SIGKILL');
  await idle.process.exited;
}

test('a taken VMM is replaced, up to the size of the pool and not beyond', async () => {
  const pool = newPool(2);
  await pool.fill(small, pager, 5);
  expect(pool.count(small)).toBe(2);
  const idle = pool.take(small, pager);
  expect(pool.count(small)).toBe(1);
  await pool.yieldTo(async () => undefined);
  await until('the pool is full again', () => pool.count(small) === 2);
  expect(await processes()).toHaveLength(3);
  await end(idle);
});

test('no VMM is started for the pool while a VM is being started', async () => {
  const pool = newPool(2);
  const starts: string[] = [];
  await pool.fill(small, pager, 2);
  const idle = pool.take(small, pager);
  await pool.yieldTo(async () => {
    await pool.yieldTo(async () => undefined);
    starts.push(...(await readdir(join(dir, 'pool'))));
  });
  expect(starts).toHaveLength(2);
  await until('the pool is full again', () => pool.count(small) === 2);
  await end(idle);
});

test('the VMM that is being started is given to the first VM that asks for one, which waits for it', async () => {
  const pool = newPool(1);
  const filling = pool.fill(small, pager, 1);
  const first = await pool.yieldTo(async () => {
    const [one, other] = await Promise.all([pool.takeSoon(small, pager), pool.takeSoon(small, pager)]);
    await filling;
    expect(other).toBeUndefined();
    expect(await processes()).toEqual([one?.process.pid]);
    return one;
  });
  await until('there is another', () => pool.count(small) === 1);
  await end(first);
});

test('shapes share the pool, but each VMM is given only to its own shape', async () => {
  const pool = newPool(4);
  await pool.fill(small, pager, 4);
  expect(pool.take(large, pager)).toBeUndefined();
  await pool.yieldTo(async () => undefined);
  await until('both have their share', () => pool.count(small) === 2 && pool.count(large) === 2);
  expect(await processes()).toHaveLength(4);
});

test('a VMM that ends by itself is replaced without a fork, and not given away', async () => {
  const pool = newPool(1);
  await pool.fill(small, pager, 1);
  const [pid = 0] = await processes();
  process.kill(pid, 'SIGKILL');
  await until('there is another', async () => (await processes()).some((other) => other !== pid));
  await until('the other one waits', () => pool.count(small) === 1);
  expect(await readdir(join(dir, 'pool'))).toHaveLength(1);
});

test('ten forks in a row take the ten VMMs that wait for them, which are started side by side', async () => {
  const pool = newPool(10);
  pool.take(small, pager);
  await pool.yieldTo(async () => undefined);
  await until('the pool is full', () => pool.count(small) === 10);
  const taken = await pool.yieldTo(async () => Array.from({ length: 10 }, () => pool.take(small, pager)));
  expect(new Set(taken.map((idle) => idle?.process.pid)).size).toBe(10);
  await Promise.all(taken.map(end));
});

test('a start that failed is tried again by itself, and does not hold up another shape', async () => {
  const errors: unknown[] = [];
  const pool = newPool(2, { onError: (error) => errors.push(error) });
  await rm(small.rootImage);
  const other = join(dir, 'other');
  await writeFile(other, Buffer.alloc(1 << 20));
  pool.take({ ...small, rootImage: other }, pager);
  pool.take(small, pager);
  await pool.yieldTo(async () => undefined);
  await until('the other shape has its share', () => pool.count({ ...small, rootImage: other }) === 1);
  await until('the start has failed', () => errors.length > 0);
  expect(pool.count(small)).toBe(0);
  await writeFile(small.rootImage, Buffer.alloc(1 << 20));
  await until('it is tried again', () => pool.count(small) === 1);
});

test('a host short of memory ends the waiting VMMs and starts no more', async () => {
  let available = PLENTY;
  const pool = newPool(2, { availableBytes: async () => available });
  await pool.fill(small, pager, 2);
  available = 100 * 2 ** 20;
  await until('the VMMs have ended', async () => (await processes()).length === 0);
  pool.take(small, pager);
  await pool.yieldTo(async () => undefined);
  expect(pool.count(small)).toBe(0);
  available = PLENTY;
  await until('the pool is full again, without a fork', () => pool.count(small) === 2);
});

test('waiting VMMs end with their pager, and the next pager gets new ones', async () => {
  const pool = newPool(2);
  await pool.fill(small, pager, 2);
  process.kill(pager.pid, 'SIGKILL');
  await until('the VMMs have ended', () => pool.count(small) === 0);
  pager = await connect();
  await pool.fill(small, pager, 2);
  expect(pool.count(small)).toBe(2);
});

test('waiting VMMs end with the connection of their controller, even when it is killed', async () => {
  const pool = newPool(2);
  await pool.fill(small, pager, 2);
  expect(await processes()).toHaveLength(2);
  pager.close();
  await until('the VMMs have ended', async () => (await processes()).length === 0);
  pager = await connect();
});

test('a closed pool leaves nothing, and starts no more VMMs', async () => {
  const pool = newPool(2);
  await pool.fill(small, pager, 2);
  await pool.close();
  expect(await processes()).toEqual([]);
  await expect(readdir(join(dir, 'pool'))).rejects.toMatchObject({ code: 'ENOENT' });
  await pool.fill(small, pager, 2);
  expect(pool.count(small)).toBe(0);
});

test('a VMM that cannot be started is reported, and leaves nothing', async () => {
  const pool = newPool(1, { program: 'false' });
  await expect(pool.fill(small, pager, 1)).rejects.toMatchObject({ code: 'vm_start_failed' });
  expect(await readdir(join(dir, 'pool'))).toEqual([]);
});
