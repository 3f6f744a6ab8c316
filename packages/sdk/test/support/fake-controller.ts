// A controller that is a real HTTP server and whose guests are processes of this host: the wire is the wire, the output
// of a command is what a real process writes, and only the virtual machine is missing.
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import { join } from 'node:path';
import { ApiError, type SandboxInfo, type SnapshotInfo } from '@forkd/api';
import { FakeCommands } from './fake-commands.ts';
import { dirRoute, fileRoute, statRoute } from './fake-files.ts';
import { line, send, sendNothing } from './replies.ts';

export interface Seen {
  method: string;
  url: string;
  headers: http.IncomingHttpHeaders;
  body: string;
}

type Handler = (request: http.IncomingMessage, response: http.ServerResponse, url: URL) => void | Promise<void>;

export class FakeController {
  readonly sandboxes = new Map<string, SandboxInfo>();
  /** The sandboxes that ended lately. */
  readonly ended = new Map<string, SandboxInfo>();
  readonly snapshots = new Map<string, SnapshotInfo>();
  /** Every request with a body of JSON, for what a client has really sent. */
  readonly seen: Seen[] = [];
  /** Routes of one test, before all others: `GET /path`. */
  readonly overrides = new Map<string, Handler>();
  root = '';
  socket = '';
  url = '';
  token: string | undefined;
  #servers: http.Server[] = [];
  readonly #commands = new FakeCommands((request) => this.#json(request));

  static async start(): Promise<FakeController> {
    const fake = new FakeController();
    fake.root = await mkdtemp(join(os.tmpdir(), 'forkd-fake-'));
    fake.socket = join(fake.root, 'controller.sock');
    await mkdir(join(fake.root, 'guest'));
    const onSocket = http.createServer((request, response) => void fake.#answer(request, response));
    const onTcp = http.createServer((request, response) => void fake.#answer(request, response));
    fake.#servers = [onSocket, onTcp];
    await new Promise<void>((resolve) => onSocket.listen(fake.socket, resolve));
    await new Promise<void>((resolve) => onTcp.listen(0, '127.0.0.1', resolve));
    fake.url = `http://127.0.0.1:${(onTcp.address() as AddressInfo).port}`;
    return fake;
  }

  async stop(): Promise<void> {
    this.#commands.killAll();
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

  get sessions(): FakeCommands['sessions'] {
    return this.#commands.sessions;
  }

  guestPath(inGuest: string): string {
    return join(this.root, 'guest', inGuest);
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
    for (const one of url.searchParams.has('cascade') ? this.#withDescendants(tag) : [tag]) this.snapshots.delete(one);
    return sendNothing(response);
  }

  #withDescendants(tag: string): string[] {
    const children = [...this.snapshots.values()].filter((other) => other.branched_from === tag);
    return [tag, ...children.flatMap((child) => this.#withDescendants(child.tag))];
  }

  async #sandboxRoute(
    request: http.IncomingMessage,
    response: http.ServerResponse,
    url: URL,
    [id, verb, ...rest]: string[],
  ): Promise<void> {
    if (id === undefined && request.method === 'GET') {
      const tag = url.searchParams.get('snapshot_tag');
      const isEnded = url.searchParams.get('state') === 'ended';
      const all = [...(isEnded ? this.ended : this.sandboxes).values()];
      return send(response, 200, tag === null ? all : all.filter((info) => info.snapshot_tag === tag));
    }
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
      this.addSnapshot(body.tag ?? 'branch-x', {
        branched_from: id,
        pause_ms: 3,
        pause_us: 2500,
        captured_bytes: 4096,
      });
      return send(response, 201, this.snapshots.get(body.tag ?? 'branch-x'));
    }
    if (verb === 'exec') {
      const { args } = (await this.#json(request)) as { args: string[] };
      const local = args.map((arg) => (arg.startsWith('/') ? this.guestPath(arg) : arg));
      return send(response, 200, { stdout: '', stderr: '', exit_code: await this.#commands.run(local) });
    }
    if (verb === 'commands') return this.#commands.route(request, response, url, rest);
    const inGuest = this.guestPath(url.searchParams.get('path') ?? '');
    if (verb === 'files') return fileRoute(request, response, url, inGuest);
    if (verb === 'dir' && request.method === 'PUT') {
      await mkdir(inGuest, { recursive: true });
      return sendNothing(response);
    }
    if (verb === 'dir') return dirRoute(response, inGuest);
    if (verb === 'stat') return statRoute(response, url, inGuest);
    if (verb === 'rename') {
      const { from, to } = (await this.#json(request)) as { from: string; to: string };
      await rename(this.guestPath(from), this.guestPath(to));
      return sendNothing(response);
    }
    throw new ApiError('not_found', `there is no ${request.method} ${url.pathname}`);
  }

  async #json(request: http.IncomingMessage): Promise<unknown> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    this.seen.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body });
    return JSON.parse(body || '{}');
  }
}

function hostInfo(dataDir: string) {
  return {
    hostname: 'fake',
    kernel: '6.18',
    cpus: 2,
    mem_bytes: 8 * 1024 ** 3,
    engine: {
      name: 'qemu',
      version: '7.2',
      accelerator: 'tcg',
      reason: 'no guest ran on kvm',
      live_unavailable: null,
      capabilities: [
        { id: 'live', ok: true, why: null },
        { id: 'pool', ok: false, why: 'The pool may hold no VMMs, as it was configured.' },
      ],
      isolation: [{ id: 'own_user', ok: false, detail: 'It needs root, with CAP_SETUID.' }],
    },
    layers: {
      budget_bytes: 512 * 1024 ** 2,
      mapped_bytes: 100 * 1024 ** 2,
      unmapped_bytes: 20 * 1024 ** 2,
      pending_bytes: 0,
      view_bytes: 0,
      layers: 3,
      let_go: 2,
      loaded_again: 1,
      merged: 0,
      merged_in_forks: 0,
      merged_in_forks_ms: 0,
    },
    data_dir: dataDir,
    pid: process.pid,
    version: '9.9.9',
  };
}
