import { ApiError, errorRegistry } from '@forkd/api';
import { withDeadline } from '../deadline.ts';
import { toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import { readConsoleTail } from '../state/registry.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { consoleHint, lastLinesOf, memoryAdvice, waitForReason } from '../state/vm-end.ts';

/**
 * Waits until the agent of a guest that boots answers. Throws `boot_timeout` or `boot_failed`, with the last lines of the
 * console, if it does not.
 */
export async function awaitAgent(sandbox: Sandbox, timeoutMs: number, signal: AbortSignal): Promise<void> {
  const late = () => {
    const sentence = `Its guest has booted for ${timeoutMs / 1000} s and its agent does not answer.`;
    return new ApiError('boot_timeout', sentence);
  };
  try {
    await withDeadline(timeoutMs, signal, late, async (inTime) => {
      try {
        await sandbox.guest.connect(timeoutMs + limits.guestGraceMs, inTime);
      } catch (error) {
        // The socket of a VM that ends breaks before the reason is known.
        await waitForReason(inTime, limits.bootEndNoticeMs);
        throw error;
      }
    });
  } catch (error) {
    signal.throwIfAborted();
    const { code: cause, message } = toApiError(error);
    const code = cause === 'boot_timeout' ? cause : 'boot_failed';
    const printed = consoleHint(lastLinesOf(await readConsoleTail(sandbox)));
    const hint = `${errorRegistry[code].hint}\n${printed}`.trimEnd();
    throw new ApiError(code, message, { hint, cause: error });
  }
}

/**
 * Explains why a stage of a build failed. The error of a guest that ended gets the code of the stage, and that of a guest which
 * ran out of memory says so.
 */
export async function inStage<T>(code: 'boot_failed' | 'warm_failed', sandbox: Sandbox, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const { message, hint, details } = error;
    if (error === sandbox.ended.signal.reason) throw new ApiError(code, message, { hint, cause: error });
    const advice = memoryAdvice(await readConsoleTail(sandbox), sandbox.record.kind);
    throw advice === ''
      ? error
      : new ApiError(error.code, message, { hint: `${advice}\n${hint}`, details, cause: error });
  }
}
