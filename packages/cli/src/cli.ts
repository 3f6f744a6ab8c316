import { Argument, Command as Program, CommanderError, Option } from 'commander';
import { cliVersion } from './cli-version.ts';
import { longFlag, type Command, type OptionSpec } from './command.ts';
import { commandGroups } from './commands/index.ts';
import { Context, type GlobalOptions } from './context.ts';
import { globalOptions } from './global-options.ts';
import { exitCodes, reportOf, UsageError } from './lib/errors.ts';
import { Interrupts } from './lib/interrupts.ts';
import { Output, type Streams } from './lib/output.ts';

const GLOBAL_GROUP = 'Global options:';

/** Runs one command line. @returns its exit code; nothing is thrown. */
export async function runCli(argv: readonly string[], streams: Streams, env: NodeJS.ProcessEnv): Promise<number> {
  const interrupts = new Interrupts();
  const stopListening = interrupts.listen();
  let exitCode: number = exitCodes.ok;
  let globals: GlobalOptions = { json: argv.includes('--json') };
  const isJson = globals.json === true;
  const run: Runner = async (command, args, options) => {
    globals = options;
    const out = new Output(streams, { isQuiet: options.quiet === true, isJson: options.json === true, env });
    const context = new Context({ out, env, interrupts, globals });
    exitCode = (await command.run?.({ context, args, options })) ?? exitCodes.ok;
  };
  const program = buildProgram(streams, run, isJson);
  try {
    await program.parseAsync(argv, { from: 'user' });
    return exitCode;
  } catch (error) {
    return explain(error, streams, globals.json === true, interrupts.signal);
  } finally {
    stopListening();
  }
}

/** What a command line means, without running it. @throws what would be told to the user of one that cannot be. */
export async function parseLine(
  argv: readonly string[],
  streams: Streams,
): Promise<{ command: Command; args: string[]; options: GlobalOptions }> {
  let parsed: { command: Command; args: string[]; options: GlobalOptions } | undefined;
  const program = buildProgram(streams, async (command, args, options) => void (parsed = { command, args, options }));
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    throw error instanceof CommanderError ? (fromCommander(error) ?? error) : error;
  }
  if (parsed === undefined) throw new UsageError('a verb is missing');
  return parsed;
}

/** The help of a verb, or of all, as the user would see it. */
export function helpText(verb: string | undefined, streams: Streams): string {
  const program = buildProgram(streams, async () => {});
  const target = verb === undefined ? program : program.commands.find((command) => command.name() === verb);
  if (target === undefined) throw new UsageError(`there is no verb "${verb}"`);
  return target.helpInformation();
}

type Runner = (command: Command, args: string[], options: GlobalOptions) => Promise<void>;

function buildProgram(streams: Streams, run: Runner, isJson = false): Program {
  const program = new Program('forkd')
    .description('Fork and branch real microVMs in milliseconds.')
    .version(cliVersion(), '--version')
    .usage('[global options] VERB …')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      // Help that nobody asked for is for a person only.
      writeErr: (text) => void (isJson || streams.stderr.write(text)),
      // Told once, by `explain`, in the one form that all errors have.
      outputError: () => {},
    });
  for (const spec of globalOptions) program.addOption(toOption(spec));
  for (const { title, commands } of commandGroups) {
    for (const command of commands) {
      const verb = toProgram(command, [program], run).helpGroup(`${title}:`);
      program.addCommand(verb, { hidden: command.hidden === true });
    }
  }
  return program;
}

/** `above`: the programs whose options hold for this one too, the outermost first. */
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
  // What a verb and one below it both know belongs to the one that it follows.
  if (command.subcommands !== undefined) program.enablePositionalOptions();
  for (const inner of command.subcommands ?? []) program.addCommand(toProgram(inner, [...above, program], run));
  if (command.examples.length > 0) program.addHelpText('after', () => examplesText(command));
  // Without an action commander says which of the inner verbs may have been meant.
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

function explain(error: unknown, streams: Streams, isJson: boolean, signal: AbortSignal): number {
  const known = error instanceof CommanderError ? fromCommander(error) : error;
  if (known === undefined) return exitCodes.ok;
  // Whatever broke because of an interrupt, the interrupt is what happened.
  const { exitCode, stack, ...told } = reportOf(signal.aborted ? signal.reason : known);
  if (isJson) {
    streams.stderr.write(`${JSON.stringify(told)}\n`);
    return exitCode;
  }
  streams.stderr.write(`error: ${told.error}\n`);
  if (told.hint !== undefined) streams.stderr.write(`hint: ${told.hint}\n`);
  if (stack !== undefined) streams.stderr.write(`${stack}\n`);
  return exitCode;
}

/** @returns undefined where commander only says that it has shown what was asked for. */
function fromCommander(error: CommanderError): UsageError | undefined {
  if (error.code === 'commander.helpDisplayed' || error.code === 'commander.version') return undefined;
  if (error.code === 'commander.help') return new UsageError('a verb is missing', '`forkd --help` lists them');
  const [message = '', ...more] = error.message.replace(/^error: /, '').split('\n');
  const meant = /^\(Did you mean (.+)\?\)$/.exec(more.join(' '))?.[1];
  return new UsageError(
    message,
    meant === undefined ? '`forkd VERB --help` shows how it is used' : `did you mean ${meant}?`,
  );
}
