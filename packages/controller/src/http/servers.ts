import { chmod, mkdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';

import { ApiError } from '@forkd/api';
import { removeFile } from '@forkd/store';
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';

import { limits } from '../limits.ts';
import type { Options } from '../options.ts';
import { UsageError } from '../options.ts';
import { buildApp } from './app.ts';
import type { Services } from './services.ts';
import { Signals } from './signals.ts';
import type { Tokens } from './tokens.ts';

/** The listeners: a unix socket for the owner, and a TCP port. */
export class HttpServers {
  readonly #services: Services;
  readonly #tokens: Tokens | null;
  readonly #log: Logger;
  readonly #signals = new Signals();
  readonly #apps: FastifyInstance[] = [];
  #inFlight = 0;
  #lastMs = performance.now();

  constructor(services: Services, tokens: Tokens | null, log: Logger) {
    this.#services = services;
    this.#tokens = tokens;
    this.#log = log;
  }

  async listen({ socket, bind }: Options): Promise<void> {
    await clearSocket(socket);
    // Nobody else may connect in the moment between the socket's making and its chmod.
    const umask = process.umask(0o177);
    try {
      await this.#app('socket').listen({ path: socket });
    } finally {
      process.umask(umask);
    }
    await chmod(socket, 0o600);
    this.#log.info({ socket }, 'listening');
    if (bind === null) return;
    const address = await this.#app('tcp').listen(bind);
    this.#log.info({ address }, 'listening');
  }

  /** Since a request was last under way, or since `touch`. */
  idleMs(): number {
    return this.#inFlight > 0 ? 0 : performance.now() - this.#lastMs;
  }

  touch(): void {
    this.#lastMs = performance.now();
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
        if (this.#inFlight === 0) server.closeAllConnections();
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
      services: this.#services,
      tokens: this.#tokens,
      signals: this.#signals,
      log: this.#log,
      listener,
    });
    app.addHook('onRequest', (_request, reply, done) => {
      this.#inFlight += 1;
      reply.raw.once('close', () => {
        this.#inFlight -= 1;
        this.touch();
      });
      done();
    });
    app.addHook('onResponse', (request, reply, done) => {
      const { method, url } = request;
      this.#log.debug({ method, url, status: reply.statusCode, ms: Math.round(reply.elapsedTime) }, 'request');
      done();
    });
    this.#apps.push(app);
    return app;
  }
}

/** A socket that a killed controller left is removed; one that somebody answers on is not ours. */
async function clearSocket(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
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
