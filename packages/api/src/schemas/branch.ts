import { Type, type Static } from 'typebox';
import { ApiError } from '../errors.ts';
import { Omittable, Tag } from './common.ts';
import { SnapshotInfo } from './snapshots.ts';

export const BranchMode = Type.Union([Type.Literal('full'), Type.Literal('diff'), Type.Literal('live')]);
export type BranchMode = Static<typeof BranchMode>;

/** When the reply is sent: the source runs again, the branch can be forked, the branch is on disk. */
export const BranchUntil = Type.Union([Type.Literal('resumed'), Type.Literal('ready'), Type.Literal('durable')]);
export type BranchUntil = Static<typeof BranchUntil>;

export const BranchRequest = Type.Object({
  tag: Omittable(Tag),
  mode: Omittable(BranchMode),
  wait: Type.Optional(Type.Boolean({ default: true })),
  until: Omittable(BranchUntil),
  parent_tag: Omittable(Tag),
  diff: Type.Optional(Type.Boolean()),
  live: Type.Optional(Type.Boolean()),
  measure_diff: Type.Optional(Type.Boolean()),
});
export type BranchRequest = Static<typeof BranchRequest>;

/** 201 with `status` ready, or 202 with `writing`. */
export const BranchResponse = SnapshotInfo;
export type BranchResponse = SnapshotInfo;

export type BranchPlan = { mode: BranchMode; until: BranchUntil };

/**
 * What a branch request asks for, the legacy bools resolved.
 * A bool that is false counts as not given, as in forkd; without any of them the mode is `full`, its default since its first release.
 * @throws ApiError bad_request for a mode beside a bool, for several bools, and for an early reply of a branch that is not live.
 */
export function branchPlan(request: BranchRequest): BranchPlan {
  const bools = (['diff', 'live', 'measure_diff'] as const).filter((name) => request[name] === true);
  if (bools.length > 1) {
    throw new ApiError('bad_request', `branch: ${bools.join(' and ')} exclude each other`);
  }
  if (request.mode && bools.length === 1) {
    throw new ApiError('bad_request', `branch: mode "${request.mode}" and ${bools[0]} exclude each other`);
  }
  const mode = request.mode ?? (bools[0] === 'diff' || bools[0] === 'live' ? bools[0] : 'full');
  const until = request.until ?? (request.wait === false ? 'resumed' : 'durable');
  if (mode !== 'live' && request.wait === false) {
    throw new ApiError('bad_request', `branch: wait:false needs mode live, this one is ${mode}`);
  }
  return { mode, until };
}
