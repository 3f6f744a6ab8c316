import { join } from 'node:path';
import { REPO } from '@forkd/testing';
import type { BranchSetting } from './branch.ts';
import type { ChainSetting } from './chain.ts';
import type { DiskSetting } from './disk.ts';
import type { ExecSetting } from './exec.ts';
import type { ForkSetting } from './fork.ts';
import type { LoadSetting } from './load.ts';

/** The sizes that `npm run bench` measures. */
export interface Plan {
  /** Directory for the files. */
  out: string;
  branch: readonly BranchSetting[];
  fork: ForkSetting;
  chain: ChainSetting;
  disk: DiskSetting;
  exec: ExecSetting;
  load: LoadSetting;
  wp: { regionMib: number; writers: number };
}

const LIVE = ['live-sync', 'live-async'] as const;
const LIVE_AND_DIFF = [...LIVE, 'diff'] as const;
const STORM = { storm: true };

/** Sizes for about a quarter of an hour on two cores without hardware virtualization. */
export const fullPlan: Plan = {
  out: join(REPO, 'bench'),
  branch: [
    { ...STORM, memMib: 256, privateMib: 1, modes: LIVE_AND_DIFF, iterations: 20 },
    { ...STORM, memMib: 256, privateMib: 64, modes: LIVE_AND_DIFF, iterations: 20 },
    { ...STORM, memMib: 1536, privateMib: 1, modes: LIVE, iterations: 20 },
    { ...STORM, memMib: 1536, privateMib: 1, modes: ['live-async', 'full'], iterations: 3 },
    { ...STORM, memMib: 1536, privateMib: 512, modes: LIVE_AND_DIFF, iterations: 6 },
    { ...STORM, memMib: 4096, privateMib: 1, modes: LIVE, iterations: 20 },
    { ...STORM, memMib: 4096, privateMib: 512, modes: LIVE, iterations: 6 },
    { ...STORM, memMib: 4096, privateMib: 2048, modes: LIVE, iterations: 3 },
  ],
  fork: { counts: [1, 10, 100], iterations: 30 },
  chain: { depths: [0, 1, 3, 10, 20], iterations: 20 },
  disk: { dirtyMib: 1024, iterations: 10, spanMib: 512, loadMs: 1500, depth: 20 },
  exec: { iterations: 100 },
  load: { iterations: 40 },
  wp: { regionMib: 512, writers: 1 },
};

/** Sizes for a trial that everything works. Its samples are too small to mean anything. */
export const quickPlan: Plan = {
  out: join(REPO, '.cache/bench-quick'),
  branch: [
    { ...STORM, memMib: 256, privateMib: 8, modes: LIVE_AND_DIFF, iterations: 2 },
    { ...STORM, memMib: 256, privateMib: 64, modes: ['live-async', 'full'], iterations: 2 },
  ],
  fork: { counts: [1, 4], iterations: 4 },
  chain: { depths: [0, 1, 2], iterations: 3 },
  disk: { dirtyMib: 32, iterations: 2, spanMib: 32, loadMs: 100, depth: 3 },
  exec: { iterations: 10 },
  load: { iterations: 5 },
  wp: { regionMib: 64, writers: 1 },
};
