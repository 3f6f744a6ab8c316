import type { CommandHandle, Commands, StartOptions } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { Interrupted } from './errors.ts';
import { endingOf, followCommand, withStdin, type Ending } from './follow.ts';

const KILL_AFTER_INTERRUPTS = 3;

/** Runs a command and passes its output on; with --json, prints one object at the end. The command ends with us. Returns our exit code. */
export async function runAttached(
  context: Context,
  commands: Commands,
  args: readonly string[],
  options: StartOptions,
): Promise<number> {
  if (context.out.isJson) return runToEnd(context, commands, args, options);
  const ending = await follow(context, commands, args, options);
  if (ending.timedOut) context.out.warn(`The command was ended after its ${(options.timeoutMs ?? 0) / 1000} s.`);
  return ending.exitCode;
}

async function follow(
  context: Context,
  commands: Commands,
  args: readonly string[],
  options: StartOptions,
): Promise<Ending> {
  let handle: CommandHandle | undefined;
  let interrupts = 0;
  const restore = context.interrupts.divert((signal) => {
    interrupts += 1;
    if (handle === undefined || interrupts >= KILL_AFTER_INTERRUPTS) {
      context.interrupts.abort(new Interrupted(signal));
      return;
    }
    // Ignore failures: the command's behaviour shows if the signal arrived, and a command that just ended does not need it.
    handle.signal(signal.slice('SIG'.length)).catch(() => {});
  });
  try {
    handle = await commands.follow(args, { ...options, onDisconnect: 'kill', signal: context.signal });
    return await followCommand({ context, handle, stdin: stdinOf(options) });
  } finally {
    restore();
    await forget(handle);
  }
}

/** Implements `exec --json`: prints `{stdout, stderr, exit_code}` when the command has ended. */
async function runToEnd(
  context: Context,
  commands: Commands,
  args: readonly string[],
  options: StartOptions,
): Promise<number> {
  const handle = await commands.follow(args, { ...options, onDisconnect: 'kill', signal: context.signal });
  try {
    const result = await withStdin(context, handle, stdinOf(options), () => handle.wait());
    const { exitCode, timedOut } = endingOf(handle.exit);
    context.out.json({
      stdout: result.stdout,
      stderr: result.stderr,
      exit_code: exitCode,
      truncated: result.truncated,
      ...(result.stdoutDroppedBytes > 0 && { stdout_dropped_bytes: result.stdoutDroppedBytes }),
      ...(result.stderrDroppedBytes > 0 && { stderr_dropped_bytes: result.stderrDroppedBytes }),
      ...(result.lostBytes > 0 && { lost_bytes: result.lostBytes }),
      ...(timedOut && { timed_out: true }),
    });
    return exitCode;
  } finally {
    await forget(handle);
  }
}

function stdinOf(options: StartOptions): 'all' | 'none' {
  return options.stdin ? 'all' : 'none';
}

/** Ends the command if it still runs, and frees its output in the guest. The guest may be unreachable by now. */
async function forget(handle: CommandHandle | undefined): Promise<void> {
  await handle?.kill().catch(() => {});
}
