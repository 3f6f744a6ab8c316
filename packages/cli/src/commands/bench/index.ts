import { defineCommand } from '../../command.ts';
import { branch } from './branch.ts';
import { chain } from './chain.ts';
import { disk } from './disk.ts';
import { exec } from './exec.ts';
import { fork } from './fork.ts';
import { load } from './load.ts';
import { soak } from './soak.ts';
import { torture } from './torture.ts';

export const bench = defineCommand({
  name: 'bench',
  summary: 'measure what forkd costs, on real guests',
  description:
    'Each benchmark starts its own guests in its own directory and leaves nothing behind. Needs a built checkout, and root. `npm run bench` runs all benchmarks.',
  args: [],
  options: [],
  examples: [
    { line: 'forkd bench branch --storm', summary: 'the pause of every mode, while the guest writes' },
    { line: 'forkd bench fork -n 1,10', summary: 'the time until forks run and answer' },
  ],
  subcommands: [branch, fork, chain, disk, exec, load, soak, torture],
});
