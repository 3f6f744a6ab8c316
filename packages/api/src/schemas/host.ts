import { Type, type Static } from 'typebox';
import { Count, Nullable } from './common.ts';

/** One thing that the process of a VM can be kept from. */
export const IsolationInfo = Type.Object({
  /** Such as `own_user`, `seccomp`, `mount_namespace`. */
  id: Type.String(),
  ok: Type.Boolean(),
  /** What that means, or why it cannot be had on this host. */
  detail: Type.String(),
});
export type IsolationInfo = Static<typeof IsolationInfo>;

/** One thing that not every engine can do on every host. */
export const CapabilityInfo = Type.Object({
  /** Such as `live`, `memory_limit`, `pool`. */
  id: Type.String(),
  ok: Type.Boolean(),
  /** Why not, as a sentence: what a request that asks for it is answered; null where it can be had. */
  why: Nullable(Type.String()),
});
export type CapabilityInfo = Static<typeof CapabilityInfo>;

export const EngineInfo = Type.Object({
  name: Type.String(),
  version: Type.String(),
  accelerator: Type.String(),
  /** Why this accelerator and not the better one. */
  reason: Type.String(),
  /** Why a live branch cannot be had here; null when it can. */
  live_unavailable: Nullable(Type.String()),
  /** What can be asked for. The rest is refused with `unsupported`. */
  capabilities: Type.Array(CapabilityInfo),
  /** How the processes of VMs are confined; what a host does not allow has `ok: false`. */
  isolation: Type.Array(IsolationInfo),
});
export type EngineInfo = Static<typeof EngineInfo>;

/** `GET /v1/host`. */
export const HostInfo = Type.Object({
  hostname: Type.String(),
  kernel: Type.String(),
  cpus: Count,
  mem_bytes: Count,
  engine: EngineInfo,
  data_dir: Type.String(),
  /** Of the controller. */
  pid: Type.Integer(),
  version: Type.String(),
});
export type HostInfo = Static<typeof HostInfo>;

/** `POST /v1/shutdown`, on the unix socket only. */
export const ShutdownQuery = Type.Object({
  /** End the sandboxes, and then the pager, first; otherwise they run on and are adopted at the next start. */
  sandboxes: Type.Optional(Type.Literal('kill')),
});
export type ShutdownQuery = Static<typeof ShutdownQuery>;

export const ShutdownResponse = Type.Object({ pid: Type.Integer(), sandboxes_ended: Count });
export type ShutdownResponse = Static<typeof ShutdownResponse>;
