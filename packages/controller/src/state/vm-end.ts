import { stripVTControlCharacters } from 'node:util';
import { ApiError, type EndReason, type ErrorCode, visibleText } from '@forkd/api';
import type { VmExit } from '@forkd/engine';
import { sleep } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { Ending } from './ended.ts';

/** The length of the last output of a VMM that goes into the hint of an error. */
const vmmTailChars = 500;
/** The end of a VM of which nobody saw anything. */
const unseen: VmExit = { code: null, signal: null, why: null, log: '' };

/**
 * Waits a moment for `ended` to fire. The sockets of an ending VMM break before the reason of its end is known, and the
 * caller wants to report that reason.
 */
export async function waitForReason(ended: AbortSignal): Promise<void> {
  await sleep(limits.vmEndNoticeMs, ended).catch(() => undefined);
}

/** Explains the end of a VM that nobody asked for. `console` is the end of what its guest printed, as it is. */
export function endingOf(id: string, exit: VmExit, console: string): Ending {
  const { reason, advice } = causeOf(exit, console);
  // A VM that another controller started shows only its end, not the cause.
  const how = exit.why ?? exit.signal ?? (exit.code === null ? null : `exit code ${exit.code}`);
  const message = `Sandbox ${id} ended by itself${how === null ? '' : ` (${how})`}.`;
  const printed = exit.log === '' ? '' : `Its VMM printed: ${visibleText(exit.log.slice(-vmmTailChars))}`;
  return { reason, ...toldOf('guest_unreachable', message, [advice, printed], console) };
}

/** How a sandbox was lost that no controller saw end. `what` completes the sentence `Sandbox <id> ...`. */
export interface Loss {
  what: string;
  advice: string;
}

/** Explains the end of a sandbox that no controller saw end. */
export function lostEndingOf(id: string, { what, advice }: Loss, console: string): Ending {
  const cause = causeOf(unseen, console);
  const hint = cause.reason === 'lost' ? advice : cause.advice;
  return { reason: cause.reason, ...toldOf('sandbox_ended', `Sandbox ${id} ${what}.`, [hint], console) };
}

/** The error for callers, whose hint has the last lines of the console, and these lines. */
function toldOf(code: ErrorCode, message: string, hints: readonly string[], console: string): Omit<Ending, 'reason'> {
  const consoleTail = linesOf(console);
  const parts = [...hints, consoleTail === '' ? '' : `Its console ended with:\n${consoleTail}`];
  const hint = parts.filter((part) => part !== '').join('\n');
  return { error: new ApiError(code, message, { hint }), consoleTail };
}

/** The text of a guest is a clue and no proof: its programs can print what a kernel prints. */
function causeOf({ why, code, signal }: VmExit, console: string): { reason: EndReason; advice: string } {
  if (why !== null) return { reason: 'out_of_memory', advice: 'Start it with a higher --memory-limit-mib.' };
  const panic = /Kernel panic - not syncing: *([^\n]*)/.exec(console)?.[1];
  if (panic !== undefined) {
    const more = console.includes('Out of memory') ? ' Build its template with more --mem-mib.' : '';
    return {
      reason: 'guest_panicked',
      advice: `The kernel of the guest panicked: ${visibleText(panic.trim())}.${more}`,
    };
  }
  if (code === 0) {
    return { reason: 'guest_stopped', advice: 'Its guest shut down, as `poweroff` and `reboot` make it.' };
  }
  if (signal === 'SIGKILL') {
    return { reason: 'crashed', advice: 'Its VMM was killed. If the host ran out of memory, its kernel log says so.' };
  }
  if (signal === null && code === null) return { reason: 'lost', advice: 'An earlier controller started its VMM.' };
  return { reason: 'crashed', advice: 'Its VMM failed.' };
}

/** The last lines of a console, which a terminal can show without obeying them. */
function linesOf(console: string): string {
  const lines = visibleText(stripVTControlCharacters(console).replaceAll('\r', '')).trimEnd().split('\n');
  return lines.slice(-limits.consoleTailLines).join('\n').slice(-limits.consoleTailBytes);
}
