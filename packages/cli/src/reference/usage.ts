import type { ArgumentSpec, Command, CommandGroup, OptionSpec } from '../command.ts';

/** A command with the words that lead to it. */
export interface Entry {
  path: string;
  command: Command;
}

/** The commands of a group that are shown, each followed by its subcommands. */
export function entriesOf(group: CommandGroup): Entry[] {
  return group.commands.filter((command) => command.hidden !== true).flatMap((command) => withInner(command, 'forkd'));
}

function withInner(command: Command, above: string): Entry[] {
  const path = `${above} ${command.name}`;
  return [{ path, command }, ...(command.subcommands ?? []).flatMap((inner) => withInner(inner, path))];
}

export function shownOptions(command: Command): OptionSpec[] {
  return command.options.filter((spec) => spec.hidden !== true);
}

/** Example: `forkd fork [options] [tag]`. */
export function usageOf({ path, command }: Entry): string {
  if (command.run === undefined) return `${path} COMMAND …`;
  const options = shownOptions(command).length > 0 ? ['[options]'] : [];
  return [path, ...options, ...command.args.map(argumentText)].join(' ');
}

export function argumentText(spec: ArgumentSpec): string {
  const name = spec.variadic ? `${spec.name}…` : spec.name;
  return spec.optional ? `[${name}]` : `<${name}>`;
}

/** Describes an argument or an option, with its choices and its default. */
export function summaryOf(spec: ArgumentSpec | OptionSpec): string {
  const more: string[] = [];
  if (spec.choices !== undefined) more.push(`one of ${spec.choices.join(', ')}`);
  if ('default' in spec) more.push(`default: ${String(spec.default)}`);
  if ('required' in spec && spec.required) more.push('required');
  return more.length === 0 ? spec.summary : `${spec.summary} (${more.join('; ')})`;
}
