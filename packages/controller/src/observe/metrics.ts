import { type EndReason, endReasons } from '@forkd/api';
import type { FlowRecord, LayerMemory } from '@forkd/engine';
import { limits } from '../limits.ts';
import { version } from '../version.ts';
import { type Counter, type Histogram, Exposition } from './exposition.ts';
import { addProcessMetrics } from './process-metrics.ts';

/** The values that are read at each scrape. `null`: unknown at the moment. */
export interface Gauges {
  snapshots: number | null;
  sandboxes: number;
  terminalViewers: number;
  branchesInFlight: number;
  branchCap: number;
  /** The layers that the pager holds in RAM, and that sandboxes have mapped. */
  layers: LayerMemory | null;
  diskOwnBytes: number | null;
  diskSharedBytes: number | null;
  privateBytes: number | null;
  sharedBytes: number | null;
  auditLinesDropped: number;
}

/** The numbers of a branch, as the wire names them. */
export type BranchNumbers = Readonly<Record<string, number>>;

const seconds = (...ms: number[]): number[] => ms.map((value) => value / 1000);
const shortSeconds = seconds(0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 50, 100, 250, 1000);
const longSeconds = seconds(1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000);

/** Everything that the controller counts and measures of itself. */
export class Metrics {
  readonly #all = new Exposition();
  readonly #forks: Counter;
  readonly #forkSeconds: Histogram;
  readonly #forkReadySeconds: Histogram;
  readonly #sandboxesEnded: Counter;
  readonly #flows: Counter;
  readonly #flowBytes: Counter;
  readonly #execSeconds: Histogram;
  readonly #branches: Counter;
  readonly #branchFaults: Counter;
  readonly #branchPauseSeconds: Histogram;
  readonly #branchCaptureSeconds: Histogram;
  readonly #requestSeconds: Histogram;
  readonly #refused: Counter;
  readonly #loopDelaySeconds: Histogram;
  #gauges: Gauges | null = null;
  #readGauges: () => Promise<Gauges> = () => Promise.reject(new Error('nothing to read gauges from'));

