import type { HostInfo } from '@forkd/api';
import type { ForkdClient } from '@forkd/sdk';
import type { Context } from '../../context.ts';
import type { Checks } from './report.ts';

export const TEMPLATE_TAG = 'quickstart';
export const FORK_COUNT = 10;
export const BRANCH_COUNT = 3;

export const branchTags: readonly string[] = Array.from(
  { length: BRANCH_COUNT },
  (_, index) => `${TEMPLATE_TAG}-branch-${index + 1}`,
);

/** The branch whose disk is looked at. */
export const DISK_TAG = `${TEMPLATE_TAG}-disk`;

/** All snapshots of a run, the template last. */
export const allTags: readonly string[] = [...branchTags, DISK_TAG, TEMPLATE_TAG];

/** The state that the steps of one quickstart share. */
export interface Run {
  context: Context;
  client: ForkdClient;
  host: HostInfo;
  checks: Checks;
  /** The children, in the order in which they were started. */
  sandboxes: string[];
}
