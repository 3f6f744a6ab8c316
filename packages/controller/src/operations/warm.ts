import { type CreateSnapshotRequest, ApiError, boundedText, type Image, visibleText } from '@forkd/api';
import { GuestError, type EvalResult } from '@forkd/guest';
import { limits } from '../limits.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { OutputLines } from './output-lines.ts';
import { printedDetails } from './printed.ts';
import type { OnProgress } from './progress.ts';

/** The length of the output that the sentence of a failure quotes. */
const LAST_LINE_CHARS_MAX = 500;

interface WarmOptions {
  image: Image;
  request: CreateSnapshotRequest;
  signal: AbortSignal;
  onProgress: OnProgress;
}

/** Gives the guest the configuration of its image and runs the warm-up. Returns whether the guest has Python. */
export async function warm(sandbox: Sandbox, { image, request, signal, onProgress }: WarmOptions): Promise<boolean> {
  const { warm: code, warm_command: command } = request;
  await sandbox.guest.call((agent) => agent.configure(image, { signal }), { signal });
  const python = await startPython(sandbox, signal);
  if (python) await loadNumpy(sandbox, signal);
  if (code != null) {
    if (!python) throw new ApiError('unsupported', 'The warm-up code is Python, and the image has no python3.');
    onProgress('warm', 'running the warm-up code');
    await warmCode(sandbox, code, signal);
  }
  if (command != null) {
    onProgress('warm', `running ${command.join(' ')}`);
    await warmCommand(sandbox, command, onProgress, signal);
  }
  return python;
}

async function startPython(sandbox: Sandbox, signal: AbortSignal): Promise<boolean> {
  const timeoutMs = limits.warmTimeoutMs;
  return sandbox.guest.call(
    async (agent) => {
      try {
        await agent.startInterpreter('python', { timeoutMs, signal });
        return true;
      } catch (error) {
        if (error instanceof GuestError && error.code === 'interpreter_not_found') return false;
        throw error;
      }
    },
    { signal },
  );
}

/** Loads NumPy, which takes an emulated guest seconds, so that no child has to. No name is bound, and an image may have none. */
async function loadNumpy(sandbox: Sandbox, signal: AbortSignal): Promise<void> {
  const { stateLost } = await evaluate(sandbox, '__import__("numpy") and None', signal);
  // A NumPy for another processor ends the interpreter.
  if (stateLost) await startPython(sandbox, signal);
}

async function warmCode(sandbox: Sandbox, code: string, signal: AbortSignal): Promise<void> {
  const result = await evaluate(sandbox, code, signal);
  if (result.error === undefined && result.exitCode === 0) return;
  throw new ApiError('warm_failed', `The warm-up code failed: ${lastLine(result.error ?? result.stderr)}`, {
    details: printedDetails(result),
  });
}

function evaluate(sandbox: Sandbox, code: string, signal: AbortSignal): Promise<EvalResult> {
  const options = {
    evalTimeoutMs: limits.warmTimeoutMs,
    timeoutMs: limits.warmTimeoutMs + limits.guestGraceMs,
    signal,
  };
  return sandbox.guest.call((agent) => agent.eval(code, options), { signal });
}

async function warmCommand(
  sandbox: Sandbox,
  command: readonly string[],
  onProgress: OnProgress,
  signal: AbortSignal,
): Promise<void> {
  const lines = new OutputLines((line) => onProgress('output', line));
  const options = {
    commandTimeoutMs: limits.warmTimeoutMs,
    keepBytesMax: limits.errorOutputBytesMax,
    onOutput: (data: Uint8Array) => lines.add(data),
    signal,
  };
  const result = await sandbox.guest.call((agent) => agent.run(command, options), { signal });
  // The guest must forget the command, or each child would list it as its own.
  await sandbox.guest.call((agent) => agent.forget(result.id, { signal }), { signal });
  const last = lines.end();
  if (result.exitCode === 0) return;
  const said = printedDetails(result);
  const how = result.timedOut ? 'ran out of time' : `ended with exit code ${result.exitCode}`;
  const sentence = `The warm-up command ${command.join(' ')} ${how}: ${lastLine(said.stderr)}`;
  throw new ApiError('warm_failed', sentence, { hint: `Its output ended with:\n${visibleText(last)}`, details: said });
}

function lastLine(text: string): string {
  return boundedText(text.trim().split('\n').at(-1) ?? '', LAST_LINE_CHARS_MAX);
}