  constructor() {
    const all = this.#all;
    all.gauge('forkd_build_info', 'Always 1; the version is in the label.', () => 1, { version });
    this.#forks = all.counter('forkd_forks_total', 'Forks that were begun, by result: ok, failed.');
    this.#forkSeconds = all.histogram('forkd_fork_seconds', 'A child: until its VM runs.', longSeconds);
    const ready = 'A child: until it has an identity of its own and takes commands.';
    this.#forkReadySeconds = all.histogram('forkd_fork_ready_seconds', ready, longSeconds);
    this.#sandboxesEnded = all.counter('forkd_sandboxes_ended_total', 'Sandboxes that ended, by reason.');
    this.#flows = all.counter('forkd_network_flows_total', 'Connections of sandboxes, by phase and direction.');
    this.#flowBytes = all.counter('forkd_network_bytes_total', 'Bytes of connections that have ended, by direction.');
    this.#execSeconds = all.histogram('forkd_exec_seconds', 'exec: the command and the way to it.', longSeconds);
    this.#branches = all.counter('forkd_branches_total', 'Branches that were begun, by mode and result: ok, failed.');
    this.#branchFaults = all.counter(
      'forkd_branch_faults_total',
      'Writes of guests that waited for a page to be saved.',
    );
    this.#branchPauseSeconds = all.histogram('forkd_branch_pause_seconds', 'How long a guest stood.', shortSeconds);
    const capture = 'From the end of the pause until the memory was saved.';
    this.#branchCaptureSeconds = all.histogram('forkd_branch_capture_seconds', capture, longSeconds);
    const request = 'Requests, by the pattern of their route.';
    this.#requestSeconds = all.histogram('forkd_http_request_seconds', request, longSeconds);
    this.#refused = all.counter('forkd_http_connections_refused_total', 'Connections over the limit of their number.');
    const delay = 'How much later than due the event loop came round, looked at twenty times a second.';
    this.#loopDelaySeconds = all.histogram('forkd_event_loop_delay_seconds', delay, longSeconds);
    for (const mode of ['live', 'diff', 'full']) this.#branches.add(0, { mode, result: 'ok' });
    for (const result of ['ok', 'failed']) this.#forks.add(0, { result });
    for (const reason of endReasons) this.#sandboxesEnded.add(0, { reason });
    this.#branchFaults.add(0);
    this.#refused.add(0);
    this.#addGauges();
    addProcessMetrics(all);
  }

  /** Measures how long the event loop lets others wait. Returns how to stop. */
  watchEventLoop(): () => void {
    let dueMs = performance.now() + limits.loopLookMs;
    const timer = setInterval(() => {
      const nowMs = performance.now();
      this.#loopDelaySeconds.observe(Math.max(0, nowMs - dueMs) / 1000);
      dueMs = nowMs + limits.loopLookMs;
    }, limits.loopLookMs).unref();
    return () => clearInterval(timer);
  }

  /** Sets the function that reads the gauges. */
  readFrom(read: () => Promise<Gauges>): void {
    this.#readGauges = read;
  }

  /** The text of a scrape. */
  async scrape(): Promise<string> {
    this.#gauges = await this.#readGauges();
    return this.#all.text();
  }

  /** A fork that was begun, with all of its children running. */
  forked(): void {
    this.#forks.add(1, { result: 'ok' });
  }

  forkFailed(): void {
    this.#forks.add(1, { result: 'failed' });
  }

  /** A connection of a sandbox, as the network process reports it. */
  flow({ phase, direction, sent_bytes: sent, received_bytes: received }: FlowRecord): void {
    this.#flows.add(1, { phase, direction });
    this.#flowBytes.add(sent, { direction: 'out' });
    this.#flowBytes.add(received, { direction: 'in' });
  }

  sandboxEnded(reason: EndReason): void {
    this.#sandboxesEnded.add(1, { reason });
  }

  child({ forkMs, readyMs }: { forkMs: number; readyMs: number }): void {
    this.#forkSeconds.observe(forkMs / 1000);
    this.#forkReadySeconds.observe(readyMs / 1000);
  }

  executed(ms: number): void {
    this.#execSeconds.observe(ms / 1000);
  }

  branched(mode: string, numbers: BranchNumbers): void {
    const { pause_us: pauseUs, capture_ms: captureMs, faults } = numbers;
    this.#branches.add(1, { mode, result: 'ok' });
    if (pauseUs !== undefined) this.#branchPauseSeconds.observe(pauseUs / 1_000_000, { mode });
    if (captureMs !== undefined) this.#branchCaptureSeconds.observe(captureMs / 1000, { mode });
    this.#branchFaults.add(faults ?? 0);
  }

  branchFailed(mode: string): void {
    this.#branches.add(1, { mode, result: 'failed' });
  }

  request({ route, method, status, ms }: { route: string; method: string; status: number; ms: number }): void {
    this.#requestSeconds.observe(ms / 1000, { route, method, status: String(status) });
  }

  connectionRefused(): void {
    this.#refused.add(1);
  }

  #addGauges(): void {
    const gauge = (name: string, help: string, key: Exclude<keyof Gauges, 'layers'>): void =>
      this.#all.gauge(name, help, () => this.#gauges?.[key] ?? null);
    gauge('forkd_snapshots_total', 'Snapshots, those being written among them.', 'snapshots');
    gauge('forkd_sandboxes_active', 'Sandboxes that run.', 'sandboxes');
    gauge('forkd_terminal_viewers', 'Connections to terminals of commands.', 'terminalViewers');
    gauge('forkd_branches_in_flight', 'Branches under way.', 'branchesInFlight');
    gauge('forkd_branch_concurrency_cap', 'How many branches may be under way.', 'branchCap');
    this.#addLayers();
    gauge('forkd_sandbox_private_bytes', 'Memory that sandboxes have written: their own.', 'privateBytes');
    gauge('forkd_sandbox_shared_bytes', 'Pages of layers that sandboxes have mapped in, each counted.', 'sharedBytes');
    gauge(
      'forkd_sandbox_disk_own_bytes',
      'What sandboxes have written to their disks since their snapshots.',
      'diskOwnBytes',
    );
    gauge('forkd_sandbox_disk_shared_bytes', 'Bytes of disks that snapshots hold, each counted.', 'diskSharedBytes');
    const dropped = 'Lines of the audit log that could not be written.';
    this.#all.counted('forkd_audit_lines_dropped_total', dropped, () => this.#gauges?.auditLinesDropped ?? null);
  }

  #addLayers(): void {
    const read = (value: (layers: LayerMemory) => number) => () => {
      const layers = this.#gauges?.layers ?? null;
      return layers === null ? null : value(layers);
    };
    const gauge = (name: string, help: string, value: (layers: LayerMemory) => number): void =>
      this.#all.gauge(name, help, read(value));
    const counted = (name: string, help: string, value: (layers: LayerMemory) => number): void =>
      this.#all.counted(name, help, read(value));
    gauge('forkd_layers', 'Layers that the pager holds in RAM, and merged views of them.', ({ layers }) => layers);
    const inRam = 'RAM that layers take: mapped, unmapped and pending together.';
    gauge('forkd_layer_bytes', inRam, (all) => all.mapped_bytes + all.unmapped_bytes + all.pending_bytes);
    gauge('forkd_layer_mapped_bytes', 'Of layers that sandboxes map.', (all) => all.mapped_bytes);
    gauge(
      'forkd_layer_unmapped_bytes',
      'Of layers that nobody uses and that are on disk.',
      (all) => all.unmapped_bytes,
    );
    gauge(
      'forkd_layer_pending_bytes',
      'Of layers that nobody uses and that are not on disk.',
      (all) => all.pending_bytes,
    );
    gauge('forkd_layer_view_bytes', 'Of merged views, mapped or not.', (all) => all.view_bytes);
    gauge('forkd_layer_budget_bytes', 'What unmapped layers may take.', (all) => all.budget_bytes);
    counted('forkd_layers_let_go_total', 'Layers that were let go from RAM.', (all) => all.let_go);
    counted('forkd_layers_loaded_again_total', 'Layers read from disk after that.', (all) => all.loaded_again);
    counted('forkd_views_merged_total', 'Merged views made in the background.', (all) => all.merged);
    const waited = 'Merged views that a fork had to wait for.';
    counted('forkd_views_merged_in_forks_total', waited, (all) => all.merged_in_forks);
  }
}
