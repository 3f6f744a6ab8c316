/**
 * The packages as a stranger uses them: built from what this checkout has built, and installed into a root of its own, which has
 * no checkout. There the doctor, a controller and real sandboxes run, through an upgrade, a removal and a purge.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { OwnRoot, REPO, requireBuilt } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';

const INSTALLED = '/usr/lib/forkd/node_modules/@forkd/controller/native';
const DATA = '/var/lib/forkd';

interface Row {
  id: string;
  status: string;
  detail: string;
}

let root: OwnRoot;
let deb: string;
let tarball: string;

beforeAll(async () => {
  await requireBuilt();
  [deb, tarball] = await makePackages();
  root = await OwnRoot.open();
  await root.add(deb, '/root');
  await root.out(`dpkg --install ${basename(deb)}`);
});

afterAll(async () => {
  await root?.[Symbol.asyncDispose]();
});

test('the same build makes the same packages', async () => {
  const digests = async () => Promise.all([deb, tarball].map(digestOf));
  const before = await digests();
  await makePackages();
  expect(await digests()).toEqual(before);
});

test('an installed forkd is complete, and the doctor finds its own programs', async () => {
  const { version } = JSON.parse(await readFile(join(REPO, 'package.json'), 'utf8')) as { version: string };
  expect(await root.out('forkd --version; forkd-controller --version')).toBe(`${version}\n${version}`);
  expect(await root.out('dpkg --verify forkd; ls /usr/bin/forkd*')).toBe('/usr/bin/forkd\n/usr/bin/forkd-controller');
  const rows = rowsOf((await root.run('forkd doctor --json')).stdout);
  expect(rows.filter(({ status }) => status === 'fail')).toEqual([]);
  const programs = rows.find(({ id }) => id === 'native_programs')?.detail.split(', ') ?? [];
  expect(programs.length).toBeGreaterThan(0);
  for (const file of programs) expect(file.startsWith(`${INSTALLED}/`)).toBe(true);
});

test('the unit, the manual page and the completion are where their readers look', async ({ skip }) => {
  const readers = await root.run('command -v systemd-analyze && command -v man');
  if (readers.code !== 0) skip('systemd-analyze and man are not both on this host');
  expect(await root.run('systemd-analyze verify forkd-controller.service')).toEqual({
    code: 0,
    stdout: '',
    stderr: '',
  });
  expect(await root.out('man --where forkd')).toBe('/usr/share/man/man1/forkd.1.gz');
  const completion = '/usr/share/bash-completion/completions/forkd';
  expect(await root.out(`bash -c '. ${completion}; complete -p forkd'`)).toContain('forkd');
});

test('a Node.js that is too old or missing is named', async () => {
  await root.out('mkdir old none && ln -s /bin/readlink none && ln -s /bin/readlink old');
  await root.out(`printf '#!/bin/sh\\necho v18.20.4\\n' > old/node && chmod +x old/node`);
  for (const [path, problem] of [
    ['old', '/root/old/node is v18.20.4.'],
    ['none', 'there is no node on PATH.'],
  ] as const) {
    for (const program of ['forkd', 'forkd-controller']) {
      const ran = await root.run(`PATH=/root/${path} /usr/bin/${program} --version`);
      expect(ran).toMatchObject({ code: 1, stdout: '' });
      expect(ran.stderr).toContain(`${program}: forkd needs Node.js 20.19 or newer, and ${problem}\nInstall`);
    }
  }
});

test('the tarball runs from any directory', async () => {
  await root.add(tarball, '/opt');
  await root.out(`cd /opt && tar -xf ${basename(tarball)} && ln -s /opt/forkd-*/bin/forkd /usr/local/bin/forkd-here`);
  const native = await root.out('/opt/forkd-*/bin/forkd-controller probe programs');
  expect(JSON.parse(native)).toMatchObject({
    pager: { file: expect.stringMatching(/^\/opt\/forkd-/), checkout: null },
  });
});

test('sandboxes outlive an upgrade, and the next controller adopts them', async () => {
  await root.out('forkd from-image busybox --tag base --mem-mib 256');
  const sandbox = await root.out('forkd fork --quiet --tag base');
  await root.out(`forkd exec ${sandbox} -- sh -c 'echo started > /tmp/note'`);
  await root.out(`forkd exec --detach ${sandbox} -- sleep 100000`);
  const pid = await pidOf(sandbox);
  await root.out(`dpkg-deb --raw-extract ${basename(deb)} next && sed -i 's/^Version: .*/&+next/' next/DEBIAN/control`);
  await root.out('dpkg-deb --root-owner-group --build next next.deb && dpkg --install next.deb');
  expect(await pidOf(sandbox)).toBe(pid);
  await root.out('forkd stop');
  expect(await pidOf(sandbox)).toBe(pid);
  expect(await root.out(`forkd exec ${sandbox} -- sh -c 'cat /tmp/note; pidof sleep | wc -w'`)).toBe('started\n1');
});

test('removal ends the sandboxes and keeps the snapshots, even if no controller runs', async () => {
  const sandbox = await root.out('forkd fork --quiet --tag base');
  const pid = await pidOf(sandbox);
  await root.out('forkd stop');
  await root.out('dpkg --remove forkd');
  expect((await root.run(`kill -0 ${pid}`)).code).not.toBe(0);
  expect(await root.out(`ls ${DATA}/sandboxes; pgrep -a forkd-pager || true`)).toBe('');
  await root.out(`dpkg --install ${basename(deb)}`);
  expect(await root.out('forkd images --quiet')).toBe('base');
  expect(await root.out('forkd run --tag base -- echo again')).toBe('again');
});

test('a backup of the store starts sandboxes under another data directory', async () => {
  await root.out(`forkd stop && mkdir /srv/other && tar -C ${DATA} -cz store workspaces | tar -C /srv/other -xz`);
  expect(await root.out('forkd --data-dir /srv/other run --tag base -- echo restored')).toBe('restored');
  await root.out('forkd --data-dir /srv/other stop');
});

test('a host without a network makes a template from a copied cache', async () => {
  await root.out(`mkdir /srv/apart && ln -s ${DATA}/cache /srv/apart/cache`);
  const steps = ['from-image busybox --tag base --mem-mib 256', 'run --tag base -- echo apart', 'stop'];
  const commands = steps.map((step) => `forkd --data-dir /srv/apart ${step}`).join(' && ');
  expect(await root.out(`unshare --net sh -c '${commands}'`)).toMatch(/^apart$/m);
});

test('images are fetched through the proxy of the environment', async () => {
  const asked: (string | undefined)[] = [];
  const proxy = createServer();
  proxy.on('connect', ({ url }, socket) => {
    asked.push(url);
    socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  try {
    const { port } = proxy.address() as AddressInfo;
    await root.out('forkd stop');
    const fetched = await root.run(
      `HTTPS_PROXY=http://127.0.0.1:${port} forkd from-image registry.invalid/team/image --tag far`,
    );
    expect(fetched).toMatchObject({ code: 1, stderr: expect.stringContaining('Forbidden') });
    expect(asked).toContain('registry.invalid:443');
    await root.out('forkd stop');
  } finally {
    proxy.close();
  }
});

