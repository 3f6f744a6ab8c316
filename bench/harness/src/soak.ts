import { setMaxListeners } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { MIB } from '@forkd/api/constants';
import { ForkdClient, isForkdError } from '@forkd/sdk';
import { forkOne, makeTemplate, TestController } from '@forkd/testing';
import { runBeside } from './beside.ts';
import { Helper } from './helper.ts';
import type { HostileFigures } from './hostile-client.ts';
import type { ProbeFigures } from './probe-client.ts';
import { controllerFacts, type Report, type Run } from './run.ts';
import { grouped, round, type Summary, summarize, timed } from './statistics.ts';

export interface SoakSetting {
  clients: number;
  /** Duration in seconds. */
  secs: number;
  /** Number of rounds after the load. In each round `children` are forked at once and ended. */
  rounds: number;
  children: number;
  /** Malicious clients, in the third run of the same length. */
  hostile: number;
}

/** Resources that the host holds for the controller at one time in the run. */
export interface SoakRow {
  at_secs: number;
  controller_fds: number;
  controller_rss_mib: number;
  pager_fds: number;
  pager_rss_mib: number;
  /** Processes of this data directory: the controller, the pager, VMMs. */
  processes: number;
  sandboxes: number;
}

/** Time that one kind of request took. */
export interface SoakEntry {
  kind: string;
  ms: Summary;
  /** Requests that failed, mostly refusals because another client was in the way. */
  refused: number;
}

/** Figures of honest clients, alone or beside hostile ones. */
export interface SoakNeighbours {
  hostile: boolean;
  /** Pause of each client between an answer and its next request, in seconds. */
  pause_secs: number;
  /** Requests of the many clients. */
  summary: SoakEntry[];
  /** Requests of one modest caller: `/healthz`, and a command in its own sandbox. */
  health_ms: Summary;
  exec_ms: Summary;
  /** Count of checks of the controller's event loop, and of the checks that came later than these delays. */
  loop: { looked: number; later_than_100_ms: number; later_than_250_ms: number };
  /** Number of times that hostile clients tried each attack. */
  tried: HostileFigures;
}

export interface SoakReport extends Report<SoakRow, SoakEntry> {
  requests_per_s: number;
  /** Figures of the same clients: without pause, with pauses, and with pauses beside hostile ones. `summary` describes the first. */
  neighbours: SoakNeighbours[];
  /** Failures that another client does not explain, such as server errors and unanswered requests. */
  errors: string[];
  /** Resources before and after the load, once everything that it made has been ended. */
  before: SoakRow;
  after: SoakRow;
  /** Resources before and after the rounds of forks. */
  before_rounds: SoakRow;
  after_rounds: SoakRow;
}

/** Sandboxes that live through the run: each client mostly works in one of them. */
const RESIDENTS = 16;
const SAMPLE_SECS = 10;
const WARM_UP_SECS = 10;
/** 200 clients with this pause make 40 requests a second, a third of what two processors answer. */
const PAUSE_SECS = 5;
const ERRORS_KEPT = 20;

const METHOD = [
  'Clients in one process, each with one request under way at a time over the unix socket of a real controller, and no pause between them: lists, single sandboxes, commands, files, forks that are ended at once, branches that are removed at once, pausing and resuming, metrics, in the proportions of the table.',
  'Descriptors and memory are read from /proc. The first figures are taken once each kind of request has been made for a while and what it made has been ended.',
  'Then as long again with a pause of five seconds between two requests of a client, so that processors are idle in between, and as long again with that pause beside hostile clients, in a process of their own: large, deep, wide and slow bodies, uploads that are cut off, connections without a request and by the dozen. All the while one caller in another process asks for `/healthz` twenty times a second, and for a command in a sandbox of its own four times a second.',
  'Then the rounds: that many children forked in one request, and each ended by a request of its own, all at once.',
  'Percentiles are nearest-rank.',
];

