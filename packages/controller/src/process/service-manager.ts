import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { anySignal } from '@forkd/engine';
import type { Logger } from 'pino';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';

const run = promisify(execFile);

/**
 * Reports to systemd, which listens on a unix datagram socket. Node has none, so systemd's own program
 * `systemd-notify` sends the reports. See docs/decisions/0010.
 */
export class ServiceManager {
  readonly #env: NodeJS.ProcessEnv;
  readonly #watchdogMs: number | null;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #pinging: Promise<void> | null = null;

  private constructor(env: NodeJS.ProcessEnv, watchdogMs: number | null, log: Logger) {
    this.#env = env;
    this.#watchdogMs = watchdogMs;
    this.#log = log;
  }

  /** Removes the variables from `env`, so that no child process can report. `null`: there is no service manager. */
  static fromEnv(env: NodeJS.ProcessEnv, log: Logger): ServiceManager | null {
    const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: usec, WATCHDOG_PID: pid, PATH: path } = env;
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
    if (!socket) return null;
    const isOurs = pid === undefined || pid === String(process.pid);
    const watchdogMs = isOurs && Number(usec) > 0 ? Number(usec) / 1000 : null;
    return new ServiceManager({ NOTIFY_SOCKET: socket, PATH: path }, watchdogMs, log);
  }

  /** Reports that requests are taken. Then reports health at half the watchdog interval, as long as all is well. */
  async ready(health: (signal: AbortSignal) => Promise<string>): Promise<void> {
    const intervalMs = this.#watchdogMs === null ? null : this.#watchdogMs / 2;
    await this.#tell(['--ready', `--status=${await health(this.#stop.signal)}`]);
    if (intervalMs === null) return;
    this.#timer = setInterval(() => {
      this.#pinging ??= this.#ping(health, intervalMs).finally(() => {
        this.#pinging = null;
      });
    }, intervalMs);
    // Ping at once, because the watchdog interval begins with READY.
    await this.#ping(health, intervalMs);
  }

  async stopping(why: string): Promise<void> {
    clearInterval(this.#timer);
    this.#stop.abort(new Error('the controller is ending'));
    await this.#pinging;
    await this.#tell(['STOPPING=1', `--status=Ending (${why}): requests and branches under way are finished first.`]);
  }

  /** Each ping shows that the event loop runs. `health` throws if another part does not. */
  async #ping(health: (signal: AbortSignal) => Promise<string>, timeoutMs: number): Promise<void> {
    try {
      const status = await health(anySignal(this.#stop.signal, AbortSignal.timeout(timeoutMs)));
      await this.#tell(['WATCHDOG=1', `--status=${status}`]);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#log.error({ reason: messageOf(error) }, 'not healthy: the service manager is not told that all is well');
    }
  }

  async #tell(args: readonly string[]): Promise<void> {
    try {
      await run('systemd-notify', args, { env: this.#env, timeout: limits.notifyTimeoutMs });
    } catch (error) {
      this.#log.warn({ reason: messageOf(error) }, 'could not tell the service manager');
    }
  }
}
