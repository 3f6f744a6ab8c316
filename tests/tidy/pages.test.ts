// Proves that pages are whole: their links and the paths that they name exist, table cells are short, diagrams are closed, and
// the glossary has each word once, in order.
import { existsSync } from 'node:fs';
import { basename, join, posix } from 'node:path';
import { REPO } from '@forkd/testing';
import { expect, test } from 'vitest';
import { filesBelow, proseOf, textOf, type Piece } from './files.ts';

const CELL_CHARS_MAX = 160;

/** Files that a page tells its reader to write. */
const TO_BE_WRITTEN = new Set(['packages/controller/src/operations/rename.ts']);

/** The history names files that are gone. */
const pages = filesBelow('.', '.md').filter((page) => page !== 'CHANGELOG.md');

const prose = pages.flatMap(proseOf);

function placeOf({ file, line }: Piece): string {
  return `${file}:${line}`;
}

/** The anchor that a heading gets in a browser. */
function anchorsOf(page: string): string[] {
  return proseOf(page)
    .filter(({ text }) => text.startsWith('#'))
    .map(({ text }) =>
      text
        .replace(/^#+\s*/, '')
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .replaceAll(' ', '-'),
    );
}

/** `a/{b,c}.ts` as `a/b.ts` and `a/c.ts`. */
function expanded(name: string): string[] {
  const found = /^(.*)\{([^}]*)\}(.*)$/.exec(name);
  if (found === null) return [name];
  const [, before = '', words = '', after = ''] = found;
  return words.split(',').map((word) => `${before}${word}${after}`);
}

/** A name with `*` stands for at least one file. */
function exists(name: string): boolean {
  if (!name.includes('*')) return existsSync(join(REPO, name));
  const pattern = new RegExp(`^${name.split('*').map(escaped).join('[^/]*')}$`);
  const folder = posix.dirname(name);
  return existsSync(join(REPO, folder)) && filesBelow(folder, '').some((file) => pattern.test(file));
}

function escaped(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
}

test('each link leads to a file and a heading that exist', () => {
  const broken = prose.flatMap((piece) =>
    [...piece.text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) => {
      if (/^[a-z]+:/.test(target)) return [];
      const [file = '', anchor] = target.split('#');
      const page = file === '' ? piece.file : posix.join(posix.dirname(piece.file), file);
      if (!existsSync(join(REPO, page))) return [`${placeOf(piece)} ${target}`];
      const isFound = anchor === undefined || !page.endsWith('.md') || anchorsOf(page).includes(anchor);
      return isFound ? [] : [`${placeOf(piece)} ${target}`];
    }),
  );
  expect(broken).toEqual([]);
});

test('each path that a page names exists', () => {
  const rooted = /^(packages|crates|tests|testing|bench|docs|examples|scripts|packaging)\/[\w./{},*-]*$/;
  const missing = prose.flatMap((piece) =>
    [...piece.text.matchAll(/`([^`\s]+)`/g)].flatMap(([, name = '']) => {
      const isOwn = /^(src|test|tests)\/[\w./{},*-]*$/.test(name) && basename(piece.file) === 'README.md';
      if ((!isOwn && !rooted.test(name)) || TO_BE_WRITTEN.has(name)) return [];
      const candidates = [name, posix.join(posix.dirname(piece.file), name)];
      const isThere = candidates.some((candidate) => expanded(candidate).every(exists));
      return isThere ? [] : [`${placeOf(piece)} ${name}`];
    }),
  );
  expect(missing).toEqual([]);
});

test(`table cells have at most ${CELL_CHARS_MAX} characters`, () => {
  const long = prose
    .filter(({ text }) => text.startsWith('|'))
    .filter(({ text }) => text.split(/(?<!\\)\|/).some((cell) => cell.trim().length > CELL_CHARS_MAX))
    .map(placeOf);
  expect(long).toEqual([]);
});

test('each block of code is closed, and each diagram is of a kind that browsers draw', () => {
  for (const page of pages) {
    const text = textOf(page);
    expect([page, [...text.matchAll(/^\s*```/gm)].length % 2]).toEqual([page, 0]);
    for (const [, kind = ''] of text.matchAll(/```mermaid\n\s*(\w+)/g)) {
      expect(['flowchart', 'sequenceDiagram', 'stateDiagram']).toContain(kind);
    }
  }
});

test('the glossary has each word once, in order', () => {
  const [terms = ''] = textOf('docs/glossary.md').split('\n\nWords for code');
  const words = [...terms.matchAll(/^\| ([^|]+?) +\|/gm)].slice(2).map(([, word = '']) => word.toLowerCase());
  expect(words.length).toBeGreaterThan(40);
  expect(words).toEqual([...new Set(words)].toSorted());
});
