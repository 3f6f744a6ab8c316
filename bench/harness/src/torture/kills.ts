import { setTimeout as delay } from 'node:timers/promises';
import { type TestController, until } from '@forkd/testing';

/** The processes that are killed, in turn. */
const VICTIMS = ['pager', 'controller'] as const;
type Victim = (typeof VICTIMS)[number];

const REST_MS = 3_000;
const RECOVERY_MS_MAX = 60_000;

/** Time for which the service was away after each kill. */
export interface Outage {
  victim: Victim;
  /** Time from the kill until a command in a sandbox was answered again. */
  ms: number;
}

/** Kills the pager and the controller by turns until `signal` fires. Waits each time until `id` answers a command. */
export async function killByTurns(controller: TestController, id: string, signal: AbortSignal): Promise<Outage[]> {
  const outages: Outage[] = [];
  for (let turn = 0; !signal.aborted; turn += 1) {
    const victim = VICTIMS[turn % VICTIMS.length] ?? 'pager';
    const startMs = performance.now();
    if (victim === 'pager') await controller.killOnly('pager');
    else await controller.kill9();
    if (victim === 'controller') await controller.serve();
    await until(`a sandbox answers after the ${victim} was killed`, RECOVERY_MS_MAX, () => answers(controller, id));
    outages.push({ victim, ms: performance.now() - startMs });
    await delay(REST_MS, undefined, { signal }).catch(() => undefined);
  }
  return outages;
}

async function answers({ client }: TestController, id: string): Promise<boolean> {
  return client.exec(id, { args: ['true'] }).then(
    () => true,
    () => false,
  );
}
