import type { CommandInfo, SandboxInfo } from '@forkd/api';
import { CodedError } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';

interface Call {
  signal: AbortSignal;
}

/** Matches a complete id, as every controller makes them. A prefix of an id does not match. */
const WHOLE_ID = /^sb-[0-9a-f]{10}$/;

/** The names by which a sandbox can be found. */
export interface Named {
  id: string;
  name?: string;
  workspace?: string;
}

/**
 * Finds a sandbox by its id, its name, the name of its workspace, or a unique prefix of its id, with or without `sb-`.
 * A complete id needs no list: the request itself fails if the sandbox does not exist.
 */
export async function resolveSandbox(client: ForkdClient, text: string, call: Call): Promise<string> {
  if (WHOLE_ID.test(text)) return text;
  try {
    return pickSandbox(await client.listSandboxes({ signal: call.signal }), text);
  } catch (error) {
    if (!(error instanceof CodedError) || error.code !== 'not_found_sandbox') throw error;
    // The controller says why a sandbox has ended. If none has this name, the first error says all.
    const ended = await resolveEnded(client, text, call).catch(() => undefined);
    if (ended === undefined) throw error;
    return ended.id;
  }
}

/** Finds a sandbox that ended in the last hour. Of several with one name, the last that ended. */
export async function resolveEnded(client: ForkdClient, text: string, call: Call): Promise<SandboxInfo> {
  const ended = (await client.listSandboxes({ signal: call.signal }, { state: 'ended' })).toReversed();
  const id = pickSandbox(ended, text);
  return ended.find((sandbox) => sandbox.id === id) ?? fail('not_found_sandbox', `There is no sandbox "${text}".`, '');
}

export function pickSandbox(sandboxes: readonly Named[], text: string): string {
  const ids = sandboxes.map((sandbox) => sandbox.id);
  if (ids.includes(text)) return text;
  const named = sandboxes.find(({ name }) => name === text) ?? sandboxes.find(({ workspace }) => workspace === text);
  const found = named?.id ?? pick(ids, text, (id) => id.startsWith(text) || id.startsWith(`sb-${text}`));
  return found ?? fail('not_found_sandbox', `There is no sandbox "${text}".`, '`forkd ls` lists the sandboxes.');
}

/** Finds several sandboxes, without duplicates, in the order of the arguments. */
export async function resolveSandboxes(client: ForkdClient, texts: readonly string[], call: Call): Promise<string[]> {
  const sandboxes = await client.listSandboxes({ signal: call.signal });
  return [...new Set(texts.map((text) => pickSandbox(sandboxes, text)))];
}

/** Finds a snapshot by its tag or a unique prefix of the tag. */
export async function resolveSnapshot(client: ForkdClient, text: string, call: Call): Promise<string> {
  const tags = (await client.listSnapshots(call)).map((snapshot) => snapshot.tag);
  const found = pick(tags, text, (tag) => tag.startsWith(text));
  return found ?? fail('not_found_snapshot', `There is no snapshot "${text}".`, '`forkd images` lists the snapshots.');
}

/**
 * Finds a command by its id or a unique prefix. If no id is given, picks the only running command, or else the only command;
 * undefined if there are several or none.
 */
export function pickCommand(commands: readonly CommandInfo[], text: string | undefined): CommandInfo | undefined {
  if (text === undefined) {
    const running = commands.filter((command) => command.running);
    return running.length === 1 ? running[0] : commands.length === 1 ? commands[0] : undefined;
  }
  const ids = commands.map((command) => command.id);
  const id = pick(ids, text, (candidate) => candidate.startsWith(text));
  if (id === undefined)
    fail('not_found_command', `There is no command "${text}".`, '`forkd attach --list` lists the commands.');
  return commands.find((command) => command.id === id);
}

function pick(names: readonly string[], text: string, matches: (name: string) => boolean): string | undefined {
  if (names.includes(text)) return text;
  const found = text === '' ? [] : names.filter(matches);
  if (found.length > 1) fail('ambiguous', `"${text}" could be ${found.join(', ')}.`, 'Give more of its beginning.');
  return found[0];
}

function fail(code: string, message: string, hint: string): never {
  throw new CodedError(code, message, { hint });
}
