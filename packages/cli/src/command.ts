import type { Context } from './context.ts';

/** A positional argument. `variadic` takes all that follow; it can only be the last. */
export type ArgumentSpec = { name: string; summary: string; optional?: boolean; variadic?: boolean };

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
  /** Accepted since scripts written for forkd pass it; not shown, since it changes nothing here. */
  hidden?: boolean;
};

/** A command line that runs, and what it does in words. */
export type Example = { line: string; summary: string };

/** A verb as data. Parsing, help and completion are derived from it; `run` is all that it does. */
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
  /** Verbs of its own, such as `forkd bench fork`; by itself it then only says that one is missing. */
  subcommands?: readonly Command[];
  /** @returns the exit code; nothing is 0. */
  run(call: Call<Options>): Promise<number | void>;
};

export type Call<Options> = { context: Context; args: string[]; options: Options };

/** Ties `run` to the type of its options, which the specs describe to commander. */
export function defineCommand<Options>(command: Command<Options>): Command {
  return command as unknown as Command;
}
