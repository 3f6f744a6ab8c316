import type { Vm } from '@forkd/engine';
import { checkPayload, PayloadLab, type Point, whyNoKvmDevice } from '@forkd/testing';
import { Audits } from './audits.ts';
import type { CurrentWindow } from './windows.ts';

const MEM_MIB = 40;
/** Pages that a payload rewrites, out of its 10,240. */
const PAGES = 2048;
/** Every n-th branch is also checked by the payload's own rule, and started. */
const CHECK_EVERY = 50;

/**
 * Guests without a kernel, under KVM if it can be opened, that write at full speed. They are branched live all the time, and
 * each branch is audited. They have their own pager, which is not killed.
 */
export class PayloadBranches implements AsyncDisposable {
  readonly audits = new Audits();
  readonly #lab: PayloadLab;
  readonly #guests: readonly { vm: Vm; base: Point }[];
  readonly #window: CurrentWindow;

  private constructor(lab: PayloadLab, guests: readonly { vm: Vm; base: Point }[], window: CurrentWindow) {
    this.#lab = lab;
    this.#guests = guests;
    this.#window = window;
  }

  static async start(count: number, window: CurrentWindow): Promise<PayloadBranches> {
    const accelerator = (await whyNoKvmDevice()) === null ? 'kvm' : 'tcg';
    const lab = await PayloadLab.start({ accelerator, pages: PAGES });
    const first = await lab.boot(MEM_MIB);
    await lab.console(first).goesOn(1);
    const base = lab.point(first, await first.branch({ mode: 'diff', resume: false }));
    await lab.kill(first);
    const vms = await Promise.all(Array.from({ length: count }, () => lab.restore(base)));
    return new PayloadBranches(
      lab,
      vms.map((vm) => ({ vm, base })),
      window,
    );
  }

  get lab(): PayloadLab {
    return this.#lab;
  }

  get pids(): number[] {
    return this.#guests.map(({ vm }) => vm.record.pid);
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all(
      this.#guests.map(async ({ vm, base }) => {
        for (let turn = 1; !signal.aborted; turn += 1) await this.#branch(vm, base, turn);
      }),
    );
  }

  async #branch(vm: Vm, base: Point, turn: number): Promise<void> {
    const window = this.#window.kind;
    try {
      const done = await vm.branch({ mode: 'live', resume: true, audit: true });
      this.audits.branch(window, done.audit, done.stats.pause_us);
      if (turn % CHECK_EVERY === 0) {
        const { wrong } = checkPayload(await this.#lab.memoryIn(vm, done), PAGES);
        const child = await this.#lab.restore(this.#lab.point(vm, done));
        await this.#lab.console(child).goesOn(1);
        await this.#lab.kill(child);
        this.audits.child(wrong.length);
      }
      await this.#lab.discard(done, base);
    } catch (error) {
      // The pager of the payloads is never killed.
      this.audits.failure(window, error, false);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]();
  }
}
