import type { ControllerEvent } from '@forkd/api';
import { isForkdError, sleep } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { pickSandbox } from '../parse/resolve.ts';

interface Options {
  after?: string;
  sandbox?: string;
}

const RECONNECT_MS = [200, 500, 1000, 2000, 5000];
const TYPE_COLUMNS = 20;

export const events = defineCommand<Options>({
  name: 'events',
  summary: 'print what happens to sandboxes, snapshots and workspaces, as it happens',
  description:
    'Runs until Ctrl-C. If the controller restarts, it continues after the last event. With --json it prints one object per line.',
  args: [],
  options: [
    { flags: '--sandbox <sandbox>', summary: 'only events of this sandbox', completes: 'sandbox' },
    { flags: '--after <event>', summary: 'start after the event with this id' },
  ],
  examples: [
    { line: 'forkd events', summary: 'one line per event' },
    { line: 'forkd events --json --sandbox web', summary: 'events of one sandbox, for a program' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const query: { after?: string; sandbox?: string } = {};
  if (options.after !== undefined) query.after = options.after;
  if (options.sandbox !== undefined) {
    // Check that the sandbox exists: otherwise we would wait for its events for ever.
    query.sandbox = pickSandbox(await client.listSandboxes({ signal: context.signal }), options.sandbox);
  }
  // Fail if the controller does not answer the first request. Only later failures are waited out.
  await client.version({ signal: context.signal });
  for (let tries = 0; ; tries += 1) {
    try {
      for await (const event of client.events(query, { signal: context.signal })) {
        query.after = event.id;
        tries = 0;
        print(context, event);
      }
    } catch (error) {
      context.signal.throwIfAborted();
      if (!isAway(error)) throw error;
    }
    if (tries === 1) context.out.note(`The controller at ${client.place} does not answer; waiting for it.`);
    await sleep(RECONNECT_MS[Math.min(tries, RECONNECT_MS.length - 1)] ?? 0, context.signal);
  }
}

function isAway(error: unknown): boolean {
  return ['connection_failed', 'stream_cut', 'shutting_down'].some((code) => isForkdError(error, code));
}

function print({ out }: Context, event: ControllerEvent): void {
  if (out.isJson) {
    out.jsonLine(event);
    return;
  }
  const whose = [event.workspace, event.sandbox, event.snapshot].filter((name) => name !== undefined).join(' ');
  const reason = event.reason === undefined ? '' : `  ${event.reason}`;
  out.line(`${new Date(event.time_unix_ms).toISOString()}  ${event.type.padEnd(TYPE_COLUMNS)}  ${whose}${reason}`);
}
