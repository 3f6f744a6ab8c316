import { Ptys, type ForkdClient, type StartOptions } from '@forkd/sdk';
import type { Context } from '../context.ts';
import type { DetachKeys } from './detach-keys.ts';
import { UsageError } from './errors.ts';
import { needTerminal, runTerminal, terminalSize } from './terminal.ts';

interface OnTerminal {
  client: ForkdClient;
  sandboxId: string;
  /** The program and its arguments. Empty: the user's shell. */
  command: readonly string[];
  start: StartOptions;
  /** The keys that leave the terminal. `null`: nothing is typed. */
  keys: DetachKeys | null;
}

/** Runs a program on a terminal of a sandbox, connected to ours. Returns our exit code. */
export async function runOnTerminal(
  context: Context,
  { client, sandboxId, command, start, keys }: OnTerminal,
): Promise<number> {
  checkTerminal(context, keys);
  const { stdin: _stdin, onDisconnect: _fate, ...options } = start;
  const ptys = new Ptys(client, sandboxId);
  const handle = await ptys.create({ ...options, command, ...terminalSize(context), signal: context.signal });
  const ending = await runTerminal(context, ptys, handle, keys);
  if (ending === undefined) {
    context.out.note(
      `The command ${handle.id} keeps running. forkd attach ${sandboxId} ${handle.id} connects to it again.`,
    );
    return 0;
  }
  // The guest may be unreachable by now.
  await handle.kill().catch(() => {});
  if (ending.timedOut) context.out.warn(`The command was ended after its ${(start.timeoutMs ?? 0) / 1000} s.`);
  return ending.exitCode;
}

/** Refuses what a terminal cannot be connected with: JSON for output, and input that is none where keys are typed. */
export function checkTerminal(context: Context, keys: DetachKeys | null): void {
  if (context.out.isJson) throw new UsageError('-t cannot be combined with --json.');
  if (keys !== null) needTerminal(context);
}
