import type { Context } from './context.ts';

/** Kinds of completion for a word: names that a running controller knows, or files of this host. */
export type Completes = 'sandbox' | 'snapshot' | 'workspace' | 'file' | 'directory';

/** A positional argument. A `variadic` one takes all that follow and must be the last. */
export interface ArgumentSpec {
  name: string;
  summary: string;
  optional?: boolean;
  variadic?: boolean;
  choices?: readonly string[];
  completes?: Completes;
  /** Words that completion offers beside what it `completes`. Others are valid too. */
  offers?: readonly string[];
}

export interface OptionSpec {
  /** The flags in commander's notation: `-n, --count <n>`. */
  flags: string;
  summary: string;
  parse?: (text: string, previous: unknown) => unknown;
  default?: unknown;
  choices?: readonly string[];
  required?: boolean;
  /** Names of the options that exclude this one. */
  conflicts?: readonly string[];
  completes?: Completes;
  /** Accepted because scripts written for forkd pass it. Not shown, because it changes nothing. */
  hidden?: boolean;
}

/** A command line that runs, and what it does. */
export interface Example {
  line: string;
  summary: string;
}

/** A command as data. Parsing, help, completion and the reference are derived from it; `run` does the work. */
export interface Command<Options = Record<string, unknown>> {
  name: string;
  aliases?: readonly string[];
  summary: string;
  description?: string;
  args: readonly ArgumentSpec[];
  options: readonly OptionSpec[];
  examples: readonly Example[];
  /** Everything after the first positional argument belongs to the command in the guest. */
  passThrough?: boolean;
  /** Left out of the help: the command is for shells, not for people. */
  hidden?: boolean;
  /** Subcommands, such as `forkd bench fork`. A command that does nothing by itself has no `run`. */
  subcommands?: readonly Command[];
  /** Returns the exit code; nothing means 0. */
  run?(call: Call<Options>): Promise<number | void>;
}

/** Commands that help and the reference show together. */
export interface CommandGroup {
  title: string;
  commands: readonly Command[];
}

export interface Call<Options> {
  context: Context;
  args: string[];
  options: Options;
  /** Loads every command: completion is made from all of them. */
  loadGroups: () => Promise<readonly CommandGroup[]>;
}

/** Ties `run` to the type of its options, which the specs describe to commander. */
export function defineCommand<Options>(command: Command<Options>): Command {
  return command as unknown as Command;
}

/** The long spelling of an option: `--count` of `-n, --count <n>`. */
export function longFlag(spec: OptionSpec): string {
  return /--[a-z-]+/.exec(spec.flags)?.[0] ?? spec.flags;
}
