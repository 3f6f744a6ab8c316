import type { Mark, Window } from './ticker.ts';
import { round } from './statistics.ts';

/** When a branch reached its stages, by the host's clock in ms. */
export interface Instants {
  requestedMs: number;
  resumedMs: number;
  readyMs: number;
  durableMs: number;
  pauseMs: number;
}

/** A branch as the guest saw it. */
export interface GuestView {
  /** The longest that the guest's program was held up from the request until the branch was durable, the pause included. */
  guest_gap_ms: number;
  /** The same until the branch was ready; the rest is writing to disk. */
  guest_gap_ready_ms: number;
  writes_per_s_before: number | null;
  /** From running again until ready; `null` where that was too short to tell. */
  writes_per_s_during: number | null;
  writes_per_s_after: number | null;
}

/** The event that says that the guest runs again may reach us so much later than it does. */
const EVENT_LATENCY_MS = 5;
/** Fewer windows say nothing of a rate. */
const WINDOWS_MIN = 3;

/**
 * Puts the guest's windows beside the host's instants. How the two clocks stand to each other is known to within the round
 * trip of a mark; a gap that may be the pause's counts as the pause's. Where the guest's clock stands still in a pause, the
 * pause is added to the gaps that may have had it in them, so that what is told is never less than what the guest went through.
 */
export function guestView(before: Mark, after: Mark, branch: Instants, stops: boolean): GuestView {
  const { pauseMs } = branch;
  const unseenMs = stops ? pauseMs : 0;
  const [low, high] = offsets(before, after, unseenMs);
  const spans = spansOf(endOf(before), after.windows);
  const pauseFromMs = branch.resumedMs - pauseMs - EVENT_LATENCY_MS - high;
  const pauseToMs = branch.resumedMs - unseenMs - low;
  const longestUntil = (endMs: number): number => {
    const ours = spans.filter(
      (span) => span.endMs > branch.requestedMs - high && span.startMs < endMs - unseenMs - low,
    );
    const gaps = ours.map((span) => {
      const mayHavePaused = span.endMs > pauseFromMs && span.startMs < pauseToMs;
      return span.gapMs + (mayHavePaused ? unseenMs : 0);
    });
    return round(Math.max(pauseMs, ...gaps));
  };
  return {
    guest_gap_ms: longestUntil(branch.durableMs),
    guest_gap_ready_ms: longestUntil(branch.readyMs),
    writes_per_s_before: rate(spans, -Infinity, branch.requestedMs - high),
    writes_per_s_during: rate(spans, branch.resumedMs - unseenMs - low, branch.readyMs - unseenMs - high),
    writes_per_s_after: rate(spans, branch.durableMs - unseenMs - low, Infinity),
  };
}

/** The longest gap between two marks with nothing beside them; what the marks themselves disturbed is left out. */
export function quietGap(before: Mark, after: Mark, marginMs: number): number {
  const spans = spansOf(endOf(before), after.windows);
  const [fromMs, toMs] = [endOf(before) + marginMs, endOf(after) - marginMs];
  const gaps = spans.filter((span) => span.endMs > fromMs && span.startMs < toMs).map((span) => span.gapMs);
  return round(Math.max(0, ...gaps));
}

interface Span extends Window {
  startMs: number;
}

function endOf(mark: Mark): number {
  return mark.windows.at(-1)?.endMs ?? 0;
}

function spansOf(startMs: number, windows: readonly Window[]): Span[] {
  return windows.map((window, index) => ({ ...window, startMs: windows[index - 1]?.endMs ?? startMs }));
}

/** The least and the most that the host's clock can be ahead of the guest's, before the pause. */
function offsets(before: Mark, after: Mark, unseenMs: number): [low: number, high: number] {
  const afterEndMs = endOf(after) + unseenMs;
  const low = Math.max(before.askedAtMs - endOf(before), after.askedAtMs - afterEndMs);
  const high = Math.min(before.answeredAtMs - endOf(before), after.answeredAtMs - afterEndMs);
  // The pause is the pager's figure, and a little longer than the clock's.
  return low <= high ? [low, high] : [high, low];
}

/** Pages a second in the windows that lie between two instants of the guest's; a mark's own windows count as disturbed. */
function rate(spans: readonly Span[], fromMs: number, toMs: number): number | null {
  const inside = spans.slice(1, -1).filter((span) => span.startMs >= fromMs && span.endMs <= toMs);
  if (inside.length < WINDOWS_MIN) return null;
  const writes = inside.reduce((sum, span) => sum + span.writes, 0);
  const ms = inside.reduce((sum, span) => sum + span.endMs - span.startMs, 0);
  return Math.round((writes / ms) * 1e3);
}
