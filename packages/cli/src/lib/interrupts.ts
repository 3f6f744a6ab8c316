import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { basename } from 'node:path';
import type { Writable } from 'node:stream';
import { Interrupted, reportOf } from './errors.ts';

type Interrupt = 'SIGINT' | 'SIGTERM';
type InterruptHandler = (signal: Interrupt) => void;

const FORCE_AFTER = 2;
/** Ctrl-C arrives twice if our parent process forwards it too. Two signals within this time count as one press. */
const ONE_PRESS_MS = 200;

/**
 * Ctrl-C and SIGTERM abort the command, so that it can clean up, unless the command handles them itself for a while.
 * A second Ctrl-C ends the process at once. A terminal or a reader that goes away aborts the command too.
 */
export class Interrupts {
  readonly #abort = new AbortController();
  #handler: InterruptHandler | undefined;
  #outputError: Error | undefined;
  #count = 0;
  #lastMs = Number.NEGATIVE_INFINITY;

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Listens for the signals of the process. Returns how to stop listening. */
  listen(): () => void {
    const onSignal = (signal: NodeJS.Signals) => this.#receive(signal === 'SIGTERM' ? 'SIGTERM' : 'SIGINT');
    // A command cannot divert this signal: the terminal is gone, and no second signal can follow.
    const onHangUp = ignoresHangUp(process.env) ? () => {} : () => this.abort(new Interrupted('SIGHUP'));
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
    process.on('SIGHUP', onHangUp);
    return () => {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
      process.off('SIGHUP', onHangUp);
    };
  }

  /** Aborts the command if the output cannot be written: its reader has gone, as `head` does, or the disk is full. */
  watch(output: Writable): void {
    output.on('error', (error: NodeJS.ErrnoException) => {
      // A terminal that hung up takes no output either. The first reason counts.
      if (this.signal.aborted) return;
      this.#outputError = error.code === 'EPIPE' ? new Interrupted('SIGPIPE') : error;
      process.exitCode = reportOf(this.#outputError).exitCode;
      this.abort(this.#outputError);
    });
  }

  /** Throws if output was lost. */
  assertOutput(): void {
    if (this.#outputError !== undefined) throw this.#outputError;
  }

  /** Hands the signals to a command until the returned function is called. */
  divert(handler: InterruptHandler): () => void {
    this.#handler = handler;
    return () => {
      if (this.#handler === handler) this.#handler = undefined;
    };
  }

  abort(reason: Error): void {
    this.#abort.abort(reason);
  }

  #receive(signal: Interrupt): void {
    if (this.#handler !== undefined) {
      this.#handler(signal);
      return;
    }
    const nowMs = performance.now();
    if (nowMs - this.#lastMs >= ONE_PRESS_MS) this.#count += 1;
    this.#lastMs = nowMs;
    if (this.#count >= FORCE_AFTER) process.exit(new Interrupted(signal).exitCode);
    this.abort(new Interrupted(signal));
  }
}

/**
 * True if a hang-up is to be ignored, as `nohup` has it. Node resets at its start what the process ignored. It still shows in
 * the shell that started the command, which ignores it too, or in the variable in which a shell names what it started.
 */
function ignoresHangUp(env: NodeJS.ProcessEnv): boolean {
  if (basename(env['_'] ?? '') === 'nohup') return true;
  try {
    const ignored = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${process.ppid}/status`, 'utf8'))?.[1];
    return ((BigInt(`0x${ignored ?? 0}`) >> BigInt(constants.signals.SIGHUP - 1)) & 1n) === 1n;
  } catch {
    // The parent has ended, or the system has no such files.
    return false;
  }
}
