import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { Logger } from 'pino';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import { UsageError } from '../usage-error.ts';

/** A finished request. */
export interface AuditEntry {
  time: string;
  method: string;
  /** The path without its query. */
  path: string;
  status: number;
  latency_ms: number;
  agent: string | null;
  remote: string;
  token_id: string | null;
  request_id: string;
}

/**
 * The file in which each request leaves a line. Requests never wait for the file, and none fails because of it. Lines that
 * cannot be written are counted, and the log says so.
 */
export class AuditLog {
  readonly #path: string;
  readonly #log: Logger;
  #file: FileHandle;
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #writing: Promise<void> | null = null;
  #droppedLines = 0;
  /** True after a failed write, so that a full disk is logged once and not for each line. */
  #failing = false;
  /** True if the file ends in the middle of a line. */
  #torn = false;

  private constructor(path: string, file: FileHandle, log: Logger) {
    this.#path = path;
    this.#file = file;
    this.#log = log;
  }

  /** Throws `UsageError` when the file cannot be appended to. */
  static async open(path: string, log: Logger): Promise<AuditLog> {
    const file = await openAppend(path).catch((error: unknown) => {
      throw new UsageError(`--audit-log '${path}' cannot be written: ${messageOf(error)}.`, { cause: error });
    });
    return new AuditLog(path, file, log);
  }

  /** The number of lines that were not written since the start. */
  get droppedLines(): number {
    return this.#droppedLines;
  }

  write(entry: AuditEntry): void {
    const agent = entry.agent?.slice(0, limits.auditAgentCharsMax) ?? null;
    const line = Buffer.from(`${JSON.stringify({ ...entry, agent })}\n`);
    if (this.#queuedBytes + line.length > limits.auditQueueBytesMax) {
      this.#drop(1, 'more waits to be written than may');
      return;
    }
    this.#queue.push(line);
    this.#queuedBytes += line.length;
    this.#writing ??= this.#drain().finally(() => {
      this.#writing = null;
    });
  }

  /** Continues in a new file under the same name, after the old one has been moved away. */
  async reopen(): Promise<void> {
    try {
      const fresh = await openAppend(this.#path);
      await this.#writing;
      const old = this.#file;
      this.#file = fresh;
      this.#torn = false;
      await old.close();
      this.#log.info({ path: this.#path }, 'opened the audit log again');
    } catch (error) {
      this.#log.error({ reason: messageOf(error) }, 'could not open the audit log again: the old file goes on');
    }
  }

  /** Writes the waiting lines, and closes the file. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#file.close();
  }

  async #drain(): Promise<void> {
    // Lines of the same turn of the event loop are written together.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const lines = this.#queue;
      this.#queue = [];
      await this.#append(lines);
      this.#queuedBytes -= lengthOf(lines);
    }
  }

  async #append(lines: readonly Buffer[]): Promise<void> {
    const mend = this.#torn ? [Buffer.from('\n')] : [];
    const bytes = Buffer.concat([...mend, ...lines]);
    let written = 0;
    try {
      while (written < bytes.length) written += (await this.#file.write(bytes, written)).bytesWritten;
      this.#torn = false;
      if (this.#failing) this.#log.info({ dropped: this.#droppedLines }, 'the audit log can be written again');
      this.#failing = false;
    } catch (error) {
      if (written > 0) this.#torn = bytes[written - 1] !== NEWLINE;
      const whole = bytes.subarray(mend.length, Math.max(written, mend.length));
      this.#drop(lines.length - whole.filter((byte) => byte === NEWLINE).length, messageOf(error));
    }
  }

  #drop(count: number, reason: string): void {
    this.#droppedLines += count;
    if (this.#failing) return;
    this.#failing = true;
    this.#log.error({ reason }, 'the audit log cannot be written: lines are lost, requests go on');
  }
}

const NEWLINE = 0x0a;

function lengthOf(lines: readonly Buffer[]): number {
  return lines.reduce((sum, line) => sum + line.length, 0);
}

/** The kernel appends, so several writers would not overwrite each other. A symbolic link is not followed. */
function openAppend(path: string): Promise<FileHandle> {
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants;
  return open(path, O_APPEND | O_CREAT | O_NOFOLLOW | O_WRONLY, 0o600);
}
