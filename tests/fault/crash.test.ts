// Proves: a controller that is killed at any instant of a mixed run loses no sandbox that ran, leaves no orphan, and its
// registry agrees with every answer that it gave. A fork whose answer was lost is had once, by asking again with its key.
// The instants are random (FORKD_TEST_SEED repeats them, FORKD_TEST_CRASHES says how many), and, with strace, writes of a
// scripted run: one of each kind, or with FORKD_TEST_WRITES=all each in turn.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MixedRun, randomOf, restart, TestController } from '@forkd/testing';
import { expect, test } from 'vitest';

const CRASHES = Number(process.env['FORKD_TEST_CRASHES'] ?? 3);
const SEED = Number(process.env['FORKD_TEST_SEED'] ?? Date.now() % 2 ** 31);
const WORKERS = 4;
/** The longest that a run goes on before it is cut off: each request takes a fraction of it. */
const RUN_MS_MAX = 1_500;
/** The kinds of requests that have been answered are more than this, however slow the host is. */
const ANSWERED_MIN = 3;
/** So that what is there does not grow from crash to crash. */
const CLEAR_EVERY = 4;

test(
  `killed at ${CRASHES} random points of a mixed run (seed ${SEED})`,
  { timeout: 60_000 + CRASHES * 30_000 },
  async () => {
    const random = randomOf(SEED);
    await using controller = await TestController.start({ template: true });
    const run = new MixedRun(controller, random);
    // A run in which little was answered would show little.
    for (let crash = 1; crash <= CRASHES || run.answered.size <= ANSWERED_MIN; crash += 1) {
      const stop = new AbortController();
      const working = run.work(WORKERS, stop.signal);
      await delay(random() * RUN_MS_MAX);
      await controller.kill9();
      stop.abort();
      await working;
      await restart(controller);
      await run.verify();
      if (crash % CLEAR_EVERY === 0) await run.clear();
    }
    expect(run.answered.size).toBeGreaterThan(ANSWERED_MIN);
    console.log(`answered between the crashes: ${JSON.stringify(Object.fromEntries(run.answered))}`);
  },
);

/** What a controller changes its files with. */
const WRITES = ['mkdir', 'fsync', 'rename', 'unlink', 'rmdir'] as const;
/** Of each kind of write one is tried, another in each run; FORKD_TEST_WRITES=all tries all. */
const TRIES_ALL = process.env['FORKD_TEST_WRITES'] === 'all';
/** All file operations in one thread, so that they can be counted. */
const ONE_THREAD = { UV_THREADPOOL_SIZE: '1', UV_USE_IO_URING: '0' };

/** Starts the controller under strace: that alone, not the pager and the VMMs that it starts. */
function traced(controller: TestController, ...more: string[]): Promise<void> {
  const through = ['strace', '-f', '-qq', '--detach-on=execve', '--signal=none', ...more];
  return controller.serve([], { through, env: ONE_THREAD });
}

test(
  `killed at ${TRIES_ALL ? 'each' : 'some'} write of a scripted run (seed ${SEED})`,
  { timeout: 60 * 60_000 },
  async () => {
    const random = randomOf(SEED);
    await using controller = await TestController.start({ template: true });
    const log = join(controller.dir, 'writes.log');
    await controller.stop();
    await traced(controller, '-e', `trace=${WRITES.join(',')}`, '-o', log);
    const counted = new MixedRun(controller, random);
    await counted.script();
    await controller.stop();
    const text = await readFile(log, 'utf8');
    await controller.serve();
    await counted.verify();
    await counted.clear();
    for (const write of WRITES) {
      const count = text.split('\n').filter((line) => line.includes(` ${write}(`)).length;
      expect({ [write]: count }).toEqual({ [write]: expect.toSatisfy((n: number) => n > 0) });
      const all = Array.from({ length: count }, (_, index) => index + 1);
      for (const nth of TRIES_ALL ? all : [1 + Math.floor(random() * count)]) {
        const run = new MixedRun(controller, random);
        await controller.stop();
        const inject = ['-e', `inject=${write}:signal=SIGKILL:when=${nth}`, '-o', '/dev/null'];
        // It may already end while it starts.
        await traced(controller, '-e', `trace=${write}`, ...inject).then(
          () => run.script(),
          () => undefined,
        );
        await restart(controller);
        await run.verify();
        await run.clear();
      }
    }
  },
);
