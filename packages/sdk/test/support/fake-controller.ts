// A controller that is a real HTTP server and whose guests are processes of this host: the wire is the wire, the output
// of a command is what a real process writes, and only the virtual machine is missing.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, writeFile, mkdir } from 'node:fs/promises';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { ApiError, type CommandEvent, type SandboxInfo, type SnapshotInfo } from '../../../api/src/index.ts';

type Session = {
  child: ChildProcess;
  args: string[];
  events: CommandEvent[];
  offset: number;
  exit: Extract<CommandEvent, { type: 'exit' }> | undefined;
  watchers: Set<() => void>;
};

export type Seen = { method: string; url: string; headers: http.IncomingHttpHeaders; body: string };

type Handler = (request: http.IncomingMessage, response: http.ServerResponse, url: URL) => void | Promise<void>;

export class FakeController {
  readonly sandboxes = new Map<string, SandboxInfo>();
  readonly snapshots = new Map<string, SnapshotInfo>();
  readonly sessions = new Map<string, Session>();
  /** Every request with a body of JSON, for what a client has really sent. */
  readonly seen: Seen[] = [];
  /** Routes of one test, before all others: `GET /path`. */
  readonly overrides = new Map<string, Handler>();
  root = '';
  socket = '';
  url = '';
  token: string | undefined;
  #servers: http.Server[] = [];
  #sessionCount = 0;

