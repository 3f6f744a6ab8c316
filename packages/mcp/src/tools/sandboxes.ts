import { HostInfo, PingResponse, SandboxInfo, SandboxStats } from '@forkd/api';
import { Type } from 'typebox';
import { defineTool } from '../tool.ts';
import { given, listOf, orNull, sandboxId } from './fields.ts';

const LOG_BYTES_DEFAULT = 16 * 1024;
const LOG_BYTES_MAX = 64 * 1024;

const spawnSandboxes = defineTool({
  name: 'spawn_sandboxes',
  title: 'Start sandboxes',
  description: 'Starts `n` sandboxes from a snapshot, all or none. They end when their time to live is over.',
  effect: 'write',
  input: Type.Object({
    snapshot_tag: Type.String({ description: 'Snapshot to start from.' }),
    n: Type.Optional(Type.Integer({ minimum: 1, description: 'How many. Default: 1.' })),
    per_child_netns: Type.Optional(Type.Boolean({ description: 'Accepted for older clients.' })),
    memory_limit_mib: orNull(Type.Integer({ description: 'Memory limit of each in MiB. Default: no limit.' })),
    prewarm: Type.Optional(Type.Boolean({ description: 'Accepted for older clients: needs nothing.' })),
    live_fork: Type.Optional(Type.Boolean({ description: 'Accepted for older clients: needs nothing.' })),
  }),
  output: listOf(SandboxInfo),
  run: ({ snapshot_tag, n = 1, memory_limit_mib, per_child_netns }, { budget, signal }) =>
    budget.start(n, signal, async () => ({ snapshot_tag, ...given({ memory_limit_mib, per_child_netns }) })),
});

const listSandboxes = defineTool({
  name: 'list_sandboxes',
  title: 'List sandboxes',
  description: 'Lists the sandboxes that run or are paused.',
  effect: 'read',
  input: Type.Object({}),
  output: listOf(SandboxInfo),
  run: (_, { client, signal }) => client.listSandboxes({ signal }),
});

const getSandbox = defineTool({
  name: 'get_sandbox',
  title: 'Describe a sandbox',
  description: 'Returns the state of a sandbox.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId }),
  output: SandboxInfo,
  run: (args, { client, signal }) => client.getSandbox(args.sandbox_id, { signal }),
});

const sandboxStats = defineTool({
  name: 'sandbox_stats',
  title: 'Resource usage of a sandbox',
  description: 'Returns processor time, memory and page faults of a sandbox since its start.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId }),
  output: SandboxStats,
  run: (args, { client, signal }) => client.sandboxStats(args.sandbox_id, { signal }),
});

const sandboxLogs = defineTool({
  name: 'sandbox_logs',
  title: 'Console of a sandbox',
  description: 'Returns the end of what the guest has written to its console.',
  effect: 'read',
  input: Type.Object({
    sandbox_id: sandboxId,
    tail_bytes: Type.Optional(
      Type.Integer({ minimum: 1, maximum: LOG_BYTES_MAX, description: `Default: ${LOG_BYTES_DEFAULT}.` }),
    ),
  }),
  output: Type.Object({ text: Type.String() }),
  async run({ sandbox_id, tail_bytes = LOG_BYTES_DEFAULT }, { client, signal }) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of client.sandboxLogs(sandbox_id, { tail_bytes }, { signal })) chunks.push(chunk);
    return { text: Buffer.concat(chunks).toString('utf8') };
  },
});

const pauseSandbox = defineTool({
  name: 'pause_sandbox',
  title: 'Pause a sandbox',
  description: 'Stops the processors of a sandbox and keeps its memory.',
  effect: 'write',
  isIdempotent: true,
  input: Type.Object({ sandbox_id: sandboxId }),
  output: SandboxInfo,
  run: (args, { client, signal }) => client.pauseSandbox(args.sandbox_id, { signal }),
});

const resumeSandbox = defineTool({
  name: 'resume_sandbox',
  title: 'Resume a sandbox',
  description: 'Continues a paused sandbox.',
  effect: 'write',
  isIdempotent: true,
  input: Type.Object({ sandbox_id: sandboxId }),
  output: SandboxInfo,
  run: (args, { client, signal }) => client.resumeSandbox(args.sandbox_id, { signal }),
});

const killSandbox = defineTool({
  name: 'kill_sandbox',
  title: 'End a sandbox',
  description: 'Ends a sandbox. Its memory and its files are lost; snapshots of it stay.',
  effect: 'destroy',
  input: Type.Object({ sandbox_id: sandboxId }),
  output: Type.Object({ id: Type.String(), killed: Type.Literal(true) }),
  async run(args, { client, signal }) {
    await client.deleteSandbox(args.sandbox_id, { signal });
    return { id: args.sandbox_id, killed: true };
  },
});

const pingSandbox = defineTool({
  name: 'ping_sandbox',
  title: 'Ping a sandbox',
  description: 'Checks that the agent in a sandbox answers.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId }),
  output: PingResponse,
  run: (args, { client, signal }) => client.ping(args.sandbox_id, { signal }),
});

const hostInfo = defineTool({
  name: 'host_info',
  title: 'Describe the host',
  description: 'Returns what the host and its virtual machine monitor can do, and how much they do now.',
  effect: 'read',
  input: Type.Object({}),
  output: HostInfo,
  run: (_, { client, signal }) => client.host({ signal }),
});

export const sandboxTools = [
  spawnSandboxes,
  listSandboxes,
  getSandbox,
  sandboxStats,
  sandboxLogs,
  pauseSandbox,
  resumeSandbox,
  killSandbox,
  pingSandbox,
  hostInfo,
];
