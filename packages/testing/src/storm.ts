import { readFile } from 'node:fs/promises';
import type { GuestAgent } from '@forkd/guest';
import { BUILT } from './paths.ts';

/** A line of `forkd-storm`. */
export interface StormLine {
  writes: number;
  errors: number;
  gap_us_max: number;
  elapsed_ms: number;
}

/** Path of the writer in a guest. */
export const STORM_PROGRAM = '/usr/local/bin/forkd-storm';

export async function installStorm(agent: GuestAgent): Promise<void> {
  await agent.writeFile(STORM_PROGRAM, await readFile(BUILT.storm), { mode: 0o755 });
}

/** Starts the writer over `mib` MiB. Returns the id of its command once all of it has been written; the writer keeps running. */
export async function startStorm(agent: GuestAgent, mib: number): Promise<string> {
  const { id } = await agent.start([STORM_PROGRAM, String(mib)]);
  await stormLine(agent, id, 0);
  return id;
}

/** The first line that the writer prints from `offset` of its output on. */
export async function stormLine(agent: GuestAgent, id: string, offset: number): Promise<StormLine> {
  let text = '';
  for await (const event of await agent.attach(id, { offset })) {
    if (event.stream !== 'gap') text += new TextDecoder().decode(event.data);
    const line = wholeLine(text);
    if (line) return line;
  }
  throw new Error(`the writer ended; its output from ${offset} on was: ${text}`);
}

/** A line that the writer prints after this call. */
export async function nextStormLine(agent: GuestAgent, id: string): Promise<StormLine> {
  const { outputEnd } = await agent.get(id);
  return stormLine(agent, id, outputEnd);
}

/** The first complete JSON line. The text before it may be the end of an earlier line. */
export function wholeLine(text: string): StormLine | undefined {
  const lines = text.split('\n').slice(0, -1);
  const line = lines.find((candidate) => candidate.startsWith('{'));
  return line === undefined ? undefined : (JSON.parse(line) as StormLine);
}
