import type { ArgumentSpec, Command, CommandGroup, OptionSpec } from '../command.ts';
import { globalOptions } from '../global-options.ts';
import { ABOUT, environment, exitCodes, files, habits } from './facts.ts';
import { argumentText, entriesOf, shownOptions, summaryOf, usageOf, type Entry } from './usage.ts';

/** The reference of the command as a page of Markdown. */
export function markdownReference(groups: readonly CommandGroup[]): string {
  const sections = groups.map((group) => `## ${group.title}\n\n${entriesOf(group).map(section).join('\n\n')}`);
  return `# The command \`forkd\`

<!-- Made from the commands in packages/cli/src/commands: \`npx vitest run packages/cli/test/reference.test.ts -u\`. -->

${escaped(ABOUT)}

${habits.map((habit) => `- ${escaped(habit)}`).join('\n')}

## Options of every command

${rows(['option', 'what it does'], globalOptions.map(optionRow))}

${sections.join('\n\n')}

## Exit codes

${rows(['code', 'meaning'], exitCodes.map(factRow))}

## Environment

${rows(['variable', 'meaning'], environment.map(factRow))}

## Files

${rows(['path', 'meaning'], files.map(factRow))}
`;
}

function section(entry: Entry): string {
  const { command } = entry;
  const parts = [
    `### \`${entry.path}\``,
    sentence(command.summary) + aliasText(command),
    `\`\`\`sh\n${usageOf(entry)}\n\`\`\``,
  ];
  if (command.description !== undefined) parts.push(escaped(command.description.replaceAll('\n', ' ')));
  if (command.args.length > 0) parts.push(rows(['argument', 'what it is'], command.args.map(argumentRow)));
  const options = shownOptions(command);
  if (options.length > 0) parts.push(rows(['option', 'what it does'], options.map(optionRow)));
  if (command.examples.length > 0) parts.push(`\`\`\`sh\n${exampleLines(command)}\n\`\`\``);
  return parts.join('\n\n');
}

function exampleLines({ examples }: Command): string {
  const columns = Math.max(...examples.map(({ line }) => line.length));
  return examples.map(({ line, summary }) => `${line.padEnd(columns)}  # ${summary}`).join('\n');
}

function aliasText({ aliases = [] }: Command): string {
  return aliases.length === 0 ? '' : ` Also \`${aliases.join('`, `')}\`.`;
}

function argumentRow(spec: ArgumentSpec): string[] {
  return [code(argumentText(spec)), escaped(summaryOf(spec))];
}

function optionRow(spec: OptionSpec): string[] {
  return [code(spec.flags), escaped(summaryOf(spec))];
}

function factRow([name, meaning]: readonly [string, string]): string[] {
  return [code(name), escaped(meaning)];
}

function rows(header: readonly string[], body: readonly string[][]): string {
  return [header, header.map(() => '---'), ...body].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

function sentence(text: string): string {
  return `${escaped(text.charAt(0).toUpperCase() + text.slice(1))}.`;
}

function code(text: string): string {
  return `\`${text.replaceAll('|', '\\|')}\``;
}

/** Escapes markup in the text, except in code between backquotes. */
function escaped(text: string): string {
  return text.replaceAll(/[<>|*_]/g, '\\$&').replaceAll(/`[^`]*`/g, (span) => span.replaceAll('\\', ''));
}
