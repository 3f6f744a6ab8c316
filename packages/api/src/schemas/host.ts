import { Type, type Static } from 'typebox';
import { Count, Nullable } from './common.ts';

export const EngineInfo = Type.Object({
  name: Type.String(),
  version: Type.String(),
  accelerator: Type.String(),
  /** Why this accelerator and not the better one. */
  reason: Type.String(),
  /** Why a live branch cannot be had here; null when it can. */
  live_unavailable: Nullable(Type.String()),
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
