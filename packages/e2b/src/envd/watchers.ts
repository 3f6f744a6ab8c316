import { randomUUID } from 'node:crypto';
import type { FileChangeEvent } from '@forkd/api';
import { ConnectError } from '../errors.ts';
import { limits } from '../limits.ts';

interface Watcher {
  sandboxId: string;
  events: object[];
  /** Why no more events will come. */
  failure: unknown;
  end: AbortController;
  idle: NodeJS.Timeout;
}

/** Watches that are polled, for clients that cannot read a stream. One that is not polled for a while is removed. */
export class Watchers {
  readonly #watchers = new Map<string, Watcher>();

  /** Begins a watch, and returns its id. `open` is given a signal that fires when the watch is removed. */
  async add(
    sandboxId: string,
    open: (ended: AbortSignal) => Promise<AsyncGenerator<FileChangeEvent>>,
    eventsOf: (change: FileChangeEvent) => object[],
  ): Promise<string> {
    if (this.#watchers.size >= limits.watchersMax) {
      throw new ConnectError('resource_exhausted', `${limits.watchersMax} directories are watched already.`);
    }
    const id = randomUUID();
    const end = new AbortController();
    const idle = setTimeout(() => this.#drop(id), limits.watcherIdleMs).unref();
    const watcher: Watcher = { sandboxId, events: [], failure: undefined, end, idle };
    this.#watchers.set(id, watcher);
    try {
      const changes = await open(end.signal);
      await changes.next();
      follow(watcher, changes, eventsOf).catch((error: unknown) => (watcher.failure = error));
    } catch (error) {
      this.#drop(id);
      throw error;
    }
    return id;
  }

  /** The events since the last call. */
  take(sandboxId: string, id: string): object[] {
    const watcher = this.#find(sandboxId, id);
    watcher.idle.refresh();
    if (watcher.events.length === 0 && watcher.failure !== undefined) throw watcher.failure;
    return watcher.events.splice(0);
  }

  remove(sandboxId: string, id: string): void {
    this.#find(sandboxId, id);
    this.#drop(id);
  }

  close(): void {
    for (const id of this.#watchers.keys()) this.#drop(id);
  }

  #find(sandboxId: string, id: string): Watcher {
    const watcher = this.#watchers.get(id);
    if (watcher?.sandboxId === sandboxId) return watcher;
    throw new ConnectError('not_found', `There is no watcher '${id}'.`);
  }

  #drop(id: string): void {
    const watcher = this.#watchers.get(id);
    this.#watchers.delete(id);
    clearTimeout(watcher?.idle);
    watcher?.end.abort(new ConnectError('canceled', 'The watcher was removed.'));
  }
}

async function follow(
  watcher: Watcher,
  changes: AsyncGenerator<FileChangeEvent>,
  eventsOf: (change: FileChangeEvent) => object[],
): Promise<void> {
  for await (const change of changes) {
    watcher.events.push(...eventsOf(change));
    if (watcher.events.length > limits.watcherEventsMax) {
      throw new ConnectError('data_loss', `More than ${limits.watcherEventsMax} events were not read.`);
    }
  }
}
