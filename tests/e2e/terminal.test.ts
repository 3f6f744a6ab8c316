/**
 * A real terminal, end to end: programs that draw a screen, sizes, keys and signals; a viewer that does not read; a branch while a
 * program floods its terminal, and the child's viewer; who may connect, and how.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type PtyNotice, PTY_PROTOCOL, PTY_TICKET_PREFIX } from '@forkd/api';
import { ForkdClient, Ptys, type PtyChunk, type PtyHandle } from '@forkd/sdk';
import { forkOne, REPO, type TestController, until } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { expect, onTestFinished } from 'vitest';
import { WebSocket } from 'ws';

const TOKEN = 'terminal-tests-token';
const SIZE = { cols: 80, rows: 24 };
const WAIT_MS = 60_000;
const FORKD = join(REPO, 'packages/cli/bundle/forkd.js');
const PERSON = fileURLToPath(new URL('programs/terminal-user.py', import.meta.url));

const test = base
  .extend('controllerOptions', { scope: 'file' }, async ({}, { onCleanup }) => {
    const dir = await mkdtemp('/tmp/fkt-');
    onCleanup(() => rm(dir, { recursive: true }));
    await writeFile(join(dir, 'tokens'), `${TOKEN}\n`, { mode: 0o600 });
    return { args: ['--bind', '127.0.0.1:0', '--token-file', join(dir, 'tokens')] };
  })
  .extend('own', { scope: 'file' }, ({ controller }) => new ForkdClient({ socket: controller.socket }))
  .extend('sandbox', { scope: 'file' }, ({ client }) => forkOne(client))
  .extend('ptys', { scope: 'file' }, ({ own, sandbox }) => new Ptys(own, sandbox));

/** Reads a terminal in the background, so that its text can be waited for. */
class Reader {
  text = '';
  readonly chunks: PtyChunk[] = [];
  readonly done: Promise<void>;

  constructor(handle: PtyHandle) {
    this.done = this.#read(handle);
    this.done.catch(() => {});
  }

  /** Waits until the text from an offset on has something in it. */
  async shows(what: RegExp | string, from = 0): Promise<void> {
    const said = () => `the terminal shows ${String(what)}, not ${JSON.stringify(this.text.slice(-400))}`;
    const found = (text: string) => (typeof what === 'string' ? text.includes(what) : what.test(text));
    await until(said, WAIT_MS, async () => found(this.text.slice(from)));
  }

  async #read(handle: PtyHandle): Promise<void> {
    for await (const chunk of handle) {
      this.text += Buffer.from(chunk.data).toString('latin1');
      this.chunks.push({ ...chunk, data: chunk.data.subarray(0, 64) });
    }
  }
}

