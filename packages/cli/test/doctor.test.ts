// Proves of `forkd doctor` what is so on every host: its page lists the rows that it prints; the table for people says the same
// as the JSON; nothing on the host is changed; and what a controller that runs tells goes before what is tried here. The
// controller is a real HTTP server.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ForkdClient } from '@forkd/sdk';
import { afterEach, describe, expect, test } from 'vitest';
import { checks } from '../src/commands/doctor/checks.ts';
import type { Row } from '../src/commands/doctor/row.ts';
import { pathWith, rowWith } from './support/doctor.ts';
import { fake, forkd, here, serveForkd } from './support/forkd.ts';

serveForkd();

const page = fileURLToPath(new URL('../../../docs/operate/doctor.md', import.meta.url));
/** A name that the command resolves to this host, as if it were another machine. */
const OTHER_NAME = 'sandboxes.test';
const RESOLVE_OTHER_NAME = `import dns from 'node:dns';
const { lookup } = dns;
dns.lookup = (name, ...rest) => lookup(name === '${OTHER_NAME}' ? '127.0.0.1' : name, ...rest);`;
const url = () => ({ FORKD_URL: `unix:${fake.socket}` });

describe('the rows', () => {
  test('are those of the page, in its order', async () => {
    const documented = [...(await readFile(page, 'utf8')).matchAll(/^\| `(\w+)`/gm)].map((match) => match[1]);
    expect(documented).toEqual(checks.map(({ id }) => id));
  });

  test('are printed for people with what is lost and the command below those that are not well', async () => {
    const env = { FORKD_URL: '', FORKD_SOCKET: '', PATH: await pathWith({}, 'qemu-system-x86_64') };
    const dataDir = join(here, 'untouched');
    const [table, json] = await Promise.all([
      forkd(['doctor', '--data-dir', dataDir], { env }),
      forkd(['doctor', '--json', '--data-dir', dataDir], { env }),
    ]);
    expect(table.code).toBe(1);
    const text = table.stdout.toString();
    const { rows } = JSON.parse(json.stdout.toString()) as { rows: Row[] };
    for (const { id, status, where, hint, fix } of rows) {
      expect(where).toBe('local');
      expect(text).toMatch(new RegExp(`^[✓!✗-] +${id} +${status} +local +\\S`, 'm'));
      if (hint !== null) expect(text).toContain(`     ${hint}\n`);
      if (fix !== undefined) expect(text).toContain(`     $ ${fix}\n`);
    }
    const count = (status: string) => rows.filter((row) => row.status === status).length;
    expect(text).toMatch(new RegExp(`${count('pass')} pass, ${count('warn')} warn, ${count('fail')} fail, `));
    expect(await readdir(here)).not.toContain('untouched');
  });
});

