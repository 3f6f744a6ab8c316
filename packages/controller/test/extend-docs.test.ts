// Proves that the page on adding an operation names files that exist, apart from the one that its reader is to write.
import { access, readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';

const root = new URL('../../../', import.meta.url);

test('each path on the page exists, apart from the new operation', async () => {
  const page = await readFile(new URL('docs/extend/add-an-operation.md', root), 'utf8');
  const paths = [...page.matchAll(/`((?:node )?(?:packages|scripts)\/[^`]+)`/g)].map(([, name = '']) => name);
  expect(paths.length).toBeGreaterThan(8);
  const missing: string[] = [];
  for (const name of paths) {
    await access(new URL(name.replace(/^node /, ''), root)).catch(() => missing.push(name));
  }
  expect(missing).toEqual(['packages/controller/src/operations/rename.ts']);
});
