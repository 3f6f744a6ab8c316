import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DiskServer } from '@forkd/engine';
import type { ForkdClient } from '@forkd/sdk';
import { BUILT, DISK_TEMPLATE, forkOne, Lab, shell, TestController } from '@forkd/testing';
import { type DiskEntry, diskLoads, type DiskRow, summarizeDisk } from './disk-summary.ts';
import { type Drive, DiskVm } from './disk-vm.ts';
import { hostFacts, type Report, type Run } from './run.ts';
import { rotated, round, timed } from './statistics.ts';
import { formatMib } from './units.ts';

export interface DiskSetting {
  /** MiB written before the branches that are compared with those after 1 MiB. */
  dirtyMib: number;
  iterations: number;
  /** How much of each device is read and written. */
  spanMib: number;
  /** How long a device is read or written. */
  loadMs: number;
  /** Layers of the disk on a deep stack. */
  depth: number;
}

export type DiskReport = Report<DiskRow, DiskEntry>;

const LITTLE_MIB = 1;
const MEM_MIB = 256;
/** The size of the guest's writes. */
const PIECE_MIB = 16;
const WRITE_SECS_MAX = 600;
/** The most rewritten for one layer of the deep stack. */
const LAYER_MS = 50;

const METHOD = [
  'pause, ready: live branches through REST of a sandbox that has written so much to its disk, and synced it, since its last branch. By turns, in an order that rotates. floor: stop, save the device state, run, by the monitor, right after each.',
  'Loads: one request at a time past the page cache of the guest, of 1 MiB in order or of 4 KiB anywhere, to devices of one guest that QEMU runs alone: a raw file, a disk, and the same on a stack of layers each of which has blocks all over it. By turns, in an order that rotates.',
  'after a branch: the first writes since the content was sealed, which go to new places; the raw file writes in place.',
  'qcow2, for the record: stop, blockdev-snapshot-sync, run, by the monitor, with no device state saved; beside it stop and run of the same VM when so much was written to a disk.',
];

export async function benchDisk(setting: DiskSetting, run: Run): Promise<DiskReport> {
  const rows = await measureBranches(setting, run);
  await using lab = await Lab.start({ signal: run.signal });
  rows.push(...(await measureLoads(lab, setting, run)));
  return { host: hostFacts(lab.engine), method: METHOD, rows, summary: summarizeDisk(rows) };
}

async function measureBranches({ dirtyMib, iterations }: DiskSetting, run: Run): Promise<DiskRow[]> {
  await using controller = await TestController.start({ template: false });
  const { client } = controller;
  run.progress('disk: making a template');
  await client.createSnapshot({ tag: 'disk', ...DISK_TEMPLATE });
  const id = await forkOne(client, 'disk');
  // A file in memory: reading it costs the guest nothing.
  await shell(client, id, `head -c ${PIECE_MIB * 2 ** 20} /dev/urandom > /dev/piece`);
  const rows: DiskRow[] = [];
  // The first round is not counted: the guest's cache fills its memory, and the pager finds cold code.
  for (let iteration = -1; iteration < iterations; iteration += 1) {
    for (const mib of rotated([LITTLE_MIB, dirtyMib], Math.max(0, iteration))) {
      run.signal.throwIfAborted();
      const figures = await branchAfter(client, id, mib);
      const of = `${formatMib(mib)} written`;
      const row = { of, unit: 'ms' as const, iteration };
      if (iteration >= 0) {
        rows.push(...figures.map(([measure, ms]) => ({ measure, ...row, value: round(ms) })));
      }
    }
    run.progress(`disk: ${iteration + 1} of ${iterations} branches`);
  }
  return rows;
}

/** Writes so much to the disk, branches the sandbox, and removes the branch. */
async function branchAfter(
  client: ForkdClient,
  id: string,
  mib: number,
): Promise<(readonly ['pause' | 'ready' | 'floor', number])[]> {
  const file = `/written-${mib}`;
  const pieces = `for n in $(seq ${Math.floor(mib / PIECE_MIB)}); do cat /dev/piece; done`;
  const rest = `head -c ${(mib % PIECE_MIB) * 2 ** 20} /dev/piece`;
  const script = `touch ${file}; { ${pieces}; ${rest}; } 1<> ${file}; sync`;
  const written = await client.exec(id, { args: ['sh', '-c', script], timeout_secs: WRITE_SECS_MAX });
  if (written.exit_code !== 0) throw new Error(`writing ${mib} MiB ended with ${written.exit_code}: ${written.stderr}`);
  const { tag, pause_us: pauseUs = 0, ready_ms: readyMs = 0 } = await client.branch(id, { mode: 'live' });
  const { pause_us: floorUs } = await client.floor(id);
  await client.deleteSnapshot(tag);
  return [
    ['pause', pauseUs / 1e3],
    ['ready', readyMs],
    ['floor', floorUs / 1e3],
  ];
}

