import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { SandboxInfo } from '@forkd/api';
import { ForkdError, isForkdError } from '@forkd/sdk';
import { type TestController, until } from './controller.ts';
import { forkOne, shell } from './template.ts';

/** State of an object that a request makes, changes or removes: `maybe` until the request has been answered. */
type Known = 'there' | 'gone' | 'maybe';

/** A request without an answer when the controller ended. A retry with its key gets the answer, and the work is done once. */
interface Unanswered {
  key: string;
  path: string;
  body: { snapshot_tag: string; n: number } | { tag: string; mode: 'live' | 'diff' };
}

const RESTART_TIMEOUT_MS = 60_000;

/** Random numbers from a seed: a failed run can be repeated as far as the timing of the controller allows. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * Does what users do, with several requests at once, and records the answers. Whatever happens to the controller meanwhile,
 * `verify` compares its later state with that record.
 */
export class MixedRun {
  readonly #controller: TestController;
  readonly #random: () => number;
  readonly #sandboxes = new Map<string, Known>();
  readonly #snapshots = new Map<string, Known>();
  readonly #workspaces = new Map<string, Known>();
  #unanswered: Unanswered[] = [];
  #count = 0;
  /** Count of answered requests by action. A run that does nothing proves nothing. */
  readonly answered = new Map<string, number>();

  constructor(controller: TestController, random: () => number) {
    this.#controller = controller;
    this.#random = random;
  }

  /** Runs `workers` workers, each with one request at a time, until `signal` fires or the controller is gone. */
  async work(workers: number, signal: AbortSignal): Promise<void> {
    await Promise.all(Array.from({ length: workers }, () => this.#worker(signal)));
  }

  /** Does each of these actions once, one after the other, until the controller is gone. */
  async script(): Promise<void> {
    const steps = [
      () => this.#fork(),
      () => this.#exec(),
      () => this.#pause(),
      () => this.#branch(),
      () => this.#createWorkspace(),
      () => this.#moveWorkspace(),
      () => this.#moveWorkspace(),
      () => this.#removeSnapshot(),
      () => this.#end(),
    ];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        if (wasAnswered(error)) throw error;
        return;
      }
    }
  }

  /** Checks after a restart: answered requests hold, unanswered ones took full effect or none, and nothing else exists. */
  async verify(): Promise<void> {
    await this.#askAgain();
    await this.#verifySandboxes(await this.#controller.client.listSandboxes());
    await this.#verifySnapshots();
    await this.#verifyWorkspaces();
    const listed = await this.#controller.client.listSandboxes();
    const running = await this.#controller.pids('vmm');
    assert.deepEqual(new Set(running), new Set(listed.map(({ pid }) => pid)));
    assert.deepEqual((await this.#controller.sandboxDirs()).toSorted(), listed.map(({ id }) => id).toSorted());
  }

  /** Removes everything but the template, so that the next run begins in the same state. */
  async clear(): Promise<void> {
    const { client } = this.#controller;
    for (const { name } of await client.listWorkspaces()) await client.deleteWorkspace(name);
    await Promise.all((await client.listSandboxes()).map(({ id }) => client.deleteSandbox(id)));
    for (const { tag } of await client.listSnapshots()) {
      if (tag !== 'base') await client.deleteSnapshot(tag, { force: true });
    }
    for (const known of [this.#sandboxes, this.#snapshots, this.#workspaces]) known.clear();
  }

  async #worker(signal: AbortSignal): Promise<void> {
    const steps = [
      () => this.#fork(),
      () => this.#fork(),
      () => this.#end(),
      () => this.#pause(),
      () => this.#branch(),
      () => this.#branch(),
      () => this.#removeSnapshot(),
      () => this.#createWorkspace(),
      () => this.#moveWorkspace(),
      () => this.#exec(),
    ];
    while (!signal.aborted) {
      try {
        await this.#pick(steps)?.();
      } catch (error) {
        // An action of another worker at the same time may conflict. That conflict has been answered too.
        if (!wasAnswered(error)) return;
      }
    }
  }

  async #fork(): Promise<void> {
    const body = { snapshot_tag: 'base', n: 1 + Math.floor(this.#random() * 3) };
    await this.#once({ key: randomUUID(), path: '/v1/sandboxes', body });
    this.#note('fork');
  }

  /** Sends a request with a key, so that its answer is known afterwards. */
  async #once(request: Unanswered): Promise<void> {
    this.#unanswered.push(request);
    try {
      await this.#send(request);
    } catch (error) {
      // Another worker may have caused a conflict. That conflict has been answered too.
      if (wasAnswered(error)) this.#unanswered = this.#unanswered.filter((other) => other !== request);
      throw error;
    }
    this.#unanswered = this.#unanswered.filter((other) => other !== request);
  }

  async #send({ key, path, body }: Unanswered): Promise<void> {
    const reply = await this.#controller.fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': key },
      body: JSON.stringify(body),
    });
    const answer = await reply.json();
    if (reply.status !== 201) {
      throw new ForkdError('bad_response', `${path} was answered ${reply.status}: ${JSON.stringify(answer)}`, {
        status: reply.status,
      });
    }
    if ('tag' in body) this.#snapshots.set(body.tag, 'there');
    else for (const { id } of answer as SandboxInfo[]) this.#sandboxes.set(id, 'there');
  }

