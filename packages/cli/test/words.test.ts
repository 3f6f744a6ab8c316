// Holds one form for what the command says: summaries are phrases, descriptions are sentences. tests/tidy checks its errors.
import { expect, test } from 'vitest';
import { loadCommandGroups, type Command } from '../src/index.ts';

function withInner(command: Command): Command[] {
  return [command, ...(command.subcommands ?? []).flatMap(withInner)];
}

const groups = await loadCommandGroups();
const commands = groups.flatMap((group) => group.commands).flatMap(withInner);

test('the summary of every command, argument, option and example is a phrase without a full stop', () => {
  const specs = commands.flatMap((command) => [command, ...command.args, ...command.options, ...command.examples]);
  const summaries = specs.map(({ summary }) => summary);
  expect(summaries.length).toBeGreaterThan(150);
  expect(summaries.filter((text) => !/^[^A-Z.]/.test(text) && !/^(Python|[A-Z]+\b)/.test(text))).toEqual([]);
  expect(summaries.filter((text) => text.endsWith('.'))).toEqual([]);
});

test('the description of every command is made of sentences', () => {
  const texts = commands.flatMap(({ description }) => (description === undefined ? [] : [description]));
  expect(texts.length).toBeGreaterThan(20);
  expect(texts.filter((text) => !/^[A-Z`].*\.$/s.test(text))).toEqual([]);
});
