import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { EngineError } from '../errors.ts';
import { availableMemoryBytes } from '../memory.ts';
import type { Pager } from '../pager/client.ts';
import type { Loadable, Machine, Shape } from '../types.ts';
import { endIdle, type Idle, type IdleParts, loadAhead, startIdle } from './idle.ts';

/** Below this much available memory the host is not asked for VMMs that nobody has asked for, and those that wait end. */
const RESERVE_BYTES = 512 * 2 ** 20;
/** How often that is looked at while VMMs wait. */
const CHECK_MS = 5_000;
/** A shape that nobody has asked for so long is not kept waiting for. */
const UNUSED_MS = 10 * 60_000;
/** So many shapes share the pool. */
const SHAPES_MAX = 4;
/** Time before a shape is tried again whose VMM could not be started. It doubles with each failure in a row. */
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 60_000;

export interface PoolOptions {
  /** A directory of the pool's own, on the file system of the VMs' directories. */
  dir: string;
  /** VMMs that wait at the same time, of all shapes together. 0: none, ever. */
  sizeMax: number;
  /** Told when a VMM could not be started in the background: a fork will start its own. */
  onError?: (error: unknown) => void;
}

/** The parts of the host and the engine that a pool needs. */
export interface PoolParts extends PoolOptions, IdleParts {
  availableBytes?: () => Promise<number | null>;
}

interface Waiting extends Idle {
  key: string;
  /** True while it loads a VM ahead. */
  isLoading: boolean;
}

interface Wanted {
  key: string;
  shape: Shape;
  pager: Pager;
  usedAtMs: number;
  /** The snapshot that was asked for last. */
  last: Loadable | undefined;
  /** The snapshot that VMMs load ahead: it was asked for twice in a row, or named by `fill`. */
  loads: Loadable | undefined;
  /** Failures in a row to start a VMM of it, and when the next is tried. */
  failures: number;
  notBeforeMs: number;
}

/**
 * VMMs that were started before anybody asked, so that a fork need not wait for a process to start. They are of the shapes
 * that were asked for last, which share the pool evenly. The snapshot is chosen when one is taken, except that all but one of a
 * shape load the snapshot ahead that was asked for twice in a row. It is refilled while no VM
 * is being started, as many VMMs side by side as there are processors, and gives way when the host runs short of memory. A
 * VMM that could not be started, or that has ended, is tried again later and later, until its shape has not been asked for
 * in a long time or its pager is gone.
 */
