import { EngineError } from './errors.ts';
import { processorDifferences } from './processor.ts';
import type { Capabilities, Machine, RestoreSpec } from './types.ts';

/** Throws `machine_mismatch`, naming what differs, when a snapshot of `there` cannot be restored as `here`. */
export function compareMachines(here: Machine, there: Machine): void {
  const { processor: hereProcessor, ...fields } = here;
  const keys = Object.keys(fields) as (keyof typeof fields)[];
  const differing = keys
    .filter((key) => there[key] !== here[key])
    .map((key) => `${key} is ${here[key]} here and ${there[key]} there`);
  // An older snapshot does not say what its processor was: that it was taken on such a host is up to its owner.
  if (there.processor) differing.push(...processorDifferences(hereProcessor, there.processor));
  if (differing.length === 0) return;
  const list = differing.join('; ');
  throw new EngineError('machine_mismatch', `The snapshot was taken of another kind of machine: ${list}.`, {
    hint: 'Restore it on a host like the one it was taken on. A template that is to travel needs the processor model x86-64-v2.',
  });
}

/** Throws `unsupported` where a VM is to be limited and cannot be. */
export function refuseMemoryLimit({ id, memoryLimitMib }: RestoreSpec, { memory_limit }: Capabilities): void {
  if (memoryLimitMib === undefined || memory_limit === true) return;
  const sentence = `The VM ${id} cannot be limited to ${memoryLimitMib} MiB. ${memory_limit}`;
  throw new EngineError('unsupported', sentence, { hint: 'Leave the memory limit out.' });
}
