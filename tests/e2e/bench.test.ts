/**
 * The benchmarks as users run them, in small: each prints one document with every figure that it promises, progress goes to
 * stderr, and neither a process nor a directory is left behind, even after an interrupt. The figures are not judged.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO, requireBuilt, until, whyNoKvmDevice } from '@forkd/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const CLI = join(REPO, 'packages/cli/bundle/forkd.js');
const WAIT_MS = 60_000;

/** A directory in the PATH of every process of a benchmark, by which the tests find these processes. */
let mark: string;

beforeAll(async () => {
  await requireBuilt();
  mark = await mkdtemp('/tmp/forkd-bench-');
});

afterAll(async () => {
  await rm(mark, { recursive: true, force: true });
});

/** A benchmark that runs. */
class Bench {
  stdout = '';
  stderr = '';
  /** Where it keeps what it needs, once that is known. */
  dir = '';
  readonly child: ChildProcess;

  constructor(...args: string[]) {
    const env = { ...process.env, PATH: `${process.env['PATH']}:${mark}` };
    const child = spawn(process.execPath, [CLI, 'bench', ...args], { stdio: 'pipe', env });
    child.stdout.on('data', (text: Buffer) => (this.stdout += text.toString()));
    child.stderr.on('data', (text: Buffer) => (this.stderr += text.toString()));
    this.child = child;
  }

  /** Resolves when its pager runs, which says where its directory is. */
  async started(): Promise<void> {
    await until('its pager runs', WAIT_MS, async () => {
      const runDir = (await marked()).map((line) => /--run-dir (\S+)\/run/.exec(line)?.[1]).find(Boolean);
      this.dir = runDir ?? '';
      return runDir !== undefined;
    });
  }

  /** Throws what it said when it has not ended with `code`. */
  async endsWith(code: number): Promise<void> {
    const { child } = this;
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
    if (child.exitCode !== code) throw new Error(`it ended with ${child.exitCode} and said: ${this.stderr}`);
  }

  /** The processes of the benchmark, and its directory if that still exists. */
  async left(): Promise<string[]> {
    const isThere = await access(this.dir).then(
      () => true,
      () => false,
    );
    return [...(await marked()), ...(isThere ? [this.dir] : [])];
  }
}

/** The command lines of all processes that a benchmark of this test has started. */
async function marked(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map(async (pid) => {
      const environment = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '');
      if (!environment.includes(mark)) return '';
      return (await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).replaceAll('\0', ' ');
    }),
  );
  return lines.filter((line) => line !== '');
}

const number = expect.any(Number);
const quantiles = { n: number, p50: number, p99: number, max: number };
const count = (n: number) => ({ ...quantiles, n });

describe('forkd bench', { timeout: 2 * WAIT_MS }, () => {
  test('branch prints one row per branch and one entry per mode, and leaves nothing behind', async () => {
    const modes = ['--modes', 'live-async,diff'];
    const bench = new Bench(
      'branch',
      '--iterations',
      '2',
      '--mem',
      '256',
      '--private',
      '8',
      '--storm',
      ...modes,
      '--json',
    );
    await bench.started();
    await bench.endsWith(0);
    const { host, method, rows, summary } = JSON.parse(bench.stdout) as Record<string, unknown[]>;
    expect(host).toMatchObject({ cpus: number, qemu: expect.any(String), accelerator: expect.any(String) });
    expect(method?.join(' ')).toContain('ratio_p99 the pause p99 over the floor p50');
    expect(rows?.map((row) => (row as { mode: string }).mode)).toEqual(['live-async', 'diff', 'diff', 'live-async']);
    const entry = (mode: string) => ({
      mem_mib: 256,
      private_mib: 8,
      storm: true,
      mode,
      pause_ms: count(2),
      floor_ms: count(4),
      ratio_p50: number,
      ratio_p99: number,
      round_trip_ms: count(2),
      ready_ms: count(2),
      durable_ms: count(2),
      guest_gap_ms: count(2),
      guest_gap_ready_ms: count(2),
      quiet_gap_ms: count(2),
      faults: number,
      fault_wait_us: { p50: number, p99: number, max: number },
    });
    expect(summary).toMatchObject([entry('live-async'), entry('diff')]);
    for (const row of rows as { pause_us: number; private_pages: number; guest_gap_ms: number }[]) {
      // At least eight MiB are private, and the guest sees a gap of at least the pause.
      expect(row.private_pages).toBeGreaterThan(2048);
      expect(row.guest_gap_ms).toBeGreaterThanOrEqual(Math.floor(row.pause_us / 1e3));
    }
    expect(bench.stderr).toContain('2 of 2');
    expect(await bench.left()).toEqual([]);
    const { payload } = JSON.parse(bench.stdout) as { payload?: { rows: unknown[]; summary: unknown[] } };
    const isMeasured =
      (await whyNoKvmDevice()) === null && (host as unknown as { accelerator: string }).accelerator === 'tcg';
    expect(payload !== undefined).toBe(isMeasured);
    if (payload === undefined) return;
    // On a host whose KVM runs no Linux it runs a guest without a kernel, and the results say so.
    const guest = 'payload (no kernel), KVM';
    const figures = { pause_ms: count(2), floor_ms: count(4), ratio_p50: number, guest_gap_ms: count(2) };
    expect(payload).toMatchObject({ guest, cpu_model: expect.stringMatching(/./) });
    expect(payload.summary).toMatchObject([
      { guest, mode: 'live', ...figures },
      { guest, mode: 'diff', ...figures },
    ]);
    expect(payload.rows).toHaveLength(4);
  });

  test('exec measures both ways on a real controller, and leaves nothing behind', async () => {
    const bench = new Bench('exec', '--iterations', '5', '--json', '--quiet');
    await bench.started();
    await bench.endsWith(0);
    const { rows, summary } = JSON.parse(bench.stdout) as { rows: unknown[]; summary: unknown[] };
    expect(rows).toHaveLength(10);
    expect(summary).toEqual([{ rest_ms: count(5), agent_ms: count(5), added_ms: number }]);
    expect(bench.stderr).toBe('');
    expect(await bench.left()).toEqual([]);
  });

  test('disk measures every load of every device, and leaves nothing behind', async () => {
    const sizes = ['--dirty-mib', '8', '--span-mib', '8', '--load-ms', '10', '--depth', '3'];
    const bench = new Bench('disk', '--iterations', '1', ...sizes, '--json', '--quiet');
    await bench.started();
    await bench.endsWith(0);
    const { summary } = JSON.parse(bench.stdout) as { summary: { values: object }[] };
    // Three figures of two branches, five loads of three devices, two ways to stand still.
    expect(summary).toHaveLength(6 + 15 + 2);
    for (const { values } of summary) expect(values).toEqual({ n: 1, p50: number, least: number, most: number });
    expect(await bench.left()).toEqual([]);
  });

  test('ends its guests when it is interrupted during a measurement', async () => {
    const bench = new Bench('branch', '--iterations', '1000', '--storm', '--modes', 'live-async');
    await bench.started();
    await until('it has branched', WAIT_MS, async () => bench.stderr.includes('1 of 1000'));
    expect((await marked()).some((line) => line.startsWith('qemu-system-x86_64'))).toBe(true);
    bench.child.kill('SIGINT');
    await bench.endsWith(130);
    expect(bench.stdout).toBe('');
    expect(await bench.left()).toEqual([]);
  });
});