describe('a controller that runs', () => {
  afterEach(() => (fake.token = undefined));

  test('is told of, and what it has found goes before what is tried here', async () => {
    expect(await rowWith('daemon', { env: url() })).toMatchObject({
      status: 'pass',
      detail: expect.stringContaining(`version 9.9.9, pid ${process.pid}, at `),
    });
    const told = { status: 'warn', detail: 'tcg: no guest ran on kvm' };
    expect(await rowWith('accelerator', { env: url() })).toMatchObject({ ...told, where: 'controller' });
    expect(await rowWith('uffd_wp', { env: url() })).toMatchObject({ detail: 'the controller can branch live' });
    expect(await rowWith('snapshot_dir', { env: url() })).toMatchObject({ status: 'pass', detail: fake.root });
    expect(await rowWith('isolation', { env: url() })).toMatchObject({
      status: 'warn',
      detail: 'VMMs are confined by less: no own_user',
      hint: 'own_user: It needs root, with CAP_SETUID.',
    });
  });

  test('is named as who found a row, and its files are not looked for on another machine', async () => {
    const { rows } = JSON.parse((await forkd(['doctor', '--json'], { env: url() })).stdout.toString()) as {
      rows: Row[];
    };
    const found = rows.filter(({ where }) => where === 'controller').map(({ id }) => id);
    const asked = ['uffd_wp', 'layer_memory', 'accelerator', 'isolation', 'daemon', 'capabilities', 'random_numbers'];
    expect(found).toEqual(asked);
    // The name of this host stands for another machine: it is no loopback name.
    const { port } = new URL(fake.url);
    const elsewhere = { FORKD_URL: `http://${OTHER_NAME}:${port}` };
    const lookup = `data:text/javascript,${encodeURIComponent(RESOLVE_OTHER_NAME)}`;
    const { stdout, stderr } = await forkd(['doctor', '--json'], {
      env: { ...elsewhere, NODE_OPTIONS: `--import=${lookup}` },
    });
    expect(stderr).toBe('');
    const there = JSON.parse(stdout.toString()) as { rows: Row[] };
    for (const { id, status, where, detail } of there.rows) {
      if (asked.includes(id)) expect(where).toBe('controller');
      if (!['kernel_image', 'snapshot_dir', 'free_space'].includes(id)) continue;
      expect({ status, detail }).toEqual({ status: 'skip', detail: "it is on the controller's machine" });
    }
  });

  test('has KVM, confines its VMMs, and has no userfaultfd', async () => {
    const host = await new ForkdClient({ url: url().FORKD_URL }).host();
    const isolation = ['own_user', 'seccomp'].map((id) => ({ id, ok: true, detail: 'It is so.' }));
    const capabilities = ['live', 'pool'].map((id) => ({ id, ok: true, why: null }));
    const kvm = { accelerator: 'kvm', reason: 'KVM ran a kernel.' };
    const engine = { ...kvm, isolation, capabilities, live_unavailable: 'no userfaultfd' };
    fake.overrides.set('GET /v1/host', (_, response) => {
      response.end(JSON.stringify({ ...host, engine: { ...host.engine, ...engine } }));
    });
    const isolated = { status: 'pass', detail: 'VMMs are confined: own_user, seccomp' };
    expect(await rowWith('isolation', { env: url() })).toMatchObject(isolated);
    expect(await rowWith('capabilities', { env: url() })).toMatchObject({ status: 'pass', detail: 'live, pool' });
    expect(await rowWith('accelerator', { env: url() })).toMatchObject({ status: 'pass' });
    expect(await rowWith('uffd_wp', { env: url() })).toMatchObject({ status: 'warn', detail: 'no userfaultfd' });
  });

  test('says what conducts the pauses of its live branches, and why it is the monitor', async () => {
    const host = await new ForkdClient({ url: url().FORKD_URL }).host();
    const serve = (window: string, why: string | null) =>
      fake.overrides.set('GET /v1/host', (_, response) => {
        const capabilities = [
          { id: 'live', ok: true, why: null },
          { id: 'window_inside', ok: why === null, why },
        ];
        response.end(JSON.stringify({ ...host, engine: { ...host.engine, window, capabilities } }));
      });
    serve('inside', null);
    expect(await rowWith('window', { env: url() })).toMatchObject({ status: 'pass' });
    serve('monitor', 'QEMU 99.1 is not known.');
    expect(await rowWith('window', { env: url() })).toMatchObject({
      status: 'warn',
      detail: 'monitor: QEMU 99.1 is not known.',
    });
    // The window has a row of its own, so the row of the capabilities does not warn of it, too.
    expect(await rowWith('capabilities', { env: url() })).toMatchObject({ status: 'pass', detail: 'live' });
  });

  test('has layers in memory: what is not on disk and beyond the budget is a warning', async () => {
    const host = await new ForkdClient({ url: url().FORKD_URL }).host();
    const serve = (pendingBytes: number) =>
      fake.overrides.set('GET /v1/host', (_, response) => {
        response.end(JSON.stringify({ ...host, layers: { ...host.layers, pending_bytes: pendingBytes } }));
      });
    serve(0);
    expect(await rowWith('layer_memory', { env: url() })).toMatchObject({
      status: 'pass',
      detail: '100 MiB mapped, 20.0 MiB of 512 MiB unmapped, 2 let go, 1 read again',
    });
    serve(513 * 1024 ** 2);
    expect(await rowWith('layer_memory', { env: url() })).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('513 MiB not on disk'),
    });
  });

  test('has snapshots whose children draw the same random numbers for a while: that is a warning with the reason', async () => {
    const [snapshot] = await new ForkdClient({ url: url().FORKD_URL }).listSnapshots();
    const serve = (...snapshots: object[]) =>
      fake.overrides.set('GET /v1/snapshots', (_, response) => {
        response.end(JSON.stringify(snapshots));
      });
    const own = { ...snapshot, random_numbers: 'from_start' };
    const late = { ...snapshot, tag: 'old', random_numbers: 'after_identity', warning: 'no /proc/kcore' };
    serve(own);
    expect(await rowWith('random_numbers', { env: url() })).toMatchObject({ status: 'pass' });
    serve(own, late);
    const found = {
      status: 'warn',
      detail: 'late in children of old',
      hint: expect.stringContaining('no /proc/kcore'),
    };
    expect(await rowWith('random_numbers', { env: url() })).toMatchObject(found);
    serve();
    expect(await rowWith('random_numbers', { env: url() })).toMatchObject({ status: 'skip' });
  });

  test('runs Firecracker: what that cannot do says nothing of the kernel', async () => {
    const host = await new ForkdClient({ url: url().FORKD_URL }).host();
    const engine = { ...host.engine, name: 'firecracker', version: '1.13.1', live_unavailable: 'It has none.' };
    fake.overrides.set('GET /v1/host', (_, response) => {
      response.end(JSON.stringify({ ...host, engine }));
    });
    expect((await rowWith('uffd_wp', { env: url() })).detail).not.toContain('It has none.');
    expect(await rowWith('daemon', { env: url() })).toMatchObject({
      status: 'pass',
      detail: expect.stringContaining('firecracker 1.13.1'),
    });
  });

  test('refuses, or fails: that is a fault, and is told with its reason', async () => {
    fake.token = 'secret';
    const refused = { status: 'fail', detail: expect.stringContaining('token is missing') };
    expect(await rowWith('daemon', { env: url() })).toMatchObject(refused);
    for (const id of ['isolation', 'capabilities']) {
      expect(await rowWith(id, { env: url() })).toMatchObject({ status: 'skip' });
    }
  });

  test('is not there: that is no fault', async () => {
    const env = { FORKD_URL: '', FORKD_SOCKET: join(here, 'nobody.sock') };
    expect(await rowWith('daemon', { env })).toMatchObject({ status: 'skip', detail: 'does not run' });
    expect(await rowWith('isolation', { env })).toMatchObject({
      status: 'skip',
      detail: 'a controller that runs says how it confines VMMs',
    });
  });
});
