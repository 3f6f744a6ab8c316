/**
 * Proves that the archives are what cpio reads: for the entries of an initramfs, and for any names and bytes. Randomised by
 * fast-check, which prints the seed of a failure.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { writeNewc } from '../src/newc.ts';
import { must, scratchDir } from './support.ts';

test('cpio lists the given names, sizes and modes', () => {
  const archive = writeNewc([
    { name: 'init', data: Buffer.from('x'.repeat(5)), mode: 0o755 },
    { name: 'forkd' },
    { name: 'forkd/modules', data: Buffer.from('/forkd/a.ko\n') },
  ]);
  const lines = must('cpio', ['-itv', '--quiet', '--numeric-uid-gid'], { input: archive }).trimEnd().split('\n');
  const columns = lines.map((line) => line.split(/\s+/));
  expect(columns.map((row) => [row[0], row[2], row[4], row.at(-1)])).toEqual([
    ['-rwxr-xr-x', '0', '5', 'init'],
    ['drwxr-xr-x', '0', '0', 'forkd'],
    ['-rw-r--r--', '0', '12', 'forkd/modules'],
  ]);
});

test('any file comes out of cpio unchanged', async () => {
  const dir = await scratchDir();
  let round = 0;
  await fc.assert(
    fc.asyncProperty(fc.stringMatching(/^[\w. -]{1,120}$/), fc.uint8Array({ maxLength: 300 }), async (text, data) => {
      const name = `f${text}`;
      const cwd = join(dir, String(round++));
      must('mkdir', [cwd]);
      must('cpio', ['-i', '--quiet'], { input: writeNewc([{ name, data }]), cwd });
      expect(Buffer.compare(await readFile(join(cwd, name)), data)).toBe(0);
    }),
    { numRuns: 50 },
  );
});

test.each(['', '/init', 'x'.repeat(5000)])('a name that the kernel would not unpack is refused: %.10s', (name) => {
  expect(() => writeNewc([{ name }])).toThrow(RangeError);
});
