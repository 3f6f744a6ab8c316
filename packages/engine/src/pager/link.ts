import type { DaemonKind } from '../daemon/kind.ts';
import type { Answer, BranchEvent, Op } from './wire.ts';

/** The pager as a daemon. The version is the pager's `PROTOCOL_VERSION`. */
export const pagerKind: DaemonKind = {
  name: 'pager',
  protocol: 9,
  codes: { missing: 'pager_missing', gone: 'pager_gone', protocol: 'pager_protocol' },
  goneHint: 'Running sandboxes are not affected. Try again: a new pager is started.',
};

export interface PagerMessages {
  op: Op;
  answer: Answer;
  event: BranchEvent;
}

export interface BranchOptions {
  /** Cancels the branch. The source keeps running. */
  signal?: AbortSignal;
  /** Called at each stage that the branch reaches, in order. */
  onEvent?: (event: BranchEvent) => void;
}

export interface PagerOptions {
  /** The `forkd-pager` program. */
  bin: string;
  /** The directory of its sockets, its lock and its log. */
  runDir: string;
  /** The store whose blobs it reads and writes. */
  storeDir: string;
  signal?: AbortSignal;
}
