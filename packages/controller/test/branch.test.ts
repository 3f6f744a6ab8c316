// Proves what a branch's caller sees at each stage, what its source's record keeps, how parents and children out of RAM
// are tied together, and what a failure leaves. The store and the services are real, the pager does what the test says.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EngineError } from '@forkd/engine';
import type { GuestAgent } from '@forkd/guest';
import { expect, test, vi } from 'vitest';
import { deferred } from '../src/deferred.ts';
import { codeOf, Lab, scratch } from './support.ts';

test('the reply comes at the stage that was asked for', async () => {
  const lab = await Lab.open(await scratch());
  for (const [id, until] of [
    ['sb-1', 'resumed'],
    ['sb-2', 'ready'],
    ['sb-3', 'durable'],
  ] as const) {
    await lab.addSandbox(id);
    const reply = lab.branch(id, { tag: `tag-${until}`, mode: 'live', until });
    const fake = await lab.fakeOf(id);
    fake.resumed();
    if (until !== 'resumed') await fake.ready();
    if (until === 'durable') await fake.durable();
    const info = await reply;
    expect(info).toMatchObject({ tag: `tag-${until}`, branched_from: id, pause_ms: 2, pause_us: 2000 });
    expect(info.status).toBe(until === 'resumed' ? 'writing' : 'ready');
    expect(info.durable).toBe(until === 'durable');
    expect('captured_bytes' in info).toBe(until !== 'resumed');
    expect(lab.registry.find(id).info()).toMatchObject({ has_branched: true, branch_count: 1 });
  }
  await lab.close();
  // Those that were cut off at the end are failed, the one that was done is on disk.
  const listed = await lab.catalog.list();
  // The list is by age, and the clock's second may have turned in between.
  expect(Object.fromEntries(listed.map(({ tag, status }) => [tag, status]))).toEqual({
    'tag-durable': 'ready',
    'tag-ready': 'failed',
    'tag-resumed': 'failed',
  });
});

test('the clock of the source is set once the pauses of its branches have put it behind', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  const setClock = vi.fn<(unixNs: bigint) => Promise<void>>(async () => {});
  const agent = { setClock } as unknown as GuestAgent;
  vi.spyOn(lab.registry.find('sb-1').guest, 'call').mockImplementation((call) => call(agent));
  const before = Date.now();
  for (const [tag, calls] of [
    ['first', 0],
    ['second', 1],
    ['third', 1],
  ] as const) {
    lab.fakes.clear();
    const reply = lab.branch('sb-1', { tag, mode: 'live', until: 'durable' });
    const fake = await lab.fakeOf('sb-1');
    fake.resumed({ pause_us: 150_000 });
    await fake.ready();
    await fake.durable();
    await reply;
    expect(setClock).toHaveBeenCalledTimes(calls);
  }
  expect(Number(setClock.mock.calls[0]![0] / 1_000_000n)).toBeGreaterThanOrEqual(before);
  await lab.close();
});

test('a branch that gets to the store while snapshots are listed is in the list, and once among the dependents', async () => {
  for (const look of ['info', 'dependents'] as const) {
    const lab = await Lab.open(await scratch());
    await lab.addSandbox('sb-1');
    const reply = lab.branch('sb-1', { tag: 'leaf', mode: 'live', until: 'durable', parent_tag: 'base' });
    const fake = await lab.fakeOf('sb-1');
    fake.resumed();
    await fake.ready();
    const list = lab.store.list.bind(lab.store);
    vi.spyOn(lab.store, 'list').mockImplementationOnce(async () => {
      const before = look === 'info' ? await list() : [];
      await fake.durable();
      await reply;
      return look === 'info' ? before : list();
    });
    if (look === 'info') expect(await lab.catalog.info('leaf')).toMatchObject({ status: 'ready', durable: true });
    else expect(await lab.catalog.dependents(lab.registry.find('sb-1').record.snapshot_tag)).toEqual(['leaf']);
    await lab.close();
  }
});

test('whoever has seen in the list that a branch is durable can take the next one', async () => {
  const lab = await Lab.open(await scratch(), 1);
  await lab.addSandbox('sb-1');
  const rebase = deferred<void>();
  vi.spyOn(lab.registry, 'rebase').mockReturnValueOnce(rebase.promise);
  const first = lab.branch('sb-1', { tag: 'first', mode: 'live', until: 'resumed' });
  const fake = await lab.fakeOf('sb-1');
  fake.resumed();
  await first;
  await fake.ready();
  await fake.durable();
  await expect.poll(async () => (await lab.catalog.info('first')).durable).toBe(true);
  lab.fakes.delete('sb-1');
  const next = lab.branch('sb-1', { tag: 'next', mode: 'live', until: 'resumed' });
  rebase.resolve();
  (await lab.fakeOf('sb-1')).resumed();
  expect(await next).toMatchObject({ tag: 'next', status: 'writing' });
  await lab.close();
});

