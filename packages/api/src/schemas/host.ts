import { Type, type Static } from 'typebox';
import { Count, field, Measure, Nullable, WindowKind } from './common.ts';

export const IsolationInfo = Type.Object(
  {
    id: field(Type.String(), 'Name of the measure, such as `own_user`, `seccomp` or `mount_namespace`.'),
    ok: field(Type.Boolean(), 'True if the measure is in force on this host.'),
    detail: field(Type.String(), 'What the measure does, or why it is unavailable on this host.'),
  },
  { description: 'A measure that confines the process of a VM.' },
);
export type IsolationInfo = Static<typeof IsolationInfo>;

export const CapabilityInfo = Type.Object(
  {
    id: field(Type.String(), 'Name of the capability, such as `live`, `memory_limit` or `pool`.'),
    ok: field(Type.Boolean(), 'True if the capability is available.'),
    why: field(
      Nullable(Type.String()),
      'Why the capability is unavailable, in a sentence. A request that needs it is refused with the same sentence. Null ' +
        'if it is available.',
    ),
  },
  { description: 'Something that not every engine can do on every host.' },
);
export type CapabilityInfo = Static<typeof CapabilityInfo>;

const engineExample = {
  name: 'qemu',
  version: '7.2.9',
  accelerator: 'kvm',
  reason: '/dev/kvm can be opened.',
  live_unavailable: null,
  capabilities: [{ id: 'live', ok: true, why: null }],
  window: 'inside',
  isolation: [{ id: 'seccomp', ok: true, detail: 'System calls are filtered.' }],
};

export const EngineInfo = Type.Object(
  {
    name: field(Type.String(), 'Name of the engine: `qemu` or `firecracker`.'),
    version: field(Type.String(), 'Version of the engine.'),
    accelerator: field(Type.String(), 'What runs the guest: `kvm`, or `tcg` for emulation.'),
    reason: field(Type.String(), 'Why this accelerator was chosen.'),
    live_unavailable: field(
      Nullable(Type.String()),
      'Why live branches are unavailable on this host. Null if they are available.',
    ),
    capabilities: field(
      Type.Array(CapabilityInfo),
      'What the engine can do here. A request for anything else is refused with `unsupported`.',
    ),
    window: field(
      Type.Optional(WindowKind),
      'What conducts the pauses of live branches: the VMM itself from `inside`, or the pager over its `monitor`. The ' +
        'capability `window_inside` says why it is the monitor.',
    ),
    isolation: field(Type.Array(IsolationInfo), 'How the processes of VMs are confined.'),
  },
  { description: 'The engine, which runs the VMs.', examples: [engineExample] },
);
export type EngineInfo = Static<typeof EngineInfo>;

export const LayerMemoryInfo = Type.Object(
  {
    budget_bytes: field(
      Count,
      'Memory that unused layers may occupy. Layers beyond the budget are evicted, the least recently used first.',
    ),
    mapped_bytes: field(
      Count,
      'Memory of layers in use: mapped by sandboxes, or read by a branch, an export or a page server.',
    ),
    unmapped_bytes: field(Count, 'Memory of layers that are on disk and not in use.'),
    pending_bytes: field(
      Count,
      'Memory of layers that are not in use and not on disk yet. These layers are never evicted.',
    ),
    view_bytes: field(
      Count,
      'Memory of merged views, each of which is mapped in place of many layers. Included in the mapped and unmapped bytes.',
    ),
    layers: field(Count, 'Number of layers and merged views in memory.'),
    let_go: field(Count, 'Number of layers evicted since the pager started.'),
    loaded_again: field(Count, 'Number of times an evicted layer was read from disk again.'),
    merged: field(Count, 'Number of merged views that were built in the background.'),
    merged_in_forks: field(Count, 'Number of merged views that a fork had to wait for.'),
    merged_in_forks_ms: field(Measure, 'Total time that forks waited for merged views, in milliseconds.'),
  },
  { description: 'Memory of snapshots, held in RAM as layers that sandboxes share.' },
);
export type LayerMemoryInfo = Static<typeof LayerMemoryInfo>;

export const HostInfo = Type.Object(
  {
    hostname: field(Type.String(), 'Name of the host.'),
    kernel: field(Type.String(), 'Kernel release of the host.'),
    cpus: field(Count, 'Number of processors of the host.'),
    mem_bytes: field(Count, 'Memory of the host, in bytes.'),
    engine: field(EngineInfo, 'The engine that runs the VMs.'),
    layers: field(LayerMemoryInfo, 'The memory of snapshots.'),
    data_dir: field(Type.String(), 'Data directory of the controller.'),
    pid: field(Type.Integer(), 'Process id of the controller.'),
    version: field(Type.String(), 'Version of the controller.'),
  },
  {
    description: 'The host, its engine and the controller.',
    examples: [
      {
        hostname: 'build-7',
        kernel: '6.1.0-18-amd64',
        cpus: 8,
        mem_bytes: 33_567_916_032,
        engine: engineExample,
        layers: {
          budget_bytes: 8_391_979_008,
          mapped_bytes: 184_549_376,
          unmapped_bytes: 0,
          pending_bytes: 0,
          view_bytes: 0,
          layers: 2,
          let_go: 0,
          loaded_again: 0,
          merged: 0,
          merged_in_forks: 0,
          merged_in_forks_ms: 0,
        },
        data_dir: '/var/lib/forkd',
        pid: 812,
        version: '0.1.0',
      },
    ],
  },
);
export type HostInfo = Static<typeof HostInfo>;

export const ShutdownQuery = Type.Object({
  sandboxes: field(
    Type.Optional(Type.Literal('kill')),
    '`kill`: end the sandboxes and then the pager before the controller ends. Default: sandboxes keep running, and the next ' +
      'controller adopts them.',
  ),
});
export type ShutdownQuery = Static<typeof ShutdownQuery>;

export const ShutdownResponse = Type.Object(
  {
    pid: field(Type.Integer(), 'Process id of the controller that is ending.'),
    sandboxes_ended: field(Count, 'Number of sandboxes that were ended.'),
  },
  { description: 'The controller ends after this reply.', examples: [{ pid: 812, sandboxes_ended: 0 }] },
);
export type ShutdownResponse = Static<typeof ShutdownResponse>;
