import { expect } from 'vitest';
import type { Guest, Lab, Point } from './lab.ts';
import { nextStormLine } from './storm.ts';

/** A writer, and what it had done at some moment. */
export interface Seen {
  command: string;
  writes: number;
}

/** Reads how much the writers of a guest have done by now. Fails if a writer has found a wrong page. */
export async function look(guest: Guest, ...commands: string[]): Promise<Seen[]> {
  return Promise.all(
    commands.map(async (command) => {
      const { writes, errors } = await nextStormLine(guest.agent, command);
      expect(errors).toBe(0);
      return { command, writes };
    }),
  );
}

/** Expects that the writers in a guest make progress, and find no wrong page. */
export async function expectGettingOn(guest: Guest, ...commands: string[]): Promise<void> {
  const before = await look(guest, ...commands);
  const after = await look(guest, ...commands);
  for (const [index, { writes }] of after.entries()) expect(writes).toBeGreaterThan(before[index]?.writes ?? Infinity);
}

/** Starts a child from a point. The writers must continue from where they were, and find no wrong page. */
export async function expectIntact(lab: Lab, point: Point, seen: readonly Seen[]): Promise<void> {
  const child = await lab.fork(point);
  const commands = seen.map(({ command }) => command);
  const first = await look(child, ...commands);
  for (const [index, { writes }] of first.entries())
    expect(writes).toBeGreaterThanOrEqual(seen[index]?.writes ?? Infinity);
  await expectGettingOn(child, ...commands);
  await lab.end(child);
}