export async function benchSoak(setting: SoakSetting, run: Run): Promise<SoakReport> {
  await using controller = await TestController.start();
  const { client } = controller;
  const host = await controllerFacts(client);
  run.progress('soak: making a template and the sandboxes that live through it');
  await makeTemplate(client);
  const residents = await Promise.all(Array.from({ length: RESIDENTS }, () => forkOne(client)));
  const load = new Load(controller, residents);
  await load.run(setting.clients, WARM_UP_SECS, run.signal);
  load.forget();
  const beganMs = performance.now();
  const look = (): Promise<SoakRow> => lookAt(controller, (performance.now() - beganMs) / 1e3);
  const before = await look();
  const rows: SoakRow[] = [before];
  const neighbours = await runBeside(
    run.signal,
    (signal) => besideNeighbours({ controller, load, setting, run: { ...run, signal } }),
    (stop) => sample(look, rows, run, stop),
  );
  const after = await look();
  const summary = neighbours[0]?.summary ?? [];
  await Promise.all(residents.map((id) => client.deleteSandbox(id)));
  await forkAndEnd(controller, setting.children);
  const beforeRounds = await look();
  for (let done = 1; done <= setting.rounds; done += 1) {
    run.signal.throwIfAborted();
    await forkAndEnd(controller, setting.children);
    run.progress(`soak: ${done} of ${setting.rounds} rounds of ${setting.children} forks`);
  }
  const afterRounds = await look();
  return {
    host,
    method: METHOD,
    rows,
    summary,
    requests_per_s: round(summary.reduce((sum, entry) => sum + entry.ms.n, 0) / setting.secs),
    neighbours,
    errors: load.errors,
    before,
    after,
    before_rounds: beforeRounds,
    after_rounds: afterRounds,
  };
}

interface Parts {
  controller: TestController;
  load: Load;
  setting: SoakSetting;
  run: Run;
}

/** Lets the clients send requests: without pause, then with pauses, then with pauses beside hostile clients. */
async function besideNeighbours({ controller, load, setting, run }: Parts): Promise<SoakNeighbours[]> {
  const { client, socket } = controller;
  const [own, victim] = [await forkOne(client), await forkOne(client)];
  const found: SoakNeighbours[] = [];
  {
    await using probe = await Helper.start<ProbeFigures>('probe-client', [socket, own]);
    await using enemy = await Helper.start<HostileFigures>('hostile-client', [socket, victim, String(setting.hostile)]);
    for (const { hostile, pauseSecs } of [
      { hostile: false, pauseSecs: 0 },
      { hostile: false, pauseSecs: PAUSE_SECS },
      { hostile: true, pauseSecs: PAUSE_SECS },
    ]) {
      const pace = pauseSecs === 0 ? 'without pause' : `with pauses of ${pauseSecs} s`;
      run.progress(
        `soak: ${setting.clients} clients ${pace}${hostile ? ` beside ${setting.hostile} hostile ones` : ''}`,
      );
      const before = await loopDelays(controller);
      if (hostile) await enemy.begin();
      await probe.begin();
      await load.run(setting.clients, setting.secs, run.signal, pauseSecs);
      const probed = await probe.pause();
      const tried = hostile ? await enemy.pause() : {};
      load.errors.push(...probed.errors);
      found.push({
        hostile,
        pause_secs: pauseSecs,
        summary: load.summary(),
        health_ms: summarize(probed.health_ms),
        exec_ms: summarize(probed.exec_ms),
        loop: difference(await loopDelays(controller), before),
        tried,
      });
      load.forget();
    }
  }
  await Promise.all([own, victim].map((id) => client.deleteSandbox(id)));
  return found;
}

type LoopDelays = SoakNeighbours['loop'];

async function loopDelays(controller: TestController): Promise<LoopDelays> {
  const text = await (await controller.fetch('/metrics')).text();
  const below = (bound: string): number =>
    Number(new RegExp(`^forkd_event_loop_delay_seconds_bucket\\{le="${bound}"\\} (\\d+)$`, 'm').exec(text)?.[1]);
  const looked = below('\\+Inf');
  return { looked, later_than_100_ms: looked - below('0.1'), later_than_250_ms: looked - below('0.25') };
}

function difference(now: LoopDelays, before: LoopDelays): LoopDelays {
  return {
    looked: now.looked - before.looked,
    later_than_100_ms: now.later_than_100_ms - before.later_than_100_ms,
    later_than_250_ms: now.later_than_250_ms - before.later_than_250_ms,
  };
}

/** Clients that send requests, and the answers that they got. */
class Load {
  readonly errors: string[] = [];
  readonly #controller: TestController;
  readonly #residents: readonly string[];
  #answers: { kind: string; ms: number; refused: boolean }[] = [];

  constructor(controller: TestController, residents: readonly string[]) {
    this.#controller = controller;
    this.#residents = residents;
  }

