import type { BranchEntry } from './branch-summary.ts';
import type { AuditTally, BranchReport } from './branch.ts';
import type { ChainReport } from './chain.ts';
import type { DiskEntry } from './disk-summary.ts';
import type { DiskReport } from './disk.ts';
import type { ExecReport } from './exec.ts';
import type { ForkReport } from './fork.ts';
import type { LoadReport } from './load.ts';
import type { HostFacts } from './run.ts';
import { round, type Summary } from './statistics.ts';
import {
  isMet,
  judgeBranch,
  judgeChain,
  judgeDisk,
  judgeExec,
  judgeFork,
  judgeLoad,
  judgeWp,
  type Judgement,
} from './targets.ts';
import { formatMib, guestName } from './units.ts';
import type { WpReport } from './wp.ts';

/** Reports of `npm run bench`. */
export interface Documents {
  branch: BranchReport;
  fork: ForkReport;
  chain: ChainReport;
  disk: DiskReport;
  exec: ExecReport;
  load: LoadReport;
  wp: WpReport;
}

/** The page of the figures, as Markdown. `stolen` is the percentage of processor time that other machines had meanwhile. */
export function renderResults(documents: Documents, stolen: number): string {
  const { branch, fork, chain, disk, exec, load, wp } = documents;
  const chart = (name: string, alt: string): string => `![${alt}](charts/${name}.svg)`;
  const judgements = [
    ...judgeBranch(branch.summary),
    ...judgeWp(wp),
    ...judgeFork(fork.summary),
    ...judgeChain(chain.summary),
    ...judgeDisk(disk.summary),
    ...judgeExec(exec.summary),
    ...judgeLoad(load.summary),
  ];
  const missed = judgements.filter((judgement) => !isMet(judgement));
  return join([
    '# What forkd costs',
    'Written by `npm run bench`; how to read it, and the questions behind it, are in [README.md](README.md). Every measurement is in [results/](results/).',
    hostTable(branch.host, stolen),
    `${judgements.length - missed.length} of ${judgements.length} targets met.${missed.length > 0 ? ' Not met:' : ''}`,
    missed.length > 0 ? targetTable(missed) : '',
    '## Branch',
    chart('pause', 'Pause of a branch by guest and mode, with its floor'),
    targetTable(judgeBranch(branch.summary)),
    pauseTable(branch.summary),
    chart('stages', 'Pause, ready and durable of live branches'),
    stagesTable(branch.summary),
    chart('gap', 'The longest gap that the guest sees'),
    guestTable(branch.summary),
    auditSentence(branch.audited),
    list(branch.method),
    '## Write-protection by itself',
    targetTable(judgeWp(wp)),
    wpTable(wp),
    '## Fork',
    chart('fork', 'Fork times by how many are asked for at once'),
    targetTable(judgeFork(fork.summary)),
    forkTable(fork),
    memoryTable(fork),
    list(fork.method),
    '## Fork from a chain of snapshots',
    chart('chain', 'Fork time by depth'),
    targetTable(judgeChain(chain.summary)),
    chainTable(chain),
    list(chain.method),
    '## Disk',
    `Measured on ${disk.host.measured_on}.`,
    targetTable(judgeDisk(disk.summary)),
    diskTable(disk.summary),
    list(disk.method),
    '## A command in a sandbox',
    targetTable(judgeExec(exec.summary)),
    execTable(exec),
    list(exec.method),
    '## Branch while the controller is busy',
    targetTable(judgeLoad(load.summary)),
    loadTable(load),
    list(load.method),
  ]);
}

function hostTable(host: HostFacts, stolen: number): string {
  return table(
    ['host', ''],
    [
      ['measured on', host.measured_on],
      ['processors', `${host.cpus} × ${host.cpu}`],
      ['memory', formatMib(host.mem_mib)],
      ['Linux', host.kernel],
      ['QEMU', `${host.qemu} with ${host.accelerator}: ${host.accelerator_reason}`],
      ['Node.js', host.node],
      ['load average before', String(host.load_average)],
      ['processor time that the hypervisor gave to others meanwhile', `${stolen} %`],
    ],
  );
}

function targetTable(judgements: readonly Judgement[]): string {
  const rows = judgements.map((judgement) => {
    const { what, measured, atMost, atLeast } = judgement;
    const target = atMost === undefined ? `≥ ${atLeast}` : `≤ ${atMost}`;
    return [what, String(measured), target, isMet(judgement) ? 'met' : '**not met**'];
  });
  return table(['target', 'measured', 'aimed at', ''], rows);
}

function pauseTable(entries: readonly BranchEntry[]): string {
  const rows = entries.map((entry) => [
    guestName(entry),
    entry.mode,
    String(entry.pause_ms.n),
    quantiles(entry.pause_ms),
    `${entry.floor_ms.p50} / ${entry.floor_ms.p99}`,
    String(entry.ratio_p50),
    String(entry.ratio_p99),
  ]);
  const header = ['guest', 'mode', 'n', 'pause p50 / p99 / max, ms', 'floor p50 / p99, ms', 'p50 ratio', 'p99 ratio'];
  return table(header, rows);
}

function stagesTable(entries: readonly BranchEntry[]): string {
  const rows = entries.map((entry) => [
    guestName(entry),
    entry.mode,
    String(entry.round_trip_ms.p50),
    String(entry.ready_ms.p50),
    String(entry.durable_ms.p50),
    String(entry.ready_over_pause),
    String(entry.captured_mib),
    known(entry.copy_mib_per_s),
  ]);
  const header = ['guest', 'mode', 'round trip, ms', 'ready, ms', 'durable, ms', 'ready / pause'];
  return table([...header, 'captured, MiB', 'copy, MiB/s'], rows);
}

