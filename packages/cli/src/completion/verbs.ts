import {
  longFlag,
  type ArgumentSpec,
  type Command,
  type CommandGroup,
  type Completes,
  type OptionSpec,
} from '../command.ts';
import { globalOptions } from '../global-options.ts';

/** Candidates for a word of a command line: names or files with words beside them, fixed words, or none (only the user knows). */
export type Place = { completes: Completes; offers: readonly string[] } | { words: readonly string[] } | undefined;

export interface Flag {
  short?: string;
  long: string;
  summary: string;
  takesValue: boolean;
  value: Place;
}

/** A verb as shells see it. */
export interface Verb {
  /** The words that lead to the verb, such as `workspace create`. Empty for forkd itself. */
  path: string;
  /** Every spelling of the last word: the name and its aliases. */
  names: readonly string[];
  summary: string;
  flags: readonly Flag[];
  args: readonly Place[];
  /** The last of `args` stands for all that follow. */
  isVariadic: boolean;
  /** True if everything after the first argument belongs to the command in the guest. */
  passesThrough: boolean;
  verbs: readonly Verb[];
}

/** The tree of all verbs that are not hidden. Its root is forkd itself. */
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

/** Lists a verb and all verbs below it. */
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

/** The verb's own options, and the global options that it does not redefine. */
function flagsOf(own: readonly OptionSpec[]): Flag[] {
  const long = new Set(own.map(longFlag));
  const specs = [...own, ...globalOptions.filter((spec) => !long.has(longFlag(spec)))];
  const help: Flag = {
    short: '-h',
    long: '--help',
    summary: 'show help',
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

function placeOf(spec: Pick<ArgumentSpec, 'choices' | 'completes' | 'offers'>): Place {
  if (spec.choices !== undefined) return { words: spec.choices };
  return spec.completes === undefined ? undefined : { completes: spec.completes, offers: spec.offers ?? [] };
}
