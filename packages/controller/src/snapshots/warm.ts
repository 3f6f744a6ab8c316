import type { CreateSnapshotRequest } from '@forkd/api';
import { ApiError, limits as apiLimits } from '@forkd/api';
import { GuestError } from '@forkd/guest';
import type { RootConfig } from '@forkd/images';

import { withDeadline } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { Sandbox } from '../sandboxes/sandbox.ts';
import type { OnProgress } from './progress.ts';

/** Waits for the agent of a guest that boots. Never a fixed time: it answers when it is there. */
export async function awaitAgent(sandbox: Sandbox, timeoutMs: number, signal: AbortSignal): Promise<void> {
  const late = () => {
    const sentence = `The guest has booted for ${timeoutMs / 1000} s and its agent does not answer.`;
    return new ApiError('boot_timeout', sentence);
  };
  await withDeadline(timeoutMs, signal, late, (inTime) =>
    sandbox.guest.connect(timeoutMs + limits.guestGraceMs, inTime),
  );
}

interface WarmOptions {
  image: RootConfig;
  request: CreateSnapshotRequest;
  signal: AbortSignal;
  onProgress: OnProgress;
}

/** Gives the guest the image's configuration and does what every child shall find done. Returns whether it has Python. */
export async function warm(sandbox: Sandbox, { image, request, signal, onProgress }: WarmOptions): Promise<boolean> {
  const { warm: code, warm_command: command } = request;
  const { env, workdir, user, entrypoint, cmd } = image;
  await sandbox.guest.call(
    (agent) =>
      agent.configure({ env: { ...env }, workdir, user, entrypoint: [...entrypoint], cmd: [...cmd] }, { signal }),
    { signal },
  );
  const python = await startPython(sandbox, signal);
  if (code != null) {
    if (!python) throw new ApiError('unsupported', 'The warm-up code is Python, and the image has no python3.');
    onProgress('warm', 'running the warm-up code');
    await warmCode(sandbox, code, signal);
  }
  if (command != null) {
    onProgress('warm', `running ${command.join(' ')}`);
    await warmCommand(sandbox, command, signal);
  }
  return python;
}

async function startPython(sandbox: Sandbox, signal: AbortSignal): Promise<boolean> {
  const absent = ['interpreter_not_found', 'command_not_found'];
  const timeoutMs = limits.warmTimeoutMs;
  return sandbox.guest.call(
    async (agent) => {
      try {
        await agent.startInterpreter('python', { timeoutMs, signal });
        return true;
      } catch (error) {
        if (error instanceof GuestError && absent.includes(error.code)) return false;
        throw error;
      }
    },
    { signal },
  );
}

async function warmCode(sandbox: Sandbox, code: string, signal: AbortSignal): Promise<void> {
  const options = {
    evalTimeoutMs: limits.warmTimeoutMs,
    timeoutMs: limits.warmTimeoutMs + limits.guestGraceMs,
    signal,
  };
  const result = await sandbox.guest.call((agent) => agent.eval(code, options), { signal });
  if (result.error === undefined && result.exitCode === 0) return;
  const said = { stdout: result.stdout, stderr: result.stderr };
  throw new ApiError('warm_failed', `The warm-up code failed: ${lastLine(result.error ?? result.stderr)}`, {
    details: said,
  });
}

async function warmCommand(sandbox: Sandbox, command: readonly string[], signal: AbortSignal): Promise<void> {
  const options = {
    commandTimeoutMs: limits.warmTimeoutMs,
    keepBytesMax: apiLimits.execOutputBytesMax,
    signal,
  };
  const result = await sandbox.guest.call((agent) => agent.run(command, options), { signal });
  // What it printed is in the parent's memory of commands; a child would list it as its own.
  await sandbox.guest.call((agent) => agent.forget(result.id, { signal }), { signal });
  if (result.exitCode === 0) return;
  const text = new TextDecoder();
  const said = { stdout: text.decode(result.stdout), stderr: text.decode(result.stderr) };
  const how = result.timedOut ? 'ran out of time' : `ended with exit code ${result.exitCode}`;
  const sentence = `The warm-up command ${command.join(' ')} ${how}: ${lastLine(said.stderr)}`;
  throw new ApiError('warm_failed', sentence, { details: said });
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
