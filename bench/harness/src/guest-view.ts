import { round } from './statistics.ts';
import type { Mark, Window } from './ticker.ts';

/** Times at which a branch reached its stages, by the host's clock in ms. */
export interface Instants {
  requestedMs: number;
  resumedMs: number;
  readyMs: number;
  durableMs: number;
  pauseMs: number;
}

/** A branch as the guest saw it. */
export interface GuestView {
  /** The longest time that the guest's program was held up from the request until the branch was durable, pause included. */
  guest_gap_ms: number;
  /** The same until the branch was ready. The rest is writing to disk. */
  guest_gap_ready_ms: number;
  writes_per_s_before: number | null;
  /** Write rate from running again until ready. `null` if that time was too short. */
  writes_per_s_during: number | null;
  writes_per_s_after: number | null;
}

/** The longest delay of the event which says that the guest runs again. */
const EVENT_LATENCY_MS = 5;
/** The least number of windows that make a rate meaningful. */
const WINDOWS_MIN = 3;

/**
 * Maps the guest's windows to the host's instants. The offset between the clocks is known to within the round trip of a mark.
 * A gap that may belong to the pause counts as the pause. If the guest's clock stops in a pause, the pause is added to the gaps
 * that may contain it, so that the figure is never less than the guest went through.
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

/** The longest gap between two marks with no other load. Disturbances by the marks themselves are left out. */
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

/** The smallest and largest lead of the host's clock over the guest's, before the pause. */
function offsets(before: Mark, after: Mark, unseenMs: number): [low: number, high: number] {
  const afterEndMs = endOf(after) + unseenMs;
  const low = Math.max(before.askedAtMs - endOf(before), after.askedAtMs - afterEndMs);
  const high = Math.min(before.answeredAtMs - endOf(before), after.answeredAtMs - afterEndMs);
  // The pager measures the pause slightly longer than the clock does.
  return low <= high ? [low, high] : [high, low];
}

/** Pages per second in the windows between two instants of the guest. The windows of the marks themselves are left out. */
function rate(spans: readonly Span[], fromMs: number, toMs: number): number | null {
  const inside = spans.slice(1, -1).filter((span) => span.startMs >= fromMs && span.endMs <= toMs);
  if (inside.length < WINDOWS_MIN) return null;
  const writes = inside.reduce((sum, span) => sum + span.writes, 0);
  const ms = inside.reduce((sum, span) => sum + span.endMs - span.startMs, 0);
  return Math.round((writes / ms) * 1e3);
}
