// Proves what is told of a sandbox that has ended: the reason, the last lines of its console, and for how long, also by the
// next controller.
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError, type SandboxInfo } from '@forkd/api';
import type { VmExit, VmFault } from '@forkd/engine';
import { pino } from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { limits } from '../src/limits.ts';
import { EndedSandboxes, type Ending } from '../src/state/ended.ts';
import { endingOf } from '../src/state/vm-end.ts';
import { scratch } from './support.ts';

afterEach(() => void vi.useRealTimers());

const infoOf = (id: string, name?: string): SandboxInfo => ({
  id,
  snapshot_tag: 'base',
  netns: null,
  guest_addr: 'unix:',
  created_at_unix: 1,
  pid: 7,
  memory_limit_mib: null,
  has_branched: false,
  last_branch_memory_path: null,
  branch_count: 0,
  ...(name !== undefined && { name }),
});
const crash: Ending = { reason: 'crashed', error: new ApiError('guest_unreachable', 'It crashed.', { hint: 'Why.' }) };

/** The ended sandboxes that a controller keeps in `dir`, and its log lines from a warning up. */
async function open(dir?: string) {
  const path = dir ?? join(await scratch(), 'ended');
  const warnings: string[] = [];
  const log = pino(
    { level: 'warn' },
    { write: (line) => void warnings.push((JSON.parse(line) as { msg: string }).msg) },
  );
  return { dir: path, ended: await EndedSandboxes.open(path, log), warnings };
}
const sandbox = { id: 'sb-1', kind: 'sandbox' } as const;
const exit: VmExit = { code: null, signal: null, why: null, log: '' };

const fault = (kind: VmFault['kind'], text: string): Partial<VmExit> => ({ why: { kind, text } });

const PANIC = 'Kernel panic - not syncing: ';
test.each([
  [fault('memory_limit', 'its limit'), '', 'out_of_memory', 'its limit', '--memory-limit-mib'],
  [fault('disk', 'its disk'), '', 'crashed', 'its disk', 'the disk of the data directory'],
  [fault('panic', 'it panicked'), `${PANIC}x`, 'guest_panicked', 'panicked: x', ''],
  [fault('panic', 'it panicked'), '', 'guest_panicked', 'it panicked', ''],
  [fault('processor', 'its processor'), '', 'crashed', 'its processor', 'kernel log'],
  [fault('pager', 'the pager ended'), '', 'lost', 'the pager ended', 'pager.log'],
  [{ code: 0 }, 'reboot: Power down', 'guest_stopped', 'its guest shut down', 'poweroff'],
  [{ code: 0 }, `${PANIC}Fatal exception`, 'guest_panicked', 'the guest panicked: Fatal exception', ''],
  [{ code: 0 }, `Out of memory: Killed process 7\n${PANIC}x`, 'guest_panicked', 'panicked: x', '--mem-mib'],
  [
    { code: 0 },
    `forkd-agent: boot failed: no disk\r\n${PANIC}Attempted to kill init! exitcode=0x00000100`,
    'guest_panicked',
    'its agent gave up: boot failed: no disk',
    'no disk',
  ],
  [{ code: 0 }, `${PANIC}Attempted to kill init! exitcode=0x0000000b`, 'guest_panicked', 'signal 11 (SIGSEGV)', ''],
  [{ code: 0 }, `${PANIC}Attempted to kill init! exitcode=0x00000300`, 'guest_panicked', 'exit code 3', ''],
  [{ signal: 'SIGKILL' as const }, '', 'crashed', 'its VMM was killed by SIGKILL', 'kernel log'],
  [{ code: 1, log: 'qemu: bad' }, '', 'crashed', 'its VMM failed with exit code 1', 'qemu: bad'],
  [{}, '', 'lost', 'earlier controller', ''],
])('a VM that ends with %j and prints %j is told as %s', (end, console, reason, cause, hint) => {
  const ending = endingOf(sandbox, { ...exit, ...end }, console);
  const error = {
    code: 'guest_unreachable',
    message: expect.stringMatching(/^Sandbox sb-1 ended by itself: /) as unknown,
    hint: expect.stringContaining(hint) as unknown,
  };
  expect(ending).toMatchObject({ reason, error });
  expect(ending.error.message).toContain(cause);
});

test('of a guest whose template is built it is told what its kernel needs', () => {
  const ofTemplate = { id: 'sb-1', kind: 'template' } as const;
  const early = endingOf(ofTemplate, { ...exit, code: 0 }, '').error;
  expect(early.message).toBe('Its VM ended by itself: its kernel gave up before its console said a word.');
  expect(early.hint).toContain('--mem-mib');
  const full = endingOf(ofTemplate, { ...exit, code: 0 }, `${PANIC}System is deadlocked on memory`).error;
  expect(full.message).toContain('panicked: System is deadlocked on memory');
  expect(full.hint).toContain('Give the guest more memory (--mem-mib).');
});

