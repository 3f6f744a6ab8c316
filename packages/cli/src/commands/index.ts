import type { Command, CommandGroup } from '../command.ts';
import { attach } from './attach.ts';
import { bench } from './bench/index.ts';
import { cleanup } from './cleanup.ts';
import { complete } from './complete.ts';
import { completion } from './completion.ts';
import { cp } from './cp.ts';
import { doctor } from './doctor/index.ts';
import { evalCommand } from './eval.ts';
import { events } from './events.ts';
import { exec } from './exec.ts';
import { fork } from './fork.ts';
import { fromImage } from './from-image.ts';
import { images } from './images.ts';
import { inspect } from './inspect.ts';
import { kill } from './kill.ts';
import { logs } from './logs.ts';
import { ls } from './ls.ts';
import { pause, resume } from './pause.ts';
import { ping } from './ping.ts';
import { prune } from './prune.ts';
import { quickstart } from './quickstart/index.ts';
import { rmi } from './rmi.ts';
import { run } from './run.ts';
import { snapshot } from './snapshot/index.ts';
import { snapshotCompact } from './snapshot-compact.ts';
import { snapshotDiff } from './snapshot-diff.ts';
import { snapshotInfo } from './snapshot-info.ts';
import { stats } from './stats.ts';
import { stop } from './stop.ts';
import { tree } from './tree.ts';
import { update } from './update.ts';
import { version } from './version.ts';
import { workspace } from './workspace/index.ts';
import { wpBench } from './wp-bench.ts';

/** Every verb, in the order in which help shows them. */
export const commandGroups: readonly CommandGroup[] = [
  { title: 'To begin with', commands: [quickstart, run] },
  {
    title: 'Snapshots',
    commands: [fromImage, snapshot, snapshotDiff, images, snapshotInfo, snapshotCompact, rmi, prune],
  },
  { title: 'Sandboxes', commands: [fork, ls, update, pause, resume, kill] },
  { title: 'Inside a sandbox', commands: [exec, attach, evalCommand, cp, ping, logs] },
  { title: 'Workspaces', commands: [workspace] },
  { title: 'Overview', commands: [tree, inspect, stats, events] },
  { title: 'This host', commands: [doctor, cleanup, stop, version, completion, bench, wpBench, complete] },
];

export const commands: readonly Command[] = commandGroups.flatMap((group) => group.commands);
