// Proves that error sentences have one form: each message and each hint that the sources give to an error class of ours starts
// with a capital or with a value, and ends with a full stop. A message is found where an error is made: as a literal, as a
// template, as either branch of a condition, or as a constant of the same file.
import { errorRegistry } from '@forkd/api/constants';
import { type ESTree, parseSync, Visitor } from 'rolldown/utils';
import { expect, test } from 'vitest';
import { filesBelow, textOf } from './files.ts';

/** The character that stands for a value in a template. */
const VALUE = '\u{FFFC}';

/** A capital, or something that is quoted as it is: a value, code, an option or a path. A verb of the CLI may come first. */
const BEGINNING = new RegExp(`^(?:[a-z-]+: )?(?:[A-Z0-9${VALUE}'"\`/]|--|-[a-z]\\b)`);
/** A value at the end may be a sentence itself, such as the reason of another error. */
const END = new RegExp(`[.?${VALUE}]$`);
const DOUBLED = /[.,:;!?]{2}|[.,:;!?] [.,:;!?]/;

interface Sentence {
  place: string;
  text: string;
}

interface Source {
  file: string;
  text: string;
  program: ESTree.Program;
}

const sources: Source[] = ['packages', 'bench/harness']
  .flatMap((folder) => filesBelow(folder, '.ts'))
  .filter((file) => file.includes('/src/'))
  .map((file) => {
    const text = textOf(file);
    return { file, text, program: parseSync(file, text).program };
  });

/** The names of the classes that extend an error. */
function errorClasses(): Set<string> {
  const names = new Set<string>();
  for (const { program } of sources) {
    const visit = ({ id, superClass }: ESTree.Class) => {
      if (id !== null && superClass?.type === 'Identifier' && superClass.name.endsWith('Error')) names.add(id.name);
    };
    new Visitor({ ClassDeclaration: visit }).visit(program);
  }
  return names;
}

/** The texts that an expression can have, as far as the file says. */
function textsOf(node: ESTree.Node, constants: ReadonlyMap<string, ESTree.Node>): string[] {
  if (node.type === 'Literal') return typeof node.value === 'string' ? [node.value] : [];
  if (node.type === 'TemplateLiteral') return [node.quasis.map(({ value }) => value.cooked ?? '').join(VALUE)];
  if (node.type === 'ConditionalExpression') {
    return [node.consequent, node.alternate].flatMap((branch) => textsOf(branch, constants));
  }
  const constant = node.type === 'Identifier' ? constants.get(node.name) : undefined;
  return constant === undefined ? [] : textsOf(constant, new Map());
}

/** The constants of a file by name. A name that stands for several is left out. */
function constantsOf({ program }: Source): Map<string, ESTree.Node> {
  const found = new Map<string, ESTree.Node | null>();
  new Visitor({
    VariableDeclarator({ id, init }) {
      if (id.type === 'Identifier') found.set(id.name, found.has(id.name) ? null : init);
    },
  }).visit(program);
  return new Map([...found].flatMap(([name, init]) => (init === null ? [] : [[name, init]])));
}

/** The arguments of errors that a person reads, such as the message and the hint: a text without a space is a code. */
function sentencesOf(source: Source, classes: ReadonlySet<string>): Sentence[] {
  const constants = constantsOf(source);
  const sentences: Sentence[] = [];
  const take = (node: ESTree.Node) => {
    const place = `${source.file}:${source.text.slice(0, node.start).split('\n').length}`;
    for (const text of textsOf(node, constants)) if (text.includes(' ')) sentences.push({ place, text });
  };
  const visit = ({ callee, arguments: given }: ESTree.NewExpression) => {
    if (callee.type !== 'Identifier' || !classes.has(callee.name)) return;
    for (const argument of given) {
      if (argument.type !== 'ObjectExpression') take(argument);
      else argument.properties.filter((property) => property.type === 'Property').forEach(({ value }) => take(value));
    }
  };
  new Visitor({ NewExpression: visit }).visit(source.program);
  return sentences;
}

function faults(sentences: readonly Sentence[]): string[] {
  return sentences
    .filter(({ text }) => !BEGINNING.test(text) || !END.test(text) || DOUBLED.test(text))
    .map(({ place, text }) => `${place} ${text.replaceAll(VALUE, '…')}`);
}

test('each error is a sentence, and so is each hint', () => {
  const classes = errorClasses();
  expect([...classes]).toEqual(expect.arrayContaining(['ApiError', 'CodedError', 'ForkdError', 'UsageError']));
  const sentences = sources.flatMap((source) => sentencesOf(source, classes));
  expect(sentences.length).toBeGreaterThan(300);
  expect(faults(sentences)).toEqual([]);
});

test('each hint of the error registry is a sentence', () => {
  const hints = Object.entries(errorRegistry).map(([place, { hint }]) => ({ place, text: hint }));
  expect(faults(hints)).toEqual([]);
});

test.each(['the agent is gone.', 'The agent is gone', 'The agent is gone..', 'The agent: .', 'cannot read A.'])(
  '"%s" is not a sentence',
  (text) => {
    expect(faults([{ place: 'here', text }])).toEqual([`here ${text}`]);
  },
);
