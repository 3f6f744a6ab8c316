import type { HostInfo } from '@forkd/api';
import type { Output } from '../../output/output.ts';
import { formatBytes, formatMs } from '../../output/text.ts';

export interface ForkFigures {
  n: number;
  first_answer_ms: number;
  all_answered_ms: number;
  distinct: number;
}

export interface BranchFigures {
  tag: string;
  pause_ms: number;
  floor_ms: number;
  captured_bytes: number;
  ready_ms: number;
  source_continued: boolean;
  child_continued: boolean;
}

export interface MemoryFigures {
  sandbox: string;
  private_bytes: number;
  shared_bytes: number;
}

/** The bytes on the disk of a child. */
export interface DiskFigures {
  sandbox: string;
  own_bytes: number;
  shared_bytes: number;
}

/** The report that `--json FILE` writes. */
export interface Report {
  host: HostInfo;
  template: { build_ms: number; warm_ms: number };
  fork: ForkFigures;
  branches: BranchFigures[];
  /** `null` if the engine has no disks. */
  disk: DiskFigures | null;
  memory: MemoryFigures[];
}

/** The claims of the run and their outcomes. All claims are checked; one that is false makes the run fail. */
export class Checks {
  readonly #out: Output;
  #failed = 0;

  constructor(out: Output) {
    this.#out = out;
  }

  get failed(): number {
    return this.#failed;
  }

  expect(holds: boolean, claim: string, otherwise: string): boolean {
    const { colors } = this.#out;
    if (holds) this.#out.line(`   ${colors.green('ok')}      ${claim}`);
    else this.#out.line(`   ${colors.red('FAILED')}  ${claim}: ${otherwise}`);
    if (!holds) this.#failed += 1;
    return holds;
  }
}

export function printReport(out: Output, report: Report): void {
  const { fork, template } = report;
  out.line('');
  out.table(
    ['STEP', 'TIME'],
    [
      ['image built (or found)', formatMs(template.build_ms)],
      ['warmed up', formatMs(template.warm_ms)],
      [`fork of ${fork.n}: first answer`, formatMs(fork.first_answer_ms)],
      [`fork of ${fork.n}: all answered`, formatMs(fork.all_answered_ms)],
    ],
  );
  out.line('');
  out.table(
    ['LIVE BRANCH', 'PAUSE', 'FLOOR', 'CAPTURED', 'READY IN', 'SOURCE RAN ON', 'CHILD WENT ON'],
    report.branches.map((branch) => [
      branch.tag,
      formatMs(branch.pause_ms),
      formatMs(branch.floor_ms),
      formatBytes(branch.captured_bytes),
      formatMs(branch.ready_ms),
      branch.source_continued ? 'yes' : 'NO',
      branch.child_continued ? 'yes' : 'NO',
    ]),
  );
  out.line('');
  out.table(
    ['SANDBOX', 'PRIVATE', 'SHARED'],
    report.memory.map((row) => [row.sandbox, formatBytes(row.private_bytes), formatBytes(row.shared_bytes)]),
  );
  out.line('');
}
