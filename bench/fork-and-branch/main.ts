/**
 * The two headline figures, each beside its floor, measured in turn in one run on real guests:
 * fork (until the VM runs, and until the first command has answered) beside a bare QEMU restore;
 * the pause of a live branch, the guest writing as fast as it can, beside stop + device state + run.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, hostname, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Guest, installStorm, type Point, startStorm, Lab } from '@forkd/lab';
import { type BareImage, bareRestore, writeMemoryFile } from './bare.ts';
import { type Summary, summarize, timed } from './statistics.ts';

const USAGE = `usage: npm run bench -- [--forks N] [--branches N] [--storm-mib MIB] [--json FILE]
  --forks N        forks and bare restores, in turn (30)
  --branches N     live branches and floors, in turn (60)
  --storm-mib MIB  memory that the guest rewrites while it is branched (64)
  --json FILE      writes the figures`;

interface Options {
  forks: number;
  branches: number;
  stormMib: number;
  json: string | undefined;
}

interface ForkFigures {
  running_ms: Summary;
  first_exec_ms: Summary;
  bare_restore_ms: Summary;
}

interface BranchFigures {
  pause_ms: Summary;
  floor_ms: Summary;
  ready_ms: Summary;
  fault_wait_us: Summary;
  captured_mib: Summary;
}

function readOptions(): Options {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({ options: { forks: text, branches: text, 'storm-mib': text, json: text } });
  const count = (value: string | undefined, fallback: number): number => {
    const number = Number(value ?? fallback);
    if (!Number.isInteger(number) || number < 1) throw new Error(`"${value}" is not a count`);
    return number;
  };
  return {
    forks: count(values.forks, 30),
    branches: count(values.branches, 60),
    stormMib: count(values['storm-mib'], 64),
    json: values.json,
  };
}

async function benchFork(host: Lab, template: Point, bare: BareImage, rounds: number): Promise<ForkFigures> {
  const [running, firstExec, floor]: number[][] = [[], [], []];
  for (let round = 0; round < rounds; round += 1) {
    floor?.push(await bareRestore(bare));
    const started = await timed(() => host.restore(template));
    const answered = await timed(async () => {
      const guest = await host.join(started.value);
      await host.identify(guest);
      await guest.agent.run(['true']);
      return guest;
    });
    running?.push(started.ms);
    firstExec?.push(started.ms + answered.ms);
    await host.end(answered.value);
  }
  return {
    running_ms: summarize(running ?? []),
    first_exec_ms: summarize(firstExec ?? []),
    bare_restore_ms: summarize(floor ?? []),
  };
}

async function benchBranch(host: Lab, source: Guest, rounds: number): Promise<BranchFigures> {
  const [pause, floor, ready, wait, captured]: number[][] = [[], [], [], [], []];
  for (let round = 0; round < rounds; round += 1) {
    floor?.push((await host.pager.floor(source.vm.record.id)).pause_us / 1e3);
    const { stats } = await host.branch(source);
    pause?.push(stats.pause_us / 1e3);
    ready?.push(stats.ready_us / 1e3);
    wait?.push(stats.fault_wait_ns_max / 1e3);
    captured?.push(stats.captured_bytes / 2 ** 20);
  }
  return {
    pause_ms: summarize(pause ?? []),
    floor_ms: summarize(floor ?? []),
    ready_ms: summarize(ready ?? []),
    fault_wait_us: summarize(wait ?? []),
    captured_mib: summarize(captured ?? []),
  };
}

function printRow(name: string, { p50, p99, max }: Summary, floor?: Summary): void {
  const cells = [p50, p99, max].map((value) => value.toFixed(2).padStart(10));
  const ratio = floor ? `   p50 is ${(p50 / floor.p50).toFixed(2)} × its floor` : '';
  process.stdout.write(`${name.padEnd(34)}${cells.join('')}${ratio}\n`);
}

function printTable(fork: ForkFigures, branch: BranchFigures): void {
  process.stdout.write(`${''.padEnd(34)}${['p50', 'p99', 'max'].map((name) => name.padStart(10)).join('')}\n`);
  printRow('bare QEMU restore, ms', fork.bare_restore_ms);
  printRow('fork, until it runs, ms', fork.running_ms, fork.bare_restore_ms);
  printRow('fork, until it has answered, ms', fork.first_exec_ms);
  printRow('stop + device state + run, ms', branch.floor_ms);
  printRow('live branch, pause, ms', branch.pause_ms, branch.floor_ms);
  printRow('live branch, until ready, ms', branch.ready_ms);
  printRow('longest wait for a page, µs', branch.fault_wait_us);
  printRow('captured, MiB', branch.captured_mib);
}

async function run(options: Options): Promise<void> {
  const scratch = await mkdtemp('/dev/shm/fk-bench-');
  await using host = await Lab.start();
  const interrupted = (): void => void host[Symbol.asyncDispose]().finally(() => process.exit(130));
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    const template = await host.template(installStorm);
    const [layer = ''] = template.stack;
    const memory = join(scratch, 'memory');
    await writeMemoryFile(host.blob(layer), memory, template.machine);
    const { machine, deviceState } = template;
    const fork = await benchFork(
      host,
      template,
      { machine, memory, deviceState, rootImage: host.rootImage },
      options.forks,
    );
    const source = await host.fork(template);
    await startStorm(source.agent, options.stormMib);
    const branch = await benchBranch(host, source, options.branches);
    printTable(fork, branch);
    const facts = {
      hostname: hostname(),
      kernel: release(),
      cpus: cpus().length,
      mem_mib: Math.round(totalmem() / 2 ** 20),
      qemu: host.engine.version,
      accelerator: host.engine.accelerator,
    };
    const document = { host: facts, options, fork, branch };
    if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(document, null, 2)}\n`);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

try {
  await run(readOptions());
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
  process.exitCode = 1;
}
