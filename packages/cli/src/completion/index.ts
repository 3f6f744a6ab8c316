import type { CommandGroup } from '../command.ts';
import { bashScript } from './bash.ts';
import { fishScript } from './fish.ts';
import { verbTree } from './verbs.ts';
import { zshScript } from './zsh.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

const scripts = { bash: bashScript, zsh: zshScript, fish: fishScript };

/** The script that makes a shell complete these verbs. */
export function completionScript(shell: Shell, groups: readonly CommandGroup[]): string {
  return scripts[shell](verbTree(groups));
}