export class VmmPool {
  readonly #parts: PoolParts;
  #waiting: Waiting[] = [];
  /** The most recently used first. */
  #wanted: Wanted[] = [];
  /** Pagers whose end is watched. */
  readonly #pagers = new WeakSet<Pager>();
  /** The shape of each VMM that is being started. */
  #starting: string[] = [];
  #refilling: Promise<void> | undefined;
  /** The VMM that `fill` is starting, until a VM claims it. */
  #filling: { key: string; pager: Pager; started: Promise<void> } | undefined;
  #retry: NodeJS.Timeout | undefined;
  #busy = 0;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: PoolParts) {
    this.#parts = parts;
  }

  /** How many of a shape wait. */
  count(shape: Shape): number {
    return this.#countOf(keyOf(shape));
  }

  /** Takes a VMM that waits; it is the caller's from now on. `undefined` when none of this shape does. */
  take(shape: Shape, pager: Pager, from?: Loadable): Idle | undefined {
    const wanted = this.#want(shape, pager);
    if (from !== undefined) {
      if (isSame(wanted.last, from)) wanted.loads = from;
      wanted.last = from;
    }
    const own = this.#waiting.filter((idle) => idle.key === wanted.key && idle.pager === pager && isUsable(idle));
    const loaded = own.filter(({ ahead }) => isSame(ahead, from));
    const idle =
      loaded.find(({ isLoading }) => !isLoading) ?? own.find(({ ahead }) => ahead === undefined) ?? loaded[0];
    if (idle) this.#forget(idle);
    return idle;
  }

  /** As {@link take}, but waits for the VMM that `fill` is starting, if no other VM waits for it. */
  async takeSoon(shape: Shape, pager: Pager, from?: Loadable): Promise<Idle | undefined> {
    const idle = this.take(shape, pager, from);
    const filling = this.#filling;
    if (idle !== undefined || filling?.key !== keyOf(shape) || filling.pager !== pager) return idle;
    this.#filling = undefined;
    await filling.started.catch(() => undefined);
    return this.take(shape, pager, from);
  }

  /** Runs `start`, which starts a VM: the pool is not refilled meanwhile, and is afterwards. */
  async yieldTo<T>(start: () => Promise<T>): Promise<T> {
    this.#busy += 1;
    try {
      return await start();
    } finally {
      this.#busy -= 1;
      this.#refill();
    }
  }

  /**
   * Resolves when `count` of a shape wait, or a VM has claimed one. Those that load ahead have loaded `from` then. Throws when one
   * cannot be started.
   */
  async fill(shape: Shape, pager: Pager, count: number, from?: Loadable): Promise<void> {
    const wanted = this.#want(shape, pager);
    if (from !== undefined) [wanted.last, wanted.loads] = [from, from];
    while (!this.#closed && this.count(shape) < Math.min(count, this.#parts.sizeMax)) {
      if (this.#refilling) {
        await this.#refilling;
        continue;
      }
      const filling = { key: keyOf(shape), pager, started: this.#startOne(shape, pager) };
      this.#filling = filling;
      try {
        await filling.started;
        if (this.#filling !== filling) return;
      } finally {
        if (this.#filling === filling) this.#filling = undefined;
      }
    }
    await this.#loadSome(wanted);
  }

  /** Ends all that wait, and starts none any more. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    clearTimeout(this.#retry);
    await Promise.allSettled([this.#refilling, this.#filling?.started]);
    await Promise.all(this.#waiting.map((idle) => this.#end(idle)));
    await rm(this.#parts.dir, { recursive: true, force: true });
  }

  #want(shape: Shape, pager: Pager): Wanted {
    const key = keyOf(shape);
    const before = this.#wanted.find((other) => other.key === key && other.pager === pager);
    const fresh = { usedAtMs: performance.now(), failures: 0, notBeforeMs: 0 };
    const wanted = { key, shape, pager, ...fresh, last: before?.last, loads: before?.loads };
    const others = this.#wanted.filter((other) => other.key !== wanted.key && other.pager === pager);
    this.#wanted = [wanted, ...others].slice(0, Math.min(SHAPES_MAX, this.#parts.sizeMax));
    if (this.#pagers.has(pager)) return wanted;
    this.#pagers.add(pager);
    const forget = () => (this.#wanted = this.#wanted.filter((other) => other.pager !== pager));
    pager.gone.then(forget, forget);
    return wanted;
  }

  #refill(): void {
    clearTimeout(this.#retry);
    if (this.#refilling || this.#closed || this.#wanted.length === 0) return;
    this.#refilling = this.#refillAll()
      .catch((error: unknown) => this.#parts.onError?.(error))
      .finally(() => {
        this.#refilling = undefined;
        this.#refillLater();
      });
  }

  /** Refills once more after a while, if anything is missing. */
  #refillLater(): void {
    clearTimeout(this.#retry);
    if (this.#closed || this.#busy > 0) return;
    const missing = this.#wanted.filter((wanted) => this.#isMissing(wanted.key) || this.#nextToLoad(wanted));
    if (missing.length === 0) return;
    const nextMs = Math.min(...missing.map(({ notBeforeMs }) => notBeforeMs));
    const delayMs = Math.max(RETRY_MS_MIN, nextMs - performance.now());
    this.#retry = setTimeout(() => this.#refill(), delayMs).unref();
  }

  async #refillAll(): Promise<void> {
    this.#forgetUnused();
    await this.#endUnwanted();
    await Promise.all(Array.from({ length: availableParallelism() }, () => this.#refillSome()));
    for (const wanted of this.#wanted) await this.#loadSome(wanted);
  }

  /** Has VMMs of a shape load ahead, one after another, until none is missing or a VM is being started. */
  async #loadSome(wanted: Wanted): Promise<void> {
    for (;;) {
      const idle = this.#closed || this.#busy > 0 ? undefined : this.#nextToLoad(wanted);
      const from = wanted.loads;
      if (idle === undefined || from === undefined) return;
      idle.isLoading = true;
      try {
        await loadAhead(idle, from);
      } catch (error) {
        // Nothing tells that the next one would fare better.
        if (isSame(wanted.loads, from)) [wanted.last, wanted.loads] = [undefined, undefined];
        if (!isRemoved(error) && this.#wanted.includes(wanted)) this.#parts.onError?.(error);
        if (this.#waiting.includes(idle)) await this.#end(idle);
      } finally {
        idle.isLoading = false;
      }
    }
  }

  /** The VMM of a shape that is to load ahead next. One always stays for any other snapshot. */
  #nextToLoad({ key, pager, loads }: Wanted): Waiting | undefined {
    if (loads === undefined || this.#parts.window !== 'inside') return undefined;
    const own = this.#waiting.filter((idle) => idle.key === key && idle.pager === pager && isUsable(idle));
    const [next, ...others] = own.filter(({ ahead }) => ahead === undefined);
    return others.length > 0 ? next : undefined;
  }

  /** Starts one VMM after another until nothing is missing that may be tried now. */
  async #refillSome(): Promise<void> {
    for (;;) {
      if (this.#closed || this.#busy > 0) return;
      const nowMs = performance.now();
      const next = this.#wanted.find(({ key, notBeforeMs }) => notBeforeMs <= nowMs && this.#isMissing(key));
      if (!next) return;
      this.#starting.push(next.key);
      try {
        if (await this.#isShortOfMemory()) postpone(next);
        else await this.#startInPlace(next);
      } catch (error) {
        postpone(next);
        // A start that ended with its pager is no fault: the shape is no longer wanted.
        if (this.#wanted.includes(next)) this.#parts.onError?.(error);
      } finally {
        this.#starting.splice(this.#starting.indexOf(next.key), 1);
      }
    }
  }

  /** Starts a VMM of this shape. If the pool is full, one ends whose shape has more than its share. */
  async #startInPlace(next: Wanted): Promise<void> {
    const isFull = this.#waiting.length + this.#starting.length > this.#parts.sizeMax;
    const surplus = isFull ? this.#waiting.find(({ key }) => this.#countOf(key) > this.#share()) : undefined;
    if (surplus) await this.#end(surplus);
    await this.#startOne(next.shape, next.pager);
    next.failures = 0;
  }

  #isMissing(key: string): boolean {
    return this.#countOf(key) + this.#starting.filter((other) => other === key).length < this.#share();
  }

  #countOf(key: string): number {
    return this.#waiting.filter((idle) => idle.key === key && isUsable(idle)).length;
  }

  /** The number of VMMs of each shape. */
  #share(): number {
    return Math.floor(this.#parts.sizeMax / Math.max(1, this.#wanted.length));
  }

  #forgetUnused(): void {
    const oldest = performance.now() - UNUSED_MS;
    this.#wanted = this.#wanted.filter((wanted) => wanted.usedAtMs > oldest);
  }

  async #endUnwanted(): Promise<void> {
    const loads = new Map(this.#wanted.map((wanted) => [wanted.key, wanted.loads]));
    const isStale = ({ key, ahead }: Waiting) => ahead !== undefined && !isSame(ahead, loads.get(key));
    const unwanted = this.#waiting.filter((idle) => !loads.has(idle.key) || !isUsable(idle) || isStale(idle));
    await Promise.all(unwanted.map((idle) => this.#end(idle)));
  }

  async #startOne(shape: Shape, pager: Pager): Promise<void> {
    const idle = await startIdle(this.#parts, shape, pager);
    this.#keep({ ...idle, key: keyOf(shape), isLoading: false });
  }

  #keep(idle: Waiting): void {
    this.#waiting.push(idle);
    const report = (error: unknown) => this.#parts.onError?.(error);
    this.#timer ??= setInterval(() => {
      this.#check().catch(report);
    }, CHECK_MS).unref();
    idle.process.exited.then(() => this.#replace(idle)).catch(report);
  }

  /** Clears away a VMM that has ended while it waited, and starts another one later. */
  async #replace(idle: Waiting): Promise<void> {
    if (!this.#waiting.includes(idle)) return;
    // The snapshot that it had loaded may have been removed, or have ended it.
    const wanted = this.#wanted.find(({ loads }) => isSame(loads, idle.ahead));
    if (wanted) [wanted.last, wanted.loads] = [undefined, undefined];
    await this.#end(idle);
    this.#refillLater();
  }

  #forget(idle: Waiting): void {
    this.#waiting = this.#waiting.filter((other) => other !== idle);
  }

  async #end(idle: Waiting): Promise<void> {
    this.#forget(idle);
    await endIdle(idle).catch((error: unknown) => this.#parts.onError?.(error));
  }

  /** Gives way to those who need the memory, and ends what nobody has asked for in a long time. */
  async #check(): Promise<void> {
    this.#forgetUnused();
    if (await this.#isShortOfMemory()) {
      await Promise.all(this.#waiting.map((idle) => this.#end(idle)));
      this.#refillLater();
    } else {
      await this.#endUnwanted();
    }
    if (this.#waiting.length > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #isShortOfMemory(): Promise<boolean> {
    const available = await (this.#parts.availableBytes ?? availableMemoryBytes)();
    return available !== null && available < RESERVE_BYTES;
  }
}

/** Puts off the next start of this shape, for longer with each failure in a row. */
function postpone(wanted: Wanted): void {
  // Failures of starts side by side count as one.
  if (wanted.notBeforeMs > performance.now()) return;
  wanted.notBeforeMs = performance.now() + Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** wanted.failures);
  wanted.failures += 1;
}

/** A VMM can take any snapshot of the machine that it is; its disk is part of what it was started with. */
function keyOf({ machine, rootImage }: Shape): string {
  const fields = Object.keys(machine).toSorted() as (keyof Machine)[];
  return JSON.stringify([rootImage, ...fields.map((field) => machine[field])]);
}

/** A VMM cannot reach its disk any more once the server has ended that it was started with. */
function isUsable({ disk }: Idle): boolean {
  return disk === null || disk.isServed;
}

function isSame(one: Loadable | undefined, other: Loadable | undefined): boolean {
  if (one === undefined || other === undefined) return false;
  const fieldsOf = ({ stack, deviceState, refresh }: Loadable) => JSON.stringify([stack, deviceState, refresh]);
  return one === other || fieldsOf(one) === fieldsOf(other);
}

/** True for the error of a snapshot that has been removed since it was asked for. */
function isRemoved(error: unknown): boolean {
  return error instanceof EngineError && error.code === 'unknown_layer';
}
