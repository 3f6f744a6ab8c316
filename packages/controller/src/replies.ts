import { createHash } from 'node:crypto';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { ApiError, limits as apiLimits } from '@forkd/api';
import { readCapped, removeFile, writeFileAtomic } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';

import { limits } from './limits.ts';

/** A request with an idempotency key: `reply` is null until it has been answered. One file each. */
const Entry = Type.Object({
  format: Type.Literal(1),
  /** Of what was asked: the same key with another request is a mistake. */
  fingerprint: Type.String(),
  begun_unix: Type.Integer({ minimum: 0 }),
  /** The snapshot that it makes, from before it is there. */
  snapshot_tag: Type.Optional(Type.String()),
  reply: Type.Union([Type.Object({ status: Type.Integer(), body: Type.Unknown() }), Type.Null()]),
});
type Entry = Static<typeof Entry>;

const validator = Compile(Entry);

/** What a request was answered with. */
export interface Reply {
  status: number;
  body: unknown;
}

/**
 * The replies to requests that were made with an idempotency key, so that whoever lost one can ask again and get the
 * same, without anything being done twice: also of another controller of this data directory. Its life: `begun` is on
 * disk before anything is done; then the reply is, before it is sent. A request that fails leaves nothing: the next is new.
 */
export class Replies {
  readonly #dir: string;
  readonly #entries = new Map<string, Entry>();
  readonly #underWay = new Map<string, Promise<Reply>>();
  readonly #cutOff = new Set<string>();

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** Reads what earlier controllers answered. */
  static async open(dir: string): Promise<Replies> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const replies = new Replies(dir);
    for (const file of await readdir(dir)) await replies.#load(file);
    return replies;
  }

  /** Whether an earlier controller began this request and ended before it was answered. */
  wasCutOff(requestKey: string): boolean {
    return this.#cutOff.has(requestKey);
  }

  /** The snapshots that such requests made or were about to make: nobody has been told of them. */
  cutOffSnapshots(): string[] {
    return [...this.#cutOff].flatMap((name) => this.#entries.get(name)?.snapshot_tag ?? []);
  }

  /** Notes which snapshot a request is about to make; of one without a key nothing is kept. */
  async noteSnapshot(requestKey: string | null, tag: string): Promise<void> {
    if (requestKey === null) return;
    const entry = this.#entries.get(requestKey);
    if (entry === undefined) throw new Error(`no request ${requestKey} is under way`);
    entry.snapshot_tag = tag;
    await this.#save(requestKey, entry);
  }

  /** Once all that was begun for requests without a reply has been undone. */
  async forgetCutOff(): Promise<void> {
    for (const key of this.#cutOff) await this.#forget(key);
    this.#cutOff.clear();
  }

  /**
   * Answers as the first request with this key was, or carries it out. `run` gets the name under which to note what it
   * makes. Throws `idempotency_conflict` when the key was another request's.
   */
  async answer(key: string, request: unknown, run: (requestKey: string) => Promise<Reply>): Promise<Reply> {
    if (key === '' || Buffer.byteLength(key) > apiLimits.idempotencyKeyBytesMax) {
      throw new ApiError('bad_request', `Idempotency-Key must have 1 to ${apiLimits.idempotencyKeyBytesMax} bytes.`);
    }
    const name = sha256(key);
    const fingerprint = sha256(JSON.stringify(request));
    const known = this.#entries.get(name);
    if (known !== undefined && !isOver(known)) {
      if (known.fingerprint !== fingerprint) {
        throw new ApiError('idempotency_conflict', `Idempotency-Key ${JSON.stringify(key)} was another request's.`);
      }
      const reply = known.reply ?? this.#underWay.get(name);
      if (reply !== undefined) return reply;
    }
    const entry: Entry = { format: 1, fingerprint, begun_unix: nowUnix(), reply: null };
    this.#entries.set(name, entry);
    const running = this.#run(name, entry, run);
    this.#underWay.set(name, running);
    try {
      return await running;
    } finally {
      this.#underWay.delete(name);
    }
  }

  async #run(name: string, entry: Entry, run: (requestKey: string) => Promise<Reply>): Promise<Reply> {
    await this.#forgetOver();
    try {
      await this.#save(name, entry);
      const reply = await run(name);
      this.#entries.set(name, { ...entry, reply });
      await this.#save(name, { ...entry, reply });
      return reply;
    } catch (error) {
      await this.#forget(name);
      throw error;
    }
  }

  async #forgetOver(): Promise<void> {
    for (const [name, entry] of this.#entries) if (entry.reply !== null && isOver(entry)) await this.#forget(name);
  }

  async #load(file: string): Promise<void> {
    const entry = await readEntry(join(this.#dir, file));
    // Torn by a crash, or a leftover of one: whatever it was, it was not answered.
    if (entry === null || isOver(entry)) {
      await removeFile(join(this.#dir, file));
      return;
    }
    this.#entries.set(file, entry);
    if (entry.reply === null) this.#cutOff.add(file);
  }

  async #save(name: string, entry: Entry): Promise<void> {
    await writeFileAtomic(join(this.#dir, name), JSON.stringify(entry));
  }

  async #forget(name: string): Promise<void> {
    this.#entries.delete(name);
    await removeFile(join(this.#dir, name));
  }
}

async function readEntry(path: string): Promise<Entry | null> {
  try {
    const bytes = await readCapped(path, limits.replyBytesMax, () => new Error('too long'));
    const value: unknown = bytes === null ? null : JSON.parse(bytes.toString('utf8'));
    return validator.Check(value) ? value : null;
  } catch {
    return null;
  }
}

function isOver({ begun_unix: begunUnix }: Entry): boolean {
  return nowUnix() - begunUnix > apiLimits.idempotencyKeepSecs;
}

function nowUnix(): number {
  return Math.floor(Date.now() / 1000);
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
