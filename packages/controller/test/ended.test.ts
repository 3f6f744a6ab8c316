// Proves what is told of a sandbox that has ended: the reason, the last lines of its console, and for how long.
import { ApiError, type SandboxInfo } from '@forkd/api';
import type { VmExit } from '@forkd/engine';
import { afterEach, expect, test, vi } from 'vitest';
import { limits } from '../src/limits.ts';
import { EndedSandboxes, type Ending } from '../src/state/ended.ts';
import { endingOf } from '../src/state/vm-end.ts';

afterEach(() => void vi.useRealTimers());

const infoOf = (id: string, name?: string) => ({ id, ...(name !== undefined && { name }) }) as SandboxInfo;
const crash: Ending = { reason: 'crashed', error: new ApiError('guest_unreachable', 'It crashed.', { hint: 'Why.' }) };
const exit: VmExit = { code: null, signal: null, why: null, log: '' };

test.each([
  [{ why: 'its limit' }, '', 'out_of_memory', '--memory-limit-mib'],
  [{ code: 0 }, '', 'guest_stopped', 'poweroff'],
  [{ code: 0 }, 'Kernel panic - not syncing: Fatal exception', 'guest_panicked', 'panicked: Fatal exception.'],
  [{ code: 0 }, 'Out of memory: Killed process 7\nKernel panic - not syncing: x', 'guest_panicked', '--mem-mib'],
  [{ signal: 'SIGKILL' as const }, '', 'crashed', 'kernel log'],
  [{ code: 1, log: 'qemu: bad' }, '', 'crashed', 'qemu: bad'],
  [{}, '', 'lost', 'earlier controller'],
])('a VM that ends with %j and prints %j is told as %s', (end, console, reason, hint) => {
  const ending = endingOf('sb-1', { ...exit, ...end }, console);
  expect(ending).toMatchObject({ reason, error: { code: 'guest_unreachable', hint: expect.stringContaining(hint) } });
});

test('the last lines of a console are shown to a terminal without being obeyed', () => {
  const lines = Array.from({ length: 50 }, (_, index) => `line ${index}\r`);
  const console = [...lines, '\u001b[2Jred\u009b31m\u0007 end'].join('\n');
  const { consoleTail = '', error } = endingOf('sb-1', exit, console);
  expect(consoleTail.split('\n')).toHaveLength(limits.consoleTailLines);
  expect(consoleTail).toContain('line 49\n');
  // oxlint-disable-next-line no-control-regex -- It is what this is about.
  expect(consoleTail).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  expect(error.hint).toContain(consoleTail);
  expect(endingOf('sb-1', exit, 'x'.repeat(10_000)).consoleTail).toHaveLength(limits.consoleTailBytes);
});

test('a later request is told why by id and by name; one who asked for the end is not', () => {
  const ended = new EndedSandboxes();
  ended.add(infoOf('sb-1', 'web'), crash);
  ended.add(infoOf('sb-2'), { reason: 'killed', error: new ApiError('not_found_sandbox', 'Sandbox sb-2 was ended.') });
  for (const name of ['sb-1', 'web']) {
    expect(ended.missing(name)).toMatchObject({ code: 'sandbox_ended', message: 'It crashed.', hint: 'Why.' });
  }
  expect(ended.missing('sb-2')).toMatchObject({ code: 'not_found_sandbox', message: 'Sandbox sb-2 was ended.' });
  expect(ended.missing('sb-3')).toMatchObject({ code: 'not_found_sandbox', message: "There is no sandbox 'sb-3'." });
});

test('ended sandboxes are forgotten beyond a number and after a time', () => {
  vi.useFakeTimers();
  const ended = new EndedSandboxes();
  for (let index = 0; index <= limits.endedKeptMax; index += 1) ended.add(infoOf(`sb-${index}`), crash);
  expect(ended.list()).toHaveLength(limits.endedKeptMax);
  expect(ended.missing('sb-0').code).toBe('not_found_sandbox');
  vi.advanceTimersByTime((limits.endedKeptSecs + 1) * 1000);
  expect(ended.list()).toEqual([]);
});
