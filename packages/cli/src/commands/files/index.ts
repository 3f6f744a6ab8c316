import { defineCommand } from '../../command.ts';
import { mkdir } from './mkdir.ts';
import { mv } from './mv.ts';
import { stat } from './stat.ts';
import { watch } from './watch.ts';

export const files = defineCommand({
  name: 'files',
  summary: 'change and watch files of a sandbox, without a program in it',
  args: [],
  options: [],
  examples: [
    { line: 'forkd files stat sb-1f:/etc/passwd', summary: 'show type, size, mode and owner' },
    { line: 'forkd files mkdir sb-1f:/srv/data', summary: 'make a directory' },
    { line: 'forkd files mv sb-1f:/srv/data /srv/old', summary: 'rename it' },
    { line: 'forkd files watch -r sb-1f:/srv', summary: 'print what changes below it' },
  ],
  subcommands: [stat, mkdir, mv, watch],
});
