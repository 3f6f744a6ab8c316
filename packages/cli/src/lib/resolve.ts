import type { CommandInfo } from '@forkd/api';
import type { ForkdClient } from '@forkd/sdk';
import { CommandError } from './errors.ts';

type Call = { signal: AbortSignal };

/** What tells a sandbox from others. */
export type Named = { id: string; name?: string; workspace?: string };

/** The sandbox that is meant: its id, its name, that of its workspace, or a beginning of the id that no other has, with or without `sb-`. */
export async function resolveSandbox(client: ForkdClient, text: string, call: Call): Promise<string> {
  return pickSandbox(await client.listSandboxes({ signal: call.signal }), text);
}

export function pickSandbox(sandboxes: readonly Named[], text: string): string {
  const ids = sandboxes.map((sandbox) => sandbox.id);
  if (ids.includes(text)) return text;
  const named = sandboxes.find(({ name }) => name === text) ?? sandboxes.find(({ workspace }) => workspace === text);
  const found = named?.id ?? pick(ids, text, (id) => id.startsWith(text) || id.startsWith(`sb-${text}`));
  return found ?? fail('not_found_sandbox', `there is no sandbox "${text}"`, '`forkd ls` lists the sandboxes');
}

/** Each sandbox that is meant, once, in the order in which they are named. */
export async function resolveSandboxes(client: ForkdClient, texts: readonly string[], call: Call): Promise<string[]> {
  const sandboxes = await client.listSandboxes({ signal: call.signal });
  return [...new Set(texts.map((text) => pickSandbox(sandboxes, text)))];
}

/** The snapshot that is meant: its tag, or a beginning that no other has. */
export async function resolveSnapshot(client: ForkdClient, text: string, call: Call): Promise<string> {
  const tags = (await client.listSnapshots(call)).map((snapshot) => snapshot.tag);
  const found = pick(tags, text, (tag) => tag.startsWith(text));
  return found ?? fail('not_found_snapshot', `there is no snapshot "${text}"`, '`forkd images` lists the snapshots');
}

/**
 * The command that is meant. Without a name it is the only one that runs, or else the only one there is;
 * undefined when that leaves several.
 */
export function pickCommand(commands: readonly CommandInfo[], text: string | undefined): CommandInfo | undefined {
  if (text === undefined) {
    const running = commands.filter((command) => command.running);
    return running.length === 1 ? running[0] : commands.length === 1 ? commands[0] : undefined;
  }
  const ids = commands.map((command) => command.id);
  const id = pick(ids, text, (candidate) => candidate.startsWith(text));
  if (id === undefined)
    fail('not_found_command', `there is no command "${text}"`, 'leave it out to see which there are');
  return commands.find((command) => command.id === id);
}

function pick(names: readonly string[], text: string, matches: (name: string) => boolean): string | undefined {
  if (names.includes(text)) return text;
  const found = text === '' ? [] : names.filter(matches);
  if (found.length > 1) fail('ambiguous', `"${text}" could be ${found.join(', ')}`, 'give more of its beginning');
  return found[0];
}

function fail(code: string, message: string, hint: string): never {
  throw new CommandError(code, message, hint);
}
