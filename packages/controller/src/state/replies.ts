import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError, limits as apiLimits } from '@forkd/api';
import { readCapped, removeFile, writeFileAtomic } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';
import { unixNow } from '../clock.ts';
import { raceAbort } from '../deadline.ts';
import { limits } from '../limits.ts';

/** A request with an idempotency key, in a file of its own. `reply` is null until the request has been answered. */
const Entry = Type.Object({
  format: Type.Literal(1),
  /** The digest of the request. Another request with the same key is an error. */
  fingerprint: Type.String(),
  begun_unix: Type.Integer({ minimum: 0 }),
  /** The snapshot that the request makes, noted before the snapshot exists. */
  snapshot_tag: Type.Optional(Type.String()),
  reply: Type.Union([Type.Object({ status: Type.Integer(), body: Type.Unknown() }), Type.Null()]),
});
type Entry = Static<typeof Entry>;

const validator = Compile(Entry);

/** The answer to a request. */
export interface Reply {
  status: number;
  body: unknown;
}

/** The result of a request. `undo` reverts it, if no other caller can know of it. */
export interface Outcome extends Reply {
  undo?: () => Promise<void>;
}

/** Carries out a request. `requestKey` is the name under which to note what it makes. */
type Run = (requestKey: string, signal: AbortSignal) => Promise<Outcome>;

/**
 * Replies to requests with an idempotency key. A caller who lost a reply can retry and gets the same one, and nothing is
 * done twice, even by the next controller of this data directory. An entry is on disk without a reply before the work
 * begins, and with its reply before that is sent. A failed request leaves nothing, so the next one is new. Repetitions wait
 * for the end of a request under way. If all of its callers have left, the request continues for a while.
 */
