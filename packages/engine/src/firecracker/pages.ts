import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { exists } from '../files.ts';
import type { Pager } from '../pager/client.ts';
import { isRunning, killProcess, readStartTicks } from '../process.ts';
import type { VmExit, VmFault, VmRecord } from '../types.ts';
import { FILES } from './process.ts';

/** How often a VM that is being given its memory is looked at: seconds later it has all of it. */
const WATCH_MS = 25;

const LOST: VmFault = { kind: 'pager', text: 'the pager ended before it had given the VM all of its memory' };

/**
 * Watches a VM that gets its memory page by page. The socket is in the VM's directory as long as the VM needs the pager.
 * Firecracker holds its own userfaultfd, so without the pager the VM would wait for its next page for ever, and is ended
 * instead.
 */
export class PageWatch {
  readonly #record: VmRecord;
  readonly #pager: Pager;
  #lost = false;

  constructor(record: VmRecord, pager: Pager) {
    this.#record = record;
    this.#pager = pager;
  }

  /** The end of the VM's process, with the reason if that is the loss of the pager. */
  async explain(exited: Promise<VmExit>): Promise<VmExit> {
    const exit = await exited;
    return this.#lost ? { ...exit, why: LOST } : exit;
  }

  /** Looks after the VM until it needs nobody, or has ended. */
  async keep(): Promise<void> {
    if (!(await this.#needsPages())) return;
    const { pid } = this.#pager;
    const startTicks = await readStartTicks(pid);
    while ((await this.#needsPages()) && (await isRunning(this.#record))) {
      const pagerLives = startTicks !== null && (await isRunning({ pid, startTicks }));
      // The pager may have removed the socket just before it ended.
      if (!pagerLives && (await this.#needsPages())) return this.#end();
      await delay(WATCH_MS, undefined, { ref: false });
    }
  }

  /** Whether a VM that another process has started has what it needs. One that has not is ended. */
  async isServed(): Promise<boolean> {
    if (!(await this.#needsPages())) return true;
    const { id, pid } = this.#record;
    const { served } = await this.#pager.pages();
    if (served.some((vm) => vm.sandbox === id && vm.pid === pid) || !(await this.#needsPages())) return true;
    await this.#end();
    return false;
  }

  #needsPages(): Promise<boolean> {
    return exists(join(this.#record.dir, FILES.pages));
  }

  async #end(): Promise<void> {
    this.#lost = true;
    await killProcess(this.#record);
  }
}
