/** Proves, against the real agent: what happens below a watched path is reported once and in order, or an overflow says that it is not. */
import { setMaxListeners } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, vi } from 'vitest';
import type { FileChange, GuestAgent } from '../src/index.ts';
import { test, type Harness } from './harness.ts';

const WATCHES_MAX = 32;
const DIRECTORIES_MAX = 4096;

let harness: Harness;
let agent: GuestAgent;

test.beforeAll(({ harness: started, agent: connected }) => {
  harness = started;
  agent = connected;
});

/** A new directory below the folder of the agent. */
function directory(): string {
  return mkdtempSync(join(harness.folder, 'watched-'));
}

/** A watch that has begun. */
async function watching(path: string, recursive = false) {
  const changes = await agent.watch(path, { recursive });
  onTestFinished(async () => void (await changes.return(undefined)));
  return changes;
}

/** The changes up to the one that creates `path`, without it, as `type path` below `dir`. */
async function upTo(changes: AsyncGenerator<FileChange>, path: string, dir: string): Promise<string[]> {
  const told: string[] = [];
  for (;;) {
    const { done, value } = await changes.next();
    if (done === true) throw new Error(`the watch ended after ${told.join(', ')}`);
    if (value.type === 'create' && value.path === path) return told;
    const paths = value.type === 'overflow' ? [] : value.type === 'rename' ? [value.path, value.to] : [value.path];
    const change = [value.type, ...paths.map((one) => one.slice(dir.length + 1))].join(' ');
    // The kernel puts equal changes together while nobody reads them.
    if (told.at(-1) !== change) told.push(change);
  }
}

/** The changes of a moment: a directory that is made now ends it. */
async function now(changes: AsyncGenerator<FileChange>, dir: string): Promise<string[]> {
  const mark = mkdtempSync(join(dir, 'mark-'));
  return upTo(changes, mark, dir);
}

/** The changes up to the end of the watch. */
async function all(changes: AsyncGenerator<FileChange>): Promise<FileChange[]> {
  const told: FileChange[] = [];
  for await (const change of changes) told.push(change);
  return told;
}

test('what happens to the files of a directory is told in order', async () => {
  const dir = directory();
  const changes = await watching(dir);
  writeFileSync(join(dir, 'one'), 'x');
  appendFileSync(join(dir, 'one'), 'y');
  chmodSync(join(dir, 'one'), 0o600);
  renameSync(join(dir, 'one'), join(dir, 'two'));
  unlinkSync(join(dir, 'two'));
  mkdirSync(join(dir, 'deep/er'), { recursive: true });
  writeFileSync(join(dir, 'deep/er/not told'), '');
  expect(await now(changes, dir)).toEqual(['create one', 'modify one', 'rename one two', 'remove two', 'create deep']);
});

test('a name that is not UTF-8 keeps its bytes', async () => {
  const dir = directory();
  const changes = await watching(dir);
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.of(0x61, 0xff, 0x0a)]), '');
  expect(await now(changes, dir)).toEqual(['create a\udcff\n']);
});

test('a file that the agent writes appears at once, under its name alone', async () => {
  const dir = directory();
  const changes = await watching(dir);
  await agent.writeFile(join(dir, 'whole'), Buffer.from('x'.repeat(100_000)));
  expect(await now(changes, dir)).toEqual(['create whole']);
});

test('an entry that leaves or enters the watched directory is removed or created', async () => {
  const [dir, elsewhere] = [directory(), directory()];
  const changes = await watching(dir);
  writeFileSync(join(dir, 'file'), '');
  renameSync(join(dir, 'file'), join(elsewhere, 'file'));
  mkdirSync(join(dir, 'file'));
  renameSync(join(elsewhere, 'file'), join(dir, 'back'));
  expect(await now(changes, dir)).toEqual(['create file', 'remove file', 'create file', 'create back']);
});

