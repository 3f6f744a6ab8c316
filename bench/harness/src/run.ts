import { cpus, hostname, loadavg, release, totalmem } from 'node:os';
import type { ForkdClient } from '@forkd/sdk';

/** Settings of every benchmark. */
export interface Run {
  /** Ends the run: everything that it started is ended, and its directories are removed. */
  signal: AbortSignal;
  /** Called with a line of text for each step. */
  progress: (text: string) => void;
}

/** Facts about the host that the figures depend on. */
export interface HostFacts {
  /** The date, as 2001-12-31. */
  measured_on: string;
  hostname: string;
  kernel: string;
  cpu: string;
  cpus: number;
  mem_mib: number;
  /** Load of the minute before. On a busy host the figures measure the host itself. */
  load_average: number;
  node: string;
  qemu: string;
  accelerator: string;
  accelerator_reason: string;
}

/** Result of a benchmark: all measurements, their summary, and how they were made. */
export interface Report<Row, Entry> {
  host: HostFacts;
  /** The method, with one statement per line. */
  method: string[];
  rows: Row[];
  summary: Entry[];
}

export function hostFacts(engine: { version: string; accelerator: string; acceleratorReason: string }): HostFacts {
  const { version, accelerator, acceleratorReason } = engine;
  return {
    measured_on: new Date().toISOString().slice(0, 10),
    hostname: hostname(),
    kernel: release(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cpus: cpus().length,
    mem_mib: Math.round(totalmem() / 2 ** 20),
    load_average: Number((loadavg()[0] ?? 0).toFixed(2)),
    node: process.versions.node,
    qemu: version,
    accelerator,
    accelerator_reason: acceleratorReason,
  };
}

/** The same facts from a controller on this host. */
export async function controllerFacts(client: ForkdClient): Promise<HostFacts> {
  const { engine } = await client.host();
  return hostFacts({ ...engine, acceleratorReason: engine.reason });
}
