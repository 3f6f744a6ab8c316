// Calls the methods of the npm package `e2b` as its users do, and prints one line of JSON for each: `works`, or the error that it
// showed. E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY name the controller; the argument is a template.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { text as textOf } from 'node:stream/consumers';
import { Sandbox } from 'e2b';
import { callAll } from './calls.mjs';

const [, , template] = process.argv;
/** @type {Sandbox} */
let sandbox;
/** Methods in the order in which they are tried: each uses what earlier ones have made. */
const methods = {
  async 'Sandbox.create'() {
    sandbox = await Sandbox.create(template, { timeoutMs: 120_000, metadata: { of: 'js' }, envs: { MINE: 'mine' } });
    assert.match(sandbox.sandboxId, /^sb-/);
  },
  async 'sandbox.isRunning'() {
    assert.equal(await sandbox.isRunning(), true);
  },
  async 'sandbox.getInfo'() {
    const info = await sandbox.getInfo();
    assert.deepEqual([info.templateId, info.metadata, info.state], [template, { of: 'js' }, 'running']);
    assert.ok(info.endAt > info.startedAt);
  },
  async 'sandbox.setTimeout'() {
    await sandbox.setTimeout(600_000);
    const { endAt } = await sandbox.getInfo();
    assert.ok(endAt.getTime() > Date.now() + 500_000);
  },
  async 'sandbox.getMetrics'() {
    const [metrics] = await sandbox.getMetrics();
    assert.ok(metrics.memTotal > 0 && metrics.memUsed > 0);
  },
  async 'Sandbox.list'() {
    const found = async (query) => (await Sandbox.list({ query }).nextItems()).map(({ sandboxId }) => sandboxId);
    assert.deepEqual(await found({ metadata: { of: 'js' }, state: ['running'] }), [sandbox.sandboxId]);
    assert.deepEqual(await found({ metadata: { of: 'j s&=%' } }), []);
    const pages = Sandbox.list({ limit: 1 });
    assert.equal((await pages.nextItems()).length, 1);
  },
  async 'Sandbox.connect'() {
    const same = await Sandbox.connect(sandbox.sandboxId);
    assert.equal((await same.commands.run('echo here')).stdout, 'here\n');
  },

  async 'commands.run'() {
    const script = 'echo out; echo err >&2; echo "$MINE $YOURS"; pwd; id -un';
    const { stdout, stderr, exitCode } = await sandbox.commands.run(script, { envs: { YOURS: 'yours' } });
    assert.deepEqual([stdout, stderr, exitCode], ['out\nmine yours\n/home/user\nuser\n', 'err\n', 0]);
    const root = await sandbox.commands.run('id -un; pwd', { user: 'root', cwd: '/tmp' });
    assert.equal(root.stdout, 'root\n/tmp\n');
    await assert.rejects(sandbox.commands.run('exit 3'), { name: 'CommandExitError', exitCode: 3 });
    await assert.rejects(sandbox.commands.run('true', { cwd: '/none' }), { name: 'InvalidArgumentError' });
    await assert.rejects(sandbox.commands.run('true', { user: 'nobody-such' }), { name: 'AuthenticationError' });
    await assert.rejects(sandbox.commands.run('sleep 60', { timeoutMs: 1000 }), { name: 'TimeoutError' });
  },
  async 'commands.run, streaming'() {
    const seen = [];
    const handle = await sandbox.commands.run('echo one; read line; echo "two $line"; echo three >&2', {
      background: true,
      stdin: true,
      onStdout: (text) => seen.push(text),
      onStderr: (text) => seen.push(`err ${text}`),
    });
    await handle.sendStdin('typed\n');
    const { stdout, exitCode } = await handle.wait();
    assert.deepEqual([stdout, exitCode], ['one\ntwo typed\n', 0]);
    assert.equal(seen.filter((text) => !text.startsWith('err')).join(''), stdout);
    assert.ok(seen.includes('err three\n'));
  },
  async 'commands.sendStdin, closeStdin'() {
    const handle = await sandbox.commands.run('cat; echo end', { background: true, stdin: true });
    await sandbox.commands.sendStdin(handle.pid, 'a\n');
    await sandbox.commands.closeStdin(handle.pid);
    assert.equal((await handle.wait()).stdout, 'a\nend\n');
    await assert.rejects(sandbox.commands.sendStdin(handle.pid + 100_000, 'x'), { name: 'NotFoundError' });
  },
  async 'commands.list, connect, kill'() {
    const script = 'echo ready; read line; echo "got $line"; sleep 600';
    const handle = await sandbox.commands.run(script, { background: true, stdin: true, envs: { A: 'b' } });
    const listed = (await sandbox.commands.list()).find(({ pid }) => pid === handle.pid);
    assert.deepEqual([listed.cmd, listed.args.at(-1), listed.envs], ['/bin/bash', script, { A: 'b' }]);
    await handle.disconnect();
    let hear;
    const printed = new Promise((resolve) => (hear = resolve));
    const same = await Sandbox.connect(sandbox.sandboxId);
    const again = await same.commands.connect(handle.pid, { onStdout: (text) => text.includes('got later') && hear() });
    await sandbox.commands.sendStdin(handle.pid, 'later\n');
    await printed;
    assert.equal(await sandbox.commands.kill(handle.pid), true);
    await assert.rejects(again.wait(), { name: 'CommandExitError', exitCode: -1 });
    assert.equal(await sandbox.commands.kill(handle.pid), false);
  },

  async 'files.write, read'() {
    const info = await sandbox.files.write('notes/a b.txt', 'grüße');
    assert.deepEqual([info.path, info.name, info.type], ['/home/user/notes/a b.txt', 'a b.txt', 'file']);
    assert.equal(await sandbox.files.read('~/notes/a b.txt'), 'grüße');
    const bytes = await sandbox.files.read('/home/user/notes/a b.txt', { format: 'bytes' });
    assert.deepEqual(Buffer.from(bytes), Buffer.from('grüße'));
    const stream = await sandbox.files.read('notes/a b.txt', { format: 'stream' });
    assert.equal(await new Response(stream).text(), 'grüße');
    assert.equal(await (await sandbox.files.read('notes/a b.txt', { format: 'blob' })).text(), 'grüße');
    const mine = await sandbox.commands.run('echo more >> "notes/a b.txt" && touch notes/next');
    assert.equal(mine.exitCode, 0);
    await assert.rejects(sandbox.files.read('none'), { name: 'FileNotFoundError' });
    await assert.rejects(sandbox.files.read('/tmp'), { name: 'InvalidArgumentError' });
    const large = 'x'.repeat(5_000_000);
    await sandbox.files.write('large', new Blob([large]));
    assert.equal((await sandbox.files.read('large')).length, large.length);
    await sandbox.files.write('empty', '');
    assert.equal(await sandbox.files.read('empty'), '');
  },
  async 'files.write, as octet-stream and compressed'() {
    await sandbox.files.write('octets', 'plain', { useOctetStream: true });
    await sandbox.files.write('pressed', 'compressed', { useOctetStream: true, gzip: true });
    assert.deepEqual(
      [await sandbox.files.read('octets'), await sandbox.files.read('pressed')],
      ['plain', 'compressed'],
    );
  },
  async 'files.writeFiles'() {
    const infos = await sandbox.files.writeFiles([
      { path: 'many/one', data: '1' },
      { path: '/tmp/many/two', data: new TextEncoder().encode('2').buffer },
    ]);
    assert.deepEqual(
      infos.map(({ path }) => path),
      ['/home/user/many/one', '/tmp/many/two'],
    );
    assert.deepEqual([await sandbox.files.read('many/one'), await sandbox.files.read('/tmp/many/two')], ['1', '2']);
  },
  async 'files.list'() {
    await sandbox.commands.run('mkdir -p tree/inner && echo x > tree/inner/leaf && ln -s inner/leaf tree/link');
    const names = (entries) => entries.map(({ path }) => path.replace('/home/user/tree/', ''));
    assert.deepEqual(names(await sandbox.files.list('tree')), ['inner', 'link']);
    const deep = await sandbox.files.list('tree', { depth: 2 });
    assert.deepEqual(names(deep), ['inner', 'inner/leaf', 'link']);
    assert.deepEqual(
      [deep[0].type, deep[1].type, deep[1].size, deep[2].symlinkTarget],
      ['dir', 'file', 2, 'inner/leaf'],
    );
    await assert.rejects(sandbox.files.list('none'), { name: 'FileNotFoundError' });
  },
  async 'files.exists, getInfo'() {
    assert.deepEqual([await sandbox.files.exists('tree'), await sandbox.files.exists('none')], [true, false]);
    const { size, mode, permissions, owner, group, modifiedTime } = await sandbox.files.getInfo('tree/inner/leaf');
    assert.deepEqual([size, mode, permissions, owner, group], [2, 0o644, '-rw-r--r--', 'user', 'user']);
    assert.ok(Math.abs(modifiedTime.getTime() - Date.now()) < 600_000);
  },
  async 'files.makeDir'() {
    assert.equal(await sandbox.files.makeDir('made/deep'), true);
    assert.equal(await sandbox.files.makeDir('made/deep'), false);
    assert.equal((await sandbox.files.getInfo('made')).owner, 'user');
    await assert.rejects(sandbox.files.makeDir('empty'), { name: 'InvalidArgumentError' });
  },
  async 'files.rename, remove'() {
    assert.equal((await sandbox.files.rename('made', 'moved/here')).path, '/home/user/moved/here');
    await sandbox.files.remove('moved');
    await sandbox.files.remove('moved');
    assert.equal(await sandbox.files.exists('moved'), false);
    await assert.rejects(sandbox.files.rename('none', 'x'), { name: 'FileNotFoundError' });
  },
  async 'files.watchDir'() {
    await sandbox.files.makeDir('watched/sub');
    const events = [];
    let seen = () => {};
    const all = new Promise((resolve) => (seen = resolve));
    const watch = await sandbox.files.watchDir(
      'watched',
      ({ name, type }) => {
        events.push(`${type} ${name}`);
        if (name === 'sub/last') seen();
      },
      { recursive: true },
    );
    await sandbox.commands.run(
      'echo x > watched/new; mv watched/new watched/old; rm watched/old; echo > watched/sub/last',
    );
    await all;
    await watch.stop();
    for (const event of ['create new', 'rename new', 'create old', 'remove old', 'create sub/last']) {
      assert.ok(events.includes(event), `${event} is not among ${events.join(', ')}`);
    }
    await assert.rejects(
      sandbox.files.watchDir('none', () => {}),
      { name: 'FileNotFoundError' },
    );
  },
  async 'sandbox.uploadUrl, downloadUrl'() {
    const form = new FormData();
    form.append('file', new Blob(['signed']), 'signed');
    const upload = await fetch(await sandbox.uploadUrl('signed', { useSignatureExpiration: 60 }), {
      method: 'POST',
      body: form,
    });
    assert.equal(upload.status, 200);
    const url = await sandbox.downloadUrl('signed');
    assert.equal(await (await fetch(url)).text(), 'signed');
    assert.equal((await fetch(url.replace('path=signed', 'path=octets'))).status, 401);
    const late = await sandbox.downloadUrl('signed', { useSignatureExpiration: -60 });
    assert.equal((await fetch(late)).status, 401);
  },

  async 'sandbox.fork'() {
    const handle = await sandbox.commands.run('read line; echo "got $line"', { background: true, stdin: true });
    const children = await sandbox.fork({ count: 2, timeoutMs: 60_000 });
    for (const [index, child] of [sandbox, ...children].entries()) {
      await child.commands.sendStdin(handle.pid, `${index}\n`);
      assert.equal(await child.files.read('octets'), 'plain');
    }
    assert.equal((await handle.wait()).stdout, 'got 0\n');
    assert.equal((await children[0].commands.run('echo $MINE')).stdout, 'mine\n');
    for (const child of children) assert.equal(await child.kill(), true);
  },
  async 'sandbox.createSnapshot, listSnapshots, deleteSnapshot'() {
    await sandbox.files.write('state', 'kept');
    const { snapshotId } = await sandbox.createSnapshot();
    const listed = await sandbox.listSnapshots().nextItems();
    assert.deepEqual(
      listed.map((one) => one.snapshotId),
      [snapshotId],
    );
    const child = await Sandbox.create(snapshotId);
    assert.equal(await child.files.read('state'), 'kept');
    await child.kill();
    assert.equal(await Sandbox.deleteSnapshot(snapshotId), true);
    assert.equal(await Sandbox.deleteSnapshot(snapshotId), false);
  },
  async 'sandbox.pause, connect'() {
    assert.equal(await sandbox.pause(), true);
    assert.equal(await sandbox.pause(), false);
    assert.equal((await sandbox.getInfo()).state, 'paused');
    assert.equal(await sandbox.isRunning(), false);
    await sandbox.connect({ timeoutMs: 300_000 });
    assert.equal(await sandbox.files.read('state'), 'kept');
  },
  async 'sandbox.git'() {
    await sandbox.git.init('/home/user/repo');
    const { stdout } = await sandbox.commands.run('git -C repo rev-parse --is-inside-work-tree');
    assert.equal(stdout, 'true\n');
  },
  async 'sandbox.pty'() {
    let text = '';
    const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => (text += Buffer.from(data)) });
    await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 30 });
    await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('stty size; exit\n'));
    await terminal.wait();
    assert.match(text, /30 100/);
  },
  async 'sandbox.getHost'() {
    await sandbox.commands.run('python3 -m http.server 8000 --directory /etc', { background: true });
    const host = sandbox.getHost(8000);
    const { hostname, port } = new URL(`http://${host}/`);
    assert.match(hostname, /^8000-sb-[0-9a-f]+\.localhost$/);
    const headers = { host, 'x-forkd-token': process.env.E2B_API_KEY };
    const ask = () =>
      new Promise((resolve, reject) => {
        const asked = request({ host: '127.0.0.1', port, path: '/hostname', headers }, async (reply) =>
          resolve({ status: reply.statusCode, text: await textOf(reply) }),
        );
        asked.on('error', reject).end();
      });
    // The program in the guest needs a moment until it listens.
    let reply = await ask();
    for (let tries = 0; reply.status !== 200 && tries < 100; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      reply = await ask();
    }
    const { stdout } = await sandbox.commands.run('cat /etc/hostname');
    assert.equal(reply.text, stdout);
  },
  async 'sandbox.kill'() {
    assert.equal(await sandbox.kill(), true);
    assert.equal(await sandbox.kill(), false);
    await assert.rejects(sandbox.commands.run('true'), { name: 'SandboxNotFoundError' });
    await assert.rejects(sandbox.getInfo(), { name: 'SandboxNotFoundError' });
    await assert.rejects(Sandbox.create('no-such-template'), /There is no template 'no-such-template'/);
  },
};

await callAll(methods);
