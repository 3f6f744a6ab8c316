import { defineCommand } from '../../command.ts';
import { create } from './create.ts';
import { deleteCommand } from './delete.ts';
import { get } from './get.ts';
import { list } from './list.ts';
import { resume } from './resume.ts';
import { suspend } from './suspend.ts';

export const workspace = defineCommand({
  name: 'workspace',
  aliases: ['ws'],
  summary: 'sandboxes that outlive their VM: suspended to a snapshot, resumed from it',
  args: [],
  options: [],
  examples: [
    { line: 'forkd workspace create dev --snapshot py', summary: 'starts one, and prints its sandbox' },
    { line: 'forkd workspace suspend dev', summary: 'ends the VM, and keeps what is in it' },
    { line: 'forkd workspace resume dev', summary: 'goes on from there' },
  ],
  subcommands: [create, suspend, resume, list, get, deleteCommand],
});
