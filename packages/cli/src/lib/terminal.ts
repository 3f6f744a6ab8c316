import { spawnSync } from 'node:child_process';
import { CodedError } from '@forkd/api/constants';
import { isForkdError, type PtyHandle, type Ptys, sleep } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { writeBytes } from '../output/output.ts';
import type { DetachKeys } from './detach-keys.ts';
import { endingOf, type Ending } from './follow.ts';

/** How long a lost connection is tried again. */
const RECONNECT_MS_MAX = 15_000;
const RECONNECT_DELAY_MS = 250;
/** Modes of a terminal that a program may have left on: the mouse, pasted text in brackets, a hidden cursor, colours. */
const RESET = '\u001b[?1000;1002;1003;1006;2004l\u001b[?25h\u001b[m';
// oxlint-disable-next-line no-control-regex -- The escape character begins the sequence.
const SWITCHED_SCREEN = /\u001b\[\?(?:47|1047|1049)([hl])/g;
const SEQUENCE_CHARS_MAX = 8;

/** The size of the terminal of this process; that of an old terminal if it has none. */
export function terminalSize({ out }: Context): { cols: number; rows: number } {
  const { columns, rows } = out.streams.stdout;
  return { cols: columns || 80, rows: rows || 24 };
}

/** Refuses input that is not a terminal, in the words that users of Docker know. */
export function needTerminal({ out }: Context): void {
  if (out.streams.stdin.isTTY) return;
  throw new CodedError('not_a_terminal', 'The input is not a terminal.', {
    hint: 'Leave out -t: `forkd exec -i` forwards any input. In a script, `forkd exec` needs neither.',
  });
}

/**
 * Connects the terminal of this process with one of a sandbox until its program ends or the user leaves. Whatever happens, the
 * terminal is as it was before. Resolves to `undefined` if the user has left.
 */
export async function runTerminal(
  context: Context,
  ptys: Ptys,
  connected: PtyHandle,
  keys: DetachKeys | null,
): Promise<Ending | undefined> {
  const { stdin, stdout } = context.out.streams;
  let handle = connected;
  let hasLeft = false;
  const screen = new ScreenTracker();
  const leave = (): void => {
    hasLeft = true;
    handle.disconnect();
  };
  const onKeys = (typed: Buffer): void => {
    const { pass, leaves } = keys?.take(typed) ?? { pass: typed, leaves: false };
    if (pass.length > 0) handle.sendInput(pass);
    if (leaves) leave();
  };
  const onResize = (): void => handle.resize(terminalSize(context));
  const isTyped = keys !== null && stdin.isTTY;
  const restore = (): void => {
    if (!isTyped) return;
    stdin.setRawMode(false);
    if (stdout.isTTY && handle.exit === undefined) stdout.write(screen.leaving());
  };
  context.signal.addEventListener('abort', leave, { once: true });
  process.once('exit', restore);
  stdout.on('resize', onResize);
  if (isTyped) makeRaw(stdin).on('data', onKeys);
  // A program that was drawing for another size, or for nobody, draws its screen again.
  onResize();
  try {
    for (;;) {
      try {
        for await (const { data } of handle) {
          screen.see(data);
          await writeBytes(stdout, data);
        }
        break;
      } catch (error) {
        if (!isForkdError(error, 'stream_cut') || hasLeft) throw error;
        handle = await reconnect(context, ptys, handle, () => hasLeft);
        onResize();
      }
    }
  } finally {
    context.signal.removeEventListener('abort', leave);
    stdout.off('resize', onResize);
    stdin.off('data', onKeys);
    stdin.pause();
    process.off('exit', restore);
    restore();
  }
  context.signal.throwIfAborted();
  return hasLeft ? undefined : endingOf(handle.exit);
}

/**
 * Passes all keys on as they are, and all output. Node alone would leave the translation of newlines on, which spoils the screens
 * of programs. Its way back to the earlier mode undoes both.
 */
function makeRaw(stdin: NodeJS.ReadStream): NodeJS.ReadStream {
  stdin.setRawMode(true);
  spawnSync('stty', ['-opost'], { stdio: ['inherit', 'ignore', 'ignore'] });
  return stdin;
}

/** Connects again to a terminal after a lost connection, for a while: the controller may be restarting. */
async function reconnect(context: Context, ptys: Ptys, lost: PtyHandle, hasLeft: () => boolean): Promise<PtyHandle> {
  const deadlineMs = performance.now() + RECONNECT_MS_MAX;
  for (;;) {
    await sleep(RECONNECT_DELAY_MS, context.signal);
    try {
      return await ptys.connect(lost.id, { offset: lost.offset, signal: context.signal });
    } catch (error) {
      const mayPass = isForkdError(error, 'stream_cut', 'connection_failed', 'guest_unreachable', 'shutting_down');
      if (!mayPass || hasLeft() || performance.now() > deadlineMs) throw error;
    }
  }
}

/** Knows whether the program shows a screen of its own, from which a user who leaves has to be brought back. */
class ScreenTracker {
  #isSwitched = false;
  #tail = '';

  see(data: Uint8Array): void {
    const text = this.#tail + Buffer.from(data.buffer, data.byteOffset, data.length).toString('latin1');
    for (const [, mode] of text.matchAll(SWITCHED_SCREEN)) this.#isSwitched = mode === 'h';
    this.#tail = text.slice(-SEQUENCE_CHARS_MAX);
  }

  /** The bytes that bring the terminal back. */
  leaving(): string {
    return `${this.#isSwitched ? '\u001b[?1049l' : ''}${RESET}\r\n`;
  }
}
