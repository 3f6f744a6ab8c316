import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from './controller.ts';

const program = fileURLToPath(new URL('hostile-agent/main.js', import.meta.url));

/** A malicious guest agent: a separate process behind a unix socket. */
export class HostileAgent implements AsyncDisposable {
  readonly socket: string;
  readonly #dir: string;
  readonly #process: ChildProcess;

  private constructor(dir: string, name: string) {
    this.#dir = dir;
    this.socket = join(dir, 'agent.sock');
    this.#process = spawn(process.execPath, [program, this.socket, name], { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  /** Starts the agent with the lie or the flood called `name`; see `hostile-agent/`. */
  static async start(name: string): Promise<HostileAgent> {
    const agent = new HostileAgent(await mkdtemp('/tmp/fk-hostile-'), name);
    await until('the hostile agent listens', 20_000, async () => {
      return access(agent.socket).then(
        () => true,
        () => false,
      );
    });
    return agent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#process, 'exit');
    if (this.#process.exitCode === null && this.#process.kill('SIGKILL')) await ended;
    await rm(this.#dir, { recursive: true, force: true });
  }
}
