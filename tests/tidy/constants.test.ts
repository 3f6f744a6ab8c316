// Proves that the constants of a file have one case: a number, a string or a boolean at its top level is called LIKE_THIS. Lists,
// records and functions are called likeThis or LIKE_THIS.
import { expect, test } from 'vitest';
import { constantsOf } from './constants.ts';
import { filesBelow } from './files.ts';

const FOLDERS = ['packages', 'scripts', 'tests', 'bench', 'examples'];
const ENDINGS = ['.ts', '.tsx', '.mjs', '.js'];
const SCREAMING = /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*$/;

function misnamed(constants: ReturnType<typeof constantsOf>): string[] {
  return constants
    .filter(({ name }) => !SCREAMING.test(name))
    .map(({ file, line, name }) => `${file}:${line} ${name} is to be called ${screaming(name)}`);
}

function screaming(name: string): string {
  return name.replaceAll(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toUpperCase();
}

test('each primitive constant at the top level of a file is called LIKE_THIS', () => {
  const files = FOLDERS.flatMap((folder) => ENDINGS.flatMap((ending) => filesBelow(folder, ending)));
  const constants = files.flatMap((file) => constantsOf(file));
  expect(constants.length).toBeGreaterThan(400);
  expect(misnamed(constants)).toEqual([]);
});

test.each([
  'const waitMsMax = 5;',
  'export const kib = 1024;',
  "const A = 'a';\nconst path = `/${A}`;",
  'const at = -(1 + 2);',
])('"%s" has a constant with another name', (text) => {
  expect(misnamed(constantsOf('here.ts', text))).toHaveLength(1);
});

test.each(['const names = ["a"];', 'const of = () => 1;', 'let count = 0;', 'function f() { const one = 1; }'])(
  '"%s" has no primitive constant at its top level',
  (text) => {
    expect(constantsOf('here.ts', text)).toEqual([]);
  },
);