async function measureLoads(lab: Lab, setting: DiskSetting, run: Run): Promise<DiskRow[]> {
  const { spanMib, loadMs, iterations, depth } = setting;
  const paths = { bin: BUILT.disk, runDir: join(lab.dir, 'disks'), storeDir: join(lab.dir, 'store') };
  const server = await DiskServer.ensure(paths);
  try {
    await using vm = await DiskVm.boot(lab, MEM_MIB, await makeDrives(lab, server, spanMib), run.signal);
    for (const node of ['raw', 'disk', 'deep']) await vm.fill(node, spanMib);
    for (let layer = 1; layer < depth; layer += 1) {
      run.progress(`disk: layer ${layer} of ${depth - 1}`);
      await server.freeze('deep');
      await vm.load('deep', 'write 4 KiB anywhere', spanMib, LAYER_MS);
    }
    const rows: DiskRow[] = [];
    for (let iteration = 0; iteration < iterations; iteration += 1) {
      for (const load of diskLoads) {
        for (const [node, of] of rotated(DEVICES, iteration)) {
          run.signal.throwIfAborted();
          if (load.endsWith('after a branch') && node !== 'raw') await server.freeze(node);
          const value = round(await vm.load(node, load, spanMib, loadMs));
          const unit = load.includes('4 KiB') ? 'requests/s' : 'MiB/s';
          rows.push({ measure: load, of, unit, iteration, value });
        }
      }
      rows.push(...(await measureQcow2(vm, lab, setting, iteration)));
      run.progress(`disk: ${iteration + 1} of ${iterations} rounds of loads`);
    }
    return rows;
  } finally {
    await server.shutdown();
  }
}

/** Node names, and the names in the report. */
const DEVICES = [
  ['raw', 'raw file'],
  ['disk', 'disk'],
  ['deep', 'disk on deep stack'],
] as const;

async function makeDrives(lab: Lab, server: DiskServer, spanMib: number): Promise<Drive[]> {
  const sizeBytes = spanMib * 2 ** 20;
  const makeRaw = async (name: string): Promise<object> => {
    const filename = join(lab.dir, name);
    await writeFile(filename, '');
    await truncate(filename, sizeBytes);
    return { driver: 'raw', file: { driver: 'file', filename, discard: 'unmap' } };
  };
  for (const key of ['disk', 'deep']) await server.open({ key, size_bytes: sizeBytes, layers: [], pid: null });
  const nbd = (key: string): object => ({
    driver: 'nbd',
    server: { type: 'unix', path: server.vmmSocket },
    export: key,
  });
  return [
    { node: 'raw', options: await makeRaw('raw') },
    { node: 'disk', options: nbd('disk') },
    { node: 'deep', options: nbd('deep') },
    // Each snapshot puts a qcow2 file on top.
    { node: 'qcow2-0', options: await makeRaw('qcow2-0') },
  ];
}

/** The pause of an external snapshot of qcow2, and of no snapshot, each after the same was written. */
async function measureQcow2(vm: DiskVm, lab: Lab, { spanMib }: DiskSetting, iteration: number): Promise<DiskRow[]> {
  const pause = async (of: string, node: string, action: () => Promise<unknown>): Promise<DiskRow> => {
    await vm.fill(node, spanMib);
    const { ms } = await timed(async () => {
      await vm.monitor('stop');
      await action();
      await vm.monitor('cont');
    });
    return { measure: 'stop, snapshot and run', of, unit: 'ms', iteration, value: round(ms) };
  };
  const written = `${formatMib(spanMib)} written`;
  const next = iteration + 1;
  const snapshot = {
    'node-name': `qcow2-${iteration}`,
    'snapshot-file': join(lab.dir, `qcow2-${next}`),
    'snapshot-node-name': `qcow2-${next}`,
    format: 'qcow2',
  };
  return [
    await pause(`qcow2, ${written}`, 'qcow2-0', () => vm.monitor('blockdev-snapshot-sync', snapshot)),
    await pause(`disk, ${written}`, 'disk', () => Promise.resolve()),
  ];
}