  #end(): Promise<void> {
    return this.#change(this.#sandboxes, 'end', 'gone', (id) => this.#controller.client.deleteSandbox(id));
  }

  async #pause(): Promise<void> {
    const id = this.#some(this.#sandboxes);
    if (id === undefined) return;
    await this.#controller.client.pauseSandbox(id);
    await this.#controller.client.resumeSandbox(id);
    this.#note('pause');
  }

  async #exec(): Promise<void> {
    const id = this.#some(this.#sandboxes);
    if (id === undefined) return;
    await this.#controller.client.exec(id, { args: ['true'] });
    this.#note('exec');
  }

  async #branch(): Promise<void> {
    const id = this.#some(this.#sandboxes);
    if (id === undefined) return;
    this.#count += 1;
    const body = { tag: `branch-${this.#count}`, mode: this.#random() < 0.5 ? ('live' as const) : ('diff' as const) };
    this.#snapshots.set(body.tag, 'maybe');
    await this.#once({ key: randomUUID(), path: `/v1/sandboxes/${id}/branch`, body });
    this.#note('branch');
  }

  #removeSnapshot(): Promise<void> {
    const remove = (tag: string) => this.#controller.client.deleteSnapshot(tag);
    return this.#change(this.#snapshots, 'remove', 'gone', remove);
  }

  async #createWorkspace(): Promise<void> {
    this.#count += 1;
    const name = `workspace-${this.#count}`;
    this.#workspaces.set(name, 'maybe');
    await this.#controller.client.createWorkspace({ name, snapshot_tag: 'base' });
    this.#workspaces.set(name, 'there');
    this.#note('create workspace');
  }

  async #moveWorkspace(): Promise<void> {
    const name = this.#some(this.#workspaces);
    if (name === undefined) return;
    const { status } = await this.#controller.client.getWorkspace(name);
    if (status === 'running') await this.#controller.client.suspendWorkspace(name);
    else await this.#controller.client.resumeWorkspace(name);
    this.#note(status === 'running' ? 'suspend' : 'resume');
  }

  /** Moves an object from `there` to another state, while no other worker touches it. */
  async #change(
    all: Map<string, Known>,
    what: string,
    becomes: Known,
    change: (name: string) => Promise<void>,
  ): Promise<void> {
    const name = this.#some(all);
    if (name === undefined) return;
    all.set(name, 'maybe');
    await change(name);
    all.set(name, becomes);
    this.#note(what);
  }

  async #askAgain(): Promise<void> {
    for (const request of this.#unanswered) {
      try {
        await this.#send(request);
      } catch (error) {
        // The sandbox to branch may have been ended meanwhile. No other failure is accepted.
        if (!isForkdError(error) || error.status !== 404) throw error;
      }
    }
    this.#unanswered = [];
  }

  async #verifySandboxes(listed: readonly SandboxInfo[]): Promise<void> {
    const { client } = this.#controller;
    const plain = listed.filter(({ workspace }) => workspace === undefined).map(({ id }) => id);
    this.#compare('sandboxes', plain, this.#sandboxes);
    for (const { id, state } of listed) {
      // The sandbox may have been paused when the controller ended.
      if (state === 'paused') await client.resumeSandbox(id);
      assert.equal(await shell(client, id, 'hostname'), id);
    }
  }

  async #verifySnapshots(): Promise<void> {
    const { client } = this.#controller;
    const listed = await client.listSnapshots();
    assert.deepEqual(
      listed.filter(({ status }) => status !== 'ready'),
      [],
    );
    const plain = listed.filter(({ tag }) => tag !== 'base' && !tag.startsWith('ws-')).map(({ tag }) => tag);
    this.#compare('snapshots', plain, this.#snapshots);
    const tag = this.#pick(plain);
    if (tag === undefined) return;
    const child = await forkOne(client, tag);
    assert.equal(await shell(client, child, 'hostname'), child);
    await client.deleteSandbox(child);
  }

  async #verifyWorkspaces(): Promise<void> {
    const { client } = this.#controller;
    const listed = await client.listWorkspaces();
    const names = listed.map(({ name }) => name);
    this.#compare('workspaces', names, this.#workspaces);
    const states = (await client.listSnapshots()).map(({ tag }) => tag).filter((tag) => tag.startsWith('ws-'));
    // A workspace that was interrupted while its next state was written keeps that state until it is suspended again.
    const lost = listed.flatMap(({ current_state_tag: tag }) =>
      tag === undefined || states.includes(tag) ? [] : [tag],
    );
    assert.deepEqual(lost, []);
    for (const { name, status } of listed) {
      if (status === 'running') continue;
      await client.resumeWorkspace(name);
      this.#note('resume');
    }
  }

  /** Every object known to exist must be listed, and no object known to be gone. The listing settles the state of the others. */
  #compare(what: string, listed: readonly string[], known: Map<string, Known>): void {
    const names = new Set(listed);
    const lost = [...known].filter(([name, state]) => state === 'there' && !names.has(name)).map(([name]) => name);
    const unknown = listed.filter((name) => (known.get(name) ?? 'gone') === 'gone');
    assert.deepEqual({ what, lost, unknown }, { what, lost: [], unknown: [] });
    for (const name of known.keys()) known.set(name, names.has(name) ? 'there' : 'gone');
  }

  #note(what: string): void {
    this.answered.set(what, (this.answered.get(what) ?? 0) + 1);
  }

  #some(all: Map<string, Known>): string | undefined {
    return this.#pick([...all].flatMap(([name, known]) => (known === 'there' ? [name] : [])));
  }

  #pick<T>(items: readonly T[]): T | undefined {
    return items[Math.floor(this.#random() * items.length)];
  }
}

/** True if the error is an answer of the controller, and not its absence. */
function wasAnswered(error: unknown): boolean {
  return isForkdError(error) && (error.status ?? 0) > 0;
}

/** Starts the controller again after it was killed, and waits until it answers. */
export async function restart(controller: TestController, args: readonly string[] = []): Promise<void> {
  await controller.kill9();
  await until('the controller is back', RESTART_TIMEOUT_MS, async () => {
    await controller.serve(args);
    return true;
  });
}
