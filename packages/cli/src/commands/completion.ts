import { defineCommand, type Call, type Command } from '../command.ts';
import { completionScript, shells, type Shell } from '../completion/index.ts';

export const completion: Command = defineCommand({
  name: 'completion',
  summary: 'print a shell completion script',
  description:
    'Completes commands, options and their values, and the sandboxes, snapshots and workspaces of a running controller.',
  args: [{ name: 'shell', summary: 'shell to print the script for', choices: shells }],
  options: [],
  examples: [
    { line: 'forkd completion bash > /etc/bash_completion.d/forkd', summary: 'for all users of bash' },
    { line: 'source <(forkd completion zsh)', summary: 'for this zsh session, after compinit' },
    { line: 'forkd completion fish > ~/.config/fish/completions/forkd.fish', summary: 'for one user of fish' },
  ],
  run,
});

async function run({ context, args, loadGroups }: Call<unknown>): Promise<void> {
  context.out.streams.stdout.write(completionScript(args[0] as Shell, await loadGroups()));
}
