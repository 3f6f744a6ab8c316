/**
 * Odd container images as real guests: the files that a guest sees are those of the image, byte for byte; what an image has at a place
 * that forkd writes does not keep children from starting; and what an image says of its programs is what runs. What is added to an image is
 * in its guests, and a template is replaced once the new one is ready.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Snapshot } from '@forkd/sdk';
import { codeOf, forkOne, oneImage, REPO, shell, tarOf, type TarMember } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const BUSYBOX = readFileSync('/bin/busybox');
const APPLETS = [
  'sh',
  'cat',
  'echo',
  'find',
  'hexdump',
  'hostname',
  'id',
  'ls',
  'pwd',
  'readlink',
  'sort',
  'stat',
  'touch',
];

const SYSTEM: TarMember[] = [
  { path: 'bin/busybox', data: BUSYBOX, mode: 0o755 },
  ...APPLETS.map((name): TarMember => ({ path: `bin/${name}`, type: 'symlink', link: 'busybox' })),
  // A line in another encoding, as real account files have it.
  {
    path: 'etc/passwd',
    data: Buffer.from('root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Andr\xe9:/home:/bin/sh\n', 'latin1'),
  },
  { path: 'etc/group', data: Buffer.from('root:x:0:\nada:x:1000:\n') },
];

/** Names that a guest lists: not UTF-8, with a line break, as long as mkfs.erofs of Debian 12 takes. */
const ODD: TarMember[] = [
  { path: 'odd/caf\xe9.txt', data: Buffer.from('latin1') },
  { path: 'odd/new\nline', data: Buffer.from('two lines') },
  { path: `odd/${'n'.repeat(254)}`, data: Buffer.from('long') },
  { path: 'odd/gone-\xff', data: Buffer.from('gone') },
  { path: 'odd/secret', data: Buffer.from('hidden'), mode: 0o4750, uid: 1000, gid: 50 },
  { path: 'odd/\xfe', type: 'hardlink', link: 'odd/caf\xe9.txt' },
];

const LINKS: TarMember[] = [
  { path: 'etc/machine-id', type: 'symlink', link: '/data/etc/machine-id' },
  { path: 'etc/hostname', type: 'symlink', link: 'hostname' },
  { path: 'etc/hosts', type: 'fifo' },
  { path: 'etc/resolv.conf', type: 'symlink', link: '../run/nobody/resolv.conf' },
  { path: 'tmp', type: 'symlink', link: '/var/tmp' },
  { path: 'var/tmp', type: 'symlink', link: 'volatile/tmp' },
  { path: 'dev', type: 'symlink', link: '/nowhere' },
];

const CONFIG = {
  Env: ['PATH=/bin', 'GREETING=hello'],
  WorkingDir: '/srv/app/data',
  User: 'ada',
  Entrypoint: ['/start'],
  Cmd: ['a', 'b'],
};
const START = '#!/bin/sh\necho "$GREETING $* from $(pwd) as $(id -un)"\n';

const test = base.extend('odd', { scope: 'file' }, async ({ controller, client }) => {
  const changes: TarMember[] = [
    { path: 'odd/.wh.gone-\xff' },
    { path: 'start', data: Buffer.from(START), mode: 0o755 },
  ];
  const layers = [tarOf(SYSTEM), tarOf(ODD, 'gnu'), tarOf([...LINKS, ...changes])];
  const source = await oneImage(join(controller.dir, 'odd-image'), layers, CONFIG);
  await client.createSnapshot({ tag: 'odd', source, mem_mib: 128, boot_wait_secs: 60 });
  return 'odd';
});

