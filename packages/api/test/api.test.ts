/**
 * Proves: what the schemas accept and refuse beside the wire's own examples, that every error code is whole, and that the ids
 * are what the wire says. The validator is typebox's own, so that this holds without the controller.
 */
import fc from 'fast-check';
import { Value } from 'typebox/value';
import { describe, expect, test } from 'vitest';
import {
  ApiError,
  branchPlan,
  BranchRequest,
  CommandEvent,
  CreateSandboxesRequest,
  CreateSnapshotRequest,
  createSnapshotProblem,
  defaultBranchTag,
  ErrorBody,
  errorRegistry,
  ExecRequest,
  isErrorCode,
  isSandboxId,
  isTag,
  limits,
  newSandboxId,
  SandboxInfo,
  SnapshotInfo,
  type ErrorCode,
} from '../src/index.ts';

describe('requests', () => {
  test('refuse values that can be neither a program nor a file', () => {
    const zero = 'a\0b';
    expect(Value.Check(ExecRequest, { args: ['a b', ''], env: { 'A.b': '=', é: '' }, cwd: '/tmp' })).toBe(true);
    for (const wrong of [{ args: [zero] }, { args: ['a'], cwd: zero }, { args: ['a'], env: { A: zero } }]) {
      expect([wrong, Value.Check(ExecRequest, wrong)]).toEqual([wrong, false]);
    }
    for (const field of ['kernel', 'rootfs', 'source']) {
      expect(Value.Check(CreateSnapshotRequest, { tag: 'a', [field]: '/a' })).toBe(true);
      expect([field, Value.Check(CreateSnapshotRequest, { tag: 'a', [field]: zero })]).toEqual([field, false]);
    }
  });

  test('refuse impossible keys, and ignore none of them', () => {
    const fork = (labels: object) => Value.Check(CreateSandboxesRequest, { snapshot_tag: 'a', labels });
    expect([fork({ 'team.a': 'b' }), fork({ 'a/b': 'c' }), fork({ '': 'c' }), fork({ a: 1 })]).toEqual([
      true,
      false,
      false,
      false,
    ]);
    const exec = (env: object) => Value.Check(ExecRequest, { args: ['a'], env });
    expect([exec({ A: 'b' }), exec({ 'A=b': 'c' }), exec({ '': 'c' }), exec({ 'a\0': 'c' })]).toEqual([
      true,
      false,
      false,
      false,
    ]);
    const many = Object.fromEntries(Array.from({ length: limits.envEntriesMax + 1 }, (_, index) => [`A${index}`, '']));
    expect(exec(many)).toBe(false);
  });

  test('accept what forkd clients send, with the defaults of the API', () => {
    expect(Value.Default(CreateSandboxesRequest, { snapshot_tag: 'py' })).toEqual({
      snapshot_tag: 'py',
      n: 1,
      per_child_netns: false,
      prewarm: false,
      live_fork: false,
      hugepages: false,
      partial: false,
    });
    expect(Value.Check(CreateSandboxesRequest, { snapshot_tag: 'py', n: 3, memory_limit_mib: null })).toBe(true);
    expect(Value.Default(ExecRequest, { args: ['true'] })).toEqual({ args: ['true'], timeout_secs: 30 });
    const boot = { tag: 'base', kernel: '/k', rootfs: '/r', rw: false, tap: null, boot_wait_secs: 10 };
    expect(Value.Check(CreateSnapshotRequest, boot)).toBe(true);
    expect(Value.Default(CreateSnapshotRequest, { tag: 'base' })).toEqual({
      tag: 'base',
      rw: false,
      boot_wait_secs: 10,
      mem_mib: 512,
      vcpus: 1,
      replace: false,
    });
  });

  test.each([0, 1001, 1.5, '3'])('refuse n %s', (n) => {
    expect(Value.Check(CreateSandboxesRequest, { snapshot_tag: 'py', n })).toBe(false);
  });

  test('refuse an empty command, a zero timeout, and a boot longer than a minute', () => {
    expect(Value.Check(ExecRequest, { args: [] })).toBe(false);
    expect(Value.Check(ExecRequest, { args: ['true'], timeout_secs: 0 })).toBe(false);
    expect(Value.Check(CreateSnapshotRequest, { tag: 'a', rootfs: '/r', boot_wait_secs: 61 })).toBe(false);
  });

  test('take exactly one of source and rootfs', () => {
    expect(createSnapshotProblem({ tag: 'a', source: 'python' })).toBeUndefined();
    expect(createSnapshotProblem({ tag: 'a', rootfs: '/r', source: null })).toBeUndefined();
    expect(createSnapshotProblem({ tag: 'a' })).toContain('"a"');
    expect(createSnapshotProblem({ tag: 'a', source: 'python', rootfs: '/r' })).toContain('not both');
  });
});

