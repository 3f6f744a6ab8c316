import { defineCommand, type Call } from '../command.ts';
import { resolveSandbox } from '../lib/resolve.ts';
import { formatMs } from '../lib/text.ts';

export const ping = defineCommand({
  name: 'ping',
  summary: 'ask the agent in a sandbox whether it answers',
  args: [{ name: 'sandbox', summary: 'id, a beginning of it, or name', completes: 'sandbox' }],
  options: [],
  examples: [{ line: 'forkd ping sb-1f', summary: 'prints the round trip' }],
  run,
});

async function run({ context, args }: Call<Record<string, unknown>>): Promise<void> {
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, args[0] ?? '', context);
  const startMs = performance.now();
  const answer = await client.ping(sandboxId, { signal: context.signal });
  const roundTripMs = performance.now() - startMs;
  if (context.out.isJson) context.out.json({ ...answer, round_trip_ms: roundTripMs });
  else context.out.line(`pong from ${sandboxId} in ${formatMs(roundTripMs)}`);
}
