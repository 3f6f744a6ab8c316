import type { SandboxInfo, SandboxStats } from '@forkd/api';
import { isForkdError, sleep, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { mapSome } from '../lib/concurrent.ts';
import { layerLine } from '../output/layer-memory.ts';
import { formatBytes, formatMs } from '../output/text.ts';
import { pickSandbox } from '../parse/resolve.ts';

interface Options {
  watch?: boolean;
}
type Row = SandboxStats & { name?: string };

const WATCH_MS = 1000;
const CLEAR_SCREEN = '\u001b[H\u001b[2J';
const HEADER = [
  'SANDBOX',
  'NAME',
  'STATE',
  'UP',
  'CPU',
  'CPU TIME',
  'RSS',
  'PRIVATE',
  'SHARED',
  'DISK',
  'DISK SHARED',
  'LIMIT',
  'EXECS',
  'BRANCHES',
];

export const stats = defineCommand<Options>({
  name: 'stats',
  summary: 'show what sandboxes use of the host',
  description:
    'PRIVATE is memory of one sandbox alone, SHARED is memory shared with its siblings. The last line is the memory of snapshots in RAM. With --watch and --json it prints one array per line.',
  args: [
    {
      name: 'sandbox',
      summary: 'ids, names, or beginnings of ids (default: all)',
      optional: true,
      variadic: true,
      completes: 'sandbox',
    },
  ],
  options: [{ flags: '--watch', summary: 'print again every second, until Ctrl-C' }],
  examples: [
    { line: 'forkd stats', summary: 'all sandboxes' },
    { line: 'forkd stats web --watch', summary: 'one sandbox, every second' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  let before = new Map<string, SandboxStats>();
  for (;;) {
    const rows = await collect(context, client, args);
    show(context, rows, before, options.watch === true);
    // The host request starts the engine, which need not run while there are no sandboxes.
    if (!context.out.isJson && rows.length > 0) {
      const { layers } = await client.host({ signal: context.signal });
      context.out.line(`layers: ${layerLine(layers)}`);
    }
    if (!options.watch) return;
    before = new Map(rows.map((row) => [row.id, row]));
    await sleep(WATCH_MS, context.signal);
  }
}

async function collect(context: Context, client: ForkdClient, texts: readonly string[]): Promise<Row[]> {
  const { signal } = context;
  const sandboxes = await client.listSandboxes({ signal });
  const ids = new Set(texts.map((text) => pickSandbox(sandboxes, text)));
  const meant = sandboxes.filter((sandbox) => texts.length === 0 || ids.has(sandbox.id));
  return (await mapSome(meant, (sandbox) => statsOf(client, sandbox, signal))).flat();
}

/** Returns no row if the sandbox has ended since it was listed. */
async function statsOf(client: ForkdClient, { id, name }: SandboxInfo, signal: AbortSignal): Promise<Row[]> {
  try {
    return [{ ...(await client.sandboxStats(id, { signal })), ...(name !== undefined && { name }) }];
  } catch (error) {
    if (isForkdError(error, 'not_found_sandbox', 'sandbox_ended')) return [];
    throw error;
  }
}

function show({ out }: Context, rows: readonly Row[], before: Map<string, SandboxStats>, watches: boolean): void {
  if (out.isJson) {
    if (watches) out.jsonLine(rows);
    else out.json(rows);
    return;
  }
  if (watches && out.streams.stdout.isTTY) out.streams.stdout.write(CLEAR_SCREEN);
  out.table(
    HEADER,
    rows.map((row) => cells(row, before.get(row.id))),
  );
}

function cells(row: Row, before: SandboxStats | undefined): string[] {
  return [
    row.id,
    row.name ?? '-',
    row.state,
    formatMs(row.uptime_secs * 1000),
    cpuShare(row, before),
    formatMs(row.cpu_secs * 1000),
    formatBytes(row.rss_bytes),
    formatBytes(row.private_bytes),
    formatBytes(row.shared_bytes),
    diskBytes(row.disk_own_bytes),
    diskBytes(row.disk_shared_bytes),
    row.memory_limit_bytes === null ? '-' : formatBytes(row.memory_limit_bytes),
    String(row.exec_count),
    String(row.branch_count),
  ];
}

/** A sandbox without a disk has no bytes on it. */
function diskBytes(bytes: number | undefined): string {
  return bytes === undefined ? '-' : formatBytes(bytes);
}

/** CPU usage since the previous row, or else since the start of the sandbox. 100 % is one processor. */
function cpuShare(row: SandboxStats, before: SandboxStats | undefined): string {
  const secs = row.uptime_secs - (before?.uptime_secs ?? 0);
  const used = row.cpu_secs - (before?.cpu_secs ?? 0);
  return secs > 0 ? `${Math.max(0, Math.round((100 * used) / secs))} %` : '-';
}
