import type { CommandGroup, OptionSpec } from '../command.ts';
import { globalOptions } from '../global-options.ts';
import { ABOUT, environment, exitCodes, files, habits } from './facts.ts';
import { argumentText, entriesOf, shownOptions, summaryOf, usageOf, type Entry } from './usage.ts';

/** The date of the page. A constant, so that the same commands make the same page on any day. */
const REVISED = '2026-11-21';

/** The manual page forkd(1), in the man macros. */
export function manPage(groups: readonly CommandGroup[], version: string): string {
  const sections = groups.map((group) => [`.SH ${heading(group.title)}`, ...entriesOf(group).flatMap(verb)]);
  const lines = [
    `.\\" Made from the commands in packages/cli/src/commands.`,
    `.TH FORKD 1 ${REVISED} "forkd ${version}" "User Commands"`,
    '.SH NAME',
    'forkd \\- fork and branch real microVMs in milliseconds',
    '.SH SYNOPSIS',
    '.B forkd',
    '.RI [ "global options" ]',
    '.I command',
    '.RI [ arguments ]',
    '.SH DESCRIPTION',
    text(ABOUT),
    ...habits.flatMap((habit) => ['.PP', text(habit)]),
    '.SH GLOBAL OPTIONS',
    ...globalOptions.flatMap(option),
    ...sections.flat(),
    '.SH EXIT STATUS',
    ...exitCodes.flatMap(fact),
    '.SH ENVIRONMENT',
    ...environment.flatMap(fact),
    '.SH FILES',
    ...files.flatMap(fact),
    '.SH SEE ALSO',
    '.BR qemu\\-system\\-x86_64 (1)',
  ];
  return `${lines.join('\n')}\n`;
}

function verb(entry: Entry): string[] {
  const { command } = entry;
  const aliases = command.aliases ?? [];
  const also = aliases.length === 0 ? '' : ` Also ${aliases.join(', ')}.`;
  const lines = [`.SS "${inline(usageOf(entry)).replaceAll('"', '')}"`, text(`${command.summary}.${also}`)];
  if (command.description !== undefined) lines.push('.PP', text(command.description.replaceAll('\n', ' ')));
  for (const spec of command.args) lines.push('.TP', `.I ${inline(argumentText(spec))}`, text(summaryOf(spec)));
  for (const spec of shownOptions(command)) lines.push(...option(spec));
  for (const example of command.examples) {
    lines.push('.PP', text(`Example: ${example.summary}`), '.PP', '.nf', '.RS', text(example.line), '.RE', '.fi');
  }
  return lines;
}

function option(spec: OptionSpec): string[] {
  return ['.TP', `.B ${inline(spec.flags)}`, text(summaryOf(spec))];
}

function fact([name, meaning]: readonly [string, string]): string[] {
  return ['.TP', `.B ${inline(name)}`, text(meaning)];
}

function heading(title: string): string {
  return `"${inline(title.toUpperCase())}"`;
}

/** Escapes a line of text that would otherwise begin like a macro. */
function text(line: string): string {
  return inline(line).replace(/^[.']/, '\\&$&');
}

/** Escapes backslashes, dashes and quotes, and writes other characters as code points that every reader can show. */
function inline(line: string): string {
  return line
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('"', '\\(dq')
    .replaceAll(/[^ -~]/g, (sign) => `\\[u${(sign.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}]`);
}