test('the trace after a panic does not push away the lines that explain it', () => {
  const trace = Array.from({ length: 50 }, (_, index) => `RSP: ${index}`).join('\n');
  const { consoleTail } = endingOf(sandbox, { ...exit, code: 0 }, `before\n${PANIC}why\n${trace}`);
  expect(consoleTail).toBe(`before\n${PANIC}why`);
});

test('the last lines of a console are shown to a terminal without being obeyed', () => {
  const lines = Array.from({ length: 50 }, (_, index) => `line ${index}\r`);
  const console = [...lines, '\u001b[2Jred\u009b31m\u0007 end'].join('\n');
  const { consoleTail = '', error } = endingOf(sandbox, exit, console);
  expect(consoleTail.split('\n')).toHaveLength(limits.consoleTailLines);
  expect(consoleTail).toContain('line 49\n');
  // oxlint-disable-next-line no-control-regex -- It is what this is about.
  expect(consoleTail).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  expect(error.hint).toContain(consoleTail);
  expect(endingOf(sandbox, exit, 'x'.repeat(10_000)).consoleTail).toHaveLength(limits.consoleTailBytes);
});

test('a later request is told why by id and by name; one who asked for the end is not', async () => {
  const { ended } = await open();
  await ended.add(infoOf('sb-1', 'web'), crash);
  await ended.add(infoOf('sb-2'), {
    reason: 'killed',
    error: new ApiError('not_found_sandbox', 'Sandbox sb-2 was ended.'),
  });
  for (const name of ['sb-1', 'web']) {
    expect(ended.missing(name)).toMatchObject({ code: 'sandbox_ended', message: 'It crashed.', hint: 'Why.' });
  }
  expect(ended.missing('sb-2')).toMatchObject({ code: 'not_found_sandbox', message: 'Sandbox sb-2 was ended.' });
  expect(ended.missing('sb-3')).toMatchObject({ code: 'not_found_sandbox', message: "There is no sandbox 'sb-3'." });
});

test('ended sandboxes are forgotten beyond a number and after a time, also on disk', async () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  const { dir, ended } = await open();
  const ids = Array.from({ length: limits.endedKeptMax + 5 }, (_, index) => `sb-${index}`);
  await Promise.all(ids.map((id) => ended.add(infoOf(id), crash)));
  expect(ended.list()).toHaveLength(limits.endedKeptMax);
  expect(await readdir(dir)).toHaveLength(limits.endedKeptMax);
  expect(ended.missing('sb-0').code).toBe('not_found_sandbox');
  vi.advanceTimersByTime((limits.endedKeptSecs + 1) * 1000);
  expect(ended.list()).toEqual([]);
  expect(ended.missing('sb-50').code).toBe('not_found_sandbox');
  expect((await open(dir)).ended.list()).toEqual([]);
  expect(await readdir(dir)).toEqual([]);
});

test('the next controller tells the same of an ended sandbox', async () => {
  const { dir, ended } = await open();
  await ended.add(infoOf('sb-1', 'web'), { ...crash, consoleTail: 'last line' });
  const { ended: next, warnings } = await open(dir);
  expect(next.list()).toEqual(ended.list());
  expect(next.missing('web')).toMatchObject({ code: 'sandbox_ended', message: 'It crashed.', hint: 'Why.' });
  expect(warnings).toEqual([]);
});

test.each([
  ['torn', (text: string) => text.slice(0, 100)],
  ['empty', () => ''],
  ['of a format to come', (text: string) => text.replace('"format":1', '"format":2')],
  ['of another sandbox', (text: string) => text.replaceAll('sb-1', 'sb-2')],
  ['without the reason', (text: string) => text.replace('"crashed"', '"bored"')],
  ['too long', (text: string) => text + ' '.repeat(limits.recordBytesMax)],
])('a file that is %s is logged and forgotten, and the others are read', async (_what, damage) => {
  const { dir, ended } = await open();
  await ended.add(infoOf('sb-1'), crash);
  await ended.add(infoOf('sb-3'), crash);
  const file = join(dir, 'sb-1.json');
  await writeFile(file, damage(await readFile(file, 'utf8')));
  const { ended: next, warnings } = await open(dir);
  expect(next.list().map(({ id }) => id)).toEqual(['sb-3']);
  expect(warnings).toEqual(['forgot an ended sandbox, whose file cannot be read']);
  expect(await readdir(dir)).toEqual(['sb-3.json']);
});

test('a directory that cannot be used is logged, and what ends is still told', async () => {
  const dir = join(await scratch(), 'ended');
  await writeFile(dir, 'a file');
  const { ended, warnings } = await open(dir);
  await ended.add(infoOf('sb-1'), crash);
  expect(ended.missing('sb-1').code).toBe('sandbox_ended');
  expect(warnings).toEqual(['the sandboxes that ended before cannot be read', 'the end of a sandbox is not on disk']);
});
