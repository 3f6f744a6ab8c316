import { visibleJson, visibleText } from '@forkd/api/constants';
import { Argument, Command as Program, CommanderError, Option } from 'commander';
import { cliVersion } from './cli-version.ts';
import { longFlag, type Command, type CommandGroup, type OptionSpec } from './command.ts';
import { loadCommand, loadCommandGroups } from './commands/index.ts';
import { Context, type GlobalOptions } from './context.ts';
import { globalOptions } from './global-options.ts';
import { hintForCommand, hintForOption } from './lib/docker-words.ts';
import { exitCodes, reportOf, UsageError } from './lib/errors.ts';
import { Interrupts } from './lib/interrupts.ts';
import { Output, type Streams } from './output/output.ts';

const GLOBAL_GROUP = 'Global options:';
/** Commands that are never suggested for another word: they remove what the user may need. */
const destructive = new Set(['cleanup', 'delete', 'kill', 'prune', 'rmi', 'stop']);

/** Runs one command line. Returns its exit code; throws nothing. */
export async function runCli(argv: readonly string[], streams: Streams, env: NodeJS.ProcessEnv): Promise<number> {
  const interrupts = new Interrupts();
  const stopListening = interrupts.listen();
  interrupts.watch(streams.stdout);
  interrupts.watch(streams.stderr);
  let exitCode: number = exitCodes.ok;
  let globals: GlobalOptions = { json: argv.includes('--json') };
  const isJson = globals.json === true;
  const run: Runner = async (command, args, options) => {
    globals = options;
    const out = new Output(streams, { isQuiet: options.quiet === true, isJson: options.json === true, env });
    const context = new Context({ out, env, interrupts, globals });
    exitCode =
      (await command.run?.({ context, args, options: { ...options }, loadGroups: loadCommandGroups })) ?? exitCodes.ok;
  };
  try {
    const program = buildProgram(await groupsFor(argv), streams, run, isJson);
    await program.parseAsync(argv, { from: 'user' });
    interrupts.assertOutput();
    return exitCode;
  } catch (error) {
    const known = error instanceof CommanderError ? fromCommander(error, commandName(argv)) : error;
    return explain(known, streams, globals.json === true, interrupts.signal);
  } finally {
    stopListening();
  }
}

/** Parses a command line without running it. An invalid one throws the error that its user would see. */
export async function parseLine(
  argv: readonly string[],
  streams: Streams,
): Promise<{ command: Command; args: string[]; options: GlobalOptions }> {
  let parsed: { command: Command; args: string[]; options: GlobalOptions } | undefined;
  const run: Runner = async (command, args, options) => {
    parsed = { command, args, options };
  };
  const program = buildProgram(await groupsFor(argv), streams, run);
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    throw error instanceof CommanderError ? (fromCommander(error, commandName(argv)) ?? error) : error;
  }
  if (parsed === undefined) throw new UsageError('A command is missing.');
  return parsed;
}

/** Returns the help of a command, or of forkd, as the user sees it. */
export async function helpText(verb: string | undefined, streams: Streams): Promise<string> {
  const program = buildProgram(await loadCommandGroups(), streams, async () => {});
  const target = verb === undefined ? program : program.commands.find((command) => command.name() === verb);
  if (target === undefined) throw new UsageError(`There is no command "${verb}".`);
  return target.helpInformation();
}

type Runner = (command: Command, args: string[], options: GlobalOptions) => Promise<void>;

/** Loads the commands that this command line needs: the one that it names, or all if the help may list them. */
async function groupsFor(argv: readonly string[]): Promise<readonly CommandGroup[]> {
  const name = commandName(argv);
  if (name !== undefined) return loadCommand(name);
  return argv.includes('--version') ? [] : loadCommandGroups();
}

/** The first word that is neither a global option nor the value of one. */
function commandName(argv: readonly string[]): string | undefined {
  const withValue = new Set(globalOptions.filter(({ flags }) => flags.includes('<')).map(longFlag));
  const at = argv.findIndex((word, index) => !word.startsWith('-') && !withValue.has(argv[index - 1] ?? ''));
  return argv[at];
}

function buildProgram(groups: readonly CommandGroup[], streams: Streams, run: Runner, isJson = false): Program {
  const program = new Program('forkd')
    .description('Fork and branch real microVMs in milliseconds.')
    .version(cliVersion(), '--version')
    .usage('[global options] COMMAND …')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      // Help that was not asked for is for people: with --json it is left out.
      writeErr: (text) => {
        if (!isJson) streams.stderr.write(text);
      },
      // `explain` prints every error, in one form.
      outputError: () => {},
    });
  for (const spec of globalOptions) program.addOption(toOption(spec));
  for (const { title, commands } of groups) {
    for (const command of commands) {
      const verb = toProgram(command, [program], run).helpGroup(`${title}:`);
      program.addCommand(verb, { hidden: command.hidden === true });
    }
  }
  return program;
}

