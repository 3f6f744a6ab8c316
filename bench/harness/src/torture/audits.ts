import { round, type Summary, summarize } from '../statistics.ts';
import type { WindowKind } from './windows.ts';

/** Figures of the audits of branches. */
export interface AuditFigures {
  /** Branches that were reported as complete. Each was audited. */
  branches: number;
  pages: number;
  /** Pages whose bytes in the layers differ from the copy that was made inside the pause. */
  differing_pages: number;
  /** Pages that break the guest's own rule, in the branches that were checked by it. */
  wrong_by_rule: number;
  /** Children that were started from branches, and whose guests continued and found no wrong page. */
  children: number;
  /** Branches that failed although neither the pager nor the controller had been killed. */
  failed: number;
  /** Branches that a kill cut off. */
  cut_off: number;
  /** Time from stopping the VM until it ran again, including the copy for the audit. */
  audited_pause_ms: Record<string, Summary>;
}

export interface Audit {
  checked_pages: number;
  differing_pages: number;
}

const FAILURES_KEPT = 20;

/** Counts branches, every one of which was audited. */
export class Audits {
  readonly failures: string[] = [];
  readonly #counts = {
    branches: 0,
    pages: 0,
    differing_pages: 0,
    wrong_by_rule: 0,
    children: 0,
    failed: 0,
    cut_off: 0,
  };
  readonly #pausesMs = new Map<WindowKind, number[]>();

  get figures(): AuditFigures {
    const pauses = [...this.#pausesMs].map(([window, sample]) => [window, summarize(sample)]);
    return { ...this.#counts, audited_pause_ms: Object.fromEntries(pauses) };
  }

  /** Throws if a branch was not audited, because the run would prove nothing. */
  branch(window: WindowKind, audit: Audit | null | undefined, pauseUs: number): void {
    if (!audit) throw new Error('a branch came back without the audit that was asked for');
    this.#counts.branches += 1;
    this.#counts.pages += audit.checked_pages;
    this.#counts.differing_pages += audit.differing_pages;
    const sample = this.#pausesMs.get(window) ?? [];
    sample.push(round(pauseUs / 1e3));
    this.#pausesMs.set(window, sample);
  }

  child(wrongPages: number): void {
    this.#counts.children += 1;
    this.#counts.wrong_by_rule += wrongPages;
  }

  /** A failed branch, which is excused only if the pager or the controller was killed meanwhile. */
  failure(window: WindowKind, error: unknown, isExcused: boolean): void {
    if (isExcused) {
      this.#counts.cut_off += 1;
      return;
    }
    this.#counts.failed += 1;
    if (this.failures.length < FAILURES_KEPT) this.failures.push(`${window}: a branch failed: ${String(error)}`);
  }
}
