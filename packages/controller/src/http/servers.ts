import { lookup } from 'node:dns/promises';
import { chmod, mkdir, stat } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { connect, isIPv6 } from 'node:net';
import { dirname } from 'node:path';

import { ApiError } from '@forkd/api';
import { removeFile } from '@forkd/store';
import type { FastifyInstance } from 'fastify';

import { limits } from '../limits.ts';
import type { Options } from '../options.ts';
import { isLoopback, UsageError } from '../options.ts';
import type { Edge } from './app-parts.ts';
import { buildApp } from './app.ts';
import type { Services } from './services.ts';
import { Signals } from './signals.ts';
import { Traffic } from './traffic.ts';

/** The listeners: a unix socket for the owner, and a TCP port. */
export class HttpServers {
  readonly #services: Services;
  readonly #edge: Edge;
  readonly #signals = new Signals();
  readonly #traffic = new Traffic();
  readonly #apps: FastifyInstance[] = [];

  constructor(services: Services, edge: Edge) {
    this.#services = services;
    this.#edge = edge;
  }

  async listen({ socket, bind }: Pick<Options, 'socket' | 'bind'>): Promise<void> {
    const { log, tls } = this.#edge;
    await clearSocket(socket);
    // Nobody else may connect in the moment between the socket's making and its chmod.
    const umask = process.umask(0o177);
    try {
      await this.#app('socket').listen({ path: socket });
    } finally {
      process.umask(umask);
    }
    await chmod(socket, 0o600);
    log.info({ socket }, 'listening');
    if (bind === null) return;
    if (tls === null && !isLoopback(bind.host)) {
      log.warn({ host: bind.host }, 'the port has no TLS: tokens can be read on their way to it');
    }
    // A name may stand for several addresses: 'localhost' does.
    for (const { address: host } of await lookup(bind.host, { all: true })) {
      const app = this.#app('tcp');
      await app.listen({ host, port: bind.port });
      const { port } = app.server.address() as AddressInfo;
      const authority = `${isIPv6(host) ? `[${host}]` : host}:${port}`;
      log.info({ address: `${tls === null ? 'http' : 'https'}://${authority}` }, 'listening');
    }
  }

  /** Since a request was last under way, or since `touch`. */
  idleMs(): number {
    return this.#traffic.idleMs();
  }

  touch(): void {
    this.#traffic.touch();
  }

  /** Takes no more requests and waits for those under way, for a bounded time. Streams end at once. */
  async close(): Promise<void> {
    const reason = new ApiError('shutting_down', 'The controller is ending.');
    this.#signals.drain(reason);
    const timer = setTimeout(() => this.#signals.cut(reason), limits.drainMs);
    // A connection whose last reply goes out now would be kept alive for its next request, and one that has never had a
    // request does not count as idle.
    const sweep = setInterval(() => {
      for (const { server } of this.#apps) {
        if (this.#traffic.inFlight === 0) server.closeAllConnections();
        else server.closeIdleConnections();
      }
    }, limits.drainSweepMs);
    try {
      await Promise.all(this.#apps.map((app) => app.close()));
    } finally {
      clearTimeout(timer);
      clearInterval(sweep);
    }
  }

  #app(listener: 'socket' | 'tcp'): FastifyInstance {
    const app = buildApp({
      ...this.#edge,
      services: this.#services,
      signals: this.#signals,
      traffic: this.#traffic,
      listener,
    });
    this.#apps.push(app);
    return app;
  }
}

/** A socket that a killed controller left is removed; one that somebody answers on is not ours. */
async function clearSocket(path: string): Promise<void> {
  const dir = dirname(path);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const { mode } = await stat(dir);
  // The socket's own mode says who may connect to it, and nothing about who may put another in its place.
  if ((mode & 0o022) !== 0 && (mode & 0o1000) === 0) {
    throw new UsageError(`--socket '${path}': others can write to its directory; chmod go-w mends that.`);
  }
  const answered = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
  if (answered) throw new UsageError(`Another program listens on ${path}. Give --socket another path.`);
  await removeFile(path);
}
