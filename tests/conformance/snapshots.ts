import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '@forkd/testing';
import { expect, test } from 'vitest';
import { expectAbsent, expectNoNulls, unixNow, type Caller } from './caller.ts';

const BOOT_TIMEOUT_MS = 60_000;

export function snapshotRoutes(caller: () => Caller): void {
  test('a template in the making is listed, and cannot be forked, removed or overwritten', async () => {
    const request = { tag: 'made', ...caller().target.template };
    const making = caller().ask('POST /v1/snapshots', request);
    const find = async () => {
      const list = await caller().expectReply(200, 'GET /v1/snapshots');
      return list.find(({ tag }: { tag: string }) => tag === 'made');
    };
    await until('it is in the list', BOOT_TIMEOUT_MS, async () => (await find()) !== undefined);
    const early = await find();
    expect(early).toMatchObject({ status: 'writing', bootable: false });
    expectNoNulls(early);
    expect((await caller().expectReply(200, 'GET /v1/snapshots/made')).status).toBe('writing');
    await caller().expectRefusal(409, 'not_forkable', ["'made'", 'not there yet'], 'POST /v1/sandboxes', {
      snapshot_tag: 'made',
    });
    await caller().expectRefusal(409, 'snapshot_in_flight', ["'made'"], 'DELETE /v1/snapshots/made');
    await caller().expectRefusal(409, 'not_forkable', ["'made'"], 'GET /v1/snapshots/made/info');
    await caller().expectRefusal(409, 'snapshot_in_flight', ["'made'"], 'POST /v1/snapshots', request);
    const { status, body } = await making;
    expect(status).toBe(201);
    expect(body).toMatchObject({
      tag: 'made',
      dir: expect.any(String),
      status: 'ready',
      bootable: true,
      durable: true,
    });
    expect(Math.abs(body.created_at_unix - unixNow())).toBeLessThan(300);
    expectNoNulls(body);
    expectAbsent(body, 'branched_from', 'parent_tag', 'diff_ms', 'diff_physical_bytes', 'diff_logical_bytes');
    if (caller().target.withheld?.random === undefined) expectAbsent(body, 'warning');
    expect(await find()).toEqual(body);
    await caller().expectRefusal(409, 'tag_exists', ["'made'"], 'POST /v1/snapshots', request);
    await caller().expectReply(204, 'DELETE /v1/snapshots/made');
    await caller().expectRefusal(404, 'not_found_snapshot', ["'made'"], 'GET /v1/snapshots/made');
  });

  test('a template reports its progress, one JSON object per line', async () => {
    const request = { tag: 'progress', ...caller().target.template };
    const answer = await caller().ask('POST /v1/snapshots', request, { headers: { accept: 'application/x-ndjson' } });
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'application/x-ndjson']);
    const events = answer.text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.at(-1)).toMatchObject({ type: 'result', snapshot: { tag: 'progress', status: 'ready' } });
    expect(events.slice(0, -1).every(({ type }) => type === 'progress')).toBe(true);
    await caller().expectReply(204, 'DELETE /v1/snapshots/progress');
  });

  test.each<[object, string, string]>([
    [{ tag: 'a b', rootfs: '/r' }, 'bad_tag', 'a b'],
    [{ tag: 'x'.repeat(65), rootfs: '/r' }, 'bad_tag', 'tag'],
    [{ tag: 'new' }, 'bad_request', 'rootfs'],
    [{ tag: 'new', rootfs: '/r', source: 'recipe:busybox' }, 'bad_request', 'not both'],
    [{ tag: 'new', rootfs: '/r', boot_wait_secs: 61 }, 'bad_request', 'boot_wait_secs'],
    [{ tag: 'new', rootfs: '/r', boot_wait_secs: -1 }, 'bad_request', 'boot_wait_secs'],
    [{ tag: 'new', rootfs: '/r', rw: 'yes' }, 'bad_request', 'rw'],
    [{ tag: 'new', rootfs: '/r', mem_mib: 1 }, 'bad_request', 'mem_mib'],
    [{ tag: 'new', rootfs: '/r', vcpus: 0 }, 'bad_request', 'vcpus'],
    [{ rootfs: '/r' }, 'bad_request', 'tag'],
  ])('a template of %j is refused', async (request, code, word) => {
    await caller().expectRefusal(400, code, [word], 'POST /v1/snapshots', request);
  });

  test('a template with a missing source fails and leaves nothing', async () => {
    const gone = { tag: 'new', rw: false, tap: null, boot_wait_secs: 60, kernel: null };
    await caller().expectRefusal(404, 'image_not_found', ['/nowhere'], 'POST /v1/snapshots', {
      ...gone,
      rootfs: '/nowhere',
    });
    const badKernel = { tag: 'new', ...caller().target.template, kernel: '/nowhere/vmlinuz' };
    await caller().expectRefusal(400, 'kernel_invalid', ['/nowhere/vmlinuz'], 'POST /v1/snapshots', badKernel);
    await caller().expectRefusal(404, 'not_found_snapshot', ["'new'"], 'GET /v1/snapshots/new');
  });

  test('a kernel or a root that cannot be booted is refused with what can be', async () => {
    const dir = await mkdtemp('/tmp/fkb-');
    const [vmlinux, ext4] = [join(dir, 'vmlinux'), join(dir, 'root.ext4')];
    await writeFile(vmlinux, Buffer.concat([Buffer.from('\x7fELF'), Buffer.alloc(0x1000)]));
    const image = Buffer.alloc(0x1000);
    image.writeUInt16LE(0xef53, 1024 + 0x38);
    await writeFile(ext4, image);
    const { template } = caller().target;
    const ofKernel = { tag: 'new', ...template, kernel: vmlinux };
    const noKernel = await caller().expectRefusal(
      400,
      'kernel_invalid',
      [vmlinux, 'ELF'],
      'POST /v1/snapshots',
      ofKernel,
    );
    expect(noKernel.hint).toContain('bzImage');
    const ofRoot = { tag: 'new', rootfs: ext4 };
    const noRoot = await caller().expectRefusal(400, 'image_invalid', [ext4, 'ext4'], 'POST /v1/snapshots', ofRoot);
    expect(noRoot.hint).toContain('as the rootfs');
    await rm(dir, { recursive: true });
  });

  test('the details of a template and of a branch can be read', async () => {
    const root = await caller().expectReply(200, 'GET /v1/snapshots/base/info');
    expect(root).toMatchObject({ tag: 'base', chain_depth: expect.any(Number), ancestors: [] });
    expect(root.memory_logical_bytes).toBeGreaterThan(root.memory_physical_bytes);
    expectAbsent(root, 'parent_tag', 'parent_content_hash');
    const id = await caller().fork();
    await caller().expectReply(201, `POST /v1/sandboxes/${id}/branch`, {
      tag: 'leaf',
      mode: 'diff',
      parent_tag: 'base',
    });
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
    const leaf = await caller().expectReply(200, 'GET /v1/snapshots/leaf/info');
    expect(leaf).toMatchObject({ parent_tag: 'base', ancestors: ['base'], dependents: [] });
    expect(leaf.chain_depth).toBe(root.chain_depth + 1);
    expectNoNulls(leaf);
    expect((await caller().expectReply(200, 'GET /v1/snapshots/base/info')).dependents).toEqual(['leaf']);
    await caller().expectRefusal(404, 'not_found_snapshot', ["'none'"], 'GET /v1/snapshots/none/info');
    await caller().expectRefusal(400, 'bad_tag', ['a b'], 'GET /v1/snapshots/a%20b/info');
  });

  test('a snapshot that others need is removed only with exactly one flag', async () => {
    await caller().expectRefusal(400, 'bad_request', ["'base'"], 'DELETE /v1/snapshots/base?cascade=true&force=true');
    await caller().expectRefusal(404, 'not_found_snapshot', ["'none'"], 'DELETE /v1/snapshots/none');
    const refused = await caller().expectRefusal(
      409,
      'has_dependents',
      ["'base'", 'leaf'],
      'DELETE /v1/snapshots/base',
    );
    expect(refused.dependents).toContain('leaf');
    expect(`${refused.error} ${refused.hint}`).toMatch(/cascade.*force/);
  });

  test('a branch that does not name its parent lets it go, and stays usable', async () => {
    const id = await caller().fork();
    await caller().expectReply(201, `POST /v1/sandboxes/${id}/branch`, { tag: 'middle', mode: 'diff' });
    const child = await caller().fork('middle');
    await caller().expectReply(201, `POST /v1/sandboxes/${child}/branch`, { tag: 'loose', mode: 'diff' });
    for (const one of [id, child]) await caller().expectReply(204, `DELETE /v1/sandboxes/${one}`);
    expect((await caller().expectReply(200, 'GET /v1/snapshots/middle/info')).dependents).toEqual([]);
    await caller().expectReply(204, 'DELETE /v1/snapshots/middle');
    const grandchild = await caller().fork('loose');
    await caller().expectReply(200, `POST /v1/sandboxes/${grandchild}/ping`);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${grandchild}`);
    await caller().expectReply(204, 'DELETE /v1/snapshots/loose');
  });

  test('a snapshot can be compacted', async () => {
    const route = 'POST /v1/snapshots/leaf/compact';
    await caller().expectRefusal(400, 'bad_request', ["'leaf'"], route, { to: 'leaf' });
    await caller().expectRefusal(400, 'bad_tag', ['a b'], route, { to: 'a b' });
    await caller().expectRefusal(400, 'bad_request', ['to'], route, {});
    await caller().expectRefusal(404, 'not_found_snapshot', ["'none'"], 'POST /v1/snapshots/none/compact', {
      to: 'flat',
    });
    await caller().expectRefusal(409, 'tag_exists', ["'base'"], route, { to: 'base' });
    const flat = await caller().expectReply(200, route, { to: 'flat' });
    expect(flat).toMatchObject({ tag: 'flat', status: 'ready', bootable: true });
    expectNoNulls(flat);
    expect(await caller().expectReply(200, 'GET /v1/snapshots/flat/info')).toMatchObject({ ancestors: [] });
    const id = await caller().fork('flat');
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
    await caller().expectReply(204, 'DELETE /v1/snapshots/flat?force=true');
    await caller().expectReply(204, 'DELETE /v1/snapshots/leaf?cascade=true');
  });

  test.each([
    ['export', { format: 'firecracker', dir: '/nowhere/base' }],
    ['import', { format: 'firecracker', dir: '/nowhere/base' }],
  ])('%s names files of the host, and is for callers on it', async (verb, request) => {
    const route = `POST /v1/snapshots/base/${verb}`;
    await caller().expectRefusal(403, 'socket_only', [route], route, request);
    await caller().expectRefusal(400, 'bad_request', ['format'], route, { ...request, format: 'qemu' });
    await caller().expectRefusal(400, 'bad_request', ['dir'], route, { format: 'firecracker' });
  });

  test('pruning removes only what was asked for', async () => {
    await caller().expectRefusal(400, 'bad_request', ['older_than_secs'], 'POST /v1/snapshots/prune', {});
    const answer = await caller().expectReply(200, 'POST /v1/snapshots/prune', { older_than_secs: 0, dry_run: true });
    expect(answer).toEqual({ removed: [], kept: [] });
  });
}
