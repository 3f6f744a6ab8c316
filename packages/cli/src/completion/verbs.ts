import { longFlag, type Command, type CommandGroup, type Completes, type OptionSpec } from '../command.ts';
import { globalOptions } from '../global-options.ts';

/** What may stand in one place of a command line: names to ask for, fixed words, or something only the user knows. */
export type Place = { completes: Completes } | { words: readonly string[] } | undefined;

export type Flag = { short?: string; long: string; summary: string; takesValue: boolean; value: Place };

/** A verb as shells see it. */
export type Verb = {
  /** `workspace create`; the empty one is forkd itself. */
  path: string;
  /** Every spelling of its last word. */
  names: readonly string[];
  summary: string;
  flags: readonly Flag[];
  args: readonly Place[];
  /** The last of `args` stands for all that follow. */
  isVariadic: boolean;
  /** What follows the first argument is not for us. */
  passesThrough: boolean;
  verbs: readonly Verb[];
};

/** All verbs, forkd itself at the root, without what is hidden. */
export function verbTree(groups: readonly CommandGroup[]): Verb {
  const commands = groups.flatMap((group) => group.commands).filter((command) => command.hidden !== true);
  return {
    path: '',
    names: ['forkd'],
    summary: '',
    flags: flagsOf([]),
    args: [],
    isVariadic: false,
    passesThrough: false,
    verbs: commands.map((command) => verbOf(command, '')),
  };
}

/** A verb and all below it. */
export function flatten(verb: Verb): Verb[] {
  return [verb, ...verb.verbs.flatMap(flatten)];
}

function verbOf(command: Command, above: string): Verb {
  const path = above === '' ? command.name : `${above} ${command.name}`;
  return {
    path,
    names: [command.name, ...(command.aliases ?? [])],
    summary: command.summary,
    flags: flagsOf(command.options),
    args: command.args.map((spec) => placeOf(spec)),
    isVariadic: command.args.at(-1)?.variadic === true,
    passesThrough: command.passThrough === true,
    verbs: (command.subcommands ?? []).map((inner) => verbOf(inner, path)),
  };
}

/** A verb's own options, and the global ones that it does not read in another way. */
function flagsOf(own: readonly OptionSpec[]): Flag[] {
  const long = new Set(own.map(longFlag));
  const specs = [...own, ...globalOptions.filter((spec) => !long.has(longFlag(spec)))];
  const help: Flag = {
    short: '-h',
    long: '--help',
    summary: 'show how it is used',
    takesValue: false,
    value: undefined,
  };
  return [...specs.filter((spec) => spec.hidden !== true).map(flagOf), help];
}

function flagOf(spec: OptionSpec): Flag {
  const short = /(?:^|\s)(-[a-zA-Z])\b/.exec(spec.flags)?.[1];
  return {
    ...(short !== undefined && { short }),
    long: longFlag(spec),
    summary: spec.summary,
    takesValue: /[<[]/.test(spec.flags),
    value: placeOf(spec),
  };
}

function placeOf(spec: { choices?: readonly string[]; completes?: Completes }): Place {
  if (spec.choices !== undefined) return { words: spec.choices };
  return spec.completes === undefined ? undefined : { completes: spec.completes };
}