test('a failure reaches those who wait, stays in the list with its reason, and leaves the source as it was', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  const reply = codeOf(lab.branch('sb-1', { tag: 'full', mode: 'diff' }));
  (await lab.fakeOf('sb-1')).fail(new EngineError('disk_full', 'No space is left on the disk.'));
  expect(await reply).toBe('disk_full');
  expect(await lab.catalog.info('full')).toMatchObject({
    status: 'failed',
    bootable: false,
    error: expect.stringMatching(/'full' of sandbox sb-1.*No space/),
  });
  expect(await codeOf(lab.catalog.forkSource('full'))).toBe('not_forkable');
  expect(lab.registry.find('sb-1').branching).toBeNull();
  // The tag can be taken again, or the failure removed.
  lab.fakes.delete('sb-1');
  const again = lab.branch('sb-1', { tag: 'full', mode: 'diff' });
  await expect.poll(() => lab.registry.find('sb-1').branching).toBe('full');
  await (await lab.fakeOf('sb-1')).durable();
  expect((await again).status).toBe('ready');
  await lab.close();
});

test('children out of RAM are tied to their parent once it is durable', async () => {
  const dir = await scratch();
  const lab = await Lab.open(dir);
  await lab.addSandbox('sb-source');
  const branch = lab.branch('sb-source', { tag: 'parent', mode: 'live', until: 'ready' });
  const parentFake = await lab.fakeOf('sb-source');
  await parentFake.ready();
  await branch;
  const source = await lab.catalog.forkSource('parent');
  expect(source.digest).toBeNull();

  const { sandbox: child } = await lab.addSandbox('sb-child', 'parent');
  child.record = { ...child.record, vm: { ...child.record.vm!, stack: [...source.stack] } };
  const { sandbox: stranger } = await lab.addSandbox('sb-stranger', 'parent');
  const grandchild = lab.branch('sb-child', { tag: 'grandchild', mode: 'diff', parent_tag: 'parent' });
  await (await lab.fakeOf('sb-child')).durable();
  await parentFake.durable();
  await grandchild;

  const parent = await lab.store.readSnapshot('parent');
  const stored = await lab.store.readSnapshot('grandchild');
  expect(stored.config).toMatchObject({ parent_tag: 'parent', parent_digest: parent.manifest.digest });
  await expect.poll(() => child.record.snapshot_digest).toBe(parent.manifest.digest);
  expect(child.record.vm?.stack).toEqual(parent.memory.map((blob) => blob.digest));
  const onDisk = JSON.parse(await readFile(join(dir, 'sandboxes', 'sb-child', 'sandbox.json'), 'utf8'));
  expect(onDisk.vm.stack).toEqual(child.record.vm?.stack);
  // One that only bears the tag of a parent that it does not have is left alone.
  expect(stranger.record.snapshot_digest).toBeNull();

  expect(await codeOf(lab.remove('parent', {}))).toBe('has_dependents');
  await lab.remove('parent', { cascade: true });
  expect(await lab.catalog.list()).toEqual([]);
  await lab.close();
});

test('what a branch that is ready is not yet on disk for, waits until it is', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  const reply = lab.branch('sb-1', { tag: 'ready', mode: 'live', until: 'ready' });
  const fake = await lab.fakeOf('sb-1');
  await fake.ready();
  await reply;
  lab.fakes.delete('sb-1');
  const detail = lab.catalog.detail('ready');
  const next = lab.branch('sb-1', { tag: 'next', mode: 'live', until: 'resumed' });
  await fake.durable();
  expect(await detail).toMatchObject({ tag: 'ready', parent_tag: 'base' });
  (await lab.fakeOf('sb-1')).resumed();
  expect(await next).toMatchObject({ tag: 'next', status: 'writing' });
  await lab.close();
});

test('a removal with descendants waits for one that is ready, and removes it too', async () => {
  const lab = await Lab.open(await scratch());
  await addParentAndChild(lab);
  const reply = lab.branch('sb-2', { tag: 'below', mode: 'live', until: 'ready', parent_tag: 'top' });
  await (await lab.fakeOf('sb-2')).ready();
  await reply;
  const removal = lab.remove('top', { cascade: true });
  await lab.fakes.get('sb-2')!.durable();
  await removal;
  expect(await lab.catalog.list()).toEqual([]);
  await lab.close();
});