/** `above` has the programs whose options apply to this one too, outermost first. */
function toProgram(command: Command, above: readonly [Program, ...Program[]], run: Runner): Program {
  const program = new Program(command.name).summary(command.summary).copyInheritedSettings(above[0]);
  program.description(command.description ? `${command.summary}\n\n${command.description}` : command.summary);
  program.aliases([...(command.aliases ?? [])]);
  if (command.passThrough) program.passThroughOptions();
  for (const spec of command.args) {
    const name = spec.variadic ? `${spec.name}...` : spec.name;
    const argument = new Argument(spec.optional ? `[${name}]` : `<${name}>`, spec.summary);
    program.addArgument(spec.choices ? argument.choices([...spec.choices]) : argument);
  }
  for (const spec of command.options) program.addOption(toOption(spec));
  const own = new Set(command.options.map((spec) => longFlag(spec)));
  for (const spec of globalOptions) {
    if (!own.has(longFlag(spec))) program.addOption(toOption(spec).helpGroup(GLOBAL_GROUP));
  }
  // If a command and its subcommand share an option, the option belongs to the one that it follows.
  if (command.subcommands !== undefined) program.enablePositionalOptions();
  for (const inner of command.subcommands ?? []) program.addCommand(toProgram(inner, [...above, program], run));
  if (command.examples.length > 0) program.addHelpText('after', () => examplesText(command));
  // If there is no action, commander suggests a subcommand.
  if (command.run === undefined) return program;
  program.action(async (...call: unknown[]) => {
    const args = call
      .slice(0, command.args.length)
      .flat()
      .filter((arg) => arg !== undefined) as string[];
    const options = [...above, program].map((one) => one.opts<GlobalOptions>());
    await run(command, args, Object.assign({}, ...options) as GlobalOptions);
  });
  return program;
}

function toOption(spec: OptionSpec): Option {
  const option = new Option(spec.flags, spec.summary);
  if (spec.parse) option.argParser(spec.parse);
  if (spec.choices) option.choices([...spec.choices]);
  if (spec.default !== undefined) option.default(spec.default);
  if (spec.required) option.makeOptionMandatory();
  if (spec.conflicts) option.conflicts([...spec.conflicts]);
  if (spec.hidden) option.hideHelp();
  return option;
}

function examplesText(command: Command): string {
  const width = Math.max(...command.examples.map((example) => example.line.length));
  const lines = command.examples.map((example) => `  ${example.line.padEnd(width)}  ${example.summary}`);
  return `\nExamples:\n${lines.join('\n')}`;
}

function explain(known: unknown, streams: Streams, isJson: boolean, signal: AbortSignal): number {
  if (known === undefined) return exitCodes.ok;
  // If the user interrupted the command, report that, not the failure that it caused.
  const { exitCode, stack, ...told } = reportOf(signal.aborted ? signal.reason : known);
  // The reader of our output has gone.
  if (exitCode === exitCodes.SIGPIPE) return exitCode;
  if (isJson) {
    streams.stderr.write(`${visibleJson(JSON.stringify(told))}\n`);
    return exitCode;
  }
  streams.stderr.write(`error: ${visibleText(told.error)}\n`);
  if (told.hint !== undefined) streams.stderr.write(`hint: ${visibleText(told.hint)}\n`);
  if (stack !== undefined) streams.stderr.write(`${visibleText(stack)}\n`);
  return exitCode;
}

/** Undefined if commander only reports that it has shown the help or the version. `verb` is the command that the user named. */
function fromCommander(error: CommanderError, verb: string | undefined): UsageError | undefined {
  if (error.code === 'commander.helpDisplayed' || error.code === 'commander.version') return undefined;
  if (error.code === 'commander.help')
    return new UsageError('A command is missing.', '`forkd --help` lists the commands.');
  const [message = '', ...more] = error.message.replace(/^error: /, '').split('\n');
  const hint = dockerHint(error.code, message, verb) ?? suggestion(more.join(' '));
  return new UsageError(asSentence(message), hint ?? '`forkd COMMAND --help` shows how it is used.');
}

/** A hint for a user who knows the commands and options of Docker. */
function dockerHint(code: string, message: string, verb = ''): string | undefined {
  if (code === 'commander.unknownOption') return hintForOption(/'(.+)'/.exec(message)?.[1] ?? '');
  const isMeant = code === 'commander.unknownCommand' ? message.includes(`'${verb}'`) : verb === 'stop';
  return isMeant ? hintForCommand(verb) : undefined;
}

function suggestion(text: string): string | undefined {
  const meant = /^\(Did you mean (.+)\?\)$/.exec(text)?.[1];
  const words = meant?.replace(/^one of /, '').split(', ') ?? [];
  return meant === undefined || words.some((word) => destructive.has(word)) ? undefined : `Did you mean ${meant}?`;
}

/** Commander's messages begin in lower case and have no full stop. */
function asSentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`;
}