function guestTable(entries: readonly BranchEntry[]): string {
  const rows = entries.map((entry) => [
    guestName(entry),
    entry.mode,
    quantiles(entry.guest_gap_ms),
    quantiles(entry.guest_gap_ready_ms),
    quantiles(entry.quiet_gap_ms),
    String(entry.faults),
    quantiles(entry.fault_wait_us),
    [entry.writes_per_s_before, entry.writes_per_s_during, entry.writes_per_s_after].map(known).join(' / '),
  ]);
  const gaps = ['gap p50 / p99 / max, ms', 'until ready', 'without a branch'];
  const rest = ['faults', 'their wait p50 / p99 / max, µs', 'writes a second before / during / after'];
  return table(['guest', 'mode', ...gaps, ...rest], rows);
}

function auditSentence({ branches, pages, differing_pages: differing }: AuditTally): string {
  return `Branches audited: ${branches}, pages compared: ${pages}, differing pages: ${differing}.`;
}

function wpTable(wp: WpReport): string {
  const wait = wp.fault_wait_us;
  const bare = wp.bare_round_trip_us;
  return table(
    ['`forkd wp-bench`', ''],
    [
      ['region, writers', `${wp.region_mib} MiB, ${wp.writers}`],
      ['pages wrong, writes lost', `${wp.violations}, ${wp.lost_writes}`],
      ['pages captured in bulk, for a write that waited', `${wp.pages_by_copy}, ${wp.pages_by_fault}`],
      ['wait of a write p50 / p99 / max, µs', quantiles(wait)],
      ['bare userfaultfd round trip p50 / p99 / max, µs', quantiles(bare)],
      ['copy with writers, without, plain loop, MiB/s', mibPerS(wp)],
    ],
  );
}

function mibPerS(wp: WpReport): string {
  return [wp.copy_mib_per_s, wp.quiet_copy_mib_per_s, wp.readv_mib_per_s].map(Math.round).join(', ');
}

function forkTable({ summary }: ForkReport): string {
  const rows = summary.map((entry) => [
    String(entry.n),
    String(entry.running_ms.n),
    String(entry.floor_ms),
    quantiles(entry.running_ms),
    quantiles(entry.pool_running_ms),
    quantiles(entry.first_exec_ms),
    String(entry.all_ms),
    String(entry.cold_boot_ms),
  ]);
  const header = ['at once', 'children', 'QEMU alone p50, ms', 'running p50 / p99 / max, ms', 'from the pool, ms'];
  return table([...header, 'first command answered, ms', 'all answered, ms', 'cold boot, ms'], rows);
}

function memoryTable({ summary }: ForkReport): string {
  const rows = summary.map((entry) => [
    String(entry.n),
    String(entry.private_kib_per_child),
    String(entry.bare_private_kib),
    String(entry.shared_kib),
    String(entry.proportional_kib),
    String(entry.private_after_exec_kib),
    String(entry.cold_boot_private_kib),
  ]);
  const header = ['guest memory of a child, KiB', 'private', 'private, QEMU alone', 'shared', 'proportional'];
  return table([...header, 'private after its first command', 'private after a cold boot'], rows);
}

function chainTable({ summary }: ChainReport): string {
  const rows = summary.map((entry) => [
    String(entry.depth),
    String(entry.running_ms.n),
    quantiles(entry.running_ms),
    String(round(entry.first_ms)),
    String(entry.ratio),
    String(entry.extents),
    `${entry.mappings_first} / ${entry.mappings}`,
  ]);
  const header = ['depth', 'n', 'running p50 / p99 / max, ms', 'the first, ms', 'to the least depth', 'extents'];
  return table([...header, 'mappings of a child, first / p50'], rows);
}

function diskTable(entries: readonly DiskEntry[]): string {
  const rows = entries.map(({ measure, of, unit, values }) => [
    measure,
    of,
    String(values.n),
    `${values.p50} / ${values.least} / ${values.most} ${unit}`,
  ]);
  return table(['', 'of', 'n', 'p50 / least / most'], rows);
}

function execTable({ summary }: ExecReport): string {
  const rows = summary.flatMap((entry) => [
    ['REST', String(entry.rest_ms.n), quantiles(entry.rest_ms)],
    ['the agent’s channel', String(entry.agent_ms.n), quantiles(entry.agent_ms)],
  ]);
  return table(['`true` through', 'n', 'p50 / p99 / max, ms'], rows);
}

function loadTable({ summary }: LoadReport): string {
  const rows = summary.flatMap((entry) => [
    ['no requests', String(entry.quiet_pause_ms.n), quantiles(entry.quiet_pause_ms)],
    [requests(entry), String(entry.loaded_pause_ms.n), quantiles(entry.loaded_pause_ms)],
  ]);
  return table(['beside the branches', 'n', 'pause p50 / p99 / max, ms'], rows);
}

function requests(entry: LoadReport['summary'][number]): string {
  const answered = `answered after ${entry.answer_ms_p50} ms (p50), ${entry.answer_ms_p99} ms (p99)`;
  return `${entry.requests_per_s} requests a second, ${entry.errors} errors, ${answered}`;
}

function quantiles({ p50, p99, max }: Omit<Summary, 'n'>): string {
  return [p50, p99, max].map(round).join(' / ');
}

function known(value: number | null): string {
  return value === null ? '–' : String(value);
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n');
}

function list(items: readonly string[]): string {
  return items.map((item) => `- ${item}`).join('\n');
}

function join(parts: readonly string[]): string {
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}
