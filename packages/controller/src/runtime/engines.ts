import { ApiError } from '@forkd/api';
import { type Engine, type EngineName, type Machine, type Pager, FirecrackerEngine, QemuEngine } from '@forkd/engine';
import type { MachineRecord } from '@forkd/store';
import type { Logger } from 'pino';
import { type Binaries, requireBinary } from '../binaries.ts';
import { messageOf, toApiError } from '../errors.ts';
import type { DataPaths } from '../paths.ts';
import type { Disks } from './disks.ts';
import type { GuestBoot } from './guest-boot.ts';
import type { Network } from './network.ts';

/** The parts of an engine. */
export interface EngineParts {
  name: EngineName;
  paths: DataPaths;
  binaries: Binaries;
  boot: GuestBoot;
  disks: Disks;
  network: Network | null;
  poolSizeMax: number;
  /** RAM for layers that no sandbox maps. `null`: the default of the pager. */
  layerCacheBytes: number | null;
  log: Logger;
}

export interface ProbedEngine {
  engine: Engine;
  /** True if the accelerator has been tried with a kernel, or needs no trial. */
  probed: boolean;
}

/** Finds the engine that the controller was told to use, and its capabilities on this host. */
export async function createEngine(parts: EngineParts, pager: Pager, signal: AbortSignal): Promise<ProbedEngine> {
  const { name, paths, log } = parts;
  const made =
    name === 'qemu'
      ? await createQemu(parts, pager, signal)
      : { engine: await FirecrackerEngine.create({ dir: paths.firecracker, signal }), probed: true };
  const { engine } = made;
  log.info({ engine: name, version: engine.version, accelerator: engine.accelerator }, engine.acceleratorReason);
  for (const { id, ok, detail } of engine.isolation) {
    if (!ok) log.warn({ isolation: id, reason: detail }, 'VMMs are confined by less than they could be');
  }
  return made;
}

async function createQemu(parts: EngineParts, pager: Pager, signal: AbortSignal): Promise<ProbedEngine> {
  const { paths, binaries, boot, disks, network, poolSizeMax, log } = parts;
  const shim = await requireBinary(binaries, 'shim');
  const jail = await requireBinary(binaries, 'jail');
  const probeKernel = await boot.known();
  const pool = {
    dir: paths.pool,
    sizeMax: poolSizeMax,
    onError: (error: unknown) => log.warn({ reason: messageOf(error) }, 'could not start a VMM ahead of a fork'),
  };
  const findDiskServer = () => disks.find();
  const wires = network === null ? {} : { wires: network };
  const options = { cacheDir: paths.cache, shim, jail, pager, findDiskServer, pool, signal, ...wires };
  const engine = await QemuEngine.create(
    probeKernel === null
      ? options
      : { ...options, probeKernel, windowTrial: { kernel: probeKernel, dir: paths.sandboxes } },
  );
  return { engine, probed: probeKernel !== null };
}

/** A snapshot's machine as this engine's. Throws `machine_mismatch` for another engine's, or when it cannot run here. */
export function machineFor(engine: Engine, tag: string, record: MachineRecord): Machine {
  const { accelerator } = record;
  if (record.engine !== engine.name || (accelerator !== 'kvm' && accelerator !== 'tcg')) {
    const theirs = `${record.engine} ${record.engine_version} (${accelerator})`;
    const ours = `${engine.name} ${engine.version} (${engine.accelerator})`;
    throw new ApiError(
      'machine_mismatch',
      `Snapshot '${tag}' was taken with ${theirs}, and this controller runs ${ours}.`,
      {
        hint: `Fork it with a controller that was started with --engine ${record.engine}. ${rebuildHint(tag)}`,
      },
    );
  }
  const machine: Machine = { ...record, engine: engine.name, accelerator };
  try {
    engine.checkMachine(machine);
  } catch (error) {
    const { code, message, hint } = toApiError(error);
    throw new ApiError(code, `Snapshot '${tag}': ${message}`, { hint: `${hint} ${rebuildHint(tag)}`, cause: error });
  }
  return machine;
}

/** Why this engine cannot restore a snapshot, as a sentence; undefined if it can. */
export function mismatchOf(engine: Engine, tag: string, record: MachineRecord): string | undefined {
  try {
    machineFor(engine, tag, record);
    return undefined;
  } catch (error) {
    return toApiError(error).message;
  }
}

function rebuildHint(tag: string): string {
  return `A template is built again here by: forkd rebuild ${tag}`;
}
