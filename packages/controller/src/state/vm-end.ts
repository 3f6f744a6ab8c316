import { constants } from 'node:os';
import { stripVTControlCharacters } from 'node:util';
import { ApiError, boundedText, type EndReason, type ErrorCode, visibleLine, visibleText } from '@forkd/api';
import type { VmExit, VmFault } from '@forkd/engine';
import { sleep } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { Ending } from './ended.ts';
import type { SandboxRecord } from './sandbox-record.ts';

/** The length of the last output of a VMM that goes into the hint of an error. */
const VMM_TAIL_CHARS = 500;
/** The length of what a console says of a cause that goes into the sentence of an error. */
const CAUSE_CHARS_MAX = 300;
/** The end of a VM of which nobody saw anything. */
const unseen: VmExit = { code: null, signal: null, why: null, log: '' };

/** How the guest's kernel says that it gives up, with its reason. */
const panicPattern = /Kernel panic - not syncing: *([^\r\n]*)/;

/**
 * Waits a moment for `ended` to fire. The sockets of an ending VMM break before the reason of its end is known, and the
 * caller wants to report that reason.
 */
export async function waitForReason(ended: AbortSignal, waitMs: number = limits.vmEndNoticeMs): Promise<void> {
  await sleep(waitMs, ended).catch(() => undefined);
}

/** Explains the end of a VM that nobody asked for. `console` is the end of what its guest printed, as it is. */
export function endingOf({ id, kind }: Pick<SandboxRecord, 'id' | 'kind'>, exit: VmExit, console: string): Ending {
  const { reason, cause, advice } = causeOf(exit, console, kind);
  const who = kind === 'template' ? 'Its VM' : `Sandbox ${id}`;
  const printed = exit.log === '' ? '' : `Its VMM printed: ${visibleText(exit.log.slice(-VMM_TAIL_CHARS))}`;
  return { reason, ...toldOf('guest_unreachable', `${who} ended by itself: ${cause}.`, [advice, printed], console) };
}

/** How a sandbox was lost that no controller saw end. `what` completes the sentence `Sandbox <id> ...`. */
export interface Loss {
  what: string;
  advice: string;
}

/** Explains the end of a sandbox that no controller saw end. */
export function lostEndingOf(id: string, { what, advice }: Loss, console: string): Ending {
  const { reason, cause, advice: own } = causeOf(unseen, console, 'sandbox');
  const isLost = reason === 'lost';
  const message = `Sandbox ${id} ${what}${isLost ? '' : `: ${cause}`}.`;
  return { reason, ...toldOf('sandbox_ended', message, [isLost ? advice : own], console) };
}

/** The error for callers, whose hint has the last lines of the console, and these lines. */
function toldOf(code: ErrorCode, message: string, hints: readonly string[], console: string): Omit<Ending, 'reason'> {
  const consoleTail = lastLinesOf(console);
  const hint = [...hints, consoleHint(consoleTail)].filter((part) => part !== '').join('\n');
  return { error: new ApiError(code, message, { hint }), consoleTail };
}

/** The last lines of a console as a part of a hint. */
export function consoleHint(consoleTail: string): string {
  return consoleTail === '' ? '' : `Its console ended with:\n${consoleTail}`;
}

/** The last lines of a console, which a terminal can show without obeying them. A trace that follows a panic is left out. */
export function lastLinesOf(console: string): string {
  const panic = panicPattern.exec(console);
  const upToPanic = panic === null ? console : console.slice(0, panic.index + panic[0].length);
  const lines = visibleText(stripVTControlCharacters(upToPanic).replaceAll('\r', '')).trimEnd().split('\n');
  return lines.slice(-limits.consoleTailLines).join('\n').slice(-limits.consoleTailBytes);
}

/** The end of a VM that could not continue although its VMM ran. */
const faultEndings: Readonly<Record<Exclude<VmFault['kind'], 'memory_limit'>, Omit<Cause, 'cause'>>> = {
  processor: { reason: 'crashed', advice: 'The VMM and the kernel log of the host say more.' },
  panic: { reason: 'guest_panicked', advice: '' },
  disk: {
    reason: 'crashed',
    advice: 'Check the disk of the data directory: the kernel log of the host names its errors.',
  },
  pager: { reason: 'lost', advice: 'The end of pager.log in the data directory may say why.' },
};

interface Cause {
  reason: EndReason;
  /** The rest of a sentence. */
  cause: string;
  advice: string;
}

/** The text of a guest is a clue and no proof: its programs can print what a kernel prints. */
function causeOf({ why, code, signal }: VmExit, console: string, kind: SandboxRecord['kind']): Cause {
  if (why?.kind === 'memory_limit') {
    return { reason: 'out_of_memory', cause: why.text, advice: 'Start it with a higher --memory-limit-mib.' };
  }
  const panic = panicPattern.exec(console)?.[1];
  if (panic !== undefined) {
    return { reason: 'guest_panicked', cause: panicCause(panic, console), advice: memoryAdvice(console, kind) };
  }
  if (why !== null) return { ...faultEndings[why.kind], cause: why.text };
  if (code === 0 && kind === 'template' && console === '') {
    const advice = 'Check that the kernel is one for this machine, and give the guest more memory (--mem-mib).';
    return { reason: 'guest_stopped', cause: 'its kernel gave up before its console said a word', advice };
  }
  if (code === 0) {
    return {
      reason: 'guest_stopped',
      cause: 'its guest shut down',
      advice: '`poweroff` and `reboot` in the guest do that.',
    };
  }
  if (signal !== null) {
    const advice = signal === 'SIGKILL' ? 'If the host ran out of memory, its kernel log says so.' : '';
    return { reason: 'crashed', cause: `its VMM was killed by ${signal}`, advice };
  }
  // A VM that another controller started shows only its end, not the cause.
  if (code === null) return { reason: 'lost', cause: 'an earlier controller started its VMM', advice: '' };
  return { reason: 'crashed', cause: `its VMM failed with exit code ${code}`, advice: '' };
}

/** Why the kernel of a guest gave up, as the rest of a sentence. */
function panicCause(panic: string, console: string): string {
  const status = /Attempted to kill init! exitcode=0x([0-9a-f]{8})/.exec(panic)?.[1];
  if (status === undefined) return `the kernel of the guest panicked: ${quoted(panic)}`;
  const said = [...console.matchAll(/^forkd-agent: ([^\r\n]*)/gm)].at(-1)?.[1];
  if (said !== undefined) return `its agent gave up: ${quoted(said)}`;
  const number = Number.parseInt(status, 16) & 0x7f;
  const name = Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
  return number === 0
    ? `its agent ended with exit code ${Number.parseInt(status, 16) >> 8}`
    : `its agent was killed by signal ${number}${name === undefined ? '' : ` (${name})`}`;
}

/** Advice about a guest that ran out of memory, as its kernel says; empty if its kernel does not. */
export function memoryAdvice(console: string, kind: SandboxRecord['kind']): string {
  if (!/out of memory|deadlocked on memory|oom-killer/i.test(console)) return '';
  return kind === 'template' ? 'Give the guest more memory (--mem-mib).' : 'Build its template with more --mem-mib.';
}

/** Text of a console inside a sentence. */
function quoted(text: string): string {
  return boundedText(visibleLine(stripVTControlCharacters(text).trim()), CAUSE_CHARS_MAX).replace(/\.$/, '');
}