test('a recursive watch follows directories that are made, moved and removed', async () => {
  const [dir, elsewhere] = [directory(), directory()];
  mkdirSync(join(dir, 'old/deep'), { recursive: true });
  const changes = await watching(dir, true);
  writeFileSync(join(dir, 'old/deep/file'), '');
  mkdirSync(join(dir, 'new/a/b/c'), { recursive: true });
  writeFileSync(join(dir, 'new/a/b/c/file'), '');
  const made = ['new', 'new/a', 'new/a/b', 'new/a/b/c', 'new/a/b/c/file'].map((path) => `create ${path}`);
  expect((await now(changes, dir)).toSorted()).toEqual(['create old/deep/file', ...made].toSorted());

  renameSync(join(dir, 'old'), join(dir, 'new/a/moved'));
  writeFileSync(join(dir, 'new/a/moved/deep/second'), '');
  expect(await now(changes, dir)).toEqual(['rename old new/a/moved', 'create new/a/moved/deep/second']);

  renameSync(join(dir, 'new'), join(elsewhere, 'new'));
  writeFileSync(join(elsewhere, 'new/a/b/c/not told'), '');
  expect(await now(changes, dir)).toEqual(['remove new']);

  renameSync(join(elsewhere, 'new'), join(dir, 'again'));
  const again = await now(changes, dir);
  expect(again).toContain('create again/a/b/c/not told');
  writeFileSync(join(dir, 'again/a/moved/deep/third'), '');
  rmSync(join(dir, 'again/a/b'), { recursive: true });
  expect(await now(changes, dir)).toEqual([
    'create again/a/moved/deep/third',
    'remove again/a/b/c/file',
    'remove again/a/b/c/not told',
    'remove again/a/b/c',
    'remove again/a/b',
  ]);
});

test('a watch ends when what is watched is removed, be it a file or a directory', async () => {
  const dir = directory();
  const file = join(dir, 'file');
  writeFileSync(file, '');
  const changes = await Promise.all([watching(file), watching(dir, true)]);
  appendFileSync(file, 'x');
  rmSync(dir, { recursive: true });
  const told = await Promise.all(changes.map(all));
  expect(told[0]?.[0]).toEqual({ type: 'modify', path: file });
  expect(told[0]?.at(-1)).toEqual({ type: 'remove', path: file });
  expect(told[1]?.at(-1)).toEqual({ type: 'remove', path: dir });
});

test('a reader that is too slow is told that changes are missing, and holds nobody up', async () => {
  const dir = directory();
  const changes = await watching(dir, true);
  const queueMax = Number(readFileSync('/proc/sys/fs/inotify/max_queued_events', 'utf8'));
  const files = ['a', 'b'].map((name) => openSync(join(dir, name.repeat(200)), 'w'));
  // More changes than the kernel and the connection keep. No two that follow each other are equal.
  for (let index = 0; index < queueMax; index += 1) files.forEach((file) => writeSync(file, 'x'));
  files.forEach((file) => closeSync(file));
  mkdirSync(join(dir, 'unseen'));
  expect((await agent.ping()).pid).toBeGreaterThan(0);
  for await (const change of { [Symbol.asyncIterator]: () => ({ next: () => changes.next() }) }) {
    if (change.type === 'overflow') break;
  }
  // A directory whose creation was missed is watched all the same.
  await vi.waitFor(
    async () => {
      mkdtempSync(join(dir, 'unseen/new-'));
      expect(await now(changes, dir)).toContainEqual(expect.stringMatching(/^create unseen\/new-/));
    },
    { timeout: 30_000 },
  );
});

test('what cannot be watched is refused by name', async () => {
  const dir = directory();
  await expect(agent.watch(join(dir, 'none'))).rejects.toMatchObject({ code: 'not_found', status: 404 });
  for (let index = 0; index < DIRECTORIES_MAX; index += 1) mkdirSync(join(dir, String(index)));
  const refused = { code: 'too_many_watches', message: expect.stringContaining(`${DIRECTORIES_MAX}`) };
  await expect(agent.watch(dir, { recursive: true })).rejects.toMatchObject(refused);
  rmdirSync(join(dir, '0'));
  const changes = await watching(dir, true);
  mkdirSync(join(dir, '0'));
  expect((await changes.next()).value).toEqual({ type: 'create', path: join(dir, '0') });
  await expect(changes.next()).rejects.toMatchObject(refused);
});

test('so many watches are open at a time, and one that is left makes room', async () => {
  const dir = directory();
  const leave = new AbortController();
  setMaxListeners(WATCHES_MAX + 1, leave.signal);
  const { signal } = leave;
  // The agent ends those of the tests before a moment after they were left.
  for (let open = 0; open < WATCHES_MAX; open += 1) await vi.waitFor(() => agent.watch(dir, { signal }), 30_000);
  await expect(agent.watch(dir)).rejects.toMatchObject({ code: 'too_many_watches' });
  leave.abort();
  await vi.waitFor(() => watching(dir), 30_000);
});