describe('branchPlan', () => {
  test.each<[BranchRequest, string, string]>([
    [{}, 'full', 'durable'],
    [{ diff: true }, 'diff', 'durable'],
    [{ diff: false, live: true }, 'live', 'durable'],
    [{ measure_diff: true }, 'full', 'durable'],
    [{ mode: 'live', wait: false }, 'live', 'resumed'],
    [{ live: true, wait: false, until: 'ready' }, 'live', 'ready'],
    [{ mode: 'diff', until: 'ready', diff: false }, 'diff', 'ready'],
    [{ mode: null, until: null, tag: null }, 'full', 'durable'],
  ])('%j is %s until %s', (request, mode, until) => {
    expect(Value.Check(BranchRequest, request)).toBe(true);
    const measureDiff = request.measure_diff === true;
    const plan = { mode, until, audit: false, measureDiff, safety: 'standard' };
    expect(branchPlan(request)).toEqual(plan);
    expect(branchPlan({ ...request, audit: true, safety: 'strict' })).toEqual({
      ...plan,
      audit: true,
      safety: 'strict',
    });
  });

  test.each<BranchRequest>([
    { mode: 'live', live: true },
    { mode: 'live', diff: true },
    { diff: true, live: true },
    { live: true, measure_diff: true },
    { parent_tag: 'base' },
    { parent_tag: 'base', mode: 'full' },
    { wait: false },
    { mode: 'diff', wait: false },
  ])('%j is a bad request', (request) => {
    expect(() => branchPlan(request)).toThrow(ApiError);
    expect(() => branchPlan(request)).toThrow(expect.objectContaining({ code: 'bad_request', status: 400 }));
  });
});

describe('replies', () => {
  const sandbox = {
    id: 'sb-0123456789',
    snapshot_tag: 'py',
    netns: null,
    guest_addr: '',
    created_at_unix: 1,
    pid: null,
    memory_limit_mib: null,
    has_branched: false,
    last_branch_memory_path: null,
    branch_count: 0,
  };

  test('show the null fields of a sandbox', () => {
    expect(Value.Check(SandboxInfo, sandbox)).toBe(true);
    const { netns: _, ...without } = sandbox;
    expect(Value.Check(SandboxInfo, without)).toBe(false);
  });

  test('leave out the missing fields of a snapshot, and know its three states', () => {
    const snapshot = { tag: 'a', dir: '/d', created_at_unix: 1, status: 'ready', bootable: true };
    expect(Value.Check(SnapshotInfo, snapshot)).toBe(true);
    expect(Value.Check(SnapshotInfo, { ...snapshot, pause_ms: 3, pause_us: 2500 })).toBe(true);
    expect(Value.Check(SnapshotInfo, { ...snapshot, pause_ms: 2.5 })).toBe(false);
    expect(Value.Check(SnapshotInfo, { ...snapshot, warning: null })).toBe(false);
    expect(Value.Check(SnapshotInfo, { ...snapshot, status: 'done' })).toBe(false);
  });

  test('know the events of a command', () => {
    expect(Value.Check(CommandEvent, { type: 'stdout', offset: 0, data: 'aGk=' })).toBe(true);
    expect(Value.Check(CommandEvent, { type: 'exit', exit_code: 137, signal: 'KILL', timed_out: false })).toBe(true);
    expect(Value.Check(CommandEvent, { type: 'exit', exit_code: '1' })).toBe(false);
  });
});

describe('errors', () => {
  const codes = Object.keys(errorRegistry) as ErrorCode[];

  test.each(codes)('have a status and a hint that suit their class: %s', (code) => {
    const entry = errorRegistry[code];
    expect(entry.status).toBeGreaterThanOrEqual(400);
    expect(entry.status).toBeLessThan(600);
    expect(entry.hint.length).toBeGreaterThan(10);
    expect(isErrorCode(code)).toBe(true);
  });

  test('have one code for bugs, which is internal', () => {
    expect(codes.filter((code) => errorRegistry[code].class === 'bug')).toEqual(['internal']);
  });

  test('make a body whose sentence no detail can replace', () => {
    const error = new ApiError('has_dependents', 'snapshot "a" has dependents: b', {
      details: { dependents: ['b'], error: 'other' },
    });
    expect(error.status).toBe(409);
    expect(error.toBody()).toMatchObject({
      error: 'snapshot "a" has dependents: b',
      code: 'has_dependents',
      dependents: ['b'],
    });
    expect(Value.Check(ErrorBody, error.toBody())).toBe(true);
    expect(new ApiError('internal', 'x', { hint: 'other' }).toBody().hint).toBe('other');
    expect(isErrorCode('toString')).toBe(false);
  });
});

describe('ids', () => {
  test('of sandboxes are valid tags', () => {
    const id = newSandboxId();
    expect(id).toMatch(/^sb-[0-9a-f]{10}$/);
    expect(isSandboxId(id)).toBe(true);
    expect(newSandboxId()).not.toBe(id);
  });

  test('of branches name the sandbox and the time, within the length of a tag', () => {
    const tag = defaultBranchTag('sb-0123456789', 1_700_000_000_999);
    expect(tag).toMatch(/^branch-sb-0123456789-1700000000-[0-9a-f]{4}$/);
    expect(isTag(tag)).toBe(true);
  });

  test('of snapshots are told from anything else', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const isMadeOfTheRight = text.split('').every((character) => /[A-Za-z0-9_-]/.test(character));
        expect(isTag(text)).toBe(isMadeOfTheRight && text.length >= 1 && text.length <= 64);
      }),
    );
    expect(isTag('a\n')).toBe(false);
    expect(isTag('a'.repeat(65))).toBe(false);
  });

  test('has every default within its limits', () => {
    expect(limits.memMibDefault).toBeGreaterThanOrEqual(limits.memMibMin);
    expect(limits.bootWaitSecsDefault).toBeLessThanOrEqual(limits.bootWaitSecsMax);
    expect(limits.execTimeoutSecsDefault).toBeLessThanOrEqual(limits.execTimeoutSecsMax);
  });
});
