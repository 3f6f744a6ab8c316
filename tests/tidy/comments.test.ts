// Proves that pages and comments stay in plain English, as far as a machine can tell: no banned phrase, and no comment that
// opens with a pronoun or a preposition. What is left of either is counted per folder, and may only become less.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { REPO } from '@forkd/testing';
import { expect, test } from 'vitest';
import ceilings from './ceilings.json' with { type: 'json' };
import { commentsOf, filesBelow, proseOf, type Piece } from './files.ts';
import { bannedPhrases, opener } from './words.ts';

/** Generated from the comments of other files. */
const GENERATED = [
  'packages/engine/src/disk/wire.ts',
  'packages/engine/src/net/wire.ts',
  'packages/engine/src/pager/wire.ts',
  'packages/guest/src/agent-wire.ts',
];

type Counts = Record<string, { openers: number; phrases: number }>;

const allowed: Counts = ceilings;

/** The folders that are counted by themselves. */
function rooms(): string[] {
  const parents = ['packages', 'crates', 'testing/crates', 'bench'];
  return parents.flatMap((parent) =>
    readdirSync(join(REPO, parent), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => `${parent}/${name}`),
  );
}

function commentsBelow(room: string): Piece[] {
  const files = ['.ts', '.rs', '.mjs'].flatMap((ending) => filesBelow(room, ending));
  return files.filter((file) => file.startsWith(`${room}/src/`) && !GENERATED.includes(file)).flatMap(commentsOf);
}

function pagesOf(folder: string): Piece[] {
  return filesBelow(folder, '.md').flatMap(proseOf);
}

function withPhrase(pieces: readonly Piece[]): string[] {
  return pieces.flatMap(({ file, line, text }) =>
    bannedPhrases.flatMap(([phrase, instead]) => {
      const found = phrase.exec(text);
      return found === null ? [] : [`${file}:${line} says "${found[0]}"; better: ${instead}`];
    }),
  );
}

function withOpener(pieces: readonly Piece[]): string[] {
  return pieces.flatMap(({ file, line, text }) => {
    const found = opener.exec(text);
    return found === null ? [] : [`${file}:${line} opens with "${found[0]}"; name the noun`];
  });
}

/** Fails with the first findings if there are more than allowed. */
function expectAtMost(ceiling: number, findings: readonly string[]): void {
  expect(findings.length > ceiling ? findings : []).toEqual([]);
}

test.each(rooms())('%s has no more banned phrases and bare openers than before', (room) => {
  const comments = commentsBelow(room);
  const { openers = 0, phrases = 0 } = allowed[room] ?? {};
  expectAtMost(openers, withOpener(comments));
  expectAtMost(phrases, withPhrase([...comments, ...pagesOf(room)]));
});

test.each(['docs', 'examples', 'tests'])('the pages of %s have no more banned phrases than before', (folder) => {
  expectAtMost(allowed[folder]?.phrases ?? 0, withPhrase(pagesOf(folder)));
});

test('the pages at the root have no banned phrase', () => {
  const pages = ['README.md', 'SPECIFICATION.md', 'CONTRIBUTING.md', 'SECURITY.md'];
  expect(withPhrase(pages.flatMap(proseOf))).toEqual([]);
});

test('each ceiling belongs to a folder that exists', () => {
  expect(Object.keys(allowed).filter((folder) => ![...rooms(), 'docs', 'examples', 'tests'].includes(folder))).toEqual(
    [],
  );
});
