/** Guest of `testing/crates/kvm-payload`, which needs no kernel: how to start it and check its memory and console. */
import { execFile } from 'node:child_process';
import { access, constants, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { KernelFiles } from '@forkd/engine';
import { BUILT } from './paths.ts';

const PAGE_BYTES = 4096;
/** The first page that the payload writes. */
const FIRST_PAGE = 1024;
/** Offsets in each page at which the payload writes the step; the page number follows each. */
const PLACES = [0x000, 0x554, 0xaa8, 0xff8];

const GOES_ON_MS = 60_000;
const POLL_MS = 5;

/** Ticks of the time stamp counter per unit of time of the payload. */
const TICKS_PER_GAP = 1024;

const STAY_32BIT = 1;
const GIVE_UP = 2;

export interface PayloadOptions {
  /** Number of pages that the payload rewrites. Default: all memory from 4 MiB up. */
  pages?: number;
  /** Steps between two reports, a power of two. Default: 4096. */
  reportSteps?: number;
  /** Stays in protected mode without paging; KVM may emulate each instruction. Default: unprivileged 64-bit code. */
  stays32Bit?: boolean;
  /** The guest does something after its first report that no processor can continue from. */
  givesUp?: boolean;
}

/** Reason why `/dev/kvm` cannot be opened; `null` if it can. */
export async function whyNoKvmDevice(): Promise<string | null> {
  return access('/dev/kvm', constants.R_OK | constants.W_OK).then(
    () => null,
    (error: NodeJS.ErrnoException) => `/dev/kvm cannot be opened here (${error.code})`,
  );
}

/** Writes the payload and its parameters into `dir`, as the files of a kernel. */
export async function payloadFiles(dir: string, options: PayloadOptions = {}): Promise<KernelFiles> {
  const files = { vmlinuz: join(dir, 'payload.elf'), initramfs: join(dir, 'payload.parameters') };
  await promisify(execFile)(BUILT.payload, [files.vmlinuz]);
  await writeFile(files.initramfs, parameters(options));
  return files;
}

function parameters({ pages = 0, reportSteps = 0, stays32Bit = false, givesUp = false }: PayloadOptions): Buffer {
  const head = Buffer.alloc(PAGE_BYTES);
  head.write('STRM');
  head.writeUInt32LE(pages, 4);
  head.writeUInt32LE(reportSteps, 8);
  head.writeUInt32LE((stays32Bit ? STAY_32BIT : 0) | (givesUp ? GIVE_UP : 0), 12);
  return head;
}

/**
 * Checks that all of guest memory follows from the newest step. The page that was being written at the instant may hold
 * either step at each place, the newer ones first.
 */
export function checkPayload(memory: Buffer, pages?: number): { newest: number; wrong: number[] } {
  const count = pages ?? memory.length / PAGE_BYTES - FIRST_PAGE;
  const word = (page: number, at: number): number => memory.readUInt32LE((FIRST_PAGE + page) * PAGE_BYTES + at);
  let newest = 0;
  for (let page = 0; page < count; page += 1) newest = Math.max(newest, word(page, 0));
  const wrong: number[] = [];
  for (let page = 0; page < count; page += 1) {
    const behind = (((newest - page) % count) + count) % count;
    const step = newest - behind;
    const steps = PLACES.map((place) => word(page, place));
    const isHalfWritten =
      behind === 0 &&
      steps.every((value, index) => (value === step || value === step - count) && value <= (steps[index - 1] ?? value));
    const isRight = isHalfWritten || steps.every((value) => value === step);
    const isNumbered = PLACES.every((place) => word(page, place + 4) === FIRST_PAGE + page);
    if (!isRight || !isNumbered) wrong.push(FIRST_PAGE + page);
  }
  return { newest, wrong };
}

/** The output of the payload, in the directory of its VM. */
export class PayloadConsole {
  readonly #path: string;

  constructor(vmDir: string) {
    this.#path = join(vmDir, 'console.log');
  }

  text(): Promise<string> {
    return readFile(this.#path, 'latin1').catch(() => '');
  }

  /** Steps that the payload has reported, in order. Throws if the payload found a page that differs from what it wrote. */
  async steps(): Promise<number[]> {
    const text = await this.text();
    if (/^[Ww][0-9a-f]{8}/m.test(text)) throw new Error(`the guest found a wrong page: ${text.slice(-200)}`);
    return numbers(text, 'S');
  }

  /** The longest time between two steps in each report, in ms, from report `fromReport` on. */
  async gapsMs(tscKhz: number, fromReport: number): Promise<number[]> {
    const gaps = numbers(await this.text(), 'G').slice(fromReport);
    return gaps.map((gap) => (gap * TICKS_PER_GAP) / tscKhz);
  }

  /** Waits for `count` more reports, and resolves with all reports so far. */
  async goesOn(count = 3): Promise<number[]> {
    const before = (await this.steps()).length;
    const deadline = performance.now() + GOES_ON_MS;
    for (;;) {
      const steps = await this.steps();
      if (steps.length >= before + count) return steps;
      if (performance.now() > deadline) {
        throw new Error(`the guest does not go on; its console ends with: ${(await this.text()).slice(-300)}`);
      }
      await delay(POLL_MS);
    }
  }
}

function numbers(text: string, letter: string): number[] {
  return [...text.matchAll(new RegExp(`^${letter}([0-9a-f]{8})$`, 'gm'))].map((match) => parseInt(match[1] ?? '', 16));
}