describe('a container image', () => {
  test('is in its guest what its layers are, byte for byte', async ({ client, odd }) => {
    const id = await forkOne(client, odd);
    // The text of a reply shows what is not UTF-8 with a stand-in; a dump shows the bytes.
    const dump = async (script: string) =>
      Buffer.from((await shell(client, id, `${script} | hexdump -v -e '1/1 "%02x"'`)).trim(), 'hex');
    const names = (await dump('find /odd -type f -print0 | sort -z')).toString('latin1').split('\0').slice(0, -1);
    const left = ODD.filter((member) => !member.path.includes('gone'));
    expect(names).toEqual(left.map(({ path }) => `/${path}`).toSorted());
    for (const { path, data } of left) {
      const quoted = [...Buffer.from(`/${path}`, 'latin1')]
        .map((byte) => `\\${byte.toString(8).padStart(3, '0')}`)
        .join('');
      const content = await dump(`cat "$(printf '${quoted}')"`);
      expect(content.toString()).toBe((data ?? ODD[0]!.data)!.toString());
    }
    expect(await shell(client, id, "stat -c '%a %u %g %h' /odd/secret /odd/caf*")).toBe('4750 1000 50 1\n644 0 0 2');
    await client.deleteSandbox(id);
  });

  test('with links to nowhere where forkd writes has children with a name of their own', async ({ client, odd }) => {
    const [one, two] = [await forkOne(client, odd), await forkOne(client, odd)];
    const look = (id: string) => shell(client, id, 'cat /etc/machine-id /etc/hostname; cat /etc/hosts; hostname');
    const [first, second] = [await look(one), await look(two)];
    expect(first).toMatch(new RegExp(`^[0-9a-f]{32}\n.*\n(.*\n)*127\\.0\\.1\\.1\t(.*)\n\\2$`));
    expect(second).not.toBe(first);
    expect(
      await shell(client, one, 'readlink /etc/machine-id; touch /tmp/x; ls /var/volatile/tmp; echo >/dev/null'),
    ).toBe('/data/etc/machine-id\nx');
    await Promise.all([one, two].map((id) => client.deleteSandbox(id)));
  });

  test('runs its ENTRYPOINT and CMD as its USER in its WORKDIR, which no layer has', async ({
    controller,
    client,
    odd,
  }) => {
    const forkd = [join(REPO, 'packages/cli/bundle/forkd.js'), 'run', odd];
    const env = { ...process.env, FORKD_URL: `unix:${controller.socket}` };
    const run = spawnSync(process.execPath, forkd, { env, encoding: 'utf8' });
    expect(run).toMatchObject({ status: 0, stdout: 'hello a b from /srv/app/data as ada\n' });
    expect(await client.listSandboxes()).toEqual([]);
  });

  test('of one static program and nothing else boots, and runs it', async ({ controller, client }) => {
    const layer = tarOf([{ path: 'busybox', data: BUSYBOX, mode: 0o755 }]);
    const source = await oneImage(join(controller.dir, 'scratch-image'), [layer], null);
    await client.createSnapshot({ tag: 'scratch', source, mem_mib: 128, boot_wait_secs: 60 });
    const id = await forkOne(client, 'scratch');
    expect(await client.exec(id, { args: ['/busybox', 'echo', 'hi'] })).toMatchObject({ stdout: 'hi\n', exit_code: 0 });
    const nothing = client.startCommand(id, { args: [] });
    await expect(nothing).rejects.toMatchObject({
      status: 400,
      message: expect.stringMatching(/ENTRYPOINT/) as string,
    });
    await client.deleteSandbox(id);
  });
});

test('the tarball of a root is a root', async ({ controller, client }) => {
  const file = join(controller.dir, 'root.tar');
  // As `docker export` writes it.
  writeFileSync(file, tarOf(SYSTEM));
  await client.createSnapshot({ tag: 'plain-tar', source: file, mem_mib: 128, boot_wait_secs: 60 });
  const id = await forkOne(client, 'plain-tar');
  expect(await shell(client, id, 'id -un')).toBe('root');
  await client.deleteSandbox(id);
});

test('a template with files and variables of its own is built again, and replaced once the new one is ready', async ({
  controller,
  client,
}) => {
  const file = join(controller.dir, 'greeting');
  writeFileSync(file, 'hello\n');
  const request = (colour: string, from = file) => ({
    tag: 'own',
    source: 'recipe:busybox',
    mem_mib: 128,
    env: { COLOUR: colour },
    copy: [{ from, to: '/srv/' }],
  });
  await client.createSnapshot(request('red'));
  const look = (id: string) => shell(client, id, 'echo $COLOUR; cat /srv/greeting');
  const old = await forkOne(client, 'own');
  expect(await look(old)).toBe('red\nhello');
  expect(await codeOf(client.createSnapshot(request('blue')))).toBe('tag_exists');
  expect(await codeOf(client.createSnapshot({ ...request('blue', '/nowhere'), replace: true }))).toBe(
    'image_not_found',
  );

  writeFileSync(file, 'bye\n');
  const snapshot = await Snapshot.get('own', { client });
  let meanwhile: Promise<string> | undefined;
  await snapshot.rebuild({
    // The first report comes before anything is made.
    onProgress: () => {
      meanwhile ??= forkOne(client, 'own');
    },
  });
  const during = (await meanwhile) ?? '';
  expect(await look(during)).toBe('red\nhello');
  expect((await client.listSnapshots()).filter(({ tag }) => tag === 'own')).toHaveLength(1);
  const now = await forkOne(client, 'own');
  expect(await look(now)).toBe('red\nbye');
  expect(await look(old)).toBe('red\nhello');

  await client.branch(now, { tag: 'own-branch', parent_tag: 'own', mode: 'diff' });
  expect(await codeOf(client.createSnapshot({ ...request('green'), replace: true }))).toBe('has_dependents');
  const branch = await Snapshot.get('own-branch', { client });
  await expect(branch.rebuild()).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('is a branch of sandbox') as string,
  });
  await Promise.all([old, during, now].map((id) => client.deleteSandbox(id)));
  await client.deleteSnapshot('own', { cascade: true });
});
