import { connect, type Socket } from 'node:net';
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

interface Message {
  event?: string;
  return?: { status?: string };
}

/** Why a VM in this run state never runs again; `null` while it may. */
export function whyLost(status: string | undefined): VmFault | null {
  const why = status === undefined ? undefined : LOST[status];
  return why === undefined ? null : { ...why, text: `${why.text} (${status})` };
}

/**
 * Watches the monitor of a VM for run states that are final. In these states QEMU itself continues, with a VM that answers
 * nothing. A VMM that reports a wrong state ends only its own VM.
 */
export class RunStateWatch {
  readonly #socket: Socket;
  readonly #onLost: (why: VmFault) => void;
  #settling: NodeJS.Timeout | undefined;

  constructor(monitorPath: string, onLost: (why: VmFault) => void) {
    this.#onLost = onLost;
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

  close(): void {
    clearTimeout(this.#settling);
    this.#socket.destroy();
  }

  #receive(line: string): void {
    let message: Message | null;
    try {
      message = JSON.parse(line) as Message | null;
    } catch {
      this.close();
      return;
    }
    if (message?.event === 'STOP') this.#settle();
    if (message?.event === 'RESUME') clearTimeout(this.#settling);
    const why = whyLost(message?.return?.status);
    if (why === null) return;
    this.close();
    this.#onLost(why);
  }

  /** The event does not say why the VM has stopped. */
  #settle(): void {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#socket.write('{"execute":"query-status"}\n'), SETTLE_MS).unref();
  }
}
