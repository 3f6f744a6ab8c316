import { readFile } from 'node:fs/promises';
import type { GuestAgent } from '@forkd/guest';
import type { ForkdClient } from '@forkd/sdk';
import { BUILT } from './paths.ts';

/** A line of `forkd-storm`. */
export interface StormLine {
  writes: number;
  errors: number;
  gap_us_max: number;
  elapsed_ms: number;
}

const PROGRAM = '/usr/local/bin/forkd-storm';

export async function installStorm(agent: GuestAgent): Promise<void> {
  await agent.writeFile(PROGRAM, await readFile(BUILT.storm), { mode: 0o755 });
}

/** Starts the writer over `mib` MiB, and returns its command's id once it has written all of it and goes on. */
export async function startStorm(agent: GuestAgent, mib: number): Promise<string> {
  const { id } = await agent.start([PROGRAM, String(mib)]);
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

/** A writer in a sandbox of a controller's. */
export interface RemoteStorm {
  /** A line that it prints after this call. */
  next(): Promise<StormLine>;
}

/** Starts the writer over `mib` MiB in a sandbox, and resolves once it has written all of it and goes on. */
export async function installedStorm(client: ForkdClient, id: string, mib: number): Promise<RemoteStorm> {
  await client.writeFile(id, PROGRAM, await readFile(BUILT.storm), { mode: '0755' });
  const { id: command } = await client.startCommand(id, { args: [PROGRAM, String(mib)] });
  const lineFrom = async (offset: number): Promise<StormLine> => {
    let text = '';
    for await (const event of client.commandOutput(id, command, { offset })) {
      if (event.type === 'stdout') text += Buffer.from(event.data, 'base64').toString();
      const line = wholeLine(text);
      if (line) return line;
    }
    throw new Error(`the writer ended; its output from ${offset} on was: ${text}`);
  };
  await lineFrom(0);
  return { next: async () => lineFrom((await client.getCommand(id, command)).output_end) };
}

/** The first whole line. What comes first may be the end of a line that was begun before. */
function wholeLine(text: string): StormLine | undefined {
  const lines = text.split('\n').slice(0, -1);
  const line = lines.find((candidate) => candidate.startsWith('{'));
  return line === undefined ? undefined : (JSON.parse(line) as StormLine);
}
