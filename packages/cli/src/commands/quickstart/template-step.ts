import { randomBytes } from 'node:crypto';
import type { ForkdClient } from '@forkd/sdk';
import { buildTemplate } from '../../lib/build.ts';
import { formatMs } from '../../output/text.ts';
import { removeTags } from './cleanup.ts';
import { diskFields } from './disk-step.ts';
import { allTags, TEMPLATE_TAG, type Run } from './run.ts';
import { warmCode } from './warm.ts';

/** Builds and warms up the template. @returns its times and the nonce that its children must know. */
export async function templateStep(run: Run): Promise<{ build_ms: number; warm_ms: number; nonce: string }> {
  const { out } = run.context;
  out.line('1. Build the python image, boot it, warm it, snapshot it');
  await removeLeftovers(run.client, run.context.signal);
  const nonce = randomBytes(8).toString('hex');
  const request = { tag: TEMPLATE_TAG, source: 'python', warm: warmCode(nonce), ...diskFields(run) };
  const { times } = await buildTemplate(run.context, request);
  out.line(
    `   image ${formatMs(times.build_ms)}, boot ${formatMs(times.boot_ms)}, warm-up ${formatMs(times.warm_ms)}, snapshot ${formatMs(times.snapshot_ms)}`,
  );
  return { build_ms: times.build_ms, warm_ms: times.warm_ms, nonce };
}

/** Removes snapshots of an earlier run that was killed or was told to keep them. */
async function removeLeftovers(client: ForkdClient, signal: AbortSignal): Promise<void> {
  const present = new Set((await client.listSnapshots({ signal })).map((snapshot) => snapshot.tag));
  await removeTags(
    client,
    allTags.filter((tag) => present.has(tag)),
    signal,
  );
}
