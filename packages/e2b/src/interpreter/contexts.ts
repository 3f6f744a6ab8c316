import { randomUUID } from 'node:crypto';
import type { CommandInfo } from '@forkd/api';
import type { GuestCall } from '../envd/route.ts';
import { E2bError, notSupported } from '../errors.ts';
import { environmentOf } from '../guest/environment.ts';
import { absolutePath } from '../guest/user.ts';
import type { Parts } from '../parts.ts';
import { INTERPRETER_PROGRAM } from './program.ts';

const PROGRAM_PATH = '/run/forkd/e2b-interpreter.py';
const LANGUAGE = 'python';
/** The last argument of the program of a context that requests which name no context use. */
const STANDARD = 'standard';
const NAMED = 'named';

/** A context is a command of the guest, whose arguments describe it. So forks and snapshots have it, too. */
export interface Context {
  id: string;
  cwd: string;
  kind: string;
  commandId: string;
}

export function describeContext({ id, cwd }: Context): object {
  return { id, language: LANGUAGE, cwd };
}

export async function contextsOf({ operations }: Parts, { id, signal }: GuestCall): Promise<Context[]> {
  const commands = await operations.listCommands(id, signal);
  return commands.flatMap((command) => (command.running ? contextOf(command) : []));
}

function contextOf({ id: commandId, args }: CommandInfo): Context[] {
  const [, path, id, cwd, kind] = args;
  if (path !== PROGRAM_PATH || id === undefined || cwd === undefined || kind === undefined) return [];
  return [{ id, cwd, kind, commandId }];
}

export async function findContext(parts: Parts, call: GuestCall, id: string): Promise<Context> {
  const found = (await contextsOf(parts, call)).find((context) => context.id === id);
  if (found !== undefined) return found;
  throw new E2bError(404, `There is no context '${id}'.`);
}

/** The context of requests that name none. It is started on first use. */
export async function standardContext(parts: Parts, call: GuestCall): Promise<Context> {
  const end = await parts.turns.begin(call.id, call.signal);
  try {
    const found = (await contextsOf(parts, call)).find(({ kind }) => kind === STANDARD);
    return found ?? (await startContext(parts, call, { id: randomUUID(), cwd: call.account.home, kind: STANDARD }));
  } finally {
    end();
  }
}

export function newContext(parts: Parts, call: GuestCall, cwd: string | null | undefined): Promise<Context> {
  const path = cwd ? absolutePath(cwd, call.account) : call.account.home;
  return startContext(parts, call, { id: randomUUID(), cwd: path, kind: NAMED });
}

export async function endContext({ operations }: Parts, { id, signal }: GuestCall, context: Context): Promise<void> {
  await operations.forgetCommand(id, context.commandId, signal);
}

export async function restartContext(parts: Parts, call: GuestCall, context: Context): Promise<void> {
  await endContext(parts, call, context);
  await startContext(parts, call, context);
}

export function assertLanguage(language: string | null | undefined): void {
  if (language != null && language !== LANGUAGE) throw notSupported(`The language '${language}'`);
}

async function startContext(
  { operations }: Parts,
  { id: sandboxId, memory, account, signal }: GuestCall,
  { id, cwd, kind }: Omit<Context, 'commandId'>,
): Promise<Context> {
  const file = { path: PROGRAM_PATH, mode: '0644' };
  await operations.writeFile(sandboxId, file, Buffer.from(INTERPRETER_PROGRAM), signal);
  const request = {
    args: ['python3', PROGRAM_PATH, id, cwd, kind],
    env: await environmentOf(memory, account, signal),
    cwd,
    user: account.name,
    stdin: true,
  };
  const { id: commandId, pid } = await operations.startCommand(sandboxId, request, signal);
  if (pid === 0) throw notSupported('Running code in a template without python3');
  return { id, cwd, kind, commandId };
}
