// Holds the order of the layers of src: a file imports from its own layer and from those below it, never from one above.
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const src = fileURLToPath(new URL('../src', import.meta.url));

/** The layers from top to bottom. Every other folder and file of src is a leaf, below all of these. */
const layers = ['main.ts', 'run.ts', 'daemon.ts', 'http', 'operations', 'observe', 'state', 'runtime'];

function rankOf(file: string): number {
  const [first = ''] = relative(src, file).split(sep);
  const rank = layers.indexOf(first);
  return rank === -1 ? layers.length : rank;
}

test('no import runs up from a layer to one above it', async () => {
  const entries = await readdir(src, { recursive: true });
  const files = entries.filter((name) => name.endsWith('.ts')).map((name) => join(src, name));
  const imports: { from: string; to: string }[] = [];
  for (const from of files) {
    const text = await readFile(from, 'utf8');
    const targets = [...text.matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map(([, target = '']) => target);
    imports.push(...targets.map((target) => ({ from, to: resolve(dirname(from), target) })));
  }
  // The walk has found the tree: each layer has a file, and files import each other.
  expect(new Set(files.map(rankOf)).size).toBe(layers.length + 1);
  expect(imports.length).toBeGreaterThan(files.length);
  const upward = imports.filter(({ from, to }) => rankOf(to) < rankOf(from));
  expect(upward.map(({ from, to }) => `${relative(src, from)} -> ${relative(src, to)}`)).toEqual([]);
});
