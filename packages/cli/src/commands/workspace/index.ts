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
  summary: 'manage sandboxes that outlive their virtual machine',
  args: [],
  options: [],
  examples: [
    { line: 'forkd workspace create dev --snapshot py', summary: 'start a workspace, and print the id of its sandbox' },
    { line: 'forkd workspace suspend dev', summary: 'keep its state as a snapshot, and end the virtual machine' },
    { line: 'forkd workspace resume dev', summary: 'continue from there' },
  ],
  subcommands: [create, suspend, resume, list, get, deleteCommand],
});
