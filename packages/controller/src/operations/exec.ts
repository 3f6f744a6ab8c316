import {
  ApiError,
  limits as apiLimits,
  type EvalRequest,
  type EvalResponse,
  type ExecRequest,
  type ExecResponse,
  type PingResponse,
} from '@forkd/api';
import type { GuestAgent } from '@forkd/guest';
import type * as guest from '@forkd/guest';
import type { LargeReply } from '../large-reply.ts';
import { limits } from '../limits.ts';
import { traced } from '../observe/tracing.ts';
import { commandOptions } from './commands.ts';
import { collect, openGuest, type GuestHost } from './guest-replies.ts';
import { cutOf, printedDetails } from './printed.ts';

/** Asks the agent of a sandbox whether it answers. */
export async function ping(host: GuestHost, id: string, outer: AbortSignal): Promise<PingResponse> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const options = { timeoutMs: limits.pingTimeoutMs, signal };
  const pong = await sandbox.guest.call((agent) => agent.ping(options), { signal, repeatable: true });
  const more = { agent_version: pong.version, generation: pong.generation, uptime_ms: pong.uptimeMs };
  return { pong: true, pid: pong.pid, numpy_version: 'unknown', ...more };
}

/** Runs a command to its end. A command that takes too long is killed, and the error has what it printed. */
export async function exec(
  host: GuestHost,
  id: string,
  request: ExecRequest,
  outer: AbortSignal,
): Promise<ExecResponse | LargeReply> {
  const timeoutSecs = request.timeout_secs ?? apiLimits.execTimeoutSecsDefault;
  const { stdin: input, ...command } = request;
  const { sandbox, signal } = openGuest(host, id, outer);
  return collect(host, signal, async (share) => {
    const options = {
      ...commandOptions({ ...command, timeout_secs: timeoutSecs }),
      keepBytesMax: apiLimits.execOutputBytesMax,
      timeoutMs: timeoutSecs * 1000 + limits.guestGraceMs,
      ...(input != null && { stdin: Buffer.from(input, 'base64') }),
      budget: share,
      signal,
    };
    sandbox.execCount += 1;
    const beganMs = performance.now();
    // A command may hold secrets: the span names only the sandbox.
    const result = await traced('exec', { 'forkd.sandbox': sandbox.id }, () =>
      sandbox.guest.call((agent) => runOnce(agent, request.args, options), { signal }),
    );
    host.metrics.executed(performance.now() - beganMs);
    const { stdout, stderr } = result;
    if (result.timedOut) {
      const sentence = `Sandbox ${id}: ${request.args[0]} did not end within ${timeoutSecs} s and was killed.`;
      throw new ApiError('command_timeout', sentence, { details: printedDetails(result) });
    }
    const lost = result.lostBytes > 0 ? { lost_bytes: result.lostBytes } : {};
    return { fields: { exit_code: result.exitCode, ...cutOf(result), ...lost }, texts: { stdout, stderr } };
  });
}

/** Evaluates code in the interpreter of a sandbox. */
export async function evaluate(
  host: GuestHost,
  id: string,
  request: EvalRequest,
  outer: AbortSignal,
): Promise<EvalResponse | LargeReply> {
  const { sandbox, signal } = openGuest(host, id, outer);
  sandbox.execCount += 1;
  const timeoutSecs = request.timeout_secs ?? apiLimits.evalTimeoutSecsDefault;
  const evalTimeoutMs = timeoutSecs * 1000;
  return collect(host, signal, async (share) => {
    const options = { evalTimeoutMs, timeoutMs: evalTimeoutMs + limits.guestGraceMs, budget: share, signal };
    const evaluated = await sandbox.guest.call((agent) => agent.eval(request.code, options), { signal });
    const { stdout, stderr, exitCode, stateLost, result = null, error = null, traceback } = evaluated;
    if (evaluated.timedOut) {
      const sentence = `Sandbox ${id}: the evaluation did not end within ${timeoutSecs} s and was interrupted.`;
      const details = { ...printedDetails(evaluated), state_lost: stateLost };
      throw new ApiError('command_timeout', sentence, { details });
    }
    return {
      fields: {
        ...(result === null && { result }),
        ...(error === null && { error }),
        exit_code: exitCode,
        ...cutOf(evaluated),
        state_lost: stateLost,
      },
      texts: {
        ...(result !== null && { result }),
        ...(error !== null && { error }),
        ...(traceback !== undefined && { traceback }),
        stdout,
        stderr,
      },
    };
  });
}

/** Runs a command and makes the guest forget it: the reply has all that it printed. */
async function runOnce(
  agent: GuestAgent,
  args: readonly string[],
  options: guest.RunOptions,
): Promise<guest.RunResult> {
  const result = await agent.run(args, options);
  await agent.forget(result.id, { timeoutMs: limits.guestRequestTimeoutMs });
  return result;
}
