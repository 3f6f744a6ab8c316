import { completionScript, shells, type Shell } from '../completion/index.ts';
import { defineCommand, type Call, type Command } from '../command.ts';

export const completion: Command = defineCommand({
  name: 'completion',
  summary: 'print what makes a shell complete the words of forkd',
  description:
    'Verbs, options and their values, and the sandboxes, snapshots and workspaces that a running controller knows.',
  args: [{ name: 'shell', summary: 'the shell', choices: shells }],
  options: [],
  examples: [
    { line: 'forkd completion bash > /etc/bash_completion.d/forkd', summary: 'for all users of bash' },
    { line: 'source <(forkd completion zsh)', summary: 'for this zsh, after compinit' },
    { line: 'forkd completion fish > ~/.config/fish/completions/forkd.fish', summary: 'for one user of fish' },
  ],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  // Imported here, since the list of verbs has this one in it.
  const { commandGroups } = await import('./index.ts');
  context.out.streams.stdout.write(completionScript(args[0] as Shell, commandGroups));
}
