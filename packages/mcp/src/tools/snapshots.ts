import { BranchMode, SnapshotInfo, SnapshotInfoDetail } from '@forkd/api';
import { Sandbox, Snapshot } from '@forkd/sdk';
import { Type } from 'typebox';
import { defineTool } from '../tool.ts';
import { given, listOf, orNull, sandboxId, tag } from './fields.ts';

const listSnapshots = defineTool({
  name: 'list_snapshots',
  title: 'List snapshots',
  description:
    'Lists the snapshots that sandboxes can be started from: templates, and branches of sandboxes. `parent_tag` and ' +
    '`branched_from` say what each came from.',
  effect: 'read',
  input: Type.Object({}),
  output: listOf(SnapshotInfo),
  run: (_, { client, signal }) => client.listSnapshots({ signal }),
});

const snapshotInfo = defineTool({
  name: 'snapshot_info',
  title: 'Describe a snapshot',
  description:
    'Returns the sizes of a snapshot in bytes, its ancestors (root first), and the snapshots that depend on it.',
  effect: 'read',
  input: Type.Object({ tag }),
  output: SnapshotInfoDetail,
  run: (args, { client, signal }) => client.getSnapshotDetail(args.tag, { signal }),
});

const buildTemplate = defineTool({
  name: 'build_template',
  title: 'Build a template',
  description:
    'Builds a template: makes a root file system, boots it, warms it up and takes a snapshot. Takes minutes if the image is new.',
  effect: 'write',
  input: Type.Object({
    tag,
    source: Type.String({
      description:
        'A recipe (`python`, `debian`, `busybox`), a registry reference, or a directory or archive of the host.',
    }),
    warm: orNull(
      Type.String({ description: 'Python code that is run in the interpreter before the snapshot is taken.' }),
    ),
    mem_mib: orNull(Type.Integer({ description: 'Memory of the guest in MiB. Default: 512.' })),
  }),
  output: SnapshotInfo,
  async run({ tag: name, source, warm, mem_mib }, { client, signal, progress }) {
    const onProgress = (event: { stage: string; message: string }) => progress(`${event.stage}: ${event.message}`);
    const request = { tag: name, source, ...given({ warm, mem_mib }) };
    return (await Snapshot.create(request, { client, signal, onProgress })).snapshot.info;
  },
});

const createSnapshot = defineTool({
  name: 'create_snapshot',
  title: 'Snapshot of a kernel and a root file system',
  description: 'Boots a kernel with a root file system, both files of the host, and takes a snapshot.',
  effect: 'write',
  input: Type.Object({
    tag,
    kernel: Type.String({ description: 'Path of the kernel image on the host.' }),
    rootfs: Type.String({ description: 'Path of the root file system on the host.' }),
    rw: Type.Optional(Type.Boolean({ description: 'Mount the root writable. Default: false.' })),
    tap: orNull(Type.String({ description: 'Accepted for older clients. Guests have no network.' })),
    boot_wait_secs: Type.Optional(Type.Number({ description: 'How long to wait for the guest. Default: 10.' })),
  }),
  output: SnapshotInfo,
  run: (args, { client, signal }) => client.createSnapshot({ ...args, ...given({ tap: args.tap }) }, { signal }),
});

const branchSandbox = defineTool({
  name: 'branch_sandbox',
  title: 'Branch a running sandbox',
  description:
    'Takes a snapshot of a running sandbox, which keeps running. Start sandboxes that continue from it with spawn_sandboxes.',
  effect: 'write',
  input: Type.Object({
    sandbox_id: sandboxId,
    tag: orNull(Type.String({ description: 'Tag of the new snapshot. Default: made of the id and the time.' })),
    diff: Type.Optional(Type.Boolean({ description: 'Older form of `mode: "diff"`.' })),
    measure_diff: Type.Optional(Type.Boolean({ description: 'Also measure what `diff` would have cost.' })),
    mode: orNull(BranchMode),
    wait: Type.Optional(Type.Boolean({ description: 'False: reply once the sandbox runs again. Needs mode `live`.' })),
  }),
  output: SnapshotInfo,
  run({ sandbox_id, tag: name, mode, diff, ...rest }, { client, signal }) {
    const how = mode === undefined || mode === null ? given({ diff }) : { mode };
    return client.branch(sandbox_id, { ...given({ tag: name }), ...how, ...rest }, { signal });
  },
});

const forkSandbox = defineTool({
  name: 'fork_sandbox',
  title: 'Fork a running sandbox',
  description:
    'Starts `n` sandboxes that continue from this instant of a running sandbox, with its memory, files and processes. The ' +
    'sandbox keeps running. Use it to try several ways from one state.',
  effect: 'write',
  input: Type.Object({
    sandbox_id: sandboxId,
    n: Type.Optional(Type.Integer({ minimum: 1, description: 'How many. Default: 1.' })),
    tag: orNull(Type.String({ description: 'Tag of the branch that is taken for it. Default: made up.' })),
  }),
  output: Type.Object({ snapshot: SnapshotInfo, sandbox_ids: Type.Array(Type.String()) }),
  async run({ sandbox_id, n = 1, tag: name }, { client, budget, signal }) {
    let snapshot: SnapshotInfo | undefined;
    const children = await budget.start(n, signal, async () => {
      snapshot = (await Sandbox.branch(sandbox_id, { client, signal, ...given({ tag: name }) })).info;
      return { snapshot_tag: snapshot.tag };
    });
    return { snapshot, sandbox_ids: children.map(({ id }) => id) };
  },
});

const deleteSnapshot = defineTool({
  name: 'delete_snapshot',
  title: 'Delete a snapshot',
  description: 'Deletes a snapshot. Fails if others depend on it, unless `cascade` deletes them too.',
  effect: 'destroy',
  input: Type.Object({ tag, cascade: Type.Optional(Type.Boolean({ description: 'Default: false.' })) }),
  output: Type.Object({ tag: Type.String(), deleted: Type.Literal(true) }),
  async run({ tag: name, cascade }, { client, signal }) {
    await client.deleteSnapshot(name, given({ cascade }), { signal });
    return { tag: name, deleted: true };
  },
});

const waitForSnapshot = defineTool({
  name: 'wait_for_snapshot',
  title: 'Wait for a snapshot',
  description: 'Waits until a snapshot is `ready` (it can be forked) or `durable` (it is on disk).',
  effect: 'read',
  input: Type.Object({
    tag,
    until: Type.Union([Type.Literal('ready'), Type.Literal('durable')]),
    timeout_secs: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 600, description: 'Default: 60.' })),
  }),
  output: SnapshotInfo,
  async run({ tag: name, until, timeout_secs = 60 }, { client, signal }) {
    const snapshot = new Snapshot(client, await client.getSnapshot(name, { signal }));
    return (await snapshot.waitUntil(until, { signal, requestTimeoutMs: timeout_secs * 1000 })).info;
  },
});

export const snapshotTools = [
  listSnapshots,
  snapshotInfo,
  buildTemplate,
  createSnapshot,
  branchSandbox,
  forkSandbox,
  deleteSnapshot,
  waitForSnapshot,
];
