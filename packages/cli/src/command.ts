import type { Context } from './context.ts';

/** What a shell can offer in the place of a word: the names that a running controller knows, or files of this host. */
export type Completes = 'sandbox' | 'snapshot' | 'workspace' | 'file' | 'directory';

/** A positional argument. `variadic` takes all that follow; it can only be the last. */
export type ArgumentSpec = {
  name: string;
  summary: string;
  optional?: boolean;
  variadic?: boolean;
  choices?: readonly string[];
  completes?: Completes;
};

export type OptionSpec = {
  /** As commander reads them: `-n, --count <n>`. */
  flags: string;
  summary: string;
  parse?: (text: string, previous: unknown) => unknown;
  default?: unknown;
  choices?: readonly string[];
  required?: boolean;
  /** Names of the options that exclude this one. */
  conflicts?: readonly string[];
  completes?: Completes;
  /** Accepted since scripts written for forkd pass it; not shown, since it changes nothing here. */
  hidden?: boolean;
};

/** A command line that runs, and what it does in words. */
export type Example = { line: string; summary: string };

/** A verb as data. Parsing, help, completion and the reference are derived from it; `run` is all that it does. */
export type Command<Options = Record<string, unknown>> = {
  name: string;
  aliases?: readonly string[];
  summary: string;
  description?: string;
  args: readonly ArgumentSpec[];
  options: readonly OptionSpec[];
  examples: readonly Example[];
  /** Everything after the first positional argument belongs to the command in the guest. */
  passThrough?: boolean;
  /** For a shell, not for a person: in no help. */
  hidden?: boolean;
  /** Verbs of its own, such as `forkd bench fork`. A verb that does nothing by itself has no `run`. */
  subcommands?: readonly Command[];
  /** @returns the exit code; nothing is 0. */
  run?(call: Call<Options>): Promise<number | void>;
};

/** Verbs that help and the reference show together. */
export type CommandGroup = { title: string; commands: readonly Command[] };

export type Call<Options> = { context: Context; args: string[]; options: Options };

/** Ties `run` to the type of its options, which the specs describe to commander. */
export function defineCommand<Options>(command: Command<Options>): Command {
  return command as unknown as Command;
}

/** The long spelling of an option: `--count` of `-n, --count <n>`. */
export function longFlag(spec: OptionSpec): string {
  return /--[a-z-]+/.exec(spec.flags)?.[0] ?? spec.flags;
}
