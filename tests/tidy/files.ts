import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { REPO } from '@forkd/testing';

/** Folders that hold no text of the project. */
const SKIPPED = new Set(['node_modules', 'bundle', 'dist', 'target', '.git', '.cache']);

/** All files below a folder of the repository whose name ends so, as paths from the root of the repository. */
export function filesBelow(folder: string, ending: string): string[] {
  return readdirSync(join(REPO, folder), { withFileTypes: true }).flatMap((entry) => {
    const file = posix.join(folder, entry.name);
    if (entry.isDirectory()) return SKIPPED.has(entry.name) ? [] : filesBelow(file, ending);
    return file.endsWith(ending) ? [file] : [];
  });
}

export function textOf(file: string): string {
  return readFileSync(join(REPO, file), 'utf8');
}

/** A comment or a line of a page, with its place. */
export interface Piece {
  file: string;
  line: number;
  text: string;
}

/** The comments of a TypeScript or Rust file. Comment lines without a gap between them are one comment. */
export function commentsOf(file: string): Piece[] {
  const comments: Piece[] = [];
  let open: Piece | null = null;
  for (const [index, line] of textOf(file).split('\n').entries()) {
    const found = /^\s*(?:\/\/[/!]?|\/\*\*?|\*\/|\*)\s?(.*?)(?:\s*\*\/)?$/.exec(line);
    const text = found?.[1]?.trim();
    if (text === undefined) {
      open = null;
    } else if (open === null || /^\s*\/\*/.test(line)) {
      open = { file, line: index + 1, text };
      comments.push(open);
    } else {
      open.text = `${open.text} ${text}`.trim();
    }
  }
  return comments.filter(({ text }) => text !== '');
}

/** The lines of a page outside of its blocks of code. */
export function proseOf(file: string): Piece[] {
  let isCode = false;
  return textOf(file)
    .split('\n')
    .flatMap((text, index) => {
      if (!text.trimStart().startsWith('```')) return isCode ? [] : [{ file, line: index + 1, text }];
      isCode = !isCode;
      return [];
    });
}
