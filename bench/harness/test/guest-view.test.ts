/**
 * Proves that a gap in the guest is told of the branch that it belongs to: with the guest's clock at any distance from the
 * host's, running on or standing still in the pause, and the marks' own disturbance left out.
 */
import { describe, expect, test } from 'vitest';
import { guestView, type Instants, quietGap } from '../src/guest-view.ts';
import type { Mark, Window } from '../src/ticker.ts';

/** The host's clock is so far ahead of the guest's, which began with its program. */
const AHEAD_MS = 1_234_567;
const ROUND_TRIP_MS = 4;
const WINDOW_MS = 10;

/** A mark that the guest answered at `atMs` of its clock, in the middle of the round trip. */
function mark(atMs: number, windows: Window[], stoodStillMs = 0): Mark {
  const hostMs = atMs + AHEAD_MS + stoodStillMs;
  return { askedAtMs: hostMs - ROUND_TRIP_MS / 2, answeredAtMs: hostMs + ROUND_TRIP_MS / 2, windows };
}

function window(endMs: number, gapMs = 0.1, writes = 100): Window {
  return { endMs, writes, gapMs };
}

/** Windows of 10 ms from 0 to `endMs`, with a gap in those that end at the given times. */
function windowsTo(endMs: number, gaps: Record<number, number> = {}): Window[] {
  const ends = Array.from({ length: endMs / WINDOW_MS }, (_, index) => (index + 1) * WINDOW_MS);
  return ends.map((end) => window(end, gaps[end]));
}

/** Requested at 100 ms of the guest's clock, resumed at 130, ready at 200, durable at 300. */
function instants(pauseMs: number, stoodStillMs: number): Instants {
  const host = (guestMs: number): number => guestMs + AHEAD_MS + stoodStillMs;
  return {
    requestedMs: 100 + AHEAD_MS,
    resumedMs: host(130),
    readyMs: host(200),
    durableMs: host(300),
    pauseMs,
  };
}

const before = mark(0, [window(0)]);
const QUIET_GAP_MS = 0.1;

describe('a branch as the guest sees it', () => {
  test('adds the pause only to a gap beside it where the clock stood still', () => {
    const view = (gaps: Record<number, number>) =>
      guestView(before, mark(400, windowsTo(400, gaps), 2), instants(2, 2), true).guest_gap_ms;
    expect(view({})).toBe(2 + QUIET_GAP_MS);
    expect(view({ 130: 3 })).toBe(5);
    expect(view({ 250: 3 })).toBe(3);
    expect(view({ 250: 3, 130: 1.5 })).toBe(3.5);
  });

  test('finds the pause in the gap where the clock ran on', () => {
    const view = (gaps: Record<number, number>) =>
      guestView(before, mark(400, windowsTo(400, gaps)), instants(2, 0), false).guest_gap_ms;
    expect(view({ 130: 2.2 })).toBe(2.2);
    expect(view({ 250: 7, 130: 2.2 })).toBe(7);
    // Never less than the pager's own figure.
    expect(view({})).toBe(2);
  });

  test('ends when it is durable, or for the other figure when it is ready', () => {
    const view = (at: number) => guestView(before, mark(400, windowsTo(400, { [at]: 9 }), 2), instants(2, 2), true);
    expect(view(250)).toMatchObject({ guest_gap_ms: 9, guest_gap_ready_ms: 2.1 });
    expect(view(180)).toMatchObject({ guest_gap_ms: 9, guest_gap_ready_ms: 9 });
    // Before the request and after the end: the marks' own.
    for (const at of [20, 80, 340, 400]) expect(view(at)).toMatchObject({ guest_gap_ms: 2.1 });
  });

  test('counts the writes of each stage, except of one that is too short', () => {
    const all = windowsTo(400);
    for (const one of all) one.writes = one.endMs <= 130 ? 100 : one.endMs <= 200 ? 10 : 50;
    const view = guestView(before, mark(400, all, 2), instants(2, 2), true);
    expect(view).toMatchObject({ writes_per_s_before: 10_000, writes_per_s_during: 1_000, writes_per_s_after: 5_000 });
    const brief = { ...instants(2, 2), readyMs: instants(2, 2).resumedMs + 20 };
    expect(guestView(before, mark(400, all, 2), brief, true).writes_per_s_during).toBeNull();
  });

  test('does not depend on the clock difference at the second mark, within its round trip', () => {
    const late = mark(400, windowsTo(400, { 130: 3, 250: 4 }), 2);
    const skewed = { ...late, askedAtMs: late.askedAtMs - 40, answeredAtMs: late.answeredAtMs + 40 };
    expect(guestView(before, skewed, instants(2, 2), true)).toEqual(guestView(before, late, instants(2, 2), true));
  });
});

describe('a window without a branch', () => {
  test('leaves out the time that the marks disturb', () => {
    const gap = (gaps: Record<number, number>) => quietGap(before, mark(400, windowsTo(400, gaps)), 60);
    expect(gap({ 200: 4 })).toBe(4);
    expect(gap({ 20: 9, 60: 9, 360: 9, 400: 9, 200: 4 })).toBe(4);
  });
});
