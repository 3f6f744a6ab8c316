import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { onLine } from '../lines.ts';
import type { VmFault } from '../types.ts';

/** Run states that a VM never leaves, and how to say that it ended so. */
const LOST: Readonly<Record<string, VmFault>> = {
  'internal-error': { kind: 'processor', text: 'its processor was given up by the accelerator' },
  'guest-panicked': { kind: 'panic', text: 'its guest panicked' },
  'io-error': { kind: 'disk', text: 'its disk could not be read' },
};

/** A VM that has stopped for a branch runs again before that, and is not asked in its pause. */
const SETTLE_MS = 250;
/** A VMM that floods its monitor is read this often, one buffer at a time. */
const READ_EVERY_MS = 5;
const LINE_CHARS_MAX = 64 * 1024;
/** Time before a VM that its disk has stopped is told to run again. It doubles as long as the disk stops the VM. */
const RETRY_MS_MIN = 25;
const RETRY_MS_MAX = 2_000;
/** A VM that runs this long after it was told to has its disk again. */
const STEADY_MS = 1_000;
/** Longest wait for a VMM that has been told to run its VM. */
const CONT_MS_MAX = 5_000;

interface Message {
  event?: string;
  return?: { status?: string };
  error?: unknown;
  id?: unknown;
  data?: { action?: string; nospace?: boolean };
}

/** The reason for which a disk has stopped its VM: the host has no space left for it, or its server has gone. */
export type Stall = 'no_space' | 'no_server';

/** Told when the disk of a VM stops it, and when the VM runs again (`null`). */
export type OnStall = (stall: Stall | null) => void;

/** Why a VM in this run state never runs again; `null` while it may. */
export function whyLost(status: string | undefined): VmFault | null {
  const why = status === undefined ? undefined : LOST[status];
  return why === undefined ? null : { ...why, text: `${why.text} (${status})` };
}

/**
 * Watches the monitor of a VM for run states that are final. In these states QEMU itself continues, with a VM that answers
 * nothing. A VMM that reports a wrong state ends only its own VM.
 *
 * A VM whose disk fails is not lost: it is told to run again, later and later, until the disk works.
 */
export class RunStateWatch {
  readonly #socket: Socket;
  readonly #onLost: (why: VmFault) => void;
  readonly #onStall: OnStall | undefined;
  #settling: NodeJS.Timeout | undefined;
  #stall: Stall | null = null;
  /** True from when the disk has stopped the VM until the VM is told to run. */
  #isStopped = false;
  /** The last failure that the disk reported, which is why the VM stops. */
  #reported: Stall | null = null;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = RETRY_MS_MIN;
  #steady: NodeJS.Timeout | undefined;
  /** Callers that need the VM to stay as it is. */
  #holds = 0;
  /** Resolves when the VMM has answered that it runs the VM. */
  #continuing: Promise<void> = Promise.resolve();
  #answered: () => void = () => undefined;

  /**
   * `onLost` is told why the VM has stopped for good. `onStall` is set for a VM with a disk that can come back: QEMU repeats
   * the requests that failed when it runs the VM again.
   */
  constructor(monitorPath: string, onLost: (why: VmFault) => void, onStall?: OnStall) {
    this.#onLost = onLost;
    this.#onStall = onStall;
    this.#socket = connect(monitorPath);
    // A VM whose monitor is closed has ended, or is about to.
    this.#socket.on('error', () => this.close());
    onLine(this.#socket, (line) => this.#receive(line), LINE_CHARS_MAX);
    this.#socket.on('data', () => {
      this.#socket.pause();
      setTimeout(() => this.#socket.resume(), READ_EVERY_MS).unref();
    });
    this.#socket.unref();
    this.#socket.write('{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n');
  }

  /** The reason for which the disk has stopped the VM; `null` if it has not. */
  get stall(): Stall | null {
    return this.#stall;
  }

  /** True if the disk has stopped the VM at this moment. A VM with a {@link stall} may be running for a trial. */
  get isStopped(): boolean {
    return this.#isStopped;
  }

  close(): void {
    for (const timer of [this.#settling, this.#retry, this.#steady]) clearTimeout(timer);
    this.#answered();
    this.#socket.destroy();
  }

  /** Keeps a VM that its disk has stopped from being told to run, until the returned function is called. */
  hold(): () => void {
    this.#holds += 1;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#holds -= 1;
      this.retry();
    };
  }

  /** Resolves when the VMM has answered what it was told before {@link hold}. */
  async untilHeld(): Promise<void> {
    await Promise.race([this.#continuing, delay(CONT_MS_MAX, undefined, { ref: false })]);
  }

  /** Tells a VM that its disk has stopped to run now. */
  retry(): void {
    this.#retryMs = RETRY_MS_MIN;
    if (this.#stall !== null) this.#continue();
  }

  #receive(line: string): void {
    let message: Message | null;
    try {
      message = JSON.parse(line) as Message | null;
    } catch {
      this.close();
      return;
    }
    if (message?.id === 'cont') this.#answered();
    if (message?.event === 'BLOCK_IO_ERROR' && message.data?.action === 'stop') {
      this.#reported = message.data.nospace === true ? 'no_space' : 'no_server';
    }
    if (message?.event === 'STOP') this.#stopped();
    if (message?.event === 'RESUME') this.#resumed();
    const { status } = message?.return ?? {};
    if (status === 'io-error' && this.#onStall) {
      this.#stalled();
      return;
    }
    const why = whyLost(status);
    if (why === null) return;
    this.close();
    this.#onLost(why);
  }

  #ask(): void {
    this.#socket.write('{"execute":"query-status"}\n');
  }

  /** The event does not say why the VM has stopped. */
  #stopped(): void {
    for (const timer of [this.#settling, this.#steady]) clearTimeout(timer);
    if (this.#reported !== null && this.#onStall) this.#ask();
    else this.#settling = setTimeout(() => this.#ask(), SETTLE_MS).unref();
  }

  #resumed(): void {
    clearTimeout(this.#settling);
    this.#isStopped = false;
    if (this.#stall === null) return;
    clearTimeout(this.#steady);
    this.#reported = null;
    this.#steady = setTimeout(() => {
      this.#retryMs = RETRY_MS_MIN;
      this.#setStall(null);
    }, STEADY_MS).unref();
  }

  #stalled(): void {
    this.#isStopped = true;
    this.#setStall(this.#reported ?? 'no_server');
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#continue(), this.#retryMs).unref();
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MS_MAX);
  }

  #continue(): void {
    if (this.#holds > 0) return;
    clearTimeout(this.#retry);
    this.#continuing = new Promise((resolve) => (this.#answered = resolve));
    this.#socket.write('{"execute":"cont","id":"cont"}\n');
  }

  #setStall(stall: Stall | null): void {
    if (stall === this.#stall) return;
    this.#stall = stall;
    this.#onStall?.(stall);
  }
}
