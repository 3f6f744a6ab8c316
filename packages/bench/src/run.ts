import { cpus, hostname, loadavg, release, totalmem } from 'node:os';
import type { ForkdClient } from '@forkd/sdk';

/** What every benchmark is run with. */
export interface Run {
  /** Ends it: what it has started is ended, and its directories are removed. */
  signal: AbortSignal;
  /** Told what is being done, in a line each. */
  progress: (text: string) => void;
}

/** What the figures depend on. */
export interface HostFacts {
  /** The day, as 2001-12-31. */
  measured_on: string;
  hostname: string;
  kernel: string;
  cpu: string;
  cpus: number;
  mem_mib: number;
  /** Of the minute before: a busy host measures itself. */
  load_average: number;
  node: string;
  qemu: string;
  accelerator: string;
  accelerator_reason: string;
}

/** What each benchmark gives: every measurement, what they come to, and how they were made. */
export interface Report<Row, Entry> {
  host: HostFacts;
  /** One statement a line. */
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

/** The same of a controller on this host. */
export async function controllerFacts(client: ForkdClient): Promise<HostFacts> {
  const { engine } = await client.host();
  return hostFacts({ ...engine, acceleratorReason: engine.reason });
}