test('a shell takes keys, sizes and signals, draws full screens again, and ends with its code', async ({ ptys }) => {
  const handle = await ptys.create({ ...SIZE, env: { PS1: 'next> ' }, command: ['sh'] });
  const reader = new Reader(handle);
  await reader.shows(/next> /);
  handle.sendInput('stty size; tty; echo $TERM\r');
  await reader.shows(/24 80\r\n\/dev\/pts\/\d+\r\nxterm-256color\r\n/);
  handle.resize({ cols: 132, rows: 50 });
  await until('the size is told', WAIT_MS, async () => (await ptys.list())[0]?.pty?.cols === 132);
  handle.sendInput('stty size\r');
  await reader.shows(/50 132\r\n/);
  // An editor draws the whole screen, and draws it anew when its size changes.
  handle.sendInput('seq 100 >lines; vi lines\r');
  await reader.shows(/lines 1\/100/);
  const late = await ptys.connect(handle.id);
  const lateReader = new Reader(late);
  await lateReader.shows(/49/);
  expect(lateReader.chunks[0]?.type).toBe('screen');
  expect(lateReader.text).toMatch(/1\S*\r?\n?.*2.*48.*49/s);
  const drawnBefore = reader.text.length;
  late.resize({ cols: 40, rows: 10 });
  await reader.shows(/\[10;1H/, drawnBefore);
  late.disconnect();
  handle.sendInput(':q!\r');
  handle.sendInput("sh -c 'echo g''o; exec sleep 1000'\r");
  await reader.shows(/go\r\n/);
  handle.signal('INT');
  handle.sendInput('exit 7\r');
  await reader.done;
  expect(handle.exit).toEqual({ exitCode: 7, signal: null, timedOut: false });
  expect(await ptys.kill(handle.id)).toBe(true);
  expect(await ptys.kill(handle.id)).toBe(false);
});

test('a viewer that does not read is skipped ahead, while 10 MB of output pass another one', async ({ ptys }) => {
  const bytes = 10_000_000;
  const script = `head -c ${bytes * 0.75} /dev/zero | base64 -w 99; echo; echo all done; read x`;
  const quick = await ptys.create({ ...SIZE, command: script });
  const slow = await ptys.connect(quick.id, { offset: 0 });
  const reader = new Reader(quick);
  const beganMs = performance.now();
  await reader.shows('all done');
  console.log(`10 MB on a terminal: ${Math.round(performance.now() - beganMs)} ms`);
  quick.sendInput('\r');
  await reader.done;
  // The slow one reads now, and has the end of it, not the middle.
  const slowReader = new Reader(slow);
  await slowReader.done;
  const skipped = slowReader.chunks.filter((chunk) => chunk.type === 'screen').map((chunk) => chunk.skippedBytes);
  expect(skipped[0]).toBeGreaterThan(1_000_000);
  expect(slowReader.text).toContain('all done');
  expect(slowReader.text.length).toBeLessThan(bytes / 2);
  expect(slow.exit?.exitCode).toBe(0);
  await ptys.kill(quick.id);
});

test('a branch while a program floods its terminal: who types notices nothing, and the child has the terminal', async ({
  own,
  sandbox,
  ptys,
}) => {
  const flood = await ptys.create({ ...SIZE, command: ['yes', 'flood'] });
  const shell = await ptys.create({ ...SIZE, command: ['sh'], env: { PS1: 'next> ', X: 'kept' } });
  const [flooded, typed] = [new Reader(flood), new Reader(shell)];
  await typed.shows('next> ');
  shell.sendInput('Y=typed-before; echo now-$Y\r');
  await typed.shows('now-typed-before');
  await flooded.shows('flood');
  const branched = new AbortController();
  const tag = `with-terminals-${Date.now()}`;
  const branching = own.branch(sandbox, { tag, mode: 'live' }).finally(() => branched.abort());
  let count = 0;
  while (!branched.signal.aborted) {
    count += 1;
    shell.sendInput(`echo answer-$((${count} * 2))-$Y\r`);
    await typed.shows(`answer-${count * 2}-typed-before`);
  }
  await branching;
  const readBefore = flood.offset ?? 0;
  await until('the flood continues', WAIT_MS, async () => (flood.offset ?? 0) > readBefore + 100_000);
  // Output without a hole but for what a viewer is told to have skipped.
  let at = 0;
  for (const chunk of flooded.chunks) {
    expect(chunk.offset).toBeGreaterThanOrEqual(at);
    if (chunk.type === 'output') at = chunk.offset;
  }
  const child = new Ptys(own, await forkOne(own, tag));
  const inherited = await child.list();
  expect(inherited.map(({ id, running }) => [id, running])).toEqual([flood.id, shell.id].map((id) => [id, true]));
  const childShell = await child.connect(shell.id);
  const childReader = new Reader(childShell);
  // The screen is there at once, and the shell has its variables.
  await childReader.shows('typed-before');
  expect(childReader.chunks[0]?.type).toBe('screen');
  childShell.sendInput('echo child-$Y-$X\r');
  await childReader.shows('child-typed-before-kept');
  const childFlood = await child.connect(flood.id);
  await new Reader(childFlood).shows('flood');
  childFlood.signal('INT');
  await until('the flood of the child ends', WAIT_MS, async () => childFlood.exit !== undefined);
  expect(childFlood.exit).toMatchObject({ exitCode: 130, signal: 'INT' });
  childShell.disconnect();
  // The source knows nothing of it.
  shell.sendInput('echo source-$Y\r');
  await typed.shows('source-typed-before');
  expect(typed.text).not.toContain('child-typed');
  expect(flood.exit).toBeUndefined();
  await Promise.all([flood.kill(), shell.kill()]);
});

/** A shell on a terminal that nobody views, and the path of its WebSocket. */
async function unviewedShell(ptys: Ptys, sandbox: string): Promise<{ id: string; path: string }> {
  const terminal = await ptys.create({ command: ['sh'] });
  terminal.disconnect();
  return { id: terminal.id, path: `/v1/sandboxes/${sandbox}/commands/${terminal.id}/pty` };
}

interface AttachOptions {
  headers?: Record<string, string>;
  protocols?: string[];
  /** `null`: no token. */
  token?: string | null;
}

/** Sends an upgrade as it is. Resolves with the status of the reply, or with the socket and its first notice. */
async function attach(
  { url }: TestController,
  path: string,
  { headers = {}, protocols = [PTY_PROTOCOL], token = TOKEN }: AttachOptions = {},
): Promise<{ status: number; socket?: WebSocket; notice?: PtyNotice }> {
  const authorization = token === null ? {} : { authorization: `Bearer ${token}` };
  const socket = new WebSocket(url.replace('http', 'ws') + path, protocols, {
    headers: { ...authorization, ...headers },
  });
  onTestFinished(() => socket.terminate());
  return new Promise((resolve, reject) => {
    socket.once('unexpected-response', (_request, reply) => resolve({ status: reply.statusCode ?? 0 }));
    socket.once('message', (data: Buffer) =>
      resolve({ status: 101, socket, notice: JSON.parse(data.toString()) as PtyNotice }),
    );
    socket.once('error', reject);
  });
}

test('an upgrade obeys the same rules as a request: host, origin, token; a page gets in once with a ticket', async ({
  controller,
  sandbox,
  ptys,
  own,
}) => {
  const { id, path } = await unviewedShell(ptys, sandbox);
  const status = async (...args: [string, AttachOptions?]) => (await attach(controller, ...args)).status;
  expect(await status(path, { headers: { origin: 'http://elsewhere.example' } })).toBe(403);
  expect(await status(path, { headers: { host: 'elsewhere.example' } })).toBe(403);
  expect(await status(path, { headers: { 'sec-fetch-site': 'cross-site' } })).toBe(403);
  expect(await status(path, { token: null })).toBe(401);
  expect(await status(path, { token: 'another-token-altogether' })).toBe(401);
  expect(await status(path.replace(id, 'c-none'))).toBe(404);
  // Elsewhere a server may ignore what the header asks for.
  expect(await status('/version')).toBe(200);
  expect(await status(path, { headers: { origin: new URL(controller.url).origin } })).toBe(101);
  const wanted = { url: controller.url, token: TOKEN };
  const { ticket, expires_unix: expires } = await new ForkdClient(wanted).createPtyTicket(sandbox, id);
  expect(expires * 1000).toBeLessThanOrEqual(Date.now() + 30_000);
  const asPage = { token: null, protocols: [PTY_PROTOCOL, PTY_TICKET_PREFIX + ticket] };
  const page = await attach(controller, path, asPage);
  expect([page.status, page.socket?.protocol]).toEqual([101, PTY_PROTOCOL]);
  expect(await status(path, asPage)).toBe(401);
  const other = await own.createPtyTicket(sandbox, id);
  const elsewhere = { token: null, protocols: [PTY_PROTOCOL, PTY_TICKET_PREFIX + other.ticket] };
  expect(await status(`/v1/sandboxes/${sandbox}/commands/${id}x/pty`, elsewhere)).toBe(401);
  // A request that asks for no WebSocket gets an answer in words.
  const plain = await controller.fetch(path);
  expect([plain.status, await plain.text()]).toEqual([400, expect.stringContaining('does not ask for a WebSocket')]);
  await ptys.kill(id);
});

test('a message that is none of the protocol ends the connection with the reason, and so many may connect', async ({
  controller,
  sandbox,
  ptys,
  own,
}) => {
  const { id, path } = await unviewedShell(ptys, sandbox);
  await until('earlier viewers have left', WAIT_MS, async () => (await viewers(controller)) === 0);
  for (const message of ['{', '{"type":"resize","cols":0,"rows":1}', '{"type":"other"}', 'x'.repeat(100_000)]) {
    const { socket } = await attach(controller, path);
    const closed = new Promise<number>((resolve) => socket?.once('close', resolve));
    socket?.send(message);
    expect([1008, 1009]).toContain(await closed);
  }
  expect(await upgradeWithoutKey(controller.url + path)).toBe(400);
  const late = attach(controller, `${path}?offset=0&window_bytes=16384`);
  expect((await late).notice).toMatchObject({ type: 'attached', id, cols: 80, rows: 24 });
  await until('the others have left', WAIT_MS, async () => (await viewers(controller)) === 1);
  const many = await Promise.all(Array.from({ length: 32 }, () => attach(controller, path)));
  expect(many.filter(({ status }) => status === 400)).toHaveLength(1);
  for (const { socket } of many) socket?.terminate();
  await until('all have left', WAIT_MS, async () => (await viewers(controller)) === 1);
  await expect(own.resizePty(sandbox, 'c-none', SIZE)).rejects.toMatchObject({ code: 'not_found_command' });
  const plain = await own.startCommand(sandbox, { args: ['true'] });
  await expect(ptys.connect(plain.id)).rejects.toMatchObject({ code: 'not_a_terminal' });
  await expect(own.resizePty(sandbox, plain.id, SIZE)).rejects.toMatchObject({ code: 'not_a_terminal' });
  await ptys.kill(id);
});

/** Asks for a WebSocket with half of what that takes. Resolves with the status of the reply. */
function upgradeWithoutKey(url: string): Promise<number | undefined> {
  const headers = { connection: 'Upgrade', upgrade: 'websocket', authorization: `Bearer ${TOKEN}` };
  return new Promise((resolve, reject) => {
    const asked = request(url, { headers }, (reply) => resolve(reply.resume().statusCode));
    asked.on('error', reject).end();
  });
}

async function viewers(controller: TestController): Promise<number> {
  const text = await (await controller.fetch('/metrics')).text();
  return Number(/^forkd_terminal_viewers (\d+)/m.exec(text)?.[1]);
}

/** A person with a terminal of their own, on which `forkd` runs. */
class Person {
  text = '';
  pid = 0;
  readonly ended: Promise<{ code: number; restored: boolean }>;
  readonly #program: ChildProcessWithoutNullStreams;

  constructor(args: readonly string[], env: NodeJS.ProcessEnv) {
    const command = [PERSON, process.execPath, FORKD, ...args];
    const program = spawn('python3', command, { env: { ...process.env, FORKD_TOKEN: '', ...env } });
    this.#program = program;
    onTestFinished(() => void program.kill());
    program.stdout.on('data', (bytes: Buffer) => (this.text += bytes.toString('latin1')));
    this.ended = (async () => {
      let last: object = {};
      for await (const line of createInterface(program.stderr)) {
        last = JSON.parse(line) as object;
        if ('pid' in last) this.pid = Number(last.pid);
      }
      return last as { code: number; restored: boolean };
    })();
  }

  type(keys: string): void {
    this.#program.stdin.write(`${JSON.stringify({ keys })}\n`);
  }

  resize(rows: number, cols: number): void {
    this.#program.stdin.write(`${JSON.stringify({ size: [rows, cols] })}\n`);
  }

  async sees(what: RegExp): Promise<void> {
    const said = () => `the person sees ${String(what)}, not ${JSON.stringify(this.text.slice(-400))}`;
    await until(said, WAIT_MS, async () => what.test(this.text));
  }
}

test('forkd shell, exec -it, attach and run -it on a real terminal, over the unix socket and over TCP', async ({
  controller,
  sandbox,
  ptys,
  own,
}) => {
  const overSocket = { FORKD_URL: `unix:${controller.socket}` };
  const overTcp = { FORKD_URL: controller.url, FORKD_TOKEN: TOKEN };
  const shell = new Person(['shell', sandbox, '-e', 'PS1=next> '], overSocket);
  await shell.sees(/next> /);
  shell.type('stty size\r');
  await shell.sees(/24 80\r\n/);
  shell.resize(40, 100);
  await until('the size is told', WAIT_MS, async () => (await ptys.list()).some(({ pty }) => pty?.cols === 100));
  shell.type('stty size; exit 5\r');
  await shell.sees(/40 100\r\n/);
  expect(await shell.ended).toEqual({ code: 5, restored: true });

  const first = new Person(['exec', '-it', sandbox, '--', 'cat'], overTcp);
  await until('cat runs', WAIT_MS, async () => (await ptys.list()).some(({ running }) => running));
  first.type('typed\r');
  await first.sees(/typed\r\ntyped\r\n/);
  first.type('\x10\x11');
  expect(await first.ended).toEqual({ code: 0, restored: true });
  await first.sees(/keeps running/);
  const [{ id } = expect.fail('cat has gone')] = await ptys.list();
  const again = new Person(['attach', sandbox, id.slice(0, 6)], overTcp);
  await again.sees(/typed\r\ntyped/);
  again.type('\x10more\r');
  await again.sees(/more\r\n/);
  again.type('\x04');
  expect(await again.ended).toEqual({ code: 0, restored: true });
  await ptys.kill(id);

  // Ended from outside, it leaves the terminal as it was.
  const ended = new Person(['exec', '-it', sandbox, 'sh', '-c', 'echo r""eady; sleep 1000'], overSocket);
  await ended.sees(/ready/);
  process.kill(ended.pid, 'SIGTERM');
  expect(await ended.ended).toEqual({ code: 143, restored: true });
  await Promise.all((await ptys.list()).map((info) => ptys.kill(info.id)));

  // A sandbox for one program ends with it.
  const before = (await own.listSandboxes()).length;
  const short = new Person(['run', '-it', 'base', 'sh', '-c', 'stty size; exit 3'], overTcp);
  await short.sees(/24 80\r\n/);
  expect(await short.ended).toEqual({ code: 3, restored: true });
  expect(await own.listSandboxes()).toHaveLength(before);

  const piped = spawn(process.execPath, [FORKD, 'exec', '-it', sandbox, 'sh'], {
    env: { ...process.env, ...overSocket },
  });
  piped.stdin.end('exit\n');
  let refusal = '';
  piped.stderr.on('data', (bytes: Buffer) => (refusal += bytes.toString()));
  expect((await once(piped, 'close'))[0]).toBe(1);
  expect(refusal).toContain('The input is not a terminal.');
});
