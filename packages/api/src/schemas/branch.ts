import { Type, type Static } from 'typebox';
import { ApiError } from '../errors.ts';
import { field, Omittable, Safety, Tag, type Safety as SafetyName } from './common.ts';
import { SnapshotInfo } from './snapshots.ts';

export const BranchMode = Type.Union([Type.Literal('full'), Type.Literal('diff'), Type.Literal('live')]);
export type BranchMode = Static<typeof BranchMode>;

/** When the reply is sent: after the source runs again, when the branch can be forked, or when the branch is on disk. */
export const BranchUntil = Type.Union([Type.Literal('resumed'), Type.Literal('ready'), Type.Literal('durable')]);
export type BranchUntil = Static<typeof BranchUntil>;

export const BranchRequest = Type.Object(
  {
    tag: field(Omittable(Tag), 'Tag of the new snapshot. Default: a tag made of the sandbox id and the time.'),
    mode: field(
      Omittable(BranchMode),
      '`live` copies memory while the sandbox runs, with the shortest pause. `diff` copies the changed pages, and `full` ' +
        'copies all pages, while the sandbox is paused. Default: `full`.',
    ),
    wait: field(
      Type.Optional(Type.Boolean({ default: true })),
      'False: same as `until: "resumed"`. Needs mode `live`. Ignored if `until` is set.',
    ),
    until: field(
      Omittable(BranchUntil),
      'When to reply: `resumed` (the sandbox runs again), `ready` (the branch can be forked) or `durable` (the branch is on ' +
        'disk). Default: `durable`.',
    ),
    parent_tag: field(
      Omittable(Tag),
      'Snapshot that the sandbox was forked from; the request fails if it was forked from another. The branch then keeps it: ' +
        'it can be removed only together with the branch, or by force. Needs mode `diff` or `live`.',
    ),
    audit: field(
      Type.Optional(Type.Boolean()),
      'True: copy all guest memory during the pause and compare every page of the branch with it, and every block of the disk ' +
        'with a digest that is taken in the pause. The pause lasts as long as both take. A page or block that differs fails ' +
        'the branch.',
    ),
    diff: field(Type.Optional(Type.Boolean()), 'Older form of `mode: "diff"`.'),
    live: field(Type.Optional(Type.Boolean()), 'Older form of `mode: "live"`.'),
    measure_diff: field(
      Type.Optional(Type.Boolean()),
      'True: a `full` branch that also measures what `diff` would have cost, in `diff_ms`, `diff_physical_bytes` and ' +
        '`diff_logical_bytes`. The pause is longer by `diff_ms`.',
    ),
    safety: field(
      Omittable(Safety),
      '`strict` freezes the programs of the sandbox during the branch, and each child starts them only after it has its own ' +
        'identity and clock. Default: `standard`, which holds programs up for the pause only.',
    ),
  },
  { description: 'How to branch a sandbox.', examples: [{ tag: 'after-import', mode: 'live', until: 'ready' }] },
);
export type BranchRequest = Static<typeof BranchRequest>;

/** The reply has status 201 if the branch is `ready`, and 202 if it is still `writing`. */
export const BranchResponse = SnapshotInfo;
export type BranchResponse = SnapshotInfo;

export interface BranchPlan {
  mode: BranchMode;
  until: BranchUntil;
  audit: boolean;
  /** True: a `full` branch that also measures a `diff`. */
  measureDiff: boolean;
  safety: SafetyName;
}

/**
 * Resolves a branch request, including the older booleans. A boolean that is false counts as omitted.
 * The default mode is `full`, as it has been since the first release.
 * @throws ApiError bad_request for a mode together with a boolean, for several booleans, for `parent_tag` in mode full, and for
 * `wait: false` in a mode other than live.
 */
export function branchPlan(request: BranchRequest): BranchPlan {
  const bools = (['diff', 'live', 'measure_diff'] as const).filter((name) => request[name] === true);
  if (bools.length > 1) {
    throw new ApiError('bad_request', `Branch: ${bools.join(' and ')} exclude each other.`);
  }
  if (request.mode && bools.length === 1) {
    throw new ApiError('bad_request', `Branch: mode '${request.mode}' and ${bools[0]} exclude each other.`);
  }
  const mode = request.mode ?? (bools[0] === 'diff' || bools[0] === 'live' ? bools[0] : 'full');
  if (mode === 'full' && request.parent_tag != null) {
    const sentence = `Branch: parent_tag '${request.parent_tag}' needs mode 'diff' or 'live', not '${mode}'.`;
    throw new ApiError('bad_request', sentence, { hint: 'A full branch has all of its memory itself.' });
  }
  const until = request.until ?? (request.wait === false ? 'resumed' : 'durable');
  if (mode !== 'live' && request.wait === false) {
    throw new ApiError('bad_request', `Branch: wait=false needs mode 'live', not '${mode}'.`);
  }
  const safety = request.safety ?? 'standard';
  return { mode, until, audit: request.audit === true, measureDiff: request.measure_diff === true, safety };
}