export class Replies {
  readonly #dir: string;
  /** Entries, oldest first. */
  readonly #entries = new Map<string, Entry>();
  /** The approximate size of each entry in memory. */
  readonly #sizes = new Map<string, number>();
  readonly #underWay = new Map<string, Attempt>();
  #bytes = 0;
  readonly #cutOff = new Set<string>();

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** Reads what earlier controllers answered. */
  static async open(dir: string): Promise<Replies> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const replies = new Replies(dir);
    const loaded: [string, Entry, number][] = [];
    for (const file of await readdir(dir)) {
      const found = await replies.#load(file);
      if (found !== null) loaded.push([file, found.entry, found.bytes]);
    }
    for (const [file, entry, bytes] of loaded.toSorted(([, one], [, other]) => one.begun_unix - other.begun_unix)) {
      replies.#keep(file, entry, bytes);
    }
    return replies;
  }

  /** Ends the attempts that no caller waits for. The others end with their requests. */
  async close(): Promise<void> {
    const attempts = [...this.#underWay.values()];
    for (const attempt of attempts) attempt.abandonUnlessAwaited(new Error('the controller is ending'));
    await Promise.allSettled(attempts.map(({ result }) => result));
  }

  /** True if an earlier controller began this request and ended before it was answered. */
  wasCutOff(requestKey: string): boolean {
    return this.#cutOff.has(requestKey);
  }

  /** The snapshots that requests of earlier controllers made, or were about to make, without ever being answered. */
  cutOffSnapshots(): string[] {
    return [...this.#cutOff].flatMap((name) => this.#entries.get(name)?.snapshot_tag ?? []);
  }

  /** Notes which snapshot a request is about to make. Does nothing for a request without a key. */
  async noteSnapshot(requestKey: string | null, tag: string): Promise<void> {
    if (requestKey === null) return;
    const entry = this.#entries.get(requestKey);
    if (entry === undefined) throw new Error(`no request ${requestKey} is under way`);
    entry.snapshot_tag = tag;
    await this.#save(requestKey, entry);
  }

  /** Forgets the requests without a reply, once everything that was begun for them has been undone. */
  async forgetCutOff(): Promise<void> {
    for (const key of this.#cutOff) await this.#forget(key);
    this.#cutOff.clear();
  }

  /**
   * Returns the reply of the first request with this key, or carries the request out. `gone` fires when the caller has left.
   * Throws `idempotency_conflict` if the key belongs to another request.
   */
  async answer(key: string, request: unknown, gone: AbortSignal, run: Run): Promise<Reply> {
    if (key === '' || Buffer.byteLength(key) > apiLimits.idempotencyKeyBytesMax) {
      throw new ApiError('bad_request', `Idempotency-Key must have 1 to ${apiLimits.idempotencyKeyBytesMax} bytes.`);
    }
    const name = sha256(key);
    const fingerprint = sha256(JSON.stringify(request));
    for (;;) {
      const known = this.#entries.get(name);
      const attempt = this.#underWay.get(name);
      const isKept = known !== undefined && (attempt !== undefined || !isOver(known));
      if (isKept && known.fingerprint !== fingerprint) {
        throw new ApiError('idempotency_conflict', `Idempotency-Key '${key}' was sent with another request before.`);
      }
      if (isKept && known.reply !== null) return known.reply;
      const joined = attempt ?? this.#begin(name, fingerprint, run);
      const leave = joined.join(gone);
      try {
        return await raceAbort(joined.result, gone);
      } catch (error) {
        // Every earlier caller had left and the attempt was undone. This caller starts a new one.
        if (gone.aborted || !joined.isAbandoned) throw error;
      } finally {
        leave();
      }
    }
  }

  #begin(name: string, fingerprint: string, run: Run): Attempt {
    const entry: Entry = { format: 1, fingerprint, begun_unix: unixNow(), reply: null };
    const attempt = new Attempt(async (self) => {
      try {
        return await this.#run(name, entry, self, run);
      } finally {
        this.#underWay.delete(name);
      }
    });
    this.#underWay.set(name, attempt);
    return attempt;
  }

  async #run(name: string, entry: Entry, attempt: Attempt, run: Run): Promise<Reply> {
    this.#keep(name, entry, 0);
    try {
      await this.#forgetOldest();
      await this.#save(name, entry);
      const { undo, ...reply } = await run(name, attempt.signal);
      if (undo !== undefined && !(await attempt.isWanted())) {
        await undo();
        throw attempt.signal.reason;
      }
      await this.#save(name, { ...entry, reply });
      return reply;
    } catch (error) {
      await this.#forget(name);
      throw error;
    }
  }

  /** Forgets expired entries, and the oldest ones if there is no room. */
  async #forgetOldest(): Promise<void> {
    for (const [name, entry] of this.#entries) {
      const isFull = this.#entries.size > apiLimits.idempotencyRepliesMax || this.#bytes > limits.repliesBytesMax;
      if (!isFull && !isOver(entry)) return;
      if (entry.reply !== null) await this.#forget(name);
    }
  }

  #keep(name: string, entry: Entry, bytes: number): void {
    this.#bytes += bytes - (this.#sizes.get(name) ?? 0);
    this.#sizes.set(name, bytes);
    this.#entries.set(name, entry);
  }

  async #load(file: string): Promise<{ entry: Entry; bytes: number } | null> {
    const found = await readEntry(join(this.#dir, file));
    // A torn or leftover file of a crash belongs to a request that was never answered. An expired entry is useless.
    if (found === null || isOver(found.entry)) {
      await removeFile(join(this.#dir, file));
      return null;
    }
    if (found.entry.reply === null) this.#cutOff.add(file);
    return found;
  }

  async #save(name: string, entry: Entry): Promise<void> {
    const text = JSON.stringify(entry);
    this.#keep(name, entry, text.length);
    await writeFileAtomic(join(this.#dir, name), text);
  }

  async #forget(name: string): Promise<void> {
    this.#bytes -= this.#sizes.get(name) ?? 0;
    this.#sizes.delete(name);
    this.#entries.delete(name);
    await removeFile(join(this.#dir, name));
  }
}

/** A request that is being carried out, and the callers that wait for its reply. */
class Attempt {
  readonly result: Promise<Reply>;
  readonly #abandoned = new AbortController();
  readonly #callers = new Set<AbortSignal>();
  readonly #events = new EventTarget();
  #timer: NodeJS.Timeout | undefined;

  constructor(carryOut: (self: Attempt) => Promise<Reply>) {
    this.result = carryOut(this);
    // Avoid an unhandled rejection: each caller gets the failure from its own wait, and there may be no caller.
    this.result.catch(() => undefined);
  }

  /** Fires when all callers have left and none has come back in time. */
  get signal(): AbortSignal {
    return this.#abandoned.signal;
  }

  get isAbandoned(): boolean {
    return this.#abandoned.signal.aborted;
  }

  /** Counts a caller until it leaves. Returns a function that uncounts it when it has its reply. */
  join(gone: AbortSignal): () => void {
    clearTimeout(this.#timer);
    this.#callers.add(gone);
    const onGone = (): void => {
      if (!this.#callers.delete(gone) || this.#callers.size > 0) return;
      this.#timer = setTimeout(() => this.abandonUnlessAwaited(gone.reason), limits.retryWaitMs);
    };
    if (gone.aborted) onGone();
    else gone.addEventListener('abort', onGone, { once: true });
    this.#events.dispatchEvent(new Event('joined'));
    return () => {
      gone.removeEventListener('abort', onGone);
      if (!gone.aborted) this.#callers.delete(gone);
    };
  }

  abandonUnlessAwaited(reason: unknown): void {
    if (this.#callers.size === 0) this.#abandoned.abort(reason);
  }

  /** True if a caller waits for the reply or comes back for it in time. */
  async isWanted(): Promise<boolean> {
    while (this.#callers.size === 0 && !this.isAbandoned) {
      const joined = once(this.#events, 'joined', { signal: this.signal });
      await joined.catch(() => undefined);
    }
    return !this.isAbandoned;
  }
}

async function readEntry(path: string): Promise<{ entry: Entry; bytes: number } | null> {
  try {
    const bytes = await readCapped(path, limits.replyBytesMax, () => new Error('too long'));
    const value: unknown = bytes === null ? null : JSON.parse(bytes.toString('utf8'));
    return bytes !== null && validator.Check(value) ? { entry: value, bytes: bytes.length } : null;
  } catch {
    return null;
  }
}

function isOver({ begun_unix: begunUnix }: Entry): boolean {
  return unixNow() - begunUnix > apiLimits.idempotencyKeepSecs;
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
