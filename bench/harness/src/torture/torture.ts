import { setTimeout as delay } from 'node:timers/promises';
import { anySignal } from '@forkd/engine';
import { forkOne, makeTemplate, TestController } from '@forkd/testing';
import { runBeside } from '../beside.ts';
import { controllerFacts, type HostFacts, type Run } from '../run.ts';
import { grouped, round, type Summary, summarize } from '../statistics.ts';
import { AuditedSandboxes } from './audited.ts';
import type { AuditFigures } from './audits.ts';
import { HonestCallers, type HonestEntry } from './honest.ts';
import { type HostFeature, HostileHost } from './hostile-host.ts';
import { killByTurns, type Outage } from './kills.ts';
import { type NeighbourFigures, Neighbours } from './neighbours.ts';
import { PayloadBranches } from './payloads.ts';
import { type CurrentWindow, type WindowKind, windowsOf } from './windows.ts';

export interface TortureSetting {
  minutes: number;
  /** Duration of one window. */
  windowSecs: number;
  /** Honest callers, each with one request under way at a time. */
  callers: number;
  /** Guests without a kernel that are branched without pause. */
  payloads: number;
}

export interface TortureReport {
  host: HostFacts;
  method: string[];
  minutes: number;
  /** Branches of the payloads, and branches of a controller's sandbox through REST. */
  branches: { payloads: AuditFigures; sandboxes: AuditFigures };
  /** Waits of honest callers, by window and request. */
  honest: HonestEntry[];
  /** The p99 beside hostile neighbours divided by the p99 of the honest callers alone, by request. */
  neighbours_p99_ratio: Record<string, number>;
  /** The p99 beside hostile neighbours divided by the p99 beside as many honest ones, by request. */
  hostility_p99_ratio: Record<string, number>;
  /** The longest wait of an honest caller for an answer, by window. */
  worst_ms: Record<string, number>;
  /** Time from a kill until a command in a sandbox was answered again, by the process that was killed. */
  outages_ms: Record<string, Summary>;
  /** Requests that a kill left without an answer. */
  cut_off: number;
  host_features: HostFeature[];
  neighbours: NeighbourFigures;
  /** Honest requests and branches that failed although nothing that serves them was killed. Must be empty. */
  failures: string[];
}

const METHOD = [
  'Guests without a kernel and a sandbox of a real controller rewrite their memory without pause and are branched live without pause; each branch is audited: all of guest memory is copied inside the pause and compared with the finished layers, byte for byte.',
  'Honest callers make ordinary requests of that controller without pause, over the unix socket.',
  'Windows follow each other by turns: honest callers alone; beside as many honest callers as there are hostile ones next; beside hostile callers, agents and VMMs; on a host that compacts, reclaims and swaps memory; while the pager and the controller of the sandboxes are killed with SIGKILL.',
  'A request that begins in one window and ends in another is in no latency. Percentiles are nearest-rank.',
];

/** Runs everything that can go wrong beside everything that must go right. Throws only if the run itself cannot be set up. */
export async function benchTorture(setting: TortureSetting, run: Run): Promise<TortureReport> {
  const window: CurrentWindow = { kind: 'honest alone' };
  await using worst = await HostileHost.prepare();
  await using controller = await TestController.start();
  const host = await controllerFacts(controller.client);
  run.progress('torture: making a template and the guests');
  await makeTemplate(controller.client);
  const residents = await Promise.all(Array.from({ length: setting.callers }, () => forkOne(controller.client)));
  await using payloads = await PayloadBranches.start(setting.payloads, window);
  const sandboxes = await AuditedSandboxes.start(controller, 1, window);
  const honest = new HonestCallers(controller, window);
  await using neighbours = await Neighbours.prepare(controller, payloads.lab);
  const outages: Outage[] = [];
  const beside: Record<WindowKind, (end: AbortSignal) => Promise<unknown>> = {
    'honest alone': async () => undefined,
    'honest neighbours': (end) => neighbours.runHonest(end),
    'hostile neighbours': (end) => neighbours.run(end),
    'hostile host': async (end) => {
      await worst.hold([...payloads.pids, ...(await controller.pids('vmm'))]);
      await worst.run(end);
    },
    kills: async (end) => outages.push(...(await killByTurns(controller, residents[0] ?? '', end))),
  };
  const inWindows = async (signal: AbortSignal): Promise<void> => {
    const windows = windowsOf(setting.minutes, setting.windowSecs);
    for (const [index, kind] of windows.entries()) {
      window.kind = kind;
      await runFor(setting.windowSecs, signal, beside[kind]);
      signal.throwIfAborted();
      const { branches, differing_pages } = payloads.audits.figures;
      run.progress(
        `torture: window ${index + 1} of ${windows.length}, ${kind}: ${branches} branches of payloads, ` +
          `${differing_pages} differing pages, ${honest.failed} failed requests`,
      );
    }
  };
  const allTheWhile = (signal: AbortSignal): Promise<unknown> =>
    Promise.all([honest.run(setting.callers, residents, signal), payloads.run(signal), sandboxes.run(signal)]);
  await runBeside(run.signal, inWindows, allTheWhile);
  const entries = honest.summary();
  return {
    host,
    method: METHOD,
    minutes: setting.minutes,
    branches: { payloads: payloads.audits.figures, sandboxes: sandboxes.audits.figures },
    honest: entries,
    neighbours_p99_ratio: ratios(entries, 'honest alone'),
    hostility_p99_ratio: ratios(entries, 'honest neighbours'),
    worst_ms: Object.fromEntries(
      grouped(entries, (entry) => entry.window).map((all) => [
        all[0]?.window ?? '',
        Math.max(...all.map(({ ms }) => ms.max)),
      ]),
    ),
    outages_ms: Object.fromEntries(
      grouped(outages, ({ victim }) => victim).map((all) => [all[0]?.victim ?? '', summarize(all.map(({ ms }) => ms))]),
    ),
    cut_off: honest.cutOff,
    host_features: worst.features,
    neighbours: neighbours.figures,
    failures: [...honest.failures, ...payloads.audits.failures, ...sandboxes.audits.failures],
  };
}

/** Does something for `secs` seconds. Its failure ends the run. */
async function runFor(
  secs: number,
  signal: AbortSignal,
  action: (end: AbortSignal) => Promise<unknown>,
): Promise<void> {
  const end = anySignal(signal, AbortSignal.timeout(secs * 1e3));
  await Promise.all([action(end), delay(secs * 1e3, undefined, { signal }).catch(() => undefined)]);
}

/** The p99 beside hostile neighbours divided by the p99 in windows of another kind, by request. */
function ratios(entries: readonly HonestEntry[], base: WindowKind): Record<string, number> {
  const bases = new Map(entries.filter(({ window }) => window === base).map(({ request, ms }) => [request, ms.p99]));
  const compared = entries.filter(({ window, request }) => window === 'hostile neighbours' && bases.has(request));
  return Object.fromEntries(compared.map(({ request, ms }) => [request, round(ms.p99 / (bases.get(request) ?? NaN))]));
}
