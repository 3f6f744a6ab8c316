import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { ForkdClient, isForkdError } from '@forkd/sdk';
import { forkOne, makeTemplate, TestController } from '@forkd/testing';
import { controllerFacts, type Report, type Run } from './run.ts';
import { grouped, round, type Summary, summarize, timed } from './statistics.ts';

export interface SoakSetting {
  clients: number;
  /** How long they go on, in seconds. */
  secs: number;
  /** Afterwards, `children` are forked at once and ended, so many times. */
  rounds: number;
  children: number;
}

/** What the host holds for the controller, at one time of the run. */
export interface SoakRow {
  at_secs: number;
  controller_fds: number;
  controller_rss_mib: number;
  pager_fds: number;
  pager_rss_mib: number;
  /** Of this data directory: the controller, the pager, VMMs. */
  processes: number;
  sandboxes: number;
}

/** What one kind of request took. */
export interface SoakEntry {
  kind: string;
  ms: Summary;
  /** Answers below 500 that refuse: another client was in the way. */
  refused: number;
}

export interface SoakReport extends Report<SoakRow, SoakEntry> {
  requests_per_s: number;
  /** Answers of 500 and above, and requests without any. */
  errors: string[];
  /** Held before the load and after it, once all that it made has been ended. */
  before: SoakRow;
  after: SoakRow;
  /** The same before the rounds of forks and after them. */
  before_rounds: SoakRow;
  after_rounds: SoakRow;
}

/** Sandboxes that live through the run: each client mostly works in one of them. */
const RESIDENTS = 16;
const SAMPLE_SECS = 10;
const WARM_UP_SECS = 10;
const ERRORS_KEPT = 20;
const MIB = 2 ** 20;

const METHOD = [
  'Clients in one process, each with one request under way at a time over the unix socket of a real controller, and no pause between them: lists, single sandboxes, commands, files, forks that are ended at once, branches that are removed at once, pausing and resuming, metrics, in the proportions of the table.',
  'Descriptors and memory are read from /proc. The first figures are taken once each kind of request has been made for a while and what it made has been ended.',
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
  const stop = new AbortController();
  const sampling = sample(look, rows, run, stop.signal);
  await load.run(setting.clients, setting.secs, run.signal);
  stop.abort();
  await sampling;
  const after = await look();
  const summary = load.summary();
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
    errors: load.errors,
    before,
    after,
    before_rounds: beforeRounds,
    after_rounds: afterRounds,
  };
}

/** Clients that ask without pause, and what they were answered. */
class Load {
  readonly errors: string[] = [];
  readonly #controller: TestController;
  readonly #residents: readonly string[];
  #answers: { kind: string; ms: number; refused: boolean }[] = [];

  constructor(controller: TestController, residents: readonly string[]) {
    this.#controller = controller;
    this.#residents = residents;
  }

  async run(clients: number, secs: number, signal: AbortSignal): Promise<void> {
    const endMs = performance.now() + secs * 1e3;
    const one = async (index: number): Promise<void> => {
      const client = new ForkdClient({ socket: this.#controller.socket });
      try {
        for (let turn = index; performance.now() < endMs; turn += 1) {
          signal.throwIfAborted();
          await this.#ask(client, turn);
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
      // Paused by another client, branched by another client, too many branches: the answer is right.
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