  static async start(): Promise<FakeController> {
    const fake = new FakeController();
    fake.root = await mkdtemp(path.join(os.tmpdir(), 'forkd-fake-'));
    fake.socket = path.join(fake.root, 'controller.sock');
    await mkdir(path.join(fake.root, 'guest'));
    const onSocket = http.createServer((request, response) => void fake.#answer(request, response));
    const onTcp = http.createServer((request, response) => void fake.#answer(request, response));
    fake.#servers = [onSocket, onTcp];
    await new Promise<void>((resolve) => onSocket.listen(fake.socket, resolve));
    await new Promise<void>((resolve) => onTcp.listen(0, '127.0.0.1', resolve));
    fake.url = `http://127.0.0.1:${(onTcp.address() as AddressInfo).port}`;
    return fake;
  }

  async stop(): Promise<void> {
    for (const session of this.sessions.values()) killGroup(session.child, 'SIGKILL');
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
    await rm(this.root, { recursive: true, force: true });
  }

  addSnapshot(tag: string, more: Partial<SnapshotInfo> = {}): void {
    this.snapshots.set(tag, { tag, dir: `/d/${tag}`, created_at_unix: 1, status: 'ready', bootable: true, ...more });
  }

  addSandbox(id: string, snapshotTag = 'py'): SandboxInfo {
    const info = {
      id,
      snapshot_tag: snapshotTag,
      netns: null,
      guest_addr: '',
      created_at_unix: Math.floor(Date.now() / 1000),
      pid: 42,
      memory_limit_mib: null,
      has_branched: false,
      last_branch_memory_path: null,
      branch_count: 0,
    };
    this.sandboxes.set(id, info);
    return info;
  }

  guestPath(inGuest: string): string {
    return path.join(this.root, 'guest', inGuest);
  }

  async #answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://fake');
    response.setHeader('x-request-id', 'req-1');
    try {
      if (this.token !== undefined && request.headers.authorization !== `Bearer ${this.token}`) {
        throw new ApiError('unauthorized', 'the token is missing or wrong');
      }
      const override = this.overrides.get(`${request.method} ${url.pathname}`);
      await (override ? override(request, response, url) : this.#route(request, response, url));
    } catch (error) {
      const known = error instanceof ApiError ? error : new ApiError('internal', String(error));
      if (!response.headersSent) send(response, known.status, known.toBody());
      else response.destroy();
    }
  }

  async #route(request: http.IncomingMessage, response: http.ServerResponse, url: URL): Promise<void> {
    const parts = url.pathname
      .split('/')
      .filter((part) => part !== '')
      .map(decodeURIComponent);
    const route = `${request.method} ${parts.slice(0, 2).join('/')}`;
    if (url.pathname === '/healthz') return send(response, 200, { ok: true });
    if (url.pathname === '/version') return send(response, 200, { version: '9.9.9', api: 'v1' });
    if (route === 'GET v1/host') return send(response, 200, hostInfo(this.root));
    if (parts[1] === 'snapshots') return this.#snapshotRoute(request, response, url, parts[2]);
    if (parts[1] === 'sandboxes') return this.#sandboxRoute(request, response, url, parts.slice(2));
    throw new ApiError('not_found', `there is no ${request.method} ${url.pathname}`);
  }

  async #snapshotRoute(
    request: http.IncomingMessage,
    response: http.ServerResponse,
    url: URL,
    tag: string | undefined,
  ): Promise<void> {
    if (tag === undefined && request.method === 'GET') return send(response, 200, [...this.snapshots.values()]);
    if (tag === undefined) {
      const body = (await this.#json(request)) as { tag: string; source?: string };
      this.addSnapshot(body.tag, body.source === undefined ? {} : { source: body.source });
      const snapshot = this.snapshots.get(body.tag);
      response.writeHead(201, { 'content-type': 'application/x-ndjson' });
      line(response, { type: 'progress', stage: 'boot', message: 'booting', elapsed_ms: 12 });
      line(response, { type: 'result', snapshot, build_ms: 1, boot_ms: 2, warm_ms: 3, snapshot_ms: 4 });
      response.end();
      return;
    }
    const found = this.snapshots.get(tag);
    if (found === undefined) throw new ApiError('not_found_snapshot', `there is no snapshot "${tag}"`);
    if (request.method === 'GET') return send(response, 200, found);
    const dependents = [...this.snapshots.values()].filter((other) => other.branched_from === tag);
    if (dependents.length > 0 && !url.searchParams.has('cascade') && !url.searchParams.has('force')) {
      throw new ApiError('has_dependents', `snapshot "${tag}" has dependents: ${dependents[0]?.tag}`);
    }
    this.snapshots.delete(tag);
    return sendNothing(response);
  }

  async #sandboxRoute(
    request: http.IncomingMessage,
    response: http.ServerResponse,
    url: URL,
    [id, verb, ...rest]: string[],
  ): Promise<void> {
    if (id === undefined && request.method === 'GET') return send(response, 200, [...this.sandboxes.values()]);
    if (id === undefined) {
      const body = (await this.#json(request)) as { snapshot_tag: string; n?: number };
      if (!this.snapshots.has(body.snapshot_tag)) {
        throw new ApiError('not_found_snapshot', `there is no snapshot "${body.snapshot_tag}"`);
      }
      const start = this.sandboxes.size;
      const infos = Array.from({ length: body.n ?? 1 }, (_, index) =>
        this.addSandbox(`sb-${String(start + index).padStart(10, '0')}`, body.snapshot_tag),
      );
      return send(response, 201, infos);
    }
    const info = this.sandboxes.get(id);
    if (info === undefined) throw new ApiError('not_found_sandbox', `there is no sandbox "${id}"`);
    if (verb === undefined && request.method === 'GET') return send(response, 200, info);
    if (verb === undefined) {
      this.sandboxes.delete(id);
      return sendNothing(response);
    }
    if (verb === 'ping') return send(response, 200, { pong: true, pid: 1 });
    if (verb === 'eval') {
      const { code } = (await this.#json(request)) as { code: string };
      if (code === 'raise') return send(response, 200, { result: null, error: 'Traceback: x', exit_code: 1 });
      return send(response, 200, { result: `'${code}'`, error: null, exit_code: 0 });
    }
    if (verb === 'branch') {
      const body = (await this.#json(request)) as { tag?: string };
      this.addSnapshot(body.tag ?? 'branch-x', { branched_from: id, pause_ms: 2.5, captured_bytes: 4096 });
      return send(response, 201, this.snapshots.get(body.tag ?? 'branch-x'));
    }
    if (verb === 'exec') {
      const { args } = (await this.#json(request)) as { args: string[] };
      const session = this.#start({ args: args.map((arg) => (arg.startsWith('/') ? this.guestPath(arg) : arg)) });
      await ended(session);
      return send(response, 200, { stdout: '', stderr: '', exit_code: session.exit?.exit_code });
    }
    if (verb === 'commands') return this.#commandRoute(request, response, url, rest);
    if (verb === 'files') return this.#fileRoute(request, response, url);
    if (verb === 'dir') return this.#dirRoute(response, url);
    throw new ApiError('not_found', `there is no ${request.method} ${url.pathname}`);
  }

  async #commandRoute(
    request: http.IncomingMessage,
    response: http.ServerResponse,
    url: URL,
    [cid, verb]: string[],
  ): Promise<void> {
    if (cid === undefined && request.method === 'GET') {
      return send(
        response,
        200,
        [...this.sessions].map(([id, session]) => commandInfo(id, session)),
      );
    }
    if (cid === undefined) {
      const body = (await this.#json(request)) as StartBody & { follow?: boolean };
      const session = this.#start(body);
      const id = String(this.#sessionCount);
      if (!body.follow) return send(response, 201, commandInfo(id, session));
      response.writeHead(201, { 'content-type': 'application/x-ndjson' });
      line(response, { type: 'started', id, pid: session.child.pid });
      return this.#follow(response, session, 0, true);
    }
    const session = this.sessions.get(cid);
    if (session === undefined) throw new ApiError('not_found_command', `there is no command "${cid}"`);
    if (verb === undefined && request.method === 'GET') return send(response, 200, commandInfo(cid, session));
    if (verb === 'output') {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const offset = Number(url.searchParams.get('offset') ?? 0);
      return this.#follow(response, session, offset, url.searchParams.get('follow') === 'true');
    }
    if (verb === 'stdin') {
      if (session.exit) throw new ApiError('command_ended', `command ${cid} has ended`);
      for await (const chunk of request) session.child.stdin?.write(chunk);
      if (url.searchParams.get('close') === 'true') session.child.stdin?.end();
      return sendNothing(response);
    }
    if (verb === 'signal') {
      const { signal } = (await this.#json(request)) as { signal: string };
      killGroup(session.child, `SIG${signal}` as NodeJS.Signals);
      return sendNothing(response);
    }
    killGroup(session.child, 'SIGKILL');
    this.sessions.delete(cid);
    return sendNothing(response);
  }

  #start(body: StartBody): Session {
    const [file = 'false', ...args] = body.args;
    const child = spawn(file, args, {
      stdio: [body.stdin ? 'pipe' : 'ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...body.env },
      // A group of its own, which a signal goes to as a whole, as in a guest.
      detached: true,
      ...(body.cwd ? { cwd: body.cwd } : {}),
    });
    const session: Session = { child, args: body.args, events: [], offset: 0, exit: undefined, watchers: new Set() };
    let timedOut = false;
    const timer = body.timeout_secs
      ? setTimeout(() => (timedOut = killGroup(child, 'SIGKILL')), body.timeout_secs * 1000)
      : undefined;
    const push = (type: 'stdout' | 'stderr') => (data: Buffer) => {
      session.events.push({ type, offset: session.offset, data: data.toString('base64') });
      session.offset += data.length;
      for (const watcher of session.watchers) watcher();
    };
    child.stdin?.on('error', () => {});
    child.stdout?.on('data', push('stdout'));
    child.stderr?.on('data', push('stderr'));
    child.once('error', () => finish(127, null));
    child.once('close', (code, signal) => finish(code, signal));
    const finish = (code: number | null, signal: NodeJS.Signals | null) => {
      clearTimeout(timer);
      const number = signal === null ? 0 : os.constants.signals[signal];
      const exitCode = signal === null ? (code ?? 127) : 128 + number;
      session.exit ??= { type: 'exit', exit_code: exitCode, signal: signal?.slice(3) ?? null, timed_out: timedOut };
      for (const watcher of session.watchers) watcher();
    };
    this.#sessionCount += 1;
    this.sessions.set(String(this.#sessionCount), session);
    return session;
  }

  async #follow(response: http.ServerResponse, session: Session, from: number, follows: boolean): Promise<void> {
    let next = 0;
    const flush = () => {
      for (; next < session.events.length; next += 1) {
        const event = session.events[next];
        if (event === undefined || !('data' in event)) continue;
        const data = Buffer.from(event.data, 'base64');
        const skip = Math.max(0, from - event.offset);
        if (skip < data.length) {
          line(response, { ...event, offset: event.offset + skip, data: data.subarray(skip).toString('base64') });
        }
      }
      if (session.exit && !response.writableEnded) line(response, session.exit);
      if (session.exit || !follows) response.end();
    };
    session.watchers.add(flush);
    response.once('close', () => session.watchers.delete(flush));
    flush();
  }

  async #fileRoute(request: http.IncomingMessage, response: http.ServerResponse, url: URL): Promise<void> {
    const file = this.guestPath(url.searchParams.get('path') ?? '');
    const missing = () => new ApiError('not_found_file', `there is no ${url.searchParams.get('path')}`);
    if (request.method === 'PUT') {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      await mkdir(path.dirname(file), { recursive: true });
      await writeFile(file, Buffer.concat(chunks), {
        mode: Number.parseInt(url.searchParams.get('mode') ?? '0644', 8),
      });
      return sendNothing(response);
    }
    if (request.method === 'DELETE') {
      await stat(file).catch(() => Promise.reject(missing()));
      await rm(file, { recursive: true });
      return sendNothing(response);
    }
    const data = await readFile(file).catch(() => Promise.reject(missing()));
    response.writeHead(200, { 'content-type': 'application/octet-stream' });
    response.end(data);
  }

  async #dirRoute(response: http.ServerResponse, url: URL): Promise<void> {
    const directory = this.guestPath(url.searchParams.get('path') ?? '');
    const found = await stat(directory).catch(() => undefined);
    if (found === undefined) throw new ApiError('not_found_file', 'there is none');
    if (!found.isDirectory()) throw new ApiError('not_a_directory', 'it is none');
    const entries = await readdir(directory, { withFileTypes: true });
    const list = entries.map(async (entry) => {
      const { size, mode, mtimeMs } = await stat(path.join(directory, entry.name));
      const type = entry.isDirectory() ? 'dir' : entry.isSymbolicLink() ? 'symlink' : 'file';
      return {
        name: entry.name,
        type,
        size,
        mode: (mode & 0o7777).toString(8),
        mtime_unix: Math.floor(mtimeMs / 1000),
      };
    });
    send(response, 200, await Promise.all(list));
  }

  async #json(request: http.IncomingMessage): Promise<unknown> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    this.seen.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body });
    return JSON.parse(body || '{}');
  }
}

type StartBody = { args: string[]; stdin?: boolean; env?: Record<string, string>; cwd?: string; timeout_secs?: number };

export function send(response: http.ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

export function line(response: http.ServerResponse, event: unknown): void {
  response.write(`${JSON.stringify(event)}\n`);
}

function sendNothing(response: http.ServerResponse): void {
  response.writeHead(204);
  response.end();
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): boolean {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return false;
  return process.kill(-child.pid, signal);
}

function ended(session: Session): Promise<void> {
  return new Promise((resolve) => {
    const watch = () => {
      if (session.exit) resolve();
    };
    session.watchers.add(watch);
    watch();
  });
}

function commandInfo(id: string, session: Session) {
  return {
    id,
    pid: session.child.pid ?? 0,
    args: session.args,
    running: session.exit === undefined,
    exit_code: session.exit?.exit_code ?? null,
    signal: session.exit?.signal ?? null,
    timed_out: session.exit?.timed_out ?? false,
    output_start: 0,
    output_end: session.offset,
    started_unix_ms: Date.now(),
  };
}

function hostInfo(dataDir: string) {
  return {
    hostname: 'fake',
    kernel: '6.18',
    cpus: 2,
    mem_bytes: 8 * 1024 ** 3,
    engine: { name: 'qemu', version: '7.2', accelerator: 'tcg', reason: 'no guest ran on kvm', live_unavailable: null },
    data_dir: dataDir,
    pid: process.pid,
    version: '9.9.9',
  };
}
