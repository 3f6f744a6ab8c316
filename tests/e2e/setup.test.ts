/** The set-up of a checkout: a long step says what it is doing while it does it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO, until } from '@forkd/testing';
import { expect, test } from 'vitest';

/** Prints a line as cargo does, and ends when the file is there. */
const COMPILER = `
const { existsSync } = require('node:fs');
console.error('   Compiling forkd-pager v0.1.0');
setInterval(() => existsSync(process.argv[1]) && process.exit(0), 20);
`;

test('a step prints what it compiles before it has ended, and its time at the end', async () => {
  const dir = await mkdtemp('/tmp/fk-setup-');
  const [log, done] = [join(dir, 'log'), join(dir, 'done')];
  const call = JSON.stringify(['Rust', process.execPath, ['-e', COMPILER, done], log]);
  const module = `import { step } from '${REPO}/scripts/lib/step.mjs'; await step(...${call});`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', module], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (text: Buffer) => (output += text.toString()));
  await until('the step says what it does', 60_000, async () => output !== '');
  expect(output).toMatch(/^ {2}Rust: \d+\.\d s so far, Compiling forkd-pager v0\.1\.0\n$/);
  await writeFile(done, '');
  await once(child, 'close');
  expect(output).toMatch(/\n {2}Rust: \d+\.\d s\n$/);
  await rm(dir, { recursive: true });
});
