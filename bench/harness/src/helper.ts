import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';

/** A program of this package that works beside a benchmark from `begin` to `pause`. It answers `pause` with its results. */
export class Helper<Figures> implements AsyncDisposable {
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess) {
    this.#process = process;
  }

  /** `program` is the name of the program's file, such as `probe-client`. */
  static async start<Figures>(program: string, args: readonly string[]): Promise<Helper<Figures>> {
    const child = fork(new URL(`./${program}.js`, import.meta.url), args, {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    await once(child, 'message');
    return new Helper(child);
  }

  async begin(): Promise<void> {
    this.#process.send('begin');
    await once(this.#process, 'message');
  }

  async pause(): Promise<Figures> {
    this.#process.send('pause');
    const [figures] = (await once(this.#process, 'message')) as [Figures];
    return figures;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await ended;
  }
}
