import { readFile } from 'node:fs/promises';
import { BUILT, STORM_PROGRAM, type StormLine, wholeLine } from '@forkd/lab';
import type { ForkdClient } from '@forkd/sdk';

/** A writer in a sandbox of a controller's. */
export interface RemoteStorm {
  /** A line that it prints after this call. */
  next(): Promise<StormLine>;
}

/** Starts the writer over `mib` MiB in a sandbox, and resolves once it has written all of it and goes on. */
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
