import { ApiError } from '@forkd/api';
import { limits } from '../limits.ts';
import type { Operations } from '../operations.ts';
import { Accounts } from './accounts.ts';

/** The variables that a sandbox was created with. The file is part of the guest, so forks and snapshots have it too. */
const VARIABLES_FILE = '/run/forkd/e2b-variables.json';

export type Variables = Readonly<Record<string, string>>;

/** A command as its starter described it. The guest keeps less. */
export interface KnownCommand {
  id: string;
  config: object;
  tag: string | undefined;
}

/** The controller remembers this of one guest. All of it can be read from the guest again, except tags of commands. */
export class GuestMemory {
  readonly #operations: Operations;
  readonly #sandboxId: string;
  readonly #commands = new Map<number, KnownCommand>();
  #accounts: Promise<Accounts> | undefined;
  #variables: Promise<Variables> | undefined;

  constructor(operations: Operations, sandboxId: string) {
    this.#operations = operations;
    this.#sandboxId = sandboxId;
  }

  accounts(signal: AbortSignal): Promise<Accounts> {
    this.#accounts ??= this.#readAccounts(signal).catch((error: unknown) => {
      this.#accounts = undefined;
      throw error;
    });
    return this.#accounts;
  }

  /** Reads the users again, since one was not found. */
  newAccounts(signal: AbortSignal): Promise<Accounts> {
    this.#accounts = undefined;
    return this.accounts(signal);
  }

  variables(signal: AbortSignal): Promise<Variables> {
    this.#variables ??= this.#readVariables(signal).catch((error: unknown) => {
      this.#variables = undefined;
      throw error;
    });
    return this.#variables;
  }

  async setVariables(variables: Variables, signal: AbortSignal): Promise<void> {
    const query = { path: VARIABLES_FILE, mode: '0600' };
    await this.#operations.writeFile(this.#sandboxId, query, Buffer.from(JSON.stringify(variables)), signal);
    this.#variables = Promise.resolve(variables);
  }

  started(pid: number, command: KnownCommand): void {
    // The oldest has most likely ended.
    const [oldest] = this.#commands.keys();
    if (this.#commands.size >= limits.commandsMax && oldest !== undefined) this.#commands.delete(oldest);
    this.#commands.set(pid, command);
  }

  command(pid: number): KnownCommand | undefined {
    return this.#commands.get(pid);
  }

  pidOfTag(tag: string): number | undefined {
    return [...this.#commands].findLast(([, command]) => command.tag === tag)?.[0];
  }

  async #readAccounts(signal: AbortSignal): Promise<Accounts> {
    const [passwd, group] = await Promise.all([this.#read('/etc/passwd', signal), this.#read('/etc/group', signal)]);
    return new Accounts(passwd ?? '', group ?? '');
  }

  async #readVariables(signal: AbortSignal): Promise<Variables> {
    const text = await this.#read(VARIABLES_FILE, signal);
    if (text === null) return {};
    try {
      // A guest may have written the file itself: only pairs of text are variables.
      const pairs = Object.entries(JSON.parse(text) as object);
      return Object.fromEntries(pairs.filter(([, value]) => typeof value === 'string'));
    } catch {
      return {};
    }
  }

  /** Returns `null` if there is no such file. */
  async #read(path: string, signal: AbortSignal): Promise<string | null> {
    try {
      const { data } = await this.#operations.readFile(this.#sandboxId, path, signal);
      return await textOf(path, data);
    } catch (error) {
      if (error instanceof ApiError && error.code === 'not_found_file') return null;
      throw error;
    }
  }
}

async function textOf(path: string, data: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of data) {
    bytes += chunk.length;
    if (bytes > limits.guestFileBytesMax) {
      throw new ApiError('too_large', `${path} of the guest has more than ${limits.guestFileBytesMax} bytes.`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** The memories of the sandboxes that were used last. */
export class GuestMemories {
  readonly #operations: Operations;
  readonly #memories = new Map<string, GuestMemory>();

  constructor(operations: Operations) {
    this.#operations = operations;
  }

  of(sandboxId: string): GuestMemory {
    const memory = this.#memories.get(sandboxId) ?? new GuestMemory(this.#operations, sandboxId);
    this.#memories.delete(sandboxId);
    this.#memories.set(sandboxId, memory);
    const [oldest] = this.#memories.keys();
    if (this.#memories.size > limits.memoriesMax && oldest !== undefined) this.#memories.delete(oldest);
    return memory;
  }

  forget(sandboxId: string): void {
    this.#memories.delete(sandboxId);
  }
}