test('a branch may take the tag of its parent, when that was never on disk', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1', 'again');
  const reply = lab.branch('sb-1', { tag: 'again', mode: 'diff' });
  await (await lab.fakeOf('sb-1')).durable();
  expect(await reply).toMatchObject({ tag: 'again', status: 'ready', durable: true });
  await lab.close();
});

test('a wait for the disk ends with the failure of the write', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  const reply = lab.branch('sb-1', { tag: 'full', mode: 'live', until: 'ready' });
  const fake = await lab.fakeOf('sb-1');
  await fake.ready();
  await reply;
  const removal = lab.remove('full', {});
  fake.fail(new EngineError('disk_full', 'No space is left.'));
  await removal;
  expect(await lab.catalog.list()).toEqual([]);
  await lab.close();
});

test('a branch keeps its parent only if it names it, and has its layers without', async () => {
  const lab = await Lab.open(await scratch());
  await addParentAndChild(lab);
  for (const [tag, more] of [
    ['keeping', { parent_tag: 'top' }],
    ['loose', {}],
  ] as const) {
    lab.fakes.delete('sb-2');
    const reply = lab.branch('sb-2', { tag, mode: 'diff', ...more });
    await (await lab.fakeOf('sb-2')).durable();
    await reply;
  }
  await expect(lab.remove('top', {})).rejects.toMatchObject({ details: { dependents: ['keeping'] } });
  await lab.remove('top', { cascade: true });
  expect(await lab.catalog.list()).toMatchObject([{ tag: 'loose', parent_tag: 'top' }]);
  await lab.store.gc({ inUse: () => lab.pins.current() });
  for (const blob of (await lab.store.readSnapshot('loose')).memory) await lab.store.verify(blob.digest);
  await lab.close();
});

test('what a sandbox runs from survives the removal of its snapshot', async () => {
  const lab = await Lab.open(await scratch());
  const { sandbox } = await lab.addSandbox('sb-1');
  const root = sandbox.record.root_disk.digest;
  lab.host.housekeeping.request();
  await lab.store.gc({ inUse: () => lab.pins.current() });
  await lab.store.verify(root);
  await lab.registry.end(sandbox);
  await expect.poll(() => codeOf(lab.store.verify(root))).toBe('unknown_blob');
  await lab.close();
});

test('a branch that fails because its VMM has ended says so, though the end is seen after the failure', async () => {
  const lab = await Lab.open(await scratch());
  const { exit } = await lab.addSandbox('sb-1');
  const branch = lab.branch('sb-1', { tag: 'late', mode: 'diff' });
  await expect.poll(() => lab.fakes.has('sb-1')).toBe(true);
  lab.fakes.get('sb-1')?.result.reject(new EngineError('io', 'Connection reset by peer.'));
  setTimeout(
    () =>
      exit.resolve({ code: null, signal: 'SIGKILL', why: { kind: 'memory_limit', text: 'the memory limit' }, log: '' }),
    50,
  );
  const failure = await branch.catch((error: unknown) => error);
  expect(failure).toMatchObject({
    code: 'guest_unreachable',
    message: expect.stringContaining('the memory limit') as string,
  });
  // The end of the sandbox still writes to the directory of the test.
  await expect.poll(() => lab.registry.size).toBe(0);
  await lab.close();
});

test('a sandbox whose VMM ends by itself is gone, and says how', async () => {
  const lab = await Lab.open(await scratch());
  const { sandbox, exit } = await lab.addSandbox('sb-1');
  exit.resolve({ code: null, signal: 'SIGKILL', why: null, log: 'the last words' });
  await expect.poll(() => lab.registry.size).toBe(0);
  expect(sandbox.state).toBe('gone');
  expect(sandbox.ended.signal.reason).toMatchObject({
    code: 'guest_unreachable',
    message: expect.stringContaining('SIGKILL'),
  });
  const later = await lab.branch('sb-1', { mode: 'diff' }).catch((error: unknown) => error);
  expect(later).toMatchObject({
    code: 'sandbox_ended',
    message: expect.stringContaining('SIGKILL'),
    hint: expect.stringContaining('the last words'),
  });
  expect(lab.registry.ended.list()).toMatchObject([{ id: 'sb-1', state: 'ended', end_reason: 'crashed' }]);
  await lab.close();
});

test('a parent that the caller is wrong about is refused before anything is touched', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1', 'origin');
  expect(await codeOf(lab.branch('sb-1', { mode: 'diff', parent_tag: 'other' }))).toBe('bad_request');
  expect(lab.fakes.size).toBe(0);
  expect(await lab.catalog.list()).toEqual([]);
  await lab.close();
});

