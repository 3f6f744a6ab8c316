/**
 * The process of a sandbox's VM is confined, shown on VMMs that run real guests: by what the kernel says of the process, by what
 * a program sees and reaches that has the VMM's user, root and namespaces, and by the pager refusing one VMM that pretends to
 * be another. All that a sandbox does works there, and where a host allows less, what is lost is said and the rest still works.
 */
import { execFile } from 'node:child_process';
import { appendFile, readdir, readFile, rename, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { Pager, pagerKind, readStartTicks } from '@forkd/engine';
import type { ForkdClient } from '@forkd/sdk';
import {
  asUser,
  BUILT,
  fieldsOf,
  forkOne,
  insideOf,
  limitsOf,
  namespaceOf,
  openFilesOf,
  REPO,
  sh,
  shell,
  statusOf,
  type TestController,
  until,
  userOf,
} from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const USERS_FROM = 1_879_048_192;
const NO_CAPABILITY = '0000000000000000';
const FILE_BYTES_MAX = 16 * 2 ** 20;
const WAIT_MS = 30_000;
/** Length of the header of a plan. */
const HEADER_BYTES = 56;

/** Prints, of each path, whether it can be listed, read or connected to. */
const REACH = `use Socket; for my $p (@ARGV) {
  socket(my $s, AF_UNIX, SOCK_STREAM, 0);
  my $how = opendir(my $d, $p) ? "listed" : open(my $f, "<", $p) ? "read" : connect($s, pack_sockaddr_un($p)) ? "connected" : "no";
  print "$how "; }`;

/** Greets the pager as somebody else, sends a memory of its own, and prints how many bytes come back. */
const PRETEND = `use Socket; my ($path, $hello) = @ARGV;
  socket(my $s, AF_UNIX, SOCK_STREAM, 0); connect($s, pack_sockaddr_un($path)) or die "connect: $!";
  send($s, "$hello\\n", MSG_NOSIGNAL); sleep 1;
  send($s, '[{"base_host_virt_addr":4096,"size":268435456,"offset":0,"page_size":4096}]', MSG_NOSIGNAL);
  my $n = 0; while (my $got = sysread($s, my $b, 4096)) { $n += $got } print $n;`;

const test = base
  // Two sandboxes, and the processes of their VMMs.
  .extend('ids', { scope: 'file' }, async ({ client }) => [await forkOne(client), await forkOne(client)])
  .extend('pids', { scope: 'file' }, ({ client, ids }) => Promise.all(ids.map((id) => pidOf(client, id))));

async function pidOf(client: ForkdClient, id: string): Promise<number> {
  return (await client.getSandbox(id)).pid ?? 0;
}

describe('the VMM of a sandbox', () => {
  function vmDir(controller: TestController, id: string): string {
    return join(controller.dir, 'sandboxes', id, 'vmm');
  }

  test('is confined in every available way, and the host reports each', async ({ client }) => {
    const { isolation } = (await client.host()).engine;
    const wanted = ['own_user', 'no_capabilities', 'no_new_privs', 'seccomp', 'mount_namespace', 'network_namespace'];
    const others = ['ipc_namespace', 'uts_namespace', 'resource_limits', 'memory_cgroup'];
    expect(isolation.map(({ id }) => id).toSorted()).toEqual([...wanted, ...others].toSorted());
    const lost = isolation.filter(({ id, ok }) => !ok && id !== 'memory_cgroup');
    expect(lost, 'these tests need root and a host that is no container').toEqual([]);
  });

  test('has its own user, no groups and no capability, and can gain none', async ({ pids }) => {
    const users = await Promise.all(pids.map(userOf));
    expect(new Set(users).size).toBe(2);
    for (const [index, pid] of pids.entries()) {
      const user = users[index] ?? 0;
      expect(user).toBeGreaterThanOrEqual(USERS_FROM);
      const all = Array.from({ length: 4 }, () => user).join('\t');
      const none = { CapInh: NO_CAPABILITY, CapPrm: NO_CAPABILITY, CapEff: NO_CAPABILITY, CapBnd: NO_CAPABILITY };
      const wanted = { Uid: all, Gid: all, Groups: '', ...none, CapAmb: NO_CAPABILITY, NoNewPrivs: '1', Seccomp: '2' };
      expect(await statusOf(pid)).toMatchObject(wanted);
    }
  });

  test('has resource limits', async ({ pids }) => {
    expect(await limitsOf(pids[0] ?? 0)).toMatchObject({
      'Max file size': String(FILE_BYTES_MAX),
      'Max core file size': '0',
      'Max open files': '16384',
      'Max locked memory': '0',
      'Max processes': '256',
    });
  });

  test.for(['mnt', 'net', 'ipc', 'uts'])('has its own %s namespace', async (kind, { controller, pids }) => {
    const all = await Promise.all([controller.pid, ...pids].map((pid) => namespaceOf(pid, kind)));
    expect(new Set(all).size).toBe(3);
  });

  test('has no network but a loopback device that is down', async ({ pids }) => {
    const devices = (await readFile(`/proc/${pids[0]}/net/dev`, 'utf8')).split('\n').slice(2, -1);
    expect(devices.map((line) => line.trim().split(':')[0])).toEqual(['lo']);
    expect(await readFile(`/proc/${pids[0]}/net/route`, 'utf8')).not.toContain('lo');
  });

  test('sees only programs, libraries and itself, all of it read-only', async ({ pids }) => {
    const pid = pids[0] ?? 0;
    const seen = await readdir(`/proc/${pid}/root`);
    const system = ['lib', 'lib32', 'lib64', 'usr'];
    expect(seen.filter((name) => !system.includes(name)).toSorted()).toEqual(['dev', 'etc', 'pager', 'proc']);
    expect(await readdir(`/proc/${pid}/root/etc`)).toEqual(['ld.so.cache']);
    expect(await readdir(`/proc/${pid}/root/pager`)).toEqual(['shim.sock']);
    const devices = ['kvm', 'null', 'urandom'];
    expect((await readdir(`/proc/${pid}/root/dev`)).filter((name) => !devices.includes(name))).toEqual([]);
    const mounts = (await readFile(`/proc/${pid}/mounts`, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => line.split(' '));
    expect(mounts.filter(([, , , options = '']) => !/^ro,nosuid\b/.test(options))).toEqual([]);
    // The VMM sees no process but itself.
    const processes = `opendir(my $d, "/proc"); print scalar grep { /^\\d+$/ && -e "/proc/$_/status" } readdir $d`;
    expect(Number(await insideOf(pid, processes))).toBeLessThanOrEqual(2);
  });

  test('reaches no file or socket of the store, other sandboxes, the controller or the pager', async ({
    controller,
    ids,
    pids,
  }) => {
    const pid = pids[0] ?? 0;
    const places = ['', 'store', 'run', 'run/pager.sock', 'run/controller.sock', 'run/shims/shim.sock', 'sandboxes'];
    const paths = [
      ...places.map((name) => join(controller.dir, name)),
      vmDir(controller, ids[1] ?? ''),
      '/tmp',
      '/root',
      '/etc/passwd',
    ];
    expect(await insideOf(pid, REACH, ...paths)).toBe(paths.map(() => 'no').join(' '));
    // Paths in its own root are reachable: the probe itself works.
    expect(await insideOf(pid, REACH, '/usr', '/etc/ld.so.cache', '/pager/shim.sock')).toBe('listed read connected');
  });

  test('has no file open that belongs to others', async ({ controller, ids, pids }) => {
    const own = vmDir(controller, ids[0] ?? '');
    const { dir } = controller;
    const files = await openFilesOf(pids[0] ?? 0);
    const ofHost = files.filter(
      (file) => file.startsWith('/') && !/^\/(dev\/(null|urandom|userfaultfd|kvm)|memfd:.*)$/.test(file),
    );
    const expected = [join(own, 'vmm.log'), join(own, 'console.log'), join(REPO, 'target/release/libforkd_shim.so')];
    const rest = ofHost.filter((file) => !expected.includes(file));
    // The remaining file is the root image, which is a blob of the store.
    expect(new Set(rest.map((file) => dirname(file)))).toEqual(new Set([join(dir, 'store/blobs/sha256')]));
    expect(new Set(rest).size).toBe(1);
  });

  test('runs as a user that cannot connect to any forkd socket on the host', async ({ controller, ids, pids }) => {
    const user = await userOf(pids[0] ?? 0);
    const sockets = ['monitor.sock', 'pager.sock', 'channel.sock', 'agent.sock'].map((name) =>
      join(vmDir(controller, ids[0] ?? ''), name),
    );
    const control = ['controller.sock', 'pager.sock', 'shims/shim.sock'].map((name) =>
      join(controller.dir, 'run', name),
    );
    const all = [...sockets, ...control];
    for (const socket of all) expect((await stat(socket)).isSocket()).toBe(true);
    expect(await asUser(user, REACH, ...all)).toBe(all.map(() => 'no').join(' '));
  });

  test('cannot get the memory of another VMM or replace it by its own', async ({ client, controller, ids, pids }) => {
    const [attacker = 0, victimPid = 0] = pids;
    const victim = ids[1] ?? '';
    // A second caller gets a header of zeros, for no plan, before the pager looks at its memory.
    for (const [wants, bytes] of [
      ['plan', 0],
      ['wake', 0],
      ['nothing', HEADER_BYTES],
    ] as const) {
      const hello = JSON.stringify({ protocol: pagerKind.protocol, sandbox: victim, key: '', wants });
      expect(Number(await insideOf(attacker, PRETEND, '/pager/shim.sock', hello))).toBe(bytes);
    }
    const pager = await Pager.ensure({
      bin: BUILT.pager,
      runDir: join(controller.dir, 'run'),
      storeDir: join(controller.dir, 'store'),
    });
    const { sandboxes } = await pager.inventory();
    pager.close();
    expect(sandboxes).toContainEqual({ sandbox: victim, attached: true, pid: victimPid, branching: false });
    // A branch reads the memory of the process that the pager takes for the victim.
    await shell(client, victim, 'echo mine > /root/whose');
    await client.branch(victim, { tag: 'after-pretence', mode: 'live' });
    const child = await forkOne(client, 'after-pretence');
    expect(await shell(client, child, 'cat /root/whose')).toBe('mine');
    await client.deleteSandbox(child);
  });

  test('cannot fill the disk with its console, and runs on', async ({ client, controller }) => {
    const id = await forkOne(client);
    const log = join(vmDir(controller, id), 'console.log');
    await truncate(log, FILE_BYTES_MAX - 100);
    await shell(client, id, 'head -c 5000 /dev/zero | tr "\\0" x > /dev/console');
    await until('the console is full', WAIT_MS, async () => (await stat(log)).size === FILE_BYTES_MAX);
    expect(await shell(client, id, 'echo here')).toBe('here');
    await client.deleteSandbox(id);
  });

  test('is adopted by the next controller, and ended when its record is torn', async ({
    client,
    controller,
    ids,
    pids,
  }) => {
    await controller.kill9();
    await controller.serve();
    expect(await Promise.all(ids.map((id) => pidOf(client, id)))).toEqual(pids);
    // A VMM with a torn record cannot be adopted, and is found by its open files.
    const [torn = '', kept = ''] = ids;
    await controller.kill9();
    await appendFile(join(controller.dir, 'sandboxes', torn, 'sandbox.json'), '}');
    await controller.serve();
    expect((await client.listSandboxes()).map(({ id }) => id)).toEqual([kept]);
    expect(await controller.pids('vmm')).toEqual([pids[1]]);
  });

  test('is found by its record when it holds no forkd file open', async ({ client, controller, ids }) => {
    const id = await forkOne(client);
    const pid = await pidOf(client, id);
    await controller.kill9();
    // As if the VMM had closed its log and could not be adopted.
    await rename(join(vmDir(controller, id), 'vmm.log'), join(controller.dir, 'elsewhere'));
    const record = join(controller.dir, 'sandboxes', id, 'sandbox.json');
    await writeFile(record, (await readFile(record, 'utf8')).replace('"running"', '"starting"'));
    await controller.serve();
    expect(await readStartTicks(pid)).toBeNull();
    expect((await client.listSandboxes()).map((sandbox) => sandbox.id)).toEqual(ids.slice(1));
  });

  test('leaves no process, directory or mount behind', async ({ client, controller, ids }) => {
    const [, kept = ''] = ids;
    await client.deleteSandbox(kept);
    expect(await controller.pids('vmm')).toEqual([]);
    expect(await controller.sandboxDirs()).toEqual([]);
    expect(await readFile('/proc/self/mounts', 'utf8')).not.toContain(controller.dir);
  });
});

describe('a VM in its jail', () => {
  test('is branched live byte for byte, and so is its child', async ({ lab, template }) => {
    const source = await lab.fork(template);
    const first = await lab.branch(source, { mode: 'live', audit: true });
    expect(first.audit).toMatchObject({ differing_pages: 0 });
    const child = await lab.fork(lab.point(source, first));
    await sh(child.agent, 'echo child > /root/who');
    const second = await lab.branch(child, { mode: 'live', audit: true });
    expect(second.audit).toMatchObject({ differing_pages: 0 });
    const grandchild = await lab.fork(lab.point(child, second));
    expect(await sh(grandchild.agent, 'cat /root/who')).toBe('child');
  });
});

describe('a host with fewer privileges', () => {
  interface Seen {
    isolation: { id: string; ok: boolean; detail: string }[];
    branches: Record<string, unknown>;
    answers: string[];
    limited: unknown;
    status: string;
  }

  async function lifeUnder(...privileges: string[]): Promise<Seen> {
    const program = join(REPO, 'tests/e2e/programs/less-allowed-host.mjs');
    const { stdout } = await promisify(execFile)('setpriv', [...privileges, '--', process.execPath, program]);
    return JSON.parse(stdout) as Seen;
  }

  function lost({ isolation }: Seen): string[] {
    return isolation.flatMap(({ id, ok }) => (ok ? [] : [id])).toSorted();
  }

  test('keeps all other confinement without namespaces, as in a container', async () => {
    const seen = await lifeUnder('--bounding-set', '-sys_admin', '--inh-caps', '-sys_admin');
    expect(lost(seen)).toEqual(['ipc_namespace', 'mount_namespace', 'network_namespace', 'uts_namespace']);
    expect(seen.isolation.find(({ id }) => id === 'mount_namespace')?.detail).toContain('not permitted');
    expect(seen).toMatchObject({ branches: { live: 0, diff: 0 }, answers: ['here', 'here'] });
    expect(Number(fieldsOf(seen.status)['Uid']?.split('\t')[0])).toBeGreaterThanOrEqual(USERS_FROM);
    expect(fieldsOf(seen.status)).toMatchObject({ CapEff: NO_CAPABILITY, NoNewPrivs: '1', Seccomp: '2' });
  });

  test('runs VMMs as root without capabilities when it cannot switch users', async () => {
    const seen = await lifeUnder('--bounding-set', '-setuid', '--inh-caps', '-setuid');
    expect(lost(seen)).toEqual(['own_user']);
    expect(seen.isolation.find(({ id }) => id === 'own_user')?.detail).toContain('CAP_SETUID');
    expect(seen).toMatchObject({ branches: { live: 0, diff: 0 }, answers: ['here', 'here'] });
    expect(fieldsOf(seen.status)).toMatchObject({ CapEff: NO_CAPABILITY, CapBnd: NO_CAPABILITY, NoNewPrivs: '1' });
  });

  test('does all that needs no root as an ordinary user, and refuses a memory limit', async ({ skip }) => {
    const nobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
    const open = await promisify(execFile)('setpriv', [...nobody, 'test', '-r', REPO]).then(
      () => true,
      () => false,
    );
    skip(!open, `${REPO} cannot be read by other users`);
    const seen = await lifeUnder(...nobody, '--bounding-set', '-all', '--inh-caps', '-all');
    expect(lost(seen)).toEqual(
      [
        'ipc_namespace',
        'memory_cgroup',
        'mount_namespace',
        'network_namespace',
        'own_user',
        'uts_namespace',
      ].toSorted(),
    );
    expect(seen).toMatchObject({ branches: { diff: 0 }, answers: ['here', 'here'] });
    expect(seen.limited).toMatchObject({ code: 'unsupported', message: expect.stringContaining('512 MiB') });
    expect(fieldsOf(seen.status)).toMatchObject({ CapEff: NO_CAPABILITY, NoNewPrivs: '1', Seccomp: '2' });
  });
});