  async run(clients: number, secs: number, signal: AbortSignal, pauseSecs = 0): Promise<void> {
    const endMs = performance.now() + secs * 1e3;
    // Each client waits for the signal while it pauses.
    setMaxListeners(2 * clients, signal);
    const one = async (index: number): Promise<void> => {
      const client = new ForkdClient({ socket: this.#controller.socket });
      try {
        // The clients do not all begin at once.
        await delay((pauseSecs * 1e3 * index) / clients, undefined, { signal });
        for (let turn = index; performance.now() < endMs; turn += 1) {
          signal.throwIfAborted();
          await this.#ask(client, turn);
          if (pauseSecs > 0) await delay(pauseSecs * 1e3, undefined, { signal });
        }
      } finally {
        await client.close();
      }
    };
    await Promise.all(Array.from({ length: clients }, (_, index) => one(index)));
  }

  forget(): void {
    this.#answers = [];
  }

  summary(): SoakEntry[] {
    return grouped(this.#answers, ({ kind }) => kind).map((answers) => ({
      kind: answers[0]?.kind ?? '',
      ms: summarize(answers.map(({ ms }) => ms)),
      refused: answers.filter(({ refused }) => refused).length,
    }));
  }

  async #ask(client: ForkdClient, turn: number): Promise<void> {
    const id = this.#residents[turn % this.#residents.length] ?? '';
    const kinds: [weight: number, kind: string, ask: () => Promise<unknown>][] = [
      [20, 'list', () => client.listSandboxes()],
      [15, 'get', () => client.getSandbox(id)],
      [15, 'exec', () => client.exec(id, { args: ['true'] })],
      [10, 'write and read', () => writeAndRead(client, id, turn)],
      [6, 'stats', () => client.sandboxStats(id)],
      [2, 'metrics', () => this.#controller.fetch('/metrics').then((reply) => reply.text())],
      [3, 'pause and resume', () => client.pauseSandbox(id).finally(() => client.resumeSandbox(id))],
      [2, 'fork and end', async () => client.deleteSandbox(await forkOne(client))],
      [1, 'branch and remove', () => branchAndRemove(client, id)],
    ];
    let ticket = (turn * 7919) % kinds.reduce((sum, [weight]) => sum + weight, 0);
    const [, kind, ask] = kinds.find(([weight]) => (ticket -= weight) < 0) ?? [0, '', async () => undefined];
    const { ms, value: refused } = await timed(() => this.#wasRefused(kind, ask));
    this.#answers.push({ kind, ms, refused });
  }

  async #wasRefused(kind: string, ask: () => Promise<unknown>): Promise<boolean> {
    try {
      await ask();
      return false;
    } catch (error) {
      // Other clients may have paused or branched the sandbox, or hold all branch slots: the refusal is right.
      if (isForkdError(error) && (error.status === 409 || error.code === 'branch_cap')) return true;
      if (this.errors.length < ERRORS_KEPT) this.errors.push(`${kind}: ${String(error)}`);
      return true;
    }
  }
}

async function writeAndRead(client: ForkdClient, id: string, turn: number): Promise<void> {
  const path = `/tmp/soak-${turn % 32}`;
  await client.writeFile(id, path, `${turn}`);
  await client.readFile(id, path);
}

async function branchAndRemove(client: ForkdClient, id: string): Promise<void> {
  const { tag } = await client.branch(id, { mode: 'live' });
  await client.deleteSnapshot(tag);
}

async function forkAndEnd({ client }: TestController, children: number): Promise<void> {
  const made = await client.createSandboxes({ snapshot_tag: 'base', n: children });
  await Promise.all(made.map(({ id }) => client.deleteSandbox(id)));
}

async function sample(look: () => Promise<SoakRow>, rows: SoakRow[], run: Run, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    await delay(SAMPLE_SECS * 1e3, undefined, { signal: stop }).catch(() => undefined);
    const row = await look();
    rows.push(row);
    run.progress(
      `soak: ${Math.round(row.at_secs)} s, controller ${row.controller_fds} descriptors ${row.controller_rss_mib} MiB, ` +
        `pager ${row.pager_fds} descriptors ${row.pager_rss_mib} MiB, ${row.sandboxes} sandboxes`,
    );
  }
}

async function lookAt(controller: TestController, atSecs: number): Promise<SoakRow> {
  const processes = await controller.processes();
  const of = async (kind: 'controller' | 'pager') => {
    const pid = processes.find((found) => found.kind === kind)?.pid ?? 0;
    const [fds, status] = await Promise.all([
      readdir(`/proc/${pid}/fd`).catch(() => []),
      readFile(`/proc/${pid}/status`, 'latin1').catch(() => ''),
    ]);
    const kib = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0);
    return { fds: fds.length, rssMib: round((kib * 1024) / MIB) };
  };
  const [own, pager, sandboxes] = await Promise.all([of('controller'), of('pager'), controller.client.listSandboxes()]);
  return {
    at_secs: round(atSecs),
    controller_fds: own.fds,
    controller_rss_mib: own.rssMib,
    pager_fds: pager.fds,
    pager_rss_mib: pager.rssMib,
    processes: processes.length,
    sandboxes: sandboxes.length,
  };
}
