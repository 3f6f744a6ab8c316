import { readFile } from 'node:fs/promises';
import type { ForkdClient } from '@forkd/sdk';
import { BUILT } from './paths.ts';
import { STORM_PROGRAM, type StormLine, wholeLine } from './storm.ts';

/** A writer in a sandbox of a controller. */
export interface RemoteStorm {
  /** The next line that the writer prints after this call. */
  next(): Promise<StormLine>;
}

/** Starts the writer over `mib` MiB in a sandbox. Resolves once all of it has been written; the writer keeps running. */
export async function installedStorm(client: ForkdClient, id: string, mib: number): Promise<RemoteStorm> {
  await client.writeFile(id, STORM_PROGRAM, await readFile(BUILT.storm), { mode: '0755' });
  const { id: command } = await client.startCommand(id, { args: [STORM_PROGRAM, String(mib)] });
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
