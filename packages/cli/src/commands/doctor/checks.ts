import type { Check } from './check.ts';
import { cgroupChecks } from './checks/cgroups.ts';
import { daemonChecks } from './checks/daemon.ts';
import { dataChecks } from './checks/data.ts';
import { engineChecks } from './checks/engine.ts';
import { featureChecks } from './checks/features.ts';
import { firecrackerChecks } from './checks/firecracker.ts';
import { isolationChecks } from './checks/isolation.ts';
import { memoryChecks } from './checks/memory.ts';
import { nativeChecks } from './checks/native.ts';
import { networkChecks } from './checks/network.ts';
import { platformChecks } from './checks/platform.ts';
import { randomChecks } from './checks/random.ts';
import { toolChecks } from './checks/tools.ts';
import type { Facts } from './facts.ts';
import { skip, type Finding } from './row.ts';

/** Every row, in the order in which they are shown: from the machine to what runs on it. */
export const checks: readonly Check[] = [
  ...platformChecks,
  ...cgroupChecks,
  ...nativeChecks,
  ...featureChecks,
  ...memoryChecks,
  ...engineChecks,
  ...firecrackerChecks,
  ...isolationChecks,
  ...toolChecks,
  ...dataChecks,
  ...networkChecks,
  ...daemonChecks,
  ...randomChecks,
];

/** Runs all checks. Returns their findings by id. */
export async function lookAtAll(facts: Facts): Promise<Map<string, Finding>> {
  const findings = new Map<string, Finding>();
  for (const check of checks) findings.set(check.id, await lookAt(check, facts));
  return findings;
}

/** Runs one check. A failed system call makes the row a skip, so that the other rows are still checked. */
export async function lookAt(check: Check, facts: Facts): Promise<Finding> {
  try {
    return await check.look(facts);
  } catch (error) {
    facts.signal.throwIfAborted();
    if (!(error instanceof Error && 'syscall' in error)) throw error;
    return skip(`it cannot be looked at: ${error.message}`, 'what this row is about is not known here');
  }
}
