import type { ChildProcess } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError } from './errors.ts';
import { readTail } from './files.ts';
import { isRunning, killProcess, type ProcessId } from './process.ts';
import { anySignal } from './signals.ts';
import type { VmExit } from './types.ts';

/** The longest path that a unix socket can have. */
const SOCKET_PATH_BYTES_MAX = 107;

/** How often the end of a process that is not our child is looked for. */
const ADOPTED_POLL_MS = 250;

/** A process that is killed has ended within this time, unless it waits in the kernel for something that never comes. */
const KILL_MS = 10_000;

const DEFAULT_TIMEOUT_MS = 30_000;

/** A VMM whose VM is to run soon. */
interface Starting {
  id: string;
  exited: Promise<VmExit>;
  /** File that the VMM writes its messages to. */
  log: string;
  signal: AbortSignal | undefined;
  timeoutMs: number | undefined;
}

/** Waits for what `start` promises, that the VM runs, unless the VMM ends, the caller gives up, or time runs out first. */
export async function inTime(vm: Starting, start: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const timeoutMs = vm.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const over = new AbortController();
  const deadline = AbortSignal.timeout(timeoutMs);
  const ready = start(anySignal(over.signal, deadline, vm.signal));
  const ended = vm.exited.then((exit) => {
    throw startFailure(vm.id, exit);
  });
  try {
    await Promise.race([ready, ended]);
  } catch (error) {
    vm.signal?.throwIfAborted();
    if (!deadline.aborted) throw await explain(error, vm.id, vm.exited);
    throw new EngineError('vm_start_timeout', `The VM ${vm.id} did not run within ${timeoutMs} ms.`, {
      hint: await readTail(vm.log),
      cause: error,
    });
  } finally {
    over.abort();
    // Whichever lost the race must not be reported as unhandled.
    ready.catch(() => undefined);
    ended.catch(() => undefined);
  }
}

/** A monitor that closes and a process that ends are one event seen twice: the exit knows the reason. */
export async function explain(failure: unknown, id: string, exited: Promise<VmExit>): Promise<unknown> {
  const exit = await Promise.race([exited, delay(ADOPTED_POLL_MS, null, { ref: false })]);
  return exit ? startFailure(id, exit) : failure;
}

function startFailure(id: string, exit: VmExit): EngineError {
  const how = exit.why?.text ?? exit.signal ?? `status ${exit.code}`;
  const last = exit.log.split('\n').slice(-3).join('\n');
  return new EngineError('vm_start_failed', `The VMM of ${id} ended before the VM ran: ${how}.`, {
    hint: last === '' ? 'It left no message.' : `It said: ${last}`,
  });
}

/** Throws `path_too_long` for what cannot be a unix socket. */
export function checkSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return;
  throw new EngineError(
    'path_too_long',
    `The path ${path} is longer than a unix socket's may be (${SOCKET_PATH_BYTES_MAX} bytes).`,
    { hint: 'Choose a data directory with a shorter path.' },
  );
}

/** Resolves when a process has started. Throws `engine_missing` when it could not be. */
export function spawned(child: ChildProcess, program: string, hint: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (cause) =>
      reject(new EngineError('engine_missing', `${program} could not be started.`, { hint, cause })),
    );
  });
}

/** Ends a process and waits for its end. Throws `vmm_timeout` if the kernel does not let it end. */
export async function endProcess(id: ProcessId, exited: Promise<unknown>, timeoutMs = KILL_MS): Promise<void> {
  await killProcess(id);
  const late = delay(timeoutMs, 'late', { ref: false });
  if ((await Promise.race([exited, late])) !== 'late') return;
  throw new EngineError('vmm_timeout', `Process ${id.pid} has not ended within ${timeoutMs} ms of SIGKILL.`, {
    hint: 'It waits in the kernel for a device or a file system: see the host’s log.',
  });
}

/** Resolves at the end of our child, with the end of its log. */
export function endOfChild(child: ChildProcess, log: () => string): Promise<VmExit> {
  return new Promise((resolve, reject) => {
    child.once('exit', (code, signal) => {
      readTail(log()).then((text) => resolve({ code, signal, why: null, log: text }), reject);
    });
  });
}

/** Resolves at the end of a process that another one started, with the end of its log. */
export async function endOfProcess(id: ProcessId, log: string): Promise<VmExit> {
  // Node has no way to wait for a process that is not its child.
  while (await isRunning(id)) await delay(ADOPTED_POLL_MS, undefined, { ref: false });
  return { code: null, signal: null, why: null, log: await readTail(log) };
}
