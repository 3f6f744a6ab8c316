/** The warm Python interpreter by itself, with a generation page that the test counts up. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { afterEach, beforeEach, expect, test } from 'vitest';

const DRIVER = new URL('../../../crates/guest-agent/src/eval/driver.py', import.meta.url);
const DESCRIPTORS = ['3', '4', '5', '6'];

let dir: string;
let page: string;
let stop: () => Promise<void>;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'forkd-driver-test-'));
  page = join(dir, 'generation');
  stop = async () => {};
});

afterEach(async () => {
  await stop();
  await rm(dir, { recursive: true, force: true });
});

async function count(number: bigint, magic = 'FORKD GENERATION'): Promise<void> {
  const bytes = Buffer.alloc(4096);
  bytes.write(magic, 'latin1');
  bytes.writeBigUInt64LE(number, 16);
  // Into the file that is there, which the interpreter has mapped.
  await writeFile(page, bytes, { flag: number === 1n ? 'w' : 'r+' });
}

/** Starts the interpreter. Gives what evaluates in it. */
async function start(): Promise<(code: string) => Promise<unknown>> {
  const source = await readFile(DRIVER, 'utf8');
  const child = spawn('python3', ['-c', source, ...DESCRIPTORS, page], {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe', 'pipe', 'pipe', 'pipe'],
  });
  stop = async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  };
  const lines = createInterface({ input: child.stdio[4] as Readable })[Symbol.asyncIterator]();
  await lines.next();
  return async (code) => {
    (child.stdio[3] as Writable).write(`${JSON.stringify({ code })}\n`);
    const { result, error } = JSON.parse((await lines.next()).value as string) as { result: string; error: unknown };
    expect(error).toBeNull();
    return JSON.parse(result.replaceAll('True', 'true').replaceAll('False', 'false'));
  };
}

/** Whether each draw is the one that a generator with this seed gives. */
const DRAWS = `
import random
expected = random.Random(7)
def follows():
    return [random.random() == expected.random(), random.getrandbits(64) == expected.getrandbits(64)]
random.seed(7)
`;

test('a running evaluation draws from another seed once the generation number changes', async () => {
  await count(1n);
  const evaluate = await start();
  const counted = `
with open(${JSON.stringify(page)}, 'r+b') as file:
    file.seek(16)
    file.write((2).to_bytes(8, 'little'))
`;
  expect(await evaluate(`${DRAWS}\nbefore = follows()\n${counted}\nbefore + follows()`)).toEqual([
    true,
    true,
    false,
    false,
  ]);
});

test('an evaluation starts from another seed if the generation number has changed since the last', async () => {
  await count(1n);
  const evaluate = await start();
  expect(await evaluate(`${DRAWS}\nfollows()`)).toEqual([true, true]);
  await count(2n);
  expect(await evaluate('[random.randrange(1 << 60) == expected.randrange(1 << 60)]')).toEqual([false]);
  // A seed that a program sets holds until the next change.
  expect(await evaluate('random.seed(9); expected.seed(9)\nfollows()')).toEqual([true, true]);
});

test.each([
  ['there is none', async () => {}],
  ['its magic is another', () => count(1n, 'SOMETHING ELSE..')],
])('where no page is to be watched, since %s, random works as ever', async (_why, prepare) => {
  await prepare();
  const evaluate = await start();
  expect(await evaluate(`${DRAWS}\nfollows() + [random.choice([5]) == 5]`)).toEqual([true, true, true]);
});