test('the slot is free when the reply says that it is over, for better or worse', async () => {
  const lab = await Lab.open(await scratch(), 1);
  await lab.addSandbox('sb-1');
  for (let round = 0; round < 5; round += 1) {
    for (const [tag, code] of [
      [`ok-${round}`, 'ok'],
      [`bad-${round}`, 'disk_full'],
    ] as const) {
      lab.fakes.clear();
      const reply = codeOf(lab.branch('sb-1', { tag, mode: 'diff', until: code === 'ok' ? 'durable' : 'ready' }));
      await expect.poll(() => lab.fakes.get('sb-1'), { interval: 5 }).toBeDefined();
      if (code === 'ok') await lab.fakes.get('sb-1')!.durable();
      else lab.fakes.get('sb-1')!.fail(new EngineError('disk_full', 'No space is left.'));
      expect(await reply).toBe(code);
    }
  }
  expect(lab.registry.find('sb-1').info().branch_count).toBe(5);
  await lab.close();
});

test('a mode that a VM has not is refused with its reason before anything is touched', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  lab.capabilities.live = 'This VM has no live branches.';
  await expect(lab.branch('sb-1', { tag: 'no', mode: 'live' })).rejects.toMatchObject({
    code: 'unsupported',
    message: 'Branch of sandbox sb-1: mode live cannot be had: This VM has no live branches.',
  });
  expect(lab.fakes.size).toBe(0);
  expect(lab.registry.find('sb-1').branching).toBeNull();
  expect(await lab.catalog.list()).toEqual([]);
  await lab.close();
});

test('what the next branch of a VM is built on stays when its snapshot is removed, until that VM ends', async () => {
  const lab = await Lab.open(await scratch());
  const { sandbox } = await lab.addSandbox('sb-1');
  const base = await lab.store.putBytes(Buffer.from('base'));
  Object.defineProperty(sandbox.vm, 'builtOn', { value: [base.digest] });
  const reply = lab.branch('sb-1', { tag: 'below', mode: 'diff' });
  await (await lab.fakeOf('sb-1')).durable();
  await reply;
  await lab.remove('below', {});
  await lab.store.gc({ inUse: () => lab.pins.current() });
  await lab.store.verify(base.digest);
  await lab.registry.end(sandbox);
  await expect.poll(() => codeOf(lab.store.verify(base.digest))).toBe('unknown_blob');
  await lab.close();
});

test('an audit is asked of the VM, and its outcome is in the reply and in the list', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  for (const until of ['ready', 'durable'] as const) {
    const reply = lab.branch('sb-1', { tag: `tag-${until}`, mode: 'live', until, audit: true });
    await expect.poll(() => lab.fakes.get('sb-1')?.request.audit).toBe(true);
    const fake = lab.fakes.get('sb-1')!;
    fake.resumed();
    await fake.ready();
    if (until === 'durable') await fake.durable();
    expect(await reply).toMatchObject({ audited_pages: 512, differing_pages: 0 });
    if (until === 'ready') await fake.durable();
    await expect.poll(() => lab.registry.find('sb-1').branching).toBeNull();
    lab.fakes.delete('sb-1');
  }
  const listed = await lab.catalog.list();
  expect(listed.map(({ audited_pages }) => audited_pages)).toEqual([512, 512]);
  await lab.close();
});

test('a branch that its audit finds wrong fails, and was never ready', async () => {
  const lab = await Lab.open(await scratch());
  await lab.addSandbox('sb-1');
  const reply = lab.branch('sb-1', { tag: 'wrong', mode: 'live', until: 'ready', audit: true });
  await expect.poll(() => lab.fakes.get('sb-1')).toBeDefined();
  const why = 'the audit found 3 of 512 pages that are not as they were in the pause, the first one page 7';
  lab.fakes.get('sb-1')!.fail(new EngineError('audit_failed', why));
  expect(await codeOf(reply)).toBe('branch_failed');
  await expect(reply).rejects.toThrow(why);
  const [listed] = await lab.catalog.list();
  expect(listed).toMatchObject({ tag: 'wrong', status: 'failed', bootable: false });
  expect(listed?.error).toContain(why);
  await lab.close();
});

/** Adds the sandbox `sb-1`, its durable branch `top`, and `sb-2`, a child of that branch. */
async function addParentAndChild(lab: Lab): Promise<void> {
  await lab.addSandbox('sb-1');
  const top = lab.branch('sb-1', { tag: 'top', mode: 'diff' });
  await (await lab.fakeOf('sb-1')).durable();
  await top;
  const { digest } = (await lab.store.readSnapshot('top')).manifest;
  await lab.addSandbox('sb-2', 'top', digest);
}
