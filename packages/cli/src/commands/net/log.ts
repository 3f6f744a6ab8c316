import type { NetworkFlow } from '@forkd/api';
import { defineCommand, type Call } from '../../command.ts';
import { formatBytes, formatMs } from '../../output/text.ts';
import { resolveSandbox } from '../../parse/resolve.ts';

interface Options {
  follow?: boolean;
  sandbox?: string;
}

const PHASE_COLUMNS = 6;

export const log = defineCommand<Options>({
  name: 'log',
  summary: 'print what sandboxes have reached, and what was denied',
  description:
    'The latest connections of all sandboxes, the oldest first: when, which sandbox, what became of it, where it went, and ' +
    'the rule or the reason. With --json it prints one object per line.',
  args: [],
  options: [
    { flags: '-f, --follow', summary: 'keep printing new connections, until Ctrl-C' },
    { flags: '--sandbox <sandbox>', summary: 'only connections of this sandbox', completes: 'sandbox' },
  ],
  examples: [
    { line: 'forkd net log', summary: 'the latest connections' },
    { line: 'forkd net log -f --json --sandbox web', summary: 'those of one sandbox, for a program' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const { out, signal } = context;
  const query: { follow?: boolean; sandbox?: string } = {};
  if (options.follow === true) query.follow = true;
  if (options.sandbox !== undefined) query.sandbox = await resolveSandbox(client, options.sandbox, context);
  for await (const flow of client.networkFlows(query, { signal })) {
    if (out.isJson) out.jsonLine(flow);
    else out.line(lineOf(flow));
  }
}

function lineOf(flow: NetworkFlow): string {
  const { time_unix_ms: timeMs, sandbox, phase, direction, protocol, name, address, port, lost } = flow;
  const time = new Date(timeMs).toISOString().slice(11, 23);
  const where = `${name === null ? address : `${name} (${address})`}:${port}${protocol === null ? '' : `/${protocol}`}`;
  const arrow = direction === 'out' ? '->' : '<-';
  const why = [flow.rule, flow.reason].filter((text) => text !== null).join(', ');
  const sizes = phase === 'closed' ? sizesOf(flow) : '';
  const gap = lost === 0 ? '' : `(${lost} earlier ones are missing)`;
  return [time, sandbox, phase.padEnd(PHASE_COLUMNS), arrow, where, why, sizes, gap]
    .filter((text) => text !== '')
    .join(' ');
}

function sizesOf({ sent_bytes: sent, received_bytes: received, duration_ms: ms }: NetworkFlow): string {
  return `sent ${formatBytes(sent)}, received ${formatBytes(received)} in ${formatMs(ms)}`;
}
