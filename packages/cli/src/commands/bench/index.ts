import { defineCommand } from '../../command.ts';
import { branch } from './branch.ts';
import { chain } from './chain.ts';
import { exec } from './exec.ts';
import { fork } from './fork.ts';
import { load } from './load.ts';
import { soak } from './soak.ts';

export const bench = defineCommand({
  name: 'bench',
  summary: 'measure on real guests what forkd costs, beside its floors',
  description:
    'Each starts guests of its own in a directory of its own, and leaves nothing behind. It needs a checkout that has been built, and root. `npm run bench` there runs all of them.',
  args: [],
  options: [],
  examples: [
    { line: 'forkd bench branch --storm', summary: 'the pause of every mode, the guest writing all the while' },
    { line: 'forkd bench fork -n 1,10', summary: 'forks, until they run and until they have answered' },
  ],
  subcommands: [branch, fork, chain, exec, load, soak],
});