test('a program with the SDK from npm finds the installed forkd and starts its controller', async () => {
  await root.out('forkd from-image busybox --tag py --mem-mib 256 && forkd stop && mkdir app');
  await root.add(await packNpm(), '/root/tarballs');
  await root.add(join(REPO, 'examples/readme.mjs'), '/root/app');
  await root.out('cd app && npm init --yes && npm install --offline --no-audit --no-fund ../tarballs/*.tgz');
  expect(await root.out('node app/readme.mjs')).toBe('42, exit code 0, 3 children');
  expect(await root.out('cd app && npx --offline forkd ls --json')).toBe('[]');
});

test('a purge removes the data directory', async () => {
  await root.out(`umount ${DATA}/cache && mkdir -p /etc/forkd /var/log/forkd`);
  await root.out('dpkg --purge forkd');
  expect((await root.run(`ls -d ${DATA} /etc/forkd /var/log/forkd /usr/lib/forkd`)).stdout).toBe('');
});

/** Packages this checkout. Returns the files of the Debian package and of the tarball. */
async function makePackages(): Promise<[string, string]> {
  const args = [join(REPO, 'scripts/package.mjs'), 'deb', 'tarball'];
  // The default is the time of the last commit, which may change while the tests run.
  const env = { ...process.env, SOURCE_DATE_EPOCH: '1700000000' };
  const { stdout } = await promisify(execFile)(process.execPath, args, { env });
  const fileOf = (ending: string) => new RegExp(`^ *(dist/\\S+${ending}):`, 'm').exec(stdout)?.[1] ?? 'no file';
  return [join(REPO, fileOf('\\.deb')), join(REPO, fileOf('\\.tar\\.gz'))];
}

/** Packs the npm packages that users install, with all that they depend on. Returns the directory of the tarballs. */
async function packNpm(): Promise<string> {
  const dir = join(REPO, 'dist/npm');
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  const own = ['api', 'sdk', 'mcp', 'cli'].map((name) => `./packages/${name}`);
  const model = ['@modelcontextprotocol/core', '@modelcontextprotocol/server', 'zod'];
  const others = ['commander', 'picocolors', 'typebox', 'undici', ...model].map((name) => `./node_modules/${name}`);
  const args = ['pack', '--ignore-scripts', '--pack-destination', dir, ...own, ...others];
  await promisify(execFile)('npm', args, { cwd: REPO });
  return dir;
}

async function digestOf(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

function rowsOf(json: string): Row[] {
  return (JSON.parse(json) as { rows: Row[] }).rows;
}

/** The process of a sandbox's VMM, which must run. */
async function pidOf(sandbox: string): Promise<number> {
  const { pid } = JSON.parse(await root.out(`forkd inspect --json ${sandbox}`)) as { pid: number };
  await root.out(`kill -0 ${pid}`);
  return pid;
}
