import type { ForkdClient } from '@forkd/sdk';
import { forkOne, installedStorm, makeTemplate, TestController } from '@forkd/testing';
import { Helper } from './helper.ts';
import type { LoadFigures } from './load-client.ts';
import { controllerFacts, type Report, type Run } from './run.ts';
import { round, type Summary, summarize } from './statistics.ts';

export interface LoadSetting {
  /** Number of branches with load, and number without. */
  iterations: number;
}

/** A live branch through REST. */
export interface LoadRow {
  load: boolean;
  iteration: number;
  pause_us: number;
  ready_ms: number;
}

export interface LoadEntry {
  /** Pauses without load, and with load. */
  quiet_pause_ms: Summary;
  loaded_pause_ms: Summary;
  /** Loaded p50 divided by quiet p50. */
  ratio_p50: number;
  ratio_p99: number;
  requests_per_s: number;
  errors: number;
  answer_ms_p50: number;
  answer_ms_p99: number;
}

export type LoadReport = Report<LoadRow, LoadEntry>;

const STORM_MIB = 64;
const REQUESTS_PER_S = 500;
/** Branches in a row, with load or without. */
const BLOCK = 5;

const METHOD = [
  `A sandbox of a real controller rewrites ${STORM_MIB} MiB as fast as it can and is branched live through REST; blocks of ${BLOCK} branches by turns with and without ${REQUESTS_PER_S} requests a second that another process makes of the same controller (GET of the health, the sandboxes, one sandbox, the snapshots).`,
  'pause: from before the pager sends stop until QEMU has answered cont, as the controller tells it.',
  'Requests are sent at their time, whether earlier ones have been answered or not. The process that makes them has its share of the same processors.',
  'Percentiles are nearest-rank; the 99th of fewer than a hundred is the largest.',
];

export async function benchLoad({ iterations }: LoadSetting, run: Run): Promise<LoadReport> {
  await using controller = await TestController.start();
  const { client } = controller;
  const host = await controllerFacts(client);
  run.progress('load: making a template');
  await makeTemplate(client);
  const id = await forkOne(client);
  await installedStorm(client, id, STORM_MIB);
  await using load = await Load.start(controller.socket, id);
  // The first branch of a pager finds cold code and files.
  await branchOnce(client, id, run.signal);
  const rows: LoadRow[] = [];
  for (let done = 0; done < iterations; done += BLOCK) {
    for (const isLoaded of done % (2 * BLOCK) === 0 ? [false, true] : [true, false]) {
      if (isLoaded) await load.begin();
      for (let index = done; index < Math.min(done + BLOCK, iterations); index += 1) {
        rows.push({ load: isLoaded, iteration: index, ...(await branchOnce(client, id, run.signal)) });
      }
      if (isLoaded) await load.pause();
    }
    run.progress(`load: ${Math.min(done + BLOCK, iterations)} of ${iterations} branches with and without`);
  }
  return { host, method: METHOD, rows, summary: [summarizeLoad(rows, load.figures)] };
}

export function summarizeLoad(rows: readonly LoadRow[], figures: LoadFigures): LoadEntry {
  const of = (load: boolean): Summary =>
    summarize(rows.filter((row) => row.load === load).map((row) => row.pause_us / 1e3));
  const [quiet, loaded] = [of(false), of(true)];
  const answers = summarize(figures.answers_ms);
  return {
    quiet_pause_ms: quiet,
    loaded_pause_ms: loaded,
    ratio_p50: round(loaded.p50 / quiet.p50),
    ratio_p99: round(loaded.p99 / quiet.p99),
    requests_per_s: round(figures.answers_ms.length / (figures.elapsed_ms / 1e3)),
    errors: figures.errors,
    answer_ms_p50: answers.p50,
    answer_ms_p99: answers.p99,
  };
}

/** Takes one branch, and removes it. */
async function branchOnce(client: ForkdClient, id: string, signal: AbortSignal) {
  const { tag, pause_us, ready_ms } = await client.branch(id, { mode: 'live' }, { signal });
  await client.deleteSnapshot(tag);
  if (pause_us === undefined || ready_ms === undefined) throw new Error(`the branch ${tag} has no figures`);
  return { pause_us, ready_ms };
}

/** The process that makes requests, and everything that it has measured. */
class Load implements AsyncDisposable {
  readonly figures: LoadFigures = { answers_ms: [], errors: 0, elapsed_ms: 0 };
  readonly #helper: Helper<LoadFigures>;

  private constructor(helper: Helper<LoadFigures>) {
    this.#helper = helper;
  }

  static async start(socket: string, sandboxId: string): Promise<Load> {
    return new Load(await Helper.start('load-client', [socket, sandboxId, String(REQUESTS_PER_S)]));
  }

  /** Resolves when the first requests have been made. */
  begin(): Promise<void> {
    return this.#helper.begin();
  }

  /** Resolves when no request is under way any longer. */
  async pause(): Promise<void> {
    const figures = await this.#helper.pause();
    this.figures.answers_ms.push(...figures.answers_ms);
    this.figures.errors += figures.errors;
    this.figures.elapsed_ms += figures.elapsed_ms;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#helper[Symbol.asyncDispose]();
  }
}
